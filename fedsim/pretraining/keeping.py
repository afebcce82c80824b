"""What a pretraining leaves on disk: its file, and the checkpoint that it goes on from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsim import __version__
from fedsim.errors import InputError
from fedsim.folder.runfolder import write_whole
from fedsim.raising import one_line
from fedsim.trained.files import encoded

UNFINISHED = ".unfinished"
"""What the name of the checkpoint adds to that of the file; gone when the file is there."""


class Stateful(Protocol):
    """A part of a training that can be kept: a module or an optimiser."""

    def state_dict(self) -> Any:
        """All that it holds."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take that back."""


def finished(out: Path, about: Mapping[str, str]) -> dict[str, str] | None:
    """The metadata of the file, where it is what would come out; None where there is none.

    Raises:
        InputError: another file is there.
    """
    if not out.exists():
        return None
    try:
        with safe_open(out, framework="np") as file:
            found = dict(file.metadata() or {})
    except (OSError, SafetensorError):
        found = {}
    if not about.items() <= found.items():
        differs = [key for key, value in about.items() if key in found and found[key] != value]
        why = f"made with another {differs[0]}" if differs else "no such file"
        raise InputError(f"{out} is there, and is {why}", hint="name another file: --out FILE")
    return found


def finish(
    out: Path, about: Mapping[str, str], tensors: Mapping[str, Tensor], loss: float
) -> dict[str, str]:
    """Write the file, and take its checkpoint away; the file's metadata."""
    metadata = {**about, "loss": f"{loss:.6g}", "fedsim_version": __version__}
    values = {k: v.detach().contiguous().numpy() for k, v in tensors.items()}
    write_whole(out, *encoded(values, metadata))
    checkpoint_of(out).unlink(missing_ok=True)
    return metadata


def checkpoint_of(out: Path) -> Path:
    """Where the checkpoint of a file lies."""
    return out.with_name(out.name + UNFINISHED)


def keep(path: Path, about: Mapping[str, str], done: int, parts: Mapping[str, Stateful]) -> None:
    """Keep what so many epochs have given."""
    kept = {"about": dict(about), "version": __version__, "done": done}
    content = io.BytesIO()
    torch.save(kept | {name: part.state_dict() for name, part in parts.items()}, content)
    write_whole(path, content.getvalue())


def take_up(path: Path, about: Mapping[str, str], parts: Mapping[str, Stateful]) -> int:
    """Go on from a checkpoint of the same pretraining; how many epochs it has, or 0.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    try:
        kept = torch.load(path, weights_only=True)
        if kept["about"] != dict(about) or kept["version"] != __version__:
            return 0
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        return int(kept["done"])
    except FileNotFoundError:
        return 0
    except Exception as error:  # torch raises what it likes of a damaged file
        raise InputError(
            f"{path} is no checkpoint, or a damaged one: {one_line(error)}",
            hint=f"to begin anew, type: rm {path}",
        ) from error
