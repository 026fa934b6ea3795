"""ONNX files that are broken, hostile, or ask for what fastlrp has not: each ends in its clear error, soon."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import run_python

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper
from onnx_models import batch, model, node, proto, single, spatial_model, weights

import fastlrp
from fastlrp import FormatError, UnsupportedError

W = weights
FAR = 1 << 40


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def edited(data: bytes, edit: Callable[[Any], Any]) -> bytes:
    """A model with something changed by hand."""
    loaded = onnx.load_model_from_string(data)
    edit(loaded)
    return loaded.SerializeToString()


def conv(edit: Callable[[Any], Any] | None = None, **attributes: Any) -> bytes:
    """One convolution; edit: done to its ModelProto."""
    data = single("Conv", W(4, 3, 3, 3), **attributes)
    return data if edit is None else edited(data, edit)


def weight(edit: Callable[[Any], Any]) -> bytes:
    """One convolution with something changed in its weight's TensorProto."""
    return conv(lambda m: edit(m.graph.initializer[0]))


def attribute(**fields: Any) -> bytes:
    """One convolution with an attribute made by hand."""
    def edit(m: Any) -> None:
        m.graph.node[0].attribute.append(onnx.AttributeProto(**fields))
    return conv(edit)


def set_dims(m: Any, *dims: Any) -> None:
    """Other sizes of the input; strings are names, None is nothing."""
    shape = m.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for size in dims:
        dim = shape.dim.add()
        if size is not None:
            setattr(dim, "dim_param" if isinstance(size, str) else "dim_value", size)


def huge(op: str, *constants: Any, **attributes: Any) -> bytes:
    """An operator on constants whose result is added to x."""
    named = {f"c{i}": array for i, array in enumerate(constants)}
    return model([node(op, " ".join(named), "r", **attributes), node("Add", "x r", "y")], named)


