"""FedAutoMRI's client: MiLeNAS on a super-net, then training of the derived network from an EMA.

Wu et al., "FedAutoMRI" (2023); He et al., "MiLeNAS: Efficient Neural Architecture Search via
Mixed-Level Reformulation" (2020). The server's half is `strategies/fedautomri.py`, the method card
`docs/methods/reconstruction.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from fedsim import InputError, Site
from fedsim.clients.reconstruction import Reconstruction
from fedsim.method import Adam
from fedsim.models.auto_mri import ALPHAS, GATES, AutoMRI, corrected, moved
from fedsim.wire import pack_state, tensor_record, tensors

Order = Literal["together", "architecture_first"]
Mean = Literal["corrected", "plain"]
Losses = tuple[Callable[[], Tensor], Callable[[], Tensor]]
MEAN, HEARD = "mean", "heard"
"""Records of the client's state: the running mean, and of how many models."""


def milenas_step(
    losses: Losses,
    weights: Sequence[Tensor],
    logits: Tensor,
    on_weights: torch.optim.Optimizer,
    on_logits: torch.optim.Optimizer,
    beta: float,
    order: Order = "together",
) -> Tensor:
    """One step of weights and logits (E6): w by L_tr, alpha by L_tr + beta L_val.

    Args:
        losses: make L_tr and L_val of the parameters as they are.
        weights: w.
        logits: alpha.
        on_weights, on_logits: optimisers of w and alpha.
        beta: weight of L_val; 0: one level, the training loss alone.
        order: "together": both gradients at one point, as E6 is written; "architecture_first":
            w by the new alpha, as the authors' code has it, for one more pass.

    Returns:
        L_tr before the step.
    """
    training, validation = losses
    loss = training()
    found = torch.autograd.grad(loss, [logits, *weights], allow_unused=True)
    logits.grad, gradients = found[0], found[1:]
    if beta:
        (beyond,) = torch.autograd.grad(validation(), [logits])
        logits.grad = logits.grad + beta * beyond
    if order == "architecture_first":
        on_logits.step()
        gradients = torch.autograd.grad(training(), list(weights), allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    on_weights.step()
    if order == "together":
        on_logits.step()
    return loss.detach()


@dataclass(eq=False)
class FedAutoMRI(Reconstruction):
    """Search with MiLeNAS while the server asks for it, then train the architecture it derived.

    The training of a round begins at the mean of the models that this client heard (E7, with the
    bias corrected once): m = decay m + (1 - decay) w, start = m / (1 - decay^t).

    Args:
        steps, batch_size, learning_rate, weight_decay, clip, loss: as of `reconstruction`; the
            search has the same steps, and Adam with this rate for the weights.
        architecture_rate: of Adam for the logits.
        architecture_decay: its weight decay.
        beta: weight of the validation loss in the step of the logits; the paper does not give it.
        order: of a step of the search, see `milenas_step`.
        decay: gamma of the mean; the paper does not give it. 0: clients begin at what they heard.
        mean: "corrected": as above; "plain": m begins at the first model that was heard, and is the
            start itself.
    """

    payload_kind = "architecture"
    proximal = False
    keeps_state = True

    architecture_rate: PositiveFloat = 3e-3
    architecture_decay: NonNegativeFloat = 1e-3
    beta: NonNegativeFloat = 1.0
    order: Order = "together"
    decay: NonNegativeFloat = 0.9
    mean: Mean = "corrected"

    def __post_init__(self) -> None:
        if self.decay >= 1:
            raise ValueError(f"decay must be below 1, not {self.decay}.")

    def check_fits(self, model: nn.Module, task: object, clients: Sequence[str]) -> None:
        """Refuse a model that is no search space."""
        if not isinstance(model, AutoMRI):
            raise ValueError(
                f"it trains a super-net, and the model is a {type(model).__name__}: type "
                "model.name=auto_mri"
            )

    def search(self, content: RecordDict, site: Site) -> RecordDict:
        """Train weights and logits of the super-net; both travel."""
        model, names = self._model(content, site)
        if not len(site.val):
            raise InputError(
                f"client {site.name} has no validation slices, and the search needs some",
                hint="set data.split.val to more",
            )
        model.to(site.device).train()
        weights = [v for n, v in model.named_parameters() if n not in (ALPHAS, GATES)]
        on_weights = Adam(weights, lr=self.learning_rate)
        on_logits = Adam(
            [model.alphas],
            lr=self.architecture_rate,
            weight_decay=self.architecture_decay,
            betas=(0.5, 0.999),
        )
        training, validation = (
            self.pairs(view, site, what)
            for view, what in ((site.train, "train"), (site.val, "val"))
        )
        total = 0.0
        for _ in site.steps(self.steps, "search"):
            batch, other = next(training), next(validation)

            def on_training(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                return self.error(model, batch, site)

            def on_validation(batch: tuple[Tensor, Tensor] = other) -> Tensor:
                return self.error(model, batch, site)

            losses = (on_training, on_validation)
            loss = milenas_step(
                losses, weights, model.alphas, on_weights, on_logits, self.beta, self.order
            )
            total += float(loss)
        metrics = MetricRecord({"num-examples": len(site.train), "loss": total / self.steps})
        return RecordDict({"arrays": _part(model, names), "metrics": metrics})

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train the derived network from this client's mean; only what it uses travels."""
        model, names = self._model(content, site)
        if ALPHAS in names:
            raise InputError(
                "the client method fedautomri trains an architecture that the server derived, and "
                "the server sent a whole super-net",
                hint="type strategy.name=fedautomri, or client.name=reconstruction",
            )
        names = [name for name in names if name != GATES]
        start, mean, heard = self._start(content, site, names)
        _fill(model, start)
        site.state[MEAN] = tensor_record(mean)
        site.state[HEARD] = MetricRecord({"count": heard})
        metrics = self.fit(model, site)
        return RecordDict({"arrays": _part(model, names), "metrics": metrics})

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Scores of what this client would begin at, on its validation slices."""
        model, names = self._model(content, site)
        names = [name for name in names if name != GATES]
        if site.state.array_records.get(MEAN) is not None:
            _fill(model, self._start(content, site, names)[0])
        whole = pack_state(model.state_dict())
        return super().evaluate(RecordDict({"arrays": whole}), site)

    def _model(self, content: RecordDict, site: Site) -> tuple[AutoMRI, list[str]]:
        """The model with what was received, and the names of that; all else is zero."""
        model = site.new_model()
        assert isinstance(model, AutoMRI)  # `check_fits` has seen to it.
        received = tensors(content.array_records["arrays"])
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.fill_(1.0 if name == GATES else 0.0)
        _fill(model, received)
        return model, list(received)

    def _start(self, content: RecordDict, site: Site, names: list[str]) -> tuple[dict, dict, int]:
        """Where the client begins, and its mean with the model it heard in it."""
        whole = tensors(content.array_records["arrays"])
        received = {name: whole[name] for name in names}
        kept = site.state.array_records.get(MEAN)
        before = {} if kept is None else tensors(kept)
        heard = 1
        if kept is not None:
            heard += int(site.state.metric_records[HEARD]["count"])  # type: ignore[arg-type]
        if self.mean == "plain":
            mean = moved(before or received, received, self.decay)
            return mean, mean, heard
        mean = moved(before, received, self.decay)
        return corrected(mean, self.decay, heard), mean, heard


def _fill(model: nn.Module, values: dict) -> None:
    """Write some parameters into a model."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(torch.tensor(value))


def _part(model: nn.Module, names: Sequence[str]) -> ArrayRecord:
    """Some parameters of a model as a record."""
    state = tensors(pack_state(model.state_dict()))
    return tensor_record({name: state[name] for name in names})
