"""Products on bf16 tiles against the NumPy twin, at every precision; and how numbers are split into limbs.

Small integers are bf16 numbers, so that there all precisions equal the float32 twin bit for bit. On other data each
keeps its bound against float64. The rule that keeps small layers off the tiles is lifted where odd shapes are tried.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ISAS, LINEAR, Draw, assert_same_bits, guarded, make_layer, mixed_signs, relative_error, with_biases
from test_kernels import EXACT, PRODUCTS, SINGLE, Operands, on_twin, product_operands

import fastlrp
from fastlrp import _kernels, fusing, packing, program
from fastlrp.ops import NATIVES, Native

TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max
LARGE_VALUE = 3.4e38  # beyond all bf16 numbers
LOW_NAN = np.uint32(0x7f800001).view(np.float32)  # whose upper half alone would be infinite
ON_TILES = [pytest.mark.skipif("amx" not in ISAS, reason="this build or machine has no amx instruction set"),
            pytest.mark.usefixtures("isa", "poisoned"), pytest.mark.parametrize("isa", ["amx"], indirect=True)]


def on_tiles(test: Any) -> Any:
    """Runs the test on the instruction set amx alone, with outputs that start as NaN."""
    for mark in ON_TILES:
        test = mark(test)
    return test


@pytest.fixture(params=["direct", "winograd"])
def any_shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tiles take every product of one group, those of 3 x 3 taps of whole floats by F(2x2, 3x3) or directly."""
    for name in ("LEAST_CHANNELS", "LEAST_PIXELS", "WINOGRAD_CHANNELS", "WINOGRAD_LIMB_PIXELS"):
        monkeypatch.setattr(packing, name, 1)
    monkeypatch.setattr(packing, "WINOGRAD_LIMB_CHANNELS", 1 if request.param == "winograd" else 10**9)
    return request.param


# ---- limbs ----

def as_float(limb: np.ndarray) -> np.ndarray:
    return (limb.astype(np.uint32) << 16).view(np.float32)


def limbs_of(x: np.ndarray, count: int) -> list[np.ndarray]:
    """x split from NumPy's own arithmetic: the nearest number of 8 bits, even on ties, again and again."""
    found, rest = [], x.astype(np.float64)
    for _ in range(count):
        unit = 2.0 ** (np.floor(np.log2(np.abs(rest), where=rest != 0, out=np.zeros_like(rest))) - 7)
        found.append(np.rint(rest / unit) * unit)
        rest = rest - found[-1]
    return found


