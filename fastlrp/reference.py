"""The NumPy twin of every kernel: the specification, in any float dtype, written to be read.

Same names and arguments as ops.Native, over plain NumPy. Nothing here is tuned; tests cross every compiled
kernel against it, and `Network.to_numpy` runs whole networks on it. Arrays are channels last, batch first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .shapes import Geometry, Padding, Window

Array = np.ndarray
Operand = tuple[Array, str, Array | None]  # (array, read, bound)
Ratio = tuple[Array, float, float, bool]  # (relevance, epsilon, coefficient, signed)
Part = str | tuple[str, float]
Side = tuple[Sequence[Part], Operand | None]  # (one weight part per operand, factor)


def positive(x: Array) -> Array:
    return np.maximum(x, 0)


def negative(x: Array) -> Array:
    return np.minimum(x, 0)


READS: dict[str, Callable[[Array, Any], Array]] = {
    "plain": lambda x, _: x, "positive": lambda x, _: positive(x), "negative": lambda x, _: negative(x),
    "shifted": lambda x, bound: x - bound}

PARTS: dict[str, Callable[[Array], Array]] = {
    "w": lambda w: w, "+": positive, "-": negative, "square": np.square, "one": np.ones_like}


def read(x: Array, how: str, bound: Array | None = None) -> Array:
    """An operand as a rule reads it: x, x⁺, x⁻ or x − bound."""
    return READS[how](x, bound)


def weight_part(weight: Array, part: Part) -> Array:
    """The weights as a rule reads them: w, w⁺, w⁻, w², 1, ("gamma", γ): w⁺ + γ w⁻, or ("raised", γ): w + γ w⁺."""
    if isinstance(part, tuple):
        name, gamma = part[0], weight.dtype.type(part[1])
        if name == "raised":
            return weight + gamma * positive(weight)
        return positive(weight) + gamma * negative(weight)
    return PARTS[part](weight)


def quotient(sums: Array, ratio: Ratio) -> Array:
    """coefficient · R / s_ε(sums); 0 (NaN where R is not finite) where the denominator is exactly zero."""
    relevance, epsilon, coefficient, signed = ratio
    epsilon, top = sums.dtype.type(epsilon), sums.dtype.type(coefficient) * relevance
    stabilised = np.where(sums < 0, sums - epsilon, sums + epsilon) if signed else sums + epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(stabilised == 0, stabilised * top, top / stabilised)


def pad(x: Array, window: Window, value: float = 0) -> Array:
    return np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=value)


def taps(x: Array, window: Window) -> Array:
    """View of padded x as (N, rows, cols, kh, kw, C): every tap of every window."""
    height, width = ((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    windows = windows[:, ::window.stride[0], ::window.stride[1], :, ::window.dilation[0], ::window.dilation[1]]
    return windows.transpose(0, 1, 2, 4, 5, 3)


def scatter_taps(values: Array, window: Window) -> Array:
    """The transpose of `taps`: add (N, rows, cols, kh, kw, C) back into the input's pixels."""
    (top, _), (left, _) = window.padding
    height, width, channels = window.in_shape
    n, rows, cols, kernel_h, kernel_w, _ = values.shape
    out = np.zeros((n, height + sum(window.padding[0]), width + sum(window.padding[1]), channels), values.dtype)
    for ky in range(kernel_h):
        for kx in range(kernel_w):
            y, x = ky * window.dilation[0], kx * window.dilation[1]
            out[:, y:y + (rows - 1) * window.stride[0] + 1:window.stride[0],
                x:x + (cols - 1) * window.stride[1] + 1:window.stride[1]] += values[:, :, :, ky, kx]
    return out[:, top:top + height, left:left + width]


