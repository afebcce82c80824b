"""Running a scenario, from Python and for the command line."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import flower
from fedsim.console import Console
from fedsim.costing import Estimate, disk_mb, folder_mb, machine, memory_mb
from fedsim.disclosures import released_without_privacy
from fedsim.engine import (
    build_strategy,
    check_model,
    client_releases,
    engine,
    is_one_shot,
    privacy_plan,
    with_unit,
    worker_count,
)
from fedsim.errors import InputError
from fedsim.federation import Federation, build_federation
from fedsim.identity import (
    edited,
    has_identity,
    new_identity,
    refuse,
    results,
    run_record,
    scenario_edited,
    sealed,
)
from fedsim.ledger.privacy import NO_PRIVACY_SUMMARY, describe, mechanism_name, unit_note
from fedsim.locks import held
from fedsim.loop import Rounds, mean_scores
from fedsim.machine import require_resources
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.privacy.key_file import KeyFile
from fedsim.privacy.plan import PrivacyPlan
from fedsim.progress import Steps
from fedsim.raising import one_line, plugin_code
from fedsim.randomness import Streams, isolated
from fedsim.report.leakage import leakage_line, leakage_verdict, write_leakage
from fedsim.report.page import write_report
from fedsim.report.text import positive_note
from fedsim.runfolder import SCHEMA_VERSION, RunFolder, environment, now
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.trained.card import write_card
from fedsim.trained.files import write_models

if TYPE_CHECKING:
    import pandas

    from fedsim.privacy.attacks import Subject
    from fedsim.privacy.verdict import Level


@dataclass(frozen=True)
class Result:
    """What a run left behind.

    Attributes:
        folder: the run folder.
        seed: the run's seed.
        metrics: metrics of the final global model on the test split; None where undefined.
        summary: the content of summary.json.
        rounds: the lines of rounds.jsonl.
    """

    folder: Path
    seed: int
    metrics: dict[str, float | None]
    summary: dict[str, Any]
    rounds: list[dict[str, Any]]

    def rounds_frame(self) -> pandas.DataFrame:
        """A line for each round, by its number: metrics, MB, epsilon, seconds; needs pandas."""
        from fedsim.report.frames import rounds_frame

        return rounds_frame(self.rounds)

    def clients_frame(self) -> pandas.DataFrame:
        """A line for each round and client: what it reported, and its epsilon; needs pandas."""
        from fedsim.report.frames import clients_frame

        return clients_frame(self.rounds)

    def _repr_html_(self) -> str:
        from fedsim.report.snippets import result_html

        return result_html(self.folder, self.seed, self.summary)


def run(
    scenario: str | Path | Scenario,
    *overrides: str,
    seed: int | None = None,
    runs: str | Path = "runs",
    backend: str | None = None,
    workers: int | None = None,
    quiet: bool = True,
) -> Result:
    """Run a scenario with one seed.

    Args:
        scenario: name of a shipped scenario, path of a YAML file, or a loaded `Scenario`.
        overrides: "key.sub=value", as on the command line.
        seed: the seed; by default the first of the scenario's `seeds`.
        runs: folder to make the run folder in.
        backend: "inline" or "ray"; by default the scenario's.
        workers: clients that run at a time; by default the scenario's.
        quiet: print nothing.

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
    seed = scenario.seeds[0] if seed is None else seed
    return execute(scenario, seed, Path(runs), Console(quiet=quiet))


