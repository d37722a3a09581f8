"""`headgate sidecar --proxy` as a process: the proxy, its figures, and the pages that tell them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sidecar.instruments import Family
from sidecar.metrics.counted import INTERVAL, Counted
from sidecar.metrics.llm import Llms
from sidecar.metrics.pages import More, application
from sidecar.metrics.process import on_signals, serving
from sidecar.proxy import Proxy, serve_proxy
from sidecar.proxy_config import ProxyConfig

Started = Callable[[int, tuple[int, ...]], None]
"""Told the port of the pages, and those of the proxy: HTTP, then gRPC if it is on."""


class _OfPlugins(More):
    """What the proxy's plugins count, and say of language models."""

    def __init__(self, proxies: list[Proxy], llms: Llms) -> None:
        self._proxies, self._llms = proxies, llms

    def families(self) -> tuple[Family, ...]:
        own = (family for one in self._proxies for family in one.plugins.pipeline.families(time.monotonic()))
        return (*(self._llms.families() if len(self._llms) else ()), *own)

    @property
    def llms(self) -> Llms:
        return self._llms


async def serve(
    config: ProxyConfig,
    host: str,
    port: int,
    *,
    interval: float = INTERVAL,
    stop: asyncio.Event | None = None,
    started: Started = lambda pages, proxy: None,
) -> None:
    """Run until `stop` is set or a signal comes. CannotListen for the pages' port, CannotStart for all else."""
    stop = stop or on_signals()
    counted = Counted(config, interval=interval)
    proxies: list[Proxy] = []

    async with serving(application(counted, _OfPlugins(proxies, counted.llms)), host, port) as pages:

        def listening(proxy: Proxy, ports: tuple[int, ...]) -> None:
            proxies.append(proxy)
            counted.trouble = None
            started(pages, ports)

        taking = asyncio.create_task(counted.run())
        try:
            await serve_proxy(config, counted, listening, stop)
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
