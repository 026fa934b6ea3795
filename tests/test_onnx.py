"""Networks from ONNX: every operator against ONNX's reference, layouts, names, shared layers, constants."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import relative_error

pytest.importorskip("onnx")

from onnx_models import batch, evaluate, model, node, single, spatial_model, weights

import fastlrp

W = weights
INT = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, INT)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# name: (model, shapes of one sample of its inputs); the reference says what comes out
OPERATORS: dict[str, Callable[[], bytes]] = {
    "conv": lambda: single("Conv", W(4, 3, 3, 3)),
    "conv with bias, stride, pads": lambda: single("Conv", W(4, 3, 3, 2), W(4), strides=[2, 1], pads=[1, 0, 2, 1]),
    "conv dilated, kernel_shape": lambda: single("Conv", W(4, 3, 2, 3), dilations=[3, 2], kernel_shape=[2, 3]),
    "conv in groups": lambda: single("Conv", W(6, 1, 3, 3), W(6), group=3, pads=[1, 1, 1, 1]),
    "conv same upper": lambda: single("Conv", W(4, 3, 2, 4), auto_pad="SAME_UPPER", strides=[2, 1]),
    "conv same lower": lambda: single("Conv", W(4, 3, 2, 4), auto_pad="SAME_LOWER", strides=[1, 2]),
    "conv valid": lambda: single("Conv", W(4, 3, 2, 2), auto_pad="VALID"),
    "conv over one axis": lambda: single("Conv", W(4, 3, 3), W(4), shape=(3, 9), strides=[2], pads=[1, 2]),
    "gemm": lambda: single("Gemm", W(7, 4), W(4), shape=(7,)),
    "gemm transB": lambda: single("Gemm", W(4, 7), W(4), shape=(7,), transB=1),
    "gemm without C": lambda: single("Gemm", W(4, 7), shape=(7,), transB=1),
    "gemm alpha, beta": lambda: single("Gemm", W(7, 4), W(1, 4), shape=(7,), alpha=0.5, beta=-2.0),
    "gemm one C for all": lambda: single("Gemm", W(7, 4), W(1), shape=(7,)),
    "matmul": lambda: single("MatMul", W(7, 4), shape=(7,)),
    "matmul and add": lambda: model([node("MatMul", "x w", "m"), node("Add", "b m", "y")], {"w": W(7, 4), "b": W(4)},
                                    {"x": ("N", 7)}),
    "batch norm": lambda: single("BatchNormalization", W(3), W(3), W(3), abs(W(3)), epsilon=1e-3),
    "batch norm on features": lambda: single("BatchNormalization", W(7), W(7), W(7), abs(W(7)), shape=(7,)),
    "batch norm over one axis": lambda: single("BatchNormalization", W(3), W(3), W(3), abs(W(3)), shape=(3, 9)),
    "max pool": lambda: single("MaxPool", kernel_shape=[3, 2]),
    "max pool strides, pads": lambda: single("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max pool ceil": lambda: single("MaxPool", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "max pool dilated": lambda: single("MaxPool", kernel_shape=[2, 2], dilations=[3, 2], pads=[1, 0, 1, 0]),
    "max pool same": lambda: single("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "max pool over one axis": lambda: single("MaxPool", shape=(3, 9), kernel_shape=[3], strides=[2]),
    "average pool": lambda: single("AveragePool", kernel_shape=[3, 2]),
    "average pool pads": lambda: single("AveragePool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 2, 1]),
    "average pool pads counted": lambda: single("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 2, 1],
                                                count_include_pad=1),
    "average pool ceil": lambda: single("AveragePool", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "average pool same lower": lambda: single("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    "global average pool": lambda: single("GlobalAveragePool"),
    "global average pool over one axis": lambda: single("GlobalAveragePool", shape=(3, 9)),
    "global max pool": lambda: single("GlobalMaxPool"),
    "mean": lambda: single("ReduceMean", ints(2, 3)),
    "mean, axes in an attribute": lambda: single("ReduceMean", opset=17, axes=[-1, -2], keepdims=0),
    "mean over one axis": lambda: single("ReduceMean", ints(2), shape=(3, 9), keepdims=0),
    "relu": lambda: single("Relu"),
    "leaky relu": lambda: single("LeakyRelu", alpha=0.3),
    "prelu": lambda: single("PRelu", W(3, 1, 1)),
    "prelu of one number": lambda: single("PRelu", W(1)),
    "prelu on features": lambda: single("PRelu", W(7), shape=(7,)),
    "prelu over one axis": lambda: single("PRelu", W(3, 1), shape=(3, 9)),
    "elu": lambda: single("Elu", alpha=0.7),
    "selu": lambda: single("Selu"),
    "sigmoid": lambda: single("Sigmoid"),
    "tanh": lambda: single("Tanh"),
    "softplus": lambda: single("Softplus"),
    "hard sigmoid": lambda: single("HardSigmoid"),
    "hard sigmoid as in pytorch": lambda: single("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard swish": lambda: single("HardSwish"),
    "gelu": lambda: single("Gelu", opset=20),
    "gelu tanh": lambda: single("Gelu", opset=20, approximate="tanh"),
    "mish": lambda: single("Mish"),
    "abs": lambda: single("Abs"),
    "clip": lambda: single("Clip", floats(-0.5).reshape(()), floats(0.25).reshape(())),
    "clip as relu6": lambda: single("Clip", opset=9, min=0.0, max=6.0),
    "clip above alone": lambda: single("Clip", None, floats(0.25).reshape(())),
    "max with a number": lambda: single("Max", floats(0.1)),
    "min with a number": lambda: single("Min", floats(0.1)),
    "add a number": lambda: single("Add", floats(0.5)),
    "add a channel's": lambda: single("Add", W(3, 1, 1)),
    "add an image": lambda: single("Add", W(1, 3, 6, 5)),
    "add a row of channels": lambda: single("Add", W(3, 1, 5)),
    "add a row": lambda: single("Add", W(5)),
    "add on features": lambda: single("Add", W(7), shape=(7,)),
    "sub": lambda: single("Sub", W(3, 1, 1)),
    "constant minus value": lambda: model([node("Sub", "c x", "y")], {"c": W(3, 1, 1)}),
    "neg": lambda: single("Neg"),
    "mul": lambda: single("Mul", W(3, 1, 1)),
    "mul a column": lambda: single("Mul", W(6, 1)),
    "div": lambda: single("Div", floats(4.0)),
    "flatten": lambda: single("Flatten"),
    "reshape": lambda: single("Reshape", ints(-1, 90)),
    "reshape to an image": lambda: single("Reshape", ints(0, 2, -1, 3), shape=(12,)),
    "reshape, sizes kept": lambda: single("Reshape", ints(0, 0, -1)),
    "transpose": lambda: single("Transpose", perm=[0, 2, 3, 1]),
    "transpose of three axes": lambda: single("Transpose", perm=[0, 2, 1], shape=(3, 9)),
    "squeeze": lambda: single("Squeeze", ints(2, -1), shape=(3, 1, 1)),
    "squeeze all": lambda: single("Squeeze", shape=(3, 1, 1)),
    "squeeze, axes in an attribute": lambda: single("Squeeze", shape=(3, 1, 4), opset=11, axes=[2]),
    "unsqueeze": lambda: single("Unsqueeze", ints(2, 3), shape=(7,)),
    "unsqueeze, axes in an attribute": lambda: single("Unsqueeze", shape=(7,), opset=11, axes=[1]),
    "expand": lambda: single("Expand", ints(1, 3, 4, 2), shape=(3, 1, 1)),
    "slice of everything": lambda: single("Slice", ints(0), ints(100), ints(2)),
    "slice": lambda: single("Slice", ints(1), ints(3), ints(1)),
    "slice of several axes": lambda: single("Slice", ints(1, -4, 0), ints(1 << 62, -1, 4), ints(1, 2, -1),
                                            ints(1, 2, 3)),
    "slice without axes": lambda: single("Slice", ints(0, 1), ints(1 << 40, 2)),
    "slice by attributes": lambda: single("Slice", opset=9, starts=[0, 2], ends=[2, 100], axes=[1, -2]),
    "slice by attributes without axes": lambda: single("Slice", opset=9, starts=[0, 0, 2], ends=[1 << 31, 3, -1]),
    "slice of rows of features": lambda: single("Slice", ints(3), ints(-1), ints(-1), ints(2), shape=(9,)),
    "slice of lengths": lambda: single("Slice", ints(3), ints(8), ints(2), shape=(3, 9)),
    "slice of five axes": lambda: single("Slice", ints(1), ints(2), ints(2), shape=(2, 3, 2, 3)),
    "gather": lambda: single("Gather", np.array(1), axis=1),
    "gather from the end": lambda: single("Gather", np.array(-2, np.int32), axis=-1),
    "gather of a row": lambda: single("Gather", ints(0), axis=1),
    "gather in steps": lambda: single("Gather", ints(0, 2, 4), axis=3),
    "gather of features": lambda: single("Gather", ints(-4, -3, -2), axis=1, shape=(7,)),
    "gather of everything": lambda: single("Gather", ints(0, 1, -1), axis=1),
    "pad": lambda: single("Pad", ints(0, 0, 1, 2, 0, 0, 0, 3)),
    "pad with a value, axes": lambda: single("Pad", ints(1, 2), floats(0.5).reshape(()), ints(3)),
    "pad by an attribute": lambda: single("Pad", opset=10, pads=[0, 0, 1, 2, 0, 0, 0, 3], value=-1.0),
    "pad over one axis": lambda: single("Pad", ints(0, 0, 1, 0, 0, 2), shape=(3, 9)),
    "upsample": lambda: single("Upsample", floats(1, 1, 2, 3), opset=9),
    "resize by scales": lambda: single("Resize", None, floats(1, 1, 2, 3), mode="nearest", nearest_mode="floor",
                                       coordinate_transformation_mode="asymmetric"),
    "resize by scales, half pixels": lambda: single("Resize", None, floats(1, 1, 3, 2)),
    "resize that prefers the floor": lambda: single("Resize", None, floats(1, 1, 2, 2),
                                                    coordinate_transformation_mode="asymmetric"),
    "resize by sizes": lambda: single("Resize", None, None, ints(2, 3, 12, 15), n=2),
    "resize by sizes of axes": lambda: single("Resize", None, None, ints(12, 15), axes=[2, 3]),
    "resize of axes": lambda: single("Resize", None, floats(2, 4), axes=[3, 2], nearest_mode="floor",
                                     coordinate_transformation_mode="asymmetric"),
    "resize of one pixel, linear": lambda: single("Resize", None, floats(1, 1, 4, 3), mode="linear", shape=(3, 1, 1)),
    "dropout": lambda: single("Dropout"),
    "dropout, opset 10": lambda: single("Dropout", opset=10, ratio=0.3),
    "identity": lambda: single("Identity"),
    "cast": lambda: single("Cast", to=1),
}


def samples(data: bytes, n: int = 2) -> list[np.ndarray]:
    """A batch for each input of a model."""
    import onnx
    infos = onnx.load_model_from_string(data).graph.input
    return [batch(*(dim.dim_value for dim in info.type.tensor_type.shape.dim[1:]), n=n, seed=i)
            for i, info in enumerate(infos, 1)]


def check(data: bytes, n: int = 2, within: float = 1e-5) -> fastlrp.Network:
    """The network of a model, whose outputs are the reference's."""
    net = fastlrp.from_onnx(data)
    x = samples(data, n)
    found = net.forward(x if len(x) > 1 else x[0])
    expected = evaluate(data, *x)
    for one, other in zip(found if len(expected) > 1 else [found], expected, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) < within
    return net


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_those_of_the_reference(name: str) -> None:
    """Values and shapes, in the file's layout."""
    check(OPERATORS[name]())


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20, 21, 23])
def test_operator_sets(opset: int) -> None:
    """The same network in the operator sets since 9."""
    nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("BatchNormalization", "c s s s v", "n"),
             node("Relu", "n", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"),
             node("Gemm", "f m b", "y")]
    constants = {"w": W(4, 3, 3, 3), "s": W(4), "v": abs(W(4)), "m": W(4, 3), "b": W(3)}
    x = batch(3, 6, 5)
    found = fastlrp.from_onnx(model(nodes, constants, opset=opset)).forward(x)
    assert relative_error(found, evaluate(model(nodes, constants), x)[0]) < 1e-5


