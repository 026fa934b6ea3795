"""Elementwise activations. Relevance passes them unchanged unless a composite says otherwise."""

from __future__ import annotations

from typing import Any, ClassVar

from ..reference import Array
from ..shapes import as_number
from .base import Layer


class Activation(Layer):
    """y = f(x), f named by `function` in the kernels, with at most one parameter."""

    function: ClassVar[str]
    parameter: float = 0.0

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.activation(self.function, x, self.parameter), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.activation_backward(self.function, x, g, self.parameter)


class ReLU(Activation):
    """max(x, 0); the slope at 0 is 0."""

    kind = function = "relu"
    nonnegative = "always"


class LeakyReLU(Activation):
    """x where x > 0, else slope · x."""

    kind = function = "leaky_relu"
    nonnegative = "unknown"
    options = ("slope",)

    def __init__(self, slope: float = 0.01, name: str | None = None):
        super().__init__(name)
        self.slope = self.parameter = as_number(slope, "slope")


class Tanh(Activation):
    """Hyperbolic tangent."""

    kind = function = "tanh"
    nonnegative = "as input"


class Sigmoid(Activation):
    """1 / (1 + e^−x)."""

    kind = function = "sigmoid"
    nonnegative = "always"


class Abs(Activation):
    """|x|; the slope at 0 is 0."""

    kind = function = "abs"
    nonnegative = "always"


class Softplus(Activation):
    """log(1 + e^x)."""

    kind = function = "softplus"
    nonnegative = "always"
