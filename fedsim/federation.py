"""The federation of one run: who holds which records of which split."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedsim.client import Task
from fedsim.data.split import split_records
from fedsim.data.store import Store, prepare
from fedsim.data.volumes.dataset import VolumeDataset
from fedsim.data.volumes.split import split_cases, split_fold
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.errors import InputError
from fedsim.label_views import label_scheme
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario
from fedsim.segmentation.task import SegmentationTask


@dataclass(frozen=True)
class Federation:
    """Positions in a store, by split and by client.

    Attributes:
        store: the data: a `Store` of images, or a `VolumeStore`.
        split: "train", "val", "test" -> positions, int64.
        train: client name -> positions of its training records, in client order.
        val: client name -> positions of its validation records (may be none).
        task: what is to be learned.
    """

    store: Any
    split: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    task: Task

    def view(self, split: str) -> Any:
        """The pooled records of one split."""
        return self.task.view(self.store, self.split[split])

    def client_view(self, name: str) -> Any:
        """The training records of a client, as it has them."""
        return self.task.view(self.store, self.train[name], name)

    def describe(self) -> dict[str, Any]:
        """The `data` entry of run.json."""
        return {
            "source": self.store.source,
            "root": self.store.root,
            "fingerprint": self.store.fingerprint,
            "skipped": len(self.store.skipped),
            "classes": list(self.task.classes),
            "classes_by_client": self._classes_by_client(),
            "sizes": {name: len(positions) for name, positions in self.split.items()},
            "sizes_by_client": {
                name: {"train": len(self.train[name]), "val": len(self.val[name])}
                for name in self.train
            },
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


def cache_folder() -> Path:
    """Where prepared data lies: FEDSIM_CACHE, else the user's cache folder."""
    base = os.environ.get("FEDSIM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"


def open_store(scenario: Scenario, progress: Callable[[int, int], None] | None = None) -> Any:
    """The scenario's data, prepared if need be: a `Store` of images, or a `VolumeStore`."""
    data = scenario.data
    dataset = construct(default_registry().resolve("datasets", data.name), data.parameters)
    options: dict[str, Any] = {
        "name": data.name,
        "root": scenario.data_root(),
        "size": data.size,
        "embedded": dict(data.embedded),
        "skip_bad": data.skip_bad,
        "cache": cache_folder(),
        "progress": progress,
    }
    if isinstance(dataset, VolumeDataset):
        return prepare_volumes(dataset, **options)
    return prepare(dataset, workers=os.cpu_count() or 1, **options)


def _split(scenario: Scenario, store: Store | VolumeStore) -> dict[str, np.ndarray]:
    """Which records are for what; of the data's split seed alone."""
    share = scenario.data.split
    if isinstance(store, VolumeStore):
        cases = store.sites, store.groups, store.site_names
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
        store.labels,
        store.groups,
        store.sites,
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
    size = scenario.data.size
    # It answers all that the engine asks of a task.
    return cast(Task, SegmentationTask(scheme, scenario.data.patch or (size, size)))


def build_federation(
    scenario: Scenario, seed: int, progress: Callable[[int, int], None] | None = None
) -> Federation:
    """Open the data, split it and share it out.

    The split depends on `data.split.seed` alone, so that runs of several seeds are scored on the
    same test records; the partition depends on the run's seed.
    """
    store = open_store(scenario, progress)
    split = _split(scenario, store)
    block = scenario.federation.partition
    partition = construct(default_registry().resolve("partitions", block.name), block.parameters)
    here = split["train"]
    parts = partition.assign(
        labels=store.labels[here],
        groups=store.groups[here],
        sites=store.sites[here],
        site_names=store.site_names,
        clients=scenario.federation.clients,
        rng=Streams(seed).numpy("partition"),
    )
    train = {name: here[positions] for name, positions in parts.items()}
    val = _share_validation(store, split["val"], list(train))
    return Federation(store, split, train, val, _task(scenario, store, list(train)))


def stand_in_note(store: Store | VolumeStore) -> str:
    """What pictures must say about data that are not real; "" for data that are."""
    embedded = store.source == "embedded"
    return "embedded stand-in: generated images, not real data" if embedded else ""


def _share_validation(
    store: Store | VolumeStore, val: np.ndarray, names: list[str]
) -> dict[str, np.ndarray]:
    """Validation records go to their own site where clients are sites, else evenly by label."""
    if set(names) <= set(store.site_names):
        codes = {name: list(store.site_names).index(name) for name in names}
        return {name: val[store.sites[val] == codes[name]] for name in names}
    groups, first = np.unique(store.groups[val], return_index=True)
    dealt = groups[np.argsort(store.labels[val][first], kind="stable")]
    owner = dict(zip(dealt.tolist(), np.arange(len(dealt)) % len(names), strict=True))
    holders = np.array([owner[group] for group in store.groups[val].tolist()], dtype=np.int64)
    return {name: val[holders == client] for client, name in enumerate(names)}
