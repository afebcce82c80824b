"""Private sums: how far a record moves them, how loud they are, and audits of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.clients.feature_statistics import FeatureGaussians, FeatureGram, FeatureMeans
from fedsim.privacy.attacks import Subject, release
from fedsim.privacy.attacks import rows as rows_attack
from fedsim.privacy.gradients import Clipped, clip
from fedsim.privacy.mechanisms import DPSGD, Mechanism, NoiseShare, State
from fedsim.privacy.noise import Noise
from fedsim.privacy.verdict import Verdict, audit
from fedsim.statistics import Layout, Sums, Weights, contributions, packed_size, unpack

SIZE, CLASSES = 4, 3
LAYOUTS = [
    Layout(SIZE, CLASSES),
    Layout(SIZE, CLASSES, "full"),
    Layout(SIZE, CLASSES, "full", True),
    Layout(SIZE, CLASSES, "diagonal", True),
]

NUMBERS = st.one_of(
    st.floats(-3, 3),
    st.sampled_from([0.0, -0.0, 1e-320, 1e30, -1e200, 1.7e308, np.inf, -np.inf, np.nan]),
)
VECTORS = st.lists(NUMBERS, min_size=SIZE, max_size=SIZE)


def total(
    layout: Layout, weights: Weights, vectors: Any, labels: Any, units: Any = None, size: int = 2
) -> np.ndarray:
    """What a mechanism adds up: rows that are not finite count as zero."""
    vectors = np.array(vectors, dtype=float).reshape(-1, SIZE)
    labels, places = np.array(labels, np.int64), np.arange(len(vectors))
    places = places if units is None else np.array(units)
    parts = list(contributions(weights, layout, vectors, labels, places, 1.0, size))
    rows = torch.cat(parts).numpy()
    assert rows.shape == ((places[-1] + 1) if len(places) else 0, layout.numbers)
    return np.where(np.isfinite(rows).all(axis=1)[:, None], rows, 0.0).sum(axis=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(
    VECTORS,
    st.integers(0, CLASSES - 1),
    st.lists(VECTORS, min_size=1, max_size=3),
    st.floats(0.1, 5),
    st.floats(0.01, 3),
    st.sampled_from([1e-3, 1.0, 40.0]),
)
@settings(max_examples=100, deadline=None)
def test_no_record_moves_the_sums_by_more_than_the_clipping_norm(
    layout: Layout,
    worst: list[float],
    label: int,
    others: list[list[float]],
    products: float,
    intercept: float,
    norm: float,
) -> None:
    weights = Weights(products, intercept, norm)
    labels = [0, 1, 2][: len(others)]
    without = total(layout, weights, others, labels)
    with_worst = total(layout, weights, [*others, worst], [*labels, label])
    assert np.isfinite(with_worst).all()
    assert np.linalg.norm(with_worst - without) <= 1 + 1e-12
    # A patient with all of these records moves them no further.
    alone = total(layout, weights, [*others, worst], [*labels, label], [0] * (len(others) + 1))
    assert np.linalg.norm(alone) <= 1 + 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bound_is_reached(layout: Layout) -> None:
    weights = Weights(1.7, 0.3, 5.0)
    row = total(layout, weights, [[0, -5.0, 0, 0]], [1])
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-12)
    longer = total(layout, weights, [[0, -9e9, 0, 0]], [1])
    np.testing.assert_allclose(longer, row, rtol=1e-12)


def test_the_sensitivity_of_the_documented_case() -> None:
    """tau = 2, a = 1/4: root(1 + 4 (1 + 1/16)); of class sums alone root(1 + 1/16)."""
    assert Weights().sensitivity(LAYOUTS[1]) == pytest.approx((1 + 4 * 17 / 16) ** 0.5)
    assert Weights().sensitivity(LAYOUTS[0]) == pytest.approx((17 / 16) ** 0.5)
    for wrong in ({"products": 0.0}, {"intercept": -1.0}, {"norm": float("inf")}, {"norm": 1e7}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be between"):
            Weights(**wrong)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_of_rows_is_what_sums_are(layout: Layout) -> None:
    draws = np.random.default_rng(0)
    vectors, labels = draws.normal(size=(30, SIZE)), draws.integers(0, CLASSES, 30)
    weights = Weights(3.0, 0.2, norm=50.0)
    found = weights.read(layout, total(layout, weights, vectors, labels), 1.0, 0.0, 30.0)
    plain = layout.sums_of(vectors, labels)
    for name, values in plain.values.items():
        np.testing.assert_allclose(found.values[name], values, atol=1e-10)


def test_a_patients_row_is_the_mean_of_its_records_whatever_the_parts() -> None:
    draws = np.random.default_rng(0)
    vectors, labels = draws.normal(size=(7, SIZE)), draws.integers(0, CLASSES, 7)
    units = [0, 0, 0, 1, 2, 2, 3]
    layout, weights = LAYOUTS[1], Weights()
    each = weights.rows(layout, vectors, labels, 1.0)
    expected = sum(each[np.array(units) == unit].mean(axis=0) for unit in range(4))
    for size in (1, 2, 3, 100):
        np.testing.assert_allclose(
            total(layout, weights, vectors, labels, units, size), expected, rtol=1e-12
        )


def test_rows_are_made_part_by_part_and_can_be_read_again() -> None:
    layout = Layout(100, 2, "full")
    vectors = np.random.default_rng(0).normal(size=(90, 100))
    rows = contributions(Weights(), layout, vectors, np.zeros(90, np.int64), np.arange(90), 1.0, 32)
    assert [len(part) for part in rows] == [32, 32, 26]
    assert all(torch.equal(a, b) for a, b in zip(rows, rows, strict=True))
    empty = contributions(
        Weights(), layout, vectors[:0], np.zeros(0, np.int64), np.zeros(0, np.int64), 1.0, 32
    )
    assert [part.shape for part in empty] == [(0, layout.numbers)]


def noisy_sums(mechanism: Mechanism, layout: Layout, draws: int) -> list[Sums]:
    """Releases of nothing, as the server reads them."""
    nothing, weights = torch.zeros(0, layout.numbers, dtype=torch.float64), Weights()
    source, found = Noise.seeded(b"sums"), []
    for _ in range(draws):
        update = mechanism.aggregate(nothing, State(), source)[0].update
        flat = update.numpy() * mechanism.expected_batch
        found.append(weights.read(layout, flat, mechanism.max_grad_norm, mechanism.deviation, 9.0))
    return found


def plain(sigma: float = 1.5) -> DPSGD:
    return DPSGD(noise_multiplier=sigma, max_grad_norm=0.7, expected_batch=20.0)


def test_noise_is_as_loud_as_the_server_is_told() -> None:
    mechanism, layout = plain(), LAYOUTS[1]
    found = noisy_sums(mechanism, layout, 1500)
    loud = 1.5 * (1 + 4 * 17 / 16) ** 0.5
    assert found[0].noise == pytest.approx({"second": loud, "sums": loud / 2, "counts": loud * 2})
    matrices = np.stack([one.gram for one in found])
    diagonal = np.eye(SIZE) == 1
    measured = np.sqrt(np.square(matrices).mean(axis=0))
    np.testing.assert_allclose(measured[diagonal], loud, rtol=0.09)
    np.testing.assert_allclose(measured[~diagonal], loud / 2**0.5, rtol=0.09)
    for name in ("sums", "counts"):
        values = np.stack([one.values[name] for one in found])
        np.testing.assert_allclose(values.std(axis=0), found[0].noise[name], rtol=0.09)


def test_clients_that_share_noise_have_it_all_together() -> None:
    share = NoiseShare(**vars(plain()), parties=9)
    assert share.accounted_noise_multiplier == 1.5
    assert share.deviation == pytest.approx(plain().deviation / 3)
    nothing, source = torch.zeros(0, 3000, dtype=torch.float64), Noise.seeded(b"shares")
    parts = [
        share.aggregate(nothing, State(), source.derive("client", k))[0].update for k in range(9)
    ]
    for sums, deviation in ((parts[0], share.deviation), (sum(parts), plain().deviation)):
        assert float((20 * sums).std()) == pytest.approx(deviation, rel=0.05)  # type: ignore[operator]
    together = share.summed.aggregate(nothing, State(), source)[0].update
    assert float((20 * together).std()) == pytest.approx(plain().deviation, rel=0.05)


# --- audits -----------------------------------------------------------------------------------

SEEDS = range(4)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few releases an attack, at the mechanism's own values alone."""
    monkeypatch.setattr(release, "TRIALS", 60)
    monkeypatch.setattr(release, "GRID", ())


