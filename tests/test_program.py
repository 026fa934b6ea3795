"""Programs: what is recorded does what the verbs do at once, bit for bit, however samples are shared out."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cases import (
    COMPOSITES,
    LINEAR,
    MIXED_SHAPE,
    assert_same_bits,
    mixed_network,
    mixed_signs,
    relative_error,
    with_biases,
)

import fastlrp
from fastlrp import _kernels, program
from fastlrp.composites import Uniform
from fastlrp.explain import find_composite, find_convention
from fastlrp.ops import NATIVE
from fastlrp.program import Recorder, Slot, Step, _needed
from fastlrp.propagate import make_plan, propagate, run_forward
from fastlrp.rules import AlphaBeta, Epsilon, Flat, Gamma, GammaSimple, WSquare, ZBox, ZPlus

NET = with_biases(mixed_network(fastlrp.Pad2d(1, 0.5), fastlrp.Format(-1, 1)))
X = mixed_signs(np.random.default_rng(0), 5, MIXED_SHAPE)


def at_once(net: fastlrp.Network, x: np.ndarray, composite: Any, target: int = -1) -> dict[str, np.ndarray]:
    """An explanation from verbs that run as they are called: all values of relevance, by layer."""
    chosen = find_composite(net, composite)
    plan = make_plan(net, chosen.resolve(net), find_convention(composite, None))
    trace = run_forward(net, plan, [x], NATIVE, len(net.nodes), False)
    start = NATIVE.pick(trace.values[-1], np.full(len(x), target), chosen.start == "one")
    found: dict[str, np.ndarray] = {}
    names = ["input", *(layer.name for layer in net.layers)]
    back, = propagate(net, trace, plan, start, len(net.nodes), False, lambda i, r, _: found.update({names[i]: r}))
    return {**found, "input": back * x if chosen.times_input else back}


@pytest.mark.parametrize("composite", COMPOSITES)
def test_programs_do_what_verbs_do(composite: str, poisoned: Any) -> None:
    """Layer by layer, from memory that was full of NaN."""
    chosen = COMPOSITES[composite]()
    expected, found = at_once(NET, X, chosen), NET.explain(X, composite=chosen, layers=True)
    assert_same_bits(found.relevance, expected.pop("input"))
    assert set(found.layers) == set(expected)
    for name, value in expected.items():
        assert_same_bits(found.layers[name], value, name)
    assert_same_bits(NET.explain(X, composite=chosen).relevance, found.relevance, "without the layers")


def test_signs_are_asked_sample_by_sample() -> None:
    """A non-negative sample takes the shorter way whatever its neighbours are, and gets the same values."""
    net = with_biases(mixed_network())
    mixed = np.concatenate([np.abs(X), X])[[0, 5, 1, 6, 7, 2]]
    for composite in ("epsilon_plus", "epsilon_alpha2_beta1"):
        whole = net.explain(mixed, 1, composite, layers=True)
        for i in range(len(mixed)):
            alone = net.explain(mixed[i:i + 1], 1, composite, layers=True)
            assert_same_bits(whole.relevance[i:i + 1], alone.relevance)
            assert all(np.array_equal(whole.layers[name][i:i + 1], alone.layers[name]) for name in alone.layers)


def small_network() -> fastlrp.Network:
    """Of layers whose products have forms for samples side by side."""
    image = fastlrp.Input((10, 9, 3))
    x = fastlrp.ReLU()(fastlrp.Conv2d(6, 3, padding=1)(fastlrp.Pad2d(1, 0.5)(fastlrp.Format(-1, 1)(image))))
    x = fastlrp.Concat()(fastlrp.MaxPool2d(3, stride=2, padding=1)(x), fastlrp.AvgPool2d(3, stride=2, padding=1)(x))
    x = fastlrp.LeakyReLU(0.2)(fastlrp.Conv2d(11, (2, 3), stride=(1, 2), padding="same")(x))
    x = fastlrp.ReLU()(fastlrp.Conv2d(5, 2, dilation=(2, 1))(x))
    x = fastlrp.Flatten()(fastlrp.SumPool2d(2, stride=1, scale="sqrt")(x))
    return with_biases(fastlrp.Network.from_graph(image, fastlrp.Linear(4)(fastlrp.Tanh()(fastlrp.Linear(9)(x)))))


@pytest.mark.parametrize("vectors", [(1,), (8,), (8, 4, 1)], ids=str)
@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "deeptaylor",
                                       "uniform simple gamma", "guided_backprop"])
def test_samples_side_by_side(composite: str, vectors: tuple[int, ...], isa: str, poisoned: Any, threads: None,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Full blocks of samples and those that are left over get the bits they get alone, whatever the threads."""
    monkeypatch.setattr(program, "VECTORS_SIDE_BY_SIDE", vectors)
    monkeypatch.setattr(program, "MOST_BYTES_SIDE_BY_SIDE", 1 << 30)
    net, chosen, width = small_network(), COMPOSITES[composite](), max(vectors) * _kernels.lanes()
    x = mixed_signs(np.random.default_rng(6), 3 * width + 1, MIXED_SHAPE)
    alone = [net.explain(x[i:i + 1], composite=chosen, layers=True) for i in range(len(x))]
    for n, count in ((7, 1), (16, 1), (17, 2), (33, 1), (width, 1), (width // 2, 1), (3 * width + 1, 2),
                     (2 * width - 1, 1)):
        fastlrp.set_num_threads(count)
        found = net.explain(x[:n], composite=chosen, layers=True)
        for i, one in enumerate(alone[:n]):
            assert_same_bits(found.relevance[i], one.relevance[0], f"sample {i} of {n}")
            assert_same_bits(found.output[i], one.output[0])
            assert found.target[i] == one.target[0]
            assert all(np.array_equal(found.layers[name][i], one.layers[name][0]) for name in one.layers)
    (kept,) = net._programs.values()
    twins, twin = [], kept._compiled.twin
    while twin is not None:
        twins.append(twin)
        twin = twin.twin
    assert len(twins) == len(vectors)  # every width was taken by some batch


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38], ids=str)
def test_samples_beside_one_that_is_not_finite(value: float, isa: str) -> None:
    """Theirs are their own bits, and it has its own."""
    net = small_network()
    x = np.abs(mixed_signs(np.random.default_rng(7), 8 * _kernels.lanes(), MIXED_SHAPE))
    x[3, 4, 5, 1] = value
    whole = net.explain(x, composite="epsilon_alpha2_beta1").relevance
    for i in (2, 3, 4, len(x) - 1):
        assert_same_bits(whole[i:i + 1], net.explain(x[i:i + 1], composite="epsilon_alpha2_beta1").relevance)


