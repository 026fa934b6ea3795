"""Every rule on every kind of layer with weights, against its dense formula.

The formulas are the definitions of the field written out on the layer's Jacobian matrix (cases.dense_map, plain
loops), not the engine's canonical form: x is (N, inputs), w (inputs, outputs), b and z (outputs), R (N, outputs).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import dense_map, mixed_signs, relative_error, with_biases

import fastlrp
from fastlrp.composites import Uniform
from fastlrp.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    GammaSimple,
    Gradient,
    Norm,
    Pass,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
)

Array = np.ndarray
TOLERANCE = {"highest": 1e-5, "float64": 1e-10}
PRECISIONS = pytest.mark.parametrize("precision", TOLERANCE)

dense_map_of = functools.lru_cache(maxsize=64)(dense_map)  # by layer; none changes its weights after the first look


# ---- the definitions ----

def plus(a: Array) -> Array:
    return np.where(a > 0, a, 0)


def minus(a: Array) -> Array:
    return np.where(a < 0, a, 0)


def stabilised(d: Array, epsilon: float, signed: bool) -> Array:
    return d + epsilon * (np.where(d < 0, -1, 1) if signed else 1)


def share(contributions: Array, bias: Array | float, relevance: Array, s: Callable[[Array], Array]) -> Array:
    """Σ over outputs of contribution · R / s(Σ contributions + bias); contributions (N, inputs, outputs)."""
    denominator = s(contributions.sum(axis=1) + bias)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(denominator == 0, 0, relevance / denominator)
    return np.einsum("nio,no->ni", contributions, quotient)


class Problem:
    """One layer's numbers in double precision."""

    def __init__(self, layer: Any, x: Array, relevance: Array, rule: Any, signed: bool = True):
        self.w, self.b, self.linked = dense_map_of(layer)
        self.x, self.relevance = (a.astype(np.float64).reshape(len(a), -1) for a in (x, relevance))
        self.z = self.x @ self.w + self.b
        self.rule = rule
        if not rule.bias:
            self.b = np.zeros_like(self.b)  # z keeps the true bias
        self.s = lambda d: stabilised(d, rule.epsilon, signed)

    def each(self, left: Array, right: Array) -> Array:
        """left_i · right_ij for every sample."""
        return left[:, :, None] * right

    def share(self, contributions: Array, bias: Array | float, relevance: Array | None = None) -> Array:
        return share(contributions, bias, self.relevance if relevance is None else relevance, self.s)


def epsilon(p: Problem) -> Array:
    return p.share(p.each(p.x, p.w), p.b)


def z_plus(p: Problem) -> Array:
    return p.share(p.each(plus(p.x), plus(p.w)) + p.each(minus(p.x), minus(p.w)), plus(p.b))


def alpha_beta(p: Problem) -> Array:
    positive = p.each(plus(p.x), plus(p.w)) + p.each(minus(p.x), minus(p.w))
    negative = p.each(plus(p.x), minus(p.w)) + p.each(minus(p.x), plus(p.w))
    return p.rule.alpha * p.share(positive, plus(p.b)) - p.rule.beta * p.share(negative, minus(p.b))


def gamma(p: Problem) -> Array:
    up, down = p.w + p.rule.gamma * plus(p.w), p.w + p.rule.gamma * minus(p.w)
    bias_up, bias_down = p.b + p.rule.gamma * plus(p.b), p.b + p.rule.gamma * minus(p.b)
    above = p.share(p.each(plus(p.x), up) + p.each(minus(p.x), down), bias_up, np.where(p.z > 0, p.relevance, 0))
    below = p.share(p.each(plus(p.x), down) + p.each(minus(p.x), up), bias_down, np.where(p.z < 0, p.relevance, 0))
    return above + below


def gamma_simple(p: Problem) -> Array:
    v = plus(p.w) + p.rule.gamma * minus(p.w)
    return p.share(p.each(p.x, v), plus(p.b) + p.rule.gamma * minus(p.b))


