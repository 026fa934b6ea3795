"""The training loop: batches in, parameters changed, a history out.

A step is forward, loss, backward, optimiser, assignment. The layers hold the parameters; everything before the
assignment works on arrays of its own, so that whatever goes wrong leaves those of the last finished step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..graph import OWN, Graph, Trace
from ..layers import ParameterLayer
from ..ops import as_array
from ..progress import progress_bar
from ..reference import Array
from ..shapes import as_size
from .losses import LOSSES, Loss, Targets, evaluate, find_loss
from .optimizers import Optimizer, find_optimizer
from .recorded import Gradients, RecordedStep, record
from .stopping import Criterion, find_criterion

Callback = Callable[[int, float], Any]

UNIT_TARGETS = (LOSSES["sigmoid_cross_entropy"], LOSSES["softmax_cross_entropy"])


class Score(NamedTuple):
    """One evaluation: the steps done before it, and the validation score."""

    step: int
    value: float


@dataclass
class History:
    """How a training run went. metric: what the scores are, "accuracy" or "loss".

    losses: of each step's batch, before its update. stopped_early: whether a criterion or callback ended the run.
    """

    metric: str = "accuracy"
    losses: list[float] = field(default_factory=list)
    validation: list[Score] = field(default_factory=list)
    stopped_early: bool = False

    def __repr__(self) -> str:
        parts = [f"{self.steps:,} steps"]
        if self.best is not None:
            parts.append(f"best {self.metric} {self.best.value:.4g} after {self.best.step:,}")
        if self.losses:
            parts.append(f"last loss {self.losses[-1]:.4g}")
        return f"History({', '.join(parts)}{', stopped early' if self.stopped_early else ''})"

    @property
    def steps(self) -> int:
        """The steps run."""
        return len(self.losses)

    @property
    def best(self) -> Score | None:
        """The first of the best evaluations: the highest accuracy or the lowest loss; None without validation."""
        if not self.validation:
            return None
        pick = max if self.metric == "accuracy" else min
        return pick(self.validation, key=lambda score: score.value)


def fit(net: Graph, x: Any, t: Any, *, epochs: int = 1, batch_size: int = 50, optimizer: str | Optimizer = "adam",
        loss: str | Loss = "sigmoid_cross_entropy", validation_data: tuple[Any, Any] | None = None,
        validation_every: int | None = None, patience: int | None = None, criterion: Criterion | None = None,
        callback: Callback | None = None, seed: int | None = 0, progress: bool | None = None) -> History:
    """Train the parameters of `net` in place; returns a `History`.

    x: inputs (N, *input_shape). t: integer classes (N,), one-hot rows (N, outputs), or real targets in the outputs'
        shape ((N,) will do for a single output); the cross entropies take targets in [0, 1].
    epochs: passes over the data, each in a new order. batch_size: samples a step; the last of an epoch may have fewer.
    optimizer: "adam", "sgd", or an `Adam` or `SGD` object, which remembers this network's moments between fits.
    loss: "sigmoid_cross_entropy", "softmax_cross_entropy", "mean_squared_error", or a function loss(output, target)
        → (value, gradient in output), given one-hot rows for classes, that leaves its arguments alone.
    validation_data: (inputs, targets), evaluated after every epoch, or every `validation_every` steps, and at the end:
        accuracy where its targets are classes or one-hot rows, otherwise the loss.
    patience: stop after so many evaluations without a new best score. criterion: the same by a function
        criterion(step, scores) → go on?, such as `GeneralizationLoss`; it sees accuracies, or 1 − loss. With either,
        the network ends with the parameters of its best evaluation, whether it stopped early or not.
    callback: called after each step as callback(step, loss), steps counted from 1; returning True stops.
    seed: of shuffling and dropout: the same seed gives the same bits, with any number of threads; None: any.
    progress: True shows a bar, False none; None: on a terminal, once two seconds have passed.

    An exception, KeyboardInterrupt included, leaves the parameters of the last finished step and a usable network.
    Raises FloatingPointError naming the step where loss, gradients or parameters are no longer finite (with patience
    or criterion the parameters of the best evaluation are restored); ValueError or TypeError naming a bad argument.
    """
    samples = _Samples(net, x)
    epochs, batch_size = as_size(epochs, "epochs"), as_size(batch_size, "batch_size")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be called as callback(step, loss), got {callback!r}")
    order, dropout = _streams(seed)
    step = _Step(net, find_optimizer(optimizer), find_loss(loss), dropout)
    targets = _check_targets(net, t, len(samples), step.loss, "t")
    per_epoch = -(-len(samples) // batch_size)
    criterion = find_criterion(patience, criterion)
    if validation_data is None and not (criterion is None and validation_every is None):
        raise ValueError("validation_data must be given with patience, criterion or validation_every, got None")
    every = per_epoch if validation_every is None else as_size(validation_every, "validation_every")
    watch = _Watch(net, *_validation(net, step.loss, validation_data), every, criterion)
    rows = _batches(order, len(samples), epochs, batch_size)
    with progress_bar(progress, epochs * per_epoch, "training", "step") as bar:
        return _run(step, watch, callback, bar, ((samples[r], targets[r]) for r in rows))


def gradients(net: Graph, x: Any, t: Any, loss: str | Loss = "sigmoid_cross_entropy", *,
              rng: np.random.Generator | None = None) -> tuple[float, Gradients]:
    """A batch's loss and its gradients in all parameters: (value, {layer name: {"weight": ..., "bias": ...}}).

    x, t, loss: as in `fit`, which raises the same errors. rng: draws dropout's masks; None: no dropout.
    """
    samples, found = _Samples(net, x), find_loss(loss)
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a NumPy generator or None, got {rng!r}")
    targets = _check_targets(net, t, len(samples), found, "t")
    return _gradients(net, samples[:], targets[:], found, rng)


def accuracy(net: Graph, x: Any, t: Any, batch_size: int | None = None) -> float:
    """The share of samples whose largest output is at their class.

    x: inputs (N, *input_shape). t: integer classes (N,) or one-hot rows (N, outputs). batch_size: samples at a time.
    ValueError or TypeError for anything else, and for no samples.
    """
    samples = _Samples(net, x)
    classes = Targets(t, len(samples), net.output_shape, net.ops.dtype).classes
    if classes is None:
        raise ValueError(f"t must be integer classes (N,) or one-hot rows (N, outputs) of a network with several "
                         f"outputs; its output has shape {net.output_shape}")
    return _share_correct(net, x, classes, batch_size)


def _run(step: _Step, watch: _Watch, callback: Callback | None, bar: Any,
         batches: Iterator[tuple[list[Array], Array]]) -> History:
    """All steps with what happens between them."""
    history = watch.history
    try:
        for number, (x, target) in enumerate(batches, 1):
            value = step(number, x, target)
            history.losses.append(value)
            go_on = watch(number, last=number == bar.total)
            bar.set_postfix_str(_status(history), refresh=False)
            bar.update()
            answer = callback(number, value) if callback is not None else None
            if not go_on or (isinstance(answer, (bool, np.bool_)) and answer):
                history.stopped_early = number < bar.total
                break
    except BaseException as error:
        step.optimizer.forget(step.net)  # its moments may be of half a step
        if isinstance(error, FloatingPointError):
            watch.restore_best()
        raise
    watch.restore_best()
    return history


def _status(history: History) -> str:
    scores = f", {history.metric} {history.validation[-1].value:.4g}" if history.validation else ""
    return f"loss {history.losses[-1]:.4g}{scores}"


class _Step:
    """One training step: all of it happens, or nothing."""

    def __init__(self, net: Graph, optimizer: Optimizer, loss: Loss, rng: np.random.Generator):
        self.net, self.optimizer, self.loss, self.rng = net, optimizer, loss, rng
        self.layers = net.parametric
        if not self.layers:
            raise ValueError("the network has no parameters to train")
        if len(net.outputs) > 1:
            raise ValueError(f"the network must have one output to train, got {len(net.outputs)}")
        self.state: Any = None  # of the network, when it was recorded
        self.recorded: RecordedStep | None = None

    def __call__(self, number: int, inputs: Sequence[Array], target: Array) -> float:
        with np.errstate(all="ignore"):  # what overflows here ends in the loss
            value, found = self._gradients(inputs, target)
        _demand(math.isfinite(value), f"the loss is {value} at step {number}")
        keys = [(layer, key, array) for layer in self.layers if layer.name in found  # else the output has none of it
                for key, array in layer.trained.items()]
        try:
            with np.errstate(all="raise", under="ignore"):
                updated, finite = self.optimizer.update(self.net, [array for *_, array in keys],
                                                        [found[layer.name][key] for layer, key, _ in keys])
        except FloatingPointError as error:
            _demand(False, f"the update of the parameters fails at step {number} ({error})")
        values = [(layer, key, new) for (layer, key, _), new in zip(keys, updated, strict=True)]
        if not finite:  # NaN in a gradient raises nothing above
            for layer, key, new in values:
                _demand(np.isfinite(new).all(), f"{layer.name}.{key} is not finite after step {number}")
        _assign(values)
        return value

    def _gradients(self, inputs: Sequence[Array], target: Array) -> tuple[float, Gradients]:
        """As `gradients` has them; recorded, where that can be, anew when the network is another."""
        state = self.net.version, self.net.ops.key
        if state != self.state:
            self.state, self.recorded = state, record(self.net, _back)
        if self.recorded is None or not self.recorded.lock.acquire(blocking=False):  # another fit runs it
            return _gradients(self.net, inputs, target, self.loss, self.rng)
        try:
            output, values = self.recorded.run_forward(inputs)
            value, g = _evaluate(self.net, self.loss, output, target)
            return value, self.recorded.run_back(g, values)
        finally:
            self.recorded.lock.release()


class _Watch:
    """The validation of a run: scores, the criterion, the best parameters."""

    def __init__(self, net: Graph, metric: str, score: Callable[[], float] | None, every: int,
                 criterion: Criterion | None):
        self.net, self.score, self.every, self.criterion = net, score, every, criterion
        self.history = History(metric)
        self.best: list[tuple[Any, str, Array]] = []

    def __call__(self, number: int, last: bool) -> bool:
        """Evaluate where it is time to; whether to go on."""
        if self.score is None or (number % self.every and not last):
            return True
        scores = self.history.validation
        value = self.score()
        _demand(math.isfinite(value), f"the validation loss is {value} after step {number}")
        scores.append(Score(number, value))
        if self.criterion is None:
            return True
        if self.history.best is scores[-1]:
            # layers replace their arrays and never write to them, so that keeping them is a snapshot
            self.best = [(layer, key, a) for layer in self.net.parametric for key, a in layer.trained.items()]
        larger_is_better = [s.value if self.history.metric == "accuracy" else 1 - s.value for s in scores]
        return bool(self.criterion(number, larger_is_better))

    def restore_best(self) -> None:
        """Where early stopping was asked for: the parameters of the best evaluation."""
        if self.best:
            _assign(self.best)


def _gradients(net: Graph, inputs: Sequence[Array], target: Array, loss: Loss,
               rng: np.random.Generator | None) -> tuple[float, Gradients]:
    trace, (end,) = net.trace(inputs, rng), net.outputs
    value, g = _evaluate(net, loss, trace.values[end], target)
    return value, _back(net, trace, g)


def _evaluate(net: Graph, loss: Loss, output: Array, target: Array) -> tuple[float, Array]:
    """The loss, and its gradient in the output as it is inside."""
    end, = net.outputs
    value, g = evaluate(loss, net.to_surface(end, output), target)
    return value, net.to_inside(end, g)


def _back(net: Graph, trace: Trace, g: Any) -> dict[str, dict[str, Any]]:
    """Back node by node, down to the first parameters on each way and no further: the parameters' gradients."""
    learns, (end,), ops = _learns(net), net.outputs, trace.ops
    pending: list[Any] = [None] * len(trace.values)
    pending[end] = g
    found: dict[str, dict[str, Any]] = {}
    for i in reversed(range(net.first, end + 1)):
        node, g = net.nodes[i - net.first], pending[i]
        if g is None:
            continue
        x, layer, pending[i] = node.reads(trace.values), node.layer, None
        if isinstance(layer, ParameterLayer):
            own, sums = layer.gradients(ops, g, x), found.get(layer.name)
            found[layer.name] = own if sums is None else {key: sums[key] + array for key, array in own.items()}
        if any(learns[j] for j in node.inputs):
            back = node.parts(layer.backward(ops, g, x, trace.kept[i - net.first]))
            for j, part in zip(node.inputs, back, strict=True):
                if learns[j]:
                    pending[j] = part if pending[j] is None else ops.add(pending[j], part)
    return found


