"""What tells data sets of one name apart, in words that a person can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsim.report.paths import shortest

CONTENTS = "contents"
"""How data are called that differ in nothing but their records."""


def data_labels(data: Sequence[Mapping[str, Any]], paths: bool = False) -> list[str]:
    """`data=FOLDER (what differs)` of each; all are different.

    Args:
        data: the entries `data` of run.json, of one data set with different fingerprints.
        paths: whether folders are shown whole, instead of the ends that tell them apart.
    """
    roots = [one.get("root") for one in data]
    ends = shortest(root for root in roots if isinstance(root, str))
    places = [
        (root if paths else ends[root].removeprefix("…/")) if isinstance(root, str) else "embedded"
        for root in roots
    ]
    told = [[fact(one) for fact in _FACTS] for one in data]
    differ = [k for k in range(len(_FACTS)) if len({facts[k] for facts in told}) > 1]
    facts = [[facts[k] for k in differ if facts[k]] for facts in told]
    labels = [_label(place, more) for place, more in zip(places, facts, strict=True)]
    for label in {label for label in labels if labels.count(label) > 1}:
        alike = [number for number, other in enumerate(labels) if other == label]
        for count, number in enumerate(alike, 1):
            labels[number] = _label(places[number], [*facts[number], f"{CONTENTS} {count}"])
    return labels


def _label(place: str, facts: Sequence[str]) -> str:
    return f"data={place}" + (f" ({', '.join(facts)})" if facts else "")


def _records(data: Mapping[str, Any]) -> str:
    sizes = data.get("sizes")
    return f"{sum(sizes.values()):,} records" if isinstance(sizes, Mapping) and sizes else ""


def _skipped(data: Mapping[str, Any]) -> str:
    count = data.get("skipped")
    return f"{count} left out" if isinstance(count, int) and count else ""


def _positive(data: Mapping[str, Any]) -> str:
    return f"positive {data['positive']}" if data.get("positive") else ""


_FACTS: tuple[Callable[[Mapping[str, Any]], str], ...] = (_records, _skipped, _positive)
