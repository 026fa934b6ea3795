"""`fastlrp bench`: what this machine can do, and what share of it the kernels reach.

Times are seconds, rates FLOP/s (a multiply-add counts as two). Nothing here checks results or knows of other
libraries: the repository's bench/ does, with the same ways to measure.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from . import _kernels, packing
from ._version import __version__
from .composites import Composite, Uniform
from .layers import AvgPool2d, Conv2d, Flatten, Layer, Linear, ReLU, WeightedLayer
from .network import Network
from .ops import cpu_info, get_num_threads
from .rules import AlphaBeta, ZBox
from .shapes import as_size

ITERATIONS, TILE_ITERATIONS = 1_000_000, 100_000  # of a peak's loop in one call: about two milliseconds
LONG, FEW = 3.0, 3  # calls that together take more seconds are measured this often at most; alone, also without a first
LEAST_SCALING = 0.75  # of as many times one thread's peak as there are threads: below, they do not have the machine
GROWTH = 20  # of the number of calls in a measurement at once, at most: while it is found, some are slow

# (layer, shape of its input, batch): convolutions as in VGG-16, dense layers for one sample and for a batch, LeNet's
KERNELS: list[tuple[Layer, tuple[int, ...], int]] = [
    (Conv2d(64, 3, padding=1), (56, 56, 64), 1),
    (Conv2d(128, 3, padding=1), (56, 56, 128), 1),
    (Conv2d(256, 3, padding=1), (28, 28, 256), 1),
    (Conv2d(512, 3, padding=1), (28, 28, 256), 1),
    (Conv2d(512, 3, padding=1), (14, 14, 512), 1),
    (Linear(4096), (4096,), 1),
    (Linear(4096), (4096,), 16),
    (Conv2d(10, 5), (28, 28, 1), 128),
    (Conv2d(25, 5), (12, 12, 10), 128),
    (Conv2d(100, 4), (4, 4, 25), 128),
]

NOTES = """
GFLOP/s: a thousand million operations a second, a multiply-add counting as two. FMA peak: what multiply-adds in
registers alone come to; AMX peak: the same of tiles of bfloat16. Of peak: the share of the FMA peak that was measured
beside the kernel, which need not be quite the one above. More than 100%: Winograd's products need fewer multiply-adds
than are counted, and AMX's tiles do more of them than vectors can."""

Name = TypeVar("Name")


class Variant(NamedTuple):
    """A way to compute a product: see `Network.explain` and `ops.Native.product`."""

    precision: str = "highest"
    direct: bool = False

    @property
    def name(self) -> str:
        return self.precision + ", direct" * self.direct


CHOSEN = Variant()  # what networks get if nothing else is asked for


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    median: float
    best: float


def interleaved(calls: Mapping[Name, Callable[[], Any]], runs: int = 7, *, shortest: float = 0.02, pause: float = 0.0,
                label: str = "") -> dict[Name, Timing]:
    """Time several calls in turn, A B A B ..., so that a drifting machine treats them alike.

    A measurement is as many calls as take `shortest` seconds, after `pause` seconds of rest and one call that is not
    counted: it finds its memory in no cache and the processor asleep, and may take 30 times as long as the others.
    Calls known to take more than LONG seconds go without. There are `runs` measurements of each, or FEW where they take
    long, after those that tell how many calls make one. Over two seconds, a progress bar.
    """
    with tqdm(total=(runs + 1) * len(calls), desc=label, unit="run", leave=False, delay=2) as bar:
        def timed(call: Callable[[], Any], count: int, expected: float = 0.0) -> float:
            time.sleep(pause)
            if expected <= LONG:
                call()
            start = time.perf_counter()
            for _ in range(count):
                call()
            return (time.perf_counter() - start) / count

        warm, counts = dict[Name, float](), dict.fromkeys(calls, 1)
        for name, call in calls.items():
            warm[name] = timed(call, 1)
            while (seconds := warm[name] * counts[name]) < shortest:
                counts[name] = math.ceil(counts[name] * min(1.1 * shortest / max(seconds, 1e-9), GROWTH))
                warm[name] = timed(call, counts[name])
            bar.update()
        runs = min(runs, FEW) if sum(warm.values()) > LONG else runs
        bar.total = (runs + 1) * len(calls)
        times: dict[Name, list[float]] = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                times[name].append(timed(call, counts[name], warm[name]))
                bar.update()
    return {name: Timing(statistics.median(found), min(found)) for name, found in times.items()}


