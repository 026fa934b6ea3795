"""Saved networks: what goes in comes out, bit for bit; what is damaged or hostile is refused, quickly and by name."""

import hashlib
import io
import json
import os
import random
import re
import signal
import stat
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from cases import with_statistics

import fastlrp
from fastlrp import io as files
from fastlrp.errors import FormatError
from fastlrp.io import archive, description
from fastlrp.layers import LAYERS, Layer

GOLDEN, GOLDEN_2, GOLDEN_3 = (Path(__file__).parent / "golden" / f"format{version}.npz" for version in (1, 2, 3))
JSON, CHECKSUM = "fastlrp.json.npy", "fastlrp.sha256.npy"


def every_layer():
    """A network that has every class of layer, with options off their defaults."""
    f = fastlrp
    return with_statistics(f.Network([
        f.Format(0, 2), f.Normalize([0.5, 1, 1.5], 0.75), f.Pad2d(((1, 0), (0, 2)), value=0.5),
        f.Conv2d(6, (3, 2), stride=(1, 2), padding=((1, 0), (0, 1)), groups=3, bias=False), f.LeakyReLU(0.125),
        f.SumPool2d(2, 1, scale="sqrt"), f.Conv2d(4, 3, padding="same", dilation=(2, 1), name="blocks/0/conv é"),
        f.ReLU(), f.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), f.Abs(), f.MaxPool2d(2, padding="same"),
        f.SumPool2d((2, 1), padding=(1, 0), scale=0.5), f.AdaptiveAvgPool2d((2, 3)), f.AdaptiveMaxPool2d((1, 3)),
        f.Slice(1, 0, -1), f.Upsample((2, 1)), f.GlobalAvgPool2d(), f.Identity(), f.Scale([0.5, 1, 2, -0.25], 0.125),
        f.Softplus(), f.BatchNorm(1e-3), f.Dropout(0.25), f.Reshape((-1, 4)), f.Flatten(), f.Linear(7), f.Tanh(),
        f.ReLU6(), f.Clip(0.25, 1.5), f.PReLU([0.5, 0.25, 0, -1, 2, 1, 3]), f.ELU(0.5), f.SELU(), f.GELU("tanh"),
        f.SiLU(), f.Hardswish(), f.Hardsigmoid(), f.Mish(), f.Linear(5, bias=False), f.Sigmoid(),
        f.Linear(3, name="..")], input_shape=(9, 10, 3)))


def branches():
    """The layers that have no place in a sequence, two inputs, two outputs, a shared layer, channels first."""
    f = fastlrp
    a, b = f.Input((4, 3, 2), name="left/0"), f.Input((4, 3, 2))
    conv = f.Conv2d(2, 3, padding=1, name="shared")
    h = f.Add()(conv(a), f.Multiply()(conv(b), a), b)
    h = f.BatchNorm()(f.Concat(axis=-1)(h, a))
    flat = f.Flatten()(f.Transpose((0, 2, 1))(f.ToChannelsFirst()(h)))
    return f.Network.from_graph([a, b], [f.Linear(3)(flat), f.ToChannelsLast()(f.Reshape((2, 4, 6))(flat))],
                                channels_first=True)


def with_constants():
    """Arrays that layers are made with, in single and double precision, of all shapes, one in a shared layer."""
    f = fastlrp
    a, b = f.Input((3, 4, 2)), f.Input((3, 4, 2))
    steep = f.PReLU([-0.5, 0.125], name="steep")
    mean = f.Scale(np.arange(24).reshape(3, 4, 2) / 64, [0.1, 0.2], name="mean/image")
    h = f.Add()(steep(mean(f.Normalize([0.25, 1 / 3], 0.5)(a))), steep(f.Scale(2, [[[1]], [[2]], [[-3]]])(b)))
    return f.Network.from_graph([a, b], f.Linear(3)(f.Flatten()(h)))


def pattern(count):
    """Values that every machine has exactly: multiples of 1/64 in [−0.5, 0.5)."""
    return ((np.arange(count) * 37 + 11) % 64 - 32) / 64


def fill(net):
    for layer in net.parametric:
        for key, value in layer.parameters.items():
            values = pattern(value.size).reshape(value.shape)
            setattr(layer, key, np.abs(values) if key == "variance" else values)
    return net


def inputs(net, n=2):
    return (pattern(n * int(np.prod(net.input_shape))) + 0.5).reshape(n, *net.input_shape)


def state(net):
    """All that a file holds, to compare."""
    nodes = [(node.name, node.inputs) for node in net.nodes]
    return net.input_names, net.shapes, net.channels_first, net.outputs, nodes, [
        (type(layer), layer.name, layer.config(), {
            key: (value.dtype, value.tobytes()) for key, value in getattr(layer, "parameters", {}).items()})
        for layer in net.layers]


def tiny(seed=0, out=2):
    return fastlrp.Network([fastlrp.ReLU(), fastlrp.Linear(out)], input_shape=(2,), seed=seed)


@pytest.fixture(scope="module")
def net():
    return every_layer()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.npz"


# ------------------------------------------------------------------------------------------ there and back


def test_every_layer_comes_back(net, path):
    assert {type(layer) for layer in (*net.layers, *branches().layers)} == set(LAYERS.values())
    net.save(path)
    loaded = files.load(path)
    assert type(loaded) is fastlrp.Network and state(loaded) == state(net)
    x = inputs(net)
    np.testing.assert_array_equal(loaded.forward(x), net.forward(x))
    for composite in ("epsilon_plus_flat", "gradient"):
        np.testing.assert_array_equal(loaded.explain(x, composite=composite).relevance,
                                      net.explain(x, composite=composite).relevance)
    loaded.layers[-1].bias = np.ones(3)  # a loaded network can be changed, trained and saved like any other
    loaded.reset_params(seed=3)


