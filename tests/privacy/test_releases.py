"""What a client method may do with its records: one sample, one row a unit, one release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.privacy.noise import Noise
from fedsim.privacy.plan import ClientPlan, build_mechanism
from fedsim.privacy.releases import Releases
from fedsim.scenario.schema import Privacy

UNITS = np.repeat(np.arange(10), 2)
STEPS = 3


def releases(reference: str | None = None, rate: float = 1.0, steps: int = STEPS) -> Releases:
    """Ten units of two records each, all of them in every sample."""
    block = Privacy(noise_multiplier=1.0, filter={"reference": reference} if reference else None)
    plan = ClientPlan(10, rate, steps, build_mechanism(block, 1.0, 10))
    return Releases(block, plan, UNITS, Noise.seeded(b"releases"), "Mine.train")


def rows(count: int, width: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(count, width, dtype=dtype)


def step(given: Releases, width: int = 4) -> Tensor:
    given.sample()
    return given.release(rows(10, width))


class Parts:
    """Parts whose sizes are those of each pass in turn."""

    def __init__(self, *passes: list[int]) -> None:
        self._passes = list(passes)

    def __iter__(self) -> Iterator[Tensor]:
        return iter([rows(count) for count in self._passes.pop(0)])


def test_turns_are_kept_by_who_keeps_them() -> None:
    given = releases()
    for _ in range(STEPS):
        step(given)
    assert given.made == STEPS
    given.finish()


def test_every_release_and_every_sample_draws_anew() -> None:
    given, samples, found = releases(rate=0.5, steps=40), [], []
    for _ in range(40):
        positions, places = given.sample()
        samples.append(positions.tolist())
        found.append(given.release(rows(int(places.max(initial=-1)) + 1)))
    assert len({tuple(sample) for sample in samples}) > 30
    assert len({tuple(one.tolist()) for one in found}) == 40
    assert len(np.unique(torch.stack(found).numpy())) == 160


@pytest.mark.parametrize("reference", [None, "private", "alternating", "paper_unsound"])
@pytest.mark.parametrize(
    "handed",
    [
        rows(1000),
        rows(11),
        rows(9),
        rows(0),
        [rows(10), rows(1)],
        [rows(5), rows(4)],
        [],
        iter([rows(10)]),
        [rows(5), rows(5, 3)],
        rows(10, dtype=torch.int64),
        rows(10, dtype=torch.float16),
        [rows(5), rows(5, dtype=torch.float64)],
        torch.zeros(10),
        torch.zeros(10, 2, 2),
        np.zeros((10, 4), np.float32),
        [np.zeros((10, 4), np.float32)],
        None,
    ],
    ids=lambda value: None,
)
def test_what_is_not_one_row_a_unit_is_refused_by_name(handed: Any, reference: str | None) -> None:
    given = releases(reference)
    given.sample()
    with pytest.raises(RuntimeError, match=r"^Mine\.train released"):
        given.release(handed)
    # Whoever catches the error gets no further, and the round fails.
    for go_on in (given.sample, lambda: given.release(rows(10)), given.finish):
        with pytest.raises(RuntimeError, match=r"^Mine\.train released"):
            go_on()


@pytest.mark.parametrize("second", [[10, 1], [9], [10, 10], [4, 6], [5, 5, 0], []])
def test_parts_that_differ_between_passes_are_refused(second: list[int]) -> None:
    given = releases("private")
    given.sample()
    with pytest.raises(RuntimeError, match=r"Mine\.train released"):
        given.release(Parts([5, 5], second))
    given = releases("private")
    given.sample()
    assert given.release(Parts([5, 5], [5, 5])).isfinite().all()


def test_a_second_sample_before_a_release_is_refused() -> None:
    given = releases(rate=0.5)
    given.sample()
    with pytest.raises(RuntimeError, match=r"Mine\.train drew a second sample"):
        given.sample()


def test_a_second_release_of_a_sample_is_refused() -> None:
    given = releases()
    step(given)
    with pytest.raises(RuntimeError, match=r"Mine\.train made a release without a sample"):
        given.release(rows(10))


def test_a_release_of_an_empty_sample_has_no_rows() -> None:
    given = releases(rate=0.0)
    assert len(given.sample()[0]) == 0
    assert given.release(rows(0)).abs().min() > 0
    given.sample()
    with pytest.raises(RuntimeError, match="1 or more rows out of a sample of 0 units"):
        given.release(rows(1))


@pytest.mark.parametrize("other", [rows(10, 5), rows(10, dtype=torch.float64)])
def test_rows_that_change_between_releases_are_refused(other: Tensor) -> None:
    given = releases("alternating")
    step(given)
    given.sample()
    with pytest.raises(RuntimeError, match=r"Mine\.train released rows of .* after rows of 4"):
        given.release(other)


def test_more_than_was_planned_is_refused() -> None:
    given = releases()
    for _ in range(STEPS):
        step(given)
    with pytest.raises(RuntimeError, match=r"Mine\.train asked for one more sample.* allows 3"):
        given.sample()
    with pytest.raises(RuntimeError, match="one more sample"):
        given.finish()


def test_a_round_that_ends_early_is_refused() -> None:
    given = releases()
    step(given)
    with pytest.raises(RuntimeError, match=r"Mine\.train made 1 releases .* charged for 3"):
        given.finish()
    trial = releases()
    step(trial)
    trial.finish(complete=False)


def test_a_sample_without_its_release_is_refused_even_in_a_trial() -> None:
    given = releases()
    step(given)
    given.sample()
    with pytest.raises(RuntimeError, match=r"Mine\.train drew a sample that it did not release"):
        given.finish(complete=False)


def test_nothing_leaves_after_the_round() -> None:
    given = releases()
    given.sample()
    given.closed = True
    for late in (given.sample, lambda: given.release(rows(10))):
        with pytest.raises(RuntimeError, match=r"Mine\.train used site\.releases after its round"):
            late()


def test_a_release_inside_a_release_has_noise_of_its_own() -> None:
    """Contributions that are computed while they are read may release, too: in their turn."""
    given, inner = releases(), []

    class Nested:
        def __iter__(self) -> Iterator[Tensor]:
            if not inner:
                inner.append(step(given))
            yield rows(10)

    given.sample()
    outer = given.release(Nested())
    assert given.made == 2
    assert (outer != inner[0]).all()
