"""Running a scenario, from Python and for the command line."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from safetensors.numpy import save as encode_safetensors

from fedsim import flower
from fedsim.checkpoint import Checkpoints
from fedsim.client import Client
from fedsim.console import Console
from fedsim.errors import InputError
from fedsim.evaluation import evaluate
from fedsim.federation import Federation, build_federation, stand_in_note
from fedsim.grid.base import BaseGrid
from fedsim.grid.inline import InlineGrid
from fedsim.grid.worker import Job, device_for
from fedsim.ledger.traffic import TrafficLedger
from fedsim.loop import Rounds
from fedsim.models.build import build_model
from fedsim.progress import Board, Steps
from fedsim.randomness import SERVER, Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.runfolder import SCHEMA_VERSION, RunFolder, environment, now, write_whole
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.strategy import Server, Strategy


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    Attributes:
        folder: the run folder.
        seed: the run's seed.
        metrics: metrics of the final global model on the test split; None where undefined.
        summary: the content of summary.json.
        rounds: the lines of rounds.jsonl.
    """

    folder: Path
    seed: int
    metrics: dict[str, float | None]
    summary: dict[str, Any]
    rounds: list[dict[str, Any]]


@dataclass(frozen=True)
class Estimate:
    """What a run would cost, from one trial round with few steps.

    Attributes:
        rounds: rounds of the scenario.
        mb_up, mb_down: megabytes (10^6 bytes) of all rounds.
        client_seconds: estimated seconds of local work of all clients and rounds.
        server_seconds: estimated seconds of the server's work of all rounds.
        workers: clients that run at a time.
    """

    rounds: int
    mb_up: float
    mb_down: float
    client_seconds: float
    server_seconds: float
    workers: int

    @property
    def seconds(self) -> float:
        """Estimated duration: client work spread over the workers, then the server's."""
        return self.client_seconds / self.workers + self.server_seconds


def run(
    scenario: str | Path | Scenario,
    *overrides: str,
    seed: int | None = None,
    runs: str | Path = "runs",
    backend: str | None = None,
    workers: int | None = None,
    quiet: bool = True,
) -> Result:
    """Run a scenario with one seed.

    Args:
        scenario: name of a shipped scenario, path of a YAML file, or a loaded `Scenario`.
        overrides: "key.sub=value", as on the command line.
        seed: the seed; by default the first of the scenario's `seeds`.
        runs: folder to make the run folder in.
        backend: "inline" or "ray"; by default the scenario's.
        workers: clients that run at a time; by default the scenario's.
        quiet: print nothing.

    Returns:
        The result, with the path of the run folder.

    Raises:
        InputError: the scenario, an override, a plugin or the data is wrong.
        ClientError: a client raised.
        RunError: the strategy raised, or a worker died.
    """
    if not isinstance(scenario, Scenario):
        extra = list(overrides)
        extra += [f"resources.backend={backend}"] if backend else []
        extra += [f"resources.workers={workers}"] if workers else []
        scenario = load(str(scenario), extra)
    elif overrides or backend or workers:
        raise InputError("overrides go with a scenario's name or file, not with a loaded Scenario")
    seed = scenario.seeds[0] if seed is None else seed
    return execute(scenario, seed, Path(runs), Console(quiet=quiet))


