"""Follows one resource: lists it, watches it, and calls `changed(key, object | None)` for every difference.

    list, page by page ──► watch from its revision ──► ended, silent or broken ──► watch again
           ▲                                      └──► 410, or any other ERROR ──┐
           └─────────────────────────────────────────────────────────────────────┘

That the server is away is never a change: objects stay until a complete list or a watch event says that they are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from router.kube.backoff import Backoff
from router.kube.client import ApiFault, Client
from router.kube.copy import Change, Copy, Lines, page_of
from router.kube.road import Road

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")

_GRACE = 5.0
"""A server ends a watch when its time is up. One that has not done so this much later has gone silent."""
_LONG = 30.0
"""After such an outage the server may have been restored from a backup, with revisions that ours are ahead of. It
would let a watch from there wait for ever, so the resource is listed again."""
_BRIEF = 1.0
"""After a watch that ends so early without a word, a pause: a proxy may accept and close all day."""


class Reflector(Generic[Kept]):
    """`path` as in ResourceType.url_path, or one namespace's part of it (client.within).

    `keep` takes out of an object what matters (see Copy). `watch_timeout` bounds how long a connection that died
    without a word can hide changes: that, plus 10 s. `road` is shared by all reflectors of one API server.
    `on_refusal` is called whenever `refused` has changed.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        changed: Callable[[str, Kept | None], None],
        *,
        keep: Callable[[dict[str, Any]], Kept | None],
        labels: str = "",
        fields: str = "",
        road: Road | None = None,
        watch_timeout: float = 60.0,
        page: int = 500,
        backoff: Backoff | None = None,
        on_refusal: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.path = path
        self.synced = asyncio.Event()
        """Set once everything that exists has been told. Never cleared: what is known stays useful."""
        self.heard_at: float | None = None
        """When the server was last heard (by `clock`). An idle watch says nothing for up to `watch_timeout`."""
        self.trouble: str | None = "nothing heard yet"
        """Why the resource is not being followed now; None while it is."""
        self.refused = 0
        """403 when we may not follow it, 404 when the cluster has no such resource; else 0."""
        self.answered = asyncio.Event()
        """Set once it is known what exists, or that this cannot be known."""
        self._client = client
        self._changed = changed
        self._copy = Copy(keep)
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        self._selectors = {name: value for name, value in selectors.items() if value}
        self._road = road or Road(clock=clock, dice=dice)
        self._watch_timeout = watch_timeout
        self._page = page
        self._backoff = backoff or Backoff()
        self._on_refusal = on_refusal
        self._clock = clock
        self._dice = dice
        self._ill_since: float | None = None

    @property
    def objects(self) -> Mapping[str, Kept]:
        """What is kept of every object, as last heard."""
        return MappingProxyType(self._copy.objects)

    def revision(self, key: str) -> str:
        """The object's latest resourceVersion, also when nothing that is kept changed with it; empty if it is gone."""
        return self._copy.revision_of(key)

    async def run(self) -> None:
        """Follow the resource until cancelled."""
        while True:
            try:
                if not self._copy.revision or self._ill_for() > _LONG:
                    await self._list()
                await self._watch()
            except ApiFault as fault:
                await self._recover(fault)

    async def _list(self) -> None:
        """All of it at one revision. A snapshot that expires between two pages is asked for in one piece instead."""
        self._copy.begin()
        try:
            revision = await self._pages(self._page)
        except ApiFault as fault:
            if not fault.gone:
                raise
            self._copy.begin()
            revision = await self._pages(0)
        self._tell(self._copy.end(revision))
        self._set_refused(0)
        self.synced.set()
        self.answered.set()

    async def _pages(self, limit: int) -> str:
        query = {**self._selectors, **({"limit": str(limit)} if limit else {})}
        while True:
            async with self._road.turn():
                answer = await self._client.get(self.path, query)
            self._heard()
            page = page_of(answer)
            self._tell(self._copy.page(page.items))
            if not page.more:
                return page.revision
            query["continue"] = page.more

    async def _watch(self) -> None:
        # Not all at the same time, or they would all come back at the same time as well.
        seconds = max(1, round(self._watch_timeout * (1.0 - self._dice() / 10)))
        query = {
            **self._selectors,
            "watch": "true",
            "resourceVersion": self._copy.revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        events = 0
        try:
            async with asyncio.timeout(None) as deadline, contextlib.AsyncExitStack() as stack:
                async with self._road.turn():
                    chunks = await stack.enter_async_context(self._client.stream(self.path, query))
                deadline.reschedule(asyncio.get_running_loop().time() + seconds + _GRACE)
                opened_at = self._clock()
                self._well()
                lines = Lines()
                async for chunk in chunks:
                    self._heard()
                    for line in lines.cut(chunk):
                        self._tell(self._copy.hear(line))
                        events += 1
                    await asyncio.sleep(0)  # a flood is read from memory and would let nobody else run
        except TimeoutError:
            log.warning("%s: the watch has gone silent; watching again", self.path)
            return
        if not events and self._clock() - opened_at < min(_BRIEF, seconds / 2):
            await self._pause()

    async def _recover(self, fault: ApiFault) -> None:
        """Wait as long as makes sense after this fault; only the server's own troubles are everybody's."""
        if fault.of_the_server:
            self._road.failed(fault)  # whoever is next waits there
            self._ill(str(fault))
            return
        if fault.status in (403, 404):
            self.answered.set()
        if fault.status not in (401, 403):  # a revision is as good as before once we are let in again
            self._copy.forget_revision()
        self._set_refused(fault.status if fault.status in (403, 404) else self.refused)
        self._ill(str(fault))
        await self._pause(fault.retry_after)

    def _set_refused(self, status: int) -> None:
        if self.refused != status:
            self.refused = status
            self._on_refusal()

    async def _pause(self, at_least: float = 0.0) -> None:
        now = self._clock()
        await asyncio.sleep(self._backoff.failed(now, self._dice(), at_least) - now)

    def _ill(self, why: str) -> None:
        if self._ill_since is None:
            self._ill_since = self._clock()
            if self.refused == 404 and not self.objects:
                log.info("%s: not in this cluster; followed as soon as it is", self.path)
            else:
                log.warning("%s: not followed, %d objects stay as they were: %s", self.path, len(self.objects), why)
        self.trouble = why

    def _ill_for(self) -> float:
        return 0.0 if self._ill_since is None else self._clock() - self._ill_since

    def _well(self) -> None:
        self._heard()
        self._backoff.worked(self._clock())
        if self._ill_since is not None:
            log.info("%s: followed again after %.1f s", self.path, self._ill_for())
        self.trouble = self._ill_since = None
        self._set_refused(0)

    def _heard(self) -> None:
        self.heard_at = self._clock()

    def _tell(self, changes: list[Change[Kept]]) -> None:
        for key, kept in changes:
            self._changed(key, kept)
