"""Unlearning of a finished run: a run of its own, that begins where the other one ended.

What a run keeps for it lies in its last checkpoint. The new run's strategy is given that as its
state, and goes on with the round after: so its weights are those of a run that trains and unlearns
in one go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from fedsim.engine.assembly import assembled
from fedsim.engine.checkpoint import SUFFIX, Checkpoint, Checkpoints
from fedsim.engine.prepare import Prepared, prepare
from fedsim.engine.result import Result
from fedsim.engine.running import Starter, begin_after
from fedsim.errors import InputError, Problem
from fedsim.federation.clients import make_client
from fedsim.folder.identity import deployed_nodes, edited, refuse, run_record
from fedsim.folder.runfolder import RunFolder
from fedsim.method.capabilities import capabilities
from fedsim.registry import construct, default_registry
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.scenario.fitting import those_that
from fedsim.unlearning.memories import Memory
from fedsim.unlearning.procedures import (
    PREFIX,
    WITHOUT_HISTORY,
    Departure,
    Procedure,
    procedure_name,
    short_name,
)
from fedsim.wire import tensor_record, tensors

_OF_THE_TRAINING = ("train_rounds", "weighting", "codec")


@dataclass(frozen=True)
class Asked:
    """What a person asks for.

    Attributes:
        client: who leaves, or whose records are forgotten.
        method: the procedure.
        parameters: of the procedure, beside those that the run was told.
        rounds: of training on without what is forgotten.
        forget: what of the client, as `federation.overrides.<client>.forget` has it; {}: all.
    """

    client: str
    method: str
    parameters: Mapping[str, Any]
    rounds: int
    forget: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What a person calls the procedure."""
        return short_name(re.split(r"[.:]", self.method)[-1]).lower()

    @property
    def whom(self) -> str:
        """Who leaves, or what of whom."""
        return whom(self.client, self.forget)


def whom(client: str, forget: Mapping[str, Any]) -> str:
    """A client, or the records of it that are forgotten, in words."""
    named = [
        f"{key} {value if isinstance(value, (int, float)) else ', '.join(map(str, value))}"
        for key, value in forget.items()
    ]
    return f"{'; '.join(named)} of {client}" if named else client


