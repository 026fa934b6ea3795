"""ONNX files: reading the bytes, and tensors out of them, in bounded memory.

In: a path or bytes. Out: the parsed protobuf message, arrays of its tensors. The file is trusted in nothing: what it
would take in memory is estimated before it is parsed, sizes are checked against the bytes that are there before an
array is made, and external data lies inside the model's folder or is refused. FormatError names the file and the place.
Nothing here knows an operator.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from ..errors import FormatError
from ..reference import Array
from .values import shown

MOST_BYTES = (1 << 31) - 1  # of a protobuf message
MOST_DEPTH = 60  # messages in messages: models have about six
BASE = 48 << 20  # bytes that a model may take beyond what is proportional to its file

# What a field, a message and a number among others take in memory once they are parsed, at most.
FIELD_BYTES, MESSAGE_BYTES, NUMBER_BYTES = 32, 256, 16

# Tensor types of ONNX: NumPy's type, and the field of the message that holds the values where raw_data does not.
TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_data"), 2: ("|u1", "int32_data"), 3: ("|i1", "int32_data"), 4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"), 6: ("<i4", "int32_data"), 7: ("<i8", "int64_data"), 9: ("|b1", "int32_data"),
    10: ("<f2", "int32_data"), 11: ("<f8", "double_data"), 12: ("<u4", "uint64_data"), 13: ("<u8", "uint64_data"),
}
FLOATS = (1, 10, 11)


class TooMuch(ValueError):
    """A file of this size has no business with so much memory."""


class File:
    """One model file: how messages call it, its folder, and how much memory may still be taken for it."""

    def __init__(self, source: Any):
        """source: a path, or the bytes of a file (which have no folder)."""
        self.folder: str | None = None
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.name, self._data = "<bytes>", bytes(source)
        elif isinstance(source, (str, os.PathLike)):
            self.name = os.fsdecode(source)
            self.folder = os.path.dirname(self.name) or "."
            self._data = self._read()
        else:
            raise TypeError(f"path must be a path or bytes, got {source!r:.100}")
        self._external: set[str] = set()
        self._left = BASE + 3 * len(self._data)

    def error(self, place: str, message: object) -> FormatError:
        """The exception to raise for a fault at a place in this file."""
        return FormatError(f"{self.name}: {place}: {message}")

    def charge(self, count: int) -> None:
        """Take bytes from what this file may have; TooMuch where it asks for more than its size explains."""
        self._left -= count
        if self._left < 0:
            raise TooMuch("it asks for more memory than its size explains")

    def _read(self) -> bytes:
        with open(self.name, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise self.error("file", "not a regular file")
            if status.st_size > MOST_BYTES:
                raise self.error("file", f"expected at most {MOST_BYTES} bytes (more belongs into external data), got "
                                 f"{status.st_size}")
            return file.read(MOST_BYTES)

    def parse(self, onnx: Any) -> Any:
        """The onnx.ModelProto in the file, whose bytes are let go."""
        data, self._data = self._data, b""
        if not data:
            raise self.error("byte 0", "the file is empty")
        try:
            self.charge(_cost(data, onnx.ModelProto.DESCRIPTOR, self._left))
            model = onnx.ModelProto()
            model.ParseFromString(data)
        except _Fault as fault:
            raise self.error(f"byte {fault.at}", f"not an ONNX model: {fault}") from None
        except TooMuch as fault:
            raise self.error("file", fault) from None
        except Exception as error:  # protobuf's DecodeError, whose module differs between its versions
            raise self.error("file", f"not an ONNX model: {error}") from None
        return model

    # ---- tensors ----

    def tensor(self, tensor: Any, place: str) -> Array:
        """The array of an onnx.TensorProto."""
        try:
            return self._tensor(tensor, place)
        except TooMuch as fault:
            raise self.error(place, fault) from None

    def _tensor(self, tensor: Any, place: str) -> Array:
        try:
            dtype, field = TYPES[tensor.data_type]
        except KeyError:
            raise self.error(place, f"a tensor of type {tensor.data_type} (of TensorProto.DataType), which fastlrp "
                             "does not read") from None
        shape = tuple(tensor.dims)
        if len(shape) > 32 or min(shape, default=0) < 0:
            raise self.error(place, f"expected at most 32 sizes of at least 0, got {str(shape)[:100]}")
        if tensor.HasField("segment"):
            raise self.error(place, "a tensor in segments, which fastlrp does not read")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if tensor.data_location:
            data = self._outside(tensor.external_data, size, place)
        elif tensor.HasField("raw_data"):
            data = tensor.raw_data
            self._check_size(place, shape, size, len(data))
            self.charge(size)
        else:
            return self._listed(getattr(tensor, field), dtype, shape, place)
        array = np.frombuffer(data, dtype)
        if dtype == "|b1" and array.view(np.uint8).max(initial=0) > 1:
            raise self.error(place, "a truth value that is neither 0 nor 1")
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(shape)

    def _check_size(self, place: str, shape: tuple[int, ...], size: int, found: int) -> None:
        if size != found:
            raise self.error(place, f"expected {size} bytes for the shape {shape}, got {found}")

    def _listed(self, values: Any, dtype: str, shape: tuple[int, ...], place: str) -> Array:
        """An array whose values stand one by one; float16 as their bits."""
        if len(values) != math.prod(shape):
            raise self.error(place, f"expected {math.prod(shape)} values for the shape {shape}, got {len(values)}")
        self.charge(8 * len(values))
        try:
            if dtype == "<f2":
                return np.fromiter(values, np.uint16, len(values)).view(np.float16).reshape(shape)
            return np.fromiter(values, np.dtype(dtype).newbyteorder("="), len(values)).reshape(shape)
        except OverflowError:
            raise self.error(place, f"a value does not fit the type {np.dtype(dtype)}") from None

    def _outside(self, entries: Any, size: int, place: str) -> bytes:
        """The bytes of a tensor in another file of the model's folder."""
        found = {entry.key: entry.value for entry in entries}
        location = found.get("location")
        if self.folder is None:
            raise self.error(place, f"its data is in the file {shown(location)}, but bytes have no folder: give the "
                             "model's path")
        offset, length = (self._whole(found.get(key, default), f"{place}: {key}")
                          for key, default in (("offset", "0"), ("length", str(size))))
        self._check_size(place, (), size, length)
        with self._inside(location, place) as file:
            there = os.fstat(file.fileno()).st_size
            if offset + size > there:
                raise self.error(place, f"bytes {offset} to {offset + size} of {shown(location)}, which has {there}")
            if location not in self._external:
                self._external.add(str(location))
                self._left += 3 * there
            self.charge(size)
            file.seek(offset)
            return file.read(size)

    def _whole(self, text: Any, place: str) -> int:
        if not isinstance(text, str) or not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise self.error(place, f"expected a whole number, got {shown(text)}")
        return int(text)

    @contextmanager
    def _inside(self, location: Any, place: str) -> Iterator[BinaryIO]:
        """A regular file in the model's folder, open; FormatError for any way out of it.

        Links are refused at every step, hard ones to files as well: they may lead to what is not the model's.
        """
        parts = re.split(r"[/\\]", location) if isinstance(location, str) else []
        if not location or "\0" in location or os.path.isabs(location) or ":" in parts[0] or not parts[0] \
                or ".." in parts:
            raise self.error(place, f"its data is in {shown(location)}: expected the relative path of a file inside "
                             "the model's folder")
        path = str(self.folder)
        for part in parts:
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise self.error(place, f"its data is in {shown(location)}, which is or goes through a link: copy the "
                                 "file into the model's folder")
        try:
            file = open(path, "rb", opener=_open_no_link)  # noqa: SIM115  closed below
        except OSError as error:
            raise self.error(place, f"its data is in {shown(location)}, which cannot be read: "
                             f"{error.strerror}") from None
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise self.error(place, f"its data is in {shown(location)}, which is not a file of one name: copy it "
                                 "into the model's folder")
            yield file


