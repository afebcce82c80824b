"""Putting the rooms together: from what is prepared to a loop that is ready to run."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.engine.checkpoint import Checkpoints
from fedsim.engine.loop import Rounds
from fedsim.engine.prepare import Prepared
from fedsim.engine.scoring import Scoring
from fedsim.engine.strategies import history_of, quiet_flower
from fedsim.federation.holdings import stand_in_note
from fedsim.folder.runfolder import RunFolder
from fedsim.grid.auto import AutoGrid
from fedsim.grid.base import BaseGrid
from fedsim.grid.choosing import Choice, may_break, settled
from fedsim.grid.inline import InlineGrid
from fedsim.grid.machine import asked_gpus, cores, gpus, require_resources, workers_on
from fedsim.grid.mode import Mode
from fedsim.grid.progress import Board, Steps
from fedsim.grid.worker import Job, device_for
from fedsim.ledger.privacy import PrivacyLedger
from fedsim.ledger.traffic import TrafficLedger
from fedsim.method.strategy import Server, Strategy, makes_exchanges
from fedsim.models.build import build_model, first_arrays
from fedsim.observers.telling import Observers
from fedsim.privacy.key_file import KeyFile
from fedsim.privacy.noise import KEY_BYTES, Noise
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.run_key import run_digest
from fedsim.raising import plugin_code
from fedsim.randomness import SERVER, kept
from fedsim.scenario import Scenario
from fedsim.scenario.overrides import with_colluders
from fedsim.scenario.schema import Privacy
from fedsim.wire.buffers import Buffers, roles_of
from fedsim.wire.sharing import Sharing, sharing_of

MakeGrid = Callable[[Job, TrafficLedger, Callable[[], None]], BaseGrid]
"""Makes a grid of what its clients must know, who counts messages, and who is told of progress."""


@contextlib.contextmanager
def assembled(
    prepared: Prepared,
    observers: Observers | None = None,
    folder: RunFolder | None = None,
    *,
    step_limit: int | None = None,
    verbose: bool = False,
    chosen: Callable[[Choice], None] | None = None,
    make_grid: MakeGrid | None = None,
) -> Iterator[Rounds]:
    """The loop of a run, with all that it needs, for as long as the context lasts.

    Args:
        prepared: what the run is made of.
        observers: who watches.
        folder: where checkpoints are kept, and what one-shot clients sent; None for trials.
        step_limit: the steps after which each loop of local work stops: a trial, which runs inline.
        verbose: let Ray print.
        chosen: is told where clients run, once that is known.
        make_grid: makes the grid, where the clients are not simulated.
    """
    observers = Observers() if observers is None else observers
    scenario = prepared.scenario
    require_resources(scenario, len(prepared.names))
    quiet = contextlib.nullcontext() if _is_ours(prepared.strategy) else quiet_flower()
    with _threads(scenario.resources.server_threads), quiet, _boards(prepared) as (path, board):
        scoring = Scoring(prepared)
        arrays = first_arrays(scenario, prepared.task, prepared.seed)
        sharing = sharing_of(scenario, scoring.model)
        buffers = buffers_of(scoring.model, prepared.strategy, prepared.privacy, sharing)
        handed = buffers.begin(arrays)
        if folder is not None and (note := buffers.note()):
            observers.note(note)
        noise = noise_of(prepared, arrays, folder)
        job = job_of(prepared, path, step_limit, noise, buffers)
        traffic: list[dict[str, Any]] = []
        ledger = TrafficLedger(_sink(traffic, observers))
        progress = _Progress(board, observers)
        if make_grid is None:
            grid = grid_of(job, ledger, progress.tick, verbose=verbose, chosen=chosen)
        else:
            grid = make_grid(job, ledger, progress.tick)
        progress.grid = grid
        grid.buffers = buffers
        checkpoints = None if folder is None else Checkpoints(folder, observers.note)
        stored = prepared.one_shot or makes_exchanges(prepared.strategy)
        grid.replies = checkpoints if stored else None
        steps = Steps(SERVER, board=board, limit=step_limit, tick=progress.tick)
        server = server_of(prepared, scoring, buffers, noise, steps, grid, folder)
        server.history = history_of(
            prepared.strategy, path.parent if folder is None else folder.path
        )
        server.first_arrays = handed
        try:
            set_up(prepared, server)
            yield Rounds(
                prepared=prepared,
                grid=grid,
                server=server,
                ledger=ledger,
                observers=observers,
                scoring=scoring,
                checkpoints=checkpoints,
                traffic=traffic,
                arrays=arrays,
                buffers=buffers,
                privacy=PrivacyLedger(prepared.privacy) if prepared.privacy else None,
            )
        finally:
            grid.close()


def _is_ours(strategy: FlowerStrategy) -> bool:
    """Whether it derives from fedsim's strategies, and not from Flower's alone."""
    return isinstance(strategy, Strategy)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _boards(prepared: Prepared) -> Iterator[tuple[Path, Board]]:
    """A file for the progress of clients and server, and the server's end of it."""
    with tempfile.TemporaryDirectory(prefix="fedsim-") as temporary:
        path = Path(temporary) / "progress"
        yield path, Board(path, len(prepared.names), create=True)


