"""What a private run will release, decided from the scenario and the number of units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import InputError
from fedsim.ledger.privacy import PrivacyLedger, describe
from fedsim.privacy.accounting import Entry, epsilon_rdp, epsilon_upper
from fedsim.privacy.mechanisms import AlternatingReference, PrivateReference
from fedsim.privacy.paper import PaperUnsound
from fedsim.privacy.plan import PrivacyPlan, plan_client_privacy, plan_privacy
from fedsim.scenario.schema import Filter, Privacy


def plan(rounds: int = 20, units: dict[str, int] | None = None, **keys: object) -> PrivacyPlan:
    block = Privacy(**{"noise_multiplier": 1.0, "expected_batch": 32, "delta": 1e-5} | keys)
    return plan_privacy(block, rounds, units or {"a": 1000}, lambda units, batch: 10)


@pytest.mark.parametrize(
    ("units", "rounds", "sigma", "golden"),
    [(320, 20, 1.5, 5.5491), (1000, 20, 1.0, 3.4456), (1000, 7, 1.0, 2.4216)],
)
def test_epsilons_of_federated_clients_are_the_golden_ones(
    units: int, rounds: int, sigma: float, golden: float
) -> None:
    found = plan(rounds, {"a": units}, noise_multiplier=sigma).epsilon()
    assert found == pytest.approx(golden, abs=6e-5)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.integers(20, 5000), min_size=1, max_size=4),
    st.floats(0.3, 10.0),
    st.integers(1, 30),
)
def test_a_target_holds_for_every_client_and_is_nearly_used_up(
    sizes: list[int], target: float, rounds: int
) -> None:
    units = {f"site-{i}": n for i, n in enumerate(sizes)}
    made = plan(rounds, units, noise_multiplier=None, target_epsilon=target)
    largest = made.bound().epsilon
    assert largest is not None
    assert 0.99 * target <= largest <= target
    for client in made.clients.values():
        entry = Entry(client.entry.noise_multiplier, client.sample_rate, 10 * rounds)
        assert epsilon_upper([entry], 1e-5).epsilon <= target  # type: ignore[operator]


def test_the_most_expensive_client_is_the_smallest_one() -> None:
    made = plan(units={"small": 100, "large": 1000}, noise_multiplier=None, target_epsilon=2.0)
    ledger = PrivacyLedger(made)
    for number in range(20):
        ledger.charge(number, [0, 1])
    spent = ledger.row([0, 1])
    assert spent["epsilon"] == spent["epsilon_by_client"]["0"] > spent["epsilon_by_client"]["1"]


def test_patients_at_several_sites_pay_for_all_sites() -> None:
    units = {"a": 1000, "b": 1000}
    apart = plan(units=units, unit="patient").epsilon()
    shared = plan(units=units, unit="patient", shared_patients=True)
    ledger = PrivacyLedger(shared)
    for number in range(20):
        ledger.charge(number, [0, 1])
    both = epsilon_rdp([Entry(1.0, 0.032, 400)], 1e-5)
    assert shared.epsilon() == both == ledger.row([0, 1])["epsilon"] > apart  # type: ignore[operator]


def test_delta_is_below_one_over_n_of_the_largest_client_or_of_all_patients() -> None:
    assert plan(units={"a": 90, "b": 900}, delta=1e-3)
    with pytest.raises(InputError, match="client 1 holds 1000 records") as caught:
        plan(units={"a": 90, "b": 1000}, delta=1e-3)
    assert caught.value.hint == "type privacy.delta=1e-4"
    assert plan(units={"a": 90, "b": 1000}, delta=1e-4)
    # Patients at several sites are one crowd: each site alone has fewer than 1/delta.
    shared = {"units": {"a": 600, "b": 600}, "unit": "patient", "delta": 1e-3}
    assert plan(**shared)  # type: ignore[arg-type]
    block = Privacy(noise_multiplier=1.0, unit="patient", delta=1e-3, shared_patients=True)
    steps = lambda units, batch: 10  # noqa: E731
    with pytest.raises(InputError, match="there are 1100 patients or lesions"):
        plan_privacy(block, 1, shared["units"], steps, together=1100)  # type: ignore[arg-type]
    assert plan_privacy(block, 1, shared["units"], steps, together=900)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are 4 clients"):
        plan_client_privacy(
            Privacy(noise_multiplier=1.0, unit="client", delta=0.25), 1, list("abcd")
        )


def test_a_run_that_meets_its_target_is_within_a_budget_of_as_much() -> None:
    made = plan(noise_multiplier=None, target_epsilon=3.0, max_epsilon=3.0)
    ledger = PrivacyLedger(made)
    shown = []
    for number in range(20):
        assert ledger.exhausted([0]) == []
        ledger.charge(number, [0])
        row = ledger.row([0])
        assert row["epsilon_upper"] <= row["epsilon"]
        shown.append(row["epsilon_upper"])
    assert shown == sorted(shown)
    assert shown[-1] <= 3.0
    assert row["epsilon"] > 3.0  # RDP shows less than what holds
    assert row["epsilon_upper"] == ledger.summary()["epsilon"] == made.bound().epsilon
    assert ledger.exhausted([0]) == [0]


def test_a_rule_without_proof_plans_no_epsilon() -> None:
    paper = Filter(reference="paper_unsound")
    told = describe(plan(noise_multiplier=None, target_epsilon=3.0, filter=paper))
    assert told["epsilon_planned"] is None
    assert told["epsilon_planned_rdp"] is None
    assert told["epsilon_claimed_planned"] == pytest.approx(3.0, rel=1e-3)
    proved = describe(plan(noise_multiplier=None, target_epsilon=3.0))
    assert proved["epsilon_planned"] == pytest.approx(3.0, rel=1e-3)
    assert proved["epsilon_planned"] < proved["epsilon_planned_rdp"]
    assert proved["epsilon_claimed_planned"] is None


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("private", PrivateReference),
        ("alternating", AlternatingReference),
        ("paper_unsound", PaperUnsound),
    ],
)
def test_a_filter_is_planned_at_what_it_costs(reference: str, kind: type) -> None:
    made = plan(noise_multiplier=None, target_epsilon=3.0, filter=Filter(reference=reference))
    mechanism = made.clients["a"].mechanism
    assert isinstance(mechanism, kind)
    assert made.bound().epsilon == pytest.approx(3.0, rel=1e-3)
    assert made.certified is (reference != "paper_unsound")
    plain = plan(noise_multiplier=None, target_epsilon=3.0).noise_multiplier
    assert mechanism.accounted_noise_multiplier == pytest.approx(plain, rel=1e-5)
    if reference == "private":
        assert made.noise_multiplier == pytest.approx(plain * math.sqrt(2), rel=1e-5)


def test_a_client_smaller_than_the_batch_samples_all() -> None:
    made = plan(units={"a": 20, "b": 2000})
    assert made.clients["a"].sample_rate == 1.0
    assert made.clients["a"].mechanism.expected_batch == 20
    assert made.clients["b"].mechanism.expected_batch == 32


def test_clients_as_units_are_not_amplified() -> None:
    block = Privacy(noise_multiplier=4.0, unit="client", delta=1e-5)
    made = plan_client_privacy(block, 10, ["a", "b", "c"])
    assert made.epsilon() == pytest.approx(3.6171, abs=6e-5)  # golden: (z, T) = (4, 10)


def test_noise_zero_has_no_epsilon_and_passes_no_budget() -> None:
    assert plan(noise_multiplier=0.0).epsilon() is None
    with pytest.raises(InputError, match="no finite epsilon"):
        plan(noise_multiplier=0.0, max_epsilon=100.0)


def test_a_ledger_taken_up_again_shows_the_same_digits() -> None:
    made = plan(units={"a": 500, "b": 900})
    straight, broken = PrivacyLedger(made), PrivacyLedger(made)
    for number in range(5):
        straight.charge(number, [0, 1])
    broken.charge(0, [0, 1])
    broken.charge(1, [0, 1])
    again = PrivacyLedger(made)
    again.load_state_dict(broken.state_dict())
    for number in range(2, 5):
        again.charge(number, [0, 1])
    assert again.row([0, 1]) == straight.row([0, 1])
    assert again.summary() == straight.summary()


def test_the_ledger_holds_those_who_released_something() -> None:
    made = plan(units={f"site-{k}": 100 for k in range(1000)})
    ledger = PrivacyLedger(made)
    ledger.charge(1, [3, 7])
    state = ledger.state_dict()
    assert set(state) == {"site-3", "site-7"}
    row = ledger.row([3, 5])
    assert row["epsilon_by_client"] == {"3": row["epsilon"], "5": 0.0}
    again = PrivacyLedger(made)
    again.load_state_dict({f"site-{k}": [] for k in range(1000)} | state)  # of an older fedsim
    assert again.state_dict() == state
    assert again.row([3, 5]) == row


def test_the_summary_names_the_accountant_of_the_best_bound() -> None:
    made = plan(units={"a": 1000, "b": 4000})
    ledger = PrivacyLedger(made)
    for number in range(20):
        ledger.charge(number, [0, 1])
    found = ledger.summary()
    assert found["accountant"] == "prv"
    assert found["epsilon"] == pytest.approx(3.0081, abs=6e-5)  # golden
    assert found["epsilon_rdp"] == pytest.approx(3.4456, abs=6e-5)
