"""Distil a site's images into a few synthetic ones, sent once: the client's half of GDD.

GDD matches mean embeddings of real and synthetic images under freshly drawn networks, like DM
(Zhao & Bilen, "Dataset Condensation with Distribution Matching", 2023), and matches them a second
time with the channel statistics of the real images perturbed. Where the paper's printed formula
and its idea disagree, `fedsim.augment.perturb_statistics` says which is meant. Method card:
`docs/methods/gdd.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fedsim import Client, Site
from fedsim.augment import SiameseAugment, perturb_statistics
from fedsim.codecs import Codec, clipped_fraction, encode_images
from fedsim.flower import tensor_record
from fedsim.losses.matching import mean_matching
from fedsim.models import ConvNet


class Distill(Client):
    """Learn `images_per_class` images of each class that the site has, starting from noise.

    A class that the site does not have is not sent: its images would be noise.

    Args:
        matching: "gdd" matches the means of plain and of perturbed real images; "dm" the plain ones
            only. GDD's loss has two terms: with `perturb_probability: 0` it is DM at twice the
            image learning rate.
        images_per_class: synthetic images of each class.
        iterations: steps of the images; a new network is drawn in each.
        image_learning_rate: of the images' SGD. Their gradient falls as one over
            `images_per_class`: state the two together.
        image_momentum: of that SGD.
        batch_size: real images of each class in an iteration (fewer if the site has fewer).
        perturb_probability: that a class's real images are perturbed in an iteration, 0 to 1.
        augment: "siamese" changes real and synthetic images alike, one operation for each class
            and iteration (Zhao & Bilen 2021).
        width, depth: of the ConvNet that embeds.
    """

    def __init__(
        self,
        matching: Literal["gdd", "dm"] = "gdd",
        images_per_class: PositiveInt = 10,
        iterations: NonNegativeInt = 300,
        image_learning_rate: PositiveFloat = 1.0,
        image_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        batch_size: PositiveInt = 64,
        perturb_probability: Annotated[float, Field(ge=0, le=1)] = 0.5,
        augment: Literal["none", "siamese"] = "siamese",
        width: PositiveInt = 128,
        depth: PositiveInt = 3,
    ) -> None:
        self.matching = matching
        self.images_per_class = images_per_class
        self.iterations = iterations
        self.image_learning_rate = image_learning_rate
        self.image_momentum = image_momentum
        self.batch_size = batch_size
        self.perturb_probability = perturb_probability
        self.augment = augment
        self.width = width
        self.depth = depth

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Send the synthetic images, their labels, and how the distillation went."""
        members = {c: site.train.of_class(c) for c in range(site.task.num_classes)}
        members = {label: positions for label, positions in members.items() if len(positions)}
        labels = torch.tensor(list(members)).repeat_interleave(self.images_per_class)
        shape = (len(labels), site.task.in_channels, site.task.image_size, site.task.image_size)
        images = torch.randn(shape, generator=site.generator("synthetic-start"))
        images, loss = self._distil(images, labels, members, site)
        metrics: dict[str, Any] = {
            "num-examples": len(site.train),
            "loss": loss,
            "clipped": clipped_fraction(images),
        }
        codec = cast(Codec, content.config_records["config"]["codec"])
        encoded = encode_images(images, codec)
        return RecordDict(
            {
                "images": tensor_record({"images": encoded}),
                "labels": tensor_record({"labels": labels}),
                "metrics": MetricRecord(metrics),
            }
        )

    def _distil(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        members: dict[int, np.ndarray],
        site: Site,
    ) -> tuple[torch.Tensor, float]:
        """Move the images [n, C, H, W] for all iterations; return them and the last loss."""
        encoder = ConvNet(
            site.task.num_classes,
            site.task.in_channels,
            site.task.image_size,
            self.width,
            self.depth,
        ).features.requires_grad_(False)
        encoder.to(site.device)
        # The encoder sees one image at a time (instance normalisation), so training mode is fine.
        draws = site.generator("distil")
        operations = SiameseAugment() if self.augment == "siamese" else None
        images = images.to(site.device).requires_grad_(True)
        optimizer = torch.optim.SGD(
            [images], lr=self.image_learning_rate, momentum=self.image_momentum
        )
        rows = {label: torch.nonzero(labels == label).flatten() for label in members}
        loss = torch.zeros(())
        for _ in site.steps(self.iterations, "distil"):
            redraw(encoder, draws)
            matches: list[Match] = []
            for label, positions in members.items():
                transform = operations.draw(draws) if operations else _unchanged
                chosen = torch.randperm(len(positions), generator=draws)[: self.batch_size]
                batch = site.train.images(positions[chosen.numpy()]).to(site.device)
                synthetic = transform(images[rows[label]])
                matches += [
                    Match(transform(seen), synthetic, weight)
                    for seen, weight in self._seen(batch, draws)
                ]
            loss = matching_loss(encoder, matches)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return images.detach().cpu(), loss.item()

    def _seen(
        self, batch: torch.Tensor, draws: torch.Generator
    ) -> list[tuple[torch.Tensor, float]]:
        """What a class's synthetic images are matched with, and how much each match counts."""
        if self.matching == "dm":
            return [(batch, 1.0)]
        if torch.rand((), generator=draws) >= self.perturb_probability:
            return [(batch, 2.0)]  # Both terms of the loss see the same images.
        noise = torch.randn(2, *batch.shape[:2], generator=draws).to(batch.device)
        return [(batch, 1.0), (perturb_statistics(batch, noise[0], noise[1]), 1.0)]


class Match(NamedTuple):
    """Real images [B, C, H, W] that synthetic images [I, C, H, W] are matched with."""

    real: torch.Tensor
    synthetic: torch.Tensor
    weight: float


def matching_loss(encoder: torch.nn.Module, matches: Sequence[Match]) -> torch.Tensor:
    """Weighted sum of the squared distances of mean embeddings (paper, Eq. 4 to 6).

    Gradients flow to the synthetic images only. Those that several matches share are embedded once.
    """
    synthetic = list({id(match.synthetic): match.synthetic for match in matches}.values())
    parts = torch.split(encoder(torch.cat(synthetic)), [len(images) for images in synthetic])
    embedded = {id(images): part for images, part in zip(synthetic, parts, strict=True)}
    with torch.no_grad():
        targets = [
            torch.cat([encoder(chunk) for chunk in match.real.split(_chunk(match.real))])
            for match in matches
        ]
    terms = [
        match.weight * mean_matching(target, embedded[id(match.synthetic)])
        for match, target in zip(matches, targets, strict=True)
    ]
    return torch.stack(terms).sum()


def _chunk(images: torch.Tensor) -> int:
    """Images to embed at a time; on a CPU, maps that fit its caches take half the time."""
    return 32 if images.device.type == "cpu" else max(1, len(images))


def redraw(encoder: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw a new network in place: PyTorch's default initialisation, from a CPU generator."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            # kaiming_uniform_ with a = sqrt(5) is uniform within 1 / sqrt(fan in), as is the bias.
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    values = torch.empty(parameter.shape).uniform_(
                        -bound, bound, generator=generator
                    )
                    parameter.data.copy_(values)


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    return images
