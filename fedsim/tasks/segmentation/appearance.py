"""How the volumes of a client look: another scanner, simulated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.scenario.schema import Appearance

_REACH = 3.0
"""Brightness between so many standard deviations below and above the mean has a gamma."""


def apply(
    appearance: Appearance, part: NDArray[np.float32], columns: slice, width: int
) -> NDArray[np.float32]:
    """A part of a z-scored volume under another appearance.

    Args:
        appearance: inversion, then gamma, then the ramp.
        part: float32 [..., w].
        columns: the w columns of the volume that the part has.
        width: columns of the volume.

    Returns:
        float32 [..., w]; each voxel depends on its own brightness and column alone.
    """
    if appearance.invert:
        part = -part
    if appearance.gamma != 1:
        shares = np.clip((part + _REACH) / (2 * _REACH), 0, 1)
        part = (2 * _REACH * shares**appearance.gamma - _REACH).astype(np.float32)
    if appearance.ramp:
        places = np.linspace(-appearance.ramp, appearance.ramp, width, dtype=np.float32)
        part = part + places[columns]
    return part
