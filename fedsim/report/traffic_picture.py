"""A picture of what a run sent: megabytes of each round, by field of the messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.drawing import COLOURS, Picture, frame, legend_above, png, round_axis, span
from fedsim.report.plot import Area, Line, Plot, axis, stairs
from fedsim.report.record import Record

# Fields below this share of a direction's payload are drawn together.
_SMALL = 0.005


def traffic(record: Record) -> Picture | None:
    """Megabytes of each round, up and down, by field of the messages."""
    numbers = [row["round"] for row in record.rounds]
    if len(numbers) < 2 or not record.traffic:
        return None
    payload: dict[tuple[str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    counted: dict[str, dict[int, int]] = {"up": defaultdict(int), "down": defaultdict(int)}
    for row in record.traffic:
        counted[row["direction"]][row["round"]] += row["bytes"]
        for name, size in row["fields"].items():
            payload[row["direction"], name][row["round"]] += size
    figure, panels = frame(record, "Traffic of each round", rows=2, height=5.2, between=0.7)
    edges = [numbers[0] - 0.5, *(number + 0.5 for number in numbers)]
    fields = sorted({name for _, name in payload})
    colours = {name: COLOURS[k % (len(COLOURS) - 1)] for k, name in enumerate(fields)}
    plots: list[Plot] = []
    for axes, (direction, bytes_) in zip(panels, counted.items(), strict=True):
        mine = {name: payload[direction, name] for name in fields if (direction, name) in payload}
        base = [0.0] * len(numbers)
        layers = []
        for label, colour, values in _stack(mine, numbers, colours):
            place = COLOURS.index(colour) if colour in COLOURS else len(COLOURS) - 2
            layers.append((place, label, values))
            top = [low + high for low, high in zip(base, values, strict=True)]
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=label)
            base = top
        total = [bytes_[number] / 1e6 for number in numbers]
        axes.stairs(
            total, edges, baseline=None, color="black", linewidth=1.4, label="counted on the wire"
        )
        plots.append(_plot(direction, layers, total, edges))
        axes.set_ylabel("MB up" if direction == "up" else "MB down")
        axes.set_ylim(0, 1.08 * max(*total, *base) or 1)
        round_axis(axes, record)
        legend_above(axes, columns=5)
    panels[0].set_xlabel("")
    rows: list[Sequence[Any]] = []
    for number in numbers:
        for direction, bytes_ in counted.items():
            sizes = [payload.get((direction, name), {}).get(number) for name in fields]
            rows.append((number, direction, bytes_[number], *sizes))
    return Picture(
        "traffic",
        "Traffic of each round",
        "Payload of the messages by field, all clients together; the line is what was counted on "
        "the wire, with framing (equal arrays travel once, which can put it below the payload).",
        f"Up {span(bytes_ / 1e6 for bytes_ in counted['up'].values())} MB a round, "
        f"down {span(bytes_ / 1e6 for bytes_ in counted['down'].values())} MB a round.",
        png(figure),
        ("round", "direction", "bytes", *(f"{name}_bytes" for name in fields)),
        rows,
        plots,
    )


def _plot(
    direction: str,
    layers: Sequence[tuple[int, str, list[float]]],
    total: Sequence[float],
    edges: Sequence[float],
) -> Plot:
    """One direction on a page: layers of a colour, a label and megabytes, and what was counted."""
    areas: list[Area] = []
    base = [0.0] * len(total)
    for colour, label, values in layers:
        top = [low + high for low, high in zip(base, values, strict=True)]
        areas.append(Area(label, stairs(base, edges), stairs(top, edges), colour, 0.75))
        base = top
    return Plot(
        f"MB {direction}",
        axis("round", edges, whole=True, low=edges[0], high=edges[-1]),
        axis(f"MB {direction}", [*total, *base], low=0),
        [Line("counted on the wire", stairs(total, edges), 6)],
        areas,
    )


def _stack(
    fields: Mapping[str, Mapping[int, int]], numbers: Sequence[int], colours: Mapping[str, str]
) -> list[tuple[str, str, list[float]]]:
    """Label, colour and MB of each round of each layer; small fields together, on top."""
    whole = sum(sum(sizes.values()) for sizes in fields.values())
    layers, rest = [], [0.0] * len(numbers)
    small = []
    for name, sizes in fields.items():
        values = [sizes.get(number, 0) / 1e6 for number in numbers]
        if sum(sizes.values()) >= _SMALL * whole:
            layers.append((name, colours[name], values))
        else:
            small.append(name)
            rest = [a + b for a, b in zip(rest, values, strict=True)]
    if small:
        name = small[0] if len(small) == 1 else f"{len(small)} small fields"
        layers.append((f"{name} (below {_SMALL:.1%})", "#999999", rest))
    return layers
