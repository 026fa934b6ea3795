"""Networks imported from PyTorch: the same function, names and layouts, and a module that stays as it was."""

from __future__ import annotations

import contextlib
import copy
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastlrp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

sys.path.insert(0, str(Path(fastlrp.__file__).parent.parent / "bench"))
import zoo  # noqa: E402

SMALL = 1e-5  # relative to the largest output


class Calls(nn.Module):
    """A function as a module, with the parameters it wants."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]):
        super().__init__()
        self.function = function
        self.own = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self.own)


def in_evaluation(module: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics, factors and shifts of BatchNorm that are not 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for array, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2), (part.weight, -1, 2),
                                     (part.bias, -1, 1)):
                if array is not None:
                    array.data.uniform_(low, high, generator=draw)
    return module.eval()


def draw(shape: tuple[int, ...], n: int = 3, seed: int = 0) -> Any:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))


def error(net: fastlrp.Network, module: nn.Module, *inputs: Any) -> float:
    """The largest difference of outputs, over the largest output."""
    with torch.no_grad():
        expected = module(*(x.clone() for x in inputs)).numpy()  # which a module may change
    found = net.forward(inputs[0].numpy() if len(inputs) == 1 else [x.numpy() for x in inputs])
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


IMAGE, LINE, ROW = (4, 7, 6), (4, 9), (10,)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(10, 3), ROW),
    "Linear without bias": (lambda: nn.Linear(10, 3, bias=False), ROW),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), IMAGE),
    "Conv2d with all options": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), 2, bias=False), IMAGE),
    "Conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), IMAGE),
    "Conv2d same": (lambda: nn.Conv2d(4, 6, (3, 4), padding="same"), IMAGE),
    "Conv2d valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid", dilation=2), IMAGE),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1), LINE),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, eps=0.1), IMAGE),
    "BatchNorm2d without parameters": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(10), ROW),
    "BatchNorm1d of (N, C, L)": (lambda: nn.BatchNorm1d(4), LINE),
    **{kind: (getattr(nn, kind), IMAGE) for kind in (
        "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "GELU", "SiLU", "Hardswish", "Hardsigmoid", "Hardtanh",
        "Mish", "Sigmoid", "Tanh", "Softplus", "Identity")},
    "LeakyReLU(0.3)": (lambda: nn.LeakyReLU(0.3), ROW),
    "PReLU per channel": (lambda: nn.PReLU(4), IMAGE),
    "ELU(0.7)": (lambda: nn.ELU(0.7), ROW),
    "GELU by tanh": (lambda: nn.GELU("tanh"), ROW),
    "Softplus(threshold=17)": (lambda: nn.Sequential(Calls(lambda x: 12 + 10 * x), nn.Softplus(threshold=17)), IMAGE),
    "Hardtanh(-0.5, 2)": (lambda: nn.Hardtanh(-0.5, 2), ROW),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), IMAGE),
    "MaxPool2d with all options": (lambda: nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True), IMAGE),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2), LINE),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "AvgPool2d of data only": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True), IMAGE),
    "AvgPool1d": (lambda: nn.AvgPool1d(3), LINE),
    "AdaptiveAvgPool2d(1)": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "AdaptiveAvgPool2d(3, None)": (lambda: nn.AdaptiveAvgPool2d((3, None)), IMAGE),
    "AdaptiveAvgPool1d(1)": (lambda: nn.AdaptiveAvgPool1d(1), LINE),
    "AdaptiveMaxPool2d(1)": (lambda: nn.AdaptiveMaxPool2d(1), IMAGE),
    "Upsample": (lambda: nn.Upsample(scale_factor=(2, 3)), IMAGE),
    "Upsample to a size": (lambda: nn.Upsample((14, 18)), IMAGE),
    "Upsample by a factor that makes 3": (lambda: nn.Upsample(scale_factor=3.2, recompute_scale_factor=True), (2, 4)),
    "Upsample of one pixel by 3.2": (lambda: nn.Upsample(scale_factor=3.2), (2, 1)),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), IMAGE),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 0.5), IMAGE),
    "Flatten": (nn.Flatten, IMAGE),
    "Flatten and Unflatten": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(168, 12), nn.Unflatten(1, (3, 2, 2)),
                                                    nn.Conv2d(3, 2, 2)), IMAGE),
    "Dropout": (nn.Dropout, ROW),
    "Dropout1d": (nn.Dropout1d, LINE),
    "Dropout2d": (nn.Dropout2d, IMAGE),
    **{f"{kind} in place": (lambda kind=kind: getattr(nn, kind)(inplace=True), LINE if kind == "Dropout1d" else IMAGE)
       for kind in ("ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "SiLU", "Hardswish", "Hardsigmoid", "Hardtanh", "Mish",
                    "Dropout", "Dropout1d", "Dropout2d")},
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "F.relu": (F.relu, IMAGE, ()),
    "F.relu in place, then read": (lambda x: (F.relu(y := x * 2.0, inplace=True), y)[1], IMAGE, ()),
    "x.relu_() of a view": (lambda x: ((y := x * 2.0).flatten(1).relu_(), y)[1], IMAGE, ()),
    "x += y": (lambda x: torch.relu(x).add_(x), IMAGE, ()),
    "torch.flatten": (lambda x: torch.flatten(x, 1), IMAGE, ()),
    "x.flatten(2)": (lambda x: x.flatten(2), IMAGE, ()),
    "x.view(x.size(0), -1)": (lambda x: x.view(x.size(0), -1), IMAGE, ()),
    "x.reshape(-1, C, H * W)": (lambda x: x.reshape(-1, x.shape[1], x.shape[2] * x.shape[3]), IMAGE, ()),
    "x.mean([2, 3])": (lambda x: x.mean([2, 3]), IMAGE, ()),
    "x.mean((-2, -1), keepdim=True)": (lambda x: x.mean((-2, -1), keepdim=True), IMAGE, ()),
    "F.adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (1, 1))[:, :, 0, 0], IMAGE, ()),
    "squeeze": (lambda x: F.avg_pool2d(x, x.shape[2:]).squeeze(3).squeeze(2), IMAGE, ()),
    "unsqueeze": (lambda x: x[:, :, None], LINE, ()),
    "permute": (lambda x: x.permute(0, 2, 3, 1), IMAGE, ()),
    "transpose": (lambda x: x.transpose(1, 2).contiguous(), LINE, ()),
    "x.movedim": (lambda x: x.movedim(1, -1), IMAGE, ()),
    "x.moveaxis": (lambda x: x.moveaxis((1, -1), (2, 1)), IMAGE, ()),
    "x.swapdims": (lambda x: x.swapdims(1, 2), LINE, ()),
    "torch.stack": (lambda x: torch.stack([x, x.tanh()], 2).flatten(1, 2), IMAGE, ()),
    "torch.stack of rows": (lambda x: torch.stack([x, x.tanh(), x], -1).mean(2), ROW, ()),
    "torch.cat": (lambda x: torch.cat([x, F.relu(x)], 1), IMAGE, ()),
    "torch.cat along rows": (lambda x: torch.cat([x, F.relu(x), x], dim=-2), IMAGE, ()),
    "+": (lambda x: x + torch.tanh(x), IMAGE, ()),
    "torch.add with alpha": (lambda x: torch.add(x, torch.tanh(x), alpha=0.5), IMAGE, ()),
    "-": (lambda x: x - torch.sigmoid(x), IMAGE, ()),
    "-x": (lambda x: -x, IMAGE, ()),
    "x.neg_()": (lambda x: (x * 2.0).neg_().negative(), ROW, ()),
    "constants": (lambda x: 3 - (2 * x + 1) / 4 - 0.5, IMAGE, ()),
    "buffers": (lambda x, mean, scale: (x - mean) / scale.abs(), IMAGE, ((1, 4, 1, 1), (4, 1, 1))),
    "a parameter added": (lambda x, w, b: F.linear(x, w) + b, ROW, ((3, 10), (3,))),
    "computed weights": (lambda x, w: F.linear(x, w / w.norm()), ROW, ((3, 10),)),
    "torch.addmm": (lambda x, b, w: torch.addmm(b, x, w), ROW, ((3,), (10, 3))),
    "x @ w": (lambda x, w: x @ w, ROW, ((10, 3),)),
    "a gate": (lambda x: x * torch.sigmoid(x.mean([2, 3], keepdim=True)), IMAGE, ()),
    "a gate expanded": (lambda x: x * F.hardsigmoid(x.mean([2, 3], keepdim=True)).expand_as(x), IMAGE, ()),
    "a mean expanded": (lambda x: x * x.mean([2, 3], keepdim=True).expand_as(x), IMAGE, ()),
    "expanded and added": (lambda x: x + x.mean([2, 3], keepdim=True).expand_as(x), IMAGE, ()),
    "expanded, then a number": (lambda x: x.mean([2, 3], keepdim=True).expand_as(x) + 1, IMAGE, ()),
    "expanded twice": (lambda x: (y := torch.sigmoid(x.mean([2, 3], keepdim=True)).expand_as(x)) - y * 3, IMAGE, ()),
    "expanded and joined": (lambda x: torch.cat([x, x.mean([2, 3], keepdim=True).expand_as(x)], 1), IMAGE, ()),
    "expanded rows": (lambda x: x[:, :, None].expand(-1, -1, 4) + 1, ROW, ()),
    "expanded as it is": (lambda x: x.expand(-1, -1, 7, 6), IMAGE, ()),
    "x * sigmoid(x)": (lambda x: x * torch.sigmoid(x), IMAGE, ()),
    "hardswish by hand": (lambda x: x * F.relu6(x + 3) / 6, IMAGE, ()),
    "clamp": (lambda x: x.clamp(-0.5, 0.7).clamp(min=0), IMAGE, ()),
    "maximum": (lambda x: torch.max(torch.maximum(x, torch.tensor(-0.5)), torch.zeros(1)), IMAGE, ()),
    "minimum": (lambda x: torch.min(torch.minimum(x, torch.tensor(0.5)), torch.zeros(1)), ROW, ()),
    "maximum of a parameter": (lambda x, low: torch.maximum(low, x), IMAGE, ((1, 1, 1),)),
    "GELU by erf": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), IMAGE, ()),
    "GELU by erf, otherwise": (lambda x: x * ((torch.special.erf(x * 0.5**0.5) + 1) / 2), ROW, ()),
    "F.interpolate": (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), IMAGE, ()),
    "F.pad": (lambda x: F.pad(x, (1, 0, 2, 1)), IMAGE, ()),
    "a slice of everything": (lambda x: x[:, :4, 0:], IMAGE, ()),
    "a slice": (lambda x: x[:, 1:3], IMAGE, ()),
    "slices in steps": (lambda x: x[:, :, ::2, 1:], IMAGE, ()),
    "slices from the end": (lambda x: x[..., -3:-1], IMAGE, ()),
    "a slice of features": (lambda x: x[:, 2:9:3], ROW, ()),
    "a slice of lengths": (lambda x: x[:, -2:, ::4], LINE, ()),
    "a slice of all samples": (lambda x: x[:x.shape[0], 1:], ROW, ()),
    "a channel": (lambda x: x[:, 1], IMAGE, ()),
    "the last row": (lambda x: x[:, :, -1], IMAGE, ()),
    "x.select": (lambda x: x.select(-1, 3), LINE, ()),
    "x.narrow": (lambda x: x.narrow(2, 1, 3).narrow(-1, -2, 2), IMAGE, ()),
    "x.chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), IMAGE, ()),
    "x.chunk unevenly": (lambda x: torch.cat(x.chunk(3, 2)[::-1], 2), IMAGE, ()),
    "x.chunk into fewer": (lambda x: torch.cat(x.chunk(4, 3)[::-1], 3), IMAGE, ()),
    "x.split": (lambda x: torch.cat([2 * part for part in x.split(3, -1)][::-1], -1), LINE, ()),
    "x.split by sizes": (lambda x: x.split([1, 6, 3], 1)[1], ROW, ()),
    "x.split, then in place": (lambda x: (x * 2.0).split(2, 1)[1].relu_(), IMAGE, ()),
    "channels shuffled": (lambda x: x.view(-1, 2, 2, 7, 6).transpose(1, 2).reshape(-1, 4, 7, 6), IMAGE, ()),
    "halves in turns": (lambda x: torch.cat([y[:, :, None] for y in x.chunk(2, 1)], 2).flatten(1, 2), IMAGE, ()),
    "what nobody reads": (lambda x: (torch.fft.fft(x), x.relu())[1], IMAGE, ()),
    "ReLU as clamp_min": (lambda x: torch.clamp_min(x, 0.0), IMAGE, ()),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_same_function(name: str) -> None:
    """At the end and, so that layouts are right, between two convolutions where it keeps images."""
    make, shape = MODULES[name]
    module, x = in_evaluation(make()), draw(shape)
    net = fastlrp.from_torch(module, x)
    assert error(net, module, x) <= SMALL
    assert net.input_shape == shape


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_calls_are_the_same_function(name: str) -> None:
    """Of a convolution's or dense layer's output."""
    function, shape, own = FUNCTIONS[name]
    first = {1: nn.Identity, 2: lambda: nn.Conv1d(4, 4, 1), 3: lambda: nn.Conv2d(4, 4, 1)}[len(shape)]()
    module, x = nn.Sequential(first, Calls(function, *own)).eval(), draw(shape)
    assert error(fastlrp.from_torch(module, x), module, x) <= SMALL


@pytest.mark.parametrize("name", zoo.ZOO)
def test_architectures_are_the_same_function(name: str) -> None:
    """And what is explained has the input's layout."""
    module, x = zoo.trained_like(zoo.ZOO[name](classes=5, small=True), size=32), zoo.images(3, 32)
    net = fastlrp.from_torch(module, x[:1])
    assert error(net, module, x) <= SMALL
    start = {} if len(net.output_shape) == 1 else {"start": np.ones((3, *net.output_shape), np.float32)}
    found = net.explain(x.numpy(), layers=True, **start)
    assert found.relevance.shape == tuple(x.shape)
    weighted = {path for path, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    assert weighted <= found.layers.keys()


def test_checks_of_values_are_no_part_of_the_network() -> None:
    """torch.export then reads the code instead of running it; names are as ever."""
    scope: dict[str, Any] = {}
    exec("def checked(x):\n    assert x.min() >= -100\n    return x + 1", scope)  # pytest rewrites its own modules'
    module, x = nn.Sequential(nn.Sequential(nn.Linear(10, 4), nn.ReLU()), Calls(scope["checked"])).eval(), draw(ROW)
    net = fastlrp.from_torch(module, x)
    assert error(net, module, x) <= SMALL
    assert [node.name for node in net.nodes] == ["0.0", "0.1", "add"]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_batch_stays_free(n: int) -> None:
    """Whatever the example's is, and the layers' relevance is (N, C, H, W)."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 2 * 3, 5))
    net = fastlrp.from_torch(module, draw((3, 6, 8), n))
    for samples in (1, 2, 5):
        x = draw((3, 6, 8), samples)
        assert error(net, module, x) <= SMALL
    layers = net.explain(x.numpy(), layers=True).layers
    assert [layers[name].shape for name in "0124"] == [(5, 4, 4, 6), (5, 4, 4, 6), (5, 4, 2, 3), (5, 5)]


def test_names_are_paths_and_operators() -> None:
    """Functional calls are counted as torch counts them."""
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return F.relu(self.act(self.bn(self.conv(x))) + x) + x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Block(), Block())
            self.head = nn.Linear(3, 2)

        def forward(self, image: Any) -> Any:
            return self.head(F.relu(self.body(image)).mean([2, 3]))

    net = fastlrp.from_torch(Net().eval(), draw((3, 4, 4)))
    assert net.input_names == ["image"]
    assert [node.name for node in net.nodes] == [
        "body.0.conv", "body.0.bn", "body.0.act", "add", "relu", "add_1",
        "body.1.conv", "body.1.bn", "body.1.act", "add_2", "relu_1", "add_3",
        "relu_2", "mean", "mean.squeeze", "head"]


def test_shared_modules_are_shared_layers() -> None:
    """On inputs of one shape; on inputs of another, a layer with the same weights."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x: Any) -> Any:
            x = self.relu(self.conv(self.relu(self.conv(x))))
            return self.conv(F.max_pool2d(x, 2))

    module, x = Net().eval(), draw((3, 6, 6))
    net = fastlrp.from_torch(module, x)
    assert [node.name for node in net.nodes] == ["conv", "relu", "conv:2", "relu_2", "max_pool2d", "conv_2"]
    assert net.nodes[0].layer is net.nodes[2].layer is not net.nodes[5].layer
    assert error(net, module, x) <= SMALL


def test_several_inputs_and_outputs() -> None:
    """By the names of forward's arguments; lists in, lists out."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.row = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

        def forward(self, picture: Any, facts: Any) -> Any:
            a, b = self.image(picture).mean([2, 3]), self.row(facts)
            return {"sum": a + b, "others": [torch.cat([a, b], 1)]}

    module, inputs = Net().eval(), (draw((3, 6, 6)), draw((5,)))
    net = fastlrp.from_torch(module, inputs)
    assert net.input_names == ["picture", "facts"]
    found = net.forward([x.numpy() for x in inputs])
    with torch.no_grad():
        expected = module(*inputs)
    for ours, theirs in zip(found, (expected["sum"], expected["others"][0]), strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= SMALL * np.abs(theirs.numpy()).max()


def test_a_softmax_at_the_end_is_left_out() -> None:
    """With one warning."""
    module, x = nn.Sequential(nn.Linear(10, 4), nn.Softmax(dim=1)), draw(ROW)
    with pytest.warns(UserWarning, match="outputs are logits"):
        net = fastlrp.from_torch(module, x)
    assert error(net, module[0], x) <= SMALL


def state(module: nn.Module) -> list[Any]:
    """What an import must not change."""
    return [(name, part.training, dict(part._forward_hooks), dict(part._forward_pre_hooks), sorted(vars(part)))
            for name, part in module.named_modules()] + [
        (name, id(value), value.data_ptr(), value.requires_grad, value.grad, value.clone())
        for name, value in (*module.named_parameters(), *module.named_buffers())]


def test_it_is_the_module_in_evaluation() -> None:
    """Whatever mode it is in."""
    module = in_evaluation(nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)))
    x = draw(ROW)
    assert error(fastlrp.from_torch(module.train(), x), module.eval(), x) <= SMALL


@pytest.mark.parametrize("make", [
    lambda: zoo.resnet18(classes=3, small=True),
    lambda: nn.Sequential(nn.Conv2d(3, 2, 3), Calls(lambda x: torch.fft.fft(x))),  # unsupported
    lambda: Calls(lambda x: x if x.sum() > 0 else -x),  # cannot be traced
    lambda: Calls(lambda x, k: x * k.add_(1), (1,)),
    lambda: Calls(lambda x, k: x * k.view(1).mul_(2) * k, (1,)),
    lambda: Calls(lambda x, k: (k.copy_(x.mean()), x * k)[1], (1,)),
], ids=["supported", "unsupported", "untraceable", "changed", "changed as another view", "changed by the input"])
def test_the_module_stays_as_it_was(make: Callable[[], nn.Module]) -> None:
    """Modes of its parts, hooks, parameters and statistics, whether it can be imported or not."""
    module = make().train()
    next(module.children(), module).eval()
    module.register_forward_hook(lambda *_: None)
    before, gradients = state(module), torch.is_grad_enabled()
    with contextlib.suppress(fastlrp.UnsupportedError):
        fastlrp.from_torch(module, draw((3, 32, 32)))
    after = state(module)
    assert torch.is_grad_enabled() == gradients
    assert all(all(torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v for u, v in zip(a, b, strict=True))
               for a, b in zip(before, after, strict=True))


def test_state_that_forward_changes() -> None:
    """Has the values that the first call gives it; tied weights stay tied."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight, self.second.bias = self.first.weight, self.first.bias
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            self.calls.add_(1)
            return self.second(self.first(x)) * self.calls

    module, x = Net().eval(), draw((5,))
    net = fastlrp.from_torch(module, x)
    assert float(module.calls) == 0
    assert len(net.weighted) == 1
    assert error(net, module, x) <= SMALL


def test_weights_are_copies() -> None:
    """Training one changes nothing in the other."""
    module, x = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), draw((1, 2, 3))
    net = fastlrp.from_torch(module, x)
    before = net.forward(x.numpy())
    with torch.no_grad():
        module[1].weight.add_(1.0)
        module[1].bias.zero_()
    assert np.array_equal(net.forward(x.numpy()), before)
    net.layers[-1].weight = np.zeros((6, 3))
    assert module[1].weight.abs().sum() > 1


