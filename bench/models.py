"""The networks that are measured, in fastlrp and, with the same weights, in PyTorch for its own runs and zennit's."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

import fastlrp
from fastlrp.composites import Uniform
from fastlrp.rules import AlphaBeta, ZBox

NETWORKS: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...]]] = {
    "LeNet": (lambda: [fastlrp.Conv2d(10, 5), fastlrp.ReLU(), fastlrp.AvgPool2d(2),
                       fastlrp.Conv2d(25, 5), fastlrp.ReLU(), fastlrp.AvgPool2d(2),
                       fastlrp.Conv2d(100, 4), fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(10)], (28, 28, 1)),
    "MLP": (lambda: [fastlrp.Flatten(), fastlrp.Linear(300), fastlrp.ReLU(), fastlrp.Linear(100), fastlrp.ReLU(),
                     fastlrp.Linear(10)], (28, 28, 1)),
}

# zB for inputs in [-1, 1] in the first layer, α1β0 above. zennit's ZPlus is its fastest form of α1β0.
COMPOSITE = Uniform(AlphaBeta(1.0, 0.0), first=ZBox(-1.0, 1.0))


def network(name: str) -> fastlrp.Network:
    layers, shape = NETWORKS[name]
    return fastlrp.Network(layers(), shape, seed=1)


def images(n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)


def flops(net: fastlrp.Network) -> float:
    """Floating-point operations of one sample's forward pass: two per multiply-add."""
    return sum(2.0 * np.prod(layer.out_shape) * np.prod(layer.filters.shape[:3]) for layer in net.weighted)


def torch_twin(net: fastlrp.Network) -> Any:
    """The same network in PyTorch (NCHW), with the same weights."""
    import torch
    modules: list[Any] = []
    shape = net.input_shape
    order = None  # of the rows of a dense layer that follows Flatten: (H, W, C) here, (C, H, W) there
    for layer in net.layers:
        kind = type(layer).__name__
        if kind == "Conv2d":
            module: Any = torch.nn.Conv2d(shape[2], layer.out, layer.kernel, layer.stride, layer.padding[0][0])
            set_parameters(module, layer.weight.transpose(3, 2, 0, 1), layer.bias)
        elif kind == "Linear":
            module = torch.nn.Linear(shape[0], layer.out)
            set_parameters(module, (layer.weight if order is None else layer.weight[order]).T, layer.bias)
            order = None
        elif kind == "Flatten":
            module = torch.nn.Flatten()
            order = np.arange(np.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
        elif kind in ("AvgPool2d", "MaxPool2d"):
            module = getattr(torch.nn, kind)(layer.kernel, layer.stride)
        else:
            module = torch.nn.ReLU()
        modules.append(module)
        shape = layer.out_shape
    return torch.nn.Sequential(*modules)


def set_parameters(module: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    import torch
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(bias.copy()))


def zennit_explainer(module: Any, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """zennit's run of COMPOSITE: hooks registered once, parameters frozen. Takes and gives (N, C, H, W) tensors."""
    import torch
    stand_in = types.ModuleType("torchvision.models.resnet")
    stand_in.BasicBlock = stand_in.Bottleneck = type("Block", (), {})  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules.setdefault("torchvision.models.resnet", stand_in)
    from zennit.composites import SpecialFirstLayerMapComposite
    from zennit.rules import Norm, Pass, ZPlus
    from zennit.rules import ZBox as ZennitBox
    from zennit.types import Activation, AvgPool
    from zennit.types import Linear as AnyLinear

    module = module.requires_grad_(False)
    channels, height, width = shape[2], shape[0], shape[1]
    bound = torch.ones(1, channels, height, width)
    if isinstance(module[0], torch.nn.Flatten):
        bound = bound.flatten(1)
    SpecialFirstLayerMapComposite(
        layer_map=[(Activation, Pass()), (AvgPool, Norm()), (AnyLinear, ZPlus())],
        first_map=[(AnyLinear, ZennitBox(low=-bound, high=bound))]).register(module)

    def run(x: Any) -> Any:
        x = x.detach().requires_grad_(True)
        out = module(x)
        best = out.detach().argmax(1, keepdim=True)
        start = torch.zeros_like(out).scatter_(1, best, out.detach().gather(1, best))
        return torch.autograd.grad(out, x, start)[0]
    return run
