"""What `fedsim data` prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.registry import default_registry
from fedsim.report.many import MANY, spread_lines
from fedsim.report.partition_picture import partition_picture
from fedsim.report.paths import without_paths
from fedsim.report.text import aligned, positive_note, typed

if TYPE_CHECKING:
    from fedsim.data.store import Store
    from fedsim.federation.holdings import Federation
    from fedsim.scenario import Scenario


def status_lines(only: str | None = None) -> list[str]:
    """Where each data set's files are looked for, whether they are there, and the cache's size.

    Args:
        only: tell of this data set alone, and how its folder must look.
    """
    from fedsim.files import cache_folder

    lines = []
    base = os.environ.get("FEDSIM_DATA")
    names = default_registry().names("datasets") if only is None else [only]
    width = max(map(len, names))
    for name in names:
        stand_in = default_registry().resolve("datasets", name).embedded is not None
        without = "without data.root its embedded stand-in is generated"
        if not stand_in:
            without = "data.root is needed"
        if base is None:
            state = f"FEDSIM_DATA is not set; {without}"
        elif (Path(base) / name).is_dir():
            state = f"found in {Path(base) / name}"
        else:
            state = f"not in {Path(base) / name}; {without}"
        lines.append(f"{name:<{width}}  {state}")
    if only is not None:
        layout = getattr(default_registry().resolve("datasets", only), "layout", "")
        lines += [f"data.root=DIR reads a folder; expected there: {layout}"] if layout else []
    cache = cache_folder()
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    lines.append(f"prepared data: {cache} ({size / 1e6:.1f} MB; safe to delete)")
    return lines


def store_lines(name: str, store: Store) -> list[str]:
    """What a store holds and where it came from."""
    origin = (
        f"EMBEDDED STAND-IN for {name} (generated images, not real data)"
        if store.source == "embedded"
        else f"{name} from {store.root}"
    )
    count, height, width, _ = store.images.shape
    lines = [f"{origin}: {count} images of {height}x{width} px, {len(store.classes)} classes"]
    if len(store.classes) == 2:
        lines.append(positive_note(store.classes[1], store.positive_rule))
    lines += [f"data: {note}" for note in (*store.notes, store.window) if note]
    if store.skipped:
        lines.append(f"left out because they cannot be used: {len(store.skipped)}")
    lines.append(f"prepared in {store.folder}")
    return lines


def class_lines(federation: Federation) -> list[str]:
    """The client-by-class table of the training split, and the sizes of the splits.

    Of many clients, how the records of each class are spread over them.
    """
    from fedsim.data.partition import class_table

    store = federation.store
    clients = class_table(federation.train, store.labels, store.classes)
    if len(clients) >= MANY:
        counts = {name: [row.counts[k] for row in clients] for k, name in enumerate(store.classes)}
        every = {**counts, "all": [row.total for row in clients]}
        table = spread_lines(f"of {len(clients)} clients", every)
    else:
        table = [("client", *store.classes, "all")]
        table += [(row.client, *map(str, row.counts), str(row.total)) for row in clients]
    for split, positions in federation.split.items():
        held = np.bincount(store.labels[positions], minlength=len(store.classes))
        table.append((f"({split})", *map(str, held), str(len(positions))))
    return aligned(table)


def save_partition(federation: Federation, scenario: Scenario, seed: int, path: Path) -> None:
    """Write the picture of who holds what."""
    from fedsim.federation.holdings import stand_in_note

    store, block = federation.store, scenario.federation.partition
    settings = ", ".join(f"{key}={typed(value)}" for key, value in block.parameters.items())
    settings = without_paths(settings)
    partition_picture(
        federation.train,
        store.labels,
        store.classes,
        path,
        title=f"{scenario.name}: {block.name}{f' ({settings})' if settings else ''}, seed {seed}",
        note=stand_in_note(store),
    )
