"""Measuring: what is printed, and that counts and rates are what they say. No speed is asserted."""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

import fastlrp
from fastlrp import bench, cli
from fastlrp.ops import NATIVE


def test_bench_prints_the_machine_and_every_kernel(capsys: pytest.CaptureFixture) -> None:
    """A short run of `fastlrp bench`."""
    assert cli.main(["bench", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"fastlrp {fastlrp.__version__} on ")
    assert f"in use: {fastlrp.cpu_info()['isa']}; threads: {fastlrp.get_num_threads()}" in printed
    assert float(re.search(r"FMA peak, GFLOP/s: ([\d.]+) on 1 thread", printed)[1]) > 0
    rows = re.findall(r"^(?:\d×\d, .*|dense, .*?) +\d+( +\d+\.\d +\d+%){2}$", printed, re.M)
    assert len(rows) == len(bench.KERNELS)
    assert "3×3, 28×28, 256 → 512" in printed and "dense, 4096 → 4096" in printed
    for n in (1, 128):
        assert float(re.search(rf"LeNet explanation \(zB, α1β0\), batch {n}: ([\d.]+) ms", printed)[1]) > 0


@pytest.mark.parametrize("runs", [0, 1.5])
def test_runs_are_counted(runs: float) -> None:
    """At least one, and whole."""
    with pytest.raises((TypeError, ValueError), match="runs must be"):
        bench.run(runs)


def test_calls_are_timed_in_turn() -> None:
    """A B A B after warming up, each short one often enough to be measured, each long one once."""
    made = []

    def slow() -> None:
        made.append("slow")
        time.sleep(0.01)

    times = bench.interleaved({"slow": slow, "quick": lambda: made.append("quick")}, 3, shortest=0.005)
    order = [name for name, before in zip(made, [None, *made], strict=False) if name != before]
    assert order == ["slow", "quick"] * 5 and made.count("slow") == 5 and made.count("quick") > 100
    assert times["slow"].median >= times["slow"].best >= 0.01 > times["quick"].median


def test_what_the_first_call_prepares_does_not_count() -> None:
    """A short call whose first takes long is measured as the short one that it is."""
    made = []

    def call() -> None:
        made.append(1)
        if len(made) == 1:
            time.sleep(0.1)

    bench.interleaved({"call": call}, 1, shortest=0.05)
    assert len(made) > 4


def test_long_calls_are_measured_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to warm up, then FEW times, whatever was asked for."""
    made = []
    monkeypatch.setattr(bench, "LONG", 0.0)
    bench.interleaved({"call": lambda: made.append(1)}, 9, shortest=0)
    assert len(made) == 1 + bench.FEW


@pytest.mark.parametrize(("layer", "shape", "text", "operations"), [
    (fastlrp.Conv2d(7, 3, padding=1), (5, 6, 4), "3×3, 5×6, 4 → 7", 2 * 5 * 6 * 7 * 9 * 4),
    (fastlrp.Conv2d(4, (2, 1), stride=2, groups=2), (6, 5, 8), "2×1, 6×5, 8 → 4", 2 * 3 * 3 * 4 * 2 * 4),
    (fastlrp.Linear(3), (10,), "dense, 10 → 3", 2 * 10 * 3),
])
def test_kernels_are_counted_and_named(layer: fastlrp.layers.WeightedLayer, shape: tuple[int, ...], text: str,
                                       operations: int) -> None:
    """Two operations for each multiply-add of one product; what is timed is the layer's two products."""
    net = bench.alone(layer, shape)
    assert bench.describe(net.weighted[0]) == text and bench.flops(net.weighted[0]) == operations
    rates = bench.kernel_rates(net, 2, runs=1)
    assert set(rates) == {"forward", "back"}
    assert all(0 < rate.gflops <= rate.best_gflops and 0 < rate.of_peak <= rate.best_of_peak for rate in rates.values())


def test_drawn_weights_keep_the_scale() -> None:
    """He's variance, small biases, the same ones again for the same seed."""
    one, same, other = (bench.drawn([fastlrp.Linear(300)], (400,), seed) for seed in (1, 1, 2))
    weights = [net.weighted[0].weight for net in (one, same, other)]
    assert weights[0].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert one.weighted[0].bias.std() == pytest.approx(0.1, rel=0.2)
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_the_measured_lenet_is_the_one_that_is_named() -> None:
    """1-10-25-100-10, explained with zB and α1β0."""
    net = bench.lenet()
    assert [layer.out for layer in net.weighted] == [10, 25, 100, 10]
    rules = bench.deep_taylor(1.0).resolve(net)
    weighted = [rule for layer, rule in zip(net.layers, rules, strict=True) if layer in net.weighted]
    assert weighted == [fastlrp.rules.ZBox(-1.0, 1.0), *[fastlrp.rules.AlphaBeta(1.0, 0.0)] * 3]


# ---- the scripts in bench/ ----

@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports bench/'s modules by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    return importlib.import_module


def measured_rows(rows: Any) -> list[Any]:
    """One row with a peer and a goal, one without, and one of each other kind."""
    return [rows.Row("LeNet zB + α1β0", 128, 0.05, 0.04, 90.0, 0.5, "zennit", 1.0, 0.9, 20.0, 15.0, True),
            rows.Row("LeNet forward", 128, 0.05, 0.04, 90.0, 0.5),
            rows.KernelRow("3×3, 28×28, 256 → 512", 256, 4, "back", 60.0, 62.0, 0.6, 0.62, 0.7, False),
            rows.ScaleRow("VGG-16 EpsilonPlusFlat, batch 16: peak memory", "MB", 1400.0, "zennit", 5600.0, 16,
                          "under 1.5 GB", True)]


def test_tables_say_what_was_reached(scripts: Any) -> None:
    """Goals by instruction set; figures with three digits; a dash where there is no peer."""
    rows = scripts("rows")
    found = [rows.line(row) for row in measured_rows(rows)]
    assert "| 0.0500 (0.0400) | zennit | 1.00 (0.900) | 20.0 | 15: reached |" in found[0]
    assert "| – | – (–) | – |  |" in found[1]
    assert "| 60% (62%) | 70%: missed |" in found[2]
    assert "| 1400 MB | zennit 5600 | under 1.5 GB: reached |" in found[3]
    assert [rows.goal(rows.FASTER["VGG-16 forward", 4], isa) for isa in ("amx", "avx512", "avx2")] == [1.5, 1.0, None]
    assert rows.goal(rows.FASTER["LeNet training", 50], "avx2") == 2.0


def test_figures_are_written_and_read(scripts: Any, tmp_path: Path) -> None:
    """JSON to rows and back, into the README between its marks, and into both pictures."""
    harness, peers, plots, rows = (scripts(name) for name in ("harness", "peers", "plots", "rows"))
    found = measured_rows(rows)
    about = {"cpu": "a processor", "isa": "avx2", "threads": 2, "fma_peak_gflops": 180.0, "peers": {"zennit": "0.5"}}
    kinds = {name: [dataclasses.asdict(row) for row in some] for name, some in peers.by_kind(found).items()}
    harness.write_json(tmp_path / "figures.json", {"machine": about, **kinds})
    assert peers.read(tmp_path / "figures.json") == (about, found)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    peers.update_readme(readme, peers.readme_text(found, about))
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| LeNet forward | 128 |" in text and "share of the FMA peak: 60% to 60% back." in text
    plots.draw(found, about, tmp_path)
    assert min((tmp_path / name).stat().st_size for name in ("speed.png", "batches.png")) > 5000


def test_accuracy_sees_a_wrong_kernel(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and maps of a LeNet pass, and do not with an error of 0.01%."""
    accuracy = scripts("accuracy")
    monkeypatch.setattr(accuracy, "IMAGES", 1)
    net = bench.lenet()

    def verdicts() -> list[bool]:
        lines = accuracy.map_lines("LeNet", net, accuracy.compare_maps(net, tqdm(disable=True)))
        return [*(ok for _, ok in lines), accuracy.product_line("LeNet", net.weighted[1])[1]]
    assert verdicts() == [True] * 5
    right = NATIVE.product_back

    def wrong(*arguments: Any, **more: Any) -> np.ndarray:
        out = right(*arguments, **more)
        out.ravel()[::2] *= np.float32(1.0001)
        return out
    monkeypatch.setattr(NATIVE, "product_back", wrong)
    assert verdicts() == [False] * 5


def test_winners_can_be_imposed(scripts: Any) -> None:
    """Where a pool's inputs tie, relevance goes where the given winners say; values stay the backend's."""
    accuracy = scripts("accuracy")
    net = bench.drawn([fastlrp.MaxPool2d(2), fastlrp.Flatten(), fastlrp.Linear(1)], (2, 2, 1))
    x = np.ones((1, 2, 2, 1), np.float32)
    for tap in range(4):
        trace = net.trace([x], ops=accuracy.Imposed(NATIVE, [np.full((1, 1, 1, 1), tap, np.int32)]))
        back = accuracy.relevance(net, trace, fastlrp.composites.EpsilonPlus(), np.zeros(1, np.int64))
        assert trace.values[1].item() == 1 and np.flatnonzero(back).tolist() == [tap]
