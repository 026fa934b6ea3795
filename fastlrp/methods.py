"""The original TensorFlow project's `methods` grammar, turned into composites.

methods is a name for all layers ("simple", "ab" or "alphabeta", "zb", "ww", "gdt", "deeptaylor"), a standard
combination ("zbab", "wwab", "zb-gdt"), ["name", number] for all layers with a parameter (α or γ), or a list with one
["name"(, number)] per layer. α defaults to 1, γ to 0.5, β = α − 1, and no rule uses the bias.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from .composites import Composite
from .graph import Graph
from .layers import Format
from .rules import AlphaBeta, Epsilon, GammaSimple, Rule, WSquare, ZBox
from .shapes import as_number

WITH_NUMBER = ("ab", "alphabeta", "gdt")
NAMES = ("simple", "ab", "alphabeta", "zb", "ww", "gdt", "deeptaylor")
COMBINATIONS = {"zbab": (["zb"], ["ab", 2.0]), "wwab": (["ww"], ["ab", 2.0]), "zb-gdt": (["zb"], ["gdt", 0.5])}


def is_methods(value: Any) -> bool:
    """Whether a composite argument speaks this grammar."""
    return isinstance(value, (list, tuple)) or (isinstance(value, str) and value in (*NAMES, *COMBINATIONS))


def composite(graph: Graph, methods: Any) -> Composite:
    """The composite that `methods` means on this network; ValueError where it is not of the grammar."""
    entries = tuple((layer.name, _rule(graph, spec, first=i == 0))
                    for i, (layer, spec) in enumerate(zip(graph.weighted, _specs(graph, methods), strict=True)))
    return Composite("methods", (), layers=entries)


def _specs(graph: Graph, methods: Any) -> list[tuple[str, float | None]]:
    """One (name, number or None) for each layer with weights."""
    layers, weighted = list(dict.fromkeys(graph.layers)), graph.weighted
    if isinstance(methods, str):
        first, rest = COMBINATIONS.get(methods, ([methods], [methods]))
        return [_spec(first if i == 0 else rest) for i in range(len(weighted))]
    methods = list(methods)
    if len(methods) == 2 and isinstance(methods[0], str) and _is_number(methods[1]):
        return [_spec(methods)] * len(weighted)
    specs = [_spec(method) for method in methods]
    if len(specs) == len(layers) - 1 and isinstance(layers[0], Format):
        layers = layers[1:]
    if len(specs) == len(layers):
        return [spec for spec, layer in zip(specs, layers, strict=True) if layer in weighted]
    if len(specs) == len(weighted):
        return specs
    raise ValueError(f"methods has {len(specs)} entries; expected one for each of the {len(graph.layers)} layers "
                     f"(a leading Format may be left out) or of the {len(weighted)} layers with weights")


def _spec(method: Any) -> tuple[str, float | None]:
    method = list(method) if isinstance(method, (list, tuple)) else [method]
    known = 1 <= len(method) <= 2 and isinstance(method[0], str) and method[0] in NAMES
    if not known or (len(method) == 2 and not _is_number(method[1])):
        raise ValueError(f'methods must name {", ".join(NAMES)} or {", ".join(COMBINATIONS)}, each layer as '
                         f'["name"(, number)]; got {method!r}')
    if len(method) == 2 and method[0] not in WITH_NUMBER:
        raise ValueError(f"methods: {method[0]!r} has no parameter, got {method!r}")
    if len(method) == 2 and not (1 if method[0] in ("ab", "alphabeta") else 0) <= method[1] < math.inf:
        raise ValueError(f"methods: alpha must be at least 1 (then beta = alpha - 1), gamma at least 0; got {method!r}")
    return method[0], as_number(method[1], "methods' number") if len(method) == 2 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _rule(graph: Graph, spec: tuple[str, float | None], first: bool) -> Rule:
    name, number = spec
    if name == "deeptaylor":
        name = ("zb" if graph.input_bounds() else "ww") if first else "ab"
    if name in ("ab", "alphabeta"):
        alpha = 1.0 if number is None else number
        return AlphaBeta(alpha, alpha - 1, None, bias=False)
    return {"simple": Epsilon(None, bias=False), "zb": ZBox(epsilon=None), "ww": WSquare(None, bias=False),
            "gdt": GammaSimple(0.5 if number is None else number, None, bias=False)}[name]
