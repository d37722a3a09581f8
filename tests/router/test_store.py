"""The Store tells which models changed, at once, each once, and nothing about equal values."""

from __future__ import annotations

import asyncio

import pytest

from router.health import Health
from router.manifests import Located, parse
from router.problem import Problem
from router.store import Dirty, Store
from xds.ir import Endpoint

HERE = Endpoint("127.0.0.1", 8001)


def located(name: str = "iris", line: int = 1, host: str = "iris.test") -> Located:
    text = f"""
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec: {{hosts: [{host}], versions: [{{name: v1, backend: {{endpoints: ["127.0.0.1:8001"]}}}}]}}
"""
    (one,) = parse(text.encode(), "iris.yaml").rollouts
    return Located(one.rollout, f"iris.yaml:{line}")


def test_equal_values_wake_nobody():
    store = Store()
    assert store.put("default/iris", located())
    assert store.set_health("default/iris", "v1", HERE, Health(True, "ready"))
    store.report("iris.yaml", [Problem("iris.yaml", "", "odd")], ["default/iris"])
    assert store.take_dirty() == ("default/iris",)
    assert not store.put("default/iris", located())
    assert not store.set_health("default/iris", "v1", HERE, Health(True, "ready"))
    assert not store.report("iris.yaml", [Problem("iris.yaml", "", "odd")], ["default/iris"])
    assert not store.drop("default/other")
    assert store.take_dirty() == ()


def test_a_waiting_reader_gets_the_first_mark_and_a_busy_one_all_later_ones_at_once():
    async def scene() -> None:
        store = Store()
        reading = asyncio.create_task(store.next_dirty())
        await asyncio.sleep(0)
        store.put("default/a", located("a"))
        assert await reading == ("default/a",)
        for line in (2, 3, 4):
            store.put("default/a", located("a", line))
        store.put("default/b", located("b"))
        assert await store.next_dirty() == ("default/a", "default/b")

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_a_reader_that_was_cancelled_loses_nothing():
    async def scene() -> None:
        store = Store()
        reading = asyncio.create_task(store.next_dirty())
        await asyncio.sleep(0)
        store.put("default/a", located("a"))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await store.next_dirty() == ("default/a",)

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_readiness_goes_ahead_of_ten_thousand_changed_files():
    store = Store()
    for number in range(10_000):
        store.put(f"default/m{number}", located())
    store.set_health("default/m9999", "v1", HERE, Health(True, "ready"))
    assert store.take_dirty(2) == ("default/m9999", "default/m0")
    assert len(store.take_dirty()) == 9_998


def test_a_deleted_model_takes_its_health_along_and_a_recreated_one_starts_without():
    store = Store()
    store.put("default/iris", located())
    store.set_health("default/iris", "v1", HERE, Health(True, "ready"))
    assert store.drop("default/iris")
    assert not store.set_health("default/iris", "v1", HERE, Health(True, "ready")), "a late probe of a deleted model"
    store.put("default/iris", located())
    assert store.health("default/iris") == {}


def test_problems_reach_the_models_they_are_about_and_leave_with_their_origin():
    store = Store()
    store.put("default/iris", located())
    store.take_dirty()
    store.report("a.yaml", [Problem("a.yaml:3", "spec", "wrong")], ["default/iris"])
    store.report("b.yaml", [Problem("b.yaml:1", "", "odd")], ["default/iris"])
    assert store.take_dirty() == ("default/iris",)
    assert [p.where for p in store.problems_of("default/iris")] == ["a.yaml:3", "b.yaml:1"]
    store.report("a.yaml", [])
    assert store.take_dirty() == ("default/iris",)
    assert [p.where for p in store.problems_of("default/iris")] == ["b.yaml:1"]
    assert set(store.problems()) == {"b.yaml"}


def test_followers_hear_of_changed_rollouts_only():
    store = Store()
    store.put("default/old", located("old"))
    follower = store.follow_rollouts()
    assert follower.take() == ("default/old",)
    store.put("default/old", located("old", line=9))
    store.set_health("default/old", "v1", HERE, Health(True, "ready"))
    assert follower.take() == (), "a comment above the rollout and a probe's result change no rollout"
    store.put("default/old", located("old", host="other.test"))
    store.drop("default/old")
    assert follower.take() == ("default/old",)


def test_dirty_keeps_the_order_of_marking_and_each_name_once():
    dirty = Dirty()
    for name in "abcab":
        dirty.mark(name)
    dirty.mark("c", urgent=True)
    dirty.mark("c")
    assert len(dirty) == 3
    assert "c" in dirty
    assert dirty.take() == ("c", "a", "b")
