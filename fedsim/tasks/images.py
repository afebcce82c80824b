"""A task on a store of images: what all such tasks have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.tasks.keys import WINDOW
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.federation.holdings import Federation
    from fedsim.scenario.schema import Scenario


class ImageTask(Task):
    """A task whose records are the images of a `fedsim.data.store.Store`.

    It is left to say what a model is given (`of`, `input_shape`, `model_arguments`) and how it is
    scored (`predict`, perhaps `score`).
    """

    keys: ClassVar[tuple[str, ...]] = (WINDOW,)

    @classmethod
    def split(cls, scenario: Scenario, store: Any, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Stratified by label, groups kept together; see `fedsim.data.split.split_records`."""
        from fedsim.data.split import split_records

        share = scenario.data.split
        return split_records(
            store.labels[inside],
            store.groups[inside],
            store.sites[inside],
            val=share.val,
            test=share.test,
            seed=share.seed,
            classes=store.classes,
        )

    @classmethod
    def agrees_in(cls, store: Any) -> tuple[str, tuple[str, ...]]:
        """Classes in label order."""
        return "classes", tuple(store.classes)

    @classmethod
    def store_lines(cls, name: str, store: Any) -> list[str]:
        """Where the images are from, how many, of which classes."""
        from fedsim.report.data import store_lines

        return store_lines(name, store)

    @classmethod
    def contents(cls, store: Any) -> str:
        """Images by class."""
        counts = np.bincount(store.labels, minlength=len(store.classes))
        held = ", ".join(f"{name} {n}" for name, n in zip(store.classes, counts, strict=True))
        return f"{len(store)} images of {len(store.classes)} classes: {held}"

    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared images in a folder."""
        from fedsim.data.store import Store

        return Store.open(folder, checked)

    def view(self, store: Any, positions: np.ndarray, client: str | None = None) -> Any:
        """The images at these positions; all clients have them as they are."""
        from fedsim.data.views import View

        return View(store, positions)

    def data_lines(self, federation: Federation) -> list[str]:
        """The client-by-class table of the training split, and the sizes of the splits."""
        from fedsim.report.data import class_lines

        return class_lines(federation)

    def data_picture(self, scenario: Scenario, federation: Federation, out: Path | None) -> Path:
        """Who holds what, by class."""
        from fedsim.report.data import save_partition

        out = out or Path(f"{scenario.name}-partition.png")
        save_partition(federation, scenario, scenario.seeds[0], out)
        return out
