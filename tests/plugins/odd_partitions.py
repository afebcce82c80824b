"""Partitions that give records to two clients, or none to one."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedsim.data.partition import Partition


class Twice(Partition):
    """The second client has all records of the first, too."""

    def assign(self, *, labels: np.ndarray, **_: Any) -> dict[str, np.ndarray]:
        """Half of them to the first, all to the second."""
        every = np.arange(len(labels))
        return {"client-0": every[: len(every) // 2], "client-1": every}


class Empty(Partition):
    """The first client has nothing."""

    def assign(self, *, labels: np.ndarray, **_: Any) -> dict[str, np.ndarray]:
        """All to the second."""
        return {"client-0": np.zeros(0, np.int64), "client-1": np.arange(len(labels))}