def test_imported_networks_train_save_and_load(tmp_path: Path) -> None:
    """Like any other; the layout stays."""
    module = in_evaluation(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
                                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.25), nn.Linear(6, 3)))
    net, x = fastlrp.from_torch(module, draw((3, 6, 6))), draw((3, 6, 6), 20).numpy()
    before = net.forward(x)
    net.fit(x, np.arange(20) % 3, epochs=1, batch_size=10, progress=False)
    assert not np.allclose(net.forward(x), before)
    assert error(fastlrp.from_torch(module, draw((3, 6, 6))), module, torch.from_numpy(x)) <= SMALL
    net.save(tmp_path / "net.npz")
    loaded = fastlrp.load(tmp_path / "net.npz")
    assert loaded.input_shape == (3, 6, 6)
    assert np.array_equal(loaded.explain(x).relevance, net.explain(x).relevance)
    assert [node.name for node in loaded.nodes] == [node.name for node in net.nodes]


CHANGED = Calls(lambda x: ((y := x * 2.0).view(-1, 5, 2).relu_(), y)[1])  # read after a change in place


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), CHANGED], ids=["as it is", "taken apart"])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_keeps_its_rate(first: nn.Module, inplace: bool) -> None:
    """For training; also where torch has to take apart what happens in place."""
    net = fastlrp.from_torch(nn.Sequential(first, nn.Dropout(0.25, inplace), nn.Linear(10, 3)), draw(ROW))
    assert [layer.rate for layer in net.layers if isinstance(layer, fastlrp.Dropout)] == [0.25]


