"""Steps that a program does without: ReLUs next to sum pools, which apply them to what they read and write anyway, and
after products, which apply them to what they write; max pools after products and before their relevance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import _kernels
from .steps import Step

RELU = _kernels.ACTIVATIONS["relu"]
POOL_READS = {("sum_pool", 0), ("sum_pool_backward", 1)}
LEAST_POOLED = 1 << 19  # floats of a sample between product and pool: fewer stay in a cache anyway


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


def fused_pools(steps: Sequence[Step], external: set[int]) -> list[Step]:
    """The same run, with the same bits: products on tiles and the max pools next to them go through their rows
    together, so that what lies between never leaves the cache."""
    alone = {i: found[0][0] for i, found in _readers(steps).items() if len(found) == 1 and i not in external}
    products = {step.out[0].index: step for step in steps if step.op == "product"}
    after = {i: alone[i] for i, product in products.items() if i in alone and alone[i].op == "max_pool"
             and _joins(alone[i].window, product) and not product.ratio and not product.factors}
    before = {step.out[0].index: step for step in steps if step.op == "max_pool_backward"
              and _reads_relevance(alone.get(step.out[0].index), step)}
    gone = {*after.values(), *before.values()}
    return [_with_pool(step, after, before) for step in steps if step not in gone]


def _reads_relevance(product: Step | None, pool: Step) -> bool:
    return (product is not None and product.op == "product" and product.ratio is not None
            and product.ratio[0].index == pool.out[0].index and _joins(pool.window, product))


def _joins(window: Any, product: Step) -> bool:
    return (product.product.takes_pools and product.out[0].sample_shape == window.in_shape
            and math.prod(window.in_shape) >= LEAST_POOLED and window.kernel == window.stride == (2, 2)
            and window.dilation == (1, 1) and window.padding == ((0, 0), (0, 0)))


def _with_pool(step: Step, after: dict[int, Step], before: dict[int, Step]) -> Step:
    if step.op == "product" and step.out[0].index in after:
        pool = after[step.out[0].index]
        return replace(step, out=pool.out, window=pool.window)
    if step.op == "product" and step.ratio is not None and step.ratio[0].index in before:
        pool = before[step.ratio[0].index]
        g, winner = (source[0] for source in pool.sources if source is not None)
        return replace(step, ratio=(g, *step.ratio[1:]), winner=winner, window=pool.window)
    return step


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
        others += [(step.winner, -1)] if step.winner is not None else []
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
