"""Where an audit's own noise comes from: the one place that knows what mechanisms draw from."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.privacy.noise import Noise

Sources = Callable[[str], Noise]
"""A label -> a source of noise as `Mechanism.aggregate` takes it, always the same one."""


def sources(seed: int) -> Sources:
    """The sources of one audit."""
    return Noise.seeded(b"audit %d" % seed).derive
