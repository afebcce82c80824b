"""What a data set plugin of volumes is, and what it hands over: a manifest, or a stand-in."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import BadRecords
from fedsim.data.volumes.preparing import Preparation
from fedsim.errors import Problem
from fedsim.tasks.segmentation.task import SegmentationTask
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.scenario.schema import Data


@dataclass(frozen=True)
class Mask:
    """A file of outlines.

    Attributes:
        path: the file.
        values: the values that it may hold beside 0, and the label value that each stands for.
    """

    path: Path
    values: dict[int, int]


@dataclass(frozen=True)
class VolumeManifest:
    """The cases of a data set on disk, one entry each, in a fixed order.

    Attributes:
        images: the image file.
        masks: the files of the outlines, and the label value that each of a file's values stands
            for. Of several files the later ones lie over the earlier ones.
        sites: the hospital, or other origin, of the case.
        groups: the patient; cases with one name never part. "" is a group of its own.
        ids: what a person calls the case; unique.
        structures: names of the label values 1, 2, ...
        bad, notes, columns: see `fedsim.data.dataset.Manifest`.
    """

    images: list[Path]
    masks: list[tuple[Mask, ...]]
    sites: list[str]
    groups: list[str]
    ids: list[str]
    structures: tuple[str, ...]
    bad: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """A file of each case."""
        return self.images

    def checked(self) -> VolumeManifest:
        """This manifest; raises BadRecords where `bad` says that cases are not listed."""
        if self.bad:
            raise BadRecords(self, self.bad, len(self.ids))
        return self


@dataclass(frozen=True)
class VolumeCase:
    """One generated case.

    Attributes:
        image: float32 [D, H, W]: slices from the feet to the head, rows from front to back,
            columns to the patient's left.
        label: uint8 [D, H, W], 0 is background.
        spacing: distance of neighbouring voxels along D, H and W in mm.
        site: where it is from.
        case: its name, unique; it is a patient of its own.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    site: str
    case: str


@dataclass(frozen=True)
class EmbeddedVolumes:
    """A generated stand-in of a data set; its cases are drawn one after another."""

    structures: tuple[str, ...]
    cases: Iterator[VolumeCase]


class VolumeDataset(ABC):
    """A data set plugin of volumes. Its constructor only stores the options.

    These options, of all such data sets, say what is done to a volume; see `Preparation`.

    Args:
        slices: what every volume is cut or padded to, around its middle slice; null keeps its own.
        field_of_view: share of the longer in-plane side, around the centre, that is scaled to
            `data.size`; null scales nothing: voxels are cut off or added on all sides instead.
        orientation: "canonical" turns volumes by what their files say, so that slices go from the
            feet to the head, rows from front to back and columns to the patient's left; "stored"
            leaves them as they are stored.
        spacing: distance of voxels along slices, rows and columns in mm, to which volumes are
            resampled; null keeps their own.
        normalise: "zscore_clipped" clips intensities at the volume's percentiles 1 and 99, takes
            off their mean and divides by their standard deviation; "zscore" does not clip.

    Attributes:
        embedded: generates the stand-in from the keys of `data.embedded`, `size`, and those of the
            data set's options that it also takes; None when there is no stand-in. Its attribute
            `version` is part of the store's key: change it when the volumes change.
        layout: what a root folder must hold, for error messages.
        learns: what is learned from it: segmentation, unless it names another task.
        channel: which channel of images with several is taken; None where there must be one.
    """

    embedded: ClassVar[Callable[..., EmbeddedVolumes] | None] = None
    layout: ClassVar[str] = "images and their masks"
    learns: ClassVar[type[Task]] = SegmentationTask
    channel: int | None = None

    def __init__(
        self,
        slices: int | None = None,
        field_of_view: float | None = None,
        orientation: Literal["canonical", "stored"] = "canonical",
        spacing: list[float] | None = None,
        normalise: Literal["zscore_clipped", "zscore"] = "zscore_clipped",
    ) -> None:
        if slices is not None and slices < 1:
            raise ValueError(f"slices must be at least 1, not {slices}.")
        if field_of_view is not None and not 0 < field_of_view <= 1:
            raise ValueError(f"field_of_view must be above 0 and at most 1, not {field_of_view}.")
        lengths = spacing or []
        if spacing is not None and not (
            len(lengths) == 3 and all(0 < one < math.inf for one in lengths)
        ):
            raise ValueError(f"spacing must be three lengths above 0 mm, not {spacing}.")
        self.slices = slices
        self.field_of_view = field_of_view
        self.orientation = orientation
        self.spacing = spacing
        self.normalise = normalise

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a class write `embedded = function` without it becoming a method."""
        super().__init_subclass__(**options)
        if inspect.isfunction(cls.__dict__.get("embedded")):
            cls.embedded = staticmethod(cls.__dict__["embedded"])

    def open(self, **options: Any) -> Any:
        """The prepared data: a store, built first when the cache does not hold it.

        Args:
            options: name, root, size, embedded, skip_bad, cache, progress; see
                `fedsim.data.volumes.store.prepare_volumes`. What only images need is left out.
        """
        from fedsim.data.volumes.store import prepare_volumes

        for_images = ("workers", "positive", "window")
        return prepare_volumes(self, **{k: v for k, v in options.items() if k not in for_images})

    def preprocessing(self, data: Data, task: Any) -> dict[str, Any]:
        """What is done to a file before a model sees it, as model files say it."""
        how = self.preparation(data.size)
        return {
            "size": how.size,
            "slices": how.slices,
            "field_of_view": how.field_of_view,
            "spacing": how.spacing,
            "normalise": "zscore_clipped" if how.clip else "zscore",
            "orientation": self.orientation,
            "axes": "slices to the head, rows to the back, columns to the left",
            "channel": self.channel,
            "patch": task.patch,
        }

    def looks(self, manifest: VolumeManifest) -> list[str]:
        """Sizes, spacing and grey values of some of the files, for `fedsim start`."""
        from fedsim.data.volumes.looks import volume_looks

        return volume_looks(manifest.files)

    def preparation(self, size: int) -> Preparation:
        """What is done to each volume, with slices of `size` x `size` voxels."""
        return Preparation(
            size=size,
            slices=self.slices,
            field_of_view=self.field_of_view,
            spacing=tuple(self.spacing) if self.spacing is not None else None,  # type: ignore[arg-type]
            clip=self.normalise == "zscore_clipped",
        )

    @abstractmethod
    def manifest(self, root: Path) -> VolumeManifest:
        """List the cases below `root` without reading volumes.

        Raises:
            InputError: tables are missing or wrong. A listed file that does not exist is no error
                here: `prepare_volumes` finds and names those.
        """
