"""Plans become resources; a gateway that grows turns to on-demand scopes once, in slices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headgate.config import gateway_owner
from headgate.sink import LINGER, SLICE, Sink
from xds.cache import Changes
from xds.ir import Backend, Endpoint, Gateway, Listener, Match, Mirror, ModelPlan, Route, Target
from xds.resources import Resource, Type

EDGE = Gateway("edge", (Listener("http", "127.0.0.1", 0),), on_demand_above=2)


def plan(name: str, gateway: str = "edge") -> ModelPlan:
    return ModelPlan(
        f"default/{name}",
        gateway,
        (f"{name}.example",),
        (Route("weighted", Match(), (Target(name, 10_000, "v1"),)),),
        (Backend(name, (Endpoint("127.0.0.1", 8001),)),),
    )


class Translated:
    """A translation that remembers what it was asked, instead of making Envoy resources."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, plan: ModelPlan, on_demand: bool) -> dict[Type, dict[str, Resource]]:
        self.calls.append((plan.name, on_demand))
        return {Type.ROUTE: {plan.name: Resource.of(plan.name, f"{plan.name} {on_demand}".encode())}}


def test_a_gateway_has_its_listeners_from_the_start() -> None:
    cache = Sink([EDGE]).caches["edge"]
    assert list(cache.resources(gateway_owner("edge"))[Type.LISTENER]) == ["http"]


def test_certificates_come_beside_the_listeners() -> None:
    sink = Sink([EDGE])
    sink.secrets("edge", {"edge/http": Resource.of("edge/http", b"pem")})
    own = sink.caches["edge"].resources(gateway_owner("edge"))
    assert (list(own[Type.LISTENER]), list(own[Type.SECRET])) == (["http"], ["edge/http"])


def test_a_plan_is_published_and_removed_on_its_own_gateway() -> None:
    sink = Sink([EDGE, Gateway("other", EDGE.listeners)])
    sink.apply(plan("iris"))
    assert "default/iris" in sink.caches["edge"].owners()
    assert "default/iris" not in sink.caches["other"].owners()
    sink.remove("edge", "default/iris")
    assert "default/iris" not in sink.caches["edge"].owners()


def mirrored(name: str) -> ModelPlan:
    (route,) = plan(name).routes
    return replace(plan(name), routes=(replace(route, mirrors=(Mirror(name, 100.0, "v2"),)),))


class Counting:
    """A sink whose clock stands still, and whether Envoys of its gateway count copies."""

    def __init__(self, began: bool = True) -> None:
        self.now = 100.0
        self.sink = Sink([EDGE], clock=lambda: self.now)
        self._on = self.router
        if began:
            self.later(LINGER)

    def later(self, seconds: float) -> float | None:
        self.now += seconds
        return self.sink.stop_counting()

    @property
    def router(self) -> Resource:
        (found,) = self.sink.caches["edge"].resources(gateway_owner("edge"))[Type.EXTENSION].values()
        return found

    def counts(self) -> bool:
        return self.router == self._on


def test_copies_are_counted_while_some_model_is_mirrored_and_until_they_have_been_read() -> None:
    """Envoy forgets what a router has counted when another takes its place."""
    edge = Counting()
    sink = edge.sink
    sink.secrets("edge", {"edge/http": Resource.of("edge/http", b"pem")})
    assert not edge.counts()
    sink.apply(plan("a"))
    assert not edge.counts()
    sink.apply(mirrored("a"))
    assert edge.counts()
    sink.apply(mirrored("b"))
    sink.apply(plan("a"))
    assert edge.later(LINGER) is None
    assert edge.counts(), "b is still mirrored"
    sink.remove("edge", "default/b")
    assert edge.later(LINGER - 1.0) == pytest.approx(1.0)
    assert edge.counts(), "the sidecar may not have read the last copies"
    assert edge.later(1.0) is None
    assert not edge.counts()
    assert sink.caches["edge"].resources(gateway_owner("edge"))[Type.SECRET], "the certificate stays"


def test_a_mirror_that_comes_and_goes_changes_the_router_once() -> None:
    edge = Counting()
    seen: list[Changes] = []

    class Watching:
        def changed(self, changes: Changes) -> None:
            seen.extend([changes] if Type.EXTENSION in changes else [])

    edge.sink.caches["edge"].watch(Watching())
    for _ in range(10):
        edge.sink.apply(mirrored("a"))
        edge.later(LINGER / 4)
        edge.sink.apply(plan("a"))
        edge.later(LINGER / 4)
    assert (edge.counts(), len(seen)) == (True, 1)


