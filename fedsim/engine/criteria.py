"""What is left of a client in a model that it was taken out of, and what that cost.

Measured on the records that the client trained with, on records of the same site that nobody
trained with, and on the test records of all other sites. The reference is a model that was trained
again without the client: no number says that something is forgotten, only that it cannot be told
from that model with so many records.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedsim.engine.assembly import assembled
from fedsim.engine.forgetting import FALLING, Asked, Finished, falls, whom
from fedsim.engine.prepare import Prepared, prepare
from fedsim.engine.result import Result
from fedsim.engine.running import Starter
from fedsim.engine.scoring import Scoring
from fedsim.errors import InputError
from fedsim.folder.runfolder import MODEL, RunFolder
from fedsim.observers.telling import Observers
from fedsim.randomness import Streams
from fedsim.report.leakage.membership import membership_attack
from fedsim.scenario.schema import Evaluation, PluginBlock
from fedsim.tasks.segmentation.metrics import dice
from fedsim.tasks.task import Task
from fedsim.unlearning.procedures import WITHOUT_HISTORY
from fedsim.wire import tensor_record

FILE = "unlearning.json"
"""In `report/` of the run folder of an unlearned model."""
RELEARNING = 10
"""Rounds of the client's own training that are tried, at most."""
_NEAR = 0.01
_REPLICATES = 2000
# Beyond this a share of some hundred stamped images differs by more than their scatter.
_MARKED = 0.1
# A bootstrap of fewer records has intervals that are too short.
_FEWEST = 10

Floats = NDArray[np.float64]


def record_losses(task: Task, predicted: NDArray[Any], view: Any) -> Floats:
    """How badly each record is predicted, float64 [n]; the smaller, the better it is known.

    Of classes the negative log-probability of the label, of outlines 1 - Dice, of one number a
    record that number or, where more is better, its negative.
    """
    if task.gives_probabilities:
        labels = np.asarray(view.labels)
        return -np.log(np.maximum(predicted[np.arange(len(labels)), labels], 1e-12)).astype(float)
    if predicted.ndim == 1:
        return np.asarray(predicted, float) * (-1 if task.merit({task.headline: 1.0}) == 1 else 1)
    overlaps = dice(np.asarray(predicted, np.int64).sum(1))  # Of slices, [n, slices, parts, 3].
    return 1 - np.nanmean(overlaps, axis=tuple(range(1, overlaps.ndim)))


