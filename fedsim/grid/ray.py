"""`RayGrid`: Ray actors on this machine, or on a cluster the user already has.

One actor a worker, alive for the whole process: a second run finds them warm. Records that several
messages share are put into Ray's object store once a round. The longest client of the window runs
first; replies are handed on in client order, so at most a window of them is held at a time.
"""

from __future__ import annotations

import atexit
import os
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from flwr.app import Context, Message, Metadata, RecordDict

from fedsim import flower
from fedsim.errors import InputError, RunError
from fedsim.faults import Failure
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import Job, Spent, Worker
from fedsim.ledger.traffic import TrafficLedger
from fedsim.privacy.noise import Noise
from fedsim.scenario import Resources

# Replies held back for the sake of order may take this much memory (MB) beyond one a worker.
_WINDOW_MB = 256.0
_POLL_SECONDS = 0.2
_STARTS = 3
_DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)


class _Flight(NamedTuple):
    """A message at work: its place in the list, the worker, and when it began."""

    place: int
    worker: int
    started: float


class _Actor:
    """A worker process. One job at a time; `configure` gives it the next."""

    def __init__(self) -> None:
        flower.configure_identity()
        self._worker: Worker | None = None

    def configure(self, job: Job, noise: Noise | None) -> None:
        self._worker = Worker(replace(job, noise=noise))
        self._worker.warm()

    def run(
        self, metadata: Metadata, names: list[str], context: Context, round: int, *records: Any
    ) -> tuple[Message | None, Context, Spent | None, str]:
        assert self._worker is not None
        content = flower.shallow(RecordDict(dict(zip(names, records, strict=True))))
        try:
            message = flower.make_message(content, metadata)
            reply, context, spent = self._worker.run(message, context, round)
        except Exception as error:
            # As text: the exception's class may not exist, or not unpickle, in the driver.
            return None, context, None, "".join(traceback.format_exception(error))
        return reply, context, spent, ""


class _Pool:
    """Actors of one shape, kept between runs of this process; grows when a run wants more."""

    def __init__(self, resources: Resources, workers: int, verbose: bool) -> None:
        _connect(resources, workers, verbose)
        variables = {"MKL_CBWR": os.environ["MKL_CBWR"]} if "MKL_CBWR" in os.environ else {}
        self._remote: Any = ray.remote(
            num_cpus=resources.threads,
            num_gpus=resources.gpus,
            runtime_env={"env_vars": variables},
        )(_Actor)
        self.actors: list[Any] = [self._remote.remote() for _ in range(workers)]

    def replace(self, worker: int) -> Any:
        """End an actor, dead, stuck or busy with what nobody wants, and start another."""
        ray.kill(self.actors[worker])
        self.actors[worker] = self._remote.remote()
        return self.actors[worker]

    def close(self) -> None:
        """End the actors; a cluster that the user owns outlives us, they must not."""
        for actor in self.actors:
            ray.kill(actor)


def _connect(resources: Resources, workers: int, verbose: bool) -> None:
    """Start Ray on this machine, or join the cluster that the scenario names."""
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": verbose}
    if ray.is_initialized():
        return
    # Ray's coming default, and no warning: actors without GPUs leave the variables alone.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if resources.ray_address is None:
        _start_ray(num_cpus=max(workers * resources.threads, 1), **options)
        return
    try:
        ray.init(address=resources.ray_address, **options)
    except Exception as error:
        raise InputError(
            f"no Ray cluster answers at {resources.ray_address!r}: {error}",
            hint="type: ray start --head, or leave out resources.ray_address",
        ) from error


def _start_ray(**options: Any) -> None:
    """Start Ray on this machine; RunError where it does not, however often it is tried."""
    for left in reversed(range(_STARTS)):
        try:
            # An address: otherwise Ray joins whatever cluster a machine-wide file names.
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:
            # Ray gives its own processes 30 seconds, which a busy machine may not have.
            ray.shutdown()
            if not left:
                raise RunError(
                    f"Ray did not start on this machine, in {_STARTS} attempts: {error}\n"
                    "start or resume it when the machine is less busy, or type: --backend inline"
                ) from error


_pools: dict[tuple[Any, ...], _Pool] = {}


def _pool(resources: Resources, workers: int, verbose: bool) -> _Pool:
    """A pool of at least `workers` actors; one of another shape gives its cores back first."""
    key = (resources.threads, resources.gpus, resources.ray_address)
    if key not in _pools or len(_pools[key].actors) < workers:
        shutdown()
        _pools[key] = _Pool(resources, workers, verbose)
    return _pools[key]


