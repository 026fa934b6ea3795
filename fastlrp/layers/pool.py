"""Pooling: sums, averages and maxima over windows of (N, H, W, C). Windows slide, or adapt to the output's size."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..reference import Array
from ..shapes import MOST, Run, Window, adaptive_runs, as_flag, as_number, as_padding, as_pair, check_elements
from .base import Layer, Shape
from .conv import Conv2d


class Pooling(Layer):
    """What all pools share."""

    nonnegative = "as input"
    window: Window

    @property
    def even(self) -> bool:
        """Whether all windows have one size, and one distance: they slide then."""
        return True


class Sliding(Pooling):
    """Windows a stride apart, which defaults to the kernel; padding as in Conv2d, "same" included.

    ceil_mode: a last window that is not whole counts too, where it starts in the data or in the padding before it.
    """

    options: ClassVar[tuple[str, ...]] = ("kernel", "stride", "padding", "ceil_mode")
    structural = (*options, "dilation")
    dilation = (1, 1)

    def __init__(self, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, name: str | None):
        super().__init__(name)
        self.kernel = as_pair(kernel, "kernel")
        self.stride = self.kernel if stride is None else as_pair(stride, "stride")
        self.padding, self.ceil_mode = as_padding(padding), as_flag(ceil_mode, "ceil_mode")

    def infer(self, in_shape: Shape) -> Shape:
        self.window = Window.fit(in_shape, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
        for size, kernel, dilation, padding in zip(in_shape, self.kernel, self.dilation, self.window.padding,
                                                   strict=False):
            if max(padding) > (kernel - 1) * dilation or (max(padding) and dilation > size):
                raise ValueError(f"padding {self.window.padding} must be less than the kernel {self.kernel} with "
                                 f"dilation {self.dilation} reaches: a window must hold data")
        return self.window.out_shape


class Adaptive(Pooling):
    """As many windows as `out` (rows, columns) says, evenly: window i of an axis is from ⌊i · size / out⌋ to
    ⌈(i + 1) · size / out⌉, as in PyTorch. `runs` has those of both axes."""

    options: ClassVar[tuple[str, ...]] = ("out",)
    structural = options
    runs: tuple[list[Run], list[Run]]

    def __init__(self, out: Any, name: str | None = None):
        super().__init__(name)
        self.out = as_pair(out, "out")

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) != 3:
            raise ValueError(f"expected an input of shape (height, width, channels), got {in_shape}")
        out_shape = (*self.out, in_shape[2])
        check_elements("output", out_shape)
        rows, cols = (adaptive_runs(*sizes) for sizes in zip(in_shape, self.out, strict=False))
        self.runs = rows, cols
        if self.even:
            self.window = Window.fit(in_shape, (rows[0].length, cols[0].length), (rows[0].step, cols[0].step),
                                     ((0, 0), (0, 0)))
        return out_shape

    @property
    def even(self) -> bool:
        return len(self.runs[0]) == len(self.runs[1]) == 1


class Sums(Pooling):
    """A factor times the sum over each window."""

    role = "sum"

    def __init__(self, name: str | None = None):
        super().__init__(name)
        self._kept: dict[np.dtype, tuple[int, Array]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def _scales(self) -> Array:
        """The factor of each output position (rows, cols), in double precision."""
        raise NotImplementedError

    def _scales_in(self, dtype: np.dtype) -> Array:
        """The factors in a backend's type: computed at first use, then kept."""
        found = self._kept.get(dtype)
        if found is None or found[0] != self.version:
            found = self._kept[dtype] = self.version, self._scales().astype(dtype)
        return found[1]

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.sum_pool(self.window, x, self._scales_in(ops.dtype)), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.sum_pool_backward(self.window, g, self._scales_in(ops.dtype))

    def as_convolution(self, dtype: np.dtype) -> Layer:
        """Σ over each window, without the factor, as a convolution of ones: to this, rules of linear layers apply.

        Windows must be even.
        """
        window, channels = self.window, self.in_shape[2]
        found = Conv2d(channels, window.kernel, window.stride, window.padding, groups=channels, bias=False)
        found.build(self.in_shape)
        found.weight = np.ones(found.weight_shape)
        return found.astype(dtype)

    def norm(self, ops: Any, quotients: Array, x: Array) -> Array:
        """x · backward(quotients): how the Norm rule brings relevance down."""
        return ops.sum_pool_backward(self.window, quotients, self._scales_in(ops.dtype), x)


class Maxima(Pooling):
    """The maximum over each window; gradient and relevance go to the winner, the first in scan order on ties."""

    role = "route"
    keeps_range = True

    def build(self, in_shape: Shape) -> Shape:
        out_shape = super().build(in_shape)
        if math.prod(self.window.kernel) >= MOST:
            raise ValueError(f"kernel {self.window.kernel} must have less than {MOST} taps: winners are counted in 32 "
                             "bits")
        return out_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.max_pool(self.window, x)

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.max_pool_backward(self.window, g, kept)


