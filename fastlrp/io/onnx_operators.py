"""ONNX operators on computed values, in the builder's terms; those that move values are in onnx_shapes.py.

One function per operator: (builder, node, inputs) → the node's first output. Inputs are values, or arrays where they
are constants, None where they are left out. A function reads every attribute that it knows: those that nobody reads
make the node unsupported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..reference import Array
from ..shapes import same_padding
from .building import Builder
from .onnx_file import FLOATS
from .onnx_folding import MOST_INPUTS, axes_of
from .onnx_nodes import Node, constant, one_number, unique_axes
from .values import Unsupported, Value

Operator = Callable[[Builder, Node, list[Any]], Any]
Pads = list[tuple[int, int]]

OPERATORS: dict[str, tuple[Operator, int, int]] = {}  # with the least and the greatest number of inputs


def operator(op: str, least: int = 1, most: int | None = None) -> Callable[[Operator], Operator]:
    """Enter a function into OPERATORS; inputs from `least` on may be None."""
    def enter(function: Operator) -> Operator:
        OPERATORS[op] = function, least, least if most is None else most
        return function
    return enter


def computed(x: Any, name: str = "a constant input") -> Value:
    """An input that the operator takes as a value only."""
    if not isinstance(x, Value):
        raise Unsupported(f"{name}: only values that depend on the network's input")
    return x


# ---- weights ----

@operator("Conv", 2, 3)
def _conv(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x = computed(inputs[0])
    weight, bias = constant(inputs[1], "weights"), constant((*inputs, None)[2], "a bias")
    assert weight is not None
    kernel = node.ints("kernel_shape", list(weight.shape[2:]))
    if kernel != list(weight.shape[2:]):
        raise ValueError(f"kernel_shape {kernel} differs from the weight's shape {weight.shape}")
    strides, dilations = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    pads = _pads(node, x, kernel, strides, dilations)
    groups = node.int("group", 1)
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"group {groups} does not divide {weight.shape[0]} filters")
    return b.conv(x, weight, bias, strides, pads, dilations, groups)


def _pads(node: Node, x: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """(before, after) for each spatial axis, from the attributes pads and auto_pad."""
    axes, auto = len(kernel), node.string("auto_pad", "NOTSET")
    pads = node.ints("pads", [0] * 2 * axes)
    if len(x.shape) != axes + 1 or len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        raise ValueError(f"kernel {list(kernel)}, strides {list(strides)}, dilations {list(dilations)} and pads {pads} "
                         f"do not fit samples of shape {x.shape}")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise ValueError(f"expected sizes of at least 1 and pads of at least 0, got kernel {list(kernel)}, strides "
                         f"{list(strides)}, dilations {list(dilations)}, pads {pads}")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        same = [same_padding(*sizes) for sizes in zip(x.shape[1:], kernel, strides, dilations, strict=True)]
        return same if auto == "SAME_UPPER" else [(after, before) for before, after in same]
    if auto not in ("NOTSET", "", "VALID"):
        raise ValueError(f"auto_pad: expected NOTSET, SAME_UPPER, SAME_LOWER or VALID, got {auto[:40]!r}")
    return [(0, 0)] * axes if auto == "VALID" else list(zip(pads[:axes], pads[axes:], strict=True))


@operator("Gemm", 2, 3)
def _gemm(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, weight, added = computed(inputs[0]), constant(inputs[1], "weights"), (*inputs, None)[2]
    assert weight is not None
    if node.flag("transA"):
        raise Unsupported("transA: it mixes the batch with other axes")
    if not node.flag("transB"):
        weight = weight.T
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    if alpha != 1:
        b.charge(weight.nbytes)
        weight = weight * weight.dtype.type(alpha)
    if added is None or beta == 0:
        return b.linear(x, weight)
    if isinstance(added, Value):
        found = b.linear(x, weight)
        return b.add([found, added if beta == 1 else b.scale(added, beta)])
    if weight.ndim != 2 or added.ndim > 2 or added.shape not in ((), (1,), (1, 1), (len(weight),), (1, len(weight))):
        raise ValueError(f"a weight of shape {weight.shape} and C of shape {added.shape} do not fit")
    b.charge(4 * len(weight))
    return b.linear(x, weight, np.broadcast_to(b.numbers(added).reshape(-1) * beta, (len(weight),)))


@operator("MatMul", 2)
def _matmul(b: Builder, node: Node, inputs: list[Any]) -> Any:
    weight = constant(inputs[1], "a second factor")
    assert weight is not None
    if weight.ndim != 2:
        raise Unsupported(f"a second factor of shape {weight.shape}: only a matrix")
    return b.linear(computed(inputs[0], "a constant first factor"), weight.T)


@operator("BatchNormalization", 5)
def _batch_norm(b: Builder, node: Node, inputs: list[Any]) -> Any:
    node.ignore("momentum")
    if node.flag("training_mode"):
        raise Unsupported("training_mode: only evaluation")
    weight, bias, mean, variance = (constant(value, "parameters") for value in inputs[1:])
    assert mean is not None and variance is not None
    return b.batch_norm(computed(inputs[0]), weight, bias, mean, variance, node.float("epsilon", 1e-5))


# ---- pools ----

@operator("MaxPool")
def _max_pool(b: Builder, node: Node, inputs: list[Any]) -> Any:
    node.ignore("storage_order")  # of its second output
    x = computed(inputs[0])
    kernel, strides, dilations, pads = _window(node, x)
    return b.max_pool(x, kernel, strides, pads, dilations, node.flag("ceil_mode"))


@operator("AveragePool")
def _average_pool(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x = computed(inputs[0])
    kernel, strides, dilations, pads = _window(node, x)
    if set(dilations) != {1}:
        raise Unsupported(f"dilations {dilations}: only 1")
    return b.avg_pool(x, kernel, strides, pads, node.flag("ceil_mode"), node.flag("count_include_pad"))


def _window(node: Node, x: Value) -> tuple[list[int], list[int], list[int], Pads]:
    """(kernel, strides, dilations, pads) of a pool."""
    kernel = node.ints("kernel_shape")
    if not kernel:
        raise ValueError("expected an attribute kernel_shape")
    strides, dilations = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    return kernel, strides, dilations, _pads(node, x, kernel, strides, dilations)


@operator("GlobalAveragePool")
def _global_average_pool(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.global_avg_pool(inputs[0])


@operator("GlobalMaxPool")
def _global_max_pool(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.global_max_pool(inputs[0])


@operator("ReduceMean", 1, 2)
def _reduce_mean(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, axes, keepdims = inputs[0], axes_of(node, inputs), node.flag("keepdims", True)
    if node.flag("noop_with_empty_axes") and not axes:
        return b.identity(x)
    return b.mean(x, axes if axes else range(len(x.shape) + 1), keepdims)


# ---- activations ----

def _activation(kind: str, **params: tuple[str, float]) -> Operator:
    """params: the builder's name of a parameter to the attribute and its default."""
    def apply(b: Builder, node: Node, inputs: list[Any]) -> Any:
        found = {key: node.float(name, default) for key, (name, default) in params.items()}
        return b.activation(inputs[0], kind, **found)
    return apply