def shutdown() -> None:
    """End the actors, and the Ray that fedsim started."""
    while _pools:
        _, pool = _pools.popitem()
        if ray.is_initialized():
            pool.close()
    if ray.is_initialized():
        ray.shutdown()


atexit.register(shutdown)


class RayGrid(BaseGrid):
    """Runs clients in Ray actors, `workers` at a time."""

    def __init__(
        self,
        job: Job,
        ledger: TrafficLedger,
        tick: Callable[[], None] | None = None,
        *,
        workers: int,
        verbose: bool = False,
    ) -> None:
        super().__init__(job, ledger, tick)
        self._pool = _pool(job.scenario.resources, workers, verbose)
        self._workers = workers
        # Apart from the job: an object store writes to disk when memory is short, where no key may
        # be. So small an argument travels with the call.
        self._job, self._noise = ray.put(replace(job, noise=None)), job.noise
        try:
            ray.get([self._configure(actor) for actor in self._pool.actors[:workers]])
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"a worker could not start:\n{error}") from error

    def _execute(self, messages: list[Message]) -> Generator[Message | Failure]:
        shared: dict[int, Any] = {}
        waiting = list(range(len(messages)))
        window = self._window(messages)
        idle = list(range(self._workers))
        flying: dict[Any, _Flight] = {}
        starting: dict[Any, int] = {}
        died: set[int] = set()
        done: dict[int, Message | Failure] = {}
        following = 0
        try:
            while following < len(messages):
                while idle and (near := [i for i in waiting if i < following + window]):
                    index = max(near, key=lambda i: (self._records_of(messages[i]), -i))
                    waiting.remove(index)
                    worker = idle.pop(0)
                    reference = self._submit(worker, messages[index], shared)
                    flying[reference] = _Flight(index, worker, time.monotonic())
                self.in_flight = {self.client(messages[f.place]) for f in flying.values()}
                pending = [*flying, *starting]
                ready, _ = ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
                if self._tick is not None:
                    self._tick()
                for reference in ready:
                    if reference in starting:
                        ray.get(reference)
                        idle.append(starting.pop(reference))
                        continue
                    flight = flying.pop(reference)
                    message = messages[flight.place]
                    try:
                        done[flight.place] = self._receive(reference, message, flight.worker)
                        idle.append(flight.worker)
                    except _DEATHS as error:
                        starting |= self._restart(flight.worker)
                        if flight.place in died:
                            done[flight.place] = self._dead(message, error)
                        else:  # Once more: the client's state is here, so the bits are the same.
                            died.add(flight.place)
                            waiting.append(flight.place)
                for reference in self._overdue(flying):
                    flight = flying.pop(reference)
                    starting |= self._restart(flight.worker)
                    done[flight.place] = self._timed_out(messages[flight.place])
                while following in done:
                    yield done.pop(following)
                    following += 1
        finally:
            self.in_flight = set()
            # Left early: a client failed, or the consumer stopped. The others are still at work.
            for flight in flying.values():
                self._pool.replace(flight.worker)

    def _restart(self, worker: int) -> dict[Any, int]:
        """Start another actor in a worker's place; it is ready when the returned key is."""
        return {self._configure(self._pool.replace(worker)): worker}

    def _configure(self, actor: Any) -> Any:
        """Give an actor the job; the reference is ready when it is."""
        return actor.configure.remote(self._job, self._noise)

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

    def _records_of(self, message: Message) -> int:
        return len(self.job.train[self.job.names[self.client(message)]])

    def _window(self, messages: list[Message]) -> int:
        """How many unfinished messages may be open ahead of the next reply to hand on."""
        largest = max((flower.payload_bytes(m.content) for m in messages[:1]), default=0) / 1e6
        return 2 * self._workers + int(_WINDOW_MB / max(largest, 1.0))

    def _submit(self, worker: int, message: Message, shared: dict[int, Any]) -> Any:
        records = []
        for record in message.content.values():
            if flower.is_large(record):
                if id(record) not in shared:
                    shared[id(record)] = ray.put(record)
                records.append(shared[id(record)])
            else:
                records.append(record)
        context = self.contexts[message.metadata.dst_node_id]
        names = list(message.content)
        actor = self._pool.actors[worker]
        return actor.run.remote(message.metadata, names, context, self.round, *records)

    def _receive(self, reference: Any, message: Message, worker: int) -> Message | Failure:
        """Fetch an answer; raises one of `_DEATHS` if the actor died."""
        reply, context, spent, failure = ray.get(reference)
        if reply is None:
            return self.raised(self.client(message), failure)
        self._keep(message, reply, context, spent, f"worker {worker}")
        assert isinstance(reply, Message)
        return reply