def _grouped(geometry: Geometry, weight: Array) -> Array:
    """Weights (kh, kw, in / groups, out) as (kh, kw, groups, in / groups, out / groups)."""
    kh, kw, ins, outs = weight.shape
    return weight.reshape(kh, kw, ins, geometry.groups, outs // geometry.groups).transpose(0, 1, 3, 2, 4)


def linear(geometry: Geometry, x: Array, weight: Array) -> Array:
    """out[n, y, x, o] = Σ over taps and channels of x · w (no bias)."""
    windows = taps(pad(x, geometry), geometry)
    windows = windows.reshape(*windows.shape[:5], geometry.groups, geometry.in_shape[2] // geometry.groups)
    return np.einsum("nyxhwgi,hwgio->nyxgo", windows, _grouped(geometry, weight),
                     optimize=True).reshape(x.shape[0], *geometry.out_shape)


def linear_back(geometry: Geometry, g: Array, weight: Array) -> Array:
    """The transposed map: from the output's shape to the input's."""
    g = g.reshape(*g.shape[:3], geometry.groups, geometry.out_channels // geometry.groups)
    values = np.einsum("nyxgo,hwgio->nyxhwgi", g, _grouped(geometry, weight), optimize=True)
    return scatter_taps(values.reshape(*values.shape[:5], geometry.in_shape[2]), geometry)


def linear_weight_gradient(geometry: Geometry, x: Array, g: Array) -> Array:
    windows = taps(pad(x, geometry), geometry)
    windows = windows.reshape(*windows.shape[:5], geometry.groups, geometry.in_shape[2] // geometry.groups)
    g = g.reshape(*g.shape[:3], geometry.groups, geometry.out_channels // geometry.groups)
    return np.einsum("nyxhwgi,nyxgo->hwigo", windows, g, optimize=True).reshape(geometry.weight_shape)


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return positive(x) + np.log1p(np.exp(-np.abs(x)))


def erfc(x: Array) -> Array:
    """1 − erf(x) in double precision, exact in relative terms far out too: Python's own, value by value, since NumPy
    has none."""
    return np.vectorize(math.erfc, otypes=[np.float64])(x).astype(x.dtype)


def normal_cdf(x: Array) -> Array:
    """Φ(x), the share of a standard normal distribution below x."""
    return erfc(x * -math.sqrt(0.5)) / 2


def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(negative(x)))


def elu_back(x: Array, g: Array, alpha: float) -> Array:
    return np.where(x <= 0, g * (alpha * np.exp(negative(x))), g)


def gelu_gate(x: Array) -> Array:
    """(1 + tanh u) / 2 = σ(2u), u = √(2/π) (x + 0.044715 x³)."""
    with np.errstate(over="ignore"):
        return sigmoid(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x))


def gelu_tanh_slope(x: Array) -> Array:
    t, y = np.clip(x, -30, 30), gelu_gate(x)  # beyond, the slope is 0 or 1
    return y + x * (y * gelu_gate(-t) * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * t * t))


def hardsigmoid(x: Array) -> Array:
    return np.clip(x + 3, 0, 6) / 6


def mish_slope(x: Array) -> Array:
    gate = np.tanh(softplus(x))
    return gate + x * (sigmoid(x) * (1 - gate * gate))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# name: (value at x, gradient g times the slope at x), each with the activation's parameter
ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (lambda x, _: positive(x), lambda x, g, _: np.where(x <= 0, 0, g)),
    "leaky_relu": (lambda x, slope: np.where(x < 0, slope * x, x),
                   lambda x, g, slope: np.where(x <= 0, slope * g, g)),
    "tanh": (lambda x, _: np.tanh(x), lambda x, g, _: g * (1 - np.tanh(x) ** 2)),
    "sigmoid": (lambda x, _: sigmoid(x), lambda x, g, _: g * sigmoid(x) * sigmoid(-x)),
    "abs": (lambda x, _: np.abs(x), lambda x, g, _: g * np.sign(x)),
    "softplus": (lambda x, _: softplus(x), lambda x, g, _: g * sigmoid(x)),
    "capped_relu": (lambda x, bound: np.clip(x, 0, bound), lambda x, g, bound: np.where((x <= 0) | (x >= bound), 0, g)),
    "at_least": (lambda x, bound: np.maximum(x, bound), lambda x, g, bound: np.where(x <= bound, 0, g)),
    "at_most": (lambda x, bound: np.minimum(x, bound), lambda x, g, bound: np.where(x >= bound, 0, g)),
    "elu": (elu, elu_back),
    "selu": (lambda x, _: SELU_SCALE * elu(x, SELU_ALPHA), lambda x, g, _: SELU_SCALE * elu_back(x, g, SELU_ALPHA)),
    "gelu": (lambda x, _: x * normal_cdf(x),
             lambda x, g, _: g * (normal_cdf(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))),
    "gelu_tanh": (lambda x, _: x * gelu_gate(x), lambda x, g, _: g * gelu_tanh_slope(x)),
    "silu": (lambda x, _: x * sigmoid(x), lambda x, g, _: g * (sigmoid(x) + x * (sigmoid(x) * sigmoid(-x)))),
    "hardswish": (lambda x, _: x * hardsigmoid(x),
                  lambda x, g, _: np.where(x <= -3, 0, np.where(x < 3, g * (x / 3 + 0.5), g))),
    "hardsigmoid": (lambda x, _: hardsigmoid(x), lambda x, g, _: np.where((x <= -3) | (x >= 3), 0, g / 6)),
    "mish": (lambda x, _: x * np.tanh(softplus(x)), lambda x, g, _: g * mish_slope(x)),
}


def shifted(ops: Any, sums: Any, bias: Array, ratio: Any) -> Any:
    """The end of a product whose bias differs from place to place: sums + bias, then the quotient, if any."""
    return ops.affine(sums, plus=bias) if ratio is None else ops.ratio_map(sums, bias, ratio)


def _places_along(axis: int, places: range) -> tuple[slice, ...]:
    return *[slice(None)] * (1 + axis), slice(places.start, places.stop, places.step)


class Plain:
    """The verbs that are plain NumPy on every backend."""

    dtype: np.dtype
    precision = "highest"  # of products: lower ones do not add up to the last bits of dtype

    def affine(self, x: Array, *, minus: Any = 0, times: Any = 1, over: Any = 1, plus: Any = 0) -> Array:
        """(x − minus) · times / over + plus: numbers, one per channel, or arrays of a sample's shape."""
        minus, times, over, plus = (np.asarray(value, self.dtype) for value in (minus, times, over, plus))
        return (x - minus) * times / over + plus

    def multiply(self, a: Array, b: Array) -> Array:
        return a * b

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def pick(self, output: Array, classes: Array, one: bool) -> Array:
        """Outputs (N, classes) with all but one of each sample zero: its value there, or one. Where `classes` (N,)
        is negative it becomes the class of the largest output."""
        asked = classes < 0
        classes[asked] = np.argmax(output[asked], axis=1)
        rows, relevance = np.arange(len(output)), np.zeros_like(output)
        relevance[rows, classes] = 1 if one else output[rows, classes]
        return relevance

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Samples of another shape of the same size."""
        return x.reshape(len(x), *shape)

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        """The axes of samples in another order."""
        return np.ascontiguousarray(x.transpose(0, *(1 + axis for axis in axes)))

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        """Values side by side along an axis of samples."""
        return np.concatenate(xs, axis=1 + axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """The inverse of `concat`."""
        return [np.ascontiguousarray(part) for part in np.split(x, np.cumsum(sizes)[:-1], axis=1 + axis)]

    def slice(self, x: Array, axis: int, places: range) -> Array:
        """What is at these places along an axis of samples, a step of at least 1 apart."""
        return np.ascontiguousarray(x[_places_along(axis, places)])

    def slice_backward(self, g: Array, axis: int, places: range, size: int) -> Array:
        """Zeros, and g at these places along an axis of `size`."""
        out = np.zeros((*g.shape[:1 + axis], size, *g.shape[2 + axis:]), g.dtype)
        out[_places_along(axis, places)] = g
        return out

    def expand(self, x: Array, shape: Sequence[int]) -> Array:
        """Samples of a larger shape: axes of size 1 repeat."""
        return x if x.shape[1:] == tuple(shape) else np.ascontiguousarray(np.broadcast_to(x, (len(x), *shape)))

    def pad(self, x: Array, padding: Padding, value: float) -> Array:
        """Pixels of `value` around (N, H, W, C)."""
        return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)

    def crop(self, x: Array, padding: Padding) -> Array:
        """The inverse of `pad`."""
        (top, bottom), (left, right) = padding
        return np.ascontiguousarray(x[:, top:x.shape[1] - bottom, left:x.shape[2] - right])


class Reference(Plain):
    """The operations of ops.Native in one float dtype."""

    name = "NumPy"
    chunk_bytes = 16 << 20

    def __init__(self, dtype: Any = np.float64):
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise TypeError(f"dtype must be a float type, got {dtype!r}") from None
        if self.dtype.kind != "f":
            raise TypeError(f"dtype must be a float type, got {self.dtype}")
        self.key = f"twin {self.dtype}"

    def product(self, layer: Any, parts: Sequence[Part], operands: Sequence[Operand], *, bias: Array | None = None,
                ratio: Ratio | None = None, sign: int = 0, direct: bool = False) -> Array:
        """Σ over operands of linear(operand, weight part) + bias, then the quotient, if any. sign, direct: see
        ops.Native; here sums of terms of one sign have that sign anyway, and all are direct."""
        geometry = layer.geometry
        out: Any = sum(linear(geometry, read(*o).reshape(len(o[0]), *geometry.in_shape),
                                weight_part(layer.filters, part)) for part, o in zip(parts, operands, strict=True))
        out = out if bias is None else out + bias
        out = out.reshape(len(out), *layer.out_shape)
        return out if ratio is None else quotient(out, ratio)

    def product_back(self, layer: Any, operands: Sequence[Operand], sides: Sequence[Side],
                     direct: bool = False) -> Array:
        """Σ over sides of factor · (Σ over operands of the transposed map with the side's weight parts)."""
        geometry = layer.geometry
        total: Any = 0
        for parts, factor in sides:
            back: Any = sum(linear_back(geometry, read(*o).reshape(len(o[0]), *geometry.out_shape),
                                   weight_part(layer.filters, part)) for part, o in zip(parts, operands, strict=True))
            back = back.reshape(len(back), *layer.in_shape)
            total = total + (back if factor is None else back * read(*factor))
        return total

    def weight_gradient(self, layer: Any, x: Array, g: Array) -> Array:
        geometry = layer.geometry
        x, g = x.reshape(len(x), *geometry.in_shape), g.reshape(len(g), *geometry.out_shape)
        return linear_weight_gradient(geometry, x, g).reshape(layer.weight_shape)

    def channel_sum(self, g: Array) -> Array:
        """Σ over all but the last axis: the gradient of a bias."""
        return g.reshape(-1, g.shape[-1]).sum(axis=0)

    def sum_pool(self, window: Window, x: Array, scale: Array) -> Array:
        return taps(pad(x, window), window).sum(axis=(3, 4)) * scale[..., None].astype(x.dtype)

    def sum_pool_backward(self, window: Window, g: Array, scale: Array, factor: Array | None = None) -> Array:
        spread = g * scale[..., None].astype(g.dtype)
        shape = (*spread.shape[:3], *window.kernel, spread.shape[3])
        out = scatter_taps(np.broadcast_to(spread[:, :, :, None, None], shape), window)
        return out if factor is None else out * factor

    def max_pool(self, window: Window, x: Array) -> tuple[Array, Array]:
        """Largest value and winning tap: the first in scan order on ties; a NaN wins, the last of several."""
        values = taps(pad(x, window), window)
        values = values.reshape(*values.shape[:3], window.kernel[0] * window.kernel[1], x.shape[-1])
        inside = taps(pad(np.ones((1, *window.in_shape), bool), window), window)
        inside = inside.reshape(1, *values.shape[1:])
        out = np.full((x.shape[0], *window.out_shape), -np.inf, x.dtype)
        winner = np.full(out.shape, -1, np.int32)
        for tap in range(values.shape[3]):
            value = values[:, :, :, tap]
            wins = inside[:, :, :, tap] & ((value > out) | np.isnan(value) | (winner < 0))
            out, winner = np.where(wins, value, out), np.where(wins, np.int32(tap), winner)
        return out, winner

    def max_pool_backward(self, window: Window, g: Array, winner: Array) -> Array:
        taps_of = np.arange(np.prod(window.kernel)).reshape(1, 1, 1, *window.kernel, 1)
        return scatter_taps(np.where(winner[:, :, :, None, None] == taps_of, g[:, :, :, None, None], 0), window)

    def max_pool_share(self, window: Window, g: Array, x: Array, y: Array) -> Array:
        """The relevance g of maxima y of x, shared equally by all that attain them; a NaN's by all NaNs."""
        values, inside = taps(pad(x, window), window), pad(np.ones((1, *window.in_shape), bool), window)
        tied = taps(inside, window) & ((values == y[:, :, :, None, None]) | np.isnan(values))
        share = g / np.maximum(tied.sum(axis=(3, 4)), 1).astype(g.dtype)  # a window over padding alone has none
        return scatter_taps(np.where(tied, share[:, :, :, None, None], 0), window)

    def group_sum(self, x: Array, groups: int) -> Array:
        """Σ over the channels of each group: (N, ..., groups)."""
        return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).sum(axis=-1)

    def ratio_map(self, sums: Array, bias: Array | None, ratio: Ratio) -> Array:
        """The quotient of the ratio's relevance and sums + bias; the bias is one per channel or of a sample's shape."""
        return quotient(sums if bias is None else sums + bias, ratio)

    def gamma_map(self, p: Array, q: Array, z: Array, bias: Array | None, gamma: float,
                  ratio: Ratio) -> tuple[Array, Array]:
        """Gamma's A and B of the canonical form (rules.py): the part that agrees with z's sign weighs 1 + γ."""
        b = p.dtype.type(0) if bias is None else bias
        gamma = p.dtype.type(gamma)
        up, down = (1 + gamma) * p + q + (b + gamma * positive(b)), p + (1 + gamma) * q + (b + gamma * negative(b))
        s = quotient(np.where(z < 0, down, up), ratio)
        s = np.where(z == 0, 0 * ratio[0], s)
        return np.where(z < 0, s, (1 + gamma) * s), np.where(z < 0, (1 + gamma) * s, s)

    def activation(self, kind: str, x: Array, parameter: float = 0) -> Array:
        return ACTIVATIONS[kind][0](x, x.dtype.type(parameter))

    def activation_backward(self, kind: str, x: Array, g: Array, parameter: float = 0) -> Array:
        return ACTIVATIONS[kind][1](x, g, x.dtype.type(parameter))

    def nonnegative_samples(self, x: Array) -> Array:
        """For each sample, whether all its values are >= 0 (and so none NaN)."""
        return np.asarray((x >= 0).reshape(len(x), -1).all(axis=1))
