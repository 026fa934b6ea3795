"""Networks from PyTorch modules: traced by torch.export, read operator by operator.

In: a torch.nn.Module and an example input. Out: a Network in PyTorch's layouts, (N, C, H, W). The trace holds ATen
operators; `aten.READERS` says for each what it is in the builder's terms. What does not depend on the input is computed
here, by torch itself. Nothing is run but that, and the module is left as it was.
"""

from __future__ import annotations

import copy
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UnsupportedError
from ..network import Network
from ..reference import Array
from .aten import DROPOUTS, READERS, RESHAPING
from .building import BATCH, UNKNOWN, Builder, Unsupported, Value

TRACED = 7  # samples in the trace: torch.export takes sizes of 0 and 1 for constants


SIZES = (*range(2, 34), 999_983)  # of batches for which a trace must hold


class _BatchSize:
    """The number of samples, or a number made of it: values may be reshaped by it, and nothing else."""


BATCH_SIZE = _BatchSize()


class _Lacking(Unsupported, AttributeError):
    """An argument that an overload of an operator does not have."""


class _Arguments:
    """An operator's arguments by name, for READERS."""

    def __init__(self, named: dict[str, Any]):
        vars(self).update(named)

    def __getattr__(self, name: str) -> Any:
        raise _Lacking(f"in the form without the argument {name}")


def from_torch(module: Any, example_input: Any) -> Network:
    """The network of a torch.nn.Module in evaluation mode, with copies of its weights.

    example_input: a tensor, or a tuple of tensors for a module with several inputs: (N, C, H, W), (N, C, L) or
        (N, features), N >= 1. Its values do not matter, nor does N: the network takes batches of any size.

    Inputs, outputs, relevance and `e.layers` keep the module's layouts. Layers are named after the modules' paths, as
    "layer1.0.conv1"; functional calls after their operators, as "add", "add_1". Modules called twice on inputs of one
    shape stay one layer. A softmax at the end is left out, with a warning. A product of two computed values takes one
    of them for a gate, which gets no relevance. All is computed in float32, also what the module computes in float64,
    float16 or bfloat16, and what it rounds to them in between.

    Raises UnsupportedError that lists all operators that fastlrp does not have, or says why the module cannot be
    traced; TypeError and ValueError for other arguments; ImportError without PyTorch (the extra "torch").
    """
    try:
        import torch
    except ImportError:
        raise ImportError("from_torch needs PyTorch: pip install fastlrp[torch]") from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {module!r}")
    inputs = _inputs(torch, example_input)
    with torch.no_grad(), _evaluating(module), _quiet():
        reader = _Reader(torch, module, _traced(torch, module, inputs))
        outputs = reader.read()
    return reader.builder.build(outputs)


def _inputs(torch: Any, example: Any) -> tuple[Any, ...]:
    """The example's tensors, each with TRACED samples."""
    given = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    for tensor in given:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"example_input must be a tensor or a tuple of tensors, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"example_input must hold floating-point numbers, got {tensor.dtype}")
        if tensor.ndim < 2 or 0 in tensor.shape:
            raise ValueError("example_input must have shape (N, C, H, W), (N, C, L) or (N, features) with N >= 1, got "
                             f"{tuple(tensor.shape)}")
    if len({len(tensor) for tensor in given}) != 1:
        raise ValueError("example_input must hold at least one tensor, and as many samples in each, got shapes "
                         f"{[tuple(tensor.shape) for tensor in given]}")
    return tuple(tensor.detach()[:1].expand(TRACED, *tensor.shape[1:]).contiguous() for tensor in given)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode; afterwards each of its parts in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about itself, and without what it logs of an error that is raised as well."""
    loggers = [logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "torch.export._trace",
                                                        "torch.fx.experimental.symbolic_shapes")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _traced(torch: Any, module: Any, inputs: tuple[Any, ...]) -> Any:
    """The exported program, the batch's size free: from running the module or, if that does not work, from its code."""
    free = torch.export.ShapesCollection()
    for tensor in inputs:
        free[tensor] = {0: torch.export.Dim.AUTO}
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=free, strict=False)
    except Exception as error:
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=free, strict=True)
        except Exception:
            reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
            raise UnsupportedError(f"{type(module).__name__}: torch.export cannot trace it: {reason}") from error
    if not _for_any_batch(program):
        raise UnsupportedError(f"{type(module).__name__}: its trace does not hold for other sizes of the batch than "
                               f"{TRACED}: forward reads the size")
    return _taken_apart(torch, program) if _reads_what_changed(program.graph) else program


