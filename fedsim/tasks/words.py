"""Words about classes and structures that tasks and reports share."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 8  # names in a note
_CLASSES, _STRUCTURES = 7, 5  # names in a sentence


def spoken(name: str) -> str:
    """A name of a setting, a class or a structure, without underscores."""
    return name.replace("_", " ")


def counted(number: int, thing: str) -> str:
    """A number of things; `thing` is their plural with an s."""
    return f"{number:,} {thing.removesuffix('s') if number == 1 else thing}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names as a sentence lists them."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def apart(classes: Sequence[str]) -> str:
    """What a classifier learns: "to tell malignant from benign"."""
    names = [spoken(name) for name in classes]
    if not names:
        return "to classify"
    if len(names) == 2:
        return f"to tell {names[1]} from {names[0]}"
    few = len(names) <= _CLASSES
    return f"to tell {listed(names) if few else counted(len(names), 'classes')} apart"


def outlined(structures: Sequence[str]) -> str:
    """What a segmentation network learns: "to outline left and right"."""
    names = [spoken(name) for name in structures]
    few = names and len(names) <= _STRUCTURES
    return f"to outline {listed(names) if few else counted(len(names), 'structures')}"
