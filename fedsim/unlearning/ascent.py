"""Projected gradient ascent: the client's half of PGA.

Halimi et al., "Federated Unlearning: How to Efficiently Erase a Client in FL?" (2022), Algorithm 1:
who leaves maximises its own loss, and stays in a ball around what the others' models average to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor, nn

ASCEND = "ascend"
"""The kind of the exchange; client methods answer it by a method of this name."""

Measured = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, float]]
"""Of a model, images and labels: the loss that is maximised, and the score of the batch."""


@dataclass(frozen=True)
class Ascent:
    """What the server asks of who leaves.

    Attributes:
        radius: of the ball around the model that is sent.
        steps: at most so many.
        stop: the score of a batch below which ascent ends before.
    """

    radius: float
    steps: int
    stop: float

    def config(self) -> ConfigRecord:
        """As it travels."""
        return ConfigRecord({"radius": self.radius, "steps": self.steps, "stop": self.stop})

    @classmethod
    def of(cls, content: RecordDict) -> Ascent:
        """What a message asks for."""
        sent = content.config_records["config"]
        return cls(float(sent["radius"]), int(sent["steps"]), float(sent["stop"]))  # type: ignore[arg-type]


def ascend(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: Iterable[int],
    optimizer: torch.optim.Optimizer,
    measured: Measured,
    ascent: Ascent,
    device: torch.device,
) -> dict[str, float]:
    """Maximise a loss in place, in a ball around the model as it comes.

    Args:
        model: the centre of the ball; trained in place.
        batches: yields (images, labels).
        steps: one item a step.
        optimizer: holds the model's parameters.
        measured: what is maximised, and what ends it.
        ascent: the ball, and when to stop.
        device: where to compute.

    Returns:
        `num-steps`, the last batch's `score`, and the `distance` from the centre.
    """
    model.to(device).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    centre = [value.detach().clone() for value in trained]
    count, score = 0, float("nan")
    for _ in steps:
        images, labels = (part.to(device) for part in next(batches))
        loss, score = measured(model, images, labels)
        if score < ascent.stop:
            break
        optimizer.zero_grad(set_to_none=True)
        (-loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        keep_within(trained, centre, ascent.radius)
        count += 1
    reached = _distance(trained, centre)
    return {"num-steps": float(count), "score": score, "distance": reached}


@torch.no_grad()
def keep_within(values: list[nn.Parameter], centre: list[Tensor], radius: float) -> None:
    """Move parameters that lie outside of a ball to the nearest point of it, in place."""
    found = _distance(values, centre)
    if found <= radius:
        return
    for value, middle in zip(values, centre, strict=True):
        value.copy_(middle + (value - middle) * (radius / found))


def _distance(values: list[nn.Parameter], centre: list[Tensor]) -> float:
    """The Euclidean distance, summed in double precision."""
    pairs = zip(values, centre, strict=True)
    squares = [
        (value.detach().double() - middle.double()).square().sum() for value, middle in pairs
    ]
    return float(torch.stack(squares).sum().sqrt())
