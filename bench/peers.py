"""fastlrp next to its peers and to the machine's limit: checks results, then times them in turn, and prints ratios.

    python bench/peers.py                 all rows: about 20 minutes with the peers of requirements-peers.txt
    python bench/peers.py --only LeNet    rows whose name contains LeNet
    python bench/peers.py --size 32       VGG-16 on small inputs, to try the script itself
    python bench/peers.py --json FILE     also write the figures
    python bench/peers.py --from FILE     nothing is measured: the figures of an earlier run
    python bench/peers.py --readme        also put the tables into README.md
    python bench/peers.py --also FILE ... below them, what earlier runs reached, as under another FASTLRP_ISA
    python bench/peers.py --plots         also draw docs/speed.png and docs/batches.png

Peers that are not installed are left out. Medians of runs in turn; what was best stands in brackets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import harness
import rows
import rows_kernels
import rows_scale
import rows_time
from rows import KernelRow, Row, ScaleRow
from tqdm import tqdm

import fastlrp

ROOT = Path(__file__).parent.parent
KINDS: dict[str, type] = {"times": Row, "kernels": KernelRow, "scale": ScaleRow}  # names in the JSON file
BEGIN, END = "<!-- bench/peers.py -->", "<!-- end -->"


def measured(setting: rows.Setting, only: str) -> Iterator[Any]:
    """Every row, printed as it is found."""
    if harness.installed("torch"):
        import torch
        torch.set_num_threads(fastlrp.get_num_threads())
    # Memory first: fresh processes need room beside this one, which grows with all that it has measured.
    jobs = [job for module in (rows_scale, rows_time, rows_kernels) for job in module.jobs(setting)
            if only in job.name]
    with tqdm(jobs, unit="job") as bar:
        for job in bar:
            bar.set_description(job.name)
            for row in job.rows():
                tqdm.write(rows.line(row))
                yield row


def by_kind(found: list[Any]) -> dict[str, list[Any]]:
    return {name: [row for row in found if isinstance(row, kind)] for name, kind in KINDS.items()}


def read(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """The machine and the rows that --json wrote."""
    data = json.loads(path.read_text())
    return data["machine"], [kind(**row) for name, kind in KINDS.items() for row in data[name]]


def tables(found: list[Any]) -> str:
    return "\n\n".join(rows.table(some) for some in by_kind(found).values() if some)


def place(about: dict[str, Any]) -> str:
    """What figures were measured on."""
    tiles = f", AMX peak {about['amx_peak_gflops']} GFLOP/s" if "amx_peak_gflops" in about else ""
    return (f"{about['cpu']}, {about['isa']}, {about['threads']} threads, FMA peak {about['fma_peak_gflops']} GFLOP/s"
            f"{tiles}")


def goals(path: Path) -> str:
    """Of an earlier run, a line about the machine and a table of what was asked of it."""
    about, found = read(path)
    return f"{place(about)}:\n\n{rows.goals_table(found)}"


def readme_text(found: list[Any], about: dict[str, Any], also: Sequence[str] = ()) -> str:
    """Times, threads and memory in full, kernels in a sentence, the goals of other runs, and the plots."""
    kinds = by_kind(found)
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    where = f"{place(about)}; {peers}. Milliseconds an image, medians (best in brackets) of runs in turn."
    plots = [f"![{text}](docs/{name})" for name, text in (("speed.png", "Time per image beside the peers"),
             ("batches.png", "Time and memory against batch size")) if (ROOT / "docs" / name).exists()]
    parts = [rows.table(kinds["times"]) if kinds["times"] else "", f"{where} {rows.kernel_summary(kinds['kernels'])}",
             rows.table(kinds["scale"]) if kinds["scale"] else "", *also, "\n".join(plots)]
    return "\n\n".join(part.strip() for part in parts if part)


def update_readme(path: Path, text: str) -> None:
    """Replace what stands between the README's two marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--size", type=int, default=224, help="of VGG-16's input, a multiple of 32 (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--from", dest="source", type=Path, help="take the figures from this file")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="FILE",
                        help="also show the goals of these files' runs")
    parser.add_argument("--plots", action="store_true", help="draw the plots into docs/")
    options = parser.parse_args()
    also = [goals(path) for path in options.also]
    if options.source:
        about, found = read(options.source)
    else:
        about = harness.machine()
        print(", ".join(f"{key}: {value}" for key, value in about.items()))
        setting = rows.Setting(about["isa"], about["fma_peak_gflops"] * 1e9, options.size)
        found = list(measured(setting, options.only))
    print("\n" + "\n\n".join([tables(found), *also]))
    if options.json:
        harness.write_json(options.json, {"machine": about, **{name: [asdict(row) for row in some]
                                                               for name, some in by_kind(found).items()}})
    if options.plots:
        import plots
        plots.draw(found, about, ROOT / "docs")
    if options.readme:
        update_readme(ROOT / "README.md", readme_text(found, about, also))


if __name__ == "__main__":
    main()
