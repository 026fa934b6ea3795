"""The network that users hold: a graph with explaining, training, saving and the twin as methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .canonize import folded
from .explain import Conservation, Explanation, Filter, conservation, explain
from .graph import Graph
from .layers import Input, Layer, Value
from .layers.value import as_shape, as_values, sort_values
from .methods import is_methods
from .ops import real_array
from .reference import Array
from .shapes import as_number, as_size

if TYPE_CHECKING:
    from .train import History


class Network(Graph):
    """A sequence of layers with weights, ready to run, train and explain.

    layers: fastlrp layers, each for this network alone. input_shape: of one sample, channels last, as (28, 28, 1).
    seed: of the initial weights. init: "he", "truncated_normal" (the original project's), or None: the weights are
        yet to be assigned.
    Shapes are inferred and checked here; ValueError names the layer that does not fit.
    """

    def __init__(self, layers: Sequence[Layer], input_shape: Sequence[int], *, seed: int = 0,
                 init: str | None = "he"):
        _check_init(seed, init)
        shape = as_shape(input_shape, "input_shape")
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        layers = list(layers)
        if not layers:
            raise ValueError("layers must hold at least one layer")
        for i, layer in enumerate(layers):
            _check_layer(layer, f"layers[{i}]")
            if layer.merges or layer in layers[:i]:
                raise ValueError(f"layers[{i}] ({layer!r}) has no place in a sequence: use Network.from_graph")
        super().__init__([(layer, (i,)) for i, layer in enumerate(layers)], [("", shape)], [len(layers)])
        if init is not None:
            self.reset_params(seed, init)

    @classmethod
    def from_graph(cls, inputs: Any, outputs: Any, *, channels_first: bool = False, seed: int = 0,
                   init: str | None = "he") -> Network:
        """A network with branches, from symbolic values: what layers return when they are called on values.

            x = fastlrp.Input((32, 32, 3))
            h = fastlrp.ReLU()(fastlrp.Conv2d(8, 3, padding=1)(x))
            h = fastlrp.Add()(h, fastlrp.Conv2d(8, 1)(x))
            net = fastlrp.Network.from_graph(x, fastlrp.Linear(10)(fastlrp.Flatten()(h)))

        inputs, outputs: one value or a list of them. With several inputs, `forward` and `explain` take a list of
        arrays, and relevance is a list; with several outputs, `forward` returns a list, and the first is explained
        unless `start_layer` says otherwise. A layer called twice is shared: one set of weights, inputs of one shape.
        channels_first: spatial values are (N, C, H, W) to the user: see fastlrp/graph.py. seed, init: as in `Network`.
        """
        _check_init(seed, init)
        inputs, outputs = as_values(inputs, Input, "inputs"), as_values(outputs, Value, "outputs")
        values = sort_values(inputs, outputs)
        if any(value.layer is None for value in outputs):
            raise ValueError("outputs must be made by layers, got an input")
        indices = {id(value): i for i, value in enumerate((*inputs, *values))}
        for layer in dict.fromkeys(value.layer for value in values):
            _check_layer(layer, "a layer")
        nodes: Any = [(value.layer, tuple(indices[id(v)] for v in value.inputs)) for value in values]
        net = cls.of_nodes(nodes, [(value.name, value.shape) for value in inputs], [indices[id(v)] for v in outputs],
                           channels_first)
        if init is not None:
            net.reset_params(seed, init)
        return net

    @classmethod
    def of_nodes(cls, nodes: Sequence[tuple[Layer, tuple[int, ...]]], inputs: Sequence[tuple[str, tuple[int, ...]]],
                 outputs: Sequence[int], channels_first: bool) -> Network:
        """A network from what `Graph` takes, its parameters yet to be assigned: how files make one."""
        net = cls.__new__(cls)
        Graph.__init__(net, nodes, inputs, outputs, channels_first)
        return net

    def reset_params(self, seed: int = 0, init: str = "he") -> None:
        """Draw all weights anew: "he" (He et al. 2015, zero biases) or "truncated_normal" (deviation 0.1, biases
        0.1: the original project's)."""
        rng = np.random.default_rng(_check_init(seed, init))
        for layer in self.parametric:
            layer.initialise(rng, init)

    def at(self, precision: str, start_layer: str | None = None) -> Network:
        """The network as it runs at this precision: see `Graph.at`; BatchNorm is folded, but not into the layer or
        across the value that is explained."""
        explained = None if start_layer is None else self.first + self.find(start_layer)
        if isinstance(precision, str) and precision == "float64":
            return folded(self.to_numpy(), explained)
        return Graph.at(folded(self, explained), precision)

    def __call__(self, x: Any, batch_size: int | None = None, precision: str = "highest") -> Array:
        return self.forward(x, batch_size, precision)

    def __repr__(self) -> str:
        names = [*self.input_names, *(node.name for node in self.nodes)]
        rows = [("layer", "kind", "reads", "output", "parameters")]
        rows += [(name, "", "", str(self.surface_shape(i)), "") for i, name in enumerate(self.input_names)]
        counts: dict[Layer, int] = {}
        for i, node in enumerate(self.nodes, self.first):
            own = 0 if node.layer in counts else sum(a.size for a in getattr(node.layer, "parameters", {}).values())
            counts.setdefault(node.layer, own)
            reads = "" if node.inputs == (i - 1,) else ", ".join(names[v] for v in node.inputs)
            rows.append((node.name, repr(node.layer), reads, str(self.surface_shape(i)), f"{own:,}" if own else ""))
        if not any(row[2] for row in rows[1:]):
            rows = [(a, b, "", c, d) for a, b, _, c, d in rows]  # a sequence
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*(f"{cell:<{w}}" for cell, w in zip(row[:4], widths, strict=False) if w),
                            f"{row[4]:>{widths[4]}}"]).rstrip() for row in rows]
        return "\n".join([*lines, f"{sum(counts.values()):,} parameters, {self.ops.dtype} on {self.ops.name}"])

    def explain(self, x: Any, target: Any = None, composite: Any = "epsilon_plus_flat", *, start: Any = None,
                start_layer: str | None = None, layers: bool = False, reference: Any = None,
                batch_size: int | None = None, precision: str = "highest", compat: str | None = None,
                progress: bool | None = None) -> Explanation:
        """Relevance of the inputs (N, *input_shape) for a class.

        target: the class: None (the predicted one), an int, or an array (N,).
        composite: a preset's name (`fastlrp.composites.names()`), a `Composite`, a `methods` spec of the original
            project, or {layer name: rule} on top of "epsilon_plus_flat".
        start: relevance at the output: "logit" (the target's logit; the default but for gradient presets), "one"
            (1 at the target: the default of gradient presets), or an array (N, outputs), which needs no target.
        start_layer: name of an inner layer whose output is explained instead; start then has its shape.
        layers: also return the relevance of the output of every layer up to the one explained, by name: zero where
            none reaches it. A folded BatchNorm and the layer that it is folded into have one output, and one relevance.
        reference: "batch" or an array of inputs: subtract their mean activations from the inputs of layers with
            weights, and their mean output from the start; biases cancel, so that no rule uses them.
        batch_size: samples at a time; it changes no bit. Default: as many as have 512 MB of values (twin: 16 MB).
        precision: the least that products are granted, by PyTorch's names: "highest", errors no larger than float32
            arithmetic's; "high", 16 bits of every number; "medium", bfloat16; sums are float32. Only machines with AMX
            have something faster for the lower ones: on others all are "highest". Or "float64": on the NumPy twin,
            which knows no other precision than its dtype's.
        compat: "zennit" (default), "tensorflow_lrp" (default for `methods`) or "lrp_toolbox": stabilisers, biases and
            pools where a rule leaves them open. "zennit" by name passes relevance through a BatchNorm that could not be
            folded; by default it is explained as the affine map that it is. In "lrp_toolbox", sum pools take the rule
            of convolutions, ties of max pools share relevance, and stabilisers of 1e-16 keep out zeros alone: where a
            sum cancels exactly, which in float32 is no rarity, relevance grows by 1e16.
        progress: True shows a bar, False none; None: on a terminal, once two seconds have passed, where the samples are
            more than are explained at a time.

        NaN and infinities propagate to what depends on them; a convolution by Winograd's algorithm may make NaN of an
        infinity, and infinities of values beyond 1e36. An empty batch gives an empty result. Raises ValueError
        or TypeError, naming the argument, what was expected and what came.
        """
        return explain(self.at(precision, start_layer), x, target, composite, start=start, start_layer=start_layer,
                       layers=layers, reference=reference, batch_size=batch_size, compat=compat, progress=progress)

    def conservation_check(self, x: Any, target: Any = None, composite: Any = "epsilon_plus_flat", *, start: Any = None,
                           start_layer: str | None = None, reference: Any = None, batch_size: int | None = None,
                           precision: str = "highest", compat: str | None = None,
                           progress: bool | None = None) -> Conservation:
        """Sums of relevance going into and out of every layer, per sample; print it for a table.

        Takes the arguments of `explain`, but for `layers`.
        """
        graph = self.at(precision, start_layer)
        return conservation(graph, explain(graph, x, target, composite, start=start, start_layer=start_layer,
                                           reference=reference, batch_size=batch_size, compat=compat,
                                           progress=progress, sums=True))

    def lrp(self, x: Any, class_filter: Any = None, methods: Any = "simple", *, explain_layer_id: int = -1,
            reference: Any = None, batch_size: int | None = None, precision: str = "highest") -> Array:
        """Relevance of the input, called as in the original TensorFlow project.

        class_filter: one-hot rows (N, outputs), one row (outputs,) or a class for all samples; None: no filter, all
        outputs. Relevance starts as output · class_filter. methods: as in `fastlrp.methods`.
        explain_layer_id: the layer whose output is explained, counted in `net.layers`; −1: that of the first output.
        precision: as in `explain`.
        """
        graph = self.at(precision, self.nodes[self._node_at(explain_layer_id)].name)
        return graph._lrp(x, class_filter, methods, explain_layer_id, reference, batch_size, False).relevance

    def layerwise_lrp(self, x: Any, class_filter: Any = None, methods: Any = "simple", *, explain_layer_id: int = -1,
                      reference: Any = None, batch_size: int | None = None,
                      precision: str = "highest") -> list[Array]:
        """As `lrp`, for every layer: entry i is the relevance of layer i's input, the last one the start. With
        branches: relevance of the input (a list of them if there are several), then of each layer's output, in
        execution order."""
        graph = self.at(precision, self.nodes[self._node_at(explain_layer_id)].name)
        found = graph._lrp(x, class_filter, methods, explain_layer_id, reference, batch_size, True)
        return [found.relevance, *found.layers.values()]

    def _lrp(self, x: Any, class_filter: Any, methods: Any, explain_layer_id: int, reference: Any,
             batch_size: int | None, layers: bool) -> Explanation:
        if not is_methods(methods):
            raise ValueError(f"methods must be a name, a combination or a list (see fastlrp.methods), got {methods!r}")
        end = self._node_at(explain_layer_id)
        shape = (len(self.as_inputs(x)[0]), *self.surface_shape(self.first + end))
        start = Filter(self._class_filter(class_filter, shape))
        return explain(self, x, None, methods, start=start, start_layer=self.nodes[end].name, layers=layers,
                       reference=reference, batch_size=batch_size, compat="tensorflow_lrp")

    def sensitivity(self, x: Any, class_filter: Any = None, batch_size: int | None = None) -> Array:
        """Gradient of Σ output · class_filter at the formatted input (after a leading Format or Normalize)."""
        graph = self.at("highest")
        shape = (len(self.as_inputs(x)[0]), *self.surface_shape(self.outputs[0]))
        start = np.ascontiguousarray(np.broadcast_to(self._class_filter(class_filter, shape), shape))
        value = 0  # formatted: the input after layers that scale it, as long as nothing else reads what is before them
        while len(readers := [i for i, node in enumerate(self.nodes) if value in node.inputs]) == 1 \
                and self.layers[readers[0]].role == "scale" and self.first == 1:
            value = self.first + readers[0]
        formatted = value >= self.first
        found = explain(graph, x, None, "gradient", start=start, layers=formatted, batch_size=batch_size)
        return found.layers[self.nodes[value - self.first].name] if formatted else found.relevance

    def _node_at(self, index: int) -> int:
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"explain_layer_id must be an int, got {index!r}")
        if not -len(self.nodes) <= index < len(self.nodes):
            raise ValueError(f"explain_layer_id must be an index into the {len(self.nodes)} layers, got {index}")
        return self.outputs[0] - self.first if index == -1 else int(index) % len(self.nodes)

    def _class_filter(self, class_filter: Any, shape: tuple[int, ...]) -> Array:
        """What outputs of a shape (N, ...) are multiplied by: one filter for each sample, or one for all."""
        if class_filter is None:
            return np.ones(shape[1:], self.ops.dtype)
        if isinstance(class_filter, (int, np.integer)) and not isinstance(class_filter, bool):
            if len(shape) != 2 or not 0 <= class_filter < shape[1]:
                raise ValueError(f"class_filter must be a class between 0 and {shape[-1] - 1}, got {class_filter}")
            return np.eye(shape[1], dtype=self.ops.dtype)[class_filter]
        found = real_array(class_filter, self.ops.dtype, "class_filter")
        if found.shape not in (shape, shape[1:]):
            raise ValueError(f"class_filter must have shape {shape} or {shape[1:]}, got {found.shape}")
        return found

    def test(self, x: Any, target: Any = None, composite: Any = "epsilon_plus_flat", *, tolerance: float = 1e-4,
             precision: str = "highest", **more: Any) -> dict[str, float]:
        """Compare with the float64 twin, layer by layer: values going forward, then relevance coming back.

        Max-pool ties within rounding may send relevance elsewhere, in every implementation. Returns the largest
        relative L2 errors {"forward", "relevance"}; raises ArithmeticError naming the first layer beyond `tolerance`,
        and ValueError where x is empty or not finite: no error is known there. Takes the other arguments of `explain`
        too.
        """
        tolerance, twin = as_number(tolerance, "tolerance"), self.to_numpy()
        _check_comparison(self.as_inputs(x), tolerance)
        own, other = (net.trace(net.as_inputs(x)) for net in (self.at(precision), twin.at(precision)))
        names = [*self.input_names, *(node.name for node in self.nodes)]
        worst = _compare("forward", names, own.values, other.values, tolerance)
        output = self.forward(x, precision=precision)  # not layer by layer, but as the program that users run
        expected = [twin.to_surface(i, other.values[i]) for i in self.outputs]
        worst = max(worst, _compare("output", [names[i] for i in self.outputs],
                                    output if len(self.outputs) > 1 else [output], expected, tolerance))
        found = self.explain(x, target, composite, layers=True, precision=precision, **more)
        # The same classes on both sides: near-tied logits may change places by rounding.
        exact = twin.explain(x, found.target, composite, layers=True, **more)
        own_maps, other_maps = ([*reversed(e.layers.values()), *(e.relevance if self.first > 1 else [e.relevance])]
                                for e in (found, exact))
        names = [*reversed(found.layers), *self.input_names]
        return {"forward": worst, "relevance": _compare("relevance", names, own_maps, other_maps, tolerance)}

    def fit(self, x: Any, t: Any, *, epochs: int = 1, batch_size: int = 50, optimizer: Any = "adam",
            loss: Any = "sigmoid_cross_entropy", validation_data: tuple[Any, Any] | None = None,
            validation_every: int | None = None, patience: int | None = None, criterion: Any = None,
            callback: Any = None, seed: int | None = 0, progress: bool | None = None) -> History:
        """Train on inputs (N, *input_shape) and targets; `fastlrp.train.fit` documents the arguments."""
        from .train import fit
        return fit(self, x, t, epochs=epochs, batch_size=batch_size, optimizer=optimizer, loss=loss,
                   validation_data=validation_data, validation_every=validation_every, patience=patience,
                   criterion=criterion, callback=callback, seed=seed, progress=progress)

    def save(self, path: str | PathLike[str]) -> None:
        """Write layers and parameters to one .npz file; `fastlrp.load` reads it."""
        from .io import save
        save(self, path)

    def save_params(self, path: str | PathLike[str]) -> None:
        """Write the parameters alone."""
        from .io import save_params
        save_params(self, path)

    def load_params(self, path: str | PathLike[str]) -> None:
        """Read parameters that `save_params` or `save` wrote for a network of the same layers."""
        from .io import load_params
        load_params(self, path)


