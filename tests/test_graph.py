"""Networks with branches: values, relevance, gradients, layouts, names, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, mixed_signs, relative_error, with_biases

import fastlrp
from fastlrp import (
    Add,
    Concat,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Multiply,
    Network,
    ReLU,
    Reshape,
    Sigmoid,
    Slice,
    SumPool2d,
    Transpose,
)
from fastlrp.composites import PRESETS, Uniform
from fastlrp.rules import AlphaBeta, Epsilon, Gamma, ZPlus

RNG = np.random.default_rng


def residual() -> Network:
    """x → conv → relu, twice, with a short cut and a projection."""
    x = Input((6, 5, 3))
    h = ReLU()(Conv2d(4, 3, padding=1, name="stem")(x))
    branch = Conv2d(4, 3, padding=1)(ReLU()(Conv2d(4, 3, padding=1)(h)))
    h = ReLU()(Add()(branch, h))
    h = ReLU()(Add()(Conv2d(6, 1, 2, name="projection")(h), Conv2d(6, 3, 2, padding=1)(h)))
    return Network.from_graph(x, Linear(3)(Flatten()(SumPool2d(2)(h))), seed=1)


def dense() -> Network:
    """Each block reads all before it."""
    x = Input((6, 5, 2))
    h = ReLU()(Conv2d(3, 3, padding=1)(x))
    for _ in range(2):
        h = Concat()(h, ReLU()(Conv2d(2, 3, padding=1)(h)), x)
    return Network.from_graph(x, Linear(4)(Flatten()(MaxPool2d(2)(h))), seed=2)


def excitation() -> Network:
    """A gate for each channel, made of the value itself."""
    x = Input((4, 4, 3))
    h = ReLU()(Conv2d(4, 3, padding=1)(x))
    gate = Sigmoid()(Conv2d(4, 1)(ReLU()(Conv2d(2, 1)(SumPool2d(4, scale=1 / 16)(h)))))
    return Network.from_graph(x, Linear(3)(Flatten()(Multiply()(h, gate))), seed=3)


def siamese() -> Network:
    """Two inputs through shared layers, and an inner product of a kind."""
    a, b = Input((5, 4, 2), name="left"), Input((5, 4, 2), name="right")
    conv, flat, dense = Conv2d(3, 2), Flatten(), Linear(4)
    one, two = (dense(flat(ReLU()(conv(value)))) for value in (a, b))
    return Network.from_graph([a, b], Linear(2, name="last")(Concat()(ReLU()(one), ReLU()(two))), seed=4)


def shuffled() -> Network:
    """A ShuffleNet's unit: half of the channels as they are, half worked on, then in turns; rows that overlap."""
    x = Input((6, 5, 3))
    h = ReLU()(Conv2d(6, 3, padding=1)(x))
    h = Concat()(Slice(-1, 0, 3)(h), ReLU()(Conv2d(3, 3, padding=1)(Slice(-1, 3)(h))))
    h = Reshape((6, 5, 6))(Transpose((0, 1, 3, 2))(Reshape((6, 5, 2, 3))(h)))
    h = Concat(axis=0)(Slice(0, 0, None, 2)(h), Slice(0, -3, -1)(h))
    return Network.from_graph(x, Linear(3)(Flatten()(h)), seed=5)


GRAPHS = {make.__name__: make for make in (residual, dense, excitation, siamese, shuffled)}
ALL_GRAPHS = pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
RULES = {**{name: preset() for name, preset in PRESETS.items()},
         **{str(rule): Uniform(rule) for rule in (Epsilon(0.01), ZPlus(), AlphaBeta(2, 1), Gamma(0.5))}}


def inputs(net: Network, n: int = 3, seed: int = 0) -> Any:
    found = [mixed_signs(RNG(seed + i), n, net.shapes[i]) for i in range(net.first)]
    return found if len(found) > 1 else found[0]


def as_list(found: Any) -> list[np.ndarray]:
    return found if isinstance(found, list) else [found]


# ---- independent formulas: a network of dense matrices, walked through by hand ----

