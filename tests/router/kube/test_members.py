"""Replicas find each other by Leases, at an API server that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from kubedouble.errors import ApiError

from router.kube.elector import Term
from router.kube.members import Members, MemberTiming, lease_name

QUICK = MemberTiming(duration=1.0, renew=0.05, remove=1.5, sweep=0.05)


class Replica:
    def __init__(self, it: Any, name: str) -> None:
        self.it, self.name = it, name
        self.members = Members(it.client, "default", name, f"10.0.0.1:{8000 + ord(name[0])}", timing=QUICK)
        self.task = asyncio.create_task(self.members.run())

    @property
    def sees(self) -> str:
        return "".join(one.identity for one in self.members.live())

    @property
    def lease(self) -> dict[str, Any] | None:
        try:
            return self.it.api.get("coordination.k8s.io/v1", "Lease", f"headgate-member-{self.name}", "default")
        except ApiError:
            return None

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def kill(self) -> None:
        """As by kill -9: the Lease stays."""

        async def nothing() -> None:
            pass

        self.members._leave = nothing  # type: ignore[method-assign]
        await self.stop()


@contextlib.asynccontextmanager
async def replicas(it: Any, names: str) -> AsyncIterator[list[Replica]]:
    """They all see each other."""
    made = [Replica(it, name) for name in names]
    await it.until(lambda: all(one.sees == names for one in made))
    try:
        yield made
    finally:
        for one in made:
            await one.stop()


def test_another_duration_is_renewed_as_often():
    assert MemberTiming.of(15.0) == MemberTiming()
    assert MemberTiming.of(3.0) == MemberTiming(duration=3.0, renew=1.0)


def test_members_see_each_other_and_take_their_leases_with_them(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            assert [one.address for one in a.members.live()] == ["10.0.0.1:8097", "10.0.0.1:8098"]
            lease = b.lease
            assert lease is not None
            assert lease["metadata"]["labels"] == {"headgate.dev/member": "true"}
            assert lease["spec"]["holderIdentity"] == "b"
            before = a.members.quiet_since()
            await b.stop()
            assert b.lease is None
            await it.until(lambda: a.sees == "a")
            assert a.members.doubtful() == ()
            assert before < a.members.quiet_since() <= time.monotonic()

    on_cluster(test)


def test_a_member_that_dies_is_missed_and_swept_away_later(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            await b.kill()
            assert a.sees == "ab"
            assert await it.until(lambda: a.sees == "a") < 3
            assert [one.identity for one in a.members.doubtful()] == ["b"]
            sweeping = asyncio.create_task(a.members.sweep(Term(1, "a", lambda: True)))
            assert b.lease is not None
            await it.until(lambda: b.lease is None)
            assert a.lease is not None
            sweeping.cancel()

    on_cluster(test)


def test_who_leads_no_longer_sweeps_nothing(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            await b.kill()
            sweeping = asyncio.create_task(a.members.sweep(Term(1, "a", lambda: False)))
            await it.until(lambda: a.members._roster.stale(QUICK.remove + 0.2))
            assert b.lease is not None
            sweeping.cancel()

    on_cluster(test)


def test_an_outage_of_the_api_server_kills_nobody(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            quiet = a.members.quiet_since()
            await it.api.stop()
            away = time.monotonic()
            await it.until(lambda: time.monotonic() > away + 1.5 * QUICK.duration)
            assert a.members.trouble is not None
            assert a.sees == b.sees == "ab"
            await it.api.start()
            await it.until(lambda: a.members.trouble is None and b.members.trouble is None)
            back = time.monotonic()
            await it.until(lambda: time.monotonic() > back + 0.3)
            assert a.sees == b.sees == "ab"
            assert a.members.quiet_since() == quiet

    on_cluster(test)


def test_a_watch_that_has_gone_silent_kills_nobody(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            it.api.faults.silent = True
            begun = time.monotonic()
            await it.until(lambda: time.monotonic() > begun + 1.5 * QUICK.duration)
            assert a.sees == b.sees == "ab"

    on_cluster(test)


def test_a_lease_that_somebody_deletes_comes_back(on_cluster):
    async def test(it: Any) -> None:
        async with replicas(it, "ab") as (a, b):
            it.api.delete("coordination.k8s.io/v1", "Lease", "headgate-member-b", "default")
            await it.until(lambda: b.lease is not None and a.sees == "ab")

    on_cluster(test)


def test_an_identity_makes_a_name_that_kubernetes_takes():
    assert lease_name("Node.example_1A2b") == "headgate-member-node-example-1a2b"
    assert len(lease_name("x" * 400)) == 253
