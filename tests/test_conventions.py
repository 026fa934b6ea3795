"""Conventions of other projects, against their formulas written out layer by layer, window by window."""

import math

import numpy as np
import pytest
from cases import relative_error

import fastlrp
from fastlrp.composites import Composite, EpsilonPlusFlat, Uniform
from fastlrp.rules import CONVENTIONS, AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZPlus

# ------------------------------------------------------------------------------------------ the LRP toolbox

# how the toolbox is asked: (its name of the rule, its parameter), as a rule of fastlrp
TOOLBOX = {
    "simple": (("simple", None), Epsilon(None)),
    "epsilon 0.01": (("epsilon", 0.01), Epsilon(0.01)),
    "epsilon 10": (("epsilon", 10.0), Epsilon(10.0)),
    "alphabeta 1": (("alphabeta", 1.0), AlphaBeta(1, 0, None)),
    "alphabeta 2": (("alphabeta", 2.0), AlphaBeta(2, 1, None)),
    "alphabeta 1.5": (("alphabeta", 1.5), AlphaBeta(1.5, 0.5, None)),
}


def share(terms, bias, relevance, rule, weak):
    """One output's relevance among its terms (the products x·w); `weak`: the simple rule's stabiliser."""
    kind, parameter = rule
    y = terms.sum() + bias
    if kind != "alphabeta":
        epsilon = weak if kind == "simple" else parameter
        return terms / (y + (epsilon if y >= 0 else -epsilon)) * relevance
    positive = terms * (terms > 0)
    upper = positive.sum() + max(bias, 0) + 1e-16
    found = parameter * positive / upper * relevance
    if parameter != 1:
        found = found + (1 - parameter) * (terms - positive) / (y - upper - 1e-16) * relevance
    return found


def toolbox(net, x, relevance, rule):
    """Relevance of one sample's input, layer by layer."""
    values = [x]
    for layer in net.layers:
        values.append(forward(layer, values[-1]))
    for layer, value, y in zip(net.layers[::-1], values[-2::-1], values[:0:-1], strict=True):
        relevance = back(layer, value, y, relevance.reshape(y.shape), rule)
    return relevance


