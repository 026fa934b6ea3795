"""Explanations: from a batch of inputs to relevance maps. Chunks the batch, sets the start, collects the results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from . import methods
from .composites import PRESETS, Composite
from .graph import Graph, Trace
from .ops import real_array
from .propagate import Plan, make_plan, propagate, run_forward
from .reference import Array
from .rules import CONVENTIONS, Rule


@dataclass
class Explanation:
    """What `Network.explain` returns. N samples."""

    relevance: Array  # shape and layout of the input
    output: Array  # of the explained layer: logits (N, outputs) unless start_layer says otherwise
    target: Array | None  # class explained for each sample (N,); None where the start was given as an array
    start: Array  # relevance at the explained layer's output
    layers: dict[str, Array] = field(default_factory=dict)  # relevance of each layer's output, with layers=True


@dataclass(frozen=True)
class Filter:
    """A start that is the output times a filter: of shape (N, ...) or, for all samples, (...)."""

    values: Array


@dataclass(frozen=True)
class Request:
    """A checked call: everything but the data."""

    composite: Composite
    plan: Plan
    start: str  # "logit" or "one" at the target, "given", or "filter": the output times what is given
    end: int  # index of the value where relevance starts
    key: tuple[Any, ...]  # all of this by value


def find_composite(graph: Graph, composite: Any) -> Composite:
    """A preset's name, a Composite, a `methods` spec, or {layer name: rule} on top of "epsilon_plus_flat"."""
    if isinstance(composite, Composite):
        return composite
    if isinstance(composite, Mapping):
        return PRESETS["epsilon_plus_flat"]().override(composite)
    if isinstance(composite, str) and composite in PRESETS:
        return PRESETS[composite]()
    if isinstance(composite, (str, list, tuple)) and methods.is_methods(composite):
        return methods.composite(graph, composite)
    if isinstance(composite, Rule):
        raise TypeError(f"composite must be a composite, got a rule; use fastlrp.composites.Uniform({composite})")
    specs = ", ".join((*methods.NAMES, *methods.COMBINATIONS))
    raise ValueError(f"composite must be one of {list(PRESETS)}, a Composite, a methods spec ({specs}) or "
                     f"{{layer name: rule}}, got {composite!r}")


def find_convention(composite: Any, compat: str | None) -> Any:
    """compat by name; None: the original project's for its own `methods`, else zennit's."""
    if compat is None:
        own = isinstance(composite, (str, list, tuple)) and not (isinstance(composite, str) and composite in PRESETS)
        compat = "tensorflow_lrp" if own else "zennit"
    if not isinstance(compat, str) or compat not in CONVENTIONS:
        raise ValueError(f"compat must be one of {list(CONVENTIONS)}, got {compat!r}")
    return CONVENTIONS[compat]


def explain(graph: Graph, x: Any, target: Any = None, composite: Any = "epsilon_plus_flat", *, start: Any = None,
            start_layer: str | None = None, layers: bool = False, reference: Any = None,
            batch_size: int | None = None, compat: str | None = None, progress: bool = False) -> Explanation:
    """See `Network.explain`, which documents the arguments."""
    x = graph.as_input(x)
    chosen, plan, key = _prepare(graph, composite, compat)
    if reference is not None and len(x):
        plan = replace(plan, means=_means(graph, x, reference, batch_size))
    end = len(graph.nodes) if start_layer is None else graph.find(start_layer) + 1
    kind, given = _check_start(graph, chosen, start, end, len(x))
    request = Request(chosen, plan, kind, end, (*key, kind, end))
    targets = _check_target(graph, target, request, len(x))
    result = _allocate(graph, x, request, layers)
    inputs: dict[Any, Array] = {"x": x} if given is None else {"x": x, "given": given}
    outputs: dict[Any, Array] = {"relevance": result.relevance, "output": result.output, "start": result.start,
                                **{("layer", name): values for name, values in result.layers.items()}}
    if kind in ("logit", "one"):
        result.target = np.full(len(x), -1, np.int64) if targets is None else targets
    with tqdm(total=len(x), unit="sample", desc="explaining") if progress else nullcontext() as bar:
        for chunk in graph.chunks(len(x), batch_size):
            _explain_chunk(graph, request, {name: array[chunk] for name, array in inputs.items()},
                           {name: array[chunk] for name, array in outputs.items()},
                           None if result.target is None else result.target[chunk])
            if bar is not None:
                bar.update(chunk.stop - chunk.start)
    return result