@pytest.mark.parametrize(("call", "rates"), [
    (lambda x: F.dropout(F.dropout(x, 0.1, False).relu_(), 0.2, False), [0.1, 0.2]),
    (lambda x: F.dropout(x.sigmoid(), 0.1, False, inplace=True).add_(1), [0.1]),
    (lambda x: (y := x * 2.0) + F.dropout(y.view(-1, 5, 2), 0.1, False).flatten(1), [0.1]),
    (lambda x: ((y := x * 2.0), F.dropout(y.view(-1, 5, 2), 0.1, False).tanh_())[0], []),  # a copy would not change y
    (lambda x: ((y := x * 2.0), F.dropout(y.view(-1, 5, 2), 0.1, False).flatten(1) * 2.0)[1].add_(y), [0.1]),
    (lambda x: F.dropout(y := x * 2.0, 0.1, False, inplace=True) + y, [0.1]),
], ids=["two", "in place", "a sum", "whose input is read after a change", "whose input is added in place",
        "in place, with its input read"])
def test_dropout_where_torch_replaces_what_happens_in_place(call: Callable[..., Any], rates: list[float]) -> None:
    module = nn.Sequential(CHANGED, Calls(call))
    x = draw(ROW)
    net = fastlrp.from_torch(module, x)
    assert error(net, module, x) <= SMALL
    dropouts = [node for node in net.nodes if isinstance(node.layer, fastlrp.Dropout)]
    assert [node.layer.rate for node in dropouts] == rates
    assert [node.name for node in dropouts] == ["dropout", "dropout_1"][:len(rates)]


