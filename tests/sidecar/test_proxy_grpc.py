"""gRPC through the proxy: any kind of method, metadata, trailers, statuses, deadlines, plugins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import ValidationError

from sidecar.proxy import Proxy, serve_proxy
from sidecar.proxy_config import Exchange, ProxyConfig

PATH = "/inference.GRPCInferenceService/ModelInfer"


class Upstream(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers each message turned round; some of them have a meaning."""

    def __init__(self) -> None:
        self.metadata: list[tuple[str, Any]] = []
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._answer)

    async def _answer(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        self.metadata = list(context.invocation_metadata())
        await context.send_initial_metadata((("x-initial", "1"), ("x-raw-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-last", "2"),))
        async for message in requests:
            if message == b"fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            if message == b"wait":
                self.waiting.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            await context.write(message[::-1])


class Bench:
    def __init__(self, proxy: Proxy, channel: Any, upstream: Upstream, exchanges: list[Exchange]) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.exchanges = exchanges
        self.unary = channel.unary_unary(PATH)
        self.stream = channel.stream_stream(PATH)


class _Recorder:
    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.counted = asyncio.Event()

    def record(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.counted.set()


@asynccontextmanager
async def bench(**more: Any) -> AsyncIterator[tuple[Bench, _Recorder]]:
    async with asyncio.timeout(20):
        upstream = Upstream()
        server = grpc.aio.server(handlers=(upstream,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        config = ProxyConfig(
            upstream="http://127.0.0.1:1",
            listen="127.0.0.1:0",
            grpcUpstream=f"127.0.0.1:{port}",
            grpcListen="127.0.0.1:0",
            version="v1",
            drain=0.1,
            **more,
        )
        stop, recorder = asyncio.Event(), _Recorder()
        started: asyncio.Future[tuple[Proxy, tuple[int, ...]]] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve_proxy(config, recorder, lambda *told: started.set_result(told), stop))
        try:
            await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            proxy, ports = started.result()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
                yield Bench(proxy, channel, upstream, recorder.exchanges), recorder
        finally:
            stop.set()
            await task
            await server.stop(None)


def test_a_unary_call_passes_with_metadata_and_trailers() -> None:
    async def go() -> None:
        async with bench() as (there, recorder):
            call = there.unary(b"abc", metadata=(("x-user", "ann"), ("x-raw-bin", b"\x01\x02")))
            assert await call == b"cba"
            assert ("x-user", "ann") in there.upstream.metadata
            assert ("x-raw-bin", b"\x01\x02") in there.upstream.metadata
            initial, last = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
            assert (initial["x-initial"], initial["x-raw-bin"], last["x-last"]) == ("1", b"\x00\xff", "2")
            await recorder.counted.wait()
            (exchange,) = there.exchanges
            assert (exchange.protocol, exchange.grpc_status, exchange.version) == ("grpc", 0, "v1")
            assert (exchange.request_bytes, exchange.response_bytes) == (3, 3)

    asyncio.run(go())


def test_a_stream_passes_message_by_message() -> None:
    async def go() -> None:
        async with bench() as (there, _):
            call = there.stream()
            for number in range(5):
                message = b"%d-" % number * 10_000
                await call.write(message)
                assert await call.read() == message[::-1]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(go())


def test_a_failure_keeps_its_code_and_words() -> None:
    async def go() -> None:
        async with bench() as (there, recorder):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await there.unary(b"fail")
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND
            assert failed.value.details() == "no such model"
            await recorder.counted.wait()
            assert there.exchanges[0].grpc_status == 5

    asyncio.run(go())


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_a_client_that_gives_up_ends_the_call_upstream(way: str) -> None:
    async def go() -> None:
        async with bench() as (there, recorder):
            call = there.unary(b"wait", timeout=0.5 if way == "deadline" else None)
            await there.upstream.waiting.wait()
            if way == "cancel":
                call.cancel()
            await there.upstream.cancelled.wait()
            await recorder.counted.wait()
            assert there.exchanges[0].grpc_status in (1, 4)

    asyncio.run(go())


def test_plugins_see_frames_and_status_and_can_answer(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(
        "from sidecar.plugin import *\n"
        "class C(HttpContext):\n"
        "    def on_request_body(self, body):\n"
        "        if b'bad' in body.data:\n"
        "            return Reply(403, b'bad word', (('x-why', 'word'),), grpc_status=7)\n"
        "        body.replace(body.data.replace(b'abc', b'xyz'))\n"
        "    def on_response_trailers(self, trailers):\n"
        "        trailers.set('x-seen', trailers.get('grpc-status'))\n"
        "class P(Plugin):\n"
        "    context = C\n"
        "    request_body = Buffered()\n"
    )

    async def go() -> None:
        async with bench(plugins=[{"plugin": "p.py:P"}], folder=tmp_path) as (there, _):
            call = there.unary(b"abc")
            assert await call == b"zyx"
            assert dict(await call.trailing_metadata())["x-seen"] == "0"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await there.unary(b"bad")
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert refused.value.details() == "bad word"
            assert dict(refused.value.trailing_metadata() or ())["x-why"] == "word"

    asyncio.run(go())


@pytest.mark.parametrize("way", ["request", "response"])
def test_a_plugin_that_leaves_no_message_in_the_body_is_told(tmp_path: Path, way: str) -> None:
    (tmp_path / "p.py").write_text(
        "from sidecar.plugin import *\n"
        f"class C(HttpContext):\n    def on_{way}_body(self, body):\n        body.replace(b'no frame at all')\n"
        f"class P(Plugin):\n    context = C\n    {way}_body = Streamed(rewrites=True)\n"
    )

    async def go() -> None:
        async with bench(plugins=[{"plugin": "p.py:P"}], folder=tmp_path) as (there, _):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await there.unary(b"abc")
            assert failed.value.code() is grpc.StatusCode.INTERNAL
            assert "no uncompressed gRPC message" in (failed.value.details() or "")

    asyncio.run(go())


def test_the_two_grpc_keys_go_together() -> None:
    with pytest.raises(ValidationError, match="set both or none"):
        ProxyConfig(upstream="http://127.0.0.1:1", grpcListen="127.0.0.1:0")
