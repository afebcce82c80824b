"""Records that are the same by content: they must not part, nor contradict each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BYTES = 16
"""Length of a record's digest."""

Digests = NDArray[np.uint8]


def digest(record: np.ndarray) -> bytes:
    """What tells a record from others, 16 bytes; zeros for one of a single value, which no two
    records can be told to share: blank pictures are alike whatever they were taken of.
    """
    if record.size == 0 or bool((record == record.flat[0]).all()):
        return bytes(BYTES)
    content = np.ascontiguousarray(record)
    about = f"{content.dtype.str} {content.shape}".encode()
    return hashlib.blake2b(content.tobytes(), digest_size=BYTES, key=about[:64]).digest()


def digests(records: Iterable[np.ndarray]) -> Digests:
    """The digest of each record, uint8 [n, 16]; a picture of one colour has that of a blank one."""
    found = b"".join(_of_picture(record) for record in records)
    return np.frombuffer(found, dtype=np.uint8).reshape(-1, BYTES)


def _of_picture(picture: np.ndarray) -> bytes:
    colour = picture.reshape(-1, picture.shape[-1])
    return bytes(BYTES) if bool((colour == colour[0]).all()) else digest(picture)


def copies(found: Digests) -> list[list[int]]:
    """Positions of records with one content, in lists of two or more."""
    by_content: dict[bytes, list[int]] = {}
    for position, content in enumerate(map(bytes, found)):
        if any(content):
            by_content.setdefault(content, []).append(position)
    return [positions for positions in by_content.values() if len(positions) > 1]


def contradictions(
    found: Digests, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]
) -> dict[int, str]:
    """Position -> what is wrong, of records with one content and different labels."""
    wrong = {}
    for positions in copies(found):
        if len({int(labels[i]) for i in positions}) > 1:
            for i in positions:
                other = next(j for j in positions if labels[j] != labels[i])
                wrong[i] = (
                    f"is of class {classes[labels[i]]!r}, and the same picture is of class "
                    f"{classes[labels[other]]!r}: {names[other]}"
                )
    return dict(sorted(wrong.items()))


def keep_together(
    found: Digests, groups: Sequence[str], ids: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Make copies one group, so that none is on both sides of a split.

    Args:
        found: the records' digests.
        groups: names of the groups, "" for a group of its own.
        ids: what a person calls the records.

    Returns:
        New names of the groups, "" for a group of its own, and notes on what was found.
    """
    sets = copies(found)
    if not sets:
        return list(groups), []
    # Every record starts as the one of its group that is there first; sets of copies join them.
    first: dict[str, int] = {}
    parent = [first.setdefault(name, i) if name else i for i, name in enumerate(groups)]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    strangers = 0
    for positions in sets:
        strangers += len({groups[i] for i in positions if groups[i]}) > 1
        for i in positions[1:]:
            a, b = sorted((root(positions[0]), root(i)))
            parent[b] = a
    roots = [root(i) for i in range(len(groups))]
    size = np.bincount(roots, minlength=len(groups))
    joined = [str(i) if size[i] > 1 else "" for i in roots]
    number = sum(len(positions) - 1 for positions in sets)
    example = " = ".join(ids[i] for i in sets[0][:2])
    notes = [f"{number} records are copies of others and stay with them (such as {example})"]
    if strangers:
        notes.append(
            f"{strangers} of these stand under several patients, who are taken as one: is that so?"
        )
    return joined, notes


def in_common(here: Digests, there: Digests) -> int:
    """How many records of `there` are also in `here`."""
    known = set(map(bytes, here)) - {bytes(BYTES)}
    return sum(content in known for content in map(bytes, there))
