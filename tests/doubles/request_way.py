"""From a rig's Envoy to `headgate sidecar --stream`, and what the sidecar tells."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from xds.ir import Gateway, HeaderMatch, Listener, Match, Route, Stream, StringMatch

MODEL = "default/iris"
GATEWAY = Gateway(
    "default",
    (Listener("http", "127.0.0.1", 0),),
    stream=Stream("x-user", (("language", "metadata:l"), ("tier", "x-tier"))),
)
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def until(holds: Callable[[], Awaitable[object]], what: str, within: float = 30.0) -> None:
    """Ask again until it holds."""
    try:
        async with asyncio.timeout(within):
            while not await holds():  # noqa: ASYNC110  # other processes tell, by HTTP only
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}") from None


async def fetch(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def metrics(url: str) -> Figures:
    """Samples by name and labels."""
    families = text_string_to_metric_families(await fetch(f"{url}/metrics"))
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for one in families for each in one.samples}


async def entries(url: str) -> float:
    return (await metrics(url))["headgate_stream_entries_total", ()]


async def lost(url: str, where: str) -> float:
    return (await metrics(url))["headgate_stream_lost_total", (("where", where),)]


class Way:
    """From a Rig's Envoy to sidecars that come and go."""

    def __init__(self, rig: Any) -> None:
        self._rig = rig
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    async def start(self) -> None:
        await self._rig.serve(GATEWAY)
        await self._rig.model("v1")
        await self._rig.model("v2")
        testers = Match(headers=(HeaderMatch("x-test", StringMatch.PRESENT),))
        pinned = Route("v2/match-0", testers, (self._rig.target(f"{MODEL}", "v2"),))
        self._rig.apply(self._rig.split(MODEL, {"v1": 5_000, "v2": 5_000}, routes=(pinned,)))
        self.envoy = await self._rig.envoy(sidecar=("127.0.0.1", self.port))
        await self._rig.applied(MODEL)

    @asynccontextmanager
    async def sidecar(self, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
        """The process, once Envoy is connected to it, and the URL of its pages."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "sidecar", "--envoy", f"http://127.0.0.1:{self.envoy.admin_port}"),
            *("--listen", "127.0.0.1:0", "--stream", f"127.0.0.1:{self.port}", *more),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            await asyncio.wait_for(process.stderr.readline(), 20)
            line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
            found = re.search(r" on (127\.0\.0\.1:\d+)$", line.strip())
            assert found, line
            yield process, f"http://{found[1]}"
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                await asyncio.wait_for(process.communicate(), 20)

    async def stat(self, name: str) -> int:
        """Envoy's own figure."""
        text = await fetch(f"http://127.0.0.1:{self.envoy.admin_port}/stats?filter=^{re.escape(name)}$")
        return int(text.split(": ")[1])
