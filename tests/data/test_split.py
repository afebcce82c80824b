"""Splits: whole groups, the fractions wanted, every class on every side."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.building import group_codes
from fedsim.data.skin import HAM10000
from fedsim.data.split import (
    count_by_group,
    distribute,
    majority,
    nested_fraction,
    rarest,
    split_records,
)
from fedsim.errors import InputError


@st.composite
def records(draw, mixed: bool = True):
    """Labels, groups and sites of up to 120 records, groups of one to six."""
    count = draw(st.integers(12, 120))
    seed = draw(st.integers(0, 2**32))
    classes = draw(st.integers(1, 4))
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, draw(st.integers(2, 7)), count))[:count]
    labels = rng.integers(0, classes, count)
    if not mixed:
        labels = labels[groups]
    return labels, rng.permutation(count)[groups], rng.integers(0, 3, count)[groups]


def complete(parts, count: int) -> bool:
    return sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))


def together(parts, groups: np.ndarray) -> bool:
    held = [set(groups[part].tolist()) for part in parts.values()]
    return sum(map(len, held)) == len(set().union(*held))


@given(records(), st.integers(0, 2**32), st.sampled_from([(0.1, 0.1), (0.2, 0.3), (0.0, 0.25)]))
def test_a_split_is_complete_disjoint_grouped_and_repeatable(data, seed, fractions):
    labels, groups, sites = data
    val, test = fractions
    try:
        parts = split_records(labels, groups, sites, val=val, test=test, seed=seed)
    except InputError:
        return
    assert list(parts) == ["train", "val", "test"]
    assert complete(parts, len(labels))
    assert together(parts, groups)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts.values())
    again = split_records(labels, groups, sites, val=val, test=test, seed=seed)
    assert all((parts[side] == again[side]).all() for side in parts)
    for side, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        if share:
            assert set(labels[parts[side]]) == set(labels)
        else:
            assert len(parts[side]) == 0


@given(records(mixed=False), st.integers(0, 2**32))
def test_classes_with_three_groups_are_on_all_sides_and_others_refused(data, seed):
    labels, groups, sites = data
    small = [c for c in np.unique(labels) if len(np.unique(groups[labels == c])) < 3]
    if small:
        with pytest.raises(InputError) as caught:
            split_records(labels, groups, sites, val=0.1, test=0.1, seed=seed)
        named = [problem.where for problem in caught.value.problems]
        assert named == [f"class {c}" for c in small]
    else:
        parts = split_records(labels, groups, sites, val=0.1, test=0.1, seed=seed)
        assert all(set(labels[part]) == set(labels) for part in parts.values())


@given(st.integers(3, 400), st.integers(3, 60), st.integers(0, 2**32))
def test_single_records_are_split_to_the_record(negatives, positives, seed):
    labels = np.repeat([0, 1], [negatives, positives])
    groups = np.arange(len(labels))
    parts = split_records(labels, groups, 0 * labels, val=0.1, test=0.1, seed=seed)
    for c, count in enumerate((negatives, positives)):
        for side, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
            assert abs((labels[parts[side]] == c).sum() - share * count) <= 1.5


def test_another_seed_gives_another_split():
    labels, groups = np.arange(200) % 2, np.arange(200)
    first, second = (
        split_records(labels, groups, 0 * labels, val=0.1, test=0.1, seed=seed) for seed in (0, 1)
    )
    assert first["test"].tolist() != second["test"].tolist()


def test_the_melanomas_of_patients_with_many_nevi_are_shared_out_evenly():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 12)
    labels = np.zeros(len(groups), dtype=np.int64)
    labels[rng.choice(len(groups), 100, replace=False)] = 1
    for seed in range(5):
        parts = split_records(labels, groups, 0 * labels, val=0.1, test=0.1, seed=seed)
        for side in ("val", "test"):
            assert abs(int(labels[parts[side]].sum()) - 10) <= 1
            assert abs(len(parts[side]) - 480) <= 12


def test_each_site_is_shared_out_within_each_class():
    labels = np.tile([0, 0, 0, 1], 250)
    sites = np.repeat([0, 1, 2, 3, 4], 200)
    parts = split_records(labels, np.arange(1000), sites, val=0.1, test=0.2, seed=3)
    for site in range(5):
        for c, count in ((0, 150), (1, 50)):
            held = (labels[parts["test"]] == c) & (sites[parts["test"]] == site)
            assert abs(held.sum() - 0.2 * count) <= 2


def test_large_groups_are_shared_out_too():
    groups = np.concatenate([np.arange(500), np.repeat(np.arange(500, 600), 6)])
    labels = np.zeros(len(groups), dtype=np.int64)
    parts = split_records(labels, groups, labels, val=0.1, test=0.1, seed=0)
    assert (groups[parts["test"]] >= 500).sum() == 60
    assert (groups[parts["test"]] < 500).sum() == 50


def test_a_class_too_small_is_named_by_its_name():
    labels, groups = np.array([0] * 9 + [1] * 4), np.array([*range(9), 20, 20, 21, 21])
    with pytest.raises(InputError) as caught:
        split_records(
            labels, groups, 0 * labels, val=0.1, test=0.1, seed=0, classes=("nv", "df", "vasc")
        )
    assert [problem.where for problem in caught.value.problems] == ["class 'df'", "class 'vasc'"]
    assert "has 2 groups" in caught.value.problems[0].message
    assert "has 0 groups" in caught.value.problems[1].message
    parts = split_records(labels, groups, 0 * labels, val=0, test=0.1, seed=0, classes=("a", "b"))
    assert set(labels[parts["test"]]) == {0, 1}


@pytest.mark.parametrize(
    ("groups", "val", "offered"), [(2, 0.1, True), (1, 0.1, False), (1, 0.0, False)]
)
def test_no_validation_is_advised_only_where_the_split_then_works(groups, val, offered):
    labels = np.repeat([0, 1], [9, groups])
    with pytest.raises(InputError) as caught:
        split_records(labels, np.arange(len(labels)), 0 * labels, val=val, test=0.1, seed=0)
    assert ("data.split.val=0" in caught.value.hint) is offered
    assert "data.embedded.images" in caught.value.hint
    noun = "group" if groups == 1 else "groups"
    assert f"has {groups} {noun} (" in caught.value.problems[0].message


def test_classes_in_the_same_groups_are_placed_together():
    labels, groups = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2])
    parts = split_records(labels, groups, 0 * labels, val=0.1, test=0.1, seed=0)
    assert [len(part) for part in parts.values()] == [2, 2, 2]


def test_classes_that_hinder_each_other_are_an_error_not_a_gap():
    # A, B and C must part for class 0, A, B and D for class 1: so C and D meet, and class 2,
    # which is in C, D and E, is on two sides only.
    held = {"A": (0, 1), "B": (0, 1), "C": (0, 2), "D": (1, 2), "E": (2,)}
    groups = np.array([ord(group) for group, labels in held.items() for _ in labels])
    labels = np.array([label for labels in held.values() for label in labels])
    with pytest.raises(InputError, match="cannot be on every side"):
        split_records(labels, groups, 0 * labels, val=0.1, test=0.1, seed=0)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.2)])
def test_impossible_fractions_are_refused(val, test):
    with pytest.raises(ValueError, match="must not be negative"):
        split_records(np.zeros(9, int), np.arange(9), np.zeros(9, int), val=val, test=test, seed=0)


@given(records(), st.integers(1, 9), st.integers(0, 2**32))
def test_any_number_of_sides_gets_whole_groups(data, sides, seed):
    labels, groups, sites = data
    shares = [1 / sides] * sides
    side = distribute(labels, groups, sites, shares=shares, rng=np.random.default_rng(seed))
    assert set(side.tolist()) <= set(range(sides))
    assert all(len(set(side[groups == group].tolist())) == 1 for group in np.unique(groups))


def test_ties_between_labels_of_a_group_go_to_the_rarer_class():
    counts = np.array([[5, 0, 0], [2, 2, 1], [0, 3, 3], [1, 0, 4]])
    assert majority(counts).tolist() == [0, 1, 1, 2]


def test_the_rarest_class_of_a_group_is_the_one_with_fewest_records_in_all():
    counts = np.array([[5, 0, 0], [9, 2, 1], [0, 3, 3], [1, 0, 1]])
    assert rarest(counts).tolist() == [0, 1, 1, 2]


def test_counts_by_group_follow_the_order_of_group_numbers():
    counts, row = count_by_group(np.array([7, 3, 7, 9]), np.array([0, 1, 2, 1]))
    assert counts.tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert row.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("task", ["binary", "diagnosis"])
def test_real_lesions_are_split_8_1_1(real_data, task):
    manifest = HAM10000(task=task).manifest(real_data / "ham10000")
    labels, groups = manifest.labels, group_codes(manifest.groups)
    _, sites = np.unique(manifest.sites, return_inverse=True)
    parts = split_records(labels, groups, sites, val=0.1, test=0.1, seed=0)
    assert together(parts, groups)
    for side, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        part = parts[side]
        assert abs(len(part) - share * 10015) <= 5
        assert np.abs(np.bincount(labels[part]) - share * np.bincount(labels)).max() <= 3
        assert np.abs(np.bincount(sites[part]) - share * np.bincount(sites)).max() <= 8


# --- fractions -----------------------------------------------------------------------------------


def taken(data, fraction: float, seed: int) -> np.ndarray:
    labels, groups, holders = data
    rng = np.random.default_rng(seed)
    return nested_fraction(labels, groups, holders, fraction=fraction, rng=rng)


@given(
    records(),
    st.integers(0, 2**32),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4).map(sorted),
)
def test_fractions_are_nested_and_of_whole_groups(data, seed, fractions):
    labels, groups, _ = data
    holders = groups % 3  # all records of a group are with one holder
    found = [set(taken((labels, groups, holders), one, seed).tolist()) for one in fractions]
    for smaller, larger in pairwise(found):
        assert smaller <= larger
    for part in found:
        kept = sorted(part)
        assert set(groups[kept].tolist()).isdisjoint(np.delete(groups, kept).tolist())
        assert set(holders[kept]) == set(holders)
    assert len(taken((labels, groups, holders), 1.0, seed)) == len(labels)


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.5]))
def test_a_fraction_has_its_share_of_each_class_and_holder(seed, fraction):
    """100 groups of two images of class 0 and 20 of class 1, evenly at two holders."""
    labels = np.repeat([0] * 100 + [1] * 20, 2)
    groups = np.repeat(np.arange(120), 2)
    holders = groups % 2
    part = taken((labels, groups, holders), fraction, seed)
    assert np.bincount(labels[part]).tolist() == [200 * fraction, 40 * fraction]
    at = np.bincount(holders[part][labels[part] == 0])
    assert abs(at[0] - at[1]) <= 2 * 2  # two groups


def test_a_fraction_golden():
    data = np.arange(10) % 2, np.arange(10), np.arange(10) // 5
    assert taken(data, 0.2, 0).tolist() == [3, 4, 7]
    assert taken(data, 0.4, 0).tolist() == [3, 4, 6, 7]
    assert taken(data, 0.4, 1).tolist() == [1, 4, 7, 8]


def test_nobody_and_no_class_is_left_without():
    """Of two classes and three holders of whom one has a single group, 1 % keeps something."""
    labels = np.array([0] * 30 + [1] * 3)
    holders = np.array([0] * 20 + [1] * 12 + [2])
    part = taken((labels, np.arange(33), holders), 0.01, 0)
    assert set(holders[part]) == {0, 1, 2}
    assert set(labels[part]) == {0, 1}
    assert len(part) <= 4


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_what_is_no_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be above 0"):
        taken((np.zeros(2, int), np.arange(2), np.zeros(2, int)), fraction, 0)
