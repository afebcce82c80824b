"""Pages from Jinja2 templates, which escape every text of theirs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedsim.report.text import typed
from fedsim.terminal.printing import harmless

# Nothing is loaded and nothing runs, even if some text slipped through unescaped.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class Table:
    """A table of a page; the first cell of each row is its header.

    Attributes:
        caption: what it shows.
        header: names of the columns; of two columns, the second holds words or numbers.
        rows: any values, see `cell`.
        digits: behind the point.
    """

    kind: ClassVar[str] = "table"

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    digits: int = 4

    def is_number(self, column: int) -> bool:
        """Whether a column of several holds numbers, which end on the right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return (
            len(self.header) > 2
            and column > 0
            and bool(cells)
            and all(isinstance(c, int | float) and not isinstance(c, bool) for c in cells)
        )


@dataclass(frozen=True)
class Image:
    """A PNG that a page holds: what it shows in words, and its caption."""

    kind: ClassVar[str] = "image"

    png: bytes
    alt: str
    caption: str

    @property
    def data(self) -> str:
        """Its address, which is its content."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


def render(template: str, **values: Any) -> str:
    """Fill a template of `fedsim/report/templates`; `policy` is `POLICY` unless it is given."""
    return environment().get_template(template).render({"policy": POLICY, **values})


@cache
def environment() -> Environment:
    """The templates of the page of a run."""
    return templates()


def templates(**filters: Callable[..., Any]) -> Environment:
    """The templates, with the filter `cell` and others; a name that a page lacks is an error."""
    found = Environment(
        loader=PackageLoader("fedsim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"cell": cell, **filters}
    return found


def _harmless(value: Any) -> Any:
    """Text with its control characters written out: some turn the reading around."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return harmless(value) if plain else value


def cell(value: Any, digits: int = 4) -> str:
    """A value for a person; the JSON files beside the page hold it in full.

    Numbers show so many digits or more, None is "undefined", what has parts is told as words.
    """
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.3g}"
        return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.{digits + 1}g}"
    if isinstance(value, Mapping):
        return "; ".join(
            f"{str(key).replace('_', ' ')}: {cell(one, digits)}" for key, one in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(cell(one, digits) for one in value)
    return value if isinstance(value, str) else typed(value)
