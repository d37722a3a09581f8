"""What the control plane says of its models: state, versions, Envoys, Envoy's words."""

from __future__ import annotations

import asyncio
from collections import Counter

from headgate.documents import State, envoy_document, timestamp, unknown
from router.health import Health
from router.problem import Problem
from xds.cache import Rejection
from xds.fleet import Envoy
from xds.ir import Endpoint
from xds.resources import Type

V1, V2 = Endpoint("127.0.0.1", 8001), Endpoint("127.0.0.1", 8002)


def envoy(name: str = "envoy-1", **lagging: str) -> Envoy:
    behind = {key.replace("_", "/"): why for key, why in lagging.items()}
    return Envoy(name, "default", "127.0.0.1:4711", "delta", "envoy/1.40.0", 1_700_000_000.0, behind, None)


PROBED = [
    {"name": "v1", "weight": 3, "backend": {"endpoints": ["127.0.0.1:8001"]}, "readiness": {"tcp": {}}},
    {"name": "v2", "weight": 1, "backend": {"endpoints": ["127.0.0.1:8002"]}, "readiness": {"tcp": {}}},
]


def test_a_model_is_pending_until_an_envoy_is_connected_and_has_it(plane) -> None:
    plane.put()
    assert plane.state() == "Pending"
    plane.fleet.now = [envoy(default_iris="no ACK yet")]
    assert plane.state() == "Pending"
    plane.fleet.now = [envoy()]
    assert plane.state() == "Programmed"


def test_envoys_that_lag_are_named_with_the_reason(plane) -> None:
    plane.put()
    plane.fleet.now = [envoy("a"), envoy("b", default_iris="no ACK yet"), envoy("c", default_other="not sent yet")]
    document = plane.status.model("default/iris")
    assert document["envoys"] == {"applied": 2, "total": 3, "lagging": [{"node": "b", "why": "no ACK yet"}]}


def test_envoys_of_another_gateway_do_not_count(plane) -> None:
    plane.put()
    other = envoy()
    plane.fleet.now = [Envoy(other.id, "edge", other.address, "delta", "", 0.0, {}, None)]
    assert plane.status.model("default/iris")["envoys"]["total"] == 0


def test_a_model_without_a_ready_version_is_degraded(plane) -> None:
    plane.fleet.now = [envoy()]
    plane.put(versions=PROBED)
    assert plane.state() == "Degraded"
    plane.store.set_health("default/iris", "v2", V2, Health(True, "ready"))
    plane.settle()
    assert plane.state() == "Programmed"


def test_a_model_whose_manifest_is_broken_now_is_degraded(plane) -> None:
    plane.fleet.now = [envoy()]
    plane.put()
    plane.store.report("iris.yaml", [Problem("iris.yaml:3", "spec", "is broken")], ["default/iris"])
    plane.settle()
    assert plane.state() == "Degraded"
    plane.store.report("iris.yaml", [Problem("iris.yaml:3", "spec", "is odd", severity="warning")], ["default/iris"])
    plane.settle()
    assert plane.state() == "Programmed"


def test_a_rejected_model_carries_envoys_words(plane) -> None:
    plane.fleet.now = [envoy()]
    plane.put()
    cache = plane.sink.caches["default"]
    route = cache.get(Type.ROUTE, "default/iris")
    cache.reject(
        Rejection("default/iris", Type.ROUTE, "default/iris", route.version, "no argument for repetition", "envoy-1")
    )
    document = plane.status.model("default/iris")
    assert document["state"] == "Rejected"
    assert document["rejection"] == {
        "node": "envoy-1",
        "type": "route",
        "resource": "default/iris",
        "version": route.version,
        "message": "no argument for repetition",
    }
    assert document["envoys"]["lagging"] == [{"node": "envoy-1", "why": "keeps the last good version"}]


def test_versions_tell_readiness_weight_and_endpoints(plane) -> None:
    plane.put(versions=PROBED)
    plane.store.set_health("default/iris", "v1", V1, Health(True, "ready"))
    plane.settle()
    primary, candidate = plane.status.model("default/iris")["versions"]
    assert primary == {
        "name": "v1",
        "role": "primary",
        "ready": True,
        "reason": "ready",
        "since": "2023-11-14T22:13:20.000Z",
        "weight": 100.0,
        "mirror": None,
        "match": False,
        "endpoints": {"ready": 1, "total": 1},
        "live": None,
    }
    assert (candidate["ready"], candidate["weight"], candidate["endpoints"]) == (False, 0.0, {"ready": 0, "total": 1})
    assert candidate["reason"] == "waiting for first probe"


def test_an_unprobed_version_counts_all_its_endpoints_as_ready(plane) -> None:
    plane.put(versions=[{"name": "v1", "backend": {"endpoints": ["127.0.0.1:1", "127.0.0.1:2"]}}])
    [version] = plane.status.model("default/iris")["versions"]
    assert version["endpoints"] == {"ready": 2, "total": 2}


