"""What the server saw of each client, round by round: distance to the aggregate, and weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.report.drawing import ALARM, Picture, frame, png, short
from fedsim.report.many import MANY
from fedsim.report.record import Record

HEADER = (
    *("round", "exchange", "client", "colludes"),
    *("distance", "cosine", "weight", "chosen", "flagged"),
)
_FARTHEST = 3.0  # Doublings of the median distance at which colours end.
_MARKED = 2000  # Cells up to which marks are drawn.


def colluders(record: Record) -> set[str]:
    """The names of the clients that collude."""
    block = record.run.get("adversary")
    found = block.get("clients") if isinstance(block, dict) else None
    return {str(name) for name in found or ()}


def seen_rows(record: Record) -> list[tuple[Any, ...]]:
    """A row for each client of each exchange that was inspected, by `HEADER`."""
    ours, rows = colluders(record), []
    for row in record.rounds:
        for one in row.get("seen") or ():
            columns = [one.get(name) for name in HEADER[4:]]
            for at, client in enumerate(one["clients"]):
                name = record.client_name(client)
                told = [None if column is None else column[at] for column in columns]
                rows.append((row["round"], one["exchange"], name, name in ours, *told))
    return rows


def seen(record: Record) -> Picture | None:
    """Clients over rounds; None where no round was inspected."""
    from matplotlib.ticker import MaxNLocator

    rows = seen_rows(record)
    if not rows:
        return None
    names = list(dict.fromkeys(row[2] for row in rows))
    names.sort(key=record.clients.index) if set(names) <= set(record.clients) else names.sort()
    rounds = sorted({row[0] for row in rows})
    distance = _table(rows, names, rounds, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.log2(distance / _middle(distance))
    weight = _table(rows, names, rounds, 6) * len(names)
    weighed = bool(np.isfinite(weight).any())
    panels = [("Distance to the aggregate", np.clip(far, -_FARTHEST, _FARTHEST))]
    panels += [("Weight in the aggregate", weight)] if weighed else []
    title = "What the server saw of each client"
    small = 9 if len(names) <= 40 else 5
    left = 0.4 + 0.075 * max(len(short(name)) for name in names) if len(names) < MANY else 0.8
    height = min(12.0, 2.3 + 0.22 * len(names))
    figure, every = frame(
        record, title, columns=len(panels), height=height, left=left, right=0.6, between=left + 0.7
    )
    for axes, (name, table), low, high, colours in zip(
        every, panels, (-_FARTHEST, 0.0), (_FARTHEST, 2.0), ("PuOr_r", "viridis"), strict=False
    ):
        edges = np.array([*rounds, rounds[-1] + 1]) - 0.5
        places = np.arange(len(names) + 1) - 0.5
        if len(rounds) > 1:
            edges = np.array([rounds[0] - 0.5, *(np.array(rounds[:-1]) + 0.5), rounds[-1] + 0.5])
        drawn = axes.pcolormesh(
            edges, places, np.ma.masked_invalid(table), cmap=colours, vmin=low, vmax=high
        )
        axes.set_facecolor("#DDDDDD")
        axes.grid(visible=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("round")
        axes.set_title(name, fontsize=9, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) < MANY:
            axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=small)
            for label, client in zip(axes.get_yticklabels(), names, strict=True):
                if client in colluders(record):
                    label.set_color(ALARM)
                    label.set_fontweight("bold")
        else:
            axes.set_ylabel("client, by number")
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
        _ticks(bar, name, low, high)
    if len(names) * len(rounds) <= _MARKED:
        _marks(every, rows, names, weighed)
    return Picture(
        "seen",
        title,
        "Left, the distance of what a client sent to the new model, over the median of the round "
        "(rings: far out by a modified z-score above 3.5)."
        + (
            " Right, what it counted in the aggregate, over an equal share (crosses: left out, "
            "less than half of its own weight)."
            if weighed
            else ""
        )
        + (" Colluders are in bold." if colluders(record) else "")
        + " The CSV has the cosines, too.",
        _told(record, rows),
        png(figure),
        HEADER,
        rows,
    )


def _table(
    rows: Sequence[tuple[Any, ...]], names: Sequence[str], rounds: Sequence[int], column: int
) -> NDArray[np.float64]:
    """Values [clients, rounds], of the last exchange of a round; NaN where there is none."""
    found = np.full((len(names), len(rounds)), np.nan)
    where = (
        {name: k for k, name in enumerate(names)},
        {number: k for k, number in enumerate(rounds)},
    )
    for row in rows:
        if row[column] is not None:
            found[where[0][row[2]], where[1][row[0]]] = row[column]
    return found


def _middle(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each round, above 0."""
    middle: NDArray[np.float64] = np.nanmedian(table, axis=0)
    return np.where(middle > 0, middle, np.nanmax(table, axis=0, initial=1e-300))


def _ticks(bar: Any, name: str, low: float, high: float) -> None:
    """Say on a colour bar how many times the median, or an equal share."""
    if name.startswith("Distance"):
        places = (low, 0.0, high)
        bar.set_ticks(places, labels=["⅛ ×", "median", "8 ×"], fontsize=8)
    else:
        bar.set_ticks((low, 1.0, high), labels=["0", "equal", "2 ×"], fontsize=8)


def _marks(
    panels: Sequence[Any], rows: Sequence[tuple[Any, ...]], names: Sequence[str], weighed: bool
) -> None:
    where = {name: k for k, name in enumerate(names)}
    ringed = [(row[0], where[row[2]]) for row in rows if row[8]]
    crossed = [(row[0], where[row[2]]) for row in rows if row[7] is False]
    style = {"linestyle": "", "color": "black", "markersize": 5}
    if ringed:
        panels[0].plot(*zip(*ringed, strict=True), marker="o", fillstyle="none", **style)
    if crossed and weighed:
        panels[1].plot(*zip(*crossed, strict=True), marker="x", **style | {"color": ALARM})


def _told(record: Record, rows: Sequence[tuple[Any, ...]]) -> str:
    """Who was far out, and who was left out, in words."""
    ours = colluders(record)
    parts = []
    for column, mark, what in ((8, True, "far out"), (7, False, "left out")):
        found = [row for row in rows if row[column] is mark]
        share = f"{len(found)} of {len(rows)} times a client was {what}"
        guilty = sum(row[3] for row in found)
        parts.append(f"{share}, {guilty} times a colluder" if ours else share)
    return f"{'; '.join(parts)}."
