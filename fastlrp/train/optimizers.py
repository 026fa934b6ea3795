"""Optimisers: how a step's gradients change the parameters.

In: read-only parameter arrays and their gradients. Out: new arrays; the old ones are never written, so that a step
that fails has changed nothing. Neighbours are updated together, in their own type; new ones are then views of one
array. NumPy walks them in blocks that stay in the caches; Adam in float32 has a kernel with the bits of its NumPy form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from .. import _kernels
from ..reference import Array
from ..shapes import as_number

BLOCK = 16384  # elements: a block of parameters, gradients, moments and scratch fits a second-level cache
MOST_TOGETHER = 1 << 20  # elements: a call for every small array would take longer than its numbers


@dataclass
class State:
    """What an optimiser remembers of one network: the steps done, and arrays beside each parameter."""

    steps: int
    groups: list[slice]  # of parameters that go together
    slots: list[list[Array]]  # of each group
    scratch: Array


class Optimizer(ABC):
    """What optimisers share. The state belongs to the object and is kept for each network apart: a name such as
    "adam" starts anew with every fit, an object passed again to fit the same network goes on where that fit
    stopped. A fit that ends by an exception ends the state too.

    `learning_rate` may be changed between steps, for instance by a callback.
    """

    slot_count: int = 0  # arrays kept beside each parameter

    def __init__(self, learning_rate: float, weight_decay: float):
        self.learning_rate = _number(learning_rate, "learning_rate", 0, math.inf, above=True)
        self.weight_decay = _number(weight_decay, "weight_decay", 0, math.inf)
        self._states: WeakKeyDictionary[Any, State] = WeakKeyDictionary()

    def update(self, network: Any, parameters: Sequence[Array], gradients: Sequence[Array]) -> tuple[list[Array], bool]:
        """The parameters after one more step of this network, and whether they are finite."""
        state = self._states.get(network)
        if state is None:
            state = self._states[network] = self._start(parameters)
        state.steps += 1
        coefficients = self._coefficients(state.steps)
        updated: list[Array] = []
        finite = True
        for group, slots in zip(state.groups, state.slots, strict=True):
            old, gradient = (_kernels.joined(list(arrays[group])) for arrays in (parameters, gradients))
            new = np.empty_like(old)
            finite &= self._apply([old, new, gradient, *slots], state.scratch, coefficients)
            new.flags.writeable = False  # whatever parts of it are handed out
            at = 0
            for parameter in parameters[group]:
                updated.append(new[at:at + parameter.size].reshape(parameter.shape))
                at += parameter.size
        return updated, finite

    def forget(self, network: Any) -> None:
        """Start anew with the next step of this network."""
        self._states.pop(network, None)

    def _start(self, parameters: Sequence[Array]) -> State:
        groups = _groups(parameters)
        like = [np.zeros(sum(p.size for p in parameters[group]), parameters[group][0].dtype) for group in groups]
        slots = [[np.zeros_like(array) for _ in range(self.slot_count)] for array in like]
        return State(0, groups, slots, np.empty(BLOCK, parameters[0].dtype))

    @abstractmethod
    def _coefficients(self, step: int) -> tuple[float, ...]:
        """The numbers that step `step`, counted from 1, needs."""

    def _apply(self, arrays: Sequence[Array], scratch: Array, coefficients: tuple[float, ...]) -> bool:
        """Write new parameters and their slots, block by block; whether the parameters are finite. arrays: old, new,
        gradient, and the slots."""
        finite = True
        for first in range(0, arrays[0].size, BLOCK):
            blocks = [array[first:first + BLOCK] for array in arrays]
            self._apply_block(*blocks, scratch=scratch[:blocks[0].size], coefficients=coefficients)
            finite &= bool(np.isfinite(blocks[1]).all())
        return finite

    @abstractmethod
    def _apply_block(self, old: Array, new: Array, gradient: Array, *slots: Array, scratch: Array,
                     coefficients: tuple[float, ...]) -> None:
        """Write one block of new parameters, and its slots."""


def _groups(parameters: Sequence[Array]) -> list[slice]:
    """Neighbours of one type, and not too many numbers: fresh ones are copied side by side once."""
    groups, first = [], 0
    for i in range(1, len(parameters) + 1):
        some = parameters[first:i + 1]
        if i == len(parameters) or sum(p.size for p in some) > MOST_TOGETHER or some[-1].dtype != some[0].dtype:
            groups.append(slice(first, i))
            first = i
    return groups


class SGD(Optimizer):
    """Stochastic gradient descent with momentum μ: b ← μ b + g + λ w, w ← w − η b.

    learning_rate η > 0, momentum μ in [0, 1), weight_decay λ ≥ 0: an L2 penalty λ/2 ‖w‖² on weights and biases.
    ValueError or TypeError for anything else.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(learning_rate, weight_decay)
        self.momentum = _number(momentum, "momentum", 0, 1)
        self.slot_count = 1 if self.momentum else 0

    def _coefficients(self, step: int) -> tuple[float, ...]:
        return (self.learning_rate,)

    def _apply_block(self, old: Array, new: Array, gradient: Array, *slots: Array, scratch: Array,
                     coefficients: tuple[float, ...]) -> None:
        change = gradient
        if self.weight_decay:
            change = np.multiply(old, self.weight_decay, out=scratch)
            change += gradient
        for velocity in slots:
            velocity *= self.momentum
            velocity += change
            change = velocity
        np.multiply(change, coefficients[0], out=scratch)
        np.subtract(old, scratch, out=new)


