"""What an explanation without biases and with ε = 0 loses: the relevance of parts whose denominators are zero.

Every rule then hands on all relevance of an output in shares of a sum, or nothing where the sum is zero: ZPlus and
AlphaBeta in shares of p and q, Epsilon and Norm of z; Gamma where z is not zero. Gradients and activations are not
looked at here. All in double precision, from a twin's trace and the relevance of its layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastlrp
from fastlrp import rules
from fastlrp.canonize import folded
from fastlrp.composites import Composite
from fastlrp.layers import WeightedLayer
from fastlrp.reference import linear, negative, positive


def kept_and_dropped(twin: fastlrp.Network, x: np.ndarray, composite: Composite,
                     start: np.ndarray) -> tuple[float, float]:
    """Σ of the input's relevance, and Σ of what was dropped on the way."""
    found = twin.explain(x, composite=composite, start=start, layers=True)
    graph = folded(twin)
    values = graph.trace(graph.as_inputs(x)).values
    dropped = 0.0
    for i, (node, rule) in enumerate(zip(graph.nodes, composite.resolve(graph), strict=True), graph.first):
        relevance = graph.to_inside(i, found.layers[node.name])
        for share, denominators in shares(node.layer, rule, node.reads(values), values[i]):
            dropped += share * relevance[denominators.reshape(relevance.shape) == 0].sum()
    return found.relevance.sum(), dropped


def shares(layer: Any, rule: Any, x: Any, z: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """(coefficient, denominators) of a rule's parts; none for what always hands on everything."""
    if isinstance(rule, rules.ZPlus | rules.AlphaBeta) and isinstance(layer, WeightedLayer):
        return [(coefficient, signed_sum(layer, term, x)) for term, coefficient in rule.terms]
    if isinstance(rule, rules.Epsilon | rules.Gamma | rules.Norm):
        return [(1.0, z)]
    return []


def signed_sum(layer: WeightedLayer, term: str, x: np.ndarray) -> np.ndarray:
    """p = x⁺W⁺ + x⁻W⁻ or q = x⁺W⁻ + x⁻W⁺."""
    geometry, filters = layer.geometry, layer.filters
    x = x.reshape(-1, *geometry.in_shape)
    first, second = (positive, negative) if term == "p" else (negative, positive)
    return linear(geometry, positive(x), first(filters)) + linear(geometry, negative(x), second(filters))
