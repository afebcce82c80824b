"""Putting the rooms together: from a scenario and its data to a loop that is ready to run."""

from __future__ import annotations

import contextlib
import inspect
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import flower
from fedsim.buffers import Buffers, roles_of
from fedsim.checkpoint import Checkpoints
from fedsim.client import Client, Task
from fedsim.console import Console
from fedsim.errors import InputError, Problem
from fedsim.federation import Federation, cache_folder, stand_in_note
from fedsim.flower_strategies import filled_in, refusal, wants_losses
from fedsim.grid.base import BaseGrid
from fedsim.grid.inline import InlineGrid
from fedsim.grid.worker import Job, device_for, units_of
from fedsim.ledger.privacy import PrivacyLedger
from fedsim.ledger.traffic import TrafficLedger
from fedsim.loop import Rounds
from fedsim.machine import cores, gpus, require_resources, workers_on
from fedsim.models.build import build_model, first_arrays
from fedsim.models.conditioning import require_conditioned
from fedsim.parameters import shown
from fedsim.privacy.client_level import (
    ClientLevel,
    require_client_level,
    require_still_buffers,
)
from fedsim.privacy.key_file import KeyFile
from fedsim.privacy.noise import KEY_BYTES, Noise
from fedsim.privacy.plan import PrivacyPlan, plan_client_privacy, plan_privacy
from fedsim.privacy.run_key import run_digest
from fedsim.progress import Board, Steps
from fedsim.raising import one_line, plugin_code
from fedsim.randomness import SERVER, Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.runfolder import RunFolder
from fedsim.scenario import Scenario
from fedsim.scenario_checks import refused_for_clients
from fedsim.schema import Privacy
from fedsim.sharing import Sharing, sharing_of
from fedsim.strategy import Server, Strategy


def build_strategy(
    scenario: Scenario, clients: int, privacy: PrivacyPlan | None = None
) -> FlowerStrategy:
    """Construct the scenario's strategy for this many clients.

    Flower's own strategies get the scenario's participation as `fraction_train`, and all clients
    for evaluation only where the scenario asks for it, unless its parameters say otherwise.
    """
    block = scenario.strategy
    factory = default_registry().resolve("strategies", block.name)
    parameters = dict(block.parameters)
    known = inspect.signature(factory).parameters
    ours = isinstance(factory, type) and issubclass(factory, Strategy)
    if not ours and isinstance(factory, type) and issubclass(factory, FlowerStrategy):
        fallback = {
            "fraction_train": scenario.federation.participation,
            "fraction_evaluate": 1.0 if scenario.evaluation.on_clients else 0.0,
            "min_train_nodes": 1,
            "min_evaluate_nodes": 1,
            "min_available_nodes": 1,
        }
        accepts_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
        fallback = {k: v for k, v in fallback.items() if accepts_all or k in known}
        client = scenario.client
        found = default_registry().resolve("clients", client.name)
        parameters = fallback | filled_in(factory, found, client.parameters) | parameters
    with contextlib.nullcontext() if ours else _quiet_flower():
        strategy = construct(factory, parameters)
    if not isinstance(strategy, FlowerStrategy):
        raise InputError(
            f"strategy.name: {block.name!r} makes a {type(strategy).__name__}, not a strategy",
            hint="a strategy derives from fedsim.Strategy or flwr.serverapp.strategy.Strategy",
        )
    if why := refusal(strategy):
        raise InputError(f"strategy.name: {why}")
    if privacy is not None and wants_losses(strategy):
        raise InputError(
            f"strategy {block.name!r} weights clients by their training losses, which are computed "
            "from the records without noise: private clients do not send them",
            hint="type strategy.name=fedavg",
        )
    if is_one_shot(strategy) and scenario.rounds != 1:
        raise InputError(
            f"strategy {block.name!r} is one-shot: clients send once, so there is one round, not "
            f"{scenario.rounds}",
            hint="type rounds=1",
        )
    for key, why in refused_for_clients(strategy, clients, parameters):
        place = scenario.place("strategy", key) if key else scenario.place("strategy")
        raise InputError(
            f"strategy {block.name!r} does not go with {clients} client(s)",
            [Problem(place, f"{f'strategy.{key}' if key else 'strategy'}: {why}")],
        )
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        asked = getattr(strategy, name, 0)
        if isinstance(asked, int) and asked > clients:
            raise InputError(
                f"strategy.{name} asks for {asked} clients, but there are {clients}",
                hint=f"type strategy.{name}={clients}, or federation.clients={asked}",
            )
    if privacy is not None and privacy.settings.unit == "client":
        require_client_level(strategy, scenario.faults)
        assert isinstance(strategy, Strategy)
        return ClientLevel(strategy, next(iter(privacy.clients.values())).mechanism)
    return strategy


