"""Saving and loading: `net.save`, `fastlrp.load`, `net.save_params`, `net.load_params`.

A file is a zip archive of .npy members, which `numpy.load(path)` reads too: "fastlrp.json", the description (JSON as
uint8; see description.py), "fastlrp.sha256", its checksum, and each parameter as "<layer name>/<parameter>", raw and
uncompressed in little-endian order, as are the arrays of constants that layers are made with, such as a mean image. In
layer names, characters other than letters, digits and "_.-~" are percent-encoded there. No pickle is written or read.
The same network gives the same bytes.

Parameters are stored in the network's own precision: "<f4", or "<f8" for a float64 twin (`Network.to_numpy`). Loading
gives a float32 network on compiled kernels either way; a twin is one call away, and `load_params` into a float64 twin
brings back every bit. Constants keep every bit that they have.

A file is trusted in nothing: sizes are checked against the file's before memory is taken, and the whole of a load takes
less than four times the file plus 64 MB. FormatError, which names the file and the place, is raised for anything that
`save` does not write, but for what the zip format notes of members beside names, sizes and bytes: their times,
versions and attributes are not looked at. Saving replaces a file in one step: a crash leaves the old one or the new
one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..layers import ParameterLayer
from ..network import Network
from ..reference import Array
from .archive import Archive, raw_bytes, write_archive
from .description import (
    MOST_BYTES,
    Description,
    Fault,
    Tensor,
    build,
    constants,
    decode,
    differences,
    encode,
    parameter_shapes,
    parse,
)

__all__ = ["load", "load_params", "save", "save_params"]

Path = str | os.PathLike[str]

_DESCRIPTION, _CHECKSUM = "fastlrp.json.npy", "fastlrp.sha256.npy"


def save(net: Network, path: Path) -> None:
    """Write layers and parameters to exactly this path (no suffix is added); an existing file is replaced.

    ValueError where the network holds what the format cannot (layers of other packages)
    or the path is no regular file; OSError where it cannot be written. In both cases an old file stays as it was.
    """
    _write(net, path, "network")


def save_params(net: Network, path: Path) -> None:
    """Write the parameters alone, as `save` does; `load_params` reads them into a network of the same layers."""
    _write(net, path, "parameters")


def load(path: Path) -> Network:
    """The network that `save` wrote: same layers, names and bits, float32 on compiled kernels.

    FormatError for every other file, FileNotFoundError (or another OSError) where it cannot be read.
    """
    with Archive(path) as archive:
        description = _description(archive)
        if description.kind != "network":
            raise archive.error("description", f"it holds {description.kind} alone; make the network and call "
                                "load_params")
        tensors = {tensor.name: tensor for tensor in description.tensors}
        with _named(archive):
            net = build(description, lambda name: _read(archive, tensors[name]))
        for layer, key in _parameters(net):
            setattr(layer, key, _parameter(archive, tensors[f"{layer.name}/{key}"], net.ops.dtype, layer))
    return net


def load_params(net: Network, path: Path) -> None:
    """Read parameters from a file of `save_params` or `save` into a network with the same names and shapes.

    ValueError that lists what differs where they are not the same; FormatError and OSError as in `load`. The network
    is unchanged unless everything was read and checked.
    """
    _check_network(net)
    with Archive(path) as archive:
        description = _description(archive)
        own = set(description.constants)  # of the layers in the file, which are not asked for
        tensors = [tensor for tensor in description.tensors if tensor.name not in own]
        stored, wanted = {t.name: t.shape for t in tensors}, parameter_shapes(net)
        if stored != wanted:
            raise ValueError(f"net has other parameters than {archive.path}: {differences(wanted, stored)}")
        owners = {f"{layer.name}/{key}": layer for layer, key in _parameters(net)}
        values = {t.name: _parameter(archive, t, net.ops.dtype, owners[t.name]) for t in tensors}
    for layer, key in _parameters(net):
        setattr(layer, key, values.pop(f"{layer.name}/{key}"))


def _check_network(net: Any) -> None:
    if not isinstance(net, Network):
        raise TypeError(f"net must be a fastlrp.Network, got {net!r}")


def _parameters(net: Network) -> Iterator[tuple[ParameterLayer, str]]:
    """Layer and parameter of each name in `parameter_shapes`."""
    layers = {layer.name: layer for layer in net.parametric}
    for name in parameter_shapes(net):
        layer, _, key = name.rpartition("/")
        yield layers[layer], key


def _write(net: Network, path: Path, kind: str) -> None:
    _check_network(net)
    arrays = {name: _stored(array) for name, array in constants(net).items()} if kind == "network" else {}
    arrays |= {f"{layer.name}/{key}": _stored(getattr(layer, key)) for layer, key in _parameters(net)}
    tensors = [Tensor(name, array.shape, array.dtype.str, _sha256(array).hex()) for name, array in arrays.items()]
    try:
        text = encode(net, kind, tensors)
    except Fault as fault:
        raise ValueError(f"net cannot be saved: {fault}") from None
    description = np.frombuffer(text, np.uint8)
    write_archive(path, {_DESCRIPTION: description, _CHECKSUM: np.frombuffer(_sha256(description), np.uint8),
                         **{tensor.member: arrays[tensor.name] for tensor in tensors}})


def _stored(array: Array) -> Array:
    """Little-endian, in float64 or float32, whichever holds every bit."""
    if array.dtype.itemsize > 8:
        raise ValueError(f"net cannot be saved in {array.dtype}, which differs between machines; use to_numpy(float64)")
    return np.ascontiguousarray(array, "<f8" if array.dtype.itemsize == 8 else "<f4")


def _sha256(array: Array) -> bytes:
    return hashlib.sha256(raw_bytes(array)).digest()


@contextmanager
def _named(archive: Archive) -> Iterator[None]:
    """Turn a fault of the description into a FormatError that names the file."""
    try:
        yield
    except Fault as fault:
        raise archive.error("description", fault) from None


def _description(archive: Archive) -> Description:
    """The description of a file; checks it, and that the archive holds what it lists and nothing else."""
    if _DESCRIPTION not in archive.members:
        raise archive.error("directory", f"no member {_DESCRIPTION!r}: not a file that fastlrp saved")
    text = _bytes(archive, _DESCRIPTION)
    with _named(archive):
        top = decode(text.tobytes())  # the version first: another one may have other checksums and members
    if archive.read(_CHECKSUM, "|u1", (32,)).tobytes() != _sha256(text):
        raise archive.error("description", f"its SHA-256 is not the one in member {_CHECKSUM!r}")
    with _named(archive):
        description = parse(top)
    expected = {_DESCRIPTION, _CHECKSUM, *(tensor.member for tensor in description.tensors)}
    for name in archive.members:
        if name not in expected:
            raise archive.error(f"member {name!r}", "unknown: the description does not list it")
    for tensor in description.tensors:
        archive.check(tensor.member, tensor.dtype, tensor.shape)
    return description


def _bytes(archive: Archive, name: str) -> Array:
    """A member of bytes, (n,) uint8, n being for the file to say, within the limit for descriptions."""
    count = archive.byte_count(name)
    if not 0 < count <= MOST_BYTES:
        raise archive.error(f"member {name!r}", f"expected 1 to {MOST_BYTES} bytes, got {count}")
    return archive.read(name, "|u1", (count,))


def _read(archive: Archive, tensor: Tensor) -> Array:
    """A stored array as it is; FormatError where the checksum is against it."""
    array = archive.read(tensor.member, tensor.dtype, tensor.shape)
    if _sha256(array).hex() != tensor.sha256:
        raise archive.error(f"member {tensor.member!r}", "its SHA-256 is not the one in the description")
    return array


def _parameter(archive: Archive, tensor: Tensor, dtype: np.dtype, layer: ParameterLayer) -> Array:
    """A layer's parameter in the network's precision; FormatError where a checksum, a value's range or the layer is
    against it."""
    array = _read(archive, tensor)
    try:
        with np.errstate(over="raise"):
            array = array.astype(dtype, copy=False)
        layer.check_parameter(tensor.name.rpartition("/")[2], array)
    except FloatingPointError:
        raise archive.error(f"member {tensor.member!r}", f"a value is beyond the range of {dtype}") from None
    except ValueError as error:
        raise archive.error(f"member {tensor.member!r}", error) from None
    return array
