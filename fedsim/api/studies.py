"""Sweeps, curves and audits from Python: what the verbs of these names do, with objects to go on
with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim import yaml_lines
from fedsim.api.comparing import compare, load_runs
from fedsim.engine import auditing
from fedsim.errors import EXIT_INTERRUPTED, InputError, Problem
from fedsim.files import file_name
from fedsim.folder.identity import deployed_nodes, edited, refuse
from fedsim.folder.runfolder import RunFolder, damaged, write_whole
from fedsim.privacy import verdict
from fedsim.privacy.verdict import Level, Verdict
from fedsim.report import wire_curve
from fedsim.report.privacy_curve import Curve, Point, curve_of, table
from fedsim.scenario import Scenario, load
from fedsim.sweeping.cells import fetch_weights, fingerprints, plan, require_cells, require_number
from fedsim.sweeping.epsilons import CurveCell, plan_curve
from fedsim.sweeping.scheduler import Sweep
from fedsim.sweeping.wires import WIRES, WireCell, plan_wires
from fedsim.terminal.console import Console
from fedsim.terminal.ticking import Ticker

if TYPE_CHECKING:
    import pandas

    from fedsim.report.comparison import Comparison
    from fedsim.sweeping.slurm import Slurm

Over = Literal["epsilon", "megabytes"]
"""What a curve may be over."""

Cells = Sequence[CurveCell] | Sequence[WireCell]

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Of a curve for which none were chosen."""


# --- Sweeps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind.

    Attributes:
        cells: of each cell `label`, `scenario`, `seed`, `overrides`, `status` ("done", "failed",
            ... or, of a dry run, "would run", "would resume"), `folder` or None, and `error`.
        folders: the run folders of the cells that are done.
        problems: files of other run folders that are damaged, so that these do not count.
    """

    cells: list[dict[str, Any]]
    folders: list[Path] = field(repr=False)
    problems: list[Problem] = field(repr=False)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The cells that failed."""
        return [cell for cell in self.cells if cell["status"] == "failed"]

    def frame(self) -> pandas.DataFrame:
        """The runs as a DataFrame, as `fedsim.load_runs` gives them; needs pandas."""
        return load_runs(*self.folders)

    def compare(self, **options: Any) -> Comparison:
        """The runs as a table, with the options of `fedsim.compare`."""
        return compare(*self.folders, **options)

    def _repr_html_(self) -> str:
        if self.folders:
            return self.compare()._repr_html_()
        from fedsim.report.snippets import table

        return table(["cell", "status"], [(one["label"], one["status"]) for one in self.cells])


def sweep(
    scenarios: str | Path | Iterable[str | Path],
    values: Mapping[str, Any] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    runs: str | Path = "runs",
    backend: str | None = None,
    workers: int | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    quiet: bool = True,
) -> SweepResult:
    """Run scenarios with every combination of values and seeds; what is finished is not run again.

    Each run is a process of its own. A run that fails stops no other: see `SweepResult.failed`.

    Args:
        scenarios: names of shipped scenarios, or paths of files.
        values: key -> its value, or a list of values to combine, such as
            {"strategy.codec": ["float32", "uint8"]}.
        seeds: a number is a count, 3 is the seeds 0, 1, 2; a list is the seeds; by default the
            scenarios' own.
        runs: the folder of runs.
        backend: "auto", "inline" or "ray"; by default the scenarios'.
        workers: clients that run at a time; by default the scenarios'.
        jobs: runs at a time; by default as many as fit.
        dry_run: run nothing, only say what would be done.
        quiet: print nothing.

    Raises:
        InputError: with all that is wrong with all cells, before any of them runs.
        KeyboardInterrupt: the sweep was interrupted; the same call goes on.
    """
    sources = _sources(scenarios)
    axes = [f"{key}={_axis(value)}" for key, value in (values or {}).items()]
    console = Console(quiet=quiet)
    cells = prepared_sweep(
        sources, axes, _seeds(seeds), _resources(backend, workers), Path(runs), console, jobs=jobs
    )
    return _go(cells, dry_run)


