"""Losses of data set distillation: how far synthetic images are from the real ones.

The real side is the target: detach it, or compute it without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_matching(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared Euclidean distance between the mean embeddings of one class.

    Distribution matching (Zhao & Bilen, "Dataset Condensation with Distribution Matching", 2023);
    Eq. 4 of GDD-FL, and with perturbed real images its Eq. 5. The gradient of one image falls as
    one over the number of synthetic images.

    Args:
        real: embeddings [B, D], B >= 1.
        synthetic: embeddings [I, D], I >= 1.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: a side without images, or embeddings of different length.
    """
    if len(real) == 0 or len(synthetic) == 0 or real.shape[1:] != synthetic.shape[1:]:
        raise ValueError(
            "Matching means needs at least one real and one synthetic embedding of equal length, "
            f"but their shapes are {tuple(real.shape)} and {tuple(synthetic.shape)}."
        )
    return (real.mean(dim=0) - synthetic.mean(dim=0)).square().sum()


def layer_matching(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum over layers of `mean_matching`, each layer at the scale of the last.

    A squared distance grows with the length of the embedding. Each is multiplied by the last
    layer's length over its own, so that layers count by the mean of their squared differences. With
    one layer this is `mean_matching`.

    Args:
        real: an embedding [B, D] for each layer, first to last; D varies.
        synthetic: the same of the synthetic images, [I, D].

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: no layer, another number of layers on the two sides, or what `mean_matching`
            refuses.
    """
    if not real or len(real) != len(synthetic):
        raise ValueError(
            "Matching layers needs the same layers of real and synthetic images, at least one, but "
            f"there are {len(real)} and {len(synthetic)}."
        )
    length = real[-1].shape[1]
    terms = [
        mean_matching(target, embedding) * (length / target.shape[1])
        for target, embedding in zip(real, synthetic, strict=True)
    ]
    return torch.stack(terms).sum()


def gradient_distance(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], epsilon: float = 1e-6
) -> Tensor:
    """Layer-wise cosine distance between the gradients of two losses.

    Eq. 10 of Zhao et al., "Dataset Condensation with Gradient Matching" (2021): the sum over
    layers and output channels of one minus the cosine of the channel's two gradients. Parameters
    with one dimension (biases, normalisation weights) do not count.

    Args:
        real: gradients of the loss on real images, one tensor a parameter, detached.
        synthetic: the same on synthetic images, with a graph to the images.
        epsilon: added to the product of the norms, so that a zero gradient counts as one.

    Returns:
        A scalar between 0 and twice the number of output channels.

    Raises:
        ValueError: the two sides do not have the same shapes.
    """
    shapes = [[tuple(gradient.shape) for gradient in side] for side in (real, synthetic)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The gradients to compare have different shapes: {shapes[0]} and {shapes[1]}."
        )
    total = torch.zeros((), device=real[0].device) if real else torch.zeros(())
    for target, gradient in zip(real, synthetic, strict=True):
        if target.dim() > 1:
            target, gradient = target.flatten(1), gradient.flatten(1)
            norms = target.norm(dim=1) * gradient.norm(dim=1)
            total = total + (1 - (target * gradient).sum(dim=1) / (norms + epsilon)).sum()
    return total


def class_gradients(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """Mean gradients of cross-entropy in a linear classifier's weights, of records of one class.

    In closed form, the mean of (softmax(W v + b) - onehot) v': it can be differentiated in the
    features with one backward pass. CReFF's clients send it (Shang et al., "Federated Learning on
    Heterogeneous and Long-Tailed Data via Classifier Re-Training with Federated Features", 2022).

    Args:
        features: [m, n, k], of n >= 1 records of each of m classes.
        weight: [classes, k].
        bias: [classes].
        classes: int64 [m], which classes they are.

    Returns:
        [m, classes, k].

    Raises:
        ValueError: shapes that do not fit, or a class without a record.
    """
    if (
        features.dim() != 3
        or not features.shape[1]
        or features.shape[::2] != (len(classes), weight.shape[1])
        or bias.shape != weight.shape[:1]
    ):
        raise ValueError(
            f"Features are [m, n, k] with n >= 1, weights [classes, k], biases [classes] and "
            f"classes [m], but {tuple(features.shape)}, {tuple(weight.shape)}, "
            f"{tuple(bias.shape)} and {tuple(classes.shape)}."
        )
    errors = (features @ weight.T + bias).softmax(dim=2)
    errors = errors - F.one_hot(classes, len(weight)).to(errors)[:, None]
    return errors.transpose(1, 2) @ features / features.shape[1]
