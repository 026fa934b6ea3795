"""Networks as users meet them: arrays of every kind, errors that name what is wrong, explanations, the old calls.

Bits are compared, not values, wherever the design promises that something changes nothing.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    COMPOSITES,
    MIXED_SHAPE,
    assert_same_bits,
    dense_map,
    mixed_network,
    mixed_signs,
    relative_error,
    with_biases,
)

import fastlrp
from fastlrp import progress
from fastlrp.composites import Uniform
from fastlrp.program import Recorder
from fastlrp.reference import Reference
from fastlrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus

NET = mixed_network()
FORMATTED = mixed_network(fastlrp.Format(-1, 1))
X = mixed_signs(np.random.default_rng(0), 13, MIXED_SHAPE)
ALL_COMPOSITES = pytest.mark.parametrize("composite", COMPOSITES)


def small_network(**more: Any) -> fastlrp.Network:
    return with_biases(fastlrp.Network([fastlrp.Linear(4), fastlrp.ReLU(), fastlrp.Linear(3)], (5,), **more))


SMALL_X = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


# ---- arrays of every kind ----

def misaligned(x: np.ndarray) -> np.ndarray:
    raw = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def memory_mapped(x: np.ndarray, folder: Any) -> np.ndarray:
    path = folder / f"{x.size}.bin"
    x.tofile(path)
    return np.memmap(path, x.dtype, "r", shape=x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda x: x.astype(np.float64), "float16": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble), "int8": lambda x: x.astype(np.int8),
    "int64": lambda x: x.astype(np.int64), "big-endian": lambda x: x.astype(">f4"),
    "big-endian int16": lambda x: x.astype(">i2"), "big-endian float64": lambda x: x.astype(">f8"),
    "Fortran order": np.asfortranarray, "reversed": lambda x: x[::-1].copy()[::-1],
    "reversed channels": lambda x: x[..., ::-1].copy()[..., ::-1], "strided": strided, "misaligned": misaligned,
    "transposed": lambda x: np.moveaxis(np.moveaxis(x, -1, 1).copy(), 1, -1), "read-only": read_only,
    "a list": lambda x: x.tolist(), "nested tuples": lambda x: tuple(map(tuple, x.tolist())),
    "a list of arrays": list,
}


@pytest.mark.parametrize("kind", [*ARRAYS, "memory map"])
def test_arrays_of_every_kind_give_the_same_bits(kind: str, tmp_path: Any) -> None:
    """Inputs and start relevance of any real type, strides and byte order, on small integers that all types hold."""
    rng = np.random.default_rng(2)
    x = rng.integers(-5, 6, (7, *MIXED_SHAPE)).astype(np.float32)
    start = rng.integers(-5, 6, (7, 4)).astype(np.float32)
    other_x, other_start = (memory_mapped(a, tmp_path) if kind == "memory map" else ARRAYS[kind](a)
                            for a in (x, start))
    assert_same_bits(NET.forward(other_x), NET.forward(x))
    expected = NET.explain(x, start=start).relevance
    assert_same_bits(NET.explain(other_x, start=other_start).relevance, expected)
    assert np.array_equal(np.asarray(other_x), x) and np.array_equal(np.asarray(other_start), start)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_become_infinite() -> None:
    """In x and start, without a warning."""
    x, start = SMALL_X.astype(np.float64), np.ones((6, 3))
    x[0, 0], start[1, 1] = 1e300, -1e300
    net = small_network()
    infinite = x.copy()
    infinite[0, 0] = np.inf
    assert_same_bits(net.forward(x), net.forward(infinite))
    assert net.explain(SMALL_X, start=start).start[1, 1] == -np.inf


def test_arrays_without_masked_values_are_arrays() -> None:
    """What is masked, though, has no value: see the errors below."""
    assert_same_bits(NET.forward(np.ma.masked_array(X)), NET.forward(X))


def test_booleans_and_broadcast_arrays() -> None:
    """Masks are zeros and ones; arrays with zero strides are read like any other."""
    mask = X > 0
    assert_same_bits(NET.explain(mask).relevance, NET.explain(mask.astype(np.float32)).relevance)
    same = np.broadcast_to(X[3], (5, *MIXED_SHAPE))
    found = NET.explain(same).relevance
    for i in range(5):
        assert_same_bits(found[i], NET.explain(X[3:4]).relevance[0])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, ">i4", list, tuple], ids=str)
def test_targets_of_every_integer_kind(kind: Any) -> None:
    """Classes may come as any integers, per sample or one for all."""
    target = np.arange(len(X)) % 4
    other = kind(target.tolist()) if kind in (list, tuple) else target.astype(kind)
    expected = NET.explain(X, target)
    found = NET.explain(X, other)
    assert_same_bits(found.relevance, expected.relevance)
    assert found.target.tolist() == target.tolist()
    one = NET.explain(X, 2 if kind in (list, tuple) else np.array(2).astype(kind))
    assert_same_bits(one.relevance, NET.explain(X, np.full(len(X), 2)).relevance)


@ALL_COMPOSITES
def test_inputs_are_never_modified(composite: str) -> None:
    """Neither x nor start nor the reference nor the weights."""
    x, start, reference = X.copy(), np.ones((len(X), 4), np.float32), X[::-1].copy()
    weights = [layer.weight.copy() for layer in NET.weighted]
    found = NET.explain(x, composite=COMPOSITES[composite](), start=start, layers=True, reference=reference)
    found.relevance[:] = 0
    for values in found.layers.values():
        values[:] = 0
    assert_same_bits(x, X)
    assert_same_bits(reference, X[::-1])
    assert (start == 1).all()
    assert all(np.array_equal(a, layer.weight) for a, layer in zip(weights, NET.weighted, strict=True))


def test_results_do_not_share_memory() -> None:
    """Not with the input, not with each other, not with the next call, even where a layer passes values on."""
    net = fastlrp.Network([fastlrp.Dropout(), fastlrp.Flatten()], (2, 3))
    x = np.ones((4, 2, 3), np.float32)
    start = np.ones((4, 6), np.float32)
    out, found = net.forward(x), net.explain(x, start=start, layers=True)
    arrays = [x, start, out, net.forward(x), found.relevance, found.output, found.start, *found.layers.values()]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[:i])


# ---- batches ----

@ALL_COMPOSITES
def test_batches_change_no_bit(composite: str) -> None:
    """Alone, together, in another order and in chunks: each sample has its own bits, whatever its neighbours' signs."""
    chosen = COMPOSITES[composite]()
    for net in (NET, FORMATTED):
        together = net.explain(X, composite=chosen, layers=True)
        order = np.random.default_rng(3).permutation(len(X))
        permuted = net.explain(X[order], composite=chosen)
        assert_same_bits(permuted.relevance, together.relevance[order], "permuted")
        for batch_size in (1, 3, 8):
            chunked = net.explain(X, composite=chosen, batch_size=batch_size, layers=True)
            for name, values in together.layers.items():
                assert_same_bits(chunked.layers[name], values, f"{name} with batch_size={batch_size}")
            assert_same_bits(chunked.relevance, together.relevance, f"batch_size={batch_size}")
            assert_same_bits(chunked.output, together.output)
        alone = np.concatenate([net.explain(x[None], composite=chosen).relevance for x in X])
        assert_same_bits(alone, together.relevance, "alone")


@pytest.mark.parametrize("reference", ["batch", X[:5]], ids=["batch", "given"])
def test_references_do_not_depend_on_chunks(reference: Any) -> None:
    """Means are over all of the reference, not over a chunk."""
    found = NET.explain(X, composite="zbab", reference=reference)
    assert_same_bits(NET.explain(X, composite="zbab", reference=reference, batch_size=4).relevance, found.relevance)


@ALL_COMPOSITES
def test_an_empty_batch_gives_an_empty_explanation(composite: str) -> None:
    """With every array in its shape."""
    found = NET.explain(X[:0], composite=COMPOSITES[composite](), layers=True)
    assert found.relevance.shape == (0, *MIXED_SHAPE) and found.output.shape == (0, 4)
    assert found.target.shape == (0,) and found.layers["flatten1"].shape[0] == 0
    assert NET.forward(X[:0]).shape == (0, 4)


