"""A training step's two ways as programs: recorded once, run with the weights of each step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import _kernels
from ..graph import OWN, Graph, Trace
from ..layers import Layer, WeightedLayer
from ..ops import Native
from ..program import SUMS, Program, Recorder
from ..reference import Array
from ..shapes import Geometry
from ..steps import NotRecorded, Slot, Step

Gradients = dict[str, dict[str, Array]]
Back = Callable[[Graph, Trace, Any], dict[str, dict[str, Any]]]


def record(net: Graph, back: Back) -> RecordedStep | None:
    """The network's step, back(net, trace, gradient of the output) being the way back; None where it cannot be
    recorded: on the twin, and with layers that do something else in training, whose parameters are not products', or
    that are not of this package: no one knows what they make of parameters, or when."""
    plain = all(type(layer) in OWN and type(layer).forward_training is Layer.forward_training for layer in net.layers)
    if not isinstance(net.ops, Native) or not plain or not all(isinstance(p, WeightedLayer) for p in net.parametric):
        return None

    def make() -> list[RecordedStep]:
        try:
            return [RecordedStep(net, back)]
        except NotRecorded:
            return []
    found = net.prepared(("training step", net.ops.key), make)
    return found[0] if found else None


class RecordedStep:
    """Forward from the inputs to the output and what the way back reads; back from the output's gradient to the
    parameters': those of few weights section by section, the others, apart, over the whole batch. lock: to be held from
    the way forward to the end of the way back."""

    def __init__(self, net: Graph, back: Back):
        assert isinstance(net.ops, Native)
        self.lock = threading.Lock()
        recorder, (end,) = Recorder(net.ops), net.outputs
        inputs = [recorder.slot(shape) for shape in net.shapes[:net.first]]
        given: list[Any] = list(inputs)
        trace: Any = net.trace(given, ops=recorder)
        forward, recorder.steps = recorder.steps, []
        self.output: Slot = trace.values[end]
        self.start = recorder.slot(self.output.sample_shape)
        found = back(net, trace, self.start)
        self.found = {(layer.name, key): found[layer.name][key] for layer in net.parametric if layer.name in found
                      for key in layer.trained}
        self.inputs = {slot.index: slot for slot in inputs}
        made = {slot.index: slot for step in forward for slot in step.out}
        crossing = {i: slot for i, slot in _read(recorder.steps).items() if i in made or i in self.inputs}
        self.made = {i: made[i] for i in {*made} & {*crossing, self.output.index}}
        self.forward = Program(forward, recorder.sizes, self.inputs, self.made, renewable=True)
        self._split_back(recorder, {self.start.index: self.start, **crossing}, _fits_sections(net, recorder))

    def _split_back(self, recorder: Recorder, known: dict[int, Slot], sections: bool) -> None:
        """The way back from what is known: in sections but for the gradients of many weights, where it fits them."""
        apart = [step for step in recorder.steps
                 if sections and isinstance(step.window, Geometry) and not _kernels.in_sections(step.window)]
        rest = [step for step in recorder.steps if step not in apart]
        self.between = {i: slot for i, slot in _read(apart).items() if i not in known}  # from the rest
        made = {slot.index for step in apart for slot in step.out}
        later = {name: slot for name, slot in self.found.items() if slot.index in made}
        first: dict[Any, Slot] = {name: slot for name, slot in self.found.items() if name not in later}
        self.back = Program(rest, recorder.sizes, known, first | self.between, renewable=True, sections=sections)
        self.apart = Program(apart, recorder.sizes, _read(apart), later, renewable=True) if apart else None

    def run_forward(self, inputs: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """The output of a batch, and all that the way back may read."""
        n = len(inputs[0])
        values = {i: np.ascontiguousarray(x) for i, x in zip(self.inputs, inputs, strict=True)}
        values.update((i, _kernels.empty((n, *slot.sample_shape))) for i, slot in self.made.items())
        _run(self.forward, values, n)
        return values[self.output.index].reshape(n, *self.output.sample_shape), values

    def run_back(self, g: Array, values: dict[int, Array]) -> Gradients:
        """The gradients of all parameters, by layer and name, from that of the output."""
        found = self._gradients()
        between = {i: _kernels.empty((len(g), *slot.sample_shape)) for i, slot in self.between.items()}
        arrays: dict[Any, Array] = {**values, self.start.index: np.ascontiguousarray(g), **between, **found}
        _run(self.back, arrays, len(g))
        if self.apart is not None:
            _run(self.apart, arrays, len(g))
        by_layer: Gradients = {}
        for (name, key), array in found.items():
            by_layer.setdefault(name, {})[key] = array
        return by_layer

    def _gradients(self) -> dict[tuple[str, str], Array]:
        """Room for all of them side by side, in the parameters' order: so optimisers take several in one call."""
        sizes = [math.prod(slot.sample_shape) for slot in self.found.values()]
        room, ends = _kernels.empty((sum(sizes),)), accumulate(sizes)
        return {name: room[end - size:end].reshape(slot.sample_shape)
                for (name, slot), size, end in zip(self.found.items(), sizes, ends, strict=True)}


# A section's values, and all weights: they stay in an L2 cache, or nearly.
MOST_BYTES_OF_SECTION, MOST_WEIGHTS = 2 << 20, 1 << 18


def _fits_sections(net: Graph, recorder: Recorder) -> bool:
    """Whether threads had better take sections of samples through the whole way back than share out each step."""
    sums = {slot.index for step in recorder.steps if step.op in SUMS for slot in step.out}
    touched = {slot.index for step in recorder.steps for slot in (*step.out, *step.reads())} - sums
    return (4 * _kernels.SECTION * sum(recorder.sizes[i] for i in touched) <= MOST_BYTES_OF_SECTION
            and sum(layer.weight.size for layer in net.weighted) <= MOST_WEIGHTS)


def _read(steps: Sequence[Step]) -> dict[int, Slot]:
    return {slot.index: slot for step in steps for slot in step.reads()}


def _run(program: Program, arrays: dict[Any, Array], samples: int) -> None:
    """With the weights of now."""
    held = program.renew(samples)
    if not program(arrays):
        raise RuntimeError("weights changed while a training step ran")
    del held
