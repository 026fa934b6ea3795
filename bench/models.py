"""The networks and composites that are measured, in fastlrp and, with the same weights, in PyTorch and zennit.

Arrays are channels last, (N, H, W, C), in fastlrp; (N, C, H, W) in PyTorch.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

import fastlrp
from fastlrp import bench, rules
from fastlrp.composites import Composite, EpsilonAlpha2Beta1Flat, EpsilonGammaBox, EpsilonPlusFlat

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def vgg16_layers(shrink: int = 1) -> list[Any]:
    """VGG-16 (Simonyan and Zisserman 2015); `shrink` divides all its channel counts."""
    layers: list[Any] = []
    for entry in VGG16:
        if isinstance(entry, str):
            layers.append(fastlrp.MaxPool2d(2))
        else:
            layers += [fastlrp.Conv2d(entry // shrink, 3, padding=1), fastlrp.ReLU()]
    return [*layers, fastlrp.Flatten(), fastlrp.Linear(4096 // shrink), fastlrp.ReLU(),
            fastlrp.Linear(4096 // shrink), fastlrp.ReLU(), fastlrp.Linear(1000 // shrink)]


def vgg16(size: int = 224, shrink: int = 1) -> fastlrp.Network:
    """With random weights, for size × size × 3 inputs."""
    return bench.drawn(vgg16_layers(shrink), (size, size, 3))


def mlp() -> fastlrp.Network:
    return bench.drawn([fastlrp.Flatten(), fastlrp.Linear(300), fastlrp.ReLU(), fastlrp.Linear(100), fastlrp.ReLU(),
                        fastlrp.Linear(10)], (28, 28, 1))


NETWORKS: dict[str, Callable[[], fastlrp.Network]] = {"LeNet": bench.lenet, "MLP": mlp}
ZOO = ("ResNet-50", "MobileNetV2")  # of zoo.py, which needs PyTorch


@lru_cache(maxsize=1)  # VGG-16's rows follow each other, and its weights take seconds to draw
def network(name: str, size: int = 224) -> fastlrp.Network:
    """A network by name; `size` is that of VGG-16's input."""
    return vgg16(size) if name == "VGG-16" else NETWORKS[name]()


def title(name: str, size: int) -> str:
    """A network's name in tables: one for smaller photographs is something else."""
    return f"{name} at {size}" if name not in NETWORKS and size != 224 else name


# By name, from the bound of the pixels' absolute values.
COMPOSITES: dict[str, Callable[[float], Composite]] = {
    "zB + α1β0": bench.deep_taylor,
    "EpsilonPlusFlat": lambda bound: EpsilonPlusFlat(),
    "EpsilonGammaBox": lambda bound: EpsilonGammaBox(-bound, bound),
    "EpsilonAlpha2Beta1Flat": lambda bound: EpsilonAlpha2Beta1Flat(),
}


def bound(net: fastlrp.Network) -> float:
    """No pixel of `images` lies beyond: ±1 for digits, ±3 standard deviations for normalised photographs."""
    return 3.0 if net.input_shape[-1] == 3 else 1.0


def images(n: int, net: fastlrp.Network) -> np.ndarray:
    """Seeded inputs; the first of them do not depend on n. Photographs' pixels are normal, digits' uniform."""
    rng, limit = np.random.default_rng(0), bound(net)
    if net.input_shape[-1] == 3:
        return rng.standard_normal((n, *net.input_shape), np.float32).clip(-limit, limit)
    return rng.uniform(-limit, limit, (n, *net.input_shape)).astype(np.float32)


def flops(net: fastlrp.Network) -> float:
    """Operations of one sample's forward pass: two for each multiply-add."""
    return sum(bench.flops(layer) for layer in net.weighted)


