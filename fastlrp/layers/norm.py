"""Normalisation: BatchNorm as it is after training."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Array
from ..shapes import as_number
from .base import ParameterLayer, Shape


def _parameter(key: str, text: str) -> property:
    return property(lambda layer: layer._parameter(key), lambda layer, value: layer._assign(key, value), doc=text)


class BatchNorm(ParameterLayer):
    """(x − mean) / √(variance + eps) · weight + bias, each parameter (C,): one number for each channel, the last axis
    of samples of up to four axes. Source: Ioffe and Szegedy 2015.

    Evaluation mode: mean and variance are given. Training changes weight and bias and leaves the statistics as they
    are; initially the layer does nothing but for eps.
    """

    kind = "batchnorm"
    role = "affine"
    options = ("eps",)

    weight = _parameter("weight", "Read-only scale (C,); assign an array of the same shape to change it.")
    bias = _parameter("bias", "Read-only shift (C,); assign an array of the same shape to change it.")
    mean = _parameter("mean", "Read-only mean of the input (C,); assign an array of the same shape to change it.")
    variance = _parameter("variance", "Read-only variance of the input (C,), at least 0; assign to change it.")

    def __init__(self, eps: float = 1e-5, name: str | None = None):
        super().__init__(name)
        self.eps = as_number(eps, "eps")
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {eps!r}")

    def infer(self, in_shape: Shape) -> Shape:
        if len(in_shape) > 4:
            raise ValueError(f"expected samples of up to four axes, channels last, got {in_shape}")
        return in_shape

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", "mean", "variance"), self.in_shape[-1:])

    @property
    def trained(self) -> dict[str, Array]:
        return {key: value for key, value in self.parameters.items() if key in ("weight", "bias")}

    def check_parameter(self, key: str, value: Array) -> None:
        if key == "variance" and not (value >= 0).all():
            raise ValueError(f"{self.name}.variance must be at least 0 everywhere, got {value.min()}")

    def initialise(self, rng: np.random.Generator, init: str) -> None:
        for key, shape in self.parameter_shapes.items():
            self._store(key, np.full(shape, 1 if key in ("weight", "variance") else 0, self.dtype))

    def _in_double(self) -> tuple[Array, Array, Array, Array]:
        """1 / √(variance + eps), weight, bias and mean in double precision (or the layer's own, if that has more)."""
        kept = self._parameters  # of one time: another thread may assign new ones
        for key in self.parameter_shapes:
            self._parameter(key)  # raises where there is none
        weight, bias, mean, variance = (kept[key].astype(np.promote_types(self.dtype, np.float64))
                                        for key in ("weight", "bias", "mean", "variance"))
        with np.errstate(divide="ignore"):
            return 1 / np.sqrt(variance + self.eps), weight, bias, mean

    def affine(self, dtype: Any = np.float64) -> tuple[Array, Array]:
        """s and t, each (C,), of the layer as x · s + t: computed in double precision, then rounded."""
        inverse, weight, bias, mean = self._in_double()
        with np.errstate(over="ignore", invalid="ignore"):
            return (weight * inverse).astype(dtype), (bias - mean * (weight * inverse)).astype(dtype)

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        times, plus = self.affine(ops.dtype)
        return ops.affine(x, times=times, plus=plus), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.affine(g, times=self.affine(ops.dtype)[0])

    def norm(self, ops: Any, quotients: Array, x: Array) -> Array:
        """x · s · quotients: the Norm rule of the affine map, which takes part of the relevance by its shift."""
        return ops.multiply(x, self.backward(ops, quotients, x, None))

    def gradients(self, ops: Any, g: Array, x: Array) -> dict[str, Array]:
        inverse, _, _, mean = self._in_double()
        normal = ops.affine(x, minus=mean, times=inverse)
        return {"weight": ops.channel_sum(ops.multiply(g, normal)), "bias": ops.channel_sum(g)}
