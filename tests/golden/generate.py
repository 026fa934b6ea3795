"""Writes the golden files: relevance maps of small networks as zennit computes them in float64.

In: the tables of networks and cases below. A network and a composite are each written once, as a fastlrp
specification, and both twins are built from it: torch and zennit here, fastlrp in ``tests/test_golden.py``.
Out: one ``<network>.npz`` next to this file, plain arrays only, in fastlrp's layouts (channels last):

    spec          uint8, JSON text: {"layers": [[kind, options]], "input_shape": [...],
                  "cases": [{"name", "composite", "start", "relevance"}]}; start and relevance name arrays
    input         float32 (N, *input_shape)
    weight_<i>    float32, Linear (in, out), Conv2d (kh, kw, in/groups, out), for layer number i of the list
    bias_<i>      float32 (out,), absent for a layer without bias
    logits        float64 (N, outputs)
    start_<kind>  float64 (N, outputs), the initial relevance
    relevance_<k> float64, the shape of the input

Inputs and parameters are drawn in float32, so single and double precision explain the very same network.
Needs torch and zennit; fastlrp itself is not imported. Run ``python tests/golden/generate.py``; the same
versions on the same machine write the same bytes.
"""

import copy
import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _import_zennit() -> types.ModuleType:
    """Import zennit with a stand-in for the two torchvision names it asks for: torchvision is not needed."""
    resnet = types.ModuleType("torchvision.models.resnet")
    resnet.BasicBlock = type("BasicBlock", (nn.Module,), {})
    resnet.Bottleneck = type("Bottleneck", (nn.Module,), {})
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.models"] = types.ModuleType("torchvision.models")
    sys.modules["torchvision.models.resnet"] = resnet
    return importlib.import_module("zennit")


zennit = _import_zennit()

Spec = list[Any]  # [kind, options]: one layer, one rule or one composite

SAMPLES = 3
EPSILON = 1e-6
KINK_MARGIN = 1e-4  # nothing closer than this to a point where a gate or the winner of a max pool changes
SINGLE_PRECISION_LIMIT = 1.5e-6  # of zennit's float32 run: what a test finds at 1e-5 is then a wrong rule
MAX_DRAWS = 500

# fmt: off
# "signed" inputs fill [-1, 1]; "unit" inputs fill [0, 1] and hold exact zeros.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {
        "inputs": "signed", "input_shape": [12],
        "layers": [["Linear", {"out": 10}], ["ReLU", {}], ["Linear", {"out": 8}], ["ReLU", {}],
                   ["Linear", {"out": 4}]],
    },
    "mlp_smooth": {
        "inputs": "signed", "input_shape": [8],
        "layers": [["Linear", {"out": 7, "bias": False}], ["Tanh", {}],
                   ["Linear", {"out": 6}], ["Sigmoid", {}],
                   ["Linear", {"out": 6}], ["Softplus", {}],
                   ["Linear", {"out": 5}], ["LeakyReLU", {}], ["Linear", {"out": 3}]],
    },
    "cnn_max": {
        "inputs": "unit", "input_shape": [8, 8, 2],
        "layers": [["Conv2d", {"out": 6, "kernel": 3, "padding": 1}], ["ReLU", {}],
                   ["MaxPool2d", {"kernel": 2}],
                   ["Conv2d", {"out": 8, "kernel": 3, "padding": 1}], ["ReLU", {}],
                   ["MaxPool2d", {"kernel": 2}],
                   ["Flatten", {}], ["Linear", {"out": 8}], ["ReLU", {}], ["Linear", {"out": 5}]],
    },
    "cnn_average": {
        "inputs": "signed", "input_shape": [9, 8, 2],
        "layers": [["Conv2d", {"out": 6, "kernel": 3, "padding": 1}], ["ReLU", {}],
                   ["AvgPool2d", {"kernel": 2, "padding": 1, "count_include_pad": False}],
                   ["Conv2d", {"out": 6, "kernel": 2}], ["ReLU", {}],
                   ["AvgPool2d", {"kernel": 3, "stride": 1, "padding": 1}],
                   ["Flatten", {}], ["Linear", {"out": 4}]],
    },
    "cnn_strided": {
        "inputs": "signed", "input_shape": [10, 7, 2],
        "layers": [["Conv2d", {"out": 6, "kernel": [4, 3], "stride": [2, 1], "padding": [2, 1]}],
                   ["ReLU", {}],
                   ["Conv2d", {"out": 7, "kernel": 3, "stride": 2, "padding": 1}], ["ReLU", {}],
                   ["Flatten", {}], ["Linear", {"out": 5}]],
    },
    "cnn_dilated_grouped": {
        "inputs": "signed", "input_shape": [8, 8, 4],
        "layers": [["Conv2d", {"out": 8, "kernel": 3, "padding": 2, "dilation": 2, "groups": 2}],
                   ["ReLU", {}],
                   ["MaxPool2d", {"kernel": 3, "stride": 2, "padding": 1}],
                   ["Conv2d", {"out": 8, "kernel": 3, "padding": [1, 0], "groups": 8}], ["ReLU", {}],
                   ["Conv2d", {"out": 6, "kernel": 2, "dilation": [2, 1]}], ["ReLU", {}],
                   ["Flatten", {}], ["Linear", {"out": 4}]],
    },
    "cnn_no_bias": {
        "inputs": "unit", "input_shape": [8, 7, 3],
        "layers": [["Conv2d", {"out": 6, "kernel": [3, 2], "bias": False}], ["ReLU", {}],
                   ["SumPool2d", {"kernel": 2}],
                   ["Conv2d", {"out": 6, "kernel": 2, "bias": False}], ["ReLU", {}],
                   ["SumPool2d", {"kernel": 2, "stride": 1, "scale": "sqrt"}], ["Flatten", {}],
                   ["Linear", {"out": 4, "bias": False}]],
    },
    "cnn_leaky": {
        "inputs": "signed", "input_shape": [7, 7, 2],
        "layers": [["Conv2d", {"out": 5, "kernel": 3, "bias": False}], ["LeakyReLU", {"slope": 0.25}],
                   ["MaxPool2d", {"kernel": 2, "stride": 1}],
                   ["Conv2d", {"out": 6, "kernel": 2}], ["Tanh", {}],
                   ["AvgPool2d", {"kernel": [1, 3]}], ["Flatten", {}], ["Linear", {"out": 4}]],
    },
    "cnn_abs": {
        "inputs": "signed", "input_shape": [6, 6, 2],
        "layers": [["Conv2d", {"out": 5, "kernel": 3}], ["Abs", {}], ["MaxPool2d", {"kernel": 2}],
                   ["Flatten", {}], ["Linear", {"out": 6}], ["ReLU", {}], ["Linear", {"out": 3}]],
    },
}

