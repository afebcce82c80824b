"""A model cut in three: front end and back end at the client, the rest at the server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from fedsim.splitting.channel import Link


@dataclass(frozen=True)
class Parts:
    """The three parts of a model; in a row they are the model.

    Attributes:
        front: images -> the features that are sent, and what stays at the client for the back end
            (skip connections).
        server: features -> features.
        back: features, and what stayed -> the model's output.
        at_client: paths of the modules of front end and back end; all others are the server's.
    """

    front: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
    server: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
    at_client: tuple[str, ...]

    def server_names(self, names: Iterable[str]) -> list[str]:
        """Those of the names of a model's state that are the server's; a codec may add to names."""
        starts = tuple(f"{path}." for path in self.at_client)
        return [name for name in names if not name.startswith(starts)]

    def __call__(self, images: Tensor, link: Link | None = None) -> Tensor:
        """The model's output, its parts talking over a link; None: nothing is lost."""
        features, stayed = self.front(images)
        if link is not None:
            features = link.up(features)
        features = self.server(features)
        if link is not None:
            features = link.down(features)
        return self.back(features, stayed)


@runtime_checkable
class Splittable(Protocol):
    """A model that says where it can be cut."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the places."""

    def parts(self, cut: str) -> Parts:
        """The model cut at such a place."""


def require_cut(model: nn.Module, cut: str) -> Parts:
    """A model's parts.

    Raises:
        ValueError: it says of no such place.
    """
    if not isinstance(model, Splittable):
        raise ValueError(
            f"{type(model).__name__} does not say where it can be cut: type model.name=split_unet, "
            "or give the model's class `cuts` and `parts`"
        )
    if cut not in model.cuts:
        raise ValueError(f"cut is {cut!r}, but {type(model).__name__} has {', '.join(model.cuts)}")
    return model.parts(cut)


@contextlib.contextmanager
def crossing(model: nn.Module, cut: str, link: Link) -> Iterator[Parts]:
    """Let a model compute over a link meanwhile, in whatever loop it is trained.

    Raises:
        ValueError: as `require_cut`.
    """
    parts = require_cut(model, cut)
    overridden = cast(dict[str, object], vars(model))
    overridden["forward"] = lambda images: parts(images, link)
    try:
        yield parts
    finally:
        del overridden["forward"]
