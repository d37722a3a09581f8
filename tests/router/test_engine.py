"""The engine turns dirty models into plans: only the changed ones, only real changes, and nobody harms another."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from router.engine import Engine, Forgetful
from router.health import Health
from router.manifests import Located, parse
from router.problem import Problem
from router.step import RolloutState
from router.store import Store
from xds.ir import Endpoint, Gateway, ModelPlan

READY = Health(True, "ready")
V1, V2 = Endpoint("127.0.0.1", 8001), Endpoint("127.0.0.1", 8002)


class Recorder:
    """A sink that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.plans: dict[tuple[str, str], ModelPlan] = {}
        self.fail: set[str] = set()

    def apply(self, plan: ModelPlan) -> None:
        if plan.name in self.fail:
            raise RuntimeError("sink is broken")
        self.told.append(("apply", plan.gateway, plan.name))
        self.plans[plan.gateway, plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        if model in self.fail:
            raise RuntimeError("sink is broken")
        self.told.append(("remove", gateway, model))
        del self.plans[gateway, model]

    def weights(self, model: str = "default/iris", gateway: str = "default") -> dict[str, int]:
        return {target.version: target.weight for target in self.plans[gateway, model].routes[-1].targets}


def located(
    name: str = "iris",
    *,
    hosts: str | None = None,
    gateway: str = "default",
    probe: str = "readiness: {tcp: {}}, ",
    weights: tuple[int, int] = (9, 1),
) -> Located:
    text = f"""
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec:
  hosts: [{hosts or name + ".test"}]
  gateway: {gateway}
  versions:
  - {{name: v1, weight: {weights[0]}, {probe}backend: {{endpoints: ["127.0.0.1:8001"]}}}}
  - {{name: v2, weight: {weights[1]}, {probe}backend: {{endpoints: ["127.0.0.1:8002"]}}}}
"""
    parsed = parse(text.encode(), f"{name}.yaml")
    assert not parsed.problems, parsed.problems
    return parsed.rollouts[0]


class Scene:
    """An engine driven by hand, without an event loop."""

    def __init__(self, *, states: Forgetful | None = None, hold: bool = False) -> None:
        self.store, self.sink, self.now = Store(), Recorder(), 100.0
        self.states = states or Forgetful()
        gateways = {name: Gateway(name, ()) for name in ("default", "edge")}
        self.engine = Engine(
            self.store, self.sink, gateways=gateways, states=self.states, clock=lambda: self.now, hold=hold
        )

    def put(self, *objects: Located) -> None:
        for one in objects:
            self.store.put(one.rollout.key, one)
        self.work()

    def drop(self, key: str) -> None:
        self.store.drop(key)
        self.work()

    def health(self, health: Health, endpoint: Endpoint, model: str = "default/iris") -> None:
        self.store.set_health(model, {V1: "v1", V2: "v2"}[endpoint], endpoint, health)
        self.work()

    def work(self) -> None:
        while dirty := self.store.take_dirty(1):
            self.engine.update(dirty[0])

    def problems(self, key: str = "default/iris") -> list[str]:
        return [problem.what for problem in self.engine.models()[key].problems]


def test_a_version_gets_its_weight_when_it_becomes_ready_and_loses_it_when_it_is_not():
    scene = Scene()
    scene.put(located())
    assert scene.sink.weights() == {"v1": 10_000}, "the primary keeps its route when nobody is ready"
    scene.health(READY, V1)
    scene.health(READY, V2)
    assert scene.sink.weights() == {"v1": 9_000, "v2": 1_000}
    scene.health(Health(False, "HTTP 503"), V2)
    assert scene.sink.weights() == {"v1": 10_000}
    assert "HTTP 503" in " ".join(scene.engine.models()["default/iris"].why)


def test_what_changes_no_plan_is_silent():
    scene = Scene()
    scene.put(located(probe=""))
    told = list(scene.sink.told)
    one = located(probe="")
    scene.put(Located(one.rollout, "moved.yaml:7"))
    scene.health(READY, V1)
    assert scene.sink.told == told
    assert scene.engine.models()["default/iris"].where == "moved.yaml:7"
    assert scene.engine.models()["default/iris"].generation == 1


def test_a_changed_reason_reaches_the_status_but_no_envoy():
    scene = Scene()
    scene.put(located())
    scene.health(READY, V1)
    scene.health(Health(False, "connection refused"), V2)
    told = list(scene.sink.told)
    scene.health(Health(False, "HTTP 503"), V2)
    assert scene.sink.told == told
    assert scene.engine.models()["default/iris"].versions[1].reason == "HTTP 503"


def test_since_tells_when_readiness_changed_and_stays_while_it_does_not():
    scene = Scene()
    scene.put(located())
    scene.now = 200.0
    scene.health(READY, V2)
    scene.now = 300.0
    scene.health(READY, V1)
    scene.put(located(weights=(1, 1)))
    assert scene.engine.models()["default/iris"].since == {"v1": 300.0, "v2": 200.0}


def test_one_models_failure_is_its_own_problem_and_its_last_good_plan_stays():
    scene = Scene()
    scene.put(located("a", probe=""), located("b", probe=""))
    scene.sink.fail = {"default/a"}
    scene.put(located("a", probe="", weights=(1, 1)), located("b", probe="", weights=(1, 1)))
    assert scene.sink.weights("default/a") == {"v1": 9_000, "v2": 1_000}
    assert scene.sink.weights("default/b") == {"v1": 5_000, "v2": 5_000}
    assert "sink is broken" in scene.problems("default/a")[0]
    assert scene.problems("default/b") == []
    scene.sink.fail = set()
    scene.store.mark("default/a")
    scene.work()
    assert scene.sink.weights("default/a") == {"v1": 5_000, "v2": 5_000}
    assert scene.problems("default/a") == []


def test_an_unknown_gateway_is_told_with_the_known_ones_and_applies_nothing():
    scene = Scene()
    scene.put(located(gateway="egde"))
    assert scene.sink.told == []
    (problem,) = scene.engine.models()["default/iris"].problems
    assert "'egde'" in problem.what
    assert "default, edge" in problem.hint


def test_a_rollout_that_moves_to_an_unknown_gateway_stays_where_it_was():
    scene = Scene()
    scene.put(located(probe=""))
    scene.put(located(probe="", gateway="egde", weights=(1, 1)))
    assert scene.sink.weights() == {"v1": 9_000, "v2": 1_000}
    assert "'egde'" in scene.problems()[0]
    scene.put(located("thief", hosts="iris.test", probe=""))
    assert ("default", "default/thief") not in scene.sink.plans, "its host is still served, so still its own"


def test_moving_to_another_gateway_arrives_before_it_leaves():
    scene = Scene()
    scene.put(located(probe=""))
    scene.put(located(probe="", gateway="edge"))
    assert scene.sink.told[1:] == [("apply", "edge", "default/iris"), ("remove", "default", "default/iris")]


def test_the_first_to_claim_a_host_keeps_it_and_the_next_gets_it_when_it_is_free():
    scene = Scene()
    scene.put(located("a", hosts="same.test", probe=""), located("b", hosts="same.test", probe=""))
    assert set(scene.sink.plans) == {("default", "default/a")}
    assert "default/a" in scene.problems("default/b")[0]
    scene.drop("default/a")
    assert set(scene.sink.plans) == {("default", "default/b")}
    assert scene.problems("default/b") == []
    assert scene.sink.told[1:] == [("remove", "default", "default/a"), ("apply", "default", "default/b")]


def test_a_deleted_model_is_removed_and_forgotten_and_a_recreated_one_is_new():
    scene = Scene()
    scene.put(located(probe=""))
    assert scene.states.get("default/iris") is not None
    scene.drop("default/iris")
    assert scene.sink.plans == {}
    assert scene.states.get("default/iris") is None
    assert scene.engine.models() == {}
    scene.put(located(probe=""))
    assert scene.sink.weights() == {"v1": 9_000, "v2": 1_000}


def test_a_model_that_the_sink_will_not_remove_keeps_its_hosts_and_says_so():
    scene = Scene()
    scene.put(located("a", hosts="same.test", probe=""), located("b", hosts="same.test", probe=""))
    scene.sink.fail = {"default/a"}
    scene.drop("default/a")
    assert ("default", "default/b") not in scene.sink.plans
    assert any("cannot be removed" in problem.what for problem in scene.engine.problems())
    scene.sink.fail = set()
    scene.store.mark("default/a")
    scene.work()
    assert set(scene.sink.plans) == {("default", "default/b")}
    assert scene.engine.problems() == ()


def test_a_broken_manifests_problem_shows_on_the_model_that_keeps_its_last_good_object():
    scene = Scene()
    scene.put(located(probe=""))
    scene.store.report("iris.yaml", [Problem("iris.yaml:9", "spec.versions", "is missing")], ["default/iris"])
    scene.work()
    assert scene.problems() == ["is missing"]
    assert scene.sink.weights() == {"v1": 9_000, "v2": 1_000}
    assert [problem.what for problem in scene.engine.problems()] == ["is missing"]


def test_a_reported_problem_is_left_to_its_reporter_to_log(caplog: pytest.LogCaptureFixture):
    scene = Scene()
    scene.put(located(probe=""))
    scene.store.report("iris.yaml", [Problem("iris.yaml:9", "spec.versions", "is missing")], ["default/iris"])
    scene.work()
    assert "is missing" not in caplog.text
    scene.put(located(probe="", gateway="none"))
    assert caplog.text.count("gateway 'none' is not known") == 1


def test_a_defect_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture):
    scene = Scene()
    scene.sink.fail.add("default/iris")
    scene.put(located(probe=""))
    assert 'raise RuntimeError("sink is broken")' in caplog.text


