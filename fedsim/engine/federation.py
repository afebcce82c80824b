"""The federation of one run: who holds which records of which split."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.columns import as_patient, plain
from fedsim.data.copies import in_common
from fedsim.data.dataset import method_of
from fedsim.data.split import nested_fraction
from fedsim.engine.labelled import describe_labelled, hide_labels, labelled_note
from fedsim.errors import InputError, Problem, nearest
from fedsim.raising import one_line, plugin_code
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import records_to_forget, require_clients
from fedsim.scenario.parameters import shown
from fedsim.tasks.classification import Classification
from fedsim.tasks.task import Task
from fedsim.tasks.words import some


@dataclass(frozen=True)
class Federation:
    """Positions in a store, by split and by client.

    Attributes:
        store: the data, prepared: such as a `Store` of images, or a `VolumeStore`.
        split: "train", "val", "test" -> positions, int64; with `federation.labelled` "unlabelled",
            too.
        train: client name -> positions of its training records, in client order; with
            `federation.labelled` of those with labels.
        val: client name -> positions of its validation records (may be none).
        task: what is to be learned.
        external: a store, and positions in it of records that no client has, to score finished
            models on.
        torn: patients (or lesions) with records at several clients by the table, each of which is
            with one.
        forget: client name -> positions of the training records that it is asked to forget.
        unlabelled: client name -> positions of the training records whose labels are hidden; {}: no
            labels are.
    """

    store: Any
    split: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    task: Task
    external: tuple[Any, np.ndarray] | None = None
    torn: int = 0
    forget: dict[str, np.ndarray] = field(default_factory=dict)
    unlabelled: dict[str, np.ndarray] = field(default_factory=dict)

    def view(self, split: str) -> Any:
        """The pooled records of one split."""
        return self.task.view(self.store, self.split[split])

    def external_view(self) -> Any | None:
        """The external records; None where there are none."""
        return self.task.view(*self.external) if self.external is not None else None

    def client_view(self, name: str) -> Any:
        """The training records of a client, as it has them."""
        return self.task.view(self.store, self.train[name], name)

    def describe(self, *, count_classes: bool = True) -> dict[str, Any]:
        """The `data` entry of run.json.

        A private run publishes how many records clients have, but not of which classes.
        """
        counts = self.task.counts_by_client(self.store, self.train) if count_classes else None
        return {
            "source": self.store.source,
            "root": self.store.root,
            "fingerprint": self.store.fingerprint,
            "skipped": len(self.store.skipped),
            "classes": list(self.task.classes),
            "positive": self.task.positive,
            "window": getattr(self.store, "window", "") or None,
            "features": dict(getattr(self.store, "made_by", {})) or None,
            "classes_by_client": counts,
            "labels": describe_labelled(self.train, self.unlabelled),
            "sizes": {name: len(positions) for name, positions in self.split.items()},
            "external": self._describe_external(),
            "sizes_by_client": {
                name: {"train": len(self.train[name]), "val": len(self.val[name])}
                | ({"unlabelled": len(self.unlabelled[name])} if self.unlabelled else {})
                for name in self.train
            },
        }

    def notes(self, counts: bool = True) -> list[str]:
        """What a person must know about the data before a run begins, a sentence each.

        Args:
            counts: also what tells how classes and patients are distributed.
        """
        store = self.store
        notes = [*store.notes, *filter(None, [getattr(store, "window", "")])]
        if store.skipped:
            notes.append(f"left out because they cannot be used: {len(store.skipped)}")
        if self.unlabelled:
            notes.append(labelled_note(self.train, self.unlabelled))
        if not counts:
            return notes
        notes += self.task.notes(store, self.train)
        if self.torn:
            notes.append(
                f"patients (or lesions) with records at several clients of the table: {self.torn}; "
                "each is with the one that has most of it"
            )
        several = _at_several(store.groups, store.sites)
        if several:
            notes.append(
                f"patients (or lesions) with records at several sites: {several}; each is with one "
                "client only"
            )
        return notes

    def _describe_external(self) -> dict[str, Any] | None:
        if self.external is None:
            return None
        store, positions = self.external
        return {
            "root": store.root,
            "fingerprint": store.fingerprint,
            "sites": sorted({store.site_names[code] for code in store.sites[positions]}),
            "size": len(positions),
        }


def _at_several(groups: np.ndarray, holders: np.ndarray) -> int:
    """How many groups have records at several holders."""
    pairs = np.unique(np.stack([groups, holders], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def cache_folder() -> Path:
    """Where prepared data lies: FEDSIM_CACHE, else the user's cache folder."""
    base = os.environ.get("FEDSIM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"


def dataset_of(scenario: Scenario) -> Any:
    """The scenario's data set."""
    data = scenario.data
    return construct(default_registry().resolve("datasets", data.name), data.parameters)


def open_store(scenario: Scenario, progress: Callable[[int, int], None] | None = None) -> Any:
    """The scenario's data, prepared if need be; see `Dataset.open`.

    Raises:
        InputError: the data, or keys of the scenario that do not go with them.
    """
    dataset = dataset_of(scenario)
    return _opened(scenario, scenario.data.name, dataset, scenario.data_root(), progress)


def open_external(
    scenario: Scenario, progress: Callable[[int, int], None] | None = None
) -> Any | None:
    """The data of `evaluation.external.root`, prepared if need be; None where there is none.

    Raises:
        InputError: the data, or keys of the scenario that do not go with them.
    """
    wanted = scenario.evaluation.external
    if wanted is None or wanted.root is None:
        return None
    name, dataset = scenario.data.name, dataset_of(scenario)
    if wanted.dataset is not None:
        name = wanted.dataset.name
        dataset = construct(default_registry().resolve("datasets", name), wanted.dataset.parameters)
    return _opened(scenario, name, dataset, Path(wanted.root), progress)


def _opened(
    scenario: Scenario,
    name: str,
    dataset: Any,
    root: Path | None,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """A data set, prepared as the scenario says, as frozen features where it asks for them."""
    data = scenario.data
    task_of(dataset, scenario).refuse(scenario)
    with _preparing(name):
        store = method_of(dataset, "open")(
            name=name,
            root=root,
            size=data.size,
            embedded=dict(data.embedded),
            skip_bad=data.skip_bad,
            cache=cache_folder(),
            workers=os.cpu_count() or 1,
            progress=progress,
            positive=data.positive,
            window=data.window,
        )
    if data.features is None:
        return store
    from fedsim.data.features.preparing import prepare_features

    with _preparing(name):
        return prepare_features(
            store,
            data,
            dataset_of(scenario),  # Its stand-in teaches the public map.
            cache=cache_folder(),
            workers=os.cpu_count() or 1,
            progress=progress,
        )


def task_of(dataset: Any, scenario: Scenario | None = None) -> type[Task]:
    """The task of a data set, or of its class: that which it names, or else classification.

    Of a scenario with `data.features` it is the task on vectors.

    Raises:
        InputError: the data set names what is no task, or its task has no form on vectors.
    """
    found = getattr(dataset, "learns", Classification)
    if not (isinstance(found, type) and issubclass(found, Task)):
        name = getattr(dataset, "__name__", type(dataset).__name__)
        raise InputError(
            f"{name}.learns is {shown(found)}, which is no task",
            hint="a task is a class that derives from fedsim.tasks.Task",
        )
    if scenario is None or scenario.data.features is None:
        return found
    beside = scenario.data.features.beside
    on_features = found.beside_features() if beside else found.on_features()
    if on_features is None:
        raise InputError(
            f"data.features is for images to classify, but {scenario.data.name!r} has "
            f"{found.learns_from}",
            hint="leave data.features out",
        )
    return on_features


@contextlib.contextmanager
def _preparing(name: str) -> Iterator[None]:
    """Run a data set's code; InputError where it asks for more memory than there is."""
    with plugin_code(f"data set {name!r} could not be prepared"):
        try:
            yield
        except MemoryError as error:
            raise InputError(
                f"data set {name!r} does not fit into memory: {one_line(error)}",
                hint="choose a smaller data.size, or fewer records in data.embedded",
            ) from error


def _outsiders(scenario: Scenario) -> tuple[str, ...]:
    """Sites of the data that take no part."""
    external = scenario.evaluation.external
    return external.sites if external is not None else ()


def _external(
    scenario: Scenario,
    store: Any,
    task: type[Task],
    progress: Callable[[int, int], None] | None,
) -> tuple[Any, np.ndarray] | None:
    """Records that no client has: of sites that take no part, or of another folder."""
    wanted = scenario.evaluation.external
    if wanted is None:
        return None
    if wanted.root is None:
        known = list(store.site_names)
        if strangers := sorted(set(wanted.sites) - set(known)):
            raise InputError(
                f"evaluation.external.sites names {', '.join(strangers)}, but the sites are "
                f"{', '.join(known)}"
            )
        codes = [known.index(name) for name in wanted.sites]
        return store, np.flatnonzero(np.isin(store.sites, codes))
    other = open_external(scenario, progress)
    assert other is not None
    (names, here), (_, there) = task.agrees_in(store), task.agrees_in(other)
    if here != there:
        raise InputError(
            f"evaluation.external.root has the {names} {', '.join(there)}, but the scenario's "
            f"data have {', '.join(here)}"
        )
    if store.source == "path" and other.fingerprint == store.fingerprint:
        raise InputError("evaluation.external.root holds the data that clients train on")
    _refuse_overlap(store, other)
    return other, np.arange(len(other.sites))


def _refuse_overlap(store: Any, other: Any) -> None:
    """Raise InputError where external data have records or patients of the scenario's data."""
    records = in_common(store.digests, other.digests)
    # A case that is its own group is no patient's name: half of all data sets have a Case00.
    here, there = (
        {
            as_patient(name): name
            for name, case in zip(one.patients, one.ids, strict=True)
            if name not in ("", case)
        }
        if one.patients
        else {}
        for one in (store, other)
    )
    patients = sorted(there[name] for name in here.keys() & there.keys())
    problems = []
    if records:
        message = f"{records} of {len(other.sites)} records are also in the scenario's data"
        problems.append(Problem("evaluation.external.root", message))
    if patients:
        message = f"{len(patients)} of {len(there)} patients are also there: {some(patients)}"
        problems.append(Problem("evaluation.external.root", message))
    if problems:
        raise InputError(
            "external data must be of records and patients that no client has",
            problems,
            "take them out of one of the folders (or, where patients only share a name, rename "
            "them in one of the tables)",
        )


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
    external = _external(scenario, store, kind, progress)
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
    torn = 0 if column is None else _at_several(store.groups[inside], holders[inside])
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


def stand_in_note(store: Any) -> str:
    """What pictures must say about data that are not real; "" for data that are."""
    embedded = store.source == "embedded"
    return "embedded stand-in: generated images, not real data" if embedded else ""


def _holders(
    scenario: Scenario, store: Any, inside: np.ndarray, column: str | None
) -> tuple[list[str], np.ndarray]:
    """Whom a partition may go by: names, and for each record of the store a position in them or -1.

    They are the sites that take part, or what a column of the table says of those records.
    """
    if column is None:
        # Sites that take no part are none that a partition may wait for.
        names = [name for name in store.site_names if name not in _outsiders(scenario)]
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
