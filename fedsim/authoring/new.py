"""Writing a new plugin's package from the templates beside this file.

A template is a file whose name ends in `.txt`; `@name@` and its like stand for the plugin's names.
What all kinds share is in `templates/common`; a kind's own file of the same name takes its place.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsim.authoring.names import Names
from fedsim.errors import InputError

_MARK = ".txt"


def rendered(names: Names) -> dict[str, str]:
    """The files of a package: path below its folder -> text."""
    values = {
        "@name@": names.name,
        "@class@": names.class_name,
        "@kind@": names.kind,
        "@group@": names.group,
        "@distribution@": names.distribution,
        "@path@": names.path,
    }
    found: dict[str, str] = {}
    for room in ("common", names.kind):
        for path, template in _templates(room):
            for mark, value in values.items():
                path, template = path.replace(mark, value), template.replace(mark, value)
            found[path] = template
    return found


def write(names: Names, into: Path) -> Path:
    """Write the package's folder below `into`, which is made if need be.

    Returns:
        The folder.

    Raises:
        InputError: there is something of that name, or the disk refuses.
    """
    folder = into / names.name
    if os.path.lexists(folder):
        raise InputError(
            f"{folder} exists already: nothing was written",
            hint="choose another name, or another folder: --into DIR",
        )
    made = False
    try:
        into.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        made = True
        for path, text in rendered(names).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"cannot write {folder}: {error.strerror}", hint="choose another folder: --into DIR"
        ) from error
    return folder


def _templates(room: str) -> Iterator[tuple[str, str]]:
    """Path and text of the templates of one room, sorted by path."""
    top = importlib.resources.files("fedsim.authoring").joinpath("templates", room)
    yield from sorted(_below(top, ""))


def _below(folder: Any, path: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(_MARK):
            text = entry.read_text(encoding="utf-8")
            yield path + entry.name.removesuffix(_MARK), text
