"""The server of a federation: who the nodes are, and then the rounds of every run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsim.deployment.absent import AbsentStore
from fedsim.deployment.exported import Facts, exported_scenario
from fedsim.deployment.greeting import HELLO, Greeting
from fedsim.deployment.grid import DeployedGrid, Member
from fedsim.deployment.settings import RunSettings
from fedsim.engine import running
from fedsim.engine.disclosures import released_without_privacy
from fedsim.engine.prepare import Prepared, check_model
from fedsim.engine.privacy import plan_of_units
from fedsim.engine.result import Result
from fedsim.engine.running import Starter
from fedsim.engine.strategies import build_strategy
from fedsim.errors import InputError, Problem
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.federation.opening import dataset_of, task_of
from fedsim.folder.identity import DEPLOYMENT
from fedsim.grid.base import BaseGrid
from fedsim.grid.worker import Job
from fedsim.ledger.traffic import TrafficLedger
from fedsim.observers.base import Observer
from fedsim.observers.folder import FolderWriter
from fedsim.observers.page import Page
from fedsim.observers.pictures import Pictures
from fedsim.observers.standard import named_observers
from fedsim.observers.telling import Observers
from fedsim.pretrained.loading import file_of
from fedsim.privacy.plan import PrivacyPlan, plan_client_privacy
from fedsim.report.text import closing_lines
from fedsim.scenario import Scenario
from fedsim.terminal.console import Console

_POLL_SECONDS = 0.5
_EMBEDDED = "embedded"


def make_server_app(folder: Path) -> ServerApp:
    """The `ServerApp` of an exported app; `folder` is that of its package."""
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        serve(folder, grid, context)

    return app


def serve(folder: Path, grid: Grid, context: Context) -> Result:
    """Run the app's scenario over the nodes of a grid, into a new run folder.

    Args:
        folder: of the app's package.
        grid: Flower's.
        context: its `run_config` says what `RunSettings` holds.

    Raises:
        InputError: the app or its configuration cannot be used, or a node cannot take part; all
            nodes' reasons at once.
        ClientError, RunError: the run failed.
    """
    console, here = Console(), Path.cwd()
    settings, facts = RunSettings.of(context.run_config), Facts.read(folder)
    scenario = _scenario(folder, facts, settings)
    members = _members(grid, facts, settings.wait, console.line)
    prepared = _prepared(scenario, settings, facts, members, console)
    nodes = {
        name: {"records": member.greeting.records, "held_out": member.greeting.held_out}
        for name, member in zip(facts.clients, members, strict=True)
    }
    if not settings.scores:
        console.line("NOTE the server has no data: it scores nothing")
    plan = prepared.privacy
    at_nodes = plan is not None and plan.unit != "client"

    def make_grid(job: Job, ledger: TrafficLedger, tick: Callable[[], None]) -> BaseGrid:
        noise = plan.noise_multiplier if plan is not None and at_nodes else None
        return DeployedGrid(job, ledger, tick, real=grid, members=members, noise_multiplier=noise)

    result = running.begin(
        prepared,
        here / settings.runs,
        Starter(lambda made: _watching(made, console), console.line, console.preparing),
        make_grid,
        {
            DEPLOYMENT: {"flower_run": str(context.run_id), "nodes": nodes},
            "released_without_privacy": released_without_privacy(
                scenario, prepared.federation, plan, one_shot=prepared.one_shot, simulated=False
            ),
        },
    )
    for line in closing_lines(result.summary, result.folder, here):
        console.line(line)
    return result


def _scenario(folder: Path, facts: Facts, settings: RunSettings) -> Scenario:
    """The app's scenario, with the server's data."""
    if settings.scores and facts.root and settings.root is None:
        raise InputError(
            "the app was exported with data from a folder, and the server names none",
            hint="type: flwr run APP SUPERLINK --run-config 'data-root=\"DIR\"', or "
            "'server-data=false' where the server has none",
        )
    if settings.scores:
        return exported_scenario(folder, settings.root)
    # Data sets without a stand-in ask for a folder; this one is never read.
    scenario = exported_scenario(folder, str(folder.absolute()))
    keys = {
        "data.features": scenario.data.features is not None,
        "evaluation.select": scenario.evaluation.select == "pooled_val",
        "evaluation.val_scores": scenario.evaluation.val_scores,
    }
    if key := next((key for key, asked in keys.items() if asked), ""):
        raise InputError(
            f"the scenario has {key}, for which the server needs data",
            hint="type: flwr run APP SUPERLINK --run-config 'data-root=\"DIR\"'",
        )
    return scenario.model_copy(update={"data": scenario.data.model_copy(update={"root": None})})


def _watching(prepared: Prepared, console: Console) -> Observers:
    """Who watches: those of every run that need not see the clients' records."""
    own: list[Observer] = [FolderWriter(prepared), console]
    if len(prepared.federation.split["test"]):
        own.append(Pictures(prepared, console.line))
    own.append(Page(console.line))
    named = named_observers(prepared.scenario)
    names = {id(one): name for name, one in named}
    return Observers([*own, *(one for _, one in named)], names)


# --- Who is there -------------------------------------------------------------------------------


