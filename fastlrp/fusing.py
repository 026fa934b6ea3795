"""Steps that a program does without: ReLUs next to sum pools, which apply them to what they read and write anyway, and
after products, which apply them to what they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import _kernels
from .steps import Step

RELU = _kernels.ACTIVATIONS["relu"]
POOL_READS = {("sum_pool", 0), ("sum_pool_backward", 1)}


def fused(steps: Sequence[Step], external: set[int]) -> list[Step]:
    """The same run, with the same bits, in fewer steps. external: slots whose values are asked for."""
    readers = _readers(steps)
    inner = {step.out[0].index: step for step in steps if step.out[0].index not in external}
    relus = {i: step for i, step in inner.items() if step.op == "activation" and step.kind == RELU
             and all((reader.op, at) in POOL_READS for reader, at in readers[i])}
    pools = {i: step for i, step in inner.items() if step.op == "sum_pool_backward" and step.sources[1] is None
             and [(reader.op, reader.kind, at) for reader, at in readers[i]] == [("activation_backward", RELU, 1)]}
    ends = _ends(inner, readers, relus)
    gone = relus.keys() | pools.keys() | {end.out[0].index for end in ends.values()}
    kept = [step for step in steps if step.out[0].index not in gone]
    return [_ending(_gated(_reading_through(step, relus), pools), ends) for step in kept]


def _ends(inner: dict[int, Step], readers: dict[int, list[tuple[Step, int]]],
          relus: dict[int, Step]) -> dict[int, Step]:
    """The ReLUs that alone read what a product makes, by the slot of that; relus: those that are gone already."""
    products = [i for i, step in inner.items() if step.op == "product" and step.product.sides == 1
                and step.ratio is None and not step.factors]
    ends = {i: readers[i][0][0] for i in products if len(readers[i]) == 1}
    return {i: step for i, step in ends.items() if step.op == "activation" and step.kind == RELU
            and step.out[0].index not in relus}


def _readers(steps: Sequence[Step]) -> dict[int, list[tuple[Step, int]]]:
    """For each slot, the steps that read it, and as which of their sources; −1: as something else."""
    found: dict[int, list[tuple[Step, int]]] = {slot.index: [] for step in steps for slot in (*step.out, *step.reads())}
    for step in steps:
        sources = [(source[0], i) for i, source in enumerate(step.sources) if source is not None]
        others = [(source[0], -1) for source in step.factors] + ([(step.ratio[0], -1)] if step.ratio else [])
        for slot, at in sources + others:
            found[slot.index].append((step, at))
    return found


def _reading_through(step: Step, relus: dict[int, Step]) -> Step:
    """A step that reads what ReLUs are taken of, and takes them."""
    if not any(source is not None and source[0].index in relus for source in step.sources):
        return step
    return replace(step, sources=tuple(
        source if source is None or source[0].index not in relus
        else (relus[source[0].index].sources[0][0], "positive", None)  # type: ignore[index]
        for source in step.sources))


def _ending(step: Step, ends: dict[int, Step]) -> Step:
    """A product, with the ReLU after it."""
    return replace(step, out=ends[step.out[0].index].out, kind=1) if step.out[0].index in ends else step


def _gated(step: Step, pools: dict[int, Step]) -> Step:
    """A ReLU's way back, with that of the pool after it."""
    if step.op != "activation_backward":
        return step
    (x, *_), (g, *_) = step.sources  # type: ignore[misc]
    if g.index not in pools:
        return step
    return replace(pools[g.index], out=step.out, sources=(pools[g.index].sources[0], (x, "gate", None)))
