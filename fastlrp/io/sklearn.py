"""scikit-learn's perceptrons as networks: `fastlrp.from_sklearn`.

In: a fitted MLPClassifier or MLPRegressor, or a Pipeline of scalers before one. Out: a network with copies of its
weights, in float32. The model is read, not run, and stays as it is. scikit-learn is imported when called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..layers import Clip, Layer, Linear, ReLU, Scale, Sigmoid, Tanh
from ..network import Network

ACTIVATIONS: dict[str, type[Layer]] = {"logistic": Sigmoid, "tanh": Tanh, "relu": ReLU}  # beside "identity"
OUTPUTS = ("identity", "logistic", "softmax")  # functions that leave the order of the outputs as it is
SUPPORTED = ("an MLPClassifier, or an MLPRegressor of the squared error, alone or in a Pipeline after any number of "
             "StandardScaler and MinMaxScaler steps")


def from_sklearn(model: Any) -> Network:
    """A fitted MLPClassifier or MLPRegressor, or a Pipeline of StandardScaler or MinMaxScaler steps before one.

    Samples have the shape (features,). Outputs are what the last layer computes before its logistic function or
    softmax: a classifier of two classes has one output, the logit of `classes_[1]`, which is predicted where it is
    positive; one of more classes a logit for each, in the order of `classes_`; one of several labels a logit for each
    label; a regressor has its predictions. Scalers become layers, which relevance passes unchanged.

    TypeError where the model is not scikit-learn's, ValueError where a part of it is not fitted, UnsupportedError for
    other estimators, which lists all steps that are.
    """
    try:
        from sklearn.base import BaseEstimator
        from sklearn.pipeline import Pipeline
    except ImportError:
        raise ImportError("from_sklearn needs scikit-learn: pip install fastlrp[sklearn]") from None
    if not isinstance(model, BaseEstimator):
        raise TypeError(f"model must be a scikit-learn estimator, got {model!r}")
    if isinstance(model, Pipeline):
        if not model.steps:
            raise ValueError(f"model must have at least one step, got {model!r}")
        steps = [(f"step {name!r} ({type(step).__name__})", step) for name, step in model.steps]
    else:
        steps = [(type(model).__name__, model)]
    _check(steps)
    *scalers, (_, perceptron) = steps
    layers = [layer for _, scaler in scalers for layer in _scaling(scaler)]
    weights = [np.asarray(weight) for weight in perceptron.coefs_]
    net = Network([*layers, *_dense(perceptron, weights)], (len(weights[0]),), init=None)
    for layer, weight, bias in zip(net.weighted, weights, perceptron.intercepts_, strict=True):
        layer.weight, layer.bias = weight, bias
    return net


def _check(steps: list[tuple[str, Any]]) -> None:
    """UnsupportedError that lists all steps which cannot be layers, ValueError where one is not fitted."""
    from sklearn.exceptions import NotFittedError
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import MinMaxScaler, StandardScaler
    from sklearn.utils.validation import check_is_fitted

    *scalers, (label, last) = steps
    unsupported = [name for name, step in scalers if not isinstance(step, (StandardScaler, MinMaxScaler))]
    if not isinstance(last, (MLPClassifier, MLPRegressor)):
        unsupported.append(f"{label} at the end" if scalers else label)
    elif getattr(last, "out_activation_", "identity") not in OUTPUTS:
        unsupported.append(f"{label} with the output function {last.out_activation_!r}")
    if unsupported:
        raise UnsupportedError(f"model has {', '.join(unsupported)}; supported: {SUPPORTED}")
    for name, step in steps:
        try:
            check_is_fitted(step)
        except NotFittedError:
            raise ValueError(f"model must be fitted, but {name} is not: call its fit first") from None


def _scaling(scaler: Any) -> Iterator[Layer]:
    """A scaler as x · times + plus, and its clipping. Not as Normalize, which takes its inputs to lie in [0, 1]."""
    from sklearn.preprocessing import StandardScaler

    if isinstance(scaler, StandardScaler):
        # mean_ and scale_ may be there without being used.
        times = 1 / scaler.scale_ if scaler.with_std else 1.0
        yield _around(scaler.mean_, times, -scaler.mean_ * times) if scaler.with_mean else Scale(times)
    else:
        yield _around(scaler.data_min_, scaler.scale_, scaler.min_)
        if scaler.clip:
            yield Clip(*scaler.feature_range)


def _around(middle: Any, times: Any, plus: Any) -> Layer:
    """x · times + plus for features around a value, of which single precision keeps the digits where it is subtracted
    first: as it rounds it, and the rest later."""
    minus = np.float32(middle)
    return Scale(times, plus + minus.astype(np.float64) * times, minus=minus)


def _dense(perceptron: Any, weights: list[Any]) -> Iterator[Layer]:
    """The perceptron's layers, but for the function of its outputs."""
    for i, weight in enumerate(weights):
        if i and perceptron.activation != "identity":
            yield ACTIVATIONS[perceptron.activation]()
        yield Linear(weight.shape[1])
