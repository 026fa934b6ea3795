"""Layers against their formulas: textbook NumPy, finite differences, and PyTorch where it is installed.

A layer is tried alone, on the kernels and on the twin, which a network of it runs.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import ACTIVATIONS, ADAPTIVE, DILATED, SLIDING, assert_same_bits, relative_error

import fastlrp
from fastlrp.layers import LAYERS, Layer
from fastlrp.layers.activation import Activation


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
    assert len(net.at("highest")._programs) == 1


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
    make, formula, function, kinks = ACTIVATIONS[name]
    far = np.array([[-np.inf, np.inf, np.nan], [1e10, -1e10, 0], [1e37, -1e37, 100]])
    for dtype, tolerance in ((np.float64, 1e-7), (np.float32, 2e-6)):
        x = np.concatenate([grid(kinks, dtype), far]).astype(dtype)
        value = torch.tensor(x, requires_grad=True)
        y = function(torch.nn.functional, value)
        slope, = torch.autograd.grad(y, value, torch.ones_like(y))
        net = alone(make(), (3,))
        with np.errstate(invalid="ignore", over="ignore"):
            found = both_ways(net.to_numpy() if dtype == np.float64 else net, x, np.ones_like(x))
            values = y.detach().numpy()
            unknown = np.isnan(values) & ~np.isnan(x)  # PyTorch's float32 gelu of infinity, where it has AVX-512
            expected = np.where(unknown, formula(x), values)
        np.testing.assert_allclose(found[0], expected, rtol=tolerance, atol=tolerance)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_of_large_values_do_not_overflow(dtype: Any) -> None:
    """On the twin, whatever its type; far below zero gates are shut."""
    x = np.array([[3e38, 1e20, 1e13], [-3e38, -1e20, -1e13]], dtype)
    for name, (make, *_) in ACTIVATIONS.items():
        with np.errstate(over="ignore"):
            assert np.isfinite(both_ways(alone(make(), (3,)).to_numpy(dtype), x, np.ones_like(x))[1]).all(), name


def test_slopes_of_prelu_are_one_or_one_a_channel() -> None:
    """The last axis counts."""
    x = -np.ones((2, 4, 5, 3))
    found = alone(fastlrp.PReLU((0.5, 1, -2)), (4, 5, 3)).forward(x)
    np.testing.assert_array_equal(found, np.broadcast_to(np.float32([-0.5, -1, 2]), x.shape))
    assert (alone(fastlrp.PReLU(), (4, 5, 3)).forward(x) == -0.25).all()
    with pytest.raises(ValueError, match="slope has 3 values, the input 4 channels"):
        alone(fastlrp.PReLU([1, 2, 3]), (3, 4))


# ---- pools ----


def sliding(layer: Any) -> list[list[tuple[np.ndarray, int]]]:
    """For each axis and window of a sliding pool: positions of its taps, and how many places PyTorch counts, padding
    included. Walked along as its documentation says, apart from the package's own size arithmetic."""
    axes = []
    for size, kernel, stride, padding, dilation in zip(layer.in_shape, layer.kernel, layer.stride, layer.padding,
                                                       layer.dilation, strict=False):
        windows, start, end = [], -padding[0], size + padding[1]
        while True:
            taps = start + dilation * np.arange(kernel)
            reached = bool(windows) and windows[-1][0][-1] + 1 >= end
            if taps[-1] >= end if not layer.ceil_mode else reached or start >= size:
                break
            windows.append((taps, min(taps[-1] + 1, end) - taps[0]))
            start += stride
        axes.append([(taps[(taps >= 0) & (taps < size)], count) for taps, count in windows])
    return axes


def pooled(axes: Any, x: np.ndarray, reduce: Callable[[np.ndarray, int], Any]) -> np.ndarray:
    """reduce(values (N, taps, C), places) of every window."""
    rows, cols = axes
    return np.stack([np.stack([reduce(x[:, r][:, :, c].reshape(len(x), -1, x.shape[-1]), high * wide)
                               for c, wide in cols], 1) for r, high in rows], 1)


POOLS: dict[str, tuple[Callable[..., Layer], Callable[[np.ndarray, int], Any], Callable[..., Any]]] = {
    "max": (fastlrp.MaxPool2d, lambda v, _: v.max(1), lambda F, x, **more: F.max_pool2d(x, **more)),
    "average": (fastlrp.AvgPool2d, lambda v, n: v.sum(1) / n, lambda F, x, **more: F.avg_pool2d(x, **more)),
    "average of real elements": (
        lambda **more: fastlrp.AvgPool2d(count_include_pad=False, **more), lambda v, _: v.mean(1),
        lambda F, x, **more: F.avg_pool2d(x, count_include_pad=False, **more)),
    "sum": (lambda **more: fastlrp.SumPool2d(scale=-0.5, **more), lambda v, _: -0.5 * v.sum(1),
            lambda F, x, **more: -0.5 * F.avg_pool2d(x, divisor_override=1, **more)),
}
SLIDING_POOLS = [(kind, name) for kind in POOLS for name in (SLIDING | DILATED if kind == "max" else SLIDING)]


def pool_case(kind: str, name: str) -> tuple[fastlrp.Network, np.ndarray, np.ndarray]:
    """A network of one pool, samples without ties, and relevance or gradients of its outputs."""
    shape, options = (SLIDING | DILATED)[name]
    net = alone(POOLS[kind][0](**options), shape)
    rng = np.random.default_rng(0)
    x = rng.permutation(3 * int(np.prod(shape))).reshape(3, *shape) / 100 - 1
    return net, x, rng.standard_normal((3, *net.output_shape))


