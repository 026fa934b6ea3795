"""Every operation of the compiled kernels against the NumPy twin, on every instruction set, over odd shapes.

Small integers make all sums exact: there the kernels equal the float32 twin bit for bit (up to the sign of zero).
On normal data they are within rounding of the float64 twin. Outputs start as NaN between guards, inputs lie between
NaNs and must come out unchanged.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    DILATED,
    ISAS,
    LINEAR,
    WINDOWS,
    Draw,
    assert_same_bits,
    guarded,
    make_layer,
    relative_error,
    run_python,
)

from fastlrp import _kernels, ops, packing, reference
from fastlrp.ops import NATIVE
from fastlrp.reference import Plain, Reference, linear, linear_back
from fastlrp.shapes import Geometry, Window, as_padding, as_pair

pytestmark = pytest.mark.usefixtures("poisoned")

EXACT, SINGLE = Reference(np.float32), Reference(np.float64)
ROUNDING = 3e-6  # relative L2 error of float32 sums of a few thousand terms


class Operands:
    """Arrays by name, handed out as float32 or in the twin's type; knows whether they were changed."""

    def __init__(self, **arrays: np.ndarray):
        self.__dict__.update(arrays)
        self._arrays = arrays
        self._before = {name: array.tobytes() for name, array in arrays.items()}

    def astype(self, dtype: np.dtype) -> Operands:
        floats = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in self._arrays.items()}
        return Operands(**floats)

    def check_unmodified(self) -> None:
        for name, array in self._arrays.items():
            assert array.tobytes() == self._before[name], f"{name} was modified"


Verb = Callable[[Any, Any, Any], Any]


def as_arrays(result: Any) -> Sequence[np.ndarray]:
    return result if isinstance(result, tuple) else (result,)


def on_twin(verb: Verb, subject: Any, operands: Operands, exact: bool) -> Sequence[np.ndarray]:
    twin = EXACT if exact else SINGLE
    subject = subject.astype(twin.dtype) if hasattr(subject, "astype") else subject
    return as_arrays(verb(twin, subject, operands.astype(twin.dtype)))


def check(verb: Verb, subject: Any, operands: Operands, expected: Sequence[np.ndarray], exact: bool,
          tolerance: float = ROUNDING) -> None:
    """verb(ops, subject, operands) on the kernels against what the twin gave."""
    found = as_arrays(verb(NATIVE, subject, operands))
    operands.check_unmodified()
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if exact or b.dtype.kind != "f":
            assert a.dtype == b.dtype
            if not (a.shape == b.shape and np.array_equal(a, b)):  # the quick way; the other explains, and knows NaN
                np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a.dtype == np.float32
            assert relative_error(a, b) <= tolerance


def compare(verb: Verb, subject: Any, operands: Operands, exact: bool, tolerance: float = ROUNDING) -> None:
    check(verb, subject, operands, on_twin(verb, subject, operands, exact), exact, tolerance)


# ---- products ----

PRODUCTS: dict[str, Verb] = {
    "forward": lambda ops, layer, d: ops.product(layer, ("w",), [(d.x, "plain", None)]),
    "bias": lambda ops, layer, d: ops.product(layer, ("w",), [(d.x, "plain", None)], bias=d.bias),
    "positive weights, quotient": lambda ops, layer, d: ops.product(
        layer, ("+",), [(d.x, "plain", None)], ratio=(d.g, 4.0, 1.0, True)),
    "negative input, bias, quotient": lambda ops, layer, d: ops.product(
        layer, ("-",), [(d.x, "negative", None)], bias=d.bias, ratio=(d.g, 2.0, -2.0, True)),
    "signed parts": lambda ops, layer, d: ops.product(
        layer, ("+", "-"), [(d.x, "positive", None), (d.x, "negative", None)], bias=d.bias,
        ratio=(d.g, 0.25, 2.0, True)),
    "box, unsigned stabiliser": lambda ops, layer, d: ops.product(
        layer, ("+", "-"), [(d.x, "shifted", d.low), (d.x, "shifted", d.high)], ratio=(d.g, 0.125, 1.0, False)),
    "squares of ones": lambda ops, layer, d: ops.product(layer, ("square",), [(d.ones, "plain", None)]),
    "simple gamma": lambda ops, layer, d: ops.product(layer, (("gamma", 0.5),), [(d.x, "positive", None)]),
    "raised gamma": lambda ops, layer, d: ops.product(layer, (("raised", 0.5),), [(d.x, "plain", None)], bias=d.bias),
    "sums that are not negative": lambda ops, layer, d: ops.product(
        layer, ("+", "-"), [(d.x, "positive", None), (d.x, "negative", None)], bias=d.bias, sign=1),
    "sums that are not positive": lambda ops, layer, d: ops.product(
        layer, ("+",), [(d.x, "negative", None)], bias=d.bias, sign=-1),
    "back": lambda ops, layer, d: ops.product_back(layer, [(d.g, "plain", None)], [(("w",), None)]),
    "back, ones": lambda ops, layer, d: ops.product_back(layer, [(d.g, "plain", None)], [(("one",), None)]),
    "back, factor": lambda ops, layer, d: ops.product_back(
        layer, [(d.g, "plain", None)], [(("w",), (d.x, "plain", None))]),
    "back, two operands": lambda ops, layer, d: ops.product_back(
        layer, [(d.g, "plain", None), (d.h, "plain", None)], [(("+", "-"), (d.x, "negative", None))]),
    "back, two sides": lambda ops, layer, d: ops.product_back(
        layer, [(d.g, "plain", None)],
        [(("+",), (d.x, "shifted", d.low)), (("-",), (d.x, "shifted", d.high))]),
    "back, two operands, two sides": lambda ops, layer, d: ops.product_back(
        layer, [(d.g, "plain", None), (d.h, "plain", None)],
        [(("+", "-"), (d.x, "positive", None)), (("-", "+"), (d.x, "negative", None))]),
    "back, positive reading": lambda ops, layer, d: ops.product_back(
        layer, [(d.g, "positive", None)], [(("w",), (d.x, "plain", None))]),
    "weight gradient": lambda ops, layer, d: ops.weight_gradient(layer, d.x, d.g).reshape(layer.weight_shape),
    "bias gradient": lambda ops, layer, d: ops.channel_sum(d.g),
}


