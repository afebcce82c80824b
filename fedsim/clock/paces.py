"""How fast each client is: from distributions, the sizes of sites, or a trace."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsim.errors import InputError, Problem, nearest
from fedsim.randomness import Streams
from fedsim.scenario.schema import Available, Clock, Rates

HOUR = 3600.0
"""Seconds."""
MEGABYTE = 1e6
USUAL_SPEED = 100.0
"""Records a second of a client of which nothing is said."""
LONGEST = 1e12
"""Seconds, 30,000 years: what ends later ends never. Hours of a day are lost in such numbers."""
RATES = (1e-6, 1e12)
"""Least and most records, or megabytes, a second."""
_MANY = 1000  # periods in a task, from which on they are counted together
_COLUMNS = ("client", "hour", "speed")


@dataclass(frozen=True)
class Pace:
    """How fast one client is, from moment to moment; times are seconds from the run's beginning.

    Attributes:
        starts: when each stretch begins, ascending; the first at 0.
        speeds: records a second in each stretch; 0: the client is away, and goes on afterwards.
        bandwidths: bytes a second, both ways; may be infinite.
        period: when the first stretch comes again; infinite: never.
    """

    starts: tuple[float, ...] = (0.0,)
    speeds: tuple[float, ...] = (USUAL_SPEED,)
    bandwidths: tuple[float, ...] = (math.inf,)
    period: float = math.inf

    @property
    def leaves(self) -> bool:
        """Whether the client goes away for ever."""
        some = self.speeds if math.isfinite(self.period) else self.speeds[-1:]
        return not any(some)

    def finish(self, start: float, down: float, work: float, up: float) -> float:
        """When a task is done that begins at `start`; infinite where the client leaves before.

        Args:
            start: seconds.
            down, up: bytes of the message and of its answer.
            work: records to train on, each as often as it is seen.

        Returns:
            Seconds; infinite, too, where it would be after `LONGEST`.
        """
        at = start
        for amount, rates in ((down, self.bandwidths), (work, self.speeds), (up, self.bandwidths)):
            at = self._after(at, amount, rates)
        return at if at <= LONGEST else math.inf

    def present_from(self, at: float) -> float:
        """The first moment, not before `at`, at which the client is there; infinite: never."""
        if self.leaves and not any(self.speeds):
            return math.inf
        for index, begin, end in self._stretches(at):
            if self.speeds[index]:
                return begin
            if math.isinf(end):
                break
        return math.inf

    def _after(self, at: float, amount: float, rates: Sequence[float]) -> float:
        """When so much is done from `at` on, at these rates."""
        if amount <= 0 or math.isinf(at) or (self.leaves and not any(self.speeds)):
            return at if amount <= 0 else math.inf
        periods = max(0, self._periods(amount, rates) - 1)
        if periods > _MANY:
            at, amount = at + periods * self.period, amount - periods * self._of_period(rates)
        if at > LONGEST:
            return math.inf
        for index, begin, end in self._stretches(at):
            rate = rates[index] if self.speeds[index] else 0.0
            if not rate:
                if math.isinf(end):
                    break
                continue
            needed = amount / rate
            if begin + needed <= end:
                return begin + needed
            amount -= rate * (end - begin)
        return math.inf

    def _periods(self, amount: float, rates: Sequence[float]) -> int:
        """Whole periods in which no more than so much is done."""
        each = self._of_period(rates) if math.isfinite(self.period) else math.inf
        return int(min(amount / each, LONGEST)) if each else 0

    def _of_period(self, rates: Sequence[float]) -> float:
        """How much is done in a period at these rates."""
        ends = (*self.starts[1:], self.period)
        stretches = zip(self.starts, ends, self.speeds, rates, strict=True)
        return sum(rate * (end - start) for start, end, speed, rate in stretches if speed)

    def _stretches(self, at: float) -> Iterator[tuple[int, float, float]]:
        """Number, beginning and end of each stretch from `at` on, the first cut there."""
        cycle = 0.0 if math.isinf(self.period) else math.floor(at / self.period)
        base = 0.0 if math.isinf(self.period) else cycle * self.period
        index = max(bisect_right(self.starts, at - base) - 1, 0)
        while True:
            last = index + 1 == len(self.starts)
            end = base + (self.period if last else self.starts[index + 1])
            if end > at:
                yield index, at, end
                at = end
            if last and math.isinf(self.period):
                return
            index = 0 if last else index + 1
            if last:
                cycle += 1
                base = cycle * self.period


def paces_of(settings: Clock, records: Mapping[str, int], streams: Streams) -> list[Pace]:
    """The pace of each client.

    Args:
        settings: the scenario's.
        records: client name -> its training records, in client order.
        streams: of the run.

    Raises:
        InputError: the settings name clients that do not exist, or not all; the trace is none.
    """
    if settings.trace is not None:
        return _traced(Path(settings.trace), list(records), settings.period)
    speeds = _rates("speed", settings.speed or USUAL_SPEED, records, streams)
    widths = [math.inf] * len(records)
    if settings.bandwidth is not None:
        found = _rates("bandwidth", settings.bandwidth, records, streams)
        widths = [MEGABYTE * one for one in found]
    return [
        _shifted(client, speed, width, settings.available, streams)
        for client, (speed, width) in enumerate(zip(speeds, widths, strict=True))
    ]


def _rates(
    key: str, told: float | Rates, records: Mapping[str, int], streams: Streams
) -> list[float]:
    """One number for each client."""
    if not isinstance(told, Rates):
        return [float(told)] * len(records)
    if told.by_size is not None:
        mean = sum(records.values()) / len(records)
        return [told.by_size * max(count, 1) / mean for count in records.values()]
    if told.clients is not None:
        where = f"federation.clock.{key}"
        named = dict.fromkeys(records, told.others) if told.others is not None else {}
        found = {**named, **told.clients}
        hint = f"for all that are not named, type {where}.others={USUAL_SPEED:g}"
        _require_all(f"{where}.clients", found, list(records), hint)
        return [float(found[name]) for name in records]
    draws = [streams.numpy(f"clock-{key}", client=client) for client in range(len(records))]
    if told.uniform is not None:
        return [float(one.uniform(*told.uniform)) for one in draws]
    assert told.lognormal is not None
    median, sigma = told.lognormal
    return [float(median * np.exp(sigma * one.standard_normal())) for one in draws]


def _shifted(
    client: int, speed: float, width: float, available: Available | None, streams: Streams
) -> Pace:
    """The pace of a client that works at some hours."""
    if available is None or available.share == 1:
        return Pace(speeds=(speed,), bandwidths=(width,))
    period = HOUR * available.period
    begin = float(streams.numpy("clock-hours", client=client).uniform(0, period))
    end = begin + available.share * period
    if end <= period:
        starts, there = (0.0, begin, end), (0.0, speed, 0.0)
    else:
        starts, there = (0.0, end - period, begin), (speed, 0.0, speed)
    return Pace(starts, there, (width,) * 3, period)


def _require_all(
    where: str, named: Mapping[str, object], clients: Sequence[str], hint: str = ""
) -> None:
    """Refuse names that no client has, and clients that are not named; `hint` is of the latter."""
    problems = [
        Problem(where, f"there is no client {name!r}{nearest(name, clients)}")
        for name in named
        if name not in clients
    ]
    missing = [one for one in clients if one not in named]
    problems += [Problem(where, f"client {one!r} is missing") for one in missing]
    if problems:
        raise InputError(
            f"{where} must name every client once", problems[:10], hint if missing else ""
        )


def _traced(path: Path, clients: Sequence[str], period: float | None) -> list[Pace]:
    """What a trace says of each client."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    problems: list[Problem] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: there is no column {', '.join(missing)}",
                    hint="the first line is: client,hour,speed or client,hour,speed,bandwidth",
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                try:
                    numbers = _numbers(row)
                except ValueError as error:
                    problems.append(Problem(where, str(error)))
                    continue
                rows.setdefault(row["client"], []).append(numbers)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a readable CSV file: {error}") from error
    if problems:
        raise InputError(f"{path}: lines cannot be read", problems[:10])
    _require_all(str(path), rows, clients)
    seconds = math.inf if period is None else HOUR * period
    return [_stretches_of(path, name, sorted(rows[name]), seconds) for name in clients]