@pytest.mark.parametrize(("kind", "name"), SLIDING_POOLS)
def test_sliding_pools_are_their_formulas(isa: str, kind: str, name: str) -> None:
    """Window by window; the way back is the slope of the way forward."""
    net, x, g = pool_case(kind, name)
    expected = pooled(sliding(net.layers[0]), x, POOLS[kind][1])
    np.testing.assert_allclose(net.to_numpy().forward(x), expected, rtol=1e-12)
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-5, atol=1e-5)
    check_way_back(net, x, g)


def check_way_back(net: fastlrp.Network, x: np.ndarray, g: np.ndarray) -> None:
    """Along a random direction by differences, on the twin; the kernels give the twin's; Norm multiplies it by x."""
    twin = net.to_numpy()
    _, back = both_ways(twin, x, g)
    step = 1e-5 * np.random.default_rng(1).standard_normal(x.shape)
    slope = (g * (twin.forward(x + step) - twin.forward(x - step))).sum() / 2
    assert (back * step).sum() == pytest.approx(slope, rel=1e-6, abs=1e-12)
    assert relative_error(both_ways(net, x, g)[1], back) < 1e-6
    layer = net.layers[0]
    if layer.role in ("sum", "affine"):
        for run in (twin, net):
            x, g = x.astype(run.ops.dtype), g.astype(run.ops.dtype)
            assert relative_error(run.layers[0].norm(run.ops, g, x), x * back) < 1e-6


@pytest.mark.parametrize(("kind", "name"), SLIDING_POOLS)
def test_sliding_pools_are_pytorchs(kind: str, name: str) -> None:
    """Sizes, values, and gradients; where PyTorch takes the arguments."""
    torch = pytest.importorskip("torch")
    net, x, g = pool_case(kind, name)
    names = {"kernel": "kernel_size"}
    options = {names.get(key, key): value for key, value in (SLIDING | DILATED)[name][1].items()}
    value = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    try:
        y = POOLS[kind][2](torch.nn.functional, value, **options)
    except RuntimeError as error:
        assert "pad" in str(error)  # at most half the kernel
        return
    slope, = torch.autograd.grad(y, value, torch.tensor(np.moveaxis(g, -1, 1).copy()))
    found = both_ways(net.to_numpy(), x, g)
    for own, theirs in zip(found, (y.detach(), slope), strict=True):
        np.testing.assert_allclose(own, np.moveaxis(theirs.numpy(), 1, -1), rtol=1e-12, atol=1e-12)


def adaptive(net: fastlrp.Network, out: Any) -> list[list[tuple[np.ndarray, int]]]:
    """The windows of each axis, as `sliding` gives them."""
    out = (out, out) if isinstance(out, int) else out
    return [[(np.arange(math.floor(i * size / n), math.ceil((i + 1) * size / n)), 0) for i in range(n)]
            for size, n in zip(net.input_shape, out, strict=False)]