for _op, _kind in {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Mish": "mish",
                   "HardSwish": "hardswish", "Abs": "abs"}.items():
    operator(_op)(_activation(_kind))
operator("LeakyRelu")(_activation("leaky_relu", slope=("alpha", 0.01)))
operator("Elu")(_activation("elu", alpha=("alpha", 1.0)))


@operator("Selu")
def _selu(b: Builder, node: Node, inputs: list[Any]) -> Any:
    alpha, gamma = node.float("alpha", 1.67326319), node.float("gamma", 1.05070102)
    if not math.isclose(alpha, 1.67326319, rel_tol=1e-4) or not math.isclose(gamma, 1.05070102, rel_tol=1e-4):
        raise Unsupported(f"alpha {alpha:g} and gamma {gamma:g}: only those of the definition")
    return b.activation(inputs[0], "selu")


@operator("Gelu")
def _gelu(b: Builder, node: Node, inputs: list[Any]) -> Any:
    approximate = node.string("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate: expected "none" or "tanh", got {approximate[:40]!r}')
    return b.activation(inputs[0], "gelu", approximate=approximate)


@operator("Swish")
def _swish(b: Builder, node: Node, inputs: list[Any]) -> Any:
    if node.float("alpha", 1.0) != 1:
        raise Unsupported("alpha other than 1")
    return b.activation(inputs[0], "silu")


@operator("HardSigmoid")
def _hard_sigmoid(b: Builder, node: Node, inputs: list[Any]) -> Any:
    alpha, beta = node.float("alpha", 0.2), node.float("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return b.activation(inputs[0], "hardsigmoid")
    return b.clip(b.scale(inputs[0], alpha, beta), 0, 1)


@operator("PRelu", 2)
def _prelu(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, slope = computed(inputs[0]), constant(inputs[1], "slopes")
    assert slope is not None
    if slope.size > 1:
        shape = (1,) * (len(x.shape) + 1 - slope.ndim) + slope.shape
        if shape != (1, x.shape[0], *(1,) * (len(x.shape) - 1)):
            raise Unsupported(f"slopes of shape {slope.shape} on samples of shape {x.shape}: only one for each channel")
    return b.prelu(x, slope.reshape(-1))


@operator("Clip", 1, 3)
def _clip(b: Builder, node: Node, inputs: list[Any]) -> Any:
    low, high = (one_number(constant(value, name), name, default) for value, name, default in
                 zip((*inputs, None, None)[1:3], ("min", "max"), (-math.inf, math.inf), strict=True))
    low, high = node.float("min", low, finite=False), node.float("max", high, finite=False)
    return b.clip(computed(inputs[0]), low, high)


@operator("Erf")
def _erf(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.erf(inputs[0])


@operator("Max", 1, 2)
def _max(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, bound = _value_and_constant(inputs, "the maximum of computed values")
    return b.clip(x, low=one_number(bound, "a bound", -math.inf))


@operator("Min", 1, 2)
def _min(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, bound = _value_and_constant(inputs, "the minimum of computed values")
    return b.clip(x, high=one_number(bound, "a bound", math.inf))


def _value_and_constant(inputs: list[Any], what: str) -> tuple[Value, Array | None]:
    values, arrays = [x for x in inputs if isinstance(x, Value)], [x for x in inputs if isinstance(x, np.ndarray)]
    if len(values) != 1 or (arrays and arrays[0].size != 1):
        raise Unsupported(f"{what}: only with one number")
    return values[0], arrays[0] if arrays else None


# ---- arithmetic ----

@operator("Add", 2)
def _add(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, y = inputs if isinstance(inputs[0], Value) else inputs[::-1]
    return b.add([x, y]) if isinstance(y, Value) else b.add_constant(x, y)


@operator("Sum", 1, MOST_INPUTS)
def _sum(b: Builder, node: Node, inputs: list[Any]) -> Any:
    values = [x for x in inputs if isinstance(x, Value)]
    if len(values) < len(inputs):
        raise Unsupported("a constant operand")
    return b.add(values)


@operator("Sub", 2)
def _sub(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, y = inputs
    if not isinstance(y, Value):
        return b.add_constant(x, -b.numbers(y))
    return b.sub(x, y) if isinstance(x, Value) else b.scale(y, -1.0, x)


@operator("Neg")
def _neg(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.scale(inputs[0], -1.0)


@operator("Mul", 2)
def _mul(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, y = inputs if isinstance(inputs[0], Value) else inputs[::-1]
    return b.mul(x, y) if isinstance(y, Value) else b.scale(x, y)


@operator("Div", 2)
def _div(b: Builder, node: Node, inputs: list[Any]) -> Any:
    y = constant(inputs[1], "a divisor")
    return b.scale(computed(inputs[0], "a constant dividend"), 1 / b.numbers(y))


# ---- what does nothing when explaining ----

@operator("Dropout", 1, 3)
def _dropout(b: Builder, node: Node, inputs: list[Any]) -> Any:
    node.ignore("seed")
    ratio, training = (constant(value, "an option") for value in (*inputs, None, None)[1:3])
    if training is not None and training.any():
        raise Unsupported("training_mode: only evaluation")
    rate = node.float("ratio", float(one_number(ratio, "ratio", 0.5)))
    return b.dropout(computed(inputs[0]), rate)


@operator("Identity")
def _identity(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.identity(inputs[0])


@operator("Cast")
def _cast(b: Builder, node: Node, inputs: list[Any]) -> Any:
    node.ignore("saturate", "round_mode")
    to = node.int("to")
    if to not in FLOATS:
        raise Unsupported(f"to type {to} (of TensorProto.DataType): only to floating point")
    return inputs[0]


@operator("Softmax")
def _softmax(b: Builder, node: Node, inputs: list[Any]) -> Any:
    rank = len(inputs[0].shape) + 1
    axis, = unique_axes([node.int("axis", -1 if node.opset >= 13 else 1)], rank)
    if axis == 0:
        raise Unsupported("over the batch")
    return b.softmax(inputs[0])


operator("LogSoftmax")(_softmax)
