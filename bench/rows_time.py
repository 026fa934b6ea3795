"""Time beside the peers: forward passes, explanations, training. Nothing is timed whose result is not right.

Every peer runs in its best configuration: parameters frozen, hooks registered once, as many threads as fastlrp, both
memory formats, of which the faster speaks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import harness
import models
import numpy as np
import rows
from rows import Job, Row, Setting

import fastlrp
from fastlrp.bench import Timing
from fastlrp.composites import EpsilonPlusFlat

FORMATS = ("default", "channels last")
CHECKED = 4  # images whose results are compared, whatever batches are timed: no bit depends on the batch
STEPS = 8  # of training in one call

# Relative L2 of one image's values or map. Both sides are float32 and differ by rounding, some 1e-6; but where two
# inputs of a max pool nearly tie, rounding decides which of them gets the relevance, and the two sides may decide
# otherwise. A few of VGG-16's million and a half windows do: each moves one unit's relevance by a pixel, 1e-5 to 1e-3
# of a map, and far more in the rare image in which a unit of the last pool flips. So networks with max pools are
# judged by the median over images, with room for some flips in each of them. A wrong rule, bound, bias or order of
# weights gives errors of 0.1 and more, in every image. The imported networks are judged so too: in fifty layers,
# rounding grows (conformance.py compares them with double precision).
CLOSE, CLOSE_WITH_TIES = 1e-4, 1e-2


def check(own: np.ndarray, other: np.ndarray, what: str, ties: bool) -> None:
    """Stop where results differ: in any image, or with `ties` in the median over them."""
    axes = tuple(range(1, own.ndim))
    errors = np.sqrt(((own - other) ** 2).sum(axes) / (other ** 2).sum(axes))
    error, bound = (np.median(errors), CLOSE_WITH_TIES) if ties else (errors.max(), CLOSE)
    if not error <= bound:
        raise SystemExit(f"{what}: results differ by {error:.2g} (relative L2, bound {bound:g}); nothing is timed")


def in_format(name: str, value: Any) -> Any:
    """A module or an (N, C, H, W) tensor in a memory format."""
    import torch
    return value.to(memory_format=torch.channels_last if name == "channels last" else torch.contiguous_format)


def measure(setting: Setting, work: str, batch: int, own: Callable[[], Any], peers: Mapping[str, Callable[[], Any]],
            operations: float, steps: int = 1) -> Iterator[Row]:
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
                at_least=at_least)
    for peer, timing in best.items():
        ratio = timing.median / mine.median
        yield replace(alone, peer=peer, peer_ms=timing.median * scale, peer_best_ms=timing.best * scale, ratio=ratio,
                      reached=None if at_least is None else ratio >= at_least)
    if not best:
        yield alone


def forward_rows(setting: Setting, name: str, batches: tuple[int, ...]) -> Iterator[Row]:
    net, work = models.network(name, setting.size), f"{models.title(name, setting.size)} forward"
    modules: dict[str, Any] = {}
    if harness.installed("torch"):
        modules = {kind: in_format(kind, models.torch_twin(net).requires_grad_(False)) for kind in FORMATS}
    x = models.images(CHECKED, net)
    for kind, module in modules.items():
        check(net.forward(x), module(in_format(kind, models.channels_first(x))).numpy(), work, False)
    for batch in batches:
        x = models.images(batch, net)
        peers = {f"PyTorch/{kind}": partial(module, in_format(kind, models.channels_first(x)))
                 for kind, module in modules.items()}
        yield from measure(setting, work, batch, partial(net.forward, x), peers, models.flops(net))


def explain_rows(setting: Setting, name: str, composite_name: str, batches: tuple[int, ...]) -> Iterator[Row]:
    net, work = models.network(name, setting.size), f"{models.title(name, setting.size)} {composite_name}"
    composite = models.COMPOSITES[composite_name](models.bound(net))
    explainers: dict[str, Callable[[Any], Any]] = {}
    if harness.installed("zennit"):
        explainers = {kind: models.zennit_explainer(in_format(kind, models.torch_twin(net)), net, composite_name)
                      for kind in FORMATS}

    def own(x: np.ndarray) -> np.ndarray:
        return net.explain(x, composite=composite).relevance
    x = models.images(CHECKED, net)
    for kind, run in explainers.items():
        found = run(in_format(kind, models.channels_first(x))).numpy().transpose(0, 2, 3, 1)
        check(own(x), found, work, any(isinstance(layer, fastlrp.MaxPool2d) for layer in net.layers))
    for batch in batches:
        x = models.images(batch, net)
        peers = {f"zennit/{kind}": partial(run, in_format(kind, models.channels_first(x)))
                 for kind, run in explainers.items()}
        yield from measure(setting, work, batch, partial(own, x), peers, models.explanation_flops(net, composite))


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
    if harness.installed("torch") and harness.installed("zennit"):
        found += [Job(models.title(name, setting.size), partial(zoo_rows, setting, name, 4)) for name in models.ZOO]
    for name in models.NETWORKS:
        found += [Job(f"{name} forward", partial(forward_rows, setting, name, (1, 128, 1024))),
                  Job(f"{name} zB + α1β0", partial(explain_rows, setting, name, "zB + α1β0", (1, 128, 1024))),
                  Job(f"{name} training", partial(training_rows, setting, name, (50, 128)))]
    return found
