"""Running a scenario from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedsim.engine import estimate as _estimate
from fedsim.engine import running
from fedsim.engine.costing import Estimate
from fedsim.engine.result import Result
from fedsim.errors import InputError
from fedsim.observers.base import Observer
from fedsim.observers.standard import starter
from fedsim.scenario import Scenario, load
from fedsim.terminal.console import Console

__all__ = ["Estimate", "Result", "estimate", "execute", "resume", "run"]


def run(
    scenario: str | Path | Scenario,
    *overrides: str,
    seed: int | None = None,
    runs: str | Path = "runs",
    backend: str | None = None,
    workers: int | None = None,
    quiet: bool = True,
    observers: Sequence[Observer] = (),
) -> Result:
    """Run a scenario with one seed.

    Args:
        scenario: name of a shipped scenario, path of a YAML file, or a loaded `Scenario`.
        overrides: "key.sub=value", as on the command line.
        seed: the seed; by default the first of the scenario's `seeds`.
        runs: folder to make the run folder in.
        backend: "auto", "inline" or "ray"; by default the scenario's.
        workers: clients that run at a time; by default the scenario's.
        quiet: print nothing.
        observers: objects that watch the run, beside those that the scenario names.

    Returns:
        The result, with the path of the run folder.

    Raises:
        InputError: the scenario, an override, a plugin or the data is wrong.
        ClientError: a client raised.
        RunError: the strategy raised, or a worker died.
    """
    if not isinstance(scenario, Scenario):
        extra = list(overrides)
        extra += [f"resources.backend={backend}"] if backend else []
        extra += [f"resources.workers={workers}"] if workers else []
        scenario = load(str(scenario), extra)
    elif overrides or backend or workers:
        raise InputError("overrides go with a scenario's name or file, not with a loaded Scenario")
    if isinstance(observers, str) or not isinstance(observers, Iterable):
        raise InputError(
            f"observers: expected a list of objects, got {type(observers).__name__}",
            hint="type observers=[MyObserver()], or name one in the scenario: observers: [mlflow]",
        )
    seed = scenario.seeds[0] if seed is None else seed
    return execute(scenario, seed, Path(runs), Console(quiet=quiet), observers)


def execute(
    scenario: Scenario,
    seed: int,
    runs: Path,
    console: Console,
    observers: Sequence[Observer] = (),
) -> Result:
    """Run one seed of a scenario into a new run folder."""
    return running.start(scenario, seed, runs, starter(console, observers))


def resume(
    path: Path, words: Sequence[str], console: Console, observers: Sequence[Observer] = ()
) -> Result:
    """Go on with a run from its last checkpoint, see `fedsim.engine.running.resume`."""
    return running.resume(path, words, starter(console, observers))


def estimate(scenario: Scenario, seed: int, console: Console, steps: int = 2) -> Estimate:
    """Measure what a run would cost, see `fedsim.engine.estimate`."""
    return _estimate.estimate(scenario, seed, console, steps)