def _prepare(graph: Graph, composite: Any, compat: str | None) -> tuple[Composite, Plan, tuple[Any, ...]]:
    """The composite, its plan on this graph, and their key: made once for each name or composite, by value."""
    convention = find_convention(composite, compat)
    chosen = None if isinstance(composite, str) else find_composite(graph, composite)

    def make() -> tuple[Composite, Plan]:
        found = find_composite(graph, composite) if chosen is None else chosen
        return found, make_plan(graph, found.resolve(graph), convention)

    key = (composite if chosen is None else chosen, convention)
    return *graph.prepared(key, make), key


def _explain_chunk(graph: Graph, request: Request, inputs: dict[Any, Array], outputs: dict[Any, Array],
                   classes: Array | None) -> None:
    if not request.plan.asks_sign():
        _run(graph, request, False, inputs, outputs, classes)
        return
    # Sample by sample, so that no sample's result depends on its neighbours.
    signs = graph.ops.nonnegative_samples(inputs["x"])
    if signs.all() or not signs.any():
        _run(graph, request, bool(signs.all()), inputs, outputs, classes)
        return
    for sign in (True, False):
        rows = signs == sign
        parts = {name: array[rows] for name, array in outputs.items()}
        picked = None if classes is None else classes[rows]
        _run(graph, request, sign, {name: array[rows] for name, array in inputs.items()}, parts, picked)
        for name, part in parts.items():
            outputs[name][rows] = part
        if classes is not None:
            classes[rows] = picked


def _run(graph: Graph, request: Request, nonnegative: bool, inputs: dict[Any, Array], outputs: dict[Any, Array],
         classes: Array | None) -> None:
    """Explain samples whose inputs are all `nonnegative`, or may be anything."""
    def work(ops: Any, inputs: Mapping[Any, Any], classes: Any) -> dict[Any, Any]:
        trace = run_forward(graph, request.plan, inputs["x"], ops, request.end, nonnegative)
        output = trace.values[request.end]
        relevance = _start(ops, request, output, inputs.get("given"), classes)
        found: dict[Any, Any] = {"output": output, "start": relevance}

        def visit(i: int, value: Any) -> None:
            if i > 0:
                found["layer", graph.layers[i - 1].name] = value

        back = propagate(graph, trace, request.plan, relevance, request.end, nonnegative, visit)
        found["relevance"] = ops.multiply(back, inputs["x"]) if request.composite.times_input else back
        return found

    key = None if request.plan.means is not None else (*request.key, nonnegative, len(outputs))
    graph.run(work, key, inputs, outputs, classes)


def _start(ops: Any, request: Request, output: Any, given: Any, classes: Any) -> Any:
    """Relevance at the explained output: the array given, the output times a filter, or logit or one at the target."""
    means = request.plan.means
    if request.start == "given":
        return given
    if request.start == "one" or (request.start == "logit" and means is None):
        return ops.pick(output, classes, request.start == "one")
    changed = output if means is None else ops.affine(output, minus=means[request.end])
    return ops.multiply(changed, given if request.start == "filter" else ops.pick(output, classes, True))


def _allocate(graph: Graph, x: Array, request: Request, layers: bool) -> Explanation:
    def empty(shape: tuple[int, ...]) -> Array:
        return np.empty((len(x), *shape), graph.ops.dtype)

    end = graph.nodes[request.end - 1].layer.out_shape
    found = {node.layer.name: empty(node.layer.out_shape) for node in graph.nodes[:request.end]} if layers else {}
    return Explanation(empty(graph.input_shape), empty(end), None, empty(end), found)


