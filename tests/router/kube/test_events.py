"""Events against an API server: told once, counted afterwards, never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.kube.elector import Term
from router.kube.events import Events, Subject

WISDOM = Subject("headgate.dev/v1alpha1", "ModelRollout", "default", "wisdom", "uid-1")


@contextlib.asynccontextmanager
async def leading(cluster: Any, valid: bool = True, **options: Any) -> AsyncIterator[Events]:
    events = Events(cluster.client, "replica-1", **options)
    task = asyncio.create_task(events.run(Term(1, "replica-1", lambda: valid)))
    await asyncio.sleep(0)
    try:
        yield events
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def listed(cluster: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await cluster.client.get("/api/v1/namespaces/default/events"))["items"]
    return sorted(found, key=lambda one: str(one["message"]))


async def written(cluster: Any, events: Events, number: int) -> list[dict[str, Any]]:
    await cluster.until(lambda: events.counters.written >= number and not events.counters.waiting)
    return await listed(cluster)


def test_kubectl_describe_finds_it(on_cluster):
    async def body(cluster):
        async with leading(cluster) as events:
            events.tell(WISDOM, "Ready", "v0 is ready")
            [event] = await written(cluster, events, 1)
        assert event["involvedObject"] == {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "namespace": "default",
            "name": "wisdom",
            "uid": "uid-1",
        }
        assert (event["type"], event["reason"], event["message"]) == ("Normal", "Ready", "v0 is ready")
        assert (event["count"], event["source"]["component"]) == (1, "headgate")

    on_cluster(body)


def test_the_same_again_is_counted(on_cluster, monkeypatch):
    monkeypatch.setattr("router.kube.events._GAP", 0.02)

    async def body(cluster):
        async with leading(cluster) as events:
            events.tell(WISDOM, "Flapping", "v1", warning=True)
            await written(cluster, events, 1)
            for _ in range(4):
                events.tell(WISDOM, "Flapping", "v1", warning=True)
            [event] = await written(cluster, events, 2)
        assert (event["count"], event["type"]) == (5, "Warning")
        assert sum(one.method == "PATCH" for one in cluster.api.requests) == 1, "four more in one write"

    on_cluster(body)


def test_one_that_the_server_forgot_is_made_anew(on_cluster, monkeypatch):
    monkeypatch.setattr("router.kube.events._GAP", 0.01)

    async def body(cluster):
        async with leading(cluster) as events:
            events.tell(WISDOM, "Ready", "yes")
            [event] = await written(cluster, events, 1)
            cluster.api.delete("v1", "Event", event["metadata"]["name"], "default")
            events.tell(WISDOM, "Ready", "yes")
            [event] = await written(cluster, events, 2)
        assert event["count"] == 2

    on_cluster(body)


def test_an_object_with_too_much_to_tell_is_cut_short_and_others_are_not(on_cluster):
    async def body(cluster):
        now = 1000.0
        other = Subject("v1", "ConfigMap", "default", "routes")
        async with leading(cluster, a_minute=3, clock=lambda: now) as events:
            for number in range(10):
                events.tell(WISDOM, "Odd", f"{number}")
            events.tell(other, "Odd", "other")
            assert [one["message"] for one in await written(cluster, events, 4)] == ["0", "1", "2", "other"]
            assert events.counters.suppressed == 7
            now += 21
            events.tell(WISDOM, "Odd", "later")
            events.tell(WISDOM, "Odd", "too soon")
            await written(cluster, events, 5)
            assert events.counters.suppressed == 8

    on_cluster(body)


def test_a_lost_answer_makes_no_second_event(on_cluster):
    async def body(cluster):
        cluster.api.faults.lost_answers = 1
        async with leading(cluster) as events:
            events.tell(WISDOM, "Ready", "yes")
            [event] = await written(cluster, events, 1)
        assert event["count"] == 1
        assert events.counters.failed == 0

    on_cluster(body)


def test_trouble_is_logged_once_and_harms_nobody(on_cluster, caplog):
    async def body(cluster):
        cluster.api.faults.answer(403, 1000)
        with caplog.at_level(logging.WARNING, "router.kube.events"):
            async with leading(cluster) as events:
                for number in range(5):
                    events.tell(WISDOM, "Odd", f"{number}")
                await cluster.until(lambda: events.counters.failed == 5)
        assert len([one for one in caplog.records if one.name == "router.kube.events"]) == 1

    on_cluster(body)


@pytest.mark.parametrize("valid", [True, False])
def test_only_who_leads_writes(on_cluster, valid):
    async def body(cluster):
        idle = Events(cluster.client, "replica-2")
        idle.tell(WISDOM, "Ready", "not ours to tell")
        assert idle.counters.waiting == 0
        async with leading(cluster, valid) as events:
            events.tell(WISDOM, "Ready", "yes")
            await cluster.until(lambda: not events.counters.waiting)
        assert len(await listed(cluster)) == int(valid)

    on_cluster(body)