def test_at_a_start_envoys_may_have_mirrors_from_before() -> None:
    edge = Counting(began=False)
    edge.sink.apply(plan("a"))
    edge.later(LINGER - 1.0)
    assert edge.counts()
    edge.sink.apply(mirrored("a"))
    edge.later(LINGER)
    assert edge.counts()
    edge.sink.apply(plan("a"))
    edge.later(LINGER)
    assert not edge.counts()


def test_the_counting_of_copies_ends_by_itself() -> None:
    async def main() -> None:
        edge = Counting(began=False)
        ended = asyncio.Event()

        class Watching:
            def changed(self, changes: Changes) -> None:
                if Type.EXTENSION in changes:
                    ended.set()

        edge.sink.caches["edge"].watch(Watching())
        edge.now += LINGER - 0.01
        running = asyncio.create_task(edge.sink.run())
        await asyncio.sleep(0)
        edge.now += LINGER
        async with asyncio.timeout(20):
            await ended.wait()
        running.cancel()
        assert not edge.counts()

    asyncio.run(main())


def test_copies_are_counted_before_any_is_made() -> None:
    edge = Counting()
    seen: list[Type] = []

    class Watching:
        def changed(self, changes: Changes) -> None:
            seen.extend(kind for kind in changes if kind in (Type.EXTENSION, Type.ROUTE))

    edge.sink.caches["edge"].watch(Watching())
    edge.sink.apply(mirrored("a"))
    edge.sink.remove("edge", "default/a")
    edge.later(LINGER)
    assert seen == [Type.EXTENSION, Type.ROUTE, Type.ROUTE, Type.EXTENSION]


def test_a_plan_that_cannot_be_translated_turns_no_counting_on() -> None:
    def refuse(plan: ModelPlan, on_demand: bool) -> dict[Type, dict[str, Resource]]:
        raise ValueError("no")

    now = 0.0
    sink = Sink([EDGE], refuse, clock=lambda: now)
    now = LINGER
    sink.stop_counting()
    before = sink.caches["edge"].resources(gateway_owner("edge"))
    with pytest.raises(ValueError, match="no"):
        sink.apply(mirrored("a"))
    assert sink.caches["edge"].resources(gateway_owner("edge")) == before


def test_up_to_the_threshold_scopes_are_eager() -> None:
    translated = Translated()
    sink = Sink([EDGE], translated)
    for name in ("a", "b"):
        sink.apply(plan(name))
    assert translated.calls == [("default/a", False), ("default/b", False)]
    assert not sink.on_demand("edge")


def test_above_the_threshold_all_models_turn_to_on_demand_and_stay_so() -> None:
    async def scenario() -> None:
        translated = Translated()
        sink = Sink([EDGE], translated)
        for name in ("a", "b", "c"):
            sink.apply(plan(name))
        assert sink.on_demand("edge")
        again = asyncio.create_task(sink.run())
        for _ in range(10):  # a few turns of the loop are enough for one slice
            await asyncio.sleep(0)
        again.cancel()
        assert translated.calls[3:] == [("default/a", True), ("default/b", True), ("default/c", True)]
        for name in ("b", "c"):
            sink.remove("edge", f"default/{name}")
        sink.apply(plan("d"))
        assert translated.calls[-1] == ("default/d", True)

    asyncio.run(scenario())


def test_crossing_the_threshold_is_done_in_slices() -> None:
    translated = Translated()
    sink = Sink([Gateway("edge", EDGE.listeners, on_demand_above=3 * SLICE)], translated)
    for index in range(3 * SLICE + 1):
        sink.apply(plan(f"m{index}"))
    before = len(translated.calls)
    sink.translate_slice()
    assert len(translated.calls) == before + SLICE


def test_a_model_that_left_meanwhile_is_not_brought_back() -> None:
    sink = Sink([EDGE], Translated())
    for name in ("a", "b", "c"):
        sink.apply(plan(name))
    sink.remove("edge", "default/a")
    sink.translate_slice()
    assert "default/a" not in sink.caches["edge"].owners()


def test_on_demand_from_the_first_model_when_the_threshold_is_none() -> None:
    translated = Translated()
    Sink([Gateway("edge", EDGE.listeners, on_demand_above=0)], translated).apply(plan("a"))
    assert translated.calls == [("default/a", True)]


def test_what_cannot_be_translated_leaves_the_cache_as_it_was() -> None:
    def broken(plan: ModelPlan, on_demand: bool) -> dict[Type, dict[str, Resource]]:
        raise ValueError("no")

    sink = Sink([EDGE], broken)
    try:
        sink.apply(plan("iris"))
    except ValueError:
        assert "default/iris" not in sink.caches["edge"].owners()
    else:
        raise AssertionError("the failure was swallowed")
