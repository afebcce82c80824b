"""Models for tests of the fast mode: each is treated in another way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pooled(nn.Module):
    """Convolutions and pooling by maxima, no normalisation; too large to be stacked."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (image_size // 4) ** 2, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Dropping(Pooled):
    """The same with dropout, which draws from torch's global generator."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.1, self.training))


class Coupled(Pooled):
    """The same, where each record's output depends on the others."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0, keepdim=True))


class Branching(Pooled):
    """The same with a branch on values, which torch cannot map over clients."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 2 if bool(images.sum() > 0) else images)


class Tied(Pooled):
    """The same with one weight under two names."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.again = self.layers[-1]


class Buffered(Pooled):
    """The same with a buffer."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.register_buffer("shift", torch.zeros(1))
