"""One digit under every composite: which rules make which kind of map. Writes composites.png."""

import itertools

import numpy as np
from matplotlib.figure import Figure

import fastlrp
from fastlrp import viz
from fastlrp.demo import KEY, lenet
from fastlrp.train import accuracy

data, net = fastlrp.datasets.digits(), lenet()
net.fit(data.train.x, data.train.t, epochs=12)
print(f"accuracy on {len(data.test)} digits kept aside: {accuracy(net, data.test.x, data.test.t):.1%}")

logits = net(data.test.x)
three = np.argmax((data.test.t == 3) * logits[:, 3])  # the 3 that the network is surest of
x = data.test.x[three]
pictures = {"the digit": viz.image(x)} | {name: viz.heatmap(net.explain(x[None], 3, name).relevance[0])
                                          for name in fastlrp.composites.names()}
figure = Figure(figsize=(11.5, 4.1), dpi=100, facecolor="white", layout="constrained")
for axes, (name, picture) in itertools.zip_longest(figure.subplots(2, 7).flat, pictures.items(), fillvalue=("", None)):
    axes.set_axis_off()
    axes.set_title(name, fontsize=8)
    if picture is not None:
        axes.imshow(picture, interpolation="nearest")
figure.suptitle(f"one digit under every composite ({KEY})", fontsize=10)
figure.savefig("composites.png")
print("composites.png")
