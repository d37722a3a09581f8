"""Tokens and their times per version: exact in all, and lately."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from router.telemetry import read
from sidecar.metrics.counted import Counted
from sidecar.metrics.llm import Llms, Version
from sidecar.metrics.pages import More, application
from sidecar.metrics.windows import WINDOWS
from sidecar.proxy_config import Exchange, ProxyConfig

V1, V2 = Version("default", "iris", "v1"), Version("default", "wine", "v2")
ANSWER = {"tokens_in": 3, "tokens_out": 20, "time_to_first_token": 0.2, "time_between_tokens": 0.02}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def minutes_of(per_second: int, seconds: int) -> Llms:
    """So many answers of v1 each second."""
    clock = Clock()
    llms = Llms(clock)
    for second in range(seconds):
        for _ in range(per_second):
            llms.say(V1, ANSWER)
        clock.now = second + 1.0
        llms.take()
    return llms


said = st.fixed_dictionaries(
    {},
    optional={
        "tokens_in": st.integers(0, 1000),
        "tokens_out": st.integers(0, 1000),
        "time_to_first_token": st.integers(0, 10**8).map(lambda us: us / 1e6),
        "time_between_tokens": st.integers(0, 10**8).map(lambda us: us / 1e6),
    },
)


@given(st.lists(st.lists(said, max_size=5), max_size=12))
def test_windows_of_a_sidecar_from_its_start_add_up_to_the_totals_exactly(seconds: list[list[dict[str, Any]]]) -> None:
    clock = Clock()
    llms = Llms(clock)
    everything = [one for second in seconds for one in second]
    for second in seconds:
        for one in second:
            llms.say(V1, one)
        clock.now += 0.5
        llms.take()
    (told,) = llms.versions() or [None]
    if not any(everything):
        assert told is None
        return
    assert told is not None
    for window in told["windows"].values():
        assert {key: window[key] for key in told["total"]} == told["total"]
    assert told["total"]["tokens_out"] == sum(one.get("tokens_out", 0) for one in everything)
    firsts = [one["time_to_first_token"] for one in everything if "time_to_first_token" in one]
    first = told["total"]["time_to_first_token_seconds"]
    assert (first["count"], first["sum"]) == (len(firsts), sum(round(one * 1e6) for one in firsts) / 1e6)


def test_each_window_has_its_own_tokens_times_and_rates() -> None:
    llms = minutes_of(2, 100)
    (told,) = llms.versions()
    assert told["total"]["tokens_out"] == 100 * 2 * 20
    assert {name: window["seconds"] for name, window in told["windows"].items()} == {"10s": 10, "1m": 60, "5m": 100}
    for window in told["windows"].values():
        answers = 2 * window["seconds"]
        assert (window["tokens_in"], window["tokens_out"]) == (3 * answers, 20 * answers)
        assert (window["tokens_in_per_second"], window["tokens_out_per_second"]) == (6.0, 40.0)
        first, between = window["time_to_first_token_seconds"], window["time_between_tokens_seconds"]
        assert (first["count"], first["sum"]) == (answers, pytest.approx(0.2 * answers))
        assert (between["count"], between["sum"]) == (answers, pytest.approx(0.02 * answers))
        assert 0.1 < first["p50"] < first["p90"] < first["p99"] <= 0.25


def test_a_version_that_fell_silent_keeps_its_totals_only() -> None:
    clock = Clock()
    llms = Llms(clock)
    llms.say(V1, ANSWER)
    for clock.now in range(1, 30):
        llms.take()
    (told,) = llms.versions("10s")
    assert list(told["windows"]) == ["10s"]
    window = told["windows"]["10s"]
    assert (told["total"]["tokens_out"], window["tokens_out"], window["tokens_out_per_second"]) == (20, 0, 0.0)
    assert window["time_to_first_token_seconds"] == {"count": 0, "sum": 0.0, "p50": None, "p90": None, "p99": None}


def test_an_answer_since_the_last_second_is_in_the_totals_already() -> None:
    llms = Llms(Clock())
    llms.say(V1, ANSWER)
    (told,) = llms.versions()
    assert told["total"]["tokens_out"] == 20
    assert {window["tokens_out"] for window in told["windows"].values()} == {0}


def exchange(said: dict[str, Any], *, shadow: bool = False) -> Exchange:
    whose = {"namespace": "default", "model": "iris", "version": "v1", "protocol": "http", "method": "POST"}
    sizes = {"request_bytes": 1, "response_bytes": 1, "duration": 0.5, "time_to_first_byte": 0.1}
    rest = {"code": 200, "grpc_status": None, "request_id": "", "end": "", "by_plugin": False}
    return Exchange(**whose, **sizes, **rest, shadow=shadow, said=said)  # type: ignore[arg-type]


def test_the_proxy_tells_them_too_but_not_of_copies_and_the_control_plane_reads_them() -> None:
    clock = Clock()
    counted = Counted(ProxyConfig(upstream="http://127.0.0.1:1", model="iris", version="v1"), clock=clock)
    for shadow in (False, True):
        counted.record(exchange(ANSWER, shadow=shadow))
    clock.now = 2.0
    counted.take()

    class Told(More):
        llms = counted.llms

    async def asked(path: str) -> dict[str, Any]:
        pages = TestServer(application(counted, Told()))
        async with pages, ClientSession() as session, session.get(pages.make_url(path)) as answer:
            document: dict[str, Any] = await answer.json()
            return document

    (told,) = asyncio.run(asked("/versions"))["llm"]
    assert list(told["windows"]) == list(WINDOWS)
    assert told["windows"]["1m"]["tokens_in"] == 3
    (short,) = asyncio.run(asked("/versions?window=10s&brief"))["llm"]
    assert "tokens_in" not in short["windows"]["10s"]
    assert short["total"] == {"tokens_in": 3, "tokens_out": 20}
    assert asyncio.run(asked("/versions?model=default/wine"))["llm"] == []
    spoken = read(json.dumps(asyncio.run(asked("/versions?window=10s&brief"))).encode()).versions["default/iris", "v1"]
    assert spoken.spoken is not None
    assert (spoken.spoken.tokens_in, spoken.spoken.tokens_out) == (1.5, 10.0)
    assert spoken.spoken.first_p99 == short["windows"]["10s"]["time_to_first_token_seconds"]["p99"]
