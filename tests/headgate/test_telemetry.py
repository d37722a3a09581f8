"""Live figures in the control plane: read every second, shown while fresh, and nothing waits for them."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console

from headgate import show, telemetry
from headgate.config import Config
from headgate.demo.traffic import until as wait
from headgate.serve import ControlPlane
from headgate.telemetry import FRESH, Telemetry
from router.telemetry import PATH

IRIS = "default/iris"


def entry(version: str = "v1", rps: float = 2.5, errors: int = 0, p99: float = 0.05) -> dict[str, Any]:
    window = {"requests": 10, "errors": errors, "rps": rps, "duration_seconds": {"p50": 0.01, "p99": p99}}
    return {"namespace": "default", "model": "iris", "version": version, "shadow": False, "windows": {"10s": window}}


def told(*entries: Any, age: float | None = 0.5, trouble: str | None = None) -> str:
    return json.dumps({"age_seconds": age, "trouble": trouble, "versions": entries})


class Sidecar:
    """Answers with `text` and `status`; while `silent` is set, not at all."""

    def __init__(self, text: str) -> None:
        self.text, self.status, self.url, self.asked = text, 200, "", 0
        self.silent = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        if self.silent.is_set():
            await asyncio.Event().wait()
        assert request.path_qs == PATH
        return web.Response(text=self.text, status=self.status)


@asynccontextmanager
async def sidecar(text: str, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Sidecar]:
    one = Sidecar(text)
    runner = web.ServerRunner(web.Server(one.answer, access_log=None, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    one.url = f"http://{host}:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


@asynccontextmanager
async def reading(*urls: str, **more: Any) -> AsyncIterator[Telemetry]:
    found = Telemetry(urls, interval=0.01, **more)
    task = asyncio.create_task(found.run())
    try:
        async with asyncio.timeout(20):
            yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    await wait(condition, within=20, what="what the test waits for")


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_figures_of_several_sidecars_are_added_up() -> None:
    async def scenario() -> None:
        async with (
            sidecar(told(entry(errors=2))) as one,
            sidecar(told(entry(rps=1.5, p99=0.2), age=1.0)) as other,
            reading(one.url, other.url) as found,
        ):
            await until(lambda: all(each["trouble"] is None for each in found.sidecars()))
            live = found.versions(IRIS, ["v1", "v2"])
            assert list(live) == ["v1"]
            age = live["v1"].pop("age")
            assert 1.0 <= age < 20
            assert live["v1"] == {
                "rps": 4.0,
                "requests": 20,
                "errors": 2,
                "errorPercent": 10.0,
                "p50": 0.01,
                "p99": 0.2,
                "sidecars": 2,
                "llm": None,
            }
            assert found.versions("default/wine", ["v1"]) == {}

    play(scenario)


def test_a_sidecar_that_goes_is_told_and_its_figures_grow_old() -> None:
    async def scenario() -> None:
        now = [100.0]
        async with sidecar(told(entry(), age=0.0)) as one, reading(one.url, clock=lambda: now[0]) as found:
            await until(lambda: bool(found.versions(IRIS, ["v1"])))
            one.status = 503
            await until(lambda: found.sidecars()[0]["trouble"] is not None)
            assert "answered 503" in found.sidecars()[0]["trouble"]
            now[0] += FRESH
            assert found.versions(IRIS, ["v1"])["v1"]["age"] == FRESH
            now[0] += 0.1
            assert found.versions(IRIS, ["v1"]) == {}
            assert found.sidecars()[0]["age"] == FRESH + 0.1
            one.status = 200
            await until(lambda: bool(found.versions(IRIS, ["v1"])))

    play(scenario)


def test_every_address_of_a_name_is_asked_and_those_that_go_are_forgotten() -> None:
    async def scenario() -> None:
        there: list[str] = []
        broken = False

        async def resolve(host: str, port: int) -> list[str]:
            assert host == "sidecars.example"
            if broken:
                raise OSError(-2, "Name or service not known")
            return there

        async with sidecar(told(entry())) as one:
            port = int(one.url.rpartition(":")[2])
            name = f"http://sidecars.example:{port}"
            async with sidecar(told(entry()), "127.0.0.2", port), reading(name, resolve=resolve) as found:

                def read_by(number: int) -> bool:
                    return found.versions(IRIS, ["v1"]).get("v1", {"sidecars": 0})["sidecars"] == number

                await until(lambda: found.sidecars()[0]["trouble"] == "the name stands for no address")
                there[:] = ["127.0.0.1", "127.0.0.2"]
                await until(lambda: read_by(2))
                assert found.versions(IRIS, ["v1"])["v1"]["rps"] == 5.0
                assert {each["url"] for each in found.sidecars()} == {f"{name} at {address}" for address in there}
                there[:] = ["127.0.0.2"]
                await until(lambda: read_by(1))
                broken = True
                await until(lambda: "cannot resolve" in found._names[0].trouble)
                assert read_by(1), "whom we know we go on asking"

    play(scenario)


def test_a_name_that_nobody_knows_is_told() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    async def scenario() -> None:
        async with reading("http://sidecars.example:1", resolve=resolve) as found:
            await until(lambda: "cannot resolve the name: name or service not" in found.sidecars()[0]["trouble"])

    play(scenario)


def test_a_name_of_both_families_counts_once() -> None:
    assert set(asyncio.run(telemetry.addresses("localhost", 1))) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "not one of a sidecar's"),
        (told(entry(), 7, None), "2 parts that could not be read"),
        (told(age=60.0, trouble="cannot connect to Envoy"), "cannot connect to Envoy"),
    ],
)
def test_what_is_wrong_with_a_sidecar_is_told(text: str, words: str) -> None:
    async def scenario() -> None:
        async with sidecar(text) as one, reading(one.url) as found:
            await until(lambda: words in str(found.sidecars()[0]["trouble"]))

    play(scenario)


def test_an_answer_without_end_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MOST_BYTES", 1000)

    async def scenario() -> None:
        async with sidecar(told(entry()) + " " * 2000) as one, reading(one.url) as found:
            await until(lambda: "longer than 1000 bytes" in str(found.sidecars()[0]["trouble"]))
            assert found.versions(IRIS, ["v1"]) == {}

    play(scenario)


def test_a_silent_sidecar_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "TIMEOUT", 0.05)

    async def scenario() -> None:
        async with sidecar("") as silent, sidecar(told(entry())) as one:
            silent.silent.set()
            async with reading(silent.url, one.url) as found:
                await until(lambda: bool(found.versions(IRIS, ["v1"])))
                await until(lambda: "did not answer within" in str(found.sidecars()[0]["trouble"]))
                await until(lambda: silent.asked >= 2)

    play(scenario)


def test_reading_many_versions_gives_others_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, taken = 0, []
    real = telemetry.Reading.take

    def take(reading: Any, each: Any) -> None:
        taken.append(turn)
        real(reading, each)

    monkeypatch.setattr(telemetry.Reading, "take", take)

    async def scenario() -> None:
        nonlocal turn
        many = told(*(entry(f"v{number}") for number in range(1000)))
        async with sidecar(many) as one, reading(one.url) as found:
            while not found.versions(IRIS, ["v999"]):
                turn += 1
                await asyncio.sleep(0)

    play(scenario)
    assert max(Counter(taken[:1000]).values()) <= telemetry.SLICE


# In the control plane


def test_status_and_models_have_them_and_serving_does_not_depend_on_them(put, manifests) -> None:
    put("iris")

    async def scenario() -> None:
        async with sidecar(told(entry(errors=1))) as one:
            config = Config.model_validate(
                {
                    "xds": {"port": 0},
                    "http": {"port": 0},
                    "manifests": manifests,
                    "telemetry": {"sidecars": [one.url, "http://127.0.0.1:1"]},
                }
            )
            async with asyncio.timeout(30), ControlPlane(config) as plane, aiohttp.ClientSession() as client:

                async def get(path: str) -> Any:
                    async with client.get(f"http://127.0.0.1:{plane.http_port}{path}") as answer:
                        assert answer.status == 200
                        return await answer.json()

                while (live := (await get(f"/models/{IRIS}"))["versions"][0]["live"]) is None:
                    pass
                assert (live["rps"], live["errorPercent"]) == (2.5, 10.0)
                document = await get("/status")
                while document["sidecars"][1]["trouble"] != "cannot connect: connection refused":
                    document = await get("/status")
                assert document["models"][0]["versions"][0]["live"]["requests"] == 10
                async with client.get(f"http://127.0.0.1:{plane.http_port}/readyz") as answer:
                    assert answer.status == 200

    play(scenario)


def drawn(document: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=250).print(show.status(document, show.now()))
    return out.getvalue()


def shown(plane: Any, live: dict[str, Any] | None, *sidecars: dict[str, Any]) -> str:
    document = plane.status.model(IRIS)
    document["versions"][0]["live"] = live
    return drawn({"models": [document], "envoys": [], "gateways": [], "problems": [], "sidecars": list(sidecars)})


def test_status_draws_figures_where_there_are_some(plane) -> None:
    plane.put()
    live = {"rps": 12.34, "requests": 100, "errors": 3, "errorPercent": 3.0, "p50": 0.01, "p99": 0.0456, "age": 0.5}
    text = shown(plane, live)
    head, row = text.splitlines()[:2]
    assert [name for name in head.split() if name in ("RPS", "ERRORS", "P99", "AGE")] == ["RPS", "ERRORS", "P99", "AGE"]
    assert re.search(r" 12\.3 +3 % +45\.6 ms +0\.5s ", row)


LLM = {
    "tokensInPerSecond": 310.04,
    "tokensOutPerSecond": 12_345.6,
    "timeToFirstToken": {"p50": 0.2, "p99": 1.25},
    "timeBetweenTokens": {"p50": 0.0123, "p99": None},
}


def test_one_model_is_drawn_with_its_tokens_within_100_columns(plane: Any) -> None:
    plane.put()
    document = plane.status.model(IRIS)
    live = {"rps": 12.34, "requests": 100, "errors": 3, "errorPercent": 3.0, "p50": 0.01, "p99": 0.0456, "age": 0.5}
    document["versions"][0]["live"] = {**live, "llm": LLM}
    out = io.StringIO()
    Console(file=out, width=100).print(show.model(document, show.now()))
    lines = out.getvalue().splitlines()
    head = next(number for number, line in enumerate(lines) if "TOKENS/S IN" in line)
    assert " ".join(lines[head].split()) == "VERSION TOKENS/S IN OUT FIRST TOKEN P50 P99 NEXT P50 P99"
    assert " ".join(lines[head + 1].split()) == "v1 310.0 12345.6 200 ms 1.25 s 12.3 ms -"
    assert not lines[head + 2].strip(), "one version tells of tokens"
    assert "TOKENS" not in drawn({"models": [document], "envoys": [], "gateways": [], "problems": [], "sidecars": []})


def test_status_without_figures_has_no_columns_for_them_and_says_who_is_away(plane) -> None:
    plane.put()
    away = {"url": "http://127.0.0.1:1", "trouble": "cannot connect: refused", "age": None}
    stale = {"url": "http://127.0.0.1:2", "trouble": "broke off", "age": 12.2}
    text = shown(plane, None, away, stale, {"url": "x", "trouble": None, "age": 0.1})
    assert "RPS" not in text
    assert "warning: sidecar http://127.0.0.1:1: cannot connect: refused; no figures yet" in text
    assert "warning: sidecar http://127.0.0.1:2: broke off; its figures are 12 s old" in text
    assert "sidecar x" not in text


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1", "https://h:1", "http://h", "http://h:1/x", "http://u@h:1", "http://h:x"]
)
def test_a_wrong_url_is_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"telemetry\.sidecars\.0|URL") as caught:
        Config.model_validate({"telemetry": {"sidecars": [url]}})
    assert "sidecar" in str(caught.value)


def test_a_slash_at_the_end_of_a_url_is_no_mistake() -> None:
    config = Config.model_validate({"telemetry": {"sidecars": ["http://h:1/"]}})
    assert config.telemetry.sidecars == ("http://h:1",)
