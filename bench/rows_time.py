"""Time beside the peers: forward passes, explanations, training. Nothing is timed whose result is not right.

Every peer runs in its best configuration: parameters frozen, hooks registered once, as many threads as fastlrp, both
memory formats, of which the faster speaks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import harness
import models
import numpy as np
import rows
from rows import Job, Row, Setting

import fastlrp
from fastlrp import _kernels
from fastlrp.bench import CHOSEN, Timing
from fastlrp.composites import EpsilonPlusFlat

FORMATS = ("default", "channels last")
CHECKED = 4  # images whose results are compared, whatever batches are timed: no bit depends on the batch
STEPS = 8  # of training in one call

# Relative L2 of one image's values or map. Both sides are float32, or near to it, and differ by rounding, some 1e-6
# ("high": 1e-5); but where two inputs of a max pool nearly tie, rounding decides which of them gets the relevance, and
# the two sides may decide otherwise. A few of VGG-16's million and a half windows do: each moves one unit's relevance
# by a pixel, 1e-5 to 1e-3 of a map, and far more in the rare image in which a unit of the last pool flips. So networks
# with max pools are judged by the median over images, with room for some flips in each of them. A wrong rule, bound,
# bias or order of weights gives errors of 0.1 and more, in every image. The imported networks are judged so too: in
# fifty layers, rounding grows (conformance.py compares them with double precision).
CLOSE, CLOSE_WITH_TIES = 1e-4, 1e-2
# At "medium", the median cosine similarity to zennit's maps in float32. Its maps in bfloat16 are no reference: they are
# as far from these as fastlrp's, so that the difference of the two would have both errors and blame neither. Maps of
# EpsilonPlusFlat are so smooth that another rule in one layer would pass: that the steps are the right ones is seen at
# "highest", which takes the same.
ALIKE = 0.99


def check(own: np.ndarray, other: np.ndarray, what: str, ties: bool) -> None:
    """Stop where results differ: in any image, or with `ties` in the median over them."""
    axes = tuple(range(1, own.ndim))
    errors = np.sqrt(((own - other) ** 2).sum(axes) / (other ** 2).sum(axes))
    error, bound = (np.median(errors), CLOSE_WITH_TIES) if ties else (errors.max(), CLOSE)
    if not error <= bound:
        raise SystemExit(f"{what}: results differ by {error:.2g} (relative L2, bound {bound:g}); nothing is timed")


def check_alike(own: np.ndarray, other: np.ndarray, what: str) -> None:
    """Stop where maps do not have the same direction, in the median over images."""
    axes = tuple(range(1, own.ndim))
    cosines = (own * other).sum(axes) / np.sqrt((own ** 2).sum(axes) * (other ** 2).sum(axes))
    if not (cosine := np.median(cosines)) >= ALIKE:
        raise SystemExit(f"{what}: cosine similarity is {cosine:.3g}, bound {ALIKE:g}; nothing is timed")


def in_format(name: str, value: Any) -> Any:
    """A module or an (N, C, H, W) tensor in a memory format."""
    import torch
    return value.to(memory_format=torch.channels_last if name == "channels last" else torch.contiguous_format)


@dataclass(frozen=True)
class Peer:
    """A peer's variant: what it runs on batches of one memory format and type."""

    run: Callable[[Any], Any]
    kind: str  # of FORMATS
    dtype: str = "float32"

    def takes(self, x: np.ndarray) -> Any:
        """A batch as its tensor."""
        import torch
        return in_format(self.kind, models.channels_first(x)).to(getattr(torch, self.dtype))

    def explain(self, x: np.ndarray) -> np.ndarray:
        """The maps of a batch."""
        return self.run(self.takes(x)).numpy().transpose(0, 2, 3, 1)


def forward_peers(net: fastlrp.Network, name: str) -> dict[str, Peer]:
    if not harness.installed("torch"):
        return {}
    return {f"{name}/{kind}": Peer(in_format(kind, models.torch_twin(net).requires_grad_(False)), kind)
            for kind in FORMATS}


def zennit_peers(net: fastlrp.Network, composite: str, dtype: str = "float32", name: str = "zennit") -> dict[str, Peer]:
    if not harness.installed("zennit"):
        return {}
    import torch
    return {f"{name}/{kind}": Peer(models.zennit_explainer(
        in_format(kind, models.torch_twin(net).to(getattr(torch, dtype))), net, composite), kind, dtype)
        for kind in FORMATS}