def _check_layer(layer: Any, name: str) -> None:
    if not isinstance(layer, Layer):
        raise TypeError(f"{name} must be a fastlrp layer, got {layer!r}")
    if layer.in_shape:
        raise ValueError(f"{name} ({layer!r}) already belongs to a network; make a new layer")


def _check_init(seed: Any, init: Any) -> int:
    if init is not None and (not isinstance(init, str) or init not in ("he", "truncated_normal")):
        raise ValueError(f'init must be "he" or "truncated_normal", got {init!r}')
    return as_size(seed, "seed", 0, math.inf)


def _check_comparison(inputs: Sequence[Array], tolerance: float) -> None:
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    if not len(inputs[0]):
        raise ValueError("x must hold at least one sample to be compared, got none")
    if not all(np.isfinite(array).all() for array in inputs):
        raise ValueError("x must be finite to be compared, got NaN or infinity")


def _compare(what: str, names: Sequence[Any], own: Sequence[Array], other: Sequence[Array],
             tolerance: float) -> float:
    worst = 0.0
    for name, a, b in zip(names, own, other, strict=True):
        scale = np.linalg.norm(b.ravel())
        error = float(np.linalg.norm((a - b).ravel()) / scale) if scale else float(np.abs(a).max(initial=0))
        if not error <= tolerance:
            raise ArithmeticError(f"{what} of layer {name!r} differs from the twin by {error:.3g} (relative L2), "
                                  f"more than the tolerance {tolerance:g}")
        worst = max(worst, error)
    return worst
