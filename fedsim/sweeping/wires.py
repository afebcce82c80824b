"""The cells of a curve over megabytes: scenarios x ways to compress what travels x seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from fedsim.errors import InputError, Problem
from fedsim.registry import default_registry
from fedsim.scenario import Scenario, load
from fedsim.scenario.fitting import without_compression
from fedsim.scenario.schema import Wire
from fedsim.sweeping.cells import Cell, require_number

NONE = "none"
CODECS = tuple(c for c in get_args(Wire.model_fields["codec"].annotation) if c != "float32")
WIRES = (
    *(NONE, *CODECS, "{codec: uint8, down: uint8}"),
    "{sparsify: {topk: 0.01}, error_feedback: true}",
)
"""Of a curve for which none were chosen."""

_KEY = "wire"


@dataclass(frozen=True)
class WireCell:
    """One run of a curve over megabytes.

    Attributes:
        cell: the run, as a sweep's cell.
        wire: how its models are compressed, in a few words.
    """

    cell: Cell
    wire: str


def is_wire(word: str) -> bool:
    """Whether a word of the command line says how models are compressed."""
    return word == NONE or word in CODECS or word.startswith("{")


def plan_wires(
    sources: Sequence[str],
    overrides: Sequence[str],
    wires: Sequence[str],
    seeds: Sequence[int],
    common: Sequence[str] = (),
) -> list[WireCell]:
    """The cells, all of them validated: a whole curve of the first seed, then of the next one.

    A scenario that sends no models, or needs them exact, is run as it is: one point of the curve.

    Args:
        sources: names or files of scenarios.
        overrides: "key=value" words that hold for every cell.
        wires: each "none", a codec, or a block `wire` in YAML's short form.
        seeds: the seeds of every scenario.
        common: more such words, of resources.

    Raises:
        InputError: with all problems of all cells.
    """
    given = [word for word in overrides if word.partition("=")[0].strip().split(".")[0] == _KEY]
    problems = [
        Problem("command line", f"{word}: {_KEY} is what a curve over megabytes varies; --wires")
        for word in given
    ]
    require_number(len(set(sources)) * len(set(wires)) * len(seeds))
    found: list[tuple[str, tuple[str, ...], Scenario]] = []
    for source in dict.fromkeys(sources) if not problems else ():
        try:
            found += _settings(source, [*overrides, *common], wires)
        except InputError as error:
            problems += error.problems or [Problem("command line", error.headline)]
    names: dict[str, str] = {}
    for source, _, scenario in found:
        if names.setdefault(scenario.name, source) != source:
            what = f"its name is {scenario.name!r}, as that of {names[scenario.name]}"
            problems.append(Problem(source, f"{what}; give it another one"))
    if problems:
        lines = list(dict.fromkeys(problems))
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise InputError(f"the curve has {count}", lines, hint="type: fedsim curve --help")
    return [
        WireCell(
            Cell(source, words, seed, scenario, f"{scenario.name} {told} seed {seed}"),
            told,
        )
        for seed in dict.fromkeys(seeds)
        for source, words, scenario in found
        for told in [wire_words(scenario.wire)]
    ]


def _settings(
    source: str, words: Sequence[str], wires: Sequence[str]
) -> list[tuple[str, tuple[str, ...], Scenario]]:
    """A scenario in all its ways; InputError with all that is wrong with them."""
    plain = (*words, f"{_KEY}=null")
    scenario, registry = load(source, plain), default_registry()
    plugins = {
        group: (name, registry.resolve(group, name))
        for group, name in (
            ("strategies", scenario.strategy.name),
            ("clients", scenario.client.name),
        )
    }
    if without_compression(plugins):
        return [(source, plain, scenario)]
    settings: dict[str, tuple[str, tuple[str, ...], Scenario]] = {}
    problems: list[Problem] = []
    for wire in wires:
        own = plain if wire == NONE else (*words, f"{_KEY}={_block(wire)}")
        try:
            loaded = load(source, own)
        except InputError as error:
            problems += error.problems or [Problem("--wires", error.headline)]
            continue
        settings.setdefault(wire_words(loaded.wire), (source, own, loaded))
    if problems:
        raise InputError(f"scenario {source} is wrong", problems)
    return list(settings.values())


def _block(wire: str) -> str:
    """The value of the key that a word of the command line stands for."""
    return f"{{codec: {wire}}}" if wire in CODECS else wire


def wire_words(wire: Wire | None) -> str:
    """How models are compressed, in a few words."""
    if wire is None:
        return NONE
    parts: list[str] = [] if wire.codec == "float32" else [wire.codec]
    if wire.sparsify is not None:
        parts.insert(0, f"top {100 * wire.sparsify.topk:g} %")
    if wire.sketch is not None:
        sketch = wire.sketch
        parts.insert(0, f"sketch {sketch.rows} x {sketch.columns:g}, top {100 * sketch.topk:g} %")
    if wire.error_feedback:
        parts.append("feedback")
    if wire.down != "float32":
        parts.append(f"down {wire.down}")
    return ", ".join(parts) or NONE
