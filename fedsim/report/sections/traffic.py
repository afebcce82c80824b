"""What travelled, and what the run took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.report.blocks import Block, Figure, Section, Text
from fedsim.report.costs import Link, wire_seconds
from fedsim.report.drawing import Picture
from fedsim.report.record import Record
from fedsim.report.rendering import Table

_LINK = Link(mbit_per_second=10.0)


def section(record: Record, drawn: Mapping[str, Picture]) -> Section:
    """Totals, fields, curves."""
    blocks: list[Block] = []
    if sentence := _sentence(record):
        blocks.append(Text(sentence))
    last = record.rounds[-1] if record.rounds else {}
    totals: Mapping[str, Any] = record.summary or last
    rows: list[tuple[str, Any]] = []
    if totals:
        rows += [
            ("MB up (clients to server)", totals["mb_up_total"]),
            ("MB down (server to clients)", totals["mb_down_total"]),
        ]
    seconds = sum(row.get("seconds") or 0 for row in record.rounds)
    if record.summary is not None:
        seconds = record.summary["wall_seconds"]
    rows.append(("seconds of the run", seconds))
    if waited := sum(row.get("delay_seconds") or 0 for row in record.rounds):
        rows.append(("simulated seconds of waiting", waited))
    if (hours := last.get("simulated_hours")) is not None:
        rows.append(("simulated hours", hours))
    rows.append(("peak memory in MB", totals.get("peak_rss_mb")))
    caption = "All rounds and clients together; MB = 10⁶ bytes"
    blocks.append(Table(caption, ("cost", "value"), rows))
    blocks += _fields(record)
    for name in ("metric_megabytes", "metric_hours", "work", "traffic"):
        if name in drawn:
            blocks.append(Figure(drawn[name]))
    return Section("traffic", "Communication and cost", blocks)


def _sentence(record: Record) -> str:
    """Means over messages, and how long they take on a link."""
    told = []
    for way, verb in (("up", "sends"), ("down", "gets")):
        sizes = [row["bytes"] for row in record.traffic if row["direction"] == way]
        if sizes:
            told.append(f"{verb} {sum(sizes) / len(sizes) / 1e6:.3g} MB in a message")
    if not told:
        return ""
    seconds = wire_seconds(record.traffic, _LINK)
    return (
        f"A client {' and '.join(told)}, on average. Over links of {_LINK.mbit_per_second:g} "
        f"Mbit/s all messages of the run would take {seconds:.3g} seconds, computation not counted."
    )


def _fields(record: Record) -> list[Block]:
    fields: dict[str, dict[str, int]] = {}
    for message in record.traffic:
        for name, size in message["fields"].items():
            ways = fields.setdefault(name, {})
            ways[message["direction"]] = ways.get(message["direction"], 0) + size
    if not fields:
        return []
    rows = [
        (name, *(size.get(way, 0) / 1e6 for way in ("up", "down"))) for name, size in fields.items()
    ]
    return [Table("Payload of the messages by field", ("field", "MB up", "MB down"), rows)]
