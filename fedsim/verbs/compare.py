"""`fedsim compare`: the table of several runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, json_argument, print_json, require_whole

if TYPE_CHECKING:
    from fedsim.report.classes import Classes
    from fedsim.report.comparison import Comparison
    from fedsim.report.matrix import Matrix
    from fedsim.report.over import Over

_FILES = ("csv", "latex", "markdown", "figure")


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("compare", _compare, "Print the table of several runs.")
    one.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run, or a folder of runs such as runs/<scenario> or a sweep's",
    )
    one.add_argument(
        "--baseline", metavar="LABEL", help="row to take differences from; default: the first"
    )
    one.add_argument(
        "--reach", type=float, metavar="X", help="MB until the test score was first X, such as 0.75"
    )
    one.add_argument(
        "--bandwidth", type=float, metavar="MBIT", help="seconds on the wire at MBIT per second"
    )
    one.add_argument(
        "--latency", type=float, metavar="MS", help="milliseconds a message, with --bandwidth"
    )
    one.add_argument("--sites", action="store_true", help="the score on each site's test records")
    one.add_argument(
        "--paths", action="store_true", help="show absolute paths whole, not only how they end"
    )
    one.add_argument(
        "--columns",
        metavar="A,B",
        help="only these, in this order, such as auc,mb_up_total,epsilon",
    )
    one.add_argument(
        "--names",
        nargs="+",
        action="extend",
        metavar="OLD=NEW",
        help="other names for rows, scenarios or titles, such as isic_noniid_gdd=GDD",
    )
    one.add_argument(
        "--over",
        metavar="KEY",
        help="with --figure: what the horizontal axis is, such as data.split.fraction, mb_up_total",
    )
    matrix_argument(one)
    one.add_argument(
        "--classes",
        action="store_true",
        help="with --figure: the recall of each class over its training images",
    )
    json_argument(one)
    one.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw the score over --over, --matrix, or --classes (PNG)",
    )
    one.add_argument("--csv", type=Path, metavar="FILE", help="write tidy CSV, unrounded")
    one.add_argument("--latex", type=Path, metavar="FILE", help="write a LaTeX table (booktabs)")
    one.add_argument("--markdown", type=Path, metavar="FILE", help="write a Markdown table")


def _compare(arguments: argparse.Namespace) -> int:
    from fedsim.api.comparing import compared, unsound

    problems = unsound(arguments.reach, arguments.bandwidth, arguments.latency)
    for name in _FILES:
        path = getattr(arguments, name)
        if path is not None and path.is_dir():
            problems.append(Problem(f"--{name}", f"{path} is a folder; name a file"))
    if arguments.figure is not None and arguments.figure.suffix.lower() not in ("", ".png"):
        png = arguments.figure.with_suffix(".png")
        problems.append(Problem("--figure", f"a figure is a PNG; name it {png}"))
    problems += _twice(
        [(f"--{name}", path) for name in _FILES if (path := getattr(arguments, name))]
    )
    shown = {
        "--over": arguments.over is not None,
        "--matrix": arguments.matrix is not None,
        "--classes": arguments.classes,
    }
    asked = [name for name, given in shown.items() if given]
    if len(asked) > 1:
        problems.append(Problem(asked[1], f"does not go with {asked[0]}"))
    elif arguments.over is not None and arguments.figure is None:
        problems.append(Problem("--over", "goes with --figure"))
    elif arguments.classes and arguments.figure is None:
        problems.append(Problem("--classes", "goes with --figure"))
    elif arguments.figure is not None and not asked:
        problems.append(Problem("--figure", "goes with --over, --matrix or --classes"))
    problems += require_matrix(arguments)
    if problems:
        raise InputError("the options do not fit", problems, hint="type: fedsim compare --help")
    damaged: list[Problem] = []
    tables = (arguments.json, arguments.csv, arguments.latex, arguments.markdown)
    comparison = compared(
        arguments.runs,
        damaged,
        baseline=arguments.baseline,
        reach=arguments.reach,
        bandwidth=arguments.bandwidth,
        latency=arguments.latency,
        sites=arguments.sites,
        paths=arguments.paths,
        columns=None if arguments.columns is None else arguments.columns.split(","),
        names=_names(arguments.names or ()),
        # A matrix shows means and their spread alone.
        intervals=arguments.matrix is None or any(tables),
    )
    figure = _figure(arguments, comparison)
    if arguments.json:
        print_json(comparison.record())
    elif arguments.matrix is not None:
        say(matrix_text(cast("Matrix", figure), arguments.tests))
    else:
        say(comparison.text(shutil.get_terminal_size((120, 24)).columns))
    for line in comparison.left_out:
        say(line, file=sys.stderr)
    _write(arguments, comparison, figure)
    require_whole(damaged)
    return EXIT_DONE


def _twice(places: Sequence[tuple[str, Path]]) -> list[Problem]:
    """Options that name one file: the second table would be written over the first."""
    return [
        Problem(name, f"{path} is the file of {other}, too")
        for i, (name, path) in enumerate(places)
        for other, before in places[:i]
        if os.path.realpath(path) == os.path.realpath(before) and not path.is_char_device()
    ]


def _names(words: Sequence[str]) -> dict[str, str]:
    """OLD=NEW; a label has "=" of its own, so it is the last one that divides."""
    problems = [
        Problem("--names", f"{word!r}: expected OLD=NEW") for word in words if "=" not in word
    ]
    if problems:
        raise InputError("the options do not fit", problems, hint="such as: --names a_run=Ours")
    parts = [word.rpartition("=") for word in words]
    return {old.strip(): new.strip() for old, _, new in parts}


def matrix_argument(one: argparse.ArgumentParser) -> None:
    """Add --matrix."""
    one.add_argument(
        "--matrix",
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="the score over two keys, such as: --matrix adversary strategy",
    )
    one.add_argument(
        "--tests",
        action="store_true",
        help="with --matrix: paired t-tests of the columns of each row, Holm-corrected",
    )


def require_matrix(arguments: argparse.Namespace) -> list[Problem]:
    """What is wrong with --tests beside the other options."""
    if arguments.tests and arguments.matrix is None:
        return [Problem("--tests", "goes with --matrix")]
    return []


def matrix_text(found: Matrix, tests: bool) -> str:
    """A matrix as it is printed; with its tests, if asked."""
    if not tests:
        return str(found)
    from fedsim.report.paired_tests import paired_tests, told

    return f"{found}\n\n{told(found, paired_tests(found))}"


def _figure(
    arguments: argparse.Namespace, comparison: Comparison
) -> Over | Matrix | Classes | None:
    """What the score is shown over, if it was asked for."""
    if arguments.classes:
        from fedsim.report.classes import classes

        return classes(comparison)
    if arguments.matrix is not None:
        from fedsim.report.matrix import matrix

        rows, columns = arguments.matrix
        return matrix(comparison, rows, columns, arguments.columns)
    if arguments.over is not None:
        from fedsim.report.over import over

        return over(comparison, arguments.over)
    return None


def _write(
    arguments: argparse.Namespace,
    comparison: Comparison,
    figure: Over | Matrix | Classes | None,
) -> None:
    """Write the files that were asked for."""
    from fedsim.folder.runfolder import write_named

    def drawn() -> bytes:
        from fedsim.report import classes, matrix, over

        assert figure is not None
        if isinstance(figure, classes.Classes):
            return classes.picture(figure).png
        if isinstance(figure, over.Over):
            return over.picture(figure).png
        return matrix.picture(figure).png

    formats: dict[str, Callable[[], bytes]] = {
        "csv": lambda: comparison.csv().encode(),
        "latex": lambda: comparison.latex().encode(),
        "markdown": lambda: comparison.markdown().encode(),
        "figure": drawn,
    }
    for name in _FILES:
        path = getattr(arguments, name)
        if path is None:
            continue
        try:
            write_named(path, formats[name]())
        except OSError as error:
            raise InputError(f"--{name} {path}: cannot be written: {error.strerror}") from error
        say(f"written: {path}", file=sys.stderr if arguments.json else None)
