"""The way to the API server, shared by everyone in this process who goes there again and again.

While it is blocked only one of them tries, so an outage costs as few requests with twenty resources as with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable

from router.kube.backoff import Backoff
from router.kube.client import ApiFault


class Road:
    """`async with road.turn():` around the request that finds out whether the server is there."""

    def __init__(
        self,
        backoff: Backoff | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.trouble: str | None = None
        """The server's trouble in its own words; None while it answers."""
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._dice = dice
        self._one = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it makes sense to try, and remember how it went."""
        async with contextlib.AsyncExitStack() as stack:
            if self.trouble is not None:
                await stack.enter_async_context(self._one)
                # In a loop, since whoever was on the way already may have met another fault meanwhile.
                while self.trouble is not None and (left := self._backoff.until - self._clock()) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(left)
            try:
                yield
            except ApiFault as fault:
                self.failed(fault)
                raise
            self.trouble = None
            self._backoff.worked(self._clock())

    def failed(self, fault: ApiFault) -> None:
        """Tell of a fault met on the way. A refusal of one request alone says that the server is well."""
        if fault.of_the_server:
            self.trouble = str(fault)
            self._backoff.failed(self._clock(), self._dice(), fault.retry_after)
        else:
            self.trouble = None