class Finished:
    """A finished run that a client is to be taken out of.

    Args:
        path: its folder.

    Raises:
        InputError: it is not finished, or is not as its run left it; or nothing can go on from it.
    """

    def __init__(self, path: Path) -> None:
        # A link such as `latest` is another folder's name soon.
        self.folder = RunFolder.open(path.resolve())
        self.path = self.folder.path
        self.record = run_record(self.folder)
        refuse(self.path, edited(self.path, self.record))
        if self.record["status"] != "done":
            raise InputError(
                f"{path} is not finished: it is {self.record['status']}",
                hint=f"finish it first: fedsim run --resume {path}",
            )
        self.scenario = load(self.path / "scenario.yaml", [])
        activate_plugins(self.scenario)
        self._require_averaging()
        self._require_rounds_that_wait()
        there = any((self.path / "checkpoint").glob(f"round-*{SUFFIX}"))
        found = Checkpoints(self.folder).latest() if there else None
        if found is None or found.round != self.scenario.rounds or found.exchange:
            raise InputError(
                f"{path} has no checkpoint of its last round, which unlearning begins with",
                hint="fedsim clean removes checkpoints: run it again, "
                f"fedsim run {path / 'scenario.yaml'} --seed {self.record['seed']}",
            )
        self.checkpoint: Checkpoint = found

    def _require_averaging(self) -> None:
        name = self.scenario.strategy.name
        if deployed_nodes(self.record):
            raise InputError(f"{self.path} was a federation of nodes, which cannot go on here")
        if name.startswith(PREFIX):
            raise InputError(
                f"{self.path} has unlearned already: a run is withdrawn from once",
                hint="for another request alone, begin with its parent in run.json; to be without "
                "both, train anew without both",
            )
        if not capabilities(default_registry().resolve("strategies", name)).withdrawal:
            raise InputError(
                f"{self.path} is a run of strategy {name!r}: unlearning goes on from "
                f"{' and '.join(_those_that_keep('model', 'history'))} alone",
                hint=f"type {_with_history()} next time",
            )

    def _require_rounds_that_wait(self) -> None:
        clock = self.scenario.federation.clock
        if clock is not None and not clock.waits:
            raise InputError(
                f"{self.path} is a run with federation.clock.kind={clock.kind}: unlearning goes on "
                "in rounds that wait for all who are asked, and it had none",
                hint="type federation.clock.kind=synchronous, or deadline, next time",
            )

    @property
    def clients(self) -> list[str]:
        """Names of the clients, in client order."""
        return list(self.record["data"]["sizes_by_client"])

    @property
    def arrays(self) -> ArrayRecord:
        """Its last model."""
        return tensor_record(self.checkpoint.arrays)

    @property
    def kept(self) -> Mapping[str, Any]:
        """What it kept: name of a memory -> its state."""
        found: Mapping[str, Any] = self.checkpoint.strategy.get("memories", {})
        return found

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """What can be done with what was kept: procedure -> parameters that it was kept for."""
        told: Mapping[str, Mapping[str, Any]] = getattr(self._strategy, "methods", {})
        return {name: {} for name in WITHOUT_HISTORY} | {k: dict(v) for k, v in told.items()}

    def parameters(self, asked: Asked) -> dict[str, Any]:
        """Those of the procedure's strategy."""
        # How the training averaged: the retraining does likewise.
        own = {key: getattr(self._strategy, key) for key in ("weighting", "codec")}
        told = self.methods.get(asked.method) or self.methods.get(short_name(asked.method)) or {}
        known = {"train_rounds": self.scenario.rounds, **own, **told, **asked.parameters}
        return known | {"client": None if asked.forget else asked.client}

    @cached_property
    def _strategy(self) -> Any:
        """That of the training."""
        block = self.scenario.strategy
        return construct(default_registry().resolve("strategies", block.name), block.parameters)

    def prepared(self, asked: Asked, starter: Starter) -> Prepared:
        """What the new run is made of; refuses what cannot be done with what was kept.

        Raises:
            InputError: there is no such client or procedure, or what it needs was not kept.
        """
        if asked.client not in self.clients:
            raise InputError(
                f"there is no client {asked.client!r} in {self.path}",
                hint=f"the clients are {', '.join(self.clients)}",
            )
        procedure = self._procedure(asked)
        self._require_kept(asked, procedure)
        rounds = self.scenario.rounds + procedure.unlearn_rounds + asked.rounds
        scenario = self._scenario(asked, rounds)
        prepared = prepare(scenario, self.record["seed"], starter.say, starter.progress)
        here = json.loads(json.dumps(prepared.federation.describe()))
        if here["fingerprint"] != self.record["data"]["fingerprint"]:
            raise InputError(f"the data are not those that {self.path} was trained on")
        # The strategy refuses what it cannot do before there is a folder.
        with assembled(prepared, step_limit=1):
            return prepared

    def _procedure(self, asked: Asked) -> Procedure:
        if wrong := [key for key in _OF_THE_TRAINING if key in asked.parameters]:
            raise InputError(
                f"{wrong[0]} is that of the training, which is done",
                hint=f"leave {wrong[0]} out",
            )
        if "client" in asked.parameters:
            raise InputError("client is no parameter here", hint="type --client NAME")
        kind = default_registry().resolve("strategies", procedure_name(asked.method))
        found = construct(kind, self.parameters(asked))
        if not isinstance(found, Procedure):
            raise InputError(
                f"{asked.method!r} is no procedure of unlearning",
                hint=f"with this run these go: {', '.join(self.methods)}",
            )
        if asked.forget and not found.takes_records:
            raise InputError(
                f"{asked.name} is defined for whole clients, not for some of their records",
                hint=f"these forget records: {', '.join(WITHOUT_HISTORY)}",
            )
        return found

    def _require_kept(self, asked: Asked, procedure: Procedure) -> None:
        """Refuse what needs a history that there is not, or that was kept for something else."""
        problems = []
        for memory in procedure.memories([self.clients.index(asked.client)], len(self.clients)):
            if why := self._why_not(memory):
                problems.append(Problem(str(self.path), why))
        if not problems:
            return
        ready = [name for name in self.methods if self._goes(name, asked)]
        raise InputError(
            f"{asked.name} needs what this run did not keep",
            problems,
            hint=f"next time train with {_with_history()} (strategy.methods names procedures "
            f"and their parameters); with this run still go: {', '.join(ready)}, with the "
            "parameters that it was told",
        )

    def _goes(self, name: str, asked: Asked) -> bool:
        """Whether a procedure has all that it needs."""
        own = replace(asked, method=name, parameters={}, forget={})
        kind = default_registry().resolve("strategies", procedure_name(name))
        found: Procedure = construct(kind, self.parameters(own))
        return not any(map(self._why_not, found.memories([0], len(self.clients))))

    def _why_not(self, memory: Memory) -> str:
        """Why a memory cannot be had; "" where it can."""
        if memory.name not in self.kept:
            return f"it kept no {memory.words.removeprefix('the ')}"
        try:
            memory.load_state_dict(self.kept[memory.name])
        except ValueError as error:
            return str(error)
        return ""

    def _scenario(self, asked: Asked, rounds: int) -> Scenario:
        """That of the new run."""
        block = {"name": procedure_name(asked.method), **self.parameters(asked)}
        words = [f"strategy={json.dumps(block)}", f"rounds={rounds}", *self.words(asked)]
        found = load(self.path / "scenario.yaml", words)
        # The seeds of the file are those of runs that train: this one goes on from one of them.
        name = f"{self.record['scenario']}_{asked.name}"[:80]
        return found.model_copy(update={"name": name, "seeds": (self.record["seed"],)})

    def words(self, asked: Asked) -> list[str]:
        """What is forgotten, as words of the command line; [] where a whole client leaves."""
        if not asked.forget:
            return []
        # Names of clients may hold dots, so the whole block is written.
        told = self.scenario.federation.overrides
        block = {name: one.model_dump(exclude_unset=True) for name, one in told.items()}
        block.setdefault(asked.client, {})["forget"] = dict(asked.forget)
        return [f"federation.overrides={json.dumps(block)}"]

    def run(self, asked: Asked, runs: Path, starter: Starter) -> Result:
        """Take the client out, in a new run folder below `runs`.

        Raises:
            InputError: it cannot be done; no folder is made then.
            ClientError, RunError: the run failed.
        """
        prepared = self.prepared(asked, starter)
        procedure = prepared.strategy
        assert isinstance(procedure, Procedure)
        needed = procedure.memories([self.clients.index(asked.client)], len(self.clients))
        memories = {}
        for memory in needed:
            memory.load_state_dict(self.kept[memory.name])
            memories[memory.name] = memory.state_dict()
        state = {"memories": memories, "told": []}
        return begin_after(
            prepared,
            runs,
            starter,
            self.path,
            replace(self.checkpoint, strategy=state),
            {"parent": self.lineage()},
        )

    def lineage(self) -> dict[str, Any]:
        """What the new run's run.json says of this one."""
        return {
            "run_id": self.record["run_id"],
            "scenario": self.record["scenario"],
            "folder": self.path.name,
            "rounds": self.scenario.rounds,
        }

    def lines(self, asked: Asked, prepared: Prepared) -> list[str]:
        """What will be done, and what it will cost, for a person, before it begins."""
        procedure = prepared.strategy
        assert isinstance(procedure, Procedure)
        rows = self.folder.read_lines("rounds.jsonl")
        left = len(self.clients) - (not asked.forget)
        asks = (asked.rounds * left + procedure.unlearning_asks(left)) / len(self.clients)
        seconds = asks * sum(row["seconds"] for row in rows) / len(rows)
        up, down = (asks * sum(row[key] for row in rows) / len(rows) for key in _MEGABYTES)
        history = history_mb(prepared, self.arrays, len(self.clients))
        return [
            f"{asked.name}: {asked.whom} leaves {self.path.name}, after {self.scenario.rounds} "
            "round(s)",
            f"  unlearning {procedure.unlearn_rounds} round(s), then {asked.rounds} of training "
            "without it",
            f"  uses       {self._used(asked, procedure)}",
            f"  costs      about {up:.3f} MB up, {down:.3f} MB down and {seconds:.0f} s, if rounds "
            "are like those of the training",
            f"  stored     {history:.3g} MB of history, kept by the training for any client; the "
            "new folder is as large as the old one",
            *([f"  warning    {FALLING}"] if falls(self.scenario) else []),
        ]

    def _used(self, asked: Asked, procedure: Procedure) -> str:
        """What of the history a procedure uses, in words."""
        needed = procedure.memories([self.clients.index(asked.client)], len(self.clients))
        return ", ".join(memory.words for memory in needed) or "nothing that was kept"


