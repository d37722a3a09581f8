"""Totals of what Envoy counts: whose they are, and that they never go back."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.metrics.stats import UNMATCHED, UPTIME, Key, Malformed, Outcome, Reading, Stat, read, stat
from sidecar.metrics.totals import Figures, Times, Totals

V1 = Key("default", "iris", "v1", "primary")
OF_V1 = "v1@default/iris|default/iris/v1|v1"
REQUESTS = f"headgate.requests.by.200||-|{OF_V1}"
DURATION = f"headgate.duration.by.{OF_V1}"


def reading(requests: int | None = None, counts: tuple[int, ...] = (), uptime: int | None = None) -> Reading:
    counters = {REQUESTS: requests, UPTIME: uptime}
    return Reading(
        {name: value for name, value in counters.items() if value is not None},
        {DURATION: counts} if counts else {},
        {DURATION: tuple(float(bound + 1) for bound in range(len(counts)))} if counts else {},
    )


def requests_of(totals: Totals, key: Key = V1) -> int:
    return totals.figures()[key].count


# Whose request it was


@pytest.mark.parametrize(
    ("joined", "key"),
    [
        (OF_V1, V1),
        ("v1@default/iris|default/iris/v2|v2", V1._replace(version="v2", route="candidate")),
        ("v1@default/iris@weighted-grpc|default/iris/v1|", V1),
        ("v1@default/iris@v2/match-0|default/iris/v2|v2", V1._replace(version="v2", route="header")),
        ("v1@default/iris||v1", V1),  # the cluster is not there (yet)
        ("v1@default/iris|shared/10.0.0.1:80/auto|v1", V1),  # the cluster is several versions'
        ("v1@default/iris|shared/10.0.0.1:80/auto|", V1._replace(version="", route="candidate")),
        ("v1@default/iris||-", V1._replace(version="", route="candidate")),  # a plugin took the header away
        ("v.1@a.b/c.d|a.b/c.d/v.1|v.1", Key("a.b", "c.d", "v.1", "primary")),
        ("-|-|-", UNMATCHED),
        ("||", UNMATCHED),
        ("somebody-elses|cluster|", UNMATCHED),
    ],
)
def test_a_request_is_its_versions(joined, key):
    assert stat(f"headgate.duration_us.by.{joined}") == Stat("duration_us", key)
    assert stat(f"headgate.requests.by.503|14|UH|{joined}") == Stat("requests", key, Outcome("503", "14", "UH"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "requests.by.503||UF|~copy|default/iris/v2~shadow|",
            Stat("requests", V1._replace(version="v2"), Outcome("503", "", "UF")),
        ),
        ("duration.by.~copy|default/iris/v2~shadow|", Stat("duration", V1._replace(version="v2"))),
        (
            "requests.by.200|14||~copy|default/iris/v2~shadow-grpc|",
            Stat("requests", V1._replace(version="v2"), Outcome("200", "14")),
        ),
        ("duration.by.~copy|shared/10.0.0.1:80/auto~shadow|", Stat("duration", Key("", "", "", "mirror"))),
        ("duration.by.~copy|shared/iris/v2~shadow|", Stat("duration", Key("shared", "iris", "v2", "mirror"))),
    ],
)
def test_a_copy_is_told_apart(name, expected):
    assert stat(f"headgate.{name}") == expected._replace(key=expected.key._replace(route="mirror"))


@pytest.mark.parametrize(
    "name",
    [
        "headgate.requests.by.200",
        "headgate.odd",
        "headgate.duration.by.~copy|a/b/c|",
        "cluster.a/b/c~shadow.x",
        "",
        "x",
    ],
)
def test_what_is_not_ours_is_passed_over(name):
    assert stat(name) is None


@pytest.mark.parametrize(
    ("code", "told"), [("200", "200"), ("0", "0"), ("599", "5xx"), ("999", "other"), ("", "other")]
)
def test_servers_cannot_make_up_codes_without_end(code, told):
    found = stat(f"headgate.requests.by.{code}|99|drop table|{OF_V1}")
    assert found is not None
    assert found.outcome == Outcome(told, "other", "other")


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (("200", ""), False),
        (("404", ""), False),
        (("503", ""), True),
        (("200", "14"), True),
        (("200", "5"), False),
        (("200", "", "UPE,DC"), True),
        (("200", "", "DC"), False),
    ],
)
def test_only_the_servers_own_failures_are_errors(outcome, failed):
    assert Outcome(*outcome).failed is failed


def test_what_was_answered_is_counted_by_its_times():
    """Of each outcome there is a histogram; together they are the version's times to the first byte."""
    totals = Totals()
    ok, gone = (f"headgate.answered.by.{outcome}|{OF_V1}" for outcome in ("200||-", "503||UC"))
    bounds = (0.5, 1.0)
    totals.take(Reading({}, {ok: (3, 5), gone: (1, 1)}, {ok: bounds, gone: bounds}), 1.0)
    (figures,) = totals.figures().values()
    assert figures.requests == {Outcome("200", ""): 5, Outcome("503", "", "UC"): 1}
    assert figures.times == {"first_byte": Times(bounds, (4, 6))}
    assert figures.sums == {}


def test_an_answer_that_ended_badly_is_counted_once_with_a_time_or_without():
    totals = Totals()
    bounds = (1.0,)
    timed, none, ok = (f"headgate.answered.by.{outcome}|{OF_V1}" for outcome in ("200||DC", "200||UC", "200||-"))
    flagged = {name.replace("answered", "flagged"): count for name, count in ((timed, 3), (none, 2))}
    totals.take(Reading(flagged, {timed: (1,), ok: (4,)}, {timed: bounds, ok: bounds}), 1.0)
    (figures,) = totals.figures().values()
    assert figures.requests == {Outcome("200", ""): 4, Outcome("200", "", "DC"): 3, Outcome("200", "", "UC"): 2}
    assert figures.times["first_byte"].count == 5
    assert figures.sums == {}


