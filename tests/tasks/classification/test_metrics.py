from __future__ import annotations

import math
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.metrics import f1_score

from fedsim.tasks.classification import Classification
from fedsim.tasks.classification.metrics import (
    calibration_error,
    classification_metrics,
    group_metrics,
    site_metrics,
)


def certain(predictions, classes=2):
    return np.eye(classes)[np.asarray(predictions)]


def drawn(count, classes, seed, *, coarse=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    probabilities = rng.dirichlet(np.ones(classes), count)
    return labels, np.round(probabilities, 1) if coarse else probabilities


def test_the_paper_f1_is_the_harmonic_mean_of_its_precision_and_recall():
    # 98 negatives, 80 right; 2 positives, 1 right.
    labels = np.array([0] * 98 + [1] * 2)
    predictions = np.array([0] * 80 + [1] * 18 + [1, 0])
    scores = classification_metrics(labels, certain(predictions))
    assert scores["precision"] == pytest.approx(0.9689538661)
    assert scores["recall"] == scores["accuracy"] == pytest.approx(0.81)
    assert scores["f1"] == pytest.approx(0.8823754753)
    assert scores["sensitivity"] == 0.5
    assert scores["specificity"] == pytest.approx(80 / 98)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 80 / 98) / 2)
    weighted = reference.f1_score(labels, predictions, average="weighted")
    assert weighted == pytest.approx(0.8778824155)
    assert scores["f1"] > weighted


def test_the_published_rows_agree_with_this_f1():
    # Weighted precision and recall (= accuracy) of a published row, to four places.
    precision, recall, f1 = 0.9723, 0.9111, 0.9407
    assert 2 * precision * recall / (precision + recall) == pytest.approx(f1, abs=5e-5)
    # A confusion with nearly these values: the function's own three numbers obey the same rule.
    labels = np.array([0] * 9824 + [1] * 176)
    predictions = np.array([0] * 8980 + [1] * 844 + [1] * 131 + [0] * 45)
    scores = classification_metrics(labels, certain(predictions))
    assert scores["recall"] == pytest.approx(recall, abs=1e-4)
    harmonic = 2 * scores["precision"] * scores["recall"] / (scores["precision"] + scores["recall"])
    assert scores["f1"] == pytest.approx(harmonic, abs=1e-12)


