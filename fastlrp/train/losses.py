"""Losses, and what targets may be.

A loss takes outputs and targets of the same shape (N, ...) and gives its value, a float, and its gradient in the
outputs, an array of their shape and type. Targets come as classes or as arrays and leave in the outputs' shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ops import as_array, real_array
from ..reference import Array

Loss = Callable[[Array, Array], tuple[float, Array]]


def sigmoid_cross_entropy(output: Array, target: Array) -> tuple[float, Array]:
    """Mean over batch and outputs of −t log σ(y) − (1 − t) log(1 − σ(y)), for logits y and targets t in [0, 1].

    Computed as max(y, 0) − y t + log(1 + e^−|y|), which no logit overflows; the gradient is (σ(y) − t) / (N · outputs).
    ValueError unless output and target have the same shape, TypeError unless they are arrays.
    """
    _check(output, target)
    small = np.exp(-np.abs(output))
    values = np.maximum(output, 0) - output * target + np.log1p(small)
    gradient = np.where(output < 0, small, 1) / (1 + small) - target
    return _sum(values) / output.size, gradient / output.size


def softmax_cross_entropy(output: Array, target: Array) -> tuple[float, Array]:
    """Mean over the batch of −Σ t log softmax(y), for logits y (N, ..., outputs) and targets t in [0, 1].

    The largest logit is subtracted first, so that none overflows; the gradient is (softmax(y) Σt − t) / N.
    ValueError unless output and target have the same shape, TypeError unless they are arrays.
    """
    _check(output, target)
    shifted = output - output.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    sums, mass = powers.sum(axis=-1, keepdims=True), target.sum(axis=-1, keepdims=True)
    rows = output.size // output.shape[-1]
    values = mass * np.log(sums) - (target * shifted).sum(axis=-1, keepdims=True)
    return _sum(values) / rows, (powers * (mass / sums) - target) / rows


def mean_squared_error(output: Array, target: Array) -> tuple[float, Array]:
    """Mean over batch and outputs of (y − t)²; the gradient is 2 (y − t) / (N · outputs).

    ValueError unless output and target have the same shape, TypeError unless they are arrays.
    """
    _check(output, target)
    difference = output - target
    return _sum(difference * difference) / output.size, difference * (2 / output.size)


LOSSES: dict[str, Loss] = {loss.__name__: loss for loss in
                           (sigmoid_cross_entropy, softmax_cross_entropy, mean_squared_error)}


def _sum(values: Array) -> float:
    return float(values.sum(dtype=np.float64))


def _check(output: Array, target: Array) -> None:
    for name, array in (("output", output), ("target", target)):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise TypeError(f"{name} must be an array of floats, got {getattr(array, 'dtype', type(array).__name__)}")
    if output.shape != target.shape or not output.size:
        raise ValueError(f"output and target must have the same shape and at least one value, got {output.shape} "
                         f"and {target.shape}")


def find_loss(loss: str | Loss) -> Loss:
    """A loss by name, or the user's own function."""
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be one of {list(LOSSES)} or a function, got {loss!r}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {list(LOSSES)} or a function, got {loss!r}")
    return LOSSES[loss]


def evaluate(loss: Loss, output: Array, target: Array) -> tuple[float, Array]:
    """Value and gradient of a loss, whoever wrote it; TypeError or ValueError where they are not what they must be."""
    found = loss(output, target)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"loss must return (value, gradient), got {type(found).__name__}")
    value = as_array(found[0], "the value of loss")
    if value.ndim or value.dtype.kind not in "fiub":
        raise TypeError(f"the value of loss must be one real number, got {found[0]!r}")
    gradient = real_array(found[1], output.dtype, "the gradient of loss")
    if gradient.shape != output.shape:
        raise ValueError(f"the gradient of loss must have the output's shape {output.shape}, got {gradient.shape}")
    return float(value), gradient


class Targets:
    """Targets of n samples, checked once; `targets[rows]` has shape (rows, *output_shape) and the network's type.

    t: integer classes (N,), made one-hot batch by batch, or real numbers (N, *output_shape); for a single output
    (N,) is taken as (N, 1).
    """

    def __init__(self, t: Any, n: int, output_shape: tuple[int, ...], dtype: np.dtype, name: str = "t"):
        t = as_array(t, name)
        if t.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be integer classes or an array of real numbers, got dtype {t.dtype}")
        if t.ndim and len(t) != n:
            raise ValueError(f"{name} must hold one target for each sample: expected {n}, got {len(t)}")
        self.output_shape, self.dtype = output_shape, dtype
        self._classes = t if t.ndim == 1 and t.dtype.kind in "iu" and output_shape != (1,) else None
        if self._classes is not None:
            self._check_classes(t, name)
        else:
            self._values = self._as_values(t, n, name)

    def _check_classes(self, t: Array, name: str) -> None:
        if len(self.output_shape) != 1:
            raise ValueError(f"{name} must have shape (N, {', '.join(map(str, self.output_shape))}) for a network "
                             f"whose output is no list of classes, got {t.shape}")
        if len(t) and not (t.min() >= 0 and t.max() < self.output_shape[0]):
            raise ValueError(f"{name} must hold classes between 0 and {self.output_shape[0] - 1}, "
                             f"got {t.min()} to {t.max()}")

    def _as_values(self, t: Array, n: int, name: str) -> Array:
        shape = (n, *self.output_shape)
        column = self.output_shape == (1,) and t.ndim == 1
        if t.shape != shape and not column:
            raise ValueError(f"{name} must be integer classes (N,) or have shape {shape}, "
                             f"got shape {t.shape} of {t.dtype}")
        values = real_array(t, self.dtype, name).reshape(shape)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinities (in {self.dtype})")
        return values

    def __getitem__(self, rows: slice | Array) -> Array:
        if self._classes is None:
            return self._values[rows]
        classes = self._classes[rows]
        hot = np.zeros((len(classes), *self.output_shape), self.dtype)
        hot[np.arange(len(classes)), classes] = 1
        return hot

    @property
    def in_unit_interval(self) -> bool:
        """Whether all targets lie in [0, 1], as the cross entropies need."""
        if self._classes is not None or not self._values.size:
            return True
        return bool(self._values.min() >= 0 and self._values.max() <= 1)

    @property
    def classes(self) -> Array | None:
        """The class of each sample (N,), where targets are integer classes or one-hot rows; else None."""
        if self._classes is not None:
            return self._classes
        values = self._values
        if values.ndim != 2 or values.shape[1] < 2:
            return None
        one_hot = ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
        return values.argmax(axis=1) if one_hot else None
