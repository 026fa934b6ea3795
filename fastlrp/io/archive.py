"""The container of fastlrp's files: a zip archive of plain .npy arrays, as numpy.load reads it.

In and out: arrays by member name. Members are stored uncompressed, one after the other without gaps, so that all
declared bytes together are the file's own and no member can unfold into more than it occupies. The reader takes this
layout and no other: FormatError names the file and the member or byte. It never parses an array's header: the caller
knows type and shape, so the header can only be one string of bytes, which excludes pickles and object arrays. What a
zip notes beside layout, names, sizes and checksums is not looked at: time stamps, versions, attributes and comments of
members, numbers of disks, extra fields but those for 64 bits.

Not here: what the arrays mean (description.py), compression, appending, pickles.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..errors import FormatError
from ..reference import Array

MOST_MEMBERS = 20_000  # what a description of the greatest length can name

_ENTRY = struct.Struct("<4s6H3L5H2L")  # of the directory
_LOCAL = struct.Struct("<4s5H3L2H")  # before a member's data
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")  # between the two: where _END64 is
_WIDE = 0xFFFFFFFF  # the real value stands in a 64-bit field
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same network gives the same bytes whenever it is saved


@dataclass(frozen=True)
class Member:
    """Where one array lies and what the zip's directory says about it; sizes include the .npy header."""

    name: str
    start: int  # first byte
    size: int
    stored: int  # bytes in the archive, other than `size` where compressed
    crc: int
    flags: int
    method: int


