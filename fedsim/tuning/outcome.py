"""What came of a tuning: its table, its best line, and what is written of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.folder.runfolder import SCHEMA_VERSION, write_whole
from fedsim.folder.tuned import ABOUT
from fedsim.privacy.selection import Stopping
from fedsim.report.csv_file import csv_bytes
from fedsim.terminal.printing import duration
from fedsim.tuning.charge import VALIDATION, Cost
from fedsim.tuning.space import Choice, Dimension
from fedsim.tuning.study import versions
from fedsim.tuning.trials import Plan, Tuning

_SHOWN = 10
_ELSEWHERE = "give it a folder of its own: --name NAME"
# Entries of tuning.json that decide which trials there are; with more of them the first are alike.
_OF_TRIALS = (
    "scenario",
    "words",
    "space",
    "metric",
    "seed",
    "batch",
    "sampler",
    "stop_early",
    "software",
)


@dataclass(frozen=True)
class Charge:
    """What a private tuning is charged with.

    Attributes:
        cost: of one trial.
        trials: how many there are; with `stopping`, in the mean.
        stopping: how their random number is distributed; None: it is no random number.
    """

    cost: Cost
    trials: int
    stopping: Stopping | None

    @property
    def epsilon(self) -> float | None:
        """Epsilon of the tuning; None where it is not charged."""
        if self.stopping is None:
            return self.cost.of_all(self.trials)
        return self.cost.of_best(self.stopping, self.trials)

    def line(self) -> str:
        """What a person is told."""
        if self.cost.curve is None:
            return (
                "privacy: UNCHARGED: epsilon of the run that is chosen does not count the trials: "
                f"{self.cost.why}; {VALIDATION}"
            )
        one, all_ = _epsilon(self.cost.of_one()), _epsilon(self.epsilon)
        what = (
            f"all {self.trials} trials together have epsilon {all_}"
            if self.stopping is None
            else f"the best of a random number of trials ({self.stopping}, mean {self.trials}) has "
            f"epsilon {all_}, if no other trial is published"
        )
        return (
            f"privacy: a trial has epsilon {one}; {what} (delta {self.cost.delta:g}, RDP); "
            f"{VALIDATION}"
        )

    def record(self) -> dict[str, Any]:
        """The entry of tuning.json."""
        charged = self.cost.curve is not None
        return {
            "charged": charged,
            "why_not": self.cost.why or None,
            "epsilon_of_a_trial": self.cost.of_one(),
            "epsilon": self.epsilon,
            "delta": self.cost.delta,
            "accountant": "rdp",
            "by": "adaptive composition" if self.stopping is None else f"{self.stopping} stopping",
            "validation": VALIDATION,
        }


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.3g}"


def table(tuning: Tuning) -> str:
    """The best trials, best first, and how many there are of the others."""
    plan = tuning.plan
    sign = -1 if plan.measured.better == "higher" else 1
    done = [one for one in tuning.trials if one.status == "done"]
    done.sort(key=lambda one: (sign * (one.score or 0.0), one.number))
    keys = list(tuning.trials[0].values) if tuning.trials else []
    rows = [["trial", plan.metric, *keys, "rounds", "time"]]
    for one in done[:_SHOWN]:
        told = "" if one.seconds is None else duration(one.seconds)
        rows.append([str(one.number), plan.measured.text(one.score or 0.0)])
        rows[-1] += [*one.values.values(), str(one.rounds), told]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in rows]
    counts = {
        "finished": len(done),
        "stopped early": sum(one.status == "stopped" for one in tuning.trials),
        "failed": sum(one.status == "failed" for one in tuning.trials),
    }
    told_counts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    more = f"; the best {_SHOWN} are shown" if len(done) > _SHOWN else ""
    return "\n".join([*lines, f"{len(tuning.trials)} trials: {told_counts or 'none ended'}{more}"])


def best_command(tuning: Tuning) -> str:
    """The line that runs the best values, or ""."""
    words = best_words(tuning)
    return "" if words is None else shlex.join(["fedsim", "run", tuning.plan.source, *words])


def best_words(tuning: Tuning) -> list[str] | None:
    """The words after the scenario's name that stand for the best trial."""
    best = tuning.best
    return None if best is None else [*tuning.plan.words, *best.words]


