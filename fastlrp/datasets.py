"""Labelled images to learn from and to explain: bundled MNIST digits, and folders of IDX files.

In: a folder, or nothing. Out: a `Dataset` of three splits, each with images x, float32 (N, H, W, C) in
[0, 1], and integer classes t (N,). Nothing is downloaded, cached or augmented, and no pickle is ever read.
"""

from __future__ import annotations

import gzip
import math
import operator
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

__all__ = ["Dataset", "Split", "digits", "fashion_mnist", "mnist", "read_idx"]

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]

_DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_MNIST_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_MOST_DIMENSIONS = 32  # what every NumPy version can hold
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_BEST_RATIO = 1032  # no deflate stream expands further
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Split:
    """Images x, an (N, ...) array, and their classes t, an (N,) array of integers.

    The loaders of this module fill x with float32 in [0, 1], shape (N, H, W, C). TypeError unless x is a
    numeric array and t an array of integers, ValueError where their lengths differ.
    """

    x: NDArray[np.float32]
    t: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, array, kinds in (("x", self.x, "fiu"), ("t", self.t, "iu")):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
                expected = "an array of integers" if kinds == "iu" else "a numeric array"
                raise TypeError(f"{name}: expected {expected}, got {_kind(array)}")
        if self.t.ndim != 1 or self.x.ndim < 1 or len(self.x) != len(self.t):
            raise ValueError(
                f"t: expected (N,), one class for each sample of x (N, ...), "
                f"got {self.t.shape} for x {self.x.shape}"
            )

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        return f"Split({len(self):,} of {self.x.shape[1:]})"

    def batches(
        self, batch_size: int, rng: np.random.Generator | int | None = None, shuffle: bool = True
    ) -> Iterator[Batch]:
        """One pass over the split: every sample once, in batches (x, t); the last batch may be smaller.

        `rng` is a seed or a NumPy generator, which gives another order on each pass. Shuffled batches are
        copies, unshuffled ones views. TypeError or ValueError unless batch_size is an integer >= 1.
        """
        step = _integer("batch_size", batch_size, 1)
        order = np.random.default_rng(rng).permutation(len(self)) if shuffle else None
        return self._cut(step, order)

    def _cut(self, step: int, order: NDArray[np.int64] | None) -> Iterator[Batch]:
        for start in range(0, len(self), step):
            part = slice(start, start + step) if order is None else order[start : start + step]
            yield self.x[part], self.t[part]

    def one_hot(self, classes: int) -> NDArray[np.float32]:
        """Targets (N, classes), float32: 1 at each sample's class, 0 elsewhere.

        TypeError or ValueError unless `classes` is an integer larger than every class in t.
        """
        count = _integer("classes", classes, 1)
        if not _all_below(self.t, count):
            low, high = self.t.min(), self.t.max()
            raise ValueError(
                f"classes: expected a count above every class in t, {low} to {high}, got {count}"
            )
        targets = np.zeros((len(self), count), np.float32)
        targets[np.arange(len(self)), self.t] = 1
        return targets


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits with samples of one shape, and the names of the classes: t = 0 is classes[0].

    TypeError unless the splits are `Split`s, ValueError where their sample shapes differ or a class in t
    has no name.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            if not isinstance(split, Split):
                raise TypeError(f"{name}: expected a Split, got {_kind(split)}")
            expected, got = self.train.x.shape[1:], split.x.shape[1:]
            if got != expected:
                raise ValueError(f"{name}: expected samples of shape {expected} as in train, got {got}")
            if not _all_below(split.t, len(self.classes)):
                raise ValueError(
                    f"{name}: expected classes 0 to {len(self.classes) - 1}, one for each name, "
                    f"got {split.t.min()} to {split.t.max()}"
                )

    def __repr__(self) -> str:
        counts = f"train {len(self.train):,}, validation {len(self.validation):,}, test {len(self.test):,}"
        return f"Dataset({counts} of {self.train.x.shape[1:]}, {len(self.classes)} classes)"


def digits() -> Dataset:
    """The 5,000 bundled MNIST digits, (N, 28, 28, 1): 3,500 to train, 500 to validate, 1,000 to test.

    The splits are always the same, and each holds as many samples of one class as of another. Origin and
    licence of the data: fastlrp/data/README.md.
    """
    file = resources.files("fastlrp") / "data" / "digits.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        whole = _as_split(arrays["images"], arrays["labels"])
    return Dataset(_part(whole, 0, 3500), _part(whole, 3500, 4000), _part(whole, 4000, 5000), _DIGITS)


def mnist(folder: str | os.PathLike[str], validation: int = 5000) -> Dataset:
    """MNIST from a folder of the original four files, or any data in the same form with classes 0 to 9.

    The files are {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, each plain or .gz. The
    last `validation` training images become the validation split; t10k is the test split.

    FileNotFoundError lists the files missing, FormatError names a malformed file and the place in it,
    ValueError if `validation` is not from 0 to the number of training images.
    """
    return _load_folder(Path(folder), validation, _DIGITS)


