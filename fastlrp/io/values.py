"""Values of an imported graph: where they stand channels last, where in the source's order, and what made them.

The base of `building.Builder`. In: layers, called on values in the source's terms (channels first; the batch is axis
0 of the source's shapes and left out of `Value.shape`). Out: a Network with the source's layouts at its surface.
Nothing here knows an operator; nothing is run.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import layers as L
from ..errors import FormatError, UnsupportedError
from ..layers import Layer
from ..layers.base import Shape
from ..network import Network
from ..reference import Array
from ..shapes import check_elements

BATCH = (1 << 30) + 128  # stands for the size of the batch in shapes: exact as a float32, and no other size is as large
OTHER_BATCH = 3 * (1 << 29) + 640  # the same once more: numbers that it changes depend on the size

MOST_SHOWN = 100  # characters of a name in a message

ERF = "only as a part of GELU: x / 2 · (1 + erf(x / √2))"


class Unsupported(Exception):
    """The reason why an operator cannot be imported, raised while its node is read: `Builder.run` collects them."""


class _Unknown:
    """The result of an unsupported operator. What reads it is not looked at further."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(eq=False)
class Value:
    """A computed value of the source's graph.

    shape: of one sample, in the source's order: (C, H, W), (C, L), (features,) ...
    spatial: the symbolic value with channels last: (H, W, C), or (1, L, C) for (C, L). plain: in the source's order.
        Either is made from the other when it is asked for; neither: a part of a formula that has to come whole.
    origin: (kind, operand, numbers...) where later operations want to know how it was made.
    gate: whether it is a factor for other values, between bounds that no input moves.
    node: (operator, name) in the source.
    """

    shape: Shape
    spatial: Any = None
    plain: Any = None
    origin: tuple[Any, ...] = ()
    gate: bool = False
    node: tuple[str, str] = ("", "")

    @property
    def fault(self) -> str:
        """Why nothing but the rest of its formula can read it; "" where anything can."""
        if self.spatial is not None or self.plain is not None:
            return ""
        return "only as the last operation" if self.is_a("softmax") else ERF

    def is_a(self, kind: str) -> bool:
        """Whether it was made as `kind` says."""
        return bool(self.origin) and self.origin[0] == kind


@dataclass(eq=False)
class Call:
    """A layer called on symbolic values; shape: of the result inside; parameters: to be assigned once the network is
    built."""

    layer: Layer
    operands: tuple[Any, ...]
    result: Any
    shape: Shape
    name: str
    parameters: dict[str, Array]


def shown(text: Any) -> str:
    """A name of a source as it stands in messages."""
    text = str(text)
    return repr(text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "...")


