"""What a task is: all that depends on what is learned, asked of one object.

A task is a class. Before there are clients, the class itself is asked (`of`, `split`, `refuse`, how
a store is told); then there is an object, the same at all sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.errors import InputError
from fedsim.tasks.facts import TaskFacts
from fedsim.tasks.metric import Metric

if TYPE_CHECKING:
    import torch

    from fedsim.federation.holdings import Federation
    from fedsim.scenario.schema import Scenario


class Task(ABC):
    """What is to be learned.

    What a task must have: `name`, `made_for`, `learns_from`, `headline`, `metrics`, and the methods
    without a body. All else has a default. `fedsim.tasks.ImageTask` has those for images.

    Attributes:
        name: of the task, as model hubs call it, such as "image-classification".
        made_for: what `made_for` of the client methods and models that go with it says.
        learns_from: its records and what becomes of them, in words: "images to classify".
        records: what its records are, in the plural; `things`: the same in the line of sizes.
        headline: name of the metric that models are chosen by and compared by.
        metrics: all that `score` gives, in the order in which they are told.
        in_rounds: names of those of a round's line; (): the headline.
        in_tables: names of those of the last line and of tables; (): all.
        keys: keys of a scenario that only some tasks know, and that this one knows.
        file: of a run folder, with what models say of the test records.
        pictures_told: what its pictures show of test records, in words; "" without pictures.
        gives_probabilities: whether `predict` gives class probabilities [n, classes].
        hides_labels: whether records can be had without their labels (`unlabelled_view`).
        compares_images: whether images that clients send can be compared with the training ones.
        classes: class names in label order; () where there are none.
        positive: of two classes the positive one; None where there is none.
    """

    name: ClassVar[str]
    made_for: ClassVar[str]
    learns_from: ClassVar[str]
    records: ClassVar[str] = "images"
    things: ClassVar[str] = "images"
    headline: ClassVar[str]
    metrics: ClassVar[Sequence[Metric]]
    in_rounds: ClassVar[tuple[str, ...]] = ()
    in_tables: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[tuple[str, ...]] = ()
    file: ClassVar[str] = "scores.npz"
    pictures_told: ClassVar[str] = ""
    gives_probabilities: ClassVar[bool] = False
    hides_labels: ClassVar[bool] = False
    compares_images: ClassVar[bool] = False

    classes: tuple[str, ...]
    positive: str | None = None

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """`Task(classes, in_channels, image_size)` was classification, before there were others."""
        if cls is Task:
            from fedsim.tasks.classification import Classification

            return object.__new__(Classification)
        return object.__new__(cls)

    # --- of the class: before there are clients ----------------------------------------------

    @classmethod
    @abstractmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> Task:
        """The task of a scenario's data.

        Raises:
            InputError: the scenario does not go with the data or the clients.
        """

    @classmethod
    def refuse(cls, scenario: Scenario) -> None:
        """Raise InputError where the scenario sets a key that belongs to another task."""
        from fedsim.tasks.keys import refuse

        refuse(scenario, cls)

    @classmethod
    @abstractmethod
    def split(cls, scenario: Scenario, store: Any, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Which records are for what.

        Args:
            scenario: its block `data.split`.
            store: the data.
            inside: positions in the store of the records to split.

        Returns:
            "train", "val" and "test" -> positions in `inside`; of the split's seed alone.
        """

    @classmethod
    @abstractmethod
    def agrees_in(cls, store: Any) -> tuple[str, tuple[str, ...]]:
        """What external data must share with the data: in words, and the names themselves."""

    @classmethod
    @abstractmethod
    def store_lines(cls, name: str, store: Any) -> list[str]:
        """What `fedsim data` says of a store; `name` is what the scenario calls the data."""

    @classmethod
    @abstractmethod
    def contents(cls, store: Any) -> str:
        """What a store holds, in a few words: "120 volumes, outlines of left, right"."""

    @classmethod
    def on_features(cls) -> type[Task] | None:
        """The task that `data.features` makes of this one; None: it makes none."""
        return None

    @classmethod
    def beside_features(cls) -> type[Task] | None:
        """The same with `data.features.beside`: records stay, and have vectors beside them."""
        return None

    @classmethod
    def empty_classes(cls, store: Any) -> list[str]:
        """Classes that a store has no record of, where there must be one."""
        return []

    @classmethod
    def facts_of(cls, classes: Sequence[str]) -> TaskFacts:
        """What run folders say of this task, for these classes."""
        return TaskFacts(
            cls.name,
            cls.records,
            cls.goal_of(classes),
            cls.headline,
            tuple(cls.metrics),
            cls.in_rounds or (cls.headline,),
            cls.in_tables or tuple(one.name for one in cls.metrics),
        )

    @classmethod
    def goal_of(cls, classes: Sequence[str]) -> str:
        """What a model learns, after "trained one model": "to tell a from b"."""
        return f"for {cls.name.replace('-', ' ')}"

    # --- of the object: models ---------------------------------------------------------------

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as a model sees it: channels first."""

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of what a model makes of one record; None: the task does not say."""
        return None

    @property
    @abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """What a model's constructor is given beside the scenario's parameters.

        Of `num_classes`, `in_channels`, `image_size`, `patch`, `in_features`
        (`fedsim.scenario.checks.SUPPLIED`).
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def goal(self) -> str:
        """What a model learns; see `goal_of`."""
        return self.goal_of(self.classes)

    def require_metrics(self) -> None:
        """Raise InputError where the task is judged, or told, by a metric that it does not list."""
        known = [metric.name for metric in self.metrics]
        asked = {"headline": (self.headline,), "in_rounds": self.in_rounds}
        for key, names in (asked | {"in_tables": self.in_tables}).items():
            if wrong := [name for name in names if name not in known]:
                raise InputError(
                    f"task {self.name!r}: its {key} names {wrong[0]!r}, which is none of its "
                    f"metrics: {', '.join(known)}"
                )

    @property
    def facts(self) -> TaskFacts:
        """What run folders say of this task."""
        return TaskFacts.of(self)

    @abstractmethod
    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared data in a folder; `checked`: its bytes were read and found whole before."""

    @abstractmethod
    def view(self, store: Any, positions: np.ndarray, client: str | None = None) -> Any:
        """The records at these positions: as a client has them, or as a scorer needs them."""

    def unlabelled_view(self, store: Any, positions: np.ndarray, client: str) -> Any:
        """The records at these positions as a client has them, with labels that cannot be read.

        Only asked of a task with `hides_labels`.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: torch.nn.Module, view: Any, device: torch.device) -> np.ndarray:
        """What a model says of a view, enough to score it: [n, ...], a row for each record.

        One number a record is the record's own score, of which the headline is the mean.

        Raises:
            DivergedError: it says what is no number.
        """

    def score(
        self, predicted: np.ndarray, view: Any, per_site: bool = False
    ) -> dict[str, float | None]:
        """Metrics of what `predict` gave; None where the records do not define one.

        The default is the mean of one number a record.

        Args:
            predicted: of `predict`.
            view: what it is of.
            per_site: also `<metric>@<site>`, where there are several sites.
        """
        values = np.asarray(predicted, dtype=np.float64)
        scores = {self.headline: float(values.mean()) if len(values) else None}
        if per_site and len(view.site_names) > 1:
            for code, site in enumerate(view.site_names):
                here = values[view.sites == code]
                if site:
                    scores[f"{self.headline}@{site}"] = float(here.mean()) if len(here) else None
        return scores

    def predictions(self, predicted: np.ndarray, view: Any) -> tuple[str, dict[str, np.ndarray]]:
        """The file of a run folder, and its arrays, for predictions [models, n, ...] of a view.

        The default keeps one number a record, from which reports take intervals and differences.
        """
        arrays = {"records": view.indices, "groups": view.groups, "sites": view.sites}
        scores = np.asarray(predicted, dtype=np.float64)
        return self.file, arrays | {"metric": np.array(self.headline), "scores": scores}

    def merit(self, metrics: Mapping[str, float | None]) -> float | None:
        """A number that is the larger, the better these metrics are, by the headline."""
        return self.facts.main.merit(metrics.get(self.headline))

    # --- of the object: what is told ---------------------------------------------------------

    def counts_by_client(
        self, store: Any, clients: Mapping[str, np.ndarray]
    ) -> dict[str, list[int]] | None:
        """Training records of each class at each client; None where records have no class."""
        return None

    def notes(self, store: Any, clients: Mapping[str, np.ndarray]) -> list[str]:
        """What a person must know of who holds what, a sentence each; it may tell of counts."""
        return []

    @abstractmethod
    def data_lines(self, federation: Federation) -> list[str]:
        """What `fedsim data show` says of clients and splits, below `store_lines`."""

    @abstractmethod
    def data_picture(self, scenario: Scenario, federation: Federation, out: Path | None) -> Path:
        """Draw whose data there are, into `out` or a file in the current folder; the file."""

    def pictures(  # noqa: B027
        self,
        folder: Path,
        model: torch.nn.Module,
        view: Any,
        predicted: np.ndarray,
        device: torch.device,
        *,
        title: str,
        note: str,
    ) -> None:
        """Draw what a finished model makes of test records, where that can be drawn.

        Args:
            folder: the run folder.
            model: the first model, if there are several.
            view: the test records; `predicted` is what `predict` gave for them.
            device: where to compute.
            title: begins the title of a picture.
            note: what it must say about data that are not real, or "".
        """
