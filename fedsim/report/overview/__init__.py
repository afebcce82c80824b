"""One page for many runs: tables and figures that a person sorts, filters and points at.

One file, which asks nothing of a network: the drawing library is in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedsim.report.overview.page import require_ours, write_overview

__all__ = ["place_for", "require_ours", "title_for", "write_overview"]


def place_for(places: Sequence[Path]) -> Path:
    """Where the page of these runs lies, unless somebody chooses: in the folder that holds them.

    Of a sweep's record: beside it, under the same name.
    """
    if len(places) == 1:
        (one,) = places
        return one / "index.html" if one.is_dir() else one.with_suffix(".html")
    common = os.path.commonpath([os.path.abspath(one.parent) for one in places])
    return Path(os.path.relpath(common)) / "index.html"


def title_for(places: Sequence[Path]) -> str:
    """What the page is called."""
    if len(places) > 1:
        return "Comparison of runs"
    path = Path(os.path.abspath(places[0]))
    kinds = {"sweeps": f"Sweep {path.stem}", "curves": f"Utility over {_over(path)}: {path.name}"}
    return kinds.get(path.parent.name, f"Comparison: {path.name}")


def _over(curve: Path) -> str:
    """What a curve's folder shows utility over, by the columns of its numbers."""
    try:
        with (curve / "curve.csv").open(encoding="utf-8") as numbers:
            columns = numbers.readline(200).strip().split(",")
    except (OSError, UnicodeDecodeError):
        return "epsilon"
    return "megabytes" if "wire" in columns else "epsilon"