@pytest.mark.parametrize("name", ["ShuffleNetV2"])
def test_relevance_where_channels_are_split_and_shuffled(name: str, tmp_path: Path) -> None:
    """LRP-0 is PyTorch's gradient times the input; without biases all relevance arrives; as saved and loaded."""
    for biases in (True, False):
        module, x = zoo.trained_like(zoo.ZOO[name](classes=5, small=True), size=32, biases=biases), zoo.images(2, 32)
        fastlrp.from_torch(module, x).save(tmp_path / "net.npz")
        net = fastlrp.load(tmp_path / "net.npz")
        assert {"Slice", "Concat", "Transpose"} <= {type(layer).__name__ for layer in net.layers}
        module, x = module.double(), x.double().requires_grad_()
        logits = module(x)[:, 1]
        slope, = torch.autograd.grad(logits.sum(), x)
        found = net.explain(x.detach().numpy(), 1, fastlrp.composites.Uniform(fastlrp.rules.Epsilon(1e-14)),
                            precision="float64").relevance
        expected = (slope * x).detach().numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        if not biases:
            np.testing.assert_allclose(found.sum(axis=(1, 2, 3)), logits.detach().numpy(), rtol=1e-5)


LRP_0 = fastlrp.composites.Uniform(fastlrp.rules.Epsilon(1e-14))


