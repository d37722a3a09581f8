"""An optional peer of the convergence benchmark: sovereign, the Python control plane for Envoy on PyPI.

It is polled over REST. It gets its fastest setting: one worker, its context read every second (the smallest that its
configuration takes), Envoy asking ten times a second, one small route. It needs an environment of its own:

    python -m venv /tmp/peer && /tmp/peer/bin/pip install sovereign
    HEADGATE_PEER_PYTHON=/tmp/peer/bin/python python benchmarks/convergence.py --peer sovereign
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks.child import Child
from benchmarks.plane import LISTENER, listener_port, now
from headgate.envoy import EnvoyProcess

HOST = "watched.example"
VARIABLE = "HEADGATE_PEER_PYTHON"
TYPES = "type.googleapis.com/envoy"

ROUTES = """\
resources:
- '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: watched
  virtual_hosts:
  - name: watched
    domains: ['*']
    routes:
    - match: {prefix: /}
      route:
        weighted_clusters:
          clusters:
          - {name: v1, weight: {{ weights.v1 }}}
          - {name: v2, weight: {{ weights.v2 }}}
"""


def missing(python: str | None) -> str | None:
    """Why the peer cannot be measured; None when it can."""
    if not python:
        return f"{VARIABLE} is not set"
    program = Path(python).with_name("sovereign")
    return None if program.exists() else f"there is no {program}"


class Sovereign:
    """The peer, its Envoy and a probe."""

    def __init__(self, python: str, ports: dict[str, int]) -> None:
        self._program, self._ports = Path(python).with_name("sovereign"), ports
        self._stack = AsyncExitStack()
        self._arm = "v1"

    async def start(self) -> None:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-peer-")))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._write("v1")
        (self._folder / "routes.j2").write_text(ROUTES)
        (self._folder / "sovereign.yaml").write_text(yaml.safe_dump(self._config()))
        environment = {
            **os.environ,
            "SOVEREIGN_CONFIG": f"file://{self._folder}/sovereign.yaml",
            "SOVEREIGN_HOST": "127.0.0.1",
            "SOVEREIGN_PORT": str(port),
            "SOVEREIGN_WORKERS": "1",
        }
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: ASYNC220  a millisecond
            [str(self._program)], env=environment, cwd=self._folder, stdout=quiet, stderr=quiet, start_new_session=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(lambda: os.killpg(process.pid, 9))
        await self._until_up(f"http://127.0.0.1:{port}/healthcheck", process)
        envoy = EnvoyProcess(self._bootstrap(port), concurrency=1, log_level="critical")
        self._stack.push_async_callback(envoy.stop)
        await envoy.start(ready=False)
        self._probe = self._stack.enter_context(Child.script("probe.py", await listener_port(envoy, 30), HOST))
        await self.asking(True)
        while (await asyncio.to_thread(self._probe.hear, "answer", 30))["version"] != "v1":
            pass

    async def stop(self) -> None:
        await self._stack.aclose()

    async def asking(self, on: bool) -> None:
        """Let the probe ask, or keep it silent while another plane is measured."""
        self._probe.say("go" if on else "pause")
        await asyncio.sleep(0.05)

    async def flip(self) -> float:
        """Change the weights; milliseconds to the first answer by the new ones."""
        self._arm = "v2" if self._arm == "v1" else "v1"
        changed = now()
        self._write(self._arm)
        while (answer := await asyncio.to_thread(self._probe.hear, "answer", 60))["version"] != self._arm:
            pass
        return float(answer["at"] - changed) * 1000

    def _write(self, arm: str) -> None:
        """Replace its context in one step, so that it never reads half of it."""
        new = self._folder / "weights.new"
        new.write_text(json.dumps({version: 100 if version == arm else 0 for version in ("v1", "v2")}))
        new.replace(self._folder / "weights.json")

    def _config(self) -> dict[str, Any]:
        weights = {"protocol": "file", "serialization": "json", "path": f"{self._folder}/weights.json"}
        routes = {"protocol": "file", "serialization": "jinja2", "path": f"{self._folder}/routes.j2"}
        return {
            "templates": {"default": [{"type": "routes", "spec": routes}]},
            "template_context": {"refresh": True, "refresh_rate": 1, "context": {"weights": weights}},
        }

    async def _until_up(self, url: str, process: subprocess.Popen[bytes]) -> None:
        async with asyncio.timeout(30), aiohttp.ClientSession() as client:
            while process.poll() is None:
                try:
                    async with client.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        raise RuntimeError(f"{self._program} ended with exit code {process.returncode}")

    def _bootstrap(self, port: int) -> dict[str, Any]:
        rest = {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": ["sovereign"],
            "refresh_delay": "0.1s",
            "request_timeout": "5s",
        }
        rds = {
            "route_config_name": "watched",
            "config_source": {"resource_api_version": "V3", "api_config_source": rest},
        }
        manager = {
            "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "peer",
            "rds": rds,
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        listener = {"name": LISTENER, "address": _socket(0), "filter_chains": [{"filters": filters}]}
        return {
            "node": {"id": "peer", "cluster": "peer"},
            "admin": {"address": _socket(0)},
            "static_resources": {
                "listeners": [listener],
                "clusters": [_cluster("sovereign", port), *(_cluster(name, at) for name, at in self._ports.items())],
            },
        }


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _socket(port)}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
