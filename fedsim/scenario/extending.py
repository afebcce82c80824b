"""`extends: NAME|FILE`: a scenario that holds only the lines in which it differs from another.

The file's keys are put over the other's as a profile's are: blocks key by key, lists and values as
a whole, and a block that names another plugin replaces the other's. `profiles: {NAME: null}` drops
one of the other's profiles, `profiles: null` all of them. What is composed is a document
like any other; every key keeps the place where it was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim import yaml_lines
from fedsim.errors import InputError, Problem, problems_of
from fedsim.scenario.files import Text, find, opening
from fedsim.scenario.merging import EXTENDS, expand, over
from fedsim.yaml_lines import Document, KeyPath, Place

_DEEPEST = 8
# They say what a file is, so they are not inherited.
_OWN = ("name", "description")


def compose(text: Text) -> Document:
    """The document of a file, with what it extends below it.

    Raises:
        InputError: a file of the chain is no YAML, is not there, or extends itself.
    """
    return _composed(text, [])[0]


def standalone(name_or_file: str | Path) -> str:
    """A scenario as the text of a file that extends none, with the comments beside its keys.

    Raises:
        InputError: there is none, or it cannot be composed.
    """
    text = find(name_or_file)
    document, texts = _composed(text, [])
    if len(texts) == 1:
        return text.text
    if document.problems:
        lines = [Problem(str(place), message) for place, message in document.problems]
        raise InputError(f"scenario {text.label} has {len(lines)} problem(s)", lines)
    return _Writer(document, texts).written(opening(text.text))


def _composed(text: Text, chain: Sequence[Text]) -> tuple[Document, list[Text]]:
    """The document, and the files that it is made of."""
    document = yaml_lines.read(text.text, text.label)
    expand(document)
    if EXTENDS not in document.values:
        return document, [text]
    other, place = document.values.pop(EXTENDS), document.place((EXTENDS,))
    chain = [*chain, text]
    below = _found(other, place, chain)
    base, texts = _composed(below, chain)
    for key in _OWN:
        if key not in document.values:
            base.values.pop(key, None)
            base.places.pop((key,), None)
    problems = over(base, document.values, document.places)
    _drop_profiles(base)
    base.places[()] = document.places[()]
    base.problems = [*document.problems, *base.problems, *problems]
    return base, [text, *texts]


def _drop_profiles(document: Document) -> None:
    """Take away the profiles that are null."""
    profiles = document.values.get("profiles", {})
    if profiles is None:
        del document.values["profiles"]
    elif isinstance(profiles, dict):
        for name in [name for name, profile in profiles.items() if profile is None]:
            del profiles[name]


def _found(other: Any, place: Place, chain: Sequence[Text]) -> Text:
    """The file that the last one of a chain extends."""
    why = ""
    if not isinstance(other, str) or not other:
        why = "expected the name of a shipped scenario, or a file"
    elif len(chain) > _DEEPEST:
        why = f"more than {_DEEPEST} files, each of which extends the next"
    else:
        try:
            text = find(other, chain[-1].path.parent)
        except InputError as error:
            why = "; ".join(problem.message for problem in problems_of(error))
        else:
            paths = [one.path.resolve() for one in chain]
            if text.path.resolve() not in paths:
                return text
            circle = [one.path.name for one in chain[paths.index(text.path.resolve()) :]]
            why = "it extends itself: " + " -> ".join([*circle, text.path.name])
    raise InputError(
        f"scenario {chain[0].label} has 1 problem",
        [Problem(str(place), f"{EXTENDS}: {why}")],
        hint="type 'fedsim ls' for the names; a file is found from the folder of the one that "
        "extends it",
    )


class _Writer:
    """Writes a composed document the way its files were written."""

    def __init__(self, document: Document, texts: Sequence[Text]) -> None:
        self._document = document
        self._lines = {text.label: text.text.splitlines() for text in texts}
        self._openings = {
            text.label: len(text.text) - len(text.text.lstrip()) + len(opening(text.text))
            for text in texts
        }

    def written(self, header: Sequence[str]) -> str:
        lines, spread_before = [*header], True
        for key, value in self._document.values.items():
            spread = self._is_spread((key,), value)
            lines += [""] * (spread or spread_before)
            lines += self._entry((key,), value, "")
            spread_before = spread
        return "\n".join(lines).lstrip("\n") + "\n"

    def _entry(self, path: KeyPath, value: Any, indent: str) -> list[str]:
        above, beside = self._comments(path)
        key = yaml_lines.write_value(path[-1])
        lines = [indent + line for line in above]
        if not self._is_spread(path, value):
            if path == ("plugins",) and isinstance(value, list):
                value = [self._absolute(folder, i) for i, folder in enumerate(value)]
            return [*lines, f"{indent}{key}: {yaml_lines.write_value(value, sort=False)}{beside}"]
        lines.append(f"{indent}{key}:{beside}")
        for inner in value:
            lines += self._entry((*path, inner), value[inner], indent + "  ")
        return lines

    def _is_spread(self, path: KeyPath, value: Any) -> bool:
        """Whether the keys of a block were written below it, or in several files."""
        if not isinstance(value, dict) or not value:
            return False
        place = self._document.place(path)
        return any(self._document.place((*path, key)) != place for key in value)

    def _absolute(self, folder: Any, position: int) -> Any:
        """A folder of plugins as it is found from anywhere."""
        here = Path(self._document.place(("plugins", position)).source).parent
        return str((here / folder).absolute()) if isinstance(folder, str) else folder

    def _comments(self, path: KeyPath) -> tuple[list[str], str]:
        """The lines of comment above a key, and the comment behind it."""
        place = self._document.place(path)
        if path not in self._document.places or not place.line:
            return [], ""
        lines = self._lines[place.source]
        found = re.fullmatch(r"[^#'\"]*\s(#.*)", lines[place.line - 1])
        above: list[str] = []
        for number in range(place.line - 2, self._openings[place.source] - 1, -1):
            if not lines[number].lstrip().startswith("#"):
                break
            above.insert(0, lines[number].strip())
        return above, f"  {found[1]}" if found else ""