def fashion_mnist(folder: str | os.PathLike[str] = _DEBIAN_FOLDER, validation: int = 5000) -> Dataset:
    """Zalando's Fashion-MNIST, with the names of the garments; otherwise as `mnist`.

    Debian's package dataset-fashion-mnist puts it into the default folder.
    """
    return _load_folder(Path(folder), validation, _GARMENTS)


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in an IDX file, plain or gzipped (told by its content), in native byte order and writable.

    An IDX file (LeCun, http://yann.lecun.com/exdb/mnist/) holds two zero bytes, a type code, the number of
    dimensions, each dimension as a big-endian 32-bit number, then the big-endian data, last dimension
    fastest. FormatError if the file is anything else, or longer or shorter than it declares; a file that
    declares more than it can hold is refused before memory is taken.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            return _parse_idx(raw, path, size, size)
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                return _parse_idx(stream, path, 0, size * _DEFLATE_BEST_RATIO)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise FormatError(f"{path}: damaged gzip stream, before byte {raw.tell()}: {error}") from error


def _parse_idx(stream: BinaryIO | gzip.GzipFile, path: Path, least: int, most: int) -> NDArray[Any]:
    """The array in the stream, which holds at least `least` and at most `most` bytes in all."""
    magic = _read_exactly(stream, path, 0, 4)
    code, ndim = magic[2], magic[3]
    if magic[:2] != b"\0\0" or code not in _IDX_TYPES:
        codes = " ".join(f"{known:02x}" for known in _IDX_TYPES)
        raise FormatError(
            f"{path}: byte 0: expected 00 00, a type code ({codes}) and the number of dimensions, "
            f"got {magic.hex(' ')}"
        )
    if not 1 <= ndim <= _IDX_MOST_DIMENSIONS:
        raise FormatError(f"{path}: byte 3: expected 1 to {_IDX_MOST_DIMENSIONS} dimensions, got {ndim}")
    start = 4 + 4 * ndim
    shape = tuple(np.frombuffer(_read_exactly(stream, path, 4, 4 * ndim), ">u4").tolist())
    dtype = np.dtype(_IDX_TYPES[code])
    declared = math.prod(shape) * dtype.itemsize
    # NumPy leaves zeros out when it multiplies dimensions, so that even an empty array can be too big.
    overflows = math.prod(max(1, length) for length in shape) * dtype.itemsize > sys.maxsize
    if overflows or not least <= start + declared <= most:
        raise FormatError(
            f"{path}: byte 4: dimensions {shape} of {dtype.name} declare {declared} bytes of data, "
            f"the file holds {'at most ' if least < most else ''}{most - start}"
        )
    data = _read_exactly(stream, path, start, declared)
    if stream.read(1):
        raise FormatError(f"{path}: byte {start + declared}: expected the end of the data, got more")
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_exactly(stream: BinaryIO | gzip.GzipFile, path: Path, position: int, count: int) -> bytearray:
    """The next bytes, read in chunks so that memory follows what the file holds, not what it declares."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(_CHUNK, count - len(data)))
        if not chunk:
            end = position + len(data)
            raise FormatError(f"{path}: byte {end}: the data end {count - len(data)} bytes early")
        data += chunk
    return data


def _load_folder(folder: Path, validation: int, classes: tuple[str, ...]) -> Dataset:
    held_out = _integer("validation", validation, 0)
    train_images, train_labels, test_images, test_labels = _find_files(folder)
    train = _read_split(train_images, train_labels, len(classes))
    test = _read_split(test_images, test_labels, len(classes))
    expected, got = train.x.shape[1:3], test.x.shape[1:3]
    if got != expected:
        raise FormatError(f"{test_images}: byte 8: expected {expected} pixels, as to train on, got {got}")
    kept = len(train) - held_out
    if kept < 0:
        raise ValueError(f"validation: expected at most the {len(train)} training images, got {held_out}")
    return Dataset(_part(train, 0, kept), _part(train, kept, len(train)), test, classes)


def _find_files(folder: Path) -> list[Path]:
    """The four files of an MNIST-style folder; where one is there plain and zipped, the plain one."""
    candidates = [(folder / name, folder / f"{name}.gz") for name in _MNIST_FILES]
    found = [next((path for path in pair if path.is_file()), None) for pair in candidates]
    missing = [name for name, path in zip(_MNIST_FILES, found, strict=True) if path is None]
    if missing:
        raise FileNotFoundError(
            f"expected {', '.join(missing)} (plain or .gz) in {folder}; Debian's package "
            f"dataset-fashion-mnist installs such files, those of Fashion-MNIST, in {_DEBIAN_FOLDER}"
        )
    return [path for path in found if path is not None]


def _read_split(images_path: Path, labels_path: Path, classes: int) -> Split:
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, ndim in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.dtype != np.uint8 or array.ndim != ndim:
            raise FormatError(
                f"{path}: byte 2: expected uint8 of {ndim} dimensions, got {array.dtype} of {array.ndim}"
            )
    if len(images) != len(labels):
        raise FormatError(
            f"{labels_path}: byte 4: expected {len(images)} labels, one for each image, got {len(labels)}"
        )
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        first = wrong[0]
        raise FormatError(
            f"{labels_path}: byte {8 + first}: expected a label below {classes}, got {labels[first]}"
        )
    return _as_split(images, labels)


def _as_split(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    # Dividing converts too, so that no second float array is made: 60,000 images of 28 x 28 are 188 MB.
    return Split(np.divide(images, 255, dtype=np.float32)[..., np.newaxis], labels.astype(np.int64))


def _part(split: Split, start: int, stop: int) -> Split:
    return Split(split.x[start:stop], split.t[start:stop])


def _all_below(t: NDArray[np.int64], count: int) -> bool:
    return len(t) == 0 or bool(t.min() >= 0 and t.max() < count)


def _integer(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer >= {least}, got {_kind(value)}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {number}")
    return number


def _kind(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
