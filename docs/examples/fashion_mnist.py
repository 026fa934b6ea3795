"""A small CNN on the full Fashion-MNIST: at least 90% test accuracy, then heatmaps of held-out clothes.

    python docs/examples/fashion_mnist.py [FOLDER]

FOLDER holds the four IDX files, gzipped or not (Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist, the default).
"""

import sys
import time

import fastlrp
from fastlrp import viz
from fastlrp.demo import KEY, table
from fastlrp.train import accuracy

data = fastlrp.datasets.fashion_mnist(*sys.argv[1:2])
net = fastlrp.Network([
    fastlrp.Format(-1, 1),
    fastlrp.Conv2d(32, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(2),
    fastlrp.Conv2d(64, 3, padding=1), fastlrp.ReLU(), fastlrp.MaxPool2d(2),
    fastlrp.Flatten(), fastlrp.Dropout(0.3), fastlrp.Linear(128), fastlrp.ReLU(), fastlrp.Linear(10),
], input_shape=(28, 28, 1))
print(net)
start = time.perf_counter()
net.fit(data.train.x, data.train.t, epochs=8, batch_size=100, loss="softmax_cross_entropy", patience=8,
        validation_data=(data.validation.x, data.validation.t), progress=True)
print(f"trained on {len(data.train)} images in {time.perf_counter() - start:.0f} s")
print(f"accuracy on {len(data.test)} test images: {accuracy(net, data.test.x, data.test.t):.2%}")

x, t = data.test.x[:10], data.test.t[:10]
rows = {"article": viz.image(x)}
for composite in ("deep_taylor", "epsilon_plus", "epsilon_alpha2_beta1"):
    rows[composite] = viz.heatmap(net.explain(x, t, composite=composite).relevance)
print(table("fashion_mnist.png", [*rows.values()], [*rows], "relevance for the true class", KEY))
