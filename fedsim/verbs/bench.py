"""`fedsim bench`: measurements of fedsim itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedsim.errors import EXIT_DONE
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
    one.add_argument("--rounds", type=int, default=3, metavar="N", help="of each run; default: 3")
    one.add_argument("--tiny", action="store_true", help="hardly any work, to see that it runs")
    engine = one.add_argument_group("engine; transport, segmentation (rows and turns)")
    works = _ROUNDS["engine"]
    engine.add_argument(
        "--work", nargs="+", default=works, choices=works, help="model and number of clients"
    )
    rows = (
        *("raw-1x2", "raw-2x1", "inline-1", "inline-2", "fast-1", "fast-2", "ray", "ray-fast"),
        *("flower", "pfl-1x2"),
    )
    engine.add_argument("--rows", nargs="+", default=rows, choices=rows, help="who runs")
    engine.add_argument("--turns", type=int, default=3, metavar="N", help="that the rows take")
    distil = one.add_argument_group("distil", "takes --turns, too")
    sizes = ("32", "64", "224")
    distil.add_argument("--sizes", nargs="+", default=sizes, choices=sizes, help="of images, px")
    memory = one.add_argument_group("memory")
    memory.add_argument(
        "--clients", type=int, nargs="+", metavar="N", help="federations, here and of scale"
    )
    memory.add_argument(
        "--long", type=int, default=30, metavar="N", help="rounds of a further run of 10 clients"
    )
    privacy = one.add_argument_group("privacy")
    models = ("cnn", "resnet9", "resnet18", "unet")
    privacy.add_argument("--models", nargs="+", default=models, choices=models)
    privacy.add_argument(
        "--threads", type=int, nargs="+", default=[1], metavar="N", help="such as 1 2; default: 1"
    )
    privacy.add_argument(
        "--batch", type=int, nargs="+", default=[64], metavar="N", help="such as 64 256"
    )
    privacy.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="of each measurement"
    )
    privacy.add_argument(
        "--repetitions", type=int, default=5, metavar="N", help="measurements of each"
    )


def _bench(arguments: argparse.Namespace) -> int:
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
