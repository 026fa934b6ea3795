"""What every layer is: parameters, shapes, a forward pass and its vector-Jacobian product. No run state.

A layer is built once, for the shape of one sample, when a network is made. It never stores an activation:
`forward` hands back what `backward` needs, and the network's trace keeps it.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ..ops import PREPARING, real_array
from ..reference import Array
from ..shapes import Geometry, as_flag, check_elements
from .value import Value

Shape = tuple[int, ...]

DRAWN_AT_ONCE = 1 << 20  # initial weights: doubles beside the whole array would take more than all else
MOST_SHOWN = 8  # constants in a layer's repr
MOST_PACKED = 32  # forms of one layer's weights kept: rules with ever new numbers must not fill the memory


class Layer:
    """One operation of a network.

    role: what rules may do with it. "linear" and "convolution" have weights; "sum" adds its inputs up (pools, Add);
    "activation" acts elementwise; "route" moves or picks values; "scale" formats the network's input; "affine"
    scales and shifts channels; "gate" multiplies by a computed value.
    nonnegative: whether the output is never negative: "always", "as input" or "unknown".
    keeps_range: whether the output lies between the least and the greatest input.
    gates: whether output and slope are zero wherever the input is not positive, as those of a ReLU.
    """

    kind: ClassVar[str] = "layer"
    role: ClassVar[str] = "activation"
    nonnegative: str = "unknown"
    keeps_range: ClassVar[bool] = False
    gates: bool = False
    options: ClassVar[tuple[str, ...]] = ()  # constructor arguments, each kept under its own name
    constants: ClassVar[tuple[str, ...]] = ()  # those of them that are numbers or read-only arrays: see as_constants
    structural: ClassVar[tuple[str, ...]] = ()  # attributes that sizes follow from: fixed once a network is built
    layout: ClassVar[str] = "same"  # of spatial values in networks with channels first: see Graph
    merges: ClassVar[bool] = False  # whether it reads several values: x is then a tuple of arrays
    transparent: ClassVar[bool] = False  # whether outputs are the inputs themselves, at most moved
    aliases: ClassVar[bool] = False  # whether the output takes no memory of its own
    version = 0  # of the attributes, but for parameters: programs that were recorded with others are not run

    def __init__(self, name: str | None = None):
        if name is not None and not (isinstance(name, str) and name):
            raise (ValueError if name == "" else TypeError)(f"name must be a string of some length, got {name!r}")
        self.name = name or ""  # "": the network will name it
        self.in_shape: Shape = ()
        self.out_shape: Shape = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if (name in self.structural or name in self.options) and self.__dict__.get("in_shape"):
            value = self._changed(name, value)
        super().__setattr__(name, as_constants(value, name) if name in self.constants else value)
        if not name.startswith("_") and name not in ("weight", "bias"):
            self.__dict__["version"] = self.version + 1

    def _changed(self, option: str, value: Any) -> Any:
        """An option's new value in a network, as the constructor makes it, with its errors."""
        if option in self.structural:
            raise ValueError(f"{option} of layer {self.name!r} ({self!r}) cannot be changed, as shapes follow from it, "
                             f"got {value!r}: make a new layer and a new network")
        made = type(self)(**{**self.arguments(), option: value})
        made.infer(self.in_shape)
        return getattr(made, option)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for key in self.constants:
            if isinstance(value := getattr(self, key), np.ndarray):
                value.flags.writeable = False  # which copies forget

    def __call__(self, *values: Value) -> Value:
        """This layer's output for symbolic values, for `Network.from_graph`."""
        if not self.merges and len(values) != 1:
            raise ValueError(f"{self!r} must be called on one value, got {len(values)}")
        return Value(self, values)

    def build(self, in_shape: Shape) -> Shape:
        """Fix the shape of one input sample; ValueError where it does not fit."""
        if self.in_shape and self.in_shape != in_shape:
            raise ValueError(f"already built for an input of shape {self.in_shape}, got {in_shape}")
        out_shape = self.infer(in_shape)
        check_elements("output", out_shape)
        self.in_shape, self.out_shape = in_shape, out_shape
        return out_shape

    def infer(self, in_shape: Shape) -> Shape:
        """Shape of one output sample."""
        return in_shape

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        """The output of a batch, and what backward needs beyond x (or None)."""
        raise TypeError(f"{type(self).__name__} has no forward pass")

    def forward_training(self, ops: Any, x: Array, rng: np.random.Generator) -> tuple[Array, Any]:
        """The same while training; only dropout differs."""
        return self.forward(ops, x)

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        """Vector-Jacobian product: the gradient of Σ g · output in the input."""
        raise TypeError(f"{type(self).__name__} has no backward pass")

    def norm(self, ops: Any, quotients: Array, x: Any) -> Any:
        """For layers of role "sum" and "affine": x · (what they multiply it by)ᵀ · quotients, the Norm rule."""
        raise TypeError(f"{type(self).__name__} does not add its inputs up")

    def scaled(self, x: Array) -> Array:
        """For layers of role "scale": what the layer makes of values, numbers or one per channel, in any float type."""
        raise TypeError(f"{type(self).__name__} does not scale its input")

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that make this layer again."""
        return {option: getattr(self, option) for option in self.options}

    def config(self) -> dict[str, Any]:
        """The same with nested lists instead of arrays, to be compared or written down."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in self.arguments().items()}

    def astype(self, dtype: np.dtype) -> Layer:
        """A copy whose parameters have another float dtype."""
        return copy.copy(self)

    def __repr__(self) -> str:
        """The call that makes this layer, without what is as by default."""
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        shown = []
        for key, value in self.arguments().items():
            value, default = _short(value), defaults[key]
            own = isinstance(value, np.ndarray) or value != default
            if default is inspect.Parameter.empty:
                shown.append(_text(value))
            elif own and not (default is None and value == _short(getattr(self, "kernel", None))):
                shown.append(f"{key}={_text(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> Any:
    """(5, 5) as 5 and ((1, 1), (1, 1)) as 1: pairs as people write them."""
    while isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return value


def _text(value: Any) -> str:
    """A value's repr; of arrays, the numbers if they are few."""
    if isinstance(value, np.ndarray):
        return repr(value.tolist()) if value.size <= MOST_SHOWN else f"<{value.size} numbers>"
    return repr(value)


def as_constants(value: Any, name: str) -> Any:
    """A finite number, or a read-only array of such that is no one else's: from a number or a real array.

    In single precision where that holds every bit, else in double.
    """
    single = getattr(value, "dtype", None) == np.float32
    array = real_array(value, np.dtype(np.float32 if single else np.float64), name)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got {value!r}")
    if not array.ndim:
        return array.item()
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    own = narrow if single or (narrow == array).all() else array.copy()
    own.flags.writeable = False
    return own


class ParameterLayer(Layer):
    """A layer with arrays that belong to it: read-only attributes by their names, changed by assignment."""

    def __init__(self, name: str | None):
        super().__init__(name)
        self.dtype = np.dtype(np.float32)
        self._parameters: dict[str, Array] = {}
        self._packed: dict[tuple[Any, ...], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_packed": {}})
        for value in self._parameters.values():
            value.flags.writeable = False  # which copies forget

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Name to shape, for the parameters that this layer has."""
        raise NotImplementedError

    def initialise(self, rng: np.random.Generator, init: str) -> None:
        """Draw new parameters, as `Network.reset_params` says."""
        raise NotImplementedError

    def gradients(self, ops: Any, g: Array, x: Array) -> dict[str, Array]:
        """Gradients of Σ g · output in the parameters that training changes."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, Array]:
        """Name to read-only array, for those that have been assigned or drawn."""
        return dict(self._parameters)

    @property
    def trained(self) -> dict[str, Array]:
        """Those of them that training changes."""
        return self.parameters

    def check_parameter(self, key: str, value: Array) -> None:
        """ValueError where an array of the right shape is not a value that the parameter may have."""

    def _parameter(self, key: str) -> Array:
        if key not in self._parameters:
            raise ValueError(f"{type(self).__name__} has no {key} yet: "
                             + ("assign it" if self.in_shape else "its shape is known once a Network is built"))
        return self._parameters[key]

    def _assign(self, key: str, value: Any) -> None:
        if not self.in_shape:
            raise ValueError(f"{type(self).__name__} takes no {key} yet: its shape is known once a Network is built")
        own, shape = real_array(value, self.dtype, f"{self.name}.{key}"), self.parameter_shapes[key]
        if own.shape != shape:
            raise ValueError(f"{self.name}.{key} must have shape {shape}, got {own.shape}")
        self.check_parameter(key, own)
        self._store(key, own.copy() if np.may_share_memory(own, np.asarray(value)) else own)

    def take(self, key: str, value: Array) -> None:
        """Set a parameter to a new array that is no one else's and right in shape and type, as training makes them."""
        self._store(key, value)

    def _store(self, key: str, value: Array) -> None:
        """Keep an array that is no one else's, read-only; whatever was packed from the old values is dropped."""
        value.flags.writeable = False
        with PREPARING:
            self._packed = {}  # first: no one may find old products beside new parameters
            self._parameters = {**self._parameters, key: value}

    def packed(self, key: tuple[Any, ...], pack: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
        """What `pack(self, key)` made of the present parameters: made once, under a lock, shared read-only."""
        found = self._packed.get(key)
        if found is None:
            with PREPARING:
                found = self._packed.get(key)
                if found is None:
                    while len(self._packed) >= MOST_PACKED:
                        del self._packed[next(iter(self._packed))]  # the oldest
                    found = self._packed[key] = pack(self, key)
        return found

    def astype(self, dtype: np.dtype) -> Layer:
        twin = copy.copy(self)
        twin.dtype, twin._parameters = np.dtype(dtype), {}
        for key, value in self._parameters.items():
            twin._store(key, value.astype(dtype, order="C"))
        return twin


class WeightedLayer(ParameterLayer):
    """A linear layer: z = W x + b, seen by the kernels as a convolution (`geometry`, `filters`)."""

    structural: ClassVar[tuple[str, ...]] = ("out", "use_bias")
    out: int
    use_bias: bool
    geometry: Geometry

    def __init__(self, out: int, bias: bool, name: str | None):
        super().__init__(name)
        self.out, self.use_bias = out, as_flag(bias, "bias")

    @property
    def weight_shape(self) -> Shape:
        """What `weight` must have; known once a network is built."""
        return self.geometry.weight_shape

    def build(self, in_shape: Shape) -> Shape:
        out_shape = super().build(in_shape)
        check_elements("weights", self.weight_shape)
        return out_shape

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": self.weight_shape, **({"bias": (self.out,)} if self.use_bias else {})}

    @property
    def filters(self) -> Array:
        """The weights as (kh, kw, in / groups, out)."""
        return self.weight.reshape(self.geometry.weight_shape)

    @property
    def weight(self) -> Array:
        """Read-only weights; assign an array of the same shape to change them."""
        return self._parameter("weight")

    @weight.setter
    def weight(self, value: Any) -> None:
        self._assign("weight", value)

    @property
    def bias(self) -> Array | None:
        """Read-only bias (out,), None without bias; assign an array of the same shape to change it."""
        return self._parameter("bias") if self.use_bias else None

    @bias.setter
    def bias(self, value: Any) -> None:
        if not self.use_bias:
            raise ValueError(f"layer {self.name!r} was made with bias=False and has no bias to assign")
        self._assign("bias", value)

    def of_ones(self) -> WeightedLayer:
        """The layer with all weights 1 and no bias, whose outputs of a group are all the same: with one of them."""
        found, groups = copy.copy(self), self.geometry.groups
        found.__dict__.update(out=groups, use_bias=False, out_shape=(*self.out_shape[:-1], groups), _parameters={},
                              geometry=replace(self.geometry, out_channels=groups))
        found._store("weight", np.ones(found.weight_shape, self.dtype))
        return found

    def initialise(self, rng: np.random.Generator, init: str) -> None:
        """Draw new parameters: "he" (normal, variance 2 / inputs, zero bias), or "truncated_normal", as in the
        original TensorFlow project (deviation 0.1, redrawn beyond two deviations, bias 0.1).

        Source: He et al. 2015, Delving Deep into Rectifiers.
        """
        weight = np.empty(self.weight_shape, self.dtype)
        flat, deviation = weight.reshape(-1), math.sqrt(2 / math.prod(weight.shape[:-1])) if init == "he" else 0.1
        for first in range(0, flat.size, DRAWN_AT_ONCE):
            drawn = rng.standard_normal(min(DRAWN_AT_ONCE, flat.size - first))
            while init != "he" and (far := np.abs(drawn) > 2).any():
                drawn[far] = rng.standard_normal(int(far.sum()))
            flat[first:first + drawn.size] = drawn * deviation
        self._store("weight", weight)
        if self.use_bias:
            self.bias = np.full(self.out, 0.0 if init == "he" else 0.1)

    def forward(self, ops: Any, x: Array) -> tuple[Array, Any]:
        return ops.product(self, ("w",), [(x, "plain", None)], bias=self.bias), None

    def backward(self, ops: Any, g: Array, x: Array, kept: Any) -> Array:
        return ops.product_back(self, [(g, "plain", None)], [(("w",), None)])

    def gradients(self, ops: Any, g: Array, x: Array) -> dict[str, Array]:
        found = {"weight": ops.weight_gradient(self, x, g)}
        if self.use_bias:
            found["bias"] = ops.channel_sum(g)
        return found

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "bias": self.use_bias}
