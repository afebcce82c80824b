"""How near the synthetic images of clients lie to real ones, told in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data.store import Store
from fedsim.report.leakage.nearest import (
    Nearest,
    effective_number,
    match_strata,
    nearest_images,
    wilson_interval,
)

_REAL_QUERIES = 200
"""Training images of a client whose nearest neighbour is sought: enough for a median."""
_NEAR_COPY = 0.5

EXPLAINED = {
    "synthetic_images": "images that the client sent",
    "training_images": "real images that the client trained on",
    "compared_images": "training images, and as many of the test split with the same classes and "
    "sites, among which `training_share` looks for the nearest",
    "rmse": "median over synthetic images of the root mean squared pixel difference, on the scale "
    "0 to 1, from the nearest training image of the same client",
    "rmse_real": "the same of training images, from the nearest one of another group (patient or "
    "lesion) of the same client",
    "ratio": "median over synthetic images of their distance divided by the client's `rmse_real`; "
    "below 1 a synthetic image is nearer to a real one than real ones are to each other",
    "ratio_closest": "the smallest such ratio",
    "correlation": "median over synthetic images of the Pearson correlation of pixels with the "
    "training image of the same client that correlates most",
    "correlation_real": "the same of training images, with those of another group",
    "correlation_highest": "the highest correlation of a synthetic image with a training image",
    "near_copies": "synthetic images less than half as far from a training image as from any of "
    "`compared_images` unseen ones",
    "training_share": "share of synthetic images whose nearest image, of equally many training and "
    "unseen ones, is a training image; 0.5 is expected without leakage",
    "training_share_low": "lower end of its 95 % interval (Wilson)",
    "training_share_high": "upper end",
    "training_share_independent": "observations the interval rests on: synthetic images with the "
    "same nearest patient count as one (Kish's effective number)",
    "correlation_share": "as `training_share`, with the highest correlation for the nearest",
    "correlation_share_low": "lower end of its 95 % interval (Wilson)",
    "correlation_share_high": "upper end",
    "correlation_share_independent": "observations that interval rests on",
}
"""What each number of `summarise` is."""


class Records:
    """Images of a store as [n, C, H, W], uint8, read where indexed."""

    def __init__(self, store: Store, positions: NDArray[np.int64]) -> None:
        self._images, self._positions = store.images, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        return np.array(self._images[self._positions[rows]]).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class Neighbours:
    """What was found near a client's n synthetic images.

    Attributes:
        client: its name.
        images, labels: what it sent, uint8 [n, C, H, W] and int64 [n].
        held: number of its training images.
        near: the nearest of all its training images, as positions in the store.
        real_rmse, real_correlation: of some training images with the nearest one of another
            group, float64 [k]; k = 0 where there is one group only.
        compared: number of training images, and of unseen ones, in the comparison; it may be 0.
        seen, unseen: the nearest of those, as positions in the store; None where there are none.
    """

    client: str
    images: np.ndarray
    labels: NDArray[np.int64]
    held: int
    near: Nearest
    real_rmse: NDArray[np.float64]
    real_correlation: NDArray[np.float64]
    compared: int
    seen: Nearest | None
    unseen: Nearest | None

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Distances in units of the median distance between real images; empty if that is 0."""
        unit = float(np.median(self.real_rmse)) if len(self.real_rmse) else 0.0
        return self.near.rmse / unit if unit else np.zeros(0)


