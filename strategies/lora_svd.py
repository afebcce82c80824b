"""Averaging of low-rank changes: the mean of the products, factored again.

Federated averaging of the factors (FedIT: Zhang et al., "Towards Building the Federated GPT", 2023,
arXiv:2305.05644) gives mean(B) mean(A), which is not the mean of what clients trained, mean(B A).
FlexLoRA (Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
Client Resources", 2024, arXiv:2402.11505) averages the products and factors them by a singular
value decomposition, as this strategy does. Method card: `docs/methods/adapters.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from fedsim import InputError, Server
from fedsim.adapters import factor_pairs, factored, product
from fedsim.method import Arrays, Received
from fedsim.strategies.fedavg import FedAvg


class LoRASVD(FedAvg):
    """Average the clients' low-rank changes B A, and factor the mean; average all else.

    The new factors have the product that is nearest to the mean among all of the rank. Weights are
    those of FedAvg. In memory is one sum of the size of the adapted weights.

    Args:
        codec, weighting: as of `FedAvg`.
    """

    linear = False

    def setup(self, server: Server) -> None:
        """Take the server's tools; refuse a model without both factors of a layer to average."""
        super().setup(server)
        if not factor_pairs(server.roles.order):
            raise InputError(
                "strategy.name: 'lora_svd' averages low-rank changes, and clients send no layer's "
                "two factors",
                hint="type model.adapter=lora or, where A is frozen, strategy.name=fedavg, which "
                "then averages the changes themselves",
            )

    def combine(self, received: Iterable[Received]) -> Arrays:
        """The weighted mean, float64, with factors of the mean product of each layer."""
        products: Arrays = {}
        total = 0.0

        def each() -> Iterator[Received]:
            nonlocal total
            for one in received:
                total += one.weight
                for a, b in factor_pairs(one.arrays):
                    scaled = one.weight * product(_whole(one, a), _whole(one, b))
                    products[a] = products[a] + scaled if a in products else scaled
                yield one

        combined = super().combine(each())
        base = self._base()
        for a, b in factor_pairs(combined):
            factors = factored(products[a] / total, len(combined[a]))
            for name, value in zip((a, b), factors, strict=True):
                # Where clients sent changes, a change is returned.
                combined[name] = value.reshape(combined[name].shape) - base.get(name, 0.0)
        return combined


def _whole(received: Received, name: str) -> NDArray[Any]:
    """A factor as the client has it, where it sent a change, too."""
    return received.arrays[name] + received.base.get(name, 0.0)
