"""The verdict: one line, its words, exit codes, and the verb that prints it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest

from fedsim.engine import auditing
from fedsim.errors import InputError
from fedsim.folder.runfolder import plain
from fedsim.privacy.attacks import Subject, coupled, release
from fedsim.privacy.attacks.checks import Check
from fedsim.privacy.audit import LowerBound, gaussian_epsilon
from fedsim.privacy.mechanisms import DPSGD
from fedsim.privacy.paper import PaperUnsound
from fedsim.privacy.verdict import LEVELS, Verdict, audit
from fedsim.verbs import Verbs
from fedsim.verbs import audit as verb
from tests.privacy.attacks.small import Small

NUMBERS = {"noise_multiplier": 5.0, "max_grad_norm": 1.0, "expected_batch": 200.0}
WORDS = ("consistent", "violation")


def bound(epsilon=1.61999):
    return LowerBound(epsilon, 0.95, 4.91, 1000, 3)


def verdict(epsilon=1.61999, claimed=3.8588):
    return Verdict("run", claimed, 1e-5, "PRV upper", True, bound(epsilon), "one-run, m=1000")


def subject(mechanism=None, **changes):
    mechanism = mechanism or DPSGD(**NUMBERS)
    one = Subject("tiny", mechanism, 3.8588, 1e-5, "PRV upper", mechanism.certified, 1.0, 20)
    return replace(one, **changes)


PAPER = NUMBERS | {
    "noise_multiplier": 8.0,
    "expected_batch": 256.0,
    "cosine_noise_multiplier": 8.0,
}


@pytest.fixture
def few(monkeypatch):
    """Few releases an attack, and one setting beside the mechanism's own."""
    monkeypatch.setattr(release, "TRIALS", 300)
    monkeypatch.setattr(coupled, "DRAWS", 100)
    monkeypatch.setattr(release, "GRID", release.GRID[:1])


@pytest.fixture
def fewest(few, monkeypatch):
    """So few that hardly anything can be found."""
    monkeypatch.setattr(release, "TRIALS", 60)


def test_the_line_says_claim_bound_confidence_cap_and_verdict():
    assert verdict().line() == (
        "claimed eps=3.86 (delta=1e-05, PRV upper) | "
        "audited eps>=1.61 (95%, one-run, m=1000, cap 4.9) | consistent"
    )
    assert verdict(4.9).line().endswith("eps>=4.90 (95%, one-run, m=1000, cap 4.9) | VIOLATION")
    uncertified = replace(verdict(), certified=False)
    assert uncertified.line().startswith("claimed eps=3.86 (delta=1e-05, PRV upper, no guarantee)")


def test_the_verdict_decides_the_exit_code():
    assert (verdict().exit_code, verdict().violation) == (0, False)
    assert (verdict(4.9).exit_code, verdict(4.9).violation) == (3, True)
    assert not verdict(3.8588).violation


def test_the_record_is_json_and_keeps_what_is_rounded():
    record = json.loads(json.dumps(plain(verdict(4.9).record()), allow_nan=False))
    assert record["audited_epsilon"] == 4.9
    assert record["claimed_epsilon"] == 3.8588
    assert record["violation"] is True
    assert record["line"] == verdict(4.9).line()
    assert record["level"] in LEVELS
    # A bound on one release is none on the training.
    assert record["epsilon_lower"] == 4.9
    assert replace(verdict(4.9), level="mechanism").record()["epsilon_lower"] is None


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_the_published_filter_ends_in_a_violation(few, noise):
    paper = PaperUnsound(**PAPER, noise=noise)
    lines = []
    found = audit(subject(paper), say=lines.append)
    assert found.exit_code == 3
    assert "exact Gaussian, one release" in found.line()
    assert "no guarantee" in found.line()
    assert found.bound.confidence == 0.95
    # The claim is that of the setting at which it fails.
    assert any(found.claimed == one["claimed_epsilon"] for one in found.details)
    assert len(found.details) == 8
    # What holds whatever the mechanism is comes first.
    assert "Gaussian DP" not in found.line()
    assert found.bound.epsilon - found.claimed == pytest.approx(
        max(one["audited_epsilon_plain"] - one["claimed_epsilon"] for one in found.details)
    )
    assert not any(word in line.lower() for line in lines for word in WORDS)


def test_plain_dp_sgd_does_not(fewest):
    lines = []
    found = audit(subject(), say=lines.append)
    assert found.exit_code == 0
    # Without a contradiction the line is about the mechanism's own values.
    assert found.claimed == pytest.approx(gaussian_epsilon(1 / 5.0, 1e-5))
    assert "sigma=5 L=200" in found.line()
    assert found.line().endswith("| consistent")
    assert not any(word in line.lower() for line in lines for word in WORDS)
    assert [line.split("  ")[0] for line in lines[2:4]] == ["sigma=5 L=200", "sigma=4 L=64"]
    assert audit(subject()) == found
    assert audit(subject(), seed=1) != found


def test_where_nothing_is_claimed_nothing_is_audited():
    silent = DPSGD(**(NUMBERS | {"noise_multiplier": 0.0}))
    for one in (subject(claimed_epsilon=None), subject(silent)):
        with pytest.raises(InputError, match="claims no finite epsilon"):
            audit(one)


