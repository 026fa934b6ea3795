"""Composites: ordered first-match lists that give each layer of a network its rule.

An entry is (key, rule). Keys: "first" (the first layer with weights in execution order), "first convolution" and
"first linear" (the same, if it is one), "first bounded" (the same, if Format or Normalize tells the input's range); a
role: "convolution", "linear", "activation", "sum", "affine", "route", "scale", "gate"; a kind, as "relu"; a layer's
name, if it is none of these. Of a shared layer, its first use is meant by "first", every use by its name, and one of
them by its own, as "fc:2".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from .graph import Graph
from .layers import LAYERS
from .layers.pool import Sums
from .rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Norm,
    Pass,
    PositiveGradient,
    Rule,
    SmoothGradient,
    WSquare,
    ZBox,
    ZPlus,
)
from .shapes import as_flag

Entries = tuple[tuple[str, Rule], ...]

ROLES = ("convolution", "linear", "activation", "sum", "affine", "route", "scale", "gate")
FIRST = ("first", "first convolution", "first linear", "first bounded")
KINDS = {cls.kind for cls in LAYERS.values()}
WORDS = {*FIRST, *ROLES, *KINDS}  # which mean this, whatever layers are named

BASE: Entries = (("activation", Pass()), ("sum", Norm(None)), ("affine", Norm(None)), ("route", Pass()),
                 ("scale", Pass()), ("gate", Pass()))


@dataclass(frozen=True)
class Composite:
    """Rules by layer: entries in order, the first match wins, then `base`.

    start: where relevance begins unless told otherwise ("logit" or "one"). times_input: multiply the result by the
    input. layers: entries by layer name, which come before all others; of those of a shared layer, one use's own name
    before the layer's.
    """

    name: str
    entries: Entries
    base: Entries = BASE
    start: str = "logit"
    times_input: bool = False
    layers: Entries = ()

    def __post_init__(self) -> None:
        for name in ("entries", "base", "layers"):
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)) or not all(map(_is_entry, given)):
                raise TypeError(f"{name} must be pairs (key, fastlrp.rules rule), got {given!r}")
            object.__setattr__(self, name, tuple(map(tuple, given)))
        if not isinstance(self.start, str) or self.start not in ("logit", "one"):
            raise ValueError(f'start must be "logit" or "one", got {self.start!r}')
        object.__setattr__(self, "times_input", as_flag(self.times_input, "times_input"))

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        return self._hash  # every call looks up what was prepared for its composite

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_hash"}  # strings' differ by process

    def override(self, rules: Mapping[str, Rule]) -> Composite:
        """The same with other rules for the layers named."""
        if not isinstance(rules, Mapping):
            raise TypeError(f"rules must be a dictionary from layer names to rules, got {rules!r}")
        for name, rule in rules.items():
            if not isinstance(rule, Rule):
                raise TypeError(f"the rule for layer {name!r} must be a fastlrp.rules rule, got {rule!r}")
        return replace(self, layers=(*rules.items(), *self.layers))

    def resolve(self, graph: Graph, pools_as_convolutions: bool = False) -> list[Rule]:
        """One rule for each node of the graph, in execution order.

        pools_as_convolutions: sum and average pools that no entry is about take the entry for convolutions before the
        base's, but adaptive ones with windows of several sizes.
        """
        self._check_keys(graph)
        first = next((i for i, node in enumerate(graph.nodes) if node.layer.role in ("convolution", "linear")), None)
        rules = []
        for i, node in enumerate(graph.nodes):
            keys = {node.layer.role, node.layer.kind, *({node.layer.name, node.name} - WORDS)}
            if i == first:
                bounded = graph.input_bounds(i) is not None
                keys |= {"first", f"first {node.layer.role}"} | ({"first bounded"} if bounded else set())
            named = [rule for own in (node.name, node.layer.name) for name, rule in self.layers if name == own]
            found = named or [rule for key, rule in self.entries if key in keys]
            if pools_as_convolutions and isinstance(node.layer, Sums) and node.layer.even:
                found += [rule for key, rule in self.entries if key == "convolution"]
            found += [rule for key, rule in self.base if key in keys]
            if not found:
                raise ValueError(f"composite {self.name!r} has no rule for layer {node.name!r} ({node.layer.kind})")
            rules.append(found[0])
        return rules

    def _check_keys(self, graph: Graph) -> None:
        """ValueError for keys that mean nothing: they would be passed over."""
        names = {node.name for node in graph.nodes}
        unknown = [name for name, _ in self.layers if name not in names]
        if unknown:
            raise ValueError(f"composite names unknown layers {unknown}; the network has {sorted(names)}")
        known = WORDS | names | {word for layer in graph.layers for word in (layer.role, layer.kind)}
        unknown = [key for key, _ in (*self.entries, *self.base) if key not in known]
        if unknown:
            raise ValueError(f"composite {self.name!r} has entries for {unknown}; expected {[*FIRST, *ROLES]}, a kind "
                             f"of {sorted(KINDS)}, or a layer's name: the network has {sorted(names)}")


def _is_entry(entry: Any) -> bool:
    return (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)
            and isinstance(entry[1], Rule))


def _layered(name: str, convolution: Rule, linear: Rule, *first: tuple[str, Rule], base: Entries = BASE) -> Composite:
    return Composite(name, (*first, ("convolution", convolution), ("linear", linear)), base)


def EpsilonPlus() -> Composite:
    """ZPlus for convolutions, Epsilon for dense layers."""
    return _layered("epsilon_plus", ZPlus(None), Epsilon(None))


def EpsilonPlusFlat() -> Composite:
    """EpsilonPlus with Flat for the first layer with weights."""
    return _layered("epsilon_plus_flat", ZPlus(None), Epsilon(None), ("first", Flat(None)))


def EpsilonAlpha2Beta1() -> Composite:
    """AlphaBeta(2, 1) for convolutions, Epsilon for dense layers."""
    return _layered("epsilon_alpha2_beta1", AlphaBeta(2, 1, None), Epsilon(None))


def EpsilonAlpha2Beta1Flat() -> Composite:
    """EpsilonAlpha2Beta1 with Flat for the first layer with weights."""
    return _layered("epsilon_alpha2_beta1_flat", AlphaBeta(2, 1, None), Epsilon(None), ("first", Flat(None)))


def EpsilonGammaBox(low: Any = None, high: Any = None) -> Composite:
    """Gamma(0.25) for convolutions, Epsilon for dense layers, ZBox(low, high) for a first convolution.

    low, high: bounds of what that convolution sees, behind a Format or Normalize, which tell them by themselves.
    """
    return _layered("epsilon_gamma_box", Gamma(0.25, None), Epsilon(None),
                    ("first convolution", ZBox(low, high, None)))


def ExcitationBackprop() -> Composite:
    """ZPlus for all layers with weights, plain gradients for activations; constants that scale (Scale) have no say.

    Source: Zhang et al. 2016.
    """
    base = (("scaling", Pass()), ("activation", Gradient()), *BASE)
    return _layered("excitation_backprop", ZPlus(None), ZPlus(None), base=base)


def DeepTaylor(low: Any = None, high: Any = None) -> Composite:
    """AlphaBeta(1, 0) without bias; the first layer ZBox if the input is bounded, else WSquare (without bias too).

    Bounded: low and high of what this layer sees are given, or Format or Normalize tells them. Source: Montavon et al.
    2017.
    """
    rule = AlphaBeta(1, 0, None, bias=False)
    first = ("first bounded" if low is None and high is None else "first", ZBox(low, high, None))
    return _layered("deep_taylor", rule, rule, first, ("first", WSquare(None, bias=False)))


def _gradient(name: str, *entries: tuple[str, Rule], times_input: bool = False) -> Composite:
    return Composite(name, entries, tuple((role, Gradient()) for role in ROLES), "one", times_input)


def PlainGradient() -> Composite:
    """The gradient of the target's output in the input."""
    return _gradient("gradient")


