"""Who colluded, how the attack went, and what the server saw of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.report.blocks import Block, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.record import NUMBER, Record
from fedsim.report.rendering import Image, Table
from fedsim.report.sections.words import final_metrics, settings
from fedsim.tasks.words import spoken

_KNOWN = {
    "own": "what they trained themselves",
    "updates": "what all clients trained",
    "aggregator": "what all clients trained, and the rule of the server",
}
_METRICS = (
    ("backdoor_success", "test images of other classes taken for the target, with the square"),
    ("flagged_precision", "of those far out, the share that colluded"),
    ("flagged_recall", "of those that colluded, the share that was far out"),
    ("left_out_precision", "of those left out by the rule, the share that colluded"),
    ("left_out_recall", "of those that colluded, the share that was left out"),
    ("honest_left_out", "of honest clients, the share that was left out"),
)


def sections(record: Record, drawn: Mapping[str, Picture]) -> list[Section]:
    """The adversary, and the picture of what the server saw; none where there is neither."""
    adversary, picture = record.run.get("adversary"), drawn.get("seen")
    blocks: list[Block] = []
    if isinstance(adversary, Mapping):
        blocks += _adversary(record, adversary)
    certificate = (record.summary or {}).get("certificate")
    if isinstance(certificate, Mapping):
        blocks.append(Text(_certificate(certificate)))
    if picture is not None:
        files = f"Numbers: report/{picture.name}.csv; picture: report/{picture.name}.png."
        blocks.append(Image(picture.png, picture.alt, f"{picture.caption} {files}"))
    return [Section("colluders", "What the server saw of its clients", blocks)] if blocks else []


def _adversary(record: Record, adversary: Mapping[str, Any]) -> list[Block]:
    names = adversary.get("clients") or []
    rows: list[tuple[str, Any]] = [
        ("adversary", adversary.get("name")),
        ("settings", settings(adversary.get("parameters"), without=())),
        (
            "poisons",
            {"data": "its data", "model": "what it sends"}.get(adversary.get("poisons", "")),
        ),
        ("colluders", ", ".join(map(str, names))),
        (
            "picked by",
            {"seed": "the run's seed"}.get(adversary.get("picked_by", ""), "the scenario"),
        ),
        ("they know", _KNOWN.get(adversary.get("knows") or "")),
    ]
    blocks: list[Block] = [
        Table("The adversary", ("what", "value"), [row for row in rows if row[1] not in (None, "")])
    ]
    attacks = [one for row in record.rounds for one in row.get("attacks") or ()]
    if attacks:
        done = sum(bool(one.get("feasible")) for one in attacks)
        told = f"The attack could be made as it is meant in {done} of {len(attacks)} exchanges."
        blocks.append(Text(told, "" if done else "warning"))
    found = final_metrics(record)
    metrics = [
        (spoken(name), found[name], told)
        for name, told in _METRICS
        if isinstance(found.get(name), NUMBER)
    ]
    if metrics:
        caption = "Over all rounds, each client once an exchange; the backdoor in the final model"
        blocks.append(Table(caption, ("measure", "value", "what it is"), metrics))
    return blocks


def _certificate(found: Mapping[str, Any]) -> str:
    many = found.get("colluders")
    who = "One client moves" if many == 1 else f"{many} colluders move"
    return (
        f"Certificate: whatever they send, the aggregate is bounded. {who} it by at most "
        f"{found.get('norm_per_round', 0):.4g} (Euclidean norm) a round of {found.get('replies')} "
        "replies, before the server's momentum and learning rate."
    )
