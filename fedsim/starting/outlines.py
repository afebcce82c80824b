"""What masks hold: which values, so that they can be named as structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsim.data.table import read_table
from fedsim.data.volumes.pairing import pairs_below, volumes_below
from fedsim.data.volumes.reading import Unreadable, Volume, read_volume
from fedsim.errors import InputError, Problem
from fedsim.starting.found import Found, Setting

_LOOKED_AT = 20  # masks
_MOST_VALUES = 30
_WHOLE = 1e-3


def from_pairs(root: Path) -> Found | None:
    """Volumes and masks that are paired by their names; None where there are no volumes.

    Raises:
        InputError: there are volumes, and no masks that belong to them.
    """
    pairs, _ = pairs_below(root)
    if pairs:
        found = Found("volumes", "volumes", "images and masks paired by their names", root)
        return with_structures(found, [pair.mask for pair in pairs])
    volumes = [path for path in volumes_below(root) if not path.is_dir()]
    if not volumes:
        return None
    raise InputError(
        f"the folder holds {len(volumes)} volumes, and no masks that belong to them",
        [Problem(str(root), f"such as {volumes[0].relative_to(root)}")],
        "call each mask like its image, with _mask or in a folder masks, or list them in a .csv "
        "file there with the columns image and mask",
    )


def masks_of(found: Found) -> list[Path]:
    """The masks that the table of a folder names."""
    assert found.root is not None
    called = next((one.value for one in found.settings if one.key == "columns"), None)
    rows = read_table(
        found.root / found.table,
        ("image", "mask"),
        unique="image",
        optional=("group", "site"),
        called=called,
    )
    return [found.root / row["mask"] for row in rows if row["mask"]]


def with_structures(found: Found, masks: Sequence[Path]) -> Found:
    """What was found, with the structures that the masks outline."""
    values: set[int] = set()
    chosen = masks[:: max(1, len(masks) // _LOOKED_AT)][:_LOOKED_AT]
    why: Counter[str] = Counter()
    for path in chosen:
        try:
            values |= _values(read_volume(path, canonical=False))
        except (Unreadable, ValueError) as error:
            why[str(error)] += 1
    if not values:
        reason = f": {why.most_common(1)[0][0]}" if why else ": they hold nothing but 0"
        raise InputError(
            "the masks cannot be used", [Problem(str(chosen[0]), f"and others{reason}")]
        )
    held = sorted(values)
    names = [f"structure-{value}" for value in held] if len(held) > 1 else ["structure"]
    settings = [Setting("structures", names, f"the masks' values {_said(held)}: call them by name")]
    if held != list(range(1, len(held) + 1)):
        settings.append(Setting("values", held, "the masks' value for each of the structures"))
    return replace(found, settings=(*found.settings, *settings))


def _values(mask: Volume) -> set[int]:
    found = np.unique(mask.array)
    if len(found) > _MOST_VALUES + 1:
        raise ValueError(f"has {len(found)} different values, as images have and masks do not")
    if not np.isfinite(found).all() or (np.abs(found - np.rint(found)) > _WHOLE).any():
        raise ValueError("has values that are no whole numbers")
    return {int(value) for value in np.rint(found) if value > 0}


def _said(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return shown + (", ..." if len(values) > 8 else "")
