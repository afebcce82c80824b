"""Keys over keys: how an override, a profile or an extending file changes a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.errors import nearest
from fedsim.scenario.checks import Problems, dotted
from fedsim.scenario.schema import DEFAULT_PROFILE, Scenario
from fedsim.yaml_lines import Document, KeyPath, Place

EXTENDS = "extends"
"""The key that names the file which a file changes; gone once it is composed."""
PROFILE_KEYS = ("profile", "profiles")
OBSERVE = "observe"
"""The key of the command line that adds to the list of observers: `--observe NAME`."""


def put(document: Document, path: KeyPath, value: Any, places: Mapping[KeyPath, Place]) -> Problems:
    """Set one key; an impossible path is a problem."""
    try:
        document.put(path, value, places)
    except ValueError as error:
        return [(places[()], f"{dotted(path)}: {error}")]
    expand(document)
    return []


def expand(document: Document) -> None:
    """Write a plugin's name that stands for its whole block as a block."""
    for path in Scenario.blocks:
        value = document.get(path)
        if isinstance(value, str) and path != ("data",):
            place = document.place(path)
            document.put(path, {"name": value}, {(): place, ("name",): place})


def apply_profile(document: Document) -> Problems:
    """Put the selected profile's keys over the file's."""
    selected = document.get(("profile",), DEFAULT_PROFILE)
    profiles = document.get(("profiles",), {})
    if selected == DEFAULT_PROFILE or not isinstance(selected, str):
        return []
    if not isinstance(profiles, dict) or selected not in profiles:
        valid = [DEFAULT_PROFILE, *(name for name in profiles or () if isinstance(name, str))]
        message = f"profile: there is no profile {selected!r}{nearest(selected, valid)}"
        return [(document.place(("profile",)), message)]
    profile = profiles[selected]
    problems: Problems = []
    if isinstance(profile, dict):
        places = document.places_below(("profiles", selected))
        for key in (*PROFILE_KEYS, EXTENDS):
            if key in profile:
                problems.append((places.get((key,), places[()]), f"a profile cannot set {key!r}"))
        rest = {k: v for k, v in profile.items() if k not in (*PROFILE_KEYS, EXTENDS)}
        problems += over(document, rest, places)
    return problems


def over(
    document: Document, values: Mapping[Any, Any], places: Mapping[KeyPath, Place]
) -> Problems:
    """Put keys, nested or dotted at their top level, over those of a document.

    Args:
        document: is changed.
        values: of the profile, or of the file that extends another.
        places: where these were written.
    """
    below: dict[Any, dict[KeyPath, Place]] = {}
    for at, place in places.items():
        if at:
            below.setdefault(at[0], {})[at[1:]] = place
    problems: Problems = []
    for key, value in values.items():
        path = tuple(key.split(".")) if isinstance(key, str) else (key,)
        problems += _merge(document, path, value, below.get(key) or {(): places[()]})
    return problems


def _merge(
    document: Document, path: KeyPath, value: Any, places: Mapping[KeyPath, Place]
) -> Problems:
    """Put `value` at `path`, keeping the keys of a block that it does not name."""
    there = document.get(path)
    blocks = isinstance(value, dict) and isinstance(there, dict)
    if not blocks or (_is_plugins(path) and _other(there, value)):
        return put(document, path, value, places)
    problems: Problems = []
    for key, inner in value.items():
        below = {at[1:]: place for at, place in places.items() if at[:1] == (key,)}
        problems += _merge(document, (*path, key), inner, below)
    return problems


def _is_plugins(path: KeyPath) -> bool:
    """Whether a block belongs to a plugin; in a profile, too, where keys may be dotted."""
    if path[:1] == ("profiles",):
        path = tuple(part for key in path[2:] for part in str(key).split("."))
    return path in Scenario.blocks and path != ("data",)


def _other(there: dict[Any, Any], value: dict[Any, Any]) -> bool:
    """Whether `value` names another plugin."""
    return "name" in value and value["name"] != there.get("name")


def observe(document: Document, name: Any, place: Place) -> Problems:
    """Add an observer, unless one of that name is there already."""
    if not isinstance(name, str):
        return [(place, f"observers: expected a name, but it is {name!r}")]
    there = document.get(("observers",))
    listed = list(there) if isinstance(there, list) else []
    names = [one.get("name") if isinstance(one, dict) else one for one in listed]
    if name in names or (there is not None and not isinstance(there, list)):
        return []
    places = dict(document.places_below(("observers",))) if listed else {}
    places |= {(): places.get((), place), (len(listed),): place}
    return put(document, ("observers",), [*listed, name], places)
