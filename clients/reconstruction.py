"""Reconstruction of slices: what FedAvg, FedProx and others ask of a client.

Each step draws new masks: a network learns any part of k-space and not one mask by heart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Client, Site
from fedsim.method import AdamW, Penalty, endless_batches, load_received, proximal_term, update
from fedsim.tasks.reconstruction import (
    MADE_FOR,
    magnitude,
    model_input,
    reconstruction_task,
)
from fedsim.wire import load_state, pack_state

Pairs = Iterator[tuple[Tensor, Tensor]]
"""What a network is given, [n, 3, H, W], and the complex slices, [n, 2, H, W]."""


@dataclass(eq=False)
class Reconstruction(Client):
    """Train the received model on the site's slices with AdamW, which begins anew each round.

    Args:
        steps: steps in a round.
        batch_size: slices in a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm of a step's gradient.
        loss: "magnitude": mean squared error of magnitudes, as the authors' code has it;
            "complex": of real and imaginary parts, which tells the phase, too.
    """

    payload = "arrays"
    proximal = True
    made_for = MADE_FOR
    keeps_state = False
    private = "none"

    steps: PositiveInt = 20
    batch_size: PositiveInt = 4
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0
    loss: Literal["magnitude", "complex"] = "magnitude"

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, or their encoded update where the server names a codec."""
        model = site.new_model()
        load_received(model, content)
        metrics = self.fit(model, site, proximal_term(model, content))
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def fit(self, model: nn.Module, site: Site, penalty: Penalty | None = None) -> MetricRecord:
        """Train a model in place for one round.

        Returns:
            `num-examples` (slices) and the mean `loss`.
        """
        model.to(site.device).train()
        chosen = [value for value in model.parameters() if value.requires_grad]
        optimizer = AdamW(chosen, lr=self.learning_rate, weight_decay=self.weight_decay)
        pairs, total, count = self.pairs(site.train, site, "train"), 0.0, 0
        for _ in site.steps(self.steps, "train"):
            loss = self.error(model, next(pairs), site)
            whole = loss if penalty is None else loss + penalty(model)
            optimizer.zero_grad(set_to_none=True)
            whole.backward()
            nn.utils.clip_grad_norm_(chosen, self.clip)
            optimizer.step()
            total, count = total + float(loss.detach()), count + 1
        return MetricRecord({"num-examples": len(site.train), "loss": total / max(count, 1)})

    def pairs(self, view: Any, site: Site, what: str) -> Pairs:
        """Slices of a view with new masks, for ever; `what` names their random streams."""
        task = reconstruction_task(site.task)
        order, masks = site.generator(f"batches {what}"), site.generator(f"masks {what}")
        for positions in endless_batches(len(view), self.batch_size, order):
            images = view.images(positions)
            drawn = task.sampling.masks(len(images), (task.size, task.size), masks)
            yield model_input(images, drawn), images

    def error(self, model: nn.Module, pair: tuple[Tensor, Tensor], site: Site) -> Tensor:
        """The loss of a batch."""
        given, truth = (part.to(site.device) for part in pair)
        found = model(given)
        if self.loss == "complex":
            return (found - truth).square().mean()
        # Where a magnitude is 0 its root has no gradient.
        return (found.square().sum(dim=1).add(1e-12).sqrt() - magnitude(truth)).square().mean()


@dataclass(eq=False)
class LocalReconstruction(Reconstruction):
    """Train the client's own model further, and keep it in the client's state.

    All clients start from the same weights, those of the server's first model.
    """

    payload = "nothing"
    proximal = False
    payload_kind = "own_model"
    keeps_state = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, and report the loss alone."""
        model = site.new_model()
        load_state(model, site.state.array_records.get("arrays") or site.first_arrays())
        metrics = self.fit(model, site)
        site.state["arrays"] = pack_state(model.state_dict())
        return RecordDict({"metrics": metrics})
