"""Model servers for the benchmarks: as fast as Python allows, each answers nothing but its version.

`python benchmarks/servers.py http v1 v2` listens on a free port per version, tells them as one JSON line, and serves
until its standard input ends. `grpc` answers any unary method with the version's name as the whole message.
`http@ADDRESS` listens there instead of on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

ANY_METHOD = "/benchmark.Model/Infer"


class Answer(asyncio.Protocol):
    """HTTP/1.1 keep-alive: every complete request head (no bodies are expected) gets the same bytes."""

    def __init__(self, version: str) -> None:
        body = version.encode()
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        requests = data.count(b"\r\n\r\n")
        self._rest = data.rpartition(b"\r\n\r\n")[2] if requests else data
        if requests:
            self._transport.write(self._answer * requests)


async def http(versions: list[str], address: str) -> dict[str, int]:
    loop = asyncio.get_running_loop()
    ports = {}
    for version in versions:
        server = await loop.create_server(partial(Answer, version), address, 0)
        ports[version] = server.sockets[0].getsockname()[1]
    return ports


_kept: list[Any] = []


async def grpc(versions: list[str], address: str) -> dict[str, int]:
    import grpc as library

    ports = {}
    for version in versions:
        body = version.encode()

        async def infer(request: bytes, context: Any, body: bytes = body) -> bytes:
            return body

        handler = library.unary_unary_rpc_method_handler(infer)
        server = library.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(
            (library.method_handlers_generic_handler(*_service(ANY_METHOD, handler)),),
        )
        ports[version] = server.add_insecure_port(f"{address}:0")
        await server.start()
        _kept.append(server)
    return ports


def _service(path: str, handler: Any) -> tuple[str, dict[str, Any]]:
    _, service, method = path.split("/")
    return service, {method: handler}


KINDS: dict[str, Callable[[list[str], str], Coroutine[Any, Any, dict[str, int]]]] = {"http": http, "grpc": grpc}


async def serve(kind: str, versions: list[str]) -> None:
    name, _, address = kind.partition("@")
    ports = await KINDS[name](versions, address or "127.0.0.1")
    print(json.dumps({"event": "listening", "ports": ports}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    runner = asyncio.run
    if sys.argv[1].startswith("http"):
        try:
            import uvloop
        except ImportError:
            pass
        else:
            runner = uvloop.run
    runner(serve(sys.argv[1], sys.argv[2:]))


if __name__ == "__main__":
    main()
