"""A league: methods that are tuned alike and trained alike, compared in several settings.

A file names settings (a scenario, and words that change it), and for each the methods (words, some
of which say what is tuned). Each method is tuned in each setting by as many trials as the others,
on validation records; its best values are run with the seeds of the league.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from fedsim.errors import InputError, Problem, nearest
from fedsim.files import file_name
from fedsim.registry import default_registry
from fedsim.report.columns import DIFFERENCE
from fedsim.report.comparison import Comparison, Line, contains_zero
from fedsim.report.csv_file import csv_bytes
from fedsim.report.pairing import pairs_of
from fedsim.report.rows import Row
from fedsim.report.statistics import LEVEL, Measure, holm, measure
from fedsim.scenario import Scenario, activate_plugins, load
from fedsim.scenario.parameters import explain, shown
from fedsim.tuning.space import Choice, Dimension, differs, first_words, parse
from fedsim.tuning.study import Sampler
from fedsim.yaml_lines import read_file

OUTPUTS = ("league.csv", "league.md")
"""Files beside the folders of the settings."""
_SAME = ("epochs", "steps", "batch_size")
# What of the question a method may be: what stays at clients, and whom its server waits for.
_OF_METHODS = ("federation.local", "federation.clock", "name", "resources", "privacy", "seeds")


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Method(_Block):
    """A method in a setting.

    Attributes:
        words: "key=value" words; those of `fedsim.tuning.space` are tuned.
        passes: how much a client trains in a round, in passes of the league: 2 where it trains two
            models for a round's steps each.

    A list stands for the words alone.
    """

    words: tuple[str, ...] = ()
    passes: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_block(cls, value: Any) -> Any:
        return {"words": value} if isinstance(value, list) else value


class Setting(_Block):
    """A problem.

    Attributes:
        scenario: name of a shipped one, or a file.
        words: "key=value" words that hold for all methods.
        methods: name of a list of the file.
        instead: methods of that list that have other words here.
    """

    scenario: str
    words: tuple[str, ...] = ()
    methods: str
    instead: Mapping[str, Method] = {}


class League(_Block):
    """A file of a league.

    Attributes:
        passes: rounds times passes of every method.
        trials: of the tuning of every method in every setting.
        tuning_seed: of the tunings; none of `seeds`.
        sampler: how values are chosen, see `fedsim.tuning.study.Study`.
        seeds: of the runs that are compared.
        baseline: the method that differences are taken from.
        settings: by name.
        methods: lists of methods, by the name that settings call them.
    """

    passes: float = Field(gt=0, allow_inf_nan=False)
    trials: StrictInt = Field(ge=1)
    tuning_seed: StrictInt = Field(ge=0)
    sampler: Sampler = "tpe"
    seeds: tuple[Annotated[StrictInt, Field(ge=0)], ...] = Field(min_length=1)
    baseline: str
    settings: Mapping[str, Setting] = Field(min_length=1)
    methods: Mapping[str, Mapping[str, Method]] = Field(min_length=1)

    def methods_of(self, setting: str) -> Mapping[str, Method]:
        """The methods of a setting by name, in the order of its list."""
        about = self.settings[setting]
        return {**self.methods[about.methods], **about.instead}


@dataclass(frozen=True)
class Place:
    """A method in a setting, as it is run.

    Attributes:
        setting, method: their names.
        scenario: name or file.
        words: "key=value" words, those that are tuned among them.
    """

    setting: str
    method: str
    scenario: str
    words: tuple[str, ...]

    @property
    def tuned(self) -> bool:
        """Whether some of the words are tuned."""
        try:
            parse(self.words)
        except InputError as error:
            if error.headline == "nothing to tune":
                return False
            raise
        return True


def read_league(path: Path) -> League:
    """Read a file.

    Raises:
        InputError: with all that is wrong.
    """
    values = read_file(path)
    try:
        league = League.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(f"{path}: {'.'.join(map(str, where))}", _told(where, why))
            for where, why in explain(error, values).items()
        ]
        raise InputError("the league is wrong", problems, hint="see docs/tuning.md") from error
    problems = [
        Problem(f"{path}: settings.{name}.methods", f"there is no list {one.methods!r}")
        for name, one in league.settings.items()
        if one.methods not in league.methods
    ]
    problems += [
        Problem(f"{path}: settings.{name}.instead.{method}", f"{one.methods!r} has no such method")
        for name, one in league.settings.items()
        for method in one.instead
        if method not in league.methods.get(one.methods, one.instead)
    ]
    problems += [
        Problem(f"{path}: methods.{name}", f"the baseline {league.baseline!r} is not among them")
        for name, one in league.methods.items()
        if league.baseline not in one
    ]
    if league.tuning_seed in league.seeds:
        problems.append(Problem(f"{path}: tuning_seed", "is one of the seeds that are compared"))
    if len(set(league.seeds)) < len(league.seeds):
        problems.append(Problem(f"{path}: seeds", "a seed is given twice"))
    problems += [Problem(f"{path}: settings", why) for why in _no_folders(league.settings, OUTPUTS)]
    problems += [
        Problem(f"{path}: methods.{name}", why)
        for name, one in league.methods.items()
        for why in _no_folders(one, ("tuning",))
    ]
    if problems:
        raise InputError("the league is wrong", problems, hint="see docs/tuning.md")
    return league


def _told(where: tuple[Any, ...], why: str) -> str:
    """What is wrong at a place of the file; of an unknown key, which there are."""
    if why != "unknown key":
        return why
    blocks: dict[str, type[_Block]] = {"settings": Setting, "methods": Method}
    block = League if len(where) == 1 else Method if "instead" in where else blocks[str(where[0])]
    return why + nearest(str(where[-1]), block.model_fields)


def _no_folders(names: Iterable[str], taken: Sequence[str]) -> list[str]:
    """Why names cannot be those of folders beside each other.

    Args:
        taken: what else lies there.
    """
    found, seen = [], {one.casefold() for one in taken}
    for name in names:
        if name != file_name(name):
            found.append(f"{name!r} is no name of a folder, which it is to be")
        elif name.casefold() in seen:
            found.append(f"{name!r} is the name of something else there, but for capitals")
        seen.add(name.casefold())
    return found


def places(league: League, roots: Mapping[str, str], common: Sequence[str]) -> list[Place]:
    """The methods in their settings, each checked for its budget.

    Args:
        roots: name of a data set -> its folder.
        common: "key=value" words that hold for all.

    Raises:
        InputError: with all that is wrong: of scenarios, words and budgets.
    """
    problems: list[Problem] = []
    found = []
    named: set[str] = set()
    for setting, about in league.settings.items():
        methods = league.methods_of(setting)
        base: Scenario | None = None
        for method in sorted(methods, key=lambda name: name != league.baseline):
            where = f"{setting}.{method}"
            words = [*about.words, *methods[method].words, f"name={method}"]
            try:
                place = Place(setting, method, about.scenario, tuple(words))
                scenario = load(about.scenario, [*_variants(place)[0], *common])
                named.add(scenario.data.name)
                if (root := roots.get(scenario.data.name)) is not None:
                    place = Place(setting, method, about.scenario, (*words, f"data.root={root}"))
                variants = [load(about.scenario, [*more, *common]) for more in _variants(place)]
            except InputError as error:
                told = [str(one) for one in error.problems] or [error.headline]
                # What is wrong with a setting is so with all its methods: the first tells.
                said = {one.message for one in problems}
                problems += [Problem(where, one) for one in told if one not in said]
                continue
            base = base or variants[0]
            found.append(place)
            told = [_unequal(one, base, methods[method].passes, league.passes) for one in variants]
            problems += [Problem(where, one) for one in dict.fromkeys(told) if one]
    if not problems:
        problems += [
            Problem(f"--data {name}", f"no setting has such data{nearest(name, sorted(named))}")
            for name in roots
            if name not in named
        ]
    if problems:
        raise InputError("the league is wrong", problems, hint="see docs/tuning.md")
    return _as_written(league, found)


def _as_written(league: League, found: Sequence[Place]) -> list[Place]:
    """The places in the order of the file; the baseline's was read first."""
    order = [(name, method) for name in league.settings for method in league.methods_of(name)]
    return sorted(found, key=lambda one: order.index((one.setting, one.method)))


