"""The figures of a run over its rounds, from its run folder alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedsim.report.calibration import calibration
from fedsim.report.curves import precision_recall, roc
from fedsim.report.drawing import (
    COLOURS,
    STYLES,
    Picture,
    frame,
    legend_above,
    marker,
    png,
    round_axis,
    short,
    time_unit,
)
from fedsim.report.holdings import partition
from fedsim.report.many import MANY, draw_bands, quantiles
from fedsim.report.phases import phase_lines
from fedsim.report.plot import Area, Line, Plot, axis, bands
from fedsim.report.record import NUMBER, Record
from fedsim.report.seen_picture import seen
from fedsim.report.text import without_reply
from fedsim.report.traffic_picture import traffic
from fedsim.report.work_picture import work

_Spread = tuple[list[int], list[Any]]
_PANELS = 4
_SIZES = ("num-examples", "num_examples")  # Counts that clients report beside their metrics.

NAMES = (
    "metric_rounds",
    "metric_megabytes",
    "metric_hours",
    "work",
    "traffic",
    "clients",
    "epsilon",
    "roc",
    "precision_recall",
    "calibration",
    "partition",
    "seen",
)
"""Names of all figures there can be, in the order of the page."""


def figures(record: Record) -> list[Picture]:
    """Draw the figures that the run has something to show in."""
    drawn = [
        metric_rounds(record),
        metric_megabytes(record),
        metric_hours(record),
        work(record),
        traffic(record),
        clients(record),
        epsilon(record),
        roc(record),
        precision_recall(record),
        calibration(record),
        partition(record),
        seen(record),
    ]
    return [picture for picture in drawn if picture is not None]


def metric_rounds(record: Record) -> Picture | None:
    """Test metrics over rounds; None unless some metric was measured twice."""
    names = _headline(record)
    if not names:
        return None
    rows = [
        (row["round"], len(row["failed"]), *(row["metrics"].get(name) for name in names))
        for row in record.rounds
    ]
    figure, panels = _panels(record, names, f"Test metrics over rounds{record.positive}")
    for axes, shown in panels:
        for k in shown:
            at, values = [row[0] for row in rows], [row[2 + k] for row in rows]
            _line(axes, at, values, k, record, names[k])
        round_axis(axes, record)
        legend_above(axes)
    best = best_round(record, names[0])
    return Picture(
        "metric_rounds",
        "Test metrics over rounds",
        _selection(record) + _crosses(record) + _best(record, names[0], best),
        _ends(record, names, rows, 2),
        png(figure),
        ("round", "failed", *names),
        rows,
        [
            _plot(record, names, shown, rows, 0, round_places(record), None if k else best)
            for k, (_, shown) in enumerate(panels)
        ],
    )


def best_round(record: Record, metric_name: str) -> tuple[int, float] | None:
    """The first round with the best value of a metric, and this value."""
    known = [
        (row["round"], row["metrics"][metric_name])
        for row in record.rounds
        if row["metrics"].get(metric_name) is not None
    ]
    metric = record.task.metric(metric_name)
    return max(known, key=lambda one: metric.merit(one[1]) or 0.0) if known else None


def metric_megabytes(record: Record) -> Picture | None:
    """The same metrics over what was sent to get there."""
    sent = [row["mb_up_total"] + row["mb_down_total"] for row in record.rounds]
    return _metrics_over(
        record,
        sent,
        ("metric_megabytes", "mb_total", "traffic"),
        ("MB sent so far, up and down, all clients together (MB = 10⁶ bytes)", "MB sent so far"),
        "The same values, over the megabytes counted on the wire until then.",
        "{:.3f} MB were sent in all.",
    )


def metric_hours(record: Record) -> Picture | None:
    """The same metrics over simulated time; None in a run without a clock."""
    hours = [row.get("simulated_hours") for row in record.rounds]
    if not hours or None in hours:
        return None
    unit, scale = time_unit(max(map(float, filter(None, hours)), default=0.0))
    return _metrics_over(
        record,
        hours,
        ("metric_hours", "simulated_hours", f"simulated {unit}"),
        (f"simulated {unit}", f"simulated {unit}"),
        "The same values, over the time that the run would have taken by its simulated clock.",
        f"The clock stands at {{:.3g}} {unit} in the end.",
        scale,
    )


def _metrics_over(
    record: Record,
    places: Sequence[Any],
    words: tuple[str, str, str],
    labels: tuple[str, str],
    what: str,
    end: str,
    scale: float = 1.0,
) -> Picture | None:
    """The test metrics over what a run has used by the end of each round.

    Args:
        places: a number for each round.
        words: the picture's name, the column of `places` in its table, and what the title says.
        labels: of the axis, and of that of the interactive picture.
        what: what is seen.
        end: the last place in words, with a field for it.
        scale: what places are multiplied with where they are drawn or told.
    """
    names = _headline(record)
    if not names:
        return None
    rows = [
        (row["round"], place, *(row["metrics"].get(name) for name in names))
        for row, place in zip(record.rounds, places, strict=True)
    ]
    drawn = [(number, scale * place, *values) for number, place, *values in rows]
    at = [place for _, place, *_ in drawn]
    name, column, over = words
    figure, panels = _panels(record, names, f"Test metrics over {over}{record.positive}")
    for axes, shown in panels:
        for k in shown:
            _line(axes, at, [row[2 + k] for row in rows], k, record, names[k])
        axes.set_xlim(left=0)
        axes.set_xlabel(labels[0])
        legend_above(axes)
    return Picture(
        name,
        f"Test metrics over {over}",
        what,
        f"{_ends(record, names, rows, 2)} {end.format(at[-1])}",
        png(figure),
        ("round", column, *names),
        rows,
        [_plot(record, names, shown, drawn, 1, axis(labels[1], at, low=0)) for _, shown in panels],
    )


def clients(record: Record) -> Picture | None:
    """What each client reports of its training, and the mean over those that report."""
    series: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in record.rounds:
        for client, metrics in row["metrics_by_client"].items():
            for name, value in metrics.items():
                if isinstance(value, NUMBER) and name not in _SIZES and "@" not in name:
                    series[name][client][row["round"]] = value
    series = {
        name: by_client
        for name, by_client in series.items()
        if len({number for values in by_client.values() for number in values}) > 1
    }
    if not series:
        return None
    # The most telling first; then in the order in which clients report them.
    main = record.task.headline
    telling = ("loss", f"test_{main}", f"val_{main}", "val_loss")
    first = [name for name in telling if name in series]
    shown = (first + [name for name in series if name not in first])[:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    lines = -(-len(shown) // columns)
    title = "Metrics that clients report"
    height = 1 + 2.8 * lines
    names = [short(name) for name in record.clients[: len(COLOURS)]]
    right = max(1.6, 0.7 + 0.08 * max(map(len, names), default=0))  # for the legend
    figure, panels = frame(record, title, rows=lines, columns=columns, height=height, right=right)
    for name, axes in zip(shown, panels, strict=False):
        _client_lines(axes, series[name], record)
        axes.set_ylabel(name)
        round_axis(axes, record)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    handles = panels[0].get_legend_handles_labels()
    # Beside the topmost axes on the right.
    panels[columns - 1].legend(
        *handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9
    )
    rows = [
        (number, record.client_name(client), name, value)
        for name, by_client in series.items()
        for client, values in by_client.items()
        for number, value in values.items()
    ]
    left_out = f" {len(series) - len(shown)} more are in the CSV." if len(series) > _PANELS else ""
    return Picture(
        "clients",
        title,
        (_MANY_LINES if _many(series, shown) else "Thin: one client each.")
        + " Thick: the unweighted mean over the clients that reported in the round."
        + left_out,
        "; ".join(_last_values(name, series[name]) for name in shown) + ".",
        png(figure),
        ("round", "client", "metric", "value"),
        rows,
        [_client_plot(name, series[name], record) for name in shown],
    )


def epsilon(record: Record) -> Picture | None:
    """Epsilon over rounds; None for runs without differential privacy."""
    known = [row for row in record.rounds if row["epsilon"] is not None]
    if len(known) < 2:
        return None
    by_client: dict[str, dict[int, float]] = defaultdict(dict)
    told = [
        {c: v for c, v in (row.get("epsilon_by_client") or {}).items() if v is not None}
        for row in known
    ]
    numbers = [row["round"] for row in known]
    spread: _Spread = [], []
    many = len({client for values in told for client in values}) >= MANY
    for number, values, so_far in zip(numbers, told, _so_far(told), strict=True):
        for client, value in (values if many else so_far).items():
            by_client[client][number] = value
        if many and so_far:
            spread[0].append(number)
            spread[1].append(quantiles(list(so_far.values())))
    figure, (axes,) = frame(record, "Privacy spent")
    if many:
        draw_bands(axes, *spread, COLOURS[4])
    else:
        for client, values in by_client.items():
            label = "each client" if client == next(iter(by_client)) else None
            axes.plot(*_points(values), color=COLOURS[4], linewidth=0.9, label=label)
    spent = [row["epsilon"] for row in known]
    axes.plot(
        numbers,
        spent,
        color=COLOURS[0],
        linewidth=2.4,
        marker=marker(len(known)),
        markersize=4,
        label="the client that spent most",
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ε")
    round_axis(axes, record)
    legend_above(axes, columns=6)
    delta = known[-1].get("delta")
    certified = known[-1].get("certified")
    return Picture(
        "epsilon",
        "Privacy spent",
        "Epsilon by Rényi accounting, added up over the rounds"
        + (f", at delta {delta:g}" if isinstance(delta, NUMBER) else "")
        + ("." if certified else "; the mechanism is not certified to give this guarantee.")
        + _tighter(record, spent[-1]),
        f"Epsilon {spent[0]:.3g} after round {numbers[0]}, {spent[-1]:.3g} after round "
        f"{numbers[-1]}.",
        png(figure),
        ("round", "epsilon", *(f"epsilon of {record.client_name(c)}" for c in by_client)),
        [
            (row["round"], row["epsilon"], *(v.get(row["round"]) for v in by_client.values()))
            for row in known
        ],
        [
            _epsilon_plot(
                record,
                bands(*spread, 4) if many else [],
                [] if many else [list(values.items()) for values in by_client.values()],
                list(zip(numbers, spent, strict=True)),
            )
        ],
    )


def _so_far(told: Iterable[Mapping[str, float]]) -> Iterator[Mapping[str, float]]:
    """Epsilon of all clients that released anything by then, for each round's line.

    A line names those who were asked; the others have spent what they had spent.
    """
    spent: dict[str, float] = {}
    for values in told:
        spent |= values
        yield spent


def _tighter(record: Record, last: float) -> str:
    """That what is claimed in the end is less than the last point, if it is."""
    claimed = (record.summary or {}).get("epsilon")
    if not isinstance(claimed, NUMBER) or claimed >= last:
        return ""
    return f" What is claimed in the end, {claimed:.3g}, is a tighter bound of the same releases."


_MANY_LINES = "Bands: the values of all, of 5 to 95 % and of 25 to 75 % of the clients."


def _crosses(record: Record) -> str:
    """What crosses mark, where there are some."""
    happened = without_reply(record.failures)
    return f" Crosses mark rounds in which a client {happened}." if happened else ""


def _headline(record: Record) -> list[str]:
    """The metrics to draw: those a run is judged by and were measured in two rounds or more."""
    measured: dict[str, int] = defaultdict(int)
    for row in record.rounds:
        for name, value in row["metrics"].items():
            if isinstance(value, NUMBER) and "@" not in name and not name.startswith("train_"):
                measured[name] += 1
    several = [name for name, count in measured.items() if count > 1]
    chosen = [name for name in record.task.in_rounds if name in several] or several[:3]
    return chosen + [name for name in several if name.startswith("val_") and name not in chosen]


def round_places(record: Record) -> Any:
    """The axis of rounds of a page."""
    numbers = [row["round"] for row in record.rounds]
    return axis("round", numbers, whole=True, low=min(numbers) - 0.5, high=max(numbers) + 0.5)


def failed_rounds(record: Record) -> list[int]:
    """Rounds in which a client failed or came late."""
    return sorted({one["round"] for one in record.failures})


def _panels(
    record: Record, names: Sequence[str], title: str
) -> tuple[Any, list[tuple[Any, list[int]]]]:
    """A figure with axes for each unit of metrics, and positions of the metrics that go there."""
    apart: dict[str, list[int]] = defaultdict(list)
    for k, name in enumerate(names):
        apart[record.task.metric(name).plain_unit].append(k)
    figure, panels = frame(record, title, rows=len(apart), height=1 + 2.8 * len(apart))
    for axes, shown in zip(panels, apart.values(), strict=True):
        axes.set_ylabel(_measured(record, names[shown[0]]))
    return figure, list(zip(panels, apart.values(), strict=True))


def _measured(record: Record, name: str) -> str:
    """What an axis of a metric, and of those in its unit, shows."""
    unit = record.task.metric(name).plain_unit
    return f"on the test split ({unit})" if unit else "on the test split"


def _best(record: Record, name: str, best: tuple[int, float] | None) -> str:
    if best is None:
        return ""
    metric = record.task.metric(name)
    return (
        f" The ring marks the {metric.best} {record.task.title(name)}, {metric.text(best[1])} in "
        f"round {best[0]}; to choose a round by its test score would flatter it."
    )


def _plot(
    record: Record,
    names: Sequence[str],
    shown: Sequence[int],
    rows: Sequence[Sequence[Any]],
    at: int,
    x: Any,
    best: tuple[int, float] | None = None,
) -> Plot:
    """Some of the metrics on a page; `rows` have x in column `at`, and values from the third on."""
    lines = []
    for k in shown:
        name = names[k]
        points = [(row[at], row[2 + k]) for row in rows if row[2 + k] is not None]
        last = record.task.text(name, points[-1][1])
        title = f"{record.task.title(name)} (last {last})"
        lines.append(Line(title, points, k, k, dots=bool(marker(len(points)))))
    values = [y for line in lines for _, y in line.points]
    y_axis = axis(f"{_measured(record, names[shown[0]])}{record.positive}", values)
    if at == 0:
        lines += phase_lines(record.rounds, y_axis)
    return Plot(
        "",
        x,
        y_axis,
        lines,
        rings=[best] if best else [],
        crosses=failed_rounds(record) if at == 0 else [],
    )


def _client_plot(name: str, by_client: Mapping[str, Mapping[int, float]], record: Record) -> Plot:
    """One metric that clients report, on a page."""
    means = Line("mean", list(_means(by_client).items()), 6)
    areas: list[Area] = []
    lines: list[Line] = []
    if len(by_client) >= MANY:
        numbers, spread = _spread(by_client)
        areas = bands(numbers, spread, 4)
    else:
        few = len(by_client) <= len(COLOURS) - 1
        for k, (client, values) in enumerate(by_client.items()):
            title = short(record.client_name(client)) if few else "" if k else "each client"
            points = list(values.items())
            dots = len(points) == 1
            lines.append(Line(title, points, k if few else 4, thin=True, dots=dots))
    y = axis(name, [value for known in by_client.values() for value in known.values()])
    return Plot(
        name,
        round_places(record),
        y,
        [*phase_lines(record.rounds, y), *lines, means],
        areas,
        crosses=failed_rounds(record),
    )


def _epsilon_plot(
    record: Record,
    areas: list[Area],
    by_client: Sequence[Sequence[tuple[int, float]]],
    spent: Sequence[tuple[int, float]],
) -> Plot:
    """Epsilon over rounds on a page."""
    lines = [Line("" if k else "each client", own, 4, thin=True) for k, own in enumerate(by_client)]
    most = Line("the client that spent most", spent, 0, dots=bool(marker(len(spent))))
    y = axis("ε", [value for _, value in spent], low=0)
    return Plot(
        "",
        round_places(record),
        y,
        [*phase_lines(record.rounds, y), *lines, most],
        areas,
        crosses=failed_rounds(record),
    )


def _line(
    axes: Any, x: Sequence[float], y: Sequence[float | None], k: int, record: Record, name: str
) -> None:
    """One metric, where it was measured."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    axes.plot(
        *zip(*known, strict=True),
        color=COLOURS[k % len(COLOURS)],
        linestyle=STYLES[k % len(STYLES)],
        marker=marker(len(known)),
        markersize=4,
        label=f"{record.task.title(name)} (last {record.task.text(name, known[-1][1])})",
    )