def _numbers(row: Mapping[str, str | None]) -> tuple[float, float, float]:
    """Seconds, records a second and bytes a second of a line."""
    found = []
    for name, least, most in (("hour", 0.0, 1e6), ("speed", *RATES), ("bandwidth", *RATES)):
        text = (row.get(name) or "").strip()
        if name == "bandwidth" and not text:
            found.append(math.inf)
            continue
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r}, no number") from None
        away = name == "speed" and not value
        if not least <= value <= most and not away:
            or_zero = "0, or " if name == "speed" else ""
            raise ValueError(f"{name} is {text}: expected {or_zero}{least:g} to {most:g}")
        found.append(value)
    hour, speed, width = found
    return HOUR * hour, speed, MEGABYTE * width


def _stretches_of(
    path: Path, name: str, rows: Sequence[tuple[float, float, float]], period: float
) -> Pace:
    """The pace of one client.

    Before its first line it is as in the last one, where the trace begins again; else as in the
    first.
    """
    starts = [start for start, _, _ in rows]
    if len(set(starts)) < len(starts):
        raise InputError(f"{path}: client {name!r} has two lines of one hour")
    if starts[-1] >= period:
        raise InputError(
            f"{path}: client {name!r} has a line at hour {starts[-1] / HOUR:g}, and the trace "
            f"begins again after {period / HOUR:g}",
            hint="raise federation.clock.period",
        )
    if starts[0] and math.isfinite(period):
        rows, starts = [rows[-1], *rows], [0.0, *starts]
    pace = Pace(
        (0.0, *starts[1:]),
        tuple(speed for _, speed, _ in rows),
        tuple(width for *_, width in rows),
        period,
    )
    if pace.leaves:
        raise InputError(
            f"{path}: client {name!r} goes away and never comes back",
            hint="end its lines with a speed above 0, or let the trace begin again: "
            "federation.clock.period=24",
        )
    return pace