def test_empty_batches_elsewhere() -> None:
    """The other calls take none as they take some."""
    assert NET.lrp(X[:0]).shape == NET.sensitivity(X[:0]).shape == (0, *MIXED_SHAPE)
    assert NET.conservation_check(X[:0]).relevance_in.shape == (len(NET.layers), 0)
    assert str(NET.conservation_check(X[:0]))
    with pytest.raises(ValueError, match="x must hold at least one sample to be compared, got none"):
        NET.test(X[:0])
    assert NET.explain(X[:0], np.zeros(0, int), start="one").relevance.size == 0
    assert NET.explain(X[:0], precision="float64").relevance.dtype == np.float64


# ---- values that are not numbers ----

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@ALL_COMPOSITES
def test_one_sample_that_is_not_finite_leaves_the_others_alone(composite: str, value: float) -> None:
    """Bit for bit, wherever it stands in the batch."""
    chosen = COMPOSITES[composite]()
    clean = NET.explain(X, 1, chosen)
    for i in (0, 6, 12):
        dirty = X.copy()
        dirty[i, 4, 5, 1] = value
        found, others = NET.explain(dirty, 1, chosen), np.arange(len(X)) != i
        assert_same_bits(found.relevance[others], clean.relevance[others])
        assert_same_bits(found.output[others], clean.output[others])
        assert np.isnan(value) <= np.isnan(found.output[i]).all()


LOCAL_RULES = {"epsilon": Epsilon(), "z+": ZPlus(), "alpha-beta": AlphaBeta(), "gamma": Gamma(), "box": ZBox(-4, 4)}


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("rule", LOCAL_RULES)
def test_one_pixel_reaches_what_depends_on_it_and_nothing_else(rule: str, value: float) -> None:
    """Through two convolutions and a pool, forward and back; other pixels keep their bits."""
    net = with_biases(fastlrp.Network([
        fastlrp.Conv2d(5, 3, padding=1), fastlrp.ReLU(), fastlrp.SumPool2d(2), fastlrp.Conv2d(4, (2, 3))], (18, 20, 3)))
    x = mixed_signs(np.random.default_rng(4), 2, (18, 20, 3))
    dirty = x.copy()
    dirty[1, 5, 16, 2] = value
    mark = np.zeros((1, 18, 20, 3))
    mark[0, 5, 16, 2] = 1
    above, reached = [], mark
    for layer in (net.layers[0], net.layers[2], net.layers[3]):
        above.append(influence(layer))
        reached = reached.reshape(1, -1) @ above[-1] > 0
    back = reached
    for linked in reversed(above):
        back = back @ linked.T > 0
    clean, found = net.forward(x), net.forward(dirty)
    inside = reached.reshape(clean.shape[1:])
    assert_same_bits(found[1][~inside], clean[1][~inside])
    assert 0 < inside.sum() < inside.size and not np.isfinite(found[1][inside]).any()
    composite, start = Uniform(LOCAL_RULES[rule]), np.ones_like(clean)
    clean_r, found_r = (net.explain(a, composite=composite, start=start).relevance for a in (x, dirty))
    inside = back.reshape(18, 20, 3)
    assert_same_bits(found_r[1][~inside], clean_r[1][~inside])
    assert_same_bits(found_r[0], clean_r[0])
    assert inside.sum() < inside.size
    assert not np.isnan(value) or np.isnan(found_r[1][inside]).all()


def influence(layer: Any) -> np.ndarray:
    """Which inputs of a convolution or pool reach which outputs, as (inputs, outputs) of zeros and ones."""
    if hasattr(layer, "weight"):
        return dense_map(layer)[2]
    size = int(np.prod(layer.in_shape))
    net = fastlrp.Network([fastlrp.SumPool2d(layer.kernel, layer.stride, layer.padding)], layer.in_shape)
    return net.forward(np.eye(size).reshape(size, *layer.in_shape)).reshape(size, -1)


# ---- input that does not fit ----

BAD_INPUT = {
    "complex": (np.zeros((2, 5), complex), TypeError), "objects": (np.zeros((2, 5), object), TypeError),
    "strings": (np.full((2, 5), "a"), TypeError), "bytes": (np.full((2, 5), b"a"), TypeError),
    "dates": (np.zeros((2, 5), "M8[s]"), TypeError), "records": (np.zeros((2, 5), "f4,f4"), TypeError),
    "nothing": (None, TypeError), "a dictionary": ({}, TypeError), "a number": (1.0, ValueError),
    "one sample": (np.zeros(5), ValueError), "too wide": (np.zeros((2, 6)), ValueError),
    "an axis more": (np.zeros((2, 5, 1)), ValueError), "ragged": ([[1, 2], [3]], ValueError),
    "empty list": ([], ValueError), "masked": (np.ma.masked_equal(np.eye(2, 5), 1), TypeError),
}
CALLS_WITH_X: dict[str, Callable[..., Any]] = {
    "forward": lambda net, x: net.forward(x), "call": lambda net, x: net(x), "explain": lambda net, x: net.explain(x),
    "lrp": lambda net, x: net.lrp(x), "sensitivity": lambda net, x: net.sensitivity(x),
    "test": lambda net, x: net.test(x), "conservation": lambda net, x: net.conservation_check(x),
    "twin": lambda net, x: net.to_numpy().forward(x),
}


