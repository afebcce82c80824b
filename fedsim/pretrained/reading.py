"""Reading the tensors of a weights file: safetensors, PyTorch state dicts, ONNX. No code is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.errors import InputError
from fedsim.files import require_regular
from fedsim.pretrained.onnx_wire import initialisers
from fedsim.raising import one_line

_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "net", "module")
_FORMATS = "formats: .safetensors, a PyTorch state dict (.pt, .pth), ONNX (.onnx)"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, as the file names them.

    The format is told by the content, and by the ending where that does not tell. Of a PyTorch file
    the state dict is taken, also out of a dictionary that has it under `state_dict`, `model` and
    the like; `module.` before all names (of `DataParallel`) is left off. Of an ONNX file the
    initialisers are taken; see `fedsim.pretrained.onnx_wire`.

    Args:
        path: a file.

    Returns:
        Dense tensors.

    Raises:
        InputError: the file cannot be read, is damaged, has another format, holds no tensors or,
            being a pickle, holds code.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(16)
        kind = _kind(path, head)
        found = _READERS[kind](path) if kind else {}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not kind:
        raise InputError(f"{path} is not a file of weights", hint=_FORMATS)
    if not found:
        raise InputError(f"{path} holds no tensors", hint=_FORMATS)
    return found


def _kind(path: Path, head: bytes) -> str:
    """The format of a file; "" where it has none of those that are read."""
    endings = {".safetensors": "safetensors", ".onnx": "onnx"}
    if path.suffix in endings:
        return endings[path.suffix]
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    return "onnx" if head[:1] == b"\x08" else ""  # The first field of a model: its version.


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def _of_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's words on old formats
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is a pickle that holds more than tensors, or a damaged one: reading it could "
            "run code",
            hint="have its owner save the state dict alone: torch.save(model.state_dict(), FILE), "
            "or as safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from error
    except (zipfile.BadZipFile, TypeError, IndexError, MemoryError, OverflowError) as error:
        raise _damaged(path, error) from error
    tensors = _unwrapped(value)
    for name, tensor in tensors.items():
        _require_dense(path, name, tensor)
    return tensors


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is no PyTorch file, or a damaged one: {one_line(error)}")


def _unwrapped(value: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, which may lie deeper."""
    while isinstance(value, Mapping):
        found = {str(k): v.data for k, v in value.items() if isinstance(v, Tensor)}
        inner = [value[key] for key in _WRAPPERS if isinstance(value.get(key), Mapping)]
        if found or not inner:
            common = found and all(name.startswith("module.") for name in found)
            return (
                {name.removeprefix("module."): v for name, v in found.items()} if common else found
            )
        value = inner[0]
    return {}


def _require_dense(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not stored as it is: of a few bytes it could make many."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(
            f"{path}: {name!r} is not stored as a dense tensor",
            hint="have its owner save dense float32 tensors",
        )


def _of_onnx(path: Path) -> dict[str, Tensor]:
    try:
        return {name: torch.from_numpy(array) for name, array in initialisers(path).items()}
    except ValueError as error:
        raise InputError(f"{path} is no ONNX file, or a damaged one: {error}") from error


_READERS = {"safetensors": _of_safetensors, "torch": _of_torch, "onnx": _of_onnx}