def measure(setting: Setting, work: str, batch: int, own: Callable[[], Any], peers: Mapping[str, Callable[[], Any]],
            operations: float, steps: int = 1, precision: str = CHOSEN.precision) -> Iterator[Row]:
    """A row for each peer; variants of a peer are named "peer/variant". operations: of one image. A call takes
    `steps` batches."""
    times = harness.interleaved({"fastlrp": own, **peers}, f"{work}, batch {batch}")
    mine, best = times.pop("fastlrp"), dict[str, Timing]()
    for name, timing in times.items():
        peer = name.split("/")[0]
        best[peer] = min(best.get(peer, timing), timing, key=lambda t: t.median)
    at_least, scale = rows.goal(rows.FASTER.get((work, batch), {}), setting.isa), 1e3 / (batch * steps)
    rate = operations * batch * steps / mine.median
    alone = Row(work, batch, mine.median * scale, mine.best * scale, rate / 1e9, rate / setting.peak,
                at_least=at_least, precision=precision)
    for peer, timing in best.items():
        ratio, asked = timing.median / mine.median, None if peer == rows.FORWARD else at_least
        yield replace(alone, peer=peer, peer_ms=timing.median * scale, peer_best_ms=timing.best * scale, ratio=ratio,
                      at_least=asked, reached=None if asked is None else ratio >= asked)
    if not best:
        yield alone


def forward_rows(setting: Setting, name: str, batches: tuple[int, ...]) -> Iterator[Row]:
    net, work = models.network(name, setting.size), f"{models.title(name, setting.size)} forward"
    peers, x = forward_peers(net, "PyTorch"), models.images(CHECKED, net)
    for peer in peers.values():
        check(net.forward(x), peer.run(peer.takes(x)).numpy(), work, False)
    for batch in batches:
        x = models.images(batch, net)
        calls = {kind: partial(peer.run, peer.takes(x)) for kind, peer in peers.items()}
        yield from measure(setting, work, batch, partial(net.forward, x), calls, models.flops(net))


def explain_rows(setting: Setting, name: str, composite_name: str, batches: tuple[int, ...],
                 precision: str = CHOSEN.precision) -> Iterator[Row]:
    """Beside zennit in float32, at "medium" in bfloat16; at "high" also beside what PyTorch's forward pass takes."""
    net = models.network(name, setting.size)
    work = rows.at_precision(f"{models.title(name, setting.size)} {composite_name}", precision)
    composite = models.COMPOSITES[composite_name](models.bound(net))

    def own(x: np.ndarray) -> np.ndarray:
        return net.explain(x, composite=composite, precision=precision).relevance
    peers, x = zennit_peers(net, composite_name), models.images(CHECKED, net)
    for peer in peers.values():
        if precision == "medium":
            check_alike(own(x), peer.explain(x), work)
        else:
            check(own(x), peer.explain(x), work, any(isinstance(layer, fastlrp.MaxPool2d) for layer in net.layers))
    if precision == "medium":
        peers = zennit_peers(net, composite_name, "bfloat16", "zennit bf16")
    elif precision == "high":
        peers |= forward_peers(net, rows.FORWARD)
    for batch in batches:
        x = models.images(batch, net)
        calls = {kind: partial(peer.run, peer.takes(x)) for kind, peer in peers.items()}
        yield from measure(setting, work, batch, partial(own, x), calls, models.explanation_flops(net, composite),
                           precision=precision)


