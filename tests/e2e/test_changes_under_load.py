"""What users must not notice: versions replaced, the control plane restarted, an Envoy that says no."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from xds.ir import HeaderMatch, Match, Route, StringMatch
from xds.resources import Type

BEYOND_ENVOYS_LIMIT = "|".join(f"[a-m]{{3}}{i}[n-z]+" for i in range(60))
"""Valid RE2, but a larger program than Envoy takes (re2.max_program_size.error_level, 100 by default)."""


@pytest.mark.parametrize("sotw", [False, True], ids=["delta", "sotw"])
def test_replacing_the_only_version_again_and_again_fails_no_request(rig: Any, sotw: bool) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        r.apply(r.split("ns/iris", {"v1": 10_000}, suffix="@0"))
        await r.envoy(sotw=sotw)
        await r.applied("ns/iris")
        async with r.load("iris.test") as tally:
            for generation in range(1, 31):
                r.apply(r.split("ns/iris", {"v1": 10_000}, suffix=f"@{generation}"))
                await r.applied("ns/iris")
                while tally.total < 5 * generation:
                    await r.ask("iris.test", tally=tally)
        assert not tally.failures
        (envoy,) = r.server.fleet.envoys()
        assert envoy.variant == ("sotw" if sotw else "delta")

    rig(body)


def test_a_weight_change_sends_one_route_and_moves_everyone(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        r.apply(r.split("ns/iris", {"v1": 10_000, "v2": 0}))
        await r.envoy()
        await r.applied("ns/iris")
        async with r.load("iris.test") as tally:
            for turn in range(40):
                shares = {"v1": 10_000 * (turn % 2), "v2": 10_000 * (1 - turn % 2)}
                r.apply(r.split("ns/iris", shares))
                await r.applied("ns/iris")
                assert await r.answered_by("iris.test") == ("v1" if turn % 2 else "v2")
        assert not tally.failures

    rig(body)


def test_the_control_plane_restarts_and_nobody_notices(rig: Any) -> None:
    async def body(r: Any) -> None:
        first = await r.serve()
        await r.model("v1")
        await r.model("v2")
        plans = [r.split(f"ns/m{i}", {"v1": 5_000, "v2": 5_000}) for i in range(20)]
        for plan in plans:
            r.apply(plan)
        envoy = await r.envoy()
        for plan in plans:
            await r.applied(plan.name)
        before = await envoy.stats(r".*(update_success|config_reload|update_rejected)$")
        async with r.load("m0.test") as tally:
            await first.stop()
            while tally.total < 100:
                await r.ask("m0.test", tally=tally)
            await r.serve(port=first.port)
            for plan in plans:
                r.apply(plan)
            for plan in plans:
                await r.applied(plan.name)
        assert not tally.failures
        after = await envoy.stats(r".*(update_success|config_reload|update_rejected)$")
        moved = {name: (before[name], after[name]) for name in before if after.get(name, 0) != before[name]}
        assert moved == {}, "nothing was sent again that had not changed"
        r.apply(r.split("ns/m0", {"v1": 0, "v2": 10_000}))
        await r.applied("ns/m0")
        assert await r.answered_by("m0.test") == "v2"

    rig(body)


@pytest.mark.parametrize("sotw", [False, True], ids=["delta", "sotw"])
def test_what_envoy_rejects_stays_that_models_own_trouble(rig: Any, sotw: bool) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        await r.model("v2")
        r.apply(r.split("ns/bad", {"v1": 10_000, "v2": 0}))
        r.apply(r.split("ns/good", {"v1": 10_000, "v2": 0}))
        await r.envoy(sotw=sotw)
        await r.applied("ns/bad")
        await r.applied("ns/good")
        regex = Match(headers=(HeaderMatch("user", StringMatch.REGEX, BEYOND_ENVOYS_LIMIT),))
        pinned = Route("pinned", regex, (r.target("ns/bad", "v2"),))
        r.apply(r.split("ns/bad", {"v1": 0, "v2": 10_000}, routes=(pinned,)))
        await r.until(lambda: r.server.fleet.rejection("default", "ns/bad"))
        assert "program size" in r.server.fleet.rejection("default", "ns/bad").message
        assert await r.answered_by("bad.test") == "v1", "it keeps its last good routes"
        for version in ("v2", "v1", "v2"):
            r.apply(r.split("ns/good", {"v1": 0, "v2": 0} | {version: 10_000}))
            await r.applied("ns/good")
            assert await r.answered_by("good.test") == version, "the others keep changing"
        await r.until(lambda: r.caches["default"].resources("ns/bad")[Type.ROUTE]["ns/bad"].refs == ("ns/bad/v1",))

        await r.envoy("fresh", sotw=sotw)
        await r.applied("ns/good", by=2)
        assert await r.answered_by("good.test") == "v2", "a newly started Envoy gets everything ..."
        assert await r.answered_by("bad.test") == "v1", "... and of the bad one what was last good"
        assert r.server.fleet.applied("default", "ns/bad").current == 0

        r.apply(r.split("ns/bad", {"v1": 0, "v2": 10_000}))
        await r.applied("ns/bad", by=2)
        assert r.server.fleet.rejection("default", "ns/bad") is None
        assert await r.answered_by("bad.test") == "v2"

    rig(body)


def test_a_fresh_envoy_finds_the_bad_one_among_many(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        for i in range(30):
            regex = Match(headers=(HeaderMatch("user", StringMatch.REGEX, BEYOND_ENVOYS_LIMIT),))
            pinned = (Route("pinned", regex, (r.target(f"ns/m{i}", "v1"),)),) if i == 17 else ()
            r.apply(r.split(f"ns/m{i}", {"v1": 10_000}, routes=pinned))
        await r.envoy(ready=False)
        for i in range(30):
            if i != 17:
                await r.applied(f"ns/m{i}")
        await r.until(lambda: r.server.fleet.rejection("default", "ns/m17"))

    rig(body)


def test_in_flight_requests_survive_the_removal_of_their_version(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.model("v1")
        old = await r.model("v2")
        r.apply(r.split("ns/iris", {"v1": 0, "v2": 10_000}))
        await r.envoy()
        await r.applied("ns/iris")
        old.behave(hold=True)
        inputs = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        held = [asyncio.create_task(_infer(r.port, inputs)) for _ in range(5)]
        while old.counts.in_flight < 5:  # noqa: ASYNC110 - the model server counts them
            await asyncio.sleep(0.005)
        r.apply(r.split("ns/iris", {"v1": 10_000}))
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v1"
        old.behave(hold=False)
        assert {await task for task in held} <= {(200, "v2"), (400, "v2")}

    rig(body)


async def _infer(port: int, inputs: Any) -> tuple[int, str]:
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}/v2/models/iris/infer", json=inputs, headers={"host": "iris.test"}
        ) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers.get("app-version", "")
