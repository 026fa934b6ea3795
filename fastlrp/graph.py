"""The graph of a network: nodes in topological order, the trace of a run, the forward pass.

Value 0 is the input, value i + 1 the output of node i. A sequential network is the simple case in which every
node reads the value before it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .layers import Layer, WeightedLayer
from .ops import NATIVE, NATIVES, PREPARING, Native, native, real_array
from .program import Program, Recorder
from .reference import Array, Reference
from .shapes import as_size

# work(ops, inputs, classes) -> outputs: what is done to a batch, in a backend's verbs, over values by name
Work = Callable[[Any, Mapping[Any, Any], Any], dict[Any, Any]]

AnyGraph = TypeVar("AnyGraph", bound="Graph")

PRECISIONS = (*NATIVES, "float64")
MOST_PLANS = 64
MOST_PROGRAMS = 64


@dataclass(frozen=True)
class Node:
    """A layer and the indices of the values it reads."""

    layer: Layer
    inputs: tuple[int, ...]


@dataclass
class Trace:
    """One batch's run: every value, what each node keeps for its backward pass, and the backend that ran it."""

    values: list[Array]
    kept: list[Any]
    ops: Any


class Graph:
    """Nodes in execution order over one backend (`ops`): builds, runs forward. Immutable while running."""

    _plans: dict[Any, Any]
    _programs: dict[Any, Program]

    def __init__(self, layers: Sequence[Layer], input_shape: Sequence[int], ops: Any = NATIVE):
        self.ops = ops
        if isinstance(input_shape, str) or not isinstance(input_shape, Iterable):
            raise TypeError(f"input_shape must be a tuple of sizes without the batch, got {input_shape!r}")
        self.input_shape = tuple(as_size(size, "input_shape") for size in input_shape)
        if not self.input_shape:
            raise ValueError("input_shape must hold at least one size: the shape of a sample without the batch")
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        self.nodes = [Node(layer, (i,)) for i, layer in enumerate(layers)]
        self.__setstate__({})
        self._check()
        unnamed = [layer for layer in self.layers if not layer.name]
        try:
            self._name()
            self._build()
        except BaseException:
            for layer in self.layers:
                layer.in_shape = ()  # as new: the layers can be used again
            for layer in unnamed:
                layer.name = ""
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_plans", "_programs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _plans={}, _programs={})

    @property
    def layers(self) -> list[Layer]:
        """The layers in execution order."""
        return [node.layer for node in self.nodes]

    @property
    def weighted(self) -> list[WeightedLayer]:
        """The layers that have parameters, in execution order."""
        return [layer for layer in self.layers if isinstance(layer, WeightedLayer)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.layers[-1].out_shape

    def _check(self) -> None:
        if not self.nodes:
            raise ValueError("layers must hold at least one layer")
        seen: set[int] = set()
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}] must be a fastlrp layer, got {layer!r}")
            if id(layer) in seen or layer.in_shape:
                raise ValueError(f"layers[{i}] ({layer!r}) already belongs to a network; make a new layer")
            seen.add(id(layer))

    def _name(self) -> None:
        """Names by kind and position among its kind, as "conv1", unless given."""
        counts: dict[str, int] = {}
        taken = {layer.name for layer in self.layers if layer.name}
        if len(taken) < sum(bool(layer.name) for layer in self.layers):
            raise ValueError("layer names must differ from each other")
        for layer in self.layers:
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            if not layer.name:
                layer.name = f"{layer.kind}{counts[layer.kind]}"
                if layer.name in taken:
                    raise ValueError(f"the name {layer.name!r} is needed for an unnamed layer; choose another")

    def _build(self) -> None:
        shapes = [self.input_shape]
        for node in self.nodes:
            try:
                shapes.append(node.layer.build(*(shapes[i] for i in node.inputs)))
            except ValueError as error:
                raise ValueError(f"layer {node.layer.name!r} ({node.layer!r}): {error}") from None

    def find(self, name: str) -> int:
        """Index of the layer with this name."""
        if not isinstance(name, str):
            raise TypeError(f"start_layer must be a layer's name, got {name!r}")
        for i, layer in enumerate(self.layers):
            if layer.name == name:
                return i
        raise ValueError(f"no layer is named {name!r}; the network has {[layer.name for layer in self.layers]}")

    def input_bounds(self) -> tuple[Array, Array] | None:
        """Range of the first weighted layer's input where Format and Normalize before it tell, else None.

        Pixels are taken to lie in [0, 1] before them; a layer that changes the range in other ways ends it.
        """
        low, high, known = np.zeros(()), np.ones(()), False
        for layer in self.layers:
            if isinstance(layer, WeightedLayer):
                return (low, high) if known else None
            if layer.role == "scale":
                low, high, known = layer.scaled(low), layer.scaled(high), True
            elif not layer.keeps_range:
                return None
        return None

    def nonnegative(self, given: bool) -> list[bool]:
        """For each value, whether it is sure to be non-negative, the input being so (`given`) or anything."""
        known = [given]
        for node in self.nodes:
            how = node.layer.nonnegative
            known.append(how == "always" or (how == "as input" and all(known[i] for i in node.inputs)))
        return known

    def prepared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, kept by key for the next call: plans depend on the graph alone, not on weights."""
        found = self._plans.get(key)
        if found is None:
            found = make()
            _keep(self._plans, key, found, MOST_PLANS)
        return found

    def run(self, work: Work, key: Any, inputs: Mapping[Any, Array], outputs: Mapping[Any, Array],
            classes: Array | None = None) -> None:
        """Write what `work` makes of the inputs to the outputs, by name: batches of at least one sample.

        On compiled kernels it is recorded and run as a program, kept by key (None: not at all) as long as the layers
        are the same. classes: see `pick` of the backends.
        """
        arrays, key = {**inputs, **outputs}, (self.ops.key, sum(layer.version for layer in self.layers), key)
        program = self._programs.get(key)
        if program is not None and program(arrays, classes):
            return
        program, recorder = self._record(work, inputs, outputs)  # which keeps the packed weights alive
        if program is None:
            found = work(self.ops, inputs, classes)
            for name, target in outputs.items():
                target[...] = found[name]
            return
        program(arrays, classes)
        del recorder
        if key[2] is not None:
            _keep(self._programs, key, program, MOST_PROGRAMS)

    def _record(self, work: Work, inputs: Mapping[Any, Array],
                outputs: Mapping[Any, Array]) -> tuple[Program | None, Any]:
        """The program of a run, and the recorder with all that it holds; no program where the backend or a layer does
        not allow one."""
        if not isinstance(self.ops, Native):
            return None, None
        recorder = Recorder(self.ops)
        slots = {name: recorder.slot(array.shape[1:]) for name, array in inputs.items()}
        try:
            with PREPARING:  # weights and biases of one time
                values = work(recorder, slots, None)
                return Program(recorder, slots, {name: values[name] for name in outputs}), recorder
        except Exception:  # a user's layer that wants arrays may say so in any way; a true error comes again
            return None, None

    def as_input(self, x: Any, name: str = "x") -> Array:
        """A batch in the backend's type; ValueError where the samples' shape is not the network's."""
        x = real_array(x, self.ops.dtype, name)
        if x.shape[1:] != self.input_shape or x.ndim != len(self.input_shape) + 1:
            raise ValueError(f"{name} must have shape (N, {', '.join(map(str, self.input_shape))}), got {x.shape}")
        return x

    def chunks(self, n: int, batch_size: int | None) -> Iterator[slice]:
        """Slices of a batch of n whose activations fit the chunk budget, or of `batch_size` samples."""
        if batch_size is None:
            values = math.prod(self.input_shape) + sum(math.prod(layer.out_shape) for layer in self.layers)
            batch_size = max(1, self.ops.chunk_bytes // (values * self.ops.dtype.itemsize))
            batch_size = -(-n // max(1, -(-n // batch_size)))  # even chunks
        else:
            batch_size = as_size(batch_size, "batch_size")
        for first in range(0, n, max(1, batch_size)):
            yield slice(first, min(n, first + batch_size))

    def trace(self, x: Array, rng: np.random.Generator | None = None, ops: Any = None) -> Trace:
        """Run forward and keep everything; with `rng`, as in training; with `ops`, on another backend."""
        ops = self.ops if ops is None else ops
        values, kept = [x], []
        for node in self.nodes:
            value = values[node.inputs[0]]
            if rng is None:
                y, k = node.layer.forward(ops, value)
            else:
                y, k = node.layer.forward_training(ops, value, rng)
            values.append(y)
            kept.append(k)
        return Trace(values, kept, ops)

    def to_numpy(self: AnyGraph, dtype: Any = np.float64) -> AnyGraph:
        """The same network on the NumPy twin alone, in any float dtype, with the same calls."""
        twin = copy.copy(self)  # shares nothing that changes: a copy's plans are its own
        twin.ops = Reference(dtype)
        twin.nodes = [Node(node.layer.astype(twin.ops.dtype), node.inputs) for node in self.nodes]
        return twin

    def at(self: AnyGraph, precision: str) -> AnyGraph:
        """The same network where it runs at this precision (see `Network.explain`): layers, plans and programs are
        shared, but for "float64", which is the twin. A twin has the precision of its dtype, whatever else is asked."""
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {precision!r}")
        if precision == "float64":
            return self.to_numpy()
        if not isinstance(self.ops, Native) or self.ops.precision == native(precision).precision:
            return self
        other = copy.copy(self)
        other.ops, other._plans, other._programs = native(precision), self._plans, self._programs
        return other

    def forward(self, x: Any, batch_size: int | None = None, precision: str = "highest") -> Array:
        """Outputs (N, ...) for inputs (N, *input_shape): logits, for a classifier.

        Any real array is taken (any dtype, strides, byte order) and converted to float32. batch_size: samples at a
        time; it changes no bit of the result. precision: as in `Network.explain`. TypeError for complex, object and
        string arrays; ValueError where the shape does not fit.
        """
        graph = self.at(precision)
        x = graph.as_input(x)
        out = np.empty((len(x), *self.output_shape), graph.ops.dtype)
        for chunk in graph.chunks(len(x), batch_size):
            graph.run(graph._forward, "forward", {"x": x[chunk]}, {"y": out[chunk]})
        return out

    def _forward(self, ops: Any, inputs: Mapping[Any, Any], classes: Any) -> dict[Any, Any]:
        value = inputs["x"]
        for node in self.nodes:
            value, _ = node.layer.forward(ops, value)
        return {"y": value}


def _keep(store: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add to a store of at most `most`, dropping the oldest."""
    with PREPARING:
        while len(store) >= most:
            del store[next(iter(store))]
        store[key] = value
