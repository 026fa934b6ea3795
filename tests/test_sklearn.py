"""Networks from scikit-learn: the same decisions and probabilities, and networks like any other."""

import pickle

import numpy as np
import pytest
from cases import relative_error, run_python

import fastlrp

pytest.importorskip("sklearn")

from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(4)
X = RNG.normal(3, [0.1, 1, 10, 1, 5], (80, 5))  # features of very different sizes
CLASS = (X[:, 1] + X[:, 3] > 6).astype(int) + (X[:, 2] > 5)
TARGETS = {"two classes": np.array(["no", "yes"])[np.minimum(CLASS, 1)], "three classes": CLASS * 7,
           "labels": np.stack([CLASS > 0, CLASS > 1, X[:, 4] > 3], axis=1).astype(int),
           "regression": X[:, 1] * 0.3 - X[:, 3], "two regressions": X[:, 1:3] * 0.3}
SCALERS = {"none": [], "standard": [StandardScaler()], "range": [MinMaxScaler((-1, 2))],
           "clipped": [MinMaxScaler(clip=True)], "clipped range": [MinMaxScaler((-2, 3), clip=True)],
           "mean alone": [StandardScaler(with_std=False)], "deviation alone": [StandardScaler(with_mean=False)],
           "neither": [StandardScaler(with_mean=False, with_std=False)],
           "three": [MinMaxScaler(), StandardScaler(), MinMaxScaler((0, 5))]}


def fitted(kind, scalers=(), activation="relu", hidden=(6, 4)):
    """A model that was trained for a few steps, and is no worse for it."""
    perceptron = MLPRegressor if "regression" in kind else MLPClassifier
    model = perceptron(hidden_layer_sizes=hidden, activation=activation, max_iter=30, random_state=1)
    return (make_pipeline(*scalers, model) if scalers else model).fit(X, TARGETS[kind])


def assert_same_predictions(net, model, kind, x=X):
    """Outputs as the model's own, and its decisions from them, in the words of from_sklearn's docstring."""
    outputs = net.forward(x).astype(np.float64)
    if "regression" in kind:
        assert relative_error(outputs, model.predict(x).reshape(outputs.shape)) < 1e-5
        return
    expected = model.predict_proba(x)
    if kind == "three classes":
        probabilities = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        decisions = model.classes_[outputs.argmax(axis=1)]
    elif kind == "two classes":
        positive = 1 / (1 + np.exp(-outputs))
        probabilities, decisions = np.hstack([1 - positive, positive]), model.classes_[(outputs[:, 0] > 0).astype(int)]
    else:
        probabilities, decisions = 1 / (1 + np.exp(-outputs)), (outputs > 0).astype(int)
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)
    sure = (np.abs(expected - 0.5) > 1e-5).all(axis=1)
    np.testing.assert_array_equal(decisions[sure], model.predict(x)[sure])


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 4)], ids=str)
def test_perceptrons(kind, activation, hidden):
    model = fitted(kind, activation=activation, hidden=hidden)
    net = fastlrp.from_sklearn(model)
    assert net.input_shape == (5,)
    assert [layer.kind for layer in net.layers].count("linear") == len(hidden) + 1
    assert_same_predictions(net, model, kind)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("scalers", SCALERS)
def test_scalers(kind, scalers):
    model = fitted(kind, SCALERS[scalers])
    net = fastlrp.from_sklearn(model)
    assert [layer.kind for layer in net.layers].count("scaling") == len(SCALERS[scalers])
    assert_same_predictions(net, model, kind, X * 1.5)  # beyond the range that was fitted


def test_constant_features():
    """Both scalers divide by 1 where a feature has one value alone."""
    x = X.copy()
    x[:, 2] = 7.0
    for scaler in (StandardScaler(), MinMaxScaler()):
        model = make_pipeline(scaler, MLPRegressor(hidden_layer_sizes=3, max_iter=400, random_state=0)).fit(x, x[:, 1])
        assert relative_error(fastlrp.from_sklearn(model).forward(x)[:, 0], model.predict(x)) < 1e-5


