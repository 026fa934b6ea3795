"""What PyTorch's operators (ATen) are in the builder's terms: one small function for each, by the operator's name.

A reader takes the builder and `a`: the operator's arguments by the names that they have in its schema, values as
`Value`, tensors as arrays; `a.result`: the shape of its (first) result with the batch. What an overload has no
argument for is Unsupported. A new operator is one entry in READERS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .building import BATCH, Builder, Unsupported, Value

Reader = Callable[[Builder, Any], Any]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
SOFTPLUS_IS_X = 17  # or more: in single precision it is the same whether PyTorch computes it or takes x instead


# ---- weights ----

def _conv(b: Builder, a: Any) -> Value:
    if getattr(a, "transposed", False):
        raise Unsupported("a transposed convolution")
    weight, padding = _fixed(a.weight, "weight"), a.padding
    if isinstance(padding, str):
        steps = _spread(a.dilation, weight)
        reach = [(kernel - 1) * step for kernel, step in zip(weight.shape[2:], steps, strict=True)]
        padding = [(total // 2, total - total // 2) for total in reach] if padding == "same" else 0
    return b.conv(a.input, weight, _fixed(a.bias, "bias"), a.stride, padding, a.dilation, a.groups)


def _linear(b: Builder, a: Any) -> Value:
    return b.linear(a.input, _fixed(a.weight, "weight"), _fixed(a.bias, "bias"))


def _addmm(b: Builder, a: Any) -> Value:
    """beta · self + alpha · mat1 mat2."""
    product = b.scale(b.linear(a.mat1, _fixed(a.mat2, "mat2").T), times=a.alpha)
    return _sum(b, product, a.self, a.beta)


def _matmul(b: Builder, a: Any) -> Value:
    other = _fixed(a.mat2 if hasattr(a, "mat2") else a.other, "the second matrix")
    if not isinstance(a.self, Value) or other.ndim != 2:
        raise Unsupported("only values times a matrix of weights")
    return b.linear(a.self, other.T)


def _batch_norm(b: Builder, a: Any) -> Value:
    if a.running_mean is None or a.running_var is None or getattr(a, "training", False):
        raise Unsupported("without running statistics: samples would depend on each other")
    return b.batch_norm(a.input, a.weight, a.bias, a.running_mean, a.running_var, a.eps)


# ---- activations ----

def _activation(kind: str, *options: str) -> Reader:
    """An activation of the builder; its options have the same names here."""
    def read(b: Builder, a: Any) -> Value:
        return b.activation(_source(a), kind, **{name: getattr(a, option) for option in options
                                                 for name in [OPTIONS.get(option, option)]})
    return read


OPTIONS = {"negative_slope": "slope"}


def _elu(b: Builder, a: Any) -> Value:
    if (a.scale, a.input_scale) == (1, 1):
        return b.activation(a.self, "elu", alpha=float(a.alpha))
    if math.isclose(a.alpha, SELU_ALPHA, rel_tol=1e-6) and math.isclose(a.scale, SELU_SCALE, rel_tol=1e-6):
        return b.activation(a.self, "selu")
    raise Unsupported(f"scale={a.scale}, input_scale={a.input_scale}: only 1")


def _softplus(b: Builder, a: Any) -> Value:
    if a.beta != 1:
        raise Unsupported(f"beta={a.beta}: only 1")
    if a.threshold < SOFTPLUS_IS_X:
        raise Unsupported(f"threshold={a.threshold}: only {SOFTPLUS_IS_X} and more")
    return b.activation(a.self, "softplus")


def _clip(low: str, high: str) -> Reader:
    """min(max(x, low), high), the bounds by their names in the schema; "" for none."""
    def bound(a: Any, name: str, none: float) -> float:
        value = getattr(a, name) if name else None
        if isinstance(value, Value) or (isinstance(value, np.ndarray) and value.size != 1):
            raise Unsupported(f"{name} that is not one number")
        return none if value is None else float(value)

    def read(b: Builder, a: Any) -> Value:
        return b.clip(a.self, bound(a, low, -math.inf), bound(a, high, math.inf))
    return read


def _bound(side: str) -> Reader:
    """The larger, or smaller, of a value and a number, which is the bound on this side."""
    def read(b: Builder, a: Any) -> Value:
        x, bound = (a.self, a.other) if isinstance(a.self, Value) else (a.other, a.self)
        if isinstance(bound, Value) or bound.size != 1:
            raise Unsupported("only with one number")
        return b.clip(x, **{side: bound.item()})
    return read


def _relu6(b: Builder, a: Any) -> Value:
    return b.clip(a.self, 0, 6)  # which may be a part of Hardswish


def _erf(b: Builder, a: Any) -> Value:
    return b.erf(a.self)


def _prelu(b: Builder, a: Any) -> Value:
    return b.prelu(a.self, _fixed(a.weight, "weight"))


def _softmax(b: Builder, a: Any) -> Value:
    if a.dim % len(a.result) == 0:
        raise Unsupported("over the batch")
    return b.softmax(a.self)


# ---- pools ----

def _max_pool(b: Builder, a: Any) -> Value:
    return b.max_pool(a.self, a.kernel_size, a.stride or None, a.padding, a.dilation, a.ceil_mode)


def _avg_pool(b: Builder, a: Any) -> Value:
    if getattr(a, "divisor_override", None) is not None:
        raise Unsupported(f"divisor_override={a.divisor_override}")
    return b.avg_pool(a.self, a.kernel_size, a.stride or None, a.padding, a.ceil_mode, a.count_include_pad)


def _adaptive_avg_pool(b: Builder, a: Any) -> Value:
    return b.adaptive_avg_pool(a.self, a.result[2:])


def _adaptive_max_pool(b: Builder, a: Any) -> tuple[Value]:
    if any(size != 1 for size in a.output_size):
        raise Unsupported(f"output_size={a.output_size}: only 1")
    return (b.global_max_pool(a.self),)


def _mean(b: Builder, a: Any) -> Value:
    axes = getattr(a, "dim", None)
    return b.mean(a.self, range(len(a.self.shape) + 1) if axes is None else axes, getattr(a, "keepdim", False))


# ---- shapes ----

def _reshape(b: Builder, a: Any) -> Value:
    """Whatever keeps the order of a sample's elements: the trace knows the shape."""
    return b.reshape(_source(a), a.result)


