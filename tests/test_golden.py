"""Relevance maps against zennit's, on the networks and composites of ``tests/golden`` (see its README)."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastlrp

FOLDER = Path(__file__).parent / "golden"
NETWORKS = sorted(path.stem for path in FOLDER.glob("*.npz") if not path.stem.startswith("format"))
TOLERANCE = {"highest": 1e-5, "float64": 1e-10}  # relative L2 error of each sample


@functools.cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The specification and the arrays of one golden file."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(arrays["spec"].tobytes()), arrays


@functools.cache
def network(name: str) -> fastlrp.Network:
    """The fastlrp network of one golden file, with its parameters."""
    spec, arrays = golden(name)
    layers = [getattr(fastlrp, kind)(**as_arguments(options)) for kind, options in spec["layers"]]
    net = fastlrp.Network(layers, input_shape=tuple(spec["input_shape"]))
    for index, layer in enumerate(net.layers):
        if f"weight_{index}" in arrays:
            layer.weight = arrays[f"weight_{index}"]
        if f"bias_{index}" in arrays:
            layer.bias = arrays[f"bias_{index}"]
    return net


def as_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Layer options as a user writes them: JSON knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def as_rule(spec: list[Any] | None) -> Any:
    """A rule of ``fastlrp.rules`` from [name, options]; lists are bounds per channel."""
    if spec is None:
        return None
    kind, options = spec
    return getattr(fastlrp.rules, kind)(**as_bounds(options))


def as_bounds(options: dict[str, Any]) -> dict[str, Any]:
    """Options with their bounds per channel as arrays of shape (C,)."""
    return {key: np.array(value) if isinstance(value, list) else value for key, value in options.items()}


def as_composite(spec: list[Any]) -> Any:
    """A preset's name, a preset with options, or ``Uniform``, from [name, options]."""
    kind, options = spec
    if kind == "uniform":
        return fastlrp.composites.Uniform(as_rule(options["rule"]), first=as_rule(options["first"]))
    if not options:
        return kind
    class_name = "".join(word.capitalize() for word in kind.split("_"))
    return getattr(fastlrp.composites, class_name)(**as_bounds(options))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The relative L2 error of the worst sample; the batch is the first axis."""
    assert found.shape == expected.shape
    axes = tuple(range(1, expected.ndim))
    difference = np.sqrt(((found.astype(np.float64) - expected) ** 2).sum(axis=axes))
    return float((difference / np.sqrt((expected**2).sum(axis=axes))).max())


CASES = [
    pytest.param(name, case, id=f"{name}-{case['name']}")
    for name in NETWORKS
    for case in golden(name)[0]["cases"]
]


def test_golden_files_exist() -> None:
    """Without files the tests below would pass by having no cases."""
    assert NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_gives_the_logits(name: str) -> None:
    """The two twins are the same network."""
    _, arrays = golden(name)
    assert relative_error(network(name).forward(arrays["input"]), arrays["logits"]) <= 1e-5


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_relevance_equals_zennit(name: str, case: dict[str, Any], precision: str) -> None:
    """From the same initial relevance, in single precision and on the float64 twin."""
    _, arrays = golden(name)
    explanation = network(name).explain(
        arrays["input"],
        composite=as_composite(case["composite"]),
        start=arrays[case["start"]],
        precision=precision,
    )
    assert relative_error(explanation.relevance, arrays[case["relevance"]]) <= TOLERANCE[precision]


GRAPHS = sorted(path.stem for path in (FOLDER / "graphs").glob("*.npz"))
GRAPH_CASES = [pytest.param(name, number, id=f"{name}-{case['composite']}") for name in GRAPHS
               for number, case in enumerate(golden(f"graphs/{name}")[0]["cases"])]


@functools.cache
def graph(name: str) -> fastlrp.Network:
    """The network of one golden file of graphs, with its parameters."""
    spec, arrays = golden(f"graphs/{name}")
    values = [fastlrp.Input(spec["input_shape"])]
    for kind, options, layer_name, reads in spec["nodes"]:
        layer = getattr(fastlrp, kind)(**as_arguments(options), name=layer_name)
        values.append(layer(*(values[i] for i in reads)))
    net = fastlrp.Network.from_graph(values[0], values[spec["output"]], channels_first=True, init=None)
    for layer in net.layers:
        for key in ("weight", "bias", "mean", "variance"):
            if f"{layer.name}/{key}" in arrays:
                setattr(layer, key, arrays[f"{layer.name}/{key}"])
    return net


def test_golden_graphs_exist() -> None:
    """Residual, concatenated, depthwise, gated, and down and up."""
    assert GRAPHS == ["densenet", "efficientnet", "mobilenet", "resnet", "unet"]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_give_the_output(name: str, precision: str) -> None:
    _, arrays = golden(f"graphs/{name}")
    found = graph(name).forward(arrays["input"], precision=precision)
    assert relative_error(found, arrays["output"]) <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "number"), GRAPH_CASES)
def test_relevance_of_graphs_equals_zennit(name: str, number: int, precision: str) -> None:
    """Sums registered, gates constant, BatchNorm merged where a convolution makes its input, else passed."""
    spec, arrays = golden(f"graphs/{name}")
    case = spec["cases"][number]
    composite = case["composite"]
    if composite == "epsilon_gamma_box":
        composite = fastlrp.composites.EpsilonGammaBox(*spec["bounds"])
    found = graph(name).explain(arrays["input"], composite=composite, start=arrays[case["start"]],
                                precision=precision, compat="zennit")
    assert relative_error(found.relevance, arrays[f"relevance_{number}"]) <= TOLERANCE[precision]
