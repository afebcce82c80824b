"""Old dotted paths of modules, for plugins and scenarios that name these."""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "fedsim.augment": "fedsim.method.augment",
    "fedsim.client": "fedsim.method.client",
    "fedsim.codecs": "fedsim.wire.codecs",
    "fedsim.exchanges": "fedsim.method.exchanges",
    "fedsim.flower": "fedsim.wire.flower",
    "fedsim.label_views": "fedsim.tasks.segmentation.label_views",
    "fedsim.optimisers": "fedsim.method.optimisers",
    "fedsim.received": "fedsim.method.received",
    "fedsim.schedules": "fedsim.method.schedules",
    "fedsim.segmentation": "fedsim.tasks.segmentation",
    "fedsim.strategy": "fedsim.method.strategy",
    "fedsim.training": "fedsim.method.training",
    "fedsim.updates": "fedsim.method.updates",
    "fedsim.wrapper": "fedsim.method.wrapper",
}
"""Old dotted path -> where the module or package is: those that documents or templates named."""


def new_path(name: str) -> str | None:
    """Where a module is that has, or lies below, an old dotted path; None for any other."""
    old = ".".join(name.split(".")[:2])
    return MOVED[old] + name.removeprefix(old) if old in MOVED else None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under an old path: the one module, not a second copy of it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if new_path(name) is None else ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(new_path(spec.name)))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute nothing, that was done under the new path; undo what importing set."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def keep_old_paths() -> None:
    """Let this process import modules by the paths in `MOVED`."""
    # First of all: the path of a moved package would find its modules a second time.
    sys.meta_path.insert(0, _Finder())
