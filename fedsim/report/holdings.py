"""Who held what: the partition of a finished run, from its run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedsim.report.drawing import COLOURS, Picture, frame, legend_above, png, span
from fedsim.report.record import Record


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
        f"{_how(record)} Left, records by class; right, the share of each class's records that a "
        "client holds, with their number.",
        f"{len(counts)} clients hold {span(map(sum, counts.values()), '.0f')} records each.",
        image,
        ("client", *classes),
        [(name, *row) for name, row in counts.items()],
    )


def _by_size(record: Record, sizes: Mapping[str, Mapping[str, int]]) -> Picture:
    splits = list(dict.fromkeys(split for row in sizes.values() for split in row))
    step = 0.26 if len(sizes) <= 40 else 0.13
    title = "Records of each client"
    small = 9 if len(sizes) <= 40 else 6
    margin = 0.3 + max(map(len, sizes)) * small * 0.0085
    figure, (axes,) = frame(record, title, height=2.0 + step * len(sizes), left=margin)
    places, left = np.arange(len(sizes)), np.zeros(len(sizes))
    for k, split in enumerate(splits):
        values = np.array([row.get(split, 0) for row in sizes.values()])
        axes.barh(places, values, left=left, height=0.8, color=COLOURS[k], label=split)
        left += values
    axes.set_yticks(places, list(sizes), fontsize=small)
    axes.set_ylim(len(sizes) - 0.5, -0.5)
    axes.set_xlabel("records")
    axes.grid(visible=False, axis="y")
    legend_above(axes)
    return Picture(
        "partition",
        title,
        f"{_how(record)} What each client holds of the training and validation split.",
        f"{len(sizes)} clients hold {span(left.tolist(), '.0f')} records each.",
        png(figure),
        ("client", *splits),
        [(name, *(row.get(split) for split in splits)) for name, row in sizes.items()],
    )


def _how(record: Record) -> str:
    block: dict[str, Any] = dict((record.scenario.get("federation") or {}).get("partition") or {})
    name = block.pop("name", None)
    settings = ", ".join(f"{key}={value}" for key, value in block.items())
    return f"Partition {name}{f' ({settings})' if settings else ''}." if name else ""
