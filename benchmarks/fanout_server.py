"""One of the two control planes of the fan-out benchmark, in a process of its own, commanded over its standard input.

`headgate`: the real cache and XdsServer. `naive`: the same grpc.aio, but every client's responses are built and
serialised for it alone with google protobuf, as control planes usually do (see naive_server.py).

Commands, JSON lines: {"do": "push", "clients": N} changes the model and answers when N clients have ACKed;
{"do": "memory"} tells the resident bytes; the end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet_models import GATEWAY, MODEL, gateway, plan
from headgate.serve import calm_collector
from headgate.sink import Sink
from xds.resources import Type
from xds.translate import translate

now = time.monotonic


@dataclass(slots=True)
class Push:
    """Counts the ACKs of one change."""

    clients: int
    done: asyncio.Future[float]
    seen: int = 0

    def acked(self) -> None:
        self.seen += 1
        if self.seen == self.clients and not self.done.done():
            self.done.set_result(now())


class HeadgatePlane:
    """Every change goes the real way: plan -> translate -> Cache.apply -> streams."""

    def __init__(self, routes: int) -> None:
        from xds.server import XdsServer

        self._routes = routes
        self._push: Push | None = None
        self._sink = Sink([gateway()])
        self._sink.apply(plan(routes, 1))
        self._server = XdsServer(self._sink.caches, on_progress=self._progress)

    async def start(self) -> int:
        await self._server.start()
        return self._server.port

    async def stop(self) -> None:
        await self._server.stop()

    def change(self, weight: int, push: Push) -> None:
        self._push = push
        self._sink.apply(plan(self._routes, weight))

    def _progress(self, gateway: str, owners: frozenset[str]) -> None:
        if self._push is not None and MODEL in owners:
            self._push.acked()


class NaivePlane:
    """The rival starts from a ready message in which one weight changes: authoring is free for it."""

    def __init__(self, routes: int) -> None:
        from benchmarks.naive_server import NaiveServer

        sink = Sink([gateway()])
        sink.apply(plan(routes, 1))
        cache = sink.caches[GATEWAY]
        resources = {kind: {r.name: r.body for r in cache.all(kind)} for kind in Type}
        self._server = NaiveServer(resources, self._progress)
        self._push: Push | None = None

    async def start(self) -> int:
        return await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    def change(self, weight: int, push: Push) -> None:
        self._push = push
        self._server.change(MODEL, weight)

    def _progress(self) -> None:
        if self._push is not None:
            self._push.acked()


PLANES: dict[str, Callable[[int], Any]] = {"headgate": HeadgatePlane, "naive": NaivePlane}


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def serve(kind: str, routes: int) -> None:
    plane = PLANES[kind](routes)
    port = await plane.start()
    calm_collector()  # as `headgate serve` does; the rival gets it too
    body = len(translate(plan(routes, 1))[Type.ROUTE][MODEL].body)
    tell(event="listening", port=port, body=body)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    weight = 1
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "memory":
            gc.collect()
            tell(event="memory", resident=resident())
        elif command["do"] == "push":
            weight = weight % 9_000 + 1
            push = Push(command["clients"], loop.create_future())
            gc.collect()
            cpu, begun = time.process_time(), now()
            plane.change(weight, push)
            applied = now()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(push.done), 60)
            last = push.done.result() if push.done.done() else float("nan")
            spent = time.process_time() - cpu
            tell(event="acked", changed=begun, applied=applied, last=last, cpu=spent, acked=push.seen)
    await plane.stop()


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    kind, routes = sys.argv[1], int(sys.argv[2])
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(kind, routes))
    else:
        uvloop.run(serve(kind, routes))


if __name__ == "__main__":
    main()
