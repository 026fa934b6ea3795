"""How far fastlrp is from double precision: whole maps, and every product by itself.

    python bench/accuracy.py              LeNet, and VGG-16 with half its channels on 64 × 64 inputs: half a minute
    python bench/accuracy.py --full       also VGG-16 itself: the twins take a quarter of an hour
    python bench/accuracy.py --only VGG   networks whose name contains VGG

Against the float64 NumPy twin, at "highest", and where the instruction set has bf16 tiles at the precisions below:
relative L2 errors; of maps at "medium", cosine similarities.

Maps with the twin's max-pool winners imposed: the worst image, beside the NumPy twin in float32 with the same
winners. That twin may miss the bound as well: where the input of a ReLU is within rounding of zero, Epsilon's
quotient x w R / s(z) may come or go altogether, in any float32 arithmetic. The line then says so.

Maps free-running: the median over images, since where two inputs of a max pool nearly tie any rounding may flip the
winner, in every implementation. Without max pools the first bound holds here too.

Products: at "highest" beside plain float32 multiply-adds in NumPy, one after the other, on the same numbers; at "high"
against a bound.

Exit code 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import models
import numpy as np
from tqdm import tqdm

import fastlrp
from fastlrp import _kernels, bench
from fastlrp.bench import CHOSEN
from fastlrp.layers import WeightedLayer
from fastlrp.ops import NATIVES
from fastlrp.propagate import make_plan, propagate
from fastlrp.reference import Array, Reference, pad, taps, weight_part
from fastlrp.rules import CONVENTIONS
from fastlrp.shapes import Geometry

AGAINST_PLAIN = 1.05  # of a product's error over that of plain multiply-adds, 5% being chance
PRODUCTS: dict[str, float | None] = {CHOSEN.precision: None, "high": 1e-5}  # bounds of errors; None: AGAINST_PLAIN
IMAGES = 8
OUTPUTS = 20_000  # of a product, at least: enough for an error's size to be no chance
TWIN = Reference(np.float64)

NETWORKS: dict[str, Callable[[], fastlrp.Network]] = {
    "LeNet": bench.lenet, "VGG-16, half the channels, 64×64": lambda: models.vgg16(64, 2), "VGG-16": models.vgg16}
SLOW = "VGG-16"


class Imposed:
    """A backend whose max pools' winners are given, in order; their values are its own."""

    def __init__(self, ops: Any, winners: list[Array]):
        self._ops, self._winners = ops, iter(winners)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def max_pool(self, window: Any, x: Array) -> tuple[Array, Array]:
        return self._ops.max_pool(window, x)[0], next(self._winners)


def relative(found: Array, exact: Array) -> float:
    """Relative L2 error over everything."""
    return float(np.linalg.norm((found - exact).ravel()) / np.linalg.norm(exact.ravel()))


def cosine(found: Array, exact: Array) -> float:
    """Cosine similarity over everything."""
    a, b = found.ravel().astype(exact.dtype), exact.ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@dataclass(frozen=True)
class Bound:
    """How near maps must come to exact ones: errors below a number, or similarities above."""

    imposed: float
    free: float
    similar: bool = False

    def measure(self, found: Array, exact: Array) -> float:
        return (cosine if self.similar else relative)(found, exact)

    def worst(self, values: list[float]) -> int:
        """Its place; NaN is worse than any number."""
        return int((np.argmin if self.similar else np.argmax)(values))

    def holds(self, value: float, bound: float) -> bool:
        return value >= bound if self.similar else value <= bound

    def cell(self, value: float) -> str:
        return f"{value:.6f}" if self.similar else f"{value:.1e}"

    def said(self, value: float, bound: float) -> str:
        return f"{self.cell(value)} " + (f"≥ {bound:g}" if self.similar else f"≤ {bound:.0e}")


BOUNDS = {CHOSEN.precision: Bound(1e-5, 1e-3), "high": Bound(1e-4, 1e-3), "medium": Bound(0.999, 0.99, similar=True)}


def precisions() -> list[str]:
    """Those that differ on the instruction set in use."""
    return list(NATIVES) if _kernels.has_limbs() else [CHOSEN.precision]


