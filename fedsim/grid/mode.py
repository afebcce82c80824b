"""How a run computes: what `resources.fast` and `resources.precision` come to for its scenario.

A mode has bits of its own. Within it they are the same in this process, on Ray, with any number of
workers and threads, and after a kill: what trains together is settled by the scenario and by who
is asked, never by who is free.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from fedsim.federation.clients import make_client
from fedsim.grid.machine import on_gpu
from fedsim.method.client import Client
from fedsim.models.build import build_model
from fedsim.randomness import Streams, isolated
from fedsim.scenario import Scenario

if TYPE_CHECKING:
    from fedsim.tasks.task import Task

Together = Literal["", "stacked", "side by side"]
Item = TypeVar("Item")

# Layers that torch computes slower in the memory format of channels last than it gains by it.
_GROUPED = (nn.GroupNorm, nn.InstanceNorm2d)


@dataclass(frozen=True)
class Mode:
    """How clients compute.

    Attributes:
        fast: whether bits may be others than without it.
        precision: of training, "float32" or "bfloat16".
        channels_last: whether the model's convolutions have this memory format.
        together: how clients of the scenario's own method train: one after another (""), several in
            one call ("stacked"), or each in a thread of its own ("side by side").
        apart: names of clients that train alone all the same.
        width: clients in a stack.
        why: why they are not stacked.
    """

    fast: bool = False
    precision: str = "float32"
    channels_last: bool = False
    together: Together = ""
    apart: frozenset[str] = frozenset()
    width: int = 1
    why: str = ""

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """The `computing` entry of run.json."""
        joined = len([name for name in names if name not in self.apart]) if self.together else 0
        return {
            "fast": self.fast,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "together": f"{self.together}: {joined} of {len(names)} clients" if joined else None,
            "not_stacked": self.why or None,
        }

    def arrange(self, model: nn.Module) -> None:
        """Lay a model's weights out in memory as this mode computes with them."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def groups(self, asked: Sequence[Item], name_of: Callable[[Item], str]) -> Iterator[list[Item]]:
        """Who trains together, of those that are asked, in their order.

        Who may not train beside others is a group of its own.
        """
        group: list[Item] = []
        for item in asked:
            alone = not self.together or name_of(item) in self.apart
            if group and (alone or len(group) == self.width):
                yield group
                group = []
            if alone:
                yield [item]
            else:
                group.append(item)
        if group:
            yield group


def mode_of(
    scenario: Scenario, task: Task, *, private: bool = False, several: bool = False
) -> Mode:
    """What a scenario's keys come to.

    Args:
        scenario: whose.
        task: what is learned.
        private: whether clients answer with noisy releases.
        several: whether replies are stored one by one, as of strategies with several exchanges.
    """
    asked = scenario.resources
    if not asked.fast:
        return Mode(precision=asked.precision)
    with isolated(Streams(0).sequence("model")):
        model = build_model(scenario, task)
        draws = _draws(model, task)
    method = make_client(scenario, None)
    last = not on_gpu(asked) and prefers_channels_last(model)
    reasons = {
        "a client's answer is noisy releases": private,
        "they compute on a GPU": on_gpu(asked),
        "faults.client_timeout is for one client at a time": (
            scenario.faults.client_timeout is not None
        ),
        "its method does not declare that clients may train side by side": (
            not isinstance(method, Client) or not vars(type(method)).get("side_by_side", False)
        ),
        "its model draws at random": draws,
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        return Mode(True, asked.precision, last, why=why)
    assert isinstance(method, Client)
    why = _why_not_stacked(scenario, method, model, task, several)
    apart = frozenset(scenario.federation.overrides)
    if why:
        return Mode(True, asked.precision, last, "side by side", apart, why=why)
    from fedsim.method.stacking import WIDTH

    return Mode(True, asked.precision, last, "stacked", apart, WIDTH)


def prefers_channels_last(model: nn.Module) -> bool:
    """Whether a model's convolutions are faster with channels last in memory.

    They are on the CPU, and pooling by maxima is much faster. Group and instance normalisation are
    slower, and take back what is gained: a model with such layers keeps the usual format.
    """
    layers = list(model.modules())
    return any(isinstance(layer, nn.Conv2d) for layer in layers) and not any(
        isinstance(layer, _GROUPED) for layer in layers
    )


def _why_not_stacked(
    scenario: Scenario, method: Client, model: nn.Module, task: Task, several: bool
) -> str:
    if several:
        # After a kill some replies are there already: a stack of the others would be another.
        return "its strategy's replies are stored one by one"
    if scenario.resources.precision != "float32":
        return "it trains in mixed precision"
    if scenario.federation.local or scenario.model.adapter or scenario.model.trainable != "all":
        return "not all of its model travels"
    return method.why_not_stacked(model, task)


def _draws(model: nn.Module, task: Task) -> bool:
    """Whether a training model draws from a global generator, as dropout does."""
    before = _states()
    model.train()
    try:
        with torch.no_grad():
            model(torch.zeros(2, *task.input_shape))
    except Exception:  # Takes something else than one batch of records: nothing is known of it.
        return True
    return _states() != before


def _states() -> tuple[Any, ...]:
    """States of the global generators."""
    state: Any = np.random.get_state()  # noqa: NPY002 - it is what is looked at
    return (
        random.getstate(),
        (state[1].tobytes(), *state[2:]),
        torch.get_rng_state().numpy().tobytes(),
    )
