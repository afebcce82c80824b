"""The random views of an image that SimCLR compares, drawn on tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD

SCALE = (0.2, 1.0)
"""Part of the image's area that a crop shows."""
RATIO = (3 / 4, 4 / 3)
"""Width over height of a crop."""
JITTERED, JITTER = 0.8, (0.4, 0.4, 0.4)
"""Probability of other colours; most that brightness, contrast and saturation change by."""
GREY = 0.2
"""Probability of an image without colour."""
BLURRED, BLUR = 0.5, (0.1 / 224, 2 / 224)
"""Probability of a blur; least and largest deviation of the Gaussian, over the image's height."""


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One random view of each image: crop and resize, mirror and turn, colour, blur.

    Chen et al. (2020), appendix A, with three differences: brightness, contrast and saturation
    change by half as much and hue stays, for colour is a finding in skin and tissue; images are
    also mirrored up and down and turned by a quarter, for these have no upside; blur has the same
    part of the image at any size, so that at 32 px there is next to none (the paper has none).

    Args:
        images: normalised (`fedsim.wire.codecs.normalise`), float32 [N, 3, H, H].
        generator: a CPU generator; nothing else decides.

    Returns:
        float32, the same shape.
    """
    shown = _crop(images, generator)
    mean, std = (torch.tensor(one).view(1, -1, 1, 1).to(images) for one in (IMAGE_MEAN, IMAGE_STD))
    shown = _colour((shown * std + mean).clamp(0, 1), generator)
    return (_blur(shown, generator) - mean) / std


def _uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of each image at its size, mirrored and turned by quarters."""
    count = len(images)
    area = _uniform(generator, count, *SCALE)
    ratio = _uniform(generator, count, *(math.log(one) for one in RATIO)).exp()
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    right = (1 - wide) * _uniform(generator, count, -1, 1)
    down = (1 - high) * _uniform(generator, count, -1, 1)
    flips = torch.randint(2, (count, 3), generator=generator)
    wide, high = (one * (1 - 2 * flips[:, i]) for i, one in enumerate((wide, high)))
    zero, turned = torch.zeros(count), flips[:, 2] > 0
    # Where each pixel of the view is in the image: with a turn, rows are columns.
    across = torch.where(turned, zero, wide), torch.where(turned, wide, zero), right
    along = torch.where(turned, high, zero), torch.where(turned, zero, high), down
    maps = torch.stack([torch.stack(across, 1), torch.stack(along, 1)], 1).to(images)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images of 0 to 1 with other brightness, contrast and saturation, or without colour."""
    count = len(images)
    changed = torch.rand(count, generator=generator) < JITTERED
    factors = [
        torch.where(changed, _uniform(generator, count, 1 - one, 1 + one), 1.0)
        .view(-1, 1, 1, 1)
        .to(images)
        for one in JITTER
    ]
    grey = (torch.rand(count, generator=generator) < GREY).view(-1, 1, 1, 1).to(images.device)
    images = (images * factors[0]).clamp(0, 1)
    images = torch.lerp(_luma(images).mean((2, 3), keepdim=True), images, factors[1]).clamp(0, 1)
    luma = _luma(images)
    return torch.where(grey, luma, torch.lerp(luma, images, factors[2]).clamp(0, 1))


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1).to(images)
    return (images * weights).sum(1, keepdim=True)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Some of the images blurred by a Gaussian of a deviation of their own."""
    count = len(images)
    least, most = (share * images.shape[2] for share in BLUR)
    deviation = _uniform(generator, count, least, most)
    chosen = torch.rand(count, generator=generator) < BLURRED
    reach = max(1, math.ceil(2 * most))
    places = torch.arange(-reach, reach + 1)
    kernels = torch.softmax(-(places**2) / (2 * deviation[:, None] ** 2), dim=1)
    kernels = torch.where(chosen[:, None], kernels, (places == 0).float()).to(images)
    kernels = kernels.repeat_interleave(images.shape[1], 0)[:, None]
    flat = images.reshape(1, -1, *images.shape[2:])
    padded = F.pad(flat, (reach, reach, reach, reach), mode="replicate")
    padded = F.conv2d(padded, kernels[:, :, None], groups=len(kernels))
    return F.conv2d(padded, kernels[..., None], groups=len(kernels)).view_as(images)
