"""What the synthetic images of a class are made to match: a class for each of four methods.

`Means` is DM (Zhao & Bilen, "Dataset Condensation with Distribution Matching", 2023),
`PerturbedMeans` GDD, `Gradients` DC (Zhao et al., "Dataset Condensation with Gradient Matching",
2021), `AugmentedGradients` DSA (Zhao & Bilen, "Dataset Condensation with Differentiable Siamese
Augmentation", 2021).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.distillation.matching import Layers, Match, gradient_loss, matching_loss
from fedsim.method.augment import SiameseAugment, perturb_statistics
from fedsim.method.optimisers import SGD
from fedsim.method.training import Augmentation, augmentation, fit
from fedsim.models import ConvNet


class Seen(NamedTuple):
    """Real images [B, C, H, W] that are compared, the weight of it, and noise as in `Match`."""

    images: Tensor
    weight: float = 1.0
    noise: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Matching(ABC):
    """What real and synthetic images are compared by, and how often under one network.

    Attributes:
        augmentations: those that go with it; the first is taken unless another one is asked for.
        outer_loops: steps of the images under one network.
    """

    augmentations: ClassVar[tuple[Augmentation, ...]]
    outer_loops = 1

    @classmethod
    def parameters(cls) -> list[str]:
        """The names of what only some matchings have."""
        return [field.name for field in fields(cls)]

    @abstractmethod
    def network(self, classifier: ConvNet) -> nn.Module:
        """The part of a classifier that images are compared under."""

    @abstractmethod
    def loss(self, network: nn.Module, matches: Sequence[Match]) -> Tensor:
        """How far the images are from each other; its graph leads to the synthetic ones."""

    def seen(self, batch: Tensor, network: nn.Module, draws: torch.Generator) -> list[Seen]:
        """What the synthetic images are compared with, given real ones of their class."""
        return [Seen(batch)]

    def fit(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        augment: Augmentation,
        draws: torch.Generator,
    ) -> None:
        """Train the network on synthetic images, between two steps of these; here not at all."""
        return None

    def matches(
        self,
        images: Tensor,
        labels: Tensor,
        members: Mapping[int, np.ndarray],
        read: Callable[[np.ndarray], Tensor],
        network: nn.Module,
        draws: torch.Generator,
        *,
        batch_size: int,
        augment: Augmentation,
    ) -> list[Match]:
        """Draw real images of each class, and change them and the synthetic ones alike.

        Args:
            images: the synthetic ones, [n, C, H, W].
            labels: theirs, int64 [n].
            members: class -> positions of its real images.
            read: real images [B, C, H, W] at positions.
            network: what they are compared under.
            draws: a CPU generator.
            batch_size: real images of a class, at most.
            augment: "siamese" draws one change for each class.
        """
        operations = SiameseAugment() if augment == "siamese" else None
        found: list[Match] = []
        for label, positions in members.items():
            transform = operations.draw(draws) if operations else _unchanged
            chosen = torch.randperm(len(positions), generator=draws)[:batch_size]
            batch = read(positions[chosen.numpy()])
            synthetic = transform(images[torch.nonzero(labels == label).flatten()])
            found += [
                Match(label, transform(seen.images), synthetic, seen.weight, seen.noise)
                for seen in self.seen(batch, network, draws)
            ]
        return found


@dataclass(frozen=True)
class Means(Matching):
    """DM: mean embeddings under an encoder.

    Attributes:
        layers: after the "last" block of the encoder, or after "all" of them.
    """

    layers: Layers = "last"

    augmentations = ("siamese", "none")

    def network(self, classifier: ConvNet) -> nn.Module:
        """The encoder."""
        for layer in classifier.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True  # No other layer looks at what it is given.
        return classifier.features.requires_grad_(False)

    def loss(self, network: nn.Module, matches: Sequence[Match]) -> Tensor:
        """Squared distances of mean embeddings."""
        return matching_loss(network, matches, self.layers)


@dataclass(frozen=True)
class PerturbedMeans(Means):
    """GDD: mean embeddings, and those of real images whose statistics are perturbed.

    Where GDD's printed formula and its idea disagree, `fedsim.method.perturb_statistics` says which
    is meant.

    Attributes:
        perturb: the statistics of the "image", or of each "feature" map.
        perturb_probability: that a class's images are perturbed, 0 to 1.
    """

    perturb: Literal["image", "feature"] = "image"
    perturb_probability: float = 0.5

    def seen(self, batch: Tensor, network: nn.Module, draws: torch.Generator) -> list[Seen]:
        """The images as they are, and perturbed ones."""
        if torch.rand((), generator=draws) >= self.perturb_probability:
            return [Seen(batch, 2.0)]  # Both terms of the loss see the same images.

        def noise(channels: int) -> Tensor:
            return torch.randn(2, len(batch), channels, generator=draws).to(batch.device)

        if self.perturb == "feature":
            convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
            return [Seen(batch), Seen(batch, noise=[noise(m.out_channels) for m in convolutions])]
        return [Seen(batch), Seen(perturb_statistics(batch, *noise(batch.shape[1])))]


@dataclass(frozen=True)
class Gradients(Matching):
    """DC: the gradients that images give a classifier, along its training on the synthetic ones.

    Attributes:
        outer_loops: steps of the images under one network, at least 1.
        inner_loops: steps of the network on the images between two of them, at least 1.
        network_learning_rate: of these steps.
    """

    outer_loops: int = 1
    inner_loops: int = 1
    network_learning_rate: float = 0.01

    augmentations: ClassVar[tuple[Augmentation, ...]] = ("none",)

    def network(self, classifier: ConvNet) -> nn.Module:
        """The whole of it."""
        return classifier

    def loss(self, network: nn.Module, matches: Sequence[Match]) -> Tensor:
        """Distances of gradients."""
        return gradient_loss(network, matches)

    def fit(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        augment: Augmentation,
        draws: torch.Generator,
    ) -> None:
        """Train on all images in one batch."""
        fit(
            network,
            itertools.repeat((images, labels)),
            range(self.inner_loops),
            SGD(network.parameters(), lr=self.network_learning_rate),
            device=images.device,
            augment=augmentation(augment, draws),
        )


@dataclass(frozen=True)
class AugmentedGradients(Gradients):
    """DSA: the same of images that are augmented alike."""

    augmentations = ("siamese",)


MATCHINGS: dict[str, type[Matching]] = {
    "gdd": PerturbedMeans,
    "dm": Means,
    "dc": Gradients,
    "dsa": AugmentedGradients,
}
"""Name in a scenario -> class."""


def _unchanged(images: Tensor) -> Tensor:
    return images
