"""Training: gradients against finite differences and the twin, losses, optimisers, stopping, the loop."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import LINEAR, WINDOWS, assert_same_bits, relative_error, with_biases, with_statistics

import fastlrp
from fastlrp import Conv2d, Dropout, Flatten, Format, Linear, Network, ReLU, _kernels, program
from fastlrp.layers import Layer, ParameterLayer, WeightedLayer
from fastlrp.train import (
    LOSSES,
    SGD,
    Adam,
    GeneralizationLoss,
    History,
    Patience,
    accuracy,
    gradients,
    loop,
    mean_squared_error,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from fastlrp.train.recorded import RecordedStep, record

DIGITS = fastlrp.datasets.digits()
Parameters = dict[str, dict[str, np.ndarray]]


def parameters(net: Network) -> Parameters:
    return {layer.name: layer.trained for layer in net.parametric}


def assert_same_parameters(found: Parameters, expected: Parameters) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        for key, value in values.items():
            assert_same_bits(found[name][key], value, f"{name}.{key}")


def assign(net: Network, values: Parameters) -> None:
    for layer in net.parametric:
        for key, value in values[layer.name].items():
            setattr(layer, key, value)


def perceptron(seed: int = 0, hidden: int = 12) -> Network:
    """Of 6 inputs and 4 outputs."""
    return Network([Linear(hidden), ReLU(), Linear(4)], (6,), seed=seed)


def blobs(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples of 4 overlapping classes for `perceptron`."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 4, n)
    return (rng.standard_normal((4, 6))[t] + 0.7 * rng.standard_normal((n, 6))).astype(np.float32), t


# ---- gradients ----


def weighted_case(name: str) -> Network:
    shape, options = LINEAR[name]
    layers = [Conv2d(**options), Flatten()] if "kernel" in options else [Linear(**options)]
    return with_biases(Network(layers, shape))


def pool_case(pool: type, name: str, **more: Any) -> Network:
    """The pool's input is a convolution's output, whose parameters need the pool's backward pass."""
    (height, width, channels), kernel, stride, padding = WINDOWS[name]
    layers = [Conv2d(channels, 1), pool(kernel, stride, padding, **more), Flatten()]
    return with_biases(Network(layers, (height, width, 2)))


def between(*layers: Layer, first: Layer | None = None, shape: tuple[int, ...] = (6, 5, 3)) -> Network:
    """Layers without parameters between layers that have them, so that their backward pass is needed."""
    return with_biases(Network([first or Conv2d(4, 2), *layers, Flatten(), Linear(3)], shape))


GRADIENTS: dict[str, Callable[[], Network]] = {
    **{name: lambda name=name: weighted_case(name) for name in LINEAR},
    "no bias": lambda: Network([Conv2d(5, 3, bias=False), ReLU(), Flatten(), Linear(3, bias=False)], (6, 7, 2)),
    **{f"max pool, {name}": lambda name=name: pool_case(fastlrp.MaxPool2d, name) for name in WINDOWS},
    **{f"sum pool, {name}": lambda name=name: pool_case(fastlrp.SumPool2d, name, scale="sqrt") for name in WINDOWS},
    **{f"average pool, {name}, {'all' if count else 'inside'}":
       lambda name=name, count=count: pool_case(fastlrp.AvgPool2d, name, count_include_pad=count)
       for name in WINDOWS for count in (True, False)},
    "max pool, dilated": lambda: between(fastlrp.MaxPool2d(2, 1, dilation=(2, 1), ceil_mode=True)),
    "average pool, ceil": lambda: between(fastlrp.AvgPool2d(2, 3, 1, ceil_mode=True)),
    "adaptive average pool": lambda: between(fastlrp.AdaptiveAvgPool2d((3, 4))),
    "adaptive max pool": lambda: between(fastlrp.AdaptiveMaxPool2d((5, 2))),
    "global average pool": lambda: between(fastlrp.GlobalAvgPool2d()),
    "upsample": lambda: between(fastlrp.Upsample((2, 1)), Conv2d(3, 2)),
    "identity": lambda: between(fastlrp.Identity()),
    "scale": lambda: between(fastlrp.Scale([1, -2, 0, 0.5], 0.25), ReLU()),
    "batch norm": lambda: with_statistics(between(fastlrp.BatchNorm(), ReLU())),
    "batch norm, first and last": lambda: with_statistics(
        Network([fastlrp.BatchNorm(0.1), Linear(3), fastlrp.BatchNorm()], (5,))),
    "relu": lambda: between(ReLU()),
    "leaky relu": lambda: between(fastlrp.LeakyReLU(0.3)),
    "tanh": lambda: between(fastlrp.Tanh()),
    "sigmoid": lambda: between(fastlrp.Sigmoid()),
    "abs": lambda: between(fastlrp.Abs()),
    "softplus": lambda: between(fastlrp.Softplus()),
    "relu6": lambda: between(fastlrp.ReLU6()),
    "clip": lambda: between(fastlrp.Clip(-0.5, 1)),
    "prelu": lambda: between(fastlrp.PReLU([0.25, -1, 0, 2])),
    "elu": lambda: between(fastlrp.ELU(0.5)),
    "selu": lambda: between(fastlrp.SELU()),
    "gelu": lambda: between(fastlrp.GELU()),
    "gelu, tanh": lambda: between(fastlrp.GELU("tanh")),
    "silu": lambda: between(fastlrp.SiLU()),
    "hardswish": lambda: between(fastlrp.Hardswish()),
    "hardsigmoid": lambda: between(fastlrp.Hardsigmoid()),
    "mish": lambda: between(fastlrp.Mish()),
    "pad": lambda: between(fastlrp.Pad2d(((1, 2), (0, 3)), 0.7), Conv2d(3, 2)),
    "format": lambda: between(first=Format(-1, 1)),
    "format inside": lambda: between(Format(-1, 2)),
    "normalize inside": lambda: between(fastlrp.Normalize([0.1, 0.2, -0.3, 0], [2, 3, 0.5, 1])),
    "reshape": lambda: between(fastlrp.Reshape((4, 5, 4)), Conv2d(3, 2)),
    "dropout": lambda: between(Dropout(0.3), ReLU(), Dropout(0.5)),
    "deep": lambda: between(ReLU(), Conv2d(6, 2, groups=2, padding="same"), fastlrp.Tanh(), fastlrp.MaxPool2d(2),
                            Dropout(0.2)),
}


