"""Scores by round, means over seeds with their spread, thinned to what a page can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsim.report.many import some
from fedsim.report.record import NUMBER
from fedsim.report.rows import Row
from fedsim.report.statistics import Measure, measure

_NUMBERS = 120_000  # that the lines of a page may hold together
_FEWEST = 12  # points of a line, however many lines there are


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Names of the scores that some round has, as a reader expects them; sites' are not among
    them."""
    found = dict.fromkeys(
        name
        for row in rows
        for _, line in _rounds(row)
        for name, value in _metrics(line).items()
        if _number(value) is not None
    )
    tasks = {row.task.headline: row.task for row in rows}.values()
    names = dict.fromkeys(one.name for task in tasks for one in task.metrics)
    parts = dict.fromkeys(name for task in tasks for name in task.parts(found))
    return list(dict.fromkeys([*(name for name in names if name in found), *parts]))


def points_for(rows: int, metrics: int) -> int:
    """How many rounds of a line a page of so many lines can show."""
    return max(_FEWEST, _NUMBERS // max(1, rows * (3 + 2 * metrics)))


def line_of(row: Row, metrics: Sequence[str], most: int) -> dict[str, Any]:
    """One method's scores over the rounds: over its seeds, each of which is the mean of its folds.

    Returns:
        round: numbers of rounds that some seed has scored, at most `most` of them;
        mb: MB up and down until then, mean over seeds; epsilon: until then, the largest, or None;
        scores: metric -> {"mean": [...], "sd": [...]}, None where there is none;
        thinned: how many rounds are left out.
    """
    by_round: dict[int, _Seeds] = {}
    for seed, line in _rounds(row):
        if any(_number(_metrics(line).get(name)) is not None for name in metrics):
            by_round.setdefault(int(line["round"]), {}).setdefault(seed, []).append(line)
    numbers = sorted(by_round)
    kept = some(numbers, most)
    scores: dict[str, dict[str, list[float | None]]] = {}
    for name in metrics:
        found = [_score(by_round[number], name) for number in kept]
        if any(one.n for one in found):
            means, spreads = [one.mean for one in found], [one.sd for one in found]
            scores[name] = {"mean": list(map(rounded, means)), "sd": list(map(rounded, spreads))}
    return {
        "round": kept,
        "mb": [rounded(_megabytes(by_round[number]).mean) for number in kept],
        "epsilon": [rounded(_epsilon(by_round[number])) for number in kept],
        "scores": scores,
        "thinned": len(numbers) - len(kept),
    }


def rounded(value: float | None) -> float | None:
    """A number for a picture: five digits."""
    return None if value is None else float(f"{value:.5g}")


# Of one round: for each seed the lines of its folds, or the one line there is.
_Seeds = dict[int, list[Mapping[str, Any]]]


def _rounds(row: Row) -> list[tuple[int, Mapping[str, Any]]]:
    """The lines of all seeds and folds that say which round they are of, each with its seed."""
    return [
        (run.seed, line)
        for run in row.runs
        for one in run.each
        for line in one.rounds
        if isinstance(line.get("round"), int)
    ]


def _metrics(line: Mapping[str, Any]) -> Mapping[str, Any]:
    found = line.get("metrics")
    return found if isinstance(found, Mapping) else {}


def _over_seeds(seeds: _Seeds, of: Callable[[Mapping[str, Any]], float | None]) -> Measure:
    return measure([measure([of(line) for line in lines]).mean for lines in seeds.values()])


def _score(seeds: _Seeds, metric: str) -> Measure:
    return _over_seeds(seeds, lambda line: _number(_metrics(line).get(metric)))


def _megabytes(seeds: _Seeds) -> Measure:
    def sent(line: Mapping[str, Any]) -> float | None:
        up, down = (_number(line.get(key)) for key in ("mb_up_total", "mb_down_total"))
        return None if up is None or down is None else up + down

    return _over_seeds(seeds, sent)


def _epsilon(seeds: _Seeds) -> float | None:
    lines = [line for own in seeds.values() for line in own]
    known = [_number(line.get("epsilon_upper", line.get("epsilon"))) for line in lines]
    return max((one for one in known if one is not None), default=None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, NUMBER) and not isinstance(value, bool) else None
