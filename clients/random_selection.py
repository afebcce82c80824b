"""Random selection (R.S.@k): send a few real images. The reference line of dataset distillation."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import PositiveInt

from fedsim import Client, Site
from fedsim.wire import Codec, encode_images, tensor_record


class RandomSelection(Client):
    """Send `images_per_class` randomly chosen real images of each class that the site has.

    It is no private method: real images leave the site, and the run says so. It tells what as many
    real images would have been worth. A class with fewer images sends what it has.

    Args:
        images_per_class: real images of each class.
    """

    payload = "images"
    made_for = "images"
    keeps_state = False
    private = "none"

    def __init__(self, images_per_class: PositiveInt = 10) -> None:
        self.images_per_class = images_per_class

    @property
    def discloses(self) -> tuple[str, ...]:
        """Real images."""
        return (f"REAL IMAGES: {self.images_per_class} of each class and site",)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Draw the images and send them with their labels."""
        draws = site.numpy_generator("selection")
        chosen = [
            draws.permutation(members)[: self.images_per_class]
            for label in range(site.task.num_classes)
            if len(members := site.train.of_class(label))
        ]
        positions = np.concatenate(chosen)
        codec = cast(Codec, content.config_records["config"]["codec"])
        images = encode_images(site.train.images(positions), codec)
        labels = site.train.labels[torch.from_numpy(positions)]
        return RecordDict(
            {
                "images": tensor_record({"images": images}),
                "labels": tensor_record({"labels": labels}),
                "metrics": MetricRecord({"num-examples": len(site.train)}),
            }
        )
