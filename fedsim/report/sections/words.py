"""Words that several sections share."""

from __future__ import annotations

from typing import Any

from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.report.record import Record
from fedsim.report.text import typed


def final_metrics(record: Record) -> dict[str, Any]:
    """Metrics of the final model, or of the newest one of a run that has not finished."""
    if record.summary is not None:
        found: dict[str, Any] = record.summary["metrics"]
        return found
    if record.rounds:
        newest = record.rounds[-1]["metrics"]
        return {name: value for name, value in newest.items() if not name.startswith("train_")}
    return {}


def models(record: Record) -> int:
    """How many final models there are: one, or one a client."""
    return record.tested.models if record.tested is not None else 1


def settings(block: object, *, without: tuple[str, ...] = ("name",)) -> str:
    """The settings of a block of the scenario, as one types them."""
    if not isinstance(block, dict):
        return ""
    told = {k: typed(v) for k, v in block.items() if k not in without and v not in (None, {}, [])}
    return ", ".join(f"{key}={value}" for key, value in told.items())


def plugin(block: object) -> str | None:
    """A block of the scenario that names a plugin, on one line."""
    if not isinstance(block, dict):
        return None
    told = settings(block)
    return f"{block.get('name')} ({told})" if told else str(block.get("name"))


def plugin_name(record: Record, key: str) -> str:
    """The name of a plugin of the scenario; "" where it has none."""
    block = record.scenario.get(key)
    return str(block["name"]) if isinstance(block, dict) and block.get("name") else ""


def sends_real_images(record: Record) -> bool:
    """Whether clients say that what they send are images of their data, as a baseline does."""
    released = record.run.get("released_without_privacy") or []
    return any(str(item).upper().startswith("REAL IMAGES") for item in released)


def unit_name(unit: object) -> str:
    """What a guarantee is for, as a reader calls it."""
    names = {str(key): name for key, name in UNIT_NAMES.items()}
    return names.get(str(unit), str(unit))
