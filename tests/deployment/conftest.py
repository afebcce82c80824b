"""Nodes in this process: Flower's grid as an app sees it, without a SuperLink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment import client_app
from fedsim.deployment.export import export_app, package_of_app
from fedsim.deployment.server import serve
from fedsim.engine.result import Result
from fedsim.scenario import load
from fedsim.wire import flower

TINY = (
    "rounds=2",
    "federation.clients=2",
    "model.width=8",
    "data.size=16",
    "data.embedded={images: 120}",
    "resources.backend=inline",
)
"""Overrides with which a scenario of skin images runs in seconds."""

CRASHED = 2  # Flower's code of an error that a client's code led to


class Nodes(Grid):
    """Flower's grid, with nodes that answer at once.

    Attributes:
        configurations: `--node-config` of each node.
        sent, received: all messages, in order.
        refused: whether a message is not accepted; none is, as a rule.
        silent: whether a message is never answered; none is, as a rule.
        contexts: what Flower keeps of each node.
    """

    def __init__(self, folder: Path, configurations: Sequence[Mapping[str, Any]]) -> None:
        flower.configure_identity()
        self.app = client_app(folder)
        self.run_config: dict[str, Any] = {}
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self.refused: Callable[[Message], bool] = lambda message: False
        self.silent: Callable[[Message], bool] = lambda message: False
        self._replies: dict[str, Message] = {}
        # Not in client order, as the ids of a SuperLink are not.
        self.contexts = {
            90 - 7 * i: Context(1, 90 - 7 * i, dict(one), RecordDict(), self.run_config)
            for i, one in enumerate(configurations)
        }

    def set_run(self, run: Any) -> None:
        """Nothing depends on it."""

    @property
    def run(self) -> Any:
        """Nothing depends on it."""
        return flower.empty_run()

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Flower's older way, which nobody uses."""
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        """The nodes, in the order of their ids."""
        return sorted(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the nodes answer."""
        ids = []
        for message in messages:
            if self.refused(message):
                ids.append("")
                continue
            self.sent.append(message)
            ids.append(f"m{len(self.sent)}")
            flower.stamp(message, ids[-1])
            if self.silent(message):
                continue
            context = self.contexts[message.metadata.dst_node_id]
            try:
                reply = self.app(message, context)
            except Exception as error:  # As Flower does.
                reason = f"{type(error)}:<'{error}'>"
                reply = Message(Error(CRASHED, reason), reply_to=message)
            self._replies[ids[-1]] = reply
            self.received.append(reply)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """What they answered."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Both."""
        return self.pull_messages(self.push_messages(messages))


Deploy = Callable[..., Result]


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Runs an app on nodes in this process, into a run folder below `tmp_path`."""
    monkeypatch.setattr("fedsim.deployment.server._POLL_SECONDS", 0.0)
    monkeypatch.setattr("fedsim.deployment.grid._POLL_SECONDS", 0.0)

    def run(folder: Path, nodes: Nodes, **config: Any) -> Result:
        given = {"runs": str(tmp_path / "runs"), "wait": 5} | {
            key.replace("_", "-"): value for key, value in config.items()
        }
        nodes.run_config |= given
        return serve(folder, nodes, Context(17, 0, {}, RecordDict(), given))

    return run


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    """Exports a scenario; the folder of the app's package."""

    def write(name: str | Path, *overrides: str) -> Path:
        scenario = load(name, overrides)
        folder = tmp_path / f"app-{len(list(tmp_path.glob('app-*')))}"
        export_app(scenario, folder)
        return folder / package_of_app(scenario)

    return write