@contextlib.contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keep Flower's own strategies from logging what the console says, too."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def is_one_shot(strategy: FlowerStrategy) -> bool:
    """Whether the strategy says that clients send once."""
    return isinstance(strategy, Strategy) and strategy.one_shot


def client_releases(scenario: Scenario) -> tuple[str, ...]:
    """What the client method's replies carry of the records themselves.

    Raises:
        InputError: `client.name` is neither a client method nor a Flower ClientApp.
    """
    name = scenario.client.name
    found = default_registry().resolve("clients", name)
    if isinstance(found, ClientApp):
        return ()
    client = construct(found, scenario.client.parameters)
    if not isinstance(client, Client):
        raise InputError(
            f"client.name: {name!r} makes a {type(client).__name__}, not a client method",
            hint="a client method derives from fedsim.Client; a flwr ClientApp may be named too",
        )
    with plugin_code(f"client {name!r} failed in releases"):
        carried = client.releases
    if not isinstance(carried, tuple | list) or not all(isinstance(one, str) for one in carried):
        raise InputError(
            f"client.name: {name!r} has releases {shown(carried)}, which is no tuple of texts",
            hint='type releases = ("what the replies carry",), or leave it out',
        )
    return tuple(" ".join(one.split()) for one in carried)


def check_model(scenario: Scenario, task: Task) -> None:
    """Refuse (InputError) a model in which rounding decides, or that cannot travel or begin.

    Before anything starts.
    """
    with isolated(Streams(0).sequence("model")):
        model = build_model(scenario, task)
        require_conditioned(model, task.input_shape)
    if scenario.model.init is not None:
        first_arrays(scenario, task, 0)
    try:
        flower.pack_state(model.state_dict())
    except (MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"model.name: {scenario.model.name!r} has a state that cannot travel: "
            f"{one_line(error)}",
            hint="a model's state is dense tensors whose shapes are known, of types that NumPy has",
        ) from error


def with_unit(scenario: Scenario, federation: Federation) -> Scenario:
    """The scenario with the unit of privacy that its data call for, where it names none.

    Where several records are of one patient, whoever is in the data is there with all of them.
    """
    settings = scenario.privacy
    if settings is None or settings.unit is not None:
        return scenario
    repeats = settings.shared_patients or _most_records(federation) > 1
    unit = "patient" if repeats else "record"
    if unit == "patient" and settings.audit in ("run", "lira"):
        raise InputError(
            f"privacy.audit={settings.audit} needs unit: record, but the data have several records "
            "of one patient or lesion, so the unit is the patient",
            hint="type privacy.unit=record, or privacy.audit=mechanism",
        )
    return scenario.model_copy(update={"privacy": settings.model_copy(update={"unit": unit})})


def _most_records(federation: Federation) -> int:
    """Training records of the patient or lesion that has most, at all clients together."""
    groups = _groups(federation)
    return int(np.unique(groups, return_counts=True)[1].max(initial=0))


def _groups(federation: Federation) -> np.ndarray:
    """The patient or lesion of every training record, int64."""
    where = np.concatenate([np.zeros(0, np.int64), *federation.train.values()])
    return np.asarray(federation.store.groups[where], dtype=np.int64)


