"""Programs: a backend that computes nothing, but records what is asked of it, to be run by one call into C.

A network's layers and the engine speak to a backend in verbs (ops.py). Run over `Slot`s instead of arrays, the same
code leaves a list of steps; slots that are not needed at the same time share their memory. What does not depend on
the input is computed while recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _kernels
from .ops import NATIVE, Native
from .reference import Array, Part
from .shapes import Padding, Window

ALIGN = 16  # floats: every slot starts on a cache line


class NotRecorded(Exception):
    """A layer computes with arrays itself, not in a backend's verbs: such a run cannot be recorded."""


@dataclass(frozen=True, eq=False)
class Slot(np.lib.mixins.NDArrayOperatorsMixin):
    """One value of a batch that is not there yet: where it will be, and the shape of one sample. It has nothing else of
    an array, not even a shape, so that no one takes it for one."""

    index: int
    sample_shape: tuple[int, ...]

    def _refuse(self, *arguments: Any, **more: Any) -> Any:
        raise NotRecorded

    __array_ufunc__ = __array_function__ = __array__ = __getattr__ = _refuse
    __len__ = __iter__ = __getitem__ = __bool__ = __float__ = _refuse


Source = tuple[Slot, str, Any]  # as reference.Operand: (value, read, bound)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a kernel. `fastlrp.h` says what each takes."""

    op: str
    out: tuple[Slot, ...]
    sources: tuple[Source | None, ...]
    factors: tuple[Source, ...] = ()
    ratio: tuple[Slot, float, float, bool] | None = None
    constants: tuple[Array | None, ...] = ()
    channels: int = 1
    product: Any = None
    window: Window | None = None
    kind: int = 0
    sign: int = 0
    parameter: float = 0.0

    def reads(self) -> Iterable[Slot]:
        for source in (*self.sources, *self.factors):
            if source is not None:
                yield source[0]
        if self.ratio is not None:
            yield self.ratio[0]


# Each output element depends on the input elements in the same place alone: the output may take their memory.
ELEMENTWISE = {"ratio", "gamma", "activation", "activation_backward", "affine", "combine"}


class Recorder:
    """The verbs of ops.Native over slots; `native` packs weights, and computes what does not depend on the input."""

    name, dtype = NATIVE.name, NATIVE.dtype

    def __init__(self, native: Native) -> None:
        self.native, self.key, self.precision = native, native.key, native.precision
        self.steps: list[Step] = []
        self.sizes: list[int] = []

    def slot(self, shape: Sequence[int]) -> Slot:
        """A new value: an input, if no step writes it."""
        self.sizes.append(math.prod(shape))
        return Slot(len(self.sizes) - 1, tuple(shape))

    def _add(self, op: str, shape: Sequence[int], *sources: Any, **more: Any) -> Slot:
        reads = tuple((s, "plain", None) if isinstance(s, Slot) else s for s in sources)
        out = self.slot(shape)
        self.steps.append(Step(op, (out,), reads, **more))
        return out

    def _add_two(self, op: str, shape: Sequence[int], *sources: Slot, **more: Any) -> tuple[Slot, Slot]:
        out = self.slot(shape), self.slot(shape)
        self.steps.append(Step(op, out, tuple((s, "plain", None) for s in sources), **more))
        return out

    def product(self, layer: Any, parts: Sequence[Part], operands: Sequence[Any], *, bias: Array | None = None,
                ratio: Any = None, sign: int = 0, direct: bool = False) -> Any:
        if not isinstance(operands[0][0], Slot):
            return self.native.product(layer, parts, operands, bias=bias, ratio=ratio, sign=sign, direct=direct)
        return self._add("product", layer.out_shape, *operands, ratio=ratio, constants=(bias,), sign=sign,
                         product=self.native.packed_product(layer, parts, direct))

    def product_back(self, layer: Any, operands: Sequence[Any], sides: Sequence[Any], direct: bool = False) -> Slot:
        factors = tuple(factor for _, factor in sides if factor is not None)
        return self._add("product", layer.in_shape, *operands, factors=factors,
                         product=self.native.packed_product_back(layer, sides, direct))

    def sum_pool(self, window: Window, x: Slot, scale: Array) -> Slot:
        return self._add("sum_pool", window.out_shape, x, window=window, constants=(scale,))

    def sum_pool_backward(self, window: Window, g: Slot, scale: Array, factor: Slot | None = None) -> Slot:
        return self._add("sum_pool_backward", window.in_shape, g, factor, window=window, constants=(scale,))

    def max_pool(self, window: Window, x: Slot) -> tuple[Slot, Slot]:
        return self._add_two("max_pool", window.out_shape, x, window=window)

    def max_pool_backward(self, window: Window, g: Slot, winner: Slot) -> Slot:
        return self._add("max_pool_backward", window.in_shape, g, winner, window=window)

    def ratio_map(self, sums: Any, bias: Array | None, ratio: Any) -> Slot:
        shape, channels = ratio[0].sample_shape, 1 if bias is None else bias.size
        if isinstance(sums, Slot):
            return self._add("ratio", shape, sums, ratio=ratio, constants=(bias,), channels=channels)
        return self._add("ratio", shape, None, ratio=ratio, constants=(bias, sums), channels=channels)

    def gamma_map(self, p: Slot, q: Slot, z: Slot, bias: Array | None, gamma: float, ratio: Any) -> tuple[Slot, Slot]:
        return self._add_two("gamma", p.sample_shape, p, q, z, ratio=ratio, constants=(bias,), parameter=gamma,
                             channels=1 if bias is None else bias.size)

    def activation(self, kind: str, x: Slot, parameter: float = 0) -> Slot:
        return self._add("activation", x.sample_shape, x, kind=_kernels.ACTIVATIONS[kind], parameter=parameter)

    def activation_backward(self, kind: str, x: Slot, g: Slot, parameter: float = 0) -> Slot:
        return self._add("activation_backward", x.sample_shape, x, g, kind=_kernels.ACTIVATIONS[kind],
                         parameter=parameter)

    def affine(self, x: Slot, *, minus: Any = 0, times: Any = 1, over: Any = 1, plus: Any = 0) -> Slot:
        arrays = [np.asarray(value, self.dtype) for value in (minus, times, over, plus)]
        shape: tuple[int, ...] = np.broadcast_shapes(*(a.shape for a in arrays))
        if shape not in ((), (1,), x.sample_shape[-1:]):  # those repeat along a sample
            shape = x.sample_shape
        constants = tuple(np.array(np.broadcast_to(a, shape), order="C") for a in arrays)
        return self._add("affine", x.sample_shape, x, constants=constants, channels=math.prod(shape))

    def multiply(self, a: Slot, b: Slot) -> Slot:
        return self._add("combine", a.sample_shape, a, b, kind=1)

    def add(self, a: Slot, b: Slot) -> Slot:
        return self._add("combine", a.sample_shape, a, b, kind=0)

    def pick(self, output: Slot, classes: Any, one: bool) -> Slot:
        return self._add("pick", output.sample_shape, output, kind=int(one))

    def reshape(self, x: Slot, shape: Sequence[int]) -> Slot:
        return Slot(x.index, tuple(shape))

    def pad(self, x: Slot, padding: Padding, value: float) -> Slot:
        (top, bottom), (left, right) = padding
        height, width, channels = x.sample_shape
        return self._place(x, (top, left), (height + top + bottom, width + left + right, channels), value)

    def crop(self, x: Slot, padding: Padding) -> Slot:
        (top, bottom), (left, right) = padding
        height, width, channels = x.sample_shape
        return self._place(x, (-top, -left), (height - top - bottom, width - left - right, channels), 0.0)

    def _place(self, x: Slot, at: tuple[int, int], shape: tuple[int, int, int], value: float) -> Slot:
        return self._add("place", shape, x, window=_Rectangle(x.sample_shape, at, shape), parameter=value)