def execute(scenario: Scenario, seed: int, runs: Path, console: Console) -> Result:
    """Run one seed of a scenario into a new run folder."""
    activate_plugins(scenario)
    check_client(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    strategy = build_strategy(scenario, len(federation.train))
    folder = RunFolder.create(runs, scenario.name, seed)
    record = {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario.name,
        "seed": seed,
        "data": {"name": scenario.data.name, **federation.describe()},
        "released_without_privacy": released(scenario, federation),
        **environment(),
        "started": now(),
        "finished": None,
        "status": "running",
    }
    folder.write_text("scenario.yaml", scenario.to_yaml())
    console.line(f"{scenario.name}, seed {seed}: {_data_line(scenario, federation)}")
    return _go(scenario, seed, federation, strategy, console, folder, record)


def resume(path: Path, resources: Sequence[str], console: Console) -> Result:
    """Go on with a run from its last checkpoint, to the bits an uninterrupted run would give.

    Args:
        path: the run folder.
        resources: overrides; only those of `resources.*` that do not change bits.

    Raises:
        InputError: it is no run folder, an override is not one of resources, or the data are not
            those that the run began with.
    """
    folder = RunFolder.open(path)
    record = folder.read_json("run.json")
    others = [word for word in resources if not word.startswith(_RESUMABLE)]
    if others:
        raise InputError(
            f"a resumed run keeps its scenario; {others[0]!r} would change it",
            hint=f"these may change: {', '.join(_RESUMABLE)}",
        )
    if record["status"] == "done":
        summary = folder.read_json("summary.json")
        rows = folder.read_lines("rounds.jsonl")
        console.line(f"{path} is finished; there is nothing to resume")
        return Result(path, record["seed"], summary["metrics"], summary, rows)
    scenario, seed = load(path / "scenario.yaml", resources), record["seed"]
    activate_plugins(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    if federation.store.fingerprint != record["data"]["fingerprint"]:
        raise InputError(
            f"the data are not those that {path} began with",
            hint=f"start again: fedsim run {path / 'scenario.yaml'} --seed {seed}",
        )
    strategy = build_strategy(scenario, len(federation.train))
    console.line(f"{scenario.name}, seed {seed}: {_data_line(scenario, federation)}")
    return _go(scenario, seed, federation, strategy, console, folder, record, resumed=True)


# What may change on resume: where clients run, and how many at a time, never what they compute.
_RESUMABLE = ("resources.backend=", "resources.workers=", "resources.ray_address=")


def _go(
    scenario: Scenario,
    seed: int,
    federation: Federation,
    strategy: FlowerStrategy,
    console: Console,
    folder: RunFolder,
    record: dict[str, Any],
    resumed: bool = False,
) -> Result:
    """Run the rounds that are left, and close the run folder whatever happens."""
    status = "failed"
    folder.write_json("run.json", record | {"status": "running", "finished": None})
    try:
        with _engine(scenario, seed, federation, strategy, console, folder) as rounds:
            if resumed:
                assert rounds.checkpoints is not None
                checkpoint = rounds.checkpoints.latest()
                rounds.checkpoints.rewind(checkpoint)
                if checkpoint is not None:
                    rounds.restore(checkpoint)
                console.line(f"resumed after round {rounds.finished} of {scenario.rounds}")
            rounds.run()
            summary = _finish(scenario, federation, rounds, folder)
        status = "done"
    except KeyboardInterrupt as interrupt:
        status = "interrupted"
        raise KeyboardInterrupt(str(folder.path)) from interrupt
    finally:
        console.stop()
        folder.write_json("run.json", record | {"finished": now(), "status": status})
    return Result(folder.path, seed, summary["metrics"], summary, folder.read_lines("rounds.jsonl"))


def estimate(scenario: Scenario, seed: int, console: Console, steps: int = 2) -> Estimate:
    """Measure what a run would cost: one round in this process, every loop cut after `steps`."""
    activate_plugins(scenario)
    check_client(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    strategy = build_strategy(scenario, len(federation.train))
    with _engine(scenario, seed, federation, strategy, console, None, steps) as rounds:
        rounds.trial()
        up, down = rounds.ledger.total_megabytes()
        server = rounds.server.steps
        assert isinstance(server, Steps)
        return Estimate(
            rounds=scenario.rounds,
            mb_up=up * scenario.rounds,
            mb_down=down * scenario.rounds,
            client_seconds=sum(rounds.grid.estimated_seconds.values()) * scenario.rounds,
            server_seconds=server.estimated_seconds * scenario.rounds,
            workers=worker_count(scenario, len(federation.train)),
        )


def build_strategy(scenario: Scenario, clients: int) -> FlowerStrategy:
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
        parameters = {k: v for k, v in fallback.items() if accepts_all or k in known} | parameters
    strategy = construct(factory, parameters)
    if not isinstance(strategy, FlowerStrategy):
        raise InputError(
            f"strategy.name: {block.name!r} makes a {type(strategy).__name__}, not a strategy",
            hint="a strategy derives from fedsim.Strategy or flwr.serverapp.strategy.Strategy",
        )
    if is_one_shot(strategy) and scenario.rounds != 1:
        raise InputError(
            f"strategy {block.name!r} is one-shot: clients send once, so there is one round, not "
            f"{scenario.rounds}",
            hint="type rounds=1",
        )
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        asked = getattr(strategy, name, 0)
        if isinstance(asked, int) and asked > clients:
            raise InputError(
                f"strategy.{name} asks for {asked} clients, but there are {clients}",
                hint=f"type strategy.{name}={clients}, or federation.clients={asked}",
            )
    return strategy


def is_one_shot(strategy: FlowerStrategy) -> bool:
    """Whether the strategy says that clients send once."""
    return isinstance(strategy, Strategy) and strategy.one_shot


def check_client(scenario: Scenario) -> None:
    """Raise InputError unless `client.name` is a client method or a Flower ClientApp."""
    name = scenario.client.name
    found = default_registry().resolve("clients", name)
    if isinstance(found, ClientApp):
        return
    client = construct(found, scenario.client.parameters)
    if not isinstance(client, Client):
        raise InputError(
            f"client.name: {name!r} makes a {type(client).__name__}, not a client method",
            hint="a client method derives from fedsim.Client; a flwr ClientApp may be named too",
        )


def worker_count(scenario: Scenario, clients: int) -> int:
    """Clients that run at a time: as asked, else one for each core that `threads` leaves."""
    resources = scenario.resources
    if resources.backend == "inline":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = resources.workers or max(1, (cores or 1) // resources.threads)
    return min(wanted, clients)


def released(scenario: Scenario, federation: Federation) -> list[str]:
    """What leaves the sites, or guides choices, without a privacy mechanism."""
    items = ["labels per client"] if federation.store.source == "path" else []
    items += ["client messages (traffic.jsonl names their fields)"]
    if scenario.evaluation.select == "pooled_val":
        items += ["pooled validation split, for model selection"]
    return items


def _data_line(scenario: Scenario, federation: Federation) -> str:
    store = federation.store
    sizes = ", ".join(f"{len(where)} {name}" for name, where in federation.split.items())
    if store.source == "embedded":
        origin = f"EMBEDDED STAND-IN for {scenario.data.name} (generated images, not real data)"
    else:
        origin = f"{scenario.data.name} from {store.root}"
    return f"{origin}; {len(federation.train)} clients; images: {sizes}"


@contextlib.contextmanager
def _engine(
    scenario: Scenario,
    seed: int,
    federation: Federation,
    strategy: FlowerStrategy,
    console: Console,
    folder: RunFolder | None,
    step_limit: int | None = None,
) -> Iterator[Rounds]:
    """Put the rooms together: grid, ledger, server, loop. Trials have no folder and run inline."""
    streams, task = Streams(seed), federation.task
    names = list(federation.train)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(scenario.resources.server_threads)
    with tempfile.TemporaryDirectory(prefix="fedsim-") as temporary:
        board_path = Path(temporary) / "progress"
        board = Board(board_path, len(names), create=True)
        job = Job(
            scenario,
            seed,
            federation.store.folder,
            task,
            federation.train,
            federation.val,
            str(board_path),
            step_limit,
        )

        traffic: list[dict[str, Any]] = []
        checkpoints = Checkpoints(folder) if folder is not None else None

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

        if is_one_shot(strategy):
            grid.replies = checkpoints

        def new_model() -> torch.nn.Module:
            return build_model(scenario, task)

        with isolated(streams.sequence("model")):
            model = new_model()
        initial = initial_arrays(model, scenario)
        device = device_for(scenario)
        test, val = federation.view("test"), federation.view("val")
        pooled = scenario.evaluation.select == "pooled_val"

        def score_test(arrays: ArrayRecord) -> dict[str, float | None]:
            flower.load_state(model, arrays)
            return evaluate(model, test, device, per_site=True)

        def score_val(arrays: ArrayRecord) -> dict[str, float | None]:
            flower.load_state(model, arrays)
            return evaluate(model, val, device)

        def validate(candidate: torch.nn.Module) -> dict[str, float | None]:
            return evaluate(candidate, val, device)

        server = Server(
            task=task,
            names=names,
            participation=scenario.federation.participation,
            device=device,
            new_model=new_model,
            steps=Steps(SERVER, board=board, limit=step_limit, tick=tick),
            validate=validate if pooled else None,
            folder=folder.path / "synthetic" if folder is not None else None,
            note=stand_in_note(federation.store),
            client_of=lambda reply: grid.client_of(reply.metadata.src_node_id),
            _streams=streams,
        )
        if isinstance(strategy, Strategy):
            strategy.setup(server)
        console.begin(names, scenario.rounds, board)
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
                score_val=score_val if pooled else None,
                write=lambda row: folder.append("rounds.jsonl", row) if folder else None,
                checkpoints=checkpoints,
                traffic=traffic,
                arrays=initial,
            )
        finally:
            grid.close()
            torch.set_num_threads(threads_before)


def initial_arrays(model: torch.nn.Module, scenario: Scenario) -> ArrayRecord:
    """The first global arrays: the model's own initialisation, or the file `model.init` names."""
    path = scenario.model.init
    if path is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            flower.load_state(model, flower.tensor_record(load_file(path)))
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"model.init: {path} does not fit model {scenario.model.name!r}: {error}",
                hint="the file must hold the model's state_dict: the same names and shapes",
            ) from error
    return flower.pack_state(model.state_dict())


def _finish(
    scenario: Scenario,
    federation: Federation,
    rounds: Rounds,
    folder: RunFolder,
) -> dict[str, Any]:
    """Write the model and the summary."""
    arrays = {
        name: np.ascontiguousarray(array) for name, array in flower.tensors(rounds.selected).items()
    }
    write_whole(folder.path / "model.safetensors", encode_safetensors(arrays))
    up, down = rounds.ledger.total_megabytes()
    summary = {
        "metrics": rounds.metrics,
        "rounds": scenario.rounds,
        "mb_up_total": up,
        "mb_down_total": down,
        "epsilon": None,
        "epsilon_rdp": None,
        "epsilon_claimed": None,
        "accountant": None,
        "delta": None,
        "certified": False,
        "audit": None,
        "wall_seconds": rounds.seconds,
        "peak_rss_mb": rounds.peak_rss_mb(),
        "data_source": federation.store.source,
    }
    folder.write_json("summary.json", summary)
    return folder.read_json("summary.json")