@given(st.integers(2, 60), st.integers(2, 5), st.integers(0, 10_000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_scores_equal_the_reference(count, classes, seed, coarse):
    labels, probabilities = drawn(count, classes, seed, coarse=coarse)
    scores = classification_metrics(labels, probabilities)
    predictions = probabilities.argmax(1)
    every = range(classes)
    weighted = {"labels": every, "average": "weighted", "zero_division": 0}
    assert scores["precision"] == pytest.approx(
        reference.precision_score(labels, predictions, **weighted)
    )
    assert scores["recall"] == pytest.approx(
        reference.recall_score(labels, predictions, **weighted)
    )
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(labels, predictions))
    present = np.unique(labels)
    if len(present) > 1:
        recalls = reference.recall_score(labels, predictions, labels=present, average=None)
        assert scores["balanced_accuracy"] == pytest.approx(recalls.mean())
    if classes == 2 and len(present) == 2:
        # To the bit: thousands of results were scored by the reference.
        positive = probabilities[:, 1]
        assert scores["auc"] == reference.roc_auc_score(labels, positive)
        assert scores["pr_auc"] == reference.average_precision_score(labels, positive)
    elif len(present) == classes:
        one_against_rest = reference.roc_auc_score(
            np.eye(classes)[labels], probabilities, average="macro"
        )
        assert scores["auc"] == pytest.approx(one_against_rest)
        assert scores["pr_auc"] == pytest.approx(
            reference.average_precision_score(
                np.eye(classes)[labels], probabilities, average="macro"
            )
        )


@given(st.integers(0, 30), st.integers(2, 4), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_scores_are_in_range_or_none_and_nothing_warns(count, classes, seed):
    labels, probabilities = drawn(count, classes, seed)
    if seed % 2 and count:
        labels[:] = labels[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = classification_metrics(labels, probabilities)
    for value in scores.values():
        assert value is None or (type(value) is float and 0 <= value <= 1)
    assert list(scores) == list(classification_metrics(*drawn(50, classes, 0)))


@given(st.integers(2, 30), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_order_of_records_does_not_matter(count, seed):
    labels, probabilities = drawn(count, 3, seed)
    order = np.random.default_rng(seed).permutation(count)
    shuffled = classification_metrics(labels[order], probabilities[order])
    assert shuffled == pytest.approx(classification_metrics(labels, probabilities))


def test_only_negatives_leave_what_needs_positives_undefined():
    scores = classification_metrics(np.zeros(3, np.int64), certain([0, 0, 1]))
    undefined = {name for name, value in scores.items() if value is None}
    assert undefined == {"auc", "pr_auc", "balanced_accuracy", "sensitivity"}
    assert scores["specificity"] == pytest.approx(2 / 3)


def test_only_positives_leave_what_needs_negatives_undefined():
    scores = classification_metrics(np.ones(3, np.int64), certain([0, 1, 1]))
    undefined = {name for name, value in scores.items() if value is None}
    assert undefined == {"auc", "pr_auc", "balanced_accuracy", "specificity"}


def test_no_records_leave_everything_undefined():
    assert set(classification_metrics(np.array([]), np.zeros((0, 2))).values()) == {None}


def test_a_missing_class_of_several_is_left_out_of_the_means():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]])
    scores = classification_metrics(labels, probabilities)
    assert scores["balanced_accuracy"] == 0.75
    assert scores["auc"] == pytest.approx((0.75 + 0.75) / 2)


def test_nothing_right_scores_zero():
    scores = classification_metrics(np.array([0, 1]), certain([1, 0]))
    assert scores["f1"] == scores["auc"] == scores["accuracy"] == 0


def test_equal_probabilities_predict_the_first_class():
    scores = classification_metrics(np.array([0, 1]), np.full((2, 2), 0.5))
    assert (scores["specificity"], scores["sensitivity"], scores["auc"]) == (1, 0, 0.5)


def test_a_diverged_model_is_not_scored():
    probabilities = np.full((4, 2), 0.5)
    probabilities[1] = math.nan
    probabilities[3, 0] = math.inf
    with pytest.raises(ValueError, match="2 of 4 records"):
        classification_metrics(np.array([0, 1, 0, 1]), probabilities)


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], "logits"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "between 0 and 1"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "-1"),
        ([0.5, 1.0], [[0.5, 0.5], [0.5, 0.5]], "whole numbers"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "1 labels but 2 rows"),
        ([0, 1], [0.5, 0.5], "shapes"),
        ([0, 1], [[0.5], [0.5]], "k >= 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, probabilities, words):
    with pytest.raises(ValueError, match=words):
        classification_metrics(np.array(labels), np.array(probabilities))


def test_each_site_is_scored_by_itself():
    labels, probabilities = drawn(60, 2, 0)
    sites = np.arange(60) % 3
    names = ("Graz", "Vienna", "")
    scores = site_metrics(labels, probabilities, sites, names, ("auc", "accuracy"))
    assert list(scores) == ["auc@Graz", "accuracy@Graz", "auc@Vienna", "accuracy@Vienna"]
    vienna = classification_metrics(labels[1::3], probabilities[1::3])
    assert scores["auc@Vienna"] == vienna["auc"]


def test_a_site_without_records_has_its_keys():
    labels, probabilities = drawn(5, 2, 1)
    scores = site_metrics(labels, probabilities, np.zeros(5, np.int64), ("here", "empty"))
    assert scores["auc@empty"] is scores["balanced_accuracy@empty"] is None


def test_sites_without_a_name_and_unknown_metrics_are_refused():
    labels, probabilities = drawn(5, 2, 1)
    with pytest.raises(ValueError, match="between 0 and 0"):
        site_metrics(labels, probabilities, np.ones(5, np.int64), ("here",))
    with pytest.raises(ValueError, match="dice"):
        site_metrics(labels, probabilities, np.zeros(5, np.int64), ("here",), ("dice",))


def test_macro_f1_is_that_of_scikit_learn() -> None:
    draws = np.random.default_rng(4)
    for classes in (2, 5, 7):
        labels = draws.integers(0, classes - 1, 60)  # The last class never occurs.
        probabilities = draws.dirichlet(np.ones(classes), 60)
        expected = f1_score(labels, probabilities.argmax(1), average="macro")
        found = classification_metrics(labels, probabilities)["macro_f1"]
        assert found == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_hand() -> None:
    # Sure to 0.9 and right twice of three times; sure to 0.6 and wrong.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * 0.6
    assert calibration_error(labels, probabilities) == pytest.approx(expected)
    assert classification_metrics(labels, probabilities)["ece"] == pytest.approx(expected)
    certain = np.eye(3)[[0, 1, 2]]
    assert calibration_error(np.array([0, 1, 2]), certain) == 0.0
    assert calibration_error(np.array([1, 2, 0]), certain) == 1.0
    # What always says one half is calibrated where it is right half the time.
    assert calibration_error(np.array([0, 1]), np.full((2, 2), 0.5)) == pytest.approx(0.0)


def test_groups_of_classes_are_scored_by_themselves() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    probabilities = np.eye(4)[[0, 0, 1, 1, 0, 2]]
    found = group_metrics(labels, probabilities, {"head": (0,), "medium": (1, 2), "tail": (3,)})
    assert found == {
        "balanced_accuracy/head": pytest.approx(2 / 3),
        "accuracy/head": pytest.approx(2 / 3),
        "balanced_accuracy/medium": pytest.approx(0.75),
        "accuracy/medium": pytest.approx(2 / 3),
        "balanced_accuracy/tail": None,
        "accuracy/tail": None,
    }


@pytest.mark.parametrize(
    ("counts", "limits", "told"),
    [
        ([4, 9, 20], {"tail": (0, 1, 2)}, "all are 'tail', with 4 to 20 records"),
        ([4, 4, 20], {"head": (0, 1, 2)}, "all are 'head', with 4 to 20 records"),
        ([7, 7, 7], {"medium": (0, 1, 2)}, "tells no classes apart: each has 7 records"),
        ([4, 9, 20], {"head": (2,), "tail": (0, 1)}, ""),
    ],
)
def test_groups_that_tell_no_classes_apart_are_said_with_what_to_type(
    counts: list[int], limits: dict[str, tuple[int, ...]], told: str
) -> None:
    task = Classification(("a", "b", "c"), 3, 16, groups=limits)
    said = task.notes(SimpleNamespace(labels=np.repeat([0, 1, 2], counts)), {})
    notes = [note for note in said if note.startswith("evaluation.groups ")]
    assert told in "".join(notes)
    assert bool(notes) == bool(told)
    if found := re.search(r"head: (\d+), tail: (\d+)", "".join(notes)):
        head, tail = map(int, found.groups())
        assert tail <= head
        assert any(n > head for n in counts) != all(n > head for n in counts)
