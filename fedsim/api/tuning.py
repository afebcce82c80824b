"""Tuning: what `fedsim tune` and the league do, with objects to go on with."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.api.studies import require_jobs
from fedsim.errors import InputError, Problem
from fedsim.federation.opening import dataset_of, task_of
from fedsim.files import file_name
from fedsim.folder.identity import edited
from fedsim.folder.runfolder import missing_of
from fedsim.folder.tuned import ABOUT
from fedsim.privacy.selection import Stopping, draw_runs
from fedsim.randomness import Streams, as_int
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.sweeping.cells import fetch_weights, fingerprints, plan, record_of, require_number
from fedsim.tasks.metric import Metric
from fedsim.terminal.console import Console
from fedsim.tuning.charge import cost_of_a_trial
from fedsim.tuning.outcome import Charge, require_own_folder, trials_before, write
from fedsim.tuning.page import build_page
from fedsim.tuning.space import Choice, Dimension, changes, first_words, parse
from fedsim.tuning.study import Sampler, Study, require_optuna
from fedsim.tuning.trials import VALIDATED, Plan, Tuning

TRIALS = 30
"""Of a tuning for which no number was chosen."""
BATCH = 4
"""Trials that are chosen at a time."""

_LoadWith = Callable[[Sequence[str]], Scenario]


@dataclass(frozen=True)
class Wanted:
    """How a tuning is made.

    Attributes:
        metric: "val_" and the task's headline; None: that one.
        trials: how many; with `stopping`, in the mean.
        batch: trials that are chosen at a time.
        sampler: how values are chosen.
        stop_early: stop trials that are clearly worse.
        stopping: distribution of a random number of trials; None: it is no random number.
        seed: of the trials, and of the choice of values; None: the scenario's first.
    """

    metric: str | None = None
    trials: int = TRIALS
    batch: int = BATCH
    sampler: Sampler = "tpe"
    stop_early: bool = True
    stopping: Stopping | None = None
    seed: int | None = None

    @property
    def chosen_by(self) -> Sampler:
        """How values are chosen; those of a random number of trials depend on no trial before."""
        return self.sampler if self.stopping is None else "random"

    @property
    def stops(self) -> bool:
        """Whether trials are stopped early; none of a random number is."""
        return self.stop_early and self.stopping is None

    def count(self, seed: int) -> int:
        """How many trials there are; a random number of them is drawn by the seed."""
        if self.stopping is None:
            return self.trials
        return draw_runs(self.stopping, self.trials, Streams(seed).numpy("tuning-trials"))

    def require(self) -> None:
        """Raise InputError unless the numbers make sense."""
        problems = []
        if self.trials < 1:
            problems.append(Problem("--trials", f"{self.trials}: expected at least 1"))
        if self.batch < 1:
            problems.append(Problem("--batch", f"{self.batch}: expected at least 1"))
        if self.seed is not None and self.seed < 0:
            problems.append(Problem("--seed", f"{self.seed} is below 0"))
        if self.stopping is not None and self.trials < 2:
            problems.append(Problem("--trials", "a random number of trials has a mean above 1"))
        if problems:
            raise InputError("the options do not fit", problems, hint="type: fedsim tune --help")
        require_number(self.trials)


@dataclass(frozen=True)
class PreparedTuning:
    """A tuning that can be run.

    Attributes:
        tuning: its trials; `run` runs them.
        charge: what it costs in privacy; None where the trials are not private.
        folder: where trials.csv, tuning.json and index.html are written.
    """

    tuning: Tuning
    charge: Charge | None
    folder: Path


def prepared_tuning(
    source: str,
    words: Sequence[str],
    wanted: Wanted,
    common: Sequence[str],
    runs: Path,
    console: Console,
    *,
    name: str | None = None,
    jobs: int | None = None,
    verbose: bool = False,
) -> PreparedTuning:
    """Everything that a tuning needs, validated, with the data prepared.

    Args:
        source: the scenario's name or file.
        words: "key=value" words; some of them are what is tuned, see `fedsim.tuning.space`.
        wanted: how.
        common: words of resources.
        runs: the folder of runs; the trials lie in `runs/tuning/<name>/trials`.
        name: of the folder; None: the scenario's.

    Raises:
        InputError: with what is wrong; or Optuna is not installed.
    """
    require_optuna()
    require_jobs(jobs)
    wanted.require()
    space, fixed = parse(words)
    if any(word.partition("=")[0].strip() == VALIDATED.partition("=")[0] for word in fixed):
        raise InputError(f"a tuning sets {VALIDATED} itself", hint="leave it out")

    def load_with(more: Sequence[str]) -> Scenario:
        return load(source, [*fixed, *more, VALIDATED, *common])

    first = _checked(space, load_with)
    activate_plugins(first)
    metric, measured = _metric(first, wanted)
    seed = first.seeds[0] if wanted.seed is None else wanted.seed
    count = wanted.count(seed)
    cells = plan([source], [*fixed, VALIDATED], [seed], [*first_words(space), *common])
    fetch_weights(cells, console.line)
    data = fingerprints(cells, console.preparing)
    folder = runs / "tuning" / file_name(name or first.name)
    paid = _paid(first, folder, count, wanted)
    charge = _charge(space, load_with, seed, count, paid, wanted, console)
    what = Plan(
        source=source,
        words=tuple(fixed),
        common=tuple(common),
        seed=seed,
        own_seeds=wanted.stopping is not None,
        count=count,
        batch=count if wanted.stopping else wanted.batch,
        metric=metric,
        measured=measured,
        best_round=first.evaluation.select == "pooled_val",
    )
    settings: dict[str, Any] = {
        "sampler": wanted.chosen_by,
        "stop_early": wanted.stops,
        "privacy": None if charge is None else charge.record(),
    }
    other = require_own_folder(what, space, settings, folder)
    if other:
        console.line(other)
    # Before the first batch, too: what lies there is of another tuning, or nothing does.
    at_once = bool(other) or not (folder / ABOUT).exists()

    def write_down(now: Tuning) -> None:
        if now.trials or at_once:
            write(now, space, settings, build_page(now, space, charge), folder)

    study = Study(
        space,
        measured.better,
        as_int(Streams(seed).sequence("tuning-values")) % 2**32,
        wanted.chosen_by,
        max(1, first.rounds // 4) if wanted.stops else None,
    )
    tuning = Tuning(what, study, data, folder / "trials", console, jobs, verbose, write_down)
    return PreparedTuning(tuning, charge, folder)


def _checked(space: Sequence[Dimension], load_with: _LoadWith) -> Scenario:
    """The scenario with the first values, where each value is right with the first of the others.

    Raises:
        InputError: with all that is wrong.
    """
    first = first_words(space)
    scenario = load_with(first)
    problems: list[Problem] = []
    for position, one in enumerate(space):
        for value in one.values[1:] if isinstance(one, Choice) else one.ends[1:]:
            words = [*first[:position], f"{one.key}={value}", *first[position + 1 :]]
            try:
                other = load_with(words)
            except InputError as error:
                problems += error.problems or [Problem(one.key, error.headline)]
            else:
                if why := changes(scenario, other):
                    problems.append(Problem(one.key, f"with {value} {why}"))
    if problems:
        lines = list(dict.fromkeys(problems))
        raise InputError("the values to try are wrong", lines, hint="type: fedsim tune --help")
    return scenario


def _metric(scenario: Scenario, wanted: Wanted) -> tuple[str, Metric]:
    """Name of the score, and the metric that it is."""
    task = task_of(dataset_of(scenario), scenario)
    name = f"val_{task.headline}"
    if wanted.metric not in (None, name):
        known = [one.name for one in task.metrics]
        base = str(wanted.metric).removeprefix("test_").partition("@")[0]
        test = base in known or str(wanted.metric).startswith(("test_", "external_"))
        why = "is of test records, which tuning never looks at" if test else "is not there"
        raise InputError(
            f"--metric {wanted.metric}: {why}; the validation split has {name}",
            hint=f"type: --metric {name}",
        )
    return name, next(one for one in task.metrics if one.name == task.headline)


def _charge(
    space: Sequence[Dimension],
    load_with: _LoadWith,
    seed: int,
    count: int,
    paid: int,
    wanted: Wanted,
    console: Console,
) -> Charge | None:
    """What the tuning costs in privacy; None where its trials are not private.

    Args:
        count: trials.
        paid: those that are paid for where all are published.

    Raises:
        InputError: a random number of trials was asked for, and does not make it cheaper.
    """
    seeds = [seed]
    if wanted.stopping is not None:
        seeds = list(range(seed, seed + max(count, 1)))
    cost = cost_of_a_trial(space, load_with, seeds, console.preparing)
    if wanted.stopping is not None:
        if cost is None:
            raise InputError(
                "--random-stopping: the runs are not private, so there is nothing to certify",
                hint="leave it out, or give the scenario a privacy block",
            )
        if cost.curve is None:
            raise InputError(f"--random-stopping: {cost.why}")
        if cost.differs:
            raise InputError(
                "--random-stopping: what a trial costs depends on its seed, because the partition "
                "does, so the trials are not repetitions of one another",
                hint="type a partition that does not, such as: "
                "federation.partition=iid, natural, or {name: table, column: NAME}",
            )
    if cost is None:
        return None
    return Charge(cost, paid if wanted.stopping is None else wanted.trials, wanted.stopping)


def _paid(scenario: Scenario, folder: Path, count: int, wanted: Wanted) -> int:
    """Trials that are paid for where all are published: those of the folder count, too.

    Raises:
        InputError: as of `_run_anew`.
    """
    if scenario.privacy is None:
        return count
    return max(count, trials_before(folder)) + _run_anew(scenario, folder, wanted)


def _run_anew(scenario: Scenario, folder: Path, wanted: Wanted) -> int:
    """Trials that are run anew with other noise: releases that are paid for, too.

    They failed, or their run folder is gone or damaged.

    Raises:
        InputError: of a random number of trials each is run once.
    """
    assert scenario.privacy is not None
    if scenario.privacy.noise == "seeded":  # The same noise: nothing is told that was not.
        return 0
    runs = folder / "trials" / scenario.name
    lost = sum(not (runs / name).is_dir() for name in _run_folders(folder))
    failed = sum(_is_run_anew(place) for place in runs.glob("*/"))
    if (failed or lost) and wanted.stopping is not None:
        raise InputError(
            f"--random-stopping: {failed + lost} of the trials in {folder} failed, or their run "
            "folders are damaged or gone; run anew they have other noise, and are more trials than "
            "were drawn",
            hint="mend what failed, and begin again: --name NAME",
        )
    return failed + lost


def _run_folders(folder: Path) -> set[str]:
    """Names of the run folders that the trials.csv of a folder tells of; {} where there is none."""
    try:
        with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
            return {Path(row["run"]).name for row in csv.DictReader(file) if row.get("run")}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{folder / 'trials.csv'} cannot be read: {error}", hint="begin again: --name NAME"
        ) from error


def _is_run_anew(place: Path) -> bool:
    """Whether what lies in a run folder does not stand for its trial."""
    if place.is_symlink() or not ((place / "run.json").is_file() or missing_of(place)):
        return False
    record, wrong = record_of(place)
    return bool(wrong) or record["status"] == "failed" or bool(edited(place, record))