def test_branches_come_back(path):
    """Which node reads what, shared layers, names and layouts of inputs, outputs."""
    net = fill(branches())
    net.save(path)
    loaded = files.load(path)
    assert state(loaded) == state(net)
    assert loaded.layers[0] is loaded.layers[1]
    x = [pattern(48).reshape(2, 2, 4, 3), pattern(48)[::-1].reshape(2, 2, 4, 3)]
    for found, expected in zip(loaded.forward(x), net.forward(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(loaded.explain(x).relevance, net.explain(x).relevance, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layer", [
    fastlrp.Pad2d(1, value=-np.inf), fastlrp.Normalize(np.float32(0.1), [1, 2]), fastlrp.Reshape(-1),
    fastlrp.LeakyReLU(1e-320), fastlrp.Clip(high=-0.1), fastlrp.Clip(low=0),
    fastlrp.PReLU(0.1), fastlrp.PReLU(np.float32([0.1, 2])), fastlrp.ELU(np.float32(0.3)), fastlrp.GELU(),
    fastlrp.Conv2d(2, [1, 1], padding=[[0, 1], [2, 3]]), fastlrp.Format(0.1, 1 / 3),
    fastlrp.AvgPool2d(1, count_include_pad=np.bool_(False)),
    fastlrp.MaxPool2d(2, dilation=[1, 2], ceil_mode=True), fastlrp.AdaptiveAvgPool2d((2, 1)), fastlrp.GlobalAvgPool2d(),
    fastlrp.Scale(np.arange(18).reshape(3, 3, 2) / 7), fastlrp.Scale(-1, [0.1, 2]), fastlrp.Upsample([2, 1]),
    fastlrp.Scale(2, minus=0.1), fastlrp.Scale([1, 2], 0.5, minus=[0, 1 / 3]), fastlrp.Scale(minus=[0, 0]),
    fastlrp.Slice(), fastlrp.Slice(-3, -1, None), fastlrp.Slice(0, 0, 2, np.int64(2)),
    fastlrp.SumPool2d(1, scale=np.float64(1) / 3)], ids=repr)
def test_options_come_back(layer, path):
    net = fastlrp.Network([layer], input_shape=(3, 3, 2))
    net.save(path)
    assert state(files.load(path)) == state(net)
    assert repr(files.load(path).layers[0]) == repr(layer)


def test_scales_that_subtract_nothing_are_stored_without(path):
    """As versions read it that know times and plus alone."""
    fastlrp.Network([fastlrp.Scale(2, [1, 2, 3])], input_shape=(3,)).save(path)
    layer, = json.loads(bytes(np.load(path)["fastlrp.json"]))["layers"]
    assert (layer["config"], layer["constants"]) == ({"times": 2.0}, ["plus"])


def test_a_mean_image_comes_back(path):
    """Of 224 × 224 pixels, bit by bit, whether it takes single or double precision; in a file of about its size."""
    draws = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        mean = draws.uniform(-200, 0, (224, 224, 3)).astype(dtype)
        net = fastlrp.Network([fastlrp.Scale(1 / 58, mean), fastlrp.AvgPool2d(32)], input_shape=mean.shape)
        net.save(path)
        assert path.stat().st_size < mean.nbytes + 10_000
        loaded = files.load(path)
        assert loaded.layers[0].plus.dtype == dtype and loaded.layers[0].plus.tobytes() == mean.tobytes()
        x = draws.uniform(0, 255, (1, *mean.shape))
        np.testing.assert_array_equal(loaded.forward(x), net.forward(x))
        assert np.load(path)["scaling1/plus"].dtype == dtype


def test_constants_come_back(path):
    """In the precision that they take, the shared layer's once; numbers stay numbers."""
    net = with_constants()
    net.save(path)
    loaded = files.load(path)
    assert state(loaded) == state(net)
    with np.load(path) as arrays:
        assert [(name, arrays[name].dtype.str) for name in arrays.files[2:]] == [
            ("normalize1/mean", "<f8"), ("mean%2Fimage/times", "<f4"), ("mean%2Fimage/plus", "<f8"),
            ("steep/slope", "<f4"), ("scaling2/plus", "<f4"), ("linear1/weight", "<f4"), ("linear1/bias", "<f4")]
    for own, other in zip(net.layers, loaded.layers, strict=True):
        for key in own.constants:
            a, b = getattr(own, key), getattr(other, key)
            assert type(a) is type(b) and np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
            assert type(b) is float or not b.flags.writeable
    assert type(loaded.layers[0].std) is float
    net.to_numpy().save(path)
    assert state(files.load(path)) == state(net)


def test_parameters_do_not_bring_constants(path):
    """Alone or from a whole network's file: the layers keep theirs."""
    net, other = with_constants(), with_constants()
    other.reset_params(seed=1)
    other.layers[0].mean = [0.0, 0.0]
    for save in (files.save_params, files.save):
        save(other, path)
        target = with_constants()
        target.load_params(path)
        assert [layer.config() for layer in target.layers] == [layer.config() for layer in net.layers]
        np.testing.assert_array_equal(target.layers[-1].weight, other.layers[-1].weight)


def test_parameters_alone(net, path):
    other = every_layer()
    other.reset_params(seed=1)
    for save in (files.save_params, files.save):
        save(other, path)
        target = every_layer()
        assert target.load_params(path) is None
        assert state(target) == state(other) != state(net)


def test_parameters_of_nan_and_infinity(path):
    net = tiny()
    net.layers[1].weight = [[np.nan, np.inf], [-np.inf, -0.0]]
    net.save(path)
    assert state(files.load(path)) == state(net)


def test_a_variance_below_zero_is_a_bad_value(path, monkeypatch):
    """Which no network has, so that the check is left out to save one."""
    net = fastlrp.Network([fastlrp.BatchNorm(name="norm")], input_shape=(2,))
    with monkeypatch.context() as patch:
        patch.setattr(fastlrp.BatchNorm, "check_parameter", lambda *more: None)
        net.layers[0].variance = [1, -1]
        net.save(path)
    target = fastlrp.Network([fastlrp.BatchNorm(name="norm")], input_shape=(2,))
    before = state(target)
    for load in (files.load, lambda path: files.load_params(target, path)):
        with pytest.raises(FormatError, match=r"norm/variance.*must be at least 0 everywhere, got -1"):
            load(path)
    assert state(target) == before


def test_a_float64_twin_keeps_its_bits_and_loads_as_float32(path):
    net = tiny()
    twin = net.to_numpy()
    twin.layers[1].weight = twin.layers[1].weight + 1e-12
    twin.save(path)
    assert np.load(path)["linear1/weight"].dtype == np.float64
    assert state(files.load(path)) == state(net)
    again = tiny(seed=1).to_numpy()
    again.load_params(path)
    assert state(again) == state(twin)
    twin.layers[1].weight = np.full((2, 2), 1e39)
    twin.save(path)
    with pytest.raises(FormatError, match=r"linear1/weight.*beyond the range of float32"):
        files.load(path)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_other_precisions(dtype, path):
    twin = tiny().to_numpy(dtype)
    if dtype == np.longdouble:
        with pytest.raises(ValueError, match="cannot be saved in"):
            twin.save(path)
        return
    twin.save(path)
    again = tiny(seed=1).to_numpy(dtype)
    again.load_params(path)
    assert state(again) == state(twin)


def test_numpy_reads_the_file_without_pickle(net, path):
    net.save(path)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files[:2] == ["fastlrp.json", "fastlrp.sha256"]
        assert json.loads(bytes(arrays["fastlrp.json"]))["version"] == 3
        np.testing.assert_array_equal(arrays["conv1/weight"], net.layers[3].weight)
        np.testing.assert_array_equal(arrays["blocks%2F0%2Fconv%20%C3%A9/bias"], net.layers[6].bias)
        np.testing.assert_array_equal(arrays["%2E%2E/bias"], net.layers[-1].bias)
        assert all(arrays[name].dtype.kind in "uf" for name in arrays.files)


def test_the_same_network_gives_the_same_bytes(net, path, tmp_path):
    net.save(path)
    files.load(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_sizes_beyond_32_bits(net, path, monkeypatch):
    """With the limit of zip's 32-bit fields at 100 bytes, zipfile writes what it writes for 4 GB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    net.save(path)
    assert b"PK\6\6" in path.read_bytes()
    assert state(files.load(path)) == state(net)


def test_format_1_is_read_for_good():
    """format1.npz is `fill(every_layer())` as fastlrp 0.1.0 saved it. It is never written anew: a later format gets a
    file of its own."""
    net = files.load(GOLDEN)
    assert json.loads(bytes(np.load(GOLDEN)["fastlrp.json"]))["version"] == 1
    assert [type(layer).__name__ for layer in net.layers] == [
        "Format", "Normalize", "Pad2d", "Conv2d", "LeakyReLU", "SumPool2d", "Conv2d", "ReLU", "AvgPool2d", "Abs",
        "MaxPool2d", "SumPool2d", "Softplus", "Dropout", "Reshape", "Flatten", "Linear", "Tanh", "Linear", "Sigmoid",
        "Linear"]
    for layer in net.weighted:
        for value in layer.parameters.values():
            np.testing.assert_array_equal(value.ravel(), pattern(value.size))
    np.testing.assert_allclose(net.forward(inputs(net)), [[-0.4183841, 0.5666660, -0.4545265],
                                                          [-0.4232476, 0.5651059, -0.4522014]], rtol=1e-5)


def test_format_2_is_read_for_good():
    """format2.npz is `fill(branches())` as it was saved when networks got branches."""
    net = files.load(GOLDEN_2)
    assert json.loads(bytes(np.load(GOLDEN_2)["fastlrp.json"]))["version"] == 2
    assert [(node.name, node.inputs) for node in net.nodes] == [
        ("shared", (0,)), ("shared:2", (1,)), ("multiply1", (3, 0)), ("add1", (2, 4, 1)), ("concat1", (5, 0)),
        ("batchnorm1", (6,)), ("to_channels_first1", (7,)), ("transpose1", (8,)), ("flatten1", (9,)),
        ("linear1", (10,)),
        ("reshape1", (10,)), ("to_channels_last1", (12,))]
    x = [(pattern(48) + 0.5).reshape(2, 2, 4, 3), pattern(48)[::-1].reshape(2, 2, 4, 3)]
    logits, spatial = net.forward(x)
    assert spatial.shape == (2, 2, 4, 6)
    np.testing.assert_allclose(logits, [[0.00917673, 0.10718321, 0.08913147],
                                        [-0.13027855, 0.09654839, 0.30602981]], rtol=1e-5)


def test_format_3_is_read_for_good():
    """format3.npz is `fill(with_constants())` as it was saved when constants became tensors."""
    net = files.load(GOLDEN_3)
    assert json.loads(bytes(np.load(GOLDEN_3)["fastlrp.json"]))["version"] == 3
    assert state(net) == state(fill(with_constants()))
    assert net.layers[0].mean.dtype == np.float64 and net.layers[1].times.dtype == np.float32
    x = [pattern(48).reshape(2, 3, 4, 2), pattern(48)[::-1].reshape(2, 3, 4, 2)]
    np.testing.assert_allclose(net.forward(x), [[0.6326360, 1.3750791, -2.3494537],
                                                [0.9316874, 1.6867221, -2.6481359]], rtol=1e-5)


# ------------------------------------------------------------------------------------------ what cannot be saved


class Doubled(fastlrp.ReLU):
    pass


@pytest.mark.parametrize(("layer", "message"), [
    (Doubled(), "Doubled is not one of fastlrp's own layers"),
    (type("ReLU", (Layer,), {})(), "ReLU is not one of fastlrp's own layers"),
    (fastlrp.Linear(1, name="\ud800"), "cannot be stored"),
    (fastlrp.Linear(1, name="n" * 1001), "cannot be stored"),
    (fastlrp.PReLU([1], name="n" * 1001), "cannot be stored")], ids=range(5))
def test_save_refuses_what_load_would_refuse(layer, message, path):
    with pytest.raises(ValueError, match=message):
        fastlrp.Network([layer], input_shape=(1,)).save(path)
    assert not list(path.parent.iterdir())


def test_descriptions_that_are_too_long_are_not_written(path):
    layers = [fastlrp.ReLU(name=f"{i}{'n' * 990}") for i in range(2100)]
    with pytest.raises(ValueError, match="at most 2097152 bytes"):
        fastlrp.Network(layers, input_shape=(1,)).save(path)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("call", [lambda p: files.save(None, p), lambda p: files.save_params([], p),
                                  lambda p: files.load_params(3, p)])
def test_wrong_networks(call, path):
    with pytest.raises(TypeError, match=r"net must be a fastlrp\.Network, got"):
        call(path)


@pytest.mark.parametrize("other", [None, 3, 1.5, [], bytearray(b"net.npz")], ids=repr)
@pytest.mark.parametrize("call", [files.load, lambda p: tiny().save(p), lambda p: tiny().save_params(p),
                                  lambda p: tiny().load_params(p)], ids=["load", "save", "save_params", "load_params"])
def test_wrong_paths(call, other):
    with pytest.raises(TypeError, match=rf"path must be a str, bytes or os\.PathLike, got {re.escape(repr(other))}"):
        call(other)


# ------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_the_path_is_taken_as_it_is(kind, tmp_path):
    tiny().save(kind(tmp_path / "model"))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert state(files.load(kind(tmp_path / "model"))) == state(tiny())


def test_permissions_and_links_as_with_open(tmp_path):
    new, old, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    old.write_bytes(b"before")
    old.chmod(0o604)
    link.symlink_to("old")
    umask = os.umask(0o026)
    try:
        tiny().save(new)
        tiny().save(link)
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (new, old)] == [0o640, 0o604]
    assert link.is_symlink() and old.read_bytes() == new.read_bytes()


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="expected a file to write or replace"):
            tiny().save(place)
    with pytest.raises(FileNotFoundError):
        tiny().save(tmp_path / "missing" / "net.npz")
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "missing.npz")
    with pytest.raises(IsADirectoryError):
        files.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(("where", "name", "error"), [
    (os, "fsync", OSError(28, "No space left on device")), (os, "replace", PermissionError("no")),
    (archive, "raw_bytes", KeyboardInterrupt()), (zipfile.ZipFile, "open", MemoryError())],
    ids=["fsync", "replace", "interrupt", "open"])
def test_a_failing_save_leaves_the_old_file_alone(where, name, error, existing, path, monkeypatch):
    if existing:
        tiny().save(path)
    before = {p: p.read_bytes() for p in path.parent.iterdir()}
    calls = []

    def fail(*args, **kwargs):
        calls.append(len(list(path.parent.iterdir())))  # the temporary file is there by now
        raise error

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(type(error)):
        tiny(seed=1).save(path)
    monkeypatch.undo()
    assert calls and calls[0] == len(before) + 1
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_folder_that_cannot_be_synced_is_no_error(path, monkeypatch):
    real, synced = os.fsync, []

    def fsync(handle):
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        if synced[-1]:
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    tiny().save(path)
    assert synced == [False, True]
    assert state(files.load(path)) == state(tiny())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_saving(path):
    """Twelve times, at any moment: the file is always one of the two networks, whole."""
    nets = [fastlrp.Network([fastlrp.Linear(300)], input_shape=(400,), seed=seed) for seed in (0, 1)]
    known = [state(net) for net in nets]
    found, rng = [], random.Random(4)
    for _ in range(12):
        ready, started = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child runs no threads
            child = os.fork()
        if not child:
            try:
                for i in range(10_000):
                    nets[i % 2].save(path)
                    os.write(started, b"!")
            finally:
                os._exit(1)
        os.read(ready, 1)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready), os.close(started)
        found.append(known.index(state(files.load(path))))
    assert len(found) == 12


# ------------------------------------------------------------------------------------------ damaged files


def outcome(path, data, load=files.load):
    """The state of the network in these bytes, or None where they are refused by a FormatError that names the file."""
    path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is overwritten
    path.write_bytes(data)
    try:
        return state(load(path))
    except FormatError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 2000
        return None


@pytest.fixture
def good(path):
    """The bytes of the smallest network with weights."""
    tiny().save(path)
    return path.read_bytes()


def test_cut_off_at_every_byte(good, path):
    assert all(outcome(path, good[:end]) is None for end in range(len(good)))


def test_every_bit_flipped(good, path):
    """Every bit of zip's and NumPy's headers, and every byte of the data."""
    known, same = state(tiny()), []
    data = {i for content in unpack(good).values() for i in range(good.index(content) + 128, good.index(content)
                                                                 + len(content))}
    for i in range(len(good)):
        for flip in [255] if i in data else [1 << bit for bit in range(8)]:
            found = outcome(path, good[:i] + bytes([good[i] ^ flip]) + good[i + 1:])
            assert found in (None, known), f"byte {i} ^ {flip} gives another network"
            same += [i] * (found is not None)
    # Idle is only what a zip file says of times, versions, disks and attributes: 22 bytes a member, 6 at the end.
    assert len(set(same)) == 22 * len(unpack(good)) + 6


def mutated(data, rng):
    """Some bytes changed, inserted, removed, repeated or set to extremes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 8, 30])
        data[at:at + rng.choice([0, length])] = rng.choice([
            b"", rng.randbytes(length), b"\0" * length, b"\xff" * length, data[at:at + length],
            data[(there := rng.randrange(len(data))):there + length]])
    return bytes(data)