def product_operands(layer: Any, n: int, draw: Draw) -> Operands:
    into, out = layer.in_shape, layer.out_shape
    return Operands(x=draw(n, *into), low=guarded(draw(*into) - 5), high=guarded(draw(*into) + 5),
                    ones=guarded(np.ones((n, *into))), bias=draw(out[-1]), g=draw(n, *out), h=draw(n, *out))


PER_ISA = pytest.mark.parametrize("isa", ISAS, indirect=True)  # varies fastest, so that the twin runs once for all


@functools.lru_cache(maxsize=4)
def product_cases(name: str, verb: str) -> list[tuple[Any, Operands, Sequence[np.ndarray], bool]]:
    """(layer, operands, what the twin gives, exact): integers in batches of 1, 3 and 13, normal data in one of 2."""
    large, found = np.prod(LINEAR[name][0]) > 2000, []
    for exact, batches in ((True, (1,) if large else (1, 3, 13)), (False, (2,))):
        draw = Draw(7, exact)
        layer = make_layer(*LINEAR[name], draw)
        for n in batches:
            operands = product_operands(layer, n, draw)
            found.append((layer, operands, on_twin(PRODUCTS[verb], layer, operands, exact), exact))
    return found


@PER_ISA
@pytest.mark.parametrize("verb", PRODUCTS)
@pytest.mark.parametrize("name", LINEAR)
def test_products(isa: str, name: str, verb: str) -> None:
    """Exact on integers, within rounding on normal data."""
    for layer, operands, expected, exact in product_cases(name, verb):
        check(PRODUCTS[verb], layer, operands, expected, exact)


@pytest.mark.parametrize("n", [256, 257, 600])
def test_weight_gradients_of_many_samples(isa: str, n: int) -> None:
    """A dense layer's samples are summed up in chunks, the last of which may be short and read from a copy."""
    draw = Draw(7, exact=True)
    layer = make_layer((37,), {"out": 21}, draw)
    compare(PRODUCTS["weight gradient"], layer, product_operands(layer, n, draw), exact=True)


@pytest.mark.parametrize("verb", PRODUCTS)
@pytest.mark.parametrize("name", ["dense 7 to 5", "conv stride 2", "grouped", "narrow both ways"])
def test_products_of_no_samples(isa: str, name: str, verb: str) -> None:
    """An empty batch gives an empty result; gradients of parameters are zero."""
    draw = Draw(7, exact=True)
    layer = make_layer(*LINEAR[name], draw)
    compare(PRODUCTS[verb], layer, product_operands(layer, 0, draw), exact=True)


class SideBySide(ops.Native):
    """Products of samples side by side, `width` of them, where there are any; the others as they are."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.found = width, 0

    def product(self, layer: Any, parts: Any, operands: Any, *, bias: Any = None, ratio: Any = None, sign: int = 0,
                direct: bool = False) -> np.ndarray:
        product = self.packed_product(layer, parts, direct)
        end = {"bias": bias, "ratio": ratio, "sign": sign}
        turned = {"bias": None if bias is None else np.repeat(bias, self.width),
                  "ratio": ratio and (self.turn(ratio[0]), *ratio[1:]), "sign": sign}
        return self.run(product, operands, layer.out_shape, end, turned)

    def product_back(self, layer: Any, operands: Any, sides: Any, direct: bool = False) -> np.ndarray:
        product = self.packed_product_back(layer, sides, direct)
        factors = [factor for _, factor in sides if factor is not None]
        return self.run(product, operands, layer.in_shape, {"factors": factors or None},
                        {"factors": self.read(factors) or None})

    def run(self, product: Any, operands: Any, shape: tuple[int, ...], end: Any, turned: Any) -> np.ndarray:
        n, twin = len(operands[0][0]), product.in_lanes(self.width)
        self.found += twin is not None
        if twin is None:
            return product(n, operands, _kernels.empty((n, *shape)), **end)
        out = twin(1, self.read(operands), _kernels.empty((np.prod(shape), n)), **turned)
        return np.ascontiguousarray(out.T).reshape(n, *shape)

    def turn(self, x: np.ndarray) -> np.ndarray:
        return guarded(np.ascontiguousarray(x.reshape(len(x), -1).T))

    def read(self, operands: Any) -> list[Any]:
        return [(self.turn(x), read, None if bound is None else np.repeat(bound, self.width))
                for x, read, bound in operands]


@PER_ISA
@pytest.mark.parametrize("name", LINEAR)
def test_products_of_samples_side_by_side(isa: str, name: str) -> None:
    """The same bits as one by one."""
    found = 0
    for vectors in (1, 8):
        width, draw = vectors * _kernels.lanes(), Draw(3, exact=False)
        layer, beside = make_layer(*LINEAR[name], draw), SideBySide(width)
        operands = product_operands(layer, width, draw)
        for what, verb in PRODUCTS.items():
            if not what.endswith("gradient"):
                assert_same_bits(verb(beside, layer, operands), verb(NATIVE, layer, operands), what)
        found += beside.found
    assert found or LINEAR[name][1].get("groups", 1) > 1 or _kernels.has_limbs()


@pytest.mark.parametrize("vector", [4, 8, 16])
def test_blocks_of_lanes_are_whole_panels(vector: int) -> None:
    """Whatever the outputs; a block may be smaller than all of them where vectors are long."""
    sweep = Geometry((1, 1, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), out_channels=1).forward_sweeps[0]
    for outputs in range(1, 80):
        made = packing.lanes(np.ones((1, 1, 1, 3, outputs)), sweep, (1, 3), False, 8 * vector, vector)
        assert made.block == outputs or made.block % made.panel == 0, outputs
        panels = -(-outputs // 6)
        assert (made.panel - 1) * panels < outputs <= made.panel * panels, outputs  # even ones


@PER_ISA
@pytest.mark.parametrize("name", ["dense 40 to 33", "conv same", "narrow back", "scattered back"])
def test_products_side_by_side_of_very_small_numbers(isa: str, name: str) -> None:
    """Where terms vanish, no zero has another sign: half of the weights of one sign are zero, and left out."""
    beside, draw = SideBySide(8 * _kernels.lanes()), Draw(4, exact=False)
    layer = make_layer(*LINEAR[name], draw)
    layer.weight = layer.weight * np.float32(1e-22)
    operands = product_operands(layer, beside.width, lambda *shape: guarded(draw(*shape) * np.float32(1e-23)))
    for what, verb in PRODUCTS.items():
        if not what.endswith("gradient"):
            assert_same_bits(verb(beside, layer, operands), verb(NATIVE, layer, operands), what)
    assert beside.found


@PER_ISA
@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf, 1e-42], ids=str)
@pytest.mark.parametrize("name", [name for name in LINEAR if name.startswith("lists")])
def test_lists_have_the_bits_of_all_weights(isa: str, name: str, value: float | None,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are zero are left out, but where a value is not finite; on any number of threads."""
    made, lists = [], packing.lists
    monkeypatch.setattr(packing, "lists", lambda *case: made.append(case) or lists(*case))
    draw = Draw(6, exact=False)
    layer = make_layer(*LINEAR[name], draw)
    d = product_operands(layer, 3, draw)
    if value is not None:
        for key in ("x", "g"):
            dirty = getattr(d, key).copy()
            dirty[1, 2, 3, 4] = dirty[0, -1, -1, -1] = value
            setattr(d, key, guarded(dirty))
    verbs = [verb for what, verb in PRODUCTS.items() if not what.endswith("gradient")]
    listed = [verb(NATIVE, layer, d) for verb in verbs]
    assert len(made) >= 5 or _kernels.has_limbs()  # tiles take them before
    made.clear()
    monkeypatch.setattr(packing, "prefers_lists", lambda *case: False)
    layer.weight = layer.weight.copy()  # packed anew
    for found, verb in zip(listed, verbs, strict=True):
        assert_same_bits(found, verb(NATIVE, layer, d))
    assert not made


