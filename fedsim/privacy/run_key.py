"""What the noise of a run is keyed by: a digest of all that its releases depend on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import ArrayRecord

from fedsim import __version__, yaml_lines
from fedsim.grid.machine import on_gpu
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.sources import sources
from fedsim.registry import default_registry
from fedsim.scenario.overrides import own_plugins
from fedsim.wire import flower
from fedsim.wire.sharing import ALL

if TYPE_CHECKING:
    from fedsim.federation.holdings import Federation
    from fedsim.scenario import Scenario

# Resources that change the last bits of what is computed.
_ROUNDING = ("threads", "server_threads", "gpus")


def _rounding(scenario: Scenario) -> dict[str, Any]:
    """The resources that change last bits, as they come to on this machine."""
    resources = scenario.resources
    found = {key: getattr(resources, key) for key in _ROUNDING}
    if resources.gpus == "auto":
        found["gpus"] = float(on_gpu(resources))
    return found


def run_digest(
    scenario: Scenario,
    seed: int,
    federation: Federation,
    arrays: ArrayRecord,
    plan: PrivacyPlan | None = None,
) -> bytes:
    """A digest of all that a run's releases depend on: its noise is keyed by it.

    Two runs that differ in anything, if only in a budget, one record or the rounding of a sum, have
    different noise: the difference of their releases would else be without any. Left out is where
    clients run, where files lie (not what is in them), who watches, and the audit, which begins
    after the last release.

    Args:
        arrays: the first global arrays.
        plan: what is released; its noise was found by a search whose answer may change with the
            libraries.
    """
    values = scenario.resolved()
    for key in ("seeds", "plugins", "observers"):
        del values[key]
    values["resources"] = _rounding(scenario)
    if values["privacy"] is not None:
        del values["privacy"]["audit"]
    values["data"]["root"] = values["model"]["init"] = None
    # A scenario that does not use them has the noise that it had before there were such keys.
    for part, key, unused in (
        ("federation", "labelled", None),
        ("federation", "labelled_groups", None),
        ("federation", "local", None),
        ("federation", "overrides", {}),
        ("model", "trainable", ALL),
        ("model", "adapter", None),
    ):
        if values[part][key] == unused:
            del values[part][key]
    if values["evaluation"]["external"] is not None:
        values["evaluation"]["external"]["root"] = None
    found = hashlib.sha256()
    resolved = yaml_lines.write(values, sort=True)
    planned = "" if plan is None else repr(plan.clients)
    versions = f"{__version__} {torch.__version__} {np.__version__}"
    for text in (versions, resolved, planned, str(seed), federation.store.fingerprint):
        _digest_part(found, text.encode())
    for positions in (
        *(federation.train, federation.val, federation.forget),
        federation.unlabelled,
    ):
        for name, where in positions.items():
            _digest_part(found, name.encode())
            _digest_part(found, np.asarray(where, np.int64).tobytes())
    for name, value in flower.tensors(arrays).items():
        _digest_part(found, f"{name} {value.dtype} {value.shape}".encode())
        _digest_part(found, np.ascontiguousarray(value).tobytes())
    for group, name in (
        ("strategies", scenario.strategy.name),
        ("clients", scenario.client.name),
        ("models", scenario.model.name),
        *([] if scenario.adversary is None else [("adversaries", scenario.adversary.name)]),
        *own_plugins(scenario),
    ):
        for code in _foreign_code(group, name):
            _digest_part(found, code)
    return found.digest()


def _digest_part(found: Any, part: bytes) -> None:
    """Take in one part; its length first, so that no two lists of parts are alike."""
    found.update(len(part).to_bytes(8, "big"))
    found.update(part)


def _foreign_code(group: str, name: str) -> Iterator[bytes]:
    """The modules that a foreign plugin was written in: its base classes', and what they import.

    Of fedsim's own code the version tells.
    """
    plugin = default_registry().resolve(group, name)
    kinds = plugin.__mro__ if isinstance(plugin, type) else (plugin,)
    written = name.rpartition(":" if ":" in name else ".")[0] or kinds[0].__module__
    if not _is_own(written):
        for module in sorted({written, *(kind.__module__ for kind in kinds)}):
            path = getattr(sys.modules.get(module), "__file__", None)
            if path is not None and not _is_own(module):
                for source in sources(module, Path(path)):
                    yield source.read_bytes()


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "fedsim"
