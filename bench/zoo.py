"""Image networks in plain torch: architectures and parameter names as in torchvision, weights drawn to look trained.

Each maker takes `classes` and `small`: the same architecture with few channels and blocks, for 32 × 32 inputs. Every
activation, pool and addition is a module of its own, called once: peers that hook modules then see all of them.
Inputs are (N, 3, H, W); outputs (N, classes), the U-Net's (N, classes, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Add(nn.Module):
    """a + b."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Gate(nn.Module):
    """x · gate, the gate one number a channel."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate


class Concat(nn.Module):
    """Channels side by side."""

    def forward(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, 1)


def norm_relu_conv(prefix: str, inputs: int, out: int, kernel: int) -> dict[str, nn.Module]:
    """DenseNet's order, by the names that it has there."""
    return {f"norm{prefix}": nn.BatchNorm2d(inputs), f"relu{prefix}": nn.ReLU(),
            f"conv{prefix}": nn.Conv2d(inputs, out, kernel, padding=kernel // 2, bias=False)}


def named(modules: dict[str, nn.Module]) -> nn.Sequential:
    found = nn.Sequential()
    for name, module in modules.items():
        found.add_module(name, module)
    return found


# ResNet (He et al. 2016)

class Residual(nn.Module):
    """BasicBlock and Bottleneck: convolutions (kernel, out, stride) with BatchNorm, the way round them, their sum."""

    def __init__(self, inputs: int, convolutions: Sequence[tuple[int, int, int]]):
        super().__init__()
        self.steps, channels = len(convolutions), inputs
        for i, (kernel, out, stride) in enumerate(convolutions, 1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
            self.add_module(f"relu{i}", nn.ReLU())  # torchvision's blocks share one; it has no parameters
            channels = out
        stride = math.prod(stride for *_, stride in convolutions)
        self.downsample = None if (inputs, 1) == (channels, stride) else nn.Sequential(
            nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        way = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.steps + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i == self.steps:
                x = self.add(x, way)
            x = self.get_submodule(f"relu{i}")(x)
        return x


def basic(inputs: int, channels: int, stride: int) -> tuple[Residual, int]:
    return Residual(inputs, [(3, channels, stride), (3, channels, 1)]), channels


def bottleneck(inputs: int, channels: int, stride: int) -> tuple[Residual, int]:
    return Residual(inputs, [(1, channels, 1), (3, channels, stride), (1, 4 * channels, 1)]), 4 * channels


class ResNet(nn.Module):
    def __init__(self, block: Callable[[int, int, int], tuple[Residual, int]], depths: Sequence[int], classes: int,
                 width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, self.stages = width, len(depths)
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                made, channels = block(channels, width << stage, 2 if stage and not i else 1)
                blocks.append(made)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(classes: int = 1000, small: bool = False) -> nn.Module:
    return ResNet(basic, (1, 1) if small else (2, 2, 2, 2), classes, 8 if small else 64)


def resnet50(classes: int = 1000, small: bool = False) -> nn.Module:
    return ResNet(bottleneck, (1, 2) if small else (3, 4, 6, 3), classes, 4 if small else 64)


# VGG (Simonyan and Zisserman 2015)

class VGG(nn.Module):
    def __init__(self, stages: Sequence[Sequence[int]], hidden: int, side: int, classes: int, dropout: float = 0.5):
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for stage in stages:
            for out in stage:
                modules += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
            modules.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*modules)
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg11_bn(classes: int = 1000, small: bool = False) -> nn.Module:
    if small:
        return VGG(((8,), (12,), (12, 12)), 16, 2, classes)
    return VGG(((64,), (128,), (256, 256), (512, 512), (512, 512)), 4096, 7, classes)


# DenseNet (Huang et al. 2017)

class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.concat = Concat()
        for name, module in {**norm_relu_conv("1", inputs, 4 * growth, 1),
                             **norm_relu_conv("2", 4 * growth, growth, 3)}.items():
            self.add_module(name, module)

    def forward(self, values: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(self.concat(values))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, layers: int, inputs: int, growth: int):
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(inputs + i * growth, growth))
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, layer in self.named_children():
            if name != "concat":
                values.append(layer(values))
        return self.concat(values)


class DenseNet(nn.Module):
    def __init__(self, growth: int, blocks: Sequence[int], width: int, classes: int):
        super().__init__()
        modules: dict[str, nn.Module] = {"conv0": nn.Conv2d(3, width, 7, 2, 3, bias=False),
                                         "norm0": nn.BatchNorm2d(width), "relu0": nn.ReLU(),
                                         "pool0": nn.MaxPool2d(3, 2, 1)}
        channels = width
        for i, layers in enumerate(blocks, 1):
            modules[f"denseblock{i}"] = DenseBlock(layers, channels, growth)
            channels += layers * growth
            if i < len(blocks):
                modules[f"transition{i}"] = named({**norm_relu_conv("", channels, channels // 2, 1),
                                                   "pool": nn.AvgPool2d(2)})
                channels //= 2
        self.features = named({**modules, "norm5": nn.BatchNorm2d(channels)})
        self.relu, self.avgpool = nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.relu(self.features(x))), 1))


def densenet121(classes: int = 1000, small: bool = False) -> nn.Module:
    return DenseNet(4, (2, 2), 8, classes) if small else DenseNet(32, (6, 12, 24, 16), 64, classes)


# MobileNetV2 (Sandler et al. 2018) and EfficientNet (Tan and Le 2019): inverted residuals

def divisible(channels: float) -> int:
    """The nearest multiple of 8, but no less than nine tenths."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def conv_norm(inputs: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1,
              activation: type[nn.Module] | None = nn.ReLU6) -> nn.Sequential:
    modules = [nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*modules, *([activation()] if activation else []))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, out: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        widen = [conv_norm(inputs, hidden)] if expand > 1 else []
        self.conv = nn.Sequential(*widen, conv_norm(hidden, hidden, 3, stride, hidden),
                                  *conv_norm(hidden, out, activation=None))
        self.add = Add() if (inputs, 1) == (out, stride) else None

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.add is None else self.add(x, self.conv(x))


# expansion, channels, blocks, stride of the first
MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SMALL_MOBILE = ((1, 8, 1, 1), (3, 12, 2, 2), (3, 16, 1, 1))


class MobileNetV2(nn.Module):
    def __init__(self, stages: Sequence[tuple[int, int, int, int]], first: int, last: int, classes: int):
        super().__init__()
        modules, channels = [conv_norm(3, first, 3, 2)], first
        for expand, out, blocks, stride in stages:
            for i in range(blocks):
                modules.append(InvertedResidual(channels, out, 1 if i else stride, expand))  # type: ignore[arg-type]
                channels = out
        self.features = nn.Sequential(*modules, conv_norm(channels, last))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def mobilenet_v2(classes: int = 1000, small: bool = False) -> nn.Module:
    return MobileNetV2(SMALL_MOBILE, 8, 24, classes) if small else MobileNetV2(MOBILE, 32, 1280, classes)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc1, self.activation = nn.Conv2d(channels, squeezed, 1), nn.SiLU()
        self.fc2, self.scale_activation = nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x, self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))))


class MBConv(nn.Module):
    def __init__(self, inputs: int, out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = divisible(inputs * expand)
        widen = [conv_norm(inputs, hidden, activation=nn.SiLU)] if expand > 1 else []
        self.block = nn.Sequential(*widen, conv_norm(hidden, hidden, kernel, stride, hidden, nn.SiLU),
                                   SqueezeExcitation(hidden, max(1, inputs // 4)),
                                   conv_norm(hidden, out, activation=None))
        self.add = Add() if (inputs, 1) == (out, stride) else None  # stochastic depth is nothing in evaluation

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) if self.add is None else self.add(self.block(x), x)


# expansion, channels, blocks, stride of the first, kernel
EFFICIENT = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
             (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
SMALL_EFFICIENT = ((1, 8, 1, 1, 3), (2, 8, 2, 2, 5))


class EfficientNet(nn.Module):
    def __init__(self, stages: Sequence[tuple[int, int, int, int, int]], first: int, last: int, classes: int):
        super().__init__()
        modules, channels = [conv_norm(3, first, 3, 2, activation=nn.SiLU)], first
        for expand, out, blocks, stride, kernel in stages:
            stage: list[nn.Module] = []
            for i in range(blocks):
                stage.append(MBConv(channels, out, kernel, 1 if i else stride, expand))
                channels = out
            modules.append(nn.Sequential(*stage))
        self.features = nn.Sequential(*modules, conv_norm(channels, last, activation=nn.SiLU))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def efficientnet_b0(classes: int = 1000, small: bool = False) -> nn.Module:
    return EfficientNet(SMALL_EFFICIENT, 8, 24, classes) if small else EfficientNet(EFFICIENT, 32, 1280, classes)


# SqueezeNet 1.1 (Iandola et al. 2016)

class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze, self.squeeze_activation = nn.Conv2d(inputs, squeeze, 1), nn.ReLU()
        self.expand1x1, self.expand1x1_activation = nn.Conv2d(squeeze, expand, 1), nn.ReLU()
        self.expand3x3, self.expand3x3_activation = nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU()
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return self.concat([self.expand1x1_activation(self.expand1x1(x)),
                            self.expand3x3_activation(self.expand3x3(x))])


# (squeeze, expand of each of the two), or a pool
SQUEEZE = ("pool", (16, 64), (16, 64), "pool", (32, 128), (32, 128), "pool", (48, 192), (48, 192), (64, 256), (64, 256))
SMALL_SQUEEZE = ("pool", (4, 8), (4, 8), "pool", (4, 12))


class SqueezeNet(nn.Module):
    def __init__(self, entries: Sequence[str | tuple[int, int]], first: int, classes: int):
        super().__init__()
        modules: list[nn.Module] = [nn.Conv2d(3, first, 3, 2), nn.ReLU()]
        channels = first
        for entry in entries:
            if isinstance(entry, str):
                modules.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            else:
                modules.append(Fire(channels, *entry))
                channels = 2 * entry[1]
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(channels, classes, 1), nn.ReLU(),
                                        nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet1_1(classes: int = 1000, small: bool = False) -> nn.Module:
    return SqueezeNet(SMALL_SQUEEZE if small else SQUEEZE, 8 if small else 64, classes)


# ShuffleNetV2 (Ma et al. 2018)

class Shuffle(nn.Module):
    """The channels of two halves in turns."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are worked on; with a stride all of them are, in both branches."""

    def __init__(self, inputs: int, out: int, stride: int):
        super().__init__()
        half = out // 2
        self.split = stride == 1
        own = half if self.split else inputs
        depthwise = conv_norm(own, own, 3, stride, own, None)
        self.branch1 = nn.Sequential(*[] if self.split else [*depthwise, *conv_norm(own, half, 1, 1, 1, nn.ReLU)])
        self.branch2 = nn.Sequential(*conv_norm(own, half, 1, 1, 1, nn.ReLU),
                                     *conv_norm(half, half, 3, stride, half, None),
                                     *conv_norm(half, half, 1, 1, 1, nn.ReLU))
        self.concat, self.shuffle = Concat(), Shuffle()

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return self.shuffle(self.concat([self.branch1(left), self.branch2(right)]))


class ShuffleNetV2(nn.Module):
    def __init__(self, stages: Sequence[tuple[int, int]], first: int, last: int, classes: int):
        super().__init__()
        self.conv1, self.maxpool = conv_norm(3, first, 3, 2, 1, nn.ReLU), nn.MaxPool2d(3, 2, 1)
        channels = first
        for number, (out, blocks) in enumerate(stages, 2):
            units = [ShuffleUnit(out if i else channels, out, 1 if i else 2) for i in range(blocks)]
            self.add_module(f"stage{number}", nn.Sequential(*units))
            channels = out
        self.stages = len(stages)
        self.conv5, self.avgpool = conv_norm(channels, last, 1, 1, 1, nn.ReLU), nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        for number in range(2, 2 + self.stages):
            x = self.get_submodule(f"stage{number}")(x)
        return self.fc(torch.flatten(self.avgpool(self.conv5(x)), 1))


def shufflenet_v2(classes: int = 1000, small: bool = False) -> nn.Module:
    if small:
        return ShuffleNetV2(((12, 2), (16, 2)), 8, 24, classes)
    return ShuffleNetV2(((116, 4), (232, 8), (464, 4)), 24, 1024, classes)


# U-Net (Ronneberger et al. 2015), with padding, BatchNorm and nearest upsampling

def double_conv(inputs: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                         nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    """Down by pools or, without them, by average pools; up by nearest upsampling beside the skipped values."""

    def __init__(self, channels: Sequence[int], classes: int, pool: type[nn.Module]):
        super().__init__()
        self.down = nn.ModuleList(double_conv(*pair) for pair in pairwise((3, *channels)))
        self.pool = nn.ModuleList(pool(2) for _ in channels[1:])
        self.upsample = nn.ModuleList(nn.Upsample(scale_factor=2) for _ in channels[1:])
        self.concat = nn.ModuleList(Concat() for _ in channels[1:])
        self.up = nn.ModuleList(double_conv(low + high, high) for high, low in pairwise(channels))
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for down, pool in zip(self.down, self.pool):  # noqa: B905  the deepest has no pool
            skipped.append(down(x))
            x = pool(skipped[-1])
        x = self.down[-1](x)
        for i in reversed(range(len(self.up))):
            x = self.up[i](self.concat[i]([skipped[i], self.upsample[i](x)]))
        return self.head(x)


def unet(classes: int = 21, small: bool = False, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Module:
    """Maps of `classes` values a pixel."""
    return UNet((6, 8, 8) if small else (32, 64, 128, 256, 512), classes, pool)


ZOO: dict[str, Callable[..., nn.Module]] = {
    "ResNet-18": resnet18, "ResNet-50": resnet50, "VGG-11-BN": vgg11_bn, "DenseNet-121": densenet121,
    "MobileNetV2": mobilenet_v2, "EfficientNet-B0": efficientnet_b0, "SqueezeNet 1.1": squeezenet1_1,
    "ShuffleNetV2": shufflenet_v2, "U-Net": unet}


def trained_like(model: nn.Module, seed: int = 0, size: int = 224, biases: bool = True) -> nn.Module:
    """The same module in evaluation mode, with random weights as training leaves them: BatchNorm has statistics near
    those of its input, factors about 1, some negative, and shifts; activations keep their size to the end; logits of
    different images differ.

    size: of the random images that BatchNorm's statistics come from. biases=False: all biases, BatchNorm's shifts
    and means are zero.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, deviation: float, mean: float = 0.0) -> Tensor:
        return mean + deviation * torch.randn(like.shape, generator=draw)

    def calibrate(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        mean, deviation = x.mean(1), x.std(1)
        norm.running_mean.copy_(mean + 0.1 * deviation * normal(mean, 1) if biases else 0 * mean)
        norm.running_var.copy_(deviation ** 2 * torch.exp(normal(mean, 0.1)) if biases else (x * x).mean(1))

    model.eval()
    hooks = []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(normal(module.weight, 0.3, 0.9))
                module.bias.copy_(normal(module.bias, 0.2) if biases else torch.zeros(module.num_features))
                hooks.append(module.register_forward_pre_hook(calibrate))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(normal(module.weight, math.sqrt(2 / fan_in)))
                if module.bias is not None:
                    module.bias.copy_(normal(module.bias, 0.1) if biases else torch.zeros(len(module.bias)))
        model(images(4, size, seed))
    for hook in hooks:
        hook.remove()
    return model


def images(n: int, size: int, seed: int = 1) -> Tensor:
    """Blobs and noise (N, 3, size, size), normalised as photographs are: about −2 to 2."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(n, 3, size, size)
    for cells in (4, 16, size):
        noise = torch.randn(n, 3, cells, cells, generator=draw)
        found += nn.functional.interpolate(noise, (size, size), mode="bilinear", align_corners=False)
    return found.div_(found.std()).clamp_(-2.5, 2.5)
