"""The stand-in of the prostate data sets: deterministic, and near what real centres measure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from fedsim.data.phantom.prostate import (
    CENTRES,
    STRUCTURES,
    ProstateVolume,
    prostate_phantom,
)

PERIPHERAL, TRANSITION, LESION = 1, 2, 3

# Of real centres: mean in the gland and in a ring around it (of volumes clipped at 1 and 99 % and
# z-scored), the gland's largest part of a slice, its width as a part of the image. PROMISE12's
# runmc, the mean of bidmc and hk, ucl, and two ProstateX cases.
REAL = {
    "centre-1": (0.14, 0.14, 0.044, 0.27),
    "centre-2": (0.73, 0.60, 0.056, 0.32),
    "centre-3": (-0.36, -0.33, 0.041, 0.27),
    "centre-4": (-0.22, -0.25, 0.046, 0.30),
}


def draw(seed: int = 0, **options: float) -> list[ProstateVolume]:
    return list(prostate_phantom(np.random.default_rng(seed), **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def volumes() -> list[ProstateVolume]:
    """3, 3, 3 and 6 cases."""
    return draw(size=64, scale=0.03)


@pytest.fixture(scope="module")
def many() -> dict[str, list[ProstateVolume]]:
    """Six cases of each centre: enough for means of centres."""
    by_centre: dict[str, list[ProstateVolume]] = {name: [] for name in CENTRES}
    for volume in prostate_phantom(np.random.default_rng(1), scale=6 / 23):
        if len(by_centre[volume.centre]) < 6:
            by_centre[volume.centre].append(volume)
        elif volume.centre == "centre-4":
            break
    return by_centre


def scored(volume: ProstateVolume) -> NDArray[np.float64]:
    clipped = np.clip(volume.image, *np.percentile(volume.image, [1, 99])).astype(np.float64)
    return (clipped - clipped.mean()) / clipped.std()


def inside_and_ring(volume: ProstateVolume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values in the gland, and in its slices 2 to 6 % of the width outside of it."""
    values, inside, ring = scored(volume), [], []
    for plane, gland in zip(values, volume.labels > 0, strict=True):
        if gland.any():
            far = ndimage.distance_transform_edt(~gland) / len(gland)
            inside.append(plane[gland])
            ring.append(plane[(far > 0.02) & (far < 0.06)])
    return np.concatenate(inside), np.concatenate(ring)


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_patients() -> None:
    first, second, other = (draw(seed, size=32, slices=8, scale=0.01) for seed in (3, 3, 4))
    for one, same, different in zip(first, second, other, strict=True):
        assert one.image.tobytes() == same.image.tobytes()
        assert one.labels.tobytes() == same.labels.tobytes()
        assert (one.spacing, one.centre, one.case) == (same.spacing, same.centre, same.case)
        assert one.labels.tobytes() != different.labels.tobytes()


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]
    next(prostate_phantom(np.random.default_rng(0), size=16, slices=8))
    np.testing.assert_equal(np.random.get_state(legacy=False)["state"], before)


def test_arrays_have_the_promised_shapes_types_and_values(volumes: list[ProstateVolume]) -> None:
    for volume in volumes:
        assert volume.image.shape == volume.labels.shape
        assert volume.image.shape[1:] == (64, 64)
        assert volume.image.dtype == np.float32
        assert volume.labels.dtype == np.uint8
        assert np.isfinite(volume.image).all()
        assert volume.image.min() >= 0
        assert set(np.unique(volume.labels)) <= {0, PERIPHERAL, TRANSITION, LESION}
        assert all(isinstance(length, float) and length > 0 for length in volume.spacing)
    assert STRUCTURES == ("peripheral_zone", "transition_zone", "lesion")


