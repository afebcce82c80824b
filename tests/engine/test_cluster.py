"""Clients on a Ray cluster: who takes part, where the data come from, what a lost node costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from fedsim import InputError, Result, RunError
from fedsim.api import resume
from fedsim.engine.assembly import assembled
from fedsim.engine.prepare import prepare
from fedsim.grid import cluster, shipping
from fedsim.grid import ray as grid
from fedsim.grid.choosing import Choice, Cluster, NodeUse
from fedsim.grid.cluster import Node, spread
from fedsim.grid.shipping import Deliveries, Keeper, Seen, digests_of, look, unlike
from fedsim.grid.worker import Job
from fedsim.scenario import load
from fedsim.scenario.schema import Resources
from fedsim.terminal.console import Console
from tests.engine.raylets import Raylets, raylets
from tests.engine.test_bits import assert_same
from tests.engine.test_on_features import ON_FEATURES
from tests.engine.test_segmentation import SMALL

# --- Who takes part ------------------------------------------------------------------------------


def node(number: int, cores: float = 1.0, gpus: float = 0.0) -> Node:
    return Node(f"{number:056x}", "127.0.0.1", 1, cores, gpus)


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 40))
def test_workers_are_spread_and_no_node_has_more_than_fit(room: list[int], wanted: int) -> None:
    slots = {node(i): count for i, count in enumerate(room)}
    found = spread(slots, wanted)
    assert len(found) == min(wanted, sum(room))
    taken = Counter(found)
    assert all(taken[one] <= slots[one] for one in taken)
    # Who has fewer than another was full, or its turn comes next.
    least = max(taken.values(), default=0) - 1
    assert all(taken[one] >= min(least, count) for one, count in slots.items())


def test_a_cluster_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"NodeID": "a", "NodeManagerAddress": "there", "NodeManagerPort": 1}
    there = [
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: [about | one for one in there])

    def fit(workers: int, asked: int | None = None, **keys: Any) -> int:
        return cluster.fit(Resources(ray_address="there:1", workers=asked, **keys), workers)

    assert fit(9) == 4
    assert fit(9, threads=2) == 1
    assert fit(9, gpus=0.5) == 2
    assert fit(4, asked=4) == 4
    with pytest.raises(InputError, match="has 4 cores and 1 GPUs: 4 workers of 1 threads") as few:
        fit(5, asked=5)
    assert "--workers 4" in str(few.value)
    with pytest.raises(InputError, match="0 workers of 1 threads and 2 GPUs fit"):
        fit(1, gpus=2.0)


def test_auto_is_what_ray_finds_here_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_tiny: Callable[..., Result]
) -> None:
    auto = Resources(ray_address="auto")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.address_of(Resources(ray_address="there:1")) == "there:1"
    for nothing in ("", "auto", "local"):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        with pytest.raises(InputError, match="there is no Ray cluster here") as none:
            run_tiny("resources.ray_address=auto", backend="ray")
        assert "type: ray start" in str(none.value)
    assert not (tmp_path / "runs").exists()
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert cluster.address_of(auto) == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert cluster.address_of(auto) == "10.0.0.2:6379"


@pytest.mark.parametrize("address", ["10.0.0.1", "auto:1:x", "ray://there:1", ""])
def test_an_address_has_a_host_and_a_port(
    address: str, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected auto, or host:port"):
        run_tiny(f"resources.ray_address='{address}'", backend="ray")


def test_what_a_cluster_does_for_a_run_is_told_and_recorded() -> None:
    uses = (NodeUse("10.0.0.1 (aa)", 2), NodeUse("10.0.0.2 (bb)", 1, "shipped", 1234.5))
    choice = Choice(
        "ray", "it is there", 3, cluster=Cluster("10.0.0.1:6379", uses, ("10.0.0.3 (cc)",))
    )
    assert choice.line() == (
        "clients run on Ray, 3 at a time: it is there (10.0.0.1 (aa): 2, data by path; "
        "10.0.0.2 (bb): 1, 1,234.5 MB shipped)"
    )
    record = json.loads(json.dumps(choice.record()))
    assert record["cluster"]["lost"] == ["10.0.0.3 (cc)"]
    assert record["cluster"]["nodes"][1] == {
        "node": "10.0.0.2 (bb)",
        "workers": 1,
        "data": "shipped",
        "shipped_mb": 1234.5,
    }
    assert "cluster" not in Choice("ray", "here", 3).record()


# --- What a node has -----------------------------------------------------------------------------


@pytest.fixture
def job(tiny: Path) -> Iterator[Job]:
    """What a worker of the tiny federation must know."""
    with assembled(prepare(load(tiny), 0, lambda _: None)) as rounds:
        yield rounds.grid.job


def test_a_node_is_asked_for_what_bits_depend_on(job: Job, tmp_path: Path) -> None:
    task, plugins = ray.cloudpickle.dumps(job.task), job.scenario.plugins
    own = Seen(shipping.versions(), digests_of(plugins), job.fingerprint, "")
    assert own.versions["torch"]
    assert look(task, job.store, plugins) == own
    assert unlike(own, own, job.store) == []
    nowhere = tmp_path / "nowhere"
    seen = look(task, nowhere, plugins)
    assert (seen.fingerprint, seen.problem) == (None, "")
    assert unlike(own, seen, nowhere) == [], "the data can be shipped"
    lacks = look(task, job.store, (str(nowhere),))
    asked = own._replace(plugins={str(nowhere): "digest"})
    assert unlike(asked, lacks, job.store) == [f"has no folder of plugins {nowhere}"]
    (told,) = unlike(own._replace(fingerprint="b" * 64), seen=own, store=job.store)
    assert told.startswith(f"has other data in {job.store}: their fingerprint is ")
    older = own._replace(versions=own.versions | {"torch": "2.0"})
    (told,) = unlike(own, older, job.store)
    assert told.startswith("has torch 2.0, here is 2.")


def test_damaged_data_at_a_node_are_not_taken_for_the_runs(job: Job, tmp_path: Path) -> None:
    there = tmp_path / job.store.name
    there.mkdir()
    for file in job.store.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    task = ray.cloudpickle.dumps(job.task)
    assert look(task, there, ()).fingerprint == job.fingerprint
    images = bytearray((there / "images.npy").read_bytes())
    images[-1] ^= 1
    (there / "images.npy").write_bytes(images)
    seen = look(task, there, ())
    assert "their checksum does not hold" in seen.problem
    own = Seen(shipping.versions(), {}, job.fingerprint, "")
    assert unlike(own, seen, there)[0].startswith(f"has damaged data in {there}: its arrays")


def test_the_digest_of_plugins_is_of_their_modules(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "package").mkdir(parents=True)
        (folder / "package" / "__init__.py").write_text("")
        (folder / "module.py").write_text("a = 1\n")
    (one / "notes.txt").write_text("not imported")
    digests = digests_of([str(one), str(other)])
    assert len(set(digests.values())) == 1
    (other / "package" / "__init__.py").write_text("b = 1\n")
    assert digests_of([str(other)])[str(other)] != digests[str(one)]
    assert digests_of([str(tmp_path / "none")]) == {str(tmp_path / "none"): ""}


@pytest.mark.parametrize("kind", ["images", "vectors", "volumes"])
def test_what_is_shipped_is_all_that_the_data_are_opened_from(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    monkeypatch.setenv("FEDSIM_CACHE", str(here))
    (tmp_path / "volumes.yaml").write_text(SMALL)
    scenario = tmp_path / "volumes.yaml" if kind == "volumes" else tiny
    words = ON_FEATURES if kind == "vectors" else ()
    with assembled(prepare(load(scenario, words), 0, lambda _: None)) as rounds:
        job = rounds.grid.job
    assert len(job.folders) == (2 if kind == "vectors" else 1)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "there"))
    keeper, task = Keeper(), ray.cloudpickle.dumps(job.task)
    for folder in job.folders:
        for file in folder.iterdir():
            content = file.read_bytes()
            keeper.take(folder.name, file.name, content[:100], True)
            keeper.take(folder.name, file.name, content[100:], False)
    here.rename(tmp_path / "gone")
    arrived = Path(keeper.finish(task, (), job.store.name, job.fingerprint))
    assert arrived.is_relative_to(tmp_path / "there")
    name = job.names[0]
    assert len(job.task.view(job.task.open_store(arrived), job.train[name], name))
    with pytest.raises(RunError, match="what arrived has the fingerprint"):
        keeper.finish(task, (), job.store.name, "0" * 64)
    keeper.close()
    assert not arrived.exists()


def test_data_are_shipped_once_and_forgotten_with_the_ray_that_kept_them(
    job: Job, run_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid.shutdown()
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "theirs"))
    run_tiny("rounds=1", "resources.workers=1", backend="ray")
    (there,) = cluster.nodes()
    assert there.lives()
    deliveries = Deliveries("another node is that of this machine")
    assert deliveries.ready(job, [there]) == {there.id: shipping.Delivery(job.store)}
    # The same data, where nothing lies at the path.
    elsewhere = replace(job, store=tmp_path / "nowhere" / job.store.name)
    first = deliveries.ready(elsewhere, [there])[there.id]
    assert first.store.is_relative_to(tmp_path / "theirs")
    assert first.size == sum(file.stat().st_size for file in job.store.iterdir())
    for file in job.store.iterdir():
        assert (first.store / file.name).read_bytes() == file.read_bytes()
    assert deliveries.ready(elsewhere, [there, there]) == {there.id: first}
    other = replace(job, fingerprint="0" * 64)
    with pytest.raises(InputError, match="nodes of the Ray cluster differ") as refused:
        deliveries.ready(other, [there])
    assert f"{there.name}: has other data in {job.store}" in str(refused.value)
    deliveries.close()
    assert not first.store.exists()
    grid.shutdown()


# --- Nodes of a cluster --------------------------------------------------------------------------

HIDES = """
import sys