def _for_any_batch(program: Any) -> bool:
    """Whether a trace holds for batches of every size: no branch or shape in it has fixed or bounded the size. Sizes of
    0 and 1 torch.export takes for others anyway."""
    for node in program.graph.nodes:
        if node.name not in program.graph_signature.user_inputs or not hasattr(node.meta.get("val"), "shape"):
            continue
        size = node.meta["val"].shape[0]
        bounds = None if isinstance(size, int) else program.range_constraints.get(size.node.expr)
        if bounds is None or bounds.lower > 2 or bounds.upper < SIZES[-1]:
            return False
        for guard in size.node.shape_env.guards:
            for n in SIZES:
                if guard.expr.subs(dict.fromkeys(guard.expr.free_symbols, n)) == False:  # noqa: E712 (of SymPy)
                    return False
    return True


def _taken_apart(torch: Any, program: Any) -> Any:
    """The program where torch has replaced what happens in place. Dropouts, which in evaluation give their input and so
    get lost in that, become native_dropout, a copy, where a copy does as well; elsewhere they are left out here, as not
    every version of torch leaves them out rightly."""
    graph = program.graph
    place, sharing = _shared_memory(graph)
    dropouts = {node: _may_be_copy(node, sharing[node], place) for node in graph.nodes if _is_dropout(node)}
    for node, may_be_copy in dropouts.items():
        kept = node.args[0]
        if may_be_copy:
            with graph.inserting_before(node):
                both = graph.call_function(torch.ops.aten.native_dropout.default, (*node.args[:2], False))
                kept = graph.call_function(operator.getitem, (both, 0))
            both.meta, kept.meta = {**node.meta, "val": (node.meta["val"], node.meta["val"])}, node.meta
        node.replace_all_uses_with(kept)
        graph.erase_node(node)
    return program.run_decompositions({})


def _may_be_copy(node: Any, sharing: list[Any], place: dict[Any, int]) -> bool:
    """Whether a node may give a copy of what it shares with others: nobody changes that later, or nobody reads it later
    but through this node."""
    later = [(own, user) for own in sharing for user in own.users if place[user] > place[node]]
    return not any(own in _changed(user) for own, user in later) or all(place[own] >= place[node] for own, _ in later)


def _reads_what_changed(graph: Any) -> bool:
    """Whether a value is read after an operator in place has changed it, or one that may share its memory: what the
    operator gives is then not all that it does, and torch has to take it apart."""
    place, sharing = _shared_memory(graph)
    return any(place[user] > place[node] for node in graph.nodes for changed in _changed(node)
               for own in sharing[changed] if place[own] < place[node] for user in own.users)


def _shared_memory(graph: Any) -> tuple[dict[Any, int], dict[Any, list[Any]]]:
    """Of each node its place in the graph and the nodes that may share its memory."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    sharing: dict[Any, list[Any]] = {node: [node] for node in graph.nodes}
    for node in graph.nodes:
        for source in _sources(node):
            if sharing[source] is not sharing[node]:
                sharing[source] += sharing[node]
                sharing.update(dict.fromkeys(sharing[node], sharing[source]))
    return place, sharing


def _is_dropout(node: Any) -> bool:
    return getattr(node.target, "namespace", "") == "aten" and _kind(node) in DROPOUTS  # (input, p, train)


def _sources(node: Any) -> list[Any]:
    """The nodes whose memory may be the result's."""
    if node.target is operator.getitem or (_is_dropout(node) and not (node.args[1] and node.args[2])):
        return list(node.args[:1])
    schema: Any = getattr(node.target, "_schema", None)
    if not schema or not any(result.alias_info for result in schema.returns):
        return []
    return [own for spec, found in _arguments(node) if spec.alias_info for own in found]


