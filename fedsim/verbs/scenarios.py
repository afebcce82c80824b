"""`fedsim ls`, `show`, `cp` and `check`: the scenarios themselves."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, InputError, nearest
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, json_argument, load_scenario, print_json, scenario_arguments

if TYPE_CHECKING:
    from fedsim.scenario.outline import Outline


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    one = verbs.add("ls", _ls, "List the shipped scenarios: data, method, minutes, what for.")
    one.add_argument(
        "pattern", nargs="?", default="*", help="such as 'isic_*', or a part of a name"
    )
    one.add_argument("-l", "--long", action="store_true", help="with paper, expected result, data")
    json_argument(one)

    one = verbs.add("show", _show, "Print a scenario: its file, or all keys with their values.")
    by_name(one.add_argument("name", metavar="NAME|FILE", help="`fedsim ls` lists names"))
    one.add_argument("overrides", nargs="*", metavar="key.sub=value", help="implies --resolved")
    one.add_argument(
        "--resolved",
        action="store_true",
        help="all keys, with what the file extends, the profile and the defaults",
    )

    one = verbs.add(
        "cp", _cp, "Copy a shipped scenario to a file of your own, with all that it extends."
    )
    by_name(one.add_argument("name", metavar="NAME|FILE", help="`fedsim ls` lists names"))
    one.add_argument("file", type=Path)

    one = verbs.add("check", _check, "Validate a scenario and run one tiny round.")
    scenario_arguments(one)
    json_argument(one)


def _ls(arguments: argparse.Namespace) -> int:
    from fedsim import scenario
    from fedsim.scenario.outline import outline

    known = scenario.names()
    names = [name for name in known if fnmatch(name, arguments.pattern)]
    names = names or [name for name in known if arguments.pattern in name]
    if not names:
        raise InputError(
            f"no scenario fits {arguments.pattern!r}{nearest(arguments.pattern, known)}"
        )
    found = [outline(name) for name in names]
    if arguments.json:
        print_json([asdict(one) for one in found])
    elif arguments.long:
        say("\n\n".join(map(_long, found)))
    else:
        width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None
        say("\n".join(_short(found, width)))
    return EXIT_DONE


def _short(found: Sequence[Outline], width: int | None) -> list[str]:
    """A line for each; what it is about goes below where it does not fit into so many columns."""
    rows = [("name", "data", "method", "min", "about")]
    for one in found:
        minutes = "-" if one.minutes is None else f"{one.minutes:g}"
        rows.append((one.name, one.data, one.method, minutes, one.headline))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    heads = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) for row in rows]
    longest = max(len(row[4]) for row in rows)
    if width is None or len(heads[0]) + 2 + longest <= width:
        return [f"{head}  {row[4]}" for head, row in zip(heads, rows, strict=True)]
    lines = [heads[0].rstrip()]
    for head, row in zip(heads[1:], rows[1:], strict=True):
        lines.append(head.rstrip())
        lines += textwrap.wrap(row[4], width, initial_indent="    ", subsequent_indent="    ")
    return [*lines, "min: minutes, where they were measured; fedsim ls NAME --long tells on what"]


def _long(one: Outline) -> str:
    """All that a scenario says of itself."""
    facts = {"data": one.data, "method": one.method, "rounds": str(one.rounds)}
    facts |= {"extends": one.extends} if one.extends else {}
    facts |= {word.lower() if word != "Data" else "real data": t for word, t in one.about.items()}
    lines = [one.name, f"  {one.headline}"]
    for word, text in facts.items():
        lines += textwrap.wrap(text, 98, initial_indent=f"  {word:<11}", subsequent_indent=13 * " ")
    return "\n".join(lines)


def _show(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    if arguments.resolved or arguments.overrides:
        say(scenario.load(arguments.name, arguments.overrides).to_yaml(), end="")
    else:
        say(scenario.source(arguments.name), end="")
    return EXIT_DONE


def _cp(arguments: argparse.Namespace) -> int:
    from fedsim import scenario, yaml_lines

    text = scenario.standalone(arguments.name)
    if arguments.file.exists():
        raise InputError(f"{arguments.file} exists already", hint="choose another file name")
    try:
        arguments.file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {arguments.file}: {error.strerror}") from error
    say(f"{arguments.file}: edit it, then type: fedsim run {_as_typed(arguments.file)}")
    name = yaml_lines.read(text, str(arguments.file)).values.get("name")
    if name is not None and name != arguments.file.stem:
        say(f"its name is still {name}, and so is the folder of its runs: change `name:`, too")
    return EXIT_DONE


def _as_typed(file: Path) -> str:
    return str(file) if file.suffix in (".yaml", ".yml") else f"./{file}"


def _check(arguments: argparse.Namespace) -> int:
    scenario = load_scenario(arguments)
    from fedsim.api import estimate
    from fedsim.terminal.console import Console

    console = Console(verbose=arguments.verbose, stderr=arguments.json)
    estimate(scenario, scenario.seeds[0], console, steps=1)
    if arguments.json:
        print_json({"scenario": scenario.name, "valid": True, "resolved": scenario.resolved()})
    else:
        say(f"{scenario.name}: valid, and one tiny round of it runs")
    return EXIT_DONE
