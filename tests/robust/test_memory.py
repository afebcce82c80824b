"""How much memory rules take beside what clients sent: changes are not all made at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.method.received import Received, flat
from fedsim.robust import RULES, CentredClipping, NormClipping, Rule

CLIENTS = 16
SHAPES = {"a": (600, 1000), "b": (200_000,), "c": (7,)}


def model(seed: int, transposed: bool = False) -> dict[str, NDArray[np.float32]]:
    draws = np.random.default_rng(seed)
    found = {name: draws.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {n: np.asfortranarray(v) for n, v in found.items()} if transposed else found


@pytest.fixture(scope="module")
def replies() -> list[Received]:
    # One has its arrays in another order in memory.
    return [Received(1.0, model(client, client == 3)) for client in range(1, CLIENTS + 1)]


@pytest.mark.parametrize("name", RULES)
def test_no_rule_holds_a_float64_copy_of_every_client(name: str, replies: list[Received]) -> None:
    rule = RULES[name]()
    sent, rows = model(0), [one.arrays for one in replies]
    tracemalloc.start()
    try:
        given = [one.changes(sent) for one in replies] if rule.of_changes else rows
        rule.combine(given, np.ones(CLIENTS))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one = 8 * sum(value.size for value in rows[0].values())
    # A block of all clients in several forms, and a few models such as the result.
    assert peak < 8 * one < CLIENTS * one


@pytest.mark.parametrize("rule", [NormClipping(radius=3.0), CentredClipping(3.0, iterations=2)])
def test_changes_made_when_asked_for_give_the_same_bits(
    rule: Rule, replies: list[Received]
) -> None:
    sent, weights = model(0), np.arange(1.0, CLIENTS + 1)
    later = rule.combine([one.changes(sent) for one in replies], weights)
    shares = rule.shares
    if isinstance(rule, CentredClipping):
        rule.centre = {}
    at_once = rule.combine([one.change(sent) for one in replies], weights)
    assert all(later[name].tobytes() == at_once[name].tobytes() for name in SHAPES)
    assert np.array_equal(rule.shares, shares)
    assert 0 < shares.sum() < 1, "some are shortened"


def test_changes_of_what_was_encoded_are_as_they_came() -> None:
    base = model(0)
    one = Received(1.0, model(1) | {"counts": np.arange(3)}, base)
    found = one.changes(base)
    assert list(found) == list(SHAPES)
    assert len(found) == 3
    assert found["a"].dtype == np.float64
    assert np.array_equal(found["a"], one.arrays["a"])
    part = flat(found, "a")
    assert part.size == 600_000
    assert np.array_equal(part[5:9], found["a"].reshape(-1)[5:9])
