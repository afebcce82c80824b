"""The frequency exchange of FedDG: images take on the low frequencies of other sites' images.

Liu, Q., Chen, C., Qin, J., Dou, Q., Heng, P.-A.: "FedDG: Federated Domain Generalization on Medical
Image Segmentation via Episodic Learning in Continuous Frequency Space" (2021), arXiv:2103.06030.
The server's half is `strategies/fed_dg.py`, the method card `docs/methods/shelf.md`. Its episodic
learning is not built.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from fedsim import Client, Site
from fedsim.clients.segmentation import Segmentation
from fedsim.clients.supervised import Supervised
from fedsim.method import Augmentation
from fedsim.tasks.segmentation import Batch, SegmentationSite
from fedsim.wire import tensor_record, tensors

SPECTRA = "spectra"
"""The record with `amplitudes`, float32 [n, C, *band]: in a client's answer of its own records, in
a message and in the client's state those of the others."""

Band = Annotated[float, Field(ge=0, lt=0.5)]
Share = Annotated[float, Field(ge=0, le=1)]


def low_amplitudes(images: Tensor, band: float) -> Tensor:
    """The amplitudes of images' low frequencies.

    Args:
        images: [n, C, *size], of two or three dimensions.
        band: along an axis of m pixels, frequencies from -k to k count, k being m * band rounded
            down; 0: the mean alone.

    Returns:
        [n, C, 2 k + 1, ...], in the order -k to k of each axis.
    """
    return _spectrum(images)[_places(images.shape[2:], band)].abs()


def restyled(images: Tensor, amplitudes: Tensor, shares: Tensor, band: float) -> Tensor:
    """Images whose low frequencies have other amplitudes, and their own phases.

    Inside the band the amplitude is (1 - share) times the own one and share times the other one.

    Args:
        images: [n, C, *size].
        amplitudes: [n, C, *band], as `low_amplitudes` gives them.
        shares: [n], 0 to 1: 0 leaves an image as it is, up to rounding.
        band: as of `low_amplitudes`.
    """
    spectrum = _spectrum(images)
    where = _places(images.shape[2:], band)
    own, share = spectrum[where], shares.view(-1, *[1] * (images.dim() - 1))
    spectrum[where] = torch.polar(torch.lerp(own.abs(), amplitudes, share), own.angle())
    return torch.fft.ifftn(spectrum, dim=_axes(images)).real


def _axes(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.dim()))


def _spectrum(images: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.fftn(images, dim=_axes(images))
    return spectrum


def _places(size: Sequence[int], band: float) -> tuple[slice | Tensor, ...]:
    """Where the band lies in a spectrum [n, C, *size]: what indexes it."""
    axes = [torch.arange(-int(m * band), int(m * band) + 1) % m for m in size]
    return (slice(None), slice(None), *torch.meshgrid(*axes, indexing="ij"))


@dataclass(eq=False)
class FedDGClient(Client):
    """Base: sends amplitudes of some records once, and trains on images restyled by the others'.

    Args:
        spectra: records of which amplitudes travel: images, of a site with fewer all; of volumes
            patches.
        band: share of each axis that counts as low frequencies, see `low_amplitudes`.
        chance: that a record is restyled in a step: 0 is training on the images as they are. How
            far it is, is drawn anew each time, evenly between not at all and wholly.
    """

    payload_kind = "fed_dg"
    keeps_state = True
    private = "none"

    spectra: PositiveInt = 16
    band: Band = 0.05
    chance: Share = 0.5

    @property
    def discloses(self) -> tuple[str, ...]:
        """What amplitudes are."""
        return (
            f"amplitudes of the low frequencies of up to {self.spectra} records of each site: "
            "their mean brightness and coarse contrast, without what lies where",
        )

    @abstractmethod
    def some(self, site: Site) -> Tensor:
        """Records to take amplitudes of, [n, C, *size]."""

    def answer(self, content: RecordDict, site: Site) -> RecordDict:
        """Answer a message; amplitudes where the server asks for them."""
        if site.kind != SPECTRA:
            return super().answer(content, site)
        shared = {"amplitudes": low_amplitudes(self.some(site), self.band)}
        metrics = MetricRecord({"num-examples": len(site.train)})
        return RecordDict({SPECTRA: tensor_record(shared), "metrics": metrics})

    def keep(self, content: RecordDict, site: Site) -> None:
        """Leave the others' amplitudes, where a message brings them, in the client's state."""
        if SPECTRA in content:
            site.state[SPECTRA] = content[SPECTRA]

    def styles(self, site: Site) -> Callable[[Tensor], Tensor] | None:
        """What restyles a batch of images; None where nothing does."""
        if not self.chance or SPECTRA not in site.state:
            return None
        known = torch.tensor(tensors(site.state.array_records[SPECTRA])["amplitudes"])
        draws = site.generator("styles")

        def restyle(images: Tensor) -> Tensor:
            count = len(images)
            chosen = known[torch.randint(len(known), (count,), generator=draws)]
            shares = torch.rand(count, generator=draws)
            taken = torch.rand(count, generator=draws) < self.chance
            if not taken.any():  # No transform takes an empty batch.
                return images
            changed, there = images.clone(), taken.to(images.device)
            others, parts = (part[taken].to(images.device) for part in (chosen, shares))
            changed[there] = restyled(images[there], others, parts, self.band)
            return changed

        return restyle


@dataclass(eq=False)
class FedDG(FedDGClient, Supervised):
    """Train as `supervised` does, on images with the low frequencies of other sites' images.

    Args:
        epochs, steps, batch_size, learning_rate, momentum, weight_decay, class_balanced, augment,
        class_weights: as of `supervised`.
    """

    made_for = "images"
    side_by_side = True

    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0
    class_balanced: bool = True
    augment: Augmentation = "none"
    class_weights: list[PositiveFloat] | None = None

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays."""
        self.keep(content, site)
        return self.train_corrected(content, site)

    def some(self, site: Site) -> Tensor:
        """Images, drawn at random."""
        order = torch.randperm(len(site.train), generator=site.generator("spectra"))
        return site.train.images(order[: self.spectra])

    def augmented(self, site: Site) -> Callable[[Tensor], Tensor] | None:
        """Restyled first, and then what `augment` says."""
        restyle, change = self.styles(site), super().augmented(site)
        if restyle is None or change is None:
            return restyle or change
        return lambda images: change(restyle(images))


@dataclass(eq=False)
class FedDGSegmentation(FedDGClient, Segmentation):
    """Train as `segmentation` does, on patches with the low frequencies of other sites' patches.

    All other parameters are those of `segmentation`.
    """

    side_by_side = True

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        """Return the trained arrays."""
        self.keep(content, site)
        return self.train_corrected(content, site)

    def some(self, site: Site) -> Tensor:
        """Patches from anywhere."""
        here = SegmentationSite.of(site)
        draws = site.generator("spectra")
        return here.train.patches(self.spectra, here.task.patch, draws, foreground=0.0)[0]

    def _batches(self, here: SegmentationSite, site: Site) -> Iterator[Batch]:
        """Patches of `segmentation`, restyled."""
        restyle = self.styles(site)
        for images, labels in super()._batches(here, site):
            yield images if restyle is None else restyle(images), labels