@pytest.mark.parametrize("level", ["run", "lira"])
def test_a_level_that_needs_training_says_so(level):
    with pytest.raises(InputError, match=f"cannot be audited at the level '{level}'"):
        audit(subject(), level)


def test_a_training_is_audited_with_canaries():
    lines = []
    found = audit(Small(noise_multiplier=4.0).subject, "run", say=lines.append)
    assert found.line().startswith("claimed eps=")
    assert "95%, one-run, m=1000, cap 3.8) | consistent" in found.line()
    assert 0 <= found.bound.epsilon < found.claimed
    # How far it is can be seen, and no word of the verdict comes before it.
    assert [line.split(":")[0] for line in lines] == [f"run {k} of 5" for k in range(1, 6)]
    assert not any(word in line.lower() for line in lines for word in WORDS)
    record = found.record()
    assert not any(check["failed"] for check in record["checks"])
    assert len(record["checks"]) > 15


def test_a_check_that_fails_is_a_violation_and_says_why():
    noise = Check("noise", 1e-9, 1e-7, "the noise repeats")
    sound = Check("sampling", 0.5, 1e-7, "samples repeat")
    found = replace(verdict(), checks=(noise, noise, sound))
    assert found.violation
    assert found.exit_code == 3
    assert found.line().endswith(", cap 4.9) | the noise repeats | VIOLATION")
    assert not replace(verdict(), checks=(sound,)).violation


def test_a_claim_above_the_cap_says_so_in_the_verdict():
    above = verdict(claimed=4.92)
    assert above.line().endswith("cap 4.9, which the claim is above: out of reach) | consistent")
    assert above.record()["claim_above_cap"] is True
    assert verdict().record()["claim_above_cap"] is False
    without = replace(above, bound=replace(bound(), cap=None))
    assert "no cap" in without.line()
    assert without.record()["claim_above_cap"] is False


def test_finished_models_are_audited_by_membership():
    def remember_all(included, seed):
        return included + 0.01 * np.random.default_rng(seed).normal(size=len(included))

    lines = []
    one = subject(score_records=remember_all, records=600)
    found = audit(one, "lira", say=lines.append)
    assert "LiRA, one-run, m=600" in found.line()
    assert found.exit_code == 3
    assert "AUC 1.000" in lines[-1]
    above = audit(replace(one, claimed_epsilon=50.0), "lira", say=lines.append)
    assert "which the claim is above" in above.line()


# --- The verb ------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types `fedsim audit ...` where the scenario's mechanism is the one given."""

    def go(mechanism, *words):
        monkeypatch.setattr(
            auditing, "audit_subject", lambda scenario: subject(mechanism, name=scenario.name)
        )
        parser = argparse.ArgumentParser()
        verb.add(Verbs(parser))
        arguments = parser.parse_args(["audit", *words])
        return arguments.command(arguments), capsys.readouterr().out

    return go


PRIVATE = ("isic_noniid_fedavg", "privacy={noise_multiplier: 1.0}")


def test_the_verb_prints_one_verdict_at_the_end(few, typed):
    code, out = typed(PaperUnsound(**PAPER), *PRIVATE)
    *before, last = out.splitlines()
    assert code == 3
    assert last.endswith("| VIOLATION")
    assert before[0].startswith("isic_noniid_fedavg: claims epsilon 3.86")
    assert before[0].endswith("without a guarantee")
    assert not any(word in line.lower() for line in before for word in WORDS)
    code, out = typed(DPSGD(**NUMBERS), *PRIVATE, "--seed", "3")
    assert code == 0
    assert out.splitlines()[-1].endswith("| consistent")
    assert out.lower().count("consistent") == 1
    assert "violation" not in out.lower()


def test_the_verb_refuses_what_claims_nothing(typed):
    with pytest.raises(InputError, match="has no privacy block") as refused:
        typed(DPSGD(**NUMBERS), "isic_noniid_fedavg")
    assert refused.value.exit_code == 2
    with pytest.raises(InputError, match="claims no finite epsilon"):
        typed(DPSGD(**(NUMBERS | {"noise_multiplier": 0.0})), *PRIVATE)


def test_a_run_folder_stands_for_its_scenario(fewest, typed, tmp_path):
    from fedsim.scenario import source

    text = source("isic_noniid_fedavg") + "\nprivacy:\n  noise_multiplier: 1.0\n"
    (tmp_path / "scenario.yaml").write_text(text)
    with pytest.raises(InputError, match="not a run folder"):
        typed(DPSGD(**NUMBERS), str(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"seed": 2}))
    code, out = typed(DPSGD(**NUMBERS), str(tmp_path))
    assert code == 0
    assert out.startswith("isic_noniid_fedavg: claims")
    with pytest.raises(InputError, match="would change it"):
        typed(DPSGD(**NUMBERS), str(tmp_path), "rounds=2")
    with pytest.raises(InputError, match="is a run of seed 2"):
        typed(DPSGD(**NUMBERS), str(tmp_path), "--seed", "1")


def test_the_help_keeps_the_words_of_the_verdict_to_the_verdict(capsys):
    parser = argparse.ArgumentParser()
    verb.add(Verbs(parser))
    with pytest.raises(SystemExit):
        parser.parse_args(["audit", "--help"])
    shown = capsys.readouterr().out.lower()
    assert "--level" in shown
    assert not any(word in shown for word in WORDS)
