"""Every replica keeps a Lease while it lives, by which the others find it; and knows in turn who else is alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.kube.client import ApiFault, Client
from router.kube.elector import Term
from router.kube.reflector import Reflector
from router.kube.roster import ADDRESS, Member, Roster, Seen, read

__all__ = ["Member", "MemberTiming", "Members"]

log = logging.getLogger(__name__)

LABEL = "headgate.dev/member"
PREFIX = "headgate-member-"
_LEAVE = 1.5
"""Seconds that taking our Lease away may take on shutdown. If it fails, it goes stale by itself."""


@dataclass(frozen=True, slots=True)
class MemberTiming:
    """Seconds. A member is alive for `duration` after its last renewal; its Lease is removed after `remove`."""

    duration: float = 15.0
    renew: float = 5.0
    remove: float = 600.0
    sweep: float = 60.0

    @classmethod
    def of(cls, duration: float) -> MemberTiming:
        """For another duration, with as many renewals in it as in the default."""
        usual = cls()
        return cls(duration, usual.renew * duration / usual.duration)


class Members:
    """Run `run` on every replica, and `sweep` on the leader. `http_address` is where the others reach us, IP:PORT."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        identity: str,
        http_address: str,
        *,
        timing: MemberTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self.trouble: str | None = None
        """Why our Lease cannot be renewed now."""
        self._client = client
        self._timing = timing or MemberTiming()
        self._clock, self._wall = clock, wall
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = lease_name(identity)
        self._namespace = namespace
        self._address = http_address
        self._roster = Roster(Member(identity, http_address), now=clock(), silence=2 * self._timing.renew)
        self._reflector: Reflector[Seen] = Reflector(
            client,
            self._all,
            lambda key, seen: self._roster.heard(key, seen, clock()),
            keep=read,
            labels=f"{LABEL}=true",
            watch_timeout=4 * self._timing.renew,
            clock=clock,
        )

    @property
    def synced(self) -> asyncio.Event:
        """Set once the other members are known."""
        return self._reflector.synced

    def live(self) -> tuple[Member, ...]:
        """Who is alive, ourselves included, by identity."""
        return tuple(sorted(self._roster.look(self._clock())))

    def doubtful(self) -> tuple[Member, ...]:
        """Whose Lease has run out: dead, or without the API server but still serving Envoys. Who asks finds out."""
        self._roster.look(self._clock())
        return tuple(sorted(self._roster.doubtful()))

    def quiet_since(self) -> float:
        """When somebody last came or went, on the monotonic clock."""
        self._roster.look(self._clock())
        return self._roster.changed_at

    async def run(self) -> None:
        """Be a member until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reflector.run())
                group.create_task(self._renew())
        finally:
            await self._leave()

    async def sweep(self, term: Term) -> None:
        """Remove the Leases of those who died without a word, until cancelled."""
        while True:
            for key, seen in self._roster.stale(self._timing.remove).items():
                if seen.member.identity != self.identity and term.valid():
                    await self._remove(key.rpartition("/")[2], seen)
            await asyncio.sleep(self._timing.sweep)

    async def _renew(self) -> None:
        while True:
            try:
                await self._write()
            except ApiFault as fault:
                if self.trouble is None:
                    log.warning("%s: not renewed: %s", self._name, fault)
                self.trouble = str(fault)
            else:
                self.trouble = None
            await asyncio.sleep(self._timing.renew)

    async def _write(self) -> None:
        lease = self._lease()
        try:
            await self._client.patch(f"{self._all}/{self._name}", lease)
        except ApiFault as fault:
            if fault.status != 404:
                raise
            await self._client.create(self._all, lease, within=self._timing.duration)

    def _lease(self) -> dict[str, Any]:
        """The whole of it: as a merge patch it writes what differs, which is the time."""
        meta = {
            "name": self._name,
            "namespace": self._namespace,
            "labels": {LABEL: "true"},
            "annotations": {ADDRESS: self._address},
        }
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "renewTime": self._wall().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    async def _remove(self, name: str, seen: Seen) -> None:
        # Only as it was seen: whoever renews it meanwhile is alive.
        options = {"preconditions": {"resourceVersion": seen.revision}}
        try:
            await self._client.delete(f"{self._all}/{name}", options)
            log.info("%s: removed, nobody has renewed it for %g s", name, self._timing.remove)
        except ApiFault as fault:
            if fault.status not in (404, 409):
                log.warning("%s: cannot be removed: %s", name, fault)

    async def _leave(self) -> None:
        with contextlib.suppress(ApiFault, TimeoutError):
            async with asyncio.timeout(_LEAVE):
                await self._client.delete(f"{self._all}/{self._name}")


def lease_name(identity: str) -> str:
    """A name that Kubernetes takes."""
    plain = re.sub(r"[^a-z0-9-]+", "-", identity.lower()).strip("-")
    return (PREFIX + plain)[:253].rstrip("-")
