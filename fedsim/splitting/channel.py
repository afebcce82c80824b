"""A channel that loses packets, and the link of one client to its part of the model at the server.

A packet is one row of one channel of a feature map of one image. A lost row arrives as zeros;
nothing is scaled up for it. Features and gradients are lost independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Activations = Literal["float32", "uint8"]
"""How features travel; gradients are float32."""

MESSAGES = ("features-up", "features-down", "gradients-up", "gradients-down")
"""What crosses in a step of training, up being from the client to the server. Each has a stream of
its own, named `packets-<message>`."""

_LEVELS = 255
_ROUNDING = 1e-9
_FOR_EVER = 2.0**53
"""Packets, more than any message has: runs with a greater mean would not fit an int64."""


@dataclass(frozen=True)
class Channel:
    """Where each packet is lost with the same probability.

    Args:
        loss: that probability, 0 <= loss <= 1.
        burst: packets in an average run of lost ones (Gilbert's model of two states: Gilbert,
            "Capacity of a burst-noise channel", 1960); at least 1, and at least loss / (1 - loss),
            for one packet at least arrives between two runs. None: packets are lost independently.

    Raises:
        ValueError: a number out of its range.
    """

    loss: float = 0.0
    burst: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.loss <= 1:
            raise ValueError(f"packet_loss is a share between 0 and 1, not {self.loss}.")
        if self.burst is None:
            return
        if not 1 <= self.burst < math.inf:
            raise ValueError(f"burst is a number of packets, at least 1, not {self.burst}.")
        least = self.loss / (1 - self.loss) if self.loss < 1 else 1.0
        # 0.9 / (1 - 0.9) is a little more than 9 in floating point.
        if self.burst < least * (1 - _ROUNDING):
            enough = math.ceil(least * 1000 * (1 - _ROUNDING)) / 1000
            raise ValueError(
                f"burst is {self.burst}, but where {self.loss} of all packets are lost, and one "
                f"arrives between two bursts, a burst has at least {enough}."
            )

    def arrives(self, shape: Sequence[int], generator: torch.Generator) -> Tensor | None:
        """Which rows of a tensor arrive.

        Args:
            shape: of the tensor, [B, C, *spatial]; a row lies along its last axis.
            generator: on the CPU. Nothing is drawn where all rows arrive, or none.

        Returns:
            bool [B, C, *spatial[:-1], 1]; None: all do.
        """
        if self.loss == 0:
            return None
        rows = (*shape[:-1], 1)
        if self.loss == 1:
            return torch.zeros(rows, dtype=torch.bool)
        if self.burst is None:
            return torch.rand(rows, generator=generator) >= self.loss
        count = int(torch.Size(rows).numel())
        return ~self._bursts(count, self.burst, generator).reshape(rows)

    def _bursts(self, count: int, burst: float, generator: torch.Generator) -> Tensor:
        """Which of so many packets, one after another, are lost; bool [count]."""
        gap = burst * (1 - self.loss) / self.loss
        first = bool(torch.rand((), generator=generator) < self.loss)
        drawn: list[Tensor] = []
        while sum(int(runs.sum()) for runs in drawn) < count:
            # Runs are without memory, so the first one, which began before, is as long as any.
            means = (burst, gap) if first else (gap, burst)
            pairs = torch.stack([_geometric(mean, generator) for mean in means], dim=1)
            drawn.append(pairs.flatten().clamp(max=count))  # Their sum would overflow.
        ends = torch.cat(drawn).cumsum(0)
        run = torch.searchsorted(ends, torch.arange(count), right=True)
        return run % 2 == (0 if first else 1)


def _geometric(mean: float, generator: torch.Generator, count: int = 256) -> Tensor:
    """Lengths of runs with this mean, int64 [count], each at least 1."""
    if mean <= 1:
        return torch.ones(count, dtype=torch.int64)
    share = 1 / min(mean, _FOR_EVER)
    drawn = torch.empty(count, dtype=torch.float64).geometric_(share, generator=generator)
    return drawn.to(torch.int64)


class _Across(torch.autograd.Function):
    """Zeros in the place of lost rows; of the gradient others are lost."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, arrived: Tensor | None, returned: Tensor | None
    ) -> Tensor:
        ctx.returned = returned
        return received(values, arrived)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return received(gradients[0], ctx.returned), None, None


def received(values: Tensor, arrived: Tensor | None) -> Tensor:
    """What arrives of values: zeros where rows were lost; all of them where `arrived` is None."""
    if arrived is None:
        return values.clone()
    return torch.where(arrived.to(values.device), values, torch.zeros_like(values))


class _StraightThrough(torch.autograd.Function):
    """Features as 8 bits carry them; the gradient is that of the features before."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return dequantised(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        return gradients[0]


def dequantised(values: Tensor) -> Tensor:
    """What 8 bits a value carry: the range of each image in 255 equal steps.

    Args:
        values: [B, ...]; beside them the smallest value and the step of each image travel.

    Returns:
        The same shape; off by half a step at most, beside rounding.
    """
    flat = values.flatten(1)
    least = flat.min(dim=1, keepdim=True).values
    step = (flat.max(dim=1, keepdim=True).values - least) / _LEVELS
    codes = torch.where(step > 0, (flat - least) / step, torch.zeros_like(flat)).round()
    return (codes * step + least).reshape(values.shape)


class Link:
    """A client's two ways to its part of the model at the server, for one exchange.

    Args:
        channel: that all four messages of a step cross.
        generator: gives the stream of a purpose; those of `MESSAGES` are drawn from.
        activations: how features travel.

    Attributes:
        images: that went up so far.
    """

    def __init__(
        self,
        channel: Channel,
        generator: Callable[[str], torch.Generator],
        activations: Activations = "float32",
    ) -> None:
        self.channel, self.activations = channel, activations
        self.images = 0
        self._streams = {message: generator(f"packets-{message}") for message in MESSAGES}

    def up(self, features: Tensor) -> Tensor:
        """Features of the front end as they reach the server; gradients come back on this way."""
        self.images += len(features)
        return self._across(features, "features-up", "gradients-down")

    def down(self, features: Tensor) -> Tensor:
        """Features of the server's part as they reach the back end."""
        return self._across(features, "features-down", "gradients-up")

    def arrives(self, message: str, shape: Sequence[int]) -> Tensor | None:
        """Which rows of the next message of this name, one of `MESSAGES`, arrive."""
        return self.channel.arrives(shape, self._streams[message])

    def encoded(self, features: Tensor) -> Tensor:
        """Features as they are sent."""
        if self.activations == "float32":
            return features
        sent: Tensor = _StraightThrough.apply(features)  # type: ignore[no-untyped-call]
        return sent

    def _across(self, features: Tensor, sent: str, back: str) -> Tensor:
        arrived, returned = self.arrives(sent, features.shape), self.arrives(back, features.shape)
        crossed: Tensor = _Across.apply(self.encoded(features), arrived, returned)  # type: ignore[no-untyped-call]
        return crossed