@pytest.mark.parametrize("load", ["load", "load_params"])
def test_random_mutations(good, path, load):
    target, known, rng = tiny(seed=1), state(tiny()), random.Random(5)
    before = state(target)

    def load_params(path):
        target.load_params(path)
        return target

    for _ in range(3000 if load == "load" else 1000):
        found = outcome(path, mutated(good, rng), files.load if load == "load" else load_params)
        assert found in (None, known)
        if load == "load_params" and found is None:
            assert state(target) == before
        target.reset_params(seed=1)


def test_failing_loads_keep_no_files_open(good, path):
    path.write_bytes(good[:-40] + good[-22:])
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    errors = []
    for _ in range(20):
        with pytest.raises(FormatError) as error:
            files.load(path)
        errors.append(error)  # with its traceback
    assert not handles.exists() or len(list(handles.iterdir())) == before


# ------------------------------------------------------------------------------------------ hostile files


def npy(array, pickled=False):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=pickled)
    return file.getvalue()


def unpack(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(members, method=zipfile.ZIP_STORED):
    """A zip file of (name, bytes) pairs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for name, data in members.items() if isinstance(members, dict) else members:
            zipped.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def sealed(members, text):
    """The file with another description and the checksum to it."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return pack({**members, JSON: npy(np.frombuffer(text, np.uint8)),
                 CHECKSUM: npy(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))})


