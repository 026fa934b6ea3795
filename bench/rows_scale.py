"""What grows and what does not: two threads beside one, peak memory of fresh processes, memory over a long stream."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import harness
import models
from rows import Job, ScaleRow, Setting

import fastlrp

COMPOSITE = "EpsilonPlusFlat"
MOST_GB, FASTER_ON_TWO, FLAT_MB = 1.5, 1.8, 1.0

# Both leave the peak of their own process behind, in MB. zennit's starts when PyTorch's weights alone are left of the
# making of its network; fastlrp's is the whole process's.
OWN = """
import harness, models
net = models.network("VGG-16", {size})
net.explain(models.images({batch}, net), composite=models.COMPOSITES["{composite}"](models.bound(net)))
found = [harness.memory("VmHWM") / 1e6]
"""
PEER = """
import harness, models, torch
torch.set_num_threads({threads})
net = models.vgg16({size})
x = models.channels_first(models.images({batch}, net))
run = models.zennit_explainer(models.torch_twin(net), net, "{composite}")
del net
harness.forget_peak()
run(x)
found = [harness.memory("VmHWM") / 1e6]
"""
STREAM = """
import harness, models
net, found = models.network("LeNet"), []
for seen in range(100, 10_001, 100):
    net.explain(models.images(100, net), composite=models.COMPOSITES["zB + α1β0"](models.bound(net)))
    if seen in (1000, 10_000):
        found.append(harness.memory("VmRSS") / 1e6)
"""


def thread_rows(setting: Setting) -> Iterator[ScaleRow]:
    """One image on one thread and on two, in turn."""
    before = fastlrp.get_num_threads()
    net, title = models.network("VGG-16", setting.size), models.title("VGG-16", setting.size)
    x, composite = models.images(1, net), models.COMPOSITES[COMPOSITE](models.bound(net))

    def explain(threads: int) -> None:
        fastlrp.set_num_threads(threads)
        net.explain(x, composite=composite)
    try:
        times = harness.interleaved({str(n): partial(explain, n) for n in (1, 2)}, "one thread and two")
    finally:
        fastlrp.set_num_threads(before)
    ratio = times["1"].median / times["2"].median
    reached = ratio >= FASTER_ON_TWO if setting.standard else None
    yield ScaleRow(f"{title} {COMPOSITE}, batch 1: two threads against one", "× faster", ratio, batch=1,
                   at_least=f"{FASTER_ON_TWO}", reached=reached)


def memory_rows(setting: Setting, batches: tuple[int, ...]) -> Iterator[ScaleRow]:
    """Peak memory of whole processes, the network's making included; with zennit's where it is installed."""
    title = models.title("VGG-16", setting.size)
    for batch in batches:
        values = {"size": setting.size, "batch": batch, "composite": COMPOSITE, "threads": fastlrp.get_num_threads()}
        own, = harness.fresh(OWN.format(**values))
        there, = harness.fresh(PEER.format(**values)) if harness.installed("zennit") else (None,)
        reached = own / 1e3 < MOST_GB if batch == 16 and setting.standard else None
        yield ScaleRow(f"{title} {COMPOSITE}, batch {batch}: peak memory", "MB", own, "zennit", there, batch,
                       f"under {MOST_GB} GB", reached)


def stream_rows() -> Iterator[ScaleRow]:
    """Resident memory after 10,000 images beyond that after the first 1,000."""
    early, late = harness.fresh(STREAM)
    yield ScaleRow(f"LeNet, 10,000 images streamed: memory beyond that after 1,000 ({early:.0f} MB)", "MB",
                   late - early, at_least=f"flat, within {FLAT_MB:g} MB", reached=abs(late - early) <= FLAT_MB)


def jobs(setting: Setting) -> list[Job]:
    """Threads where there are two."""
    title = models.title("VGG-16", setting.size)
    threads = [Job(f"{title} threads", partial(thread_rows, setting))] if fastlrp.get_num_threads() > 1 else []
    return [*threads, Job(f"{title} memory", partial(memory_rows, setting, (1, 4, 16))),
            Job("LeNet memory over a stream", stream_rows)]
