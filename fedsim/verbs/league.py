"""`fedsim league`: tune and run methods of a file alike, and print the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED, InputError
from fedsim.terminal.printing import say
from fedsim.verbs import Verbs, resource_overrides
from fedsim.verbs.cells import cell_arguments, print_failed

if TYPE_CHECKING:
    from fedsim.terminal.console import Console
    from fedsim.tuning.league import League, Place


def add(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(
        "league",
        _league,
        "Tune and run the methods of a file alike, in several settings, and print the table.",
    )
    one.add_argument("file", type=Path, metavar="FILE", help="such as examples/league/shelf.yaml")
    one.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder of a data set, such as ham10000=DIR; may be given several times",
    )
    cell_arguments(one)


def _league(arguments: argparse.Namespace) -> int:
    from fedsim.api.studies import require_jobs
    from fedsim.tasks.words import counted
    from fedsim.terminal.console import Console
    from fedsim.tuning.league import places, read_league

    require_jobs(arguments.jobs)
    console = Console(quiet=arguments.quiet)
    league = read_league(arguments.file)
    found = places(league, _roots(arguments.data), resource_overrides(arguments))
    runs = len(found) * len(league.seeds)
    tried = sum(one.tuned for one in found) * league.trials
    if arguments.dry_run:
        for one in found:
            say(f"{one.setting} {one.method}: {' '.join(one.words)}")
    console.line(
        f"{counted(len(league.settings), 'settings')}, {counted(len(found), 'methods')} in them: "
        f"{counted(tried, 'trials')} and {counted(runs, 'runs')}, passes: {league.passes:g}"
    )
    if arguments.dry_run:
        return EXIT_DONE
    failed, finished = False, dict[tuple[str, str], list[Path]]()
    for one in found:
        code, finished[one.setting, one.method] = _one(league, one, arguments, console)
        if code == EXIT_INTERRUPTED:
            say("error: interrupted; to go on, type the same command again", file=sys.stderr)
            return code
        failed |= code != EXIT_DONE
    _tell(league, finished, arguments.runs, console)
    return EXIT_RUN_FAILED if failed else EXIT_DONE


def _roots(words: list[str]) -> dict[str, str]:
    """Folders of data sets by name."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, folder) in zip(words, pairs, strict=True):
        if not (name and equals and Path(folder).is_dir()):
            raise InputError(f"--data {word!r}: expected NAME=DIR, with the folder of a data set")
    return {name: str(Path(folder).resolve()) for name, _, folder in pairs}


def _one(
    league: League, place: Place, arguments: argparse.Namespace, console: Console
) -> tuple[int, list[Path]]:
    """Tune a method in a setting, and run its best values.

    Returns:
        The exit code, and the folders of the runs that are finished.
    """
    from fedsim.api.studies import prepared_sweep
    from fedsim.api.tuning import Wanted, prepared_tuning
    from fedsim.tuning.outcome import best_words

    common, runs = resource_overrides(arguments), arguments.runs / place.setting
    words = list(place.words)
    console.line(f"--- {place.setting}: {place.method}")
    if place.tuned:
        tuning = prepared_tuning(
            place.scenario,
            place.words,
            Wanted(trials=league.trials, sampler=league.sampler, seed=league.tuning_seed),
            common,
            runs,
            console,
            name=place.method,
            jobs=arguments.jobs,
            verbose=arguments.verbose,
        ).tuning
        code = tuning.run()
        best = best_words(tuning)
        if code == EXIT_INTERRUPTED or best is None:
            return code, []
        words = best
    sweep = prepared_sweep(
        [place.scenario],
        # A comma in a value stands for itself.
        [],
        list(league.seeds),
        [*words, *common],
        runs,
        console,
        jobs=arguments.jobs,
        verbose=arguments.verbose,
    )
    code = sweep.run()
    print_failed(sweep, code)
    return code, [one.path for one in sweep.finished()]


def _tell(
    league: League, finished: dict[tuple[str, str], list[Path]], runs: Path, console: Console
) -> None:
    """Print the table of this league's runs, and write it.

    The folders may hold others: of an earlier state of the file, with other words or seeds.

    Args:
        finished: (setting, method) -> run folders.
    """
    from fedsim.api.comparing import compared
    from fedsim.folder.runfolder import write_whole
    from fedsim.tuning.league import csv, lines, markdown, scores_of, table

    scores = []
    for setting in league.settings:
        methods = league.methods_of(setting)
        if finished[setting, league.baseline]:
            here = [folder for name in methods for folder in finished[setting, name]]
            scores += scores_of(setting, compared(here, [], baseline=league.baseline))
        else:
            console.line(f"{setting} is left out: no run of {league.baseline} is finished there")
    rows = table(scores, league.baseline)
    console.line()
    console.line(lines(rows))
    console.line(
        "* the 95 % interval of the difference, on the same seeds and records, leaves out 0\n"
        "** it does so after Holm's correction for all methods of the setting, and the difference "
        "has one sign with every seed"
    )
    for name, content in (("league.csv", csv(scores)), ("league.md", markdown(rows).encode())):
        write_whole(runs / name, content)
        console.line(f"written: {runs / name}")
