"""YAML -> validated scenario, with all that is wrong at once, each with its line.

The order of precedence is command line > selected profile > file > default:

- `key.sub=value` on the command line sets one key, or replaces a whole block: after
  `strategy={name: fedavg}` nothing of the file's `strategy:` is left.
- A profile is a mapping of the same keys, nested or dotted at its top level. Blocks are merged key
  by key; a block that names another plugin than the file's replaces it.

Loading imports the plugins a scenario names and so runs their code.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

import pydantic

from fedsim import yaml_lines
from fedsim.errors import InputError, Problem, nearest
from fedsim.files import read_regular
from fedsim.parameters import explain
from fedsim.registry import Registry, default_registry
from fedsim.scenario_checks import (
    Problems,
    activate,
    check_plugins,
    check_together,
    dotted,
    make_absolute,
)
from fedsim.schema import DEFAULT_PROFILE, Block, Data, PluginBlock, Resources, Scenario
from fedsim.yaml_lines import Document, KeyPath, Place

__all__ = [
    "Data",
    "PluginBlock",
    "Resources",
    "Scenario",
    "activate_plugins",
    "header",
    "headline",
    "load",
    "names",
    "source",
]


def load(
    name_or_file: str | Path,
    overrides: Iterable[str] = (),
    seed: int | None = None,
    registry: Registry | None = None,
) -> Scenario:
    """Read and validate a scenario.

    Args:
        name_or_file: a built-in scenario's name, or a file: a path with a "/", ".yaml" or ".yml".
        overrides: "key.sub=value", values as YAML; a later one wins.
        seed: the only seed to keep, instead of the scenario's `seeds`.
        registry: where plugins are looked up.

    Raises:
        InputError: with every problem of the file, the overrides and the plugins.
    """
    text = _find(name_or_file)
    document = yaml_lines.read(text.text, text.label)
    _expand(document)
    given, problems = _parse(overrides)
    if seed is not None:
        given.append((("seeds",), [seed], Place(f"command line (--seed {seed})")))
    problems += document.problems
    # A profile is chosen, and may be changed, on the command line; all other keys come after it.
    for path, value, place in given:
        if path[0] in _PROFILE_KEYS:
            problems += _put(document, path, value, {(): place})
    problems += _apply_profile(document)
    for path, value, place in given:
        if path[0] not in _PROFILE_KEYS:
            problems += _put(document, path, value, {(): place})

    wrong = _schema_problems(document)
    # That `on:` is no text is said once, by the schema where it looks at the key.
    said = {place for place, message in wrong.values() if "a key must be text" in message}
    problems = [problem for problem in problems if problem[0] not in said]
    problems += wrong.values()
    problems += make_absolute(document, text.path)
    problems += check_together(document, wrong)
    problems += check_plugins(document, registry or default_registry())
    if problems:
        problems.sort(key=lambda problem: (problem[0].line == 0, problem[0].line))
        lines = list(dict.fromkeys(Problem(str(place), message) for place, message in problems))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise InputError(
            f"scenario {text.label} has {count}",
            lines,
            hint=f"correct them, then type: fedsim check {name_or_file}",
        )
    scenario = Scenario.model_validate(document.values)
    scenario._path = text.path
    scenario._places = {
        (*block, *map(str, below)): str(place)
        for block in Scenario.blocks
        for below, place in document.places_below(block).items()
    }
    return scenario


def activate_plugins(scenario: Scenario) -> None:
    """Let this process import the modules in the scenario's plugin folders."""
    activate(scenario.plugins)


def names() -> list[str]:
    """The built-in scenarios' names, sorted."""
    return sorted(Path(entry.name).stem for entry in _built_in().iterdir() if _is_yaml(entry.name))


def source(name_or_file: str | Path) -> str:
    """A scenario's file as text; raises `InputError` if there is none."""
    return _find(name_or_file).text


def header(name_or_file: str | Path) -> list[str]:
    """The comment lines that open a scenario's file, without the "#"."""
    lines = []
    for line in source(name_or_file).lstrip().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return lines


def headline(name_or_file: str | Path) -> str:
    """The first comment line of a scenario's file: what it is about; "" if there is none."""
    return next(iter(header(name_or_file)), "")


@dataclass(frozen=True)
class _Text:
    """A scenario's file: its text, what to call it in messages, and its path."""

    text: str
    label: str
    path: Path


