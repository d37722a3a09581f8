"""Constant load through Envoy, from a process of its own: every request leaves its times and who answered.

`python benchmarks/traffic.py http PORT HOST CONNECTIONS FILE` (or `grpc`) sends back to back on every connection
until its standard input ends, then writes FILE; `Records.read(FILE)` reads it. Nothing is retried: whatever is not an
answer with status 200 (gRPC: OK) is a failed request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

FAILED = -1
now = time.monotonic


@dataclass(slots=True)
class Records:
    """One entry per request, in columns; `arm` is an index into `versions`, or FAILED."""

    sent: array[float] = field(default_factory=lambda: array("d"))
    done: array[float] = field(default_factory=lambda: array("d"))
    arm: array[int] = field(default_factory=lambda: array("h"))
    versions: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def failed(self) -> int:
        return sum(1 for arm in self.arm if arm == FAILED)

    def add(self, sent: float, version: str) -> None:
        if version not in self.versions:
            self.versions.append(version)
        self._append(sent, self.versions.index(version))

    def fail(self, sent: float, why: str) -> None:
        self._append(sent, FAILED)
        if len(self.failures) < 100:
            self.failures.append({"sent": sent, "why": why})

    def _append(self, sent: float, arm: int) -> None:
        self.sent.append(sent)
        self.done.append(now())
        self.arm.append(arm)

    def write(self, path: Path) -> None:
        head = json.dumps({"count": len(self), "versions": self.versions, "failures": self.failures}).encode()
        with path.open("wb") as file:
            file.write(head + b"\n")
            for column in (self.sent, self.done, self.arm):
                column.tofile(file)

    @classmethod
    def read(cls, path: Path) -> Records:
        with path.open("rb") as file:
            head = json.loads(file.readline())
            records = cls(versions=head["versions"], failures=head["failures"])
            for column in (records.sent, records.done, records.arm):
                column.fromfile(file, head["count"])
        return records


class HttpLoad(asyncio.Protocol):
    """One HTTP/1.1 keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, records: Records, request: bytes, stopping: asyncio.Event) -> None:
        self._records, self._request, self._stopping = records, request, stopping
        self._rest = b""
        self._sent: float | None = None
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._ask()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(body) >= length:
                self._rest = b""
                self._answered(head, body)
                return
        self._rest = data

    def _answered(self, head: bytes, body: bytes) -> None:
        assert self._sent is not None
        if head[9:12] == b"200":
            self._records.add(self._sent, body.decode())
        else:
            self._records.fail(
                self._sent, f"{head[:60].decode(errors='replace')!r} {body[:120].decode(errors='replace')!r}"
            )
        self._sent = None
        if self._stopping.is_set():
            self._transport.close()
        else:
            self._ask()

    def _ask(self) -> None:
        self._sent = now()
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent is not None:
            self._records.fail(self._sent, f"connection lost: {exc or 'closed by Envoy'}")
        if not self.closed.done():
            self.closed.set_result(None)


async def http(records: Records, stopping: asyncio.Event, port: int, host: str) -> None:
    """Keep one connection busy; when Envoy closes it, the request under way has failed and a new one is made."""
    request = f"GET /v2/models/m/infer HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    while not stopping.is_set():
        try:
            _, load = await loop.create_connection(lambda: HttpLoad(records, request, stopping), "127.0.0.1", port)
        except OSError as error:
            records.fail(now(), f"connect: {error}")
            await asyncio.sleep(0.05)
            continue
        await load.closed


async def grpc(records: Records, stopping: asyncio.Event, port: int, host: str) -> None:
    """Keep one HTTP/2 connection busy with one unary call after the other."""
    import grpc as library

    from benchmarks.servers import ANY_METHOD

    options = [("grpc.default_authority", host), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with library.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(ANY_METHOD)
        while not stopping.is_set():
            sent = now()
            try:
                records.add(sent, (await call(b"x", timeout=30)).decode())
            except library.aio.AioRpcError as error:
                records.fail(sent, f"{error.code().name}: {error.details()}")


async def load(kind: str, port: int, host: str, connections: int, file: Path) -> None:
    records, stopping = Records(), asyncio.Event()
    one = {"http": http, "grpc": grpc}[kind]
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(one(records, stopping, port, host))
        print(json.dumps({"event": "started", "at": now()}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        stopping.set()
    records.write(file)
    print(json.dumps({"event": "written", "requests": len(records), "failed": records.failed}), flush=True)


def main() -> None:
    kind, port, host, connections, file = sys.argv[1:6]
    runner = asyncio.run
    if kind == "http":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            runner = uvloop.run
    runner(load(kind, int(port), host, int(connections), Path(file)))


if __name__ == "__main__":
    main()
