"""`RayGrid`: Ray actors on this machine, or on a cluster the user already has.

One actor a worker, alive for the whole process: a second run finds them warm. Records that several
messages share are put into Ray's object store once a round. The longest client of the window runs
first; replies are handed on in client order, so at most a window of them is held at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
from flwr.app import Context, Message, Metadata, RecordDict

from fedsim.errors import DivergedError, FedsimError, Interruption, RunError
from fedsim.grid import cluster
from fedsim.grid.base import BaseGrid
from fedsim.grid.choosing import Choice, Cluster, NodeUse
from fedsim.grid.cluster import Node, Watch
from fedsim.grid.crew import Answer, Crew, Outcome
from fedsim.grid.machine import asked_gpus, gpus
from fedsim.grid.shipping import Deliveries, Delivery, on
from fedsim.grid.worker import Job, Worker
from fedsim.ledger.traffic import TrafficLedger
from fedsim.locks import is_taken, take
from fedsim.method.faults import Failure, Kind
from fedsim.privacy.noise import Noise
from fedsim.raising import one_line, short_traceback
from fedsim.scenario import Resources
from fedsim.wire import flower

# Replies held back for the sake of order may take this much memory (MB) beyond one a worker.
_WINDOW_MB = 256.0
_POLL_SECONDS = 0.2
_ENDING_SECONDS = 10.0  # until the processes of a Ray of our own have ended
_STARTS = 3
_SHORT = "/tmp"
_PREFIX = "fedsim-ray-"
_YOUNG_SECONDS = 60.0
_DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    # The answer of a client whose node is gone, before it was fetched.
    ray.exceptions.ObjectLostError,
)


class _Flight(NamedTuple):
    """Messages at work: their place in the list of parcels, the worker, and when it began."""

    place: int
    worker: int
    started: float


class _Parcel(NamedTuple):
    """What a worker is handed at a time: groups of messages, and whether they train together."""

    groups: list[list[Message]]
    together: bool

    @property
    def messages(self) -> list[Message]:
        """All of them, in client order."""
        return [message for group in self.groups for message in group]


class _Part(NamedTuple):
    """One message of a parcel.

    Attributes:
        metadata: of the message.
        names: of its records.
        places: where each of them is among the records that travel with the parcel.
        context: of the client.
    """

    metadata: Metadata
    names: list[str]
    places: list[int]
    context: Context


class _Raised(NamedTuple):
    """What a client raised: what kind of failure it is, one line, and its traceback."""

    kind: Kind
    reason: str
    details: str


class _Actor:
    """A worker process. One job at a time; `configure` gives it the next."""

    def __init__(self) -> None:
        flower.configure_identity()
        self._worker: Worker | None = None
        self._crew: Crew | None = None

    def configure(self, job: Job, noise: Noise | None, store: Path) -> str:
        """Take up a job whose data lie here; what is wrong with it, as text, or ""."""
        try:
            job = replace(job, noise=noise, store=store)
            if self._crew is not None:
                self._crew.close()
            self._crew = Crew(job) if job.mode.together else None
            self._worker = Worker(job)
            self._worker.warm()
        except BaseException as error:
            return str(error) if isinstance(error, FedsimError) else short_traceback(error)
        return ""

    def run(
        self, groups: list[list[_Part]], together: bool, round: int, exchange: int, *records: Any
    ) -> list[Answer | _Raised]:
        """The answers of a parcel's clients, or what they raised, in order."""
        assert self._worker is not None
        begun = []
        for group in groups:
            messages = [_message(part, records) for part in group]
            contexts = [part.context for part in group]
            if together:
                assert self._crew is not None
                begun.append(self._crew.begin(messages, contexts, round, exchange))
            else:
                begun.append(partial(self._alone, messages[0], contexts[0], round, exchange))
        return [_as_text(outcome) for outcomes in begun for outcome in outcomes()]

    def _alone(
        self, message: Message, context: Context, round: int, exchange: int
    ) -> list[Outcome]:
        assert self._worker is not None
        try:
            return [Answer(*self._worker.run(message, context, round, exchange))]
        except BaseException as error:  # SystemExit, too: Ray would end the worker.
            return [error]


def _message(part: _Part, records: Sequence[Any]) -> Message:
    """A client's own message."""
    own = {name: records[place] for name, place in zip(part.names, part.places, strict=True)}
    return flower.make_message(flower.shallow(RecordDict(own)), part.metadata)


