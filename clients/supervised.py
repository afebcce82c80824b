"""Local supervised training: what FedAvg, FedProx and other averaging strategies ask of a client.

McMahan et al. 2017 (FedAvg); Li et al. 2020 (FedProx: the proximal term, when the server sends
`proximal-mu`).
"""

from __future__ import annotations

from typing import cast

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import Client, Site
from fedsim.codecs import Codec, decode_tensors, encode_tensors
from fedsim.flower import load_state, pack_state, tensor_record, tensors
from fedsim.training import (
    Augmentation,
    augmentation,
    balanced_weights,
    endless_batches,
    fit,
)


class Supervised(Client):
    """Train the received model on the site's images with SGD and cross-entropy.

    Args:
        epochs: passes over the local images in a round.
        steps: steps in a round, in place of `epochs`: the same work at every site.
        batch_size: images in a step.
        learning_rate, momentum, weight_decay: of SGD; the optimiser starts anew each round.
        class_balanced: weight the loss by n / (k n_c), so that a rare class counts as much.
        augment: "siamese" draws one of six operations a step with parameters for each image
            (Zhao & Bilen 2021); "none" trains on the images as they are.
    """

    def __init__(
        self,
        epochs: PositiveInt = 1,
        steps: PositiveInt | None = None,
        batch_size: PositiveInt = 32,
        learning_rate: PositiveFloat = 0.01,
        momentum: NonNegativeFloat = 0.9,
        weight_decay: NonNegativeFloat = 0.0,
        class_balanced: bool = True,
        augment: Augmentation = "none",
    ) -> None:
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.class_balanced = class_balanced
        self.augment = augment

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, or their encoded update where the server names a codec."""
        config = content.config_records["config"]
        codec = cast(Codec | None, config.get("codec"))
        received = tensors(content.array_records["arrays"])
        if codec is not None:
            received = decode_tensors(received)
        model = site.new_model()
        load_state(model, tensor_record(received))
        loss = self.fit(model, site, cast(float, config.get("proximal-mu", 0.0)))

        if codec is None:
            arrays = pack_state(model.state_dict())
        else:
            trained = tensors(pack_state(model.state_dict()))
            update = {name: value - received[name] for name, value in trained.items()}
            arrays = tensor_record(encode_tensors(update, codec))
        metrics = MetricRecord({"num-examples": len(site.train), "loss": loss})
        return RecordDict({"arrays": arrays, "metrics": metrics})

    def fit(self, model: torch.nn.Module, site: Site, mu: float = 0.0) -> float:
        """Train a model in place, with a proximal term if `mu` is above 0; return the mean loss."""
        view = site.train
        order = endless_batches(len(view), self.batch_size, site.generator("batches"))
        total = self.steps or self.epochs * -(-len(view) // self.batch_size)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        weights = None
        if self.class_balanced:
            weights = balanced_weights(view.labels, site.task.num_classes)
        start = [parameter.detach().clone() for parameter in model.parameters()] if mu else []

        def proximal(model: torch.nn.Module) -> torch.Tensor:
            pairs = zip(model.parameters(), start, strict=True)
            return mu / 2 * torch.stack([(now - then).square().sum() for now, then in pairs]).sum()

        return fit(
            model,
            ((view.images(chosen), view.labels[chosen]) for chosen in order),
            site.steps(total, "train"),
            optimizer,
            device=site.device,
            class_weights=weights,
            augment=augmentation(self.augment, site.generator("augment")),
            penalty=proximal if mu else None,
        )