@pytest.mark.parametrize("scaler", [StandardScaler(), StandardScaler(with_std=False), MinMaxScaler()], ids=repr)
def test_features_far_from_zero_keep_their_digits(scaler, tmp_path):
    """Single precision holds them to 1e-4: what is subtracted first costs nothing more. As saved, and on the twin."""
    x = np.random.default_rng(0).normal([2000, -1e5, 0.1], [3, 10, 1], (60, 3)).astype(np.float32)
    perceptron = MLPRegressor(hidden_layer_sizes=(), max_iter=5, random_state=0)
    model = make_pipeline(scaler, perceptron).fit(x, x[:, 0] - 2000)
    net, expected = fastlrp.from_sklearn(model), model.predict(x.astype(np.float64))
    net.save(tmp_path / "net.npz")
    for own in (net, fastlrp.load(tmp_path / "net.npz"), net.to_numpy()):
        assert relative_error(own.forward(x)[:, 0], expected) < 1e-6
    np.testing.assert_allclose(net.to_numpy(np.float64).forward(x)[:, 0], expected, rtol=1e-6, atol=1e-6)
    net.test(x)
    assert net.layers[0].nonnegative == "unknown"
    found = net.explain(x, start="one", layers=True)
    np.testing.assert_array_equal(found.relevance, found.layers["scaling1"])


def test_a_scale_that_subtracts():
    """(x − minus) · times + plus: never negative where nothing in it is; what does not fit is named."""
    net = fastlrp.Network([fastlrp.Scale(2, [0, 1, 2], minus=[-1, 0, -3])], input_shape=(3,))
    assert net.forward([[1, 2, 3]]).tolist() == [[4, 5, 14]]
    assert net.layers[0].nonnegative == "as input"
    assert repr(net.layers[0]) == "Scale(times=2.0, plus=[0.0, 1.0, 2.0], minus=[-1.0, 0.0, -3.0])"
    with pytest.raises(ValueError, match=r"minus of shape \(2,\) does not fit samples of shape \(3,\)"):
        fastlrp.Network([fastlrp.Scale(minus=[1, 2])], input_shape=(3,))


def test_a_network_like_any_other(tmp_path):
    model = fitted("three classes", SCALERS["three"])
    net = fastlrp.from_sklearn(model)
    for composite in ("epsilon_plus", "excitation_backprop", "deep_taylor"):
        found = net.explain(X, composite=composite, layers=True)
        assert found.relevance.shape == X.shape
        np.testing.assert_array_equal(found.relevance, found.layers["scaling3"])  # which scalers pass on
    net.test(X)
    net.save(tmp_path / "net.npz")
    np.testing.assert_array_equal(fastlrp.load(tmp_path / "net.npz").forward(X), net.forward(X))
    before = net.forward(X)
    net.fit(X, CLASS, epochs=2)
    assert not np.array_equal(net.forward(X), before)
    assert_same_predictions(fastlrp.from_sklearn(model), model, "three classes")  # its weights are its own


def test_features_are_not_taken_for_pixels():
    """Scalers imply no bounds of the features: deep Taylor is w² on the first layer."""
    net = fastlrp.from_sklearn(fitted("three classes", SCALERS["three"]))
    assert net.input_bounds() is None
    rule = fastlrp.composites.DeepTaylor().override({"linear1": fastlrp.rules.WSquare(None, bias=False)})
    np.testing.assert_array_equal(net.explain(X, composite="deep_taylor").relevance,
                                  net.explain(X, composite=rule).relevance)


