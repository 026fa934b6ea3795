"""Networks that PyTorch exports to ONNX, by both of its exporters, against PyTorch."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from cases import relative_error

import fastlrp

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
nn, F = torch.nn, torch.nn.functional


class Residual(nn.Module):
    """conv, norm, relu with short cuts, then view and dense."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.pool, self.head = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Linear(8 * 5 * 5, 5)

    def forward(self, x: Any) -> Any:
        h = F.relu(self.norm(self.stem(x)))
        h = self.pool(h + self.two(F.relu(self.one(h))))
        return self.head(h.view(x.size(0), -1))


class Excitation(nn.Module):
    """MobileNet's pieces: SiLU, Hardswish, gates, means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depth = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        h = F.silu(self.conv(x))
        h = F.hardswish(self.depth(h))
        gate = F.hardsigmoid(self.excite(F.relu6(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((gate * h).mean([2, 3]))


class Dense(nn.Module):
    """Concatenation, average pools, reshapes of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 5, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(7), nn.Linear(12 * 2 * 2, 5)

    def forward(self, x: Any) -> Any:
        h = torch.cat([x, F.leaky_relu(self.one(x))], 1)
        h = torch.cat([self.two(F.elu(self.norm(h))), h], 1)
        h = F.adaptive_avg_pool2d(F.avg_pool2d(h, 3, 2, 1), (2, 2)) if h.shape[-1] == 8 else h
        return self.head(torch.flatten(h, 1))


class Unet(nn.Module):
    """Upsampling beside what was before the pools."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Any) -> Any:
        h = F.gelu(self.down(x))
        low = F.mish(self.low(F.max_pool2d(h, 2)))
        return self.up(torch.cat([h, F.interpolate(low, scale_factor=2, mode="nearest")], 1))


class Shuffle(nn.Module):
    """Channels in another order, by view, transpose and reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.slope = nn.Conv2d(3, 6, 3, stride=2), nn.PReLU(6)

    def forward(self, x: Any) -> Any:
        h = self.slope(self.conv(x))
        n, c, height, width = h.shape
        h = h.view(n, 2, c // 2, height, width).transpose(1, 2).contiguous().reshape(n, c, height, width)
        return F.log_softmax(h.flatten(1), 1)


class Split(nn.Module):
    """ShuffleNet's unit, parts of rows and columns, one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.norm, self.mix, self.head = nn.BatchNorm2d(3), nn.Conv2d(6, 4, 1), nn.Linear(4 * 4 * 3 + 12 + 6, 5)

    def forward(self, x: Any) -> Any:
        kept, worked = F.relu(self.stem(x)).chunk(2, 1)
        h = torch.cat([kept, F.relu(self.norm(self.depth(worked)))], 1)
        n, c, height, width = h.shape
        h = self.mix(h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width))
        one, two, _ = h.split([1, 2, 1], 1)
        return self.head(torch.cat([h[:, :, ::2, -3:].flatten(1), two.flatten(2)[..., 1:7].flatten(1),
                                    one[:, 0, 1]], 1))


class Rows(nn.Module):
    """One axis, as for audio."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Linear(24, 5)

    def forward(self, x: Any) -> Any:
        return self.head(F.max_pool1d(torch.tanh(self.norm(self.conv(x))), 2).flatten(1))


MODULES = {"residual": (Residual, (3, 9, 8)), "excitation": (Excitation, (3, 9, 8)), "dense": (Dense, (3, 8, 8)),
           "unet": (Unet, (3, 8, 6)), "shuffle": (Shuffle, (3, 9, 8)), "split": (Split, (3, 9, 8)),
           "rows": (Rows, (3, 8))}


def make(name: str) -> Any:
    """A module in evaluation mode, with statistics that are not trivial."""
    torch.manual_seed(0)
    module = MODULES[name][0]()
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias)
    return module.eval()


def export(module: Any, shape: tuple[int, ...], dynamo: bool, n: int, free: bool, opset: int | None) -> bytes:
    """The module's ONNX file. free: the batch may have any size."""
    if dynamo:
        pytest.importorskip("onnxscript")
    file = io.BytesIO()
    options: dict[str, Any] = {"opset_version": opset, "dynamo": dynamo}
    if free and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif free:
        options |= {"dynamic_axes": {"x": [0], "y": [0]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(n, *shape),), file, input_names=["x"], output_names=["y"], **options)
    return file.getvalue()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("dynamo", "n", "free", "opset"), [
    (False, 1, False, 11), (False, 2, True, 13), (False, 2, False, 17), (True, 2, True, 18), (True, 1, False, 20)])
def test_exported_modules(name: str, dynamo: bool, n: int, free: bool, opset: int) -> None:
    """Values as PyTorch's for any batch, relevance in PyTorch's layout; names of the file's nodes."""
    module, shape = make(name), MODULES[name][1]
    data = export(module, shape, dynamo, n, free, opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name == "shuffle" else "error")
        net = fastlrp.from_onnx(data)
    for count in (1, 3):
        x = torch.randn(count, *shape)
        with torch.no_grad():
            expected = module(x).numpy()
        found = net.forward(x.numpy())
        if name == "shuffle":
            found = found - np.log(np.exp(found).sum(1, keepdims=True))
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-5
    assert net.input_shape == shape
    e = net.explain(x.numpy(), start=expected, layers=True)
    assert e.relevance.shape == x.shape and np.isfinite(e.relevance).all()
