"""The client's half of Fed-MAS: a long-tail loss, alignment with a frozen network, and one number.

Elbatel et al., "Federated Model Aggregation via Self-Supervised Priors for Highly Imbalanced
Medical Image Classification" (2023). E1 to E5 are its equations, in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fedsim import InputError, Site
from fedsim.clients.long_tail import LongTail
from fedsim.losses import class_means, divergence, rescue_factor
from fedsim.method import Augmentation, Penalty, load_received, proximal_term, update

_BATCH = 64
Pairs = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(eq=False)
class FedMAS(LongTail):
    """Train with a long-tail loss, and towards what a frozen network makes of the same images.

    The model must have `both(images)`, which gives logits and projections: `projected`. The frozen
    network's vectors lie beside the images (`data.features` with `beside: true`). The distance of
    each class before and during the training gives one number, by which the server weights the
    model. The classes' own distances do not leave the client.

    Args:
        alignment: weight of the distance in the loss, lambda_f.
        normalise: "paper" multiplies the distances as they are (E3), "code" divides both by their
            sums over the classes first, which can invert the order of clients. All other parameters
            are as in `long_tail`, but for `augment`, which there is not.
    """

    payload_kind = "rescue_factor"
    made_for = "images"
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    side_by_side = False

    alignment: NonNegativeFloat = 3.0
    normalise: Literal["paper", "code"] = "paper"
    augment: Augmentation = field(default="none", init=False)  # Vectors are of images as they are.

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and the rescue factor among the metrics."""
        model = site.new_model()
        load_received(model, content)
        model.to(site.device)
        pairs = _pairs(model, site)
        before = self._before(model, site, pairs)
        loss, during = self._fit_aligned(model, site, pairs, proximal_term(model, content))
        # What diverged is refused for its arrays, which are no numbers, either.
        known = bool(torch.isfinite(before).all() and torch.isfinite(during).all())
        factor = rescue_factor(before, during, self.normalise) if known else 0.0
        metrics = MetricRecord({"num-examples": len(site.train)})
        metrics["loss"], metrics["rescue-factor"] = loss, factor
        return RecordDict({"arrays": update(model, content), "metrics": metrics})

    @torch.no_grad()
    def _before(self, model: nn.Module, site: Site, pairs: Pairs) -> Tensor:
        """Mean distance of each class under the received model, float64 [classes] (E2)."""
        model.eval()
        found = []
        for chosen in torch.arange(len(site.train)).split(_BATCH):
            _, projections, vectors = pairs(chosen)
            found.append(divergence(projections, vectors).cpu())
        return class_means(torch.cat(found), site.train.labels, site.task.num_classes)

    def _fit_aligned(
        self, model: nn.Module, site: Site, pairs: Pairs, penalty: Penalty | None
    ) -> tuple[float, Tensor]:
        """Train; the mean loss, and the mean distance of each class during it (E4)."""
        model.train()
        optimizer = self._optimizer(model, site.fast)
        criterion = self.criterion(site) or nn.CrossEntropyLoss(self._weights(site)).to(site.device)
        order, total = self._order(site), 0.0
        distances, labels = [], []
        for _ in site.steps(self._total(site), "train"):
            chosen = next(order)
            logits, projections, vectors = pairs(chosen)
            distance = divergence(projections, vectors)
            here = site.train.labels[chosen]
            loss = criterion(logits, here.to(site.device)) + self.alignment * distance.mean()
            if penalty is not None:
                loss = loss + penalty(model)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
            distances.append(distance.detach().cpu())
            labels.append(here)
        during = class_means(torch.cat(distances), torch.cat(labels), site.task.num_classes)
        return total / len(distances), during


def _pairs(model: nn.Module, site: Site) -> Pairs:
    """What gives logits, projections, and the frozen network's vectors, of records by position.

    Raises:
        InputError: the model does not project, there are no vectors, or they are of other lengths.
    """
    both, vectors = getattr(model, "both", None), getattr(site.train, "vectors", None)
    if not callable(both):
        raise InputError(
            "fed_mas needs a model that gives logits and projections, `both(images)`",
            hint="type model='{name: projected, network: convnet}'",
        )
    if not callable(vectors):
        raise InputError(
            "fed_mas compares images with a frozen network's vectors, and there are none",
            hint="type data.features='{network: efficientnet_lite0, public: 0, beside: true}'",
        )

    def pairs(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, projections = both(site.train.images(chosen).to(site.device))
        return logits, projections, vectors(chosen).to(site.device)

    with torch.no_grad():
        _, made, wanted = pairs(torch.tensor([0]))
    if made.shape != wanted.shape:
        raise InputError(
            f"the model projects to {made.shape[1]} numbers, but the frozen network's vectors "
            f"have {wanted.shape[1]}",
            hint=f"type model.dimensions={wanted.shape[1]}",
        )
    return pairs