def random_layer(rng: np.random.Generator) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A convolution of any kind whose kernel fits; one in ten is dense."""
    def pair(low: int, high: int) -> tuple[int, int]:
        return tuple(int(v) for v in rng.integers(low, high + 1, 2))
    if rng.random() < 0.1:
        return (int(rng.integers(1, 41)),), {"out": int(rng.integers(1, 41))}
    while True:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        shape = (*pair(1, 12), int(rng.integers(1, 9)) * groups)
        if rng.random() < 0.3:
            shape = (shape[0], int(rng.integers(16, 41)), shape[2])
        padding = "same" if rng.random() < 0.2 else (pair(0, 3), pair(0, 3))
        options = {"out": int(rng.integers(1, 14)) * groups, "kernel": pair(1, 4), "stride": pair(1, 3),
                   "padding": padding, "dilation": pair(1, 3), "groups": groups}
        try:
            Geometry.fit(shape, options["kernel"], options["stride"], padding, options["dilation"])
        except ValueError:
            continue
        return shape, options


@functools.lru_cache(maxsize=2)
def random_cases(seed: int) -> list[tuple[str, str, Any, Operands, Sequence[np.ndarray]]]:
    """Ten random layers, each with every verb: (what it is, verb, layer, operands, what the twin gives)."""
    rng, found = np.random.default_rng(seed), []
    for i in range(10):
        shape, options = random_layer(rng)
        draw = Draw(100 * seed + i, exact=True)
        layer = make_layer(shape, options, draw)
        operands = product_operands(layer, int(rng.choice([1, 2, 7])), draw)
        found += [(f"{name} of {layer!r} on {shape}", name, layer, operands, on_twin(verb, layer, operands, True))
                  for name, verb in PRODUCTS.items()]
    return found


@PER_ISA
@pytest.mark.parametrize("seed", range(20))
def test_products_of_random_layers(isa: str, seed: int) -> None:
    """Ten random layers a seed, every verb on each, exact."""
    for what, verb, layer, operands, expected in random_cases(seed):
        try:
            check(PRODUCTS[verb], layer, operands, expected, exact=True)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error


@pytest.mark.parametrize("name", ["conv same", "grouped", "conv stride (3, 2)", "narrow, one output", "narrow back",
                                  "conv unequal padding", "dense 40 to 33", "conv dilated", "lists"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_not_a_number_reaches_what_depends_on_it(isa: str, name: str, value: float) -> None:
    """Outputs not connected to the value have the bits they have without it; a NaN reaches all others."""
    draw = Draw(5, exact=False)
    layer = make_layer(*LINEAR[name], draw)
    d = product_operands(layer, 3, draw)
    geometry, ones = layer.geometry, np.ones_like(layer.filters)
    directions = (
        (d.x, geometry.in_shape, linear, lambda x: NATIVE.product(layer, ("w",), [(x, "plain", None)])),
        (d.g, geometry.out_shape, linear_back,
         lambda g: NATIVE.product_back(layer, [(g, "plain", None)], [(("w",), None)])))
    for clean, shape, spread, run in directions:
        dirty, mark = clean.reshape(3, *shape).copy(), np.zeros((3, *shape))
        at = (1, shape[0] // 2, shape[1] // 2, shape[2] // 2)
        dirty[at], mark[at] = value, 1
        reached = spread(geometry, mark, ones) > 0
        found, expected = run(dirty.reshape(clean.shape)).reshape(reached.shape), run(clean).reshape(reached.shape)
        np.testing.assert_array_equal(found[~reached], expected[~reached])
        assert reached.any() and not np.isfinite(found[reached]).any()
        assert not np.isnan(value) or np.isnan(found[reached]).all()


def test_the_table_reaches_both_ways_back(isa: str) -> None:
    """Products back run over destination pixels or scatter source pixels, by shape."""
    layers = [make_layer(*case, Draw(0, exact=True)) for case in LINEAR.values()]
    ways = [layer.geometry.simplest.prefers_scatter(_kernels.lanes()) for layer in layers]
    assert 3 <= sum(ways) < len(ways)


def test_kernels_and_twin_have_the_same_verbs() -> None:
    """And every one of them is in a table here."""
    verbs, twin = ({name for name in dir(ops) if callable(getattr(ops, name)) and not name.startswith(("_", "packed_"))}
                   for ops in (NATIVE, SINGLE))
    assert verbs == twin
    plain = {name for name in vars(Plain) if not name.startswith("_")}  # NumPy on both
    assert all(re.search(rf"\b(ops|NATIVE)\.{verb}\(", Path(__file__).read_text()) for verb in verbs - plain)


def test_shifted_readings_back() -> None:
    """In a process of its own: every way back knows every reading, bounds included."""
    done = run_python("""
