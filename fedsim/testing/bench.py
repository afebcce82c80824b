"""The bench: a small scenario around one plugin, run and watched as often as the checks ask."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.engine.assembly import assembled
from fedsim.engine.loop import Rounds
from fedsim.engine.prepare import prepare
from fedsim.errors import InputError, Problem, RunError, problems_of
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.folder.runfolder import RunFolder
from fedsim.folder.storing import encode
from fedsim.method.capabilities import capabilities
from fedsim.method.strategy import Strategy
from fedsim.observers.base import Run
from fedsim.observers.folder import FolderWriter
from fedsim.observers.telling import Observers
from fedsim.registry import GROUPS, default_registry
from fedsim.scenario import Scenario, load
from fedsim.scenario.checks import activate
from fedsim.scenario.fitting import data_of, payload_of
from fedsim.scenario.schema import Scenario as Schema
from fedsim.testing.dividing import clients_for
from fedsim.testing.verdicts import CheckFailed, NotApplicable
from fedsim.wire import flower
from fedsim.yaml_lines import write

SEED = 3  # With it, the clients of the two rounds differ.
_FILE = "the scenario of the checks"

_IMAGES: dict[str, Any] = {
    "name": "checked",
    "rounds": 2,
    "data": {
        "name": "ham10000",
        "size": 16,
        "embedded": {"images": 96, "sites": 3, "positives": 0.4},
        "split": {"val": 0.15, "test": 0.25},
    },
    "federation": {
        "clients": 6,
        "participation": 0.5,
        "partition": {"name": "dirichlet", "alpha": 1.0},
    },
    "model": {"name": "cnn", "width": 8},
    "strategy": {"name": "fedavg"},
    "client": {"name": "supervised", "batch_size": 8, "steps": 3, "learning_rate": 0.05},
    "evaluation": {"on_clients": True},
    "resources": {"backend": "inline"},
}
_VOLUMES: dict[str, Any] = _IMAGES | {
    "data": {
        "name": "msd",
        "size": 32,
        "embedded": {"cases": 10},
        "split": {"val": 0.2, "test": 0.2},
    },
    "federation": {"clients": 4, "participation": 0.5, "partition": {"name": "iid"}},
    "model": {"name": "unet", "channels": [4, 8]},
    "client": {"name": "segmentation", "steps": 2, "batch_size": 2},
}
_KSPACE: dict[str, Any] = _IMAGES | {
    "data": {
        "name": "kspace",
        "size": 16,
        "embedded": {"patients": 6, "per_patient": 2},
        "split": {"val": 0.2, "test": 0.2},
    },
    "federation": {"participation": 0.6, "partition": {"name": "natural"}},
    "model": {"name": "auto_mri", "width": 2, "cells": 1, "unrolls": 1},
    "client": {"name": "reconstruction", "steps": 2, "batch_size": 2},
}
# What a method of each payload meets: the strategy, and the client method.
_PARTNERS: dict[str, dict[str, Any]] = {
    "images": {
        "strategy": {"name": "gdd", "epochs": 4},
        "client": {
            "name": "distill",
            "images_per_class": 1,
            "iterations": 1,
            "width": 8,
            "batch_size": 8,
        },
        "model": {"name": "convnet", "width": 8},
        "rounds": 1,
    },
    "nothing": {
        "strategy": {"name": "local_only"},
        "client": {"name": "local", "batch_size": 8, "steps": 3, "learning_rate": 0.05},
    },
}
_VOLUME_PARTNERS: dict[str, dict[str, Any]] = {
    "nothing": {
        "strategy": {"name": "local_only"},
        "client": {"name": "local_segmentation", "steps": 2, "batch_size": 2},
    },
}
# What methods meet that go with a model of their kind alone, and it with them.
_KINDS: dict[str, dict[str, Any]] = {
    "in_context": {
        "strategy": {"name": "in_context"},
        "client": {"name": "in_context"},
        "data": _VOLUMES["data"] | {"size": 16},  # Its network is slow.
        "model": {
            "name": "in_context",
            "init": "in_context_phantom",
            "channels": [16, 16, 16, 16],
            "support": 2,
            "draws": 1,
        },
        "rounds": 1,
    },
}
_LABELLED = 0.5
_KSPACE_PARTNERS: dict[str, dict[str, Any]] = {
    "nothing": {
        "strategy": {"name": "local_only"},
        "client": {"name": "local_reconstruction", "steps": 2, "batch_size": 2},
    },
}
# The small scenario of each task, and the partners of its methods.
_TASKS = {"volumes": (_VOLUMES, _VOLUME_PARTNERS), "k-space": (_KSPACE, _KSPACE_PARTNERS)}
_FEW = {"steps": 3, "epochs": 4, "batch_size": 8, "iterations": 1, "images_per_class": 1}


@dataclass
class Ran:
    """What came of a run.

    Attributes:
        first: the arrays that it began with, by name.
        arrays: those that it ended with.
        models: the arrays of all models (one, or one a client).
        learned: whether any bit of a model changed.
        states: what each client keeps, as bytes.
        strategy: the strategy's own state, as bytes; b"" of a foreign one.
        traffic, rounds: the lines of the two files.
        folder: the run folder.
        made: the strategy object.
    """

    first: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    models: list[dict[str, np.ndarray]]
    learned: bool
    states: dict[int, bytes]
    strategy: bytes
    traffic: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    folder: Path
    made: FlowerStrategy = field(repr=False)


def difference(one: Ran, other: Ran) -> str:
    """The first thing in which two runs differ in any bit; "" if there is none."""
    for name, value in one.arrays.items():
        if name not in other.arrays or value.tobytes() != other.arrays[name].tobytes():
            return f"the model's {name!r}"
    for client, state in one.states.items():
        if state != other.states[client]:
            return f"what client {client} keeps in site.state"
    if one.strategy != other.strategy:
        return "what state_dict() gives at the end"
    if [_told(row) for row in one.rounds] != [_told(row) for row in other.rounds]:
        return "the metrics of a round"
    return "the traffic" if one.traffic != other.traffic else ""


def _told(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["metrics"], row["metrics_by_client"], row["clients"]


def finite(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all floating arrays hold numbers alone."""
    return all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind in "fc")