class Adam(Optimizer):
    """Adam: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², w ← w − η m̂ / (√v̂ + ε), where after t steps
    m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ).

    learning_rate η > 0, beta1 and beta2 in [0, 1), epsilon > 0. weight_decay λ ≥ 0 is the decoupled kind (AdamW):
    w ← (1 − η λ) w before the step, for weights and biases. ValueError or TypeError for anything else.
    Sources: Kingma and Ba 2015, Adam, algorithm 1; Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization.
    """

    slot_count = 2

    def __init__(self, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
                 weight_decay: float = 0.0):
        super().__init__(learning_rate, weight_decay)
        self.beta1, self.beta2 = _number(beta1, "beta1", 0, 1), _number(beta2, "beta2", 0, 1)
        self.epsilon = _number(epsilon, "epsilon", 0, math.inf, above=True)

    def _coefficients(self, step: int) -> tuple[float, ...]:
        # m and v are kept without their factors 1 − β, which saves two passes: these two numbers hold all corrections,
        # so that η m̂ / (√v̂ + ε) = rate · m / (√v + floor); the third is 1 − η λ
        correction = math.sqrt((1 - self.beta2 ** step) / (1 - self.beta2))
        first = (1 - self.beta1 ** step) / (1 - self.beta1)
        keep = 1 - self.learning_rate * self.weight_decay
        return self.learning_rate * correction / first, self.epsilon * correction, keep

    def _apply(self, arrays: Sequence[Array], scratch: Array, coefficients: tuple[float, ...]) -> bool:
        old, new, gradient, m, v = arrays
        if not old.dtype == gradient.dtype == np.float32:
            return super()._apply(arrays, scratch, coefficients)
        finite = _kernels.adam(old, new, gradient, m, v, self.beta1, self.beta2, *coefficients)
        if not finite and np.isfinite(new).all():  # else the caller will say which parameter is not
            raise FloatingPointError("overflow in Adam's moments")
        return finite

    def _apply_block(self, old: Array, new: Array, gradient: Array, *slots: Array, scratch: Array,
                     coefficients: tuple[float, ...]) -> None:
        (m, v), (rate, floor, keep) = slots, coefficients
        m *= self.beta1
        m += gradient
        v *= self.beta2
        v += np.multiply(gradient, gradient, out=scratch)
        np.sqrt(v, out=scratch)
        scratch += floor
        np.divide(m, scratch, out=scratch)
        scratch *= rate
        if self.weight_decay:
            old = np.multiply(old, keep, out=new)
        np.subtract(old, scratch, out=new)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"adam": Adam, "sgd": SGD}


def find_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """An optimiser by name, with its defaults, or the object given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    expected = f"optimizer must be one of {list(OPTIMIZERS)} or an object such as Adam(learning_rate=0.001)"
    if not isinstance(optimizer, str):
        raise TypeError(f"{expected}, got {optimizer!r}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"{expected}, got {optimizer!r}")
    return OPTIMIZERS[optimizer]()


def _number(value: Any, name: str, low: float, high: float, above: bool = False) -> float:
    """A finite number in [low, high), or in (low, high) with `above`."""
    number = as_number(value, name, finite=False)
    if not low <= number < high or (above and number == low):
        raise ValueError(f"{name} must be a number in {'(' if above else '['}{low}, {high}), got {value!r}")
    return number
