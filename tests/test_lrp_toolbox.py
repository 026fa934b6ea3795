"""The LRP toolbox's text files: the networks that they hold, and a clear refusal of everything else."""

import os
import random
import re
import tracemalloc
import warnings

import numpy as np
import pytest
from cases import assert_same_bits, relative_error

import fastlrp
from fastlrp import FormatError, UnsupportedError
from fastlrp.io import lrp_toolbox

# name: (input shape, layers as the toolbox names them)
MODELS = {
    "perceptron": ((6,), ["Linear 6 5", "Tanh", "Linear 5 4", "Rect", "Linear 4 3"]),
    "lenet": ((14, 14, 2), ["Convolution 3 3 2 5 1 1", "Rect", "SumPool 2 2 2 2", "Convolution 3 3 5 4 1 1", "Rect",
                            "SumPool 2 2 2 2", "Convolution 2 2 4 7 1 1", "Rect", "Convolution 1 1 7 3 1 1",
                            "Flatten"]),
    "rectangles": ((11, 13, 3), ["Convolution 4 3 3 5 2 1", "Tanh", "MaxPool 2 3 1 2", "SumPool 1 3 2 1", "Flatten",
                                 "Linear 30 4", "Tanh", "Linear 4 2"]),
    "windows that leave pixels out": ((10, 9, 1), ["MaxPool 3 2 3 3", "Convolution 2 2 1 3 2 3", "SumPool 1 1 2 2",
                                                   "Flatten"]),
}


def draw(layer, rng):
    """Weights and biases of a layer's line, or nothing."""
    name, *sizes = layer.split()
    shape = tuple(map(int, sizes[:{"Linear": 2, "Convolution": 4}.get(name, 0)]))
    return [rng.normal(0, 0.4, shape), rng.normal(0, 0.3, shape[-1])] if shape else []


def model(name, seed=0):
    """(layer's line, its arrays) for every layer."""
    rng = np.random.default_rng(seed)
    return [(layer, draw(layer, rng)) for layer in MODELS[name][1]]


def text(layers, end="\n"):
    """A model as the toolbox writes it."""
    lines = []
    for line, arrays in layers:
        lines += [line, *(" ".join(repr(float(v)) for v in array.ravel()) for array in arrays)]
    return "".join(line + end for line in lines)


def run(layers, x):
    """The toolbox's forward pass, window by window."""
    for line, arrays in layers:
        name, *sizes = line.split()
        sizes = [int(size) for size in sizes]
        if name == "Linear":
            x = x @ arrays[0] + arrays[1]
        elif name in ("Rect", "Tanh"):
            x = np.maximum(x, 0) if name == "Rect" else np.tanh(x)
        elif name == "Flatten":
            x = x.reshape(len(x), -1)
        else:
            (h, w), (down, right) = sizes[:2], sizes[-2:]
            rows, cols = (x.shape[1] - h) // down + 1, (x.shape[2] - w) // right + 1
            y = np.zeros((len(x), rows, cols, sizes[3] if name == "Convolution" else x.shape[3]))
            for i in range(rows):
                for j in range(cols):
                    window = x[:, i * down:i * down + h, j * right:j * right + w]
                    y[:, i, j] = (window.max(axis=(1, 2)) if name == "MaxPool" else
                                  window.sum(axis=(1, 2)) / np.sqrt(h * w) if name == "SumPool" else
                                  np.tensordot(window, arrays[0], 3) + arrays[1])
            x = y
    return x


@pytest.fixture
def read(tmp_path):
    """from_lrp_toolbox of a text, or of bytes."""
    def reader(content, shape):
        path = tmp_path / "model.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return fastlrp.from_lrp_toolbox(path, input_shape=shape)
    return reader


# ------------------------------------------------------------------------------------------ what files hold


@pytest.mark.parametrize("name", MODELS)
def test_forward(name, read):
    shape, layers = MODELS[name][0], model(name)
    net = read(text(layers), shape)
    assert len(net.layers) == len(layers) and net.input_shape == shape
    x = np.random.default_rng(1).normal(size=(3, *shape))
    assert relative_error(net.forward(x), run(layers, x)) < 1e-6
    assert relative_error(net.to_numpy().forward(x), run([(line, [a.astype(np.float32) for a in arrays])
                                                          for line, arrays in layers], x)) < 1e-14


def test_weights_keep_every_bit(read):
    layers = model("lenet")
    arrays = [array for _, found in layers for array in found]
    net = read(text(layers), MODELS["lenet"][0])
    for found, expected in zip([a for layer in net.weighted for a in (layer.weight, layer.bias)], arrays, strict=True):
        assert_same_bits(found, expected.astype(np.float32))


