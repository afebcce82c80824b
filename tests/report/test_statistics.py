"""Areas under curves, and intervals of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedsim.report.statistics import (
    LEVEL,
    Measure,
    bootstrap_p,
    ends,
    holm,
    interval,
    mean_auc,
    mean_dice,
    measure,
    paired_t,
    resamples,
)
from fedsim.tasks.classification.metrics import classification_metrics
from fedsim.tasks.segmentation.metrics import dice, segmentation_metrics

Case = tuple[np.ndarray, np.ndarray]


def auc_interval(
    labels: np.ndarray,
    runs: list[np.ndarray],
    rng: np.random.Generator,
    *,
    baseline: list[np.ndarray] | None = None,
    replicates: int = 2000,
) -> tuple[float, float] | None:
    """The interval of an AUC, or of a difference of two."""
    return interval(
        labels,
        lambda weights: mean_auc(labels, runs, weights),
        rng,
        baseline=(lambda weights: mean_auc(labels, baseline, weights)) if baseline else None,
        replicates=replicates,
    )


@st.composite
def scored(draw: st.DrawFn, most_classes: int = 2, least: int = 2) -> Case:
    """Labels [n] of at least two classes and probabilities [models, n, k], often with ties."""
    classes = draw(st.integers(2, most_classes))
    count = draw(st.integers(least, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, classes, count)
    labels[:2] = 0, 1
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    raw = rng.integers(1, levels + 1, (draw(st.integers(1, 3)), count, classes)).astype(np.float32)
    return labels, raw / raw.sum(2, keepdims=True)


def weighted_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """From the definition: over all pairs, ties counted half."""
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = float(weights[i] * weights[j])
            total += pair
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0)
    return won / total


def test_a_small_area_is_that_of_the_definition() -> None:
    # Of six pairs, 0.9 wins three, 0.4 wins one and ties with one.
    labels = np.array([0, 0, 0, 1, 1])
    positive = np.array([0.1, 0.4, 0.5, 0.9, 0.4])
    found = mean_auc(labels, [np.stack([1 - positive, positive], 1)[np.newaxis]])
    assert found == pytest.approx([4.5 / 6])


@given(scored())
def test_the_area_is_sklearns_with_ties(case: Case) -> None:
    labels, probabilities = case
    expected = np.mean([roc_auc_score(labels, one[:, 1]) for one in probabilities])
    assert mean_auc(labels, [probabilities]) == pytest.approx([expected], abs=1e-12)


@given(scored(most_classes=5))
def test_the_area_of_several_classes_is_that_of_the_metrics(case: Case) -> None:
    labels, probabilities = case
    expected = np.mean([classification_metrics(labels, p)["auc"] for p in probabilities])
    assert mean_auc(labels, [probabilities]) == pytest.approx([expected], abs=1e-12)


@given(scored(least=6), st.integers(0, 2**32))
def test_the_area_of_a_resample_is_that_of_its_records(case: Case, seed: int) -> None:
    labels, probabilities = case
    (weights,) = resamples(labels, 3, np.random.default_rng(seed))
    found = mean_auc(labels, [probabilities[:1]], weights)
    for column, value in zip(weights.T, found, strict=True):
        drawn = np.repeat(np.arange(len(labels)), column)
        scores = probabilities[0, :, 1]
        assert value == pytest.approx(roc_auc_score(labels[drawn], scores[drawn]), abs=1e-12)
        assert value == pytest.approx(weighted_auc(scores, labels, column), abs=1e-12)


def test_models_count_within_their_run_and_runs_alike() -> None:
    labels = np.array([0, 1])
    right, wrong = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.1, 0.9], [0.9, 0.1]])
    runs = [np.stack([right]), np.stack([right, wrong, wrong, wrong])]
    assert mean_auc(labels, runs) == pytest.approx([(1 + 1 / 4) / 2])


def test_one_class_has_no_area_and_no_interval() -> None:
    probabilities = np.full((1, 4, 2), 0.5)
    assert mean_auc(np.ones(4, int), [probabilities]) is None
    assert auc_interval(np.ones(4, int), [probabilities], np.random.default_rng(0)) is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"models, 3"):
        mean_auc(np.array([0, 1, 1]), [np.zeros((1, 4, 2))])
    with pytest.raises(ValueError, match="models"):
        mean_auc(np.array([0, 1, 1]), [])


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 2**32)
)
def test_resamples_keep_every_class_as_large_as_it_is(
    classes: list[int], replicates: int, seed: int
) -> None:
    labels = np.array(classes)
    blocks = list(resamples(labels, replicates, np.random.default_rng(seed)))
    assert sum(block.shape[1] for block in blocks) == replicates
    for block in blocks:
        for label in np.unique(labels):
            assert (block[labels == label].sum(0) == (labels == label).sum()).all()


def test_every_record_is_drawn_equally_often() -> None:
    (weights,) = resamples(np.repeat([0, 1], [4, 10]), 20_000, np.random.default_rng(0))
    assert weights.mean(1) == pytest.approx(np.ones(14), abs=0.03)
    # A binomial count of n draws with chance 1/n.
    assert weights[:4].var() == pytest.approx(1 - 1 / 4, abs=0.02)
    assert weights[4:].var() == pytest.approx(1 - 1 / 10, abs=0.02)


def test_many_records_are_resampled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(30) % 2
    monkeypatch.setattr("fedsim.report.statistics._CELLS", 200)
    blocks = list(resamples(labels, 20, np.random.default_rng(0)))
    assert [block.shape[1] for block in blocks] == [6, 6, 6, 2]
    assert len({block.tobytes() for block in blocks}) == 4
    probabilities = np.random.default_rng(1).random((1, 30, 2))
    low, high = auc_interval(labels, [probabilities], np.random.default_rng(0)) or (0, 0)
    assert 0 < low < high < 1


@settings(max_examples=40)
@given(scored(most_classes=3, least=8), st.integers(0, 2**32))
def test_the_interval_contains_the_estimate(case: Case, seed: int) -> None:
    labels, probabilities = case
    found = auc_interval(labels, [probabilities], np.random.default_rng(seed), replicates=500)
    estimate = mean_auc(labels, [probabilities])
    assert found is not None
    assert estimate is not None
    assert found[0] - 1e-12 <= estimate[0] <= found[1] + 1e-12


@settings(max_examples=40)
@given(scored(least=8), st.integers(0, 2**32))
def test_a_paired_interval_is_antisymmetric_and_that_of_equals_is_nothing(
    case: Case, seed: int
) -> None:
    labels, probabilities = case
    other = probabilities[:, ::-1]

    def between(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        found = auc_interval(labels, [ours], rng, baseline=[theirs], replicates=200)
        assert found is not None
        return found

    low, high = between(probabilities, other)
    assert between(other, probabilities) == pytest.approx((-high, -low), abs=1e-12)
    assert between(probabilities, probabilities) == (0.0, 0.0)


def test_pairing_cancels_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.2).astype(np.int64)
    hard = labels + rng.normal(size=400)
    ours, theirs = (
        np.stack([-scores, scores], 1)[np.newaxis]
        for scores in (hard + rng.normal(size=400) / 10, hard + rng.normal(size=400) / 10)
    )
    width = np.ptp(auc_interval(labels, [ours], np.random.default_rng(0)) or ())
    pair = auc_interval(labels, [ours], np.random.default_rng(0), baseline=[theirs]) or ()
    assert np.ptp(pair) < 0.3 * width


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Normal scores a standard deviation apart have an area of 0.760.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 50])
    covered = 0
    for _ in range(200):
        scores = labels + rng.normal(size=200)
        probabilities = np.stack([-scores, scores], 1)[np.newaxis]
        low, high = auc_interval(labels, [probabilities], rng, replicates=300) or (0, 0)
        covered += low <= 0.7602 <= high
    assert 0.90 <= covered / 200 <= 0.99


# --- Dice ----------------------------------------------------------------------------------------


def overlaps(rng: np.random.Generator, models: int, count: int, structures: int) -> np.ndarray:
    """[models, count, structures, 3] with structures that some volumes do not hold."""
    true = rng.integers(0, 3, (count, structures)) * rng.integers(1, 50, (count, structures))
    predicted = rng.integers(0, 60, (models, count, structures))
    both = np.floor(rng.random(predicted.shape) * (np.minimum(predicted, true) + 1))
    return np.stack(np.broadcast_arrays(both, predicted, true), -1).astype(np.int64)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 12), st.integers(1, 3))
def test_dice_is_that_of_the_metrics(seed: int, models: int, count: int, structures: int) -> None:
    counts = overlaps(np.random.default_rng(seed), models, count, structures)
    names = [str(number) for number in range(structures)]
    told = [segmentation_metrics(dice(one), names)["dice"] for one in counts]
    found = mean_dice([counts, counts])
    if told[0] is None:
        assert found is None
    else:
        assert found == pytest.approx([np.mean(told)], abs=1e-12)


@given(st.integers(0, 2**32))
def test_a_volume_of_weight_two_counts_as_two_volumes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = overlaps(rng, 2, 8, 2)
    counts[:, :, :, 2] += 1
    (weights,) = resamples(np.repeat([0, 1], 4), 5, rng)
    found = mean_dice([counts], weights)
    assert found is not None
    for column, value in zip(weights.T, found, strict=True):
        assert mean_dice([counts.repeat(column, axis=1)]) == pytest.approx([value], abs=1e-12)


def test_overlaps_that_do_not_fit_are_refused() -> None:
    one = np.ones((1, 4, 2, 3), np.int64)
    for wrong in ([], [one[..., 0]], [one, one[:, :3]]):
        with pytest.raises(ValueError, match="overlaps"):
            mean_dice(wrong)


# --- Measures ------------------------------------------------------------------------------------


def test_a_measure_is_over_the_values_that_are_known() -> None:
    assert measure([1.0, None, 2.0, 4.0]) == Measure(
        pytest.approx(7 / 3), pytest.approx(1.527525), 3, 4
    )
    assert measure([0.5], (0.4, 0.6)) == Measure(0.5, None, 1, 1, (0.4, 0.6))
    assert measure([None]) == Measure(None, None, 0, 1)


def test_the_paired_t_test_is_that_of_scipy() -> None:
    from scipy.stats import ttest_rel

    ours, theirs = np.random.default_rng(0).normal(size=(2, 5))
    assert paired_t(list(ours - theirs)) == pytest.approx(ttest_rel(ours, theirs).pvalue)
    assert paired_t([0.3]) is None
    assert paired_t([0.0, 0.0]) == 1
    assert paired_t([0.25, 0.25]) == 0


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        # By hand: the k-th smallest of n times n + 1 - k, at least those before, at most 1. R's
        # p.adjust and statsmodels' multipletests ("holm") say the same.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.5, 0.01, 0.01], [0.5, 0.03, 0.03]),
        ([0.9, 0.6], [1, 1]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(given: list[float], wanted: list[float]) -> None:
    corrected = holm(dict(enumerate(given)))
    assert list(corrected) == list(range(len(given)))
    assert list(corrected.values()) == pytest.approx(wanted)


def test_the_p_of_resamples_inverts_their_interval() -> None:
    scores = np.arange(-10, 90) / 100.0  # 10 of 100 below 0, and one at 0.
    assert bootstrap_p(scores) == bootstrap_p(-scores) == pytest.approx(2 * 12 / 101)
    assert bootstrap_p(np.ones(1999)) == pytest.approx(2 / 2000)
    assert bootstrap_p(np.zeros(9)) == 1
    assert bootstrap_p(np.array([np.nan, 1.0, 1.0])) == pytest.approx(2 / 3)
    assert bootstrap_p(np.array([np.nan])) is None
    draws = np.random.default_rng(0)
    for shift in (0.0, 1.8, 2.2, 4.0):
        some = draws.normal(shift, 1, 2000)
        low, high = ends(some)
        p = bootstrap_p(some)
        assert p is not None
        assert (p <= 1 - LEVEL) == (not low <= 0 <= high)