import numpy as np
from cases import LINEAR, Draw, make_layer
from fastlrp.ops import NATIVE
from fastlrp.reference import Reference
for name in LINEAR:
    draw = Draw(1, exact=True)
    layer = make_layer(*LINEAR[name], draw)
    reads = [(draw(2, *layer.out_shape), "shifted", draw(*layer.out_shape)) for _ in range(2)]
    for sides in ([(("w",), None)], [(("+", "-"), None)]):
        operands = reads[:len(sides[0][0])]
        expected = Reference(np.float32).product_back(layer, operands, sides)
        assert np.array_equal(NATIVE.product_back(layer, operands, sides), expected), (name, sides)
""")
    assert done.returncode == 0, done.stderr


def test_outputs_are_poisoned(isa: str, poisoned: Any) -> None:
    """The fixture does what it says: kernels write into arrays full of NaN."""
    d = kernel_arguments()
    for name, (_, run) in KERNEL_CALLS.items():
        before = len(poisoned.guards)
        run(d)
        assert len(poisoned.guards) > before, name
    assert np.isnan(_kernels.empty((3, 4))).all()


# ---- pools ----

POOLS: dict[str, Verb] = {
    "sum": lambda ops, w, d: ops.sum_pool(w, d.x, d.scale),
    "sum back": lambda ops, w, d: ops.sum_pool_backward(w, d.g, d.scale),
    "sum back, factor": lambda ops, w, d: ops.sum_pool_backward(w, d.g, d.scale, d.x),
    "max": lambda ops, w, d: ops.max_pool(w, d.x),
    "max back": lambda ops, w, d: ops.max_pool_backward(w, d.g, d.winner),
    "max back, ties share": lambda ops, w, d: ops.max_pool_share(w, d.g, d.x, d.y),
}


def window_of(name: str) -> Window:
    shape, kernel, stride, padding = WINDOWS[name]
    return Window.fit(shape, kernel, stride, as_padding(padding))


def pool_operands(window: Window, n: int, draw: Draw) -> Operands:
    x = draw(n, *window.in_shape)
    y, winner = EXACT.max_pool(window, np.asarray(x))
    scale = guarded(draw.rng.choice([0.25, 0.5, 1, 2], window.grid))
    return Operands(x=x, g=draw(n, *window.out_shape), scale=scale, winner=winner, y=guarded(y))


@pytest.mark.parametrize("verb", POOLS)
@pytest.mark.parametrize("name", WINDOWS)
def test_pools(isa: str, name: str, verb: str) -> None:
    """Integers bring ties to the maximum; scales differ from window to window."""
    window = window_of(name)
    for exact in (True, False):
        draw = Draw(11, exact)
        for n in (1, 3):
            compare(POOLS[verb], window, pool_operands(window, n, draw), exact)


@pytest.mark.parametrize("verb", ["max", "max back", "max back, ties share"])
@pytest.mark.parametrize("name", DILATED)
def test_maxima_of_dilated_windows(isa: str, name: str, verb: str) -> None:
    """Integers bring ties; the way back skips what lies between the taps."""
    shape, options = DILATED[name]
    kernel, stride, dilation = (as_pair(options[key], key) for key in ("kernel", "stride", "dilation"))
    window = Window.fit(shape, kernel, stride, as_padding(options.get("padding", 0)), dilation,
                        options.get("ceil_mode", False))
    for exact in (True, False):
        for n in (0, 1, 3):
            compare(POOLS[verb], window, pool_operands(window, n, Draw(12, exact)), exact)


@pytest.mark.parametrize("verb", POOLS)
def test_pools_of_no_samples(isa: str, verb: str) -> None:
    """An empty batch gives an empty result."""
    window = window_of("padded")
    compare(POOLS[verb], window, pool_operands(window, 0, Draw(11, exact=True)), exact=True)


@pytest.mark.parametrize("name", WINDOWS)
def test_pools_of_values_that_are_not_numbers(isa: str, name: str) -> None:
    """A NaN wins a maximum; where all is −inf the first real element wins; sums take NaN and infinities on."""
    window = window_of(name)
    draw = Draw(13, exact=True)
    x = np.array(draw(2, *window.in_shape))
    x[draw.rng.random(x.shape) < 0.1] = np.nan
    x[draw.rng.random(x.shape) < 0.1] = np.inf
    x[:, :4, :4] = -np.inf
    d = pool_operands(window, 2, draw)
    with np.errstate(invalid="ignore"):
        compare(POOLS["max"], window, Operands(x=guarded(x)), exact=True)
        y = guarded(EXACT.max_pool(window, x)[0])
        compare(POOLS["max back, ties share"], window, Operands(x=guarded(x), y=y, g=d.g), exact=True)
        compare(POOLS["sum"], window, Operands(x=guarded(x), scale=d.scale), exact=True)
        gradient = np.where(draw.rng.random(d.g.shape) < 0.2, np.nan, d.g)
        compare(POOLS["max back"], window, Operands(g=guarded(gradient), winner=d.winner), exact=True)


# ---- pointwise maps ----

SHAPES = [(1,), (3, 5), (1, 1, 1, 1), (2, 9, 7, 3), (3, 4, 5, 8), (2, 3, 5, 17), (2, 10007), (1, 31, 33, 40), (0, 6, 5)]


def signed_zeros(draw: Draw, shape: tuple[int, ...]) -> np.ndarray:
    """Values among which are zeros of both signs, and a few that cancel an epsilon of 0.5."""
    values = np.array(draw(*shape))
    values[draw.rng.random(shape) < 0.1] = 0.0
    values[draw.rng.random(shape) < 0.1] = -0.0
    values[draw.rng.random(shape) < 0.1] = -0.5
    return guarded(values)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1e-6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ratio_map(isa: str, shape: tuple[int, ...], epsilon: float, signed: bool) -> None:
    """Bit for bit on any data, with sums of their own or one sample's sums for all, NaN and infinities included."""
    for exact in (True, False):
        draw = Draw(17, exact)
        relevance = np.array(draw(*shape))
        relevance[draw.rng.random(shape) < 0.1] = np.inf
        relevance[draw.rng.random(shape) < 0.1] = np.nan
        d = Operands(sums=signed_zeros(draw, shape), one=signed_zeros(draw, (1, *shape[1:])),
                     bias=draw(shape[-1]), r=guarded(relevance))
        with np.errstate(invalid="ignore"):
            for sums in ("sums", "one"):
                for bias in (True, False):
                    compare(lambda ops, _, d, sums=sums, bias=bias: ops.ratio_map(
                        getattr(d, sums), d.bias if bias else None, (d.r, epsilon, -1.5, signed)), None, d, exact=True)


