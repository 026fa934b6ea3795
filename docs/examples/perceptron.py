"""The linear perceptron in two ways: a dense layer, and a convolution as large as the image. Their filters agree."""

import numpy as np

import fastlrp
from fastlrp import viz
from fastlrp.demo import table
from fastlrp.train import accuracy

data = fastlrp.datasets.digits()
dense = fastlrp.Network([fastlrp.Flatten(), fastlrp.Linear(10)], input_shape=(28, 28, 1))
conv = fastlrp.Network([fastlrp.Conv2d(10, 28), fastlrp.Flatten()], input_shape=(28, 28, 1))
for net in (dense, conv):
    # The same start and the same order of digits: every step is the same.
    net.weighted[0].weight = np.zeros(net.weighted[0].weight_shape)
    net.fit(data.train.x, data.train.t, epochs=10, seed=0)
    print(f"accuracy on {len(data.test)} digits kept aside: {accuracy(net, data.test.x, data.test.t):.1%}")

pictures = [viz.filters(net) for net in (dense, conv)]
print("largest difference between the filter pictures:", np.abs(pictures[0] - pictures[1]).max())
print(table("perceptron.png", pictures, ["dense layer", "convolution"],
            "the filter of each class (red: positive weights, blue: negative)", columns="0123456789"))