def describe(data):
    return json.loads(bytes(np.load(io.BytesIO(data))["fastlrp.json"]))


def refused(path, data, match, load=files.load):
    """FormatError that names the file and says `match`, with less memory than four times the file and 64 MB."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=match) as error:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + (64 << 20)
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_object_arrays_are_refused_unread(good, path, tmp_path):
    members, name = unpack(good), "linear1/weight.npy"
    trap = npy(np.array([Trap(tmp_path / "sprung")], object), pickled=True)
    refused(path, pack({**members, name: trap}), r"linear1/weight.*expected 144 bytes")
    header = trap[:128]
    refused(path, pack({**members, name: header + members[name][128:]}), r"linear1/weight.*header.*\|O")
    refused(path, pack({**members, JSON: trap}), "fastlrp.json.*header")
    assert not (tmp_path / "sprung").exists()


def test_a_zip_bomb(good, path):
    members = {**unpack(good), "linear1/weight.npy": npy(np.zeros((2000, 2000), np.float32))}
    data = pack(members, zipfile.ZIP_DEFLATED)
    assert len(data) < 200_000
    refused(path, data, "compressed")
    text = describe(good)
    text["tensors"][0]["shape"] = [2000, 2000]
    stored = unpack(sealed(members, text))
    refused(path, pack(stored, zipfile.ZIP_DEFLATED), "fastlrp.json.*compressed")


@pytest.mark.parametrize("size", [1 << 20, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_member_that_declares_more_than_there_is(size, good, path):
    for fields in ([24], [20, 24]):  # the size, both sizes
        data = bytearray(good)
        entry = data.index(b"linear1/weight.npy", data.index(b"PK\1\2")) - 46
        for field in fields:
            data[entry + field:entry + field + 4] = struct.pack("<L", size)
        refused(path, bytes(data), "linear1/weight")


def test_members_beside_those_described(good, path):
    members = unpack(good)
    for name in ("../evil.npy", "/etc/evil.npy", "linear1/gain.npy", "inner.zip", "LINEAR1/weight.npy", "x/"):
        refused(path, pack({**members, name: good}), f"member '{name}': unknown")
    for name in members:
        refused(path, pack([*members.items(), (name, members[name])]), f"second entry for member '{name}'")
        rest = {other: data for other, data in members.items() if other != name}
        refused(path, pack(rest), f"{name}.*(missing|not a file that fastlrp saved)")
    refused(path, pack({**members, "é.npy": b""}), "member name in ASCII")
    refused(path, pack([(f"{i}", b"") for i in range(20_001)]), "at most 20000 members")


def test_encrypted_members(good, path):
    data = bytearray(good)
    data[6] = data[data.index(b"PK\1\2") + 8] = 1
    refused(path, bytes(data), "fastlrp.json.*encrypted")


def test_a_member_inside_another(good, path):
    """Two entries share bytes: the first declares its own and those of the member after it."""
    data = bytearray(pack({"outer.npy": b"1234", "inner.npy": b"5678"}))
    start, directory = data.index(b"1234"), data.index(b"PK\1\2")
    size = data.index(b"5678") + 4 - start
    for record, offset in ((0, 14), (directory, 16)):
        struct.pack_into("<3L", data, record + offset, zlib.crc32(data[start:start + size]), size, size)
    refused(path, bytes(data), "'inner.npy': declared at byte 43 .* expected at byte")


def test_bytes_between_before_and_after(good, path):
    directory = good.index(b"PK\1\2")
    for data in (b"#!/bin/sh\n" + good, good + b"\0", good + good, good[:directory] + b"gap" + good[directory:]):
        refused(path, data, "byte|directory")
    with_comment = bytearray(good + b"comment")
    with_comment[len(good) - 2] = 7
    refused(path, bytes(with_comment), "no end record")


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00", b"PK\5\6" + b"\0" * 18,
                                  b"\0" * 1000])
def test_other_files(data, path):
    refused(path, data, "end record|not a file that fastlrp saved")


def test_other_numpy_archives(path):
    for save in (np.savez, np.savez_compressed):
        save(path, x=np.ones(3))
        refused(path, path.read_bytes(), "not a file that fastlrp saved|compressed")


def test_a_newer_version_is_named(good, path):
    text, members = describe(good), unpack(good)
    text |= {"version": 4, "fastlrp": "9.9", "checksums": "elsewhere"}
    newer = {**unpack(sealed(members, text)), "new.npy": b""}
    del newer[CHECKSUM]
    for load in (files.load, lambda path: files.load_params(tiny(), path)):
        refused(path, pack(newer), r"version 4 of the format, written by fastlrp '9.9'.*supports version 3", load)


def test_checksums(good, path):
    members, text = unpack(good), describe(good)
    changed = members["linear1/bias.npy"][:-1] + b"\1"
    refused(path, pack({**members, "linear1/bias.npy": changed}), r"linear1/bias.*SHA-256")
    refused(path, pack({**members, CHECKSUM: npy(np.zeros(32, np.uint8))}), r"description: its SHA-256")
    text["layers"][1]["name"] = "linear2"
    refused(path, pack({**members, JSON: unpack(sealed(members, text))[JSON]}), r"description: its SHA-256")


LISTED = {  # what a description may hold instead: place, value, and what the error says
    "no object": ((), [], "expected an object"),
    "other format": (("format",), "onnx", '"format": "fastlrp"'),
    "version 0": (("version",), 0, "version: expected a whole number"),
    "version true": (("version",), True, "version: expected a whole number"),
    "version 1.0": (("version",), 1.0, "version: expected a whole number"),
    "kind": (("kind",), "optimiser", "kind: expected"),
    "kind list": (("kind",), [], "kind: expected"),
    "writer": (("fastlrp",), None, "fastlrp: expected str"),
    "unknown key": (("more",), 1, "expected the keys"),
    "empty input": (("inputs", 0, "shape"), [], r"inputs\[0\].shape: expected 1 to 32 positive"),
    "zero input": (("inputs", 0, "shape"), [0], r"inputs\[0\].shape: expected 1 to 32 positive"),
    "text input": (("inputs", 0, "shape"), "2", "shape: expected list"),
    "true input": (("inputs", 0, "shape"), [True], r"inputs\[0\].shape: expected 1 to 32 positive"),
    "huge input": (("inputs", 0, "shape"), [10**17, 10**17], "at most 4294967296 values"),
    "many dimensions": (("inputs", 0, "shape"), [1] * 33, r"inputs\[0\].shape: expected 1 to 32 positive"),
    "many digits": (("inputs", 0, "shape"), [10**4000], "at most 18 digits"),
    "no inputs": (("inputs",), [], "inputs: expected at least one"),
    "input key": (("inputs", 0, "dtype"), "f4", r"inputs\[0\]: expected the keys"),
    "input name": (("inputs", 0, "name"), 3, "name: expected str"),
    "name of a layer": (("inputs", 0, "name"), "relu1", r"\['relu1'\] more than once"),
    "layout": (("channels_first",), 1, "channels_first: expected bool"),
    "no outputs": (("outputs",), [], "outputs: expected indices"),
    "output of an input": (("outputs",), [0], "outputs: expected indices of values from 1 to 2"),
    "output beyond the end": (("outputs",), [3], "outputs: expected indices of values from 1 to 2"),
    "true output": (("outputs",), [True], "outputs: expected indices"),
    "version 1 of version 3": (("version",), 1, "the top level: expected the keys"),
    "version 2 of version 3": (("version",), 2, r"layers\[0\]: expected the keys"),
    "no layers": (("layers",), [], "at least one layer"),
    "layers object": (("layers",), {}, "layers: expected list"),
    "layer text": (("layers", 0), "ReLU", r"layers\[0\]: expected an object"),
    "layer key": (("layers", 0, "dtype"), "f4", r"layers\[0\]: expected the keys"),
    "layer class": (("layers", 0, "class"), "Convolution3d", r"layers\[0\].class: .*, but not 'Convolution3d'"),
    "layer base": (("layers", 0, "class"), "Layer", r"layers\[0\].class: .*, but not 'Layer'"),
    "layer name": (("layers", 0, "name"), 3, "name: expected str"),
    "same names": (("layers", 0, "name"), "linear1", r"layers\[1\]: expected the class and config"),
    "other class": (("layers", 1, "class"), "ReLU", r"layers\[1\] \(ReLU 'linear1'\).*unexpected keyword"),
    "no option": (("layers", 1, "config"), {}, r"layers\[1\].*missing"),
    "option": (("layers", 1, "config", "in"), 2, r"layers\[1\].*unexpected keyword"),
    "name option": (("layers", 1, "config", "name"), "a", r"layers\[1\].*multiple values"),
    "negative out": (("layers", 1, "config", "out"), -1, r"layers\[1\].*at least 1"),
    "huge out": (("layers", 1, "config", "out"), 10**12, "out must be less than"),
    "large out": (("layers", 1, "config", "out"), 10**6, r"tensors.*\(2, 1000000\) in the network"),
    "out text": (("layers", 1, "config", "out"), "2", "must be an int"),
    "bias 1": (("layers", 1, "config", "bias"), 1, "True or False"),
    "bias missing": (("layers", 1, "config", "bias"), False, "linear1/bias: not there in the network"),
    "constants text": (("layers", 1, "constants"), "bias", "constants: expected list"),
    "constant weight": (("layers", 1, "constants"), ["weight"], r"layers\[1\].constants: Linear has \(\), got"),
    "constant nowhere": (("layers", 1, "constants"), ["gain"], r"layers\[1\].constants: expected names of tensors"),
    "constant list": (("layers", 1, "constants"), [["weight"]], r"layers\[1\].constants: expected names of tensors"),
    "no value": (("layers", 1, "inputs"), [], r"layers\[1\].inputs: expected indices of values from 0 to 1"),
    "its own output": (("layers", 1, "inputs"), [2], r"layers\[1\].inputs: expected indices of values from 0 to 1"),
    "value −1": (("layers", 1, "inputs"), [-1], r"layers\[1\].inputs: expected indices"),
    "two inputs": (("layers", 1, "inputs"), [0, 1], r"layers\[1\].*expected one input, got 2"),
    "tensor list": (("tensors", 0), [], r"tensors\[0\]: expected an object"),
    "tensor name": (("tensors", 0, "name"), "linear2/weight", "linear1/weight.npy': unknown"),
    "tensor path": (("tensors", 0, "name"), "weight", "cannot be stored"),
    "tensor twice": (("tensors", 0, "name"), "linear1/bias", "different names"),
    "tensor shape": (("tensors", 0, "shape"), [2, 3], "expected 152 bytes"),
    "turned shape": (("tensors", 0, "shape"), [4, 1], r"\(4, 1\) in the file"),
    "huge shape": (("tensors", 0, "shape"), [10**17] * 32, "expected 4"),
    "object type": (("tensors", 0, "dtype"), "|O", r"dtype: expected one of"),
    "big-endian": (("tensors", 0, "dtype"), ">f4", r"dtype: expected one of"),
    "checksum": (("tensors", 0, "sha256"), "0" * 64, "SHA-256"),
    "checksum number": (("tensors", 0, "sha256"), 0, "sha256: expected str"),
}


@pytest.mark.parametrize("name", LISTED)
def test_descriptions(name, good, path):
    """The checksum being right, the content is checked all the same."""
    place, value, message = LISTED[name]
    text = describe(good)
    if place:
        node = text
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
    refused(path, sealed(unpack(good), text if place else value), message)


def scaled(path):
    """The bytes of a network with one constant in single precision and one in double."""
    net = fastlrp.Network([fastlrp.Scale([1, 2], [0.1, 0.2], name="a"), fastlrp.ReLU()], input_shape=(2,))
    net.save(path)
    return path.read_bytes()


def with_tensor(data, i, array):
    """The file with another array as tensor i, its checksum right."""
    text = describe(data)
    tensor = text["tensors"][i]
    tensor |= {"shape": list(array.shape), "dtype": array.dtype.str,
               "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    return sealed({**unpack(data), f"{tensor['name']}.npy": npy(array)}, text)


CONSTANTS = {  # a tensor, what it holds instead, and what the error says
    "NaN": (0, np.float32([1, np.nan]), r"layers\[0\] \(Scale 'a'\): times must hold finite numbers"),
    "infinity": (1, np.array([-np.inf, 0.1]), "plus must hold finite numbers"),
    "other shape": (0, np.ones((3,), np.float32), r"layers\[0\] .*times of shape \(3,\) does not fit samples of shape"),
    "more axes": (0, np.ones((1, 2), np.float32), r"times of shape \(1, 2\) does not fit"),
    "32 axes": (0, np.ones((1,) * 32, np.float32), "does not fit"),
    "double for nothing": (0, np.array([1.0, 2.0]), "constants: expected 'times' in float32, which holds every bit"),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_no_layer_has(name, path):
    """Behind right checksums."""
    i, array, message = CONSTANTS[name]
    refused(path, with_tensor(scaled(path), i, array), f"description: .*{message}")


def test_constants_are_checked_before_they_are_read(path, tmp_path):
    """Sizes against the file, types, checksums; a tensor is one layer's, and listed where a layer is made with it."""
    data = scaled(path)
    members, text = unpack(data), describe(data)

    def changed(**more):
        return sealed(members, {**text, **more})
    first, second = text["tensors"]
    refused(path, changed(tensors=[{**first, "shape": [1 << 30]}, second]), r"a/times.*expected 4294967424 bytes")
    refused(path, changed(tensors=[{**first, "dtype": "<i4"}, second]), r"tensors\[0\].dtype: expected one of")
    refused(path, changed(tensors=[{**first, "sha256": "0" * 64}, second]), r"a/times.*SHA-256")
    refused(path, changed(tensors=[second, first]), "not those of the layers, in their order: another order")
    refused(path, changed(tensors=[first]), r"layers\[0\].constants: expected names of tensors")
    trap = npy(np.array([Trap(tmp_path / "sprung")], object), pickled=True)
    refused(path, pack({**members, "a/times.npy": trap[:128] + members["a/times.npy"][128:]}), r"a/times.*header.*\|O")
    assert not (tmp_path / "sprung").exists()
    layer, last = text["layers"]
    for more, message in (({"constants": ["times"]}, "tensors: not those of the layers.*a/plus"),
                          ({"constants": ["times", "times", "plus"]}, "constants: Scale has"),
                          ({"config": {"times": [1.0, 2.0]}, "constants": ["plus"]}, "config.times: expected a number"),
                          ({"config": {"times": 1.0}}, "multiple values"),
                          ({"class": "ReLU"}, r"ReLU has \(\)"), ({"class": "Linear"}, r"Linear has \(\)")):
        refused(path, changed(layers=[{**layer, **more}, last]), message)
    twice = [layer, {**layer, "constants": ["times"], "config": {"plus": 0.0}, "inputs": [1]}]
    refused(path, changed(layers=twice), r"layers\[1\]: expected the class and config of the first")


