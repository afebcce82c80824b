"""FedDyn's client: its loss has a term that makes the clients' optima agree with the server's.

Acar et al., "Federated Learning Based on Dynamic Regularization" (2021), Eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from fedsim import InputError, Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import shared_parameters
from fedsim.wire import tensor_record, tensors

GRADIENT = "loss gradient"
"""The record of a client's state with the gradient of its loss where its last round ended."""


class Regulariser:
    """Adds the gradient of FedDyn's terms: alpha (w - x) - g_i, x being the received weights.

    Args:
        content: the server's message, with alpha.
        state: of the client, with its g_i; 0 where it has none yet.

    Raises:
        InputError: the message has no alpha.
    """

    def __init__(self, content: RecordDict, state: RecordDict) -> None:
        alpha = content.config_records["config"].get("feddyn-alpha")
        if alpha is None:
            raise InputError(
                "the client method feddyn needs the server's alpha, and none was sent",
                hint="type strategy=feddyn, or client=supervised",
            )
        self._alpha, self._content = cast(float, alpha), content
        kept = tensors(state.array_records[GRADIENT]) if GRADIENT in state.array_records else {}
        self._own = {name: torch.tensor(value) for name, value in kept.items()}
        self._start: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module) -> None:
        """Correct the gradients of a model's parameters in place, before a step."""
        shared = shared_parameters(model, self._content)
        if not self._start:  # Before the first step: the weights are those that were received.
            self._start = {name: value.detach().clone() for name, value in shared.items()}
        for name, parameter in shared.items():
            if parameter.grad is None:
                continue
            parameter.grad.add_(parameter.detach() - self._start[name], alpha=self._alpha)
            if name in self._own:
                parameter.grad.sub_(self._own[name].to(parameter.grad))

    def learned(self, trained: RecordDict) -> dict[str, Tensor]:
        """The next g_i, which is g_i - alpha (y_i - x) by the first-order condition (Eq. 2).

        Args:
            trained: the client's reply, with its trained weights y_i.
        """
        after = tensors(trained.array_records["arrays"])
        return {
            name: self._own.get(name, 0.0) - self._alpha * (torch.tensor(after[name]) - x.cpu())
            for name, x in self._start.items()
        }


def regularised(
    train: Callable[[RecordDict, Site, Regulariser], RecordDict], content: RecordDict, site: Site
) -> RecordDict:
    """What a client answers that trains with FedDyn's terms; its gradient stays in its state."""
    regulariser = Regulariser(content, site.state)
    reply = train(content, site, regulariser)
    site.state[GRADIENT] = tensor_record(regulariser.learned(reply))
    return reply


class FedDyn(Supervised):
    """Train as `supervised` does, with the dynamic regulariser in the loss (FedDyn).

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`.
    """

    payload_kind = "dynamic_regularisation"
    keeps_state = True
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays."""
        return regularised(self.train_corrected, content, site)


class FedDynSegmentation(Segmentation):
    """Train as `segmentation` does, with the dynamic regulariser in the loss (FedDyn).

    All parameters are those of `segmentation`. The regulariser's gradient is not clipped.
    """

    payload_kind = "dynamic_regularisation"
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays."""
        return regularised(self.train_corrected, content, site)
