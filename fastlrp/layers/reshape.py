"""Layers that move values, pick some of them or let them through: Flatten, Reshape, Transpose, Slice, Pad2d, Upsample,
Dropout, Identity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..reference import Array
from ..shapes import MOST, Window, as_number, as_padding, as_pair, as_size
from .base import Layer, Shape


class Reshape(Layer):
    """Give each sample another shape of the same size; one entry may be −1."""

    kind = "reshape"
    role = "route"
    layout = "plain"
    aliases = True
    transparent = True
    nonnegative = "as input"
    keeps_range = True
    options: ClassVar[tuple[str, ...]] = ("shape",)
    structural = options

    def __init__(self, shape: Sequence[int] | int, name: str | None = None):
        super().__init__(name)
        if isinstance(shape, str) or not isinstance(shape, (int, Iterable)):
            raise TypeError(f"shape must be a tuple of sizes, got {shape!r}")
        self.shape = tuple(as_size(size, "shape", -1) for size in ((shape,) if isinstance(shape, int) else shape))
        if 0 in self.shape or self.shape.count(-1) > 1:
            raise ValueError(f"shape must hold positive sizes and at most one -1, got {self.shape}")

    def infer(self, in_shape: Shape) -> Shape:
        size, known = math.prod(in_shape), math.prod(s for s in self.shape if s != -1)
        shape = tuple(size // known if s == -1 else s for s in self.shape)
        if math.prod(shape) != size:
            raise ValueError(f"cannot reshape samples of shape {in_shape} ({size} values) to {self.shape}")
        return shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.reshape(x, self.out_shape), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.reshape(g, self.in_shape)


class Flatten(Reshape):
    """Each sample as one row, in (H, W, C) order."""

    kind = "flatten"
    options = ()

    def __init__(self, name: str | None = None):
        super().__init__(-1, name)


class Transpose(Layer):
    """The axes of each sample in another order: axes (1, 2, 0) make (C, H, W) into (H, W, C)."""

    kind = "transpose"
    role = "route"
    layout = "plain"
    nonnegative = "as input"
    keeps_range = True
    transparent = True
    options: ClassVar[tuple[str, ...]] = ("axes",)
    structural = options

    def __init__(self, axes: Sequence[int], name: str | None = None):
        super().__init__(name)
        if isinstance(axes, str) or not isinstance(axes, Iterable):
            raise TypeError(f"axes must be a tuple of axes, got {axes!r}")
        self.axes = tuple(as_size(axis, "axes", 0) for axis in axes)
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"axes must hold each axis of a sample once, from 0, got {self.axes}")

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) != len(self.axes):
            raise ValueError(f"expected samples with {len(self.axes)} axes, got shape {in_shape}")
        return tuple(in_shape[axis] for axis in self.axes)

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.transpose(x, self.axes), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return ops.transpose(g, tuple(back))


class ToChannelsFirst(Transpose):
    """(H, W, C) to (C, H, W): the order in which PyTorch and ONNX flatten."""

    kind = "to_channels_first"
    options = ()

    def __init__(self, name: str | None = None):
        super().__init__((2, 0, 1), name)


class ToChannelsLast(Transpose):
    """(C, H, W) to (H, W, C), which convolutions and pools read."""

    kind = "to_channels_last"
    layout = "spatial"
    options = ()

    def __init__(self, name: str | None = None):
        super().__init__((1, 2, 0), name)


class Slice(Layer):
    """The places start, start + step, ... before stop along an axis of a sample (−1: the channels; batches are not
    counted): x[..., start:stop:step, ...]. Negative places count from the end, stop=None is the end, and what lies
    beyond is left out, as in Python. Relevance goes by position: what is not picked has none.

    A value is split by several Slices that read it: its relevance is the sum of theirs.
    """

    kind = "slice"
    role = "route"
    nonnegative = "as input"
    transparent = True
    options = structural = ("axis", "start", "stop", "step")

    def __init__(self, axis: int = -1, start: int = 0, stop: int | None = None, step: int = 1, name: str | None = None):
        super().__init__(name)
        self.axis, self.step = as_size(axis, "axis", -32, 32), as_size(step, "step")
        self.start = as_size(start, "start", -MOST)
        self.stop = None if stop is None else as_size(stop, "stop", -MOST)

    def infer(self, in_shape: Shape) -> Shape:
        rank = len(in_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(f"axis must be from {-rank} to {rank - 1} for samples of shape {in_shape}, "
                             f"got {self.axis}")
        at, count = self.axis % rank, len(self._places(in_shape))
        if not count:
            raise ValueError(f"start={self.start} and stop={self.stop} pick nothing of the {in_shape[at]} places along "
                             f"axis {self.axis} of samples of shape {in_shape}")
        return (*in_shape[:at], count, *in_shape[at + 1:])

    def _places(self, in_shape: Shape) -> range:
        return range(in_shape[self.axis])[self.start:self.stop:self.step]

    def scaled(self, x: Array) -> Array:
        """What is left of values, numbers or one per channel."""
        along_channels = self.axis in (-1, len(self.in_shape) - 1)
        return x[self.start:self.stop:self.step] if along_channels and x.shape == self.in_shape[-1:] else x

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.slice(x, self.axis % len(self.in_shape), self._places(self.in_shape)), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        at = self.axis % len(self.in_shape)
        return ops.slice_backward(g, at, self._places(self.in_shape), self.in_shape[at])


class Pad2d(Layer):
    """Add `padding` pixels of `value` around (N, H, W, C): an int, a pair or ((top, bottom), (left, right))."""

    kind = "pad"
    role = "route"
    options = ("padding", "value")
    structural = ("padding",)

    def __init__(self, padding: Any, value: float = 0.0, name: str | None = None):
        super().__init__(name)
        resolved = as_padding(padding)
        if isinstance(resolved, str):
            raise ValueError('padding must be numbers here; "same" belongs to convolutions and pools')
        self.padding, self.value = resolved, as_number(value, "value", finite=False)

    @property
    def nonnegative(self) -> str:  # type: ignore[override]
        return "as input" if self.value >= 0 else "unknown"

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) != 3:
            raise ValueError(f"expected an input of shape (height, width, channels), got {in_shape}")
        (top, bottom), (left, right) = self.padding
        return in_shape[0] + top + bottom, in_shape[1] + left + right, in_shape[2]

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.pad(x, self.padding, self.value), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.crop(g, self.padding)


class Upsample(Layer):
    """Each pixel of (N, H, W, C) as a block of `scale` pixels, an int or a pair (height, width): nearest neighbours.
    The relevance of a pixel is the sum over its copies."""

    kind = "upsample"
    role = "route"
    nonnegative = "as input"
    keeps_range = True
    options = structural = ("scale",)
    window: Window  # of its transpose, which adds up blocks

    def __init__(self, scale: Any, name: str | None = None):
        super().__init__(name)
        self.scale = as_pair(scale, "scale")

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) != 3:
            raise ValueError(f"expected an input of shape (height, width, channels), got {in_shape}")
        height, width, channels = in_shape
        out_shape = height * self.scale[0], width * self.scale[1], channels
        self.window = Window.fit(out_shape, self.scale, self.scale, ((0, 0), (0, 0)))
        return out_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.sum_pool_backward(self.window, x, np.ones(self.window.grid, ops.dtype)), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.sum_pool(self.window, g, np.ones(self.window.grid, ops.dtype))


class Dropout(Layer):
    """While training, set each value to zero with probability `rate` and scale the others by 1 / (1 − rate);
    otherwise nothing. Source: Srivastava et al. 2014."""

    kind = "dropout"
    aliases = True
    nonnegative = "as input"
    transparent = True
    keeps_range = True
    options = ("rate",)

    def __init__(self, rate: float = 0.5, name: str | None = None):
        super().__init__(name)
        self.rate = as_number(rate, "rate")
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate!r}")

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return x, None

    def forward_training(self, ops: Any, x: Array, rng: np.random.Generator) -> tuple[Array, Any]:
        mask = (rng.random(x.shape, np.float32) >= self.rate).astype(x.dtype) / x.dtype.type(1 - self.rate)
        return x * mask, mask

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return g if kept is None else g * kept


class Identity(Layer):
    """Nothing: the input itself."""

    kind = "identity"
    aliases = True
    nonnegative = "as input"
    transparent = True
    keeps_range = True

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return x, None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return g
