"""The command line: `fastlrp demo`, `fastlrp bench` and `fastlrp info`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import __version__, bench, cpu_info, demo


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fastlrp", description="Layer-wise relevance propagation on CPUs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command")
    show = commands.add_parser("demo", help="train on real digits, explain them, write pictures", description="Train a "
                               "LeNet on the digits that come with fastlrp, explain digits kept aside, and write four "
                               "pictures of their relevance. It takes some ten seconds.")
    show.add_argument("--out", type=Path, default=Path("fastlrp-demo"), metavar="FOLDER",
                      help="where pictures go (%(default)s)")
    show.add_argument("--epochs", type=_count, default=12, help="passes over the training digits (%(default)s)")
    measure = commands.add_parser("bench", help="measure this machine, and what share of its limit the kernels reach",
                                  description="Measure the processor's limit, the share of it that the kernels reach, "
                                  "and a small network's explanation. It takes some fifteen seconds, in which nothing "
                                  "else should run.")
    measure.add_argument("--runs", type=_count, default=7, help="of each measurement, of which the median counts "
                                                                "(%(default)s)")
    commands.add_parser("info", help="version, instruction sets and threads", description="Print the version, the "
                        "instruction sets and the threads in use, at once.")
    options = parser.parse_args(arguments)
    if options.command == "demo":
        if problem := _unwritable(options.out):
            show.error(f"argument --out: expected a folder to write to, got {str(options.out)!r} ({problem})")
        demo.run(options.out, options.epochs)
    elif options.command == "bench":
        bench.run(options.runs)
    elif options.command == "info":
        print(f"fastlrp {__version__}")
        for key, value in cpu_info().items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    else:
        parser.print_help()
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _unwritable(folder: Path) -> OSError | None:
    """Make the folder, and say what forbids writing there: before training, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error