@pytest.mark.parametrize(("shape", "groups"), [
    ((1, 1), 1), ((3, 5), 1), ((3, 5), 5), ((2, 9, 7, 3), 1), ((3, 4, 5, 8), 2), ((2, 3, 5, 17), 1), ((2, 10007), 1),
    ((1, 31, 33, 40), 1), ((1, 31, 33, 40), 4), ((2, 5, 5, 64), 1), ((0, 6, 5), 1)], ids=str)
def test_group_sum(isa: str, shape: tuple[int, ...], groups: int) -> None:
    """What is not finite reaches the sum of its own group alone."""
    for exact in (True, False):
        draw = Draw(18, exact)
        x = np.array(draw(*shape))
        if exact:
            x[draw.rng.random(shape) < 0.01] = np.inf
            x[draw.rng.random(shape) < 0.01] = np.nan
            x[draw.rng.random(shape) < 0.01] = -np.inf
        d = Operands(x=guarded(x))
        with np.errstate(invalid="ignore"):
            compare(lambda ops, _, d: ops.group_sum(d.x, groups), None, d, exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.25, 4.0])
def test_gamma_map(isa: str, shape: tuple[int, ...], gamma: float) -> None:
    """p ≥ 0 and q ≤ 0; z has both signs, zeros of both, and NaN; relevance too is not always finite."""
    for exact in (True, False):
        draw = Draw(19, exact)
        z = np.array(signed_zeros(draw, shape))
        relevance = np.array(draw(*shape))
        if exact:
            z[draw.rng.random(shape) < 0.1] = np.nan
            relevance[draw.rng.random(shape) < 0.1] = np.inf
        d = Operands(p=guarded(np.abs(draw(*shape))), q=guarded(-np.abs(draw(*shape))), z=guarded(z),
                     bias=draw(shape[-1]), r=guarded(relevance))
        for bias in (True, False):
            with np.errstate(invalid="ignore"):
                compare(lambda ops, _, d, bias=bias: ops.gamma_map(
                    d.p, d.q, d.z, d.bias if bias else None, gamma, (d.r, 0.25, 1.0, True)), None, d, exact,
                    tolerance=1e-5)


SPECIAL = [0.0, -0.0, 1e-40, -1e-40, 3.0, -3.0, 6.0, -10.0, 30.0, -30.0, 100.0, -100.0, 3e38, -3e38, np.inf, -np.inf,
           np.nan]
ACTIVATIONS = [("relu", 0), ("leaky_relu", 0.25), ("leaky_relu", -0.5), ("leaky_relu", 0), ("capped_relu", 6),
               ("capped_relu", 0.7), ("at_least", -0.5), ("at_least", 3), ("at_most", 0), ("at_most", 6), ("abs", 0),
               ("tanh", 0), ("sigmoid", 0), ("softplus", 0), ("elu", 1), ("elu", -0.4), ("selu", 0), ("gelu", 0),
               ("gelu_tanh", 0), ("silu", 0), ("hardswish", 0), ("hardsigmoid", 0), ("mish", 0)]
CHOICES = ("relu", "leaky_relu", "capped_relu", "at_least", "at_most", "abs")  # of the values there are: exact


def test_the_table_has_every_activation() -> None:
    """Of the kernels and of the twin, which have the same."""
    assert {kind for kind, _ in ACTIVATIONS} == set(_kernels.ACTIVATIONS) == set(reference.ACTIVATIONS)


@pytest.mark.parametrize(("kind", "parameter"), ACTIVATIONS)
def test_activations(isa: str, kind: str, parameter: float) -> None:
    """Sizes around the vectors and the blocks; extreme values; exact where the function is a choice of values."""
    exact = kind in CHOICES
    twin = EXACT if exact else SINGLE
    for size in (*range(1, 41), 8191, 8193, 20000):
        draw = Draw(size, exact=False)
        values = np.concatenate([SPECIAL, 3 * draw.rng.standard_normal(size)])[-size if size < 30 else None:]
        x = guarded(values)
        d = Operands(x=x, g=draw(x.size))
        wide = d.astype(twin.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            found = [NATIVE.activation(kind, d.x, parameter), NATIVE.activation_backward(kind, d.x, d.g, parameter)]
            expected = [twin.activation(kind, wide.x, parameter),
                        twin.activation_backward(kind, wide.x, wide.g, parameter)]
            expected = [e.astype(np.float32) for e in expected]
        d.check_unmodified()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0 if exact else 5e-7, atol=0 if exact else 5e-7)


# Relative errors of values (and of slopes where they do not change sign) between −20 and 20, in float32 roundings: sums
# have few, but an exponent of -x²/2 or of a cubic takes those of x² along.
ROUNDINGS = {"gelu": 120, "gelu_tanh": 200}


