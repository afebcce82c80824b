"""A view of complex slices: the records that one side of a split, or one client, may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedsim.data.slices.store import SliceStore


class SliceView:
    """Some slices of a store, in the order of `indices`.

    Attributes:
        ids: names of the slices.
        sites: int64 [n], codes into `site_names`.
        groups: int64 [n], codes of patients.
        indices: int64 [n], positions in the store.
    """

    def __init__(self, store: SliceStore, indices: NDArray[np.int64]) -> None:
        self._images = store.images
        self.indices = np.asarray(indices, dtype=np.int64)
        self.ids = tuple(store.ids[i] for i in self.indices)
        self.sites = np.array(store.sites[self.indices], dtype=np.int64)
        self.groups = np.array(store.groups[self.indices], dtype=np.int64)
        self.site_names = store.site_names

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, positions: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """Complex slices, float32 [k, 2, H, W], at `positions` (all when None), copied."""
        chosen = self.indices if positions is None else self.indices[np.asarray(positions)]
        return torch.from_numpy(np.array(self._images[chosen]))
