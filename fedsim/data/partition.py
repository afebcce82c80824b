"""Who holds what: partitions of the records over clients.

Records of one group (patient, lesion) stay together: where a method goes by label, a group counts
as the rarest class it has. Every record goes to exactly one client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from fedsim.data.split import count_by_group, distribute, majority, rarest
from fedsim.errors import InputError, Problem

_COUNT = "federation.clients"


class Partition(ABC):
    """A way to divide records over clients. The constructor takes its parameters.

    Attributes:
        column: a column of the data's table, whose values `assign` gets in place of the sites;
            None: it gets the sites.
    """

    column: str | None = None

    @abstractmethod
    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients.

        Args:
            labels: int64 [n].
            groups: int64 [n], codes of what must stay together.
            sites: int64 [n], positions in `site_names`.
            site_names: names of the sites.
            clients: how many clients there are; None where the partition knows it itself.
            rng: the source of chance.

        Returns:
            The positions of each client's records (int64, ascending), by client name, in client
            order.

        Raises:
            InputError: the records cannot be divided like this.
        """


class IID(Partition):
    """Every client gets the same share of each class, and of each site within it."""

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients; see `Partition.assign`."""
        count = _client_count(clients, labels, groups)
        holder = distribute(labels, groups, sites, shares=[1 / count] * count, rng=rng)
        return _parts(holder, _names(count))


class Dirichlet(Partition):
    """Label skew: each class is divided in proportions drawn from a Dirichlet distribution.

    For each class, p ~ Dir(alpha, ..., alpha) over the clients; its groups, in random order, are
    cut by the cumulative sum of p. Smaller alpha = more skew: at 0.1 a class sits with a few
    clients, at 100 the partition is nearly IID. A group of several classes counts as the rarest it
    has: by its majority, nearly every patient of a screening data set would be benign, and there
    would be no labels to skew. Hsu et al. 2019, arXiv:1909.06335; Yurochkin et
    al. 2019, arXiv:1905.12022.

    Args:
        alpha: concentration, above 0.
        min_samples: every client holds at least so many records, or all is drawn again.
        min_classes: every client holds at least so many classes, or all is drawn again.
        max_draws: draws after which it gives up.
    """

    def __init__(
        self,
        alpha: PositiveFloat,
        min_samples: PositiveInt = 2,
        min_classes: PositiveInt = 1,
        max_draws: PositiveInt = 1000,
    ) -> None:
        if not 0 < alpha < np.inf:
            raise ValueError(f"alpha must be above 0 and finite, not {alpha}.")
        if min(min_samples, min_classes, max_draws) < 1:
            raise ValueError(
                f"min_samples={min_samples}, min_classes={min_classes} and max_draws={max_draws} "
                "must be 1 or more."
            )
        self.alpha = alpha
        self.min_samples = min_samples
        self.min_classes = min_classes
        self.max_draws = max_draws

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients; see `Partition.assign`."""
        count = _client_count(clients, labels, groups)
        held, group = count_by_group(groups, labels)
        self._refuse_impossible(count, held)
        label, size = rarest(held), held.sum(axis=1)
        best: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None
        for _ in range(self.max_draws):
            holder = self._draw(label, size, count, rng)
            table = np.zeros((count, held.shape[1]), dtype=np.int64)
            np.add.at(table, holder, held)
            short = self._short(table)
            if not short.any():
                return _parts(holder[group], _names(count))
            score = (int((short > 0).sum()), int(short.sum()))
            if best is None or score < best[0]:
                best = score, short, table
        assert best is not None
        raise self._starved(*best)

    def _draw(
        self, label: np.ndarray, size: np.ndarray, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw the client of each group (int64) from the groups' labels and sizes."""
        holder = np.empty(len(label), dtype=np.int64)
        for c in np.unique(label):
            members = rng.permutation(np.flatnonzero(label == c))
            cuts = np.cumsum(rng.dirichlet(np.full(count, self.alpha))) * size[members].sum()
            # A group goes where its middle falls; the last cut may miss the end by rounding.
            middle = np.cumsum(size[members]) - size[members] / 2
            holder[members] = np.minimum(np.searchsorted(cuts, middle), count - 1)
        return holder

    def _short(self, table: np.ndarray) -> np.ndarray:
        """How many records and classes each client lacks, int64 [clients]; 0 is enough."""
        records = np.maximum(0, self.min_samples - table.sum(axis=1))
        return records + np.maximum(0, self.min_classes - (table > 0).sum(axis=1))

    def _refuse_impossible(self, count: int, held: np.ndarray) -> None:
        problems = []
        records, classes = int(held.sum()), int((held.sum(axis=0) > 0).sum())
        if count * self.min_samples > records:
            problems.append(
                Problem(
                    "federation.partition.min_samples",
                    f"{count} clients with {self.min_samples} records each need "
                    f"{count * self.min_samples}; there are {records}",
                )
            )
        if self.min_classes > classes:
            problems.append(
                Problem(
                    "federation.partition.min_classes",
                    f"is {self.min_classes}, but the records have {classes} classes",
                )
            )
        if problems:
            raise InputError("no Dirichlet partition is possible", problems)

    def _starved(self, score: tuple[int, int], short: np.ndarray, table: np.ndarray) -> InputError:
        worst = int(short.argmax())
        needed = f"{self.min_samples} records of {self.min_classes} classes"
        problems = [
            Problem(
                f"client-{worst}",
                f"holds {table[worst].sum()} records (by class: {table[worst].tolist()}) in the "
                f"best draw, where {score[0]} of {len(short)} clients lack something",
            )
        ]
        return InputError(
            f"in {self.max_draws} draws with alpha={self.alpha:g} not every one of {len(short)} "
            f"clients got {needed}",
            problems,
            "take a larger alpha (less skew), fewer clients, a smaller min_samples or a smaller "
            "min_classes",
        )


class Natural(Partition):
    """Every site is a client, as the data were collected. A group at two sites stays at one."""

    def __init__(self, min_samples: PositiveInt = 2) -> None:
        if min_samples < 1:
            raise ValueError(f"min_samples must be 1 or more, not {min_samples}.")
        self.min_samples = min_samples

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients named like their sites; see `Partition.assign`."""
        if clients not in (None, len(site_names)):
            message = f"is {clients}, but the data have {len(site_names)} sites: "
            raise InputError(
                "the natural partition has one client for each site",
                [Problem(_COUNT, message + ", ".join(site_names))],
                f"leave {_COUNT} out, or take another partition",
            )
        parts = _by_majority(groups, sites, site_names)
        if problems := _too_small(parts, "site", self.min_samples):
            raise InputError(
                "a site is too small to be a client",
                problems,
                "set a smaller federation.partition.min_samples, or leave the site out of the data",
            )
        return parts


class Table(Partition):
    """A column of the data's table says which client a record is with.

    A group with records at two clients stays at the one that has most of it.

    Args:
        column: of the table of a data set `folder`, `volumes` or the like.
        min_samples: a client with fewer records is an error.
    """

    def __init__(self, column: str, min_samples: PositiveInt = 2) -> None:
        if min_samples < 1:
            raise ValueError(f"min_samples must be 1 or more, not {min_samples}.")
        self.column = column
        self.min_samples = min_samples

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients, whose names and records come as sites."""
        where = f"column {self.column!r}"
        if "" in site_names:
            count = int((sites == site_names.index("")).sum())
            raise InputError(
                "some records have no client",
                [Problem(where, f"is empty for {count} of {len(sites)} training records")],
                "name a client in every row of the table",
            )
        if clients not in (None, len(site_names)):
            message = f"is {clients}, but {where} names {len(site_names)} clients"
            raise InputError(
                "the table says who the clients are",
                [Problem(_COUNT, message)],
                f"leave {_COUNT} out",
            )
        parts = _by_majority(groups, sites, site_names)
        if problems := _too_small(parts, "client", self.min_samples):
            raise InputError(
                "a client of the table has too few records to train on",
                problems,
                "set a smaller federation.partition.min_samples, or merge clients in the table",
            )
        return parts


class Preferred(Partition):
    """Label skew: each class goes mostly to some clients, the others hold little of it.

    The recipe of the experiments of SPAFD and DISBELIEVE (Alkhunaizi et al. 2022; Joshi et al.
    2023, from the public code): a record of a class goes to a client with a probability
    proportional to `weight` where the client is one of the class's, else to 1. A group of several
    classes counts as the rarest it has, and goes as a whole.

    Args:
        holders: for each class, in label order, the numbers of its clients.
        weight: at least 1; larger = more skew.
    """

    def __init__(
        self,
        holders: list[list[NonNegativeInt]],
        weight: PositiveFloat = 10.0,
    ) -> None:
        if weight < 1:
            raise ValueError(f"weight must be at least 1, not {weight}.")
        self.holders = holders
        self.weight = weight

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients; see `Partition.assign`."""
        count = _client_count(clients, labels, groups)
        held, group = count_by_group(groups, labels)
        self._refuse_impossible(count, held.shape[1])
        odds = np.ones((held.shape[1], count))
        for label, holders in enumerate(self.holders[: held.shape[1]]):
            odds[label, holders] = self.weight
        odds /= odds.sum(axis=1, keepdims=True)
        draws = rng.random(len(held))
        holder = (np.cumsum(odds, axis=1)[rarest(held)] <= draws[:, None]).sum(axis=1)
        parts = _parts(np.minimum(holder, count - 1)[group], _names(count))
        if empty := [
            Problem(name, "holds no record") for name, part in parts.items() if not len(part)
        ]:
            raise InputError("a client is left without records", empty, f"take a smaller {_COUNT}")
        return parts

    def _refuse_impossible(self, clients: int, classes: int) -> None:
        where, problems = "federation.partition.holders", []
        if len(self.holders) < classes:
            message = f"names the clients of {len(self.holders)} classes, and there are {classes}"
            problems.append(Problem(where, message))
        if wrong := sorted({one for some in self.holders for one in some if one >= clients}):
            message = f"there is no client {wrong[0]}: they are 0 to {clients - 1}"
            problems.append(Problem(where, message))
        if problems:
            raise InputError("the partition does not go with the data", problems)


class Shards(Partition):
    """Label skew: records sorted by label are cut into equal shards, and dealt out at random.

    McMahan et al. 2017, arXiv:1602.05629. Fewer shards for a client = more skew. A group of several
    classes counts as the rarest it has.

    Args:
        shards_per_client: how many shards each client gets.
    """

    def __init__(self, shards_per_client: PositiveInt = 2) -> None:
        if shards_per_client < 1:
            raise ValueError(f"shards_per_client must be 1 or more, not {shards_per_client}.")
        self.shards_per_client = shards_per_client

    def assign(
        self,
        *,
        labels: np.ndarray,
        groups: np.ndarray,
        sites: np.ndarray,
        site_names: tuple[str, ...],
        clients: int | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Divide records over clients; see `Partition.assign`."""
        count = _client_count(clients, labels, groups)
        held, group = count_by_group(groups, labels)
        shards = count * self.shards_per_client
        if shards > len(held):
            message = (
                f"{count} clients times {self.shards_per_client} shards, but {len(held)} groups"
            )
            raise InputError(
                "there are more shards than groups of records",
                [Problem("federation.partition.shards_per_client", message)],
                f"take fewer shards, or a smaller {_COUNT}",
            )
        order = np.lexsort((rng.permutation(len(held)), rarest(held)))
        size = held.sum(axis=1)[order]
        middle = np.cumsum(size) - size / 2
        shard = np.minimum((middle * shards / size.sum()).astype(np.int64), shards - 1)
        owner = rng.permutation(np.repeat(np.arange(count), self.shards_per_client))
        holder = np.empty(len(held), dtype=np.int64)
        holder[order] = owner[shard]
        parts = _parts(holder[group], _names(count))
        problems = [
            Problem(name, "got only shards without records, because some groups span several")
            for name, part in parts.items()
            if len(part) == 0
        ]
        if problems:
            raise InputError("a client would hold no records", problems, f"take a smaller {_COUNT}")
        return parts


class ClassCounts(NamedTuple):
    """One row of a table of clients by classes."""

    client: str
    counts: tuple[int, ...]
    total: int


def class_table(
    parts: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]
) -> list[ClassCounts]:
    """Count each client's records by class, in client order."""
    rows = []
    for client, part in parts.items():
        counts = np.bincount(labels[part], minlength=len(classes))
        rows.append(ClassCounts(client, tuple(counts.tolist()), len(part)))
    return rows


