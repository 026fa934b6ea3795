"""What a run finds: rows of three kinds, what each should reach, and their tables.

A row carries its goal, if there is one for the instruction set in use, and whether it was reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastlrp.bench import CHOSEN, Variant

ANY = "any"  # instruction set

# How many times faster than a peer that does the same, at its fastest: (work, batch) to instruction set to factor.
FASTER: dict[tuple[str, int], dict[str, float]] = {
    ("VGG-16 forward", 4): {"amx": 1.5, "avx512": 1.0},
    ("VGG-16 EpsilonPlusFlat", 1): {"amx": 4.5},
    ("VGG-16 EpsilonPlusFlat", 4): {"amx": 6.0, "avx512": 4.0},
    ("VGG-16 EpsilonPlusFlat", 16): {"amx": 6.0},
    ("VGG-16 EpsilonPlusFlat, high", 4): {"amx": 10.0},
    ("VGG-16 EpsilonPlusFlat, medium", 4): {"amx": 4.0},
    ("VGG-16 EpsilonGammaBox", 4): {"amx": 10.0},
    ("VGG-16 EpsilonAlpha2Beta1Flat", 4): {"amx": 7.0},
    ("ResNet-50 forward", 4): {ANY: 0.9},
    ("ResNet-50 EpsilonPlusFlat", 4): {ANY: 5.0},
    ("MobileNetV2 EpsilonPlusFlat", 4): {ANY: 4.0},
    ("LeNet zB + α1β0", 1): {ANY: 40.0},
    ("LeNet zB + α1β0", 128): {ANY: 15.0},
    ("LeNet zB + α1β0", 1024): {ANY: 15.0},
    ("MLP zB + α1β0", 1): {ANY: 12.0},
    ("MLP zB + α1β0", 128): {ANY: 5.0},
    ("MLP zB + α1β0", 1024): {ANY: 4.0},
    ("LeNet training", 50): {ANY: 2.0},
    ("LeNet training", 128): {ANY: 2.0},
}
# What the README's one table shows, for every machine: (work, batch).
SUMMARY = [("VGG-16 EpsilonPlusFlat", 1), ("VGG-16 EpsilonPlusFlat", 4), ("VGG-16 EpsilonPlusFlat", 16),
           ("ResNet-50 EpsilonPlusFlat", 4), ("MobileNetV2 EpsilonPlusFlat", 4), ("LeNet zB + α1β0", 1),
           ("LeNet zB + α1β0", 1024), ("MLP zB + α1β0", 1), ("MLP zB + α1β0", 1024), ("VGG-16 forward", 4),
           ("LeNet training", 50), ("MLP training", 50)]
ISA_NAMES = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "portable": "portable"}
FORWARD = "PyTorch forward"  # beside an explanation: a peer that does less, so that no goal is for it
# 3×3 kernels from WIDE channels on: GFLOP/s over the FMA peak of the same run.
WIDE = 64
OF_PEAK: dict[Variant, dict[str, float]] = {
    CHOSEN: {"amx": 1.3},
    Variant("high"): {"amx": 2.5},
    Variant("medium"): {"amx": 5.0},
    Variant(direct=True): {"avx512": 0.7, "avx2": 0.7},
}


@dataclass(frozen=True)
class Setting:
    """What a run's rows share."""

    isa: str
    peak: float  # FMA peak, FLOP/s
    size: int = 224  # of VGG-16's input

    @property
    def standard(self) -> bool:
        """Whether VGG-16 is the one that goals are for."""
        return self.size == 224


@dataclass(frozen=True)
class Job:
    """A named piece of work that yields rows as they are measured."""

    name: str
    rows: Callable[[], Iterator[Any]]


def goal(figures: dict[str, float], isa: str) -> float | None:
    return figures.get(isa, figures.get(ANY))


def variants(isa: str) -> list[Variant]:
    """Of a wide kernel, those that are measured: what networks get, and what there is a goal for."""
    return [variant for variant, figures in OF_PEAK.items() if variant == CHOSEN or goal(figures, isa) is not None]


def at_precision(work: str, precision: str) -> str:
    """The name of some work at a precision: that of networks which are asked for nothing is not said."""
    return work if precision == CHOSEN.precision else f"{work}, {precision}"


def number(value: float | None) -> str:
    """Three digits that count, without an exponent; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def verdict(at_least: str, reached: bool | None) -> str:
    """A table's cell: the goal and whether it was reached, or nothing."""
    return "" if reached is None else f"{at_least}: {'reached' if reached else 'missed'}"


