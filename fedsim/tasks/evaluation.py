"""Scoring a model on a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fedsim.data.views import View
from fedsim.errors import DivergedError
from fedsim.tasks.classification.metrics import (
    classification_metrics,
    group_metrics,
    site_metrics,
)

BATCH = 64


@torch.inference_mode()
def predict(model: torch.nn.Module, view: View, device: torch.device) -> np.ndarray:
    """Class probabilities, float32 [n, classes], of a model in evaluation mode.

    Raises:
        DivergedError: they are no numbers.
    """
    model.to(device).eval()
    parts = [
        torch.softmax(require_finite(model(images.to(device))), dim=1).cpu().numpy()
        for images, _ in view.batches(BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(view.classes)), np.float32)


def require_finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits; DivergedError where a model's are not all finite."""
    if not torch.isfinite(logits).all():
        raise DivergedError
    return logits


def score(
    probabilities: np.ndarray,
    view: View,
    *,
    per_site: bool = False,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float | None]:
    """Metrics of predictions for a view, [n, classes].

    With `per_site`, also `<metric>@<site>` where sites differ; with `groups` of classes also
    `<metric>/<group>`.
    """
    labels = view.labels.numpy()
    scores = classification_metrics(labels, probabilities)
    scores |= group_metrics(labels, probabilities, groups or {})
    if per_site and len(view.site_names) > 1:
        scores |= site_metrics(labels, probabilities, view.sites, view.site_names)
    return scores
