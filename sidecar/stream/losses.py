"""What Envoy says that it has sent, against what came: the difference is lost, and told.

Envoy counts what it had no room for while the sidecar was away (`envoy`). What it had already handed over to a
connection that then ended is in no figure of its own (`way`): that is what it had taken in some seconds ago, less what
came.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import quote

from sidecar.metrics.admin import NoAnswer
from sidecar.metrics.follow import Source

PATH = "/stats?format=json&filter=" + quote(r"^access_logs\.fluentd\.headgate\.entries_")
_BUFFERED, _LOST = (f"access_logs.fluentd.headgate.entries_{each}" for each in ("buffered", "lost"))
SETTLE = 5.0
"""By then an entry has come, or will not."""


class _Total:
    """A counter of Envoy's that begins anew with Envoy."""

    def __init__(self) -> None:
        self._before = self._now = 0

    def take(self, value: int) -> int:
        if value < self._now:
            self._before += self._now
        self._now = value
        return self._before + value


class Losses:
    """`run` it as a task. `received` tells how many entries have come, refused ones too."""

    def __init__(
        self, source: Source, received: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source, self._received, self._clock = source, received, clock
        self._buffered, self._lost = _Total(), _Total()
        self._taken: deque[tuple[float, int]] = deque()
        self._began: int | None = None
        self.envoy = 0
        self.way = 0

    async def run(self, interval: float = 1.0) -> None:
        while True:
            await self.read_once()
            await asyncio.sleep(interval)

    async def read_once(self) -> None:
        """One reading; an Envoy that does not answer is the follower's to complain about."""
        try:
            stats = json.loads(await self._source.get(PATH))["stats"]
            found = {each["name"]: int(each["value"]) for each in stats if "value" in each}
        except (NoAnswer, KeyError, TypeError, ValueError):
            return
        self.take(found.get(_BUFFERED, 0), found.get(_LOST, 0))

    def take(self, buffered: int, lost: int) -> None:
        now, received = self._clock(), self._received()
        self.envoy = self._lost.take(lost)
        total = self._buffered.take(buffered)
        if self._began is None:
            self._began = total - received
        self._taken.append((now, total))
        settled = None
        while self._taken and now - self._taken[0][0] >= SETTLE:
            settled = self._taken.popleft()[1]
        if settled is not None:
            self.way = max(self.way, settled - self._began - received)