def floats(n: int = 20000, seed: int = 0) -> np.ndarray:
    """Normal floats whose third limbs are still normal, some of them with few bits, ties among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, n, np.uint32)
    bits[::3] &= np.uint32(0xffff8000)
    x = bits.view(np.float32)
    return np.ascontiguousarray(x[(np.abs(x) > TINY * 2**24) & (np.abs(x) < LARGEST / 2)])


def test_three_limbs_are_the_whole_number() -> None:
    """Each the nearest to what is left; nothing is left after three."""
    x = rest = floats()
    for expected in limbs_of(x, 3):
        limb, rest = packing.split(rest)
        np.testing.assert_array_equal(as_float(limb), expected)
    assert not rest.any()


def test_limbs_of_values_at_the_ends() -> None:
    """No finite number becomes infinite; NaN and infinities stay, and leave nothing."""
    quiet = np.array([0x7f800001, 0xffc00000, 0x7fffffff], np.uint32).view(np.float32)
    x = np.concatenate([np.array([np.inf, -np.inf, LARGEST, -LARGEST, 0.0, -0.0, TINY], np.float32), quiet])
    limb, rest = packing.split(x)
    values = as_float(limb)
    np.testing.assert_array_equal(values[:2], [np.inf, -np.inf])
    assert np.isfinite(values[2:7]).all() and np.isnan(values[7:]).all()
    assert not rest[:2].any() and not rest[7:].any()
    assert_same_bits(values[4:7], x[4:7])
    np.testing.assert_array_equal(values[2:4] + rest[2:4], x[2:4])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_packed_limbs(count: int) -> None:
    """Where each weight goes, on cache lines; zeros fill up the rest."""
    weight = np.random.default_rng(1).standard_normal((2, 2, 3, 2, 37, 41)).astype(np.float32)
    geometry = fastlrp.shapes.Geometry((4, 5, 37), (2, 3), (1, 1), ((0, 0), (0, 0)), out_channels=41)
    packed = packing.limbs(weight, geometry.forward_sweeps[0], count)
    assert packed.ctypes.data % 64 == 0 and packed.flags.c_contiguous
    assert packed.shape == (2, 2, 2, 2, 2, 3, count, 2, 16, 16, 2)
    values = np.zeros(weight.shape)
    for side, ky, kx, part, c, o in np.ndindex(weight.shape):
        tile = packed[side, o // 32, part, c // 32, ky, kx, :, o % 32 // 16, c % 32 // 2, o % 16, c % 2]
        values[side, ky, kx, part, c, o] = as_float(tile).sum(dtype=np.float64)
    np.testing.assert_allclose(values, weight, rtol=2.0 ** -(8 * count))
    assert np.count_nonzero(packed[..., 0, :, :, :, :]) == weight.size


@pytest.mark.parametrize(("limbs", "groups", "source", "destination", "chosen"), [
    (3, 1, (9, 9, 32), (4, 4, 32), True), (3, 1, (9, 9, 31), (9, 9, 64), False), (3, 1, (9, 9, 64), (9, 9, 31), False),
    (3, 2, (9, 9, 64), (9, 9, 64), False), (3, 1, (1, 1, 500), (1, 1, 500), False),
    (2, 1, (1, 1, 500), (1, 1, 500), True), (1, 1, (1, 1, 500), (1, 1, 500), True)])
def test_which_products_tiles_take(limbs: int, groups: int, source: tuple, destination: tuple, chosen: bool) -> None:
    """By shape and precision alone."""
    assert packing.prefers_limbs(limbs, groups, source, destination) == chosen


# ---- the tile primitive ----

def tile_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w as TDPBF16PS is documented: even and odd elements of 32 apart, no denormals, then their sum to the rest."""
    def flushed(a: np.ndarray) -> np.ndarray:
        return np.where(np.abs(a) < TINY, np.copysign(np.float32(0), a), a).astype(np.float32)
    x, w = (flushed(as_float(packing.split(a)[0])) for a in (x, w))
    total = np.zeros((len(x), w.shape[1]), np.float32)
    for first in range(0, len(w), 32):
        sums = np.zeros((2, *total.shape), np.float32)
        for k in range(first, first + 32):  # products of 8 bits each are exact in float64, as good as fused
            sums[k % 2] = flushed((x[:, k:k + 1].astype(np.float64) * w[k] + sums[k % 2]).astype(np.float32))
        total = flushed(total + flushed(sums[0] + sums[1]))
    return total


def is_emulated() -> bool:
    cpu = Path("/proc/cpuinfo")
    return not (cpu.exists() and "amx_bf16" in cpu.read_text())


@on_tiles
@pytest.mark.parametrize("scale", [1.0, 1e-19, 3e-20])
def test_the_tile_primitive(isa: str, scale: float) -> None:
    """One limb of a dense layer is the primitive alone; small factors make products that are denormal."""
    rng = np.random.default_rng(2)
    layer = make_layer((96,), {"out": 64, "bias": False}, Draw(0, exact=True))
    x, layer.weight = (guarded(rng.standard_normal(shape) * scale) for shape in ((21, 96), (96, 64)))
    found, expected = NATIVES["medium"].product(layer, ("w",), [(x, "plain", None)]), tile_product(x, layer.weight)
    assert (expected == 0).any() == (scale < 1e-18)
    if is_emulated():
        assert_same_bits(found, expected + np.float32(0))  # no sum is −0
    else:
        assert relative_error(found, expected) <= 1e-6


@on_tiles
@pytest.mark.parametrize("precision", NATIVES)
def test_the_source_is_split_like_the_weights(isa: str, any_shape: str, precision: str) -> None:
    """x · 1 and 1 · w through identity matrices: the sum of the limbs."""
    count, values = packing.LIMBS[precision], floats(2000, seed=3)[:10 * 48].reshape(10, 48)
    expected = sum(limbs_of(values, count)).astype(np.float32)
    layer = make_layer((48,), {"out": 48, "bias": False}, Draw(0, exact=True))
    layer.weight = np.eye(48)
    assert_same_bits(NATIVES[precision].product(layer, ("w",), [(guarded(values), "plain", None)]), expected)
    for row, sums in zip(values, expected, strict=True):
        layer.weight = np.diag(row)
        ones = guarded(np.ones((1, 48)))
        assert_same_bits(NATIVES[precision].product(layer, ("w",), [(ones, "plain", None)])[0], sums)


# ---- products ----

