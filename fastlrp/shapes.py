"""All size arithmetic: output sizes, padding, groups, and how a convolution is swept over memory.

Shapes are (height, width, channels) of one sample, channels last. Everything here is plain integers:
nothing touches array data, so that layers, kernels and the NumPy twin agree on sizes by construction.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

MOST = 1 << 31  # any one size
MOST_ELEMENTS = 1 << 33  # of one sample with its padding, or one layer's weights
MOST_UNEVEN = 1024  # rows or columns of windows that are not all alike: each may be a step of its own

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def as_size(value: Any, name: str, low: int = 1, below: float = MOST) -> int:
    """One whole number of at least `low`, or an error that names the argument."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if size < low:
        raise ValueError(f"{name} must be at least {low}, got {size}")
    if size >= below:
        raise ValueError(f"{name} must be less than {below}, got {size}")
    return size


def check_elements(what: str, shape: Sequence[int]) -> None:
    """ValueError where an array would be beyond all reason: sizes multiplied in C must not overflow."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{what} of shape {tuple(shape)} would have more than {MOST_ELEMENTS} elements")


def as_number(value: Any, name: str, finite: bool = True) -> float:
    """One (finite) real number, or an array that is one, as a float, or an error that names the argument."""
    scalar = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
    if isinstance(scalar, bool) or not isinstance(scalar, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(scalar)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got a larger one") from None
    if finite and not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def as_flag(value: Any, name: str) -> bool:
    """True or False (NumPy's too), or an error that names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_pair(value: Any, name: str, low: int = 1) -> Pair:
    """An int or a pair of ints (height, width) as a pair."""
    return _part_as_pair(value, value, name, low, "an int or a pair (height, width)")


def _part_as_pair(part: Any, value: Any, name: str, low: int, expected: str) -> Pair:
    """The same for a part of the argument's value, which errors show whole."""
    sizes = _as_list(part)
    if not isinstance(sizes, Sequence) or isinstance(sizes, (str, bytes)):
        sizes = sizes, sizes
    if len(sizes) != 2:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    try:
        return as_size(sizes[0], name, low), as_size(sizes[1], name, low)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def as_padding(value: Any, name: str = "padding") -> Padding | str:
    """An int, a pair (height, width), ((top, bottom), (left, right)) or "same"."""
    expected = 'an int, a pair (height, width), ((top, bottom), (left, right)) or "same"'
    if isinstance(value, str):
        if value != "same":
            raise ValueError(f"{name} must be {expected}, got {value!r}")
        return value
    parts = _as_list(value)
    if isinstance(parts, Sequence) and len(parts) == 2 and all(isinstance(_as_list(v), Sequence) for v in parts):
        rows, cols = (_part_as_pair(part, value, name, 0, expected) for part in parts)
        return rows, cols
    height, width = _part_as_pair(parts, value, name, 0, expected)
    return (height, height), (width, width)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's "same": ceil(size / stride) outputs, the odd padded element after the data."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def ceil_padding(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> Pair:
    """The padding with which a last window that is not whole fits too, where it starts in the data or in the padding
    before it: PyTorch's ceil_mode."""
    reach = (kernel - 1) * dilation + 1
    count = -(-(size + sum(padding) - reach) // stride) + 1
    if (count - 1) * stride >= size + padding[0]:
        count -= 1
    return padding[0], max(padding[1], (count - 1) * stride + reach - size - padding[0])


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int) -> int:
    """Number of window positions along one axis; 0 or less where no window fits."""
    return (size + sum(padding) - (kernel - 1) * dilation - 1) // stride + 1


@dataclass(frozen=True)
class Axis:
    """One axis of one sweep: grid point i reads source i·step + offset for each tap, writes start + i·stride."""

    count: int  # grid points
    step: int  # source elements from one grid point to the next
    offsets: tuple[int, ...]  # source position of each tap at grid point 0 (negative: in the padding)
    kernel: tuple[int, ...]  # kernel index of each tap
    start: int  # first destination position
    stride: int  # destination positions from one grid point to the next


@dataclass(frozen=True)
class Sweep:
    """A product over a rectangle of destination pixels whose taps have the same source offsets everywhere."""

    rows: Axis
    cols: Axis


@dataclass(frozen=True)
class Window:
    """A sliding window over (h, w, channels): what pooling needs, and the spatial half of a convolution."""

    in_shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = (1, 1)

    @classmethod
    def fit(cls, in_shape: Sequence[int], kernel: Pair, stride: Pair, padding: Padding | str,
            dilation: Pair = (1, 1), ceil_mode: bool = False, **more: Any) -> Any:
        """Resolve "same" and `ceil_mode`, and check that at least one window fits."""
        if len(in_shape) != 3:
            raise ValueError(f"expected an input of shape (height, width, channels), got {tuple(in_shape)}")
        if isinstance(padding, str):
            rows, cols = (same_padding(*axis) for axis in zip(in_shape, kernel, stride, dilation, strict=False))
            padding = rows, cols
        if ceil_mode:
            rows, cols = (ceil_padding(*axis) for axis in
                          zip(in_shape, kernel, stride, padding, dilation, strict=False))
            padding = rows, cols
        height, width, channels = in_shape
        window = cls((height, width, channels), kernel, stride, padding, dilation, **more)
        if min(window.grid) < 1:
            raise ValueError(f"kernel {kernel} with dilation {dilation} does not fit an input of shape "
                             f"{tuple(in_shape)} with padding {padding}")
        check_elements("input with padding", (height + sum(padding[0]), width + sum(padding[1]), channels))
        check_elements("reach of the taps", [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)])
        return window

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies take the sizes alone: everything else follows from them."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def grid(self) -> Pair:
        """Number of window positions (rows, columns)."""
        rows, cols = (output_size(*axis) for axis in
                      zip(self.in_shape, self.kernel, self.stride, self.padding, self.dilation, strict=False))
        return rows, cols

    @property
    def out_shape(self) -> tuple[int, int, int]:
        return (*self.grid, self.in_shape[2])


