"""Sums of a site's feature vectors, sent once: the client's half of learning by statistics.

A record's vector is what the model's last layer sees of it; the model is the run's first one, and
nobody trains it. The strategy says which sums it needs. Method card: `docs/methods/features.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import PositiveFloat

from fedsim import Client, Site, Task
from fedsim.statistics import (
    Layout,
    Precision,
    Sums,
    Weights,
    contributions,
    encode,
    head_inputs,
    require_own_features,
)
from fedsim.wire import load_state, tensor_record

if TYPE_CHECKING:
    from fedsim.privacy import Releases


_AUDITED = 6  # numbers of the vectors that an audit attacks


class FeatureStatistics(Client):
    """Base: reads the vectors, adds them up, and sends the sums."""

    payload = "statistics"
    made_for = ("images", "features")
    keeps_state = False
    private = "noisy sums"
    full_batch = True
    sends_release = True

    audited: ClassVar[tuple[Layout, ...]] = (Layout(_AUDITED, 2),)
    """Of what an audit attacks."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @property
    def discloses(self) -> tuple[str, ...]:
        """What a site's own sums are, without noise; a private run has these no more."""
        return ("sums of the site's feature vectors: without noise they hide no record",)

    def private_steps(self, units: int, expected_batch: int) -> int:
        """One release, of all records; see `Client.private_steps`."""
        return 1

    def worst_rows(self, bound: float) -> Mapping[str, torch.Tensor]:
        """Rows of a vector along one coordinate, of one along all, and of one far too long."""
        vectors = self._weights.norm * np.eye(3, _AUDITED)
        vectors[1] = self._weights.norm / _AUDITED**0.5
        vectors[2] = 1e30
        names = ("one coordinate", "all coordinates", "a long vector")
        found: dict[str, torch.Tensor] = {}
        for layout in self.audited:
            rows = self._weights.rows(layout, vectors, np.zeros(3, np.int64), bound)
            kind = f", {layout.second} moments" if len(self.audited) > 1 else ""
            found |= {
                name + kind: torch.from_numpy(row) for name, row in zip(names, rows, strict=True)
            }
        return found

    def check_private(self, model: torch.nn.Module, task: Task) -> None:
        """Refuse a model in which one record's vector depends on others."""
        require_own_features(model, task.input_shape)

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Send the sums, how loud their noise is, and of how many records they are."""
        config = content.config_records["config"]
        layout = Layout(
            cast(int, config["size"]),
            site.task.num_classes,
            cast(Any, config["second"]),
            cast(bool, config["by-class"]),
        )
        found = self._sums(layout, site)
        return RecordDict(
            {
                "statistics": tensor_record(encode(found, cast(Precision, config["codec"]))),
                "noise": ConfigRecord({name: float(one) for name, one in found.noise.items()}),
                "metrics": MetricRecord({"num-examples": len(site.train), "units": found.total}),
            }
        )

    def _sums(self, layout: Layout, site: Site) -> Sums:
        model = site.new_model()
        load_state(model, site.first_arrays())
        if site.releases is not None:
            return self._release(layout, model, site, site.releases)
        positions = np.arange(len(site.train))
        vectors = head_inputs(model, site.train.images, positions, site.device)
        if wrong := int((~np.isfinite(vectors)).any(axis=1).sum()):
            raise ValueError(
                f"{wrong} of {len(vectors)} feature vectors of site {site.name!r} hold NaN or "
                "infinite values: look at the weights of model.init, or at the records"
            )
        return layout.sums_of(vectors, site.train.labels.numpy())

    def _release(
        self, layout: Layout, model: torch.nn.Module, site: Site, releases: Releases
    ) -> Sums:
        """The same sums with noise: one release, whose rows are made part by part."""
        mechanism = releases.plan.mechanism
        positions, places = releases.sample()
        rows = contributions(
            self._weights,
            layout,
            head_inputs(model, site.train.images, positions, site.device),
            site.train.labels[torch.from_numpy(positions)].numpy(),
            places,
            mechanism.max_grad_norm,
            releases.settings.physical_batch,
        )
        released = releases.release(rows).double().cpu().numpy() * mechanism.expected_batch
        return self._weights.read(
            layout,
            released,
            mechanism.max_grad_norm,
            mechanism.deviation,
            mechanism.expected_batch,
        )


class FeatureMeans(FeatureStatistics):
    """Send the sum of the vectors of each class, and how many they are.

    Args:
        intercept: of a private run: the constant beside each vector whose sums are the counts of
            the classes. The smaller, the louder the noise on the counts, and the less on the rest.
        norm: of a private run: vectors are shortened to this Euclidean norm. It is public.
    """

    payload_kind = "feature_means"

    def __init__(self, intercept: PositiveFloat = 0.25, norm: PositiveFloat = 1.0) -> None:
        super().__init__(Weights(1.0, intercept, norm))
        self.intercept = intercept
        self.norm = norm


class FeatureGram(FeatureStatistics):
    """Send the sum of x x' of all vectors, and the sum of the vectors of each class.

    Args:
        products: of a private run: tau, weight of the sums of classes against that of x x'. The
            larger, the less noise on these, and the more on that.
        intercept, norm: as of `feature_means`.
    """

    payload_kind = "feature_gram"
    audited: ClassVar[tuple[Layout, ...]] = (Layout(_AUDITED, 2, "full"),)

    def __init__(
        self,
        products: PositiveFloat = 2.0,
        intercept: PositiveFloat = 0.25,
        norm: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(Weights(products, intercept, norm))
        self.products = products
        self.intercept = intercept
        self.norm = norm


class FeatureGaussians(FeatureGram):
    """Send the first and second moments of the vectors of each class.

    Args:
        products, intercept, norm: as of `feature_gram`.
    """

    payload_kind = "feature_gaussians"
    audited = (Layout(_AUDITED, 2, "full", True), Layout(_AUDITED, 2, "diagonal", True))