def privacy_plan(
    scenario: Scenario, federation: Federation, say: Callable[[str], None] | None = None
) -> PrivacyPlan | None:
    """What the clients release in a private run; None for a run without a mechanism.

    `say` is told when a search for the noise begins.

    Raises:
        InputError: the client method has no private form, or the scenario asks for what cannot be.
    """
    settings = with_unit(scenario, federation).privacy
    if settings is None:
        return None
    search: dict[str, Any] = {"cache": cache_folder(), "say": say}
    if settings.unit == "client":
        with isolated(Streams(0).sequence("model")):
            require_still_buffers(build_model(scenario, federation.task), federation.task)
        return plan_client_privacy(settings, scenario.rounds, list(federation.train), **search)
    block = scenario.client
    found = default_registry().resolve("clients", block.name)
    client = None if isinstance(found, ClientApp) else construct(found, block.parameters)
    hint = "remove the privacy block, or choose another client method: fedsim plugins"
    if not isinstance(client, Client):
        raise InputError(
            f"client.name: {block.name!r} is a Flower ClientApp, which fedsim cannot make private",
            hint=hint,
        )
    _require_own_records(settings, federation)
    _require_patients(settings, federation)
    if settings.augmentations > 1 and getattr(client, "augment", None) in (None, "none"):
        raise InputError(
            "privacy.augmentations: copies of a record that are all alike cost time for nothing",
            hint="type client.augment=siamese, or privacy.augmentations=1",
        )
    units = {
        name: int(units_of(federation.client_view(name), settings).max(initial=-1)) + 1
        for name in federation.train
    }
    with isolated(Streams(0).sequence("model")):
        client.check_private(build_model(scenario, federation.task), federation.task)
    try:
        return plan_privacy(
            settings,
            scenario.rounds,
            units,
            client.private_steps,
            together=len(np.unique(_groups(federation))),
            most_records=_most_records(federation) if settings.unit == "record" else 1,
            **search,
        )
    except ValueError as error:
        raise InputError(f"client {block.name!r} cannot be private: {error}", hint=hint) from error


def _require_own_records(settings: Privacy, federation: Federation) -> None:
    """Refuse partitions with which no client's epsilon is that of a record, or there is none."""
    if empty := [name for name, where in federation.train.items() if not len(where)]:
        raise InputError(
            f"privacy: client {empty[0]!r} has no training records: there is nothing to sample",
            hint="choose another federation.partition, or fewer federation.clients",
        )
    where = np.concatenate(list(federation.train.values()))
    twice = len(where) - len(np.unique(where))
    if twice and not settings.shared_patients:
        raise InputError(
            f"privacy: {twice} training records are with several clients, or twice with one: what "
            "they pay is not the epsilon of one client",
            hint="type privacy.unit=patient privacy.shared_patients=true, or choose another "
            "federation.partition",
        )


def _require_patients(settings: Privacy, federation: Federation) -> None:
    """Refuse claims about patients that the data, or the partition, do not bear out."""
    if settings.unit != "patient":
        return
    if _most_records(federation) < 2:
        raise InputError(
            "privacy.unit: the data do not say which records are of one patient or lesion",
            hint="type privacy.unit=record",
        )
    at_each = sum(len(set(federation.store.groups[w])) for w in federation.train.values())
    if at_each > len(np.unique(_groups(federation))) and not settings.shared_patients:
        raise InputError(
            "privacy.shared_patients: there are patients with records at several clients",
            hint="type privacy.shared_patients=true",
        )


def _budget(scenario: Scenario) -> float | None:
    """The epsilon that a round's line shows beside what is spent."""
    settings = scenario.privacy
    return None if settings is None else settings.max_epsilon or settings.target_epsilon


def worker_count(scenario: Scenario, clients: int) -> int:
    """Clients that run at a time: as asked, else as many as cores and GPUs carry."""
    resources = scenario.resources
    if resources.backend == "inline":
        return 1
    wanted = resources.workers
    if wanted is None:
        # Of a cluster nothing is known yet: it takes as many of these as it can.
        local = resources.gpus and resources.ray_address is None
        here = (gpus(), resources.gpus) if local else (0, 0.0)
        wanted = max(1, workers_on(cores(), here[0], resources.threads, here[1]))
    return min(wanted, clients)


def buffers_of(
    model: torch.nn.Module,
    strategy: FlowerStrategy,
    privacy: PrivacyPlan | None,
    sharing: Sharing | None = None,
) -> Buffers:
    """What of the model goes past the strategy, averaged with the strategy's own weights."""
    if sharing is not None and privacy is not None:
        sharing = sharing.in_private(model)
    weighted = getattr(strategy, "weighted_by_key", "num-examples")
    if getattr(strategy, "weighting", "samples") == "uniform":
        weighted = None
    roles = roles_of(model, getattr(strategy, "arrayrecord_key", "arrays"), sharing)
    return Buffers(roles, privacy is None, weighted)


