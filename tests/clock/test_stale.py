"""What replies to older models count, and where they take the current one."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.clock import moved, weight
from fedsim.scenario.schema import Staleness


@pytest.mark.parametrize(
    ("staleness", "weights"),
    [
        (Staleness(name="constant"), {0: 1, 9: 1}),
        (Staleness(), {0: 1, 3: 0.5, 8: 1 / 3}),
        (Staleness(name="polynomial", a=1.0), {0: 1, 1: 0.5, 3: 0.25}),
        (Staleness(name="hinge"), {0: 1, 4: 1, 5: 1 / 11, 6: 1 / 21}),
        (Staleness(name="hinge", a=1.0, b=0), {0: 1, 1: 0.5}),
    ],
)
def test_weights_are_the_papers(staleness: Staleness, weights: dict[int, float]) -> None:
    assert {tau: weight(staleness, tau) for tau in weights} == pytest.approx(weights)


def test_a_change_is_added_to_the_current_model_and_models_are_mixed() -> None:
    sent = {"w": np.array([3.0], np.float32), "n": np.array([7])}
    now = {"w": np.array([10.0], np.float32), "n": np.array([1])}
    changed = moved(sent, now, {"w": np.array([1.0], np.float32)}, 0.5)
    assert changed["w"] == np.float32(11)
    assert changed["w"].dtype == np.float32
    assert changed["n"] is sent["n"]
    assert moved(sent, now, {}, 0.25)["w"] == np.float32(8.25)


def test_a_reply_to_the_current_model_keeps_its_bits() -> None:
    values = {"w": np.random.default_rng(0).normal(size=99).astype(np.float32)}
    now = {"w": np.random.default_rng(1).normal(size=99).astype(np.float32)}
    assert moved(values, now, {}, 1.0)["w"] is values["w"]
    mask = {"w": np.array([-np.inf, 0.0])}
    assert np.array_equal(moved(mask, {"w": mask["w"].copy()}, {}, 0.3)["w"], mask["w"])
