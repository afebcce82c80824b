"""Class probabilities of pictures in files, read as those of the training data were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from fedsim.data.images import read_image, reason
from fedsim.tasks.evaluation import BATCH, predict
from fedsim.trained.about import About
from fedsim.wire.codecs import normalise


def read_picture(path: Path, about: About) -> torch.Tensor:
    """A picture as the model sees it, float32 [3, size, size].

    Raises:
        ValueError: it cannot be read; says why, without naming it.
    """
    try:
        pixels = read_image(path, about.preprocessing["size"], about.window)
    except Exception as error:  # a broken file makes a decoder raise almost anything
        raise ValueError(reason(error)) from error
    return normalise(pixels[None])[0]


def probabilities(
    model: torch.nn.Module, pictures: Iterable[torch.Tensor], about: About, device: torch.device
) -> np.ndarray:
    """Class probabilities, float32 [n, classes], of pictures [3, size, size]."""
    # It answers all that scoring asks of a view.
    return predict(model, _Pictures(pictures, about.classes), device)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Pictures:
    pictures: Iterable[torch.Tensor]
    classes: tuple[str, ...]

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, None]]:
        """Some at a time; nobody knows their labels."""
        left = iter(self.pictures)
        while some := list(islice(left, batch_size)):
            yield torch.stack(some), None


AT_A_TIME = BATCH
"""Pictures that are read before the model is asked."""
