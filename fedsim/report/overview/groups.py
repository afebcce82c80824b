"""Methods that may be compared: those with the same data and the same split of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report.paths import shortest
from fedsim.report.rows import Row
from fedsim.report.text import typed


@dataclass(frozen=True)
class Group:
    """Rows on the same data.

    Attributes:
        title: names the data, and what tells them from those of the page's other groups.
        rows: the methods, in the order of the command line.
        stand_in: generated images, not real data.
    """

    title: str
    rows: list[Row]
    stand_in: bool


def groups_of(rows: Sequence[Row], paths: bool = False) -> list[Group]:
    """Group rows by data and split, in the order of their first rows.

    Args:
        rows: the methods.
        paths: whether absolute paths are shown whole, instead of their ends.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(repr((row.fingerprint, _split(row))), []).append(row)
    groups = list(found.values())
    titles = _titles([group[0] for group in groups], paths)
    return [
        Group(title, group, group[0].data == "embedded")
        for title, group in zip(titles, groups, strict=True)
    ]


def _split(row: Row) -> Mapping[str, Any]:
    """How the records are split; all folds of a cross-validation are one split."""
    data = row.runs[0].config.get("data")
    split = data.get("split") if isinstance(data, Mapping) else None
    return split if isinstance(split, Mapping) else {}


def _titles(firsts: Sequence[Row], paths: bool) -> list[str]:
    """A title for each group: the data's name, and as much more as tells it from the others."""
    roots = [str(row.runs[0].data.get("root") or "") for row in firsts]
    ends = {} if paths else shortest(one for one in roots if one)
    shown = [ends.get(root, root) for root in roots]
    more: list[Callable[[int, Row], str]] = [
        lambda k, row: f"from {shown[k]}" if shown[k] else "",
        lambda k, row: _sizes(row),
        lambda k, row: f"positive: {row.runs[0].data.get('positive')}",
        lambda k, row: "split " + typed(_split(row)),
        lambda k, row: _first_run(row, paths),
    ]
    told = [[_name(row)] for row in firsts]
    for what in more:
        if len({tuple(one) for one in told}) == len(told):
            break
        added = [what(k, row) for k, row in enumerate(firsts)]
        for k, one in enumerate(told):
            alike = [j for j, other in enumerate(told) if other[0] == one[0]]
            if len({added[j] for j in alike}) > 1:
                told[k] = [*one, added[k] or "elsewhere"]
    return [f"{one[0]} ({', '.join(one[1:])})" if one[1:] else one[0] for one in told]


def _name(row: Row) -> str:
    name = str(row.runs[0].data.get("name"))
    return f"embedded stand-in for {name}" if row.data == "embedded" else name


def _sizes(row: Row) -> str:
    sizes = row.runs[0].data.get("sizes")
    if not isinstance(sizes, Mapping):
        return "sizes unknown"
    return "/".join(str(number) for number in sizes.values()) + " " + "/".join(map(str, sizes))


def _first_run(row: Row, paths: bool) -> str:
    path = str(row.runs[0].folder.path)
    return "as in " + (path if paths else "/".join(row.runs[0].folder.path.parts[-2:]))