def test_resize_of_opset_10() -> None:
    """Which ONNX's reference does not know: every pixel twice by three times."""
    x = batch(3, 6, 5)
    found = fastlrp.from_onnx(single("Resize", floats(1, 1, 2, 3), opset=10)).forward(x)
    np.testing.assert_array_equal(found, x.repeat(2, 2).repeat(3, 3))


# ---- formulas that make one layer ----

def formula(*nodes: Any, **constants: Any) -> bytes:
    """Nodes that read x and constants."""
    return model(nodes, {name: np.float32(value) for name, value in constants.items()})


FORMULAS: dict[str, tuple[bytes, list[str]]] = {
    "silu": (formula(node("Sigmoid", "x", "s"), node("Mul", "x s", "y")), ["SiLU"]),
    "silu, gate first": (formula(node("Sigmoid", "x", "s"), node("Mul", "s x", "y")), ["SiLU"]),
    "hardswish by hardsigmoid": (formula(node("HardSigmoid", "x", "s", alpha=1 / 6, beta=0.5), node("Mul", "x s", "y")),
                                 ["Hardswish"]),
    "hardswish by clip": (formula(node("Add", "x three", "a"), node("Clip", "a zero six", "c"), node("Mul", "x c", "m"),
                                  node("Div", "m six", "y"), three=3, zero=0, six=6), ["Hardswish"]),
    "hardswish, divided first": (formula(node("Add", "x three", "a"), node("Clip", "a zero six", "c"),
                                         node("Div", "c six", "d"), node("Mul", "d x", "y"), three=3, zero=0, six=6),
                                 ["Hardswish"]),
    "hardsigmoid": (formula(node("Add", "three x", "a"), node("Clip", "a zero six", "c"), node("Mul", "c sixth", "y"),
                            three=3, zero=0, six=6, sixth=1 / 6), ["Hardsigmoid"]),
    "mish": (formula(node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")), ["Mish"]),
    "gelu": (formula(node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"),
                     node("Mul", "x a", "m"), node("Mul", "m half", "y"), root=2**0.5, one=1, half=0.5), ["GELU"]),
    "gelu, halved first": (formula(node("Mul", "x half", "h"), node("Mul", "x root", "d"), node("Erf", "d", "e"),
                                   node("Add", "one e", "a"), node("Mul", "a h", "y"), root=0.5**0.5, one=1, half=0.5),
                           ["GELU"]),
    "gelu, factor halved": (formula(node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"),
                                    node("Mul", "a half", "h"), node("Mul", "h x", "y"), root=2**0.5, one=1, half=0.5),
                            ["GELU"]),
    "relu6": (formula(node("Clip", "x zero six", "y"), zero=0, six=6), ["ReLU6"]),
    "relu": (formula(node("Max", "x zero", "y"), zero=0), ["ReLU"]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_become_one_layer(name: str) -> None:
    """Their other parts are not in the network."""
    data, layers = FORMULAS[name]
    net = check(data)
    assert [type(layer).__name__ for layer in net.layers] == layers


def test_what_only_looks_like_a_formula() -> None:
    """x · relu6(x + 2) is a value and a gate."""
    net = check(formula(node("Add", "x two", "a"), node("Clip", "a zero six", "c"), node("Mul", "x c", "y"), two=2,
                        zero=0, six=6))
    assert [type(layer).__name__ for layer in net.layers] == ["Scale", "ReLU6", "Multiply"]


def test_parts_of_formulas_that_others_read_stay() -> None:
    """The sigmoid of a SiLU as an output of its own."""
    data = model([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")], outputs="s y")
    net = check(data)
    assert sorted(type(layer).__name__ for layer in net.layers) == ["SiLU", "Sigmoid"]


# ---- graphs ----

def split(*constants: Any, count: int = 2, opset: int = 18, shape: Any = (3, 6, 5), **attributes: Any) -> bytes:
    """x split into parts that are all outputs."""
    named = {f"c{i}": array for i, array in enumerate(constants)}
    outputs = " ".join(f"y{i}" for i in range(count))
    return model([node("Split", " ".join(["x", *named]), outputs, **attributes)], named, {"x": ("N", *shape)}, outputs,
                 opset=opset)


GRAPHS: dict[str, bytes] = {
    "split": split(axis=2),
    "split of old models": split(opset=11, axis=2, count=3),
    "split of old models, sizes": split(opset=11, axis=-1, split=[1, 4]),
    "split, sizes": split(ints(1, 2), opset=13, axis=1),
    "split, sizes of lengths": split(ints(4, 1, 4), opset=13, axis=2, count=3, shape=(3, 9)),
    "split by a number": split(axis=1, num_outputs=3, count=3),
    "split unevenly": split(axis=3, num_outputs=3, count=3),
    "split of features": split(axis=1, num_outputs=2, shape=(7,)),
    "split into one": split(axis=1, num_outputs=1, count=1),
    "a part of which nobody reads the others": model(
        [node("Split", "x", "- a -", axis=1, num_outputs=3), node("Relu", "a", "y")]),
    "parts in another order": model([node("Split", "x sizes", "a b", axis=1), node("Tanh", "a", "t"),
                                     node("Concat", "b t", "y", axis=1)], {"sizes": ints(1, 2)}),
    "a ShuffleNet's unit": model(
        [node("Conv", "x w", "c"), node("Slice", "c zero two one", "left"), node("Slice", "c two four one", "right"),
         node("Conv", "right v", "d", pads=[1, 1, 1, 1]), node("Relu", "d", "r"), node("Concat", "left r", "j", axis=1),
         node("Reshape", "j into", "a"), node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
         node("Reshape", "b back", "s"), node("Conv", "s u", "y")],
        {"w": W(4, 3, 1, 1), "v": W(2, 2, 3, 3), "u": W(3, 4, 2, 2), "into": ints(0, 2, 2, 6, 5),
         "back": ints(0, 4, 6, 5), "zero": ints(0), "one": ints(1), "two": ints(2), "four": ints(1 << 62)}),
    "residual": model([node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("Add", "r x", "a"),
                       node("Sum", "a r x", "y")], {"w": W(3, 3, 3, 3)}),
    "difference": model([node("Conv", "x w", "c"), node("Relu", "x", "r"), node("Sub", "r c", "y")],
                        {"w": W(3, 3, 1, 1)}),
    "channels side by side": model([node("Conv", "x w", "c"), node("Concat", "c x c", "y", axis=1)],
                                   {"w": W(2, 3, 1, 1)}),
    "rows side by side": model([node("Relu", "x", "r"), node("Concat", "x r", "y", axis=2)]),
    "columns side by side": model([node("Relu", "x", "r"), node("Concat", "x r", "y", axis=-1)]),
    "features side by side": model([node("Relu", "x", "r"), node("Concat", "x r", "y", axis=1)],
                                   inputs={"x": ("N", 7)}),
    "lengths side by side": model([node("Relu", "x", "r"), node("MaxPool", "x", "p", kernel_shape=[1]),
                                   node("Concat", "p r", "y", axis=2)], inputs={"x": ("N", 3, 7)}),
    "squeeze and excitation": model(
        [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "g"), node("Conv", "g u", "e"),
         node("Sigmoid", "e", "s"), node("Mul", "s c", "y")], {"w": W(4, 3, 1, 1), "u": W(4, 4, 1, 1)}),
    "squeeze and excitation by dense layers": model(
        [node("ReduceMean", "x axes", "g", keepdims=0), node("Gemm", "g u", "e"), node("HardSigmoid", "e", "s"),
         node("Reshape", "s to", "r"), node("Mul", "x r", "y")], {"axes": ints(2, 3), "u": W(3, 3),
                                                                "to": ints(-1, 3, 1, 1)}),
    "gate of each pixel": model([node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "x s", "y")],
                                {"w": W(1, 3, 1, 1)}),
    "channel shuffle": model([node("Reshape", "x into", "a"), node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
                              node("Reshape", "b back", "c"), node("Conv", "c w", "y")],
                             {"into": ints(0, 3, 2, 6, 5), "back": ints(0, 6, 6, 5), "w": W(2, 6, 1, 1)},
                             {"x": ("N", 6, 6, 5)}),
    "channels last outside": model([node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a w b", "c"),
                                    node("Transpose", "c", "y", perm=[0, 2, 3, 1])], {"w": W(4, 3, 3, 3), "b": W(4)},
                                   {"x": ("N", 6, 5, 3)}),
    "mean spread over pixels": model([node("GlobalAveragePool", "x", "g"), node("Relu", "x", "r"),
                                      node("Add", "g r", "y")]),
    "two inputs, two outputs": model([node("Conv", "x w", "c"), node("Add", "c z", "a"), node("Flatten", "a", "y")],
                                     {"w": W(3, 3, 1, 1)}, {"x": ("N", 3, 6, 5), "z": ("N", 3, 6, 5)}, "y c"),
    "one axis": model([node("Conv", "x w b", "c", pads=[1, 1]), node("BatchNormalization", "c b b b v", "n"),
                       node("Relu", "n", "r"), node("MaxPool", "r", "p", kernel_shape=[2], strides=[2]),
                       node("Conv", "p u", "d"), node("Flatten", "d", "f"), node("MatMul", "f m", "y")],
                      {"w": W(4, 3, 3), "b": W(4), "v": abs(W(4)), "u": W(2, 4, 2), "m": W(6, 3)},
                      {"x": ("N", 3, 8)}),
    "flatten of an input": model([node("Flatten", "x", "f"), node("Gemm", "f w", "y")], {"w": W(90, 3)}),
    "flatten of gray pixels": model([node("Relu", "x", "r"), node("Flatten", "r", "f"), node("Gemm", "f w", "y")],
                                    {"w": W(30, 3)}, {"x": ("N", 1, 6, 5)}),
    "nodes that no output needs": model([node("Relu", "x", "y"), node("TopK", "x k", "v i"), node("Conv", "x w", "c")],
                                        {"w": W(4, 3, 3, 3), "k": ints(2)}),
    "initializers among the inputs": model([node("Relu", "x", "y")], {"c": W(3)}, {"x": ("N", 3), "c": (3,)}),
}


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "initializers among the inputs"])
@pytest.mark.parametrize("n", [1, 3])
def test_graphs_are_those_of_the_reference(name: str, n: int) -> None:
    """Branches, gates, layouts; also from bytes with other batches than the file's."""
    check(GRAPHS[name], n)


def test_initializers_are_no_inputs() -> None:
    """Old files list them as inputs too."""
    net = fastlrp.from_onnx(GRAPHS["initializers among the inputs"])
    assert net.input_names == ["x"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_models_of_other_precisions(dtype: Any) -> None:
    """Run in single precision."""
    constants = {"w": W(4, 3, 3, 3).astype(dtype), "b": W(4).astype(dtype), "s": np.array(0.5, dtype)}
    data = model([node("Conv", "x w b", "c"), node("Mul", "c s", "m"), node("Cast", "m", "y", to=1)], constants,
                 dtype=10 if dtype is np.float16 else 11)
    single = model([node("Conv", "x w b", "c"), node("Mul", "c s", "y")],
                   {key: array.astype(np.float32) for key, array in constants.items()})
    x = batch(3, 6, 5)
    net = fastlrp.from_onnx(data)
    assert relative_error(net.forward(x), evaluate(single, x)[0]) < 1e-6


@pytest.mark.parametrize("how", ["raw", "listed"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_constants_of_every_type_and_form(dtype: str, how: str) -> None:
    """As bytes or one by one."""
    import onnx
    values = np.array([[0, 1, 5], [1, 0, 100]]).astype(dtype)
    tensor = onnx.numpy_helper.from_array(values, "c")
    if how == "listed":
        bits = values.view(np.uint16) if dtype == "f2" else values
        tensor = onnx.helper.make_tensor("c", tensor.data_type, values.shape, bits.reshape(-1).tolist(), raw=False) \
            if dtype != "f2" else onnx.TensorProto(name="c", data_type=10, dims=values.shape,
                                                   int32_data=bits.reshape(-1).tolist())
    loaded = onnx.load_model_from_string(model([node("Cast", "c", "f", to=1), node("Add", "x f", "y")],
                                               inputs={"x": ("N", 2, 3)}))
    loaded.graph.initializer.append(tensor)
    found = fastlrp.from_onnx(loaded.SerializeToString()).forward(np.zeros((1, 2, 3), np.float32))
    np.testing.assert_array_equal(found[0], values.astype(np.float32))


def test_nodes_in_any_order() -> None:
    """Though ONNX wants them sorted."""
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Tanh", "r", "y")]
    x = batch(3, 6, 5)
    outputs = [fastlrp.from_onnx(model(order, {"w": W(4, 3, 3, 3)})).forward(x) for order in (nodes, nodes[::-1])]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("order", ["g r", "r g"])
def test_the_gate_is_what_a_sigmoid_made(order: str) -> None:
    """In either order: relevance goes to the other operand."""
    net = check(model([node("Conv", "x w", "c"), node("Sigmoid", "c", "g"), node("Relu", "x", "r"),
                       node("Mul", order, "y")], {"w": W(3, 3, 1, 1)}))
    last = net.nodes[-1]
    assert [net.nodes[i - net.first].name for i in last.inputs] == ["r_Relu", "g_Sigmoid"]


def test_values_of_one_pixel_are_flattened_as_they_are() -> None:
    """Nothing is moved where both orders are one."""
    net = check(model([node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"), node("Gemm", "f w", "y")],
                      {"w": W(3, 4)}))
    assert [type(layer).__name__ for layer in net.layers] == ["GlobalAvgPool2d", "Flatten", "Linear"]


# ---- constants and shapes ----

def view(*sizes: str, **constants: Any) -> bytes:
    """x, reshaped to the sizes: "batch" is read from its shape as PyTorch writes it, others are constants' names."""
    nodes, parts = [], []
    for i, size in enumerate(sizes):
        if size == "batch":
            nodes += [node("Shape", "x", f"s{i}"), node("Gather", f"s{i} zero", f"g{i}"),
                      node("Unsqueeze", f"g{i} axis", f"u{i}")]
            parts.append(f"u{i}")
        else:
            parts.append(size)
    nodes += [node("Concat", " ".join(parts), "to", axis=0), node("Reshape", "x to", "y")]
    return model(nodes, {"zero": np.array(0, INT), "axis": ints(0), **{k: ints(v) for k, v in constants.items()}})


VIEWS: dict[str, bytes] = {
    "view(x.size(0), -1)": view("batch", "rest", rest=-1),
    "view(x.size(0), 3, 30)": view("batch", "a", "b", a=3, b=30),
    "view(x.size(0), 3, -1)": view("batch", "a", "rest", a=3, rest=-1),
    "view(-1, 90)": single("Reshape", ints(-1, 90)),
    "view(2, -1) of a file with batches of 2": single("Reshape", ints(2, -1), n=2),
    "view(1, -1) of a file with batches of 1": single("Reshape", ints(1, -1), n=1),
    "all samples": model(
        [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Slice", "x zero n zero", "y")],
        {"zero": ints(0)}),
    "half of the channels": model(
        [node("Shape", "x", "s"), node("Gather", "s one", "c"), node("Div", "c two", "h"),
         node("Slice", "x h c one", "y")], {"one": ints(1), "two": ints(2)}),
    "flatten(1) by arithmetic": model(
        [node("Shape", "x", "s"), node("Slice", "s one end", "tail"), node("ReduceProd", "tail axis", "p", keepdims=1),
         node("Slice", "s zero one", "head"), node("Concat", "head p", "to", axis=0), node("Reshape", "x to", "y")],
        {"zero": ints(0), "one": ints(1), "end": ints(4), "axis": ints(0)}),
    "expand by where": model(
        [node("GlobalAveragePool", "x", "g"), node("Shape", "x", "s"), node("Shape", "s", "rank"),
         node("ConstantOfShape", "rank", "ones"), node("Cast", "ones", "none", to=7), node("Equal", "s none", "is"),
         node("Where", "is none s", "to"), node("Expand", "g to", "y")]),
    "a constant for each sample": model(
        [node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "c one", "o"),
         node("Add", "x o", "y")], {"one": np.float32(1)}),
    "channels divided by two": model(
        [node("Shape", "x", "s"), node("Gather", "s axis", "c"), node("Div", "c two", "h"), node("Mul", "h two", "w"),
         node("Unsqueeze", "w at", "u"), node("Concat", "minus u last", "to", axis=0), node("Reshape", "x to", "y")],
        {"axis": np.array(2, INT), "two": np.array(2, INT), "at": ints(0), "minus": ints(-1), "last": ints(15)}),
    "resize to twice the size": model(
        [node("Shape", "x", "s"), node("Slice", "s two four", "hw"), node("Mul", "hw two", "wanted"),
         node("Slice", "s zero two", "nc"), node("Concat", "nc wanted", "sizes", axis=0),
         node("Resize", "x - - sizes", "y", mode="nearest", nearest_mode="floor",
              coordinate_transformation_mode="asymmetric")], {"zero": ints(0), "two": ints(2), "four": ints(4)}),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("n", [1, 3])
def test_arithmetic_with_shapes_is_folded(name: str, n: int) -> None:
    """The batch goes through it; the networks take any."""
    net = fastlrp.from_onnx(VIEWS[name])
    x = batch(3, 6, 5, n=n)
    fixed = 2 if "of 2" in name else 1 if "of 1" in name else None
    expected = evaluate(VIEWS[name], x)[0] if fixed in (None, n) else x.reshape(n, -1)
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-6, atol=1e-7)


def test_outputs_and_inputs_that_are_left_out() -> None:
    """Both are called "", and have nothing to do with each other; ONNX's reference takes the one for the other."""
    x = batch(3, 6, 5)
    data = model([node("Dropout", "x", "a -"), node("Clip", "a - top", "y")], {"top": np.array(0.5, np.float32)})
    np.testing.assert_array_equal(fastlrp.from_onnx(data).forward(x), np.minimum(x, 0.5))


def test_relevance_of_parts_is_conserved() -> None:
    """From the parts' joined values to the value that is split, in the file's layout; overlaps add up."""
    net = fastlrp.from_onnx(GRAPHS["parts in another order"])
    x = batch(3, 6, 5)
    start = batch(3, 6, 5, seed=7)
    found = net.explain(x, start=start)
    np.testing.assert_array_equal(found.relevance, start[:, [2, 0, 1]])
    net = fastlrp.from_onnx(single("Slice", ints(1, 2), ints(3, 5), ints(1, 2), ints(1, 2)))
    found = net.explain(x, start=start[:, 1:, :2], layers=True)
    expected = np.zeros_like(x)
    expected[:, 1:3, 2:5:2] = start[:, 1:, :2]
    np.testing.assert_array_equal(found.relevance, expected)
    assert [node.name for node in net.nodes] == ["y_Slice.axis1", "y_Slice"]
    assert found.layers["y_Slice.axis1"].shape == (2, 2, 6, 5)


FOLDED: dict[str, Callable[[], Any]] = {
    **{op: (lambda op=op: (op, [W(2, 3)], {})) for op in ("Neg", "Abs", "Floor", "Ceil", "Round", "Exp", "Sign",
                                                        "Identity", "Flatten", "Transpose", "Reciprocal")},
    **{op: (lambda op=op: (op, [abs(W(2, 3)) + 1], {})) for op in ("Sqrt", "Log")},
    **{op: (lambda op=op: (op, [W(2, 3), W(3, seed=1)], {})) for op in (
        "Add", "Sub", "Mul", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Min", "Max", "Sum")},
    **{op: (lambda op=op: (op, [ints(1, 2, 3), ints(3, 2, -1)], {})) for op in ("Equal", "Mod")},
    "Pow": lambda: ("Pow", [abs(W(2, 3)), W(3, seed=1)], {}),
    "Pow of whole numbers": lambda: ("Pow", [ints(1, -2, 3), ints(3, 2, 1)], {}),
    "Div of whole numbers": lambda: ("Div", [ints(7, -7, 7, -7), ints(2, 2, -2, -2)], {}),
    "Mod, fmod": lambda: ("Mod", [ints(7, -7), ints(3, 3)], {"fmod": 1}),
    **{op: (lambda op=op: (op, [W(4) > 0, W(4, seed=2) > 0], {})) for op in ("And", "Or", "Xor")},
    "Not": lambda: ("Not", [W(4) > 0], {}),
    "Where": lambda: ("Where", [W(4) > 0, W(2, 4), W(1)], {}),
    "Cast": lambda: ("Cast", [W(4) * 10], {"to": 7}),
    "CastLike": lambda: ("CastLike", [W(4) * 10, ints(1)], {}),
    "Shape": lambda: ("Shape", [W(2, 3, 4)], {}),
    "Shape, cut": lambda: ("Shape", [W(2, 3, 4)], {"start": 1, "end": -1}),
    "Size": lambda: ("Size", [W(2, 3, 4)], {}),
    "Reshape": lambda: ("Reshape", [W(2, 3, 4), ints(0, -1)], {}),
    "Flatten, axis 2": lambda: ("Flatten", [W(2, 3, 4)], {"axis": 2}),
    "Transpose, perm": lambda: ("Transpose", [W(2, 3, 4)], {"perm": [1, 2, 0]}),
    "Squeeze": lambda: ("Squeeze", [W(2, 1, 4), ints(1)], {}),
    "Unsqueeze": lambda: ("Unsqueeze", [W(2, 4), ints(0, 3)], {}),
    "Expand": lambda: ("Expand", [W(2, 1), ints(3, 1, 4)], {}),
    "Tile": lambda: ("Tile", [W(2, 3), ints(2, 1)], {}),
    "Range": lambda: ("Range", [np.array(2, INT), np.array(9, INT), np.array(3, INT)], {}),
    "Gather": lambda: ("Gather", [W(2, 5), ints(4, -1)], {"axis": 1}),
    "Gather of one": lambda: ("Gather", [W(5), np.array(2, INT)], {}),
    "Slice": lambda: ("Slice", [W(5, 6), ints(1, -1), ints(4, -100), ints(0, 1), ints(2, -2)], {}),
    "Concat": lambda: ("Concat", [W(2, 3), W(2, 1)], {"axis": -1}),
    **{op: (lambda op=op: (op, [W(2, 3, 4)], {"axes": [0, 2], "keepdims": 0})) for op in (
        "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean")},
    "ReduceSum": lambda: ("ReduceSum", [W(2, 3, 4), ints(1)], {}),
    "ReduceSum of nothing": lambda: ("ReduceSum", [W(2, 3, 4)], {"noop_with_empty_axes": 1}),
    "ConstantOfShape": lambda: ("ConstantOfShape", [ints(2, 3)], {}),
}


@pytest.mark.parametrize("name", FOLDED)
def test_operators_on_constants_are_folded(name: str) -> None:
    """What is computed at import is what the reference computes."""
    op, constants, attributes = FOLDED[name]()
    named = {f"c{i}": array for i, array in enumerate(constants)}
    opset = 17 if "axes" in attributes else 18
    nodes = [node(op, " ".join(named), "r", **attributes), node("Cast", "r", "f", to=1), node("Reshape", "f to", "v")]
    named["to"] = ints(1, -1)
    row = evaluate(model(nodes, named, {"x": ("N", 1)}, "v", opset=opset), W(1, 1))[0]
    net = check(model([*nodes, node("Add", "x v", "y")], named, {"x": ("N", row.size)}, opset=opset), within=1e-6)
    assert len(net.layers) == 1


# ---- names, layouts, sharing ----

def test_layers_have_the_names_of_nodes_and_the_layouts_of_the_file() -> None:
    """Values and relevance inside are (N, C, H, W), as ONNX makes them, and Flatten has that order."""
    data = spatial_model()
    net = fastlrp.from_onnx(data)
    names = ["/conv1/Conv", "/relu", "/pool", "/conv2/Conv", "/Flatten", "/fc/Gemm"]
    assert [node.name for node in net.nodes if ".channels" not in node.name] == names
    assert net.input_shape == (3, 6, 5) and net.input_names == ["x"]
    x = batch(3, 6, 5)
    e = net.explain(x, layers=True)
    assert e.relevance.shape == x.shape
    inner = evaluate(data, x, outputs=["c1", "r1", "p1", "c2", "f", "y"])
    for name, value in zip(names, inner, strict=True):
        assert e.layers[name].shape == value.shape
    np.testing.assert_array_equal(np.argmax(inner[-1], 1), e.target)


def test_inner_starts_have_the_layout_of_the_file() -> None:
    """A gradient that starts at conv2, against differences of ONNX's own values."""
    data, x = spatial_model(relu="Softplus"), batch(3, 6, 5, n=1).astype(np.float64)
    start = np.zeros((1, 5, 2, 1))
    start[0, 3, 1, 0] = 1
    net = fastlrp.from_onnx(data).to_numpy()
    found = net.explain(x, composite="gradient", start=start, start_layer="/conv2/Conv").relevance
    assert np.count_nonzero(found) and found.shape == x.shape
    at = np.unravel_index(np.argmax(np.abs(found)), x.shape)
    step = np.zeros(x.shape)
    step[at] = 1e-2
    up, down = (evaluate(data, moved.astype(np.float32), outputs=["c2"])[0][0, 3, 1, 0]
                for moved in (x + step, x - step))
    assert abs((up - down) / 2e-2 / found[at] - 1) < 1e-2


@pytest.mark.parametrize("names", [["", ""], ["same", "same"], ["x", "x"], ["a:2", "a"]])
def test_names_that_are_missing_or_taken(names: list[str]) -> None:
    """A node without a name has that of its output; a second one of a name gets a number."""
    data = model([node("Relu", "x", "r", names[0]), node("Tanh", "r", "y", names[1])])
    found = [node.name for node in check(data).nodes]
    expected = {"": ["r", "y"], "same": ["same", "same_2"], "x": ["x_2", "x_3"], "a": ["a:2", "a"]}
    assert found == expected[names[1]]


def shared(stride: int = 1) -> bytes:
    """Two nodes that read one initializer, one value after the other."""
    nodes = [node("Conv", "x w b", "c", "first", pads=[1, 1, 1, 1]), node("Relu", "c", "r"),
             node("Conv", "r w b", "d", "second", pads=[1, 1, 1, 1], strides=[stride, 1]), node("Flatten", "d", "y")]
    return model(nodes, {"w": W(3, 3, 3, 3), "b": W(3)})


def test_nodes_with_the_same_weights_are_a_shared_layer() -> None:
    """With the same attributes and input shape; else each has its own copy."""
    net = check(shared())
    assert len(net.weighted) == 1 and [node.name for node in net.nodes][:3:2] == ["first", "first:2"]
    assert net.weighted[0].weight.shape == (3, 3, 3, 3)
    net = check(shared(2))
    assert [layer.name for layer in net.weighted] == ["first", "second"]
    net = check(model([node("Conv", "x w", "c", "one"), node("Conv", "c w", "y", "two")], {"w": W(3, 3, 2, 2)}))
    assert [layer.name for layer in net.weighted] == ["one", "two"]


def test_names_of_shared_layers_are_free() -> None:
    """Their further nodes are ":2" and so on, which no other node may be called."""
    nodes = [node("Conv", "x w", "c", "a", pads=[1, 1, 1, 1]), node("Relu", "c", "r", "a:2"),
             node("Conv", "r w", "d", "b", pads=[1, 1, 1, 1]), node("Relu", "d", "y", "a_2")]
    net = check(model(nodes, {"w": W(3, 3, 3, 3)}))
    assert [node.name for node in net.nodes] == ["a", "a:2_2", "a:2", "a_2"]


def test_a_constant_after_weights_is_their_bias() -> None:
    """TensorFlow's exports have Conv and Add; rules that know biases see one."""
    data = model([node("Conv", "x w", "c", "conv"), node("Add", "c b", "a"), node("Flatten", "a", "f"),
                  node("MatMul", "f m", "d", "dense"), node("Add", "d v", "y")],
                 {"w": W(2, 3, 3, 3), "b": W(1, 2, 1, 1), "m": W(24, 3), "v": W(3)})
    net = check(data)
    assert [layer.name for layer in net.weighted] == ["conv", "dense"]
    np.testing.assert_array_equal(net.weighted[0].bias, W(2))


def test_a_value_before_the_bias_that_others_read_stays() -> None:
    """Both are there then."""
    data = model([node("MatMul", "x m", "d"), node("Add", "d v", "a"), node("Add", "a d", "y")],
                 {"m": W(4, 3), "v": W(3)}, {"x": ("N", 4)})
    check(data)


@pytest.mark.parametrize("tail", [[], ["Identity"], ["Flatten"]])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_at_the_end_is_left_out(op: str, tail: list[str]) -> None:
    """With one warning."""
    nodes = [node("Gemm", "x w", "logits"), node(op, "logits", "s0", axis=-1),
             *(node(each, f"s{i}", f"s{i + 1}") for i, each in enumerate(tail))]
    data = model(nodes, {"w": W(4, 3)}, {"x": ("N", 4)}, f"s{len(tail)}")
    with pytest.warns(UserWarning, match="<bytes>: the softmax at the end is left out: outputs are logits") as seen:
        net = fastlrp.from_onnx(data)
    assert len(seen) == 1 and seen[0].filename == __file__
    x = batch(4)
    np.testing.assert_allclose(net.forward(x), evaluate(data, x, outputs=["logits"])[0], rtol=1e-5, atol=1e-6)


def test_no_warning_without_softmax() -> None:
    """Or for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastlrp.from_onnx(spatial_model())


def test_sizes_that_the_file_leaves_open() -> None:
    """Given by name."""
    data = model([node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "y")], inputs={"x": ("N", 3, "h", "w")})
    net = fastlrp.from_onnx(data, input_shapes={"x": (3, 4, 7)})
    assert net.input_shape == (3, 4, 7)
    for shapes, match in ((None, r"give sizes, as in input_shapes=\{'x': \(3, 224, 224\)\}"),
                          ({"x": (4, 4, 7)}, "samples of shape '\\[4, 4, 7\\]', the file"),
                          ({"x": (3, 4)}, "input_shapes gives"),
                          ({"z": (3, 4, 7)}, "input_shapes names .*z.*: the inputs are .*x")):
        with pytest.raises(ValueError, match=match):
            fastlrp.from_onnx(data, input_shapes=shapes)


@pytest.mark.parametrize("shape", [[3, 4, 7], np.array([3, 4, 7]), (np.int64(3), np.int32(4), 7)], ids=repr)
def test_sizes_of_any_integer_type(shape: Any) -> None:
    data = model([node("Relu", "x", "y")], inputs={"x": ("N", 3, "h", "w")})
    assert fastlrp.from_onnx(data, input_shapes={"x": shape}).input_shape == (3, 4, 7)


@pytest.mark.parametrize(("shapes", "kind", "match"), [
    ("x", TypeError, "input_shapes must be a mapping from inputs to shapes of a sample, got 'x'"),
    ((3, 4, 7), TypeError, "input_shapes must be a mapping"), ([], TypeError, "input_shapes must be a mapping"),
    ({"x": 3}, TypeError, r"input_shapes\['x'\] must be a tuple of sizes without the batch, got 3"),
    ({"x": None}, TypeError, r"input_shapes\['x'\] must be a tuple"),
    ({"x": "347"}, TypeError, r"input_shapes\['x'\] must be a tuple"),
    ({"x": (3, 4.0, 7)}, TypeError, r"input_shapes\['x'\] must be an int, got 4\.0"),
    ({"x": (3, 0, 7)}, ValueError, r"input_shapes\['x'\] must be at least 1, got 0"),
    ({"x": ()}, ValueError, r"input_shapes\['x'\] must hold at least one size"),
], ids=repr)
def test_shapes_of_inputs_are_checked(shapes: Any, kind: type[Exception], match: str) -> None:
    """Before the file is read, which is not at fault."""
    with pytest.raises(kind, match=match) as caught:
        fastlrp.from_onnx("no.onnx", input_shapes=shapes)
    assert type(caught.value) is kind


def test_networks_train_save_and_load(tmp_path: Any) -> None:
    """As any other."""
    net = fastlrp.from_onnx(spatial_model())
    x = batch(3, 6, 5, n=8)
    net.fit(x, np.arange(8) % 3, epochs=1, batch_size=4)
    net.save(tmp_path / "net.npz")
    again = fastlrp.load(tmp_path / "net.npz")
    np.testing.assert_array_equal(again.forward(x), net.forward(x))
    assert again.input_shape == (3, 6, 5)


def test_paths_and_bytes(tmp_path: Any) -> None:
    """The same from both; the file may be open for reading only."""
    path = tmp_path / "model.onnx"
    path.write_bytes(spatial_model())
    path.chmod(0o400)
    x = batch(3, 6, 5)
    nets = [fastlrp.from_onnx(each) for each in (path, str(path), spatial_model(), bytearray(spatial_model()))]
    for net in nets[1:]:
        np.testing.assert_array_equal(net.forward(x), nets[0].forward(x))
