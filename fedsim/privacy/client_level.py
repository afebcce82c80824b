"""Client-level differential privacy: the server clips every client's update and adds noise.

McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018), with a cohort of
fixed size. The server is trusted; what it sends out protects the presence of any one client.
Adjacency is zero-out: a client's update is replaced by zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import InputError, RunError
from fedsim.flower import tensor_record, tensors
from fedsim.schema import Faults
from fedsim.strategy import Server, Strategy


class ClientLevel(Strategy):
    """Wraps a strategy whose new arrays are the plain mean of the clients' arrays.

    Args:
        inner: the strategy.
        max_grad_norm: C, the largest Euclidean norm of an update.
        noise_multiplier: z; the mean gets noise of standard deviation z * C / n for n clients.
    """

    def __init__(self, inner: Strategy, max_grad_norm: float, noise_multiplier: float) -> None:
        self._inner, self._norm, self._noise = inner, max_grad_norm, noise_multiplier
        self._sent: dict[str, np.ndarray] = {}
        self._cohort = 0

    def setup(self, server: Server) -> None:
        """Take what the run offers."""
        super().setup(server)
        self._inner.setup(server)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped strategy's state."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give the wrapped strategy its state back."""
        self._inner.load_state_dict(state)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages."""
        self._sent = tensors(arrays)
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        self._cohort = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the clipped updates, with noise; metrics do not leave the server."""
        clipped = _Clipped(replies, self._sent, self._norm)
        arrays, _ = self._inner.aggregate_train(server_round, clipped)
        if clipped.count != self._cohort or arrays is None:
            raise RunError(
                f"client-level privacy counts on {self._cohort} replies, and {clipped.count} came: "
                "a mean over fewer moves further than the noise covers"
            )
        draws = self.server.numpy_generator("client-level noise")
        scale = self._noise * self._norm / self._cohort
        noisy = {
            name: (value + draws.normal(0.0, 1.0, value.shape) * scale).astype(value.dtype)
            for name, value in tensors(arrays).items()
        }
        return tensor_record(noisy), None


class _Clipped:
    """Replies whose arrays lie at most C from what was sent."""

    def __init__(
        self, replies: Iterable[Message], sent: dict[str, np.ndarray], norm: float
    ) -> None:
        self._replies, self._sent, self._norm = replies, sent, norm
        self.count = 0

    def __iter__(self) -> Iterator[Message]:
        for reply in self._replies:
            self.count += 1
            yield Message(self._clip(reply.content), reply_to=reply)

    def _clip(self, content: RecordDict) -> RecordDict:
        arrays = tensors(content.array_records["arrays"])
        updates = {name: value - self._sent[name].astype(float) for name, value in arrays.items()}
        length = float(np.sqrt(sum(np.square(update).sum() for update in updates.values())))
        factor = min(1.0, self._norm / length) if length else 1.0
        near = {
            name: (self._sent[name] + factor * update).astype(arrays[name].dtype)
            for name, update in updates.items()
        }
        return RecordDict({**content, "arrays": tensor_record(near)})


def require_client_level(strategy: object, faults: Faults) -> None:
    """Refuse strategies and faults with which the noise would not cover what a client does.

    Raises:
        InputError: the strategy does not take the plain mean of models in float32, or replies may
            be missing.
    """
    if not isinstance(strategy, Strategy) or strategy.one_shot or strategy.local:
        raise InputError(
            "privacy.unit=client needs a strategy that averages models",
            hint="type strategy.name=fedavg strategy.weighting=uniform",
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
