"""What this replica says of its own Envoys, as a value and as a page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from headgate.http import MOST_ASKED, HttpServer
from headgate.replica import LocalReplica
from router.replica import Load, Progress, Report
from xds.cache import Rejection
from xds.fleet import Fleet, Member
from xds.loads import Load as Heard
from xds.resources import Type

MODEL, V1, V2 = "default/iris", "default/iris/v1", "default/iris/v2"
NOW = 1_000.0


@dataclass(eq=False)
class Behind:
    """A stream, as far as it matters here."""

    id: str
    lagging_in: dict[str, str] = field(default_factory=dict)

    @property
    def node(self) -> Any:
        return self

    def lagging(self) -> Mapping[str, str]:
        return self.lagging_in


@dataclass
class Loads:
    heard: dict[str, dict[str, Heard]] = field(default_factory=dict)
    watched: list[tuple[str, list[str]]] = field(default_factory=list)

    def watch(self, gateway: str, clusters: Iterable[str], seconds: float = 5.0) -> None:
        self.watched.append((gateway, sorted(clusters)))

    def in_progress(self, gateway: str, cluster: str) -> Mapping[str, Heard]:
        return self.heard.get(cluster, {})

    def reporting(self, gateway: str) -> frozenset[str]:
        return frozenset({"e1"})


class Local:
    """A replica with one model of two versions, of which only the first has traffic."""

    def __init__(self, plane: Any) -> None:
        endpoints = [
            {"name": name, "backend": {"endpoints": [f"127.0.0.1:{8000 + i}"]}} for i, name in enumerate(("v1", "v2"))
        ]
        endpoints[1]["weight"] = 0
        plane.put("iris", versions=endpoints)
        self.plane, self.loads, self.fleet = plane, Loads(), Fleet(plane.sink.caches)
        self.replica = LocalReplica(
            "a", plane.engine, plane.sink, self.fleet, self.loads, started_at=NOW - 60, clock=lambda: NOW
        )

    def connect(self, node: str, **lagging: str) -> None:
        behind = {MODEL: lagging["why"]} if lagging else {}
        self.fleet.join(Member(Behind(node, behind), "default", "10.0.0.1:1", NOW))  # type: ignore[arg-type]

    def report(self, *models: str, clusters: tuple[str, ...] = ()) -> Report:
        return asyncio.run(self.replica.report(models, clusters))


@pytest.fixture
def local(plane: Any) -> Local:
    return Local(plane)


def test_it_tells_who_is_connected_and_who_lags_and_why(local: Local) -> None:
    local.connect("e1")
    local.connect("e2", why="no ACK yet")
    found = local.report(MODEL, "default/unknown")
    version = local.plane.sink.caches["default"].version(MODEL)
    nodes = frozenset({"e1", "e2"})
    assert found.models == {MODEL: Progress(version, "default", nodes, {"e2": "no ACK yet"})}
    assert (found.identity, found.age, found.gateways) == ("a", 60.0, {"default": 2})


def test_an_envoy_with_the_last_good_version_lags(local: Local) -> None:
    local.connect("e1")
    cache = local.plane.sink.caches["default"]
    route = cache.get(Type.ROUTE, MODEL)
    cache.reject(Rejection(MODEL, Type.ROUTE, MODEL, route.version, "no such filter", "e1"))
    assert local.report(MODEL).models[MODEL].lagging == {"e1": "keeps the last good version"}


def test_it_tells_where_routes_lead_and_what_its_envoys_have(local: Local) -> None:
    found = local.report(MODEL, clusters=(V1, V2, f"{V1}~shadow"))
    assert found.routed == {V1}
    assert found.loads == {V1: {}, V2: {}}, "nobody has a cluster for copies"
    assert local.loads.watched[0] == ("default", [V1, V2])


def test_it_passes_on_what_envoys_report_of_clusters_that_they_have_from_another_replica(local: Local) -> None:
    local.loads.heard = {"default/gone/v1": {"e1": Heard(1, NOW)}}
    found = local.report("default/gone", clusters=("default/gone/v1", "default/gone/v2"))
    assert found.models == {}
    assert found.loads == {"default/gone/v1": {"e1": Load(1, 0.0)}}
    assert local.loads.watched == [("default", ["default/gone/v1", "default/gone/v2"])]


def test_what_an_envoy_lacks_is_as_new_as_the_plan_that_it_lacks(local: Local) -> None:
    """The answer about many models is made in slices, between which plans change."""
    models = [f"default/m{index:02}" for index in range(30)]
    for model in models:
        local.plane.put(model.removeprefix("default/"))
    behind = Behind("e1")
    local.fleet.join(Member(behind, "default", "10.0.0.1:1", NOW))  # type: ignore[arg-type]

    async def meanwhile() -> Report:
        asking = asyncio.create_task(local.replica.report(models, ()))
        await asyncio.sleep(0)  # the first slice is done
        behind.lagging_in = {models[-1]: "not sent yet"}
        return await asking

    found = asyncio.run(meanwhile())
    assert found.models[models[-1]].lagging == {"e1": "not sent yet"}
    assert found.models[models[0]].lagging == {}


def test_what_is_in_progress_comes_with_its_age(local: Local) -> None:
    local.loads.heard = {V2: {"e1": Heard(3, NOW - 0.25)}}
    found = local.report(MODEL, clusters=(V2,))
    assert found.loads == {V2: {"e1": Load(3, 0.25)}}
    assert found.reporting == {"e1"}


def test_nothing_is_asked_of_envoys_when_no_load_is_asked_for(local: Local) -> None:
    local.report(MODEL)
    assert local.loads.watched == []


def test_a_model_that_lost_its_routes_still_has_its_clusters(local: Local) -> None:
    local.plane.store.drop(MODEL)
    local.plane.store.place(MODEL, {}, frozenset({"v1"}))
    local.plane.settle()
    found = local.report(MODEL, clusters=(V1, V2))
    assert MODEL in found.models
    assert (found.routed, found.loads) == (frozenset(), {V1: {}})


def test_before_the_xds_port_opens_its_age_is_nothing(plane: Any) -> None:
    now = [NOW]
    one = LocalReplica("a", plane.engine, plane.sink, Fleet(plane.sink.caches), Loads(), clock=lambda: now[0])
    assert asyncio.run(one.report((), ())).age == 0.0
    one.begin()
    now[0] += 7
    assert asyncio.run(one.report((), ())).age == 7.0


def test_a_report_survives_the_way_through_json(local: Local) -> None:
    local.connect("e1", why="no ACK yet")
    local.loads.heard = {V1: {"e1": Heard(3, NOW - 0.25)}}
    found = local.report(MODEL, clusters=(V1,))
    assert Report.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ValueError, match="no report of a replica"):
        Report.from_json({key: value for key, value in found.to_json().items() if key != "routed"})
    assert replace(found, routed=frozenset()) != found


# The page


def ask(local: Local, query: Any, path: str = "/fleet") -> tuple[int, Any]:
    async def scenario() -> tuple[int, Any]:
        registry = CollectorRegistry()
        server = HttpServer(local.plane.status, registry, dict, address="127.0.0.1", port=0, replica=local.replica)
        await server.start()
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"http://127.0.0.1:{server.port}{path}", params=query) as answer,
            ):
                return answer.status, await answer.json()
        finally:
            await server.stop()

    return asyncio.run(scenario())


def test_the_page_is_the_report(local: Local) -> None:
    local.connect("e1")
    code, found = ask(local, [("model", MODEL), ("cluster", V1), ("cluster", V2)])
    assert code == 200
    assert Report.from_json(found) == local.report(MODEL, clusters=(V1, V2))


def test_without_a_question_it_tells_who_it_is(local: Local) -> None:
    code, found = ask(local, [])
    assert (code, found["identity"], found["models"]) == (200, "a", {})


def test_odd_and_endless_questions_are_refused(local: Local) -> None:
    code, found = ask(local, [("modell", MODEL)])
    assert (code, found["error"]) == (400, "unknown parameter 'modell'")
    code, found = ask(local, [("model", "a")] * (MOST_ASKED + 1))
    assert (code, found["error"]) == (400, "1001 parameters are too many")


def test_a_server_without_a_replica_has_no_such_page(plane: Any) -> None:
    async def scenario() -> int:
        server = HttpServer(plane.status, CollectorRegistry(), dict, address="127.0.0.1", port=0)
        await server.start()
        try:
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{server.port}/fleet") as answer:
                return answer.status
        finally:
            await server.stop()

    assert asyncio.run(scenario()) == 404