class _Progress:
    """Tells observers how far whoever works is."""

    def __init__(self, board: Board, observers: Observers) -> None:
        self._board, self._observers = board, observers
        self.grid: BaseGrid | None = None

    def tick(self) -> None:
        """Called by whoever works, often."""
        self._observers.working(self.read)

    def read(self) -> dict[int, tuple[int, int, str]]:
        """Steps done, of how many, and for what, of the running clients or of the server."""
        running = sorted(self.grid.in_flight if self.grid is not None else ()) or [SERVER]
        return {client: self._board.read(client) for client in running}


def _sink(traffic: list[dict[str, Any]], observers: Observers) -> Callable[[dict[str, Any]], None]:
    """Takes each line of traffic.jsonl: for the round's checkpoint, and for who watches."""

    def sink(row: dict[str, Any]) -> None:
        traffic.append(row)
        observers.message(row)

    return sink


def buffers_of(
    model: torch.nn.Module,
    strategy: FlowerStrategy,
    privacy: PrivacyPlan | Privacy | None,
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


def noise_of(prepared: Prepared, arrays: ArrayRecord, folder: RunFolder | None) -> Noise | None:
    """Where a private run's noise comes from; None in a run without privacy.

    A trial, or an audit's own training, has a key of its own that nobody keeps.
    """
    plan = prepared.privacy
    if plan is None:
        return None
    digest = run_digest(prepared.scenario, prepared.seed, prepared.federation, arrays, plan)
    if plan.settings.noise != "secret":
        return Noise.seeded(digest)
    key = KeyFile(folder.path).read() if folder else secrets.token_bytes(KEY_BYTES)
    return Noise.secret(key, digest)


def job_of(
    prepared: Prepared,
    board: Path,
    step_limit: int | None,
    noise: Noise | None,
    buffers: Buffers,
) -> Job:
    """What a worker must know of the run."""
    federation, plan = prepared.federation, prepared.privacy
    at_clients = plan is not None and plan.settings.unit != "client"
    conspiracy = prepared.conspiracy
    colluders = () if conspiracy is None else conspiracy.clients
    return Job(
        with_colluders(prepared.scenario, colluders),
        prepared.seed,
        federation.store.folder,
        prepared.task,
        federation.train,
        federation.val,
        str(board),
        step_limit,
        plan if at_clients else None,
        noise if at_clients else None,
        buffers.roles,
        buffers.stays,
        federation.forget,
        prepared.mode if step_limit is None else Mode(),
        str(device_for(prepared.scenario)),
        federation.store.fingerprint,
        getattr(federation.store, "folders", (federation.store.folder,)),
        federation.unlabelled,
    )


def grid_of(
    job: Job,
    ledger: TrafficLedger,
    tick: Callable[[], None],
    *,
    verbose: bool = False,
    chosen: Callable[[Choice], None] | None = None,
) -> BaseGrid:
    """What runs the clients: this process, or Ray's, or what is faster; `chosen` is told which."""
    if job.step_limit is not None:
        return InlineGrid(job, ledger, tick)
    tell = chosen if chosen is not None else lambda choice: None
    workers = worker_count(job.scenario, len(job.names))
    choice = settled(job.scenario, workers)
    shares = job.scenario.resources.gpus == "auto" and job.device == "cuda"
    if choice is not None and choice.backend == "ray" and shares and not may_break(job.scenario):
        # What a worker gets of a GPU is measured first.
        return AutoGrid(
            job, ledger, tick, workers=workers, chosen=tell, verbose=verbose, forced=choice.why
        )
    if choice is None:
        return AutoGrid(job, ledger, tick, workers=workers, chosen=tell, verbose=verbose)
    if choice.backend == "ray" and shares:
        why = f"{choice.why}; one to a GPU, as none was measured before"
        workers = min(workers, gpus())
        choice = Choice("ray", why, workers, 1.0)
    resources = job.scenario.resources
    if choice.backend == "ray" and resources.ray_address is not None:
        from fedsim.grid.ray import RayGrid

        # Of a cluster nothing is known yet: it takes as many as it can.
        most = workers if resources.workers is not None else len(job.names)
        return RayGrid(job, ledger, tick, workers=most, verbose=verbose, chosen=tell)
    tell(choice)
    if choice.backend == "inline":
        return InlineGrid(job, ledger, tick)
    from fedsim.grid.ray import RayGrid

    return RayGrid(job, ledger, tick, workers=workers, gpus=choice.gpus, verbose=verbose)


def worker_count(scenario: Scenario, clients: int) -> int:
    """Clients that run at a time: as asked, else as many as cores and GPUs carry."""
    resources = scenario.resources
    if resources.backend == "inline":
        return 1
    wanted = resources.workers
    if wanted is None:
        # Of a cluster nothing is known yet: it takes as many of these as it can.
        share = asked_gpus(resources)
        local = share and resources.ray_address is None
        here = (gpus(), share) if local else (0, 0.0)
        wanted = max(1, workers_on(cores(), here[0], resources.threads, here[1]))
    return min(wanted, clients)


def server_of(
    prepared: Prepared,
    scoring: Scoring,
    buffers: Buffers,
    noise: Noise | None,
    steps: Steps,
    grid: BaseGrid,
    folder: RunFolder | None,
) -> Server:
    """What the strategy may use."""
    scenario = prepared.scenario
    return Server(
        task=prepared.task,
        names=prepared.names,
        rounds=scenario.rounds,
        participation=scenario.federation.participation,
        device=scoring.device,
        new_model=lambda: buffers.give(build_model(scenario, prepared.task)),
        steps=steps,
        validate=scoring.validate if scoring.selects else None,
        folder=folder.path / "synthetic" if folder is not None else None,
        note=stand_in_note(prepared.federation.store),
        client_of=lambda reply: grid.client_of(reply.metadata.src_node_id),
        roles=buffers.roles,
        forgets={
            name: len(some) / len(prepared.federation.train[name])
            for name, some in prepared.federation.forget.items()
            if len(some)
        },
        _streams=prepared.streams,
        _noise=noise,
    )


def set_up(prepared: Prepared, server: Server) -> None:
    """Hand a strategy of ours what it may use."""
    strategy = prepared.strategy
    if isinstance(strategy, Strategy):
        with (
            plugin_code(f"strategy {prepared.scenario.strategy.name!r} failed in setup"),
            kept(),  # A model that it looks at draws its weights.
        ):
            strategy.setup(server)
