"""The description in fastlrp's files: JSON that tells how to make the layers again, and what every tensor is.

    {"format": "fastlrp", "version": 3, "fastlrp": "0.1.0", "kind": "network", "channels_first": false,
     "inputs": [{"name": "input", "shape": [28, 28, 1]}], "outputs": [8],
     "layers": [{"class": "Scale", "name": "mean", "config": {"times": 1.0}, "constants": ["plus"], "inputs": [0]},
                {"class": "Conv2d", "name": "conv1", "config": {"out": 10, ...}, "constants": [], "inputs": [1]}, ...],
     "tensors": [{"name": "mean/plus", "shape": [28, 28, 1], "dtype": "<f4", "sha256": "..."}, ...,
                 {"name": "conv1/weight", "shape": [5, 5, 1, 10], "dtype": "<f4", "sha256": "..."}, ...]}

A layer's config: the arguments that make it; those that are arrays are listed in "constants" instead, and stored as
tensors. Inputs: indices of the values it reads; of k inputs of the network, these are 0 to k − 1, and k + i is the
output of layer i, as for outputs. A layer that comes again is shared: the same name, class, config and constants.
Shapes are of one sample, channels last. Tensors: first all constants, then all parameters, each in the layers' order.
Kind "parameters" has format, version, kind and tensors alone, and of these no constants. Older versions are read too:
version 2 had no "constants", and arrays as nested lists in the config; so had version 1, which held sequences:
"input_shape" for one input, [i] for the inputs of layer i. A reader refuses what it does not know: no key, argument or
tensor is ignored.
In: a network, or text. Out: text, or a network without parameters; its constants are asked for one by one. Touches no
file; raises `Fault`.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any
from urllib.parse import quote

import numpy as np

from .._version import __version__
from ..graph import Graph
from ..layers import LAYERS, Layer
from ..layers.base import Shape
from ..network import Network
from ..reference import Array

FORMAT, VERSION = "fastlrp", 3
KINDS = ("network", "parameters")
TYPES = ("<f4", "<f8")

# What a few bytes may ask for. JSON takes up to 21 times its length in memory.
MOST_BYTES = 2 << 20
MOST_DIMENSIONS = 32
MOST_DIGITS = 18
MOST_VALUES = 1 << 32  # in one sample, anywhere in the network
MOST_NAME = 1000


class Fault(ValueError):
    """What is wrong with a description and where in it; the caller adds the file."""


@dataclass(frozen=True)
class Tensor:
    """One stored array. name: "<layer name>/<parameter or constant>"."""

    name: str
    shape: Shape
    dtype: str
    sha256: str

    @property
    def member(self) -> str:
        """Its member in the archive: the name, with what is not plain in file names percent-encoded."""
        return member_name(self.name)


@dataclass(frozen=True)
class Description:
    """A parsed description: types and sizes checked, layers not made yet."""

    kind: str
    inputs: Sequence[tuple[str, Shape]]
    layers: Sequence[dict[str, Any]]
    outputs: Sequence[int]
    channels_first: bool
    constants: Sequence[str]  # names of those tensors that layers are made with
    tensors: Sequence[Tensor]


def constants(net: Graph) -> dict[str, Array]:
    """Tensor name to array for all of the layers' constants that are arrays, in the order in which they are stored."""
    return {f"{layer.name}/{key}": getattr(layer, key) for layer in dict.fromkeys(net.layers)
            for key in _array_constants(layer)}


def _array_constants(layer: Layer) -> list[str]:
    return [key for key in layer.constants if isinstance(getattr(layer, key), np.ndarray)]


def parameter_shapes(net: Graph) -> dict[str, Shape]:
    """Tensor name to shape for all parameters of a network, filled or not, in the order in which they are stored."""
    return {f"{layer.name}/{key}": shape for layer in net.parametric for key, shape in layer.parameter_shapes.items()}


def member_name(tensor: str) -> str:
    """The member of a tensor, as "conv1/weight.npy"; Fault where the layer's name cannot be part of it."""
    layer, _, key = tensor.rpartition("/")
    try:
        folder = quote(layer, safe="")
    except UnicodeEncodeError:  # a lone surrogate
        folder = ""
    if not folder or len(folder) > MOST_NAME:
        raise Fault(f"the layer name {_short(layer)} cannot be stored: expected 1 to {MOST_NAME} characters of Unicode")
    if not folder.strip("."):
        folder = folder.replace(".", "%2E")  # ".." would be another folder to who unpacks the file
    return f"{folder}/{key}.npy"


