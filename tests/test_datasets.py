"""Datasets: the bundled digits, MNIST-style folders, and IDX files, whole and damaged."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastlrp import datasets
from fastlrp.datasets import Dataset, Split
from fastlrp.errors import FormatError

FASHION = Path("/usr/share/datasets/fashion-mnist")
CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(array, code=0x08, dims=None):
    """The bytes of an IDX file, with other dimensions than the array's if asked."""
    dims = array.shape if dims is None else dims
    return struct.pack(f">HBB{len(dims)}I", 0, code, len(dims), *dims) + array.astype(CODES[code]).tobytes()


def write(path, data):
    path.write_bytes(data)
    return path


SAMPLE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
GOOD = idx(SAMPLE)


# ------------------------------------------------------------------------------------------ IDX files


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1, 1, 2, 1, 3), (0, 28, 28)], ids=str)
@pytest.mark.parametrize("code", CODES, ids=hex)
def test_idx_round_trip(tmp_path, code, shape, zipped):
    info = np.finfo if CODES[code][1] == "f" else np.iinfo
    least, largest = info(CODES[code]).min, info(CODES[code]).max
    array = np.resize(np.array([least, 1, largest, 0]).astype(CODES[code]), shape)
    data = idx(array, code)
    got = datasets.read_idx(write(tmp_path / "file", gzip.compress(data) if zipped else data))
    np.testing.assert_array_equal(got, array)
    assert got.dtype == np.dtype(CODES[code]).newbyteorder("=") and got.dtype.isnative and got.flags.writeable