LARGE = {"dilated, many taps"}  # too much for an emulation
SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    **{name: case for name, case in LINEAR.items() if case[1].get("groups", 1) == 1 and name not in LARGE},
    "tiles, two chunks and panels": ((5, 6, 40), {"out": 48, "kernel": 3, "padding": 1}),
    "tiles, whole": ((8, 8, 64), {"out": 32, "kernel": 3, "padding": 1}),
    "tiles, strided": ((9, 8, 64), {"out": 33, "kernel": 3, "stride": 2, "padding": 1}),
    "tiles, 1x1 strided": ((9, 10, 35), {"out": 40, "kernel": 1, "stride": (3, 2)}),
    "tiles, dilated, strided": ((12, 9, 33), {"out": 34, "kernel": (3, 2), "dilation": (2, 3), "stride": (1, 2),
                                              "padding": ((3, 0), (1, 4))}),
    "tiles, dense": ((100,), {"out": 70}),
    "tiles, slices": ((6, 6, 270), {"out": 35, "kernel": 3, "padding": 1}),
    "tiles, rows in several tasks": ((50, 28, 200), {"out": 33, "kernel": (2, 1)}),
}
VERBS = {name: verb for name, verb in PRODUCTS.items() if "gradient" not in name}


@functools.lru_cache(maxsize=2)
def exact_case(name: str, verb: str) -> tuple[Any, Operands, Sequence[np.ndarray]]:
    """(layer, operands, what the twin gives) on integers."""
    draw = Draw(23, exact=True)
    layer = make_layer(*SHAPES[name], draw)
    operands = product_operands(layer, 1 if np.prod(SHAPES[name][0]) > 5000 else 3, draw)
    return layer, operands, on_twin(VERBS[verb], layer, operands, exact=True)


@on_tiles
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", SHAPES)
def test_products_of_integers_are_exact(isa: str, any_shape: str, name: str, verb: str) -> None:
    """At every precision, bit for bit as the twin."""
    layer, operands, expected = exact_case(name, verb)
    for precision, native in NATIVES.items():
        found = VERBS[verb](native, layer, operands)
        operands.check_unmodified()
        np.testing.assert_array_equal(found, expected[0], precision, strict=True)


BOUNDED = ["tiles, whole", "tiles, strided", "tiles, dilated, strided", "tiles, dense", "tiles, slices",
           "dense 5000 to 10"]


def bounded_products(ops: Any, layer: Any, d: Any) -> np.ndarray:
    """Forward and back, one after the other."""
    return np.concatenate([ops.product(layer, ("w",), [(d.x, "plain", None)]).ravel(),
                           ops.product_back(layer, [(d.g, "plain", None)], [(("w",), None)]).ravel()])


@on_tiles
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])
@pytest.mark.parametrize("name", BOUNDED)
def test_errors_keep_their_bounds(isa: str, any_shape: str, name: str, positive: bool) -> None:
    """Of float32 sums, 1e-5, and a cosine of 0.999; none is much better than it needs to be, so tiles really ran."""
    draw = Draw(29, exact=False)
    layer = make_layer(*SHAPES[name], draw)
    x, g, weight = draw(2, *layer.in_shape), draw(2, *layer.out_shape), layer.weight
    if positive:
        x, g, layer.weight = guarded(np.abs(x)), guarded(np.abs(g)), np.abs(weight)
    d = Operands(x=x, g=g)
    expected = bounded_products(SINGLE, layer.astype(SINGLE.dtype), d.astype(SINGLE.dtype))
    found = {precision: bounded_products(native, layer, d) for precision, native in NATIVES.items()}
    error = {precision: relative_error(values, expected) for precision, values in found.items()}
    _kernels.set_isa("avx512")
    single = relative_error(bounded_products(NATIVES["highest"], layer, d), expected)
    assert error["highest"] <= single
    assert error["highest"] < error["high"] <= 1e-5
    cosine = (found["medium"] @ expected) / np.linalg.norm(found["medium"]) / np.linalg.norm(expected)
    assert error["high"] < error["medium"] and cosine >= 0.999
    assert error["medium"] >= 1e-5