def _variants(place: Place) -> list[list[str]]:
    """Words of trials: with the first value of each key that is tuned, then with each other one.

    Of a range both ends stand for what lies between them.
    """
    if not place.tuned:
        return [list(place.words)]
    space, fixed = parse(place.words)
    first = first_words(space)
    found = [[*fixed, *first]]
    for position, one in enumerate(space):
        others = (f"{one.key}={value}" for value in _values(one)[1:])
        found += [[*fixed, *first[:position], word, *first[position + 1 :]] for word in others]
    return found


def _values(one: Dimension) -> tuple[str, ...]:
    return one.values if isinstance(one, Choice) else one.ends


def _unequal(scenario: Scenario, base: Scenario, passes: float, budget: float) -> str:
    """Why a method trains more or less than the others, or on another problem; "": it does not."""
    if key := differs(base, scenario, _OF_METHODS):
        return f"{key} is another than that of the baseline: it belongs to the setting"
    spent = scenario.rounds * passes
    if abs(spent - budget) > 1e-9:
        return f"{scenario.rounds} rounds of {passes:g} passes are {spent:g}, and not {budget:g}"
    if passes != 1:
        return ""
    ours, theirs = _work(scenario), _work(base)
    for key in _SAME:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            return f"client.{key} is {shown(ours[key])}, and {shown(theirs[key])} of the baseline"
    return ""


