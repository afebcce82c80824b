"""q-FedAvg's client: it trains as others do, and says what the model's loss was before.

Li, T., Sanjabi, M., Beirami, A., Smith, V.: "Fair Resource Allocation in Federated Learning"
(2020), arXiv:1905.10497, Algorithm 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from flwr.app import RecordDict

from fedsim import Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import cosine, load_received
from fedsim.tasks.segmentation import SegmentationSite, outputs_of


class QFedAvg(Supervised):
    """Train as `supervised` does, and report the received model's loss on all training images.

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`.
    """

    payload_kind = "loss_before_training"
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays; `loss-before` and `rate` are among the metrics."""
        before = self._loss(content, site)
        reply = self.train_corrected(content, site)
        reply.metric_records["metrics"].update({"loss-before": before, "rate": self.learning_rate})
        return reply

    def _loss(self, content: RecordDict, site: Site) -> float:
        """The loss that training minimises, of the received model in evaluation mode."""
        model, view, weights = site.new_model(), site.train, self._weights(site)
        load_received(model, content)
        model.to(site.device).eval()
        chunks = torch.arange(len(view)).split(self.batch_size)
        with torch.no_grad():
            logits = torch.cat([model(view.images(rows).to(site.device)) for rows in chunks])
        labels, criterion = view.labels.to(site.device), self.criterion(site)
        if criterion is not None:
            return criterion(logits, labels).item()
        own = None if weights is None else weights.to(site.device)
        return F.cross_entropy(logits, labels, weight=own).item()


class QFedAvgSegmentation(Segmentation):
    """Train as `segmentation` does, and report the received model's loss on as many patches.

    All parameters are those of `segmentation`.
    """

    payload_kind = "loss_before_training"
    private = "none"
    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays; `loss-before` and `rate` are among the metrics."""
        before = self._loss(content, site)
        reply = self.train_corrected(content, site)
        done, total = (site.round - 1) * self.steps, site.rounds * self.steps
        rate = cosine(done, total, self.learning_rate, self.last_learning_rate)
        reply.metric_records["metrics"].update({"loss-before": before, "rate": rate})
        return reply

    def _loss(self, content: RecordDict, site: Site) -> float:
        """The mean loss of the received model, in evaluation mode, on patches of a round."""
        here, model = SegmentationSite.of(site), site.new_model()
        load_received(model, content)
        model.to(site.device).eval()
        generator, total = site.generator("loss before"), 0.0
        for _ in site.steps(self.steps, "loss before training"):
            images, labels = (
                part.to(site.device)
                for part in here.train.patches(
                    self.batch_size, here.task.patch, generator, self.foreground
                )
            )
            with torch.no_grad():
                loss = self.supervised(outputs_of(model(images)), labels, here.labels)
            total += loss.item() / self.steps
        return total
