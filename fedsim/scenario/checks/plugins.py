"""Plugins: whether they are there, and their parameters are right."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedsim.errors import InputError, nearest
from fedsim.method.capabilities import ill_declared
from fedsim.method.flower_strategies import filled_in, refusal
from fedsim.pretrained.catalogue import CATALOGUE
from fedsim.raising import reraise_interruption
from fedsim.registry import Registry
from fedsim.scenario.checks.keys import CLIENTS, MODEL_FILE, Problems, dotted, network_of
from fedsim.scenario.checks.overrides import check_overrides
from fedsim.scenario.checks.pairs import check_pairs
from fedsim.scenario.parameters import (
    blamed,
    check_parameters,
    construct,
    describe,
    is_factory,
    parameter_names,
)
from fedsim.scenario.schema import Scenario, joining
from fedsim.yaml_lines import Document, KeyPath

SUPPLIED = {"models": ("num_classes", "in_channels", "image_size", "patch", "in_features")}
"""Group -> the parameters that fedsim passes to its plugins' constructors."""


def activate(folders: Iterable[str]) -> None:
    """Append folders to the path that modules are imported from.

    They come last: a plugin's file cannot take the place of an installed module.
    """
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


def check_plugins(document: Document, registry: Registry) -> Problems:
    """Resolve the plugin of every block and check its parameters against its constructor.

    A plugin that fedsim passes nothing to is also constructed: it may refuse a combination of
    values that are valid one by one.
    """
    listed = document.get(("plugins",))
    folders = [at for at in listed if isinstance(at, str)] if isinstance(listed, list) else []
    activate(folder for folder in folders if os.path.isdir(folder))
    problems = [
        problem
        for path in Scenario.blocks
        for problem in _check_block(document, registry, path, folders)
    ]
    problems += _check_observers(document, registry, folders)
    problems += _check_features(document, registry)
    problems += _check_external(document, registry, folders)
    return problems or check_pairs(document, registry) or check_overrides(document, registry)


def _check_block(
    document: Document, registry: Registry, path: KeyPath, folders: list[str]
) -> Problems:
    group, model = Scenario.blocks[path]
    default = {"name": "iid"} if group == "partitions" else None
    block = document.get(path, default)
    if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
        return []  # the schema says so
    name_place = document.place((*path, "name"))
    factory, why = resolved(registry, group, name, folders)
    if why:
        return [(name_place, f"{dotted(path)}.name: {why}")]
    why = refusal(factory) if group == "strategies" else ""
    if why := why or ill_declared(factory):
        return [(name_place, f"{dotted(path)}.name: {why}")]

    own = model.own_keys()
    given = {key: value for key, value in block.items() if isinstance(key, str) and key not in own}
    if group == "strategies":
        given = _filled_in(document, registry, factory) | given
    supplied = SUPPLIED.get(group, ())
    found = check_parameters(factory, given, supplied=supplied, known=own)
    made = None
    if not found and not supplied and is_factory(factory):
        try:
            made = construct(factory, given)
        except InputError as error:
            found = [(problem.where, problem.message) for problem in error.problems]
    if group == "strategies" and isinstance(count := document.get(CLIENTS), int):
        share = document.get(("federation", "participation"), 1.0)
        share = share if isinstance(share, int | float) and 0 < share <= 1 else 1.0
        found += refused_for_clients(made, count, share, given)
    problems = []
    for key, message in found:
        place = document.place((*path, key) if key else path)
        if message.startswith("unknown key") and not name_place.line and place.line:
            message += f"; to drop the file's other keys: {dotted(path)}={{name: {name}}}"
        problems.append((place, f"{dotted((*path, key) if key else path)}: {message}"))
    if group == "datasets":
        options = {*parameter_names(factory), *getattr(made, "__dict__", {})}
        problems += _check_stand_in(document, factory if made is None else made, options)
    return problems


def _check_features(document: Document, registry: Registry) -> Problems:
    """The network of `data.features`: of the catalogue, a model file, or a model plugin."""

    written, network = network_of(document)
    if not isinstance(network, str) or network in CATALOGUE or network.endswith(MODEL_FILE):
        return []
    try:
        registry.resolve("models", network)
    except InputError as error:
        known = (*CATALOGUE, *registry.names("models"))
        why = f"{network!r} is none{nearest(network, known)}: {error.headline}; pretrained are "
        why += ", ".join(CATALOGUE)
        return [(document.place(written), f"{dotted(written)}: {why}")]
    return []


