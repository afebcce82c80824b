"""The frozen network that `data.features` names, built only where somebody needs it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fedsim.models
import fedsim.pretrained
from fedsim.data.source import hashed
from fedsim.errors import InputError
from fedsim.folder.runfolder import write_whole
from fedsim.models.build import require_module
from fedsim.pretrained.catalogue import CATALOGUE
from fedsim.pretrained.fetching import sha256_of
from fedsim.pretrained.loading import file_of, load_pretrained
from fedsim.raising import plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.scenario.checks import MODEL_FILE, SUPPLIED
from fedsim.scenario.schema import Features


@dataclass(frozen=True)
class Frozen:
    """A network whose weights nobody changes.

    Attributes:
        name: what the scenario calls it.
        weights_sha256: of the file that its weights are from; "" for random ones.
        digest: of the weights as they are, and of the code of a network that is not fedsim's own.
        whiten: whether whitening its features helps, as far as known: 0 to 1.
        build: makes the module.
    """

    name: str
    weights_sha256: str
    digest: str
    whiten: float
    build: Callable[[], nn.Module]

    @cached_property
    def network(self) -> nn.Module:
        """The module; its `features` maps normalised images to vectors."""
        return self.build()


def weights_source(features: Features) -> str | None:
    """Where the weights of a network come from, see `load_pretrained`; None: they are drawn."""
    known = CATALOGUE.get(features.network)
    if features.weights is not None or known is not None:
        return features.weights or features.network
    return features.network if features.network.endswith(MODEL_FILE) else None


def frozen_network(features: Features, size: int, cache: Path | None = None) -> Frozen:
    """The network that a scenario names, with its weights.

    A name of the catalogue of pretrained weights stands for the model that they are for, and a
    model file that fedsim wrote for the model in it. Without weights a model's are drawn, from a
    seed that is always the same.

    Args:
        features: the block of the scenario.
        size: height and width of the images in pixels.
        cache: the folder that remembers digests, so that a network is built once; None: it is
            built here.

    Raises:
        InputError: there is no such network, it does not take images of this size, it has no
            features, or the weights do not fit.
    """
    known = CATALOGUE.get(features.network)
    plugin = features.network if known is None else known.model
    source = weights_source(features)
    parameters: dict[str, Any] = {}
    if features.network.endswith(MODEL_FILE):
        plugin, parameters = _architecture(Path(features.network))
    kind = default_registry().resolve("models", plugin)
    sha256 = "" if source is None else sha256_of(file_of(source))

    def build() -> nn.Module:
        with (
            isolated(Streams(0).sequence("model")),
            plugin_code(f"data.features: the network {plugin!r} cannot be built for {size} px"),
        ):
            built = construct(kind, parameters, num_classes=2, in_channels=3, image_size=size)
        network = require_module(built, plugin)
        if not callable(getattr(network, "features", None)):
            raise InputError(
                f"data.features.network: {plugin!r} has no `features`, which make vectors of "
                "images",
                hint="choose an image classifier, or a network that `fedsim weights ls` lists",
            )
        if source is not None:
            load_pretrained(network, source)
        return network.eval()

    whiten = 1.0 if known is None else known.whiten
    made = partial(Frozen, features.network, sha256, whiten=whiten)
    if cache is None:
        network = build()
        return made(digest=_digest(network), build=lambda: network)
    recipe = [plugin, parameters, size, sha256, _code_of(kind), torch.__version__]
    file = cache / "networks" / f"{hashed(recipe)}.txt"
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch(r"[0-9a-f]{64}", digest := file.read_text(encoding="ascii")):
            return made(digest=digest, build=build)
    network = build()
    digest = _digest(network)
    with contextlib.suppress(OSError):  # Without it the network is built once more.
        write_whole(file, digest.encode())
    return made(digest=digest, build=lambda: network)


def _code_of(kind: Any) -> str:
    """SHA-256 of the code of models, of reading weights, and of `kind`."""
    folders = (Path(inspect.getfile(one)).parent for one in (fedsim.models, fedsim.pretrained))
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    with contextlib.suppress(OSError, TypeError):  # of a class without a file
        files.append(Path(inspect.getfile(kind)))
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def _digest(network: nn.Module) -> str:
    """SHA-256 of a network's state, and of its file where that is not a part of fedsim."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    kind = type(network)
    if not kind.__module__.startswith("fedsim."):
        with contextlib.suppress(OSError, TypeError):  # of a class without a file
            found.update(Path(inspect.getfile(kind)).read_bytes())
    return found.hexdigest()


def _architecture(path: Path) -> tuple[str, dict[str, Any]]:
    """The model plugin of a model file, and its parameters; InputError where it is none."""
    from fedsim.trained.files import read_about

    about = read_about(path)
    if about.features is not None or about.of_volumes:
        raise InputError(
            f"data.features.network: {path} is no model of images",
            hint="name the file of a model that was trained on images, without data.features",
        )
    own = {k: v for k, v in about.arguments.items() if k not in SUPPLIED["models"]}
    return about.architecture, own
