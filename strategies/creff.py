"""The server's half of CReFF: FedAvg, and a classifier that is re-trained on federated features.

Shang et al., "Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training
with Federated Features" (2022). The client's half is `clients/creff.py`, the method card
`docs/methods/creff.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from fedsim import InputError, Server
from fedsim.losses import class_gradients, gradient_distance
from fedsim.method import SGD, Arrays, endless_batches
from fedsim.statistics import head_of, head_path
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensor_record, tensors


class CReFF(FedAvg):
    """Average the clients' models, and re-train the classifier on features that nobody has.

    There are as many federated features of each class. The server moves them until their gradients
    are those that the clients report of their own images, and trains the classifier on them:
    classes count alike. The averaged model with this classifier is scored; clients train from the
    averaged model with its own.

    Args:
        features: of each class.
        matching_steps: of the features in each round, by plain gradient descent.
        matching_rate: its learning rate.
        epochs: passes over the features in which the classifier is re-trained each round, from the
            averaged one; 0: FedAvg.
        batch_size: features in a step of it.
        learning_rate: of its SGD.
        weight_decay: of its SGD.
    """

    payload_kind = "class_gradients"
    made_for = "images"
    linear = False

    def __init__(
        self,
        features: PositiveInt = 100,
        matching_steps: NonNegativeInt = 100,
        matching_rate: PositiveFloat = 0.1,
        epochs: NonNegativeInt = 300,
        batch_size: PositiveInt = 32,
        learning_rate: PositiveFloat = 0.01,
        weight_decay: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__("float32")
        self.features = features
        self.matching_steps = matching_steps
        self.matching_rate = matching_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self._averaged: Arrays | None = None  # The last layer of the averaged model.
        self._features: Tensor | None = None  # [classes, n, k]
        self._matched: Tensor | None = None  # bool [classes]: some client had it once.

    def setup(self, server: Server) -> None:
        """Refuse a model whose head is not one linear layer."""
        super().setup(server)
        model = server.new_model()
        path = head_path(model)
        self._head = {name: f"{path}.{name}" for name in ("weight", "bias")}
        self._size = head_of(model).in_features

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The averaged model, and the re-trained classifier.

        Raises:
            InputError: the model's head does not travel.
        """
        values = tensors(arrays)
        if missing := [name for name in self._head.values() if name not in values]:
            raise InputError(
                f"strategy 'creff' re-trains the model's head, but {missing[0]!r} does not travel: "
                "model.trainable or federation.local leaves it out",
                hint="name the head, too, or leave these keys out",
            )
        averaged = tensor_record(values | (self._averaged or {}))
        content = super().content(server_round, averaged, config)
        content["retrained"] = tensor_record(
            {name: values[place] for name, place in self._head.items()}
        )
        self._retrained = {name: torch.tensor(values[p]) for name, p in self._head.items()}
        return content

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The averaged model with its re-trained classifier, and how far gradients are apart."""
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}

        def heard() -> Iterator[Message]:
            for reply in replies:
                for one, gradient in self._read(reply.content):
                    sums[one] = sums[one] + gradient if one in sums else gradient
                    counts[one] = counts.get(one, 0) + 1
                yield reply

        averaged, metrics = super().aggregate_train(server_round, heard())
        if not sums or averaged is None or metrics is None:  # Nobody answered.
            return averaged, metrics
        values, classes = tensors(averaged), sorted(sums)
        self._averaged = {name: values[name] for name in self._head.values()}
        means = torch.stack([sums[one] / counts[one] for one in classes]).float()
        metrics["matching"] = self.match(torch.tensor(classes), means)
        return tensor_record(values | self._retrain()), metrics

    def _read(self, content: RecordDict) -> Iterator[tuple[int, Tensor]]:
        """A client's classes with its gradients, float64 [classes, k] each.

        Raises:
            InputError: it sent none.
            ValueError: they do not fit.
        """
        sent = content.array_records.get("gradients")
        if sent is None:
            raise InputError(
                "strategy creff re-trains a classifier by the gradients of classes, and clients "
                "send none",
                hint="type client=creff, or strategy=fedavg",
            )
        arrays, total = tensors(sent), self.server.task.num_classes
        classes, gradients = arrays["classes"], arrays["weight"]
        if gradients.shape != (len(classes), total, self._size):
            raise ValueError(
                f"Gradients of {len(classes)} classes are [{len(classes)}, {total}, {self._size}], "
                f"not {list(gradients.shape)}."
            )
        if len(set(classes.tolist())) < len(classes) or not set(classes.tolist()) <= set(
            range(total)
        ):
            raise ValueError(f"Classes are different numbers below {total}, not {classes}.")
        if not np.isfinite(gradients).all():
            raise ValueError("A client's gradients hold NaN or infinite values: it diverged.")
        for one, gradient in zip(classes.tolist(), gradients, strict=True):
            yield one, torch.tensor(gradient, dtype=torch.float64)

    def match(self, classes: Tensor, wanted: Tensor) -> float:
        """Move the features of some classes until their gradients point where the wanted ones do.

        Args:
            classes: int64 [m].
            wanted: gradients of the re-trained classifier's weights, [m, classes, k].

        Returns:
            The distance after it, a mean over classes (`fedsim.losses.gradient_distance`).
        """
        device, total = self.server.device, self.server.task.num_classes
        if self._features is None or self._matched is None:
            shape = (total, self.features, self._size)
            draws = self.server.generator("federated features")
            self._features = torch.randn(shape, generator=draws)
            self._matched = torch.zeros(total, dtype=torch.bool)
        features = self._features[classes].to(device).requires_grad_()
        weight, bias = (self._retrained[name].to(device) for name in ("weight", "bias"))
        rows, places = wanted.to(device).flatten(0, 1), classes.to(device)

        def distance() -> Tensor:
            own = class_gradients(features, weight, bias, places)
            return gradient_distance([rows], [own.flatten(0, 1)])

        optimizer = SGD([features], lr=self.matching_rate)
        for _ in self.server.steps(self.matching_steps, "match gradients"):
            optimizer.zero_grad(set_to_none=True)
            distance().backward()
            optimizer.step()
        self._features[classes] = features.detach().cpu()
        self._matched[classes] = True
        with torch.no_grad():
            return float(distance()) / len(classes)

    def _retrain(self) -> Arrays:
        """The last layer, trained from the averaged one on all features that were matched once."""
        assert self._averaged is not None
        assert self._features is not None
        assert self._matched is not None
        device = self.server.device
        weight, bias = (
            torch.tensor(self._averaged[self._head[name]], device=device, requires_grad=True)
            for name in ("weight", "bias")
        )
        known = self._matched.nonzero().flatten()
        features = self._features[known].flatten(0, 1).to(device)
        labels = known.repeat_interleave(self.features).to(device)
        optimizer = SGD([weight, bias], lr=self.learning_rate, weight_decay=self.weight_decay)
        order = endless_batches(len(labels), self.batch_size, self.server.generator("retraining"))
        total = self.epochs * -(-len(labels) // self.batch_size)
        for _ in self.server.steps(total, "re-train the classifier"):
            chosen = next(order)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(F.linear(features[chosen], weight, bias), labels[chosen]).backward()
            optimizer.step()
        found = zip(self._head.values(), (weight, bias), strict=True)
        return {name: value.detach().cpu().numpy() for name, value in found}

    def state_dict(self) -> dict[str, Any]:
        """The averaged last layer and the features; the re-trained one is the global model's."""
        return {
            **super().state_dict(),
            "averaged": self._averaged,
            "features": self._features,
            "matched": self._matched,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._averaged = state["averaged"]
        self._features, self._matched = state["features"], state["matched"]