class Values:
    """Makes the network's graph value by value.

    source: how messages call the source: the file, or the module's class. supported: the operators that the importer
    knows, for messages. charge: called with the bytes of every array that is made; may raise.
    """

    def __init__(self, source: str, supported: Iterable[str], charge: Callable[[int], None] | None = None):
        self.source, self.supported = source, sorted(supported)
        self.charge = charge or (lambda count: None)
        self.node = ("", "")
        self._inputs: list[Any] = []
        self._calls: dict[int, Call] = {}  # by the id of the result, in order
        self._shared: dict[Any, Call] = {}
        self._faults: dict[tuple[str, str], str] = {}

    # ---- one node of the source at a time ----

    def run(self, op: str, name: str, work: Callable[..., Any], *operands: Any, **more: Any) -> Any:
        """work(*operands, **more), the layers it makes being named after the node.

        UNKNOWN where the node is unsupported (which `build` will tell) or an operand is UNKNOWN. FormatError that
        names the node where sizes or numbers are wrong.
        """
        self.node = (op, name)
        flat = [v for operand in operands for v in (operand if isinstance(operand, (list, tuple)) else [operand])]
        if any(operand is UNKNOWN for operand in flat):
            for operand in flat:
                if isinstance(operand, Value) and operand.fault:
                    self.unsupported(operand.fault, operand.node)
            return UNKNOWN
        try:
            return work(*operands, **more)
        except Unsupported as reason:
            if not isinstance(reason, _Silent):
                self.unsupported(str(reason))
        except FormatError:
            raise
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise FormatError(f"{self.source}: node {shown(name)} ({op}): {error}") from None
        return UNKNOWN

    def unsupported(self, reason: str = "", node: tuple[str, str] | None = None) -> None:
        """Note that a node (default: the one at hand) cannot be imported; `build` raises them all at once."""
        self._faults.setdefault(node or self.node, reason)

    # ---- values ----

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """An input with samples of a shape: (C, H, W), (C, L), (features,) ..."""
        shape = tuple(shape)
        if len(shape) == 3:
            symbol = L.Input((*shape[1:], shape[0]), name=name)
            value = Value(shape, spatial=symbol, node=("Input", name))
        else:
            symbol = L.Input(shape, name=name)
            value = Value(shape, plain=symbol, node=("Input", name))
        self._inputs.append(symbol)
        return value

    def spatial(self, value: Value) -> Any:
        """The symbolic value with channels last; Unsupported where samples are not (C, H, W) or (C, L)."""
        if value.spatial is None:
            if len(value.shape) not in (2, 3):
                raise Unsupported(f"expected samples of shape (channels, height, width) or (channels, length), got "
                                  f"{value.shape}")
            symbol = self.plain(value)
            if len(value.shape) == 2:
                symbol = self.call(L.Reshape((value.shape[0], 1, value.shape[1])), symbol, part="reshape")
            value.spatial = self.call(L.ToChannelsLast(), symbol, part="channels_last")
        return value.spatial

    def plain(self, value: Value) -> Any:
        """The symbolic value in the source's order."""
        self.check_made(value)
        if value.plain is None:
            symbol = value.spatial
            if not one_order(value.shape):
                symbol = self.call(L.ToChannelsFirst(), symbol, part="channels_first")
            if len(value.shape) == 2 or one_order(value.shape):
                symbol = self.call(L.Reshape(value.shape), symbol, part="reshape")
            value.plain = symbol
        return value.plain

    def either(self, value: Value) -> Any:
        """The symbolic value in whichever order it is there: for what goes element by element."""
        self.check_made(value)
        return value.plain if value.spatial is None else value.spatial

    def in_any_order(self, value: Value) -> Any:
        """The symbolic value with its elements in the source's order, whatever its shape: for reshaping."""
        if value.plain is None and value.spatial is not None and one_order(value.shape):
            return value.spatial
        return self.plain(value)

    def check_made(self, *values: Value) -> None:
        """Unsupported where one of them is a part of a formula only."""
        for value in values:
            if value.fault:
                self.unsupported(value.fault, value.node)
                raise _Silent

    def map(self, value: Value, layer: Layer, **more: Any) -> Value:
        """A layer that goes element by element, in the order in which the value is there."""
        return self.like(value, self.call(layer, self.either(value)), **more)

    def like(self, value: Value, symbol: Any, **more: Any) -> Value:
        """The value of a symbolic one in the shape and order of another."""
        if value.spatial is None:
            return Value(value.shape, plain=symbol, node=self.node, **more)
        return Value(value.shape, spatial=symbol, node=self.node, **more)

    def from_spatial(self, symbol: Any, like: Value) -> Value:
        """The value of a symbolic one with channels last; 1-D where `like` is."""
        height, width, channels = self.inside(symbol)
        return Value((channels, width) if len(like.shape) == 2 else (channels, height, width), spatial=symbol,
                     node=self.node)

    def call(self, layer: Layer, *symbols: Any, part: str = "", parameters: dict[str, Array] | None = None) -> Any:
        """The symbolic value that a layer makes. part: what it does where it is not all of its node."""
        name = f"{self.node[1]}.{part}" if part else self.node[1]
        result, shapes = layer(*symbols), tuple(map(self.inside, symbols))
        shape = layer.infer(shapes if layer.merges else shapes[0])  # type: ignore[arg-type]
        check_elements("output", shape)
        self._calls[id(result)] = Call(layer, symbols, result, shape, name, parameters or {})
        return result

    def inside(self, symbol: Any) -> Shape:
        """The shape of a symbolic value: of one sample, channels last where it is spatial."""
        call = self.made_by(symbol)
        return symbol.shape if call is None else call.shape

    def weighted(self, symbol: Any, make: Callable[[], Layer], options: Any, parameters: dict[str, Array]) -> Any:
        """The symbolic value of a layer with parameters: one layer for all calls with the same parameters in memory,
        options and input shape."""
        places = ((key, a.__array_interface__["data"][0], a.shape, a.strides, a.dtype) for key, a in parameters.items())
        key = (options, self.inside(symbol), *places)
        found = self._shared.get(key)
        if found is None:
            for array in parameters.values():
                self.charge(4 * array.size)
            result = self.call(make(), symbol, parameters=parameters)
            self._shared[key] = self._calls[id(result)]
            return result
        result = found.layer(symbol)
        self._calls[id(result)] = Call(found.layer, (symbol,), result, found.shape, found.name, parameters)
        return result

    def made_by(self, symbol: Any) -> Call | None:
        """The call that made a symbolic value; None for inputs."""
        return self._calls.get(id(symbol))

    def numbers(self, value: Any) -> Array:
        """A constant of the source as float64, or ValueError."""
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"expected numbers, got {array.dtype}")
        if array.dtype != np.float64:
            self.charge(8 * array.size)
        return array.astype(np.float64, copy=False)

    # ---- the network ----

    def build(self, outputs: Sequence[Any]) -> Network:
        """The network of the outputs, with its parameters.

        A softmax that makes an output is left out, with one warning. UnsupportedError lists all unsupported nodes.
        """
        symbols = [self._output(value) for value in outputs if value is not UNKNOWN]
        if self._faults:
            raise UnsupportedError(self._listed())
        calls = self._live(symbols)
        read = {id(symbol) for call in calls for symbol in call.operands}
        for symbol in self._inputs:
            if id(symbol) not in read:
                self.unsupported("no output depends on it", ("Input", symbol.name))
        if self._faults:
            raise UnsupportedError(self._listed())
        self._name(calls)
        try:
            net = Network.from_graph(self._inputs, symbols, channels_first=True, init=None)
            for call in calls:
                for key, array in call.parameters.items():
                    setattr(call.layer, key, array)
                call.parameters = {}
        except (ValueError, TypeError) as error:
            raise FormatError(f"{self.source}: {error}") from None
        if any(isinstance(value, Value) and value.is_a("softmax") for value in outputs):
            warnings.warn(f"{self.source}: the softmax at the end is left out: outputs are logits", stacklevel=3)
        return net

    def _output(self, value: Value) -> Any:
        if value.is_a("softmax"):
            value = value.origin[1]
        self.node = ("output", "output")
        try:
            symbol = self.plain(value) if len(value.shape) == 2 else self.either(value)
            if any(symbol is own for own in self._inputs):
                symbol = self.call(L.Identity(), symbol)
            return symbol
        except Unsupported:
            return None

    def _listed(self) -> str:
        lines = [f"{op} (node {shown(name)})" + (f": {reason}" if reason else "")
                 for (op, name), reason in self._faults.items()]
        return "\n  ".join([f"{self.source}: {len(lines)} unsupported operator{'s'[:len(lines) > 1]}:", *lines,
                            f"Supported are: {', '.join(self.supported)}"])

    def _live(self, symbols: Sequence[Any]) -> list[Call]:
        """The calls that outputs depend on, in order."""
        needed, found = {id(symbol) for symbol in symbols}, []
        for call in reversed(self._calls.values()):
            if id(call.result) in needed:
                needed.update(map(id, call.operands))
                found.append(call)
        return found[::-1]

    def _name(self, calls: Sequence[Call]) -> None:
        """Give layers the names of their nodes; "name_2" where one is taken, or would be that of a shared layer's
        second node."""
        taken, shared = {symbol.name for symbol in self._inputs}, set()
        bases = set(map(_base, taken))
        uses, counts = Counter(call.layer for call in calls), Counter[str]()
        for layer, call in {call.layer: call for call in calls}.items():
            own = name = call.name or layer.kind
            while name in taken or _base(name) in shared or (uses[layer] > 1 and name in bases):
                counts[own] += 1
                name = f"{own}_{1 + counts[own]}"
            taken.add(name)
            bases.add(_base(name))
            if uses[layer] > 1:
                shared.add(name)
            layer.name = name


def _base(name: str) -> str:
    """A name without ":2" and the like, which networks add for the further nodes of a shared layer."""
    return re.sub(r":[0-9]+$", "", name)


class _Silent(Unsupported):
    """Another node was noted instead of the one at hand."""


def one_order(shape: Shape) -> bool:
    """Whether samples (C, ...) have their elements in one order channels first and last."""
    return shape[0] == 1 or math.prod(shape[1:]) == 1