def test_relevance_by_hand():
    """Epsilon on one hidden layer, written out, after a scaler."""
    model = fitted("two classes", [StandardScaler()], hidden=(6,))
    net = fastlrp.from_sklearn(model)
    (w1, w2), (b1, b2) = model[-1].coefs_, model[-1].intercepts_
    x = model[0].transform(X)
    z1 = x @ w1 + b1
    h = np.maximum(z1, 0)
    logit = h @ w2 + b2
    np.testing.assert_allclose(net.forward(X), logit, rtol=1e-4, atol=1e-5)
    inner = h * w2[:, 0] / (logit + np.where(logit < 0, -1e-6, 1e-6)) * logit
    expected = x * ((inner / (z1 + np.where(z1 < 0, -1e-6, 1e-6))) @ w1.T)
    found = net.explain(X, composite=fastlrp.composites.Uniform(fastlrp.rules.Epsilon(1e-6))).relevance
    assert relative_error(found, expected) < 1e-4


def test_the_model_is_not_touched():
    model = fitted("three classes", [StandardScaler()])
    before = pickle.dumps(model)
    net = fastlrp.from_sklearn(model)
    net.layers[1].weight = np.zeros_like(net.layers[1].weight)
    net.explain(X)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize(("model", "parts"), [
    (LogisticRegression(), ["LogisticRegression"]),
    (PCA(), ["PCA"]),
    (StandardScaler(), ["StandardScaler"]),
    (make_pipeline(StandardScaler()), ["step 'standardscaler' (StandardScaler)"]),
    (make_pipeline(MLPClassifier(), StandardScaler()), ["(MLPClassifier)", "(StandardScaler) at the end"]),
    (Pipeline([("a", PCA()), ("b", StandardScaler()), ("c", RobustScaler()), ("d", LogisticRegression())]),
     ["step 'a' (PCA)", "step 'c' (RobustScaler)", "step 'd' (LogisticRegression) at the end"]),
], ids=lambda v: "" if isinstance(v, list) else type(v).__name__)
def test_all_unsupported_steps_are_named(model, parts):
    with pytest.raises(fastlrp.UnsupportedError) as error:
        fastlrp.from_sklearn(model)
    for part in [*parts, "supported: an MLPClassifier", "StandardScaler and MinMaxScaler"]:
        assert part in str(error.value)
    assert "'b'" not in str(error.value)


def test_a_regressor_of_counts_is_unsupported():
    """Its outputs are exponentials."""
    model = MLPRegressor(hidden_layer_sizes=2, max_iter=500, random_state=0)
    if "loss" not in model.get_params():
        pytest.skip("this scikit-learn has one loss")
    model.set_params(loss="poisson").fit(X, CLASS)
    with pytest.raises(fastlrp.UnsupportedError, match="MLPRegressor with the output function 'exp'"):
        fastlrp.from_sklearn(model)


@pytest.mark.parametrize(("model", "part"), [
    (MLPClassifier(), "MLPClassifier"), (make_pipeline(StandardScaler(), MLPRegressor()), "step 'standardscaler'"),
    (make_pipeline(StandardScaler().fit(X), MLPRegressor()), "step 'mlpregressor'"),
], ids=["alone", "no step", "the last step"])
def test_models_must_be_fitted(model, part):
    with pytest.raises(ValueError, match=rf"model must be fitted, but {part}.* is not"):
        fastlrp.from_sklearn(model)


@pytest.mark.parametrize("model", [None, "mlp", MLPClassifier, np.zeros(3)], ids=repr)
def test_other_objects(model):
    with pytest.raises(TypeError, match="model must be a scikit-learn estimator, got"):
        fastlrp.from_sklearn(model)


def test_pipelines_without_steps():
    with pytest.raises(ValueError, match=r"model must have at least one step, got Pipeline\(steps=\[\]\)"):
        fastlrp.from_sklearn(Pipeline([]))


def test_without_scikit_learn():
    done = run_python("import sys; sys.modules['sklearn'] = None; import fastlrp; fastlrp.from_sklearn(1)")
    assert done.stderr.strip().endswith("ImportError: from_sklearn needs scikit-learn: pip install fastlrp[sklearn]")
