"""One watch: what was missed since a revision, then changes as they happen, until its time is up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from kubedouble.resource import Resource
from kubedouble.selectors import Predicate
from kubedouble.storage import Change, Storage, Stored, encode

Show = Callable[[Stored], bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which objects a watch or list is about."""

    resource: Resource
    namespace: str
    labels: Predicate
    fields: Predicate

    def has(self, stored: Stored | None) -> bool:
        if stored is None:
            return False
        if self.namespace and stored.data["metadata"].get("namespace", "") != self.namespace:
            return False
        return self.labels(stored.data) and self.fields(stored.data)

    def event(self, change: Change) -> tuple[str, Stored] | None:
        """How a change looks through the selectors: leaving them is a deletion, entering them a creation."""
        was, now = self.has(change.before), self.has(change.after) and not change.gone
        if now:
            return ("MODIFIED" if was else "ADDED"), change.after
        if not was:
            return None
        if change.gone:
            return "DELETED", change.after
        assert change.before is not None
        meta = {**change.before.data["metadata"], "resourceVersion": str(change.revision)}
        return "DELETED", Stored({**change.before.data, "metadata": meta}, change.revision)


def line(kind: str, body: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"


def bookmark(resource: Resource, revision: int, annotations: dict[str, str] | None = None) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    return line("BOOKMARK", encode({"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}))


class Watch:
    """Listens from its creation on, so that nothing falls between the list and the first wait."""

    def __init__(self, storage: Storage, wanted: Wanted, show: Show) -> None:
        self._wanted = wanted
        self._show = show
        self._pending: deque[Change] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._marks: deque[int] = deque()
        self.stop_listening = storage.listen(self._hear)

    def _hear(self, change: Change) -> None:
        if change.resource == self._wanted.resource.key:
            self._pending.append(change)
            self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def mark(self, revision: int) -> None:
        """Send a bookmark next."""
        self._marks.append(revision)
        self._news.set()

    def lines(self, changes: list[Change] | deque[Change]) -> list[bytes]:
        events = (self._wanted.event(change) for change in changes)
        return [line(kind, self._show(stored)) for kind, stored in filter(None, events)]

    async def chunks(self, ends_at: float) -> AsyncIterator[bytes]:
        """Changes joined into as few chunks as the reader's pace allows."""
        clock = asyncio.get_running_loop().time
        while not self._ended:
            if self._pending:
                changes, self._pending = self._pending, deque()
                if chunk := b"".join(self.lines(changes)):
                    yield chunk
                continue
            if self._marks:
                yield bookmark(self._wanted.resource, self._marks.popleft())
                continue
            self._news.clear()
            left = ends_at - clock()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                return
