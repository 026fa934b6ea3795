"""The graph of a network: nodes in topological order, the trace of a run, the forward pass.

Of k inputs, values 0 to k − 1 are the inputs and value k + i is the output of node i. A sequential network is the
simple case of one input in which every node reads the value before it.

Inside, arrays are channels last. A network with `channels_first` shows its spatial values as (N, C, H, W): its inputs
of three axes, and what layers make of spatial values unless their `layout` says otherwise. "Surface" means arrays as
users see them, "inside" as layers do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from .layers import LAYERS, Layer, ParameterLayer, Slice, WeightedLayer
from .ops import NATIVE, NATIVES, PREPARING, Native, native, real_array
from .program import Program, Recorder
from .reference import Array, Reference
from .shapes import as_size
from .steps import NotRecorded, Slot

# work(ops, inputs, classes) -> outputs: what is done to a batch, in a backend's verbs, over values by name
Work = Callable[[Any, Mapping[Any, Any], Any], dict[Any, Any]]

AnyGraph = TypeVar("AnyGraph", bound="Graph")
Shape = tuple[int, ...]

OWN = set(LAYERS.values())
PRECISIONS = (*NATIVES, "float64")
MOST_PLANS = 64
MOST_PROGRAMS = 64


@dataclass(frozen=True)
class Node:
    """A layer, the indices of the values it reads, and the name of what it makes: the layer's own, or with ":2" and so
    on where a shared layer comes again."""

    layer: Layer
    inputs: tuple[int, ...]
    name: str = ""

    def reads(self, values: Sequence[Any]) -> Any:
        """What the layer's verbs take as x: its value, or the tuple of them where it merges several."""
        return tuple(values[i] for i in self.inputs) if self.layer.merges else values[self.inputs[0]]

    def forward(self, ops: Any, values: Sequence[Any], rng: np.random.Generator | None = None) -> tuple[Any, Any]:
        """The layer's output, and what it keeps for its backward pass; with `rng`, as in training."""
        x, layer = self.reads(values), self.layer
        y, kept = layer.forward(ops, x) if rng is None else layer.forward_training(ops, x, rng)
        return y if type(layer) in OWN else self._checked(ops, values[self.inputs[0]], y), kept

    def _checked(self, ops: Any, x: Any, y: Any) -> Any:
        """The output of a layer that is not of this package, as kernels take it; ValueError where it is no batch of
        the shape that the layer has said."""
        if isinstance(y, Slot):
            shape, got = self.layer.out_shape, y.sample_shape
        else:
            y = real_array(y, ops.dtype, f"the output of layer {self.name!r}")
            shape, got = (len(x), *self.layer.out_shape), y.shape
        if got != shape:
            raise ValueError(f"the output of layer {self.name!r} ({self.layer!r}) must have shape {shape}, got {got}")
        return y

    def parts(self, back: Any) -> tuple[Any, ...]:
        """What a layer hands back to its inputs, one part for each."""
        return back if self.layer.merges else (back,)


@dataclass
class Trace:
    """One batch's run: every value, what each node keeps for its backward pass, and the backend that ran it."""

    values: list[Array]
    kept: list[Any]
    ops: Any


