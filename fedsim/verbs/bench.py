"""`fedsim bench`: measurements of fedsim itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE
from fedsim.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add("bench", _bench, "Measure fedsim itself: memory.")
    one.add_argument("what", choices=("memory",))
    one.add_argument(
        "--clients", type=int, nargs="+", default=[10, 100, 1000], metavar="N", help="federations"
    )
    one.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each of these")
    one.add_argument(
        "--long", type=int, default=30, metavar="N", help="rounds of a further run of 10 clients"
    )
    one.add_argument(
        "--out", type=Path, default=Path("bench"), metavar="DIR", help="default: bench"
    )


def _bench(arguments: argparse.Namespace) -> int:
    from fedsim.bench import memory

    print(memory(arguments.clients, arguments.rounds, arguments.long, arguments.out))
    return EXIT_DONE
