"""Client methods and strategies that misbehave, for tests of what fedsim says then."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedsim import Client, Site, Strategy
from fedsim.clients.supervised import Supervised
from fedsim.method.strategy import Server
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire.flower import tensor_record, tensors


class Raises(Supervised):
    """Raises at one client and round."""

    def __init__(self, client: int = 1, round: int = 1) -> None:
        super().__init__()
        self.where = client, round

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or raise."""
        if (site.client, site.round) == self.where:
            raise RuntimeError("the scanner is on fire")
        return super().train(content, site)


class Interrupts(Supervised):
    """Signals its own process while an `exec` of a string runs, as on import of SciPy."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Be interrupted."""
        exec(f"import signal\nsignal.raise_signal({self.number})")
        raise AssertionError("not interrupted")


class Replaces(Supervised):
    """Raises something else in the place of an interruption, while training or made anew."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Be interrupted, and raise an error."""
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as interruption:
            if self.what == "import":
                raise ImportError("initialization failed") from interruption
            raise ValueError("an answer to an interruption")  # noqa: B904
        raise AssertionError("not interrupted")


class Loses(Supervised):
    """Loses an interruption, as foreign code may, and then fails."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Swallow what a person sent."""
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("the store has gone")


class Dies(Supervised):
    """Ends its own process by SIGKILL at one client and round, `times` times in all."""

    def __init__(self, marks: str, times: int = 1, client: int = 1, round: int = 2) -> None:
        super().__init__()
        self.marks, self.times, self.where = Path(marks), times, (client, round)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or die."""
        deaths = len(list(self.marks.iterdir()))
        if (site.client, site.round) == self.where and deaths < self.times:
            (self.marks / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(content, site)


class Hangs(Supervised):
    """Never answers at one client and round."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or hang."""
        while (site.client, site.round) == (1, 2):
            time.sleep(1)
        return super().train(content, site)


class CountsAndRaises(Client):
    """Writes a number to its state, and then raises at client 1 in round 2."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Count, and raise."""
        seen = int(site.state["seen"]["rounds"]) + 1 if "seen" in site.state else 1
        site.state["seen"] = MetricRecord({"rounds": seen})
        if (site.client, site.round) == (1, 2):
            raise RuntimeError("after writing")
        metrics = MetricRecord({"num-examples": len(site.train), "seen": seen})
        return RecordDict({"arrays": content["arrays"], "metrics": metrics})


class Counts(Client):
    """Keeps a number in its state, and edits what it was sent."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Count the rounds this client has seen."""
        assert "marked" not in content, "another client's edit arrived here"
        content["marked"] = ConfigRecord({"by": site.client})
        seen = int(site.state["seen"]["rounds"]) + 1 if "seen" in site.state else 1
        site.state["seen"] = MetricRecord({"rounds": seen})
        metrics = MetricRecord({"num-examples": len(site.train), "seen": seen})
        return RecordDict({"arrays": content["arrays"], "metrics": metrics})


class Forgets(Strategy):
    """Fails while it aggregates."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Raise after hearing all replies."""
        list(replies)
        raise KeyError("weights")


class Lonely(Strategy):
    """Waits for more clients than there are, as Flower's sampling does."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for ever."""
        while len(list(grid.get_node_ids())) < 1000:
            pass
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Never called."""
        raise AssertionError


class Diverges(Supervised):
    """Sends NaN from one client."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, and spoil the last array at client 2."""
        reply = super().train(content, site)
        if site.client == 2:
            arrays = {name: np.array(value) for name, value in tensors(reply["arrays"]).items()}
            arrays["classifier.bias"][0] = np.nan
            reply["arrays"] = tensor_record(arrays)
        return reply


class ReturnsNothing(Client):
    """Forgets to return."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return None."""
        return None  # type: ignore[return-value]


class NotAClient:
    """Has nothing of a client."""


class Deaf(Strategy):
    """Never reads the replies."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return nothing."""
        return None, None


