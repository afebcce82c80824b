"""SimCLR: a network learns from images without labels; its backbone is kept.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020). Two
views of each image go through backbone and projection head; NT-Xent pulls them together. The
projection head is thrown away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.data.features.extracting import one_thread
from fedsim.errors import InputError, RunError
from fedsim.method.optimisers import Adam
from fedsim.method.schedules import cosine
from fedsim.models.build import require_module
from fedsim.models.conditioning import require_conditioned
from fedsim.pretraining.images import PublicImages
from fedsim.pretraining.keeping import (
    Stateful,
    checkpoint_of,
    finish,
    finished,
    keep,
    take_up,
)
from fedsim.pretraining.losses import koleo, nt_xent
from fedsim.pretraining.views import view
from fedsim.raising import plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.trained.about import PURPOSE
from fedsim.wire.codecs import normalise
from fedsim.wire.sharing import head_paths

HIDDEN, PROJECTED = 256, 128
"""Values of the projection head's two layers."""
WEIGHT_DECAY = 1e-6


@dataclass(frozen=True)
class Pretraining:
    """What decides the weights, beside the images.

    Attributes:
        model: a model plugin whose `features` make vectors of images.
        parameters: of its constructor, as the scenario's block `model` has them.
        method: how it learns.
        epochs: how often it sees each image; a last batch that is not full is left out.
        batch_size: images in a batch, at least 2; two views of each are compared.
        learning_rate: of Adam, above 0; it falls to 0 by half a cosine.
        temperature: of NT-Xent, above 0.
        koleo: weight of the KoLeo regulariser on the backbone's vectors, 0 or more.
        seed: of first weights, order and views, at least 0.

    Raises:
        InputError: a value is out of its range; names all of them.
    """

    model: str = "convnet"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    method: Literal["simclr"] = "simclr"
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    temperature: float = 0.5
    koleo: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 2,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "temperature": 0 < self.temperature < math.inf,
            "koleo": 0 <= self.koleo < math.inf,
            "seed": self.seed >= 0,
        }
        wrong = [f"{name} is {getattr(self, name)}" for name, fits in ranges.items() if not fits]
        if wrong:
            raise InputError(
                f"pretraining cannot go on like this: {', '.join(wrong)}",
                hint="expected at least 1 epoch, 2 images in a batch, rates above 0, and a koleo "
                "and a seed of at least 0",
            )


