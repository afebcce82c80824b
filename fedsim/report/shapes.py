"""What the JSON files of a run folder hold, as far as it is read again.

A run of an older fedsim has no digests: what was edited in it by hand is found here. A key may be
missing, and others may be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from fedsim.folder.runfolder import RunFolder, damaged
from fedsim.scenario.parameters import explain

# A number beyond them is none that a run writes, and no array or format takes it.
_Number = Annotated[StrictFloat, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
_Whole = Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)]
_Count = Annotated[StrictInt, Field(ge=0, lt=2**63)]
_Seed = Annotated[StrictInt, Field(ge=0, lt=2**256)]
_Numbers = dict[StrictStr, _Number | None]
_Texts = list[StrictStr]


class _Data(TypedDict, total=False):
    name: StrictStr
    source: StrictStr
    root: StrictStr | None
    fingerprint: StrictStr
    skipped: _Count
    classes: _Texts | None
    positive: StrictStr | None
    classes_by_client: dict[StrictStr, list[_Count]] | None
    sizes: dict[StrictStr, _Count] | None
    sizes_by_client: dict[StrictStr, dict[StrictStr, _Count]] | None
    external: dict[StrictStr, Any] | None


class _Plan(TypedDict, total=False):
    unit: StrictStr | None
    certified: StrictBool
    delta: _Number | None
    target_epsilon: _Number | None
    max_epsilon: _Number | None
    epsilon_planned: _Number | None
    mechanism: StrictStr
    randomness: StrictStr
    unit_note: StrictStr | None
    trust: StrictStr | None
    trust_note: StrictStr | None


class _Adversary(TypedDict, total=False):
    name: StrictStr
    poisons: StrictStr
    clients: _Texts
    picked_by: StrictStr
    knows: StrictStr | None
    parameters: dict[StrictStr, Any]


class _Certificate(TypedDict, total=False):
    colluders: _Count
    replies: _Count
    norm_per_round: _Number


class _Seen(TypedDict):
    exchange: _Count
    clients: list[_Whole]
    distance: list[_Number]
    cosine: list[_Number | None]
    weight: list[_Number] | None
    chosen: list[StrictBool] | None
    flagged: list[StrictBool]


class _Run(TypedDict, total=False):
    scenario: StrictStr
    seed: _Seed
    status: StrictStr
    started: StrictStr
    finished: StrictStr | None
    data: _Data
    privacy: _Plan | None
    released_without_privacy: _Texts | None
    versions: dict[StrictStr, StrictStr] | None
    command: _Texts | None
    git_commit: StrictStr | None
    adversary: _Adversary | None
    files: dict[StrictStr, StrictStr] | None


class _Spent(TypedDict, total=False):
    epsilon: _Number | None
    epsilon_claimed: _Number | None
    epsilon_rdp: _Number | None
    epsilon_upper: _Number | None
    delta: _Number | None
    unit: StrictStr | None
    trust: StrictStr | None
    certified: StrictBool | None
    mb_up_total: _Number
    mb_down_total: _Number
    peak_rss_mb: _Number | None


class _Summary(_Spent, total=False):
    metrics: _Numbers
    rounds: _Count
    wall_seconds: _Number
    data_source: StrictStr
    unit_note: StrictStr | None
    trust_note: StrictStr | None
    masked_sum_mb: _Number | None
    certificate: _Certificate | None
    failed: _Count
    simulated_hours: _Number | None


_Task = TypedDict(
    "_Task",
    {"client": _Whole, "asked": _Count, "from": _Number, "to": _Number, "outcome": StrictStr},
)


class _Round(_Spent, total=False):
    round: _Count
    phase: StrictStr
    clients: list[_Whole]
    failed: list[Any]
    mb_up: _Number
    mb_down: _Number
    epsilon_by_client: _Numbers | None
    metrics: _Numbers
    metrics_by_client: dict[StrictStr, _Numbers]
    seen: list[_Seen] | None
    attacks: list[dict[StrictStr, Any]] | None
    seconds: _Number | None
    delay_seconds: _Number | None
    simulated_hours: _Number | None
    work: list[_Task] | None


class _Message(TypedDict, total=False):
    round: _Count
    client: _Whole
    direction: StrictStr
    bytes: _Count
    fields: dict[StrictStr, _Count]


_SHAPES: Mapping[str, pydantic.TypeAdapter[Any]] = {
    "run.json": pydantic.TypeAdapter(_Run),
    "summary.json": pydantic.TypeAdapter(_Summary),
    "rounds.jsonl": pydantic.TypeAdapter(_Round),
    "traffic.jsonl": pydantic.TypeAdapter(_Message),
}
_MOST = 3  # of one object


def wrong_in(name: str, value: Mapping[str, Any]) -> list[str]:
    """What is wrong with a JSON file of a run folder, or with a line of one.

    Args:
        name: of the file.
        value: its object, or that of a line.
    """
    if name not in _SHAPES:
        return []
    try:
        _SHAPES[name].validate_python(value)
    except pydantic.ValidationError as error:
        found = explain(error, value).items()
        return [f"{'.'.join(map(str, path))}: {why}" for path, why in found][:_MOST]
    return []


def refuse_misshapen(folder: RunFolder, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a file of a run folder that is not as a run writes it.

    Args:
        folder: the run folder.
        name: of the file.
        rows: its object, or those of its lines.
    """
    for number, row in enumerate(rows, 1):
        if found := wrong_in(name, row):
            line = f"line {number}: " if name.endswith("l") else ""
            raise damaged(folder.path / name, line + "; ".join(found))
