"""Statuses as they arrive at an API server that conflicts, loses answers and changes its leader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from replica_double import READY, REFUSED, Envoys, OneReplica, rollout

from router.cluster.status import condition
from router.kube.elector import Term
from router.kube.events import Events
from router.kube.reflector import Reflector
from router.kube.road import Road
from router.kube.states import States
from router.kube.status_writer import StatusWriter

CRD = yaml.safe_load((Path(__file__).parents[3] / "deploy/crds/modelrollouts.headgate.dev.yaml").read_text())
ROLLOUTS = "/apis/headgate.dev/v1alpha1/modelrollouts"
WISDOM = "default/wisdom"
KIND = ("headgate.dev/v1alpha1", "ModelRollout")


class Watched:
    """A View of ModelRollouts alone. It can be held back, as by a watch that lags."""

    def __init__(self, changed: Callable[[str, Mapping[str, Any] | None], None]) -> None:
        self.changed = changed
        self.objects: dict[str, Mapping[str, Any]] = {}
        self.followers: list[Callable[[str], None]] = []
        self.held_back: list[tuple[str, Any]] | None = None
        self.routemaps: dict[str, Mapping[str, Any]] = {}

    def heard(self, model: str, raw: Any) -> None:
        if self.held_back is not None:
            self.held_back.append((model, raw))
            return
        if raw is None:
            self.objects.pop(model, None)
        else:
            self.objects[model] = raw
        self.changed(model, raw)
        for follower in self.followers:
            follower(model)

    def go_on(self) -> None:
        late, self.held_back = self.held_back or [], None
        for one in late:
            self.heard(*one)

    def rollout(self, model: str) -> Mapping[str, Any] | None:
        return self.objects.get(model)

    def follow_rollouts(self, changed: Callable[[str], None]) -> None:
        self.followers.append(changed)
        for model in list(self.objects):
            changed(model)

    def routemap(self, model: str) -> Mapping[str, Any] | None:
        return self.routemaps.get(model)

    def unasked(self, *_: Any) -> Any:
        raise NotImplementedError

    resource = resources = users = references = follow_resources = unasked


class Plane:
    """One replica as it follows the cluster, with its Envoys and its writer."""

    def __init__(self, cluster: Any, name: str = "us", **options: Any) -> None:
        self.cluster = cluster
        self.states = States()
        self.replica = OneReplica(self.states)
        self.envoys = Envoys(self.replica, name)
        self.sites: dict[str, Any] = {}
        self.view = Watched(self.changed)
        self.events = Events(cluster.client, name)
        self.writer = StatusWriter(
            cluster.client,
            self.view,
            self.envoys,
            identity=name,
            model=self.replica.status,
            problems=self.replica.problems,
            states=self.states,
            events=self.events,
            road=Road(),
            **{"pulse": 0.02, **options},
        )
        self.states.changed = self.writer.mark
        self.replica.engine.follow(self.writer.mark)
        self.reflector = Reflector(cluster.client, ROLLOUTS, self.view.heard, keep=lambda raw: raw)
        self.valid = True
        self.name = name

    def changed(self, model: str, raw: Mapping[str, Any] | None) -> None:
        if raw is None:
            self.replica.drop(model)
            return
        if self.states.adopt(model, raw.get("status")):
            self.replica.store.mark(model)
        self.replica.put(raw, **self.sites)

    def set_sites(self, **sites: Any) -> None:
        self.sites = sites
        for model, raw in self.view.objects.items():
            self.changed(model, raw)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[Plane]:
        async with running(self.reflector.run()):
            await self.reflector.synced.wait()
            yield self

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[Plane]:
        term = Term(1, self.name, lambda: self.valid)
        async with self.following(), running(self.events.run(term)), running(self.writer.run(term)):
            yield self

    async def until(self, true: Callable[[dict[str, Any]], object], name: str = "wisdom") -> dict[str, Any]:
        await self.cluster.until(lambda: true(status(self.cluster, name)))
        return status(self.cluster, name)

    async def quiet(self) -> None:
        await self.cluster.until(lambda: not self.writer.counters.queue.depth)


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def status(cluster: Any, name: str = "wisdom") -> dict[str, Any]:
    found: dict[str, Any] = cluster.api.get(*KIND, name, "default").get("status", {})
    return found


def programmed(found: Mapping[str, Any]) -> bool:
    return condition(found, "Programmed").get("status") == "True"


def with_rollouts(cluster: Any, *objects: dict[str, Any]) -> None:
    cluster.api.create(CRD)
    for one in objects or (rollout(),):
        cluster.api.create(one)


def edit(cluster: Any, name: str = "wisdom", **spec: Any) -> None:
    cluster.api.apply({**rollout(name), "spec": spec})


def writes(cluster: Any) -> int:
    return sum(one.method == "PATCH" and one.path.endswith("/status") for one in cluster.api.requests)


def test_wait_for_programmed_ends_only_when_every_envoy_has_it(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a", "b")
        seen: list[str] = []

        def heard(model: str, raw: Any) -> None:
            seen.append(condition((raw or {}).get("status", {}), "Programmed").get("status", "none"))

        waiting = Reflector(cluster.client, ROLLOUTS, heard, keep=lambda raw: raw)
        async with running(waiting.run()), plane.leading():
            await plane.until(lambda found: found.get("envoys") == "0/2")
            plane.envoys.ack("a")
            await plane.until(lambda found: found["envoys"] == "1/2")
            assert set(seen) == {"none", "False"}
            plane.envoys.ack("b")
            found = await plane.until(programmed)
            await cluster.until(lambda: seen[-1] == "True")
        assert found["observedGeneration"] == 1
        assert [one["type"] for one in found["conditions"]] == ["Accepted", "Ready", "Programmed", "Degraded"]

    on_cluster(body)


def test_a_change_takes_it_back_until_the_envoys_have_that_too(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            plane.envoys.prompt = False
            versions = [{"name": one, "weight": 1, "resources": [f"isvc/{one}"]} for one in ("v0", "v1", "v2")]
            edit(cluster, versions=versions)
            found = await plane.until(lambda found: found["observedGeneration"] == 2)
            assert not programmed(found)
            assert found["history"][-1]["what"] == (
                "version v2 added with weight 1; weight v0 50 -> 1; weight v1 50 -> 1"
            )
            plane.envoys.ack()
            await plane.until(programmed)

    on_cluster(body)


def test_once_programmed_nobody_is_asked_and_nothing_is_written(on_cluster):
    async def body(cluster):
        with_rollouts(cluster, *(rollout(f"m{number}") for number in range(20)))
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            for number in range(20):
                await plane.until(programmed, f"m{number}")
            await plane.quiet()
            before, asked = writes(cluster), len(plane.envoys.asked)
            pulses = asked + 5
            await cluster.until(lambda: len(plane.envoys.asked) > pulses)
            assert writes(cluster) == before
            assert not any(plane.envoys.asked[asked:]), "only how many Envoys there are"
            assert plane.writer.counters.unsettled == 0

    on_cluster(body)


def test_an_envoy_that_comes_is_counted_lazily(on_cluster):
    async def body(cluster):
        with_rollouts(cluster, *(rollout(f"m{number}") for number in range(12)))
        plane = Plane(cluster, lazy=50.0)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            for number in range(12):
                await plane.until(lambda found: found.get("envoys") == "1/1" and programmed(found), f"m{number}")
            await plane.quiet()
            before = writes(cluster)
            plane.envoys.join("b")
            took = await cluster.until(
                lambda: all(status(cluster, f"m{number}")["envoys"] == "2/2" for number in range(12))
            )
            assert writes(cluster) - before == 12, "one each"
            assert took > 10 / 50, "not all at once"

    on_cluster(body)


def test_envoys_that_are_back_in_a_moment_are_not_written_about(on_cluster):
    async def body(cluster):
        with_rollouts(cluster, rollout())
        plane = Plane(cluster, patience=60.0)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            await plane.quiet()
            before, written = status(cluster), writes(cluster)
            plane.envoys.prompt = False
            for nodes in ({}, {"a": {}}):  # gone, and connected again without anything
                plane.envoys.nodes["us"] = nodes
                asked = len(plane.envoys.asked)
                plane.writer.mark(WISDOM)
                await cluster.until(lambda asked=asked: len(plane.envoys.asked) > asked + 3)
            plane.envoys.ack()
            await plane.quiet()
            assert status(cluster) == before
            assert writes(cluster) == written

    on_cluster(body)


def test_envoys_that_stay_away_are_written_about(on_cluster):
    async def body(cluster):
        with_rollouts(cluster, rollout())
        plane = Plane(cluster, patience=0.3)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            plane.envoys.nodes["us"] = {}
            found = await plane.until(lambda found: found["envoys"] == "0/0")
            assert condition(found, "Programmed")["reason"] == "NoEnvoys"

    on_cluster(body)


def test_a_storm_of_conflicts_passes(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        cluster.api.faults.conflict(4)
        async with plane.leading():
            await plane.until(programmed)
            assert plane.writer.counters.conflicts >= 3

    on_cluster(body)


def test_somebody_who_writes_all_the_time_is_overtaken_without_waiting(on_cluster):
    """Every write of a status meets a newer object, several times in a row; none waits for longer each time."""

    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        rivals = iter(range(4))

        def rival(asked) -> bool:
            if (
                asked.method == "PATCH"
                and asked.path.endswith("/status")
                and (number := next(rivals, None)) is not None
            ):
                meta = {**rollout()["metadata"], "annotations": {"rival": str(number)}}
                cluster.api.apply({**rollout(), "metadata": meta})
            return False

        cluster.api.faults.answer(500, 1, matches=rival)
        async with plane.leading():
            await plane.until(programmed)
            counters = plane.writer.counters
            assert (counters.conflicts, counters.queue.retries) == (4, 0)

    on_cluster(body)


def test_a_watch_that_lags_does_not_keep_it_from_writing(on_cluster):
    """The view shows an old object; after a conflict the writer reads the object itself, and its own answers count."""

    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a", "b")
        async with plane.leading():
            await plane.until(lambda found: found.get("envoys") == "0/2")
            plane.view.held_back = []
            cluster.api.apply({**rollout(), "metadata": {**rollout()["metadata"], "labels": {"a": "b"}}})
            plane.envoys.ack("a")
            await plane.until(lambda found: found["envoys"] == "1/2")
            plane.envoys.ack("b")
            await plane.until(programmed)
            conflicts = plane.writer.counters.conflicts
            assert conflicts == 1, "its own answers were used afterwards"
            plane.view.go_on()
            plane.set_sites(v1=REFUSED)
            plane.envoys.ack()
            await plane.until(lambda found: found["traffic"] == "v0 100 %" and programmed(found))

    on_cluster(body)


def test_lost_answers_lose_nothing_and_double_nothing(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        cluster.api.faults.lost_answers = 2
        async with plane.leading():
            found = await plane.until(programmed)
        assert [one["what"] for one in found["history"]] == ["created"]

    on_cluster(body)


def test_somebody_elses_edit_of_the_status_is_put_right(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            cluster.api.apply({**rollout(), "status": {"traffic": "v9 100 %"}})
            await plane.until(lambda found: found["traffic"] == "v0 50 %, v1 50 %")

    on_cluster(body)


def test_who_leads_no_longer_writes_nothing(on_cluster):
    """The term ends while the replicas are being asked: what was about to be written is not."""

    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        asking, go_on = asyncio.Event(), asyncio.Event()
        ask = plane.envoys.ask

        async def slow(models: Iterable[str], clusters: Iterable[str]) -> Any:
            if models:
                asking.set()
                await go_on.wait()
            return await ask(models, clusters)  # type: ignore[arg-type]

        plane.envoys.ask = slow  # type: ignore[method-assign]
        async with plane.leading():
            await asking.wait()
            plane.valid = False
            go_on.set()
            await cluster.until(lambda: plane.writer.counters.queue.done)
        assert writes(cluster) == 0
        assert status(cluster) == {}

    on_cluster(body)


def test_a_write_cut_off_by_the_end_of_a_term_is_made_good_by_the_next_leader(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        first, second = Plane(cluster, "first"), Plane(cluster, "second")
        for plane in (first, second):
            plane.envoys.join("a")
            plane.envoys.prompt = True
        cluster.api.faults.delay(0.2, matches=lambda asked: asked.method == "PATCH")
        async with second.following():
            async with first.leading():
                await cluster.until(lambda: writes(cluster))
            cluster.api.faults.clear()
            assert not second.writer.counters.queue.depth, "a follower does nothing"
            async with running(second.writer.run(Term(2, "second", lambda: True))):
                found = await second.until(programmed)
        assert [one["what"] for one in found["history"]] == ["created"]

    on_cluster(body)


def test_the_state_survives_a_restart_and_followers_take_it_over(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        names = ("v0", "v1", "v2")
        versions = [{"name": one, "weight": 1, "resources": [f"isvc/{one}"]} for one in names]
        first, follower = Plane(cluster, "first"), Plane(cluster, "follower")
        first.envoys.join("a")
        first.envoys.prompt = True
        async with follower.following():
            async with first.leading():
                edit(cluster, versions=versions)
                await first.until(lambda found: found.get("state") == {"slots": {"v1": 0, "v2": 1}})
                edit(cluster, versions=[versions[0], versions[2]])
                found = await first.until(lambda found: found["state"] == {"slots": {"v2": 1}})
                assert found["observedGeneration"] == 3
            await cluster.until(lambda: follower.replica.version(WISDOM) == first.replica.version(WISDOM))
        restarted = Plane(cluster, "restarted")
        async with restarted.following():
            assert restarted.states.get(WISDOM) == first.states.get(WISDOM)
            assert restarted.replica.version(WISDOM) == first.replica.version(WISDOM)

    on_cluster(body)


def test_a_rollout_that_goes_is_forgotten(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        async with plane.leading():
            await plane.until(lambda found: found)
            cluster.api.delete(*KIND, "wisdom", "default")
            await cluster.until(lambda: not plane.view.objects)
            plane.writer.mark(WISDOM, urgent=True)
            assert not plane.writer.counters.queue.depth

    on_cluster(body)


def test_one_that_is_gone_at_the_server_is_dropped_without_a_word(on_cluster, caplog):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        async with plane.leading():
            await plane.until(lambda found: found)
            plane.view.held_back = []
            cluster.api.delete(*KIND, "wisdom", "default")
            plane.envoys.join("a")
            await cluster.until(lambda: writes(cluster) == 2 and not plane.writer.counters.queue.depth)
        assert not [one for one in caplog.records if one.name == "router.kube.status_writer"]

    on_cluster(body)


def test_an_outage_is_waited_for_and_told_once(on_cluster, caplog):
    async def body(cluster):
        with_rollouts(cluster, *(rollout(f"m{number}") for number in range(30)))
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.following():
            cluster.api.faults.answer(503, 10_000, matches=lambda asked: asked.method == "PATCH")
            async with running(plane.writer.run(Term(1, "us", lambda: True))):
                await cluster.until(lambda: plane.writer.counters.failures >= 3)
                tried = writes(cluster)
                cluster.api.faults.clear()
                for number in range(30):
                    await plane.until(programmed, f"m{number}")
        assert tried < 15, "one tries for all"
        assert len([one for one in caplog.records if one.name == "router.kube.status_writer"]) == 1

    on_cluster(body)


def test_what_cannot_be_read_is_told_in_the_status(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            versions = [{"name": "v0", "resources": ["isvc/v0"], "match": [{"path": {"regex": "("}}]}]
            edit(cluster, versions=versions)
            found = await plane.until(lambda found: found["observedGeneration"] == 2)
            assert condition(found, "Accepted")["status"] == "False"
            assert "regex" in condition(found, "Accepted")["message"]
            assert not programmed(found)

    on_cluster(body)


def test_changes_of_state_become_events(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(programmed)
            plane.set_sites(v0=READY, v1=REFUSED)
            await plane.until(lambda found: found["traffic"] == "v0 100 %")
            await cluster.until(lambda: plane.events.counters.written >= 3)
        found = (await cluster.client.get("/api/v1/namespaces/default/events"))["items"]
        told = {(one["reason"], one["type"]) for one in found}
        assert {("Programmed", "Normal"), ("VersionNotReady", "Warning"), ("TrafficMoved", "Normal")} <= told
        assert all(one["involvedObject"]["uid"] for one in found)

    on_cluster(body)


@pytest.mark.parametrize("unreachable", [("them",)])
def test_a_replica_that_is_silent_does_not_make_everything_be_asked_again(on_cluster, unreachable):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster, patience=0.2)
        plane.envoys.join("a")
        other = OneReplica()
        other.put(rollout())
        plane.envoys.join("b", identity="them", replica=other)
        plane.envoys.prompt = True
        async with plane.leading():
            await plane.until(lambda found: programmed(found) and found["envoys"] == "2/2")
            await plane.quiet()
            before, asked = writes(cluster), len(plane.envoys.asked)
            plane.envoys.unreachable = unreachable
            del plane.envoys.replicas["them"], plane.envoys.nodes["them"]
            await cluster.until(lambda: len(plane.envoys.asked) > asked + 5)
            assert writes(cluster) == before
            plane.envoys.unreachable = ()
            await plane.until(lambda found: found["envoys"] == "1/1")

    on_cluster(body)


def test_what_changed_while_the_replicas_were_asked_is_not_written_as_it_was(on_cluster):
    async def body(cluster):
        with_rollouts(cluster)
        plane = Plane(cluster)
        plane.envoys.join("a")
        asking, go_on = asyncio.Event(), asyncio.Event()
        ask = plane.envoys.ask

        async def slow(models: Iterable[str], clusters: Iterable[str]) -> Any:
            answer = await ask(models, clusters)  # type: ignore[arg-type]
            if models:
                asking.set()
                await go_on.wait()
            return answer

        plane.envoys.ask = slow  # type: ignore[method-assign]
        plane.envoys.prompt = True
        seen: list[str] = []

        def heard(model: str, raw: Any) -> None:
            seen.append((raw or {}).get("status", {}).get("traffic", "none"))

        waiting = Reflector(cluster.client, ROLLOUTS, heard, keep=lambda raw: raw)
        async with running(waiting.run()), plane.leading():
            await asking.wait()
            plane.set_sites(v1=REFUSED)
            go_on.set()
            await plane.until(programmed)
            await cluster.until(lambda: seen[-1] != "none")
        assert set(seen) == {"none", "v0 100 %"}

    on_cluster(body)


def test_a_new_leader_with_a_watch_that_lags_keeps_the_state_that_the_last_one_wrote(on_cluster):
    async def body(cluster):
        with_rollouts(cluster, rollout(status=None))
        cluster.api.apply({**rollout(), "status": {"state": {"slots": {"v1": 0}}}})
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        async with plane.following():
            assert plane.states.get(WISDOM) is not None
            plane.view.held_back = []
            cluster.api.apply({**rollout(), "status": {"state": {"slots": {"v1": 3}}}})
            async with running(plane.writer.run(Term(2, "us", lambda: True))):
                found = await plane.until(programmed)
        assert plane.writer.counters.conflicts == 1
        assert found["state"] == {"slots": {"v1": 3}}

    on_cluster(body)


def test_a_routemap_has_events_and_no_status(on_cluster):
    async def body(cluster):
        cluster.api.create(CRD)
        plane = Plane(cluster)
        plane.envoys.join("a")
        plane.envoys.prompt = True
        model = "default/old"
        plane.view.routemaps[model] = {"metadata": {"namespace": "default", "name": "old-routemap", "uid": "7"}}
        plane.replica.put(rollout("old", generation=0))
        async with plane.leading():
            await cluster.until(lambda: plane.writer.counters.queue.done)
            assert plane.events.counters.waiting == 0, "that it is there is no news"
            plane.replica.put(rollout("old", generation=0), v1=REFUSED)
            await cluster.until(lambda: plane.events.counters.written == 2)
            found = (await cluster.client.get("/api/v1/namespaces/default/events"))["items"]
            assert {one["reason"] for one in found} == {"VersionNotReady", "TrafficMoved"}
            assert found[0]["involvedObject"] == {
                "apiVersion": "v1", "kind": "ConfigMap", "namespace": "default", "name": "old-routemap", "uid": "7",
            }  # fmt: skip
            assert writes(cluster) == 0
            del plane.view.routemaps[model]
            plane.replica.drop(model)
            await cluster.until(lambda: not plane.writer._routemaps)
            assert model not in plane.writer._known

    on_cluster(body)
