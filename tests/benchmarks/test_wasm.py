"""The Wasm filter beside which plugins are measured does what the plugin and the Lua filter do."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from benchmarks import wasm
from headgate.envoy import EnvoyProcess

_TYPES = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(module: Path, port: int) -> dict[str, Any]:
    def listener(kind: str) -> dict[str, Any]:
        router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "model"}}
        manager = {
            "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [wasm.wasm_filter(module, kind), router],
        }
        return {
            "name": kind,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }

    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    assignment = {"cluster_name": "model", "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [listener("headers"), listener("bodies")],
            "clusters": [{"name": "model", "type": "STATIC", "load_assignment": assignment}],
        },
    }


@pytest.mark.skipif(bool(wasm.missing()), reason=wasm.missing())
def test_headers_are_copied_and_bodies_change_their_case(tmp_path: Path) -> None:
    async def story() -> None:
        async def answer(request: web.BaseRequest) -> web.Response:
            return web.Response(headers={"x-got": request.headers.get("x-seen", "")}, body=await request.read())

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            config = bootstrap(wasm.build(tmp_path), runner.addresses[0][1])
            async with EnvoyProcess(config, concurrency=1) as envoy, aiohttp.ClientSession() as client:
                async with client.get(f"http://127.0.0.1:{await envoy.wait_listener('headers')}/a?b") as got:
                    assert (got.headers["x-got"], got.headers["x-told"]) == ("/a?b", "200")
                body = b"Model [1] {z}" * 20_000
                url = f"http://127.0.0.1:{await envoy.wait_listener('bodies')}/"
                async with client.post(url, data=body) as got:
                    assert (await got.read(), got.headers.get("x-told")) == (body.swapcase(), None)
        finally:
            await runner.cleanup()

    asyncio.run(story())


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "wasm-ld" else f"/usr/bin/{tool}")
    assert wasm.missing() == "no wasm-ld (Debian: apt-get install clang lld)"
