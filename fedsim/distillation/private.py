"""Distribution matching with a guarantee: only noisy sums of embeddings steer the images.

Zhao & Bilen, "Dataset Condensation with Distribution Matching" (2023), made private. Under each
fresh network every sampled record contributes one vector: how far its embedding is from the mean
embedding of its class's synthetic images, in the place of its class. The vectors are clipped and
added up, the sum gets noise, and it is divided by a fixed number. Synthetic images and networks do
not depend on records but through earlier releases, so all else is post-processing.

Taking the distance to the synthetic images before clipping, and not the embedding itself, leaves
what is common to all images out of the sum: the noise then stands against what is still to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.privacy.releases import Releases

_CHUNK = 64  # Real images to embed at a time.


def match_privately(
    images: Tensor,
    labels: Tensor,
    encoder: nn.Module,
    redraw: Callable[[], None],
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    releases: Releases,
    steps: Iterable[int],
    optimizer: torch.optim.Optimizer,
    *,
    classes: int,
    pool: int,
    after: Callable[[], None],
) -> None:
    """Move synthetic images towards the means of the real ones, one release a step.

    Args:
        images: float32 [n, C, H, W], on the device to compute on; moved by the optimiser.
        labels: int64 [n]; every class occurs.
        encoder: maps images to embeddings [n, maps * side * side].
        redraw: draws the encoder anew.
        read: positions [B] -> real images [B, C, H, W] and labels [B].
        releases: samples and releases.
        steps: one item a step.
        optimizer: of the images.
        classes: number of classes.
        pool: embeddings are averaged to maps of pool x pixels; smaller maps meet less noise.
        after: called after each step (clamping, schedules).
    """
    device = images.device
    labels = labels.to(device)
    counts = torch.bincount(labels, minlength=classes).to(device, torch.float32)[:, None]
    for _ in steps:
        redraw()
        embedded = _embed(encoder, images, pool)
        sums = embedded.new_zeros(classes, embedded.shape[1]).index_add(0, labels, embedded)
        means = sums / counts
        here = means.detach()
        scale = here.norm() / classes**0.5 + 1e-12
        positions, places = releases.sample()
        units = int(places[-1]) + 1 if len(places) else 0
        found = here.new_zeros(units, classes, here.shape[1])
        for start in range(0, len(positions), _CHUNK):
            real, own = read(positions[start : start + _CHUNK])
            own = own.to(device)
            with torch.no_grad():
                away = (_embed(encoder, real.to(device), pool) - here[own]) / scale
            unit = torch.from_numpy(places[start : start + _CHUNK]).to(device)
            found.index_put_((unit, own), away, accumulate=True)
        update = releases.release(found.flatten(1)).view_as(here)
        # A class's share of the sample is not known: all are divided by the same number.
        direction = update * classes * scale
        loss = -2 * (direction * means).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


def _embed(encoder: nn.Module, images: Tensor, pool: int) -> Tensor:
    """Pooled embeddings [n, maps * pool * pool]."""
    flat = encoder(images)
    side = _side(encoder, images, flat.shape[1])
    maps = flat.view(len(images), -1, side, side)
    return F.adaptive_avg_pool2d(maps, min(pool, side)).flatten(1)


def _side(encoder: nn.Module, images: Tensor, size: int) -> int:
    """Height and width of the maps that an encoder of average pools flattens."""
    from fedsim.models.classifier import AveragePool2

    halvings = sum(isinstance(module, AveragePool2) for module in encoder.modules())
    side = images.shape[-1] >> halvings
    if size % (side * side):
        raise ValueError(f"Embeddings of size {size} are no maps of {side} x {side} pixels.")
    return side