@on_tiles
@pytest.mark.parametrize("precision", NATIVES)
def test_sums_of_one_sign_keep_it(isa: str, any_shape: str, precision: str) -> None:
    """Although limbs have either sign; sums without a term are exactly zero. Values are all that rounding likes least:
    just above the middle between two bf16 numbers, the largest, the least, mixed with zeros."""
    rng = np.random.default_rng(31)
    hard = np.array([1 + 2**-8 + 2**-23, 1 + 2**-8, 1 + 3 * 2**-8, 2 - 2**-23, 1 + 2**-8 + 2**-16 + 2**-23, 0, 0,
                     TINY, 1.01 * TINY, 2**-100 * (1 + 2**-8 + 2**-23), 1e15], np.float32)
    layer = make_layer((6, 6, 40), {"out": 48, "kernel": 3, "padding": 1, "bias": False}, Draw(0, exact=True))
    for density in (0.02, 1.0):
        x, layer.weight = (guarded(rng.choice(hard, shape) * (rng.random(shape) < density))
                           for shape in ((3, 6, 6, 40), layer.weight_shape))
        for read, sign in (("plain", 1), ("shifted", -1)):
            operand = (guarded(np.zeros(x.shape)) if sign < 0 else x, read, guarded(x[0]) if sign < 0 else None)
            found = sign * NATIVES[precision].product(layer, ("w",), [operand], direct=True)
            exact = SINGLE.product(layer.astype(SINGLE.dtype), ("w",), [(x, "plain", None)])
            assert (found >= 0).all()
            exact = exact if sign > 0 else np.broadcast_to(exact[:1], exact.shape)
            assert (found[exact == 0] == 0).all() and (exact == 0).any() == (density < 1)
            assert (found[exact > 1e-37] > 0).all()


@on_tiles
@pytest.mark.parametrize("any_shape", ["winograd"], indirect=True)
def test_winograd_keeps_the_sign_that_is_promised(isa: str, any_shape: str) -> None:
    """Its differences round: without the promise some sums of nothing but zeros come out negative."""
    rng = np.random.default_rng(0)
    layer = make_layer((12, 12, 32), {"out": 32, "kernel": 3, "padding": 1}, Draw(0, exact=False))
    sparse = rng.random(layer.weight_shape) < 0.02
    layer.weight = np.where(sparse, np.abs(rng.standard_normal(layer.weight_shape)), 0)
    x = np.where(rng.random((4, 12, 12, 32)) < 0.2, np.abs(rng.standard_normal((4, 12, 12, 32))), 0).astype(np.float32)
    free, kept = (NATIVES["highest"].product(layer, ("w",), [(x, "plain", None)], sign=sign) for sign in (0, 1))
    assert free.min() < 0
    np.testing.assert_array_equal(kept, np.maximum(free, 0))
    negative = NATIVES["highest"].product(layer, ("w",), [(guarded(-x), "plain", None)], sign=-1)
    np.testing.assert_array_equal(negative, -kept)


@on_tiles
@pytest.mark.parametrize("precision", NATIVES)
@pytest.mark.parametrize("value", [np.nan, LOW_NAN, np.inf, -np.inf, LARGE_VALUE],
                         ids=["NaN", "low NaN", "inf", "-inf", "large"])
@pytest.mark.parametrize("name", ["tiles, strided", "tiles, two chunks and panels", "conv unequal padding"])
def test_values_that_are_not_numbers(isa: str, any_shape: str, name: str, value: float, precision: str) -> None:
    """They give what float32 gives, infinity times zero included, and reach nothing else. A number whose nearest bf16
    number would be infinite stays finite."""
    if any_shape == "winograd" and not np.isnan(value):
        pytest.skip("its differences of infinities are NaN, and of the largest numbers infinite")
    draw = Draw(37, exact=True)
    layer = make_layer(*SHAPES[name], draw)
    if value == LARGE_VALUE:
        layer.weight = np.sign(layer.weight)
    d = product_operands(layer, 2, draw)
    for clean, run in ((d.x, lambda ops, x: ops.product(layer, ("w",), [(x, "plain", None)])),
                       (d.g, lambda ops, g: ops.product_back(layer, [(g, "plain", None)], [(("w",), None)]))):
        dirty = clean.copy()
        dirty[1, 2, 3, 4] = value
        found, before = run(NATIVES[precision], guarded(dirty)), run(NATIVES[precision], clean)
        with np.errstate(invalid="ignore"):
            expected = run(EXACT, dirty)
        if value == LARGE_VALUE:
            np.testing.assert_allclose(found, expected, rtol=2**-7)
        else:
            np.testing.assert_array_equal(found, expected)
            assert_same_bits(found[np.isfinite(expected)], before[np.isfinite(expected)])
        assert not (np.abs(found) < 1e30).all()


