"""pFedMe's server: the shared model moves a share of the way to the clients' mean.

Dinh et al. (2020), arXiv:2006.08848, Algorithm 1. The client's half is `clients/pfedme.py`, the
method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import Codec, tensors


class PFedMe(FedAvg):
    """Average the clients' copies of the shared model; their personal models are scored.

    Args:
        beta: w = (1 - beta) w + beta mean (Algorithm 1). Above 1 it goes past the mean.
        codec, weighting: as of `fedavg`; Algorithm 1 counts all sampled clients alike.
    """

    local = True
    payload_kind = "pfedme"

    def __init__(
        self,
        beta: Annotated[float, Field(gt=0)] = 1.0,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(codec, weighting)
        self.beta = beta

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The mean, or the mean change, as far as `beta` goes."""
        assert self._global is not None
        found, sent = super().combine(received), tensors(self._global)
        if self.codec != "float32":
            return {name: self.beta * change for name, change in found.items()}
        return {name: sent[name] + self.beta * (mean - sent[name]) for name, mean in found.items()}
