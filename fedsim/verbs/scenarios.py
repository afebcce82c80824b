"""`fedsim ls`, `show`, `cp` and `check`: the scenarios themselves."""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path

from fedsim.errors import EXIT_DONE, InputError, nearest
from fedsim.printing import say
from fedsim.verbs import Verbs, load_scenario, scenario_arguments


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    one = verbs.add("ls", _ls, "List the shipped scenarios.")
    one.add_argument("pattern", nargs="?", default="*", help="such as 'isic_*'")

    one = verbs.add("show", _show, "Print a shipped scenario.")
    one.add_argument("name")

    one = verbs.add("cp", _cp, "Copy a shipped scenario to a file of your own.")
    one.add_argument("name")
    one.add_argument("file", type=Path)

    one = verbs.add("check", _check, "Validate a scenario and run one tiny round.")
    scenario_arguments(one)


def _ls(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    names = [name for name in scenario.names() if fnmatch(name, arguments.pattern)]
    if not names:
        raise InputError(
            f"no scenario fits {arguments.pattern!r}{nearest(arguments.pattern, scenario.names())}"
        )
    width = max(map(len, names))
    for name in names:
        say(f"{name:<{width}}  {scenario.headline(name)}")
    return EXIT_DONE


def _show(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    say(scenario.source(arguments.name), end="")
    return EXIT_DONE


def _cp(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    text = scenario.source(arguments.name)
    if arguments.file.exists():
        raise InputError(f"{arguments.file} exists already", hint="choose another file name")
    try:
        arguments.file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {arguments.file}: {error.strerror}") from error
    say(f"{arguments.file}: edit it, then type: fedsim run {_as_typed(arguments.file)}")
    return EXIT_DONE


def _as_typed(file: Path) -> str:
    return str(file) if file.suffix in (".yaml", ".yml") else f"./{file}"


def _check(arguments: argparse.Namespace) -> int:
    scenario = load_scenario(arguments)
    from fedsim.api import estimate
    from fedsim.console import Console

    estimate(scenario, scenario.seeds[0], Console(verbose=arguments.verbose), steps=1)
    say(f"{scenario.name}: valid, and one tiny round of it runs")
    return EXIT_DONE
