"""What a sidecar tells, read: exact where it is right, left out where it is odd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.telemetry import PATH, WINDOW, Live, Malformed, Spoken, read, together
from sidecar.metrics.stats import Key, Outcome
from sidecar.metrics.totals import Figures, Times
from sidecar.metrics.windows import WINDOWS, Windows, versions

IRIS = ("default/iris", "v1")


def entry(**changed: Any) -> dict[str, Any]:
    window = {"requests": 10, "errors": 1, "rps": 2.5, "duration_seconds": {"p50": 0.01, "p90": 0.02, "p99": 0.05}}
    usual = {"namespace": "default", "model": "iris", "version": "v1", "route": "primary", "shadow": False}
    return {**usual, "windows": {"10s": {**window, **changed.pop("window", {})}}, **changed}


def body(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"age_seconds": 0.5, "trouble": None, "versions": entries, **more}).encode()


def test_what_a_sidecar_tells_is_read() -> None:
    windows = Windows[Key]()
    key, outcomes = Key("default", "iris", "v1", "primary"), {Outcome("200", ""): 9, Outcome("503", ""): 1}
    windows.take({key: Figures({}, {}, {})}, 0.0)
    windows.take({key: Figures(outcomes, {}, {"duration": Times((0.01, 0.02), (10, 10))})}, 4.0)
    assert WINDOW in WINDOWS
    assert f"window={WINDOW}&" in PATH
    told = {"age_seconds": 0.25, "trouble": "Envoy is away", "versions": versions(windows, WINDOW)}
    reading = read(json.dumps(told).encode())
    assert (reading.age, reading.trouble, reading.odd) == (0.25, "Envoy is away", 0)
    live = reading.versions[IRIS]
    assert (live.requests, live.errors, live.rps, live.error_percent) == (10, 1, 2.5, 10.0)
    assert live.p99 == pytest.approx(0.0099)


def test_routes_are_added_up_and_copies_left_out() -> None:
    mirror = entry(route="mirror", shadow=True, window={"requests": 500})
    slow = entry(route="header", window={"duration_seconds": {"p50": 0.001, "p99": 0.9}})
    unmatched = entry(namespace="", model="", version="", route="unmatched")
    reading = read(body(entry(), slow, mirror, unmatched))
    assert reading.versions == {IRIS: Live(20, 2, 5.0, 0.01, 0.9)}
    assert reading.odd == 0


def test_a_version_without_requests_has_no_times() -> None:
    idle = entry(window={"requests": 0, "errors": 0, "rps": 0.0, "duration_seconds": {"p50": None, "p99": None}})
    live = read(body(idle)).versions[IRIS]
    assert live == Live()
    assert live.error_percent == 0.0
    assert together([live, Live(1, 0, 0.1, 0.5, 0.6)]) == Live(1, 0, 0.1, 0.5, 0.6)


@pytest.mark.parametrize(
    "odd",
    [
        *(None, 7, "x", [], {}, entry(windows={}), entry(windows=None), entry(model=None), entry(version=3)),
        *(entry(window={"rps": "fast"}), entry(window={"requests": -1}), entry(window={"errors": True})),
        *(entry(window={"rps": float("nan")}), entry(window={"rps": float("inf")}), entry(window={"requests": 10**30})),
        entry(window={"duration_seconds": {"p99": "slow"}}),
    ],
)
def test_an_odd_entry_is_left_out_and_the_others_stay(odd: Any) -> None:
    reading = read(body(odd, entry()))
    assert reading.odd == 1
    assert reading.versions == {IRIS: Live(10, 1, 2.5, 0.01, 0.05)}


def spoken(**changed: Any) -> dict[str, Any]:
    first, between = {"p50": 0.2, "p90": 0.25, "p99": 0.3}, {"p50": 0.01, "p90": 0.02, "p99": None}
    window = {"tokens_in_per_second": 7, "tokens_out_per_second": 40.5, "time_to_first_token_seconds": first}
    window |= {"time_between_tokens_seconds": between, **changed}
    return {"namespace": "default", "model": "iris", "version": "v1", "windows": {"10s": window}}


def test_tokens_of_a_version_are_told_once_whatever_its_routes() -> None:
    reading = read(body(entry(), entry(route="header"), llm=[spoken()]))
    said = reading.versions[IRIS].spoken
    assert said == Spoken(7.0, 40.5, 0.2, 0.3, 0.01, None)
    slower = Live(spoken=Spoken(1.0, 1.0, 0.1, 0.9, None, 0.5))
    assert together([reading.versions[IRIS], Live(), slower]).spoken == Spoken(8.0, 41.5, 0.2, 0.9, 0.01, 0.5)


def test_tokens_of_a_version_without_requests_are_left_out() -> None:
    assert read(body(entry(version="v2"), llm=[spoken()])).versions == {
        ("default/iris", "v2"): read(body(entry())).versions[IRIS]
    }


@pytest.mark.parametrize(
    "odd", [None, 7, {}, spoken(tokens_in_per_second=-1), spoken(time_to_first_token_seconds=None)]
)
def test_odd_tokens_are_left_out_and_the_requests_stay(odd: Any) -> None:
    reading = read(body(entry(), llm=[odd]))
    assert reading.odd == 1
    assert reading.versions == read(body(entry())).versions


def test_more_errors_than_requests_are_not_believed() -> None:
    assert read(body(entry(window={"errors": 11}))).versions[IRIS].error_percent == 100.0


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"7", b"null", b"{}", b"\xff", b'{"versions": {}}', b'{"versions": null}', b"[" * 100_000),
        b'{"versions": [], "age_seconds": "old"}',
        b'{"versions": [], "age_seconds": 1, "llm": {}}',
        b'{"versions": [], "age_seconds": -1}',
    ],
)
def test_what_is_no_answer_of_a_sidecar_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        read(text)


def test_figures_of_a_sidecar_that_has_read_nothing_are_never_fresh() -> None:
    assert read(body(age_seconds=None)).age == float("inf")


def test_what_is_told_cannot_play_with_a_terminal() -> None:
    assert read(body(trouble="\x1b[2Jaway\n" + "x" * 1000)).trouble == "[2Jaway" + "x" * 191


names = st.sampled_from(["versions", "windows", "10s", "model", "requests", "rps"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(documents, documents)
def test_nothing_gets_out_but_malformed(document: Any, odd: Any) -> None:
    for text in (json.dumps(document), json.dumps({"versions": [odd, entry()]})):
        try:
            reading = read(text.encode())
        except Malformed:
            continue
        assert all(live.errors <= live.requests for live in reading.versions.values())