@contextlib.contextmanager
def engine(
    scenario: Scenario,
    seed: int,
    federation: Federation,
    strategy: FlowerStrategy,
    console: Console,
    folder: RunFolder | None,
    step_limit: int | None = None,
    privacy: PrivacyPlan | None = None,
) -> Iterator[Rounds]:
    """Put the rooms together: grid, ledger, server, loop. Trials have no folder and run inline."""
    streams, task = Streams(seed), federation.task
    names = list(federation.train)
    require_resources(scenario, len(names))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(scenario.resources.server_threads)
    quiet = contextlib.nullcontext() if isinstance(strategy, Strategy) else _quiet_flower()
    with quiet, tempfile.TemporaryDirectory(prefix="fedsim-") as temporary:
        with isolated(streams.sequence("model")):
            model = build_model(scenario, task)
        board_path = Path(temporary) / "progress"
        board = Board(board_path, len(names), create=True)
        arrays = first_arrays(scenario, task, seed)
        buffers = buffers_of(model, strategy, privacy, sharing_of(scenario, model))
        buffers.begin(arrays)
        if folder is not None and (told := buffers.told()):
            console.line(told)
        noise = None
        if privacy is not None:
            digest = run_digest(scenario, seed, federation, arrays, privacy)
            noise = Noise.seeded(digest)
            if privacy.settings.noise == "secret":
                # A trial, or an audit's own training, has a key of its own that nobody keeps.
                key = KeyFile(folder.path).read() if folder else secrets.token_bytes(KEY_BYTES)
                noise = Noise.secret(key, digest)
        at_clients = privacy is not None and privacy.settings.unit != "client"
        job = Job(
            scenario,
            seed,
            federation.store.folder,
            task,
            federation.train,
            federation.val,
            str(board_path),
            step_limit,
            privacy if at_clients else None,
            noise if at_clients else None,
            buffers.roles,
            buffers.stays,
        )

        traffic: list[dict[str, Any]] = []
        checkpoints = Checkpoints(folder, console.line) if folder is not None else None

        def sink(row: dict[str, Any]) -> None:
            if folder is not None:
                traffic.append(row)
                folder.append("traffic.jsonl", row)
                console.traffic(row)

        ledger = TrafficLedger(sink)
        grid: BaseGrid

        def tick() -> None:
            console.watch(grid.in_flight)

        if scenario.resources.backend == "inline" or step_limit is not None:
            grid = InlineGrid(job, ledger, tick)
        else:
            from fedsim.grid.ray import RayGrid

            workers = worker_count(scenario, len(names))
            grid = RayGrid(job, ledger, tick, workers=workers, verbose=console.verbose)

        grid.buffers = buffers
        if is_one_shot(strategy):
            grid.replies = checkpoints

        def new_model() -> torch.nn.Module:
            return buffers.give(build_model(scenario, task))

        device = device_for(scenario)
        test, val = federation.view("test"), federation.view("val")
        pooled = scenario.evaluation.select == "pooled_val"

        def predict_test(arrays: ArrayRecord) -> np.ndarray:
            flower.load_state(model, arrays)
            return task.predict(model, test, device)

        def score_test(arrays: ArrayRecord) -> dict[str, float | None]:
            return task.score(predict_test(arrays), test, per_site=True)

        def validate(candidate: torch.nn.Module) -> dict[str, float | None]:
            return task.score(task.predict(candidate, val, device), val)

        def score_val(arrays: ArrayRecord) -> dict[str, float | None]:
            flower.load_state(model, arrays)
            return validate(model)

        server = Server(
            task=task,
            names=names,
            rounds=scenario.rounds,
            participation=scenario.federation.participation,
            device=device,
            new_model=new_model,
            steps=Steps(SERVER, board=board, limit=step_limit, tick=tick),
            validate=validate if pooled else None,
            folder=folder.path / "synthetic" if folder is not None else None,
            note=stand_in_note(federation.store),
            client_of=lambda reply: grid.client_of(reply.metadata.src_node_id),
            roles=buffers.roles,
            _streams=streams,
            _noise=noise,
        )
        if isinstance(strategy, Strategy):
            with plugin_code(f"strategy {scenario.strategy.name!r} failed in setup"):
                strategy.setup(server)
        console.begin(names, scenario.rounds, board, _budget(scenario), task.facts)
        try:
            yield Rounds(
                scenario=scenario,
                strategy=strategy,
                grid=grid,
                server=server,
                ledger=ledger,
                streams=streams,
                console=console,
                fits=lambda arrays: flower.load_state(model, arrays),
                score_test=score_test,
                predict_test=predict_test,
                score_val=score_val if pooled else None,
                write=lambda name, row: folder.append(name, row) if folder else None,
                checkpoints=checkpoints,
                traffic=traffic,
                arrays=arrays,
                buffers=buffers,
                privacy=PrivacyLedger(privacy) if privacy else None,
            )
        finally:
            grid.close()
            torch.set_num_threads(threads_before)
