"""Magnitude images of other data sets, with a simulated phase: k-space where none was kept.

Archives keep magnitudes. A smooth phase makes complex slices of them, and their transform is
k-space. What is learned from it is easier than real k-space: there is no noise but the image's own,
which has been through a reconstruction already, and k-space beyond what was scanned is zero
(Shimron et al., "Implicit data crimes", 2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from fedsim.data.phantom.brain import brain_stand_in
from fedsim.data.phantom.canvas import grid_axis
from fedsim.data.slices.dataset import Complex, SliceDataset, SliceManifest
from fedsim.data.source import hashed
from fedsim.data.volumes.dataset import VolumeDataset
from fedsim.data.volumes.decathlon import MSD
from fedsim.data.volumes.prostate import Promise12, ProstateX
from fedsim.data.volumes.reading import read_volume
from fedsim.tasks.reconstruction.sampling import Pattern

_LAYOUTS: dict[str, type[VolumeDataset]] = {
    "msd": MSD,
    "promise12": Promise12,
    "prostatex": ProstateX,
}
_TURN = 1.5
"""Standard deviation of each coefficient of the phase, in radians."""


class Magnitude(SliceDataset):
    """Slices of MR volumes with a simulated phase; the stand-in is that of `kspace`.

    The phase is a polynomial of second degree across the slice. Its coefficients are normal with a
    standard deviation of 1.5 radians, the same for all slices of a volume, and depend on the
    volume's name.

    Args:
        volumes: which data set's layout the root folder has; its outlines are not read.
        mask, acceleration, centre, slices: as of `SliceDataset`.
    """

    embedded = brain_stand_in
    layout = "the folder of msd, promise12 or prostatex, as data.volumes says"

    def __init__(
        self,
        volumes: Literal["msd", "promise12", "prostatex"] = "promise12",
        mask: Pattern = "lines",
        acceleration: float = 4.0,
        centre: PositiveInt = 24,
        slices: PositiveInt | None = None,
    ) -> None:
        super().__init__(mask, acceleration, centre, slices)
        self.volumes = volumes

    def manifest(self, root: Path) -> SliceManifest:
        """The volumes of the layout; each is a patient where the layout names none."""
        found = _LAYOUTS[self.volumes]().manifest(root)
        groups = [group or name for group, name in zip(found.groups, found.ids, strict=True)]
        return SliceManifest(
            found.images, found.sites, groups, found.ids, found.bad, found.notes, found.columns
        )

    def read(self, path: Path) -> Complex:
        """The slices of a volume with the phase that belongs to its file name."""
        channel = _LAYOUTS[self.volumes].channel
        array = read_volume(path, channel=channel).array.astype(np.float64)
        low = min(float(array.min()), 0.0)
        rng = np.random.default_rng(int(hashed(path.name), 16))
        turn = simulated_phase(array.shape[1:], rng)
        return np.asarray((array - low) * np.exp(1j * turn)).astype(np.complex64)


def simulated_phase(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A smooth phase in radians, float64 [H, W]; see `Magnitude`."""
    y, x = np.meshgrid(grid_axis(shape[0]), grid_axis(shape[1]), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2])
    return np.asarray(np.tensordot(rng.normal(0, _TURN, len(terms)), terms, axes=1))
