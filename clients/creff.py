"""The client's half of CReFF: local training, and the classifier's gradient on each class.

Shang et al., "Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training
with Federated Features" (2022). The server's half is `strategies/creff.py`, the method card
`docs/methods/creff.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import RecordDict

from fedsim import InputError, Site
from fedsim.clients.long_tail import LongTail, LongTailLoss
from fedsim.losses import class_gradients
from fedsim.method import load_received
from fedsim.statistics import head_inputs
from fedsim.wire import tensor_record, tensors


@dataclass(eq=False)
class CReFF(LongTail):
    """Train as `long_tail` does, and send the mean gradients of the classes that the site has.

    They are the gradients of cross-entropy in the weights of the re-trained classifier, on features
    of the received model, before anything is trained.

    Args:
        loss: of the local training; the paper's is "cross_entropy". It and all others are as in
            `long_tail`.
    """

    payload_kind = "class_gradients"
    made_for = "images"
    side_by_side = True

    loss: LongTailLoss = "cross_entropy"

    @property
    def discloses(self) -> tuple[str, ...]:
        """What gradients of classes say."""
        return (
            "the classifier's mean gradient on each class that a site has: it tells which classes "
            "these are, and about the mean feature of their images",
        )

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays, and gradients [m, classes, k] of the m classes it has.

        Raises:
            InputError: the server sent no re-trained classifier.
        """
        if "retrained" not in content.array_records:
            raise InputError(
                "client creff needs the server's re-trained classifier, and it sends none",
                hint="type strategy=creff, or client=long_tail",
            )
        head = tensors(content.array_records["retrained"])
        weight, bias = (torch.tensor(head[name]) for name in ("weight", "bias"))
        model = site.new_model()
        load_received(model, content)
        features = head_inputs(model, site.train.images, np.arange(len(site.train)), site.device)
        vectors, labels = torch.from_numpy(features).float(), site.train.labels
        present = labels.unique()  # Ascending.
        gradients = [
            class_gradients(vectors[None, labels == one], weight, bias, one[None])
            for one in present
        ]
        reply = super().train(content, site)
        reply["gradients"] = tensor_record({"weight": torch.cat(gradients), "classes": present})
        return reply
