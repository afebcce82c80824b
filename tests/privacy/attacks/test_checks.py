"""The tests of an audit: exact where the premises hold, and sharp where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from fedsim.privacy.attacks.checks import (
    Check,
    lagged_p_value,
    quiet_p_value,
    quietest_p_value,
    repeated_p_value,
    sampled_p_values,
)

LIMIT = 1e-7


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def samples(seed, steps=40, units=300, rate=0.1):
    return np.random.default_rng(seed).random((steps, units)) < rate


def p_of_samples(joined, rate=0.1, lags=(1, 10)):
    found = sampled_p_values(joined, rate, lags)
    assert list(found) == ["size", "unit", "fixed", "overlap"]
    return found


@pytest.mark.parametrize(
    "p_value",
    [
        lambda seed: quiet_p_value(3 * noise(seed, 20, 30), 3.0),
        lambda seed: lagged_p_value(noise(seed, 30, 100), 1),
    ],
)
def test_p_values_of_sound_noise_are_uniform(p_value):
    assert kstest([p_value(seed) for seed in range(400)], "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    "p_value",
    [
        lambda seed: quietest_p_value(noise(seed, 20, 30), 1.0),
        lambda seed: repeated_p_value(noise(seed, 10, 50)),
        *(
            lambda seed, name=name: p_of_samples(samples(seed, 20, 100))[name]
            for name in ("size", "unit", "fixed", "overlap")
        ),
    ],
)
def test_p_values_that_look_at_many_things_stay_on_the_safe_side(p_value):
    """At most as many are below a level as the level says, up to 4 deviations."""
    found = np.array([p_value(seed) for seed in range(400)])
    for level in (0.01, 0.05, 0.2):
        below = (found <= level).mean()
        assert below <= level + 4 * np.sqrt(level * (1 - level) / 400)


@pytest.mark.parametrize("factor", [0.0, 0.25, 0.5, 0.7, 0.9])
def test_quiet_noise_is_found(factor):
    """4,096 values: 0.9 is 9 deviations of their mean square below 1."""
    for seed in range(20):
        assert quiet_p_value(factor * noise(seed, 4, 1024), 1.0) < LIMIT
        assert quiet_p_value(noise(seed, 4, 1024), 1.0) > LIMIT


def test_one_quiet_coordinate_is_found():
    for seed in range(20):
        rows = noise(seed, 100, 64)
        assert quietest_p_value(rows, 1.0) > LIMIT
        rows[:, seed] *= 0.4
        assert quiet_p_value(rows, 1.0) > LIMIT
        assert quietest_p_value(rows, 1.0) < LIMIT


def test_louder_noise_than_claimed_is_no_fault():
    assert quiet_p_value(2 * noise(0, 4, 1024), 1.0) == 1.0
    assert quietest_p_value(2 * noise(0, 40, 64), 1.0) == 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_that_returns_is_found_wherever_it_does(sign):
    for seed in range(20):
        rows = noise(seed, 12, 200)
        assert repeated_p_value(rows) > LIMIT
        rows[9] = sign * rows[2]
        assert repeated_p_value(rows) < 1e-50


def test_noise_that_returns_in_part_is_found():
    """An eighth of the energy: a cosine of 0.125 is 8 deviations of 1/sqrt(4096)."""
    for seed in range(20):
        rows = noise(seed, 12, 4096)
        rows[5] = np.sqrt(7 / 8) * rows[5] + np.sqrt(1 / 8) * rows[2]
        assert repeated_p_value(rows) < LIMIT


def test_noise_that_follows_what_came_before_is_found_where_no_two_rows_show_it():
    """First order autocorrelation of 0.1 over 400 rows of 100 values: 20 deviations."""
    for seed in range(5):
        rows = noise(seed, 400, 100)
        assert lagged_p_value(rows, 1) > LIMIT
        for k in range(1, 400):
            rows[k] = 0.1 * rows[k - 1] + np.sqrt(0.99) * rows[k]
        assert repeated_p_value(rows) > LIMIT
        assert lagged_p_value(rows, 1) < LIMIT
    assert lagged_p_value(noise(0, 5, 100), 5) == 1.0


def test_rows_without_noise_are_left_to_other_tests():
    assert repeated_p_value(np.zeros((4, 50))) == 1.0
    assert repeated_p_value(noise(0, 1, 50)) == 1.0


def test_poisson_samples_pass():
    for seed in range(40):
        assert min(p_of_samples(samples(seed)).values()) > LIMIT


def without_replacement(seed, steps=40, units=300, size=30):
    """Batches of a shuffled order, the order drawn anew once it is through."""
    draws, joined = np.random.default_rng(seed), np.zeros((steps, units), bool)
    order = np.zeros(0, int)
    for row in joined:
        if len(order) < size:
            order = draws.permutation(units)
        row[order[:size]], order = True, order[size:]
    return joined


def repeated(seed, times=10):
    return np.tile(samples(seed, steps=40 // times), (times, 1))


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("size", lambda seed: np.ones((40, 300), bool)),
        ("size", lambda seed: samples(seed, rate=0.15)),
        ("unit", lambda seed: samples(seed) | (np.arange(300) == 7)),
        ("overlap", lambda seed: np.tile(samples(seed, steps=1), (40, 1))),
        ("overlap", repeated),
        ("overlap", without_replacement),
        ("fixed", without_replacement),
    ],
)
def test_samples_that_are_not_poisson_samples_are_found(name, draw):
    for seed in range(20):
        assert p_of_samples(draw(seed))[name] < LIMIT


def test_a_single_step_cannot_be_told_from_a_sound_one():
    found = p_of_samples(samples(0, steps=1))
    assert min(found.values()) > 1e-3


def test_a_check_fails_below_its_limit():
    assert Check("a", 0.0, LIMIT, "b").failed
    assert not Check("a", LIMIT, LIMIT, "b").failed
    assert norm.sf(5.2) < LIMIT  # what the limit is in deviations of a normal distribution
