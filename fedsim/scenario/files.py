"""The files of scenarios: the shipped ones by name, all others by path, as text."""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim import yaml_lines
from fedsim.errors import InputError, nearest
from fedsim.files import read_regular


@dataclass(frozen=True)
class Text:
    """A scenario's file: its text, what to call it in messages, and its absolute path."""

    text: str
    label: str
    path: Path


def names() -> list[str]:
    """The built-in scenarios' names, sorted."""
    return sorted(Path(entry.name).stem for entry in _built_in().iterdir() if _is_yaml(entry.name))


def find(name_or_file: str | Path, base: Path | None = None) -> Text:
    """A scenario's file.

    Args:
        name_or_file: a built-in scenario's name, or a file: a path with a "/", ".yaml" or ".yml".
        base: the folder that a relative path starts from; None is the current one.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    given = str(name_or_file)
    is_file = isinstance(name_or_file, Path) or "/" in given or os.sep in given or _is_yaml(given)
    if not is_file and given not in names():
        raise InputError(
            f"there is no scenario {given!r}{nearest(given, names())}",
            hint="type 'fedsim ls' for the names; a file needs its path, ./FILE.yaml",
        )
    path = Path(given) if is_file else Path(str(_built_in() / f"{given}.yaml"))
    if is_file and base is not None:
        path = base / path.expanduser()
    try:
        text = read_regular(path, yaml_lines.MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot read the scenario {path}: {why}") from error
    return Text(text, str(path), Path(os.path.abspath(path)))


def source(name_or_file: str | Path) -> str:
    """A scenario's file as text; raises `InputError` if there is none."""
    return find(name_or_file).text


def header(name_or_file: str | Path) -> list[str]:
    """The comment lines that open a scenario's file, without the "#"."""
    return [line.lstrip("#").strip() for line in opening(source(name_or_file))]


def headline(name_or_file: str | Path) -> str:
    """The first comment line of a scenario's file: what it is about; "" if there is none."""
    return next(iter(header(name_or_file)), "")


def opening(text: str) -> list[str]:
    """The comment lines that open a file, as they are written."""
    lines = []
    for line in text.lstrip().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines


def _built_in() -> Any:
    """The folder of the built-in scenarios."""
    try:
        return importlib.resources.files("fedsim.scenarios")
    except ImportError as error:
        raise InputError(
            "the built-in scenarios are not installed",
            hint="install fedsim: type 'pip install -e .' in its folder",
        ) from error


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
