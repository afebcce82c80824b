"""What was found in a folder, as far as a scenario needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["images", "volumes"]


@dataclass(frozen=True)
class Setting:
    """One key of the block `data`: its value, and why, for the comment behind it."""

    key: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Found:
    """What a folder, or a data set by its name, holds.

    Attributes:
        dataset: the plugin that reads it.
        kind: images to classify, or volumes to segment.
        layout: how it is laid out, in words.
        root: the folder; None where the data set is looked for as a scenario would.
        settings: what else the block `data` needs.
        client_column: a column that says which client a record is with; "" for none.
        notes: what a person should know, a sentence each.
        table: the table that was read; "" for none.
    """

    dataset: str
    kind: Kind
    layout: str
    root: Path | None
    settings: tuple[Setting, ...] = ()
    client_column: str = ""
    notes: tuple[str, ...] = ()
    table: str = ""
