"""The rules, as data for one engine (propagate.py). This module imports no other of the package.

Notation. x: a linear layer's input, W, b: weights and bias, z = W x + b, R: relevance of the output. a⁺ = max(a, 0),
a⁻ = min(a, 0). s_ε(d) = d + ε·sgn(d) with sgn(0) = +1. Sums run over a layer's own connections; padding contributes
and receives nothing.

Canonical form. With p = x⁺W⁺ + x⁻W⁻ (≥ 0), q = x⁺W⁻ + x⁻W⁺ (≤ 0), every rule is a pointwise map
(p, q, z, b, R) → (A, B), and relevance of the input is x⁺·(W⁺ᵀA + W⁻ᵀB) + x⁻·(W⁻ᵀA + W⁺ᵀB). A rule therefore says how
it reads the input (`reads`), which part of the weights it takes (`part`), and which quotients it forms (`terms`:
a sum and its coefficient, sums' biases being the same part of b). That is all the engine needs.

Every rule has `epsilon` (None: the convention's value) and `bias` (False drops b from the denominators).
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Convention:
    """How a tradition stabilises denominators, and treats biases and pools, where a rule leaves it open."""

    name: str
    epsilon: float
    sum_epsilon: float  # for pools and Add
    box_epsilon: float
    signed: bool  # d + ε·sgn(d), or d + ε
    bias: bool
    affine_passes: bool = False  # whether Norm passes relevance through a BatchNorm that could not be folded
    pools_as_convolutions: bool = False  # whether sum pools take the rule of convolutions, on the sum without its scale
    ties_share: bool = False  # whether all inputs that attain a maximum share its relevance, or the first has it


# The LRP toolbox divides by y + ε·sgn(y), by p + b⁺ + 1e-16 and by what is left of y, y − (p + b⁺ + 1e-16) − 1e-16:
# this is q + b⁻, which is computed as such here, so that nothing cancels. Its sum pools take the rule that all layers
# have; in its newest version alpha-beta with β > 0 squares R there by mistake, which is not followed.
CONVENTIONS = {convention.name: convention for convention in (
    Convention("zennit", 1e-6, 1e-6, 1e-6, True, True, affine_passes=True),
    Convention("tensorflow_lrp", 1e-12, 1e-9, 1e-9, False, False),
    Convention("lrp_toolbox", 1e-16, 1e-12, 1e-16, True, True, pools_as_convolutions=True, ties_share=True),
)}
# Where none is named: zennit's, but that relevance is not passed through what shifts values.
DEFAULT = replace(CONVENTIONS["zennit"], name="default", affine_passes=False)


def _check_number(name: str, value: Any, low: float = 0.0) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got a larger one") from None
    if not finite or value < low:
        raise ValueError(f"{name} must be a finite number of at least {low}, got {value!r}")


@dataclass(frozen=True)
class Rule:
    """What all rules share. Subclasses are frozen: rules compare and hash by value."""

    def __post_init__(self) -> None:
        if (epsilon := getattr(self, "epsilon", None)) is not None:
            _check_number("epsilon", epsilon)
        for name in ("bias", "gate"):
            if not isinstance(flag := getattr(self, name, True), bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}")


@dataclass(frozen=True)
class LinearRule(Rule):
    """A rule for layers with weights."""

    reads: ClassVar[str] = "plain"  # x; "sign": x⁺ and x⁻; "box": x − low and x − high; "one": 1
    part: ClassVar[Any] = "w"

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        """Quotients: (sum, coefficient); the sum is "z" for one product, "p" or "q" for the signed ones."""
        return (("z", 1.0),)

    def epsilon_in(self, convention: Convention) -> float:
        """This rule's ε, or the convention's. Every subclass has the fields epsilon and bias, after its own."""
        epsilon: float | None = getattr(self, "epsilon", None)
        return convention.epsilon if epsilon is None else epsilon


@dataclass(frozen=True)
class Epsilon(LinearRule):
    """R_i = Σ_j x_i w_ij R_j / s_ε(z_j). ε → 0 gives LRP-0.

    Source: Bach et al. 2015, On Pixel-Wise Explanations (eq. 58).
    """

    epsilon: float | None = 1e-6
    bias: bool = True


@dataclass(frozen=True)
class ZPlus(LinearRule):
    """R_i = Σ_j (x⁺w⁺ + x⁻w⁻) R_j / s_ε(Σ(x⁺w⁺ + x⁻w⁻) + b⁺): positive contributions only.

    Source: Montavon et al. 2017, Explaining NonLinear Classification Decisions with Deep Taylor Decomposition.
    """

    reads = "sign"
    epsilon: float | None = 1e-6
    bias: bool = True

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        return (("p", 1.0),)


@dataclass(frozen=True)
class AlphaBeta(LinearRule):
    """α · (positive contributions) R / s_ε(p + b⁺) − β · (negative contributions) R / s_ε(q + b⁻), with α − β = 1.

    Source: Bach et al. 2015 (eq. 60).
    """

    reads = "sign"
    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float | None = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("alpha", self.alpha)
        _check_number("beta", self.beta)
        if not math.isclose(self.alpha - self.beta, 1.0, rel_tol=1e-9):
            raise ValueError(f"alpha - beta must be 1, got alpha={self.alpha}, beta={self.beta}")

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        return (("p", self.alpha), ("q", -self.beta)) if self.beta else (("p", self.alpha),)


@dataclass(frozen=True)
class Gamma(LinearRule):
    """Where z > 0, weights w + γw⁺ on x⁺ and w + γw⁻ on x⁻, over their sum; where z < 0 the other way round.

    In the canonical form, with ŝ = R / s_ε((1+γ)p + q + b + γb⁺) for z > 0: A = (1+γ)ŝ, B = ŝ; with
    š = R / s_ε(p + (1+γ)q + b + γb⁻) for z < 0: A = š, B = (1+γ)š; z = 0 gives nothing.
    Source: Montavon et al. 2019, Layer-Wise Relevance Propagation: An Overview; signs as in Anders et al. 2021.
    """

    reads = "sign"
    gamma: float = 0.25
    epsilon: float | None = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("gamma", self.gamma)

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        return (("p", 1.0), ("q", 1.0))


@dataclass(frozen=True)
class GammaSimple(LinearRule):
    """Weights v = w⁺ + γw⁻ on the input as it is: R_i = Σ_j x_i v_ij R_j / s_ε(Σ x v + b⁺ + γb⁻).

    The generalised deep Taylor rule ("gdt") of the original TensorFlow project.
    """

    gamma: float = 0.5
    epsilon: float | None = 1e-6
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("gamma", self.gamma)

    @property
    def part(self) -> tuple[str, float]:  # type: ignore[override]
        return ("gamma", self.gamma)


@dataclass(frozen=True, eq=False)
class ZBox(LinearRule):
    """R_i = Σ_j (x w − l w⁺ − h w⁻) R_j / s_ε(Σ(x w − l w⁺ − h w⁻)), for inputs in [l, h]; the bias cancels.

    low, high: numbers, one value per channel, or arrays of the input's shape; None: the range that Format or
    Normalize implies, else −1 and 1. In the canonical form x − l stands for x⁺ and x − h for x⁻.
    Source: Montavon et al. 2017.
    """

    reads = "box"
    bias = False
    low: Any = None
    high: Any = None
    epsilon: float | None = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low and high must be given together, got low={self.low!r}, high={self.high!r}")
        for name in ("low", "high"):
            if (value := getattr(self, name)) is not None:
                try:
                    array = np.array(value)
                except ValueError:
                    array = np.array("ragged")
                if array.dtype.kind not in "fiu":
                    raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}")
                value = array.astype(np.float64)
                if not np.isfinite(value).all():
                    raise ValueError(f"{name} must be finite, got {value}")
                value.flags.writeable = False
                object.__setattr__(self, name, value)

    def _key(self) -> tuple[Any, ...]:
        bounds = (self.low, self.high)
        return (type(self), self.epsilon, *(None if b is None else (b.shape, b.tobytes()) for b in bounds))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        return (("p", 1.0),)

    def epsilon_in(self, convention: Convention) -> float:
        return convention.box_epsilon if self.epsilon is None else self.epsilon


@dataclass(frozen=True)
class WSquare(LinearRule):
    """R_i = Σ_j w_ij² R_j / s_ε(Σ w² + b²).

    Source: Montavon et al. 2017.
    """

    reads, part = "one", "square"
    epsilon: float | None = 1e-6
    bias: bool = True


@dataclass(frozen=True)
class Flat(LinearRule):
    """R_i = Σ_j R_j / s_ε(n_j), n_j the number of real (unpadded) inputs of output j; no bias.

    Source: Lapuschkin et al. 2019, Unmasking Clever Hans predictors.
    """

    reads, part = "one", "one"
    bias = False
    epsilon: float | None = 1e-6


@dataclass(frozen=True)
class Norm(Rule):
    """Epsilon for layers without weights that add their inputs up (sum and average pools, Add): x_i Σ_j w_ij R_j /
    s_ε(y_j); and for a BatchNorm that could not be folded, with its scale for w (zennit's convention: R unchanged)."""

    epsilon: float | None = 1e-6


@dataclass(frozen=True)
class Pass(Rule):
    """R unchanged; layers that move values (flatten, max pooling, ...) move it along."""


@dataclass(frozen=True)
class Gradient(Rule):
    """The layer's own vector-Jacobian product, applied to R."""


@dataclass(frozen=True)
class PositiveGradient(Rule):
    """max(R, 0), the ReLU of deconvolutional networks; with `gate`, also · 1(z > 0), guided backpropagation.

    Sources: Zeiler and Fergus 2014; Springenberg et al. 2015.
    """

    gate: bool = False


@dataclass(frozen=True)
class SmoothGradient(Rule):
    """σ(βz)·R: a ReLU's gradient as if it were a softplus.

    Source: Dombrowski et al. 2019, Explanations can be manipulated and geometry is to blame.
    """

    beta: float = 10.0

    def __post_init__(self) -> None:
        _check_number("beta", self.beta)
