"""How far a network's projections are from a frozen network's vectors, and Fed-MAS's factor of it.

Fed-MAS: Elbatel et al., "Federated Model Aggregation via Self-Supervised Priors for Highly
Imbalanced Medical Image Classification" (2023), whose equations are E1 to E5 in their order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def divergence(projections: Tensor, vectors: Tensor) -> Tensor:
    """Squared distance of the two directions, 2 - 2 cosine, of each record (E1).

    Args:
        projections: [n, k].
        vectors: [n, k].

    Returns:
        [n], from 0 to 4.

    Raises:
        ValueError: the shapes differ.
    """
    if projections.shape != vectors.shape:
        raise ValueError(
            f"Projections are {tuple(projections.shape)}, but vectors {tuple(vectors.shape)}."
        )
    return (_directions(projections) - _directions(vectors)).square().sum(1)


def _directions(vectors: Tensor) -> Tensor:
    """Vectors of norm 1, or 0 of zeros; squares of large and of small ones stay in range.

    They are divided by a power of two first, which changes no bit of what needs no help.
    """
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    power = largest / (2 * torch.frexp(largest).mantissa)
    return F.normalize(vectors / torch.where(largest > 0, power, 1.0), dim=1)


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean value of each class's records, float64 [num_classes]; 0 of a class without (E2)."""
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values.double())
    counts = torch.bincount(labels, minlength=num_classes)
    return sums / counts.clamp(min=1)


def rescue_factor(
    before: Tensor, during: Tensor, normalise: Literal["paper", "code"] = "paper"
) -> float:
    """The sum over classes of the distance before training times that during it (E3).

    Args:
        before: mean distance of each class, [classes], at least 0; 0 of one that the client lacks.
        during: the same while it was trained.
        normalise: "code" divides each by its sum first, as the public code does; the factor of a
            client with one class is then 1, the largest there is.

    Returns:
        At least 0; 0 where a sum to divide by is.

    Raises:
        ValueError: the shapes differ, or a value is negative or not finite.
    """
    if before.shape != during.shape:
        raise ValueError(f"Distances are {tuple(before.shape)} and {tuple(during.shape)}.")
    for values in (before, during):
        wrong = int((~torch.isfinite(values) | (values < 0)).sum())
        if wrong:  # Which ones would tell the classes that a client has.
            raise ValueError(f"Distances are finite and at least 0, but {wrong} are not.")
    before, during = before.double(), during.double()
    factor = float((before * during).sum())
    if normalise == "paper":
        return factor
    whole = float(before.sum() * during.sum())
    return factor / whole if whole else 0.0
