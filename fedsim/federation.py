"""The federation of one run: who holds which records of which split."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.client import Task
from fedsim.data.split import split_records
from fedsim.data.store import Store, prepare
from fedsim.data.views import View
from fedsim.randomness import Streams
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario


@dataclass(frozen=True)
class Federation:
    """Positions in a store, by split and by client.

    Attributes:
        store: the data.
        split: "train", "val", "test" -> positions, int64.
        train: client name -> positions of its training records, in client order.
        val: client name -> positions of its validation records (may be none).
    """

    store: Store
    split: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]

    @property
    def task(self) -> Task:
        """Shape of the data."""
        _, height, _, channels = self.store.images.shape
        return Task(tuple(self.store.classes), channels, height)

    def view(self, split: str) -> View:
        """The pooled records of one split."""
        return View(self.store, self.split[split])

    def describe(self) -> dict[str, Any]:
        """The `data` entry of run.json."""
        return {
            "source": self.store.source,
            "root": self.store.root,
            "fingerprint": self.store.fingerprint,
            "skipped": len(self.store.skipped),
            "classes": list(self.store.classes),
            "classes_by_client": {
                name: np.bincount(
                    self.store.labels[positions], minlength=len(self.store.classes)
                ).tolist()
                for name, positions in self.train.items()
            },
            "sizes": {name: len(positions) for name, positions in self.split.items()},
            "sizes_by_client": {
                name: {"train": len(self.train[name]), "val": len(self.val[name])}
                for name in self.train
            },
        }


def cache_folder() -> Path:
    """Where prepared data lies: FEDSIM_CACHE, else the user's cache folder."""
    base = os.environ.get("FEDSIM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim"


def open_store(scenario: Scenario, progress: Callable[[int, int], None] | None = None) -> Store:
    """The scenario's data, prepared if need be."""
    data = scenario.data
    dataset = construct(default_registry().resolve("datasets", data.name), data.parameters)
    root = scenario.data_root()
    return prepare(
        dataset,
        name=data.name,
        root=root,
        size=data.size,
        embedded=dict(data.embedded),
        skip_bad=data.skip_bad,
        cache=cache_folder(),
        workers=os.cpu_count() or 1,
        progress=progress,
    )


def build_federation(
    scenario: Scenario, seed: int, progress: Callable[[int, int], None] | None = None
) -> Federation:
    """Open the data, split it and share it out.

    The split depends on `data.split.seed` alone, so that runs of several seeds are scored on the
    same test records; the partition depends on the run's seed.
    """
    store = open_store(scenario, progress)
    fractions = scenario.data.split
    split = split_records(
        store.labels,
        store.groups,
        store.sites,
        val=fractions.val,
        test=fractions.test,
        seed=fractions.seed,
        classes=store.classes,
    )
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
    return Federation(store, split, train, _share_validation(store, split["val"], list(train)))


def stand_in_note(store: Store) -> str:
    """What pictures must say about data that are not real; "" for data that are."""
    embedded = store.source == "embedded"
    return "embedded stand-in: generated images, not real data" if embedded else ""


def _share_validation(store: Store, val: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Validation records go to their own site where clients are sites, else evenly by label."""
    if set(names) <= set(store.site_names):
        codes = {name: list(store.site_names).index(name) for name in names}
        return {name: val[store.sites[val] == codes[name]] for name in names}
    groups, first = np.unique(store.groups[val], return_index=True)
    dealt = groups[np.argsort(store.labels[val][first], kind="stable")]
    owner = dict(zip(dealt.tolist(), np.arange(len(dealt)) % len(names), strict=True))
    holders = np.array([owner[group] for group in store.groups[val].tolist()], dtype=np.int64)
    return {name: val[holders == client] for client, name in enumerate(names)}
