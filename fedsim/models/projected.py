"""A classifier with a projector: what its features say in the terms of another network's."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedsim.models.classifier import Classifier, require_positive


class Projected(nn.Module):
    """A classifier of images, and a projector of its features beside the last layer.

    The projector of Fed-MAS: a linear layer, normalisation, ReLU, a linear layer. It normalises
    each record by itself (layer normalisation), where the paper's takes a batch's statistics:
    nothing of a batch travels then, and a batch may have one record.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images.
        network: the classifier: a model plugin with `features` and `classifier`, such as `cnn`,
            `convnet` or `resnet18`; a name, or a block with its parameters.
        dimensions: numbers of a projection, as many as the other network's vectors have.
        hidden: width of the projector's inner layer.

    Raises:
        ValueError: a size below one, or a network without these two parts.
        InputError: there is no such network, or it refuses a parameter.
    """

    made_for: ClassVar[str] = "images"
    head: ClassVar[str] = "network.classifier"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        network: str | dict[str, Any] = "convnet",
        dimensions: int = 1280,
        hidden: int = 512,
    ) -> None:
        from fedsim.registry import construct, default_registry

        super().__init__()
        require_positive(dimensions=dimensions, hidden=hidden)
        block = {"name": network} if isinstance(network, str) else dict(network)
        name = block.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(
                f"network is the name of a model, or a block with one, not {network!r}."
            )
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        made = construct(default_registry().resolve("models", name), block, **sizes)
        if not isinstance(made, Classifier):
            raise ValueError(f"network {name!r} has no parts `features` and `classifier`.")
        self.network = made
        with torch.no_grad():
            one = torch.zeros(1, in_channels, image_size, image_size)
            width = self.network.eval().features(one).shape[1]
        self.network.train()
        self.projector = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dimensions),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        logits: Tensor = self.network(images)
        return logits

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, num_classes], and projections [N, dimensions]."""
        features = self.network.features(images)
        return self.network.classifier(features), self.projector(features)
