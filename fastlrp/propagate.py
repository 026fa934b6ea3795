"""The engine: runs every rule on every layer, from the end of a trace to its beginning.

A linear layer's rule is data (rules.py): readings of the input, a part of the weights, quotients. The engine turns
them into products, the same for the compiled kernels and for the NumPy twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import Graph, Trace
from .layers import Layer, WeightedLayer
from .layers.pool import Maxima, Sums
from .reference import Array, Operand, weight_part
from .rules import (
    AlphaBeta,
    Convention,
    Epsilon,
    Gamma,
    GammaSimple,
    Gradient,
    LinearRule,
    Norm,
    Pass,
    PositiveGradient,
    Rule,
    SmoothGradient,
    ZBox,
)

Bounds = tuple[Array, Array]

# ZBox's denominators come from z by a difference whose terms may be this many times larger: two bits.
MOST_CANCELLED = 4


@dataclass(frozen=True)
class Plan:
    """What a propagation needs beyond the trace: one rule a layer, the convention, mean inputs to subtract."""

    rules: Sequence[Rule]
    convention: Convention
    bounds: Mapping[int, Bounds]  # ZBox's, by node, in the shape of the layer's input
    nonnegative: tuple[Sequence[bool], Sequence[bool]]  # for each value: sure to be so for any input, for one that is
    pools: Mapping[int, Layer]  # by node, the convolution that a sum pool with a linear layer's rule is
    sign_matters: bool  # whether a non-negative input spares work, where no means are subtracted
    means: Sequence[Array] | None = None  # mean of each value over the reference
    reached: dict[int, list[bool]] = field(default_factory=dict)  # see has_relevance
    # see _box_constant
    constants: dict[tuple[Any, ...], tuple[Array, Array | None, Array | None]] = field(default_factory=dict)

    @property
    def asks_sign(self) -> bool:
        """Whether work is spared for non-negative inputs: decided sample by sample, whatever the neighbours are."""
        return self.sign_matters and self.means is None


def make_plan(graph: Graph, rules: Sequence[Rule], convention: Convention) -> Plan:
    """Check that every node's rule fits its layer, and prepare what depends on the graph alone."""
    pools: dict[int, Layer] = {}
    if convention.pools_as_convolutions:
        rules = [_of_sum(node.layer, rule, convention) for node, rule in zip(graph.nodes, rules, strict=True)]
        pools = {i: node.layer.as_convolution(graph.ops.dtype) for i, node in enumerate(graph.nodes)
                 if isinstance(node.layer, Sums) and node.layer.even and isinstance(rules[i], LinearRule)}
    for i, (node, rule) in enumerate(zip(graph.nodes, rules, strict=True)):
        if not _applies(pools.get(i, node.layer), rule):
            raise ValueError(f"rule {rule} does not apply to layer {node.name!r} ({node.layer!r})")
    bounds = {i: _box_bounds(graph, i, rule) for i, rule in enumerate(rules) if isinstance(rule, ZBox)}
    surely, given = graph.nonnegative(False), graph.nonnegative(True)
    asks = any(getattr(rule, "reads", "") == "sign" and surely[node.inputs[0]] != given[node.inputs[0]]
               for rule, node in zip(rules, graph.nodes, strict=True))
    return Plan(rules, convention, bounds, (surely, given), pools, asks)


def _of_sum(layer: Layer, rule: Rule, convention: Convention) -> Rule:
    """A sum pool's Norm or Epsilon with its own stabiliser, as the rule of a convolution."""
    if not isinstance(layer, Sums) or not layer.even or not isinstance(rule, (Norm, Epsilon)):
        return rule
    return Epsilon(convention.sum_epsilon if rule.epsilon is None else rule.epsilon)


def _applies(layer: Layer, rule: Rule) -> bool:
    if isinstance(rule, Gradient):
        return True
    if isinstance(layer, WeightedLayer):
        return isinstance(rule, LinearRule)
    if layer.role in ("sum", "affine"):
        return isinstance(rule, (Norm, Epsilon))
    return isinstance(rule, (Pass, PositiveGradient, SmoothGradient) if layer.role == "activation" else Pass)