# (composite, start). Uniform rules include the bias-dropped variants and non-default numbers.
GRADIENT_CASES: list[tuple[Spec, str]] = [
    (["gradient", {}], "one"), (["gradient", {}], "mixed"), (["gradient_x_input", {}], "one"),
    (["deconvnet", {}], "one"), (["guided_backprop", {}], "one"), (["beta_smooth", {}], "one"),
    (["excitation_backprop", {}], "logit"),
]
PRESET_CASES: list[tuple[Spec, str]] = [
    (["epsilon_plus", {}], "logit"), (["epsilon_plus", {}], "mixed"), (["epsilon_alpha2_beta1", {}], "logit"),
    (["epsilon_plus_flat", {}], "logit"), (["epsilon_alpha2_beta1_flat", {}], "mixed"),
]
UNIFORM_RULES: list[Spec] = [
    ["Epsilon", {}], ["Epsilon", {"epsilon": 0.25, "bias": False}],
    ["ZPlus", {}], ["ZPlus", {"bias": False}],
    ["AlphaBeta", {"alpha": 2, "beta": 1}], ["AlphaBeta", {"alpha": 2, "beta": 1, "bias": False}],
    ["AlphaBeta", {"alpha": 1, "beta": 0}], ["AlphaBeta", {"alpha": 1, "beta": 0, "bias": False}],
    ["AlphaBeta", {"alpha": 1.5, "beta": 0.5, "epsilon": 0.125}],
    ["Gamma", {"gamma": 0.25}], ["Gamma", {"gamma": 0.5, "bias": False}],
    ["WSquare", {}], ["WSquare", {"bias": False}], ["Flat", {}],
    ["ZBox", {"low": -4, "high": 4}],  # wide enough for hidden activations: its denominators stay positive
]
# fmt: on


def uniform_cases(channels: int) -> list[tuple[Spec, str]]:
    """One rule for all weighted layers, and a few with another for the first."""
    low, high = per_channel_bounds("signed", channels)
    mixed = [
        [["Gamma", {"gamma": 0.25}], ["WSquare", {}]],
        [["Epsilon", {}], ["Flat", {}]],
        [["AlphaBeta", {"alpha": 1, "beta": 0}], ["ZBox", {"low": low, "high": high}]],
    ]
    pairs = [(rule, None) for rule in UNIFORM_RULES] + [(rule, first) for rule, first in mixed]
    return [(["uniform", {"rule": rule, "first": first}], "logit") for rule, first in pairs]