def varint(value: int) -> bytes:
    """A whole number of protobuf."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, *parts: bytes) -> bytes:
    """A field of protobuf with a length."""
    data = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(data)) + data


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    data = b""
    for _ in range(depth):
        data = field(1, field(5, field(6, data)))
    return field(7, data)


# name: (the file, what its error says)
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    # bytes
    "nothing": (lambda: b"", "byte 0: the file is empty"),
    "a text": (lambda: b"This is no model.", "byte [0-9]+: not an ONNX model"),
    "a PNG": (lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an ONNX model"),
    "zeros": (lambda: bytes(100), "byte 2: not an ONNX model: no field of a protobuf message"),
    "cut in half": (lambda: conv()[:len(conv()) // 2],
                    "byte [0-9]+: not an ONNX model: a field of [0-9]+ bytes where "),
    "cut in a number": (lambda: conv() + b"\x80", "not an ONNX model: the message ends inside a number"),
    "a number without an end": (lambda: conv() + b"\xff" * 20, "a number without an end"),
    "nested graphs": (lambda: nested(1000), "not an ONNX model: messages nested more than 60 deep"),
    "no operator set": (lambda: conv(lambda m: m.ClearField("opset_import")), "no operator set"),
    "an old operator set": (lambda: model([node("Relu", "x", "y")], opset=8), "operator set 8: supported are 9 to"),
    "a new operator set": (lambda: model([node("Relu", "x", "y")], opset=999), "operator set 999: supported are 9 to"),
    "a negative operator set": (lambda: conv(lambda m: setattr(m.opset_import[0], "version", -1)), "operator set -1"),
    "names that are no text": (lambda: conv().replace(b"y_Conv", b"\xff\xfeConv"), "a string that is not UTF-8"),
    # the graph
    "no graph": (lambda: conv(lambda m: m.ClearField("graph")), "expected outputs of different names"),
    "no outputs": (lambda: conv(lambda m: m.graph.ClearField("output")), "expected outputs of different names"),
    "an output twice": (lambda: model([node("Relu", "x", "y")], outputs="y y"), "expected outputs of different names"),
    "an output that nothing makes": (lambda: model([node("Relu", "x", "y")], outputs="z"),
                                     "graph: the output 'z' is not made by any node"),
    "an input that nothing makes": (lambda: model([node("Relu", "z", "y")]),
                                    r"graph: node 'y_Relu' \(Relu\) reads 'z', which nothing makes"),
    "a cycle": (lambda: model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]),
                r"graph: node 'a_Add' \(Add\) is part of a cycle"),
    "a node that reads itself": (lambda: model([node("Add", "x y", "y")]), r"node 'y_Add' \(Add\) is part of a cycle"),
    "a value made twice": (lambda: model([node("Relu", "x", "y"), node("Tanh", "x", "y")]),
                           r"node 'y_Tanh' \(Tanh\) makes 'y', which is there already"),
    "an input made again": (lambda: model([node("Relu", "x", "x")], outputs="x"), "makes 'x', which is there already"),
    "two inputs of a name": (lambda: conv(lambda m: m.graph.input.append(m.graph.input[0])), "two inputs"),
    "two initializers of a name": (lambda: conv(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
                                   "two initializers or two inputs have the same name"),
    "an input as output": (lambda: model([], outputs="z", inputs={"x": (1, 3)}), "the output 'z' is not made"),
    # inputs
    "an input of one axis": (lambda: conv(lambda m: set_dims(m, 4)), "expected a batch and the axes of a sample"),
    "sizes that are open": (lambda: conv(lambda m: set_dims(m, "N", 3, None, "w")),
                            r"the input 'x' has samples of shape .*3, '\?', 'w'.*: give sizes"),
    "a size of 0": (lambda: conv(lambda m: set_dims(m, 1, 3, 0, 5)), "give sizes"),
    "a negative size": (lambda: conv(lambda m: set_dims(m, 1, 3, -6, 5)), "give sizes"),
    "an absurd size": (lambda: conv(lambda m: set_dims(m, 1, 3, FAR, 5)), "the input 'x' must be less than 2147483648"),
    "absurd sizes together": (lambda: conv(lambda m: set_dims(m, 1, 3, 1 << 30, 1 << 30)),
                              "more than 8589934592 elements"),
    "an input that is no tensor": (lambda: conv(lambda m: m.graph.input[0].type.ClearField("tensor_type")),
                                   "not a tensor"),
    # tensors
    "a weight cut off": (lambda: weight(lambda t: setattr(t, "raw_data", t.raw_data[:-3])),
                         r"initializer 'c0': expected 432 bytes for the shape \(4, 3, 3, 3\), got 429"),
    "a weight with too much": (lambda: weight(lambda t: setattr(t, "raw_data", t.raw_data + b"0000")),
                               "expected 432 bytes"),
    "a weight of absurd size": (lambda: weight(lambda t: t.dims.__setitem__(0, FAR)), "expected [0-9]+ bytes"),
    "a weight of negative size": (lambda: weight(lambda t: t.dims.__setitem__(0, -4)), "sizes of at least 0"),
    "a weight of too many sizes": (lambda: weight(lambda t: t.dims.extend([1] * 40)), "at most 32 sizes"),
    "a weight without values": (lambda: weight(lambda t: t.ClearField("raw_data")), "expected 108 values"),
    "a weight of another shape": (lambda: single("Conv", W(4, 3, 3)), r"node 'y_Conv' \(Conv\): "),
    "a weight of strings": (lambda: weight(lambda t: setattr(t, "data_type", TensorProto.STRING)),
                            "a tensor of type 8"),
    "a weight of no type": (lambda: weight(lambda t: setattr(t, "data_type", 99)), "a tensor of type 99"),
    "a weight in segments": (lambda: weight(lambda t: setattr(t.segment, "begin", 1)), "in segments"),
    "a weight for other channels": (lambda: single("Conv", W(4, 5, 3, 3)),
                                    r"does not fit samples of shape \(3, 6, 5\)"),
    "a bias of another size": (lambda: single("Conv", W(4, 3, 3, 3), W(3)),
                               r"expected a bias of shape \(4,\), got \(3,\)"),
    "a weight without filters": (lambda: single("Conv", W(0, 3, 3, 3)), "a weight without values"),
    "a matrix for other features": (lambda: single("Gemm", W(5, 4), shape=(7,)), "does not fit samples of shape"),
    "a C of another size": (lambda: single("Gemm", W(7, 4), W(5), shape=(7,)), "do not fit"),
    "a norm of another size": (lambda: single("BatchNormalization", W(2), W(2), W(2), W(2)),
                               r"expected weight of shape \(3,\)"),
    # attributes
    "strides of 0": (lambda: conv(strides=[0, 1]), r"node 'y_Conv' \(Conv\): expected sizes of at least 1"),
    "negative strides": (lambda: conv(strides=[-1, 1]), "expected sizes of at least 1"),
    "negative pads": (lambda: conv(pads=[0, -1, 0, 0]), "pads of at least 0"),
    "absurd pads": (lambda: conv(pads=[FAR, 0, 0, 0]), "padding must be less than"),
    "absurd dilations": (lambda: conv(dilations=[1 << 30, 1]), "does not fit"),
    "three strides": (lambda: conv(strides=[1, 1, 1]), "do not fit samples of shape"),
    "too many strides": (lambda: conv(strides=[1] * 100), "attribute 'strides': expected at most 64 numbers, got 100"),
    "another kernel_shape": (lambda: conv(kernel_shape=[3, 2]), "kernel_shape .* differs from the weight's shape"),
    "negative kernel": (lambda: single("MaxPool", kernel_shape=[-2, 2]), "expected sizes of at least 1"),
    "no kernel": (lambda: single("MaxPool"), "expected an attribute kernel_shape"),
    "a kernel beyond the input": (lambda: single("MaxPool", kernel_shape=[7, 2]), "does not fit"),
    "group 0": (lambda: conv(group=0), "group 0 does not divide"),
    "groups that do not fit": (lambda: conv(group=2), "does not fit"),
    "an unknown auto_pad": (lambda: conv(auto_pad="SOME"), "auto_pad: expected NOTSET, SAME_UPPER"),
    "a string for numbers": (lambda: attribute(name="strides", type=3, s=b"11"),
                             "attribute 'strides': expected whole numbers, got type 3"),
    "a number for numbers": (lambda: attribute(name="strides", type=2, i=1), "expected whole numbers, got type 2"),
    "an attribute of no type": (lambda: attribute(name="strides", ints=[1, 1]), "expected whole numbers, got type 0"),
    "an attribute twice": (lambda: conv(lambda m: m.graph.node[0].attribute.extend(
        [helper.make_attribute("group", 1)] * 2)), "an attribute stands twice"),
    "an attribute from outside": (lambda: attribute(name="group", type=2, ref_attr_name="g"), "attribute 'group'"),
    "a slope that is no number": (lambda: single("LeakyRelu", alpha=float("nan")),
                                  "attribute 'alpha': expected a finite"),
    "an infinite epsilon": (lambda: single("BatchNormalization", W(3), W(3), W(3), abs(W(3)), epsilon=float("inf")),
                            "attribute 'epsilon': expected a finite number"),
    "a bound that is no number": (lambda: single("Clip", np.float32(np.nan)), "expected a number, got nan"),
    "two bounds": (lambda: single("Clip", W(2)), "min: expected one number"),
    "a rate of 2": (lambda: single("Dropout", np.float32(2)), "rate must be in"),
    # numbers of inputs, axes
    "too few inputs": (lambda: model([node("Conv", "x", "y")]), r"\(Conv\): expected 2 to 3 inputs, got 1"),
    "too many inputs": (lambda: model([node("Relu", "x x", "y")]), r"\(Relu\): expected 1 inputs, got 2"),
    "an input left out": (lambda: model([node("Add", "x -", "y")]),
                          "expected 2 inputs, got 2 of which one is left out"),
    "one of many left out": (lambda: model([node("Concat", "x - x", "y", axis=1)]), "of which one is left out"),
    "no inputs": (lambda: model([node("Relu", "", "y")]), "expected 1 inputs, got 0"),
    "an axis out of range": (lambda: model([node("Concat", "x x", "y", axis=7)]), "axis 7 is out of range for 4 axes"),
    "shapes that differ": (lambda: model([node("Transpose", "x", "t", perm=[0, 1, 3, 2]),
                                          node("Concat", "x t", "y", axis=1)]), "cannot concatenate samples"),
    "an axis twice": (lambda: single("Transpose", perm=[0, 1, 1, 2]), "expected an order of 4 axes"),
    "a squeeze of more than one": (lambda: single("Squeeze", ints(2)), "do not all have size 1"),
    "pads for other axes": (lambda: single("Pad", ints(0, 0, 1, 1)), "expected 8 pads, got"),
    "a shape of fractions": (lambda: single("Reshape", W(2)), "shape: expected a list of at most 64 whole numbers"),
    "a shape of two axes": (lambda: single("Reshape", ints(1, 2).reshape(1, 2)), "whole numbers"),
    "scales that are no numbers": (lambda: single("Resize", None, np.float32([1, 1, np.nan, 2])), "finite numbers"),
    "a choice out of range": (lambda: huge("Gather", W(3), ints(5)), r"node 'r_Gather' \(Gather\): "),
    "whole numbers by zero": (lambda: huge("Div", ints(5), ints(0)), "a division by zero"),
    "a step of zero": (lambda: huge("Range", np.int64(0), np.int64(5), np.int64(0)), "delta other than 0"),
    "constants that do not fit": (lambda: huge("Add", W(3), W(2)), r"node 'r_Add' \(Add\): "),
    "slices of another number": (lambda: single("Slice", ints(0, 1), ints(1), ints(1)),
                                 r"\(Slice\): starts .* do not fit"),
    "slices without ends": (lambda: single("Slice", ints(0)), "expected starts and ends"),
    "a slice's axis out of range": (lambda: single("Slice", ints(0), ints(1), ints(4)),
                                    "expected different axes out of 4"),
    "a slice's axis twice": (lambda: single("Slice", ints(0, 0), ints(1, 1), ints(1, -3)), "expected different axes"),
    "a slice's step of 0": (lambda: single("Slice", ints(0), ints(1), ints(1), ints(0)), r"steps \[0\] do not fit"),
    "fractions of places": (lambda: single("Slice", W(1), ints(1)),
                            "starts: expected a list of at most 64 whole numbers"),
    "slices by numbers and inputs": (lambda: single("Slice", opset=9, starts=[0], ends=[1, 2]),
                                     "do not fit each other"),
    "a part that does not fit": (lambda: parts(ints(1, 1), axis=1),
                                 r"\(Split\): expected parts of sizes that add up to 3"),
    "a negative part": (lambda: parts(ints(4, -1), axis=1), "expected parts of sizes that add up to 3"),
    "huge parts": (lambda: parts(ints(FAR, 3 - FAR), axis=1), "expected parts of sizes that add up to 3"),
    "more parts than outputs": (lambda: parts(ints(1, 1, 1), axis=1), "expected a size for each of the 2 outputs"),
    "parts of one size": (lambda: parts(axis=1, opset=13), "2 outputs of one size where axis 1 has 3"),
    "more outputs than parts": (lambda: parts(axis=1, num_outputs=3), "num_outputs 3 where there are 2 outputs$"),
    "sizes and a number": (lambda: parts(ints(1, 2), axis=1, num_outputs=2), "2 outputs and sizes"),
    "a split's axis out of range": (lambda: parts(axis=4, num_outputs=2), "expected different axes out of 4"),
    "fractions of parts": (lambda: parts(W(2), axis=1), "split: expected a list of at most 64 whole numbers"),
    "an index out of range": (lambda: single("Gather", ints(3), axis=1), r"\(Gather\): expected indices from -3 to 2"),
    "an index before the first": (lambda: single("Gather", np.array(-4), axis=1), "expected indices from -3 to 2"),
    "a fraction of an index": (lambda: single("Gather", W(1), axis=1), "expected indices from -3 to 2, got float32"),
    # more than the file's size explains
    "a huge constant": (lambda: huge("ConstantOfShape", ints(FAR)),
                        r"node 'y_Add' \(Add\): it asks for more memory than its size explains"),
    "a huge constant, used": (lambda: model([node("ConstantOfShape", "c", "r"), node("Exp", "r", "y")],
                                            {"c": ints(1 << 20, 1 << 20)}), "asks for more memory"),
    "a huge range": (lambda: huge("Range", np.int64(0), np.int64(FAR), np.int64(1)), "asks for more memory"),
    "a huge tile": (lambda: huge("Tile", W(1), ints(FAR)), "asks for more memory"),
    "a huge expand": (lambda: model([node("Expand", "c s", "e"), node("Neg", "e", "r"), node("Add", "x r", "y")],
                                    {"c": W(1), "s": ints(1 << 20, 1 << 20)}), "asks for more memory"),
    "a huge sum": (lambda: huge("Add", W(1 << 12, 1), W(1, 1 << 12)), "asks for more memory"),
    "a huge choice": (lambda: huge("Gather", W(1, 1 << 12), np.zeros(1 << 12, np.int64)),
                      "node 'r_Gather' .*asks for more memory"),
    "a huge cast": (lambda: model([node("ConstantOfShape", "c", "r"), node("Cast", "r", "f", to=11),
                                   node("Add", "x f", "y")], {"c": ints(1 << 30)}), "asks for more memory"),
    "a huge product": (lambda: model([node("ConstantOfShape", "c", "r"), node("ReduceProd", "r", "p"),
                                      node("Add", "x p", "y")], {"c": ints(1 << 20, 1 << 20)}), "asks for more memory"),
    "a huge matrix": (lambda: model([node("ConstantOfShape", "c", "w"), node("MatMul", "x w", "y")],
                                    {"c": ints(7, 1 << 30)}, {"x": (1, 7)}), "asks for more memory"),
    "one weight for many layers": (lambda: model(
        [node("Conv", "x w", f"c{i}", pads=[i, 0, 0, 0]) for i in range(1, 400)] +
        [node("Concat", " ".join(f"c{i}" for i in range(1, 400)), "y", axis=2)], {"w": W(300, 30, 3, 3)},
        {"x": (1, 30, 3, 3)}), "asks for more memory"),
    "a resize to a huge image": (lambda: single("Resize", None, np.float32([1, 1, 1 << 30, 1])),
                                 "asks for more memory"),
    "very many parts": (lambda: model(
        [node("Split", "x", (many := " ".join(map(str, range(30_000)))), axis=1), node("Concat", many, "y", axis=1)],
        inputs={"x": (1, 30_000)}), r"node '0_Split' \(Split\): it asks for more memory"),
    "many empty nodes": (lambda: field(7, b"\x0a\x00" * 10**6), "file: it asks for more memory"),
    "many empty names": (lambda: field(7, field(1, b"\x0a\x00" * 2 * 10**6)), "file: it asks for"),
    "many small numbers": (lambda: field(7, field(5, field(7, b"\1" * 10**7))), "file: it asks for"),
    "too many nodes": (lambda: chain(20_001), "expected at most 20000 nodes, got 20001"),
}


def parts(*constants: Any, **attributes: Any) -> bytes:
    """x split into y and z."""
    opset = attributes.pop("opset", 18)
    named = {f"c{i}": array for i, array in enumerate(constants)}
    return model([node("Split", " ".join(["x", *named]), "y z", **attributes)], named, opset=opset)


def chain(length: int) -> bytes:
    """One activation after the other, written without onnx.helper, which is slow."""
    nodes = (field(1, field(1, b"v%d" % i if i else b"x"), field(2, b"v%d" % (i + 1) if i < length - 1 else b"y"),
                   field(4, b"Relu")) for i in range(length))
    dims = b"".join(field(1, b"\x08" + varint(size)) for size in (1, 3))
    value = field(2, field(1, b"\x08\x01", field(2, dims)))
    return b"\x08\x08" + field(7, b"".join(nodes), field(11, field(1, b"x"), value), field(12, field(1, b"y"))) \
        + field(8, b"\x10\x12")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name: str) -> None:
    """A FormatError that names the file and the place."""
    make, message = BROKEN[name]
    data = make()
    traced = len(data) < 1 << 20  # tracing is slow
    if traced:
        tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as found:
            fastlrp.from_onnx(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(found.value).startswith("<bytes>: ") and len(str(found.value)) < 1000
    assert peak < 4 * len(data) + (64 << 20)


def test_deep_graphs() -> None:
    """No recursion anywhere: thousands of layers in a row."""
    net = fastlrp.from_onnx(chain(5000))
    assert len(net.layers) == 5000
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(net.forward(x), np.maximum(x, 0))


# ---- what is not supported ----

UNSUPPORTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "an unknown operator": (lambda: single("Foo"), r"Foo \(node 'y_Foo'\)$"),
    "an operator of another domain": (lambda: single("FusedConv", W(4, 3, 3, 3), domain="com.microsoft"),
                                      r"com.microsoft.FusedConv \(node"),
    "a loop": (lambda: model([helper.make_node("Loop", ["", "", "x"], ["y"], name="l", body=proto([]).graph)]),
               r"Loop \(node 'l'\): it has a subgraph"),
    "quantised": (lambda: single("DequantizeLinear", np.float32(0.1)), r"DequantizeLinear \(node"),
    "a recurrent layer": (lambda: single("LSTM", W(1, 8, 3), W(1, 8, 2), shape=(4, 3), hidden_size=2), r"LSTM \(node"),
    "a convolution in 3-D": (lambda: single("Conv", W(4, 3, 2, 2, 2), shape=(3, 4, 4, 4)),
                             r"Conv \(node 'y_Conv'\): a convolution over 3 axes: only 1 and 2"),
    "computed weights": (lambda: model([node("Conv", "x x", "y")]), "weights that depends on the network's input"),
    "a product of matrices": (lambda: model([node("MatMul", "x x", "y")]), "MatMul"),
    "a matrix on images": (lambda: single("MatMul", W(5, 2)), r"a matrix product on samples of shape \(3, 6, 5\)"),
    "a dilated mean": (lambda: single("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[2, 2]),
                       "dilations .*: only 1"),
    "indices of a pool": (lambda: model([node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Flatten", "i", "y")]),
                          "MaxPool .* its output 'i': only the first one"),
    "a norm in training": (lambda: single("BatchNormalization", W(3), W(3), W(3), abs(W(3)), training_mode=1),
                           "training_mode: only evaluation"),
    "a transposed batch": (lambda: single("Gemm", W(7, 4), shape=(7,), transA=1), "transA"),
    "a mean over rows": (lambda: single("ReduceMean", ints(2)), "a mean over axes .*: only over all spatial axes"),
    "a sum over pixels": (lambda: single("ReduceSum", ints(2, 3)),
                          "ReduceSum .*: on values that depend on the network's input"),
    "a softmax inside": (lambda: model([node("Softmax", "x", "s"), node("Relu", "s", "y")]),
                         r"Softmax \(node 's_Softmax'\): only as the last operation"),
    "a softmax over the batch": (lambda: single("Softmax", shape=(4,), axis=0), "Softmax .*: over the batch"),
    "a logsoftmax over the batch": (lambda: single("LogSoftmax", shape=(4,), axis=-2, opset=13), "over the batch"),
    "an old softmax over the batch": (lambda: single("Softmax", shape=(4,), axis=0, opset=11), "over the batch"),
    **{f"the batch's size in {name}": (lambda nodes=nodes: sized(*nodes),
                                       r"\(node 'y_.*'\): a number that depends on the size of the batch")
       for name, nodes in {
           "a quotient": [node("Div", "x n", "y")], "a sum": [node("Add", "n x", "y")],
           "a bound": [node("Clip", "x - n", "y")], "a difference": [node("Sub", "x n", "y")],
           "a root": [node("Sqrt", "n", "r"), node("Mul", "x r", "y")],
           "a reciprocal": [node("Reciprocal", "n", "r"), node("Mul", "r x", "y")],
           "a remainder": [node("Mod", "n seven", "r", fmod=1), node("Mul", "r x", "y")],
           "a branch": [node("Less", "n seven", "l"), node("Where", "l seven n", "r"), node("Mul", "r x", "y")],
       }.items()},
    "a clip to a number": (lambda: single("Clip", np.float32(1), np.float32(1)), r"Clip .*: bounds 1 and 1"),
    "a clip to nothing": (lambda: single("Clip", np.float32(1), np.float32(0)), r"Clip .*: bounds 1 and 0"),
    "a clip to infinity": (lambda: single("Clip", np.float32(np.inf)), r"Clip .*: bounds inf and inf"),
    "a constant that is no number": (lambda: single("Add", np.float32(np.nan)), "the constant nan: only finite"),
    "a division by 0": (lambda: single("Div", np.float32(0)), r"Div .*: the constant inf: only finite"),
    "a division by zeros": (lambda: single("Div", np.zeros((3, 1, 1), np.float32)), "constants that are not finite"),
    "an input that nobody reads": (lambda: model([node("Relu", "x", "y")], inputs={"x": (1, 3), "z": (1, 2)}),
                                   r"Input \(node 'z'\): no output depends on it"),
    "a part of GELU": (lambda: model([node("Erf", "x", "y")]), "only as a part of GELU"),
    "another part of GELU": (lambda: formula_of_erf(), r"Erf \(node 'e_Erf'\): only as a part of GELU"),
    "GELU of another value": (lambda: model(
        [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Relu", "x", "r"),
         node("Mul", "r a", "y")], {"root": np.float32(2**0.5), "one": np.float32(1)}), "only as a part of GELU"),
    "GELU of a shifted value": (lambda: model(
        [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Add", "x one", "r"),
         node("Mul", "r a", "m"), node("Mul", "m half", "y")],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}), "only as a part of GELU"),
    "slopes of columns": (lambda: single("PRelu", W(3), shape=(3, 6, 3)), "only one for each channel"),
    "a dropout in training": (lambda: single("Dropout", np.float32(0.5), np.array(True)), "training_mode"),
    "a square": (lambda: model([node("Mul", "x x", "y")]), "a product of two values of which neither is a gate"),
    "a quotient": (lambda: model([node("Div", "x x", "y")]), "a divisor that depends on the network's input"),
    "one over a value": (lambda: model([node("Div", "c x", "y")], {"c": W(1)}), "Div"),
    "a part of the batch": (lambda: single("Slice", ints(0), ints(1)),
                            r"Slice \(node 'y_Slice'\): a part of the batch"),
    "the last samples": (lambda: single("Slice", ints(-2), ints(1 << 62), ints(0), n=4),
                         "Slice .*: a part of the batch"),
    "every second sample": (lambda: single("Slice", ints(0), ints(1 << 62), ints(0), ints(2)), "a part of the batch"),
    "as many channels as samples": (lambda: model(
        [node("Shape", "x", "s"), node("Slice", "s zero one", "n"), node("Slice", "x zero n one", "y")],
        {"zero": ints(0), "one": ints(1)}), r"\(node 'y_Slice'\): a number that depends on the size of the batch"),
    "channels backwards": (lambda: single("Slice", ints(-1), ints(-10), ints(1), ints(-1)), "a step of -1: only of at"),
    "no channels": (lambda: single("Slice", ints(3), ints(9), ints(1)), "Slice .*: nothing of 3 places along axis 1"),
    "a sample of the batch": (lambda: single("Gather", np.array(0)),
                              r"Gather \(node 'y_Gather'\): a part of the batch"),
    "channels in any order": (lambda: single("Gather", ints(0, 2, 1), axis=1), "indices that do not rise in even step"),
    "a channel twice": (lambda: single("Gather", ints(1, 1), axis=1), "indices that do not rise in even steps"),
    "no channel": (lambda: single("Gather", ints(), axis=1), r"indices of shape \(0,\): only one number, or several"),
    "a table of channels": (lambda: single("Gather", ints(0, 1).reshape(1, 2), axis=1), r"indices of shape \(1, 2\)"),
    "more channels than there are": (
        lambda: model([node("ConstantOfShape", "c", "f"), node("Cast", "f", "i", to=7),
                       node("Gather", "x i", "y", axis=1)], {"c": ints(1 << 20)}),
        r"indices of shape \(1048576,\)"),
    "far more channels than there are": (
        lambda: model([node("ConstantOfShape", "c", "i", value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
                       node("Gather", "x i", "y", axis=1)], {"c": ints(FAR)}),
        r"indices of shape \(1099511627776,\)"),
    "computed indices": (lambda: model([node("Gather", "c x", "y")], {"c": W(3)}), "Gather .*: a constant input"),
    "parts of the batch": (lambda: single("Split", num_outputs=1), r"Split \(node 'y_Split'\): parts of the batch"),
    "an empty part": (lambda: parts(ints(0, 3), axis=1), "Split .*: nothing of 3 places along axis 1"),
    "parts of constants": (lambda: model([node("Split", "c", "a b", num_outputs=2), node("Add", "x a", "y")],
                                         {"c": W(6, 5)}), "Split .*: on constants alone"),
    "parts by the batch's size": (lambda: model(
        [node("Shape", "x", "s"), node("Slice", "s zero two", "n"), node("Split", "x n", "y z", axis=1)],
        {"zero": ints(0), "two": ints(2)}), r"\(node 'y_Split'\): a number that depends on the size of the batch"),
    "a reflecting pad": (lambda: single("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), "mode 'reflect'"),
    "a pad of channels": (lambda: single("Pad", ints(0, 1, 0, 0, 0, 0, 0, 0)), "only around spatial axes"),
    "a pad that cuts": (lambda: single("Pad", ints(0, 0, -1, 0, 0, 0, 0, 0)), "none that cut off"),
    "a linear resize": (lambda: single("Resize", None, np.float32([1, 1, 2, 2]), mode="linear"), "mode 'linear'"),
    "a resize to fractions": (lambda: single("Resize", None, np.float32([1, 1, 1.5, 2])),
                              "only 'nearest' with whole numbers"),
    "a resize to other neighbours": (lambda: single("Resize", None, np.float32([1, 1, 3, 3]), nearest_mode="ceil"),
                                     "nearest neighbours other than every pixel repeated"),
    "a resize of channels": (lambda: single("Resize", None, np.float32([1, 2, 1, 1])), "only of spatial axes"),
    "a flattened batch": (lambda: single("Flatten", axis=0), "it mixes the batch with other axes"),
    "a batch among other axes": (lambda: single("Reshape", ints(3, -1)), "mixes the batch with other axes"),
    "a batch that moves": (lambda: single("Transpose", perm=[1, 0, 2, 3]), "mixes the batch with others"),
    "a batch of channels": (lambda: model(
        [node("Shape", "x", "s"), node("Slice", "s zero two", "nc"), node("ReduceProd", "nc zero", "p"),
         node("Concat", "p rest", "to", axis=0), node("Reshape", "x to", "y")],
        {"zero": ints(0), "two": ints(2), "rest": ints(-1)}), "mixes the batch"),
    "batches side by side": (lambda: model([node("Concat", "x x", "y", axis=0)]), "concatenation along the batch"),
    "values by side of constants": (lambda: model([node("Concat", "x c", "y", axis=1)], {"c": W(2, 3, 6, 5)}),
                                    "a constant operand"),
    "other constants for each sample": (lambda: single("Add", W(2, 3, 6, 5), n=2), "the same for all samples"),
    "a constant beyond the value": (lambda: single("Add", W(3, 6, 5), shape=(3, 1, 1)), "does not broadcast"),
    "values that broadcast": (lambda: model([node("Add", "x z", "y")], inputs={"x": (1, 3, 6, 5), "z": (1, 3, 6, 1)}),
                              "spread to"),
    "an output of a constant": (lambda: model([node("Identity", "c", "y")], {"c": W(2)}),
                                r"Output \(node 'y'\): it does not depend on an input"),
    "a convolution of constants": (lambda: model([node("Conv", "c w", "d"), node("Add", "x d", "y")],
                                                 {"c": W(1, 3, 6, 5), "w": W(3, 3, 1, 1)}), "on constants alone"),
    "whole numbers as input": (lambda: model([node("Relu", "x", "y")], dtype=TensorProto.INT64),
                               r"Input \(node 'x'\): values of type 7"),
    "an attribute that no one knows": (lambda: single("Relu", slope=2.0), r"with the attributes .*slope"),
}


def sized(*nodes: Any) -> bytes:
    """x and n, the size of the batch as a float."""
    return model([node("Shape", "x", "s"), node("Gather", "s zero", "b"), node("Cast", "b", "n", to=1), *nodes],
                 {"zero": np.array(0), "seven": np.float32(7)})


def formula_of_erf() -> bytes:
    return model([node("Div", "x root", "d"), node("Erf", "d", "e"), node("Relu", "e", "y")],
                 {"root": np.float32(2**0.5)})


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operators(name: str) -> None:
    """The error names the operator, its node, what is wrong with it, and what is supported."""
    make, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedError) as found:
        fastlrp.from_onnx(make())
    first, *nodes, supported = str(found.value).split("\n")
    assert first == f"<bytes>: {len(nodes)} unsupported operator{'s'[:len(nodes) > 1]}:"
    assert any(re.search(message, line) for line in nodes), found.value
    assert supported.startswith("  Supported are: Abs, Add, ") and "Conv, " in supported


def test_all_unsupported_operators_are_named_at_once() -> None:
    """Also those that read what another one should have made, and those in parallel branches; others are not."""
    data = model([node("Foo", "x", "a"), node("Relu", "a", "b"), node("Bar", "b", "c"),
                  node("Conv", "x w", "d", dilations=[1, 1]), node("Softmax", "x", "e", axis=1),
                  node("Concat", "c d e", "y", axis=1)], {"w": W(4, 3, 3, 3)})
    with pytest.raises(UnsupportedError) as found:
        fastlrp.from_onnx(data)
    named = [line.split(" (node")[0].strip() for line in str(found.value).split("\n")[1:-1]]
    assert sorted(named) == ["Bar", "Foo", "Softmax"]


# ---- external data ----

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its weights in "data.bin" beside it."""
    (tmp_path / "model").mkdir()
    loaded = onnx.load_model_from_string(conv())
    onnx.save_model(loaded, str(tmp_path / "model" / "model.onnx"), save_as_external_data=True, location="data.bin",
                    size_threshold=0)
    (tmp_path / "outside.bin").write_bytes(bytes(432))
    return tmp_path / "model"


