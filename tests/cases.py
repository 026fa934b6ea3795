"""What the core's tests share: tables of layers, seeded data, networks, and ways to compare."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastlrp
from fastlrp import _kernels
from fastlrp.layers import Layer

PACKAGE = Path(fastlrp.__file__).resolve().parent
ISAS = sorted(_kernels.ISAS, key=_kernels.ISAS.__getitem__)

# name: (shape of one input sample, options of a Linear, or of a Conv2d where there is a kernel)
LINEAR: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "dense 1 to 1": ((1,), {"out": 1}),
    "dense 7 to 5": ((7,), {"out": 5}),
    "dense 40 to 33": ((40,), {"out": 33}),
    "more outputs than a cache holds": ((20, 20, 2), {"out": 300, "kernel": 1}),
    "dense 17 to 130": ((17,), {"out": 130}),
    "dense 5000 to 10": ((5000,), {"out": 10}),
    "dense 70 to 1100": ((70,), {"out": 1100}),
    "dense 1100 to 19": ((1100,), {"out": 19}),
    "winograd": ((9, 12, 32), {"out": 40, "kernel": 3, "padding": 1}),
    "winograd, odd sizes": ((9, 9, 33), {"out": 35, "kernel": 3}),
    "winograd, wide padding": ((6, 7, 40), {"out": 32, "kernel": 3, "padding": ((2, 2), (3, 1))}),
    "winograd, back alone": ((6, 7, 32), {"out": 33, "kernel": 3}),
    "winograd, long lines": ((6, 61, 32), {"out": 48, "kernel": 3, "padding": 1}),
    "winograd, 5 x 5": ((9, 12, 10), {"out": 25, "kernel": 5, "padding": 2}),
    "winograd, 5 x 5, read in place": ((12, 24, 8), {"out": 24, "kernel": 5}),
    "winograd, 5 x 5, odd sizes": ((11, 13, 33), {"out": 50, "kernel": 5, "padding": ((0, 2), (1, 0))}),
    "many channels, too small for winograd": ((3, 5, 32), {"out": 40, "kernel": 3, "padding": 1}),
    "conv one pixel": ((1, 1, 3), {"out": 4, "kernel": 1}),
    "conv over padding alone": ((1, 1, 2), {"out": 4, "kernel": 1, "stride": 3, "padding": 1}),
    "conv 1x1": ((6, 7, 9), {"out": 17, "kernel": 1}),
    "lists": ((12, 13, 70), {"out": 33, "kernel": 1}),
    "lists, strided": ((11, 13, 40), {"out": 50, "kernel": 1, "stride": (2, 1)}),
    "lists, many outputs": ((5, 6, 24), {"out": 530, "kernel": 1}),
    "conv 1x1 strided": ((7, 8, 5), {"out": 9, "kernel": 1, "stride": (2, 3)}),
    "conv 3x3": ((9, 10, 8), {"out": 16, "kernel": 3}),
    "conv same": ((9, 10, 5), {"out": 16, "kernel": 3, "padding": "same"}),
    "conv same even kernel, strided": ((9, 10, 3), {"out": 20, "kernel": (4, 2), "stride": 2, "padding": "same"}),
    "conv same, stride 3": ((11, 8, 4), {"out": 6, "kernel": 3, "stride": 3, "padding": "same"}),
    "conv unequal padding": ((8, 11, 6), {"out": 9, "kernel": 3, "padding": ((2, 0), (1, 3))}),
    "conv padding wider than kernel": ((3, 4, 5), {"out": 7, "kernel": 2, "padding": ((3, 4), (4, 2))}),
    "conv stride 2": ((10, 9, 7), {"out": 18, "kernel": 3, "stride": 2, "padding": 1}),
    "conv stride (3, 2)": ((13, 12, 5), {"out": 33, "kernel": (3, 4), "stride": (3, 2), "padding": ((1, 2), (0, 1))}),
    "conv stride beyond kernel": ((12, 11, 6), {"out": 8, "kernel": 2, "stride": 3}),
    "conv stride beyond size": ((2, 2, 5), {"out": 6, "kernel": 1, "stride": 3}),
    "conv dilated": ((12, 11, 6), {"out": 10, "kernel": 3, "dilation": 2, "padding": 2}),
    "conv dilated (3, 2), strided": ((14, 13, 5), {"out": 9, "kernel": (3, 2), "dilation": (3, 2), "stride": 2,
                                                   "padding": ((3, 2), (1, 0))}),
    "conv dilation and stride 3": ((15, 14, 4), {"out": 9, "kernel": 3, "dilation": 3, "stride": 3, "padding": 3}),
    "conv whole input": ((5, 4, 6), {"out": 21, "kernel": (5, 4)}),
    "conv whole input, grouped": ((5, 4, 6), {"out": 8, "kernel": (5, 4), "groups": 2}),
    "conv rows only": ((40, 1, 3), {"out": 5, "kernel": (5, 1), "stride": (2, 1)}),
    "conv columns only": ((1, 40, 6), {"out": 9, "kernel": (1, 4), "padding": ((0, 0), (1, 2))}),
    "grouped": ((7, 8, 12), {"out": 9, "kernel": 3, "groups": 3, "padding": 1}),
    "grouped strided, dilated": ((11, 10, 10), {"out": 34, "kernel": 2, "groups": 2, "stride": 2, "dilation": 2,
                                                "padding": ((1, 0), (0, 1))}),
    "depthwise": ((9, 8, 21), {"out": 21, "kernel": 3, "groups": 21, "padding": 1}),
    "depthwise, many channels": ((6, 9, 45), {"out": 45, "kernel": (2, 3), "groups": 45, "stride": (1, 2),
                                               "padding": ((1, 2), (0, 1))}),
    "depthwise, dilated": ((12, 11, 5), {"out": 5, "kernel": 3, "groups": 5, "dilation": (2, 3), "padding": (3, 2)}),
    "depthwise, stride beyond kernel": ((7, 8, 3), {"out": 3, "kernel": 1, "groups": 3, "stride": 2}),
    "depthwise, two outputs each": ((8, 9, 5), {"out": 10, "kernel": 3, "groups": 5, "stride": 2}),
    "narrow, one output": ((6, 40, 3), {"out": 1, "kernel": 3, "padding": 1}),
    "narrow, two outputs": ((5, 33, 7), {"out": 2, "kernel": (2, 5), "padding": ((1, 0), (3, 1))}),
    "narrow, four outputs, dilated": ((7, 37, 5), {"out": 4, "kernel": 3, "dilation": (1, 4), "padding": (0, 4)}),
    "narrow, eight outputs": ((4, 39, 2), {"out": 8, "kernel": (3, 1), "padding": (2, 0)}),
    "narrow both ways": ((9, 35, 1), {"out": 2, "kernel": 3}),
    "narrow back": ((6, 38, 1), {"out": 24, "kernel": 5, "padding": 2}),
    "narrow back, strided": ((9, 40, 2), {"out": 18, "kernel": (3, 4), "stride": (2, 2), "padding": "same"}),
    "narrow back, stride beyond kernel": ((7, 40, 1), {"out": 9, "kernel": 1, "stride": (2, 3)}),
    "narrow back, four channels": ((5, 29, 4), {"out": 11, "kernel": 2}),
    "scattered back": ((8, 9, 10), {"out": 33, "kernel": 5}),
    "scattered back, padded": ((6, 8, 9), {"out": 21, "kernel": (3, 6), "padding": ((1, 2), (0, 1))}),
    "scattered back, dilated rows": ((7, 6, 17), {"out": 15, "kernel": (3, 4), "dilation": (2, 1)}),
    "scattered back, rows alone": ((5, 9, 12), {"out": 20, "kernel": (1, 5)}),
    "scattered back, padding unseen": ((5, 6, 11), {"out": 26, "kernel": (2, 5), "padding": ((1, 0), (0, 0))}),
    "scattered back, strided": ((11, 13, 17), {"out": 19, "kernel": (4, 5), "stride": (3, 2),
                                               "padding": ((2, 1), (3, 0))}),
    "scattered back, stride beyond kernel": ((7, 14, 18), {"out": 23, "kernel": (2, 3), "stride": (1, 4)}),
    "narrow, long kernel, dilated": ((2, 60, 2), {"out": 2, "kernel": (2, 17), "dilation": (1, 2), "padding": (1, 0)}),
    "narrow, many channels": ((3, 21, 300), {"out": 2, "kernel": (2, 3), "padding": ((0, 1), (0, 0))}),
    "dilated, many channels": ((8, 9, 19), {"out": 7, "kernel": 3, "dilation": 2, "padding": 2}),
    "grouped, many channels": ((5, 6, 36), {"out": 10, "kernel": 2, "groups": 2, "padding": 1}),
    "dilated, many taps": ((32, 36, 2), {"out": 5, "kernel": (16, 17), "dilation": 2, "padding": ((2, 0), (0, 1))}),
    "wide panels": ((6, 5, 10), {"out": 70, "kernel": 2}),
    "more rows than scratch holds": ((14, 20, 230), {"out": 9, "kernel": (2, 1)}),
    "more rows back than scratch holds": ((14, 20, 9), {"out": 230, "kernel": (2, 1)}),
}

# name: (shape of one input sample, kernel, stride, padding)
WINDOWS: dict[str, tuple[tuple[int, int, int], Any, Any, Any]] = {
    "one pixel": ((1, 1, 1), (1, 1), (1, 1), 0),
    "2x2": ((8, 6, 5), (2, 2), (2, 2), 0),
    "ragged": ((9, 7, 3), (2, 3), (2, 3), 0),
    "overlapping": ((10, 11, 17), (3, 3), (2, 2), 0),
    "overlapping, stride 1": ((7, 8, 4), (3, 2), (1, 1), ((1, 1), (0, 1))),
    "padded": ((9, 10, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "unequal padding": ((8, 9, 9), (3, 4), (3, 2), ((2, 0), (1, 3))),
    "same": ((9, 10, 6), (3, 2), (2, 2), "same"),
    "gaps between windows": ((11, 10, 2), (2, 1), (3, 3), 0),
    "global": ((7, 5, 33), (7, 5), (7, 5), 0),
    "many rows": ((40, 37, 3), (2, 2), (1, 2), ((1, 0), (0, 1))),
}


# name: (shape of one input sample, arguments of a pool, which PyTorch has too)
SLIDING: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "whole windows": ((6, 8, 3), {"kernel": 2}),
    "floor": ((7, 8, 5), {"kernel": 3, "stride": 2}),
    "ceil": ((8, 8, 5), {"kernel": 3, "stride": 2, "ceil_mode": True}),
    "ceil that adds nothing": ((7, 9, 4), {"kernel": 3, "stride": 2, "ceil_mode": True}),
    "ceil of one axis": ((7, 10, 17), {"kernel": 3, "stride": (2, 3), "ceil_mode": True}),
    "ceil, gaps between windows": ((7, 8, 2), {"kernel": (2, 1), "stride": (4, 3), "ceil_mode": True}),
    "ceil, start behind the data": ((5, 6, 3), {"kernel": 1, "stride": 3, "ceil_mode": True}),
    "ceil, padded": ((9, 10, 3), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "ceil, start in the padding": ((4, 6, 8), {"kernel": (4, 2), "stride": (5, 3), "padding": (2, 1),
                                               "ceil_mode": True}),
    "ceil, kernel beyond the input": ((2, 3, 2), {"kernel": 4, "stride": 3, "padding": 0, "ceil_mode": True}),
    "padded": ((9, 6, 9), {"kernel": (3, 2), "stride": (1, 2), "padding": 1}),
}
# the same for maxima alone
DILATED: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "dilated": ((9, 8, 5), {"kernel": 3, "stride": 1, "dilation": 2}),
    "dilated, strided, padded": ((11, 12, 9), {"kernel": (3, 2), "stride": (2, 3), "padding": 1, "dilation": (2, 3)}),
    "dilated, ceil": ((10, 11, 3), {"kernel": 2, "stride": (3, 2), "padding": (1, 0), "dilation": (3, 4),
                                    "ceil_mode": True}),
    "dilated, wide padding": ((6, 7, 2), {"kernel": 3, "stride": 1, "padding": (2, 3), "dilation": (2, 3)}),
}
# name: (shape of one input sample, rows and columns out)
ADAPTIVE: dict[str, tuple[tuple[int, int, int], Any]] = {
    "one window": ((7, 5, 9), 1), "multiples": ((6, 8, 5), (3, 2)), "as it is": ((4, 3, 2), (4, 3)),
    "even windows that overlap": ((8, 7, 3), (7, 6)), "uneven": ((9, 10, 5), (7, 3)),
    "uneven rows": ((9, 8, 4), (5, 4)), "uneven columns": ((6, 11, 8), (3, 4)),
    "more windows than pixels": ((3, 2, 3), (7, 5)), "one pixel for many": ((1, 1, 17), 4),
}


def erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)


# name: (the layer, its textbook formula, PyTorch's function given torch.nn.functional, where the slope jumps)
ACTIVATIONS: dict[str, tuple[Callable[[], Layer], Callable[[Any], Any], Callable[[Any, Any], Any], tuple[float, ...]]]
ACTIVATIONS = {
    "relu": (fastlrp.ReLU, lambda x: np.where(x > 0, x, 0), lambda F, x: F.relu(x), (0,)),
    "relu6": (fastlrp.ReLU6, lambda x: np.where(x > 6, 6, np.where(x > 0, x, 0)), lambda F, x: F.relu6(x), (0, 6)),
    "clip": (lambda: fastlrp.Clip(-1.5, 2), lambda x: np.where(x > 2, 2, np.where(x < -1.5, -1.5, x)),
             lambda F, x: F.hardtanh(x, -1.5, 2.0), (-1.5, 2)),
    "clip from 0": (lambda: fastlrp.Clip(0, 0.5), lambda x: np.where(x > 0.5, 0.5, np.where(x > 0, x, 0)),
                    lambda F, x: F.hardtanh(x, 0.0, 0.5), (0, 0.5)),
    "clip, lower": (lambda: fastlrp.Clip(low=1), lambda x: np.where(x > 1, x, 1),
                    lambda F, x: F.threshold(x, 1, 1), (1,)),
    "clip, upper": (lambda: fastlrp.Clip(high=-0.5), lambda x: np.where(x < -0.5, x, -0.5),
                    lambda F, x: -F.threshold(-x, 0.5, 0.5), (-0.5,)),
    "leaky relu": (lambda: fastlrp.LeakyReLU(0.3), lambda x: np.where(x > 0, x, 0.3 * x),
                   lambda F, x: F.leaky_relu(x, 0.3), (0,)),
    "prelu": (lambda: fastlrp.PReLU(-0.75), lambda x: np.where(x > 0, x, -0.75 * x),
              lambda F, x: F.prelu(x, x.new_tensor([-0.75])), (0,)),
    "prelu, channels": (lambda: fastlrp.PReLU([0.25, -1, 0]), lambda x: np.where(x > 0, x, [0.25, -1, 0] * x),
                        lambda F, x: F.prelu(x, x.new_tensor([0.25, -1, 0])), (0,)),
    "elu": (lambda: fastlrp.ELU(0.7), lambda x: np.where(x > 0, x, 0.7 * (np.exp(np.minimum(x, 0)) - 1)),
            lambda F, x: F.elu(x, 0.7), (0,)),
    "selu": (fastlrp.SELU, lambda x: np.where(x > 0, 1.0507009873554805 * x,
                                              1.7580993408473766 * (np.exp(np.minimum(x, 0)) - 1)),
             lambda F, x: F.selu(x), (0,)),
    "gelu": (fastlrp.GELU, lambda x: x / 2 * (1 + erf(x / math.sqrt(2))), lambda F, x: F.gelu(x), ()),
    "gelu, tanh": (lambda: fastlrp.GELU("tanh"),
                   lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
                   lambda F, x: F.gelu(x, approximate="tanh"), ()),
    "silu": (fastlrp.SiLU, lambda x: x / (1 + np.exp(-x)), lambda F, x: F.silu(x), ()),
    "hardswish": (fastlrp.Hardswish, lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
                  lambda F, x: F.hardswish(x), (-3, 3)),
    "hardsigmoid": (fastlrp.Hardsigmoid, lambda x: np.minimum(np.maximum(x / 6 + 0.5, 0), 1),
                    lambda F, x: F.hardsigmoid(x), (-3, 3)),
    "mish": (fastlrp.Mish, lambda x: x * np.tanh(np.log(1 + np.exp(x))), lambda F, x: F.mish(x), ()),
    "tanh": (fastlrp.Tanh, lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), lambda F, x: F.tanh(x), ()),
    "sigmoid": (fastlrp.Sigmoid, lambda x: 1 / (1 + np.exp(-x)), lambda F, x: F.sigmoid(x), ()),
    "abs": (fastlrp.Abs, lambda x: np.where(x > 0, x, -x), lambda F, x: x.abs(), (0,)),
    "softplus": (fastlrp.Softplus, lambda x: np.log(1 + np.exp(x)), lambda F, x: F.softplus(x), ()),
}


class Draw:
    """Seeded arrays. Small integers make every sum exact; all are read-only and lie between NaNs."""

    def __init__(self, seed: int, exact: bool):
        self.rng, self.exact = np.random.default_rng(seed), exact

    def __call__(self, *shape: int) -> np.ndarray:
        values = self.rng.integers(-3, 4, shape) if self.exact else self.rng.standard_normal(shape)
        return guarded(values.astype(np.float32))


def guarded(array: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """A read-only copy with NaN before and after it, so that a read beyond either end shows."""
    array = np.asarray(array, dtype)
    around = np.full(array.size + 34, np.nan, dtype)
    inside = around[17:17 + array.size].reshape(array.shape)
    inside[...] = array
    inside.flags.writeable = False
    return inside


def make_layer(shape: tuple[int, ...], options: dict[str, Any], draw: Draw) -> Any:
    """A built Linear or Conv2d with drawn weights and bias."""
    layer = (fastlrp.Conv2d if "kernel" in options else fastlrp.Linear)(**options)
    fastlrp.Network([layer], input_shape=shape)
    layer.weight = draw(*layer.weight_shape)
    if layer.use_bias:
        layer.bias = draw(layer.out)
    return layer


def relative_error(found: Any, expected: Any) -> float:
    """Relative L2 error; the largest value where everything expected is zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    scale = np.linalg.norm(expected.ravel())
    return float(np.linalg.norm((found - expected).ravel()) / scale if scale else np.abs(found).max(initial=0))


