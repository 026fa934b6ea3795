"""Networks at full size: imported, fastlrp's outputs are PyTorch's, and its relevance is zennit's.

    python bench/conformance.py                   all networks of zoo.py: an hour or less, 9 GB
    python bench/conformance.py --only ResNet     networks whose name contains ResNet
    python bench/conformance.py --quick           their small versions: a minute; written nowhere

Each network's figures take the place of its old ones in bench/results/conformance.json.

Needs what requirements-peers.txt lists. For every network, with weights drawn to look trained:

  forward       largest difference of outputs from PyTorch's over the largest output, by torch and by ONNX import
  relevance     for every composite, relative L2 of an image's map:
      ours        fastlrp against zennit, both float32, median over the images
      rounding    fastlrp's float32, and zennit's, against zennit's float64, of the first image, or the median for
                  gradients: what rounding alone does. Where it decides between units (which gate is open, which input
                  of a pool wins), plain gradients change by a unit's share, whoever computes
      float64     fastlrp's float64 twin against zennit's float64, on an image of about half the size: what rounding
                  does not blur, so whether both mean the same thing
    Relevance starts as the logit of the class with the largest one (a map: of that class everywhere), for both.
  twin          fastlrp's float32 against its float64 twin, one image, EpsilonPlusFlat as it is by default: a BatchNorm
                that could not be folded shares relevance there as an affine layer does
  conservation  for the same without biases and shifts, ε = 0, on the twin: Σ relevance of the input over Σ at
                the start (kept), and by how much it differs from what parts with zero denominators have left (off).
                Not for gradients, of which ExcitationBackprop's activations have some
  time          of one explanation of 4 images by EpsilonPlusFlat: an indication, peers.py measures

zennit is given what it has rules for, and every table says how much of it: additions are its Sum (they would take the
plain gradient), gates are constant factors that relevance passes (they would take shares of it), BatchNorm is merged by
name where a convolution makes its input, with eps in the variance (zennit would apply it once more). Other BatchNorm
passes relevance, so compat="zennit"; ExcitationBackprop, which has no rule for it, is given that one.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import dropping
import harness
import numpy as np
import torch
import zennit_zoo
import zoo
from tqdm import tqdm

import fastlrp
from fastlrp.composites import PRESETS, Composite, EpsilonGammaBox

# Of inputs, and of the twin's, which is slow. VGG's dense layers want at least 224.
SIZES: dict[str, tuple[int, int]] = {"VGG-11-BN": (224, 224), "U-Net": (128, 64)}
SIZE, SMALL = (224, 128), (32, 32)
BOUNDS = (-2.5, 2.5)  # of zoo.images
RESULTS = Path(__file__).parent / "results" / "conformance.json"
IMAGES, AT_ONCE, TIMED = 8, 4, 4
FORWARD, RELEVANCE, SAME, OFF = 1e-4, 1e-3, 1e-6, 1e-6  # the largest errors that conform
TWIN = 1e-2  # of one image, in which a max pool may choose otherwise


@dataclass
class Row:
    """One composite on one network."""

    composite: str
    ours: float
    rounding: float
    zennit: float  # its rounding
    float64: float

    @property
    def conforms(self) -> bool:
        """In single precision within the bound or hardly further from exact than zennit, in double the same."""
        return (self.ours <= RELEVANCE or self.rounding <= 2 * self.zennit) and self.float64 <= SAME


@dataclass
class Found:
    """What a network's run finds."""

    network: str
    size: int
    parameters: int
    forward: dict[str, float]  # by importer
    given: dict[str, int]  # what zennit is given
    twin: float = float("nan")
    relevance: list[Row] = field(default_factory=list)
    conservation: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def conforms(self) -> bool:
        return (max(self.forward.values()) <= FORWARD and all(row.conforms for row in self.relevance)
                and self.twin <= TWIN and all(off <= OFF for _, off in self.conservation.values()))


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Relative L2 for each sample."""
    axes = tuple(range(1, expected.ndim))
    difference = found.astype(np.float64) - expected
    return np.sqrt((difference ** 2).sum(axes) / (expected.astype(np.float64) ** 2).sum(axes))


def logits_of_the_best(output: torch.Tensor) -> torch.Tensor:
    """The start: the output at the class that has most of it, zero elsewhere."""
    best = (output.flatten(2).sum(2) if output.ndim > 2 else output).argmax(1)
    start = torch.zeros_like(output)
    rows = torch.arange(len(output))
    start[rows, best] = output[rows, best]
    return start


def preset(name: str) -> Composite:
    return EpsilonGammaBox(*BOUNDS) if name == "epsilon_gamma_box" else PRESETS[name]()


def without_epsilon(composite: Composite) -> Composite:
    """The same with ε = 0 in every rule that has one."""
    def exact(entries: Any) -> Any:
        return tuple((key, replace(rule, epsilon=0.0) if hasattr(rule, "epsilon") else rule) for key, rule in entries)
    return replace(composite, entries=exact(composite.entries), base=exact(composite.base))


def by_onnx(model: Any, x: torch.Tensor) -> fastlrp.Network:
    """The network by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x[:1],), path, dynamo=True, external_data=False, verbose=False,
                          dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        return fastlrp.from_onnx(path)


