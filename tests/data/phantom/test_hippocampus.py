"""The stand-in of the decathlon's hippocampus: deterministic, and near what real ones measure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from fedsim.data.phantom.hippocampus import STRUCTURES, hippocampus_stand_in
from fedsim.data.volumes.dataset import VolumeCase

# Of 195 real volumes, clipped at 1 and 99 % and z-scored: mean, and deviation between cases.
INSIDE, RING = (-0.53, 0.09), (0.00, 0.11)


@pytest.fixture(scope="module")
def cases() -> list[VolumeCase]:
    return list(hippocampus_stand_in(cases=16).cases)


def scored(case: VolumeCase) -> NDArray[np.float64]:
    values = np.clip(case.image, *np.percentile(case.image, [1, 99])).astype(np.float64)
    return (values - values.mean()) / values.std()


def inside_and_ring(case: VolumeCase) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values in the hippocampus, and up to 4 mm outside of it."""
    values, mask = scored(case), case.label > 0
    far = ndimage.distance_transform_edt(~mask)
    return values[mask], values[(far > 0) & (far < 4)]


def test_the_same_seed_gives_the_same_bytes_and_more_cases_change_none(
    cases: list[VolumeCase],
) -> None:
    again = list(hippocampus_stand_in(cases=3).cases)
    other = next(hippocampus_stand_in(cases=3, seed=1).cases)
    for one, same in zip(cases, again, strict=False):
        assert one.image.tobytes() == same.image.tobytes()
        assert one.label.tobytes() == same.label.tobytes()
        assert one.case == same.case
    assert other.label.tobytes() != cases[0].label.tobytes()
    assert len({case.case for case in cases}) == 16


def test_arrays_have_the_promised_shapes_types_and_values(cases: list[VolumeCase]) -> None:
    assert STRUCTURES == hippocampus_stand_in(cases=3).structures == ("anterior", "posterior")
    for case in cases:
        assert case.image.shape == case.label.shape
        assert (case.image.dtype, case.label.dtype) == (np.float32, np.uint8)
        assert np.isfinite(case.image).all()
        assert case.image.min() >= 0
        assert set(np.unique(case.label)) == {0, 1, 2}
        assert (case.spacing, case.site) == ((1.0, 1.0, 1.0), "hippocampus")
    shapes = np.array([case.image.shape for case in cases])
    assert len(np.unique(shapes, axis=0)) > 8
    np.testing.assert_allclose(shapes.mean(axis=0), [35.7, 49.7, 35.5], atol=2.5)


def test_scanners_differ_in_scale(cases: list[VolumeCase]) -> None:
    medians = [np.median(case.image) for case in cases]
    assert max(medians) > 5 * min(medians)


def test_the_parts_lie_and_measure_as_in_people(cases: list[VolumeCase]) -> None:
    """Real: 1,704 and 1,566 mm^3; 14, 16, 21 and 20, 22, 19 mm along D, H and W."""
    volumes = np.array([[(case.label == part).sum() for part in (1, 2)] for case in cases])
    np.testing.assert_allclose(volumes.mean(axis=0), [1704, 1566], rtol=0.15)
    sizes = np.array(
        [[np.ptp(np.nonzero(case.label == part), axis=1) + 1 for part in (1, 2)] for case in cases]
    ).mean(axis=0)
    np.testing.assert_allclose(sizes, [[14.3, 16.2, 21.4], [20.1, 22.5, 19.1]], rtol=0.25)
    for case in cases:
        whole = case.label > 0
        pieces = ndimage.label(whole)[0]
        assert np.bincount(pieces.ravel())[1:].max() > 0.99 * whole.sum()
        (low, front, _), (high, back, _) = (
            np.mean(np.nonzero(case.label == part), axis=1) for part in (1, 2)
        )
        assert back > front + 10
        assert high > low + 3
    assert 3 < sum(_side(case) > 0 for case in cases) < 13  # left and right ones


def _side(case: VolumeCase) -> float:
    """Whether the bright brain stem lies to the left or the right."""
    values = scored(case)
    return float(values[:, :, :4].mean() - values[:, :, -4:].mean())


def test_statistics_lie_near_those_of_real_volumes(cases: list[VolumeCase]) -> None:
    sides = [inside_and_ring(case) for case in cases]
    inside, ring = np.mean([[side.mean() for side in pair] for pair in sides], axis=0)
    spread, ring_spread = np.mean([[side.std() for side in pair] for pair in sides], axis=0)
    assert inside == pytest.approx(INSIDE[0], abs=0.2)
    assert ring == pytest.approx(RING[0], abs=0.2)
    assert spread == pytest.approx(0.45, abs=0.12)
    assert ring_spread == pytest.approx(1.02, abs=0.15)
    ranks = [np.searchsorted(np.sort(r), i).mean() / len(r) for i, r in sides]
    assert np.mean(ranks) == pytest.approx(0.33, abs=0.08)


def test_no_range_of_brightness_gives_the_hippocampus(cases: list[VolumeCase]) -> None:
    """Even where the best range is chosen for each volume, and voxels are blurred first."""
    scores = []
    for case in cases:
        values, mask = ndimage.gaussian_filter(scored(case), 1.0), case.label > 0
        cuts = np.quantile(values, np.linspace(0, 1, 13))
        totals = np.append(0, np.histogram(values, cuts)[0].cumsum())
        hits = np.append(0, np.histogram(values[mask], cuts)[0].cumsum())
        pairs = itertools.combinations(range(13), 2)
        scores.append(
            max(2 * (hits[b] - hits[a]) / (totals[b] - totals[a] + mask.sum()) for a, b in pairs)
        )
    assert np.mean(scores) < 0.5


def test_brightness_does_not_tell_the_parts_apart(cases: list[VolumeCase]) -> None:
    means = [[scored(case)[case.label == part].mean() for part in (1, 2)] for case in cases]
    assert np.ptp(np.mean(means, axis=0)) < 0.1


def test_wrong_arguments_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"cases must be .* not 2\. seed must be .* not -1\."):
        hippocampus_stand_in(cases=2, seed=-1)
    with pytest.raises(ValueError, match="cases must be a whole number"):
        hippocampus_stand_in(cases=True)
