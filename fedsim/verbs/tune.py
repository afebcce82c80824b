"""`fedsim tune`: look for good values of keys, by scores on the validation split alone."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from fedsim.files import seen_from
from fedsim.terminal.completion import by_name
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, require_whole, resource_overrides
from fedsim.verbs.cells import (
    cell_arguments,
    name_argument,
    print_forecast,
    require_name,
    sources_and_words,
)

if TYPE_CHECKING:
    from fedsim.api.tuning import PreparedTuning
    from fedsim.terminal.console import Console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "tune",
        _tune,
        "Try values of keys in many runs, and name the best; scores are of the validation split.",
    )
    words = one.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME|FILE|key=value",
        help="a scenario, overrides, and what to try, such as "
        "client.learning_rate='log(1e-4,1e-1)', client.momentum='uniform(0,0.9)', "
        "client.epochs='int(1,5)', client.batch_size='choice(16,32)'",
    )
    by_name(words)
    one.add_argument(
        "--metric", metavar="NAME", help="default: val_ and the task's headline, such as val_auc"
    )
    one.add_argument("--trials", type=int, default=30, metavar="N", help="default: 30")
    one.add_argument(
        "--batch", type=int, default=4, metavar="N", help="trials chosen at a time; default: 4"
    )
    one.add_argument(
        "--sampler",
        choices=("tpe", "random", "sobol"),
        default="tpe",
        help="tpe learns from the trials before, sobol spreads a few evenly; default: tpe",
    )
    one.add_argument(
        "--no-early-stop", action="store_true", help="let trials end that are clearly worse"
    )
    one.add_argument(
        "--random-stopping",
        choices=("geometric", "logarithmic", "poisson"),
        metavar="HOW",
        help="of private runs: a random number of trials with the mean --trials (geometric, "
        "logarithmic, poisson), so that choosing the best is certified",
    )
    one.add_argument("--seed", type=int, metavar="K", help="default: the scenario's first")
    name_argument(one, "tuning", "the scenario")
    cell_arguments(one)


def _tune(arguments: argparse.Namespace) -> int:
    sources, words = sources_and_words(arguments.overrides)
    if len(sources) != 1:
        raise InputError(
            "which scenario?" if not sources else f"one scenario at a time, not {len(sources)}",
            hint="type: fedsim ls",
        )
    require_name(arguments)
    from fedsim.api.tuning import Wanted, prepared_tuning
    from fedsim.terminal.console import Console

    console = Console(quiet=arguments.quiet)
    prepared = prepared_tuning(
        sources[0],
        words,
        Wanted(
            arguments.metric,
            arguments.trials,
            arguments.batch,
            arguments.sampler,
            not arguments.no_early_stop,
            arguments.random_stopping,
            arguments.seed,
        ),
        resource_overrides(arguments),
        arguments.runs,
        console,
        name=arguments.name,
        jobs=arguments.jobs,
        verbose=arguments.verbose,
    )
    tuning = prepared.tuning
    if prepared.charge is not None:
        console.line(prepared.charge.line())
    if arguments.dry_run:
        tuning.choose()
        print_forecast(tuning)
        say(f"the first {len(tuning.trials)} of {tuning.plan.count} trials")
        return EXIT_DONE
    code = tuning.run()
    _tell(prepared, console)
    if code == EXIT_INTERRUPTED:
        ended = sum(one.status != "waiting" for one in tuning.trials)
        say(
            f"error: interrupted, {ended} of {tuning.plan.count} trials ended; "
            "to go on, type the same command again",
            file=sys.stderr,
        )
    else:
        require_whole(list(tuning.damaged))
    return code


def _tell(prepared: PreparedTuning, console: Console) -> None:
    """Print the table, the best line, and what was written; the failed trials as errors."""
    from fedsim.tuning.outcome import best_command, table

    tuning = prepared.tuning
    for trial in tuning.trials:
        if trial.status == "failed":
            say(f"failed: {' '.join(trial.words)}: {trial.error}", file=sys.stderr)
    ended = [one for one in tuning.trials if one.status != "waiting"]
    if not ended:
        if not tuning.plan.count:
            console.line("the random number of trials is 0: nothing is run, and nothing published")
        return
    console.line()
    console.line(table(tuning))
    best = tuning.best
    if best is not None:
        assert best.score is not None
        console.line()
        console.line(f"best: trial {best.number}, {tuning.plan.text(best.score)}; to run it, type:")
        console.line(best_command(tuning))
    if prepared.charge is not None:
        if best is not None and best.entry is not None and best.entry.folder is not None:
            run = seen_from(console.here, best.entry.folder)
            console.line(
                f"or take the model of {run}: a run of the same values is one release more"
            )
        console.line(prepared.charge.line())
    console.line(f"written: {seen_from(console.here, prepared.folder / 'trials.csv')}")
    console.line(f"page: {seen_from(console.here, prepared.folder / 'index.html')}")