def per_channel_bounds(inputs: str, channels: int) -> tuple[list[float], list[float]]:
    """A different low and high for each channel that hold every input, exact in binary."""
    lowest = -1.0 if inputs == "signed" else 0.0
    return [lowest - 0.125 * c for c in range(channels)], [1.0 + 0.25 * c for c in range(channels)]


def bounded_cases(network: dict[str, Any]) -> list[tuple[Spec, str]]:
    """The presets that take bounds: defaults where they fit the input, scalars, arrays per channel."""
    low, high = per_channel_bounds(network["inputs"], network["input_shape"][-1])
    scalars = {"low": -1, "high": 1} if network["inputs"] == "signed" else {"low": 0, "high": 1}
    cases = [
        (["epsilon_gamma_box", {} if network["inputs"] == "signed" else scalars], "logit"),
        (["epsilon_gamma_box", {"low": low, "high": high}], "mixed"),
        (["deep_taylor", scalars], "logit"),
        (["deep_taylor", {"low": low, "high": high}], "mixed"),
    ]
    # Only where the first layer has no bias: whether its w² would count one is not zennit's to say.
    if network["layers"][0][1].get("bias") is False:
        cases.append((["deep_taylor", {}], "logit"))
    return cases


def cases_of(network: dict[str, Any]) -> list[tuple[Spec, str]]:
    """The (composite, start) pairs on which zennit and fastlrp define the same relevance for this network."""
    if any(kind == "Abs" for kind, _ in network["layers"]):
        return GRADIENT_CASES  # zennit has no Abs activation: it gets the plain gradient, never Pass
    return PRESET_CASES + bounded_cases(network) + GRADIENT_CASES + uniform_cases(network["input_shape"][-1])


def case_name(composite: Spec, start: str) -> str:
    """A readable name, unique within a network, e.g. ``uniform-AlphaBeta(alpha=2,beta=1)-logit``."""

    def write(spec: Spec) -> str:
        kind, options = spec
        inside = ",".join(
            f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in options.items()
        )
        return f"{kind}({inside})" if inside else kind

    kind, options = composite
    if kind == "uniform":
        parts = [kind, write(options["rule"])] + (
            [f"first={write(options['first'])}"] if options["first"] else []
        )
    else:
        parts = [write(composite)]
    return "-".join([*parts, start])


class Abs(nn.Module):
    """Elementwise absolute value: torch has no module for it."""

    def forward(self, x: Tensor) -> Tensor:
        """|x|, any shape."""
        return x.abs()


def plain_layer(kind: str, options: dict[str, Any]) -> nn.Module:
    """The torch twin of a fastlrp layer without parameters."""
    # Sum pooling is average pooling with its own divisor, which zennit then recognises as a pool.
    if kind == "SumPool2d":
        size = options["kernel"] ** 2
        divisor = round(size**0.5) if options.get("scale") == "sqrt" else 1
        return nn.AvgPool2d(options["kernel"], options.get("stride"), divisor_override=divisor)
    if kind in ("MaxPool2d", "AvgPool2d"):
        renamed = {("kernel_size" if key == "kernel" else key): value for key, value in options.items()}
        return getattr(nn, kind)(**renamed)
    if kind == "LeakyReLU":
        return nn.LeakyReLU(options.get("slope", 0.01))
    return Abs() if kind == "Abs" else getattr(nn, kind)()


def weighted_layer(kind: str, options: dict[str, Any], x: Tensor) -> nn.Module:
    """The torch twin of Linear or Conv2d for inputs like x, its parameters not yet set."""
    renamed = {key: value for key, value in options.items() if key not in ("out", "kernel")}
    if kind == "Linear":
        return nn.Linear(x.shape[1], options["out"], **renamed)
    return nn.Conv2d(x.shape[1], options["out"], options["kernel"], **renamed)


def to_torch_layout(weight: np.ndarray, unflattened: torch.Size | None) -> np.ndarray:
    """Conv2d (kh, kw, in, out) → (out, in, kh, kw); Linear (in, out) → (out, in), reordered after Flatten.

    fastlrp flattens (H, W, C), torch (C, H, W): ``unflattened`` is torch's shape before Flatten, or None.
    """
    if weight.ndim == 4:
        return weight.transpose(3, 2, 0, 1)
    if unflattened is None:
        return weight.T
    _, channels, height, width = unflattened
    return weight.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(weight.shape[1], -1)


