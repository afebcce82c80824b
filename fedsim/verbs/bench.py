"""`fedsim bench`: measurements of fedsim itself."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from fedsim.errors import EXIT_DONE, InputError, Problem
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs

WHAT = ("engine", "transport", "segmentation", "distil", "privacy", "memory", "scale")
# The work of those that are measured as rounds; of `engine` there is a choice.
_ROUNDS = {
    "engine": ("cnn-10", "cnn-100", "cnn-1000", "small-100", "resnet18-10"),
    "transport": ("transport-100",),
    "segmentation": ("unet-4",),
}
_TINY = {"engine": "tiny", "transport": "tiny-transport", "segmentation": "tiny-unet"}

_USUAL: dict[str, Any] = {
    "rounds": 3,
    "work": _ROUNDS["engine"],
    "rows": (
        *("raw-1x2", "raw-2x1", "inline-1", "inline-2", "fast-1", "fast-2", "ray", "ray-fast"),
        *("flower", "pfl-1x2"),
    ),
    "turns": 3,
    "sizes": ("32", "64", "224"),
    "long": 30,
    "models": ("cnn", "resnet9", "resnet18", "unet"),
    "threads": [1],
    "batch": [64],
    "seconds": 2.0,
    "repetitions": 5,
}
"""What an option is where it is not given."""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    about = (
        "Measure fedsim itself: a round's time, memory, many clients, or the speed of distillation "
        "or of privacy."
    )
    one = verbs.add("bench", _bench, about)
    one.add_argument("what", choices=WHAT)
    one.add_argument(
        "--out", type=Path, default=Path("bench"), metavar="DIR", help="default: bench"
    )
    one.add_argument("--rounds", type=int, metavar="N", help="of each run; default: 3")
    one.add_argument("--tiny", action="store_true", help="hardly any work, to see that it runs")
    engine = one.add_argument_group("engine; transport, segmentation (rows and turns)")
    engine.add_argument(
        "--work", nargs="+", choices=_USUAL["work"], help="model and number of clients"
    )
    engine.add_argument("--rows", nargs="+", choices=_USUAL["rows"], help="who runs")
    engine.add_argument("--turns", type=int, metavar="N", help="that the rows take; default: 3")
    distil = one.add_argument_group("distil", "takes --turns, too")
    distil.add_argument("--sizes", nargs="+", choices=_USUAL["sizes"], help="of images, px")
    memory = one.add_argument_group("memory")
    memory.add_argument(
        "--clients", type=int, nargs="+", metavar="N", help="federations, here and of scale"
    )
    memory.add_argument(
        "--long", type=int, metavar="N", help="rounds of a further run of 10 clients"
    )
    privacy = one.add_argument_group("privacy")
    privacy.add_argument("--models", nargs="+", choices=_USUAL["models"])
    privacy.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="such as 1 2; default: 1"
    )
    privacy.add_argument("--batch", type=int, nargs="+", metavar="N", help="such as 64 256")
    privacy.add_argument("--seconds", type=float, metavar="S", help="of each measurement")
    privacy.add_argument("--repetitions", type=int, metavar="N", help="measurements of each")


# Option -> the measurements that take it; what is not here all take.
_TAKES = {
    "work": ("engine",),
    "rows": tuple(_ROUNDS),
    "turns": (*_ROUNDS, "distil"),
    "sizes": ("distil",),
    "clients": ("memory", "scale"),
    "long": ("memory",),
    "models": ("privacy",),
    "threads": ("privacy",),
    "batch": ("privacy",),
    "seconds": ("privacy",),
    "repetitions": ("privacy",),
    "rounds": (*_ROUNDS, "memory"),
}


def _require_measurable(arguments: argparse.Namespace) -> None:
    """Refuse at once what would come to light after hours, or never.

    Raises:
        InputError: an option that the measurement does not take, or a folder that cannot be used.
    """
    given = [name for name in _TAKES if getattr(arguments, name) is not None]
    wrong = [name for name in given if arguments.what not in _TAKES[name]]
    if wrong:
        raise InputError(
            f"fedsim bench {arguments.what} does not take all of these options",
            [Problem(f"--{name}", f"is for {' and '.join(_TAKES[name])}") for name in wrong],
            hint=f"leave {' and '.join(f'--{name}' for name in wrong)} out",
        )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or "is no folder"
        raise InputError(f"--out {arguments.out}: {why}", hint="name a folder") from error
    if not os.access(arguments.out, os.W_OK):
        raise InputError(f"--out {arguments.out}: cannot be written to", hint="name another folder")


def _bench(arguments: argparse.Namespace) -> int:
    _require_measurable(arguments)
    for name, usual in _USUAL.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, usual)
    what = arguments.what
    if what in _ROUNDS:
        from fedsim.engine.speed import engine

        work = arguments.work if what == "engine" else _ROUNDS[what]
        work = (_TINY[what],) if arguments.tiny else work
        often = (arguments.rounds, arguments.turns)
        say(engine(work, arguments.rows, *often, arguments.out, what))
    elif what == "memory":
        from fedsim.engine.bench import memory

        clients = arguments.clients or ([3] if arguments.tiny else [10, 100, 1000])
        long = 0 if arguments.tiny else arguments.long
        say(memory(clients, arguments.rounds, long, arguments.out))
    elif what == "scale":
        from fedsim.engine.scale import scale

        say(scale(arguments.clients, arguments.out, tiny=arguments.tiny))
    elif what == "distil":
        from fedsim.distillation.bench import distil

        works = ("tiny",) if arguments.tiny else arguments.sizes
        say(distil(works, arguments.turns, arguments.out))
    else:
        from fedsim.privacy.bench import privacy

        given = (arguments.models, arguments.threads, arguments.batch, arguments.seconds)
        repetitions = arguments.repetitions
        if arguments.tiny:
            given, repetitions = (["cnn"], [1], [8], 0.01), 1
        say(privacy(*given, repetitions, arguments.out))
    return EXIT_DONE