@pytest.mark.parametrize(("composite", "function"), [
    (LRP_0, lambda x: torch.minimum(torch.stack([-x, torch.maximum(x, torch.zeros(1))], 2), torch.tensor(9.0))),
    (LRP_0, lambda x: -x.relu().movedim(1, -1)),
    ("gradient_x_input", lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
], ids=["stack and bounds", "movedim", "erf"])
def test_relevance_is_the_gradient_times_the_input(composite: Any, function: Callable[..., Any]) -> None:
    """PyTorch's: LRP-0 where the network is piecewise linear, without shifts."""
    module, x = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), Calls(function), nn.Flatten()), draw(IMAGE)
    found = fastlrp.from_torch(module, x).explain(x.numpy(), 5, composite, precision="float64").relevance
    module, x = module.double(), x.double().requires_grad_()
    slope, = torch.autograd.grad(module(x)[:, 5].sum(), x)
    np.testing.assert_allclose(found, (slope * x).detach().numpy(), rtol=1e-5, atol=1e-7)


def test_dropout_for_training_is_a_copy() -> None:
    """Of a module in evaluation too: functions do not know. What is dropped is left to training."""
    module = Calls(lambda x: F.dropout(y := x * 2.0, 1e-9).relu_() + y)
    x = draw(ROW)
    net = fastlrp.from_torch(module, x)
    assert error(net, module, x) <= SMALL
    assert [layer.rate for layer in net.layers if isinstance(layer, fastlrp.Dropout)] == [1e-9]


