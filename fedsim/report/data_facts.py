"""What `fedsim data --json` prints: the facts behind its lines, as plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.registry import default_registry

if TYPE_CHECKING:
    from fedsim.federation.holdings import Federation
    from fedsim.scenario import Scenario


def status(only: str | None = None) -> dict[str, Any]:
    """Where each data set's files are looked for, whether they are there, and the cache's size.

    Args:
        only: tell of this data set alone.
    """
    from fedsim.files import cache_folder

    base = os.environ.get("FEDSIM_DATA")
    found = []
    for name in default_registry().names("datasets") if only is None else [only]:
        place = None if base is None else Path(base) / name
        stand_in = default_registry().resolve("datasets", name).embedded is not None
        there = place is not None and place.is_dir()
        found.append({"name": name, "folder": place, "found": there, "stand_in": stand_in})
    cache = cache_folder()
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return {"fedsim_data": base, "datasets": found, "cache": {"folder": cache, "bytes": size}}


def holdings(scenario: Scenario, federation: Federation, picture: Path | None) -> dict[str, Any]:
    """Whose data a scenario has, as run.json will say it: of a private one no counts of classes."""
    counts = scenario.privacy is None
    return {
        "scenario": scenario.name,
        "seed": scenario.seeds[0],
        "data": {"name": scenario.data.name, **federation.describe(count_classes=counts)},
        "notes": federation.notes(counts=counts),
        "prepared": federation.store.folder,
        "picture": picture,
    }
