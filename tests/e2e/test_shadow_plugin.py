"""Plugins at the backends, through a real Envoy: the shadow comparison pairs the live and the mirrored answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from headgate.config import Config
from router.offline import load
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.server import Server
from sidecar.native.build import NativeError, build

Bodies = Callable[[Callable[[Any], Awaitable[None]]], None]
TELLING = """
import json
from pathlib import Path

from sidecar.plugin import CONTINUE, HttpContext, Plugin
from sidecar.plugins.shadow import Shadow


class Telling(Shadow):
    \"\"\"The shipped plugin, whose figures a test can read wherever it runs.\"\"\"

    name = "shadow"
    tick = 0.05

    def on_tick(self):
        families = {one.name: one for one in self.metrics.families("")}
        told = {
            name: {" ".join(value for _, value in one.labels): one.value for one in families[name].samples}
            for name in ("compared", "agreed")
        }
        fresh = Path(__file__).with_name("fresh.json")
        fresh.write_text(json.dumps(told))
        fresh.rename(fresh.with_name("told.json"))


class Marking(HttpContext):
    def on_request_headers(self, headers):
        headers.set("x-sent-to", self.get_property("version") or "nobody knows")
        return CONTINUE


class Mark(Plugin):
    context = Marking
"""
CHAIN = [
    {"name": "shadow", "plugin": "telling.py:Telling", "models": "all", "at": "backend"},
    {"name": "mark", "plugin": "telling.py:Mark", "models": "all", "at": "backend"},
]
SCORES = {"v1": [1.0, 2.0], "v2": [2.5, 1.0]}


@pytest.mark.parametrize("host", ["embedded", "ext-proc"])
def test_live_and_mirrored_answers_are_paired_by_request_id(
    rig: Bodies, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    plugins: dict[str, Any] = {"host": host, "chain": CHAIN}
    if host == "embedded":
        try:
            monkeypatch.setenv(*build().environment.popitem())
        except NativeError as error:
            pytest.skip(f"NOT TESTED, plugins inside Envoy: {error}")
        plugins["folder"] = str(tmp_path)
    else:
        chain = [{key: value for key, value in one.items() if key != "plugin"} for one in CHAIN]
        plugins |= {"chain": chain, "address": f"unix:{tmp_path}/p.sock", "timeout": "5s"}
    listeners = [{"name": "http", "port": 0}]
    config = Config.model_validate({"gateways": [{"name": "default", "listeners": listeners, "plugins": plugins}]})

    async def body(r: Any) -> None:
        if host == "ext-proc":
            entries = [{"plugin": one["plugin"], "name": one["name"]} for one in CHAIN]
            server = Server(Application(ExtProcSpec.model_validate({"plugins": entries, "folder": tmp_path})))
            await server.start(f"unix:{tmp_path}/p.sock")
            r._stack.push_async_callback(server.stop, 0.5)
            ticks = asyncio.create_task(ticking(server.application))
            r._stack.callback(ticks.cancel)
        seen: list[tuple[str, str, str]] = []
        ports = {version: await model(r, version, seen) for version in SCORES}
        await r.serve(*(one.as_ir() for one in config.gateways))
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "iris.yaml").write_text(f"""\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: iris}}
spec:
  hosts: [iris.test]
  strategy: mirror
  versions:
  - {{name: v1, backend: {{endpoints: ["127.0.0.1:{ports["v1"]}"]}}}}
  - {{name: v2, backend: {{endpoints: ["127.0.0.1:{ports["v2"]}"]}}}}
""")
        planned = load(tmp_path / "models", gateways={one.name: one.as_ir() for one in config.gateways})
        ((name, plan),) = planned.plans.items()
        r.apply(plan)
        await r.envoy()
        await r.applied(name)
        async with aiohttp.ClientSession() as client:
            for _ in range(20):
                url = f"http://127.0.0.1:{r.port}/v2/models/iris/infer"
                async with client.post(url, json={"inputs": []}, headers={"host": "iris.test"}) as got:
                    assert (got.status, (await got.json())["outputs"][0]["data"]) == (200, SCORES["v1"])
        async with asyncio.timeout(20):
            while figures(tmp_path) != {"compared": {"v1 v2": 20}, "agreed": {}}:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
        assert {version: {sent for who, _, sent in seen if who == version} for version in SCORES} == {
            "v1": {"v1"},
            "v2": {"v2"},
        }
        assert {one for who, one, _ in seen if who == "v1"} == {one for who, one, _ in seen if who == "v2"}

    rig(body)


async def model(r: Any, version: str, seen: list[tuple[str, str, str]]) -> int:
    """A model server that always gives the same scores; its port."""

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append((version, request.headers["x-request-id"], request.headers.get("x-sent-to", "")))
        return web.json_response({"outputs": [{"data": SCORES[version]}]})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    r._stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


async def ticking(application: Application) -> None:
    while True:
        for pipeline in application.pipelines():
            pipeline.tick(asyncio.get_running_loop().time())
        await asyncio.sleep(0.02)


def figures(folder: Path) -> Any:
    path = folder / "told.json"
    return json.loads(path.read_text()) if path.exists() else None
