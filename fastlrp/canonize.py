"""BatchNorm folded into the linear layers beside it: the graph that runs, made of the graph that users hold.

With s = weight / √(variance + ε) and t = bias − mean · s, BatchNorm is y = s x + t. After a linear layer it gives
W' = W s on the output axis and b' = b s + t; before one, W' = W s on the input axis and b' = b + W t, which is a map
rather than a vector where padding, which carries no shift, meets the filters. Layers in between may reorder values.
A BatchNorm with neither (ReLU or several readers on the way) stays as it is. Everything is computed in double
precision. Nodes keep their names: a folded BatchNorm is an Identity.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import numpy as np

from .graph import Graph, Node
from .layers import Identity, Layer, WeightedLayer
from .ops import PREPARING
from .reference import Array, Reference, linear

AnyGraph = TypeVar("AnyGraph", bound=Graph)
EXACT = Reference(np.float64)


def folded(graph: AnyGraph, explained: int | None = None) -> AnyGraph:
    """The graph with every BatchNorm folded that can be: made once for the present layers, `graph` itself where there
    is none. explained: a value, beside the outputs, that must be what it is without folding."""
    if "affine" not in [node.layer.role for node in graph.nodes]:
        return graph
    arrays = [array for layer in dict.fromkeys(graph.layers) for array in getattr(layer, "parameters", {}).values()]
    with PREPARING:
        found, version = graph.folded, graph.version
        if found is None or found[0] != version or not _same(found[1], arrays):
            graph.folded = found = version, arrays, {}
        graphs: dict[Any, AnyGraph] = found[2]
        if explained not in graphs:
            if len(graphs) >= MOST_GRAPHS:
                del graphs[next(iter(graphs))]
            graphs[explained] = _Folding(graph, explained).run()
        return graphs[explained]


MOST_GRAPHS = 4  # each holds folded weights


def _same(old: list[Array], new: list[Array]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


class _Folding:
    """One graph on its way: `nodes` changes, values and names stay."""

    def __init__(self, graph: Any, explained: int | None):
        self.graph, self.nodes = copy.copy(graph), list(graph.nodes)
        self.fixed = {*graph.outputs, explained}
        self.readers: list[list[int]] = [[] for _ in graph.shapes]
        for i, node in enumerate(self.nodes):
            for value in node.inputs:
                self.readers[value].append(i)

    def run(self) -> Any:
        # In these orders, so that rows of them vanish.
        for fold, order in ((self._into_linear_before, 1), (self._into_linear_after, -1)):
            for i, node in list(enumerate(self.nodes))[::order]:
                if node.layer.role == "affine" and fold(i):
                    self._replace(i, _built(Identity(name=node.layer.name), node.layer))
        self.graph.nodes = self.nodes
        return self.graph

    def _replace(self, i: int, layer: Layer) -> None:
        self.nodes[i] = Node(layer, self.nodes[i].inputs, self.nodes[i].name)

    def _is_own(self, value: int) -> bool:
        """Whether only one node reads the value, and no user."""
        return len(self.readers[value]) == 1 and value not in self.fixed

    def _weighted(self, i: int) -> Any:
        """The layer of node i if it is a linear one that no other node shares."""
        layer = self.nodes[i].layer
        alone = sum(node.layer is layer for node in self.nodes) == 1
        return layer if isinstance(layer, WeightedLayer) and alone else None

    def _into_linear_before(self, i: int) -> bool:
        """linear → (reordering) → BatchNorm."""
        first, value, path = self.graph.first, self.nodes[i].inputs[0], []
        while value >= first and self._is_own(value) and self.nodes[value - first].layer.transparent \
                and not self.nodes[value - first].layer.merges:
            path.append(self.nodes[value - first].layer)
            value = self.nodes[value - first].inputs[0]
        layer = self._weighted(value - first) if value >= first and self._is_own(value) else None
        if layer is None:
            return False
        scale, shift = self._maps(i)
        for between in path:
            scale, shift = (between.backward(EXACT, a, None, None) for a in (scale, shift))
        factors = _per_channel(scale)
        if factors is None:
            return False
        weight, bias = _parameters(layer)
        self._replace(value - first, _with(layer, weight * factors, bias * factors + shift[0]))
        return True

    def _into_linear_after(self, i: int) -> bool:
        """BatchNorm → (reordering) → linear."""
        value, path = self.graph.first + i, []
        while self._is_own(value) and self.nodes[self.readers[value][0]].layer.transparent \
                and not self.nodes[self.readers[value][0]].layer.merges:
            path.append(self.nodes[self.readers[value][0]].layer)
            value = self.graph.first + self.readers[value][0]
        index = self.readers[value][0] if self._is_own(value) else -1
        layer = self._weighted(index) if index >= 0 else None
        if layer is None:
            return False
        scale, shift = self._maps(i)
        for between in path:
            scale, shift = (between.forward(EXACT, a)[0] for a in (scale, shift))
        factors = _per_channel(scale)
        if factors is None:
            return False
        weight, bias = _parameters(layer)
        geometry = layer.geometry
        more = linear(geometry, shift.reshape(1, *geometry.in_shape), weight.reshape(geometry.weight_shape))
        groups = factors.reshape(geometry.groups, 1, -1)  # input channels of each group, by its outputs
        per_output = np.repeat(groups, geometry.out_channels // geometry.groups, axis=1).reshape(
            geometry.out_channels, -1).T
        self._replace(index, _with(layer, weight * per_output, bias + more[0].reshape(layer.out_shape)))
        return True

    def _maps(self, i: int) -> tuple[Array, Array]:
        """Scale and shift for every element of a sample, (1, ...)."""
        layer: Any = self.nodes[i].layer
        scale, shift = (np.broadcast_to(a, (1, *layer.out_shape)).copy() for a in layer.affine(np.dtype(np.float64)))
        return scale, shift


def _per_channel(values: Array) -> Array | None:
    """(C,) where all positions of (1, ..., C) agree."""
    rows = values.reshape(-1, values.shape[-1])
    return rows[0] if (rows == rows[0]).all() else None


def _parameters(layer: WeightedLayer) -> tuple[Array, Array]:
    bias = np.zeros(layer.out) if layer.bias is None else layer.bias.astype(np.float64)
    return layer.weight.astype(np.float64), bias


def _with(layer: WeightedLayer, weight: Array, bias: Array) -> WeightedLayer:
    """The layer with other weights, and a bias (out,) or for every output (..., out)."""
    made = copy.copy(layer)
    made.__dict__.update(use_bias=True, _parameters={})
    same = _per_channel(bias[None])
    made._store("weight", weight.astype(layer.dtype, order="C"))
    made._store("bias", (bias if same is None else same).astype(layer.dtype, order="C"))
    return made


def _built(layer: Layer, like: Layer) -> Layer:
    layer.in_shape, layer.out_shape = like.in_shape, like.out_shape
    return layer
