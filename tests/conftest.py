"""Fixtures of the core's tests: instruction sets by name, poisoned memory."""

from __future__ import annotations

import ctypes
import os
import types
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the twin's products are small: threads only get in the way

import numpy as np
import pytest
from cases import ISAS

from fastlrp import _kernels, get_num_threads, ops, set_num_threads

GUARD = 33  # elements on either side: odd, so that vectors are never aligned
M_PERTURB = -6  # mallopt's name for "fill what malloc hands out"


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on every instruction set of this machine; rounding and denormals are as before afterwards."""
    before = _kernels.get_isa()
    _kernels.set_isa(request.param)
    yield request.param
    _kernels.set_isa(before)
    assert np.float32(1e-38) * np.float32(0.01) > 0, "denormals are flushed to zero"
    assert np.float32(1) + np.float32(2**-24) == 1 < np.float32(1) + np.float32(1.5 * 2**-24), "rounding has changed"


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = get_num_threads()
    yield
    set_num_threads(before)


class PoisonedNumPy(types.ModuleType):
    """NumPy whose `empty` is full of NaN (or −77) and has guards at both ends."""

    def __init__(self) -> None:
        super().__init__("poisoned_numpy")
        self.guards: list[tuple[np.ndarray, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        poison = np.nan if np.dtype(dtype).kind == "f" else np.array(-77).astype(dtype)
        size = int(np.prod(shape))
        around = np.full(size + 2 * GUARD, poison, dtype)
        self.guards += [(around[:GUARD], poison), (around[GUARD + size:], poison)]
        return around[GUARD:GUARD + size].reshape(shape)

    def check(self) -> None:
        """No one wrote beyond the ends."""
        for guard, poison in self.guards:
            np.testing.assert_array_equal(guard, np.full_like(guard, poison), "written beyond an array's end")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[PoisonedNumPy]:
    """Outputs start as NaN between guards; C's scratch starts as NaN too, where the C library can do that."""
    numpy = PoisonedNumPy()
    for module in (ops, _kernels):
        monkeypatch.setattr(module, "np", numpy)
    monkeypatch.setattr(_kernels, "empty", lambda shape: numpy.empty(shape, np.float32))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_PERTURB, 0x100)  # malloc fills with the complement of the low byte: 0xff, a NaN
    yield numpy
    if mallopt:
        mallopt(M_PERTURB, 0)
    numpy.check()
