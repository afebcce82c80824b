"""Many clients: from `MANY` on, pictures and tables show how a value is spread over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

MANY = 50
"""From so many clients, sites or models on there is no bar, line or row for each of them."""

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles that are told."""

TITLES = ("lowest", "5 %", "25 %", "median", "75 %", "95 %", "highest")
"""What they are called."""

_Thing = TypeVar("_Thing")
_BINS = 40
_BANDS = ((0, 6, 0.12, "all"), (1, 5, 0.2, "5 to 95 %"), (2, 4, 0.35, "25 to 75 %"))
_HEIGHTS = ((0, 6, 0.06), (1, 5, 0.22), (2, 4, 0.6))


def quantiles(values: ArrayLike, axis: int | None = None) -> NDArray[np.float64]:
    """float64 [7, ...], the `LEVELS` of values along an axis, or of all; at least one value."""
    return np.asarray(np.quantile(np.asarray(values, dtype=np.float64), LEVELS, axis=axis))


def spread_rows(columns: Mapping[str, Iterable[float | None]]) -> list[tuple[Any, ...]]:
    """A row for each named column of values: its name, how many are known, and their quantiles."""
    rows: list[tuple[Any, ...]] = []
    for name, values in columns.items():
        known = [float(value) for value in values if value is not None]
        told = quantiles(known).tolist() if known else [None] * len(LEVELS)
        rows.append((name, len(known), *told))
    return rows


def spread_lines(title: str, columns: Mapping[str, Sequence[int]]) -> list[tuple[str, ...]]:
    """Cells of a text table with a line for each quantile and a column for each named one.

    Args:
        title: stands above the names of the lines.
        columns: name -> whole numbers, one for each client.
    """
    table = [(title, *columns)]
    found = [quantiles(values) for values in columns.values()]
    for number, name in enumerate(TITLES):
        table.append((name, *(f"{one[number]:.10g}" for one in found)))
    table.append(("have none", *(str(sum(v == 0 for v in own)) for own in columns.values())))
    return table


def draw_bands(axes: Any, x: Sequence[float], spread: ArrayLike, colour: str) -> None:
    """Draw how values are spread over clients, along x: three bands and the median.

    Args:
        axes: to draw on.
        x: places, ascending.
        spread: [places, 7], at each place the quantiles.
        colour: of the bands.
    """
    table = np.asarray(spread, dtype=np.float64)
    for low, high, alpha, label in _BANDS:
        axes.fill_between(
            x, table[:, low], table[:, high], color=colour, alpha=alpha, linewidth=0, label=label
        )
    axes.plot(x, table[:, 3], color=colour, linewidth=1.6, label="median")


def draw_spread(axes: Any, place: float, values: ArrayLike, colour: str) -> None:
    """Draw how values are spread as a bar that is thicker towards the middle, the median white."""
    found = quantiles(values)
    for low, high, height in _HEIGHTS:
        axes.barh(
            place, found[high] - found[low], left=found[low], height=height, color=colour, zorder=2
        )
    axes.plot([found[3]] * 2, [place - 0.3, place + 0.3], color="white", linewidth=2, zorder=3)
    axes.plot([found[3]] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1, zorder=4)


def draw_histogram(axes: Any, columns: Mapping[str, Sequence[int]], colours: Sequence[Any]) -> None:
    """Draw how many clients hold how many records: an outline for each named column.

    Args:
        axes: to draw on.
        columns: name -> whole numbers, one for each client.
        colours: of the columns.
    """
    edges, found = histogram(columns)
    width = round(edges[1] - edges[0])
    filled = len(columns) == 1
    for (name, counts), colour in zip(found.items(), colours, strict=False):
        axes.stairs(counts, edges, color=colour, fill=filled, linewidth=1.6, label=name)
    axes.set_ylabel("clients")
    axes.set_xlabel("records" if width == 1 else f"records (bins of {width})")


def histogram(
    columns: Mapping[str, Sequence[int]],
) -> tuple[list[float], dict[str, list[int]]]:
    """Edges of bins of equal width, and of each column how many values lie in each bin."""
    top = max(max(values) for values in columns.values())
    width = max(1, -(-(top + 1) // _BINS))
    edges = np.arange(0, top + 2 * width, width) - 0.5
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in columns.items()}
    return edges.tolist(), counts


def told(values: ArrayLike) -> str:
    """The spread of whole numbers as words."""
    found = quantiles(values)
    low, middle, high = (f"{found[k]:.10g}" for k in (0, 3, 6))
    return f"{low} to {high} (median {middle}; half of them {found[2]:.10g} to {found[4]:.10g})"


def some(things: Iterable[_Thing], count: int) -> list[_Thing]:
    """At most so many, from the whole of them evenly, the first and the last included."""
    every = list(things)
    if len(every) <= count:
        return every
    return [every[k] for k in np.linspace(0, len(every) - 1, count).round().astype(int)]
