"""What travels: which parts of a model clients share, which stay with each, which nobody trains.

A scenario says it by two keys, which are rules on the names of a model's state:

* `federation.local`: what stays at the client and is its own. `norm` are the normalisation layers
  (FedBN: Li et al., 2021), `head` the model's last layers (FedPer: Arivazhagan et al., 2019); a
  list holds patterns of names.
* `model.trainable`: what is trained at all. The rest begins as the seed, or `model.init`, gives it,
  is the same at every client, and never travels. What an adapter added to the model
  (`fedsim.adapters`) is always trained; the key then says what is, beside it.

Here the rules meet the model, once for all: wire, strategies, noise, ledger and checkpoint go by
the names that `sharing_of` gives.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MethodType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedsim.adapters import adapter_names
from fedsim.errors import InputError, Problem
from fedsim.wire import flower

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

ALL, HEAD, NORM = "all", "head", "norm"
NORM_HEAD, BIAS_HEAD = "norm+head", "bias+head"
"""The rules that are words and not patterns."""

_TRAINED = {ALL, HEAD, NORM_HEAD, BIAS_HEAD}
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Those of other libraries: RMSNorm, LayerNorm2d, FrozenBatchNorm2d.
_NORM_CLASS = re.compile(r"Norm(\dd)?$")
_NEAREST = 5


@dataclass(frozen=True)
class Sharing:
    """What of a model's state does not travel, by the names that it would travel under.

    Attributes:
        local: stays at each client, which has its own.
        frozen: nobody trains it: the same everywhere, as it was at first.
    """

    local: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()

    @property
    def stays(self) -> frozenset[str]:
        """All that does not travel."""
        return self.local | self.frozen

    def in_private(self, model: nn.Module) -> Sharing:
        """The same of a private run: no noise covers buffers, so no client has its own."""
        own = self.local & flower.parameter_names(model)
        return Sharing(own, self.frozen | (self.local - own))


def sharing_of(scenario: Scenario, model: nn.Module) -> Sharing:
    """What a scenario's rules come to for its model.

    Raises:
        InputError: a rule names nothing, or leaves nothing to train or to share.
    """
    local, trainable = scenario.federation.local, scenario.model.trainable
    added = adapter_names(model)
    if local is None and trainable == ALL and not added:
        return Sharing()
    state = model.state_dict()
    carriers, parameters = flower.carriers(state), flower.parameter_names(model)
    named = model.named_parameters(remove_duplicate=False)
    learns = {carriers[n] for n, p in named if p.requires_grad and n in carriers} & parameters
    frozen: frozenset[str] = frozenset()
    if trainable != ALL or added:
        beside = HEAD if trainable == ALL else trainable
        rule = _Rule("model.trainable", beside, scenario, carriers)
        chosen = rule.names(model) | {carriers[name] for name in added}
        if not (trained := learns & chosen):
            raise rule.refusal(
                f"names no parameter that can be trained: {_listed(chosen)}",
                "name parameters that require a gradient, or type model.trainable=all",
            )
        frozen = frozenset(carriers.values()) - trained - _moving(model, carriers, trained, chosen)
        learns = trained
    if local is None:
        return Sharing(frozen=frozen)
    rule = _Rule("federation.local", local, scenario, carriers)
    chosen = rule.names(model)
    own = chosen - frozen
    if not own:
        raise rule.refusal(
            "all that it names is frozen by model.trainable: nobody has a part of its own",
            "name something that is trained, or leave one of both keys out",
        )
    if not learns - own:
        raise rule.refusal(
            "leaves nothing to share: every parameter that is trained stays at the client",
            "name less or, to let everybody train alone, leave the key out and type "
            "strategy=local_only with a client method that keeps its model",
        )
    return Sharing(own, frozen)


def freeze(model: nn.Module, sharing: Sharing) -> nn.Module:
    """Take from a model, in place, what would change its frozen parts in training; return it.

    Frozen layers that keep running statistics use them in training, too.
    """
    if not sharing.frozen:
        return model
    carriers = flower.carriers(model.state_dict())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if carriers.get(name) in sharing.frozen:
            parameter.requires_grad_(False)
    for path, module in model.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)}
        held = {carriers[name] for name in own if name in carriers}
        if isinstance(module, _NormBase) and held and held <= sharing.frozen:
            module.eval()
            module.train = MethodType(_stay, module)  # type: ignore[method-assign]
    return model


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `train` of a layer that stays in evaluation mode."""
    return module


def _moving(
    model: nn.Module, carriers: Mapping[str, str], trained: set[str], chosen: frozenset[str]
) -> set[str]:
    """Names of buffers that training may change: those chosen, and those of layers that learn."""
    found = set(chosen - flower.parameter_names(model))
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        own = {carriers.get(start + name) for name, _ in module.named_parameters(recurse=False)}
        if own & trained:
            buffers = (start + name for name, _ in module.named_buffers(recurse=False))
            found |= {carriers[name] for name in buffers if name in carriers}
    return found


