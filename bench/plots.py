"""Two pictures of a run: time per image beside the peers, and time and memory against the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rows import FORWARD, Row, ScaleRow, number

OWN = "#0072b2"  # colours that any eye tells apart
PEERS = {"PyTorch": "#999999", FORWARD: "#000000", "zennit": "#d55e00", "zennit bf16": "#e69f00"}
LINES = ("o-", "s--", "^:")


def draw(found: Sequence[Any], about: dict[str, Any], folder: Path) -> None:
    """Write speed.png and batches.png, as far as there are rows for them."""
    times = [row for row in found if isinstance(row, Row) and row.peer_ms is not None]
    memory = [row for row in found if isinstance(row, ScaleRow) and "peak memory" in row.what]
    where = f"{about['cpu']}, {about['isa']}, {about['threads']} threads"
    folder.mkdir(parents=True, exist_ok=True)
    if times:
        speed(times, where).savefig(folder / "speed.png")
    explained = [row for row in times if row.peer == "zennit"]
    if explained or memory:
        batches(explained, memory, where).savefig(folder / "batches.png")


def speed(times: Sequence[Row], where: str) -> Figure:
    """A line for each work: from fastlrp's time to the peer's, with the ratio."""
    figure = Figure(figsize=(8, 0.27 * len(times) + 1.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for y, row in enumerate(times):
        assert row.peer_ms is not None  # draw has chosen such rows
        axes.plot([row.ms, row.peer_ms], [y, y], color="#dddddd", lw=3, zorder=1)
        axes.plot(row.ms, y, "o", color=OWN, label="fastlrp" if y == 0 else None)
        first = all(other.peer != row.peer for other in times[:y])
        axes.plot(row.peer_ms, y, "o", color=PEERS[row.peer], label=row.peer if first else None)
        axes.annotate(f"{number(row.ratio)}×", (max(row.ms, row.peer_ms), y), (7, 0), textcoords="offset points",
                      va="center", fontsize=7)
    axes.set_yticks(range(len(times)), [f"{row.work}, batch {row.batch}" for row in times], fontsize=8)
    axes.set_ylim(len(times) - 0.5, -0.5)
    axes.margins(x=0.12)
    _milliseconds(axes.xaxis)
    axes.set_xlabel(f"milliseconds an image ({where})", fontsize=8)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def batches(explained: Sequence[Row], memory: Sequence[ScaleRow], where: str) -> Figure:
    """Explanations measured at several batch sizes, on the left; VGG-16's peak memory, on the right."""
    figure = Figure(figsize=(9, 3.6), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    works = [work for work in dict.fromkeys(row.work for row in explained)
             if sum(row.work == work for row in explained) > 1]
    for work, style in zip(works, LINES, strict=False):
        some = [row for row in explained if row.work == work]
        left.plot([r.batch for r in some], [r.ms for r in some], style, color=OWN, ms=4, label=f"{work}: fastlrp")
        left.plot([r.batch for r in some], [r.peer_ms for r in some], style, color=PEERS["zennit"], ms=4,
                  label=f"{work}: zennit")
    if works:
        left.set_yscale("log")
        _milliseconds(left.yaxis)
        left.legend(fontsize=6)
    pairs = [("fastlrp", OWN, r.batch, r.value) for r in memory]
    pairs += [("zennit", PEERS["zennit"], r.batch, r.peer_value) for r in memory if r.peer_value is not None]
    for name, color in dict.fromkeys(pair[:2] for pair in pairs):
        points = [(batch, size / 1e3) for other, _, batch, size in pairs if other == name]
        right.plot(*zip(*points, strict=True), "o-", color=color, ms=4, label=name)
    if pairs:
        right.set_ylim(0, 1.1 * max(size for *_, size in pairs) / 1e3)
        right.legend(fontsize=7)
    for axes, title, unit in ((left, "time per image", "milliseconds"),
                              (right, "peak memory of a process, VGG-16", "GB")):
        axes.set_title(title, fontsize=9)
        axes.set_ylabel(unit, fontsize=8)
        axes.set_xlabel("batch size", fontsize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(color="#eeeeee")
    figure.suptitle(where, fontsize=8)
    return figure


def _milliseconds(axis: Any) -> None:
    """0.1, 1, 10 instead of powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
