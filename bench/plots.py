"""Two pictures of runs: how many times faster than the peers, and time and memory against the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from pages import Run
from rows import FORWARD, Row, ScaleRow, number

# Colours that any eye tells apart: of machines, and of the two sides.
MACHINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
OWN, PEER = "#0072b2", "#d55e00"
LINES = ("o-", "s--", "^:")
KINDS = {" forward": "forward pass", " training": "training", "": "explanation"}  # by the ends of works' names


def draw(runs: Sequence[Run], folder: Path) -> None:
    """Write speed.png, of all runs, and batches.png, of the first, as far as there are rows for them."""
    folder.mkdir(parents=True, exist_ok=True)
    if groups := grouped(runs):
        speed(runs, groups).savefig(folder / "speed.png")
    about, rows = runs[0]
    explained = [row for row in rows if isinstance(row, Row) and row.peer == "zennit"]
    memory = [row for row in rows if isinstance(row, ScaleRow) and "peak memory" in row.what]
    if explained or memory:
        where = f"{about['cpu']}, {about['isa']}, {about['threads']} threads"
        batches(explained, memory, where).savefig(folder / "batches.png")


def grouped(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(what is done, its works), of peers that do the same."""
    works = dict.fromkeys(_place(row) for run in runs for row in run.rows if _shown(row))
    return [(kind, found) for kind in KINDS.values() if (found := [work for other, work in works if other == kind])]


def speed(runs: Sequence[Run], groups: Sequence[tuple[str, list[str]]]) -> Figure:
    """A bar for each work and machine from parity, 1, to the ratio: explaining left, all else right."""
    explained = [group for group in groups if group[0] == KINDS[""]]
    sides = [side for side in (explained, [group for group in groups if group not in explained]) if side]
    heights = [sum(len(works) + 1 for _, works in side) for side in sides]
    figure = Figure(figsize=(10.5, 0.42 * max(heights) + 1.1), dpi=110, facecolor="white", layout="constrained")
    for axes, side in zip(figure.subplots(1, len(sides), sharex=True, squeeze=False)[0], sides, strict=True):
        _bars(axes, runs, side, max(heights))
    handles = [figure.axes[0].barh(0, 0, color=color) for color, _ in zip(MACHINES, runs, strict=False)]
    figure.legend(handles, [f"{run.name} ({run.about['cpu']}, {run.about['threads']} threads)" for run in runs],
                  loc="outside lower center", ncols=len(runs), fontsize=9)
    figure.suptitle("times faster than zennit (medium: in bfloat16) and PyTorch; 1: as fast", fontsize=11)
    return figure


def _bars(axes: Any, runs: Sequence[Run], groups: Sequence[tuple[str, list[str]]], height: int) -> None:
    places = [place for kind, works in groups for place in ((kind, ""), *((kind, work) for work in works))]
    thick = 0.8 / len(runs)
    for i, (color, run) in enumerate(zip(MACHINES, runs, strict=False)):
        for row in filter(_shown, run.rows):
            if _place(row) in places:
                y = places.index(_place(row)) + (i - (len(runs) - 1) / 2) * thick
                axes.barh(y, row.ratio - 1, thick, left=1, color=color)
                axes.annotate(number(row.ratio), (max(row.ratio, 1), y), (3, -0.5), textcoords="offset points",
                              va="center", fontsize=6.5)
    axes.set_yticks(range(len(places)), [work or kind for kind, work in places], fontsize=8.5)
    for label, (_, work) in zip(axes.get_yticklabels(), places, strict=True):
        label.set_fontweight("normal" if work else "bold")
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(height - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    _plain(axes.xaxis)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _shown(row: Any) -> bool:
    """A peer's forward pass beside an explanation is no peer that does the same."""
    return isinstance(row, Row) and row.ratio is not None and row.peer != FORWARD


def _place(row: Row) -> tuple[str, str]:
    """What is done, and the work's name beneath it."""
    ending = next(ending for ending in KINDS if row.work.endswith(ending))
    return KINDS[ending], f"{row.work.removesuffix(ending)}, batch {row.batch}"


def batches(explained: Sequence[Row], memory: Sequence[ScaleRow], where: str) -> Figure:
    """Explanations measured at several batch sizes, on the left; VGG-16's peak memory, on the right."""
    figure = Figure(figsize=(10.5, 4.2), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    works = [work for work in dict.fromkeys(row.work for row in explained)
             if sum(row.work == work for row in explained) > 1]
    for work, style in zip(works, LINES, strict=False):
        some = [row for row in explained if row.work == work]
        for name, color, times in (("fastlrp", OWN, [r.ms for r in some]),
                                   ("zennit", PEER, [r.peer_ms for r in some])):
            _line(left, [r.batch for r in some], times, style, color, f"{work}: {name}")
    if works:
        left.set_yscale("log")
        _plain(left.yaxis)
    pairs = [("fastlrp", OWN, r.batch, r.value) for r in memory]
    pairs += [("zennit", PEER, r.batch, r.peer_value) for r in memory if r.peer_value is not None]
    for name, color in dict.fromkeys(pair[:2] for pair in pairs):
        points = [(batch, size / 1e3) for other, _, batch, size in pairs if other == name]
        _line(right, *zip(*points, strict=True), "o-", color, name)
    if pairs:
        right.set_ylim(0, 1.1 * max(size for *_, size in pairs) / 1e3)
    work = next((row.what.partition(",")[0] for row in memory), "")
    for axes, title, unit, room in ((left, "time an image", "milliseconds", 16),
                                    (right, f"peak memory of a process: {work}", "GB", 2)):
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(unit, fontsize=9)
        axes.set_xlabel("batch size", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xlim(right=axes.get_xlim()[1] * room)  # for the names of the lines
        sizes = sorted({int(x) for line in axes.lines for x in line.get_xdata()})
        axes.set_xticks(sizes)
        _plain(axes.xaxis)
        axes.grid(color="#eeeeee")
    figure.suptitle(where, fontsize=9)
    return figure


def _line(axes: Any, x: Sequence[float], y: Sequence[Any], style: str, color: str, name: str) -> None:
    """A line with its name at its end."""
    axes.plot(x, y, style, color=color, ms=4)
    axes.annotate(name, (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=color)


def _plain(axis: Any) -> None:
    """0.1, 1, 10 instead of powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
