"""A small convolutional network for quick experiments and private training."""

from __future__ import annotations

import itertools

from torch import nn

from fedsim.models.classifier import AveragePool2, Classifier, group_norm, require_positive


class SmallCNN(Classifier):
    """Three blocks of convolution 3x3, GroupNorm, ReLU and average pooling; a global average.

    GroupNorm has 8 groups. The channels are `width`, 2 and 4 times `width`: 93,954 parameters with
    the default width, three input channels and two classes, whatever the image size.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, at least 8.
        width: channels of the first block.

    Raises:
        ValueError: a size below one, or images smaller than 8 px.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: int, width: int = 32
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels, width=width)
        if image_size < 8:
            raise ValueError(
                "A SmallCNN halves the image three times and needs images of at least 8 px, but "
                f"image_size is {image_size}."
            )
        channels = [in_channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(channels):
            layers += [
                nn.Conv2d(inner, outer, 3, padding=1),
                group_norm(outer, 8),
                nn.ReLU(),
                AveragePool2(),
            ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(4 * width, num_classes)