def execute(scenario: Scenario, seed: int, runs: Path, console: Console) -> Result:
    """Run one seed of a scenario into a new run folder."""
    require_resources(scenario)
    activate_plugins(scenario)
    carried = client_releases(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    by_data = scenario.privacy is not None and scenario.privacy.unit is None
    scenario = with_unit(scenario, federation)
    check_model(scenario, federation.task)
    privacy = privacy_plan(scenario, federation, console.line)
    strategy = build_strategy(scenario, len(federation.train), privacy)
    attacked = _subject(scenario, federation, privacy, seed)
    folder = RunFolder.create(runs, scenario.name, seed)
    record = {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario.name,
        "seed": seed,
        "data": {
            "name": scenario.data.name,
            **federation.describe(count_classes=privacy is None),
        },
        "task": federation.task.facts.record(),
        "privacy": describe(privacy) if privacy else None,
        "unit_from": None if privacy is None else "data" if by_data else "scenario",
        "released_without_privacy": released_without_privacy(
            scenario, federation, privacy, one_shot=is_one_shot(strategy), carried=carried
        ),
        **environment(),
        "started": now(),
        "finished": None,
        "status": "running",
    }
    folder.write_text("scenario.yaml", scenario.to_yaml())
    if _is_secret(scenario):
        KeyFile(folder.path).create()
    record |= new_identity(folder)
    console.line(f"{scenario.name}, seed {seed}: {_data_line(scenario, federation)}")
    for note in federation.notes(counts=privacy is None):
        console.line(f"data: {note}")
    for item in carried:
        console.line(f"CLIENTS SEND {item}")
    if privacy is not None:
        console.line(privacy_line(privacy))
        if worth := unit_note(privacy):
            console.line(f"NOTE {worth}")
    return _go(scenario, seed, federation, strategy, console, folder, record, privacy, attacked)


def resume(path: Path, resources: Sequence[str], console: Console) -> Result:
    """Go on with a run from its last checkpoint, to the bits an uninterrupted run would give.

    Args:
        path: the run folder.
        resources: overrides; only those of `resources.*` that do not change bits.

    Raises:
        InputError: it is no run folder, an override is not one of resources, or the data are not
            those that the run began with.
    """
    folder = RunFolder.open(path)
    folder.require_contained()
    record = run_record(folder)
    others = [word for word in resources if not word.startswith(_RESUMABLE)]
    if others:
        raise InputError(
            f"a resumed run keeps its scenario; {others[0]!r} would change it",
            hint=f"these may change: {', '.join(_RESUMABLE)}",
        )
    refuse(path, scenario_edited(path, record))
    if record["status"] == "done":
        refuse(path, edited(path, record))
        KeyFile(path).erase()
        summary = folder.read_json("summary.json")
        rows = folder.read_lines("rounds.jsonl")
        console.line(f"{path} is finished; there is nothing to resume")
        return Result(path, record["seed"], summary["metrics"], summary, rows)
    if not has_identity(record):
        raise InputError(
            f"{path} cannot go on: an older fedsim began it, whose checkpoints were pickles, which "
            "can run code when they are read",
            hint=f"to start again, type: fedsim run {path / 'scenario.yaml'} "
            f"--seed {record['seed']}",
        )
    scenario, seed = load(path / "scenario.yaml", resources), record["seed"]
    require_resources(scenario)
    if _is_secret(scenario):
        KeyFile(path).read()
    activate_plugins(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    about = json.loads(json.dumps(federation.describe()))
    if any(about[key] != record["data"].get(key) for key in ("fingerprint", "external")):
        raise InputError(
            f"the data are not those that {path} began with",
            hint=f"start again: fedsim run {path / 'scenario.yaml'} --seed {seed}",
        )
    scenario = with_unit(scenario, federation)
    check_model(scenario, federation.task)
    privacy = privacy_plan(scenario, federation, console.line)
    planned = json.loads(json.dumps(describe(privacy))) if privacy else None
    if planned != record.get("privacy"):
        raise InputError(
            f"the noise or the rates of {path} are planned differently by this software",
            hint="resume with the versions that run.json names, or start again",
        )
    refuse(path, edited(path, record))
    strategy = build_strategy(scenario, len(federation.train), privacy)
    attacked = _subject(scenario, federation, privacy, seed)
    console.line(f"{scenario.name}, seed {seed}: {_data_line(scenario, federation)}")
    return _go(
        scenario,
        seed,
        federation,
        strategy,
        console,
        folder,
        record,
        privacy,
        attacked,
        resumed=True,
    )


def _is_secret(scenario: Scenario) -> bool:
    return scenario.privacy is not None and scenario.privacy.noise == "secret"


# What may change on resume: where clients run, and how many at a time, never what they compute.
_RESUMABLE = ("resources.backend=", "resources.workers=", "resources.ray_address=")


def _go(
    scenario: Scenario,
    seed: int,
    federation: Federation,
    strategy: FlowerStrategy,
    console: Console,
    folder: RunFolder,
    record: dict[str, Any],
    privacy: PrivacyPlan | None,
    attacked: tuple[Subject, Level] | None,
    resumed: bool = False,
) -> Result:
    """Run the rounds that are left, and close the run folder whatever happens."""
    with _locked(folder):
        # A run that cannot go on stays what it was.
        status = str(record["status"]) if resumed else "failed"
        folder.write_json("run.json", sealed(record | {"status": "running", "finished": None}))
        try:
            with engine(
                scenario, seed, federation, strategy, console, folder, privacy=privacy
            ) as rounds:
                if resumed:
                    assert rounds.checkpoints is not None
                    checkpoint = rounds.checkpoints.latest()
                    if checkpoint is not None:
                        rounds.restore(checkpoint)
                    rounds.checkpoints.rewind(checkpoint)
                    console.line(f"resumed after round {rounds.finished} of {scenario.rounds}")
                status = "failed"
                rounds.run()
                summary = _finish(federation, rounds, folder, record)
                if attacked is not None:
                    summary = _audit(*attacked, seed, folder, console)
                if is_one_shot(strategy) and federation.task.compares_images:
                    _leakage(federation, rounds, folder, console, Streams(seed))
            status = "done"
        except KeyboardInterrupt as interrupt:
            status = "interrupted"
            raise KeyboardInterrupt(str(folder.path)) from interrupt
        finally:
            console.stop()
            done = {"files": results(folder)} if status == "done" else {}
            closed = {"finished": now(), "status": status} | done
            folder.write_json("run.json", sealed(record | closed))
            if status == "done":
                KeyFile(folder.path).erase()
        _report(folder, console)
        return Result(
            folder.path, seed, summary["metrics"], summary, folder.read_lines("rounds.jsonl")
        )


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Keep other processes out of the run folder; InputError where one is in it."""
    with held(folder.path) as mine:
        if not mine:
            raise InputError(
                f"{folder.path} is running in another process",
                hint="wait for it, or end that process",
            )
        yield


def _subject(
    scenario: Scenario, federation: Federation, privacy: PrivacyPlan | None, seed: int
) -> tuple[Subject, Level] | None:
    """What is to be attacked when the run ends, and how; InputError where it cannot be."""
    if privacy is None or not privacy.settings.audit:
        return None
    from fedsim.auditing import subject_of
    from fedsim.privacy.verdict import require_level

    asked = privacy.settings.audit
    level: Level = "mechanism" if asked is True else asked
    subject = subject_of(scenario, federation, privacy, seed)
    require_level(subject, level)
    return subject, level


def _audit(
    subject: Subject, level: Level, seed: int, folder: RunFolder, console: Console
) -> dict[str, Any]:
    """Attack the claim; the summary, with the verdict in it. The run is done either way."""
    from fedsim.privacy.verdict import audit

    console.line(f"the audit begins: level {level}")
    verdict = audit(subject, level, seed, say=console.line)
    console.line(verdict.line())
    folder.write_json(
        "summary.json", folder.read_json("summary.json") | {"audit": verdict.record()}
    )
    return folder.read_json("summary.json")


def _external_scores(federation: Federation, rounds: Rounds) -> dict[str, float | None]:
    """Scores of the finished models on records that no client has, means over models."""
    view, task = federation.external_view(), federation.task
    if view is None:
        return {}
    with isolated(rounds.streams.sequence("model")):
        model = rounds.server.new_model()
    found = []
    for arrays in rounds.selected:
        flower.load_state(model, arrays)
        found.append(task.score(task.predict(model, view, rounds.server.device), view))
    return {f"external_{name}": value for name, value in mean_scores(found).items()}


def _pictures(
    federation: Federation, rounds: Rounds, folder: RunFolder, predicted: np.ndarray
) -> None:
    """Draw what the model makes of test records; the first model, if there are many.

    A picture that fails does not fail a finished run.
    """
    model = rounds.server.new_model()
    flower.load_state(model, rounds.selected[0])
    owner = "" if rounds.has_global_model else f", model of {rounds.server.names[0]}"
    try:
        federation.task.pictures(
            folder.path,
            model,
            federation.view("test"),
            predicted,
            rounds.server.device,
            title=f"{rounds.scenario.name}{owner}",
            note=rounds.server.note,
        )
    except Exception as error:
        rounds.console.line(f"no pictures of test records: {one_line(error)}")


def _leakage(
    federation: Federation, rounds: Rounds, folder: RunFolder, console: Console, streams: Streams
) -> None:
    """Look for real images in what a one-shot method sent, and for members in its model.

    A search that fails does not fail a finished run.
    """
    with isolated(streams.sequence("model")):
        model = rounds.server.new_model()
    flower.load_state(model, rounds.selected[0])
    draws = streams.numpy("leakage")
    try:
        found = write_leakage(
            folder.path,
            federation,
            model,
            rounds.server.device,
            draws,
            count_classes=rounds.privacy is None,
        )
    except Exception as error:
        console.line(f"leakage was not measured: {one_line(error)}")
        return
    if found is not None:
        console.line(leakage_line(found) if console.verbose else leakage_verdict(found))


def _report(folder: RunFolder, console: Console) -> None:
    """Make the pictures, the page and the model card; what fails does not fail a finished run."""
    try:
        write_report(folder.path)
    except Exception as error:
        console.line(
            f"no report: {one_line(error)}; to try again, type: fedsim report {folder.path}"
        )
    try:
        write_card(folder.path)
    except Exception as error:
        console.line(
            f"no model card: {one_line(error)}; to try again, type: fedsim export {folder.path} "
            "--card"
        )


def estimate(scenario: Scenario, seed: int, console: Console, steps: int = 2) -> Estimate:
    """Measure what a run would cost: one round in this process, every loop cut after `steps`."""
    require_resources(scenario)
    activate_plugins(scenario)
    client_releases(scenario)
    federation = build_federation(scenario, seed, console.preparing)
    for note in federation.notes(counts=scenario.privacy is None):
        console.line(f"data: {note}")
    scenario = with_unit(scenario, federation)
    check_model(scenario, federation.task)
    privacy = privacy_plan(scenario, federation, console.line)
    strategy = build_strategy(scenario, len(federation.train), privacy)
    _subject(scenario, federation, privacy, seed)
    with engine(scenario, seed, federation, strategy, console, None, steps, privacy) as rounds:
        nothing, scoring = rounds.trial()
        if nothing:
            console.line(f"NOTHING LEARNED: {nothing}; a run of such rounds learns nothing")
        up, down = rounds.ledger.total_megabytes()
        server = rounds.server.steps
        assert isinstance(server, Steps)
        workers = worker_count(scenario, len(federation.train))
        inline = scenario.resources.backend == "inline"
        scored = math.ceil(scenario.rounds / scenario.evaluation.every) + 1
        return Estimate(
            rounds=scenario.rounds,
            clients=len(federation.train),
            mb_up=up * scenario.rounds,
            mb_down=down * scenario.rounds,
            client_seconds=sum(rounds.grid.estimated_seconds.values()) * scenario.rounds,
            server_seconds=server.estimated_seconds * scenario.rounds + scoring * scored,
            workers=workers,
            memory_mb=memory_mb(rounds.peak_rss_mb(), workers, inline),
            disk_mb=disk_mb(rounds, is_one_shot(strategy)),
            prepared_mb=folder_mb(federation.store.folder),
            epsilon="" if privacy is None else epsilon_at_the_end(privacy),
            machine=machine(),
        )


def privacy_line(plan: PrivacyPlan) -> str:
    """What a private run promises, or what is claimed of it, in one line."""
    settings = plan.settings
    grade = "simulation-grade" if settings.noise == "seeded" else "secret"
    budget = "" if settings.max_epsilon is None else f", budget {settings.max_epsilon:g}"
    return (
        f"privacy: {mechanism_name(plan)}, {epsilon_at_the_end(plan)}{budget}; "
        f"noise multiplier {plan.noise_multiplier:.4g}; {grade} randomness"
    )


def epsilon_at_the_end(plan: PrivacyPlan) -> str:
    """What a private run will have spent, or will claim, once all its rounds are run."""
    settings, planned = plan.settings, plan.bound()
    costs = "no finite epsilon"
    if planned.epsilon is not None:
        by = {"prv": "PRV upper", "rdp": "RDP"}[planned.accountant]
        costs = f"epsilon {planned.epsilon:.3g} ({by})"
    if not plan.certified:
        costs = f"NO GUARANTEE: the paper claims {costs}"
    return (
        f"{costs} at delta {settings.delta:g} after {plan.rounds} round(s) "
        f"for every {UNIT_NAMES[plan.unit]}"
    )


def _data_line(scenario: Scenario, federation: Federation) -> str:
    store = federation.store
    sizes = ", ".join(f"{len(where)} {name}" for name, where in federation.split.items())
    if store.source == "embedded":
        origin = f"EMBEDDED STAND-IN for {scenario.data.name} (generated images, not real data)"
    else:
        origin = f"{scenario.data.name} from {store.root}"
    things = federation.task.things
    told = positive_note(federation.task.positive, getattr(store, "positive_rule", ""))
    return "; ".join(
        filter(None, (origin, f"{len(federation.train)} clients", f"{things}: {sizes}", told))
    )


def _finish(
    federation: Federation, rounds: Rounds, folder: RunFolder, record: dict[str, Any]
) -> dict[str, Any]:
    """Write the model, what it predicts on the test split, and the summary."""
    models = rounds.selected
    write_models(
        folder,
        models,
        rounds.scenario,
        federation,
        rounds.privacy,
        seed=record["seed"],
        run_id=record["run_id"],
        owners=[] if rounds.has_global_model else rounds.server.names,
    )
    with plugin_code("the finished model could not be scored"):
        predicted = np.stack([rounds.predict_test(arrays) for arrays in models])
        name, found = federation.task.predictions(predicted, federation.view("test"))
        external = _external_scores(federation, rounds)
    folder.write_arrays(name, **found)
    if not rounds.learned:
        rounds.console.line(
            f"NOTHING LEARNED: after {rounds.finished} round(s) the model has the very bits that "
            "the run began with"
        )
    if federation.task.pictures_told:
        _pictures(federation, rounds, folder, predicted[0])
    up, down = rounds.ledger.total_megabytes()
    summary = {
        "metrics": rounds.metrics | external,
        "rounds": rounds.finished,
        "stopped": rounds.stopped or None,
        "failed": rounds.failed,
        "mb_up_total": up,
        "mb_down_total": down,
        **(rounds.privacy.summary() if rounds.privacy else NO_PRIVACY_SUMMARY),
        "audit": None,
        "wall_seconds": rounds.seconds,
        "peak_rss_mb": rounds.peak_rss_mb(),
        "data_source": federation.store.source,
    }
    folder.write_json("summary.json", summary)
    return folder.read_json("summary.json")
