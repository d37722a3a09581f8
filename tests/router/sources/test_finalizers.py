"""Resources are kept while requests need them, let go when none does, and never for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubedouble.errors import ApiError

from router.cluster.drain import FINALIZER, HOLD
from router.cluster.resource import BUILT_IN, Reference
from router.kube.elector import Term
from router.kube.events import Subject
from router.kube.finalizer_patch import put_on, take_off
from router.kube.finalizers import Finalizers, Pace
from router.replica import Load, Progress, Report, Reports

IRIS = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {name: iris, namespace: default}
spec:
  hosts: [iris.test]
  strategy: blue-green
  versions:
  - {name: v1, resources: [deploy/v1]}
  - {name: v2, resources: [deploy/v2]}
"""
MODEL = "default/iris"


class Clock:
    """Runs on its own, as fast as the test, and can be put forward."""

    def __init__(self) -> None:
        self.ahead = 100.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Envoys:
    """What all replicas say: routes as this engine plans them, requests and laggards as the test likes."""

    scene: Any
    requests: dict[str, int] = field(default_factory=dict)
    lagging: dict[str, str] = field(default_factory=dict)
    unreachable: tuple[str, ...] = ()
    questions: int = 0

    async def ask(self, models: Collection[str], clusters: Collection[str]) -> Reports:
        self.questions += 1
        found, held, routed = {}, set(), set()
        for model in models:
            plan = self.scene.sink.plans.get(model)
            if plan is not None:
                found[model] = Progress("p", plan.gateway, frozenset({"envoy-1"}), self.lagging)
                held |= {one.name for one in plan.backends} & set(clusters)
                routed |= {one.backend for route in plan.routes for one in (*route.targets, *route.mirrors)}
        loads = {name: {"envoy-1": Load(self.requests.get(name, 0), 0.0)} for name in held}
        return Reports(
            (Report("a", 100.0, {}, found, loads, frozenset({"envoy-1"}), frozenset(routed & set(clusters))),),
            self.unreachable,
        )


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def tell(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append((subject.name, "Warning" if warning else reason, message))


class Leader:
    """One replica's Finalizers, in a term that lasts until the test ends it."""

    def __init__(self, scene: Any, **options: Any) -> None:
        self.scene, self.clock, self.told = scene, options.pop("clock", Clock()), Told()
        self.envoys = options.pop("envoys", None) or Envoys(scene)
        self.valid = True
        self.finalizers = Finalizers(
            scene.source._rollouts._client,
            scene.source,
            scene.engine,
            self.envoys,
            self.told,
            pace=Pace(first=0.01, most=0.05),
            clock=self.clock,
            **options,
        )

    @contextlib.asynccontextmanager
    async def leading(self, *, hold: bool = False) -> AsyncIterator[Leader]:
        self.valid = True
        task = asyncio.create_task(self.finalizers.run(Term(1, "a", lambda: self.valid)))
        await asyncio.sleep(0)
        if not hold:
            self.clock.ahead += HOLD + 1
        try:
            yield self
        finally:
            self.valid = False
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def meta(self, name: str, kind: str = "Deployment") -> dict[str, Any] | None:
        try:
            return self.scene.api.get("v1" if kind == "Service" else "apps/v1", kind, name, "default")["metadata"]
        except ApiError:
            return None

    def finalizers_of(self, name: str, kind: str = "Deployment") -> list[str]:
        return (self.meta(name, kind) or {}).get("finalizers", [])

    async def protected(self, *names: str) -> None:
        await self.scene.until(lambda: all(FINALIZER in self.finalizers_of(name) for name in names))

    def why(self, name: str) -> str:
        return self.finalizers.draining().get(Reference("deploy", name, "default"), "")

    async def waits(self, name: str, words: str) -> None:
        """Wait until it is said to wait for this."""
        await self.scene.until(lambda: words in self.why(name))

    async def delete(self, name: str) -> None:
        self.scene.api.delete("apps/v1", "Deployment", name, "default")

    async def gone(self, name: str) -> None:
        await self.scene.until(lambda: self.meta(name) is None)

    async def tells(self, name: str, kind: str) -> str:
        """Wait until the newest event is of this kind and about this object, and return its words."""
        await self.scene.until(lambda: self.told.events and self.told.events[-1][:2] == (name, kind))
        return self.told.events[-1][2]


async def serving(it: Any, **options: Any) -> Leader:
    """Two versions, half of the traffic each."""
    it.apply(IRIS)
    it.model("v1", **options)
    it.model("v2", ports=(8002,), **options)
    return Leader(it)


def test_what_versions_consist_of_is_protected_and_nothing_else(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        it.model("stranger")
        it.model("unlabelled", labels=False)
        it.apply(
            IRIS.replace("name: iris,", "name: wine,")
            .replace("iris.test", "w.test")
            .replace("deploy/v1", "deploy/unlabelled")
        )
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            await it.until(lambda: not leader.finalizers._queue.counters.depth)
            assert leader.finalizers_of("stranger") == leader.finalizers_of("unlabelled") == []
            assert leader.finalizers_of("v1", "Service") == [], "named by nobody"

    scene(test)


def test_a_deleted_version_goes_after_its_last_request(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 3
            leader.envoys.lagging = {"envoy-1": "no ACK yet"}
            await leader.delete("v2")
            await leader.waits("v2", "1 of 1 Envoy")
            assert it.weights() == {"v1": 100}
            leader.envoys.lagging = {}
            await leader.waits("v2", "3 requests in progress at v2 of default/iris on envoy-1")
            leader.clock.ahead += 60
            await asyncio.sleep(0)
            await leader.waits("v2", "3 requests in progress")
            assert leader.meta("v2") is not None
            leader.envoys.requests.clear()
            await leader.gone("v2")
            assert leader.told.events[0][:2] == ("v2", "Draining")
            await leader.tells("v2", "Released")
            assert FINALIZER in leader.finalizers_of("v1")
            await it.until(lambda: not leader.finalizers.draining())

    scene(test)


def test_nobody_is_asked_while_nothing_drains(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            assert leader.envoys.questions == 0
            await leader.delete("v2")
            await leader.gone("v2")
            await it.until(lambda: not leader.finalizers.draining())
            asked = leader.envoys.questions
            it.model("stranger")
            it.model("v1", ports=(8009,))
            await it.until(lambda: "8009" in str(it.sink.plans[MODEL].backends))
            assert leader.envoys.questions <= asked + 1

    scene(test)


def test_foreign_finalizers_stay_in_their_order(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        foreign = ["b.example/one", "a.example/two"]
        it.model("v2", ports=(8002,), finalizers=foreign)
        async with it.running(), leader.leading():
            await leader.protected("v2")
            assert leader.finalizers_of("v2") == [*foreign, FINALIZER]
            await leader.delete("v2")
            await it.until(lambda: leader.finalizers_of("v2") == foreign)

    scene(test)


def test_a_leader_that_is_killed_leaves_its_drains_to_the_next(scene):
    async def test(it: Any) -> None:
        first = await serving(it)
        second = Leader(it, envoys=first.envoys)
        async with it.running():
            async with first.leading():
                await first.protected("v1", "v2")
                first.envoys.requests["default/iris/v2"] = 1
                await first.delete("v2")
                await first.waits("v2", "1 request in progress")
            assert not first.finalizers.draining()
            async with second.leading():
                await second.waits("v2", "1 request in progress")
                assert second.meta("v2") is not None
                first.envoys.requests.clear()
                await second.gone("v2")

    scene(test)


def test_a_new_leader_releases_nothing_for_some_seconds(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running():
            async with leader.leading():
                await leader.protected("v1", "v2")
            await leader.delete("v2")
            await it.until(lambda: it.weights() == {"v1": 100})
            async with leader.leading(hold=True):
                await leader.waits("v2", "for a load report")
                leader.clock.ahead += 2
                await leader.waits("v2", "waiting 5 s for Envoys to connect")
                assert leader.meta("v2") is not None
                leader.clock.ahead += HOLD
                await leader.gone("v2")

    scene(test)


def test_nothing_is_written_when_the_term_has_ended(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.valid = False
            writes = [one for one in it.api.requests if one.method == "PATCH"]
            await leader.delete("v2")
            await it.until(lambda: leader.envoys.questions and not leader.finalizers.draining())
            await it.until(lambda: not leader.finalizers._queue.counters.depth)
            assert [one for one in it.api.requests if one.method == "PATCH"] == writes
            assert leader.meta("v2") is not None

    scene(test)


def test_conflicts_are_met_with_what_is_there_now(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        it.api.faults.conflict(12)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            it.api.faults.conflict(12)
            await leader.delete("v2")
            await leader.gone("v2")

    scene(test)


def test_a_drain_survives_an_outage_of_the_api_server(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 1
            await leader.delete("v2")
            await leader.waits("v2", "1 request in progress")
            await it.api.stop()
            leader.envoys.requests.clear()
            await leader.waits("v2", "no request is in progress any more")
            await it.until(lambda: leader.finalizers._queue.counters.retries)
            await it.api.start()
            await it.until(lambda: leader.meta("v2") is None, within=15)

    scene(test)


def test_an_answer_that_is_lost_is_as_good_as_one_that_came(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            it.api.faults.lost_answers = 1
            await leader.delete("v2")
            await leader.gone("v2")
            await it.until(lambda: not leader.finalizers.draining())

    scene(test)


def test_a_release_is_told_though_the_watch_tells_it_before_the_answer(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 1
            await leader.delete("v2")
            await leader.waits("v2", "1 request in progress")
            it.api.faults.late(lambda asked: asked.method == "PATCH")
            leader.envoys.requests.clear()
            await it.until(lambda: it.source.resource(Reference("deploy", "v2", "default")) is None)
            assert leader.told.events[-1][:2] == ("v2", "Draining")
            it.api.faults.clear()
            await leader.tells("v2", "Released")

    scene(test)


def test_taking_the_label_away_lets_go_at_once(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading(hold=True):
            await leader.protected("v1", "v2")
            labels = {"labels": {"headgate.dev/watch": None}}
            it.apply(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "v1", "namespace": "default", **labels},
                }
            )
            await it.until(lambda: leader.finalizers_of("v1") == [])
            leader.envoys.requests["default/iris/v2"] = 1
            await leader.delete("v2")
            await leader.waits("v2", "1 request in progress")
            it.apply(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "v2", "namespace": "default", **labels},
                }
            )
            await leader.gone("v2")

    scene(test)


def test_a_version_that_leaves_the_rollout_lingers_until_its_requests_end(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 1
            it.apply(_without_v2(it))
            await leader.waits("v2", "1 request in progress at v2")
            assert [one.name for one in it.sink.plans[MODEL].backends] == ["default/iris/v1", "default/iris/v2"]
            leader.envoys.requests.clear()
            await it.until(lambda: leader.finalizers_of("v2") == [])
            await it.until(lambda: len(it.sink.plans[MODEL].backends) == 1)
            assert leader.meta("v2") is not None, "nobody deleted it"

    scene(test)


def test_a_rollout_that_is_deleted_lets_go_of_all_when_its_requests_have_ended(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v1"] = 1
            it.api.delete("headgate.dev/v1alpha1", "ModelRollout", "iris", "default")
            await it.until(lambda: leader.finalizers_of("v2") == [])
            await leader.waits("v1", "1 request in progress at v1")
            assert it.sink.plans[MODEL].routes == ()
            leader.envoys.requests.clear()
            await it.until(lambda: leader.finalizers_of("v1") == [])
            await it.until(lambda: it.sink.removed == [MODEL])

    scene(test)


@pytest.mark.parametrize("leaves", ["the rollout", "the version"])
def test_a_protection_that_the_watch_has_yet_to_tell_of_holds_too(scene, leaves: str):
    """Each kind has a watch of its own: that a version goes may be heard before that its Deployment is protected."""

    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            it.api.faults.late(lambda asked: asked.path.endswith("/deployments"))
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 1
            if leaves == "the rollout":
                it.api.delete("headgate.dev/v1alpha1", "ModelRollout", "iris", "default")
                await it.until(lambda: it.source.rollout(MODEL) is None and not it.sink.plans[MODEL].routes)
            else:
                it.apply(_without_v2(it))
                await it.until(lambda: it.weights() == {"v1": 100})
            it.api.faults.clear()
            await leader.waits("v2", "1 request in progress at v2")
            assert "default/iris/v2" in {one.name for one in it.sink.plans[MODEL].backends}
            leader.envoys.requests.clear()
            await it.until(lambda: leader.finalizers_of("v2") == [])

    scene(test)


def test_requests_of_a_rollout_that_has_lost_its_hosts_are_counted_too(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        it.apply(IRIS.replace("name: iris,", "name: older,").replace("iris.test", "older.test"))
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 1
            it.apply(IRIS.replace("iris.test", "older.test"))
            await it.until(lambda: not it.sink.plans[MODEL].hosts)
            await leader.delete("v2")
            await leader.waits("v2", "1 request in progress at v2 of default/iris")
            leader.envoys.requests.clear()
            await leader.gone("v2")
            it.apply(IRIS)
            await it.until(lambda: it.weights() == {"v1": 100})
            assert it.sink.removed == []

    scene(test)


def test_the_last_version_goes_at_once_and_everybody_is_warned(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        it.api.delete("apps/v1", "Deployment", "v2", "default")
        async with it.running(), leader.leading():
            await leader.protected("v1")
            leader.envoys.requests["default/iris/v1"] = 5
            await leader.delete("v1")
            await leader.gone("v1")
            assert it.weights() == {"v1": 100}
            assert "nothing else can serve in place of v1 of default/iris" in await leader.tells("v1", "Warning")

    scene(test)


def test_the_deadline_lets_go_with_a_warning(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        async with it.running(), leader.leading():
            await leader.protected("v1", "v2")
            leader.envoys.requests["default/iris/v2"] = 2
            leader.envoys.unreachable = ("b",)
            await leader.delete("v2")
            await leader.waits("v2", "replica b does not answer")
            leader.clock.ahead += 299
            await leader.waits("v2", "replica b does not answer")
            assert leader.meta("v2") is not None
            leader.clock.ahead += 2
            await leader.gone("v2")
            assert "deadline of 300 s passed with 2 requests in progress" in await leader.tells("v2", "Warning")

    scene(test)


def test_after_a_restart_the_deadline_counts_from_the_deletion(scene):
    async def test(it: Any) -> None:
        before = await serving(it)
        later = Leader(it, envoys=before.envoys, wall=lambda: datetime.now(UTC) + timedelta(seconds=400))
        async with it.running():
            async with before.leading():
                await before.protected("v1", "v2")
            before.envoys.requests["default/iris/v2"] = 2
            await before.delete("v2")
            await it.until(lambda: it.weights() == {"v1": 100})
        restarted = type(it)(it.api, type(it.source)(it.source._rollouts._client))
        later = Leader(restarted, wall=lambda: datetime.now(UTC) + timedelta(seconds=400))
        later.envoys.requests["default/iris/v2"] = 2
        async with restarted.running(), later.leading():
            await later.gone("v2")

    scene(test)


def test_what_is_deleted_before_it_could_be_protected_takes_no_finalizer(scene):
    async def test(it: Any) -> None:
        leader = await serving(it)
        it.model("v2", ports=(8002,), finalizers=["a.example/slow"])
        async with it.running():
            it.api.faults.answer(503, 1, matches=lambda asked: asked.method == "PATCH")
            await leader.delete("v2")
            async with leader.leading():
                await leader.protected("v1")
                await it.until(lambda: not leader.finalizers._queue.counters.depth)
                assert leader.finalizers_of("v2") == ["a.example/slow"]

    scene(test)


@pytest.mark.parametrize("began", ["deleting", "gone"])
def test_a_deletion_that_overtakes_the_protection_is_fine(scene, began: str):
    """The write goes by an old look at the object: the server refuses it, and that is the end of it."""

    async def test(it: Any) -> None:
        leader = await serving(it)
        if began == "deleting":
            it.model("v2", ports=(8002,), finalizers=["a.example/slow"])
        async with it.running():
            found = it.source.resource(Reference("deploy", "v2", "default"))
            await leader.delete("v2")
            leader.finalizers._term = Term(1, "a", lambda: True)
            await leader.finalizers._do(found)
            assert leader.finalizers_of("v2") == (["a.example/slow"] if began == "deleting" else [])

    scene(test)


def test_types_that_serve_nothing_are_not_protected(scene):
    async def test(it: Any) -> None:
        await serving(it)
        leader = Leader(it, types={"cm": BUILT_IN["cm"]})
        async with it.running(), leader.leading():
            await it.until(lambda: leader.finalizers._queue.counters.done >= 2)
            assert leader.finalizers_of("v1") == leader.finalizers_of("v2") == []

    scene(test)


def at_rest(test: Callable[[Any, str, Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """With a Deployment v1, its path, and its metadata as they were read a while ago."""

    async def body(it: Any) -> None:
        it.model("v1", finalizers=["a.example/slow"])
        path = "/apis/apps/v1/namespaces/default/deployments/v1"
        await test(it, path, it.api.get("apps/v1", "Deployment", "v1", "default")["metadata"])

    return body


def changed(it: Any, **meta: Any) -> None:
    it.api.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "v1", "namespace": "default", **meta}}
    )


@pytest.mark.parametrize("write", [put_on, take_off])
def test_a_finalizer_that_somebody_else_added_meanwhile_is_kept(scene, write: Any):
    @at_rest
    async def test(it: Any, path: str, read: Any) -> None:
        ours = [FINALIZER] if write is take_off else []
        changed(it, finalizers=[*ours, "b.example/new"])
        client = it.source._rollouts._client
        assert await write(client, path, read["uid"], ours, read["resourceVersion"])
        left = it.api.get("apps/v1", "Deployment", "v1", "default")["metadata"]["finalizers"]
        assert left == ["b.example/new", *([FINALIZER] if write is put_on else [])]

    scene(test)


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_being_deleted_is_not_asked_twice_to_take_a_finalizer(scene, fresh: bool):
    @at_rest
    async def test(it: Any, path: str, read: Any) -> None:
        it.api.delete("apps/v1", "Deployment", "v1", "default")
        if fresh:
            read = it.api.get("apps/v1", "Deployment", "v1", "default")["metadata"]
        client = it.source._rollouts._client
        assert not await put_on(client, path, read["uid"], read["finalizers"], read["resourceVersion"])
        assert [one.method for one in it.api.requests].count("PATCH") == 1

    scene(test)


def test_another_object_of_the_same_name_is_left_alone(scene):
    @at_rest
    async def test(it: Any, path: str, read: Any) -> None:
        client = it.source._rollouts._client
        assert not await put_on(client, path, "another uid", (), "1")
        assert it.api.get("apps/v1", "Deployment", "v1", "default")["metadata"]["finalizers"] == ["a.example/slow"]

    scene(test)


def _without_v2(it: Any) -> dict[str, Any]:
    rollout = it.api.get("headgate.dev/v1alpha1", "ModelRollout", "iris", "default")
    return {
        "apiVersion": rollout["apiVersion"],
        "kind": rollout["kind"],
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": {"versions": rollout["spec"]["versions"][:1]},
    }
