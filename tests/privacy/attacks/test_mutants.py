"""Broken implementations end in a violation at the level that finds them; sound ones pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedsim.privacy import rows
from fedsim.privacy.attacks import Subject, coupled, release, training
from fedsim.privacy.factored import FactoredGradients
from fedsim.privacy.mechanisms import DPSGD, AlternatingReference, Mechanism, PrivateReference
from fedsim.privacy.noise import Noise
from fedsim.privacy.verdict import Verdict, audit
from tests.privacy.attacks.mutants import MECHANISM, RUN, noise_times
from tests.privacy.attacks.small import Small

# A check that rejects one sound release in eight is seen by 24 audits (8 of each rule) with 96 %.
SEEDS = range(8)


def numbers(sigma: float) -> dict[str, float]:
    return {"noise_multiplier": sigma, "max_grad_norm": 0.8, "expected_batch": 16.0}


SOUND = {
    "plain": DPSGD(**numbers(1.0)),
    "alternating": AlternatingReference(**numbers(2.0)),
    "private": PrivateReference(**numbers(1.5), reference_noise_multiplier=2.0),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few releases an attack, at the mechanism's own values alone; few canaries."""
    monkeypatch.setattr(release, "TRIALS", 60)
    monkeypatch.setattr(release, "GRID", ())
    monkeypatch.setattr(coupled, "DRAWS", 100)  # They find noise that is a tenth too small.
    monkeypatch.setattr(training, "CANARIES", 200)
    monkeypatch.setattr(training, "_WIDTH", 1024)


def of_mechanism(mechanism: Mechanism, seed: int) -> Verdict:
    return audit(Subject("one", mechanism, 1.0, 1e-5, "PRV upper", True, 1.0, 1), seed=seed)


@pytest.mark.parametrize("mutant", MECHANISM)
@pytest.mark.parametrize("rule", SOUND)
def test_a_broken_release_is_found(
    quick: None, monkeypatch: pytest.MonkeyPatch, mutant: str, rule: str
) -> None:
    MECHANISM[mutant](monkeypatch)
    assert of_mechanism(SOUND[rule], 0).exit_code == 3


@pytest.mark.parametrize("rule", SOUND)
def test_a_sound_release_passes_in_every_seed(quick: None, rule: str) -> None:
    for seed in SEEDS:
        found = of_mechanism(SOUND[rule], seed)
        assert found.exit_code == 0, found.line()


def test_the_gaussian_bound_alone_finds_noise_that_is_a_third_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound at one delta stays far below the claim: 2,500 releases a side, sigma 1."""
    noise_times(0.6)(monkeypatch)
    monkeypatch.setattr(release, "GRID", ())
    scores = release.scores

    def few_of_others(mechanism: Mechanism, attack: Any, rng: Noise, trials: int) -> Any:
        return scores(mechanism, attack, rng, trials if attack.name == "outlier" else 60)

    monkeypatch.setattr(release, "scores", few_of_others)
    found = of_mechanism(DPSGD(**numbers(1.0)), 0)
    outlier = next(one for one in found.details if one["attack"] == "outlier")
    assert outlier["audited_epsilon_plain"] < found.claimed - 0.5
    assert outlier["audited_epsilon"] > found.claimed + 0.5


@pytest.mark.parametrize("mutant", RUN)
def test_a_broken_training_is_found(
    quick: None, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    mutate, told = RUN[mutant]
    mutate(monkeypatch)
    found = audit(Small().subject, "run")
    assert found.exit_code == 3
    assert told in found.line()
    assert found.line().endswith("| VIOLATION")


def test_noise_that_is_off_is_found_at_a_large_claim(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the cap of the canaries: it is the tests that find it."""
    noise_times(0.0)(monkeypatch)
    found = audit(Small(noise_multiplier=0.85).subject, "run")
    assert found.claimed > 6
    assert found.out_of_reach
    assert found.exit_code == 3


def test_a_sound_training_passes_in_every_seed(quick: None) -> None:
    for seed in SEEDS:
        found = audit(Small(seed).subject, "run", seed)
        assert found.exit_code == 0, found.line()


@pytest.mark.parametrize("reference", ["private", "alternating"])
@pytest.mark.parametrize("batch", [24, 120])
def test_sound_filters_and_full_batches_pass(quick: None, reference: str, batch: int) -> None:
    small = Small(batch=batch, noise_multiplier=5.0, filter={"reference": reference})
    found = audit(small.subject, "run")
    assert found.exit_code == 0, found.line()


def test_the_published_filter_with_one_draw_a_record_is_found_in_a_training(quick: None) -> None:
    paper = {"reference": "paper_unsound", "noise": "independent"}
    small = Small(batch=120, noise_multiplier=12.0, filter=paper)
    found = audit(small.subject, "run")
    assert not found.certified
    assert found.bound.epsilon > found.claimed


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the small model stay products of factors, as those of wide layers do."""
    monkeypatch.setattr(rows, "_WIDE", 0)
    monkeypatch.setattr(rows, "_DEARER", 0)


def test_a_sound_training_with_factors_passes(quick: None, factored: None) -> None:
    for seed in range(3):
        found = audit(Small(seed).subject, "run", seed)
        assert found.exit_code == 0, found.line()


@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_norms_of_factors_that_are_too_small_are_found(
    quick: None, factored: None, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    norms, seen = FactoredGradients.norms, []

    def smaller(self: FactoredGradients) -> torch.Tensor:
        seen.append(len(self))
        return factor * norms(self)

    monkeypatch.setattr(FactoredGradients, "norms", smaller)
    found = audit(Small().subject, "run")
    assert seen, "no gradient was kept as factors"
    assert found.exit_code == 3