class Bench:
    """Runs small scenarios around one plugin.

    Args:
        group, name, parameters: the plugin.
        overrides: of the scenario, as on the command line.
        plugins: folders with modules.
    """

    def __init__(
        self,
        group: str,
        name: str,
        parameters: dict[str, Any],
        overrides: list[str],
        plugins: list[str],
    ) -> None:
        self.group, self.name, self.parameters = group, name, parameters
        self.overrides, self.plugins = overrides, [os.path.abspath(p) for p in plugins]
        self._federations: dict[str, Federation] = {}
        self._count = 0
        self._broken = False

    @functools.cached_property
    def folder(self) -> Path:
        """A folder of the bench's own, which goes with it."""
        return _folder_of(self)

    @functools.cached_property
    def factory(self) -> Any:
        """What the plugin's name stands for."""
        activate(self.plugins)
        return default_registry().resolve(self.group, self.name)

    @property
    def title(self) -> str:
        """What the plugin is called in a sentence."""
        return f"{GROUPS[self.group]} {self.name!r}"

    def values(self) -> dict[str, Any]:
        """The small scenario, with the plugin in it and what goes with it."""
        factory = self.factory
        task = data_of(factory)
        small, partners = _TASKS.get(task, (_IMAGES, _PARTNERS))
        values = dict(small)
        if self.group in ("strategies", "clients"):
            values |= partners.get(payload_of(factory), {})
            values |= _counterpart(self.group, factory)
            values["federation"] = values["federation"] | _labels(self.group, factory, values)
        kind = _KINDS.get(capabilities(factory).payload_kind, {})
        values |= kind
        if capabilities(factory).one_shot:
            values["rounds"] = 1
        if self.group == "strategies" and not _ours(factory):
            # Flower's own refuse clients that report different metrics: a site with one class has
            # no AUC.
            values["evaluation"] = {"on_clients": False}
        if self.group == "clients" and not isinstance(factory, type):
            values["evaluation"] = {"on_clients": False}  # A ClientApp may have no `evaluate`.
        own = kind.get("model", {}) if self.group == "models" else {}
        block = own | {"name": self.name} | self.parameters
        if self.group == "clients":
            block = _few(factory) | block
        if self.group == "partitions":
            values["federation"] = values["federation"] | {"partition": block}
            if self.clients is None:
                values["federation"].pop("clients")
            return values
        if self.group == "datasets":
            own = {} if task == "volumes" else {"split": values["data"]["split"]}
            stand_in = {"embedded": values["data"]["embedded"]} if _takes(factory, values) else {}
            block = {"size": values["data"]["size"]} | own | stand_in | block
        return values | {block_key(self.group): block}

    @functools.cached_property
    def clients(self) -> int | None:
        """Clients that a partition is asked for; None where it knows them itself."""
        return clients_for(self) if self.group == "partitions" else None

    def scenario(self, *more: str) -> Scenario:
        """The small scenario with the bench's overrides, and more.

        Raises:
            InputError: the plugin cannot be made, or something does not go with it.
        """
        file = self.folder / "checked.yaml"
        file.write_text(write(self.values() | {"plugins": self.plugins}), encoding="utf-8")
        try:
            return load(file, [*self.overrides, *more])
        except InputError as error:
            problems = [
                Problem(problem.where.replace(str(file), _FILE), problem.message)
                for problem in problems_of(error)
            ]
            raise InputError(
                f"{self.title} cannot be checked",
                problems,
                hint="parameters are key=value, what else goes with it --with key.sub=value",
            ) from error

    @contextlib.contextmanager
    def own_cache(self, name: str = "cache") -> Iterator[None]:
        """Prepare data below the bench's folder: a data set that changes must not be remembered.

        The data that other plugins are checked with are prepared once a process.
        """
        before = os.environ.get("FEDSIM_CACHE")
        place = self.folder if self.group == "datasets" else _folder_of_process()
        os.environ["FEDSIM_CACHE"] = str(place / name)
        try:
            yield
        finally:
            os.environ.pop("FEDSIM_CACHE")
            if before is not None:
                os.environ["FEDSIM_CACHE"] = before

    def federation(self, scenario: Scenario) -> Federation:
        """The scenario's data, shared out; once for each."""
        key = json.dumps(
            [scenario.data.model_dump(), scenario.federation.model_dump()], default=str
        )
        if key not in self._federations:
            with self.own_cache():
                self._federations[key] = build_federation(scenario, SEED)
        return self._federations[key]

    def go(
        self,
        *more: str,
        around: Callable[[Rounds], None] | None = None,
        last: int | None = None,
        resume: Path | None = None,
    ) -> Ran:
        """Run the scenario.

        Args:
            more: overrides.
            around: called with the rounds before the first, to watch or to disturb them.
            last: the round to stop after.
            resume: a run folder to go on with.
        """
        if self._broken:
            raise NotApplicable("the first run failed, see above")
        scenario = self.scenario(*more)
        prepared = prepare(scenario, SEED, federation=self.federation(scenario))
        strategy = prepared.strategy
        self._count += 1
        folder = RunFolder(resume or self.folder / f"run-{self._count}")
        folder.path.mkdir(exist_ok=True)
        if resume is None:
            folder.write_json("run.json", {})
        observers = Observers([FolderWriter(prepared)])
        with assembled(prepared, observers, folder) as rounds:
            first = _copied(rounds.arrays)
            if resume is not None:
                assert rounds.checkpoints is not None
                checkpoint = rounds.checkpoints.latest()
                if checkpoint is not None:
                    rounds.restore(checkpoint)
                rounds.checkpoints.rewind(checkpoint)
            begun = Run("", scenario.name, SEED, folder.path, tuple(prepared.names), 0)
            observers.begin(begun)
            if around is not None:
                around(rounds)
            rounds.run(last)
            state: dict[str, Any] = getattr(strategy, "state_dict", dict)()
            return Ran(
                first=first,
                arrays=_copied(rounds.arrays),
                models=[_copied(model) for model in rounds.models()],
                learned=rounds.learned,
                states={
                    client: bytes(encode(kept, "state"))
                    for client, kept in rounds.grid.states().items()
                },
                strategy=bytes(encode(state, "state_dict()")),
                traffic=folder.read_lines("traffic.jsonl"),
                rounds=folder.read_lines("rounds.jsonl"),
                folder=folder.path,
                made=strategy,
            )

    @functools.cached_property
    def run(self) -> Ran:
        """The plain run, which others are compared with; where it fails, they do not begin."""
        try:
            return self.go()
        except RunError:
            self._broken = True
            raise

    def resumed(self) -> Ran:
        """The plain run again, cut after its first round, and gone on with from its checkpoint."""
        copy = self.folder / "resumed"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run.folder, copy)
        newest = sorted((copy / "checkpoint").glob("round-*"))[-1]
        newest.unlink()
        return self.go(resume=copy)


