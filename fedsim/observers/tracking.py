"""What trackers keep of a run, as plain names with numbers or text: settings, rounds, facts."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.folder.runfolder import CARD, MODEL, MODELS
from fedsim.observers.base import Row, Run

MARKER = "mb_up_total"
"""A number that every round has. Trackers write it last: a round that has it is there wholly."""

ARTIFACTS = ("scenario.yaml", "summary.json", MODEL, MODELS, CARD, "report")
"""What of a finished run folder is kept elsewhere, too.

Without run.json, so that a copy is not taken for a run, and without rounds.jsonl, whose error texts
may quote a record.
"""


def require(package: str, extra: str) -> None:
    """Raise ValueError unless a package is installed; nothing is imported.

    Args:
        package: what is imported.
        extra: fedsim's extra that has it.
    """
    found = importlib.util.find_spec(package)
    # A folder of that name in the path is a package, too, but holds nothing.
    if found is None or found.origin is None:
        raise ValueError(
            f"needs the package {package}, which is not installed; "
            f"type: pip install '.[{extra}]' in fedsim's folder"
        )


def numbers(row: Row, clients: tuple[str, ...]) -> dict[str, float]:
    """All numbers of a line of rounds.jsonl, the marker last; what is null or infinite is left out.

    The metrics keep their names. Lists count their items (`clients`, `failed`). The numbers of one
    client stand under `clients/<name of the number>/<name of the client>`.

    Args:
        row: the line.
        clients: the clients' names, in client order; lines may name a client by its number.
    """
    metrics = row.get("metrics") or {}
    found: dict[str, Any] = {
        name if name not in row else f"metrics/{name}": value for name, value in metrics.items()
    }
    for name, value in row.items():
        if isinstance(value, list | tuple):
            found[name] = len(value)
        elif name == "metrics_by_client":
            found |= _by_client(value, clients)
        elif name.endswith("_by_client"):
            one = name.removesuffix("_by_client")
            each = {client: {one: number} for client, number in (value or {}).items()}
            found |= _by_client(each, clients)
        elif name != "round":
            found[name] = value
    kept = _finite(found)
    kept[MARKER] = kept.pop(MARKER, 0.0)
    return kept


def results(summary: Row) -> dict[str, float]:
    """All numbers of summary.json, each as `final/<name>`."""
    found = {**summary, **(summary.get("metrics") or {})}
    return {f"final/{name}": value for name, value in _finite(found).items()}


def settings(run: Run) -> dict[str, str]:
    """The scenario's settings as text by dotted key, and the seed; without who watches."""
    told = {key: value for key, value in run.settings.items() if key != "observers"}
    return {"seed": str(run.seed)} | {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in _flat("", told)
    }


def facts(run: Run) -> dict[str, str]:
    """What tells runs apart, and what a reader of their numbers must know."""
    data = run.about.get("data") or {}
    privacy = run.about.get("privacy") or {}
    stand_in = data.get("source") == "embedded"
    versions = run.about.get("versions") or {}
    found = {
        "run_id": run.id,
        "scenario": run.scenario,
        "seed": str(run.seed),
        "folder": str(run.folder),
        "data": str(data.get("name", "")),
        "data_source": "EMBEDDED STAND-IN" if stand_in else str(data.get("source", "")),
        "data_fingerprint": str(data.get("fingerprint", "")),
        "private": _word(bool(privacy)),
        "certified": _word(bool(privacy.get("certified"))),
        "trust": str(privacy.get("trust") or ""),
        "version": str(versions.get("fedsim-medical", "")),
        "git_commit": str(run.about.get("git_commit") or ""),
    }
    return {name: value for name, value in found.items() if value}


def _by_client(
    each: Mapping[str, Mapping[str, Any]] | None, clients: tuple[str, ...]
) -> dict[str, Any]:
    return {
        f"clients/{name}/{_client(client, clients)}": number
        for client, found in (each or {}).items()
        for name, number in found.items()
    }


def _client(client: str, clients: tuple[str, ...]) -> str:
    """The name of a client that a line names by name or number."""
    if client in clients or not client.isdecimal() or int(client) >= len(clients):
        return client
    return clients[int(client)]


def _finite(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _flat(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Mapping) and item:
            yield from _flat(name, item)
        else:
            yield name, item


def _word(value: bool) -> str:
    return "true" if value else "false"
