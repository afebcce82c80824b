"""What failed, how the run is repeated, and what it was made with."""

from __future__ import annotations

import shlex
from typing import Any

from fedsim.folder.identity import DEPLOYMENT, deployed_nodes
from fedsim.report.blocks import Block, Code, Details, Items, Section, Text
from fedsim.report.record import Record
from fedsim.report.rendering import Table
from fedsim.report.sections.words import plugin
from fedsim.report.text import is_late
from fedsim.tasks.words import spoken

_FAILURES = 30  # Rows, and rounds in a row; rounds.jsonl has all.

# Keys of run.json that the page shows elsewhere than in the table of the environment.
_TOLD = (
    "schema_version",
    "scenario",
    "seed",
    "data",
    "privacy",
    "released_without_privacy",
    "versions",
    "status",
    "command",
    "files",
    "unit_from",
    DEPLOYMENT,
    "adversary",
)


def failures(record: Record) -> Section:
    """Messages without a usable reply: each client and reason once, with its rounds."""
    rounds: dict[tuple[str, ...], list[int]] = {}
    for one in record.failures:
        client = record.client_name(one.get("client", ""))
        what = tuple(str(one.get(key, "")) for key in ("phase", "kind", "reason"))
        rounds.setdefault((client, *what), []).append(one["round"])
    rows = []
    for told, numbers in list(rounds.items())[:_FAILURES]:
        more = f" and {len(numbers) - _FAILURES} more" if len(numbers) > _FAILURES else ""
        rows.append((*told, ", ".join(map(str, numbers[:_FAILURES])) + more))
    blocks: list[Block] = [Text("None.")]
    if rows:
        caption = f"{len(record.failures)} messages led to no usable reply"
        blocks = [Table(caption, ("client", "phase", "kind", "reason", "rounds"), rows)]
    if len(rounds) > _FAILURES:
        blocks.append(Text(f"{len(rounds) - _FAILURES} more are in rounds.jsonl."))
    return Section("failures", title(record), blocks)


def title(record: Record) -> str:
    """What the section is called: a client that missed a deadline has not failed."""
    late = {is_late(one) for one in record.failures}
    if late == {True}:
        return "Late clients"
    return "Failed and late clients" if True in late else "Failed clients"


def repeating(record: Record) -> Section:
    """What was run, and what to type."""
    run, scenario, nodes = record.run, record.scenario, deployed_nodes(record.run)
    planned = scenario.get("rounds")
    rows = [
        ("scenario", run["scenario"]),
        ("description", scenario.get("description")),
        ("seed", run["seed"]),
        ("status", run["status"]),
        ("nodes of the federation", nodes or None),
        ("rounds", f"{len(record.rounds)} of {planned}" if planned else len(record.rounds)),
        ("model", plugin(scenario.get("model"))),
        ("strategy", plugin(scenario.get("strategy"))),
        ("client method", plugin(scenario.get("client"))),
    ]
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    typed = f"fedsim run scenario.yaml --seed {run['seed']}"
    how = (
        "scenario.yaml in the run folder is the whole configuration; it stands at the end of "
        "this section, too. "
    )
    if nodes:
        how += f"It was run by a federation of {nodes} nodes, with records that are not here. Type:"
        typed = f"flwr run APP SUPERLINK --run-config 'seed={run['seed']}'"
    else:
        how += "In the run folder, type:"
    blocks: list[Block] = [Text(how), Code(typed), Text(_same(record))]
    if isinstance(command := run.get("command"), list) and command:
        words = [str(word) for word in command]
        blocks += [Text("As it was typed:"), Code(" ".join(map(_quoted, words)))]
    blocks.append(Table("The run", ("what", "value"), shown))
    if record.missing:
        blocks += [Text("Not in this folder:"), Items(record.missing)]
    blocks.append(Details("Resolved scenario", [Code(record.scenario_text)]))
    return Section("repeat", "How to repeat it", blocks)


def _quoted(word: str) -> str:
    """A word of a command; what was cut from a path needs no quotes to be read."""
    return word if word.startswith("…") and " " not in word else shlex.quote(word)


def _same(record: Record) -> str:
    plan = record.run.get("privacy")
    if isinstance(plan, dict) and str(plan.get("randomness", "")).startswith("secret"):
        return "The noise came from a secret key that is erased: another run will not be the same."
    return (
        "The same data, versions and kind of machine give the same numbers. Versions, and the "
        "fingerprint of the data, are at the end of the page."
    )


def environment(record: Record) -> Section:
    """Versions, machine, fingerprint: last, for whoever checks."""
    run = record.run
    versions = run.get("versions") or {}
    rows = [(name, version or "not installed") for name, version in versions.items()]
    told: list[tuple[str, Any]] = [
        (spoken(key), value) for key, value in run.items() if key not in _TOLD and value is not None
    ]
    blocks: list[Block] = [
        Table("Versions", ("package", "version"), rows),
        Table("Machine, code, times", ("what", "value"), told),
    ]
    fingerprint = run["data"].get("fingerprint")
    if fingerprint:
        rows = [("fingerprint of the data", fingerprint)]
        blocks.append(Table("The data", ("what", "value"), rows))
    if isinstance(files := run.get("files"), dict) and files:
        table = Table("SHA-256 of each file", ("file", "digest"), list(files.items()))
        blocks.append(Details("Digests of the run's files", [table]))
    return Section("versions", "Versions and fingerprint", blocks)
