"""What a client method is, and what it is given.

A client method is a class with `train`; its constructor takes the parameters of the scenario's
`client:` block. It keeps nothing on itself: what must survive a round goes into `site.state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

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
        train, val: the site's records of the training and validation split; with
            `federation.labelled` those of `train` whose labels are known.
        state: what the client keeps between rounds; the driver owns it.
        device: where to compute.
        new_model: returns the scenario's model; its contents are undefined until loaded.
        first_arrays: returns the arrays that the server's first model has, the same at all sites.
        steps: `for step in site.steps(total, label)` reports progress (see `fedsim.grid.progress`).
        releases: in a private run the only way from the training records to the reply; else None.
        exchange: number of the exchange in the round, from 0.
        kind: of the exchange: "train", "evaluate", or a name of the strategy's own.
        forget: those of `train` that the site is asked to forget, by `federation.overrides`; empty
            as a rule, and None where nobody asks.
        unlabelled: its other training records, whose labels cannot be read; None where no labels
            are hidden.
        fast: whether a method may compute with other last bits (`resources.fast`).
        precision: of training: "float32", or "bfloat16" for automatic mixed precision.
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
    exchange: int = 0
    kind: str = "train"
    forget: View | None = None
    unlabelled: Any = None
    fast: bool = False
    precision: str = "float32"

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of this client's own stream for this exchange and purpose."""
        return self._streams.torch(purpose, self.round, self.client, self.exchange)

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """The same for NumPy."""
        return self._streams.numpy(purpose, self.round, self.client, self.exchange)

    def seed(self, purpose: str) -> int:
        """A 63-bit seed of this client's own stream for this exchange and purpose."""
        return as_int(self._streams.sequence(purpose, self.round, self.client, self.exchange))


