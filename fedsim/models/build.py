"""From the `model:` block of a scenario to a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from flwr.app import ArrayRecord

from fedsim.adapters import UnfitError, attach
from fedsim.errors import InputError, Problem
from fedsim.pretrained.catalogue import CATALOGUE
from fedsim.pretrained.fetching import sha256_of
from fedsim.pretrained.loading import file_of, fill, first_of
from fedsim.pretrained.reading import read_weights
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.wire import flower
from fedsim.wire.sharing import freeze, head_paths, sharing_of

if TYPE_CHECKING:
    from fedsim.tasks.task import Task


@dataclass(frozen=True)
class Pretrained:
    """Where a model's first weights are from.

    Attributes:
        source: what `model.init` names.
        sha256: of the file, 64 hexadecimal digits.
        kept: names of the head's weights, where the file has no head that fits: it begins as the
            seed gives it.
    """

    source: str
    sha256: str
    kept: tuple[str, ...] = ()


def build_model(scenario: Scenario, task: Task) -> torch.nn.Module:
    """Construct the scenario's model for this task; it initialises from torch's global state.

    Raises:
        InputError: the model's constructor refuses a parameter, or does not make a module; or the
            scenario's adapter, or its rules on what travels, do not go with it.
    """
    block = scenario.model
    model = construct(
        default_registry().resolve("models", block.name),
        block.parameters,
        **task.model_arguments,
    )
    model = require_module(model, block.name)
    if block.adapter is not None:
        with unfit(scenario):
            attach(
                model,
                block.adapter.name,
                block.adapter.parameters,
                input_shape=task.input_shape,
                head=head_paths(model),
            )
    return freeze(model, sharing_of(scenario, model))


@contextmanager
def unfit(scenario: Scenario) -> Iterator[None]:
    """Say where the scenario writes what does not go with its model, as an InputError."""
    try:
        yield
    except UnfitError as error:
        where, name = scenario.place("model", "adapter", error.key), scenario.model.name
        adapter = scenario.model.adapter
        told = "" if adapter is None else f" {adapter.name!r}"
        raise InputError(
            f"model.adapter:{told} does not go with model {name!r}",
            [Problem(where, f"model.adapter.{error.key}: {why}") for why in error.reasons],
            error.hint,
        ) from error


def require_module(model: object, name: str) -> torch.nn.Module:
    """What a model's plugin made; TypeError where it is no module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model {name!r} makes a {type(model).__name__}, not a torch Module")
    return model


def first_arrays(scenario: Scenario, task: Task, seed: int) -> ArrayRecord:
    """The first global arrays: see `first_weights`.

    Raises:
        InputError: as `first_weights`.
    """
    return first_weights(scenario, task, seed)[0]


def first_weights(
    scenario: Scenario, task: Task, seed: int
) -> tuple[ArrayRecord, Pretrained | None]:
    """The first global arrays: the model's own initialisation, or what `model.init` names.

    Of pretrained weights whose head is for other classes, or that have none, all else is taken.
    What a package holds is fetched if it is not in the cache.

    Raises:
        InputError: the weights cannot be had or read, or do not fit the model.
    """
    with isolated(Streams(seed).sequence("model")):
        model = build_model(scenario, task)
    source = scenario.model.init
    if source is None:
        if needed := getattr(type(model), "needs_init", ""):
            place = scenario.place("model")
            raise InputError(
                f"model {scenario.model.name!r} has no weights to begin with",
                [Problem(place, "model.init: nothing is named")],
                needed,
            )
        return flower.pack_state(model.state_dict()), None
    path = file_of(source)
    name = scenario.model.name
    try:
        kept = fill(model, read_weights(path))
    except (ValueError, InputError) as error:
        why = error.headline if isinstance(error, InputError) else first_of(str(error))
        raise InputError(
            f"model.init: {source} does not fit model {name!r}: {why}", hint=_fitting(source)
        ) from error
    weights = flower.parameter_names(model)  # A support set is empty, and not random.
    about = Pretrained(source, sha256_of(path), tuple(name for name in kept if name in weights))
    return flower.pack_state(model.state_dict()), about


def _fitting(source: str) -> str:
    """What to type so that weights fit."""
    if source in CATALOGUE:
        weights = CATALOGUE[source]
        models = " or ".join((weights.model, *weights.also))
        return f"these weights are for model.name={models}, with its default sizes"
    return (
        "the file must hold the model's state_dict: the same names and shapes (its head may be "
        "missing)"
    )
