"""The data at the nodes of a cluster: by path where they are there, else shipped once to each node.

The node of this machine has what the run opened. Any other one is asked once: whether its software
and the scenario's plugin folders are those of this machine, and whether the data lie at the same
path with the same content. Where nothing lies there, they travel through Ray's object store into
the node's own cache, and stay as long as the process that keeps them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsim.data.building import new_folder
from fedsim.errors import InputError, Problem, RunError
from fedsim.grid.cluster import Node
from fedsim.grid.worker import Job
from fedsim.raising import one_line
from fedsim.scenario.checks import activate

# Of a file that travels at a time, in bytes: the object store holds no more of it.
_PART = 64 * 2**20
_END_SECONDS = 10.0
_PACKAGES = ("fedsim-medical", "torch", "numpy", "flwr")


class Seen(NamedTuple):
    """What a node has of what a job needs.

    Attributes:
        versions: of the packages that its bits depend on.
        plugins: folder of plugins -> SHA-256 of its modules, or "" where there is none.
        fingerprint: of the data at the job's path; None where nothing lies there.
        problem: what is wrong with what lies there, or "".
    """

    versions: dict[str, str]
    plugins: dict[str, str]
    fingerprint: str | None
    problem: str


class Delivery(NamedTuple):
    """Where a node has the data, and how many bytes were shipped; 0: they were there."""

    store: Path
    size: int = 0


def on(node: Node) -> NodeAffinitySchedulingStrategy:
    """The strategy that places something on this node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


class Deliveries:
    """What the nodes of a cluster have of the data of this process's runs.

    Args:
        here: Ray's id of the node of this machine.
    """

    def __init__(self, here: str) -> None:
        self._here = here
        self._keepers: dict[str, Any] = {}
        self._made: dict[tuple[str, str], Delivery] = {}

    def ready(self, job: Job, nodes: Sequence[Node]) -> dict[str, Delivery]:
        """Let these nodes have the data; node id -> where they are there.

        Raises:
            InputError: a node has other software, other plugins, or other data at the job's path.
            RunError: the data could not be shipped.
        """
        asked = {node.id: node for node in nodes}
        strangers = [n for n in asked.values() if (n.id, self._key(job)) not in self._made]
        without = self._require_same(job, strangers)
        for node in strangers:
            self._made[node.id, self._key(job)] = Delivery(job.store)
        if without:
            self._ship(job, without)
        return {one: self._made[one, self._key(job)] for one in asked}

    def close(self) -> None:
        """Let the nodes forget what was shipped to them."""
        ending = [keeper.close.remote() for keeper in self._keepers.values()]
        if ending:
            ray.wait(ending, num_returns=len(ending), timeout=_END_SECONDS)
        for keeper in self._keepers.values():
            ray.kill(keeper)
        self._keepers.clear()
        self._made.clear()

    @staticmethod
    def _key(job: Job) -> str:
        return f"{job.fingerprint} {job.store} {job.scenario.plugins}"

    def _require_same(self, job: Job, nodes: Sequence[Node]) -> list[Node]:
        """Refuse nodes that would compute something else; those of them without the data."""
        others = [node for node in nodes if node.id != self._here]
        if not others:
            return []
        plugins = tuple(job.scenario.plugins)
        own = Seen(versions(), digests_of(plugins), job.fingerprint, "")
        task = cloudpickle.dumps(job.task)
        ask = ray.remote(num_cpus=0, max_retries=0)(look)
        references = [
            ask.options(scheduling_strategy=on(node)).remote(task, job.store, plugins)
            for node in others
        ]
        problems: list[Problem] = []
        without = []
        for node, reference in zip(others, references, strict=True):
            try:
                seen = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                problems.append(Problem(node.name, f"cannot run fedsim: {_last_line(error)}"))
                continue
            problems += [Problem(node.name, wrong) for wrong in unlike(own, seen, job.store)]
            if seen.fingerprint is None and not seen.problem:
                without.append(node)
        if problems:
            raise InputError(
                "nodes of the Ray cluster differ from this machine",
                problems,
                hint="install the same versions and plugins there; to have the data shipped, "
                "remove the folder of prepared data there",
            )
        return without

    def _ship(self, job: Job, nodes: Sequence[Node]) -> None:
        """Send the folders of the data to nodes that lack them, each part once to each node."""
        keeper_of = ray.remote(num_cpus=0)(Keeper)
        for node in nodes:
            if node.id not in self._keepers:
                place = keeper_of.options(scheduling_strategy=on(node))
                self._keepers[node.id] = place.remote()
        keepers = [self._keepers[node.id] for node in nodes]
        size = 0
        try:
            for folder in job.folders:
                for file in sorted(path for path in folder.iterdir() if path.is_file()):
                    size += self._send(folder.name, file, keepers)
            task = cloudpickle.dumps(job.task)
            plugins = tuple(job.scenario.plugins)
            told = ray.get(
                [k.finish.remote(task, plugins, job.store.name, job.fingerprint) for k in keepers]
            )
        except ray.exceptions.RayError as error:
            raise RunError(
                f"the data could not be shipped to {', '.join(node.name for node in nodes)}: "
                f"{_last_line(error)}"
            ) from error
        for node, path in zip(nodes, told, strict=True):
            self._made[node.id, self._key(job)] = Delivery(Path(path), size)

    @staticmethod
    def _send(folder: str, file: Path, keepers: Sequence[Any]) -> int:
        """Send one file; its size in bytes."""
        sent = 0
        with file.open("rb") as content:
            while (part := content.read(_PART)) or not sent:
                held = ray.put(part)
                first = not sent
                ray.get([k.take.remote(folder, file.name, held, first) for k in keepers])
                sent += len(part)
                if not part:
                    break
        return sent