def pretrain(
    images: PublicImages,
    settings: Pretraining,
    out: Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Pretrain a backbone and write it to a file, which `model.init` takes for any head.

    The same images and settings give the same bytes, also after an interruption: each finished
    epoch is kept in `<out>.unfinished`, and the same call goes on from there.

    Args:
        images: at least 2.
        settings: all else that decides the weights.
        out: the `.safetensors` file. What is there already is left as it is if it was made of the
            same images and settings.
        progress: called with steps done, steps in all, and what is done.
        say: is told of each finished epoch, and of what is gone on from.

    Returns:
        The file's metadata.

    Raises:
        InputError: the file is there and is another; the model has no `features`, or cannot take
            the images; there are too few of these.
        RunError: the loss is no number.
    """
    tell = say or (lambda text: None)
    about = _about(images, settings)
    if (found := finished(out, about)) is not None:
        tell(f"{out} is there already")
        return found
    if len(images.pixels) < 2:
        raise InputError(f"{len(images.pixels)} images are too few to compare: take at least 2")
    checkpoint = checkpoint_of(out)
    with one_thread():
        student = _Student.begin(settings, images.pixels.shape[1])
        first = take_up(checkpoint, about, student.parts)
        if first:
            tell(f"goes on after epoch {first} of {settings.epochs}")
        loss = student.loss
        for epoch in range(first, settings.epochs):
            loss = student.epoch(images.pixels, epoch, progress)
            tell(f"epoch {epoch + 1}/{settings.epochs} | loss {loss:.4f}")
            if epoch + 1 < settings.epochs:
                keep(checkpoint, about, epoch + 1, student.parts)
    return finish(out, about, student.backbone(), loss)


def _about(images: PublicImages, settings: Pretraining) -> dict[str, str]:
    """What the file says of itself, but for what comes out; it names no path."""
    told = asdict(settings)
    name, parameters = told.pop("model"), told.pop("parameters")
    return {
        "format": "pt",
        "contents": "backbone",
        "architecture": name,
        "architecture_arguments": json.dumps(parameters, sort_keys=True),
        "images": images.source,
        "images_count": str(len(images.pixels)),
        "images_fingerprint": images.fingerprint,
        "image_size": str(images.pixels.shape[1]),
        "intended_use": PURPOSE,
        **{key: str(value) for key, value in told.items()},
    }


@dataclass
class _Student:
    """A network that learns, its projection head, and where they are.

    Attributes:
        loss: mean over the last epoch.
    """

    settings: Pretraining
    model: nn.Module
    projection: nn.Module
    optimiser: torch.optim.Optimizer
    loss: float = math.nan

    @classmethod
    def begin(cls, settings: Pretraining, size: int) -> _Student:
        """First weights by the seed; InputError for a model that makes no vectors of images."""
        name = settings.model
        factory = default_registry().resolve("models", name)
        supplied = {"num_classes": 2, "in_channels": 3, "image_size": size}
        with (
            isolated(Streams(settings.seed).sequence("model")),
            plugin_code(f"the model {name!r} cannot be built for {size} px"),
        ):
            model = require_module(construct(factory, settings.parameters, **supplied), name)
            if not callable(getattr(model, "features", None)) or not head_paths(model):
                raise InputError(
                    f"model {name!r} has no `features`, which make vectors of images, or no head",
                    hint="choose an image classifier, such as --model convnet",
                )
            require_conditioned(model, (3, size, size))
            with torch.no_grad():  # in evaluation mode: running statistics learn nothing from it
                length = _vectors(model.eval(), torch.zeros(1, 3, size, size)).shape[1]
            projection = nn.Sequential(
                nn.Linear(length, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PROJECTED)
            )
        below = tuple(f"{path}." for path in head_paths(model))
        learned = [p for n, p in model.named_parameters() if not n.startswith(below)]
        optimiser = Adam(
            [*learned, *projection.parameters()],
            lr=settings.learning_rate,
            weight_decay=WEIGHT_DECAY,
        )
        return cls(settings, model, projection, optimiser)

    def epoch(
        self,
        pixels: NDArray[np.uint8],
        number: int,
        progress: Callable[[int, int, str], None] | None,
    ) -> float:
        """See each image once; the mean loss."""
        settings, streams = self.settings, Streams(self.settings.seed)
        order = streams.numpy("batches", round=number).permutation(len(pixels))
        generator = streams.torch("views", round=number)
        size = min(settings.batch_size, len(pixels))
        steps = len(pixels) // size
        self.model.train()
        total = 0.0
        with isolated(streams.sequence("training", round=number)):
            for step in range(steps):
                done = number * steps + step
                rate = cosine(done, settings.epochs * steps, settings.learning_rate, 0.0)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                chosen = np.sort(order[step * size : (step + 1) * size])
                total += self._step(normalise(pixels[chosen]), generator)
                if progress is not None:
                    progress(done + 1, settings.epochs * steps, "pretraining, steps")
        self.loss = total / steps
        return self.loss

    def _step(self, batch: Tensor, generator: torch.Generator) -> float:
        """Learn from two views of each image; the loss."""
        both = torch.cat([view(batch, generator), view(batch, generator)])
        vectors = _vectors(self.model, both)
        first, second = self.projection(vectors).chunk(2)
        loss = nt_xent(first, second, self.settings.temperature)
        if self.settings.koleo:
            spread = [koleo(part) for part in vectors.chunk(2)]
            loss = loss + self.settings.koleo * (spread[0] + spread[1]) / 2
        if not torch.isfinite(loss):
            raise RunError("the loss is no number: type a smaller --learning-rate")
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def backbone(self) -> dict[str, Tensor]:
        """The model's state without its head."""
        paths = head_paths(self.model)
        below = tuple(f"{path}." for path in paths)
        state = self.model.state_dict()
        return {n: t for n, t in state.items() if n not in paths and not n.startswith(below)}

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        return {
            "model": self.model,
            "projection": self.projection,
            "optimiser": self.optimiser,
        }


def _vectors(model: nn.Module, images: Tensor) -> Tensor:
    """The backbone's vectors [n, d] of images."""
    features: Any = model.features
    vectors: Tensor = features(images).flatten(1)
    return vectors
