"""The layers, and the table by which files and builders find them."""

from .activation import (
    ELU,
    GELU,
    SELU,
    Abs,
    Clip,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from .base import Layer, ParameterLayer, WeightedLayer
from .conv import Conv2d
from .linear import Linear
from .merge import Add, Concat, Multiply
from .norm import BatchNorm
from .pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d, SumPool2d
from .reshape import (
    Dropout,
    Flatten,
    Identity,
    Pad2d,
    Reshape,
    Slice,
    ToChannelsFirst,
    ToChannelsLast,
    Transpose,
    Upsample,
)
from .scale import Format, Normalize, Scale
from .value import Input, Value

LAYERS: dict[str, type[Layer]] = {cls.__name__: cls for cls in (
    Linear, Conv2d, BatchNorm, SumPool2d, AvgPool2d, MaxPool2d, GlobalAvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d,
    ReLU, ReLU6, Clip, LeakyReLU, PReLU, ELU, SELU, GELU, SiLU, Hardswish, Hardsigmoid, Mish, Tanh, Sigmoid, Abs,
    Softplus, Flatten, Reshape, Transpose, ToChannelsFirst, ToChannelsLast, Slice, Pad2d, Upsample, Dropout, Identity,
    Scale, Format, Normalize, Add, Concat, Multiply)}

__all__ = ["LAYERS", "Input", "Layer", "ParameterLayer", "Value", "WeightedLayer", *LAYERS]
