"""What `fedsim start` and `fedsim data` say of a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.dataset import method_of, usable
from fedsim.data.table import ONE_SITE
from fedsim.errors import InputError
from fedsim.federation.opening import dataset_of
from fedsim.starting.draft import Draft
from fedsim.starting.found import Found

_NAMED = 5


def found_lines(found: Found, draft: Draft) -> list[str]:
    """Records, classes, patients, sites, sizes, and what could not be read."""
    store = draft.federation.store
    where = found.root if found.root is not None else found.dataset
    lines = [f"{where}: {found.layout}", *found.notes]
    lines.append(f"records: {draft.federation.task.contents(store)}")
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
    classes = draft.federation.task.classes
    if draft.federation.task.positive is None:
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
    """How some of the files look, as the data set tells it."""
    dataset = dataset_of(draft.scenario)
    try:
        found: list[str] = method_of(dataset, "looks")(usable(dataset.manifest, root, True))
    except InputError:
        return []
    return found
