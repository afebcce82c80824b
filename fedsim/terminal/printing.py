"""The one door to the terminal: what is anybody's text is made harmless there."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO


def harmless(text: str) -> str:
    """The text with its control characters written out, so that no terminal obeys them.

    Names of sites, classes and files, and messages of plugins, are anybody's text. Line ends and
    tabs stay: messages have several lines.
    """
    if not any(map(_commands, text)):
        return text
    return "".join(_written_out(c) if _commands(c) else c for c in text)


def duration(seconds: float) -> str:
    """A time that is still to come, or over, in a unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _commands(character: str) -> bool:
    """Whether a terminal may obey the character, or a reader be misled by it."""
    # Control characters, marks that reverse the direction of writing, line ends of Unicode, and
    # halves of pairs, which cannot be printed.
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\n\t\u200d\u00ad"


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def say(text: str = "", *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print text on standard output, or on another stream: all that fedsim prints goes here."""
    print(harmless(text), end=end, file=file)


def error(text: str) -> None:
    """Print an error on standard error."""
    say(f"error: {text}", file=sys.stderr)
