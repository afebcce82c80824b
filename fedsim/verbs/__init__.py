"""The verbs of the command line, one module each; what several of them need is here.

A module's `add` puts its parser among the verbs. Heavy imports wait inside the command functions,
so that `fedsim --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import InputError, Problem
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

Command = Callable[[argparse.Namespace], int]


class Verbs:
    """The verbs so far; `add` makes the parser of one more."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(metavar="VERB", required=True)

    def add(self, name: str, command: Command, text: str) -> argparse.ArgumentParser:
        """Add a verb: `command` takes the parsed arguments and returns the exit code."""
        one: argparse.ArgumentParser = self._parsers.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        return one

    @property
    def names(self) -> list[str]:
        """Names of the verbs, sorted."""
        return sorted(self._parsers.choices)

    def options(self, name: str) -> list[str]:
        """The long options of a verb."""
        known = self._parsers.choices[name]._option_string_actions
        return [option for option in known if option.startswith("--")]


def require_whole(damaged: Sequence[Problem]) -> None:
    """Raise InputError, when all else is done, for the run folders that were left out."""
    if damaged:
        from fedsim.api.comparing import damage

        raise damage(damaged)


def json_argument(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def print_json(value: Any) -> None:
    """Print a value as JSON; what is no number, or infinite, is null."""
    say(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def scenario_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the arguments of verbs that take a scenario with overrides."""
    nargs = None if required else "?"
    help = "`fedsim ls` lists names"
    by_name(parser.add_argument("name", nargs=nargs, metavar="NAME|FILE", help=help))
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="such as rounds=3")
    parser.add_argument("--seed", type=int, metavar="K", help="only this seed")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks, Ray's output")


def runs_argument(parser: argparse.ArgumentParser) -> None:
    """Add --runs."""
    runs = Path("runs")
    parser.add_argument("--runs", type=Path, default=runs, metavar="DIR", help="default: runs")


def quiet_argument(parser: argparse.ArgumentParser) -> None:
    """Add -q and --quiet."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def resource_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --backend, --workers and --observe."""
    where = "where clients run: in this process, on Ray, or where the run ends first"
    parser.add_argument("--backend", choices=("auto", "inline", "ray"), help=where)
    parser.add_argument("--workers", type=int, metavar="N", help="clients that run at a time")
    parser.add_argument(
        "--observe",
        action="append",
        default=[],
        metavar="NAME",
        help="an observer beside those of the scenario; may be given several times",
    )


def resource_overrides(arguments: argparse.Namespace) -> list[str]:
    """The overrides that --backend, --workers and --observe stand for."""
    options = {"backend": None, "workers": None, "observe": []} | vars(arguments)
    given = [key for key in ("backend", "workers") if options[key] is not None]
    words = [f"resources.{key}={options[key]}" for key in given]
    return [*words, *(f"observe={json.dumps(name)}" for name in options["observe"])]


def load_scenario(arguments: argparse.Namespace) -> Scenario:
    """The scenario that the arguments of `scenario_arguments` name; InputError if there is none."""
    if arguments.name is None:
        raise InputError("which scenario?", hint="type: fedsim ls")
    if "=" in arguments.name:
        raise InputError(
            f"the scenario's name comes first, before {arguments.name!r}", hint="type: fedsim ls"
        )
    from fedsim.scenario import load

    overrides = [*arguments.overrides, *resource_overrides(arguments)]
    return load(arguments.name, overrides, arguments.seed)
