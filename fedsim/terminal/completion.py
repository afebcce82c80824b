"""Completion of words in the shell, where argcomplete is installed and asks for it."""

from __future__ import annotations

import argparse
import os
from typing import Any


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may be typed next, and end the process; else do nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def by_name(argument: argparse.Action) -> None:
    """Let an argument be completed with names and files of scenarios."""
    # The attribute that argcomplete looks for.
    argument.completer = _scenarios  # type: ignore[attr-defined]


def by_weights(argument: argparse.Action) -> None:
    """Let an argument be completed with names of pretrained weights."""
    argument.completer = _pretrained  # type: ignore[attr-defined]


def _pretrained(prefix: str, **_: Any) -> list[str]:
    """Names of pretrained weights that begin with what was typed."""
    from fedsim.pretrained import CATALOGUE
    from fedsim.pretrained.catalogue import UNPACKAGED

    return [name for name in (*CATALOGUE, *UNPACKAGED) if name.startswith(prefix)]


def _scenarios(prefix: str, **_: Any) -> list[str]:
    """Names of scenarios, and files, that begin with what was typed."""
    from argcomplete.completers import FilesCompleter

    from fedsim.scenario.files import names

    files: list[str] = list(FilesCompleter(("yaml", "yml"))(prefix))
    return [name for name in names() if name.startswith(prefix)] + files