def relocate(folder: Path, **entries: Any) -> None:
    """Change what the model says about its external data."""
    path = folder / "model.onnx"
    loaded = onnx.load(str(path), load_external_data=False)
    tensor = loaded.graph.initializer[0]
    found = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in found.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(loaded.SerializeToString())


def test_external_data(folder: Path) -> None:
    """From the model's folder, also by a path that starts elsewhere."""
    x = batch(3, 6, 5)
    expected = fastlrp.from_onnx(conv()).forward(x)
    np.testing.assert_array_equal(fastlrp.from_onnx(folder / "model.onnx").forward(x), expected)
    (folder / "parts").mkdir()
    (folder / "data.bin").rename(folder / "parts" / "data.bin")
    relocate(folder, location="parts/data.bin")
    np.testing.assert_array_equal(fastlrp.from_onnx(folder / "model.onnx").forward(x), expected)


def test_external_data_from_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a folder."""
    monkeypatch.chdir(folder)
    assert fastlrp.from_onnx("model.onnx").layers


OUTSIDE = {"..": "../outside.bin", "within a path": "a/../../outside.bin", "absolute": "{outside}", "nothing": "",
           "backslashes": "..\\outside.bin", "a drive": "C:outside.bin", "a null": "data.bin\0", "the folder": ".",
           "not there": "other.bin", "a folder": "empty", "a pipe": "pipe", "a link": "link.bin",
           "a link inside": "inside.bin", "a link to a folder": "linked/outside.bin", "a hard link": "hard.bin"}


@pytest.mark.parametrize("name", OUTSIDE)
def test_external_data_elsewhere_is_refused(name: str, folder: Path) -> None:
    """Only regular files inside the model's folder, by no link."""
    outside = folder.parent / "outside.bin"
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link.bin").symlink_to(outside)
    (folder / "inside.bin").symlink_to(folder / "data.bin")
    (folder / "linked").symlink_to(folder.parent)
    (folder.parent / "other.bin").write_bytes(bytes(432))
    (folder / "hard.bin").hardlink_to(folder.parent / "other.bin")
    relocate(folder, location=OUTSIDE[name].format(outside=outside))
    with pytest.raises(FormatError, match=r"initializer 'c0': its data is in '.*(relative path|link|read|one name)"):
        fastlrp.from_onnx(folder / "model.onnx")