@dataclass(frozen=True)
class Row:
    """fastlrp beside one peer. Milliseconds are per image."""

    work: str
    batch: int
    ms: float
    best_ms: float
    gflops: float
    of_peak: float
    peer: str = "–"
    peer_ms: float | None = None
    peer_best_ms: float | None = None
    ratio: float | None = None  # of medians: how many times faster fastlrp is
    at_least: float | None = None  # of the ratio
    reached: bool | None = None
    precision: str = CHOSEN.precision

    @property
    def goal(self) -> str:
        return verdict(f"{self.at_least:g}" if self.at_least else "", self.reached)

    def cells(self) -> list[Any]:
        return [self.work, self.batch, f"{number(self.ms)} ({number(self.best_ms)})", self.peer,
                f"{number(self.peer_ms)} ({number(self.peer_best_ms)})", number(self.ratio), self.goal,
                number(self.gflops), f"{self.of_peak:.0%}"]

    def short(self) -> list[str]:
        return [f"{self.work}, batch {self.batch}, beside {self.peer}", f"{number(self.ratio)} times faster", self.goal]


@dataclass(frozen=True)
class KernelRow:
    """One product of one layer, at the median of its runs."""

    kernel: str
    channels: int  # of its input or its output, the fewer
    batch: int
    direction: str
    gflops: float
    best_gflops: float
    of_peak: float
    best_of_peak: float
    at_least: float | None = None  # of the FMA peak, at the median
    reached: bool | None = None
    precision: str = CHOSEN.precision
    direct: bool = False  # asked for: else the library chooses the algorithm

    @property
    def variant(self) -> str:
        return Variant(self.precision, self.direct).name

    @property
    def goal(self) -> str:
        return verdict(f"{self.at_least:.0%}" if self.at_least else "", self.reached)

    def cells(self) -> list[Any]:
        return [self.kernel, self.batch, self.variant, self.direction,
                f"{number(self.gflops)} ({number(self.best_gflops)})",
                f"{self.of_peak:.0%} ({self.best_of_peak:.0%})", self.goal]

    def short(self) -> list[str]:
        return [f"{self.kernel}, batch {self.batch}, {self.variant}, {self.direction}",
                f"{self.of_peak:.0%} of the FMA peak", self.goal]


@dataclass(frozen=True)
class ScaleRow:
    """Threads and memory: fastlrp's figure, a peer's where it is measured too, and the goal in words."""

    what: str
    unit: str
    value: float
    peer: str = ""
    peer_value: float | None = None
    batch: int = 0  # 0: does not matter
    at_least: str = ""
    reached: bool | None = None

    @property
    def goal(self) -> str:
        return verdict(self.at_least, self.reached)

    def cells(self) -> list[Any]:
        there = f"{self.peer} {number(self.peer_value)}" if self.peer else ""
        return [self.what, f"{number(self.value)} {self.unit}", there, self.goal]

    def short(self) -> list[str]:
        return [self.what, f"{number(self.value)} {self.unit}", self.goal]


HEADS: dict[type, str] = {
    Row: "work | batch | fastlrp ms (best) | peer | peer ms (best) | times faster | at least | GFLOP/s | of FMA peak",
    KernelRow: "kernel | batch | precision | direction | GFLOP/s (best) | of FMA peak (best) | at least",
    ScaleRow: "scale | fastlrp | peer | at least",
}


def line(row: Any) -> str:
    return _line(row.cells())


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(rows: Sequence[Any]) -> str:
    """A Markdown table of rows of one kind."""
    return _table(HEADS[type(rows[0])], [row.cells() for row in rows])


def summary_table(runs: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """One of the rows that SUMMARY names, with a column for each run, given as its name and rows."""
    lines = []
    for work, batch in SUMMARY:
        found = [next((row for row in some if isinstance(row, Row) and (row.work, row.batch) == (work, batch)), None)
                 for _, some in runs]
        peer = next((row.peer for row in found if row), "–")
        lines.append([work, batch, peer, *(f"**{number(row.ratio)}** ({number(row.ms)})" if row else "–"
                                           for row in found)])
    return _table(" | ".join(["work", "batch", "beside", *(name for name, _ in runs)]), lines)


def _table(head: str, lines: Sequence[Sequence[Any]]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *map(_line, lines)])


def kernel_summary(rows: Iterable[KernelRow]) -> str:
    """One sentence about the 3×3 kernels from WIDE channels on."""
    wide = [row for row in rows if row.kernel.startswith("3×3") and row.channels >= WIDE]
    spans = []
    for variant in dict.fromkeys(row.variant for row in wide):
        sides = []
        for direction in ("forward", "back"):
            if shares := [row.of_peak for row in wide if (row.variant, row.direction) == (variant, direction)]:
                sides.append(f"{min(shares):.0%} to {max(shares):.0%} {direction}")
        spans.append(f"{variant}: {', '.join(sides)}")
    return f"3×3 kernels of VGG-16, share of the FMA peak, {'; '.join(spans)}." if spans else ""
