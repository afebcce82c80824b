"""Splits of cases: every site on every side, patients whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.volumes.split import fold_cases, split_cases, split_fold
from fedsim.errors import InputError

NAMES = ("a", "b", "c")
SIDES = ("train", "val", "test")


@st.composite
def cases(draw):
    """Sites and patients of up to 60 cases: three sites of 3 to 10 patients, 1 to 3 cases each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    patients = [draw(st.integers(3, 10)) for _ in NAMES]
    site_of = np.repeat(np.arange(3), patients)
    groups = rng.permutation(len(site_of))
    often = rng.integers(1, 4, len(site_of))
    order = rng.permutation(often.sum())
    return np.repeat(site_of, often)[order], np.repeat(groups, often)[order]


def whole(parts, groups):
    held = [set(groups[part].tolist()) for part in parts.values()]
    return sum(map(len, held)) == len(set().union(*held))


@settings(max_examples=25)
@given(cases(), st.integers(0, 99), st.sampled_from([(0.1, 0.1), (0.2, 0.3), (0.5, 0.4), (0, 0.3)]))
def test_a_split_is_complete_whole_and_has_every_site_on_every_side(data, seed, shares):
    sites, groups = data
    parts = split_cases(sites, groups, NAMES, val=shares[0], test=shares[1], seed=seed)
    assert tuple(parts) == SIDES
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(sites)))
    assert whole(parts, groups)
    for side, part in parts.items():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        wanted = {0, 1, 2} if side != "val" or shares[0] else set()
        assert set(sites[part]) == wanted
    again = split_cases(sites, groups, NAMES, val=shares[0], test=shares[1], seed=seed)
    assert all((again[side] == parts[side]).all() for side in SIDES)


def test_shares_are_of_the_patients_of_each_site():
    sites = np.repeat([0, 1], [32, 184])
    parts = split_cases(sites, np.arange(216), NAMES, val=0.2, test=0.2, seed=0)
    assert [np.bincount(sites[parts[side]]).tolist() for side in SIDES] == [
        [20, 110],
        [6, 37],
        [6, 37],
    ]


def test_the_smallest_site_is_split_one_to_one_to_one():
    sites, groups = np.zeros(3, np.int64), np.arange(3)
    parts = split_cases(sites, groups, ("only",), val=0.1, test=0.4, seed=1)
    assert [len(parts[side]) for side in SIDES] == [1, 1, 1]


def test_sites_that_are_too_small_are_all_named():
    sites = np.array([0, 0, 0, 1, 1, 2, 0])
    with pytest.raises(InputError) as caught:
        split_cases(sites, np.arange(7), ("hk", "bidmc", "ucl"), val=0.1, test=0.1, seed=0)
    assert caught.value.exit_code == 2
    assert [problem.where for problem in caught.value.problems] == ["site 'bidmc'", "site 'ucl'"]
    assert "has 2 case(s)" in caught.value.problems[0].message
    # Three volumes of one patient are one case.
    with pytest.raises(InputError, match=r"site 'hk': has 1 case\(s\)"):
        split_cases(np.zeros(3, np.int64), np.zeros(3, np.int64), ("hk",), val=0, test=0.1, seed=0)


def test_the_split_of_a_site_does_not_depend_on_other_sites():
    sites = np.repeat([0, 1], [8, 9])
    both = split_cases(sites, np.arange(17), ("a", "b"), val=0.2, test=0.2, seed=3)
    alone = split_cases(sites[8:] - 1, np.arange(9), ("b",), val=0.2, test=0.2, seed=3)
    for side in SIDES:
        assert (both[side][both[side] >= 8] - 8).tolist() == alone[side].tolist()
    other = split_cases(sites, np.arange(17), ("a", "b"), val=0.2, test=0.2, seed=4)
    assert any(both[side].tolist() != other[side].tolist() for side in SIDES)


@settings(max_examples=25)
@given(cases(), st.integers(0, 99), st.integers(2, 3))
def test_folds_share_every_site_out_evenly_in_whole_patients(data, seed, folds):
    sites, groups = data
    fold = fold_cases(sites, groups, NAMES, folds=folds, seed=seed)
    assert fold.shape == sites.shape
    for code in range(3):
        patients = [len(np.unique(groups[(fold == f) & (sites == code)])) for f in range(folds)]
        assert min(patients) >= 1
        assert max(patients) - min(patients) <= 1
    assert all(len(np.unique(fold[groups == group])) == 1 for group in groups)
    totals = [len(np.unique(groups[fold == f])) for f in range(folds)]
    assert max(totals) - min(totals) <= 1
    assert (fold_cases(sites, groups, NAMES, folds=folds, seed=seed) == fold).all()


@settings(max_examples=25)
@given(cases(), st.integers(0, 99))
def test_every_case_is_tested_in_exactly_one_fold(data, seed):
    sites, groups = data
    tested = np.zeros(len(sites), dtype=int)
    for fold in range(3):
        parts = split_fold(sites, groups, NAMES, fold=fold, folds=3, val=0.2, seed=seed)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(sites)))
        assert whole(parts, groups)
        assert (fold_cases(sites, groups, NAMES, folds=3, seed=seed)[parts["test"]] == fold).all()
        assert set(sites[parts["train"]]) == set(sites[parts["val"]]) == {0, 1, 2}
        tested[parts["test"]] += 1
    assert (tested == 1).all()


def test_folds_that_cannot_be_are_refused():
    sites, groups = np.array([0] * 6 + [1] * 4), np.arange(10)
    with pytest.raises(InputError, match=r"site 'b': has 4 .* each of the 5 folds needs one"):
        fold_cases(sites, groups, ("a", "b"), folds=5, seed=0)
    with pytest.raises(ValueError, match="folds must be at least 2, not 1"):
        fold_cases(sites, groups, ("a", "b"), folds=1, seed=0)
    with pytest.raises(ValueError, match="fold must be from 0 to 2, not 3"):
        split_fold(sites, groups, ("a", "b"), fold=3, folds=3, val=0.1, seed=0)
    with pytest.raises(ValueError, match="their sum must be below 1"):
        split_cases(sites, groups, ("a", "b"), val=0.5, test=0.5, seed=0)