def assert_same_bits(found: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """Equal shapes, types and bytes."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    different = np.ascontiguousarray(found).view(np.uint8) != np.ascontiguousarray(expected).view(np.uint8)
    assert not different.any(), f"{what}: {int(different.sum())} bytes differ"


def mixed_signs(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 samples; every other one has no negative value."""
    x = rng.standard_normal((n, *shape)).astype(np.float32)
    x[::2] = np.abs(x[::2])
    return x


def with_biases(net: fastlrp.Network, seed: int = 1) -> fastlrp.Network:
    """The network with random biases."""
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        if getattr(layer, "use_bias", False):
            layer.bias = 0.3 * rng.standard_normal(layer.out)
    return net


def with_statistics(net: fastlrp.Network, seed: int = 1) -> fastlrp.Network:
    """The network with random parameters of its BatchNorms."""
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        if isinstance(layer, fastlrp.BatchNorm):
            layer.weight, layer.bias, layer.mean = rng.standard_normal((3, *layer.weight.shape))
            layer.variance = rng.uniform(0.5, 2, layer.weight.shape)
    return net


def mixed_network(*first: Layer) -> fastlrp.Network:
    """A little of everything, on samples of shape (10, 9, 3); signs are known in some places, not in others."""
    return with_biases(fastlrp.Network([
        *first, fastlrp.Conv2d(6, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(3, stride=2, padding=1),
        fastlrp.Conv2d(8, 2, groups=2, padding="same"), fastlrp.LeakyReLU(0.2), fastlrp.Conv2d(5, 2, dilation=2),
        fastlrp.ReLU(), fastlrp.SumPool2d(2, stride=1, scale="sqrt"), fastlrp.Dropout(), fastlrp.Flatten(),
        fastlrp.Linear(9), fastlrp.Tanh(), fastlrp.Linear(4)], input_shape=(10, 9, 3), seed=3))


MIXED_SHAPE = (10, 9, 3)
COMPOSITES: dict[str, Callable[[], Any]] = {
    **{name: (lambda name=name: name) for name in
       (*fastlrp.composites.names(), "simple", "ab", "zb", "ww", "gdt", "deeptaylor", "zbab", "wwab", "zb-gdt")},
    "uniform gamma": lambda: fastlrp.composites.Uniform(fastlrp.rules.Gamma(0.5)),
    "uniform alpha-beta": lambda: fastlrp.composites.Uniform(fastlrp.rules.AlphaBeta(1.5, 0.5)),
    "uniform simple gamma": lambda: fastlrp.composites.Uniform(fastlrp.rules.GammaSimple(0.5)),
}


def run_python(code: str, timeout: float = 60, prefix: tuple[str, ...] = (), **environment: str
               ) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter that finds the same package, and these modules."""
    paths = [str(PACKAGE.parent), str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    here = Path(__file__).parent  # not the checkout, whose package may not be built
    return subprocess.run([*prefix, sys.executable, "-c", code], env=env, cwd=here, capture_output=True, text=True,
                          timeout=timeout, check=False)


def dense_map(layer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A linear layer as (inputs, outputs) weights, bias per output, and which inputs each output is connected to.

    Written from the definition of a convolution, in plain loops, apart from the package's own size arithmetic.
    """
    weight = layer.weight.astype(np.float64)
    if weight.ndim == 2:
        bias = np.zeros(weight.shape[1]) if layer.bias is None else layer.bias.astype(np.float64)
        return weight, bias, np.ones_like(weight)
    height, width, channels = layer.in_shape
    rows, cols, outs = layer.out_shape
    top, left = _leading_padding(layer, height, width)
    per_group, outs_per_group = channels // layer.groups, outs // layer.groups
    dense, linked = np.zeros((2, height, width, channels, rows, cols, outs))
    for row, col, ky, kx in np.ndindex(rows, cols, *weight.shape[:2]):
        y = row * layer.stride[0] + ky * layer.dilation[0] - top
        x = col * layer.stride[1] + kx * layer.dilation[1] - left
        if not (0 <= y < height and 0 <= x < width):
            continue
        for group in range(layer.groups):
            i = slice(group * per_group, (group + 1) * per_group)
            o = slice(group * outs_per_group, (group + 1) * outs_per_group)
            dense[y, x, i, row, col, o] = weight[ky, kx, :, o]
            linked[y, x, i, row, col, o] = 1
    bias = np.zeros(outs) if layer.bias is None else layer.bias.astype(np.float64)
    size = height * width * channels
    return dense.reshape(size, -1), np.tile(bias, rows * cols), linked.reshape(size, -1)


def _leading_padding(layer: Any, height: int, width: int) -> tuple[int, int]:
    if layer.padding != "same":
        return layer.padding[0][0], layer.padding[1][0]
    found = []
    for axis, size in enumerate((height, width)):
        needed = (math.ceil(size / layer.stride[axis]) - 1) * layer.stride[axis]
        found.append(max(needed + (layer.kernel[axis] - 1) * layer.dilation[axis] + 1 - size, 0) // 2)
    return found[0], found[1]