def _those_that_keep(*what: str) -> list[str]:
    """The strategies whose finished runs keep something for unlearning."""
    return those_that(
        default_registry(), "strategies", lambda one: capabilities(one).withdrawal in what
    )


def _with_history() -> str:
    """What to type for a run that keeps a history."""
    return " or ".join(f"strategy={name}" for name in _those_that_keep("history"))


_MEGABYTES = ("mb_up", "mb_down")

FALLING = (
    "the learning rate falls over all rounds, so what is trained again gets its last part alone: "
    "even scratch is a weak reference then"
)
"""Said of a training whose learning rate depends on the number of rounds."""


def falls(scenario: Scenario) -> bool:
    """Whether the clients' learning rate falls from the first round to the last one."""
    made: Any = make_client(scenario, None)
    last = getattr(made, "last_learning_rate", None)
    return last is not None and last != made.learning_rate


def history_mb(prepared: Prepared, arrays: ArrayRecord, clients: int) -> float:
    """Megabytes that a training with all keeps for a procedure, whoever leaves."""
    found: Any = prepared.strategy
    model = tensors(arrays)
    memories = found.memories(range(clients), clients)
    return sum(one.bytes(found.train_rounds, model) for one in memories) / 1e6


def departure_of(scenario: Scenario) -> Departure | None:
    """Who is to leave a run of this scenario once it is done, and how; None: nobody."""
    from fedsim.method.strategy import Strategy

    kind = default_registry().resolve("strategies", scenario.strategy.name)
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        return None
    found: Strategy = construct(kind, scenario.strategy.parameters)
    return found.departure()


def asked_of(departure: Departure, trained: int) -> Sequence[Asked]:
    """What a departure asks for, one after the other; `trained` is how many rounds the run had."""
    rounds = trained if departure.rounds is None else departure.rounds
    return [
        Asked(departure.client, name, parameters, rounds, {})
        for name, parameters in departure.methods.items()
    ]
