"""When to stop: criteria that see every validation score so far and say whether to go on.

A criterion is called after each evaluation as criterion(step, scores), the steps done and one score for each
evaluation, the larger the better: accuracies, or 1 − loss for regression. It returns True to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..shapes import as_number, as_size


class Criterion(Protocol):
    """Whether to go on after `step` steps with these scores."""

    def __call__(self, step: int, scores: Sequence[float]) -> bool: ...


def best_index(scores: Sequence[float]) -> int:
    """Index of the first of the best scores."""
    return max(range(len(scores)), key=scores.__getitem__)


class Patience:
    """Stop after `evaluations` evaluations in a row without a new best score."""

    def __init__(self, evaluations: int):
        self.evaluations = as_size(evaluations, "patience")

    def __call__(self, step: int, scores: Sequence[float]) -> bool:
        return len(scores) - 1 - best_index(scores) < self.evaluations


class GeneralizationLoss:
    """Stop when the validation error has grown by more than `alpha` percent over the best one.

    Goes on while there are fewer than 3 evaluations or `step < minimum_steps`. Then stops where at least 10
    evaluations followed the best one (index i, from 0) and there are at least 1.5 · i of them; else goes on while
    (1 − last) / (1 − best) ≤ 1 + alpha / 100. With a perfect best score the last one must be perfect too.
    Source: Prechelt 1998, Early stopping - but when?, criterion GL; the other two conditions are those of the original
    project, which used alpha = 300 and minimum_steps = 5000, evaluating every 50 steps.
    """

    def __init__(self, alpha: float, minimum_steps: int = 0):
        self.alpha, self.minimum_steps = as_number(alpha, "alpha"), as_size(minimum_steps, "minimum_steps", 0)
        if self.alpha < 0:
            raise ValueError(f"alpha must be a number of percent, at least 0, got {alpha!r}")

    def __call__(self, step: int, scores: Sequence[float]) -> bool:
        if len(scores) < 3 or step < self.minimum_steps:
            return True
        best = best_index(scores)
        if len(scores) - 1 - best >= 10 and len(scores) >= 1.5 * best:
            return False
        if scores[best] == 1:
            return scores[-1] == 1
        return (1 - scores[-1]) / (1 - scores[best]) <= 1 + self.alpha / 100


def find_criterion(patience: Any, criterion: Any) -> Criterion | None:
    """The criterion that these two arguments of `fit` ask for, if any."""
    if patience is not None and criterion is not None:
        raise ValueError(f"give patience or criterion, not both; got {patience!r} and {criterion!r}")
    if patience is not None:
        return Patience(patience)
    if criterion is not None and not callable(criterion):
        raise TypeError(f"criterion must be called as criterion(step, scores), got {criterion!r}")
    return criterion
