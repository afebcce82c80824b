"""A view of volumes: the cases that a side of a split, or a client, may see, as it sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.volumes.store import VolumeStore

Hide = Callable[[NDArray[np.integer]], NDArray[np.integer]]
Look = Callable[[NDArray[np.float32], slice, int], NDArray[np.float32]]
"""A part [..., w] of a volume, the columns that it has, and the volume's width -> how it looks."""


class VolumeView:
    """Some cases of a store, in the order of `indices`.

    Volumes are read from the store's memory map when asked for, into memory that torch owns.

    Args:
        store: the data.
        indices: positions in the store.
        hide: what a client's labels are in place of the store's, for instance background where it
            does not label; applied to every label that is read, voxel by voxel. It must not give
            labels above the store's.
        look: how images look in place of the store's, voxel by voxel.

    Attributes:
        ids: names of the cases.
        sites: int64 [n], codes into `site_names`.
        groups: int64 [n], codes of the patients.
        indices: int64 [n], the cases' positions in the store.
        spacing: float64 [n, 3] in mm.
        shapes: int64 [n, 3], voxels along D, H and W.
    """

    def __init__(
        self,
        store: VolumeStore,
        indices: NDArray[np.int64],
        hide: Hide | None = None,
        look: Look | None = None,
    ) -> None:
        self._store = store
        self.indices = np.asarray(indices, dtype=np.int64)
        self._hide, self._look = hide, look
        self._counts: dict[int, NDArray[np.int64]] = {}
        self.ids = tuple(store.ids[i] for i in self.indices)
        self.sites = np.array(store.sites[self.indices], dtype=np.int64)
        self.groups = np.array(store.groups[self.indices], dtype=np.int64)
        self.site_names = store.site_names
        self.spacing = np.array(store.spacing[self.indices], dtype=np.float64)
        self.shapes = np.array(store.shapes[self.indices], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def volume(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 [1, D, H, W] and label int64 [D, H, W] of a case."""
        image, label = self._store.mapped(int(self.indices[position]))
        looks = self._looks(image, slice(0, image.shape[-1]), image.shape[-1])
        return torch.tensor(looks)[None], torch.tensor(self._seen(label).astype(np.int64))

    def patches(
        self,
        count: int,
        size: Sequence[int],
        generator: torch.Generator,
        foreground: float = 0.0,
        *,
        case: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw patches at random; every case is equally likely.

        A share of the patches contains a labelled voxel, if their case has any: one of its
        structures is drawn, then one of its voxels (for slices: a slice that has the structure,
        then a voxel there), and the patch is laid around it as far as the volume reaches. The other
        patches lie anywhere. Where a volume is smaller than a patch, the rest is 0 and background.

        Args:
            count: how many.
            size: (H, W) for axial slices, (D, H, W) for patches in three dimensions.
            generator: on the CPU; the patches depend on it and the cases only.
            foreground: the share, from 0 to 1.
            case: position of the only case to draw from; None: all are drawn from.

        Returns:
            Images float32 [count, 1, *size] and labels int64 [count, *size].

        Raises:
            ValueError: the view has no case, or `size` is of another length.
        """
        if len(size) not in (2, 3):
            raise ValueError(f"A patch has the size (H, W) or (D, H, W), not {tuple(size)}.")
        if not len(self):
            raise ValueError("There is no case to draw patches from.")
        images = torch.zeros((count, 1, *size), dtype=torch.float32)
        labels = torch.zeros((count, *size), dtype=torch.int64)
        extent = (1, *size)[-3:]
        # The share holds on average for any count.
        wanted = int(count * foreground + _uniform(generator))
        for number in range(count):
            position = _choose(len(self), generator) if case is None else case
            inside = None
            if number < wanted:
                inside = self._labelled_voxel(position, generator, by_slice=len(size) == 2)
            source, target = _place(self.shapes[position], extent, inside, generator)
            image, label = self._store.mapped(int(self.indices[position]))
            there = target[-len(size) :]
            shape = [part.stop - part.start for part in there]
            piece = torch.from_numpy(self._looks(image[source], source[-1], image.shape[-1]))
            piece = piece.reshape(shape)
            images[number, 0][there] = piece
            seen = self._seen(label[source]).astype(np.int64)
            labels[number][there] = torch.from_numpy(seen).reshape(shape)
        return images, labels

    def _looks(self, part: NDArray[np.float32], columns: slice, width: int) -> NDArray[np.float32]:
        """A part of an image as the client has it, copied."""
        copied = np.array(part)
        return copied if self._look is None else self._look(copied, columns, width)

    def _seen(self, label: NDArray[np.uint8]) -> NDArray[np.integer]:
        """The labels as the client has them, copied."""
        copied = np.array(label)
        return copied if self._hide is None else self._hide(copied)

    def _slice_counts(self, position: int) -> NDArray[np.int64]:
        """Voxels of each structure in each slice, [structures, D]; counted once."""
        if position not in self._counts:
            label = self._seen(self._store.mapped(int(self.indices[position]))[1])
            classes = len(self._store.structures) + 1
            counts = [np.bincount(plane.ravel(), minlength=classes)[1:] for plane in label]
            self._counts[position] = np.array(counts, dtype=np.int64).T
        return self._counts[position]

    def _labelled_voxel(
        self, position: int, generator: torch.Generator, by_slice: bool
    ) -> tuple[int, int, int] | None:
        """A labelled voxel drawn from a case, or None where it has none."""
        counts = self._slice_counts(position)
        structures = np.flatnonzero(counts.sum(axis=1))
        if not len(structures):
            return None
        structure = int(structures[_choose(len(structures), generator)])
        if by_slice:
            slices = np.flatnonzero(counts[structure])
            depth = int(slices[_choose(len(slices), generator)])
        else:
            upto = counts[structure].cumsum()
            depth = int(np.searchsorted(upto, _choose(int(upto[-1]), generator), side="right"))
        plane = self._seen(self._store.mapped(int(self.indices[position]))[1][depth])
        rows, columns = np.nonzero(plane == structure + 1)
        voxel = _choose(len(rows), generator)
        return depth, int(rows[voxel]), int(columns[voxel])


class UnlabelledVolumes(VolumeView):
    """Some cases of a store, with labels that cannot be read: all are -1, which no class has.

    Args:
        store, indices, look: as of `VolumeView`.
    """

    def __init__(
        self, store: VolumeStore, indices: NDArray[np.int64], look: Look | None = None
    ) -> None:
        super().__init__(store, indices, lambda labels: np.full(labels.shape, -1, np.int8), look)

    def patches(
        self,
        count: int,
        size: Sequence[int],
        generator: torch.Generator,
        foreground: float = 0.0,
        *,
        case: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw patches at random, see `VolumeView.patches`; their labels are -1.

        Raises:
            RuntimeError: patches are asked for that hold labelled voxels.
            ValueError: the view has no case, or `size` is of another length.
        """
        if foreground:
            raise RuntimeError(
                "the labels of these cases are hidden (federation.labelled): patches around what "
                "is outlined would tell them; ask for foreground 0"
            )
        images, labels = super().patches(count, size, generator, case=case)
        return images, torch.full_like(labels, -1)


def _place(
    shape: NDArray[np.int64],
    extent: Sequence[int],
    inside: tuple[int, int, int] | None,
    generator: torch.Generator,
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a patch is cut from a volume, and where that lies in the patch."""
    source, target = [], []
    for axis, (length, want) in enumerate(zip(shape.tolist(), extent, strict=True)):
        room = length - want
        if room <= 0:  # the whole axis, in the middle of the patch
            source.append(slice(0, length))
            target.append(slice(-room // 2, -room // 2 + length))
            continue
        if inside is None:
            start = _choose(room + 1, generator)
        else:
            start = min(max(inside[axis] - want // 2, 0), room)
        source.append(slice(start, start + want))
        target.append(slice(0, want))
    return tuple(source), tuple(target)


def _choose(count: int, generator: torch.Generator) -> int:
    """One of `count` numbers from 0."""
    return int(torch.randint(count, (), generator=generator))


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