def relevance(net: fastlrp.Network, trace: Any, composite: Any, classes: Array) -> Array:
    """A map from a trace, on the backend that made the trace."""
    plan = make_plan(net, composite.resolve(net), CONVENTIONS["zennit"])
    return propagate(net, trace, plan, trace.ops.pick(trace.values[-1], classes, False), len(net.nodes))[0]


@dataclass
class Maps:
    """How near a network's maps under one composite are at one precision, image by image."""

    imposed: list[float]
    plain: list[float]  # of the float32 twin, with the same winners
    free: list[float]


def compare_maps(net: fastlrp.Network, bar: Any) -> dict[tuple[str, str], Maps]:
    """By composite and precision. Image by image: the twin's values of a few images of VGG-16 would fill the memory."""
    found = {(name, precision): Maps([], [], []) for name in models.COMPOSITES for precision in precisions()}
    twin, plain = net.to_numpy(), net.to_numpy(np.float32)
    for image in models.images(IMAGES, net):
        x = image[None]
        exact = twin.trace(twin.as_inputs(x))
        classes = exact.values[-1].argmax(axis=1)
        winners = [kept for kept, layer in zip(exact.kept, net.layers, strict=True)
                   if isinstance(layer, fastlrp.MaxPool2d)]
        own = {precision: net.at(precision).trace([x], ops=Imposed(NATIVES[precision], winners))
               for precision in precisions()}
        other = plain.trace([x], ops=Imposed(plain.ops, winners))
        for name, make in models.COMPOSITES.items():
            composite = make(models.bound(net))
            expected = relevance(twin, exact, composite, classes)
            single = relevance(plain, other, composite, classes)
            for precision, trace in own.items():
                maps, measure = found[name, precision], BOUNDS[precision].measure
                maps.imposed.append(measure(relevance(net, trace, composite, classes), expected))
                maps.plain.append(measure(single, expected))
                free = net.explain(x, classes, composite, precision=precision)
                maps.free.append(measure(free.relevance, expected))
            bar.update()
    return found


def map_lines(name: str, net: fastlrp.Network, found: dict[tuple[str, str], Maps]) -> Iterator[tuple[str, bool]]:
    """A line for each composite and precision, and whether its bounds hold."""
    ties = any(isinstance(layer, fastlrp.MaxPool2d) for layer in net.layers)
    for (composite, precision), maps in found.items():
        bound = BOUNDS[precision]
        at = bound.worst(maps.imposed)
        worst, plain = maps.imposed[at], maps.plain[at]
        free, free_bound = maps.free[bound.worst(maps.free)], bound.imposed
        if ties:
            free, free_bound = float(np.median(maps.free)), bound.free
        ok = bound.holds(worst, bound.imposed) and bound.holds(free, free_bound)
        said = "ok" if ok else "FAILED" if bound.holds(plain, bound.imposed) else "FAILED, as float32 does"
        yield (f"{name:<34}{composite:<24}{precision:<9}{bound.said(worst, bound.imposed):>17}{bound.cell(plain):>14}"
               f"{bound.said(free, free_bound):>19}   {said}"), ok


def plain_product(geometry: Geometry, x: Array, weight: Array) -> Array:
    """The product in float32, one multiplication and one addition after the other, each rounded."""
    columns = weight.reshape(-1, weight.shape[-1])
    values = taps(pad(x, geometry), geometry).reshape(-1, len(columns))
    total = np.zeros((len(values), columns.shape[1]), np.float32)
    for value, row in zip(np.ascontiguousarray(values.T), columns, strict=True):
        total += value[:, None] * row
    return total.reshape(len(x), *geometry.out_shape)


def turned(geometry: Geometry) -> Geometry:
    """The product back of a convolution with stride 1 as a product of its own, with the kernel turned round."""
    assert geometry.stride == geometry.dilation == (1, 1) and geometry.groups == 1, "not needed here"
    rows, cols = ((k - 1 - before, k - 1 - after) for k, (before, after) in
                  zip(geometry.kernel, geometry.padding, strict=True))
    return Geometry.fit(geometry.out_shape, geometry.kernel, (1, 1), (rows, cols), out_channels=geometry.in_shape[2])