@pytest.mark.parametrize(("entries", "message"), [
    ({"offset": 1}, "bytes 1 to 433 of 'data.bin', which has 432"), ({"offset": 1 << 50}, "which has 432"),
    ({"length": 431}, "expected 432 bytes"), ({"length": 1 << 50}, "expected 432 bytes"),
    ({"offset": -4}, "offset: expected a whole number, got '-4'"), ({"offset": "1e3"}, "expected a whole number"),
    ({"offset": "9" * 5000}, "expected a whole number"), ({"location": None}, "expected the relative path"),
])
def test_external_data_that_is_not_there(entries: dict[str, Any], message: str, folder: Path) -> None:
    """Sizes are checked against the file."""
    relocate(folder, **entries)
    with pytest.raises(FormatError, match=message):
        fastlrp.from_onnx(folder / "model.onnx")


def test_external_data_of_absurd_size(folder: Path) -> None:
    """No more than the file has is ever asked for."""
    path = folder / "model.onnx"
    loaded = onnx.load(str(path), load_external_data=False)
    loaded.graph.initializer[0].dims[0] = FAR
    path.write_bytes(loaded.SerializeToString())
    relocate(folder, length=None)
    with pytest.raises(FormatError, match="which has 432"):
        fastlrp.from_onnx(path)


