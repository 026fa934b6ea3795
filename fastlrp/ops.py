"""The seam between layers and kernels: native code or the NumPy twin, thread count, instruction set.

Layers and rules call a backend's verbs and know nothing of what runs them. `Native` has the compiled kernels
(float32); `reference.Reference` has the same verbs in NumPy. For linear layers the verbs are two: the product
(input to output) and the product back (output to input), each with chosen parts of the weights, chosen readings
of the operands, and a fused end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import packing
from .reference import Array, Operand, Part, Plain, Ratio, Side, shifted, weight_part
from .shapes import Geometry, Window, as_size

# GNU's OpenMP reads this once, when it is loaded. By default its threads spin so long at the end of a region that
# beside other work every region waits for a time slice: 120 ms instead of 16 for one explanation. About a millisecond
# bridges the gaps between the calls of a training loop, since waking a thread takes as long as many a kernel.
SPIN = "GOMP_SPINCOUNT"
if SPIN in os.environ or "OMP_WAIT_POLICY" in os.environ:
    from . import _kernels
else:
    os.environ[SPIN] = "20000"
    try:
        from . import _kernels
    finally:
        del os.environ[SPIN]


# Weights of a dense layer of which a transposed copy is kept: it is faster back, but larger ones are bound by memory.
MOST_TURNED = 1 << 20


class Native(Plain):
    """The compiled kernels: float32, C-contiguous, channels last.

    precision: the least that products are granted where the instruction set has bf16 tiles; those for which tiles are
    no gain stay on float32, as all do on other instruction sets.
    """

    name = "compiled kernels"
    dtype = np.dtype(np.float32)
    chunk_bytes = 512 << 20  # of a chunk's values, all of them

    def __init__(self, precision: str = "highest"):
        self.precision = precision

    @property
    def key(self) -> tuple[str, str]:
        """What packed arrays and programs depend on beside the weights."""
        return _kernels.get_isa(), self.precision

    def product(self, layer: Any, parts: Sequence[Part], operands: Sequence[Operand], *, bias: Array | None = None,
                ratio: Ratio | None = None, sign: int = 0, direct: bool = False) -> Array:
        """Σ over operands of linear(operand, weight part) + bias, then the quotient, if any.

        bias: (channels,), or of a sample's shape. sign: 1 where no exact sum can be negative, -1 where none can be
        positive: then rounding makes none. direct: a sum's error may be no larger than its own terms', however large
        its neighbours are: not so with Winograd's differences of sums.
        """
        if bias is not None and bias.ndim > 1:
            return shifted(self, self.product(layer, parts, operands, sign=sign, direct=direct), bias, ratio)
        n = operands[0][0].shape[0]
        out = _kernels.empty((n, *layer.out_shape))
        return self.packed_product(layer, parts, direct)(n, operands, out, bias=bias, ratio=ratio, sign=sign)

    def packed_product(self, layer: Any, parts: Sequence[Part], direct: bool) -> _kernels.Product:
        """The layer's weights, packed for `product`."""
        return layer.packed((self.key, "forward", direct, tuple(parts)), self._pack)

    def packed_product_back(self, layer: Any, sides: Sequence[Side], direct: bool) -> _kernels.Product:
        """The same for `product_back`."""
        return layer.packed((self.key, "back", direct, *(parts for parts, _ in sides)), self._pack)

    def product_back(self, layer: Any, operands: Sequence[Operand], sides: Sequence[Side],
                     direct: bool = False) -> Array:
        """Σ over sides of factor · (Σ over operands of the transposed map with the side's weight parts).

        direct: as in `product`.
        """
        n = operands[0][0].shape[0]
        out = _kernels.empty((n, *layer.in_shape))
        product = self.packed_product_back(layer, sides, direct)
        factors = [factor for _, factor in sides if factor is not None]
        return product(n, operands, out, factors=factors or None)

    def _pack(self, layer: Any, key: tuple[Any, ...]) -> _kernels.Product:
        """The layer's product in one direction: weights packed, or a dense layer's own array."""
        _, direction, direct, *sides = key
        back, geometry = direction == "back", layer.geometry.simplest
        filters = layer.weight.reshape(geometry.weight_shape)
        ends = (geometry.out_shape, geometry.in_shape) if back else (geometry.in_shape, geometry.out_shape)
        limbs = self._limbs(geometry, *ends)
        scatter = back and not limbs and geometry.prefers_scatter(_kernels.lanes())
        sweeps = geometry.scatter_sweeps if scatter else geometry.backward_sweeps if back else geometry.forward_sweeps
        product = _kernels.Product(sweeps, *ends, geometry.groups, len(sides), len(sides[0]))
        if geometry.is_dense and not limbs:
            turned = back and filters.size <= MOST_TURNED
            weight = layer.packed(("turned",), _turned) if turned else filters[0, 0]
            return product.refer([[_as_read(weight, part) for part in parts] for parts in sides], back and not turned)
        return product.pack(_oriented(filters, sides, back, geometry.groups), scatter, limbs, direct)

    def packed_own(self, layer: Any, back: bool, direct: bool) -> OwnProduct | None:
        """A product of the layer's whole weights for one caller alone; None: it has to be packed anew for every
        change, as where weights of 0 may decide on its form."""
        if layer.weight.size > min(MOST_TURNED, packing.MOST_NUMBERS) or not packing.is_dense(layer.weight):
            return None
        own = OwnProduct(self, layer, back, direct)
        return own if own.transformed is not None else None

    def _limbs(self, geometry: Geometry, source: tuple[int, int, int], destination: tuple[int, int, int]) -> int:
        """The bf16 numbers that a product splits each number into; 0: it stays on float32."""
        limbs = packing.LIMBS[self.precision]
        chosen = _kernels.has_limbs() and packing.prefers_limbs(limbs, geometry.groups, source, destination)
        return limbs if chosen else 0

    def weight_gradient(self, layer: Any, x: Array, g: Array) -> Array:
        return _kernels.weight_gradient(layer.geometry.simplest, x, g).reshape(layer.weight_shape)

    def channel_sum(self, g: Array) -> Array:
        """Σ over all but the last axis: the gradient of a bias."""
        return _kernels.channel_sum(g)

    def sum_pool(self, window: Window, x: Array, scale: Array) -> Array:
        return _kernels.sum_pool(window, x, scale)

    def sum_pool_backward(self, window: Window, g: Array, scale: Array, factor: Array | None = None) -> Array:
        return _kernels.sum_pool_backward(window, g, scale, factor)

    def max_pool(self, window: Window, x: Array) -> tuple[Array, Array]:
        return _kernels.max_pool(window, x)

    def max_pool_backward(self, window: Window, g: Array, winner: Array) -> Array:
        return _kernels.max_pool_backward(window, g, winner)

    def max_pool_share(self, window: Window, g: Array, x: Array, y: Array) -> Array:
        return _kernels.max_pool_share(window, g, x, y)

    def group_sum(self, x: Array, groups: int) -> Array:
        """Σ over the channels of each group: (N, ..., groups)."""
        return _kernels.group_sum(x, groups)

    def ratio_map(self, sums: Array, bias: Array | None, ratio: Ratio) -> Array:
        return _kernels.ratio_map(sums, bias, ratio)

    def gamma_map(self, p: Array, q: Array, z: Array, bias: Array | None, gamma: float,
                  ratio: Ratio) -> tuple[Array, Array]:
        return _kernels.gamma_map(p, q, z, bias, gamma, ratio)

    def activation(self, kind: str, x: Array, parameter: float = 0) -> Array:
        return _kernels.activation(kind, x, parameter)

    def activation_backward(self, kind: str, x: Array, g: Array, parameter: float = 0) -> Array:
        return _kernels.activation_backward(kind, x, g, parameter)

    def nonnegative_samples(self, x: Array) -> Array:
        return _kernels.nonnegative_samples(x)


