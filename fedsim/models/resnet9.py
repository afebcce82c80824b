"""ResNet-9 of the literature on private training."""

from __future__ import annotations

from torch import Tensor, nn

from fedsim.models.classifier import Classifier, group_norm, require_positive


class ResNet9(Classifier):
    """ResNet-9 with Mish, GroupNorm and scale normalisation.

    Network of Klause et al., "Differentially Private Training of Residual Networks with Scale
    Normalisation" (2022): two convolutions, a residual block, two convolutions, a residual block,
    maxima over 2x2 fields of the map and one linear layer. Every convolution 3x3 is followed by
    GroupNorm in 32 groups and Mish; scale normalisation is one more GroupNorm behind each sum of a
    residual block, which keeps gradient norms of the same size for all records. 2,440,514
    parameters with the default width, three input channels and two classes, whatever the image
    size.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, at least 16.
        width: channels of the first convolution; the blocks have 2 and 4 times as many.
        scale_norm: normalise behind the residual blocks.

    Raises:
        ValueError: a size below one, or images smaller than 16 px.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: int = 64,
        scale_norm: bool = True,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels, width=width)
        if image_size < 16:
            raise ValueError(
                "A ResNet9 halves the image three times, takes maxima over a 2x2 grid and needs "
                f"images of at least 16 px, but image_size is {image_size}."
            )
        self.features = nn.Sequential(
            _convolution(in_channels, width),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            _Residual(2 * width, scale_norm),
            _convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _convolution(4 * width, 4 * width),
            nn.MaxPool2d(2),
            _Residual(4 * width, scale_norm),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(16 * width, num_classes)


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, then perhaps GroupNorm."""

    def __init__(self, channels: int, scale_norm: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )
        self.norm = group_norm(channels, 32) if scale_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        normalised: Tensor = self.norm(images + self.block(images))
        return normalised


def _convolution(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1, bias=False), group_norm(outer, 32), nn.Mish()
    )
