"""What `fedsim start` and `fedsim data` say of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data import dicom
from fedsim.data.dataset import usable
from fedsim.data.images import opened_picture
from fedsim.data.table import ONE_SITE
from fedsim.data.volumes.reading import Unreadable, Volume, read_volume
from fedsim.data.volumes.store import VolumeStore
from fedsim.errors import InputError
from fedsim.registry import construct, default_registry
from fedsim.starting.draft import Draft
from fedsim.starting.found import Found

_LOOKED_AT = 200  # images whose size and depth are told
_VOLUMES = 5
_NAMED = 5


def found_lines(found: Found, draft: Draft) -> list[str]:
    """Records, classes, patients, sites, sizes, and what could not be read."""
    store = draft.federation.store
    where = found.root if found.root is not None else found.dataset
    lines = [f"{where}: {found.layout}", *found.notes]
    if isinstance(store, VolumeStore):
        lines += [f"records: {len(store)} volumes, outlines of {', '.join(store.structures)}"]
    else:
        counts = np.bincount(store.labels, minlength=len(store.classes))
        held = ", ".join(f"{name} {n}" for name, n in zip(store.classes, counts, strict=True))
        lines.append(f"records: {len(store)} images of {len(store.classes)} classes: {held}")
        lines += _positive(draft)
    lines += _patients(store)
    lines.append(_sites(store))
    if found.root is not None:
        lines += _looks(found.root, draft)
    lines += [f"clients: {why}; made up instead" for why in draft.unfit]
    lines += [note for note in store.notes if not note.startswith(_SAID)]
    if getattr(store, "window", ""):
        lines.append(store.window)
    if store.skipped:
        more = f"; and {len(store.skipped) - _NAMED} more" if len(store.skipped) > _NAMED else ""
        named = "; ".join(store.skipped[:_NAMED])
        lines.append(f"left out, for they cannot be used: {len(store.skipped)} ({named}{more})")
    return lines


_SAID = ("nothing is known of patients", "patients are those", "sites are the institutions")
"""How notes begin that say again what is said of patients and sites."""


def planned_line(draft: Draft) -> str:
    """Who trains on how much, for how long."""
    scenario, federation = draft.scenario, draft.federation
    block = scenario.federation.partition
    told = {key: value for key, value in block.parameters.items() if key != "min_samples"}
    settings = "".join(f", {key} {value}" for key, value in told.items())
    sizes = ", ".join(f"{len(held)} for {side}" for side, held in federation.split.items())
    return (
        f"{len(federation.train)} clients ({block.name}{settings}), {scenario.rounds} rounds; "
        f"records: {sizes}"
    )


def _positive(draft: Draft) -> list[str]:
    classes = draft.federation.store.classes
    if len(classes) != 2:
        return []
    why = f"{draft.why_positive}; " if draft.why_positive else ""
    how = f"data.positive: {classes[0]} in the scenario takes the other"
    return [f"positive class: {classes[1]} ({why}AUC and sensitivity are of it; {how})"]


def _patients(store: Any) -> list[str]:
    patients = Counter(name for name in store.patients if name)
    if not patients:
        return [
            "patients: not known, so every record counts as one of its own; several of one patient "
            "may then be on both sides of the split, which makes scores too good (a table with a "
            "column group names them)"
        ]
    most = max(patients.values())
    if most == 1:
        return [f"patients (or lesions): {len(patients)}, one record each"]
    return [
        f"patients (or lesions): {len(patients)}, with up to {most} records each; they stay "
        "together in splits and at clients, and are what a privacy block protects"
    ]


def _sites(store: Any) -> str:
    if len(store.site_names) < 2:
        known = f"only {store.site_names[0]}"
        if store.site_names[0] == ONE_SITE:
            known = "not known (a column site names them)"
        return f"sites: {known}"
    counts = np.bincount(store.sites, minlength=len(store.site_names))
    shown = [f"{n} {c}" for n, c in zip(store.site_names, counts, strict=True)][:_NAMED]
    more = f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else ""
    return f"sites: {', '.join(shown)}{more}"


def _looks(root: Path, draft: Draft) -> list[str]:
    """Sizes and grey depth of some of the files."""
    data = draft.scenario.data
    dataset = construct(default_registry().resolve("datasets", data.name), data.parameters)
    try:
        manifest = usable(dataset.manifest, root, True)
    except InputError:
        return []
    files = manifest.images if draft.federation.store.classes == ("case",) else manifest.paths
    most = _VOLUMES if isinstance(draft.federation.store, VolumeStore) else _LOOKED_AT
    chosen = files[:: max(1, len(files) // most)][:most]
    of = "" if len(chosen) == len(files) else f" (of {len(chosen)} of {len(files)} files)"
    if isinstance(draft.federation.store, VolumeStore):
        return [f"{line}{of}" for line in _volume_looks(chosen)]
    return [f"{line}{of}" for line in _image_looks(chosen)]


def _image_looks(files: Sequence[Path]) -> list[str]:
    sizes, depths = [], Counter[str]()
    for file in files:
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
    return [f"sizes: {span} px; {kinds}"]


def _look(file: Path) -> tuple[tuple[int, int], str]:
    """Width and height, and what kind of picture it is."""
    if dicom.is_dicom(file):
        return dicom.read_looks(file)
    with opened_picture(file) as opened:
        if opened.mode[0] in "IF":
            return opened.size, "grey of more than 8 bits"
        return opened.size, "8-bit grey" if opened.mode in ("L", "1", "LA") else "8-bit colour"


def _volume_looks(files: Sequence[Path]) -> list[str]:
    read: list[Volume] = []
    for file in files:
        try:
            read.append(read_volume(file))
        except Unreadable:
            continue
    if not read:
        return []
    shapes = np.array([one.array.shape for one in read])
    spacings = np.array([one.spacing for one in read])
    ends = min(one.array.min() for one in read), max(one.array.max() for one in read)
    grey = f"grey values {ends[0]:g} to {ends[1]:g}"
    voxels = " x ".join(_span(shapes[:, axis], "d") for axis in range(3))
    lengths = " x ".join(_span(spacings[:, axis], ".3g") for axis in range(3))
    return [f"sizes: {voxels} voxels (slices x rows x columns) of {lengths} mm; {grey}"]


def _span(values: np.ndarray, form: str) -> str:
    low, high = (format(end, form) for end in (values.min(), values.max()))
    return low if low == high else f"{low}-{high}"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
