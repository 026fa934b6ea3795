"""ONNX operators on constants: initialisers, and the arithmetic that models do with shapes. NumPy alone.

In: a node and arrays. Out: an array. The size of the batch stands as `BATCH` in shapes and goes through the arithmetic
as any number does (a second time as `OTHER_BATCH`, which shows what depends on it); where a constant is made that
large, its axis gets size 1 instead: it is the same for all samples.
Memory and time are taken from the file's allowance (`charge`) before they are spent; views take none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..reference import Array
from .onnx_file import TYPES, File
from .onnx_nodes import Node, constant, one_number, small_ints, unique_axes
from .values import BATCH, OTHER_BATCH, Unsupported

MOST_INPUTS = 10_000

Fold = Callable[[File, Node, list[Any]], Array]

FOLDS: dict[str, tuple[Fold, int, int]] = {}  # by operator: the function, the least and the greatest number of inputs


def fold(op: str, least: int = 1, most: int | None = None) -> Callable[[Fold], Fold]:
    """Enter a function into FOLDS; inputs from `least` on may be None."""
    def enter(function: Fold) -> Fold:
        FOLDS[op] = function, least, least if most is None else most
        return function
    return enter


def _elementwise(function: Callable[..., Any]) -> Fold:
    def apply(file: File, node: Node, inputs: list[Any]) -> Array:
        shape = np.broadcast_shapes(*(array.shape for array in inputs))
        file.charge(8 * math.prod(shape))
        return np.asarray(function(*inputs))
    return apply


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ValueError("a division by zero")
    return np.sign(a) * np.sign(b) * (abs(a) // abs(b))  # toward zero


ELEMENTWISE: dict[int, dict[str, Callable[..., Any]]] = {  # by the number of inputs
    1: {"Neg": np.negative, "Abs": np.abs, "Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Sqrt": np.sqrt,
        "Reciprocal": np.reciprocal, "Exp": np.exp, "Log": np.log, "Sign": np.sign, "Not": np.logical_not},
    2: {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Equal": np.equal,
        "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
        "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
        "Pow": lambda a, b: np.power(a, b).astype(a.dtype)},
    3: {"Where": np.where},
}
SEVERAL = {"Sum": np.add, "Min": np.minimum, "Max": np.maximum}

for _count, _functions in ELEMENTWISE.items():
    for _op, _function in _functions.items():
        fold(_op, _count)(_elementwise(_function))
for _op, _several in SEVERAL.items():
    fold(_op, 1, MOST_INPUTS)(_elementwise(lambda *arrays, _of=_several: functools.reduce(_of, arrays)))


@fold("Mod", 2)
def _mod(file: File, node: Node, inputs: list[Any]) -> Array:
    if not inputs[1].all():
        raise ValueError("a division by zero")
    return _elementwise(np.fmod if node.flag("fmod") else np.mod)(file, node, inputs)


@fold("Constant", 0)
def _constant(file: File, node: Node, inputs: list[Any]) -> Array:
    tensor = node.tensor("value")
    if tensor is not None:
        return file.tensor(tensor, f"node {node.name!r} (Constant)")
    for name, dtype in (("value_int", np.int64), ("value_float", np.float32)):
        if node.has(name):
            return np.asarray(node.int(name) if dtype is np.int64 else node.float(name, finite=False), dtype)
    if node.has("value_floats"):
        return np.asarray(node.floats("value_floats"), np.float32)
    if node.has("value_ints"):
        return np.asarray(node.ints("value_ints"), np.int64)
    raise Unsupported(f"a constant given as {', '.join(node.unread()) or 'nothing'}")


@fold("Identity")
def _identity(file: File, node: Node, inputs: list[Any]) -> Array:
    return inputs[0]


@fold("Cast")
def _cast(file: File, node: Node, inputs: list[Any]) -> Array:
    node.ignore("saturate", "round_mode")
    to = node.int("to")
    if to not in TYPES:
        raise Unsupported(f"to type {to} (of TensorProto.DataType)")
    file.charge(8 * inputs[0].size)
    return inputs[0].astype(np.dtype(TYPES[to][0]).newbyteorder("="))


@fold("CastLike", 2)
def _cast_like(file: File, node: Node, inputs: list[Any]) -> Array:
    node.ignore("saturate", "round_mode")
    file.charge(8 * inputs[0].size)
    return inputs[0].astype(inputs[1].dtype)


# ---- shapes ----

@fold("Shape")
def _shape(file: File, node: Node, inputs: list[Any]) -> Array:
    return shape_of(node, inputs[0].shape)


def shape_of(node: Node, shape: tuple[int, ...]) -> Array:
    """What Shape makes of a shape, which is cut by its attributes start and end."""
    return np.asarray(shape[node.int("start", 0):node.int("end", None)], np.int64)


@fold("Size")
def _size(file: File, node: Node, inputs: list[Any]) -> Array:
    return np.asarray(inputs[0].size, np.int64)


def _sizes(value: Any, name: str) -> list[int]:
    """A target shape; the batch as 1."""
    sizes = small_ints(constant(value, name), name)
    if not {BATCH, OTHER_BATCH}.isdisjoint(sizes[1:]):
        raise Unsupported(f"{name}: the batch as another axis than the first")
    return [1 if size in (BATCH, OTHER_BATCH) else size for size in sizes]


@fold("Reshape", 2)
def _reshape(file: File, node: Node, inputs: list[Any]) -> Array:
    array, shape = inputs[0], _sizes(inputs[1], "shape")
    if not node.flag("allowzero"):
        shape = [array.shape[i] if size == 0 and i < array.ndim else size for i, size in enumerate(shape)]
    if not array.flags.c_contiguous:
        file.charge(8 * array.size)
    return array.reshape(shape)


@fold("Flatten")
def _flatten(file: File, node: Node, inputs: list[Any]) -> Array:
    array, axis = inputs[0], node.int("axis", 1)
    if not array.flags.c_contiguous:
        file.charge(8 * array.size)
    if not -array.ndim <= axis <= array.ndim:
        raise ValueError(f"axis {axis} is out of range for {array.ndim} axes")
    return array.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


@fold("Transpose")
def _transpose(file: File, node: Node, inputs: list[Any]) -> Array:
    return inputs[0].transpose(node.ints("perm"))


def axes_of(node: Node, inputs: list[Any], at: int = 1, name: str = "axes") -> list[int] | None:
    """The axes that stand in an attribute, or since some opset in an input; None where they are in neither."""
    if node.has(name):
        return list(node.ints(name))
    given = constant(inputs[at], name) if len(inputs) > at else None
    return None if given is None else small_ints(given, name)


@fold("Squeeze", 1, 2)
def _squeeze(file: File, node: Node, inputs: list[Any]) -> Array:
    axes = axes_of(node, inputs)
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(unique_axes(axes, inputs[0].ndim)))


@fold("Unsqueeze", 1, 2)
def _unsqueeze(file: File, node: Node, inputs: list[Any]) -> Array:
    axes = axes_of(node, inputs) or []
    return np.expand_dims(inputs[0], tuple(unique_axes(axes, inputs[0].ndim + len(axes))))


@fold("Expand", 2)
def _expand(file: File, node: Node, inputs: list[Any]) -> Array:
    array, shape = inputs[0], _sizes(inputs[1], "shape")
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape)))


@fold("ConstantOfShape")
def _constant_of_shape(file: File, node: Node, inputs: list[Any]) -> Array:
    tensor, shape = node.tensor("value"), _sizes(inputs[0], "shape")
    value = np.zeros(1, np.float32) if tensor is None else file.tensor(tensor, f"node {node.name!r} (ConstantOfShape)")
    if value.size != 1:
        raise ValueError(f"value: expected one number, got shape {value.shape}")
    return np.broadcast_to(value.reshape(()), shape)


@fold("Tile", 2)
def _tile(file: File, node: Node, inputs: list[Any]) -> Array:
    array, repeats = inputs[0], _sizes(inputs[1], "repeats")
    if min(repeats, default=0) < 0:
        raise ValueError(f"repeats: expected sizes of at least 0, got {repeats}")
    file.charge(8 * array.size * math.prod(repeats))
    return np.tile(array, repeats)


@fold("Range", 3)
def _range(file: File, node: Node, inputs: list[Any]) -> Array:
    start, limit, step = (one_number(value, "start, limit and delta", None) for value in inputs)
    if not step or not all(map(math.isfinite, (start, limit, step))):
        raise ValueError(f"expected finite numbers and delta other than 0, got {start}, {limit}, {step}")
    if not {BATCH, OTHER_BATCH}.isdisjoint((start, limit, step)):
        raise Unsupported("a constant as long as the batch")
    file.charge(8 * (1 + max(0, int((limit - start) / step))))
    return np.arange(start, limit, step).astype(inputs[0].dtype)


# ---- picking and joining ----

@fold("Gather", 2)
def _gather(file: File, node: Node, inputs: list[Any]) -> Array:
    array, indices = inputs
    axis, = unique_axes([node.int("axis", 0)], array.ndim)
    file.charge(8 * array.size // max(1, array.shape[axis]) * indices.size)
    return np.asarray(np.take(array, indices, axis))


@fold("Slice", 1, 5)
def _slice(file: File, node: Node, inputs: list[Any]) -> Array:
    return inputs[0][slices_of(node, inputs, inputs[0].ndim)]


def slices_of(node: Node, inputs: list[Any], rank: int) -> tuple[slice, ...]:
    """What Slice does, one slice for each axis."""
    starts, ends = (axes_of(node, inputs, at, name) for at, name in ((1, "starts"), (2, "ends")))
    axes = axes_of(node, inputs, 3)
    steps = axes_of(node, inputs, 4, "steps")
    if starts is None or ends is None:
        raise ValueError("expected starts and ends")
    axes = unique_axes(range(len(starts)) if axes is None else axes, rank)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit each other")
    found = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        found[axis] = slice(start, end, step)
    return tuple(found)


@fold("Concat", 1, MOST_INPUTS)
def _concat(file: File, node: Node, inputs: list[Any]) -> Array:
    file.charge(8 * sum(array.size for array in inputs))
    return np.concatenate(inputs, node.int("axis"))


def _reduction(function: Callable[..., Any]) -> Fold:
    def apply(file: File, node: Node, inputs: list[Any]) -> Array:
        axes, keepdims, nothing = axes_of(node, inputs), node.flag("keepdims", True), node.flag("noop_with_empty_axes")
        if not axes and nothing:
            return inputs[0]
        file.charge(8 * inputs[0].size)
        found = function(inputs[0], axis=tuple(axes) if axes else None, keepdims=keepdims)
        return np.asarray(found, inputs[0].dtype)
    return apply


REDUCTIONS: dict[str, Callable[..., Any]] = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max,
                                             "ReduceMin": np.min, "ReduceMean": np.mean}
for _op, _function in REDUCTIONS.items():
    fold(_op, 1, 2)(_reduction(_function))