def prepared_sweep(
    sources: Sequence[str],
    axes: Sequence[str],
    seeds: Sequence[int],
    common: Sequence[str],
    runs: Path,
    console: Console,
    *,
    jobs: int | None = None,
    verbose: bool = False,
    slurm: Slurm | None = None,
) -> Sweep:
    """The cells, all validated, with their data prepared; see `fedsim.sweeping.cells.plan`.

    With `slurm` they become jobs of its queue, whose nodes have other resources than this machine.
    """
    require_jobs(jobs)
    tell = Ticker("reading the settings of the cells", quiet=console.quiet)
    cells = plan(sources, axes, seeds, common, tell)
    if slurm is None:
        require_cells(cells)
    fetch_weights(cells, console.line)
    data = fingerprints(cells, console.preparing)
    if slurm is None:
        return Sweep(cells, data, runs, console, jobs, verbose)
    from fedsim.sweeping.slurm import SlurmSweep

    return SlurmSweep(cells, data, runs, console, slurm, verbose)


def require_jobs(jobs: int | None) -> None:
    """Raise InputError unless so many runs can go on at a time."""
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: expected at least 1")


def _go(cells: Sweep, dry_run: bool) -> SweepResult:
    """Run what is missing, or say what would be run."""
    statuses: list[tuple[str, Path | None]]
    if dry_run:
        words = {"run": "would run", "resume": "would resume", "wait": "elsewhere", "done": "done"}
        statuses = [(words[found.action], found.folder) for _, found in cells.forecast()]
    else:
        if cells.run() == EXIT_INTERRUPTED:
            raise KeyboardInterrupt("the sweep was interrupted; the same call goes on")
        statuses = [(entry.status, entry.folder) for entry in cells.entries]
    told = [
        {
            "label": entry.cell.label,
            "scenario": entry.cell.scenario.name,
            "seed": entry.cell.seed,
            "overrides": list(entry.cell.overrides),
            "status": status,
            "folder": folder,
            "error": entry.error or None,
        }
        for entry, (status, folder) in zip(cells.entries, statuses, strict=True)
    ]
    done = [folder for status, folder in statuses if status == "done" and folder is not None]
    return SweepResult(told, done, list(cells.damaged))


# --- Curves --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveResult:
    """What a curve left behind.

    Attributes:
        points: the runs that are finished.
        wanted: how many runs the curve asks for.
        curve: their numbers; None where no run is finished.
        png: the picture; None where no finished run has an epsilon.
        csv: curve.csv; empty where there is no picture.
        folder: where `curve.png` and `curve.csv` are; None where nothing was drawn.
        sweep: the cells.
        over: what the curve is over.
    """

    points: list[Point] = field(repr=False)
    wanted: int
    curve: Curve | None = field(repr=False)
    png: bytes | None = field(repr=False)
    csv: bytes = field(repr=False)
    folder: Path | None
    sweep: SweepResult | None = field(default=None, repr=False)
    over: Over = "epsilon"

    def frame(self) -> pandas.DataFrame:
        """The runs as a DataFrame: scenario, epsilon, seed, all metrics, MB; needs pandas."""
        from fedsim.report.frames import points_frame

        return points_frame(self.points)

    def __str__(self) -> str:
        if self.curve is None:
            return "no run of the curve is finished"
        return table(self.curve) if self.over == "epsilon" else wire_curve.table(self.curve)

    def _repr_png_(self) -> bytes | None:
        return self.png


def curve(
    scenarios: str | Path | Iterable[str | Path],
    values: Mapping[str, Any] | None = None,
    *,
    epsilons: Sequence[float] = EPSILONS,
    over: Over = "epsilon",
    wires: Sequence[str] = WIRES,
    seeds: int | Sequence[int] = 1,
    metric: str | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    backend: str | None = None,
    workers: int | None = None,
    jobs: int | None = None,
    quiet: bool = True,
) -> CurveResult:
    """Utility over epsilon, or over megabytes: run what is missing of it, then draw it.

    The files are in `runs/curves/<name>`.

    Args:
        scenarios: names or files; one without a privacy block is a line for all epsilons.
        values: key -> its value, for every run.
        epsilons: the budgets; `float("inf")` is without privacy.
        over: "epsilon" or "megabytes".
        wires: of a curve over megabytes, the ways to compress what travels: "none", a codec, or a
            block `wire` such as "{sparsify: {topk: 0.01}, error_feedback: true}".
        seeds: a number is a count, 3 is the seeds 0, 1, 2; a list is the seeds.
        metric: by default the headline of the task, such as "auc".
        name: of the folder; by default the scenarios' names.
        runs: the folder of runs.
        backend: "auto", "inline" or "ray"; by default the scenarios'.
        workers: clients that run at a time; by default the scenarios'.
        jobs: runs at a time; by default as many as fit.
        quiet: print nothing.

    Raises:
        InputError: with all that is wrong, before anything runs; or nothing can be written.
        KeyboardInterrupt: the curve was interrupted; the same call goes on.
    """
    overrides = [f"{key}={_one(value)}" for key, value in (values or {}).items()]
    console = Console(quiet=quiet)
    levels = list(epsilons) if over == "epsilon" else list(wires)
    cells, running = prepared_curve(
        _sources(scenarios),
        overrides,
        levels,
        _seeds(seeds) or [0],
        _resources(backend, workers),
        Path(runs),
        console,
        over=over,
        jobs=jobs,
    )
    swept = _go(running, dry_run=False)
    drawn = drawn_curve(cells, running, Path(runs), metric, name)
    return CurveResult(**(vars(drawn) | {"sweep": swept}))


