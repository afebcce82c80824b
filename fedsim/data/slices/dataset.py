"""What a data set plugin of complex slices is, and what it hands over."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from fedsim.data.dataset import BadRecords
from fedsim.errors import Problem
from fedsim.tasks.reconstruction.sampling import Pattern, Sampling
from fedsim.tasks.reconstruction.task import Reconstruction
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.scenario.schema import Data

Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class SliceManifest:
    """The files of a data set on disk, one entry each, in a fixed order; a file has many slices.

    Attributes:
        paths: the files.
        sites: the scanner, or other origin, of a file's slices.
        groups: the patient of a file, "" where each slice is a patient of its own.
        ids: what a person calls the file; unique.
        bad, notes, columns: see `fedsim.data.dataset.Manifest`.
    """

    paths: list[Path]
    sites: list[str]
    groups: list[str]
    ids: list[str]
    bad: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The files."""
        return self.paths

    def checked(self) -> SliceManifest:
        """This manifest; raises BadRecords where `bad` says that files are not listed."""
        if self.bad:
            raise BadRecords(self, self.bad, len(self.ids))
        return self


@dataclass(frozen=True)
class EmbeddedSlices:
    """A generated stand-in: complex64 images [n, H, W], and what a manifest says of each slice."""

    images: Complex
    sites: list[str]
    groups: list[str]


class SliceDataset(ABC):
    """A data set plugin of complex slices. Its constructor only stores the options.

    These options, of all such data sets, say what is measured; see
    `fedsim.tasks.reconstruction.Sampling`.

    Args:
        mask: "lines": whole lines at random, and those in the middle; "poisson": points in two
            dimensions.
        acceleration: one part in so many of k-space is measured.
        centre: lines in the middle that are always measured, of 256.
        slices: so many slices of each file, around its middle one; null: all.

    Attributes:
        embedded: generates the stand-in from the keys of `data.embedded` and `size`; None when
            there is none. Its attribute `version` is part of the store's key.
        layout: what a root folder must hold, for error messages.
        learns: what is learned from it.
    """

    embedded: ClassVar[Callable[..., EmbeddedSlices] | None] = None
    layout: ClassVar[str] = "files of complex slices"
    learns: ClassVar[type[Task]] = Reconstruction

    def __init__(
        self,
        mask: Pattern = "lines",
        acceleration: float = 4.0,
        centre: PositiveInt = 24,
        slices: PositiveInt | None = None,
    ) -> None:
        self.sampling = Sampling(mask, acceleration, centre)
        self.slices = slices

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a class write `embedded = function` without it becoming a method."""
        super().__init_subclass__(**options)
        if inspect.isfunction(cls.__dict__.get("embedded")):
            cls.embedded = staticmethod(cls.__dict__["embedded"])

    def open(self, **options: Any) -> Any:
        """The prepared data: a store, built first when the cache does not hold it.

        Args:
            options: name, root, size, embedded, skip_bad, cache, progress; see
                `fedsim.data.slices.store.prepare_slices`. What only images need is left out.
        """
        from fedsim.data.slices.store import prepare_slices

        for_images = ("workers", "positive", "window")
        own = {key: value for key, value in options.items() if key not in for_images}
        return replace(prepare_slices(self, **own), sampling=self.sampling)

    def preprocessing(self, data: Data, task: Task) -> dict[str, Any]:
        """What is done to a file before a model sees it, as model files say it."""
        return {
            "size": data.size,
            "resize": "zeros around to a square, then Fourier interpolation",
            "scale": "each slice is divided by its largest magnitude",
            "channels": 3,
            "colours": "none",
            "inputs": "zero-filled real part, imaginary part, mask",
            "window": None,
            "mask": self.sampling.pattern,
            "acceleration": self.sampling.acceleration,
            "centre": self.sampling.centre,
        }

    def looks(self, manifest: SliceManifest) -> list[str]:
        """Nothing is said of files that are not pictures."""
        return []

    @abstractmethod
    def manifest(self, root: Path) -> SliceManifest:
        """List the files below `root`.

        Raises:
            BadRecords: some cannot be used; it carries the others.
            InputError: there are none.
        """

    @abstractmethod
    def read(self, path: Path) -> Complex:
        """The slices of a file, complex64 [n, H, W], images and not k-space.

        Raises:
            ValueError: the file holds something else; says what.
            OSError: it cannot be read.
        """