class OtherModel(FedAvg):
    """Returns the arrays of another model."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Rename an array."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        renamed = {f"other.{name}": value for name, value in tensors(arrays).items()}
        return tensor_record(renamed), metrics


class Silent(Counts):
    """Says that it releases three times, and learns without a release."""

    def private_steps(self, units: int, expected_batch: int) -> int:
        return 3


class Releases(Counts):
    """Breaks the rule of one sample, one row a unit, one release; three of them are planned."""

    kept: ClassVar[list[Any]] = []

    def __init__(self, how: str) -> None:
        self.how = how

    def private_steps(self, units: int, expected_batch: int) -> int:
        return 3

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        releases = site.releases
        assert releases is not None
        if self.how == "after the round" and site.client:
            releases = self.kept[0]
        self.kept[:] = [releases]
        with contextlib.suppress(RuntimeError if self.how == "caught" else ()):
            self._release(releases)
        return super().train(content, site)

    def _release(self, releases: Any) -> None:
        for step in range(4 if self.how == "caught" else 3):
            _, places = releases.sample()
            if self.how == "left over" and step == 2:
                return
            while self.how == "resampled" and len(np.unique(places)) % 2:
                _, places = releases.sample()
            count = len(np.unique(places)) * (100 if self.how == "many rows" else 1)
            again = 50 if self.how == "fifty times" else 1
            width = 3 + (self.how == "wider" and step)
            for _ in range(again):
                releases.release(torch.zeros(count, width))


class Broken(Counts):
    """Is charged for releases, and raises."""

    def private_steps(self, units: int, expected_batch: int) -> int:
        return 3

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        raise ValueError("broken")


class TwiceAsked(FedAvg):
    """Asks every client twice a round."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        once = list(super().configure_train(server_round, arrays, config, grid))
        return [*once, *super().configure_train(server_round, arrays, config, grid)]


class AskedBefore(FedAvg):
    """Lets clients train while it decides whom to ask."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        list(grid.send_and_receive(messages))
        return super().configure_train(server_round, arrays, config, grid)


class AskedAfter(FedAvg):
    """Lets clients train where they should evaluate."""

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return super().configure_train(server_round, arrays, config, grid)


class StrangeError(Exception):
    """Cannot be made into text."""

    def __str__(self) -> str:
        raise SystemExit("no text either")


def misbehave(what: str) -> None:
    """Leave in one of the ways in which code can."""
    if what == "recurses":
        misbehave(what)
    if what == "ping":
        misbehave("pong")
    if what == "pong":
        misbehave("ping")
    raise {
        "exits with 0": SystemExit(0),
        "exits with 3": SystemExit(3),
        "exits": SystemExit(),
        "interrupts": KeyboardInterrupt(),
        "closes": GeneratorExit(),
        "stops": StopIteration(),
        "bare": BaseException("bare"),
        "memory": MemoryError(),
        "escapes": ValueError("\x1b[2J\x1b]0;title\x07"),
        "long": ValueError("z" * 3_000_000),
        "many lines": ValueError("z\n" * 100_000),
        "strange": StrangeError(),
        "group": BaseExceptionGroup("several", [SystemExit(0), ValueError("one")]),
    }[what]


WAYS = (
    *("exits with 0", "exits with 3", "exits", "interrupts", "closes", "stops", "bare", "memory"),
    *("recurses", "ping", "long", "many lines", "strange", "group"),
)


class Misbehaves(Supervised):
    """Misbehaves where it is told to: in "train" or "evaluate" of client 1, or in "init"."""

    def __init__(self, what: str, where: str = "train") -> None:
        super().__init__()
        self.what, self.where = what, where
        if where == "init":
            misbehave(what)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or misbehave."""
        if self.where == "train" and site.client == 1:
            misbehave(self.what)
        return super().train(content, site)

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Evaluate, or misbehave."""
        if self.where == "evaluate" and site.client == 1:
            misbehave(self.what)
        return super().evaluate(content, site)


class Says(Supervised):
    """Says what it is told that its replies carry."""

    def __init__(self, what: int | str | list[int | str] | None) -> None:
        super().__init__()
        self.what = what

    @property
    def discloses(self) -> tuple[str, ...]:
        """What it was told, of whatever type."""
        return self.what  # type: ignore[return-value]


class Spoils(FedAvg):
    """A strategy that misbehaves in the method that it is told."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__()
        self.what, self.where = what, where
        self._reach("init")

    def _reach(self, where: str) -> None:
        if self.where == where:
            misbehave(self.what)

    def setup(self, server: Server) -> None:
        self._reach("setup")
        super().setup(server)

    def state_dict(self) -> dict[str, Any]:
        self._reach("state_dict")
        return super().state_dict()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._reach("configure_train")
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = super().aggregate_train(server_round, replies)
        self._reach("aggregate_train")
        return found

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._reach("configure_evaluate")
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        self._reach("aggregate_evaluate")
        return super().aggregate_evaluate(server_round, replies)


