"""Who holds which records of which split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedsim.federation.labelled import describe_labelled, labelled_note
from fedsim.tasks.task import Task


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
        several = at_several(store.groups, store.sites)
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


def at_several(groups: np.ndarray, holders: np.ndarray) -> int:
    """How many groups have records at several holders."""
    pairs = np.unique(np.stack([groups, holders], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def stand_in_note(store: Any) -> str:
    """What pictures must say about data that are not real; "" for data that are."""
    embedded = store.source == "embedded"
    return "embedded stand-in: generated images, not real data" if embedded else ""
