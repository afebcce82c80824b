"""A metric: what it is called, in which unit it is told, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower"]

_MOST_DIGITS = 6


@dataclass(frozen=True)
class Metric:
    """One score of a model.

    `summary.json` and all CSV files hold values as they are computed. Tables show `scale` times
    them; a page of one run, the console and the model card show them unscaled.

    Attributes:
        name: in files that programs read, such as "psnr".
        title: as a reader calls it, such as "PSNR".
        unit: of what tables show, such as "dB"; "%" for a fraction that is shown in per cent; "".
        better: which way is better.
        scale: what a table multiplies a value by.
        digits: behind the point, in tables.
        short: above a column of a table; "": the title.
        chance: what guessing reaches, drawn as a line; None where that says nothing.
    """

    name: str
    title: str
    unit: str = ""
    better: Better = "higher"
    scale: float = 1.0
    digits: int = 2
    short: str = ""
    chance: float | None = None

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better must be 'higher' or 'lower', not {self.better!r}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be above 0, not {self.scale}.")
        if not 0 <= self.digits <= _MOST_DIGITS:
            raise ValueError(f"digits must be between 0 and {_MOST_DIGITS}, not {self.digits}.")

    @property
    def best(self) -> str:
        """What the best value is: "highest" or "lowest"."""
        return f"{self.better.removesuffix('er')}est"

    @property
    def plain_digits(self) -> int:
        """Digits behind the point of an unscaled value: as many steps as tables show."""
        return max(0, self.digits + round(math.log10(self.scale)))

    @property
    def plain_unit(self) -> str:
        """The unit of an unscaled value; a fraction has none."""
        return self.unit if self.scale == 1 else ""

    @property
    def spoken_unit(self) -> str:
        """The unit of what tables show, in words: "per cent", "dB" or ""."""
        return "per cent" if self.unit == "%" else self.unit

    @property
    def column(self) -> str:
        """Above a column of a table; what is not in per cent names its unit."""
        unit = f" ({self.unit})" if self.unit not in ("", "%") else ""
        return f"{self.short or self.title}{unit}"

    @property
    def axis(self) -> str:
        """The title with the unit of an unscaled value, for an axis or the head of a table."""
        return f"{self.title} ({self.plain_unit})" if self.plain_unit else self.title

    def merit(self, value: float | None) -> float | None:
        """A number that is the larger, the better the value is."""
        return value if value is None or self.better == "higher" else -value

    def number(self, value: float) -> str:
        """An unscaled value as text, without its unit."""
        return f"{value:.{self.plain_digits}f}"

    def text(self, value: float) -> str:
        """An unscaled value as text, with its unit: "0.774", "24.31 dB"."""
        return f"{self.number(value)} {self.plain_unit}".rstrip()

    def record(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return asdict(self)

    @classmethod
    def read(cls, found: object) -> Metric:
        """What `record` gave.

        Raises:
            ValueError: it is no such thing; says why.
        """
        if not isinstance(found, Mapping):
            raise ValueError("a metric is no object with keys")
        for key in ("name", "title", "unit", "better", "short"):
            if not isinstance(found.get(key, ""), str):
                raise ValueError(f"a metric's {key!r} is no text")
        for key, kinds in (("scale", (int, float)), ("digits", (int,)), ("chance", (int, float))):
            value = found.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise ValueError(f"a metric's {key!r} is no number")
        if not found.get("name"):
            raise ValueError("a metric has no name")
        known = {key: found[key] for key in cls.__dataclass_fields__ if found.get(key) is not None}
        return cls(**{"title": known["name"], **known})


def fraction(name: str, title: str, short: str = "", chance: float | None = None) -> Metric:
    """A score between 0 and 1 of which more is better: tables show it in per cent."""
    return Metric(name, title, "%", scale=100.0, digits=1, short=short, chance=chance)
