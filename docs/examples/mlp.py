"""A multilayer perceptron on real digits: train, save, load, explain, and check where relevance goes."""

import numpy as np

import fastlrp
from fastlrp import viz
from fastlrp.demo import KEY, table
from fastlrp.train import accuracy

data = fastlrp.datasets.digits()
net = fastlrp.Network([fastlrp.Flatten(), fastlrp.Linear(300), fastlrp.ReLU(), fastlrp.Linear(100), fastlrp.ReLU(),
                       fastlrp.Linear(10)], input_shape=(28, 28, 1))
net.fit(data.train.x, data.train.t, epochs=10, validation_data=(data.validation.x, data.validation.t))
net.save("mlp.npz")
net = fastlrp.load("mlp.npz")
print(f"accuracy on {len(data.test)} digits kept aside: {accuracy(net, data.test.x, data.test.t):.1%}")

# Digits with a positive logit for their class: deep Taylor's maps have the sign of the logit, and no other.
logits = net(data.test.x)[np.arange(len(data.test)), data.test.t]
x, t = data.test.x[logits > 0][:8], data.test.t[logits > 0][:8]
epsilon = fastlrp.composites.Uniform(fastlrp.rules.Epsilon(0.1))
maps = {"epsilon, ε = 0.1": net.explain(x, t, composite=epsilon).relevance,
        "deep Taylor": net.explain(x, t, composite=fastlrp.composites.DeepTaylor(0, 1)).relevance,
        "gradient": net.sensitivity(x, np.eye(10)[t])}
print(table("mlp.png", [viz.image(x), *(viz.heatmap(r) for r in maps.values())], ["digit", *maps],
            "a multilayer perceptron's relevance for the true class", KEY))
print(net.conservation_check(x[:1], t[:1], composite="epsilon_plus"))