@pytest.mark.parametrize(("kind", "parameter"), [case for case in ACTIVATIONS if case[0] not in CHOICES])
def test_activations_are_exact_far_out(isa: str, kind: str, parameter: float) -> None:
    """No value is a difference of large ones: tails, and values near zero, are as exact as others in relative terms."""
    x = np.concatenate([np.linspace(-20, 20, 40001), np.logspace(-30, 0, 1001), -np.logspace(-30, 0, 1001)])
    x = x.astype(np.float32)
    found, expected = NATIVE.activation(kind, x, parameter), SINGLE.activation(kind, x.astype(np.float64), parameter)
    some = np.abs(expected) > 1e-37
    error = np.abs(found[some] - expected[some]) / np.abs(expected[some])
    assert error.max() < ROUNDINGS.get(kind, 6) * 2.0**-24
    if kind in ("tanh", "sigmoid", "softplus", "elu", "selu"):
        found = NATIVE.activation_backward(kind, x, np.ones_like(x), parameter)[np.abs(x) < 8]
        expected = SINGLE.activation_backward(kind, x.astype(np.float64), np.ones(x.shape), parameter)[np.abs(x) < 8]
        assert (np.abs(found - expected) / np.abs(expected)).max() < 12 * 2.0**-24


def test_exponentials_end_in_denormals(isa: str) -> None:
    """As exact as denormals can be, down to zero."""
    x = np.array([-87, -88, -95, -100, -103, -103.9, -104.1, -120, -3e38], np.float32)
    expected = np.exp(x.astype(np.float64)).astype(np.float32)
    for found in (NATIVE.activation("sigmoid", x), NATIVE.activation_backward("elu", x, np.ones_like(x), 1.0)):
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1.5e-45)


@pytest.mark.parametrize(("kind", "parameter"), ACTIVATIONS)
def test_activations_do_not_depend_on_the_place(isa: str, kind: str, parameter: float) -> None:
    """A value has the same bits in the middle of a vector, at its end, and alone."""
    draw = Draw(23, exact=False)
    x, g = np.concatenate([SPECIAL, 4 * draw(200)]).astype(np.float32), draw(200 + len(SPECIAL))
    whole = NATIVE.activation(kind, x, parameter), NATIVE.activation_backward(kind, x, g, parameter)
    for first, last in ((0, 1), (3, 217), (5, 12), (13, 15), (20, 39), (216, 217)):
        part = slice(first, last)
        assert_same_bits(NATIVE.activation(kind, x[part].copy(), parameter), whole[0][part])
        assert_same_bits(NATIVE.activation_backward(kind, x[part].copy(), g[part].copy(), parameter), whole[1][part])


