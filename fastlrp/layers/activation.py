"""Elementwise activations. Relevance passes them unchanged unless a composite says otherwise.

Slopes at kinks are PyTorch's. "as input": the output of a non-negative input is never negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Array
from ..shapes import as_number
from .base import Layer, Shape


class Activation(Layer):
    """y = f(x), f named by `function` in the kernels, with at most one parameter."""

    function: str
    parameter: float = 0.0

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.activation(self.function, x, self.parameter), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.activation_backward(self.function, x, g, self.parameter)


class ReLU(Activation):
    """max(x, 0); the slope at 0 is 0."""

    kind = function = "relu"
    nonnegative = "always"
    gates = True


class ReLU6(Activation):
    """min(max(x, 0), 6); the slope at 0 and at 6 is 0. Source: Krizhevsky 2010, Convolutional Deep Belief Networks on
    CIFAR-10."""

    kind, function, parameter = "cappedrelu", "capped_relu", 6.0  # "relu6" would be numbered relu61
    nonnegative = "always"
    gates = True


class Clip(Activation):
    """min(max(x, low), high), None for no bound; the slope at the bounds is 0, as that of PyTorch's Hardtanh."""

    kind = "clip"
    options = ("low", "high")

    def __init__(self, low: float | None = None, high: float | None = None, name: str | None = None):
        super().__init__(name)
        self.low = None if low is None else as_number(low, "low")
        self.high = None if high is None else as_number(high, "high")
        if self.low is None and self.high is None:
            raise ValueError("low or high must be a number, got None for both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be less than high, got low={low!r}, high={high!r}")

    @property
    def nonnegative(self) -> str:  # type: ignore[override]
        if self.low is not None and self.low >= 0:
            return "always"
        return "unknown" if self.high is not None and self.high < 0 else "as input"

    @property
    def gates(self) -> bool:  # type: ignore[override]
        return self.low == 0

    @property
    def _steps(self) -> list[tuple[str, float]]:
        """Kernels and their parameters: one, but where both bounds are given and the lower is not 0."""
        if self.low == 0 and self.high is not None:
            return [("capped_relu", self.high)]
        bounds = (("at_least", self.low), ("at_most", self.high))
        return [(function, bound) for function, bound in bounds if bound is not None]

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        for function, bound in self._steps:
            x = ops.activation(function, x, bound)
        return x, None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        for function, bound in self._steps:
            g = ops.activation_backward(function, x, g, bound)
        return g


class LeakyReLU(Activation):
    """x where x > 0, else slope · x."""

    kind = function = "leaky_relu"
    nonnegative = "unknown"
    options = ("slope",)

    def __init__(self, slope: float = 0.01, name: str | None = None):
        super().__init__(name)
        self.slope = as_number(slope, "slope")

    @property
    def parameter(self) -> float:  # type: ignore[override]
        """What the kernel takes."""
        return self.slope


class PReLU(Layer):
    """x where x > 0, else slope · x: one slope, or one for each channel (the last axis).

    The slopes are constants: training leaves them as they are. Source: He et al. 2015, Delving Deep into Rectifiers.
    """

    kind = "prelu"
    nonnegative = "as input"
    options = constants = ("slope",)

    def __init__(self, slope: Any = 0.25, name: str | None = None):
        super().__init__(name)
        self.slope = slope
        if np.ndim(self.slope) > 1:
            raise ValueError(f"slope must be a number or one for each channel, got shape {np.shape(self.slope)}")

    def infer(self, in_shape: Shape) -> Shape:
        if np.size(self.slope) not in (1, in_shape[-1]):
            raise ValueError(f"slope has {np.size(self.slope)} values, the input {in_shape[-1]} channels")
        return in_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        below = ops.affine(ops.activation("at_most", x, 0.0), times=self.slope)
        return ops.add(ops.activation("relu", x), below), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        above = ops.activation_backward("relu", x, g)
        below = ops.add(g, ops.affine(above, times=-1))
        return ops.add(above, ops.affine(below, times=self.slope))


class ELU(Activation):
    """x where x > 0, else alpha · (e^x − 1). Source: Clevert et al. 2016."""

    kind = function = "elu"
    nonnegative = "as input"
    options = ("alpha",)

    def __init__(self, alpha: float = 1.0, name: str | None = None):
        super().__init__(name)
        self.alpha = as_number(alpha, "alpha")

    @property
    def parameter(self) -> float:  # type: ignore[override]
        """What the kernel takes."""
        return self.alpha


class SELU(Activation):
    """1.0507 · (x where x > 0, else 1.6733 · (e^x − 1)). Source: Klambauer et al. 2017, with all their digits."""

    kind = function = "selu"
    nonnegative = "as input"


class GELU(Activation):
    """x · Φ(x), Φ the standard normal distribution's cumulated density. Source: Hendrycks and Gimpel 2016.

    approximate: "none", or "tanh" for their x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
    """

    kind = "gelu"
    nonnegative = "as input"
    options = ("approximate",)

    def __init__(self, approximate: str = "none", name: str | None = None):
        super().__init__(name)
        if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    @property
    def function(self) -> str:  # type: ignore[override]
        """The kernel's name for it."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"


class SiLU(Activation):
    """x / (1 + e^−x), also known as swish. Source: Elfwing et al. 2018."""

    kind = function = "silu"
    nonnegative = "as input"


class Hardswish(Activation):
    """x · min(max(x + 3, 0), 6) / 6; the slope is 0 at −3 and 1 at 3. Source: Howard et al. 2019, MobileNetV3."""

    kind = function = "hardswish"
    nonnegative = "as input"


class Hardsigmoid(Activation):
    """min(max(x + 3, 0), 6) / 6; the slope at −3 and at 3 is 0. Source: Howard et al. 2019, MobileNetV3."""

    kind = function = "hardsigmoid"
    nonnegative = "always"


class Mish(Activation):
    """x · tanh(log(1 + e^x)). Source: Misra 2019."""

    kind = function = "mish"
    nonnegative = "as input"


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