def _work(scenario: Scenario) -> dict[str, Any]:
    """What says how much a client trains in a round, its defaults among it."""
    activate_plugins(scenario)
    block = scenario.client
    client = default_registry().build("clients", block.name, block.parameters)
    found = {key: getattr(client, key) for key in _SAME if hasattr(client, key)}
    if found.get("steps") is not None:
        found.pop("epochs", None)  # Steps take the place of them.
    return found


# --- The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A line of the table.

    Attributes:
        setting, method: their names.
        scale: what a printed score is multiplied by: 100 for per cent.
        score: of the headline, on the test split.
        worst: of the worst site in each run.
        own: mean over sites of what a site has there, its client's own model or the one of all;
            none where no method of the setting has own models, or clients are not sites.
        mb: that crossed the wire, both ways.
        minutes: of a run.
        difference: of the score to the baseline's, with a paired interval and its p; None of the
            baseline.
        corrected: that p after Holm's correction for all methods of the setting; None where there
            is none.
        one_sign: whether the difference has the same sign with every seed.
    """

    setting: str
    method: str
    scale: float
    score: Measure
    worst: Measure
    own: Measure
    mb: Measure
    minutes: Measure
    difference: Measure | None
    corrected: float | None
    one_sign: bool

    @property
    def apart(self) -> bool | None:
        """Whether the interval of the difference leaves out 0; None where there is none."""
        if self.difference is None or self.difference.interval is None:
            return None
        return not contains_zero(self.difference)

    @property
    def real(self) -> bool | None:
        """Whether it does so for all methods together, and with every seed; None as of `apart`."""
        if self.apart is None or self.corrected is None:
            return None
        return self.corrected <= 1 - LEVEL and self.one_sign


def scores_of(setting: str, comparison: Comparison) -> list[Score]:
    """The lines of one setting, in the order of the comparison."""
    found = {line.row.name: line.measures.get(DIFFERENCE) for line in comparison.lines}
    corrected = holm({row: one.p for row, one in found.items() if one and one.p is not None})
    at_home = any(
        run.value(f"{line.row.task.headline}@own") is not None
        for line in comparison.lines
        for run in line.row.runs
    )
    return [
        _score(setting, line, comparison.baseline, corrected.get(line.row.name), at_home)
        for line in comparison.lines
    ]


def _score(
    setting: str, line: Line, base: Row | None, corrected: float | None, at_home: bool
) -> Score:
    row, main = line.row, line.row.task.headline
    summaries = [one.summary for run in row.runs for one in run.each]
    return Score(
        setting,
        row.runs[0].scenario,
        row.task.main.scale,
        line.measures[main],
        measure([_worst_site(row, position) for position in range(len(row.runs))]),
        measure([_own_site(row, n) if at_home else None for n in range(len(row.runs))]),
        measure([one["mb_up_total"] + one["mb_down_total"] for one in summaries]),
        measure([one["wall_seconds"] / 60 for one in summaries]),
        line.measures.get(DIFFERENCE),
        corrected,
        base is not None and _one_sign(row, base, main),
    )


def _one_sign(row: Row, base: Row, main: str) -> bool:
    """Whether the difference of two rows has one sign with every seed that they have in common."""
    pairs = [(ours.value(main), theirs.value(main)) for ours, theirs in pairs_of(row, base)]
    signs = {None if a is None or b is None else (a > b) - (a < b) for a, b in pairs}
    return signs in ({1}, {-1})


def _worst_site(row: Row, position: int) -> float | None:
    """The score at the site where a run's model is worst; None where there is one site, or none."""
    values = _at_sites(row, position)
    if len(values) < 2:
        return None
    return min(values) if row.task.main.better == "higher" else max(values)


