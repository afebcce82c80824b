"""The records of a scenario, split and shared out among the clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedsim.data.columns import plain
from fedsim.data.split import nested_fraction
from fedsim.errors import InputError, Problem, nearest
from fedsim.federation.external import external_records, outsiders
from fedsim.federation.forgetting import records_to_forget
from fedsim.federation.holdings import Federation, at_several
from fedsim.federation.labelled import hide_labels
from fedsim.federation.opening import dataset_of, open_store, task_of
from fedsim.raising import plugin_code
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import require_clients


def build_federation(
    scenario: Scenario, seed: int, progress: Callable[[int, int], None] | None = None
) -> Federation:
    """Open the data, split it and share it out.

    The split depends on `data.split.seed` alone, so that runs of several seeds are scored on the
    same test records; the partition, and which of the training records a fraction has, depend on
    the run's seed.
    """
    store = open_store(scenario, progress)
    kind = task_of(dataset_of(scenario), scenario)
    external = external_records(scenario, store, kind, progress)
    inside = np.arange(len(store.sites))
    if external is not None and external[0] is store:
        # A patient who was also at a site outside is of no use as an unseen one: leave them out.
        inside = np.flatnonzero(~np.isin(store.groups, store.groups[external[1]]))
        if not len(inside):
            raise InputError("evaluation.external.sites names all sites: nobody is left to train")
    split = {name: inside[where] for name, where in kind.split(scenario, store, inside).items()}
    block = scenario.federation.partition
    partition = construct(default_registry().resolve("partitions", block.name), block.parameters)
    here = split["train"]
    column = getattr(partition, "column", None)
    names, holders = _holders(scenario, store, inside, column)
    with plugin_code(f"partition {block.name!r} failed in assign"):
        parts = partition.assign(
            labels=store.labels[here],
            groups=store.groups[here],
            sites=holders[here],
            site_names=tuple(names),
            clients=scenario.federation.clients,
            rng=Streams(seed).numpy("partition"),
        )
    parts = _fraction(scenario, store.labels[here], store.groups[here], parts, Streams(seed))
    train = {name: here[positions] for name, positions in parts.items()}
    if scenario.data.split.fraction < 1:
        split["train"] = np.sort(np.concatenate(list(train.values())))
    val = _share_validation(store, split["val"], list(train), names, holders)
    require_clients(scenario, list(train))
    task = kind.of(scenario, store, list(train))
    task.require_metrics()
    torn = 0 if column is None else at_several(store.groups[inside], holders[inside])
    unlabelled: dict[str, np.ndarray] = {}
    if scenario.federation.hides_labels:
        train, unlabelled = hide_labels(scenario, store, kind, train, Streams(seed))
        for side, held in (("train", train), ("unlabelled", unlabelled)):
            split[side] = np.sort(np.concatenate(list(held.values())))
    forget = records_to_forget(scenario, store, train, Streams(seed))
    return Federation(store, split, train, val, task, external, torn, forget, unlabelled)


def _fraction(
    scenario: Scenario,
    labels: np.ndarray,
    groups: np.ndarray,
    parts: Mapping[str, np.ndarray],
    streams: Streams,
) -> Mapping[str, np.ndarray]:
    """What each client keeps of its training records, by `data.split.fraction`.

    The records are shared out first: with a smaller fraction nobody's patients go elsewhere.
    """
    fraction = scenario.data.split.fraction
    if fraction == 1:
        return parts
    held = np.concatenate(list(parts.values()))
    holders = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    taken = nested_fraction(
        labels[held], groups[held], holders, fraction=fraction, rng=streams.numpy("fraction")
    )
    return {name: held[taken[holders[taken] == i]] for i, name in enumerate(parts)}


def _holders(
    scenario: Scenario, store: Any, inside: np.ndarray, column: str | None
) -> tuple[list[str], np.ndarray]:
    """Whom a partition may go by: names, and for each record of the store a position in them or -1.

    They are the sites that take part, or what a column of the table says of those records.
    """
    if column is None:
        # Sites that take no part are none that a partition may wait for.
        names = [name for name in store.site_names if name not in outsiders(scenario)]
        codes = np.array([names.index(n) if n in names else -1 for n in store.site_names], np.int64)
        return names, codes[store.sites]
    titles = {plain(title): title for title in store.columns}
    if plain(column) not in titles:
        message = f"is {column!r}; columns of the data: {', '.join(store.columns) or 'none'}"
        raise InputError(
            f"the data have no column {column!r}{nearest(column, store.columns)}",
            [Problem("federation.partition.column", message)],
        )
    values = store.columns[titles[plain(column)]]
    names = sorted({values[i] for i in inside.tolist()})
    place = {name: code for code, name in enumerate(names)}
    return names, np.array([place.get(value, -1) for value in values], np.int64)


def _share_validation(
    store: Any,
    val: np.ndarray,
    names: list[str],
    known: list[str],
    holders: np.ndarray,
) -> dict[str, np.ndarray]:
    """Validation records go to their own client where clients are sites, or those of a column, else
    evenly by label.
    """
    if set(names) <= set(known):
        return {name: val[holders[val] == known.index(name)] for name in names}
    groups, first = np.unique(store.groups[val], return_index=True)
    dealt = groups[np.argsort(store.labels[val][first], kind="stable")]
    owner = dict(zip(dealt.tolist(), np.arange(len(dealt)) % len(names), strict=True))
    owners = np.array([owner[group] for group in store.groups[val].tolist()], dtype=np.int64)
    return {name: val[owners == client] for client, name in enumerate(names)}
