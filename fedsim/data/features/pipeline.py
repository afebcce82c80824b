"""A head behind the frozen network and the public map that make its vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.data.features.mapping import PublicMap


class FeaturePipeline(nn.Module):
    """Pictures -> logits: frozen network, public map, head.

    Args:
        network: its `features` maps normalised images [n, C, H, W] to [n, d].
        map_: d -> k.
        model: vectors [n, k] -> logits.
    """

    def __init__(self, network: nn.Module, map_: PublicMap, model: nn.Module) -> None:
        super().__init__()
        self.network, self.model = network, model
        self.register_buffer("mean", torch.from_numpy(map_.mean))
        projection = map_.projection
        self.register_buffer(
            "projection", None if projection is None else torch.from_numpy(projection)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of images float32 [n, C, H, W]."""
        # As `PublicMap` computes it, so that a picture has the vector that its record had.
        moved = self.network.features(images).flatten(1).double() - self.mean  # type: ignore[operator]
        if self.projection is not None:
            moved = moved @ self.projection
        lengths = torch.linalg.vector_norm(moved, dim=1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = self.model((moved / lengths).float())
        return logits
