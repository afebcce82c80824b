"""A run from its beginning, or its last checkpoint, to its end: what becomes of its folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.engine.assembly import MakeGrid, assembled
from fedsim.engine.checkpoint import LINES, Checkpoint, Checkpoints
from fedsim.engine.loop import Rounds
from fedsim.engine.outcome import outcome
from fedsim.engine.prepare import Prepared, prepare
from fedsim.engine.result import Result
from fedsim.engine.wording import describe_device, opening_lines, run_entries, title_line
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.folder.identity import (
    deployed_nodes,
    edited,
    has_identity,
    new_identity,
    refuse,
    results,
    run_record,
    scenario_edited,
    sealed,
)
from fedsim.folder.runfolder import RunFolder, now, plain, remove_unfinished, write_whole
from fedsim.grid.choosing import Choice
from fedsim.grid.machine import require_resources
from fedsim.ledger.privacy import describe
from fedsim.locks import held
from fedsim.observers.base import End, Run, Status
from fedsim.observers.telling import Observers
from fedsim.privacy.key_file import KeyFile
from fedsim.raising import interrupted, one_line
from fedsim.report.text import closing_lines
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.scenario.merging import OBSERVE


@dataclass(frozen=True)
class Starter:
    """Who starts a run, and has it watched.

    Attributes:
        observers: makes those who watch, once it is known what the run is made of.
        say: is told what happens before, a line each.
        progress: is told how many images are decoded, and of how many.
        verbose: let Ray print.
    """

    observers: Callable[[Prepared], Observers]
    say: Callable[[str], None]
    progress: Callable[[int, int], None]
    verbose: bool = False


def start(scenario: Scenario, seed: int, runs: Path, starter: Starter) -> Result:
    """Run one seed of a scenario into a new run folder.

    Args:
        runs: the folder of runs, which gets the new one.

    Raises:
        InputError: something is wrong with the input; no folder is made then.
        ClientError, RunError: the run failed.
    """
    _require_cluster(scenario)
    return begin(prepare(scenario, seed, starter.say, starter.progress), runs, starter)


def begin(
    prepared: Prepared,
    runs: Path,
    starter: Starter,
    make_grid: MakeGrid | None = None,
    further: Mapping[str, Any] | None = None,
) -> Result:
    """Run what is prepared into a new run folder.

    Args:
        runs: the folder of runs, which gets the new one.
        make_grid: makes the grid, where the clients are not simulated.
        further: entries of run.json beside those of every run.

    Raises:
        ClientError, RunError: the run failed.
    """
    observers = starter.observers(prepared)
    folder = RunFolder.create(runs, prepared.scenario.name, prepared.seed)
    entries = run_entries(prepared) | dict(further or {})
    folder.write_text("scenario.yaml", prepared.scenario.to_yaml())
    if prepared.has_secret_noise:
        KeyFile(folder.path).create()
    entries |= new_identity(folder)
    for line in opening_lines(prepared):
        observers.note(line)
    life = _Life(prepared, folder, entries, observers, starter.verbose, make_grid=make_grid)
    return life.run()


def begin_after(
    prepared: Prepared,
    runs: Path,
    starter: Starter,
    parent: Path,
    checkpoint: Checkpoint,
    further: Mapping[str, Any],
) -> Result:
    """Run what is prepared into a new run folder, from where another run ended.

    The new folder holds the lines of the other one, too: it is that of a run that has made all
    rounds itself.

    Args:
        runs: the folder of runs, which gets the new one.
        parent: the other run's folder.
        checkpoint: of its end, with the state of the new strategy.
        further: entries of run.json beside those of every run.

    Raises:
        ClientError, RunError: the run failed.
    """
    observers = starter.observers(prepared)
    folder = RunFolder.create(runs, prepared.scenario.name, prepared.seed)
    folder.write_text("scenario.yaml", prepared.scenario.to_yaml())
    entries = run_entries(prepared) | dict(further) | new_identity(folder)
    entries["status"] = "interrupted"
    folder.write_json("run.json", sealed(entries))
    for name in LINES:
        if (parent / name).is_file():
            write_whole(folder.path / name, (parent / name).read_bytes())
    Checkpoints(folder).save(checkpoint)
    for line in opening_lines(prepared):
        observers.note(line)
    return _Life(prepared, folder, entries, observers, starter.verbose, resumed=True).run()


def _require_cluster(scenario: Scenario) -> None:
    """Refuse a cluster that does not answer, before data are prepared for it."""
    resources = scenario.resources
    if resources.ray_address is not None and resources.backend != "inline":
        from fedsim.grid.cluster import address_of, require_answer

        require_answer(address_of(resources))


# What may change on resume: where clients run, and how many at a time, never what they compute.
_RESUMABLE = ("resources.backend=", "resources.workers=", "resources.ray_address=")


def resume(path: Path, words: Sequence[str], starter: Starter) -> Result:
    """Go on with a run from its last checkpoint, to the bits an uninterrupted run would give.

    Args:
        path: the run folder.
        words: overrides; only those of `resources.*` that do not change bits, and of who watches.

    Raises:
        InputError: it is no run folder, an override is not one of these, or the data are not those
            that the run began with.
    """
    folder = RunFolder.open(path)
    folder.require_contained()
    entries = run_record(folder)
    others = [word for word in words if not word.startswith((*_RESUMABLE, f"{OBSERVE}="))]
    if others:
        raise InputError(
            f"a resumed run keeps its scenario; {others[0]!r} would change it",
            hint=f"these may change: {', '.join(_RESUMABLE)}",
        )
    refuse(path, scenario_edited(path, entries))
    if entries["status"] == "done":
        return _finished(folder, entries, starter)
    if deployed_nodes(entries):
        raise InputError(
            f"{path} was a federation of nodes, which cannot go on here",
            hint="start it again: flwr run APP SUPERLINK",
        )
    if not has_identity(entries):
        raise InputError(
            f"{path} cannot go on: an older fedsim began it, whose checkpoints were pickles, which "
            "can run code when they are read",
            hint=f"to start again, type: fedsim run {path / 'scenario.yaml'} "
            f"--seed {entries['seed']}",
        )
    prepared = _prepared_again(path, words, entries, starter)
    refuse(path, edited(path, entries))
    observers = starter.observers(prepared)
    observers.note(title_line(prepared))
    return _Life(prepared, folder, entries, observers, starter.verbose, resumed=True).run()


def _finished(folder: RunFolder, entries: dict[str, Any], starter: Starter) -> Result:
    """The result of a run that is done already."""
    refuse(folder.path, edited(folder.path, entries))
    KeyFile(folder.path).erase()
    starter.say(f"{folder.path} is finished; there is nothing to resume")
    result = _result(folder, entries["seed"])
    for line in closing_lines(result.summary, folder.path, Path.cwd()):
        starter.say(line)
    return result


def _require_device(path: Path, scenario: Scenario, entries: Mapping[str, Any]) -> None:
    """Refuse to go on where other bits would be computed than the run began with."""
    begun = entries.get("device", {}).get("used")
    here = describe_device(scenario.resources)["used"]
    if begun in (None, here):
        return
    kinds = {"cpu": "on the CPU", "cuda": "on a GPU"}
    raise InputError(
        f"{path} began {kinds[begun]}, and would go on {kinds[here]}: its bits would be others",
        hint="hide the GPU: CUDA_VISIBLE_DEVICES= fedsim run --resume RUN"
        if here == "cuda"
        else "go on where it began, or start it again",
    )


def _prepared_again(
    path: Path, words: Sequence[str], entries: dict[str, Any], starter: Starter
) -> Prepared:
    """What a run is made of that began before; InputError where it would be another."""
    scenario, seed = load(path / "scenario.yaml", words), entries["seed"]
    require_resources(scenario)
    _require_device(path, scenario, entries)
    _require_cluster(scenario)
    if scenario.privacy is not None and scenario.privacy.noise == "secret":
        KeyFile(path).read()
    activate_plugins(scenario)
    federation = build_federation(scenario, seed, starter.progress)
    about = json.loads(json.dumps(federation.describe()))
    if any(about[key] != entries["data"].get(key) for key in ("fingerprint", "external", "labels")):
        raise InputError(
            f"the data are not those that {path} began with",
            hint=f"start again: fedsim run {path / 'scenario.yaml'} --seed {seed}",
        )
    prepared = prepare(scenario, seed, starter.say, federation=federation)
    begun, here = entries.get("pretrained"), prepared.pretrained
    if begun is not None and (here is None or here.sha256 != begun["sha256"]):
        raise InputError(
            f"the first weights are not those that {path} began with: SHA-256 of "
            f"{begun['source']} was {begun['sha256']}",
            hint=f"bring that file back, or start again: fedsim run {path / 'scenario.yaml'} "
            f"--seed {seed}",
        )
    plan = prepared.privacy
    planned = None if plan is None else json.loads(json.dumps(describe(plan)))
    if planned != entries.get("privacy"):
        raise InputError(
            f"the noise or the rates of {path} are planned differently by this software",
            hint="resume with the versions that run.json names, or start again",
        )
    return prepared


@dataclass
class _Life:
    """One process's part in the life of a run: its run.json is right however it ends.

    Attributes:
        entries: the content of run.json as the run began, with its identity.
        status: what run.json says if nothing else happens.
    """

    prepared: Prepared
    folder: RunFolder
    entries: dict[str, Any]
    observers: Observers
    verbose: bool
    resumed: bool = False
    make_grid: MakeGrid | None = None
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        # A run that cannot go on stays what it was.
        self.status = self.entries["status"] if self.resumed else "failed"

    def run(self) -> Result:
        """Run the rounds that are left, and close the run folder whatever happens."""
        with _locked(self.folder):
            self._write("running", None)
            if self.resumed:
                remove_unfinished(self.folder.path)
            problem = ""
            try:
                self._rounds()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) or interrupted(error):
                    raise self._interrupted() from error
                problem = one_line(error)
                raise
            finally:
                self._close(problem)
            return _result(self.folder, self.prepared.seed)

    def _rounds(self) -> None:
        """All that can fail."""
        with assembled(
            self.prepared,
            self.observers,
            self.folder,
            verbose=self.verbose,
            chosen=self._chosen,
            make_grid=self.make_grid,
        ) as rounds:
            if self.resumed:
                _restore(rounds)
            self.status = "failed"
            self._begin(rounds)
            rounds.run()
            found = outcome(self.prepared, rounds)
            if not found.learned:
                self.observers.note(
                    f"NOTHING LEARNED: after {rounds.finished} round(s) the model has the very "
                    "bits that the run began with"
                )
            self.observers.finish(found)
            self._keep()
            self.observers.done(found)

    def _keep(self) -> None:
        """The run is done, whatever becomes of its pictures."""
        self.status = "done"
        self._write("done", now(), results(self.folder))
        KeyFile(self.folder.path).erase()

    def _interrupted(self) -> KeyboardInterrupt:
        """What to raise where a person, or a signal, stops the run; it carries what can go on."""
        if self.status != "done":
            self.status = "interrupted"
            return KeyboardInterrupt(str(self.folder.path))
        self.observers.note(f"the run is done, its pictures are not all drawn: {self.folder.path}")
        return KeyboardInterrupt()

    def _chosen(self, choice: Choice) -> None:
        """Where clients run is known; said where the scenario leaves it open, or a cluster does."""
        self.entries["backend"] = choice.record()
        self._write("running", None)
        open_ = self.prepared.scenario.resources.backend == "auto"
        if open_ or choice.gpus is not None or choice.cluster is not None:
            self.observers.note(choice.line())

    def _begin(self, rounds: Rounds) -> None:
        prepared = self.prepared
        self.observers.begin(
            Run(
                id=self.entries["run_id"],
                scenario=prepared.scenario.name,
                seed=prepared.seed,
                folder=self.folder.path,
                clients=tuple(prepared.names),
                rounds=prepared.scenario.rounds,
                settings=prepared.scenario.resolved(),
                about=plain(self.entries),
                budget=prepared.budget,
                resumed=self.resumed,
                finished=rounds.finished,
                rows=tuple(self.folder.read_lines("rounds.jsonl")),
                say=self.observers.note,
            )
        )
        if self.resumed:
            of = prepared.scenario.rounds
            self.observers.note(f"resumed after {rounds.reached} of {of}")

    def _close(self, problem: str) -> None:
        done = self.status == "done"
        if not done:
            self._write(self.status, now())
        summary = self.folder.read_json("summary.json") if done else None
        self.observers.end(End(self.status, self.folder.path, summary, problem))

    def _write(
        self, status: str, finished: str | None, files: dict[str, str] | None = None
    ) -> None:
        changed: dict[str, Any] = {"status": status, "finished": finished}
        changed |= {} if files is None else {"files": files}
        self.folder.write_json("run.json", sealed(self.entries | changed))


def _restore(rounds: Rounds) -> None:
    """Take up the last checkpoint, and cut the files of lines back to it."""
    assert rounds.checkpoints is not None
    checkpoint = rounds.checkpoints.latest()
    if checkpoint is not None:
        rounds.restore(checkpoint)
    rounds.checkpoints.rewind(checkpoint)


def _result(folder: RunFolder, seed: int) -> Result:
    """What a finished run left behind."""
    summary, rows = folder.read_json("summary.json"), folder.read_lines("rounds.jsonl")
    return Result(folder.path, seed, summary["metrics"], summary, rows)


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
