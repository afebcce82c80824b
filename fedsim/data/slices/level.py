"""The level of complex numbers: files have k-space in units of their own, some very small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_FINITE = "holds values that are no finite numbers"
"""What is said of a file with NaN or infinite values."""


def levelled(values: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers times a power of two, so that the largest part is between 1/2 and 1.

    No digit of them changes; zeros stay.

    Args:
        values: complex, finite, of any shape but none without numbers.
    """
    largest = max(np.abs(values.real).max(), np.abs(values.imag).max())
    _, exponent = np.frexp(largest)
    found = np.empty_like(values)
    found.real, found.imag = (np.ldexp(part, -exponent) for part in (values.real, values.imag))
    return found
