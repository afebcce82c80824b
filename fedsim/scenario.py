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
from typing import Any

import pydantic

from fedsim import yaml_lines
from fedsim.errors import InputError, Problem, nearest
from fedsim.parameters import explain, shown
from fedsim.plugin_checks import activate, check_plugins
from fedsim.registry import Registry, default_registry
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
    given.sort(key=lambda override: override[0][0] not in ("profile", "profiles"))
    applied = False
    for path, value, place in given:
        if not applied and path[0] not in ("profile", "profiles"):
            problems += _apply_profile(document)
            applied = True
        problems += _put(document, path, value, {(): place})
    if not applied:
        problems += _apply_profile(document)

    wrong = _schema_problems(document)
    problems += wrong.values()
    problems += _make_absolute(document, text.path)
    problems += _cross_problems(document, wrong)
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
        text = path.read_bytes().decode("utf-8-sig")
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


_Problems = list[tuple[Place, str]]
_Override = tuple[KeyPath, Any, Place]


def _parse(overrides: Iterable[str]) -> tuple[list[_Override], _Problems]:
    """The overrides of the command line as paths and values."""
    given: list[_Override] = []
    problems: _Problems = []
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


def _put(document: Document, path: KeyPath, value: Any, places: dict[KeyPath, Place]) -> _Problems:
    """Set one key; an impossible path is a problem."""
    try:
        document.put(path, value, places)
    except ValueError as error:
        return [(places[()], f"{_dotted(path)}: {error}")]
    _expand(document)
    return []


def _expand(document: Document) -> None:
    """Write a plugin's name that stands for its whole block as a block."""
    for path in Scenario.blocks:
        value = document.get(path)
        if isinstance(value, str) and path != ("data",):
            place = document.place(path)
            document.put(path, {"name": value}, {(): place, ("name",): place})


def _apply_profile(document: Document) -> _Problems:
    """Put the selected profile's keys over the file's."""
    selected, profiles = (
        document.get(("profile",), DEFAULT_PROFILE),
        document.get(("profiles",), {}),
    )
    if selected == DEFAULT_PROFILE or not isinstance(selected, str):
        return []
    if not isinstance(profiles, dict) or selected not in profiles:
        valid = [DEFAULT_PROFILE, *(name for name in profiles or () if isinstance(name, str))]
        message = f"profile: there is no profile {selected!r}{nearest(selected, valid)}"
        return [(document.place(("profile",)), message)]
    problems: _Problems = []
    profile = profiles[selected]
    for key, value in profile.items() if isinstance(profile, dict) else ():
        at = ("profiles", selected, key)
        path = tuple(key.split(".")) if isinstance(key, str) else (key,)
        if path[0] in ("profile", "profiles"):
            problems.append((document.place(at), f"a profile cannot set {path[0]!r}"))
        else:
            problems += _merge(document, path, value, document.places_below(at))
    return problems


def _merge(
    document: Document, path: KeyPath, value: Any, places: dict[KeyPath, Place]
) -> _Problems:
    """Put a profile's `value` at `path`, keeping the keys of a block that it does not name."""
    there = document.get(path)
    blocks = isinstance(value, dict) and isinstance(there, dict)
    if not blocks or (path in Scenario.blocks and path != ("data",) and _other(there, value)):
        return _put(document, path, value, places)
    problems: _Problems = []
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
        problems[path] = (document.place(path), f"{_dotted(path)}: {message}")
    return problems


def _keys(path: KeyPath) -> list[str]:
    """The keys of one of fedsim's own blocks."""
    block: type[Block] = Scenario
    for key in path:
        inner = block.model_fields[key].annotation
        assert isinstance(inner, type)
        block = inner
    return list(block.model_fields)


def _make_absolute(document: Document, scenario: Path) -> _Problems:
    """Check `plugins`, `data.root` and `model.init` and make them absolute paths.

    Plugin folders are relative to the scenario's file, all else to the current directory.
    """
    problems: _Problems = []
    plugins = document.get(("plugins",))
    for position, folder in enumerate(plugins if isinstance(plugins, list) else ()):
        path = ("plugins", position)
        if not isinstance(folder, str):
            continue
        place = document.place(path)
        base = scenario.parent if place.line else Path.cwd()
        plugins[position] = absolute = _absolute(folder, base)
        if not os.path.isdir(absolute):
            problems.append((place, f"plugins: there is no folder {absolute}"))

    data = document.get(("data",))
    if isinstance(data, dict) and "root" not in data and isinstance(data.get("name"), str):
        problems += _root_from_environment(document, data)
    elif isinstance(root := document.get(("data", "root")), str):
        document.values["data"]["root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(("data", "root")), f"data.root: {why}"))

    if isinstance(init := document.get(("model", "init")), str):
        document.values["model"]["init"] = absolute = _absolute(init)
        if not os.path.isfile(absolute):
            message = f"model.init: there is no file {absolute}"
            problems.append((document.place(("model", "init")), message))
    return problems


def _root_from_environment(document: Document, data: dict[str, Any]) -> _Problems:
    """Take the folder FEDSIM_DATA/<name>, if there is one, as `data.root`."""
    base = os.environ.get("FEDSIM_DATA")
    if not base:
        return []
    place = Place(f"environment variable FEDSIM_DATA ({base})")
    if not os.path.isdir(base):
        return [(place, "is not a folder; to use the embedded stand-in: unset FEDSIM_DATA")]
    absolute = _absolute(data["name"], Path(base))
    if os.path.isdir(absolute):
        document.put(("data", "root"), absolute, {(): place})
        if why := _not_a_filled_folder(absolute):
            return [(place, why)]
    return []


def _not_a_filled_folder(path: str) -> str:
    """Why `path` is not a folder with something in it, or ""."""
    if not os.path.isdir(path):
        return f"there is no folder {path}"
    try:
        return "" if os.listdir(path) else f"the folder {path} is empty"
    except OSError as error:
        return f"cannot read the folder {path}: {error.strerror}"


def _absolute(path: str, base: Path | None = None) -> str:
    return os.path.abspath(os.path.join(base or Path.cwd(), os.path.expanduser(path)))


def _cross_problems(document: Document, wrong: dict[KeyPath, Any]) -> _Problems:
    """Keys that are right, each for itself, and wrong together."""
    problems: _Problems = []
    clients, share = ("federation", "clients"), ("federation", "participation")
    if not {clients, share, clients[:1]} & wrong.keys():
        number, part = document.get(clients), document.get(share, 1.0)
        # 1/49 of 49 clients is one client, although its product is a little less.
        if number is not None and number * part < 1 - 1e-9:
            message = f"{_dotted(share)}: {shown(part)} of {number} clients is less than one client"
            problems.append((document.place(share), message))
    val, select = ("data", "split", "val"), ("evaluation", "select")
    if document.get(select) == "pooled_val" and document.get(val) == 0:
        problems.append((document.place(select), "evaluation.select: needs data.split.val above 0"))
    return problems


def _dotted(path: KeyPath) -> str:
    return ".".join(str(key) for key in path)
