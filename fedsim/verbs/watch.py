"""`fedsim watch`: what runs are doing, live in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.verbs import Verbs, require_whole

if TYPE_CHECKING:
    from rich.console import Console

    from fedsim.report.watching import State, Watch

    Seen = tuple[list[State], list[Problem]]

_LINES_AROUND = 6  # of a frame, beside its rows
_PATIENCE_SECONDS = 30.0  # between two cells of a sweep nothing runs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "watch", _watch, "Watch runs live: progress, time left, scores, epsilon, memory."
    )
    one.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run, a folder of runs, a sweep's runs/sweeps/<time>.json; default: runs",
    )
    one.add_argument("--once", action="store_true", help="print how it stands now, and end")
    one.add_argument(
        "--every", type=float, default=1.0, metavar="S", help="seconds between looks; default: 1"
    )


def _watch(arguments: argparse.Namespace) -> int:
    if not 0.1 <= arguments.every <= 3600:
        raise InputError(f"--every {arguments.every:g}: expected 0.1 to 3600 seconds")
    from rich.console import Console

    from fedsim.report.watching import Watch, frame

    places = arguments.runs or [Path("runs")]
    watch = Watch()
    width = shutil.get_terminal_size((120, 24)).columns
    out = Console(highlight=False, width=width)
    states, damaged = _look(watch, places)
    if arguments.once:
        out.print(frame(states, width))
    else:
        draw = _live if out.is_terminal else _lines
        damaged = draw(watch, places, out, (states, damaged), arguments.every)
    require_whole(damaged)
    return EXIT_DONE


def _look(watch: Watch, places: list[Path]) -> Seen:
    from fedsim.report.rows import find_runs

    damaged: list[Problem] = []
    return watch.look(find_runs(places, damaged), damaged), damaged


def _live(
    watch: Watch, places: list[Path], out: Console, seen: Seen, every: float
) -> list[Problem]:
    """Draw the frame anew until nothing runs any more, or Ctrl-C; what was damaged at the end."""
    from rich.live import Live

    from fedsim.report.watching import frame

    (states, damaged), idle = seen, _Idle(places)
    with contextlib.suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
        while True:
            told = "" if idle.running(states) else "nothing runs now; Ctrl-C ends"
            rows = out.size.height - _LINES_AROUND
            live.update(frame(states, out.size.width, rows, told), refresh=True)
            if idle.ended(states):
                live.update(frame(states, out.size.width, rows), refresh=True)
                break
            time.sleep(every)
            states, damaged = _look(watch, places)
    return damaged


def _lines(
    watch: Watch, places: list[Path], out: Console, seen: Seen, every: float
) -> list[Problem]:
    """Where no terminal is, print a frame whenever a run has got on."""
    from fedsim.report.watching import frame

    (states, damaged), idle = seen, _Idle(places)
    before: object = None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            stand = {(one.path, one.status, one.round) for one in states}
            if stand != before:
                out.print(frame(states, out.width))
            if idle.ended(states):
                break
            before = stand
            time.sleep(every)
            states, damaged = _look(watch, places)
    return damaged


class _Idle:
    """Knows when nothing will run any more, as far as one can see."""

    def __init__(self, places: list[Path]) -> None:
        self._several = not all((place / "run.json").is_file() for place in places)
        self._ran = False
        self._last = time.monotonic()

    def running(self, states: list[State]) -> bool:
        return any(one.running for one in states)

    def ended(self, states: list[State]) -> bool:
        """Whether nothing runs, and no sweep seems to be between two of its cells."""
        if self.running(states):
            self._ran, self._last = True, time.monotonic()
            return False
        patience = _PATIENCE_SECONDS if self._ran and self._several else 0.0
        return time.monotonic() - self._last >= patience