def z_box(p: Problem) -> Array:
    low, high = (np.broadcast_to(v, p.rule.shape).reshape(1, -1) for v in (p.rule.low, p.rule.high))
    return p.share(p.each(p.x, p.w) - p.each(low, plus(p.w)) - p.each(high, minus(p.w)), 0)


def w_square(p: Problem) -> Array:
    return p.share(np.broadcast_to(p.w**2, (len(p.x), *p.w.shape)), p.b**2)


def flat(p: Problem) -> Array:
    return p.share(np.broadcast_to(p.linked, (len(p.x), *p.w.shape)), 0)


def vector_jacobian(p: Problem) -> Array:
    return p.relevance @ p.w.T


FORMULAS = {Epsilon: epsilon, ZPlus: z_plus, AlphaBeta: alpha_beta, Gamma: gamma, GammaSimple: gamma_simple,
            ZBox: z_box, WSquare: w_square, Flat: flat, Gradient: vector_jacobian}


def expected(layer: Any, x: Array, relevance: Array, rule: Rule, default_epsilon: float = 1e-6, signed: bool = True,
             no_bias: bool = False) -> Array:
    """The definition's relevance, in the input's shape."""
    class Numbers:
        """The rule's numbers, with the convention's where it leaves them open."""

        def __getattr__(self, name: str) -> Any:
            return getattr(rule, name)

    numbers: Any = Numbers()
    numbers.shape = layer.in_shape
    given = getattr(rule, "epsilon", None)
    numbers.epsilon = default_epsilon if given is None else given
    numbers.bias = getattr(rule, "bias", False) and not no_bias
    return FORMULAS[type(rule)](Problem(layer, x, relevance, numbers, signed)).reshape(x.shape)


# ---- rules x layers x inputs ----

RULES: dict[str, Rule] = {
    "epsilon": Epsilon(), "epsilon 0.25": Epsilon(0.25), "epsilon without bias": Epsilon(0.25, bias=False),
    "z+": ZPlus(), "z+ without bias": ZPlus(1e-3, bias=False),
    "alpha-beta": AlphaBeta(), "alpha 1": AlphaBeta(1, 0), "alpha 1.4": AlphaBeta(1.4, 0.4, 0.1, bias=False),
    "gamma": Gamma(), "gamma 0": Gamma(0.0), "gamma 2 without bias": Gamma(2.0, 0.01, bias=False),
    "simple gamma": GammaSimple(0.5, 0.5), "simple gamma without bias": GammaSimple(0.25, 0.5, bias=False),
    "box": ZBox(-5.0, 5.0), "box, default": ZBox(epsilon=0.5),
    "w squared": WSquare(), "w squared without bias": WSquare(0.1, bias=False), "flat": Flat(), "flat 0.5": Flat(0.5),
    "gradient": Gradient(),
}
LAYERS: dict[str, Callable[[bool], tuple[Any, tuple[int, ...]]]] = {
    "linear": lambda bias: (fastlrp.Linear(7, bias), (11,)),
    "conv": lambda bias: (fastlrp.Conv2d(4, 3, bias=bias), (6, 5, 3)),
    "conv strided, padded": lambda bias: (
        fastlrp.Conv2d(5, (3, 2), stride=2, padding=((1, 2), (0, 1)), bias=bias), (6, 7, 2)),
    "conv dilated": lambda bias: (fastlrp.Conv2d(3, 2, dilation=(2, 3), padding=1, bias=bias), (5, 6, 2)),
    "conv grouped": lambda bias: (fastlrp.Conv2d(6, 2, groups=2, bias=bias), (4, 5, 4)),
    "conv depthwise": lambda bias: (fastlrp.Conv2d(6, 3, groups=3, padding=1, bias=bias), (4, 5, 3)),
    "conv same": lambda bias: (fastlrp.Conv2d(3, (2, 4), stride=(1, 2), padding="same", bias=bias), (5, 7, 3)),
    "conv one channel": lambda bias: (fastlrp.Conv2d(2, 3, padding=1, bias=bias), (3, 40, 1)),
    "conv whole input": lambda bias: (fastlrp.Conv2d(5, (3, 4), bias=bias), (3, 4, 2)),
}
INPUTS = {"signed": lambda x: x, "non-negative": np.abs, "non-positive": lambda x: -np.abs(x),
          "mixed": lambda x: np.where(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) % 2, x, np.abs(x)),
          "after a ReLU": lambda x: x}


