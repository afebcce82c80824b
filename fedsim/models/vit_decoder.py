"""A vision transformer whose patch tokens a light decoder turns into outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, cat, nn
from torch.nn import functional as F

from fedsim.models.classifier import group_norm, require_positive
from fedsim.models.memory import Memory
from fedsim.models.vit import ViTS14
from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD

REACH = 3.0
"""Intensities between so many standard deviations below and above the mean are black to white."""


class ViTDecoder(nn.Module):
    """ViT-S/14 as in DINOv2, and a convolutional decoder of its patch tokens, for slices.

    Oquab et al., "DINOv2" (2024) segment by one linear layer on frozen patch tokens. A token is
    14 px wide, so here a decoder enlarges them step by step, each time beside shallow convolutions
    of the slice itself, which see the edges; this half is that of Ronneberger et al., "U-Net"
    (2015). With `model.trainable: head` the transformer is frozen: a step then costs its forward
    pass alone, and the decoder alone travels. It has no dropout and keeps no statistics, so it
    computes the same in training and in evaluation.

    A slice of one channel becomes a picture of three equal ones. Its intensities z (mean 0,
    standard deviation 1 over the volume) become 0.5 + z / 6, and then what DINOv2 was trained on:
    minus ImageNet's means, over its deviations. The picture is resized by bicubic interpolation.

    22,056,192 parameters of the transformer and 34,586 of the decoder with the defaults, slices of
    one channel and two classes, whatever the patch.

    Args:
        num_classes: channels of the output.
        in_channels: channels of the images, 1 or 3.
        patch: (H, W) in voxels.
        resolution: what the longer side is resized to for the transformer, px, a multiple of
            `patch_size`; the other becomes the multiple that keeps the shape best.
        channels: of each level of the decoder, from the full resolution down, each half as fine as
            the last; the lowest takes the tokens. Two or more.
        layers: whose tokens the decoder is given, counted from 1, ascending; None: the middle one
            and the last.
        edges: whether the decoder sees the slice itself, too.
        remember: how many slices' tokens each process keeps while the transformer is frozen; worth
            it where patches are whole slices, so that the same ones come again. With the defaults a
            slice takes 0.44 MB. The bits that come out hang on whether this is 0, not on how many.
        width, depth, heads, grid: of the transformer, see `fedsim.models.vit.ViTS14`.
        patch_size: height and width of what the transformer makes a token of, px.

    Raises:
        ValueError: a size below one, a patch of three axes, channels that are neither 1 nor 3,
            a `resolution` that is no whole number of tokens, fewer than two levels, a width that
            the heads do not divide, or layers that are not there.
    """

    made_for: ClassVar[str] = "volumes"
    head: ClassVar[str] = "decoder"
    """All but the transformer."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: tuple[int, ...],
        resolution: PositiveInt = 168,
        channels: tuple[PositiveInt, ...] = (8, 16, 32),
        layers: tuple[PositiveInt, ...] | None = None,
        edges: bool = True,
        remember: NonNegativeInt = 0,
        width: PositiveInt = 384,
        depth: PositiveInt = 12,
        heads: PositiveInt = 6,
        patch_size: PositiveInt = 14,
        grid: PositiveInt = 37,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels)
        if len(patch) != 2:
            raise ValueError(f"A ViTDecoder segments slices, patch [H, W], not {list(patch)}.")
        if in_channels not in (1, 3):
            raise ValueError(f"A ViTDecoder takes images of 1 or 3 channels, not {in_channels}.")
        if resolution % patch_size:
            raise ValueError(
                f"A ViTDecoder makes tokens of {patch_size} px, but resolution is {resolution}: "
                f"choose a multiple, such as {(resolution // patch_size + 1) * patch_size}."
            )
        if len(channels) < 2:
            raise ValueError(
                f"A ViTDecoder needs channels of at least two levels, not {len(channels)}."
            )
        if layers is None:
            layers = (depth // 2, depth) if depth > 1 else (1,)
        if not layers or list(layers) != sorted(set(layers)) or layers[-1] > depth:
            raise ValueError(
                f"A ViTDecoder of depth {depth} has layers 1 to {depth}, to be named once each and "
                f"ascending, but layers is {list(layers)}."
            )
        self.layers = layers
        self.memory = Memory(remember)
        self.resized = _in_tokens(patch, resolution, patch_size)
        transformer = ViTS14(
            1,
            3,
            resolution,
            width=width,
            depth=depth,
            heads=heads,
            patch_size=patch_size,
            grid=grid,
        )
        self.features = transformer.features[:-1]  # All but the choice of the class token.
        self.decoder = _Decoder(len(layers) * width, in_channels, num_classes, channels, edges)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes, H, W] of images [N, in_channels, H, W]."""
        logits: Tensor = self.decoder(images, self.maps(images))
        return logits

    def maps(self, images: Tensor) -> Tensor:
        """The normalised patch tokens of the chosen layers, as maps.

        Args:
            images: z-scores, float32 [N, in_channels, H, W].

        Returns:
            [N, len(layers) * width, h, w], h and w in tokens; layer after layer.
        """
        weights = list(self.features.parameters())
        known = self.memory.most and not any(weight.requires_grad for weight in weights)
        if not known or images.is_meta or not len(images) or torch.jit.is_tracing():
            return self._maps(images)
        return self.memory.ask(images, weights, self._maps)

    def _maps(self, images: Tensor) -> Tensor:
        pictures = images.expand(-1, 3, -1, -1) / (2 * REACH) + 0.5
        mean, std = (
            pictures.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD)
        )
        pictures = F.interpolate(
            (pictures - mean) / std, self.resized, mode="bicubic", align_corners=False
        )
        parts: Any = self.features
        patches = parts.patches(pictures)
        tokens = parts.positions(patches)
        found = []
        for number, block in enumerate(parts.blocks, start=1):
            tokens = block(tokens)
            if number in self.layers:
                found.append(parts.norm(tokens)[:, 1:].transpose(1, 2))
            if number == self.layers[-1]:
                break
        return cat(found, 1).unflatten(2, patches.shape[2:])


class _Decoder(nn.Module):
    """Images [N, C, H, W] and maps of tokens [N, D, h, w] -> logits [N, num_classes, H, W]."""

    def __init__(
        self, width: int, in_channels: int, num_classes: int, channels: Sequence[int], edges: bool
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, channels[-1], 1)
        above = [in_channels, *channels]
        self.edges = nn.ModuleList(
            _convolution(above[level], above[level + 1], stride=2 if level else 1)
            for level in range(len(channels) - 1 if edges else 0)
        )
        self.ups = nn.ModuleList(
            _convolution(below + (here if edges else 0), here)
            for here, below in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.logits = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        sizes = [tuple(-(-side // 2**level) for side in size) for level in range(len(self.ups) + 1)]
        seen: list[Tensor] = []
        for edge in self.edges:
            seen.append(edge(seen[-1] if seen else images))
        found = _resized(self.project(maps), sizes.pop())
        for up in self.ups:
            found = _resized(found, sizes.pop())
            found = up(cat([found, seen.pop()], 1) if seen else found)
        logits: Tensor = self.logits(found)
        return logits


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), group_norm(out, 8), nn.ReLU()
    )


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _in_tokens(patch: Sequence[int], resolution: int, patch_size: int) -> tuple[int, ...]:
    """Height and width in px: the longer side `resolution`, the other in proportion."""
    longest = max(patch)
    return tuple(
        max(round(side * resolution / longest / patch_size), 1) * patch_size for side in patch
    )