def _members(grid: Grid, facts: Facts, seconds: float, say: Callable[[str], None]) -> list[Member]:
    """The nodes in client order, once all of them have said who they are.

    Raises:
        InputError: nodes cannot take part, are missing when the time is over, or are the same
            client.
    """
    wanted, end = len(facts.clients), time.monotonic() + seconds
    asked: dict[str, tuple[int, Message]] = {}
    known: set[int] = set()
    found: list[Member] = []
    problems: list[Problem] = []
    say(f"waiting for {wanted} node(s)")
    while len(found) + len(problems) < wanted and time.monotonic() < end:
        for node in sorted(set(grid.get_node_ids()) - known):
            known.add(node)
            question = Message(RecordDict({"hello": ConfigRecord({})}), node, HELLO)
            for message_id in grid.push_messages([question]):
                asked[message_id] = node, question
        for answer in grid.pull_messages(list(asked)) if asked else ():
            node, question = asked.pop(answer.metadata.reply_to_message_id)
            try:
                if answer.has_error():
                    raise ValueError(answer.error.reason or f"error {answer.error.code}")
                found.append(Member(node, Greeting.of(answer.content), question, answer))
            except ValueError as error:
                problems.append(Problem(f"node {node}", str(error)))
        time.sleep(_POLL_SECONDS)
    missing = wanted - len(found) - len(problems)
    if missing > 0:
        what = f"{missing} of {wanted} nodes did not say who they are within {seconds:g} s"
        problems.append(Problem("nodes", what))
    return _in_order(found, facts, problems)


def _in_order(found: Sequence[Member], facts: Facts, problems: list[Problem]) -> list[Member]:
    """The members in client order; InputError where they are not one of each."""
    by_client: dict[int, Member] = {}
    for member in found:
        client = member.greeting.client
        if not 0 <= client < len(facts.clients):
            problems.append(Problem(f"node {member.node}", f"there is no client {client}"))
        elif client in by_client:
            other = by_client[client].node
            what = f"is client {client} ({facts.clients[client]}), and so is node {other}"
            problems.append(Problem(f"node {member.node}", what))
        by_client[client] = member
    sources = {member.greeting.source for member in found}
    if len(sources) > 1:
        stand_ins = [str(m.node) for m in found if m.greeting.source == _EMBEDDED]
        what = f"node(s) {', '.join(stand_ins)} have generated images, and the others their own"
        problems.append(Problem("nodes", what))
    if problems:
        raise InputError(
            "the federation cannot begin",
            problems,
            hint="correct these nodes' --node-config, start them again, and type flwr run again",
        )
    return [by_client[client] for client in range(len(facts.clients))]


# --- What the server has ------------------------------------------------------------------------


@dataclass(frozen=True)
class NodesFederation(Federation):
    """What a server knows of a federation: its own test and validation split, and counts.

    Which records the nodes have it does not know: `train` and `val` hold their names, and nothing.

    Attributes:
        greetings: client name -> who its node said it is.
    """

    greetings: dict[str, Greeting] = field(default_factory=dict)

    def describe(self, *, count_classes: bool = True) -> dict[str, Any]:
        """The `data` entry of run.json, with what the nodes said."""
        about = super().describe(count_classes=False)
        sizes = {
            name: {"train": one.records, "val": one.held_out}
            for name, one in self.greetings.items()
        }
        total = sum(one.records for one in self.greetings.values())
        return about | {"sizes_by_client": sizes, "sizes": {"train": total, **about["sizes"]}}

    def notes(self, counts: bool = True) -> list[str]:
        """What a person must know of the server's own data."""
        return super().notes(counts=False)


def _prepared(
    scenario: Scenario,
    settings: RunSettings,
    facts: Facts,
    members: Sequence[Member],
    console: Console,
) -> Prepared:
    """What the run is made of, without the clients' records."""
    if scenario.model.init is not None:
        file_of(scenario.model.init, console.line)
    greetings = dict(zip(facts.clients, (one.greeting for one in members), strict=True))
    if settings.scores:
        here = build_federation(scenario, settings.seed, console.preparing)
    else:
        here = _without_data(scenario, facts, members[0].greeting.source)
    facts.require_alike(here.task)
    nothing = dict.fromkeys(facts.clients, np.zeros(0, np.int64))
    split = {name: where for name, where in here.split.items() if name != "train"}
    federation = NodesFederation(
        here.store, split, nothing, nothing, here.task, here.external, greetings=greetings
    )
    pretrained = check_model(scenario, here.task)
    plan = _plan(scenario, greetings, console.line)
    strategy = build_strategy(scenario, len(facts.clients), plan)
    unit_from = None if plan is None else "scenario"
    return Prepared(
        scenario,
        settings.seed,
        federation,
        plan,
        strategy,
        unit_from=unit_from,
        pretrained=pretrained,
    )


def _without_data(scenario: Scenario, facts: Facts, source: str) -> Federation:
    """A federation of which the server has no record: nothing is scored there."""
    kind = task_of(dataset_of(scenario), scenario)
    store = AbsentStore.of(scenario, facts, source)
    nothing = np.zeros(0, np.int64)
    task = kind.of(scenario, store, list(facts.clients))
    return Federation(store, {"val": nothing, "test": nothing}, {}, {}, task)


def _plan(
    scenario: Scenario, greetings: dict[str, Greeting], say: Callable[[str], None]
) -> PrivacyPlan | None:
    """What the nodes release, by the units that they say they have."""
    settings = scenario.privacy
    if settings is None:
        return None
    if settings.unit == "client":
        return plan_client_privacy(settings, scenario.rounds, list(greetings), say=say)
    units = {name: one.units for name, one in greetings.items()}
    if empty := [name for name, count in units.items() if not count]:
        raise InputError(f"privacy: node {empty[0]!r} has no training records")
    most = max(one.most_records for one in greetings.values())
    return plan_of_units(
        scenario, units, most_records=most if settings.unit == "record" else 1, say=say
    )
