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
from .layers import Layer, ReLU, SumPool2d, WeightedLayer
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
    means: Sequence[Array] | None = None  # mean of each value over the reference
    # see _box_constant
    constants: dict[tuple[Any, ...], tuple[Array, Array | None, Array | None]] = field(default_factory=dict)


    def asks_sign(self) -> bool:
        """Whether a non-negative input spares work: decided sample by sample, whatever the neighbours are."""
        return self.means is None and any(
            getattr(rule, "reads", "") == "sign" and any_input != if_so
            for rule, any_input, if_so in zip(self.rules, *self.nonnegative, strict=False))


def make_plan(graph: Graph, rules: Sequence[Rule], convention: Convention) -> Plan:
    """Check that every rule fits its layer, and prepare what depends on the graph alone."""
    for layer, rule in zip(graph.layers, rules, strict=True):
        if not _applies(layer, rule):
            raise ValueError(f"rule {rule} does not apply to layer {layer.name!r} ({layer!r})")
    bounds = {i: _box_bounds(graph, i, rule) for i, rule in enumerate(rules) if isinstance(rule, ZBox)}
    return Plan(rules, convention, bounds, (graph.nonnegative(False), graph.nonnegative(True)))


def _applies(layer: Layer, rule: Rule) -> bool:
    if isinstance(rule, Gradient):
        return True
    if isinstance(layer, WeightedLayer):
        return isinstance(rule, LinearRule)
    if layer.role == "sum":
        return isinstance(rule, (Norm, Epsilon))
    return isinstance(rule, (Pass, PositiveGradient, SmoothGradient) if layer.role == "activation" else Pass)


def run_forward(graph: Graph, plan: Plan, x: Array, ops: Any, start: int, nonnegative: bool) -> Trace:
    """A trace for `propagate` from value `start`: where a rule needs both p and q, the layer's output is made of them;
    where it divides by the output as it comes, that is as exact as its own terms allow."""
    trace, gated = Trace([x], [], ops), _gated(graph, plan, start)
    for i, node in enumerate(graph.nodes[:start]):
        layer, value = node.layer, trace.values[node.inputs[0]]
        if isinstance(plan.rules[i], LinearRule) and isinstance(layer, WeightedLayer) and plan.means is None:
            step = _Linear(ops, layer, plan, i, gated[i + 1])
            value, kept = step.forward(value, plan.nonnegative[nonnegative][node.inputs[0]])
        else:
            value, kept = layer.forward(ops, value)
        trace.values.append(value)
        trace.kept.append(kept)
    return trace


def propagate(graph: Graph, trace: Trace, plan: Plan, relevance: Array, start: int, nonnegative: bool = False,
              visit: Callable[[int, Array], None] | None = None) -> Array:
    """Relevance of the input from that of value `start`.

    nonnegative: the whole input is known to be so. visit(i, R), if given, sees the relevance of each value i on the
    way, value `start` first.
    """
    run = _Run(graph, trace, plan, start, nonnegative)
    pending: list[Any] = [None] * (start + 1)
    pending[start] = relevance
    for i in range(start, 0, -1):
        if visit:
            visit(i, pending[i])
        pending[graph.nodes[i - 1].inputs[0]] = run.step(i - 1, pending[i])
        pending[i] = None
    if visit:
        visit(0, pending[0])
    return pending[0]


