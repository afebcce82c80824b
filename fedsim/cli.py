"""The command line: `fedsim VERB ...`.

Exit codes: 0 done; 1 the run failed; 2 the input is wrong; 3 an audit found a violation;
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fedsim import __version__
from fedsim.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    FedsimError,
    InputError,
    nearest,
)

if TYPE_CHECKING:
    from fedsim.scenario import Scenario


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are fedsim's."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"type: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in arguments or "--verbose" in arguments
    with contextlib.suppress(ValueError):  # Not in the main thread.
        # A batch system ends jobs with SIGTERM: the same orderly stop as Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    try:
        parsed = _parse(arguments)
        command: Callable[[argparse.Namespace], int] = parsed.command
        return command(parsed)
    except FedsimError as error:
        return _fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt as interrupt:
        go_on = f"; to go on, type: fedsim run --resume {interrupt}" if str(interrupt) else ""
        return _fail(f"interrupted{go_on}", EXIT_INTERRUPTED, verbose)
    except BrokenPipeError:  # `fedsim ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        text = f"{type(error).__name__}: {error}\na fault in fedsim or in a plugin; -v shows where"
        return _fail(text, EXIT_RUN_FAILED, verbose)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Where the plain KeyboardInterrupt leaves an `exec` of a string (SciPy runs many on import),
    Python 3.11 ends the process by SIGINT at exit although it was caught; a subclass escapes that.
    """


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupt


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; overrides may stand before, between and after options."""
    parser, verbs = _parser()
    first = arguments[0] if arguments else ""
    if first and not first.startswith("-") and first not in verbs:
        raise InputError(
            f"there is no verb {first!r}{nearest(first, verbs)}", hint="type: fedsim --help"
        )
    parsed, rest = parser.parse_known_args(arguments)
    if "overrides" in parsed:
        parsed.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        raise InputError(f"not understood: {' '.join(rest)}", hint="type: fedsim --help")
    return parsed


def _fail(text: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
    return code


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the verbs it knows."""
    parser = _Parser(
        prog="fedsim",
        description="Federated and privacy-preserving learning in medical imaging, simulated.",
    )
    parser.add_argument("--version", action="version", version=f"fedsim {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        return one

    one = verb("ls", _ls, "List the shipped scenarios.")
    one.add_argument("pattern", nargs="?", default="*", help="such as 'isic_*'")

    one = verb("show", _show, "Print a shipped scenario.")
    one.add_argument("name")

    one = verb("cp", _cp, "Copy a shipped scenario to a file of your own.")
    one.add_argument("name")
    one.add_argument("file", type=Path)

    one = verb("check", _check, "Validate a scenario and run one tiny round.")
    _scenario_arguments(one)

    one = verb("run", _run, "Run a scenario.")
    _scenario_arguments(one, required=False)
    one.add_argument("--backend", choices=("inline", "ray"), help="where clients run")
    one.add_argument("--workers", type=int, metavar="N", help="clients that run at a time")
    one.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    one.add_argument(
        "--dry-run", action="store_true", help="print rounds, megabytes and rough time"
    )
    one.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run folder")
    one.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")

    one = verb("compare", _compare, "Print the table of several runs.")
    one.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or runs/<scenario>")

    one = verb("data", _data, "Show or prepare data: status | prepare NAME | show NAME.")
    one.add_argument("what", choices=("status", "prepare", "show"))
    _scenario_arguments(one, required=False)
    one.add_argument("--out", type=Path, metavar="FILE", help="picture of `show`")

    one = verb("plugins", _plugins, "List the plugins that scenarios can name.")
    one.add_argument("--json", action="store_true", help="as JSON")

    return parser, sorted(verbs.choices)


def _scenario_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    nargs = None if required else "?"
    parser.add_argument("name", nargs=nargs, metavar="NAME|FILE", help="`fedsim ls` lists names")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="such as rounds=3")
    parser.add_argument("--seed", type=int, metavar="K", help="only this seed")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks, Ray's output")


def _load(arguments: argparse.Namespace) -> Scenario:
    if arguments.name is None:
        raise InputError("which scenario?", hint="type: fedsim ls")
    if "=" in arguments.name:
        raise InputError(
            f"the scenario's name comes first, before {arguments.name!r}", hint="type: fedsim ls"
        )
    from fedsim.scenario import load

    return load(arguments.name, [*arguments.overrides, *_resources(arguments)], arguments.seed)


def _resources(arguments: argparse.Namespace) -> list[str]:
    """The overrides that --backend and --workers stand for."""
    options = {"backend": None, "workers": None} | vars(arguments)
    return [f"resources.{k}={options[k]}" for k in ("backend", "workers") if options[k] is not None]


