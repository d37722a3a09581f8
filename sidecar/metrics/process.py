"""The sidecar as a process: follow one Envoy, serve the pages, leave on SIGTERM or ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from sidecar.metrics.admin import Address, Admin
from sidecar.metrics.follow import Follower
from sidecar.metrics.pages import application
from sidecar.metrics.plugin_files import PluginFiles


class CannotListen(Exception):
    """The port is taken, or not ours to take."""


async def serve(
    envoy: Address,
    host: str,
    port: int,
    *,
    interval: float = 1.0,
    grace: float = 300.0,
    plugins: Path | None = None,
    stop: asyncio.Event | None = None,
    started: Callable[[int], None] = lambda port: None,
) -> None:
    """Run until `stop` is set or a signal comes. `started` gets the port, which is free choice when 0 was asked for.

    `plugins` is the folder where those inside Envoy and beside it leave their metrics.
    """
    stop = stop or on_signals()
    async with Admin(envoy) as admin:
        follower = Follower(admin, interval=interval, grace=grace)
        more = None if plugins is None else PluginFiles(plugins)
        async with serving(application(follower, more), host, port) as actual:
            started(actual)
            await first_of(follower.run(), stop.wait(), *(() if more is None else (more.run(interval),)))


async def first_of(*running: Coroutine[Any, Any, object]) -> None:
    """Run them until one ends; what it raised was a bug of ours: let it be seen."""
    tasks = [asyncio.create_task(each) for each in running]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    for task in done:
        task.result()


@asynccontextmanager
async def serving(pages: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve the pages as long as the block lasts; gives the port."""
    runner = web.AppRunner(pages, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise CannotListen(f"cannot listen on {host}:{port}: {why}") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def on_signals() -> asyncio.Event:
    """Set when SIGTERM or ctrl-C comes."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    return stop
