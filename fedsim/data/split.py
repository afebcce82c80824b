"""Divide records, stratified and in whole groups: over train, validation and test, or clients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedsim.errors import InputError, Problem
from fedsim.randomness import Streams

_EQUAL = 1e-9  # deficits closer than this are the same: they are sums of rounded shares


def split_records(
    labels: np.ndarray,
    groups: np.ndarray,
    sites: np.ndarray,
    *,
    val: float,
    test: float,
    seed: int,
    classes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Split records into train, validation and test.

    A group is on one side only. Each class, and each site within a class, is shared out in the
    fractions wanted, as far as the sizes of groups allow; a class is then on every side.

    Args:
        labels: int64 [n].
        groups: int64 [n] codes.
        sites: int64 [n] codes.
        val: fraction of the records for validation, 0 or more; 0 leaves this side empty.
        test: fraction for the test, likewise.
        seed: the split depends on it and on the records only.
        classes: class names, for error messages, and to require each of them.

    Returns:
        Positions (int64, ascending) under "train", "val" and "test".

    Raises:
        ValueError: the fractions are negative or leave nothing to train on.
        InputError: a class has fewer groups than there are sides; names every such class.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(
            f"val={val} and test={test} must not be negative, and their sum must be below 1."
        )
    sides = {"train": 1 - val - test, "val": val, "test": test}
    used = {side: share for side, share in sides.items() if share > 0}
    count = max(len(classes), int(labels.max()) + 1)
    names = [repr(classes[c]) if c < len(classes) else str(c) for c in range(count)]
    required = range(count) if classes else np.unique(labels).tolist()
    held = {c: len(np.unique(groups[labels == c])) for c in required}
    problems = [
        Problem(
            f"class {names[c]}",
            f"has {few} group{'s' if few != 1 else ''} (patients or lesions) for {len(used)} sides "
            f"({', '.join(used)}); a group cannot be on two",
        )
        for c, few in held.items()
        if few < len(used)
    ]
    # Without validation there are two sides: that helps classes of two groups alone.
    fewer_sides = "set data.split.val=0, " if val > 0 and min(held.values(), default=2) >= 2 else ""
    hint = (
        f"{fewer_sides}leave these classes out, or take more of them "
        "(of generated images: a larger data.embedded.images)"
    )
    if problems:
        raise InputError("some classes are too small to split", problems, hint)
    rng = Streams(seed).numpy("split")
    placed = distribute(labels, groups, sites, shares=list(used.values()), rng=rng)
    parts = {side: np.flatnonzero(placed == number) for number, side in enumerate(used)}
    problems = [
        Problem(f"class {names[c]}", f"is not in {side}: its groups hold other small classes too")
        for c in required
        for side, part in parts.items()
        if not (labels[part] == c).any()
    ]
    if problems:
        raise InputError("some classes cannot be on every side", problems, hint)
    return {side: parts.get(side, np.empty(0, dtype=np.int64)) for side in sides}


def distribute(
    labels: np.ndarray,
    groups: np.ndarray,
    sites: np.ndarray,
    *,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Share records out over sides, stratified by class and site, in whole groups.

    The groups are walked through ordered by class (rarest first), site and size, and at random
    within these; each goes to the side that is furthest behind its share of the records of that
    class. So every stretch of the walk, hence every site and every size of group, is shared out
    alike. A group of several classes counts as the rarest of them: where patients with a melanoma
    have many benign images too, it is the melanomas that need an even hand. As long as a class has
    a group for each side, every side gets one.

    Args:
        labels: int64 [n].
        groups: int64 [n] codes.
        sites: int64 [n] codes.
        shares: the fraction wanted on each side; they sum to 1.
        rng: orders groups that are alike.

    Returns:
        The side of each record, int64 [n].
    """
    counts, group = count_by_group(groups, labels)
    by_site, _ = count_by_group(groups, sites)
    rarest_first = np.argsort(counts.sum(axis=0), kind="stable")
    rank = (counts[:, rarest_first] > 0).argmax(axis=1)  # `rarest`, as its place in that order
    # The last key of lexsort counts most.
    walk = np.lexsort(
        (rng.permutation(len(counts)), -counts.sum(axis=1), by_site.argmax(axis=1), rank)
    )

    wanted = np.asarray(shares)
    behind = np.zeros((len(wanted), counts.shape[1]))
    lacking = np.ones((len(wanted), counts.shape[1]), dtype=bool)
    left = (counts > 0).sum(axis=0)
    side_of_group = np.empty(len(counts), dtype=np.int64)
    for g in walk:
        held = np.flatnonzero(counts[g])
        behind[:, held] += wanted[:, None] * counts[g, held]
        open_sides = np.ones(len(wanted), dtype=bool)
        scarce = held[left[held] <= lacking[:, held].sum(axis=0)]
        for c in scarce:
            if (open_sides & lacking[:, c]).any():
                open_sides &= lacking[:, c]
        own = behind[:, rarest_first[rank[g]]]
        furthest = open_sides & (own >= own[open_sides].max() - _EQUAL)
        total = np.where(furthest, behind.sum(axis=1), -np.inf)
        side = int(np.flatnonzero(total >= total.max() - _EQUAL)[0])
        side_of_group[g] = side
        behind[side, held] -= counts[g, held]
        lacking[side, held] = False
        left[held] -= 1
    return side_of_group[group]


