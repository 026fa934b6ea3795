"""How far fastlrp is from double precision: whole maps, and every product by itself.

    python bench/accuracy.py              LeNet, and VGG-16 with half its channels on 64 × 64 inputs: half a minute
    python bench/accuracy.py --full       also VGG-16 itself: the twins take a quarter of an hour
    python bench/accuracy.py --only VGG   networks whose name contains VGG

Relative L2 errors against the float64 NumPy twin.

Maps with the twin's max-pool winners imposed: the worst image, beside the NumPy twin in float32 with the same
winners. That twin may miss the bound as well: where the input of a ReLU is within rounding of zero, Epsilon's
quotient x w R / s(z) may come or go altogether, in any float32 arithmetic. The line then says so.

Maps free-running: the median over images, since where two inputs of a max pool nearly tie any rounding may flip the
winner, in every implementation. Without max pools the first bound holds here too.

Products: beside plain float32 multiply-adds in NumPy, one after the other, on the same numbers.

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
from fastlrp import bench
from fastlrp.layers import WeightedLayer
from fastlrp.ops import NATIVE
from fastlrp.propagate import make_plan, propagate
from fastlrp.reference import Array, Reference, pad, taps, weight_part
from fastlrp.rules import CONVENTIONS
from fastlrp.shapes import Geometry

IMPOSED, FREE = 1e-5, 1e-3  # bounds of maps
AGAINST_PLAIN = 1.05  # of a product's error over that of plain multiply-adds, 5% being chance
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


def relevance(net: fastlrp.Network, trace: Any, composite: Any, classes: Array) -> Array:
    """A map from a trace, on the backend that made the trace."""
    plan = make_plan(net, composite.resolve(net), CONVENTIONS["zennit"])
    return propagate(net, trace, plan, trace.ops.pick(trace.values[-1], classes, False), len(net.nodes))[0]


@dataclass
class Maps:
    """The errors of a network's maps under one composite, image by image."""

    imposed: list[float]
    plain: list[float]  # of the float32 twin, with the same winners
    free: list[float]


def compare_maps(net: fastlrp.Network, bar: Any) -> dict[str, Maps]:
    """By composite. Image by image: the twin's values of a few images of VGG-16 would fill the memory."""
    found = {name: Maps([], [], []) for name in models.COMPOSITES}
    twin, plain = net.to_numpy(), net.to_numpy(np.float32)
    for image in models.images(IMAGES, net):
        x = image[None]
        exact = twin.trace(twin.as_inputs(x))
        classes = exact.values[-1].argmax(axis=1)
        winners = [kept for kept, layer in zip(exact.kept, net.layers, strict=True)
                   if isinstance(layer, fastlrp.MaxPool2d)]
        own, other = net.trace([x], ops=Imposed(NATIVE, winners)), plain.trace([x], ops=Imposed(plain.ops, winners))
        for name, make in models.COMPOSITES.items():
            composite, maps = make(models.bound(net)), found[name]
            expected = relevance(twin, exact, composite, classes)
            maps.imposed.append(relative(relevance(net, own, composite, classes), expected))
            maps.plain.append(relative(relevance(plain, other, composite, classes), expected))
            maps.free.append(relative(net.explain(x, classes, composite).relevance, expected))
            bar.update()
    return found


def map_lines(name: str, net: fastlrp.Network, found: dict[str, Maps]) -> Iterator[tuple[str, bool]]:
    """A line for each composite, and whether its bounds hold."""
    ties = any(isinstance(layer, fastlrp.MaxPool2d) for layer in net.layers)
    for composite, maps in found.items():
        worst = int(np.argmax(maps.imposed))
        free, bound = (float(np.median(maps.free)), FREE) if ties else (max(maps.free), IMPOSED)
        ok = maps.imposed[worst] <= IMPOSED and free <= bound
        said = "ok" if ok else "FAILED, as float32 does" if maps.plain[worst] > IMPOSED else "FAILED"
        yield (f"{name:<34}{composite:<24}{maps.imposed[worst]:>9.1e} ≤ {IMPOSED:.0e}{maps.plain[worst]:>14.1e}"
               f"{free:>11.1e} ≤ {bound:.0e}   {said}"), ok


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


def product_errors(layer: WeightedLayer) -> Iterator[tuple[str, float, float]]:
    """(product, error, error of plain multiply-adds) forward and back, by W and, all terms positive, by W⁺.

    Inputs are as after a ReLU.
    """
    exact, geometry, rng = layer.astype(TWIN.dtype), layer.geometry, np.random.default_rng(0)
    n = math.ceil(OUTPUTS / math.prod(layer.out_shape))
    x = rng.standard_normal((n, *layer.in_shape), np.float32).clip(0)
    g = rng.standard_normal((n, *layer.out_shape), np.float32)
    for part, name in (("w", "W"), ("+", "W⁺")):
        weight = weight_part(layer.filters, part)
        g = g if part == "w" else np.abs(g)
        expected = TWIN.product(exact, (part,), [(x.astype(TWIN.dtype), "plain", None)])
        own = NATIVE.product(layer, (part,), [(x, "plain", None)])
        plain = plain_product(geometry, x.reshape(n, *geometry.in_shape), weight).reshape(own.shape)
        yield f"{name} forward", relative(own, expected), relative(plain, expected)
        expected = TWIN.product_back(exact, [(g.astype(TWIN.dtype), "plain", None)], [((part,), None)])
        own = NATIVE.product_back(layer, [(g, "plain", None)], [((part,), None)])
        back = np.ascontiguousarray(weight[::-1, ::-1].swapaxes(2, 3))
        plain = plain_product(turned(geometry), g.reshape(n, *geometry.out_shape), back).reshape(own.shape)
        yield f"{name} back", relative(own, expected), relative(plain, expected)


def product_line(name: str, layer: WeightedLayer) -> tuple[str, bool]:
    """All products of a layer in a line: errors, and in brackets how many times those of plain multiply-adds."""
    errors = list(product_errors(layer))
    ok = all(own <= AGAINST_PLAIN * plain for _, own, plain in errors)
    columns = "".join(f"{own:>12.1e} ({own / plain:.2f})" for _, own, plain in errors)
    return f"{name:<34}{bench.describe(layer):<24}{columns}   {'ok' if ok else 'FAILED'}", ok


def run(names: list[str]) -> bool:
    """Print both tables; whether all bounds hold."""
    all_ok, nets = True, {name: NETWORKS[name]() for name in names}
    print(f"{'maps':<34}{'composite':<24}{'winners imposed':>17}{'float32 twin':>14}"
          f"{'free-running':>19}")
    with tqdm(total=len(nets) * IMAGES * len(models.COMPOSITES), desc="maps", unit="map", delay=2) as bar:
        for name, net in nets.items():
            for line, ok in map_lines(name, net, compare_maps(net, bar)):
                tqdm.write(line)
                all_ok &= ok
    heads = "".join(f"{head:>19}" for head in ("W forward", "W back", "W⁺ forward", "W⁺ back"))
    print(f"\n{f'products (bound: {AGAINST_PLAIN} × plain)':<34}{'layer':<24}{heads}")
    layers = {(name, bench.describe(layer)): layer for name, net in nets.items() for layer in net.weighted}
    for (name, _), layer in tqdm(layers.items(), desc="products", unit="layer", delay=2):
        line, ok = product_line(name, layer)
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