def _check_start(graph: Graph, composite: Composite, start: Any, end: int, n: int) -> tuple[str, Array | None]:
    """How relevance starts, and the array (N, ...) that was given for it, if any."""
    shape = graph.nodes[end - 1].layer.out_shape
    start = composite.start if start is None else start
    if isinstance(start, Filter):
        return "filter", np.ascontiguousarray(np.broadcast_to(start.values, (n, *shape)), graph.ops.dtype)
    if isinstance(start, str):
        if start not in ("logit", "one"):
            raise ValueError(f'start must be "logit", "one" or an array of shape {("N", *shape)}, got {start!r}')
        if len(shape) != 1:
            raise ValueError(f"layer {graph.layers[end - 1].name!r} has outputs of shape {shape}, not classes: give "
                             f"start as an array of shape {('N', *shape)}")
        return start, None
    start = real_array(start, graph.ops.dtype, "start")
    if start.shape != (n, *shape):
        raise ValueError(f"start must have shape {(n, *shape)}, got {start.shape}")
    return "given", start


def _check_target(graph: Graph, target: Any, request: Request, n: int) -> Array | None:
    if target is None:
        return None
    if request.start == "given":
        raise ValueError("target must be None where start is an array: the array says what is explained")
    try:
        target = np.asarray(target)
    except ValueError:
        raise ValueError(f"target must be None, an int or an array of {n} ints, got {target!r}") from None
    classes = graph.layers[request.end - 1].out_shape[0]
    if target.dtype.kind not in "iu" or target.ndim > 1 or target.shape not in ((), (n,)):
        raise ValueError(f"target must be None, an int or an array of {n} ints, got dtype {target.dtype}, "
                         f"shape {target.shape}")
    if target.size and (target.min() < 0 or target.max() >= classes):
        raise ValueError(f"target must be between 0 and {classes - 1}, got {target.min()} to {target.max()}")
    return np.array(np.broadcast_to(target, (n,)), np.int64)


def _means(graph: Graph, x: Array, reference: Any, batch_size: int | None) -> list[Array]:
    """Mean of every value over the reference, in double precision: all of x for "batch", or the inputs given."""
    samples = reference_samples(graph, x, reference)
    sums: list[Any] = [0.0] * (len(graph.nodes) + 1)
    for chunk in graph.chunks(len(samples), batch_size):
        for sample in _samples(graph.trace(samples[chunk])):
            sums = [total + value for total, value in zip(sums, sample, strict=True)]
    return [(total / len(samples)).astype(graph.ops.dtype) for total in sums]


def reference_samples(graph: Graph, x: Array, reference: Any) -> Array:
    """The inputs whose means are the reference: x itself for "batch", or those given."""
    if isinstance(reference, str):
        if reference != "batch":
            raise ValueError(f'reference must be None, "batch" or an array of inputs, got {reference!r}')
        samples = x
    else:
        samples = graph.as_input(reference, "reference")
    if not len(samples):
        raise ValueError("reference must hold at least one sample")
    return samples


def _samples(trace: Trace) -> Any:
    """Each sample's values, so that sums do not depend on the chunks."""
    return zip(*(value.astype(np.float64) for value in trace.values), strict=True)


@dataclass
class Conservation:
    """Sums of relevance by layer and sample, from `Network.conservation_check`. L layers, N samples."""

    names: list[str]
    relevance_out: Array  # (L, N): Σ of the relevance of each layer's output
    relevance_in: Array  # (L, N): Σ of the relevance of its input

    @property
    def ratio(self) -> Array:
        """(L, N): relevance_in / relevance_out; 1 where both are zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            both = (self.relevance_in == 0) & (self.relevance_out == 0)
            return np.where(both, 1.0, self.relevance_in / self.relevance_out)

    def __str__(self) -> str:
        lines = [f"{'layer':<14}{'sample':>7}{'R out':>14}{'R in':>14}{'in / out':>12}"]
        for name, outs, ins, ratios in zip(self.names, self.relevance_out, self.relevance_in, self.ratio, strict=True):
            lines += [f"{name:<14}{i:>7}{o:>14.6g}{r:>14.6g}{q:>12.6g}"
                      for i, (o, r, q) in enumerate(zip(outs, ins, ratios, strict=True))]
        return "\n".join(lines)


def conservation(graph: Graph, found: Explanation) -> Conservation:
    """Sums over the layers of an explanation made with layers=True."""
    names = list(found.layers)
    maps = [found.relevance, *found.layers.values()]
    sums = np.stack([r.reshape(len(r), math.prod(r.shape[1:])).sum(axis=1, dtype=np.float64) for r in maps])
    return Conservation(names, sums[1:], sums[:-1])
