"""What `fedsim data` may be asked about: a folder, a data set by its name, or a scenario."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fedsim import scenario as scenarios
from fedsim.errors import InputError
from fedsim.files import file_name
from fedsim.registry import default_registry
from fedsim.scenario.fitting import data_of
from fedsim.scenario.schema import Scenario
from fedsim.starting.draft import Progress, draft, loaded
from fedsim.starting.found import Found
from fedsim.starting.looking import look
from fedsim.starting.text import Sheet, scenario_text


def name_of(root: Path) -> str:
    """A scenario's name for a folder."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", root.name).strip("-_.")
    return plain if plain and plain == file_name(plain) else "experiment"


def is_file(name: str) -> bool:
    """Whether a word names a scenario's file."""
    return name.endswith((".yaml", ".yml"))


def scenario_of(
    name: str, overrides: Sequence[str], seed: int | None, progress: Progress = None
) -> Scenario:
    """The scenario that is meant, or one about the folder or the data set that is.

    Raises:
        InputError: there is none of these.
    """
    if is_file(name) or name in scenarios.names():
        return scenarios.load(name, overrides, seed)
    if os.path.isdir(Path(name).expanduser()):
        root = Path(name).expanduser().absolute()
        text = draft(look(root), name_of(root), progress).text
        return loaded(text, overrides, seed)
    known = default_registry().names("datasets")
    if name in known:
        return loaded(_about(name), overrides, seed)
    if "/" in name:
        return scenarios.load(name, overrides, seed)
    close = difflib.get_close_matches(name, [*known, *scenarios.names()], n=1, cutoff=0.5)
    raise InputError(
        f"{name!r} is no folder, data set or scenario"
        + (f" (did you mean {close[0]!r}?)" if close else ""),
        hint="fedsim data status lists data sets, fedsim ls scenarios; a folder must be there",
    )


def _about(name: str) -> str:
    """A scenario about a data set."""
    volumes = data_of(default_registry().resolve("datasets", name)) == "volumes"
    found = Found(name, "volumes" if volumes else "images", name, None)
    return scenario_text(Sheet(name=name, found=found, size=64 if volumes else 32))
