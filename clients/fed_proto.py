"""FedProto: each client's features of a class are drawn to the prototype that all share.

Tan et al. (2022), arXiv:2105.00243, Algorithm 1 and Eq. 7. The server's half is
`strategies/fed_proto.py`, the method card `docs/methods/personal_methods.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import RecordDict
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fedsim import Site
from fedsim.clients.personal import PersonalImages, keep_own
from fedsim.statistics import ClassMeans, head_inputs, head_of
from fedsim.wire import tensor_record, tensors


@dataclass(eq=False)
class FedProto(PersonalImages):
    """Train an own model with a pull on what its last layer sees, and send class means of that.

    Args:
        weight: lambda of the paper, of the mean squared difference between a record's vector and
            its class's prototype. With 0 the model is that of `local_only`, to the bit.
    """

    payload = "statistics"
    payload_kind = "fed_proto"
    proximal = False

    weight: NonNegativeFloat = 1.0

    @property
    def discloses(self) -> tuple[str, ...]:
        """What a prototype is, and what travels beside it."""
        return (
            "the mean feature vector of each class, and the number of its records: of a class "
            "with one record the mean is that record's vector",
        )

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the prototypes of the trained model; it stays in the client's state."""
        model = self.own_model(site)
        shared = content.array_records.get("class_means")
        if shared is None or not self.weight:
            metrics = self.learn(model, site)
        else:
            values = tensors(shared)
            means, known = (
                torch.tensor(values[name], dtype=torch.float32, device=site.device)
                for name in ("means", "counts")
            )
            with seen_by_head(model) as seen:
                metrics = self.learn_beside(
                    model,
                    site,
                    lambda _, labels: self.weight * distance(seen[-1], labels, means, known),
                )
        keep_own(model, site)
        positions = np.arange(len(site.train))
        vectors = head_inputs(model, site.train.images, positions, site.device)
        found = ClassMeans.of(vectors, site.train.labels.numpy(), site.task.num_classes)
        return RecordDict({"class_means": tensor_record(found.arrays()), "metrics": metrics})


def distance(vectors: Tensor, labels: Tensor, means: Tensor, known: Tensor) -> Tensor:
    """The mean squared difference of vectors [n, k] to their classes' means [classes, k].

    A record counts 0 whose class has no mean: 0 in `known` [classes].
    """
    squares = (vectors - means[labels]).square().mean(dim=1)
    return (squares * known[labels]).mean()


@contextmanager
def seen_by_head(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, a list of what the model's last layer saw last, [n, k], with its gradients."""
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = [inputs[0]]

    hook = head_of(model).register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()