@functools.cache
def problem(kind: str, bias: bool, inputs: str, n: int = 5) -> tuple[fastlrp.Network, Any, Array, Array]:
    """A network of one layer (after a ReLU, if its input is to be known as non-negative), x and start relevance.

    Relevance falls with the square of z, so that no quotient of near-zeros dominates the comparison.
    """
    layer, shape = LAYERS[kind](bias)
    net = with_biases(fastlrp.Network([fastlrp.ReLU()] * (inputs == "after a ReLU") + [layer], input_shape=shape))
    rng = np.random.default_rng(5)
    x = INPUTS[inputs](rng.standard_normal((n, *shape))).astype(np.float32)
    z = net.forward(x)
    relevance = z * np.abs(z) * rng.uniform(0.5, 2, z.shape).astype(np.float32)
    return net, layer, x, relevance


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", RULES)
def test_rule_is_its_formula(name: str, kind: str) -> None:
    """With and without bias, on every kind of input: on the kernels within float32 rounding, on the twin float64's."""
    for bias, inputs in itertools.product((True, False), INPUTS):
        net, layer, x, relevance = problem(kind, bias, inputs)
        rule = RULES[name]
        read = np.maximum(x, 0) if inputs == "after a ReLU" else x
        written = replace(rule, low=-1.0, high=1.0) if name == "box, default" else rule
        relevant = expected(layer, read, relevance, written)
        for precision, tolerance in TOLERANCE.items():
            found = net.explain(x, composite=Uniform(rule), start=relevance, precision=precision).relevance
            assert relative_error(found, relevant) <= tolerance, (bias, inputs, precision)


BOUNDS = {
    "numbers": lambda shape, rng: (-2.0, 3.0),
    "per channel": lambda shape, rng: (-1 - rng.random(shape[-1]), 1 + rng.random(shape[-1])),
    "per input": lambda shape, rng: (-1 - rng.random(shape), 1 + rng.random(shape)),
    "zero is low": lambda shape, rng: (0.0, 4.0),
    "zero is high": lambda shape, rng: (-4.0, 0.0),
}


@PRECISIONS
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_box_bounds(kind: str, bounds: str, precision: str) -> None:
    """Bounds as numbers, per channel and per input element; x anywhere between them."""
    net, layer, x, _ = problem(kind, True, "signed")
    rng = np.random.default_rng(2)
    low, high = (np.float32(b).astype(np.float64) for b in BOUNDS[bounds](layer.in_shape, rng))
    x = (low + (high - low) * rng.random(x.shape)).astype(np.float32)
    relevance = rng.standard_normal((len(x), *layer.out_shape)).astype(np.float32)
    rule = ZBox(low, high, 1e-3)
    found = net.explain(x, composite=Uniform(rule), start=relevance, precision=precision).relevance
    assert relative_error(found, expected(layer, x, relevance, rule)) <= TOLERANCE[precision]


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_box_is_precise_whatever_the_bias(size: float) -> None:
    """The bias cancels: it must not cost digits either."""
    layer = fastlrp.Conv2d(4, 3, padding=1)
    net = with_biases(fastlrp.Network([layer], input_shape=(6, 5, 3)))
    layer.bias = size * np.array([1.1, -0.7, 0.9, -1.3])
    x = np.random.default_rng(0).uniform(-1, 1, (3, 6, 5, 3)).astype(np.float32)
    start = np.random.default_rng(1).standard_normal((3, 6, 5, 4)).astype(np.float32)
    found = net.explain(x, composite=Uniform(ZBox(-1.0, 1.0)), start=start).relevance
    assert relative_error(found, expected(layer, x, start, ZBox(-1.0, 1.0))) <= 1e-5


