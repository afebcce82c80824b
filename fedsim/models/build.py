"""From the `model:` block of a scenario to a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario

if TYPE_CHECKING:
    from fedsim.client import Task


def build_model(scenario: Scenario, task: Task) -> torch.nn.Module:
    """Construct the scenario's model for this task; it initialises from torch's global state.

    Raises:
        InputError: the model's constructor refuses a parameter, or does not make a module.
    """
    block = scenario.model
    model = construct(
        default_registry().resolve("models", block.name),
        block.parameters,
        num_classes=task.num_classes,
        in_channels=task.in_channels,
        image_size=task.image_size,
    )
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model {block.name!r} makes a {type(model).__name__}, not a torch Module")
    return model
