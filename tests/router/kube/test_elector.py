"""Leading by Lease against an API server that lies, hangs and goes away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.kube.election import Timing
from router.kube.elector import Elector, Term

LEASE = ("coordination.k8s.io/v1", "Lease", "headgate", "default")
QUICK = Timing(duration=3.0, deadline=0.35, renew=0.05, poll=0.05)


class Replica:
    """An elector and what its work saw."""

    def __init__(self, cluster: Any, name: str, ending: float = 0.0, timing: Timing = QUICK) -> None:
        self.terms: list[Term] = []
        self.working = False
        self.ending = ending
        self.elector = Elector(cluster.client, "default", "headgate", self.lead, identity=name, timing=timing)
        self.task = asyncio.create_task(self.elector.run())

    async def lead(self, term: Term) -> None:
        self.terms.append(term)
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self.ending)
            self.working = False

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def kill(self) -> None:
        """As by kill -9: nothing is given up."""
        self.elector._release = nothing  # type: ignore[method-assign]
        await self.stop()


async def nothing() -> None:
    pass


@contextlib.asynccontextmanager
async def replicas(cluster: Any, *names: str, **options: Any) -> AsyncIterator[list[Replica]]:
    """The first leads, the others have seen it."""
    made = [Replica(cluster, names[0], **options)]
    await cluster.until(lambda: made[0].working)
    made += [Replica(cluster, name, **options) for name in names[1:]]
    await cluster.until(lambda: all(one.elector.holder == names[0] for one in made))
    try:
        yield made
    finally:
        for one in made:
            await one.stop()


def spec(cluster: Any) -> dict[str, Any]:
    return cluster.api.get(*LEASE)["spec"]


def test_one_leads_and_the_lease_says_so(on_any_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one", "two") as (one, two):
            assert (one.elector.leading, two.elector.leading, two.working) == (True, False, False)
            first = spec(cluster)
            assert (first["holderIdentity"], first["leaseTransitions"]) == ("one", 0)
            assert first["renewTime"].endswith("Z")
            await cluster.until(lambda: spec(cluster)["renewTime"] > first["renewTime"])
            assert spec(cluster)["acquireTime"] == first["acquireTime"]

    on_any_cluster(test)


def test_a_shutdown_hands_over_at_once_after_the_work_has_ended(on_any_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one", "two", timing=Timing(), ending=0.2) as (one, two):
            stopping = asyncio.create_task(one.stop())
            took = await cluster.until(lambda: two.working)
            assert took < 2.0
            assert not one.working
            assert [term.number for term in one.terms + two.terms] == [0, 1]
            assert not one.terms[0].valid()
            await stopping

    on_any_cluster(test)


def test_who_is_killed_is_followed_after_the_lease_has_run_out(on_any_cluster):
    async def test(cluster: Any) -> None:
        timing = Timing(duration=1.0, deadline=0.35, renew=0.05, poll=0.05)
        async with replicas(cluster, "one", "two", timing=timing) as (one, two):
            await one.kill()
            assert 0.7 < await cluster.until(lambda: two.working) < 2.0

    on_any_cluster(test)


@pytest.mark.parametrize("how", ["refused", "conflicts", "hanging", "forbidden"])
def test_who_cannot_renew_ends_its_work_in_time_and_leads_again_afterwards(on_cluster, how):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one") as (one,):
            begun = time.monotonic()
            if how == "refused":
                await cluster.api.stop()
            elif how == "conflicts":
                cluster.api.faults.conflict(10_000)
            elif how == "hanging":
                cluster.api.faults.delay(60.0)
            else:
                cluster.api.faults.answer(403, 10_000)
            await cluster.until(lambda: not one.working)
            assert QUICK.deadline - QUICK.renew - 0.1 < time.monotonic() - begun < QUICK.deadline + 0.3
            assert not one.terms[0].valid()
            assert one.elector.holder == "", "it may be somebody else by now"
            assert (one.elector.trouble is None) == (how == "conflicts")
            cluster.api.faults.clear()
            if how == "refused":
                await cluster.api.start()
            await cluster.until(lambda: one.working)
            assert one.terms[1].number == 1

    on_cluster(test)


def test_a_process_that_was_stopped_knows_at_once_that_its_term_is_over(on_cluster):
    """As by SIGSTOP or a hypervisor: for this process no time has passed, for the others all of it."""

    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one") as (one,):
            assert one.terms[0].valid()
            one.elector._clock = lambda: time.monotonic() + 60.0
            assert not one.terms[0].valid()
            await cluster.until(lambda: len(one.terms) == 2)
            assert [term.valid() for term in one.terms] == [False, True]

    on_cluster(test)


def test_a_slow_poll_does_not_delay_the_end_of_a_term(on_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one", timing=Timing(duration=3.0, deadline=0.3, renew=0.1, poll=2.0)) as (one,):
            await cluster.api.stop()
            assert await cluster.until(lambda: not one.working) < 0.6

    on_cluster(test)


def test_a_few_conflicts_and_lost_answers_end_no_term(on_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one") as (one,):
            cluster.api.faults.conflict(3)
            before = spec(cluster)["renewTime"]
            await cluster.until(lambda: spec(cluster)["renewTime"] > before)
            cluster.api.faults.lost_answers = 2
            await cluster.until(lambda: not cluster.api.faults.lost_answers)
            before = spec(cluster)["renewTime"]
            await cluster.until(lambda: spec(cluster)["renewTime"] > before)
            assert len(one.terms) == 1
            assert one.working

    on_cluster(test)


def test_a_lease_taken_by_hand_ends_the_work(on_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one") as (one,):
            lease = cluster.api.get(*LEASE)
            cluster.api.apply({**lease, "metadata": {"name": "headgate", "namespace": "default"},
                               "spec": {"holderIdentity": "somebody"}})  # fmt: skip
            await cluster.until(lambda: not one.working)
            assert one.elector.holder == "somebody"

    on_cluster(test)


def test_a_lease_deleted_by_hand_is_written_anew_and_no_other_leads(on_cluster):
    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one", "two") as (one, two):
            cluster.api.delete(*LEASE)
            await cluster.until(lambda: "Lease" in str(lease_or_none(cluster)))
            await cluster.until(lambda: spec(cluster)["holderIdentity"] == "one")
            assert (len(one.terms), one.working, two.terms) == (1, True, [])

    on_cluster(test)


def lease_or_none(cluster: Any) -> Any:
    from kubedouble import ApiError

    try:
        return cluster.api.get(*LEASE)
    except ApiError:
        return None


def test_work_that_fails_gives_the_lease_up_and_is_heard_of(on_cluster):
    async def test(cluster: Any) -> None:
        async def lead(term: Term) -> None:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            await Elector(cluster.client, "default", "headgate", lead, timing=QUICK).run()
        assert spec(cluster)["holderIdentity"] == ""

    on_cluster(test)


def test_work_that_ends_resigns(on_cluster):
    async def test(cluster: Any) -> None:
        async def lead(term: Term) -> None:
            assert term.valid()

        await Elector(cluster.client, "default", "headgate", lead, timing=QUICK).run()
        assert spec(cluster)["holderIdentity"] == ""

    on_cluster(test)


def test_a_shutdown_without_an_api_server_is_quick(on_cluster, monkeypatch):
    monkeypatch.setattr("router.kube.elector._RELEASE", 0.3)

    async def test(cluster: Any) -> None:
        async with replicas(cluster, "one") as (one,):
            cluster.api.faults.delay(60.0)
            begun = time.monotonic()
            await one.stop()
            assert time.monotonic() - begun < 0.8
            assert not one.working
            cluster.api.faults.clear()

    on_cluster(test)
