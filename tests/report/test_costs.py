"""Megabytes until a score is reached, and seconds on a link."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.report.costs import Link, megabytes_to_reach, wire_seconds


def message(round: int, client: int, direction: str, size: int) -> dict[str, Any]:
    return {"round": round, "client": client, "direction": direction, "bytes": size, "fields": {}}


def test_a_round_takes_its_slowest_clients_messages_and_rounds_follow_each_other() -> None:
    traffic = [
        message(1, 0, "down", 1_000_000),
        message(1, 1, "down", 1_000_000),
        message(1, 0, "up", 250_000),
        message(1, 1, "up", 3_000_000),
        message(2, 0, "down", 500_000),
        message(2, 0, "up", 500_000),
    ]
    # Client 1 in round 1: 4 MB = 32 Mbit at 10 Mbit/s, and two messages; then 8 Mbit and two more.
    assert wire_seconds(traffic, Link(10, 50)) == pytest.approx(3.2 + 0.1 + 0.8 + 0.1)
    assert wire_seconds(traffic, Link(10)) == pytest.approx(4.0)
    assert wire_seconds([], Link(10, 50)) == 0


traffics = st.lists(
    st.builds(
        message,
        st.integers(1, 3),
        st.integers(0, 3),
        st.sampled_from(["up", "down"]),
        st.integers(0, 10**9),
    ),
    max_size=30,
)


@given(traffics, st.randoms(use_true_random=False))
def test_the_order_of_messages_does_not_matter(traffic: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(traffic)
    random.shuffle(shuffled)
    link = Link(8, 20)
    assert wire_seconds(shuffled, link) == pytest.approx(wire_seconds(traffic, link))


@given(traffics)
def test_time_is_between_that_of_parallel_and_of_sequential_transfers(
    traffic: list[dict[str, Any]],
) -> None:
    link = Link(8, 20)
    one_by_one = sum(link.seconds(line["bytes"]) for line in traffic)
    clients = max(1, len({line["client"] for line in traffic}))
    spent = wire_seconds(traffic, link)
    assert one_by_one / clients - 1e-6 <= spent <= one_by_one + 1e-6


def line(number: int, **metrics: float | None) -> dict[str, Any]:
    return {
        "round": number,
        "mb_up_total": 1.5 * number,
        "mb_down_total": 2.0 * number,
        "metrics": metrics,
    }


def test_megabytes_are_both_ways_until_the_score_was_first_reached() -> None:
    rounds = [line(1, auc=0.6), line(2, train_loss=0.1), line(3, auc=0.75), line(4, auc=0.7)]
    assert megabytes_to_reach(rounds, "auc", 0.75) == 10.5
    assert megabytes_to_reach(rounds, "auc", 0.5) == 3.5
    assert megabytes_to_reach(rounds, "auc", 0.751) is None


def test_a_score_that_is_not_defined_is_not_reached() -> None:
    assert megabytes_to_reach([line(1, auc=None), line(2)], "auc", 0.1) is None