def test_a_network_like_any_other(read, tmp_path):
    shape = MODELS["lenet"][0]
    net = read(text(model("lenet")), shape)
    x = np.random.default_rng(2).normal(size=(4, *shape))
    net.test(x)
    assert net.explain(x).relevance.shape == x.shape
    net.save(tmp_path / "net.npz")
    assert_same_bits(fastlrp.load(tmp_path / "net.npz").forward(x), net.forward(x))
    before = net.forward(x)
    net.fit(x, np.arange(4) % 3)
    assert not np.array_equal(net.forward(x), before)


PLAIN = "Linear 2 3\n1 -2 0.5 4e-1 +5 .25\n0 1 -1.\nTanh\nLinear 3 1\n1 2 3\n-1\n"


@pytest.mark.parametrize("changed", [
    PLAIN.replace("\n", "\r\n"), PLAIN.replace("\n", " \t\n"), PLAIN.replace(" ", "  "), PLAIN.replace(" ", "\t"),
    PLAIN + "\n", PLAIN + "\r\n\r\n \t ", PLAIN.replace("\n", "\n "), PLAIN.replace("Linear 2", "Linear 02"),
    PLAIN.replace("0.5", "0.5000000000000000000000000000000000000001"),
    PLAIN.replace("0.5 4e-1", "0.5\n4e-1"),  # as the toolbox's first versions wrote it: a line for each input
    PLAIN + "\n" * 300_000 + " " * 300_000,
], ids=["CRLF", "blanks at the ends", "wide blanks", "tabs", "empty line", "empty lines", "indented", "leading zero",
        "many digits", "line for each input", "a long empty end"])
def test_ways_to_write_the_same(changed, read):
    found, expected = read(changed, (2,)), read(PLAIN, (2,))
    for a, b in zip(found.weighted, expected.weighted, strict=True):
        assert_same_bits(a.weight, b.weight)
        assert_same_bits(a.bias, b.bias)
    np.testing.assert_array_equal(expected.layers[0].weight, np.float32([[1, -2, 0.5], [0.4, 5, 0.25]]))
    np.testing.assert_array_equal(expected.layers[0].bias, [0, 1, -1])


def test_numbers_across_chunks(read, monkeypatch):
    """Text is parsed in pieces, which may end anywhere."""
    layers = model("lenet")
    expected = [array.astype(np.float32) for _, arrays in layers for array in arrays]
    for size in (1, 2, 7, 64, 1000):
        monkeypatch.setattr(lrp_toolbox, "CHUNK", size)
        net = read(text(layers), MODELS["lenet"][0])
        for i, layer in enumerate(net.weighted):
            assert_same_bits(layer.weight, expected[2 * i])
            assert_same_bits(layer.bias, expected[2 * i + 1])


def test_softmax_at_the_end_is_dropped_with_a_warning(read):
    with pytest.warns(UserWarning, match=r"model.txt: the SoftMax at the end is dropped: outputs are logits") as found:
        net = read(PLAIN + "SoftMax\n", (2,))
    assert len(found) == 1 and found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_bits(net.forward([[1, 2]]), read(PLAIN, (2,)).forward([[1, 2]]))


# ------------------------------------------------------------------------------------------ what is refused

SMALL = "Convolution 2 2 1 1 1 1\n1 2 3 4\n0.5\nRect\nFlatten\nLinear 4 2\n1 2 3 4 5 6 7 8\n1 -1\n"  # (3, 3, 1)
CONV = "line 1 (Convolution 2 2 1 1 1 1)"
LINEAR = "line 6 (Linear 4 2)"