def windows(layer, x):
    """(output position, slices of the input) of a convolution or pool without padding."""
    (h, w), (down, right) = layer.kernel, layer.stride
    for i in range((x.shape[0] - h) // down + 1):
        for j in range((x.shape[1] - w) // right + 1):
            yield (i, j), (slice(i * down, i * down + h), slice(j * right, j * right + w))


def forward(layer, x):
    if layer.kind in ("relu", "tanh"):
        return np.maximum(x, 0) if layer.kind == "relu" else np.tanh(x)
    if layer.kind == "flatten":
        return x.reshape(-1)
    if layer.kind == "linear":
        return x @ layer.weight.astype(float) + layer.bias
    y = np.zeros(layer.out_shape)
    for at, window in windows(layer, x):
        for c in range(y.shape[2]):
            if layer.kind == "conv":
                y[(*at, c)] = (x[window] * layer.weight[..., c].astype(float)).sum() + layer.bias[c]
            elif layer.kind == "sumpool":
                y[(*at, c)] = x[window][..., c].sum() / math.sqrt(x[window][..., c].size)
            else:
                y[(*at, c)] = x[window][..., c].max()
    return y


def back(layer, x, y, relevance, rule):
    if layer.kind in ("relu", "tanh", "flatten"):
        return relevance.reshape(x.shape)
    found = np.zeros(x.shape)
    if layer.kind == "linear":
        for j, r in enumerate(relevance):
            found += share(x * layer.weight[:, j].astype(float), float(layer.bias[j]), r, rule, 1e-16)
        return found
    for at, window in windows(layer, x):
        for c in range(y.shape[2]):
            r, part = relevance[(*at, c)], x[window][..., c % x.shape[2]]
            if layer.kind == "conv":
                terms = x[window] * layer.weight[..., c].astype(float)
                found[window] += share(terms, float(layer.bias[c]), r, rule, 1e-16)
            elif layer.kind == "sumpool":
                found[window][..., c] += share(part, 0.0, r, rule, 1e-12)
            else:
                ties = part == y[(*at, c)]
                found[window][..., c] += ties / ties.sum() * r
    return found


def biased(net, seed):
    rng = np.random.default_rng(seed)
    for layer in net.weighted:
        layer.bias = rng.normal(0, 0.3, layer.out)
    return net


F = fastlrp
NETS = {
    "perceptron": lambda: F.Network([F.Linear(7), F.Tanh(), F.Linear(6), F.ReLU(), F.Linear(3)], (5,), seed=1),
    "LeNet": lambda: F.Network([F.Conv2d(4, 3), F.ReLU(), F.SumPool2d(2, scale="sqrt"), F.Conv2d(5, 2), F.ReLU(),
                                F.SumPool2d(2, scale="sqrt"), F.Flatten(), F.Linear(3)], (11, 10, 2), seed=2),
    "sums of both signs": lambda: F.Network(
        [F.SumPool2d((2, 3), (1, 2), scale="sqrt"), F.Conv2d(4, (2, 3), (2, 1)), F.Tanh(),
         F.SumPool2d((2, 1), 1, scale="sqrt"), F.Flatten(), F.Linear(4)], (8, 13, 2), seed=3),
    "maxima": lambda: F.Network([F.MaxPool2d(3, (1, 2)), F.Conv2d(3, 2), F.ReLU(), F.MaxPool2d(2), F.Flatten(),
                                 F.Linear(3)], (9, 12, 2), seed=4),
}


def samples(net, n=3):
    """Where maxima are taken of pixels, these have one of five values, so that ties are frequent."""
    rng, shape = np.random.default_rng(5), (n, *net.input_shape)
    return rng.choice([-1, -0.5, 0.25, 0.5, 1], shape) if net.layers[0].kind == "maxpool" else rng.normal(size=shape)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rule", TOOLBOX)
def test_lrp_toolbox(name, rule):
    net = biased(NETS[name](), 6)
    x, (own, ours) = samples(net), TOOLBOX[rule]
    start = np.random.default_rng(7).normal(size=(len(x), *net.output_shape))
    expected = np.stack([toolbox(net, x[i], start[i], own) for i in range(len(x))])
    options = {"composite": Uniform(ours), "start": start, "compat": "lrp_toolbox"}
    assert relative_error(net.explain(x, precision="float64", **options).relevance, expected) < 1e-10
    assert relative_error(net.explain(x, **options).relevance, expected) < 1e-5


def test_the_networks_have_ties():
    """The test above is one of them too: relevance is elsewhere where the first winner has it all."""
    net = biased(NETS["maxima"](), 6)
    x = samples(net)
    ours, other = (net.explain(x, composite=Uniform(Epsilon(0.1)), start=np.ones((len(x), 3)), compat=compat).relevance
                   for compat in ("lrp_toolbox", "zennit"))
    assert relative_error(ours, other) > 0.1


@pytest.mark.parametrize("precision", ["highest", "float64"])
def test_ties_share_relevance_equally(precision):
    net = F.Network([F.MaxPool2d(2), F.Flatten()], (2, 4, 1))
    x = np.array([[[1, 3, 2, 2], [3, 3, 2, 2]], [[-1, -1, np.nan, 5], [-1, -2, np.nan, 5]]])[..., None]
    found = net.explain(x, composite=Uniform(Epsilon()), start=[[6, 8], [6, 8]], compat="lrp_toolbox",
                        precision=precision).relevance[..., 0]
    np.testing.assert_allclose(found, [[[0, 2, 2, 2], [2, 2, 2, 2]], [[2, 2, 4, 0], [2, 0, 4, 0]]], rtol=1e-6)
    first = net.explain(x, composite=Uniform(Epsilon()), start=[[6, 8], [6, 8]], precision=precision).relevance[..., 0]
    np.testing.assert_allclose(first, [[[0, 6, 8, 0], [0, 0, 0, 0]], [[6, 0, 0, 0], [0, 0, 8, 0]]])
    gradient = net.explain(x, composite="gradient", start=[[6, 8], [6, 8]], compat="lrp_toolbox").relevance[..., 0]
    np.testing.assert_allclose(gradient, first)


# rule of the composite: a sum pool's relevance of (1, 3, −2) with R = 12
POOL_RULES = {
    Epsilon(None): [6, 18, -12], Epsilon(1.0): [4, 12, -8], AlphaBeta(1, 0, None): [3, 9, 0],
    AlphaBeta(2, 1, None): [6, 18, -12], ZPlus(None): [3, 9, 0], Flat(): [4, 4, 4], WSquare(): [4, 4, 4],
    Gamma(1.0, 0.0): [4, 12, -4],
}


@pytest.mark.parametrize("rule", POOL_RULES, ids=str)
@pytest.mark.parametrize("pool", [F.SumPool2d((1, 3), scale="sqrt"), F.SumPool2d((1, 3), scale=7.0),
                                  F.SumPool2d((1, 3), scale=-1.0), F.AvgPool2d((1, 3)), F.GlobalAvgPool2d(),
                                  F.AdaptiveAvgPool2d(1)], ids=repr)
@pytest.mark.parametrize("precision", ["highest", "float64"])
def test_sum_pools_take_the_rule_of_convolutions(rule, pool, precision):
    """On the sum itself, whatever the pool scales it by."""
    net = F.Network([type(pool)(**pool.config())], (1, 3, 1))
    composite = Composite("pool", (("linear", Epsilon()), ("convolution", rule)))
    found = net.explain([[[[1], [3], [-2]]]], composite=composite, start=[[[[12]]]], compat="lrp_toolbox",
                        precision=precision).relevance
    expected = np.array(POOL_RULES[rule], float)
    if rule == AlphaBeta(2, 1, None):
        expected = np.array([2 * 12 * 1 / 4, 2 * 12 * 3 / 4, -12.0])
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize(("pool", "x", "start", "expected"), [
    (F.SumPool2d((1, 2), ceil_mode=True), [1, 3, -2], [8, 5], [2, 6, 5]),
    (F.AvgPool2d((1, 2), padding=((0, 0), (1, 0))), [1, 3, -2], [8, 5], [8, 15, -10]),
    (F.AdaptiveAvgPool2d((1, 2)), [1, 3, -2], [8, 5], [2, 6 + 15, -10]),
    (F.AdaptiveAvgPool2d((1, 3)), [1, 3, -2, 4, 5], [8, 5, 9], [2, 6 + 3, -2, 4 + 4, 5]),  # uneven: by the Norm rule
], ids=repr)
def test_windows_of_sum_pools(pool, x, start, expected):
    net = F.Network([type(pool)(**pool.config())], (1, len(x), 1))
    found = net.explain(np.reshape(x, (1, 1, -1, 1)), composite=Uniform(Epsilon(1e-9)), compat="lrp_toolbox",
                        start=np.reshape(start, (1, 1, -1, 1))).relevance
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize(("composite", "expected"), [
    (Composite("own", (("convolution", Flat()), ("sum", Norm(1.0)))), [4, 12, -8]),
    (Composite("own", (("sumpool", Epsilon(1.0)), ("convolution", Flat()))), [4, 12, -8]),
    (Composite("own", (("linear", Flat()),)), [6, 18, -12]),
    (EpsilonPlusFlat().override({"sumpool1": Epsilon(1.0)}), [4, 12, -8]),
    (EpsilonPlusFlat(), [3, 9, 0]), ("simple", [6, 18, -12]), ("gradient", [12 / 3**0.5] * 3),
], ids=["role", "kind", "none", "layer", "preset", "methods", "gradient"])
def test_which_rule_a_sum_pool_takes(composite, expected):
    net = F.Network([F.SumPool2d((1, 3), scale="sqrt")], (1, 3, 1))
    found = net.explain([[[[1], [3], [-2]]]], composite=composite, start=[[[[12]]]], compat="lrp_toolbox").relevance
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_rules_of_linear_layers_stay_off_pools_elsewhere():
    net = F.Network([F.SumPool2d(2)], (2, 2, 1))
    with pytest.raises(ValueError, match=r"rule ZPlus.* does not apply to layer 'sumpool1'"):
        net.explain(np.ones((1, 2, 2, 1)), composite={"sumpool1": ZPlus()}, start=np.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"rule ZPlus.* does not apply to layer 'add1'"):
        a = F.Input((2,))
        add = F.Network.from_graph(a, F.Add()(a, a))
        add.explain(np.ones((1, 2)), composite={"add1": ZPlus()}, compat="lrp_toolbox")


@pytest.mark.parametrize("compat", CONVENTIONS)
@pytest.mark.parametrize("name", ["sums of both signs", "maxima"])
def test_conventions_run_as_programs(compat, name, monkeypatch):
    """Recorded or not, in any batches, beside samples of other signs: the same bits."""
    net = biased(NETS[name](), 6)
    x = samples(net, 5)
    x[1] = np.abs(x[1])

    def maps(**more):
        return np.stack([net.explain(x, composite=Uniform(rule), compat=compat, **more).relevance
                         for rule in (Epsilon(None), AlphaBeta(2, 1, None))])

    recorded = maps()
    assert len(net._programs) >= 2
    for size in (1, 2):
        np.testing.assert_array_equal(maps(batch_size=size), recorded)
    monkeypatch.setattr(F.Network, "_record", lambda *_: (None, None))
    net = biased(NETS[name](), 6)
    np.testing.assert_array_equal(maps(), recorded)
    assert not net._programs


@pytest.mark.parametrize("precision", ["highest", "float64"])
def test_stabilisers_where_a_sum_cancels(precision):
    """They keep out the division by zero, not the size of the quotient, in single precision too; zeros stay zeros."""
    net = F.Network([F.Linear(1, bias=False)], (3,))
    net.layers[0].weight = [[1], [-1], [1]]
    x = np.array([[0.5, 0.5, 0], [0, 0, 0]])
    more = {"composite": Uniform(Epsilon(None)), "compat": "lrp_toolbox", "precision": precision}
    found = net.explain(x, start=[[1], [1]], **more).relevance
    np.testing.assert_allclose(found, [[5e15, -5e15, 0], [0, 0, 0]], rtol=1e-6)
    pool = F.Network([F.SumPool2d((1, 3), scale="sqrt")], (1, 3, 1))
    found = pool.explain((x * [1, -1, 1]).reshape(2, 1, 3, 1), start=np.ones((2, 1, 1, 1)), **more).relevance
    np.testing.assert_allclose(found.reshape(2, 3), [[5e11, -5e11, 0], [0, 0, 0]], rtol=1e-6)


# ------------------------------------------------------------------------------------------ exact cases

@pytest.mark.parametrize("compat", ["zennit", "lrp_toolbox"])
@pytest.mark.parametrize("precision", ["highest", "float64"])
def test_known_values(compat, precision):
    net = F.Network([F.Linear(1)], (2,))
    net.layers[0].weight, net.layers[0].bias = [[1], [-1]], [-1]
    for rule, expected in ((AlphaBeta(1, 0, None), [[-1, 0], [1, 0]]), (AlphaBeta(2, 1, None), [[-2, 0.5], [2, -0.5]])):
        found = net.explain([[1, 1], [1, 1]], composite=Uniform(rule), start=[[-1], [1]], compat=compat,
                            precision=precision)
        np.testing.assert_allclose(found.relevance, expected, rtol=1e-5, atol=1e-12)
    net.layers[0].weight, net.layers[0].bias = [[1], [1]], [0]
    found = net.explain([[1, 1]], composite=Uniform(AlphaBeta(2, 1, None)), start=[[2]], compat=compat)
    assert found.relevance.sum() == pytest.approx(4, rel=1e-5)
    net = F.Network([F.Linear(3, bias=False), F.ReLU(), F.Linear(1, bias=False)], (3,))
    net.layers[0].weight, net.layers[2].weight = np.full((3, 3), 2), np.full((3, 1), 3)
    found = net.explain([[1, 2, 3]], composite=Uniform(Epsilon(None)), compat=compat).relevance
    np.testing.assert_allclose(found, [[18, 36, 54]], rtol=1e-5)
    net.layers[0].weight = np.array([[-2, 2, 2], [2, 2, 2], [2, 2, 2]])
    found = net.explain([[1, 2, 3]], composite=Uniform(AlphaBeta(1, 0, None)), compat=compat).relevance
    np.testing.assert_allclose(found, [[12, 33.6, 50.4]], rtol=1e-5)


def test_compat_by_name():
    net = NETS["perceptron"]()
    for wrong in ("captum", "innvestigate", "LRP_toolbox", 3):
        with pytest.raises(ValueError, match=r"compat must be one of \['zennit', 'tensorflow_lrp', 'lrp_toolbox'\]"):
            net.explain(np.ones((1, 5)), compat=wrong)
