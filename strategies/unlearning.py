"""Federated unlearning: training with all, taking a client out, and training on without it.

`Unlearning` is what the procedures in `unlearn_*.py` have in common; another one derives from it in
a file of its own. `Remember` trains and keeps what procedures need, for who may leave later
(`fedsim forget`). Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from pydantic import NonNegativeInt, PositiveInt

from fedsim import Exchange, InputError, RoundState, Server
from fedsim.method import ANEW, WITHOUT_FORGOTTEN, Aggregated, Arrays
from fedsim.strategies.fedavg import FedAvg
from fedsim.unlearning import WITHOUT_HISTORY, Departure, Memory, Observed, make_procedure
from fedsim.wire import Codec, tensor_record, tensors

TRAIN, UNLEARN, RETRAIN = "train", "unlearn", "retrain"

Kind = TypeVar("Kind", bound=Memory)


class Remembering(FedAvg):
    """Federated averaging whose server keeps something of every round of the training."""

    linear = False
    exact = "what is taken out of the model must be what the client sent"

    def __init__(
        self,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(codec, weighting)
        self._memories: dict[str, Memory] = {}

    def memory(self, kind: type[Kind]) -> Kind:
        """The memory of a kind."""
        found = self._memories[kind.name]
        assert isinstance(found, kind)
        return found

    def setup(self, server: Server) -> None:
        """Refuse what unlearning does not reach."""
        super().setup(server)
        if server.roles.averaged:
            raise InputError(
                f"strategy.name: the model has running statistics "
                f"({sorted(server.roles.averaged)[0]}, ...), which are averaged beside the "
                "strategy: what a client left in them would stay",
                hint="choose a model without, such as convnet or unet",
            )
        if server.roles.local:
            raise InputError(
                "federation.local: parts of the model stay at the clients, and unlearning does "
                "not reach them",
                hint="leave federation.local out",
            )
        if server.validate is not None:
            raise InputError(
                "evaluation.select: the best model on validation data may be one of before the "
                "client left",
                hint="type evaluation.select=last",
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, as of FedAvg; each memory is told of the round."""
        if not self._memories or self.server.phase != TRAIN:
            return super().aggregate_train(server_round, replies)
        assert self._global is not None
        sent = tensors(self._global)
        models: dict[int, Arrays] = {}
        weights: dict[int, float] = {}

        def each() -> Iterable[Message]:
            for reply in replies:
                client, one = self.server.client_of(reply), self.received(reply)
                weights[client] = one.weight
                models[client] = {
                    name: (value + one.base[name]).astype(sent[name].dtype) if one.base else value
                    for name, value in one.arrays.items()
                }
                yield reply

        found, metrics = super().aggregate_train(server_round, each())
        assert found is not None
        seen = Observed(server_round, sent, models, weights, tensors(found))
        for memory in self._memories.values():
            memory.observe(seen)
        return found, metrics

    def state_dict(self) -> dict[str, Any]:
        """All that is kept."""
        return {"memories": {name: one.state_dict() for name, one in self._memories.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what this procedure needs of it; there may be more."""
        for name, memory in self._memories.items():
            memory.load_state_dict(state["memories"][name])

    def _remember(self, memories: Sequence[Memory]) -> None:
        """Keep these; two of one kind that agree are one."""
        for memory in memories:
            there = self._memories.setdefault(memory.name, memory)
            if there.settings != memory.settings:
                raise InputError(
                    f"strategy.methods: two procedures need {memory.words} with other settings: "
                    f"{there.settings} and {memory.settings}",
                    hint="leave one of them out, or give both the same",
                )


class Remember(Remembering):
    """Train by federated averaging, and keep what procedures of unlearning need, for any client.

    Args:
        methods: procedure -> its parameters: names such as `ifu`, for the strategy `unlearn_ifu`,
            or of other strategies that derive from `Unlearning`. null: all that ship and need
            something, with their defaults.
        leaver: who leaves when the run is done. `fedsim run` then takes it out by each of these
            procedures, by training from scratch and by fine-tuning, and prints a table. null:
            nobody.
        retrain_rounds: rounds of training without the client, after each procedure. null: as many
            as with it.
        codec, weighting: as of `fedavg`; every client counts alike by default, as in the papers.
    """

    withdrawal = "history"

    def __init__(
        self,
        methods: dict[str, dict[str, Any]] | None = None,
        leaver: str | None = None,
        retrain_rounds: NonNegativeInt | None = None,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(codec, weighting)
        chosen = {name: {} for name in REMEMBERED} if methods is None else methods
        self.methods = {name: dict(parameters) for name, parameters in chosen.items()}
        self.leaver = leaver
        self.retrain_rounds = retrain_rounds
        self._procedures = {name: procedure(name, own) for name, own in self.methods.items()}

    def setup(self, server: Server) -> None:
        """Make the memories: anybody may leave."""
        super().setup(server)
        if self.leaver is not None and self.leaver not in server.names:
            raise InputError(
                f"strategy.leaver: there is no client {self.leaver!r}",
                hint=f"the clients are {', '.join(server.names)}",
            )
        count = len(server.names)
        self._memories = {}
        for found in self._procedures.values():
            self._remember(found.memories(range(count), count))

    def departure(self) -> Departure | None:
        """Who leaves when the run is done, and what is tried."""
        if self.leaver is None:
            return None
        tried: dict[str, dict[str, Any]] = {name: {} for name in WITHOUT_HISTORY}
        tried |= self.methods
        return Departure(self.leaver, tried, self.retrain_rounds)

    def keeps(self, arrays: ArrayRecord) -> dict[str, int]:
        """Procedure -> bytes of what it needs; several may need the same."""
        return {
            name: sum(
                self._memories[one.name].bytes(self.server.rounds, tensors(arrays))
                for one in found.memories((), 0)
            )
            for name, found in self._procedures.items()
        }


REMEMBERED = ("fedaccum", "federaser", "ukd", "pga", "ifu", "last_update")
"""The procedures that ship and need a history."""


def procedure(name: str, parameters: Mapping[str, Any]) -> Unlearning:
    """A procedure of this name and parameters, of whom it does not matter yet who leaves.

    Raises:
        InputError: there is no such procedure, or its parameters are wrong.
    """
    return make_procedure(name, Unlearning, {"train_rounds": 1, **parameters})


class Unlearning(Remembering):
    """Train with all, take a client out of the model, and train on with the others.

    What derives from it says which memories it needs (`memories`), and overrides `unlearned` where
    the server makes the new model by itself, or `unlearn` where it asks clients.

    Args:
        train_rounds: rounds with all clients; then come those of the procedure, and in those that
            are left the others train on.
        client: who leaves. null: nobody, but the records that `federation.overrides` names to
            forget; the clients train on without these.
        codec, weighting: as of `fedavg`; every client counts alike by default, as in the papers.
    """

    takes_records: ClassVar[bool] = False
    """Whether it can forget single records, too."""
    guarantee: ClassVar[str] = "none"
    """What is known of the result, in words, whatever was measured."""

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(codec, weighting)
        self.train_rounds = train_rounds
        self.client = client
        self._told: set[int] = set()

    # --- what a procedure overrides --------------------------------------------------------------

    @property
    def unlearn_rounds(self) -> int:
        """Rounds of the procedure itself."""
        return 1

    def unlearning_asks(self, left: int) -> int:
        """How many clients are asked in these rounds, all together; by default the server works.

        Args:
            left: how many clients stay.
        """
        return 0

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """What must be kept of the training.

        Args:
            leavers: who may leave.
            clients: how many clients there are.
        """
        return []

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The model without the client, made by the server alone.

        Args:
            arrays: the trained model.

        Returns:
            Arrays of any floating dtype.
        """
        raise NotImplementedError

    def unlearn(self, state: RoundState, step: int) -> Exchange:
        """The exchange of one round of the procedure; by default nobody is asked.

        Args:
            state: where the run is.
            step: number of the round, from 0.
        """

        def aggregate(replies: Iterable[Message]) -> Aggregated:
            for _ in replies:
                pass
            return self.of_model(self.unlearned(tensors(state.arrays)), state.arrays), None

        return Exchange(UNLEARN, [], aggregate)

    def details(self) -> dict[str, Any]:
        """What the summary says of the procedure beside its name: numbers, a certificate."""
        return {}

    # --- what they share -------------------------------------------------------------------------

    @property
    def leaver(self) -> int | None:
        """Number of the client that leaves."""
        return None if self.client is None else self.server.names.index(self.client)

    @staticmethod
    def of_model(arrays: Arrays, like: ArrayRecord) -> ArrayRecord:
        """Arrays with the dtypes of the model."""
        known = tensors(like)
        return tensor_record({name: arrays[name].astype(known[name].dtype) for name in known})

    def check_clients(self, clients: int) -> None:
        """Somebody must be left to train."""
        if self.client is not None and clients < 2:
            raise ValueError("client is the only one: nobody is left to train on")

    def setup(self, server: Server) -> None:
        """Find out who leaves, and refuse what cannot be done."""
        super().setup(server)
        if self.client is None:
            self._require_records(server)
        elif self.client not in server.names:
            raise InputError(
                f"strategy.client: there is no client {self.client!r}",
                hint=f"the clients are {', '.join(server.names)}",
            )
        least = self.train_rounds + self.unlearn_rounds
        if server.rounds < least:
            raise InputError(
                f"rounds: {server.rounds} are too few: {self.train_rounds} to train and "
                f"{self.unlearn_rounds} to unlearn",
                hint=f"type rounds={least}, or more to train on without the client",
            )
        self._memories = {}
        leavers = [] if self.leaver is None else [self.leaver]
        self._remember(self.memories(leavers, len(server.names)))

    def _require_records(self, server: Server) -> None:
        name = type(self).__name__
        if not self.takes_records:
            raise InputError(
                f"strategy.client: {name} is defined for whole clients, and none is named",
                hint="name strategy.client; unlearn_scratch and unlearn_finetune forget single "
                "records, too",
            )
        if not server.forgets:
            raise InputError(
                "strategy.client: nobody leaves, and no records are named to forget",
                hint="name strategy.client, or records: federation.overrides.<client>.forget",
            )
        if whole := [client for client, share in server.forgets.items() if share >= 1]:
            raise InputError(
                f"federation.overrides.{whole[0]}.forget: these are all its records",
                hint=f"type strategy.client={whole[0]}: the client leaves",
            )

    def phase(self, server_round: int) -> str:
        """Training with all, the procedure, and training without the client."""
        if server_round <= self.train_rounds:
            return TRAIN
        return UNLEARN if server_round <= self.train_rounds + self.unlearn_rounds else RETRAIN

    def next(self, state: RoundState) -> Exchange | None:
        """One exchange a round."""
        if state.exchange:
            return None
        if self.phase(state.round) == UNLEARN:
            return self.unlearn(state, state.round - self.train_rounds - 1)
        return super().next(state)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model to the sampled clients; in later phases to those who stay, who begin anew."""
        if self.phase(server_round) == TRAIN:
            return super().configure_train(server_round, arrays, config, grid)
        nodes = list(grid.get_node_ids())
        staying = [client for client in range(len(nodes)) if client != self.leaver]
        sampled = [client for client in self.server.sample_clients() if client != self.leaver]

        def content(anew: bool) -> Any:
            told = {ANEW: anew, WITHOUT_FORGOTTEN: self.client is None}
            asked = {key: True for key, needed in told.items() if needed}
            own = ConfigRecord({**config, "server-round": server_round, **asked})
            return self.content(server_round, arrays, own)

        contents = {anew: content(anew) for anew in (False, True)}
        return [
            Message(contents[client not in self._told], nodes[client], MessageType.TRAIN)
            for client in sampled or staying
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean; who has answered has begun anew."""
        return super().aggregate_train(server_round, self.heard(replies))

    def heard(self, replies: Iterable[Message]) -> Iterable[Message]:
        """The same replies; after the training it is noted who has begun anew."""
        for reply in replies:
            if self.server.phase != TRAIN:
                self._told.add(self.server.client_of(reply))
            yield reply

    def keeps(self, arrays: ArrayRecord) -> dict[str, int]:
        """Bytes of what it needs."""
        model = tensors(arrays)
        kept = [one.bytes(self.train_rounds, model) for one in self._memories.values()]
        return {type(self).__name__: sum(kept)}

    def unlearning(self) -> dict[str, Any] | None:
        """Who was taken out, how, and what is promised."""
        forgotten = {} if self.client is not None else dict(self.server.forgets)
        return {
            "procedure": type(self).__name__,
            "client": self.client,
            "records_by_client": forgotten or None,
            "train_rounds": self.train_rounds,
            "unlearn_rounds": self.unlearn_rounds,
            "guarantee": self.guarantee,
            **self.details(),
        }

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and who has begun anew."""
        return super().state_dict() | {"told": sorted(self._told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._told = set(state.get("told", ()))