@pytest.mark.parametrize("call", CALLS_WITH_X)
@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_inputs_are_refused(name: str, call: str) -> None:
    """TypeError for what is not real numbers, ValueError for shapes; both name x."""
    value, error = BAD_INPUT[name]
    with pytest.raises(error, match=r"\bx\b"):
        CALLS_WITH_X[call](small_network(), value)


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "class above": ({"target": 3}, "target"), "class below": ({"target": -1}, "target"),
    "one class above": ({"target": [0, 1, 2, 3, 0, 1]}, "target"), "too few classes": ({"target": [0, 1]}, "target"),
    "real classes": ({"target": 1.0}, "target"), "boolean classes": ({"target": True}, "target"),
    "class by name": ({"target": "cat"}, "target"), "huge class": ({"target": np.uint64(2**63 + 1)}, "target"),
    "class beyond 64 bits": ({"target": 2**70}, f"target must be None, an int from 0 to 2 or .* got {2**70}$"),
    "real class": ({"target": 0.5}, "target must be .* got .*0.5"),
    "ragged classes": ({"target": [[1], [1, 2]]}, "target must be"),
    "masked classes": ({"target": np.ma.masked_equal([0, 1, 2, 0, 1, 2], 1)}, "target .* masked"),
    "masked start": ({"start": np.ma.masked_equal(np.eye(6, 3), 1)}, "start .* masked"),
    "target with array start": ({"target": 1, "start": np.zeros((6, 3))}, "target"),
    "start name": ({"start": "logits"}, "start"), "start shape": ({"start": np.zeros((6, 4))}, "start"),
    "start batch": ({"start": np.zeros((5, 3))}, "start"), "start number": ({"start": 1.0}, "start"),
    "complex start": ({"start": np.zeros((6, 3), complex)}, "start"),
    "start layer": ({"start_layer": "conv9"}, "conv9"), "start layer number": ({"start_layer": 1}, "1"),
    "composite name": ({"composite": "epsilon_minus"}, "composite .*'epsilon_minus'; did you mean 'epsilon_plus'?"),
    "a name like no other": ({"composite": "xyz"}, "composite .*'xyz'$"),
    "composite kind": ({"composite": 7}, "composite"),
    "a layer's name": ({"layers": "relu1"}, "layers"), "progress": ({"progress": 1}, "progress"),
    "no progress": ({"progress": 0}, "progress"), "progress by name": ({"progress": "x"}, "progress"),
    "no composite": ({"composite": None}, "composite"), "a rule": ({"composite": Epsilon()}, "composite"),
    "a rule class": ({"composite": Epsilon}, "composite"), "an array": ({"composite": np.zeros(2)}, "composite"),
    "layer name": ({"composite": {"conv9": Epsilon()}}, "conv9"),
    "no rule for layer": ({"composite": {"linear1": "epsilon"}}, "linear1"),
    "a preset function": ({"composite": fastlrp.composites.EpsilonPlus}, "composite"),
    "compat": ({"compat": "caffe"}, "compat"), "compat kind": ({"compat": ["zennit"]}, "compat"),
    "precision": ({"precision": "double"}, "precision"), "precision kind": ({"precision": 64}, "precision"),
    "batch size": ({"batch_size": 0}, "batch_size"), "real batch size": ({"batch_size": 2.0}, "batch_size"),
    "boolean batch size": ({"batch_size": True}, "batch_size"),
    "reference name": ({"reference": "mean"}, "reference"),
    "reference shape": ({"reference": np.zeros((2, 4))}, "reference"),
    "empty reference": ({"reference": np.zeros((0, 5))}, "reference"),
    "complex reference": ({"reference": np.zeros((2, 5), complex)}, "reference"),
    "methods name": ({"composite": ["simplest"]}, "methods"),
    "methods length": ({"composite": [["ab"]] * 7}, "methods"),
    "methods beyond floats": ({"composite": ["ab", 10**400]}, "methods' number must be a number that a float can hold"),
    "methods number": ({"composite": ["ab", "2"]}, "methods"), "no methods": ({"composite": []}, "methods"),
    "alpha below one": ({"composite": ["ab", 0.5]}, "beta"),
    "methods nested": ({"composite": [["ab", 1, 2]]}, "methods"),
    "methods number alone": ({"composite": [1, 2]}, "methods"),
    "methods None": ({"composite": [None, "ab"]}, "methods"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_of_explain_are_refused_by_name(name: str) -> None:
    """ValueError or TypeError that names the argument; the network explains as before afterwards."""
    arguments, named = BAD_ARGUMENTS[name]
    net = small_network()
    before = net.explain(SMALL_X).relevance
    with pytest.raises((ValueError, TypeError), match=named):
        net.explain(SMALL_X, **arguments)
    assert_same_bits(net.explain(SMALL_X).relevance, before)


@pytest.mark.parametrize(("call", "named"), [
    (lambda net: net.lrp(SMALL_X, 3), "class_filter"), (lambda net: net.lrp(SMALL_X, np.zeros((2, 3))), "class_filter"),
    (lambda net: net.lrp(SMALL_X, "cat"), "class_filter"), (lambda net: net.lrp(SMALL_X, -1), "class_filter"),
    (lambda net: net.lrp(SMALL_X, explain_layer_id=3), "explain_layer_id"),
    (lambda net: net.lrp(SMALL_X, explain_layer_id=1.0), "explain_layer_id"),
    (lambda net: net.lrp(SMALL_X, reference="mean"), "reference"),
    (lambda net: net.lrp(SMALL_X, reference=np.zeros((0, 5))), "reference"),
    (lambda net: net.lrp(SMALL_X, methods="abab"), "composite|methods"),
    (lambda net: net.sensitivity(SMALL_X, np.zeros(4)), "class_filter"),
    (lambda net: net.forward(SMALL_X, batch_size=-1), "batch_size"),
    (lambda net: net.forward(SMALL_X, precision="low"), "precision .*'highest', 'high', 'medium', 'float64'.*'low'"),
    (lambda net: net(SMALL_X, precision=np.float64), "precision"), (lambda net: net.at(["high"]), "precision"),
    (lambda net: net.lrp(SMALL_X, precision="LOW"), "precision"), (lambda net: net.at(None), "precision"),
    (lambda net: net.layerwise_lrp(SMALL_X, precision=1), "precision"),
    (lambda net: net.test(SMALL_X, precision="single"), "precision"),
    (lambda net: net.test(np.full((1, 5), np.nan)), "x must be finite"),
    (lambda net: net.test(SMALL_X, tolerance=-1), "tolerance must be at least 0, got -1"),
    (lambda net: net.test(SMALL_X, tolerance=float("nan")), "tolerance must be finite"),
    (lambda net: net.reset_params(init=np.ones(2)), "init must be"), (lambda net: small_network(init=[1, 2]), "init"),
    (lambda net: net.reset_params(init="zeros"), "init"), (lambda net: net.to_numpy(np.int32), "dtype"),
    (lambda net: net.find("linear3"), "linear3"), (lambda net: fastlrp.set_num_threads(0), "n must"),
    (lambda net: fastlrp.set_num_threads(1.5), "n must"), (lambda net: fastlrp.set_num_threads(True), "n must"),
    (lambda net: fastlrp.composites.Uniform("epsilon"), "rule"),
    (lambda net: fastlrp.composites.Uniform(Epsilon(), first=1), "first"),
    (lambda net: fastlrp.composites.Composite("mine", None), "entries must be pairs .* got None"),
    (lambda net: fastlrp.composites.Composite("mine", (), times_input="no"), "times_input must be True or False"),
    (lambda net: fastlrp.composites.Composite("mine", (), start=3), 'start must be "logit" or "one", got 3'),
    (lambda net: fastlrp.composites.Composite("mine", (), start=np.ones(2)), "start"),
])
def test_bad_arguments_of_other_calls_are_refused_by_name(call: Callable, named: str) -> None:
    """As explain's are."""
    with pytest.raises((ValueError, TypeError), match=named):
        call(small_network())


# ---- layers and graphs that do not fit ----

BAD_LAYERS: dict[str, tuple[Callable[[], Any], str]] = {
    "no outputs": (lambda: fastlrp.Linear(0), "out"), "real outputs": (lambda: fastlrp.Linear(2.0), "out"),
    "boolean outputs": (lambda: fastlrp.Linear(True), "out"), "bias": (lambda: fastlrp.Linear(2, bias=1), "bias"),
    "name": (lambda: fastlrp.Linear(2, name=3), "name"), "no kernel": (lambda: fastlrp.Conv2d(4, 0), "kernel"),
    "kernel of three": (lambda: fastlrp.Conv2d(4, (3, 3, 3)), "kernel"),
    "kernel by name": (lambda: fastlrp.Conv2d(4, "3"), "kernel"), "kernel array": (
        lambda: fastlrp.Conv2d(4, np.ones(3, int)), "kernel"),
    "stride": (lambda: fastlrp.Conv2d(4, 3, stride=0), "stride"),
    "negative padding": (lambda: fastlrp.Conv2d(4, 3, padding=-1), "padding"),
    "padding by name": (lambda: fastlrp.Conv2d(4, 3, padding="valid"), "padding"),
    "padding of three": (lambda: fastlrp.Conv2d(4, 3, padding=(1, 1, 1)), "padding"),
    "padding of an int and a pair": (lambda: fastlrp.Conv2d(4, 3, padding=(1, (1, 1))),
                                     r"padding must be an int, a pair \(height, width\), .* got \(1, \(1, 1\)\)"),
    "padding with three before": (lambda: fastlrp.Conv2d(4, 3, padding=((1, 1, 1), (1, 1))),
                                  r'padding must be .*"same", got \(\(1, 1, 1\), \(1, 1\)\)'),
    "kernel array of reals": (lambda: fastlrp.Conv2d(4, np.ones(2)), r"kernel must be an int or a pair \(height"),
    "kernel of bytes": (lambda: fastlrp.Conv2d(4, b"33"), "kernel"),
    "dilation": (lambda: fastlrp.Conv2d(4, 3, dilation=0), "dilation"),
    "groups": (lambda: fastlrp.Conv2d(4, 3, groups=3), "groups"), "no groups": (
        lambda: fastlrp.Conv2d(4, 3, groups=0), "groups"),
    "pool kernel": (lambda: fastlrp.MaxPool2d(0), "kernel"), "pool stride": (
        lambda: fastlrp.AvgPool2d(2, stride=(1, 0)), "stride"),
    "pool scale": (lambda: fastlrp.SumPool2d(2, scale="root"), "scale"), "pool scale nan": (
        lambda: fastlrp.SumPool2d(2, scale=float("nan")), "scale"),
    "no pool scale": (lambda: fastlrp.SumPool2d(2, scale=None), "scale"),
    "slope": (lambda: fastlrp.LeakyReLU(float("inf")), "slope"), "slope by name": (
        lambda: fastlrp.LeakyReLU("steep"), "slope"),
    "rate": (lambda: fastlrp.Dropout(1.0), "rate"), "rate by name": (lambda: fastlrp.Dropout("half"), "rate"),
    "format": (lambda: fastlrp.Format(1, 1), "low"), "format nan": (lambda: fastlrp.Format(0, float("nan")), "high"),
    "format by name": (lambda: fastlrp.Format("low", "high"), "low"),
    "std": (lambda: fastlrp.Normalize(0.5, 0.0), "std"), "mean": (lambda: fastlrp.Normalize(float("nan"), 1.0), "mean"),
    "std infinite": (lambda: fastlrp.Normalize(0.5, float("inf")), "std"),
    "mean by name": (lambda: fastlrp.Normalize("a", 1.0), "mean"),
    "shape": (lambda: fastlrp.Reshape((2, 0)), "shape"), "two open sizes": (lambda: fastlrp.Reshape((-1, -1)), "shape"),
    "real shape": (lambda: fastlrp.Reshape((2.5, 2)), "shape"), "shape by name": (
        lambda: fastlrp.Reshape("flat"), "shape"),
    "pad by name": (lambda: fastlrp.Pad2d("same"), "padding"), "pad value": (
        lambda: fastlrp.Pad2d(1, value="zero"), "value"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_bad_arguments_of_layers_are_refused_by_name(name: str) -> None:
    """When the layer is made."""
    make, named = BAD_LAYERS[name]
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}"):
        make()


def test_pairs_of_every_kind() -> None:
    """Tuples, lists and integer arrays."""
    for pair in ((3, 2), [3, 2], np.array([3, 2]), np.array([3, 2], np.uint8)):
        layer = fastlrp.Conv2d(4, pair, padding=pair)
        assert layer.kernel == (3, 2) and layer.padding == ((3, 3), (2, 2))
    for padding in (((3, 0), (2, 1)), np.array([[3, 0], [2, 1]]), (np.array([3, 0]), [2, 1])):
        assert fastlrp.Conv2d(4, 3, padding=padding).padding == ((3, 0), (2, 1))
    assert fastlrp.Conv2d(4, np.array(3)).kernel == (3, 3)


BAD_GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "no layers": (lambda: fastlrp.Network([], (5,)), "layers"),
    "not layers": (lambda: fastlrp.Network([fastlrp.Linear(3), "relu"], (5,)), r"layers\[1\]"),
    "a layer class": (lambda: fastlrp.Network([fastlrp.ReLU], (5,)), r"layers\[0\]"),
    "no list": (lambda: fastlrp.Network(fastlrp.Linear(3), (5,)), "layers"),
    "no input shape": (lambda: fastlrp.Network([fastlrp.Linear(3)], ()), "input_shape"),
    "a number for a shape": (lambda: fastlrp.Network([fastlrp.Linear(3)], 5), "input_shape"),
    "empty input": (lambda: fastlrp.Network([fastlrp.Linear(3)], (0,)), "input_shape"),
    "real shape": (lambda: fastlrp.Network([fastlrp.Linear(3)], (5.0,)), "input_shape"),
    "init": (lambda: fastlrp.Network([fastlrp.Linear(3)], (5,), init="ones"), "init"),
    "linear on images": (lambda: fastlrp.Network([fastlrp.Linear(3)], (5, 5, 1)), "linear1.*Flatten"),
    "conv on vectors": (lambda: fastlrp.Network([fastlrp.ReLU(), fastlrp.Conv2d(3, 3)], (5,)), "conv1"),
    "pool on vectors": (lambda: fastlrp.Network([fastlrp.MaxPool2d(2)], (5,)), "maxpool1"),
    "pad on vectors": (lambda: fastlrp.Network([fastlrp.Pad2d(2)], (5,)), "pad1"),
    "kernel too large": (lambda: fastlrp.Network([fastlrp.Conv2d(3, 3), fastlrp.Conv2d(3, 3, name="last")], (4, 4, 1)),
                         "last"),
    "dilated kernel too large": (lambda: fastlrp.Network([fastlrp.Conv2d(3, 3, dilation=3)], (6, 6, 1)), "conv1"),
    "groups": (lambda: fastlrp.Network([fastlrp.Conv2d(4, 3, groups=2)], (6, 6, 3)), "conv1.*groups"),
    "taps beyond 32 bits": (lambda: fastlrp.Network([fastlrp.MaxPool2d((1 << 16, 1 << 15))], (1 << 16, 1 << 15, 1)),
                            "maxpool1.*kernel .* less than 2147483648 taps"),
    "padding beyond the pool": (lambda: fastlrp.Network([fastlrp.MaxPool2d(2, padding=2)], (6, 6, 3)), "maxpool1"),
    "reshape": (lambda: fastlrp.Network([fastlrp.Reshape((7, -1))], (6, 6, 3)), "reshape1"),
    "channels of Normalize": (lambda: fastlrp.Network([fastlrp.Normalize([0, 0], [1, 1])], (6, 6, 3)), "normalize1"),
    "equal names": (lambda: fastlrp.Network([fastlrp.Linear(3, name="a"), fastlrp.ReLU(name="a")], (5,)), "name"),
    "a name that is taken": (lambda: fastlrp.Network([fastlrp.Linear(3), fastlrp.ReLU(name="linear1")], (5,)),
                             "linear1"),
    "negative seed": (lambda: fastlrp.Network([fastlrp.Linear(3)], (5,), seed=-1), "seed"),
}


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_graphs_that_do_not_fit_are_refused_by_name(name: str) -> None:
    """The message names the argument, or the layer that does not fit."""
    make, named = BAD_GRAPHS[name]
    with pytest.raises((ValueError, TypeError), match=named):
        make()


def test_a_layer_belongs_to_one_network() -> None:
    """Twice in one network, or in a second one, is refused; after a failed build it is free, name included."""
    layer = fastlrp.Linear(5)
    with pytest.raises(ValueError, match=r"layers\[1\]"):
        fastlrp.Network([layer, layer], (5,))
    net = fastlrp.Network([layer], (5,))
    before = net.forward(SMALL_X)
    with pytest.raises(ValueError, match="already belongs"):
        fastlrp.Network([fastlrp.ReLU(), layer], (5,))
    assert_same_bits(net.forward(SMALL_X), before)


def test_layers_of_a_failed_network_can_be_used_again() -> None:
    """As new: they are named by where they end up, and take another shape."""
    first, second = fastlrp.Conv2d(3, 3), fastlrp.Conv2d(4, 3)
    with pytest.raises(ValueError, match="conv2"):
        fastlrp.Network([first, second], (4, 4, 1))
    net = fastlrp.Network([fastlrp.Conv2d(2, 1), second, first], (7, 7, 2))
    assert [layer.name for layer in net.layers] == ["conv1", "conv2", "conv3"]
    assert net.output_shape == (3, 3, 3)


def test_names() -> None:
    """By kind and position among its kind, unless given."""
    net = fastlrp.Network([fastlrp.Linear(3), fastlrp.ReLU(), fastlrp.Linear(3, name="middle"), fastlrp.ReLU(),
                           fastlrp.Linear(2)], (5,))
    assert [layer.name for layer in net.layers] == ["linear1", "relu1", "middle", "relu2", "linear3"]
    assert net.find("middle") == 2


def test_a_network_prints_a_table() -> None:
    """One line a layer: name, arguments, output shape, parameters; a line of totals."""
    lines = repr(small_network()).splitlines()
    assert len(lines) == 6
    assert lines[2].split()[0] == "linear1" and "Linear(4" in lines[2] and lines[2].endswith("24")
    assert "(3,)" in lines[4] and "39 parameters" in lines[5] and "kernels" in lines[5]
    assert "NumPy" in repr(small_network().to_numpy()) and "float64" in repr(small_network().to_numpy())


# ---- weights ----

def test_weights_are_read_only_and_owned() -> None:
    """Reading gives no way to change them; assigning takes a copy."""
    net = small_network()
    layer = net.layers[0]
    for array in (layer.weight, layer.bias, *layer.parameters.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    new = np.ones((5, 4), np.float32)
    layer.weight = new
    new[:] = 7
    assert (layer.weight == 1).all() and layer.weight.dtype == np.float32
    layer.parameters["weight"] = None
    assert layer.weight is not None


@ALL_COMPOSITES
def test_assigned_weights_are_used(composite: str) -> None:
    """By the forward pass and by every rule, at once: nothing packed from the old values is left."""
    chosen = COMPOSITES[composite]()
    net, other = mixed_network(), mixed_network()
    net.explain(X, composite=chosen)
    rng = np.random.default_rng(8)
    for mine, theirs in zip(net.weighted, other.weighted, strict=True):
        weight, bias = rng.standard_normal(mine.weight_shape), rng.standard_normal(mine.out)
        mine.weight = theirs.weight = weight
        mine.bias = theirs.bias = bias
    assert_same_bits(net.forward(X), other.forward(X))
    assert_same_bits(net.explain(X, composite=chosen).relevance, other.explain(X, composite=chosen).relevance)


@pytest.mark.parametrize(("change", "named"), [
    (lambda layer: setattr(layer, "weight", np.zeros((4, 5))), "linear1.weight"),
    (lambda layer: setattr(layer, "weight", np.zeros(20)), "linear1.weight"),
    (lambda layer: setattr(layer, "weight", np.zeros((5, 4), complex)), "linear1.weight"),
    (lambda layer: setattr(layer, "weight", None), "linear1.weight"),
    (lambda layer: setattr(layer, "weight", 1.0), "linear1.weight"),
    (lambda layer: setattr(layer, "bias", np.zeros(5)), "linear1.bias"),
    (lambda layer: setattr(layer, "bias", None), "linear1.bias"),
])
def test_weights_that_do_not_fit_are_refused(change: Callable, named: str) -> None:
    """By the layer's and the parameter's name; the old ones stay."""
    net = small_network()
    before = net.forward(SMALL_X)
    with pytest.raises((ValueError, TypeError), match=named):
        change(net.layers[0])
    assert_same_bits(net.forward(SMALL_X), before)


def test_a_layer_without_bias_or_network() -> None:
    """bias reads as None and cannot be assigned; weights exist once shapes are known."""
    net = fastlrp.Network([fastlrp.Linear(3, bias=False)], (5,))
    assert net.layers[0].bias is None
    with pytest.raises(ValueError, match="bias=False"):
        net.layers[0].bias = np.zeros(3)
    with pytest.raises(ValueError, match="Network"):
        fastlrp.Linear(3).weight  # noqa: B018
    with pytest.raises(ValueError, match="Network"):
        fastlrp.Linear(3).weight = np.zeros((5, 3))


def test_initial_weights_follow_the_seed() -> None:
    """The same seed, the same weights; reset_params draws anew and refreshes what was packed."""
    net, same, other = small_network(), small_network(), small_network(seed=1)
    assert_same_bits(net.layers[0].weight, same.layers[0].weight)
    assert not np.array_equal(net.layers[0].weight, other.layers[0].weight)
    net.forward(SMALL_X)
    net.reset_params(1)
    fresh = fastlrp.Network([fastlrp.Linear(4), fastlrp.ReLU(), fastlrp.Linear(3)], (5,), seed=1)
    assert_same_bits(net.forward(SMALL_X), fresh.forward(SMALL_X))
    original = fastlrp.Network([fastlrp.Linear(200)], (300,), init="truncated_normal").layers[0]
    assert np.abs(original.weight).max() <= 0.2 and (original.bias == np.float32(0.1)).all()
    assert original.weight.std() == pytest.approx(0.088, abs=0.002)


# ---- copies ----

COPIES: dict[str, Callable[[fastlrp.Network], fastlrp.Network]] = {
    **{f"pickle {p}": (lambda net, p=p: pickle.loads(pickle.dumps(net, p)))
       for p in range(2, pickle.HIGHEST_PROTOCOL + 1)}, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after explaining"])
def test_copies_give_the_same_bits(kind: str, used: bool) -> None:
    """A copy is the same network, apart from the first: read-only weights, its own packing."""
    net = mixed_network()
    expected = NET.explain(X, composite="epsilon_gamma_box")
    if used:
        net.explain(X, composite="epsilon_gamma_box")
    other = COPIES[kind](net)
    assert repr(other) == repr(net)
    assert_same_bits(other.explain(X, composite="epsilon_gamma_box").relevance, expected.relevance)
    with pytest.raises(ValueError, match="read-only"):
        other.layers[0].weight[...] = 0
    other.layers[0].weight = np.zeros(other.layers[0].weight_shape)
    assert_same_bits(net.explain(X, composite="epsilon_gamma_box").relevance, expected.relevance)


def test_pickles_do_not_hold_what_was_packed() -> None:
    """A network that has explained is as small on disk as a new one."""
    net = mixed_network()
    before = len(pickle.dumps(net))
    for composite in ("epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1"):
        net.explain(X, composite=composite)
    assert len(pickle.dumps(net)) <= 1.1 * before


# ---- explanations ----

def test_targets_and_starts() -> None:
    """None is the predicted class; "logit" is the target's logit, "one" is 1; arrays are taken as they are."""
    output = NET.forward(X)
    found = NET.explain(X)
    assert found.target.tolist() == output.argmax(axis=1).tolist()
    assert_same_bits(found.output, output)
    target = np.arange(len(X)) % 4
    one_hot = np.eye(4, dtype=np.float32)[target]
    for start, array in (("logit", np.where(one_hot > 0, output, 0)), ("one", one_hot)):
        found, given = NET.explain(X, target, start=start), NET.explain(X, start=array)
        assert_same_bits(found.relevance, given.relevance)
        assert_same_bits(found.start, array)
        assert given.target is None
    assert_same_bits(NET.explain(X, target, "gradient").start, one_hot)


@pytest.mark.parametrize("composite", ["epsilon_plus", fastlrp.composites.EpsilonPlus(), {"conv1": None}], ids=str)
def test_a_composite_in_the_targets_place(composite: Any) -> None:
    """Says where it goes."""
    with pytest.raises(ValueError, match=r"target must be None, an int .* or by its name: composite="):
        NET.explain(X, composite)


@ALL_COMPOSITES
def test_layers_hold_the_relevance_of_every_output(composite: str) -> None:
    """By name, in execution order, in each layer's shape; the last one is the start."""
    found = NET.explain(X[:3], composite=COMPOSITES[composite](), layers=True)
    assert list(found.layers) == [layer.name for layer in NET.layers]
    for layer in NET.layers:
        assert found.layers[layer.name].shape == (3, *layer.out_shape)
    assert_same_bits(found.layers["linear2"], found.start)
    assert NET.explain(X[:3]).layers == {}


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_box", "guided_backprop"])
def test_explaining_an_inner_layer_is_explaining_the_network_that_ends_there(composite: str) -> None:
    """From an array in that layer's shape, also with the relevance that came down to it from the top."""
    whole = NET.explain(X, composite=composite, layers=True)
    for name in ("conv2", "sumpool1", "tanh1"):
        inner = NET.explain(X, composite=composite, start=whole.layers[name], start_layer=name, layers=True)
        below = list(inner.layers)[:-1]
        assert_same_bits(inner.output, NET.trace([X]).values[NET.find(name) + 1])
        if composite != "guided_backprop":
            assert below == list(whole.layers)[:len(below)]
        assert_same_bits(inner.relevance, whole.relevance)
    with pytest.raises(ValueError, match="conv1"):
        NET.explain(X, start_layer="conv1")
    assert NET.explain(X, 3, start_layer="tanh1").target.tolist() == [3] * len(X)


def test_composites_choose_rules_by_role_and_place() -> None:
    """First match wins; the user's own entries come first."""
    net = mixed_network()
    resolved = dict(zip((layer.name for layer in net.layers),
                        fastlrp.composites.EpsilonPlusFlat().resolve(net), strict=True))
    assert resolved["conv1"] == Flat(None) and resolved["conv2"] == ZPlus(None)
    assert resolved["linear2"] == Epsilon(None)
    bounded = dict(zip((layer.name for layer in FORMATTED.layers),
                       fastlrp.composites.DeepTaylor().resolve(FORMATTED), strict=True))
    assert isinstance(bounded["conv1"], ZBox)
    assert fastlrp.composites.DeepTaylor().resolve(net)[0] == WSquare(None, bias=False)
    dense = small_network()
    assert fastlrp.composites.EpsilonGammaBox().resolve(dense)[0] == Epsilon(None)
    assert Uniform(ZPlus(), first=Flat()).resolve(dense)[0] == Flat()
    own = net.explain(X, composite={"conv2": Epsilon(0.1), "linear1": ZPlus()})
    by_hand = net.explain(X, composite=fastlrp.composites.EpsilonPlusFlat().override(
        {"conv2": Epsilon(0.1), "linear1": ZPlus()}))
    assert_same_bits(own.relevance, by_hand.relevance)
    assert not np.array_equal(own.relevance, net.explain(X).relevance)


def test_every_preset_has_a_name() -> None:
    """names() lists them, and each runs."""
    assert len(fastlrp.composites.names()) == len(set(fastlrp.composites.names())) >= 12
    for name in fastlrp.composites.names():
        assert np.isfinite(FORMATTED.explain(X, composite=name).relevance).all(), name


def test_composites_are_told_apart_by_value() -> None:
    """What is prepared for one call is not used for another that only looks alike."""
    net = mixed_network()
    for make in (lambda e: Uniform(Epsilon(e)), lambda e: Uniform(ZBox(-4 - e, 4.0)),
                 lambda e: Uniform(Epsilon(), first=ZBox(np.full(3, -4 - e), np.full(3, 4.0))),
                 lambda e: fastlrp.composites.EpsilonGammaBox(-3 - e, 3.0)):
        first, second = (net.explain(X, composite=make(e)).relevance for e in (0.5, 0.25))
        fresh = mixed_network().explain(X, composite=make(0.25)).relevance
        assert_same_bits(second, fresh)
        assert not np.array_equal(first, second)
    for compat in ("zennit", "tensorflow_lrp", "zennit"):
        fresh = mixed_network().explain(X, composite="epsilon_plus", compat=compat).relevance
        assert_same_bits(net.explain(X, composite="epsilon_plus", compat=compat).relevance, fresh)


def test_a_users_own_composite() -> None:
    """Entries in any sequence; the same rules, the same bits, prepared once or not."""
    entries = [("first", Flat()), ("convolution", ZPlus()), ("linear", Epsilon())]
    expected = NET.explain(X, composite=Uniform(Epsilon()).override(
        {"conv1": Flat(), "conv2": ZPlus(), "conv3": ZPlus()})).relevance
    for kind in (tuple, list):
        composite = fastlrp.composites.Composite("mine", kind(entries))
        for _ in range(2):
            assert_same_bits(NET.explain(X, composite=composite).relevance, expected)
    with pytest.raises(ValueError, match=r"mine.*conv1"):
        NET.explain(X, composite=fastlrp.composites.Composite("mine", (("linear", Epsilon()),)))


def test_composites_choose_rules_by_name() -> None:
    """Of a layer or of one use of it, in entries too; words mean roles and kinds, whatever layers are named."""
    x = fastlrp.Input((5,))
    dense = fastlrp.Linear(5, name="fc")
    net = fastlrp.Network.from_graph(x, fastlrp.ReLU(name="linear")(dense(fastlrp.ReLU()(dense(dense(x))))))
    base = (("linear", ZPlus()), ("first", WSquare()))
    for entries, found in (((("fc:2", Flat()), ("fc", Epsilon())), [Epsilon(), Flat(), Epsilon()]),
                           ((("fc", Epsilon()), ("fc:2", Flat())), [Epsilon()] * 3), ((("fc:3", Flat()),), None)):
        rules = fastlrp.composites.Composite("mine", (*entries, *base)).resolve(net)
        assert [rules[0], rules[1], rules[3]] == (found or [ZPlus(), ZPlus(), Flat()])
        assert rules[2] == rules[4] == Pass()
    for rules in ({"fc": Epsilon(), "fc:2": Flat()}, {"fc:2": Flat(), "fc": Epsilon()}):
        found = fastlrp.composites.EpsilonPlus().override(rules).resolve(net)
        assert [found[0], found[1], found[3]] == [Epsilon(), Flat(), Epsilon()]


@pytest.mark.parametrize("key", ["convolutoin", "fc:4", "first activation", "Linear", "dense"])
def test_keys_that_mean_nothing_are_refused(key: str) -> None:
    """By entries and base; kinds that the network has not are known all the same."""
    net = small_network()
    for more in ({"entries": ((key, Flat()),)}, {"entries": (), "base": ((key, Flat()),)}):
        with pytest.raises(ValueError, match=rf"'mine' has entries for \['{key}'\].*'first'.*'conv'.*'linear1'"):
            net.explain(SMALL_X, composite=fastlrp.composites.Composite("mine", **more))
    assert Uniform(Epsilon()).resolve(net)[0] == Epsilon()


def test_bounds_given_as_arrays_are_copied() -> None:
    """Changing the array afterwards changes no composite."""
    low, high = np.full(3, -4.0), np.full(3, 4.0)
    composite = Uniform(Epsilon(), first=ZBox(low, high))
    expected = NET.explain(X, composite=composite).relevance
    low[:], high[:] = -9, 9
    assert_same_bits(mixed_network().explain(X, composite=composite).relevance, expected)


def test_many_composites_do_not_pile_up() -> None:
    """A service that takes bounds from its callers does not grow with every request."""
    net = small_network()
    sizes = []
    for i in range(300):
        net.explain(SMALL_X, composite=Uniform(ZBox(-5.0 - i / 300, 5.0)))
        if i in (149, 299):
            sizes.append(sum(len(layer._packed) for layer in net.weighted) + len(net._plans))
    assert sizes[1] <= sizes[0] + 8


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture) -> None:
    """And only when asked for."""
    NET.explain(X)
    assert capsys.readouterr() == ("", "")
    NET.explain(X, progress=True)
    assert "explaining" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["explain", "conservation_check", "test"])
def test_a_bar_shows_by_itself_on_a_terminal(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over batches of samples, once it takes a while."""
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(**more: Any) -> bool:
        monkeypatch.setattr(sys, "stderr", Terminal())
        getattr(NET, call)(X, **more)
        return "explaining" in sys.stderr.getvalue()
    assert not shown(batch_size=5)
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    assert shown(batch_size=5) and not shown(batch_size=5, progress=False) and not shown()


# ---- what is echoed ----

def test_results_echo_in_a_line() -> None:
    """Sizes, not numbers."""
    found = NET.explain(X, np.arange(13) % 4)
    assert repr(found) == "Explanation(relevance (13, 10, 9, 3), target [0 1 2 ... 2 3 0])"
    found = NET.explain(X[:2], start=np.ones((2, 4)), layers=True)
    assert repr(found) == f"Explanation(relevance (2, 10, 9, 3), {len(NET.layers)} layers)"
    assert repr(NET.conservation_check(X)) == "Conservation(13 layers, 13 samples; print it for a table)"


# ---- the twin ----

def test_the_twin_is_the_same_network_in_double_precision() -> None:
    """Same calls, float64 throughout; the original is unchanged."""
    twin = NET.to_numpy()
    assert twin.forward(X).dtype == np.float64
    assert relative_error(NET.forward(X), twin.forward(X)) < 1e-5
    found = twin.explain(X, 2, layers=True)
    assert found.relevance.dtype == found.layers["conv2"].dtype == np.float64
    assert_same_bits(NET.explain(X, 2, precision="float64").relevance, found.relevance)
    assert NET.forward(X).dtype == np.float32
    single = NET.to_numpy(np.float32)
    assert single.forward(X).dtype == np.float32 and relative_error(single.forward(X), NET.forward(X)) < 1e-5
    with pytest.raises(TypeError, match="dtype"):
        Reference(np.complex64)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_precisions_are_floors(precision: str) -> None:
    """Everywhere accepted. This network's layers are too small for anything but float32, on every machine; a twin has
    its dtype's precision."""
    found = NET.explain(X, 2, precision=precision)
    assert_same_bits(found.relevance, NET.explain(X, 2).relevance)
    assert_same_bits(NET.forward(X, precision=precision), NET.forward(X))
    assert_same_bits(NET.lrp(X, precision=precision), NET.lrp(X))
    assert_same_bits(NET.layerwise_lrp(X, methods="ab", precision=precision)[0], NET.lrp(X, methods="ab"))
    assert NET.test(X[:2], precision=precision) == NET.test(X[:2])
    twin = NET.to_numpy(np.float32)
    assert_same_bits(twin.explain(X, 2, precision=precision).relevance, twin.explain(X, 2).relevance)


def test_double_precision_is_the_twin() -> None:
    """In every call that takes a precision."""
    twin = NET.to_numpy()
    assert_same_bits(NET.forward(X, precision="float64"), twin.forward(X))
    assert_same_bits(NET(X, precision="float64"), twin(X))
    assert_same_bits(NET.lrp(X, 1, "ab", precision="float64"), twin.lrp(X, 1, "ab"))
    assert_same_bits(twin.explain(X, 1, precision="float64").relevance, twin.explain(X, 1).relevance)
    assert NET.test(X[:2], precision="float64") == {"forward": 0.0, "relevance": 0.0}


@ALL_COMPOSITES
def test_kernels_and_twin_agree_on_every_composite(composite: str) -> None:
    """Within float32 rounding, layer by layer, on both kinds of input."""
    for net in (NET, FORMATTED):
        errors = net.test(X, 1, COMPOSITES[composite](), tolerance=2e-3)
        assert errors["forward"] < 1e-5 and 0 < errors["relevance"] < 2e-3


@pytest.mark.parametrize(("verb", "what", "layer"), [
    ("activation", "forward", "relu1"), ("sum_pool", "forward", "sumpool1"),
    ("max_pool_backward", "relevance", "relu1"), ("sum_pool_backward", "relevance", "relu2")])
def test_the_comparison_names_the_layer_that_is_wrong(verb: str, what: str, layer: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is off by a tenth is found: at its own output, or at the relevance that it hands down."""
    net = mixed_network()
    backend = type(net.ops) if what == "forward" else Recorder  # explanations are recorded
    right = getattr(backend, verb)
    monkeypatch.setattr(backend, verb, lambda ops, *more: ops.affine(right(ops, *more), times=1.1))
    with pytest.raises(ArithmeticError, match=f"{what} of layer '{layer}'"):
        net.test(X, 1, "epsilon_plus")


def test_the_comparison_sees_what_users_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is only in the recorded run forward."""
    net = mixed_network()
    right = Recorder.activation
    monkeypatch.setattr(Recorder, "activation", lambda ops, *more: ops.affine(right(ops, *more), times=1.1))
    with pytest.raises(ArithmeticError, match="output of layer 'linear2'"):
        net.test(X, 1, "epsilon_plus")


def random_network(rng: np.random.Generator) -> fastlrp.Network:
    """Convolutions, pools and activations of every kind, at random; then dense layers."""
    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]
    shape = (int(rng.integers(6, 10)), int(rng.integers(6, 24)), int(rng.integers(1, 5)))
    layers: list[Any] = [fastlrp.Format(-1, 1)] if rng.random() < 0.3 else []
    channels = shape[2]
    for _ in range(rng.integers(1, 4)):
        groups = pick(1, 1, channels)
        channels = int(rng.integers(1, 7)) * groups
        # A maximum over values that a function squeezed together is decided by rounding: no maximum after those.
        activation, pool = pick((fastlrp.ReLU, fastlrp.MaxPool2d), (fastlrp.LeakyReLU, fastlrp.MaxPool2d),
                                (fastlrp.Tanh, fastlrp.SumPool2d), (fastlrp.Softplus, fastlrp.AvgPool2d))
        layers += [fastlrp.Conv2d(channels, pick(1, 2, 3, (3, 2)), pick(1, 1, 2), pick(1, "same", ((2, 1), (1, 2))),
                                  pick(1, 1, 2), groups, bias=bool(rng.random() < 0.7)),
                   activation(), pool(2, pick(1, 2), 1)]
        channels = min(channels, 4) if groups > 1 else channels
        layers.append(fastlrp.Conv2d(channels, 1))
    layers += [fastlrp.Flatten(), fastlrp.Linear(int(rng.integers(2, 40))), fastlrp.ReLU(), fastlrp.Linear(3)]
    return with_biases(fastlrp.Network(layers, shape), seed=int(rng.integers(99)))


@pytest.mark.parametrize("seed", range(30))
def test_random_networks(seed: int) -> None:
    """As the twin says, with stabilisers that keep quotients tame; and batches change no bit."""
    rng = np.random.default_rng(seed)
    net = random_network(rng)
    x = mixed_signs(rng, 5, net.input_shape)
    for rule in (Epsilon(0.3), ZPlus(0.1), AlphaBeta(2, 1, 0.1), Gamma(0.5, 0.3), ZBox(-6, 6, 0.1), WSquare(), Flat()):
        composite = Uniform(rule)
        assert net.test(x, 1, composite, tolerance=1e-3)["forward"] < 1e-5
        together = net.explain(x, 1, composite).relevance
        alone = np.concatenate([net.explain(x[i:i + 1], 1, composite).relevance for i in range(5)])
        assert_same_bits(alone, together, str(rule))


# ---- the original project's calls ----

METHODS: dict[str, tuple[Any, Callable[[], dict[str, Any]]]] = {
    "simple": ("simple", lambda: dict.fromkeys(WEIGHTED, Epsilon(1e-12, bias=False))),
    "ab": ("ab", lambda: dict.fromkeys(WEIGHTED, AlphaBeta(1, 0, 1e-12, bias=False))),
    "alphabeta with alpha": (["alphabeta", 3], lambda: dict.fromkeys(WEIGHTED, AlphaBeta(3, 2, 1e-12, bias=False))),
    "ww": ("ww", lambda: dict.fromkeys(WEIGHTED, WSquare(1e-12, bias=False))),
    "gdt": (["gdt", 0.25], lambda: dict.fromkeys(WEIGHTED, fastlrp.rules.GammaSimple(0.25, 1e-12, bias=False))),
    "zb": ("zb", lambda: dict.fromkeys(WEIGHTED, ZBox(-1.0, 1.0, 1e-9))),
    "zbab": ("zbab", lambda: first_and_rest(ZBox(-1.0, 1.0, 1e-9), AlphaBeta(2, 1, 1e-12, bias=False))),
    "wwab": ("wwab", lambda: first_and_rest(WSquare(1e-12, bias=False), AlphaBeta(2, 1, 1e-12, bias=False))),
    "zb-gdt": ("zb-gdt", lambda: first_and_rest(ZBox(-1.0, 1.0, 1e-9),
                                                fastlrp.rules.GammaSimple(0.5, 1e-12, bias=False))),
    "deeptaylor": ("deeptaylor", lambda: first_and_rest(ZBox(-1.0, 1.0, 1e-9), AlphaBeta(1, 0, 1e-12, bias=False))),
    "a list for weighted layers": ([["zb"], ["ab", 2], "ab", ["simple"], ["ww"]], lambda: dict(zip(WEIGHTED, [
        ZBox(-1.0, 1.0, 1e-9), AlphaBeta(2, 1, 1e-12, bias=False), AlphaBeta(1, 0, 1e-12, bias=False),
        Epsilon(1e-12, bias=False), WSquare(1e-12, bias=False)], strict=True))),
}
WEIGHTED = [layer.name for layer in FORMATTED.weighted]


def first_and_rest(first: Any, rest: Any) -> dict[str, Any]:
    return {name: first if i == 0 else rest for i, name in enumerate(WEIGHTED)}


@pytest.mark.parametrize("name", METHODS)
def test_methods_mean_rules(name: str) -> None:
    """Names, numbers and lists; with the original's stabilisers and without biases."""
    methods, rules = METHODS[name]
    found = FORMATTED.explain(X, 1, methods)
    expected = FORMATTED.explain(X, 1, fastlrp.composites.EpsilonPlus().override(rules()), compat="tensorflow_lrp")
    assert_same_bits(found.relevance, expected.relevance)
    start = np.eye(4)[1] * FORMATTED.forward(X)
    assert_same_bits(FORMATTED.lrp(X, 1, methods), FORMATTED.explain(X, start=start, composite=methods).relevance)


@pytest.mark.parametrize("leading", [True, False], ids=["with the Format", "without it"])
def test_methods_for_every_layer(leading: bool) -> None:
    """One entry a layer; those of layers without weights do not matter."""
    entries = [["ab", 2.0] if layer.name in WEIGHTED else ["simple"] for layer in FORMATTED.layers]
    found = FORMATTED.lrp(X, 1, entries[0 if leading else 1:])
    assert_same_bits(found, FORMATTED.lrp(X, 1, ["ab", 2.0]))


def test_deep_taylor_depends_on_the_input_being_bounded() -> None:
    """zB after Format, w² without."""
    rules = [type(rule).__name__ for rule in
             (fastlrp.methods.composite(net, "deeptaylor").resolve(net)[i] for net, i in ((FORMATTED, 1), (NET, 0)))]
    assert rules == ["ZBox", "WSquare"]


def test_layerwise_lrp() -> None:
    """R[i] is the relevance of layer i's input, the last is the start: output times class filter."""
    one_hot = np.eye(4)[np.arange(len(X)) % 4]
    found = FORMATTED.layerwise_lrp(X, one_hot, "zbab")
    assert len(found) == len(FORMATTED.layers) + 1
    assert [r.shape[1:] for r in found] == [FORMATTED.input_shape, *(layer.out_shape for layer in FORMATTED.layers)]
    assert_same_bits(found[-1], (one_hot * FORMATTED.forward(X)).astype(np.float32))
    assert_same_bits(found[0], FORMATTED.lrp(X, one_hot, "zbab"))
    whole = FORMATTED.lrp(X, None, "zbab")
    assert_same_bits(whole, FORMATTED.explain(X, composite="zbab", start=FORMATTED.forward(X)).relevance)
    inner = FORMATTED.layerwise_lrp(X, methods="zbab", explain_layer_id=4)
    assert len(inner) == 6
    assert_same_bits(inner[-1], FORMATTED.trace([X]).values[5])


@pytest.mark.parametrize("methods", ["simple", "ww", ["ab", 2.0]], ids=str)
def test_reference_subtracts_mean_activations(methods: Any) -> None:
    """On one dense layer: the rule on x − mean(x), from output − mean(output), which holds no bias."""
    net = with_biases(fastlrp.Network([fastlrp.Linear(3)], (5,)))
    plain = fastlrp.Network([fastlrp.Linear(3, bias=False)], (5,))
    plain.layers[0].weight = net.layers[0].weight
    for reference, samples in (("batch", SMALL_X), (SMALL_X[:4], SMALL_X[:4])):
        centred = SMALL_X - samples.mean(axis=0, dtype=np.float64)
        found = net.lrp(SMALL_X, 1, methods, reference=reference)
        assert relative_error(found, plain.lrp(centred, 1, methods)) < 2e-5


def test_reference_of_a_deep_network_is_that_of_its_twin() -> None:
    """Every layer with weights sees the difference to its own mean."""
    for composite in ("zbab", "simple", "epsilon_plus_flat", "epsilon_gamma_box"):
        errors = NET.test(X, 1, composite, reference="batch", tolerance=1e-2)
        assert errors["relevance"] < 1e-2


def test_sensitivity_is_the_gradient_at_the_formatted_input() -> None:
    """Against central differences of the double-precision twin."""
    twin = FORMATTED.to_numpy()
    bare = with_biases(mixed_network()).to_numpy()
    for mine, theirs in zip(bare.weighted, twin.weighted, strict=True):
        mine.weight, mine.bias = theirs.weight, theirs.bias
    x = np.random.default_rng(9).random((2, *MIXED_SHAPE))
    class_filter = np.array([0.5, 0, -1, 2])
    found, formatted, step = twin.sensitivity(x, class_filter), 2 * x - 1, 1e-6
    for pixel in [(4, 4, 1), (0, 0, 0), (9, 8, 2), (5, 2, 0)]:
        at, up, down = (slice(None), *pixel), formatted.copy(), formatted.copy()
        up[at] += step
        down[at] -= step
        slope = ((bare.forward(up) - bare.forward(down)) / (2 * step)) @ class_filter
        np.testing.assert_allclose(found[at], slope, rtol=1e-4, atol=1e-7)
    assert relative_error(FORMATTED.sensitivity(x, class_filter), found) < 1e-5
    assert_same_bits(NET.sensitivity(X, 1), NET.explain(X, 1, "gradient").relevance)


def test_gradient_times_input_has_the_formatted_input_of_its_network() -> None:
    """gradient_x_input is the gradient at the network's own input, times that input."""
    gradient, product = (FORMATTED.explain(X, 2, name).relevance for name in ("gradient", "gradient_x_input"))
    assert_same_bits(product, gradient * X)


# ---- conservation ----

def test_conservation_check_adds_up_the_layers() -> None:
    """Sums of relevance into and out of each layer, per sample; a table in print."""
    checked, found = NET.conservation_check(X, 1), NET.explain(X, 1, layers=True)
    assert checked.names == [layer.name for layer in NET.layers]
    assert checked.relevance_in.shape == checked.relevance_out.shape == checked.ratio.shape == (len(NET.layers), len(X))
    np.testing.assert_allclose(checked.relevance_in[0], found.relevance.sum(axis=(1, 2, 3), dtype=np.float64))
    np.testing.assert_array_equal(checked.relevance_in[1:], checked.relevance_out[:-1])
    assert len(str(checked).splitlines()) == 1 + len(NET.layers) * len(X) and "linear2" in str(checked)


def test_networks_without_biases_conserve() -> None:
    """From logit to pixels, where every denominator is there: sums, ReLUs and pools of positive inputs."""
    net = fastlrp.Network([
        fastlrp.Conv2d(6, 3, bias=False), fastlrp.ReLU(), fastlrp.AvgPool2d(2), fastlrp.Conv2d(5, 2, bias=False),
        fastlrp.ReLU(), fastlrp.MaxPool2d(2, stride=1), fastlrp.Flatten(), fastlrp.Linear(4, bias=False)], (9, 9, 2))
    x = np.abs(np.random.default_rng(5).standard_normal((4, 9, 9, 2)))
    composite = Uniform(Epsilon(0.0)).override({"avgpool1": Norm(0.0)})
    checked = net.conservation_check(x, 1, composite, precision="float64", start="one")
    np.testing.assert_allclose(checked.ratio, 1, rtol=1e-9)


def test_conservation_check_takes_what_explain_takes() -> None:
    """But for `layers`, with the same meaning; it names itself where it is given something else."""
    own, other = (inspect.signature(call).parameters for call in (NET.conservation_check, NET.explain))
    assert {**own, "layers": other["layers"]} == dict(other)
    start = np.random.default_rng(6).standard_normal((len(X), *NET.shapes[1 + NET.find("relu1")]))
    for options in ({"start": "one"}, {"start": start, "start_layer": "relu1"}, {"reference": "batch"},
                    {"batch_size": 2}, {"precision": "float64"}, {"compat": "tensorflow_lrp"}):
        checked, found = NET.conservation_check(X, **options), NET.explain(X, **options)
        np.testing.assert_allclose(checked.relevance_in[0], found.relevance.sum(axis=(1, 2, 3), dtype=np.float64))
        np.testing.assert_allclose(checked.relevance_out[-1], found.start.reshape(len(X), -1).sum(1, np.float64))
    with pytest.raises(TypeError, match=r"conservation_check\(\) got an unexpected keyword argument 'epsilon'"):
        NET.conservation_check(X, 1, epsilon=0.1)
    with pytest.raises(TypeError, match=r"conservation_check\(\) got an unexpected keyword argument 'sums'"):
        NET.conservation_check(X, 1, sums=False)
