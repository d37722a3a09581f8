"""A model server stripped to the bone for benchmarks: any POST gets one fixed V2 answer with the version in it.

Real sockets and HTTP/1.1 keep-alive, no parsing beyond the length of a request: one core answers tens of thousands of
requests a second, so that a benchmark measures the proxy and not its own servers. GET tells readiness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from types import TracebackType
from typing import Self, cast

_UNREADY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
_READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_BAD = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class FastServer:
    """One version of one model on one port. `ready` answers GETs (any path); `requests` and `shadows` count POSTs."""

    def __init__(self, version: str = "v1", *, name: str = "iris", host: str = "127.0.0.1", port: int = 0) -> None:
        self.ready = True
        self.requests = 0
        self.shadows = 0
        self.host, self.port = host, port
        body = json.dumps(
            {
                "model_name": name,
                "model_version": version,
                "outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["setosa"]}],
            }
        ).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.answer = head.encode() + body
        self._open: set[asyncio.Transport] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close at once: every answer is written the moment its request has come, so nothing is in flight."""
        self._server.close()
        for transport in tuple(self._open):
            transport.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def joined(self, transport: asyncio.Transport) -> None:
        self._open.add(transport)

    def left(self, transport: asyncio.Transport) -> None:
        self._open.discard(transport)


class _Connection(asyncio.Protocol):
    def __init__(self, server: FastServer) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.joined(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.left(self._transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        answers = []
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            length = _length(head)
            if length is None:
                self._transport.write(_BAD)
                self._transport.close()
                return
            if len(buffer) < end + 4 + length:
                break
            buffer = buffer[end + 4 + length :]
            answers.append(self._answer(head))
        self._buffer = buffer
        if answers:
            self._transport.write(b"".join(answers))

    def _answer(self, head: bytes) -> bytes:
        server = self._server
        if not head.startswith(b"post "):
            return _READY if server.ready else _UNREADY
        if b"\r\nx-shadow:" in head:
            server.shadows += 1
        else:
            server.requests += 1
        return server.answer


def _length(head: bytes) -> int | None:
    """The body's length; None when we cannot know it (chunked, or no number)."""
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return None if b"\r\ntransfer-encoding:" in head else 0
    digits = head[at + 17 :].partition(b"\r\n")[0].strip()
    return int(digits) if digits.isdigit() else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m headgate.demo.fast_server", description=__doc__)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--name", default="iris")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port; a JSON line tells which")
    options = parser.parse_args(arguments)
    asyncio.run(_serve(FastServer(options.version, name=options.name, host=options.host, port=options.port)))
    return 0


async def _serve(server: FastServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        print(json.dumps({"port": server.port}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