@pytest.mark.parametrize("first", [fastlrp.Format(-0.5, 2), fastlrp.Normalize([0.2, 0.5, 0.4], [0.5, 0.25, 2.0])],
                         ids=["Format", "Normalize"])
def test_box_takes_the_range_that_the_input_layer_implies(first: Any) -> None:
    """Format: (low, high); Normalize: what 0 and 1 become, per channel."""
    conv = fastlrp.Conv2d(4, 3, padding=1)
    net = with_biases(fastlrp.Network([first, conv], input_shape=(5, 4, 3)))
    x = np.random.default_rng(0).random((3, 5, 4, 3)).astype(np.float32)
    low, high = (np.zeros(3), np.ones(3)) if isinstance(first, fastlrp.Normalize) else (0, 1)
    low, high = (b * 2.5 - 0.5 if isinstance(first, fastlrp.Format)
                 else (b - np.array([0.2, 0.5, 0.4])) / np.array([0.5, 0.25, 2.0]) for b in (low, high))
    inner = x * 2.5 - 0.5 if isinstance(first, fastlrp.Format) else (x - [0.2, 0.5, 0.4]) / [0.5, 0.25, 2.0]
    start = net.forward(x)
    found = net.explain(x, composite=Uniform(ZBox()), start=start)
    assert relative_error(found.relevance, expected(conv, inner, start, ZBox(low, high))) <= 1e-5


# ---- the tensorflow_lrp convention ----

@PRECISIONS
@pytest.mark.parametrize("name", ["epsilon", "z+", "alpha-beta", "gamma", "simple gamma", "box", "w squared"])
def test_tensorflow_lrp_convention(name: str, precision: str) -> None:
    """Stabilisers are added unsigned and matter where sums are as small as they; biases never count."""
    layer = fastlrp.Conv2d(4, 3, padding=1)
    net = with_biases(fastlrp.Network([layer], input_shape=(5, 4, 3)))
    rng = np.random.default_rng(3)
    rule, tiny = replace(RULES[name], epsilon=None), {"box": 3e-5, "w squared": 2e-6}.get(name, 1e-6)
    layer.weight = tiny * rng.uniform(0.5, 1.5, layer.weight_shape) * rng.choice([-1, 1, 1], layer.weight_shape)
    layer.bias = 9 * tiny**2 * rng.standard_normal(4)  # as large as the sums
    if isinstance(rule, ZBox):
        rule = replace(rule, low=-3e-5, high=3e-5)
    x = (tiny * rng.uniform(0.2, 1, (4, 5, 4, 3)) * rng.choice([-1, 1, 1, 1], (4, 5, 4, 3))).astype(np.float32)
    start = rng.standard_normal((4, 5, 4, 4)).astype(np.float32)
    found = net.explain(x, composite=Uniform(rule), start=start, precision=precision, compat="tensorflow_lrp")
    written = expected(layer, x, start, rule, 1e-9 if name == "box" else 1e-12, signed=False, no_bias=True)
    signed = expected(layer, x, start, rule, 1e-9 if name == "box" else 1e-12, signed=True, no_bias=True)
    assert relative_error(found.relevance, written) <= 20 * TOLERANCE[precision]
    assert name in ("box", "w squared", "z+") or relative_error(signed, written) > 1e-3, "the case shows nothing"