def run_forward(graph: Graph, plan: Plan, inputs: Sequence[Array], ops: Any, start: int, nonnegative: bool) -> Trace:
    """A trace for `propagate` from value `start`: where a rule needs both p and q, the layer's output is made of them;
    where it divides by the output as it comes, that is as exact as its own terms allow."""
    trace, gated = Trace(list(inputs), [], ops), _gated(graph, plan, start)
    for i, node in enumerate(graph.nodes[:start + 1 - graph.first]):
        if isinstance(plan.rules[i], LinearRule) and isinstance(node.layer, WeightedLayer) and plan.means is None:
            step = _Linear(ops, node.layer, plan, i, gated[graph.first + i])
            value, kept = step.forward(node.reads(trace.values), plan.nonnegative[nonnegative][node.inputs[0]])
        else:
            value, kept = node.forward(ops, trace.values)
        trace.values.append(value)
        trace.kept.append(kept)
    return trace


def propagate(graph: Graph, trace: Trace, plan: Plan, relevance: Array, start: int, nonnegative: bool = False,
              visit: Callable[[int, Array, Sequence[Any]], None] | None = None) -> list[Any]:
    """Relevance of each input from that of value `start`; None where none reaches it.

    A value's relevance is the sum over the nodes that read it. nonnegative: the whole input is known to be so.
    visit(i, R, parts), if given, sees the relevance of each node's value i and what the node hands to its inputs.
    """
    run = _Run(graph, trace, plan, start, nonnegative)
    pending: list[Any] = [None] * (start + 1)
    pending[start] = relevance
    for value in range(start, graph.first - 1, -1):
        if pending[value] is None:
            continue  # nothing that is explained depends on it
        node = graph.nodes[value - graph.first]
        parts = run.step(value - graph.first, pending[value])
        if visit:
            visit(value, pending[value], parts)
        pending[value] = None
        for i, part in zip(node.inputs, parts, strict=True):
            if part is not None:
                pending[i] = part if pending[i] is None else trace.ops.add(pending[i], part)
    return pending[:graph.first]


class _Run:
    """One trace and one plan: takes relevance down through one node at a time."""

    def __init__(self, graph: Graph, trace: Trace, plan: Plan, start: int, nonnegative: bool):
        self.graph, self.ops, self.trace, self.plan = graph, trace.ops, trace, plan
        self.nonnegative = plan.nonnegative[nonnegative]
        self.gated = _gated(graph, plan, start)

    def step(self, index: int, relevance: Array) -> Sequence[Any]:
        """From the relevance of node `index`'s output to that of its inputs; None: none at all."""
        node, rule = self.graph.nodes[index], self.plan.rules[index]
        if node.layer.role == "gate" and isinstance(rule, Pass):
            return relevance, None
        return node.parts(self._back(index, node.reads(self.trace.values), relevance))

    def _back(self, index: int, x: Any, relevance: Array) -> Any:
        layer, rule = self.graph.nodes[index].layer, self.plan.rules[index]
        if isinstance(rule, LinearRule) and isinstance(layer, WeightedLayer):
            return self._weighted(index, x, relevance)
        if index in self.plan.pools:
            nonnegative = self.nonnegative[self.graph.nodes[index].inputs[0]]
            return _Linear(self.ops, self.plan.pools[index], self.plan, index)(x, None, relevance, nonnegative)
        if isinstance(rule, (Norm, Epsilon)):
            return self._sum(index, x, relevance)
        if isinstance(rule, SmoothGradient):
            # The slope of a softplus is the sigmoid.
            return self.ops.activation_backward("softplus", self.ops.affine(x, times=rule.beta), relevance)
        if isinstance(rule, PositiveGradient) and not rule.gate:
            return self.ops.activation("relu", relevance)
        if isinstance(rule, Pass) and layer.role != "route":
            return relevance
        if isinstance(rule, Pass) and isinstance(layer, Maxima) and self.plan.convention.ties_share:
            return self.ops.max_pool_share(layer.window, relevance, x, self.trace.values[self.graph.first + index])
        back = layer.backward(self.ops, relevance, x, self.trace.kept[index])
        return self.ops.activation("relu", back) if isinstance(rule, PositiveGradient) else back

    def _sum(self, index: int, x: Any, relevance: Array) -> Any:
        """Norm: R_i = x_i Σ_j w_ij R_j / s_ε(y_j), w what the layer multiplies its inputs by."""
        convention, rule, layer = self.plan.convention, self.plan.rules[index], self.graph.nodes[index].layer
        assert isinstance(rule, (Norm, Epsilon))  # make_plan has checked
        if layer.role == "affine" and isinstance(rule, Norm) and convention.affine_passes:
            return relevance
        epsilon = convention.sum_epsilon if rule.epsilon is None else rule.epsilon
        quotients = self.ops.ratio_map(self.trace.values[self.graph.first + index], None,
                                       (relevance, epsilon, 1.0, convention.signed))
        return layer.norm(self.ops, quotients, x)

    def _weighted(self, index: int, x: Array, relevance: Array) -> Array:
        source, value = self.graph.nodes[index].inputs[0], self.graph.first + index
        layer = self.graph.nodes[index].layer
        assert isinstance(layer, WeightedLayer)
        z: Array | None = self.trace.values[value]
        nonnegative = self.nonnegative[source]
        if self.plan.means is not None:
            # The layer maps the difference x − mean to z − mean(z): the bias cancels.
            x, z, nonnegative = self.ops.affine(x, minus=self.plan.means[source]), None, False
        return _Linear(self.ops, layer, self.plan, index, self.gated[value], self.trace.kept[index])(
            x, z, relevance, nonnegative)