def fma_peak(threads: int, runs: int = 7) -> float:
    """Multiply-adds in registers alone, in FLOP/s, on `threads` threads: what no kernel of this kind can pass."""
    return _peak(_kernels.fma_loop, ITERATIONS, threads, runs)


def tile_peak(threads: int, runs: int = 7) -> float:
    """The same of AMX's bf16 tiles; 0 where the instruction set in use has none."""
    return _peak(_kernels.tile_loop, TILE_ITERATIONS, threads, runs) if _kernels.has_limbs() else 0.0


def _peak(loop: Callable[[int, int], int], iterations: int, threads: int, runs: int) -> float:
    operations = loop(iterations, threads)
    return operations / interleaved({"peak": lambda: loop(iterations, threads)}, runs)["peak"].best


def processor() -> str:
    """The processor's name."""
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def drawn(layers: list[Layer], shape: tuple[int, ...], seed: int = 1) -> Network:
    """A network with random weights (He et al. 2015) and small biases."""
    net, rng = Network(layers, shape, init=None), np.random.default_rng(seed)
    for layer in net.weighted:
        weight = rng.standard_normal(layer.weight_shape, np.float32)
        weight *= math.sqrt(2 / math.prod(layer.weight_shape[:-1]))
        layer.weight = weight
        del weight  # before the next one is drawn: VGG-16's largest has 400 MB
        if layer.use_bias:
            layer.bias = np.float32(0.1) * rng.standard_normal(layer.out, np.float32)
    return net


def lenet() -> Network:
    """The LeNet that is measured: 1-10-25-100-10 on 28 × 28 pixels in [−1, 1]."""
    return drawn([Conv2d(10, 5), ReLU(), AvgPool2d(2), Conv2d(25, 5), ReLU(), AvgPool2d(2), Conv2d(100, 4), ReLU(),
                  Flatten(), Linear(10)], (28, 28, 1))


def deep_taylor(bound: float) -> Composite:
    """zB for pixels in [−bound, bound], α1β0 above."""
    return Uniform(AlphaBeta(1.0, 0.0), first=ZBox(-bound, bound))


def alone(layer: Layer, shape: tuple[int, ...]) -> Network:
    """A network of one layer like this one."""
    return drawn([type(layer)(**layer.config())], shape)


def flops(layer: WeightedLayer) -> float:
    """Operations of one product (forward or back) of one sample."""
    return 2.0 * math.prod(layer.out_shape) * math.prod(layer.geometry.weight_shape[:3])


def describe(layer: WeightedLayer) -> str:
    """As "3×3, 56×56, 64 → 128" or "dense, 4096 → 1000"."""
    if isinstance(layer, Conv2d):
        height, width, channels = layer.in_shape
        return f"{layer.kernel[0]}×{layer.kernel[1]}, {height}×{width}, {channels} → {layer.out}"
    return f"dense, {layer.in_shape[0]} → {layer.out}"


def products(net: Network, n: int, variant: Variant = CHOSEN) -> dict[str, Callable[[], None]]:
    """Calls of a one-layer network's product and product back for n samples, without anything around them."""
    layer, rng, graph = net.weighted[0], np.random.default_rng(0), net.at(variant.precision)
    x, y, into_x, into_y = (_kernels.empty((n, *shape)) for shape in 2 * (layer.in_shape, layer.out_shape))
    for array in (x, y):  # like a network's own arrays, these begin with a cache line
        rng.standard_normal(array.shape, np.float32, array)

    def forward(ops: Any, inputs: Mapping[Any, Any], classes: Any) -> dict[Any, Any]:
        operands = [(inputs["in"], "plain", None)]
        return {"out": ops.product(layer, ("w",), operands, bias=layer.bias, direct=variant.direct)}

    def back(ops: Any, inputs: Mapping[Any, Any], classes: Any) -> dict[Any, Any]:
        operands = [(inputs["in"], "plain", None)]
        return {"out": ops.product_back(layer, operands, [(("w",), None)], direct=variant.direct)}

    return {"forward": lambda: graph.run(forward, ("bench forward", variant.direct), {"in": x}, {"out": into_y}),
            "back": lambda: graph.run(back, ("bench back", variant.direct), {"in": y}, {"out": into_x})}


@dataclass(frozen=True)
class Rate:
    """A kernel's speed at the median of its runs and at the best, and both as shares of the FMA peak."""

    gflops: float
    best_gflops: float
    of_peak: float
    best_of_peak: float


