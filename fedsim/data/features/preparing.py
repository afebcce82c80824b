"""From `data.features` to a store of vectors: network, features, public map."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.copies import digests, in_common
from fedsim.data.dataset import method_of
from fedsim.data.features.extracting import FORMAT, Progress, checksum, features_of
from fedsim.data.features.mapping import fit_map
from fedsim.data.features.network import frozen_network
from fedsim.data.features.store import FeatureStore, map_features
from fedsim.data.finding import images_below
from fedsim.data.images import decode_files
from fedsim.data.source import hashed
from fedsim.data.store import Store
from fedsim.errors import InputError, Problem
from fedsim.scenario.schema import Data

PUBLIC_SEED = 7
"""Of the generated images that teach the public map; data that are generated themselves have seed 0
unless they say otherwise."""


def prepare_features(
    store: Store,
    data: Data,
    dataset: Any,
    *,
    cache: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> FeatureStore:
    """The vectors of a store's images, as `data.features` asks for them.

    Args:
        store: the images.
        data: the block of the scenario; it has `features`.
        dataset: the data set plugin, whose stand-in gives the public images.
        cache: the folder that holds stores.
        workers: processes that compute.
        progress: called with images done, images in all, and what is done to them.

    Raises:
        InputError: network, weights, public images or map do not go together.
        RunError: the cache cannot be written, or a process died.
    """
    features = data.features
    assert features is not None
    frozen = frozen_network(features, data.size, cache)
    about = {
        "network": frozen.name,
        "weights": features.weights,
        "weights_sha256": frozen.weights_sha256,
        "network_sha256": frozen.digest,
        "size": data.size,
    }

    def computed(images: np.ndarray, fingerprint: str, whose: str = "") -> np.ndarray:
        key = hashed([FORMAT, about, fingerprint])
        return features_of(
            images,
            lambda: frozen.network,
            cache / f"features-{key}",
            workers=workers,
            progress=progress,
            what=f"computing features{whose}",
        )

    whiten = frozen.whiten if features.whiten is None else features.whiten
    taught = features.public or features.public_root is not None
    if features.whiten is None and (features.projection == "random" or not taught):
        whiten = 0.0
    public, what = None, ""
    if features.public or features.public_root:
        images, fingerprint, what = _public_images(data, dataset, cache, workers, progress)
        if features.public_root is not None:
            _refuse_own(images, store)
        public = computed(images, fingerprint, " of public images")
    own = computed(store.images, store.fingerprint)
    try:
        map_ = fit_map(
            public,
            own.shape[1],
            whiten=whiten,
            dimensions=features.dimensions,
            projection=features.projection,
        )
    except ValueError as error:
        raise InputError(
            "data.features has parameters that do not go together",
            [Problem("data.features", str(error))],
            "leave out data.features.whiten and dimensions, or give public images: "
            "data.features.public=2000, or data.features.public_root=FOLDER",
        ) from error
    made_by = about | {
        "whiten": whiten,
        "dimensions": features.dimensions,
        "projection": features.projection,
        "public": what,
        "public_images": 0 if public is None else len(public),
    }
    return map_features(store, own, map_, made_by, cache)


def _public_images(
    data: Data, dataset: Any, cache: Path, workers: int, progress: Progress | None
) -> tuple[np.ndarray, str, str]:
    """Images that belong to nobody, their fingerprint, and what they are in a word."""
    features = data.features
    assert features is not None
    if features.public_root is not None:
        folder, key = Path(features.public_root), "data.features.public_root"
        files = images_below(folder)
        read = read_public(files, data.size, workers, folder=folder, key=key, progress=progress)
        return (*read, "public")
    generator = getattr(dataset, "embedded", None)
    accepted: Mapping[str, Any] = inspect.signature(generator).parameters if generator else {}
    if not {"images", "seed"} <= set(accepted):
        raise InputError(
            f"data set {data.name!r} has no generated images to learn a public map from",
            [Problem("data.features.public", f"asks for {features.public} of them")],
            "name a folder of public images: data.features.public_root=FOLDER, or do without: "
            "data.features.public=0 data.features.whiten=0",
        )
    # Where the data are generated themselves, others are taken.
    seed = PUBLIC_SEED + (data.root is None and data.embedded.get("seed", 0) == PUBLIC_SEED)
    drawn: Callable[..., Store] = method_of(dataset, "open")

    def told(done: int, total: int, what: str) -> None:
        assert progress is not None
        progress(done, total, f"{what} for the public map")

    store = drawn(
        name=data.name,
        root=None,
        size=data.size,
        embedded={"images": features.public, "seed": seed},
        skip_bad=False,
        cache=cache,
        workers=workers,
        progress=None if progress is None else told,
    )
    return store.images, store.fingerprint, "generated"


def _refuse_own(images: np.ndarray, store: Store) -> None:
    """Raise InputError where public images are also records of the data.

    What they teach stands in every model file, and steers what is released, without noise.
    """
    if shared := in_common(digests(images), store.digests):
        raise InputError(
            f"{shared} of {len(images)} public images are also in the data",
            [Problem("data.features", "public images must be of nobody whose data are protected")],
            "name another folder as data.features.public_root",
        )


def read_public(
    files: Sequence[Path],
    size: int,
    workers: int,
    *,
    folder: Path,
    key: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, str]:
    """Images without labels, uint8 [n, size, size, 3], and their fingerprint.

    Args:
        files: the images.
        size: height and width in pixels.
        workers: processes that decode.
        folder: where they are from, and `key` what named it, for error messages.
        progress: called with files decoded, and files in all.

    Raises:
        InputError: there are none, or some cannot be read; names these.
    """
    if not files:
        raise InputError(
            "there are no public images", [Problem(str(folder), "holds no images")], f"check {key}"
        )
    with tempfile.TemporaryDirectory(prefix="fedsim-") as temporary:
        target = Path(temporary) / "images.npy"
        failures = decode_files(files, size, target, workers=workers, progress=progress)
        images = np.load(target, allow_pickle=False)
    if failures:
        raise InputError(
            f"{len(failures)} of {len(files)} public images cannot be read",
            [Problem(str(files[i]), why) for i, why in failures.items()],
            f"take them out of the folder of {key}",
        )
    return images, checksum(images)