def _as_text(outcome: Outcome) -> Answer | _Raised:
    """An outcome that can travel: an exception's class may not unpickle, or exist, elsewhere."""
    if isinstance(outcome, Answer):
        return outcome
    if isinstance(outcome, DivergedError):
        return _Raised("diverged", str(outcome), "")
    return _Raised("error", one_line(outcome), short_traceback(outcome))


class _Pool:
    """Actors of one shape, kept between runs of this process; grows when a run wants more.

    Attributes:
        asked: how many workers were wanted.
        actors: the workers' actors.
        nodes: where each of them is, on a cluster; None on this machine.
        watch: whether the cluster lives; None on this machine.
        deliveries: of the data to the cluster's nodes.
    """

    def __init__(self, resources: Resources, workers: int, verbose: bool) -> None:
        address = None if resources.ray_address is None else cluster.address_of(resources)
        _connect(resources, address, workers, verbose)
        self.is_own = _joined == [_OWN]
        self.asked, self.resources = workers, resources
        self.watch: Watch | None = None
        self.deliveries: Deliveries | None = None
        self.nodes: list[Node | None] = [None] * workers
        if address is not None:
            self.watch = Watch(address)
            self.deliveries = Deliveries(self.watch.here)
            self.nodes = [*cluster.places(resources, workers)]
        options: dict[str, Any] = {"num_cpus": resources.threads, "num_gpus": resources.gpus}
        if not self.is_own and "MKL_CBWR" in os.environ:
            # A Ray of our own has our environment, and workers that wait for their actor.
            options["runtime_env"] = {"env_vars": {"MKL_CBWR": os.environ["MKL_CBWR"]}}
        self._remote: Any = ray.remote(**options)(_Actor)
        self.actors: list[Any] = [self._start(node) for node in self.nodes]

    def _start(self, node: Node | None) -> Any:
        if node is None:
            return self._remote.remote()
        return self._remote.options(scheduling_strategy=on(node)).remote()

    def replace(self, worker: int) -> bool:
        """End an actor, dead, stuck or busy with what nobody wants, and start another.

        Returns:
            False where its node is lost, and no other one has room.
        """
        ray.kill(self.actors[worker])
        node = self.nodes[worker]
        if node is not None and not node.lives():
            free = cluster.free_places(self.resources, len(self.actors))
            found = next((place for place in free if place.lives()), None)
            if found is None:
                return False
            self.nodes[worker] = found
        self.actors[worker] = self._start(self.nodes[worker])
        return True

    @property
    def is_damaged(self) -> bool:
        """Whether the cluster is gone, or a node with workers is lost."""
        if self.watch is None:
            return False
        nodes = {node for node in self.nodes if node is not None}
        return bool(self.watch.gone) or not all(node.lives() for node in nodes)

    def close(self) -> None:
        """End the actors; a cluster that the user owns outlives us, they must not."""
        if self.watch is not None and self.watch.gone:
            return  # Nobody is left to ask; it would be waited for.
        if self.deliveries is not None:
            self.deliveries.close()
        for actor in self.actors:
            ray.kill(actor)


def _connect(resources: Resources, address: str | None, workers: int, verbose: bool) -> None:
    """Start Ray on this machine, or join the cluster at an address."""
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": verbose}
    if ray.is_initialized():
        return
    with _unchanged_environment(), _own_end():
        # Ray's coming default, and no warning: actors without GPUs leave the variables alone.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address is None:
            # Otherwise 15: beside any other work of the machine the clients would starve.
            os.environ.setdefault("RAY_worker_niceness", "0")
            cpus = max(workers * resources.threads, 1)
            _start_ray(num_cpus=cpus, num_gpus=gpus() if resources.gpus else 0, **options)
            _joined.append(_OWN)
            return
        cluster.require_answer(address)
        try:
            with contextlib.nullcontext() if verbose else _silent():
                ray.init(address=address, **options)
        except Exception as error:
            raise cluster.no_cluster(address, one_line(error)) from error
        _joined.append(address)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let Ray keep to itself what it has to say of a lost node: a page, on standard output.

    Private: whether workers' output is shown or not, nothing turns it off.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    before = worker.listen_error_messages
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = before


