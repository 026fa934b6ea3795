"""The demonstration: train on real digits, explain held-out ones, write pictures. Needs no network access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import datasets, viz
from .layers import Conv2d, Flatten, Format, Linear, ReLU, SumPool2d
from .network import Network
from .reference import Array
from .train import accuracy

# The original TensorFlow project's names: zB for the pixels and α1β0 above; LRP-0 with a stabiliser; α2β1.
METHODS: dict[str, Any] = {"deep Taylor": "deeptaylor", "epsilon": "simple", "alpha-beta": ["ab", 2.0]}


def lenet() -> Network:
    """The original project's LeNet for 28 × 28 digits in [0, 1]."""
    return Network([Format(-1, 1), Conv2d(10, 5), ReLU(), SumPool2d(2, scale="sqrt"),
                    Conv2d(25, 5), ReLU(), SumPool2d(2, scale="sqrt"), Conv2d(100, 4), ReLU(),
                    Flatten(), Linear(10)], (28, 28, 1))


def run(folder: str | Path = "fastlrp-demo", epochs: int = 12, say: Callable[[str], Any] = print) -> Path:
    """Train `lenet` on the bundled digits, explain held-out digits, write .png files into `folder`; returns it."""
    folder = Path(folder)
    data, net = datasets.digits(), lenet()
    say(repr(net))
    history = net.fit(data.train.x, data.train.t, epochs=epochs, batch_size=50, progress=True,
                      validation_data=(data.validation.x, data.validation.t), patience=epochs)
    score = accuracy(net, data.test.x, data.test.t)
    say(f"{history.steps} steps; accuracy on {len(data.test)} digits kept aside: {score:.1%}")
    chosen = _one_of_each(data.test.t)
    files = explain_digits(net, data.test.x[chosen], data.test.t[chosen], folder)
    files.append(viz.save(folder / "filters.png", viz.grid(viz.filters(net), columns=5, upscale=12)))
    say("pictures: " + ", ".join(file.name for file in files))
    say(f"written to {folder.resolve()}")
    return folder


def explain_digits(net: Network, x: Array, t: Array, folder: Path) -> list[Path]:
    """Three pictures: heatmaps for the true class, for every class, and without a class filter."""
    digits = viz.image(x)
    true = [digits, *(viz.heatmap(net.lrp(x, np.eye(10)[t], method)) for method in METHODS.values())]
    free = [digits, *(viz.heatmap(net.lrp(x, None, method)) for method in METHODS.values())]
    every = [digits, *(viz.heatmap(net.lrp(x, c, "deeptaylor")) for c in range(10))]
    names = ["digit", *METHODS]
    return [_table(folder / "true_class.png", true, names, "relevance for the true class"),
            _table(folder / "every_class.png", every, ["digit", *(f"for {c}" for c in range(10))],
                   "deep Taylor relevance for each class (blue: speaks against)"),
            _table(folder / "no_class.png", free, names, "relevance for all outputs together")]


def _one_of_each(t: Array) -> Array:
    """Indices of the first digit of every class."""
    return np.array([int(np.argmax(t == c)) for c in range(10)])


def _table(path: Path, columns: Sequence[Array], names: Sequence[str], title: str) -> Path:
    """Pictures in named columns, one row a sample."""
    rows = len(columns[0])
    figure = Figure(figsize=(0.95 * len(columns), 0.95 * rows + 0.5), dpi=110, facecolor="white")
    axes = figure.subplots(rows, len(columns), gridspec_kw={"wspace": 0.05, "hspace": 0.05, "left": 0.01, "right": 0.99,
                                                            "bottom": 0.01, "top": 1 - 0.6 / (0.95 * rows + 0.5)})
    for column, (pictures, name) in enumerate(zip(columns, names, strict=True)):
        axes[0, column].set_title(name, fontsize=8, pad=3)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_axis_off()
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