class Judge:
    """Measures models of one federation, of which one client leaves.

    Args:
        finished: the run that trained with all.
        asked: who leaves, or which records are forgotten.
        starter: is told of preparations.
    """

    def __init__(self, finished: Finished, asked: Asked, starter: Starter) -> None:
        self.finished, self.client = finished, asked.client
        self.prepared = self._prepared(finished, asked, starter)
        self._scoring = Scoring(self.prepared)
        self._views = self._positions(asked)

    @staticmethod
    def _prepared(finished: Finished, asked: Asked, starter: Starter) -> Prepared:
        from fedsim.scenario import load

        scenario = load(finished.path / "scenario.yaml", finished.words(asked))
        return prepare(scenario, finished.record["seed"], starter.say, starter.progress)

    def _positions(self, asked: Asked) -> dict[str, NDArray[np.int64]]:
        """Positions in the store: what was trained with, what nobody trained with, the others."""
        federation, client = self.prepared.federation, self.client
        store, test = federation.store, federation.split["test"]
        trained = federation.train[client]
        if asked.forget:
            trained = federation.forget[client]
        sites = list(store.site_names)
        if set(self.prepared.names) <= set(sites):
            code = sites.index(client)
            unseen = np.concatenate([test, federation.split["val"]])
            unseen = np.sort(unseen[store.sites[unseen] == code])
            others = test[store.sites[test] != code]
        else:  # Clients are no sites: what they hold of other splits is for validation alone.
            unseen, others = federation.val[client], test
        return {"trained": trained, "unseen": unseen, "others": others}

    @cached_property
    def before(self) -> dict[str, Any]:
        """Of the model that was trained with all."""
        return self.of(load_file(self.finished.path / MODEL))

    def of(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """What a model still can, and what it still knows of the client."""
        task, found = self.prepared.task, {}
        self._scoring.fits(tensor_record(dict(arrays)))
        losses: dict[str, Floats] = {}
        labels = {}
        for name, positions in self._views.items():
            view = task.view(self.prepared.federation.store, positions)
            predicted = task.predict(self._scoring.model, view, self._scoring.device)
            scores = task.score(predicted, view, per_site=True)
            found[name] = self._utility(scores) if name == "others" else scores[task.headline]
            if name != "others":
                losses[name] = record_losses(task, predicted, view)
                labels[name] = self._labels(view, len(positions))
        attack = membership_attack(
            losses["trained"],
            labels["trained"],
            losses["unseen"],
            labels["unseen"],
            task.classes if task.gives_probabilities else ("all",),
            Streams(self.finished.record["seed"]).numpy("membership"),
        )
        kept = ("auc", "auc_low", "auc_high", "members", "non_members")
        return {
            "utility": found["others"],
            "trained": found["trained"],
            "unseen": found["unseen"],
            "losses": {name: values.tolist() for name, values in losses.items()},
            "membership": None if attack is None else {key: attack[key] for key in kept},
        }

    def _labels(self, view: Any, count: int) -> NDArray[np.int64]:
        if self.prepared.task.gives_probabilities:
            return np.asarray(view.labels, np.int64)
        return np.zeros(count, np.int64)

    def _utility(self, scores: Mapping[str, float | None]) -> float | None:
        """The mean over the other sites, each counting alike; of the whole where there are none."""
        headline = self.prepared.task.headline
        each = {k: v for k, v in scores.items() if k.startswith(f"{headline}@") and v is not None}
        left = [value for key, value in each.items() if key != f"{headline}@{self.client}"]
        return fmean(left) if left else scores[headline]

    def utility_of_round(self, row: Mapping[str, Any]) -> float | None:
        """The same of a line of rounds.jsonl; None where it was not scored."""
        metrics = row["metrics"]
        return self._utility(metrics) if self.prepared.task.headline in metrics else None

    def relearning(self, arrays: Mapping[str, NDArray[Any]]) -> int | None:
        """Rounds of the client's own training until its score is back; None: not within ten.

        Back is the score of the model that was trained with all, but for 0.01. The rounds have no
        clock: they wait for the client, however late a deadline would find its reply.
        """
        task, wanted = self.prepared.task, task_merit(self.prepared.task, self.before["trained"])
        if wanted is None:
            return None
        federation = self.prepared.federation
        scenario = self.prepared.scenario
        again = self.prepared.again(
            {self.client: federation.train[self.client]},
            rounds=RELEARNING,
            strategy=PluginBlock(name="fedavg"),
            evaluation=Evaluation(every=RELEARNING),
            resources=scenario.resources.model_copy(update={"backend": "inline"}),
            federation=scenario.federation.model_copy(update={"participation": 1.0}),
        )
        with assembled(again, Observers()) as running:
            running.arrays = tensor_record(dict(arrays))
            for number in range(RELEARNING + 1):
                if number:
                    running.run(number)
                score = self._trained(task, running.arrays)
                if score is not None and score >= wanted - _NEAR:
                    return number
        return None

    def _trained(self, task: Task, arrays: ArrayRecord) -> float | None:
        """How good a model is on the records that the client trained with."""
        self._scoring.fits(arrays)
        view = task.view(self.prepared.federation.store, self._views["trained"])
        predicted = task.predict(self._scoring.model, view, self._scoring.device)
        return task_merit(task, task.score(predicted, view)[task.headline])


def task_merit(task: Task, score: float | None) -> float | None:
    """A score as a number that is the larger, the better it is."""
    return task.merit({task.headline: score})


def measured(judge: Judge, asked: Asked, result: Result, history: float) -> dict[str, Any]:
    """All that is told of an unlearned model.

    Args:
        judge: of the federation.
        asked: what was asked for.
        result: of the run that took the client out.
        history: megabytes that had to be kept for it.
    """
    arrays = load_file(result.folder / MODEL)
    first = judge.finished.scenario.rounds
    rows = [row for row in result.rounds if row["round"] > first]
    told = result.summary["unlearning"]
    parent, record = judge.finished.record, judge.finished.scenario
    return {
        "scenario": parent["scenario"],
        "parent": parent["run_id"],
        "seed": parent["seed"],
        "data_source": parent["data"]["source"],
        "headline": judge.prepared.task.headline,
        "client": judge.client,
        "forget": dict(asked.forget),
        "method": asked.name,
        "parameters": dict(asked.parameters),
        "retrain_rounds": asked.rounds,
        "train_rounds": record.rounds,
        "training": _training(judge.finished),
        "clock": None if record.federation.clock is None else record.federation.clock.kind,
        "falls": falls(judge.finished.scenario),
        "before": judge.before | {"backdoor": _backdoor(judge.finished.folder)},
        "after": judge.of(arrays) | {"backdoor": _backdoor(RunFolder(result.folder))},
        "utility_by_round": [
            [sum(bool(one["clients"]) for one in rows[: k + 1]), judge.utility_of_round(row)]
            for k, row in enumerate(rows)
        ],
        "rounds": sum(bool(row["clients"]) for row in rows),
        "mb": sum(row["mb_up"] + row["mb_down"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "history_mb": history,
        "relearning": judge.relearning(arrays),
        "guarantee": told["guarantee"],
        "certificate": told.get("certificate"),
    }


def _training(finished: Finished) -> str:
    """A checksum of what was trained, seeds and machines aside: runs of one row have the same."""
    told = finished.scenario.model_dump(mode="json", exclude={"seeds", "resources"})
    text = json.dumps([told, finished.record["data"]["fingerprint"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _backdoor(folder: RunFolder) -> float | None:
    found = folder.read_json("summary.json")["metrics"].get("backdoor_success")
    return None if found is None else float(found)


def written(folder: Path, found: Mapping[str, Any]) -> None:
    """Write what was measured into a run folder."""
    RunFolder(folder).write_json(f"report/{FILE}", found)


# --- Comparing with a model that was trained again -----------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A difference, and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def level(one: Floats, reference: Floats, rng: np.random.Generator) -> Interval:
    """How much better a model fits the client's records than the reference, in mean loss.

    Paired: both losses of a record are drawn together.

    Args:
        one, reference: float64 [n], losses on the same records.
        rng: draws the replicates.
    """
    gain = reference - one
    draws = rng.integers(len(gain), size=(_REPLICATES, len(gain)))
    return _interval(float(gain.mean()), gain[draws].mean(axis=1))


def gap(
    one: tuple[Floats, Floats], reference: tuple[Floats, Floats], rng: np.random.Generator
) -> Interval:
    """How much more a model prefers trained records to unseen ones than the reference does.

    (mean unseen - mean trained) of one, minus the same of the reference.

    Args:
        one, reference: losses on records that the client trained with, and on unseen ones.
        rng: draws the replicates, of both kinds of records independently.
    """
    trained, unseen = reference[0] - one[0], one[1] - reference[1]
    value = float(unseen.mean() + trained.mean())
    sums = [
        part[rng.integers(len(part), size=(_REPLICATES, len(part)))].mean(axis=1)
        for part in (trained, unseen)
    ]
    return _interval(value, sums[0] + sums[1])


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def verdict(found: Mapping[str, Any], reference: Mapping[str, Any] | None) -> str:
    """What may be said of a model, in words that nobody reads as more than they are."""
    if found["method"] == "scratch":
        if not found.get("rounds", 1):
            return "the first model: nothing was trained again, so it is no reference"
        if found.get("falls"):
            return f"a weak reference: {FALLING}"
        return "the reference: trained again without it"
    if reference is None or not reference.get("rounds", 1):
        return "no retrained model to compare with: add --method scratch"
    marks = [one["after"].get("backdoor") for one in (found, reference)]
    if None not in marks and marks[0] - marks[1] > _MARKED:
        return f"STILL SHOWS THE PLANTED MARK, by more than {_MARKED} above retraining"
    mine, theirs = (_losses(one["after"]) for one in (found, reference))
    if not all(np.isfinite(part).all() for part in (*mine, *theirs)):
        return "not judged: its losses, or those of retraining, are no finite numbers"
    count, rng = len(mine[0]), np.random.default_rng(0)
    if count < _FEWEST:
        return f"not judged: {count} record(s) are too few, fewer than {_FEWEST}"
    fits = level(mine[0], theirs[0], rng)
    knows = gap(mine, theirs, rng) if len(mine[1]) >= _FEWEST else None
    if knows is not None and knows.low > 0:
        return (
            "STILL KNOWS ITS RECORDS: prefers them to unseen ones of the same place more than "
            "retraining does"
        )
    if fits.low > 0:
        known = "" if knows is None else "; not more than unseen ones of the same place"
        return f"fits its records better than retraining does{known}, at this sample size ({count})"
    if fits.high < 0 or (knows is not None and knows.high < 0):
        return "fits its records worse than retraining does, as a damaged model would"
    return f"not distinguishable from retraining at this sample size ({count} records)"


def _losses(found: Mapping[str, Any]) -> tuple[Floats, Floats]:
    return (np.array(found["losses"]["trained"]), np.array(found["losses"]["unseen"]))


def rounds_until(found: Mapping[str, Any], utility: float | None) -> int | None:
    """Rounds with clients until the others' score was first that good; None: never."""
    if utility is None:
        return None
    reached = [asks for asks, value in found["utility_by_round"] if (value or 0.0) >= utility]
    return reached[0] if reached else None


# --- The table -----------------------------------------------------------------------------------

_TITLES = (
    *("procedure", "seeds", "others' test", "trained", "unseen", "gap", "membership AUC"),
    *("relearned in", "backdoor", "rounds", "to scratch", "MB", "history MB", "s"),
)


@dataclass(frozen=True)
class Table:
    """The procedures side by side.

    Attributes:
        groups: scenario -> rows of cells, as `_TITLES` has them.
        words: scenario -> procedure -> its verdicts and its guarantee.
        note: what a reader must know of the data, or "".
    """

    groups: Mapping[str, Sequence[Sequence[str]]]
    words: Mapping[str, Mapping[str, Sequence[str]]]
    about: Mapping[str, str]

    def lines(self) -> list[str]:
        """For a terminal."""
        lines: list[str] = []
        for scenario, rows in self.groups.items():
            widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
            lines += ["", self.about[scenario]]
            for row in (_TITLES, *rows):
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                lines.append("  ".join(cells).rstrip())
            lines.append("")
            for name, told in self.words[scenario].items():
                lines += [f"{name}: {'; '.join(told)}"]
        return lines

    def markdown(self) -> str:
        """As a document has it."""
        parts = []
        for scenario, rows in self.groups.items():
            told = self.words[scenario]
            titles = (*_TITLES, "what may be said")
            parts.append(f"{self.about[scenario]}\n")
            parts.append(f"| {' | '.join(titles)} |")
            parts.append(f"|{'---|' * len(titles)}")
            for row in rows:
                words = "; ".join(told.get(row[0], ()))
                parts.append(f"| {' | '.join((*row, words))} |")
            parts.append("")
        return "\n".join(parts) + "\n"


def table_of(folders: Sequence[Path | RunFolder]) -> Table:
    """The table of all unlearned models among these run folders.

    Raises:
        InputError: none of them was measured.
    """
    found = [one for folder in folders if (one := _read(folder)) is not None]
    if not found:
        raise InputError(
            "none of these runs took a client out and was measured",
            hint="type: fedsim forget RUN --client NAME",
        )
    # What was done twice counts once, and the later one.
    latest = {(one["parent"], one["client"], _what(one)): one for one in found}
    groups: dict[str, list[dict[str, Any]]] = {}
    trainings: dict[str, list[str]] = {}
    for one in latest.values():
        name = _title(one)
        # Another training of the same name is another table.
        known = trainings.setdefault(name, [])
        if one["training"] not in known:
            known.append(one["training"])
        number = known.index(one["training"])
        groups.setdefault(f"{name} ({number + 1})" if number else name, []).append(one)
    rows, words, about = {}, {}, {}
    for name, some in groups.items():
        rows[name], words[name] = _group(some)
        about[name] = _about(name, some)
    return Table(rows, words, about)


def _title(found: Mapping[str, Any]) -> str:
    """What was trained, and what of whom leaves it."""
    leaves = "are forgotten" if found["forget"] else "leaves"
    return f"{found['scenario']}: {whom(found['client'], found['forget'])} {leaves}"


def _read(folder: Path | RunFolder) -> dict[str, Any] | None:
    place = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    if not (place.path / "report" / FILE).is_file():
        return None
    found = place.read_json(f"report/{FILE}")
    # What an older fedsim measured says less.
    return {
        "parameters": {},
        "retrain_rounds": found["train_rounds"],
        "training": "",
        "clock": None,
        "falls": False,
        **found,
    }


def _what(found: Mapping[str, Any]) -> str:
    return f"{found['method']} {_settings(found)} {json.dumps(found['forget'], sort_keys=True)}"


def _settings(found: Mapping[str, Any]) -> str:
    """How a procedure was asked for: its parameters, and the rounds of its retraining."""
    told = [f"{key} {value}" for key, value in sorted(found["parameters"].items())]
    return ", ".join([*told, f"{found['retrain_rounds']} round(s) after"])


def _labels(some: Sequence[Mapping[str, Any]]) -> list[str]:
    """The procedure of each; with its settings where it was asked for in several ways."""
    ways: dict[str, set[str]] = {}
    for one in some:
        ways.setdefault(one["method"], set()).add(_settings(one))
    return [
        f"{one['method']} ({_settings(one)})" if len(ways[one["method"]]) > 1 else one["method"]
        for one in some
    ]


def _about(name: str, some: Sequence[Mapping[str, Any]]) -> str:
    first = some[0]
    data = " (on the embedded stand-in)" if first["data_source"] == "embedded" else ""
    # Where rounds wait for all, a clock changes nothing of them.
    clock = (
        " Relearned in: rounds without federation.clock, which wait for the client."
        if first["clock"] == "deadline"
        else ""
    )
    return (
        f"{name}, after {first['train_rounds']} rounds with all{data}. Scores: "
        f"{first['headline']}; the trained and unseen records are its own.{clock}"
    )


def _group(
    some: Sequence[Mapping[str, Any]],
) -> tuple[list[list[str]], dict[str, list[str]]]:
    """The rows of one scenario, and what may be said of each procedure."""
    references: dict[str, Mapping[str, Any]] = {}
    for one in some:
        # Of several, that which was trained again for longest.
        there = references.get(one["parent"])
        longer = there is None or one["rounds"] > there["rounds"]
        if one["method"] == "scratch" and one["rounds"] and longer:
            references[one["parent"]] = one
    first = {one["parent"]: one for one in some}
    rows = [_row("before", [_of_before(one) for one in first.values()], {})]
    words: dict[str, list[str]] = {}
    labels = _labels(some)
    for method in _ordered(labels):
        mine = [one for one, label in zip(some, labels, strict=True) if label == method]
        rows.append(_row(method, mine, references))
        told = [verdict(one, references.get(one["parent"])) for one in mine]
        counted = {text: told.count(text) for text in dict.fromkeys(told)}
        many = len(told) > 1
        said = [
            f"{text} ({n} of {len(told)} seeds)" if many else text for text, n in counted.items()
        ]
        words[method] = [*said, f"guarantee: {mine[0]['guarantee']}"]
    return rows, words


_ORDER = (*WITHOUT_HISTORY, "last_update", "fedaccum", "federaser", "ukd", "pga", "ifu")


def _ordered(methods: Iterable[str]) -> list[str]:
    """Each method once: those that ship first, from the dearest and the plainest on."""
    places = {name: place for place, name in enumerate(_ORDER)}
    return sorted(
        set(methods), key=lambda name: (places.get(name.partition(" ")[0], len(places)), name)
    )


def _of_before(found: Mapping[str, Any]) -> dict[str, Any]:
    """The model that was trained with all, as if it were one of a procedure."""
    nothing = {"rounds": None, "mb": None, "seconds": None, "history_mb": None, "relearning": 0}
    return {"after": found["before"], "utility_by_round": [], "parent": found["parent"], **nothing}


def _row(
    name: str, some: Sequence[Mapping[str, Any]], references: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    after = [one["after"] for one in some]
    gaps = [
        None if one["trained"] is None or one["unseen"] is None else one["trained"] - one["unseen"]
        for one in after
    ]
    until = []
    for one in some:
        reference = references.get(one["parent"])
        wanted = None if reference is None else reference["after"]["utility"]
        until.append(rounds_until(one, wanted))
    return [
        name,
        str(len(some)),
        *(_mean([one[key] for one in after]) for key in ("utility", "trained", "unseen")),
        _mean(gaps),
        _attack([one["membership"] for one in after]),
        _count([one["relearning"] for one in some], f"> {RELEARNING}"),
        _mean([one["backdoor"] for one in after]),
        _count([one["rounds"] for one in some], "-"),
        "-" if not references else _count(until, "never"),
        *(_mean([one[key] for one in some], 2) for key in ("mb", "history_mb")),
        _mean([one["seconds"] for one in some], 0),
    ]


def _mean(values: Sequence[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{fmean(known):.{digits}f}{spread}"


def _count(values: Sequence[int | None], never: str) -> str:
    """Whole numbers: one, or all of them where they differ."""
    told = [never if value is None else str(value) for value in values]
    return ", ".join(told if len(set(told)) > 1 else told[:1])


def _attack(values: Sequence[Mapping[str, Any] | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        one = known[0]
        return f"{one['auc']:.2f} [{one['auc_low']:.2f}, {one['auc_high']:.2f}]"
    return _mean([value["auc"] for value in known], 2)
