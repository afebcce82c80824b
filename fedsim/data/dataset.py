"""What a data set plugin is, and what it hands over: a manifest of files, or a stand-in."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedsim.errors import InputError, Problem


@dataclass(frozen=True)
class Manifest:
    """The records of a data set on disk, one entry each, in a fixed order.

    Attributes:
        paths: the image file.
        labels: int64 [n], positions in the data set's classes.
        groups: the patient or lesion; records with one name never part. "" is a group of its own.
        sites: the hospital, or other origin, of the record.
        ids: what a person calls the record; unique.
        classes: class names in label order when only the data tells them; else those of the data
            set hold.
        bad: what is wrong with records that are not listed, since they cannot be used (a table
            gives no label, or an unknown one): an error, or left out with `data.skip_bad`.
        notes: what a person must know about what was read, a sentence each.
        columns: what else a table says of the records, by the column's name: a partition may go by
            it.
    """

    paths: list[Path]
    labels: np.ndarray
    groups: list[str]
    sites: list[str]
    ids: list[str]
    classes: tuple[str, ...] = ()
    bad: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, list[str]] = field(default_factory=dict)

    def checked(self) -> Manifest:
        """This manifest; raises BadRecords where `bad` says that records are not listed."""
        if self.bad:
            raise BadRecords(self, self.bad, len(self.paths))
        return self


class BadRecords(InputError):
    """Records cannot be used. Carries what is left, for those who may leave the others out."""

    def __init__(self, manifest: Any, bad: Sequence[Problem], left: int) -> None:
        self.manifest, self.left = manifest, left
        hint = "repair them, or set data.skip_bad=true to leave them out" if left else ""
        super().__init__(f"{len(bad)} of {len(bad) + left} records cannot be used", bad, hint)


def usable(manifest_of: Callable[[Path], Any], root: Path, skip_bad: bool) -> Any:
    """A plugin's manifest; without the records that cannot be used, where they may be left out."""
    try:
        return manifest_of(root)
    except BadRecords as error:
        if not skip_bad or not error.left:
            raise
        return error.manifest


def columns_of(manifest: Any, ids: Sequence[str]) -> dict[str, list[str]]:
    """What a manifest's columns say of some of its records."""
    if not manifest.columns:
        return {}
    place = {name: i for i, name in enumerate(manifest.ids)}
    return {
        column: [values[place[name]] for name in ids] for column, values in manifest.columns.items()
    }


@dataclass(frozen=True)
class Embedded:
    """A generated stand-in of a data set: uint8 images [n, H, W, 3] and what `Manifest` has."""

    images: np.ndarray
    labels: np.ndarray
    groups: list[str]
    sites: list[str]
    classes: tuple[str, ...]


class Dataset(ABC):
    """A data set plugin. Its constructor takes the data set's own options and only stores them.

    Attributes:
        classes: class names in label order; empty when `manifest` finds them in the data.
        embedded: generates the stand-in from `size`, the keys of `data.embedded`, and those of the
            data set's options that it also takes; None when there is no stand-in. Its attribute
            `version` is part of the store's key: change it when the pictures change.
        layout: what a root folder must hold, for error messages.
        rootless: whether it finds its records itself where no root is given: `fetch` names the
            folder, then.
    """

    classes: tuple[str, ...] = ()
    embedded: ClassVar[Callable[..., Embedded] | None] = None
    layout: ClassVar[str] = "image files"

    @property
    def rootless(self) -> bool:
        """Whether it needs no root folder."""
        return False

    def fetch(self) -> Path:
        """The folder with the records, of a data set that needs no root."""
        raise NotImplementedError

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a class write `embedded = function` without it becoming a method."""
        super().__init_subclass__(**options)
        if inspect.isfunction(cls.__dict__.get("embedded")):
            cls.embedded = staticmethod(cls.__dict__["embedded"])

    @abstractmethod
    def manifest(self, root: Path) -> Manifest:
        """List the records below `root` without decoding images.

        Raises:
            BadRecords: records have no label that can be used; it carries the others.
            InputError: tables are missing or wrong. A listed image file that does not exist is no
                error here: `prepare` finds and counts those.
        """