# What is wrong: the bytes, and the place named when they are a plain file and when they are gzipped.
DAMAGE = {
    "empty": (b"", "byte 0", "byte 0"),
    "half a magic": (GOOD[:3], "byte 3", "byte 3"),
    "first byte": (b"\x01" + GOOD[1:], "byte 0", "byte 0"),
    "unknown type code": (GOOD[:2] + b"\x0a" + GOOD[3:], "byte 0.*00 00 0a 03", "byte 0"),
    "no dimensions": (b"\0\0\x08\0", "byte 3.*got 0", "byte 3"),
    "too many dimensions": (b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"\0", "byte 3.*got 255", "byte 3"),
    "half a dimension": (GOOD[:10], "byte 10", "byte 10"),
    "truncated": (GOOD[:-1], "byte 4: .* 24 bytes of data, the file holds 23$", "byte 39.* 1 bytes early"),
    "too long": (GOOD + b"\0", "byte 4: .* 24 bytes of data, the file holds 25$", "byte 40.*got more"),
    "another type, same bytes": (GOOD[:2] + b"\x0b" + GOOD[3:], "byte 4: .*int16 declare 48", "byte 40"),
    "large": (idx(SAMPLE, dims=(10**6,)), "byte 4: .* 1000000 bytes", "byte 4: .*holds at most"),
    "absurd": (idx(SAMPLE, dims=(2**32 - 1,) * 3), "byte 4", "byte 4"),
    "absurd but empty": (idx(SAMPLE[:0], dims=(0,) + (2**32 - 1,) * 3), "byte 4", "byte 4"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_idx(tmp_path, case, zipped):
    data, *places = DAMAGE[case]
    path = write(tmp_path / "damaged.idx", gzip.compress(data) if zipped else data)
    with pytest.raises(FormatError, match=f"damaged.idx: {places[zipped]}"):
        datasets.read_idx(path)


def test_every_truncation_of_a_gzip_file_is_found(tmp_path):
    whole = gzip.compress(GOOD)
    for length in range(len(whole)):
        with pytest.raises(FormatError, match=r"file\.gz"):
            datasets.read_idx(write(tmp_path / "file.gz", whole[:length]))


def test_every_bit_flip_in_a_gzip_file_is_found_or_harmless(tmp_path):
    whole, found = gzip.compress(GOOD, mtime=0), 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            got = datasets.read_idx(write(tmp_path / "file.gz", bytes(damaged)))
            np.testing.assert_array_equal(got, SAMPLE)  # in the time stamp, say
        except FormatError as error:
            found += "file.gz" in str(error)
    assert found > 4 * len(whole)


@pytest.mark.parametrize(
    ("dims", "content"),
    [
        ((10**9,), b"1234"),  # declares what the file cannot hold
        ((4,), bytes(1 << 24)),  # a bomb: holds far more than it declares
        ((1 << 24,), bytes(1 << 14)),  # declares what a file of its size could hold, but this one does not
    ],
    ids=["absurd", "bomb", "plausible"],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_refusing_a_file_takes_little_memory(tmp_path, dims, content, zipped):
    data = idx(np.frombuffer(content, np.uint8), dims=dims)
    noise = np.random.default_rng(0).bytes(1 << 15) if len(content) == 1 << 14 else b""
    path = write(tmp_path / "file", gzip.compress(data) + gzip.compress(noise) if zipped else data)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="file: byte"):
            datasets.read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------ folders


def mnist_files(train=12, test=6, side=5):
    rng = np.random.default_rng(7)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, side, side + 1), np.uint8)
        files[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    return files


def write_folder(folder, files, suffix=""):
    for name, array in files.items():
        data = idx(array)
        write(folder / f"{name}{suffix}", gzip.compress(data) if suffix else data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("load", [datasets.mnist, datasets.fashion_mnist], ids=["mnist", "fashion_mnist"])
def test_folder(tmp_path, load, suffix):
    files = mnist_files()
    write_folder(tmp_path, files, suffix)
    data = load(tmp_path, validation=4)
    x = np.concatenate([data.train.x, data.validation.x])
    np.testing.assert_array_equal(np.rint(x[..., 0] * 255), files["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test.t, files["t10k-labels-idx1-ubyte"])
    assert [len(data.train), len(data.validation), len(data.test)] == [8, 4, 6]
    assert x.shape == (12, 5, 6, 1) and x.dtype == np.float32
    assert data.classes[9] == ("9" if load is datasets.mnist else "Ankle boot")


def test_levels_are_exact(tmp_path):
    files = mnist_files(side=15)
    files["t10k-images-idx3-ubyte"].flat = np.arange(256)
    write_folder(tmp_path, files)
    x = datasets.mnist(tmp_path, 0).test.x
    np.testing.assert_array_equal(x.flat[:256], (np.arange(256) / 255).astype(np.float32))


def test_missing_files_are_listed(tmp_path):
    files = mnist_files()
    del files["t10k-labels-idx1-ubyte"]
    write_folder(tmp_path, files)
    with pytest.raises(FileNotFoundError, match=r"expected t10k-labels-idx1-ubyte \(.*dataset-fashion-mnist"):
        datasets.mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte, .*nowhere"):
        datasets.fashion_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "array", "place"),
    [
        ("train-labels-idx1-ubyte", np.zeros(11, np.uint8), "byte 4: expected 12 labels.* got 11"),
        (
            "train-labels-idx1-ubyte",
            np.arange(12, dtype=np.uint8),
            "byte 18: expected a label below 10, got 10",
        ),
        ("t10k-labels-idx1-ubyte", np.zeros((6, 1), np.uint8), "byte 2: .*1 dimensions, got uint8 of 2"),
        ("t10k-images-idx3-ubyte", np.zeros((6, 30), np.uint8), "byte 2: .*3 dimensions, got uint8 of 2"),
        ("t10k-images-idx3-ubyte", np.zeros((6, 5, 5), np.uint8), r"byte 8: expected \(5, 6\) pixels"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, name, array, place):
    write_folder(tmp_path, mnist_files() | {name: array})
    with pytest.raises(FormatError, match=f"{name}: {place}"):
        datasets.mnist(tmp_path, 4)


@pytest.mark.parametrize(("validation", "error"), [(13, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_validation_out_of_range(tmp_path, validation, error):
    write_folder(tmp_path, mnist_files())
    with pytest.raises(error, match="validation: expected"):
        datasets.mnist(tmp_path, validation)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian():
    data = datasets.fashion_mnist()
    assert [len(data.train), len(data.validation), len(data.test)] == [55_000, 5_000, 10_000]
    assert data.classes[data.test.t[0]] == "Ankle boot" and (np.bincount(data.test.t) == 1000).all()
    assert data.test.x[:100].min() == 0 and data.test.x[:100].max() == 1
    assert np.shares_memory(data.train.x.base, data.validation.x.base)  # no second 188 MB


# ------------------------------------------------------------------------------------------ digits


@pytest.mark.parametrize(("name", "count"), [("train", 3500), ("validation", 500), ("test", 1000)])
def test_digits(name, count):
    data = datasets.digits()
    split = getattr(data, name)
    assert split.x.shape == (count, 28, 28, 1) and split.x.dtype == np.float32 and split.t.dtype == np.int64
    assert split.x.min() == 0 and split.x.max() == 1
    assert (np.bincount(split.t, minlength=len(data.classes)) == count // 10).all()
    assert (np.sort(split.t[:200].reshape(-1, 10), axis=1) == np.arange(10)).all()  # prefixes are balanced


def test_digits_are_labelled_right_and_always_the_same():
    data = datasets.digits()
    np.testing.assert_array_equal(data.train.x, datasets.digits().train.x)
    means = np.stack([data.train.x[data.train.t == digit].mean(axis=0).ravel() for digit in range(10)])
    x = data.test.x.reshape(1000, -1)
    nearest = np.argmin((means**2).sum(axis=1) - 2 * x @ means.T, axis=1)
    assert (nearest == data.test.t).mean() > 0.75  # 0.1 if labels and images were shuffled apart
    assert (
        len({picture.tobytes() for part in (data.train, data.validation, data.test) for picture in part.x})
        == 5000
    )


# ------------------------------------------------------------------------------------------ containers


def split(count=10, classes=3, side=2):
    return Split(np.arange(count * side, dtype=np.float32).reshape(count, side), np.arange(count) % classes)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 99])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_visit_every_sample_once(batch_size, shuffle):
    data = split()
    batches = list(data.batches(batch_size, 0, shuffle))
    x, t = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    order = x[:, 0].astype(int) // 2
    assert (np.array_equal(order, np.arange(10))) is not shuffle
    np.testing.assert_array_equal(np.sort(order), np.arange(10))
    np.testing.assert_array_equal(t, data.t[order])
    assert {len(batch) for batch, _ in batches[:-1]} <= {batch_size}


def test_seeds_repeat_and_generators_go_on():
    def firsts(rng):
        return [next(split(1000).batches(9, rng))[0].tolist() for _ in range(2)]

    assert firsts(5)[0] == firsts(5)[1] == firsts(np.random.default_rng(5))[0]
    generator = firsts(np.random.default_rng(5))
    assert generator[0] != generator[1]


def test_one_hot():
    np.testing.assert_array_equal(split(4).one_hot(4), np.eye(4, dtype=np.float32)[[0, 1, 2, 0]])
    assert split(4).one_hot(3).dtype == np.float32


def test_reprs_are_sizes():
    parts = split(3500), split(500), split(1000)
    assert repr(parts[0]) == "Split(3,500 of (2,))"
    assert repr(Dataset(*parts, "abc")) == "Dataset(train 3,500, validation 500, test 1,000 of (2,), 3 classes)"


X, T = np.zeros((4, 2), np.float32), np.zeros(4, np.int64)
MISUSE = {
    "lengths": (lambda: Split(X, T[:3]), ValueError, r"t: expected \(N,\).*got \(3,\) for x \(4, 2\)"),
    "one-hot classes": (lambda: Split(X, X.astype(int)), ValueError, r"t: expected \(N,\)"),
    "float classes": (
        lambda: Split(X, T.astype(float)),
        TypeError,
        "t: expected an array of integers, got .*float64",
    ),
    "list": (lambda: Split([1, 2], T), TypeError, "x: expected a numeric array, got list"),
    "strings": (lambda: Split(np.array(["a"] * 4), T), TypeError, "x: expected a numeric array"),
    "no split": (
        lambda: Dataset(split(), split(), None, "abc"),
        TypeError,
        "test: expected a Split, got NoneType",
    ),
    "shapes": (
        lambda: Dataset(split(), split(side=3), split(), "abc"),
        ValueError,
        r"validation: .*\(2,\).*\(3,\)",
    ),
    "names": (
        lambda: Dataset(split(), split(), split(classes=4), "abc"),
        ValueError,
        "test: .*0 to 2.*0 to 3",
    ),
    "negative": (lambda: Split(X, T - 1).one_hot(2), ValueError, "classes: .*-1 to -1, got 2"),
    "few classes": (lambda: split().one_hot(2), ValueError, "classes: .*0 to 2, got 2"),
    "batch of zero": (lambda: split().batches(0), ValueError, "batch_size: expected an integer >= 1, got 0"),
    "half a batch": (
        lambda: split().batches(2.5),
        TypeError,
        "batch_size: expected an integer >= 1, got float",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(case):
    call, error, message = MISUSE[case]
    with pytest.raises(error, match=message):
        call()
