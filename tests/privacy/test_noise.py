"""Noise: its distribution, its keys, and what floating point shows of what was added to it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fedsim.privacy import mechanisms
from fedsim.privacy.audit import gaussian_epsilon, many_run
from fedsim.privacy.mechanisms import DPSGD, AlternatingReference, PrivateReference, State
from fedsim.privacy.noise import KEY_BYTES, Noise, settle
from fedsim.privacy.paper import PaperUnsound

LIKE = torch.zeros(0)
KEY = bytes(range(KEY_BYTES))
KINDS = {"seeded": Noise.seeded(b"run"), "secret": Noise.secret(KEY, b"run")}


def fresh(kind: str, *labels: str | int) -> Noise:
    return KINDS[kind].derive(*labels)


def normal(noise: Noise, count: int) -> Tensor:
    return noise.gaussian((count,), 1.0, LIKE)


# --- What is drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_normal(kind: str) -> None:
    draws = normal(fresh(kind, "normal"), 400_000).numpy()
    assert draws.dtype == np.float64
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    for moment, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((draws**moment).mean() - expected) < 5 * math.sqrt(spread / len(draws))
    assert len(np.unique(draws)) == len(draws)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_stream_are_independent(kind: str) -> None:
    """Also those of one pair of Box and Muller, wherever a block put them."""
    draws = normal(fresh(kind, "independent"), 2**17)
    for lag in (1, 2, 8, 128, 2**13, 2**14, 2**15, 2**16):
        one, other = draws[:-lag], draws[lag:]
        for left, right in ((one, other), (one.square() - 1, other.square() - 1)):
            size = math.sqrt(float(left.square().sum() * right.square().sum()))
            assert abs(float(left @ right)) / size < 5 / math.sqrt(len(one)), lag


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_numbers_are_uniform(kind: str) -> None:
    draws = fresh(kind, "uniform").uniform(200_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-4


def test_scale_and_shape_are_as_asked() -> None:
    noise = Noise.seeded(b"shape")
    found = noise.gaussian((100, 300), 7.0, LIKE)
    assert found.shape == (100, 300)
    assert float(found.std()) == pytest.approx(7, rel=0.02)
    assert (noise.gaussian((5,), 0.0, LIKE) == 0).all()
    assert noise.gaussian((0,), 1.0, LIKE).shape == (0,)
    assert noise.gaussian((), 1.0, LIKE).shape == ()


def test_draws_go_on_and_do_not_hang_on_torch() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    noise, again = Noise.seeded(b"x"), Noise.seeded(b"x")
    parts = [normal(noise, n) for n in (3, 1, 500, 70_000)]
    assert len(torch.cat(parts).unique()) == 70_504
    for part, n in zip(parts, (3, 1, 500, 70_000), strict=True):
        assert torch.equal(part, normal(again, n))
    assert torch.equal(torch.get_rng_state(), before)


# --- Its keys ------------------------------------------------------------------------------------


def test_every_part_has_a_stream_of_its_own() -> None:
    streams = [
        Noise.seeded(b"run"),
        Noise.seeded(b"other run"),
        Noise.secret(KEY, b"run"),
        Noise.secret(KEY, b"other run"),
        Noise.secret(KEY[::-1], b"run"),
    ]
    streams += [
        root.derive("client", number, 0, client)
        for root in streams[:]
        for number in (1, 2, 12)
        for client in (1, 2, 12)
    ]
    streams += [
        root.derive("server", "mean", number, 0) for root in streams[:5] for number in (1, 2)
    ]
    streams += [part for root in streams[:] for part in (root.for_release(0), root.for_release(1))]
    streams += [root.for_sample(0) for root in streams[:50]]
    width = 4000
    drawn = torch.stack([normal(one, width) for one in streams])
    correlations = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert float(correlations.abs().max()) < 6 / math.sqrt(width)


def test_parts_do_not_depend_on_what_was_drawn_before() -> None:
    noise = Noise.seeded(b"run")
    first = normal(noise.for_release(3), 10)
    normal(noise, 1000)
    assert torch.equal(normal(noise.for_release(3), 10), first)
    # Labels are told apart by their kind and their borders, too.
    labels = [(1, 2), (12,), ("1", 2), ("1", "2"), ("12",), (1, "2"), ((1,), 2)]
    found = {tuple(normal(noise.derive(*one), 4).tolist()) for one in labels}  # type: ignore[arg-type]
    assert len(found) == len(labels)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_for_other_generators_are_those_of_a_part(kind: str) -> None:
    noise = KINDS[kind]
    numbers = [noise.number(), noise.derive("a").number(), noise.derive("b").number()]
    assert len(set(numbers)) == 3
    assert noise.derive("a").number() == numbers[1]
    assert all(0 < number < 2**256 for number in numbers)
    assert noise._key not in [number.to_bytes(32, "big") for number in numbers]


def test_a_copy_in_another_process_draws_the_same_and_shows_no_key() -> None:
    for noise in KINDS.values():
        text = f"{noise!r} {noise}"
        copy = pickle.loads(pickle.dumps(noise.for_release(1)))
        assert torch.equal(normal(copy, 50), normal(noise.for_release(1), 50))
        assert copy.kind == noise.kind
        assert text == f"Noise({noise.kind}) Noise({noise.kind})"


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_256_bits(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Noise.secret(bytes(size), b"run")


# --- What floating point shows -------------------------------------------------------------------

WIDTH, DELTA, TRIALS = 20_000, 1e-5, 400


class Float32Noise(Noise):
    """As it was once: single draws of torch in float32, rounded before they are added."""

    def gaussian(self, shape: Any, scale: float, like: Tensor) -> Tensor:
        return torch.randn(shape, generator=generator(int(self.uniform(1)[0] * 2**40))) * scale


class RoundedNoise(Noise):
    """These draws, but rounded to the dtype of the gradients before they are added."""

    dtype = torch.float32

    def gaussian(self, shape: Any, scale: float, like: Tensor) -> Tensor:
        return super().gaussian(shape, scale, like).to(self.dtype)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unsettled(exact: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """`settle` as it was once: the sum as it comes."""
    return exact.to(dtype)


def decided(
    kind: type[Noise], sigma: float, score: Callable[[Tensor, Tensor], float], dtype: torch.dtype
) -> float:
    """A lower bound of epsilon of one release: is a record there whose gradient is known?

    Args:
        score: of a released sum and the record's clipped gradient [WIDTH]; larger where it is in.
    """
    target = torch.randn(WIDTH, generator=generator(9), dtype=dtype)
    target /= target.norm()
    rule = DPSGD(noise_multiplier=sigma, max_grad_norm=1.0, expected_batch=1.0)
    added = replace(rule, noise_multiplier=0.0).aggregate(target[None], State(), KINDS["seeded"])
    found = []
    for side, rows in enumerate((torch.zeros(1, WIDTH, dtype=dtype), target[None])):
        noises = (kind(bytes([side]) + n.to_bytes(31, "big"), "seeded") for n in range(TRIALS))
        sums = (rule.aggregate(rows, State(), noise)[0].update for noise in noises)
        found.append([score(one, added[0].update) for one in sums])
    return many_run(found[0], found[1], DELTA).epsilon


def off_the_grid(noise: Tensor) -> float:
    """How far the uniform numbers behind single draws lie from multiples of 2^-24, 0 to 1/4.

    A pair of Box and Muller (torch: eight places apart in blocks of sixteen) has the squared length
    -2 log u. Short pairs are known to more digits than the grid has; the mean distance of
    independent numbers is 1/4.
    """
    squares = noise.double().view(-1, 2, 8).square().sum(1).flatten()
    cells = torch.expm1(-squares[squares < 0.02] / 2) * 2**24
    return float((cells - cells.round()).abs().mean())


def test_single_float32_draws_decide_membership_and_this_noise_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mironov (2012): of one release at sigma 10, which claims epsilon 0.34."""

    def score(total: Tensor, added: Tensor) -> float:
        without, with_record = total.double(), total.double() - added.double()
        return off_the_grid(without / 10) - off_the_grid(with_record / 10)

    claimed = gaussian_epsilon(1 / 10, DELTA)
    assert claimed == pytest.approx(0.34, abs=0.01)
    assert decided(Noise, 10.0, score, torch.float32) <= claimed
    monkeypatch.setattr(mechanisms, "settle", unsettled)
    assert decided(Float32Noise, 10.0, score, torch.float32) > 3.69