def draw_parameters(
    layer: nn.Module, x: Tensor, unflattened: torch.Size | None, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw a layer's parameters, outputs of unit variance on x; set them, return them in fastlrp's layout."""
    shape = tuple(layer.weight.shape)
    shape = (*shape[2:], shape[1], shape[0])  # torch (out, in, ...) → fastlrp (..., in, out)
    weight = rng.normal(size=shape)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.zero_()
        layer.weight.copy_(torch.from_numpy(to_torch_layout(weight, unflattened)))
        weight = (weight / float(layer(x).std())).astype(np.float32)
        layer.weight.copy_(torch.from_numpy(to_torch_layout(weight, unflattened)))
        if layer.bias is None:
            return {"weight": weight}
        bias = rng.normal(scale=0.3, size=shape[-1]).astype(np.float32)
        layer.bias.copy_(torch.from_numpy(bias))
    return {"weight": weight, "bias": bias}


def build_twin(
    layers: list[Spec], x: Tensor, rng: np.random.Generator
) -> tuple[nn.Sequential, dict[str, np.ndarray]]:
    """The torch network of a layer list, and its drawn parameters in fastlrp's layout, ``weight_<i>``."""
    modules, arrays, unflattened = [], {}, None
    for index, (kind, options) in enumerate(layers):
        if kind in ("Linear", "Conv2d"):
            layer = weighted_layer(kind, options, x).double()
            drawn = draw_parameters(layer, x, unflattened, rng)
            arrays |= {f"{name}_{index}": value for name, value in drawn.items()}
            unflattened = None
        else:
            layer = plain_layer(kind, options)
            unflattened = x.shape if kind == "Flatten" else unflattened
        modules.append(layer)
        x = layer(x).detach()
    return nn.Sequential(*modules).requires_grad_(False), arrays


def zennit_bounds(options: dict[str, Any]) -> dict[str, Any]:
    """Bounds per channel as (1, C) tensors, which zennit broadcasts over the positions; numbers stay."""
    as_bound = {key: options[key] for key in ("low", "high") if isinstance(options.get(key), list)}
    return options | {key: torch.tensor([value], dtype=torch.float64) for key, value in as_bound.items()}


def zennit_rule(spec: Spec) -> Any:
    """The zennit rule of a fastlrp rule specification."""
    kind, options = spec
    options = zennit_bounds(options)
    stabiliser = "epsilon" if kind == "Epsilon" else "stabilizer"
    arguments = {stabiliser: options.pop("epsilon", EPSILON)}
    if not options.pop("bias", True):
        arguments["zero_params"] = "bias"
    return getattr(zennit.rules, kind)(**options, **arguments)


def uniform_composite(rule: Spec, first: Spec | None) -> zennit.core.Composite:
    """zennit's base for activations and pools, one rule for all weighted layers, another for the first."""
    # zennit's type Linear covers convolutions too.
    layer_map = [*zennit.composites.layer_map_base(EPSILON), (zennit.types.Linear, zennit_rule(rule))]
    first_map = [(zennit.types.Linear, zennit_rule(first))] if first else []
    return zennit.composites.SpecialFirstLayerMapComposite(layer_map, first_map)


def zennit_composite(spec: Spec) -> zennit.core.Composite:
    """The zennit composite of a fastlrp composite specification, with every stabiliser set."""
    kind, options = spec
    if kind == "uniform":
        return uniform_composite(**options)
    if kind == "deep_taylor":
        first = ["ZBox", options] if options else ["WSquare", {}]
        return uniform_composite(["AlphaBeta", {"alpha": 1, "beta": 0, "bias": False}], first)
    if kind in ("gradient", "gradient_x_input"):
        return zennit.core.Composite()
    if kind == "beta_smooth":
        return zennit.composites.BetaSmooth(beta_smooth=10.0)
    preset = zennit.composites.COMPOSITES[kind]
    if kind in ("deconvnet", "guided_backprop"):
        return preset()
    if kind == "excitation_backprop":
        return preset(stabilizer=EPSILON)
    bounds = zennit_bounds({"low": -1, "high": 1} | options) if kind == "epsilon_gamma_box" else {}
    return preset(epsilon=EPSILON, stabilizer=EPSILON, **bounds)


def explain(model: nn.Module, x: Tensor, composite: Spec, start: Tensor) -> Tensor:
    """Relevance of x, in its layout and precision, for an explicit initial relevance."""
    x = x.clone().requires_grad_()
    with zennit_composite(composite).context(model) as hooked:
        (relevance,) = torch.autograd.grad(hooked(x), x, start)
    return (relevance * x if composite[0] == "gradient_x_input" else relevance).detach()


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C); (N, features) unchanged."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def draw_input(network: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """A float32 batch (N, *input_shape), channels last; see NETWORKS for the two kinds."""
    shape = (SAMPLES, *network["input_shape"])
    signed = network["inputs"] == "signed"
    x = rng.uniform(-1, 1, shape) if signed else rng.uniform(-0.125, 1, shape).clip(0)
    return x.astype(np.float32)


def draw_starts(logits: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Initial relevances (N, outputs): one at a target, the target's logit, a signed value at every output.

    The targets go round, so that losing classes with negative logits are explained too.
    """
    one = torch.eye(logits.shape[1], dtype=torch.float64)[torch.arange(len(logits)) % logits.shape[1]]
    mixed = torch.from_numpy(rng.uniform(0.25, 1, logits.shape) * rng.choice([-1, 1], logits.shape))
    return {"one": one, "logit": one * logits, "mixed": mixed}


