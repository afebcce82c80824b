"""Support sets: weights by slice number, draws without replacement, intensities from 0 to 1."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.tasks.segmentation.support import (
    draw_support,
    slice_weights,
    support_sets,
    unit_range,
)


def test_golden_weights() -> None:
    weights = slice_weights((3, 5, 6, 10), 5)
    assert weights == pytest.approx([1 / 3, 1, 1 / 2, 1 / 6])
    assert weights / weights.sum() == pytest.approx([1 / 6, 1 / 2, 1 / 4, 1 / 12])


def test_single_draws_have_these_probabilities() -> None:
    weights, rng = slice_weights((3, 5, 6, 10), 5), np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(4000):
        counts[draw_support(weights, 1, rng)] += 1
    assert counts / 4000 == pytest.approx([1 / 6, 1 / 2, 1 / 4, 1 / 12], abs=0.03)


def test_draws_are_different_slices_or_all_there_are() -> None:
    weights, rng = slice_weights(range(20), 4), np.random.default_rng(0)
    found = draw_support(weights, 7, rng)
    assert len(set(found.tolist())) == 7
    assert found.tolist() == sorted(found.tolist())
    assert draw_support(weights, 20, rng).tolist() == list(range(20))


def test_sets_depend_on_the_seed_the_slice_and_the_draw() -> None:
    def sets(query: int | None = 4, seed: int = 0) -> list[list[int]]:
        found = support_sets(np.arange(30), query, count=5, draws=3, seed=seed)
        return [one.tolist() for one in found]

    assert sets() == sets()
    assert len({tuple(one) for one in sets()}) == 3
    assert sets(seed=1) != sets()
    assert sets(query=9) != sets()
    assert sets(query=None) != sets(query=0)
    assert len(support_sets(np.arange(5), 2, count=5, draws=3, seed=0)) == 1


def test_intensities_end_at_the_percentiles() -> None:
    volume = np.random.default_rng(0).normal(5, 3, (4, 20, 20))
    found = unit_range(volume)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    assert unit_range(7 * volume - 3) == pytest.approx(found, abs=1e-5)
    assert not unit_range(np.ones((2, 3, 3))).any()