def test_dropout_of_nothing_is_no_copy() -> None:
    module = Calls(lambda x: ((y := x * 2.0), F.dropout(y.view(-1, 5, 2), 0.0).relu_())[0])
    x = draw(ROW)
    assert error(fastlrp.from_torch(module, x), module, x) <= SMALL


def test_an_input_may_be_named_dropout() -> None:
    class Named(nn.Module):
        def forward(self, dropout: torch.Tensor) -> torch.Tensor:
            y = dropout * 2.0
            y.view(-1, 5, 2).relu_()
            return y

    x = draw(ROW)
    assert error(fastlrp.from_torch(Named(), x), Named(), x) <= SMALL


def test_an_operator_that_only_changes_its_input_is_not_overlooked() -> None:
    @torch.library.custom_op("fastlrp_tests::double", mutates_args=("x",))
    def double(x: torch.Tensor) -> None:
        x *= 2.0

    def call(x: torch.Tensor) -> torch.Tensor:
        y = x * 2.0
        double(y)
        return y.relu()

    with pytest.raises(fastlrp.UnsupportedError, match=r"double|auto_functionalized"):
        fastlrp.from_torch(Calls(call), draw(ROW))
    with pytest.raises(fastlrp.UnsupportedError, match="_foreach_mul"):
        fastlrp.from_torch(Calls(lambda x: ((y := x * 2.0), torch._foreach_mul_([y], 2.0))[0].relu()), draw(ROW))


def test_parts_have_the_names_of_their_operators() -> None:
    """With the part's number; what is not read is not there."""
    module = Calls(lambda x: torch.cat([x.split([1, 2, 1], 1)[1], *x.chunk(2, 1)], 1))
    net = fastlrp.from_torch(module, draw(IMAGE))
    assert [node.name for node in net.nodes] == ["split_with_sizes.1", "chunk.0", "chunk.1", "cat"]
    net = fastlrp.from_torch(Calls(lambda x: torch.stack([x, x], 1)), draw(ROW))
    assert [node.name for node in net.nodes] == ["stack.0", "stack.1", "stack"]


def test_dropout_of_everything_is_nothing() -> None:
    """In evaluation."""
    module, x = nn.Sequential(nn.Linear(10, 4), nn.Dropout(1.0), nn.Linear(4, 3)).eval(), draw(ROW)
    assert error(fastlrp.from_torch(module, x), module, x) <= SMALL


