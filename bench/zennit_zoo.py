"""zennit's relevance for the networks of zoo.py: BatchNorm merged, sums and gates registered, every rule set.

zennit attributes what is registered as a module with a rule and takes the plain gradient of the rest. So additions
become its Sum on stacked operands; gates a module whose factor is a constant; and convolutions that a BatchNorm
follows are found by running the network, for registration order (which its SequentialMergeBatchNorm goes by) pairs
DenseNet's wrongly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import models
import torch
import zoo
from torch import Tensor, nn

composites = models.import_zennit()
from zennit.canonizers import NamedMergeBatchNorm  # noqa: E402  what it imports has a stand-in now
from zennit.core import Composite  # noqa: E402
from zennit.layer import Sum  # noqa: E402
from zennit.rules import AlphaBeta, Pass, WSquare  # noqa: E402
from zennit.types import BatchNorm, Linear  # noqa: E402

EPSILON = 1e-6
GRADIENTS = ("gradient", "gradient_x_input", "deconvnet", "guided_backprop", "beta_smooth")


class RegisteredSum(nn.Module):
    """zoo.Add in a form that zennit has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = Sum()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.sum(torch.stack([a, b], -1))


class Factor(nn.Module):
    """x times a constant, which is set before each call: a module of one input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.constant


class RegisteredGate(nn.Module):
    """zoo.Gate with a gate that is constant, so that none of the relevance goes there; as it is for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.is_constant = Factor(), True

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        if not self.is_constant:
            return x * gate
        self.factor.constant = gate.detach()
        return self.factor(x)


REGISTERED: dict[type[nn.Module], type[nn.Module]] = {zoo.Add: RegisteredSum, zoo.Gate: RegisteredGate}


def without_eps(model: nn.Module) -> nn.Module:
    """The same module with BatchNorm's eps within its variance: zennit's merge would apply it a second time."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var += module.eps
            module.eps = 0.0
    return model


def registered(model: nn.Module) -> nn.Module:
    """A module with the same parameters, none of which asks for a gradient, in which zennit sees sums and gates."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared).requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) in REGISTERED:
                setattr(parent, name, REGISTERED[type(child)]())
    return model


def merged_pairs(model: nn.Module, x: Tensor) -> list[tuple[list[str], str]]:
    """([convolution], BatchNorm) by name, where the one reads the other's output."""
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[list[str], str]] = []

    def leave(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: made.update({id(output): (name, output)})

    def enter(name: str) -> Callable[..., None]:
        return lambda module, inputs: pairs.append(([made[id(inputs[0])][0]], name)) if id(inputs[0]) in made else None

    hooks = [module.register_forward_pre_hook(enter(name)) if isinstance(module, nn.BatchNorm2d)
             else module.register_forward_hook(leave(name)) for name, module in model.named_modules()
             if isinstance(module, nn.BatchNorm2d | nn.Conv2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return pairs


def composite(name: str, bounds: tuple[float, float]) -> Any:
    """zennit's form of the preset `name` for inputs within bounds."""
    gate, stable = (Factor, Pass()), {"stabilizer": EPSILON}
    if name in ("gradient", "gradient_x_input"):
        return Composite()
    if name in GRADIENTS:
        return composites.COMPOSITES[name]()
    if name == "deep_taylor":  # zennit has none, but its rules
        def rule(kind: Any, **options: Any) -> Any:
            return kind(zero_params="bias", **stable, **options)
        return composites.SpecialFirstLayerMapComposite(
            [gate, *composites.layer_map_base(EPSILON), (Linear, rule(AlphaBeta, alpha=1, beta=0))],
            [(Linear, rule(WSquare))])
    if name == "excitation_backprop":  # whose BatchNorm would take its gradient
        return composites.ExcitationBackprop(layer_map=[gate, (BatchNorm, Pass())], **stable)
    options = {"low": bounds[0], "high": bounds[1]} if name == "epsilon_gamma_box" else {}
    return composites.COMPOSITES[name](epsilon=EPSILON, layer_map=[gate], **stable, **options)


def explain(model: nn.Module, x: Tensor, name: str, start: Tensor, pairs: list[tuple[list[str], str]],
            bounds: tuple[float, float]) -> Tensor:
    """Relevance of x from the start relevance by the preset `name`; the model is one that `registered` made."""
    for module in model.modules():
        if isinstance(module, RegisteredGate):
            module.is_constant = name not in GRADIENTS
    chosen = composite(name, bounds)
    chosen.canonizers = [NamedMergeBatchNorm(pairs)]
    x = x.clone().requires_grad_()
    with chosen.context(model) as hooked:
        relevance, = torch.autograd.grad(hooked(x), x, start)
    return (relevance * x if name == "gradient_x_input" else relevance).detach()


def explainer(model: nn.Module, x: Tensor, name: str, bounds: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """zennit's run of the preset `name` for the predicted class, for timing: a copy of the model, whose BatchNorm is
    merged and whose hooks are registered once. x: any input."""
    pairs, model = merged_pairs(model, x), registered(copy.deepcopy(model))
    chosen = composite(name, bounds)
    chosen.canonizers = [NamedMergeBatchNorm(pairs)]
    chosen.register(model)

    def run(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        out = model(x)
        best = out.detach().argmax(1, keepdim=True)
        start = torch.zeros_like(out).scatter_(1, best, out.detach().gather(1, best))
        return torch.autograd.grad(out, x, start)[0]
    return run
