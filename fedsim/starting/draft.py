"""Settings that fit what was found, tried on the data, and the scenario's text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.dataset import usable
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.federation.opening import open_store
from fedsim.registry import construct, default_registry
from fedsim.scenario import load
from fedsim.scenario.schema import Scenario
from fedsim.starting.found import Found, Setting
from fedsim.starting.text import Sheet, scenario_text
from fedsim.starting.words import positive_of

Progress = Callable[[int, int], None] | None

_SMALL = 2_000  # images: up to here they are kept larger, and clients run in this process
_PASSES = {64: 5_000, 32: 25_000}
"""Size of images -> how many the network sees in about a minute on one core."""

_STEPS = 500  # of patches of 64 x 64, likewise
_BY_DATA = ("table", "natural")
"""Partitions that the data name."""

_ROUNDS = (3, 30)


@dataclass(frozen=True)
class Draft:
    """A scenario that fits the data.

    Attributes:
        text: the file.
        scenario: the same, loaded.
        federation: who holds what.
        why_positive: why one of two classes is the positive one; "" where the data set says so.
        unfit: partitions that the data name and that do not fit, and why.
    """

    text: str
    scenario: Scenario
    federation: Federation
    why_positive: str = ""
    unfit: tuple[str, ...] = ()


def draft(found: Found, name: str, progress: Progress = None) -> Draft:
    """Write a scenario for what was found, and try it: the data are read, split and shared out.

    Raises:
        InputError: the data cannot be used, or not be split; the first reason.
    """
    sheet = Sheet(name=name, found=found, size=64)
    scenario = _loaded(scenario_text(sheet), ["data.skip_bad=true"])
    if found.kind == "images" and _count(scenario) > _SMALL:
        sheet = replace(sheet, size=32)
        scenario = _loaded(scenario_text(sheet), ["data.skip_bad=true"])
    store = open_store(scenario, progress)
    if store.skipped:
        sheet = replace(sheet, skipped=len(store.skipped))
    if len(store.classes) == 2 and store.positive_rule:
        positive, why = positive_of(store.classes)
        sheet = replace(sheet, positive=Setting("positive", positive, why))
    first: InputError | None = None
    unfit: dict[str, str] = {}
    for candidate in _candidates(sheet, store):
        by = candidate.partition["name"]
        unfit_here = [f"{name} does not fit: {why}" for name, why in unfit.items() if name != by]
        if by not in _BY_DATA and unfit_here:
            why = "; ".join([candidate.partition_why, *unfit_here])
            candidate = replace(candidate, partition_why=why)
        try:
            scenario = _loaded(scenario_text(candidate), [])
            federation = build_federation(scenario, scenario.seeds[0], progress)
        except InputError as error:
            first = first or error
            if by in _BY_DATA:
                unfit.setdefault(by, error.headline)
            continue
        rounds = _rounds(candidate, federation)
        text = scenario_text(replace(candidate, rounds=rounds, training=_largest(federation)))
        why = sheet.positive.why if sheet.positive is not None else ""
        return Draft(text, _loaded(text, []), federation, why, tuple(unfit_here))
    assert first is not None
    raise first


def _count(scenario: Scenario) -> int:
    """Records that a folder holds, without reading them."""
    data, root = scenario.data, scenario.data_root()
    dataset = construct(default_registry().resolve("datasets", data.name), data.parameters)
    return len(usable(dataset.manifest, root, True).paths) if root is not None else 0


def loaded(text: str, overrides: Sequence[str] = (), seed: int | None = None) -> Scenario:
    """The scenario of a text."""
    return _loaded(text, overrides, seed)


def _loaded(text: str, overrides: Sequence[str], seed: int | None = None) -> Scenario:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "experiment.yaml")
        file.write_text(text, encoding="utf-8")
        return load(file, overrides, seed)


def _candidates(sheet: Sheet, store: Any) -> Iterator[Sheet]:
    """Splits and partitions, the best first."""
    groups = len(np.unique(store.groups))
    few = 4 if groups >= 120 else 3 if groups >= 45 else 2
    partitions: list[tuple[dict[str, Any], int | None, str]] = []
    if sheet.found.client_column:
        column = sheet.found.client_column
        partitions.append(
            ({"name": "table", "column": column}, None, "a column says who holds which record")
        )
    several = len(store.site_names) > 1
    if several:
        why = f"each of the {len(store.site_names)} sites is a client, as the data were collected"
        partitions.append(({"name": "natural"}, None, why))
    made_up = "hospitals are made up: the smaller alpha, the more their classes differ"
    if sheet.found.kind == "images":
        partitions.append(({"name": "dirichlet", "alpha": 0.5, "min_samples": 4}, few, made_up))
    alike = "hospitals are made up, and alike"
    partitions += [({"name": "iid"}, few, alike), ({"name": "iid"}, 2, alike)]
    splits = ({"val": 0.1, "test": 0.2}, {"val": 0.0, "test": 0.2}, {"val": 0.0, "test": 0.3})
    named = [one for one in partitions if one[0]["name"] in _BY_DATA]
    others = [one for one in partitions if one not in named]
    order = [(one, split) for one in named for split in splits]
    order += [(one, split) for split in splits for one in others]
    for (partition, clients, why), split in order:
        yield replace(sheet, partition=partition, clients=clients, partition_why=why, split=split)


def _largest(federation: Federation) -> int:
    """Training records of the largest client."""
    return max(len(held) for held in federation.train.values())


def _rounds(sheet: Sheet, federation: Federation) -> int:
    """Rounds that take about a minute on one core."""
    if sheet.found.kind == "images":
        trained = sum(len(held) for held in federation.train.values())
        rounds = _PASSES[sheet.size] // max(1, trained)
    else:
        rounds = _STEPS // (Sheet.steps * len(federation.train))
    return int(np.clip(rounds, *_ROUNDS))
