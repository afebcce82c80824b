"""A picture of who worked when in simulated time, and whose work was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.drawing import COLOURS, Picture, frame, legend_above, png, short, time_unit
from fedsim.report.plot import Area, Axis, Line, Plot, axis
from fedsim.report.record import Record

_CLIENTS = 24  # that have a row
_STEPS = 60  # of which each has a line
_BARS = 600  # that are drawn
_HALF = 0.36  # of a bar's height, where rows are 1 apart
# Kind of work -> what it is called, and its colour.
_KINDS = {
    "fresh": ("current model", 0),
    "older": ("older model", 1),
    "late": ("too late", 5),
    "lost": ("no reply", 3),
    "unused": ("unfinished", 4),
}


def work(record: Record) -> Picture | None:
    """A bar for each task of each client, from when it was asked to when it answered."""
    done = [
        (row["round"], one)
        for row in record.rounds
        for one in row.get("work") or ()
        if one["to"] > one["from"]
    ]
    ends: list[float] = [row.get("simulated_hours") or 0.0 for row in record.rounds]
    if not done or not any(ends):
        return None
    everybody = sorted({one["client"] for _, one in done})
    listed = everybody[:_CLIENTS]
    bars = [(number, one) for number, one in done if one["client"] in listed][:_BARS]
    # Of a task that outlives the run the picture shows what the run's time has room for.
    last = 1.05 * max(ends) or max(one["to"] for _, one in bars)
    unit, scale = time_unit(max(ends))
    last *= scale
    figure, (axes,) = frame(
        record, "Who worked when", height=1.7 + 0.24 * len(listed), left=_margin(record, listed)
    )
    axes.grid(False)
    areas: list[Area] = []
    for kind, (label, colour) in _KINDS.items():
        mine = [one for number, one in bars if _kind(number, one) == kind]
        for k, one in enumerate(mine):
            row = listed.index(one["client"])
            left, right = scale * one["from"], min(scale * one["to"], last)
            axes.barh(
                row,
                right - left,
                2 * _HALF,
                left,
                color=COLOURS[colour],
                edgecolor="white",
                linewidth=0.8,
                label="" if k else label,
            )
            places = len(listed) - 1 - row
            edges = [(left, places - _HALF), (right, places - _HALF)]
            above = [(x, y + 2 * _HALF) for x, y in edges]
            areas.append(Area("" if k else label, edges, above, colour, 0.85))
    steps = [scale * at for at in ends] if len(ends) <= _STEPS else []
    for k, at in enumerate(steps):
        axes.axvline(at, color="black", linewidth=0.7, label="" if k else "server step")
    axes.set_xlim(0, last)
    axes.set_ylim(len(listed) - 0.5, -0.5)
    names = [short(record.client_name(client), 24) for client in listed]
    axes.set_yticks(range(len(listed)), names)
    axes.set_xlabel(f"simulated {unit}")
    legend_above(axes, columns=6)
    left_out = len(everybody) - len(listed)
    more = f" {left_out} more clients are in the CSV." if left_out else ""
    more += "" if len(bars) < _BARS else f" The first {_BARS} tasks are drawn; the CSV has all."
    used = sum(one["outcome"] == "used" for _, one in done)
    return Picture(
        "work",
        "Who worked when",
        "A bar is one task of a client, from the moment at which it was asked until its answer is "
        "at the server; it is longer where the client was away meanwhile. Colours say "
        "whether it answers the model that was current then or an older one, or was not used."
        + (" Lines are the server's steps." if steps else "")
        + more,
        f"{len(everybody)} clients, {len(done)} tasks, {used} of them used; "
        f"{scale * max(ends):.3g} simulated {unit}.",
        png(figure),
        ("client", "asked_in_round", "ended_in_round", "from_hour", "to_hour", "outcome"),
        [
            (
                record.client_name(one["client"]),
                one["asked"],
                number,
                one["from"],
                one["to"],
                one["outcome"],
            )
            for number, one in done
        ],
        [_plot(areas, steps, names, axis(f"simulated {unit}", [0.0, last], low=0.0, high=last))],
    )


def _kind(number: int, one: Mapping[str, Any]) -> str:
    """What became of a task that ended in a round."""
    if one["outcome"] != "used":
        return str(one["outcome"])
    return "fresh" if one["asked"] == number else "older"


def _margin(record: Record, clients: Sequence[int]) -> float:
    """Inches for the clients' names."""
    longest = max(len(short(record.client_name(client), 24)) for client in clients)
    return 0.4 + 0.085 * longest


def _plot(areas: Sequence[Area], steps: Sequence[float], names: Sequence[str], time: Axis) -> Plot:
    """The same on a page."""
    count = len(names)
    ticks = [(float(count - 1 - row), name) for row, name in enumerate(names)]
    lines = [
        Line("" if k else "server step", [(at, -0.5), (at, count - 0.5)], 6, thin=True)
        for k, at in enumerate(steps)
    ]
    return Plot(
        "",
        time,
        Axis("client", -0.5, count - 0.5, ticks),
        lines,
        areas,
    )
