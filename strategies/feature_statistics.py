"""One shot by statistics: a last layer out of sums of the clients' feature vectors.

No model travels. Every client has the run's first model, whose last layer sees a vector of each
record; clients send sums of these vectors once, and the server sets the last layer. The client's
half is `clients/feature_statistics.py`, the functions `fedsim/statistics/`, the method card
`docs/methods/features.md`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import InputError, RunError, Server, Strategy
from fedsim.statistics import (
    Layout,
    Linear,
    Precision,
    Second,
    Sums,
    class_gaussians,
    decode,
    draw,
    head_of,
    head_path,
    logistic,
    nearest_means,
    ridge,
)
from fedsim.wire import tensor_record, tensors


class FeatureStatistics(Strategy):
    """Base: asks for sums, checks them, and sets the model's last layer.

    Attributes:
        second, by_class: of the sums that it asks for, see `fedsim.statistics.Layout`.
        sender: what the client method that answers is called, for messages.
    """

    one_shot = True
    payload = "statistics"
    made_for = ("images", "features")
    linear = False
    second: Second = "none"
    by_class: bool = False

    def __init__(self, codec: Precision = "float32") -> None:
        self.codec = codec
        self.sender = self.payload_kind
        self._initial: ArrayRecord | None = None

    @abstractmethod
    def solve(self, parts: Sequence[Sums]) -> Linear:
        """The last layer.

        Args:
            parts: the sums of each client, one at least, in client order.
        """

    def needs_answers(self) -> str:
        """See `Strategy.needs_answers`: sums are added up before anything else is done."""
        if self.codec in ("float16", "uint8"):
            return f"with strategy.codec={self.codec} each client rounds its own by a scale"
        return ""

    def setup(self, server: Server) -> None:
        """Refuse a model whose head is not one linear layer."""
        super().setup(server)
        model = server.new_model()
        head, path = head_of(model), head_path(model)
        self._head = (f"{path}.weight", f"{path}.bias")
        self._layout = Layout(head.in_features, server.task.num_classes, self.second, self.by_class)

    @property
    def sum_size(self) -> int:
        """See `Strategy.sum_size`."""
        return self._layout.numbers

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each sampled client for its sums; no model travels."""
        self.begin(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def begin(self, arrays: ArrayRecord) -> None:
        """Take the model whose last layer is to be set, as far as it travels.

        Raises:
            InputError: its last layer does not.
        """
        if missing := [name for name in self._head if name not in tensors(arrays)]:
            raise InputError(
                f"strategy {self.sender!r} sets the model's head, but {missing[0]!r} does not "
                "travel: model.trainable or federation.local leaves it out",
                hint="name the head, too, or leave these keys out",
            )
        self._initial = arrays

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """Which sums are asked for, and their codec."""
        config["codec"] = self.codec
        config["size"] = self._layout.size
        config["second"] = self._layout.second
        config["by-class"] = self._layout.by_class
        return RecordDict({"config": config})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Set the first model's last layer."""
        assert self._initial is not None
        parts = [
            self._read(self.server.names[self.server.client_of(reply)], reply.content)
            for reply in replies
        ]
        found = self.solve(parts)
        metrics = MetricRecord({"penalty": found.penalty, "scale": found.scale})
        return self._with_head(tensors(self._initial), found), metrics

    def _with_head(self, arrays: Mapping[str, Any], found: Linear) -> ArrayRecord:
        """The first model, as far as it travels, with its last layer set."""
        head = dict(zip(self._head, (found.weight, found.bias), strict=True))
        own = {name: value.astype(arrays[name].dtype) for name, value in head.items()}
        if not all(np.isfinite(value).all() for value in own.values()):
            raise RunError(
                "the clients' sums give a last layer with values that are no numbers: one of them "
                "sends something else than sums of feature vectors"
            )
        return tensor_record({**arrays, **own})

    def _read(self, name: str, content: RecordDict) -> Sums:
        """Decode and check one client's reply."""
        sent = content.array_records.get("statistics")
        metrics = content.metric_records.get("metrics", MetricRecord())
        noise = content.config_records.get("noise", ConfigRecord())
        units: Any = metrics.get("units", float("nan"))
        try:
            if sent is None:
                raise ValueError("no record statistics")
            loud = {key: float(value) for key, value in noise.items()}  # type: ignore[arg-type]
            return decode(tensors(sent), self._layout, loud, float(units))
        except (TypeError, ValueError) as error:
            raise RunError(
                f"site {name!r} sent {error}; strategy {self.sender} asks for the sums that "
                f"client.name={self.sender} sends"
            ) from error


class FeatureMeans(FeatureStatistics):
    """Choose the class whose mean vector is nearest.

    Args:
        codec: how sums travel; "float16" and "uint8" with a scale an array.
        sharpness: what logits are multiplied by; null: the length of the vectors, which is right
            for vectors of norm 1 with white coordinates.
    """

    payload_kind = "feature_means"

    def __init__(
        self, codec: Precision = "float32", sharpness: PositiveFloat | None = None
    ) -> None:
        super().__init__(codec)
        self.sharpness = sharpness

    def solve(self, parts: Sequence[Sums]) -> Linear:
        """Means of all clients' records."""
        return nearest_means(Sums.added(parts), self.sharpness)


class FeatureGram(FeatureStatistics):
    """Ridge regression of one-hot targets: exactly that of all records in one place.

    Args:
        codec: as of `feature_means`.
        penalty: on the squared weights, against sums over records; null: by generalised
            cross-validation or, where sums have noise, twice the noise's spectral norm.
        balance: classes weigh alike, whatever their shares.
    """

    payload_kind = "feature_gram"
    second = "full"

    def __init__(
        self,
        codec: Precision = "float32",
        penalty: NonNegativeFloat | None = None,
        balance: bool = True,
    ) -> None:
        super().__init__(codec)
        self.penalty = penalty
        self.balance = balance

    def solve(self, parts: Sequence[Sums]) -> Linear:
        """Least squares on all clients' sums."""
        return ridge(Sums.added(parts), self.penalty, self.balance)


class FeatureGaussians(FeatureStatistics):
    """Draw vectors from Gaussians of the classes, and learn the last layer from these (FedPFT).

    Args:
        codec: as of `feature_means`.
        covariance: of each class: "full", or its "diagonal".
        pooled: one Gaussian a class, of all clients' records; else one for each client and class,
            as FedPFT has it.
        samples: vectors that are drawn of each class.
        strength: the inverse of the logistic regression's penalty, scikit-learn's C.
        iterations: of its L-BFGS, at most.
    """

    payload_kind = "feature_gaussians"
    by_class = True

    def __init__(
        self,
        codec: Precision = "float32",
        covariance: Literal["full", "diagonal"] = "full",
        pooled: bool = True,
        samples: PositiveInt = 4000,
        strength: PositiveFloat = 10.0,
        iterations: PositiveInt = 200,
    ) -> None:
        super().__init__(codec)
        self.covariance = covariance
        self.second = covariance
        self.pooled = pooled
        self.samples = samples
        self.strength = strength
        self.iterations = iterations

    def needs_answers(self) -> str:
        """See `Strategy.needs_answers`."""
        alone = "" if self.pooled else "with strategy.pooled=false each client has its Gaussians"
        return alone or super().needs_answers()

    def solve(self, parts: Sequence[Sums]) -> Linear:
        """Logistic regression on what is drawn."""
        groups = [Sums.added(parts)] if self.pooled else parts
        gaussians = [one for group in groups for one in class_gaussians(group)]
        classes = self._layout.classes
        if not gaussians:
            return Linear.undecided(classes, self._layout.size)
        vectors, labels = draw(gaussians, self.samples, self.server.numpy_generator("samples"))
        return logistic(vectors, labels, classes, self.strength, self.iterations)