def _oriented(filters: Array, sides: Sequence[Sequence[Part]], back: bool, groups: int) -> Array:
    """Weights (side, kh, kw, part, source channels / groups, destination channels)."""
    if len(sides) == len(sides[0]) == 1:
        weight = weight_part(filters, sides[0][0])[None, :, :, None]
    else:
        weight = np.stack([np.stack([weight_part(filters, part) for part in parts], axis=2) for parts in sides])
    if not back:
        return weight
    *lead, ins, outs = weight.shape
    grouped = weight.reshape(*lead, ins, groups, outs // groups)
    return grouped.swapaxes(-1, -3).reshape(*lead, outs // groups, -1)


class _Numbered:
    """A layer whose weights are the numbers of their places."""

    def __init__(self, layer: Any) -> None:
        self.geometry, self.weight = layer.geometry, packing.numbers(layer.weight_shape)

    def packed(self, key: tuple[Any, ...], pack: Any) -> Any:
        return pack(self, key)


class OwnProduct:
    """A layer's product that always has the weights of the last call; chosen and laid out once, by shape alone."""

    def __init__(self, native: Native, layer: Any, back: bool, direct: bool) -> None:
        self.layer, self.back = layer, back
        self.product = native._pack(_Numbered(layer), (native.key, "back" if back else "forward", direct, ("w",)))
        self.transformed = self.product.own(layer.weight.size)

    def __call__(self) -> _kernels.Product:
        geometry, weight = self.layer.geometry.simplest, self.layer.weight
        assert self.transformed is not None
        if any(self.transformed):
            turned = _oriented(weight.reshape(geometry.weight_shape), [("w",)], self.back, geometry.groups)
            sweeps = geometry.backward_sweeps if self.back else geometry.forward_sweeps
            values = [_kernels.winograd_values(turned, sweep) if yes else weight
                      for sweep, yes in zip(sweeps, self.transformed, strict=True)]
        else:
            values = [weight] * len(self.transformed)
        self.product.take(values)
        return self.product


def _turned(layer: Any, key: tuple[Any, ...]) -> Array:
    """A dense layer's weights as (outputs, inputs)."""
    return np.ascontiguousarray(layer.weight.reshape(layer.geometry.simplest.weight_shape)[0, 0].T)


def _as_read(weight: Array, part: Part) -> tuple[Array, str]:
    """A part of a dense layer's weights as the kernels read it: signs from the array itself, else from a copy."""
    read = {"w": "plain", "+": "positive", "-": "negative"}.get(part) if isinstance(part, str) else None
    return (weight, read) if read else (np.ascontiguousarray(weight_part(weight, part)), "plain")


NATIVE = Native()
NATIVES = {NATIVE.precision: NATIVE, "high": Native("high"), "medium": Native("medium")}


def native(precision: str) -> Native:
    """The kernels at this precision; at the highest where the instruction set has nothing faster for a lower one."""
    return NATIVES[precision] if _kernels.has_limbs() else NATIVE


class ForkSafeLock:
    """A re-entrant lock that a child of fork finds free, whatever thread held it in the parent."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


# Held while weights are packed and plans kept, which is rare: one lock serves all networks.
PREPARING = ForkSafeLock()


def as_array(value: Any, name: str) -> Any:
    """Anything as an array, or an error that names the argument: ragged lists are none, and masks would be lost."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} must be an array of real numbers, got a masked one: fill what is masked first")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None


def real_array(value: Any, dtype: np.dtype, name: str) -> Array:
    """Any real array as a C-contiguous, aligned array of `dtype` (the same object where it already is one)."""
    array: Array = as_array(value, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array  # as np.require would, in a fraction of the time
    with np.errstate(over="ignore"):  # what is beyond the type becomes infinite
        return np.require(array, dtype, ["C", "A"])


def set_num_threads(n: int) -> None:
    """Use at most n threads from now on, in the whole process. Results do not depend on n, bit for bit."""
    _kernels.set_threads(min(as_size(n, "n"), 1024))


def get_num_threads() -> int:
    """The number of threads that `set_num_threads` set, or that the process started with."""
    return _kernels.get_threads()


def _cgroup_cpus() -> int | None:
    """The processors that a container's quota allows, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def default_threads() -> int:
    """The least of OMP_NUM_THREADS, the processors this process may use, and the container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    affinity = max(affinity, _kernels.processors())  # OMP_PROC_BIND leaves the calling thread one of them
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    asked = int(first) if first.isdigit() and int(first) > 0 else None
    return min(limit for limit in (affinity, _cgroup_cpus(), asked) if limit)


def cpu_info() -> dict[str, Any]:
    """The instruction sets this machine runs, the one in use, and the number of threads."""
    return {"isa": _kernels.get_isa(), "available": sorted(_kernels.ISAS, key=_kernels.ISAS.__getitem__),
            "threads": get_num_threads()}


def _start() -> None:
    set_num_threads(default_threads())
    cap = os.environ.get("FASTLRP_ISA")
    if not cap:
        return
    order = ["portable", "avx2", "avx512", "amx"]  # a cap on what may run, so one beyond the machine is no error
    if cap not in order:
        raise ValueError(f"FASTLRP_ISA must be one of {order}, got {cap!r}")
    _kernels.set_isa(max((i for i in _kernels.ISAS if order.index(i) <= order.index(cap)), key=order.index))


_start()