def test_states_are_counted_by_gateway(plane) -> None:
    plane.fleet.now = [envoy(default_iris="no ACK yet")]
    for name in ("iris", "wine", "digits"):
        plane.put(name)
    counted = asyncio.run(plane.status.states())
    assert counted == Counter({("default", State.PROGRAMMED): 2, ("default", State.PENDING): 1})


def test_counting_gives_others_a_turn(plane) -> None:
    for index in range(250):
        plane.put(f"model-{index}")

    async def turns() -> int:
        taken, done = 0, asyncio.Event()

        async def other() -> None:
            nonlocal taken
            while not done.is_set():
                taken += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await plane.status.states()
        done.set()
        await task
        return taken

    assert asyncio.run(turns()) >= 2


def test_problems_are_listed_once(plane) -> None:
    plane.put()
    plane.store.report("iris.yaml", [Problem("iris.yaml:3", "spec", "is broken", "mend it")], ["default/iris"])
    plane.settle()
    assert plane.status.problems() == [
        {"where": "iris.yaml:3", "field": "spec", "what": "is broken", "hint": "mend it", "severity": "error"}
    ]
    assert plane.status.severities() == Counter(error=1)


def test_the_arm_of_a_user_is_told_with_how_it_comes_about(plane) -> None:
    versions = [
        {"name": "v1", "weight": 3, "backend": {"endpoints": ["127.0.0.1:8001"]}},
        {"name": "v2", "weight": 1, "backend": {"endpoints": ["127.0.0.1:8002"]}},
    ]
    plane.put(versions=versions, sticky={"header": "x-user"})
    for user in ("alice", "bob", "ünal", ""):
        found = plane.status.arm("default/iris", user)
        assert found["header"] == "x-user"
        assert found["arms"] == [
            {"version": "v2", "from": 0, "to": 2500},
            {"version": "v1", "from": 2500, "to": 10000},
        ]
        assert found["version"] == ("v2" if found["bucket"] < 2500 else "v1")


def test_a_model_that_is_not_sticky_has_no_arms(plane) -> None:
    plane.put()
    assert plane.status.arm("default/iris", "alice") is None
    assert plane.status.arm("default/none", "alice") is None


def test_a_gateway_tells_its_listeners_and_why_an_envoy_would_not_open_one(plane) -> None:
    plane.put()
    plane.fleet.now = [envoy()]
    expected = {
        "gateway": "default",
        "listeners": [{"name": "http", "address": "127.0.0.1", "port": 10000, "tls": False}],
        "models": 1,
        "onDemand": False,
        "envoys": {"applied": 1, "total": 1, "lagging": []},
        "rejection": None,
    }
    assert plane.status.gateways() == [expected]
    cache = plane.sink.caches["default"]
    version = cache.get(Type.LISTENER, "http").version
    cache.reject(Rejection("gateway/default", Type.LISTENER, "http", version, "cannot\nbind\n", "envoy-1"))
    [shown] = plane.status.gateways()
    assert shown["rejection"]["message"] == "cannot bind"
    assert shown["envoys"]["applied"] == 0


def test_an_envoy_is_told_with_what_it_lacks() -> None:
    assert envoy_document(envoy(default_iris="no ACK yet")) == {
        "node": "envoy-1",
        "gateway": "default",
        "address": "127.0.0.1:4711",
        "variant": "delta",
        "version": "envoy/1.40.0",
        "connectedAt": "2023-11-14T22:13:20.000Z",
        "lagging": [{"owner": "default/iris", "why": "no ACK yet"}],
        "rejection": None,
    }


def test_a_name_that_is_not_there_is_answered_with_what_was_meant() -> None:
    assert unknown("model", "default/irs", ["default/iris"])["hint"] == "did you mean 'default/iris'?"
    assert unknown("model", "x", ["default/iris"])["hint"] == "known: default/iris"
    assert unknown("model", "x", [])["hint"] == "there is no model at all"
    assert unknown("model", "zzz", [f"a/{n:02}" for n in range(12)])["hint"].endswith("a/09 and 2 more")


def test_unknown_times_are_not_made_up() -> None:
    assert timestamp(None) is None
    assert timestamp(0) is None


def test_a_shared_namespace_makes_no_two_names_alike() -> None:
    assert unknown("model", "default/nope", ["default/iris"])["hint"] == "known: default/iris"
    assert unknown("model", "default/irs", ["default/iris", "x/irsa"])["hint"] == "did you mean 'default/iris'?"
    assert unknown("model", "default/wine", ["default/iris", "shop/wine"])["hint"] == "did you mean 'shop/wine'?"
    assert unknown("model", "default/wine", [])["hint"] == "there is no model at all"