def product_errors(layer: WeightedLayer) -> Iterator[tuple[str, dict[str, float], float]]:
    """(product, error by precision, error of plain multiply-adds) forward and back, by W and, all terms positive, by
    W⁺.

    Inputs are as after a ReLU.
    """
    exact, geometry, rng = layer.astype(TWIN.dtype), layer.geometry, np.random.default_rng(0)
    natives = {precision: NATIVES[precision] for precision in precisions() if precision in PRODUCTS}
    n = math.ceil(OUTPUTS / math.prod(layer.out_shape))
    x = rng.standard_normal((n, *layer.in_shape), np.float32).clip(0)
    g = rng.standard_normal((n, *layer.out_shape), np.float32)
    for part, name in (("w", "W"), ("+", "W⁺")):
        weight = weight_part(layer.filters, part)
        g = g if part == "w" else np.abs(g)
        expected = TWIN.product(exact, (part,), [(x.astype(TWIN.dtype), "plain", None)])
        plain = plain_product(geometry, x.reshape(n, *geometry.in_shape), weight).reshape(expected.shape)
        own = {precision: relative(ops.product(layer, (part,), [(x, "plain", None)]), expected)
               for precision, ops in natives.items()}
        yield f"{name} forward", own, relative(plain, expected)
        expected = TWIN.product_back(exact, [(g.astype(TWIN.dtype), "plain", None)], [((part,), None)])
        back = np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))
        plain = plain_product(turned(geometry), g.reshape(n, *geometry.out_shape), back).reshape(expected.shape)
        own = {precision: relative(ops.product_back(layer, [(g, "plain", None)], [((part,), None)]), expected)
               for precision, ops in natives.items()}
        yield f"{name} back", own, relative(plain, expected)


def product_lines(name: str, layer: WeightedLayer) -> Iterator[tuple[str, bool]]:
    """All products of a layer, a line for each precision: errors, in brackets how many times those of plain
    multiply-adds, and whether the bound holds."""
    errors = list(product_errors(layer))
    for precision in errors[0][1]:
        most = PRODUCTS[precision]
        found = [(own[precision], plain) for _, own, plain in errors]
        ok = all(own <= (AGAINST_PLAIN * plain if most is None else most) for own, plain in found)
        columns = "".join(f"{own:>12.1e} ({f'{own / plain:.2f}':>5})" for own, plain in found)
        bound = f"≤ {AGAINST_PLAIN} × plain" if most is None else f"≤ {most:.0e}"
        yield (f"{name:<34}{bench.describe(layer):<24}{precision:<9}{columns}   {bound:<16}"
               f"{'ok' if ok else 'FAILED'}"), ok


def run(names: list[str]) -> bool:
    """Print both tables; whether all bounds hold."""
    all_ok, nets = True, {name: NETWORKS[name]() for name in names}
    print(f"{'maps':<34}{'composite':<24}{'precision':<9}{'winners imposed':>17}{'float32 twin':>14}"
          f"{'free-running':>19}")
    with tqdm(total=len(nets) * IMAGES * len(models.COMPOSITES), desc="maps", unit="map", delay=2) as bar:
        for name, net in nets.items():
            for line, ok in map_lines(name, net, compare_maps(net, bar)):
                tqdm.write(line)
                all_ok &= ok
    heads = "".join(f"{head:>20}" for head in ("W forward", "W back", "W⁺ forward", "W⁺ back"))
    print(f"\n{'products (× plain multiply-adds)':<34}{'layer':<24}{'precision':<9}{heads}   bound")
    layers = {(name, bench.describe(layer)): layer for name, net in nets.items() for layer in net.weighted}
    for (name, _), layer in tqdm(layers.items(), desc="products", unit="layer", delay=2):
        for line, ok in product_lines(name, layer):
            tqdm.write(line)
            all_ok &= ok
    return all_ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also VGG-16 itself")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    if options.full:
        print("VGG-16's NumPy twins are slow: a quarter of an hour, and 7 GB of memory", file=sys.stderr)
    print(", ".join(f"{key}: {value}" for key, value in fastlrp.cpu_info().items()))
    ok = run([name for name in NETWORKS if options.only in name and (options.full or name != SLOW)])
    print("\nall bounds hold" if ok else "\na bound does not hold")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