@on_tiles
def test_infinities_in_any_row(isa: str, any_shape: str) -> None:
    """Tasks of the same sample share rows of the source: what one of them finds there the next one knows."""
    layer = make_layer(*SHAPES["tiles, rows in several tasks"], Draw(43, exact=True))
    x = Draw(43, exact=True)(1, *layer.in_shape)
    for row in range(x.shape[1]):
        dirty = x.copy()
        dirty[0, row, 3, 4] = np.inf
        found = NATIVES["high"].product(layer, ("w",), [(guarded(dirty), "plain", None)])
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(found, EXACT.product(layer, ("w",), [(dirty, "plain", None)]))


@on_tiles
@pytest.mark.parametrize("any_shape", ["direct"], indirect=True)
def test_outputs_past_the_caches(isa: str, any_shape: str) -> None:
    """So many that their stores go around the caches."""
    layer = make_layer((256, 321, 32), {"out": 64, "kernel": 1}, Draw(47, exact=True))
    x = Draw(47, exact=True)(1, *layer.in_shape)
    memory = np.full(256 * 321 * 64 + 16, np.nan, np.float32)
    lines = memory[-memory.ctypes.data // 4 % 16:][:256 * 321 * 64]  # from the first whole cache line on
    product = NATIVES["medium"].packed_product(layer, ("w",), False)
    found = product(1, [(x, "plain", None)], lines.reshape(1, *layer.out_shape), bias=layer.bias)
    expected = x.reshape(-1, 32) @ layer.weight.reshape(32, 64) + layer.bias
    np.testing.assert_array_equal(found.reshape(-1, 64), expected)


THREADED: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "rows": ((23, 17, 64), {"out": 40, "kernel": 3, "padding": 1}, 1),
    "samples": ((7, 6, 64), {"out": 64, "kernel": 3, "stride": 2, "padding": 1}, 13),
    "outputs": ((3, 2, 256), {"out": 512, "kernel": 2, "padding": 1}, 1), "dense": ((300,), {"out": 330}, 40),
}


