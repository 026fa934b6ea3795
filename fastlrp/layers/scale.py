"""Layers that scale and shift by constants: Format and Normalize bring the network's input to the range it was trained
for, Scale may stand anywhere. Relevance passes them unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Array
from ..shapes import as_number
from .base import Layer, Shape


class Format(Layer):
    """Stretch [0, 1] to [low, high]: x · (high − low) + low."""

    kind = "format"
    role = "scale"
    options = ("low", "high")

    def __init__(self, low: float = -1.0, high: float = 1.0, name: str | None = None):
        super().__init__(name)
        self.low, self.high = as_number(low, "low"), as_number(high, "high")
        if self.low >= self.high:
            raise ValueError(f"low must be less than high, got low={low!r}, high={high!r}")

    def scaled(self, x: Array) -> Array:
        return x * x.dtype.type(self.high - self.low) + x.dtype.type(self.low)

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.affine(x, times=self.high - self.low, plus=self.low), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.affine(g, times=self.high - self.low)


class Normalize(Layer):
    """(x − mean) / std, numbers or one per channel. Pixels are taken to lie in [0, 1]."""

    kind = "normalize"
    role = "scale"
    options = constants = ("mean", "std")

    def __init__(self, mean: Any, std: Any, name: str | None = None):
        super().__init__(name)
        self.mean, self.std = mean, std
        if np.ndim(self.mean) > 1 or np.ndim(self.std) > 1 or np.min(self.std) <= 0:
            raise ValueError(f"mean and std must be finite numbers or one per channel, std > 0; got {mean}, {std}")

    def scaled(self, x: Array) -> Array:
        return (x - np.asarray(self.mean, x.dtype)) / np.asarray(self.std, x.dtype)

    def infer(self, in_shape: Shape) -> Shape:
        for name in ("mean", "std"):
            count = np.size(getattr(self, name))
            if count not in (1, in_shape[-1]):
                raise ValueError(f"{name} has {count} values, the input {in_shape[-1]} channels")
        return in_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.affine(x, minus=self.mean, over=self.std), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.affine(g, over=self.std)


class Scale(Layer):
    """(x − minus) · times + plus: constants, each a number, one for each channel, or of a sample's shape (axes of size
    1 repeat).

    minus: for values far from zero and close to each other, of which x · times + plus alone loses the digits.
    Relevance passes: constants have no say. Training leaves them as they are.
    """

    kind = "scaling"
    options = constants = ("times", "plus", "minus")

    def __init__(self, times: Any = 1.0, plus: Any = 0.0, name: str | None = None, *, minus: Any = 0.0):
        super().__init__(name)
        self.times, self.plus, self.minus = times, plus, minus

    def arguments(self) -> dict[str, Any]:
        """minus only where there is one: versions that have no such argument read files without it."""
        found = super().arguments()
        return {key: value for key, value in found.items() if key != "minus" or np.ndim(value) or value}

    @property
    def nonnegative(self) -> str:  # type: ignore[override]
        least = min(np.min(self.times), np.min(self.plus), -np.max(self.minus))
        return "as input" if least >= 0 else "unknown"

    def infer(self, in_shape: Shape) -> Shape:
        for name in self.constants:
            shape = np.shape(getattr(self, name))
            lacking = len(in_shape) - len(shape)
            if lacking < 0 or any(a not in (1, b) for a, b in zip(shape, in_shape[lacking:], strict=True)):
                raise ValueError(f"{name} of shape {shape} does not fit samples of shape {in_shape}: expected a "
                                 f"number, one for each of the {in_shape[-1]} channels, or a sample's shape")
        return in_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.affine(x, minus=self.minus, times=self.times, plus=self.plus), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.affine(g, times=self.times)
