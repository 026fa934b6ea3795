"""The dense layer."""

from __future__ import annotations

from ..shapes import Geometry, as_size
from .base import Shape, WeightedLayer


class Linear(WeightedLayer):
    """z = x W + b, x of shape (N, in), W (in, out), b (out,). Put Flatten before it after convolutions."""

    kind = "linear"
    role = "linear"
    options = ("out",)

    def __init__(self, out: int, bias: bool = True, name: str | None = None):
        super().__init__(as_size(out, "out"), bias, name)

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) != 1:
            raise ValueError(f"expected flat samples of shape (features,), got {in_shape}; put Flatten() before it")
        self.geometry = Geometry.dense(in_shape[0], self.out)
        return (self.out,)

    @property
    def weight_shape(self) -> Shape:
        """(in, out), known once a network is built."""
        return self.geometry.weight_shape[2:]
