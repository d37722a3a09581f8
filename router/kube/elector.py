"""Leads while this replica holds the Lease: `lead(term)` runs then, and only then.

    async def lead(term): ...   # check term.valid() before each write; record term.number in what is written
    await Elector(client, namespace, "headgate", lead).run()

The leader's work is cancelled, and awaited, before another replica can lead. Losing the API server ends a term;
giving up the Lease on shutdown lets another replica lead within `Timing.poll`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.kube.client import ApiFault, Client
from router.kube.election import Election, Lease, Read, Timing, Wait, Write

log = logging.getLogger(__name__)

_RELEASE = 1.5
"""Seconds a release may take on shutdown. If it fails, the Lease expires by itself."""


@dataclass(frozen=True, slots=True)
class Term:
    """One spell of leading. Numbers rise from term to term, so what a later one has written is recognized."""

    number: int
    identity: str
    valid: Callable[[], bool]
    """Whether it still lasts. Asked right before a write it catches a process that was stopped for a while."""


class Elector:
    """Its `run` campaigns until cancelled, or until `lead` returns (it resigns) or raises (that is raised)."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        lead: Callable[[Term], Coroutine[Any, Any, None]],
        *,
        identity: str | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity or f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.trouble: str | None = None
        """Why the Lease can be neither read nor written now."""
        self._client = client
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._one = f"{self._all}/{name}"
        self._lead = lead
        self._election = Election(namespace, name, self.identity, timing)
        self._work: asyncio.Task[None] | None = None
        self._clock = clock
        self._wall = wall
        self._dice = dice

    @property
    def leading(self) -> bool:
        return self._work is not None and self._election.leads(self._clock())

    @property
    def holder(self) -> str:
        """Who leads, as far as is known; empty if nobody does, or if it was us until we could not renew."""
        holder = self._election.holder
        return "" if holder == self.identity and not self.leading else holder

    async def run(self) -> None:
        try:
            while self._work is None or not self._work.done():
                await self._turn()
            self._work.result()  # raises what the work raised
        finally:
            try:
                await self._end_work("stopping")
            finally:
                await self._release()

    async def _turn(self) -> None:
        """One step of the election, then make the work agree with its outcome."""
        election = self._election
        step = election.next(self._clock(), self._wall())
        if self._work is not None and not election.leads(self._clock()):
            await self._end_work(
                f"the Lease was not renewed in {election.timing.deadline:g} s: {self.trouble or 'conflicts'}"
            )
            return
        if isinstance(step, Wait):
            await self._pause(step.until)
        else:
            await self._ask(step)
        if self._work is not None and election.number is None:
            await self._end_work(f"the Lease is held by {election.holder or 'nobody'}")
        elif self._work is None and election.leads(self._clock()):
            self._begin_work()

    async def _pause(self, until: float) -> None:
        """No longer than the term is safe, and no longer than the work goes on."""
        if self._work is None:
            await asyncio.sleep(until - self._clock())
        else:
            await asyncio.wait({self._work}, timeout=max(0.0, min(until, self._election.ends_at) - self._clock()))

    async def _ask(self, step: Read | Write) -> None:
        election = self._election
        sent = self._clock()
        within = election.timing.deadline / 2
        if self._work is not None:
            within = max(0.01, min(within, election.ends_at - sent))
        try:
            if isinstance(step, Read):
                election.found(await self._get(within), self._clock(), self._dice())
            else:
                election.wrote(await self._put(step, within), sent)
        except ApiFault as fault:
            if isinstance(step, Write) and (fault.status == 409 or (fault.status == 404 and not step.create)):
                election.refused(self._clock(), self._dice())
                return
            if self.trouble is None:
                log.warning("%s: %s", self._one, fault)
            self.trouble = str(fault)
            election.failed(self._clock(), self._dice())
        else:
            self.trouble = None

    async def _get(self, within: float) -> Lease | None:
        try:
            return await self._client.get(self._one, within=within)
        except ApiFault as fault:
            if fault.status == 404:
                return None
            raise

    async def _put(self, write: Write, within: float) -> Lease:
        if write.create:
            return await self._client.create(self._all, write.lease, within=within)
        return await self._client.replace(self._one, write.lease, within=within)

    def _begin_work(self) -> None:
        election = self._election
        number = election.number
        assert number is not None

        def valid() -> bool:
            return election.number == number and election.leads(self._clock())

        log.info("%s leads (term %d)", self.identity, number)
        work = self._lead(Term(number, self.identity, valid))
        self._work = asyncio.create_task(work, name=f"lead term {number}")

    async def _end_work(self, why: str) -> None:
        """Cancel and await the work. While it lasts the Lease is not renewed, and nothing is given up either."""
        work = self._work
        if work is None or work.done():  # what ended by itself, `run` deals with
            return
        log.info("%s leads no longer: %s", self.identity, why)
        work.cancel()
        await self._ended(work)
        self._work = None
        if not work.cancelled() and (error := work.exception()) is not None:
            log.error("the leader's work ended badly", exc_info=error)

    async def _ended(self, work: asyncio.Task[None]) -> None:
        timing = self._election.timing
        done, _ = await asyncio.wait({work}, timeout=timing.duration - timing.deadline)
        if not done:
            log.error("%s: the leader's work ignores its cancellation; its writes must check term.valid()", work)
            await asyncio.wait({work})

    async def _release(self) -> None:
        """Let another replica lead at once. Work that has not ended keeps the Lease until it expires."""
        if self._work is not None and not self._work.done():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE):
                while (write := self._election.resign(self._wall())) is not None:
                    try:
                        await self._put(write, _RELEASE)
                        return
                    except ApiFault as fault:
                        if fault.status != 409:
                            log.warning("%s: not handed over, it expires by itself: %s", self._one, fault)
                            return
                    try:
                        self._election.found(await self._get(_RELEASE), self._clock())
                    except ApiFault:
                        return