def as_path(path: Any) -> str:
    """A path as text; TypeError for anything else, as a number, which open() would take for a file of the caller's."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be a str, bytes or os.PathLike, got {path!r:.100}")
    return os.fsdecode(path)


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The .npy header (version 1.0) of a C-ordered array, padded to 64 bytes.

    Written here because NumPy's padding differs between its versions, and files are compared byte by byte.
    """
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def raw_bytes(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data  # a memoryview cannot cast foreign byte orders itself


def write_archive(path: str | os.PathLike[str], members: Mapping[str, Array]) -> None:
    """Write C-contiguous arrays under their member names; the file appears whole or not at all (OSError)."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in members.items():
            header = npy_header(array.dtype.str, array.shape)
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.create_system = 3  # one value on every system
            info.file_size = len(header) + array.nbytes  # tells zipfile whether 32 bits are enough
            with archive.open(info, "w") as member:
                member.write(header)
                member.write(raw_bytes(array))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end of the block, on disk and in one step.

    Whatever happens, `path` holds the old content or the new. An error in the block removes the temporary sibling;
    only a killed process leaves it (".fastlrp-*.tmp"). Links are followed and an existing file keeps its mode, as with
    open(). ValueError where the path is something other than a file.
    """
    target = os.path.realpath(as_path(path))
    replaces = os.path.exists(target)
    if replaces and not os.path.isfile(target):
        raise ValueError(f"path: expected a file to write or replace, but {target} is something else")
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastlrp-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name last. Some systems cannot; there a power cut may bring back the old file, whole."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Archive:
    """An archive open for reading, a context manager; `members` by name. OSError where the file cannot be read."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = as_path(path)
        self._file = open(self.path, "rb")  # noqa: SIM115  closed by __exit__
        try:
            self.members = self._directory()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()

    def error(self, place: str, message: object) -> FormatError:
        """The exception to raise for a fault at a place in this file."""
        return FormatError(f"{self.path}: {place}: {message}")

    def check(self, name: str, dtype: str, shape: tuple[int, ...]) -> Member:
        """FormatError unless the member is there with as many bytes as such an array has. Nothing is allocated."""
        member = self.members.get(name)
        if member is None:
            raise self.error(f"member {name!r}", "missing")
        if member.flags & 1:
            raise self.error(f"member {name!r}", "encrypted; expected plain bytes")
        if member.flags or member.method or member.stored != member.size:
            raise self.error(f"member {name!r}", "compressed or streamed; expected stored bytes "
                             f"(method {member.method}, flags {member.flags:#x})")
        expected = len(npy_header(dtype, shape)) + prod(shape) * np.dtype(dtype).itemsize
        if member.size != expected:
            raise self.error(f"member {name!r}", f"expected {expected} bytes for an array of type {dtype} and shape "
                             f"{shape}, got {member.size}")
        return member

    def read(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The array of a member, whose type and shape are known; FormatError where it is anything else."""
        member, header = self.check(name, dtype, shape), npy_header(dtype, shape)
        self._file.seek(member.start)
        found = self._file.read(len(header))
        if found != header:
            raise self.error(f"member {name!r}", f"expected the .npy header of type {dtype} and shape {shape}, "
                             f"got {found[:96]!r}")
        array = np.empty(shape, dtype)
        data = raw_bytes(array)
        if self._file.readinto(data) != data.nbytes:
            raise self.error(f"member {name!r}", "the file ends inside it")
        if zlib.crc32(data, zlib.crc32(header)) != member.crc:
            raise self.error(f"member {name!r}", "wrong CRC: the bytes are damaged")
        return array

    def byte_count(self, name: str) -> int:
        """How many elements the member holds if it is an array of bytes (uint8, one dimension)."""
        size = self.members[name].size
        return max(0, size - len(npy_header("|u1", (size,))))

    def _directory(self) -> dict[str, Member]:
        """All members, in file order; checks that they fill the file from its first byte to the directory."""
        count, start, end = self._directory_place()
        self._file.seek(start)
        data = self._file.read(end - start)
        members: dict[str, Member] = {}
        at = position = 0
        for _ in range(count):
            member, at = self._entry(data, at, start)
            if member.name in members:
                raise self.error(f"byte {start + at}", f"second entry for member {member.name!r}")
            if member.start != position or position + member.stored > start:
                raise self.error(f"member {member.name!r}", f"declared at byte {member.start} with {member.stored} "
                                 f"bytes; expected at byte {position}, ending before byte {start}")
            members[member.name] = member = replace(member, start=self._data_start(member))
            position = member.start + member.stored
        if position != start or at != len(data):
            raise self.error(f"byte {position}", "expected the directory right after the last member, and no more")
        return members

    def _directory_place(self) -> tuple[int, int, int]:
        """Number of members, first byte of the directory and the byte after it, from the records at the end."""
        size = self._file.seek(0, os.SEEK_END)
        records = _END64.size + _LOCATOR.size + _END.size
        self._file.seek(max(0, size - records))
        tail, end = self._file.read(records).rjust(records, b"\0"), size - _END.size
        *_, count, length, start, comment = _END.unpack_from(tail, records - _END.size)
        if tail[-_END.size:][:4] != b"PK\5\6":
            raise self.error(f"byte {max(0, end)}", "no end record of a zip archive: cut off, or not a fastlrp file")
        if tail[_END64.size:][:4] == b"PK\6\7":
            end -= _END64.size + _LOCATOR.size
            magic, *_, count, length, start = _END64.unpack_from(tail)
            if magic != b"PK\6\6":
                raise self.error(f"byte {max(0, end)}", "expected the 64-bit end record of a zip archive")
        if comment or start + length != end:
            raise self.error(f"byte {max(0, end)}", f"the end record declares a directory of {length} bytes at byte "
                             f"{start} and a comment of {comment} bytes; expected it to end here, and no comment")
        if count > MOST_MEMBERS:
            raise self.error(f"byte {end}", f"expected at most {MOST_MEMBERS} members, got {count}")
        return count, start, end

    def _entry(self, data: bytes, at: int, base: int) -> tuple[Member, int]:
        """The directory's entry at data[at], its start being that of the local header, and where the next one is."""
        fixed = data[at:at + _ENTRY.size]
        if len(fixed) < _ENTRY.size or fixed[:4] != b"PK\1\2":
            raise self.error(f"byte {base + at}", "expected an entry of a zip directory")
        _, _, _, flags, method, _, _, crc, stored, size, *lengths, _, _, _, start = _ENTRY.unpack(fixed)
        ends = [at + _ENTRY.size + sum(lengths[:i]) for i in range(4)]
        name, extra = data[ends[0]:ends[1]], data[ends[1]:ends[2]]
        size, stored, start = _widened(extra, [size, stored, start])
        if not name.isascii():
            raise self.error(f"byte {base + ends[0]}", f"expected a member name in ASCII, got {name[:80]!r}")
        return Member(name.decode(), start, size, stored, crc, flags, method), ends[3]

    def _data_start(self, member: Member) -> int:
        """The first byte after the member's local header, which must agree with the directory."""
        self._file.seek(member.start)
        fixed = self._file.read(_LOCAL.size).ljust(_LOCAL.size, b"\0")
        magic, _, flags, method, _, _, crc, stored, size, *lengths = _LOCAL.unpack(fixed)
        name, extra = (self._file.read(length) for length in lengths)
        sizes = _widened(extra, [size, stored])
        if (magic, name, flags, method, crc, sizes) != (b"PK\3\4", member.name.encode(), member.flags, member.method,
                                                        member.crc, [member.size, member.stored]):
            raise self.error(f"byte {member.start}", f"the header of member {member.name!r} differs from the directory")
        return member.start + _LOCAL.size + sum(lengths)


def _widened(extra: bytes, values: list[int]) -> list[int]:
    """The values with those that need 64 bits taken from the zip64 extra field, where they stand in order."""
    wide: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4:at + 4 + length]
            wide.extend(struct.unpack_from(f"<{len(field) // 8}Q", field))
        at += 4 + length
    return [wide.pop(0) if value == _WIDE and wide else value for value in values]
