"""U-Net with two convolutions a level, which can be cut in three for split learning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive
from fedsim.models.unet import halvings
from fedsim.splitting import Parts


class SplitUNet(nn.Module):
    """U-Net of Ronneberger et al. (2015): two convolutions a level, pooling down, skips across.

    A convolution is followed by normalisation and ReLU. It can be cut at two places (Shiranthika
    et al., "SplitFed resilience to packet loss", 2023): "shallow" leaves the first convolution, the
    last one of 3 x 3 and the logits at the client; "deep" its whole first level, with the skip
    connection, so that smaller feature maps cross. 29,490 parameters with the defaults, slices of
    one channel and two classes.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the images.
        patch: (H, W) or (D, H, W) in voxels.
        channels: of each level, from the full resolution down; two or more.
        norm: "batch" as the paper has it, whose running statistics travel and are averaged; or
            "instance", of every channel of every record by itself.

    Raises:
        ValueError: a size below one, fewer than two levels, or a patch that cannot be halved so.
    """

    made_for: ClassVar[str] = "volumes"
    head: ClassVar[str] = "logits"
    cuts: ClassVar[tuple[str, ...]] = ("shallow", "deep")

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: tuple[int, ...],
        channels: tuple[PositiveInt, ...] = (8, 16, 32),
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels)
        dimensions, strides = len(patch), halvings(patch, len(channels))
        self.pools = nn.ModuleList(_pool(dimensions, stride) for stride in strides)
        self.down = nn.ModuleList(
            _level(dimensions, above, own, norm)
            for above, own in itertools.pairwise((in_channels, *channels))
        )
        pairs = list(itertools.pairwise(channels))
        self.enlarge = nn.ModuleList(
            _enlarge(dimensions, below, own, stride)
            for (own, below), stride in zip(pairs, strides, strict=True)
        )
        self.up = nn.ModuleList(_level(dimensions, 2 * own, own, norm) for own, _ in pairs)
        self.logits = _convolution(dimensions)(channels[0], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes, *patch] of images [N, in_channels, *patch]."""
        logits: Tensor = self.logits(self._from_level(0, images))
        return logits

    def parts(self, cut: str) -> Parts:
        """The model cut at one of `cuts`, see `fedsim.splitting`."""
        if cut == "shallow":
            return Parts(
                front=lambda images: (self.down[0][0](images), ()),  # type: ignore[index]
                server=self._between_first_and_last,
                back=lambda features, _: self.logits(self.up[0][1](features)),  # type: ignore[index]
                at_client=("down.0.0", "up.0.1", "logits"),
            )
        if cut == "deep":
            return Parts(
                front=self._first_level,
                server=lambda features: self._from_level(1, features),
                back=lambda features, stayed: self.logits(self._joined(0, features, *stayed)),
                at_client=("down.0", "enlarge.0", "up.0", "logits"),
            )
        raise ValueError(f"cut is {cut!r}, but there are {', '.join(self.cuts)}")

    def _first_level(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skip: Tensor = self.down[0](images)
        return self.pools[0](skip), (skip,)

    def _between_first_and_last(self, features: Tensor) -> Tensor:
        """The features of the first convolution -> those before the last one of 3 x 3."""
        skip: Tensor = self.down[0][1](features)  # type: ignore[index]
        below = self._from_level(1, self.pools[0](skip))
        joined: Tensor = self.up[0][0](torch.cat([skip, self.enlarge[0](below)], dim=1))  # type: ignore[index]
        return joined

    def _from_level(self, level: int, features: Tensor) -> Tensor:
        """What a level makes of what comes from above it: all below it included."""
        skip: Tensor = self.down[level](features)
        if level == len(self.pools):
            return skip
        return self._joined(level, self._from_level(level + 1, self.pools[level](skip)), skip)

    def _joined(self, level: int, below: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.up[level](torch.cat([skip, self.enlarge[level](below)], dim=1))
        return joined


def _convolution(dimensions: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dimensions == 2 else nn.Conv3d


def _level(dimensions: int, inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Two blocks of convolution, normalisation and ReLU."""
    # Normalising takes off again what a bias before it adds.
    kinds = {
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
        ("instance", 2): nn.InstanceNorm2d,
        ("instance", 3): nn.InstanceNorm3d,
    }
    blocks = [
        nn.Sequential(
            _convolution(dimensions)(width, outputs, kernel_size=3, padding=1, bias=False),
            kinds[norm, dimensions](outputs, affine=True),
            nn.ReLU(),
        )
        for width in (inputs, outputs)
    ]
    return nn.Sequential(*blocks)


def _pool(dimensions: int, stride: Sequence[int]) -> nn.Module:
    kind = nn.MaxPool2d if dimensions == 2 else nn.MaxPool3d
    return kind(tuple(stride))


def _enlarge(dimensions: int, below: int, own: int, stride: Sequence[int]) -> nn.Module:
    kind: Any = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
    enlarge: nn.Module = kind(below, own, kernel_size=tuple(stride), stride=tuple(stride))
    return enlarge