@dataclass(frozen=True)
class _Rectangle:
    """What `place` reads of a window: sizes, and where the input's corner goes."""

    in_shape: tuple[int, ...]
    at: tuple[int, int]
    out_shape: tuple[int, int, int]
    kernel = stride = dilation = (1, 1)

    @property
    def grid(self) -> tuple[int, ...]:
        return self.out_shape[:2]

    @property
    def padding(self) -> Padding:
        return (self.at[0], 0), (self.at[1], 0)


class Program:
    """A recorded run: `inputs` and `outputs` by name, in the caller's memory; everything else in an arena."""

    def __init__(self, recorder: Recorder, inputs: Mapping[Any, Slot], outputs: Mapping[Any, Slot]):
        self._slots = {**inputs, **outputs}
        self._outputs = list(outputs)
        needed = _needed(recorder.steps, outputs.values())
        external = {slot.index for slot in self._slots.values()}
        offsets, arena = _share_memory(needed, recorder.sizes, external)
        self._compiled = _kernels.Program(needed, recorder.sizes, offsets, arena)

    def __call__(self, arrays: Mapping[Any, Array], classes: Array | None = None) -> bool:
        """Run over float32 C-contiguous arrays (N, ...) for every input and output; False, and nothing done, where a
        layer has other weights by now. classes: `pick`'s (N,) int64."""
        external: dict[int, Array] = {}
        copies = []
        for name, slot in self._slots.items():
            if slot.index not in external:
                external[slot.index] = arrays[name]
            elif name in self._outputs:  # the same value twice, or an input handed out again
                copies.append((arrays[name], external[slot.index]))
        ran = self._compiled(len(arrays[next(iter(self._slots))]), external, classes)
        for target, found in copies if ran else ():
            target[...] = found.reshape(target.shape)
        return ran


def _needed(steps: Sequence[Step], outputs: Iterable[Slot]) -> list[Step]:
    """The steps that lead to the outputs: an explanation from an inner layer needs no more."""
    wanted, kept = {slot.index for slot in outputs}, []
    for step in reversed(steps):
        if any(slot.index in wanted for slot in step.out):
            wanted.update(slot.index for slot in step.reads())
            kept.append(step)
    return kept[::-1]


def _share_memory(steps: Sequence[Step], sizes: Sequence[int], external: set[int]) -> tuple[list[int], int]:
    """An offset for every slot (−1: external or unused) and the size of the arena, in floats of one sample."""
    last = {slot.index: t for t, step in enumerate(steps) for slot in (*step.out, *step.reads())}
    offsets, arena = [-1] * len(sizes), 0
    live: dict[int, tuple[int, int]] = {}  # slot: offset, size
    for t, step in enumerate(steps):
        ending = {slot.index for slot in step.reads() if last[slot.index] == t and slot.index in live}
        for slot in step.out:
            if slot.index in external:
                continue
            size = -(-sizes[slot.index] // ALIGN) * ALIGN
            heir = next((i for i in ending if step.op in ELEMENTWISE and live[i][1] == size), None)
            if heir is None:
                offset = _first_gap(live.values(), size)
            else:
                offset, _ = live.pop(heir)
                ending.remove(heir)
            live[slot.index], offsets[slot.index] = (offset, size), offset
            arena = max(arena, offset + size)
        for index in [i for i in live if last[i] == t]:
            del live[index]
    return offsets, arena


def _first_gap(taken: Iterable[tuple[int, int]], size: int) -> int:
    at = 0
    for offset, length in sorted(taken):
        if offset - at >= size:
            break
        at = max(at, offset + length)
    return at
