"""YAML -> validated scenario, with all that is wrong at once, each with its line.

The order of precedence is command line > selected profile > file > file it extends > default:

- `key.sub=value` on the command line sets one key, or replaces a whole block: after
  `strategy={name: fedavg}` nothing of the file's `strategy:` is left.
- A profile is a mapping of the same keys, nested or dotted at its top level. Blocks are merged key
  by key; a block that names another plugin than the file's replaces it.
- `extends: NAME|FILE` puts the file's keys over another file's by the same rules (see
  `fedsim.scenario.extending`).

Loading imports the plugins a scenario names and so runs their code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_args

import pydantic

from fedsim import yaml_lines
from fedsim.errors import InputError, Problem, nearest
from fedsim.registry import Registry, default_registry
from fedsim.scenario.checks import (
    Problems,
    activate,
    check_plugins,
    check_together,
    dotted,
    make_absolute,
)
from fedsim.scenario.extending import compose
from fedsim.scenario.files import find
from fedsim.scenario.merging import EXTENDS, OBSERVE, PROFILE_KEYS, apply_profile, observe, put
from fedsim.scenario.parameters import explain
from fedsim.scenario.schema import Block, Scenario
from fedsim.yaml_lines import Document, KeyPath, Place

__all__ = ["activate_plugins", "load"]


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
    text = find(name_or_file)
    document = compose(text)
    given, problems = _parse(overrides)
    if seed is not None:
        given.append((("seeds",), [seed], Place(f"command line (--seed {seed})")))
    problems += document.problems
    # A profile is chosen, and may be changed, on the command line; all other keys come after it.
    for path, value, place in given:
        if path[0] in PROFILE_KEYS:
            problems += put(document, path, value, {(): place})
    problems += apply_profile(document)
    for path, value, place in given:
        if path == (OBSERVE,):
            problems += observe(document, value, Place(f"command line (--observe {value})"))
        elif path[0] not in PROFILE_KEYS:
            problems += put(document, path, value, {(): place})

    wrong = _schema_problems(document)
    # That `on:` is no text is said once, by the schema where it looks at the key.
    said = {place for place, message in wrong.values() if "a key must be text" in message}
    problems = [problem for problem in problems if problem[0] not in said]
    problems += wrong.values()
    problems += make_absolute(document)
    problems += check_together(document, wrong)
    problems += check_plugins(document, registry or default_registry())
    problems += _not_numbers(document, problems)
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
        for block in (("federation",), *Scenario.blocks)
        for below, place in document.places_below(block).items()
    }
    own = ("federation", "overrides")
    scenario._places |= {
        (*own, *map(str, below)): str(place) for below, place in document.places_below(own).items()
    }
    return scenario


def activate_plugins(scenario: Scenario) -> None:
    """Let this process import the modules in the scenario's plugin folders."""
    activate(scenario.plugins)


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
        if path[0] == EXTENDS:
            problems.append((place, "only a file extends another: write it there"))
            continue
        try:
            value, wrong = yaml_lines.read_value(text, place)
        except InputError as error:
            what = "" if "cannot be used" in error.headline else "the value is not YAML: "
            problems += [(place, f"{what}{p.message}") for p in error.problems]
            continue
        if value is None and text.strip() not in ("null", "~"):
            wrong = [*wrong, (place, f"a value is missing after '='; for none: {key}=null")]
        problems += wrong
        if not wrong:
            given.append((path, value, place))
    return given, problems


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


def _not_numbers(document: Document, said: Problems) -> Problems:
    """Where `.nan` stands, unless something else has been said of the key.

    Infinity is left to the schema, and to the types of a plugin's parameters: one without a type
    may mean "no limit" by it.
    """
    keys = {message.partition(":")[0] for _, message in said}
    return [
        (document.place(path), f"{dotted(path)}: expected a finite number, got {value}")
        for path, value in _numbers(document.values, ())
        if math.isnan(value) and keys.isdisjoint(dotted(path[: n + 1]) for n in range(len(path)))
    ]


def _numbers(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, float]]:
    """The numbers with a fraction in blocks and lists, each with its path."""
    if isinstance(value, float):
        yield path, value
    inner = value.items() if isinstance(value, dict) else ()
    for key, one in enumerate(value) if isinstance(value, list) else inner:
        yield from _numbers(one, (*path, key))


def _keys(path: KeyPath) -> list[str]:
    """The keys of one of fedsim's own blocks."""
    block: type[Block] = Scenario
    for key in path:
        if key not in block.model_fields:
            continue  # A name, such as a client's: its block is the one that was found.
        annotation = block.model_fields[key].annotation
        # Of a block that may be null, the block.
        inner = [a for a in (annotation, *get_args(annotation)) if _is_block(a)]
        block = inner[0]
    return [*block.model_fields, *([EXTENDS] if block is Scenario else [])]


def _is_block(annotation: Any) -> TypeGuard[type[Block]]:
    return isinstance(annotation, type) and issubclass(annotation, Block)