def attacked(method: Any, seed: int = 0) -> list[release.Finding]:
    rows, source = method.worst_rows(0.7), Noise.seeded(b"attack").derive(seed)
    return list(rows_attack.attack_rows(plain(), rows, 1e-4, source.derive, 1e-3))


def audited(method: Any, mechanism: Mechanism | None = None, seed: int = 0) -> Verdict:
    used = plain() if mechanism is None else mechanism
    rows = method.worst_rows(used.max_grad_norm)
    return audit(Subject("sums", used, 1.0, 1e-4, "", True, 1.0, 1, rows=rows), seed=seed)


@pytest.mark.parametrize("kind", [FeatureMeans, FeatureGram, FeatureGaussians])
def test_sound_sums_pass_in_every_seed(quick: None, kind: Any) -> None:
    for seed in SEEDS:
        findings = attacked(kind(), seed)
        assert not [one for one in findings if one.excess > 0]
        assert not [check for one in findings for check in one.checks if check.failed]


def test_an_audit_attacks_the_sums_beside_the_mechanism(quick: None) -> None:
    found = audited(FeatureGram())
    assert found.exit_code == 0, found.line()
    assert [c.name for c in found.checks if c.name.startswith(("length", "noise of each"))] == [
        "length: one coordinate",
        "length: all coordinates",
        "length: a long vector",
        "noise of each number, 35 numbers",
    ]


