"""What an app computes on nodes is what the simulator computes, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedsim import run
from fedsim.engine.result import Result
from tests.deployment.conftest import TINY, Nodes

PLUGINS = Path(__file__).parents[1] / "plugins"

OVERRIDES = {
    "half of the clients, images encoded": (
        "federation.clients=4",
        "federation.participation=0.5",
        "strategy.codec=uint8",
    ),
    "clients evaluate, and one is trained longer": (
        "evaluation.on_clients=true",
        "evaluation.select=pooled_val",
        "federation.overrides={client-1: {client: {epochs: 2}}}",
    ),
    "the last layers alone": ("model.trainable=head",),
    "running statistics, and tables that travel once": ("model={name: odd_models:Odd}",),
    "compressed both ways, with error feedback": (
        "wire={codec: int4, sparsify: {topk: 0.05}, error_feedback: true, down: uint8}",
        "rounds=3",
    ),
    "a strategy of Flower's": ("strategy={name: flwr.serverapp.strategy.FedAdam}",),
}
CASES = {name: ("isic_iid_fedavg", *TINY, *words) for name, words in OVERRIDES.items()} | {
    "volumes, of which each client has some labels": (
        "hippocampus_partial_condist",
        "rounds=1",
        "client.steps=2",
        "resources.backend=inline",
        "data.embedded={cases: 24}",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nodes_have_the_bits_of_a_simulation(
    case: tuple[str, ...],
    exported: Callable[..., Path],
    deploy: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(PLUGINS)
    name, *words = case
    folder = exported(name, *words)
    clients = 4 if "federation.clients=4" in words else 2
    nodes = Nodes(folder, [{"client": client} for client in range(clients)])
    deployed = deploy(folder, nodes)
    simulated = run(name, *words, runs=tmp_path / "simulated")
    ours, theirs = (load_file(one.folder / "model.safetensors") for one in (simulated, deployed))
    assert list(ours) == list(theirs)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    for row, other in zip(simulated.rounds, deployed.rounds, strict=True):
        for key in ("clients", "exchanges", "metrics", "metrics_by_client", "failed"):
            assert row[key] == other[key], key
    messages = len(nodes.sent) - clients
    for direction in ("up", "down"):
        here, there = (
            sum(
                row["bytes"]
                for line in (one.folder / "traffic.jsonl").read_text().splitlines()
                if (row := json.loads(line))["direction"] == direction and row["round"]
            )
            for one in (simulated, deployed)
        )
        assert abs(here - there) <= 100 * messages
