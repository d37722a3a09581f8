"""Load at a rate, through Envoy, from a process of its own: so many requests a second, whatever the answers do.

`python benchmarks/paced.py PORT HOST RATE SECONDS CONNECTIONS` tells as one JSON line how many it sent, how many failed
and how many were due but found no free connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import cast

TICK = 0.002


class Connection(asyncio.Protocol):
    """Keep-alive; free again when its answer has come. Answers are short, and have a content-length."""

    def __init__(self, load: Load) -> None:
        self._load, self._rest = load, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.free.append(self)

    def ask(self) -> None:
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            self._load.failed += head[9:12] != b"200"
            self._load.answered += 1
            self._rest = b""
            self._load.free.append(self)


class Load:
    """What connections share."""

    def __init__(self, host: str) -> None:
        self.request = f"GET /v2/models/m/infer HTTP/1.1\r\nhost: {host}\r\nx-user: u7\r\n\r\n".encode()
        self.free: deque[Connection] = deque()
        self.sent = self.answered = self.failed = 0

    async def run(self, port: int, rate: float, seconds: float, connections: int) -> int:
        """Return how many requests were due and could not be sent."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
        began, late = loop.time(), 0
        while (elapsed := loop.time() - began) < seconds:
            for _ in range(int(rate * elapsed) - self.sent - late):
                if self.free:
                    self.free.popleft().ask()
                    self.sent += 1
                else:
                    late += 1
            await asyncio.sleep(TICK)
        async with asyncio.timeout(10):
            while self.answered < self.sent:  # noqa: ASYNC110  answers are too many for an event each
                await asyncio.sleep(TICK)
        return late


async def main() -> None:
    port, host, rate, seconds, connections = sys.argv[1:]
    load = Load(host)
    late = await load.run(int(port), float(rate), float(seconds), int(connections))
    told = {"event": "done", "sent": load.sent, "failed": load.failed, "late": late}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
