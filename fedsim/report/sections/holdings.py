"""The data, and who held what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.report.blocks import Block, Figure, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.many import MANY, TITLES, spread_rows
from fedsim.report.plot import Bars
from fedsim.report.record import NUMBER, Record
from fedsim.report.rendering import Table
from fedsim.report.sections.words import plugin


def section(record: Record, drawn: Mapping[str, Picture]) -> Section:
    """Facts of the data, then the clients."""
    data, scenario = record.run["data"], record.scenario
    federation = scenario.get("federation") or {}
    stand_in = data["source"] == "embedded"
    external = data.get("external")
    outside = external.get("root") if isinstance(external, Mapping) else external
    rows = [
        ("data", f"embedded stand-in for {data['name']}" if stand_in else data["name"]),
        ("read from", data.get("root")),
        ("positive class", data.get("positive")),
        ("classes", None if record.run["data"].get("positive") else data.get("classes")),
        ("grey values", data.get("window")),
        ("features", _features(data.get("features"))),
        ("records", ", ".join(f"{n} {split}" for split, n in (data.get("sizes") or {}).items())),
        ("left out, unusable", data.get("skipped") or None),
        ("external records", outside),
        ("clients", len(record.clients) or federation.get("clients")),
        ("take part in a round", _percent(federation.get("participation"))),
        ("partition", plugin(federation.get("partition"))),
        ("outlined at clients", _labels(federation.get("labels"))),
    ]
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    blocks: list[Block] = [Table("The data", ("what", "value"), shown)]
    blocks += _holdings(record, drawn.get("partition"))
    return Section("data", "Data and clients", blocks)


def _features(made_by: object) -> object:
    """Which frozen network turns images into vectors, and what is done to its features."""
    if not isinstance(made_by, Mapping):
        return None
    weights = str(made_by.get("weights_sha256") or "")
    told = f"{made_by.get('network')}, weights {weights[:12] or 'drawn at random'}"
    kept = made_by.get("dimensions")
    told += f", {kept} dimensions by {made_by.get('projection')}" if kept else ""
    if images := made_by.get("public_images"):
        told += f", map of {images} {made_by.get('public')} images"
        told += f", whitened by {made_by.get('whiten')}" if made_by.get("whiten") else ""
    return told


def _labels(block: object) -> object:
    """Which structures each client outlines; of many clients, that they differ."""
    found = block.get("clients") if isinstance(block, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    return "differs by client, see scenario.yaml" if len(found) >= MANY else found


def _percent(share: object) -> str | None:
    return f"{share:.3%}".replace(".000%", " %") if isinstance(share, NUMBER) else None


def _holdings(record: Record, picture: Picture | None) -> list[Block]:
    """A row for each client, or how many clients hold how many records."""
    if picture is None:
        return []
    names, rows = list(picture.header[1:]), picture.rows
    if len(rows) < MANY:
        held: dict[str, list[int]] = {str(row[0]): [n or 0 for n in row[1:]] for row in rows}
        caption = f"{picture.title}. {picture.alt}"
        by_class = record.run["data"].get("classes_by_client")
        what = "share of each class at each client, and CSV" if by_class else "CSV"
        more = f"Picture with the {what}: report/partition.png, report/partition.csv."
        return [Bars(caption, "client", names, held), Text(more, "muted")]
    columns: dict[str, list[Any]] = {
        name: [row[1 + k] for row in rows] for k, name in enumerate(names)
    }
    caption = f"How records are spread over {len(rows)} clients"
    spread = [tuple(map(_whole, row)) for row in spread_rows(columns)]
    table = Table(caption, ("records", "clients", *TITLES), spread)
    return [Figure(picture), table]


def _whole(value: Any) -> Any:
    """A quantile of whole numbers, without the noughts behind the point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
