"""The LRP toolbox's plain-text models: `fastlrp.from_lrp_toolbox`.

A file has one layer after the other, each a line with its name and sizes:

    Convolution h w depth filters stride_h stride_w
    Linear in out
    SumPool h w stride_h stride_w               Σ x / √(h w) over each window
    MaxPool h w stride_h stride_w
    Rect    Tanh    Flatten    SoftMax          one on each line

The first two are followed by a line of weights, row-major over (h, w, depth, filters) or (in, out), and a line of
biases; in files of the toolbox's first versions a Linear's weights take a line for each input. Nothing is padded. The
model ends at the first empty line, and every line with a newline: a file that was cut short may look whole otherwise.
Source: the toolbox's manual; Lapuschkin et al. 2016, The LRP Toolbox for Artificial Neural Networks.

In: a path. Out: a network. The file is trusted in nothing: it is read twice, first for the layers and the places of
their numbers, and only where all sizes fit, each other and the bytes that are there, for the numbers. Reading takes
less than four times the file plus 64 MB.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import FormatError, UnsupportedError
from ..layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, SumPool2d, Tanh
from ..layers.value import as_shape
from ..network import Network
from ..reference import Array
from .archive import as_path

Shape = tuple[int, ...]

WINDOW = "h w stride_h stride_w"
# name: (sizes, what makes the layer of them)
KINDS: dict[str, tuple[str, Callable[..., Layer]]] = {
    "Convolution": ("h w depth filters stride_h stride_w", lambda h, w, _, out, *stride: Conv2d(out, (h, w), stride)),
    "Linear": ("in out", lambda _, out: Linear(out)),
    "SumPool": (WINDOW, lambda h, w, *stride: SumPool2d((h, w), stride, scale="sqrt")),
    "MaxPool": (WINDOW, lambda h, w, *stride: MaxPool2d((h, w), stride)),
    "Rect": ("", ReLU), "Tanh": ("", Tanh), "Flatten": ("", Flatten)}
WEIGHTED = {"Convolution": 4, "Linear": 2}  # how many of the sizes are the shape of the weights

MOST_LAYERS = 10_000  # a layer takes more memory than the five bytes that ask for it
MOST_HEADER = 200  # bytes of a line with a layer's name
MOST_DIGITS = 18
MOST_TOKEN = 100  # bytes of a number
MOST_NAMED = 20  # unsupported layers in a message
CHUNK = 1 << 18  # bytes of text at a time: as numbers they take 50 times as much


def from_lrp_toolbox(path: str | os.PathLike[str], input_shape: Sequence[int]) -> Network:
    """The network of a plain-text model of the LRP toolbox, for samples of a shape: (h, w, channels), or (features,).

    A SoftMax at the end is dropped with a warning: outputs are logits. Relevance as in the toolbox itself takes
    `compat="lrp_toolbox"` when explaining.

    FormatError names the file and the line: sizes that do not fit input_shape or each other, too few or too many
    numbers, numbers that are not finite in float32, lines that are cut off. UnsupportedError, a FormatError, lists all
    layers that the format does not have, and a SoftMax elsewhere. OSError where the file cannot be read.
    """
    name, shape = as_path(path), as_shape(input_shape, "input_shape")
    with open(name, "rb") as file:
        reader = _Reader(name, file)
        entries = reader.scan()
        softmax = entries[-1].name == "SoftMax"
        entries = entries[:len(entries) - softmax]
        if not entries:
            raise reader.error("line 1", "expected layers before the SoftMax")
        net = Network(_build(reader, entries, shape), shape, init=None)
        for layer, entry in zip(net.weighted, (e for e in entries if e.name in WEIGHTED), strict=True):
            layer.weight = reader.numbers(entry, "weights").reshape(layer.weight_shape)
            layer.bias = reader.numbers(entry, "biases")
    if softmax:
        warnings.warn(f"{reader.path}: the SoftMax at the end is dropped: outputs are logits", stacklevel=2)
    return net


@dataclass
class _Entry:
    """A layer as the file has it, and where its numbers are: the biases are on the last of their lines."""

    line: int
    name: str
    sizes: Shape
    lines: int = 0  # of numbers
    start: int = 0  # first byte of the weights
    middle: int = 0  # of the biases
    stop: int = 0

    def __str__(self) -> str:
        return " ".join(map(str, (self.name, *self.sizes)))

    @property
    def weight_shape(self) -> Shape:
        """(..., in, out)."""
        return self.sizes[:WEIGHTED[self.name]]

    def count(self, what: str) -> int:
        """How many weights or biases the layer has."""
        return math.prod(self.weight_shape) if what == "weights" else self.weight_shape[-1]


def _build(reader: _Reader, entries: list[_Entry], input_shape: Shape) -> list[Layer]:
    """The layers, whose sizes fit each other and the numbers in the file."""
    layers, shape = [], input_shape
    for entry in entries:
        place = f"line {entry.line} ({entry})"
        reader.check_numbers(entry)
        layer = KINDS[entry.name][1](*entry.sizes)
        try:
            found = layer.infer(shape)
            if entry.name in WEIGHTED and entry.weight_shape[-2] != shape[-1]:
                raise ValueError(f"its weights are for {entry.weight_shape[-2]} inputs or channels, not {shape[-1]}")
        except ValueError as error:
            raise reader.error(place, f"does not fit samples of shape {shape}, which input_shape {input_shape} has "
                               f"become here: {error}") from None
        layers.append(layer)
        shape = found
    return layers


class _Reader:
    """One open file: `scan` finds the layers, `numbers` reads what belongs to them."""

    def __init__(self, path: str, file: BinaryIO):
        self.path, self._file = path, file

    def error(self, place: str, message: object) -> FormatError:
        """The exception to raise for a fault at a place in this file."""
        return FormatError(f"{self.path}: {place}: {message}")

    def scan(self) -> list[_Entry]:
        """The layers in order, at least one: names and counts of sizes are right. A SoftMax can be the last alone."""
        entries: list[_Entry] = []
        for number, start, stop, head in self._lines():
            if not _is_numbers(head):
                entries.append(self._entry(number, head))
                if len(entries) > MOST_LAYERS:
                    raise self.error(f"line {number}", f"expected at most {MOST_LAYERS} layers")
                continue
            if not entries:
                raise self.error(f"line {number}", f"expected the name of a layer, got {_short(head)}")
            entry = entries[-1]
            if entry.name in KINDS and entry.name not in WEIGHTED:
                raise self.error(f"line {number}", f"expected the name of a layer, as {entry.name} has no numbers, got "
                                 f"{_short(head)}")
            entry.lines += 1
            entry.start, entry.middle, entry.stop = entry.start if entry.lines > 1 else start, start, stop
        if not entries:
            raise self.error("line 1", "expected the name of a layer, but the file has none")
        self._check_supported(entries)
        return entries

    def _check_supported(self, entries: list[_Entry]) -> None:
        """UnsupportedError that lists all layers which the format does not have, and a SoftMax before the end."""
        found = [f"{entry.name} (line {entry.line})" for i, entry in enumerate(entries)
                 if entry.name not in KINDS and (entry.name != "SoftMax" or i < len(entries) - 1)]
        if found:
            more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
            raise UnsupportedError(f"{self.path}: unsupported layers: {', '.join([*found[:MOST_NAMED], *more])}; "
                                   f"supported: {', '.join(KINDS)}, and SoftMax at the end")

    def _lines(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Number, first byte, the byte after it and beginning of every line up to the first empty one."""
        number = start = 0
        while head := self._file.readline(MOST_HEADER):
            number += 1
            if not head.strip():
                self._check_rest(number)
                return
            piece, stop = head, start + len(head)
            while not piece.endswith(b"\n"):
                piece = self._file.readline(CHUNK)
                stop += len(piece)
                if not piece:
                    raise self.error(f"line {number}", "ends without a newline: the file has been cut short")
            yield number, start, stop, head
            start = stop

    def _check_rest(self, number: int) -> None:
        """Nothing but blanks may follow an empty line."""
        while piece := self._file.read(CHUNK):
            if piece.strip():
                raise self.error(f"line {number}", "empty, where a model ends, but more text follows")

    def _entry(self, number: int, head: bytes) -> _Entry:
        """A line with a layer's name."""
        place = f"line {number}"
        if not head.endswith(b"\n"):
            raise self.error(place, f"expected a layer's name and sizes, got a line of more than {MOST_HEADER} bytes: "
                             f"{_short(head)}")
        name, *words = head.decode("latin-1").split()
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            raise self.error(place, f"expected the name of a layer, got {_short(head)}")
        if name not in KINDS and name != "SoftMax":
            return _Entry(number, name, ())
        sizes = KINDS[name][0].split() if name in KINDS else []
        if len(words) != len(sizes):
            expected = f"the sizes {' '.join(sizes)}" if sizes else "nothing"
            raise self.error(place, f"expected {expected} after {name}, got {_short(head)}")
        for size, word in zip(sizes, words, strict=True):
            if not re.fullmatch(f"0*[1-9][0-9]{{0,{MOST_DIGITS - 1}}}", word):
                raise self.error(place, f"{size} of {name} must be a whole number of at least 1 and at most "
                                 f"{MOST_DIGITS} digits, got {word[:MOST_DIGITS + 8]!r}")
        return _Entry(number, name, tuple(map(int, words)))

    def check_numbers(self, entry: _Entry) -> None:
        """FormatError unless a layer has its lines of numbers, with room for them all. Nothing is allocated."""
        if entry.name not in WEIGHTED:
            return
        rows = entry.name == "Linear" and entry.lines == entry.sizes[0] + 1  # as old files have them
        if entry.lines != 2 and not rows:
            raise self.error(f"line {entry.line} ({entry})", "expected a line of weights and a line of biases after it,"
                             f" but lines of numbers: {entry.lines}")
        for what, size in (("weights", entry.middle - entry.start), ("biases", entry.stop - entry.middle)):
            if entry.count(what) > size // 2:  # a digit and a blank each
                raise self.error(self._place(entry, what), f"expected {entry.count(what)} {what} for {entry}, but the "
                                 f"text has {size} bytes: room for {size // 2} at most")

    def _place(self, entry: _Entry, what: str) -> str:
        last = entry.line + entry.lines
        lines = (entry.line + 1, last - 1) if what == "weights" else (last, last)
        return f"line {lines[0]}" if lines[0] == lines[1] else f"lines {lines[0]} to {lines[1]}"

    def numbers(self, entry: _Entry, what: str) -> Array:
        """All weights or biases of a layer, (count,) float32."""
        place, count = self._place(entry, what), entry.count(what)
        values, found = np.empty(count, np.float32), 0
        for words in self._words(place, *((entry.start, entry.middle) if what == "weights" else
                                          (entry.middle, entry.stop))):
            if found + len(words) <= count:
                values[found:found + len(words)] = self._parse(place, found, words)
            found += len(words)
        if found != count:
            raise self.error(place, f"expected {count} {what} for {entry} on line {entry.line}, got {found}")
        return values

    def _words(self, place: str, start: int, stop: int) -> Iterator[list[bytes]]:
        """What stands between blanks in these bytes, some at a time."""
        self._file.seek(start)
        rest = b""
        for at in range(start, stop, CHUNK):
            text = rest + self._file.read(min(CHUNK, stop - at))
            words, rest = text.split(), b""
            if words and at + CHUNK < stop and not text[-1:].isspace():
                rest = words.pop()
            if len(rest) > MOST_TOKEN:
                raise self.error(place, f"expected numbers, got {_short(rest)}")
            yield words

    def _parse(self, place: str, before: int, words: list[bytes]) -> Array:
        """Numbers in float32, after `before` others; FormatError for the first that is none, or not finite."""
        with suppress(ValueError), np.errstate(over="ignore"):
            values = np.array([*map(float, words)], np.float64).astype(np.float32)
            if np.isfinite(values).all() and b"_" not in b"".join(words):
                return values
        i = next(i for i, word in enumerate(words) if not _is_number(word))
        raise self.error(place, f"number {before + i + 1}: expected one that float32 can hold, got {_short(words[i])}")


def _is_number(word: bytes) -> bool:
    """Whether a word is a finite number in float32; Python's float takes underscores too."""
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.float32(float(word)))) and b"_" not in word
    except ValueError:
        return False


def _is_numbers(head: bytes) -> bool:
    """Whether a line begins with a number, be it NaN or infinity."""
    word = head.lstrip()
    return word[:1] in b"+-.0123456789" or word.split()[0].lower() in (b"nan", b"inf", b"infinity")


def _short(text: bytes) -> str:
    """Text of a file, cut to what a message can hold."""
    text = text.strip()
    return repr(text[:60])[1:] + ("…" if len(text) > 60 else "")
