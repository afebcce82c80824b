"""What is to be segmented, and what a method sees of a site's volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import InputError
from fedsim.scenario.overrides import own_appearances
from fedsim.tasks.keys import APPEARANCE, FOLDS, LABELS
from fedsim.tasks.metric import Metric, fraction
from fedsim.tasks.segmentation.label_views import BACKGROUND, LabelScheme, LabelView, label_scheme
from fedsim.tasks.task import Task
from fedsim.tasks.words import outlined

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fedsim.federation.holdings import Federation
    from fedsim.method.client import Site
    from fedsim.scenario.schema import Appearance, Scenario

SLICES = "dice_2d"
"""The metric's name of Dice of slices."""


@dataclass(frozen=True)
class SegmentationTask(Task):
    """To outline structures in volumes; a model gives logits [n, classes, *patch].

    Attributes:
        scheme: the classes, and which of them each client labels.
        patch: what the network sees at a time, in voxels: (H, W) of a slice, or (D, H, W).
        in_channels: channels of an image.
        appearances: how the volumes of some clients look, by the client's name.
    """

    scheme: LabelScheme
    patch: tuple[int, ...]
    in_channels: int = 1
    appearances: Mapping[str, Appearance] = field(default_factory=dict)

    name: ClassVar[str] = "image-segmentation"
    made_for: ClassVar[str] = "volumes"
    learns_from: ClassVar[str] = "volumes to segment"
    records: ClassVar[str] = "volumes"
    things: ClassVar[str] = "cases"
    headline: ClassVar[str] = "dice"
    metrics: ClassVar[Sequence[Metric]] = (
        fraction("dice", "Dice"),
        fraction("jaccard", "Jaccard"),
        fraction(SLICES, "2-D Dice"),
    )
    keys: ClassVar[tuple[str, ...]] = (FOLDS, LABELS, APPEARANCE)
    file: ClassVar[str] = "overlaps.npz"
    hides_labels: ClassVar[bool] = True
    pictures_told: ClassVar[str] = "images and masks of typical test cases (segmentation/)"

    @classmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> SegmentationTask:
        """Who outlines which structures, how their volumes look, and the patch."""
        labels = scenario.federation.labels
        wanted = labels.clients if labels else None
        outlines = dict.fromkeys(clients, store.structures) if wanted is None else wanted
        strangers = sorted(set(clients) ^ set(outlines))
        if strangers:
            raise InputError(
                f"federation.labels.clients names {', '.join(outlines)}, but the clients are "
                f"{', '.join(clients)}",
                hint="give every client the list of structures that it outlines",
            )
        scheme = label_scheme(
            store.structures,
            outlines,
            labels.organs if labels else None,
            labels.union if labels else False,
            where="federation.labels",
        )
        appearances = {**scenario.federation.appearance, **own_appearances(scenario)}
        if strangers := sorted(set(appearances) - set(clients)):
            raise InputError(
                f"federation.appearance names {', '.join(strangers)}, but the clients are "
                f"{', '.join(clients)}"
            )
        size = scenario.data.size
        return cls(scheme, scenario.data.patch or (size, size), appearances=appearances)

    @classmethod
    def split(
        cls, scenario: Scenario, store: Any, inside: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Every site by itself, patients kept together; or one fold of a cross-validation."""
        from fedsim.data.volumes.split import split_cases, split_fold

        share = scenario.data.split
        cases = store.sites[inside], store.groups[inside], store.site_names
        if share.folds is not None:
            return split_fold(
                *cases, fold=share.fold, folds=share.folds, val=share.val, seed=share.seed
            )
        return split_cases(*cases, val=share.val, test=share.test, seed=share.seed)

    @classmethod
    def agrees_in(cls, store: Any) -> tuple[str, tuple[str, ...]]:
        """Structures in the order of their label values."""
        return "structures", tuple(store.structures)

    @classmethod
    def store_lines(cls, name: str, store: Any) -> list[str]:
        """Where the volumes are from, how many, with which outlines."""
        from fedsim.report.volumes import store_lines

        return store_lines(name, store)

    @classmethod
    def contents(cls, store: Any) -> str:
        """Volumes, and what is outlined in them."""
        return f"{len(store)} volumes, outlines of {', '.join(store.structures)}"

    @classmethod
    def goal_of(cls, classes: Sequence[str]) -> str:
        """Which structures are outlined."""
        return outlined([name for name in classes if name != BACKGROUND])

    def __post_init__(self) -> None:
        if len(self.patch) not in (2, 3) or min(self.patch) < 1:
            raise ValueError(
                "A patch has a height and a width of at least one voxel, perhaps after a depth, "
                f"but it is {list(self.patch)}."
            )

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, ..."""
        return self.scheme.structures

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # Follows from the scheme.
        """Names of all classes."""
        return (BACKGROUND, *self.structures)

    @property
    def num_classes(self) -> int:
        """Number of classes, with the background."""
        return 1 + len(self.structures)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as a model sees it: channels, then the patch."""
        return self.in_channels, *self.patch

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Logits of background and structures, each in the patch."""
        return self.num_classes, *self.patch

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What a model's constructor is given beside the scenario's parameters."""
        return {
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "patch": self.patch,
        }

    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared data in a folder."""
        from fedsim.data.volumes.store import VolumeStore

        return VolumeStore.open(folder, checked)

    def view(self, store: Any, positions: NDArray[np.int64], client: str | None = None) -> Any:
        """The cases at these positions: labelled as a client labels, or with all structures."""
        from fedsim.data.volumes.views import VolumeView

        if client is None:
            return VolumeView(store, positions, self.scheme.merge)
        from fedsim.tasks.segmentation.appearance import apply

        own, appearance = self.scheme.views[client], self.appearances.get(client)
        return VolumeView(
            store,
            positions,
            lambda labels: own.hide(self.scheme.merge(labels)),
            partial(apply, appearance) if appearance is not None else None,
        )

    def unlabelled_view(self, store: Any, positions: NDArray[np.int64], client: str) -> Any:
        """The cases at these positions as a client has them, without outlines."""
        from fedsim.data.volumes.views import UnlabelledVolumes
        from fedsim.tasks.segmentation.appearance import apply

        appearance = self.appearances.get(client)
        look = partial(apply, appearance) if appearance is not None else None
        return UnlabelledVolumes(store, positions, look)

    def predict(self, model: torch.nn.Module, view: Any, device: torch.device) -> NDArray[np.int64]:
        """Overlaps of prediction and truth in each slice: all scores follow.

        Returns:
            int64 [cases, slices, structures, 3], see `count_slices`.
        """
        from fedsim.tasks.segmentation.evaluation import count_slices

        return count_slices(model, view, self, device)

    def score(
        self, predicted: NDArray[np.int64], view: Any, per_site: bool = False
    ) -> dict[str, float | None]:
        """Dice and Jaccard of what `predict` gave; with `per_site` also Dice of all slices."""
        from fedsim.tasks.segmentation.evaluation import scores, slice_score

        found = scores(predicted.sum(1), view, self, per_site=per_site)
        return found | {SLICES: slice_score(predicted)} if per_site else found

    def predictions(
        self, predicted: NDArray[np.int64], view: Any
    ) -> tuple[str, dict[str, NDArray[Any]]]:
        """The file of a run folder, and its arrays, for overlaps [models, ...] of a view.

        The file has those of whole volumes.
        """
        arrays = {
            "records": view.indices,
            "groups": view.groups,
            "sites": view.sites,
            "structures": np.array(self.structures),
            "overlaps": predicted.sum(2),
        }
        return self.file, arrays

    def data_lines(self, federation: Federation) -> list[str]:
        """A table of the sites, and one of who holds how many cases of which site."""
        from fedsim.report.volumes import client_lines, site_lines

        store = federation.store
        return [*site_lines(store), *client_lines(store, federation.train, federation.split)]

    def data_picture(self, scenario: Scenario, federation: Federation, out: Path | None) -> Path:
        """Cases of every site, side by side."""
        from fedsim.report.volumes import save_sites

        out = out or Path(f"{scenario.name}-volumes.png")
        save_sites(federation.store, scenario.data.name, out)
        return out

    def pictures(
        self,
        folder: Path,
        model: torch.nn.Module,
        view: Any,
        predicted: NDArray[np.int64],
        device: torch.device,
        *,
        title: str,
        note: str,
    ) -> None:
        """Typical test cases with truth and prediction."""
        from fedsim.report.overlays import overlays, save_overlays

        cases = overlays(model, view, predicted.sum(1), self, device)
        place, title = folder / "segmentation", f"{title}: typical test cases"
        save_overlays(place, cases, self.structures, title, note)


Segmentation = SegmentationTask
"""The task by its short name."""


class Volumes(Protocol):
    """Some cases, in a fixed order, with their labels as the owner has them."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the cases."""

    @property
    def sites(self) -> NDArray[np.int64]:
        """Where each case is from, int64 [n], codes into `site_names`."""

    @property
    def site_names(self) -> Sequence[str]:
        """Names of the sites."""

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Distance of neighbouring voxels along D, H and W in mm, [n, 3]."""

    def __len__(self) -> int: ...

    def volume(self, position: int) -> tuple[Tensor, Tensor]:
        """The image, float32 [1, D, H, W], and the labels, int64 [D, H, W], of a case."""

    def patches(
        self,
        count: int,
        size: tuple[int, ...],
        generator: torch.Generator,
        foreground: float,
        *,
        case: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Random patches, float32 [count, 1, *size], and their labels, int64 [count, *size].

        A share `foreground` of them holds labelled voxels, as far as the cases have any. All are
        of one case, or of random ones.
        """


@dataclass(frozen=True)
class SegmentationSite:
    """A site of a segmentation: the same site, with the types that its parts have here.

    Attributes:
        task: what is to be learned.
        labels: what the client labels.
        train, val: the client's cases, labelled as it labels.
    """

    task: SegmentationTask
    labels: LabelView
    train: Volumes
    val: Volumes

    @classmethod
    def of(cls, site: Site) -> SegmentationSite:
        """Take a site whose data are volumes.

        Raises:
            InputError: the run's data are not volumes, or nobody said what this client labels.
        """
        task: object = site.task
        if not isinstance(task, SegmentationTask):
            raise InputError(
                "the client method segments volumes, but the scenario's data are images with one "
                "label each",
                hint="choose data of volumes, or client.name=supervised",
            )
        if site.name not in task.scheme.views:
            raise InputError(
                f"nobody said what client {site.name!r} labels; the label views name "
                f"{', '.join(task.scheme.views)}",
                hint="give every client its list of structures",
            )
        return cls(
            task,
            task.scheme.views[site.name],
            cast(Volumes, site.train),
            cast(Volumes, site.val),
        )
