"""Where the values of a program lie: slots that are not needed at the same time share their memory.

In large programs, neighbouring steps that work pixel by pixel make a stretch: blocks of pixels go through all of its
steps, and what is used nowhere else lies in a scratch that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .steps import Step

ALIGN = 16  # floats: every slot starts on a cache line

# Each output element depends on the input elements in the same place alone: the output may take their memory.
ELEMENTWISE = {"ratio", "gamma", "activation", "activation_backward", "affine", "combine"}

LEAST_BYTES = 1 << 20  # of one sample's values: smaller samples stay in the cache, all steps of them


@dataclass(frozen=True)
class Stretch:
    """Steps first, first + 1, ... over `pixels` of a sample; own: the slots in its scratch, `floats` for one pixel."""

    first: int
    count: int
    pixels: int
    own: frozenset[int]
    floats: int


@dataclass(frozen=True)
class Layout:
    """offsets: of every slot, in floats of one sample (−1: external or unused), or of one pixel in a stretch's own."""

    offsets: list[int]
    arena: int
    stretches: Sequence[Stretch] = ()


def lay_out(steps: Sequence[Step], sizes: Sequence[int], external: set[int], stretch: bool = False) -> Layout:
    """sizes: floats of one sample of every slot; external: those outside the arena."""
    offsets, arena = _share([[step] for step in steps], dict(enumerate(sizes)), external)
    runs = _runs(steps) if stretch and 4 * arena > LEAST_BYTES else []
    if not runs:
        return Layout([offsets.get(i, -1) for i in range(len(sizes))], arena)
    units = _units(steps, runs)
    stretches, own = [], dict[int, int]()
    for first, stop, pixels in runs:
        inside = _inside(units, first, steps[first:stop]) - external
        per_pixel = {i: sizes[i] // pixels for i in inside}
        places, floats = _share([[step] for step in steps[first:stop]], per_pixel, set(range(len(sizes))) - inside, 1)
        stretches.append(Stretch(first, stop - first, pixels, frozenset(inside), floats))
        own.update(places)
    offsets, arena = _share(units, dict(enumerate(sizes)), external | own.keys())
    offsets.update(own)
    return Layout([offsets.get(i, -1) for i in range(len(sizes))], arena, stretches)


def _grid(step: Step) -> tuple[int, ...]:
    """Rows and columns of pixels, where each pixel of the outputs is made of the same pixel of the inputs alone."""
    shapes = [slot.sample_shape for slot in (*step.out, *step.reads())]
    grid, channels = shapes[0][:2], shapes[0][-1]
    operands = [source for source in (*step.sources, *step.factors) if source is not None]
    if any(len(shape) != 3 or shape[:2] != grid for shape in shapes) or any(o[1] == "shifted" for o in operands):
        return ()
    if step.op == "product":
        return grid if step.product.is_pixelwise else ()
    whole = step.op == "ratio" and step.sources[0] is None  # a constant for every element of a sample
    return grid if step.op in ELEMENTWISE and step.channels in (1, channels) and not whole else ()


def _runs(steps: Sequence[Step]) -> list[tuple[int, int, int]]:
    """(first step, one past the last, pixels) of stretches: two steps or more on the same grid."""
    runs, first, grids = [], 0, [_grid(step) for step in steps]
    for t in range(1, len(steps) + 1):
        if t == len(steps) or grids[t] != grids[first]:
            if grids[first] and t - first > 1:
                runs.append((first, t, grids[first][0] * grids[first][1]))
            first = t
    return runs


def _units(steps: Sequence[Step], runs: Iterable[tuple[int, int, int]]) -> list[list[Step]]:
    """Steps one by one, but for stretches."""
    units, at = [], 0
    for first, stop, _ in runs:
        units += [[step] for step in steps[at:first]]
        units.append(list(steps[first:stop]))
        at = stop
    return units + [[step] for step in steps[at:]]


def _inside(units: Sequence[Sequence[Step]], first: int, stretch: Sequence[Step]) -> set[int]:
    """The slots that a stretch fills and no other step uses."""
    made = {slot.index for step in stretch for slot in step.out}
    ids = {id(step) for step in stretch}
    return made - {slot.index for unit in units for step in unit if id(step) not in ids
                   for slot in (*step.out, *step.reads())}


def _share(units: Sequence[Sequence[Step]], sizes: Mapping[int, int], elsewhere: set[int],
           align: int = ALIGN) -> tuple[dict[int, int], int]:
    """An offset for every slot that is used and not elsewhere, and the floats of all: what one unit of steps reads and
    writes is there at the same time."""
    uses = [{slot.index for step in unit for slot in (*step.out, *step.reads())} for unit in units]
    last = {i: t for t, used in enumerate(uses) for i in used}
    offsets, arena = dict[int, int](), 0
    live: dict[int, tuple[int, int]] = {}  # slot: offset, size
    for t, unit in enumerate(units):
        ending = {i for i in live if last[i] == t} if len(unit) == 1 and unit[0].op in ELEMENTWISE else set()
        for slot in (slot for step in unit for slot in step.out):
            if slot.index in elsewhere or slot.index in live:  # what several steps fill together
                continue
            size = -(-sizes[slot.index] // align) * align
            heir = next((i for i in ending if live[i][1] == size), None)
            if heir is None:
                offset = _first_gap(live.values(), size)
            else:
                offset, _ = live.pop(heir)
                ending.remove(heir)
            live[slot.index], offsets[slot.index] = (offset, size), offset
            arena = max(arena, offset + size)
        for index in [i for i in live if last[i] == t]:
            del live[index]
    return offsets, arena


def _first_gap(taken: Iterable[tuple[int, int]], size: int) -> int:
    at = 0
    for offset, length in sorted(taken):
        if offset - at >= size:
            break
        at = max(at, offset + length)
    return at
