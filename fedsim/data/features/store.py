"""Prepared images whose records are vectors: what a task on frozen features reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.building import new_folder, publish
from fedsim.data.features.extracting import checksum
from fedsim.data.features.mapping import PublicMap
from fedsim.data.kept import found_whole, read_about, read_array, unusable, write_about
from fedsim.data.source import hashed
from fedsim.data.store import Store
from fedsim.data.views import HiddenLabels, View


@dataclass(frozen=True, eq=False)
class FeatureStore(Store):
    """A store of images that a frozen network has turned into vectors.

    Attributes:
        vectors: float32 [n, k], memory-mapped, read-only.
        map: what made the vectors of the network's features.
        made_by: the network and the map, as model files say it.
        images_folder: the folder of the images, beside that of the vectors.
    """

    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    map: PublicMap = field(default_factory=lambda: PublicMap(np.zeros(0)))
    made_by: Mapping[str, Any] = field(default_factory=dict)
    images_folder: Path = Path()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that are opened together."""
        return self.folder, self.images_folder

    @classmethod
    def open(cls, folder: str | Path, checked: bool = False) -> FeatureStore:
        """Open a store of vectors and the store of images beside it that they were made of.

        Args:
            folder: where the vectors are.
            checked: the bytes were checked already, by the process that started this one.

        Raises:
            InputError: a folder is none or is damaged.
        """
        folder = Path(folder)
        return _opened(folder, lambda name: Store.open(folder.parent / name, checked), checked)


def map_features(
    store: Store,
    features: NDArray[np.float32],
    map_: PublicMap,
    made_by: Mapping[str, Any],
    cache: Path,
) -> FeatureStore:
    """The store of the mapped features of a store's images, kept in the cache.

    Args:
        store: the images, prepared in the same cache.
        features: float32 [n, d], of these images.
        map_: what is done to them.
        made_by: the network and the map, in words and numbers that JSON holds.
        cache: the folder that holds stores.
    """
    about = {
        "images": store.folder.name,
        "features": checksum(features),
        "mean": checksum(map_.mean),
        "projection": None if map_.projection is None else checksum(map_.projection),
        "made_by": json.loads(json.dumps(dict(made_by))),
    }
    folder = cache / f"vectors-{hashed([about, store.fingerprint])}"

    def opened(at: Path) -> FeatureStore:
        return _opened(at, lambda _: store)

    if (found := found_whole(opened, folder)) is not None:
        return found
    with new_folder(cache) as building:
        vectors = map_(features)
        np.save(building / "vectors.npy", vectors)
        np.save(building / "mean.npy", map_.mean)
        if map_.projection is not None:
            np.save(building / "projection.npy", map_.projection)
        write_about(building, {**about, "vectors": checksum(vectors)})
        publish(building, folder)
    return opened(folder)


def _opened(folder: Path, images: Callable[[str], Store], checked: bool = False) -> FeatureStore:
    """The vectors in a folder, with the store of images whose name they keep.

    Raises:
        InputError: a folder is none or is damaged.
    """
    try:
        about = read_about(folder, ())
        store = images(about["images"])
        vectors, map_ = _read(folder, about, len(store), checked)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(folder, error) from error
    kept = {one.name: getattr(store, one.name) for one in fields(Store)}
    kept |= {
        "folder": folder,
        "fingerprint": _together(store.fingerprint, about["vectors"]),
        "notes": (*store.notes, told(about["made_by"], vectors.shape[1])),
    }
    return FeatureStore(
        **kept,
        vectors=vectors,
        map=map_,
        made_by=about["made_by"],
        images_folder=store.folder,
    )


def _read(
    folder: Path, about: Mapping[str, Any], count: int, checked: bool
) -> tuple[NDArray[np.float32], PublicMap]:
    """Vectors and map of a folder; ValueError where they are not as they were written."""
    vectors = read_array(folder / "vectors.npy", "f4", (count, None), mapped=True)
    mean = read_array(folder / "mean.npy", "f8", (None,))
    projection = None
    if about["projection"] is not None:
        projection = read_array(folder / "projection.npy", "f8", (len(mean), vectors.shape[1]))
    found = {"mean": mean, "projection": projection} | ({} if checked else {"vectors": vectors})
    for name, array in found.items():
        if array is not None and checksum(array) != about[name]:
            raise ValueError(f"{name}.npy is not as it was written: its checksum does not hold")
    return vectors, PublicMap(mean, projection)


def _together(*texts: str) -> str:
    """A fingerprint of fingerprints."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def told(made_by: Mapping[str, Any], length: int) -> str:
    """What a person must know of the vectors: a sentence."""
    weights = made_by["weights_sha256"]
    of = f"weights {weights[:12]}" if weights else "weights drawn at random"
    how = f"each image is {length} numbers by the frozen network {made_by['network']} ({of})"
    if made_by["public_images"]:
        how += f", mapped by what {made_by['public_images']} {made_by['public']} images taught"
    return how


class VectorView(View):
    """Some records of a store of vectors: what is asked for as images are vectors."""

    def __init__(self, store: FeatureStore, indices: np.ndarray) -> None:
        super().__init__(store, indices)
        self._vectors = store.vectors

    def images(self, positions: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """The vectors float32 [n, k] at `positions` (all when None)."""
        chosen = self.indices if positions is None else self.indices[np.asarray(positions)]
        return torch.from_numpy(np.array(self._vectors[chosen]))


class BesideView(View):
    """Some records of a store of vectors: images, with the vectors beside them."""

    def __init__(self, store: FeatureStore, indices: np.ndarray) -> None:
        super().__init__(store, indices)
        self._vectors = store.vectors

    def vectors(self, positions: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """What the frozen network makes of the images, float32 [n, k] (all when None)."""
        chosen = self.indices if positions is None else self.indices[np.asarray(positions)]
        return torch.from_numpy(np.array(self._vectors[chosen]))


class UnlabelledVectors(HiddenLabels, VectorView):
    """Some records of a store of vectors, with labels that cannot be read."""


class UnlabelledBeside(HiddenLabels, BesideView):
    """Images with the vectors beside them, and with labels that cannot be read."""
