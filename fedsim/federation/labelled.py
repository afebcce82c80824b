"""Few labels: of which training records the labels are known (`federation.labelled`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.split import labelled_groups, labelled_share
from fedsim.errors import InputError, Problem, nearest
from fedsim.randomness import Streams
from fedsim.scenario import Scenario
from fedsim.tasks.task import Task
from fedsim.tasks.words import counted, some

PATH = ("federation", "labelled")
KEY = ".".join(PATH)
GROUPS = "federation.labelled_groups"

Positions = dict[str, np.ndarray]
"""Client name -> positions in a store, int64, ascending."""

_LOOKED_AT = 2000  # names among which the nearest is looked for


def hide_labels(
    scenario: Scenario,
    store: Any,
    kind: type[Task],
    train: Mapping[str, np.ndarray],
    streams: Streams,
) -> tuple[Positions, Positions]:
    """Part each client's training records: those with labels, and those without.

    By a share, or a number of groups, they depend on the run's seed and on who holds what, on
    nothing else: all methods have the same, and fewer are part of more.

    Args:
        scenario: it hides labels.
        store: the data.
        kind: the task.
        train: client name -> positions of its training records, in client order.
        streams: of the run.

    Raises:
        InputError: the task's records have no labels to hide, a client is named that there is not
            or has fewer groups than are wanted, or a list names records that are not there, or
            leaves a client without labels.
    """
    wanted, count = scenario.federation.labelled, scenario.federation.labelled_groups
    key = KEY if count is None else GROUPS
    if not kind.hides_labels:
        raise InputError(
            f"{key}: {scenario.data.name!r} has {kind.learns_from}, whose labels cannot be hidden",
            hint=f"type {key}=null",
        )
    if count is not None:
        known = _counted(scenario, store, train, count, streams)
    elif isinstance(wanted, str):
        known = _listed(scenario, store, train, Path(wanted))
    else:
        shares = _shares(scenario, train, wanted)
        known = {
            name: held[
                labelled_share(
                    store.labels[held],
                    store.groups[held],
                    share=shares[name],
                    rng=streams.numpy("labelled", client=client),
                )
            ]
            for client, (name, held) in enumerate(train.items())
        }
    return known, {name: np.setdiff1d(held, known[name]) for name, held in train.items()}


def _counted(
    scenario: Scenario, store: Any, train: Mapping[str, np.ndarray], count: int, streams: Streams
) -> Positions:
    """The records of so many groups at each client."""
    there = {name: len(np.unique(store.groups[held])) for name, held in train.items()}
    if short := [f"{name} has {groups}" for name, groups in there.items() if groups < count]:
        place = scenario.place("federation", "labelled_groups")
        raise InputError(
            f"{GROUPS}: {count} patients or cases are wanted of each client",
            [Problem(place, f"{GROUPS}: {some(short)} for training")],
            f"type {GROUPS}={min(there.values())} or less",
        )
    return {
        name: held[
            labelled_groups(
                store.groups[held], count=count, rng=streams.numpy("labelled", client=client)
            )
        ]
        for client, (name, held) in enumerate(train.items())
    }


def _shares(scenario: Scenario, train: Mapping[str, np.ndarray], wanted: Any) -> dict[str, float]:
    """Client name -> its share; a client that a block does not name has all labels."""
    if not isinstance(wanted, Mapping):
        return dict.fromkeys(train, float(wanted))
    problems = [
        Problem(
            scenario.place(*PATH, name),
            f"{KEY}: there is no client {name!r}{nearest(name, list(train))}",
        )
        for name in wanted
        if name not in train
    ]
    if problems:
        raise InputError("shares of labels for clients that do not exist", problems)
    return {name: float(wanted.get(name, 1.0)) for name in train}


def _listed(
    scenario: Scenario, store: Any, train: Mapping[str, np.ndarray], path: Path
) -> Positions:
    """The records that a file names, one in a line; what it names of other splits is passed over.

    Raises:
        InputError: the file cannot be read, names what is no record, or leaves a client without.
    """
    place = scenario.place(*PATH)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise InputError(
            f"{KEY}: cannot read {path}: {why}", [Problem(place, f"{KEY}: {path}")]
        ) from error
    asked = dict.fromkeys(line.strip() for line in lines if line.strip())
    known = set(store.ids)
    if strangers := [name for name in asked if name not in known]:
        near = nearest(strangers[0], list(store.ids[:_LOOKED_AT]))
        raise InputError(
            f"{path} names {counted(len(strangers), 'records')} that the data have not",
            [Problem(place, f"{KEY}: there is no record {strangers[0]!r}{near}")],
            "write the name of a record in each line, as the data set has it",
        )
    found = {
        name: held[[store.ids[i] in asked for i in held.tolist()]] for name, held in train.items()
    }
    if without := [name for name, held in found.items() if not len(held)]:
        raise InputError(
            f"{path} names no training record of {some(without)}",
            [Problem(place, f"{KEY}: every client needs a labelled record")],
            "name at least one training record of each client",
        )
    return found


def describe_labelled(
    known: Mapping[str, np.ndarray], hidden: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """What run.json says of it: how many records, and a SHA-256 of which; None: no labels are."""
    if not hidden:
        return None
    digest = hashlib.sha256()
    for name, positions in known.items():
        digest.update(f"{name} {positions.tolist()}\n".encode())
    return {
        "labelled": sum(len(held) for held in known.values()),
        "unlabelled": sum(len(held) for held in hidden.values()),
        "sha256": digest.hexdigest(),
    }


def labelled_note(known: Mapping[str, np.ndarray], hidden: Mapping[str, np.ndarray]) -> str:
    """What a person must know of it, in a sentence."""
    labelled = sum(len(held) for held in known.values())
    total = labelled + sum(len(held) for held in hidden.values())
    return f"labels are known of {labelled} of {total} training records, and hidden of the others"
