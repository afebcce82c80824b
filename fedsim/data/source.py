"""Where a store's records come from: a folder that must be right, or a generated stand-in.

Shared by the stores of images and of volumes, so that their errors and keys read alike.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import InputError, Problem, nearest
from fedsim.files import file_name
from fedsim.raising import one_line

_SHOWN = 10  # broken records listed by name


_HELP = ("workers", "progress")
"""What a generator of a stand-in may take beside parameters."""


def check_root(name: str, root: Path, layout: str) -> None:
    """Raise InputError when the root folder is none, or is empty.

    Args:
        name: the data set, as the scenario calls it.
        root: the folder.
        layout: what it must hold, for the message.
    """
    wrong = ""
    try:
        if not os.path.exists(root):
            wrong = "does not exist"
        elif not os.path.isdir(root):
            wrong = "is not a folder"
        elif not any(root.iterdir()):
            wrong = "is empty"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    if wrong:
        problem = Problem(str(root), f"{wrong}; expected there: {layout}")
        raise InputError(f"the folder of data set {name!r} is wrong", [problem], "check data.root")


def stand_in(
    generator: Callable[..., Any] | None,
    options: Mapping[str, Any],
    embedded: Mapping[str, Any],
    *,
    name: str,
    size: int,
    layout: str,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A stand-in's generator, and what it is called with.

    Args:
        generator: of the data set; None when it has none.
        options: the data set's own, of which the generator may take some.
        embedded: the scenario's `data.embedded`.
        name: the data set, as the scenario calls it.
        size: of the images; passed if the generator takes it.
        layout: what a root folder must hold, for the message.

    Raises:
        InputError: there is no stand-in, or keys that it does not take.
    """
    if generator is None:
        raise InputError(
            f"data set {name!r} has no embedded stand-in and needs a folder to read from",
            [Problem("data.root", f"is not given; expected there: {layout}")],
            "add data.root=FOLDER",
        )
    accepted = set(inspect.signature(generator).parameters) - set(_HELP)
    supplied = {**options, "size": size}
    own = {key: value for key, value in supplied.items() if key in accepted}
    problems = [
        Problem(f"data.embedded.{key}", f"is set by data.{key}")
        if key in own
        else Problem(f"data.embedded.{key}", "is unknown" + nearest(key, accepted - set(own)))
        for key in embedded
        if key in own or key not in accepted
    ]
    if problems:
        raise InputError(f"wrong parameters of the stand-in of {name!r}", problems)
    return generator, {**own, **embedded}


def generated(
    generator: Callable[..., Any],
    parameters: Mapping[str, Any],
    name: str,
    *,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> Any:
    """What the generator of a stand-in makes of its parameters.

    Args:
        generator: may take `workers` and `progress`, on which what it makes does not depend.
        parameters: see `stand_in`.
        name: the data set, as the scenario calls it.
        workers: processes that it may use.
        progress: called with records made, records in all, and what is done, in words.

    Raises:
        InputError: it refuses them, or what they ask for does not fit into memory.
        RunError: a process died.
    """
    accepted = inspect.signature(generator).parameters
    help_ = {"workers": workers, "progress": progress}
    try:
        return generator(**parameters, **{key: help_[key] for key in _HELP if key in accepted})
    except ValueError as error:
        problem = Problem("data.embedded", str(error))
        raise InputError(f"wrong parameters of the stand-in of {name!r}", [problem]) from error
    except MemoryError as error:
        size = f", in data.size {parameters['size']}" if "size" in parameters else ""
        problem = Problem("data.size and data.embedded", one_line(error))
        raise InputError(
            f"the stand-in of {name!r}{size} does not fit into memory",
            [problem],
            "make data.size, or the counts of data.embedded, smaller",
        ) from error


def refuse_broken(
    broken: Sequence[Problem],
    left: int,
    *,
    headline: str,
    layout: str,
    skip_bad: bool,
) -> None:
    """Raise InputError unless broken records may be skipped and others are left.

    Args:
        broken: what is wrong, by record; the first ten are shown.
        left: number of records that can be read.
        headline: what the error says first.
        layout: what a root folder must hold, for the hint when nothing can be read.
        skip_bad: whether broken records may be left out.
    """
    if not broken or (skip_bad and left):
        return
    shown = f"; the first {_SHOWN}" if len(broken) > _SHOWN else ""
    hint = "repair them, or set data.skip_bad=true to leave them out"
    if not left:
        hint = f"is data.root the right folder? Expected there: {layout}"
    raise InputError(f"{headline}{shown}:", broken[:_SHOWN], hint)


def plugin_error(name: str, wrong: Sequence[str]) -> InputError:
    """The error about records that a data set plugin should not have returned."""
    problems = [Problem(f"data set {name!r}", message) for message in wrong]
    return InputError("a data set plugin returned wrong records", problems)


def origin(generator: Callable[..., Any]) -> list[Any]:
    """What tells a stand-in's generator from others, and from its other versions."""
    version = getattr(generator, "version", None)
    return [generator.__module__, getattr(generator, "__qualname__", ""), version]


def hashed(content: Any) -> str:
    """A short hash of what a store's content depends on (text, or what JSON can hold)."""
    if not isinstance(content, str):
        content = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def file_state(path: Path) -> list[int]:
    """Size and times of a file, which stand for its bytes; empty when there is none.

    Programs set the time of a file's content back (`cp -p`, archives), but not the time of its last
    change, which also tells of another name.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def below(path: Path, root: Path) -> str:
    """The path as seen from the root, with forward slashes."""
    inside, start = str(path), f"{root}{os.sep}"
    part = inside[len(start) :] if inside.startswith(start) else os.path.relpath(path, root)
    return part.replace(os.sep, "/")


def lines_below(problems: Sequence[Problem], root: Path) -> list[str]:
    """Problems as they are written down: without the root folder."""
    return [str(problem).removeprefix(f"{root}{os.sep}") for problem in problems]


def safe(name: str) -> str:
    """A name as part of a file name (a data set may be named by a dotted path)."""
    return file_name(name)
