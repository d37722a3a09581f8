"""Events: one line of what happened to an object, where `kubectl describe` shows it.

Telling never waits and never fails: what happened is noted, and the leader's `run` writes it when it can. The same told
again of the same object raises the count of its Event; an object that has too much to tell is cut short.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from router.cluster.history import cut
from router.cluster.status import rfc3339
from router.kube.client import ApiFault, Client
from router.kube.elector import Term
from router.kube.queue import Queue

log = logging.getLogger(__name__)

COMPONENT = "headgate"
_KEPT = 4096
_TOO_OLD = 3000.0
"""An API server forgets Events after an hour; one that is older than this is not counted up, but written anew."""
_GAP = 1.0
"""Between two writes of the same Event."""
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(slots=True)
class _Noted:
    """An Event as it should be; `written` is the count that the server has, 0 before it is created."""

    name: str
    subject: Subject
    reason: str
    message: str
    warning: bool
    first: float
    last: float
    count: int = 0
    written: int = 0
    tries: int = 0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Events created or counted up, those not written because the object told too much, and those given up."""

    written: int
    suppressed: int
    failed: int
    waiting: int


@dataclass(slots=True)
class _Sums:
    written: int = 0
    suppressed: int = 0
    failed: int = 0
    ill: bool = field(default=False)


class Events:
    """`a_minute` bounds the new Events of one object. Only the replica that leads tells anything."""

    def __init__(
        self, client: Client, identity: str, *, a_minute: float = 10.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._identity = identity
        self._a_minute = a_minute
        self._clock = clock
        self._noted: OrderedDict[str, _Noted] = OrderedDict()
        self._buckets: OrderedDict[Subject, _Bucket] = OrderedDict()
        self._queue = Queue(hands=2, first=0.5, most=30.0)
        self._leading = False
        self._sums = _Sums()

    @property
    def counters(self) -> Counters:
        sums = self._sums
        return Counters(sums.written, sums.suppressed, sums.failed, self._queue.counters.depth)

    def tell(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        """Something happened. `reason` is one word in CamelCase."""
        if not self._leading:
            return
        now = self._clock()
        message = cut(message, 1024)
        key = _key(subject, reason, message, warning)
        noted = self._noted.get(key)
        if noted is not None and now - noted.last > _TOO_OLD:
            del self._noted[key]
            noted = None
        if noted is None:
            if not self._allowed(subject, now):
                self._sums.suppressed += 1
                return
            # With the time in it: another leader's Event about the same is another one.
            name = f"{subject.name[:200]}.{key[:10]}{int(now * 1000):x}"
            noted = self._noted[key] = _Noted(name, subject, cut(reason, 128), message, warning, now, now)
            self._forget_old()
        noted.count += 1
        noted.last = now
        self._noted.move_to_end(key)
        self._queue.add(key, after=_GAP if noted.written else 0.0)

    async def run(self, term: Term) -> None:
        """Write until cancelled. What is told outside of a term is dropped: another replica tells it."""
        self._leading = True
        try:
            await self._queue.run(lambda key: self._write(key, term))
        finally:
            self._leading = False
            self._queue.clear()
            self._noted.clear()

    async def _write(self, key: str, term: Term) -> None:
        noted = self._noted.get(key)
        if noted is None or noted.written == noted.count or not term.valid():
            return
        namespace = noted.subject.namespace or "default"
        path = f"/api/v1/namespaces/{namespace}/events"
        count, last = noted.count, rfc3339(noted.last)
        try:
            if not noted.written or not await self._count_up(f"{path}/{noted.name}", count, last):
                await self._create(path, self._event(noted, namespace))
        except ApiFault as fault:
            self._failed(key, noted, fault)
            return
        noted.written, noted.tries = count, 0
        self._sums.written += 1
        self._sums.ill = False
        if noted.count != count:
            self._queue.add(key, after=_GAP)

    async def _count_up(self, path: str, count: int, last: str) -> bool:
        """False when the Event is not there any more: the server forgets them after an hour."""
        try:
            await self._client.patch(path, {"count": count, "lastTimestamp": last})
        except ApiFault as fault:
            if fault.status != 404:
                raise
            return False
        return True

    async def _create(self, path: str, event: dict[str, Any]) -> None:
        try:
            await self._client.create(path, event)
        except ApiFault as fault:
            if fault.status != 409:  # it is our own, whose answer was lost
                raise

    def _failed(self, key: str, noted: _Noted, fault: ApiFault) -> None:
        noted.tries += 1
        if not self._sums.ill:
            log.warning("events cannot be written: %s", fault)
            self._sums.ill = True
        if noted.tries < _TRIES and (fault.of_the_server or fault.status in (409, 500)):
            raise fault  # the queue tries again, later each time
        self._sums.failed += 1
        self._noted.pop(key, None)

    def _event(self, noted: _Noted, namespace: str) -> dict[str, Any]:
        subject = noted.subject
        involved = {"apiVersion": subject.api_version, "kind": subject.kind, "name": subject.name}
        involved |= {"namespace": subject.namespace} if subject.namespace else {}
        involved |= {"uid": subject.uid} if subject.uid else {}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": noted.name, "namespace": namespace},
            "involvedObject": involved,
            "reason": noted.reason,
            "message": noted.message,
            "type": "Warning" if noted.warning else "Normal",
            "source": {"component": COMPONENT, "host": self._identity},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._identity[:128],
            "firstTimestamp": rfc3339(noted.first),
            "lastTimestamp": rfc3339(noted.last),
            "count": noted.count,
        }

    def _allowed(self, subject: Subject, now: float) -> bool:
        bucket = self._buckets.setdefault(subject, _Bucket(self._a_minute, now))
        self._buckets.move_to_end(subject)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._a_minute, bucket.tokens + max(0.0, now - bucket.at) * self._a_minute / 60)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _forget_old(self) -> None:
        while len(self._noted) > _KEPT:
            key, _ = self._noted.popitem(last=False)
            self._queue.drop(key)


def _key(subject: Subject, reason: str, message: str, warning: bool) -> str:
    return hashlib.sha256(repr((subject, reason, message, warning)).encode("utf-8", "replace")).hexdigest()
