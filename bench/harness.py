"""Measuring beside other libraries: rest between measurements, memory of fresh processes, the machine described.

Timing itself and the FMA peak are fastlrp.bench's. Nothing here knows what is measured.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# One process has one GNU OpenMP runtime. fastlrp has its threads sleep a millisecond after a call, which might slow
# PyTorch down; this is PyTorch's own default, and on a machine with nothing else to do the best for both.
os.environ.setdefault("GOMP_SPINCOUNT", "300000")

import fastlrp
from fastlrp import bench

PAUSE = 0.05  # seconds between measurements: idle threads of one runtime spin for a while on the other's processors
SHORTEST = 0.1  # seconds of a measurement: the first milliseconds after a rest are slow for all
PEERS = ("torch", "zennit")
MARK = "measured:"


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def interleaved(calls: Mapping[str, Callable[[], Any]], label: str, runs: int = 7) -> dict[str, bench.Timing]:
    """fastlrp.bench.interleaved with a rest before each measurement, and longer ones."""
    return bench.interleaved(calls, runs, shortest=SHORTEST, pause=PAUSE, label=label)


def fresh(code: str) -> list[float]:
    """The numbers in the list `found` that code leaves behind, run in a fresh process beside these modules."""
    folders = [str(Path(__file__).parent), str(Path(fastlrp.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    done = subprocess.run([sys.executable, "-c", f"{code}\nprint('{MARK}', *found)"], env=environment,
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"measuring memory failed:\n{done.stderr}")
    return [float(value) for value in done.stdout.rpartition(MARK)[2].split()]


def memory(key: str) -> float:
    """This process's memory in bytes: "VmHWM", the most that was resident, or "VmRSS", what is; NaN where the system
    does not tell."""
    status = Path("/proc/self/status")  # getrusage would count the parent's pages that were there before exec
    if not status.exists():
        return float("nan")
    return 1024.0 * int(status.read_text().split(key + ":")[1].split()[0])


def forget_peak() -> None:
    """"VmHWM" starts anew from what is resident now (proc(5), clear_refs), on systems that have it."""
    if (marks := Path("/proc/self/clear_refs")).exists():
        marks.write_text("5")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and with."""
    threads, runs = fastlrp.get_num_threads(), 50  # a second for a peak: rows use the first
    tiles = bench.tile_peak(threads, runs)
    return {"cpu": bench.processor(), "system": platform.system(), "python": platform.python_version(),
            "fastlrp": fastlrp.__version__, **fastlrp.cpu_info(),
            "fma_peak_gflops": round(bench.fma_peak(threads, runs) / 1e9, 1),
            **({"amx_peak_gflops": round(tiles / 1e9, 1)} if tiles else {}),
            "peers": {name: importlib.metadata.version(name) for name in PEERS if installed(name)}}


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
