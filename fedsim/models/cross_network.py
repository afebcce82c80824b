"""The network of UniverSeg: it outlines in a slice what is outlined in a set of other slices.

Butoi et al., "UniverSeg: Universal Medical Image Segmentation" (ICCV 2023, arXiv:2304.06131).
Names and shapes of its state are those of the weights that the authors published.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.models.classifier import require_positive


class CrossBlock(nn.Module):
    """A convolution across a query and each of its support slices, then one of each by itself.

    The interaction of the query with support slice j is a convolution of both, one upon the other
    in channels. The mean of the interactions over j is the query's new features, the interaction
    itself those of slice j. Both then go through a convolution and LeakyReLU of their own.

    Args:
        query, support: channels that come in.
        channels: that go out, of both.
    """

    def __init__(self, query: int, support: int, channels: int) -> None:
        super().__init__()
        self._query = query
        # The paths of the published weights.
        self.cross = nn.ModuleDict({"cross_conv": _convolution(query + support, channels)})
        self.target = _own(channels)
        self.support = _own(channels)

    def forward(self, query: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both.

        Args:
            query: [B, C, H, W].
            support: [B, S, C', H, W].
        """
        interaction = self._cross(query, support)
        return _convolved(self.target, interaction.mean(1)), _each(self.support, interaction)

    def last(self, query: Tensor, support: Tensor) -> Tensor:
        """The query's features alone, where nobody needs those of the support any more."""
        return _convolved(self.target, self._cross(query, support).mean(1))

    def _cross(self, query: Tensor, support: Tensor) -> Tensor:
        """The interactions [B, S, C, H, W].

        A convolution is linear, so the query's part is computed once and added to each.
        """
        both = cast(nn.Conv2d, self.cross["cross_conv"])
        of_query, of_support = both.weight.split([self._query, both.in_channels - self._query], 1)
        common = F.conv2d(query, of_query, both.bias, padding=1)
        flat = F.conv2d(support.flatten(0, 1), of_support, padding=1)
        return common[:, None] + flat.unflatten(0, support.shape[:2])


class CrossNetwork(nn.Module):
    """A U-Net of cross blocks: images with masks beside the query instead of trained classes.

    1,182,785 parameters with the default channels, however many support slices there are. The
    output does not depend on their order, nor on how often the whole set is repeated. The last
    block's convolution of the support is in the published weights and has no use.

    Args:
        channels: of each level, from the full resolution down; two or more.

    Raises:
        ValueError: fewer than two levels, or a channel number below one.
    """

    def __init__(self, channels: Sequence[int] = (64, 64, 64, 64)) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"A network needs channels of at least two levels, not {channels}.")
        require_positive(**{f"channels[{i}]": count for i, count in enumerate(channels)})
        into = (1, *channels[:-1])
        self.enc_blocks = nn.ModuleList(
            CrossBlock(before, before + (level == 0), after)  # A mask is beside each image.
            for level, (before, after) in enumerate(zip(into, channels, strict=True))
        )
        up = list(channels[::-1])
        self.dec_blocks = nn.ModuleList(
            CrossBlock(below + here, below + here, here) for below, here in pairwise(up)
        )
        self.out_conv = nn.ModuleDict({"conv": nn.Conv2d(channels[0], 1, 1)})
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu", a=0.01)
                nn.init.zeros_(cast(Tensor, layer.bias))

    @property
    def multiple(self) -> int:
        """What height and width must be a multiple of."""
        return int(2 ** (len(self.enc_blocks) - 1))

    def forward(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Logits [B, 1, H, W] of what the masks outline; a sigmoid makes probabilities of them.

        Args:
            query: images [B, 1, H, W], from 0 to 1.
            images: of the support, [B, S, 1, H, W], from 0 to 1, S at least 1.
            masks: of the support, [B, S, 1, H, W], 0 or 1.
        """
        support = torch.cat([images, masks], 2)
        passed: list[tuple[Tensor, Tensor]] = []
        for level, block in enumerate(self.enc_blocks):
            if level:
                query = F.max_pool2d(query, 2)
                support = F.max_pool2d(support.flatten(0, 1), 2).unflatten(0, support.shape[:2])
            query, support = block(query, support)
            passed.append((query, support))
        passed.pop()
        for level, block in enumerate(self.dec_blocks):
            beside, beside_support = passed.pop()
            query = torch.cat([_doubled(query), beside], 1)
            wide = _doubled(support.flatten(0, 1)).unflatten(0, support.shape[:2])
            support = torch.cat([wide, beside_support], 2)
            if level + 1 == len(self.dec_blocks):
                query = cast(CrossBlock, block).last(query, support)
            else:
                query, support = block(query, support)
        logits: Tensor = self.out_conv["conv"](query)
        return logits


def _convolution(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


def _own(channels: int) -> nn.ModuleDict:
    """A branch's own convolution, at the path of the published weights."""
    return nn.ModuleDict({"vmapped": nn.ModuleDict({"conv": _convolution(channels, channels)})})


def _convolved(branch: nn.ModuleDict, features: Tensor) -> Tensor:
    inner = cast(nn.ModuleDict, branch["vmapped"])
    return F.leaky_relu(inner["conv"](features))


def _each(branch: nn.ModuleDict, features: Tensor) -> Tensor:
    """The same of each support slice, [B, S, C, H, W]."""
    return _convolved(branch, features.flatten(0, 1)).unflatten(0, features.shape[:2])


def _doubled(features: Tensor) -> Tensor:
    """Twice as high and wide, bilinear, corners upon corners."""
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
