"""Dice: worked numbers, the empty-mask rule, counts that add up, and means per site."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import DiceMetric
from torch.nn import functional as F

from fedsim.tasks.segmentation.metrics import (
    dice,
    jaccard,
    mean_jaccard,
    overlap_counts,
    segmentation_metrics,
    site_segmentation_metrics,
)

NAN = math.nan


def volumes(seed: int, structures: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(0, structures + 1, (2, 4, 5, 6))
    return prediction.astype(np.uint8), truth


def test_counts_and_dice_of_a_worked_example():
    truth = np.array([[0, 1, 1, 1], [2, 2, 0, 0]])
    prediction = np.array([[1, 1, 1, 0], [2, 1, 0, 0]])
    counts = overlap_counts(prediction, truth, 3)
    assert counts.tolist() == [[2, 4, 3], [1, 1, 2], [0, 0, 0]]
    np.testing.assert_allclose(dice(counts), [4 / 7, 2 / 3, NAN])


def test_a_structure_that_the_volume_does_not_have_is_undefined_whatever_is_predicted():
    empty, some = np.zeros((2, 2), int), np.array([[0, 1], [0, 0]])
    assert np.isnan(dice(overlap_counts(empty, empty, 1)))
    assert np.isnan(dice(overlap_counts(some, empty, 1)))
    assert dice(overlap_counts(empty, some, 1)) == 0
    assert dice(overlap_counts(some, some, 1)) == 1


@given(st.integers(0, 10_000))
def test_dice_is_that_of_monai(seed):
    prediction, truth = volumes(seed)
    truth[truth == 1 + seed % 3] = 0  # one structure is missing
    one_hot = [
        F.one_hot(torch.from_numpy(side.astype(np.int64)), 4).movedim(-1, 0)[None]
        for side in (prediction, truth)
    ]
    oracle = DiceMetric(include_background=False)(*one_hot)[0]
    np.testing.assert_allclose(dice(overlap_counts(prediction, truth, 3)), oracle, rtol=1e-6)


@given(st.integers(0, 10_000))
def test_counts_of_slices_add_up_to_those_of_the_volume(seed):
    prediction, truth = volumes(seed)
    slices = [overlap_counts(*pair, 3) for pair in zip(prediction, truth, strict=True)]
    np.testing.assert_array_equal(np.sum(slices, axis=0), overlap_counts(prediction, truth, 3))


@given(st.integers(0, 10_000))
def test_dice_is_symmetric_where_both_sides_are_there_and_ignores_the_order_of_voxels(seed):
    prediction, truth = volumes(seed)
    score = dice(overlap_counts(prediction, truth, 3))
    np.testing.assert_array_equal(score, dice(overlap_counts(truth, prediction, 3)))
    order = np.random.default_rng(seed).permutation(truth.size)
    moved = (side.ravel()[order] for side in (prediction, truth))
    np.testing.assert_array_equal(score, dice(overlap_counts(*moved, 3)))


def test_large_volumes_of_small_integers_do_not_overflow():
    full = np.full((40, 256, 256), 30, dtype=np.uint8)
    assert overlap_counts(full, full, 30)[29].tolist() == [full.size] * 3


def test_means_are_over_the_volumes_that_have_the_structure_then_over_structures():
    scores = np.array([[0.5, NAN, NAN], [0.7, 0.2, NAN]])
    means = segmentation_metrics(scores, ["zone", "lesion", "bladder"])
    assert means == {
        "dice": pytest.approx((0.6 + 0.2) / 2),
        "dice/zone": pytest.approx(0.6),
        "dice/lesion": pytest.approx(0.2),
        "dice/bladder": None,
    }


def test_without_volumes_everything_is_undefined():
    assert segmentation_metrics(np.empty((0, 1)), ["zone"]) == {"dice": None, "dice/zone": None}


def test_the_mean_jaccard_by_hand():
    # Both masks have the zone; the lesion is a false alarm of the second volume, and the bladder
    # in no truth, so that nobody outlined it.
    counts = np.array(
        [
            [[6, 8, 10], [2, 4, 4], [0, 0, 0]],
            [[5, 5, 5], [0, 3, 0], [0, 7, 0]],
            [[0, 0, 0], [0, 0, 0], [0, 2, 0]],
        ]
    )
    expected = [[6 / 12, 2 / 6], [1, 0], [NAN, NAN]]
    np.testing.assert_array_equal(jaccard(counts)[:, :2], expected)
    assert mean_jaccard(counts) == pytest.approx(((1 / 2 + 1 / 3) / 2 + 1 / 2) / 2)
    assert mean_jaccard(counts[2:]) is None
    assert mean_jaccard(counts[:0]) is None


@given(st.integers(0, 10_000))
def test_jaccard_is_dice_over_two_minus_dice_where_both_are_defined(seed):
    counts = overlap_counts(*volumes(seed), 3)
    one, other = dice(counts), jaccard(counts)
    there = ~np.isnan(one)
    np.testing.assert_allclose(other[there], one[there] / (2 - one[there]))
    assert not np.isnan(other[there]).any()


def test_sites_are_scored_by_themselves_and_unknown_origin_is_left_out():
    scores = np.array([[0.5, 1.0], [0.7, NAN], [0.1, 0.1], [0.9, 0.9]])
    means = site_segmentation_metrics(
        scores, np.array([0, 0, 1, 2]), ["north", "", "south", "empty"], ["zone", "lesion"]
    )
    assert means == {
        "dice@north": pytest.approx(0.8),
        "dice/zone@north": pytest.approx(0.6),
        "dice/lesion@north": 1,
        "dice@south": 0.9,
        "dice/zone@south": 0.9,
        "dice/lesion@south": 0.9,
        "dice@empty": None,
        "dice/zone@empty": None,
        "dice/lesion@empty": None,
    }


def test_what_cannot_be_scored_is_refused():
    flat = np.zeros(4, int)
    with pytest.raises(ValueError, match="one shape"):
        overlap_counts(flat, flat[:2], 1)
    with pytest.raises(ValueError, match="prediction must be classes"):
        overlap_counts(flat.astype(float), flat, 1)
    with pytest.raises(ValueError, match=r"between 0 and 1, but the truth has \[2\]"):
        overlap_counts(flat, flat + 2, 1)
    with pytest.raises(ValueError, match=r"the prediction has \[-1\]"):
        overlap_counts(flat - 1, flat, 1)
    with pytest.raises(ValueError, match=r"shape is \(2, 2\)"):
        segmentation_metrics(np.zeros((2, 2)), ["zone"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        segmentation_metrics(np.array([[1.5]]), ["zone"])
    with pytest.raises(ValueError, match="between 0 and 0"):
        site_segmentation_metrics(np.zeros((2, 1)), np.array([0, 1]), ["a"], ["zone"])
