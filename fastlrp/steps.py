"""What a program consists of: steps over slots, values that are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .reference import Array
from .shapes import Geometry, Window


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


# As reference.Operand: (value, read, bound); the factor of a sum pool's way back may also be read as a "gate".
Source = tuple[Slot, str, Any]


@dataclass(frozen=True)
class Copy:
    """Which elements of a sample go where: (size, step in the source, step in the destination) of each axis."""

    axes: list[tuple[int, int, int]]
    from_offset: int
    to_offset: int


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
    again: Callable[[], Any] | None = None  # packs the product anew, from the weights of then
    own: Callable[[], Any] | None = None  # makes what does so for one program alone, in less time, or None
    bias_of: Any = None  # the layer whose bias constants[0] is
    window: Window | Geometry | None = None  # of a pool, or of the layer whose weights have the gradient
    winner: Slot | None = None  # of a pool before a product's relevance; without it, a product's pool comes after it
    copy: Copy | None = None
    kind: int = 0
    sign: int = 0
    parameter: float = 0.0

    def reads(self) -> Iterable[Slot]:
        for source in (*self.sources, *self.factors):
            if source is not None:
                yield source[0]
        if self.ratio is not None:
            yield self.ratio[0]
        if self.winner is not None:
            yield self.winner
