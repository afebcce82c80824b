"""Opacus's analysis of privacy losses, without the rest of Opacus.

The analysis needs NumPy and SciPy. Importing it the usual way runs the `__init__` of `opacus`,
which imports the training of PyTorch models: each private run would wait seconds for it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = "fedsim_opacus"
_USUAL = "opacus.accountants.analysis"


def rdp() -> Any:
    """The module of Renyi divergences."""
    return _module("rdp")


def prv() -> Any:
    """The package of numerical composition."""
    return _module("prv")


@functools.cache
def _module(name: str) -> Any:
    spec = importlib.util.find_spec("opacus")
    places = spec.submodule_search_locations if spec is not None else None
    home = Path(places[0]) / "accountants" if places else None
    if home is None or not (home / "analysis" / "rdp.py").is_file():
        return importlib.import_module(f"{_USUAL}.{name}")
    _package(_ROOT).__path__ = [str(home)]
    _package(f"{_ROOT}.analysis").__path__ = [str(home / "analysis")]
    # `prv.domain` names an accountant for a function that nothing here calls.
    _package(f"{_ROOT}.rdp").__dict__["RDPAccountant"] = None
    return importlib.import_module(f"{_ROOT}.analysis.{name}")


def _package(name: str) -> ModuleType:
    """A module of this name, with nothing in it."""
    return sys.modules.setdefault(name, ModuleType(name))