def test_memory_of_constants(path):
    """A file of nothing else, and one that makes a shared layer of it a thousand times."""
    for dtype in (np.float32, np.float64):
        image = np.random.default_rng(0).standard_normal((1000, 1000, 4)).astype(dtype)
        x = fastlrp.Input(image.shape)
        shared, h = fastlrp.Scale(image), x
        for _ in range(1000):
            h = shared(h)
        fastlrp.Network.from_graph(x, h).save(path)
        size = path.stat().st_size
        assert size < 1.02 * image.nbytes
        tracemalloc.start()
        files.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3.5 * size


def one_layer(kind, config, shape):
    return {"format": "fastlrp", "version": 1, "fastlrp": "0.1.0", "kind": "network", "input_shape": shape,
            "layers": [{"class": kind, "name": "a", "config": config, "inputs": [0]}], "tensors": []}


def test_version_1_holds_sequences(path, good):
    """Nothing else can be read into it."""
    for reads in ([1], [], [0, 0]):
        text = one_layer("ReLU", {}, [2])
        text["layers"][0]["inputs"] = reads
        refused(path, sealed(unpack(good), text), r"layers\[0\].inputs: expected")


ONE, NONE = [1, 1], [[0, 0], [0, 0]]


@pytest.mark.parametrize(("kind", "config", "shape", "message"), [
    ("Pad2d", {"padding": [[10**17, 0], [0, 0]]}, [3, 3, 1], "padding must be less than"),
    ("Pad2d", {"padding": [[2**30, 0], [2**30, 0]]}, [3, 3, 1], "at most 4294967296 values"),
    ("Conv2d", {"out": 1, "kernel": [10**9, 1], "padding": "same"}, [3, 3, 1], r"\(1000000000, 1, 1, 1\) in the"),
    ("Reshape", {"shape": [9] * 200_000}, [9], "at most 32 whole numbers"),
    ("Reshape", {"shape": [1] * 31 + [-1, -1]}, [2], "at most 32 whole numbers"),
    ("Reshape", {"shape": [3, -1]}, [2], "cannot reshape"),
    ("SumPool2d", {"kernel": ONE, "scale": "x"}, [4, 4, 1], "scale must be"),
    ("SumPool2d", {"kernel": ONE, "scale": None}, [4, 4, 1], r"layers\[0\]"),
    ("SumPool2d", {"kernel": ONE, "scale": 10**17}, [4, 4, 1], "config.scale: expected what SumPool2d keeps"),
    ("AvgPool2d", {"kernel": ONE, "count_include_pad": "no"}, [4, 4, 1], "count_include_pad must .*, got 'no'"),
    ("AvgPool2d", {"kernel": ONE, "scale": 1.0}, [4, 4, 1], "unexpected keyword"),
    ("Conv2d", {"out": 3, "kernel": 2.5}, [3, 3, 1], "must be an int"),
    ("Conv2d", {"out": 1, "kernel": [[1], 1]}, [3, 3, 1], "must be an int"),
    ("Conv2d", {"out": 1, "kernel": ONE, "groups": 0}, [3, 3, 1], "at least 1"),
    ("Conv2d", {"out": 1, "kernel": [4, 4]}, [3, 3, 1], "does not fit"),
    ("ReLU", {"self": 1}, [1], r"layers\[0\]"), ("Reshape", {"shape": "12"}, [2], "shape must be"),
    ("Reshape", {"shape": [[2]]}, [2], r"layers\[0\]"), ("Reshape", {"shape": {}}, [2], "config.shape: expected"),
    ("Slice", {"axis": 2}, [4, 4], "axis must be from"), ("Slice", {"start": 10**17}, [4], "start must be less than"),
    ("Slice", {"stop": -10**16}, [4], "stop must be at least"), ("Slice", {"start": 4}, [4], "pick nothing"),
    ("Slice", {"step": 0}, [4], "step must be"), ("Slice", {"stop": 2.0}, [4], "stop must be an int"),
    ("Dropout", {"rate": 1.0}, [2], "rate must be"), ("Dropout", {"rate": "0.5"}, [2], r"layers\[0\]"),
    ("LeakyReLU", {"slope": [0.5, 1.0]}, [2], r"layers\[0\]"), ("LeakyReLU", {"slope": 1}, [2], "config.slope: expect"),
    ("Format", {"low": float("nan")}, [2], "must be finite"), ("Format", {"high": float("inf")}, [2], "must be finite"),
    ("Normalize", {"mean": "0", "std": 1.0}, [2], "mean must be"),
    ("Normalize", {"mean": [[1.0], 2.0], "std": 1.0}, [2], r"layers\[0\]"),
    ("Normalize", {"mean": 0.0, "std": float("nan")}, [2], "finite numbers"),
    ("Normalize", {"mean": {}, "std": 1.0}, [2], r"layers\[0\]"),
    ("Normalize", {"mean": [1.0] * 3, "std": 1.0}, [2], "3 values, the input 2")], ids=lambda value: str(value)[:40])
