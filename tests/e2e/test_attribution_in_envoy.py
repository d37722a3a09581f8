"""HTTP/1.1 load through a real Envoy on our control plane: every answer is put down to the version that gave it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from hub_thread import exchange

from headgate.envoy import EnvoyProcess
from loadgen.plan import Load, Scenario, Target

BODY = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
).encode()


def scenario(port: int, **more: Any) -> Scenario:
    headers = (("host", "iris.test"), ("content-type", "application/json"))
    target = Target(f"http://127.0.0.1:{port}/v2/models/iris/infer", method="POST", headers=headers, **more)
    return Scenario("a", target, Load("max", requests=1))


def test_versions_are_told_by_the_route_and_by_the_models_alike(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        servers = [await r.model("v1"), await r.model("v2")]
        envoy: EnvoyProcess = await r.envoy()
        r.apply(r.split("default/iris", {"v1": 2000, "v2": 8000}))
        await r.applied("default/iris")
        by_header, by_body = [
            await asyncio.to_thread(exchange, scenario(r.port, attribution=(rule,)), [BODY] * 100)
            for rule in ("header:app-version", "body:model_version")
        ]
        for calls in (by_header, by_body):
            assert {(call.code, call.failure) for call in calls} == {("200", None)}
            assert sum(call.connected > 0 for call in calls) == 1
        told = Counter(call.version for call in (*by_header, *by_body))
        assert told == {"v1": servers[0].counts.requests, "v2": servers[1].counts.requests}

        await servers[1].stop()
        failed = [call for call in await asyncio.to_thread(exchange, scenario(r.port), [BODY] * 40) if call.failure]
        assert {(call.failure, call.version) for call in failed} == {("status 503", "v2")}
        assert "upstream connect error" in failed[0].message
        await envoy.stop()
        (refused,) = await asyncio.to_thread(exchange, scenario(r.port), [BODY])
        assert (refused.failure, refused.version) == ("connection refused", None)

    rig(body)
