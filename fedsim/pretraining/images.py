"""The images that a network is pretrained on: of a folder, or a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data.features.preparing import PUBLIC_SEED, read_public
from fedsim.data.finding import images_below
from fedsim.data.skin import HAM10000
from fedsim.data.store import prepare
from fedsim.randomness import Streams

STAND_IN = "stand-in"
"""What is named in the place of a folder for generated images of skin."""
COUNT = 4000
"""How many are generated unless somebody says so."""


@dataclass(frozen=True)
class PublicImages:
    """Images without labels.

    Attributes:
        pixels: uint8 [n, size, size, 3].
        fingerprint: SHA-256 of them.
        source: "stand-in" or "folder".
    """

    pixels: NDArray[np.uint8]
    fingerprint: str
    source: str


def public_images(
    source: str | Path,
    *,
    size: int,
    count: int | None,
    seed: int,
    cache: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PublicImages:
    """The images to pretrain on.

    Args:
        source: a folder, with images at any depth; or "stand-in": generated skin lesions of other
            patients than those of a scenario's stand-in, as long as its seed is another.
        size: height and width in pixels.
        count: how many; of a folder they are drawn, and None takes all.
        seed: of the drawing.
        cache: the folder where the stand-in is kept.
        workers: processes that decode.
        progress: called with files decoded, and files in all.

    Raises:
        InputError: the folder has no images, or some that cannot be read.
    """
    if str(source) == STAND_IN:
        embedded = {"images": COUNT if count is None else count, "seed": PUBLIC_SEED}
        store = prepare(
            HAM10000(),
            name="ham10000",
            root=None,
            size=size,
            embedded=embedded,
            skip_bad=False,
            cache=cache,
        )
        return PublicImages(store.images, store.fingerprint, STAND_IN)
    files = images_below(Path(source))
    if count is not None and count < len(files):
        drawn = Streams(seed).numpy("images").permutation(len(files))[:count]
        files = [files[i] for i in sorted(drawn.tolist())]
    pixels, fingerprint = read_public(
        files, size, workers, folder=Path(source), key="--images", progress=progress
    )
    return PublicImages(pixels, fingerprint, "folder")