def _open(path: str, flags: int) -> int:
    """Open without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open_no_link(path: str, flags: int) -> int:
    """The same where path is no link."""
    return _open(path, flags | getattr(os, "O_NOFOLLOW", 0))


class _Fault(Exception):
    """What is wrong with the bytes of a message, and where."""

    def __init__(self, at: int, message: str):
        super().__init__(message)
        self.at = at


def _cost(data: bytes, descriptor: Any, most: int) -> int:
    """About how many bytes a protobuf message takes in memory once it is parsed, without what it shares with the file;
    some number above `most` where it is more than that.

    Walks the fields that hold messages. _Fault where a field is cut off.
    """
    kinds: dict[str, dict[int, Any]] = {}
    cost, stack = 0, [(0, len(data), descriptor, 0)]
    while stack:
        at, end, kind, depth = stack.pop()
        if depth > MOST_DEPTH:
            raise _Fault(at, f"messages nested more than {MOST_DEPTH} deep")
        fields = kinds.setdefault(kind.full_name, {}) or _fields(kind, kinds)
        while at < end and cost <= most:
            tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at, end)
            size, at = _varint(data, at, end) if tag & 7 in (0, 2) else ({1: 8, 5: 4}.get(tag & 7, -1), at)
            if size < 0 or tag < 8:
                raise _Fault(at, "no field of a protobuf message")
            cost += FIELD_BYTES
            if not tag & 7:
                continue
            if size > end - at:
                raise _Fault(at, f"a field of {size} bytes where {end - at} are left")
            field = fields.get(tag >> 3) if tag & 7 == 2 else None
            if field == "numbers":
                cost += NUMBER_BYTES * size
            elif field is not None:
                cost += MESSAGE_BYTES
                stack.append((at, at + size, field, depth + 1))
            at += size
    return cost


def _fields(kind: Any, kinds: dict[str, dict[int, Any]]) -> dict[int, Any]:
    """For fields that may take more in memory than in the file: the message's descriptor, or "numbers", where they are
    packed as varints."""
    own = kinds[kind.full_name]
    for number, field in kind.fields_by_number.items():
        if field.message_type is not None:
            own[number] = field.message_type
        elif field.type not in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_DOUBLE):
            own[number] = "numbers"
    return own


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number at data[at], and where the next thing is."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        if byte < 128:
            return value | byte << shift, at
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise _Fault(at, "a number without an end")
    raise _Fault(at, "the message ends inside a number")
