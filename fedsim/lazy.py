"""Importing late, and importing fast: names of a package that are imported when first used.

What costs a second to import, torch or Opacus, is not paid for by whoever wants one small name.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names live in other modules.

    Args:
        package: the package's own name.
        homes: name -> the module that has it.
    """

    def attribute(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage meanwhile: imports make a million objects, and all of them stay.

    Importing PyTorch takes a sixth less so.
    """
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()