def _selection(record: Record) -> str:
    """Which model the curve is of."""
    if (record.scenario.get("evaluation") or {}).get("select") == "pooled_val":
        return "The model that the pooled validation split selects so far, on the test split."
    return "The model after each round, on the test split."


def _ends(record: Record, names: Sequence[str], rows: Sequence[Sequence[Any]], first: int) -> str:
    """The first and the last value of each metric, as a sentence."""
    parts = []
    for k, name in enumerate(names):
        known = [row[first + k] for row in rows if row[first + k] is not None]
        metric = record.task.metric(name)
        ends = f"from {metric.number(known[0])} to {metric.text(known[-1])}"
        parts.append(f"{record.task.title(name)} {ends}")
    return f"{', '.join(parts)} in {rows[-1][0]} rounds."


def _points(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())


def _client_lines(axes: Any, by_client: Mapping[str, Mapping[int, float]], record: Record) -> None:
    """The mean, and a thin line a client, in its own colour while there are few; bands of many."""
    means = _means(by_client)
    if len(by_client) >= MANY:
        draw_bands(axes, *_spread(by_client), COLOURS[4])
        axes.plot(*_points(means), color="black", linewidth=2.4, label="mean")
        return
    few = len(by_client) <= len(COLOURS) - 1
    for k, (client, values) in enumerate(by_client.items()):
        label = short(record.client_name(client)) if few else "each client" if k == 0 else None
        colour = COLOURS[k] if few else COLOURS[4]
        axes.plot(*_points(values), color=colour, linewidth=0.9, label=label)
    axes.plot(*_points(means), color="black", linewidth=2.4, label="mean")


def _many(series: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> bool:
    """Whether some of these metrics are drawn as bands."""
    return any(len(series[name]) >= MANY for name in names)


def _spread(by_client: Mapping[str, Mapping[int, float]]) -> _Spread:
    """Rounds, and of each the quantiles over the clients that have a value."""
    reported = _reported(by_client)
    return list(reported), [quantiles(values) for values in reported.values()]


def _means(by_client: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """The mean over the clients that reported, of each round."""
    reported = _reported(by_client)
    return {number: statistics.fmean(values) for number, values in reported.items()}


def _reported(by_client: Mapping[str, Mapping[int, float]]) -> dict[int, list[float]]:
    """The values of all clients, by round, in their order."""
    reported: dict[int, list[float]] = defaultdict(list)
    for values in by_client.values():
        for number, value in values.items():
            reported[number].append(value)
    return {number: reported[number] for number in sorted(reported)}


def _last_values(name: str, by_client: Mapping[str, Mapping[int, float]]) -> str:
    means = list(_means(by_client).values())
    return f"{name}: mean from {means[0]:.3g} to {means[-1]:.3g}"
