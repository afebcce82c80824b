"""Checks of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.dataset import usable
from fedsim.federation.opening import dataset_of, open_store, task_of
from fedsim.registry import construct
from fedsim.testing import strategies
from fedsim.testing.bench import Bench, undisturbed
from fedsim.testing.verdicts import ON_RAY, CheckFailed, NotApplicable


def _store(bench: Bench, cache: str = "cache") -> Any:
    """The prepared data; those of another cache are prepared anew."""
    with bench.own_cache(cache):
        return open_store(bench.scenario())


def prepared(bench: Bench) -> str:
    """The data can be read, or generated, and say what they are."""
    store = _store(bench)
    origin = "the stand-in" if store.source == "embedded" else str(store.root)
    task = task_of(dataset_of(bench.scenario()))
    if absent := task.empty_classes(store):
        told = f"there is no record of class {', '.join(absent)} ({task.contents(store)})"
        raise CheckFailed(f"{origin}: {told}")
    return f"{origin}: {task.contents(store)}, {len(store.site_names)} site(s)"


def groups(bench: Bench) -> str:
    """Patients are told apart, so that none is on two sides of a split."""
    store = _store(bench)
    found = len(np.unique(store.groups))
    if len(store.groups) > 2 and found == 1:
        raise CheckFailed(
            f"all {len(store.groups)} records are of one group: nothing can be split; where the "
            'patient is not known, the group is ""'
        )
    if found == len(store.groups):
        return f"{found} groups, one for each record"
    return f"{len(store.groups)} records of {found} patients or lesions"


def repeats(bench: Bench) -> str:
    """Read or generated twice, the data have the same bits."""
    first, second = _store(bench), _store(bench, "again")
    if first.fingerprint != second.fingerprint:
        raise CheckFailed(
            "prepared twice, the data differ: the order of files on a disk is not fixed, sort "
            "them; a stand-in draws from numpy.random.default_rng(seed)"
        )
    return f"twice the fingerprint {first.fingerprint[:12]}..."


def manifest(bench: Bench) -> str:
    """The manifest lists what is there, each record once."""
    scenario = bench.scenario()
    root = scenario.data_root()
    if root is None:
        raise NotApplicable("no folder is given: --with data.root=DIR")
    dataset = construct(bench.factory, scenario.data.parameters)
    found = usable(dataset.manifest, root, scenario.data.skip_bad)
    twice = [name for name, count in Counter(found.ids).items() if count > 1]
    if twice:
        raise CheckFailed(f"{len(twice)} ids are given to several records, such as {twice[0]!r}")
    # Of volumes, a folder may be the file: a DICOM series.
    if gone := [path for path in found.files if not Path(path).exists()]:
        raise CheckFailed(
            f"{len(gone)} of {len(found.files)} files are not there, such as {gone[0]}"
        )
    labels = getattr(found, "labels", None)
    if labels is not None and np.asarray(labels).dtype != np.int64:
        raise CheckFailed(f"labels are {np.asarray(labels).dtype}, not int64")
    return f"{len(found.files)} records, each file is there"


def randomness(bench: Bench) -> str:
    """Chance comes from a seed of the data set's own."""
    with undisturbed("reading or generating the data"):
        _store(bench, "watched")
    return "none used, none disturbed"


def trained(bench: Bench) -> str:
    """A run learns from it."""
    return strategies.require_learned(bench.run)


CHECKS: dict[str, Callable[[Bench], str]] = {
    "the data are there": prepared,
    "patients": groups,
    "the manifest": manifest,
    "read twice, the same bits": repeats,
    "no global randomness": randomness,
    "a run learns from it": trained,
    ON_RAY: strategies.on_ray,
}
