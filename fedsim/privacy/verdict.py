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
from fedsim.privacy.attacks.checks import Check
from fedsim.privacy.attacks.sources import Sources, sources
from fedsim.privacy.audit import LowerBound
from fedsim.randomness import Streams

Level = Literal["mechanism", "run", "lira"]
LEVELS: tuple[Level, ...] = get_args(Level)

SIGNIFICANCE = 0.05
"""With which probability a bound of an audit may be wrong, all its attacks together. Checks add
less than a hundredth of it."""


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
        checks: tests of what the claim takes for granted.
    """

    level: Level
    claimed: float
    delta: float
    basis: str
    certified: bool
    bound: LowerBound
    method: str
    details: tuple[dict[str, Any], ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def violation(self) -> bool:
        """Whether the bound contradicts the claim, or a check failed."""
        return self.bound.contradicts(self.claimed) or any(one.failed for one in self.checks)

    @property
    def out_of_reach(self) -> bool:
        """Whether the attack could not have contradicted the claim, whatever it had found."""
        return self.bound.out_of_reach(self.claimed)

    @property
    def exit_code(self) -> int:
        """That of `fedsim audit`."""
        return EXIT_AUDIT_VIOLATION if self.violation else EXIT_DONE

    def line(self) -> str:
        """The verdict in one line; only such a line contains its last word."""
        basis = self.basis if self.certified else f"{self.basis}, no guarantee"
        found_by = f"{100 * self.bound.confidence:.4g}%, {self.method}, {self._cap()}"
        told = dict.fromkeys(one.told for one in self.checks if one.failed)
        return " | ".join(
            [
                f"claimed eps={self.claimed:.2f} (delta={self.delta:g}, {basis})",
                f"audited eps>={_down(self.bound.epsilon)} ({found_by})",
                *(["; ".join(told)] if told else []),
                "VIOLATION" if self.violation else "consistent",
            ]
        )

    def _cap(self) -> str:
        if self.bound.cap is None:
            return "no cap"
        below = ", which the claim is above: out of reach"
        return f"cap {self.bound.cap:.1f}{below if self.out_of_reach else ''}"

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
            "claim_above_cap": self.out_of_reach,
            "trials": self.bound.trials,
            "errors": self.bound.errors,
            "method": self.method,
            "violation": self.violation,
            "line": self.line(),
            "details": list(self.details),
            "checks": [
                {
                    "check": one.name,
                    "p_value": one.p_value,
                    "limit": one.limit,
                    "failed": one.failed,
                }
                for one in self.checks
            ],
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
    if level == "mechanism":
        return _audit_mechanism(subject, sources(seed), say)
    if level == "run":
        return _audit_run(subject, claimed, seed, say)
    return _audit_membership(subject, claimed, Streams(seed), say, watch)


def require_level(subject: Subject, level: Level) -> float:
    """The epsilon that is claimed; InputError where there is none, or no attack on it."""
    if subject.claimed_epsilon is None or not subject.mechanism.accounted_noise_multiplier:
        raise InputError(
            f"nothing to audit: {subject.name} claims no finite epsilon",
            hint="set privacy.target_epsilon, or a privacy.noise_multiplier above 0; a run goes "
            "without an audit with privacy.audit=false",
        )
    attack = {"run": subject.training, "lira": subject.score_records}
    if attack.get(level, subject) is None:
        raise InputError(
            f"{subject.name} cannot be audited at the level {level!r}",
            hint="the level 'mechanism' needs no training; a run goes without an audit with "
            "privacy.audit=false",
        )
    return subject.claimed_epsilon


def _audit_mechanism(subject: Subject, noise: Sources, say: Callable[[str], None]) -> Verdict:
    from fedsim.privacy.attacks.release import (
        SAME_NOISE,
        TRIALS,
        attack_mechanism,
        attacks_on,
        setting_name,
        settings_of,
        share,
    )
    from fedsim.privacy.attacks.rows import attack_rows

    mechanism, more = subject.mechanism, len(subject.rows)
    names = [attack.name for attack in attacks_on(mechanism)]
    columns = [*names, SAME_NOISE] if mechanism.certified else names
    settings = settings_of(mechanism)
    say(
        f"{len(names) * len(settings)} attacks on one release of {type(mechanism).__name__}, "
        f"{TRIALS} times each without and with the record; each bound holds at "
        f"{100 * (1 - share(SIGNIFICANCE, mechanism, more)):.5g}%, "
        f"all together at {100 * (1 - SIGNIFICANCE):g}%"
    )
    width = max(len(setting_name(one)) for one in settings)
    say("  ".join(["setting".ljust(width), "claimed", *(name.rjust(11) for name in columns)]))
    findings = []
    for finding in attack_mechanism(
        mechanism, subject.delta, noise, trials=TRIALS, significance=SIGNIFICANCE, more=more
    ):
        findings.append(finding)
        if len(findings) % len(columns) == 0:
            row = findings[-len(columns) :]
            cells = [_down(one.bound.epsilon).rjust(11) for one in row]
            say("  ".join([finding.setting.ljust(width), f"{finding.claimed:7.2f}", *cells]))
    each = share(SIGNIFICANCE, mechanism, more)
    for finding in attack_rows(mechanism, subject.rows, subject.delta, noise, each):
        findings.append(finding)
        if finding.plain is not None:
            say(f"{finding.attack}: {_down(finding.bound.epsilon)}")
    # The worst contradiction anywhere, first of those that hold whatever the mechanism is; without
    # one, the best attack at the subject's own values.
    worst = max(findings, key=lambda one: (one.excess > 0 and one.bound is one.plain, one.excess))
    if worst.excess <= 0:
        worst = max(findings[: len(names)], key=lambda one: one.bound.epsilon)
    return Verdict(
        level="mechanism",
        claimed=worst.claimed,
        delta=subject.delta,
        basis=f"exact Gaussian, one release, {worst.setting}",
        certified=subject.certified,
        bound=replace(worst.bound, confidence=1 - SIGNIFICANCE),
        method=worst.method,
        details=tuple(
            {
                "attack": one.attack,
                "setting": one.setting,
                "claimed_epsilon": one.claimed,
                "audited_epsilon": one.bound.epsilon,
                "audited_epsilon_plain": one.plain and one.plain.epsilon,
            }
            for one in findings
        ),
        checks=tuple(check for one in findings for check in one.checks),
    )


def _audit_run(subject: Subject, claimed: float, seed: int, say: Callable[[str], None]) -> Verdict:
    from fedsim.privacy.attacks.training import CANARIES, attack_training

    assert subject.training is not None
    found = attack_training(
        subject.mechanism,
        subject.training,
        subject.sample_rate,
        subject.steps,
        subject.delta,
        seed,
        canaries=CANARIES,
        significance=SIGNIFICANCE,
        say=say,
    )
    return Verdict(
        level="run",
        claimed=claimed,
        delta=subject.delta,
        basis=subject.accountant,
        certified=subject.certified,
        bound=replace(found.bound, confidence=1 - SIGNIFICANCE),
        method=f"one-run, m={CANARIES}",
        checks=found.checks,
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
    return f"{math.floor(bound * 100) / 100:.2f}" if math.isfinite(bound) else "inf"
