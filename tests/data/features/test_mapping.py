"""The public map: centring, whitening, shortening, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.data.features.mapping import PublicMap, fit_map


def _cloud(count: int = 500, length: int = 6, seed: int = 0) -> np.ndarray:
    """Points whose directions vary by very different amounts, and are not the axes."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((length, length)))[0]
    scales = 3.0 ** -np.arange(length)
    return rng.standard_normal((count, length)) * scales @ turned + 3.0


def _before_lengths(map_: PublicMap, points: np.ndarray) -> np.ndarray:
    moved = points - map_.mean
    return moved if map_.projection is None else moved @ map_.projection


def _fit(points: np.ndarray | None, **changes: object) -> PublicMap:
    given = {"whiten": 1.0, "dimensions": None, "projection": "pca"} | changes
    return fit_map(points, 6, **given)


def test_whitened_directions_vary_alike() -> None:
    points = _cloud()
    covariance = np.cov(_before_lengths(_fit(points), points).T)
    assert covariance == pytest.approx(np.eye(6) * covariance[0, 0], abs=1e-9 * covariance[0, 0])


def test_half_whitened_directions_vary_by_the_root() -> None:
    points = _cloud()
    half = np.cov(_before_lengths(_fit(points, whiten=0.5), points).T).diagonal()
    none = np.cov(_before_lengths(_fit(points, whiten=0.0, dimensions=6), points).T).diagonal()
    assert half / half[0] == pytest.approx(np.sqrt(none / none[0]), rel=1e-6)


def test_fewer_dimensions_are_the_strongest_directions() -> None:
    points = _cloud()
    some, all_ = _fit(points, dimensions=2), _fit(points)
    assert some.length == 2
    assert some.projection == pytest.approx(all_.projection[:, :2])


def test_a_random_projection_is_orthonormal_and_the_same_again() -> None:
    points = _cloud()
    first = _fit(points, whiten=0.0, dimensions=3, projection="random")
    again = _fit(points, whiten=0.0, dimensions=3, projection="random")
    assert first.projection.T @ first.projection == pytest.approx(np.eye(3), abs=1e-12)
    assert (first.projection == again.projection).all()


def test_without_public_images_only_lengths_change() -> None:
    map_ = _fit(None, whiten=0.0)
    assert map_.projection is None
    assert map_(np.array([[3.0, 0, 0, 0, 0, 4.0]]))[0] == pytest.approx([0.6, 0, 0, 0, 0, 0.8])


def test_few_public_images_do_not_blow_up_small_directions() -> None:
    points = _cloud(count=7)
    with_few = _fit(points)
    # The floor of the variances is 1e-4 of the largest: a factor of 100 at most.
    lengths = np.linalg.norm(with_few.projection, axis=0)
    assert lengths.max() <= 100.0 * (1 + 1e-9)


@given(
    hnp.arrays(np.float64, (5, 6), elements=st.floats(-1e6, 1e6)),
    st.sampled_from([{"whiten": 1.0}, {"whiten": 0.0}, {"dimensions": 2}]),
)
def test_vectors_are_never_longer_than_one(points: np.ndarray, changes: dict) -> None:
    vectors = _fit(_cloud(), **changes)(points)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors.astype(np.float64), axis=1).max() <= 1 + 1e-6


def test_a_vector_at_the_centre_stays_zero() -> None:
    map_ = _fit(_cloud())
    assert (map_(map_.mean[None]) == 0).all()


@pytest.mark.parametrize(
    ("points", "changes", "told"),
    [
        (_cloud(), {"dimensions": 7}, "the network gives 6"),
        (_cloud(), {"projection": "random", "dimensions": 2}, "whiten must be 0"),
        (_cloud(), {"projection": "random", "whiten": 0.0}, "needs dimensions"),
        (None, {}, "there are none"),
        (None, {"whiten": 0.0, "dimensions": 2}, "there are none"),
        (_cloud(count=1), {}, "take at least 2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    points: np.ndarray | None, changes: dict, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        _fit(points, **changes)