@dataclass(frozen=True)
class _Rule:
    """One of the two keys, and where it is written."""

    key: str
    value: str | tuple[str, ...]
    scenario: Scenario
    carriers: Mapping[str, str]

    def names(self, model: nn.Module) -> frozenset[str]:
        """What the rule names, by the names that travel.

        Raises:
            InputError: nothing, or a pattern of it nothing.
        """
        if self.value == NORM:
            found = self._below(norm_paths(model))
            if not found:
                raise self.refusal(
                    f"model {self.scenario.model.name!r} has no normalisation layer with "
                    "parameters or statistics",
                    "choose a model that has one, or name what is to stay by patterns",
                )
            return found
        if self.value == HEAD:
            return self._head(model)
        if self.value == NORM_HEAD:
            return replace(self, value=NORM).names(model) | self._head(model)
        if self.value == BIAS_HEAD:
            return self._biases(model) | self._head(model)
        problems: list[str] = []
        named: set[str] = set()
        for pattern in self.value:
            matched = {
                carrier for name, carrier in self.carriers.items() if fnmatchcase(name, pattern)
            }
            named |= matched
            if not matched:
                problems.append(f"{pattern!r} matches no name{self._nearest(pattern)}")
        if problems:
            count = len(set(self.carriers.values()))
            raise self.refusal(
                problems,
                f"patterns are those of a shell (* ? []), on the whole of a name; the model "
                f"{self.scenario.model.name!r} has {count} names",
            )
        return frozenset(named)

    def _biases(self, model: nn.Module) -> frozenset[str]:
        """The biases of all layers (BitFit: Ben Zaken et al., 2022, arXiv:2106.10199)."""
        named = model.named_parameters(remove_duplicate=False)
        found = {self.carriers[n] for n, _ in named if n in self.carriers and _is_bias(n)}
        if not found:
            raise self.refusal(
                f"model {self.scenario.model.name!r} has no biases",
                "choose a model that has some, or name what is to be trained by patterns",
            )
        return frozenset(found)

    def refusal(self, why: str | list[str], hint: str) -> InputError:
        """The error, at the place where the key is written."""
        place = self.scenario.place(*self.key.split("."))
        whys = [why] if isinstance(why, str) else why
        return InputError(
            f"{self.key} does not go with model {self.scenario.model.name!r}",
            [Problem(place, f"{self.key}: {one}") for one in whys],
            hint,
        )

    def _head(self, model: nn.Module) -> frozenset[str]:
        paths = head_paths(model)
        found = self._below(paths)
        if found:
            return found
        name = self.scenario.model.name
        last = list(dict.fromkeys(self.carriers.values()))[-1].rpartition(".")[0]
        pattern = f"{last}.*" if last else "*"
        if paths:
            why = f"model {name!r} says that its head is {_listed(paths)}, which it does not have"
        else:
            why = f"model {name!r} does not say which its last layers are"
        raise self.refusal(
            why,
            f"name them, for example {self.key}='[{pattern}]', or let the model's class say it: "
            f"head = ({last or 'path of the layer'!r},)",
        )

    def _below(self, paths: Iterable[str]) -> frozenset[str]:
        """The names at and below these paths of modules or parameters."""
        starts = tuple(f"{path}." for path in paths)
        exact = set(paths)
        return frozenset(
            carrier
            for name, carrier in self.carriers.items()
            if name in exact or name.startswith(starts)
        )

    def _nearest(self, pattern: str) -> str:
        names = list(self.carriers)
        stem = pattern.strip("*.?")
        words = {HEAD, NORM} if self.key == "federation.local" else _TRAINED
        if pattern in words:
            return f"; as a rule it is a word of its own: {self.key}={pattern}"
        close = [name for name in names if stem and stem in name]
        close = close or difflib.get_close_matches(stem, names, _NEAREST, 0.3)
        return f"; the nearest: {_listed(close)}" if close else f"; there are {_listed(names)}"


def _is_bias(name: str) -> bool:
    """Whether a parameter is a layer's bias; attention's are `in_proj_bias`, say."""
    last = name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")


def norm_paths(model: nn.Module) -> list[str]:
    """The paths of a model's normalisation layers: torch's, and others whose class says so."""
    return [
        path
        for path, module in model.named_modules()
        if path and (isinstance(module, _NORMS) or _NORM_CLASS.search(type(module).__name__))
    ]


def head_paths(model: nn.Module) -> list[str]:
    """The paths of a model's last layers, as it says itself; [] where it does not.

    It says so by `head`: a path or several, of modules or parameters, or the module itself. What
    has no `head` and a module `classifier`, as image classifiers here do, means that.
    """
    told: Any = getattr(model, "head", None)
    if told is None or (callable(told) and not isinstance(told, nn.Module)):
        told = getattr(model, "classifier", None)
        told = told if isinstance(told, nn.Module) else None
    if isinstance(told, nn.Module):
        return [path for path, module in model.named_modules() if module is told and path]
    if isinstance(told, str):
        return [told]
    return [one for one in told if isinstance(one, str)] if isinstance(told, list | tuple) else []


def _listed(names: Iterable[str]) -> str:
    """A few names, as words."""
    names = sorted(names)
    more = f" and {len(names) - _NEAREST} more" if len(names) > _NEAREST else ""
    return ", ".join(map(repr, names[:_NEAREST])) + more
