"""The two-dimensional convolution."""

from __future__ import annotations

from typing import Any

from ..shapes import Geometry, as_padding, as_pair, as_size
from .base import Shape, WeightedLayer


class Conv2d(WeightedLayer):
    """Cross-correlation of (N, H, W, in) with filters (kh, kw, in / groups, out), plus bias (out,).

    kernel, stride, dilation: an int or a pair (height, width). padding: an int, a pair, ((top, bottom),
    (left, right)), or "same" (TensorFlow's: ceil(size / stride) outputs, the odd element after the data).
    """

    kind = "conv"
    role = "convolution"
    options = ("out", "kernel", "stride", "padding", "dilation", "groups")
    structural = (*WeightedLayer.structural, *options)

    def __init__(self, out: int, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
                 bias: bool = True, name: str | None = None):
        super().__init__(as_size(out, "out"), bias, name)
        self.kernel, self.stride = as_pair(kernel, "kernel"), as_pair(stride, "stride")
        self.padding, self.dilation = as_padding(padding), as_pair(dilation, "dilation")
        self.groups = as_size(groups, "groups")
        if self.out % self.groups:
            raise ValueError(f"out must be a multiple of groups, got out={self.out}, groups={self.groups}")

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) == 3 and in_shape[2] % self.groups:
            raise ValueError(f"groups={self.groups} does not divide the input's {in_shape[2]} channels")
        self.geometry = Geometry.fit(in_shape, self.kernel, self.stride, self.padding, self.dilation,
                                     out_channels=self.out, groups=self.groups)
        return self.geometry.out_shape
