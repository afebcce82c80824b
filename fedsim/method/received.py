"""What a client sent of its model, decoded: what strategies average, and what a history keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Received:
    """A client's reply, decoded.

    Attributes:
        weight: of the reply in an average, as the strategy weights.
        arrays: name -> array, any shape: the client's model, or its change, see `base`.
        base: what must be added to `arrays` to have the client's model; {} where they are it.
    """

    weight: float
    arrays: Arrays
    base: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def change(self, sent: Mapping[str, NDArray[Any]]) -> Arrays:
        """What the client changed in the model that it was sent; floating arrays, float64.

        Args:
            sent: the model, by name.
        """
        return dict(self.changes(sent))

    def changes(self, sent: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """The same, one array after another: of a large model, not all at a time."""
        for name, value in self.arrays.items():
            if value.dtype.kind not in "fc" or name not in sent:
                continue
            wide = value.astype(np.result_type(value.dtype, np.float64))
            yield name, wide if self.base else wide - sent[name]


def norm(change: Mapping[str, NDArray[Any]]) -> float:
    """The Euclidean norm of all arrays together."""
    return float(np.sqrt(sum(np.square(np.abs(value)).sum() for value in change.values())))
