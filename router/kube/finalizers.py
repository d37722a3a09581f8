"""The leader's work on finalizers: puts ours on what versions consist of, and takes it off when no request is left.

```
 View ─► what changed ─► Queue ─► protect ─────────────► PATCH
                           ▲  └─► drain ─► Drains ◄─ poll: all replicas, every 0.25 s to 1 s
                           └───────────── verdict ◄──┘
```

Level-triggered: whatever was missed, a look at an object and at the Envoys tells what is to be done. So a leader that
takes over goes on with the drains of the one before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from router.cluster.drain import FINALIZER, Answers, Task, User, Verdict, Witness, clusters, protectable, task, verdict
from router.cluster.resource import BUILT_IN, Reference, ResourceType
from router.engine import ModelStatus
from router.kube.client import ApiFault, Client
from router.kube.elector import Term
from router.kube.events import Subject
from router.kube.finalizer_patch import put_on, take_off
from router.kube.queue import Queue
from router.kube.view import Resource, View
from router.replica import Fleet

log = logging.getLogger(__name__)

DEFAULT_DEADLINE = 300.0
"""Seconds, for what no model that we know of uses."""
_SETTLE_AT_LEAST, _SETTLE_AT_MOST = 0.5, 10.0


class Models(Protocol):
    """The part of the engine that is needed here."""

    def models(self) -> Mapping[str, ModelStatus]: ...

    def leaving(self) -> Mapping[str, ModelStatus]: ...


class Events(Protocol):
    """What shows people what happens to an object; never waits, never fails."""

    def tell(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two questions to the replicas while something drains: `first`, then slower up to `most`."""

    first: float = 0.25
    most: float = 1.0
    told_again: float = 30.0
    """How long a drain may take before people are told what it waits for."""


@dataclass(slots=True)
class _Drain:
    """`since` and `told_at`, when people were told of it last, are on the monotonic clock."""

    resource: Resource
    since: float
    verdict: Verdict | None = None
    told_at: float | None = None


