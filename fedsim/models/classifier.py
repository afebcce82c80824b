"""What the image classifiers share: the forward pass, and the checks of their sizes."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Classifier(nn.Module):
    """Embedding, then one linear layer.

    Attributes:
        features: images float32 [N, in_channels, H, W] -> embedding [N, D].
        classifier: embedding [N, D] -> logits [N, num_classes].
    """

    features: nn.Sequential
    classifier: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def require_positive(**sizes: int) -> None:
    """Raise ValueError that names every size below one."""
    wrong = [f"{name} is {value}" for name, value in sizes.items() if value < 1]
    if wrong:
        raise ValueError(f"A model's sizes must be at least 1, but {', '.join(wrong)}.")


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with affine weights, in `groups` groups as far as these divide the channels.

    Otherwise the greatest common divisor is the number of groups; `groups = channels` normalises
    every channel by itself, as instance normalisation does.
    """
    return nn.GroupNorm(math.gcd(groups, channels), channels)