def GradientXInput() -> Composite:
    """The gradient times the input."""
    return _gradient("gradient_x_input", times_input=True)


def DeconvNet() -> Composite:
    """The gradient with max(R, 0) at every ReLU. Source: Zeiler and Fergus 2014."""
    return _gradient("deconvnet", ("relu", PositiveGradient()))


def GuidedBackprop() -> Composite:
    """The gradient with max(R, 0) · 1(z > 0) at every ReLU. Source: Springenberg et al. 2015."""
    return _gradient("guided_backprop", ("relu", PositiveGradient(gate=True)))


def BetaSmooth(beta: float = 10.0) -> Composite:
    """The gradient with σ(βz)·R at every ReLU. Source: Dombrowski et al. 2019."""
    return _gradient("beta_smooth", ("relu", SmoothGradient(beta)))


def Uniform(rule: Rule, first: Rule | None = None) -> Composite:
    """One rule for every layer with weights, another for the first one if given."""
    for name, value in (("rule", rule), ("first", first)):
        if not isinstance(value, Rule) and not (name == "first" and value is None):
            raise TypeError(f"{name} must be a fastlrp.rules rule, got {value!r}")
    return _layered("uniform", rule, rule, *([("first", first)] if first else []))


PRESETS: dict[str, Callable[..., Composite]] = {
    "epsilon_plus": EpsilonPlus, "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1, "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": EpsilonGammaBox, "excitation_backprop": ExcitationBackprop, "deep_taylor": DeepTaylor,
    "gradient": PlainGradient, "gradient_x_input": GradientXInput, "deconvnet": DeconvNet,
    "guided_backprop": GuidedBackprop, "beta_smooth": BetaSmooth,
}


def names() -> list[str]:
    """The names of the presets."""
    return list(PRESETS)
