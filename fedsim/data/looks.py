"""How pictures in files look: their sizes and grey depth, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedsim.data import dicom
from fedsim.data.images import opened_picture

_LOOKED_AT = 200  # files whose size and depth are told


def some_of(files: Sequence[Path], most: int) -> tuple[Sequence[Path], str]:
    """At most about so many files, evenly from all; and how many these are, or "" for all."""
    chosen = files[:: max(1, len(files) // most)][:most]
    return chosen, "" if len(chosen) == len(files) else f" (of {len(chosen)} of {len(files)} files)"


def image_looks(files: Sequence[Path]) -> list[str]:
    """A line about some of these files; none where none can be read."""
    chosen, of = some_of(files, _LOOKED_AT)
    sizes, depths = [], Counter[str]()
    for file in chosen:
        try:
            size, depth = _look(file)
        except Exception:  # what cannot be read is told of already
            continue
        sizes.append(size)
        depths[depth] += 1
    if not sizes:
        return []
    small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    span = _times(small) if small == large else f"{_times(small)} to {_times(large)}"
    alone = len(depths) == 1
    kinds = ", ".join(one if alone else f"{one} {count}" for one, count in depths.most_common())
    return [f"sizes: {span} px; {kinds}{of}"]


def _look(file: Path) -> tuple[tuple[int, int], str]:
    """Width and height, and what kind of picture it is."""
    if dicom.is_dicom(file):
        return dicom.read_looks(file)
    with opened_picture(file) as opened:
        if opened.mode[0] in "IF":
            return opened.size, "grey of more than 8 bits"
        return opened.size, "8-bit grey" if opened.mode in ("L", "1", "LA") else "8-bit colour"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
