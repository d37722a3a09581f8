"""Load reports over gRPC (LRS): the thin rim around `Reporter`, one reader and one writer per client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from xds.door import Context, Door, nonsense
from xds.load_wire import read_report
from xds.loads import Loads, Reporter
from xds.metrics import XdsMetrics
from xds.stream import Refused
from xds.wire import Garbage

log = logging.getLogger(__name__)

LRS_SERVICE = "envoy.service.load_stats.v3.LoadReportingService"

LAST_WRITE = 1.0
"""Seconds that a write which is under way may take when the stream is ended."""


async def serve_loads(
    requests: AsyncIterator[bytes], context: Context, loads: Loads, door: Door, metrics: XdsMetrics
) -> None:
    """Serve one stream until its client leaves; raises TurnedAway."""
    connection: _Connection | None = None
    try:
        async for raw in requests:
            report = read_report(raw)
            if connection is None:  # the first message opens the stream, and reports nothing that we asked for
                node = door.admit(report.node, context)
                connection = _Connection(loads, node.cluster, node.id, context, metrics)
                continue
            if report.node is not None and (report.node.id, report.node.cluster) != connection.who:
                raise Refused("node must not change within a stream")
            connection.reporter.receive(report)
            metrics.load_reports.labels(connection.reporter.gateway).inc()
            connection.wake.set()
    except (Garbage, Refused) as error:
        raise nonsense(error, connection.reporter.node if connection else "") from error
    finally:
        if connection is not None:
            await connection.close()


class _Connection:
    """Only the writer task writes; it asks what is wanted when it gets to it, never a queue."""

    def __init__(self, loads: Loads, gateway: str, node: str, context: Context, metrics: XdsMetrics) -> None:
        self.wake = asyncio.Event()
        self.who = (node, gateway)
        self.reporter: Reporter = loads.join(gateway, node, self.wake.set)
        self._loads, self._context = loads, context
        self._gauge = metrics.load_reporters.labels(gateway)
        self._gauge.inc()
        self._finishing = False
        self._reader = asyncio.current_task()
        self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while not self._finishing:
                ask = self.reporter.due()
                if ask is not None:
                    try:
                        await self._context.write(ask)
                    except Exception as error:  # grpc.aio has no one class for "the client is gone"
                        log.debug("%s: %s: %s", self.reporter.gateway, self.reporter.node, error)
                        return
                await self._woken()
        except Exception:  # our own bug: end this one stream loudly, the client reconnects
            log.exception("%s: %s: the load report stream failed", self.reporter.gateway, self.reporter.node)
            if self._reader is not None:
                self._reader.cancel()

    async def _woken(self) -> None:
        """Wait for a report, a wish, or the end of one."""
        deadline = self.reporter.next_deadline()
        left = None if deadline is None else max(0.0, deadline - self._loads.clock())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), left)
        self.wake.clear()

    async def close(self) -> None:
        """Let the write that is under way end: a status beside it would kill the call without a word."""
        self._loads.leave(self.reporter)
        self._gauge.dec()
        self._finishing = True
        self.wake.set()
        await asyncio.wait((self._writer,), timeout=LAST_WRITE)
        self._writer.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._writer