def draw_batch(net: Network, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((n, *net.input_shape)), rng.standard_normal((n, *net.output_shape))


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_the_slope_of_the_loss(name: str) -> None:
    """Central differences on the float64 twin, for every parameter along a random direction of its own."""
    net = GRADIENTS[name]().to_numpy()
    x, t = draw_batch(net)

    def run() -> tuple[float, Any]:
        return gradients(net, x, t, "mean_squared_error", rng=np.random.default_rng(3))

    value, found = run()
    assert isinstance(value, float) and found.keys() == parameters(net).keys()
    rng, step = np.random.default_rng(1), 1e-6
    for layer in net.parametric:
        assert found[layer.name].keys() == layer.trained.keys()
        for key, start in layer.trained.items():
            direction = rng.standard_normal(start.shape)
            values = []
            for sign in (1, -1):
                setattr(layer, key, start + sign * step * direction)
                values.append(run()[0])
            setattr(layer, key, start)
            assert found[layer.name][key].shape == start.shape
            expected = (values[0] - values[1]) / (2 * step)
            assert (found[layer.name][key] * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_the_twins(isa: str, name: str) -> None:
    """In single precision, on every instruction set."""
    net = GRADIENTS[name]()
    x, t = (array.astype(np.float32) for array in draw_batch(net, 9))
    value, found = gradients(net, x, t, "mean_squared_error", rng=np.random.default_rng(3))
    expected_value, expected = gradients(net.to_numpy(), x, t, "mean_squared_error", rng=np.random.default_rng(3))
    assert value == pytest.approx(expected_value, rel=1e-5)
    for layer, values in expected.items():
        for key, gradient in values.items():
            assert found[layer][key].dtype == np.float32
            assert relative_error(found[layer][key], gradient) < 1e-5, (layer, key)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_every_loss(isa: str, loss: str) -> None:
    x, t = blobs()
    value, found = gradients(perceptron(), x, t, loss)
    expected_value, expected = gradients(perceptron().to_numpy(), x, t, loss)
    assert value == pytest.approx(expected_value, rel=1e-5)
    for layer, values in expected.items():
        for key, gradient in values.items():
            assert relative_error(found[layer][key], gradient) < 1e-5, (layer, key)


def test_gradients_stop_at_the_first_parameters() -> None:
    """What lies below costs nothing: its backward pass, and the first convolution's, are never asked for."""
    net = Network([Format(-1, 1), Conv2d(3, 2), ReLU(), Flatten(), Linear(4)], (4, 4, 1))
    for layer in net.layers[:2]:
        layer.backward = None
    gradients(net, np.zeros((2, 4, 4, 1)), [0, 1])


# ---- losses ----


def naive(loss: str, y: np.ndarray, t: np.ndarray) -> float:
    """The formula as in a textbook."""
    if loss == "sigmoid_cross_entropy":
        p = 1 / (1 + np.exp(-y))
        return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())
    if loss == "softmax_cross_entropy":
        p = np.exp(y) / np.exp(y).sum(axis=-1, keepdims=True)
        return float(-(t * np.log(p)).sum(axis=-1).mean())
    return float(((y - t) ** 2).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_their_formulas(loss: str) -> None:
    """The value, and the gradient by central differences; targets need not be one-hot."""
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal((3, 5)) * 3, rng.random((3, 5))
    value, gradient = LOSSES[loss](y, t)
    assert isinstance(value, float) and value == pytest.approx(naive(loss, y, t), rel=1e-12)
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = 1e-5
        expected = (naive(loss, y + step, t) - naive(loss, y - step, t)) / 2e-5
        assert gradient[index] == pytest.approx(expected, rel=1e-6, abs=1e-10)
    single = LOSSES[loss](y.astype(np.float32), t.astype(np.float32))
    assert single[1].dtype == np.float32 and single[0] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "right", "wrong", "slope"), [
    (sigmoid_cross_entropy, 0, 1e4, 1 / 2), (softmax_cross_entropy, 0, 2e4, 1)])
def test_cross_entropies_of_large_logits(dtype: Any, loss: Callable, right: float, wrong: float, slope: float) -> None:
    """No overflow, no warning: the loss grows with the logits, the gradient saturates."""
    with np.errstate(all="raise", under="ignore"):
        y = np.array([[1e4, -1e4]], dtype)
        value, gradient = loss(y, np.array([[1, 0]], dtype))
        assert value == right and (gradient == 0).all()
        value, gradient = loss(y, np.array([[0, 1]], dtype))
        assert value == wrong
        np.testing.assert_array_equal(gradient, np.array([[slope, -slope]], dtype))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(("output", "target", "error", "words"), [
    (np.zeros((2, 3)), np.zeros((2, 1)), ValueError, "same shape"),
    (np.zeros((0, 3)), np.zeros((0, 3)), ValueError, "at least one"),
    ([[0.0]], np.zeros((1, 1)), TypeError, "output must be an array"),
    (np.zeros((1, 1)), np.zeros((1, 1), int), TypeError, "target must be an array of floats, got int64")])
