"""Golden epsilons (Opacus, dp-accounting, prv-accountant), pinned wrong answers, and properties."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.accounting import (
    ADJACENCY,
    FEW_ORDERS,
    ORDERS,
    Bound,
    Entry,
    effective_noise_multiplier,
    epsilon_rdp,
    epsilon_upper,
    from_state,
    joint,
    largest,
    largest_rdp,
    largest_upper,
    merge,
    rdp_of_one_step,
    require_delta,
    split_noise_multiplier,
    to_state,
    would_exceed,
)
from fedsim.privacy.audit import gaussian_delta, gaussian_epsilon

# Noise multipliers on one sample, q, steps, delta; then RDP (Opacus), PRV upper bound (Opacus),
# PLD (dp-accounting, interval 1e-4).
GOLDEN = [
    ((1.0,), 0.01, 1000, 1e-5, 2.1013652716, 1.8383716370, 1.8282436456),
    ((1.1,), 256 / 60000, 14063, 1e-5, 2.5966555287, 2.3918365362, 2.3817788126),
    ((2.0,), 0.02, 500, 1e-5, 1.0152578679, 0.9309927331, 0.9209285481),
    ((0.8,), 0.00128, 39063, 1e-6, 2.6959651038, 2.3408131959, 2.3309839534),
    ((4.0,), 0.1, 200, 1e-5, 1.5568078922, 1.4317689918, 1.4216739501),
    ((5.0,), 1.0, 20, 1e-5, 4.1616243061, 3.8588216719, 3.8486103727),
    ((0.7,), 0.05, 100, 1e-4, 7.7157767311, 6.5019878729, 6.4913674270),
    ((1.2, 2.0), 0.01, 1000, 1e-5, 1.9712530887, 1.7342182411, 1.7240989706),
    ((1.0, 1.0), 0.01, 1000, 1e-5, 5.2595188320, 4.4911226023, 4.4807701693),
    ((1.5, 1.5), 64 / 1437, 450, 1e-4, 5.3815802563, 4.7937366736, 4.7833655722),
    ((2.0, 4.0), 64 / 5163, 1620, 1e-5, 1.2899170113, 1.1861461268, 1.1760801252),
    ((1.0, 8.0), 0.00128, 39063, 1e-6, 1.6558260563, 1.5030045571, 1.4933611516),
    ((3.0, 3.0, 3.0), 0.05, 300, 1e-5, 2.5794168759, 2.3561532755, 2.3460025798),
    ((6.0, 10.0), 1.0, 30, 1e-5, 5.0817275281, 4.7171009582, 4.7068513792),
]

# Records, rounds taken part in, noise multiplier; RDP, PRV upper bound, PLD. Ten steps a round at
# an expected batch of 32, delta 1e-5.
FEDERATED = [
    (320, 20, 1.5, 5.5491, 5.0647, 5.0544),
    (1000, 20, 1.0, 3.4456, 3.0081, 2.9979),
    (1000, 7, 1.0, 2.4216, 1.9897, 1.9795),
    (4000, 20, 0.8, 2.1487, 1.5027, 1.4925),
    (5163, 12, 1.2, 0.6491, 0.2959, 0.2859),
]

# The published setting of the cosine filter on CIFAR-10, 50 epochs.
PAPER_RATE, PAPER_STEPS, PAPER_DELTA = 64 / 50000, 39062, 1e-6


def paper_epsilon(*multipliers):
    entries = [Entry(sigma, PAPER_RATE, PAPER_STEPS) for sigma in multipliers]
    return epsilon_rdp(entries, PAPER_DELTA)


@pytest.mark.parametrize(("sigmas", "q", "steps", "delta", "rdp", "prv", "pld"), GOLDEN)
def test_epsilons_equal_the_golden_table(sigmas, q, steps, delta, rdp, prv, pld):
    history = [Entry(effective_noise_multiplier(*sigmas), q, steps)]
    assert epsilon_rdp(history, delta) == pytest.approx(rdp, rel=1e-9)
    bound = epsilon_upper(history, delta)
    if q == 1:  # The full batch is a Gaussian mechanism, and its epsilon known exactly.
        assert bound.accountant == "analytic"
        assert pld - 1e-6 < bound.epsilon < pld < prv
        return
    assert bound.accountant == "prv"
    assert bound.epsilon == pytest.approx(prv, abs=2e-6)
    # A tight upper bound of what an independent composition gives: 0.01 is its own margin.
    assert 0.009 < bound.epsilon - pld < 0.0113


@pytest.mark.parametrize(("records", "rounds", "sigma", "rdp", "prv", "pld"), FEDERATED)
def test_per_client_epsilons_equal_the_golden_table(records, rounds, sigma, rdp, prv, pld):
    history = [Entry(sigma, 32 / records, 10)] * rounds
    assert epsilon_rdp(history, 1e-5) == pytest.approx(rdp, abs=5e-5)
    bound = epsilon_upper(history, 1e-5).epsilon
    assert bound == pytest.approx(prv, abs=6e-5)
    assert 0.009 < bound - pld < 0.0113


def test_a_history_of_two_noise_multipliers_equals_the_golden_one():
    history = [Entry(1.0, 0.032, 100), Entry(1.5, 0.032, 100)]
    assert epsilon_rdp(history, 1e-5) == pytest.approx(2.8733, abs=5e-5)
    assert epsilon_upper(history, 1e-5).epsilon == pytest.approx(2.4546, abs=6e-5)


@pytest.mark.parametrize(
    ("sigmas", "q", "at_2_4_8_16_32"),
    [
        (
            (1.0,),
            0.01,
            (1.718134221e-4, 3.631540489e-4, 8.936439076e-4, 3.087850784, 11.24627594),
        ),
        (
            (1.2, 2.0),
            0.01,
            (1.571260985e-4, 3.29942354e-4, 7.635273302e-4, 2.643448412, 10.35738705),
        ),
        (
            (1.5, 1.5),
            64 / 1437,
            (2.837279945e-3, 6.893456824e-3, 0.1409939331, 3.79228973, 11.01042372),
        ),
    ],
)
def test_one_step_equals_golden_values_and_the_binomial_sum(sigmas, q, at_2_4_8_16_32):
    sigma = effective_noise_multiplier(*sigmas)
    curve = rdp_of_one_step(sigma, q)
    for order, golden in zip((2, 4, 8, 16, 32), at_2_4_8_16_32, strict=True):
        value = curve[ORDERS.index(order)]
        assert value == pytest.approx(golden, rel=1e-9)
        terms = [
            math.comb(order, j)
            * (1 - q) ** (order - j)
            * q**j
            * math.exp(j * (j - 1) / 2 / sigma**2)
            for j in range(order + 1)
        ]
        assert value == pytest.approx(math.log(math.fsum(terms)) / (order - 1), rel=1e-9)


def test_an_independent_implementation_gives_the_same_epsilons():
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    orders = [order for order in ORDERS if order >= 2 and float(order).is_integer()]
    for sigmas, q, steps, delta, *_ in GOLDEN:
        sigma = effective_noise_multiplier(*sigmas)
        # The several Gaussians of one sample as they are, not their effective multiplier.
        events = [accounting.GaussianDpEvent(each) for each in sigmas]
        inner = events[0] if len(events) == 1 else accounting.ComposedDpEvent(events)
        rdp = RdpAccountant(orders=orders)
        rdp.compose(accounting.PoissonSampledDpEvent(q, inner), steps)
        curve = rdp_of_one_step(sigma, q) * steps
        theirs, _ = rdp.get_epsilon_and_optimal_order(delta)
        ours = min(
            curve[ORDERS.index(order)]
            - math.log(delta * order) / (order - 1)
            + math.log1p(-1 / order)
            for order in orders
        )
        assert ours == pytest.approx(theirs, rel=1e-9)

        pld = PLDAccountant(value_discretization_interval=1e-4)
        pld.compose(accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(sigma)), steps)
        bound = epsilon_upper([Entry(sigma, q, steps)], delta).epsilon
        apart = bound - pld.get_epsilon(delta)
        assert -1e-6 < apart < 0 if q == 1 else 0.009 < apart < 0.0113


def exact_epsilon_of_one_step(sigma, q, delta):
    """Poisson subsampling of one Gaussian, both directions, by their privacy profiles."""
    from scipy.optimize import brentq

    def excess(epsilon):
        removed = q * gaussian_delta(math.log((math.exp(epsilon) - 1 + q) / q), 1 / sigma)
        rest = 1 - math.exp(epsilon) * (1 - q)
        added = 0.0
        if rest > 0:
            added = rest * gaussian_delta(math.log(math.exp(epsilon) * q / rest), 1 / sigma)
        return max(removed, added) - delta

    return brentq(excess, 1e-12, 60.0) if excess(1e-12) > 0 else 0.0


@pytest.mark.parametrize("sigma", [0.5, 3.0])
@pytest.mark.parametrize("q", [0.01, 0.2, 0.9])
def test_one_step_is_bounded_from_above_and_not_by_much(sigma, q):
    exact = exact_epsilon_of_one_step(sigma, q, 1e-5)
    bound = epsilon_upper([Entry(sigma, q, 1)], 1e-5)
    assert exact <= bound.epsilon <= epsilon_rdp([Entry(sigma, q, 1)], 1e-5)
    assert bound.epsilon <= exact + 0.0113


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (4.0, 10), (5.0, 20), (10.0, 100)])
def test_a_full_batch_is_the_gaussian_mechanism(sigma, steps):
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5)
    history = [Entry(sigma, 1.0, steps)]
    bound = epsilon_upper(history, 1e-5)
    assert bound == Bound(pytest.approx(exact, rel=1e-12), "analytic")
    assert exact < epsilon_rdp(history, 1e-5) < 1.1 * exact
    # Releases compose by their 1 / sigma^2, and one that is sampled makes the others inexact.
    halves = [Entry(sigma * math.sqrt(2), 1.0, 2 * steps - 1), Entry(sigma * math.sqrt(2), 1.0, 1)]
    assert epsilon_upper(halves, 1e-5).epsilon == pytest.approx(exact, rel=1e-9)
    assert epsilon_upper([*history, Entry(9.0, 0.1, 1)], 1e-5).accountant == "prv"


@pytest.mark.parametrize(
    ("sigma", "epsilon"), [(5.894, 0.5), (3.186, 1.0), (1.734, 2.0), (0.959, 4.0), (0.543, 8.0)]
)
def test_one_gaussian_release_has_the_published_epsilons(sigma, epsilon):
    """Balle & Wang (2018), at delta 1e-4; the profile is that of the normal distribution itself."""
    bound = epsilon_upper([Entry(sigma, 1.0, 1)], 1e-4)
    assert bound.epsilon == pytest.approx(epsilon, rel=5e-4)
    profile = math.exp(bound.epsilon)
    delta = normal(0.5 / sigma - bound.epsilon * sigma) - profile * normal(
        -0.5 / sigma - bound.epsilon * sigma
    )
    assert delta == pytest.approx(1e-4, rel=1e-6)


def normal(value):
    return math.erfc(-value / math.sqrt(2)) / 2


def test_the_exact_epsilon_is_had_at_any_noise_and_delta():
    assert epsilon_upper([Entry(1e-3, 1.0, 1)], 1e-5).epsilon == pytest.approx(504_264, rel=1e-5)
    assert epsilon_upper([Entry(1.0, 1.0, 1)], 1e-100).epsilon == pytest.approx(21.6275, rel=1e-5)
    assert 0 < epsilon_upper([Entry(1e4, 1.0, 1)], 1e-5).epsilon < 1e-4


def test_client_level_epsilons_equal_golden_values():
    for z, rounds, golden in ((1, 1, 4.7285), (4, 10, 3.6171), (10, 100, 4.7285)):
        assert epsilon_rdp([Entry(z, 1.0, rounds)], 1e-5) == pytest.approx(golden, abs=5e-5)


def test_the_published_epsilons_come_from_these_multipliers():
    golden = {0.5: 13.66, 0.55: 9.30, 0.6: 6.67, 0.65: 5.02, 0.7: 3.945, 0.75: 3.21, 0.8: 2.696}
    for sigma, epsilon in golden.items():
        assert paper_epsilon(sigma) == pytest.approx(epsilon, abs=5e-3)
    assert paper_epsilon(0.593) == pytest.approx(6.97, abs=5e-3)
    assert paper_epsilon(effective_noise_multiplier(0.593, 3.076)) == pytest.approx(7.46, abs=5e-3)
    bound = epsilon_upper([Entry(0.593, PAPER_RATE, PAPER_STEPS)], PAPER_DELTA)
    assert bound.epsilon == pytest.approx(6.118, abs=1e-3)


def test_the_published_filter_costs_what_the_analysis_found():
    # Noise of the shared draw when 100, 70, 50, 30 and 10 % of the records are kept.
    golden = {1.0: 6.97, 0.7: 30.3, 0.5: 133.6, 0.3: 1056, 0.1: 3.2e6}
    for kept, epsilon in golden.items():
        assert paper_epsilon(0.593 * kept) == pytest.approx(epsilon, rel=0.02)
    # Independent draws: the noise of a mean over 64.
    assert paper_epsilon(0.593 / 8) == pytest.approx(1.07e6, rel=0.01)
    # All 64 cosines move, not one.
    for tau, epsilon in ((3.076, 91.3), (0.780, 8.7e4)):
        sigma = effective_noise_multiplier(0.593, tau / 8)
        assert paper_epsilon(sigma) == pytest.approx(epsilon, rel=0.01)


def test_gaussians_of_one_sample_are_never_amplified_separately():
    # The wrong sums, pinned, and the right values above them.
    separately = [Entry(1.2, 0.01, 1000), Entry(2.0, 0.01, 1000)]
    together = [Entry(effective_noise_multiplier(1.2, 2.0), 0.01, 1000)]
    assert epsilon_rdp(separately, 1e-5) == pytest.approx(1.6135, abs=5e-5)
    assert epsilon_rdp(together, 1e-5) == pytest.approx(1.9713, abs=5e-5)
    assert 0.009 < epsilon_upper(separately, 1e-5).epsilon - 1.460 < 0.012
    assert 0.009 < epsilon_upper(together, 1e-5).epsilon - 1.724 < 0.012
    # The paper's 7.46 with tau = 0.780 is such a sum; composed, it is 17.35.
    assert paper_epsilon(0.593, 0.780) == pytest.approx(7.46, abs=5e-3)
    composed = paper_epsilon(effective_noise_multiplier(0.593, 0.780))
    assert composed == pytest.approx(17.35, abs=0.02)


rates = st.sampled_from([0.004, 0.05, 0.2, 1.0])
multipliers = st.sampled_from([0.6, 1.0, 1.7, 4.0])
entries = st.builds(Entry, multipliers, rates, st.integers(0, 500))
histories = st.lists(entries, max_size=5)
deltas = st.sampled_from([1e-6, 1e-5, 1e-3])


@given(multipliers, rates, st.integers(1, 500), st.integers(1, 500), deltas)
def test_epsilon_grows_with_steps(sigma, q, steps, more, delta):
    fewer = epsilon_rdp([Entry(sigma, q, steps)], delta)
    assert 0 <= fewer <= epsilon_rdp([Entry(sigma, q, steps + more)], delta)


@given(multipliers, rates, rates, st.integers(1, 500), deltas)
def test_epsilon_grows_with_the_sampling_rate(sigma, one, other, steps, delta):
    low, high = sorted((one, other))
    assert epsilon_rdp([Entry(sigma, low, steps)], delta) <= epsilon_rdp(
        [Entry(sigma, high, steps)], delta
    )


@given(multipliers, multipliers, rates, st.integers(1, 500), deltas)
def test_epsilon_falls_with_noise(one, other, q, steps, delta):
    low, high = sorted((one, other))
    assert epsilon_rdp([Entry(high, q, steps)], delta) <= epsilon_rdp([Entry(low, q, steps)], delta)


@given(histories, deltas)
def test_epsilon_falls_with_delta_and_every_release_costs(history, delta):
    epsilon = epsilon_rdp(history, delta)
    assert epsilon_rdp(history, delta / 10) >= epsilon
    assert epsilon_rdp([*history, Entry(1.0, 0.05, 10)], delta) >= epsilon


@given(histories, st.randoms(use_true_random=False), deltas)
def test_order_and_splitting_change_nothing_to_the_last_digit(history, random, delta):
    pieces = []
    for entry in history:
        first = random.randint(0, entry.steps)
        for steps in (first, entry.steps - first):
            pieces.append(Entry(entry.noise_multiplier, entry.sample_rate, steps))
    random.shuffle(pieces)
    assert merge(pieces) == merge(history)
    assert epsilon_rdp(pieces, delta) == epsilon_rdp(history, delta)


@given(histories, histories)
def test_a_history_that_went_through_json_costs_the_same_to_the_last_digit(before, after):
    restored = from_state(json.loads(json.dumps(to_state(before), allow_nan=False)))
    assert epsilon_rdp([*restored, *after], 1e-5) == epsilon_rdp([*before, *after], 1e-5)


def test_a_state_shares_nothing_with_its_history():
    history = from_state([[1.0, 0.1, 5]])
    state = to_state(history)
    state[0][2] = 50
    assert to_state(history) == [[1.0, 0.1, 5]]
    assert from_state([]) == ()
    with pytest.raises(ValueError, match="read-only"):
        rdp_of_one_step(1.0, 0.1)[0] = 0.0


def test_no_release_costs_nothing_and_no_noise_has_no_epsilon():
    for history in ([], [Entry(1.0, 0.1, 0)], [Entry(0.0, 0.1, 0)]):
        assert epsilon_rdp(history, 1e-5) == 0.0
        assert epsilon_upper(history, 1e-5).epsilon == 0.0
    for history in ([Entry(0.0, 0.1, 1)], [Entry(1.0, 0.1, 9), Entry(0.0, 1.0, 1)]):
        assert epsilon_rdp(history, 1e-5) is None
        assert epsilon_upper(history, 1e-5).epsilon is None
    assert would_exceed([], [Entry(0.0, 0.1, 1)], 1e-5, math.inf)


def test_the_upper_bound_falls_back_to_rdp():
    # Beyond any meaning, and where the margin of the numerical composition is the larger part.
    for history in ([Entry(0.3, 0.1, 1000)], [Entry(20.0, 0.01, 10)]):
        bound = epsilon_upper(history, 1e-5)
        assert bound.accountant == "rdp"
        assert bound.epsilon == epsilon_rdp(history, 1e-5)
    # Opacus' orders alone would say 0.103; the numerical estimate is 0.0039.
    assert 0.0039 < epsilon_rdp([Entry(20.0, 0.01, 10)], 1e-5) < 0.0139


def test_a_budget_is_held_against_the_bound_that_is_claimed():
    history = [Entry(1.0, 0.01, 1000)]  # RDP 2.10, PRV 1.84
    assert not would_exceed([], history, 1e-5, 1.85)
    assert not would_exceed(history, [], 1e-5, 1.85)
    assert would_exceed([], history, 1e-5, 1.83)
    assert would_exceed(history, [Entry(1.0, 0.01, 100)], 1e-5, 1.85)


@given(histories, deltas)
def test_few_orders_show_a_little_less_and_never_too_little(history, delta):
    whole, rough = epsilon_rdp(history, delta), epsilon_rdp(history, delta, FEW_ORDERS)
    assert whole <= rough * (1 + 1e-12)


def test_the_largest_bound_is_that_of_the_history_that_costs_most():
    clients = [[Entry(1.0, 0.05, 100)], [Entry(1.0, 0.05, 200)], [Entry(2.0, 0.1, 50)]]
    bounds = [epsilon_upper(client, 1e-5) for client in clients]
    assert largest_upper(clients, 1e-5) == max(bounds, key=lambda bound: bound.epsilon)
    assert largest_rdp(clients, 1e-5) == largest(epsilon_rdp(c, 1e-5) for c in clients)
    assert largest_rdp([], 1e-5) == 0.0
    assert largest_rdp([*clients, [Entry(0.0, 0.05, 1)]], 1e-5) is None
    assert largest_upper([], 1e-5).epsilon == 0.0
    assert largest_upper([*clients, [Entry(0.0, 0.05, 1)]], 1e-5).epsilon is None


def test_the_largest_epsilon_counts_and_shared_patients_pay_everywhere():
    assert largest([0.5, 2.0, 1.0]) == 2.0
    assert largest([0.5, None]) is None
    assert largest([]) == 0.0
    clients = [[Entry(1.0, 0.05, 100)], [Entry(1.0, 0.05, 200)], [Entry(2.0, 0.1, 50)]]
    assert joint(clients) == (Entry(1.0, 0.05, 300), Entry(2.0, 0.1, 50))
    everywhere = epsilon_rdp(joint(clients), 1e-5)
    alone = [epsilon_rdp(client, 1e-5) for client in clients]
    assert largest(alone) < everywhere <= sum(alone)
    assert set(ADJACENCY) == {"record", "patient", "client"}


@given(st.floats(0.1, 50), st.floats(0.2, 5))
def test_two_releases_of_a_split_cost_one_release_and_never_more(effective, ratio):
    sigma, reference = split_noise_multiplier(effective, ratio)
    assert reference / sigma == pytest.approx(ratio)
    assert effective <= effective_noise_multiplier(sigma, reference)
    assert effective_noise_multiplier(sigma, reference) == pytest.approx(effective, rel=1e-12)
    assert effective_noise_multiplier(effective) == effective
    assert effective_noise_multiplier(sigma, 0.0) == 0.0


def test_delta_must_be_below_one_over_n_of_the_largest_client():
    require_delta(1e-4, [2000, 9999])
    # Right for the small client, and the large one could publish a record.
    with pytest.raises(ValueError, match=r"client 1 holds 9999 records.*below 0\.00010001"):
        require_delta(2e-4, [2000, 9999, 300])
    with pytest.raises(ValueError, match="1/n"):
        require_delta(1 / 80, [20, 80])
    with pytest.raises(ValueError, match="there are 40 patients or lesions"):
        require_delta(0.1, [40], "patient")
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            require_delta(delta, [10])
        with pytest.raises(ValueError, match="between 0 and 1"):
            epsilon_rdp([Entry(1.0, 0.1, 1)], delta)


@pytest.mark.parametrize(
    "wrong",
    [
        (-1.0, 0.1, 1),
        (math.inf, 0.1, 1),
        (math.nan, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.1, 1),
        (1.0, math.nan, 1),
        (1.0, 0.1, -1),
        (1.0, 0.1, 1.5),
    ],
)
def test_entries_refuse_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match="must be"):
        Entry(*wrong)


def test_epsilons_are_plain_floats():
    history = [Entry(np.float64(1.0), np.float64(0.1), np.int64(10))]
    assert type(epsilon_rdp(history, 1e-5)) is float
    assert type(epsilon_upper(history, 1e-5).epsilon) is float
    assert json.dumps(to_state(history)) == "[[1.0, 0.1, 10]]"
