"""Absolute paths name people and machines: what is handed on shows only how they end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.report.record import Record

# A slash begins a path where it begins a word: not in "MB/s", "1/n", "https://x" or "</td>".
_PART = r"[^\s\"'`<>|,;:()\[\]{}/]"
_PATH = re.compile(
    rf"(?:file://|(?<![\w.…/<)\]~-]))~?/(?:[A-Za-z_.~]{_PART}*|{_PART}+/{_PART}+)(?:/{_PART}*)*"
    r"|(?<!\w)[A-Za-z]:[\\/][^\s\"'`<>|,;()\[\]{}]+"
)
_SETTING = re.compile(r"^-{0,2}[\w.-]+=")


def without_paths(value: Any, known: Sequence[str] = ()) -> Any:
    """Text, or texts in lists and mappings, in which absolute paths are cut to "…/" and their end.

    Args:
        value: keys of mappings stay as they are.
        known: absolute paths that may hold spaces, see `paths_in`.
    """
    if isinstance(value, str):
        if _absolute(value):
            return _end(value)
        for path in known:
            # YAML breaks long lines at spaces.
            found = re.escape(path).replace(r"\ ", r"\s+")
            value = re.sub(found, _end(path).replace("\\", r"\\"), value)
        return _PATH.sub(lambda found: _end(found.group()), value)
    if isinstance(value, Mapping):
        return {key: without_paths(one, known) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(one, known) for one in value]
    return value


def paths_in(value: Any) -> list[str]:
    """The texts in lists and mappings that are absolute paths, as a whole or behind "key="; the
    longest first."""
    return sorted(set(_paths(value)), key=len, reverse=True)


def hidden(record: Record) -> Record:
    """The record of a run without absolute paths: what a page of it is made from."""
    known = paths_in([record.run, record.scenario])
    rounds = [
        {**row, "failed": without_paths(row["failed"], known)} if row["failed"] else row
        for row in record.rounds
    ]
    return replace(
        record,
        run=without_paths(record.run, known),
        scenario=without_paths(record.scenario, known),
        scenario_text=without_paths(record.scenario_text, known),
        rounds=rounds,
        summary=without_paths(record.summary, known),
        leakage=without_paths(record.leakage, known),
    )


def shortest(paths: Iterable[str]) -> dict[str, str]:
    """For each absolute path its end, as long as it takes to tell these paths apart."""
    every = {path: _parts(path) for path in paths}
    ends = {}
    for path, parts in every.items():
        others = [other for other in every.values() if other != parts]
        length = 1
        while length < len(parts) and any(one[-length:] == parts[-length:] for one in others):
            length += 1
        ends[path] = "…/" + "/".join(parts[-length:])
    return ends


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        text = _SETTING.sub("", value)
        if _absolute(text):
            yield text
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)


def _absolute(text: str) -> bool:
    """Whether a text is nothing but an absolute path."""
    if "\n" in text or text.strip("/ ") == "":
        return False
    return text.startswith(("/", "~/")) or bool(PureWindowsPath(text).drive and "\\" in text)


def _parts(path: str) -> list[str]:
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return [part for part in kind(path.removeprefix("file://")).parts if part.strip("/\\")]


def _end(path: str) -> str:
    return "…/" + (_parts(path) or ["path"])[-1]