# what is wrong: (what becomes of SMALL, the line that is named, what is said)
MALFORMED = {
    "an empty file": (lambda t: "", "line 1", "expected the name of a layer, but the file has none"),
    "an empty line alone": (lambda t: "\n", "line 1", "expected the name of a layer, but the file has none"),
    "a picture": (lambda t: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\n", "line 1", r"name of a layer, got '\x89PNG'"),
    "zeros": (lambda t: b"\0" * 5000, "line 1", "ends without a newline: the file has been cut short"),
    "two bytes a letter": (lambda t: t.encode("utf-16"), "line 1", r"expected the name of a layer, got '\xff\xfeC"),
    "numbers first": (lambda t: "1 2 3\n" + t, "line 1", "expected the name of a layer, got '1 2 3'"),
    "numbers after a layer that has none": (lambda t: t.replace("Rect", "Rect\n1 2"), "line 5",
                                            "expected the name of a layer, as Rect has no numbers, got '1 2'"),
    "text after an empty line": (lambda t: t.replace("Flatten\n", "\nFlatten\n"), "line 5",
                                 "empty, where a model ends, but more text follows"),
    "an empty line first": (lambda t: "\n" + t, "line 1", "empty, where a model ends, but more text follows"),
    "no newline at the end": (lambda t: t[:-1], "line 8", "ends without a newline: the file has been cut short"),
    "no biases": (lambda t: t.replace("0.5\n", ""), CONV,
                  "expected a line of weights and a line of biases after it, but lines of numbers: 1"),
    "no numbers": (lambda t: t[:t.index("1 2 3 4 5")], LINEAR, "but lines of numbers: 0"),
    "weights on two lines": (lambda t: t.replace("1 2 3 4\n", "1 2\n3 4\n"), CONV, "but lines of numbers: 3"),
    "too few weights": (lambda t: t.replace("1 2 3 4\n", "1 2 3.25\n"), "line 2",
                        "expected 4 weights for Convolution 2 2 1 1 1 1 on line 1, got 3"),
    "too many weights": (lambda t: t.replace("5 6 7", "5 6 6 7"), "line 7",
                         "expected 8 weights for Linear 4 2 on line 6, got 9"),
    "too few biases": (lambda t: t.replace("1 -1", "1.125"), "line 8",
                       "expected 2 biases for Linear 4 2 on line 6, got 1"),
    "too many biases": (lambda t: t.replace("1 -1", "1 -1 1"), "line 8", "expected 2 biases for Linear 4 2 on line 6, "
                        "got 3"),
    "too little text": (lambda t: t.replace("1 2 3 4\n", "1 2 3\n"), "line 2", "expected 4 weights for Convolution 2 2 "
                        "1 1 1 1, but the text has 6 bytes: room for 3 at most"),
    "10^12 weights": (lambda t: t.replace("Linear 4 2", "Linear 1000000 1000000"), "line 7",
                      "expected 1000000000000 weights for Linear 1000000 1000000, but the text has 16 bytes"),
    "weights beyond counting": (lambda t: t.replace("2 2 1 1", " ".join(["9" * 18] * 4)), "line 2", "room for 4"),
    "not a number": (lambda t: t.replace("5 6 7", "5 6 seven"), "line 7",
                     "number 7: expected one that float32 can hold, got 'seven'"),
    "two points": (lambda t: t.replace("0.5", "0.5.5"), "line 3", "number 1: expected one that float32 can hold"),
    "an underscore": (lambda t: t.replace("3 4\n", "3 1_0\n"), "line 2",
                      "number 4: expected one that float32 can hold, got '1_0'"),
    "a comma": (lambda t: t.replace("1 -1", "1, -1"), "line 8", "that float32 can hold, got '1,'"),
    "NaN": (lambda t: t.replace("1 -1", "1 nan"), "line 8", "number 2: expected one that float32 can hold, got 'nan'"),
    "NaN first": (lambda t: t.replace("1 2 3 4\n", "NaN 2 3 4\n"), "line 2", "number 1: expected one that float32 can"),
    "infinity": (lambda t: t.replace("0.5", "-inf"), "line 3", "number 1: expected one that float32 can hold"),
    "beyond float32": (lambda t: t.replace("5 6 7", "5 6 1e39"), "line 7", "number 7: expected one that float32 can"),
    "beyond float64": (lambda t: t.replace("5 6 7", "5 6 1e999"), "line 7", "number 7: expected one that float32 can"),
    "a number without end": (lambda t: t.replace("0.5", "0." + "5" * 10**6), "line 3", "expected numbers, got '0.5555"),
    "a byte that is no text": (lambda t: t.encode().replace(b"0.5", b"0\xff5"), "line 3", r"got '0\xff5'"),
    "no stride": (lambda t: t.replace("1 1 1 1", "1 1 1"), "line 1",
                  "expected the sizes h w depth filters stride_h stride_w after Convolution, got 'Convolution 2"),
    "a size too many": (lambda t: t.replace("Linear 4 2", "Linear 4 2 1"), "line 6", "expected the sizes in out after"),
    "a size for a layer without": (lambda t: t.replace("Rect", "Rect 3"), "line 4", "expected nothing after Rect"),
    "a size of zero": (lambda t: t.replace("Linear 4 2", "Linear 4 0"), "line 6",
                       "out of Linear must be a whole number of at least 1 and at most 18 digits, got '0'"),
    "a negative size": (lambda t: t.replace("1 1 1 1", "1 1 1 -1"), "line 1", "stride_w of Convolution must be"),
    "a size with a point": (lambda t: t.replace("Linear 4 2", "Linear 4. 2"), "line 6", "in of Linear must be a whole"),
    "a size of 19 digits": (lambda t: t.replace("Linear 4 2", f"Linear 4 {10**18}"), "line 6", "out of Linear must be"),
    "a size of a million digits": (lambda t: t.replace("Linear 4 2", "Linear 4 " + "2" * 10**6), "line 6",
                                   "expected a layer's name and sizes, got a line of more than 200 bytes"),
    "other depth": (lambda t: t.replace("2 2 1 1 1 1\n1 2 3 4", "2 2 2 1 1 1\n1 2 3 4 5 6 7 8"),
                    "line 1 (Convolution 2 2 2 1 1 1)", "its weights are for 2 inputs or channels, not 1"),
    "a filter that does not fit": (lambda t: t.replace("2 2 1 1 1 1\n1 2 3 4", "4 1 1 1 1 1\n1 2 3 4"),
                                   "line 1 (Convolution 4 1 1 1 1 1)", "does not fit samples of shape (3, 3, 1)"),
    "a window that does not fit": (lambda t: t.replace("Rect", "MaxPool 3 1 1 1"), "line 4 (MaxPool 3 1 1 1)",
                                   "does not fit samples of shape (2, 2, 1), which input_shape (3, 3, 1) has become"),
    "no Flatten": (lambda t: t.replace("Flatten\n", ""), "line 5 (Linear 4 2)", "expected flat samples"),
    "other inputs": (lambda t: t.replace("1 1 1 1", "1 1 2 2"), LINEAR, "its weights are for 4 inputs or channels"),
    "a window over rows": (lambda t: t + "SumPool 1 1 1 1\n", "line 9 (SumPool 1 1 1 1)", "does not fit samples of"),
    "too many layers": (lambda t: "Rect\n" * 10_001, "line 10001", "expected at most 10000 layers"),
    "SoftMax alone": (lambda t: "SoftMax\n", "line 1", "expected layers before the SoftMax"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files(case, read):
    change, place, said = MALFORMED[case]
    content = change(SMALL)
    assert content != SMALL
    with pytest.raises(FormatError) as error:
        read(content, (3, 3, 1))
    message = str(error.value)
    assert re.match(rf".*model\.txt: {re.escape(place)}: ", message) and said in message and len(message) < 500
    assert type(error.value) is FormatError


def test_the_small_model_is_well_formed(read):
    """The table above says nothing otherwise."""
    assert read(SMALL, (3, 3, 1)).forward(np.ones((1, 3, 3, 1))).tolist() == [[169, 209]]


@pytest.mark.parametrize(("content", "parts"), [
    (SMALL.replace("Rect", "AveragePool 2 2 2 2"), ["AveragePool (line 4)"]),
    ("BatchNorm 3\n1 2 3\nnan 1 1\nrect\nSoftMax\nRect\nSoftMax\n",
     ["BatchNorm (line 1), rect (line 4), SoftMax (line 5);"]),
    ("SoftMax\n" * 40, ["SoftMax (line 20), and 19 more;"]),
    ("x" * 150 + "\n", ["x" * 150 + " (line 1);"]),
], ids=["one", "several", "many", "long"])
def test_all_unsupported_layers_are_named(content, parts, read):
    with pytest.raises(UnsupportedError) as error:
        read(content, (3, 3, 1))
    for part in [*parts, "model.txt: unsupported layers: ", "supported: Convolution, Linear, SumPool, MaxPool, Rect, "
                 "Tanh, Flatten, and SoftMax at the end"]:
        assert part in str(error.value)


@pytest.mark.parametrize(("shape", "error"), [
    ((3, 3), FormatError), ((3, 3, 2), FormatError), ((9,), FormatError), ((2, 3, 1), FormatError),
    ((5, 5, 1), FormatError), ((0, 3, 1), ValueError), ((), ValueError), ((3.0, 3, 1), TypeError), (9, TypeError),
    ("331", TypeError), (None, TypeError)], ids=repr)
def test_input_shapes_that_do_not_fit(shape, error, read):
    with pytest.raises(error, match="input_shape") as found:
        read(SMALL, shape)
    assert type(found.value) is error


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            fastlrp.from_lrp_toolbox(path, (2,))


def test_open_files_are_no_paths(tmp_path):
    """And stay open: they are the caller's."""
    path = tmp_path / "model.txt"
    path.write_text(PLAIN)
    with open(path, "rb") as file:
        for other in (file.fileno(), file, None):
            with pytest.raises(TypeError, match=r"path must be a str, bytes or os\.PathLike, got"):
                fastlrp.from_lrp_toolbox(other, (2,))
        assert file.read() == PLAIN.encode()
    fastlrp.from_lrp_toolbox(os.fsencode(path), (2,))


def ends_of_layers(content):
    """Where a file may end and be a model: after a layer with all its numbers."""
    ends, at, left = set(), 0, 0
    for line in content.splitlines(keepends=True):
        at += len(line)
        left = left - 1 if left else 2 if line.startswith(("Linear", "Convolution")) else 0
        if not left:
            ends.add(at)
    return ends


def test_files_cut_short_anywhere(read):
    content = (SMALL + "Tanh\nLinear 2 1\n-1.5 2.5\n0.25\n").replace("\n", "\r\n")
    whole = ends_of_layers(content)
    assert len(whole) == 6
    for length in range(len(content)):
        if length in whole:
            read(content[:length], (3, 3, 1))
        else:
            with pytest.raises(FormatError, match=r"model\.txt: line"):
                read(content[:length], (3, 3, 1))


def mutated(content, rng):
    """A copy with a few bytes changed, cut out, doubled or swapped with others."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        i = rng.randrange(len(data))
        j = min(len(data), i + rng.choice((1, 2, 10)))
        how = rng.randrange(5)
        if how == 0:
            data[i] = rng.randrange(256)
        elif how == 1:
            data[i:j] = rng.choice((b" ", b"\n", b"-", b"9" * 9, b"e9", b".", b"nan", b"Linear 1 1\n", b"\r", b"_"))
        elif how == 2:
            del data[i:j]
        elif how == 3:
            data[i:i] = data[i:j] * rng.choice((1, 3))
        else:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        data = data or bytearray(b"\n")
    return bytes(data)


@pytest.mark.filterwarnings("ignore:.*SoftMax at the end")
def test_mutated_files(read):
    """Networks or FormatErrors, and nothing else; FASTLRP_FUZZ sets how many files are tried."""
    rng, content = random.Random(7), (SMALL.replace("Rect", "Rect\nMaxPool 1 1 1 1") + "Tanh\nSoftMax\n").encode()
    loaded = refused = 0
    for _ in range(int(os.environ.get("FASTLRP_FUZZ", 600))):
        changed = mutated(content, rng)
        try:
            net = read(changed, (3, 3, 1))
        except FormatError as error:
            assert "model.txt: " in str(error) and len(str(error)) < 1000
            refused += 1
            continue
        assert np.isfinite([array.sum() for layer in net.weighted for array in layer.parameters.values()]).all()
        net.forward(np.ones((1, 3, 3, 1)))
        loaded += 1
    assert loaded and refused > loaded


N = 1_000_000
LARGE = {
    "digits": "Linear 1000000 1\n" + "1 " * N + "\n0\n",
    "a line for each input": "Linear 250000 1\n" + "1\n" * (N // 4) + "0\n",
    "numbers": "Linear 500000 1\n" + "2.5 " * (N // 2) + "\n0\n",
    "too many weights": "Linear 1000000 1000000\n" + "1 " * N + "\n0\n",
    "too many lines": "Linear 2 2\n" + "1\n" * (N // 4),
    "layers": "Rect\n" * (2 * N // 5),
    "unknown layers": "Foo\n" * (N // 2),
    "an unknown layer": "Foo\n" + "1 " * N + "\n",
    "sizes": "Linear" + " 1" * N + "\n",
    "one word": "x" * 2 * N,
    "one number": "Linear 1 1\n" + "7" * 2 * N + "\n0\n",
    "blanks": "Linear 1 1\n0" + " " * 2 * N + "\n0\n",
    "empty lines": "\n" * 2 * N,
}


@pytest.mark.parametrize("case", LARGE)
def test_memory_stays_small(case, tmp_path):
    """At most four times the file, and what is read at a time."""
    path, found = tmp_path / "model.txt", re.match(r"Linear (\d+)", LARGE[case])
    path.write_text(LARGE[case])
    tracemalloc.start()
    try:
        fastlrp.from_lrp_toolbox(path, (int(found[1]) if found else 1,))
        assert case in ("digits", "a line for each input", "numbers", "blanks")
    except FormatError:
        assert case not in ("digits", "a line for each input", "numbers", "blanks")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + (16 << 20)