def find_neighbours(
    client: str,
    images: np.ndarray,
    labels: NDArray[np.int64],
    store: Store,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    rng: np.random.Generator,
    device: torch.device,
) -> Neighbours:
    """Search near a client's synthetic images.

    Training and unseen images are compared in equal numbers of each class and site, because a
    client's own classes and sites are near to what it sends also when nothing leaks.

    Args:
        client: its name.
        images, labels: what it sent, uint8 [n, C, H, W], n > 0, and int64 [n].
        store: the data.
        train: positions of the client's training images, at least one.
        test: positions of the images that no client trained on.
        rng: draws the real images to compare.
        device: where to search.
    """
    groups = store.groups[train]
    asked = rng.permutation(len(train))[:_REAL_QUERIES]
    if len(np.unique(groups)) < 2:
        asked = asked[:0]
    real = nearest_images(
        Records(store, train[asked]),
        Records(store, train),
        query_groups=groups[asked],
        reference_groups=groups,
        device=device,
    )
    seen, unseen = match_strata(strata(store, train), strata(store, test), rng)

    def near(positions: NDArray[np.int64]) -> Nearest:
        found = nearest_images(images, Records(store, positions), device=device)
        return Nearest(
            found.rmse,
            positions[found.rmse_index],
            found.correlation,
            positions[found.correlation_index],
        )

    return Neighbours(
        client=client,
        images=images,
        labels=labels,
        held=len(train),
        near=near(train),
        real_rmse=real.rmse,
        real_correlation=real.correlation,
        compared=len(seen),
        seen=near(train[seen]) if len(seen) else None,
        unseen=near(test[unseen]) if len(seen) else None,
    )


def strata(store: Store, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """A code of the class and the site of each record, int64 [n]."""
    codes: NDArray[np.int64] = store.labels * len(store.site_names) + store.sites
    return codes[positions]


def summarise(found: Sequence[Neighbours], groups: NDArray[np.int64]) -> dict[str, Any]:
    """The numbers of one client or of several, by the keys of `EXPLAINED`.

    Args:
        found: what was found, at least of one client.
        groups: int64, the group of each record of the store.

    Returns:
        Numbers; None where there was nothing to measure them on.
    """
    rmse = np.concatenate([one.near.rmse for one in found])
    correlation = np.concatenate([one.near.correlation for one in found])
    ratios = np.concatenate([one.ratios for one in found])
    compared = [(one, one.seen, one.unseen) for one in found if one.seen and one.unseen]
    near_copies = sum(
        int((one.near.rmse < _NEAR_COPY * unseen.rmse).sum()) for one, _, unseen in compared
    )
    by_rmse, by_correlation = [], []
    for _, seen, unseen in compared:
        # Distances, so that the smaller one is the nearer in both measures.
        sides = (seen.rmse, unseen.rmse), (seen.rmse_index, unseen.rmse_index)
        by_rmse.append(_won(*sides[0], *(groups[index] for index in sides[1])))
        sides = (
            (-seen.correlation, -unseen.correlation),
            (seen.correlation_index, unseen.correlation_index),
        )
        by_correlation.append(_won(*sides[0], *(groups[index] for index in sides[1])))
    return {
        "synthetic_images": len(rmse),
        "training_images": sum(one.held for one in found),
        "compared_images": sum(one.compared for one in found),
        "rmse": _median(rmse),
        "rmse_real": _median(np.concatenate([one.real_rmse for one in found])),
        "ratio": _median(ratios),
        "ratio_closest": float(ratios.min()) if len(ratios) else None,
        "correlation": _median(correlation),
        "correlation_real": _median(np.concatenate([one.real_correlation for one in found])),
        "correlation_highest": float(correlation.max()) if len(correlation) else None,
        "near_copies": near_copies if compared else None,
        **_share("training_share", by_rmse),
        **_share("correlation_share", by_correlation),
    }


def _won(
    seen: NDArray[np.float64],
    unseen: NDArray[np.float64],
    seen_groups: NDArray[np.int64],
    unseen_groups: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Whether the nearest is a training image (half where both are as near), and its group."""
    wins = (seen < unseen) + 0.5 * (seen == unseen)
    return wins, np.where(seen <= unseen, seen_groups, unseen_groups)


def _share(
    name: str, parts: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]
) -> dict[str, float | None]:
    """The share of wins, its interval, and the number of observations that it rests on."""
    keys = (name, f"{name}_low", f"{name}_high", f"{name}_independent")
    if not parts:
        return dict.fromkeys(keys)
    wins, clusters = (np.concatenate(part) for part in zip(*parts, strict=True))
    number = effective_number(clusters)
    share = float(wins.mean())
    return dict(zip(keys, (share, *wilson_interval(share, number), number), strict=True))


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None
