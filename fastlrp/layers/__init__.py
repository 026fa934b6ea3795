"""The layers, and the table by which files and builders find them."""

from .activation import Abs, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from .base import Layer, WeightedLayer
from .conv import Conv2d
from .linear import Linear
from .pool import AvgPool2d, MaxPool2d, SumPool2d
from .reshape import Dropout, Flatten, Pad2d, Reshape
from .scale import Format, Normalize

LAYERS: dict[str, type[Layer]] = {cls.__name__: cls for cls in (
    Linear, Conv2d, SumPool2d, AvgPool2d, MaxPool2d, ReLU, LeakyReLU, Tanh, Sigmoid, Abs, Softplus,
    Flatten, Reshape, Pad2d, Dropout, Format, Normalize)}

__all__ = ["LAYERS", "Layer", "WeightedLayer", *LAYERS]