class SpoiltModel(torch.nn.Module):
    """A model that misbehaves in "init", or when it is not in training."""

    def __init__(
        self, num_classes: int, in_channels: int, image_size: int, what: str, where: str
    ) -> None:
        super().__init__()
        self.what, self.where = what, where
        if where == "init":
            misbehave(what)
        self.head = torch.nn.Linear(in_channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify by mean colours."""
        if self.where == "eval" and not self.training:
            misbehave(self.what)
        logits: torch.Tensor = self.head(images.mean((2, 3)))
        return logits


class SpoiltPartition:
    """Misbehaves when it shares out."""

    def __init__(self, what: str) -> None:
        self.what = what

    def assign(self, **given: Any) -> dict[str, np.ndarray]:
        """Misbehave."""
        misbehave(self.what)
        return {}


class SpoiltData:
    """Misbehaves when its folder is read."""

    classes = ("no", "yes")
    layout = "anything"

    def __init__(self, what: str) -> None:
        self.what = what

    def manifest(self, root: Path) -> Any:
        """Misbehave."""
        misbehave(self.what)


class Returns(FedAvg):
    """Hands over nothing, in all rounds or in the first, or what is no pair."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        if self.what == "a record":
            return arrays  # type: ignore[return-value]
        if self.what == "a list":
            return [1], metrics  # type: ignore[return-value]
        if self.what == "late" and server_round > 1:
            return arrays, metrics
        return None, None


class Weighs(Supervised):
    """Reports a number of records that it does not have, at one client or at all."""

    def __init__(self, count: float, client: int | None = None) -> None:
        super().__init__()
        self.count, self.client = count, client

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        reply = super().train(content, site)
        if self.client in (None, site.client):
            reply["metrics"]["num-examples"] = self.count
        return reply


class Overflows(Client):
    """Sends finite weights with which no prediction is a number."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        arrays = {
            name: np.full(value.shape, 3e38, np.float32)
            for name, value in tensors(content["arrays"]).items()
        }
        metrics = MetricRecord({"num-examples": len(site.train)})
        return RecordDict({"arrays": tensor_record(arrays), "metrics": metrics})


class KillsRay(Supervised):
    """Kills the raylet that started it: its own parent process."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        os.kill(os.getppid(), signal.SIGKILL)
        return super().train(content, site)


class LosesNode(Supervised):
    """Kills its node's raylet, or another process, `times` times in all, and waits for its end."""

    def __init__(self, marks: str, pid: int | None = None, times: int = 1) -> None:
        super().__init__()
        self.marks, self.pid, self.times = Path(marks), pid, times

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Train, or lose the node: one client, in the second round."""
        deaths = len(list(self.marks.iterdir()))
        if (site.client, site.round) == (1, 2) and deaths < self.times:
            (self.marks / str(deaths)).touch()
            os.kill(self.pid or os.getppid(), signal.SIGKILL)
            time.sleep(120)
        return super().train(content, site)


class Forks(Supervised):
    """Copies its process, and lets the copy answer, too."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        copy = os.fork()
        if not copy:
            return content
        os.waitpid(copy, 0)
        return super().train(content, site)


class Moves(Supervised):
    """Changes the process's folder."""

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        os.chdir("/")
        return super().train(content, site)


foreign = ClientApp()


@foreign.train()
def _train(message: Message, context: Context) -> Message:
    """A ClientApp of another library: draws from the global generators."""
    drawn = {
        name: np.random.normal(size=v.shape)
        for name, v in tensors(message.content["arrays"]).items()
    }
    arrays = tensor_record({name: value.astype(np.float32) for name, value in drawn.items()})
    metrics = MetricRecord({"num-examples": 1, "drawn": random.random()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