def test_options_that_no_layer_has(kind, config, shape, message, path):
    start = time.monotonic()
    refused(path, sealed({}, one_layer(kind, config, shape)), f"description: .*{message}")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("kind", "config", "shape"), [
    ("SumPool2d", {"kernel": ONE, "stride": ONE, "padding": NONE, "scale": 1.0}, [60_000, 60_000, 1]),
    ("AvgPool2d", {"kernel": ONE, "count_include_pad": True}, [10**9, 4, 1]),
    ("AvgPool2d", {"kernel": [500, 500], "stride": ONE, "count_include_pad": False}, [60_000, 60_000, 1])])
def test_pools_compute_nothing_when_they_are_read(kind, config, shape, path):
    """A few bytes that declare a huge pool take no memory: its factors are computed when it first runs."""
    path.write_bytes(sealed({}, one_layer(kind, config, shape)))
    tracemalloc.start()
    files.load(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("text", [b"[" * 2_000_000, b"[" * 900 + b"]" * 900, b"[" + b"[]," * 690_000 + b"[]]",
                                  b"[" + b"{}," * 690_000 + b"{}]", b'{"a":1,"a":1}', b"{", b"\xff\xfe", b"nul", b"",
                                  b'{"format": "fastlrp", "version": 1e999}', b" " * ((2 << 20) + 1)],
                         ids=lambda text: repr(text[:12]))
def test_texts_that_are_no_description(text, path):
    refused(path, sealed({}, text), "fastlrp.json|description")


def grafted(node, rng):
    """The JSON value with one of its values replaced by something that does not belong there."""
    values = [None, True, 0, 1, -1, 2, 3, 10**17, 0.5, 1e308, float("nan"), "", "same", "sqrt", "ReLU", [], {}, [1, 1],
              [[1, 2], [0, 1]], [3, 2], [10**6, 10**6], [10**9, 10**9, 1], {"out": 2}, "linear1/weight", "conv1"]
    if not isinstance(node, (dict, list)) or not node or rng.random() < 0.15:
        return rng.choice(values)
    keys = list(node) if isinstance(node, dict) else range(len(node))
    key = rng.choice(keys)
    if rng.random() < 0.1:
        changed = dict(node) if isinstance(node, dict) else list(node)
        del changed[key]
        return changed
    changed = dict(node) if isinstance(node, dict) else list(node)
    changed[key] = grafted(node[key], rng)
    return changed


def test_random_descriptions(net, path):
    """Behind right checksums: refused, or a network (of other options, perhaps); never another error."""
    net.save(path)
    data = path.read_bytes()
    members, text, rng = unpack(data), describe(data), random.Random(6)
    loaded = 0
    for _ in range(1500):
        changed = {**text, "layers": list(text["layers"])}
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.7:
                i = rng.randrange(len(text["layers"]))
                changed["layers"][i] = grafted(changed["layers"][i], rng)
            else:
                changed = grafted(changed, rng)
                break
        loaded += outcome(path, sealed(members, changed)) is not None
    assert loaded


# ------------------------------------------------------------------------------------------ loading parameters


def test_parameters_of_another_network(path):
    def make(out, name):
        return fastlrp.Network([fastlrp.Linear(out, name="first"), fastlrp.Linear(3, name=name)], input_shape=(2,))

    make(5, "second").save_params(path)
    target = make(4, "third")
    before = state(target)
    with pytest.raises(ValueError, match=r"net has other parameters than .*net.npz: first/weight: \(2, 4\) in the "
                       r"network, \(2, 5\) in the file; first/bias: .*third/weight: .*not there in the file.*"
                       r"second/bias: not there in the network") as error:
        target.load_params(path)
    assert not isinstance(error.value, FormatError)
    assert state(target) == before
    with pytest.raises(FormatError, match="holds parameters alone"):
        files.load(path)


def test_nothing_is_assigned_unless_everything_is_right(path):
    other, target = every_layer(), every_layer()
    other.reset_params(seed=1)
    other.save_params(path)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\3\4") + 180] ^= 1  # in the last member
    path.write_bytes(data)
    before = state(target)
    with pytest.raises(FormatError, match="CRC"):
        target.load_params(path)
    assert state(target) == before


def test_memory_of_a_load(path):
    net = fastlrp.Network([fastlrp.Linear(2000), fastlrp.Linear(1000)], input_shape=(1000,))
    net.save(path)
    size = path.stat().st_size
    for load in (files.load, net.load_params):
        tracemalloc.start()
        load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.5 * size


def test_limits_agree():
    """The archive takes as many members as the longest description can list."""
    entry = len(json.dumps({"name": "a/b", "shape": [1], "dtype": "<f4", "sha256": "0" * 64}))
    assert description.MOST_BYTES // entry < archive.MOST_MEMBERS
