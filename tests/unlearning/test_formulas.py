"""Golden numbers of the formulas: a federation with one weight, and quadratic losses.

Client i has the loss (theta - c_i)^2 / 2 and takes K steps of gradient descent at rate 0.1, so it
sends c_i + (theta - c_i) 0.9^K. Client 1 leaves.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.method import Arrays
from fedsim.unlearning import (
    Accumulated,
    Contributions,
    FirstAndNorms,
    LastModels,
    Memory,
    Observed,
    Sensitivities,
    ball_radius,
    calibrated,
    distance,
    last_checkpoint,
    moved,
    project,
    sensitivity,
    sensitivity_by_coordinate,
    weighted_mean,
    without,
)
from fedsim.unlearning.formulas import Norms, lengths

CENTRES = (1.0, 5.0, 2.0, 3.0)
PLANE = ((1.0, 0.0), (5.0, 5.0), (0.0, 2.0), (3.0, 1.0))
LEAVER = 1
EQUAL = dict.fromkeys(range(4), 1.0)


def one(value: object) -> Arrays:
    return {"w": np.atleast_1d(np.asarray(value, np.float64))}


def local(model: Arrays, centre: object, steps: int = 5) -> Arrays:
    return one(np.asarray(centre) + (model["w"] - np.asarray(centre)) * 0.9**steps)


def train(
    centres: tuple[object, ...], rounds: int, start: Arrays, memories: tuple[Memory, ...] = ()
) -> list[Arrays]:
    """The models of federated averaging, the first included; memories are told of each round."""
    found = [start]
    for number in range(rounds):
        sent = found[-1]
        models = {k: local(sent, centre) for k, centre in enumerate(centres)}
        after = weighted_mean(models, EQUAL)
        for memory in memories:
            weights = {k: EQUAL[k] for k in models}
            memory.observe(Observed(number + 1, sent, models, weights, after))
        found.append(after)
    return found


def others(centres: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(centre for k, centre in enumerate(centres) if k != LEAVER)


def values(models: list[Arrays]) -> list[float]:
    return [float(model["w"][0]) for model in models]


def test_training_scratch_and_fine_tuning() -> None:
    trained = train(CENTRES, 4, one(0.0))
    assert values(trained) == pytest.approx([0, 1.1261525, 1.79113429, 2.18379939, 2.4156642])
    scratch = train(others(CENTRES), 4, one(0.0))
    assert values(scratch) == pytest.approx([0, 0.81902, 1.30264312, 1.58821774, 1.75684669])
    tuned = train(others(CENTRES), 4, trained[-1])
    wanted = [2.4156642, 2.24544555, 2.14493314, 2.08558157, 2.05053506]
    assert values(tuned) == pytest.approx(wanted)


def test_fedaccum_adds_up_the_others_updates() -> None:
    found = []
    for rounds in (1, 2, 3, 4):
        memory = Accumulated([LEAVER], 4)
        train(CENTRES, rounds, one(0.0), (memory,))
        found.append(float(memory.sums[LEAVER]["w"][0]))
    assert found == pytest.approx([0.81902, 1.17686929, 1.26240189, 1.1871342])


def test_the_code_of_fedaccum_depends_on_the_last_round_alone() -> None:
    memory = LastModels([LEAVER], 4)
    last = train(CENTRES, 4, one(0.0), (memory,))[-1]
    found = weighted_mean(without(memory.last, LEAVER), memory.weights)
    assert values([found]) == pytest.approx([2.1085317])
    # theta_A = theta_T - p/(1-p) (theta_c - theta_T): what came before does not enter.
    leavers = memory.last[LEAVER]["w"][0] - last["w"][0]
    assert found["w"][0] == pytest.approx(last["w"][0] - leavers / 3)


def federaser(centres: tuple[object, ...], every: int, steps: int, by: Norms) -> list[Arrays]:
    """As the strategy does it, from what the memory holds."""
    rounds = 4 if centres is CENTRES else 3
    memory = FirstAndNorms([LEAVER], 4, by)
    start = one(np.zeros_like(np.asarray(centres[0])))
    train(centres, rounds, start, (memory,))
    first = weighted_mean(without(memory.first, LEAVER), memory.first_weights)
    found = [moved(start, first)]
    for index in range(every, rounds, every):
        sent = found[-1]
        updates = {
            k: one(local(sent, centre, steps)["w"] - sent["w"])
            for k, centre in enumerate(centres)
            if k != LEAVER
        }
        kept = memory.of_round(index + 1, LEAVER)
        found.append(calibrated(sent, updates, kept, EQUAL, by))
    return found


@pytest.mark.parametrize("steps", [2, 5])
def test_federaser_with_one_weight_depends_on_signs_alone(steps: int) -> None:
    found = values(federaser(CENTRES, 1, steps, "client"))
    assert found == pytest.approx([0.81902, 1.21130976, 1.29684236, 1.27175313])
    assert values(federaser(CENTRES, 2, steps, "client")) == pytest.approx([0.81902, 1.12053753])


@pytest.mark.parametrize(
    ("by", "first", "second"),
    [
        ("client", (0.83992612, 0.59430274), (0.98523804, 0.64155842)),
        ("layer", (0.83992612, 0.59430274), (0.98523804, 0.64155842)),  # There is one array.
        ("pooled", (0.69341687, 0.52006265), (0.80160387, 0.6012029)),
    ],
)
def test_federaser_in_the_plane(
    by: Norms, first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    found = federaser(PLANE, 1, 2, by)
    assert found[1]["w"] == pytest.approx(first)
    assert found[2]["w"] == pytest.approx(second)


@pytest.mark.parametrize(("every", "rounds"), [(1, 4), (2, 2)])
@pytest.mark.parametrize("by", ["client", "layer", "pooled"])
def test_federaser_whose_lengths_are_the_new_ones_is_scratch(
    every: int, rounds: int, by: Norms
) -> None:
    found = [one(0.0)]
    for _ in range(rounds):
        sent = found[-1]
        keep = [k for k in range(4) if k != LEAVER]
        updates = {k: one(local(sent, CENTRES[k])["w"] - sent["w"]) for k in keep}
        found.append(calibrated(sent, updates, lengths(updates, EQUAL, by), EQUAL, by))
    scratch = train(others(CENTRES), 4, one(0.0))
    assert values(found) == pytest.approx(values(scratch)[: rounds + 1])
    assert federaser(CENTRES, every, 5, by)[-1]["w"][0] != pytest.approx(scratch[rounds]["w"][0])


def test_layers_and_clients_differ_where_there_are_two_arrays() -> None:
    updates = {0: {"a": np.array([3.0]), "b": np.array([4.0])}}
    kept = {0: {"a": 10.0, "b": 10.0}}
    start = {"a": np.zeros(1), "b": np.zeros(1)}
    by_client = calibrated(start, updates, kept, EQUAL, "client")
    assert (by_client["a"][0], by_client["b"][0]) == pytest.approx((6.0, 8.0))
    by_layer = calibrated(start, updates, kept, EQUAL, "layer")
    assert (by_layer["a"][0], by_layer["b"][0]) == pytest.approx((10.0, 10.0))
    assert lengths(updates, EQUAL, "client") == {0: {"a": 5.0, "b": 5.0}}
    assert lengths(updates, EQUAL, "layer") == {0: {"a": 3.0, "b": 4.0}}


def test_an_update_of_zero_has_no_direction() -> None:
    found = calibrated(one(2.0), {0: one(0.0)}, {0: {"w": 3.0}}, EQUAL)
    assert found["w"][0] == 2.0
    with pytest.raises(ValueError, match="No client has both"):
        calibrated(one(2.0), {0: one(1.0)}, {1: {"w": 3.0}}, EQUAL)


def test_ukd_takes_off_updates_and_its_code_models() -> None:
    proper, code = Contributions([LEAVER], 4), Contributions([LEAVER], 4, "models")
    trained = train(CENTRES, 4, one(0.0), (proper, code))
    assert values([moved(trained[-1], proper.sums[LEAVER], -1)]) == pytest.approx([0.89035065])
    # The public code subtracts parameters: it is kept to show what that does.
    wrong = values([moved(trained[-1], code.sums[LEAVER], -1)])
    assert wrong == pytest.approx([-0.38492089])


def test_all_contributions_together_are_the_training() -> None:
    memory = Contributions(range(4), 4)
    trained = train(CENTRES, 4, one(0.5), (memory,))
    whole = sum(found["w"][0] for found in memory.sums.values())
    assert whole == pytest.approx(trained[-1]["w"][0] - trained[0]["w"][0])


def test_pga_has_two_forms_of_one_reference_and_a_ball() -> None:
    memory = LastModels([LEAVER], 4)
    last = train(CENTRES, 4, one(0.0), (memory,))[-1]
    mean = weighted_mean(without(memory.last, LEAVER), memory.weights)
    other = (4 * last["w"][0] - memory.last[LEAVER]["w"][0]) / 3
    assert (mean["w"][0], other) == pytest.approx((2.1085317, 2.1085317))
    found = project(one((4.0, 5.0)), one((1.0, 1.0)), 2.0)
    assert found["w"] == pytest.approx((2.2, 2.6))
    assert ball_radius(one((0.0, 0.0)), [one((3.0, 4.0)), one((0.0, 1.0))]) == pytest.approx(1.0)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    st.floats(0, 1e3),
)
def test_what_is_projected_is_in_the_ball(
    point: list[float], centre: list[float], radius: float
) -> None:
    found = project(one(point), one(centre), radius)
    assert distance(found, one(centre)) <= radius * (1 + 1e-12) + 1e-9
    if distance(one(point), one(centre)) <= radius:
        assert found["w"] == pytest.approx(point)


def test_ifu_counts_what_the_client_moved_and_not_what_the_text_says() -> None:
    memory = Sensitivities([LEAVER], 4, psi=0.9)
    trained = train(CENTRES, 4, one(0.0), (memory,))
    assert memory.terms[LEAVER] == pytest.approx([0.3071325] * 4)
    wanted = [0, 0.3071325, 0.614265, 0.9213975, 1.22853]
    assert memory.bounds[LEAVER] == pytest.approx(wanted)
    assert memory.restart[LEAVER] == 2
    assert np.array_equal(memory.checkpoint(LEAVER)["w"], trained[2]["w"])
    # The text sums |theta_c' - theta|, four to seven times as much.
    literal = [distance(local(sent, CENTRES[LEAVER]), sent) for sent in trained[:4]]
    assert literal == pytest.approx([2.04755, 1.58637929, 1.3140626, 1.15326231])


def test_the_term_is_the_distance_of_the_averages_with_and_without() -> None:
    draws = np.random.default_rng(0)
    models = {k: one(draws.normal(size=5)) for k in range(4)}
    weights = {0: 1.0, 1: 3.0, 2: 2.0, 3: 0.5}
    after = weighted_mean(models, weights)
    found = sensitivity(after, models[LEAVER], 3.0 / 6.5)
    left = weighted_mean(without(models, LEAVER), weights)
    assert found == pytest.approx(distance(after, left))
    each = sensitivity_by_coordinate(after, models[LEAVER], 3.0 / 6.5)["w"]
    assert each == pytest.approx(np.abs(after["w"] - left["w"]))
    assert np.linalg.norm(each) == pytest.approx(found)


def test_bounds_of_coordinates_are_smaller_than_the_norm_that_noise_must_hide() -> None:
    norms = Sensitivities([LEAVER], 4, psi=0.5)
    largest = Sensitivities([LEAVER], 4, psi=0.5, euclidean=False)
    train(PLANE, 3, one((0.0, 0.0)), (norms, largest))
    assert all(
        of_one < of_all
        for of_one, of_all in zip(largest.bounds[LEAVER][1:], norms.bounds[LEAVER][1:], strict=True)
    )
    assert largest.restart[LEAVER] >= norms.restart[LEAVER]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.floats(0, 30))
def test_the_last_checkpoint_is_the_last_below(terms: list[float], allowed: float) -> None:
    bounds = [0.0, *np.cumsum(terms).tolist()]
    found = last_checkpoint(bounds, allowed)
    assert all(bound <= allowed for bound in bounds[: found + 1])
    assert found == len(terms) or bounds[found + 1] > allowed


def test_a_client_that_is_as_the_others_mean_changes_nothing() -> None:
    centres = (1.0, 2.0, 2.0, 3.0)
    added, last = Accumulated([LEAVER], 4), LastModels([LEAVER], 4)
    bounds = Sensitivities([LEAVER], 4, psi=0.0)
    trained = train(centres, 4, one(0.0), (added, last, bounds))
    assert added.sums[LEAVER]["w"] == pytest.approx(trained[-1]["w"])
    mean = weighted_mean(without(last.last, LEAVER), last.weights)
    assert mean["w"] == pytest.approx(trained[-1]["w"])
    assert bounds.bounds[LEAVER] == pytest.approx([0.0] * 5, abs=1e-15)


@settings(max_examples=30)
@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    st.floats(0, 2),
    st.sampled_from([1.0, 0.9]),
)
def test_bounds_rise_and_cover_the_truth_on_convex_losses(
    centres: list[float], psi: float, contraction: float
) -> None:
    # Gradient steps on these losses shrink distances to 0.9^5 of them, so even 0.9 is a bound.
    memory = Sensitivities([LEAVER], 4, psi, contraction)
    trained = train(tuple(centres), 5, one(0.0), (memory,))
    scratch = train(others(tuple(centres)), 5, one(0.0))
    bounds = memory.bounds[LEAVER]
    if contraction == 1.0:
        assert bounds == sorted(bounds)
    for bound, model, alone in zip(bounds, trained, scratch, strict=True):
        assert distance(model, alone) <= bound + 1e-9
    assert memory.restart[LEAVER] == last_checkpoint(bounds, psi)


@pytest.mark.parametrize(
    "make",
    [
        lambda leavers: LastModels(leavers, 4),
        lambda leavers: Accumulated(leavers, 4),
        lambda leavers: Contributions(leavers, 4),
        lambda leavers: FirstAndNorms(leavers, 4),
        lambda leavers: FirstAndNorms(leavers, 4, "layer"),
        lambda leavers: FirstAndNorms(leavers, 4, "pooled"),
        lambda leavers: Sensitivities(leavers, 4, 0.7),
        lambda leavers: Sensitivities(leavers, 4, 0.7, euclidean=False),
    ],
)
def test_what_is_kept_for_anybody_holds_what_is_kept_for_one(make) -> None:  # type: ignore[no-untyped-def]
    alone, anybody = make([LEAVER]), make([0, 1, 2, 3])
    trained = train(PLANE, 3, one((0.0, 0.0)), (alone, anybody))
    taken = make([LEAVER])
    taken.load_state_dict(anybody.state_dict())
    assert repr(taken.state_dict()) == repr(alone.state_dict())
    held = _size(anybody.state_dict()["kept"])
    assert held <= anybody.bytes(3, trained[-1])


def _size(value: object) -> int:
    """Bytes of the arrays and numbers in a value; an array that is there twice counts once."""
    seen: dict[int, int] = {}

    def walk(inner: object) -> int:
        if isinstance(inner, np.ndarray):
            seen[id(inner)] = inner.nbytes
            return 0
        if isinstance(inner, dict):
            return sum(walk(item) for item in inner.values())
        if isinstance(inner, list):
            return sum(walk(item) for item in inner)
        return 8

    return walk(value) + sum(seen.values())


def test_other_settings_are_refused() -> None:
    kept = Sensitivities([LEAVER], 4, 0.7)
    train(CENTRES, 2, one(0.0), (kept,))
    with pytest.raises(ValueError, match=r"were kept for psi 0\.7, not 0\.5"):
        Sensitivities([LEAVER], 4, 0.5).load_state_dict(kept.state_dict())


def test_rounds_in_which_the_leaver_is_alone_or_away() -> None:
    added = Accumulated([LEAVER], 2)
    bounds = Sensitivities([LEAVER], 2, 10.0)
    sent = one(0.0)
    alone = Observed(1, sent, {LEAVER: one(3.0)}, {LEAVER: 1.0}, one(3.0))
    away = Observed(2, one(3.0), {0: one(5.0)}, {0: 1.0}, one(5.0))
    for seen in (alone, away):
        added.observe(seen)
        bounds.observe(seen)
    assert added.sums[LEAVER]["w"][0] == 2.0  # The other's update alone.
    assert bounds.terms[LEAVER] == [3.0, 0.0]


def test_rounds_that_nobody_answers_change_no_bound_and_have_a_number() -> None:
    bounds, norms = Sensitivities([LEAVER], 2, 1.0), FirstAndNorms([LEAVER], 2)
    both = {0: one(1.0), LEAVER: one(3.0)}
    seen = Observed(3, one(0.0), both, {0: 1.0, LEAVER: 1.0}, one(2.0))
    bounds.observe(seen)
    norms.observe(seen)
    assert bounds.bounds[LEAVER] == [0.0, 0.0, 0.0, 1.0]
    assert bounds.terms[LEAVER] == [0.0, 0.0, 1.0]
    assert bounds.restart[LEAVER] == 3
    assert norms.of_round(1, LEAVER) == {}
    assert norms.of_round(3, LEAVER) == {0: {"w": 1.0}}
