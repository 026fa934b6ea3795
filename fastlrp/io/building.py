"""The builder that importers of channels-first graphs share: operations as PyTorch and ONNX have them, one by one.

In: values, constants and options in the source's terms: shapes (N, C, H, W) with the batch as axis 0, weights (out,
in / groups, kh, kw) and (out, in), axes that count the batch. Out: fastlrp's graph, channels last inside, with the
source's layouts at its surface. Layers for (N, C, L) are those for (N, C, H, W) with height 1.

    builder = Builder("model.onnx", supported=["Conv", "Relu"])
    x = builder.input("image", (3, 32, 32))
    y = builder.run("Conv", "conv1", builder.conv, x, weight, bias, padding=1)
    net = builder.build([y])

Every operation is called through `run`, which names its layers after the node and collects what is unsupported.
Sizes per spatial axis (kernel, stride ...) are an int or a sequence, paddings also (before, after) for each axis. Two
nodes with the same weights in memory, options and input shapes become one shared layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from .. import layers as L
from ..layers.base import Shape
from ..reference import Array
from ..shapes import as_size
from .pointwise import Pointwise
from .values import BATCH, UNKNOWN, Unsupported, Value

__all__ = ["BATCH", "UNKNOWN", "Builder", "Unsupported", "Value"]


PART_BYTES = 4096  # of each layer that one node of the source makes with others


class Builder(Pointwise):
    """Makes a network from a source's operations; see the module, and `values.Values` for the other arguments.

    batch: the sizes that the source's inputs give the batch: a shape that begins with one of them means the batch.
    """

    def __init__(self, source: str, supported: Iterable[str], batch: Iterable[int] = (),
                 charge: Callable[[int], None] | None = None):
        super().__init__(source, supported, charge)
        self.batch = frozenset(batch)

    # ---- weights ----

    def conv(self, x: Value, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
             dilation: Any = 1, groups: int = 1) -> Value:
        """Convolution with weight (out, in / groups, kh, kw) or (out, in / groups, k), bias (out,) or None."""
        axes = weight.ndim - 2
        if axes not in (1, 2):
            raise Unsupported(f"a convolution over {axes} axes: only 1 and 2")
        if len(x.shape) != axes + 1:
            raise ValueError(f"expected samples of {axes + 1} axes for a weight of shape {weight.shape}, got {x.shape}")
        if weight.shape[1] * groups != x.shape[0]:
            raise ValueError(f"a weight of shape {weight.shape} with {groups} groups does not fit samples of shape "
                             f"{x.shape}")
        weight = np.moveaxis(weight if axes == 2 else weight[:, :, None], (2, 3), (0, 1)).swapaxes(2, 3)
        options = (weight.shape[3], weight.shape[:2], self._pair(stride, x, 1), self._padding(padding, x),
                   self._pair(dilation, x, 1), groups, bias is not None)
        symbol = self._weighted(L.Conv2d, options, self.spatial(x), weight, bias)
        return self.from_spatial(symbol, x)

    def linear(self, x: Value, weight: Array, bias: Array | None = None) -> Value:
        """x Wᵀ + b on samples (in,), with weight (out, in), bias (out,) or None."""
        if weight.ndim != 2:
            raise ValueError(f"expected a weight of shape (out, in), got {weight.shape}")
        if len(x.shape) != 1:
            raise Unsupported(f"a matrix product on samples of shape {x.shape}: only on (features,)")
        if weight.shape[1] != x.shape[0]:
            raise ValueError(f"a weight of shape {weight.shape} does not fit samples of shape {x.shape}")
        symbol = self._weighted(L.Linear, (weight.shape[0], bias is not None), self.plain(x), weight.T, bias)
        return Value((weight.shape[0],), plain=symbol, node=self.node)

    def _weighted(self, kind: Any, options: Any, symbol: Any, weight: Array, bias: Array | None) -> Any:
        if 0 in weight.shape:
            raise ValueError(f"a weight without values: shape {weight.shape}, channels last")
        parameters = {"weight": weight}
        if bias is not None:
            if bias.shape != (options[0],):
                raise ValueError(f"expected a bias of shape ({options[0]},), got {bias.shape}")
            parameters["bias"] = bias
        return self.weighted(symbol, lambda: kind(*options), (kind, options), parameters)

    def batch_norm(self, x: Value, weight: Array | None, bias: Array | None, mean: Array, variance: Array,
                   eps: float = 1e-5) -> Value:
        """(x − mean) / √(variance + eps) · weight + bias, each (C,); without weight 1, without bias 0."""
        channels = x.shape[0]
        parameters = {"weight": np.ones(channels, np.float32) if weight is None else weight,
                      "bias": np.zeros(channels, np.float32) if bias is None else bias,
                      "mean": mean, "variance": variance}
        for key, array in parameters.items():
            if array.shape != (channels,):
                raise ValueError(f"expected {key} of shape ({channels},), got {array.shape}")
        symbol = self.plain(x) if len(x.shape) == 1 else self.spatial(x)
        symbol = self.weighted(symbol, lambda: L.BatchNorm(eps), (L.BatchNorm, eps), parameters)
        if len(x.shape) == 1:
            return Value(x.shape, plain=symbol, node=self.node)
        return Value(x.shape, spatial=symbol, node=self.node)

    # ---- pools ----

    def max_pool(self, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                 ceil_mode: bool = False) -> Value:
        """Maximum over windows, of which each must hold data besides padding."""
        return self._pool(L.MaxPool2d, x, kernel, stride, padding, ceil_mode, dilation=self._pair(dilation, x, 1))

    def avg_pool(self, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
                 count_include_pad: bool = True) -> Value:
        """Mean over windows, with their zeros from padding or without."""
        return self._pool(L.AvgPool2d, x, kernel, stride, padding, ceil_mode, count_include_pad=count_include_pad)

    def _pool(self, kind: Any, x: Value, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, **more: Any) -> Value:
        kernel = self._pair(kernel, x, 1)
        stride = kernel if stride is None else self._pair(stride, x, 1)
        layer = kind(kernel, stride, self._padding(padding, x), ceil_mode=bool(ceil_mode), **more)
        symbol = self.call(layer, self.spatial(x))
        return self.from_spatial(symbol, x)

    def global_avg_pool(self, x: Value) -> Value:
        """Mean over all spatial axes, which stay with size 1."""
        symbol = self.call(L.GlobalAvgPool2d(), self.spatial(x))
        return self.from_spatial(symbol, x)

    def global_max_pool(self, x: Value) -> Value:
        """Maximum over all spatial axes, which stay with size 1."""
        symbol = self.spatial(x)
        symbol = self.call(L.MaxPool2d(self.inside(symbol)[:2]), symbol)
        return self.from_spatial(symbol, x)

    def adaptive_avg_pool(self, x: Value, out: Any) -> Value:
        """Means over even parts; out: the number of parts along each spatial axis, None: as many as there are."""
        symbol, axes = self.spatial(x), len(x.shape) - 1
        out = list(out) if isinstance(out, Iterable) else [out] * axes
        if len(out) != axes:
            raise ValueError(f"expected {axes} sizes, got {out}")
        out = [size if own is None else own for own, size in zip(out, x.shape[1:], strict=True)]
        if all(size == 1 for size in out):
            return self.global_avg_pool(x)
        symbol = self.call(L.AdaptiveAvgPool2d(tuple(out) if axes == 2 else (1, *out)), symbol)
        return self.from_spatial(symbol, x)

    def mean(self, x: Value, axes: Sequence[int], keepdims: bool = False) -> Value:
        """Mean over axes: all the spatial ones."""
        rank = len(x.shape) + 1
        if sorted(self._axis(axis, rank) for axis in axes) != list(range(2, rank)) or rank not in (3, 4):
            raise Unsupported(f"a mean over axes {tuple(axes)} of samples of shape {x.shape}: only over all spatial "
                              "axes")
        pooled = self.global_avg_pool(x)
        return pooled if keepdims else self._reshaped(pooled, x.shape[:1], part="squeeze")

    # ---- shapes ----

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Another shape of the same size: the batch (BATCH, one of `batch`, or −1), then sizes, of which one may be
        −1."""
        return self._reshaped(x, self._sample_shape(x, shape))

    def flatten(self, x: Value, start: int = 1, end: int = -1) -> Value:
        """Axes start to end as one."""
        rank = len(x.shape) + 1
        start, end = self._axis(start, rank), self._axis(end, rank)
        if start < 1:
            raise Unsupported("flattening mixes the batch with other axes")
        if start > end:
            raise ValueError(f"expected start <= end, got {start} and {end}")
        return self._reshaped(x, (*x.shape[:start - 1], math.prod(x.shape[start - 1:end]), *x.shape[end:]))

    def squeeze(self, x: Value, axes: Iterable[int] | None = None) -> Value:
        """Leave out axes of size 1: all of them but the batch, or those given (PyTorch's: if they have size 1)."""
        rank = len(x.shape) + 1
        leave = set(range(1, rank)) if axes is None else {self._axis(axis, rank) for axis in axes}
        if 0 in leave:
            raise Unsupported("squeezing away the batch")
        return self._reshaped(x, tuple(size for i, size in enumerate(x.shape, 1) if i not in leave or size != 1))

    def unsqueeze(self, x: Value, axes: Iterable[int], part: str = "") -> Value:
        """Put in axes of size 1; counted in the result."""
        axes = list(axes)
        rank = len(x.shape) + 1 + len(axes)
        new = {self._axis(axis, rank) for axis in axes}
        if 0 in new:
            raise Unsupported("an axis before the batch")
        if len(new) < len(axes):
            raise ValueError(f"axes must differ, got {axes}")
        own = iter(x.shape)
        return self._reshaped(x, tuple(1 if i in new else next(own) for i in range(1, rank)), part)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Axes in another order; the batch stays."""
        rank = len(x.shape) + 1
        axes = [self._axis(axis, rank) for axis in perm]
        if sorted(axes) != list(range(rank)):
            raise ValueError(f"expected an order of {rank} axes, got {tuple(perm)}")
        if axes[0] != 0:
            raise Unsupported("an order of axes that mixes the batch with others")
        order = tuple(axis - 1 for axis in axes[1:])
        if order == tuple(range(rank - 1)):
            return x
        symbol = self.call(L.Transpose(order), self.plain(x))
        return Value(tuple(x.shape[axis] for axis in order), plain=symbol, gate=x.gate, node=self.node)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values one after the other along an axis."""
        first, rank = values[0], len(values[0].shape) + 1
        axis = self._axis(axis, rank)
        if axis == 0:
            raise Unsupported("concatenation along the batch")
        for value in values:
            if len(value.shape) != rank - 1 or any(
                    a != b for i, (a, b) in enumerate(zip(value.shape, first.shape, strict=True), 1) if i != axis):
                raise ValueError(f"cannot concatenate samples of shapes {first.shape} and {value.shape} along axis "
                                 f"{axis}")
        if len(values) == 1:
            return first
        symbols, form = self._together(values)
        result = self.call(L.Concat(axis=_inside(axis, rank, form)), *symbols)
        size = sum(value.shape[axis - 1] for value in values)
        return Value((*first.shape[:axis - 1], size, *first.shape[axis:]), node=self.node,
                     **{form: result})  # type: ignore[arg-type]

    def slice(self, x: Value, axis: int, start: int = 0, stop: int | None = None, step: int = 1,
              part: str = "") -> Value:
        """start, start + step, ... before stop along an axis: as in Python, negative places count from the end."""
        rank = len(x.shape) + 1
        axis = self._axis(axis, rank)
        if axis == 0:
            raise Unsupported("a part of the batch")
        if step < 1:
            raise Unsupported(f"a step of {step}: only of at least 1")
        size = x.shape[axis - 1]
        places = range(size)[start:stop:step]
        if not places:
            raise Unsupported(f"nothing of {size} places along axis {axis}")
        if len(places) == size:
            return x
        symbol, form = self.either(x), "plain" if x.spatial is None else "spatial"
        step = places.step if len(places) > 1 else 1
        layer = L.Slice(_inside(axis, rank, form), places[0], places[-1] + 1, step)
        return Value((*x.shape[:axis - 1], len(places), *x.shape[axis:]), gate=x.gate, node=self.node,
                     **{form: self.call(layer, symbol, part=part)})  # type: ignore[arg-type]

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        """Parts of these sizes, one after the other along an axis."""
        axis = self._axis(axis, len(x.shape) + 1)
        if axis == 0:
            raise Unsupported("parts of the batch")
        if min(sizes) < 0 or sum(sizes) != x.shape[axis - 1]:
            raise ValueError(f"expected parts of sizes that add up to {x.shape[axis - 1]}, got {list(sizes)}")
        self.charge(PART_BYTES * len(sizes))
        ends = pairwise([0, *accumulate(sizes)])
        return [self.slice(x, axis, start, end, part=str(i)) for i, (start, end) in enumerate(ends)]

    def pad(self, x: Value, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Value:
        """Constant values around; pads: (before, after) for each axis, the batch included. Only spatial axes."""
        if len(pads) != len(x.shape) + 1:
            raise ValueError(f"expected pads for {len(x.shape) + 1} axes, got {len(pads)}")
        if not any(map(any, pads)):
            return x
        if any(map(any, pads[:2])) or min(map(min, pads)) < 0:
            raise Unsupported(f"pads {tuple(pads)}: only around spatial axes, and none that cut off")
        symbol = self.call(L.Pad2d(self._padding(list(pads[2:]), x), float(value)), self.spatial(x))
        return self.from_spatial(symbol, x)

    def upsample(self, x: Value, scales: Sequence[float]) -> Value:
        """Nearest neighbours; scales: of the spatial axes, whole numbers."""
        if any(scale != int(scale) or scale < 1 for scale in scales):
            raise Unsupported(f"scales {tuple(scales)}: only whole numbers")
        if all(scale == 1 for scale in scales):
            return x
        symbol = self.call(L.Upsample(self._pair([int(scale) for scale in scales], x, 1)), self.spatial(x))
        return self.from_spatial(symbol, x)

    # ---- what does nothing when explaining ----

    def dropout(self, x: Value, rate: float = 0.5) -> Value:
        """Nothing but while training."""
        return self.map(x, L.Identity() if rate == 1 else L.Dropout(rate), gate=x.gate)

    def softmax(self, x: Value) -> Value:
        """A softmax or its logarithm: only as the last operation; `build` leaves it out and warns."""
        return Value(x.shape, origin=("softmax", x), node=self.node)

    # ---- how the source's sizes are read ----

    def _reshaped(self, x: Value, shape: Shape, part: str = "") -> Value:
        if x.is_a("softmax"):
            return self.softmax(self._reshaped(x.origin[1], shape, part))
        if shape == x.shape:
            return x
        if not shape:
            raise Unsupported("samples without axes")
        layer = L.Flatten() if len(shape) == 1 else L.Reshape(shape)
        return Value(shape, plain=self.call(layer, self.in_any_order(x), part=part), gate=x.gate, node=self.node)

    def _sample_shape(self, x: Value, shape: Sequence[int]) -> Shape:
        """The shape of a sample in a shape with the batch; Unsupported where the batch is mixed with other axes."""
        size, shape = math.prod(x.shape), tuple(shape)
        known = math.prod(abs(own) for own in shape[1:])
        if shape and (shape[0] == BATCH or shape[0] in self.batch or (shape[0] == -1 and known == size)):
            if shape[1:].count(-1) == 1 and known and size % known == 0:
                shape = tuple(size // known if own == -1 else own for own in shape)
            sample = tuple(as_size(own, "shape") for own in shape[1:])
            if math.prod(sample) == size and max(sample, default=1) < BATCH // 2:
                return sample
        as_source = tuple("batch" if own == BATCH else own for own in shape)
        raise Unsupported(f"the shape {as_source} mixes the batch with other axes of samples of shape {x.shape}, or "
                          "does not hold as many values")

    @staticmethod
    def _axis(axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} is out of range for {rank} axes")
        return axis % rank

    @staticmethod
    def _spread_sizes(value: Any, x: Value) -> list[Any]:
        axes = len(x.shape) - 1
        sizes = list(value) if isinstance(value, Iterable) else [value] * axes
        if len(sizes) == 1:
            sizes *= axes
        if len(sizes) != axes:
            raise ValueError(f"expected {axes} sizes for samples of shape {x.shape}, got {sizes}")
        return sizes

    def _pair(self, value: Any, x: Value, one: int) -> tuple[int, int]:
        """Sizes along the spatial axes as (height, width), `one` for the height that 1-D values do not have."""
        sizes = [as_size(size, "size") for size in self._spread_sizes(value, x)]
        if len(sizes) not in (1, 2):
            raise Unsupported(f"samples of shape {x.shape}: only (channels, height, width) and (channels, length)")
        return (one, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])

    def _padding(self, value: Any, x: Value) -> tuple[tuple[int, int], tuple[int, int]]:
        """Paddings along the spatial axes as ((top, bottom), (left, right))."""
        sizes = [tuple(pad) if isinstance(pad, Iterable) else (pad, pad) for pad in self._spread_sizes(value, x)]
        pads = [(as_size(before, "padding", 0), as_size(after, "padding", 0)) for before, after in sizes]
        return ((0, 0), pads[0]) if len(pads) == 1 else (pads[0], pads[1])


def _inside(axis: int, rank: int, form: str) -> int:
    """An axis of the source, counted with the batch and not 0, as layers count it in a value's form."""
    if form == "plain":
        return axis - rank
    return (-1, -3, -2)[axis - 1] if rank == 4 else -axis
