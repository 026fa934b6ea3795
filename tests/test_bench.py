"""Measuring: what is printed, and that counts and rates are what they say. No speed is asserted."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ISAS
from tqdm import tqdm

import fastlrp
from fastlrp import _kernels, bench, cli
from fastlrp.bench import CHOSEN, Rate, Timing, Variant
from fastlrp.ops import NATIVE, NATIVES, Native, native


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("isa", ISAS[-2:], indirect=True)
def test_bench_prints_the_machine_and_every_kernel(capsys: pytest.CaptureFixture) -> None:
    """A short run of `fastlrp bench`: lower precisions and the tiles' peak where there are tiles."""
    assert cli.main(["bench", "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"fastlrp {fastlrp.__version__} on ")
    assert f"in use: {fastlrp.cpu_info()['isa']}; threads: {fastlrp.get_num_threads()}" in printed
    assert float(re.search(r"FMA peak, GFLOP/s: ([\d.]+) on 1 thread", printed)[1]) > 0
    rows = re.findall(r"^(?:\d×\d, .*|dense, .*?) +\d+((?: +\d+\.\d +\d+%){2})((?: +\d+%)*)$", printed, re.M)
    tiles = _kernels.has_limbs()
    assert [lower.count("%") for _, lower in rows] == [4 * tiles] * 5 + [0] * (len(bench.KERNELS) - 5)
    for text in ("AMX peak, GFLOP/s: ", "high, of peak", "medium, of peak"):
        assert (text in printed) == tiles
    assert "3×3, 28×28, 256 → 512" in printed and "dense, 4096 → 4096" in printed
    for n in (1, 128):
        assert float(re.search(rf"LeNet explanation \(zB, α1β0\), batch {n}: ([\d.]+) ms an image", printed)[1]) > 0
    assert all(f"{term}: " in printed for term in ("GFLOP/s", "FMA peak", "Of peak", "More than 100%"))


@pytest.mark.parametrize(("threads", "times", "warns"), [
    (2, 1.4, True), (2, 1.6, False), (4, 2.9, True), (4, 3.1, False), (1, 1.0, False)])
def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, threads: int, times: float, warns: bool) -> None:
    """Where more threads have less than three quarters of as many times one thread's peak."""
    monkeypatch.setattr(bench, "fma_peak", lambda n, runs: 1e11 * (1 if n == 1 else times))
    monkeypatch.setattr(bench, "tile_peak", lambda n, runs: 0.0)
    monkeypatch.setattr(bench, "cpu_info", lambda: {"available": [], "isa": "avx2", "threads": threads})
    monkeypatch.setattr(bench, "KERNELS", [])
    monkeypatch.setattr(bench, "_lenet_seconds", lambda n, runs: 1e-3)
    printed: list[str] = []
    bench.run(1, printed.append)
    warnings = [line for line in printed if line.startswith("warning")]
    assert len(warnings) == warns
    assert not warns or f"{threads} threads reach {times:.2f} times the FMA peak of one" in warnings[0]
    assert "batch 1: 1 ms an image\nLeNet explanation (zB, α1β0), batch 128: 0.00781 ms an image" in printed[-1]


@pytest.mark.parametrize("runs", [0, 1.5])
def test_runs_are_counted(runs: float) -> None:
    """At least one, and whole."""
    with pytest.raises((TypeError, ValueError), match="runs must be"):
        bench.run(runs)


class Clock:
    """In the place of `time`: it stands still but for rests and for what calls take."""

    def __init__(self) -> None:
        self.now, self.rests, self.made = 0.0, list[float](), list[str]()
        self.rested = False

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rests.append(seconds)
        self.rested = True

    def call(self, name: str, seconds: float, after_rest: float | None = None) -> Any:
        """A call that takes so long, or another time as the first after a rest."""
        def work() -> None:
            self.made.append(name)
            self.now += seconds if after_rest is None or not self.rested else after_rest
            self.rested = False
        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(bench, "time", found)
    return found


def test_calls_are_timed_in_turn(clock: Clock) -> None:
    """A B A B, each short one as often as makes a measurement, each long one once, after one that is not counted."""
    slow, quick = 2**-1, 2**-10
    calls = {"slow": clock.call("slow", slow), "quick": clock.call("quick", quick)}
    times = bench.interleaved(calls, 3, shortest=2**-5, pause=0.25)
    assert times == {"slow": Timing(slow, slow), "quick": Timing(quick, quick)}
    order = [name for name, before in zip(clock.made, [None, *clock.made], strict=False) if name != before]
    assert order == ["slow", "quick"] * 4 and clock.made.count("slow") == 4 * (1 + 1)
    # One, GROWTH, and 32 calls and a tenth more: that many again in each run.
    assert clock.made.count("quick") == (1 + 1) + (1 + bench.GROWTH) + 4 * (1 + 36)
    assert clock.rests == [0.25] * (4 + 2 + 4)


def test_the_first_call_after_a_rest_does_not_count(clock: Clock) -> None:
    """A processor that slept wakes in it; nor does it decide how many calls make a measurement."""
    times = bench.interleaved({"call": clock.call("call", 2**-10, after_rest=1.0)}, 3, shortest=2**-5, pause=0.25)
    assert times["call"] == Timing(2**-10, 2**-10) and len(clock.made) == 2 + 21 + 4 * 37


def test_the_median_and_the_best_are_told(clock: Clock) -> None:
    """Of the measurements in turn: those that tell how many calls make one are not among them."""
    seconds = [0.125, 1.5, 0.5, 0.75]

    def call() -> None:
        clock.now += seconds[len(clock.rests) - 1]
    assert bench.interleaved({"call": call}, 3, shortest=0)["call"] == Timing(0.75, 0.5)


@pytest.mark.parametrize(("seconds", "made"), [
    ([1.0, 1.0], 2 * (1 + 9)), ([2.0, 2.0], 2 * (1 + bench.FEW)), ([4.0], 1 + 1 + bench.FEW)])
def test_long_calls_are_measured_a_few_times(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: list[float],
                                             made: int) -> None:
    """Once all of them together take more than LONG seconds, whatever was asked for. A call that takes as much alone
    has an uncounted one before its first measurement only. The bar is full at the end."""
    bars = []

    def bar(**options: Any) -> tqdm:
        bars.append(tqdm(**options, disable=False, file=io.StringIO()))
        return bars[0]
    monkeypatch.setattr(bench, "tqdm", bar)
    bench.interleaved({i: clock.call(str(i), each) for i, each in enumerate(seconds)}, 9, shortest=0)
    assert [clock.made.count(str(i)) for i in range(len(seconds))] == [made] * len(seconds)
    assert bars[0].n == bars[0].total == len(seconds) * (1 + (9 if sum(seconds) < bench.LONG else bench.FEW))


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
    assert set(rates) == {(CHOSEN, "forward"), (CHOSEN, "back")}
    assert all(0 < rate.gflops <= rate.best_gflops and 0 < rate.of_peak <= rate.best_of_peak for rate in rates.values())


@pytest.mark.parametrize("variant", [CHOSEN, Variant("high"), Variant("medium"), Variant(direct=True)],
                         ids=lambda variant: variant.name)
def test_variants_are_what_is_timed(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both products are asked for at their precision, and direct where that is wanted."""
    asked = []

    def spied(verb: str) -> Any:
        packed = getattr(Native, verb)

        def spy(ops: Native, layer: Any, weights: Any, direct: bool) -> Any:
            asked.append((verb, ops.precision, direct))
            return packed(ops, layer, weights, direct)
        return spy

    verbs = ("packed_product", "packed_product_back")
    for verb in verbs:
        monkeypatch.setattr(Native, verb, spied(verb))
    net = bench.alone(fastlrp.Conv2d(32, 3, padding=1), (8, 8, 32))
    assert set(bench.kernel_rates(net, 1, 1, variants=[variant])) == {(variant, "forward"), (variant, "back")}
    assert asked == [(verb, native(variant.precision).precision, variant.direct) for verb in verbs]


def test_tiles_have_a_peak(isa: str) -> None:
    """None where the instruction set in use has no tiles."""
    peak = bench.tile_peak(1, 1)
    assert peak > bench.fma_peak(1, 1) if isa == "amx" else peak == 0


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
    """One row with a peer and a goal, one without, one beside another kind of peer, and of each other kind."""
    return [rows.Row("LeNet zB + α1β0", 128, 0.05, 0.04, 90.0, 0.5, "zennit", 1.0, 0.9, 20.0, 15.0, True),
            rows.Row("LeNet forward", 128, 0.05, 0.04, 90.0, 0.5),
            rows.Row("VGG-16 EpsilonPlusFlat, high", 4, 60.0, 59.0, 1500.0, 3.4, rows.FORWARD, 100.0, 99.0, 1.7,
                     precision="high"),
            rows.KernelRow("3×3, 28×28, 256 → 512", 256, 4, "back", 60.0, 62.0, 0.6, 0.62, 0.7, False, direct=True),
            rows.KernelRow("3×3, 28×28, 256 → 512", 256, 4, "forward", 90.0, 92.0, 0.9, 0.92),
            rows.ScaleRow("VGG-16 EpsilonPlusFlat, batch 16: peak memory", "MB", 1400.0, "zennit", 5600.0, 16,
                          "under 1.5 GB", True)]


ABOUT = {"cpu": "a processor", "isa": "avx2", "threads": 2, "fma_peak_gflops": 180.0, "peers": {"zennit": "0.5"}}


def test_tables_say_what_was_reached(scripts: Any) -> None:
    """Figures with three digits; a dash where there is no peer."""
    rows = scripts("rows")
    found = [rows.line(row) for row in measured_rows(rows)]
    assert "| 0.0500 (0.0400) | zennit | 1.00 (0.900) | 20.0 | 15: reached |" in found[0]
    assert "| – | – (–) | – |  |" in found[1]
    assert "| highest, direct | back | 60.0 (62.0) | 60% (62%) | 70%: missed |" in found[3]
    assert "| highest | forward | 90.0 (92.0) | 90% (92%) |  |" in found[4]
    assert "| 1400 MB | zennit 5600 | under 1.5 GB: reached |" in found[5]


def test_goals_are_those_of_the_instruction_set(scripts: Any) -> None:
    """By work, batch and precision; some are for any instruction set."""
    rows = scripts("rows")
    works: dict[tuple[str, int], list[float | None]] = {
        ("VGG-16 forward", 4): [1.5, 1.0, None], ("VGG-16 EpsilonPlusFlat", 1): [4.5, None, None],
        ("VGG-16 EpsilonPlusFlat", 4): [6.0, 4.0, None], ("VGG-16 EpsilonPlusFlat", 16): [6.0, None, None],
        ("VGG-16 EpsilonPlusFlat, high", 4): [10.0, None, None],
        ("VGG-16 EpsilonPlusFlat, medium", 4): [4.0, None, None], ("VGG-16 EpsilonGammaBox", 4): [10.0, None, None],
        ("VGG-16 EpsilonAlpha2Beta1Flat", 4): [7.0, None, None], ("LeNet training", 50): [2.0, 2.0, 2.0]}
    for work, goals in works.items():
        assert [rows.goal(rows.FASTER[work], isa) for isa in ("amx", "avx512", "avx2")] == goals, work


@pytest.mark.parametrize(("isa", "expected"), [
    ("amx", {"highest": (1.3, True), "high": (2.5, False), "medium": (5.0, False)}),
    ("avx512", {"highest": (None, None), "highest, direct": (0.7, True)}),
    ("avx2", {"highest": (None, None), "highest, direct": (0.7, True)}), ("portable", {"highest": (None, None)}),
])
def test_kernels_are_measured_as_there_are_goals(scripts: Any, monkeypatch: pytest.MonkeyPatch, isa: str,
                                                 expected: dict[str, Any]) -> None:
    """3×3 kernels with enough channels on both sides; others as networks get them, without a goal."""
    rows, kernels = scripts("rows"), scripts("rows_kernels")
    rate = Rate(100.0, 110.0, 1.5, 1.6)
    monkeypatch.setattr(bench, "kernel_rates", lambda net, n, pause, shortest, variants: {
        (variant, direction): rate for variant in variants for direction in ("forward", "back")})

    def found(layer: fastlrp.layers.Layer, shape: tuple[int, ...], size: int = 224) -> dict[str, Any]:
        net = bench.alone(layer, shape)
        return {row.variant: (row.at_least, row.reached)
                for row in kernels.kernel_rows(rows.Setting(isa, 1e12, size), net.weighted[0], 4)}
    wide = fastlrp.Conv2d(64, 3, padding=1)
    assert found(wide, (4, 4, 64)) == expected
    assert found(wide, (4, 4, 64), 32) == dict.fromkeys(expected, (None, None))
    for layer, shape in ((wide, (4, 4, 3)), (fastlrp.Conv2d(32, 3), (4, 4, 64)), (fastlrp.Linear(64), (64,))):
        assert found(layer, shape) == {"highest": (None, None)}


def timed_as(times: dict[str, float]) -> Any:
    """In the place of harness.interleaved: makes every call once and says what it took, by the peer's name."""
    def interleaved(calls: dict[str, Any], label: str) -> dict[str, Timing]:
        for call in calls.values():
            call()
        return {name: Timing(times[name.split("/")[0]], times[name.split("/")[0]]) for name in calls}
    return interleaved


def test_goals_are_for_peers_that_do_the_same(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's forward pass beside an explanation is told, not judged."""
    harness, rows, times = scripts("harness"), scripts("rows"), scripts("rows_time")
    monkeypatch.setattr(harness, "interleaved", timed_as({"fastlrp": 1.0, "zennit": 11.0, rows.FORWARD: 1.5}))
    calls = dict.fromkeys(("zennit/default", "zennit/channels last", f"{rows.FORWARD}/default"), lambda: None)
    for isa, goal in (("amx", 10.0), ("avx512", None)):
        found = list(times.measure(rows.Setting(isa, 1e12), "VGG-16 EpsilonPlusFlat, high", 4, lambda: None, calls, 1e9,
                                   precision="high"))
        assert [(row.peer, row.ratio, row.at_least, row.reached) for row in found] == [
            ("zennit", 11.0, goal, goal and True), (rows.FORWARD, 1.5, None, None)]
        assert {row.precision for row in found} == {"high"}


def test_lower_precisions_are_measured_on_tiles(scripts: Any, isa: str) -> None:
    """Nowhere else are they anything else."""
    rows, times = scripts("rows"), scripts("rows_time")
    names = {job.name for job in times.jobs(rows.Setting(isa, 1e12))}
    lower = {"VGG-16 EpsilonPlusFlat, high", "VGG-16 EpsilonPlusFlat, medium"}
    assert "VGG-16 EpsilonPlusFlat" in names and names & lower == (lower if isa == "amx" else set())


@pytest.mark.parametrize(("precision", "peers"), [
    ("highest", ["zennit"]), ("high", ["zennit", "PyTorch forward"]), ("medium", ["zennit bf16"])])
def test_explanations_are_checked_and_timed_beside_peers(scripts: Any, monkeypatch: pytest.MonkeyPatch, precision: str,
                                                         peers: list[str]) -> None:
    """Each precision beside its own; a map that is not zennit's stops the run."""
    harness, rows, times = scripts("harness"), scripts("rows"), scripts("rows_time")
    if not harness.installed("zennit"):  # importing it by itself wants torchvision
        pytest.skip("needs zennit")
    monkeypatch.setattr(harness, "interleaved", timed_as(dict.fromkeys(["fastlrp", *peers], 1.0)))
    work = rows.at_precision("LeNet EpsilonPlusFlat", precision)

    def found() -> list[Any]:
        return list(times.explain_rows(rows.Setting("amx", 1e12), "LeNet", "EpsilonPlusFlat", (2,), precision))
    assert [(row.work, row.peer, row.precision) for row in found()] == [(work, peer, precision) for peer in peers]
    explain = times.Peer.explain
    monkeypatch.setattr(times.Peer, "explain", lambda peer, x: -explain(peer, x))
    with pytest.raises(SystemExit, match=f"{work}: .*nothing is timed"):
        found()


def test_the_machine_has_the_peaks_there_are(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, pages = scripts("harness"), scripts("pages")
    monkeypatch.setattr(bench, "fma_peak", lambda threads, runs: 2e11)
    for peak, text in ((0.0, "FMA peak 200.0 GFLOP/s"), (3e12, "FMA peak 200.0 GFLOP/s, AMX peak 3000.0 GFLOP/s")):
        monkeypatch.setattr(bench, "tile_peak", lambda threads, runs, peak=peak: peak)
        about = harness.machine()
        assert about.get("amx_peak_gflops") == (peak / 1e9 or None) and pages.place(about).endswith(text)


def written(pages: Any, found: list[Any], path: Path, without: tuple[str, ...] = ()) -> Path:
    """A file as --json writes it."""
    kinds = {name: [{key: value for key, value in dataclasses.asdict(row).items() if key not in without}
                    for row in some] for name, some in pages.by_kind(found).items()}
    path.write_text(json.dumps({"machine": ABOUT, **kinds}))
    return path


def test_figures_are_written_and_read(scripts: Any, tmp_path: Path) -> None:
    """JSON to rows and back, and into both pictures."""
    pages, plots, rows = (scripts(name) for name in ("pages", "plots", "rows"))
    found = measured_rows(rows)
    run = pages.read(written(pages, found, tmp_path / "figures.json"))
    assert run == (ABOUT, found)
    plots.draw([run, run], tmp_path)
    assert min((tmp_path / name).stat().st_size for name in pages.PICTURES) > 5000


def test_bars_are_of_peers_that_do_the_same(scripts: Any) -> None:
    """Explanations, forward passes and training apart; none for PyTorch's forward pass beside an explanation."""
    pages, plots, rows = (scripts(name) for name in ("pages", "plots", "rows"))
    found = measured_rows(rows)
    more = [dataclasses.replace(found[0], work=work, peer="PyTorch", ratio=0.8) for work in ("A training", "A forward")]
    assert plots.grouped([pages.Run(ABOUT, found), pages.Run(ABOUT, more)]) == [
        ("forward pass", ["A, batch 128"]), ("training", ["A, batch 128"]),
        ("explanation", ["LeNet zB + α1β0, batch 128"])]


def test_pages_keep_what_is_around_the_figures(scripts: Any, tmp_path: Path) -> None:
    """Only what stands between the marks changes; a page without them stays as it is."""
    pages, page = scripts("pages"), tmp_path / "README.md"
    page.write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n")
    pages.update(page, "new")
    assert page.read_text() == f"before\n{pages.BEGIN}\nnew\n{pages.END}\nafter\n"
    page.write_text("before\nafter\n")
    with pytest.raises(ValueError, match="must have the marks"):
        pages.update(page, "new")
    assert page.read_text() == "before\nafter\n"


def test_figures_from_before_precisions_are_read(scripts: Any, tmp_path: Path) -> None:
    """They are the highest's, of the algorithm that the library chose."""
    pages, rows = scripts("pages"), scripts("rows")
    path = written(pages, measured_rows(rows), tmp_path / "old.json", without=("precision", "direct"))
    _, found = pages.read(path)
    assert {row.precision for row in found if not isinstance(row, rows.ScaleRow)} == {"highest"}
    assert not any(row.direct for row in found if isinstance(row, rows.KernelRow))


def test_the_readme_has_all_machines_side_by_side(scripts: Any, tmp_path: Path) -> None:
    """Times faster and milliseconds of the works that SUMMARY names, a dash where a run lacks one; then the machines,
    and the pictures there are."""
    pages, rows = scripts("pages"), scripts("rows")
    row = dataclasses.replace(measured_rows(rows)[0], batch=1024)
    other = dataclasses.replace(row, ratio=0.5, ms=2.0)
    cases: dict[str, list[Any]] = {"amx": [row], "avx2": [other], "avx512": []}
    runs = [pages.Run({**ABOUT, "isa": isa}, found) for isa, found in cases.items()]
    text = pages.readme_text(runs, tmp_path)
    assert text.startswith("| work | batch | beside | AMX | AVX2 | AVX-512 |\n|---|---|---|---|---|---|\n")
    assert "| LeNet zB + α1β0 | 1024 | zennit | **20.0** (0.0500) | **0.500** (2.00) | – |" in text
    assert text.count("\n| ") == len(rows.SUMMARY) and "| MLP training | 50 | – | – | – | – |" in text
    assert "AMX: a processor, 2 threads, zennit 0.5; AVX2: a processor" in text and "![" not in text
    (tmp_path / "speed.png").touch()
    assert pages.readme_text(runs, tmp_path).endswith("](docs/speed.png)")


def test_what_is_slower_or_missed_is_named(scripts: Any) -> None:
    """In sentences, with the machine, for rows of every kind."""
    pages, rows = scripts("pages"), scripts("rows")
    found = measured_rows(rows)
    slow = dataclasses.replace(found[0], ratio=0.5, reached=False)
    run, other = pages.Run(ABOUT, found), pages.Run({**ABOUT, "isa": "amx"}, [slow])
    assert pages.slower([run]) == "No row of these runs is slower than its peer."
    assert pages.slower([run, other]) == ("Slower than its peer, with less than 1: LeNet zB + α1β0, batch 128, "
                                          "beside zennit (0.500 with AMX); all else is faster.")
    kernel = "3×3, 28×28, 256 → 512, batch 4, highest, direct, back, with AVX2: 60% of the FMA peak (goal 70%)"
    assert pages.missed([run]) == f"Of 3 goals, 1 was missed: {kernel}."
    assert pages.missed([run, other]) == (f"Of 4 goals, 2 were missed: {kernel}; LeNet zB + α1β0, batch 128, beside "
                                          "zennit, with AMX: 0.500 times faster (goal 15).")
    assert pages.missed([pages.Run(ABOUT, found[:1])]) == "All goals were reached."


def test_the_page_of_speed_has_every_row(scripts: Any) -> None:
    """Of every run, with goals and verdicts, best times and kernels' shares; missed ones are named first."""
    pages, rows = scripts("pages"), scripts("rows")
    found = measured_rows(rows)
    text = pages.speed_text([pages.Run(ABOUT, found), pages.Run({**ABOUT, "isa": "avx512"}, found)])
    assert text.startswith("Of 6 goals, 2 were missed: ")
    assert text.index("### AVX2: a processor") < text.index("### AVX-512: a processor")
    assert "a processor, avx2, 2 threads, FMA peak 180.0 GFLOP/s; zennit 0.5." in text
    for row in found:
        assert text.count(rows.line(row)) == 2
    assert "share of the FMA peak, highest, direct: 60% to 60% back; highest: 90% to 90% forward." in text


@pytest.mark.parametrize(("precision", "factor", "lines"), [
    ("highest", 1.0001, 5), ("high", 1.001, 5), ("medium", 2.0, 4), ("highest", np.nan, 5), ("medium", np.nan, 4)])
def test_accuracy_sees_a_wrong_kernel(scripts: Any, monkeypatch: pytest.MonkeyPatch, precision: str, factor: float,
                                      lines: int) -> None:
    """Products and maps of a LeNet pass, and do not where every second sum is wrong."""
    accuracy = scripts("accuracy")
    monkeypatch.setattr(accuracy, "IMAGES", 1)
    monkeypatch.setattr(accuracy, "precisions", lambda: [precision])
    net = bench.lenet()

    def verdicts() -> list[bool]:
        found = [*accuracy.map_lines("LeNet", net, accuracy.compare_maps(net, tqdm(disable=True))),
                 *accuracy.product_lines("LeNet", net.weighted[1])]
        return [ok for _, ok in found]
    assert verdicts() == [True] * lines
    right = Native.product_back

    def wrong(*arguments: Any, **more: Any) -> np.ndarray:
        out = right(*arguments, **more)
        out.ravel()[::2] *= np.float32(factor)
        return out
    monkeypatch.setattr(Native, "product_back", wrong)
    assert verdicts() == [False] * lines


def test_accuracy_is_known_of_every_precision(scripts: Any, isa: str) -> None:
    """Each has bounds, those that do not differ from the highest aside."""
    accuracy = scripts("accuracy")
    assert accuracy.precisions() == (list(NATIVES) if isa == "amx" else ["highest"])
    assert list(accuracy.BOUNDS) == list(NATIVES)


def test_winners_can_be_imposed(scripts: Any) -> None:
    """Where a pool's inputs tie, relevance goes where the given winners say; values stay the backend's."""
    accuracy = scripts("accuracy")
    net = bench.drawn([fastlrp.MaxPool2d(2), fastlrp.Flatten(), fastlrp.Linear(1)], (2, 2, 1))
    x = np.ones((1, 2, 2, 1), np.float32)
    for tap in range(4):
        trace = net.trace([x], ops=accuracy.Imposed(NATIVE, [np.full((1, 1, 1, 1), tap, np.int32)]))
        back = accuracy.relevance(net, trace, fastlrp.composites.EpsilonPlus(), np.zeros(1, np.int64))
        assert trace.values[1].item() == 1 and np.flatnonzero(back).tolist() == [tap]