def share_of_multiples(total: Tensor, added: Tensor, unit: Tensor) -> float:
    """Of the coordinates in which noise and gradient nearly cancel, those with no lower bits."""
    small = total.abs() < added.abs() / 2
    return float((total[small] % unit[small] == 0).sum()) / max(1, int(small.sum()))


def float32_score(total: Tensor, added: Tensor) -> float:
    """A small difference of two numbers has no lower bits than they; a small number has."""
    size = added.abs()
    return share_of_multiples(total, added, torch.nextafter(size, torch.ones(1)) - size)


def float64_score(total: Tensor, added: Tensor) -> float:
    """A sum of four draws has no bits below those of each, near zero neither; a gradient has."""
    return -share_of_multiples(total, added, torch.full_like(total, 2.0**-55))


@pytest.mark.parametrize(
    ("dtype", "score"), [(torch.float32, float32_score), (torch.float64, float64_score)]
)
def test_low_bits_of_small_sums_decide_membership_unless_they_settle(
    dtype: torch.dtype, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = gaussian_epsilon(1 / 2.5, DELTA)
    assert decided(Noise, 2.5, score, dtype) <= claimed
    monkeypatch.setattr(mechanisms, "settle", unsettled)
    monkeypatch.setattr(RoundedNoise, "dtype", dtype)
    assert decided(RoundedNoise, 2.5, score, dtype) > 3.69 > claimed


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 0.3, 1.0, 3.7, 4.0, 1e8])
def test_a_settled_sum_is_on_a_grid_that_the_scale_alone_decides(scale: float) -> None:
    values = Noise.seeded(b"grid").gaussian((1000,), scale, LIKE)
    found = settle(values + 0.1 * scale, scale, torch.float64)
    step = 2.0 ** max(math.frexp(scale)[1] - 32, -1000)
    assert (found % step == 0).all()
    assert step <= scale * 2**-31 or scale == 1e-300
    assert (found - values - 0.1 * scale).abs().max() <= step / 2
    assert settle(values, 0.0, torch.float32).equal(values.float())
    broken = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
    assert settle(broken, scale, torch.float32).isfinite().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_that_a_mechanism_releases_is_settled(dtype: torch.dtype) -> None:
    numbers = {"noise_multiplier": 1.5, "max_grad_norm": 2.0, "expected_batch": 1.0}
    rows = torch.randn(5, 300, generator=generator(2), dtype=dtype)
    for rule in (
        DPSGD(**numbers),
        AlternatingReference(**numbers),
        PrivateReference(**numbers, reference_noise_multiplier=1.5, combine=0.0),
        PrivateReference(**numbers, reference_noise_multiplier=1.5, combine=1.0),
    ):
        released, _ = rule.aggregate(rows, State(), Noise.seeded(b"settled"))
        for one in (released.update, released.reference):
            assert one is None or (one.dtype == dtype and (one.double() % 2.0**-30 == 0).all())
    paper = PaperUnsound(**numbers, cosine_noise_multiplier=1.0, psi=-1.5)
    assert paper.aggregate(rows, State(), Noise.seeded(b"settled"))[0].update.dtype == dtype
