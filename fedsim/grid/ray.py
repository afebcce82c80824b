"""`RayGrid`: Ray actors on this machine, or on a cluster the user already has.

One actor a worker, alive for the whole process: a second run finds them warm. Records that several
messages share are put into Ray's object store once a round. The longest client of the window runs
first; replies are handed on in client order, so at most a window of them is held at a time.
"""

from __future__ import annotations

import atexit
import os
import traceback
from collections.abc import Callable, Generator
from typing import Any

import ray
from flwr.app import Context, Message, Metadata, RecordDict

from fedsim import flower
from fedsim.errors import InputError, RunError
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import Job, Spent, Worker
from fedsim.ledger.traffic import TrafficLedger
from fedsim.scenario import Resources

# Replies held back for the sake of order may take this much memory (MB) beyond one a worker.
_WINDOW_MB = 256.0
_POLL_SECONDS = 0.2


class _Actor:
    """A worker process. One job at a time; `configure` gives it the next."""

    def __init__(self) -> None:
        flower.configure_identity()
        self._worker: Worker | None = None

    def configure(self, job: Job) -> None:
        self._worker = Worker(job)

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
        ray.init(
            # Otherwise Ray joins whatever cluster a machine-wide file names.
            address="local",
            num_cpus=max(workers * resources.threads, 1),
            include_dashboard=False,
            **options,
        )
        return
    try:
        ray.init(address=resources.ray_address, **options)
    except Exception as error:
        raise InputError(
            f"no Ray cluster answers at {resources.ray_address!r}: {error}",
            hint="type: ray start --head, or leave out resources.ray_address",
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
        self._job = ray.put(job)
        ray.get([actor.configure.remote(self._job) for actor in self._pool.actors[:workers]])

    def _execute(self, messages: list[Message]) -> Generator[tuple[Message, Message]]:
        shared: dict[int, Any] = {}
        waiting = list(range(len(messages)))
        window = self._window(messages)
        idle = list(range(self._workers))
        flying: dict[Any, tuple[int, int]] = {}
        done: dict[int, Message] = {}
        following = 0
        try:
            while following < len(messages):
                while idle and (near := [i for i in waiting if i < following + window]):
                    index = max(near, key=lambda i: (self._records_of(messages[i]), -i))
                    waiting.remove(index)
                    worker = idle.pop(0)
                    flying[self._submit(worker, messages[index], shared)] = (index, worker)
                self.in_flight = {self.client(messages[index]) for index, _ in flying.values()}
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=_POLL_SECONDS)
                if self._tick is not None:
                    self._tick()
                for reference in ready:
                    index, worker = flying[reference]
                    done[index] = self._receive(reference, messages[index], worker)
                    del flying[reference]
                    idle.append(worker)
                while following in done:
                    yield messages[following], done.pop(following)
                    following += 1
        finally:
            self.in_flight = set()
            # Left early: a client failed, or the consumer stopped. The others are still at work.
            for _, worker in flying.values():
                self._pool.replace(worker)

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

    def _receive(self, reference: Any, message: Message, worker: int) -> Message:
        try:
            reply, context, spent, failure = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            client = self.client(message)
            raise RunError(
                f"the worker of client {client} (site {self.job.names[client]!r}) died in round "
                f"{self.round}: {error}\nOut of memory? Try fewer workers: --workers 1"
            ) from error
        if reply is None:
            raise self._failed(message, failure)
        self._keep(message, reply, context, spent, f"worker {worker}")
        return reply