def given_to_zennit(model: Any, pairs: list[Any]) -> dict[str, int]:
    """How often the module is changed for zennit."""
    kinds = [type(module) for module in model.modules()]
    return {"sums registered": kinds.count(zoo.Add), "gates made constant": kinds.count(zoo.Gate),
            "BatchNorm merged": len(pairs), "BatchNorm passed": kinds.count(torch.nn.BatchNorm2d) - len(pairs)}


def forward_errors(model: Any, net: fastlrp.Network, x: torch.Tensor) -> dict[str, float]:
    with torch.no_grad():
        expected = model(x).numpy()
    makers: dict[str, Callable[[], fastlrp.Network]] = {"torch": lambda: net, "onnx": lambda: by_onnx(model, x)}
    return {name: float(np.abs(make().forward(x.numpy()) - expected).max() / np.abs(expected).max())
            for name, make in makers.items()}


class Judge:
    """zennit's relevance of one model, in single and in double precision."""

    def __init__(self, model: Any, x: torch.Tensor, double: Any):
        self.x, self.pairs = x, zennit_zoo.merged_pairs(model, x[:1])
        self.single, self.double = zennit_zoo.registered(model), zennit_zoo.registered(double)
        with torch.no_grad():
            self.start = torch.cat([logits_of_the_best(model(part)) for part in x.split(AT_ONCE)])

    def __call__(self, composite: str) -> np.ndarray:
        return self._explain(self.single, composite, self.x, self.start)

    def exactly(self, composite: str, count: int) -> np.ndarray:
        """Of the first images."""
        return self._explain(self.double, composite, self.x[:count].double(), self.start[:count].double())

    def _explain(self, model: Any, composite: str, x: torch.Tensor, start: torch.Tensor) -> np.ndarray:
        parts = [zennit_zoo.explain(model, some, composite, begin, self.pairs, BOUNDS)
                 for some, begin in zip(x.split(AT_ONCE), start.split(AT_ONCE), strict=True)]
        return torch.cat(parts).numpy()


def relevance_rows(net: fastlrp.Network, judge: Judge, twin: fastlrp.Network, exact: Judge,
                   bar: tqdm) -> Iterator[Row]:
    """net and judge at full size, twin and exact at the twin's."""
    for name in fastlrp.composites.names():
        bar.set_postfix_str(name)
        ours, ours64 = (own.explain(by.x.numpy(), composite=preset(name), start=by.start.numpy(),
                                    compat="zennit").relevance for own, by in ((net, judge), (twin, exact)))
        theirs, count = judge(name), IMAGES if name in zennit_zoo.GRADIENTS else 1
        exactly = judge.exactly(name, count)
        rounding, their_rounding = (float(np.median(errors(own[:count], exactly))) for own in (ours, theirs))
        yield Row(name, float(np.median(errors(ours, theirs))), rounding, their_rounding,
                  float(errors(ours64, exact.exactly(name, 1))[0]))
        bar.update()


def conservation(make: Callable[[], Any], x: torch.Tensor) -> dict[str, tuple[float, float]]:
    """By composite: Σ R in / Σ R out of the network without biases, and what of it nothing accounts for."""
    model = zoo.trained_like(make(), size=x.shape[-1], biases=False)
    twin, found = fastlrp.from_torch(model, x[:1]).to_numpy(), {}
    with torch.no_grad():
        start = logits_of_the_best(model(x[:1])).double().numpy()
    for name in fastlrp.composites.names():
        if name not in (*zennit_zoo.GRADIENTS, "excitation_backprop"):
            kept, dropped = dropping.kept_and_dropped(twin, x[:1].numpy(), without_epsilon(preset(name)), start)
            found[name] = kept / start.sum(), abs(kept + dropped - start.sum()) / abs(start.sum())
    return found


