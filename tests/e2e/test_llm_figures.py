"""Tokens and their times per version, from a streaming OpenAI-style server through a real Envoy to every page."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from request_way import Way, entries, fetch, metrics, until

from headgate.config import Config
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.server import Server
from sidecar.native.build import NativeError, build
from sidecar.plugin_figures import FOLDER
from xds.ir import Backend, Endpoint, Match, ModelPlan, Protocol, Route, Target

MODEL = "default/iris"
PROMPT, WORDS, WAIT, GAP = 11, 5, 0.08, 0.03
REQUESTS = 6
TOKENS = "sidecar.plugins.tokens:Tokens"


@pytest.fixture(params=["ext-proc", "embedded"])
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    if request.param == "embedded":
        try:
            environment = build(cache=tmp_path).environment
        except NativeError as error:
            pytest.skip(f"NOT TESTED, plugins inside Envoy: {error}")
        for name, value in {**environment, FOLDER: str(tmp_path / "figures")}.items():
            monkeypatch.setenv(name, value)
    return str(request.param)


async def complete(request: web.Request) -> web.StreamResponse:
    """WORDS tokens, the first after WAIT s, the others GAP s apart; with its usage at the end if asked for."""
    asked = await request.json()
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for index in range(WORDS):
        await asyncio.sleep(GAP if index else WAIT)
        event = {"choices": [{"index": 0, "delta": {"content": f"word{index} "}}]}
        await answer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    if asked.get("stream_options", {}).get("include_usage"):
        usage = {"prompt_tokens": PROMPT, "completion_tokens": WORDS}
        await answer.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
    await answer.write(b"data: [DONE]\n\n")
    return answer


@asynccontextmanager
async def model_server() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def gateway(host: str, folder: Path) -> Any:
    plugins = {"host": host, "chain": [{"name": "tokens", "models": "all"}]}
    if host == "embedded":
        plugins["chain"][0]["plugin"] = TOKENS  # type: ignore[index]
    else:
        plugins["address"] = f"unix:{folder}/plugins.sock"
    one = {"name": "default", "listeners": [{"name": "http", "port": 0}], "plugins": plugins}
    config = Config.model_validate({"gateways": [{**one, "streamRequests": {"enabled": True}}]})
    return config.gateways[0].as_ir()


def plan(port: int) -> ModelPlan:
    names = [f"{MODEL}/{version}" for version in ("v1", "v2")]
    arms = tuple(Target(name, 5_000, name[-2:]) for name in names)
    backends = tuple(Backend(name, (Endpoint("127.0.0.1", port),), Protocol.HTTP1) for name in names)
    return ModelPlan(MODEL, "default", ("iris.test",), (Route("weighted", Match(), arms),), backends, primary="v1")


def test_tokens_are_told_on_every_page(rig: Any, host: str, tmp_path: Path) -> None:
    async def body(rig: Any) -> None:
        way = Way(rig)
        if host == "ext-proc":
            spec = ExtProcSpec.model_validate({"plugins": [{"plugin": TOKENS, "name": "tokens"}]})
            server = Server(Application(spec))
            await server.start(f"unix:{tmp_path}/plugins.sock")
            rig._stack.push_async_callback(server.stop, 0.5)
        async with model_server() as port:
            await rig.serve(gateway(host, tmp_path))
            rig.apply(plan(port))
            way.envoy = await rig.envoy(sidecar=("127.0.0.1", way.port))
            await rig.applied(MODEL)
            async with way.sidecar("--plugin-figures", str(tmp_path / "figures")) as (_, url):
                told, usages = Counter[str](), Counter[str]()

                async def ask(session: aiohttp.ClientSession, usage: bool) -> None:
                    asked = {"stream": True, "stream_options": {"include_usage": usage}}
                    at = f"http://127.0.0.1:{rig.port}/v1/chat/completions"
                    async with session.post(at, json=asked, headers={"host": "iris.test"}) as answer:
                        text = await answer.text()
                        version = answer.headers["app-version"]
                    assert answer.status == 200
                    assert text.count("word") == WORDS
                    told[version] += 1
                    usages[version] += usage

                async with aiohttp.ClientSession() as session:
                    while told.total() < REQUESTS or len(told) < 2:
                        await ask(session, usage=told.total() % 2 == 0)

                async def come() -> bool:
                    return await entries(url) == told.total()

                await until(come, "the entries have come")
                found = await metrics(url)
                for version, count in told.items():
                    of = (("model", "iris"), ("namespace", "default"), ("version", version))
                    name = "headgate_stream_tokens_total"
                    assert found[name, (("direction", "out"), *of)] == WORDS * count
                    assert found[name, (("direction", "in"), *of)] == PROMPT * usages[version]
                    assert found["headgate_stream_time_to_first_token_seconds_count", of] == count
                    assert found["headgate_stream_time_to_first_token_seconds_sum", of] >= WAIT * count * 0.9
                    assert found["headgate_stream_time_between_tokens_seconds_count", of] == count
                    assert found["headgate_stream_time_between_tokens_seconds_sum", of] >= GAP * count * 0.5
                await until(lambda: lately(url, told), "the window has all answers")
                spoken = {one["version"]: one for one in json.loads(await fetch(f"{url}/versions"))["llm"]}
                for version, count in told.items():
                    one = spoken[version]
                    assert (one["namespace"], one["model"]) == ("default", "iris")
                    for figures in (one["total"], one["windows"]["5m"]):
                        assert (figures["tokens_in"], figures["tokens_out"]) == (
                            PROMPT * usages[version],
                            WORDS * count,
                        )
                        first = figures["time_to_first_token_seconds"]
                        assert first["count"] == count
                        assert WAIT * 0.5 <= first["p50"] <= first["p99"]
                await tailed(url)
                if host == "embedded":
                    await until(lambda: plugins_say(url, told), "the plugin's own metrics have come")

    rig(body)


async def lately(url: str, told: Counter[str]) -> bool:
    """Windows are brought up to date every second."""
    found = json.loads(await fetch(f"{url}/versions?window=5m"))["llm"]
    counts = {one["version"]: one["windows"]["5m"]["time_to_first_token_seconds"]["count"] for one in found}
    return bool(counts == told)


async def plugins_say(url: str, told: Counter[str]) -> bool:
    """What the plugin inside Envoy counts by itself comes a second later, by its file."""
    found, name = await metrics(url), "headgate_plugin_tokens_tokens_total"
    return {version: found.get((name, (("direction", "out"), ("version", version)))) for version in told} == {
        version: WORDS * count for version, count in told.items()
    }


async def tailed(url: str) -> None:
    """`headgate tail` shows a request's tokens and times."""
    tail = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headgate", "tail", "iris", "--url", url, "-n", "1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None
    line = (await asyncio.wait_for(tail.stdout.readline(), 20)).decode()
    tail.terminate()
    await asyncio.wait_for(tail.communicate(), 20)
    assert f"tokens_out={WORDS}" in line
    assert "time_to_first_token=" in line
    assert "time_between_tokens=" in line
