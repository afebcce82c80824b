"""A trained model as an ONNX file, checked against the model that it was made of."""

from __future__ import annotations

import importlib
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import InputError, RunError
from fedsim.raising import one_line
from fedsim.trained.load import TrainedModel

TOLERANCE = 1e-4
"""Largest difference between the file's outputs and the model's that is accepted."""

INPUT, OUTPUTS = "images", ("logits", "probabilities")
_OPERATION = re.compile(r"(?:[Ee]xport(?:ing)?|support(?:ed)?)[^.\n]*?(?:aten|prim)::(\w+)")
_LETTERS = 200  # of an error
_COUNTS = (1, 3)  # of inputs at a time, with which it is checked


@dataclass(frozen=True)
class Exported:
    """An ONNX file.

    Attributes:
        content: its bytes.
        shape: of one input.
        difference: the largest one between its outputs and the model's, on random inputs.
    """

    content: bytes
    shape: tuple[int, ...]
    difference: float


class _WithProbabilities(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, torch.softmax(logits, dim=1)


def export_onnx(trained: TrainedModel) -> Exported:
    """Write a model as ONNX and check it with onnxruntime.

    Its input `images` is float32 [n, *shape], prepared as the metadata say, for any n; its outputs
    are `logits` and `probabilities`, with the classes second. Metadata are those of the model file.

    Raises:
        InputError: onnx or onnxruntime is not installed.
        RunError: the model cannot be written as ONNX, or the file says something else than the
            model.
    """
    onnx, runtime = _required("onnx"), _required("onnxruntime")
    shape = trained.about.input_shape
    wrapped = _WithProbabilities(trained.model).cpu().eval()
    draws = torch.Generator().manual_seed(0)
    try:
        content = _written(wrapped, torch.randn(_COUNTS[-1], *shape, generator=draws))
        proto = onnx.load_from_string(content)
        described = {k: v for k, v in trained.about.metadata().items() if k != "format"}
        onnx.helper.set_model_props(proto, described)
        proto.producer_name, proto.producer_version = "fedsim", trained.about.version
        proto.doc_string = trained.about.title
        content = proto.SerializeToString(deterministic=True)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        difference = max(
            _difference(session, wrapped, torch.randn(count, *shape, generator=draws))
            for count in _COUNTS
        )
    except Exception as error:  # exporter and runtime let many kinds through
        name = trained.about.architecture
        raise RunError(
            f"model {name!r} cannot be written as ONNX: {_why(error)}; model.safetensors of the "
            "run folder is the same model"
        ) from error
    finally:
        trained.model.to(trained.device)
    if not difference <= TOLERANCE:
        raise RunError(
            f"the ONNX file would not say what the model says: they differ by up to "
            f"{difference:.2g}, and {TOLERANCE:g} is accepted; nothing was written"
        )
    return Exported(content, shape, difference)


def _why(error: Exception) -> str:
    """What the exporter or the runtime could not do, without the places in its own code."""
    if found := _OPERATION.search(str(error)):
        return f"the exporter has no form for its operation {found[1]}"
    first = one_line(error).partition(" Defined at")[0]
    return first if len(first) <= _LETTERS else f"{first[:_LETTERS]}…"


def _required(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"ONNX files need the package {name}, which is not installed",
            hint="type: pip install '.[export]' in fedsim's folder "
            "(or: pip install onnx onnxruntime)",
        ) from error


def _written(model: nn.Module, example: Tensor) -> bytes:
    names = (INPUT, *OUTPUTS)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # Of the exporter's age, and of branches on shapes that are the same for every input.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            path := Path(folder) / "model.onnx",
            # The newer exporter takes half a minute and two more packages for the same file.
            dynamo=False,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "n"} for name in names},
        )
        return path.read_bytes()


@torch.inference_mode()
def _difference(session: Any, model: nn.Module, inputs: Tensor) -> float:
    found = session.run(list(OUTPUTS), {INPUT: inputs.numpy()})
    told = [output.numpy() for output in model(inputs)]
    return max(float(np.abs(a - b).max()) for a, b in zip(found, told, strict=True))
