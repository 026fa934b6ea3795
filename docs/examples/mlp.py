"""A multilayer perceptron on real digits: train, save, load, explain, and check where relevance goes."""

import numpy as np

import fastlrp
from fastlrp import viz
from fastlrp.train import accuracy

data = fastlrp.datasets.digits()
net = fastlrp.Network([fastlrp.Flatten(), fastlrp.Linear(300), fastlrp.ReLU(), fastlrp.Linear(100), fastlrp.ReLU(),
                       fastlrp.Linear(10)], input_shape=(28, 28, 1))
net.fit(data.train.x, data.train.t, epochs=10, validation_data=(data.validation.x, data.validation.t))
net.save("mlp.npz")
net = fastlrp.load("mlp.npz")
print(f"accuracy on {len(data.test)} digits kept aside: {accuracy(net, data.test.x, data.test.t):.1%}")

x, t = data.test.x[:8], data.test.t[:8]
maps = {"epsilon": net.explain(x, t, composite="epsilon_plus").relevance,
        "deep Taylor": net.explain(x, t, composite=fastlrp.composites.DeepTaylor(0, 1)).relevance,
        "gradient": net.sensitivity(x, np.eye(10)[t])}
print(viz.save("mlp.png", viz.grid([viz.image(x), *(viz.heatmap(r) for r in maps.values())], upscale=3)))
print(net.conservation_check(x[:1], composite="epsilon_plus"))
