"""Explanations: from a batch of inputs to relevance maps. Chunks the batch, sets the start, collects the results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from . import methods
from .composites import PRESETS, Composite
from .graph import Graph, Trace
from .ops import as_array, real_array
from .progress import progress_bar
from .propagate import Plan, has_relevance, make_plan, propagate, run_forward
from .reference import Array
from .rules import CONVENTIONS, DEFAULT, Rule
from .shapes import as_flag

MOST_SHOWN = 8  # targets in an explanation's repr


@dataclass
class Explanation:
    """What `Network.explain` returns. N samples."""

    relevance: Any  # shape and layout of the input; a list of arrays where there are several inputs
    # of the explained layer: logits (N, outputs) unless start_layer says otherwise; `forward`'s but for their last bits
    # where a rule has sums of positive and negative contributions, of which they are made
    output: Array
    target: Array | None  # class explained for each sample (N,); None where the start was given as an array
    start: Array  # relevance at the explained layer's output
    layers: dict[str, Array] = field(default_factory=dict)  # relevance of each layer's output, with layers=True
    sums: dict[str, Array] = field(default_factory=dict)  # for `conservation`: (N, 2) by node, Σ R of output and inputs

    def __repr__(self) -> str:
        several = isinstance(self.relevance, list)
        shapes = [part.shape for part in self.relevance] if several else self.relevance.shape
        target = "" if self.target is None else f", target {np.array2string(self.target, threshold=MOST_SHOWN)}"
        layers = f", {len(self.layers)} layers" if self.layers else ""
        return f"Explanation(relevance {shapes}{target}{layers})"


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
    specs = (*methods.NAMES, *methods.COMBINATIONS)
    near = get_close_matches(composite, (*PRESETS, *specs), 1) if isinstance(composite, str) else ()
    raise ValueError(f"composite must be one of {list(PRESETS)}, a Composite, a methods spec ({', '.join(specs)}) or "
                     f"{{layer name: rule}}, got {composite!r}" + "".join(f"; did you mean {name!r}?" for name in near))


def find_convention(composite: Any, compat: str | None) -> Any:
    """compat by name; None: the original project's for its own `methods`, else fastlrp's own, which is zennit's but for
    layers that could not be folded."""
    if compat is None:
        own = isinstance(composite, (str, list, tuple)) and not (isinstance(composite, str) and composite in PRESETS)
        return CONVENTIONS["tensorflow_lrp"] if own else DEFAULT
    if not isinstance(compat, str) or compat not in CONVENTIONS:
        raise ValueError(f"compat must be one of {list(CONVENTIONS)}, got {compat!r}")
    return CONVENTIONS[compat]


def explain(graph: Graph, x: Any, target: Any = None, composite: Any = "epsilon_plus_flat", *, start: Any = None,
            start_layer: str | None = None, layers: bool = False, reference: Any = None,
            batch_size: int | None = None, compat: str | None = None, progress: bool | None = None,
            sums: bool = False) -> Explanation:
    """See `Network.explain`, which documents the arguments. sums: fill in `Explanation.sums`."""
    layers = as_flag(layers, "layers")
    given_inputs = graph.as_inputs(x)
    n = len(given_inputs[0])
    chosen, plan, key = _prepare(graph, composite, compat)
    if reference is not None and n:
        plan = replace(plan, means=_means(graph, given_inputs, reference, batch_size))
    end = graph.outputs[0] if start_layer is None else graph.first + graph.find(start_layer)
    kind, given = _check_start(graph, chosen, start, end, n)
    request = Request(chosen, plan, kind, end, (*key, kind, end))
    classes = _check_target(graph, target, request, n)
    if classes is None and kind in ("logit", "one"):
        classes = np.full(n, -1, np.int64)
    inputs: dict[Any, Array] = dict(enumerate(given_inputs))
    if given is not None:
        inputs["given"] = given
    maps, outputs = _allocate(graph, request, n, layers, sums)
    chunks = list(graph.chunks(n, batch_size))
    with _bar(progress, n, len(chunks)) as bar:
        for chunk in chunks:
            _explain_chunk(graph, request, {name: array[chunk] for name, array in inputs.items()},
                           {name: array[chunk] for name, array in outputs.items()},
                           None if classes is None else classes[chunk])
            if bar is not None:
                bar.update(chunk.stop - chunk.start)
    return _result(graph, end, {**maps, **outputs}, classes)


def _bar(progress: bool | None, n: int, chunks: int) -> Any:
    """A progress bar over samples, or None: one chunk is done before there is anything to show."""
    silent = progress is False or (progress is None and (chunks < 2 or not getattr(sys.stderr, "isatty", bool)()))
    return nullcontext() if silent else progress_bar(progress, n, "explaining", "sample")


def _prepare(graph: Graph, composite: Any, compat: str | None) -> tuple[Composite, Plan, tuple[Any, ...]]:
    """The composite, its plan on this graph, and their key: made once for each name or composite, by value."""
    convention = find_convention(composite, compat)
    chosen = None if isinstance(composite, str) else find_composite(graph, composite)

    def make() -> tuple[Composite, Plan]:
        found = find_composite(graph, composite) if chosen is None else chosen
        return found, make_plan(graph, found.resolve(graph, convention.pools_as_convolutions), convention)

    key = (composite if chosen is None else chosen, convention.name)
    return *graph.prepared(key, make), key


def _explain_chunk(graph: Graph, request: Request, inputs: dict[Any, Array], outputs: dict[Any, Array],
                   classes: Array | None) -> None:
    if not request.plan.asks_sign:
        _run(graph, request, False, inputs, outputs, classes)
        return
    # Sample by sample, so that no sample's result depends on its neighbours.
    signs = np.logical_and.reduce([graph.ops.nonnegative_samples(inputs[i]) for i in range(graph.first)])
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
        own = [inputs[i] for i in range(graph.first)]
        trace = run_forward(graph, request.plan, own, ops, request.end, nonnegative)
        output = trace.values[request.end]
        relevance = _start(ops, request, output, inputs.get("given"), classes)
        found: dict[Any, Any] = {"output": output, "start": relevance}

        def visit(value: int, of_output: Any, parts: Sequence[Any]) -> None:
            found["relevance", value] = of_output
            if ("sums", value) in outputs:
                found["sums", value] = _sums(of_output, parts)

        for i, back in enumerate(propagate(graph, trace, request.plan, relevance, request.end, nonnegative, visit)):
            found["relevance", i] = ops.multiply(back, own[i]) if request.composite.times_input and back is not None \
                else back
        return found

    key = None if request.plan.means is not None else (*request.key, nonnegative, *outputs)
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


def _allocate(graph: Graph, request: Request, n: int, layers: bool,
              sums: bool) -> tuple[dict[Any, Array], dict[Any, Array]]:
    """Arrays for all that is asked, inside, by name: those that stay zero, as no relevance reaches them, and the
    others."""
    reached = has_relevance(graph, request.plan, request.end)
    dtype, values = graph.ops.dtype, range(request.end + 1 if layers else graph.first)
    found: tuple[dict[Any, Array], dict[Any, Array]] = ({}, {})
    for value in values:
        make = np.empty if reached[value] else np.zeros
        found[reached[value]]["relevance", value] = make((n, *graph.shapes[value]), dtype)
    for value in range(graph.first, request.end + 1) if sums else ():
        found[reached[value]]["sums", value] = np.zeros((n, 2))
    found[True].update({name: np.empty((n, *graph.shapes[request.end]), dtype) for name in ("output", "start")})
    return found


def _result(graph: Graph, end: int, arrays: Mapping[Any, Array], classes: Array | None) -> Explanation:
    """What the user gets, in the network's own layout."""
    shown = [graph.to_surface(i, arrays["relevance", i]) for i in range(graph.first)]
    layers, sums = {}, {}
    for kind, i in sorted(name for name in arrays if isinstance(name, tuple)):
        if i >= graph.first:
            array, of = arrays[kind, i], graph.nodes[i - graph.first].name
            if kind == "sums":
                sums[of] = array
            else:
                layers[of] = graph.to_surface(i, array)
    return Explanation(shown[0] if len(shown) == 1 else shown, graph.to_surface(end, arrays["output"]), classes,
                       graph.to_surface(end, arrays["start"]), layers, sums)