def _find(name_or_file: str | Path) -> _Text:
    given = str(name_or_file)
    is_file = isinstance(name_or_file, Path) or "/" in given or os.sep in given or _is_yaml(given)
    if not is_file and given not in names():
        raise InputError(
            f"there is no scenario {given!r}{nearest(given, names())}",
            hint="type 'fedsim ls' for the names; a file needs its path, ./FILE.yaml",
        )
    path = Path(given) if is_file else Path(str(_built_in() / f"{given}.yaml"))
    try:
        text = read_regular(path, yaml_lines.MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot read the scenario {path}: {why}") from error
    return _Text(text, str(path), Path(os.path.abspath(path)))


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


_PROFILE_KEYS = ("profile", "profiles")
_Override = tuple[KeyPath, Any, Place]


def _parse(overrides: Iterable[str]) -> tuple[list[_Override], Problems]:
    """The overrides of the command line as paths and values."""
    given: list[_Override] = []
    problems: Problems = []
    for override in overrides:
        readable = " ".join(override.split())
        place = Place(f"command line ({readable})")
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            problems.append((place, "expected key=value or key.sub=value"))
            continue
        try:
            value, wrong = yaml_lines.read_value(text, place)
        except InputError as error:
            problems += [(place, f"the value is not YAML: {p.message}") for p in error.problems]
            continue
        if value is None and text.strip() not in ("null", "~"):
            wrong = [*wrong, (place, f"a value is missing after '='; for none: {key}=null")]
        problems += wrong
        if not wrong:
            given.append((path, value, place))
    return given, problems


def _put(document: Document, path: KeyPath, value: Any, places: dict[KeyPath, Place]) -> Problems:
    """Set one key; an impossible path is a problem."""
    try:
        document.put(path, value, places)
    except ValueError as error:
        return [(places[()], f"{dotted(path)}: {error}")]
    _expand(document)
    return []


def _expand(document: Document) -> None:
    """Write a plugin's name that stands for its whole block as a block."""
    for path in Scenario.blocks:
        value = document.get(path)
        if isinstance(value, str) and path != ("data",):
            place = document.place(path)
            document.put(path, {"name": value}, {(): place, ("name",): place})


def _apply_profile(document: Document) -> Problems:
    """Put the selected profile's keys over the file's."""
    selected = document.get(("profile",), DEFAULT_PROFILE)
    profiles = document.get(("profiles",), {})
    if selected == DEFAULT_PROFILE or not isinstance(selected, str):
        return []
    if not isinstance(profiles, dict) or selected not in profiles:
        valid = [DEFAULT_PROFILE, *(name for name in profiles or () if isinstance(name, str))]
        message = f"profile: there is no profile {selected!r}{nearest(selected, valid)}"
        return [(document.place(("profile",)), message)]
    problems: Problems = []
    profile = profiles[selected]
    places: dict[Any, dict[KeyPath, Place]] = {}
    for at, place in document.places_below(("profiles", selected)).items():
        if at:
            places.setdefault(at[0], {})[at[1:]] = place
    for key, value in profile.items() if isinstance(profile, dict) else ():
        path = tuple(key.split(".")) if isinstance(key, str) else (key,)
        below = places.get(key) or {(): document.place(("profiles", selected))}
        if path[0] in _PROFILE_KEYS:
            problems.append((below[()], f"a profile cannot set {path[0]!r}"))
        else:
            problems += _merge(document, path, value, below)
    return problems


def _merge(document: Document, path: KeyPath, value: Any, places: dict[KeyPath, Place]) -> Problems:
    """Put a profile's `value` at `path`, keeping the keys of a block that it does not name."""
    there = document.get(path)
    blocks = isinstance(value, dict) and isinstance(there, dict)
    if not blocks or (path in Scenario.blocks and path != ("data",) and _other(there, value)):
        return _put(document, path, value, places)
    problems: Problems = []
    for key, inner in value.items():
        below = {at[1:]: place for at, place in places.items() if at[:1] == (key,)}
        problems += _merge(document, (*path, key), inner, below)
    return problems


def _other(there: dict[Any, Any], value: dict[Any, Any]) -> bool:
    """Whether `value` names another plugin."""
    return "name" in value and value["name"] != there.get("name")


def _schema_problems(document: Document) -> dict[KeyPath, tuple[Place, str]]:
    """What the keys' types, ranges and names are wrong about, by path."""
    try:
        Scenario.model_validate(document.values)
    except pydantic.ValidationError as error:
        found = explain(error, document.values)
    else:
        return {}
    problems = {}
    for path, message in found.items():
        if message == "unknown key":
            message += nearest(str(path[-1]), _keys(path[:-1]))
        problems[path] = (document.place(path), f"{dotted(path)}: {message}")
    return problems


def _keys(path: KeyPath) -> list[str]:
    """The keys of one of fedsim's own blocks."""
    block: type[Block] = Scenario
    for key in path:
        annotation = block.model_fields[key].annotation
        # Of a block that may be null, the block.
        inner = [a for a in (annotation, *get_args(annotation)) if _is_block(a)]
        block = inner[0]
    return list(block.model_fields)


def _is_block(annotation: Any) -> TypeGuard[type[Block]]:
    return isinstance(annotation, type) and issubclass(annotation, Block)