def explanation_flops(net: fastlrp.Network, composite: Composite) -> float:
    """The same of an explanation: for each layer, the fewest products that its rule needs, the forward pass's too."""
    total, resolved = 0.0, composite.resolve(net)
    for layer, rule in zip(net.layers, resolved, strict=True):
        if not isinstance(layer, fastlrp.layers.WeightedLayer):
            continue
        needed = 3  # forward, the denominators' sum, back; ZBox has z, but goes back by W⁺ and by W⁻
        if isinstance(rule, (rules.Epsilon, rules.Flat)):
            needed = 2  # the forward pass has the sums, or they do not depend on the input
        elif isinstance(rule, rules.AlphaBeta) and rule.beta:
            needed = 4  # forward, one of the two sums, back from both
        total += needed * bench.flops(layer)
    return total


def channels_first(x: np.ndarray) -> Any:
    """A batch as PyTorch's (N, C, H, W)."""
    import torch
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def torch_twin(net: fastlrp.Network) -> Any:
    """The same network in PyTorch (NCHW), with the same weights."""
    import torch
    from torch.nn.utils import skip_init
    modules: list[Any] = []
    shape = net.input_shape
    order = None  # of the rows of a dense layer that follows Flatten: (H, W, C) here, (C, H, W) there
    for layer in net.layers:
        kind = type(layer).__name__
        if kind == "Conv2d":
            module: Any = skip_init(torch.nn.Conv2d, shape[2], layer.out, layer.kernel, layer.stride,
                                    layer.padding[0][0])
            set_parameters(module, layer.weight.transpose(3, 2, 0, 1), layer.bias)
        elif kind == "Linear":
            module = skip_init(torch.nn.Linear, shape[0], layer.out)
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


def import_zennit() -> Any:
    """zennit.composites. zennit imports torchvision for the names of two classes: stand-ins have them meanwhile."""
    stand_in = types.ModuleType("torchvision.models.resnet")
    stand_in.BasicBlock = stand_in.Bottleneck = type("Block", (), {})  # type: ignore[attr-defined]
    absent = [name for name in ("torchvision", "torchvision.models", stand_in.__name__) if name not in sys.modules]
    for name in absent:
        sys.modules[name] = stand_in if name == stand_in.__name__ else types.ModuleType(name)
    try:
        from zennit import composites
    finally:
        for name in absent:
            del sys.modules[name]
    return composites


def zennit_composite(name: str, limit: Any) -> Any:
    """zennit's form of COMPOSITES[name], for inputs between −limit and limit, a tensor of a sample's shape."""
    composites = import_zennit()
    if name == "EpsilonGammaBox":
        return composites.EpsilonGammaBox(low=-limit, high=limit)
    if name != "zB + α1β0":
        return getattr(composites, name)()
    from zennit.rules import Norm, Pass, ZBox, ZPlus
    from zennit.types import Activation, AvgPool, Linear
    return composites.SpecialFirstLayerMapComposite(  # ZPlus is zennit's fastest form of α1β0
        layer_map=[(Activation, Pass()), (AvgPool, Norm()), (Linear, ZPlus())],
        first_map=[(Linear, ZBox(low=-limit, high=limit))])


def zennit_explainer(module: Any, net: fastlrp.Network, name: str) -> Callable[[Any], Any]:
    """zennit's run of COMPOSITES[name] on the twin of `net`: hooks registered once, parameters frozen.

    Takes and gives (N, C, H, W) tensors; the class explained is the predicted one.
    """
    import torch
    module = module.requires_grad_(False)
    height, width, channels = net.input_shape
    limit = torch.full((1, channels, height, width), bound(net))
    if isinstance(module[0], torch.nn.Flatten):
        limit = limit.flatten(1)
    zennit_composite(name, limit).register(module)

    def run(x: Any) -> Any:
        x = x.detach().requires_grad_(True)
        out = module(x)
        best = out.detach().argmax(1, keepdim=True)
        start = torch.zeros_like(out).scatter_(1, best, out.detach().gather(1, best))
        return torch.autograd.grad(out, x, start)[0]
    return run