@on_tiles
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("precision", NATIVES)
@pytest.mark.parametrize("name", THREADED)
def test_bits_do_not_depend_on_threads_batch_and_position(isa: str, any_shape: str, name: str,
                                                          precision: str) -> None:
    """Work is cut up by rows, samples or outputs; every output's sum stays the same."""
    shape, options, n = THREADED[name]
    draw, native = Draw(41, exact=False), NATIVES[precision]
    layer = make_layer(shape, options, draw)
    x, g = draw(n, *layer.in_shape), draw(n, *layer.out_shape)

    def run(rows: slice) -> list[np.ndarray]:
        signed = [(x[rows], "positive", None), (x[rows], "negative", None)]
        return [native.product(layer, ("+", "-"), signed, bias=layer.bias),
                native.product_back(layer, [(g[rows], "plain", None)], [(("+",), signed[0]), (("-",), signed[1])])]

    fastlrp.set_num_threads(1)
    expected = run(slice(None))
    for threads in (2, 3, 7):
        fastlrp.set_num_threads(threads)
        for a, b in zip(run(slice(None)), expected, strict=True):
            assert_same_bits(a, b, f"{threads} threads")
    for rows in (slice(0, 1), slice(n - 1, n), slice(n // 3, n)):
        for a, b in zip(run(rows), expected, strict=True):
            assert_same_bits(a, b[rows], f"samples {rows}")


@on_tiles
def test_products_of_no_samples(isa: str, any_shape: str) -> None:
    layer = make_layer(*SHAPES["tiles, strided"], Draw(0, exact=True))
    x, g = np.zeros((0, *layer.in_shape), np.float32), np.zeros((0, *layer.out_shape), np.float32)
    assert NATIVES["high"].product(layer, ("w",), [(x, "plain", None)]).shape == g.shape
    assert NATIVES["high"].product_back(layer, [(g, "plain", None)], [(("w",), None)]).shape == x.shape


def test_limbs_need_tiles_and_one_group() -> None:
    """What C cannot run is refused."""
    geometry = fastlrp.shapes.Geometry.dense(4, 8)
    for limbs, groups in ((4, 1), (-1, 1), (2, 2), *([] if _kernels.has_limbs() else [(2, 1)])):
        with pytest.raises(ValueError, match="limbs"):
            _kernels.Product(geometry.forward_sweeps, geometry.in_shape, geometry.out_shape, groups, 1, 1).pack(
                np.ones((1, 1, 1, 1, 4 // groups, 8), np.float32), limbs=limbs)


# ---- networks ----

def wide_network() -> fastlrp.Network:
    """Convolutions and dense layers of a size for tiles."""
    return with_biases(fastlrp.Network([
        fastlrp.Conv2d(40, 3, padding=1), fastlrp.ReLU(), fastlrp.Conv2d(64, 3, stride=2), fastlrp.ReLU(),
        fastlrp.Conv2d(48, 1), fastlrp.Tanh(), fastlrp.Flatten(), fastlrp.Linear(50), fastlrp.ReLU(),
        fastlrp.Linear(7)], (9, 10, 32), seed=4))


X = mixed_signs(np.random.default_rng(43), 3, (9, 10, 32))


@on_tiles
@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1", "zbab"])
def test_explanations(isa: str, composite: str) -> None:
    """Each precision keeps its bound through a network; none changes what another gives."""
    net, fresh = wide_network(), wide_network()
    twin = net.explain(X, 1, composite, precision="float64").relevance
    found = {precision: net.explain(X, 1, composite, precision=precision).relevance
             for precision in ("medium", "high", "highest", "medium")}
    error = {precision: relative_error(values, twin) for precision, values in found.items()}
    assert error["highest"] < 1e-5 and error["highest"] < error["high"] < 1e-3
    cosine = (found["medium"].ravel() @ twin.ravel()) / np.linalg.norm(found["medium"]) / np.linalg.norm(twin)
    assert error["high"] < error["medium"] and cosine >= 0.99
    for precision in reversed(found):
        assert_same_bits(fresh.explain(X, 1, composite, precision=precision).relevance, found[precision], precision)


@on_tiles
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("precision", NATIVES)
def test_pools_join_products(isa: str, any_shape: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A max pool goes through the rows of a product's tasks with it, after its outputs and before its relevance, and
    changes no bit: at odd sizes, for any batch and number of threads, with what an infinite input makes."""
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    joined: list[int] = []

    def spy(steps: Any, external: set[int]) -> Any:
        kept = fusing.fused_pools(steps, external)
        joined.append(len(steps) - len(kept))
        return kept

    monkeypatch.setattr(program, "fused_pools", spy)
    inputs = [mixed_signs(np.random.default_rng(53), 3, shape) for shape in ((43, 31, 40), (12, 10, 40))]
    for join in found:
        monkeypatch.setattr(fusing, "LEAST_POOLED", 0 if join else 1 << 60)
        for x in inputs:  # several samples in one task are small ones on one thread; an infinity ends programs
            x[2, 5, 7, 9] = np.inf
            net = with_biases(fastlrp.Network(
                [fastlrp.Conv2d(64, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(2), fastlrp.Conv2d(33, 3),
                 fastlrp.ReLU(), fastlrp.MaxPool2d(2), fastlrp.Flatten(), fastlrp.Linear(5)], x.shape[1:]))
            for rows, threads in ((slice(None), 1), (slice(0, 1), 3), (slice(0, 2), 1), (slice(1, 3), 2)):
                fastlrp.set_num_threads(threads)
                found[join] += [net.forward(x[rows], precision=precision),
                                net.explain(x[rows], 1, "epsilon_plus", precision=precision).relevance]
    assert {2, 4} <= set(joined[:len(joined) // 2]) and not any(joined[len(joined) // 2:])
    for a, b in zip(found[True], found[False], strict=True):
        assert_same_bits(a, b)


@on_tiles
def test_every_call_takes_a_precision(isa: str) -> None:
    """And packs weights of its own; on other instruction sets all are the highest."""
    net, ones = wide_network(), np.ones(7)
    calls = (lambda p: net.forward(X, precision=p), lambda p: net.lrp(X, ones, "ab", precision=p),
             lambda p: net.layerwise_lrp(X, ones, precision=p)[0], lambda p: net(X, precision=p))
    for call in calls:
        found = {precision: call(precision) for precision in NATIVES}
        assert not np.array_equal(found["highest"], found["high"])
        assert not np.array_equal(found["high"], found["medium"])
        assert_same_bits(call("highest"), found["highest"])
    assert net.test(X, precision="high", tolerance=1e-3)["forward"] > net.test(X)["forward"]
    _kernels.set_isa("avx512")
    for call in calls:
        assert_same_bits(call("medium"), call("highest"))


def test_native_of_every_precision() -> None:
    """By PyTorch's names."""
    assert {native.precision: type(native) for native in NATIVES.values()} == dict.fromkeys(packing.LIMBS, Native)
    assert list(NATIVES) == list(packing.LIMBS)