def _hide(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith({path!r}):
        raise FileNotFoundError(arguments[0])

sys.addaudithook(_hide)
"""


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raylets]:
    """A head, and two nodes with a core each; one does not see the data of this machine."""
    grid.shutdown()
    here, there, startup = tmp_path / "cache", tmp_path / "theirs", tmp_path / "startup"
    monkeypatch.setenv("FEDSIM_CACHE", str(here))
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(HIDES.format(path=str(here)))
    blind = {"PYTHONPATH": str(startup), "FEDSIM_CACHE": str(there)}
    with raylets({"cores": 0}, {"cores": 1, "env": blind}, {"cores": 1}) as found:
        yield found
        grid.shutdown()


def backend_of(run: Path) -> dict[str, Any]:
    """What run.json says of where clients ran."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["backend"]
    return found


def failed_in(runs: Path) -> Path:
    """The one run folder whose run failed."""
    (found,) = (
        record.parent
        for record in runs.glob("tiny/2*/run.json")
        if json.loads(record.read_text())["status"] == "failed"
    )
    return found


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_whatever_becomes_of_its_nodes(
    two_nodes: Raylets,
    run_tiny: Callable[..., Result],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    address = f"resources.ray_address={two_nodes.address}"
    loses = f"client={{name: 'misbehaving:LosesNode', marks: {marks}, times: %d}}"
    whole = run_tiny("resources.workers=null", loses % 0)

    same = run_tiny(address, "resources.workers=null", loses % 0, backend="ray")
    assert_same(whole, same)
    used = backend_of(same.folder)
    assert used["workers"] == 2
    nodes = used["cluster"]["nodes"]
    assert sorted(one["data"] for one in nodes) == ["path", "shipped"]
    assert len(list((tmp_path / "theirs").glob(".building-*/*/images.npy"))) == 1

    one_lost = run_tiny(address, "resources.workers=null", loses % 1, backend="ray", quiet=False)
    assert_same(whole, one_lost)
    used = backend_of(one_lost.folder)["cluster"]
    (lost,) = used["lost"]
    assert lost in {one["node"] for one in nodes}
    assert lost not in {one["node"] for one in used["nodes"]}
    shown = capfd.readouterr()
    assert f"node {lost} was lost, and its clients are asked again" in shown.out
    assert "raylet" not in shown.out + shown.err, "Ray keeps its pages to itself"

    with pytest.raises(RunError, match="no node of the Ray cluster is left") as all_lost:
        run_tiny(address, "resources.workers=null", loses % 2, backend="ray")
    assert "fedsim run --resume RUN" in str(all_lost.value)
    stopped = failed_in(tmp_path / "runs")
    assert len(backend_of(stopped)["cluster"]["lost"]) == 1
    assert_same(whole, resume(stopped, ["resources.backend=inline"], Console(quiet=True)))


@pytest.mark.slow
def test_a_head_that_dies_is_one_error_and_the_run_goes_on_elsewhere(
    tiny: Path, run_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with raylets({"cores": 1}) as found:
        loses = f"client={{name: 'misbehaving:LosesNode', marks: {marks}, pid: {found.head}}}"
        words = ["run", str(tiny), "resources.ray_address=auto", "resources.workers=1", loses]
        done = subprocess.run(
            [sys.executable, "-m", "fedsim", *words, "--backend", "ray"],
            cwd=tmp_path,
            env=os.environ | found.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1, done.stderr
        (told,) = done.stderr.splitlines()
        assert told.startswith(f"error: the Ray cluster at '{found.address}' is gone: ")
        assert told.endswith("To go on, start Ray again and type: fedsim run --resume RUN")
    stopped = failed_in(tmp_path / "runs")
    resumed = resume(stopped, ["resources.backend=inline"], Console(quiet=True))
    assert_same(run_tiny(loses, "resources.workers=1"), resumed)