def test_bytes_have_no_external_data(folder: Path) -> None:
    """They have no folder."""
    with pytest.raises(FormatError, match=r"initializer 'c0': .* bytes have no folder: give the model's path"):
        fastlrp.from_onnx((folder / "model.onnx").read_bytes())


# ---- arguments, the package ----

def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    """OSError, as from open; TypeError for what is no path."""
    with pytest.raises(FileNotFoundError):
        fastlrp.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(OSError):
        fastlrp.from_onnx(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="not a regular file"):
        fastlrp.from_onnx(tmp_path / "pipe")
    with pytest.raises(TypeError, match="path must be a path or bytes, got 5"):
        fastlrp.from_onnx(5)  # type: ignore[arg-type]


def test_the_file_is_named(tmp_path: Path) -> None:
    """In every message."""
    path = tmp_path / "broken.onnx"
    for data in (b"", b"no", conv(strides=[0, 0]), single("Foo")):
        path.write_bytes(data)
        with pytest.raises(FormatError) as found:
            fastlrp.from_onnx(path)
        assert str(found.value).startswith(f"{path}: ")


def test_without_the_package_onnx(tmp_path: Path) -> None:
    """ImportError says what to install; importing fastlrp needs it not."""
    done = run_python("import sys; sys.modules['onnx'] = None\nimport fastlrp\n"
                      "try: fastlrp.from_onnx(b'x')\nexcept ImportError as error: print(error)")
    assert 'pip install "fastlrp[onnx]"' in done.stdout, done.stderr


