"""Nodes of an ONNX graph with attributes of checked types. Nothing here knows an operator.

A reader asks for the attributes that it knows; `unread` names the others, so that none is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reference import Array
from .values import Unsupported, shown

# AttributeProto.AttributeType
FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, GRAPHS = 1, 2, 3, 4, 5, 6, 7, 10
WORDS = {FLOAT: "a number", INT: "a whole number", STRING: "a string", TENSOR: "a tensor", FLOATS: "numbers",
         INTS: "whole numbers"}
MOST_INTS = 64  # in a shape, a list of axes ...


def text(value: Any) -> str:
    """A string of a message; ValueError where it is none of Unicode."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"a string that is not UTF-8: {value[:40]!r}") from None
    return str(value)


class Node:
    """One node: operator, name (that of its first output where it has none), names of inputs and outputs, attributes.

    opset: the version of ONNX's operators that the model uses.
    """

    def __init__(self, proto: Any, opset: int):
        self.op, self.opset = text(proto.op_type), opset
        self.domain = text(proto.domain)
        self.inputs = [text(name) for name in proto.input]
        self.outputs = [text(name) for name in proto.output]
        self.name = text(proto.name) or next((name for name in self.outputs if name), "")
        self._attributes = {text(attribute.name): attribute for attribute in proto.attribute}
        self._twice = len(self._attributes) < len(proto.attribute)
        self._read: set[str] = set()

    @property
    def kind(self) -> str:
        """The operator as messages call it."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.op}"

    def check(self) -> None:
        """ValueError for attributes that stand twice; Unsupported for subgraphs."""
        if self._twice:
            raise ValueError("an attribute stands twice")
        if any(attribute.type in (GRAPH, GRAPHS) for attribute in self._attributes.values()):
            raise Unsupported("it has a subgraph")

    def unread(self) -> list[str]:
        """Names of attributes that no one asked for."""
        return sorted(set(self._attributes) - self._read)

    def has(self, name: str) -> bool:
        """Whether an attribute is there."""
        return name in self._attributes

    def ignore(self, *names: str) -> None:
        """Take attributes as read that change nothing here."""
        self._read.update(names)

    def _attribute(self, name: str, kind: int) -> Any:
        """The attribute, None where it is not there; ValueError where it has another type."""
        self._read.add(name)
        found = self._attributes.get(name)
        if found is not None and (found.type != kind or found.ref_attr_name):
            raise ValueError(f"attribute {shown(name)}: expected {WORDS[kind]}, got type {found.type} of "
                             "AttributeProto.AttributeType")
        return found

    def int(self, name: str, default: Any = None) -> Any:
        """A whole number."""
        found = self._attribute(name, INT)
        return default if found is None else found.i

    def flag(self, name: str, default: bool = False) -> bool:
        """A whole number that is 0 or 1."""
        value = self.int(name, int(default))
        if value not in (0, 1):
            raise ValueError(f"attribute {shown(name)}: expected 0 or 1, got {value}")
        return bool(value)

    def float(self, name: str, default: Any = None, finite: bool = True) -> Any:
        """A number."""
        found = self._attribute(name, FLOAT)
        if found is None:
            return default
        if not math.isfinite(found.f) and (finite or math.isnan(found.f)):
            raise ValueError(f"attribute {shown(name)}: expected a finite number, got {found.f}")
        return found.f

    def ints(self, name: str, default: Any = None) -> Any:
        """A few whole numbers."""
        found = self._attribute(name, INTS)
        if found is None:
            return default
        if len(found.ints) > MOST_INTS:
            raise ValueError(f"attribute {shown(name)}: expected at most {MOST_INTS} numbers, got {len(found.ints)}")
        return list(found.ints)

    def floats(self, name: str) -> Any:
        """Numbers."""
        found = self._attribute(name, FLOATS)
        return None if found is None else found.floats

    def string(self, name: str, default: str = "") -> str:
        """A string."""
        found = self._attribute(name, STRING)
        return default if found is None else text(found.s)

    def tensor(self, name: str) -> Any:
        """A TensorProto, None where it is not there."""
        found = self._attribute(name, TENSOR)
        return None if found is None else found.t


def small_ints(value: Any, name: str) -> list[int]:
    """A constant input as a few whole numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > MOST_INTS:
        raise ValueError(f"{name}: expected a list of at most {MOST_INTS} whole numbers, got {array.dtype} of shape "
                         f"{array.shape}")
    return [int(size) for size in array.reshape(-1)]


def small_floats(value: Any, name: str) -> list[float]:
    """A constant input as a few finite numbers."""
    array = np.asarray(value)
    if array.dtype.kind != "f" or array.ndim > 1 or array.size > MOST_INTS or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected a list of at most {MOST_INTS} finite numbers, got {array.dtype} of shape "
                         f"{array.shape}")
    return [float(number) for number in array.reshape(-1)]


def constant(value: Any, name: str) -> Array | None:
    """A constant input, None where it is left out; Unsupported where it is computed from the network's inputs."""
    if value is None or isinstance(value, np.ndarray):
        return value
    raise Unsupported(f"{name} that depends on the network's input: only a constant")


def one_number(value: Array | None, name: str, default: Any) -> Any:
    """A constant of one value as a Python number, or the default where it is left out."""
    if value is None:
        return default
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected one number, got {value.dtype} of shape {value.shape}")
    number = value.reshape(()).item()
    if math.isnan(number):
        raise ValueError(f"{name}: expected a number, got nan")
    return number


def unique_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from 0; ValueError where one is out of range or stands twice."""
    found = [axis % rank for axis in axes if -rank <= axis < rank]
    if len(found) < len(axes) or len(set(found)) < len(found):
        raise ValueError(f"expected different axes out of {rank}, got {list(axes)}")
    return found