def _asked(plan: Plan, space: list[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of tuning.json that are known before there are trials."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": sys.argv,
        "scenario": plan.source,
        "words": list(plan.words),
        "space": {one.key: _told(one) for one in space},
        "metric": plan.metric,
        "better": plan.measured.better,
        "model": "best round" if plan.best_round else "last round",
        "seed": plan.seed,
        "trials": plan.count,
        "batch": plan.batch,
        **settings,
        "software": dict(versions()),
    }


def about(tuning: Tuning, space: list[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of tuning.json."""
    best = tuning.best
    return {
        **_asked(tuning.plan, space, settings),
        "ended": len([one for one in tuning.trials if one.status != "waiting"]),
        "best": best
        and {
            "trial": best.number,
            tuning.plan.metric: best.score,
            "values": dict(best.values),
            "command": best_command(tuning),
        },
    }


def held(folder: Path) -> dict[str, Any] | None:
    """What the tuning.json of a folder says; None: there is none.

    Raises:
        InputError: it is none.
    """
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / ABOUT} cannot be read: {error}", hint=_ELSEWHERE) from error
    return found if isinstance(found, dict) else {}


def trials_before(folder: Path) -> int:
    """How many trials the tuning in a folder has; 0: there is none.

    Raises:
        InputError: its tuning.json cannot be read.
    """
    found = (held(folder) or {}).get("trials")
    return found if isinstance(found, int) else 0


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Entries of tuning.json in which two tunings differ that have other trials therefore."""
    by = [(told.get("privacy") or {}).get("by") for told in (one, other)]
    found = [key for key in _OF_TRIALS if one.get(key) != other.get(key)]
    return found if by[0] == by[1] else [*found, "privacy.by"]


def require_own_folder(
    plan: Plan, space: list[Dimension], settings: Mapping[str, Any], folder: Path
) -> str:
    """What a person must know of another tuning in the same folder; "": there is none.

    Raises:
        InputError: this one is private: what it costs does not count the trials of another.
    """
    earlier = held(folder)
    if earlier is None:
        return ""
    found = differences(earlier, _asked(plan, space, settings))
    if not found:
        return ""
    told = ", ".join(found)
    if settings["privacy"] is not None:
        raise InputError(
            f"{folder} holds the trials of another tuning (another {told}), which are not counted "
            "in what this one costs: where both are published their epsilons add up",
            hint=_ELSEWHERE,
        )
    return (
        f"{folder} held another tuning (another {told}): trials.csv and {ABOUT} are replaced, "
        "its runs stay"
    )


def write(
    tuning: Tuning, space: list[Dimension], settings: Mapping[str, Any], page: str, folder: Path
) -> None:
    """Write trials.csv, tuning.json and index.html into a folder.

    Args:
        settings: entries of tuning.json beside the trials.
        page: of the tuning, as `fedsim.tuning.page` makes it.

    Raises:
        InputError: they cannot be written.
    """
    plan, keys = tuning.plan, [one.key for one in space]
    header = ["trial", "status", plan.metric, "stopped_after", "rounds_scored", "seconds"]
    rows: list[list[Any]] = [[*header, *keys, "seed", "run", "error"]]
    for one in tuning.trials:
        entry = one.entry
        run = None if entry is None or entry.folder is None else str(entry.folder)
        rows.append([one.number, one.status, one.score, one.stopped_at, one.rounds, one.seconds])
        rows[-1] += [*(one.values[key] for key in keys), entry and entry.cell.seed, run]
        rows[-1].append(one.error or None)
    try:
        write_whole(folder / "trials.csv", csv_bytes(rows))
        text = json.dumps(about(tuning, space, settings), indent=2, allow_nan=False) + "\n"
        write_whole(folder / ABOUT, text.encode())
        write_whole(folder / "index.html", page.encode())
    except OSError as error:
        raise InputError(
            f"cannot write in {folder}: {error.strerror}",
            hint="choose another place: --runs DIR or --name NAME",
        ) from error


def _told(one: Dimension) -> str:
    """A key's values as they are typed."""
    if isinstance(one, Choice):
        return f"choice({','.join(one.values)})"
    return f"{one.scale}({','.join(one.ends)})"
