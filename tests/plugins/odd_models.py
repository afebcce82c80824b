"""Models whose state is more than weights, for tests of what becomes of it."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

BEYOND_FLOAT32 = 16_777_217
"""The first whole number that float32 does not have."""


class Odd(nn.Module):
    """Running statistics, tables, masks, a scalar, a tie, a frozen layer: one of each."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1, bias=False)
        self.tied = nn.Conv2d(8, 8, 1, bias=False)
        self.tied.weight = self.second.weight
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.head = nn.Linear(8, num_classes)
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("table", torch.tensor([BEYOND_FLOAT32, 3]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("cover", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("precise", torch.tensor([1 / 3], dtype=torch.float64))
        self.register_buffer("count", torch.tensor(BEYOND_FLOAT32))
        self.register_buffer("unsaved", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]; refuses tables that changed."""
        assert self.table.tolist() == [BEYOND_FLOAT32, 3], self.table
        assert self.table.dtype == self.count.dtype == torch.int64
        assert self.mask.tolist() == [True, False]
        assert self.cover.tolist() == [0.0, -torch.inf]
        assert self.precise.item() == 1 / 3
        assert self.temperature.shape == ()
        assert (self.norm.running_var >= 0).all(), self.norm.running_var
        if self.training:
            self.count += 1
            self.unsaved += 1
            # Were it the last client's, a third of what a client can do in a round would show.
            assert self.unsaved.item() == self.count.item() - BEYOND_FLOAT32
        maps = torch.relu(self.norm(self.first(images)))
        maps = self.frozen(torch.relu(self.tied(self.second(maps))))
        return self.head(maps.mean((2, 3))) * self.temperature


class Dropping(nn.Module):
    """A linear model with dropout."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        return self.head(nn.functional.dropout(images.flatten(1), 0.5, self.training))


class Still(nn.Module):
    """A scalar, integers and a constant mask, and no running statistics."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.head = nn.Linear(4, num_classes)
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("table", torch.tensor([BEYOND_FLOAT32, 3]))
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        maps = self.frozen(torch.relu(self.first(images)))
        return self.head(maps.mean((2, 3)) * self.scale) * self.temperature


class Remembers(Still):
    """Keeps the mean of what it saw in a buffer of its own."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        if self.training:
            self.scale.mul_(0.9).add_(0.1 * images.detach().mean())
        return super().forward(images)


class Pairs(nn.Sequential):
    """Normalises groups of two values."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 8, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.GroupNorm(4, 8),
            nn.Flatten(),
            nn.Linear(8, num_classes),
        )


class Stays(nn.Module):
    """Has a state that no record can carry."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, what: str) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)
        if what == "bfloat16":
            self.head = self.head.bfloat16()
        if what == "sparse":
            self.register_buffer("table", torch.eye(3).to_sparse())
        if what == "lazy":
            self.head = nn.LazyLinear(num_classes)
        if what == "huge":
            self.register_buffer("table", torch.zeros(1).expand(10**12))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify by mean colours."""
        logits: torch.Tensor = self.head(images.mean((2, 3)))
        return logits


foreign = ClientApp()


@foreign.train()
def _train(message: Message, context: Context) -> Message:
    """A ClientApp of another library: loads strictly, and sends back all that it has."""
    model = Still(2, 3, 16)
    state = message.content.array_records["arrays"].to_torch_state_dict()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        model.head.bias += 1
        model.scale += 0.25
        model.table += 5
    arrays = ArrayRecord(model.state_dict())
    metrics = MetricRecord({"num-examples": 3, "train_loss": 1.0})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Coupled(nn.Module):
    """Takes the mean of the batch from each record's logits."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes]."""
        logits: Tensor = self.head(self.first(images).mean((2, 3)))
        return logits - logits.mean(0)
