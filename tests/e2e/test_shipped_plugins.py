"""Each plugin that we ship does what it promises in each host: inside a real Envoy, beside it, and in the proxy.

One Envoy serves all of them: every plugin runs for the model of its own name.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from headgate.config import Config, read
from headgate.demo.traffic import until as wait
from router.offline import load
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.figures import FigureFile
from sidecar.ext_proc.server import Server
from sidecar.instruments import Family, added
from sidecar.metrics.plugin_files import PluginFiles
from sidecar.native.build import NativeError, build
from sidecar.plugin_figures import FOLDER
from sidecar.proxy import CannotStart, Proxy, serve_proxy
from sidecar.proxy_config import ProxyConfig
from xds.ir import ModelPlan

INFER, CHAT, METADATA = "/v2/models/iris/infer", "/v1/chat/completions", "/v2/models/iris"
SCORES = {"v1": [1.0, 2.0], "v2": [2.5, 1.0]}
WORDS, PROMPT = 3, 7
SHADOW = "sidecar.plugins.shadow:Shadow"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
TELLING = """
from sidecar.plugin import CONTINUE, HttpContext, Plugin


class Telling(HttpContext):
    def on_request_headers(self, headers):
        self.log.error(f"{headers.get(':authority')}: mail from ann@example.com")
        headers.set("x-sent-to", self.get_property("version") or "nobody knows")
        return CONTINUE


class Tell(Plugin):
    context = Telling


class Beyond(Tell):
    places = ("backend",)
    elsewhere = "it looks for what is beyond"
