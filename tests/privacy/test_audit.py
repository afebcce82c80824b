"""Golden lower bounds, and that they hold where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy.audit import (
    ABSTENTION_LEVELS,
    LowerBound,
    clopper_pearson_upper,
    epsilon_from_rates,
    gaussian_delta,
    gaussian_epsilon,
    many_run,
    many_run_cap,
    many_run_epsilon,
    many_run_mu,
    one_run,
    one_run_epsilon,
    one_run_p_value,
)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "golden"),
    [
        (1000, 1000, 1000, 0, 5.809068),
        (1000, 1000, 1000, 1e-5, 5.782283),
        (1000, 1000, 700, 1e-5, 0.731740),
        (1000, 100, 90, 1e-5, 1.626143),
        (1000, 100, 95, 1e-5, 2.165176),
        (1000, 200, 130, 1e-5, 0.365257),
        (100, 100, 100, 1e-5, 3.490216),
        (5000, 500, 490, 1e-5, 3.335670),
        (1000, 1000, 520, 1e-5, 0),
        (10, 10, 10, 0, 1.051873),
    ],
)
def test_one_run_bounds_equal_the_golden_table(canaries, guesses, correct, delta, golden):
    assert one_run_epsilon(canaries, guesses, correct, delta) == pytest.approx(golden, abs=1e-6)


def test_one_run_p_values_equal_the_golden_table():
    assert one_run_p_value(1000, 100, 90, 1.0, 1e-5) == pytest.approx(8.412885614e-4, rel=1e-9)
    assert one_run_p_value(1000, 100, 90, 1.5, 0.0) == pytest.approx(0.0173364169, rel=1e-8)
    assert one_run_p_value(200, 200, 150, 1.0, 1e-3) == pytest.approx(0.3278833819, rel=1e-9)
    assert one_run_p_value(10, 0, 0, 1.0, 1e-5) == 1.0


def test_without_delta_one_run_agrees_with_its_closed_form():
    for guesses in (1, 10, 1000):
        exact = -math.log(0.05 ** (-1 / guesses) - 1)
        assert one_run_epsilon(1000, guesses, guesses, 0) == pytest.approx(max(0, exact), abs=1e-8)


@pytest.mark.parametrize(
    ("counts", "golden"),
    [
        ((0, 1000, 0, 1000), 5.600577),
        ((5, 1000, 500, 1000), 3.696077),
        ((10, 10000, 5000, 10000), 5.585872),
        ((50, 100, 50, 100), 0),
    ],
)
def test_many_run_bounds_equal_the_golden_table(counts, golden):
    assert float(many_run_epsilon(*counts, 1e-5)) == pytest.approx(golden, abs=1e-6)
    swapped = (counts[2], counts[3], counts[0], counts[1])
    assert float(many_run_epsilon(*swapped, 1e-5)) == pytest.approx(golden, abs=1e-6)


def test_gaussian_bounds_equal_the_golden_table():
    assert float(many_run_mu(0, 1000, 0, 1000)) == pytest.approx(5.359823, abs=1e-6)
    assert float(many_run_mu(100, 1000, 300, 1000)) == pytest.approx(1.614949, abs=1e-6)
    assert float(many_run_mu(1000, 1000, 0, 1000)) == 0.0
    assert float(clopper_pearson_upper(0, 1000, 0.025)) == pytest.approx(0.003682083897, rel=1e-9)
    assert float(clopper_pearson_upper(1000, 1000, 0.025)) == 1.0
    golden = {(0.5, 1e-5): 1.993091, (1, 1e-5): 4.377178, (2, 1e-5): 9.997256, (1, 1e-6): 4.886554}
    for (mu, delta), epsilon in golden.items():
        assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, abs=1e-6)
    # The client-level table without amplification: sensitivity over noise is sqrt(T) / z.
    for z, rounds, epsilon in ((1, 1, 4.3772), (4, 10, 3.3414), (10, 100, 4.3772)):
        assert gaussian_epsilon(math.sqrt(rounds) / z, 1e-5) == pytest.approx(epsilon, abs=5e-5)
    # What the published filter claims for one full-batch release at (sigma, tau).
    for sigma, tau, epsilon in ((4, 4, 1.356), (2, 8, 2.062), (8, 8, 0.634), (16, 16, 0.298)):
        assert gaussian_epsilon(math.hypot(1 / sigma, 1 / tau), 1e-5) == pytest.approx(
            epsilon, abs=6e-4
        )
    assert gaussian_epsilon(0.0, 1e-5) == 0.0


def test_one_training_refutes_the_published_claim_in_closed_form():
    # N = 50,000, L = 64, T = 39,062, sigma = 0.593, tau = 3.076; independent draws; the target's
    # gradient alone in its coordinate; flag a run with any release beyond 10 standard deviations.
    from scipy.stats import binom, norm

    kept = norm.cdf(-1 / (2 * 3.076))
    others = np.arange(1, 140)
    rate = 64 / 50000
    hit = binom.pmf(others - 1, 49999, rate * (1 - kept)) @ norm.sf(
        10 - 64 / (0.593 * np.sqrt(others))
    )
    missed = (1 - rate * kept * hit) ** 39062
    flagged = 39062 * norm.sf(10)
    assert flagged <= 3.1e-19
    assert missed <= 3.6e-10
    assert 42 < float(epsilon_from_rates(flagged, missed, 1e-6)) < 43  # claimed: 7.46


def test_caps_are_the_bounds_of_an_attack_without_errors():
    assert many_run_cap(1000, 1000, 1e-5) == pytest.approx(5.600577, abs=1e-6)
    assert many_run_cap(1000, 1000, 1e-5) == pytest.approx(math.log(1000 / 3.7), abs=0.01)
    perfect = many_run(np.zeros(2000), np.ones(2000), 1e-5)
    assert perfect.epsilon == perfect.cap == pytest.approx(5.600577, abs=1e-6)
    assert (perfect.errors, perfect.trials) == (0, 2000)
    coins = np.arange(1000) % 2 == 0
    sure = one_run(coins.astype(float), coins, 1e-5)
    assert sure.epsilon == sure.cap == one_run_epsilon(1000, 1000, 1000, 1e-5, 0.05 / 6)
    # 700 guesses without an error, as an attack on independent noise made them.
    assert one_run_epsilon(1000, 700, 700, 1e-5, 0.05 / 6) == pytest.approx(4.91, abs=5e-3)
    assert sure.errors == 0


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_bounds_stay_below_the_truth_of_a_gaussian_mechanism(mu):
    rng = np.random.default_rng(3)
    truth = gaussian_epsilon(mu, 1e-5)
    above = 0
    for _ in range(60):
        bound = many_run(rng.normal(0, 1, 800), rng.normal(mu, 1, 800), 1e-5)
        assert bound.epsilon <= bound.cap
        above += bound.contradicts(truth) or bound.indicative > truth
    assert above <= 6  # at most 3 expected at 95 %


def test_bounds_grow_with_the_leak_and_hold_at_chance():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 4000)
    found = [many_run(noise, rng.normal(mu, 1, 4000), 1e-5).epsilon for mu in (0, 1, 3)]
    assert found[0] < 0.1 < 0.8 < found[1] < 3 < found[2]
    coins = rng.random(1000) < 0.5
    scores = rng.normal(0, 1, 1000)
    bounds = [one_run(scores + gap * coins, coins, 1e-5) for gap in (0.0, 1.0, 8.0)]
    assert bounds[0].epsilon < 0.1 < 0.4 < bounds[1].epsilon < 3 < bounds[2].epsilon
    assert all(bound.epsilon <= bound.cap for bound in bounds)


def test_trying_several_levels_costs_confidence():
    rng = np.random.default_rng(1)
    coins = rng.random(500) < 0.5
    scores = rng.normal(0, 1, 500) + 1.5 * coins
    alone = [one_run(scores, coins, 1e-5, levels=(level,)).epsilon for level in ABSTENTION_LEVELS]
    together = one_run(scores, coins, 1e-5)
    assert 0 < together.epsilon < max(alone)
    corrected = [
        one_run(scores, coins, 1e-5, 0.05 / len(ABSTENTION_LEVELS), levels=(level,)).epsilon
        for level in ABSTENTION_LEVELS
    ]
    assert together.epsilon == max(corrected)
    assert together.confidence == 0.95


def test_equal_scores_tell_nothing():
    rng = np.random.default_rng(2)
    coins = rng.random(1000) < 0.5
    assert one_run(np.zeros(1000), coins, 1e-5).epsilon < 0.2
    assert many_run(np.zeros(1000), np.zeros(1000), 1e-5).epsilon == 0.0


def test_the_threshold_is_chosen_where_the_bound_is_not_computed():
    # Each half can be told apart, but not by a threshold that suits the other half.
    without = np.concatenate([np.zeros(500), np.full(500, 10.0)])
    with_record = without + 1
    assert many_run(without, with_record, 1e-5).epsilon == 0.0
    assert many_run(without[:500], with_record[:500], 1e-5).epsilon > 4


@settings(max_examples=40)
@given(st.integers(2, 60), st.data())
def test_more_correct_guesses_never_lower_the_bound(guesses, data):
    correct = data.draw(st.integers(0, guesses - 1))
    fewer = one_run_epsilon(100, guesses, correct, 1e-5)
    assert 0 <= fewer <= one_run_epsilon(100, guesses, correct + 1, 1e-5) + 1e-8
    assert one_run_epsilon(100, guesses, correct, 1e-5, 0.01) <= fewer + 1e-8


@given(st.floats(0.01, 6), st.floats(0, 12), st.floats(0.01, 3))
def test_the_gaussian_profile_is_a_decreasing_probability(mu, epsilon, more):
    delta = gaussian_delta(epsilon, mu)
    assert -1e-12 <= gaussian_delta(epsilon + more, mu) <= delta + 1e-12 <= 1


@given(st.floats(0.05, 5), st.floats(0.05, 4))
def test_gaussian_epsilon_inverts_gaussian_delta(mu, epsilon):
    delta = gaussian_delta(epsilon, mu)
    if delta > 1e-9:
        assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-4)


def test_a_bound_contradicts_only_smaller_claims():
    bound = LowerBound(1.0, 0.95, 5.0, 100, 3)
    assert bound.contradicts(0.99)
    assert not bound.contradicts(1.0)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="12 correct ones among 10 guesses"):
        one_run_epsilon(100, 10, 12, 1e-5)
    with pytest.raises(ValueError, match="at least 4 scores"):
        many_run([1.0, 2.0], np.zeros(10), 1e-5)
    with pytest.raises(ValueError, match="NaN"):
        many_run([1.0, 2.0, math.nan, 3.0], np.zeros(10), 1e-5)
    with pytest.raises(ValueError, match="at least 2 canaries"):
        one_run([1.0], [True], 1e-5)
    with pytest.raises(ValueError, match="at least 2 canaries"):
        one_run([1.0, math.nan], [True, False], 1e-5)
