"""What the run promises to the people in the data, in words that a data officer can use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedsim.folder.tuned import price_of_choice
from fedsim.report.blocks import Block, Details, Figure, Heading, Items, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.many import MANY, TITLES, spread_rows
from fedsim.report.record import NUMBER, Record
from fedsim.report.rendering import Table
from fedsim.report.sections.words import unit_name
from fedsim.tasks.words import spoken

_NAMES = {
    "trust": "noise is enough in",
    "certified": "proved",
    "unit": "protected is one",
    "most_records": "most records of one patient or lesion",
    "adjacency": "neighbours",
    "across_clients": "over clients",
    "max_grad_norm": "clipping norm",
    "target_epsilon": "epsilon aimed at",
    "max_epsilon": "epsilon never exceeded",
    "epsilon_planned": "epsilon of all rounds, best bound",
    "epsilon_planned_rdp": "the same by Rényi accounting (RDP)",
    "epsilon_claimed_planned": "epsilon that the paper claims, unproved",
    "randomness": "noise comes from",
}
_ACROSS = {
    "max": "the largest epsilon of a client counts: no patient is at two",
    "sum": "what all sites release of a patient adds up",
}
_ACCOUNTANTS = {
    "prv": "numerical composition of privacy losses (PRV)",
    "rdp": "Rényi differential privacy (RDP)",
    "analytic": "the exact epsilon of the Gaussian mechanism (Balle & Wang 2018)",
}


def section(record: Record, drawn: Mapping[str, Picture]) -> Section:
    """The words, what they do not cover, and the numbers behind them."""
    plan = record.run.get("privacy")
    if isinstance(plan, Mapping) or _spent(record) is not None:
        blocks = _promise(record, plan if isinstance(plan, Mapping) else {})
        blocks += _audit(record)
    else:
        blocks = [
            Text(
                "No privacy mechanism: epsilon is not defined. No noise was added, and nothing "
                "bounds what the messages and the model say about a single person."
            )
        ]
    blocks += _released(record, private=isinstance(plan, Mapping))
    if "epsilon" in drawn:
        blocks.append(Figure(drawn["epsilon"]))
    if isinstance(plan, Mapping):
        blocks += _planned(plan)
    return Section("privacy", "Privacy", blocks)


def _spent(record: Record) -> float | None:
    """Epsilon of the run, or so far; None where none is proved."""
    newest = record.rounds[-1] if record.rounds else {}
    found = (record.summary or {}).get("epsilon")
    if record.summary is None:
        found = newest.get("epsilon_upper", newest.get("epsilon"))
    return float(found) if isinstance(found, NUMBER) else None


def _promise(record: Record, plan: Mapping[str, Any]) -> list[Block]:
    """What is promised, or that nothing is."""
    summary = record.summary or {}
    newest = record.rounds[-1] if record.rounds else {}
    unit = summary.get("unit") or plan.get("unit") or newest.get("unit") or "record"
    one = unit_name(unit)
    delta = summary.get("delta") or plan.get("delta") or newest.get("delta")
    epsilon = _spent(record)
    blocks: list[Block] = []
    if epsilon is None or plan.get("certified") is False:
        claimed = summary.get("epsilon_claimed", newest.get("epsilon_claimed"))
        told = "NO GUARANTEE: no proof stands behind this mechanism"
        if isinstance(claimed, NUMBER):
            told += f"; the paper that describes it claims an epsilon of {claimed:.3g}"
        if plan or claimed is not None:
            blocks.append(Text(f"{told}. Treat the model as one without privacy.", "warning"))
    else:
        so_far = "" if record.summary else " so far"
        blocks += _words(epsilon, delta, one, so_far)
    if price := price_of_choice(record.path):
        blocks.append(Text(price, "warning"))
    if unit == "client":
        blocks.append(
            Text(
                "The server adds the noise, to each round's mean: it sees every client's update "
                "and is trusted with it."
            )
        )
    elif note := summary.get("trust_note") or plan.get("trust_note"):
        blocks.append(Text(f"Each client adds a share of the noise. {_sentence(note)}", "warning"))
    elif plan:
        blocks.append(Text("Each client adds the noise itself, before anything leaves it."))
    if str(plan.get("randomness", "")).startswith("simulation"):
        blocks.append(
            Text(
                "The noise of this run follows from its seed (simulation-grade): whoever knows or "
                "guesses the seed can remove it. That is right for a study. A model that is handed "
                "on as private has to be trained with privacy.noise=secret.",
                "warning",
            )
        )
    if note := summary.get("unit_note") or plan.get("unit_note"):
        blocks.append(Text(str(note), "warning"))
    rows: list[tuple[str, Any]] = [
        ("epsilon" if record.summary else "epsilon so far", epsilon),
        ("epsilon by Rényi accounting (RDP)", summary.get("epsilon_rdp")),
        ("epsilon that is only claimed", summary.get("epsilon_claimed")),
        ("delta", delta),
        ("protected is one", one),
        ("MB up that masking the sum would take", summary.get("masked_sum_mb")),
        ("bound by", _ACCOUNTANTS.get(str(summary.get("accountant")), summary.get("accountant"))),
        ("proved", bool(summary.get("certified", newest.get("certified")))),
    ]
    shown = [(name, value) for name, value in rows if value is not None]
    return [*blocks, Table("Differential privacy", ("what", "value"), shown)]


def _sentence(note: Any) -> str:
    """A note as a sentence."""
    return f"{str(note)[:1].upper()}{str(note)[1:]}."


def _words(epsilon: float, delta: Any, one: str, so_far: str) -> list[Block]:
    """A proved epsilon in words.

    The best guess whether a unit's contents were used, both equally likely before, is right with
    probability at most (e^epsilon + delta) / (1 + e^epsilon) (Kairouz et al. 2015).
    """
    known = float(delta) if isinstance(delta, NUMBER) else 0.0
    # Beyond, it is 1 at any number of digits.
    odds = math.exp(min(epsilon, 700.0))
    right = 1 - (1 - known) / (1 + odds)
    hundreds = math.floor(1000 * right) / 10 if right < 0.999 else 99.9
    factor = f"{odds:.3g}" if epsilon < 20 else f"e^{epsilon:.3g}"
    bound = f"at most {hundreds:.3g}" if right < 0.999 else "perhaps all"
    return [
        Text(
            f"What is promised: epsilon {epsilon:.3g} at delta {known:g}{so_far}, for every {one}. "
            f"Whoever gets all that the clients sent, and the model, learns little more than if "
            f"the contents of any one {one} had been left out.",
            "lead",
        ),
        Text(
            f"How much more, in numbers: any conclusion becomes at most {factor} times as probable "
            f"by what one {one} holds, but for a chance of {known:g}. Who has to guess whether the "
            f"contents of one {one} were used, and would be right in 50 of 100 cases by tossing a "
            f"coin, is right in {bound} of 100."
        ),
        Text(f"How this is judged: {_judged(epsilon)}"),
    ]


def _judged(epsilon: float) -> str:
    """Where epsilon stands, by the tiers of Ponomareva et al., How to DP-fy ML (2023)."""
    tiers = "(tiers of Ponomareva et al., How to DP-fy ML, 2023)"
    if epsilon <= 1:
        return f"at most 1 is strong protection by the number alone {tiers}."
    if epsilon <= 10:
        return (
            f"between 1 and 10 is common in machine learning and reasonable, not strong {tiers}; "
            "fedsim audit attacks the claim, and says what it finds."
        )
    return (
        f"above 10 the number alone promises little or nothing {tiers}; take a smaller epsilon, "
        "or do not call the model private."
    )


def _audit(record: Record) -> list[Block]:
    found = (record.summary or {}).get("audit")
    if not isinstance(found, Mapping):
        return []
    line = str(found.get("line") or "an audit was made; summary.json has what it found")
    return [Text(f"Attacked by an audit: {line}", "warning" if found.get("violation") else "")]


def _released(record: Record, *, private: bool) -> list[Block]:
    released = record.run.get("released_without_privacy") or []
    if not released:
        return []
    told = "Released without a privacy mechanism:"
    if private:
        told = (
            "The promise covers the model and what the clients sent. It does not cover what is "
            "listed here; whoever publishes more of the run folder than the model publishes some "
            "of it. Released without a privacy mechanism:"
        )
    return [Heading("What is not protected"), Text(told), Items(released)]


def _planned(plan: Mapping[str, Any]) -> list[Block]:
    """What a private run was to release: the mechanism, and what it is for each client."""
    rows = [
        (
            _NAMES.get(key, spoken(key)),
            _mechanism(plan) if key == "mechanism" else _value(key, value),
        )
        for key, value in plan.items()
        if key not in ("clients", "unit_note", "trust_note", "accountants") and value is not None
    ]
    blocks: list[Block] = [Table("As it was planned", ("what", "value"), rows)]
    clients = plan.get("clients")
    if isinstance(clients, Mapping) and all(isinstance(c, Mapping) for c in clients.values()):
        blocks += _each(clients)
    return [Details("How the noise was planned, and what each client releases", blocks)]


def _value(key: str, value: Any) -> Any:
    if key == "across_clients":
        return _ACROSS.get(str(value), value)
    if key == "unit":
        return unit_name(value)
    return value


def _mechanism(plan: Mapping[str, Any]) -> Any:
    """What makes releases private, in words: steps of training, or one sum."""
    if plan.get("mechanism") != "dp_sgd":
        return plan.get("mechanism")
    accountants = plan.get("accountants")
    if isinstance(accountants, Mapping) and accountants.get("epsilon_planned") == "analytic":
        return (
            "Gaussian mechanism, once: what each unit adds to a sum is clipped, and noise is added"
        )
    return "DP-SGD: gradients of each step are clipped, and noise is added to their sum"


def _each(clients: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    names = list(dict.fromkeys(name for client in clients.values() for name in client))
    title = "What a client releases in a round"
    if len(clients) < MANY:
        rows = [(name, *(client.get(k) for k in names)) for name, client in clients.items()]
        return [Table(title, ("client", *map(spoken, names)), rows)]
    columns = {
        spoken(name): [
            value if isinstance(value := client.get(name), NUMBER) else None
            for client in clients.values()
        ]
        for name in names
    }
    more = Text(f"run.json has it for each of {len(clients)} clients.")
    return [Table(title, ("what", "clients", *TITLES), spread_rows(columns)), more]
