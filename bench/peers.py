"""fastlrp next to its peers: checks that results agree, then times them in turn, and prints ratios.

    python bench/peers.py                 all rows
    python bench/peers.py --only LeNet    rows whose name contains LeNet
    python bench/peers.py --json FILE     also write the figures
    python bench/peers.py --readme        also put the table into README.md

Peers that are not installed are left out (bench/requirements-peers.txt). Each runs in its best configuration: memory
format the faster of the two, parameters frozen, hooks registered once, as many threads as fastlrp.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import harness
import models

import fastlrp

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_ZENNIT = HAS_TORCH and importlib.util.find_spec("zennit") is not None


@dataclass(frozen=True)
class Row:
    """One line of the table. Milliseconds are per call, that is per batch."""

    work: str
    batch: int
    peer: str
    fastlrp_ms: float
    fastlrp_best_ms: float
    peer_ms: float
    peer_best_ms: float
    ratio: float  # of medians: how many times faster fastlrp is
    gflops: float
    peak_fraction: float


def check(own: np.ndarray, other: np.ndarray, what: str, tolerance: float = 1e-3) -> None:
    """Nothing is timed whose result is not right."""
    error = float(np.linalg.norm(own - other) / np.linalg.norm(other))
    if not error < tolerance:
        raise SystemExit(f"{what}: results differ by {error:.2g} (relative L2); nothing is timed")


def channels_first(x: np.ndarray) -> Any:
    import torch
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def measure(work: str, batch: int, own: Callable[[], Any], peers: dict[str, Callable[[], Any]], operations: float,
            peak: float) -> Iterator[Row]:
    """Rows against each peer; variants of a peer are named "peer/variant", and the fastest speaks for it."""
    times = harness.interleaved({"fastlrp": own, **peers})
    mine = times.pop("fastlrp")
    best: dict[str, harness.Timing] = {}
    for name, timing in times.items():
        peer = name.split("/")[0]
        best[peer] = min(best.get(peer, timing), timing, key=lambda t: t.median)
    for peer, timing in (best or {"–": harness.Timing(float("nan"), float("nan"))}).items():
        rate = operations / mine.median
        yield Row(work, batch, peer, mine.median * 1e3, mine.best * 1e3, timing.median * 1e3, timing.best * 1e3,
                  timing.median / mine.median, rate / 1e9, rate / peak)


def forward_rows(name: str, batch: int, peak: float) -> Iterator[Row]:
    net = models.network(name)
    x = models.images(batch, net.input_shape)
    peers: dict[str, Callable[[], Any]] = {}
    if HAS_TORCH:
        import torch
        module, t = models.torch_twin(net).requires_grad_(False), channels_first(x)
        last = t.to(memory_format=torch.channels_last)
        check(net.forward(x), module(t).numpy(), f"{name} forward")
        peers = {"PyTorch/default": lambda: module(t), "PyTorch/channels last": lambda: module(last)}
    yield from measure(f"{name} forward", batch, lambda: net.forward(x), peers, batch * models.flops(net), peak)


def explain_rows(name: str, batch: int, peak: float) -> Iterator[Row]:
    net = models.network(name)
    x = models.images(batch, net.input_shape)

    def own() -> np.ndarray:
        return net.explain(x, composite=models.COMPOSITE).relevance
    peers: dict[str, Callable[[], Any]] = {}
    if HAS_ZENNIT:
        import torch
        run, t = models.zennit_explainer(models.torch_twin(net), net.input_shape), channels_first(x)
        last = t.to(memory_format=torch.channels_last)
        check(own(), run(t).numpy().transpose(0, 2, 3, 1), f"{name} explanation")
        peers = {"zennit/default": lambda: run(t), "zennit/channels last": lambda: run(last)}
    # Three products: forward, the positive part, and back.
    yield from measure(f"{name} zB + α1β0", batch, own, peers, 3 * batch * models.flops(net), peak)


def training_rows(name: str, batch: int, peak: float) -> Iterator[Row]:
    """One Adam step on sigmoid cross-entropy, data at hand."""
    net, steps = models.network(name), 8
    x, t = models.images(batch * steps, net.input_shape), np.arange(batch * steps) % 10
    peers: dict[str, Callable[[], Any]] = {}
    if HAS_TORCH:
        peers = torch_training(net, x[:batch], t[:batch], steps)

    def own() -> None:
        net.fit(x, t, epochs=1, batch_size=batch, progress=False)
    operations = 3 * steps * batch * models.flops(net)
    yield from measure(f"{name} training, {steps} steps", batch, own, peers, operations, peak)


def torch_training(net: fastlrp.Network, x: np.ndarray, t: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    import torch

    def variant(memory_format: Any, fused: bool) -> Callable[[], None]:
        module = models.torch_twin(net).to(memory_format=memory_format)
        optimizer = torch.optim.Adam(module.parameters(), fused=fused)
        inputs = channels_first(x).to(memory_format=memory_format)
        targets = torch.eye(net.output_shape[0])[torch.from_numpy(t)]
        loss = torch.nn.BCEWithLogitsLoss()

        def run() -> None:
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                loss(module(inputs), targets).backward()
                optimizer.step()
        return run
    formats = {"default": torch.contiguous_format, "channels last": torch.channels_last}
    return {f"PyTorch/{name}{', fused' * fused}": variant(kind, fused)
            for name, kind in formats.items() for fused in (False, True)}


WORK: list[tuple[str, Callable[..., Iterator[Row]], str, tuple[int, ...]]] = [
    ("LeNet forward", forward_rows, "LeNet", (1, 128, 1024)),
    ("LeNet zB + α1β0", explain_rows, "LeNet", (1, 128, 1024)),
    ("LeNet training", training_rows, "LeNet", (50, 128)),
    ("MLP forward", forward_rows, "MLP", (1, 128, 1024)),
    ("MLP zB + α1β0", explain_rows, "MLP", (1, 128, 1024)),
    ("MLP training", training_rows, "MLP", (50, 128)),
]


def table(rows: list[Row]) -> str:
    lines = ["| work | batch | fastlrp ms (best) | peer | peer ms (best) | times faster | GFLOP/s | of FMA peak |",
             "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {r.work} | {r.batch} | {r.fastlrp_ms:.3f} ({r.fastlrp_best_ms:.3f}) | {r.peer} | "
              f"{r.peer_ms:.3f} ({r.peer_best_ms:.3f}) | {r.ratio:.1f} | {r.gflops:.1f} | {r.peak_fraction:.0%} |"
              for r in rows]
    return "\n".join(lines)


def update_readme(path: Path, rows: list[Row], about: dict[str, Any]) -> None:
    """Replace what stands between the README's two marks."""
    begin, end = "<!-- bench/peers.py -->", "<!-- end -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    where = (f"{about['cpu']}, {about['isa']}, {about['threads']} threads, FMA peak {about['fma_peak_gflops']} "
             "GFLOP/s; milliseconds a batch (training: 8 steps).")
    path.write_text(f"{before}{begin}\n{table(rows)}\n\n{where}\n{end}{after}")


