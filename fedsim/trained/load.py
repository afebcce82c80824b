"""Load the model of a run folder, or of a model file alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedsim.adapters import UnfitError, attach
from fedsim.data.features.mapping import PREFIX, map_of
from fedsim.data.features.pipeline import FeaturePipeline
from fedsim.errors import InputError, Problem, problems_of
from fedsim.folder.identity import edited, refuse, run_record
from fedsim.folder.runfolder import RunFolder
from fedsim.models.build import require_module
from fedsim.raising import plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.registry import construct, default_registry
from fedsim.scenario.checks import SUPPLIED, activate
from fedsim.scenario.schema import Features
from fedsim.trained.about import About
from fedsim.trained.files import SUFFIX, model_file, read_about
from fedsim.trained.pictures import probabilities, read_picture
from fedsim.trained.volumes import Segmented, read_prepared, segment_file
from fedsim.wire import flower
from fedsim.wire.sharing import head_paths
from fedsim.yaml_lines import read_file


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, and all that is needed to use it.

    Attributes:
        model: the torch module, in evaluation mode.
        about: what it is: classes, preprocessing, where it is from.
        device: where it computes.
        file: the model file.
    """

    model: torch.nn.Module
    about: About
    device: torch.device
    file: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return self.about.classes

    def transform(self, path: str | Path) -> torch.Tensor:
        """A file as the model sees it, by the code that prepared the training data.

        Returns:
            Of an image, float32 [3, H, W]; of a volume, float32 [1, D, H, W].

        Raises:
            InputError: the file cannot be read.
        """
        read = read_prepared if self.about.of_volumes else read_picture
        try:
            return read(Path(path), self.about)
        except ValueError as error:
            raise InputError("the file cannot be used", [Problem(str(path), str(error))]) from error

    def predict(self, paths: Iterable[str | Path]) -> np.ndarray:
        """Class probabilities of images, float32 [n, classes].

        Raises:
            InputError: a file cannot be read; or the model does not classify images.
        """
        if self.about.segments:
            raise InputError("this model segments volumes", hint="use segment(FILE)")
        require_known(self.about)
        return probabilities(self.model, map(self.transform, paths), self.about, self.device)

    def segment(self, path: str | Path) -> Segmented:
        """The structures in a volume, on the voxels of its file.

        Raises:
            InputError: the file cannot be read; or the model does not segment volumes.
        """
        if self.about.classifies:
            raise InputError("this model classifies images", hint="use predict([FILE, ...])")
        require_known(self.about)
        try:
            return segment_file(self.model, Path(path), self.about, self.device)
        except ValueError as error:
            raise InputError("the file cannot be used", [Problem(str(path), str(error))]) from error


def require_known(about: About) -> None:
    """Raise InputError for a model of another package's task, whose answers only that can read."""
    if not about.answers:
        raise InputError(
            f"this model is for the task {about.task!r}, whose answers fedsim does not know",
            hint="from Python: trained.model(trained.transform(FILE)[None])",
        )


def load_model(
    run: str | Path, client: str | None = None, device: str | torch.device = "cpu"
) -> TrainedModel:
    """Load a trained model.

    A model by a dotted path, or from a plugin folder, is code: loading a stranger's run folder may
    run it. A model file alone never does, for then only installed models are built.

    Args:
        run: a run folder, or a `.safetensors` file that a run wrote.
        client: whose model, where each client has its own.
        device: where it is to compute.

    Raises:
        InputError: there is none, it is damaged or was edited, or its architecture is not here.
    """
    path = Path(run)
    alone = path.suffix == SUFFIX and not os.path.isdir(path)
    if alone and client is not None:
        raise InputError(f"{path} is one model: no client can be chosen from it")
    file = path if alone else model_file(_require_run(path), client)
    about = read_about(file)
    registry = default_registry()
    name = about.architecture
    if alone and name not in registry.names("models"):
        raise InputError(
            f"{path} holds a model {name!r}, which is not installed here",
            hint="install the plugin that has it, or name the whole run folder, whose code is then "
            "run",
        )
    parameters = {k: v for k, v in about.arguments.items() if k not in SUPPLIED["models"]}
    supplied: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in about.arguments.items()
        if k in SUPPLIED["models"]
    }
    hint = f"load it with the version of fedsim, or of the plugin, that wrote it: {about.version}"
    try:
        with isolated(Streams(0).sequence("model")), plugin_code(f"model {name!r} cannot be built"):
            model = construct(registry.resolve("models", name), parameters, **supplied)
            require_module(model, name)
        _adapt(model, about)
    except InputError as error:
        problems = problems_of(error, name)
        raise InputError(f"the model of {file} cannot be built here", problems, hint) from error
    try:
        arrays = load_file(file)
        kept = {name: arrays.pop(name) for name in list(arrays) if name.startswith(PREFIX)}
        flower.load_state(model, flower.tensor_record(arrays))
        if about.features is not None:
            model = _on_pictures(model, about, kept)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{file} does not fit the model {name!r}: {error}", hint=hint) from error
    where = torch.device(device)
    return TrainedModel(model.to(where).eval(), about, where, file)


def _on_pictures(
    model: torch.nn.Module, about: About, arrays: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """A model of vectors, behind the frozen network and the map that make them of pictures.

    Raises:
        InputError: the network, or its weights, are not those that the model was trained on.
        ValueError: the file does not hold the map.
    """
    from fedsim.data.features.network import frozen_network

    assert about.features is not None
    settings = Features(network=about.features["network"], weights=about.features["weights"])
    frozen = frozen_network(settings, about.preprocessing["size"])
    if frozen.digest != about.features["network_sha256"]:
        raise InputError(
            f"the model was trained on features of {frozen.name!r} with other weights",
            [Problem(frozen.name, f"the network here has the checksum {frozen.digest[:12]}")],
            f"it needs that with the checksum {about.features['network_sha256'][:12]}",
        )
    return FeaturePipeline(frozen.network, map_of(arrays), model)


def _adapt(model: torch.nn.Module, about: About) -> None:
    """Add the adapter that the model was trained with; InputError where it does not go with it."""
    if about.adapter is None:
        return
    kept = about.adapter
    try:
        attach(
            model,
            kept.name,
            kept.parameters,
            input_shape=about.input_shape,
            head=head_paths(model),
        )
    except UnfitError as error:
        where = about.architecture
        problems = [Problem(where, f"adapter {kept.name!r}: {why}") for why in error.reasons]
        raise InputError("the adapter does not go with the model", problems) from error


def _require_run(folder: Path) -> Path:
    """The folder of a run as the run left it; its plugin folders can then be imported from."""
    opened = RunFolder.open(folder)
    record = run_record(opened)
    refuse(folder, edited(folder, record), "name the model file alone")
    activate(_plugins(folder))
    return folder


def _plugins(folder: Path) -> list[str]:
    """The plugin folders of a run. The rest of its scenario, such as its data, may be elsewhere."""
    path = folder / "scenario.yaml"
    found = read_file(path).get("plugins") or []
    if not isinstance(found, list):
        raise InputError(f"{path} cannot be read: its plugins are no list")
    return [str(one) for one in found]
