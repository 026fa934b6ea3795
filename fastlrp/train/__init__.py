"""Training: losses, optimisers, early stopping and the loop behind `Network.fit`."""

from .loop import History, Score, accuracy, fit, gradients
from .losses import LOSSES, mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from .optimizers import SGD, Adam, Optimizer
from .stopping import GeneralizationLoss, Patience

__all__ = ["LOSSES", "SGD", "Adam", "GeneralizationLoss", "History", "Optimizer", "Patience", "Score", "accuracy",
           "fit", "gradients", "mean_squared_error", "sigmoid_cross_entropy", "softmax_cross_entropy"]
