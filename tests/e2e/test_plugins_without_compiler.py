"""A machine without a C compiler: `host: auto` runs the same plugins beside Envoy, and everybody says why."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from headgate.demo.model_server import ModelServer

PATIENCE = 30.0
GREET = """
from sidecar.plugin import CONTINUE, HttpContext, Plugin


class Greeting(HttpContext["Greet"]):
    def on_response_headers(self, headers):
        headers.set("x-greeting", f"{self.root.word} from {self.get_property('version')}")
        return CONTINUE


class Greet(Plugin):
    context = Greeting

    def on_configure(self, config):
        self.word = config["word"]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_next_host_runs_the_plugins(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(story(tmp_path), 4 * PATIENCE))


async def story(folder: Path) -> None:
    port, xds, http = free_port(), free_port(), free_port()
    (folder / "manifests").mkdir()
    (folder / "bin").mkdir()
    (folder / "greet.py").write_text(GREET)
    address = f"unix:{folder}/p.sock"
    plugins = {
        "host": "auto",
        "folder": str(folder),
        "address": address,
        "timeout": "5s",
        "chain": [{"name": "greet", "plugin": "greet.py", "config": {"word": "hi"}, "models": "all"}],
    }
    gateway = {"name": "default", "listeners": [{"name": "http", "port": port}], "plugins": plugins}
    config = folder / "headgate.yaml"
    config.write_text(yaml.safe_dump({"xds": {"port": xds}, "http": {"port": http}, "gateways": [gateway]}))
    poor = {key: value for key, value in os.environ.items() if not key.startswith("ENVOY_") and key != "CC"}
    poor |= {"PATH": str(folder / "bin"), "HEADGATE_CACHE": str(folder / "cache")}

    async with AsyncExitStack() as stack:
        model = ModelServer("v1")
        await model.start()
        stack.push_async_callback(model.stop)
        version = {"name": "v1", "weight": 1, "backend": {"endpoints": [f"127.0.0.1:{model.rest_port}"]}}
        spec = {"hosts": ["iris.test"], "strategy": "blue-green", "protocol": "http1", "versions": [version]}
        rollout: dict[str, Any] = {"apiVersion": "headgate.dev/v1alpha1", "kind": "ModelRollout"}
        rollout |= {"metadata": {"name": "iris"}, "spec": spec}
        (folder / "manifests" / "iris.yaml").write_text(yaml.safe_dump(rollout))

        async def headgate(*arguments: str) -> asyncio.subprocess.Process:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", *arguments), env=poor, stderr=asyncio.subprocess.PIPE
            )
            stack.push_async_callback(ended, process)
            return process

        plane = await headgate("serve", "--manifests", str(folder / "manifests"), "--config", str(config))
        assert "no C compiler" in await said(plane, "plugins run beside Envoy, not inside it")
        beside = await headgate("plugin", "serve", str(config), "--listen", address)
        assert "greet" in await said(beside, "plugins for Envoy on")
        options = ("--xds", f"127.0.0.1:{xds}", "--admin-port", "0")
        envoy = await headgate("envoy", *options, "--", "--concurrency", "1")
        assert "no C compiler" in await said(envoy, "no plugins inside this Envoy")
        assert await greeting(port) == "hi from v1"


async def said(process: asyncio.subprocess.Process, what: str) -> str:
    """The line with these words."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stderr.readline()).decode():
            if what in line:
                return line
    raise AssertionError(f"it ended without saying {what!r}")


async def greeting(port: int) -> str | None:
    """What the plugin says, once Envoy answers."""
    async with aiohttp.ClientSession() as client, asyncio.timeout(PATIENCE):
        while True:
            try:
                async with client.get(f"http://127.0.0.1:{port}/", headers={"host": "iris.test"}) as got:
                    if "x-greeting" in got.headers:
                        return got.headers["x-greeting"]
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.communicate(), PATIENCE)
    except TimeoutError:
        process.kill()
        await process.communicate()