@pytest.mark.parametrize("size", [1, 7, 8, 33, 8192, 8193, 20000])
def test_nonnegative_samples(isa: str, size: int) -> None:
    """−0 is not negative; NaN is not non-negative; the last element counts."""
    draw = Draw(size, exact=False)
    x = np.abs(np.array(draw(7, size)))
    x[1, -1], x[2, 0], x[3, size // 2], x[4, -1], x[5, -1] = -1e-30, -1, np.nan, -0.0, np.inf
    expected = [True, False, False, False, True, True, True]
    assert NATIVE.nonnegative_samples(guarded(x)).tolist() == expected == SINGLE.nonnegative_samples(x).tolist()
    assert NATIVE.nonnegative_samples(x[:0]).tolist() == []


# ---- buffers that do not fit ----

def wrong_buffers(right: np.ndarray) -> dict[str, Any]:
    """What the kernels must refuse in place of a float32 array."""
    wide = np.zeros((*right.shape[:-1], 2 * right.shape[-1]), np.float32)
    unaligned = np.frombuffer(bytearray(4 * right.size + 1), np.uint8)[1:].view(np.float32).reshape(right.shape)
    return {"float64": right.astype(np.float64), "float16": right.astype(np.float16),
            "int32": right.astype(np.int32), "byte order": right.astype(right.dtype.newbyteorder()),
            "too small": right.reshape(-1)[:-1].copy(), "too large": np.zeros(right.size + 1, np.float32),
            "empty": np.zeros(0, np.float32), "strides": wide[..., ::2], "reversed": right.reshape(-1)[::-1],
            "unaligned": unaligned, "a list": right.tolist(), "nothing": None, "bytes": b"1234",
            "objects": right.astype(object)}


KERNEL_CALLS: dict[str, tuple[Sequence[str], Callable[[Any], Any]]] = {
    "product": (("x", "bias", "g"), lambda d: NATIVE.product(
        d.layer, ("w",), [(d.x, "plain", None)], bias=d.bias, ratio=(d.g, 1.0, 1.0, True))),
    "shifted product": (("low",), lambda d: NATIVE.product(d.layer, ("w",), [(d.x, "shifted", d.low)])),
    "product back": (("g", "x"), lambda d: NATIVE.product_back(
        d.layer, [(d.g, "plain", None)], [(("w",), (d.x, "plain", None))])),
    "weight gradient": (("x", "g"), lambda d: _kernels.weight_gradient(d.layer.geometry, d.x, d.g)),
    "sum pool": (("pixels", "scale"), lambda d: _kernels.sum_pool(d.window, d.pixels, d.scale)),
    "sum pool back": (("pooled", "scale", "pixels"), lambda d: _kernels.sum_pool_backward(
        d.window, d.pooled, d.scale, d.pixels)),
    "max pool": (("pixels",), lambda d: _kernels.max_pool(d.window, d.pixels)),
    "max pool back": (("pooled", "winner"), lambda d: _kernels.max_pool_backward(d.window, d.pooled, d.winner)),
    "max pool back, ties share": (("pooled", "pixels", "maxima"), lambda d: _kernels.max_pool_share(
        d.window, d.pooled, d.pixels, d.maxima)),
    "ratio map": (("g", "h", "bias"), lambda d: _kernels.ratio_map(d.h, d.bias, (d.g, 1.0, 1.0, True))),
    "gamma map": (("g", "h", "bias"), lambda d: _kernels.gamma_map(d.h, d.h, d.h, d.bias, 1.0,
                                                                   (d.g, 1.0, 1.0, True))),
    "channel sum": (("g",), lambda d: _kernels.channel_sum(d.g)),
    "group sum": (("g",), lambda d: _kernels.group_sum(d.g, 3)),
    "activation": (("g",), lambda d: _kernels.activation("relu", d.g)),
    "signs": (("g",), lambda d: _kernels.nonnegative_samples(d.g)),
    "activation back": (("g",), lambda d: _kernels.activation_backward("relu", d.h, d.g)),
}
FITTING = {("nothing", "bias"), ("nothing", "sum pool back", "pixels"), ("int32", "winner"),
           ("empty", "sum pool", "pixels"), ("empty", "max pool", "pixels"),  # optional, or a batch of none
           *itertools.product(("too small", "too large", "empty"), ("channel sum", "activation", "signs"), ("g",))}


def kernel_arguments() -> Any:
    draw = Draw(3, exact=True)
    layer = make_layer((4, 5, 3), {"out": 6, "kernel": 3, "padding": 1}, draw)
    window = Window.fit((4, 4, 3), (2, 2), (2, 2), as_padding(0))
    d = product_operands(layer, 2, draw)
    pool = pool_operands(window, 2, draw)
    d.__dict__.update(layer=layer, window=window, pixels=pool.x, pooled=pool.g, scale=pool.scale, winner=pool.winner,
                      maxima=pool.y)
    return d


@pytest.mark.parametrize(("call", "argument"), [(c, a) for c, (names, _) in KERNEL_CALLS.items() for a in names])
def test_wrong_buffers_are_refused(call: str, argument: str) -> None:
    """Whatever comes in place of an array raises, and names the buffer where it is an array."""
    run = KERNEL_CALLS[call][1]
    d = kernel_arguments()
    run(d)
    right = getattr(d, argument)
    for name, wrong in wrong_buffers(right).items():
        if (name, call, argument) in FITTING or (name, argument) in FITTING:
            continue
        setattr(d, argument, wrong)
        with pytest.raises((TypeError, ValueError, AttributeError)):
            pytest.fail(f"{name} was taken for {argument}: {run(d)}")


def test_outputs_that_do_not_fit_are_refused() -> None:
    """A product writes into the array it is given: only where that is writable and right."""
    d = kernel_arguments()
    n, geometry = len(d.x), d.layer.geometry
    product = NATIVE._pack(d.layer, ("", "forward", False, ("w",)))
    operands, right = [(d.x, "plain", None)], np.zeros((n, *geometry.out_shape), np.float32)
    product(n, operands, right)
    read_only = right.copy()
    read_only.flags.writeable = False
    for name, wrong in {**wrong_buffers(right), "read-only": read_only}.items():
        with pytest.raises((TypeError, ValueError)):
            pytest.fail(f"{name} was taken for out: {product(n, operands, wrong)}")
    for samples in (-1, 0, n - 1, n + 1, 2**62):
        with pytest.raises((ValueError, OverflowError)):
            pytest.fail(f"{samples} samples: {product(samples, operands, right)}")


@pytest.mark.parametrize("call", [
    lambda d, p: p(2, [], np.zeros_like(d.g)),
    lambda d, p: p(2, [(d.x, "plain", None)] * 2, np.zeros_like(d.g)),
    lambda d, p: p(2, [(d.x, "sideways", None)], np.zeros_like(d.g)),
    lambda d, p: p(2, [(d.x, "plain", None)], np.zeros_like(d.g), factors=[(d.g, "plain", None)] * 2),
    lambda d, p: p(2, [(d.x, "plain", None)], np.zeros_like(d.g), ratio=(d.g, "much", 1.0, True)),
    lambda d, p: _kernels.activation("swish", d.x),
    lambda d, p: _kernels.group_sum(d.x, 2),
    lambda d, p: _kernels.group_sum(d.x, 0),
    lambda d, p: _kernels.set_isa("quantum"),
], ids=["no operand", "too many operands", "reading", "too many factors", "epsilon", "activation", "groups",
        "no groups", "isa"])
def test_unknown_names_and_counts_are_refused(call: Callable) -> None:
    """No name reaches C without being known."""
    d = kernel_arguments()
    with pytest.raises((KeyError, ValueError, TypeError)):
        call(d, NATIVE._pack(d.layer, ("", "forward", False, ("w",))))


@pytest.mark.parametrize(("sides", "parts"), [(1, 3), (3, 1), (0, 1), (1, 0)])
def test_more_parts_than_kernels_take_are_refused(sides: int, parts: int) -> None:
    """A product has one or two operands and one or two sides."""
    geometry = Geometry.dense(4, 8)
    with pytest.raises(ValueError, match=r"parts|sides|weight"):
        _kernels.Product(geometry.forward_sweeps, geometry.in_shape, geometry.out_shape, 1, sides, parts)


DENSE = ["dense 40 to 33", "dense 70 to 1100", "dense 1100 to 19"]


@pytest.mark.parametrize(("name", "turned"), [*((name, turned) for name in DENSE for turned in (True, False)),
                                              ("winograd", True), ("conv 3x3", True)])
def test_samples_do_not_depend_on_their_neighbours(name: str, turned: bool, isa: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples or many, in any place: kernels block them differently, and give the same bits. turned: with a copy
    of a dense layer's weights for the way back."""
    if not turned:
        monkeypatch.setattr(ops, "MOST_TURNED", 0)
    draw = Draw(3, exact=False)
    layer = make_layer(*LINEAR[name], draw)
    d = product_operands(layer, 70, draw)
    for verb in ("signed parts", "back, two operands, two sides"):
        whole = PRODUCTS[verb](NATIVE, layer, d)
        for first, count in ((0, 1), (68, 2), (7, 3), (31, 4), (5, 5), (4, 7), (2, 9), (1, 11), (9, 13), (3, 66)):
            rows = slice(first, first + count)
            some = Operands(x=d.x[rows], g=d.g[rows], h=d.h[rows], low=d.low, high=d.high, bias=d.bias)
            assert_same_bits(PRODUCTS[verb](NATIVE, layer, some), whole[rows], f"{verb}, {count} samples")


@pytest.mark.parametrize("verb", [verb for verb in PRODUCTS if verb.startswith("back")])
@pytest.mark.parametrize("name", [name for name in LINEAR if name.startswith("dense")])
def test_large_dense_layers_go_back_over_the_weights_as_they_lie(name: str, verb: str, isa: str,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """No transposed copy: tried on small ones."""
    monkeypatch.setattr(ops, "MOST_TURNED", 0)
    for layer, operands, expected, exact in product_cases(name, verb):
        layer._packed.clear()
        check(PRODUCTS[verb], layer, operands, expected, exact)
        assert not any(key[0] == "turned" for key in layer._packed)
        layer._packed.clear()


def test_weight_gradients_read_no_more_than_there_is() -> None:
    """In a process of its own: g ends where memory does."""
    done = run_python("""
import ctypes, mmap
import numpy as np
from cases import Draw, make_layer
from fastlrp import _kernels
from fastlrp.ops import NATIVE
page, libc = mmap.PAGESIZE, ctypes.CDLL(None)
memory = mmap.mmap(-1, 2 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert libc.mprotect(ctypes.c_void_p(start + page), page, 0) == 0
for shape, options in (((5,), {"out": 1}), ((5,), {"out": 3}), ((7,), {"out": 10}),
                       ((1, 1, 8), {"out": 8, "kernel": 1, "groups": 4}), ((2, 2, 1), {"out": 3, "kernel": 2})):
    layer = make_layer(shape, options, Draw(0, exact=True))
    for n in (1, 2, 3, 9, 257):
        size = n * int(np.prod(layer.out_shape))
        if 4 * size > page:
            continue
        g = np.frombuffer(memory, np.float32, size, page - 4 * size).reshape(n, *layer.out_shape)
        for isa in _kernels.ISAS:
            _kernels.set_isa(isa)
            NATIVE.weight_gradient(layer, np.ones((n, *shape), np.float32), g)
print("done")
import os
os._exit(0)
""")
    assert "done" in done.stdout, done.stderr


def test_sums_keep_the_sign_that_is_promised(isa: str) -> None:
    """Winograd's differences round: without the promise some sums of nothing but zeros come out negative. On tiles
    none does."""
    rng = np.random.default_rng(0)
    layer = make_layer((12, 12, 32), {"out": 32, "kernel": 3, "padding": 1}, Draw(0, exact=False))
    sparse = rng.random(layer.weight_shape) < 0.02
    layer.weight = np.where(sparse, np.abs(rng.standard_normal(layer.weight_shape)), 0)
    x = np.where(rng.random((4, 12, 12, 32)) < 0.2, np.abs(rng.standard_normal((4, 12, 12, 32))), 0).astype(np.float32)
    free, kept = (NATIVE.product(layer, ("w",), [(x, "plain", None)], sign=sign) for sign in (0, 1))
    assert kept.min() >= 0 and (free.min() < 0 or _kernels.has_limbs())
    np.testing.assert_array_equal(kept, np.maximum(free, 0))
    np.testing.assert_array_equal(NATIVE.product(layer, ("w",), [(-x, "plain", None)], sign=-1), -kept)


def test_products_take_the_weights_they_are_made_for() -> None:
    """And do not run without any."""
    geometry = Geometry.dense(4, 8)
    shapes = geometry.forward_sweeps, geometry.in_shape, geometry.out_shape
    product, x = _kernels.Product(*shapes, 1, 1, 1), np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match="no weights"):
        product(2, [(x, "plain", None)], np.zeros((2, 8), np.float32))
    for shape in ((1, 1, 1, 2, 4, 8), (1, 1, 1, 1, 3, 8), (1, 1, 1, 1, 4, 7), (4, 8)):
        with pytest.raises(ValueError, match="weight"):
            product.pack(np.ones(shape, np.float32))
    with pytest.raises(ValueError, match="weights"):
        product.refer([[(np.ones((4, 7), np.float32), "plain")]], False)
    conv = Geometry.fit((3, 3, 4), (2, 2), (1, 1), ((0, 0), (0, 0)), out_channels=8)
    with pytest.raises(ValueError, match="one pixel"):
        _kernels.Product(conv.forward_sweeps, conv.in_shape, conv.out_shape, 1, 1, 1).refer([[]], False)


@PER_ISA
@pytest.mark.parametrize("n", [1, 7, 16, 45, 20_001])
def test_adam_has_the_bits_of_numpy(isa: str, n: int) -> None:
    rng, around = np.random.default_rng(n), np.full((5, n + 2), np.nan, np.float32)
    around[:, 1:-1] = rng.standard_normal((5, n))
    old, g, m, v, new = around[:, 1:-1]
    v *= v
    beta1, beta2, rate, floor, keep = map(np.float32, (0.9, 0.999, 1e-3, 1e-8, 0.97))
    first, second = m * beta1 + g, v * beta2 + g * g
    expected = [old.copy(), g.copy(), first, second, old * keep - first / (np.sqrt(second) + floor) * rate]
    assert _kernels.adam(old, new, g, m, v, beta1, beta2, rate, floor, keep)
    assert_same_bits(around[:, 1:-1], np.array(expected))
    assert np.isnan(around[:, [0, -1]]).all()  # nothing beside the arrays is written


@PER_ISA
@pytest.mark.parametrize("n", [3, 8, 17])
def test_adam_divides_by_nothing_of_its_own(isa: str, n: int) -> None:
    """A floor that rounds to zero does no harm where gradients are not zero."""
    old, g, m, v, new = np.ones((5, n), np.float32)
    assert _kernels.adam(old, new, g, m, v, 0.9, 0.999, 1e-3, 0, 1) and np.isfinite(new).all()


@pytest.mark.parametrize("name", ["new", "m", "v"])
def test_adam_writes_to_no_array_that_is_read_only(name: str) -> None:
    """Parameters are shared with layers."""
    arrays = {key: np.ones(5, np.float32) for key in ("old", "new", "g", "m", "v")}
    arrays[name].flags.writeable = False
    with pytest.raises(ValueError, match=f"{name} must be writeable"):
        _kernels.adam(*arrays.values(), 0.9, 0.999, 1e-3, 1e-8, 1)


@PER_ISA
@pytest.mark.parametrize("name", ["old", "g", "m", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_adam_says_what_is_not_finite(isa: str, name: str, value: float) -> None:
    """Wherever it stands: in the last number of all, of the first array or a moment; the square of 3e38 is none."""
    arrays = {key: np.ones(19, np.float32) for key in ("old", "g", "m", "v")}
    arrays[name][-1] = value
    found = _kernels.adam(arrays["old"], np.empty(19, np.float32),
                          *(arrays[key] for key in ("g", "m", "v")), 0.9, 0.999, 1e-3, 1e-8, 1)
    assert found == (value == 3e38 and name != "g")