def _permute(b: Builder, a: Any) -> Value:
    return b.transpose(a.self, a.dims)


def _transpose(b: Builder, a: Any) -> Value:
    axes = list(range(len(a.result)))
    axes[a.dim0], axes[a.dim1] = axes[a.dim1], axes[a.dim0]
    return b.transpose(a.self, axes)


def _movedim(b: Builder, a: Any) -> Value:
    rank = len(a.result)
    source, destination = ([axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
                           for axes in (a.source, a.destination))
    moved, rest = dict(zip(destination, source, strict=True)), (axis for axis in range(rank) if axis not in source)
    return b.transpose(a.self, [moved[axis] if axis in moved else next(rest) for axis in range(rank)])


def _cat(b: Builder, a: Any) -> Value:
    if not all(isinstance(value, Value) for value in a.tensors):
        raise Unsupported("with a constant among the values")
    return b.concat(a.tensors, a.dim)


def _stack(b: Builder, a: Any) -> Value:
    return b.concat([b.unsqueeze(x, [a.dim], part=str(i)) for i, x in enumerate(a.tensors)], a.dim)


def _pad(b: Builder, a: Any) -> Value:
    if getattr(a, "mode", "constant") != "constant":
        raise Unsupported(f"mode={a.mode!r}: only 'constant'")
    pairs = list(zip(a.pad[::2], a.pad[1::2], strict=True))[::-1]  # torch begins with the last axis
    return b.pad(a.self, [(0, 0)] * (len(a.result) - len(pairs)) + pairs, a.value or 0.0)


def _upsample(b: Builder, a: Any) -> Value:
    """PyTorch takes place i of the result from i / factor, in single precision, the factor being the one that it is
    given: not new / old where that makes no whole size."""
    x = _source(a)
    names = ("scales",) if len(x.shape) == 2 else ("scales_h", "scales_w")
    factors = getattr(a, "scale_factors", None) or [getattr(a, name, None) for name in names]
    sizes = list(zip(x.shape[1:], a.result[2:], strict=True))
    for (old, new), factor in zip(sizes, factors, strict=True):
        places = np.arange(new)
        read = places.astype(np.float32) * np.float32(1 / factor if factor else old / new)
        if new % old == 0 and (read.astype(np.int64).clip(0, old - 1) != places // (new // old)).any():
            raise Unsupported(f"nearest neighbours other than every pixel repeated, from {old} to {new} pixels"
                              + (f" by scale_factor={factor:g}" if factor else ""))
    return b.upsample(x, [new / old for old, new in sizes])


def _expand(b: Builder, a: Any) -> Value:
    return b.expand(a.self, a.result[1:])


def _slice(b: Builder, a: Any) -> Value:
    if a.dim % len(a.result) == 0:
        if a.result[0] != BATCH:
            raise Unsupported("a part of the batch")
        return a.self
    if not all(isinstance(place, int) for place in (a.start or 0, a.end or 0, a.step)):
        raise Unsupported("a part that depends on the size of the batch")
    return b.slice(a.self, a.dim, a.start or 0, a.end, a.step)


def _select(b: Builder, a: Any) -> Value:
    return b.reshape(b.slice(a.self, a.dim, a.index, a.index + 1 or None, part="slice"), a.result)


def _narrow(b: Builder, a: Any) -> Value:
    if not isinstance(a.start, int):
        raise Unsupported("start that is not one number")
    return b.slice(a.self, a.dim, a.start, a.start + a.length or None)


def _split(b: Builder, a: Any) -> list[Value]:
    """Parts of one size but for the last, or of given sizes."""
    size, own = _size_along(a), a.split_size if hasattr(a, "split_size") else a.split_sizes
    return b.split(a.self, a.dim, _even(size, own) if isinstance(own, int) else own)


def _chunk(b: Builder, a: Any) -> list[Value]:
    size = _size_along(a)
    return b.split(a.self, a.dim, _even(size, -(-size // a.chunks)))


def _size_along(a: Any) -> int:
    """Of the values along a.dim."""
    axis = a.dim % (len(a.self.shape) + 1)
    if axis == 0:
        raise Unsupported("parts of the batch")
    return int(a.self.shape[axis - 1])


def _even(size: int, each: int) -> list[int]:
    return [each] * (size // each) + [size % each] * (size % each > 0)


def _same(b: Builder, a: Any) -> Value:
    return _source(a)


def _dropout(b: Builder, a: Any) -> Value:
    return b.dropout(_source(a), a.p)


# ---- sums and products ----

def _sum(b: Builder, x: Any, y: Any, times: float) -> Value:
    """x + times · y, of which one may be constant."""
    if not isinstance(y, Value):
        return b.add_constant(x, times * np.asarray(y))
    y = y if times == 1 else b.scale(y, times=times)
    return b.add([x, y]) if isinstance(x, Value) else b.add_constant(y, x)


def _add(b: Builder, a: Any) -> Value:
    return _sum(b, a.self, a.other, a.alpha)


def _sub(b: Builder, a: Any) -> Value:
    if isinstance(a.self, Value) and isinstance(a.other, Value) and a.alpha == 1:
        return b.sub(a.self, a.other)
    return _sum(b, a.self, a.other, -a.alpha)


def _rsub(b: Builder, a: Any) -> Value:
    """other − alpha · self."""
    return _sum(b, a.other, a.self, -a.alpha)


def _neg(b: Builder, a: Any) -> Value:
    return b.scale(a.self, times=-1.0)


def _mul(b: Builder, a: Any) -> Value:
    if isinstance(a.self, Value) and isinstance(a.other, Value):
        return b.mul(a.self, a.other)
    return b.scale(a.self, times=a.other) if isinstance(a.self, Value) else b.scale(a.other, times=a.self)


def _div(b: Builder, a: Any) -> Value:
    if isinstance(a.other, Value):
        raise Unsupported("by a value that depends on the input")
    if getattr(a, "rounding_mode", None) is not None:
        raise Unsupported(f"rounding_mode={a.rounding_mode!r}")
    return b.scale(a.self, times=1 / np.asarray(a.other, np.float64))


def _first(read: Reader) -> Reader:
    """For operators that give several results, of which only the first is a value."""
    return lambda b, a: (read(b, a),)


def _source(a: Any) -> Any:
    return a.input if hasattr(a, "input") else a.self


def _fixed(value: Any, name: str) -> Any:
    """A constant; Unsupported where it depends on the input."""
    if isinstance(value, Value):
        raise Unsupported(f"{name} depends on the input")
    return value


def _spread(sizes: Sequence[int], weight: Any) -> list[int]:
    """A size for each spatial axis."""
    return list(sizes) * (weight.ndim - 2 if len(sizes) == 1 else 1)


DROPOUTS = "dropout", "feature_dropout"  # in evaluation, or where nothing is dropped, they give their input itself
READERS: dict[str, Reader] = {
    **dict.fromkeys(("conv1d", "conv2d", "convolution"), _conv),
    "linear": _linear, "addmm": _addmm, "mm": _matmul, "matmul": _matmul,
    "batch_norm": _batch_norm, "_native_batch_norm_legit_no_training": _first(_batch_norm),
    **{kind: _activation(kind) for kind in ("relu", "selu", "silu", "hardswish", "hardsigmoid", "mish",
                                            "sigmoid", "tanh", "abs")},
    "leaky_relu": _activation("leaky_relu", "negative_slope"), "gelu": _activation("gelu", "approximate"),
    "relu6": _relu6, "elu": _elu, "softplus": _softplus, "prelu": _prelu, "_prelu_kernel": _prelu,
    "hardtanh": _clip("min_val", "max_val"), "clamp": _clip("min", "max"), "clamp_min": _clip("min", ""),
    "clamp_max": _clip("", "max"), "erf": _erf, "special_erf": _erf,
    **dict.fromkeys(("maximum", "max"), _bound("low")), **dict.fromkeys(("minimum", "min"), _bound("high")),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("max_pool1d_with_indices", "max_pool2d_with_indices"), _first(_max_pool)),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive_avg_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max_pool),
    "mean": _mean,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    "permute": _permute, **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    "movedim": _movedim, "moveaxis": _movedim, "cat": _cat, "stack": _stack,
    "pad": _pad, "constant_pad_nd": _pad,
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), _upsample),
    "expand": _expand, "expand_as": _expand, "slice": _slice, "select": _select, "narrow": _narrow,
    "split": _split, "split_with_sizes": _split, "chunk": _chunk,
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "to", "_to_copy"), _same),
    **dict.fromkeys(DROPOUTS, _dropout), "native_dropout": _first(_dropout),
    "add": _add, "sub": _sub, "rsub": _rsub, "mul": _mul, "div": _div, "neg": _neg, "negative": _neg,
}
# What may have sizes made of the batch's among its arguments: the trace knows the shape that comes of them.
RESHAPING = {"view", "reshape", "_unsafe_view", "unflatten", "expand", "slice", "upsample_nearest1d",
             "upsample_nearest2d"}
