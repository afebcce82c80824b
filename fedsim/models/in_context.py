"""A frozen network that outlines what its support set does; the set is the client's own part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fedsim.models.classifier import require_positive
from fedsim.models.cross_network import CrossNetwork
from fedsim.pretrained.catalogue import ELSEWHERE
from fedsim.tasks.segmentation.support import support_sets, unit_range

NEVER = -30.0
"""The logit of a structure that the support set does not outline."""

_EMPTY = -1


class SupportSet(nn.Module):
    """Outlined slices that a client answers from, in places of a fixed number.

    Args:
        capacity: places.
        size: (H, W) of a slice.

    Attributes:
        images: float32 [capacity, H, W], from 0 to 1.
        labels: uint8 [capacity, H, W], classes from 0, the background.
        slices: int64 [capacity], the slice's number in its volume; -1: the place is empty.
        seed: int64, of what is drawn of it.
    """

    images: Tensor
    labels: Tensor
    slices: Tensor
    seed: Tensor

    def __init__(self, capacity: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(capacity, *size))
        self.register_buffer("labels", torch.zeros(capacity, *size, dtype=torch.uint8))
        self.register_buffer("slices", torch.full((capacity,), _EMPTY, dtype=torch.int64))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return int((self.slices != _EMPTY).sum())


class InContext(nn.Module):
    """UniverSeg's network and a support set, which nobody trains, for axial slices.

    Butoi et al., "UniverSeg" (2023); the choice of the support set by slice number and the means
    over several draws are of its evaluation on prostate MRI. A volume is answered slice by slice:
    support slices are drawn, those near in number more often; the network's probabilities are
    averaged over the draws, and a structure is where they are above one half and above those of all
    others. Slices of another size are resized to the patch, and answers back. The network has
    1,182,785 parameters with the default channels.

    Args:
        num_classes: background and structures; each structure is asked for by itself.
        in_channels: channels of the images, 1.
        patch: (H, W) that the network sees a slice in, multiples of 8 voxels with four levels.
        channels: of the network's levels; those of the published weights by default.
        support: slices in a support set, at most.
        draws: support sets that are drawn for a slice where there are more slices than that.
        capacity: slices that a client's set can hold.

    Raises:
        ValueError: a size below one, images of several channels, a patch of three axes or one that
            cannot be halved often enough.
    """

    made_for: ClassVar[str] = "volumes"
    payload_kind: ClassVar[str] = "in_context"
    """Of the client methods that it goes with: no other fills its support set."""
    keeps: ClassVar[str] = "images and outlines of the labelled cases (`support`)"
    """What of records its file holds as it is."""
    head: ClassVar[str] = "support"
    """The support set: what weights from elsewhere do not bring."""
    needs_init: ClassVar[str] = (
        f"fetch the published weights from {ELSEWHERE['universeg_v1']} and type model.init=FILE; "
        "or type model.init=in_context_phantom model.channels=[16,16,16,16], a small network that "
        "learned on generated volumes"
    )
    """Why there is no run without `model.init`, and what to type."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch: tuple[int, ...],
        channels: tuple[PositiveInt, ...] = (64, 64, 64, 64),
        support: PositiveInt = 64,
        draws: PositiveInt = 5,
        capacity: PositiveInt = 512,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, support=support, draws=draws, capacity=capacity)
        if in_channels != 1:
            raise ValueError(f"An in-context network sees 1 channel, not {in_channels}.")
        self.network = CrossNetwork(channels)
        step = self.network.multiple
        if len(patch) != 2 or any(size % step or size < 1 for size in patch):
            raise ValueError(
                f"An in-context network of {len(channels)} levels sees slices whose sides are "
                f"multiples of {step} voxels, not {list(patch)}: set data.size, and leave "
                "data.patch out."
            )
        self.patch = (patch[0], patch[1])
        self.structures = num_classes - 1
        self.count, self.draws = support, draws
        self.support = SupportSet(capacity, self.patch)

    @torch.no_grad()
    def remember(self, volumes: Sequence[tuple[Tensor, Tensor]], seed: int, empty: bool) -> int:
        """Make outlined volumes the support set, in place of the one there was.

        Args:
            volumes: images [1, D, H, W] on any scale, and labels, int64 [D, H, W].
            seed: of all draws, at least 0.
            empty: take slices without any structure, too.

        Returns:
            How many slices these are.

        Raises:
            ValueError: none, or more than there are places for.
        """
        images, labels, slices = [], [], []
        for image, label in volumes:
            kept = torch.arange(len(label))
            if not empty:
                kept = kept[label.flatten(1).any(1)]
            images.append(self._seen(image)[kept])
            shown = label[kept, None].float()
            labels.append(F.interpolate(shown, self.patch, mode="nearest-exact")[:, 0])
            slices.append(kept)
        count = sum(map(len, slices))
        capacity = len(self.support.slices)
        if not 1 <= count <= capacity:
            raise ValueError(
                f"a support set holds 1 to {capacity} slices, but {len(volumes)} labelled cases "
                f"have {count}: type model.capacity={count}"
                if count
                else f"{len(volumes)} labelled cases have no outlined slice to answer from"
            )
        held = self.support
        for buffer, found in (
            (held.images, torch.cat(images)),
            (held.labels, torch.cat(labels)),
            (held.slices, torch.cat(slices)),
        ):
            buffer.zero_()
            buffer[:count] = found.to(buffer.dtype)
        held.slices[count:] = _EMPTY
        held.seed.fill_(seed)
        return count

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes, H, W] of slices [N, 1, H, W] whose numbers are not known."""
        if torch.onnx.is_in_onnx_export():
            raise ValueError("it answers from a support set, slice by slice: use fedsim predict")
        parts = [self._answer(self._seen(image[None])[0], None) for image in images]
        return self._enlarged(torch.stack(parts), images.shape[2:])

    def volume_logits(self, image: Tensor) -> Tensor:
        """Logits of a whole volume, answered slice by slice.

        Args:
            image: [1, D, H, W].

        Returns:
            [D, num_classes, H, W]; those of the background are 0.
        """
        seen = self._seen(image)
        parts = [self._answer(plane, number) for number, plane in enumerate(seen)]
        return self._enlarged(torch.stack(parts), image.shape[2:])

    def _seen(self, image: Tensor) -> Tensor:
        """Slices [D, *patch] of a volume [1, D, H, W] as the network sees them."""
        values = torch.from_numpy(unit_range(image[0].detach().cpu().numpy())).to(image.device)
        if tuple(values.shape[1:]) == self.patch:
            return values
        return F.interpolate(values[:, None], self.patch, mode="bilinear", antialias=True)[:, 0]

    def _enlarged(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(size) == self.patch:
            return logits
        return F.interpolate(logits, tuple(size), mode="bilinear")

    def _answer(self, query: Tensor, number: int | None) -> Tensor:
        """Logits [num_classes, H, W] of a slice [H, W]."""
        held, there = self.support, len(self.support)
        answers = query.new_full((1 + self.structures, *query.shape), NEVER)
        answers[0] = 0
        if not there:
            return answers
        slices, seed = held.slices[:there].cpu().numpy(), int(held.seed)
        sets = support_sets(slices, number, count=self.count, draws=self.draws, seed=seed)
        for structure in range(1, 1 + self.structures):
            masks = (held.labels[:there] == structure).float()
            if not masks.any():
                continue
            total = torch.zeros_like(query)
            for chosen in map(torch.from_numpy, sets):
                logits = self.network(
                    query[None, None],
                    held.images[chosen][None, :, None],
                    masks[chosen][None, :, None],
                )
                total = total + logits[0, 0].sigmoid()
            answers[structure] = (total / len(sets)).logit(1e-6)
        return answers
