"""GDD: one-shot federated learning by generalizable dataset distillation.

Clients distil their images into a few synthetic ones and send these once; the server trains a new
model on all of them. A client may also send soft labels for random views of its images; the server
draws these views again and trains on them instead. The client's half is `clients/distill.py`, the
method card `docs/methods/gdd.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from fedsim import RunError, Strategy
from fedsim.distillation import view
from fedsim.method import Augmentation, Batch, augmentation, endless_batches, fit, keep_memory
from fedsim.wire import Codec, decode_images, load_state, pack_state, tensors

_ROUNDING = 0.01  # How far probabilities of 16 bits may sum from 1.


@dataclass(frozen=True)
class Upload:
    """What one client sent.

    Attributes:
        name: of the client.
        images: float32 [n, C, H, W], normalised.
        labels: int64 [n].
        view_labels: float32 [views, n, classes], probabilities, or None.
        view_seed: of these views, see `fedsim.distillation.view`.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    view_labels: torch.Tensor | None = None
    view_seed: int = 0


class GDD(Strategy):
    """Train the server's model on the synthetic images that the clients send, once.

    The images are decoded as they arrive, so the model sees what crossed the wire. Where a client
    sent labels of views, each epoch shows another view of its images, with the soft labels of that
    view, in place of the images and their augmentation; the number of steps is the same.

    Args:
        codec: how images travel; "uint8" is a quarter of "float32".
        epochs, batch_size: of the server's training; an epoch shows each image once.
        learning_rate, momentum, weight_decay: of its SGD.
        schedule: "cosine" lets the learning rate fall to `final_rate` of its start.
        final_rate: share of the learning rate left at the end of the schedule, 0 to 1.
        augment: "siamese" draws one of six operations a step with parameters for each image
            (Zhao & Bilen 2021); "none" trains on the images as they are.
    """

    one_shot = True
    order_matters = True  # Batches are drawn by position.
    payload = "images"
    linear = False
    made_for = "images"

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
        keep_memory()
        uploads = [
            self._read(self.server.names[self.server.client_of(reply)], reply.content)
            for reply in replies
        ]
        self.server.show({upload.name: (upload.images, upload.labels) for upload in uploads})
        model = self.server.new_model()
        load_state(model, self._initial)
        loss = self._fit(model, uploads)
        count = sum(len(upload.images) for upload in uploads)
        return pack_state(model.state_dict()), MetricRecord({"loss": loss, "images": count})

    def _read(self, name: str, content: RecordDict) -> Upload:
        """Decode and check one client's reply."""
        received = tensors(content.array_records["images"])["images"]
        labels = np.array(tensors(content.array_records["labels"])["labels"], dtype=np.int64)
        shape = self.server.task.input_shape
        if received.shape != (len(labels), *shape):
            raise RunError(
                f"site {name!r} sent images of shape {received.shape} for {len(labels)} labels; "
                f"expected ({len(labels)}, {', '.join(map(str, shape))})"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.server.task.num_classes:
            raise RunError(
                f"site {name!r} sent labels from {labels.min()} to {labels.max()}; "
                f"there are {self.server.task.num_classes} classes"
            )
        images = decode_images(received)
        if not torch.isfinite(images).all():
            raise RunError(
                f"site {name!r} sent images with NaN or infinite values: its distillation "
                "diverged; try a smaller client.image_learning_rate"
            )
        return Upload(name, images, torch.from_numpy(labels), *self._read_views(name, content))

    def _read_views(self, name: str, content: RecordDict) -> tuple[torch.Tensor | None, int]:
        """Check the labels of views in a client's reply, and their seed; None, 0 without."""
        if "view_labels" not in content.array_records:
            return None, 0
        count = len(tensors(content.array_records["labels"])["labels"])
        received = tensors(content.array_records["view_labels"]).get("view_labels")
        if received is None:
            raise RunError(
                f"site {name!r} sent a record view_labels with no array view_labels in it"
            )
        classes = self.server.task.num_classes
        if received.shape[1:] != (count, classes) or not received.size:
            raise RunError(
                f"site {name!r} sent view labels of shape {received.shape} for {count} images; "
                f"expected (views, {count}, {classes}) with at least one view"
            )
        labels = torch.from_numpy(np.array(received, dtype=np.float32))
        if not torch.isfinite(labels).all():
            raise RunError(
                f"site {name!r} sent view labels with NaN or infinite values: the training of its "
                "encoder diverged"
            )
        sums = labels.sum(dim=-1)
        if labels.min() < 0 or (sums - 1).abs().max() > _ROUNDING:
            raise RunError(
                f"site {name!r} sent view labels that are no probabilities: the smallest is "
                f"{labels.min():.3g}, and they sum to {sums.min():.3g} up to {sums.max():.3g}"
            )
        seed = content.config_records.get("view_seed", ConfigRecord()).get("seed")
        if not isinstance(seed, int) or seed < 0:
            raise RunError(
                f"site {name!r} sent view labels with the seed {seed!r}; expected a whole number, "
                "at least 0, as the number seed of the record view_seed"
            )
        return labels, seed

    def _fit(self, model: torch.nn.Module, uploads: Sequence[Upload]) -> float:
        server = self.server
        count = sum(len(upload.images) for upload in uploads)
        steps_an_epoch = -(-count // self.batch_size)
        total = self.epochs * steps_an_epoch
        draws = server.generator("batches")
        augment = augmentation(self.augment, server.generator("augment"))
        if any(upload.view_labels is not None for upload in uploads):
            batches = _view_batches(
                uploads, server.task.num_classes, self.batch_size, draws, augment
            )
            augment = None
        else:
            batches = _batches(uploads, self.batch_size, draws)
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
                    best.offer(server.task.merit(server.validate(model)))
                    model.train()

        loss = fit(
            model,
            batches,
            steps(),
            optimizer,
            device=server.device,
            augment=augment,
            scheduler=scheduler,
        )
        if best is not None:
            best.restore()
        return loss


def _batches(
    uploads: Sequence[Upload], batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Shuffled passes over all images, for ever."""
    images = torch.cat([upload.images for upload in uploads])
    labels = torch.cat([upload.labels for upload in uploads])
    for chosen in endless_batches(len(images), batch_size, generator):
        yield images[chosen], labels[chosen]


def _view_batches(
    uploads: Sequence[Upload],
    num_classes: int,
    batch_size: int,
    generator: torch.Generator,
    augment: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Iterator[Batch]:
    """Shuffled passes over all images, each pass in another view, with probabilities as labels.

    A client's views come in random order, all before one comes again. Without labels of views a
    client's images are augmented, one operation a pass, and keep their labels.
    """
    orders = {
        upload.name: endless_batches(len(upload.view_labels), 1, generator)
        for upload in uploads
        if upload.view_labels is not None
    }
    while True:
        shown, labels = [], []
        for upload in uploads:
            if upload.view_labels is None:
                shown.append(augment(upload.images) if augment else upload.images)
                labels.append(F.one_hot(upload.labels, num_classes).float())
            else:
                number = int(next(orders[upload.name]))
                shown.append(view(upload.images, upload.view_seed, number))
                labels.append(upload.view_labels[number])
        images, targets = torch.cat(shown), torch.cat(labels)
        for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
            yield images[chosen], targets[chosen]


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
