"""Overlay sheets: image, truth and prediction of a typical case of each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.folder.runfolder import write_whole
from fedsim.report.drawing import COLOURS, Picture, png
from fedsim.report.many import MANY, some
from fedsim.tasks.segmentation.metrics import dice

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

    from fedsim.tasks.segmentation.task import Segmentation, Volumes

_CELL = 2.4  # inches
_SITES = 12  # drawn where there are many
_TITLES = ("image", "truth", "prediction")
# On grey pictures, yellow shows and black does not.
_FILLS = ("#F0E442", "#56B4E9", "#D55E00", *COLOURS[1:4])


@dataclass(frozen=True)
class Overlay:
    """One slice of a case, and how well the whole case was segmented.

    Attributes:
        site: name of the site.
        case: name of the case.
        slice: number of the slice, from 0.
        slices: how many the case has.
        image: [H, W], intensities on any scale.
        truth, prediction: classes [H, W], 0 is background.
        aspect: height of a voxel over its width.
        dice: of each structure in the whole volume, float64 [structures], NaN where undefined.
    """

    site: str
    case: str
    slice: int
    slices: int
    image: NDArray[np.floating]
    truth: NDArray[np.integer]
    prediction: NDArray[np.integer]
    aspect: float
    dice: NDArray[np.float64]


def typical_cases(counts: NDArray[np.int64], volumes: Volumes) -> list[int]:
    """The case of each site whose mean Dice is the site's median, the lower one of two.

    Neither the best nor the worst: a sheet of the best cases would promise too much.

    Args:
        counts: int64 [volumes, structures, 3], see `fedsim.tasks.segmentation.evaluation`.
        volumes: what was segmented.

    Returns:
        Positions, in the order of the sites; none for a site without a case that has a score.
    """
    each = dice(counts)
    defined = ~np.isnan(each)
    scored = defined.any(axis=1)
    mean = np.where(defined, each, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)
    chosen = []
    for code in range(len(volumes.site_names)):
        here = np.flatnonzero(scored & (volumes.sites == code))
        if len(here):
            order = here[np.argsort(mean[here], kind="stable")]
            chosen.append(int(order[(len(order) - 1) // 2]))
    return chosen


def overlays(
    model: torch.nn.Module,
    volumes: Volumes,
    counts: NDArray[np.int64],
    task: Segmentation,
    device: torch.device,
) -> list[Overlay]:
    """Segment the typical case of each site, and take the slice that shows most of it.

    Args:
        model: in any mode; left in evaluation mode.
        volumes: the cases; from `MANY` sites on, those of a dozen of them are taken.
        counts: what the model's predictions on them counted, int64 [volumes, structures, 3].
        task: names the structures.
        device: where to compute.
    """
    from fedsim.tasks.segmentation.inference import segment

    model.to(device).eval()
    found = []
    positions = typical_cases(counts, volumes)
    if len(positions) >= MANY:
        positions = some(positions, _SITES)
    for position in positions:
        image, labels = volumes.volume(position)
        prediction = segment(model, image, task.patch, device)
        truth = labels.numpy()
        # Most structures first, then most voxels of any.
        kinds = sum((truth == k).any(axis=(1, 2)).astype(int) for k in range(1, task.num_classes))
        place = int(np.lexsort(((truth > 0).sum(axis=(1, 2)), kinds))[-1])
        spacing = np.asarray(volumes.spacing[position])
        found.append(
            Overlay(
                volumes.site_names[int(volumes.sites[position])],
                volumes.ids[position],
                place,
                len(truth),
                image[0, place].numpy(),
                truth[place],
                prediction[place],
                float(spacing[1] / spacing[2]),
                dice(counts[position]),
            )
        )
    return found


def sheet(
    cases: Sequence[Overlay], structures: Sequence[str], title: str, note: str = ""
) -> Picture:
    """Draw a row of image, truth and prediction for each case.

    Args:
        cases: at least one.
        structures: names of the classes 1, 2, ...
        title: the run, for instance.
        note: what must not be missed, such as that the data are a stand-in.

    Raises:
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("There is no case to draw.")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    left, above, below = 1.75, 0.95, 0.85 if note else 0.45  # inches
    width, height = left + 3 * _CELL + 0.1, above + len(cases) * (_CELL + 0.1) + below
    figure = Figure(figsize=(width, height), dpi=100)
    grid = figure.subplots(
        len(cases),
        3,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": 1 - 0.1 / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "wspace": 0.04,
            "hspace": 0.04,
        },
    )
    for case, line in zip(cases, grid, strict=True):
        for axes, classes in zip(line, (None, case.truth, case.prediction), strict=True):
            _draw(axes, case, classes, len(structures))
        scores = [
            f"{name} {'-' if np.isnan(score) else format(score, '.2f')}"
            for name, score in zip(structures, case.dice, strict=True)
        ]
        words = [case.case, f"slice {case.slice + 1} of {case.slices}", "", "Dice of the volume:"]
        box = line[0].get_position()
        for text, weight, down in (
            (case.site, "bold", 0.0),
            ("\n".join(words + scores), None, 0.2),
        ):
            figure.text(
                0.1 / width,
                box.y1 - (0.1 + down) / height,
                text,
                fontsize=9,
                fontweight=weight,
                va="top",
                linespacing=1.35,
            )
    for axes, name in zip(grid[0], _TITLES, strict=True):
        axes.set_title(name, fontsize=10, pad=4)
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=11, va="top")
    figure.legend(
        handles=[Patch(color=_colour(k), label=name) for k, name in enumerate(structures)],
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.3 / height),
        ncols=min(len(structures), 5),
        frameon=False,
        fontsize=9,
    )
    which = "Of each site the case whose mean Dice is the site's median."
    figure.text(0.1 / width, (below - 0.28) / height, which, fontsize=9)
    if note:
        box_style = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.12 / width, 0.16 / height, note, fontsize=9, bbox=box_style)
    return Picture(
        "overlays",
        "Image, truth and prediction",
        "Of each site the test case whose mean Dice is the site's median, and of it the slice that "
        "shows most structures. Filled: the class of each voxel.",
        "; ".join(f"{case.site}, {case.case}: {_spoken(case, structures)}" for case in cases),
        png(figure),
        ("site", "case", "slice", *(f"dice/{name}" for name in structures)),
        [
            (
                case.site,
                case.case,
                case.slice,
                *(None if np.isnan(s) else float(s) for s in case.dice),
            )
            for case in cases
        ],
    )


def save_overlays(
    folder: Path,
    cases: Sequence[Overlay],
    structures: Sequence[str],
    title: str,
    note: str = "",
) -> None:
    """Write `overlays.png` and the numbers on it, `overlays.csv`; nothing without cases."""
    if cases:
        picture = sheet(cases, structures, title, note)
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.csv", picture.csv)


def _draw(axes: Axes, case: Overlay, classes: NDArray[np.integer] | None, structures: int) -> None:
    low, high = np.percentile(case.image, (1, 99))
    look: dict[str, Any] = {"aspect": case.aspect, "interpolation": "nearest"}
    axes.imshow(case.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), **look)
    if classes is not None:
        from matplotlib.colors import to_rgba

        fill = np.array([(0.0,) * 4, *(to_rgba(_colour(k), 0.6) for k in range(structures))])
        axes.imshow(fill[classes], **look)
    axes.axis("off")


def _spoken(case: Overlay, structures: Sequence[str]) -> str:
    return ", ".join(
        f"{name} {'undefined' if np.isnan(score) else format(score, '.2f')}"
        for name, score in zip(structures, case.dice, strict=True)
    )


def _colour(k: int) -> str:
    return _FILLS[k % len(_FILLS)]