def kernel_rates(net: Network, n: int, runs: int = 7, pause: float = 0.0, shortest: float = 0.02,
                 variants: Sequence[Variant] = (CHOSEN,)) -> dict[tuple[Variant, str], Rate]:
    """Rates of "forward" and "back" of a one-layer network, in turn with the FMA peak on as many threads.

    The peak is the best of its runs: it is a limit, and a disturbed one would flatter the kernels.
    """
    threads, layer, peak = get_num_threads(), net.weighted[0], (CHOSEN, "peak")
    calls: dict[tuple[Variant, str], Callable[[], Any]] = {peak: lambda: _kernels.fma_loop(ITERATIONS, threads)}
    for variant in variants:
        calls |= {(variant, direction): call for direction, call in products(net, n, variant).items()}
    times = interleaved(calls, runs, shortest=shortest, pause=pause, label=describe(layer))
    limit, operations = _kernels.fma_loop(ITERATIONS, threads) / times.pop(peak).best, n * flops(layer)
    rates = {key: (operations / t.median, operations / t.best) for key, t in times.items()}
    return {key: Rate(median / 1e9, best / 1e9, median / limit, best / limit) for key, (median, best) in rates.items()}


def run(runs: int = 7, say: Callable[[str], Any] = print) -> None:
    """Measure and print: the machine, its peaks, kernels by shape, a LeNet explanation. `runs`: of each measurement."""
    runs, info = as_size(runs, "runs"), cpu_info()
    say(f"fastlrp {__version__} on {processor()}")
    say(f"instruction sets: {', '.join(info['available'])}; in use: {info['isa']}; threads: {info['threads']}")
    for name, peak in (("FMA", fma_peak), ("AMX", tile_peak)):
        peaks = {n: peak(n, runs) for n in sorted({1, info["threads"]})}
        if all(peaks.values()):
            say(f"{name} peak, GFLOP/s: " + ", ".join(f"{found / 1e9:.1f} on {n} thread{'s' * (n > 1)}"
                                                      for n, found in peaks.items()))
            _warn_if_shared(name, peaks, say)
    lower = [precision for precision in packing.LIMBS if precision != CHOSEN.precision] if _kernels.has_limbs() else []
    lines = _heads(lower)
    with tqdm(total=len(KERNELS) + 2, desc="measuring", leave=False) as bar:
        for layer, shape, n in KERNELS:
            lines.append(_kernel_line(alone(layer, shape), n, runs, lower))
            bar.update()
        for n in (1, 128):
            each = _lenet_seconds(n, runs) / n
            lines.append(f"LeNet explanation (zB, α1β0), batch {n}: {each * 1e3:.3g} ms an image")
            bar.update()
    say("\n".join([*lines, NOTES]))


def _warn_if_shared(name: str, peaks: Mapping[int, float], say: Callable[[str], Any]) -> None:
    """Threads on processors of their own, with nothing beside them, add up."""
    n = max(peaks)
    if (times := peaks[n] / peaks[1]) < LEAST_SCALING * n:
        say(f"warning: {n} threads reach {times:.2f} times the {name} peak of one: something else is running, or they "
            "share a processor core; what follows is not this machine's best")


def _heads(lower: Sequence[str]) -> list[str]:
    """Two lines above those of `_kernel_line`."""
    over = "".join(f"{f'{precision}, of peak':>18}" for precision in lower)
    return [f"\n{'kernel':<26}{'batch':>6}{'forward':>18}{'back':>18}{over}",
            " " * 32 + 2 * f"{'GFLOP/s  of peak':>18}" + len(lower) * f"{'forward     back':>18}"]


def _kernel_line(net: Network, n: int, runs: int, lower: Sequence[str]) -> str:
    """Rates of a layer's products, and the shares of the FMA peak at lower precisions where tiles take them."""
    layer, variants = net.weighted[0], [CHOSEN]
    if isinstance(layer, Conv2d) and min(layer.in_shape[-1], layer.out) >= packing.LEAST_CHANNELS:
        variants += map(Variant, lower)
    columns = "".join(f"{rate.gflops:>9.1f}{rate.of_peak:>9.0%}" if variant == CHOSEN else f"{rate.of_peak:>9.0%}"
                      for (variant, _), rate in kernel_rates(net, n, runs, variants=variants).items())
    return f"{describe(layer):<26}{n:>6}{columns}"


def _lenet_seconds(n: int, runs: int) -> float:
    """Seconds of one explanation of n samples: the median."""
    net, composite = lenet(), deep_taylor(1.0)
    x = np.random.default_rng(0).uniform(-1, 1, (n, *net.input_shape)).astype(np.float32)
    return interleaved({"explain": lambda: net.explain(x, composite=composite)}, runs)["explain"].median