"""
MISPLACED = "Beyond cannot do its work at a gateway's listeners: it looks for what is beyond"
CHAIN: dict[str, dict[str, Any]] = {
    "stamp": {"plugin": "sidecar.plugins.stamp:Stamp", "config": {"version_header": "x-version"}},
    "json-to-header": {"plugin": "sidecar.plugins.json_to_header:JsonToHeader"},
    "v2-schema": {"plugin": "sidecar.plugins.v2_schema:V2Schema"},
    "tokens": {"plugin": "sidecar.plugins.tokens:Tokens"},
    "rate-limit": {"plugin": "sidecar.plugins.rate_limit:RateLimit", "config": {"per_second": 0.001, "burst": 2}},
    "redact": {"plugin": "sidecar.plugins.redact:Redact"},
    "tell": {"plugin": "telling.py:Tell"},
    "shadow": {"plugin": SHADOW, "at": "backend"},
    "cache": {"plugin": "sidecar.plugins.cache:Cache", "at": "backend"},
    "misplaced": {"plugin": "telling.py:Beyond"},
    "tell-backend": {"plugin": "telling.py:Tell", "at": "backend"},
}
SHARING = ("shadow", "cache", "tokens", "stamp")
"""Models that say that they share their servers with others."""
BESIDE = {"redact": ["tell"], "shadow": ["tell-backend"]}
"""What else runs for the model of a plugin."""


@dataclass
class Scene:
    """A host with all plugins, in front of one server for each version."""

    stack: AsyncExitStack
    folder: Path
    client: aiohttp.ClientSession
    upstream: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    """Version, path and headers of what reached the servers."""
    urls: dict[str, str] = field(default_factory=dict)
    figures: Callable[[], tuple[Family, ...]] = tuple
    log: Callable[[], str] = str
    has_routes: bool = True

    async def ask(self, model: str, path: str = INFER, document: object = None, **headers: str) -> Any:
        """The answer, read."""
        named = {"host": f"{model}.test", **{name.replace("_", "-"): value for name, value in headers.items()}}
        sent = {"inputs": [INPUT]} if document is None else document
        async with self.client.post(self.urls[model] + path, json=sent, headers=named) as got:
            await got.read()
            return got

    def reached(self, model: str, path: str = INFER) -> list[tuple[str, Mapping[str, str]]]:
        return [(who, sent) for who, at, sent in self.seen if at == path and sent["host"].startswith(f"{model}.test")]

    def count(self, metric: str, **labels: str) -> float:
        samples = (
            one for family in self.figures() if family.name == f"headgate_plugin_{metric}" for one in family.samples
        )
        return sum(one.value for one in samples if dict(one.labels) == labels)

    async def answer(self, version: str, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((version, request.path, {name.lower(): value for name, value in request.headers.items()}))
        if request.path == METADATA:
            return web.json_response({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]})
        if request.path == CHAT:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            events = [{"choices": [{"delta": {"content": "word"}}]}] * WORDS
            for event in (*events, {"choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": WORDS}}):
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            return response
        return web.json_response({"outputs": [{"data": SCORES[version]}]})


async def until(holds: Callable[[], bool], what: str) -> None:
    await wait(holds, within=20, what=what)


# What each of them promises


async def stamp(scene: Scene) -> None:
    got = await scene.ask("stamp")
    assert got.headers["x-version"] == "v1"
    ((_, sent),) = scene.reached("stamp")
    assert got.headers["x-request-id"] == sent["x-request-id"]


async def json_to_header(scene: Scene) -> None:
    for document in ({"model": "large"}, {"model": 3}):
        assert (await scene.ask("json-to-header", document=document, x_headgate_model="forged")).status == 200
    told = [(who, sent.get("x-headgate-model")) for who, sent in scene.reached("json-to-header")]
    assert told == [("v2" if scene.has_routes else "v1", "large"), ("v1", None)]


async def v2_schema(scene: Scene) -> None:
    assert (await scene.ask("v2-schema")).status == 200
    refused = await scene.ask("v2-schema", document={"inputs": [{**INPUT, "name": "y"}]})
    assert (refused.status, await refused.json()) == (
        400,
        {"error": "input 'x' is missing; there is no input 'y'; there are ['x']"},
    )
    assert len(scene.reached("v2-schema")) == 1
    assert len([path for _, path, _ in scene.seen if path == METADATA]) == 1


async def tokens(scene: Scene) -> None:
    got = await scene.ask("tokens", CHAT)
    assert (await got.text()).count("word") == WORDS
    for direction, wanted in (("in", PROMPT), ("out", WORDS)):

        def counted(direction: str = direction, wanted: int = wanted) -> bool:
            return scene.count("tokens_tokens", version="v1", direction=direction) == wanted

        await until(counted, f"tokens {direction} are told")


async def rate_limit(scene: Scene) -> None:
    answers = [await scene.ask("rate-limit") for _ in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 1000
    assert len(scene.reached("rate-limit")) == 2


async def redact(scene: Scene) -> None:
    assert (await scene.ask("redact")).status == 200
    await until(lambda: "redact.test: mail from [email]" in scene.log(), "the line is in the log")
    assert "redact.test: mail from ann@" not in scene.log()


async def shadow(scene: Scene) -> None:
    for _ in range(5):
        assert (await (await scene.ask("shadow")).json())["outputs"][0]["data"] == SCORES["v1"]
    await until(lambda: scene.count("shadow_compared", live="v1", shadow="v2") == 5, "all pairs are compared")
    assert scene.count("shadow_agreed", live="v1", shadow="v2") == 0
    assert scene.count("shadow_score_drift", live="v1", shadow="v2") > 0
    reached = scene.reached("shadow")
    assert {(who, sent["x-sent-to"]) for who, sent in reached} == {("v1", "v1"), ("v2", "v2")}
    assert {(who, sent.get("mm-vmodel-id")) for who, sent in reached} == {("v1", "v1"), ("v2", "v2")}
    ids = {who: {sent["x-request-id"] for version, sent in reached if version == who} for who in SCORES}
    assert ids["v1"] == ids["v2"]


async def cache(scene: Scene) -> None:
    answers = [await scene.ask("cache") for _ in range(2)]
    assert [one.headers.get("x-cache") for one in answers] == [None, "hit"]
    assert [(await one.json())["outputs"][0]["data"] for one in answers] == [SCORES["v1"]] * 2
    await scene.ask("cache", document={"inputs": [INPUT, INPUT]})
    assert len(scene.reached("cache")) == 2


Asked = Callable[[Scene], Awaitable[None]]
PROMISES: tuple[Asked, ...] = (stamp, json_to_header, v2_schema, tokens, rate_limit, redact, shadow, cache)


# The hosts


@asynccontextmanager
async def a_scene(folder: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as client:
        scene = Scene(stack, folder, client)
        (folder / "telling.py").write_text(TELLING)
        for version in SCORES:
            runner = web.ServerRunner(web.Server(lambda request, version=version: scene.answer(version, request)))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            scene.upstream[version] = f"127.0.0.1:{runner.addresses[0][1]}"
        yield scene


def configured(scene: Scene) -> list[dict[str, Any]]:
    schema = {"url": f"http://{scene.upstream['v1']}{METADATA}"}
    return [{"name": name, **one, **({"config": schema} if name == "v2-schema" else {})} for name, one in CHAIN.items()]


def manifest(scene: Scene, name: str) -> str:
    wanted = [{"name": one} for one in (name, *BESIDE.get(name, ()))]
    large = [{"headers": [{"name": "x-headgate-model", "exact": "large"}]}]
    at = {who: {"endpoints": [one]} for who, one in scene.upstream.items()}
    backends = {who: {"shared": one} for who, one in at.items()} if name in SHARING else at
    versions = [{"name": who, "backend": one} for who, one in backends.items()]
    versions[1] |= {"mirror": {"percent": 100}} if name == "shadow" else {"match": large}
    spec = {"hosts": [f"{name}.test"], "versions": versions, "plugins": wanted}
    versions[0]["weight"] = 1
    return json.dumps(
        {"apiVersion": "headgate.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": name}, "spec": spec}
    )


async def an_envoy(rig: Any, scene: Scene, plugins: dict[str, Any]) -> Callable[[], ModelPlan]:
    """All models on one listener. Returns what plans the one whose plugin is in the wrong place."""
    gateway = {"name": "default", "listeners": [{"name": "http", "port": 0}], "plugins": plugins}
    config = Config.model_validate({"gateways": [gateway]})
    gateways = {one.name: one.as_ir() for one in config.gateways}
    models = scene.folder / "models"
    models.mkdir()
    for promise in PROMISES:
        name = promise.__name__.replace("_", "-")
        (models / f"{name}.json").write_text(manifest(scene, name))
    planned = load(models, gateways=gateways)
    assert not planned.problems
    await rig.serve(*gateways.values())
    for plan in planned.plans.values():
        rig.apply(plan)
    envoy = await rig.envoy()
    for name in planned.plans:
        await rig.applied(name)
    scene.urls = dict.fromkeys(CHAIN, f"http://127.0.0.1:{rig.port}")
    scene.figures = PluginFiles(scene.folder / "figures").families
    scene.log = lambda: str(envoy.log_file.read_text())

    def one_more() -> ModelPlan:
        (models / "misplaced.json").write_text(manifest(scene, "misplaced"))
        return load(models, gateways=gateways).plans["default/misplaced"]

    return one_more


async def broken(folder: Path, host: Asked, *more: Asked) -> dict[str, str]:
    """Ask everything of a host; what it does not keep, by plugin."""
    found = {}
    async with a_scene(folder) as scene:
        await host(scene)
        for promise in (*PROMISES, *more):
            if promise.__name__.replace("_", "-") in scene.urls:
                try:
                    await promise(scene)
                except (AssertionError, KeyError, TimeoutError, ValueError) as error:
                    found[promise.__name__] = f"{type(error).__name__}: {error}"
    return found


def test_inside_envoy(rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        environment = build().environment
    except NativeError as error:
        pytest.skip(f"NOT TESTED, plugins inside Envoy: {error}")
    for name, value in {**environment, FOLDER: str(tmp_path / "figures")}.items():
        monkeypatch.setenv(name, value)

    async def body(rig: Any) -> None:
        async def host(scene: Scene) -> None:
            calls = {f"http://{scene.upstream['v1']}": "default/v2-schema/v1"}
            plugins = {"folder": str(tmp_path), "calls": calls, "chain": configured(scene)}
            more.append(await an_envoy(rig, scene, plugins))

        async def misplaced(scene: Scene) -> None:
            rig.apply(more[0]())
            rejections = rig.caches["default"].rejections
            await rig.until(lambda: "default/misplaced" in rejections)
            await until(lambda: MISPLACED in scene.log(), "Envoy's log says why")

        more: list[Callable[[], ModelPlan]] = []
        assert await broken(tmp_path, host, misplaced) == {}

    rig(body)


def test_beside_envoy(rig: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(rig: Any) -> None:
        async def host(scene: Scene) -> None:
            listen = f"unix:{tmp_path}/p.sock"
            entries = [{key: value for key, value in one.items() if key != "at"} for one in configured(scene)]
            calls = [f"http://{scene.upstream['v1']}"]
            spec = ExtProcSpec.model_validate({"plugins": entries, "folder": tmp_path, "calls": calls})
            server = Server(Application(spec))
            await server.start(listen)
            scene.stack.push_async_callback(server.stop, 0.5)
            writing = asyncio.create_task(FigureFile(server.application, tmp_path / "figures").run())
            scene.stack.callback(writing.cancel)
            chain = [{key: value for key, value in one.items() if key != "plugin"} for one in configured(scene)]
            asking = {"host": "ext-proc", "address": listen, "timeout": "5s", "chain": chain}
            more.append(await an_envoy(rig, scene, asking))
            scene.log = lambda: caplog.text

        async def misplaced(scene: Scene) -> None:
            rig.apply(more[0]())
            await rig.applied("default/misplaced")
            assert (await scene.ask("misplaced")).status == 200
            assert f"plugin 'misplaced': {MISPLACED}; the others run without it" in scene.log()
            assert "x-sent-to" not in scene.reached("misplaced")[0][1]

        more: list[Callable[[], ModelPlan]] = []
        assert await broken(tmp_path, host, misplaced) == {}

    rig(body)


def test_in_the_proxy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def host(scene: Scene) -> None:
        proxies: list[Proxy] = []
        offered = {one["name"]: one for one in configured(scene)}
        for promise in PROMISES:
            name = promise.__name__.replace("_", "-")
            if name == "shadow":  # that is not its place
                continue
            chain = [{**offered[one]} for one in (name, *BESIDE.get(name, ()))]
            for one in chain:
                one.pop("at", None)
            settings = {"upstream": f"http://{scene.upstream['v1']}", "listen": "127.0.0.1:0", "model": name}
            config = ProxyConfig.model_validate({**settings, "version": "v1", "plugins": chain, "folder": tmp_path})
            stop, ports = asyncio.Event(), asyncio.Queue[int]()

            def started(proxy: Proxy, listening: tuple[int, ...], ports: asyncio.Queue[int] = ports) -> None:
                proxies.append(proxy)
                ports.put_nowait(listening[0])

            serving = asyncio.create_task(serve_proxy(config, None, started, stop))
            scene.stack.push_async_callback(lambda serving=serving: serving)
            scene.stack.callback(stop.set)
            scene.urls[name] = f"http://127.0.0.1:{await asyncio.wait_for(ports.get(), 20)}"
        scene.has_routes = False
        scene.log = lambda: caplog.text
        scene.figures = lambda: added(
            family for one in proxies for family in one.plugins.pipeline.families(time.monotonic())
        )

    assert asyncio.run(broken(tmp_path, host)) == {}


def test_shadow_says_that_the_proxy_is_not_its_place() -> None:
    config = ProxyConfig.model_validate({"upstream": "http://127.0.0.1:1", "plugins": [{"plugin": SHADOW}]})
    with pytest.raises(CannotStart) as caught:
        asyncio.run(serve_proxy(config))
    assert str(caught.value) == (
        "plugins[0].plugin: Shadow cannot do its work in the sidecar's proxy: only at the backends do both a live "
        "request and its mirrored copy go by (run it at the backends, with at: backend)"
    )


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (SHADOW, "only at the backends do both a live request and its mirrored copy go by"),
        (CHAIN["cache"]["plugin"], "the version that will answer is not known there when the request comes"),
    ],
)
def test_a_shipped_plugin_at_a_gateway_that_belongs_to_the_backends_is_told_in_the_configuration(
    plugin: str, words: str, tmp_path: Path
) -> None:
    chain = [{"name": "there", "plugin": plugin, "at": "backend"}, {"name": "here", "plugin": plugin}]
    (tmp_path / "headgate.yaml").write_text(json.dumps({"gateways": [{"plugins": {"chain": chain}}]}))
    problems = read(tmp_path / "headgate.yaml")
    assert isinstance(problems, tuple)
    (problem,) = problems
    assert problem.field == "gateways[0].plugins.chain[1].at"
    assert f"cannot do its work at a gateway's listeners: {words}" in problem.what
    assert "at: backend" in problem.hint
