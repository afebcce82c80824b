"""ResNet-18 with GroupNorm."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.models.classifier import Classifier, group_norm, require_positive
from fedsim.models.conditioning import FEWEST

# How much each stem and the three strided stages behind it shrink the image.
REDUCTION = {"stride1": 8, "stride2": 16, "imagenet": 32}


class ResNet18(Classifier):
    """ResNet-18 (He et al., "Deep Residual Learning", 2016) with GroupNorm for BatchNorm.

    GroupNorm (Wu & He, 2018) keeps no running statistics, so a client's update is its weights
    alone, and per-sample gradients exist, as differential privacy needs. Global average pooling
    makes the head independent of the image size: 11,177,538 parameters with the "imagenet" stem,
    the default width, three input channels and two classes. Convolutions start from He's normal
    distribution (fan out).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images.
        width: channels of the first stage; the later stages have 2, 4 and 8 times as many.
        stem: "imagenet" is convolution 7x7 of stride 2 and max pooling (images of at least 32 px),
            "stride2" is convolution 3x3 of stride 2 (at least 16 px), "stride1" is convolution 3x3
            as used on CIFAR (at least 8 px; about four times the time of "stride2"). "auto" takes
            "imagenet" from 64 px on and "stride2" below.
        norm: "group" normalises in 32 groups. "instance" normalises every channel by itself, as
            the distillation literature does; before global average pooling that removes most of
            what a channel's mean could say, and it needs images of twice the smallest size. (So
            does a width below 16, whose last stage has fewer than four channels in a group: see
            `fedsim.models.conditioning`.)

    Raises:
        ValueError: a size below one, or images too small for the stem and the normalisation.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: int = 64,
        stem: Literal["auto", "stride1", "stride2", "imagenet"] = "auto",
        norm: Literal["group", "instance"] = "group",
    ) -> None:
        super().__init__()
        require_positive(
            num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width
        )
        if stem == "auto":
            stem = "imagenet" if image_size >= 64 else "stride2"
        # The last stage must hold a pixel, and four where its groups have few channels.
        channels = 8 * width // _norm(8 * width, norm).num_groups
        smallest = REDUCTION[stem] * (2 if channels < FEWEST else 1)
        if image_size < smallest:
            raise ValueError(
                f"A ResNet18 with stem {stem!r}, norm {norm!r} and width {width} needs images of "
                f"at least {smallest} px, but image_size is {image_size}."
            )
        kernel, stride = {"stride1": (3, 1), "stride2": (3, 2), "imagenet": (7, 2)}[stem]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False),
            _norm(width, norm),
            nn.ReLU(),
        ]
        if stem == "imagenet":
            layers.append(nn.MaxPool2d(3, 2, 1))
        inner = width
        for stage in range(4):
            outer = width * 2**stage
            layers.append(_Block(inner, outer, 2 if stage else 1, norm))
            layers.append(_Block(outer, outer, 1, norm))
            inner = outer
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _Block(nn.Module):
    """Two convolutions 3x3 around a shortcut; the shortcut is a convolution 1x1 where sizes change.

    Nothing works in place: the hooks of per-sample gradients do not allow it.
    """

    def __init__(self, inner: int, outer: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = _norm(outer, norm)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = _norm(outer, norm)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inner == outer
            else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), _norm(outer, norm))
        )

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


def _norm(channels: int, norm: str) -> nn.GroupNorm:
    return group_norm(channels, channels if norm == "instance" else 32)
