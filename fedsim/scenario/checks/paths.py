"""Folders and files that a scenario names: where they are, and whether they are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedsim.errors import InputError, nearest
from fedsim.pretrained.catalogue import CATALOGUE, ELSEWHERE, RANDOM, SHIPPED, package_of
from fedsim.scenario.checks.keys import LABELLED, MODEL_FILE, Problems, dotted, network_of
from fedsim.yaml_lines import Document, KeyPath, Place

# The keys that name weights: a file, a file of a package, or a name of the catalogue.
_WEIGHTS: tuple[KeyPath, ...] = (("model", "init"), ("data", "features", "weights"))


def make_absolute(document: Document) -> Problems:
    """Make the paths of folders and files absolute: of plugins, data, labelled records, weights.

    Plugin folders are relative to the file that names them, all else to the current directory.
    What is not there is a problem.
    """
    problems: Problems = []
    plugins = document.get(("plugins",))
    for position, folder in enumerate(plugins if isinstance(plugins, list) else ()):
        path = ("plugins", position)
        if not isinstance(folder, str):
            continue
        place = document.place(path)
        base = Path(place.source).parent if place.line else Path.cwd()
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

    outside = ("evaluation", "external", "root")
    if isinstance(root := document.get(outside), str):
        document.values["evaluation"]["external"]["root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(outside), f"evaluation.external.root: {why}"))

    public = ("data", "features", "public_root")
    if isinstance(root := document.get(public), str):
        document.values["data"]["features"]["public_root"] = absolute = _absolute(root)
        if why := _not_a_filled_folder(absolute):
            problems.append((document.place(public), f"data.features.public_root: {why}"))

    if isinstance(listed := document.get(LABELLED), str):
        absolute = _absolute(listed)
        document.put(LABELLED, absolute, {(): document.place(LABELLED)})
        if not os.path.isfile(absolute):
            message = f"{dotted(LABELLED)}: there is no file {absolute}"
            problems.append((document.place(LABELLED), message))

    trace = ("federation", "clock", "trace")
    if isinstance(named := document.get(trace), str):
        absolute = _absolute(named)
        document.put(trace, absolute, {(): document.place(trace)})
        if not os.path.isfile(absolute):
            problems.append(
                (document.place(trace), f"{dotted(trace)}: there is no file {absolute}")
            )

    for weights in _WEIGHTS:
        problems += _make_weights_absolute(document, weights)
    problems += _make_network_absolute(document)
    return problems


def _make_network_absolute(document: Document) -> Problems:
    """Make a model file that `data.features` names an absolute path; names stay."""
    path, network = network_of(document)
    if not isinstance(network, str) or not network.endswith(MODEL_FILE):
        return []
    return _make_weights_absolute(document, path)


def _make_weights_absolute(document: Document, path: KeyPath) -> Problems:
    """Make a file of weights an absolute path; names of weights and of packages stay."""
    init = document.get(path)
    if not isinstance(init, str):
        return []
    place = document.place(path)
    if init == RANDOM:
        document.put(path, None, {(): place})
        return []
    if init in SHIPPED:
        return []
    if init in ELSEWHERE:
        told = f"no package has these weights: fetch {ELSEWHERE[init]}, and type"
        return [(place, f"{dotted(path)}: {told} {dotted(path)}=FILE")]
    try:
        if package_of(init) is not None:
            return []
    except InputError as error:
        return [(place, f"{dotted(path)}: {error.headline}; {error.hint}")]
    folder, name = os.path.split(_absolute(init))
    # A scenario's `latest` is another folder once the run has begun.
    absolute = os.path.join(os.path.realpath(folder), name)
    document.put(path, absolute, {(): place})
    if os.path.isfile(absolute):
        return []
    there = os.path.exists(absolute)
    message = f"{absolute} is no file" if there else f"there is no file {absolute}"
    if not there and init == name and not os.path.splitext(name)[1]:
        known = nearest(init, [RANDOM, *CATALOGUE, *SHIPPED, *ELSEWHERE])
        message += f", and there are no pretrained weights {init!r}{known}"
    return [(place, f"{dotted(path)}: {message}")]


def _root_from_environment(document: Document, data: dict[str, Any]) -> Problems:
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