@pytest.mark.parametrize("width", [100, 500, 2000])
def test_few_or_many_weights(width: int, isa: str, threads: None) -> None:
    """Shared out, side by side or (many weights) step by step, samples get the bits that they get alone."""
    net = fastlrp.Network([fastlrp.Linear(width), fastlrp.ReLU(), fastlrp.Linear(5)], (300,))
    x = np.random.default_rng(2).standard_normal((4 * _kernels.lanes() + 3, 300), np.float32)
    alone = [net.explain(x[i:i + 1], composite="epsilon_alpha2_beta1").relevance for i in range(len(x))]
    for count, n in ((1, len(x)), (3, len(x)), (3, 7), (2, 4)):
        fastlrp.set_num_threads(count)
        whole = net.explain(x[:n], composite="epsilon_alpha2_beta1").relevance
        for i in range(n):
            assert_same_bits(whole[i:i + 1], alone[i], f"sample {i} of {n}")


def test_large_samples_go_step_by_step(threads: None) -> None:
    """All threads on one sample, with the same bits as one thread and one sample at a time."""
    net = fastlrp.Network([fastlrp.Conv2d(24, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(2),
                           fastlrp.Conv2d(8, 3), fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(3)], (150, 150, 3))
    x = np.random.default_rng(1).standard_normal((3, 150, 150, 3)).astype(np.float32)
    fastlrp.set_num_threads(3)
    whole = net.explain(x, composite="epsilon_gamma_box")
    fastlrp.set_num_threads(1)
    for i in range(3):
        alone = net.explain(x[i:i + 1], composite="epsilon_gamma_box")
        assert_same_bits(whole.relevance[i:i + 1], alone.relevance)
        assert_same_bits(whole.output[i:i + 1], net.forward(x[i:i + 1]))


class Doubled(fastlrp.layers.Layer):
    """A user's own layer, in plain NumPy."""

    kind, role, way = "doubled", "route", 0

    def forward(self, ops: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        return [lambda: 2 * x, lambda: np.add(x, x), lambda: np.concatenate([x[..., :1] * 2, x[..., 1:] * 2], -1),
                lambda: x.reshape(x.shape) + x, lambda: np.asarray(x) * 2, lambda: np.where(x == 0, 0, 2 * x),
                lambda: ops.affine(x, times=2 if x.shape[1:] == (6,) else 3),
                lambda: np.ndarray.__mul__(x, np.float32(2))][self.way](), None

    def backward(self, ops: Any, g: np.ndarray, x: np.ndarray, kept: Any) -> np.ndarray:
        return g * 2


@pytest.mark.parametrize("way", range(8))
def test_layers_in_plain_numpy_run_at_once(way: int) -> None:
    """Nothing is recorded, and nothing else changes."""
    layer = Doubled()
    layer.way = way
    net = with_biases(fastlrp.Network([layer, fastlrp.Linear(4)], (6,)))
    x = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    assert_same_bits(net.explain(x, composite="epsilon_plus").relevance, at_once(net, x, "epsilon_plus")["input"])
    assert_same_bits(net.forward(x), net.trace([x]).values[-1])
    assert not net._programs
    calls, forward = [], layer.forward
    layer.forward = lambda ops, x: calls.append(ops) or forward(ops, x)
    for _ in range(3):
        net.forward(x)
    assert calls.count(net.ops) == 3 and len(calls) == 4, "recording is tried once for the layers as they are"


def test_errors_of_layers_are_those_of_their_arrays() -> None:
    """Not of what stands for arrays while recording."""
    class Faulty(Doubled):
        def forward(self, ops: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
            raise OSError(f"no such thing for {type(x).__name__}")
    net = fastlrp.Network([Faulty(), fastlrp.Linear(2)], (3,))
    with pytest.raises(OSError, match="ndarray"):
        net.forward(np.ones((2, 3)))


def test_errors_while_recording_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the package's own layers all are true; memory that is lacking has nothing to do with layers."""
    class Own(Doubled):
        def forward(self, ops: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
            return ops.affine(x, times=2), None
    x = np.ones((2, 3), np.float32)
    for error, layer in ((MemoryError, Own()), (MemoryError, fastlrp.ReLU()), (OSError, fastlrp.ReLU())):
        net = fastlrp.Network([layer, fastlrp.Linear(2)], (3,))

        def failing(self: Recorder, *anything: Any, error: Any = error, **more: Any) -> Any:
            raise error
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "product", failing)
            with pytest.raises(error):
                net.forward(x)
        net.forward(x)
        assert net._programs, "recorded once it can be"


class Wrong(Doubled):
    """What it returns is `made` of the input."""

    def __init__(self, made: Any):
        super().__init__()
        self.made = made

    def forward(self, ops: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        return self.made(x), None


@pytest.mark.parametrize(("made", "error", "got"), [
    (lambda x: x[:, :1], ValueError, r"must have shape \(3, 6\), got \(3, 1\)"),
    (lambda x: Slot(x.index, (1,)) if isinstance(x, Slot) else x[:1], ValueError,
     r"must have shape \(3, 6\), got \(1, 6\)"),
    (lambda x: x + 0j, TypeError, "must be an array of real numbers, got dtype complex64"),
    (lambda x: None, TypeError, "must be an array of real numbers, got dtype object")])
def test_outputs_of_layers_are_what_they_said(made: Any, error: type, got: str) -> None:
    """Of their shape, in every run: nothing is broadcast."""
    x = np.ones((3, 6), np.float32)
    for layers in ([Wrong(made)], [Wrong(made), fastlrp.ReLU()], [Wrong(made), fastlrp.Linear(4)]):
        net = fastlrp.Network(layers, (6,))
        for call in (net.forward, net.explain, lambda x, net=net: net.trace([x]), net.to_numpy().forward):
            with pytest.raises(error, match=f"the output of layer 'doubled1' .*{got}" if error is ValueError
                               else f"the output of layer 'doubled1' {got.replace('64', '')}"):
                call(x)


def test_outputs_of_layers_may_have_any_type() -> None:
    """And strides: they are converted."""
    x = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    other = fastlrp.Network([fastlrp.Linear(4)], (6,))
    for made in (lambda x: x.astype(np.float64), np.asfortranarray, lambda x: x[::-1].copy()[::-1]):
        net = fastlrp.Network([Wrong(made), fastlrp.Linear(4)], (6,))
        net.layers[1].weight = other.layers[0].weight
        assert_same_bits(net.forward(x), other.forward(x))


class Masked(Doubled):
    """What `affine` takes beyond numbers and channels."""

    def forward(self, ops: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        mask = np.arange(4).reshape(2, 2, 1)
        return ops.affine(ops.affine(x, times=mask), plus=np.arange(12).reshape(2, 2, 3), over=[1, 2, 4]), None


def test_affine_maps_broadcast_as_arrays_do() -> None:
    """Recorded and at once."""
    net = with_biases(fastlrp.Network([Masked(), fastlrp.Flatten(), fastlrp.Linear(2)], (2, 2, 3)))
    x = np.random.default_rng(3).standard_normal((3, 2, 2, 3)).astype(np.float32)
    assert_same_bits(net.forward(x), net.trace([x]).values[-1])
    assert net._programs


def test_changed_layers_are_seen() -> None:
    """Attributes belong to a program as weights do."""
    net = with_biases(fastlrp.Network([fastlrp.Format(-1, 1), fastlrp.Flatten(), fastlrp.Linear(2)], (2, 2, 1)))
    x = np.random.default_rng(4).random((3, 2, 2, 1), np.float32)
    before = net.forward(x)
    net.layers[0].low = 0.0
    assert_same_bits(net.forward(x), net.trace([x]).values[-1])
    assert not np.array_equal(net.forward(x), before)


def test_changed_layers_are_seen_by_plans() -> None:
    """ZBox's bounds come from Format; a pool's factor from its scale."""
    layers = fastlrp.Format(-1, 1), fastlrp.Conv2d(3, 3), fastlrp.SumPool2d(3), fastlrp.Flatten(), fastlrp.Linear(2)
    net = with_biases(fastlrp.Network(list(layers), (5, 5, 1)))
    x = np.random.default_rng(4).random((3, 5, 5, 1), np.float32)
    net.explain(x, composite="epsilon_gamma_box")
    net.layers[0].high, net.layers[2].scale = 3.0, 0.25
    again = pickle.loads(pickle.dumps(net))
    assert_same_bits(net.explain(x, composite="epsilon_gamma_box").relevance,
                     again.explain(x, composite="epsilon_gamma_box").relevance)


def test_more_forms_of_the_weights_than_are_kept() -> None:
    """A sweep over a rule's number drops old forms, also those that the run at hand has use for."""
    net = with_biases(mixed_network())
    for gamma in np.linspace(0.1, 1, 70):
        found = net.explain(X[:1], composite=Uniform(GammaSimple(float(gamma)))).relevance
    assert_same_bits(found, net.explain(X[:1], composite=Uniform(GammaSimple(1.0))).relevance)


@pytest.mark.parametrize("rule", [AlphaBeta(2, 1), AlphaBeta(1, 0), ZPlus(), Gamma(0.5), GammaSimple(0.0), Epsilon()])
@pytest.mark.usefixtures("isa")
def test_few_active_inputs(rule: Any) -> None:
    """Where an output has no positive part its quotient may be huge; none of it comes back to inputs without weight.
    Errors are those of the float32 twin, whose sums have their terms in some order that its BLAS chooses: the largest
    over several orders of the channels, since one sum that nearly cancels makes most of the error."""
    luck = 4 if rule == Epsilon() else 2
    net = fastlrp.Network([fastlrp.Conv2d(32, 3, padding=1), fastlrp.ReLU()], (12, 12, 32), seed=2)
    net.layers[0].bias = np.full(32, 0.1)
    other = fastlrp.Network([fastlrp.Conv2d(32, 3, padding=1), fastlrp.ReLU()], (12, 12, 32), seed=2)
    other.layers[0].bias = np.full(32, 0.1)
    rng = np.random.default_rng(5)
    x = np.where(rng.random((2, 12, 12, 32)) < 0.01, rng.random((2, 12, 12, 32)), 0).astype(np.float32)
    start = net.forward(x)
    for compat in ("zennit", "tensorflow_lrp"):
        own, exact = (n.explain(x, composite=Uniform(rule), start=start, compat=compat).relevance
                      for n in (net, net.to_numpy()))
        plain = []
        for order in (np.arange(32), np.arange(32)[::-1], np.random.default_rng(0).permutation(32)):
            other.layers[0].weight = net.layers[0].weight[:, :, order]
            found = other.to_numpy(np.float32).explain(x[..., order], composite=Uniform(rule), start=start,
                                                       compat=compat).relevance
            plain.append(relative_error(found, exact[..., order]))
        assert relative_error(own, exact) < max(1e-5, luck * max(plain))


def test_everything_of_the_package_is_recorded() -> None:
    """No layer or rule falls back to running at once."""
    for composite in COMPOSITES.values():
        NET._programs.clear()
        NET.explain(X, composite=composite())
        assert len(NET._programs) == 1


def test_new_weights_are_seen() -> None:
    """A program is not run with weights that are gone, and does not keep them alive."""
    net = with_biases(mixed_network())
    before = net.explain(X).relevance
    layer = net.weighted[0]
    packed = [weakref.ref(product) for product in layer._packed.values() if not isinstance(product, np.ndarray)]
    layer.weight = 2 * layer.weight
    gc.collect()
    assert packed and all(product() is None for product in packed)
    changed = net.explain(X).relevance
    assert not np.array_equal(before, changed)
    layer.weight = layer.weight / 2
    assert_same_bits(net.explain(X).relevance, before)
    layer.bias = layer.bias + 1
    assert_same_bits(net.explain(X).output, net.forward(X))


def test_the_recorder_has_every_verb_of_a_run() -> None:
    """All but questions about data."""
    verbs = {name for name in dir(NATIVE) if callable(getattr(NATIVE, name)) and not name.startswith(("_", "packed_"))}
    assert verbs - set(dir(Recorder)) == {"nonnegative_samples"}


@pytest.mark.parametrize(("rule", "products"), [
    (Epsilon(), 2), (ZPlus(), 3), (Gamma(0.25), 3), (AlphaBeta(2, 1), 4), (AlphaBeta(1, 0), 3), (Flat(), 2),
    (WSquare(), 2), (GammaSimple(), 3), (ZBox(-1, 1), 3)])
def test_rules_take_the_least_number_of_products(rule: Any, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward pass included, for a layer between ReLUs; each operand and side counts."""
    net = with_biases(fastlrp.Network([fastlrp.Conv2d(4, 3), fastlrp.ReLU(), fastlrp.Conv2d(5, 3, name="it"),
                                       fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(3)], (8, 8, 1)))
    x, recorded = np.abs(X[:, :8, :8, :1]), []
    net.explain(x, composite={"it": rule})  # makes what is kept for a layer

    def watch(verb: str) -> None:
        right = getattr(Recorder, verb)

        def watched(self: Recorder, layer: Any, first: Any, second: Any, **more: Any) -> Any:
            # operands, or operands and sides
            recorded.extend([layer.name] * len(first) * (len(second) if verb == "product_back" else 1))
            return right(self, layer, first, second, **more)
        monkeypatch.setattr(Recorder, verb, watched)
    watch("product")
    watch("product_back")
    net._programs.clear()
    net.explain(x, composite={"it": rule})
    assert recorded.count("it") == products


def test_only_what_outputs_need_is_kept() -> None:
    """Steps that lead nowhere go."""
    a, b, c, d = (Slot(i, (1,)) for i in range(4))
    steps = [Step("product", (b,), ((a, "plain", None),)), Step("product", (c,), ((a, "plain", None),)),
             Step("product", (d,), ((b, "plain", None),))]
    assert _needed(steps, [d]) == [steps[0], steps[2]]
    assert _needed(steps, [a]) == []


@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_first_of_equal_outputs_is_explained(n: int) -> None:
    """One sample after the other, and side by side."""
    net = with_biases(mixed_network())
    last = net.weighted[-1]
    last.weight, last.bias = np.zeros_like(last.weight), [1, 1, 0, 0]
    x = mixed_signs(np.random.default_rng(0), n, MIXED_SHAPE)
    assert not net.explain(x).target.any()


WINDOWS = {"side by side": {"kernel": 2}, "overlapping": {"kernel": 3, "stride": 2, "padding": 1},
           "apart": {"kernel": 2, "stride": 3}}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, -np.inf], ids=str)
def test_sum_pools_take_the_relus_beside_them(window: str, value: float, isa: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, in explanations and in training steps: the same bits in fewer steps."""
    x = mixed_signs(np.random.default_rng(0), 11, (7, 8, 2))
    t = np.arange(len(x)) % 3
    taken: list[Counter[str]] = []

    def run() -> list[np.ndarray]:
        net = with_biases(fastlrp.Network([
            fastlrp.Conv2d(5, 2), fastlrp.ReLU(), fastlrp.SumPool2d(**WINDOWS[window]), fastlrp.Conv2d(9, 1),
            fastlrp.ReLU(), fastlrp.AvgPool2d(1), fastlrp.Flatten(), fastlrp.Linear(3)], input_shape=x.shape[1:]))
        net.fit(x, t, batch_size=11, optimizer="sgd", progress=False)
        weights = [array for layer in net.parametric for array in layer.parameters.values()]
        bad = x.copy()
        bad[3, 2, 2] = value
        return [*weights, net(bad), net.explain(bad, 1, "epsilon_plus").relevance]

    def counted(steps: Any, external: Any) -> Any:
        kept = fused(steps, external)
        taken.append(Counter(step.op for step in steps) - Counter(step.op for step in kept))
        return kept

    fused = program.fused
    monkeypatch.setattr(program, "fused", lambda steps, external: steps)
    expected = run()
    monkeypatch.setattr(program, "fused", counted)
    for a, b in zip(run(), expected, strict=True):
        assert_same_bits(a, b)
    relus = {"activation": 2}  # forward; in outputs; in explanations, of non-negative samples and of others
    assert [ops for ops in taken if ops] == [relus, {"activation_backward": 2}, *[relus] * 3]


def ops_of_programs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The steps of every program from now on, by name."""
    found: list[list[str]] = []
    fused = program.fused

    def listed(steps: Any, external: Any) -> Any:
        kept = fused(steps, external)
        found.append([step.op for step in kept])
        return kept
    monkeypatch.setattr(program, "fused", listed)
    return found


@pytest.mark.parametrize("name", LINEAR)
def test_products_take_the_relu_after_them(name: str, isa: str, poisoned: Any,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form, one by one and side by side: the bits of two steps, not a number or infinite as they may be."""
    monkeypatch.setattr(program, "VECTORS_SIDE_BY_SIDE", (1,))
    ops, (shape, options) = ops_of_programs(monkeypatch), LINEAR[name]
    for bias in (True, False):
        layer = (fastlrp.Conv2d if "kernel" in options else fastlrp.Linear)(**options, bias=bias)
        net = fastlrp.Network([layer, fastlrp.ReLU()], shape)
        net = with_biases(net) if bias else net
        x = np.random.default_rng(8).standard_normal((_kernels.lanes() + 1, *shape)).astype(np.float32)
        assert_same_bits(net(x), net.trace([x]).values[-1])
        x.reshape(-1)[::7] = np.resize([np.nan, np.inf, -np.inf], x.reshape(-1)[::7].shape)
        np.testing.assert_array_equal(net(x), net.trace([x]).values[-1])
    assert ops == [["product"]] * 2


@pytest.mark.parametrize(("rule", "stays"), [(ZPlus(), 0), (Epsilon(), 1)], ids=["unused", "the rule divides by it"])
def test_relus_stay_where_rules_need_what_they_read(rule: Any, stays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In explanations; deconvolution's ReLU is at the end of a product too, one back."""
    net = with_biases(fastlrp.Network([fastlrp.Conv2d(5, 2), fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(3)],
                                      (5, 6, 2)))
    x, ops = mixed_signs(np.random.default_rng(0), 3, (5, 6, 2)), ops_of_programs(monkeypatch)
    assert_same_bits(net.explain(x, 1, Uniform(rule)).relevance, at_once(net, x, Uniform(rule), 1)["input"])
    assert ops[0].count("activation") == stays
    assert_same_bits(net.explain(x, 1, "deconvnet").relevance, at_once(net, x, "deconvnet", 1)["input"])
    assert "activation" not in ops[1]


def test_relus_that_others_read_stay(poisoned: Any) -> None:
    image = fastlrp.Input((6, 6, 2))
    x = fastlrp.ReLU()(fastlrp.Conv2d(5, 3)(image))
    x = fastlrp.Concat()(fastlrp.SumPool2d(2)(x), fastlrp.Conv2d(4, 2, stride=2)(x))
    net = fastlrp.Network.from_graph(image, fastlrp.Linear(3)(fastlrp.Flatten()(x)))
    batch = np.random.default_rng(1).standard_normal((9, 6, 6, 2)).astype(np.float32)
    found = net.explain(batch, 1, "epsilon_plus").relevance
    assert_same_bits(found, at_once(net, batch, "epsilon_plus", 1)["input"])


def test_boxes_balance_at_borders() -> None:
    """Of a padded convolution, what bounds add to the denominators differs from pixel to pixel."""
    net = fastlrp.Network([fastlrp.Conv2d(4, 3, padding=1, bias=False), fastlrp.ReLU(), fastlrp.Flatten(),
                           fastlrp.Linear(2)], input_shape=(6, 5, 2))
    x = np.random.default_rng(2).uniform(-1, 1, (9, 6, 5, 2)).astype(np.float32)
    found = net.explain(x, 1, {"conv1": ZBox(-1, 1)}, layers=True)
    assert relative_error(found.relevance.sum(axis=(1, 2, 3)), found.layers["conv1"].sum(axis=(1, 2, 3))) < 1e-5
