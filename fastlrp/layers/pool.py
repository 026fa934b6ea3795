"""Pooling: sums, averages and maxima over sliding windows of (N, H, W, C)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from ..reference import Array
from ..shapes import Window, as_number, as_padding, as_pair
from .base import Layer, Shape


class Pool2d(Layer):
    """What the pools share. stride defaults to the kernel; padding as in Conv2d, "same" included."""

    nonnegative = "as input"
    options: ClassVar[tuple[str, ...]] = ("kernel", "stride", "padding")
    window: Window

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, name: str | None = None):
        super().__init__(name)
        self.kernel = as_pair(kernel, "kernel")
        self.stride = self.kernel if stride is None else as_pair(stride, "stride")
        self.padding = as_padding(padding)

    def infer(self, in_shape: Shape) -> Shape:
        self.window = Window.fit(in_shape, self.kernel, self.stride, self.padding)
        if any(max(p) >= k for p, k in zip(self.window.padding, self.kernel, strict=True)):
            raise ValueError(f"padding {self.window.padding} must be less than the kernel {self.kernel}: "
                             "a window must hold data")
        return self.window.out_shape


class SumPool2d(Pool2d):
    """scale · Σ over each window. scale: a number, or "sqrt" for 1 / √(kh · kw), the original project's pool."""

    kind = "sumpool"
    role = "sum"
    options = (*Pool2d.options, "scale")

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, scale: float | str = 1.0,
                 name: str | None = None):
        super().__init__(kernel, stride, padding, name)
        if scale != "sqrt":
            if isinstance(scale, str):
                raise ValueError(f'scale must be a finite number or "sqrt", got {scale!r}')
            scale = as_number(scale, "scale")
            if scale < 0:
                self.nonnegative = "unknown"
        self.scale = scale
        self._kept: dict[np.dtype, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def _scales(self) -> Array:
        """The factor of each output position (rows, cols), in double precision."""
        scale = 1 / math.sqrt(math.prod(self.kernel)) if self.scale == "sqrt" else self.scale
        return np.full(self.window.grid, scale)

    def _scales_in(self, dtype: np.dtype) -> Array:
        """The factors in a backend's type: computed at first use, then kept."""
        found = self._kept.get(dtype)
        if found is None:
            found = self._kept[dtype] = self._scales().astype(dtype)
        return found

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.sum_pool(self.window, x, self._scales_in(ops.dtype)), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.sum_pool_backward(self.window, g, self._scales_in(ops.dtype))

    def norm(self, ops: Any, quotients: Array, x: Array) -> Array:
        """x · backward(quotients): how the Norm rule brings relevance down."""
        return ops.sum_pool_backward(self.window, quotients, self._scales_in(ops.dtype), x)


class AvgPool2d(SumPool2d):
    """Mean over each window; with count_include_pad=False over its real elements only."""

    kind = "avgpool"
    options = (*Pool2d.options, "count_include_pad")

    def __init__(self, kernel: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True,
                 name: str | None = None):
        super().__init__(kernel, stride, padding, name=name)
        self.count_include_pad = bool(count_include_pad)

    def _scales(self) -> Array:
        if self.count_include_pad:
            return np.full(self.window.grid, 1 / math.prod(self.kernel))
        starts = [np.arange(n) * step - pad for n, step, (pad, _) in
                  zip(self.window.grid, self.stride, self.window.padding, strict=True)]
        rows, cols = (np.minimum(start + k, size) - np.maximum(start, 0) for start, k, size in
                      zip(starts, self.kernel, self.window.in_shape[:2], strict=True))
        return 1 / np.outer(rows, cols)


class MaxPool2d(Pool2d):
    """Maximum over each window; gradient and relevance go to the winner, the first in scan order on ties."""

    kind = "maxpool"
    role = "route"
    keeps_range = True

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.max_pool(self.window, x)

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.max_pool_backward(self.window, g, kept)