@dataclass(frozen=True)
class Run:
    """Windows of one axis, `step` apart: `count` of `length` elements, the first at `start`."""

    start: int
    length: int
    step: int
    count: int

    @property
    def last(self) -> int:
        """Where the last window starts."""
        return self.start + (self.count - 1) * self.step

    @property
    def end(self) -> int:
        """The position behind the last element."""
        return self.last + self.length


def adaptive_runs(size: int, out: int) -> list[Run]:
    """PyTorch's adaptive windows, from ⌊i · size / out⌋ to ⌈(i + 1) · size / out⌉, as few runs as can be: one where
    size is a multiple of out."""
    if size % out == 0:
        return [Run(0, size // out, size // out, out)]
    if out > MOST_UNEVEN:
        raise ValueError(f"out must be at most {MOST_UNEVEN} where the input is not a multiple of it, got {out}")
    runs: list[Run] = []
    for i in range(out):
        start = i * size // out
        length = -(-(i + 1) * size // out) - start
        run = runs[-1] if runs else None
        step = start - run.last if run else 0
        if run and run.length == length and step > 0 and (run.count == 1 or run.step == step):
            runs[-1] = Run(run.start, length, step, run.count + 1)
        else:
            runs.append(Run(start, length, 1, 1))
    return runs


@dataclass(frozen=True)
class Geometry(Window):
    """A linear layer as a convolution: in_shape (h, w, in) to out_shape (oh, ow, out).

    Weights have shape (kh, kw, in / groups, out). A dense layer is `Geometry.dense`: one tap on one pixel.
    """

    out_channels: int = 1
    groups: int = 1

    @classmethod
    def dense(cls, inputs: int, outputs: int) -> Geometry:
        return cls((1, 1, inputs), (1, 1), (1, 1), ((0, 0), (0, 0)), out_channels=outputs)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        return (*self.grid, self.out_channels)

    @cached_property
    def scatter_sweeps(self) -> tuple[Sweep, ...]:
        """Output to input with rows as in `backward_sweeps`, but columns the other way round: the destination's
        columns on which each source column's taps fall."""
        taps = tuple(range(self.kernel[1]))
        cols = Axis(self.grid[1], 1, taps, taps, -self.padding[1][0], self.stride[1])
        return tuple(Sweep(rows, cols) for rows in _backward_axes(self, 0))

    def prefers_scatter(self, lanes: int) -> bool:
        """Whether adding each output column's taps into the input takes less than meeting taps at each input pixel.

        Counted in multiply-adds that the vectors really do; adding an element to a line is taken for six.
        """
        (kh, kw), (_, width, channels) = self.kernel, self.in_shape
        if self.groups > 1 or self.dilation[1] > 1 or 2 * channels <= lanes:
            return False
        rows = kh * self.out_channels  # of the reduction
        gather = width * kw / self.stride[1] * -(-channels // lanes) * lanes * rows
        scatter = self.grid[1] * -(-kw * channels // lanes) * lanes * (rows + 6)
        return 1.15 * scatter < gather

    @cached_property
    def simplest(self) -> Geometry:
        """The same map as a dense layer where one window covers the whole input, else itself."""
        whole = self.grid == (1, 1) and self.kernel == self.in_shape[:2] and not any(map(sum, self.padding))
        if whole and self.groups == 1 and self.dilation == (1, 1):
            return Geometry.dense(self.in_shape[0] * self.in_shape[1] * self.in_shape[2], self.out_channels)
        return self

    @property
    def is_dense(self) -> bool:
        """Whether this is a plain matrix: one window of one pixel."""
        one = self.in_shape[:2] == self.grid == self.kernel == (1, 1)
        return one and self.groups == 1 and not any(map(sum, self.padding))

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (*self.kernel, self.in_shape[2] // self.groups, self.out_channels)

    @cached_property
    def forward_sweeps(self) -> tuple[Sweep, ...]:
        """Input to output: always one sweep over the output grid."""
        return (Sweep(*(_forward_axis(self, axis) for axis in (0, 1))),)

    @cached_property
    def backward_sweeps(self) -> tuple[Sweep, ...]:
        """Output to input (the transposed map): one sweep per phase of the stride.

        Input pixels with the same position modulo the stride meet the same taps, so that each phase is a
        plain product with unit step over the output's array. A phase without taps still stands: it writes zeros.
        """
        return tuple(Sweep(rows, cols) for rows in _backward_axes(self, 0) for cols in _backward_axes(self, 1))


def _forward_axis(window: Window, axis: int) -> Axis:
    taps = tuple(range(window.kernel[axis]))
    offsets = tuple(k * window.dilation[axis] - window.padding[axis][0] for k in taps)
    return Axis(window.grid[axis], window.stride[axis], offsets, taps, 0, 1)


def _backward_axes(window: Window, axis: int) -> list[Axis]:
    size, stride, before = window.in_shape[axis], window.stride[axis], window.padding[axis][0]
    axes = []
    for phase in range(min(stride, size)):
        # Taps in falling order, so that the source offsets rise.
        reach = [(phase + before - k * window.dilation[axis], k) for k in reversed(range(window.kernel[axis]))]
        taps = [(distance // stride, k) for distance, k in reach if distance % stride == 0]
        offsets, kernel = tuple(o for o, _ in taps), tuple(k for _, k in taps)
        axes.append(Axis(-(-(size - phase) // stride), 1, offsets, kernel, phase, stride))
    return axes
