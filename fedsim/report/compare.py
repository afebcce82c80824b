"""The table that papers print: methods in rows, mean and spread over seeds in columns."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedsim.errors import InputError
from fedsim.runfolder import RunFolder

# Summary metrics in per cent, in the order and under the names of the paper's table.
_METRICS = {
    "auc": "AUC",
    "precision": "P",
    "recall": "R",
    "f1": "F1",
    "balanced_accuracy": "bal.acc",
    "pr_auc": "PR-AUC",
    "dice": "Dice",
}
_COSTS = {"mb_up_total": "MB up", "mb_down_total": "MB down", "wall_seconds": "seconds"}
# What may differ between runs of one method.
_NOT_THE_METHOD = ("seeds", "resources", "description", "profiles")


@dataclass
class Row:
    """Runs that differ in nothing but their seed; `data` is a data set's name, or "embedded"."""

    label: str
    config: Mapping[str, Any]
    data: str
    seeds: list[int] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """Run folders at these places; a place may be a run or a folder of runs (`runs/<scenario>`)."""
    found: dict[Path, RunFolder] = {}
    for place in places:
        inner = [p for p in sorted(place.glob("*")) if (p / "run.json").is_file()]
        folders = [RunFolder(p) for p in inner if not p.is_symlink()] or [RunFolder.open(place)]
        found |= {folder.path.resolve(): folder for folder in folders}
    return list(found.values())


def rows_of(folders: Sequence[RunFolder]) -> tuple[list[Row], list[str]]:
    """Group finished runs by method; also say which runs were left out and why."""
    rows: dict[str, Row] = {}
    left_out = []
    for folder in folders:
        record = folder.read_json("run.json")
        if record["status"] != "done":
            left_out.append(f"{folder.path}: {record['status']}, left out")
            continue
        config = yaml.safe_load((folder.path / "scenario.yaml").read_text(encoding="utf-8"))
        config = {key: value for key, value in config.items() if key not in _NOT_THE_METHOD}
        source, name = record["data"]["source"], record["data"]["name"]
        key = repr((_flat(config), record["data"]["fingerprint"]))
        row = rows.setdefault(
            key, Row(record["scenario"], config, source if source == "embedded" else name)
        )
        if record["seed"] in row.seeds:
            left_out.append(f"{folder.path}: seed {record['seed']} again, left out")
            continue
        row.seeds.append(record["seed"])
        row.summaries.append(folder.read_json("summary.json"))
    _tell_apart(list(rows.values()))
    return list(rows.values()), left_out


def table(rows: Sequence[Row]) -> str:
    """The rows as text of fixed columns: metrics in per cent, mean +- sample sd over seeds."""
    if not rows:
        raise InputError(
            "no finished run to compare", hint="type: fedsim compare runs/<scenario> ..."
        )
    have = {name for row in rows for s in row.summaries for name in s["metrics"]}
    metrics = {name: title for name, title in _METRICS.items() if name in have}
    lines = [["", "data", "seeds", *metrics.values(), *_COSTS.values()]]
    for row in rows:
        cells = [row.label, row.data, str(len(row.seeds))]
        for name in metrics:
            values = [s["metrics"].get(name) for s in row.summaries]
            cells.append(_spread([None if v is None else 100 * v for v in values], 1))
        for name in _COSTS:
            digits = 0 if name == "wall_seconds" else 3
            cells.append(_spread([s[name] for s in row.summaries], digits))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    notes = ["Metrics in per cent on the test split; mean +- sd over seeds; MB = 10^6 bytes."]
    if any(row.data == "embedded" for row in rows):
        notes.append("data 'embedded': generated stand-in images, not real data.")
    return "\n".join([*text, "", *notes])


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.fmean(known):.{digits}f}"
    if len(known) < 2 or (sd := statistics.stdev(known)) < 0.5 * 10**-digits:
        return mean
    return f"{mean}+-{sd:.{digits}f}"


def _tell_apart(rows: list[Row]) -> None:
    """Name, in the label of rows of one scenario, the settings in which they differ."""
    for name in {row.label for row in rows}:
        alike = [row for row in rows if row.label == name]
        flat = [_flat(row.config) for row in alike]
        keys = sorted({key for one in flat for key in one})
        differing = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
        if len({row.data for row in alike}) > 1:  # The column says it.
            differing = [key for key in differing if key not in ("data.name", "data.root")]
        for row, one in zip(alike, flat, strict=True):
            settings = [f"{key}={one[key]}" for key in differing if key in one]
            row.label = " ".join([name, *settings])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in sorted(config.items()):
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
