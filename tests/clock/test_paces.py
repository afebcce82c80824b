"""How fast clients are: stretches, distributions, sizes and traces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fedsim.clock.paces import HOUR, Pace, paces_of
from fedsim.errors import InputError
from fedsim.randomness import Streams
from fedsim.scenario.schema import Clock

RECORDS = {"a": 100, "b": 300}


def paces(seed: int = 0, **keys: Any) -> list[Pace]:
    return paces_of(Clock(kind="synchronous", **keys), RECORDS, Streams(seed))


def test_seconds_are_records_over_speed_and_bytes_over_bandwidth() -> None:
    pace = Pace(speeds=(50.0,), bandwidths=(1000.0,))
    assert pace.finish(7.0, down=500, work=100, up=2000) == 7 + 0.5 + 2 + 2
    assert Pace(speeds=(50.0,)).finish(0.0, 10**9, 100, 10**9) == 2


def test_who_is_away_goes_on_afterwards() -> None:
    # Ten seconds of work, ten away, and again.
    pace = Pace((0.0, 10.0), (1.0, 0.0), (math.inf,) * 2, period=20.0)
    assert pace.finish(0.0, 0, 10, 0) == 10
    assert pace.finish(0.0, 0, 11, 0) == 21
    assert pace.finish(15.0, 0, 1, 0) == 21
    assert pace.finish(5.0, 0, 25, 0) == 50  # 5 s, then 10 s twice.
    assert pace.present_from(3.0) == 3
    assert pace.present_from(10.0) == 20
    assert pace.present_from(1e6 + 10.0) == 1e6 + 20


def test_a_message_waits_for_a_client_that_is_away() -> None:
    pace = Pace((0.0, 10.0), (0.0, 1.0), (math.inf, 100.0))
    assert pace.finish(0.0, 100, 0, 0) == 11


def test_a_client_that_leaves_never_answers() -> None:
    pace = Pace((0.0, 10.0), (1.0, 0.0), (math.inf,) * 2)
    assert pace.leaves
    assert pace.finish(0.0, 0, 10, 0) == 10
    assert pace.finish(0.0, 0, 11, 0) == math.inf
    assert pace.present_from(12.0) == math.inf
    assert Pace(speeds=(0.0,)).present_from(0.0) == math.inf


def test_many_periods_are_counted_together_and_what_takes_for_ever_ends_never() -> None:
    # An hour of work in each day.
    pace = Pace((0.0, HOUR), (1.0, 0.0), (math.inf, math.inf), period=24 * HOUR)
    day = 24 * HOUR
    for days in (1_000, 1_003, 10_000, 1_000_000):
        assert pace.finish(5.0, 0, days * HOUR, 0) == days * day + 5
        assert pace.finish(0.0, 0, days * HOUR + 7, 0) == days * day + 7
    assert pace.finish(0.0, 0, 1e30, 0) == math.inf
    assert Pace(speeds=(1e-6,)).finish(0.0, 0, 1e9, 0) == math.inf
    slow = Pace((0.0, 3.6e-3), (1e-6, 0.0), (1.0, 1.0), period=3.6)
    assert slow.finish(0.0, 1e300, 1e9, 0) == math.inf


def test_distributions_depend_on_the_seed_and_the_client_alone() -> None:
    one = paces(speed={"lognormal": [50, 0.8]})
    assert one == paces(speed={"lognormal": [50, 0.8]})
    assert one != paces(1, speed={"lognormal": [50, 0.8]})
    assert one[0].speeds != one[1].speeds
    for pace in paces(speed={"uniform": [2, 3]}, bandwidth={"uniform": [1, 2]}):
        assert 2 <= pace.speeds[0] <= 3
        assert 1e6 <= pace.bandwidths[0] <= 2e6
    assert [pace.speeds for pace in paces(speed={"lognormal": [50, 0]})] == [(50,), (50,)]


def test_one_client_is_slow_and_the_others_have_one_speed() -> None:
    told = {"clients": {"b": 1}, "others": 10}
    slow = paces(speed=told, bandwidth={"clients": {"a": 2}, "others": 3})
    assert [pace.speeds for pace in slow] == [(10,), (1,)]
    assert [pace.bandwidths for pace in slow] == [(2e6,), (3e6,)]
    with pytest.raises(InputError, match="there is no client 'c'"):
        paces(speed={"clients": {"c": 1}, "others": 10})
    with pytest.raises(InputError, match="client 'a' is missing") as caught:
        paces(speed={"clients": {"b": 1}})
    assert "federation.clock.speed.others=" in caught.value.hint


def test_speeds_by_size_have_the_mean_that_was_asked_for() -> None:
    assert [pace.speeds for pace in paces(speed={"by_size": 50})] == [(25,), (75,)]


def test_hours_of_work_are_a_share_of_each_period() -> None:
    for pace in paces(speed=1.0, available={"share": 0.25, "period": 24}):
        # Three days of 6 h of work take more than two, and at most three days.
        assert 48 * HOUR < pace.finish(0.0, 0, 18 * HOUR, 0) <= 72 * HOUR
        assert pace.finish(0.0, 0, 180 * HOUR, 0) == pytest.approx(
            pace.finish(0.0, 0, 174 * HOUR, 0) + 24 * HOUR
        )


def traced(path: Path, text: str, **keys: Any) -> list[Pace]:
    path.write_text(text)
    return paces(trace=str(path), **keys)


def test_a_trace_says_what_holds_from_which_hour(tmp_path: Path) -> None:
    text = "client,hour,speed,bandwidth\nb,0,5,\na,0,2,0.5\na,1,0,\na,3,4,1\n"
    a, b = traced(tmp_path / "t.csv", text)
    assert (a.starts, a.speeds) == ((0, HOUR, 3 * HOUR), (2, 0, 4))
    assert a.bandwidths == (5e5, math.inf, 1e6)
    assert b == Pace((0.0,), (5.0,), (math.inf,))
    assert a.finish(0.0, 0, 2 * HOUR + 4, 0) == 3 * HOUR + 1
    again = traced(tmp_path / "t.csv", text, period=4)[0]
    assert again.present_from(4 * HOUR) == 4 * HOUR
    assert again.present_from(5.5 * HOUR) == 7 * HOUR


def test_hours_before_the_first_line_are_those_after_the_last_one_of_the_day_before(
    tmp_path: Path,
) -> None:
    text = "client,hour,speed,bandwidth\na,18,0,2\na,8,10,1\nb,6,3,\n"
    a, b = traced(tmp_path / "t.csv", text, period=24)
    assert (a.starts, a.speeds) == ((0, 8 * HOUR, 18 * HOUR), (0, 10, 0))
    assert a.bandwidths == (2e6, 1e6, 2e6)
    assert a.present_from(0) == 8 * HOUR
    # From 17 to 18 o'clock, and the rest on the next morning.
    assert a.finish(17 * HOUR, 0, 2 * 10 * HOUR, 0) == (24 + 9) * HOUR
    assert set(b.speeds) == {3.0}
    # A trace that does not begin again says nothing of that time.
    text = "client,hour,speed\na,8,10\na,18,5\nb,6,3\n"
    assert traced(tmp_path / "t.csv", text)[0].starts == (0, 18 * HOUR)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("client,speed\na,1\n", "no column hour"),
        ("client,hour,speed\na,0,1\nb,0,fast\n", "speed is 'fast'"),
        ("client,hour,speed\na,0,1\nb,-1,1\n", r"hour is -1: expected 0 to 1e\+06"),
        ("client,hour,speed\na,0,1\nb,0,1e-300\n", r"speed is 1e-300: expected 0, or 1e-06 to"),
        ("client,hour,speed,bandwidth\na,0,1,0\nb,0,1,1\n", "bandwidth is 0: expected 1e-06"),
        ("client,hour,speed\na,0,1\nb,0,nan\n", "speed is nan"),
        ("client,hour,speed\na,0,1\n", "client 'b' is missing"),
        ("client,hour,speed\na,0,1\nb,0,1\nc,0,1\n", "there is no client 'c'"),
        ("client,hour,speed\na,0,1\nb,0,1\nb,2,0\n", "never comes back"),
        ("client,hour,speed\na,0,1\nb,0,1\nb,2,3\nb,2,4\n", "two lines of one hour"),
        ("client,hour,speed\na,0,1\nb,2,3\nb,2,4\n", "two lines of one hour"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        traced(tmp_path / "t.csv", text)


def test_a_trace_is_no_longer_than_its_period(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begins again after 2"):
        traced(tmp_path / "t.csv", "client,hour,speed\na,0,1\nb,0,1\nb,2,3\n", period=2)
    with pytest.raises(InputError, match="line at hour 5"):
        traced(tmp_path / "t.csv", "client,hour,speed\na,0,1\nb,5,3\n", period=2)
