"""What the story plays on: a control plane, one real Envoy, model servers, steady traffic and a folder of manifests.

Everything is started by entering `Stage` and ended by leaving it, in the opposite order, whatever happens between.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headgate.config import Config
from headgate.demo.children import ModelServerProcess
from headgate.demo.figures import Ledger
from headgate.demo.manifest import HOST, MODEL, Edition, changes
from headgate.demo.ports import free_port
from headgate.demo.sidecar import beside
from headgate.demo.traffic import Aim, GrpcClient, HttpClient, Traffic, until
from headgate.envoy import EnvoyProcess
from headgate.serve import ControlPlane
from router.plan import VersionPlan
from xds.bootstrap import bootstrap

GATEWAY = "default"
USERS, TESTERS = "users", "testers"
HTTP_PER_SECOND, GRPC_PER_SECOND, TESTERS_PER_SECOND = 100, 30, 10
PATIENCE = 10.0
LATENCY = {"v1": 8.0, "v2": 5.0}


class Stage:
    """`plane`, `envoy`, `servers` by version, and the `ledger` of every request. `folder` is removed at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headgate-demo-"))
        self.manifest = self.folder / "models" / "iris.yaml"
        self.log_file = self.folder / "headgate.log"
        self.keep_folder = False
        self.ledger = Ledger()
        self.servers: dict[str, ModelServerProcess] = {}
        self._stack, self._traffic = AsyncExitStack(), AsyncExitStack()
        self._users = itertools.count()

    async def __aenter__(self) -> Self:
        self._stack.callback(self._forget_folder)
        async with AsyncExitStack() as starting:
            starting.push_async_exit(self._stack.__aexit__)
            self._log_to_file()
            self.manifest.parent.mkdir()
            self.port, self.figures_port = free_port(10_000), free_port(18_002)
            self.plane = await self._stack.enter_async_context(ControlPlane(self._config()))
            config = bootstrap(
                node_id="demo-envoy",
                node_cluster=GATEWAY,
                xds_address="127.0.0.1",
                xds_port=self.plane.xds_port,
                admin_port=0,
            )
            self.envoy = EnvoyProcess(config, folder=self.folder / "envoy", concurrency=1)
            await self._stack.enter_async_context(self.envoy)
            await self._stack.enter_async_context(beside(self.envoy.admin_port, self.figures_port))
            await self.envoy.wait_listener("http")
            starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.end_traffic()  # first of all, or the last requests would find their servers gone
        finally:
            await self._stack.__aexit__(kind, error, trace)

    async def serve(self, version: str, *, ready: bool = True) -> None:
        """Start a model server of this version."""
        server = ModelServerProcess(version, ready=ready, latency_ms=LATENCY[version], latency_sigma=0.25)
        self.servers[version] = await self._stack.enter_async_context(server)

    async def send_traffic(self) -> None:
        """Users over HTTP and gRPC, and a few testers with the header `traffic: test`, until `end_traffic`."""
        aim = Aim(self.port, HOST)
        for client, per_second in ((HttpClient(aim), HTTP_PER_SECOND), (GrpcClient(aim), GRPC_PER_SECOND)):
            traffic = Traffic(client, self.ledger, per_second, self._user, USERS)
            await self._traffic.enter_async_context(traffic)
        testers = Traffic(HttpClient(aim), self.ledger, TESTERS_PER_SECOND, lambda: {"traffic": "test"}, TESTERS)
        await self._traffic.enter_async_context(testers)

    async def end_traffic(self) -> None:
        """Send nothing more, and wait for the last answers."""
        await self._traffic.aclose()

    def write(self, edition: Edition) -> list[str]:
        """Put the manifest into the folder in one step, as editors do; returns the changed lines."""
        before = self.manifest.read_text("utf-8") if self.manifest.exists() else ""
        after = edition.text({version: server.port for version, server in self.servers.items()})
        scratch = self.manifest.with_suffix(".tmp")
        scratch.write_text(after, "utf-8")
        scratch.replace(self.manifest)
        return changes(before, after)

    def versions(self) -> dict[str, VersionPlan]:
        """What the control plane has decided for each version."""
        found = self.plane.engine.models().get(MODEL)
        return {version.name: version for version in found.versions} if found is not None else {}

    def live(self) -> dict[str, dict[str, Any]]:
        """What the control plane has from the sidecar: each version's last ten seconds."""
        found = self.plane.status.model(MODEL)
        versions = found["versions"] if found is not None else []
        return {one["name"]: one["live"] for one in versions if one["live"] is not None}

    def why(self) -> tuple[str, ...]:
        """The control plane's own sentences on the traffic as it is."""
        found = self.plane.engine.models().get(MODEL)
        return found.why if found is not None else ()

    def applied(self) -> bool:
        """Whether Envoy has confirmed the newest routes."""
        applied = self.plane.fleet.applied(GATEWAY, MODEL)
        return applied.current >= 1 and not applied.lagging

    async def routed(self, wanted: dict[str, tuple[int, float, bool]]) -> None:
        """Wait until exactly these versions have this (basis points, mirror %, match), and Envoy has ACKed it."""

        def holds() -> bool:
            versions = self.versions().values()
            seen = {one.name: (one.weight_bp, one.mirror_percent, one.match) for one in versions}
            return seen == wanted and self.applied()

        await until(holds, within=PATIENCE, what=f"routes {wanted}, now {self.versions()}, problems {self.problems()}")

    def problems(self) -> list[str]:
        return [str(problem) for problem in self.plane.engine.problems()]

    async def answers_from(self, version: str, *, since: float, number: int = 20) -> None:
        """Wait until this many requests sent after `since` were answered by `version`."""

        def enough() -> bool:
            return sum(answer.version == version for answer in self.ledger.answers(since)) >= number

        await until(enough, within=PATIENCE, what=f"{number} answers from {version}")

    def _user(self) -> dict[str, str]:
        return {"x-user-id": f"user-{next(self._users) % 5000}"}

    def _config(self) -> Config:
        return Config.model_validate(
            {
                "xds": {"port": 0},
                "http": {"port": free_port(18_001)},
                "manifests": self.manifest.parent,
                "gateways": [{"name": GATEWAY, "listeners": [{"name": "http", "port": self.port}]}],
                "telemetry": {"sidecars": [f"http://127.0.0.1:{self.figures_port}"]},
            }
        )

    def _log_to_file(self) -> None:
        """What the control plane tells goes beside the story, not into it."""
        handler = logging.FileHandler(self.log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        self._stack.callback(handler.close)
        self._stack.callback(root.setLevel, level)
        self._stack.callback(root.removeHandler, handler)

    def _forget_folder(self) -> None:
        if not self.keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


async def breath(seconds: float) -> None:
    """Give a reader time; nothing depends on it."""
    await asyncio.sleep(seconds)


now = time.monotonic
