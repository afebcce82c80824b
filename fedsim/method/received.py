"""What a client sent of its model, decoded: what strategies average, and what a history keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

    def changes(self, sent: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """The same, each array when it is asked for: of a large model, not all at a time."""
        floating = {
            name: value
            for name, value in self.arrays.items()
            if value.dtype.kind in "fc" and name in sent
        }
        return Computed(_wide, floating) if self.base else Computed(_change, floating, sent)


class Computed(Mapping[str, NDArray[Any]]):
    """What is computed of arrays element by element, anew each time that it is asked for.

    Args:
        compute: takes an array, or a part of it, of each source.
        sources: arrays by name; the names are those of the first.
    """

    def __init__(
        self, compute: Callable[..., NDArray[Any]], *sources: Mapping[str, NDArray[Any]]
    ) -> None:
        self._compute, self._sources = compute, sources

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._compute(*(one[name] for one in self._sources))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources[0])

    def __len__(self) -> int:
        return len(self._sources[0])

    def flat(self, name: str) -> Flat:
        """An array in one dimension, of which slices can be taken: no more than these is made."""
        return Flat(self._compute, [flat(one, name) for one in self._sources])


class Flat:
    """One array of `Computed`, in one dimension."""

    def __init__(
        self, compute: Callable[..., NDArray[Any]], sources: Sequence[NDArray[Any] | Flat]
    ) -> None:
        self._compute, self._sources = compute, sources

    @property
    def size(self) -> int:
        """Elements."""
        return self._sources[0].size

    def __getitem__(self, where: slice) -> NDArray[Any]:
        return self._compute(*(one[where] for one in self._sources))


def flat(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any] | Flat:
    """An array in one dimension: it has a `size`, and slices."""
    return arrays.flat(name) if isinstance(arrays, Computed) else arrays[name].reshape(-1)


def _wide(value: NDArray[Any]) -> NDArray[Any]:
    return value.astype(np.result_type(value.dtype, np.float64))


def _change(value: NDArray[Any], start: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(_wide(value) - start)


def norm(change: Mapping[str, NDArray[Any]]) -> float:
    """The Euclidean norm of all arrays together."""
    return float(np.sqrt(sum(np.square(np.abs(value)).sum() for value in change.values())))
