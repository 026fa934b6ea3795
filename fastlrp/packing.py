"""How weights are laid out for each form of a product (fastlrp.h): plain NumPy, run once per weights and direction.

Weights come as (side, kh, kw, part, source channels / group, destination channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reference import Array
from .shapes import Sweep

LIMBS = {"highest": 3, "high": 2, "medium": 1}  # bf16 numbers that a float is split into, by precision
CHUNK = PANEL = 32  # channels in one row of a tile; outputs of two tiles side by side
LEAST_CHANNELS = 32  # fewer would leave tiles mostly empty
LEAST_PIXELS = 16  # of a map, for three limbs: they are half as much again to read as floats, and used once a pixel


def on_cache_lines(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array that begins with a cache line: no vector and no row of a tile lies in two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first:first + size].view(dtype).reshape(shape)


def _laid_out(array: Array) -> Array:
    """A copy in C order on cache lines."""
    packed = on_cache_lines(array.shape, array.dtype)
    packed[...] = array
    return packed


DENSE = 0.6  # of the weights: with so many that are not 0, leaving out the others saves nothing


def is_dense(weight: Array) -> bool:
    return bool(np.count_nonzero(weight) >= DENSE * weight.size)


def taken(weight: Array, sweep: Sweep) -> Array:
    """The weights of a sweep's taps."""
    return weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]


def _taps(kernel: tuple[int, ...]) -> slice:
    """The taps of an axis as a slice: they are evenly spaced, rising or falling."""
    if not kernel:
        return slice(0, 0)
    step = kernel[1] - kernel[0] if len(kernel) > 1 else 1
    stop = kernel[-1] + step
    return slice(kernel[0], None if stop < 0 else stop, step)


