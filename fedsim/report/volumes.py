"""What `fedsim data` prints and draws of volumes: sites side by side, with outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedsim.folder.runfolder import write_named
from fedsim.report.drawing import COLOURS, png
from fedsim.report.many import MANY, some, spread_lines
from fedsim.report.text import aligned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsim.data.volumes.store import VolumeStore
    from fedsim.data.volumes.views import VolumeView

_CELL = 2.3  # inches
_SITES = 12  # drawn beside each other
_ALONE = 6  # cases drawn where there is one column only
# On grey pictures, yellow shows and black does not.
_OUTLINES = ("#F0E442", "#56B4E9", "#D55E00", *COLOURS[1:4])
_STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")


def store_lines(name: str, store: VolumeStore) -> list[str]:
    """What a store of volumes holds and where it came from."""
    origin = (
        f"EMBEDDED STAND-IN for {name} (generated volumes, not real data)"
        if store.source == "embedded"
        else f"{name} from {store.root}"
    )
    lines = [f"{origin}: {len(store)} volumes, outlines of {', '.join(store.structures)}"]
    lines += [f"data: {note}" for note in store.notes]
    if store.skipped:
        lines.append(f"problems of cases that were left out: {len(store.skipped)}")
    lines.append(f"prepared in {store.folder}")
    return lines


def site_lines(store: VolumeStore) -> list[str]:
    """A table of the sites: cases, voxels, spacing, and how many cases show each structure.

    Of many sites, how these numbers are spread over them.
    """
    shown = np.array([_structures_of(store, case) for case in range(len(store))])
    if len(store.site_names) >= MANY:
        here = [store.sites == code for code in range(len(store.site_names))]
        columns = {"cases": [int(one.sum()) for one in here]}
        for k, name in enumerate(store.structures):
            columns[name] = [int(shown[one, k].sum()) for one in here]
        return aligned(spread_lines(f"of {len(here)} sites", columns))
    table = [["site", "cases", "slices", "rows x columns", "spacing (mm)", *store.structures]]
    for code, site in enumerate(store.site_names):
        cases = store.sites == code
        depth, rows, columns_ = (_span(store.shapes[cases, axis]) for axis in range(3))
        spacing = " x ".join(f"{length:.2f}" for length in store.spacing[cases].mean(axis=0))
        counts = [str(count) for count in shown[cases].sum(axis=0)]
        table.append([site, str(cases.sum()), depth, f"{rows} x {columns_}", spacing, *counts])
    return aligned(table)


def client_lines(
    store: VolumeStore, clients: Mapping[str, np.ndarray], split: Mapping[str, np.ndarray]
) -> list[str]:
    """A table of who holds how many cases of which site.

    Many sites have no columns of their own, and of many clients it is told how their cases are
    spread over them.

    Args:
        store: the data.
        clients: positions of each client's training cases.
        split: positions by side of the split.
    """
    few = len(store.site_names) < MANY
    names = list(store.site_names) if few else []

    def counts(positions: np.ndarray) -> list[int]:
        each = np.bincount(store.sites[positions], minlength=len(store.site_names)).tolist()
        return [*(each if few else []), len(positions)]

    rows: list[Sequence[str]] = [["client", *names, "all"]]
    if len(clients) >= MANY:
        columns = zip(*map(counts, clients.values()), strict=True)
        spread = dict(zip([*names, "all"], columns, strict=True))
        rows = list(spread_lines(f"of {len(clients)} clients", spread))
    else:
        rows += [[name, *map(str, counts(held))] for name, held in clients.items()]
    rows += [[f"({side})", *map(str, counts(held))] for side, held in split.items()]
    return aligned(rows)


def by_site(store: VolumeStore) -> dict[str, VolumeView]:
    """The cases of every site, for `save_volumes`."""
    from fedsim.data.volumes.views import VolumeView

    return {
        name: VolumeView(store, np.flatnonzero(store.sites == code))
        for code, name in enumerate(store.site_names)
    }


def save_sites(store: VolumeStore, name: str, path: Path) -> None:
    """Save a picture of two cases of every site, side by side; of a dozen, where there are more."""
    note = "embedded stand-in: generated volumes, not real data"
    title = f"{name}: two cases of each site"
    if len(store.site_names) == 1:
        title = f"{name}: cases of its only site"
    sites = by_site(store)
    if len(sites) > _SITES:
        title = f"{name}: two cases each of {_SITES} of its {len(sites)} sites"
        sites = {site: sites[site] for site in some(sites, _SITES)}
    save_volumes(
        sites,
        store.structures,
        path,
        title=title,
        note=note if store.source == "embedded" else "",
    )


def save_volumes(
    columns: Mapping[str, VolumeView],
    structures: Sequence[str],
    path: Path,
    *,
    title: str,
    note: str = "",
    cases: int = 2,
) -> None:
    """Save a picture of volumes with outlines as PNG: for each case, the slice that shows most.

    Args:
        columns: what stands side by side: sites, or clients with their own labels.
        structures: names of the label values 1, 2, ...
        path: where to write; the file is there whole or not at all.
        title: says what is shown.
        note: a line that must not be missed, such as that the data are a stand-in.
        cases: how many of each column, below each other; a single column shows more, in rows.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    cells = [
        [(name if row == 0 else "", view, row) for name, view in columns.items() if row < len(view)]
        for row in range(cases)
    ]
    if len(columns) == 1:
        ((name, view),) = columns.items()
        shown = [(name if i == 0 else "", view, i) for i in range(min(_ALONE, len(view)))]
        wide = len(shown) if len(shown) <= _ALONE // 2 else -(-len(shown) // 2)
        cells = [line for line in (shown[:wide], shown[wide:]) if line]
    rows, wide = len(cells), max(map(len, cells))
    above, below = 0.75, 1.05 if note else 0.65  # inches
    between = 0.4
    height = rows * _CELL + (rows - 1) * between + above + below
    width = max(wide * _CELL, 5.0) + 0.2
    figure = Figure(figsize=(width, height), dpi=110)
    grid = figure.subplots(
        rows,
        wide,
        squeeze=False,
        gridspec_kw={
            "left": 0.1 / width,
            "right": 1 - 0.1 / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": 0.06,
            "hspace": between / _CELL,
        },
    )
    for axes in grid.flat:
        axes.axis("off")
    for line, axes_line in zip(cells, grid, strict=True):
        for (name, view, position), axes in zip(line, axes_line, strict=False):
            _draw(axes, view, position, len(structures))
            if name:
                axes.set_title(name, fontsize=11, fontweight="bold", pad=4)
    figure.suptitle(title, x=0.1 / width, ha="left", y=1 - 0.1 / height, va="top", fontsize=12)
    handles = [
        Line2D([], [], color=_colour(k), linestyle=_style(k), linewidth=2.5, label=name)
        for k, name in enumerate(structures)
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, (below - 0.65) / height),
        ncols=min(len(handles), 4),
        frameon=False,
        fontsize=10,
    )
    if note:
        box = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.12 / width, 0.14 / height, note, fontsize=9, bbox=box)
    write_named(path, png(figure))