# ---- fuzzing ----

def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, cut, doubled or put elsewhere."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(out)))
        kind = rng.integers(5)
        if kind == 0:
            out[at] = rng.integers(256)
        elif kind == 1:
            out[at] ^= 1 << rng.integers(8)
        elif kind == 2:
            del out[at:at + int(rng.integers(1, 9))]
        elif kind == 3:
            out[at:at] = out[at:at + int(rng.integers(1, 40))]
        else:
            out[at:at + 1] = bytes(rng.choice([0x7f, 0x80, 0xff, 0], 8).astype(np.uint8))
    return bytes(out)


NUMBERS = [0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, 1 << 40, -(1 << 63), (1 << 63) - 1]
WORDS = ["", "x", "y", "c", "w", "Relu", "Add", "Mul", "Conv", "MatMul", "Reshape", "Shape", "Gather", "Flatten",
         "Concat", "Slice", "Split", "Resize", "Softmax", "Constant", "Expand", "If", "SAME_LOWER", "..", "axis",
         "é" * 200]


def reshaped(data: bytes, rng: np.random.Generator) -> bytes:
    """A few fields of a model's messages set to something else, taken out, or put in twice."""
    loaded = onnx.load_model_from_string(data)
    for _ in range(rng.integers(1, 4)):
        message = loaded
        while True:
            fields = message.ListFields()
            if not fields:
                break
            kind, value = fields[rng.integers(len(fields))]
            repeated = not isinstance(value, (int, float, str, bytes)) and not hasattr(value, "ListFields")
            at = int(rng.integers(len(value))) if repeated else 0
            if repeated and rng.random() < 0.15:
                del value[at]
                break
            if repeated and rng.random() < 0.1 and len(value) < 100:
                value.extend([value[at]])
                break
            if kind.message_type is None:
                new = _other(value[at] if repeated else value, rng)
                with contextlib.suppress(ValueError):  # where a field has fewer bits
                    if repeated:
                        value[at] = new
                    else:
                        setattr(message, kind.name, new)
                break
            message = value[at] if repeated else value
    return loaded.SerializeToString()