class Finalizers:
    """`run` is for one term at a time. `quiet_since` tells when replicas last came or went (Members.quiet_since).

    `told` is called with what began or ceased to drain, or has something new to tell after a while.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        engine: Models,
        fleet: Fleet,
        events: Events,
        *,
        types: Mapping[str, ResourceType] = BUILT_IN,
        quiet_since: Callable[[], float] = lambda: float("-inf"),
        told: Callable[[Reference], None] = lambda reference: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._view, self._engine, self._fleet, self._events = client, view, engine, fleet, events
        self._protectable = frozenset(short for short, kind in types.items() if protectable(kind))
        self._quiet_since, self._told = quiet_since, told
        self._pace = pace or Pace()
        self._clock, self._wall = clock, wall
        self._queue = Queue(clock=clock)
        self._names: dict[str, Reference] = {}
        self._alive: dict[Reference, str] = {}  # uid
        self._deleted: dict[Reference, tuple[str, float]] = {}  # uid, and since when, monotonic
        self._written: dict[Reference, str] = {}  # the revision that a write of ours has made old
        self._drains: dict[Reference, _Drain] = {}
        self._begun = asyncio.Event()
        self._witness = Witness()
        self._term: Term | None = None
        self._term_since = 0.0
        self._refused: dict[Reference, int] = {}
        view.follow_resources(self._changed)  # also while others lead: who has seen a deletion begin knows its age

    async def run(self, term: Term) -> None:
        """Protect and release until cancelled."""
        self._term, self._term_since, self._witness = term, self._clock(), Witness()
        self._written.clear()
        for resource in self._view.resources():
            self._queue.add(self._name(resource.reference), urgent=bool(resource.deleted_at))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run(self._work))
                group.create_task(self._poll())
        finally:
            self._term = None
            self._queue.clear()
            self._drains.clear()

    def draining(self) -> Mapping[Reference, str]:
        """What waits for its last requests, and why; empty on a replica that does not lead."""
        return {
            reference: drain.verdict.why if drain.verdict else "beginning" for reference, drain in self._drains.items()
        }

    # What changes

    def _changed(self, reference: Reference) -> None:
        resource = self._view.resource(reference)
        if resource is None:
            for known in (self._alive, self._deleted, self._written, self._refused, self._drains):
                known.pop(reference, None)
            self._queue.drop(self._name(reference))
            self._names.pop(str(reference), None)
            return
        self._sight(resource)
        if self._term is not None:
            self._queue.add(self._name(reference), urgent=bool(resource.deleted_at))

    def _name(self, reference: Reference) -> str:
        name = str(reference)
        self._names[name] = reference
        return name

    def _sight(self, resource: Resource) -> None:
        """Note when its deletion began: by our own clock if we saw it, else by the two machines' idea of the time."""
        reference, now = resource.reference, self._clock()
        if not resource.deleted_at:
            self._alive[reference] = resource.uid
            self._deleted.pop(reference, None)
        elif self._deleted.get(reference, ("", 0.0))[0] != resource.uid:
            seen_alive = self._alive.pop(reference, None) == resource.uid
            age = 0.0 if seen_alive else _age(resource.deleted_at, self._wall())
            self._deleted[reference] = resource.uid, now - age

    # One object

    async def _work(self, name: str) -> None:
        reference = self._names.get(name)
        resource = self._view.resource(reference) if reference is not None else None
        if resource is None or self._term is None:
            return
        if self._written.get(resource.reference) == resource.revision:
            return  # the watch has yet to bring what we wrote, and then calls again
        try:
            await self._do(resource)
        except ApiFault as fault:
            if fault.status and self._refused.get(resource.reference) != fault.status:
                self._refused[resource.reference] = fault.status
                log.warning("%s: its finalizers cannot be written: %s", resource.reference, fault)
            raise
        self._refused.pop(resource.reference, None)

    async def _do(self, resource: Resource) -> None:
        what = task(
            protected=FINALIZER in resource.finalizers,
            watched=resource.labelled and resource.reference.short in self._protectable,
            used=self._is_used(resource.reference),
            deleted=bool(resource.deleted_at),
        )
        if what is Task.DRAIN:
            await self._drain(resource)
            return
        self._drains.pop(resource.reference, None)
        if what is Task.PROTECT:
            if await self._write(put_on, resource):
                log.info("%s: protected", resource.reference)
        elif what is Task.RELEASE:
            await self._release(resource, Verdict(True, "it has no watch label any more"))

    async def _drain(self, resource: Resource) -> None:
        drain = self._drains.get(resource.reference)
        if drain is None or drain.resource.uid != resource.uid:
            since = self._deleted[resource.reference][1] if resource.deleted_at else self._clock()
            drain = self._drains[resource.reference] = _Drain(resource, since)
            self._begun.set()
        elif resource.deleted_at and not drain.resource.deleted_at:
            drain.since = self._deleted[resource.reference][1]
        drain.resource = resource
        if drain.verdict is not None and drain.verdict.release:
            await self._release(resource, drain.verdict)

    async def _release(self, resource: Resource, found: Verdict) -> None:
        drain = self._drains.get(resource.reference)  # the watch may tell that it is gone before the write is answered
        written = await self._write(take_off, resource)
        self._drains.pop(resource.reference, None)
        if not written:
            return
        self._told(resource.reference)
        log.log(logging.WARNING if found.warning else logging.INFO, "%s: released: %s", resource.reference, found.why)
        if drain is not None and (found.warning or drain.told_at is not None):
            took = f"released after {self._clock() - drain.since:.0f} s: {found.why}"
            self._tell(resource, "Released", took, warning=found.warning)

    async def _write(self, write: Callable[..., Any], resource: Resource) -> bool:
        """Whether something was changed; nothing is when the term is over."""
        if self._term is None:
            return False
        before, self._written[resource.reference] = self._written.get(resource.reference), resource.revision
        try:
            done: bool = await write(
                self._client,
                resource.path,
                resource.uid,
                resource.finalizers,
                resource.revision,
                self._term.valid,
            )
        except BaseException:
            del self._written[resource.reference]
            if before is not None:
                self._written[resource.reference] = before
            raise
        return done

    def _is_used(self, reference: Reference) -> bool:
        """By a version that is wanted now; users that only linger do not count."""
        return any(version in self._view.references(model) for model, version in self._view.users(reference))

    def _tell(self, resource: Resource, reason: str, message: str, *, warning: bool = False) -> None:
        own = resource.reference
        subject = Subject(resource.api_version, resource.kind, own.namespace, own.name, resource.uid)
        self._events.tell(subject, reason, message, warning=warning)

    # All that drain

    async def _poll(self) -> None:
        wait = self._pace.first
        while True:
            if not self._drains:
                self._begun.clear()
                await self._begun.wait()
                wait = self._pace.first
            try:
                await self._look()
            except Exception:
                log.exception("a defect of headgate: what drains is looked at again later")
            self._begun.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._begun.wait()
                wait = self._pace.first
            except TimeoutError:
                wait = min(self._pace.most, wait * 1.5)

    async def _look(self) -> None:
        """Ask all replicas about all drains at once, and judge each."""
        users = {reference: self._users(reference, drain) for reference, drain in self._drains.items()}
        everyone = {user for own in users.values() for user in own}
        asked_at = self._clock()
        reports = await self._fleet.ask(
            sorted({user.model for user in everyone}),
            sorted({name for user in everyone for name in user.clusters}),
        )
        answers = Answers(reports, asked_at, self._clock())
        self._witness.see(everyone, answers)
        now = answers.answered_at
        quiet = now - max(self._term_since, self._quiet_since())
        for reference, own in users.items():
            drain = self._drains.get(reference)
            if drain is None:
                continue
            waited, deadline = now - drain.since, self._deadline(own)
            drain.verdict = verdict(own, answers, self._witness, waited=waited, deadline=deadline, quiet=quiet)
            if drain.verdict.release:
                self._queue.add(self._name(reference), urgent=True)
            elif drain.told_at is None or now - drain.told_at >= self._pace.told_again:
                drain.told_at = now
                self._tell(drain.resource, "Draining", f"{drain.verdict.why}, at most {deadline:g} s")
                self._told(reference)

    def _users(self, reference: Reference, drain: _Drain) -> frozenset[User]:
        return frozenset(
            User(model, version, self._settle(model), bool(drain.resource.deleted_at) and self._is_last(model, version))
            for model, version in self._view.users(reference)
        )

    def _settle(self, model: str) -> float:
        status = self._status(model)
        connect = status.rollout.spec.timeouts.connect if status is not None else 1.0
        return min(max(connect, _SETTLE_AT_LEAST), _SETTLE_AT_MOST)

    def _is_last(self, model: str, version: str) -> bool:
        """Planned as not ready, and yet given requests: there was nothing better to do with them."""
        status = self._engine.models().get(model)
        if status is None or status.plan is None or not any(v.name == version and not v.ready for v in status.versions):
            return False
        own = clusters(model, version)
        return any(target.backend in own for route in status.plan.routes for target in route.targets)

    def _deadline(self, users: Iterable[User]) -> float:
        found = [self._status(user.model) for user in users]
        return max((one.rollout.spec.timeouts.drain for one in found if one is not None), default=DEFAULT_DEADLINE)

    def _status(self, model: str) -> ModelStatus | None:
        return self._engine.models().get(model) or self._engine.leaving().get(model)


def _age(stamp: str, now: datetime) -> float:
    """Seconds since a Kubernetes timestamp, none if it lies ahead or cannot be read."""
    try:
        return max(0.0, (now - datetime.fromisoformat(stamp.replace("Z", "+00:00"))).total_seconds())
    except (ValueError, TypeError):
        return 0.0
