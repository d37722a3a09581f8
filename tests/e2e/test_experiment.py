"""The flow of an experiment on a candidate: wait, load over gRPC, assess, notify; a real Envoy, two real versions."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from headgate.envoy import EnvoyProcess
from xds.bootstrap import bootstrap
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
        ({"latency_ms": 500.0}, 99, {"v1": ["pass", "pass"], "v2": ["fail", "pass"]}),
        ({"error_rate": 0.5}, 99, {"v1": ["pass", "pass"], "v2": ["pass", "fail"]}),
    ],
    ids=["slow", "erring"],
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


class Plane:
    """`headgate serve` on a folder with one manifest, and an Envoy of it."""

    def __init__(self, folder: Path) -> None:
        self.manifest = folder / "models" / "iris.yaml"
        self.manifest.parent.mkdir()
        self.config = folder / "headgate.yaml"

    async def start(self, ports: dict[str, int]) -> None:
        self.xds, self.http = free_port(), free_port()
        listeners = [{"name": "http", "port": 0}]
        settings = {"xds": {"port": self.xds}, "http": {"port": self.http}}
        self.config.write_text(yaml.safe_dump({**settings, "gateways": [{"name": "default", "listeners": listeners}]}))
        versions = [
            {"name": name, "weight": 0 if index else 100, "backend": {"endpoints": [f"127.0.0.1:{port}"]}}
            for index, (name, port) in enumerate(ports.items())
        ]
        document = {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris"},
            "spec": {"hosts": ["iris.test"], "versions": versions},
        }
        self.text = "# with care\n" + yaml.safe_dump(document)
        self.manifest.write_text(self.text)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "serve"),
            *("--manifests", str(self.manifest.parent), "--config", str(self.config)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self.until(lambda: self.answers("/readyz"))
        self.envoy = EnvoyProcess(
            bootstrap(node_id="e1", node_cluster="default", xds_address="127.0.0.1", xds_port=self.xds, admin_port=0),
            concurrency=1,
        )
        await self.envoy.start()
        self.port = await self.envoy.wait_listener("http")

    async def answers(self, path: str) -> Any:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.http}{path}") as answer,
            ):
                return await answer.text() if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def weights(self) -> dict[str, float]:
        found = json.loads(await self.answers("/models/default/iris") or '{"versions": []}')
        return {one["name"]: one["weight"] for one in found["versions"]}

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(60):
            for _ in itertools.count():
                if await holds():
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        await self.envoy.stop()
        self.process.terminate()
        await self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_traffic_is_put_back_though_the_run_is_killed(rig, tmp_path: Path) -> None:
    """A real control plane and Envoy: 50/50 for the experiment, kill -9 in the middle of its load, then restore."""

    async def body(rig: Any) -> None:
        for version in ("v1", "v2"):
            await rig.model(version)
        plane = Plane(tmp_path)
        await plane.start({name: server.rest_port for name, server in rig.servers.items()})
        environment = {
            **os.environ,
            "HEADGATE_URL": f"http://127.0.0.1:{plane.http}",
            "HEADGATE_STORE": str(tmp_path / "store.db"),
        }
        try:
            await plane.until(lambda: is_(plane.weights(), {"v1": 100.0, "v2": 0.0}))
            file = tmp_path / "experiment.yaml"
            flower = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
            load = {
                "url": f"http://127.0.0.1:{plane.port}/v2/models/iris/infer",
                "headers": {"host": "iris.test"},
                "payloadStr": json.dumps({"inputs": [flower]}),
            }
            route = {"model": "iris", "weights": {"v1": 50, "v2": 50}, "manifest": "models/iris.yaml"}
            spec = [
                {"task": "route", "with": route},
                {"task": "http", "with": {**load, "qps": 50, "duration": "10m", "maxLag": "5s"}},
            ]
            file.write_text(yaml.safe_dump({"spec": spec}))
            run = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", "experiment", "run", str(file)),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
            )
            await plane.until(lambda: is_(plane.weights(), {"v1": 50.0, "v2": 50.0}))
            before = rig.servers["v2"].counts.requests
            await plane.until(lambda: more(rig.servers["v2"], before + 5))
            run.kill()
            await run.wait()
            assert plane.manifest.read_text() != plane.text
            restored = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", "experiment", "restore"),
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
            out, _ = await restored.communicate()
            assert (restored.returncode, out.decode()) == (0, "default/iris: its manifest is as it was\n")
            assert plane.manifest.read_text() == plane.text
            await plane.until(lambda: is_(plane.weights(), {"v1": 100.0, "v2": 0.0}))
        finally:
            await plane.stop()

    async def is_(found: Any, wanted: dict[str, float]) -> bool:
        return bool(await found == wanted)

    async def more(server: Any, count: int) -> bool:
        return bool(server.counts.requests > count)

    rig(body)