class _Run:
    """One trace and one plan: takes relevance down through one node at a time."""

    def __init__(self, graph: Graph, trace: Trace, plan: Plan, start: int, nonnegative: bool):
        self.graph, self.ops, self.trace, self.plan = graph, trace.ops, trace, plan
        self.nonnegative = plan.nonnegative[nonnegative]
        self.gated = _gated(graph, plan, start)

    def step(self, index: int, relevance: Array) -> Array:
        """From the relevance of node `index`'s output to that of its input."""
        node, rule = self.graph.nodes[index], self.plan.rules[index]
        layer, x = node.layer, self.trace.values[node.inputs[0]]
        if isinstance(rule, LinearRule) and isinstance(layer, WeightedLayer):
            return self._weighted(index, x, relevance)
        if isinstance(rule, (Norm, Epsilon)):
            return self._sum(index, x, relevance)
        if isinstance(rule, SmoothGradient):
            # The slope of a softplus is the sigmoid.
            return self.ops.activation_backward("softplus", self.ops.affine(x, times=rule.beta), relevance)
        if isinstance(rule, PositiveGradient) and not rule.gate:
            return self.ops.activation("relu", relevance)
        if isinstance(rule, Pass) and layer.role != "route":
            return relevance
        back = layer.backward(self.ops, relevance, x, self.trace.kept[index])
        return self.ops.activation("relu", back) if isinstance(rule, PositiveGradient) else back

    def _sum(self, index: int, x: Array, relevance: Array) -> Array:
        """Norm: R_i = x_i Σ_j s R_j / s_ε(y_j), s the pool's scale."""
        convention, rule, pool = self.plan.convention, self.plan.rules[index], self.graph.nodes[index].layer
        assert isinstance(rule, (Norm, Epsilon)) and isinstance(pool, SumPool2d)  # make_plan has checked
        epsilon = convention.sum_epsilon if rule.epsilon is None else rule.epsilon
        quotients = self.ops.ratio_map(self.trace.values[index + 1], None,
                                       (relevance, epsilon, 1.0, convention.signed))
        return pool.norm(self.ops, quotients, x)

    def _weighted(self, index: int, x: Array, relevance: Array) -> Array:
        source, layer = self.graph.nodes[index].inputs[0], self.graph.nodes[index].layer
        assert isinstance(layer, WeightedLayer)
        z: Array | None = self.trace.values[index + 1]
        nonnegative = self.nonnegative[source]
        if self.plan.means is not None:
            # The layer maps the difference x − mean to z − mean(z): the bias cancels.
            x, z, nonnegative = self.ops.affine(x, minus=self.plan.means[source]), None, False
        return _Linear(self.ops, layer, self.plan, index, self.gated[index + 1], self.trace.kept[index])(
            x, z, relevance, nonnegative)


def _gated(graph: Graph, plan: Plan, start: int) -> list[bool]:
    """For each value, whether its relevance is zero wherever the value is not positive, by the rules above it.

    A rule that multiplies by the input leaves none where that is zero; a ReLU's output is zero where its input is
    not positive.
    """
    free, zero, gated = range(3)  # relevance may be anywhere; is zero where the value is zero; where it is <= 0
    states = [free] * (start + 1)
    for i in range(start, 0, -1):
        node, rule, above = graph.nodes[i - 1], plan.rules[i - 1], states[i]
        if plan.means is not None:
            below = free
        elif isinstance(rule, (LinearRule, Norm)):
            below = zero if getattr(rule, "reads", "plain") in ("plain", "sign") else free
        elif isinstance(node.layer, ReLU):
            below = gated if above > free or isinstance(rule, Gradient) else free
        else:
            below = above if isinstance(rule, Pass) and node.layer.role == "route" else free
        states[node.inputs[0]] = below
    return [state == gated for state in states]


class _Linear:
    """One linear layer's rule. gated: relevance is zero where z is not positive; sums: what `forward` kept."""

    def __init__(self, ops: Any, layer: Any, plan: Plan, index: int, gated: bool = False, sums: Any = None):
        self.ops, self.layer, self.convention, self.gated, self.sums = ops, layer, plan.convention, gated, sums
        rule: Any = plan.rules[index]
        self.rule = rule
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
        key = (layer.name, self.ops.key)
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
    layer = graph.layers[index]
    low, high = (rule.low, rule.high) if rule.low is not None else graph.input_bounds() or (-1.0, 1.0)
    low, high = _bound(graph, layer, low, "low"), _bound(graph, layer, high, "high")
    if not (low <= high).all():
        raise ValueError("low must not be above high in ZBox's bounds")
    return low, high


def _bound(graph: Graph, layer: Layer, value: Any, name: str) -> Array:
    """A number, one value per channel, or an array of the input's shape, in the layer's shape."""
    value = np.asarray(value, graph.ops.dtype)
    for shape in (layer.in_shape, graph.input_shape):
        # (C,) always means per channel; before a Flatten, the image's channels.
        same_size = np.prod(shape) == np.prod(layer.in_shape)
        if same_size and (value.ndim == 0 or value.shape == shape or value.shape == shape[-1:]):
            return np.ascontiguousarray(np.broadcast_to(value, shape)).reshape(layer.in_shape)
    raise ValueError(f"{name} must be a number, one value per channel, or of the input's shape {layer.in_shape}, "
                     f"got shape {value.shape}")
