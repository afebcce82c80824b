"""A real SuperLink with two SuperNodes against the same app in one process: same bits, same bytes.

Needs free ports on the loopback interface only; takes about a minute.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedsim.ledger.traffic import TrafficLedger
from fedsim.wire import flower

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, CLIENTS = 2, 2

APP = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "deployed-toy"
        version = "0.1.0"
        license = "Apache-2.0"
        dependencies = []

        [tool.hatch.build.targets.wheel]
        packages = ["."]

        [tool.flwr.app]
        publisher = "nobody"

        [tool.flwr.app.components]
        serverapp = "deployed_toy.server:app"
        clientapp = "deployed_toy.client:app"

        [tool.flwr.app.config]
        rounds = 2
        output = ""
        """,
    "deployed_toy/__init__.py": "",
    "deployed_toy/model.py": """
        import torch
        from torch import nn


        def model():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)
            )
        """,
    "deployed_toy/server.py": """
        import numpy as np
        from flwr.serverapp import ServerApp
        from flwr.serverapp.strategy import FedAvg

        from deployed_toy.model import model
        from fedsim.wire.flower import pack_state, tensors

        app = ServerApp()


        class InClientOrder(FedAvg):
            def aggregate_train(self, server_round, replies):
                replies = sorted(replies, key=lambda reply: reply.content["metrics"]["client"])
                return super().aggregate_train(server_round, replies)


        @app.main()
        def main(grid, context):
            result = InClientOrder(fraction_evaluate=0.0, min_available_nodes=2).start(
                grid, pack_state(model().state_dict()), num_rounds=context.run_config["rounds"]
            )
            np.savez(context.run_config["output"], **tensors(result.arrays))
        """,
    "deployed_toy/client.py": """
        import torch
        from flwr.app import Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp
        from torch.nn.functional import cross_entropy

        from deployed_toy.model import model
        from fedsim.wire.flower import load_state, pack_state
        from fedsim.method.optimisers import SGD

        app = ClientApp()


        @app.train()
        def train(message, context):
            torch.set_num_threads(1)
            client = int(context.node_config["partition-id"])
            net = model()
            load_state(net, message.content["arrays"])
            generator = torch.Generator().manual_seed(client)
            images = torch.randn(16, 1, 8, 8, generator=generator)
            labels = torch.randint(0, 3, (16,), generator=generator)
            optimiser = SGD(net.parameters(), lr=0.1)
            for _ in range(3):
                optimiser.zero_grad()
                loss = cross_entropy(net(images), labels)
                loss.backward()
                optimiser.step()
            metrics = {"num-examples": 16 + client, "client": client, "loss": loss.item()}
            content = {"arrays": pack_state(net.state_dict()), "metrics": MetricRecord(metrics)}
            return Message(RecordDict(content), reply_to=message)
        """,
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder of the toy app."""
    for name, text in APP.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    return tmp_path / "app"


# --- In one process -----------------------------------------------------------------------------


class MeteredGrid(Grid):
    """Runs a ClientApp here and writes every exchange into a ledger."""

    def __init__(self, app: ClientApp, ledger: TrafficLedger) -> None:
        flower.configure_identity()
        self.app, self.ledger, self.info, self.sent = app, ledger, flower.empty_run(), 0
        self.contexts = {
            flower.node_id(i): Context(1, flower.node_id(i), {"partition-id": i}, RecordDict(), {})
            for i in range(CLIENTS)
        }

    def set_run(self, run: Any) -> None:
        self.info = run

    @property
    def run(self) -> Any:
        return self.info

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    push_messages = pull_messages = create_message

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for message in messages:
            self.sent += 1
            flower.stamp(message, f"m{self.sent}")
            context = self.contexts[message.metadata.dst_node_id]
            reply = self.app(message, context)
            self.ledger.exchange(1, int(context.node_config["partition-id"]), message, reply)
            yield reply


def run_here(app: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> TrafficLedger:
    monkeypatch.syspath_prepend(app)
    server = importlib.import_module("deployed_toy.server").app
    client = importlib.import_module("deployed_toy.client").app
    ledger = TrafficLedger()
    context = Context(1, 0, {}, RecordDict(), {"rounds": ROUNDS, "output": str(output)})
    threads = torch.get_num_threads()
    try:
        server(grid=MeteredGrid(client, ledger), context=context)
    finally:
        torch.set_num_threads(threads)
    return ledger


# --- Deployed -----------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which Flower keeps to `tmp_path` and finds its commands and fedsim."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    inherited = [p for p in [os.environ.get("PYTHONPATH", "")] if p]
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *inherited]),
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Starts commands in the background and returns their log; ends them, last one first."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, *command: str) -> Path:
        log = tmp_path / f"{name}.log"
        with log.open("wb") as output:
            # A session of its own: helpers it starts can be ended with it.
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        started.append(process)
        return log

    yield begin
    for process in reversed(started):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(log: Path, text: str, seconds: float = 60) -> None:
    """Wait until a log contains a text."""
    end = time.monotonic() + seconds
    while text not in (seen := log.read_text(errors="replace")):
        if time.monotonic() > end:
            pytest.fail(f"{log.name} does not say {text!r} after {seconds:.0f} s:\n{seen[-3000:]}")
        time.sleep(0.1)


def run_deployed(
    app: Path, output: Path, start: Callable[..., Path], environment: dict[str, str]
) -> tuple[int, int]:
    """Run the app on a SuperLink with its SuperNodes; its traffic counters (bytes up, down)."""
    port, *node_ports = free_ports(1 + CLIENTS)
    home = Path(environment["FLWR_HOME"])
    home.mkdir()
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "here"\n\n'
        f'[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    link = start(
        "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port),
        "--disable-runtime-dependency-installation",
    )  # fmt: skip
    wait_for(link, "running")
    for client, node_port in enumerate(node_ports):
        start(
            f"supernode{client}", "flower-supernode", "--insecure", "--superlink", address,
            "--host", "127.0.0.1", "--port", str(node_port),
            "--node-config", f"partition-id={client}",
        )  # fmt: skip

    def flwr(*arguments: str) -> str:
        done = subprocess.run(
            ["flwr", *arguments], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    config = f'output="{output}" rounds={ROUNDS}'
    log = flwr("run", str(app), "here", "--run-config", config, "--stream")
    assert output.exists(), log[-3000:]
    (run,) = json.loads(flwr("ls", "here", "--format", "json"))["runs"]
    traffic = run["network-traffic"]
    return traffic["inbound-bytes"], traffic["outbound-bytes"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deployment_gives_the_same_bits_and_bytes(
    app: Path,
    tmp_path: Path,
    start: Callable[..., Path],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, deployed = tmp_path / "here.npz", tmp_path / "deployed.npz"
    ledger = run_here(app, here, monkeypatch)
    inbound, outbound = run_deployed(app, deployed, start, environment)
    with np.load(here) as ours, np.load(deployed) as theirs:
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes(), name
    # The SuperLink's random ids are a few bytes wider or narrower than those we count with.
    up, down = (round(megabytes * 1e6) for megabytes in ledger.total_megabytes())
    exchanges = ROUNDS * CLIENTS
    assert abs(up - inbound) <= 64 * exchanges, (up, inbound)
    assert abs(down - outbound) <= 64 * exchanges, (down, outbound)