def _client_count(clients: int | None, labels: np.ndarray, groups: np.ndarray) -> int:
    """Check how many clients are wanted against what there is to divide."""
    held = len(np.unique(groups))
    message = ""
    if clients is None:
        message = "is not given, and this partition needs it"
    elif clients < 1:
        message = f"is {clients}, but must be 1 or more"
    elif clients > held:
        message = f"is {clients}, but there are only {held} groups among {len(labels)} records"
    if message or clients is None:
        raise InputError(
            "the records cannot be divided over these clients",
            [Problem(_COUNT, message)],
            f"set {_COUNT} between 1 and {held}",
        )
    return clients


def _names(count: int) -> list[str]:
    return [f"client-{number}" for number in range(count)]


def _by_majority(
    groups: np.ndarray, sites: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The records of each site; a group at several is at the one that has most of it."""
    counts, group = count_by_group(groups, sites)
    return _parts(majority(counts)[group], names)


def _too_small(parts: Mapping[str, np.ndarray], what: str, least: int) -> list[Problem]:
    """A problem for each part with fewer records than `least`."""
    return [
        Problem(f"{what} {name!r}", f"holds {len(part)} records, below {least}")
        for name, part in parts.items()
        if len(part) < least
    ]


def _parts(holder: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The positions of each client's records, from the client of each record."""
    return {name: np.flatnonzero(holder == number) for number, name in enumerate(names)}