def _own_site(row: Row, position: int) -> float | None:
    """The mean over sites of what a site has: its client's own model, or the one of all."""
    own = row.runs[position].value(f"{row.task.headline}@own")
    if own is not None:
        return own
    values = _at_sites(row, position)
    return sum(values) / len(values) if values else None


def _at_sites(row: Row, position: int) -> list[float]:
    """The scores of a run's model at each site that has one."""
    prefix = f"{row.task.headline}@"
    return [
        float(value)
        for name, value in row.runs[position].summary["metrics"].items()
        if name.startswith(prefix)
        and name.removeprefix(prefix) not in ("own", "others")
        and value is not None
    ]


_HEADER = ("setting", "method", "seeds", "score", "worst site", "own site", "MB", "minutes")


def table(scores: Sequence[Score], baseline: str) -> list[list[str]]:
    """The table as text, with its header: scores as tables show them, mean ± sd over seeds."""
    rows = [[*_HEADER, f"minus {baseline}"]]
    for one in scores:
        row = [one.setting, one.method, str(one.score.n)]
        row += [_text(value, one.scale) for value in (one.score, one.worst, one.own)]
        row += [_text(one.mb, spread=False), _text(one.minutes, spread=False)]
        rows.append([*row, _difference(one)])
    return rows


def _text(value: Measure, scale: float = 1.0, spread: bool = True) -> str:
    if value.mean is None:
        return "-"
    sd = f" ± {scale * value.sd:.1f}" if spread and value.sd is not None else ""
    return f"{scale * value.mean:.1f}{sd}"


def _difference(one: Score) -> str:
    found = one.difference
    if found is None or found.mean is None:
        return "-"
    if found.interval is None:
        return f"{one.scale * found.mean:+.1f}"
    low, high = (one.scale * end for end in found.interval)
    mark = " **" if one.real else " *" if one.apart else ""
    return f"{one.scale * found.mean:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def lines(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    told = [
        "  ".join(
            cell.ljust(width) if position < 2 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(told)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown."""
    head, *body = rows
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body)) + "\n"


_TESTS = ("difference_p", "difference_p_holm", "difference_is_real")


def csv(scores: Sequence[Score]) -> bytes:
    """The table as CSV, unrounded, a line for each method and setting."""
    names = ("score", "worst_site", "own_site", "mb", "minutes", "difference")
    header = ["setting", "method", "seeds"]
    header += [f"{name}_{what}" for name in names for what in ("mean", "sd")]
    rows: list[list[Any]] = [[*header, "difference_low", "difference_high", *_TESTS]]
    for one in scores:
        row: list[Any] = [one.setting, one.method, one.score.n]
        for value in (one.score, one.worst, one.own, one.mb, one.minutes, one.difference):
            row += [None, None] if value is None else [value.mean, value.sd]
        ends = one.difference.interval if one.difference is not None else None
        row += [None, None] if ends is None else list(ends)
        p = one.difference.p if one.difference is not None else None
        rows.append([*row, p, one.corrected, None if one.real is None else int(one.real)])
    return csv_bytes(rows)