def _learns(net: Graph) -> list[bool]:
    """For each value, whether it depends on parameters."""
    known = [False] * net.first
    for node in net.nodes:
        known.append(isinstance(node.layer, ParameterLayer) or any(known[i] for i in node.inputs))
    return known


def _assign(values: Sequence[tuple[Any, str, Array]]) -> None:
    """Set (layer, parameter name, array) all together: an interruption in between finishes the assignment first."""
    try:
        for layer, key, array in values:
            _set(layer, key, array)
    except BaseException:
        for layer, key, array in values:
            _set(layer, key, array)
        raise


def _set(layer: ParameterLayer, key: str, array: Array) -> None:
    if type(layer) in OWN:
        layer.take(key, array)
    else:  # which may do more on assignment
        setattr(layer, key, array)


def _demand(condition: Any, message: str) -> None:
    if not condition:
        raise FloatingPointError(f"{message}: training diverged; try a smaller learning rate, or look for NaN in x")


def _share_correct(net: Graph, x: Array, classes: Array, batch_size: int | None = None) -> float:
    return float((net.forward(x, batch_size).argmax(axis=1) == classes).mean())


class _Samples:
    """Checked inputs of a network in their own types; batches of them are converted one by one."""

    def __init__(self, net: Graph, x: Any, name: str = "x"):
        self.net = net
        self.arrays = [as_array(array, name) for array in net.each_input(x, name)]
        fits = [array.shape[1:] == net.surface_shape(i) for i, array in enumerate(self.arrays)]
        net.as_inputs(self._each(slice(1)) if all(fits) else x, name)
        if not len(self):
            raise ValueError(f"{name} must hold at least one sample, got shape {self.arrays[0].shape}")
        if any(len(array) != len(self) for array in self.arrays):
            raise ValueError(f"{name} must hold as many samples of every input, got {[len(a) for a in self.arrays]}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: Any) -> list[Array]:
        return self.net.as_inputs(self._each(rows))

    def _each(self, rows: Any) -> Any:
        found = [array[rows] for array in self.arrays]
        return found[0] if self.net.first == 1 else found


def _check_targets(net: Graph, t: Any, n: int, loss: Loss, name: str) -> Targets:
    targets = Targets(t, n, net.output_shape, net.ops.dtype, name)
    if loss in UNIT_TARGETS and not targets.in_unit_interval:
        raise ValueError(f"{name} must lie in [0, 1] for {loss.__name__}; use mean_squared_error for real targets")
    if loss is LOSSES["softmax_cross_entropy"] and net.output_shape[-1] < 2:
        raise ValueError("loss must not be softmax_cross_entropy for a single output: its softmax is always 1")
    return targets


def _streams(seed: int | None) -> list[np.random.Generator]:
    """Two generators, for the order of samples and for dropout."""
    if seed is not None:
        as_size(seed, "seed", 0, math.inf)
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]


def _batches(rng: np.random.Generator, n: int, epochs: int, batch_size: int) -> Iterator[Array]:
    for _ in range(epochs):
        order = rng.permutation(n)
        for first in range(0, n, batch_size):
            yield order[first:first + batch_size]


def _validation(net: Graph, loss: Loss, data: Any) -> tuple[str, Callable[[], float] | None]:
    """What `validation_data` asks for: the metric's name, and a function that evaluates it now."""
    if data is None:
        return "accuracy", None
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        count = f" of {len(data)}" if isinstance(data, (tuple, list)) else ""
        raise TypeError(f"validation_data must be a pair (inputs, targets), got {type(data).__name__}{count}")
    x = data[0]
    targets = _check_targets(net, data[1], len(_Samples(net, x, "validation_data[0]")), loss, "validation_data[1]")
    classes = targets.classes
    if classes is not None:
        return "accuracy", lambda: _share_correct(net, x, classes)
    return "loss", lambda: evaluate(loss, net.forward(x), targets[:])[0]
