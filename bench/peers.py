"""fastlrp next to its peers and to the machine's limit: checks results, then times them in turn, and prints ratios.

    python bench/peers.py                 all rows: about 20 minutes with the peers of requirements-peers.txt
    python bench/peers.py --only LeNet    rows whose name contains LeNet
    python bench/peers.py --size 32       VGG-16 on small inputs, to try the script itself
    python bench/peers.py --json FILE     also write the figures
    python bench/peers.py --from FILE     nothing is measured: the figures of an earlier run
    python bench/peers.py --also FILE ... beside them, those of earlier runs, as under another FASTLRP_ISA
    python bench/peers.py --readme        also put the tables into docs/speed.md, and a short one into README.md
    python bench/peers.py --plots         also draw docs/speed.png and docs/batches.png

Peers that are not installed are left out. Medians of runs in turn; what was best stands in brackets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import harness
import pages
import rows
import rows_kernels
import rows_scale
import rows_time
from tqdm import tqdm

import fastlrp

ROOT = Path(__file__).parent.parent


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--size", type=int, default=224, help="of VGG-16's input, a multiple of 32 (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--from", dest="source", type=Path, help="take the figures from this file")
    parser.add_argument("--readme", action="store_true", help="put the tables into docs/speed.md and README.md")
    parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="FILE", help="also show these files' runs")
    parser.add_argument("--plots", action="store_true", help="draw the plots into docs/")
    options = parser.parse_args()
    also = [pages.read(path) for path in options.also]
    if options.source:
        own = pages.read(options.source)
    else:
        about = harness.machine()
        print(", ".join(f"{key}: {value}" for key, value in about.items()))
        setting = rows.Setting(about["isa"], about["fma_peak_gflops"] * 1e9, options.size)
        own = pages.Run(about, list(measured(setting, options.only)))
    print("\n" + pages.speed_text([own, *also]))
    if options.json:
        harness.write_json(options.json, {"machine": own.about, **{name: [asdict(row) for row in some]
                                                                   for name, some in pages.by_kind(own.rows).items()}})
    if options.plots:
        import plots
        plots.draw([own, *also], ROOT / "docs")
    if options.readme:
        pages.update(ROOT / "docs/speed.md", pages.speed_text([own, *also]))
        pages.update(ROOT / "README.md", pages.readme_text([own, *also], ROOT / "docs"))


if __name__ == "__main__":
    main()