def memory() -> dict[str, float]:
    """Peak resident MB of fresh processes: the import alone, and a LeNet explanation of 1,024 images."""
    folder = str(Path(__file__).parent)
    explain = (f"import sys; sys.path.insert(0, {folder!r}); import models; n = models.network('LeNet'); "
               "n.explain(models.images(1024, n.input_shape), composite=models.COMPOSITE)")
    code = {"import": "import fastlrp", "LeNet, batch 1024": explain}
    return {name: harness.peak_memory(text) / 1e6 for name, text in code.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    if HAS_TORCH:
        import torch
        torch.set_num_threads(fastlrp.get_num_threads())
    about = harness.machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    rows: list[Row] = []
    for name, make, network, batches in WORK:
        for batch in batches if options.only in name else ():
            rows += make(network, batch, about["fma_peak_gflops"] * 1e9)
            print(table(rows).splitlines()[-1], flush=True)
    print("\n" + table(rows))
    used = memory()
    print("\npeak memory, MB: " + ", ".join(f"{name} {size:.0f}" for name, size in used.items()))
    if options.json:
        harness.write_json(options.json, {"machine": about, "rows": [asdict(row) for row in rows], "memory_mb": used})
    if options.readme:
        update_readme(Path(__file__).parent.parent / "README.md", rows, about)


if __name__ == "__main__":
    main()
