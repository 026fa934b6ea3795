"""Programs: a backend that computes nothing, but records what is asked of it, to be run by one call into C.

A network's layers and the engine speak to a backend in verbs (ops.py). Run over `Slot`s instead of arrays, the same
code leaves a list of steps; slots that are not needed at the same time share their memory. What does not depend on
the input is computed while recording.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from . import _kernels
from .arena import lay_out
from .fusing import fused, fused_pools
from .ops import NATIVE, Native
from .reference import Array, Part, shifted
from .shapes import Padding, Window
from .steps import Copy, NotRecorded, Slot, Source, Step


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
        if bias is not None and bias.ndim > 1:
            return shifted(self, self.product(layer, parts, operands, sign=sign, direct=direct), bias, ratio)
        again = partial(self.native.packed_product, layer, parts, direct)
        return self._add("product", layer.out_shape, *operands, ratio=ratio, constants=(bias,), sign=sign,
                         product=again(), again=again, own=self._own(layer, [parts], False, direct),
                         bias_of=layer if bias is not None and bias is layer.bias else None)

    def product_back(self, layer: Any, operands: Sequence[Any], sides: Sequence[Any], direct: bool = False) -> Slot:
        factors = tuple(factor for _, factor in sides if factor is not None)
        again = partial(self.native.packed_product_back, layer, sides, direct)
        return self._add("product", layer.in_shape, *operands, factors=factors, product=again(), again=again,
                         own=self._own(layer, [parts for parts, _ in sides], True, direct))

    def _own(self, layer: Any, sides: Sequence[Sequence[Part]], back: bool, direct: bool) -> Any:
        whole = [tuple(parts) for parts in sides] == [("w",)]
        return partial(self.native.packed_own, layer, back, direct) if whole else None

    def weight_gradient(self, layer: Any, x: Slot, g: Slot) -> Slot:
        geometry = layer.geometry.simplest
        return self._add("weight_gradient", layer.weight_shape, x, g, window=geometry, kind=geometry.groups,
                         channels=geometry.out_channels)

    def channel_sum(self, g: Slot) -> Slot:
        shape = g.sample_shape[-1:]
        return self._add("channel_sum", shape, g, channels=shape[0])

    def sum_pool(self, window: Window, x: Slot, scale: Array) -> Slot:
        return self._add("sum_pool", window.out_shape, x, window=window, constants=(scale,))

    def sum_pool_backward(self, window: Window, g: Slot, scale: Array, factor: Slot | None = None) -> Slot:
        return self._add("sum_pool_backward", window.in_shape, g, factor, window=window, constants=(scale,))

    def max_pool(self, window: Window, x: Slot) -> tuple[Slot, Slot]:
        return self._add_two("max_pool", window.out_shape, x, window=window)

    def max_pool_backward(self, window: Window, g: Slot, winner: Slot) -> Slot:
        return self._add("max_pool_backward", window.in_shape, g, winner, window=window)

    def max_pool_share(self, window: Window, g: Slot, x: Slot, y: Slot) -> Slot:
        return self._add("max_pool_share", window.in_shape, g, x, y, window=window)

    def group_sum(self, x: Slot, groups: int) -> Slot:
        *pixels, channels = x.sample_shape
        return self._add("group_sum", (*pixels, groups), x, channels=channels // groups)

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

    def transpose(self, x: Slot, axes: Sequence[int]) -> Slot:
        shape, steps = tuple(x.sample_shape[axis] for axis in axes), _steps(x.sample_shape)
        return self._copy(x, self.slot(shape), shape, [steps[axis] for axis in axes], _steps(shape))

    def concat(self, xs: Sequence[Slot], axis: int) -> Slot:
        shape = list(xs[0].sample_shape)
        shape[axis] = sum(x.sample_shape[axis] for x in xs)
        out, at, steps = self.slot(shape), 0, _steps(shape)
        for x in xs:
            self._copy(x, out, x.sample_shape, _steps(x.sample_shape), steps, to_offset=at * steps[axis], more=at > 0)
            at += x.sample_shape[axis]
        return out

    def split(self, x: Slot, sizes: Sequence[int], axis: int) -> list[Slot]:
        ends = pairwise([0, *accumulate(sizes)])
        return [self.slice(x, axis, range(start, end)) for start, end in ends]

    def slice(self, x: Slot, axis: int, places: range) -> Slot:
        shape, steps = (*x.sample_shape[:axis], len(places), *x.sample_shape[axis + 1:]), _steps(x.sample_shape)
        at, steps[axis] = places.start * steps[axis], places.step * steps[axis]
        return self._copy(x, self.slot(shape), shape, steps, _steps(shape), from_offset=at)

    def slice_backward(self, g: Slot, axis: int, places: range, size: int) -> Slot:
        shape = (*g.sample_shape[:axis], size, *g.sample_shape[axis + 1:])
        steps = _steps(shape)
        at, steps[axis] = places.start * steps[axis], places.step * steps[axis]
        return self._copy(g, self.slot(shape), g.sample_shape, _steps(g.sample_shape), steps, to_offset=at, around=0.0)

    def expand(self, x: Slot, shape: Sequence[int]) -> Slot:
        if x.sample_shape == tuple(shape):
            return x
        steps = [0 if own != size else step
                 for own, size, step in zip(x.sample_shape, shape, _steps(x.sample_shape), strict=True)]
        return self._copy(x, self.slot(shape), shape, steps, _steps(shape))

    def pad(self, x: Slot, padding: Padding, value: float) -> Slot:
        (top, bottom), (left, right) = padding
        height, width, channels = x.sample_shape
        shape = (height + top + bottom, width + left + right, channels)
        steps = _steps(shape)
        return self._copy(x, self.slot(shape), x.sample_shape, _steps(x.sample_shape), steps,
                          to_offset=top * steps[0] + left * steps[1], around=value)

    def crop(self, x: Slot, padding: Padding) -> Slot:
        (top, bottom), (left, right) = padding
        height, width, channels = x.sample_shape
        shape, steps = (height - top - bottom, width - left - right, channels), _steps(x.sample_shape)
        return self._copy(x, self.slot(shape), shape, steps, _steps(shape),
                          from_offset=top * steps[0] + left * steps[1])

    def _copy(self, x: Slot, out: Slot, sizes: Sequence[int], from_steps: Sequence[int], to_steps: Sequence[int], *,
              from_offset: int = 0, to_offset: int = 0, around: float | None = None, more: bool = False) -> Slot:
        """more: other steps have written elsewhere in `out` before; around: what it holds elsewhere."""
        copy = Copy(_axes(sizes, from_steps, to_steps), from_offset, to_offset)
        sources: tuple[Source, ...] = ((x, "plain", None), *([(out, "plain", None)] if more else []))
        self.steps.append(Step("copy", (out,), sources, copy=copy, kind=int(around is not None),
                               parameter=around or 0.0))
        return out


def _steps(shape: Sequence[int]) -> list[int]:
    """Elements from one position of each axis to the next."""
    return [math.prod(shape[i + 1:]) for i in range(len(shape))]


def _axes(sizes: Sequence[int], from_steps: Sequence[int], to_steps: Sequence[int]) -> list[tuple[int, int, int]]:
    """The axes of a copy, neighbours joined where both sides walk through them as one; threads share out the first."""
    joined: list[tuple[int, int, int]] = []
    for size, source, target in zip(sizes, from_steps, to_steps, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * source and joined[-1][2] == size * target:
            joined[-1] = (joined[-1][0] * size, source, target)
        else:
            joined.append((size, source, target))
    more = _kernels.COPY_AXES - len(joined)
    if more < 0:
        raise NotRecorded
    first = 1 if len(joined) > 1 else 0  # the last one's runs are copied whole
    return joined[:first] + [(1, 0, 0)] * more + joined[first:]


# Vectors of samples side by side, the more the better: as many as give every thread some, while their values take no
# more bytes, with common sizes of L2 in mind.
MOST_BYTES_SIDE_BY_SIDE = 3 << 19
VECTORS_SIDE_BY_SIDE = (8, 4, 1)
LEAST_USES = 4  # of a weight by every sample, where weights change: they are laid out anew for each run


SUMS = {"weight_gradient", "channel_sum"}  # over all samples


class _Twin:
    """The same steps for `width` samples side by side, [value][sample]: kernels see one sample of more channels.

    Inputs are turned when the run begins, outputs when they are complete.
    """

    def __init__(self, steps: Sequence[Step], sizes: Sequence[int], external: set[int], width: int) -> None:
        self.width, self.sizes, self.steps = width, [size * width for size in sizes], list[Step]()
        last = {slot.index: t for t, step in enumerate(steps) for slot in step.out}
        used = {slot.index for step in steps for slot in (*step.out, *step.reads())}
        self.own = {i: len(sizes) + n for n, i in enumerate(sorted(external & used))}  # outside: inside
        self.sizes += [self.sizes[i] for i in self.own]
        self.steps += [self._turn(i, own, 0) for i, own in self.own.items() if i not in last]
        for t, step in enumerate(steps):
            self.steps.append(self._widened(step))
            self.steps += [self._turn(own, i, 1) for i, own in self.own.items() if last.get(i) == t]
        self.layout = lay_out(self.steps, self.sizes, external)

    def compiled(self, products: Sequence[Any] | None) -> _kernels.Program | None:
        """None where a product has no such form, or is gone: then so is the program. products: those of now, where they
        are renewed."""
        given = iter(products or ())
        for i, step in enumerate(self.steps):
            if step.product is not None:
                if products is None:
                    found = step.product()
                    product = found and found.in_lanes(self.width)
                else:
                    product = next(given).own_in_lanes(self.width)
                if product is None:
                    return None
                self.steps[i] = replace(step, product=product)
        return _kernels.Program(self.steps, self.sizes, self.layout, self.width)

    def renewed(self, products: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The products and biases of now; products: those for samples one by one."""
        found = [step for step in self.steps if step.product is not None]
        for step, own in zip(found, products, strict=True):
            step.product.take(own.values)
        return ([step.product for step in found],
                [step.bias_of and np.repeat(step.bias_of.bias, self.width) for step in found])

    def _turn(self, source: int, target: int, back: int) -> Step:
        shape = (self.sizes[source],)
        return Step("turn", (Slot(target, shape),), ((Slot(source, shape), "plain", None),), kind=back)

    def _slot(self, slot: Slot) -> Slot:
        return Slot(self.own.get(slot.index, slot.index), slot.sample_shape)

    def _source(self, source: Any) -> Any:
        return source and (self._slot(source[0]), source[1], self._repeated(source[2]))

    def _repeated(self, array: Array | None) -> Array | None:
        return None if array is None else np.repeat(array, self.width)

    def _widened(self, step: Step) -> Step:
        changes: dict[str, Any] = {}
        if step.product is not None and step.window is not None:
            raise NotRecorded
        if step.window is not None:
            height, width, channels = step.window.in_shape
            changes["window"] = replace(step.window, in_shape=(height, width, channels * self.width))
        elif step.op != "affine" or step.channels > 1:  # else it has one constant for all
            changes.update(constants=tuple(map(self._repeated, step.constants)), channels=step.channels * self.width)
        if step.copy is not None:
            sizes, sources, targets = (list(values) for values in zip(*step.copy.axes, strict=True))
            axes = _axes([*sizes, self.width], [n * self.width for n in sources] + [1],
                         [n * self.width for n in targets] + [1])
            changes["copy"] = Copy(axes, step.copy.from_offset * self.width, step.copy.to_offset * self.width)
        return replace(step, out=tuple(map(self._slot, step.out)), sources=tuple(map(self._source, step.sources)),
                       factors=tuple(map(self._source, step.factors)),
                       ratio=step.ratio and (self._slot(step.ratio[0]), *step.ratio[1:]), **changes)