def _sums(of_output: Array, parts: Sequence[Any]) -> Array:
    """(N, 2): Σ over each sample of relevance that comes and of all parts that go."""
    sums = [np.zeros(len(of_output)), np.zeros(len(of_output))]
    for i, part in ((0, of_output), *((1, part) for part in parts)):
        if part is not None:
            sums[i] += part.reshape(len(part), -1).sum(axis=1, dtype=np.float64)
    return np.stack(sums, axis=1)


def _check_start(graph: Graph, composite: Composite, start: Any, end: int, n: int) -> tuple[str, Array | None]:
    """How relevance starts, and the array (N, ...) that was given for it, inside, if any."""
    shape = graph.surface_shape(end)
    start = composite.start if start is None else start
    if isinstance(start, Filter):
        filters = np.ascontiguousarray(np.broadcast_to(start.values, (n, *shape)), graph.ops.dtype)
        return "filter", graph.to_inside(end, filters)
    if isinstance(start, str):
        if start not in ("logit", "one"):
            raise ValueError(f'start must be "logit", "one" or an array of shape {("N", *shape)}, got {start!r}')
        if len(shape) != 1:
            name = graph.nodes[end - graph.first].name
            raise ValueError(f"layer {name!r} has outputs of shape {shape}, not classes: give start as an array of "
                             f"shape {('N', *shape)}")
        return start, None
    start = real_array(start, graph.ops.dtype, "start")
    if start.shape != (n, *shape):
        raise ValueError(f"start must have shape {(n, *shape)}, got {start.shape}")
    return "given", graph.to_inside(end, start)