class Client(ABC):
    """Base of client methods. The constructor only stores parameters."""

    payload: ClassVar[str] = ""
    """What it sends: "arrays" (a model), "images" (with labels), "statistics" (of feature vectors),
    "nothing" (it keeps its own model); "": not declared. A strategy that declares another is
    refused."""
    payload_kind: ClassVar[str] = ""
    """Which payload, where there are several of a name: "feature_gram", say, of statistics; "": not
    declared. A strategy that declares another is refused."""
    made_for: ClassVar[str | tuple[str, ...]] = ""
    """The task that it learns, or several, by the task's own `made_for`: "images" (to classify),
    "volumes" (to segment), "features" (vectors to classify), or another package's; "": not
    declared."""
    keeps_state: ClassVar[bool | None] = None
    """Whether it keeps something in `site.state` from round to round. None: not declared."""
    private: ClassVar[str] = ""
    """Its private form, which `private_steps` describes: "dp-sgd" (noisy sums of gradients), a word
    of its own, or "none"; "": not declared. With "none", `privacy` of records is refused."""
    full_batch: ClassVar[bool] = False
    """Whether a private form samples all units, q = 1, whatever `privacy.expected_batch`: the
    right choice where an answer has one release."""
    sends_release: ClassVar[bool] = False
    """Whether its answer in a private run is one release, decoded by linear steps alone: sums of
    answers are noisy sums over all clients' records. What it `discloses` is said of answers
    without noise then."""

    learns_unlabelled: ClassVar[bool] = False
    """Whether it learns from `site.unlabelled`, too: refused without `federation.labelled`."""
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    """What of `resources.precision` its training takes."""
    proximal: ClassVar[bool] = False
    """Whether its training adds the proximal term that a message's config may ask for
    (`fedsim.method.proximal_term`)."""
    simulates: ClassVar[str] = ""
    """What of it only a simulation does, in words: then it is not deployed. "": nothing."""
    exact: ClassVar[str] = ""
    """Why what it sends must arrive as it was sent, as `Strategy.exact`; "": it need not."""
    side_by_side: ClassVar[bool] = False
    """Whether several clients may train at the same time in threads of one process: `train` draws
    from the site's generators alone, and changes nothing but its model and `site.state`. A class
    declares it of itself; what derives from it declares it anew."""

    def __init_subclass__(cls, **keys: Any) -> None:
        super().__init_subclass__(**keys)
        if any("releases" in vars(kind) for kind in cls.__mro__):
            # Passed over, what a method sends of its records would be listed nowhere.
            raise TypeError(f"{cls.__name__}.releases is named `discloses` now: rename it")

    @property
    def discloses(self) -> tuple[str, ...]:
        """What of the site's records themselves travels in its replies, in words; () for nothing.

        It is written to run.json and shown when a run starts.
        """
        return ()

    def private_steps(self, units: int, expected_batch: int) -> int:
        """How many releases an answer makes in a private run, through `site.releases`.

        It is the answer to one exchange that trains, of whatever kind; most rounds have one.

        A method that has a private form overrides this. In a private run its `train` may learn
        from the training records by `site.releases` alone.

        Args:
            units: records, or patients, of the site.
            expected_batch: units in an average sample.

        Raises:
            ValueError: the method, or its parameters, have no private form; says why.
        """
        raise ValueError(f"{type(self).__name__} has no private form")

    def workload(self, records: int) -> float:
        """Records that an answer to a training message looks at, each as often as it is seen.

        A simulated clock counts them (`federation.clock`). By default they are what the parameters
        `steps` and `batch_size`, or `epochs`, say; without them each record is seen once.

        Args:
            records: of the site, to train on.
        """
        steps, size, epochs = (
            getattr(self, key, None) for key in ("steps", "batch_size", "epochs")
        )
        if isinstance(steps, int) and steps:
            return float(steps * (size if isinstance(size, int) else 1))
        return float(records * (epochs if isinstance(epochs, int) else 1))

    def worst_rows(self, bound: float) -> Mapping[str, torch.Tensor]:
        """What units with the worst contents contribute to a release, for an audit to attack.

        A method overrides this whose contributions are no longer than the clipping norm before
        anybody clips them.

        Args:
            bound: the clipping norm.

        Returns:
            Name -> float [d], as its private form makes them; {}: there is nothing special.
        """
        return {}

    def why_not_stacked(self, model: torch.nn.Module, task: Task) -> str:
        """Why `train_stacked` cannot train a model of this kind; "" where it can, and it pays.

        Args:
            model: of the scenario; may be called in its training mode.
            task: what is learned.
        """
        return "its method trains one client at a time"

    def train_stacked(
        self, contents: Sequence[RecordDict], sites: Sequence[Site]
    ) -> list[RecordDict] | None:
        """Answer training messages of several clients in one call, see `fedsim.method.stacking`.

        Args:
            contents: what the server sent to each.
            sites: of each; no two share a generator or a state, all share a model.

        Returns:
            What `train` would answer, up to rounding, in the same order; None where these clients
            must train alone.
        """
        return None

    def check_fits(  # noqa: B027
        self, model: torch.nn.Module, task: Task, clients: Sequence[str]
    ) -> None:
        """Refuse parameters that do not go with the model, the task or the clients.

        Called before anything runs.

        Args:
            model: of the scenario, untrained; is left as it is.
            task: what is learned.
            clients: names of all clients, in client order.

        Raises:
            ValueError: says which parameter is wrong, and why.
        """

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

    def answer(self, content: RecordDict, site: Site) -> RecordDict:
        """Answer a message of the kind `site.kind`.

        "train" and "evaluate" are answered by these methods, another kind by the method that the
        class calls so or, without one, by `train`.
        """
        own = not hasattr(Client, site.kind) and callable(getattr(self, site.kind, None))
        named = own or site.kind in ("train", "evaluate")
        method: Callable[..., Any] = getattr(self, site.kind) if named else self.train
        reply = method(content, site)
        if not isinstance(reply, RecordDict):
            raise TypeError(
                f"{type(self).__name__}.{getattr(method, '__name__', site.kind)} must return a "
                f"RecordDict, not {type(reply).__name__}"
            )
        return reply

    def evaluate(self, content: RecordDict, site: Site) -> RecordDict:
        """Answer an evaluation message: the sent model's metrics on the site's validation split."""
        from fedsim.wire import load_state

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
    return _MethodApp(client, site_of)


class _MethodApp(ClientApp):
    """Hands every message to a client method: kinds of exchanges are not known beforehand."""

    def __init__(self, client: Client, site_of: Callable[[Message, Context], Site]) -> None:
        super().__init__()
        self._client, self._site_of = client, site_of

    def __call__(self, message: Message, context: Context) -> Message:
        """The client's answer to a message."""
        category, _, action = message.metadata.message_type.partition(".")
        site = self._site_of(message, context)
        site.kind = action or category
        return Message(content=self._client.answer(message.content, site), reply_to=message)
