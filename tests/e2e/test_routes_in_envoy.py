"""Every kind of route, as a real Envoy carries it out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from xds.ir import (
    Backend,
    Endpoint,
    HeaderMatch,
    Match,
    Mirror,
    ModelPlan,
    PathKind,
    PathMatch,
    Protocol,
    QueryMatch,
    Route,
    StringMatch,
)

MATCHES: list[tuple[str, Match, dict[str, Any], dict[str, Any]]] = [
    (
        "exact header",
        Match(headers=(HeaderMatch("traffic", StringMatch.EXACT, "test"),)),
        {"headers": {"traffic": "test"}},
        {"headers": {"traffic": "tests"}},
    ),
    (
        "prefix header",
        Match(headers=(HeaderMatch("user", StringMatch.PREFIX, "qa-"),)),
        {"headers": {"user": "qa-7"}},
        {"headers": {"user": "7-qa-"}},
    ),
    (
        "suffix header",
        Match(headers=(HeaderMatch("user", StringMatch.SUFFIX, "@x.test"),)),
        {"headers": {"user": "a@x.test"}},
        {"headers": {"user": "a@x.tests"}},
    ),
    (
        "contains header",
        Match(headers=(HeaderMatch("user", StringMatch.CONTAINS, "beta"),)),
        {"headers": {"user": "my-beta-user"}},
        {"headers": {"user": "bet"}},
    ),
    (
        "regex header",
        Match(headers=(HeaderMatch("user", StringMatch.REGEX, "[0-4]+"),)),
        {"headers": {"user": "123"}},
        {"headers": {"user": "125"}},
    ),
    ("present header", Match(headers=(HeaderMatch("beta", StringMatch.PRESENT),)), {"headers": {"beta": "1"}}, {}),
    (
        "inverted header",
        Match(headers=(HeaderMatch("plain", StringMatch.PRESENT, invert=True),)),
        {},
        {"headers": {"plain": "1"}},
    ),
    (
        "two headers",
        Match(headers=(HeaderMatch("a", StringMatch.EXACT, "1"), HeaderMatch("b", StringMatch.EXACT, "2"))),
        {"headers": {"a": "1", "b": "2"}},
        {"headers": {"a": "1"}},
    ),
    ("method", Match(method="HEAD"), {"method": "HEAD"}, {"method": "GET"}),
    (
        "path prefix",
        Match(path=PathMatch(PathKind.PREFIX, "/v2/models")),
        {"path": "/v2/models/iris"},
        {"path": "/v2/health/live"},
    ),
    (
        "exact path",
        Match(path=PathMatch(PathKind.EXACT, "/v2/health/live")),
        {"path": "/v2/health/live?x=1"},
        {"path": "/v2/health/ready"},
    ),
    (
        "regex path",
        Match(path=PathMatch(PathKind.REGEX, "/v2/health/l.*")),
        {"path": "/v2/health/live"},
        {"path": "/v2/health/ready"},
    ),
    (
        "query parameter",
        Match(query=(QueryMatch("arm", StringMatch.EXACT, "b"),)),
        {"path": "/v2/models/iris?arm=b"},
        {"path": "/v2/models/iris?arm=bb"},
    ),
    (
        "query parameter present",
        Match(query=(QueryMatch("arm", StringMatch.PRESENT),)),
        {"path": "/v2/models/iris?arm=x"},
        {"path": "/v2/models/iris"},
    ),
]


@pytest.mark.parametrize(("match", "inside", "outside"), [m[1:] for m in MATCHES], ids=[m[0] for m in MATCHES])
def test_header_routes_sit_above_the_weights(rig: Any, match: Match, inside: Any, outside: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        pinned = Route("pinned", match, (r.target("ns/iris", "v2"),))
        r.apply(r.split("ns/iris", {"v1": 10_000, "v2": 0}, routes=(pinned,)))
        await r.envoy()
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test", **inside) == "v2"
        assert await r.answered_by("iris.test", **outside) == "v1"

    rig(body)


def test_a_mirror_gets_marked_copies_and_never_answers(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        live, shadow = await r.model("v1"), await r.model("v2")
        shadow.behave(error_rate=1.0)
        plan = r.split("ns/iris", {"v1": 10_000})
        mirrored = ModelPlan(
            plan.name,
            plan.gateway,
            plan.hosts,
            (
                Route(
                    "weighted",
                    Match(),
                    plan.routes[0].targets,
                    (Mirror("ns/iris/v2~shadow", 100.0, "v2", (("x-arm", "shadow"),)),),
                ),
            ),
            (*plan.backends, Backend("ns/iris/v2~shadow", (Endpoint("127.0.0.1", shadow.rest_port),), Protocol.HTTP1)),
        )
        r.apply(mirrored)
        envoy = await r.envoy()
        await r.applied("ns/iris")
        async with r.load("iris.test") as tally:
            while tally.total < 200:
                await r.ask("iris.test", tally=tally)
        assert set(tally.versions) == {"v1"}
        assert not tally.failures
        assert live.counts.shadows == 0
        while not await envoy.stats("cluster.ns/iris/v2~shadow.upstream_rq_total"):
            await r.ask("iris.test")
        stats = await envoy.stats("cluster.ns/iris/v[12].*upstream_rq_total")
        assert stats["cluster.ns/iris/v1.upstream_rq_total"] >= 200, "its stats stay apart from the live ones"
        assert stats["cluster.ns/iris/v2~shadow.upstream_rq_total"] >= 150

    rig(body)


def test_models_are_kept_apart_by_host_with_or_without_a_port(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        r.apply(r.split("ns/iris", {"v1": 10_000}, hosts=("iris.test", "flowers.test")))
        r.apply(r.split("ns/rose", {"v2": 10_000}))
        await r.envoy()
        await r.applied("ns/rose")
        assert await r.answered_by("iris.test") == "v1"
        assert await r.answered_by("flowers.test:8080") == "v1"
        assert await r.answered_by("rose.test") == "v2"
        assert await r.answered_by("nobody.test") == "404"

    rig(body)


@pytest.mark.parametrize("on_demand", [False, True])
def test_models_come_change_move_and_go(rig: Any, on_demand: bool) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        await r.envoy()
        r.apply(r.split("ns/iris", {"v1": 10_000}), on_demand=on_demand)
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v1"
        r.apply(r.split("ns/iris", {"v1": 0, "v2": 10_000}), on_demand=on_demand)
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v2"
        r.apply(r.split("ns/other", {"v1": 10_000}, hosts=("iris.test",)), on_demand=on_demand)
        r.caches["default"].remove("ns/iris")
        await r.applied("ns/other")
        assert await r.answered_by("iris.test") == "v1"
        r.caches["default"].remove("ns/other")
        await r.applied("ns/other")
        assert await r.answered_by("iris.test") == "404"

    rig(body)


def test_sticky_users_stay_where_they_are_predicted_to_be(rig: Any) -> None:
    from router.sticky import arm

    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        await r.envoy()
        users = [f"user-{i}" for i in range(150)]
        before: dict[str, str] = {}
        for share in (500, 2_500, 6_000):
            plan = r.split("ns/iris", {"v2": share, "v1": 10_000 - share}, hash_header="x-user")
            r.apply(plan)
            await r.applied("ns/iris")
            targets = plan.routes[-1].targets
            for user in users:
                got = await r.answered_by("iris.test", headers={"x-user": user})
                assert got == arm(targets, user)
                assert not (before.get(user) == "v2" and got == "v1"), "nobody moves back"
                before[user] = got
        assert {"v1", "v2"} == set(before.values())

    rig(body)


def test_a_backend_found_by_dns(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        server = await r.model("v1")
        backend = Backend("dns/v1", (Endpoint("localhost", server.rest_port),), Protocol.HTTP1, dns=True)
        route = Route("weighted", Match(), (r.target("dns", "v1"),))
        r.apply(ModelPlan("ns/iris", "default", ("iris.test",), (route,), (backend,)))
        await r.envoy()
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v1"

    rig(body)


def test_grpc_and_rest_calls_are_both_mirrored_in_their_own_protocol(rig: Any) -> None:
    import grpc

    from router.manifests import parse
    from router.observe import observe
    from router.plan import plan
    from router.step import RolloutState

    async def body(r: Any) -> None:
        await r.serve()
        live, shadow = await r.model("v1", one_port=0), await r.model("v2", one_port=0)
        document = f"""
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: iris, namespace: ns}}
spec:
  hosts: [iris.test]
  strategy: mirror
  versions:
  - {{name: v1, backend: {{endpoints: ["127.0.0.1:{live.port}"]}}}}
  - {{name: v2, backend: {{endpoints: ["127.0.0.1:{shadow.port}"]}}}}
"""
        ((located,), ()) = (lambda parsed: (parsed.rollouts, parsed.problems))(parse(document.encode(), "test"))
        planned = plan(located.rollout, observe(located.rollout, {}), RolloutState(), ("iris.test",))
        assert planned.plan is not None
        r.apply(planned.plan)
        await r.envoy()
        await r.applied("ns/iris")
        for _ in range(20):
            await r.ask("iris.test", "/v2/models/iris/infer", method="POST")
        options = [("grpc.default_authority", "iris.test")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{r.port}", options) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for _ in range(20):
                with contextlib.suppress(grpc.aio.AioRpcError):  # it has no tensors; that it arrives is the point
                    await infer(b"\x0a\x04iris")
            async with asyncio.timeout(10):
                while shadow.counts.shadows < 40:  # noqa: ASYNC110 - the model server counts them
                    await asyncio.sleep(0.005)
        assert live.counts.shadows == 0

    rig(body)
