"""Taking a client out of finished runs, from Python and for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.engine.forgetting import Asked, Finished, history_mb
from fedsim.engine.result import Result
from fedsim.observers.standard import starter
from fedsim.terminal.console import Console

if TYPE_CHECKING:
    from fedsim.engine.criteria import Table


def forget(
    run: str | Path | Result,
    client: str,
    method: str = "scratch",
    *,
    rounds: int | None = None,
    patients: Sequence[str] = (),
    records: Sequence[str] = (),
    runs: str | Path = "runs",
    quiet: bool = True,
    **parameters: Any,
) -> Result:
    """Take a client, or some of its patients or records, out of a finished run.

    Args:
        run: the finished run: its result, or its folder.
        client: who leaves, or whose patients are forgotten.
        method: a procedure: a strategy `unlearn_<method>`.
        rounds: rounds of training on without them; None: what the run says, else as
            many as it had.
        patients: names of patients; (): the whole client leaves.
        records: names of records, in the place of patients.
        runs: folder to make the new run's folder in.
        quiet: print nothing.
        parameters: of the procedure.

    Returns:
        The result of the new run, whose `run.json` names its parent.

    Raises:
        InputError: it cannot be done with what the run kept; says what can.
        ClientError, RunError: the new run failed.
    """
    finished = Finished(run.folder if isinstance(run, Result) else Path(run))
    named = {"patients": list(patients), "records": list(records)}
    what = {key: names for key, names in named.items() if names}
    asked = Asked(client, method, parameters, rounds_of(finished, rounds), what)
    return finished.run(asked, Path(runs), starter(Console(quiet=quiet)))


def rounds_of(finished: Finished, rounds: int | None) -> int:
    """Rounds of retraining: as asked, or as the run's strategy says."""
    if rounds is not None:
        return rounds
    told = finished.scenario.strategy.parameters.get("retrain_rounds")
    return told if isinstance(told, int) else finished.scenario.rounds


def forget_all(run: Path, asked: Sequence[Asked], runs: Path, console: Console) -> Table:
    """Take a client out of a finished run by each of several procedures, and measure them.

    Raises:
        InputError: one of them cannot be done with what the run kept; then nothing is run.
        ClientError, RunError: a run failed.
    """
    from fedsim.engine.criteria import Judge, measured, table_of, written

    finished, watched = Finished(run), starter(console)
    sizes = {}
    for one in asked:
        prepared = finished.prepared(one, watched)
        sizes[one.name] = history_mb(prepared, finished.arrays, len(finished.clients))
        for line in finished.lines(one, prepared):
            console.line(line)
    judge = Judge(finished, asked[0], watched)
    folders = []
    for one in asked:
        result = finished.run(one, runs, watched)
        console.line(f"measuring what is left after {one.name}")
        written(result.folder, measured(judge, one, result, sizes[one.name]))
        folders.append(result.folder)
    return table_of(folders)