def _folder_of(owner: object) -> Path:
    """A new folder, which goes when its owner does."""
    path = tempfile.mkdtemp(prefix="fedsim-check-")
    # Not a TemporaryDirectory, which warns where a test's own checks end with the process.
    weakref.finalize(owner, shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@functools.cache
def _folder_of_process() -> Path:
    """A folder that goes at the end of the process."""
    return _folder_of(Bench)


def _ours(factory: Any) -> bool:
    """Whether it derives from fedsim's strategies, and not from Flower's alone."""
    return isinstance(factory, type) and issubclass(factory, Strategy)


def block_key(group: str) -> str:
    """The top-level key of a scenario that names a plugin of this group."""
    return next(path[0] for path, (one, _) in Schema.blocks.items() if one == group)


def _few(factory: Any) -> dict[str, Any]:
    """Small numbers for the parameters that a client method calls like the built-in ones do."""
    from fedsim.scenario.parameters import is_factory, parameter_names

    known = parameter_names(factory) if is_factory(factory) else []
    few = {key: value for key, value in _FEW.items() if key in known}
    if {"steps", "epochs"} <= few.keys():
        few.pop("epochs")
    return few


def _counterpart(group: str, factory: Any) -> dict[str, Any]:
    """The other half of a method whose payload is of a kind of its own; {} where none is known."""
    kind = capabilities(factory).payload_kind
    other = "clients" if group == "strategies" else "strategies"
    registry = default_registry()
    task = data_of(factory) or "images"
    fit = (
        name
        for name in registry.names(other)
        if capabilities(registry.resolve(other, name)).payload_kind == kind
        and task in (capabilities(registry.resolve(other, name)).made_for or (task,))
    )
    name = next(fit, None) if kind else None
    if name is None:
        return {}
    known = _few(registry.resolve(other, name)) if other == "clients" else {}
    return {block_key(other): {"name": name, **known}}


def _labels(group: str, factory: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Hides labels where the client method learns from records without; {} where it does not."""
    client = factory
    if group == "strategies":
        client = default_registry().resolve("clients", values["client"]["name"])
    return {"labelled": _LABELLED} if capabilities(client).learns_unlabelled else {}


def _takes(factory: Any, values: Mapping[str, Any]) -> bool:
    """Whether a data set's generator takes the parameters of the built-in stand-in."""
    from fedsim.scenario.parameters import check_parameters

    generator = getattr(factory, "embedded", None)
    if generator is None:
        return False
    return not check_parameters(generator, values["data"]["embedded"], supplied={"size", "task"})


def _copied(record: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in flower.tensors(record).items()}


# --- Global randomness ---------------------------------------------------------------------------

GENERATORS = ("random", "numpy.random", "torch")


def global_states() -> tuple[Any, ...]:
    """The states of the global generators of `random`, NumPy and torch."""
    state: Any = np.random.get_state()  # noqa: NPY002 - they are what is looked at
    return (
        random.getstate(),
        (state[0], state[1].tobytes(), *state[2:]),
        torch.get_rng_state().numpy().tobytes(),
    )


@dataclass
class Draws:
    """Which methods moved which global generators."""

    found: set[tuple[str, str]] = field(default_factory=set)

    def watch(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The method, watched."""

        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = global_states()
            try:
                return method(*args, **kwargs)
            finally:
                for kind, old, new in zip(GENERATORS, before, global_states(), strict=True):
                    if old != new:
                        self.found.add((name, kind))

        return watched

    def words(self, *kinds: str) -> str:
        """The methods that moved a generator of these kinds, in words."""
        return ", ".join(f"{kind} in {name}" for name, kind in sorted(self.found) if kind in kinds)


@contextlib.contextmanager
def undisturbed(what: str) -> Iterator[None]:
    """Raise CheckFailed where the global generators, or torch's settings, are others afterwards."""
    settings = torch.get_default_dtype(), torch.get_num_threads()
    before = global_states()
    yield
    moved = [
        kind
        for kind, old, new in zip(GENERATORS, before, global_states(), strict=True)
        if old != new
    ]
    if moved:
        raise CheckFailed(
            f"{what} drew from, or seeded, the global generator of {' and '.join(moved)}: what "
            "else draws from it in this process is no longer repeatable"
        )
    if settings != (torch.get_default_dtype(), torch.get_num_threads()):
        raise CheckFailed(f"{what} changed torch's default type or number of threads")
