"""A view: the records that one side of a split, or one client, may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.wire.codecs import normalise

if TYPE_CHECKING:
    from fedsim.data.store import Store


class HiddenLabels:
    """What stands before a view whose records have labels that nobody may read."""

    @property
    def labels(self) -> torch.Tensor:
        """There are none.

        Raises:
            RuntimeError: whoever asks.
        """
        raise RuntimeError(
            "the labels of these records are hidden (federation.labelled): a method may read their "
            "images, and not what labels tell"
        )

    @labels.setter
    def labels(self, labels: torch.Tensor) -> None:
        """Forget what the view read."""


class View:
    """Some records of a store, in the order of `indices`.

    Images are read from the store's memory map when asked for and copied into memory that torch
    owns: results must not depend on the alignment of a map.

    Attributes:
        labels: int64 tensor [n].
        sites: int64 array [n], codes into `site_names`.
        groups: int64 array [n], codes of the patients or lesions.
        indices: int64 array [n], the records' positions in the store.
        classes: class names in label order.
    """

    def __init__(self, store: Store, indices: np.ndarray) -> None:
        self._images = store.images
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = torch.from_numpy(np.array(store.labels[self.indices], dtype=np.int64))
        self.sites = np.array(store.sites[self.indices], dtype=np.int64)
        self.groups = np.array(store.groups[self.indices], dtype=np.int64)
        self.site_names = store.site_names
        self.classes = store.classes

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self, positions: np.ndarray | torch.Tensor | None = None) -> np.ndarray:
        """The stored uint8 images [k, H, W, C] at `positions` (all when None), copied."""
        chosen = self.indices if positions is None else self.indices[np.asarray(positions)]
        return np.array(self._images[chosen])

    def images(self, positions: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """Normalised float32 images [k, C, H, W] at `positions` (all when None)."""
        return normalise(self.pixels(positions))

    def of_class(self, label: int) -> np.ndarray:
        """Positions of the records with this label, ascending, int64 [k]."""
        return np.flatnonzero(self.labels.numpy() == label)

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images, labels) once over all records; shuffled when a generator is given."""
        count = len(self)
        order = torch.arange(count)
        if generator is not None:
            order = torch.randperm(count, generator=generator)
        for start in range(0, count, batch_size):
            positions = order[start : start + batch_size]
            yield self.images(positions), self.labels[positions]


class UnlabelledView(HiddenLabels, View):
    """Some records of a store, with labels that cannot be read."""
