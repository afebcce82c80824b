"""SCAFFOLD's client: each step is corrected by control variates, which it also learns and sends.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020),
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim import InputError, Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.wire import tensor_record, tensors

CONTROL = "control"
"""The record of control variates: the server's on the way down, their change on the way up, and in
a client's state its own. Names are those of the parameters, after `PREFIX`: it is no model."""
PREFIX = "control."


class Control:
    """Adds c - c_i to the gradients of each step, and keeps the mean of what they were before.

    Args:
        content: the server's message, with its control variate c.
        state: of the client, with its own c_i; 0 where it has none yet.

    Raises:
        InputError: the message has no control variate.
    """

    def __init__(self, content: RecordDict, state: RecordDict) -> None:
        if CONTROL not in content.array_records:
            raise InputError(
                "the client method scaffold needs the server's control variate, and none was sent",
                hint="type strategy=scaffold, or client=supervised",
            )
        self._server = _values(content)
        self.own = _values(state) or {n: torch.zeros_like(c) for n, c in self._server.items()}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def __call__(self, model: nn.Module) -> None:
        """Correct the gradients of a model's parameters in place, before a step (Eq. 3)."""
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None or name not in self._server:
                continue
            before = self._sums.get(name)
            self._sums[name] = gradient.clone() if before is None else before.add_(gradient)
            gradient += (self._server[name] - self.own[name]).to(gradient)
        self._steps += 1

    def learned(self) -> dict[str, Tensor]:
        """The client's next control variate: the mean gradient of the round's steps.

        Option II is c_i - c + (x - y_i) / (K eta) (Eq. 4). Where steps are those of SGD without
        momentum this is the same number, and it is a mean gradient with any other optimiser, too.
        """
        means = {name: total.cpu() / self._steps for name, total in self._sums.items()}
        return self.own | means


def controlled(
    train: Callable[[RecordDict, Site, Control], RecordDict], content: RecordDict, site: Site
) -> RecordDict:
    """What a client answers that trains with control variates; its own one stays in its state."""
    control = Control(content, site.state)
    reply = train(content, site, control)
    learned = control.learned()
    change = {PREFIX + name: value - control.own[name] for name, value in learned.items()}
    reply[CONTROL] = tensor_record(change)
    site.state[CONTROL] = tensor_record({PREFIX + name: c for name, c in learned.items()})
    return reply


class Scaffold(Supervised):
    """Train as `supervised` does, each step corrected for what sets this client apart (SCAFFOLD).

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`.
    """

    payload_kind = "control_variates"
    keeps_state = True
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and the change of the client's control variate."""
        return controlled(self.train_corrected, content, site)


class ScaffoldSegmentation(Segmentation):
    """Train as `segmentation` does, each step corrected for what sets this client apart (SCAFFOLD).

    All parameters are those of `segmentation`. The correction is added after gradients are clipped.
    """

    payload_kind = "control_variates"
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and the change of the client's control variate."""
        return controlled(self.train_corrected, content, site)


def _values(records: RecordDict) -> dict[str, Tensor]:
    """The control variate in a message or a state, by the parameters' names; {} for none."""
    if CONTROL not in records.array_records:
        return {}
    found = tensors(records.array_records[CONTROL])
    return {name.removeprefix(PREFIX): torch.tensor(value) for name, value in found.items()}
