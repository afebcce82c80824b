"""Claimed epsilon and audited lower bound side by side: one line, and whether they contradict.

`consistent` says that the attacks of this audit did not contradict the claim, no more. The claim
may be false all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from fedsim.errors import EXIT_AUDIT_VIOLATION, EXIT_DONE, InputError
from fedsim.privacy.attacks import Subject, Watch
from fedsim.privacy.audit import LowerBound
from fedsim.privacy.noise import Noise
from fedsim.randomness import Streams

Level = Literal["mechanism", "run", "lira"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Verdict:
    """What an audit found.

    Attributes:
        level: what was attacked.
        claimed: the epsilon that is tested.
        delta: the delta of claim and bound.
        basis: where the claim comes from, such as "PRV upper".
        certified: whether the claim is proved.
        bound: the lower bound.
        method: how it was found, such as "one-run, m=1000".
        details: further findings, plain values.
    """

    level: Level
    claimed: float
    delta: float
    basis: str
    certified: bool
    bound: LowerBound
    method: str
    details: tuple[dict[str, Any], ...] = ()

    @property
    def violation(self) -> bool:
        """Whether the bound contradicts the claim."""
        return self.bound.contradicts(self.claimed)

    @property
    def exit_code(self) -> int:
        """That of `fedsim audit`."""
        return EXIT_AUDIT_VIOLATION if self.violation else EXIT_DONE

    def line(self) -> str:
        """The verdict in one line; only such a line contains its last word."""
        basis = self.basis if self.certified else f"{self.basis}, no guarantee"
        found_by = f"{100 * self.bound.confidence:g}%, {self.method}, cap {self.bound.cap:.1f}"
        return (
            f"claimed eps={self.claimed:.2f} (delta={self.delta:g}, {basis}) | "
            f"audited eps>={_down(self.bound.epsilon)} ({found_by}) | "
            f"{'VIOLATION' if self.violation else 'consistent'}"
        )

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; `epsilon_lower` is None where no training was attacked."""
        return {
            "level": self.level,
            "epsilon_lower": None if self.level == "mechanism" else self.bound.epsilon,
            "claimed_epsilon": self.claimed,
            "delta": self.delta,
            "basis": self.basis,
            "certified": self.certified,
            "audited_epsilon": self.bound.epsilon,
            "confidence": self.bound.confidence,
            "cap": self.bound.cap,
            "trials": self.bound.trials,
            "errors": self.bound.errors,
            "method": self.method,
            "violation": self.violation,
            "line": self.line(),
            "details": list(self.details),
        }


def audit(
    subject: Subject,
    level: Level = "mechanism",
    seed: int = 0,
    *,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = iter,
) -> Verdict:
    """Attack a subject and compare what the attack proves with the claim.

    Args:
        subject: what is examined.
        level: "mechanism" attacks one release with the worst records, "run" the training with
            canaries, "lira" finished models.
        seed: of the attack.
        say: takes the lines that come before the verdict.
        watch: shows how far what takes long is.

    Raises:
        InputError: nothing is claimed, or the subject cannot be attacked at this level.
    """
    claimed = require_level(subject, level)
    streams = Streams(seed)
    if level == "mechanism":
        verdict = _audit_mechanism(subject, streams, say)
    elif level == "run":
        verdict = _audit_run(subject, claimed, streams)
    else:
        verdict = _audit_membership(subject, claimed, streams, say, watch)
    if verdict.claimed >= verdict.bound.cap:
        say("the claim is above the cap: so few trials cannot contradict it, whatever happens")
    return verdict


def require_level(subject: Subject, level: Level) -> float:
    """The epsilon that is claimed; InputError where there is none, or no attack on it."""
    if subject.claimed_epsilon is None or not subject.mechanism.accounted_noise_multiplier:
        raise InputError(
            f"nothing to audit: {subject.name} claims no finite epsilon",
            hint="set privacy.target_epsilon, or a privacy.noise_multiplier above 0; a run goes "
            "without an audit with privacy.audit=false",
        )
    attack = {"run": subject.train_with, "lira": subject.score_records}
    if attack.get(level, subject) is None:
        raise InputError(
            f"{subject.name} cannot be audited at the level {level!r}",
            hint="the level 'mechanism' needs no training; a run goes without an audit with "
            "privacy.audit=false",
        )
    return subject.claimed_epsilon