def _changed(node: Any) -> list[Any]:
    """What an operator changes in place."""
    return [own for spec, found in _arguments(node) if spec.alias_info and spec.alias_info.is_write for own in found]


def _arguments(node: Any) -> Iterator[tuple[Any, list[Any]]]:
    """What an operator's schema says of each argument, and the nodes in it."""
    schema: Any = getattr(node.target, "_schema", None)
    given = dict(zip((spec.name for spec in schema.arguments), node.args, strict=False)) | node.kwargs if schema else {}
    for spec in schema.arguments if schema else ():
        yield spec, [own for own in _flat([given.get(spec.name)]) if isinstance(own, type(node))]


class _Reader:
    """Reads an exported program into a builder."""

    def __init__(self, torch: Any, module: Any, program: Any):
        self.torch, self.module, self.program = torch, module, program
        self.builder = Builder(type(module).__name__, [kind for kind in READERS if not kind.startswith("_")])
        signature = program.graph_signature
        self.inputs = set(signature.user_inputs)
        self.tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                        **signature.inputs_to_lifted_tensor_constants}  # placeholder to name
        self.batch = {str(node.meta["val"].shape[0]) for node in program.graph.nodes if node.name in self.inputs}
        self.found: dict[Any, Any] = {}  # of each node: a Value, tensor, number, sequence of them
        self.arrays: dict[int, tuple[Any, Array]] = {}
        self.state = {**program.state_dict, **program.constants}
        if self._changes_state():
            self.state = copy.deepcopy(self.state)  # what shares memory does so there too
        self.names = self._names()

    def read(self) -> list[Any]:
        """The outputs."""
        wanted = set(self.program.graph_signature.user_outputs)
        *nodes, last = self.program.graph.nodes
        needed = {last}
        for node in reversed(nodes):
            if needed.intersection(node.users):
                needed.add(node)
        for node in nodes:
            if node.op == "placeholder":
                self.found[node] = self._placeholder(node)
            elif node in needed and node.op == "call_function":
                self.found[node] = self._call(node)
        outputs = [self.found.get(node) for node in last.args[0] if getattr(node, "name", "") in wanted]
        if not outputs or not all(isinstance(value, Value) or value is UNKNOWN for value in outputs):
            raise UnsupportedError(f"{self.builder.source}: outputs must be tensors that depend on the input")
        return outputs

    def _placeholder(self, node: Any) -> Any:
        if node.name in self.inputs:
            return self.builder.input(node.name, tuple(node.meta["val"].shape[1:]))
        return self.state.get(self.tensors.get(node.name))

    def _changes_state(self) -> bool:
        """Whether an operator in place changes what does not depend on the inputs."""
        moving: set[Any] = set()
        for node in self.program.graph.nodes:
            if node.name in self.inputs or not moving.isdisjoint(node.all_input_nodes):
                moving.add(node)
            elif getattr(getattr(node.target, "_schema", None), "is_mutable", False):
                return True
        return False

    def _call(self, node: Any) -> Any:
        """What an operator gives: computed by torch if there is no value in it, else what READERS make of it."""
        if isinstance(node.meta.get("val"), (self.torch.SymInt, self.torch.SymFloat, self.torch.SymBool)):
            return BATCH_SIZE  # sizes of other axes are numbers already
        args, more = self.torch.fx.node.map_arg((node.args, dict(node.kwargs)), self.found.get)
        given = [*_flat(args), *_flat(more.values())]
        if any(value is UNKNOWN for value in given):
            if _kind(node) not in READERS and node.target is not operator.getitem:
                self.builder.unsupported(node=(_kind(node), self.names[node]))
            return UNKNOWN
        if node.target is operator.getitem:
            return self._picked(node.args[0], *args)
        if not any(isinstance(value, (Value, _BatchSize)) for value in given):
            return node.target(*args, **more)
        return self.builder.run(_kind(node), self.names[node], self._read, node, args, more)

    def _picked(self, source: Any, results: Any, index: int) -> Any:
        """One of the results of an operator; UNKNOWN where its reader does not make that one."""
        if index < len(results):
            return results[index]
        self.builder.unsupported("only its first result", (_kind(source), self.names[source]))
        return UNKNOWN

    def _read(self, node: Any, args: Any, more: Any) -> Any:
        kind = _kind(node)
        if kind not in READERS:
            raise Unsupported
        schema = node.target._schema.arguments
        named = {own.name: own.default_value for own in schema}
        named.update(zip((own.name for own in schema), args, strict=False), **more)
        if kind not in RESHAPING and BATCH_SIZE in _flat(named.values()):
            raise Unsupported("a number that depends on the size of the batch")
        if not any(isinstance(value, Value) for value in _flat(named.values())):
            raise Unsupported("constants, as many as the batch")
        results = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
        if not results[0].dtype.is_floating_point:
            raise Unsupported(f"to {results[0].dtype}: only to floating point")
        options = _Arguments({key: self._constant(value) for key, value in named.items()} | {
            "result": self._shape(results[0])})
        found = READERS[kind](self.builder, options)
        for own, result in zip(found if isinstance(found, (tuple, list)) else [found], results, strict=False):
            if own.shape != (shape := self._shape(result)[1:]):
                raise Unsupported(f"samples of shape {own.shape} where PyTorch makes {shape}")
        return found

    def _shape(self, tensor: Any) -> tuple[Any, ...]:
        """The shape of a result, BATCH for the batch."""
        shape = tensor.shape
        sizes = tuple(BATCH if not axis and str(size) in self.batch else size for axis, size in enumerate(shape))
        if not all(isinstance(size, int) for size in sizes):
            raise Unsupported(f"the shape {tuple(map(str, shape))} mixes the batch with other axes")
        return sizes

    def _constant(self, value: Any) -> Any:
        """A tensor as a float32 array: in its own memory if possible, and one array for one tensor, so that layers
        with the same weights are found to have them."""
        if not isinstance(value, self.torch.Tensor):
            return value
        if id(value) not in self.arrays:
            self.arrays[id(value)] = value, value.detach().cpu().float().numpy()
        return self.arrays[id(value)][1]

    def _module(self, node: Any) -> Any:
        """The innermost module that calls an operator."""
        path = _path(node)
        try:
            return self.module.get_submodule(path)
        except AttributeError:  # made while tracing
            return None

    def _names(self) -> dict[Any, str]:
        """The modules' paths for operators that are all that a module does, else the operators' own names as torch
        counts them."""
        nodes = [node for node in self.program.graph.nodes if node.op == "call_function"]
        kinds: dict[str, set[str]] = {}
        for node in nodes:
            if node.target is not operator.getitem:
                kinds.setdefault(_path(node), set()).add(_kind(node))
        counts: Counter[str] = Counter()
        names = {}
        for node in nodes:
            path, kind = _path(node), _kind(node).removeprefix("native_")  # dropouts where torch has replaced them
            module = self._module(node)
            if path and len(kinds.get(path, ())) == 1 and module is not None and not any(module.children()):
                names[node] = path
            else:
                names[node] = f"{kind}_{counts[kind]}" if counts[kind] else kind
                counts[kind] += 1
        return names


def _kind(node: Any) -> str:
    """An operator's name, the same in place: "relu" for aten.relu_.default."""
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", packet))
    return name if name.startswith("_") else name.rstrip("_")


def _path(node: Any) -> str:
    """The path of the module that an operator belongs to."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][0])


def _flat(values: Any) -> list[Any]:
    """All that is in sequences in sequences."""
    return [part for value in values for part in (_flat(value) if isinstance(value, (list, tuple)) else [value])]