def _draw(axes: Axes, view: VolumeView, position: int, structures: int) -> None:
    """One slice: the one that shows most structures, of these the one with most of them."""
    image, label = (part.numpy() for part in view.volume(position))
    there = [(label == value).any(axis=(1, 2)) for value in range(1, structures + 1)]
    depth = int(np.lexsort(((label > 0).sum(axis=(1, 2)), np.sum(there, axis=0)))[-1])
    plane, outlines = image[0, depth], label[depth]
    spacing = view.spacing[position]
    low, high = np.percentile(image, (1, 99))
    axes.imshow(
        plane,
        cmap="gray",
        vmin=low,
        vmax=high,
        aspect=float(spacing[1] / spacing[2]),
        interpolation="nearest",
    )
    for k in range(structures):
        mask = outlines == k + 1
        if mask.any() and not mask.all():
            axes.contour(
                mask.astype(np.float64),
                [0.5],
                colors=[_colour(k)],
                linestyles=[_style(k)],
                linewidths=1.4,
            )
    words = f"{view.ids[position]}, slice {depth + 1} of {len(label)}"
    axes.text(
        0.5,
        -0.03,
        words,
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=8,
        clip_on=False,
    )


def _structures_of(store: VolumeStore, case: int) -> list[bool]:
    label = store.label(case)
    return [bool((label == value).any()) for value in range(1, len(store.structures) + 1)]


def _colour(k: int) -> str:
    return _OUTLINES[k % len(_OUTLINES)]


def _style(k: int) -> Literal["-", "--", "-.", ":"]:
    return _STYLES[k // len(_OUTLINES) % len(_STYLES)]


def _span(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}-{high}"
