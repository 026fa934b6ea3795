"""ONNX operators that move values: shapes, axes, padding, resizing. They complete the table of onnx_operators.py, where
the functions' form is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..reference import Array
from .building import Builder
from .onnx_folding import MOST_INPUTS, axes_of, slices_of
from .onnx_nodes import Node, constant, one_number, small_floats, small_ints, unique_axes
from .onnx_operators import OPERATORS, computed, operator
from .values import BATCH, Unsupported, Value

__all__ = ["OPERATORS"]


@operator("Reshape", 2)
def _reshape(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, shape = computed(inputs[0]), small_ints(constant(inputs[1], "a shape"), "shape")
    if not node.flag("allowzero"):
        own = (BATCH, *x.shape)
        shape = [own[i] if size == 0 and i < len(own) else size for i, size in enumerate(shape)]
    return b.reshape(x, shape)


@operator("Flatten")
def _flatten(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, axis = inputs[0], node.int("axis", 1)
    if axis < 0:
        axis += len(x.shape) + 1
    if axis != 1:
        raise Unsupported(f"axis {axis}: it mixes the batch with other axes")
    return b.flatten(x)


@operator("Transpose")
def _transpose(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.transpose(inputs[0], node.ints("perm", list(range(len(inputs[0].shape), -1, -1))))


@operator("Squeeze", 1, 2)
def _squeeze(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, axes = computed(inputs[0]), axes_of(node, inputs)
    if axes is not None and any(axis and x.shape[axis - 1] != 1 for axis in unique_axes(axes, len(x.shape) + 1)):
        raise ValueError(f"axes {axes} of samples of shape {x.shape} do not all have size 1")
    return b.squeeze(x, axes)


@operator("Unsqueeze", 1, 2)
def _unsqueeze(b: Builder, node: Node, inputs: list[Any]) -> Any:
    return b.unsqueeze(computed(inputs[0]), axes_of(node, inputs) or [])


@operator("Expand", 2)
def _expand(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, shape = computed(inputs[0]), small_ints(constant(inputs[1], "a shape"), "shape")
    shape = [1] * (len(x.shape) + 1 - len(shape)) + shape
    if len(shape) != len(x.shape) + 1 or shape[0] not in (1, BATCH, *b.batch):
        raise Unsupported(f"to shape {shape} from samples of shape {x.shape}: the batch has to stay")
    return b.expand(x, np.broadcast_shapes(x.shape, tuple(shape[1:])))


@operator("Concat", 1, MOST_INPUTS)
def _concat(b: Builder, node: Node, inputs: list[Any]) -> Any:
    axis = node.int("axis")
    if axis is None:
        raise ValueError("expected an attribute axis")
    return b.concat([computed(x, "a constant operand") for x in inputs], axis)


@operator("Slice", 1, 5)
def _slice(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x = computed(inputs[0])
    slices = slices_of(node, inputs, len(x.shape) + 1)
    if slices[0].indices(BATCH) != (0, BATCH, 1):
        raise Unsupported("a part of the batch")
    places = {axis: slices[axis].indices(size) for axis, size in enumerate(x.shape, 1)}
    parts = [axis for axis, size in enumerate(x.shape, 1) if places[axis] != (0, size, 1)]
    if not parts:
        return b.identity(x)
    for axis in parts:
        x = b.slice(x, axis, *places[axis], part="" if axis == parts[-1] else f"axis{axis}")
    return x


@operator("Split", 1, 2)
def _split(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, count = computed(inputs[0]), len(node.outputs)
    axis, = unique_axes([node.int("axis", 0)], len(x.shape) + 1)
    sizes, number = axes_of(node, inputs, 1, "split"), node.int("num_outputs")
    if number is not None and (number != count or sizes is not None):
        raise ValueError(f"num_outputs {number} where there are {count} outputs"
                         + " and sizes" * (sizes is not None))
    if axis == 0:
        raise Unsupported("parts of the batch")
    if sizes is None:
        size = x.shape[axis - 1]
        if number is None and size % count:
            raise ValueError(f"{count} outputs of one size where axis {axis} has {size}")
        each = -(-size // count)
        sizes = [each] * (count - 1) + [size - each * (count - 1)]
    if len(sizes) != count:
        raise ValueError(f"expected a size for each of the {count} outputs, got {sizes}")
    return b.split(x, axis, sizes)


@operator("Gather", 2)
def _gather(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, indices = computed(inputs[0]), constant(inputs[1], "indices")
    assert indices is not None
    axis, = unique_axes([node.int("axis", 0)], len(x.shape) + 1)
    if axis == 0:
        raise Unsupported("a part of the batch")
    size = x.shape[axis - 1]
    if indices.ndim > 1 or not 0 < indices.size <= size:
        raise Unsupported(f"indices of shape {indices.shape}: only one number, or several that rise in even steps")
    b.charge(24 * indices.size)
    if indices.dtype.kind not in "iu" or indices.min() < -size or indices.max() >= size:
        raise ValueError(f"expected indices from {-size} to {size - 1}, got {indices.dtype} of shape {indices.shape}")
    places = indices.reshape(-1).astype(np.int64) % size
    step = int(places[1] - places[0]) if places.size > 1 else 1
    if step < 1 or (np.diff(places) != step).any():
        raise Unsupported("indices that do not rise in even steps")
    part = b.slice(x, axis, int(places[0]), int(places[-1]) + 1, step, part="" if indices.ndim else "slice")
    return part if indices.ndim else b.squeeze(part, [axis])


@operator("Pad", 1, 4)
def _pad(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, rank = computed(inputs[0]), len(inputs[0].shape) + 1
    mode = node.string("mode", "constant")
    if mode != "constant":
        raise Unsupported(f"mode {mode[:40]!r}: only 'constant'")
    pads = axes_of(node, inputs, 1, "pads")
    value = node.float("value", one_number(constant((*inputs, None, None)[2], "value"), "value", 0.0))
    axes = axes_of(node, inputs, 3)
    axes = list(range(rank)) if axes is None else unique_axes(axes, rank)
    if pads is None or len(pads) != 2 * len(axes):
        raise ValueError(f"expected {2 * len(axes)} pads, got {pads}")
    found = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[:len(axes)], pads[len(axes):], strict=True):
        found[axis] = before, after
    return b.pad(x, found, value)


# ---- resizing ----

@operator("Upsample", 1, 2)
def _upsample(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x, mode = computed(inputs[0]), node.string("mode", "nearest")
    if node.has("scales"):
        scales: Any = list(node.floats("scales"))[:64]
    else:
        scales = small_floats(constant((*inputs, None)[1], "scales"), "scales")
    return _resized(b, x, mode, scales, lambda o, scale, size: np.floor(o / scale))


@operator("Resize", 1, 4)
def _resize(b: Builder, node: Node, inputs: list[Any]) -> Any:
    node.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value", "antialias")  # of other modes
    x, mode, rank = computed(inputs[0]), node.string("mode", "nearest"), len(inputs[0].shape) + 1
    where = node.string("coordinate_transformation_mode", "asymmetric" if node.opset < 11 else "half_pixel")
    nearest = node.string("nearest_mode", "floor" if node.opset < 11 else "round_prefer_floor")
    if node.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keep_aspect_ratio_policy: only 'stretch'")
    axes = unique_axes(node.ints("axes", list(range(rank))), rank)
    scales, sizes = (inputs[1], None) if node.opset < 11 else (*inputs, None, None, None)[2:4]
    given = constant(sizes if sizes is not None else scales, "scales and sizes")
    if given is None or (given.size == 0 and sizes is None):
        raise ValueError("expected scales or sizes")
    whole = (BATCH, *x.shape)
    if sizes is None:
        found = small_floats(given, "scales")
    else:
        wanted = small_ints(given, "sizes")
        found = [1.0 if axis == 0 and size in (BATCH, *b.batch) else size / whole[axis]
                 for axis, size in zip(axes, wanted, strict=True)]
    if len(found) != len(axes):
        raise ValueError(f"expected {len(axes)} scales, got {len(found)}")
    every = [1.0] * rank
    for axis, scale in zip(axes, found, strict=True):
        every[axis] = scale
    if mode == "nearest" and (where not in COORDINATES or nearest not in ROUNDINGS):
        raise Unsupported(f"coordinate_transformation_mode {where[:40]!r}, nearest_mode {nearest[:40]!r}")
    return _resized(b, x, mode, every, lambda o, scale, size: ROUNDINGS[nearest](COORDINATES[where](o, scale, size)))


COORDINATES: dict[str, Callable[[Array, float, int], Array]] = {
    "half_pixel": lambda o, scale, size: (o + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda o, scale, size: (o + 0.5) / scale - 0.5,  # the same for whole scales
    "pytorch_half_pixel": lambda o, scale, size: (o + 0.5) / scale - 0.5 if size > 1 else o * 0,
    "asymmetric": lambda o, scale, size: o / scale,
    "align_corners": lambda o, scale, size: o * ((size / scale - 1) / (size - 1)) if size > 1 else o * 0,
    "tf_half_pixel_for_nn": lambda o, scale, size: (o + 0.5) / scale,
}
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5), "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor, "ceil": np.ceil,
}


def _resized(b: Builder, x: Value, mode: str, scales: Sequence[float],
             place: Callable[[Array, float, int], Array]) -> Any:
    """x with every pixel repeated. place(output positions, scale, output size) → input positions, as the file says."""
    if len(scales) != len(x.shape) + 1 or len(x.shape) not in (2, 3):
        raise ValueError(f"{len(scales)} scales do not fit samples of shape {x.shape}")
    if any(scale != 1 for scale in scales[:2]):
        raise Unsupported(f"scales {list(scales)}: only of spatial axes")
    whole = all(scale >= 1 and scale == int(scale) for scale in scales)
    one = all(scale == 1 or size == 1 for scale, size in zip(scales[1:], x.shape, strict=True))
    if not whole or (mode != "nearest" and not one):  # of one pixel, or none more, every mode makes the same
        raise Unsupported(f"mode {mode[:40]!r} with scales {list(scales)}: only 'nearest' with whole numbers")
    for scale, size in zip(scales[2:], x.shape[1:], strict=True):
        if not one:
            b.charge(int(64 * size * scale))
            positions = np.arange(size * int(scale), dtype=np.float64)
            if (place(positions, scale, len(positions)).clip(0, size - 1) != positions // scale).any():
                raise Unsupported("nearest neighbours other than every pixel repeated")
    return b.upsample(x, scales[2:])
