"""What a server strategy is, and what it is given.

A strategy is a Flower `Strategy`. Flower's own run unmodified; one that derives from `Strategy`
here is also handed a `Server`: the task, the model, its own randomness, and where to put pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim.folder.history import NONE, History, Keeps
from fedsim.method.exchanges import Exchange, RoundState, training
from fedsim.method.received import Received
from fedsim.privacy.noise import Noise
from fedsim.randomness import SERVER, Streams
from fedsim.scenario.schema import joining
from fedsim.tasks.task import Task
from fedsim.wire.arrays import tensors
from fedsim.wire.buffers import Roles
from fedsim.wire.codecs import encode_images

if TYPE_CHECKING:
    from fedsim.unlearning.procedures import Departure


@dataclass
class Server:
    """What a strategy may use, for the length of a run.

    Attributes:
        task: what is learned.
        names: client names in client order.
        rounds: how many the run has.
        participation: share of the clients that join a round, 0 < share <= 1.
        device: where to compute.
        new_model: builds the scenario's model, freshly initialised from torch's global state.
        steps: `for step in server.steps(total, label)` reports progress (see
            `fedsim.grid.progress`).
        validate: scores a model on the pooled validation split, or None unless the scenario
            declares `evaluation.select: pooled_val`.
        folder: where `show` writes, the run's `synthetic/`, and the strategy may; or None.
        note: what pictures must say about data that are not real, or "".
        client_of: the number of the client that sent a reply.
        roles: what the tensors of the model's state are. A strategy is handed, and hears of, the
            parameters alone (see `fedsim.wire.buffers`).
        round, exchange: the current round, from 1, and the number of the exchange in it, from 0;
            the loop sets them.
        phase: what the strategy calls the current round.
        history: what clients sent in earlier rounds, as far as `Strategy.history` asks for it.
        first_arrays: the model that the run began with, as the strategy was handed it; None before
            it is known.
        asked: whom the simulated clock asks in the current round; None where it leaves that to
            `participation`.
        forgets: client name -> share of its training records that it is asked to forget, above 0.
    """

    task: Task
    names: list[str]
    rounds: int
    participation: float
    device: torch.device
    new_model: Callable[[], torch.nn.Module]
    steps: Callable[[int, str], Iterator[int]]
    validate: Callable[[torch.nn.Module], dict[str, float | None]] | None
    folder: Path | None
    note: str
    client_of: Callable[[Message], int]
    _streams: Streams = field(repr=False)
    _noise: Noise | None = field(default=None, repr=False)
    round: int = 0
    roles: Roles = field(default_factory=Roles)
    exchange: int = 0
    phase: str = "train"
    history: History = NONE
    first_arrays: ArrayRecord | None = None
    asked: list[int] | None = None
    forgets: Mapping[str, float] = field(default_factory=dict)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of the server's own stream for this exchange and purpose."""
        return self._streams.torch(purpose, self.round, SERVER, self.exchange)

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """The same for NumPy."""
        return self._streams.numpy(purpose, self.round, SERVER, self.exchange)

    def noise(self, purpose: str) -> Noise:
        """The server's own noise for this exchange and purpose; only private runs have any."""
        if self._noise is None:
            raise RuntimeError("there is no noise in a run without privacy")
        return self._noise.derive("server", purpose, self.round, self.exchange)

    def sample_clients(self) -> list[int]:
        """The clients of this round, ascending: a share `participation` of all, at least one.

        They are the same in all exchanges of the round. Where replies come when they come
        (`federation.clock`) they are those who begin to work, of which there may be none.
        """
        if self.asked is not None:
            return list(self.asked)
        count = len(self.names)
        wanted = joining(count, self.participation)
        draws = self._streams.numpy("participation", self.round, SERVER)
        chosen = draws.choice(count, wanted, replace=False)
        return sorted(int(client) for client in chosen)

    def show(self, images: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Keep images that clients sent, as arrays and as pictures, in the run's `synthetic/`.

        Args:
            images: the client's name -> its images, float32 [n, C, H, W], normalised, and their
                labels, int64 [n]. Nothing is written in a trial, which has no folder.
        """
        if self.folder is None:
            return
        from fedsim.report.sheets import save_synthetic  # It draws; most strategies do not.

        sent = {
            name: (encode_images(shown, "uint8"), labels.numpy())
            for name, (shown, labels) in images.items()
        }
        save_synthetic(self.folder, sent, self.task.classes, self.note, self.names)


class Strategy(FlowerStrategy):
    """Base of fedsim's strategies: sends the same content to the sampled clients.

    A strategy must override `aggregate_train`, and `content` if it sends more than the arrays. One
    with several exchanges a round overrides `next`, one with several phases `phase`.
    """

    server: Server
    one_shot: ClassVar[bool] = False
    """Whether clients send once: then a run has one round, and replies are stored on arrival."""
    payload: ClassVar[str] = ""
    """What clients must send: "arrays" (a model), "images" (with labels), "statistics" (of feature
    vectors), "nothing" (each keeps its own model); "": not declared. A client method that declares
    another is refused."""
    payload_kind: ClassVar[str] = ""
    """Which payload, as `Client.payload_kind`; "": not declared."""
    made_for: ClassVar[str | tuple[str, ...]] = ""
    """The task that it is for, or several, as `Client.made_for`; "": not declared."""
    local: ClassVar[bool] = False
    """Whether there is no global model: each client keeps its own in its state, as `arrays`. All
    are scored on the test split, and the run's metrics are means over clients."""

    linear: ClassVar[bool | None] = None
    """Whether the new model depends on the replies by a weighted sum of them alone: then they may
    be summed as they come, and be protected as a sum (`privacy.unit: client`). None: not declared.
    What derives from such a strategy and combines replies otherwise declares False."""

    needs_losses: ClassVar[bool] = False
    """Whether replies are weighted by the training losses that clients report. Private clients
    report none."""

    exact: ClassVar[str] = ""
    """Why the models that clients send must arrive as they were sent, in words that go on "with
    this strategy"; then `wire` is refused. "": they may be compressed."""

    changes: ClassVar[tuple[str, ...]] = ()
    """Names of the records of replies that are changes, beside the model. The server adds them up
    over the rounds, and sends a record of the same name, with arrays of the same names and shapes:
    their sum so far. `wire` compresses both. What it leaves out of a change stays with the client,
    and is added to its next one."""

    history: ClassVar[Keeps] = "none"
    """What `server.history` keeps of the clients' updates: nothing; "norms" of all rounds; the
    "last" round's updates, too; or those of all rounds ("full"). They are on disk."""

    takes_older: ClassVar[bool | None] = None
    """Whether replies to older models will do, moved to the current one (`federation.clock`). None:
    not declared; then they do where the strategy is linear in whole models."""

    withdrawal: ClassVar[str] = ""
    """What a finished run of it keeps, from which a client can be taken out (`fedsim forget`): the
    "model" alone; a "history", as `memories` in its state; or "", nothing that unlearning goes on
    from. It averages models by its attributes `weighting` and `codec`. A class declares it of
    itself; what derives from it declares it anew."""

    order_matters: ClassVar[bool] = False
    """Whether another order of the replies gives another model, beyond rounding. They are always
    handed on in client order; `fedsim check-plugin` asks."""

    def check_replies(self, replies: int) -> None:
        """Refuse parameters that do not go with so many replies a round.

        Called as `check_clients` is, with the number of clients that join a round: the share
        `federation.participation` of all. Of clients that fail there may be fewer.

        Raises:
            ValueError: says which parameter is wrong, and why.
        """

    def check_clients(self, clients: int) -> None:
        """Refuse parameters that do not go with this number of clients.

        Called when a scenario is read or, where its partition decides how many clients there are,
        before anything runs.

        Raises:
            ValueError: says which parameter is wrong, and why.
        """

    def needs_answers(self) -> str:
        """Why the sum of all replies would not do in their place, in words; "" where it would.

        Then noise may be shared between clients (`privacy.trust: secure_sum`).
        """
        return "it does not declare that it uses their sum alone"

    def setup(self, server: Server) -> None:
        """Take what the run offers; called once before the first round."""
        self.server = server

    def next(self, state: RoundState) -> Exchange | None:
        """The next exchange of a round; by default there is one, and it trains.

        It is asked before each exchange, and again after an interruption: what it depends on is
        `state` and what `state_dict` holds, and it changes nothing.

        Args:
            state: where the run is; `state.ask` makes an exchange, and `super().next(state)` the
                one of `configure_train` and `aggregate_train`.

        Returns:
            None where the round is over. A round without any exchange ends the run.
        """
        return None if state.exchange else training(self, state)

    def phase(self, server_round: int) -> str:
        """What a round is called in the lines and pictures of a run."""
        return "train"

    def exchanges(self, rounds: int) -> int | None:
        """In how many exchanges of a run of so many rounds clients train, at most.

        Private runs plan their noise by it. None: nobody said, and there is no private run.
        """
        return None if makes_exchanges(self) else rounds

    def received(self, reply: Message) -> Received:
        """A client's model, decoded; one that encodes what travels overrides this."""
        weight = examples(reply.content.metric_records["metrics"])
        arrays = tensors(reply.content.array_records["arrays"])
        return Received(weight, arrays)

    def counted(self) -> Sequence[float] | None:
        """What each reply counted in the last aggregate, in client order, about 1 in all.

        None: nobody said; where the strategy is linear, as `received` weights them.
        """
        return None

    @property
    def tolerates(self) -> int | None:
        """Clients that may send anything, by its parameters; None: it has no such number."""
        return None

    def doubts(self, clients: int) -> list[str]:
        """What a person must know of its parameters with so many clients, a sentence each."""
        return []

    def certificate(self, clients: int, colluders: int) -> float | None:
        """How far so many colluders move the aggregate of a round at most, whatever they send.

        As a Euclidean norm, before the server's own momentum and learning rate. None: no bound is
        known.
        """
        return None

    def keeps(self, arrays: ArrayRecord) -> Mapping[str, int]:
        """What it keeps of a run for later, beside the model: what for -> bytes, at most.

        Args:
            arrays: a model.
        """
        return {}

    def departure(self) -> Departure | None:
        """Who is to be taken out of the model once the run is done, and how; None: nobody."""
        return None

    def unlearning(self) -> Mapping[str, Any] | None:
        """Who was taken out of the model, how, and what is promised; None: it takes nobody out."""
        return None

    @property
    def sum_size(self) -> int:
        """How many numbers the sum of replies has that `needs_answers` speaks of, after `setup`."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """What must be saved beside the global arrays: arrays, tensors, numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """What the server sends to a client for training."""
        return RecordDict({"arrays": arrays, "config": config})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message, with the same content, to each sampled client."""
        config["server-round"] = server_round
        content = self.content(server_round, arrays, config)
        nodes = list(grid.get_node_ids())
        return [
            Message(content, nodes[client], MessageType.TRAIN)
            for client in self.server.sample_clients()
        ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The arrays to every client."""
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content, node, MessageType.EVALUATE) for node in grid.get_node_ids()]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Means of the clients' metrics, weighted by their number of examples."""
        means = MetricMeans()
        for reply in replies:
            means.add(reply.content)
        return means.record()

    def summary(self) -> None:
        """Flower prints a summary here; fedsim's console does."""


