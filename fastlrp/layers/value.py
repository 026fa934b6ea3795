"""Symbolic values: what layers make of each other before there is a network, `Network.from_graph`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..shapes import as_size

if TYPE_CHECKING:
    from .base import Layer

_order = itertools.count()


class Value:
    """The output of a layer called on other values; arithmetic is by layers, as `Add()(a, b)`."""

    def __init__(self, layer: Layer | None, inputs: tuple[Value, ...]):
        for value in inputs:
            if not isinstance(value, Value):
                raise TypeError(f"{layer!r} must be called on values (fastlrp.Input(...), or what a layer returns), "
                                f"got {type(value).__name__}")
        self.layer, self.inputs = layer, inputs
        self.order = next(_order)  # a value comes after those it is made of

    def __repr__(self) -> str:
        return f"<value of {self.layer!r}>"


class Input(Value):
    """An input of a network: shape of one sample, channels last, as (28, 28, 1). name: "input", "input2", ... unless
    given."""

    def __init__(self, shape: Sequence[int], name: str | None = None):
        super().__init__(None, ())
        self.shape = as_shape(shape, "shape")
        if name is not None and not (isinstance(name, str) and name):
            raise (ValueError if name == "" else TypeError)(f"name must be a string of some length, got {name!r}")
        self.name = name or ""

    def __repr__(self) -> str:
        return f"Input({self.shape}{f', name={self.name!r}' if self.name else ''})"


def as_shape(shape: Any, name: str) -> tuple[int, ...]:
    """The shape of one sample, or an error that names the argument."""
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"{name} must be a tuple of sizes without the batch, got {shape!r}")
    sizes = tuple(as_size(size, name) for size in shape)
    if not sizes:
        raise ValueError(f"{name} must hold at least one size: the shape of a sample without the batch")
    return sizes


def as_values(values: Any, kind: type[Value], name: str) -> list[Any]:
    """One value or a list of them as a list; TypeError that names the argument for anything else."""
    found = [values] if isinstance(values, Value) else values
    if not isinstance(found, (list, tuple)) or not all(isinstance(value, kind) for value in found):
        raise TypeError(f"{name} must be one {kind.__name__} or a list of them, got {values!r}")
    if not found:
        raise ValueError(f"{name} must hold at least one {kind.__name__}")
    return list(found)


def sort_values(inputs: Sequence[Input], outputs: Sequence[Value]) -> list[Value]:
    """Every value that the outputs are made of but the inputs, in the order in which they were made."""
    if len(set(map(id, inputs))) < len(inputs):
        raise ValueError("inputs must differ from each other")
    seen, waiting, found = set(map(id, inputs)), list(outputs), []
    met: set[int] = set()
    while waiting:
        value = waiting.pop()
        met.add(id(value))
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.layer is None:
            raise ValueError(f"outputs depend on {value!r}, which is not among the inputs")
        found.append(value)
        waiting.extend(value.inputs)
    unused = [value for value in inputs if id(value) not in met]
    if unused:
        raise ValueError(f"outputs do not depend on {unused}")
    return sorted(found, key=lambda value: value.order)
