"""GDD: one-shot federated learning by generalizable dataset distillation.

Clients distil their images into a few synthetic ones and send these once; the server trains a new
model on all of them. The client's half is `clients/distill.py`, the method card
`docs/methods/gdd.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fedsim import Strategy
from fedsim.codecs import Codec, decode_images, encode_images
from fedsim.errors import RunError
from fedsim.flower import load_state, pack_state, tensors
from fedsim.report.sheets import save_synthetic
from fedsim.training import Augmentation, augmentation, endless_batches, fit


@dataclass(frozen=True)
class Upload:
    """What one client sent: normalised float32 images [n, C, H, W] and int64 labels [n]."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor


class GDD(Strategy):
    """Train the server's model on the synthetic images that the clients send, once.

    The images are decoded as they arrive, so the model sees what crossed the wire.

    Args:
        codec: how images travel; "uint8" is a quarter of "float32".
        epochs, batch_size: of the server's training.
        learning_rate, momentum, weight_decay: of its SGD.
        schedule: "cosine" lets the learning rate fall to `final_rate` of its start.
        final_rate: share of the learning rate left at the end of the schedule, 0 to 1.
        augment: "siamese" draws one of six operations a step with parameters for each image
            (Zhao & Bilen 2021); "none" trains on the images as they are.
    """

    one_shot = True

    def __init__(
        self,
        codec: Codec = "uint8",
        epochs: NonNegativeInt = 100,
        batch_size: PositiveInt = 64,
        learning_rate: PositiveFloat = 0.01,
        momentum: NonNegativeFloat = 0.9,
        weight_decay: NonNegativeFloat = 1e-5,
        schedule: Literal["cosine", "constant"] = "cosine",
        final_rate: Annotated[float, Field(ge=0, le=1)] = 0.01,
        augment: Augmentation = "siamese",
    ) -> None:
        self.codec = codec
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.final_rate = final_rate
        self.augment = augment
        self._initial: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each sampled client for its synthetic images; no model travels."""
        self._initial = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The codec, and nothing else."""
        config["codec"] = self.codec
        return RecordDict({"config": config})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Pool the images in client order and train on them."""
        assert self._initial is not None
        uploads = [
            self._read(self.server.names[self.server.client_of(reply)], reply.content)
            for reply in replies
        ]
        if self.server.folder is not None:
            save_synthetic(
                self.server.folder,
                {
                    upload.name: (encode_images(upload.images, "uint8"), upload.labels.numpy())
                    for upload in uploads
                },
                self.server.task.classes,
                self.server.note,
            )
        images = torch.cat([upload.images for upload in uploads])
        labels = torch.cat([upload.labels for upload in uploads])
        model = self.server.new_model()
        load_state(model, self._initial)
        loss = self._fit(model, images, labels)
        return pack_state(model.state_dict()), MetricRecord({"loss": loss, "images": len(images)})

    def _read(self, name: str, content: RecordDict) -> Upload:
        """Decode and check one client's reply."""
        task = self.server.task
        received = tensors(content.array_records["images"])["images"]
        labels = np.array(tensors(content.array_records["labels"])["labels"], dtype=np.int64)
        shape = (task.in_channels, task.image_size, task.image_size)
        if received.shape != (len(labels), *shape):
            raise RunError(
                f"site {name!r} sent images of shape {received.shape} for {len(labels)} labels; "
                f"expected ({len(labels)}, {', '.join(map(str, shape))})"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < task.num_classes:
            raise RunError(
                f"site {name!r} sent labels from {labels.min()} to {labels.max()}; "
                f"there are {task.num_classes} classes"
            )
        images = decode_images(received)
        if not torch.isfinite(images).all():
            raise RunError(
                f"site {name!r} sent images with NaN or infinite values: its distillation "
                "diverged; try a smaller client.image_learning_rate"
            )
        return Upload(name, images, torch.from_numpy(labels))

    def _fit(self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
        server = self.server
        steps_an_epoch = -(-len(images) // self.batch_size)
        total = self.epochs * steps_an_epoch
        order = endless_batches(len(images), self.batch_size, server.generator("batches"))
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        scheduler = None
        if self.schedule == "cosine" and total:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, total, eta_min=self.learning_rate * self.final_rate
            )
        best = _Best(model) if server.validate is not None else None

        def steps() -> Iterable[int]:
            for step in server.steps(total, "train on synthetic images"):
                yield step
                if best is not None and server.validate and (step + 1) % steps_an_epoch == 0:
                    best.offer(server.validate(model).get("auc"))
                    model.train()

        loss = fit(
            model,
            ((images[chosen], labels[chosen]) for chosen in order),
            steps(),
            optimizer,
            device=server.device,
            augment=augmentation(self.augment, server.generator("augment")),
            scheduler=scheduler,
        )
        if best is not None:
            best.restore()
        return loss


class _Best:
    """The model's state with the highest score offered so far."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._score = model, float("-inf")
        self._state: dict[str, torch.Tensor] = {}

    def offer(self, score: float | None) -> None:
        if score is not None and score > self._score:
            self._score = score
            self._state = {k: v.detach().clone() for k, v in self._model.state_dict().items()}

    def restore(self) -> None:
        if self._state:
            self._model.load_state_dict(self._state)