def _other(value: Any, rng: np.random.Generator) -> Any:
    """Another value of the same type."""
    if isinstance(value, int):
        return value + int(rng.integers(-2, 3)) if rng.random() < 0.5 else NUMBERS[rng.integers(len(NUMBERS))]
    if isinstance(value, float):
        return float(rng.choice([0, -1, 1e-30, 1e30, np.nan, np.inf]))
    word = WORDS[rng.integers(len(WORDS))]
    return word if isinstance(value, str) else value[:int(rng.integers(1 + len(value)))] + word.encode()


MUTATIONS = [mutated, reshaped]

FUZZED = {
    "images": spatial_model(),
    "formulas": model(
        [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axis", "u"),
         node("Concat", "u rest", "to", axis=0), node("BatchNormalization", "x s3 s3 s3 s3", "b"),
         node("Sigmoid", "b", "g"), node("Mul", "b g", "m"), node("Resize", "m - scales", "r"), node("Add", "r r", "a"),
         node("Reshape", "a to", "y")],
        {"zero": np.array(0), "axis": ints(0), "rest": ints(-1), "s3": np.float32([1, 2, 3]),
         "scales": np.float32([1, 1, 2, 2])}),
    "rows": model(
        [node("ConstantOfShape", "shape", "c", value=helper.make_tensor("v", 1, [1], [2.0])), node("Mul", "x c", "a"),
         node("Conv", "a w", "b", auto_pad="SAME_UPPER"),
         node("AveragePool", "b", "p", kernel_shape=[2], strides=[2]), node("Transpose", "p", "t", perm=[0, 2, 1]),
         node("Flatten", "t", "y")],
        {"shape": ints(3, 1), "w": W(2, 3, 3)}, {"x": ("N", 3, 8)}),
    "parts": model(
        [node("Split", "x", "a b c", axis=2, num_outputs=3), node("Slice", "b one end last two", "d"),
         node("Gather", "d one", "e", axis=1), node("Split", "d sizes", "f g", axis=1),
         node("Concat", "g e f", "y", axis=1)],
        {"one": ints(1), "two": ints(2), "end": ints(5), "last": ints(-1), "sizes": ints(1, 2)}),
}


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.parametrize("name", FUZZED)
def test_mutated_files(name: str, mutate: Callable[[bytes, np.random.Generator], bytes]) -> None:
    """Networks or documented errors, nothing else; FASTLRP_FUZZ says how many files."""
    count = int(os.environ.get("FASTLRP_FUZZ", "300"))
    rng = np.random.default_rng(sum(name.encode()))
    loaded = 0
    for _ in range(count):
        data = mutate(FUZZED[name], rng)
        try:
            net = fastlrp.from_onnx(data)
        except FormatError as error:
            assert str(error).startswith("<bytes>: ")
        else:
            loaded += 1
            assert net.layers
    assert 0 < loaded < count


@pytest.mark.parametrize("name", FUZZED)
def test_files_cut_at_every_byte(name: str) -> None:
    """No part of a file is taken for the whole, but where what is cut off says nothing."""
    data = FUZZED[name]
    for end in itertools.chain(range(0, len(data), 1 + len(data) // 400), range(len(data) - 30, len(data))):
        with pytest.raises(FormatError):
            fastlrp.from_onnx(data[:end])