@PRECISIONS
def test_a_given_epsilon_wins_over_the_convention(precision: str) -> None:
    """The convention still says that it is unsigned."""
    net, layer, x, relevance = problem("conv", True, "signed")
    found = net.explain(x, composite=Uniform(Epsilon(0.5)), start=relevance, compat="tensorflow_lrp",
                        precision=precision)
    written = expected(layer, x, relevance, Epsilon(0.5), signed=False, no_bias=True)
    assert relative_error(found.relevance, written) <= 30 * TOLERANCE[precision]


# ---- pools ----

POOLS: dict[str, Callable[[], Any]] = {
    "sum": lambda: fastlrp.SumPool2d(2), "sum scaled": lambda: fastlrp.SumPool2d((2, 3), scale="sqrt"),
    "sum negative": lambda: fastlrp.SumPool2d(2, scale=-0.5),
    "sum overlapping, padded": lambda: fastlrp.SumPool2d(3, stride=(1, 2), padding=((1, 0), (2, 1)), scale=0.3),
    "average": lambda: fastlrp.AvgPool2d(2), "average same": lambda: fastlrp.AvgPool2d(3, stride=2, padding="same"),
    "average of real elements": lambda: fastlrp.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
}


def pool_map(net: fastlrp.Network) -> Array:
    """The pool as a matrix, from unit vectors pushed through the double-precision twin."""
    size = int(np.prod(net.input_shape))
    return net.to_numpy().forward(np.eye(size).reshape(size, *net.input_shape)).reshape(size, -1)


@PRECISIONS
@pytest.mark.parametrize("rule", [None, Norm(0.1), Epsilon(0.1)], ids=["default", "norm", "epsilon"])
@pytest.mark.parametrize("compat", ["zennit", "tensorflow_lrp"])
@pytest.mark.parametrize("name", POOLS)
def test_pools_take_norm(name: str, compat: str, rule: Rule | None, precision: str) -> None:
    """Shares in proportion to what each input adds; the default stabiliser matters at the size of the data."""
    default, signed = {"zennit": (1e-6, True), "tensorflow_lrp": (1e-9, False)}[compat]
    rng = np.random.default_rng(4)
    layer = POOLS[name]()
    net = fastlrp.Network([layer], input_shape=(6, 7, 3))
    scale = default if rule is None else 1
    x = (scale * rng.uniform(0.5, 2, (4, 6, 7, 3)) * rng.choice([-1, 1, 1, 1, 1, 1], (4, 6, 7, 3))).astype(np.float32)
    start = rng.standard_normal((4, *net.output_shape)).astype(np.float32)
    composite = fastlrp.composites.EpsilonPlus()
    composite = composite if rule is None else composite.override({layer.name: rule})
    found = net.explain(x, composite=composite, start=start, compat=compat, precision=precision).relevance
    contributions = x.reshape(4, -1, 1).astype(np.float64) * pool_map(net)
    epsilon = default if rule is None else rule.epsilon
    written = share(contributions, 0, start.reshape(4, -1), lambda d: stabilised(d, epsilon, signed))
    assert relative_error(found.reshape(4, -1), written) <= 30 * TOLERANCE[precision]


def test_max_pool_sends_relevance_to_the_first_winner() -> None:
    """In scan order, on ties too."""
    net = fastlrp.Network([fastlrp.MaxPool2d(2)], input_shape=(2, 4, 1))
    x = np.array([[1, 5, 2, 2], [5, 0, 2, 2]]).reshape(1, 2, 4, 1)
    found = net.explain(x, start=np.array([3.0, 7.0]).reshape(1, 1, 2, 1)).relevance
    assert found.reshape(2, 4).tolist() == [[0, 3, 7, 0], [0, 0, 0, 0]]


# ---- known exact cases ----