@pytest.mark.parametrize("kind", ["average", "max"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_pools(isa: str, kind: str, name: str) -> None:
    """Window by window, and as PyTorch's where it is installed; maxima where windows are all alike."""
    shape, out = ADAPTIVE[name]
    layer = fastlrp.AdaptiveAvgPool2d(out) if kind == "average" else fastlrp.AdaptiveMaxPool2d(out)
    if kind == "max" and ("uneven" in name or "more" in name or "many" in name):
        with pytest.raises(ValueError, match=r"multiples of out=\(.*all alike"):
            alone(layer, shape)
        return
    net, rng = alone(layer, shape), np.random.default_rng(2)
    x = rng.permutation(3 * int(np.prod(shape))).reshape(3, *shape) / 100
    reduce = (lambda v, _: v.mean(1)) if kind == "average" else lambda v, _: v.max(1)
    expected = pooled(adaptive(net, out), x, reduce)
    np.testing.assert_allclose(net.to_numpy().forward(x), expected, rtol=1e-12)
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-5)
    assert len(net.at("highest")._programs) == 1
    g = rng.standard_normal(expected.shape)
    check_way_back(net, x, g)
    torch = pytest.importorskip("torch")
    value = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    own = getattr(torch.nn.functional, f"adaptive_{'avg' if kind == 'average' else 'max'}_pool2d")(value, out)
    slope, = torch.autograd.grad(own, value, torch.tensor(np.moveaxis(g, -1, 1).copy()))
    np.testing.assert_allclose(expected, np.moveaxis(own.detach().numpy(), 1, -1), rtol=1e-12)
    np.testing.assert_allclose(both_ways(net.to_numpy(), x, g)[1], np.moveaxis(slope.numpy(), 1, -1), rtol=1e-9,
                               atol=1e-12)


def test_the_mean_over_all_pixels() -> None:
    """One pixel comes out, which takes all relevance back in proportion."""
    net, x = alone(fastlrp.GlobalAvgPool2d(), (5, 4, 3)), np.random.default_rng(3).random((2, 5, 4, 3))
    np.testing.assert_allclose(net.forward(x), x.mean(axis=(1, 2), keepdims=True), rtol=1e-6)
    check_way_back(net, x, np.ones((2, 1, 1, 3)))


@pytest.mark.parametrize("layer", [fastlrp.AdaptiveAvgPool2d(4), fastlrp.AdaptiveAvgPool2d(3),
                                   fastlrp.AvgPool2d(4, 3, 1, ceil_mode=True),
                                   fastlrp.AvgPool2d(4, 3, 1, False, ceil_mode=True)], ids=repr)
def test_relevance_of_averages(layer: Layer) -> None:
    """As a program, by rule Norm: what a dense map of the same weights gives."""
    shape = (9, 10, 2)
    net = fastlrp.Network([layer, fastlrp.Flatten()], shape)
    size = int(np.prod(shape))
    weights = net.to_numpy().forward(np.eye(size).reshape(size, *shape))
    x = np.random.default_rng(4).standard_normal((3, *shape)).astype(np.float32)
    start = np.random.default_rng(5).standard_normal((3, weights.shape[1]))
    found = net.explain(x, start=start, composite={layer.name: fastlrp.rules.Norm(0.1)}).relevance
    sums = x.reshape(3, -1).astype(np.float64) @ weights
    expected = x.reshape(3, -1) * (start / (sums + 0.1 * np.where(sums < 0, -1, 1)) @ weights.T)
    assert relative_error(found, expected.reshape(x.shape)) < 2e-6
    assert net._programs


def test_windows_of_maxima_hold_data() -> None:
    """Padding is refused where a window could have no tap in the data."""
    for more in ({"padding": 2}, {"padding": (0, 3), "dilation": (1, 2)}, {"kernel": 1, "padding": 1},
                 {"padding": 4, "dilation": 7}):
        with pytest.raises(ValueError, match=r"maxpool1.*must hold data"):
            alone(fastlrp.MaxPool2d(**{"kernel": 2, **more}), (6, 6, 1))
    with pytest.raises(ValueError, match="at most 1024"):
        alone(fastlrp.AdaptiveAvgPool2d((1, 1025)), (1, 1024, 1))
    with pytest.raises(ValueError, match="height, width, channels"):
        alone(fastlrp.GlobalAvgPool2d(), (5,))


# ---- layers that scale, repeat, or do nothing ----

# name: (layer, shape of one input sample, its formula)
SIMPLE: dict[str, tuple[Callable[[], Layer], tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (fastlrp.Identity, (3, 4), lambda x: x),
    "scale": (lambda: fastlrp.Scale(-2, 0.5), (5,), lambda x: 0.5 - 2 * x),
    "scale, times alone": (lambda: fastlrp.Scale(np.float16(0.5)), (2, 3), lambda x: x / 2),
    "scale, channels": (lambda: fastlrp.Scale([1, 2, -3], plus=(0, 1, 2)), (2, 4, 3),
                        lambda x: x * [1, 2, -3] + [0, 1, 2]),
    "scale, samples": (lambda: fastlrp.Scale(np.arange(12).reshape(2, 2, 3), [4]), (2, 2, 3),
                       lambda x: x * np.arange(12).reshape(2, 2, 3) + 4),
    "scale, rows": (lambda: fastlrp.Scale(plus=[[[1]], [[-1]]]), (2, 2, 3),
                    lambda x: x + np.array([1, -1]).reshape(2, 1, 1)),
    "upsample": (lambda: fastlrp.Upsample(2), (3, 5, 9), lambda x: x.repeat(2, axis=1).repeat(2, axis=2)),
    "upsample, columns": (lambda: fastlrp.Upsample((1, 3)), (4, 2, 3), lambda x: x.repeat(3, axis=2)),
    "upsample, rows": (lambda: fastlrp.Upsample((4, 1)), (1, 3, 17), lambda x: x.repeat(4, axis=1)),
    "upsample by one": (lambda: fastlrp.Upsample(1), (2, 3, 1), lambda x: x),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_layers_are_their_formulas(isa: str, name: str) -> None:
    """Forward and back, recorded as a program."""
    make, shape, formula = SIMPLE[name]
    net, rng = alone(make(), shape), np.random.default_rng(6)
    x = rng.standard_normal((3, *shape))
    np.testing.assert_allclose(net.to_numpy().forward(x), formula(x), rtol=1e-12)
    np.testing.assert_allclose(net.forward(x), formula(x), rtol=1e-5, atol=1e-6)
    assert len(net.at("highest")._programs) == 1
    check_way_back(net, x, rng.standard_normal((3, *net.output_shape)))


@pytest.mark.parametrize("name", SIMPLE)
def test_relevance_passes_simple_layers(name: str) -> None:
    """Unchanged where nothing moves; a pixel has what its copies have together."""
    make, shape, _ = SIMPLE[name]
    net = alone(make(), shape)
    x = np.random.default_rng(7).standard_normal((3, *shape))
    start = np.random.default_rng(8).standard_normal((3, *net.output_shape))
    found = net.explain(x, start=start).relevance
    if "upsample" in name:
        rows, cols = net.layers[0].scale
        start = start.reshape(3, shape[0], rows, shape[1], cols, shape[2]).sum(axis=(2, 4))
    np.testing.assert_allclose(found, start, rtol=1e-5, atol=1e-6)


def test_upsampling_copies_what_is_not_a_number() -> None:
    """Into its own block and no other."""
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    x[0, 0, 1], x[0, 1, 2] = np.nan, np.inf
    np.testing.assert_array_equal(alone(fastlrp.Upsample(2), (2, 3, 1)).forward(x), x.repeat(2, 1).repeat(2, 2))


def test_upsampling_is_pytorchs() -> None:
    """mode="nearest"."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(9).standard_normal((2, 3, 4, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(np.moveaxis(x, -1, 1).copy()), scale_factor=(3, 2))
    found = alone(fastlrp.Upsample((3, 2)), (3, 4, 5)).forward(x)
    assert_same_bits(found, np.ascontiguousarray(np.moveaxis(expected.numpy(), 1, -1)))


@pytest.mark.parametrize(("layer", "shape"), [
    (fastlrp.Scale([1, 2]), (2, 3)), (fastlrp.Scale(np.ones((2, 3))), (3,)), (fastlrp.Scale(plus=[[1], [2]]), (3, 4)),
    (fastlrp.Upsample(2), (4, 4)), (fastlrp.Upsample(2**16), (2**10, 2**10, 1))], ids=repr)
def test_simple_layers_that_do_not_fit(layer: Layer, shape: tuple[int, ...]) -> None:
    """The message has the shapes."""
    with pytest.raises(ValueError, match=r"(fit samples of shape|expected an input of|more than).*"):
        alone(layer, shape)


# ---- slices ----

# shape of one input sample, arguments of Slice, and the same in NumPy and PyTorch, batch included
SLICES: list[tuple[tuple[int, ...], dict[str, Any], Any]] = [
    ((4, 5, 6), {}, np.s_[:]),
    ((4, 5, 6), {"stop": 3}, np.s_[..., :3]),
    ((4, 5, 6), {"start": 3}, np.s_[..., 3:]),
    ((4, 5, 17), {"axis": 2, "start": 1, "step": 3}, np.s_[..., 1::3]),
    ((4, 5, 6), {"axis": -1, "start": -2, "stop": -1}, np.s_[..., -2:-1]),
    ((4, 5, 6), {"axis": 1, "start": -100, "stop": 100, "step": 2}, np.s_[:, :, ::2]),
    ((7, 5, 3), {"axis": 0, "start": 2, "stop": -1, "step": 3}, np.s_[:, 2:-1:3]),
    ((7, 5, 3), {"axis": -3, "start": 6, "step": 100}, np.s_[:, 6::100]),
    ((1, 9, 1), {"axis": 1, "start": 4, "stop": 5}, np.s_[:, :, 4:5]),
    ((11,), {"axis": 0, "start": 1, "stop": 9, "step": 4}, np.s_[:, 1:9:4]),
    ((2, 3, 2, 4, 3), {"axis": 2, "start": 1}, np.s_[:, :, :, 1:]),
]


@pytest.mark.parametrize(("shape", "options", "index"), SLICES, ids=[str(options) for _, options, _ in SLICES])
def test_slices_are_those_of_arrays(isa: str, shape: tuple[int, ...], options: dict[str, Any], index: Any) -> None:
    """Forward and back, at once, recorded, and for many samples side by side; relevance goes by position."""
    net, rng = alone(fastlrp.Slice(**options), shape), np.random.default_rng(14)
    for n in (1, 3, 150):
        x = rng.standard_normal((n, *shape)).astype(np.float32)
        expected = np.ascontiguousarray(x[index])
        assert_same_bits(net.forward(x), expected)
        assert_same_bits(net.to_numpy(np.float32).forward(x), expected)
        g = rng.standard_normal(expected.shape).astype(np.float32)
        scattered = np.zeros_like(x)
        scattered[index] = g
        for composite in ("epsilon_plus", "gradient"):
            assert_same_bits(net.explain(x, composite=composite, start=g).relevance, scattered)
        for run in (net, net.to_numpy(np.float32)):
            assert all(map(np.array_equal, both_ways(run, x, g), (expected, scattered)))
    assert len(net._programs) == 3
    check_way_back(net, x, g)


@pytest.mark.parametrize(("shape", "options", "index"), SLICES, ids=[str(options) for _, options, _ in SLICES])
def test_slices_are_pytorchs(shape: tuple[int, ...], options: dict[str, Any], index: Any) -> None:
    """Values and gradients."""
    torch = pytest.importorskip("torch")
    net, x = alone(fastlrp.Slice(**options), shape), np.random.default_rng(15).standard_normal((3, *shape))
    value = torch.tensor(x, requires_grad=True)
    y = value[index]
    g = np.random.default_rng(16).standard_normal(tuple(y.shape))
    slope, = torch.autograd.grad(y, value, torch.tensor(g))
    for own, theirs in zip(both_ways(net.to_numpy(), x, g), (y.detach(), slope), strict=True):
        np.testing.assert_array_equal(own, theirs.numpy())


@pytest.mark.parametrize(("options", "message"), [
    ({"axis": 3}, r"axis must be from -3 to 2 for samples of shape \(4, 5, 6\), got 3"), ({"axis": -4}, "got -4"),
    ({"start": 6}, r"start=6 and stop=None pick nothing of the 6 places along axis -1"),
    ({"axis": 0, "start": 2, "stop": 2}, "pick nothing of the 4 places along axis 0"),
    ({"start": -1, "stop": -2}, "pick nothing"), ({"stop": -6}, "pick nothing")], ids=str)
def test_slices_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    """The message has the shape."""
    with pytest.raises(ValueError, match=rf"slice1.*{message}"):
        alone(fastlrp.Slice(**options), (4, 5, 6))


def test_ranges_of_slices() -> None:
    """ZBox's bounds are those of the channels that are left."""
    def first(*layers: Layer) -> Any:
        return fastlrp.Network([*layers, fastlrp.Conv2d(2, 2)], (6, 6, 4))
    norm = [1.0, 2, 3, 4], [1.0, 2, 1, 2]
    net = first(fastlrp.Normalize(*norm), fastlrp.Slice(-1, 1, None, 2), fastlrp.Slice(0, 3))
    low, high = net.input_bounds()
    assert low.tolist() == [-1, -2] and high.tolist() == [-0.5, -1.5]
    net.explain(np.ones((1, 6, 6, 4)), composite="epsilon_gamma_box", start=np.ones((1, 2, 5, 2)))
    for layers in ([fastlrp.Normalize([0.5], 2), fastlrp.Slice(2, 1)], [fastlrp.Format(-0.25, 0.25), fastlrp.Slice(1)]):
        low, high = first(*layers).input_bounds()
        assert (low == -0.25).all() and (high == 0.25).all() and low.size == 1
    assert first(fastlrp.Slice(-1, 1)).input_bounds() is None


# ---- constants ----

CONSTANTS = [(fastlrp.Scale, "times"), (fastlrp.Scale, "plus"), (fastlrp.Scale, "minus"),
             (fastlrp.PReLU, "slope"), (fastlrp.Normalize, "mean"), (fastlrp.Normalize, "std")]


@pytest.mark.parametrize(("cls", "key"), CONSTANTS, ids=[key for _, key in CONSTANTS])
def test_constants_are_read_only_arrays(cls: Any, key: str) -> None:
    """No one else's, in the precision that they take; numbers stay numbers; copies and pickles keep them so."""
    assert {name for cls in LAYERS.values() for name in cls.constants} == {name for _, name in CONSTANTS}
    given = np.array([0.5, 2, 3], np.float32)
    for values, dtype in ((given, np.float32), ([0.5, 2, 3], np.float32), (given.astype(">f8"), np.float32),
                          ([0.5, 2, 0.1], np.float64), (np.array([1e-300, 1, 1e300]), np.float64)):
        layer = cls(**{**dict.fromkeys(cls.constants, 1), key: values})
        for own in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer.astype(np.dtype(np.float64))):
            found = getattr(own, key)
            assert found.dtype == dtype and found.tolist() == np.float64(values).tolist()
            assert not np.may_share_memory(found, np.asarray(values))
            with pytest.raises(ValueError, match="read-only"):
                found[0] = 7
        assert layer.config() == cls(**layer.config()).config() and layer.config()[key] == found.tolist()
    assert layer.astype(np.dtype(np.float64)).arguments()[key] is getattr(layer, key)
    layer = cls(**dict.fromkeys(cls.constants, np.float32(0.1)))
    assert type(getattr(layer, key)) is float and getattr(layer, key) == float(np.float32(0.1))


def test_constants_are_changed_by_assignment() -> None:
    """Which checks them, takes a copy, and is seen by programs."""
    net, x = alone(fastlrp.Scale([1, 2], 0), (2,)), np.ones((1, 2))
    assert net.forward(x).tolist() == [[1, 2]]
    times = np.array([3.0, 4.0])
    net.layers[0].times = times
    times[0] = 100
    assert net.forward(x).tolist() == net.to_numpy().forward(x).tolist() == [[3, 4]]
    with pytest.raises(ValueError, match=r"times must hold finite numbers, got \[1, nan\]"):
        net.layers[0].times = [1, np.nan]
    assert net.layers[0].times.tolist() == [3, 4]


STRUCTURAL = {"kernel": 3, "stride": 1, "padding": ((1, 1), (1, 1)), "dilation": 1, "groups": 1, "ceil_mode": False,
              "out": 2, "use_bias": False, "shape": (4,), "axes": (0, 1, 2), "axis": 0, "start": 0, "stop": 2,
              "step": 1, "scale": 2}


@pytest.mark.parametrize("layer", [
    fastlrp.Linear(3), fastlrp.Conv2d(3, 3), fastlrp.SumPool2d(2), fastlrp.AvgPool2d(2), fastlrp.MaxPool2d(2),
    fastlrp.GlobalAvgPool2d(), fastlrp.AdaptiveAvgPool2d(2), fastlrp.AdaptiveMaxPool2d(2), fastlrp.Flatten(),
    fastlrp.Reshape((4, -1)), fastlrp.Transpose((1, 0, 2)), fastlrp.ToChannelsFirst(), fastlrp.ToChannelsLast(),
    fastlrp.Slice(), fastlrp.Pad2d(1), fastlrp.Upsample(2), fastlrp.Concat()], ids=repr)
def test_what_shapes_follow_from_is_fixed_in_a_network(layer: Layer) -> None:
    """Before, it may be changed, and what is refused changes nothing."""
    names = [name for name in layer.structural if hasattr(layer, name)]
    for name in names:
        setattr(layer, name, getattr(layer, name))
    assert {*layer.options} - {"scale", "value", "count_include_pad"} <= {*names}
    value = fastlrp.Input((6,) if layer.kind == "linear" else (4, 4, 4))
    net = fastlrp.Network.from_graph(value, layer(*[value] * (1 + layer.merges)))
    before, version = repr(layer), layer.version
    for name in names:
        with pytest.raises(ValueError, match=rf"{name} of layer '{layer.name}' .* cannot be changed.*make a new layer"):
            setattr(layer, name, STRUCTURAL[name])
    assert (repr(layer), layer.version) == (before, version) and net.forward(np.ones((1, *net.input_shape))).size
    for other in (copy.deepcopy(net).layers[0], net.to_numpy().layers[0]):
        with pytest.raises(ValueError, match="cannot be changed"):
            setattr(other, names[0], STRUCTURAL[names[0]])


@pytest.mark.parametrize(("layer", "name", "value", "words"), [
    (fastlrp.BatchNorm(), "eps", -5, "eps must be at least 0"), (fastlrp.Dropout(), "rate", 1, "rate must be in"),
    (fastlrp.LeakyReLU(), "slope", "steep", "slope must be a number"), (fastlrp.Clip(0, 2), "low", 3, "low must be"),
    (fastlrp.PReLU(), "slope", [1, 2, 3], "slope has 3 values, the input 4 channels"),
    (fastlrp.ELU(), "alpha", np.nan, "alpha must be finite"), (fastlrp.GELU(), "approximate", "erf", "approximate"),
    (fastlrp.SumPool2d(1), "scale", "root", "scale must be"), (fastlrp.Pad2d(0), "value", None, "value must be"),
    (fastlrp.AvgPool2d(1), "count_include_pad", 1, "count_include_pad must be"),
    (fastlrp.Format(), "high", -2, "low must be less than high"), (fastlrp.Normalize(0, 1), "std", [1, 2], "std has 2"),
    (fastlrp.Scale(), "times", [1, 2], "times of shape")])
def test_options_in_a_network_are_checked_as_new_ones(layer: Layer, name: str, value: Any, words: str) -> None:
    """By the constructor, and by the shape of the input."""
    net, old = alone(layer, (2, 2, 4)), getattr(layer, name)
    with pytest.raises((ValueError, TypeError), match=words):
        setattr(net.layers[0], name, value)
    assert getattr(layer, name) == old
    setattr(layer, name, old)
    assert getattr(layer, name) == old and type(getattr(layer, name)) is type(old)


# ---- BatchNorm ----

STATISTICS = {"weight": [2, -0.5, 1], "bias": [0.25, 1, -3], "mean": [0.5, -1, 2], "variance": [4, 0.01, 1.5]}
SAMPLES = [(3,), (4, 3), (2, 5, 3), (2, 3, 2, 3)]


def normalised(x: np.ndarray, eps: float) -> np.ndarray:
    weight, bias, mean, variance = (np.array(value, float) for value in STATISTICS.values())
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def batch_norm(shape: tuple[int, ...], eps: float = 1e-5) -> fastlrp.Network:
    net = alone(fastlrp.BatchNorm(eps), shape)
    for key, value in STATISTICS.items():
        setattr(net.layers[0], key, value)
    return net


@pytest.mark.parametrize("eps", [1e-5, 0.5, 0])
@pytest.mark.parametrize("shape", SAMPLES, ids=str)
def test_batch_norm_is_its_formula(isa: str, shape: tuple[int, ...], eps: float) -> None:
    """Of any rank, forward and back, as a program; Norm takes x times its scale."""
    net, rng = batch_norm(shape, eps), np.random.default_rng(10)
    x = rng.standard_normal((5, *shape))
    np.testing.assert_allclose(net.to_numpy().forward(x), normalised(x, np.float64(eps)), rtol=1e-6)
    np.testing.assert_allclose(net.forward(x), normalised(x, eps), rtol=1e-5, atol=1e-5)
    assert len(net.at("highest")._programs) == 1
    check_way_back(net, x, rng.standard_normal((5, *shape)))


@pytest.mark.parametrize("shape", SAMPLES, ids=str)
def test_batch_norm_is_pytorchs(shape: tuple[int, ...]) -> None:
    """In evaluation mode, with the gradients of weight and bias."""
    torch = pytest.importorskip("torch")
    net = batch_norm(shape).to_numpy()
    layer, x = net.layers[0], np.random.default_rng(11).standard_normal((5, *shape))
    g = np.random.default_rng(12).standard_normal(x.shape)
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in layer.parameters.items()}
    value = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    y = torch.nn.functional.batch_norm(value, tensors["mean"].detach(), tensors["variance"].detach(),
                                       tensors["weight"], tensors["bias"])
    slopes = torch.autograd.grad(y, (value, tensors["weight"], tensors["bias"]),
                                 torch.tensor(np.moveaxis(g, -1, 1).copy()))
    found, back = both_ways(net, x, g)
    np.testing.assert_allclose(found, np.moveaxis(y.detach().numpy(), 1, -1), rtol=1e-9)
    np.testing.assert_allclose(back, np.moveaxis(slopes[0].numpy(), 1, -1), rtol=1e-9)
    gradients = layer.gradients(net.ops, g, x)
    assert gradients.keys() == layer.trained.keys() == {"weight", "bias"}
    for key, slope in zip(("weight", "bias"), slopes[1:], strict=True):
        np.testing.assert_allclose(gradients[key], slope.numpy(), rtol=1e-9)


def test_batch_norm_as_scale_and_shift() -> None:
    """Computed in double precision, whatever it is asked in."""
    layer = batch_norm((2, 3), 0.5).layers[0]
    weight, bias, mean, variance = (np.float64(np.float32(value)) for value in STATISTICS.values())
    times = weight / np.sqrt(variance + 0.5)
    for dtype in (np.float32, np.float64):
        for own, expected in zip(layer.affine(np.dtype(dtype)), (times, bias - mean * times), strict=True):
            assert_same_bits(own, expected.astype(dtype))


def test_parameters_of_batch_norm() -> None:
    """One, zero, zero, one; read-only; of the channels' number; seen by programs at once."""
    net = fastlrp.Network([fastlrp.BatchNorm(), fastlrp.ReLU(), fastlrp.Linear(2)], (3,), seed=1)
    layer, x = net.layers[0], np.ones((2, 3), np.float32)
    assert {key: value.tolist() for key, value in layer.parameters.items()} == {
        "weight": [1, 1, 1], "bias": [0, 0, 0], "mean": [0, 0, 0], "variance": [1, 1, 1]}
    before = net.forward(x)
    for key, value in STATISTICS.items():
        with pytest.raises(ValueError, match="read-only"):
            getattr(layer, key)[...] = 0
        setattr(layer, key, value)
        assert_same_bits(net.forward(x), net.trace(net.as_inputs(x)).values[-1], key)
        assert not np.array_equal(net.forward(x), before)
        before = net.forward(x)
    net.reset_params(1)
    assert layer.variance.tolist() == [1, 1, 1]
    assert_same_bits(net.forward(x), net.trace(net.as_inputs(x)).values[-1])
    assert "20 parameters" in repr(net)
    copied = pickle.loads(pickle.dumps(net))
    assert_same_bits(copied.forward(x), net.forward(x))
    with pytest.raises(ValueError, match="read-only"):
        copied.layers[0].mean[...] = 0


@pytest.mark.parametrize(("key", "value", "message"), [
    ("weight", np.ones(4), r"batchnorm1.weight must have shape \(3,\), got \(4,\)"),
    ("variance", [1, 2, -1e-3], r"batchnorm1.variance must be at least 0 everywhere, got -0.001"),
    ("variance", [1, np.nan, 1], r"batchnorm1.variance must be at least 0"),
    ("mean", [1j, 0, 0], r"batchnorm1.mean must be an array of real numbers"), ("bias", None, "batchnorm1.bias")])
def test_parameters_of_batch_norm_that_do_not_fit(key: str, value: Any, message: str) -> None:
    """By name; what was there stays."""
    net = batch_norm((3,))
    with pytest.raises((ValueError, TypeError), match=message):
        setattr(net.layers[0], key, value)
    assert getattr(net.layers[0], key).tolist() == np.float32(STATISTICS[key]).tolist()
    with pytest.raises(ValueError, match=f"no {key} yet"):
        setattr(fastlrp.BatchNorm(), key, value)
    empty = fastlrp.Network([fastlrp.BatchNorm()], (3,), init=None)
    with pytest.raises(ValueError, match="no weight yet: assign it"):
        empty.forward(np.ones((1, 3)))


def test_training_leaves_the_statistics() -> None:
    """And changes weight and bias."""
    net = fastlrp.Network([fastlrp.Conv2d(3, 2), fastlrp.BatchNorm(), fastlrp.ReLU(), fastlrp.Flatten(),
                           fastlrp.Linear(2)], (4, 4, 1))
    layer, rng = net.layers[1], np.random.default_rng(13)
    for key, value in STATISTICS.items():
        setattr(layer, key, value)
    before = layer.parameters
    net.fit(rng.standard_normal((40, 4, 4, 1)), rng.integers(0, 2, 40), batch_size=10)
    changed = {key for key, value in layer.parameters.items() if not np.array_equal(value, before[key])}
    assert changed == {"weight", "bias"}


# ---- what layers say of themselves ----

# Instances of every class of layer that says something of its output's sign, with the shape of a sample.
SAYING: list[tuple[Layer, tuple[int, ...]]] = [
    *((make(), (3,)) for make, *_ in ACTIVATIONS.values()),
    (fastlrp.Clip(0.25, 0.5), (3,)), (fastlrp.Clip(-2, -1), (3,)), (fastlrp.Clip(high=3), (3,)),
    (fastlrp.PReLU(3), (3,)), (fastlrp.ELU(-2), (3,)), (fastlrp.MaxPool2d(2), (6, 6, 1)),
    (fastlrp.AdaptiveMaxPool2d(2), (6, 6, 1)), (fastlrp.AdaptiveAvgPool2d(4), (6, 6, 1)),
    (fastlrp.GlobalAvgPool2d(), (3, 3, 2)), (fastlrp.AvgPool2d(2, padding=1, ceil_mode=True), (6, 6, 1)),
    (fastlrp.SumPool2d(2, scale=-1), (6, 6, 1)), (fastlrp.Scale([1, 0, 2], 0), (3,)), (fastlrp.Scale(1, -0.1), (3,)),
    (fastlrp.Scale([1, 2, -1]), (3,)), (fastlrp.Upsample(2), (2, 3, 1)), (fastlrp.Identity(), (3,)),
    (fastlrp.Slice(0, 1), (2, 3, 1)),
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
    elif isinstance(layer, Activation):
        assert (y[x <= 0] != 0).any()


# a layer, options to change, their values, and what the layer then says of its sign
CHANGED: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (lambda: fastlrp.Clip(0, 2), {"low": -1.0}, "as input"), (lambda: fastlrp.Clip(-1, 2), {"low": 0.0}, "always"),
    (lambda: fastlrp.Clip(0, 2), {"low": None, "high": -0.5}, "unknown"),
    (lambda: fastlrp.Clip(low=0), {"low": 0.5}, "always"),
    (lambda: fastlrp.Pad2d(1), {"value": -0.5}, "unknown"),
    (lambda: fastlrp.Pad2d(1, -0.5), {"value": 0.5}, "as input"),
    (lambda: fastlrp.SumPool2d(2), {"scale": -1.0}, "unknown"),
    (lambda: fastlrp.SumPool2d(2, scale=-1), {"scale": "sqrt"}, "as input"),
    (lambda: fastlrp.Scale([1, 2]), {"times": [-1, 2]}, "unknown"),
    (lambda: fastlrp.Scale(1, 1), {"plus": -0.5}, "unknown"),
    (lambda: fastlrp.Scale(-1, [-1, 1]), {"times": 1, "plus": [0, 1]}, "as input"),
    (lambda: fastlrp.LeakyReLU(), {"slope": 0.5}, "unknown"), (lambda: fastlrp.ELU(), {"alpha": -2.0}, "as input"),
    (lambda: fastlrp.PReLU(), {"slope": [-1.0, 2]}, "as input"),
    (lambda: fastlrp.GELU(), {"approximate": "tanh"}, "as input"),
]


@pytest.mark.parametrize(("make", "options", "says"), CHANGED, ids=[str(options) for _, options, _ in CHANGED])
def test_layers_follow_their_options(make: Callable[[], Any], options: dict[str, Any], says: str) -> None:
    """Changed after the network ran, they are as if they had been made so: values, signs, gates, relevance."""
    def network(layer: Layer) -> fastlrp.Network:
        return fastlrp.Network([layer, fastlrp.Flatten(), fastlrp.Linear(3)], (2, 2, 2), seed=1)
    net, x = network(make()), np.random.default_rng(17).standard_normal((6, 2, 2, 2))
    x[::2] = np.abs(x[::2])
    composite = fastlrp.composites.Uniform(fastlrp.rules.AlphaBeta(2, 1))
    before, layer = net.explain(x, 0, composite).relevance, net.layers[0]
    for key, value in options.items():
        setattr(layer, key, value)
    other = network(type(layer)(**{**layer.config(), **options}))
    assert layer.nonnegative == other.layers[0].nonnegative == says and layer.gates == other.layers[0].gates
    found, expected = (each.explain(x, 0, composite, layers=True) for each in (net, other))
    assert_same_bits(found.output, expected.output)
    assert_same_bits(found.relevance, expected.relevance)
    assert not np.array_equal(found.relevance, before)
    assert_same_bits(pickle.loads(pickle.dumps(net)).explain(x, 0, composite).relevance, expected.relevance)


def test_only_gates_are_gates() -> None:
    """Those that an engine may take for ReLUs."""
    assert {name for name, cls in LAYERS.items() if cls.gates is True} == {"ReLU", "ReLU6"}
    assert fastlrp.Clip(0, 2).gates and not fastlrp.Clip(-1, 2).gates and not fastlrp.Clip(high=2).gates


def test_calls_that_make_layers_are_what_they_print() -> None:
    """Without what is as by default."""
    for layer, text in (
            (fastlrp.ReLU6(), "ReLU6()"), (fastlrp.Clip(-1, 2), "Clip(low=-1.0, high=2.0)"),
            (fastlrp.Clip(high=2), "Clip(high=2.0)"), (fastlrp.PReLU(), "PReLU()"),
            (fastlrp.PReLU([0.5, 1]), "PReLU(slope=[0.5, 1.0])"), (fastlrp.ELU(0.5), "ELU(alpha=0.5)"),
            (fastlrp.MaxPool2d(3, 2, 1, ceil_mode=True), "MaxPool2d(3, stride=2, padding=1, ceil_mode=True)"),
            (fastlrp.MaxPool2d(2, dilation=(1, 2)), "MaxPool2d(2, dilation=(1, 2))"),
            (fastlrp.AvgPool2d(2), "AvgPool2d(2)"), (fastlrp.GlobalAvgPool2d(), "GlobalAvgPool2d()"),
            (fastlrp.AdaptiveAvgPool2d((7, 7)), "AdaptiveAvgPool2d(7)"),
            (fastlrp.AdaptiveMaxPool2d((2, 1)), "AdaptiveMaxPool2d((2, 1))"), (fastlrp.GELU(), "GELU()"),
            (fastlrp.BatchNorm(), "BatchNorm()"), (fastlrp.BatchNorm(1e-3), "BatchNorm(eps=0.001)"),
            (fastlrp.Scale(), "Scale()"), (fastlrp.Scale(2, [1, 2]), "Scale(times=2.0, plus=[1.0, 2.0])"),
            (fastlrp.Scale(np.ones((3, 3))), "Scale(times=<9 numbers>)"), (fastlrp.Upsample(2), "Upsample(2)"),
            (fastlrp.Slice(), "Slice()"), (fastlrp.Slice(0, 1, -2, 3), "Slice(axis=0, start=1, stop=-2, step=3)"),
            (fastlrp.Upsample((1, 2)), "Upsample((1, 2))"), (fastlrp.Identity(), "Identity()"),
            (fastlrp.GELU("tanh"), "GELU(approximate='tanh')")):
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
    "ceil mode": (lambda: fastlrp.MaxPool2d(2, ceil_mode="no"), "ceil_mode"),
    "ceil mode as a number": (lambda: fastlrp.AvgPool2d(2, ceil_mode=1), "ceil_mode"),
    "padding that counts": (lambda: fastlrp.AvgPool2d(2, count_include_pad=None), "count_include_pad"),
    "dilation": (lambda: fastlrp.MaxPool2d(2, dilation=0), "dilation"),
    "no windows": (lambda: fastlrp.AdaptiveAvgPool2d(0), "out"),
    "windows by name": (lambda: fastlrp.AdaptiveMaxPool2d((3, None)), "out"),
    "times by name": (lambda: fastlrp.Scale("twice"), "times"), "complex plus": (lambda: fastlrp.Scale(1, 1j), "plus"),
    "infinite times": (lambda: fastlrp.Scale([1, np.inf]), "times"), "no plus": (lambda: fastlrp.Scale(1, []), "plus"),
    "negative eps": (lambda: fastlrp.BatchNorm(-1e-5), "eps"), "eps by name": (lambda: fastlrp.BatchNorm("a"), "eps"),
    "fraction of a pixel": (lambda: fastlrp.Upsample(1.5), "scale"), "no pixel": (lambda: fastlrp.Upsample(0), "scale"),
    "axis by name": (lambda: fastlrp.Slice("channels"), "axis"), "no axis": (lambda: fastlrp.Slice(None), "axis"),
    "axes beyond all": (lambda: fastlrp.Slice(32), "axis"), "no start": (lambda: fastlrp.Slice(0, None), "start"),
    "fraction of a start": (lambda: fastlrp.Slice(0, 0.5), "start"), "stop": (lambda: fastlrp.Slice(0, 0, "3"), "stop"),
    "stop as a truth": (lambda: fastlrp.Slice(0, 0, True), "stop"), "step 0": (lambda: fastlrp.Slice(step=0), "step"),
    "step back": (lambda: fastlrp.Slice(step=-1), "step"), "far start": (lambda: fastlrp.Slice(0, 1 << 31), "start"),
    "approximation": (lambda: fastlrp.GELU("erf"), "approximate"),
    "approximations": (lambda: fastlrp.GELU(np.ones(2)), "approximate"),
    "pool scales": (lambda: fastlrp.SumPool2d(2, scale=np.ones(2)), "scale must be a number"),
    "huge slope": (lambda: fastlrp.LeakyReLU(10**400), "slope must be a number that a float can hold"),
    "huge bound": (lambda: fastlrp.Format(0, 10**400), "high must be a number that a float can hold"),
    "huge padding": (lambda: fastlrp.Pad2d(1, -10**400), "value must be a number that a float can hold"),
    "slopes": (lambda: fastlrp.LeakyReLU(np.array([1.0, 2])), "slope must be a number, got array"),
    "complex slope": (lambda: fastlrp.LeakyReLU(np.complex128(1 + 2j)), "slope must be a number"),
    "complex array": (lambda: fastlrp.LeakyReLU(np.array(1 + 2j)), "slope must be a number"),
    "slope as a truth": (lambda: fastlrp.LeakyReLU(True), "slope must be a number, got True"),
    "slope as NumPy's truth": (lambda: fastlrp.LeakyReLU(np.True_), "slope must be a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    """When the layer is made."""
    make, named = BAD[name]
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        make()


@pytest.mark.parametrize("number", [1, np.int8(1), np.float16(1), np.longdouble(1), np.array(1), np.array(1.0, ">f4")])
def test_numbers_of_every_kind(number: Any) -> None:
    """Also arrays that are one."""
    assert repr(fastlrp.LeakyReLU(number)) == "LeakyReLU(slope=1.0)"
