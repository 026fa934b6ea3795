"""Measuring: interleaved runs, the machine's own limit, peak memory of a fresh process, a description of the machine.

Nothing here knows what is measured. Times are seconds.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastlrp
from fastlrp import _kernels

PAUSE = 0.05  # seconds between measurements: idle threads of one runtime spin for a while on the other's processors


@dataclass(frozen=True)
class Timing:
    median: float
    best: float


def repeats(call: Callable[[], Any], shortest: float = 0.02) -> int:
    """How many calls make one measurement of at least `shortest` seconds."""
    start = time.perf_counter()
    call()
    return max(1, int(shortest / max(time.perf_counter() - start, 1e-9)))


def interleaved(calls: Mapping[str, Callable[[], Any]], runs: int = 7) -> dict[str, Timing]:
    """Time several calls in turn, A B A B ..., so that a drifting machine treats them alike."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = repeats(call)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(counts[name]):
                call()
            times[name].append((time.perf_counter() - start) / counts[name])
    return {name: Timing(statistics.median(found), min(found)) for name, found in times.items()}


def fma_peak(threads: int, seconds: float = 0.2) -> float:
    """Multiply-adds in registers alone, in FLOP/s, on `threads` threads: what no kernel can pass."""
    iterations = 100_000
    while True:
        start = time.perf_counter()
        operations = _kernels.fma_loop(iterations, threads)
        passed = time.perf_counter() - start
        if passed > seconds:
            return operations / passed
        iterations *= 2


def peak_memory(code: str) -> float:
    """Peak resident memory, in bytes, of a fresh process that runs `code`; NaN where the system does not tell."""
    # getrusage would count the parent's pages that were there before exec.
    tail = "import pathlib; print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tail}"], capture_output=True, text=True)
    return 1024.0 * int(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                    if line.startswith("model name")), cpu)
    return {"cpu": cpu, "system": platform.system(), "python": platform.python_version(),
            "fastlrp": fastlrp.__version__, **fastlrp.cpu_info(),
            "fma_peak_gflops": round(fma_peak(fastlrp.get_num_threads()) / 1e9, 1)}


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
