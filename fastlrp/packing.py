"""How weights are laid out for each form of a product (fastlrp.h): plain NumPy, run once per weights and direction.

Weights come as (side, kh, kw, part, source channels / group, destination channels).
"""

from __future__ import annotations

import numpy as np

from .reference import Array
from .shapes import Sweep


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
    """[row tap][part][channel][column tap][side][output]."""
    taken = weight[:, _taps(sweep.rows.kernel), _taps(sweep.cols.kernel)]
    return np.ascontiguousarray(taken.transpose(1, 3, 4, 2, 0, 5), dtype=np.float32)


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
    """3 x 3 taps and pixels one apart, with enough channels."""
    fits = all(axis.step == axis.stride == 1 and len(axis.offsets) == 3 and axis.offsets[2] - axis.offsets[0] == 2
               for axis in (sweep.rows, sweep.cols))
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
