"""Kernels alone: every distinct layer of VGG-16, forward and back, beside the FMA peak measured in turn with it.

3×3 layers from rows.WIDE channels on also as there are goals for them: with tiles at lower precisions, without them as
direct products, where networks get Winograd's.
Dense layers of few samples are bound by reading their weights from memory, not by multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import harness
import models
import rows
from rows import Job, KernelRow, Setting

import fastlrp
from fastlrp import bench


def kernel_rows(setting: Setting, layer: fastlrp.layers.WeightedLayer, batch: int) -> Iterator[KernelRow]:
    """A row for each variant and direction of a layer like this one."""
    channels = min(layer.in_shape[-1], layer.out)
    wide = getattr(layer, "kernel", None) == (3, 3) and channels >= rows.WIDE
    variants = rows.variants(setting.isa) if wide else [bench.CHOSEN]
    rates = bench.kernel_rates(bench.alone(layer, layer.in_shape), batch, pause=harness.PAUSE,
                               shortest=harness.SHORTEST, variants=variants)
    for (variant, direction), rate in rates.items():
        at_least = rows.goal(rows.OF_PEAK[variant], setting.isa) if wide and setting.standard else None
        reached = None if at_least is None else rate.of_peak >= at_least
        yield KernelRow(bench.describe(layer), channels, batch, direction, rate.gflops, rate.best_gflops, rate.of_peak,
                        rate.best_of_peak, at_least, reached, *variant)


def jobs(setting: Setting) -> list[Job]:
    """Convolutions for four images, as in VGG-16's rows; dense layers for one, four and sixteen."""
    found: dict[str, Job] = {}
    net = fastlrp.Network(models.vgg16_layers(), (setting.size, setting.size, 3), init=None)
    for layer in net.weighted:
        for batch in (4,) if isinstance(layer, fastlrp.Conv2d) else (1, 4, 16):
            name = f"kernel {bench.describe(layer)}, batch {batch}"
            found.setdefault(name, Job(name, partial(kernel_rows, setting, layer, batch)))
    return list(found.values())