def dense_network(*weights: Any, bias: Any = None) -> fastlrp.Network:
    """Linear layers with these weights, ReLUs between them; the bias goes to the first."""
    layers: list[Any] = []
    for i, weight in enumerate(weights):
        layers += ([fastlrp.ReLU()] if i else []) + [
            fastlrp.Linear(np.shape(weight)[1], bias=i == 0 and bias is not None)]
    net = fastlrp.Network(layers, input_shape=(np.shape(weights[0])[0],))
    for layer, weight in zip(net.weighted, weights, strict=True):
        layer.weight = np.array(weight)
    if bias is not None:
        net.weighted[0].bias = bias
    return net


@PRECISIONS
@pytest.mark.parametrize(("rule", "start", "relevance"), [
    (AlphaBeta(1, 0, 0.0), 8.0, (8, 0)), (AlphaBeta(2, 1, 0.0), 8.0, (16, -4)),
    (AlphaBeta(1, 0, 0.0), -1.0, (-1, 0)), (AlphaBeta(2, 1, 0.0), -1.0, (-2, 0.5)),
])
def test_alpha_beta_with_a_negative_bias(rule: Rule, start: float, relevance: tuple, precision: str) -> None:
    """W = (1, −1), b = −1, x = (1, 1): z = −1; the bias takes half of β's share."""
    net = dense_network([[1], [-1]], bias=[-1])
    found = net.explain([[1, 1]], composite=Uniform(rule), start=np.array([[start]]), precision=precision)
    assert found.output.tolist() == [[-1]]
    assert found.relevance.tolist() == [list(relevance)]


@PRECISIONS
@pytest.mark.parametrize(("rules", "corner", "relevance"), [
    ((Epsilon(0.0), Epsilon(0.0)), 2, (18, 36, 54)),
    ((Gamma(1.0, 0.0), Gamma(0.25, 0.0)), -2, (-8 / 3 + 12, 32 / 3 + 24, 52)),
    ((AlphaBeta(1, 0, 0.0), AlphaBeta(1, 0, 0.0)), -2, (12, 33.6, 50.4)),
    ((ZPlus(0.0), ZPlus(0.0)), -2, (12, 33.6, 50.4)),
], ids=["epsilon", "gamma", "alpha 1", "z+"])
def test_two_layer_network(rules: tuple[Rule, Rule], corner: float, relevance: tuple, precision: str) -> None:
    """Linear 3→3 all 2 (one corner else), ReLU, Linear 3→1 all 3, x = (1, 2, 3), no bias, from the logit."""
    first = np.full((3, 3), 2.0)
    first[0, 0] = corner
    net = dense_network(first, np.full((3, 1), 3.0))
    composite = {"linear1": rules[0], "linear2": rules[1]}
    found = net.explain([[1, 2, 3]], composite=composite, start="logit", precision=precision).relevance
    np.testing.assert_allclose(found[0], relevance, rtol=1e-6 if precision == "highest" else 1e-13)


