"""The tutorials of Iter8, in their order, with their manifests: real gRPC inference through a real Envoy."""

from __future__ import annotations

from typing import Any

import pytest

HOST = "wisdom.modelmesh-serving"
MODEL = "modelmesh-serving/wisdom"
INFLIGHT = 3_000.0
"""Milliseconds that the candidate takes for each of its last requests."""


def test_blue_green(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = await it.modelmesh("wisdom-0", "wisdom-1")
        it.isvc("wisdom-0")
        it.apply(*it.template(templateName="initialize-rollout", trafficStrategy="blue-green"))
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, wisdom_0=100, wisdom_1=0)
        async with it.load(HOST, grpc=True) as ledger:
            it.isvc("wisdom-1", ready=False)
            assert await it.asked(HOST) == {"wisdom-0": 40}

            it.isvc_ready("wisdom-1", True)
            await it.programmed(MODEL, wisdom_0=50, wisdom_1=50)
            assert set(await it.asked(HOST)) == {"wisdom-0", "wisdom-1"}

            it.apply(
                *it.template(
                    templateName="modify-weights",
                    trafficStrategy="blue-green",
                    modelVersions=[{"weight": 20}, {"weight": 80}],
                )
            )
            await it.programmed(MODEL, wisdom_0=20, wisdom_1=80)

            # Promoted: the primary takes the candidate's place, and the candidate goes with requests in flight.
            it.isvc("wisdom-0", storage="s3://models/wisdom-candidate")
            await it.programmed(MODEL, wisdom_0=20, wisdom_1=80)
            server.behave(latency_ms=INFLIGHT)
            await it.until(lambda: server.counts.in_flight > 20, "requests in flight")
            it.delete_isvc("wisdom-1")
            await it.programmed(MODEL, wisdom_0=100, wisdom_1=0)
            assert it.find_isvc("wisdom-1"), "protected while its requests are in flight"
            await it.until(lambda: it.find_isvc("wisdom-1") is None, "the finalizer gone")
            server.behave(latency_ms=0.0)
        assert not ledger.failed, ledger.errors
        assert (await it.asked(HOST)) == {"wisdom-0": 40}

    rig(body)


@pytest.mark.parametrize("strategy", ["mirror"])
def test_mirror(rig: Any, strategy: str) -> None:
    async def body(it: Any) -> None:
        server = await it.modelmesh("wisdom-0", "wisdom-1")
        it.isvc("wisdom-0")
        it.apply(*it.template(templateName="initialize-rollout", trafficStrategy=strategy))
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, wisdom_0=100)
        async with it.load(HOST, grpc=True, rate=100) as ledger:
            it.isvc("wisdom-1", ready=False)
            assert await it.asked(HOST) == {"wisdom-0": 40}
            assert server.counts.grpc_shadows == 0

            it.isvc_ready("wisdom-1", True)
            await it.until(lambda: _mirrored(it) == 100, "mirrored")
            await it.programmed(MODEL, wisdom_0=100)
            copies = server.counts.grpc_shadows
            assert await it.asked(HOST) == {"wisdom-0": 40}
            await it.until(lambda: server.counts.grpc_shadows >= copies + 40, "a copy of every request")

            it.apply(*it.template(templateName="modify-weights", trafficStrategy=strategy, mirrorPercentage=20))
            await it.until(lambda: _mirrored(it) == 20, "mirrored in part")
            await it.programmed(MODEL, wisdom_0=100)
            shadows, requests = server.counts.grpc_shadows, server.counts.requests
            await it.asked(HOST, 400)
            seen = (server.counts.grpc_shadows - shadows) / (server.counts.requests - requests)
            assert 0.1 < seen < 0.3  # of at least 400: beyond five standard deviations

            it.delete_isvc("wisdom-1")
            await it.until(lambda: it.find_isvc("wisdom-1") is None, "the finalizer gone")
        assert not ledger.failed, ledger.errors

    rig(body)


def _mirrored(it: Any) -> float:
    return next(
        (one.get("mirrorPercent", 0) for one in it.status(MODEL).get("versions", ()) if one["name"] == "wisdom-1"), 0
    )


def test_canary(rig: Any) -> None:
    async def body(it: Any) -> None:
        await it.modelmesh("wisdom-0", "wisdom-1")
        it.isvc("wisdom-0")
        it.apply(*it.template(templateName="initialize-rollout", trafficStrategy="canary"))
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, wisdom_0=100)
        async with it.load(HOST, grpc=True) as ledger, it.load(HOST, grpc=True, headers={"traffic": "test"}) as testers:
            it.isvc("wisdom-1", ready=False)
            assert await it.asked(HOST, traffic="test") == {"wisdom-0": 40}
            it.isvc_ready("wisdom-1", True)
            await it.until(lambda: _matched(it), "the header route")
            await it.programmed(MODEL, wisdom_0=100)
            assert await it.asked(HOST, traffic="test") == {"wisdom-1": 40}
            assert await it.asked(HOST) == {"wisdom-0": 40}
            it.delete_isvc("wisdom-1")
            await it.until(lambda: it.find_isvc("wisdom-1") is None, "the finalizer gone")
            assert await it.asked(HOST, traffic="test") == {"wisdom-0": 40}
        assert not ledger.failed, ledger.errors
        assert not testers.failed, testers.errors

    rig(body)


def _matched(it: Any) -> bool:
    return any(one.get("match") for one in it.status(MODEL).get("versions", ()) if one["name"] == "wisdom-1")
