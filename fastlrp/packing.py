"""How weights are laid out for each form of a product (fastlrp.h): plain NumPy, run once per weights and direction.

Weights come as (side, kh, kw, part, source channels / group, destination channels).
"""

from __future__ import annotations

import numpy as np

from .reference import Array
from .shapes import Sweep

LIMBS = {"highest": 3, "high": 2, "medium": 1}  # bf16 numbers that a float is split into, by precision
CHUNK = PANEL = 32  # channels in one row of a tile; outputs of two tiles side by side
LEAST_CHANNELS = 32  # fewer would leave tiles mostly empty
LEAST_PIXELS = 16  # of a map, for three limbs: they are half as much again to read as floats, and used once a pixel


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
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]
    sides, outputs = weight.shape[0], weight.shape[5] // groups
    k, whole, rest = taken.size // (sides * groups * outputs), outputs // width, outputs % width
    packed = np.empty((sides, groups, whole + (rest > 0), k, width), np.float32)
    taken = taken.reshape(sides, k, groups, outputs).transpose(0, 2, 1, 3)
    full = taken[..., :whole * width].reshape(sides, groups, k, whole, width)
    packed[:, :, :whole] = full.transpose(0, 1, 3, 2, 4)
    if rest:
        packed[:, :, whole, :, :rest] = taken[..., whole * width:]
        packed[:, :, whole, :, rest:] = 0
    return packed


def narrow(weight: Array, sweep: Sweep) -> Array:
    """[row tap][column tap][part][channel][side][output]."""
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]
    return np.ascontiguousarray(taken.transpose(1, 2, 3, 4, 0, 5), dtype=np.float32)


def depthwise(weight: Array, sweep: Sweep) -> Array:
    """[side][part][row tap][column tap][channel]."""
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]
    return np.ascontiguousarray(taken[..., 0, :].transpose(0, 3, 1, 2, 4), dtype=np.float32)


def scatter(weight: Array, sweep: Sweep, width: int) -> Array:
    """[side][panel][row tap][k][width] of runs (column tap, output)."""
    taken = weight[:, _taps(sweep.rows.kernel)]
    sides, kh, kw, parts, channels, outputs = taken.shape
    panels = -(-kw * outputs // width)
    packed = np.zeros((sides, kh, parts * channels, panels * width), np.float32)
    packed[..., :kw * outputs] = taken.transpose(0, 1, 3, 4, 2, 5).reshape(sides, kh, parts * channels, kw * outputs)
    return np.ascontiguousarray(packed.reshape(sides, kh, parts * channels, panels, width).transpose(0, 3, 1, 2, 4))


# F(2x2, 3x3): of the weights of one axis, transformed by these. Source: Lavin and Gray 2016.
WINOGRAD = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
WINOGRAD_CHANNELS = 32  # below, transforming costs more than it saves


def prefers_winograd(sweep: Sweep, groups: int, channels: int, outputs: int) -> bool:
    """3 x 3 taps and pixels one apart, with enough channels, on maps that are not mostly border."""
    fits = all(axis.step == axis.stride == 1 and len(axis.offsets) == 3 and axis.offsets[2] - axis.offsets[0] == 2
               and axis.count >= 6 for axis in (sweep.rows, sweep.cols))
    return fits and groups == 1 and min(channels, outputs) >= WINOGRAD_CHANNELS


def winograd(weight: Array, sweep: Sweep, width: int) -> Array:
    """[side][panel][4 x 4][k][width], transformed in double precision."""
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)].astype(np.float64)
    sides, _, _, parts, channels, outputs = taken.shape
    panels = -(-outputs // width)
    packed = np.zeros((sides, 16, parts * channels, panels * width), np.float32)
    turned = np.einsum("yh,shwpco,xw->syxpco", WINOGRAD, taken, WINOGRAD, optimize=True)
    packed[..., :outputs] = turned.reshape(sides, 16, parts * channels, outputs)
    return np.ascontiguousarray(packed.reshape(sides, 16, parts * channels, panels, width).transpose(0, 3, 1, 2, 4))


def limbs(weight: Array, sweep: Sweep, count: int) -> Array:
    """[side][panel][part][chunk][row tap][column tap][limb][16 outputs][pair][output][2], zeros past the ends."""
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]
    sides, kh, kw, parts, channels, outputs = taken.shape
    chunks, panels = -(-channels // CHUNK), -(-outputs // PANEL)
    padded = np.zeros((sides, kh, kw, parts, chunks * CHUNK, panels * PANEL), np.float32)
    padded[..., :channels, :outputs] = taken
    blocks = padded.reshape(sides, kh, kw, parts, chunks, CHUNK // 2, 2, panels, 2, PANEL // 2)
    rest = np.ascontiguousarray(blocks.transpose(0, 7, 3, 4, 1, 2, 8, 5, 9, 6))
    packed = _on_cache_lines((*rest.shape[:6], count, *rest.shape[6:]))
    for limb in range(count):
        packed[:, :, :, :, :, :, limb], rest = split(rest)
    return packed


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


def _on_cache_lines(shape: tuple[int, ...]) -> Array:
    """An array of uint16 whose rows of 64 bytes are cache lines: a tile loads sixteen of them."""
    size = int(np.prod(shape))
    memory = np.empty(size + 32, np.uint16)
    first = -memory.ctypes.data % 64 // 2
    return memory[first:first + size].reshape(shape)