def makes_exchanges(strategy: object) -> bool:
    """Whether a strategy makes a round's exchanges itself, and does not leave it at one."""
    return isinstance(strategy, Strategy) and type(strategy).next is not Strategy.next


def examples(metrics: MetricRecord) -> float:
    """How many records a reply stands for: its `num-examples`.

    Raises:
        ValueError: the reply has no such number, or it is negative.
    """
    count = metrics.get("num-examples")
    if not isinstance(count, int | float) or count < 0:
        raise ValueError(f"A reply's metrics need a number num-examples, but it is {count!r}.")
    return float(count)


class MetricMeans:
    """Means of all numbers in the replies' `metrics`, weighted by `num-examples`.

    A metric that some client does not have (one class only at that site) is averaged over those
    that do.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, content: RecordDict) -> None:
        """Take in the metrics of one reply."""
        metrics = content.metric_records.get("metrics")
        if metrics is None:
            raise ValueError(
                f"A reply needs a MetricRecord 'metrics'; it has {', '.join(content) or 'nothing'}."
            )
        weight = examples(metrics)
        for name, value in metrics.items():
            if name != "num-examples" and isinstance(value, int | float):
                self._sums[name] = self._sums.get(name, 0.0) + weight * value
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def record(self) -> MetricRecord:
        """The means so far."""
        return MetricRecord(
            {
                name: total / self._weights[name]
                for name, total in self._sums.items()
                if self._weights[name]
            }
        )
