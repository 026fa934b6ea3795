"""BatchNorm folded: forward unchanged, rules on merged weights, names kept; what cannot be folded is an affine map."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, mixed_signs, relative_error, with_biases

import fastlrp
from fastlrp import BatchNorm, Concat, Conv2d, Dropout, Flatten, Input, Linear, Network, ReLU, Slice
from fastlrp.canonize import folded
from fastlrp.composites import Uniform
from fastlrp.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus

RNG = np.random.default_rng


def trained_like(net: Network) -> Network:
    """Biases, and statistics as training leaves them."""
    rng = RNG(5)
    for layer in with_biases(net).layers:
        if isinstance(layer, BatchNorm):
            for key, (low, high) in {"weight": (-1.5, 1.5), "bias": (-1, 1), "mean": (-1, 1),
                                     "variance": (0.2, 3)}.items():
                setattr(layer, key, rng.uniform(low, high, getattr(layer, key).shape))
    return net


def sequence(*layers: Any, shape: tuple[int, ...] = (6, 5, 4)) -> Network:
    return Network(list(layers), shape)


def chain(value: Any, *layers: Any) -> Any:
    for layer in layers:
        value = layer(value)
    return value


def two_readers() -> Network:
    x = Input((6, 5, 4))
    h = Conv2d(4, 3, padding=1)(x)
    return Network.from_graph(x, chain(Concat()(BatchNorm()(h), h), Flatten(), Linear(3)))


def shared() -> Network:
    x, conv = Input((6, 5, 4)), Conv2d(4, 3, padding=1)
    return Network.from_graph(x, chain(Concat()(BatchNorm()(conv(x)), conv(x)), Flatten(), Linear(3)))


def an_output() -> Network:
    x = Input((6, 5, 4))
    h = Conv2d(4, 3)(x)
    return Network.from_graph(x, [chain(BatchNorm()(h), Flatten(), Linear(3)), h])


def densely() -> Network:
    """BatchNorm → ReLU → convolution, as in DenseNet: only the one after a convolution can be folded."""
    x = Input((6, 5, 4))
    h = Conv2d(3, 3, padding=1)(x)
    y = chain(h, BatchNorm(name="free"), ReLU(), Conv2d(4, 1), BatchNorm(), ReLU(), Conv2d(2, 3, padding=1))
    return Network.from_graph(x, chain(Concat()(h, y), Flatten(), Linear(3)))


# network, and the BatchNorm layers that stay
FOLDED: dict[str, tuple[Callable[[], Network], list[str]]] = {
    "after a convolution": (lambda: sequence(Conv2d(3, 3, padding=1), BatchNorm(), ReLU(), Flatten(), Linear(3)), []),
    "after one without bias": (lambda: sequence(Conv2d(3, 3, bias=False), BatchNorm(), Flatten(), Linear(3)), []),
    "after a grouped one": (lambda: sequence(Conv2d(6, 3, 2, 1, groups=2), BatchNorm(), Flatten(), Linear(3)), []),
    "after dropout": (lambda: sequence(Conv2d(3, 2), Dropout(), BatchNorm(), Flatten(), Linear(3)), []),
    "after a dense layer": (lambda: sequence(Linear(5), BatchNorm(), ReLU(), Linear(3), shape=(7,)), []),
    "of features after a reshape": (lambda: sequence(Linear(8), fastlrp.Reshape((2, 4)), fastlrp.Transpose((1, 0)),
                                                     Flatten(), BatchNorm(), ReLU(), Linear(3), shape=(7,)), []),
    "two in a row": (lambda: sequence(Conv2d(3, 3), BatchNorm(), BatchNorm(), Flatten(), Linear(3)), []),
    "before a convolution": (lambda: sequence(BatchNorm(), Conv2d(3, 3), ReLU(), Flatten(), Linear(3)), []),
    "before one with padding": (lambda: sequence(BatchNorm(), Conv2d(6, 3, 2, 1), ReLU(), Flatten(), Linear(3)), []),
    "before a wide one": (lambda: sequence(BatchNorm(), Conv2d(33, 3, 1, 1), ReLU(), Conv2d(32, 3, 1, 1), ReLU(),
                                           Flatten(), Linear(3), shape=(8, 8, 32)), []),
    "before a grouped one": (lambda: sequence(BatchNorm(), Conv2d(4, 3, padding=1, groups=2), Flatten(), Linear(3)),
                             []),
    "before a depthwise one": (lambda: sequence(BatchNorm(), Conv2d(4, 3, padding=1, groups=4), Flatten(), Linear(3)),
                               []),
    "before a flattened dense layer": (lambda: sequence(ReLU(), BatchNorm(), Dropout(), Flatten(), Linear(3)), []),
    "of features after a convolution": (lambda: sequence(Conv2d(3, 3), Flatten(), BatchNorm(), ReLU(), Linear(3)),
                                        ["batchnorm1"]),
    "after a ReLU, before one": (lambda: sequence(ReLU(), BatchNorm(), ReLU(), Flatten(), Linear(3)), ["batchnorm1"]),
    "over padding": (lambda: sequence(BatchNorm(), fastlrp.Pad2d(1), Conv2d(3, 3), Flatten(), Linear(3)),
                     ["batchnorm1"]),
    "before a part of the channels": (lambda: sequence(BatchNorm(), Slice(-1, 1, 3), Conv2d(3, 3, padding=1), Flatten(),
                                                       Linear(3)), []),
    "before a part of the rows": (lambda: sequence(BatchNorm(), Slice(0, 1), Conv2d(3, 3), Flatten(), Linear(3)), []),
    "after a part of the channels": (lambda: sequence(Conv2d(6, 3), Slice(-1, 1, None, 2), BatchNorm(), ReLU(),
                                                      Flatten(), Linear(3)), []),
    "after a part of the rows": (lambda: sequence(Conv2d(6, 3), Slice(0, 1), BatchNorm(), ReLU(), Flatten(), Linear(3)),
                                 ["batchnorm1"]),
    "two readers": (two_readers, ["batchnorm1"]),
    "a shared layer": (shared, ["batchnorm1"]),
    "an output before it, so into the dense layer after it": (an_output, []),
    "DenseNet": (densely, ["free"]),
}
ALL_FOLDED = pytest.mark.parametrize("name", FOLDED)
RULES = [Epsilon(), ZPlus(), AlphaBeta(2, 1), Gamma(0.3), WSquare(), Flat(), ZBox(-3, 3)]


def made(name: str) -> tuple[Network, np.ndarray]:
    net = trained_like(FOLDED[name][0]())
    return net, mixed_signs(RNG(0), 3, net.shapes[0])


@ALL_FOLDED
def test_forward_is_unchanged(name: str) -> None:
    """Beside the layers one by one, which nothing folds; all that can be is an Identity of the same name."""
    net, x = made(name)
    for each, bound in ((net, 1e-5), (net.to_numpy(), 1e-12)):
        exact = each.trace(each.as_inputs(x)).values[each.outputs[0]]
        found = each.forward(x)
        assert relative_error(found[0] if isinstance(found, list) else found, exact) < bound
    run = folded(net)
    assert [layer.name for layer in run.layers if isinstance(layer, BatchNorm)] == FOLDED[name][1]
    assert [node.name for node in run.nodes] == [node.name for node in net.nodes]


@ALL_FOLDED
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_kernels_and_twin_agree(name: str, rule: Any) -> None:
    """Every rule on merged weights, and on biases that differ from place to place. What an affine map divides by may be
    almost nothing."""
    net, x = made(name)
    net.test(x, composite=Uniform(rule), tolerance=1e-3 if FOLDED[name][1] else 1e-4)


@ALL_FOLDED
def test_lrp_0_is_gradient_times_input(name: str) -> None:
    """Through all of the layers as they are: ε → 0 (that of what cannot be folded stays), biases kept."""
    net, x = made(name)
    twin = net.to_numpy()
    found = twin.explain(x, 1, Uniform(Epsilon(1e-14))).relevance
    trace = twin.trace(twin.as_inputs(x))
    g: list[Any] = [None] * len(trace.values)
    g[twin.outputs[0]] = np.zeros_like(trace.values[twin.outputs[0]])
    g[twin.outputs[0]][:, 1] = 1
    for i in reversed(range(twin.outputs[0])):
        node, own = twin.nodes[i], g[i + 1]
        if own is not None:
            back = node.layer.backward(twin.ops, own, node.reads(trace.values), trace.kept[i])
            for value, part in zip(node.inputs, node.parts(back), strict=True):
                g[value] = part if g[value] is None else g[value] + part
    assert relative_error(found, g[0] * x) < (1e-4 if FOLDED[name][1] else 1e-9)


def test_rules_see_the_merged_weights() -> None:
    """As a network that was built so: after a layer W s and (b − μ) s + β."""
    net, x = made("after a convolution")
    conv, norm, *_, last = net.layers
    s = norm.weight / np.sqrt(norm.variance + 1e-5)
    other = sequence(Conv2d(3, 3, padding=1), ReLU(), Flatten(), Linear(3))
    other.layers[0].weight, other.layers[0].bias = conv.weight * s, (conv.bias - norm.mean) * s + norm.bias
    other.layers[3].weight, other.layers[3].bias = last.weight, last.bias
    for rule in RULES:
        found, expected = (n.explain(x, 0, Uniform(rule), layers=True) for n in (net, other))
        assert relative_error(found.relevance, expected.relevance) < 1e-5
        assert_same_bits(found.layers["batchnorm1"], found.layers["conv1"])


def test_a_bias_map_is_the_shift_seen_through_the_filters() -> None:
    """With padding, border outputs see less of it: b + Σ over real inputs of W t."""
    net, _ = made("before one with padding")
    norm, conv = net.layers[:2]
    t = norm.bias - norm.mean * norm.weight / np.sqrt(norm.variance + 1e-5)
    bias = folded(net).layers[1].bias
    assert bias.shape == (3, 3, 6)
    np.testing.assert_allclose(bias[1, 1], conv.bias + np.einsum("yxio,i->o", conv.weight, t), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias[0, 1], conv.bias + np.einsum("yxio,i->o", conv.weight[1:], t), rtol=1e-4, atol=1e-5)


def test_what_is_not_folded_is_an_affine_map() -> None:
    """Its bias takes a share, as of any linear layer: x s R / s_ε(y); zennit's convention passes relevance."""
    net, x = made("after a ReLU, before one")
    norm = net.layers[1]
    s = norm.weight / np.sqrt(norm.variance + 1e-5)
    found = net.explain(x, 0, layers=True)
    y, r = net.trace([x]).values[2], found.layers["batchnorm1"]
    expected = np.maximum(x, 0) * s * r / (y + np.where(y < 0, -1e-6, 1e-6))
    assert relative_error(found.layers["relu1"], expected) < 1e-4
    passed = net.explain(x, 0, layers=True, compat="zennit")
    assert_same_bits(passed.layers["relu1"], passed.layers["batchnorm1"])
    own = net.explain(x, 0, {"batchnorm1": Epsilon(0.25)}, layers=True, compat="zennit")
    expected = np.maximum(x, 0) * s * own.layers["batchnorm1"] / (y + np.where(y < 0, -0.25, 0.25))
    assert relative_error(own.layers["relu1"], expected) < 1e-4


