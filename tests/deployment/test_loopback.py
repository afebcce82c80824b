"""A real SuperLink with two SuperNodes runs exported apps: the simulator's bits, and its bytes.

Needs free ports on the loopback interface only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedsim import Result, run
from fedsim.deployment.export import export_app
from fedsim.scenario import load
from tests.deployment.conftest import TINY
from tests.deployment.processes import Processes, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHODS = {
    # Without normalisation all arrays change in a round: a SuperLink spares what it still holds.
    "isic_noniid_fedavg": (*TINY, "model={name: convnet, width: 8, norm: none}"),
    "isic_noniid_gdd": (
        *TINY,
        "rounds=1",
        "client.iterations=2",
        "client.images_per_class=2",
        "client.width=8",
        "strategy.epochs=2",
    ),
}

# The labels of both clients are one array: a SuperLink that still holds the first's when the
# second's is announced does not fetch it again. Which of the two happens is a matter of moments.
SPARED = {("isic_noniid_gdd", "up"): 500}


@dataclass(frozen=True)
class Both:
    """A scenario, deployed and simulated, with the SuperLink's counts of bytes up and down."""

    deployed: Path
    simulated: Result
    counted: tuple[int, int]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    folder = tmp_path_factory.mktemp("federation")
    for name, overrides in METHODS.items():
        export_app(load(name, overrides), folder / name)
    with Processes(folder / "flower") as started:
        (port,) = free_ports(1)
        started.link(port, "--insecure")
        started.name_link(port, "insecure = true")
        started.nodes(port, ["client=1", "client=0"])
        for name in METHODS:
            config = f'runs="{folder / "runs" / name}"'
            started.flwr("run", str(folder / name), "--run-config", config)
        simulated = {
            name: run(name, *overrides, runs=folder / "simulated")
            for name, overrides in METHODS.items()
        }
        deployed = {name: started.wait_for_run(folder / "runs" / name) for name in METHODS}
        counted = started.traffic()
    return {
        name: Both(deployed[name], simulated[name], counted[name.replace("_", "-")])
        for name in METHODS
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_federation_ends_with_the_weights_of_the_simulation(
    both: dict[str, Both], name: str
) -> None:
    ours, theirs = (
        load_file(folder / "model.safetensors")
        for folder in (both[name].simulated.folder, both[name].deployed)
    )
    assert list(ours) == list(theirs)
    for array in ours:
        assert ours[array].tobytes() == theirs[array].tobytes(), array
    summary = json.loads((both[name].deployed / "summary.json").read_text())
    assert summary["metrics"] == both[name].simulated.metrics


@pytest.mark.parametrize("name", METHODS)
def test_what_the_ledger_counts_is_what_crossed(both: dict[str, Both], name: str) -> None:
    lines = (both[name].deployed / "traffic.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for direction, counted in zip(("up", "down"), both[name].counted, strict=True):
        here = [row["bytes"] for row in rows if row["direction"] == direction]
        most = sum(here) + 100 * len(here)
        least = sum(here) - 100 * len(here) - SPARED.get((name, direction), 0)
        assert least <= counted <= most, direction
    # And what the simulation counted; a greeting is no part of one.
    simulated = both[name].simulated.folder / "traffic.jsonl"
    theirs = [json.loads(line) for line in simulated.read_text().splitlines()]
    of_rounds = [row for row in rows if row["round"]]
    assert len(of_rounds) == len(theirs)
    for row, other in zip(of_rounds, theirs, strict=True):
        assert {**row, "bytes": 0} == {**other, "bytes": 0}
        assert abs(row["bytes"] - other["bytes"]) <= 100


def test_flowers_own_simulation_runs_the_same_app(both: dict[str, Both], tmp_path: Path) -> None:
    name = "isic_noniid_fedavg"
    export_app(load(name, METHODS[name]), tmp_path / "app")
    with Processes(tmp_path / "flower") as started:
        (port,) = free_ports(1)
        started.link(port, "--insecure", "--simulation")
        started.name_link(port, "insecure = true")
        nodes = "num-supernodes=2 client-resources-num-cpus=1"
        config = f'runs="{tmp_path / "runs"}"'
        started.flwr(
            "run", str(tmp_path / "app"), "--federation-config", nodes, "--run-config", config
        )
        folder = started.wait_for_run(tmp_path / "runs")
    ours, theirs = (
        load_file(one / "model.safetensors") for one in (both[name].simulated.folder, folder)
    )
    assert all(ours[array].tobytes() == theirs[array].tobytes() for array in ours)
