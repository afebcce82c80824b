"""What a model file says of itself, in the metadata of a `.safetensors` file.

Metadata are texts by name: names of architecture and classes as they are, the rest as JSON.
Whoever gets the file gets all of it: it holds no path, no count of records, and of private runs no
seed (a simulation's noise can be computed from it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsim import __version__
from fedsim.data.dataset import method_of
from fedsim.data.images import Window
from fedsim.data.volumes.preparing import Preparation
from fedsim.federation.opening import dataset_of
from fedsim.scenario import Scenario
from fedsim.scenario.schema import Adapter
from fedsim.tasks.classification import Classification
from fedsim.tasks.classification.vectors import VectorClassification
from fedsim.tasks.segmentation.task import Segmentation
from fedsim.tasks.task import Task

SCHEMA = "1"
"""Version of the metadata."""

PURPOSE = "for research; not a medical device"


FEATURES = "features"
"""Key of the preprocessing: the frozen network whose features the model is given."""


class NotDescribedError(ValueError):
    """A file's metadata are not those of a model that fedsim wrote; the message says why."""


@dataclass(frozen=True)
class About:
    """What a model is, what it was made for, and where it is from.

    Attributes:
        task: name of the task: one label an image, one a voxel, or another package's.
        architecture: a model plugin's name, or a dotted path.
        arguments: what its constructor is given, task and scenario together.
        classes: names in the order of the model's outputs; of volumes, background first.
        positive: of two classes of images, the one that AUC and the like are of.
        preprocessing: what is done to a file before the model sees it, as the data set says it;
            `how` and `window` read it.
        data: name of the data set it was trained on.
        data_source: "path", or "embedded" for a generated stand-in.
        scenario: the scenario's name.
        seed: the run's; None of private runs.
        run_id: the run's random name.
        private: the privacy mechanism in words; "" without one.
        client: whose model it is, where each client has its own; "" for the global one.
        adapter: what was trained in the place of its weights; None: nothing.
        version: of fedsim.
        licence: what may be done with it.
    """

    task: str
    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    positive: str | None
    preprocessing: dict[str, Any]
    data: str
    data_source: str
    scenario: str
    seed: int | None
    run_id: str
    private: str = ""
    client: str = ""
    adapter: Adapter | None = None
    version: str = __version__
    licence: str = field(default="")

    @property
    def title(self) -> str:
        """Which model it is, in a few words."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        owner = f", model of {self.client}" if self.client else ""
        return f"{self.scenario}{seed}{owner}"

    @property
    def stand_in(self) -> bool:
        """Whether it was trained on generated data."""
        return self.data_source == "embedded"

    @property
    def classifies(self) -> bool:
        """Whether it classifies images."""
        return self.task == Classification.name

    @property
    def segments(self) -> bool:
        """Whether it segments volumes."""
        return self.task == Segmentation.name

    @property
    def answers(self) -> bool:
        """Whether `fedsim predict` knows what its outputs mean."""
        return self.classifies or self.segments

    @property
    def of_volumes(self) -> bool:
        """Whether its inputs are parts of volumes, and not images."""
        return "patch" in self.preprocessing

    @property
    def features(self) -> Mapping[str, Any] | None:
        """The frozen network, and what was done to its features; None for a model of pixels."""
        found: Mapping[str, Any] | None = self.preprocessing.get(FEATURES)
        return found

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the model: channels, then height and width, or the patch."""
        if self.of_volumes:
            return 1, *self.patch
        size = self.preprocessing["size"]
        return self.preprocessing["channels"], size, size

    @property
    def window(self) -> Window | None:
        """Of pictures with more than 8 bits, what becomes black and white."""
        found = self.preprocessing["window"]
        return None if found is None else (float(found[0]), float(found[1]))

    @property
    def patch(self) -> tuple[int, ...]:
        """Of volumes, what the network sees at a time, in voxels."""
        return tuple(self.preprocessing["patch"])

    @property
    def how(self) -> Preparation:
        """What is done to a volume."""
        found = self.preprocessing
        spacing = found["spacing"]
        return Preparation(
            size=found["size"],
            slices=found["slices"],
            field_of_view=found["field_of_view"],
            spacing=None if spacing is None else tuple(spacing),
            clip=found["normalise"] == "zscore_clipped",
        )

    def metadata(self) -> dict[str, str]:
        """The texts of a `.safetensors` file; "format" is what other libraries look for."""
        texts = {
            "format": "pt",
            "schema": SCHEMA,
            "task": self.task,
            "architecture": self.architecture,
            "architecture_arguments": _json(self.arguments),
            "classes": _json(self.classes),
            "positive_class": self.positive or "",
            "preprocessing": _json(self.preprocessing),
            "data": self.data,
            "data_source": self.data_source,
            "scenario": self.scenario,
            "seed": "" if self.seed is None else str(self.seed),
            "run_id": self.run_id,
            "privacy": self.private,
            "client": self.client,
            "adapter": _as_json(self.adapter),
            "fedsim_version": self.version,
            "license_note": self.licence,
            "intended_use": PURPOSE,
        }
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def of_metadata(cls, texts: Mapping[str, str] | None) -> About:
        """Read what `metadata` gave.

        Raises:
            NotDescribedError: it is of another kind, or damaged.
        """
        texts = texts or {}
        if "schema" not in texts or "architecture" not in texts:
            raise NotDescribedError("it does not say what model it holds")
        if texts["schema"] != SCHEMA:
            raise NotDescribedError(f"it is of a newer form (schema {texts['schema']})")
        try:
            about = cls(
                task=texts["task"],
                architecture=texts["architecture"],
                arguments=dict(json.loads(texts["architecture_arguments"])),
                classes=tuple(map(str, json.loads(texts["classes"]))),
                positive=texts.get("positive_class"),
                preprocessing=dict(json.loads(texts["preprocessing"])),
                data=texts.get("data", ""),
                data_source=texts.get("data_source", ""),
                scenario=texts.get("scenario", ""),
                seed=int(texts["seed"]) if "seed" in texts else None,
                run_id=texts.get("run_id", ""),
                private=texts.get("privacy", ""),
                client=texts.get("client", ""),
                adapter=_adapter(texts.get("adapter")),
                version=texts.get("fedsim_version", ""),
                licence=texts.get("license_note", ""),
            )
            if about.of_volumes:
                about.how  # noqa: B018
            else:
                about.window  # noqa: B018
            if about.features is not None:
                str(about.features["network"]), str(about.features["network_sha256"])
            if min(about.input_shape) < 1 or (about.answers and len(about.classes) < 2):
                raise NotDescribedError("its input or its classes are none")
        except NotDescribedError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
            raise NotDescribedError("what it says of itself is damaged") from error
        return about


