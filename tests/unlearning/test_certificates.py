"""What noise is worth: the classical bound as published, the analytic one, and what is promised."""

from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.unlearning import analytic_bound, certificate, classical_bound


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma", "psi"),
    [
        (1.0, 0.025, 0.025, 0.00893767),
        (0.1, 0.01, 0.025, 0.0008045),
        (10.0, 0.1, 0.025, 0.11123249),
        (1.0, 0.025, 0.1, 0.03575068),
        (10.0, 0.1, 0.5, 2.22464983),
    ],
)
def test_the_published_bound(epsilon: float, delta: float, sigma: float, psi: float) -> None:
    assert classical_bound(epsilon, delta, sigma) == pytest.approx(psi, rel=1e-5)


@pytest.mark.parametrize(("delta", "factor"), [(0.025, 2.79715), (0.01, 3.107511), (0.1, 2.247545)])
def test_the_classical_factor(delta: float, factor: float) -> None:
    assert 1 / classical_bound(1.0, delta, 1.0) == pytest.approx(factor, rel=1e-6)


def delta_of(epsilon: float, psi: float, sigma: float) -> float:
    """Delta of the Gaussian mechanism, by the integral that defines it, in 30 digits.

    The integral of max(0, p(x) - e^epsilon q(x)) of the two densities, psi apart.
    """
    with mpmath.workdps(30):
        mu = mpmath.mpf(psi) / mpmath.mpf(sigma)
        # p > e^epsilon q where x is above this, for p at mu and q at 0.
        cut = epsilon / mu + mu / 2

        def excess(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.npdf(x, mu, 1) - mpmath.exp(epsilon) * mpmath.npdf(x, 0, 1)

        return float(mpmath.quad(excess, [cut, cut + 4, cut + 12, mpmath.inf]))


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"), [(1.0, 0.025, 0.025), (0.1, 0.01, 0.025), (10.0, 0.1, 0.025)]
)
def test_the_analytic_bound_against_the_integral(
    epsilon: float, delta: float, sigma: float
) -> None:
    psi = analytic_bound(epsilon, delta, sigma)
    assert delta_of(epsilon, psi, sigma) == pytest.approx(delta, rel=1e-9)
    assert delta_of(epsilon, 1.01 * psi, sigma) > delta


def test_the_published_bound_is_too_large_at_a_large_epsilon() -> None:
    # At epsilon 10 and delta 1e-6 what the classical formula allows has a larger delta.
    psi = classical_bound(10.0, 1e-6, 1.0)
    assert psi > analytic_bound(10.0, 1e-6, 1.0)
    assert delta_of(10.0, psi, 1.0) > 1e-6
    # Below 1, where its proof holds, it only gives room away.
    assert classical_bound(0.5, 0.01, 1.0) < analytic_bound(0.5, 0.01, 1.0)


@given(st.floats(0.05, 5), st.floats(1e-6, 0.3), st.floats(1e-3, 10))
def test_a_certificate_says_what_its_bound_was_chosen_for(
    epsilon: float, delta: float, sigma: float
) -> None:
    psi = analytic_bound(epsilon, delta, sigma)
    found = certificate("C2", psi=psi, sigma=sigma, delta=delta, restart=3, convex=True)
    assert found.certified
    assert found.epsilon == pytest.approx(epsilon, rel=1e-6, abs=1e-9)
    assert "C2" in found.protects
    assert "from the restart on" in found.against


def test_nothing_is_promised_without_convexity_noise_or_a_norm() -> None:
    def of(**changes: object) -> object:
        known = {"psi": 0.1, "sigma": 0.5, "delta": 0.01, "restart": 3, "convex": True}
        return certificate("C2", **(known | changes))  # type: ignore[arg-type]

    deep = of(convex=False)
    assert not deep.certified  # type: ignore[attr-defined]
    assert deep.epsilon is None  # type: ignore[attr-defined]
    assert deep.epsilon_claimed > 0  # type: ignore[attr-defined]
    assert deep.words.startswith("NO CERTIFICATE")  # type: ignore[attr-defined]
    for found in (of(sigma=0.0), of(euclidean=False)):
        assert not found.certified  # type: ignore[attr-defined]
        assert found.epsilon is None  # type: ignore[attr-defined]
        assert found.epsilon_claimed is None  # type: ignore[attr-defined]


def test_the_first_model_needs_no_noise() -> None:
    found = certificate("C2", psi=0.0, sigma=0.0, delta=0.01, restart=0, convex=False)
    assert found.certified
    assert found.epsilon == 0.0


def test_no_noise_allows_no_distance_and_ranges_are_refused() -> None:
    assert analytic_bound(1.0, 0.1, 0.0) == 0.0
    assert classical_bound(1.0, 0.1, 0.0) == 0.0
    for wrong in ((0.0, 0.1, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.1, -1.0)):
        with pytest.raises(ValueError, match="Expected epsilon"):
            analytic_bound(*wrong)
    assert math.isfinite(analytic_bound(10.0, 0.1, 0.025))


def test_bounds_of_coordinates_certify_nothing_not_even_of_the_first_model() -> None:
    found = certificate(
        "C2", psi=0.0, sigma=0.0, delta=0.1, restart=0, convex=True, euclidean=False
    )  # fmt: skip
    assert not found.certified
    assert found.epsilon is None
    assert found.words.startswith("exact: restarted from a model that had learned nothing")


def test_a_contraction_rests_on_strong_convexity() -> None:
    def of(contraction: float) -> str:
        return certificate(
            "C2", psi=0.1, sigma=1.0, delta=0.1, restart=2, convex=True, contraction=contraction
        ).rests_on

    assert "strongly convex" in of(0.9)
    assert "strongly convex" not in of(1.0)
