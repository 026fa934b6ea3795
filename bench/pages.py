"""What the pages show of runs: README.md one table of all machines, docs/speed.md everything.

A run is what --json wrote. Nothing that its file knows is typed by hand: what is slower than its peer, and what
missed its goal, is named in sentences made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rows
from rows import KernelRow, Row, ScaleRow

BEGIN, END = "<!-- bench/peers.py -->", "<!-- end -->"
KINDS: dict[str, type] = {"times": Row, "kernels": KernelRow, "scale": ScaleRow}  # names in the JSON file
PICTURES = {"speed.png": "How many times faster than the peers, work by work, on each machine",
            "batches.png": "Time an image and memory against batch size"}


class Run(NamedTuple):
    """The machine and the rows."""

    about: dict[str, Any]
    rows: list[Any]

    @property
    def name(self) -> str:
        return rows.ISA_NAMES[self.about["isa"]]


def by_kind(found: Sequence[Any]) -> dict[str, list[Any]]:
    return {name: [row for row in found if isinstance(row, kind)] for name, kind in KINDS.items()}


def read(path: Path) -> Run:
    """The run that --json wrote."""
    data = json.loads(path.read_text())
    return Run(data["machine"], [kind(**row) for name, kind in KINDS.items() for row in data[name]])


def tables(found: Sequence[Any]) -> str:
    return "\n\n".join(rows.table(some) for some in by_kind(found).values() if some)


def place(about: dict[str, Any]) -> str:
    """What figures were measured on."""
    tiles = f", AMX peak {about['amx_peak_gflops']} GFLOP/s" if "amx_peak_gflops" in about else ""
    return (f"{about['cpu']}, {about['isa']}, {about['threads']} threads, FMA peak {about['fma_peak_gflops']} GFLOP/s"
            f"{tiles}")


def peers(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in about["peers"].items())


def readme_text(runs: Sequence[Run], docs: Path) -> str:
    """The chosen rows of all runs side by side, what is slower or missed in words, and the pictures there are."""
    machines = "; ".join(f"{run.name}: {run.about['cpu']}, {run.about['threads']} threads, {peers(run.about)}"
                         for run in runs)
    pictures = [f"![{text}](docs/{name})" for name, text in PICTURES.items() if (docs / name).exists()]
    return "\n\n".join([rows.summary_table([(run.name, run.rows) for run in runs]), f"{machines}.",
                        f"{slower(runs)} {missed(runs)}", *(["\n".join(pictures)] if pictures else [])])


def slower(runs: Sequence[Run]) -> str:
    """A sentence that names every row whose peer is faster."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for row in by_kind(run.rows)["times"]:
            if row.ratio is not None and row.ratio < 1:
                found.setdefault(row.short()[0], []).append(f"{rows.number(row.ratio)} with {run.name}")
    if not found:
        return "No row of these runs is slower than its peer."
    lines = "; ".join(f"{what} ({', '.join(ratios)})" for what, ratios in found.items())
    return f"Slower than its peer, with less than 1: {lines}; all else is faster."


def missed(runs: Sequence[Run]) -> str:
    """A sentence that names every row that missed its goal."""
    judged = [(run.name, row) for run in runs for row in run.rows if row.reached is not None]
    if not (lines := list(_missed(judged))):
        return "All goals were reached."
    return f"Of {len(judged)} goals, {len(lines)} {'was' if len(lines) == 1 else 'were'} missed: {'; '.join(lines)}."


def _missed(judged: Sequence[tuple[str, Any]]) -> Iterator[str]:
    for name, row in judged:
        if not row.reached:
            what, figure, goal = row.short()
            yield f"{what}, with {name}: {figure} (goal {goal.partition(':')[0]})"


def speed_text(runs: Sequence[Run]) -> str:
    """Every row of every run with its goal, under a heading for each run."""
    parts = [missed(runs)]
    for run in runs:
        kinds = by_kind(run.rows)
        parts += [f"### {run.name}: {run.about['cpu']}", f"{place(run.about)}; {peers(run.about)}.",
                  tables(kinds["times"]), rows.kernel_summary(kinds["kernels"]), tables(kinds["kernels"]),
                  tables(kinds["scale"])]
    return "\n\n".join(part for part in parts if part)


def update(path: Path, text: str) -> None:
    """Replace what stands between the page's two marks."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} must have the marks {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
