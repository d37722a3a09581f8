"""A real Envoy that asks our server about each request, in front of servers that tell what reached them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from headgate.envoy import EnvoyProcess
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.envoy import cluster, http_filter
from sidecar.ext_proc.server import Server
from sidecar.pipeline import Pipeline, bind
from sidecar.reload import Plugins

_TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True, slots=True)
class Got:
    """What the client got; status 0 when the connection broke."""

    status: int
    headers: dict[str, str]
    body: bytes


class Rig:
    """Everything that it starts ends with its block."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.listen = f"unix:{folder}/plugins.sock"
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.socket = folder / "plugins.sock"
        self._arrived = asyncio.Condition()
        self.hold = asyncio.Event()
        self.hold.set()

    async def serve(self, pipeline: Pipeline, listen: str = "", **spec: Any) -> Server:
        """Our server, in this process."""
        plugins = Plugins()
        plugins.pipeline = pipeline
        server = Server(Application(ExtProcSpec(**spec), None if spec.get("plugins") else plugins))
        await server.start(listen or self.listen)
        if not listen.startswith("unix:") and listen:
            self.listen = f"127.0.0.1:{server.port}"
        self._stack.push_async_callback(server.stop, 0.5)
        return server

    async def envoy(
        self, pipeline: Pipeline, change: Callable[[dict[str, Any]], None] | None = None, **more: Any
    ) -> None:
        """Envoy with the filter for these plugins, in front of an HTTP/1 and a gRPC server.

        It waits for plugins as long as a busy machine takes, rather than to go on without them after 0.2 s.
        """
        http, grpc_port = await self._http(), await self._grpc()
        plugins = http_filter(pipeline, **{"message_timeout": 10.0, **more})
        if change is not None:
            change(plugins["typed_config"])
        self.process = EnvoyProcess(_bootstrap(plugins, http, grpc_port, self.listen), concurrency=1)
        await self.process.start()
        self._stack.push_async_callback(self.process.stop)
        self.port = await self.process.wait_listener("http")
        self.client = await self._stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", timeout=aiohttp.ClientTimeout(total=20))
        )

    async def both(self, *plugins: Any, **more: Any) -> Server:
        """The server and the Envoy."""
        pipeline = bind(*plugins)
        server = await self.serve(pipeline)
        await self.envoy(pipeline, **more)
        return server

    async def ask(self, path: str = "/echo", body: bytes | None = None, **headers: str) -> Got:
        """A request; with a body a POST."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with self.client.request("GET" if body is None else "POST", path, data=body, headers=sent) as answer:
                return Got(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read())
        except aiohttp.ClientError as error:
            return Got(0, {}, str(error).encode())

    async def call(self, message: bytes, **metadata: str) -> tuple[bytes, dict[str, str], grpc.StatusCode]:
        """A gRPC call: the answer, its trailers and the status."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary("/test.Echo/Say")(message, metadata=tuple(metadata.items()), timeout=10)
            try:
                answer = bytes(await call)
            except grpc.aio.AioRpcError as error:
                return b"", dict(error.trailing_metadata()), error.code()
            return answer, {str(k): str(v) for k, v in await call.trailing_metadata()}, await call.code()

    async def reached(self, count: int) -> None:
        """Wait until so many requests have reached the server."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.seen) >= count)

    async def stats(self) -> dict[str, int]:
        found = await self.process.stats("ext_proc")
        return {name.rpartition(".")[2]: value for name, value in found.items()}

    async def _http(self) -> int:
        async def echo(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            self.seen.append(({k.lower(): v for k, v in request.headers.items()} | {":path": request.path}, body))
            async with self._arrived:
                self._arrived.notify_all()
            await self.hold.wait()
            if request.path == "/pieces":
                response = web.StreamResponse()
                await response.prepare(request)
                for at in range(5):
                    await response.write(b"piece %d;" % at)
                return response
            return web.Response(body=body or b"the answer", headers={"x-upstream": "yes"})

        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", echo)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    async def _grpc(self) -> int:
        async def say(message: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((("x-trailer", "from the server"),))
            return b"said " + message

        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(say)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        return port


def _bootstrap(plugins: dict[str, Any], http: int, grpc_port: int, listen: str) -> dict[str, Any]:
    routes = [
        {"match": {"prefix": "/test.Echo"}, "route": {"cluster": "grpc"}},
        {
            "match": {"prefix": "/", "headers": [{"name": "x-choose", "string_match": {"exact": "none"}}]},
            "direct_response": {"status": 418},
        },
        {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "default/iris/v1"}},
    ]
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "response_headers_to_add": [
                {"header": {"key": "x-metadata", "value": "%DYNAMIC_METADATA(headgate:word)%"}},
            ],
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [
            plugins,
            {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
        ],
    }

    def upstream(name: str, port: int, h2: bool = False) -> dict[str, Any]:
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        made: dict[str, Any] = {
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        if h2:
            made["typed_extension_protocol_options"] = cluster("127.0.0.1:1")["typed_extension_protocol_options"]
        return made

    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [upstream("default/iris/v1", http), upstream("grpc", grpc_port, h2=True), cluster(listen)],
        },
    }


@asynccontextmanager
async def _rig(folder: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(stack, folder)


@pytest.fixture
def in_rig(tmp_path: Path) -> Callable[[Callable[[Rig], Any]], None]:
    """Runs a coroutine function with a rig."""

    def run(story: Callable[[Rig], Any]) -> None:
        async def told() -> None:
            async with _rig(tmp_path) as rig:
                await story(rig)

        asyncio.run(told())

    return run
