"""Layers against their formulas: textbook NumPy, finite differences, and PyTorch where it is installed.

A layer is tried alone, on the kernels and on the twin, which a network of it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ACTIVATIONS, assert_same_bits, relative_error

import fastlrp
from fastlrp.layers import LAYERS, Layer


def alone(layer: Layer, shape: tuple[int, ...]) -> fastlrp.Network:
    """A network of one layer."""
    return fastlrp.Network([layer], shape)


def both_ways(net: Any, x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The output of a network's first layer, and the gradient of Σ g · output in its input."""
    layer, x, g = net.layers[0], x.astype(net.ops.dtype), g.astype(net.ops.dtype)
    y, kept = layer.forward(net.ops, x)
    return y, layer.backward(net.ops, g, x, kept)


# ---- activations ----


def grid(kinks: tuple[float, ...], dtype: Any = np.float64) -> np.ndarray:
    """Samples of 3 values: a fine grid, the kinks themselves and what lies next to them."""
    near = [value for kink in kinks for value in (kink, *(np.nextafter(dtype(kink), dtype(to)) for to in (-99, 99)))]
    x = np.concatenate([np.linspace(-12, 12, 601), near, [0.0, -0.0, 1e-30, -1e-30, 50, -50]]).astype(dtype)
    return np.resize(x, (-(-x.size // 3), 3)) if x.size % 3 else x.reshape(-1, 3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(isa: str, name: str) -> None:
    """On the kernels and on the twin."""
    make, formula, _, kinks = ACTIVATIONS[name]
    x = grid(kinks)
    net = alone(make(), (3,))
    np.testing.assert_allclose(net.to_numpy().forward(x), formula(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(net.forward(x), formula(x.astype(np.float32).astype(np.float64)), rtol=5e-7, atol=5e-7)
    assert_same_bits(net.forward(x), net.trace(net.as_inputs(x)).values[-1], "as a program")
    assert len(net._programs) == 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_of_activations(isa: str, name: str) -> None:
    """Of the formula, by central differences away from the kinks; the kernels' are the twin's everywhere."""
    make, formula, _, kinks = ACTIVATIONS[name]
    x, step = grid(kinks), 1e-6
    g = np.random.default_rng(0).standard_normal(x.shape)
    net = alone(make(), (3,))
    _, found = both_ways(net.to_numpy(), x, g)
    away = np.all([np.abs(x - kink) > 2 * step for kink in kinks], axis=0) if kinks else np.ones(x.shape, bool)
    expected = g * (formula(x + step) - formula(x - step)) / (2 * step)
    np.testing.assert_allclose(found[away], expected[away], rtol=1e-6, atol=1e-7)
    x, g = grid(kinks, np.float32), g.astype(np.float32)
    np.testing.assert_allclose(both_ways(net, x, g)[1], both_ways(net.to_numpy(), x, g)[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_pytorchs(name: str) -> None:
    """Values, and gradients at the kinks and beside them; far out where PyTorch's own do not overflow."""
    torch = pytest.importorskip("torch")
    make, _, function, kinks = ACTIVATIONS[name]
    far = np.array([[-np.inf, np.inf, np.nan], [1e10, -1e10, 0], [1e37, -1e37, 100]])
    for dtype, tolerance in ((np.float64, 1e-7), (np.float32, 2e-6)):
        x = np.concatenate([grid(kinks, dtype), far]).astype(dtype)
        value = torch.tensor(x, requires_grad=True)
        y = function(torch.nn.functional, value)
        slope, = torch.autograd.grad(y, value, torch.ones_like(y))
        net = alone(make(), (3,))
        with np.errstate(invalid="ignore", over="ignore"):
            found = both_ways(net.to_numpy() if dtype == np.float64 else net, x, np.ones_like(x))
        np.testing.assert_allclose(found[0], y.detach().numpy(), rtol=tolerance, atol=tolerance)
        known = np.isfinite(slope.numpy()) & np.isfinite(x)
        np.testing.assert_allclose(found[1][known], slope.numpy()[known], rtol=tolerance, atol=tolerance)
        assert np.isfinite(found[1][np.isfinite(x)]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_the_twin_keeps_its_type(dtype: Any) -> None:
    """Every activation in every float type, on nothing too."""
    x = np.linspace(-4, 4, 30).reshape(10, 3)
    for name, (make, formula, _, _) in ACTIVATIONS.items():
        net = alone(make(), (3,)).to_numpy(dtype)
        for found in both_ways(net, x, np.ones_like(x)):
            assert found.dtype == dtype, name
        assert relative_error(net.forward(x), formula(x)) < 4 * max(np.finfo(dtype).eps, 1e-15), name
        assert net.forward(x[:0]).shape == (0, 3)


def test_slopes_of_prelu_are_one_or_one_a_channel() -> None:
    """The last axis counts."""
    x = -np.ones((2, 4, 5, 3))
    found = alone(fastlrp.PReLU((0.5, 1, -2)), (4, 5, 3)).forward(x)
    np.testing.assert_array_equal(found, np.broadcast_to(np.float32([-0.5, -1, 2]), x.shape))
    assert (alone(fastlrp.PReLU(), (4, 5, 3)).forward(x) == -0.25).all()
    with pytest.raises(ValueError, match="slope has 3 values, the input 4 channels"):
        alone(fastlrp.PReLU([1, 2, 3]), (3, 4))


# ---- what layers say of themselves ----

# Instances of every class of layer that says something of its output's sign, with the shape of a sample.
SAYING: list[tuple[Layer, tuple[int, ...]]] = [
    *((make(), (3,)) for make, *_ in ACTIVATIONS.values()),
    (fastlrp.Clip(0.25, 0.5), (3,)), (fastlrp.Clip(-2, -1), (3,)), (fastlrp.Clip(high=3), (3,)),
    (fastlrp.PReLU(3), (3,)), (fastlrp.ELU(-2), (3,)),
]


@pytest.mark.parametrize(("layer", "shape"), SAYING, ids=[repr(layer) for layer, _ in SAYING])
def test_signs_and_ranges_are_what_layers_say(layer: Layer, shape: tuple[int, ...]) -> None:
    """Tried on many values: whether the output is never negative, lies in the input's range, is gated."""
    rng = np.random.default_rng(0)
    net = alone(layer, shape)
    x = (4 * rng.standard_normal((500, *shape))).astype(np.float32)
    least = {how: net.forward(value).min() for how, value in (("always", x), ("as input", np.abs(x)))}
    for how, value in least.items():
        if layer.nonnegative == how or layer.nonnegative == "always":
            assert value >= 0, how
    if layer.nonnegative == "unknown":
        assert least["as input"] < 0 or isinstance(layer, fastlrp.LeakyReLU)
    if layer.keeps_range:
        assert x.min() <= net.forward(x).min() and net.forward(x).max() <= x.max()
    y, back = both_ways(net, x, np.ones((500, *layer.out_shape)))
    if layer.gates:
        assert (y[x <= 0] == 0).all() and (back[x <= 0] == 0).all() and (both_ways(net, 0 * x, y + 1)[1] == 0).all()
    elif isinstance(layer, fastlrp.layers.activation.Activation):
        assert (y[x <= 0] != 0).any()


def test_only_gates_are_gates() -> None:
    """Those that an engine may take for ReLUs."""
    assert {name for name, cls in LAYERS.items() if cls.gates} == {"ReLU", "ReLU6"}
    assert fastlrp.Clip(0, 2).gates and not fastlrp.Clip(-1, 2).gates and not fastlrp.Clip(high=2).gates


def test_calls_that_make_layers_are_what_they_print() -> None:
    """Without what is as by default."""
    for layer, text in (
            (fastlrp.ReLU6(), "ReLU6()"), (fastlrp.Clip(-1, 2), "Clip(low=-1.0, high=2.0)"),
            (fastlrp.Clip(high=2), "Clip(high=2.0)"), (fastlrp.PReLU(), "PReLU()"),
            (fastlrp.PReLU([0.5, 1]), "PReLU(slope=[0.5, 1.0])"), (fastlrp.ELU(0.5), "ELU(alpha=0.5)"),
            (fastlrp.GELU(), "GELU()"), (fastlrp.GELU("tanh"), "GELU(approximate='tanh')")):
        assert repr(layer) == text


BAD: dict[str, tuple[Any, str]] = {
    "clip without bounds": (fastlrp.Clip, "low or high"), "clip backwards": (lambda: fastlrp.Clip(2, 1), "low"),
    "clip to a point": (lambda: fastlrp.Clip(1, 1), "low"), "clip by name": (lambda: fastlrp.Clip("low"), "low"),
    "clip to infinity": (lambda: fastlrp.Clip(0, float("inf")), "high"),
    "clip to nothing": (lambda: fastlrp.Clip(float("nan")), "low"),
    "slopes by name": (lambda: fastlrp.PReLU("steep"), "slope"), "no slopes": (lambda: fastlrp.PReLU([]), "slope"),
    "infinite slope": (lambda: fastlrp.PReLU([1, np.inf]), "slope"),
    "slopes of pixels": (lambda: fastlrp.PReLU(np.ones((2, 3))), "slope"),
    "alpha": (lambda: fastlrp.ELU(float("nan")), "alpha"), "alpha by name": (lambda: fastlrp.ELU("a"), "alpha"),
    "approximation": (lambda: fastlrp.GELU("erf"), "approximate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    """When the layer is made."""
    make, named = BAD[name]
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        make()