def encode(net: Network, kind: str, tensors: Sequence[Tensor]) -> bytes:
    """The description of a network. Fault where it holds what the format cannot, as a reader would say it."""
    top: dict[str, Any] = {"format": FORMAT, "version": VERSION, "fastlrp": __version__, "kind": kind}
    if kind == "network":
        top["channels_first"], top["outputs"] = net.channels_first, net.outputs
        top["inputs"] = [{"name": name, "shape": net.shapes[i]} for i, name in enumerate(net.input_names)]
        top["layers"] = [_describe(node.layer, node.inputs) for node in net.nodes]
    text = json.dumps({**top, "tensors": [asdict(tensor) for tensor in tensors]}).encode()
    description = parse(decode(text))
    if kind == "network":
        build(description, constants(net).__getitem__)
    return text


def _describe(layer: Layer, inputs: Sequence[int]) -> dict[str, Any]:
    kind = type(layer).__name__
    if LAYERS.get(kind) is not type(layer):
        raise Fault(f"layer {layer.name!r}: a {kind} is not one of fastlrp's own layers, which alone can be stored")
    arrays = _array_constants(layer)
    config = {key: value for key, value in layer.arguments().items() if key not in arrays}
    return {"class": kind, "name": layer.name, "config": config, "constants": arrays, "inputs": inputs}


