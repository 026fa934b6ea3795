"""`from_onnx`: a network from an ONNX file.

In: a path or bytes. Out: a Network with the file's layouts at its surface. The graph is walked once, in an order in
which every value is made before it is read: what depends on constants alone is computed here (onnx_folding.py), the
rest becomes layers (onnx_operators.py, onnx_shapes.py, building.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..layers.base import Shape
from ..layers.value import as_shape
from ..network import Network
from ..reference import Array
from ..shapes import as_size
from .building import BATCH, UNKNOWN, Builder, Value
from .onnx_file import FLOATS, File
from .onnx_folding import FOLDS, MOST_INPUTS, shape_of, slices_of
from .onnx_nodes import Node, text
from .onnx_shapes import OPERATORS
from .values import OTHER_BATCH, Unsupported, shown

OLDEST = 9  # of ONNX's operator sets
TAKE_SHAPES = ("Reshape", "Expand", "Slice", "Resize", "Upsample")  # with the batch's size among their sizes
MOST_NODES = 20_000  # the largest image networks have a few thousand


def from_onnx(path: str | PathLike[str] | bytes, *, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Network:
    """The network in an ONNX file, ready to run and explain in evaluation mode, with the file's weights.

    path: the file, or its bytes. input_shapes: {input: shape of one sample, as (3, 224, 224)}, for inputs whose sizes
    the file leaves open. Needs the package onnx: pip install "fastlrp[onnx]".

    Layouts are the file's: inputs, outputs, relevance, `e.layers` and starts are (N, C, H, W), and Flatten has that
    order. The first axis of every input is the batch, of any size, whatever the file says. Layers have the names of
    the file's nodes (of their first output where a node has none); parts of a node and conversions in between have it
    with a suffix, as "conv1.channels_first". Inside 1-D networks values are (N, C, 1, L). Nodes that read the same
    weights with the same attributes and input shapes are one shared layer.

    Supported, in opset 9 and later: Conv over one or two axes, Gemm, MatMul with a constant matrix; BatchNormalization;
    MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool, ReduceMean over the spatial axes; Relu, LeakyRelu, PRelu,
    Elu, Selu, Sigmoid, Tanh, Softplus, HardSigmoid, HardSwish, Gelu (also as its formula with Erf), Swish (also as its
    formula), Mish, Clip, Abs, Max and Min with a number; Add, Sub, Sum, Neg, Mul and Div with constants, Mul by a gate
    (a value that is smaller, or made by a sigmoid: constant for relevance); Concat, Split, Slice with steps forward,
    Gather of one constant index or of several in even steps, Flatten, Reshape, Transpose, Squeeze, Unsqueeze, Expand
    over spatial axes, constant Pad around them, Upsample and Resize that repeat pixels; Dropout, Identity, Cast between
    floating-point types. Softmax and LogSoftmax at the end are left out with a warning: outputs are logits. What
    depends on constants and shapes alone is computed, by the usual arithmetic.

    Raises UnsupportedError, which lists all the nodes that are something else; FormatError where the file is not what
    it claims to be, or input_shapes does not fit it, naming the file and the node or tensor; both are ValueError.
    TypeError and ValueError for other arguments, ImportError without onnx, OSError where the file cannot be read.
    Reading takes about four times the file's size and 64 MB at most. External data is read from regular files inside
    the model's folder only: no links, absolute paths or "..".
    """
    try:
        import onnx
    except ImportError:
        raise ImportError('from_onnx needs the package onnx: pip install "fastlrp[onnx]"') from None
    shapes = {} if input_shapes is None else _as_shapes(input_shapes)
    file = File(path)
    importer = _Importer(file, file.parse(onnx), onnx.defs.onnx_opset_version(), shapes)
    outputs, builder = importer.walk(), importer.builder
    del importer  # the message, and arrays that no layer needs, before layers copy theirs
    return builder.build(outputs)


def _as_shapes(given: Any) -> dict[str, Shape]:
    """input_shapes, or an error that names it and the input."""
    if not isinstance(given, Mapping):
        raise TypeError(f"input_shapes must be a mapping from inputs to shapes of a sample, got {given!r:.100}")
    return {name: as_shape(shape, f"input_shapes[{name!r}]") for name, shape in given.items()}


class _Importer:
    """One walk over one model's graph. values: what each name stands for, an array or a Value."""

    def __init__(self, file: File, model: Any, newest: int, shapes: dict[str, Shape]):
        self.file, self.graph, self.shapes = file, model.graph, shapes
        self.values: dict[str, Any] = {}
        self.others: dict[str, Node] = {}  # outputs of nodes after their first
        self.again: dict[str, Any] = {}  # the arrays that another size of the batch would change, with that one
        try:
            opset = self._opset(model, newest)
            if len(self.graph.node) > MOST_NODES:
                raise ValueError(f"expected at most {MOST_NODES} nodes, got {len(self.graph.node)}")
            self.nodes = [Node(proto, opset) for proto in self.graph.node]
            self.tensors = {text(tensor.name): tensor for tensor in self.graph.initializer}
            self.outputs = [text(info.name) for info in self.graph.output]
            infos = {text(info.name): info for info in self.graph.input}
            self._check_names(list(infos))
            self.inputs = {name: info for name, info in infos.items() if name not in self.tensors}
            self.needed = self._in_order()
            unknown = [name for name in shapes if name not in self.inputs]
            if unknown:
                raise ValueError(f"input_shapes names {shown(unknown)}: the inputs are {shown(list(self.inputs))}")
            inputs = {name: self._input_shape(name, info) for name, info in self.inputs.items()}
        except ValueError as error:
            raise file.error("graph", error) from None
        batch = {batch for batch, _ in inputs.values() if batch}
        supported = [*OPERATORS, *(f"{op} (of constants)" for op in FOLDS if op not in OPERATORS)]
        self.builder = Builder(file.name, supported, batch, file.charge)
        for name, (_, shape) in inputs.items():
            self.values[name] = self.builder.run("Input", name, self._input, name, shape)

    def walk(self) -> list[Any]:
        """The values of the outputs."""
        for node in self.needed:
            result = self._result(node)
            results = result if isinstance(result, list) else [result]
            self.others.update(dict.fromkeys(filter(None, node.outputs[len(results):]), node))
            self.values.update(zip(node.outputs, results, strict=False))
        outputs = [self._value(name) for name in self.outputs]
        for name, value in zip(self.outputs, outputs, strict=True):
            if isinstance(value, np.ndarray):
                self.builder.unsupported("it does not depend on an input", ("Output", name))
        return [UNKNOWN if isinstance(value, np.ndarray) else value for value in outputs]

    # ---- the graph as a whole ----

    @staticmethod
    def _opset(model: Any, newest: int) -> int:
        versions = [entry.version for entry in model.opset_import if text(entry.domain) in ("", "ai.onnx")]
        if not versions:
            raise ValueError("no operator set (opset_import) of ONNX: not an ONNX model, or cut off")
        if not OLDEST <= versions[0] <= newest:
            raise ValueError(f"operator set {versions[0]}: supported are {OLDEST} to {newest}, the newest that the "
                             "installed onnx knows")
        return int(versions[0])

    def _check_names(self, inputs: list[str]) -> None:
        """ValueError where a name stands for two things, or something has none."""
        if len(self.tensors) < len(self.graph.initializer) or len(inputs) < len(self.graph.input):
            raise ValueError("two initializers or two inputs have the same name")
        if self.graph.sparse_initializer:
            raise ValueError("sparse initializers, which fastlrp does not read")
        made = {*inputs, *self.tensors}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in made:
                    raise ValueError(f"node {shown(node.name)} ({node.op}) makes {shown(name)}, which is there already")
                made.add(name)
        for node in self.nodes:
            for name in filter(None, node.inputs):
                if name not in made:
                    raise ValueError(f"node {shown(node.name)} ({node.op}) reads {shown(name)}, which nothing makes")
        for name in self.outputs:
            if name not in made:
                raise ValueError(f"the output {shown(name)} is not made by any node")
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise ValueError(f"expected outputs of different names, got {shown(self.outputs)}")

    def _in_order(self) -> list[Node]:
        """The nodes that the outputs depend on, each after those it reads; ValueError for a cycle."""
        makers = {name: node for node in self.nodes for name in node.outputs if name}
        reads = {node: {makers[name] for name in node.inputs if name in makers} for node in self.nodes}
        needed, waiting = set(), [makers[name] for name in self.outputs if name in makers]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting.extend(reads[node])
        left = {node: len(reads[node]) for node in self.nodes if node in needed}
        readers: dict[Node, list[Node]] = {node: [] for node in left}
        for node in left:
            for other in reads[node]:
                readers[other].append(node)
        order = [node for node, count in left.items() if not count]
        for node in order:  # which grows
            for reader in readers[node]:
                left[reader] -= 1
                if not left[reader]:
                    order.append(reader)
        if len(order) < len(left):
            node = next(node for node, count in left.items() if count)
            raise ValueError(f"node {shown(node.name)} ({node.op}) is part of a cycle, or reads one")
        return order

    # ---- inputs ----

    def _input_shape(self, name: str, info: Any) -> tuple[int, Shape]:
        """(size of the batch, 0 where it is open; shape of one sample)."""
        where = f"the input {shown(name)}"
        if not info.type.HasField("tensor_type"):
            raise ValueError(f"{where} is not a tensor")
        dims = [dim.dim_value if dim.HasField("dim_value") else text(dim.dim_param) or "?"
                for dim in info.type.tensor_type.shape.dim]
        if not 2 <= len(dims) <= 32:
            raise ValueError(f"{where} has the shape {shown(dims)}: expected a batch and the axes of a sample")
        given = self.shapes.get(name)
        sample = dims[1:] if given is None else list(given)
        if len(sample) != len(dims) - 1 or any(isinstance(known, int) and known != size
                                               for known, size in zip(dims[1:], sample, strict=True)):
            raise ValueError(f"input_shapes gives {where} samples of shape {shown(sample)}, the file {shown(dims[1:])}")
        if not all(isinstance(size, int) and size > 0 for size in sample):
            raise ValueError(f"{where} has samples of shape {shown(tuple(sample))}: give sizes, as in "
                             f"input_shapes={{{shown(name)}: (3, 224, 224)}}")
        batch = dims[0] if isinstance(dims[0], int) else 0
        return max(batch, 0), tuple(as_size(size, where) for size in sample)

    def _input(self, name: str, shape: Shape) -> Value:
        kind = self.inputs[name].type.tensor_type.elem_type
        if kind not in FLOATS:
            raise Unsupported(f"values of type {kind} (of TensorProto.DataType): only floating point")
        return self.builder.input(name, shape)

    # ---- one node ----

    def _value(self, name: str) -> Any:
        """What a name stands for; None for "", an input that is left out."""
        if name in self.others:
            node = self.others[name]
            self.builder.unsupported(f"its output {shown(name)}: only the first one", (node.kind, node.name))
            return UNKNOWN
        if name and name not in self.values:
            self.values[name] = self.file.tensor(self.tensors[name], f"initializer {shown(name)}")
        return self.values[name] if name else None

    def _result(self, node: Node) -> Any:
        """What a node makes: an array, a Value, or UNKNOWN."""
        inputs = [self._value(name) for name in node.inputs]
        known = node.domain in ("", "ai.onnx") and (node.op in OPERATORS or node.op in FOLDS)
        operands = inputs if known else []  # an operator that is unsupported is told whatever it reads
        return self.builder.run(node.kind, node.name, self._apply, node, operands, known)

    def _apply(self, node: Node, inputs: list[Any], known: bool) -> Any:
        node.check()
        if not known:
            raise Unsupported
        constants = all(value is None or isinstance(value, np.ndarray) for value in inputs)
        table: Any = FOLDS if node.op not in OPERATORS or (constants and node.op in FOLDS) else OPERATORS
        apply, least, most = table[node.op]
        _check_count(node, inputs, least, most)
        again = [self.again.get(name, value) for name, value in zip(node.inputs, inputs, strict=True)]
        changes = any(a is not b for a, b in zip(again, inputs, strict=True))
        if node.op in ("Shape", "Size") and not constants:
            result, other = (_size(node, (size, *inputs[0].shape)) for size in (BATCH, OTHER_BATCH))
            self._keep(node, result, other)
        elif constants is (table is FOLDS):
            if changes and not constants and not _takes(node, inputs, again):
                raise Unsupported("a number that depends on the size of the batch")
            with np.errstate(all="ignore"):
                result = apply(self.file if constants else self.builder, node, inputs)
                if changes and constants:
                    self._keep(node, result, apply(self.file, node, again))
        else:
            raise Unsupported("on constants alone" if constants else "on values that depend on the network's input")
        if node.unread():
            raise Unsupported(f"with the attributes {shown(node.unread())}")
        return result

    def _keep(self, node: Node, result: Array, other: Array) -> None:
        """Note what a node makes with another size of the batch, where that is not the same."""
        if not np.array_equal(result, other):
            self.again[node.outputs[0]] = other


def _size(node: Node, shape: Shape) -> Array:
    """What Shape and Size make of a shape."""
    return shape_of(node, shape) if node.op == "Shape" else np.asarray(np.prod(shape, dtype=np.int64))


def _takes(node: Node, inputs: Sequence[Any], again: Sequence[Any]) -> bool:
    """Whether a node may read numbers that the size of the batch changes: where they say nothing of other axes."""
    if node.op != "Slice" or not isinstance(inputs[0], Value):
        return node.op in TAKE_SHAPES
    rank = len(inputs[0].shape) + 1
    return slices_of(node, list(inputs), rank)[1:] == slices_of(node, list(again), rank)[1:]


def _check_count(node: Node, inputs: Sequence[Any], least: int, most: int) -> None:
    """ValueError where a node has too few inputs or too many."""
    required = inputs if most == MOST_INPUTS else inputs[:least]
    missing = any(value is None for value in required)
    if missing or not least <= len(inputs) <= most:
        expected = least if least == most else f"{least} to {most}"
        raise ValueError(f"expected {expected} inputs, got {len(inputs)}" + " of which one is left out" * missing)
