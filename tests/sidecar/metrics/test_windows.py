"""What happened lately, from totals taken every second or so."""

from __future__ import annotations

import pytest

from sidecar.metrics.stats import Key, Outcome
from sidecar.metrics.totals import Figures, Times
from sidecar.metrics.windows import Windows, versions

V1, V2 = Key("default", "iris", "v1", "primary"), Key("default", "iris", "v2", "candidate")
OK, BAD = Outcome("200", ""), Outcome("503", "")


def figures(good: int, bad: int = 0) -> Figures:
    """Good requests took up to 1 s, bad ones up to 2 s."""
    times = Times((1.0, 2.0), (good, good + bad))
    return Figures({OK: good, BAD: bad}, {"duration_us": 10 * (good + bad)}, {"duration": times})


def steady(seconds: int, per_second: int = 10) -> Windows[Key]:
    windows = Windows[Key]()
    for second in range(seconds + 1):
        windows.take({V1: figures(second * per_second)}, float(second))
    return windows


@pytest.mark.parametrize(("asked", "told"), [(10.0, 10.0), (60.0, 60.0), (300.0, 300.0)])
def test_a_window_is_about_as_long_as_it_is_called(asked, told):
    length, added = steady(1000).over(asked)
    assert length == pytest.approx(told, rel=0.1)
    assert added[V1].count == 10 * length


def test_a_young_sidecar_says_how_short_its_window_is():
    length, added = steady(3).over(300.0)
    assert (length, added[V1].count) == (3.0, 30)


def test_few_snapshots_are_kept():
    assert len(steady(5000)) <= 60


def test_nothing_is_known_before_the_first_reading():
    assert Windows[Key]().over(10.0) == (0.0, {})
    assert versions(Windows[Key]()) == []


def test_what_was_counted_before_the_sidecar_came_is_in_the_totals_only():
    windows = Windows[Key]()
    windows.take({V1: figures(1000)}, 0.0)
    windows.take({V1: figures(1001)}, 1.0)
    (told,) = versions(windows)
    assert (told["total"]["requests"], told["windows"]["10s"]["requests"]) == (1001, 1)


def test_a_version_that_comes_counts_from_zero():
    windows = steady(3)
    windows.take({V1: figures(40), V2: figures(3, 1)}, 4.0)
    assert [one["windows"]["10s"]["requests"] for one in versions(windows)] == [40, 4]


def test_versions_are_told_with_sums_and_quantiles():
    windows = Windows[Key]()
    windows.take({V1: figures(0)}, 0.0)
    windows.take({V1: figures(90, 10)}, 2.0)
    (told,) = versions(windows)
    window = told["windows"]["10s"]
    assert (told["namespace"], told["model"], told["version"], told["shadow"]) == ("default", "iris", "v1", False)
    assert (window["seconds"], window["rps"], window["requests"], window["errors"]) == (2.0, 50.0, 100, 10)
    assert window["duration_seconds"] == {"p50": pytest.approx(50 / 90), "p90": 1.0, "p99": pytest.approx(1.9)}
    assert window["time_to_first_byte_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert window["duration_seconds_sum"] == pytest.approx(0.001)
    assert {one["code"]: one["requests"] for one in window["outcomes"]} == {"200": 90, "503": 10}