def decode(text: bytes) -> dict[str, Any]:
    """The JSON object of a description whose format and version are this module's."""
    if len(text) > MOST_BYTES:
        raise Fault(f"expected at most {MOST_BYTES} bytes, got {len(text)}")
    try:
        top = json.loads(text.decode(), parse_int=_whole, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Fault(f"not the JSON of a description: {_short(error)}") from None
    if type(top) is not dict or top.get("format") != FORMAT:
        raise Fault(f'expected an object with "format": "{FORMAT}"')
    version = top.get("version")
    if type(version) is not int or version < 1:
        raise Fault(f"version: expected a whole number of at least 1, got {_short(version)}")
    if version > VERSION:
        raise Fault(f"version {version} of the format, written by fastlrp {_short(top.get('fastlrp'))}; "
                    f"fastlrp {__version__} supports version {VERSION} and needs an upgrade to read this file")
    return top


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise Fault(f"expected at most {MOST_DIGITS} digits in a whole number, got {len(digits)}")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Fault(f"a key appears twice in the object with the keys {_short(list(found))}")
    return found


def parse(top: dict[str, Any]) -> Description:
    """The description in a decoded JSON object: every key known, every type right, every size within reason."""
    if top.get("kind") not in KINDS:
        raise Fault(f"kind: expected one of {KINDS}, got {_short(top.get('kind'))}")
    keys = {"format": str, "version": int, "fastlrp": str, "kind": str, "tensors": list}
    network = top["kind"] == "network"
    if network:
        keys |= {"layers": list}
        keys |= {"input_shape": list} if top["version"] == 1 else {
            "inputs": list, "outputs": list, "channels_first": bool}
    _fields(top, "the top level", keys)
    layers = top.get("layers", [])
    if network and not layers:
        raise Fault("layers: expected at least one layer")
    own = {"class": str, "name": str, "config": dict, "inputs": list}
    for i, layer in enumerate(layers):
        _fields(layer, f"layers[{i}]", own if top["version"] < 3 else {**own, "constants": list})
    inputs, outputs = _ends(top) if network else ([], [])
    for i, layer in enumerate(layers):
        _indices(layer["inputs"], 0, len(inputs) + i, f"layers[{i}].inputs")
        if top["version"] == 1 and layer["inputs"] != [i]:
            raise Fault(f"layers[{i}].inputs: expected [{i}], the layer before: version 1 of the format holds "
                        f"sequences of layers alone; got {_short(layer['inputs'])}")
    tensors = [_tensor(value, f"tensors[{i}]") for i, value in enumerate(top["tensors"])]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise Fault("tensors: expected different names")
    return Description(top["kind"], inputs, layers, outputs, top.get("channels_first", False),
                       _constants(layers, tensors), tensors)


def _constants(layers: Sequence[dict[str, Any]], tensors: Sequence[Tensor]) -> list[str]:
    """The names of the tensors that are constants, each once, in the layers' order."""
    known, found = {tensor.name for tensor in tensors}, dict[str, None]()
    for i, layer in enumerate(layers):
        for key in layer.get("constants", ()):
            if type(key) is not str or f"{layer['name']}/{key}" not in known:
                raise Fault(f"layers[{i}].constants: expected names of tensors without the layer's, got {_short(key)}")
            found[f"{layer['name']}/{key}"] = None
    return list(found)


def _ends(top: dict[str, Any]) -> tuple[list[tuple[str, Shape]], list[int]]:
    """Inputs, (name, shape), and outputs."""
    count = len(top["layers"])
    if top["version"] == 1:
        return [("", _shape(top["input_shape"], "input_shape"))], [count]
    inputs = []
    for i, entry in enumerate(top["inputs"]):
        _fields(entry, f"inputs[{i}]", {"name": str, "shape": list})
        inputs.append((entry["name"], _shape(entry["shape"], f"inputs[{i}].shape")))
    if not inputs:
        raise Fault("inputs: expected at least one")
    _indices(top["outputs"], len(inputs), len(inputs) + count, "outputs")
    return inputs, top["outputs"]


def _indices(found: list[Any], low: int, end: int, place: str) -> None:
    if not found or any(type(i) is not int or not low <= i < end for i in found):
        raise Fault(f"{place}: expected indices of values from {low} to {end - 1}, got {_short(found)}")


def _fields(value: Any, place: str, kinds: Mapping[str, type]) -> None:
    """Check that a value is an object of exactly these keys and types."""
    if type(value) is not dict:
        raise Fault(f"{place}: expected an object, got {_short(value)}")
    if value.keys() != kinds.keys():
        raise Fault(f"{place}: expected the keys {sorted(kinds)}, got {_short(sorted(value))}")
    for key, kind in kinds.items():
        if type(value[key]) is not kind:
            raise Fault(f"{place}, {key}: expected {kind.__name__}, got {_short(value[key])}")


def _shape(value: list[Any], place: str) -> Shape:
    if not 1 <= len(value) <= MOST_DIMENSIONS or any(type(size) is not int or size < 1 for size in value):
        raise Fault(f"{place}: expected 1 to {MOST_DIMENSIONS} positive whole numbers, got {_short(value)}")
    return tuple(value)


def _tensor(value: Any, place: str) -> Tensor:
    _fields(value, place, {"name": str, "shape": list, "dtype": str, "sha256": str})
    if value["dtype"] not in TYPES:
        raise Fault(f"{place}.dtype: expected one of {TYPES}, got {_short(value['dtype'])}")
    member_name(value["name"])  # Fault where it has none
    return Tensor(value["name"], _shape(value["shape"], f"{place}.shape"), value["dtype"], value["sha256"])


def build(description: Description, read: Callable[[str], Array]) -> Network:
    """The network of a description, its parameters still missing; equal to the saved one but for those.

    read: from the name of a tensor of `description.constants` to the array; called once for each.
    """
    nodes = [(layer, tuple(entry["inputs"]))
             for layer, entry in zip(_layers(description.layers, read), description.layers, strict=True)]
    with np.errstate(over="ignore"):  # a scale beyond float32 is infinite, as when the network was made
        _check_sizes(nodes, [shape for _, shape in description.inputs])
        try:
            net = Network.of_nodes(nodes, description.inputs, description.outputs, description.channels_first)
        except ValueError as error:
            raise Fault(f"layers: {_short(error)}") from None
    stored = {tensor.name: tensor.shape for tensor in description.tensors}
    wanted = {name: stored[name] for name in description.constants} | parameter_shapes(net)
    if [*stored.items()] != [*wanted.items()]:
        raise Fault(f"tensors: not those of the layers, in their order: {differences(wanted, stored)}")
    return net


def _layers(entries: Sequence[dict[str, Any]], read: Callable[[str], Array]) -> list[Layer]:
    """The layer of each entry: one for all entries of a name."""
    made: dict[str, tuple[Layer, dict[str, Any]]] = {}
    found = []
    for i, entry in enumerate(entries):
        if entry["name"] not in made:
            made[entry["name"]] = _layer(entry, f"layers[{i}]", read), entry
        layer, first = made[entry["name"]]
        if any(not _same(entry.get(key), first.get(key)) for key in ("class", "config", "constants")):
            raise Fault(f"layers[{i}]: expected the class and config of the first layer named {_short(entry['name'])}")
        found.append(layer)
    return found


def _layer(entry: dict[str, Any], place: str, read: Callable[[str], Array]) -> Layer:
    kind, config = entry["class"], entry["config"]
    _check_arguments(entry, place)
    arrays = {key: read(f"{entry['name']}/{key}") for key in entry.get("constants", ())}
    try:
        layer = LAYERS[kind](**config, **arrays, name=entry["name"])
        made = layer.arguments()
        changed = [key for key in config if key not in made or not _same(made[key], config[key])]
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Fault(f"{place} ({kind} {_short(entry['name'])}): {_short(error)}") from None
    if changed:  # as "no" for a truth value, or 2.5 for a size
        raise Fault(f"{place}.config.{changed[0]}: expected what {kind} keeps of it, "
                    f"{_short(made.get(changed[0]))}, got {_short(config[changed[0]])}")
    for key, array in arrays.items():
        if made[key].itemsize != array.itemsize:
            raise Fault(f"{place}.constants: expected {_short(key)} in {made[key].dtype}, which holds every bit of it")
    return layer


def _check_arguments(entry: dict[str, Any], place: str) -> None:
    """Fault where a class or its arguments are not what is written, but for the values."""
    kind, config, arrays = entry["class"], entry["config"], entry.get("constants", ())
    if kind not in LAYERS:
        raise Fault(f"{place}.class: fastlrp {__version__} has {', '.join(LAYERS)}, but not {_short(kind)}")
    if len(set(arrays)) < len(arrays) or not set(arrays) <= set(LAYERS[kind].constants):
        raise Fault(f"{place}.constants: {kind} has {LAYERS[kind].constants}, got {_short(arrays)}")
    for key, value in config.items():
        # A shape of a million sizes would take minutes to multiply.
        if type(value) is list and sum(type(item) is int for item in value) > MOST_DIMENSIONS:
            raise Fault(f"{place}.config.{_short(key)}: expected at most {MOST_DIMENSIONS} whole numbers")
        if type(value) is list and "constants" in entry and key in LAYERS[kind].constants:
            raise Fault(f"{place}.config.{key}: expected a number, or an array among the constants")


def _same(made: Any, written: Any) -> bool:
    """Whether two values are written in the same way: 1, 1.0 and true differ."""
    try:
        return json.dumps(made, default=np.ndarray.tolist) == json.dumps(written, default=np.ndarray.tolist)
    except RecursionError:
        return False


def _check_sizes(nodes: Sequence[tuple[Layer, tuple[int, ...]]], shapes: list[Any]) -> None:
    """Fault where a layer does not fit what it reads, or where building or running takes sizes beyond all reason.

    shapes: of the inputs; those of all values are added.
    """
    for shape in shapes:
        _check_shape(shape)
    for i, (layer, reads) in enumerate(nodes):
        try:
            if len(reads) > 1 and not layer.merges:
                raise ValueError(f"expected one input, got {len(reads)}")
            shape = layer.infer(tuple(shapes[j] for j in reads) if layer.merges else shapes[reads[0]])  # type: ignore[arg-type]
            _check_shape(shape)
        except (TypeError, ValueError) as error:
            raise Fault(f"layers[{i}] ({_short(layer.name)}): {_short(error)}") from None
        shapes.append(shape)


def _check_shape(shape: Shape) -> None:
    if prod(shape) > MOST_VALUES:
        raise Fault(f"expected samples of at most {MOST_VALUES} values, got the shape {_short(shape)}")


def differences(wanted: dict[str, Shape], stored: dict[str, Shape]) -> str:
    """What differs between the parameters of a network and those of a file."""
    lines = [f"{name}: {wanted.get(name, 'not there')} in the network, {stored.get(name, 'not there')} in the file"
             for name in [*wanted, *(stored.keys() - wanted.keys())] if wanted.get(name) != stored.get(name)]
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    return "; ".join([*lines[:10], *more]) or "another order"


def _short(value: Any) -> str:
    """A value or message of a file, cut to what a message can hold."""
    text = str(value) if isinstance(value, Exception) else reprlib.repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