@contextlib.contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Restore the environment variables of this process; those started inside keep theirs."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: Ray puts its own in the place, which exits at once.

    Who has none, such as a notebook, keeps Ray's.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not main or not callable(before):
        yield
        return
    try:
        yield
    except SystemExit as ended:
        raise Interruption from ended
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_ray(**options: Any) -> None:
    """Start Ray on this machine; RunError where it does not, however often it is tried.

    Ray listens on all interfaces: a random token keeps strangers out, and other users of the
    machine do not see its folder.
    """
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    _authenticate("token")
    # Ray opens its folder to everybody, again and again; nobody else can enter the one around it.
    # The paths of sockets must be short.
    around = Path(_SHORT if os.path.isdir(_SHORT) else tempfile.gettempdir())
    _remove_abandoned(around)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=around)
    _folders.append((folder, os.open(folder, os.O_RDONLY)))
    take(_folders[-1][1])
    options["_temp_dir"] = os.path.join(folder, "ray")
    try:
        for left in reversed(range(_STARTS)):
            try:
                # An address: otherwise Ray joins whatever cluster a machine-wide file names.
                with _few_processes(log_monitor=options.get("log_to_driver", False)):
                    ray.init(address="local", include_dashboard=False, **options)
                break
            except Exception as error:
                # Ray gives its own processes 30 seconds, which a busy machine may not have.
                ray.shutdown()
                if not left:
                    raise RunError(
                        f"Ray did not start on this machine, in {_STARTS} attempts: "
                        f"{one_line(error)}\n"
                        "start or resume it when the machine is less busy, or type: "
                        "--backend inline"
                    ) from error
    except BaseException:  # Interrupted while it starts, too.
        ray.shutdown()
        _close_up()
        raise


@contextlib.contextmanager
def _few_processes(*, log_monitor: bool) -> Iterator[None]:
    """Let Ray start without its dashboard's server, its autoscaler and its reader of logs.

    Nothing here asks them, and each is a Python process that starts when the workers do. Private:
    the first one starts even where no dashboard is asked for, and nothing turns the others off.
    """
    idle = ["start_api_server", "start_monitor", *([] if log_monitor else ["start_log_monitor"])]
    node: Any = importlib.import_module("ray._private.node").Node
    before = {name: getattr(node, name) for name in idle}
    try:
        for name in idle:
            setattr(node, name, lambda self, **options: None)
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


# Private: no public way changes the mode once Ray is imported, as it may be before fedsim.
_raylet: Any = importlib.import_module("ray._raylet")
_MODE = (
    "token" if _raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN else "disabled"
)


