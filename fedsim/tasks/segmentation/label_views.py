"""Who labels what: the structures that each client outlines, and what its background may hide.

A data set has structures, label values 1, 2, ... in the order of their names; 0 is background.
Structures that belong together form an organ (a kidney and its tumour). A client labels some of
them; all others it shows as background. What a client does not label falls into background groups,
one for the true background and one for each organ, which conditional distillation tells apart
(Wang et al., "ConDistFL", 2023). In the union of organ and lesion each organ is one class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import InputError, Problem, nearest
from fedsim.yaml_lines import KeyPath

BACKGROUND = "background"


@dataclass(frozen=True)
class LabelView:
    """What one client labels.

    Attributes:
        foreground: the classes that it labels, ascending, without 0.
        background_groups: the classes that its background may hide: (0,) and then, organ by organ,
            what it does not label. With `foreground` they hold every class once.
    """

    foreground: tuple[int, ...]
    background_groups: tuple[tuple[int, ...], ...]

    def hide(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """The labels as the client has them: background wherever it does not label.

        Args:
            labels: classes, of any shape.

        Returns:
            A new array of the same shape and type.
        """
        return np.where(np.isin(labels, self.foreground), labels, np.zeros_like(labels))


@dataclass(frozen=True)
class LabelScheme:
    """The classes of a federation, and who labels which.

    Attributes:
        structures: names of the classes 1, 2, ...: the data set's structures, or in the union of
            organ and lesion its organs.
        table: the class of each of the data set's label values, from 0.
        views: what each client labels, by the client's name, in the order given.
    """

    structures: tuple[str, ...]
    table: tuple[int, ...]
    views: Mapping[str, LabelView]

    def merge(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """The classes of the data set's label values, a new array of the same shape and type.

        Also merges a prediction of the structures, so that it is scored by organ.

        Raises:
            ValueError: a label value that the data set does not have.
        """
        strange = np.unique(labels[(labels < 0) | (labels >= len(self.table))])
        if len(strange):
            raise ValueError(
                f"Labels must lie between 0 and {len(self.table) - 1}, but there is "
                f"{strange[:5].tolist()}."
            )
        return np.asarray(self.table, dtype=labels.dtype)[labels]


def label_scheme(
    structures: Sequence[str],
    clients: Mapping[str, Sequence[str]],
    organs: Mapping[str, Sequence[str]] | None = None,
    union: bool = False,
    where: str = "label_views",
) -> LabelScheme:
    """Build the label views of a federation.

    Args:
        structures: the data set's, in the order of their label values from 1.
        clients: the structures that each client labels.
        organs: the structures of each organ that has several; one in none is an organ by itself.
        union: merge each organ into one class with the organ's name. A client then labels all of
            an organ or nothing of it.
        where: what the problems of an error begin with.

    Raises:
        InputError: the views do not fit the structures. All problems at once.
    """
    organs = organs or {}
    problems = label_scheme_problems(structures, clients, organs, union)
    if problems:
        raise InputError(
            "The label views do not fit the data set.",
            [Problem(_spelled((where, *path)), message) for path, message in problems],
            f"the data set's structures are: {', '.join(structures)}",
        )
    groups = _groups(structures, organs)
    values = {name: value for value, name in enumerate(structures, start=1)}
    classes = values
    if union:
        of_organ = {organ: number for number, organ in enumerate(groups, start=1)}
        classes = {name: of_organ[organ] for organ, members in groups.items() for name in members}
    views = {}
    for client, labelled in clients.items():
        foreground = {classes[name] for name in labelled}
        hidden = (
            tuple(sorted({classes[name] for name in members} - foreground))
            for members in groups.values()
        )
        views[client] = LabelView(
            tuple(sorted(foreground)), ((0,), *(group for group in hidden if group))
        )
    table = (0, *(classes[name] for name in structures))
    return LabelScheme(tuple(groups) if union else tuple(structures), table, views)


def label_scheme_problems(
    structures: Sequence[str],
    clients: Mapping[str, Sequence[str]],
    organs: Mapping[str, Sequence[str]],
    union: bool,
) -> list[tuple[KeyPath, str]]:
    """What keeps `label_scheme` from building, each with the keys that lead to it.

    The keys start with "structures", "clients" or "organs"; an entry of a list has its position.
    """
    problems: list[tuple[KeyPath, str]] = []
    for name, often in Counter(structures).items():
        if often > 1:
            problems.append((("structures",), f"{name!r} is there {often} times"))
        if name in ("", BACKGROUND):
            problems.append((("structures",), f"{name!r} cannot be the name of a structure"))
    if not structures:
        problems.append((("structures",), "the data set has no structure"))
    if not clients:
        problems.append((("clients",), "no client labels anything"))

    for section, lists in (("clients", clients), ("organs", organs)):
        for owner, names in lists.items():
            path = (section, owner)
            if isinstance(names, str) or not isinstance(names, Sequence):
                problems.append((path, f"must be a list of structures, not {names!r}"))
            elif not names:
                problems.append((path, "is an empty list: name at least one structure"))
            else:
                problems += _list_problems(path, names, structures)
    if not problems:
        problems += _organ_problems(structures, organs)
        labelled = {name for names in clients.values() for name in names}
        for name in structures:
            if name not in labelled:
                message = f"no client labels {name!r}, so no model can learn it"
                problems.append((("clients",), message))
    if union and not problems:
        problems += _union_problems(clients, organs)
    return problems


def _list_problems(
    path: KeyPath, names: Sequence[str], structures: Sequence[str]
) -> list[tuple[KeyPath, str]]:
    problems: list[tuple[KeyPath, str]] = []
    for position, name in enumerate(names):
        if name not in structures:
            hint = nearest(str(name), structures)
            problems.append(((*path, position), f"there is no structure {name!r}{hint}"))
        elif name in names[:position]:
            problems.append(((*path, position), f"{name!r} is there twice"))
    return problems


def _organ_problems(
    structures: Sequence[str], organs: Mapping[str, Sequence[str]]
) -> list[tuple[KeyPath, str]]:
    problems: list[tuple[KeyPath, str]] = []
    owner: dict[str, str] = {}
    for organ, members in organs.items():
        # An organ may be called after one of its own structures, as a kidney is.
        if organ in ("", BACKGROUND) or (organ in structures and organ not in members):
            message = f"{organ!r} cannot be the name of an organ of {', '.join(members)}"
            problems.append((("organs", organ), message))
        for position, name in enumerate(members):
            if name in owner:
                message = f"{name!r} already belongs to the organ {owner[name]!r}"
                problems.append((("organs", organ, position), message))
            owner.setdefault(name, organ)
    return problems


def _union_problems(
    clients: Mapping[str, Sequence[str]], organs: Mapping[str, Sequence[str]]
) -> list[tuple[KeyPath, str]]:
    problems: list[tuple[KeyPath, str]] = []
    for client, labelled in clients.items():
        for organ, members in organs.items():
            missing = [name for name in members if name not in labelled]
            if missing and len(missing) < len(members):
                message = (
                    f"labels only a part of {organ!r}; for the union of its structures also name "
                    f"{', '.join(missing)}"
                )
                problems.append((("clients", client), message))
    return problems


def _groups(structures: Sequence[str], organs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The structures of every organ, ordered by the first structure of each."""
    owner = {name: organ for organ, members in organs.items() for name in members}
    groups: dict[str, list[str]] = {}
    for name in structures:
        groups.setdefault(owner.get(name, name), []).append(name)
    return groups


def _spelled(path: KeyPath) -> str:
    """Keys as a scenario's error names them: `label_views.clients.north[0]`."""
    first, *rest = path
    steps = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in rest)
    return str(first) + "".join(steps)
