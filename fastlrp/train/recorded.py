"""A training step's two ways as programs: recorded once, run with the weights of each step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _kernels
from ..graph import Graph, Trace
from ..layers import LAYERS, Layer, WeightedLayer
from ..ops import Native
from ..program import Program, Recorder
from ..reference import Array
from ..steps import NotRecorded, Slot

OWN = set(LAYERS.values())
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
    try:
        found = net.prepared(("training step", net.ops.key), make)
    except Exception:  # as in Graph.run: a true error comes again without a recorder
        return None
    return found[0] if found else None


class RecordedStep:
    """Forward from the inputs to the output and what the way back reads; back from the output's gradient to the
    parameters'. lock: to be held from one to the other."""

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
        self.found = {(name, key): slot for name, of in found.items() for key, slot in of.items()}
        self.inputs = {slot.index: slot for slot in inputs}
        made = {slot.index: slot for step in forward for slot in step.out}
        read = {slot.index: slot for step in recorder.steps for slot in step.reads()}
        crossing = {i: slot for i, slot in read.items() if i in made or i in self.inputs}
        self.made = {i: made[i] for i in {*made} & {*crossing, self.output.index}}
        self.forward = Program(forward, recorder.sizes, self.inputs, self.made, renewable=True)
        self.back = Program(recorder.steps, recorder.sizes, {self.start.index: self.start, **crossing}, self.found,
                            renewable=True)

    def run_forward(self, inputs: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """The output of a batch, and all that the way back may read."""
        n = len(inputs[0])
        values = {i: np.ascontiguousarray(x) for i, x in zip(self.inputs, inputs, strict=True)}
        values.update((i, _kernels.empty((n, *slot.sample_shape))) for i, slot in self.made.items())
        _run(self.forward, values)
        return values[self.output.index].reshape(n, *self.output.sample_shape), values

    def run_back(self, g: Array, values: dict[int, Array]) -> Gradients:
        """The gradients of all parameters, by layer and name, from that of the output."""
        found = {name: _kernels.empty(slot.sample_shape) for name, slot in self.found.items()}
        _run(self.back, {**values, self.start.index: np.ascontiguousarray(g), **found})
        by_layer: Gradients = {}
        for (name, key), array in found.items():
            by_layer.setdefault(name, {})[key] = array
        return by_layer


def _run(program: Program, arrays: dict[Any, Array]) -> None:
    """With the weights of now."""
    held = program.renew(len(next(iter(arrays.values()))))
    if not program(arrays):
        raise RuntimeError("weights changed while a training step ran")
    del held
