"""The plugins of a scenario: found, and their parameters checked, before anything runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.parameters import check_parameters, construct, describe, is_factory
from fedsim.registry import Registry
from fedsim.schema import Scenario
from fedsim.yaml_lines import Document, KeyPath, Place

SUPPLIED = {"models": ("num_classes", "in_channels", "image_size")}
"""Group -> the parameters that fedsim passes to its plugins' constructors."""

_Problems = list[tuple[Place, str]]


def activate(folders: Iterable[str]) -> None:
    """Append folders to the path that modules are imported from.

    They come last: a plugin's file cannot take the place of an installed module.
    """
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


def check_plugins(document: Document, registry: Registry) -> _Problems:
    """Resolve the plugin of every block and check its parameters against its constructor.

    A plugin that fedsim passes nothing to is also constructed: it may refuse a combination of
    values that are valid one by one.
    """
    listed = document.get(("plugins",))
    folders = [at for at in listed if isinstance(at, str)] if isinstance(listed, list) else []
    activate(folder for folder in folders if os.path.isdir(folder))
    return [
        problem
        for path in Scenario.blocks
        for problem in _check_block(document, registry, path, folders)
    ]


def _check_block(
    document: Document, registry: Registry, path: KeyPath, folders: list[str]
) -> _Problems:
    group, model = Scenario.blocks[path]
    default = {"name": "iid"} if group == "partitions" else None
    block = document.get(path, default)
    if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
        return []  # the schema says so
    dotted = ".".join(path)
    name_place = document.place((*path, "name"))
    try:
        factory, why = registry.resolve(group, name), ""
    except InputError as error:
        why = error.headline
    if why := _shadowed(name, folders) or why:
        return [(name_place, f"{dotted}.name: {why}")]
    if not callable(factory):
        return [(name_place, f"{dotted}.name: {name!r} is a value, not a class or function")]

    own = model.own_keys()
    given = {key: value for key, value in block.items() if isinstance(key, str) and key not in own}
    supplied = SUPPLIED.get(group, ())
    found = check_parameters(factory, given, supplied=supplied, known=own)
    made = None
    if not found and not supplied and is_factory(factory):
        try:
            made = construct(factory, given)
        except InputError as error:
            found = [(problem.where, problem.message) for problem in error.problems]
    problems = []
    for key, message in found:
        place = document.place((*path, key) if key else path)
        if message.startswith("unknown key") and not name_place.line and place.line:
            message += f"; to drop the file's other keys: {dotted}={{name: {name}}}"
        problems.append((place, f"{dotted}.{key}: {message}" if key else f"{dotted}: {message}"))
    if group == "datasets" and made is not None:
        problems += _check_stand_in(document, made)
    return problems


def _check_stand_in(document: Document, dataset: Any) -> _Problems:
    """Check `data.embedded` against the data set's generator, unless the data come from disk.

    The generator also gets `size` and those of the data set's own attributes that it takes.
    """
    given = document.get(("data", "embedded"), {})
    if document.get(("data", "root")) is not None or not isinstance(given, dict):
        return []
    try:
        generator = getattr(dataset, "embedded", None)
    except Exception as error:  # a property of the plugin
        return [(document.place(("data",)), f"data: no stand-in: {describe(error)}")]
    if generator is None:
        message = "data.root: missing: this data set has no embedded stand-in; give its folder"
        return [(document.place(("data", "root")), message)]
    supplied = {"size", *getattr(dataset, "__dict__", {})}
    keys = {key: value for key, value in given.items() if isinstance(key, str)}
    return [
        (document.place(("data", "embedded", key)), f"data.embedded.{key}: {message}")
        for key, message in check_parameters(generator, keys, supplied=supplied)
    ]


def _shadowed(name: str, folders: list[str]) -> str:
    """Why the dotted path does not reach the file in a plugin folder, or ""."""
    top = name.partition(":")[0].partition(".")[0]
    module = sys.modules.get(top)
    here = [
        Path(folder)
        for folder in folders
        if os.path.isfile(os.path.join(folder, f"{top}.py"))
        or os.path.isdir(os.path.join(folder, top))
    ]
    if module is None or not here or ("." not in name and ":" not in name):
        return ""
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    if any(Path(origin).resolve().is_relative_to(folder.resolve()) for folder in here):
        return ""
    return f"module {top!r} is {origin}, not the one in {here[0]}; rename yours"
