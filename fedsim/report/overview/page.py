"""The page of many runs as HTML: one file with its figures, its script and its drawing library."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedsim.errors import InputError, Problem
from fedsim.files import require_regular
from fedsim.folder.runfolder import RunFolder, write_whole
from fedsim.report.comparison import find_row
from fedsim.report.overview.facts import Section, sections_of
from fedsim.report.overview.groups import groups_of
from fedsim.report.paths import without_paths
from fedsim.report.rendering import templates
from fedsim.report.rows import Run, rows_of
from fedsim.terminal.printing import harmless

GENERATOR = "fedsim report"
"""What the page says that wrote it: such a file may be written anew."""

# The file of the npm package plotly.js-basic-dist-min 4.1.1, unchanged: it needs no eval.
_LIBRARY = "vendor/plotly-basic.min.js"
_COLOURS = 10
_SYMBOLS = "●■◆▲▼✚✖★"


def write_overview(
    folders: Sequence[RunFolder],
    out: Path,
    *,
    title: str,
    damaged: list[Problem] | None = None,
    baseline: str | None = None,
    paths: bool = False,
    replace: bool = False,
) -> bool:
    """Write the page of these runs.

    Args:
        folders: run folders; those that are not finished are named, and left out.
        out: the page.
        title: of the page.
        damaged: what is wrong with files of finished runs, which are then left out; it is added to.
        baseline: the row that others are compared with at first; None: the first.
        paths: whether absolute paths are shown whole, instead of their ends.
        replace: whether `out` may be a file that is no such page.

    Returns:
        Whether it was written: there is no page where no run is finished.

    Raises:
        InputError: `baseline` is no row's label, or `out` cannot be written, or is another file.
    """
    require_ours(out, replace)
    wrong: list[Problem] = [] if damaged is None else damaged
    rows, left_out = rows_of(folders, wrong, paths=paths)
    if not rows:
        return False
    chosen = None if baseline is None else find_row(rows, baseline)
    sections = sections_of(groups_of(rows, paths), chosen, paths)
    lost = [*left_out, *(f"{one}; left out" for one in dict.fromkeys(wrong))]
    here = Path(os.path.abspath(out.parent))
    told = [one.replace(f"{here}{os.sep}", "") for one in lost]
    text = render(
        sections, title, left_out=told if paths else without_paths(told), here=here, paths=paths
    )
    try:
        write_whole(out, text.encode())
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror}", hint="choose another place: --out FILE"
        ) from error
    return True


def require_ours(out: Path, replace: bool = False) -> None:
    """Raise InputError where a page would take the place of a folder, or of somebody's file.

    Args:
        out: where the page will be.
        replace: whether it may take the place of any file.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file: --out FILE")
    if replace or not out.exists():
        return
    try:
        require_regular(out)
        with out.open("rb") as file:
            begins = file.read(2000)
    except OSError as error:
        raise InputError(f"{out} cannot be replaced: {error.strerror}") from error
    if f'name="generator" content="{GENERATOR}"'.encode() not in begins:
        raise InputError(
            f"{out} is there already, and fedsim has not written it",
            hint="choose another place: --out FILE",
        )


def render(
    sections: Sequence[Section],
    title: str,
    *,
    left_out: Sequence[str] = (),
    here: Path,
    paths: bool = False,
) -> str:
    """The page as HTML.

    Args:
        sections: what it says.
        title: of the page.
        left_out: runs that are not part of it and why, a sentence each.
        here: the folder it will lie in: run folders are named as seen from there.
        paths: whether absolute paths are shown whole, instead of their ends.
    """
    library, script = _file(_LIBRARY), _file("templates/overview.js")
    figures = {one.key: one.figures for one in sections}
    runs = [
        [_run(name, run, here, paths) for name, row in zip(one.names, one.group.rows, strict=True)
         for run in row.runs]
        for one in sections
    ]  # fmt: skip
    pages = templates(sortable=_sortable, breakable=_breakable)
    return pages.get_template("overview.html").render(
        title=title,
        generator=GENERATOR,
        sections=list(zip(sections, runs, strict=True)),
        methods=sum(len(one.names) for one in sections),
        count=sum(map(len, runs)),
        left_out=left_out,
        mark=_mark,
        style=Markup(_file("templates/overview.css")),
        library=Markup(library),
        script=Markup(script),
        hashes=Markup(" ".join(f"'sha256-{_digest(text)}'" for text in (library, script))),
        data=Markup(_json(figures)),
    )


def _run(name: str, run: Run, here: Path, paths: bool) -> dict[str, Any]:
    """A line of the table of runs."""
    seconds = [one.summary.get("wall_seconds") for one in run.each]
    known = [float(one) for one in seconds if isinstance(one, int | float)]
    places = [one.folder.path for one in run.each]
    told = [
        str(place.relative_to(here)) if place.is_relative_to(here) else str(place)
        for place in places
    ]
    return {
        "name": name,
        "seed": run.seed,
        "minutes": f"{sum(known) / 60:.1f}" if known else "–",
        "folder": ", ".join(told if paths else without_paths(told)),
    }


def _mark(number: int) -> dict[str, Any]:
    """The colour (by number) and the sign of a method, in tables and figures."""
    sign = _SYMBOLS[(number // _COLOURS) % len(_SYMBOLS)]
    return {"colour": number % _COLOURS, "sign": sign}


def _sortable(key: float | str | None) -> str:
    """What the script sorts a cell by."""
    if key is None:
        return ""
    if isinstance(key, float) and math.isinf(key):
        return "Infinity"
    return key if isinstance(key, str) else f"{key:.8g}"


def _breakable(name: str) -> Markup:
    """A name as HTML that may be broken where it has a joint, but in no number (0.01, 1e-4)."""
    return Markup("<wbr>").join(re.split(r"(?<=[_=/])|(?<=[.-])(?!\d)", harmless(name)))


def _json(value: Any) -> str:
    """JSON that no HTML reader takes for an element's end."""
    text = json.dumps(_harmless(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _harmless(value: Any) -> Any:
    """The value with control characters of its texts written out."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return {key: _harmless(inner) for key, inner in value.items()}
    return [_harmless(inner) for inner in value] if isinstance(value, list | tuple) else value


@lru_cache
def _file(name: str) -> str:
    """A file that comes with fedsim."""
    return (resources.files("fedsim.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What the content security policy allows a script by."""
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()
