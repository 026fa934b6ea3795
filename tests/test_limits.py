"""Sizes beyond all reason, values that are not finite, layers and rules that callers bring: no crash, no surprise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import fastlrp
from fastlrp import Conv2d, Flatten, Format, Linear, MaxPool2d, Network, Normalize, Pad2d, ReLU, SumPool2d
from fastlrp.composites import Uniform
from fastlrp.rules import ZBox


@pytest.mark.parametrize("layer", [
    lambda: Conv2d(1, 1, padding=2**61, stride=2**61), lambda: Conv2d(1, 2, dilation=2**62, padding=2**61),
    lambda: Conv2d(1, 1, padding=2**30, stride=2**30), lambda: Conv2d(1, 1, stride=2**63),
    lambda: SumPool2d(2**63, padding=2**62), lambda: Linear(2**63), lambda: Pad2d(2**20),
], ids=range(7))
def test_sizes_beyond_all_reason_are_refused(layer):
    with pytest.raises(ValueError, match=r"less than|more than"):
        Network([layer()], (5, 5, 1))
    with pytest.raises(ValueError, match=r"linear1.*weights"):
        Network([Linear(2**30)], (2**10,))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_infinite_weights_act_alike_at_any_place_in_a_batch(value):
    """Border pixels share blocks with other samples' pixels, but not their taps."""
    net = Network([Conv2d(3, 3, padding=1)], (5, 5, 2))
    weight = net.layers[0].weight.copy()
    weight[0, 0, 0, 0] = value
    net.layers[0].weight = weight
    x = np.random.default_rng(0).standard_normal((9, 5, 5, 2)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        together = net.forward(x)
        alone = np.concatenate([net.forward(x[i:i + 1]) for i in range(len(x))])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("layers", "expected"), [
    ([Format(-1, 1)], (-1, 1)), ([Format(0, 255), Normalize(100, 50)], (-2, 3.1)),
    ([Format(-1, 1), MaxPool2d(2)], (-1, 1)),
    ([Format(-1, 1), SumPool2d(2)], None), ([Format(0, 1), Pad2d(1, -5)], None), ([Format(-1, 1), ReLU()], None),
    ([], None),
], ids=range(7))
def test_the_range_of_the_first_layer_s_input(layers, expected):
    """Known after Format and Normalize, in any order, and layers that keep it; else unknown."""
    found = Network([*layers, Conv2d(2, 2)], (6, 6, 1)).input_bounds()
    assert (found is None) == (expected is None)
    if found:
        np.testing.assert_allclose([float(bound) for bound in found], expected)


@dataclass(frozen=True, eq=False)
class DoubledBox(ZBox):
    """A rule of a caller's own that differs from ZBox by its class alone."""

    @property
    def terms(self):
        return (("p", 2.0),)


def test_rules_of_other_classes_are_other_rules():
    assert ZBox(-1, 1) == ZBox(-1.0, 1.0) != DoubledBox(-1, 1) != ZBox(-1, 1)
    assert {ZBox(-1, 1): 1}.get(DoubledBox(-1, 1)) is None
    net = Network([Conv2d(2, 2)], (4, 4, 1))
    x, start = np.ones((1, 4, 4, 1)), np.ones((1, 3, 3, 2))
    plain, doubled = (net.explain(x, composite=Uniform(rule(-1, 2)), start=start).relevance
                      for rule in (ZBox, DoubledBox))
    np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"init": "foo"}, {"seed": -1}, {"input_shape": (4, 4)}])
def test_a_failed_network_leaves_its_layers_as_new(arguments):
    layers = [Linear(3), ReLU(), Linear(2)]
    with pytest.raises((ValueError, TypeError)):
        Network(layers, **{"input_shape": (4,), **arguments})
    assert [layer.name for layer in Network(layers, (4,)).layers] == ["linear1", "relu1", "linear2"]


def test_specs_are_prepared_once():
    """Lists and dictionaries are plans by value too."""
    net = Network([Conv2d(2, 2), ReLU(), Flatten(), Linear(3)], (6, 6, 1))
    x = np.ones((1, 6, 6, 1))
    for _ in range(5):
        net.explain(x, composite=["ab", 2.0])
        net.explain(x, composite={"conv1": fastlrp.rules.WSquare()})
        net.explain(x, composite=Uniform(ZBox(-1, 1)))
    assert len(net._plans) == 3


@pytest.mark.parametrize("spec", [["zb", 5.0], ["simple", 1.0], ["ab", 0.5], ["ab", True], ["gdt", -1.0], "foo", 3])
def test_methods_that_mean_nothing_are_refused_by_name(spec):
    net = Network([Linear(3)], (4,))
    with pytest.raises(ValueError, match="methods"):
        net.lrp(np.ones((1, 4)), None, spec)


def test_numpy_scalars_are_numbers():
    assert fastlrp.rules.Gamma(np.float32(0.25)).gamma == 0.25
    assert fastlrp.rules.Epsilon(np.int64(1)).epsilon == 1
    net = Network([Linear(3)], (4,))
    np.testing.assert_array_equal(net.lrp(np.ones((1, 4)), None, ["ab", np.float32(2)]),
                                  net.lrp(np.ones((1, 4)), None, ["ab", 2]))


def test_an_empty_batch_is_its_own_reference():
    net = Network([Linear(3)], (4,))
    assert net.explain(np.empty((0, 4)), reference="batch").relevance.shape == (0, 4)
