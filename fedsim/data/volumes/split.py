"""Split cases site by site, in whole patients: train, validation and test, or folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.data.split import count_by_group, majority
from fedsim.errors import InputError, Problem
from fedsim.randomness import Streams

FEWEST = 3
"""Patients that a site must have: one each to train, to validate and to test."""

_HINT = "leave these sites out, or give their cases the name of another site"


def split_cases(
    sites: NDArray[np.int64],
    groups: NDArray[np.int64],
    site_names: Sequence[str],
    *,
    val: float,
    test: float,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Split the cases of every site into train, validation and test.

    Each side that has a share gets at least one patient of each site; shares are of patients,
    rounded. A patient at several sites counts at the one that has most of the patient's cases.

    Args:
        sites: int64 [n] codes.
        groups: int64 [n] codes of patients.
        site_names: names of the sites.
        val: share for validation, 0 or more; 0 leaves this side empty.
        test: share for the test, likewise.
        seed: the split of a site depends on it and on the site only.

    Returns:
        Positions (int64, ascending) under "train", "val" and "test".

    Raises:
        ValueError: the shares are negative or leave nothing to train on.
        InputError: a site has fewer than three patients; names every such site.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(
            f"val={val} and test={test} must not be negative, and their sum must be below 1."
        )
    side: dict[int, str] = {}
    for patients in _shuffled(sites, groups, site_names, seed, FEWEST).values():
        count = len(patients)
        numbers = {"val": _share(val, count), "test": _share(test, count)}
        while sum(numbers.values()) >= count:  # at least one is left to train on
            numbers[max(numbers, key=lambda name: numbers[name])] -= 1
        held = ["val"] * numbers["val"] + ["test"] * numbers["test"]
        held += ["train"] * (count - len(held))
        side.update(zip(patients, held, strict=True))
    return _by_side(groups, side)


def fold_cases(
    sites: NDArray[np.int64],
    groups: NDArray[np.int64],
    site_names: Sequence[str],
    *,
    folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """Deal the cases of every site out to folds, for cross-validation.

    The patients of a site are shuffled and dealt one after another; the next site goes on where
    the last one stopped, so that folds are of nearly equal size.

    Args:
        sites: int64 [n] codes.
        groups: int64 [n] codes of patients.
        site_names: names of the sites.
        folds: how many, at least 2.
        seed: the folds depend on it and on the cases.

    Returns:
        The fold of each case, int64 [n] from 0. Each fold has cases of each site.

    Raises:
        ValueError: fewer than two folds.
        InputError: a site has fewer patients than there are folds; names every such site.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}.")
    fold: dict[int, int] = {}
    for patients in _shuffled(sites, groups, site_names, seed, folds).values():
        dealt = len(fold)
        fold.update({patient: (dealt + i) % folds for i, patient in enumerate(patients)})
    return np.array([fold[group] for group in groups.tolist()], dtype=np.int64)


def split_fold(
    sites: NDArray[np.int64],
    groups: NDArray[np.int64],
    site_names: Sequence[str],
    *,
    fold: int,
    folds: int,
    val: float,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Split cases for one fold of a cross-validation: the fold is the test.

    Of the other patients of each site the share `val` is for validation, at least one if `val` is
    above 0.

    Returns, raises: as `split_cases` and `fold_cases`; ValueError when there is no such fold.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"fold must be from 0 to {folds - 1}, not {fold}.")
    if not 0 <= val < 1:
        raise ValueError(f"val must be at least 0 and below 1, not {val}.")
    shuffled = _shuffled(sites, groups, site_names, seed, FEWEST)
    fold_of = fold_cases(sites, groups, site_names, folds=folds, seed=seed)
    number = dict(zip(groups.tolist(), fold_of.tolist(), strict=True))
    side: dict[int, str] = {}
    for patients in shuffled.values():
        rest = [patient for patient in patients if number[patient] != fold]
        held = min(_share(val, len(rest)), len(rest) - 1)
        side.update({patient: "val" if i < held else "train" for i, patient in enumerate(rest)})
    return _by_side(groups, {**dict.fromkeys(number, "test"), **side})


def _share(share: float, count: int) -> int:
    return max(1, round(share * count)) if share > 0 else 0


def _shuffled(
    sites: NDArray[np.int64],
    groups: NDArray[np.int64],
    site_names: Sequence[str],
    seed: int,
    fewest: int,
) -> dict[str, list[int]]:
    """The patients of every site in a random order that depends on the site's name.

    Raises:
        InputError: a site has fewer than `fewest`.
    """
    counts, _ = count_by_group(groups, sites)
    site_of, patients = majority(counts), np.unique(groups)
    by_site = {site_names[code]: patients[site_of == code] for code in np.unique(sites).tolist()}
    few = {name: len(own) for name, own in by_site.items() if len(own) < fewest}
    if few:
        wanted = (
            f"{fewest} are the fewest: one each to train, to validate and to test"
            if fewest == FEWEST
            else f"each of the {fewest} folds needs one"
        )
        raise InputError(
            "some sites are too small to split",
            [
                Problem(f"site {name!r}", f"has {count} case(s) of different patients; {wanted}")
                for name, count in few.items()
            ],
            _HINT,
        )
    return {
        name: Streams(seed).numpy(f"split {name}").permutation(own).tolist()
        for name, own in by_site.items()
    }


def _by_side(groups: NDArray[np.int64], side: dict[int, str]) -> dict[str, NDArray[np.int64]]:
    of_case = np.array([side[group] for group in groups.tolist()])
    return {name: np.flatnonzero(of_case == name) for name in ("train", "val", "test")}
