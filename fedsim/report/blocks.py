"""What a page is made of, beside tables, images and plots: the template draws each by its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedsim.report.drawing import Picture
from fedsim.report.plot import Bars
from fedsim.report.rendering import Image, Table


@dataclass(frozen=True)
class Text:
    """A paragraph; `look` is "", "lead", "muted" or "warning"."""

    kind: ClassVar[str] = "text"

    text: str
    look: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    kind: ClassVar[str] = "items"

    texts: Sequence[Any]


@dataclass(frozen=True)
class Code:
    """Text to be typed or kept as it is."""

    kind: ClassVar[str] = "code"

    text: str


@dataclass(frozen=True)
class Figure:
    """A figure that the page draws itself."""

    kind: ClassVar[str] = "figure"

    picture: Picture


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        caption: what it shows.
        names: of the classes.
        shares: of each true class (rows), the share that is told to be each class; None for a row
            without records.
        counts: the same in records; None where they are not told.
    """

    kind: ClassVar[str] = "matrix"

    caption: str
    names: Sequence[str]
    shares: Sequence[Sequence[float] | None]
    counts: Sequence[Sequence[float]] | None


@dataclass(frozen=True)
class Headline:
    """The one number that a run is judged by.

    Attributes:
        name: of the metric.
        value: rounded, as text.
        details: what one must know beside it, a line each.
    """

    kind: ClassVar[str] = "headline"

    name: str
    value: str
    details: Sequence[str]


@dataclass(frozen=True)
class Details:
    """What opens on request."""

    kind: ClassVar[str] = "details"

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Figures:
    """Figures beside each other, where the screen has room for it."""

    kind: ClassVar[str] = "figures"

    pictures: Sequence[Picture]


Block = (
    Text
    | Heading
    | Items
    | Code
    | Figure
    | Figures
    | Matrix
    | Headline
    | Details
    | Bars
    | Image
    | Table
)


@dataclass(frozen=True)
class Section:
    """A section of a page: its address in the page, its heading, what is in it."""

    id: str
    title: str
    blocks: Sequence[Block]
