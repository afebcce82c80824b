"""A linear classifier of vectors: the head that frozen features ask for."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn

from fedsim.models.classifier import require_positive


class Linear(nn.Module):
    """One linear layer, zero at first: every client and seed begins with the same logits.

    `in_features` numbers a vector give `num_classes * (in_features + 1)` parameters.

    Args:
        num_classes: outputs.
        in_features: numbers of a vector.
        hidden: width of a layer with ReLU before it; None: there is none.

    Raises:
        ValueError: a size below one.
    """

    made_for: ClassVar[str] = "features"
    head: ClassVar[str] = "classifier"

    def __init__(
        self, num_classes: int, in_features: int, hidden: PositiveInt | None = None
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_features=in_features)
        self.features = nn.Sequential()
        if hidden is not None:
            self.features = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU())
        self.classifier = nn.Linear(in_features if hidden is None else hidden, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits [N, num_classes] of vectors [N, in_features]."""
        logits: Tensor = self.classifier(self.features(vectors))
        return logits