def prepared_curve(
    sources: Sequence[str],
    overrides: Sequence[str],
    levels: Sequence[float] | Sequence[str],
    seeds: Sequence[int],
    common: Sequence[str],
    runs: Path,
    console: Console,
    *,
    over: Over = "epsilon",
    jobs: int | None = None,
    verbose: bool = False,
) -> tuple[Cells, Sweep]:
    """The cells of a curve, all validated, with their data prepared.

    `levels` are epsilons or, of a curve over megabytes, ways to compress what travels.
    """
    require_jobs(jobs)
    cells: Cells
    if over == "epsilon":
        cells = plan_curve(sources, overrides, [float(one) for one in levels], seeds, common)
    else:
        cells = plan_wires(sources, overrides, [str(one) for one in levels], seeds, common)
    one_by_one = [one.cell for one in cells]
    require_cells(one_by_one)
    fetch_weights(one_by_one, console.line)
    data = fingerprints(one_by_one, console.preparing)
    return cells, Sweep(one_by_one, data, runs, console, jobs, verbose)


def drawn_curve(
    cells: Cells, running: Sweep, runs: Path, metric: str | None, name: str | None
) -> CurveResult:
    """Write curve.csv and curve.png of the runs that are finished.

    Raises:
        InputError: the metric is none of the runs', or the files cannot be written.
    """
    points, over = _points(cells, running), over_of(cells)
    if not points:
        return CurveResult(points, len(cells), None, None, b"", None, over=over)
    found = curve_of(points, metric, len(cells))
    if over == "megabytes":
        drawn = wire_curve.picture(found)
    elif all(point.epsilon == float("inf") for point in points):
        return CurveResult(points, len(cells), found, None, b"", None)
    else:
        from fedsim.report.privacy_picture import picture

        drawn = picture(found)
    folder = curve_folder(cells, runs, name)
    try:
        for path, content in (("curve.csv", drawn.csv), ("curve.png", drawn.png)):
            write_whole(folder / path, content)
    except OSError as error:
        raise InputError(
            f"cannot write in {folder}: {error.strerror}",
            hint="choose another place: --runs DIR or --name NAME",
        ) from error
    return CurveResult(points, len(cells), found, drawn.png, drawn.csv, folder, over=over)


def over_of(cells: Cells) -> Over:
    """What a curve of these cells is over."""
    return "megabytes" if any(isinstance(one, WireCell) for one in cells) else "epsilon"


def curve_folder(cells: Cells, runs: Path, name: str | None) -> Path:
    """Where the files of a curve lie: below `runs`, by its name or that of its scenarios."""
    names = "+".join(dict.fromkeys(one.cell.scenario.name for one in cells))
    usual = names if over_of(cells) == "epsilon" else f"{names}-megabytes"
    return runs / "curves" / file_name(name or usual)


def _points(cells: Cells, running: Sweep) -> list[Point]:
    """The cells that are done, with what their run folders say."""
    points: list[Point] = []
    each: list[CurveCell | WireCell] = list(cells)
    for one, entry in zip(each, running.entries, strict=True):
        if entry.status == "done" and entry.folder is not None:
            run = RunFolder(entry.folder).read_json("run.json")
            told = run["data"], run.get("task")
            name, seed = one.cell.scenario.name, one.cell.seed
            if isinstance(one, WireCell):
                known = (name, float("inf"), seed, False, entry.summary, *told)
                points.append(wire_curve.WirePoint(*known, wire=one.wire))
            else:
                points.append(Point(name, one.epsilon, seed, one.reference, entry.summary, *told))
    return points


# --- Audits --------------------------------------------------------------------------------------


