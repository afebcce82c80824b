"""The ConvNet of the data set distillation literature."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.models.classifier import AveragePool2, Classifier, group_norm, require_positive


class ConvNet(Classifier):
    """`depth` blocks of convolution 3x3, normalisation, ReLU and average pooling by 2.

    Encoder and classifier of Zhao et al., "Dataset Condensation with Gradient Matching" (2021) and
    Zhao & Bilen, "Dataset Condensation with Distribution Matching" (2023). With the defaults and
    three input channels the blocks hold 299,520 parameters. The embedding is the flattened map of
    `width * (image_size // 2**depth)**2` values.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, at least `2**depth`.
        width: channels of every block.
        depth: number of blocks.
        norm: "instance" normalises every channel by itself (the literature's choice), "group" in
            32 groups, "none" not at all.

    Raises:
        ValueError: a size below one, or images too small for the depth.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: int = 128,
        depth: int = 3,
        norm: Literal["instance", "group", "none"] = "instance",
    ) -> None:
        super().__init__()
        require_positive(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            width=width,
            depth=depth,
        )
        side = image_size // 2**depth
        if side < 1:
            raise ValueError(
                f"A ConvNet of depth {depth} halves the image {depth} times and needs images of at "
                f"least {2**depth} px, but image_size is {image_size}."
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers.append(nn.Conv2d(width if block else in_channels, width, 3, padding=1))
            if norm != "none":
                layers.append(group_norm(width, width if norm == "instance" else 32))
            layers += [nn.ReLU(), AveragePool2()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(width * side**2, num_classes)
