"""Follows one Envoy: reads its figures every second, keeps totals and windows, and says in words when it cannot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sidecar.metrics.admin import NoAnswer
from sidecar.metrics.families import Own
from sidecar.metrics.stats import PATH, Key, Malformed, read
from sidecar.metrics.totals import GRACE, Figures, Totals
from sidecar.metrics.windows import Windows, versions

INTERVAL = 1.0
_LEISURE = 4.0
"""A reading is followed by so many times its own time without one: servers that make up codes can make it long."""
STALE = 10.0
_log = logging.getLogger("sidecar")


class Source(Protocol):
    """What `sidecar.metrics.admin.Admin` is."""

    async def get(self, path: str) -> bytes: ...


def rest(interval: float, took: float) -> float:
    """Seconds until the next reading."""
    return max(interval - took, took * _LEISURE)


class Follower:
    """`run` it as a task; everything else may be asked at any time."""

    def __init__(
        self,
        source: Source,
        *,
        interval: float = INTERVAL,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._interval, self._clock = source, interval, clock
        self._totals, self._windows = Totals(grace), Windows[Key]()
        self._reads = self._failures = 0
        self._took = 0.0
        self._refused = False
        self._read_at: float | None = None
        self.trouble: str | None = "nothing has been read yet"

    async def run(self) -> None:
        """Read again and again. A reading that takes long delays the next one, so that all take a fifth of a core."""
        while True:
            began = self._clock()
            await self.read_once()
            await asyncio.sleep(rest(self._interval, self._clock() - began))

    async def read_once(self) -> None:
        began = self._clock()
        self._reads += 1
        try:
            self.take(await self._source.get(PATH))
        except (NoAnswer, Malformed) as error:
            self._failures += 1
            self._refused = self._refused or (isinstance(error, NoAnswer) and error.refused)
            self._tell(str(error))
        else:
            self._took = self._clock() - began
            self._tell(None)

    def take(self, body: bytes) -> None:
        """One answer of Envoy's; Malformed changes nothing."""
        reading = read(body)
        now = self._clock()
        self._totals.take(reading, now, self._refused)
        self._refused = False
        self._windows.take(self._totals.figures(), now)
        self._read_at = now

    def _tell(self, trouble: str | None) -> None:
        """Log changes, not states."""
        if trouble != self.trouble:
            if trouble:
                _log.warning("%s; trying again every %g s", trouble, self._interval)
            else:
                _log.info("reading Envoy's figures")
        self.trouble = trouble

    @property
    def figures(self) -> Mapping[Key, Figures]:
        return self._windows.latest

    def versions(self, window: str | None = None) -> list[dict[str, Any]]:
        return versions(self._windows, window)

    @property
    def age(self) -> float | None:
        return None if self._read_at is None else self._clock() - self._read_at

    @property
    def unready(self) -> str | None:
        """Why nobody should rely on the figures: one missed reading is no reason."""
        if self._read_at is None:
            return self.trouble
        if self.age is not None and self.age > STALE:
            return self.trouble or f"the last reading is {self.age:.0f} s old"
        return None

    @property
    def own(self) -> Own:
        return Own(
            up=self.trouble is None,
            reads=self._reads,
            failures=self._failures,
            read_seconds=self._took,
            age=self.age,
            stats=len(self._totals),
            refused=len(self._totals.refused),
        )
