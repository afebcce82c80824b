"""What the image classifiers share: forward pass, pooling, normalisation, checks of sizes."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Embedding, then one linear layer.

    Attributes:
        features: images float32 [N, in_channels, H, W] -> embedding [N, D].
        classifier: embedding [N, D] -> logits [N, num_classes].
        head: the last layer's path.
    """

    made_for: ClassVar[str] = "images"
    head: ClassVar[str] = "classifier"

    features: nn.Sequential
    classifier: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, in_channels, image_size, image_size]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class AveragePool2(nn.Module):
    """Average pooling by 2; an odd last row or column is dropped, as `torch.nn.AvgPool2d(2)` does.

    On the CPU torch's own pooling is slow for contiguous images: adding neighbours takes a third to
    an eighth of its time, and gives the same values up to rounding.
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or not images.is_contiguous():
            return F.avg_pool2d(images, 2)
        height, width = images.shape[2] // 2, images.shape[3] // 2
        images = images[:, :, : 2 * height, : 2 * width]
        upper, lower = images.unflatten(2, (height, 2)).unbind(3)
        left, right = (upper + lower).unflatten(3, (width, 2)).unbind(4)
        return (left + right) * 0.25


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