def _check_external(document: Document, registry: Registry, folders: list[str]) -> Problems:
    """The data set plugin of `evaluation.external`."""
    path: KeyPath = ("evaluation", "external", "dataset")
    block = document.get(path)
    block = {"name": block} if isinstance(block, str) else block
    if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
        return []  # the schema says so
    factory, why = resolved(registry, "datasets", name, folders)
    if why:
        return [(document.place(path), f"{dotted(path)}: {why}")]
    given = {key: value for key, value in block.items() if key != "name"}
    return [
        (document.place((*path, key) if key else path), f"{dotted((*path, key))}: {message}")
        for key, message in check_parameters(factory, given, known={"name"})
    ]


def resolved(registry: Registry, group: str, name: str, folders: list[str]) -> tuple[Any, str]:
    """What a plugin's name stands for, and why it cannot be used; "" where it can."""
    try:
        factory, why = registry.resolve(group, name), ""
    except InputError as error:
        factory, why = None, f"{error.headline}; {error.hint}" if error.hint else error.headline
    if why := _shadowed(name, folders) or why:
        return factory, why
    return factory, "" if callable(factory) else f"{name!r} is a value, not a class or function"


def _check_observers(document: Document, registry: Registry, folders: list[str]) -> Problems:
    """Make each observer of the list: its parameters may be wrong, or what it needs be missing."""
    from fedsim.observers.base import Observer

    listed = document.get(("observers",))
    problems: Problems = []
    for position, item in enumerate(listed if isinstance(listed, list) else ()):
        block = {"name": item} if isinstance(item, str) else item
        if not isinstance(block, dict) or not isinstance(name := block.get("name"), str):
            continue  # the schema says so
        place = document.place(("observers", position))
        factory, why = resolved(registry, "observers", name, folders)
        found = [("", why)] if why else []
        given = {key: value for key, value in block.items() if key != "name"}
        if not why:
            found = check_parameters(factory, given, known={"name"})
        if not found:
            try:
                made = construct(factory, given)
                if not isinstance(made, Observer):
                    what = f"{name!r} makes a {type(made).__name__}, not an observer"
                    found = [("", f"{what}: one derives from fedsim.Observer")]
            except InputError as error:
                found = [(problem.where, problem.message) for problem in error.problems]
        for key, message in found:
            at = document.place(("observers", position, key)) if key else place
            path: KeyPath = ("observers", name, key) if key else ("observers",)
            problems.append((at, f"{dotted(path)}: {message}"))
    return problems


def refused_for_clients(
    strategy: object, clients: int, participation: float, parameters: Iterable[str]
) -> list[tuple[str, str]]:
    """What a strategy says of this number of clients, and of those that join a round.

    Returns:
        The parameter, or "", and why; or nothing.
    """
    if clients < 1:
        return []
    for name, count in (
        ("check_clients", clients),
        ("check_replies", joining(clients, participation)),
    ):
        check = getattr(strategy, name, None)
        if check is None:
            continue
        try:
            check(count)
        except BaseException as error:
            reraise_interruption(error)
            return [blamed(error, parameters)]
    return []


def _filled_in(document: Document, registry: Registry, strategy: Any) -> dict[str, Any]:
    """What the engine will tell the strategy of the scenario's clients."""
    client = document.get(("client",))
    if not isinstance(client, dict) or not isinstance(name := client.get("name"), str):
        return {}
    try:
        return filled_in(strategy, registry.resolve("clients", name), client)
    except InputError:  # Said of the client's own block.
        return {}


def _check_stand_in(document: Document, dataset: Any, options: set[str]) -> Problems:
    """Check `data.embedded` against the data set's generator, unless the data come from disk.

    The generator also gets `size` and those of the data set's own `options` that it takes.
    `dataset` is the class where no object could be made of it.
    """
    given = document.get(("data", "embedded"), {})
    if document.get(("data", "root")) is not None or not isinstance(given, dict):
        return []
    if getattr(dataset, "rootless", False) is True:
        return []
    try:
        generator = getattr(dataset, "embedded", None)
    except BaseException as error:  # a property of the plugin
        reraise_interruption(error)
        return [(document.place(("data",)), f"data: no stand-in: {describe(error)}")]
    if generator is None:
        message = "data.root: missing: this data set has no embedded stand-in; give its folder"
        return [(document.place(("data", "root")), message)]
    keys = {key: value for key, value in given.items() if isinstance(key, str)}
    return [
        (document.place(("data", "embedded", key)), f"data.embedded.{key}: {message}")
        for key, message in check_parameters(generator, keys, supplied={"size", *options})
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
