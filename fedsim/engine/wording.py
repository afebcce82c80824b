"""What is told of a run before it begins: to a person, and in run.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fedsim.engine.disclosures import released_without_privacy
from fedsim.engine.prepare import Prepared
from fedsim.folder.runfolder import SCHEMA_VERSION, environment, now
from fedsim.grid.gpu import gpu_name
from fedsim.grid.machine import has_gpu_driver, on_gpu
from fedsim.ledger.privacy import describe, mechanism_name, trust_note, unit_note
from fedsim.method.strategy import Strategy
from fedsim.models.build import Pretrained
from fedsim.privacy.accounting import ACCOUNTANT_NAMES, UNIT_NAMES
from fedsim.privacy.plan import PrivacyPlan
from fedsim.report.text import positive_note
from fedsim.scenario import Resources
from fedsim.scenario.overrides import describe_overrides, override_lines


def opening_lines(prepared: Prepared) -> Iterator[str]:
    """What a person must know before the first round, a line each."""
    plan = prepared.privacy
    yield title_line(prepared)
    if line := device_line(prepared.scenario.resources):
        yield line
    for note in prepared.federation.notes(counts=plan is None):
        yield f"data: {note}"
    if prepared.pretrained is not None:
        yield pretrained_line(prepared.pretrained)
    for item in prepared.disclosed:
        yield f"CLIENTS SEND {item}"
    yield from override_lines(prepared.scenario, prepared.federation.forget)
    yield from _adversary_lines(prepared)
    if plan is not None:
        yield privacy_line(plan)
        for worth in filter(None, (unit_note(plan), trust_note(plan))):
            yield f"NOTE {worth}"


def _adversary_lines(prepared: Prepared) -> Iterator[str]:
    """Who colludes, and what the defence does not promise."""
    conspiracy, strategy, count = prepared.conspiracy, prepared.strategy, len(prepared.names)
    if conspiracy is not None:
        yield conspiracy.line(count)
    if isinstance(strategy, Strategy):
        for doubt in strategy.doubts(count):
            yield f"NOTE {doubt}"
        tolerated = strategy.tolerates
        if conspiracy is not None and tolerated is not None and len(conspiracy.clients) > tolerated:
            yield (
                f"NOTE strategy.byzantine is {tolerated}, but {len(conspiracy.clients)} clients "
                "collude: the rule promises nothing against so many"
            )
    if conspiracy is not None and prepared.privacy is not None:
        yield "NOTE epsilon is that of honest clients: colluders do what they like with their data"


def title_line(prepared: Prepared) -> str:
    """What is run, with which seed, on which data."""
    scenario, federation = prepared.scenario, prepared.federation
    store = federation.store
    sizes = ", ".join(f"{len(where)} {name}" for name, where in federation.split.items())
    if store.source == "embedded":
        origin = f"EMBEDDED STAND-IN for {scenario.data.name} (generated images, not real data)"
    else:
        origin = f"{scenario.data.name} from {store.root}"
    things = federation.task.things
    told = positive_note(federation.task.positive, getattr(store, "positive_rule", ""))
    parts = (origin, f"{len(federation.train)} clients", f"{things}: {sizes}", told)
    return f"{scenario.name}, seed {prepared.seed}: {'; '.join(filter(None, parts))}"


def device_line(resources: Resources) -> str:
    """Where all is computed, where that is a GPU, or could be one; else ""."""
    if on_gpu(resources):
        return f"computing on the GPU: {gpu_name()}"
    if resources.gpus == "auto" and has_gpu_driver() and resources.ray_address is None:
        return "computing on the CPU: this machine may have a GPU, but PyTorch sees none"
    return ""


def describe_device(resources: Resources) -> dict[str, Any]:
    """The `device` entry of run.json."""
    if not on_gpu(resources):
        why = "resources.gpus=0"
        if resources.gpus == "auto":
            why = "there is no GPU here"
            if resources.ray_address is not None:
                why = "on a cluster resources.gpus=auto asks for none"
        return {"used": "cpu", "name": None, "why": why}
    return {"used": "cuda", "name": gpu_name(), "why": f"resources.gpus={resources.gpus}"}


def pretrained_line(pretrained: Pretrained) -> str:
    """What the model begins with, in one line."""
    line = f"first weights: {pretrained.source} (SHA-256 {pretrained.sha256[:12]})"
    if pretrained.kept:
        line += f"; the head is not among them and begins at random: {', '.join(pretrained.kept)}"
    return line


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
        by = ACCOUNTANT_NAMES[planned.accountant]
        costs = f"epsilon {planned.epsilon:.3g} ({by})"
    if not plan.certified:
        costs = f"NO GUARANTEE: the paper claims {costs}"
    often = "" if plan.trainings is None else f" with {plan.trainings} exchange(s) that train"
    return (
        f"{costs} at delta {settings.delta:g} after {plan.rounds} round(s){often} "
        f"for every {UNIT_NAMES[plan.unit]}{trusting(plan)}"
    )


def trusting(plan: PrivacyPlan) -> str:
    """Whom epsilon trusts, in a few words; "" for nobody."""
    return f", if all {len(plan.clients)} clients mask their sums" if plan.shares_noise else ""


def run_entries(prepared: Prepared) -> dict[str, Any]:
    """The content of run.json as a run begins, but for its identity."""
    scenario, federation, plan = prepared.scenario, prepared.federation, prepared.privacy
    return {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario.name,
        "seed": prepared.seed,
        "data": {"name": scenario.data.name, **federation.describe(count_classes=plan is None)},
        "task": federation.task.facts.record(),
        "pretrained": None if prepared.pretrained is None else asdict(prepared.pretrained),
        "privacy": None if plan is None else describe(plan),
        "unit_from": prepared.unit_from,
        "released_without_privacy": released_without_privacy(
            scenario, federation, plan, one_shot=prepared.one_shot, carried=prepared.disclosed
        ),
        "device": describe_device(scenario.resources),
        "computing": prepared.mode.record(prepared.names),
        "overrides": describe_overrides(scenario, federation.forget),
        "backend": None,
        "adversary": None if prepared.conspiracy is None else prepared.conspiracy.record(),
        **environment(),
        "started": now(),
        "finished": None,
        "status": "running",
    }