def test_the_sum_of_all_shares_passes_and_one_share_does_not(quick: None) -> None:
    share, rows = NoiseShare(**vars(plain()), parties=4), FeatureGram().worst_rows(0.7)
    source = Noise.seeded(b"share").derive
    (fine,), (short,) = (
        [one.checks for one in rows_attack.attack_rows(used, rows, 1e-4, source, 1e-3)][-1]
        for used in (share.summed, share)
    )
    assert not fine.failed
    assert short.failed
    assert "the noise of a number is 0.4" in short.told


def unclipped(patch: pytest.MonkeyPatch) -> None:
    """Vectors as long as they are."""
    patch.setattr("fedsim.statistics.release._shortened", lambda vectors: vectors)


def trusted(patch: pytest.MonkeyPatch) -> None:
    """A mechanism that takes rows as they are: they are said to be short enough."""

    def as_they_are(gradients: torch.Tensor, norm: float) -> Clipped:
        return clip(gradients, float("inf"))

    patch.setattr("fedsim.privacy.mechanisms.clip", as_they_are)


def half_the_noise(patch: pytest.MonkeyPatch) -> None:
    gaussian = Noise.gaussian
    patch.setattr(
        Noise, "gaussian", lambda self, shape, scale, like: gaussian(self, shape, scale / 2, like)
    )


def quieter_beside_the_diagonal(patch: pytest.MonkeyPatch) -> None:
    """Noise of a symmetric matrix that is averaged twice: off-diagonals have half the variance."""
    gaussian = Noise.gaussian
    size = 6
    matrix = unpack(np.arange(1.0, packed_size(size) + 1))
    beside = np.flatnonzero(~np.isin(np.arange(1, packed_size(size) + 1), np.diag(matrix)))

    def noise(self: Noise, shape: Any, scale: float, like: torch.Tensor) -> torch.Tensor:
        drawn = gaussian(self, shape, scale, like)
        if drawn.numel() == Layout(size, 2, "full").numbers:
            drawn[beside] /= 2**0.5
        return drawn

    patch.setattr(Noise, "gaussian", noise)


@pytest.mark.parametrize(
    ("mutate", "told"),
    [
        (unclipped, "C before it is clipped"),
        (half_the_noise, "of what the claim needs"),
        (quieter_beside_the_diagonal, "the noise of a number is 0."),
    ],
)
def test_broken_sums_are_found(
    quick: None, monkeypatch: pytest.MonkeyPatch, mutate: Any, told: str
) -> None:
    mutate(monkeypatch)
    found = audited(FeatureGram())
    assert found.exit_code == 3
    assert told in found.line()
    assert found.line().endswith("| VIOLATION")


def test_rows_alone_keep_the_bound_where_nobody_clips(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack itself, without the checks: sound as they are, and not without their bound."""
    trusted(monkeypatch)
    for broken in (False, True):
        if broken:
            unclipped(monkeypatch)
        assert [one.excess > 0 for one in attacked(FeatureGram())] == [False, False, broken, False]
