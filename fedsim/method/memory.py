"""Memory of large tensors, kept by the process that computes with them."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt: memory of this size and more is mapped anew each time, and given back at once.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30


def keep_memory() -> None:
    """Let glibc keep freed memory from now on, for the whole process; results stay the same.

    Otherwise tensors of some megabytes are mapped anew each time that they are made, and the system
    fills each page with zeros: of distillation that was a quarter to a half of the time.
    Does nothing where there is another C library.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # Another C library.
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _LARGEST)