def prefers_narrow(sweep: Sweep, groups: int, channels: int, lanes: int) -> bool:
    """Lanes run along the columns of a long line where they would be empty along few channels."""
    if groups > 1 or sweep.cols.step > 1 or sweep.cols.count < lanes or channels > 2 * lanes:
        return False
    wide, narrow = (-(-n // lanes) * lanes / n for n in (channels, sweep.cols.count))
    return wide > 1.3 * narrow


def prefers_limbs(limbs: int, groups: int, source: tuple[int, int, int], destination: tuple[int, int, int]) -> bool:
    """Whether bf16 tiles, where there are any, take a product of samples (h, w, channels). Chosen by shape alone."""
    height, width, channels = destination
    return (groups == 1 and min(source[2], channels) >= LEAST_CHANNELS
            and (limbs < LIMBS["highest"] or height * width >= LEAST_PIXELS))


def wide(weight: Array, sweep: Sweep, groups: int, width: int) -> Array:
    """[side][group][panel][k][width], zeros past the outputs."""
    used = taken(weight, sweep)
    sides, outputs = weight.shape[0], weight.shape[5] // groups
    k, whole, rest = used.size // (sides * groups * outputs), outputs // width, outputs % width
    packed = on_cache_lines((sides, groups, whole + (rest > 0), k, width))
    used = used.reshape(sides, k, groups, outputs).transpose(0, 2, 1, 3)
    full = used[..., :whole * width].reshape(sides, groups, k, whole, width)
    packed[:, :, :whole] = full.transpose(0, 1, 3, 2, 4)
    if rest:
        packed[:, :, whole, :, :rest] = used[..., whole * width:]
        packed[:, :, whole, :, rest:] = 0
    return packed


def narrow(weight: Array, sweep: Sweep) -> Array:
    """[row tap][column tap][part][channel][side][output]."""
    used = taken(weight, sweep)
    return _laid_out(used.transpose(1, 2, 3, 4, 0, 5))


def depthwise(weight: Array, sweep: Sweep) -> Array:
    """[side][part][row tap][column tap][channel]."""
    used = taken(weight, sweep)
    return _laid_out(used[..., 0, :].transpose(0, 3, 1, 2, 4))


def scatter(weight: Array, sweep: Sweep, width: int) -> Array:
    """[side][panel][row tap][k][width] of runs (column tap, output)."""
    taken = weight[:, _taps(sweep.rows.kernel)]
    sides, kh, kw, parts, channels, outputs = taken.shape
    panels = -(-kw * outputs // width)
    packed = np.zeros((sides, kh, parts * channels, panels * width), np.float32)
    packed[..., :kw * outputs] = taken.transpose(0, 1, 3, 4, 2, 5).reshape(sides, kh, parts * channels, kw * outputs)
    return _laid_out(packed.reshape(sides, kh, parts * channels, panels, width).transpose(0, 3, 1, 2, 4))


# Of the weights of one axis, for each of an axis's sums those of its values: F(2, 3), and F(2, 5) as F(2, 3) beside
# F(2, 2) (src_c/body/winograd.h). Source: Lavin and Gray 2016.
WINOGRAD: dict[int, tuple[list[list[float]], ...]] = {
    3: ([[1, 0, 0]], [[0.5, 0.5, 0.5]], [[0.5, -0.5, 0.5]], [[0, 0, 1]]),
    5: ([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]], [[0.5, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 1]],
        [[0.5, -0.5, 0.5, 0, 0]], [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])}
TRANSFORMS = {taps: np.concatenate([np.kron(rows, cols) for rows in axis for cols in axis])
              for taps, axis in WINOGRAD.items()}  # (value, row tap and column tap)
WINOGRAD_LIMB_CHANNELS = 256  # on tiles
WINOGRAD_LIMB_PIXELS = 28 * 28
WINOGRAD_CHANNELS = 32  # below, transforming costs more than it saves
FEW_CHANNELS = (8, 24)  # of the source and the destination: enough for 5 x 5 taps, where leaving out zeros saves less


def prefers_winograd(sweep: Sweep, groups: int, weight: Array) -> bool:
    """3 x 3 or 5 x 5 taps and pixels one apart, with enough channels, on maps that are not mostly border."""
    taps, (parts, channels, outputs) = len(sweep.rows.offsets), weight.shape[3:]
    channels *= parts
    fits = taps in WINOGRAD and all(
        axis.step == axis.stride == 1 and len(axis.offsets) == taps == axis.offsets[-1] - axis.offsets[0] + 1
        and axis.count >= 6 for axis in (sweep.rows, sweep.cols))
    if not fits or groups > 1:
        return False
    few = taps == 5 and channels >= FEW_CHANNELS[0] and outputs >= FEW_CHANNELS[1]
    return min(channels, outputs) >= WINOGRAD_CHANNELS or (few and is_dense(weight))


def panels(values: Array, width: int) -> Array:
    """[side][panel][k][width] of (side, k, output), zeros past the outputs."""
    sides, k, outputs = values.shape
    count = -(-outputs // width)
    packed = np.zeros((sides, k, count * width), np.float32)
    packed[..., :outputs] = values
    return _laid_out(packed.reshape(sides, k, count, width).swapaxes(1, 2))


def winograd_lanes(packed: Array, outputs: int, width: int) -> Lanes:
    """The same weights for samples side by side."""
    sides, panels, k, panel = packed.shape
    weight = np.ascontiguousarray(packed.swapaxes(1, 2).reshape(sides, k, panels * panel)[..., :outputs])
    return Lanes(weight, width, 0, 0, np.zeros((1, 1), np.int64), 0, 1, outputs, outputs, None, None)


def limbs(weight: Array, sweep: Sweep, count: int) -> Array:
    """[side][panel][part][chunk][row tap][column tap][limb][16 outputs][pair][output][2], zeros past the ends."""
    return limbs_of_values(taken(weight, sweep), count)


def limbs_of_values(taken: Array, count: int) -> Array:
    """The same of weights as they are taken."""
    sides, kh, kw, parts, channels, outputs = taken.shape
    chunks, panels = -(-channels // CHUNK), -(-outputs // PANEL)
    padded = np.zeros((sides, kh, kw, parts, chunks * CHUNK, panels * PANEL), np.float32)
    padded[..., :channels, :outputs] = taken
    blocks = padded.reshape(sides, kh, kw, parts, chunks, CHUNK // 2, 2, panels, 2, PANEL // 2)
    rest = np.ascontiguousarray(blocks.transpose(0, 7, 3, 4, 1, 2, 8, 5, 9, 6))
    packed = on_cache_lines((*rest.shape[:6], count, *rest.shape[6:]), np.uint16)
    for limb in range(count):
        packed[:, :, :, :, :, :, limb], rest = split(rest)
    return packed


def prefers_winograd_limbs(sweep: Sweep, count: int, weight: Array) -> bool:
    """The same on tiles: for whole float numbers, of 3 x 3 taps, on maps that are large beside the weights."""
    return (count == LIMBS["highest"] and len(sweep.rows.offsets) == 3 and prefers_winograd(sweep, 1, weight)
            and min(weight.shape[4], weight.shape[5]) >= WINOGRAD_LIMB_CHANNELS
            and sweep.rows.count * sweep.cols.count >= WINOGRAD_LIMB_PIXELS)


def winograd_limbs(values: Array, count: int) -> Array:
    """[side][value][panel][chunk][limb][16 outputs][pair][output][2] of (side, value and part and k, output)."""
    sides, k, outputs = values.shape
    transformed = len(TRANSFORMS[3])
    return limbs_of_values(values.reshape(sides * transformed, 1, 1, 1, k // transformed, outputs), count)


MOST_NUMBERS = 1 << 24  # that a float tells apart


def numbers(shape: tuple[int, ...]) -> Array:
    """1, 2, ... in an array's order."""
    return np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)


def places(numbered: Array) -> Array | None:
    """Where each packed number lies among those numbered from 1 on; None: they lie as they did.

    Zeros past the outputs, which no form keeps sums of, get any number's place.
    """
    found = np.maximum(numbered, 1).astype(np.int32).reshape(-1) - 1
    return None if np.array_equal(found, np.arange(found.size)) else found


READERS = {"plain": lambda w: w, "positive": lambda w: np.maximum(w, 0), "negative": lambda w: np.minimum(w, 0)}


def weights_of(form: str, packed: Any, sweep: Sweep, channels: int, outputs: int) -> Array:
    """Packed weights as (side, column tap where sums are scattered or 1, row tap, k, output)."""
    rows, cols = len(sweep.rows.offsets), len(sweep.cols.offsets)
    if form == "dense":
        sides = [np.concatenate([READERS[read](array) for array, read in side]) for side in packed]
        return np.stack(sides)[:, None, None]
    if form == "lists":
        return _weights_of_lists(packed, channels, outputs)
    if form == "narrow":
        return np.moveaxis(packed.reshape(rows, cols * channels, packed.shape[4], outputs), 2, 0)[:, None]
    if form == "scatter":
        sides, panels, _, k, width = packed.shape
        runs = packed.transpose(0, 2, 3, 1, 4).reshape(sides, rows, k, panels * width)[..., :cols * outputs]
        return runs.reshape(sides, rows, k, cols, outputs).transpose(0, 3, 1, 2, 4)
    sides, _, panels, k, width = packed.shape
    flat = packed[:, 0].swapaxes(1, 2).reshape(sides, 1, k, panels * width)[..., :outputs]
    return flat.reshape(sides, 1, rows, cols * channels, outputs)


@dataclass(frozen=True)
class Lanes:
    """A product for samples side by side, as flrp_lane_product has it."""

    weight: Array
    width: int
    line: int
    first: int
    offsets: Array
    length: int
    passes: int
    block: int
    panel: int
    terms: Array | None
    starts: Array | None


TERM = np.dtype([("offset", np.int32), ("weight", np.float32)])
PLACES = 14  # FLRP_LANE_PLACES
SUMS = 3072  # floats of the sums of a block of outputs, about: they stay in L1 beside what they are made of
LANE_PANEL = 6  # outputs of a block of two vectors, at most; where a value is several, their weights are one run
PASS = 128  # of a long sum, where a value is eight vectors: the same


def lanes(weight: Array, sweep: Sweep, source: tuple[int, int], scatter: bool, width: int, vector: int,
          listed: bool = True) -> Lanes:
    """weight as from `weights_of`; source: pixels of a line, channels of all parts; vector: the lanes of one; listed:
    whether weights of zero may be left out."""
    (line, channels), cols, first, taps = source, sweep.cols, 0, np.zeros(1, np.int64)
    rows, k, outputs = weight.shape[2:]
    length, many = k, width > vector
    if not scatter and cols.offsets:
        begin, end = cols.offsets[0], (cols.count - 1) * cols.step + cols.offsets[-1] + 1
        if begin < 0 or end > line:
            line, first = end - begin, begin
        if len(cols.offsets) > 1 and cols.offsets[1] - cols.offsets[0] > 1:
            length, taps = channels, np.array(cols.offsets, np.int64) - begin
    above = np.array(sweep.rows.offsets, np.int64)[:, None]
    offsets = np.ascontiguousarray((above * line + taps) * channels * width)
    passes = max(1, -(-k // PASS)) if many and rows == 1 and length == k and not scatter else 1
    places = width // vector if many else _even(cols.count, PLACES)
    panel = _even(outputs, LANE_PANEL) if many else outputs
    step = panel if many else LANE_PANEL
    block = outputs if scatter else min(outputs, max(12, SUMS // (places * vector)) // step * step)
    terms = starts = None
    if listed and prefers_terms(weight, places):
        at = offsets[:, :, None] + np.arange(length) * width
        terms, starts = _terms(weight, at.reshape(rows, k), passes, block)
    flat = weight.reshape(len(weight) * weight.shape[1], rows * k, outputs).astype(np.float32, copy=False)
    pieces = [flat[..., at:at + panel].reshape(len(flat), -1) for at in range(0, outputs, panel)]
    return Lanes(_laid_out(np.concatenate(pieces, axis=1)), width, line, first, offsets, length, passes, block, panel,
                 terms, starts)


def _even(count: int, most: int) -> int:
    """What each of the fewest pieces of `count` has that have no more than `most`; the last may have less."""
    return -(-count // -(-count // most)) if count else 1


def prefers_terms(weight: Array, places: int) -> bool:
    """Whether a list of the weights that are not 0 for each output takes less time than blocks of outputs with all of
    them, for so many vectors side by side. Counted in half cycles of two multiply-adds and two loads."""
    outputs = weight.shape[-1]
    rows = _even(outputs, LANE_PANEL)
    listed = np.count_nonzero(weight) * max(8, places + 2) / places
    return bool(listed < weight.size * max(8, 2.2 * rows) / (2 * rows))


def _terms(weight: Array, at: Array, passes: int, block: int) -> tuple[Array, Array]:
    """The weights that are not 0, with the offset of each, and where each row tap of each list begins."""
    sides, sets, rows, k, outputs = weight.shape
    lists = weight.transpose(0, 1, 4, 2, 3).reshape(sides * sets, outputs, rows, k)
    terms, starts, count = [], [], 0
    for a_set in lists:
        for first in range(0, outputs, block):
            for i in range(passes):
                part = slice(k * i // passes, k * (i + 1) // passes)
                piece = a_set[first:first + block, :, part]
                found = piece != 0
                some = np.empty(np.count_nonzero(found), TERM)
                some["weight"], some["offset"] = piece[found], np.broadcast_to(at[:, part], piece.shape)[found]
                counts = found.sum(axis=2)
                stops = np.append(0, np.cumsum(counts)) + count
                starts.append(stops[np.arange(len(piece))[:, None] * rows + np.arange(rows + 1)])
                terms.append(some)
                count += len(some)
    return np.concatenate(terms), np.ascontiguousarray(np.concatenate(starts), dtype=np.int64)


@dataclass(frozen=True)
class Lists:
    """A product's weights that are not 0, as flrp_lane_product has them for LISTS: passes of `length`."""

    width: int
    length: int
    passes: int
    terms: Array
    starts: Array


PASS_BYTES = 28 << 10  # of the pixels' channels in one pass: they stay in L1
LEAST_LISTED = 24  # channels on either side, and pixels: below, what is around the sums costs more than they save


def prefers_lists(sweep: Sweep, source: tuple[int, int], groups: int, weight: Array) -> bool:
    """Whether so many weights of a product with one tap are 0 that leaving them out saves time."""
    for axis, size in zip((sweep.rows, sweep.cols), source, strict=True):
        if len(axis.offsets) != 1 or axis.offsets[0] < 0 or (axis.count - 1) * axis.step + axis.offsets[0] >= size:
            return False
    parts, channels, outputs = weight.shape[3:]
    if groups > 1 or min(parts * channels, outputs, sweep.rows.count * sweep.cols.count) < LEAST_LISTED:
        return False
    used = taken(weight, sweep)
    return not is_dense(used)


def lists(weight: Array, sweep: Sweep, vector: int) -> Lists:
    """[side][pass][output] lists over k, for pixels in PLACES vectors of so many lanes."""
    used = taken(weight, sweep)
    sides, _, _, parts, channels, outputs = used.shape
    k, width = parts * channels, PLACES * vector
    length = min(k, PASS_BYTES // (4 * width))
    passes = -(-k // length)
    padded = np.zeros((sides, outputs, passes * length), np.float32)
    padded[..., :k] = used.reshape(sides, k, outputs).swapaxes(1, 2)
    ordered = padded.reshape(sides, outputs, passes, length).swapaxes(1, 2)
    found = ordered != 0
    terms = np.empty(np.count_nonzero(found), TERM)
    terms["weight"] = ordered[found]
    terms["offset"] = np.broadcast_to(np.arange(length) * width, ordered.shape)[found]
    starts = np.append(0, np.cumsum(found.sum(axis=3))).astype(np.int64)
    return Lists(width, length, passes, terms, starts)


def _weights_of_lists(packed: Lists, channels: int, outputs: int) -> Array:
    counts = np.diff(packed.starts)
    weight = np.zeros((len(counts) // outputs, packed.length, outputs), np.float32)  # (side and pass, k, output)
    a_set, output = divmod(np.repeat(np.arange(len(counts)), counts), outputs)
    weight[a_set, packed.terms["offset"] // packed.width, output] = packed.terms["weight"]
    return weight.reshape(-1, 1, 1, packed.passes * packed.length, outputs)[..., :channels, :]


def split(x: Array) -> tuple[Array, Array]:
    """The bf16 number (uint16) nearest to each, even on ties, and what it leaves: nothing of NaN and infinities.

    As in src_c/body/limbs.h: downward where the nearest would be infinite, NaN quiet.
    """
    infinite = np.uint32(0x7f800000)
    bits = x.view(np.uint32)
    finite = bits & infinite != infinite
    rounded = bits + np.uint32(0x7fff) + (bits >> 16 & 1)
    rounded = np.where(finite & (rounded & infinite != infinite), rounded, bits) | np.isnan(x) * np.uint32(0x400000)
    rounded &= np.uint32(0xffff0000)
    with np.errstate(invalid="ignore"):
        rest = np.where(finite, x - rounded.view(np.float32), np.float32(0))
    return (rounded >> 16).astype(np.uint16), rest
