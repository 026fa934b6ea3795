"""ONNX models for tests, node by node, and what they compute by ONNX's own reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

RNG = np.random.default_rng
OPSET = 18


def node(op: str, inputs: str, output: str, name: str | None = None, **attributes: Any) -> Any:
    """inputs, output: names with spaces in between, "-" for one that is left out. name: by default "<output>_<op>"."""
    names, made = (["" if each == "-" else each for each in text.split()] for text in (inputs, output))
    name = f"{next(filter(None, made))}_{op}" if name is None else name
    return helper.make_node(op, names, made, name=name, **attributes)


def proto(nodes: Sequence[Any], constants: Mapping[str, Any] | None = None,
          inputs: Mapping[str, Sequence[Any]] | None = None, outputs: str = "y", opset: int = OPSET,
          dtype: int = TensorProto.FLOAT) -> Any:
    """A ModelProto. inputs: {name: shape with the batch, which may be a name}; by default x of ("N", 3, 6, 5)."""
    infos = [helper.make_tensor_value_info(name, dtype, shape)
             for name, shape in (inputs or {"x": ("N", 3, 6, 5)}).items()]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", infos,
                              [helper.make_empty_tensor_value_info(name) for name in outputs.split()], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def model(*args: Any, **more: Any) -> bytes:
    """The same as bytes."""
    return proto(*args, **more).SerializeToString()


def single(op: str, *constants: Any, shape: Sequence[int] = (3, 6, 5), opset: int = OPSET,
           n: Any = "N", **attributes: Any) -> bytes:
    """x (n, *shape) and constants through one operator; None for a constant that is left out."""
    named = {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    reads = " ".join(["x", *(f"c{i}" if array is not None else "-" for i, array in enumerate(constants))])
    return model([node(op, reads, "y", **attributes)], named, {"x": (n, *shape)}, opset=opset)


def evaluate(data: bytes, *x: Any, outputs: Sequence[str] | None = None) -> list[Any]:
    """What a model computes of its inputs; outputs: names of values, the model's own by default."""
    loaded = onnx.load_model_from_string(data)
    for name in outputs or ():
        if name not in [info.name for info in loaded.graph.output]:
            loaded.graph.output.append(helper.make_empty_tensor_value_info(name))
    names = [info.name for info in loaded.graph.input]
    return ReferenceEvaluator(loaded).run(list(outputs) if outputs else None, dict(zip(names, x, strict=True)))


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of both signs."""
    return RNG(seed).normal(size=shape).astype(np.float32)


def batch(*shape: int, n: int = 2, seed: int = 1) -> np.ndarray:
    """Samples of both signs."""
    return weights(n, *shape, seed=seed)


def spatial_model(relu: str = "Relu") -> bytes:
    """conv1 → relu → pool → conv2 → flatten → fc, as PyTorch exports it: names as paths."""
    nodes = [node("Conv", "x w1 b1", "c1", "/conv1/Conv", pads=[1, 1, 1, 1]), node(relu, "c1", "r1", "/relu"),
             node("MaxPool", "r1", "p1", "/pool", kernel_shape=[2, 2], strides=[2, 2]),
             node("Conv", "p1 w2", "c2", "/conv2/Conv"), node("Flatten", "c2", "f", "/Flatten"),
             node("Gemm", "f w3 b3", "y", "/fc/Gemm", transB=1)]
    constants = {"w1": weights(4, 3, 3, 3), "b1": weights(4), "w2": weights(5, 4, 2, 2), "w3": weights(3, 10),
                 "b3": weights(3, seed=5)}
    return model(nodes, constants)