def test_an_envoy_with_other_buckets_does_not_turn_requests_back():
    totals = Totals()
    name = f"headgate.answered.by.200||-|{OF_V1}"
    for at, (bounds, counts) in enumerate([((1.0,), (7,)), ((1.0, 2.0), (2, 3)), ((1.0, 2.0), (3, 4)), ((3.0,), (1,))]):
        totals.take(Reading({}, {name: counts}, {name: bounds}), float(at))
        (figures,) = totals.figures().values()
        assert figures.count == (7, 10, 11, 12)[at]
        assert figures.times["first_byte"] == Times(bounds, counts)


# Reading


def test_counters_and_histograms_are_read():
    buckets = [{"upper_bound": 500, "interval": 0, "cumulative": 3}, {"upper_bound": 1e6, "cumulative": 5}]
    body = {"stats": [{"name": REQUESTS, "value": 5}, {"histograms": [{"name": DURATION, "buckets": buckets}]}]}
    assert read(json.dumps(body).encode()) == Reading({REQUESTS: 5}, {DURATION: (3, 5)}, {DURATION: (0.0005, 1.0)})


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"[]", b"{}", b'{"stats": 3}', b'{"stats": [{}]}', b"\xff", b'{"stats":[1]}']
)
def test_anything_else_is_refused_in_one_way(body):
    with pytest.raises(Malformed):
        read(body)


# Never backwards

lives = st.lists(st.lists(st.integers(0, 50), min_size=1), min_size=1)


@given(lives)
def test_totals_are_the_sum_over_all_lives_of_envoy(lives):
    totals, expected, at, highest = Totals(), 0, 0.0, 0
    for life in lives:
        counted = 0
        for uptime, more in enumerate(life):
            counted += more
            at += 100.0 if uptime == 0 else 1.0
            totals.take(reading(counted, uptime=uptime), at)
            assert requests_of(totals) == expected + counted >= highest
            highest = expected + counted
        expected += counted


def test_an_envoy_that_tells_no_uptime_is_seen_to_restart_by_its_figures():
    totals = Totals()
    for at, (requests, counts) in enumerate([(5, (1, 5)), (2, (2, 2)), (3, (2, 3))]):
        totals.take(reading(requests, counts), float(at))
    assert requests_of(totals) == 8
    assert totals.figures()[V1].times["duration"].counts == (3, 8)


@pytest.mark.parametrize(("refused", "total"), [(True, 12), (False, 7)])
def test_a_quick_restart_shows_by_a_refused_connection(refused, total):
    totals = Totals()
    totals.take(reading(5, uptime=1), 1.0)
    totals.take(reading(7, uptime=1), 2.5, refused)
    assert requests_of(totals) == total


def test_an_old_envoy_that_refused_a_connection_is_the_same_one():
    totals = Totals()
    totals.take(reading(5, uptime=100), 1.0)
    totals.take(reading(7, uptime=102), 3.0, True)
    assert requests_of(totals) == 7


def test_a_stat_that_envoy_let_go_of_is_added_to():
    totals = Totals()
    for at, requests in enumerate([5, None, 7]):
        totals.take(reading(requests), float(at))
    assert requests_of(totals) == 12


def test_other_buckets_begin_anew():
    totals = Totals()
    totals.take(reading(1, (1, 1)), 0.0)
    totals.take(reading(2, (2, 2, 2)), 1.0)
    assert totals.figures()[V1].times["duration"].counts == (2, 2, 2)


def test_a_version_that_is_gone_is_told_for_a_while_and_then_forgotten():
    totals = Totals(grace=10.0)
    totals.take(reading(5), 0.0)
    totals.take(reading(None), 10.0)
    assert requests_of(totals) == 5
    totals.take(reading(None), 10.1)
    assert totals.figures() == {}
    assert len(totals) == 0


def test_a_part_of_a_version_is_not_forgotten_alone():
    """Or a sum over its codes or routes would go backwards."""
    totals = Totals(grace=10.0)
    totals.take(reading(5, (5,)), 0.0)
    totals.take(reading(None, (6,)), 100.0)
    assert requests_of(totals) == 5


def test_there_is_a_limit():
    totals = Totals(most=1)
    totals.take(reading(5, (5,)), 0.0)
    assert (len(totals), totals.refused) == (1, {DURATION})
    assert requests_of(totals) == 5


# Histograms


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((8, 8, 8), 0.5, 0.5),
        ((4, 6, 8), 0.75, 2.0),
        ((4, 6, 8), 1.0, 4.0),
        ((0, 0, 8), 0.5, 3.0),
        ((0, 5, 5), 0.0, 1.0),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(counts, share, expected):
    assert Times((1.0, 2.0, 4.0), counts).quantile(share) == pytest.approx(expected)


def test_no_requests_have_no_quantile():
    assert Times((1.0,), (0,)).quantile(0.5) is None


def test_header_routes_of_one_version_are_added_up():
    totals, figures = Totals(), {}
    for index in range(2):
        figures[f"headgate.requests.by.200||-|v1@default/iris@v1/match-{index}|default/iris/v1|v1"] = 2 + index
    totals.take(Reading(figures), 0.0)
    assert totals.figures() == {V1._replace(route="header"): Figures({Outcome("200", ""): 5}, {}, {})}


def any_json() -> Any:
    return st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["stats", "name", "value"]), inner),
    )


@given(any_json())
def test_whatever_a_false_envoy_answers_is_refused_or_read(document):
    with suppress(Malformed):
        Totals().take(read(json.dumps(document).encode()), 0.0)
