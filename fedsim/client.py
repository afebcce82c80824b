"""What a client method is, and what it is given.

A client method is a class with `train`; its constructor takes the parameters of the scenario's
`client:` block. It keeps nothing on itself: what must survive a round goes into `site.state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.randomness import Streams, as_int
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    from fedsim.data.views import View
    from fedsim.privacy.releases import Releases


@dataclass
class Site:
    """One client for the length of one message: its data, its state, its randomness.

    Attributes:
        client: number of the client, 0 <= client < number of clients.
        name: name of the site.
        round: the current round, from 1.
        rounds: how many the run has.
        task: what is learned.
        train, val: the site's records of the training and validation split.
        state: what the client keeps between rounds; the driver owns it.
        device: where to compute.
        new_model: returns the scenario's model; its contents are undefined until loaded.
        first_arrays: returns the arrays that the server's first model has, the same at all sites.
        steps: `for step in site.steps(total, label)` reports progress (see `fedsim.progress`).
        releases: in a private run the only way from the training records to the reply; else None.
    """

    client: int
    name: str
    round: int
    rounds: int
    task: Task
    train: View
    val: View
    state: RecordDict
    device: torch.device
    new_model: Callable[[], torch.nn.Module]
    first_arrays: Callable[[], ArrayRecord]
    steps: Callable[[int, str], Iterator[int]]
    _streams: Streams = field(repr=False)
    releases: Releases | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of this client's own stream for this round and purpose."""
        return self._streams.torch(purpose, self.round, self.client)

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """The same for NumPy."""
        return self._streams.numpy(purpose, self.round, self.client)

    def seed(self, purpose: str) -> int:
        """A 63-bit seed of this client's own stream for this round and purpose."""
        return as_int(self._streams.sequence(purpose, self.round, self.client))


class Client(ABC):
    """Base of client methods. The constructor only stores parameters."""

    payload: ClassVar[str] = ""
    """What it sends: "arrays" (a model), "images" (with labels), "nothing" (it keeps its own
    model); "": not declared. A strategy that declares another is refused."""
    made_for: ClassVar[str] = ""
    """The task that it learns, by the task's own `made_for`: "images" (to classify), "volumes" (to
    segment), or another package's; "": not declared."""

    @property
    def releases(self) -> tuple[str, ...]:
        """What of the site's records themselves travels in its replies, in words; () for nothing.

        It is written to run.json and shown when a run starts.
        """
        return ()

    def private_steps(self, units: int, expected_batch: int) -> int:
        """How many releases `train` makes in a round of a private run, through `site.releases`.

        A method that has a private form overrides this. In a private run its `train` may learn
        from the training records by `site.releases` alone.

        Args:
            units: records, or patients, of the site.
            expected_batch: units in an average sample.

        Raises:
            ValueError: the method, or its parameters, have no private form; says why.
        """
        raise ValueError(f"{type(self).__name__} has no private form")

    def check_private(self, model: torch.nn.Module, task: Task) -> None:  # noqa: B027
        """Refuse a model with which one record's contribution depends on others (InputError)."""

    @abstractmethod
    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Answer a training message.

        Args:
            content: what the server sent; its arrays are shared with other clients: copy, never
                write into them.
            site: the client's data, state and randomness.

        Returns:
            What travels to the server. Its field names are the names in `traffic.jsonl`.
        """

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Answer an evaluation message: the sent model's metrics on the site's validation split."""
        from fedsim.flower import load_state

        model, scores = site.new_model(), {}
        load_state(model, content.array_records["arrays"])
        if len(site.val):
            scores = site.task.score(site.task.predict(model, site.val, site.device), site.val)
        metrics = {name: value for name, value in scores.items() if value is not None}
        return RecordDict({"metrics": MetricRecord({"num-examples": len(site.val), **metrics})})


def as_client_app(client: Client, site_of: Callable[[Message, Context], Site]) -> ClientApp:
    """Wrap a client method as a Flower `ClientApp`, so that any Flower grid can run it.

    Args:
        client: the method.
        site_of: builds the site from a message and the client's context.
    """
    app = ClientApp()

    def answer(
        method: Callable[[RecordDict, Site], RecordDict], message: Message, context: Context
    ) -> Message:
        content = method(message.content, site_of(message, context))
        if not isinstance(content, RecordDict):
            raise TypeError(
                f"{type(client).__name__}.{method.__name__} must return a RecordDict, "
                f"not {type(content).__name__}"
            )
        return Message(content=content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(client.train, message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(client.evaluate, message, context)

    return app
