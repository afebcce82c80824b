"""The page of a tuning: its trials, and the score over them and over each key that is tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsim import __version__
from fedsim.report.blocks import Block, Code, Figures, Headline, Section, Text
from fedsim.report.drawing import Picture
from fedsim.report.paths import without_paths
from fedsim.report.plot import Axis, Line, Plot, Point, axis
from fedsim.report.rendering import Table, render
from fedsim.tuning.outcome import Charge, best_command
from fedsim.tuning.space import Choice, Dimension, Range
from fedsim.tuning.trials import Plan, Trial, Tuning

_TOO_HIGH = (
    "Scores are of the validation split, and no test record was looked at. The best of many is too "
    "high: some of it is luck. Report the test score of the line below, on seeds that were not "
    "tuned on."
)
_SECRET = (
    "Only the model of the best trial may be published. This page shows the others, too: keep it "
    "where the records are kept."
)
_LETTERS = 18  # of a choice below an axis


def build_page(tuning: Tuning, space: Sequence[Dimension], charge: Charge | None) -> str:
    """The page as HTML: one file that asks nothing of a network.

    Args:
        tuning: its trials that have ended are shown.
        space: what is tuned.
        charge: what it costs in privacy; None where the trials are not private.
    """
    plan = tuning.plan
    ended = [one for one in tuning.trials if one.status != "waiting"]
    name = plan.source.rpartition("/")[2]
    sections = [Section("result", "Result", _result(tuning, charge))]
    if any(one.score is not None for one in ended):
        pictures = [_over_trials(plan, ended, tuning.best)]
        pictures += [_over_key(plan, ended, tuning.best, one) for one in space]
        sections.append(Section("scores", "Where the good values lie", [Figures(pictures)]))
    sections.append(Section("trials", "Trials", [_table(plan, ended, space)]))
    return render(
        "tuning.html",
        title=f"Tuning of {name}",
        lead=f"{len(ended)} of {plan.count} trials have ended; "
        f"{len(space)} {'key is' if len(space) == 1 else 'keys are'} tuned, seed {plan.seed}.",
        warnings=[_SECRET] if charge is not None and charge.stopping is not None else [],
        contents=[(one.id, one.title) for one in sections],
        sections=sections,
        version=__version__,
    )


def _result(tuning: Tuning, charge: Charge | None) -> list[Block]:
    """The best trial, its command, and what the tuning costs in privacy."""
    plan, best = tuning.plan, tuning.best
    blocks: list[Block] = []
    if best is None or best.score is None:
        blocks.append(Text("No trial has finished yet."))
    else:
        at = f"trial {best.number}, on the validation split"
        details = [at, *best.words]
        blocks.append(Headline(plan.metric, plan.measured.text(best.score), details))
        blocks += [Text(_TOO_HIGH), Code(best_command(tuning))]
    if charge is not None:
        blocks.append(Text(charge.line()))
    return blocks


def _table(plan: Plan, ended: Sequence[Trial], space: Sequence[Dimension]) -> Table:
    keys = [one.key for one in space]
    header = ["trial", "status", plan.metric, *keys, "rounds", "minutes", "note"]
    rows = [
        [
            one.number,
            one.status,
            one.score,
            *(one.values[key] for key in keys),
            one.rounds,
            None if one.seconds is None else one.seconds / 60,
            _note(one),
        ]
        for one in ended
    ]
    return Table("Every trial that has ended, as trials.csv has it", header, rows, digits=3)


def _note(trial: Trial) -> str:
    if trial.status == "stopped":
        return f"stopped after round {trial.stopped_at}: worse than the median of the others"
    return str(without_paths(trial.error))


def _over_trials(plan: Plan, ended: Sequence[Trial], best: Trial | None) -> Picture:
    """The score of each trial, and the best so far."""
    better = max if plan.measured.better == "higher" else min
    so_far: list[Point] = []
    for one in ended:
        if one.status == "done" and one.score is not None:
            score = one.score if not so_far else better(so_far[-1][1], one.score)
            so_far += [(one.number, so_far[-1][1])] if so_far else []
            so_far.append((one.number, score))
    if so_far:
        so_far.append((ended[-1].number, so_far[-1][1]))
    return _picture(
        plan,
        "Score over trials",
        "Trials in the order in which they were chosen. The line is the best score so far.",
        axis("trial", [float(one.number) for one in ended], whole=True),
        [(one, float(one.number)) for one in ended],
        best,
        [Line("best so far", so_far, -1, 1)] if so_far else [],
    )


def _over_key(plan: Plan, ended: Sequence[Trial], best: Trial | None, tuned: Dimension) -> Picture:
    """The score of each trial at the value that it has of a key."""
    logarithm = " The axis is logarithmic." if _is_log(tuned) else ""
    return _picture(
        plan,
        f"Score over {tuned.key}",
        "Each trial at its value; the other keys differ between trials, too." + logarithm,
        _axis(tuned),
        [(one, _place(tuned, one.values[tuned.key])) for one in ended],
        best,
    )


def _picture(
    plan: Plan,
    title: str,
    caption: str,
    x: Axis,
    placed: Sequence[tuple[Trial, float]],
    best: Trial | None,
    lines: Sequence[Line] = (),
) -> Picture:
    """Dots of trials at their places on x; crosses below for those that failed."""
    dots: dict[str, list[Point]] = {"done": [], "stopped": []}
    for one, at in placed:
        if one.score is not None:
            dots[one.status].append((at, one.score))
    scores = [score for some in dots.values() for _, score in some]
    failed = [at for one, at in placed if one.status == "failed"]
    told = " A cross marks a trial that failed." if failed else ""
    plot = Plot(
        "",
        x,
        axis(plan.metric, scores),
        [
            *lines,
            Line("finished", dots["done"], 0, dots=True, joined=False),
            *(
                [Line("stopped early", dots["stopped"], 1, dots=True, joined=False)]
                if dots["stopped"]
                else []
            ),
        ],
        rings=[(at, one.score) for one, at in placed if one is best and one.score is not None],
        crosses=failed,
    )
    alt = f"{len(dots['done'])} finished trials"
    if best is not None and best.score is not None:
        alt += f", the best of which is trial {best.number} with {plan.text(best.score)}"
    return Picture("", title, f"{caption} The best one has a ring.{told}", alt, b"", (), (), [plot])


def _is_log(tuned: Dimension) -> bool:
    return isinstance(tuned, Range) and tuned.scale == "log"


def _place(tuned: Dimension, value: str) -> float:
    """Where a value lies on the axis of its key."""
    if isinstance(tuned, Choice):
        return float(tuned.values.index(value))
    return math.log10(float(value)) if _is_log(tuned) else float(value)


def _axis(tuned: Dimension) -> Axis:
    """The axis of a key, from one end of its values to the other."""
    if isinstance(tuned, Choice):
        ticks = [(float(n), _short(value)) for n, value in enumerate(tuned.values)]
        return Axis(tuned.key, -0.5, len(tuned.values) - 0.5, ticks)
    low, high = (_place(tuned, end) for end in tuned.ends)
    if not _is_log(tuned):
        return axis(tuned.key, [low, high], whole=tuned.scale == "int")
    tens = [float(n) for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    at = tens if len(tens) > 1 else [low, high]
    room = 0.05 * (high - low)
    return Axis(tuned.key, low - room, high + room, [(n, f"{10**n:.4g}") for n in at])


def _short(value: str) -> str:
    return value if len(value) <= _LETTERS else f"{value[: _LETTERS - 1]}…"
