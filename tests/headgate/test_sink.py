"""Plans become resources; a gateway that grows turns to on-demand scopes once, in slices."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headgate.config import gateway_owner
from headgate.sink import SLICE, Sink
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


def test_copies_are_counted_while_some_model_is_mirrored() -> None:
    sink = Sink([EDGE])
    cache = sink.caches["edge"]
    sink.secrets("edge", {"edge/http": Resource.of("edge/http", b"pem")})

    def router() -> Resource:
        own = cache.resources(gateway_owner("edge"))
        assert own[Type.SECRET], "the certificate stays"
        (found,) = own[Type.EXTENSION].values()
        return found

    nobody = router()
    sink.apply(plan("a"))
    assert router() is nobody
    sink.apply(mirrored("a"))
    counting = router()
    assert counting.version != nobody.version
    sink.apply(mirrored("b"))
    sink.apply(plan("a"))
    assert router() == counting, "b is still mirrored"
    sink.remove("edge", "default/b")
    assert router() == nobody
    sink.apply(mirrored("b"))
    assert router() == counting


def test_copies_are_counted_before_any_is_made() -> None:
    sink = Sink([EDGE])
    seen: list[Type] = []

    class Watching:
        def changed(self, changes: Changes) -> None:
            seen.extend(kind for kind in changes if kind in (Type.EXTENSION, Type.ROUTE))

    sink.caches["edge"].watch(Watching())
    sink.apply(mirrored("a"))
    sink.remove("edge", "default/a")
    assert seen == [Type.EXTENSION, Type.ROUTE, Type.ROUTE, Type.EXTENSION]


def test_a_plan_that_cannot_be_translated_turns_no_counting_on() -> None:
    def refuse(plan: ModelPlan, on_demand: bool) -> dict[Type, dict[str, Resource]]:
        raise ValueError("no")

    sink = Sink([EDGE], refuse)
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
