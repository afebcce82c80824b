"""The privacy ledger: what every client has released so far, and what its next training costs.

It lies with the driver, outside the clients, and is told of every exchange in which clients train
before anybody is asked: releases count whether or not the reply arrives. Partial participation does
not amplify: the server knows who took part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fedsim.privacy.accounting import (
    ADJACENCY,
    UNIT_NAMES,
    Entry,
    epsilon_rdp,
    from_state,
    joint,
    largest,
    largest_rdp,
    largest_upper,
    merge,
    to_state,
    would_exceed,
)
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.secure_sum import assumption

RANDOMNESS = {
    "seeded": "simulation-grade: whoever knows the seed can remove the noise",
    "secret": "secret: from a key of the operating system that is erased when the run is done",
}
"""What `privacy.noise` means, as run.json says it."""

Histories = dict[str, tuple[Entry, ...]]


class PrivacyLedger:
    """Adds up releases by client.

    Args:
        plan: what a client releases in an exchange in which it trains.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self.plan = plan
        self._names = list(plan.clients)
        # Of those that released something: who never joined costs nothing, in no line or file.
        self._spent: Histories = {}
        self._epsilon: dict[str, float | None] = {}  # by RDP, of the same

    def exhausted(self, clients: Sequence[int]) -> list[int]:
        """Which of these clients one more training would take above `max_epsilon`."""
        settings = self.plan.settings
        if settings.max_epsilon is None:
            return []
        if settings.shared_patients:
            planned = [self.plan.clients[self._names[client]].entry for client in clients]
            spent = joint(self._spent.values())
            over = would_exceed(spent, planned, settings.delta, settings.max_epsilon)
            return list(clients) if over else []
        return [
            client
            for client in clients
            if would_exceed(
                self._spent.get(self._names[client], ()),
                [self.plan.clients[self._names[client]].entry],
                settings.delta,
                settings.max_epsilon,
            )
        ]

    def charge(self, round: int, clients: Sequence[int], exchange: int = 0) -> list[dict[str, Any]]:
        """Count the releases of an exchange; the rows of privacy.jsonl."""
        settings, rows = self.plan.settings, []
        for client in clients:
            name = self._names[client]
            entry = self.plan.clients[name].entry
            self._spent[name] = merge([*self._spent.get(name, ()), entry])
            own = epsilon_rdp([entry], settings.delta)
            total = self._epsilon[name] = epsilon_rdp(self._spent[name], settings.delta)
            rows.append(
                {
                    "round": round,
                    "exchange": exchange,
                    "client": client,
                    "unit": self.plan.unit,
                    "mechanism": mechanism_name(self.plan),
                    "noise_multiplier": entry.noise_multiplier,
                    "sample_rate": entry.sample_rate,
                    "steps": entry.steps,
                    "epsilon_round": own if self.plan.certified else None,
                    "epsilon_total": total if self.plan.certified else None,
                    "epsilon_claimed": None if self.plan.certified else total,
                    "delta": settings.delta,
                    "certified": self.plan.certified,
                }
            )
        return rows

    def row(self, clients: Iterable[int]) -> dict[str, Any]:
        """The entries of a line of rounds.jsonl: epsilon so far.

        `epsilon_by_client` names those who were asked in the round: what the others have spent is
        in the lines before, and a line does not grow with the clients there are.

        `epsilon` is RDP's in every line. The noise may have been found by a tighter bound, and RDP
        alone would then say that a run exceeds what it keeps to. So `epsilon_upper`, which is what
        is claimed, stands beside it.

        Args:
            clients: who was asked in the round.
        """
        settings = self.plan.settings
        if settings.shared_patients:
            worst = epsilon_rdp(joint(self._spent.values()), settings.delta)
        else:
            worst = largest(self._epsilon.values())
        best = largest_upper(self._histories(), settings.delta)
        certified = self.plan.certified
        return {
            "epsilon": worst if certified else None,
            "epsilon_upper": best.epsilon if certified else None,
            "epsilon_claimed": None if certified else best.epsilon,
            "epsilon_by_client": {
                str(client): self._epsilon.get(self._names[client], 0.0) if certified else None
                for client in clients
            },
            "accountant": best.accountant,
            "delta": settings.delta,
            "unit": self.plan.unit,
            "trust": self.plan.settings.trust,
            "certified": certified,
        }

    def summary(self) -> dict[str, Any]:
        """The entries of summary.json: the best upper bound, and that of RDP."""
        delta, certified = self.plan.settings.delta, self.plan.certified
        worst = largest_rdp(self._histories(), delta)
        best = largest_upper(self._histories(), delta)
        return {
            "epsilon": best.epsilon if certified else None,
            "epsilon_rdp": worst if certified else None,
            "epsilon_claimed": None if certified else best.epsilon,
            "accountant": best.accountant,
            "delta": delta,
            "unit": self.plan.unit,
            "unit_note": unit_note(self.plan),
            "trust": self.plan.settings.trust,
            "trust_note": trust_note(self.plan),
            "certified": certified,
        }

    def _histories(self) -> list[tuple[Entry, ...]]:
        """What a unit pays for: each client's releases, or all where it may be at all clients."""
        if self.plan.settings.shared_patients:
            return [joint(self._spent.values())]
        return sorted(set(self._spent.values()))

    def state_dict(self) -> dict[str, Any]:
        """What every client has released that released something."""
        return {name: to_state(history) for name, history in self._spent.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        histories = {name: from_state(entries) for name, entries in state.items()}
        self._spent = {name: history for name, history in histories.items() if history}
        delta = self.plan.settings.delta
        self._epsilon = {name: epsilon_rdp(one, delta) for name, one in self._spent.items()}


NO_PRIVACY: dict[str, Any] = {
    "epsilon": None,
    "epsilon_upper": None,
    "epsilon_claimed": None,
    "epsilon_by_client": None,
    "accountant": None,
    "delta": None,
    "unit": None,
    "trust": None,
    "certified": False,
}
"""The entries of a line of rounds.jsonl in a run without a mechanism."""

NO_PRIVACY_SUMMARY: dict[str, Any] = {
    "epsilon": None,
    "epsilon_rdp": None,
    "epsilon_claimed": None,
    "accountant": None,
    "delta": None,
    "unit": None,
    "unit_note": None,
    "trust": None,
    "trust_note": None,
    "certified": False,
}
"""The same of summary.json."""


def mechanism_name(plan: PrivacyPlan) -> str:
    """The mechanism with its filter, as privacy.jsonl names it."""
    kind = plan.settings.filter
    return plan.settings.mechanism + (f"+{kind.reference}" if kind else "")


def unit_note(plan: PrivacyPlan) -> str | None:
    """What a guarantee for records means for those of whom there are several; None: nothing."""
    if plan.most_records < 2:
        return None
    name = UNIT_NAMES["patient"]
    return (
        f"epsilon is of one record: a {name} with k records has about k times epsilon, and one "
        f"here has {plan.most_records}"
    )


def trust_note(plan: PrivacyPlan) -> str | None:
    """What a guarantee takes for granted of the clients together; None: nothing."""
    return assumption(len(plan.clients)) if plan.shares_noise else None


def describe(plan: PrivacyPlan) -> dict[str, Any]:
    """The `privacy` entry of run.json: what was planned, and what the numbers mean.

    Epsilon is the best upper bound; a rule without a proof has none, only what it claims.
    """
    settings, bound = plan.settings, plan.bound()
    proved, claimed = (bound.epsilon, None) if plan.certified else (None, bound.epsilon)
    return {
        "mechanism": mechanism_name(plan),
        "certified": plan.certified,
        "unit": plan.unit,
        "unit_note": unit_note(plan),
        "most_records": plan.most_records,
        "trust": settings.trust,
        "trust_note": trust_note(plan),
        "adjacency": ADJACENCY[plan.unit],
        "across_clients": "sum" if settings.shared_patients else "max",
        "delta": settings.delta,
        "max_grad_norm": settings.max_grad_norm,
        "noise_multiplier": plan.noise_multiplier,
        "target_epsilon": settings.target_epsilon,
        "max_epsilon": settings.max_epsilon,
        "epsilon_planned": proved,
        "epsilon_planned_rdp": plan.epsilon() if plan.certified else None,
        "epsilon_claimed_planned": claimed,
        "accountants": {
            "epsilon_planned": bound.accountant,
            "rounds.jsonl": "rdp; epsilon_upper: as each line names it",
            "summary.json": "analytic, prv or rdp",
        },
        "randomness": RANDOMNESS[settings.noise],
        "clients": {
            name: {
                "units": client.units,
                "sample_rate": client.sample_rate,
                "steps": client.steps,
                "noise_multiplier": client.entry.noise_multiplier,
            }
            for name, client in plan.clients.items()
        },
    }
