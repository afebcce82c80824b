"""How the run went, round by round, and at each client."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.report.blocks import Block, Figure, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.record import Record


def section(record: Record, drawn: Mapping[str, Picture]) -> Section:
    """The curves."""
    blocks: list[Block] = [
        Figure(drawn[name]) for name in ("metric_rounds", "clients") if name in drawn
    ]
    if not blocks:
        told = "There are no curves: "
        count = len(record.rounds)
        told += "the run had one round." if count == 1 else "no metric was measured twice."
        blocks.append(Text(told if count else "There are no curves: no round has finished."))
    return Section("curves", "Round by round", blocks)