def audit(
    scenario: str | Path | Scenario,
    *overrides: str,
    level: Level = "mechanism",
    seed: int | None = None,
    quiet: bool = True,
) -> Verdict:
    """Attack a privacy claim, and hold the lower bound on epsilon against it.

    Args:
        scenario: name, file, loaded `Scenario`, or the folder of a run.
        overrides: "key.sub=value"; a run keeps its own.
        level: "mechanism" (one release, no training), "run" (one training with canaries) or "lira"
            (membership inference with shadow models).
        seed: of the attack and the training.
        quiet: print nothing.

    Returns:
        The verdict; its `violation` says whether the bound contradicts the claim.

    Raises:
        InputError: there is no claim to attack, or not with this level.
    """
    if isinstance(scenario, Scenario):
        if overrides:
            raise InputError("overrides go with a scenario's name or file, not with a loaded one")
        subject = scenario
    else:
        subject = audited_scenario(scenario, overrides, seed)
    return verdict_of(subject, level, seed, Console(quiet=quiet))


def audited_scenario(
    name: str | Path, overrides: Sequence[str] = (), seed: int | None = None
) -> Scenario:
    """The scenario that is named, or the one of the run folder that is."""
    path = Path(name)
    if not path.is_dir():
        return load(name, overrides, seed)
    record = RunFolder.open(path).read_json("run.json")
    if not isinstance(record.get("seed"), int):
        raise damaged(path / "run.json", "it names no seed")
    refuse(path, edited(path, record))
    if overrides:
        raise InputError(
            f"{path} is a run and keeps its scenario; {overrides[0]!r} would change it",
            hint=f"audit the scenario: fedsim audit {path / 'scenario.yaml'} "
            + " ".join(overrides),
        )
    if deployed_nodes(record):
        raise InputError(
            f"{path} was a federation of nodes, whose records are not here to attack its claim",
            hint="audit the scenario on data that are here: fedsim audit NAME",
        )
    if seed not in (None, record["seed"]):
        raise InputError(f"{path} is a run of seed {record['seed']}")
    return load(path / "scenario.yaml", seed=record["seed"])


def verdict_of(scenario: Scenario, level: Level, seed: int | None, console: Console) -> Verdict:
    """Attack a scenario's claim; the console is told how far it is."""
    if scenario.privacy is None:
        raise InputError(
            f"nothing to audit: {scenario.name} has no privacy block, so it claims no epsilon",
            hint="`fedsim ls dpsgd` lists scenarios that have one",
        )
    subject = auditing.audit_subject(scenario)
    claim = "none" if subject.claimed_epsilon is None else f"{subject.claimed_epsilon:.2f}"
    console.line(
        f"{subject.name}: claims epsilon {claim} (delta {subject.delta:g}, {subject.accountant}) "
        f"for {subject.steps} steps at sampling rate {subject.sample_rate:.4g}"
        + ("" if subject.certified else ", without a guarantee")
    )
    if scenario.federation.clock is not None and level != "mechanism":
        console.line(
            "  federation.clock: the audit trains without it, in rounds that wait for all who are "
            "asked; epsilon does not depend on it"
        )
    chosen = scenario.seeds[0] if seed is None else seed
    return verdict.audit(subject, level, chosen, say=console.line, watch=_Watch(console))


class _Watch:
    """Prints how many of the models are done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, items: Sequence[Any]) -> Iterable[Any]:
        for number, item in enumerate(items, 1):
            yield item
            self._console.line(f"  model {number} of {len(items)}")


# --- Words ---------------------------------------------------------------------------------------


def _sources(scenarios: str | Path | Iterable[str | Path]) -> list[str]:
    one = isinstance(scenarios, str | Path)
    found = [str(name) for name in ([scenarios] if one else scenarios)]  # type: ignore[union-attr]
    if not found:
        raise InputError("which scenarios?", hint="fedsim.scenario.names() lists those that ship")
    return found


def _seeds(seeds: int | Sequence[int] | None) -> list[int]:
    if seeds is None:
        return []
    if isinstance(seeds, int):
        if seeds < 1:
            raise InputError(f"seeds={seeds}: one number is a count; the seed {seeds}: [{seeds}]")
        require_number(seeds)
        return list(range(seeds))
    return list(seeds)


def _resources(backend: str | None, workers: int | None) -> list[str]:
    words = [f"resources.backend={backend}"] if backend else []
    return [*words, *([f"resources.workers={workers}"] if workers else [])]


def _axis(value: Any) -> str:
    """One value, or several, as the command line takes them."""
    return ",".join(map(_one, value)) if isinstance(value, list | tuple) else _one(value)


def _one(value: Any) -> str:
    # A comma in a text would divide it.
    if isinstance(value, str) and set(value) & set(",[]{}'\""):
        return json.dumps(value, ensure_ascii=False)
    return yaml_lines.write_value(value)
