"""The federation of one run: who holds which records of which split."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedsim.client import Task
from fedsim.data.columns import as_patient, plain
from fedsim.data.copies import in_common
from fedsim.data.split import split_records
from fedsim.data.store import Store, prepare
from fedsim.data.volumes.dataset import VolumeDataset
from fedsim.data.volumes.split import split_cases, split_fold
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.errors import InputError, Problem, nearest
from fedsim.label_views import label_scheme
from fedsim.raising import one_line, plugin_code
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.segmentation.task import SegmentationTask

_SHOWN = 8  # names in a note


@dataclass(frozen=True)
class Federation:
    """Positions in a store, by split and by client.

    Attributes:
        store: the data: a `Store` of images, or a `VolumeStore`.
        split: "train", "val", "test" -> positions, int64.
        train: client name -> positions of its training records, in client order.
        val: client name -> positions of its validation records (may be none).
        task: what is to be learned.
        external: a store, and positions in it of records that no client has, to score finished
            models on.
        torn: patients (or lesions) with records at several clients by the table, each of which is
            with one.
    """

    store: Any
    split: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    task: Task
    external: tuple[Any, np.ndarray] | None = None
    torn: int = 0

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
        return {
            "source": self.store.source,
            "root": self.store.root,
            "fingerprint": self.store.fingerprint,
            "skipped": len(self.store.skipped),
            "classes": list(self.task.classes),
            "positive": self.task.positive,
            "window": getattr(self.store, "window", "") or None,
            "classes_by_client": self._classes_by_client() if count_classes else None,
            "sizes": {name: len(positions) for name, positions in self.split.items()},
            "external": self._describe_external(),
            "sizes_by_client": {
                name: {"train": len(self.train[name]), "val": len(self.val[name])}
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
        if not counts:
            return notes
        if not isinstance(store, VolumeStore):
            single = [
                f"{name} ({self.task.classes[store.labels[held[0]]]})"
                for name, held in self.train.items()
                if len(held) and (store.labels[held] == store.labels[held[0]]).all()
            ]
            if single:
                notes.append(f"clients with records of one class only: {_some(single)}")
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

    def _classes_by_client(self) -> dict[str, list[int]] | None:
        """Training records of each class; None where a record is a volume with all of them."""
        if isinstance(self.store, VolumeStore):
            return None
        return {
            name: np.bincount(
                self.store.labels[positions], minlength=len(self.task.classes)
            ).tolist()
            for name, positions in self.train.items()
        }


def _at_several(groups: np.ndarray, holders: np.ndarray) -> int:
    """How many groups have records at several holders."""
    pairs = np.unique(np.stack([groups, holders], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def _some(names: list[str]) -> str:
    """Names, the first few where there are many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def cache_folder() -> Path:
    """Where prepared data lies: FEDSIM_CACHE, else the user's cache folder."""
    base = os.environ.get("FEDSIM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"


def open_store(
    scenario: Scenario,
    progress: Callable[[int, int], None] | None = None,
    root: Path | None = None,
) -> Any:
    """The scenario's data, prepared if need be: a `Store` of images, or a `VolumeStore`.

    Data of the same kind in another folder, where `root` names one.
    """
    data = scenario.data
    dataset = construct(default_registry().resolve("datasets", data.name), data.parameters)
    options: dict[str, Any] = {
        "name": data.name,
        "root": root or scenario.data_root(),
        "size": data.size,
        "embedded": dict(data.embedded),
        "skip_bad": data.skip_bad,
        "cache": cache_folder(),
        "progress": progress,
    }
    if isinstance(dataset, VolumeDataset):
        for key in ("positive", "window"):
            if getattr(data, key) is not None:
                raise InputError(
                    f"data.{key} is for images, but {data.name!r} has volumes", hint="leave it out"
                )
        with _preparing(data.name):
            return prepare_volumes(dataset, **options)
    options |= {"positive": data.positive, "window": data.window}
    with _preparing(data.name):
        return prepare(dataset, workers=os.cpu_count() or 1, **options)


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
    scenario: Scenario, store: Store | VolumeStore, progress: Callable[[int, int], None] | None
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
    other = open_store(scenario, progress, Path(wanted.root))
    names = "structures" if isinstance(store, VolumeStore) else "classes"
    here, there = tuple(getattr(store, names)), tuple(getattr(other, names))
    if here != there:
        raise InputError(
            f"evaluation.external.root has the {names} {', '.join(there)}, but the scenario's "
            f"data have {', '.join(here)}"
        )
    if store.source == "path" and other.fingerprint == store.fingerprint:
        raise InputError("evaluation.external.root holds the data that clients train on")
    _refuse_overlap(store, other)
    return other, np.arange(len(other.sites))


def _refuse_overlap(store: Store | VolumeStore, other: Store | VolumeStore) -> None:
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
        message = f"{len(patients)} of {len(there)} patients are also there: {_some(patients)}"
        problems.append(Problem("evaluation.external.root", message))
    if problems:
        raise InputError(
            "external data must be of records and patients that no client has",
            problems,
            "take them out of one of the folders (or, where patients only share a name, rename "
            "them in one of the tables)",
        )


def _split(
    scenario: Scenario, store: Store | VolumeStore, inside: np.ndarray
) -> dict[str, np.ndarray]:
    """Positions in `inside`: which of these records are for what; of the split seed alone."""
    share = scenario.data.split
    if isinstance(store, VolumeStore):
        cases = store.sites[inside], store.groups[inside], store.site_names
        if share.folds is not None:
            return split_fold(
                *cases, fold=share.fold, folds=share.folds, val=share.val, seed=share.seed
            )
        return split_cases(*cases, val=share.val, test=share.test, seed=share.seed)
    if share.folds is not None:
        raise InputError(
            "data.split.folds is for data of volumes", hint="type data.split.folds=null"
        )
    return split_records(
        store.labels[inside],
        store.groups[inside],
        store.sites[inside],
        val=share.val,
        test=share.test,
        seed=share.seed,
        classes=store.classes,
    )


def _task(scenario: Scenario, store: Store | VolumeStore, clients: list[str]) -> Task:
    """What is to be learned."""
    labels = scenario.federation.labels
    if not isinstance(store, VolumeStore):
        if labels is not None:
            raise InputError(
                "federation.labels says who outlines which structure, but the data are images",
                hint="remove the block",
            )
        if scenario.federation.appearance:
            raise InputError(
                "federation.appearance changes how volumes look, but the data are images",
                hint="remove the block",
            )
        _, height, _, channels = store.images.shape
        return Task(tuple(store.classes), channels, height)
    wanted = labels.clients if labels else None
    outlined = dict.fromkeys(clients, store.structures) if wanted is None else wanted
    strangers = sorted(set(clients) ^ set(outlined))
    if strangers:
        raise InputError(
            f"federation.labels.clients names {', '.join(outlined)}, but the clients are "
            f"{', '.join(clients)}",
            hint="give every client the list of structures that it outlines",
        )
    scheme = label_scheme(
        store.structures,
        outlined,
        labels.organs if labels else None,
        labels.union if labels else False,
        where="federation.labels",
    )
    appearances = scenario.federation.appearance
    if strangers := sorted(set(appearances) - set(clients)):
        raise InputError(
            f"federation.appearance names {', '.join(strangers)}, but the clients are "
            f"{', '.join(clients)}"
        )
    size = scenario.data.size
    # It answers all that the engine asks of a task.
    patch = scenario.data.patch or (size, size)
    return cast(Task, SegmentationTask(scheme, patch, appearances=appearances))


def build_federation(
    scenario: Scenario, seed: int, progress: Callable[[int, int], None] | None = None
) -> Federation:
    """Open the data, split it and share it out.

    The split depends on `data.split.seed` alone, so that runs of several seeds are scored on the
    same test records; the partition depends on the run's seed.
    """
    store = open_store(scenario, progress)
    external = _external(scenario, store, progress)
    inside = np.arange(len(store.sites))
    if external is not None and external[0] is store:
        # A patient who was also at a site outside is of no use as an unseen one: leave them out.
        inside = np.flatnonzero(~np.isin(store.groups, store.groups[external[1]]))
        if not len(inside):
            raise InputError("evaluation.external.sites names all sites: nobody is left to train")
    split = {name: inside[where] for name, where in _split(scenario, store, inside).items()}
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
    train = {name: here[positions] for name, positions in parts.items()}
    val = _share_validation(store, split["val"], list(train), names, holders)
    task = _task(scenario, store, list(train))
    torn = 0 if column is None else _at_several(store.groups[inside], holders[inside])
    return Federation(store, split, train, val, task, external, torn)


def stand_in_note(store: Store | VolumeStore) -> str:
    """What pictures must say about data that are not real; "" for data that are."""
    embedded = store.source == "embedded"
    return "embedded stand-in: generated images, not real data" if embedded else ""


def _holders(
    scenario: Scenario, store: Store | VolumeStore, inside: np.ndarray, column: str | None
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
    store: Store | VolumeStore,
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
