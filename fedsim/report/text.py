"""Lines for a terminal: about a finished run, tables, and values as one types them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.files import seen_from
from fedsim.folder.runfolder import MODELS, RunFolder
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.tasks.facts import EXTERNAL, TaskFacts

_OF_TWO = ("sensitivity", "specificity")
"""Scores of two classes that tell what means over them hide: a class that is never predicted."""


def closing_lines(summary: Mapping[str, Any], folder: Path, here: Path) -> list[str]:
    """Metrics on the test split, traffic, privacy, time, and the folder as seen from `here`."""
    run = folder / "run.json"
    told = json.loads(run.read_text()) if run.is_file() else {}
    task = TaskFacts.read(told, summary["metrics"])
    scores, external = (_scores(summary["metrics"], task, prefix) for prefix in ("", EXTERNAL))
    stand_in = summary["data_source"] == "embedded"
    epsilon, claimed = summary["epsilon"], summary["epsilon_claimed"]
    privacy = "none" if epsilon is None else f"epsilon {epsilon:.3f}"
    if claimed is not None:
        privacy += f" (paper claims {claimed:.2f})"
    if summary.get("unit") is not None:
        privacy += f" at delta {summary['delta']:g} for every {UNIT_NAMES[summary['unit']]}"
    masked = summary.get("masked_sum_mb")
    if masked is not None:
        privacy += f", if the sum is masked, which would take {masked:.3f} MB up"
    notes = filter(None, [summary.get("unit_note"), summary.get("trust_note")])
    return [
        *_missing(summary["failed"], folder),
        "test: " + ", ".join(scores) + (" (on the embedded stand-in)" if stand_in else ""),
        *_own_models(summary["metrics"], task, folder),
        *filter(None, [positive_note((told.get("data") or {}).get("positive"))]),
        *(["external: " + ", ".join(external)] if external else []),
        f"traffic: up {summary['mb_up_total']:.3f} MB, down {summary['mb_down_total']:.3f} MB",
        f"privacy: {privacy}",
        *(f"NOTE {note}" for note in notes),
        f"{summary['wall_seconds']:.0f} s, peak {summary['peak_rss_mb']:.0f} MB of memory",
        f"run folder: {seen_from(here, folder)}",
    ]


def without_reply(failures: Iterable[Any]) -> str:
    """What messages without a usable reply did: "failed", "came late", or "failed or came late".

    Args:
        failures: entries of `failed` in rounds.jsonl; late is what came after a deadline.
    """
    late = sorted({is_late(one) for one in failures})
    return " or ".join("came late" if one else "failed" for one in late)


def is_late(failure: Any) -> bool:
    """Whether an entry of `failed` in rounds.jsonl is a reply after a deadline of the scenario."""
    return isinstance(failure, Mapping) and failure.get("kind") == "late"


def _missing(count: int, folder: Path) -> list[str]:
    """That so many messages led to no usable reply, where there are some."""
    if not count:
        return []
    rows = RunFolder(folder).read_lines("rounds.jsonl")
    late = sum(is_late(one) for row in rows for one in row["failed"])
    lines = [(count - late, "INCOMPLETE: {} client message(s) failed, see rounds.jsonl")]
    lines += [(late, "LATE: {} client message(s) came after the deadline, see rounds.jsonl")]
    return [text.format(number) for number, text in lines if number]


def page_lines(folder: Path, here: Path) -> list[str]:
    """Where the page of a run is, as seen from `here`; nothing where there is none."""
    page = folder / "report" / "index.html"
    return [f"page: {seen_from(here, page)}"] if page.is_file() else []


def _own_models(metrics: Mapping[str, float | None], task: TaskFacts, folder: Path) -> list[str]:
    """That scores are means over the clients' own models, and what these do at home; or nothing."""
    count = len(list((folder / MODELS).glob("*.safetensors")))
    if count < 2:
        return []
    places = {"own": "at home", "others": "elsewhere"}
    found = [
        f"{task.title(name)} {task.text(name, value)} {places[place]}"
        for key, value in metrics.items()
        for name, _, place in [key.partition("@")]
        if name in task.in_tables and place in places and value is not None
    ]
    return ["own models: means over " + ", ".join([f"{count} clients' models", *found])]


def positive_note(positive: str | None, rule: str = "") -> str:
    """Which of two classes is the positive one, and why; "" for None."""
    if positive is None:
        return ""
    return f"positive class: {positive}" + (f" ({rule})" if rule else "")


def _scores(metrics: Mapping[str, float | None], task: TaskFacts, prefix: str) -> list[str]:
    """Metrics whose names begin with a prefix, as a reader calls them, in the task's order."""
    known = [one.name for one in task.metrics if one.name in (*task.in_tables, *_OF_TWO)]
    found = {name: metrics[prefix + name] for name in known if prefix + name in metrics}
    return [
        f"{task.title(name)} " + ("undefined" if value is None else task.text(name, value))
        for name, value in found.items()
    ]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the first column begins on the left, all others end on the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def typed(value: object) -> str:
    """A setting as one would type it: null and true for None and True, `[a, b]`, `{a: 1}`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(typed, value)) + "]"
    return str(value)
