"""Data that a server does not have: what is known of their kind, and no record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.copies import BYTES

if TYPE_CHECKING:
    from fedsim.deployment.exported import Facts
    from fedsim.scenario import Scenario


def _nothing() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class AbsentStore:
    """A store without records, of images or of volumes; see `fedsim.data.store.Store`.

    Attributes:
        images: uint8 [0, H, W, C].
        classes: class names in label order.
        structures: of volumes, names of the label values 1, 2, ...
        source: what the nodes say of theirs, "path" or "embedded".
        root: where the records are, in words.
        folder: of no use: nobody opens it again.
    """

    images: np.ndarray
    classes: tuple[str, ...]
    structures: tuple[str, ...]
    source: str
    root: str = "the nodes"
    folder: Path = Path()
    labels: np.ndarray = field(default_factory=_nothing)
    groups: np.ndarray = field(default_factory=_nothing)
    sites: np.ndarray = field(default_factory=_nothing)
    shapes: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    spacing: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    digests: np.ndarray = field(default_factory=lambda: np.zeros((0, BYTES), np.uint8))
    site_names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    fingerprint: str = ""
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, scenario: Scenario, facts: Facts, source: str) -> AbsentStore:
        """The store of a scenario whose records are at the nodes.

        Args:
            scenario: of the app.
            facts: of the app: classes, structures, and the shape of a record.
            source: of the nodes' records.
        """
        channels, size = facts.input_shape[0], scenario.data.size
        images = np.zeros((0, size, size, channels), np.uint8)
        return cls(images, facts.classes, facts.structures, source)

    def __len__(self) -> int:
        return 0
