"""Client-level differential privacy: the server clips every client's update and adds noise.

McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018), with a cohort of
fixed size. The server is trusted; what it sends out protects the presence of any one client.
Adjacency is zero-out: a client's update is replaced by zero. (Replacing it by another update moves
the mean twice as far.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.errors import InputError, Problem, RunError
from fedsim.method.capabilities import capabilities
from fedsim.method.strategy import Server, Strategy, makes_exchanges
from fedsim.privacy.mechanisms import Mechanism, State
from fedsim.randomness import isolated
from fedsim.scenario.schema import Faults
from fedsim.tasks.task import Task
from fedsim.wire.buffers import roles_of
from fedsim.wire.flower import tensor_record, tensors

_RECORDS = 4


class ClientLevel(Strategy):
    """Hands a strategy one reply a round: the sent model plus the noisy mean of clipped updates.

    What the strategy makes of it, momentum for instance, is post-processing.

    Args:
        inner: the strategy.
        mechanism: what releases the mean; its expected batch is that of the whole federation.
    """

    def __init__(self, inner: Strategy, mechanism: Mechanism) -> None:
        self._inner, self._mechanism = inner, mechanism
        self._sent: dict[str, np.ndarray] = {}
        self._fixed: dict[str, np.ndarray] = {}
        self._cohort = 0

    def setup(self, server: Server) -> None:
        """Take what the run offers."""
        super().setup(server)
        self._inner.setup(server)

    def phase(self, server_round: int) -> str:
        """What the wrapped strategy calls a round."""
        return self._inner.phase(server_round)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped strategy's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give the wrapped strategy its state back."""
        self._inner.load_state_dict(state)

    def certificate(self, clients: int, colluders: int) -> float | None:
        """f C / n, before noise: the distance to the mean in which the colluders send nothing."""
        return colluders * self._mechanism.max_grad_norm / clients

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages."""
        # Frozen parameters stay as they are: nothing of them is released, and nothing hides them.
        frozen = self.server.roles.frozen
        self._fixed = {k: v for k, v in tensors(arrays).items() if k in frozen}
        self._sent = {k: v for k, v in tensors(arrays).items() if k not in frozen}
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        self._cohort = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy makes of the noisy mean; the clients' metrics stay at the server."""
        updates = _Updates(replies, self._sent)
        mechanism = replace(self._mechanism, expected_batch=self._cohort)
        noise = self.server.noise("mean of updates").for_release(0)
        released, _ = mechanism.aggregate(updates, State(), noise)
        if updates.last is None or updates.count != self._cohort:
            raise RunError(
                f"client-level privacy counts on {self._cohort} replies, and {updates.count} came: "
                "a mean over fewer moves further than the noise covers"
            )
        parts = released.update.numpy()
        moved, start = {}, 0
        for name, value in self._sent.items():
            change = parts[start : start + value.size].reshape(value.shape)
            moved[name] = (value + change).astype(value.dtype)
            start += value.size
        content = RecordDict(
            {
                "arrays": tensor_record(moved | self._fixed),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        arrays, _ = self._inner.aggregate_train(
            server_round, [Message(content, reply_to=updates.last)]
        )
        return arrays, None


class _Updates:
    """What the clients' models differ by from what was sent: float32 [1, d] each, read once."""

    def __init__(self, replies: Iterable[Message], sent: dict[str, np.ndarray]) -> None:
        self._replies, self._sent = replies, sent
        self.count = 0
        self.last: Message | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        for reply in self._replies:
            self.count, self.last = self.count + 1, reply
            arrays = tensors(reply.content.array_records["arrays"])
            parts = [(arrays[name] - value).ravel() for name, value in self._sent.items()]
            yield torch.from_numpy(np.concatenate(parts).astype(np.float32))[None]


def require_still_buffers(model: nn.Module, task: Task) -> None:
    """Refuse a model whose buffers learn from the records: the noise is on parameters alone.

    A running variance with noise may fall below zero, and without noise it would be released as it
    is. Buffers that never change (tables, masks) stay as the server has them.

    Raises:
        InputError: names each layer, or buffer.
    """
    statistics = (_BatchNorm, _InstanceNorm)
    problems = [
        Problem(path or "model", f"{type(module).__name__} keeps running statistics")
        for path, module in model.named_modules()
        if isinstance(module, statistics) and module.running_mean is not None
    ]
    problems = problems or [
        Problem(name, "a buffer that changes in training") for name in _moving_buffers(model, task)
    ]
    if problems:
        raise InputError(
            "privacy.unit=client needs a model that keeps nothing of the records beside its "
            "parameters: noise would spoil it, and without noise it would be released as it is",
            problems,
            hint="normalise with GroupNorm, as the models do that `fedsim plugins` lists, or "
            "with track_running_stats=False",
        )


def _moving_buffers(model: nn.Module, task: Task) -> list[str]:
    """Floating buffers of the state that a forward pass in training changes."""
    averaged = roles_of(model).averaged
    if not averaged:
        return []
    probe = copy.deepcopy(model).train()
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    with torch.no_grad(), isolated(np.random.SeedSequence(0)):
        probe(torch.randn(_RECORDS, *task.input_shape))
    after = probe.state_dict()
    return [n for n in before if n in averaged and not torch.equal(before[n], after[n])]


def require_client_level(strategy: object, faults: Faults) -> None:
    """Refuse strategies and faults with which the noise would not cover what a client does.

    Raises:
        InputError: the strategy does not take the plain mean of models in float32, or replies may
            be missing.
    """
    can = capabilities(strategy)
    if not isinstance(strategy, Strategy) or can.one_shot or can.local or can.linear is False:
        raise InputError(
            "privacy.unit=client needs a strategy that averages models: one that derives from "
            "fedsim.Strategy and is linear in the replies",
            hint="type strategy.name=fedavg strategy.weighting=uniform",
        )
    if makes_exchanges(strategy):
        raise InputError(
            "privacy.unit=client covers one mean of updates a round, and the strategy makes the "
            "exchanges of a round itself",
            hint="choose privacy.unit=record, or a strategy of one exchange a round",
        )
    if strategy.history != "none":
        raise InputError(
            f"the strategy keeps a history of each client's updates ({strategy.history!r}), but "
            "privacy.unit=client releases their noisy mean alone",
            hint="choose privacy.unit=record, where what clients send is released as it is, or "
            "another strategy",
        )
    if getattr(strategy, "weighting", None) != "uniform":
        raise InputError(
            "privacy.unit=client needs equal weights: a heavy client moves the mean by more than "
            "the noise covers",
            hint="type strategy.weighting=uniform",
        )
    if getattr(strategy, "codec", "float32") != "float32":
        raise InputError(
            "privacy.unit=client needs models as they are", hint="type strategy.codec=float32"
        )
    if faults.on_client_error != "stop" or faults.dropout or faults.deadline is not None:
        raise InputError(
            "privacy.unit=client needs every reply: a mean over fewer clients moves further than "
            "the noise covers",
            hint="type faults.on_client_error=stop faults.dropout=0 faults.deadline=null",
        )