class Program:
    """A recorded run: `inputs` and `outputs` by name, in the caller's memory; everything else in an arena.

    steps, sizes: as a recorder has them. renewable: for weights that change before every run. sections: sums over
    samples are made of those of sections, which threads share out among them.
    """

    def __init__(self, steps: Sequence[Step], sizes: Sequence[int], inputs: Mapping[Any, Slot],
                 outputs: Mapping[Any, Slot], renewable: bool = False, sections: bool = False):
        if inputs.keys() & outputs.keys():
            raise ValueError(f"names of inputs and outputs must differ, got {inputs.keys() & outputs.keys()} as both")
        self._slots = {**inputs, **outputs}
        self._outputs = list(outputs)
        external = {slot.index for slot in self._slots.values()}
        needed = fused(_needed(steps, outputs.values()), external)
        if not renewable:  # products of later weights may be of other forms
            needed = fused_pools(needed, external)
        layout = lay_out(needed, sizes, external, stretch=not renewable)
        self._compiled = _kernels.Program(needed, sizes, layout, sections=sections)
        self._products = [((step.own and step.own()) or step.again, step.bias_of)
                          for step in needed if renewable and step.again is not None]
        self._lanes, self._isa, self._renewable = _kernels.lanes(), _kernels.get_isa(), renewable
        fits = (4 * layout.arena * self._lanes <= MOST_BYTES_SIDE_BY_SIDE and not SUMS & {step.op for step in needed}
                and not (renewable and self._compiled.uses < LEAST_USES))
        self._twin_of: Any = ([_weak(step, renewable) for step in needed], sizes, external) if fits else None
        self._twins: dict[int, tuple[_Twin, _kernels.Program] | None] = {}  # by width; None: it would be too large
        self._adding = threading.Lock()

    def renew(self, samples: int) -> list[Any]:
        """Take the weights and biases that the layers have now; hold what is returned while it runs with them, for so
        many samples."""
        products = [again() for again, _ in self._products if again is not None]
        self._compiled.renew(products, [None if layer is None else layer.bias for _, layer in self._products])
        self._add_twin(samples, products)
        for twin, compiled in filter(None, self._twins.values()):
            compiled.renew(*twin.renewed(products))
        return products

    def _add_twin(self, samples: int, products: Sequence[Any] | None = None) -> None:
        """For so many samples side by side, where these are small enough and all products have such a form."""
        with self._adding:
            for vectors in VECTORS_SIDE_BY_SIDE:
                width = self._lanes * vectors
                if samples // width < self._compiled.threads(samples):
                    continue
                if width not in self._twins and self._twin_of is not None and _kernels.get_isa() == self._isa:
                    self._twins[width] = self._made_twin(width, products)
                if self._twins.get(width) is not None:
                    return

    def _made_twin(self, width: int, products: Sequence[Any] | None) -> tuple[_Twin, _kernels.Program] | None:
        """Of this width, and known to the compiled program; None: none, because it would be too large or of any."""
        steps, sizes, external = self._twin_of
        try:
            twin = _Twin(steps, sizes, external, width)
        except NotRecorded:
            self._twin_of = None
            return None
        if 4 * twin.layout.arena > MOST_BYTES_SIDE_BY_SIDE:
            return None
        compiled = twin.compiled(products)
        if compiled is None:
            self._twin_of = None
            return None
        known = {w: found[1] for w, found in self._twins.items() if found is not None} | {width: compiled}
        for narrow, wide in pairwise(sorted(known)):
            known[wide].set_twin(known[narrow])
        self._compiled.set_twin(known[max(known)])
        return twin, compiled

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
        if not self._renewable:
            self._add_twin(len(arrays[next(iter(self._slots))]))
        ran = self._compiled(len(arrays[next(iter(self._slots))]), external, classes)
        for target, found in copies if ran else ():
            target[...] = found.reshape(target.shape)
        return ran


def _weak(step: Step, renewable: bool) -> Step:
    """The same without keeping its product alive, by which others know whether weights have changed; nor layers, unless
    it is renewed from them."""
    if step.product is None:
        return step
    kept = replace(step, product=weakref.ref(step.product), again=None, own=None)
    return kept if renewable else replace(kept, bias_of=None)


def _needed(steps: Sequence[Step], outputs: Iterable[Slot]) -> list[Step]:
    """The steps that lead to the outputs: an explanation from an inner layer needs no more."""
    wanted, kept = {slot.index for slot in outputs}, []
    for step in reversed(steps):
        if any(slot.index in wanted for slot in step.out):
            wanted.update(slot.index for slot in step.reads())
            kept.append(step)
    return kept[::-1]
