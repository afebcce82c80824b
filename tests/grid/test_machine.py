"""More than there is: refused by every verb before anything starts, with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim import InputError
from fedsim.cli import main
from fedsim.engine.assembly import worker_count
from fedsim.grid import machine
from fedsim.grid.machine import require_resources, workers_on
from fedsim.scenario import load

TINY = """\
name: tiny
data: {name: ham10000, size: 16, embedded: {images: 200, sites: 2}}
federation: {clients: 4}
model: {name: cnn, width: 8}
strategy: fedavg
client: supervised
"""


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, two GPUs, 2 GB."""
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "gpus", lambda: 2)
    monkeypatch.setattr(machine, "available_mb", lambda: 2000.0)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.mark.parametrize(
    ("override", "says", "hint"),
    [
        ("resources={gpus: 3}", "resources.gpus: 3 for each worker, but there are 2", "gpus=2"),
        ("resources={gpus: 3, backend: inline}", "resources.gpus: 3 for each worker", "gpus=2"),
        ("resources={gpus: 1, workers: 3}", "workers: 3, with 1 GPUs each", "workers=2"),
        ("resources={gpus: 0.7, workers: 4}", "workers: 4, with 0.7 GPUs each", "workers=2"),
        ("resources={threads: 5}", "resources.threads: 5, but there are 4 cores", "threads=4"),
        ("resources={server_threads: 99}", "server_threads: 99, but there are 4", "threads=4"),
    ],
)
def test_more_than_there_is_is_refused_with_what_there_is(
    tiny: str, override: str, says: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        require_resources(load(tiny, [override]))
    assert says in str(caught.value)
    assert caught.value.hint.startswith("type: resources.")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "override",
    [
        "resources={gpus: 1, workers: 2}",
        "resources={gpus: 0.5, workers: 4}",
        "resources={gpus: 2}",
        "resources={threads: 4, server_threads: 4}",
        "resources={workers: 100}",  # There are four clients, so four workers.
        "resources={gpus: 1, workers: 8, ray_address: 'there:1', threads: 64}",
    ],
)
def test_what_there_is_may_be_used(tiny: str, override: str) -> None:
    require_resources(load(tiny, [override]))


def test_workers_must_fit_into_the_memory(tiny: str) -> None:
    scenario = load(tiny, ["federation.clients=100", "resources.workers=50"])
    with pytest.raises(InputError, match=r"50 take more than the 2\.0 GB of memory .* free") as few:
        require_resources(scenario)
    assert "resources.workers=10" in str(few.value)
    require_resources(scenario, clients=8)


def test_without_a_gpu_none_is_promised(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    for more in ("", ", ray_address: 'there:1'"):
        with pytest.raises(InputError, match="there is no GPU here") as caught:
            require_resources(load(tiny, [f"resources={{gpus: 0.5{more}}}"]))
        assert "type: resources.gpus=auto" in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--dry-run"],
        ["check"],
        ["sweep", "--dry-run"],
        ["sweep"],
        ["curve"],
        ["run", "--backend", "inline"],
    ],
)
def test_every_verb_refuses_before_anything_starts(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    for opens in ("fedsim.federation.building.open_store", "fedsim.sweeping.cells.open_store"):
        monkeypatch.setattr(opens, lambda *_, **__: pytest.fail("data opened"))
    monkeypatch.chdir(tmp_path)
    verb, *options = words
    assert main([verb, "isic_noniid_dpsgd", "profile=paper", *options]) == 2
    shown = capsys.readouterr().err
    assert "resources.gpus: 1 for each worker, but there is no GPU here" in shown
    assert len(shown.splitlines()) == 3
    assert not (tmp_path / "runs").exists()


def test_a_fraction_above_one_is_no_share(tiny: str) -> None:
    with pytest.raises(InputError, match="expected a whole number, or a fraction below 1"):
        load(tiny, ["resources.gpus=1.5"])


@pytest.mark.parametrize(
    ("given", "fit"),
    [
        *[((8, 0, 1, 0), 8), ((8, 0, 3, 0), 2), ((8, 2, 1, 1), 2), ((8, 2, 1, 0.5), 4)],
        *[((8, 3, 1, 2), 1), ((1, 2, 1, 0.1), 1), ((8, 1, 1, 0.3), 3), ((8, 0, 1, 1), 0)],
    ],
)
def test_how_many_workers_fit(given: tuple[float, float, int, float], fit: int) -> None:
    assert workers_on(*given) == fit


def test_as_many_workers_as_gpus_carry(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engine.assembly.cores", lambda: 8)
    monkeypatch.setattr("fedsim.engine.assembly.gpus", lambda: 2)
    assert worker_count(load(tiny), 100) == 8
    assert worker_count(load(tiny, ["resources.gpus=1"]), 100) == 2
    assert worker_count(load(tiny, ["resources.gpus=0.25"]), 3) == 3
    assert worker_count(load(tiny, ["resources.gpus=1", "resources.workers=1"]), 100) == 1