def has_relevance(graph: Graph, plan: Plan, start: int) -> list[bool]:
    """For each value up to `start`, whether relevance reaches it: found once per plan and start."""
    if start not in plan.reached:
        plan.reached[start] = [state is not None for state in _states(graph, plan, start)]
    return plan.reached[start]


def _gated(graph: Graph, plan: Plan, start: int) -> list[bool]:
    """For each value, whether its relevance is zero wherever the value is not positive."""
    return [state == GATED for state in _states(graph, plan, start)]


# What is known of a value's relevance: nothing; that it is zero where the value is zero; where it is <= 0.
FREE, ZERO, GATED = range(3)


def _states(graph: Graph, plan: Plan, start: int) -> list[int | None]:
    """What the rules above each value leave of its relevance; None: none reaches it.

    A rule that multiplies by the input leaves none where that is zero; a ReLU's output is zero where its input is
    not positive. A value that several nodes read has what holds for all of them.
    """
    states: list[int | None] = [None] * (start + 1)
    states[start] = FREE
    for value in range(start, graph.first - 1, -1):
        node, rule, above = graph.nodes[value - graph.first], plan.rules[value - graph.first], states[value]
        if above is None:
            continue
        if plan.means is not None or node.layer.role == "affine":
            below = FREE
        elif isinstance(rule, (LinearRule, Norm)):
            below = ZERO if getattr(rule, "reads", "plain") in ("plain", "sign") else FREE
        elif node.layer.gates:
            below = GATED if above > FREE or isinstance(rule, Gradient) else FREE
        elif node.layer.role == "gate":
            below = min(above, ZERO) if isinstance(rule, Pass) else FREE
        else:
            below = above if isinstance(rule, Pass) and (node.layer.role == "route" or node.layer.transparent) else FREE
        for i in node.inputs[:1] if node.layer.role == "gate" and isinstance(rule, Pass) else node.inputs:
            states[i] = below if (before := states[i]) is None else min(before, below)
    return states


