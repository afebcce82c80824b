"""Classifying images by what a frozen network makes of them, or with that beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.errors import InputError
from fedsim.scenario.overrides import client_block
from fedsim.tasks.classification.task import Classification, groups_of

if TYPE_CHECKING:
    from fedsim.scenario.schema import Scenario


@dataclass(frozen=True)
class VectorClassification(Classification):
    """To tell classes of images apart by vectors; a model gives logits [n, classes].

    Attributes:
        classes: class names in label order.
        in_channels, image_size: of the images that the vectors were made of.
        in_features: numbers of a vector.
        made_by: the network, and what was done to its features, as model files say it.
    """

    in_features: int = 0
    made_by: Mapping[str, Any] = field(default_factory=dict)

    made_for: ClassVar[str] = "features"
    learns_from: ClassVar[str] = "features of images to classify"
    compares_images: ClassVar[bool] = False

    @classmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> VectorClassification:
        """The classes, and the length of the vectors."""
        _, height, _, channels = store.images.shape
        return cls(
            tuple(store.classes),
            channels,
            height,
            groups_of(scenario, store),
            in_features=store.vectors.shape[1],
            made_by=store.made_by,
        )

    @classmethod
    def refuse(cls, scenario: Scenario) -> None:
        """Also refuse to augment vectors, as if they were pictures."""
        super().refuse(scenario)
        for name in (None, *scenario.federation.overrides):
            asked = client_block(scenario, name)[1].get("augment")
            if asked not in (None, "none"):
                raise InputError(
                    f"client.augment={asked} changes pictures, but with data.features clients have "
                    "vectors",
                    hint="type client.augment=none",
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The length of a vector."""
        return (self.in_features,)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Classes, and the length of the vectors."""
        return {"num_classes": self.num_classes, "in_features": self.in_features}

    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared vectors in a folder."""
        from fedsim.data.features.store import FeatureStore

        return FeatureStore.open(folder, checked)

    def view(self, store: Any, positions: np.ndarray, client: str | None = None) -> Any:
        """The vectors at these positions; all clients have them as they are."""
        from fedsim.data.features.store import VectorView

        return VectorView(store, positions)

    def unlabelled_view(self, store: Any, positions: np.ndarray, client: str) -> Any:
        """The vectors at these positions, without labels."""
        from fedsim.data.features.store import UnlabelledVectors

        return UnlabelledVectors(store, positions)


@dataclass(frozen=True)
class BesideVectors(Classification):
    """To tell images apart, each of which has a frozen network's vector beside it.

    Attributes:
        vector_length: numbers of a vector.
    """

    vector_length: int = 0

    @classmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> BesideVectors:
        """The classes, the size of the images, and the length of the vectors."""
        images = Classification.of(scenario, store, clients)
        return cls(
            images.classes,
            images.in_channels,
            images.image_size,
            images.groups,
            vector_length=store.vectors.shape[1],
        )

    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared vectors in a folder, and the images that they were made of."""
        from fedsim.data.features.store import FeatureStore

        return FeatureStore.open(folder, checked)

    def view(self, store: Any, positions: np.ndarray, client: str | None = None) -> Any:
        """The images at these positions, with their vectors."""
        from fedsim.data.features.store import BesideView

        return BesideView(store, positions)

    def unlabelled_view(self, store: Any, positions: np.ndarray, client: str) -> Any:
        """The images at these positions, with their vectors and without labels."""
        from fedsim.data.features.store import UnlabelledBeside

        return UnlabelledBeside(store, positions)