def test_a_model_without_a_host_of_its_own_is_not_said_to_have_weights(caplog: pytest.LogCaptureFixture):
    scene = Scene()
    scene.engine._settled.set()
    with caplog.at_level(logging.INFO, "router.engine"):
        scene.put(located("iris", probe=""))
        scene.put(located("wine", hosts="iris.test", probe=""))
        assert not [message for message in caplog.messages if message.startswith("default/wine: v1")]
        scene.drop("default/iris")
    assert caplog.messages[-1] == "default/wine: v1 ready, weight 0 → 90; v2 ready, weight 0 → 10"


def test_slots_come_from_the_saved_state_and_go_back_to_it():
    scene = Scene(states=Forgetful({"default/iris": RolloutState((("v2", 3), ("v9", 0)))}))
    scene.put(located(probe=""))
    assert scene.states.get("default/iris") == RolloutState((("v2", 3),))


def test_changes_are_logged_once_with_the_names(caplog: pytest.LogCaptureFixture):
    scene = Scene()
    with caplog.at_level(logging.INFO, "router.engine"):
        scene.put(located())
        scene.engine._settled.set()
        scene.health(READY, V1)
        caplog.clear()
        scene.health(READY, V2)
        scene.store.mark("default/iris")
        scene.work()
    assert caplog.messages == ["default/iris: v1 weight 100 → 90; v2 ready, weight 0 → 10"]


