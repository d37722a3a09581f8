"""`headgate serve` as users run it: its own process, a folder of manifests, an Envoy from `headgate bootstrap`."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from headgate.envoy import EnvoyProcess

PATIENCE = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Serve:
    """One `headgate serve` on fixed ports, so that it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.manifests, self.config = folder / "manifests", folder / "headgate.yaml"
        self.manifests.mkdir()
        self.xds, self.http = free_port(), free_port()
        listener = {"name": "http", "port": 0}
        self.config.write_text(
            yaml.safe_dump(
                {
                    "xds": {"port": self.xds},
                    "http": {"port": self.http},
                    "gateways": [{"name": "default", "listeners": [listener]}],
                }
            )
        )
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "serve"),
            *("--manifests", str(self.manifests), "--config", str(self.config)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        await self.until("/readyz", lambda status, _: status == 200)

    async def get(self, path: str) -> tuple[int, Any]:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.http}{path}") as answer,
            ):
                text = await answer.text()
                return answer.status, json.loads(text) if "json" in answer.content_type else text
        except aiohttp.ClientError:
            return 0, None

    async def until(self, path: str, holds: Callable[[int, Any], object]) -> Any:
        """Ask until the answer is as wanted; the last one is in the error."""
        last: Any = None
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    status, last = await self.get(path)
                    if holds(status, last):
                        return last
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{path} never came true: {json.dumps(last, indent=1)[:2000]}") from None

    async def programmed(self, model: str, state: str = "Programmed", **weights: float) -> None:
        def holds(status: int, found: Any) -> bool:
            return (
                status == 200
                and found["state"] == state
                and found["envoys"]["applied"] >= 1
                and {v["name"]: v["weight"] for v in found["versions"]} == weights
            )

        await self.until(f"/models/{model}", holds)

    async def envoy(self) -> EnvoyProcess:
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "bootstrap"),
            *("--node-id", "e1", "--cluster", "default", "--xds", f"127.0.0.1:{self.xds}", "--admin-port", "0"),
            stdout=asyncio.subprocess.PIPE,
        )
        text, _ = await made.communicate()
        process = EnvoyProcess(yaml.safe_load(text), concurrency=1)
        await process.start()
        return process

    def write(self, name: str, text: str) -> None:
        (self.manifests / name).write_text(text)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


def rollout(name: str, r: Any, **weights: int) -> str:
    versions = [
        {"name": v, "weight": w, "backend": {"endpoints": [f"127.0.0.1:{r.servers[v].rest_port}"]}}
        for v, w in weights.items()
    ]
    spec = {"hosts": [f"{name}.test"], "strategy": "blue-green", "protocol": "http1", "versions": versions}
    document = {"apiVersion": "headgate.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": name}, "spec": spec}
    return yaml.safe_dump(document)


def test_it_survives_whatever_happens_to_it_and_its_folder_and_no_request_fails(rig: Any, tmp_path: Path) -> None:
    async def body(r: Any) -> None:
        await r.model("v1")
        await r.model("v2")
        plane = Serve(tmp_path)
        plane.write("iris.yaml", rollout("iris", r, v1=1))
        plane.write("rose.yaml", rollout("rose", r, v1=1))
        await plane.start()
        envoy = await plane.envoy()
        try:
            r.port = await envoy.wait_listener("http")
            await plane.programmed("default/iris", v1=100.0)
            async with r.load("iris.test") as tally:
                plane.write("iris.yaml", rollout("iris", r, v1=80, v2=20))
                await plane.programmed("default/iris", v1=80.0, v2=20.0)

                whole = rollout("iris", r, v1=1, v2=99)
                plane.write("iris.yaml", whole[: len(whole) // 2] + "\n  {broken")
                await plane.programmed("default/iris", "Degraded", v1=80.0, v2=20.0)
                plane.write("rose.yaml", rollout("rose", r, v2=1))
                await plane.programmed("default/rose", v2=100.0)

                await plane.end(signal.SIGKILL)
                assert await r.answered_by("rose.test") == "v2", "Envoy keeps its routes"
                plane.write("iris.yaml", rollout("iris", r, v1=10, v2=90))
                await plane.start()
                await plane.programmed("default/iris", v1=10.0, v2=90.0)

                shutil.move(plane.manifests, tmp_path / "away")
                await plane.until("/status", lambda _, found: found["problems"])
                assert await r.answered_by("rose.test") == "v2", "a folder that vanishes takes nothing with it"
                shutil.move(tmp_path / "away", plane.manifests)
                await plane.until("/status", lambda _, found: not found["problems"])

                plane.write("iris.yaml", rollout("iris", r, v2=1))
                await plane.programmed("default/iris", v2=100.0)
                (plane.manifests / "rose.yaml").unlink()
                await plane.until("/models/default/rose", lambda status, _: status == 404)
                plane.write("rose.yaml", rollout("rose", r, v1=1))
                await plane.programmed("default/rose", v1=100.0)
                assert await r.answered_by("rose.test") == "v1", "deleted and re-created"
            assert not tally.failures
            assert tally.total > 100
            assert await plane.end() == 0
        finally:
            await envoy.stop()
            await plane.end(signal.SIGKILL)

    rig(body)


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    async def run() -> None:
        plane = Serve(tmp_path)
        with socket.create_server(("127.0.0.1", plane.xds)):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", "serve"),
                *("--manifests", str(plane.manifests), "--config", str(plane.config)),
                stderr=asyncio.subprocess.PIPE,
            )
            _, words = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 1
        (line,) = [line for line in words.decode().splitlines() if line.startswith("error:")]
        assert f"127.0.0.1:{plane.xds}" in line
        assert "xds.port" in line
        assert b"Traceback" not in words

    asyncio.run(run())