def zoo_rows(setting: Setting, name: str, batch: int) -> Iterator[Row]:
    """A network of zoo.py, imported: its forward pass, and EpsilonPlusFlat."""
    import zennit_zoo
    import zoo
    model = zennit_zoo.without_eps(zoo.trained_like(zoo.ZOO[name](), size=setting.size)).requires_grad_(False)
    images = zoo.images(max(CHECKED, batch), setting.size)
    net, x = fastlrp.from_torch(model, images[:1]), images.numpy()
    title, bounds = models.title(name, setting.size), (-2.5, 2.5)
    modules = {kind: in_format(kind, copy.deepcopy(model)) for kind in FORMATS}
    runs = {kind: zennit_zoo.explainer(module, images[:1], "epsilon_plus_flat", bounds)
            for kind, module in modules.items()}

    def own(x: np.ndarray) -> np.ndarray:
        return net.explain(x, composite="epsilon_plus_flat", compat="zennit").relevance
    for kind, run in runs.items():
        part = in_format(kind, images[:CHECKED])
        check(net.forward(x[:CHECKED]), modules[kind](part).numpy(), f"{title} forward", False)
        check(own(x[:CHECKED]), run(part).numpy(), f"{title} EpsilonPlusFlat", True)
    parts = {kind: in_format(kind, images[:batch]) for kind in FORMATS}
    composite = EpsilonPlusFlat()
    yield from measure(setting, f"{title} forward", batch, partial(net.forward, x[:batch]),
                       {f"PyTorch/{kind}": partial(modules[kind], parts[kind]) for kind in FORMATS}, models.flops(net))
    yield from measure(setting, f"{title} EpsilonPlusFlat", batch, partial(own, x[:batch]),
                       {f"zennit/{kind}": partial(runs[kind], parts[kind]) for kind in FORMATS},
                       models.explanation_flops(net, composite))


def training_rows(setting: Setting, name: str, batches: tuple[int, ...]) -> Iterator[Row]:
    """Adam steps on sigmoid cross-entropy, data at hand."""
    for batch in batches:
        net = models.NETWORKS[name]()  # its own: training changes it
        x, t = models.images(batch * STEPS, net), np.arange(batch * STEPS) % 10
        peers = torch_training(net, x[:batch], t[:batch]) if harness.installed("torch") else {}
        own = partial(net.fit, x, t, epochs=1, batch_size=batch, progress=False)
        yield from measure(setting, f"{name} training", batch, own, peers, 3 * models.flops(net), STEPS)


def torch_training(net: fastlrp.Network, x: np.ndarray, t: np.ndarray) -> dict[str, Callable[[], Any]]:
    """STEPS steps of the same in PyTorch, in both memory formats, with Adam fused and not."""
    import torch

    def variant(kind: str, fused: bool) -> Callable[[], None]:
        module, inputs = (in_format(kind, value) for value in (models.torch_twin(net), models.channels_first(x)))
        optimizer = torch.optim.Adam(module.parameters(), fused=fused)
        targets = torch.eye(net.output_shape[0])[torch.from_numpy(t)]
        loss = torch.nn.BCEWithLogitsLoss()

        def run() -> None:
            for _ in range(STEPS):
                optimizer.zero_grad(set_to_none=True)
                loss(module(inputs), targets).backward()
                optimizer.step()
        return run
    return {f"PyTorch/{kind}{', fused' * fused}": variant(kind, fused) for kind in FORMATS for fused in (False, True)}


def jobs(setting: Setting) -> list[Job]:
    """All rows of this kind: VGG-16, imported networks, LeNet, MLP."""
    vgg = models.title("VGG-16", setting.size)
    found = [Job(f"{vgg} forward", partial(forward_rows, setting, "VGG-16", (4,)))]
    for name, batches in {"EpsilonPlusFlat": (1, 4, 16), "EpsilonGammaBox": (4,),
                          "EpsilonAlpha2Beta1Flat": (4,)}.items():
        found.append(Job(f"{vgg} {name}", partial(explain_rows, setting, "VGG-16", name, batches)))
    if _kernels.has_limbs():
        found += [Job(rows.at_precision(f"{vgg} EpsilonPlusFlat", precision),
                      partial(explain_rows, setting, "VGG-16", "EpsilonPlusFlat", (4,), precision))
                  for precision in ("high", "medium")]
    if harness.installed("torch") and harness.installed("zennit"):
        found += [Job(models.title(name, setting.size), partial(zoo_rows, setting, name, 4)) for name in models.ZOO]
    for name in models.NETWORKS:
        found += [Job(f"{name} forward", partial(forward_rows, setting, name, (1, 128, 1024))),
                  Job(f"{name} zB + α1β0", partial(explain_rows, setting, name, "zB + α1β0", (1, 128, 1024))),
                  Job(f"{name} training", partial(training_rows, setting, name, (50, 128)))]
    return found
