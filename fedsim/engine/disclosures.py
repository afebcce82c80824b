"""What a run gives away of its data, or lets guide a choice, without a privacy mechanism.

The list stands in `run.json`. A guarantee covers the model and what clients send; whoever publishes
more of a run folder publishes what is named here, too. Each entry is there exactly when it applies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.federation.holdings import Federation
from fedsim.privacy.accounting import UNIT_NAMES
from fedsim.privacy.plan import PrivacyPlan
from fedsim.scenario import Scenario


def released_without_privacy(
    scenario: Scenario,
    federation: Federation,
    plan: PrivacyPlan | None,
    *,
    one_shot: bool,
    carried: Sequence[str] = (),
    simulated: bool = True,
) -> list[str]:
    """What leaves the sites, or guides choices, without a mechanism.

    Args:
        scenario: what is run.
        federation: its data.
        plan: what is released with a mechanism; None in a run without one.
        one_shot: clients send once.
        carried: what the client method says that its replies carry of the records themselves.
        simulated: whether the records of all clients are here; else at the nodes of a federation.
    """
    pooled, evaluation = "pooled validation split: ", scenario.evaluation
    selects = [pooled + "models are scored on it after rounds"] if evaluation.val_scores else []
    if evaluation.select == "pooled_val":
        selects = [pooled + "it selects the model"]
    if plan is None:
        labels = ["labels per client"] if federation.store.source == "path" else []
        messages = "client messages (traffic.jsonl names their fields)"
        return [*carried, *labels, messages, *selects]
    return [
        *carried,
        *_of_clients(scenario, plan),
        *selects,
        *_of_scores(scenario, federation),
        *(_of_the_simulation(federation, plan, one_shot) if simulated else ()),
        *_before_the_run(scenario),
    ]


def _of_clients(scenario: Scenario, plan: PrivacyPlan) -> list[str]:
    """What clients say besides their releases."""
    items = ["number of records of each client and split: in rates, in weights and in run.json"]
    if plan.unit == "patient":
        items.append(f"number of {UNIT_NAMES['patient']} units of each client (run.json)")
    if plan.unit == "client":
        items.append("what clients keep from round to round, without noise (checkpoint/)")
        items.append("updates of the clients, to the server, which is trusted with them")
        items.append("training metrics of each client, as the server saw them (rounds.jsonl)")
    if scenario.federation.local is not None:
        items.append("each client's own model, and its scores (models/, rounds.jsonl, checkpoint/)")
        if plan.unit == "client":
            items.append("what stays of a model at its client, trained without noise (models/)")
    if scenario.adversary is not None:
        items.append("what colluders make of their records, of which epsilon says nothing")
    if plan.most_records > 1:
        items.append(f"largest number of records of one {UNIT_NAMES['patient']} (run.json)")
    if scenario.evaluation.on_clients:
        items.append("metrics of each client on its validation records (rounds.jsonl)")
    items.append(
        "which clients fail, and their error texts and tracebacks, which may quote records "
        "(console, rounds.jsonl)"
    )
    late = ", with the delays of replies" if scenario.faults.delay > 0 else ""
    if scenario.federation.clock is not None:
        items.append("simulated hours of each client's tasks, which tell its number of records")
    items.append(f"seconds and memory of rounds{late}: the sizes of samples show in them")
    return items


def _of_scores(scenario: Scenario, federation: Federation) -> list[str]:
    """What scoring says of records that nobody trains on."""
    task = federation.task
    items = [f"scores on the test split, and what is predicted of each record ({task.file})"]
    if len(np.unique(federation.store.sites[federation.split["test"]])) > 1:
        items.append("scores on the test records of each site")
    if scenario.evaluation.external is not None:
        items.append("scores on external records")
    if task.pictures_told:
        items.append(task.pictures_told)
    return items


def _of_the_simulation(federation: Federation, plan: PrivacyPlan, one_shot: bool) -> list[str]:
    """What the simulator, which sees all records, writes down of them."""
    items = [
        "the split and the partition: labels, patients and sites decide who holds which record",
        "fingerprint of the data (run.json)",
    ]
    if federation.store.skipped:
        items.append("number of records that could not be read (run.json)")
    if one_shot and federation.task.compares_images:
        items.append("comparisons with real images, and some of these (synthetic/)")
    audited = plan.settings.audit
    if audited in ("run", "lira"):
        items.append(f"the audit, which trains on the records again at the level {audited!r}")
    return items


def _before_the_run(scenario: Scenario) -> list[str]:
    """What was learned before, and of what the guarantee says nothing."""
    items = ["hyper-parameters: the runs in which they were chosen"]
    if scenario.data.features is not None:
        items.append("data.features: the data that the frozen network was trained on")
        if scenario.data.features.public_root is not None:
            items.append("data.features.public_root: its images, whose map is in every model file")
    if scenario.model.init is not None:
        items.append("model.init: the data that the first weights were trained on")
    return items
