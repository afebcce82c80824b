"""A node's own budget: what its records have paid over all runs, in a file that the node keeps.

The server counts epsilon, too. A node that has a limit does not rely on it: before each release it
charges its file, and refuses where the releases of all runs together would be above the limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.folder.runfolder import write_whole
from fedsim.locks import waited
from fedsim.privacy.accounting import (
    UNIT_NAMES,
    Entry,
    epsilon_upper,
    from_state,
    merge,
    to_state,
    would_exceed,
)
from fedsim.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class Spent:
    """What a file says that a node's records have paid.

    Attributes:
        unit: of what epsilon is told: "record" or "patient".
        delta: at which epsilon is told.
        releases: of all runs together.
        trainings: the name of a run -> how often it trained on the records.
    """

    unit: str
    delta: float
    releases: tuple[Entry, ...] = ()
    trainings: dict[str, int] = field(default_factory=dict)

    @property
    def epsilon(self) -> float:
        """What has been paid, by the best upper bound; 0 before the first release."""
        if not self.releases:
            return 0.0
        found = epsilon_upper(self.releases, self.delta).epsilon
        assert found is not None  # What has no epsilon was not charged.
        return found


class Budget:
    """The limit of a node, and the file in which it counts.

    Args:
        file: JSON; made with the first charge. A node whose file is lost has forgotten what it
            paid: keep it with the data.
        limit: the largest epsilon that the records may pay over all runs.
        delta: at which the limit holds; None: the first run's.
    """

    def __init__(self, file: Path, limit: float, delta: float | None = None) -> None:
        self.file, self.limit, self.delta = file, limit, delta

    def charge(self, plan: PrivacyPlan, name: str, run: str) -> Spent:
        """Count what one training releases, before it does; the file is on the disk then.

        Args:
            plan: what the node releases, of records or patients.
            name: of the client that the node is, in the plan.
            run: the name of the run.

        Raises:
            InputError: the records would pay more than the limit, the run has no proof or another
                unit than those before, or the file cannot be used.
        """
        if not plan.certified:
            raise InputError(
                "this node has an epsilon-limit, and nothing is proved of the run's mechanism: it "
                "sends nothing"
            )
        entry = plan.clients[name].entry
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with waited(self.file.parent):
            before = self._read(plan)
            self._require_left(before, [entry])
            counts = before.trainings | {run: before.trainings.get(run, 0) + 1}
            after = Spent(before.unit, before.delta, merge([*before.releases, entry]), counts)
            self._write(after)
        return after

    def _require_left(self, before: Spent, planned: Iterable[Entry]) -> None:
        if would_exceed(before.releases, planned, before.delta, self.limit):
            raise InputError(
                f"this node has paid epsilon {before.epsilon:.4g} at delta {before.delta:g} for "
                f"every {UNIT_NAMES[before.unit]}, and one more training would take it above its "  # type: ignore[index]
                f"epsilon-limit of {self.limit:g}: it sends nothing"
            )

    def _read(self, plan: PrivacyPlan) -> Spent:
        delta = self.delta or plan.settings.delta
        if not self.file.exists():
            return Spent(plan.unit, delta)
        try:
            values: Any = json.loads(self.file.read_text(encoding="utf-8"))
            found = Spent(
                str(values["unit"]),
                float(values["delta"]),
                from_state(values["releases"]),
                {str(run): int(count) for run, count in values["trainings"].items()},
            )
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the node's file of paid epsilon cannot be used: {type(error).__name__}: it sends "
                "nothing",
                hint=f"bring {self.file} back: without it nobody knows what the records have paid",
            ) from error
        if found.unit != plan.unit:
            raise InputError(
                f"this node counts epsilon of every {UNIT_NAMES[found.unit]}, and the run protects "  # type: ignore[index]
                f"every {UNIT_NAMES[plan.unit]}: it sends nothing"
            )
        if self.delta is not None and self.delta != found.delta:
            raise InputError(
                f"this node counts at delta {found.delta:g}, and its epsilon-delta is "
                f"{self.delta:g}: it sends nothing"
            )
        return found

    def _write(self, spent: Spent) -> None:
        values = {
            "unit": spent.unit,
            "delta": spent.delta,
            "epsilon": spent.epsilon,
            "releases": to_state(spent.releases),
            "trainings": spent.trainings,
        }
        write_whole(self.file, json.dumps(values, indent=2).encode() + b"\n")
