"""What colluders forge: golden numbers of the papers' formulas, bounds, and what they cannot do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.adversaries import ModelPoisoning, Scene, vectors
from fedsim.adversaries.adaptive import Adaptive
from fedsim.adversaries.disbelieve import ascend, largest_scale, scales
from fedsim.adversaries.plain import FreeRider, Gaussian, Scaling, SignFlip
from fedsim.adversaries.statistical import Lie, MinMax, MinSum, lie, lie_z
from fedsim.method.received import Arrays
from fedsim.robust.rules import RULES, Krum, NormClipping, Rule

U = ((1.0, 2.0), (2.0, 0.0), (3.0, 4.0))
G = ((1.0, 0.0, 0.0), (0.8, 0.6, 0.0), (0.9, 0.0, 0.5))

ROWS = st.integers(3, 6).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(-8, 8).map(float), min_size=4, max_size=4), min_size=n, max_size=n
    )
)


def arrays(*rows: Sequence[float]) -> list[Arrays]:
    return [{"w": np.array(row[:-1]), "b": np.array(row[-1:])} for row in rows]


def flat(row: Arrays) -> np.ndarray:
    return np.concatenate([row["w"], row["b"]])


def scene(rows: list[Arrays], colluders: int, rule: Rule | None = None) -> Scene:
    """Some of the clients collude, the last ones; they know all, and perhaps the rule."""
    ours = list(range(len(rows) - colluders, len(rows)))

    def trial(forged: Sequence[Arrays]) -> tuple[Arrays, np.ndarray | None]:
        assert rule is not None
        sent = [*rows[: ours[0]], *forged]
        return rule.combine(sent, np.ones(len(rows))), rule.shares

    nothing: Any = None
    return Scene(
        clients=len(rows),
        own=[rows[at] for at in ours],
        known=rows,
        sent={name: np.zeros(value.shape) for name, value in rows[0].items()},
        lab=nothing,
        generator=nothing,
        numpy_generator=lambda purpose: np.random.default_rng(3),
        trial=trial if rule is not None else None,
        colluders=ours,
    )


# --- LIE, Min-Max, Min-Sum


@pytest.mark.parametrize(("n", "f", "z"), [(10, 4, 0.4307), (10, 3, 0.1800), (50, 10, 0.2533)])
def test_z_is_the_papers(n: int, f: int, z: float) -> None:
    assert lie_z(n, f) == pytest.approx(z, abs=5e-5)


@pytest.mark.parametrize(("n", "f"), [(10, 0), (10, 5), (4, 2)])
def test_no_colluder_and_half_of_all_have_no_z(n: int, f: int) -> None:
    with pytest.raises(ValueError, match="at least 1, and below half"):
        lie_z(n, f)


def test_lie_moves_the_mean_by_unbiased_deviations() -> None:
    assert flat(lie(arrays(*U), 0.5)) == pytest.approx([2.5, 3.0])
    assert flat(lie(arrays(*U), -0.5)) == pytest.approx([1.5, 1.0])


@pytest.mark.parametrize(
    ("kind", "gamma", "vector"),
    [
        ("unit", 1.94069, (0.627726, 0.627726)),
        ("sign", 1.37228, (0.627719, 0.627719)),
        ("sd", 0.84391, (1.156094, 0.312187)),
    ],
)
def test_min_max_goes_as_far_as_the_pair_that_is_farthest_apart(
    kind: Any, gamma: float, vector: tuple[float, float]
) -> None:
    known = arrays(*U)
    found, scale = MinMax(kind).vector(known)
    assert scale == pytest.approx(gamma, abs=2e-5)
    assert flat(found) == pytest.approx(vector, abs=2e-5)
    assert vectors.farthest_pair(known) == 17
    assert max(vectors.apart(found, one) for one in known) == pytest.approx(17)


@given(rows=ROWS, kind=st.sampled_from(["sd", "unit", "sign"]))
def test_both_bounds_are_reached_and_not_crossed(rows: list[list[float]], kind: Any) -> None:
    known = arrays(*rows)
    pairs = np.array([[vectors.apart(a, b) for b in known] for a in known])
    for attack, reached, bound in (
        (MinMax(kind), max, pairs.max()),
        (MinSum(kind), sum, pairs.sum(axis=1).max()),
    ):
        found, gamma = attack.vector(known)
        away = reached([vectors.apart(found, one) for one in known])  # type: ignore[operator]
        assert away <= bound * (1 + 1e-9) + 1e-9
        if gamma:
            middle = vectors.mean(known)
            more = vectors.moved(middle, 1.001 + 1e-6 / gamma, vectors.moved(found, -1.0, middle))
            assert reached([vectors.apart(more, one) for one in known]) > bound  # type: ignore[operator]


@given(rows=ROWS, shift=st.integers(-5, 5), seed=st.integers(0, 9))
def test_order_and_origin_do_not_matter(rows: list[list[float]], shift: int, seed: int) -> None:
    known = arrays(*rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    for attack in (MinMax("sd"), MinSum("sd")):
        plain = flat(attack.vector(known)[0])
        assert flat(attack.vector([known[i] for i in order])[0]) == pytest.approx(plain, abs=1e-6)
        away = arrays(*[[one + shift for one in row] for row in rows])
        assert flat(attack.vector(away)[0]) == pytest.approx(plain + shift, abs=1e-6)


def test_all_alike_leave_nothing_to_hide_in() -> None:
    known = arrays(U[0], U[0], U[0], U[0], U[0])
    for attack in (MinMax("sd"), MinSum("sd")):
        forged = attack.forge(scene(known, 2))
        assert not forged.feasible
        assert flat(forged.changes[0]) == pytest.approx(U[0])


def test_lie_says_when_no_perturbation_hides() -> None:
    known = arrays(*[(float(i), float(i % 3)) for i in range(10)])
    assert lie_z(10, 1) < 0
    forged = Lie().forge(scene(known, 1))
    assert not forged.feasible
    assert flat(forged.changes[0]) == pytest.approx(flat(vectors.mean(known)))
    assert Lie(z=1.5).forge(scene(known, 1)).feasible


# --- DISBELIEVE


def test_disbelieve_on_parameters_stops_at_the_last_point_inside() -> None:
    own = arrays((1.0, 0.0), (1.2, 0.3), (0.9, -0.2), (1.1, 0.1))
    bound = vectors.farthest_pair(own)
    assert bound == pytest.approx(0.34)
    middle = vectors.mean(own)
    found, inside = ascend(middle, lambda w: w, 0.1, range(50), bound=bound)
    assert inside == 4
    assert flat(found) == pytest.approx([1.537305, 0.073205])
    assert vectors.apart(found, middle) == pytest.approx(0.238, abs=5e-4)
    drawn, _ = ascend(middle, lambda w: w, 0.1, range(50), bound=bound, projection=True)
    assert flat(drawn) == pytest.approx([1.632435, 0.077735], abs=2e-6)
    assert vectors.apart(drawn, middle) == pytest.approx(bound)


def test_disbelieve_on_gradients_takes_the_closed_form() -> None:
    own = arrays(*G)
    middle, bound = vectors.mean(own), vectors.nearest_pair(own)
    assert flat(middle) == pytest.approx([0.9, 0.2, 1 / 6])
    assert [bound, vectors.farthest_pair(own)] == pytest.approx([0.26, 0.62])
    unit = vectors.scaled(1 / math.sqrt(vectors.square(middle)), middle)
    assert scales(unit, middle, bound) == pytest.approx((0.426996, 1.446800), abs=1e-6)
    assert largest_scale(unit, middle, bound) == (pytest.approx(1.4468, abs=1e-5), True)
    assert scales(vectors.scaled(-1, unit), middle, bound) == pytest.approx(
        (-1.4468, -0.4270), 1e-4
    )
    assert largest_scale(vectors.scaled(-1, unit), middle, bound) == (0.001, False)
    (across,) = arrays((0.0, math.sqrt(0.5), -math.sqrt(0.5)))
    assert scales(across, middle, bound) is None
    assert largest_scale(across, middle, bound) == (0.001, False)
    near, against = arrays((0.1, 0.0, 0.0), (-1.0, 0.0, 0.0))
    assert scales(against, near, 0.25) == pytest.approx((-0.6, 0.4))


def test_the_search_as_printed_finds_a_thousand_whatever_the_data() -> None:
    """Algorithm 2 of the paper, with its comparison as printed and put right."""

    def printed(unit: Arrays, middle: Arrays, bound: float, *, right: bool) -> float:
        start, end = 0.001, 1000.0
        while abs(end - start) > 0.01:
            middle_of = (start + end) / 2
            outside = vectors.apart(vectors.scaled(middle_of, unit), middle) > bound
            if outside == right:
                end = middle_of
            else:
                start = middle_of
        return middle_of

    near, against = arrays((0.1, 0.0, 0.0), (-1.0, 0.0, 0.0))
    assert printed(against, near, 0.25, right=False) > 999
    assert printed(against, near, 0.25, right=True) == pytest.approx(0.4, abs=0.01)


@given(rows=ROWS, seed=st.integers(0, 99))
def test_what_disbelieve_sends_is_inside_and_no_longer_vector_is(
    rows: list[list[float]], seed: int
) -> None:
    own = arrays(*rows)
    drawn = np.random.default_rng(seed).standard_normal(4)
    (unit,) = arrays(drawn / np.linalg.norm(drawn))
    middle, bound = vectors.mean(own), vectors.nearest_pair(own)
    scale, feasible = largest_scale(unit, middle, bound)
    away = vectors.apart(vectors.scaled(scale, unit), middle)
    if feasible:
        assert away <= bound + 1e-9 * (1 + bound)
        assert vectors.apart(vectors.scaled(scale * 1.01 + 1e-6, unit), middle) > bound
    else:
        grid = np.linspace(1e-6, 40, 400)
        assert all(vectors.apart(vectors.scaled(s, unit), middle) > bound for s in grid)


# --- plain attacks, and the adaptive one


def test_plain_attacks_send_what_they_say() -> None:
    known = arrays(*[(float(i + 1), 2.0, -1.0) for i in range(5)])
    here = scene(known, 2)
    assert flat(SignFlip(2.0).forge(here).changes[0]) == pytest.approx([-8.0, -4.0, 2.0])
    assert flat(Scaling(3.0).forge(here).changes[1]) == pytest.approx([15.0, 6.0, -3.0])
    assert not flat(FreeRider().forge(here).changes[0]).any()
    large = [{"w": np.full(20000, 2.0)}] * 5
    noise = Gaussian(0.5).forge(scene(large, 2)).changes
    assert noise[0]["w"].std() == pytest.approx(1.0, rel=0.05)
    assert not np.array_equal(noise[0]["w"], noise[1]["w"])


def crowd(n: int = 10, seed: int = 0) -> list[Arrays]:
    draws = np.random.default_rng(seed)
    return arrays(*(1.0 + 0.3 * draws.standard_normal((n, 20))))


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "dos", "norm_clipping"])
def test_the_adaptive_attacker_does_more_harm_than_one_that_does_not_know_the_rule(
    rule: str,
) -> None:
    made = {
        "trimmed_mean": {"byzantine": 4},
        "krum": {"byzantine": 4},
        "norm_clipping": {"radius": 9.0},
    }
    known = crowd()
    middle = vectors.mean(known)

    def harm(attack: ModelPoisoning) -> float:
        here = scene(known, 4, RULES[rule](**made.get(rule, {})))
        assert here.trial is not None
        honest, _ = here.trial(here.own)
        found, _ = here.trial(attack.forge(here).changes)
        return vectors.dot(vectors.moved(honest, -1.0, found), middle)

    adaptive = harm(Adaptive())
    assert adaptive > 0
    assert adaptive >= max(harm(MinMax()), harm(Lie(sign="minus")), harm(MinSum())) - 1e-9


def test_against_a_mean_only_its_own_limit_bounds_it() -> None:
    known = crowd()
    forged = Adaptive(most=3.0).forge(scene(known, 4, NormClipping(1e9)))
    away = vectors.apart(forged.changes[0], vectors.mean(known))
    assert away == pytest.approx(9 * vectors.square(vectors.mean(known)))
    assert forged.told["moved"] > 0


def test_clipping_bounds_what_anybody_can_do() -> None:
    rule, honest = NormClipping(0.5), crowd(6)
    weights = np.ones(10)
    silent = [vectors.scaled(0.0, honest[0])] * 4
    without = rule.combine([*honest, *silent], weights)
    bound = rule.certificate(10, 4)
    assert bound == pytest.approx(0.2)
    for factor in (1.0, 50.0, -1e9):
        found = rule.combine([*honest, *[vectors.scaled(factor, honest[0])] * 4], weights)
        assert math.sqrt(vectors.apart(found, without)) <= bound + 1e-12
    assert math.sqrt(vectors.apart(found, without)) == pytest.approx(bound)


def test_krum_takes_colluders_because_they_are_alike() -> None:
    draws = np.random.default_rng(1)
    benign = arrays(*draws.standard_normal((7, 20)))
    near = arrays(0.1 * draws.standard_normal(20))[0]
    rule = Krum(byzantine=3)
    found = rule.combine([*benign, near, near, near], np.ones(10))
    assert flat(found) == pytest.approx(flat(near))
    assert rule.shares is not None
    assert rule.shares[7:].sum() == 1


@pytest.mark.parametrize("name", RULES)
def test_shares_add_up_and_go_with_the_clients(name: str) -> None:
    rule, rows = RULES[name](), crowd(9)
    rule.combine(rows, np.ones(9))
    assert rule.shares is not None
    if "clipping" in name:  # Changes of a norm of 4.5 are shortened to 1.
        assert 0.15 < rule.shares.sum() < 0.3
    else:
        assert rule.shares.sum() == pytest.approx(1)
    order = list(range(8, -1, -1))
    before = rule.shares
    again = RULES[name]()
    again.combine([rows[i] for i in order], np.ones(9))
    assert again.shares == pytest.approx(before[order], abs=1e-6)