def _close_up() -> None:
    """Forget the token, and remove the folder of the Ray that has ended."""
    _authenticate(_MODE)
    while _folders:
        (folder, lock), until = _folders.pop(), time.monotonic() + _ENDING_SECONDS
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        # Processes that are ending may write their last lines meanwhile.
        while os.path.isdir(folder) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(around: Path) -> None:
    """Remove the folders of Rays whose process was killed: nobody has their lock."""
    for folder in around.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            about = folder.lstat()
            # A folder is locked a moment after it is made.
            old = time.time() - about.st_mtime > _YOUNG_SECONDS
            if old and about.st_uid == os.getuid() and not is_taken(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _authenticate(mode: str) -> None:
    """Let this process's Ray use a token or not, and read it again: Ray asks once, on import."""
    _raylet.Config.initialize(json.dumps({"AUTH_MODE": mode}))
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


_OWN = "own"
_joined: list[str] = []  # The cluster that fedsim joined; none where who calls had started Ray.
_folders: list[tuple[str, int]] = []  # Each with its lock, open while this process lives.
_pools: dict[tuple[Any, ...], _Pool] = {}


def _pool(resources: Resources, workers: int, verbose: bool) -> _Pool:
    """A pool of at least `workers` actors; one of another shape gives its cores back first."""
    key = (resources.threads, resources.gpus, resources.ray_address)
    pool = _pools.get(key)
    if pool is None or pool.asked < workers or pool.is_damaged:
        shutdown()
        _pools[key] = _Pool(resources, workers, verbose)
    return _pools[key]


def shutdown() -> None:
    """End the actors, and the Ray that fedsim started."""
    while _pools:
        _, pool = _pools.popitem()
        if ray.is_initialized() and not pool.is_own:
            pool.close()
    if ray.is_initialized() and _joined:
        ray.shutdown()
        _close_up()
    _joined.clear()


atexit.register(shutdown)


class RayGrid(BaseGrid):
    """Runs clients in Ray actors, `workers` at a time.

    A node of a cluster that is lost takes its workers with it: their clients are asked again
    elsewhere, to the same bits, and the run goes on with what is left.

    Args:
        job: of the run.
        ledger: counts the messages.
        tick: called often while clients work.
        workers: clients that run at a time; on a cluster, at most.
        gpus: of each; None: as the scenario says, none where it leaves that open.
        verbose: let Ray print.
        chosen: on a cluster, is told where clients work, and again when a node is lost.
    """

    def __init__(
        self,
        job: Job,
        ledger: TrafficLedger,
        tick: Callable[[], None] | None = None,
        *,
        workers: int,
        gpus: float | None = None,
        verbose: bool = False,
        chosen: Callable[[Choice], None] | None = None,
    ) -> None:
        super().__init__(job, ledger, tick)
        resources = job.scenario.resources
        if gpus is None:
            gpus = asked_gpus(resources)
        self._pool = _pool(resources.model_copy(update={"gpus": gpus}), workers, verbose)
        self._chosen = chosen
        self._lost: list[str] = []
        self._at_hand = list(range(len(self._pool.actors[:workers])))
        # Worker and the time at which it began to start, by the reference that is ready with it.
        self._starting: dict[Any, tuple[int, float]] = {}
        with _ray_lives():
            # Apart from the job: an object store writes to disk when memory is short, where no key
            # may be. So small an argument travels with the call.
            self._job, self._noise = ray.put(replace(job, noise=None)), job.noise
            self._deliveries = self._delivered(self._at_hand)
            self._require_started({worker: self._configure(worker) for worker in self._at_hand})
        self._tell("resources.ray_address names its cluster")

    @property
    def _workers(self) -> int:
        return len(self._at_hand)

    def _delivered(self, workers: Sequence[int]) -> dict[str, Delivery]:
        """Let the nodes of these workers have the data; empty on this machine."""
        nodes = [node for worker in workers if (node := self._pool.nodes[worker]) is not None]
        if self._pool.deliveries is None:
            return {}
        return self._pool.deliveries.ready(self.job, nodes)

    def _tell(self, why: str) -> None:
        """Say which nodes of the cluster work, and where they have the data from."""
        watch = self._pool.watch
        if watch is None or self._chosen is None:
            return
        at_work = [node for worker in self._at_hand if (node := self._pool.nodes[worker])]
        counts = Counter(node for node in at_work if node.name not in self._lost)
        uses = []
        for node, count in counts.items():
            size = self._deliveries[node.id].size
            uses.append(NodeUse(node.name, count, "shipped" if size else "path", size / 1e6))
        on_cluster = Cluster(watch.address, tuple(uses), tuple(self._lost))
        self._chosen(Choice("ray", why, counts.total(), cluster=on_cluster))

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        shared: dict[int, Any] = {}
        parcels = self._parcels(messages)
        waiting = list(range(len(parcels)))
        window = self._window(messages)
        begun = {worker for worker, _ in self._starting.values()}
        idle = [worker for worker in self._at_hand if worker not in begun]
        flying: dict[Any, _Flight] = {}
        died: dict[int, list[Node | None]] = {}
        done: dict[int, list[Message | Failure]] = {}
        following = 0
        try:
            with _ray_lives():
                while following < len(parcels):
                    while idle and (near := [i for i in waiting if i < following + window]):
                        index = max(near, key=lambda i: (self._records_of(parcels[i]), -i))
                        waiting.remove(index)
                        worker = idle.pop(0)
                        reference = self._submit(worker, parcels[index], shared)
                        flying[reference] = _Flight(index, worker, time.monotonic())
                    self._at_work_are(
                        {
                            self.client(message)
                            for flight in flying.values()
                            for message in parcels[flight.place].messages
                        }
                    )
                    self._require_workers(bool(flying or idle))
                    pending = [*flying, *self._starting]
                    ready, _ = ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
                    if self._tick is not None:
                        self._tick()
                    for reference in ready:
                        if reference in self._starting:
                            worker, _ = self._starting.pop(reference)
                            if self._has_started(reference, worker):
                                idle.append(worker)
                            continue
                        flight = flying.pop(reference)
                        parcel = parcels[flight.place]
                        try:
                            done[flight.place] = self._receive(reference, parcel, flight.worker)
                            idle.append(flight.worker)
                        except _DEATHS as error:
                            died.setdefault(flight.place, []).append(
                                self._pool.nodes[flight.worker]
                            )
                            self._restart(flight.worker)
                            if _is_to_blame(died[flight.place]):
                                done[flight.place] = [
                                    self._dead(message, error) for message in parcel.messages
                                ]
                            else:  # Once more, to the same bits: the client's state is here.
                                waiting.append(flight.place)
                    for reference in self._overdue(flying):
                        flight = flying.pop(reference)
                        self._restart(flight.worker)
                        late = parcels[flight.place].messages
                        done[flight.place] = [self._timed_out(message) for message in late]
                    while following in done:
                        yield from done.pop(following)
                        following += 1
        except Interruption:
            if self._pool.is_own:
                # Who ends a group of processes has ended Ray's, too: what asks them would wait.
                flying.clear()
                shutdown()
            raise
        finally:
            self._at_work_are(set())
            # Left early: a client failed, or the consumer stopped. The others are still at work.
            if flying and _dead():
                shutdown()
            elif self._pool.watch is None or not self._pool.watch.gone:
                # What ends the round counts, not what its workers run into.
                with contextlib.suppress(ray.exceptions.RayError, RunError):
                    for flight in flying.values():
                        self._restart(flight.worker)

    def _restart(self, worker: int) -> None:
        """Start another actor in a worker's place, or do without it: its node is lost."""
        if self._pool.watch is not None:
            self._pool.watch.require_life_now()
        before = self._pool.nodes[worker]
        stays = self._pool.replace(worker)
        now = self._pool.nodes[worker]
        if not stays:
            self._at_hand.remove(worker)
        else:
            if now != before:
                self._deliveries |= self._delivered([worker])
            self._starting[self._configure(worker)] = worker, time.monotonic()
        if before is None or (stays and now == before) or before.name in self._lost:
            return
        self._lost.append(before.name)
        self._tell(f"node {before.name} was lost, and its clients are asked again")

    def _has_started(self, reference: Any, worker: int) -> bool:
        """Whether a worker has taken up the job; if not, its node is lost, and another starts."""
        node = self._pool.nodes[worker]
        try:
            self._require_started({worker: reference})
        except RunError:
            if node is None or node.lives():
                raise
            self._restart(worker)
            return False
        return True

    def _require_started(self, starting: dict[int, Any]) -> None:
        """Wait until workers have taken up the job; RunError where one cannot, or none does.

        Args:
            starting: worker -> the reference that is ready when it has.
        """
        try:
            answers = ray.get(list(starting.values()), timeout=cluster.PLACING_SECONDS)
        except (*_DEATHS, ray.exceptions.ActorUnschedulableError) as error:
            raise RunError(f"a worker died while it started: {one_line(error)}") from error
        except ray.exceptions.GetTimeoutError as error:
            raise cluster.not_placed() from error
        for worker, wrong in zip(starting, answers, strict=True):
            if wrong:
                node = self._pool.nodes[worker]
                where = "" if node is None else f" at node {node.name}"
                raise RunError(f"a worker{where} could not start:\n{wrong}")

    def _require_workers(self, some: bool) -> None:
        """RunError where nobody is left to work; `some`: at least one works, or may."""
        _require_ray()
        if self._pool.watch is not None:
            self._pool.watch.require_life()
        if some:
            return
        if not self._starting:
            raise RunError(
                f"no node of the Ray cluster is left that has room for a worker; lost: "
                f"{', '.join(self._lost)}. When there are nodes again, type: "
                "fedsim run --resume RUN"
            )
        if time.monotonic() - min(began for _, began in self._starting.values()) > (
            cluster.PLACING_SECONDS
        ):
            raise cluster.not_placed()

    def _configure(self, worker: int) -> Any:
        """Give a worker's actor the job; the reference is ready when it is."""
        node, store = self._pool.nodes[worker], self.job.store
        if node is not None:
            store = self._deliveries[node.id].store
        return self._pool.actors[worker].configure.remote(self._job, self._noise, store)

    def _overdue(self, flying: dict[Any, _Flight]) -> list[Any]:
        """References of the clients that take longer than the scenario allows."""
        limit = self._faults.client_timeout
        if limit is None:
            return []
        now = time.monotonic()
        return [reference for reference, f in flying.items() if now - f.started > limit]

    def _timed_out(self, message: Message) -> Failure:
        limit = self._faults.client_timeout
        reason = f"no answer within {limit} s (faults.client_timeout)"
        return self.failure(self.client(message), "timeout", reason)

    def _dead(self, message: Message, error: Exception) -> Failure:
        cause = str(error).strip().partition("\n")[0]
        reason = f"its worker process died twice: {cause} Out of memory? Try --workers 1"
        return self.failure(self.client(message), "worker", reason)

    def _parcels(self, messages: list[Message]) -> list[_Parcel]:
        """What is handed to a worker at a time: a client or, of those that train together, some.

        A worker has as many groups at a time as threads.
        """
        size = self.job.scenario.resources.threads
        parcels: list[_Parcel] = []
        for group in self.groups(messages):
            together = self.together(group)
            if together and parcels and parcels[-1].together and len(parcels[-1].groups) < size:
                parcels[-1].groups.append(group)
            else:
                parcels.append(_Parcel([group], together))
        return parcels

    def _records_of(self, parcel: _Parcel) -> int:
        return sum(map(self._records, parcel.messages))

    def _window(self, messages: list[Message]) -> int:
        """How many unfinished parcels may be open ahead of the next reply to hand on."""
        largest = max((flower.payload_bytes(m.content) for m in messages[:1]), default=0) / 1e6
        return 2 * self._workers + int(_WINDOW_MB / max(largest, 1.0))

    def _submit(self, worker: int, parcel: _Parcel, shared: dict[int, Any]) -> Any:
        """Hand a parcel to an actor; a record of several messages travels once."""
        records: list[Any] = []
        places: dict[int, int] = {}
        groups = []
        for group in parcel.groups:
            parts = []
            for message in group:
                for record in message.content.values():
                    if id(record) in places:
                        continue
                    places[id(record)] = len(records)
                    if flower.is_large(record):
                        if id(record) not in shared:
                            shared[id(record)] = ray.put(record)
                        records.append(shared[id(record)])
                    else:
                        records.append(record)
                own = [places[id(record)] for record in message.content.values()]
                context = self.contexts[message.metadata.dst_node_id]
                parts.append(_Part(message.metadata, list(message.content), own, context))
            groups.append(parts)
        actor = self._pool.actors[worker]
        now = self.round, self.exchange
        return actor.run.remote(groups, parcel.together, *now, *records)

    def _receive(self, reference: Any, parcel: _Parcel, worker: int) -> list[Message | Failure]:
        """Fetch the answers to a parcel; raises one of `_DEATHS` if the actor died."""
        each: list[Answer | _Raised] = ray.get(reference)
        received: list[Message | Failure] = []
        for message, found in zip(parcel.messages, each, strict=True):
            if isinstance(found, _Raised):
                received.append(self.failure(self.client(message), *found))
            else:
                self._keep(message, *found, f"worker {worker}")
                received.append(found.reply)
        return received


def _is_to_blame(nodes: Sequence[Node | None]) -> bool:
    """Whether clients whose workers died on these nodes ended them, and not the nodes' own end."""
    return sum(node is None or node.lives() for node in nodes) > 1


def _dead() -> set[str]:
    """Which processes of the Ray of this machine have ended, of those without which none works."""
    node: Any = ray._private.worker._global_node
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return dead & {"raylet", "gcs_server"}


def _require_ray() -> None:
    """RunError where the Ray of this machine has died: its workers would be waited for in vain."""
    if gone := _dead():
        raise RunError(
            f"Ray stopped: its {' and '.join(sorted(gone))} died; out of memory, or killed. "
            "To go on, type: fedsim run --resume RUN"
        )


@contextlib.contextmanager
def _ray_lives() -> Iterator[None]:
    """RunError, in one line, where Ray itself is gone; an interruption of a wait is one."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # Ray raises its own in the place of what a signal's handler raised.
        raise Interruption from interrupt
    except ray.exceptions.RayError as error:
        raise RunError(
            f"Ray stopped: {one_line(error)}. To go on, type: fedsim run --resume RUN"
        ) from error
