"""Layers of a model, found by patterns of their paths."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

_NEAREST = 5


class UnfitError(ValueError):
    """An adapter does not go with a model.

    Attributes:
        key: the adapter's parameter that does not.
        reasons: all that is wrong, each a sentence.
        hint: what to write next.
    """

    def __init__(self, key: str, reasons: Sequence[str], hint: str) -> None:
        self.key, self.reasons, self.hint = key, tuple(reasons), hint
        super().__init__(f"{key}: {'; '.join(reasons)}; {hint}")


def matching(model: nn.Module, key: str, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Path -> layer of all layers whose path a pattern matches, in the model's order.

    Args:
        model: its layers are looked at, not itself.
        key: the parameter with the patterns, for the error.
        patterns: those of a shell, on the whole of a path.

    Raises:
        UnfitError: a pattern matches nothing.
    """
    layers = {path: module for path, module in model.named_modules() if path}
    unmatched = [p for p in patterns if not any(fnmatchcase(path, p) for path in layers)]
    if unmatched:
        raise UnfitError(
            key,
            [f"{p!r} matches no layer{_nearest(p, list(layers))}" for p in unmatched],
            "patterns are those of a shell (* ? []), on the whole of a layer's path",
        )
    return {
        path: layer
        for path, layer in layers.items()
        if any(fnmatchcase(path, pattern) for pattern in patterns)
    }


def listed(names: Iterable[str]) -> str:
    """A few names, as words."""
    names = list(names)
    more = f" and {len(names) - _NEAREST} more" if len(names) > _NEAREST else ""
    return ", ".join(map(repr, names[:_NEAREST])) + more


def _nearest(pattern: str, paths: list[str]) -> str:
    stem = pattern.strip("*.?")
    close = [path for path in paths if stem and stem in path]
    close = close or difflib.get_close_matches(stem, paths, _NEAREST, 0.3)
    return f"; the nearest: {listed(close)}" if close else f"; there are {listed(paths)}"