def seconds(net: fastlrp.Network, judge: Judge) -> dict[str, float]:
    """The best of three, in turn."""
    x, start = judge.x[:TIMED], judge.start[:TIMED]
    calls: dict[str, Callable[[], Any]] = {
        "fastlrp": lambda: net.explain(x.numpy(), composite="epsilon_plus_flat", start=start.numpy(), compat="zennit"),
        "zennit": lambda: zennit_zoo.explain(judge.single, x, "epsilon_plus_flat", start, judge.pairs, BOUNDS)}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(3):
        for name, call in calls.items():
            time.sleep(harness.PAUSE)
            begun = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - begun)
    return best


def examined(name: str, quick: bool, bar: tqdm) -> Found:
    """All that is measured of a network."""
    size, twin_size = SMALL if quick else SIZES.get(name, SIZE)

    def make() -> Any:
        torch.manual_seed(0)
        return zoo.ZOO[name](small=quick)

    bar.set_description(name)
    bar.set_postfix_str("forward")
    model = zennit_zoo.without_eps(zoo.trained_like(make(), size=size))
    x, one = zoo.images(IMAGES, size), zoo.images(1, twin_size)
    net = fastlrp.from_torch(model, x[:1])
    double = copy.deepcopy(model).double()
    judge = Judge(model, x, double)
    found = Found(name, size, sum(p.numel() for p in model.parameters()), forward_errors(model, net, x),
                  given_to_zennit(model, judge.pairs))
    bar.set_postfix_str("time")
    found.seconds = seconds(net, judge)
    small = fastlrp.from_torch(model, one)
    twin, exact = small.to_numpy(), Judge(model, one, double)
    found.relevance = list(relevance_rows(net, judge, twin, exact, bar))
    bar.set_postfix_str("twin")
    maps = [own.explain(one.numpy(), start=exact.start.numpy()).relevance for own in (small, twin)]
    found.twin = float(errors(*maps)[0])
    del net, judge, model, double, small, twin, exact
    gc.collect()
    bar.set_postfix_str("conservation")
    found.conservation = conservation(make, one)
    return found


def table(found: Found) -> str:
    """One network's figures."""
    ratio = found.seconds["zennit"] / found.seconds["fastlrp"]
    lines = [f"{found.network}, {found.size} × {found.size}, {found.parameters:,} parameters: "
             f"{'conforms' if found.conforms else 'DOES NOT CONFORM'}",
             "  forward: " + ", ".join(f"{error:.1e} by {name}" for name, error in found.forward.items()),
             f"  twin: {found.twin:.1e}",
             "  zennit: " + (", ".join(f"{count} {what}" for what, count in found.given.items() if count)
                              or "the module as it is"),
             f"  EpsilonPlusFlat, {TIMED} images: {found.seconds['fastlrp']:.2f} s, zennit "
             f"{found.seconds['zennit']:.2f} s, {ratio:.1f} times",
             f"  {'composite':<28}{'ours':>10}{'rounding':>10}{'zennit':>10}{'float64':>10}{'kept':>12}{'off':>10}"]
    for row in found.relevance:
        kept, off = found.conservation.get(row.composite, (None, None))
        sums = "" if kept is None else f"{kept:>12.6f}{off:>10.1e}"
        mark = "" if row.conforms else "  does not conform"
        note = "  rounding decides between units" if row.conforms and row.ours > RELEVANCE else ""
        lines.append(f"  {row.composite:<28}{row.ours:>10.1e}{row.rounding:>10.1e}{row.zennit:>10.1e}"
                     f"{row.float64:>10.1e}{sums}{mark}{note}")
    return "\n".join(lines)


def keep(found: Found, about: dict[str, Any]) -> None:
    """Put a network's figures beside those of the others in RESULTS, in place of its old ones."""
    entry = {"machine": about, **asdict(found), "conforms": found.conforms}
    others = json.loads(RESULTS.read_text())["networks"] if RESULTS.exists() else []
    networks = {other["network"]: other for other in others} | {found.network: entry}
    harness.write_json(RESULTS, {"networks": [networks[name] for name in zoo.ZOO if name in networks]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small versions")
    options = parser.parse_args()
    torch.set_num_threads(fastlrp.get_num_threads())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
    names = [name for name in zoo.ZOO if options.only in name]
    if not names:
        parser.error(f"--only: no network's name contains {options.only!r}; there are {', '.join(zoo.ZOO)}")
    about, results = harness.machine(), []
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    with tqdm(total=len(names) * len(fastlrp.composites.names()), unit="composite") as bar:
        for name in names:
            results.append(examined(name, options.quick, bar))
            tqdm.write(table(results[-1]) + "\n")
            if not options.quick:
                keep(results[-1], about)
    if not all(found.conforms for found in results):
        raise SystemExit("not all networks conform")


if __name__ == "__main__":
    main()
