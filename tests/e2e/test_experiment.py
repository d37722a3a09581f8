"""The flow of an experiment on a candidate: wait, load over gRPC, assess, notify; a real Envoy, two real versions."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from xds.ir import Backend, Endpoint, Match, ModelPlan, Protocol, Route

CALLS = 160
INPUT = {"name": "input", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [5.1, 3.5, 1.4, 0.2]}}


def experiment(envoy: int, candidate: int, hook: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "wisdom", "namespace": "seeds"},
        "spec": [
            {"task": "ready", "with": {"url": f"http://127.0.0.1:{candidate}/v2/models/iris/ready", "timeout": "60s"}},
            {
                "task": "grpc",
                "with": {
                    "host": f"127.0.0.1:{envoy}",
                    "call": "inference.GRPCInferenceService.ModelInfer",
                    "authority": "wisdom.test",
                    "data": {"model_name": "iris", "inputs": [INPUT]},
                    "rps": 100,
                    "total": CALLS,
                    "connections": 2,
                    "warmupNumRequests": 20,
                    "maxLag": "2s",  # of a busy machine: what is asked here is the verdict
                },
            },
            {
                "task": "assess",
                "with": {
                    "SLOs": {
                        "upper": [
                            {"metric": "grpc/latency/p50", "limit": 250},
                            {"metric": "grpc/error-rate", "limit": 0.1},
                        ]
                    }
                },
            },
            {"task": "notify", "with": {"url": hook, "payloadTemplate": "{{ .Summary | toJson }}"}},
        ],
    }


@asynccontextmanager
async def hook() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Somebody who is told."""
    told: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", told
    finally:
        await runner.cleanup()


async def headgate(*arguments: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "headgate",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("trouble", "code", "verdicts"),
    [
        ({}, 0, {"v1": ["pass", "pass"], "v2": ["pass", "pass"]}),
        ({"latency_ms": 500.0}, 99, {"v1": ["pass", "pass"], "v2": ["fail", "pass"]}),
        ({"error_rate": 0.5}, 99, {"v1": ["pass", "pass"], "v2": ["pass", "fail"]}),
    ],
    ids=["well", "slow", "erring"],
)
def test_each_version_gets_its_own_verdict(
    rig, tmp_path: Path, trouble: dict[str, Any], code: int, verdicts: dict[str, list[str]]
) -> None:
    async def body(rig: Any) -> None:
        await rig.serve()
        for version in ("v1", "v2"):
            await rig.model(version)
        rig.servers["v2"].behave(**trouble)
        backends = tuple(
            Backend(f"seeds/wisdom/{name}", (Endpoint("127.0.0.1", server.grpc_port),), Protocol.H2C)
            for name, server in rig.servers.items()
        )
        targets = (rig.target("seeds/wisdom", "v1", 2000), rig.target("seeds/wisdom", "v2", 8000))
        rig.apply(ModelPlan("seeds/wisdom", "default", ("wisdom.test",), (Route("w", Match(), targets),), backends))
        await rig.envoy()
        await rig.applied("seeds/wisdom")
        async with hook() as (url, told):
            file, store = tmp_path / "experiment.yaml", tmp_path / "store.db"
            file.write_text(yaml.safe_dump(experiment(rig.port, rig.servers["v2"].rest_port, url)))
            ended, out, err = await headgate("experiment", "run", file, "--store", store, "-o", "text")
            assert ended == code, err
        result = json.loads((await kept(store)).decode())
        assert [one["state"] for one in result["tasks"]] == ["completed"] * 4
        versions = result["insights"]["versions"]
        assert sorted(versions) == ["v1", "v2"]
        found = {
            name: [slo["verdicts"][index]["state"] for slo in result["insights"]["slos"]]
            for index, name in enumerate(versions)
        }
        assert found == verdicts
        counts = {
            name: result["insights"]["observed"][index]["grpc/request-count"]["values"][0]
            for index, name in enumerate(versions)
        }
        assert sum(counts.values()) == CALLS
        assert 0.07 < counts["v1"] / CALLS < 0.37  # Envoy's dice for a share of 20 %
        [said] = told
        assert said["experiment"]["metadata"] == {"name": "wisdom", "namespace": "seeds"}
        assert said["noTaskFailures"] is True
        assert said["slosSatisfied"] is (code == 0)
        assert "SLO Conditions" in out
        asserted, _, _ = await headgate(
            "experiment", "assert", file, "--store", store, "-c", "completed,nofailure,slos"
        )
        assert asserted == code

    rig(body)


async def kept(store: Path) -> bytes:
    from loadgen.experiment.store import SqliteStore

    result = await SqliteStore(store).get("seeds", "wisdom")
    assert result is not None
    return result.to_json()