def _ls(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    names = [name for name in scenario.names() if fnmatch(name, arguments.pattern)]
    if not names:
        raise InputError(
            f"no scenario fits {arguments.pattern!r}{nearest(arguments.pattern, scenario.names())}"
        )
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {scenario.headline(name)}")
    return EXIT_DONE


def _show(arguments: argparse.Namespace) -> int:
    from fedsim import scenario

    print(scenario.source(arguments.name), end="")
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
    print(f"{arguments.file}: edit it, then type: fedsim run {_as_typed(arguments.file)}")
    return EXIT_DONE


def _as_typed(file: Path) -> str:
    return str(file) if file.suffix in (".yaml", ".yml") else f"./{file}"


def _check(arguments: argparse.Namespace) -> int:
    scenario = _load(arguments)
    from fedsim.api import estimate
    from fedsim.console import Console

    estimate(scenario, scenario.seeds[0], Console(verbose=arguments.verbose), steps=1)
    print(f"{scenario.name}: valid, and one tiny round of it runs")
    return EXIT_DONE


def _run(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    scenario = _load(arguments)
    from fedsim import api
    from fedsim.console import Console
    from fedsim.report.text import closing_lines

    console = Console(quiet=arguments.quiet, verbose=arguments.verbose)
    if arguments.dry_run:
        cost = api.estimate(scenario, scenario.seeds[0], console)
        seeds = len(scenario.seeds)
        print(
            f"{scenario.name}: {cost.rounds} round(s), up {cost.mb_up:.3f} MB, "
            f"down {cost.mb_down:.3f} MB, roughly {_duration(cost.seconds)} on this machine "
            f"({cost.workers} client(s) at a time)" + (f", for each of {seeds} seeds" * (seeds > 1))
        )
        return EXIT_DONE
    for seed in scenario.seeds:
        result = api.execute(scenario, seed, arguments.runs, console)
        for line in closing_lines(result.summary, result.folder):
            console.line(line)
    return EXIT_DONE


def _resume(arguments: argparse.Namespace) -> int:
    from fedsim.runfolder import RunFolder

    words = [word for word in [arguments.name, *arguments.overrides] if word is not None]
    names = [word for word in words if "=" not in word]
    resources = [word for word in words if "=" in word] + _resources(arguments)
    record = RunFolder.open(arguments.resume).read_json("run.json")
    if names not in ([], [record["scenario"]]):
        raise InputError(
            f"{arguments.resume} is a run of {record['scenario']}, not of {' '.join(names)}",
            hint=f"type: fedsim run --resume {arguments.resume}",
        )
    if arguments.seed not in (None, record["seed"]):
        raise InputError(f"{arguments.resume} is a run of seed {record['seed']}")
    from fedsim import api
    from fedsim.console import Console
    from fedsim.report.text import closing_lines

    console = Console(quiet=arguments.quiet, verbose=arguments.verbose)
    result = api.resume(arguments.resume, resources, console)
    for line in closing_lines(result.summary, result.folder):
        console.line(line)
    return EXIT_DONE


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _compare(arguments: argparse.Namespace) -> int:
    from fedsim.report.compare import find_runs, rows_of, table

    rows, left_out = rows_of(find_runs(arguments.runs))
    print(table(rows))
    for line in left_out:
        print(line, file=sys.stderr)
    return EXIT_DONE


def _data(arguments: argparse.Namespace) -> int:
    from fedsim.report import data as report

    if arguments.what == "status":
        print("\n".join(report.status_lines()))
        return EXIT_DONE
    scenario = _load(arguments)
    from fedsim.console import Console
    from fedsim.federation import build_federation, open_store
    from fedsim.scenario import activate_plugins

    activate_plugins(scenario)
    console = Console()
    if arguments.what == "prepare":
        store = open_store(scenario, console.preparing)
        print("\n".join(report.store_lines(scenario.data.name, store)))
        return EXIT_DONE
    seed = scenario.seeds[0]
    federation = build_federation(scenario, seed, console.preparing)
    print("\n".join(report.store_lines(scenario.data.name, federation.store)))
    print("\n".join(report.class_lines(federation)))
    out = arguments.out or Path(f"{scenario.name}-partition.png")
    report.save_partition(federation, scenario, seed, out)
    print(f"picture: {out}")
    return EXIT_DONE


def _plugins(arguments: argparse.Namespace) -> int:
    from fedsim.registry import default_registry

    found = [
        {
            "group": plugin.group,
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "value": plugin.value,
            "summary": plugin.summary,
        }
        for plugin in default_registry().plugins()
    ]
    if arguments.json:
        print(json.dumps(found, indent=2))
        return EXIT_DONE
    width = max((len(plugin["name"]) for plugin in found), default=0)
    group = None
    for plugin in found:
        if plugin["group"] != group:
            group = plugin["group"]
            print(f"{group}:")
        owner = f" [{plugin['distribution']} {plugin['version']}]"
        mine = plugin["distribution"] == "fedsim-medical"
        print(f"  {plugin['name']:<{width}}  {plugin['summary']}{'' if mine else owner}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
