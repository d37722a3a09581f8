"""The plugins' server is killed, stalled, restarted and replaced under load, and no request fails (policy open)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from sidecar.instruments import Family, Sample, added
from sidecar.pipeline import bind
from sidecar.plugin import Headers, HttpContext, Plugin

Run = Callable[[Callable[[Any], Any]], None]
CODE = """
from sidecar.plugin import Headers, HttpContext, Plugin

class Context(HttpContext["Told"]):
    def on_response_headers(self, headers: Headers) -> None:
        headers.set("x-told", "yes")

class Told(Plugin):
    context = Context
"""


class Context(HttpContext["Told"]):
    def on_response_headers(self, headers: Headers) -> None:
        headers.set("x-told", "yes")


class Told(Plugin):
    context = Context


class Load:
    """Clients that ask again and again."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.told = 0
        self.untold = 0
        self.failed: list[Any] = []
        self.news = asyncio.Event()

    async def client(self) -> None:
        while True:
            got = await self.rig.ask(body=b"hello")
            if got.status != 200 or got.body != b"hello":
                self.failed.append(got)
            elif "x-told" in got.headers:
                self.told += 1
            else:
                self.untold += 1
            self.news.set()

    async def more(self, what: str, count: int = 50) -> None:
        """Wait for so many more of "told" or "untold"."""
        wanted = getattr(self, what) + count
        async with asyncio.timeout(30):
            while getattr(self, what) < wanted:
                assert not self.failed
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def load(rig: Any, clients: int = 8) -> AsyncIterator[Load]:
    made = Load(rig)
    tasks = [asyncio.create_task(made.client()) for _ in range(clients)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert made.failed == []


async def start(rig: Any, *more: str) -> asyncio.subprocess.Process:
    """`headgate plugin serve`, listening."""
    code = rig.folder / "told.py"
    code.write_text(CODE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headgate", "plugin", "serve", f"{code}:Told", "--listen", rig.listen, *more),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        line = (await process.stderr.readline()).decode()
    assert "plugins for Envoy on" in line
    rig.figures = line.rpartition(" ")[2].strip()
    return process


def in_process(in_rig: Run, story: Callable[[Any, asyncio.subprocess.Process], Awaitable[None]], **more: Any) -> None:
    async def told(rig: Any) -> None:
        process = await start(rig)
        try:
            await rig.envoy(bind(Told()), **more)
            await story(rig, process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    in_rig(told)


def test_killed_and_started_again_under_load(in_rig: Run) -> None:
    async def story(rig: Any, process: asyncio.subprocess.Process) -> None:
        async with load(rig) as clients:
            await clients.more("told")
            process.kill()
            await clients.more("untold")
            again = await start(rig)
            try:
                await clients.more("told")
            finally:
                again.kill()
                await again.wait()

    in_process(in_rig, story)


def test_stalled_under_load(in_rig: Run) -> None:
    async def story(rig: Any, process: asyncio.subprocess.Process) -> None:
        async with load(rig) as clients:
            await clients.more("told")
            os.kill(process.pid, signal.SIGSTOP)
            await clients.more("untold", 20)
            os.kill(process.pid, signal.SIGCONT)
            await clients.more("told")

    in_process(in_rig, story, message_timeout=0.2)


def test_replaced_under_load(in_rig: Run) -> None:
    """Every request finds one of the two."""

    async def story(rig: Any, process: asyncio.subprocess.Process) -> None:
        async with load(rig) as clients:
            await clients.more("told")
            untold = clients.untold
            successor = await start(rig)
            try:
                process.terminate()
                async with asyncio.timeout(20):
                    assert await process.wait() == 0
                await clients.more("told")
                assert clients.untold == untold
                assert rig.socket.is_socket()
            finally:
                successor.terminate()
                async with asyncio.timeout(20):
                    assert await successor.wait() == 0
            await clients.more("untold")
            assert not rig.socket.exists()

    in_process(in_rig, story)


def test_requests_under_way_end_before_the_server_does(in_rig: Run) -> None:
    async def story(rig: Any, process: asyncio.subprocess.Process) -> None:
        rig.hold.clear()
        waiting = [asyncio.create_task(rig.ask(body=b"x")) for _ in range(20)]
        await rig.reached(20)
        process.terminate()
        assert process.stderr is not None
        async with asyncio.timeout(20):
            assert b"no new requests" in await process.stderr.readline()
        rig.hold.set()
        assert {(got.status, got.headers.get("x-told")) for got in await asyncio.gather(*waiting)} == {(200, "yes")}
        assert await process.wait() == 0

    in_process(in_rig, story)


def test_with_the_policy_closed_requests_fail_with_the_server(in_rig: Run) -> None:
    class Closed(Told):
        on_failure = "closed"

    async def story(rig: Any) -> None:
        pipeline = bind(Closed())
        server = await rig.serve(pipeline)
        await rig.envoy(pipeline)
        assert (await rig.ask()).status == 200
        await server.stop()
        assert (await rig.ask()).status in (500, 503, 504)

    in_rig(story)


def test_many_requests_at_once(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        await rig.both(Told())
        rig.hold.clear()
        waiting = [asyncio.create_task(rig.ask(body=b"x")) for _ in range(90)]
        await rig.reached(90)
        rig.hold.set()
        assert {(got.status, got.headers.get("x-told")) for got in await asyncio.gather(*waiting)} == {(200, "yes")}

    in_rig(story)


def test_something_else_at_the_path_is_left_alone(in_rig: Run) -> None:
    from sidecar.ext_proc.server import CannotListen

    async def story(rig: Any) -> None:
        path = rig.folder / "plugins.sock"
        path.write_text("precious")
        with pytest.raises(CannotListen, match="something else"):
            await rig.serve(bind(Told()))
        assert path.read_text() == "precious"

    in_rig(story)


def test_what_plugins_count_is_told(in_rig: Run) -> None:
    async def story(rig: Any) -> None:
        process = await start(rig, "--metrics", "127.0.0.1:0")
        try:
            await rig.envoy(bind(Told()))
            for _ in range(3):
                await rig.ask()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{rig.figures}") as client:
                async with client.get("/metrics") as answer:
                    assert 'headgate_plugin_requests_total{plugin="Told"} 3' in await answer.text()
                async with client.get("/healthz") as answer:
                    assert answer.status == 200
        finally:
            process.terminate()
            assert await process.wait() == 0

    in_rig(story)


def test_what_one_plugin_counted_for_several_models_is_added_up() -> None:
    families = [Family("a", "counter", "A.", (Sample("_total", (("b", "c"),), float(one)),)) for one in (1, 2)]
    assert added([*families, Family("d", "gauge", "D.", ())]) == (
        Family("a", "counter", "A.", (Sample("_total", (("b", "c"),), 3.0),)),
        Family("d", "gauge", "D.", ()),
    )
