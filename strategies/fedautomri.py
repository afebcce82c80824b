"""FedAutoMRI: clients search an architecture together, then train the network that was derived.

Wu et al., "FedAutoMRI: Federated Neural Architecture Search for MR Image Reconstruction" (2023).
The client's half is `clients/fedautomri.py`, the method card `docs/methods/reconstruction.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import PositiveFloat

from fedsim import Exchange, InputError, RoundState, Server
from fedsim.method import Aggregated, Arrays
from fedsim.models.auto_mri import ALPHAS, GATES, AutoMRI, derived, in_use, searching
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensor_record, tensors


class FedAutoMRI(FedAvg):
    """Average super-nets and their logits, derive an architecture, then average its weights alone.

    The logits themselves are averaged, as the paper has it. The derived network begins anew, with
    the run's first weights. The architecture is in the arrays: it is the only state there is.

    Args:
        search: share of the rounds that search, rounded, at least one; the paper has 50 of 200.
        weighting: as of `fedavg`; the paper weights by samples.
    """

    payload_kind = "architecture"
    made_for = "k-space"
    linear = False
    exact = "what travels of the model changes from round to round"

    def __init__(
        self,
        search: PositiveFloat = 0.25,
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__("float32", weighting)
        if search >= 1:
            raise ValueError(f"search is a share of the rounds, below 1, not {search}.")
        self.search = search

    def setup(self, server: Server) -> None:
        """Refuse a model that is no search space, or not all of it, and rounds that only search."""
        super().setup(server)
        model = server.new_model()
        if not isinstance(model, AutoMRI):
            raise InputError(
                "strategy 'fedautomri' derives an architecture from a super-net, and the model is "
                f"a {type(model).__name__}",
                hint="type model.name=auto_mri",
            )
        if stays := server.roles.stays:
            raise InputError(
                "strategy 'fedautomri' searches and derives with all of the super-net, and "
                f"{len(stays)} of its arrays do not travel, such as {min(stays)!r}",
                hint="leave out federation.local, model.trainable and model.adapter",
            )
        if self._searching() >= server.rounds:
            raise InputError(
                f"strategy.search={self.search} leaves none of {server.rounds} rounds to train "
                "what was found",
                hint="set rounds to more, or strategy.search to less",
            )

    def phase(self, server_round: int) -> str:
        """ "search" in the first rounds, "train" in the others."""
        return "search" if server_round <= self._searching() else "train"

    def _searching(self) -> int:
        """How many rounds search."""
        return max(1, round(self.search * self.server.rounds))

    def next(self, state: RoundState) -> Exchange | None:
        """One exchange, of the kind "search" or "train"."""
        if state.exchange:
            return None
        kind = self.phase(state.round)
        whole = tensors(state.arrays)
        if kind == "train":
            whole = self._derived(whole)
        config = ConfigRecord({"server-round": state.round})
        content = self.content(state.round, _sent(whole), config)

        def aggregate(replies: Iterable[Message]) -> Aggregated:
            arrays, metrics = self.aggregate_train(state.round, replies)
            if arrays is None:
                return None, metrics
            return tensor_record({**whole, **tensors(arrays)}), metrics

        return state.ask(kind, content, aggregate)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """What is in use, to every client."""
        config["server-round"] = server_round
        content = RecordDict({"arrays": _sent(tensors(arrays)), "config": config})
        return [Message(content, node, MessageType.EVALUATE) for node in grid.get_node_ids()]

    def _derived(self, whole: Arrays) -> Arrays:
        """The arrays with an architecture: those of the first weights where none was derived."""
        if not searching(whole[GATES]):
            return whole
        assert self.server.first_arrays is not None
        gates, first = derived(whole[ALPHAS]), tensors(self.server.first_arrays)
        used = in_use(first, gates)
        begun = {name: first[name] if name in used else 0 * first[name] for name in first}
        return {**begun, ALPHAS: whole[ALPHAS], GATES: gates}


def _sent(whole: Arrays) -> ArrayRecord:
    """What clients need: weights in use, with the logits in the search, then the architecture."""
    used = in_use(whole, whole[GATES])
    beside = ALPHAS if searching(whole[GATES]) else GATES
    return tensor_record({name: whole[name] for name in (*used, beside)})