def test_inputs_that_nothing_depends_on_are_named() -> None:
    """Among what is unsupported."""
    module = Calls(lambda x, y, z: x.relu())
    with pytest.raises(fastlrp.UnsupportedError, match=r"2 unsupported operators:(.|\n)*no output depends on it"):
        fastlrp.from_torch(module, (draw(ROW), draw(ROW), draw(ROW)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_become_float32(dtype: Any) -> None:
    """The network of a module in any floating-point type; shared modules are shared there too."""
    conv = nn.Conv2d(3, 3, 3, padding=1)
    module = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(108, 2)).to(dtype)
    x = draw((3, 6, 6)).to(dtype)
    net = fastlrp.from_torch(module, x)
    assert error(net, copy.deepcopy(module).float(), x.float()) <= SMALL
    assert len(net.weighted) == 2


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "all of them": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GLU(1), Calls(torch.sin), nn.LayerNorm((2, 4, 4)),
                                          Calls(torch.exp)), (3, 6, 6),
                    ["4 unsupported operators", "glu (node '1')", "sin (node '2')", "layer_norm (node '3')",
                     "exp (node '4')", "Supported are: ", "conv2d"]),
    "a mixed batch": (lambda: Calls(lambda x: x.view(-1, 9)), (2, 9), ["view", "batch"]),
    "a moved batch": (lambda: Calls(lambda x: x.transpose(0, 1)), (2, 9), ["transpose", "batch"]),
    "the batch's size": (lambda: Calls(lambda x: x / x.shape[0]), (9,), ["div", "size of the batch"]),
    "a part of the batch": (lambda: Calls(lambda x: x[:1]), (4, 3, 3), ["slice (node", "a part of the batch"]),
    "all samples but the first": (lambda: Calls(lambda x: x[1:]), (4,), ["other sizes of the batch"]),
    "as many as samples": (lambda: Calls(lambda x: x[:, :x.shape[0]]), (40,), ["other sizes of the batch"]),
    "a sample": (lambda: Calls(lambda x: x[0]), (4, 3, 3), ["select (node", "a part of the batch"]),
    "samples in pairs": (lambda: Calls(lambda x: x.split(2)[0]), (4, 3, 3), ["other sizes of the batch"]),
    "an empty part": (lambda: Calls(lambda x: torch.cat([x.split([0, 4], 1)[0], x], 1)), (4, 3, 3),
                      ["split_with_sizes (node", "nothing of 4 places along axis 1"]),
    "a part changed in place": (lambda: Calls(lambda x: ((y := x * 2.0).chunk(2, 1)[0].relu_(), y)[1]), (4, 3, 3),
                                ["1 unsupported operator:", "slice_scatter"]),
    "a transposed convolution": (lambda: nn.ConvTranspose2d(3, 2, 2), (3, 4, 4), ["conv_transpose2d"]),
    "expanded channels": (lambda: Calls(lambda x: x.expand(-1, 4, -1, -1) + 1), (1, 3, 3), ["expand", "spatial axes"]),
    "a constant for each sample": (lambda: Calls(lambda x, w: x + w.expand(x.shape[0], -1), (1, 9)), (9,),
                                   ["expand", "as many as the batch"]),
    "zeros for each sample": (lambda: Calls(lambda x: x + torch.zeros(x.shape[0], 9)), (9,), ["zeros"]),
    **{f"a cast to {dtype}": (lambda dtype=dtype: Calls(lambda x: x.to(dtype).float()), (9,),
                              ["1 unsupported operator:", "to (node", f"to {dtype}: only to floating point"])
       for dtype in (torch.int32, torch.bool)},
    "a mean of everything": (lambda: Calls(lambda x: x.mean() + x), (9,), ["mean", "only over all spatial axes"]),
    "unbound values": (lambda: Calls(lambda x: x.unbind(1)[0]), (4, 3, 3), ["unbind"]),
    "maxima": (lambda: Calls(lambda x: x.max(1)[0]), (4, 3, 3), ["max (node"]),
    "the largest": (lambda: Calls(lambda x: x.topk(2, 1)[0]), (4, 3, 3), ["topk"]),
    "where the largest are": (lambda: Calls(lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float()), (4, 4, 4),
                              ["max_pool2d_with_indices", "only its first result"]),
    "maxima of two values": (lambda: Calls(lambda x: torch.maximum(x, x.tanh())), (9,), ["maximum", "one number"]),
    "minima with many numbers": (lambda: Calls(torch.minimum, (9,)), (9,), ["minimum", "one number"]),
    "erf alone": (lambda: Calls(torch.erf), (9,), ["erf (node", "GELU"]),
    "stacked samples": (lambda: Calls(lambda x: torch.stack([x, x])), (9,), ["stack", "mixes the batch"]),
    "a batch moved": (lambda: Calls(lambda x: x.movedim(0, 1)), (2, 9), ["movedim", "batch"]),
    "an LSTM": (lambda: nn.Sequential(nn.LSTM(3, 2, batch_first=True), Calls(lambda y: y[0])), (4, 3), ["lstm"]),
    **{f"a branch on {name}": (lambda branch=branch: Calls(lambda x: -x if branch(x.shape[0]) else x), (9,),
                               ["other sizes of the batch"])
       for name, branch in {"few samples": lambda n: n < 5, "many samples": lambda n: n > 100, "samples in pairs":
                            lambda n: n % 2 == 0, "four samples": lambda n: n == 4}.items()},
    "a division by 0": (lambda: Calls(lambda x: x / 0), (9,), ["div", "the constant inf: only finite ones"]),
    "a clip to one number": (lambda: Calls(lambda x: x.clamp(1, 1)), (9,), ["clamp", "bounds 1 and 1"]),
    "a maximum with NaN": (lambda: Calls(lambda x: torch.maximum(x, torch.tensor(torch.nan))), (9,),
                           ["maximum", "bounds nan and inf"]),
    "a batch of 7": (lambda: Calls(lambda x: x.view(7, -1)), (2, 9), ["other sizes of the batch"]),
    "a batch as a number": (lambda: Calls(lambda x: x.view(int(x.shape[0]), -1)), (2, 9),
                            ["other sizes of the batch"]),
    "samples in groups": (lambda: Calls(lambda x: x.view(-1, 7, 9)), (9,), ["batch"]),
    "reflecting pads": (lambda: nn.ReflectionPad2d(1), (3, 4, 4), ["pad", "'reflect'"]),
    "bilinear upsampling": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (3, 4, 4), ["upsample_bilinear2d"]),
    "upsampling by 3.2": (lambda: nn.Upsample(scale_factor=3.2), (3, 4), [
        "upsample_nearest1d", "nearest neighbours other", "from 4 to 12 pixels by scale_factor=3.2"]),
    "upsampling by 3 and 3.2": (lambda: nn.Upsample(scale_factor=(3, 3.2)), (3, 4, 4), ["scale_factor=3.2"]),
    "upsampling by 3.2, taken apart": (lambda: nn.Sequential(CHANGED, nn.Unflatten(1, (2, 5)), nn.Upsample(None, 2.1)),
                                       (10,), ["from 5 to 10 pixels by scale_factor=2.1"]),
    "upsampling by 41, which PyTorch rounds": (lambda: nn.Upsample(scale_factor=41), (3, 4), ["from 4 to 164 pixels"]),
    "upsampling to 41 times the size": (lambda: nn.Upsample(164), (3, 4), ["from 4 to 164 pixels"]),
    "upsampling by 1.5": (lambda: nn.Upsample(scale_factor=1.5), (3, 4, 4), ["upsample_nearest2d", "whole"]),
    "softplus up to 1": (lambda: nn.Softplus(threshold=1.0), (9,), ["softplus", "threshold=1.0: only 17 and more"]),
    "mish of a softplus up to 0.1": (lambda: Calls(lambda x: x * torch.tanh(F.softplus(x, threshold=0.1))), (9,),
                                     ["softplus", "threshold=0.1"]),
    "a divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), (3, 6, 6), ["avg_pool2d", "divisor_override=3"]),
    "no statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 4, 4), ["batch_norm", "statistics"]),
    "softmax in between": (lambda: nn.Sequential(nn.Softmax(1), nn.Linear(9, 2)), (9,), ["softmax", "last"]),
    "x * x": (lambda: Calls(lambda x: x * x), (9,), ["mul", "gate"]),
    "1 / x": (lambda: Calls(lambda x: 1 / x), (9,), ["reciprocal"]),
    "x / y": (lambda: Calls(lambda x: x / x.abs()), (9,), ["div", "depends on the input"]),
    "products of values": (lambda: Calls(lambda x: x @ x.transpose(1, 2)), (3, 3), ["matmul"]),
    "a branch on the batch's size": (lambda: Calls(lambda x: x * 2 if x.shape[0] > 100 else x), (9,),
                                    ["other sizes of the batch"]),
    "a branch on values": (lambda: Calls(lambda x: x if x.sum() > 0 else -x), (9,), ["cannot trace"]),
    "an output without input": (lambda: Calls(lambda x, w: (x, w), (3,)), (9,), ["outputs"]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operators_are_named(name: str) -> None:
    """All of them at once, with their nodes, or the reason."""
    make, shape, words = UNSUPPORTED[name]
    with pytest.raises(fastlrp.UnsupportedError) as caught:
        fastlrp.from_torch(make().eval(), draw(shape))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(("arguments", "kind", "words"), [
    ((lambda x: x, draw(ROW)), TypeError, "module must be"),
    ((nn.ReLU(), np.zeros((2, 3))), TypeError, "example_input must be a tensor"),
    ((nn.ReLU(), torch.zeros(2, 3, dtype=torch.int64)), TypeError, "floating-point"),
    ((nn.ReLU(), torch.zeros(3)), ValueError, "N >= 1"),
    ((nn.ReLU(), torch.zeros(0, 3)), ValueError, "N >= 1"),
    ((nn.ReLU(), ()), ValueError, "at least one"),
    ((nn.Bilinear(2, 2, 1), (torch.zeros(2, 2), torch.zeros(3, 2))), ValueError, "as many samples"),
])
def test_arguments_are_checked(arguments: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        fastlrp.from_torch(*arguments)


@pytest.mark.parametrize("disabled", [False, True])
def test_what_torch_logs_of_errors_is_not_shown(disabled: bool, capsys: Any, monkeypatch: Any) -> None:
    """The error says it; its loggers are left as they were."""
    names = "torch._subclasses.fake_tensor", "torch.export._trace", "torch.fx.experimental.symbolic_shapes"
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        monkeypatch.setattr(logger, "disabled", disabled)
    for module in (nn.Linear(10, 3), Calls(lambda x, w: x + w, (7,))):
        with pytest.raises(fastlrp.UnsupportedError, match="cannot trace it: "):
            fastlrp.from_torch(module, draw((9,)))
    assert capsys.readouterr().err == ""
    assert [logger.disabled for logger in loggers] == [disabled] * len(loggers)


def test_torch_is_not_needed_until_it_is_asked_for() -> None:
    """fastlrp is imported without it, and says what is missing."""
    code = ("import sys; sys.modules['torch'] = None\nimport fastlrp\n"
            "try:\n    fastlrp.from_torch(None, None)\nexcept ImportError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install fastlrp[torch]" in done.stdout
