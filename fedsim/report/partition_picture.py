"""A picture of who holds what: each client's records by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.folder.runfolder import write_named
from fedsim.report.drawing import png, short
from fedsim.report.many import MANY, draw_histogram, draw_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart, without black.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_ROOMY = 40  # clients up to which rows are drawn at full height
_LEGEND_LETTERS = 64  # that fit beside each other above the bars
_UPRIGHT_LETTERS = 9  # class names up to this length stand upright above the map


def partition_picture(
    parts: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
    note: str = "",
) -> None:
    """Save a picture of a partition as PNG.

    Left, a bar for each client, stacked by class, in records. Right, what share of each class's
    records the client holds, with the number of records: a rare class, invisible among the bars, is
    as visible as the others there.

    From `MANY` clients on: left, how many clients hold how many records; right, for each class, how
    its share of a client's records is spread over clients, and how many hold any.

    Args:
        parts: positions of each client's records, by client name, drawn from top to bottom.
        labels: int64 [n], positions in `classes`.
        classes: class names in label order.
        path: where to write; the file is there whole or not at all.
        title: says what is divided, and how.
        note: a line that must not be missed, such as that the data are a stand-in.
    """
    from fedsim.data.partition import class_table

    rows = class_table(parts, labels, classes)
    table = np.array([row.counts for row in rows])
    classes = [short(name) for name in classes]
    below = 1.0 if note else 0.6  # inches
    if len(rows) >= MANY:
        figure, height = _many_clients(table, classes, below)
    else:
        figure, height = _each_client(table, [short(row.client) for row in rows], classes, below)
    figure.suptitle(
        "\n".join(short(line, 110) for line in title.split("\n")),
        x=0.012,
        ha="left",
        y=1 - 0.1 / height,
        va="top",
    )
    if note:
        box = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.012, 0.14 / height, note, fontsize=10, bbox=box)
    write_named(path, png(figure))


def _each_client(
    table: np.ndarray, names: Sequence[str], classes: Sequence[str], below: float
) -> tuple[Figure, float]:
    """A row for each client; the figure and its height in inches."""
    from matplotlib.figure import Figure

    step = 0.3 if len(names) <= _ROOMY else 0.16  # inches a client
    size = 9 if len(names) <= _ROOMY else 7
    longest = max(map(len, classes))
    columns = max(1, min(len(classes), _LEGEND_LETTERS // (longest + 4)))
    slanted = longest > _UPRIGHT_LETTERS
    tallest = max(0.2 * -(-len(classes) // columns), 0.055 * longest if slanted else 0)
    above = 0.6 + tallest  # inches
    height = max(1.2, step * len(names)) + above + below
    width = 9 + 0.55 * len(classes)
    figure = Figure(figsize=(width, height), dpi=120)
    bars, shares = figure.subplots(
        1,
        2,
        gridspec_kw={
            "width_ratios": [6, max(2.0, 0.85 * len(classes))],
            "left": _margin(names, size) / width,
            "right": 1 - (0.15 + (0.05 * longest if slanted else 0)) / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": 0.04,
        },
    )
    _draw_bars(bars, table, names, classes, size, columns)
    _draw_shares(shares, table, classes, size)
    return figure, height


def _many_clients(table: np.ndarray, classes: Sequence[str], below: float) -> tuple[Figure, float]:
    """How records and classes are spread over clients; the figure and its height in inches."""
    from matplotlib.figure import Figure

    above, width = 0.95, 11.0  # inches
    height = max(2.6, 0.36 * len(classes)) + above + below
    between = _margin(classes, 9) + 0.45
    plots = width - 0.8 - between - 1.35
    figure = Figure(figsize=(width, height), dpi=120)
    sizes, shares = figure.subplots(
        1,
        2,
        gridspec_kw={
            "left": 0.8 / width,
            "right": 1 - 1.35 / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": 2 * between / plots,
        },
    )
    totals = table.sum(axis=1)
    draw_histogram(sizes, {"records": totals.tolist()}, _COLOURS)
    middle = float(np.median(totals))
    sizes.axvline(middle, color="black", linewidth=1)
    sizes.set_title(f"{len(table)} clients; median {middle:.10g} records", fontsize=10, loc="left")
    sizes.set_xlim(left=min(0, sizes.get_xlim()[0]))
    held = table / np.maximum(1, totals)[:, None]
    overall = table.sum(axis=0) / max(1, int(totals.sum()))
    there = totals > 0
    for k in range(len(classes)):
        draw_spread(shares, k, held[there, k] if there.any() else [0.0], _COLOURS[0])
        any_of_it = int((table[:, k] > 0).sum())
        shares.annotate(
            f" {any_of_it} clients",
            (1, k),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    shares.plot(overall, np.arange(len(classes)), "D", color=_COLOURS[5], markersize=5, zorder=5)
    shares.set_yticks(np.arange(len(classes)), classes, fontsize=9)
    shares.set_ylim(len(classes) - 0.5, -0.5)
    shares.set_xlim(-0.01, 1.01)
    shares.set_xlabel("share of a client's records: all, 5-95 %, 25-75 %, median; ◆ of all records")
    shares.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    shares.set_title("classes at the clients, and how many have any", fontsize=10, loc="left")
    for axes in (sizes, shares):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, height


def _margin(names: Sequence[str], size: int) -> float:
    """Inches that the longest client name needs."""
    return 0.3 + max(map(len, names)) * size * 0.0085


def _draw_bars(
    axes: Axes,
    table: np.ndarray,
    names: Sequence[str],
    classes: Sequence[str],
    size: int,
    columns: int,
) -> None:
    """Stacked bars with each client's total at the end."""
    from matplotlib import colormaps

    if len(classes) <= len(_COLOURS):
        colours: Sequence[object] = _COLOURS
    else:
        colours = [colormaps["viridis"](k / (len(classes) - 1)) for k in range(len(classes))]
    places = np.arange(len(names))
    totals = table.sum(axis=1)
    left = np.zeros(len(names), dtype=np.int64)
    for k, name in enumerate(classes):
        axes.barh(
            places, table[:, k], left=left, height=0.8, color=colours[k], label=name, linewidth=0
        )
        left += table[:, k]
    for place, total in zip(places, totals, strict=True):
        axes.annotate(
            f" {total}", (total, place), va="center", fontsize=size, annotation_clip=False
        )
    axes.set_yticks(places, names, fontsize=size)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max(1, totals.max()))
    axes.set_xlabel("records")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1,
        columnspacing=1,
        borderaxespad=0.1,
    )


def _draw_shares(axes: Axes, table: np.ndarray, classes: Sequence[str], size: int) -> None:
    """A map of the share of each class's records that each client holds."""
    shares = table / np.maximum(1, table.sum(axis=0))
    # Twice a fair share at least: an even partition is neither all dark nor noise blown up.
    ceiling = min(1.0, max(float(shares.max()), 2 / len(table)))
    axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=ceiling)
    axes.set_xticks(np.arange(len(classes)), classes, fontsize=9)
    axes.xaxis.tick_top()
    if max(map(len, classes)) > _UPRIGHT_LETTERS:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.set_yticks([])
    for k in range(1, len(classes)):
        axes.axvline(k - 0.5, color="white", linewidth=1.5)
    axes.set_xlabel(f"share of the class (darkest {ceiling:.0%})")
    if len(table) > _ROOMY:
        size = 6
    for (place, k), count in np.ndenumerate(table):
        colour = "white" if shares[place, k] > 0.6 * ceiling else "black"
        axes.text(k, place, str(count), ha="center", va="center", fontsize=size, color=colour)
