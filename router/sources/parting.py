"""Versions that parted from their rollout a moment ago, before it could be known whether they are protected.

Every kind has a watch of its own, and the leader may protect a resource while the rollout that names it is deleted:
that a version goes can be heard before that its Deployment carries our finalizer. So it lingers for a while; what the
watch tells meanwhile decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

GRACE = 5.0
"""Seconds from a version's parting until what is known of its finalizers is believed."""


class Partings:
    """`look` is called by `run` with every model whose version's time is over. While the version is one that `deaf`
    tells of, because what it consists of is not being followed, its time begins anew. `clock` in seconds."""

    def __init__(
        self, look: Callable[[str], None], deaf: Callable[[str, str], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._deaf, self._clock = look, deaf, clock
        self._ends: dict[tuple[str, str], float] = {}  # by model and version, the next to end first
        self._news = asyncio.Event()

    def begin(self, model: str, version: str) -> None:
        """The time runs from now, also for a version that parted before."""
        self.forget(model, version)
        self._ends[model, version] = self._clock() + GRACE
        self._news.set()

    def undecided(self, model: str, version: str) -> bool:
        return (model, version) in self._ends

    def forget(self, model: str, version: str) -> None:
        self._ends.pop((model, version), None)

    def check(self) -> None:
        """Decide all whose time is over."""
        now = self._clock()
        for (model, version), end in list(self._ends.items()):
            if end > now:
                break
            if self._deaf(model, version):
                self.begin(model, version)
            else:
                self.forget(model, version)
                self._look(model)

    async def run(self) -> None:
        """`check` when it is time, until cancelled."""
        while True:
            self.check()
            self._news.clear()
            if not self._ends:
                await self._news.wait()
            else:
                await asyncio.sleep(max(0.0, next(iter(self._ends.values())) - self._clock()))
