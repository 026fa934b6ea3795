"""Layers that read several values: Add, Concat, Multiply. They take and return tuples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reference import Array
from ..shapes import as_size
from .base import Layer, Shape


class Merge(Layer):
    """What they share: `forward` takes a tuple of arrays as x, `backward` returns a tuple of gradients."""

    merges = True
    nonnegative = "as input"

    def build(self, *in_shapes: Shape) -> Shape:  # type: ignore[override]
        if len(in_shapes) < 2:
            raise ValueError(f"expected at least two values, got {len(in_shapes)}")
        return super().build(in_shapes)  # type: ignore[arg-type]


class Add(Merge):
    """Σ of two values or more, all of one shape. Relevance splits in proportion to them: a_i R / s_ε(Σ a), the Norm
    rule."""

    kind = "add"
    role = "sum"

    def infer(self, in_shape: Any) -> Shape:
        if any(shape != in_shape[0] for shape in in_shape):
            raise ValueError(f"expected values of one shape, got {in_shape}")
        return in_shape[0]

    def forward(self, ops: Any, x: Any) -> tuple[Array, Any]:
        total = x[0]
        for value in x[1:]:
            total = ops.add(total, value)
        return total, None

    def backward(self, ops: Any, g: Array, x: Any, kept: Any) -> Any:
        return tuple(g for _ in x)

    def norm(self, ops: Any, quotients: Array, x: Sequence[Array]) -> Any:
        """x · backward(quotients): how the Norm rule brings relevance down."""
        return tuple(ops.multiply(value, quotients) for value in x)


class Concat(Merge):
    """Values side by side along an axis of a sample (−1: the channels; batches are not counted). Relevance goes by
    position."""

    kind = "concat"
    role = "route"
    transparent = True
    options = structural = ("axis",)

    def __init__(self, axis: int = -1, name: str | None = None):
        super().__init__(name)
        self.axis = as_size(axis, "axis", -32, 32)

    def infer(self, in_shape: Any) -> Shape:
        rank = len(in_shape[0])
        if not -rank <= self.axis < rank:
            raise ValueError(f"axis must be from {-rank} to {rank - 1} for samples of shape {in_shape[0]}, "
                             f"got {self.axis}")
        at = self.axis % rank
        if any(len(s) != rank or s[:at] != in_shape[0][:at] or s[at + 1:] != in_shape[0][at + 1:] for s in in_shape):
            raise ValueError(f"expected values of one shape but along axis {self.axis}, got {in_shape}")
        return (*in_shape[0][:at], sum(shape[at] for shape in in_shape), *in_shape[0][at + 1:])

    def forward(self, ops: Any, x: Any) -> tuple[Array, Any]:
        return ops.concat(x, self.axis % len(self.out_shape)), None

    def backward(self, ops: Any, g: Array, x: Any, kept: Any) -> Any:
        at = self.axis % len(self.out_shape)
        return tuple(ops.split(g, [shape[at] for shape in self.in_shape], at))  # type: ignore[index]


class Multiply(Merge):
    """value · gate, as in squeeze-and-excitation. The gate has the value's shape, or size 1 along some axes.

    For relevance the gate is a constant that scales the value: all relevance goes to the value, none to the gate, so
    that what is said about the decision is said about what was let through, not about the valve. Gradients know both.
    """

    kind = "multiply"
    role = "gate"

    def infer(self, in_shape: Any) -> Shape:
        value, *gates = in_shape
        if len(gates) != 1:
            raise ValueError(f"expected a value and a gate, got {len(in_shape)} values")
        if len(gates[0]) != len(value) or any(b not in (1, a) for a, b in zip(value, gates[0], strict=True)):
            raise ValueError(f"expected a gate of the value's shape {value}, or of size 1 along some axes, "
                             f"got {gates[0]}")
        return value

    def forward(self, ops: Any, x: Any) -> tuple[Array, Any]:
        return ops.multiply(x[0], ops.expand(x[1], self.out_shape)), None

    def backward(self, ops: Any, g: Array, x: Any, kept: Any) -> Any:
        back = ops.multiply(g, x[0])
        narrow = tuple(1 + i for i, (a, b) in enumerate(zip(*self.in_shape, strict=True)) if a != b)
        if narrow:
            back = np.ascontiguousarray(np.sum(back, axis=narrow, keepdims=True))
        return ops.multiply(g, ops.expand(x[1], self.out_shape)), back