class Keeper:
    """Keeps shipped data in its node's cache, for as long as it lives.

    The next one there removes what a killed one left behind (`fedsim.data.building`).
    """

    def __init__(self) -> None:
        from fedsim.files import cache_folder

        self._open = contextlib.ExitStack()
        self._folder = self._open.enter_context(new_folder(cache_folder()))

    def take(self, folder: str, file: str, part: bytes, first: bool) -> None:
        """Write a part of a file of a folder: the first one, or what follows."""
        place = self._folder / folder
        place.mkdir(exist_ok=True)
        with (place / file).open("wb" if first else "ab") as to:
            to.write(part)

    def finish(self, task: bytes, plugins: Sequence[str], folder: str, fingerprint: str) -> str:
        """The path of what was shipped; RunError where it is not what was sent."""
        activate(plugins)
        path = self._folder / folder
        found = cloudpickle.loads(task).open_store(path, checked=False).fingerprint
        if found != fingerprint:
            raise RunError(f"what arrived has the fingerprint {found}, not {fingerprint}")
        return str(path)

    def close(self) -> None:
        """Remove it."""
        self._open.close()


def look(task: bytes, store: Path, plugins: Sequence[str]) -> Seen:
    """What this node has of what a job needs; reads all of the data, once.

    Args:
        task: of the job, pickled: where its class is a plugin's, the folders come first.
        store: where the data lie at the driver.
        plugins: folders of plugins.
    """
    fingerprint, problem = None, ""
    digests = digests_of(plugins)
    if all(digests.values()):
        activate(plugins)
        try:
            os.listdir(store)
            fingerprint = cloudpickle.loads(task).open_store(store, checked=False).fingerprint
        except OSError:
            fingerprint = None
        except InputError as error:
            problem = str(error.problems[0].message) if error.problems else one_line(error)
    return Seen(versions(), digests, fingerprint, problem)


def _last_line(error: Exception) -> str:
    """What was raised at a node: Ray hands on a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else one_line(error)


def unlike(own: Seen, seen: Seen, store: Path) -> list[str]:
    """What a node has otherwise than this machine, a sentence each."""
    wrong = [
        f"has {name} {seen.versions[name] or '(none)'}, here is {version or '(none)'}"
        for name, version in own.versions.items()
        if seen.versions[name] != version
    ]
    for folder, digest in own.plugins.items():
        if not seen.plugins[folder]:
            wrong.append(f"has no folder of plugins {folder}")
        elif seen.plugins[folder] != digest:
            wrong.append(f"has other modules in the folder of plugins {folder}")
    if seen.problem:
        wrong.append(f"has damaged data in {store}: {seen.problem}")
    elif seen.fingerprint not in (None, own.fingerprint):
        wrong.append(
            f"has other data in {store}: their fingerprint is {str(seen.fingerprint)[:12]}, here "
            f"it is {str(own.fingerprint)[:12]}"
        )
    return wrong


def versions() -> dict[str, str]:
    """Versions of what bits depend on, "" for what is not installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {name: found.get(name, "") for name in _PACKAGES}


def digests_of(folders: Sequence[str]) -> dict[str, str]:
    """Folder of plugins -> SHA-256 of the modules and packages in it; "" where it is no folder."""
    return {folder: _digest_of(Path(folder)) for folder in folders}


def _digest_of(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    packages = [init.parent for init in folder.glob("*/__init__.py")]
    files = [*folder.glob("*.py"), *(file for one in packages for file in one.rglob("*.py"))]
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