def test_at_the_start_nothing_is_planned_before_its_readiness_is_known():
    async def scene() -> None:
        made = Scene(hold=True)
        loaded = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.engine.run(loaded))
            made.store.put("default/iris", located())
            made.store.put("default/plain", located("plain", probe=""))
            loaded.set()
            settled = group.create_task(made.engine.settled(within=60))
            while ("default", "default/plain") not in made.sink.plans:  # noqa: ASYNC110
                await asyncio.sleep(0)
            made.store.set_health("default/iris", "v1", V1, READY)
            await asyncio.sleep(0)
            assert not settled.done()
            assert ("default", "default/iris") not in made.sink.plans
            made.store.set_health("default/iris", "v2", V2, READY)
            assert await settled
            assert made.sink.told.count(("apply", "default", "default/iris")) == 1
            running.cancel()

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_readiness_that_stays_unknown_holds_up_the_start_for_a_limited_time():
    async def scene() -> None:
        made = Scene(hold=True)
        made.store.put("default/iris", located())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.engine.run())
            assert not await made.engine.settled(within=0.01)
            assert made.sink.weights() == {"v1": 10_000}
            running.cancel()

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_hosts_are_claimed_in_the_sources_order_whoever_is_ready_first():
    async def scene() -> None:
        made = Scene(hold=True)
        made.store.put("default/a", located("a", hosts="same.test"))
        made.store.put("default/b", located("b", hosts="same.test"))
        for endpoint, version in ((V1, "v1"), (V2, "v2")):
            made.store.set_health("default/b", version, endpoint, READY)
        for endpoint, version in ((V1, "v1"), (V2, "v2")):
            made.store.set_health("default/a", version, endpoint, READY)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.engine.run())
            assert await made.engine.settled(within=60)
            assert set(made.sink.plans) == {("default", "default/a")}
            running.cancel()

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_an_empty_start_is_settled_at_once():
    async def scene() -> None:
        made = Scene(hold=True)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.engine.run())
            assert await made.engine.settled(within=60)
            running.cancel()

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_a_readiness_change_costs_the_same_among_two_thousand_models_as_among_one():
    """A law about growth, not a benchmark: the median of many changes, with room for a busy machine."""

    def cost(models: int) -> float:
        scene = Scene()
        scene.put(*(located(f"m{number}") for number in range(models)))
        times = []
        for turn in range(300):
            health = Health(turn % 2 == 0, "turn")
            start = time.perf_counter()
            scene.health(health, V2, "default/m0")
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    alone, among_many = cost(1), cost(2_000)
    assert among_many < 5 * alone
    assert among_many < 0.005
