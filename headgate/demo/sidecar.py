"""The demo's sidecar: beside its Envoy for figures, and once without one, as a proxy, for a plugin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from sidecar.metrics.admin import address
from sidecar.metrics.process import CannotListen, serve
from sidecar.proxied import serve as serve_proxied
from sidecar.proxy_config import ProxyConfig

PLUGIN = "sidecar.plugins.stamp:Stamp"
_SHOWN = ("app-version", "x-request-id")


@asynccontextmanager
async def beside(admin_port: int, port: int) -> AsyncIterator[None]:
    """Figures of the Envoy with this admin port, on `port`, as long as the block lasts. OSError if it is taken."""

    def run(stop: asyncio.Event, started: Callable[[Any], None]) -> Coroutine[Any, Any, None]:
        return serve(address(f"127.0.0.1:{admin_port}"), "127.0.0.1", port, stop=stop, started=started)

    try:
        async with _running(run):
            yield
    except CannotListen as error:
        raise OSError(str(error)) from None


@asynccontextmanager
async def in_front_of(rest_port: int, version: str) -> AsyncIterator[int]:
    """A proxy with the plugin; gives its port."""
    config = ProxyConfig.model_validate(
        {
            "upstream": f"http://127.0.0.1:{rest_port}",
            "listen": "127.0.0.1:0",
            "drain": 1,
            "model": "iris",
            "version": version,
            "plugins": [{"plugin": PLUGIN}],
        }
    )

    def run(stop: asyncio.Event, started: Callable[[Any], None]) -> Coroutine[Any, Any, None]:
        return serve_proxied(config, "127.0.0.1", 0, stop=stop, started=lambda pages, proxy: started(proxy[0]))

    async with _running(run) as port:
        yield port


@asynccontextmanager
async def _running(
    run: Callable[[asyncio.Event, Callable[[Any], None]], Coroutine[Any, Any, None]],
) -> AsyncIterator[Any]:
    """A task that has started, given what it told then; an error of its start is raised here."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(stop, started.set_result))
    try:
        await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            task.result()
        yield started.result()
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def total(port: int, model: str) -> int:
    """How many requests of a model's users the sidecar knows of, since it began."""
    url = f"http://127.0.0.1:{port}/versions"
    async with _client() as client, client.get(url, params={"model": model}) as answer:
        versions = (await answer.json())["versions"]
    return sum(one["total"]["requests"] for one in versions if not one["shadow"])


async def stamps(port: int) -> dict[str, str]:
    """Ask the model's metadata there once: what the plugin says of itself in the answer, where it does."""
    async with _client() as client, client.get(f"http://127.0.0.1:{port}/v2/models/iris") as answer:
        answer.raise_for_status()
        return {name: answer.headers[name] for name in _SHOWN if name in answer.headers}


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2))
