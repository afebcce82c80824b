"""The page of a run: one HTML file that holds everything, asks nothing of a network, and prints.

Its order is that of a reader's questions: what came out and how sure it is, how it went, on which
data, what it means for the people in them, what it cost; then how to repeat and to cite it.
"""

from __future__ import annotations

from pathlib import Path

from fedsim.folder.runfolder import RunFolder, write_whole
from fedsim.report.drawing import Picture
from fedsim.report.figures import NAMES, figures
from fedsim.report.paths import hidden
from fedsim.report.record import Record, read_record
from fedsim.report.rendering import render
from fedsim.report.sections import (
    citing,
    colluders,
    holdings,
    images,
    learning,
    privacy,
    result,
    running,
    traffic,
)
from fedsim.report.text import is_late


def write_report(folder: Path, *, paths: bool = False) -> Path:
    """Make or refresh `report/` of a run: the page, the figures, and the CSV behind each.

    Args:
        folder: the run folder; nothing else is read.
        paths: whether absolute paths are shown whole, instead of their ends.

    Returns:
        The path of the page.

    Raises:
        InputError: it is no run folder, or files of it are missing or corrupted.
    """
    return write_page(read_record(folder), paths=paths)


def write_page(record: Record, *, paths: bool = False) -> Path:
    """`write_report` of a run folder that has been read already."""
    RunFolder(record.path).require_contained()
    if not paths:
        record = hidden(record)
    folder = record.path / "report"
    drawn = figures(record)
    for picture in drawn:
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.csv", picture.csv)
    for name in set(NAMES) - {picture.name for picture in drawn}:
        # A run that was resumed from an earlier round may have less to show than it had.
        (folder / f"{name}.png").unlink(missing_ok=True)
        (folder / f"{name}.csv").unlink(missing_ok=True)
    path = folder / "index.html"
    write_whole(path, build_page(record, drawn).encode())
    return path


def build_page(record: Record, drawn: list[Picture]) -> str:
    """The page as HTML, with the figures in it."""
    by_name = {picture.name: picture for picture in drawn}
    sections = [
        result.section(record, by_name),
        learning.section(record, by_name),
        holdings.section(record, by_name),
        *colluders.sections(record, by_name),
        privacy.section(record, by_name),
        traffic.section(record, by_name),
        *images.sections(record),
        running.failures(record),
        running.repeating(record),
        citing.section(record),
        running.environment(record),
    ]
    return render(
        "run.html",
        title=record.title,
        lead=result.sentence(record),
        warnings=_warnings(record),
        contents=[(one.id, one.title) for one in sections],
        sections=sections,
        version=(record.run.get("versions") or {}).get("fedsim-medical") or "",
    )


def _warnings(record: Record) -> list[str]:
    """What must be known before any number."""
    warnings = []
    if record.note:
        name = record.run["data"]["name"]
        warnings.append(f"Not {name}, but its {record.note}. The numbers say nothing about {name}.")
    if record.run["status"] != "done":
        warnings.append(f"This run is not done: its status is {record.run['status']!r}.")
    late = sum(map(is_late, record.failures))
    if failed := len(record.failures) - late:
        warnings.append(
            f"{failed} client messages led to no usable reply: the model has learned "
            f"from less than was planned. See {running.title(record)}."
        )
    if late:
        warnings.append(
            f"{late} client messages came after the scenario's deadline and were not used. "
            f"See {running.title(record)}."
        )
    return warnings