def kink_distance(model: nn.Sequential, x: Tensor) -> float:
    """Smallest distance to the change of a gate or of a max pool's winner; exact zeros do not count."""
    smallest = float("inf")
    for layer in model:
        gaps = torch.empty(0)
        if isinstance(layer, nn.ReLU | nn.LeakyReLU | Abs):
            gaps = x.abs()
        elif isinstance(layer, nn.MaxPool2d):
            padded = nn.functional.pad(x, [layer.padding] * 4, value=-torch.inf)
            windows = padded.unfold(2, layer.kernel_size, layer.stride).unfold(
                3, layer.kernel_size, layer.stride
            )
            best = windows.flatten(4).topk(2).values
            gaps = best[..., 0] - best[..., 1]
        smallest = min([smallest, *gaps[gaps != 0].flatten().tolist()])
        x = layer(x)
    return smallest


def single_precision_error(
    model: nn.Module, x: Tensor, composite: Spec, start: Tensor, exact: Tensor
) -> float:
    """Relative L2 error of zennit's float32 run, worst sample; infinite where a map is zero or not finite."""
    rough = explain(copy.deepcopy(model).float(), x.float(), composite, start.float()).double()
    size = exact.flatten(1).norm(dim=1)
    error = float(((rough - exact).flatten(1).norm(dim=1) / size).max())
    return error if np.isfinite(error) else float("inf")


def draw_golden(network: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """All arrays of one golden file; None if the draw is too close to a kink or ill-conditioned."""
    batch = draw_input(network, rng)
    x = torch.from_numpy(batch.astype(np.float64))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
    model, arrays = build_twin(network["layers"], x, rng)
    if kink_distance(model, x) < KINK_MARGIN:
        return None
    logits = model(x)
    starts = draw_starts(logits, rng)
    described = []
    for number, (composite, start) in enumerate(cases_of(network)):
        relevance = explain(model, x, composite, starts[start])
        if single_precision_error(model, x, composite, starts[start], relevance) > SINGLE_PRECISION_LIMIT:
            return None
        arrays[f"relevance_{number}"] = np.ascontiguousarray(channels_last(relevance).numpy())
        described.append(
            {
                "name": case_name(composite, start),
                "composite": composite,
                "start": f"start_{start}",
                "relevance": f"relevance_{number}",
            }
        )
    spec = {"layers": network["layers"], "input_shape": network["input_shape"], "cases": described}
    arrays |= {f"start_{kind}": start.numpy() for kind, start in starts.items()}
    text = np.frombuffer(json.dumps(spec).encode(), dtype=np.uint8)
    return {"spec": text, "input": batch, "logits": logits.numpy(), **arrays}


def draws(name: str) -> Iterator[np.random.Generator]:
    """Generators seeded by the network's name and the draw's number: networks do not depend on each other."""
    for number in range(MAX_DRAWS):
        yield np.random.default_rng([number, *name.encode()])


def main() -> None:
    """Write every golden file and say what was written."""
    torch.set_num_threads(1)
    folder = Path(__file__).resolve().parent
    for name, network in NETWORKS.items():
        found = ((number, draw_golden(network, rng)) for number, rng in enumerate(draws(name)))
        number, arrays = next((pair for pair in found if pair[1] is not None), (MAX_DRAWS, None))
        if arrays is None:
            raise RuntimeError(f"{name}: no well-conditioned draw in {MAX_DRAWS}")
        path = folder / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(
            f"{path.name}: draw {number}, {len(cases_of(network))} maps, {path.stat().st_size / 1e3:.0f} kB"
        )


if __name__ == "__main__":
    main()