class Graph:
    """Nodes in execution order over one backend (`ops`): builds, runs forward. Immutable while running.

    nodes: (layer, indices of the values it reads). inputs: (name, shape of one sample inside); a name may be "".
    outputs: indices of values.
    """

    _plans: dict[Any, Any]
    _programs: dict[Any, Program]
    folded: tuple[int, list[Array], dict[Any, Any]] | None  # see canonize.folded

    def __init__(self, nodes: Sequence[tuple[Layer, tuple[int, ...]]], inputs: Sequence[tuple[str, Shape]],
                 outputs: Sequence[int], channels_first: bool = False, ops: Any = NATIVE):
        self.ops, self.outputs, self.channels_first = ops, tuple(outputs), channels_first
        self.nodes = [Node(layer, reads) for layer, reads in nodes]
        self.input_names = [name for name, _ in inputs]
        self.first = len(inputs)  # the number of inputs, and so the value of the first node
        self.shapes = [shape for _, shape in inputs]  # of every value, inside
        self.__setstate__({})
        layers = list(dict.fromkeys(self.layers))
        unnamed = [layer for layer in layers if not layer.name]
        try:
            self._name(layers)
            self._build()
        except BaseException:
            for layer in layers:
                layer.in_shape = ()  # as new: the layers can be used again
            for layer in unnamed:
                layer.name = ""
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_plans", "_programs", "folded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _plans={}, _programs={}, folded=None)

    @property
    def layers(self) -> list[Layer]:
        """The layers in execution order, one for each node."""
        return [node.layer for node in self.nodes]

    @property
    def weighted(self) -> list[WeightedLayer]:
        """The layers that have weights, in execution order, each once."""
        return list(dict.fromkeys(layer for layer in self.layers if isinstance(layer, WeightedLayer)))

    @property
    def parametric(self) -> list[ParameterLayer]:
        """The layers that have parameters, in execution order, each once."""
        return list(dict.fromkeys(layer for layer in self.layers if isinstance(layer, ParameterLayer)))

    @property
    def version(self) -> int:
        """A number that grows with every change of a layer's attributes, but for parameters."""
        return sum([node.layer.version for node in self.nodes])

    @property
    def input_shape(self) -> Any:
        """Shape of one sample as users see it; a tuple of shapes where there are several inputs."""
        shapes = tuple(self.surface_shape(i) for i in range(self.first))
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """Shape of one sample of the output; a tuple of shapes where there are several outputs."""
        shapes = tuple(self.surface_shape(i) for i in self.outputs)
        return shapes[0] if len(shapes) == 1 else shapes

    def _name(self, layers: Sequence[Layer]) -> None:
        """Names by kind and position among its kind, as "conv1", unless given."""
        taken = {layer.name for layer in layers if layer.name}
        if len(taken) < sum(bool(layer.name) for layer in layers):
            raise ValueError("layer names must differ from each other")
        counts: dict[str, int] = {}
        for layer in layers:
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            if not layer.name:
                layer.name = f"{layer.kind}{counts[layer.kind]}"
                if layer.name in taken:
                    raise ValueError(f"the name {layer.name!r} is needed for an unnamed layer; choose another")
        uses: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            uses[node.layer.name] = count = uses.get(node.layer.name, 0) + 1
            name = node.layer.name if count == 1 else f"{node.layer.name}:{count}"
            self.nodes[i] = Node(node.layer, node.inputs, name)
        self.input_names = [name or f"input{i if i > 1 else ''}" for i, name in enumerate(self.input_names, 1)]
        names = [*self.input_names, *(node.name for node in self.nodes)]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"names of inputs and layers must differ from each other, got {twice} more than once")

    def _build(self) -> None:
        self.spatial = [self.channels_first and len(shape) == 3 for shape in self.shapes]
        for node in self.nodes:
            try:
                self.shapes.append(node.layer.build(*(self.shapes[i] for i in node.inputs)))
            except ValueError as error:
                raise ValueError(f"layer {node.name!r} ({node.layer!r}): {error}") from None
            read = [self.spatial[i] for i in node.inputs]
            same = node.layer.layout == "same"
            if same and any(read) and not all(read):
                raise ValueError(f"layer {node.name!r} ({node.layer!r}) reads spatial and plain values; convert one of "
                                 "them with ToChannelsLast or ToChannelsFirst")
            self.spatial.append(self.channels_first and (read[0] if same else node.layer.layout == "spatial"))

    def surface_shape(self, value: int) -> Shape:
        """Shape of one sample of a value as users see it."""
        shape = self.shapes[value]
        return (shape[-1], *shape[:-1]) if self.spatial[value] else shape

    def to_surface(self, value: int, array: Array) -> Array:
        """A batch of a value as users see it."""
        return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if self.spatial[value] else array

    def to_inside(self, value: int, array: Array) -> Array:
        """A batch of a value as layers see it."""
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if self.spatial[value] else array

    def find(self, name: str) -> int:
        """Index of the node with this name."""
        if not isinstance(name, str):
            raise TypeError(f"start_layer must be a layer's name, got {name!r}")
        for i, node in enumerate(self.nodes):
            if node.name == name:
                return i
        raise ValueError(f"no layer is named {name!r}; the network has {[node.name for node in self.nodes]}")

    def origin(self, value: int) -> tuple[int, list[Layer]] | None:
        """The input that a value is made of, and the layers in between, if that is a simple chain."""
        layers: list[Layer] = []
        while value >= self.first:
            node = self.nodes[value - self.first]
            if node.layer.merges:
                return None
            layers.append(node.layer)
            value = node.inputs[0]
        return value, layers[::-1]

    def input_bounds(self, index: int | None = None) -> tuple[Array, Array] | None:
        """Range of the input of node `index` (default: the first layer with weights) where Format and Normalize before
        it tell, else None.

        Pixels are taken to lie in [0, 1] before them; a layer that changes the range in other ways ends it.
        """
        if index is None:
            index = next((i for i, node in enumerate(self.nodes) if isinstance(node.layer, WeightedLayer)), None)
        origin = None if index is None else self.origin(self.nodes[index].inputs[0])
        if origin is None:
            return None
        low, high, known = np.zeros(()), np.ones(()), False
        for layer in origin[1]:
            if layer.role == "scale" or isinstance(layer, Slice):
                low, high, known = layer.scaled(low), layer.scaled(high), known or layer.role == "scale"
            elif not layer.keeps_range:
                return None
        return (low, high) if known else None

    def nonnegative(self, given: bool) -> list[bool]:
        """For each value, whether it is sure to be non-negative, the inputs being so (`given`) or anything."""
        known = [given] * self.first
        for node in self.nodes:
            how = node.layer.nonnegative
            known.append(how == "always" or (how == "as input" and all(known[i] for i in node.inputs)))
        return known

    def prepared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, kept by key for the next call: plans depend on the graph and the layers' attributes
        alone, not on weights."""
        key = (self.version, key)
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
        arrays, key = {**inputs, **outputs}, (self.ops.key, self.version, key)
        program = self._programs.get(key)
        if program is not None and program(arrays, classes):
            return
        at_once = "at once", key  # kept where recording has failed, so that it is not tried with every call
        program, recorder = (None, None) if at_once in self._plans else self._record(work, inputs, outputs)
        if program is None:
            if key[2] is not None and at_once not in self._plans:
                _keep(self._plans, at_once, True, MOST_PLANS)
            found = work(self.ops, inputs, classes)
            for name, target in outputs.items():
                target[...] = found[name]
            return
        program(arrays, classes)
        del recorder  # which keeps the packed weights alive
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
                outs = {name: values[name] for name in outputs}
                return Program(recorder.steps, recorder.sizes, slots, outs), recorder
        except NotRecorded:
            return None, None
        except Exception as error:
            # A layer of others that wants arrays may say so in any way, and a true error comes again.
            if isinstance(error, MemoryError) or all(type(layer) in OWN for layer in self.layers):
                raise
            return None, None

    def as_inputs(self, x: Any, name: str = "x") -> list[Array]:
        """A batch of each input in the backend's type, inside; ValueError where shapes are not the network's."""
        found: list[Array] = []
        for i, value in enumerate(self.each_input(x, name)):
            label = name if self.first == 1 else f"{name}[{i}] ({self.input_names[i]!r})"
            array, shape = real_array(value, self.ops.dtype, label), self.surface_shape(i)
            if array.shape[1:] != shape or array.ndim != len(shape) + 1:
                raise ValueError(f"{label} must have shape (N, {', '.join(map(str, shape))}), got {array.shape}")
            if len(array) != len(found[0] if found else array):
                raise ValueError(f"{label} must hold as many samples as the inputs before it, {len(found[0])}, "
                                 f"got {len(array)}")
            found.append(self.to_inside(i, array))
        return found

    def each_input(self, x: Any, name: str = "x") -> list[Any]:
        """What was given for each input: x itself where there is one, else its entries."""
        if self.first == 1:
            return [x]
        if not isinstance(x, (list, tuple)) or len(x) != self.first:
            got = f"{len(x)} of them" if isinstance(x, (list, tuple)) else type(x).__name__
            raise ValueError(f"{name} must be a list of arrays for the inputs {self.input_names}, got {got}")
        return list(x)

    @cached_property
    def _sample_values(self) -> int:
        """Numbers that a trace of one sample holds."""
        own = [True] * self.first + [not layer.aliases for layer in self.layers]
        return sum(math.prod(shape) for shape, counts in zip(self.shapes, own, strict=True) if counts)

    def chunks(self, n: int, batch_size: int | None) -> Iterator[slice]:
        """Slices of a batch of n whose activations fit the chunk budget, or of `batch_size` samples."""
        if batch_size is None:
            batch_size = max(1, self.ops.chunk_bytes // (self._sample_values * self.ops.dtype.itemsize))
            batch_size = -(-n // max(1, -(-n // batch_size)))  # even chunks
        else:
            batch_size = as_size(batch_size, "batch_size")
        for first in range(0, n, max(1, batch_size)):
            yield slice(first, min(n, first + batch_size))

    def trace(self, inputs: Sequence[Array], rng: np.random.Generator | None = None, ops: Any = None) -> Trace:
        """Run forward and keep everything; with `rng`, as in training; with `ops`, on another backend."""
        ops = self.ops if ops is None else ops
        values, kept = list(inputs), []
        for node in self.nodes:
            y, k = node.forward(ops, values, rng)
            values.append(y)
            kept.append(k)
        return Trace(values, kept, ops)

    def to_numpy(self: AnyGraph, dtype: Any = np.float64) -> AnyGraph:
        """The same network on the NumPy twin alone, in any float dtype, with the same calls."""
        twin = copy.copy(self)  # shares nothing that changes: a copy's plans are its own
        twin.ops = Reference(dtype)
        layers = {layer: layer.astype(twin.ops.dtype) for layer in self.layers}
        twin.nodes = [Node(layers[node.layer], node.inputs, node.name) for node in self.nodes]
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

    def forward(self, x: Any, batch_size: int | None = None, precision: str = "highest") -> Any:
        """Outputs (N, ...) for inputs (N, *input_shape): logits, for a classifier.

        Any real array is taken (any dtype, strides, byte order) and converted to float32. Where a network has several
        inputs, x is a list of them; where it has several outputs, a list comes back. batch_size: samples at a time; it
        changes no bit of the result. precision: as in `Network.explain`. TypeError for complex, object and string
        arrays; ValueError where the shape does not fit.
        """
        graph = self.at(precision)
        inputs = graph.as_inputs(x)
        found = [np.empty((len(inputs[0]), *graph.shapes[i]), graph.ops.dtype) for i in graph.outputs]
        for chunk in graph.chunks(len(inputs[0]), batch_size):
            graph.run(graph._forward, "forward", {i: array[chunk] for i, array in enumerate(inputs)},
                      {("output", i): array[chunk] for i, array in enumerate(found)})
        shown = [graph.to_surface(i, array) for i, array in zip(graph.outputs, found, strict=True)]
        return shown[0] if len(shown) == 1 else shown

    def _forward(self, ops: Any, inputs: Mapping[Any, Any], classes: Any) -> dict[Any, Any]:
        values = list(inputs.values())
        for node in self.nodes:
            values.append(node.forward(ops, values)[0])
        return {("output", i): values[value] for i, value in enumerate(self.outputs)}


def _keep(store: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add to a store of at most `most`, dropping the oldest."""
    with PREPARING:
        while len(store) >= most:
            del store[next(iter(store))]
        store[key] = value
