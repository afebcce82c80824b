"""`fedsim compare`: the table of several runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedsim.errors import EXIT_DONE
from fedsim.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("compare", _compare, "Print the table of several runs.")
    one.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or runs/<scenario>")


def _compare(arguments: argparse.Namespace) -> int:
    from fedsim.report.compare import find_runs, rows_of, table

    rows, left_out = rows_of(find_runs(arguments.runs))
    print(table(rows))
    for line in left_out:
        print(line, file=sys.stderr)
    return EXIT_DONE
