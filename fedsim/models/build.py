"""From the `model:` block of a scenario to a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.app import ArrayRecord

from fedsim.errors import InputError
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.wire import flower
from fedsim.wire.buffers import roles_of
from fedsim.wire.sharing import freeze, sharing_of

if TYPE_CHECKING:
    from fedsim.tasks.task import Task

_SHOWN = 5


def build_model(scenario: Scenario, task: Task) -> torch.nn.Module:
    """Construct the scenario's model for this task; it initialises from torch's global state.

    Raises:
        InputError: the model's constructor refuses a parameter, or does not make a module; or the
            scenario's rules on what travels do not go with it.
    """
    block = scenario.model
    model = construct(
        default_registry().resolve("models", block.name),
        block.parameters,
        **task.model_arguments,
    )
    model = require_module(model, block.name)
    return freeze(model, sharing_of(scenario, model))


def require_module(model: object, name: str) -> torch.nn.Module:
    """What a model's plugin made; TypeError where it is no module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model {name!r} makes a {type(model).__name__}, not a torch Module")
    return model


def first_arrays(scenario: Scenario, task: Task, seed: int) -> ArrayRecord:
    """The first global arrays: the model's own initialisation, or the file `model.init` names.

    Raises:
        InputError: the file does not fit the model.
    """
    with isolated(Streams(seed).sequence("model")):
        model = build_model(scenario, task)
    path = scenario.model.init
    if path is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            arrays = flower.tensor_record(load_file(path))
            _require_buffers(model, arrays)
            _require_numbers(model, arrays)
            flower.load_state(model, arrays)
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"model.init: {path} does not fit model {scenario.model.name!r}: "
                f"{_first(str(error))}",
                hint="the file must hold the model's state_dict: the same names and shapes",
            ) from error
    return flower.pack_state(model.state_dict())


def _require_numbers(model: torch.nn.Module, arrays: ArrayRecord) -> None:
    """Raise ValueError where a file's weights are no numbers, or not of float32's range."""
    # A buffer may hold infinities: a mask of what attention leaves out, say.
    most, parameters = np.finfo(np.float32).max, flower.parameter_names(model)
    for name, values in flower.tensors(arrays).items():
        if name not in parameters:
            continue
        if values.dtype.kind in "biu":
            raise ValueError(f"{name!r} is {values.dtype} where the model has weights")
        if values.dtype.kind == "f" and not (np.abs(values.astype(np.float64)) <= most).all():
            raise ValueError(f"{name!r} has values that are no numbers, or beyond {most:.3g}")


def _first(text: str) -> str:
    """The first of many problems: a file of another model has one for each of its arrays."""
    parts = text.split("; ")
    more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def _require_buffers(model: torch.nn.Module, arrays: ArrayRecord) -> None:
    """Raise ValueError where a file lacks buffers, or holds rounded ones for those of integers."""
    roles, found = roles_of(model), flower.tensors(arrays)
    names = flower.carriers(model.state_dict())
    held = {names.get(name, name) for name in found}
    problems = [f"missing {n!r}" for n in roles.order if n in roles.buffers and n not in held]
    problems += [
        f"{name!r} is {values.dtype} where the model has integers"
        for name, values in found.items()
        if names.get(name) in roles.constants and values.dtype.kind not in "biu"
    ]
    if problems:
        raise ValueError("; ".join(problems))