def _check_target(graph: Graph, target: Any, request: Request, n: int) -> Array | None:
    if target is None:
        return None
    if request.start == "given":
        raise ValueError("target must be None where start is an array: the array says what is explained")
    if isinstance(target, (str, dict, Composite)):
        raise ValueError(f"target must be None, an int or an array of {n} ints, got {target!r}; a composite goes after "
                         "it, or by its name: composite=...")
    target, classes = as_array(target, "target"), graph.shapes[request.end][0]
    if target.dtype.kind not in "iu" or target.shape not in ((), (n,)):
        got = f"dtype {target.dtype}, shape {target.shape}" if target.ndim else repr(target[()])
        raise ValueError(f"target must be None, an int from 0 to {classes - 1} or an array of {n} of them, got {got}")
    if target.size and (target.min() < 0 or target.max() >= classes):
        raise ValueError(f"target must be between 0 and {classes - 1}, got {target.min()} to {target.max()}")
    return np.array(np.broadcast_to(target, (n,)), np.int64)


def _means(graph: Graph, inputs: Sequence[Array], reference: Any, batch_size: int | None) -> list[Array]:
    """Mean of every value over the reference, in double precision: all of x for "batch", or the inputs given."""
    samples = reference_samples(graph, inputs, reference)
    sums: list[Any] = [0.0] * len(graph.shapes)
    n = len(samples[0])
    for chunk in graph.chunks(n, batch_size):
        for sample in _samples(graph.trace([array[chunk] for array in samples])):
            sums = [total + value for total, value in zip(sums, sample, strict=True)]
    return [(total / n).astype(graph.ops.dtype) for total in sums]


def reference_samples(graph: Graph, inputs: Sequence[Array], reference: Any) -> Sequence[Array]:
    """The inputs whose means are the reference: those explained for "batch", or those given; inside."""
    if isinstance(reference, str):
        if reference != "batch":
            raise ValueError(f'reference must be None, "batch" or an array of inputs, got {reference!r}')
        samples = inputs
    else:
        samples = graph.as_inputs(reference, "reference")
    if not len(samples[0]):
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
    relevance_in: Array  # (L, N): Σ of the relevance that it hands to its inputs

    def __repr__(self) -> str:
        layers, samples = self.relevance_in.shape
        return f"Conservation({layers} layers, {samples} samples; print it for a table)"

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
    """The sums of an explanation made with sums=True, in execution order."""
    sums = np.stack([*found.sums.values()])
    return Conservation(list(found.sums), sums[:, :, 0], sums[:, :, 1])
