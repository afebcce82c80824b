"""What a data set plugin is, and what it hands over: a manifest of files, or a stand-in."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.errors import InputError, Problem
from fedsim.tasks.classification import Classification
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.scenario.schema import Data


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

    @property
    def files(self) -> list[Path]:
        """A file of each record."""
        return self.paths

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
        learns: what is learned from it: classification, unless it names another task.
        rootless: whether it finds its records itself where no root is given: `fetch` names the
            folder, then.
    """

    classes: tuple[str, ...] = ()
    embedded: ClassVar[Callable[..., Embedded] | None] = None
    layout: ClassVar[str] = "image files"
    learns: ClassVar[type[Task]] = Classification

    @property
    def rootless(self) -> bool:
        """Whether it needs no root folder."""
        return False

    def open(self, **options: Any) -> Any:
        """The prepared data: a store, built first when the cache does not hold it.

        Args:
            options: name, root, size, embedded, skip_bad, cache, workers, progress, positive,
                window; see `fedsim.data.store.prepare`.
        """
        from fedsim.data.store import prepare

        return prepare(self, **options)

    def preprocessing(self, data: Data, task: Task) -> dict[str, Any]:
        """What is done to a file before a model sees it, as model files say it.

        Args:
            data: the block `data` of the scenario.
            task: what is learned.
        """
        from fedsim.data.images import CHANNELS, PERCENTILES
        from fedsim.wire.codecs import IMAGE_MEAN, IMAGE_STD

        return {
            "size": data.size,
            "channels": CHANNELS,
            "colours": "RGB",
            "resize": "shorter side to size, centre cropped, bilinear with antialiasing",
            "window": data.window,
            "window_percentiles": None if data.window is not None else PERCENTILES,
            "scale": 1 / 255,
            "mean": IMAGE_MEAN,
            "std": IMAGE_STD,
        }

    def looks(self, manifest: Manifest) -> list[str]:
        """Sizes and grey depth of some of the files, for `fedsim start`."""
        from fedsim.data.looks import image_looks

        return image_looks(manifest.files)

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


def method_of(dataset: Any, name: str) -> Callable[..., Any]:
    """A method of a data set; that for images where it derives from no base class."""
    found: Callable[..., Any] = getattr(dataset, name, None) or functools.partial(
        getattr(Dataset, name), dataset
    )
    return found
