"""External data: records of `evaluation.external`, which no client has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedsim.data.columns import as_patient
from fedsim.data.copies import in_common
from fedsim.errors import InputError, Problem
from fedsim.federation.opening import open_external
from fedsim.scenario import Scenario
from fedsim.tasks.task import Task
from fedsim.tasks.words import some


def outsiders(scenario: Scenario) -> tuple[str, ...]:
    """Sites of the data that take no part."""
    external = scenario.evaluation.external
    return external.sites if external is not None else ()


def external_records(
    scenario: Scenario,
    store: Any,
    task: type[Task],
    progress: Callable[[int, int], None] | None,
) -> tuple[Any, np.ndarray] | None:
    """Records that no client has: of sites that take no part, or of another folder."""
    wanted = scenario.evaluation.external
    if wanted is None:
        return None
    if wanted.root is None:
        known = list(store.site_names)
        if strangers := sorted(set(wanted.sites) - set(known)):
            raise InputError(
                f"evaluation.external.sites names {', '.join(strangers)}, but the sites are "
                f"{', '.join(known)}"
            )
        codes = [known.index(name) for name in wanted.sites]
        return store, np.flatnonzero(np.isin(store.sites, codes))
    other = open_external(scenario, progress)
    assert other is not None
    (names, here), (_, there) = task.agrees_in(store), task.agrees_in(other)
    if here != there:
        raise InputError(
            f"evaluation.external.root has the {names} {', '.join(there)}, but the scenario's "
            f"data have {', '.join(here)}"
        )
    if store.source == "path" and other.fingerprint == store.fingerprint:
        raise InputError("evaluation.external.root holds the data that clients train on")
    _refuse_overlap(store, other)
    return other, np.arange(len(other.sites))


def _refuse_overlap(store: Any, other: Any) -> None:
    """Raise InputError where external data have records or patients of the scenario's data."""
    records = in_common(store.digests, other.digests)
    # A case that is its own group is no patient's name: half of all data sets have a Case00.
    here, there = (
        {
            as_patient(name): name
            for name, case in zip(one.patients, one.ids, strict=True)
            if name not in ("", case)
        }
        if one.patients
        else {}
        for one in (store, other)
    )
    patients = sorted(there[name] for name in here.keys() & there.keys())
    problems = []
    if records:
        message = f"{records} of {len(other.sites)} records are also in the scenario's data"
        problems.append(Problem("evaluation.external.root", message))
    if patients:
        message = f"{len(patients)} of {len(there)} patients are also there: {some(patients)}"
        problems.append(Problem("evaluation.external.root", message))
    if problems:
        raise InputError(
            "external data must be of records and patients that no client has",
            problems,
            "take them out of one of the folders (or, where patients only share a name, rename "
            "them in one of the tables)",
        )