def describe_model(
    scenario: Scenario,
    task: Task,
    *,
    seed: int,
    run_id: str,
    data_source: str,
    private: str = "",
    client: str = "",
) -> About:
    """What is said of a run's model.

    Args:
        scenario: what was run.
        task: what was learned.
        seed: the run's; not said of a private run.
        run_id: the run's random name.
        data_source: "path" or "embedded".
        private: the privacy mechanism in words; "" without one.
        client: whose model it is; "" for the global one.
    """
    data = scenario.data
    preprocessing = method_of(dataset_of(scenario), "preprocessing")(data, task)
    if isinstance(task, VectorClassification):
        preprocessing = {**preprocessing, FEATURES: dict(task.made_by)}
    return About(
        task=task.name,
        architecture=scenario.model.name,
        arguments={**scenario.model.parameters, **task.model_arguments},
        classes=tuple(task.classes),
        positive=task.positive,
        preprocessing=preprocessing,
        data=data.name,
        data_source=data_source,
        scenario=scenario.name,
        seed=None if private else seed,
        run_id=run_id,
        private=private,
        client=client,
        adapter=scenario.model.adapter,
        licence=_licence(data.name, data_source),
    )


def _licence(data: str, source: str) -> str:
    if source == "embedded":
        return "trained on generated data; no licence is stated for these weights"
    return (
        f"no licence is stated for these weights; the terms of the data ({data}) that they were "
        "trained on may bind whoever uses or shares them"
    )


def _as_json(adapter: Adapter | None) -> str:
    return "" if adapter is None else adapter.model_dump_json(exclude_none=True)


def _adapter(text: str | None) -> Adapter | None:
    return None if text is None else Adapter.model_validate(json.loads(text))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