def test_folding_follows_the_parameters() -> None:
    """Folded anew where any has changed, once where none has; training goes on with the layers as they are."""
    net, x = made("after a convolution")
    before, run = net.forward(x), folded(net)
    assert folded(net) is run and isinstance(run, Network)
    net.layers[1].bias = net.layers[1].bias + 1
    assert folded(net) is not run
    run = folded(net)
    net.layers[1].eps = 0.5
    assert folded(net) is not run and relative_error(net.forward(x), before) > 1e-3
    copy = pickle.loads(pickle.dumps(net))
    assert_same_bits(copy.forward(x), net.forward(x))
    net.fit(x, [0, 1, 2], batch_size=3)
    assert relative_error(net.forward(x), net.trace([x]).values[-1]) < 1e-5


@pytest.mark.parametrize("name", ["linear1", "batchnorm1"])
def test_what_is_explained_is_not_folded_away(name: str) -> None:
    """An inner layer's own output is explained, not that of the BatchNorm after it or the input of the one before."""
    nets = [trained_like(sequence(Linear(5), BatchNorm(), ReLU(), Linear(3), shape=(7,))),
            trained_like(sequence(Linear(5, name="other"), ReLU(), BatchNorm(), Linear(3), shape=(7,)))]
    x = mixed_signs(RNG(0), 3, (7,))
    for net in nets:
        if name in [node.name for node in net.nodes]:
            own = net.trace([x]).values[1 + net.find(name)]
            found = net.explain(x, start_layer=name)
            assert relative_error(found.output, own) < 1e-6
            assert (found.target == own.argmax(axis=1)).all()
            assert relative_error(net.lrp(x, None, explain_layer_id=net.find(name)),
                                  net.explain(x, start=own, start_layer=name, composite="simple").relevance) < 1e-5


def test_rows_of_batch_norms_vanish() -> None:
    """Into the layer after them, too."""
    net = trained_like(sequence(ReLU(), BatchNorm(), BatchNorm(), Conv2d(3, 3), Flatten(), Linear(3)))
    assert not any(isinstance(layer, BatchNorm) for layer in folded(net).layers)


def test_networks_without_batch_norm_are_left_alone() -> None:
    net = sequence(Conv2d(3, 3), Flatten(), Linear(3))
    assert folded(net) is net