def nested_fraction(
    labels: np.ndarray,
    groups: np.ndarray,
    holders: np.ndarray,
    *,
    fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Take a fraction of the records, in whole groups, stratified by class and holder.

    The same generator gives nested fractions: what is in a smaller one is in every larger one, for
    each is the beginning of one order. Of each class `fraction` of its groups are taken, rounded,
    at least one; holders are shared out evenly within it, and none is left without a group. A group
    of several classes counts as the rarest of them.

    Args:
        labels: int64 [n].
        groups: int64 [n] codes; all records of a group have one holder.
        holders: int64 [n] codes of who holds a record.
        fraction: above 0, at most 1; 1 takes all.
        rng: orders groups that are alike.

    Returns:
        Positions, int64, ascending.

    Raises:
        ValueError: the fraction is out of its range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}.")
    counts, group = count_by_group(groups, labels)
    class_of = rarest(counts)
    holder_of = holders[np.unique(groups, return_index=True)[1]]
    shuffled = rng.permutation(len(counts))
    # Where a group stands among those of its class and holder, 0 to 1: each stretch of a class's
    # order has all holders, in proportion. The offset lets small holders have their turn anywhere.
    place = np.empty(len(counts))
    for c in np.unique(class_of):
        for holder in np.unique(holder_of):
            alike = shuffled[(class_of[shuffled] == c) & (holder_of[shuffled] == holder)]
            place[alike] = (np.arange(len(alike)) + rng.random()) / max(1, len(alike))
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    taken = np.zeros(len(counts), dtype=bool)
    for c in np.unique(class_of):
        of_class = order[class_of[order] == c]
        taken[of_class[: max(1, int(fraction * len(of_class) + 0.5))]] = True
    for holder in np.unique(holder_of):
        taken[order[holder_of[order] == holder][0]] = True
    return np.flatnonzero(taken[group])


def labelled_share(
    labels: np.ndarray, groups: np.ndarray, *, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Take a share of one client's records, in whole groups, stratified by class.

    Of the groups of each class that the client has, `share` are taken, rounded up: at least one.
    A group of several classes counts as the rarest of them. The same generator gives nested shares.

    Args:
        labels: int64 [n].
        groups: int64 [n] codes.
        share: above 0, at most 1.
        rng: orders groups that are alike.

    Returns:
        Positions, int64, ascending; none of no records.

    Raises:
        ValueError: the share is out of its range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}.")
    counts, group = count_by_group(groups, labels)
    shuffled = rng.permutation(len(counts))
    if not len(shuffled):
        return np.zeros(0, np.int64)
    class_of = rarest(counts)
    taken = np.zeros(len(counts), dtype=bool)
    for c in np.unique(class_of):
        alike = shuffled[class_of[shuffled] == c]
        # A tenth of 30 is 3, although the product is a little more.
        taken[alike[: math.ceil(share * len(alike) - 1e-9)]] = True
    return np.flatnonzero(taken[group])


def labelled_groups(groups: np.ndarray, *, count: int, rng: np.random.Generator) -> np.ndarray:
    """Take the records of so many groups of one client, whatever their classes.

    The same generator gives nested sets: those of fewer groups are part of those of more.

    Args:
        groups: int64 [n] codes.
        count: how many, at least 1; all where there are fewer.
        rng: orders the groups.

    Returns:
        Positions, int64, ascending.
    """
    chosen = rng.permutation(np.unique(groups))[:count]
    return np.flatnonzero(np.isin(groups, chosen))


def count_by_group(groups: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count each group's records by code.

    Returns:
        counts int64 [groups, codes], groups in ascending order of their number, and the row of each
        record's group, int64 [n].
    """
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(codes.max()) + 1 if len(codes) else 0), dtype=np.int64)
    np.add.at(counts, (group, codes), 1)
    return counts, group


def rarest(counts: np.ndarray) -> np.ndarray:
    """Of the codes that each row has, the one rarest over all rows, int64."""
    order = np.argsort(counts.sum(axis=0), kind="stable")
    return order[(counts[:, order] > 0).argmax(axis=1)]


def majority(counts: np.ndarray) -> np.ndarray:
    """The most frequent code of each row, int64; among equals the one rarer over all rows."""
    rarest_first = np.argsort(counts.sum(axis=0), kind="stable")
    return rarest_first[counts[:, rarest_first].argmax(axis=1)]
