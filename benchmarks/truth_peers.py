"""Both ends of benchmarks/sidecar_truth.py: model servers that do as they are asked, and clients that remember it.

`python benchmarks/truth_peers.py serve v1 v2` listens on a free port per version, and answers /CODE/MICROSECONDS with
that code after that time. `ask PORT HOST REQUESTS CONNECTIONS SEED FILE` sends so many requests and writes what each
version was asked for, by its own word: codes with their counts, and all times.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import cast

CODES = {200: 90, 404: 3, 429: 2, 500: 2, 503: 3}
"""Percent of requests."""
BODY = b"x" * 100
REASONS = {200: b"OK", 404: b"Not Found", 429: b"Too Many Requests", 500: b"Internal Error", 503: b"Unavailable"}


class Server(asyncio.Protocol):
    """HTTP/1.1, one request after the other on each connection."""

    def __init__(self, version: str) -> None:
        self._version, self._rest = version.encode(), b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if not found or len(body) < len(BODY):
            return
        self._rest = body[len(BODY) :]
        _, code, took = head.split(b" ", 2)[1].split(b"/")
        asyncio.get_running_loop().call_later(int(took) / 1e6, self._answer, int(code))

    def _answer(self, code: int) -> None:
        self._transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-length: %d\r\n\r\n%b" % (code, REASONS[code], len(self._version), self._version)
        )


async def serve(versions: list[str]) -> None:
    loop = asyncio.get_running_loop()
    ports = {}
    for version in versions:
        server = await loop.create_server(partial(Server, version), "127.0.0.1", 0, backlog=1024)
        ports[version] = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "listening", "ports": ports}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def plan(requests: int, seed: int) -> list[tuple[int, int]]:
    """A code and a time in microseconds for each request: log-normal around 40 ms, and 2 % that take 0.6 to 0.7 s."""
    dice = random.Random(seed)
    codes = dice.choices(list(CODES), list(CODES.values()), k=requests)
    times = [
        dice.randrange(600_000, 700_000) if dice.random() < 0.02 else int(1e6 * dice.lognormvariate(-3.2, 0.5))
        for _ in codes
    ]
    return list(zip(codes, times, strict=True))


class Truth:
    """What the clients know: asked for, and answered by whom."""

    def __init__(self) -> None:
        self.codes: dict[str, Counter[int]] = {}
        self.times: dict[str, list[int]] = {}
        self.wrong = 0

    def add(self, version: str, code: int, took: int) -> None:
        self.codes.setdefault(version, Counter())[code] += 1
        self.times.setdefault(version, []).append(took)

    def write(self, file: Path) -> None:
        told = {"codes": self.codes, "times": self.times}
        file.write_text(json.dumps(told))


async def client(port: int, host: str, wanted: list[tuple[int, int]], truth: Truth) -> None:
    """One connection that takes requests from the list until it is empty."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while wanted:
        code, took = wanted.pop()
        writer.write(
            b"POST /%d/%d HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (code, took, host.encode(), len(BODY), BODY)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        version = (await reader.readexactly(length)).decode()
        if int(head[9:12]) != code:
            truth.wrong += 1
        truth.add(version, code, took)
    writer.close()


async def ask(port: int, host: str, requests: int, connections: int, seed: int, file: Path) -> None:
    wanted, truth = plan(requests, seed), Truth()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(client(port, host, wanted, truth))
    truth.write(file)
    print(json.dumps({"event": "written", "wrong": truth.wrong}), flush=True)


def main() -> None:
    what, *arguments = sys.argv[1:]
    import uvloop

    if what == "serve":
        uvloop.run(serve(arguments))
        return
    port, host, requests, connections, seed, file = arguments
    uvloop.run(ask(int(port), host, int(requests), int(connections), int(seed), Path(file)))


if __name__ == "__main__":
    main()
