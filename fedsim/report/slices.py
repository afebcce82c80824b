"""What `fedsim data` prints and draws of complex slices, and sheets of reconstructed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.folder.runfolder import write_named, write_whole
from fedsim.report.drawing import Picture, png
from fedsim.report.many import MANY, some, spread_lines
from fedsim.report.text import aligned

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from fedsim.data.slices.store import SliceStore
    from fedsim.tasks.reconstruction.task import Reconstruction

_CELL = 2.1  # inches
_SITES = 12  # drawn where there are many
_ENLARGED = 5
"""What errors are multiplied by in a picture."""
_COLUMNS = ("zero-filled", "reconstruction", "truth", f"error x {_ENLARGED}")


def store_lines(name: str, store: SliceStore) -> list[str]:
    """What a store of slices holds, where it came from, and what is measured of it."""
    origin = (
        f"EMBEDDED STAND-IN for {name} (generated slices, not real data)"
        if store.source == "embedded"
        else f"{name} from {store.root}"
    )
    patients = len(np.unique(store.groups))
    how = store.sampling
    kind = "lines at random" if how.pattern == "lines" else "Poisson points"
    lines = [
        f"{origin}: {len(store)} complex slices of {store.size}x{store.size} px, "
        f"{patients} patients",
        f"measured: {kind}, one part in {how.acceleration:g} of k-space, {how.centre} of 256 lines "
        "in the middle",
    ]
    lines += [f"data: {note}" for note in store.notes]
    if store.skipped:
        lines.append(f"left out because they cannot be used: {len(store.skipped)}")
    lines.append(f"prepared in {store.folder}")
    return lines


def client_lines(
    store: SliceStore, clients: Mapping[str, NDArray[np.int64]], split: Mapping[str, Any]
) -> list[str]:
    """A table of who holds how many slices of which site, and the sizes of the splits."""
    rows = {**clients, **{f"({name})": positions for name, positions in split.items()}}
    sites = range(len(store.site_names))
    counts = {
        name: [int((store.sites[positions] == code).sum()) for code in sites]
        for name, positions in rows.items()
    }
    if len(clients) >= MANY:
        held = {"slices": [len(positions) for positions in clients.values()]}
        return aligned(spread_lines(f"of {len(clients)} clients", held))
    table = [("client", *store.site_names, "all")]
    table += [(name, *map(str, row), str(sum(row))) for name, row in counts.items()]
    return aligned(table)


def save_sites(store: SliceStore, task: Reconstruction, name: str, path: Path) -> None:
    """Draw a slice of every site: magnitude, phase, mask, zero-filled.

    Raises:
        InputError: the picture cannot be written there.
    """
    import torch

    from fedsim.tasks.reconstruction import magnitude, zero_filled

    chosen = [int(np.flatnonzero(store.sites == k)[0]) for k in np.unique(store.sites)]
    if len(chosen) >= MANY:
        chosen = some(chosen, _SITES)
    figure = _figure(len(chosen), f"{name}: a slice of every site")
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    for line, record in zip(grid, chosen, strict=True):
        image = torch.from_numpy(np.array(store.images[record]))[None]
        mask = task.masks_of(np.array([record]))
        seen = magnitude(zero_filled(image, mask))[0].numpy()
        phase = np.arctan2(image[0, 1].numpy(), image[0, 0].numpy())
        whole = magnitude(image)[0].numpy()
        parts = ((whole, "gray"), (phase, "twilight"), (mask[0, 0].numpy(), "gray"), (seen, "gray"))
        for axes, (shown, colours) in zip(line, parts, strict=True):
            axes.imshow(shown, cmap=colours, interpolation="nearest")
            axes.axis("off")
        line[0].set_title(store.site_names[int(store.sites[record])], fontsize=9, loc="left")
    for axes, title in zip(grid[0][1:], ("phase", "mask", "zero-filled"), strict=True):
        axes.set_title(title, fontsize=9)
    write_named(path, png(figure))


@dataclass(frozen=True)
class Reconstructed:
    """A slice as it was seen, reconstructed and true: magnitudes [H, W], and its scores.

    Attributes:
        site, name: of the slice.
        seen, found, truth: zero-filled, reconstruction, truth.
        psnr, ssim, psnr_seen: of the reconstruction, and PSNR of the zero-filled slice, in dB.
    """

    site: str
    name: str
    seen: NDArray[np.float32]
    found: NDArray[np.float32]
    truth: NDArray[np.float32]
    psnr: float
    ssim: float
    psnr_seen: float


def typical_slices(predicted: NDArray[np.float64], view: Any) -> list[int]:
    """The slice of each site whose PSNR is the site's median, the lower one of two."""
    found = []
    for code in range(len(view.site_names)):
        here = np.flatnonzero(view.sites == code)
        if len(here):
            order = here[np.argsort(predicted[here, 0], kind="stable")]
            found.append(int(order[(len(order) - 1) // 2]))
    return some(found, _SITES) if len(found) >= MANY else found


def reconstructed(
    model: torch.nn.Module,
    view: Any,
    predicted: NDArray[np.float64],
    task: Reconstruction,
    device: torch.device,
) -> list[Reconstructed]:
    """Reconstruct the typical slice of each site.

    Args:
        model: in any mode; left in evaluation mode.
        view: test slices.
        predicted: what the task's `predict` gave for them.
        task: has the masks.
        device: where to compute.
    """
    import torch

    from fedsim.tasks.reconstruction import magnitude, model_input

    model.to(device).eval()
    slices = []
    for position in typical_slices(predicted, view):
        image = view.images(np.array([position]))
        given = model_input(image, task.masks_of(view.indices[[position]]))
        with torch.inference_mode():
            found = model(given.to(device)).cpu()
        psnr, ssim, psnr_seen = map(float, predicted[position])
        seen, made, truth = (magnitude(one)[0].numpy() for one in (given[:, :2], found, image))
        site = view.site_names[int(view.sites[position])]
        name = view.ids[position]
        slices.append(Reconstructed(site, name, seen, made, truth, psnr, ssim, psnr_seen))
    return slices


def sheet(slices: Sequence[Reconstructed], title: str, note: str = "") -> Picture:
    """Draw a row of zero-filled, reconstruction, truth and error for each slice.

    Args:
        slices: at least one.
        title: the run, for instance.
        note: what must not be missed, such as that the data are a stand-in.

    Raises:
        ValueError: no slices.
    """
    if not slices:
        raise ValueError("There is no slice to draw.")
    figure = _figure(len(slices), title, note)
    grid = figure.subplots(len(slices), 4, squeeze=False)
    for one, line in zip(slices, grid, strict=True):
        peak = float(one.truth.max()) or 1.0
        error = _ENLARGED * np.abs(one.found - one.truth)
        for axes, shown in zip(line, (one.seen, one.found, one.truth, error), strict=True):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=peak, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(one.site, fontsize=9)
        line[0].set_xlabel(f"{one.psnr_seen:.1f} dB", fontsize=8)
        line[1].set_xlabel(f"{one.psnr:.1f} dB, SSIM {one.ssim:.3f}", fontsize=8)
    for axes, column in zip(grid[0], _COLUMNS, strict=True):
        axes.set_title(column, fontsize=9)
    return Picture(
        "slices",
        "Zero-filled, reconstruction, truth and error",
        "Of each site the test slice whose PSNR is the site's median. The error is multiplied by "
        f"{_ENLARGED}.",
        "; ".join(f"{one.site}: {one.psnr_seen:.1f} to {one.psnr:.1f} dB" for one in slices),
        png(figure),
        ("site", "slice", "psnr", "ssim", "psnr_zero_filled"),
        [(one.site, one.name, one.psnr, one.ssim, one.psnr_seen) for one in slices],
    )


def save_reconstructions(
    folder: Path,
    model: torch.nn.Module,
    view: Any,
    predicted: NDArray[np.float64],
    task: Reconstruction,
    device: torch.device,
    *,
    title: str,
    note: str,
) -> None:
    """Write `slices.png` and the numbers on it, `slices.csv`; nothing without slices."""
    slices = reconstructed(model, view, predicted, task, device)
    if slices:
        picture = sheet(slices, f"{title}: typical test slices", note)
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.csv", picture.csv)
    gates = getattr(model, "gates", None)
    if gates is not None:
        found = architecture(gates.detach().cpu().numpy(), title, note)
        write_whole(folder / f"{found.name}.png", found.png)
        write_whole(folder / f"{found.name}.csv", found.csv)


def architecture(gates: NDArray[np.float32], title: str, note: str = "") -> Picture:
    """Draw the cell of a searched network: inputs, nodes, and the operation of each edge.

    Args:
        gates: zeros and ones [edges, operations], see `fedsim.models.auto_mri`; all ones: nothing
            was derived, and edges are drawn without a name.
        title: the run, for instance.
        note: what must not be missed.
    """
    from matplotlib.figure import Figure

    from fedsim.models.auto_mri import EDGES, NODES, searching, told

    mixed = searching(gates)
    edges = [(*edge, "mixture") for edge in EDGES] if mixed else told(gates)
    figure = Figure(figsize=(8, 4.4), dpi=100)
    axes = figure.add_axes((0.02, 0.12, 0.96, 0.74))
    axes.set_axis_off()
    axes.set_xlim(-0.6, NODES + 1.7)
    axes.set_ylim(-1.6, 1.6)
    places = {0: (0.0, 0.9), 1: (0.0, -0.9)}
    # No edge from an input passes behind a node.
    places |= {2 + node: (node + 1.0, (0.35, -0.95, 0.95)[node % 3]) for node in range(NODES)}
    end = (NODES + 1.2, 0.0)
    for node, source, name in edges:
        start, stop = places[source], places[2 + node]
        arrow = {"arrowstyle": "->", "color": "#444444", "shrinkA": 16, "shrinkB": 16}
        axes.annotate("", stop, start, arrowprops=arrow)
        # Names of edges that cross stand apart.
        along = (0.3, 0.75, 0.3)[node % 3] if source < 2 else 0.35
        x, y = ((1 - along) * a + along * b for a, b in zip(start, stop, strict=True))
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "pad": 0.1}
        axes.text(x, y, name, fontsize=7, ha="center", va="center", bbox=box)
    for node in range(NODES):
        arrow = {"arrowstyle": "->", "color": "#BBBBBB", "shrinkA": 16, "shrinkB": 16}
        axes.annotate("", end, places[2 + node], arrowprops=arrow)
    names = {0: "input 1", 1: "input 2", **{2 + k: f"node {k + 1}" for k in range(NODES)}}
    for key, name in {**names, -1: "sum"}.items():
        circle = {"boxstyle": "round", "facecolor": "#DCEAF7", "edgecolor": "#0072B2"}
        axes.text(*places.get(key, end), name, fontsize=8, ha="center", va="center", bbox=circle)
    figure.text(0.02, 0.94, f"{title}: the architecture of a cell", fontsize=11)
    if note:
        box = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.02, 0.04, note, fontsize=9, bbox=box)
    return Picture(
        "architecture",
        "The architecture of a cell",
        "Each node sums what its edges make of their sources; the cell gives the nodes' sum.",
        "; ".join(f"node {node + 1} from {names[source]}: {name}" for node, source, name in edges),
        png(figure),
        ("node", "source", "operation"),
        [(node + 1, names[source], name) for node, source, name in edges],
    )


def _figure(rows: int, title: str, note: str = "") -> Figure:
    """A figure with room for rows of four square pictures."""
    from matplotlib.figure import Figure

    above, below = 0.65, 0.6 if note else 0.3
    width, height = 4 * _CELL + 0.6, above + rows * (_CELL + 0.2) + below
    figure = Figure(figsize=(width, height), dpi=100)
    figure.subplots_adjust(
        left=0.4 / width,
        right=1 - 0.1 / width,
        top=1 - above / height,
        bottom=below / height,
        wspace=0.04,
        hspace=0.16,
    )
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=11, va="top")
    if note:
        box = {"boxstyle": "round", "facecolor": "#FFF3C4", "edgecolor": "#B08900"}
        figure.text(0.12 / width, 0.14 / height, note, fontsize=9, bbox=box)
    return figure