class _Linear:
    """One linear layer's rule. gated: relevance is zero where z is not positive; sums: what `forward` kept."""

    def __init__(self, ops: Any, layer: Any, plan: Plan, index: int, gated: bool = False, sums: Any = None):
        self.ops, self.layer, self.convention, self.gated, self.sums = ops, layer, plan.convention, gated, sums
        rule: Any = plan.rules[index]
        self.rule, self.index = rule, index
        self.box, self.constants = plan.bounds.get(index), plan.constants
        uses_bias = rule.bias and plan.convention.bias and plan.means is None
        self.bias = layer.bias if uses_bias else None

    def forward(self, x: Array, nonnegative: bool) -> tuple[Array, Any]:
        """The layer's output as the rule has use for it; for x ≥ 0 as p + q with their biases where it takes both."""
        both = len(self.rule.terms) > 1 and (self.layer.bias is None or self.bias is not None)
        if isinstance(self.rule, AlphaBeta) and nonnegative and both:
            read: list[Operand] = [(x, "plain", None)]
            p = self._sum("p", read, bias=self._bias("+"), direct=True)
            q = self._sum("q", read, bias=self._bias("-"), direct=True)
            return self.ops.add(p, q), {"p": p, "q": q}
        if self.rule.reads == "plain" and not self.is_bounded():
            return self.ops.product(self.layer, ("w",), [(x, "plain", None)], bias=self.layer.bias, direct=True), None
        return self.layer.forward(self.ops, x)

    def __call__(self, x: Array, z: Array | None, relevance: Array, nonnegative: bool) -> Array:
        if self.rule.reads == "one":
            return self._constant(relevance)
        if self.rule.reads == "plain":
            return self._plain(self.rule.part, x, z, relevance)
        if self.rule.reads == "box":
            return self._box(x, z, relevance)
        if nonnegative and self.gated and isinstance(self.rule, Gamma):
            return self._plain(("raised", self.rule.gamma), x, z, relevance)  # only z > 0 counts
        if nonnegative:
            return self._signed([(x, "plain", None)], z, relevance)
        return self._signed([(x, "positive", None), (x, "negative", None)], z, relevance)

    def is_bounded(self) -> bool:
        """Whether the quotient of the rule's one sum is at most relevance over z, which a ReLU keeps within bounds: its
        relevance is its output times something. Else quotients may be as large as 1/ε beside their neighbours."""
        biased = self.layer.bias is None or self.bias is not None
        return self.gated and biased and not (isinstance(self.rule, GammaSimple) and self.rule.gamma > 1)

    def _ratio(self, relevance: Array, coefficient: float) -> tuple[Array, float, float, bool]:
        return relevance, self.rule.epsilon_in(self.convention), coefficient, self.convention.signed

    def _coefficient(self) -> float:
        """Of the first of the rule's terms: the only one where there is one sum."""
        return self.rule.terms[0][1]

    def _bias(self, part: Any) -> Array | None:
        return None if self.bias is None else weight_part(self.bias, part)

    def _constant(self, relevance: Array) -> Array:
        """Denominators that do not depend on x: computed once per layer and weights."""
        part, layer = self.rule.part, self.layer
        if part == "one" and self.bias is None and layer.geometry.groups < layer.out:
            # A group's outputs share their denominators and their weights: all they have to hand on is their sum.
            relevance = self.ops.group_sum(relevance, layer.geometry.groups)
            layer = layer.packed(("of ones",), lambda layer, _: layer.of_ones())

        def denominators(layer: WeightedLayer, key: tuple[Any, ...]) -> Array:
            ones = np.ones((1, *layer.in_shape), self.ops.dtype)
            return self.ops.product(layer, (part,), [(ones, "plain", None)])

        sums = layer.packed((self.ops.key, "constant", part), denominators)
        a = self.ops.ratio_map(sums, self._bias(part), self._ratio(relevance, self._coefficient()))
        return self.ops.product_back(layer, [(a, "plain", None)], [((part,), None)])

    def _plain(self, part: Any, x: Array, z: Array | None, relevance: Array) -> Array:
        """One part of the weights on the input as it is."""
        ratio, biased = self._ratio(relevance, self._coefficient()), self.layer.bias is not None
        if part == "w" and z is not None and (not biased or self.bias is not None):
            a = self.ops.ratio_map(z, None, ratio)  # the forward pass has the sums
        else:
            a = self.ops.product(self.layer, (part,), [(x, "plain", None)], bias=self._bias(part), ratio=ratio,
                                 direct=not self.is_bounded())
        return self.ops.product_back(self.layer, [(a, "plain", None)], [((part,), (x, "plain", None))],
                                     direct=not self.is_bounded())

    def _box(self, x: Array, z: Array | None, relevance: Array) -> Array:
        """(x − l)W⁺ + (x − h)W⁻ = z − b − (lW⁺ + hW⁻): where the forward pass has z, only a constant is missing."""
        assert self.box is not None  # make_plan gives every ZBox its bounds
        low, high = self.box
        reads: list[Operand] = [(x, "shifted", low), (x, "shifted", high)]
        single = len(self.rule.terms) == 1 and self.rule.terms[0][0] == "p"
        # At lower precisions the difference could be negative.
        exact = self.ops.precision == "highest"
        constant = self._box_constant(low, high) if single and exact and z is not None else None
        if z is None or constant is None:
            return self._back(self._quotients(reads, relevance), reads)
        a = self.ops.ratio_map(z, constant, self._ratio(relevance, self._coefficient()))
        return self._back([("p", a)], reads)

    def _box_constant(self, low: Array, high: Array) -> Array | None:
        """−b − (lW⁺ + hW⁻) for every output, or None where it is so large that the difference would lose digits.

        Computed once per plan and weights.
        """
        layer, parts = self.layer, ("+", "-")
        weight, own_bias = layer.weight, layer.bias  # of one time: another thread may assign new ones
        key = (self.index, self.ops.key)
        kept = self.constants.get(key)
        if kept is not None and kept[0] is weight and kept[1] is own_bias:
            return kept[2]
        total = self.ops.product(layer, parts, [(low[None], "plain", None), (high[None], "plain", None)],
                                 bias=own_bias)
        span = (high - low)[None]
        reach = self.ops.product(layer, parts, [(span, "plain", None), (-span, "plain", None)])
        precise = bool((np.abs(total) <= MOST_CANCELLED * reach).all())
        constant = -total[0] if precise else None
        self.constants[key] = (weight, own_bias, constant)
        return constant

    def _signed(self, reads: list[Operand], z: Array | None, relevance: Array) -> Array:
        """The canonical form: reads are x⁺ and x⁻ (x alone where it is non-negative), or x − low and x − high."""
        maps = self._gamma(reads, z, relevance) if isinstance(self.rule, Gamma) else self._quotients(reads, relevance)
        return self._back(maps, reads)

    def _back(self, maps: list[tuple[str, Array]], reads: list[Operand]) -> Array:
        """x⁺·(W⁺ᵀA + W⁻ᵀB) + x⁻·(W⁻ᵀA + W⁺ᵀB): maps are A ("p") and B ("q"), one side for each reading."""
        sides = [(tuple(own if term == "p" else other for term, _ in maps), factor)
                 for factor, own, other in zip(reads, "+-", "-+", strict=False)]
        return self.ops.product_back(self.layer, [(a, "plain", None) for _, a in maps], sides,
                                     direct=len(maps) > 1 or self.box is not None or not self.is_bounded())

    def _sum(self, term: str, reads: list[Operand], **end: Any) -> Array:
        """p = x⁺W⁺ + x⁻W⁻ or q = x⁺W⁻ + x⁻W⁺."""
        parts, sign = (("+", "-"), 1) if term == "p" else (("-", "+"), -1)
        return self.ops.product(self.layer, parts[:len(reads)], reads, sign=0 if self.box else sign, **end)

    def _quotients(self, reads: list[Operand], relevance: Array) -> list[tuple[str, Array]]:
        ratios = [(term, self._ratio(relevance, coefficient)) for term, coefficient in self.rule.terms]
        if self.sums is not None:
            return [(term, self.ops.ratio_map(self.sums[term], None, ratio)) for term, ratio in ratios]
        direct = len(ratios) > 1 or not self.is_bounded()
        return [(term, self._sum(term, reads, bias=self._bias("+" if term == "p" else "-"), ratio=ratio, direct=direct))
                for term, ratio in ratios]

    def _gamma(self, reads: list[Operand], z: Array | None, relevance: Array) -> list[tuple[str, Array]]:
        p, q = self._sum("p", reads, direct=True), self._sum("q", reads, direct=True)
        z = self.ops.add(p, q) if z is None else z
        a, b = self.ops.gamma_map(p, q, z, self.bias, self.rule.gamma, self._ratio(relevance, 1.0))
        return [("p", a), ("q", b)]