def _audit_mechanism(subject: Subject, streams: Streams, say: Callable[[str], None]) -> Verdict:
    from fedsim.privacy.attacks.release import (
        TRIALS,
        attack_mechanism,
        attacks_on,
        setting_name,
        settings_of,
    )

    mechanism, significance = subject.mechanism, 0.05
    names = [attack.name for attack in attacks_on(mechanism)]
    settings = settings_of(mechanism)
    number = len(names) * len(settings)
    say(
        f"{number} attacks on one release of {type(mechanism).__name__}, {TRIALS} times each "
        f"without and with the record; each holds at {100 * (1 - significance / number):.4g}%, "
        f"all together at {100 * (1 - significance):g}%"
    )
    width = max(len(setting_name(one)) for one in settings)
    say("  ".join(["setting".ljust(width), "claimed", *(name.rjust(11) for name in names)]))
    findings = []
    rng = Noise.seeded(f"audit {streams.seed}".encode())
    for finding in attack_mechanism(
        mechanism, subject.delta, rng, trials=TRIALS, significance=significance
    ):
        findings.append(finding)
        if len(findings) % len(names) == 0:
            row = findings[-len(names) :]
            cells = [_down(one.bound.epsilon).rjust(11) for one in row]
            say("  ".join([finding.setting.ljust(width), f"{finding.claimed:7.2f}", *cells]))
    # The worst contradiction anywhere; without one, the best attack at the subject's own values.
    worst = max(findings, key=lambda one: one.excess)
    if worst.excess <= 0:
        worst = max(findings[: len(names)], key=lambda one: one.bound.epsilon)
    return Verdict(
        level="mechanism",
        claimed=worst.claimed,
        delta=subject.delta,
        basis=f"exact Gaussian, one release, {worst.setting}",
        certified=subject.certified,
        bound=replace(worst.bound, confidence=1 - significance),
        method=f"{worst.attack}, n={TRIALS}+{TRIALS}",
        details=tuple(
            {
                "attack": one.attack,
                "setting": one.setting,
                "claimed_epsilon": one.claimed,
                "audited_epsilon": one.bound.epsilon,
            }
            for one in findings
        ),
    )


def _audit_run(subject: Subject, claimed: float, streams: Streams) -> Verdict:
    from fedsim.privacy.attacks.canaries import CANARIES, attack_training

    assert subject.train_with is not None
    bound = attack_training(
        subject.mechanism,
        subject.train_with,
        subject.sample_rate,
        subject.steps,
        subject.delta,
        streams.torch("audit"),
    )
    return Verdict(
        level="run",
        claimed=claimed,
        delta=subject.delta,
        basis=subject.accountant,
        certified=subject.certified,
        bound=bound,
        method=f"one-run, m={CANARIES}",
    )


def _audit_membership(
    subject: Subject, claimed: float, streams: Streams, say: Callable[[str], None], watch: Watch
) -> Verdict:
    from fedsim.privacy.attacks.membership import lira

    assert subject.score_records is not None
    rng = streams.numpy("audit")
    found = lira(subject.score_records, subject.records, subject.delta, rng, watch=watch)
    say(
        f"membership: AUC {found.auc:.3f}, true positives at 1% false ones "
        f"{found.tpr_at_1_percent_fpr:.3f}, {found.shadows} shadow models"
    )
    return Verdict(
        level="lira",
        claimed=claimed,
        delta=subject.delta,
        basis=subject.accountant,
        certified=subject.certified,
        bound=found.bound,
        method=f"LiRA, one-run, m={subject.records}",
        details=({"auc": found.auc, "tpr_at_1_percent_fpr": found.tpr_at_1_percent_fpr},),
    )


def _down(bound: float) -> str:
    """A lower bound with two decimals, rounded down: as printed it still holds."""
    return f"{math.floor(bound * 100) / 100:.2f}"