def test_losses_refuse_what_does_not_fit(loss: Callable, output: Any, target: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        loss(output, target)


# ---- optimisers ----


def textbook(optimizer: Any, value: np.ndarray, slopes: list[np.ndarray]) -> np.ndarray:
    """Parameters after one step for each gradient, as the papers write it."""
    m, v = np.zeros_like(value), np.zeros_like(value)
    rate, decay = optimizer.learning_rate, optimizer.weight_decay
    for step, g in enumerate(slopes, 1):
        if isinstance(optimizer, SGD):
            m = optimizer.momentum * m + g + decay * value
            value = value - rate * m
            continue
        m = optimizer.beta1 * m + (1 - optimizer.beta1) * g
        v = optimizer.beta2 * v + (1 - optimizer.beta2) * g ** 2
        m_hat, v_hat = m / (1 - optimizer.beta1 ** step), v / (1 - optimizer.beta2 ** step)
        value = value - rate * decay * value
        value = value - rate * m_hat / (np.sqrt(v_hat) + optimizer.epsilon)
    return value


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": SGD, "sgd with momentum": lambda: SGD(0.1, momentum=0.9),
    "sgd with decay": lambda: SGD(0.1, weight_decay=0.2), "sgd with both": lambda: SGD(0.05, 0.5, 0.1),
    "adam": Adam, "adam, other numbers": lambda: Adam(0.1, 0.5, 0.8, 0.1), "adam without memory": lambda: Adam(1, 0, 0),
    "adam with decay": lambda: Adam(0.1, weight_decay=0.3)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_their_formulas(name: str, dtype: Any) -> None:
    """Arrays of one value, of one block and of several; nothing given is written to."""
    rng, optimizer, owner = np.random.default_rng(0), OPTIMIZERS[name](), perceptron()
    starts = [rng.standard_normal(shape).astype(dtype) for shape in ((1,), (3, 4), (2, 20000))]
    slopes = [[rng.standard_normal(start.shape).astype(dtype) for start in starts] for _ in range(6)]
    values = starts
    for array in (*starts, *(slope for step in slopes for slope in step)):
        array.flags.writeable = False
    for step in slopes:
        values, _ = optimizer.update(owner, values, step)
    for i, (value, start) in enumerate(zip(values, starts, strict=True)):
        expected = textbook(optimizer, start.astype(np.float64), [step[i].astype(np.float64) for step in slopes])
        assert value.dtype == dtype
        assert relative_error(value, expected) < (1e-6 if dtype == np.float32 else 1e-13)


def test_default_numbers() -> None:
    adam, sgd = Adam(), SGD()
    assert (adam.learning_rate, adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay) == (1e-3, 0.9, 0.999, 1e-8, 0)
    assert (sgd.learning_rate, sgd.momentum, sgd.weight_decay) == (0.01, 0, 0)


def test_an_optimizer_passed_again_goes_on() -> None:
    """With the whole data in each batch, two fits of one step are one fit of two steps; a name starts anew."""
    x, t = blobs()
    results = {}
    for name, optimizers, epochs in (("one fit", [Adam(0.05)], 2), ("two fits", [Adam(0.05)] * 2, 1),
                                     ("anew", [Adam(0.05), Adam(0.05)], 1)):
        net, other = perceptron().to_numpy(), perceptron(1).to_numpy()
        for optimizer in optimizers:
            net.fit(x, t, epochs=epochs, batch_size=len(x), optimizer=optimizer)
            other.fit(x, t, epochs=epochs, batch_size=len(x), optimizer=optimizer)  # has moments of its own
        results[name] = net.layers[0].weight
    assert relative_error(results["two fits"], results["one fit"]) < 1e-12
    assert relative_error(results["anew"], results["one fit"]) > 1e-4


def test_the_learning_rate_may_change_between_steps() -> None:
    x, t = blobs()
    optimizer, net, seen = SGD(0.1), perceptron(), []

    def callback(step: int, loss: float) -> None:
        optimizer.learning_rate = 1e-30
        seen.append(net.layers[0].weight)

    net.fit(x, t, epochs=3, batch_size=60, optimizer=optimizer, callback=callback)
    assert_same_bits(seen[0], seen[2])


# ---- stopping ----


@pytest.mark.parametrize(("step", "scores", "goes_on", "why"), [
    (9999, [0.9, 0.1], True, "fewer than three evaluations"),
    (4999, [0.99, 0.1, 0.1], True, "before the minimum of steps"),
    (5000, [0.99, 0.1, 0.1], False, "error 90 times the best"),
    (5000, [0.75, 0.5, 0.0], True, "error exactly 4 times the best"),
    (5000, [0.75, 0.5, -0.01], False, "error more than 4 times the best"),
    (5000, [0.1, 0.2, 0.3], True, "the last is the best"),
    (5000, [1.0, 1.0, 1.0], True, "perfect, and still so"),
    (5000, [0.5, 1.0, 0.9999], False, "no longer perfect"),
    (5000, [0.9] + [0.8] * 9, True, "9 evaluations since the best"),
    (5000, [0.9] + [0.8] * 10, False, "10 evaluations since the best"),
    (5000, [0.9] * 11, False, "a score no better than the best is no new best"),
    (5000, [0.1] * 30 + [0.9] + [0.8] * 13, True, "44 evaluations are fewer than 1.5 times 30"),
    (5000, [0.1] * 30 + [0.9] + [0.8] * 14, False, "45 evaluations are 1.5 times 30"),
    (5000, [-0.1, -0.4, -0.2], True, "a regression's 1 - loss: loss 1.2 against 1.1"),
    (5000, [0.9, 0.5, 0.5], False, "a regression's 1 - loss: loss 0.5 against 0.1")])
def test_generalization_loss(step: int, scores: list[float], goes_on: bool, why: str) -> None:
    assert GeneralizationLoss(300, 5000)(step, scores) is goes_on, why


def test_patience() -> None:
    """Equal scores are no progress."""
    goes_on = [Patience(2)(0, scores) for scores in ([0.5], [0.5, 0.4], [0.5, 0.4, 0.5], [0.5, 0.4, 0.6],
                                                     [0.5, 0.6, 0.1, 0.6])]
    assert goes_on == [True, True, False, True, False]


def run_watched(**more: Any) -> tuple[Network, History, list[Parameters]]:
    """A restless run that overfits, with the parameters after each step."""
    net, after = perceptron(), []
    x, t = blobs(40)
    history = net.fit(x, t, epochs=10, batch_size=5, optimizer=SGD(1.5, momentum=0.8), validation_every=2,
                      validation_data=blobs(50, seed=1), callback=lambda *_: after.append(parameters(net)), **more)
    return net, history, after


@pytest.mark.parametrize("more", [{"patience": 3}, {"criterion": lambda step, scores: step < 31}, {"patience": 999},
                                  {"criterion": GeneralizationLoss(20, 10)}], ids=str)
def test_early_stopping_ends_with_the_best_parameters(more: dict[str, Any]) -> None:
    net, history, after = run_watched(**more)
    values = [score.value for score in history.validation]
    assert history.best.value == max(values) > min(values) and history.best.step < history.steps
    assert history.best == next(score for score in history.validation if score.value == max(values))
    assert [score.step for score in history.validation] == list(range(2, history.steps + 1, 2))
    assert_same_parameters(parameters(net), after[history.best.step - 1])
    assert accuracy(net, *blobs(50, seed=1)) == history.best.value
    assert history.stopped_early == (history.steps < 80)
    if more == {"patience": 3}:
        assert history.validation[-4] is history.best and history.stopped_early


def test_without_early_stopping_the_last_parameters_stay() -> None:
    net, history, after = run_watched()
    assert history.steps == len(after) == 80 and not history.stopped_early
    assert_same_parameters(parameters(net), after[-1])


def test_a_criterion_sees_every_score_and_more_is_better() -> None:
    x, t = blobs()
    calls: list[Any] = []

    def criterion(step: int, scores: list[float]) -> bool:
        calls.append((step, scores))
        return True

    net = perceptron()
    history = net.fit(x, t, epochs=2, batch_size=25, validation_data=(x, t), criterion=criterion)
    assert calls == [(3, [history.validation[0].value]), (6, [score.value for score in history.validation])]
    real = np.linspace(0, 1, 240).reshape(60, 4)
    history = net.fit(x, real, loss="mean_squared_error", validation_data=(x, real), criterion=criterion)
    assert history.metric == "loss" and calls[-1] == (2, [1 - history.validation[0].value])


# ---- the loop ----


def test_a_step_is_gradients_optimiser_assignment() -> None:
    """One full batch by hand."""
    x, t = blobs()
    net, other = perceptron().to_numpy(), perceptron().to_numpy()
    history = net.fit(x, t, batch_size=len(x), optimizer="sgd", loss="softmax_cross_entropy")
    value, slopes = gradients(other, x, t, "softmax_cross_entropy")
    assert history.losses == [pytest.approx(value, rel=1e-12)] and history.steps == 1 and history.best is None
    for layer in net.weighted:
        for key, start in parameters(other)[layer.name].items():
            np.testing.assert_allclose(layer.parameters[key], start - 0.01 * slopes[layer.name][key], rtol=1e-12)


def test_an_epoch_meets_every_sample_once() -> None:
    """In another order each time; the last batch is smaller."""
    seen: list[np.ndarray] = []

    def loss(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(target[:, 0].copy())
        return 0.0, np.zeros_like(output)

    net = Network([Linear(1)], (1,))
    history = net.fit(np.zeros((10, 1)), np.arange(10), epochs=2, batch_size=4, loss=loss)
    assert history.steps == 6 and [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second) and list(first) != list(range(10))


def test_dropout_does_not_change_the_order_of_samples() -> None:
    orders: list[list[float]] = []

    def loss(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        orders[-1] += target[:, 0].tolist()
        return 0.0, np.zeros_like(output)

    for layers in ([Linear(1)], [Dropout(), Linear(1)]):
        orders.append([])
        Network(layers, (1,)).fit(np.zeros((10, 1)), np.arange(10), epochs=3, batch_size=4, loss=loss)
    assert orders[0] == orders[1]


def test_the_last_step_is_evaluated_too() -> None:
    history = perceptron().fit(X, T, epochs=2, batch_size=20, validation_data=(X, T), validation_every=4)
    assert [score.step for score in history.validation] == [4, 6]


def small_lenet(seed: int = 0) -> Network:
    return Network([Format(-1, 1), Conv2d(6, 5, stride=2), ReLU(), fastlrp.SumPool2d(2, scale="sqrt"), Conv2d(12, 3),
                    ReLU(), Dropout(0.2), Flatten(), Linear(10)], (28, 28, 1), seed=seed)


@pytest.mark.usefixtures("threads")
def test_a_seed_makes_a_run_reproducible_bit_for_bit(isa: str) -> None:
    """Shuffling and dropout; the number of threads changes nothing."""
    results = []
    for count, seed in ((1, 5), (2, 5), (3, 5), (2, 5), (1, 6)):
        fastlrp.set_num_threads(count)
        net = small_lenet()
        history = net.fit(DIGITS.train.x[:260], DIGITS.train.t[:260], batch_size=64, seed=seed)
        results.append((history.losses, parameters(net)))
    for losses, values in results[1:4]:
        assert losses == results[0][0]
        assert_same_parameters(values, results[0][1])
    assert results[4][0] != results[0][0]


def test_seed_none_draws_another_order_each_time() -> None:
    runs = [perceptron().fit(*blobs(), batch_size=10, seed=None).losses for _ in range(2)]
    assert runs[0] != runs[1]


def test_a_few_steps_on_digits_lower_the_loss() -> None:
    history = small_lenet().fit(DIGITS.train.x[:1000], DIGITS.train.t[:1000], epochs=2)
    assert history.steps == 40 and np.mean(history.losses[-5:]) < 0.5 * np.mean(history.losses[:5])


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "softmax_cross_entropy"])
def test_a_perceptron_learns_digits(loss: str) -> None:
    net = Network([Format(-1, 1), Flatten(), Linear(64), ReLU(), Linear(10)], (28, 28, 1))
    data = DIGITS.validation
    history = net.fit(DIGITS.train.x, DIGITS.train.t, epochs=3, loss=loss, validation_data=(data.x, data.t))
    assert [score.step for score in history.validation] == [70, 140, 210]
    assert history.metric == "accuracy" and history.validation[-1].value > 0.85
    assert accuracy(net, data.x, data.t) == history.validation[-1].value == accuracy(net, data.x, data.t, batch_size=7)
    assert accuracy(net, data.x, data.one_hot(10)) == history.validation[-1].value


def test_regression() -> None:
    """A linear map is found again, and the score is the loss."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((200, 3)), rng.standard_normal((3, 2))
    t = x @ weight + 0.5
    net = Network([Linear(2)], (3,))
    history = net.fit(x, t, epochs=60, batch_size=20, optimizer=Adam(0.05), loss="mean_squared_error",
                      validation_data=(x, t))
    assert history.metric == "loss" and history.best.value == min(score.value for score in history.validation)
    assert history.validation[-1].value == pytest.approx(mean_squared_error(net.forward(x).astype(float), t)[0])
    np.testing.assert_allclose(net.layers[0].weight, weight, atol=1e-3)
    np.testing.assert_allclose(net.layers[0].bias, 0.5, atol=1e-3)


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "mean_squared_error"])
def test_a_single_output_takes_targets_in_a_row(loss: str) -> None:
    """(N,) means (N, 1), even for integers; the score is the loss."""
    x, t = blobs()
    results = []
    for target in (t % 2, (t % 2).astype(float)[:, None]):
        net = Network([Linear(1)], (6,))
        results.append(net.fit(x, target, epochs=2, loss=loss, validation_data=(x, target)))
    assert results[0] == results[1] and results[0].metric == "loss"


def test_outputs_of_any_shape() -> None:
    """A map of outputs learns from a map of targets."""
    net = Network([Conv2d(2, 3, padding="same")], (5, 4, 2))
    x = np.random.default_rng(0).standard_normal((20, 5, 4, 2))
    history = net.fit(x, x, epochs=30, batch_size=10, optimizer=Adam(0.02), loss="mean_squared_error",
                      validation_data=(x, x))
    assert history.metric == "loss" and history.losses[-1] < 0.3 * history.losses[0]


X, T = blobs()
SAME_DATA: dict[str, tuple[Any, Any]] = {
    "one-hot": (X, np.eye(4)[T]), "integers one-hot": (X, np.eye(4, dtype=int)[T]), "unsigned": (X, T.astype(np.uint8)),
    "double": (X.astype(np.float64), T), "lists": (X.tolist(), T.tolist()), "Fortran order": (np.asfortranarray(X), T),
    "big endian": (X.astype(">f4"), T.astype(">i2")), "strided": (np.repeat(X, 2, axis=0)[::2], np.repeat(T, 2)[::2])}


@pytest.mark.parametrize("name", SAME_DATA)
def test_data_of_every_kind_give_the_same_bits(name: str) -> None:
    nets = [perceptron(), perceptron()]
    histories = [net.fit(*data, validation_data=data) for net, data in zip(nets, ((X, T), SAME_DATA[name]),
                                                                           strict=True)]
    assert histories[0] == histories[1]
    assert_same_parameters(*map(parameters, nets))


def test_data_are_not_modified() -> None:
    x, t = X.copy(), np.eye(4, dtype=np.float32)[T]
    for array in (x, t):
        array.flags.writeable = False
    perceptron().fit(x, t, validation_data=(x, t))
    assert_same_bits(x, X)


def test_the_twin_trains_alike() -> None:
    net, twin = perceptron(), perceptron().to_numpy()
    for trained in (net, twin):
        trained.fit(X, T, epochs=3, batch_size=20, optimizer=Adam(0.01))
    assert twin.layers[0].weight.dtype == np.float64
    assert relative_error(net.layers[0].weight, twin.layers[0].weight) < 1e-4


def test_a_function_as_loss() -> None:
    """It is given one-hot rows; the same formula gives the same bits."""
    def loss(output: np.ndarray, target: np.ndarray) -> tuple[Any, Any]:
        assert output.shape == target.shape and output.dtype == target.dtype == np.float32
        assert ((target == 0) | (target == 1)).all() and (target.sum(axis=1) == 1).all()
        value, gradient = mean_squared_error(output, target)
        return np.float64(value), gradient.astype(np.float64)

    nets = [perceptron(), perceptron()]
    histories = [net.fit(X, T, loss=own, validation_data=(X, T)) for net, own in
                 zip(nets, (loss, "mean_squared_error"), strict=True)]
    assert histories[0] == histories[1] and histories[0].metric == "accuracy"
    assert_same_parameters(*map(parameters, nets))


def test_callbacks() -> None:
    """Every step is told, with its loss, after it has happened; True stops, and nothing else does."""
    net, calls, weights = perceptron(), [], [perceptron().layers[0].weight]

    def callback(step: int, loss: float) -> Any:
        calls.append((step, loss))
        weights.append(net.layers[0].weight)
        return [None, 1, "yes", np.True_][step - 1]

    history = net.fit(X, T, epochs=5, batch_size=20, callback=callback, validation_data=(X, T))
    assert calls == list(enumerate(history.losses, 1)) and history.steps == 4 and history.stopped_early
    assert all((before != after).any() for before, after in itertools.pairwise(weights))


def test_progress(capsys: pytest.CaptureFixture) -> None:
    """On standard error, with loss and accuracy; by default not where that is no terminal."""
    for progress in (None, False):
        perceptron().fit(X, T, progress=progress)
    assert capsys.readouterr() == ("", "")
    history = perceptron().fit(X, T, progress=True, validation_data=(X, T))
    shown = capsys.readouterr()
    assert shown.out == "" and "training: 100%" in shown.err
    assert repr(history) == (f"History(2 steps, best accuracy {history.best.value:.4g} after 2, "
                             f"last loss {history.losses[-1]:.4g})")
    assert f"loss {history.losses[-1]:.4g}, accuracy {history.validation[-1].value:.4g}" in shown.err


# ---- what goes wrong on the way ----


def interrupting(call: int, function: Callable) -> Callable:
    """The function, until its `call`-th call is interrupted before it begins."""
    count = itertools.count(1)

    def run(*args: Any, **more: Any) -> Any:
        if next(count) == call:
            raise KeyboardInterrupt
        return function(*args, **more)

    return run


def interrupted(monkeypatch: pytest.MonkeyPatch, place: str) -> Network:
    """A network whose training is interrupted in its third step, or between it and the fourth."""
    net, more = perceptron(), {}
    if place == "loss":
        more["loss"] = interrupting(3, sigmoid_cross_entropy)
    if place == "optimizer":
        monkeypatch.setattr(Adam, "_apply", interrupting(3, Adam._apply))
    if place == "assignment":
        monkeypatch.setattr(WeightedLayer, "_store", interrupting(10, WeightedLayer._store))
    if place == "callback":
        more["callback"] = interrupting(3, lambda step, loss: None)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, T, epochs=2, batch_size=12, **more)
    monkeypatch.undo()
    return net


@pytest.mark.parametrize(("place", "steps"), [("loss", 2), ("optimizer", 2), ("assignment", 3), ("callback", 3)])
def test_an_interruption_leaves_the_last_finished_step(monkeypatch: pytest.MonkeyPatch, place: str, steps: int) -> None:
    """Wherever it comes, all parameters are of one step, and the network can be used and trained."""
    net, expected = interrupted(monkeypatch, place), perceptron()
    expected.fit(X, T, epochs=2, batch_size=12, callback=lambda step, loss: step == steps)
    assert_same_parameters(parameters(net), parameters(expected))
    assert_same_bits(net.forward(X), expected.forward(X))
    assert net.fit(X, T).losses == expected.fit(X, T).losses


def test_an_interruption_ends_the_optimizers_memory() -> None:
    optimizer, net = Adam(0.01), perceptron()

    def callback(step: int, loss: float) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        net.fit(X, T, optimizer=optimizer, callback=callback)
    other = perceptron()
    assign(other, parameters(net))
    assert net.fit(X, T, optimizer=optimizer).losses == other.fit(X, T, optimizer=Adam(0.01)).losses


def nan_loss(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    return math.nan, np.zeros_like(output)


def nan_gradient(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.0, np.full_like(output, np.nan)


def huge_gradient(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.0, np.full_like(output, 1e30)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("x", "more", "words"), [
    (np.where(np.arange(6) == 2, np.nan, X), {}, "the loss is nan at step 1"),
    (X, {"loss": nan_loss}, "the loss is nan at step 1"),
    (X, {"loss": nan_gradient}, "linear1.weight is not finite after step 1"),
    (X, {"loss": nan_gradient, "optimizer": "sgd"}, "linear1.weight is not finite after step 1"),
    (X, {"loss": huge_gradient}, "the update of the parameters fails at step 1"),
    (X, {"optimizer": SGD(1e38)}, "step"),
    (X, {"optimizer": SGD(1e12), "loss": "mean_squared_error"}, "step")])
def test_divergence_is_told_and_the_parameters_stay_finite(x: np.ndarray, more: dict[str, Any], words: str) -> None:
    net, after = perceptron(), [parameters(perceptron())]
    with pytest.raises(FloatingPointError, match=words):
        net.fit(x, T, epochs=40, batch_size=60, callback=lambda *_: after.append(parameters(net)), **more)
    assert_same_parameters(parameters(net), after[-1])
    assert all(np.isfinite(a).all() for values in parameters(net).values() for a in values.values())


def test_divergence_with_early_stopping_restores_the_best() -> None:
    net, after = perceptron(), []

    def loss(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        return (math.inf if len(after) == 30 else 0.0), mean_squared_error(output, target)[1]

    with pytest.raises(FloatingPointError, match="step 31"):
        net.fit(X, T, epochs=40, batch_size=60, optimizer=Adam(0.5), loss=loss, validation_data=(X, T),
                patience=99, callback=lambda *_: after.append((accuracy(net, X, T), parameters(net))))
    best = max(range(30), key=lambda i: after[i][0])
    assert best < 29
    assert_same_parameters(parameters(net), after[best][1])


def test_a_validation_loss_that_is_not_finite_is_told() -> None:
    real = np.zeros((60, 4))
    with pytest.raises(FloatingPointError, match="the validation loss is nan after step 2"):
        perceptron().fit(X, real, loss="mean_squared_error", validation_data=(np.full_like(X, np.nan), real))


# ---- bad arguments ----

REAL = np.zeros((60, 4))
BAD: dict[str, tuple[dict[str, Any], type, str]] = {
    "x of another shape": ({"x": np.zeros((60, 7))}, ValueError, r"x must have shape \(N, 6\), got \(60, 7\)"),
    "x without samples": ({"x": X[:0], "t": T[:0]}, ValueError, "x must hold at least one sample"),
    "x of strings": ({"x": X.astype(str)}, TypeError, "x must be an array of real numbers"),
    "x ragged": ({"x": [[1], [1, 2]]}, ValueError, "x must be an array: .*inhomogeneous"),
    "x masked": ({"x": np.ma.masked_less(X, 0)}, TypeError, "x must be an array of real numbers, got a masked one"),
    "t ragged": ({"t": [[1], [1, 2]]}, ValueError, "t must be an array: .*inhomogeneous"),
    "t masked": ({"t": np.ma.masked_equal(T, 1)}, TypeError, "t must be an array of real numbers, got a masked one"),
    "loss with a ragged value": ({"loss": lambda y, t: ([[1], [1, 2]], y)}, ValueError, "the value of loss must be"),
    "progress": ({"progress": "x"}, TypeError, "progress must be True or False, got 'x'"),
    "x a number": ({"x": 1.0}, ValueError, "x must have shape"),
    "t too short": ({"t": T[:-1]}, ValueError, "t must hold one target for each sample: expected 60, got 59"),
    "classes too large": ({"t": T + 1}, ValueError, "t must hold classes between 0 and 3, got 1 to 4"),
    "classes negative": ({"t": T - 1}, ValueError, "t must hold classes between 0 and 3, got -1 to 2"),
    "classes as floats": ({"t": T.astype(float)}, ValueError, r"t must be integer classes .* got shape \(60,\) of fl"),
    "one-hot of another width": ({"t": np.eye(5)[T]}, ValueError, r"have shape \(60, 4\), got shape \(60, 5\)"),
    "t of strings": ({"t": T.astype(str)}, TypeError, "t must be integer classes or an array of real numbers"),
    "t complex": ({"t": REAL + 1j}, TypeError, "t must be .* got dtype complex128"),
    "t a number": ({"t": 3}, ValueError, r"got shape \(\)"),
    "t not a number": ({"t": REAL + np.nan}, ValueError, "t must be finite"),
    "t beyond one": ({"t": REAL + 2}, ValueError, r"t must lie in \[0, 1\] for sigmoid_cross_entropy"),
    "t below zero": ({"t": REAL - 1, "loss": "softmax_cross_entropy"}, ValueError, r"in \[0, 1\] for softmax_cross"),
    "epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "epochs a float": ({"epochs": 2.0}, TypeError, "epochs must be an int"),
    "batch_size": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "batch_size a string": ({"batch_size": "50"}, TypeError, "batch_size must be an int"),
    "optimizer": ({"optimizer": "adamw"}, ValueError, "optimizer must be one of .*'adam', 'sgd'.* got 'adamw'"),
    "optimizer's class": ({"optimizer": Adam}, TypeError, "optimizer must be one of"),
    "loss": ({"loss": "l1"}, ValueError, "loss must be one of .*'mean_squared_error'.* got 'l1'"),
    "loss a number": ({"loss": 3}, TypeError, "loss must be one of"),
    "loss without gradient": ({"loss": lambda y, t: 1.0}, TypeError, r"loss must return \(value, gradient\)"),
    "loss with many values": ({"loss": lambda y, t: (y, y)}, TypeError, "value of loss must be one real number"),
    "loss with a gradient of another shape": ({"loss": lambda y, t: (0.0, y[0])}, ValueError,
                                              r"gradient of loss must have the output's shape \(50, 4\), got \(4,\)"),
    "loss with a gradient of strings": ({"loss": lambda y, t: (0.0, "no")}, TypeError, "the gradient of loss must be"),
    "validation_data no pair": ({"validation_data": X}, TypeError, "validation_data must be a pair"),
    "validation_data of three": ({"validation_data": (X, T, T)}, TypeError, "must be a pair .* got tuple of 3"),
    "validation inputs": ({"validation_data": (X[:, :2], T)}, ValueError, r"validation_data\[0\] must have shape"),
    "validation targets": ({"validation_data": (X, T[:3])}, ValueError, r"validation_data\[1\] must hold one"),
    "validation empty": ({"validation_data": (X[:0], T[:0])}, ValueError, r"validation_data\[0\] must hold at least"),
    "validation_every": ({"validation_data": (X, T), "validation_every": 0}, ValueError, "validation_every must be at"),
    "validation_every alone": ({"validation_every": 5}, ValueError, "validation_data must be given"),
    "patience alone": ({"patience": 5}, ValueError, "validation_data must be given"),
    "criterion alone": ({"criterion": GeneralizationLoss(5)}, ValueError, "validation_data must be given"),
    "patience": ({"validation_data": (X, T), "patience": 0}, ValueError, "patience must be at least 1, got 0"),
    "patience and criterion": ({"validation_data": (X, T), "patience": 1, "criterion": print}, ValueError, "not both"),
    "criterion": ({"validation_data": (X, T), "criterion": 5}, TypeError, "criterion must be called as"),
    "callback": ({"callback": 5}, TypeError, "callback must be called as"),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    "seed a float": ({"seed": 1.5}, TypeError, "seed must be an int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    """And the network is as it was."""
    changes, error, words = BAD[name]
    net = perceptron()
    with pytest.raises(error, match=words):
        net.fit(**{"x": X, "t": T, **changes})
    assert_same_parameters(parameters(net), parameters(perceptron()))


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: Adam(0), ValueError, r"learning_rate must be a number in \(0, inf\), got 0"),
    (lambda: Adam(math.nan), ValueError, "learning_rate"), (lambda: Adam("fast"), TypeError, "learning_rate must be a"),
    (lambda: SGD(math.inf), ValueError, "learning_rate"), (lambda: SGD(True), TypeError, "learning_rate"),
    (lambda: Adam(10**400), ValueError, "learning_rate must be a number that a float can hold"),
    (lambda: Adam(1j), TypeError, "learning_rate"), (lambda: Adam(np.ones(2)), TypeError, "learning_rate"),
    (lambda: GeneralizationLoss(10**400), ValueError, "alpha"), (lambda: GeneralizationLoss(True), TypeError, "alpha"),
    (lambda: gradients(perceptron(), X, T, rng=3), TypeError, "rng must be a NumPy generator or None, got 3"),
    (lambda: Adam(beta1=1), ValueError, r"beta1 must be a number in \[0, 1\), got 1"),
    (lambda: Adam(beta2=-0.1), ValueError, "beta2"), (lambda: Adam(epsilon=0), ValueError, "epsilon"),
    (lambda: Adam(weight_decay=-1), ValueError, "weight_decay"), (lambda: SGD(momentum=1.0), ValueError, "momentum"),
    (lambda: GeneralizationLoss(-1), ValueError, "alpha"), (lambda: GeneralizationLoss("5"), TypeError, "alpha"),
    (lambda: GeneralizationLoss(math.nan), ValueError, "alpha"), (lambda: Patience(0), ValueError, "patience"),
    (lambda: GeneralizationLoss(5, -1), ValueError, "minimum_steps must be at least 0, got -1"),
    (lambda: accuracy(perceptron(), X, REAL + 0.5), ValueError, "t must be integer classes"),
    (lambda: accuracy(perceptron(), X[:0], T[:0]), ValueError, "x must hold at least one sample"),
    (lambda: accuracy(perceptron(), X, T[:5]), ValueError, "t must hold one target"),
    (lambda: gradients(perceptron(), X, T + 9), ValueError, "t must hold classes"),
    (lambda: Network([ReLU()], (6,)).fit(X, X, loss="mean_squared_error"), ValueError, "no parameters to train"),
    (lambda: Network([Linear(1)], (6,)).fit(X, REAL[:, 0], loss="softmax_cross_entropy"), ValueError, "single output"),
    (lambda: Network([Conv2d(2, 1)], (1, 1, 6)).fit(X.reshape(-1, 1, 1, 6), T), ValueError, "no list of classes")])
def test_bad_numbers_and_calls_are_refused_by_name(make: Callable[[], Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_every_argument_of_fit_is_explained() -> None:
    code = fastlrp.train.fit.__code__
    for name in code.co_varnames[1:code.co_argcount + code.co_kwonlyargcount]:
        assert re.search(rf"\b{name}\b", fastlrp.train.fit.__doc__), name


def residual() -> Network:
    """Two branches that meet, pools of both kinds, a strided and a grouped convolution, one without bias."""
    x = fastlrp.Input((9, 8, 2))
    h = fastlrp.MaxPool2d(2)(ReLU()(Conv2d(6, 3, padding=1)(x)))
    y = fastlrp.Tanh()(Conv2d(6, 3, padding=1, groups=2, bias=False)(h))
    h = fastlrp.SumPool2d((2, 2))(fastlrp.Add()(h, y))
    return Network.from_graph(x, Linear(4)(Flatten()(fastlrp.Sigmoid()(Conv2d(8, 1, stride=2)(h)))), seed=2)


def digits() -> Network:
    """A convolution of few weights, and one over its whole input: on the way back, sections and the whole batch."""
    return Network([Conv2d(5, 3), ReLU(), fastlrp.AvgPool2d(2), Conv2d(9, 4), ReLU(), Flatten(), Linear(4)],
                   (10, 10, 1), seed=3)


def five_taps() -> Network:
    """A convolution whose weights are transformed (F(2x2, 5x5)) for every step."""
    return Network([Conv2d(24, 5, padding=2), ReLU(), Flatten(), Linear(4)], (6, 7, 8), seed=4)


def not_recorded(*anything: Any) -> None:
    return None


@pytest.mark.parametrize("make", [perceptron, residual, digits, five_taps])
@pytest.mark.usefixtures("isa")
def test_recorded_steps_have_the_bits_of_others(make: Callable[[], Network], monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of several sizes, samples side by side in some of them, with parameters and options that a callback
    changes on the way."""
    monkeypatch.setattr(program, "VECTORS_SIDE_BY_SIDE", (1,))
    rng, used, right = np.random.default_rng(3), [], RecordedStep.run_back

    def watched(self: RecordedStep, g: np.ndarray, values: Any) -> Any:
        used.append(len(g))
        return right(self, g, values)
    monkeypatch.setattr(RecordedStep, "run_back", watched)
    found, expected = make(), make()
    x, t = rng.standard_normal((43, *found.input_shape)), rng.integers(0, 4, 43)

    def changing(net: Network) -> Callable[[int, float], None]:
        def callback(step: int, loss: float) -> None:
            if step == 2:
                net.parametric[0].weight = net.parametric[0].weight * 0.5
                net.parametric[-1].bias = net.parametric[-1].bias + 1
        return callback

    more = {"epochs": 2, "batch_size": 20, "seed": 1}
    losses = found.fit(x, t, callback=changing(found), **more).losses
    assert used == 2 * [20, 20, 3]
    monkeypatch.setattr(loop, "record", not_recorded)
    assert losses == expected.fit(x, t, callback=changing(expected), **more).losses and len(used) == 6
    assert_same_parameters(parameters(found), parameters(expected))


@pytest.mark.parametrize("gradient", [np.broadcast_to(np.float32(0.5), 9),
                                      np.linspace(1, 2, 9, dtype=np.float32)[::-1]])
def test_gradients_may_have_any_strides(gradient: np.ndarray) -> None:
    net, old = perceptron(), np.ones(9, np.float32)
    (found,), _ = Adam().update(net, [old], [gradient])
    (expected,), _ = Adam().update(net, [old], [gradient.copy()])
    assert_same_bits(found, expected)


@pytest.mark.parametrize("batch_size", [4, 20])
def test_what_ran_before_training_sees_its_weights(batch_size: int) -> None:
    """Fewer samples than a vector has lanes, and more: a recorded step keeps no old weights alive."""
    net, rng = digits(), np.random.default_rng(5)
    x = rng.standard_normal((20, *net.input_shape))
    before, explained = net.forward(x), net.explain(x).relevance
    net.fit(x, rng.integers(0, 4, 20), batch_size=batch_size)
    other = digits()
    for layer, trained in zip(other.weighted, net.weighted, strict=True):
        layer.weight, layer.bias = trained.weight, trained.bias
    assert_same_bits(net.forward(x), other.forward(x))
    assert_same_bits(net.explain(x).relevance, other.explain(x).relevance)
    assert not np.array_equal(net.forward(x), before) and not np.array_equal(net.explain(x).relevance, explained)


def test_a_network_that_changes_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slope that a callback sets counts from the next step on."""
    def train() -> Network:
        net = Network([Linear(12), fastlrp.LeakyReLU(0.1), Linear(4)], (6,), seed=0)
        net.fit(X, T, batch_size=12, callback=lambda step, loss: setattr(net.layers[1], "slope", 0.5))
        return net
    found = train()
    monkeypatch.setattr(loop, "record", not_recorded)
    assert_same_parameters(parameters(found), parameters(train()))


def test_two_fits_of_one_network_do_not_meet_in_its_programs() -> None:
    """A fit inside another one's loss runs as if nothing were recorded."""
    def nested(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        net.fit(X[:3], T[:3], batch_size=3)
        return sigmoid_cross_entropy(output, target)
    net = perceptron()
    assert all(map(math.isfinite, net.fit(X, T, batch_size=12, loss=nested).losses))
    assert net.fit(X, T).losses


def test_what_cannot_be_recorded_trains_all_the_same() -> None:
    """Dropout draws, BatchNorm's parameters are constants of programs, the twin has none."""
    for layers in ([Linear(8), Dropout(0.5), Linear(4)], [Linear(8), fastlrp.BatchNorm(), Linear(4)]):
        net = Network(layers, (6,), seed=0)
        assert record(net, loop._back) is None
        before = parameters(net)
        net.fit(X, T)
        assert all(not np.array_equal(before[name][key], value)
                   for name, of in parameters(net).items() for key, value in of.items())
    assert record(perceptron().to_numpy(), loop._back) is None


class HalfBias(Linear):
    """A layer of a user's: half of its bias counts."""

    def forward(self, ops: Any, x: Any) -> tuple[Any, Any]:
        return ops.product(self, ("w",), [(x, "plain", None)], bias=self.bias * np.float32(0.5)), None


class Gain(ParameterLayer):
    """A layer of a user's with a parameter of its own, kept in double precision; assignment cuts it off at 2."""

    def __init__(self, name: str | None = None):
        super().__init__(name)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gain": self.in_shape}

    @property
    def gain(self) -> np.ndarray:
        return self._parameter("gain")

    @gain.setter
    def gain(self, value: Any) -> None:
        self._store("gain", np.minimum(np.asarray(value, np.float64), 2))

    def initialise(self, rng: np.random.Generator, init: str) -> None:
        self.gain = np.ones(self.in_shape)

    def forward(self, ops: Any, x: Any) -> tuple[Any, Any]:
        return ops.affine(x, times=self.gain), None

    def backward(self, ops: Any, g: Any, x: Any, kept: Any) -> Any:
        return ops.affine(g, times=self.gain)

    def gradients(self, ops: Any, g: Any, x: Any) -> dict[str, np.ndarray]:
        return {"gain": ops.channel_sum(ops.multiply(g, x)).astype(np.float64)}


@pytest.mark.parametrize("make", [lambda: HalfBias(12), Gain])
def test_layers_of_others_train_as_on_the_twin(make: Callable[[], Layer]) -> None:
    """Nothing of theirs is taken for constant, and what they do on assignment is done."""
    net = Network([Linear(6), make(), ReLU(), Linear(4)], (6,), seed=0)
    twin = net.to_numpy()
    net.forward(X)  # programs of before training are not run after it
    more = {"epochs": 3, "batch_size": 12, "seed": 1, "optimizer": Adam(0.05)}
    np.testing.assert_allclose(net.fit(X, T, **more).losses, twin.fit(X, T, **{**more, "optimizer": Adam(0.05)}).losses,
                               rtol=1e-4)
    assert relative_error(net.forward(X), twin.forward(X)) < 1e-4


def test_parameters_stay_read_only_after_training() -> None:
    """Also by way of the array that small ones share."""
    net = perceptron()
    net.fit(X, T)
    for layer in net.parametric:
        for value in layer.trained.values():
            with pytest.raises(ValueError, match=r"WRITEABLE|writeable"):
                value.view().flags.writeable = True


def test_neighbours_are_joined_without_a_copy() -> None:
    """Parts of one array that follow one another; all others, whatever their strides and types, are copied."""
    whole, other = np.arange(12, dtype=np.float32), np.arange(12, dtype=np.float32)
    a, b, c = whole[1:3], whole[3:9].reshape(2, 3), whole[9:]
    assert np.shares_memory(_kernels.joined([a, b, c]), whole)
    for arrays in ([a, b, c], [a, c], [b, a], [a, other[3:5]], [a, b.T], [a, b.view(np.int32)], [a.copy(), b.copy()],
                   [whole[::2]], [whole.reshape(3, 4)[:, 1], whole[10:]], [np.broadcast_to(a[:1], (2, 2)), b]):
        expected = np.concatenate([array.reshape(-1) for array in arrays])
        np.testing.assert_array_equal(_kernels.joined(arrays), expected, strict=True)


def test_what_failed_to_be_recorded_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = perceptron()

    def without_memory(self: RecordedStep, *anything: Any) -> None:
        raise MemoryError
    with monkeypatch.context() as m:
        m.setattr(RecordedStep, "__init__", without_memory)
        with pytest.raises(MemoryError):
            record(net, loop._back)
    assert record(net, loop._back) is not None