@pytest.mark.parametrize(
    ("scale", "counts"), [(0.001, [3, 3, 3, 3]), (0.05, [3, 3, 3, 9]), (0.25, [8, 6, 7, 46])]
)
def test_centres_have_the_cases_of_the_real_ones_times_the_scale(
    scale: float, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.data.phantom.prostate._volume", lambda *case: case[3])
    cases = draw(scale=scale)
    assert [cases.count(name) for name in CENTRES] == counts  # type: ignore[comparison-overlap]


def test_a_larger_scale_adds_cases_and_changes_none(volumes: list[ProstateVolume]) -> None:
    few = {volume.case: volume for volume in draw(size=64, scale=0.01)}
    all_of_them = {volume.case: volume for volume in volumes}
    assert len(all_of_them) == len(volumes)
    assert few.keys() < all_of_them.keys()
    for case in ("centre-1-000", "centre-2-002", "centre-4-002"):
        np.testing.assert_array_equal(few[case].image, all_of_them[case].image)


def test_another_grid_shows_the_same_patients() -> None:
    fine, coarse = draw(size=64, slices=8, scale=0.01), draw(size=32, slices=8, scale=0.01)
    for large, small in zip(fine, coarse, strict=True):
        halved = large.labels.reshape(len(large.labels), 32, 2, 32, 2)
        gland, same = (halved > 0).mean(axis=(2, 4)) >= 0.5, small.labels > 0
        assert 2 * (gland & same).sum() / (gland.sum() + same.sum()) > 0.93
        assert small.spacing == pytest.approx(
            [large.spacing[0], *(2 * np.array(large.spacing[1:]))]
        )


def test_every_gland_is_whole_and_has_both_zones(volumes: list[ProstateVolume]) -> None:
    for volume in volumes:
        gland = volume.labels > 0
        assert ndimage.label(gland)[1] == 1
        edges = (gland[:, 0], gland[:, -1], gland[:, :, 0], gland[:, :, -1])
        assert not any(edge.any() for edge in edges)
        millilitres = gland.sum() * np.prod(volume.spacing) / 1000
        assert 20 < millilitres < 110
        outer = np.isin(volume.labels, (PERIPHERAL, LESION)).sum() / gland.sum()
        assert 0.3 < outer < 0.75
        assert 0.35 < gland.any(axis=(1, 2)).mean() < 0.95


def test_the_peripheral_zone_lies_behind_the_transition_zone(volumes: list[ProstateVolume]) -> None:
    for volume in volumes:
        rows = [np.nonzero(volume.labels == zone)[1].mean() for zone in (PERIPHERAL, TRANSITION)]
        assert rows[0] > rows[1] + 1


def test_most_glands_have_a_lesion_which_is_darker_than_its_zone(
    volumes: list[ProstateVolume],
) -> None:
    found = [volume for volume in volumes if (volume.labels == LESION).sum() > 20]
    assert 0.5 * len(volumes) < len(found)
    darker = [
        volume.image[volume.labels == LESION].mean()
        < volume.image[volume.labels == PERIPHERAL].mean()
        for volume in found
    ]
    assert np.mean(darker) > 0.85


@pytest.mark.parametrize("name", CENTRES)
def test_statistics_lie_near_those_of_real_centres(
    name: str, many: dict[str, list[ProstateVolume]]
) -> None:
    inside, ring, largest, width = REAL[name]
    sides = [inside_and_ring(volume) for volume in many[name]]
    means = np.mean([[side.mean() for side in pair] for pair in sides], axis=0)
    spreads = np.mean([[side.std() for side in pair] for pair in sides], axis=0)
    assert means[0] == pytest.approx(inside, abs=0.25)
    assert means[1] == pytest.approx(ring, abs=0.3)
    assert means[0] == pytest.approx(means[1], abs=0.25)
    assert 1.05 < spreads[1] / spreads[0] < 2.2
    glands = [volume.labels > 0 for volume in many[name]]
    area = np.mean([gland.mean(axis=(1, 2)).max() for gland in glands])
    assert area == pytest.approx(largest, abs=0.014)
    wide = np.mean([gland.any(axis=(0, 1)).mean() for gland in glands])
    assert wide == pytest.approx(width, abs=0.05)


@pytest.mark.parametrize("name", CENTRES)
def test_a_voxel_of_the_gland_is_about_as_bright_as_one_around_it(
    name: str, many: dict[str, list[ProstateVolume]]
) -> None:
    """The area under the ROC curve; of real centres it is 0.52 to 0.61."""
    ranks = []
    for volume in many[name]:
        inside, ring = inside_and_ring(volume)
        ranks.append(np.searchsorted(np.sort(ring), inside).mean() / len(ring))
    assert 0.45 < np.mean(ranks) < 0.63


def test_no_range_of_brightness_gives_the_gland(many: dict[str, list[ProstateVolume]]) -> None:
    """Even where the best range is chosen for each volume, and voxels are blurred first."""
    scores = []
    for volume in itertools.chain(*many.values()):
        smooth = ndimage.gaussian_filter(scored(volume), (0, 1.5, 1.5))
        middle = np.s_[:, 24:72, 24:72]
        values, gland = smooth[middle], volume.labels[middle] > 0
        cuts = np.quantile(values, np.linspace(0, 1, 13))
        totals = np.histogram(values, cuts)[0].cumsum()
        inside = np.histogram(values[gland], cuts)[0].cumsum()
        pairs = itertools.combinations(range(13), 2)
        totals, inside = np.append(0, totals), np.append(0, inside)
        scores.append(
            max(
                2 * (inside[b] - inside[a]) / (totals[b] - totals[a] + gland.sum())
                for a, b in pairs
            )
        )
    assert np.mean(scores) < 0.6


def test_the_coil_brightens_what_is_behind_the_gland(many: dict[str, list[ProstateVolume]]) -> None:
    """The back quarter of the gland less its front: 0.9 to 1.1 in real coil centres, else 0.2."""
    contrast = {}
    for name, of_centre in many.items():
        differences = []
        for volume in of_centre:
            values, gland = scored(volume), volume.labels > 0
            rows = np.nonzero(gland)[1]
            low, high = np.quantile(rows, [0.6, 0.8])
            row = np.arange(96)[None, :, None] + np.zeros(gland.shape)
            back, front = values[gland & (row >= high)], values[gland & (row < low)]
            differences.append(back.mean() - front.mean())
        contrast[name] = np.mean(differences)
    assert contrast["centre-2"] > 0.7
    assert all(contrast[name] < 0.5 for name in CENTRES if name != "centre-2")


def test_centres_differ_in_slices_view_and_scale(many: dict[str, list[ProstateVolume]]) -> None:
    slices = {name: np.mean([len(v.image) for v in own]) for name, own in many.items()}
    assert slices["centre-2"] > slices["centre-3"] > slices["centre-1"]
    assert len({len(volume.image) for volume in many["centre-1"]}) > 1
    view = {name: np.mean([96 * v.spacing[1] for v in own]) for name, own in many.items()}
    assert view["centre-2"] < view["centre-4"] < view["centre-3"]
    bright = {name: np.mean([np.median(v.image) for v in own]) for name, own in many.items()}
    assert bright["centre-1"] > 1.5 * bright["centre-4"]


def test_appearance_overlaps_between_centres(many: dict[str, list[ProstateVolume]]) -> None:
    """How much the distributions of brightness in the glands of two centres have in common."""
    edges = np.linspace(-2, 4, 31)
    shares = []
    for own in many.values():
        values = np.concatenate([scored(volume)[volume.labels > 0] for volume in own])
        shares.append(np.histogram(values, edges)[0] / len(values))
    for one, other in itertools.combinations(shares, 2):
        assert np.minimum(one, other).sum() > 0.3


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size": 15}, "size"),
        ({"size": 96.0}, "size"),
        ({"slices": 7}, "slices"),
        ({"slices": True}, "slices"),
        ({"scale": 0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"scale": "all"}, "scale"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_drawn(
    wrong: dict[str, float], named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be .*, not .*\\.$"):
        prostate_phantom(np.random.default_rng(0), **wrong)  # type: ignore[arg-type]


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"size .* slices .* scale "):
        prostate_phantom(np.random.default_rng(0), 0, 0, 0)
