"""What the verbs that run cells share: sweep, curve, tune and league.

A cell is one run of a scenario with some values and a seed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_INTERRUPTED, InputError
from fedsim.terminal.printing import say
from fedsim.verbs import quiet_argument, resource_arguments, runs_argument

if TYPE_CHECKING:
    from fedsim.sweeping.scheduler import Sweep

_WORD = re.compile(r"[A-Za-z_][\w.-]*\s*=")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def cell_arguments(one: argparse.ArgumentParser) -> None:
    """Add the options of verbs that run cells."""
    runs_argument(one)
    one.add_argument("--jobs", type=int, metavar="N", help="cells at a time; default: what fits")
    one.add_argument("--dry-run", action="store_true", help="list the cells and what would be done")
    resource_arguments(one)
    quiet_argument(one)
    one.add_argument("-v", "--verbose", action="store_true", help="logs with tracebacks")


def name_argument(one: argparse.ArgumentParser, below: str, default: str) -> None:
    """Add --name: of a folder below one of the folder of runs; `default` is said in the help."""
    help = f"folder below DIR/{below}; default: {default}"
    one.add_argument("--name", metavar="NAME", help=help)


def require_name(arguments: argparse.Namespace) -> None:
    """Raise InputError where --name is no name of a folder."""
    if arguments.name is not None and not _FOLDER.fullmatch(arguments.name):
        raise InputError(f"--name {arguments.name!r}: expected letters, digits, '_', '.', '+', '-'")


def sources_and_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Scenarios, and "key=value" words, of what is typed in any order."""
    sources = [word for word in words if not _WORD.match(word)]
    return sources, [word for word in words if _WORD.match(word)]


def print_forecast(sweep: Sweep) -> None:
    """Print what would be done with each cell."""
    told = {
        "done": "finished already: {}",
        "resume": "would go on with {}",
        "wait": "runs in another process",
        "run": "would run",
    }
    forecast = sweep.forecast()
    for entry, found in forecast:
        why = f" ({found.why})" if found.why else ""
        text = told[found.action].format(found.folder) + why
        say(f"[{entry.number}/{len(forecast)}] {entry.cell.label}: {text}")
    actions = [found.action for _, found in forecast]
    say(
        f"{len(actions)} cells: {actions.count('done')} finished, "
        f"{actions.count('resume')} to go on with, {actions.count('wait')} in another process, "
        f"{actions.count('run')} to run"
    )


def print_failed(sweep: Sweep, code: int) -> None:
    """Print the cells that failed, and what repeats each, on standard error."""
    # Where the sweep itself was interrupted, so were its cells.
    told = ("failed",) if code == EXIT_INTERRUPTED else ("failed", "interrupted")
    for entry in sweep.entries:
        if entry.status in told:
            text = f"{entry.status}: {entry.cell.label}: {entry.error}\n  again: {entry.repeat}"
            say(text, file=sys.stderr)


def interrupted(sweep: Sweep) -> str:
    """How far an interrupted sweep has come, and what goes on with it."""
    done, cells = len(sweep.finished()), len(sweep.entries)
    return f"error: interrupted, {done} of {cells} finished; to go on, type the same command again"
