"""Records that a partition is asked to divide, and how many clients it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import InputError
from fedsim.raising import reraise_interruption
from fedsim.registry import construct

if TYPE_CHECKING:
    from fedsim.testing.bench import Bench

_CLIENTS = 4
SITES = ("berlin", "lyon", "oslo")


@dataclass(frozen=True)
class Records:
    """Records to divide: 300 of 120 patients, two classes, three sites."""

    labels: np.ndarray
    groups: np.ndarray
    sites: np.ndarray


def records_to_divide() -> Records:
    """The same at every call."""
    draws = np.random.default_rng(5)
    groups = np.sort(np.concatenate([np.arange(120), draws.integers(0, 120, 180)]))
    site_of = draws.integers(0, len(SITES), 120)
    labels = (draws.random(300) < 0.3).astype(np.int64)
    for values in (labels, groups, site_of):
        values.flags.writeable = False  # They are shared with others.
    sites = site_of[groups]
    sites.flags.writeable = False
    return Records(labels, groups.astype(np.int64), sites.astype(np.int64))


def assigned(bench: Bench, clients: int | None, seed: int = 0) -> dict[str, np.ndarray]:
    """Client name -> positions of its records, int64, by the bench's partition."""
    partition = construct(bench.factory, bench.scenario().federation.partition.parameters)
    return _divide(partition, clients, seed)


def _divide(partition: Any, clients: int | None, seed: int = 0) -> dict[str, np.ndarray]:
    records = records_to_divide()
    found: dict[str, np.ndarray] = partition.assign(
        labels=records.labels,
        groups=records.groups,
        sites=records.sites,
        site_names=SITES,
        clients=clients,
        rng=np.random.default_rng(seed),
    )
    return found


def clients_for(bench: Bench) -> int | None:
    """How many clients it takes: four, or None where it decides itself."""
    try:
        partition = construct(bench.factory, bench.parameters | _given(bench))
    except InputError:  # Said, with its place, where the scenario is loaded.
        return _CLIENTS
    try:
        _divide(partition, _CLIENTS)
    except InputError:
        return None
    except BaseException as error:  # Said by the checks.
        reraise_interruption(error)
    return _CLIENTS


def _given(bench: Bench) -> dict[str, Any]:
    """Parameters that overrides of the command line set."""
    from fedsim.yaml_lines import Place, read_value

    start = "federation.partition."
    words = [word.removeprefix(start) for word in bench.overrides if word.startswith(start)]
    parts = [word.partition("=") for word in words]
    return {key: read_value(text, Place("command line"))[0] for key, _, text in parts}
