"""Losses of self-supervised learning: pure functions of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KOLEO_EPSILON = 1e-4
"""Added to the distance of nearest neighbours: with DINOv2's 1e-8, 16-bit arithmetic diverges."""


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross entropy of two views of each image.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020),
    Eq. 1: each of the 2N embeddings should have a larger cosine with the other view of its image
    than with the 2N - 2 views of other images. The mean over all of them.

    Args:
        first: embeddings [N, D] of one view of each image, N >= 2, of any length.
        second: of the other view, in the same order.
        temperature: divides the cosines, above 0; smaller looks more at the nearest.

    Returns:
        A scalar; log(2N - 1) where all embeddings are alike.

    Raises:
        ValueError: shapes that differ, fewer than two images, or a temperature of 0 or below.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(
            "NT-Xent needs two views [N, D] of at least two images, but the shapes are "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if temperature <= 0:
        raise ValueError(f"The temperature must be above 0, but is {temperature}.")
    count = len(first)
    views = F.normalize(torch.cat([first, second]), dim=1)
    cosines = views @ views.T / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
    other = torch.arange(2 * count, device=views.device).roll(count)
    return F.cross_entropy(cosines.masked_fill(itself, -torch.inf), other)


def koleo(embeddings: Tensor, epsilon: float = KOLEO_EPSILON) -> Tensor:
    """Kozachenko-Leonenko regulariser: embeddings spread out evenly over the sphere.

    Sablayrolles et al., "Spreading vectors for similarity search" (2019), as DINOv2 has it: the
    mean of -log(distance to the nearest other embedding + epsilon), of embeddings that are scaled
    to length 1. Which one is nearest gets no gradient.

    Args:
        embeddings: [N, D], N >= 2, of any length.
        epsilon: above 0. Of equal embeddings the loss is -log(epsilon), and the gradient 0.

    Returns:
        A scalar.

    Raises:
        ValueError: fewer than two embeddings, or an epsilon of 0 or below.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            f"KoLeo needs at least two embeddings [N, D], but the shape is "
            f"{tuple(embeddings.shape)}."
        )
    if epsilon <= 0:
        raise ValueError(f"KoLeo's epsilon must be above 0, but is {epsilon}.")
    points = F.normalize(embeddings, dim=1)
    with torch.no_grad():
        nearest = (points @ points.T).fill_diagonal_(-2).argmax(dim=1)
    # The root of 0 has an infinite slope: where two agree, the distance is a constant.
    squared = (points - points[nearest]).square().sum(dim=1)
    apart = squared > 0
    distance = torch.where(apart, squared, 1.0).sqrt() * apart
    return -(distance + epsilon).log().mean()
