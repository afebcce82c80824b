"""Model contrast: features near those of one model, and away from those of another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def model_contrast(
    features: Tensor, near: Tensor, away: Tensor, temperature: float = 0.5
) -> Tensor:
    """How much nearer, by the cosine, features are to `away` than to `near`.

    MOON: Li, He and Song, "Model-Contrastive Federated Learning" (2021), Eq. 3, the mean over
    records: -log(e^(p / t) / (e^(p / t) + e^(n / t))), which is softplus((n - p) / t), with p and
    n the cosines with `near` and `away`, t the temperature. Only `features` has a gradient. Of a
    vector of zeros the cosines are 0.

    Args:
        features: [n, k], of the model that is trained.
        near: [n, k], of the received global model.
        away: [n, k], of the client's model of an earlier round.
        temperature: above 0.

    Returns:
        A scalar, at least 0; log 2 where `near` and `away` are the same.

    Raises:
        ValueError: shapes differ, or the temperature is not above 0.
    """
    if not features.shape == near.shape == away.shape or features.dim() != 2:
        raise ValueError(
            f"Features are [n, k] of all three models, but {tuple(features.shape)}, "
            f"{tuple(near.shape)} and {tuple(away.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"A temperature is above 0, not {temperature}.")
    own = _directions(features)
    positive = (own * _directions(near.detach())).sum(1)
    negative = (own * _directions(away.detach())).sum(1)
    return F.softplus((negative - positive) / temperature).mean()


def _directions(vectors: Tensor) -> Tensor:
    """Vectors of norm 1, or 0 of zeros; squares of large and of small ones stay in range."""
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1.0)
    # A vector that is not 0 has norm 1 at least now.
    return scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1.0)
