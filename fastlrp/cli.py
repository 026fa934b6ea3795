"""The command line: `fastlrp demo`, `fastlrp bench` and `fastlrp info`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import __version__, bench, cpu_info, demo


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fastlrp", description="Layer-wise relevance propagation on CPUs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", help="train on real digits, explain them, write pictures")
    show.add_argument("--out", default="fastlrp-demo", metavar="FOLDER", help="where pictures go (%(default)s)")
    show.add_argument("--epochs", type=int, default=12, help="passes over the training digits (%(default)s)")
    measure = commands.add_parser("bench", help="measure this machine, and what share of its limit the kernels reach")
    measure.add_argument("--runs", type=int, default=7, help="of each measurement, of which the median counts "
                                                             "(%(default)s)")
    commands.add_parser("info", help="version, instruction sets and threads")
    options = parser.parse_args(arguments)
    if options.command == "demo":
        demo.run(options.out, options.epochs)
    elif options.command == "bench":
        bench.run(options.runs)
    else:
        print(f"fastlrp {__version__}")
        for key, value in cpu_info().items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    return 0
