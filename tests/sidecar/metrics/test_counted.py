"""What the proxy has passed on, as figures: over real sockets, and exchange by exchange."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from sidecar.metrics.counted import BOUNDS, Counted
from sidecar.metrics.families import FAMILIES, OPENMETRICS, TEXT
from sidecar.metrics.process import CannotListen
from sidecar.metrics.stats import Key, Outcome
from sidecar.proxied import serve
from sidecar.proxy import CannotStart
from sidecar.proxy_config import Exchange, ProxyConfig
from xds.bootstrap import SECONDS

PRIMARY = Key("default", "iris", "v1", "primary")
OWN = {family.name for family in FAMILIES if family.name.startswith("headgate_sidecar_")}


def exchange(**changed: Any) -> Exchange:
    usual: dict[str, Any] = {
        "namespace": "default",
        "model": "iris",
        "version": "v1",
        "protocol": "http",
        "method": "POST",
        "code": 200,
        "grpc_status": None,
        "shadow": False,
        "request_bytes": 10,
        "response_bytes": 20,
        "duration": 0.004,
        "time_to_first_byte": 0.001,
        "request_id": "",
        "end": "",
        "by_plugin": False,
    }
    return Exchange(**{**usual, **changed})


def counted(**more: Any) -> Counted:
    return Counted(ProxyConfig(upstream="http://127.0.0.1:1", model="iris", version="v1"), **more)


def test_the_buckets_are_those_of_an_envoy() -> None:
    assert BOUNDS == SECONDS


def test_a_request_is_counted_with_its_times_and_bytes() -> None:
    one = counted()
    one.record(exchange())
    one.record(exchange(duration=4_000.0))
    figures = one.figures[PRIMARY]
    assert figures.requests == {Outcome("200", ""): 2}
    assert figures.sums == {
        "request_bytes": 20,
        "response_bytes": 40,
        "duration_us": 4_000_004_000,
        "first_byte_us": 2_000,
    }
    times = figures.times["duration"]
    assert times.count == 2, "what takes longer than the last bucket is in it"
    assert next(bound for bound, count in zip(times.bounds, times.counts, strict=True) if count) == 0.005


@pytest.mark.parametrize(
    ("changed", "outcome", "failed"),
    [
        ({"code": 404}, Outcome("404", ""), False),
        ({"code": 999}, Outcome("other", ""), False),
        ({"code": 503, "end": "upstream-failed"}, Outcome("503", "", "UF"), True),
        ({"code": 504, "end": "upstream-failed"}, Outcome("504", "", "UT"), True),
        ({"code": 200, "end": "upstream-failed"}, Outcome("200", "", "UC"), True),
        ({"code": 200, "end": "aborted"}, Outcome("200", "", "LR"), True),
        ({"code": 0, "end": "disconnected"}, Outcome("0", "", "DC"), False),
        ({"protocol": "grpc", "grpc_status": 14}, Outcome("200", "14"), True),
        ({"protocol": "grpc", "grpc_status": 0}, Outcome("200", "0"), False),
        (
            {"protocol": "grpc", "grpc_status": 1, "end": "disconnected", "time_to_first_byte": None},
            Outcome("0", "", "DC"),
            False,
        ),
    ],
)
def test_how_it_ended_is_told_in_envoys_words(changed: dict[str, Any], outcome: Outcome, failed: bool) -> None:
    one = counted()
    one.record(exchange(**changed))
    figures = one.figures[PRIMARY]
    assert figures.requests == {outcome: 1}
    assert figures.errors == failed
    assert ("duration" in figures.times) == (changed.get("end") != "disconnected")


def test_copies_are_counted_apart() -> None:
    one = counted()
    one.record(exchange(shadow=True))
    assert one.figures[PRIMARY].count == 0
    assert one.figures[PRIMARY._replace(route="mirror")].count == 1


def test_windows_tell_what_was_added() -> None:
    now = [0.0]
    one = counted(clock=lambda: now[0])
    one.record(exchange())
    now[0] = 2.0
    one.take()
    (version,) = one.versions()
    assert version["windows"]["10s"]["rps"] == 0.5
    assert version["windows"]["10s"]["duration_seconds"]["p99"] == pytest.approx(0.005, rel=0.05)
    now[0] = 2.5
    assert one.age == 0.5


# The process


class Running:
    def __init__(self, pages: int, proxy: tuple[int, ...], client: aiohttp.ClientSession) -> None:
        self.pages, self.proxy, self._client = f"http://127.0.0.1:{pages}", f"http://127.0.0.1:{proxy[0]}", client

    async def get(self, url: str, **more: Any) -> tuple[int, str]:
        async with self._client.get(url, **more) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def running(upstream: str, **config: Any) -> AsyncIterator[Running]:
    settings = {"listen": "127.0.0.1:0", "model": "iris", "version": "v1", "drain": 0.1, **config}
    stop, ports = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            ProxyConfig(upstream=upstream, **settings),
            *("127.0.0.1", 0),
            interval=0.02,
            stop=stop,
            started=lambda pages, proxy: ports.set_result((pages, proxy)),
        )
    )
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as client:
            await asyncio.wait((task, ports), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield Running(*ports.result(), client)
    finally:
        stop.set()
        await task


async def teapot(request: web.BaseRequest) -> web.Response:
    return web.Response(status=418 if "tea" in request.path else 200, text="hello")


@asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(teapot, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("kind", "parse"), [(TEXT, text_families), (OPENMETRICS, openmetrics_families)])
def test_the_pages_tell_what_went_through_the_proxy_and_its_plugins(kind: str, parse: Any) -> None:
    async def scenario() -> None:
        stamp = {"plugin": "sidecar.plugins.stamp:Stamp"}
        async with model_server() as upstream, running(upstream, plugins=[stamp]) as here:
            assert await here.get(f"{here.pages}/readyz") == (200, "ready\n")
            for path in ("/a", "/b", "/tea"):
                await here.get(here.proxy + path)
            while True:
                told = json.loads((await here.get(f"{here.pages}/versions?model=default/iris"))[1])
                if told["versions"][0]["windows"]["10s"]["requests"] == 3:
                    break
            assert told["versions"][0]["total"]["response_bytes"] == 15
            assert (told["ready"], told["trouble"], told["versions"][0]["version"]) == (True, None, "v1")
            text = (await here.get(f"{here.pages}/metrics", headers={"Accept": kind}))[1]
            samples = {
                (one.name, one.labels.get("code"), one.labels.get("plugin")): one.value
                for family in parse(text)
                for one in family.samples
            }
            assert samples["headgate_requests_total", "200", None] == 2
            assert samples["headgate_requests_total", "418", None] == 1
            assert samples["headgate_request_duration_seconds_count", None, None] == 3
            assert samples["headgate_plugin_requests_total", None, "stamp"] == 3
            assert not {name for name, _, _ in samples} & OWN, "there is no Envoy to tell of"

    asyncio.run(scenario())


def test_a_plugin_that_is_not_there_is_told_and_nothing_stays_open() -> None:
    async def scenario() -> str:
        with pytest.raises(CannotStart) as caught:
            async with running("http://127.0.0.1:1", plugins=[{"plugin": "nothing.there:At"}]):
                pass
        return str(caught.value)

    assert "plugins[0].plugin" in asyncio.run(scenario())


def test_a_taken_port_of_the_pages_is_told() -> None:
    async def scenario() -> None:
        async with model_server() as upstream:
            port = int(upstream.rpartition(":")[2])
            config = ProxyConfig(upstream=upstream, listen="127.0.0.1:0")
            with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}: "):
                await serve(config, "127.0.0.1", port, stop=asyncio.Event())

    asyncio.run(scenario())
