"""What a scenario is about, read from its file without loading a plugin."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedsim.scenario.extending import compose
from fedsim.scenario.files import find, header
from fedsim.scenario.merging import EXTENDS
from fedsim.yaml_lines import Document


@dataclass(frozen=True)
class Outline:
    """A scenario in few words.

    Attributes:
        name: what is typed.
        headline: the first line of its comments.
        about: its other comments, by the word that each begins with, such as "Expect".
        data: the data set.
        strategy, client: the method's two halves; of a dotted path the last part.
        private: whether it has a privacy block.
        rounds: of training.
        minutes: how long it takes by its comments; None where that was not measured.
        extends: the scenario that it changes, or None.
    """

    name: str
    headline: str
    about: dict[str, str]
    data: str
    strategy: str
    client: str
    private: bool
    rounds: int
    minutes: float | None
    extends: str | None

    @property
    def method(self) -> str:
        """Both halves of the method, and whether it is private."""
        return f"{self.strategy}/{self.client}{' +DP' * self.private}"


def outline(name: str) -> Outline:
    """The outline of a shipped scenario, or of a file; InputError if it cannot be read."""
    text = find(name)
    document = compose(text)
    lines = header(name)
    about = _sections(lines[1:])
    minutes = re.match(r"\d+(?:\.\d+)?", about.get("Minutes", ""))
    extends = re.search(rf"^{EXTENDS}:\s*(\S+)", text.text, re.MULTILINE)
    rounds = document.get(("rounds",), 1)
    return Outline(
        name=name,
        headline=next(iter(lines), ""),
        about=about,
        data=_plugin(document, "data"),
        strategy=_plugin(document, "strategy"),
        client=_plugin(document, "client"),
        private=document.get(("privacy",)) is not None,
        rounds=rounds if isinstance(rounds, int) else 1,
        minutes=float(minutes[0]) if minutes else None,
        extends=extends[1] if extends else None,
    )


def _plugin(document: Document, block: str) -> str:
    """The name of a block's plugin; of a dotted path the last part."""
    name: Any = document.get((block, "name"), "?")
    return re.split(r"[.:]", str(name))[-1]


def _sections(lines: Iterable[str]) -> dict[str, str]:
    """Paragraphs that begin with a word and a colon, by that word."""
    found: dict[str, str] = {}
    word = ""
    for line in lines:
        begins = re.match(r"([A-Z][a-z]+):\s+(.*)", line)
        if begins:
            word, line = begins[1], begins[2]
            found[word] = ""
        if word:
            found[word] = f"{found[word]} {line}".strip()
    return found
