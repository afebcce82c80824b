"""Who held what: the partition of a finished run, from its run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedsim.report.drawing import COLOURS, Picture, frame, legend_above, png, short, span
from fedsim.report.many import MANY, draw_histogram, histogram, told
from fedsim.report.plot import Area, Plot, axis, stairs
from fedsim.report.record import Record
from fedsim.report.text import typed

_BY_CLASS = (
    "Left, records by class; right, the share of each class's records that a client holds, with "
    "their number."
)
_MANY_BY_CLASS = (
    "Left, how many clients hold how many records; right, how the share of each class among a "
    "client's records is spread over clients (thin: all, thicker: 5 to 95 % and 25 to 75 % of the "
    "clients, line: the median, diamond: its share of all records), and how many hold any. The CSV "
    "has a line for each client."
)


def partition(record: Record) -> Picture | None:
    """Records of each client by class, or only their number where run.json holds no classes."""
    data = record.run["data"]
    sizes = data.get("sizes_by_client")
    if not sizes:
        return None
    classes, counts = data.get("classes"), data.get("classes_by_client")
    if classes and counts:
        return _by_class(record, classes, counts)
    return _by_size(record, sizes)


def _by_class(
    record: Record, classes: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> Picture:
    from fedsim.report.partition_picture import partition_picture

    # The picture counts labels by itself: give it as many as each client had.
    labels = [np.repeat(np.arange(len(classes)), row) for row in counts.values()]
    ends = np.cumsum([len(row) for row in labels])
    parts = {
        name: np.arange(end - len(row), end)
        for name, row, end in zip(counts, labels, ends.tolist(), strict=True)
    }
    title = f"Training records of each client\n{record.title}"
    with TemporaryDirectory(prefix="fedsim-") as folder:
        path = Path(folder) / "partition.png"
        everything = np.concatenate(labels)
        partition_picture(parts, everything, classes, path, title=title, note=record.note)
        image = path.read_bytes()
    return Picture(
        "partition",
        "Training records of each client",
        f"{_how(record)} {_MANY_BY_CLASS if len(counts) >= MANY else _BY_CLASS}",
        _held([sum(row) for row in counts.values()]),
        image,
        ("client", *classes),
        [(name, *row) for name, row in counts.items()],
        [_many_plot("", {"records": [sum(row) for row in counts.values()]})]
        if len(counts) >= MANY
        else [],
    )


def _by_size(record: Record, sizes: Mapping[str, Mapping[str, int]]) -> Picture:
    splits = list(dict.fromkeys(split for row in sizes.values() for split in row))
    title = "Records of each client"
    draw = _many_sizes if len(sizes) >= MANY else _each_size
    caption = "What each client holds of the training and validation split."
    if len(sizes) >= MANY:
        caption = (
            "How many clients hold how many records of the training and validation split. The CSV "
            "has a line for each client."
        )
    return Picture(
        "partition",
        title,
        f"{_how(record)} {caption}",
        _held([sum(row.values()) for row in sizes.values()]),
        draw(record, title, sizes, splits),
        ("client", *splits),
        [(name, *(row.get(split) for split in splits)) for name, row in sizes.items()],
        [
            _many_plot(split, {split: [row.get(split, 0) for row in sizes.values()]}, k)
            for k, split in enumerate(splits)
        ]
        if len(sizes) >= MANY
        else [],
    )


def _many_plot(title: str, columns: Mapping[str, Sequence[int]], colour: int = 0) -> Plot:
    """How many clients hold how many records, on a page."""
    edges, counts = histogram(columns)
    areas = [
        Area("", stairs([0] * len(values), edges), stairs(values, edges), colour, 0.75)
        for values in counts.values()
    ]
    every = [value for values in counts.values() for value in values]
    return Plot(
        title,
        axis("records of a client", edges, low=edges[0], high=edges[-1]),
        axis("clients", every, whole=True, low=0),
        areas=areas,
    )


def _each_size(
    record: Record, title: str, sizes: Mapping[str, Mapping[str, int]], splits: Sequence[str]
) -> bytes:
    """A bar for each client."""
    step = 0.26 if len(sizes) <= 40 else 0.13
    small = 9 if len(sizes) <= 40 else 6
    names = [short(name) for name in sizes]
    margin = 0.3 + max(map(len, names)) * small * 0.0085
    figure, (axes,) = frame(record, title, height=2.0 + step * len(sizes), left=margin)
    places, left = np.arange(len(sizes)), np.zeros(len(sizes))
    for k, split in enumerate(splits):
        values = np.array([row.get(split, 0) for row in sizes.values()])
        axes.barh(places, values, left=left, height=0.8, color=COLOURS[k], label=split)
        left += values
    axes.set_yticks(places, names, fontsize=small)
    axes.set_ylim(len(sizes) - 0.5, -0.5)
    axes.set_xlabel("records")
    axes.grid(visible=False, axis="y")
    legend_above(axes)
    return png(figure)


def _many_sizes(
    record: Record, title: str, sizes: Mapping[str, Mapping[str, int]], splits: Sequence[str]
) -> bytes:
    """How many clients hold how many records of each split."""
    figure, panels = frame(record, title, columns=len(splits))
    for axes, split, colour in zip(panels, splits, COLOURS, strict=False):
        values = [row.get(split, 0) for row in sizes.values()]
        draw_histogram(axes, {split: values}, [colour])
        legend_above(axes)
    return png(figure)


def _held(totals: Sequence[int]) -> str:
    """How many records the clients hold, as a sentence."""
    each = told(totals) if len(totals) >= MANY else span(totals, ".0f")
    return f"{len(totals)} clients hold {each} records each."


def _how(record: Record) -> str:
    block: dict[str, Any] = dict((record.scenario.get("federation") or {}).get("partition") or {})
    name = block.pop("name", None)
    settings = ", ".join(f"{key}={typed(value)}" for key, value in block.items())
    return f"Partition {name}{f' ({settings})' if settings else ''}." if name else ""