def _box_bounds(graph: Graph, index: int, rule: ZBox) -> Bounds:
    """ZBox's bounds: given, else implied by Format or Normalize, else −1 and 1."""
    low, high = (rule.low, rule.high) if rule.low is not None else graph.input_bounds(index) or (-1.0, 1.0)
    low, high = _bound(graph, index, low, "low"), _bound(graph, index, high, "high")
    if not (low <= high).all():
        raise ValueError("low must not be above high in ZBox's bounds")
    return low, high


def _bound(graph: Graph, index: int, value: Any, name: str) -> Array:
    """A number, one value per channel, or an array of the input's shape as users see it, in the layer's shape inside.

    Before a Flatten, channels and shapes are the image's.
    """
    value, own = np.asarray(value, graph.ops.dtype), graph.nodes[index].inputs[0]
    origin = graph.origin(own)
    for source in (own, *(() if origin is None else origin[:1])):
        shape, seen = graph.shapes[source], graph.surface_shape(source)
        if np.prod(shape) != np.prod(graph.shapes[own]) or value.shape not in ((), shape[-1:], seen):
            continue
        if value.ndim > 1 or value.shape == seen:
            full = graph.to_inside(source, value[None])[0]
        else:
            full = np.ascontiguousarray(np.broadcast_to(value, shape))
        if source != own and not graph.spatial[own]:
            full = graph.to_surface(source, full[None])[0]  # which is the order of what is flattened
        return full.reshape(graph.shapes[own])
    raise ValueError(f"{name} must be a number, one value per channel, or of the input's shape "
                     f"{graph.surface_shape(own)}, got shape {value.shape}")
