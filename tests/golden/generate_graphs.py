"""Writes the golden files of graphs: relevance of small networks with branches as zennit computes it in float64.

The networks are small ones of bench/zoo.py without max pools; bench/zennit_zoo.py says how zennit sees them. Out: one
``graphs/<network>.npz`` for each, plain arrays only, in PyTorch's layouts (channels first) at the surface:

    spec               uint8, JSON text: {"input_shape": inside, "nodes": [[kind, options, name, values read]],
                       "output": a value, "bounds": of the input, "cases": [{"composite", "start"}]}; value 0 is the
                       input, value i + 1 what node i makes
    <name>/<parameter> float32, in fastlrp's layouts, of the layer called so
    input              float32 (N, C, H, W)
    output             float64 (N, outputs) or (N, outputs, H, W)
    start_<kind>       float64, the initial relevance
    relevance_<k>      float64 (N, C, H, W), of case k

Parameters and inputs are float32, so single and double precision explain the very same network. Needs torch and zennit;
fastlrp reads the modules. Run ``python tests/golden/generate_graphs.py``.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import zennit_zoo  # noqa: E402
import zoo  # noqa: E402

import fastlrp  # noqa: E402

SIZE, SAMPLES, CLASSES = 16, 2, 4
BOUNDS = (-2.5, 2.5)
KINK_MARGIN = 1e-5  # nothing closer than this to a point where a gate changes
SINGLE_PRECISION_LIMIT = 3e-6  # of zennit's float32 run: what a test finds at 1e-5 is then a wrong rule
MAX_DRAWS = 200


def resnet() -> nn.Module:
    module = zoo.ResNet(zoo.bottleneck, (1, 1), CLASSES, 4)
    module.maxpool = nn.Identity()
    return module


def densenet() -> nn.Module:
    module = zoo.DenseNet(3, (2, 2), 6, CLASSES)
    module.features.pool0 = nn.AvgPool2d(2)
    return module


def mobilenet() -> nn.Module:
    return zoo.MobileNetV2(((1, 6, 1, 1), (2, 8, 2, 2)), 6, 12, CLASSES)


def efficientnet() -> nn.Module:
    return zoo.EfficientNet(((1, 8, 1, 1, 3), (1, 8, 1, 1, 5)), 8, 12, CLASSES)


def unet() -> nn.Module:
    return zoo.UNet((4, 6, 6), 2, nn.AvgPool2d)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "densenet": densenet, "mobilenet": mobilenet,
                                                "efficientnet": efficientnet, "unet": unet}


def kink_distance(model: nn.Module, x: torch.Tensor) -> float:
    """Smallest distance of an activation's input to a place where its slope jumps."""
    gaps: list[float] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        places = (0.0, 6.0) if isinstance(module, nn.ReLU6) else (0.0,)
        gaps.extend(float((inputs[0] - place).abs().min()) for place in places)
    hooks = [module.register_forward_pre_hook(look) for module in model.modules()
             if isinstance(module, nn.ReLU | nn.ReLU6)]
    model(x)
    for hook in hooks:
        hook.remove()
    return min(gaps, default=1.0)


def draw_golden(make: Callable[[], nn.Module], seed: int) -> dict[str, np.ndarray] | None:
    """All arrays of one golden file; None if the draw is too close to a kink or ill-conditioned."""
    model = zennit_zoo.without_eps(zoo.trained_like(make(), seed, SIZE)).requires_grad_(False)
    x = zoo.images(SAMPLES, SIZE, seed + 1)
    net = fastlrp.from_torch(model, x)
    exact = copy.deepcopy(model).double()
    if kink_distance(exact, x.double()) < KINK_MARGIN:
        return None
    output = exact(x.double())
    starts = draw_starts(output, seed)
    arrays = {"input": x.numpy(), "output": output.numpy(), **{f"start_{k}": v.numpy() for k, v in starts.items()}}
    cases, pairs = [], zennit_zoo.merged_pairs(model, x)
    single, double = zennit_zoo.registered(model), zennit_zoo.registered(exact)
    for name in fastlrp.composites.names():
        kind = "one" if name in zennit_zoo.GRADIENTS else "logit"
        relevance = zennit_zoo.explain(double, x.double(), name, starts[kind], pairs, BOUNDS)
        rough = zennit_zoo.explain(single, x, name, starts[kind].float(), pairs, BOUNDS)
        error = ((rough - relevance).flatten(1).norm(dim=1) / relevance.flatten(1).norm(dim=1)).max()
        if not error <= SINGLE_PRECISION_LIMIT:
            return None
        arrays[f"relevance_{len(cases)}"] = relevance.numpy()
        cases.append({"composite": name, "start": f"start_{kind}"})
    spec = {**described(net), "bounds": BOUNDS, "cases": cases}
    arrays |= {f"{layer.name}/{key}": array for layer in net.layers
               for key, array in getattr(layer, "parameters", {}).items()}
    return {"spec": np.frombuffer(json.dumps(spec).encode(), np.uint8), **arrays}


def draw_starts(output: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """One at a target, in every pixel of a map, or the target's output; targets go round."""
    one = torch.zeros_like(output)
    rows = torch.arange(len(output))
    one[rows, (rows + seed) % output.shape[1]] = 1
    return {"one": one, "logit": one * output}


def described(net: fastlrp.Network) -> dict[str, Any]:
    """The graph as JSON."""
    return {"input_shape": net.shapes[0], "output": net.outputs[0],
            "nodes": [[type(node.layer).__name__, node.layer.config(), node.name, node.inputs] for node in net.nodes]}


def main() -> None:
    """Write every golden file and say what was written."""
    torch.set_num_threads(1)
    folder = Path(__file__).resolve().parent / "graphs"
    folder.mkdir(exist_ok=True)
    for name, make in NETWORKS.items():
        found = ((seed, draw_golden(make, seed)) for seed in range(MAX_DRAWS))
        seed, arrays = next((pair for pair in found if pair[1] is not None), (MAX_DRAWS, None))
        if arrays is None:
            raise RuntimeError(f"{name}: no well-conditioned draw in {MAX_DRAWS}")
        np.savez_compressed(path := folder / f"{name}.npz", **arrays)
        print(f"{path.name}: draw {seed}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