@PRECISIONS
def test_lrp_0_is_gradient_times_input(precision: str) -> None:
    """On linear, ReLU and max-pool layers with biases, from the logit."""
    net = with_biases(fastlrp.Network([
        fastlrp.Conv2d(6, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(2), fastlrp.Conv2d(5, 2, stride=2),
        fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(8), fastlrp.ReLU(), fastlrp.Linear(4)],
        input_shape=(8, 9, 2)))
    x = np.random.default_rng(6).standard_normal((6, 8, 9, 2)).astype(np.float32)
    lrp = net.explain(x, composite=Uniform(Epsilon(0.0)), start="logit", precision=precision).relevance
    gradient = net.explain(x, composite="gradient_x_input", precision=precision).relevance
    assert relative_error(lrp, gradient) <= 10 * TOLERANCE[precision]


# ---- conservation ----

@pytest.mark.parametrize("rule", [
    Epsilon(0.0), ZPlus(0.0), AlphaBeta(2, 1, 0.0), AlphaBeta(1, 0, 0.0), Gamma(0.25, 0.0), GammaSimple(0.5, 0.0),
    ZBox(-5.0, 5.0, 0.0), WSquare(0.0), Flat(0.0)], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("kind", LAYERS)
def test_rules_conserve_without_bias_and_stabiliser(kind: str, rule: Rule) -> None:
    """The sum of relevance stays, sample by sample, where no denominator is zero."""
    net, layer, x, relevance = problem(kind, False, "signed")
    w, flat_x = dense_map_of(layer)[0], x.reshape(len(x), -1)
    parts = [plus(flat_x) @ plus(w) + minus(flat_x) @ minus(w), plus(flat_x) @ minus(w) + minus(flat_x) @ plus(w)]
    relevance = relevance * (np.all(parts, axis=0)).reshape(relevance.shape)
    found = net.explain(x, composite=Uniform(rule), start=relevance, precision="float64").relevance
    into, out = (r.reshape(len(x), -1).sum(axis=1, dtype=np.float64) for r in (found, relevance))
    np.testing.assert_allclose(into, out, rtol=1e-9)


@PRECISIONS
@pytest.mark.parametrize(("rule", "weight", "x", "kept"), [
    (AlphaBeta(2, 1, 0.0), (1, 1), (1, 1), (2, 2)),  # no negative part: β's share is lost, 2R in all
    (AlphaBeta(2, 1, 0.0), (-1, -1), (1, 1), (-1, -1)),  # no positive part: −βR in all
    (AlphaBeta(2, 1, 0.0), (1, 1), (0, 0), (0, 0)),
    (ZPlus(0.0), (-1, -2), (1, 1), (0, 0)),
    (Gamma(1.0, 0.0), (1, -1), (1, 1), (0, 0)),  # z = 0: all is lost
    (Epsilon(0.0), (1, -1), (1, 1), (0, 0)),
    (ZBox(-1.0, 1.0, 0.0), (1, -1), (-1, 1), (0, 0)),  # x at the bounds
    (WSquare(0.0), (0, 0), (1, 1), (0, 0)),
    (Flat(0.0), (0, 0), (0, 0), (1, 1)),
], ids=repr)
def test_shares_of_empty_parts_are_lost(rule: Rule, weight: tuple, x: tuple, kept: tuple, precision: str) -> None:
    """A denominator of exactly zero takes its part with it, and nothing becomes NaN; R = 2."""
    net = dense_network(np.array(weight).reshape(2, 1))
    found = net.explain([x], composite=Uniform(rule), start=np.array([[2.0]]), precision=precision).relevance
    assert found.tolist() == [list(kept)]


@pytest.mark.parametrize("bias", [0.5, -0.5])
def test_gamma_takes_the_sign_of_z_with_its_bias(bias: float) -> None:
    """p + q = 0: the bias decides which side is favoured, even for a rule that leaves it out of the denominator."""
    net = dense_network([[1], [-1]], bias=[bias])
    found = net.explain([[1, 1]], composite=Uniform(Gamma(1.0, 0.0, bias=False)), start=np.ones((1, 1))).relevance
    assert found.tolist() == ([[2, -1]] if bias > 0 else [[-1, 2]])


# ---- what each sample gets does not depend on its neighbours ----

@pytest.mark.parametrize("name", ["z+", "alpha-beta", "gamma"])
@pytest.mark.parametrize("kind", ["linear", "conv strided, padded", "conv one channel"])
def test_signs_are_decided_sample_by_sample(kind: str, name: str) -> None:
    """A batch of non-negative and signed samples gives each the bits that it has alone."""
    layer, shape = LAYERS[kind](True)
    net = with_biases(fastlrp.Network([layer], input_shape=shape))
    x = mixed_signs(np.random.default_rng(1), 6, shape)
    start = net.forward(x)
    found = net.explain(x, composite=Uniform(RULES[name]), start=start).relevance
    for i in range(len(x)):
        alone = net.explain(x[i:i + 1], composite=Uniform(RULES[name]), start=start[i:i + 1]).relevance
        np.testing.assert_array_equal(found[i], alone[0])


# ---- the rules themselves ----

@pytest.mark.parametrize(("make", "named"), [
    (lambda: Epsilon(-1e-6), "epsilon"), (lambda: Epsilon(float("nan")), "epsilon"),
    (lambda: ZPlus("small"), "epsilon"), (lambda: Flat(True), "epsilon"), (lambda: Norm(-1), "epsilon"),
    (lambda: WSquare(float("inf")), "epsilon"), (lambda: AlphaBeta(2, 2), "alpha"),
    (lambda: AlphaBeta(0.5, -0.5), "beta"),
    (lambda: AlphaBeta(float("nan"), 1), "alpha"), (lambda: Gamma(-1), "gamma"), (lambda: Gamma(float("inf")), "gamma"),
    (lambda: GammaSimple(None), "gamma"), (lambda: ZBox(low=0), "low and high"),
    (lambda: ZBox(high=1), "low and high"),
    (lambda: fastlrp.rules.SmoothGradient(-1), "beta"), (lambda: ZPlus(bias="no"), "bias"),
    (lambda: Epsilon(10**400), "epsilon must be a number that a float can hold"),
    (lambda: fastlrp.rules.PositiveGradient(gate="no"), "gate must be True or False, got 'no'"),
    (lambda: ZBox("0", "1"), "low"), (lambda: ZBox(float("-inf"), 1), "low"),
])
def test_bad_numbers_are_refused_by_name(make: Callable[[], Rule], named: str) -> None:
    """ValueError, or TypeError for what is no number, that names the argument."""
    with pytest.raises((ValueError, TypeError), match=named):
        make()


def test_rules_compare_and_hash_by_value() -> None:
    """Rules are data: equal numbers, equal rules; none can be changed."""
    assert Epsilon(0.5) == Epsilon(0.5) != Epsilon(0.25) != ZPlus(0.25)
    assert len({AlphaBeta(2, 1), AlphaBeta(2.0, 1.0), AlphaBeta(1, 0), Pass(), Pass()}) == 3
    assert AlphaBeta(1.4, 0.4).terms == (("p", 1.4), ("q", -0.4))
    with pytest.raises(AttributeError):
        Epsilon().epsilon = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(("low", "high", "named"), [
    (1.0, -1.0, "low"), (np.zeros(2), np.ones(2), "low"), (np.zeros((5, 4)), 1.0, "low"),
    (0.0, np.ones((1, 3)), "high"), ("a", "b", "low"), (0.0, float("nan"), "high"),
])
def test_box_bounds_that_do_not_fit_are_refused(low: Any, high: Any, named: str) -> None:
    """By shape, order and type."""
    net = fastlrp.Network([fastlrp.Conv2d(4, 3)], input_shape=(5, 4, 3))
    with pytest.raises((ValueError, TypeError), match=named):
        net.explain(np.zeros((1, 5, 4, 3)), composite=Uniform(ZBox(low, high)), start=np.zeros((1, 3, 2, 4)))


@pytest.mark.parametrize(("layer", "rule"), [
    ("conv1", Pass()), ("conv1", Norm()), ("relu1", Epsilon()), ("relu1", Norm()), ("sumpool1", Pass()),
    ("sumpool1", ZPlus()), ("maxpool1", Epsilon()), ("flatten1", Norm()), ("linear1", fastlrp.rules.PositiveGradient()),
])
def test_rules_that_do_not_apply_to_a_layer_are_refused(layer: str, rule: Rule) -> None:
    """By name of the layer."""
    net = fastlrp.Network([fastlrp.Conv2d(4, 3), fastlrp.ReLU(), fastlrp.MaxPool2d(2), fastlrp.SumPool2d(2),
                           fastlrp.Flatten(), fastlrp.Linear(3)], input_shape=(10, 10, 1))
    with pytest.raises(ValueError, match=layer):
        net.explain(np.zeros((1, 10, 10, 1)), composite={layer: rule})