class SumPool2d(Sliding, Sums):
    """scale · Σ over each window. scale: a number, or "sqrt" for 1 / √(kh · kw), the original project's pool."""

    kind = "sumpool"
    options = (*Sliding.options, "scale")

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, scale: float | str = 1.0,
                 ceil_mode: bool = False, name: str | None = None):
        super().__init__(kernel, stride, padding, ceil_mode, name)
        if isinstance(scale, str) and scale != "sqrt":
            raise ValueError(f'scale must be a finite number or "sqrt", got {scale!r}')
        self.scale = scale if isinstance(scale, str) else as_number(scale, "scale")

    @property
    def nonnegative(self) -> str:  # type: ignore[override]
        return "unknown" if not isinstance(self.scale, str) and self.scale < 0 else "as input"

    def _scales(self) -> Array:
        scale = 1 / math.sqrt(math.prod(self.kernel)) if self.scale == "sqrt" else self.scale
        return np.full(self.window.grid, scale)


class AvgPool2d(Sliding, Sums):
    """Mean over each window; with count_include_pad=False over its real elements only. What ceil_mode adds behind the
    padding never counts."""

    kind = "avgpool"
    options = (*Sliding.options, "count_include_pad")

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True,
                 ceil_mode: bool = False, name: str | None = None):
        super().__init__(kernel, stride, padding, ceil_mode, name)
        self.count_include_pad = as_flag(count_include_pad, "count_include_pad")

    def _scales(self) -> Array:
        own = self.window.padding if isinstance(self.padding, str) else self.padding
        counts = []
        for size, count, kernel, step, padding in zip(self.in_shape, self.window.grid, self.kernel, self.stride, own,
                                                      strict=False):
            before, after = padding if self.count_include_pad else (0, 0)
            starts = np.arange(count) * step - padding[0]
            counts.append(np.minimum(starts + kernel, size + after) - np.maximum(starts, -before))
        return 1 / np.outer(*counts)


class MaxPool2d(Sliding, Maxima):
    """Maximum over each window; gradient and relevance go to the winner, the first in scan order on ties."""

    kind = "maxpool"
    options = (*Sliding.options, "dilation")

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
                 name: str | None = None):
        super().__init__(kernel, stride, padding, ceil_mode, name)
        self.dilation = as_pair(dilation, "dilation")


class AdaptiveAvgPool2d(Adaptive, Sums):
    """Means over as many windows as `out` says, an int or a pair: window i of an axis is from ⌊i · size / out⌋ to
    ⌈(i + 1) · size / out⌉, as in PyTorch. A plain average pool where the input is a multiple of out."""

    kind = "adaptiveavgpool"

    def _scales(self) -> Array:
        return np.full(self.window.grid, 1 / math.prod(self.window.kernel))

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        if self.even:
            return super().forward(ops, x)
        shape = self.in_shape
        for axis in (0, 1):
            windows = self._windows(axis, shape)
            pieces = [ops.sum_pool(window, ops.crop(x, outside), _scales_of(window, ops.dtype))
                      for window, outside in windows]
            x = ops.concat(pieces, axis) if len(pieces) > 1 else pieces[0]
            shape = _with(shape, axis, self.out[axis])
        return x, None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        if self.even:
            return super().backward(ops, g, x, kept)
        for axis, shape in ((1, _with(self.in_shape, 0, self.out[0])), (0, self.in_shape)):
            windows = self._windows(axis, shape)
            pieces = ops.split(g, [window.grid[axis] for window, _ in windows], axis) if len(windows) > 1 else [g]
            parts = [ops.pad(ops.sum_pool_backward(window, piece, _scales_of(window, ops.dtype)), outside, 0.0)
                     for (window, outside), piece in zip(windows, pieces, strict=True)]
            g = functools.reduce(ops.add, parts)
        return g

    def norm(self, ops: Any, quotients: Array, x: Array) -> Array:
        if self.even:
            return super().norm(ops, quotients, x)
        return ops.multiply(x, self.backward(ops, quotients, x, None))

    def _windows(self, axis: int, shape: Shape) -> list[tuple[Window, Any]]:
        """Each run of an axis over samples of a shape: a window on the rows or columns it covers, and the padding that
        these lack to the whole. Rows and columns go one after the other: a mean of means over sets of one size."""
        found = []
        for run in self.runs[axis]:
            kernel, step, outside = [1, 1], [1, 1], [(0, 0), (0, 0)]
            kernel[axis], step[axis], outside[axis] = run.length, run.step, (run.start, shape[axis] - run.end)
            window = Window.fit(_with(shape, axis, run.end - run.start), (kernel[0], kernel[1]), (step[0], step[1]),
                                ((0, 0), (0, 0)))
            found.append((window, tuple(outside)))
        return found


def _scales_of(window: Window, dtype: np.dtype) -> Array:
    return np.full(window.grid, 1 / math.prod(window.kernel)).astype(dtype)


def _with(shape: Sequence[int], axis: int, size: int) -> Shape:
    """The shape with another size along an axis."""
    return (*shape[:axis], size, *shape[axis + 1:])


class GlobalAvgPool2d(AdaptiveAvgPool2d):
    """Mean over all pixels: (H, W, C) to (1, 1, C)."""

    kind = "globalavgpool"
    options = ()

    def __init__(self, name: str | None = None):
        super().__init__(1, name)


class AdaptiveMaxPool2d(Adaptive, Maxima):
    """Maxima over as many windows as `out` says, an int or a pair; the input must be a multiple of it, so that windows
    are all alike."""

    kind = "adaptivemaxpool"

    def infer(self, in_shape: Shape) -> Shape:
        out_shape = super().infer(in_shape)
        if not self.even:
            raise ValueError(f"expected an input of which height and width are multiples of out={self.out}, as windows "
                             f"must be all alike for maxima; got {in_shape}")
        return out_shape
