"""Operations of imported graphs that go element by element: activations, sums and products of values and constants.

Activations that come in pieces are put together: x · sigmoid(x) is SiLU, x · relu6(x + 3) / 6 is Hardswish,
relu6(x + 3) / 6 is Hardsigmoid, x · tanh(softplus(x)) is Mish, x / 2 · (1 + erf(x / √2)) is GELU. The pieces that are
not needed any more are not in the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import layers as L
from ..layers import Layer
from ..layers.base import Shape
from ..reference import Array
from .values import ERF, Unsupported, Value, Values

NO_BOUND = 3.4e38  # what sources write for none
CONSTANT_BYTES = 13  # of each number that a layer keeps as an option: in its order, and in single precision
CLOSE = 1e-6  # constants of formulas were rounded to single precision

ACTIVATIONS: dict[str, Callable[..., Layer]] = {
    "relu": lambda: L.ReLU(),
    "relu6": lambda: L.ReLU6(),
    "leaky_relu": lambda slope=0.01: L.LeakyReLU(slope),
    "elu": lambda alpha=1.0: L.ELU(alpha),
    "selu": lambda: L.SELU(),
    "gelu": lambda approximate="none": L.GELU(approximate),
    "silu": lambda: L.SiLU(),
    "hardswish": lambda: L.Hardswish(),
    "hardsigmoid": lambda: L.Hardsigmoid(),
    "mish": lambda: L.Mish(),
    "sigmoid": lambda: L.Sigmoid(),
    "tanh": lambda: L.Tanh(),
    "softplus": lambda: L.Softplus(),
    "abs": lambda: L.Abs(),
}
GATES = ("sigmoid", "hardsigmoid")


class Pointwise(Values):
    """What `building.Builder` does element by element. Constants are NumPy arrays or numbers that broadcast to a
    value's shape with the batch (which has size 1 in them)."""

    def activation(self, x: Value, kind: str, **params: Any) -> Value:
        """One of ACTIVATIONS, with its parameters."""
        if kind == "tanh" and x.is_a("softplus"):
            return self.map(x, L.Tanh(), origin=("mish gate", x.origin[1]))
        return self.map(x, ACTIVATIONS[kind](**params), origin=(kind, x), gate=kind in GATES)

    def prelu(self, x: Value, slope: Any) -> Value:
        """x where x > 0, else slope · x; slope: a number or one per channel."""
        slope = self.numbers(slope)
        if slope.size == 1:
            return self.map(x, L.PReLU(float(slope.reshape(()))))
        if slope.size != x.shape[0] or max(slope.shape) != slope.size:
            raise Unsupported(f"a slope of shape {slope.shape} on samples of shape {x.shape}: neither one number nor "
                              "one per channel")
        if len(x.shape) > 1:
            self.spatial(x)
        return self.map(x, L.PReLU(slope.reshape(-1)))

    def clip(self, x: Value, low: float = -math.inf, high: float = math.inf) -> Value:
        """min(max(x, low), high)."""
        if not low < high or low >= NO_BOUND or high <= -NO_BOUND:
            raise Unsupported(f"bounds {low:g} and {high:g}: the result does not depend on the input")
        bounds = [float(bound) if abs(bound) < NO_BOUND else None for bound in (low, high)]
        if bounds == [None, None]:
            return self.identity(x)
        if bounds == [0, None]:
            return self.activation(x, "relu")
        if bounds != [0, 6]:
            return self.map(x, L.Clip(bounds[0], bounds[1]), gate=None not in bounds)
        base, times, plus = self._scaled(x)
        if abs(times - 1) < CLOSE and abs(plus - 3) < 3 * CLOSE:
            return self.map(x, L.ReLU6(), origin=("6 hardsigmoid", base), gate=True)
        return self.map(x, L.ReLU6(), gate=True)

    def erf(self, x: Value) -> Value:
        """A part of GELU, which has to be completed."""
        base, times, plus = self._scaled(x)
        if abs(times * math.sqrt(2) - 1) > CLOSE or plus:
            raise Unsupported(ERF)
        return Value(x.shape, origin=("erf", base, 1.0, 0.0), node=self.node)

    def identity(self, x: Value) -> Value:
        """x itself."""
        if x.spatial is None and x.plain is None:
            return x
        return self.map(x, L.Identity(), origin=x.origin, gate=x.gate)

    # ---- values and constants ----

    def add_constant(self, x: Value, constant: Any) -> Value:
        """x + constant: the bias of a layer without one, else Scale."""
        constant = self.numbers(constant)
        return self._add_bias(x, constant) or self.scale(x, plus=constant)

    def scale(self, x: Value, times: Any = 1.0, plus: Any = 0.0) -> Value:
        """times · x + plus."""
        times, plus = self.numbers(times), self.numbers(plus)
        if times.size > 1 or plus.size > 1:
            if not np.isfinite(times).all() or not np.isfinite(plus).all():
                raise Unsupported("constants that are not finite")
            return self.map(x, L.Scale(self._constant(times, x), self._constant(plus, x)), gate=x.gate)
        self._constant(times, x), self._constant(plus, x)
        return self._scale(x, float(times.reshape(())), float(plus.reshape(())))

    def _scale(self, x: Value, times: float, plus: float) -> Value:
        """By two numbers."""
        if not math.isfinite(times) or not math.isfinite(plus):
            raise Unsupported(f"the constant {plus if math.isfinite(times) else times}: only finite ones")
        if x.is_a("erf") or x.is_a("x erf"):
            kind, base, a, b = x.origin
            return self._gelu(Value(x.shape, origin=(kind, base, a * times, b * times + plus), node=x.node))
        if x.is_a("6 hardsigmoid") and abs(6 * times - 1) < CLOSE and not plus:
            return self.activation(x.origin[1], "hardsigmoid")
        base, before, constant = self._scaled(x)
        total, shift = before * times, constant * times + plus
        if abs(total - 1) < CLOSE and not shift:
            return base
        return self.map(x, L.Scale(times, plus), origin=("scale", base, total, shift), gate=x.gate)

    def _scaled(self, x: Value) -> tuple[Value, float, float]:
        """(base, times, plus) of what x is, x itself unless made by numbers."""
        if x.is_a("scale"):
            _, base, times, plus = x.origin
            return base, times, plus
        return x, 1.0, 0.0

    def _constant(self, constant: Array, x: Value) -> Any:
        """A constant of the source as Scale takes it: a number, per channel (last axis inside), or with a sample's
        axes."""
        rank = len(x.shape)
        shape = (1,) * (rank + 1 - constant.ndim) + constant.shape
        if len(shape) != rank + 1 or shape[0] != 1:
            raise Unsupported(f"a constant of shape {constant.shape} on samples of shape {x.shape}: it must be the "
                              "same for all samples")
        if any(size not in (1, own) for size, own in zip(shape[1:], x.shape, strict=True)):
            raise Unsupported(f"a constant of shape {constant.shape} does not broadcast to samples of shape {x.shape}")
        if constant.size == 1:
            return float(constant.reshape(()))
        constant = constant.reshape(shape[1:])
        if x.spatial is not None:
            constant = np.moveaxis(constant if rank == 3 else constant[:, None], 0, -1)
        self.charge(CONSTANT_BYTES * constant.size)
        return constant.reshape(-1) if constant.size == constant.shape[-1] else constant

    def _add_bias(self, x: Value, constant: Array) -> Value | None:
        """x with a constant as the bias of the layer that made it; None where that is not possible."""
        symbol = x.plain if x.spatial is None else x.spatial
        call = self.made_by(symbol)
        if call is None or not isinstance(call.layer, L.WeightedLayer) or "weight" not in call.parameters \
                or "bias" in call.parameters or call.layer.role not in ("linear", "convolution"):
            return None
        shape = (1,) * (1 + len(x.shape) - constant.ndim) + constant.shape
        if shape not in ((1, x.shape[0], *(1,) * (len(x.shape) - 1)), (1,) * (1 + len(x.shape))):
            return None
        weight = call.parameters["weight"]
        bias = np.broadcast_to(constant.reshape(-1), (weight.shape[-1],))
        kind, options = type(call.layer), {**call.layer.config(), "bias": True}
        node, self.node = self.node, (self.node[0], call.name)
        result = self.weighted(call.operands[0], lambda: kind(**options), (kind, *options.items()),
                               {"weight": weight, "bias": bias})
        self.node = node
        return self.like(x, result)

    # ---- values and values ----

    def add(self, values: Sequence[Value]) -> Value:
        """The sum of several values. One of size 1 along spatial axes is spread over them."""
        whole = max((value.shape for value in values), key=math.prod)
        values = [self.expand(value, whole) for value in values]
        if len(values) == 1:
            return values[0]
        symbols, form = self._together(values)
        result = self.call(L.Add(), *symbols)
        return Value(values[0].shape, node=self.node, **{form: result})  # type: ignore[arg-type]

    def sub(self, a: Value, b: Value) -> Value:
        """a − b."""
        return self.add([a, self.like(b, self.call(L.Scale(-1.0, 0.0), self.either(b), part="negative"))])

    def mul(self, a: Value, b: Value) -> Value:
        """a · b: an activation where the two make one, else Multiply, whose second operand is the gate: the one that
        is broadcast, or that sigmoids and their like have bounded."""
        for x, factor in ((a, b), (b, a)):
            found = self._product(x, factor)
            if found is not None:
                return found
        self.check_made(a, b)
        if a.is_a("expand") != b.is_a("expand"):  # products spread their gates themselves
            a, b = (b, a.origin[1]) if a.is_a("expand") else (a, b.origin[1])
        if math.prod(a.shape) < math.prod(b.shape) or (a.shape == b.shape and a.gate and not b.gate):
            a, b = b, a
        sizes = zip(a.shape, b.shape, strict=False)
        if len(a.shape) != len(b.shape) or any(of_b not in (1, of_a) for of_a, of_b in sizes):
            raise Unsupported(f"the product of samples of shapes {a.shape} and {b.shape}")
        if a.shape == b.shape and not b.gate:
            raise Unsupported("a product of two values of which neither is a gate (smaller, or made by a sigmoid)")
        (x, gate), form = self._together([a, b])
        result = self.call(L.Multiply(), x, gate)
        return Value(a.shape, node=self.node, **{form: result})  # type: ignore[arg-type]

    def _product(self, x: Value, factor: Value) -> Value | None:
        """x · factor where that is an activation of x."""
        if factor.is_a("erf"):
            _, base, a, b = factor.origin
            own, times, plus = self._scaled(x)
            if own is not base or plus:
                return None
            return self._gelu(Value(x.shape, origin=("x erf", base, a * times, b * times), node=factor.node))
        if not factor.origin or factor.origin[1] is not x:
            return None
        kind = factor.origin[0]
        if kind == "6 hardsigmoid":
            whole = self.map(x, L.Hardswish())
            return self.map(whole, L.Scale(6.0, 0.0), origin=("scale", whole, 6.0, 0.0))
        made = {"sigmoid": "silu", "hardsigmoid": "hardswish", "mish gate": "mish"}.get(kind)
        return self.activation(x, made) if made else None

    def _gelu(self, part: Value) -> Value:
        """A part a · erf(x / √2) + b of GELU, or x times that; the whole where a = b = 1/2."""
        kind, base, a, b = part.origin
        if kind == "x erf" and max(abs(a - 0.5), abs(b - 0.5)) < CLOSE:
            return self.activation(base, "gelu")
        return part

    def expand(self, value: Value, whole: Shape) -> Value:
        """The value with the spatial size of a larger one, repeated where it has size 1."""
        if value.shape == whole:
            return value
        if len(whole) != len(value.shape) or len(whole) not in (2, 3) or value.shape[0] != whole[0] \
                or any(size != 1 for size in value.shape[1:]):
            raise Unsupported(f"samples of shape {value.shape} spread to {whole}: only along all spatial axes at once")
        height, width = whole[1:] if len(whole) == 3 else (1, whole[1])
        symbol = self.call(L.Upsample((height, width)), self.spatial(value), part="expand")
        found = self.from_spatial(symbol, value)
        found.origin, found.gate = ("expand", value), value.gate
        return found

    def _together(self, values: Sequence[Value]) -> tuple[list[Any], str]:
        """The symbolic values in one order, and which."""
        rank = len(values[0].shape)
        if rank in (2, 3) and any(value.spatial is not None for value in values):
            return [self.spatial(value) for value in values], "spatial"
        return [self.plain(value) for value in values], "plain"
