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
    """Few output channels and a long line: lanes run along the columns. Chosen by shape alone."""
    return groups == 1 and sweep.cols.step == 1 and 2 * channels <= lanes and sweep.cols.count >= lanes


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


def scatter(weight: Array, sweep: Sweep, width: int) -> Array:
    """[side][panel][row tap][k][width] of runs (column tap, output)."""
    taken = weight[:, _taps(sweep.rows.kernel)]
    sides, kh, kw, parts, channels, outputs = taken.shape
    panels = -(-kw * outputs // width)
    packed = np.zeros((sides, kh, parts * channels, panels * width), np.float32)
    packed[..., :kw * outputs] = taken.transpose(0, 1, 3, 4, 2, 5).reshape(sides, kh, parts * channels, kw * outputs)
    return np.ascontiguousarray(packed.reshape(sides, kh, parts * channels, panels, width).transpose(0, 3, 1, 2, 4))
