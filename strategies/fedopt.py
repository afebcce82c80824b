"""Adaptive optimisers on the server: FedAdagrad, FedAdam and FedYogi.

Reddi et al., "Adaptive Federated Optimization" (2021), Algorithm 2. FedAvgM, the same paper's SGD
with momentum, is `server_momentum`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensors

Decay = Annotated[float, Field(ge=0, lt=1)]


class FedOpt(FedAvg):
    """Base: the clients' mean change d is a gradient for an optimiser with a rate for each weight.

    m <- beta_1 m + (1 - beta_1) d, v as the subclass says, and x <- x + rate m / (sqrt(v) + tau);
    m begins at 0, v at tau^2. Both are float64 and part of the run's checkpoints.

    Args:
        learning_rate: of the server.
        beta_1: decay of m.
        tau: how much the rates adapt: the larger, the less.
        weighting: as of `fedavg`.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.01,
        beta_1: Decay = 0.9,
        tau: PositiveFloat = 1e-3,
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(weighting=weighting)
        self.learning_rate = learning_rate
        self.beta_1 = beta_1
        self.tau = tau
        self._first: Arrays = {}
        self._second: Arrays = {}

    @abstractmethod
    def second(self, before: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        """The next v, of the one before and the squares of d."""

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The global model after the optimiser's step, float64."""
        assert self._global is not None
        mean, sent, moved = super().combine(received), tensors(self._global), Arrays()
        for name, value in mean.items():
            start = sent[name].astype(value.dtype)
            change = value - start
            before = self._second.get(name, np.full(value.shape, self.tau**2))
            first = self.beta_1 * self._first.get(name, 0.0) + (1 - self.beta_1) * change
            second = self.second(before, np.square(change))
            moved[name] = start + self.learning_rate * first / (np.sqrt(second) + self.tau)
            self._first[name], self._second[name] = np.asarray(first), np.asarray(second)
        return moved

    def state_dict(self) -> dict[str, Any]:
        """m and v, float64 by the names of the arrays."""
        return {"first": dict(self._first), "second": dict(self._second)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back m and v."""
        self._first, self._second = dict(state["first"]), dict(state["second"])


class FedAdagrad(FedOpt):
    """The server takes steps of Adagrad along the clients' mean change: v <- v + d^2.

    Args:
        learning_rate, beta_1, tau, weighting: of the step, see `docs/methods/shelf.md`; with
            `beta_1: 0`, m is the change itself.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.01,
        beta_1: Decay = 0.0,
        tau: PositiveFloat = 1e-3,
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(learning_rate, beta_1, tau, weighting)

    def second(self, before: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        """The sum of all squares."""
        return before + square


class FedAdam(FedOpt):
    """The server takes steps of Adam along the clients' mean change: v is a running mean of d^2.

    Args:
        learning_rate, beta_1, tau, weighting: of the step, see `docs/methods/shelf.md`.
        beta_2: decay of v.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.01,
        beta_1: Decay = 0.9,
        beta_2: Decay = 0.99,
        tau: PositiveFloat = 1e-3,
        weighting: Literal["samples", "uniform"] = "samples",
    ) -> None:
        super().__init__(learning_rate, beta_1, tau, weighting)
        self.beta_2 = beta_2

    def second(self, before: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        """The running mean of the squares."""
        return self.beta_2 * before + (1 - self.beta_2) * square


class FedYogi(FedAdam):
    """The server takes steps of Yogi, whose v moves by d^2 at most: a large d^2 is not forgotten.

    Args:
        learning_rate, beta_1, beta_2, tau, weighting: as of `fedadam`.
    """

    def second(self, before: NDArray[Any], square: NDArray[Any]) -> NDArray[Any]:
        """v - (1 - beta_2) d^2 sign(v - d^2)."""
        return before - (1 - self.beta_2) * square * np.sign(before - square)
