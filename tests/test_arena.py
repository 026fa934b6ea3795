"""Where the values of programs lie, and stretches: no value is overwritten before its last use, whatever the order of
pixels, and large programs have the bits of verbs that run at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, mixed_signs, with_biases
from test_program import at_once

import fastlrp
from fastlrp import arena, set_num_threads
from fastlrp.arena import ELEMENTWISE, Stretch, lay_out
from fastlrp.composites import EpsilonAlpha2Beta1Flat, EpsilonGammaBox, EpsilonPlusFlat
from fastlrp.program import Slot, Step

PIXELS = (2, 3)


@dataclass
class OneTap:
    """As much of a product as a layout asks for."""

    is_pixelwise: bool


def random_steps(rng: np.random.Generator) -> tuple[list[Step], list[int], set[int]]:
    """A list of steps over slots of a few shapes, the first of them an input."""
    shapes, steps = [(*PIXELS, int(rng.integers(1, 9)))], []
    for _ in range(rng.integers(1, 25)):
        sources = rng.integers(0, len(shapes), rng.integers(1, 4))
        op = str(rng.choice([*ELEMENTWISE, "product", "product"]))
        if op in ELEMENTWISE:
            shape = shapes[sources[0]]
        else:
            grid = PIXELS if rng.random() < 0.8 else (1, 1)
            shape = (*grid, int(rng.integers(1, 9)))
        reads = tuple((Slot(int(i), shapes[i]), "plain", None) for i in sources)
        product = OneTap(bool(rng.random() < 0.8)) if op == "product" else None
        shapes.append(shape)
        steps.append(Step(op, (Slot(len(shapes) - 1, shape),), reads, product=product))
    return steps, [int(np.prod(shape)) for shape in shapes], {0, len(shapes) - 1}


class Memory:
    """Every element says whose value it holds."""

    def __init__(self, layout: arena.Layout, sizes: list[int], external: set[int]):
        self.layout, self.sizes = layout, sizes
        self.places = {"arena": np.full(layout.arena, -1), "scratch": np.full(0, -1)}
        self.outside = {i: np.full(sizes[i], i if i == 0 else -1) for i in external}

    def of(self, slot: Slot, stretch: Stretch | None, pixel: int) -> np.ndarray:
        """A slot's values: all, or in a stretch those of one pixel."""
        i, size = slot.index, self.sizes[slot.index]
        if stretch and i in stretch.own:
            return self.places["scratch"][self.layout.offsets[i]:][:size // stretch.pixels]
        whole = self.outside[i] if i in self.outside else self.places["arena"][self.layout.offsets[i]:][:size]
        assert i in self.outside or (self.layout.offsets[i] >= 0 and len(whole) == size)
        return whole[pixel * (size // stretch.pixels):][:size // stretch.pixels] if stretch else whole

    def run(self, step: Step, stretch: Stretch | None = None, pixel: int = 0) -> None:
        for slot in step.reads():
            assert (self.of(slot, stretch, pixel) == slot.index).all(), f"slot {slot.index} was overwritten"
        for slot in step.out:
            self.of(slot, stretch, pixel)[:] = slot.index


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_slots_that_are_needed_at_once_do_not_overlap(seed: int, stretch: bool,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Played through, pixel by pixel in stretches: every value a step reads is still there, as written."""
    monkeypatch.setattr(arena, "LEAST_BYTES", 0)
    steps, sizes, external = random_steps(np.random.default_rng(seed))
    layout = lay_out(steps, sizes, external, stretch)
    memory, stretches = Memory(layout, sizes, external), {s.first: s for s in layout.stretches}
    t = 0
    while t < len(steps):
        if t in stretches:
            found = stretches[t]
            assert found.count > 1
            for pixel in range(found.pixels):
                memory.places["scratch"] = np.full(found.floats, -1)
                for step in steps[t:t + found.count]:
                    memory.run(step, found, pixel)
            t += found.count
        else:
            memory.run(steps[t])
            t += 1
    assert stretch or layout.arena <= 16 * sum(-(-size // 16) for size in sizes)


def test_small_programs_have_no_stretches() -> None:
    """All of their values stay in the cache anyway."""
    assert not any(lay_out(*random_steps(np.random.default_rng(seed)), True).stretches for seed in range(60))


def residual_network() -> fastlrp.Network:
    """Bottlenecks with one tap, of which some lists leave zeros out; a strided shortcut, a gate, 130 pixels."""
    x = fastlrp.Input((10, 13, 4))
    h = fastlrp.ReLU(name="first")(fastlrp.Conv2d(32, 3, padding=1)(x))
    for stride in (1, 2):
        y = fastlrp.ReLU()(fastlrp.Conv2d(28, 1)(h))
        y = fastlrp.ReLU()(fastlrp.Conv2d(28, 3, stride, 1)(y))
        y = fastlrp.Conv2d(64, 1)(y)
        h = fastlrp.ReLU()(fastlrp.Add()(y, fastlrp.Conv2d(64, 1, stride)(h)))
    gate = fastlrp.Sigmoid()(fastlrp.Conv2d(64, 1)(h))
    h = fastlrp.AvgPool2d((5, 7))(fastlrp.Multiply()(h, gate))
    return with_biases(fastlrp.Network.from_graph(x, fastlrp.Linear(7)(fastlrp.Flatten()(h)), seed=0))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("composite", [EpsilonPlusFlat(), EpsilonAlpha2Beta1Flat(), EpsilonGammaBox(low=-3, high=3)],
                         ids=lambda c: type(c).__name__)
def test_stretches_have_the_bits_of_verbs(isa: str, composite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch and the threads; other values that are asked for on the way as well."""
    monkeypatch.setattr(arena, "LEAST_BYTES", 0)
    used: list[int] = []
    monkeypatch.setattr(arena, "Stretch", lambda *fields: used.append(fields[1]) or Stretch(*fields))
    net = residual_network()
    x = np.clip(mixed_signs(np.random.default_rng(1), 9, (10, 13, 4)), -3, 3)
    expected = at_once(net, x, composite)
    for threads in (1, 2, 3):
        set_num_threads(threads)
        for n in (1, 2, 9):
            assert_same_bits(net.explain(x[:n], composite=composite).relevance, expected["input"][:n])
    found = net.explain(x, composite=composite, layers=True)
    for name, value in found.layers.items():
        assert_same_bits(value, expected.get(name, np.zeros_like(value)), name)  # gates have none
    assert len(used) >= 8 and max(used) >= (6 if isa != "amx" else 2)  # products on tiles are in none
