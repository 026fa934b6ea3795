"""The demonstration: train on real digits, explain held-out ones, write pictures. Needs no network access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import datasets, viz
from .composites import Composite, DeepTaylor, Uniform
from .layers import Conv2d, Flatten, Format, Linear, ReLU, SumPool2d
from .network import Network
from .reference import Array
from .rules import AlphaBeta, Epsilon
from .train import accuracy

EPSILON = "epsilon, ε = 1"
COMPOSITES: dict[str, Composite] = {"deep Taylor": DeepTaylor(), EPSILON: Uniform(Epsilon(1.0)),
                                    "alpha-beta (2, 1)": Uniform(AlphaBeta(2, 1))}
KEY = "red: for, blue: against, each map scaled to its own largest value"


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
    chosen = _one_of_each(net.forward(data.test.x), data.test.t)
    files = explain_digits(net, data.test.x[chosen], data.test.t[chosen], folder)
    file = folder / "filters.png"
    files[file] = "the ten 5 × 5 filters of the first layer (red: positive weights, blue: negative)"
    table(file, np.split(viz.filters(net), 2), ["", ""], files[file], scale=1.3)
    say(f"pictures in {folder.resolve()}:")
    for file, title in files.items():
        say(f"  {file.name}: {title}")
    return folder


def explain_digits(net: Network, x: Array, t: Array, folder: Path) -> dict[Path, str]:
    """Three pictures with their titles: heatmaps for the true class, for every class, and of all outputs together."""
    digits, logits, names = viz.image(x), net.forward(x), ["digit", *COMPOSITES]
    true = [net.explain(x, t, composite).relevance for composite in COMPOSITES.values()]
    every = [net.explain(x, c, COMPOSITES[EPSILON]).relevance for c in range(10)]
    free = [net.explain(x, None, composite, start=logits).relevance for composite in COMPOSITES.values()]
    pictures = {"true_class": (true, names, "relevance for the true class"),
                "every_class": (every, ["digit", *(f"for {c}" for c in range(10))],
                                f"relevance for each class ({EPSILON}): what raises its logit, and what lowers it"),
                "all_outputs": (free, names, "relevance of all ten logits together, most of which are negative")}
    for name, (maps, rows, title) in pictures.items():
        table(folder / f"{name}.png", [digits, *(viz.heatmap(each) for each in maps)], rows, title, KEY)
    return {folder / f"{name}.png": title for name, (_, _, title) in pictures.items()}


def _one_of_each(logits: Array, t: Array) -> Array:
    """Indices of the first digit of every class that is known by a positive logit; of the first one if none is."""
    right = (logits.argmax(1) == t) & (logits.max(1) > 0)
    return np.array([int(np.argmax((t == c) * (1 + right))) for c in range(10)])


def table(path: str | Path, rows: Sequence[Any], names: Sequence[str], title: str, key: str = "",
          columns: Sequence[str] = (), scale: float = 0.85) -> Path:
    """Pictures in named rows, as wide as high, one column a sample, with a title above and a key below.

    scale: inches of a picture. columns: names above them.
    """
    left = 0.2 + 0.075 * max(map(len, names))
    top, bottom = 0.4 + 0.2 * bool(columns), 0.3 * bool(key) + 0.05
    width, height = left + scale * len(rows[0]) + 0.1, top + scale * len(rows) + bottom
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False, gridspec_kw={
        "wspace": 0.05, "hspace": 0.05, "left": left / width, "right": 1 - 0.1 / width, "bottom": bottom / height,
        "top": 1 - top / height})
    for i, (pictures, name) in enumerate(zip(rows, names, strict=True)):
        for j, picture in enumerate(pictures):
            axes[i, j].imshow(picture, interpolation="nearest")
            axes[i, j].set_axis_off()
        axes[i, 0].text(-0.06, 0.5, name, transform=axes[i, 0].transAxes, ha="right", va="center", fontsize=9)
    for j, name in enumerate(columns):
        axes[0, j].set_title(name, fontsize=9, pad=3)
    path = Path(path)
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / height, va="top")
    figure.text(0.5, 0.08 / height, key, ha="center", va="bottom", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