def test_relevance_splits_over_add_in_proportion() -> None:
    """a_i R / s(Σ a): (2, 6) and (1, −3) of relevance (6, 9) give (4, 18) and (2, −9)."""
    x = Input((2,))
    net = Network.from_graph(x, Add()(fastlrp.Abs()(x), ReLU()(x), x))
    found = net.explain([[1.0, -2.0]], start=[[6.0, 9.0]], layers=True, composite=Uniform(Epsilon(0)))
    # |x| = (1, 2), max(x, 0) = (1, 0), x = (1, −2): the sum is (3, 0), of which the stabiliser makes 1e-6
    np.testing.assert_allclose(found.layers["abs1"], [[2, 9 * 2 / 1e-6]], rtol=1e-6)
    np.testing.assert_allclose(found.layers["relu1"], [[2, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.relevance, [[6, 0]], rtol=1e-6, atol=2)


def test_relevance_goes_by_position_through_concat() -> None:
    """And sums over the nodes that read a value."""
    x = Input((2, 1, 2))
    net = Network.from_graph(x, Flatten()(Concat(axis=0)(x, fastlrp.Abs()(x))))
    start = np.arange(8.0).reshape(1, 8)
    found = net.explain(np.ones((1, 2, 1, 2)), start=start, layers=True)
    np.testing.assert_array_equal(found.layers["abs1"].ravel(), [4, 5, 6, 7])
    np.testing.assert_array_equal(found.relevance.ravel(), [4, 6, 8, 10])


def test_relevance_of_parts_goes_by_position() -> None:
    """And sums where parts overlap; what is in none has none."""
    x = Input((2, 5))
    h = fastlrp.Abs()(x)
    net = Network.from_graph(x, Flatten()(Concat()(Slice(1, 3)(h), Slice(-1, 1, 4, 2)(h))))
    assert net.shapes[2:5] == [(2, 2), (2, 2), (2, 4)]
    found = net.explain(np.ones((1, 2, 5)), start=np.arange(1.0, 9).reshape(1, 8), layers=True)
    np.testing.assert_array_equal(found.layers["slice1"], [[[1, 2], [5, 6]]])
    np.testing.assert_array_equal(found.relevance, [[[0, 3, 0, 1 + 4, 2], [0, 7, 0, 5 + 8, 6]]])


def test_lrp_0_of_parts_is_gradient_times_input() -> None:
    """With biases; where values are split, shuffled and joined."""
    net = with_biases(shuffled()).to_numpy()
    x = inputs(net)
    found = net.explain(x, 1, Uniform(Epsilon(1e-14))).relevance
    assert relative_error(found, net.explain(x, 1, "gradient_x_input", start="one").relevance) < 1e-9
    assert found.any()


def test_splitting_and_joining_changes_nothing() -> None:
    """Bit by bit, whatever the axis and the rule."""
    def network(axis: int | None) -> Network:
        x = Input((6, 4, 2))
        h = ReLU()(Conv2d(6, 3, padding=1)(x))
        if axis is not None:
            h = Concat(axis)(Slice(axis, 0, 1)(h), Slice(axis, 1, 3)(h), Slice(axis, -3 if axis != 1 else -1)(h))
        return with_biases(Network.from_graph(x, Linear(3)(Flatten()(MaxPool2d(2)(h))), seed=6))
    whole = network(None)
    for composite in ("epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box", "guided_backprop"):
        expected = whole.explain(inputs(whole), composite=composite)
        for axis in (0, 1, 2):
            found = network(axis).explain(inputs(whole), composite=composite)
            assert_same_bits(found.output, expected.output)
            assert_same_bits(found.relevance, expected.relevance)


def test_large_samples_are_copied_in_pieces() -> None:
    """Concatenated, padded and transposed as NumPy has it; threads share out a sample's places."""
    image = Input((70, 50, 8))
    both = Concat()(fastlrp.Abs()(image), ReLU()(image))
    net = Network.from_graph(image, Transpose((1, 0, 2))(fastlrp.Pad2d(1, 0.5)(both)))
    x = RNG(0).standard_normal((2, 70, 50, 8)).astype(np.float32)
    expected = np.pad(np.concatenate([np.abs(x), np.maximum(x, 0)], -1), ((0, 0), (1, 1), (1, 1), (0, 0)),
                      constant_values=0.5).swapaxes(1, 2)
    assert_same_bits(net.forward(x), expected)


def test_gates_are_constants_for_relevance() -> None:
    """All of it goes to the value; a gate's branch has none. Gradients know both."""
    net = with_biases(excitation())
    found = net.explain(inputs(net), layers=True)
    assert not found.layers["sigmoid1"].any() and not found.layers["conv2"].any()
    assert_same_bits(found.layers["relu1"], found.layers["multiply1"])
    assert net.explain(inputs(net), composite="gradient", layers=True).layers["sigmoid1"].any()


@ALL_GRAPHS
@pytest.mark.parametrize("composite", RULES.values(), ids=RULES)
def test_kernels_and_twin_agree(make: Callable[[], Network], composite: Any) -> None:
    """Forward, and every layer's relevance."""
    net = with_biases(make())
    net.test(inputs(net), composite=composite, tolerance=1e-4)


@ALL_GRAPHS
def test_the_gradient_is_that_of_finite_differences(make: Callable[[], Network]) -> None:
    """Of the target's logit, in every input."""
    net = with_biases(make()).to_numpy()
    x = [array.astype(np.float64) for array in as_list(inputs(net, 2))]
    found = as_list(net.explain(x if net.first > 1 else x[0], 1, "gradient").relevance)
    for i, own in enumerate(x):
        direction, h = RNG(5).standard_normal(own.shape), 1e-6
        ends = []
        for sign in (h, -h):
            moved = [a + sign * direction if k == i else a for k, a in enumerate(x)]
            ends.append(net.forward(moved if net.first > 1 else moved[0])[:, 1])
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose((found[i] * direction).sum(axis=(1, 2, 3)), slope, rtol=1e-5, atol=1e-7)


@ALL_GRAPHS
def test_relevance_is_conserved(make: Callable[[], Network]) -> None:
    """Without biases and with ε → 0, but for gates, which take none; node by node and in the whole."""
    net = make().to_numpy()
    x = inputs(net, 4)
    found = net.explain(x, composite=Uniform(Epsilon(0)), compat="zennit")
    total = sum(r.reshape(4, -1).sum(axis=1) for r in as_list(found.relevance))
    np.testing.assert_allclose(total, found.start.sum(axis=1), rtol=1e-4)
    ratio = net.conservation_check(x, composite=Uniform(Epsilon(0))).ratio
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)


@ALL_GRAPHS
def test_results_do_not_depend_on_the_batch(make: Callable[[], Network], threads: None) -> None:
    """Nor on the number of threads, nor on whether a program runs them."""
    net = with_biases(make())
    x = inputs(net, 7)
    whole = as_list(net.explain(x).relevance)
    fastlrp.set_num_threads(3)
    for i in range(7):
        one = [a[i:i + 1] for a in as_list(x)]
        part = as_list(net.explain(one if net.first > 1 else one[0]).relevance)
        for a, b in zip(part, whole, strict=True):
            assert_same_bits(a[0], b[i])
    eager = net.trace(net.as_inputs(x)).values[net.outputs[0]]
    assert_same_bits(net.forward(x), eager)


@ALL_GRAPHS
def test_networks_with_branches_are_programs(make: Callable[[], Network]) -> None:
    """All verbs of their runs can be recorded, but for the gradient of a gate that repeats."""
    net = with_biases(make())
    net.forward(inputs(net, 1))
    net.explain(inputs(net, 1))
    assert len(net._programs) == 2


def test_inputs_that_relevance_does_not_reach_have_none() -> None:
    """Inner layers may not depend on every input."""
    net = siamese()
    found = net.explain(inputs(net), composite="epsilon_plus", start_layer="linear1", layers=True)
    assert found.relevance[0].any() and not found.relevance[1].any()


@pytest.mark.parametrize("rule", [Gamma(0.5), AlphaBeta(2, 1), Epsilon(0.01)], ids=str)
def test_what_one_reader_leaves_another_may_bring(rule: Any) -> None:
    """Relevance that is zero where a value is negative, by a ReLU, is not where it has a second reader."""
    x = Input((6, 6, 3))
    h = Conv2d(8, 3, padding=1)(ReLU()(x))
    net = with_biases(Network.from_graph(x, Linear(3)(Flatten()(Concat()(ReLU()(h), fastlrp.Tanh()(h)))), seed=3))
    found = net.explain(inputs(net), composite=Uniform(rule), layers=True)
    again = net.explain(inputs(net), composite=Uniform(rule), start=found.layers["conv1"], start_layer="conv1")
    assert relative_error(again.relevance, found.relevance) < 1e-5


def test_shared_layers_have_one_set_of_weights() -> None:
    """Named by use; equal inputs give equal values; gradients add up."""
    net = with_biases(siamese())
    assert [node.name for node in net.nodes][:6] == ["conv1", "flatten1", "linear1", "relu1", "conv1:2", "relu2"] or \
        "conv1:2" in [node.name for node in net.nodes]
    assert len(net.weighted) == 3
    x = inputs(net)[0]
    trace = net.trace(net.as_inputs([x, x]))
    one, two = (trace.values[net.first + net.find(name)] for name in ("linear1", "linear1:2"))
    assert_same_bits(one, two)
    rules = {"conv1": ZPlus(), "linear1:2": Epsilon(1.0)}
    assert relative_error(net.explain([x, x], composite=rules).relevance[0],
                          net.explain([x, x], composite=rules).relevance[1]) > 1e-3


@ALL_GRAPHS
def test_training_gradients_are_finite_differences(make: Callable[[], Network]) -> None:
    """In every parameter, shared ones too."""
    from fastlrp.train.loop import gradients
    net = with_biases(make()).to_numpy()
    x, h = inputs(net, 4), 1e-6
    t = RNG(3).uniform(0, 1, (4, *net.output_shape))
    _, found = gradients(net, x, t)
    for layer in net.weighted:
        for key, value in layer.parameters.items():
            direction = RNG(4).standard_normal(value.shape)
            losses = []
            for sign in (h, -h):
                setattr(layer, key, value + sign * direction)
                losses.append(gradients(net, x, t)[0])
            setattr(layer, key, value)
            slope = (losses[0] - losses[1]) / (2 * h)
            np.testing.assert_allclose((found[layer.name][key] * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_networks_with_branches_learn() -> None:
    """Two steps of Adam, with two inputs."""
    net = siamese()
    x, before = inputs(net, 20), net.weighted[0].weight
    history = net.fit(x, RNG(0).integers(0, 2, 20), epochs=2, batch_size=10, validation_data=(x, np.zeros(20, int)))
    assert history.steps == 4 and not np.array_equal(before, net.weighted[0].weight)


def test_several_outputs() -> None:
    """A list comes back; the first is explained unless `start_layer` says otherwise; training asks for one."""
    x = Input((6,))
    h = ReLU()(Linear(5)(x))
    net = Network.from_graph(x, [Linear(3, name="a")(h), Linear(2, name="b")(h)])
    a, b = net.forward(np.ones((4, 6)))
    assert a.shape == (4, 3) and b.shape == (4, 2) and net.output_shape == ((3,), (2,))
    assert_same_bits(net.explain(np.ones((4, 6))).output, a)
    assert_same_bits(net.explain(np.ones((4, 6)), start_layer="b").output, b)
    with pytest.raises(ValueError, match="one output"):
        net.fit(np.ones((4, 6)), [0, 1, 2, 0])


def test_lrp_explains_the_first_output() -> None:
    """As `explain` does, whatever was made last."""
    x = Input((6,))
    h = ReLU()(Linear(5)(x))
    a = Linear(3, name="a")(h)
    net = Network.from_graph(x, [a, Linear(2)(h)])
    found = net.lrp(np.ones((2, 6)), 2)
    assert_same_bits(found, net.explain(np.ones((2, 6)), 2, "simple").relevance)


def test_sensitivity_stops_where_a_value_has_two_readers() -> None:
    """The gradient at the formatted input, or at the input where that is read beside Format."""
    x = Input((2,))
    net = Network.from_graph(x, Linear(1)(Concat()(fastlrp.Format(-1, 1)(x), x)))
    net.layers[-1].weight = [[1], [1], [10], [10]]
    np.testing.assert_allclose(net.sensitivity(np.ones((1, 2))), [[12, 12]])


def test_layers_that_no_output_needs_do_not_learn() -> None:
    """A file may hold them."""
    net = Network.of_nodes([(Linear(2), (0,)), (Linear(3), (0,))], [("", (3,))], [1], False)
    net.reset_params()
    before = net.layers[1].weight
    net.fit(np.ones((2, 3)), [0, 1])
    assert_same_bits(net.layers[1].weight, before)


# ---- channels first ----

def both_layouts(channels_first: bool) -> Network:
    x = Input((6, 5, 3))
    h = fastlrp.Normalize([0.1, 0.2, 0.3], [1, 2, 3])(x)
    h = MaxPool2d(2)(ReLU()(Conv2d(4, 3, padding=1)(h)))
    flat = Flatten()(fastlrp.ToChannelsFirst()(h)) if channels_first else Flatten()(h)
    return with_biases(Network.from_graph(x, Linear(3)(flat), channels_first=channels_first))


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box", "gradient_x_input", "deep_taylor"])
def test_channels_first_is_the_same_in_another_order(composite: str) -> None:
    """Inputs, relevance, layers and starts of inner layers; what a Linear layer reads is in (C, H, W) order."""
    last, net = both_layouts(False), both_layouts(True)
    net.weighted[0].weight, net.weighted[0].bias = last.weighted[0].weight, last.weighted[0].bias
    net.weighted[1].bias = last.weighted[1].bias
    net.weighted[1].weight = last.weighted[1].weight.reshape(3, 2, 4, 3).transpose(2, 0, 1, 3).reshape(24, 3)
    x = mixed_signs(RNG(0), 4, (6, 5, 3))
    assert net.input_shape == (3, 6, 5) and net.surface_shape(3) == (4, 6, 5)
    found, expected = net.explain(first(x), composite=composite, layers=True), last.explain(
        x, composite=composite, layers=True)
    assert relative_error(found.output, expected.output) < 1e-6
    assert found.relevance.flags.c_contiguous
    assert relative_error(found.relevance, first(expected.relevance)) < 1e-5
    assert relative_error(found.layers["maxpool1"], first(expected.layers["maxpool1"])) < 1e-5
    assert found.layers["to_channels_first1"].shape == (4, 4, 3, 2)
    start = mixed_signs(RNG(1), 4, (6, 5, 4))
    inner = net.explain(first(x), start=first(start), start_layer="conv1", composite=composite).relevance
    assert relative_error(inner, first(last.explain(x, start=start, start_layer="conv1",
                                                    composite=composite).relevance)) < 1e-5


def test_slices_take_the_inside_s_axes() -> None:
    """As Concat does: of a spatial value −1 are the channels, whatever users see."""
    x = Input((6, 5, 4))
    rows, channels = Slice(0, 1, None, 2), Slice(-1, 2)
    net = Network.from_graph(x, ReLU()(channels(rows(x))), channels_first=True)
    assert [net.surface_shape(i) for i in range(3)] == [(4, 6, 5), (4, 3, 5), (2, 3, 5)]
    data = mixed_signs(RNG(0), 2, (4, 6, 5))
    assert_same_bits(net.forward(data), np.maximum(data[:, 2:, 1::2], 0))
    found = net.explain(data, start=np.ones((2, 2, 3, 5)), layers=True)
    assert found.layers["slice1"].shape == (2, 4, 3, 5) and found.relevance[:, 2:, 1::2].all()
    assert found.relevance.sum() == 2 * 2 * 3 * 5


def test_bounds_have_the_surface_s_layout() -> None:
    """Of an image, of a flattened image, per channel."""
    x, low = mixed_signs(RNG(0), 2, (4, 3, 2)), -RNG(1).uniform(1, 2, (4, 3, 2))

    def flat(channels_first: bool) -> Network:
        value = Input((4, 3, 2))
        order = [fastlrp.ToChannelsFirst()] if channels_first else []
        h = value
        for layer in (*order, Flatten(), Linear(3)):
            h = layer(h)
        return Network.from_graph(value, h, channels_first=channels_first)

    last, net = flat(False), flat(True)
    net.weighted[0].weight = last.weighted[0].weight.reshape(4, 3, 2, 3).transpose(2, 0, 1, 3).reshape(24, 3)
    for bounds in ((low, -low), (-2, 2), (low[0, 0], -low[0, 0])):
        moved = [np.moveaxis(b, -1, 0) if np.ndim(b) == 3 else b for b in bounds]
        found = net.explain(first(x), composite=fastlrp.composites.DeepTaylor(*moved)).relevance
        expected = last.explain(x, composite=fastlrp.composites.DeepTaylor(*bounds)).relevance
        assert relative_error(found, first(expected)) < 1e-6


# ---- making graphs, and errors ----

def test_prints_what_nodes_read() -> None:
    """Where that is not the line before; sequences have no such column."""
    text = repr(residual())
    assert "reads" in text.splitlines()[0] and "conv2, relu1" in text.replace("conv3", "conv2")
    assert "reads" not in repr(Network([ReLU(), Linear(3)], (4,)))


def chain(*layers: Any) -> Any:
    value = Input((4, 4, 2))
    for layer in layers:
        value = layer(value)
    return value


X = Input((4, 4, 2))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no value": (lambda: ReLU()(np.ones(3)), "called on values.*ndarray"),
    "two values": (lambda: ReLU()(X, X), "one value, got 2"),
    "one value": (lambda: Network.from_graph(X, Add()(X)), "at least two values"),
    "no input": (lambda: Network.from_graph([], ReLU()(X)), "inputs must hold"),
    "a layer as input": (lambda: Network.from_graph(ReLU()(X), ReLU()(X)), "inputs must be one Input"),
    "an array as output": (lambda: Network.from_graph(X, np.ones(3)), "outputs must be one Value"),
    "an input as output": (lambda: Network.from_graph(X, X), "outputs must be made by layers"),
    "another input": (lambda: Network.from_graph(X, ReLU()(Input((3,)))), r"Input\(\(3,\)\), which is not among"),
    "an unused input": (lambda: Network.from_graph([X, Input((3,))], ReLU()(X)), r"do not depend on \[Input\(\(3,\)"),
    "an input twice": (lambda: Network.from_graph([X, X], ReLU()(X)), "differ"),
    "shapes of Add": (lambda: Network.from_graph(X, Add()(X, Conv2d(2, 3)(X))), "add1.*one shape"),
    "shapes of Concat": (lambda: Network.from_graph(X, Concat()(X, Conv2d(2, 3)(X))), "concat1.*axis -1"),
    "axis of Concat": (lambda: Network.from_graph(X, Concat(3)(X, X)), "concat1.*axis must be from -3 to 2"),
    "a gate that is larger": (lambda: Network.from_graph(X, Multiply()(MaxPool2d(4)(X), X)), "multiply1.*gate"),
    "axes": (lambda: fastlrp.Transpose((0, 0, 1)), "axes must hold each axis"),
    "axes of images": (lambda: Network.from_graph(X, fastlrp.Transpose((1, 0))(X)), "transpose1.*2 axes"),
    "names": (lambda: Network.from_graph(X, ReLU(name="input")(X)), "input.*more than once"),
    "shared at two shapes": (lambda: Network.from_graph(X, shared_at_two_shapes()), "conv1.*already built"),
    "spatial and plain": (lambda: Network.from_graph(X, Add()(X, fastlrp.Reshape((4, 4, 2))(X)), channels_first=True),
                          "spatial and plain"),
    "merge in a sequence": (lambda: Network([Add()], (3,)), "from_graph"),
    "number of inputs": (lambda: siamese().forward(np.ones((1, 5, 4, 2))), "left.*right"),
    "input shape": (lambda: siamese().forward([np.ones((1, 5, 4, 2)), np.ones((1, 4, 4, 2))]), r"x\[1\] \('right'\)"),
    "number of samples": (lambda: siamese().forward([np.ones((n, 5, 4, 2)) for n in (1, 2)]), r"x\[1\].*samples"),
}


def shared_at_two_shapes() -> Any:
    conv = Conv2d(2, 3)
    return conv(conv(X))


@pytest.mark.parametrize("name", BAD)
def test_graphs_that_do_not_fit_are_refused_by_name(name: str) -> None:
    """The message names the argument or the layer, what was expected and what came."""
    make, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_deep_graphs_need_no_deep_stack() -> None:
    """Nothing walks through a graph by recursion."""
    value = x = Input((1,))
    for _ in range(20_000):
        value = fastlrp.Abs()(value)
    net = Network.from_graph(x, value)
    np.testing.assert_array_equal(net.explain([[-2.0]], start=[[3.0]]).relevance, [[3]])
