"""FedMix: each client mixes its images with averages of the other clients' images.

Yoon, T., Shin, S., Hwang, S. J., Yang, E.: "FedMix: Approximation of Mixup under Mean Augmented
Federated Learning" (2021), arXiv:2107.00233. The server's half is `strategies/fed_mix.py`, the
method card `docs/methods/shelf.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from flwr.app import MetricRecord, RecordDict
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.supervised import Supervised
from fedsim.method import Augmentation, Criterion, fit, load_received, update
from fedsim.wire import decode_images, encode_images, tensor_record, tensors

MEANS = "means"
"""The record with averaged `images`, uint8 [n, 3, H, W], and `labels`, float32 [n, classes]: in a
client's answer its own, in a message and in the client's state those of the others."""


@dataclass(eq=False)
class FedMix(Supervised):
    """Train as `supervised` does, on an approximation of mixup with other clients' images.

    Args:
        mix: lambda of the paper, the share of the averaged image: 0 trains as `supervised` does.
        group: images that are averaged into one; of a site with fewer, all.
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`. Weights of classes are those of the own labels' loss.
    """

    payload_kind = "fed_mix"
    proximal = False
    made_for = "images"
    keeps_state = True
    private = "none"
    precisions = ("float32",)
    side_by_side = True

    mix: Annotated[float, Field(ge=0, lt=1)] = 0.1
    group: PositiveInt = 8
    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    class_balanced: bool = True
    augment: Augmentation = "none"
    class_weights: list[PositiveFloat] | None = None

    @property
    def discloses(self) -> tuple[str, ...]:
        """What an averaged image is."""
        if self.group == 1:
            return ("REAL IMAGES: all of each site, with their labels, for group is 1",)
        return (
            f"all images of each site as means of {self.group}, with the shares of the classes in "
            "each; of a site with fewer images the mean of all",
        )

    def means(self, content: RecordDict, site: Site) -> RecordDict:
        """The site's averaged images; a last group that is not full is left out."""
        view = site.train
        order = torch.randperm(len(view), generator=site.generator("groups"))
        size = min(self.group, len(view))
        groups = [rows for rows in order.split(size) if len(rows) == size]
        images = torch.stack([view.images(rows).mean(dim=0) for rows in groups])
        sorts = F.one_hot(view.labels, site.task.num_classes).float()
        labels = torch.stack([sorts[rows].mean(dim=0) for rows in groups])
        shared = {"images": encode_images(images, "uint8"), "labels": labels.numpy()}
        metrics = MetricRecord({"num-examples": len(view)})
        return RecordDict({MEANS: tensor_record(shared), "metrics": metrics})

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays; the others' averaged images stay in the client's state."""
        if MEANS in content:
            site.state[MEANS] = content[MEANS]
        if not self.mix or MEANS not in site.state:  # Of a client alone there are no others.
            return self.train_corrected(content, site)
        model = site.new_model()
        load_received(model, content)
        metrics = MetricRecord({"num-examples": len(site.train), "loss": self._fit(model, site)})
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    def _fit(self, model: nn.Module, site: Site) -> float:
        """Train a model in place on the mixed loss; return its mean."""
        view, scaled = site.train, Scaled(model, 1 - self.mix)
        return fit(
            scaled,
            ((view.images(rows), view.labels[rows]) for rows in self._order(site)),
            site.steps(self._total(site), "train"),
            self._optimizer(model, site.fast),
            device=site.device,
            augment=self.augmented(site),
            criterion=self._mixed(scaled, site),
        )

    def _mixed(self, scaled: Scaled, site: Site) -> Criterion:
        """The loss of a batch with one averaged image, drawn anew for each."""
        others, draws = tensors(site.state.array_records[MEANS]), site.generator("mixing")
        images = decode_images(others["images"]).to(site.device)
        shares = torch.tensor(others["labels"], device=site.device)
        weights = self._weights(site)
        weights = None if weights is None else weights.to(site.device)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            one = int(torch.randint(len(images), (), generator=draws))
            return mixed_loss(
                logits, scaled.inputs, labels, images[one], shares[one], self.mix, weights
            )

        return loss


class Scaled(nn.Module):
    """A model that sees its images times a number, and keeps what it saw last, as `inputs`.

    Args:
        model: is asked.
        share: the number.
    """

    inputs: Tensor

    def __init__(self, model: nn.Module, share: float) -> None:
        super().__init__()
        self.model, self._share = model, share

    def forward(self, images: Tensor) -> Tensor:
        """What the model says."""
        self.inputs = (self._share * images).requires_grad_()
        said: Tensor = self.model(self.inputs)
        return said


def mixed_loss(
    logits: Tensor,
    inputs: Tensor,
    labels: Tensor,
    image: Tensor,
    shares: Tensor,
    mix: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Mixup's loss with one other image, up to the second order of `mix` (Proposition 1).

    (1 - mix) l(f(z), y) + mix l(f(z), y') + mix d/dz [(1 - mix) l(f(z), y)] x', where z is
    (1 - mix) times the own image, and x' the other one with the classes y'.

    Args:
        logits: [n, classes], of `inputs`.
        inputs: z, [n, C, H, W], with a gradient.
        labels: int64 [n], y.
        image: x', [C, H, W].
        shares: y', [classes].
        mix: lambda.
        weights: of the classes in the loss of y, [classes].
    """
    own = (1 - mix) * F.cross_entropy(logits, labels, weight=weights)
    other = mix * F.cross_entropy(logits, shares.expand_as(logits))
    # Of a mean over the batch: the sum over records is the mean of their slopes.
    (slope,) = torch.autograd.grad(own, inputs, create_graph=True)
    return own + other + mix * (slope * image).sum()
