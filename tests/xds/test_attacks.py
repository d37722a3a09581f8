"""Clients that mean no good, over real sockets: the server stays up and the honest client is served."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Extension, Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest
from envoy_data_plane.google.rpc import Status

from xds.cache import Cache
from xds.resources import Resource, Resources, Type
from xds.server import SERVICE, XdsServer
from xds.stream import PATIENCE

PATIENT = 10.0
ROUTE = str(Type.ROUTE)


def route(name: str, value: str) -> Resources:
    return {Type.ROUTE: {name: Resource.of(name, f"{name}={value}".encode())}}


def asking(node: str = "honest", **fields: Any) -> bytes:
    fields.setdefault("type_url", ROUTE)
    return bytes(DeltaDiscoveryRequest(node=Node(id=node, cluster="g") if node else None, **fields))


def called(channel: grpc.aio.Channel, method: str = "DeltaAggregatedResources") -> Any:
    return channel.stream_stream(f"/{SERVICE}/{method}")()


async def read(call: Any) -> DeltaDiscoveryResponse:
    raw = await asyncio.wait_for(call.read(), PATIENT)
    assert raw is not grpc.aio.EOF
    return DeltaDiscoveryResponse.parse(raw)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENT):
        while not holds():  # noqa: ASYNC110 - the condition lives in the server's own loop
            await asyncio.sleep(0.001)


def attacked(attack: Callable[[XdsServer, Cache, grpc.aio.Channel], Awaitable[None]]) -> None:
    """Run the attack, then see that an honest client is served and hears of a change."""

    async def run() -> None:
        cache = Cache()
        server = XdsServer({"g": cache})
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await attack(server, cache, channel)
                cache.apply("honest", route("honest", "1"))
                call = called(channel)
                await call.write(asking(resource_names_subscribe=["honest"]))
                first = await read(call)
                await call.write(asking(node="", response_nonce=first.nonce))
                cache.apply("honest", route("honest", "2"))
                assert [one.name for one in (await read(call)).resources] == ["honest"]
        finally:
            await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize("method", ["DeltaAggregatedResources", "StreamAggregatedResources"])
def test_random_and_mutated_bytes_end_at_most_their_own_stream(method: str, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    valid = [
        asking("m", resource_names_subscribe=["a", "*"], resource_names_unsubscribe=["b"]),
        asking("m", initial_resource_versions={"a": "1", "": ""}, type_url=str(Type.CLUSTER)),
        asking("m", error_detail=Status(code=3, message="no"), response_nonce="1"),
        bytes(DiscoveryRequest(node=Node(id="m", cluster="g"), type_url=ROUTE, resource_names=["a"], version_info="1")),
    ]

    def mutated() -> bytes:
        raw = bytearray(chance.choice(valid))
        for _ in range(chance.randrange(4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        return bytes(raw) if chance.random() < 0.8 else chance.randbytes(chance.randrange(60))

    async def attack(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("a", route("a", "1"))
        for _ in range(150):
            call = called(channel, method)
            try:
                for _ in range(chance.randrange(1, 6)):
                    await call.write(mutated())
                await call.done_writing()
                while await asyncio.wait_for(call.read(), PATIENT) is not grpc.aio.EOF:
                    pass
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # turned away, as it should be
            call.cancel()
        await until(lambda: not server.fleet.envoys())

    attacked(attack)
    # gRPC's one poller serves the loops of earlier tests too, and complains when it finds them closed.
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not [record for record in errors if "Event loop is closed" not in str(record.exc_info)]


def test_a_client_that_rejects_everything_for_ever_is_left_alone_and_harms_nobody() -> None:
    models = {f"m{i}": route(f"m{i}", "1") for i in range(200)}

    async def attack(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        for name, resources in models.items():
            cache.apply(name, resources)
        hostile = called(channel)
        await hostile.write(asking("hostile", resource_names_subscribe=list(models)))
        refused = 0
        while True:
            try:
                raw = await asyncio.wait_for(hostile.read(), 0.5)
            except TimeoutError:
                break
            assert refused <= PATIENCE + 5, "the server goes on without a pause"
            nonce = DeltaDiscoveryResponse.parse(raw).nonce
            refused += 1
            await hostile.write(asking("", response_nonce=nonce, error_detail=Status(code=3, message="no")))
        assert refused > PATIENCE
        assert all(cache.resources(name) == resources for name, resources in models.items())

    attacked(attack)


def test_ten_thousand_subscriptions_and_a_storm_of_changes_of_mind() -> None:
    async def attack(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        names = [f"n{i}" for i in range(10_000)]
        call = called(channel)
        await call.write(asking("many", resource_names_subscribe=names))
        assert len((await read(call)).removed_resources) == len(names)
        for _ in range(300):
            await call.write(asking("", resource_names_unsubscribe=names[:20], response_nonce="x"))
            await call.write(asking("", resource_names_subscribe=names[:20], response_nonce="y"))
        await call.write(asking("", response_nonce="1"))
        assert sorted((await read(call)).removed_resources) == sorted(names[:20])

    attacked(attack)


def test_two_clients_with_one_id_and_large_nodes_are_two_clients() -> None:
    async def attack(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("a", route("a", "1"))
        extensions = [Extension(name="x" * 100, category="y" * 20) for _ in range(480)]
        node = Node(id="twin", cluster="g", extensions=extensions)
        raw = bytes(DeltaDiscoveryRequest(node=node, type_url=ROUTE, resource_names_subscribe=["a"]))
        assert len(raw) > 60_000
        twins = [called(channel), called(channel)]
        for twin in twins:
            await twin.write(raw)
            assert len((await read(twin)).resources) == 1
        assert [one.id for one in server.fleet.envoys()] == ["twin", "twin"]
        twins[0].cancel()
        await until(lambda: len(server.fleet.envoys()) == 1)

    attacked(attack)


def test_a_client_that_goes_in_the_middle_of_a_write_is_forgotten() -> None:
    async def attack(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("a", {Type.ROUTE: {"a": Resource.of("a", b"a" * 8_000_000)}})
        call = called(channel)
        await call.write(asking("leaving", resource_names_subscribe=["a"]))
        await until(lambda: server.fleet.envoys())
        call.cancel()
        await until(lambda: not server.fleet.envoys())

    attacked(attack)


def test_the_server_stops_in_the_middle_of_pushes_and_with_clients_that_never_ack() -> None:
    async def run() -> None:
        cache = Cache()
        server = XdsServer({"g": cache})
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            calls = [called(channel) for _ in range(50)]
            for index, call in enumerate(calls):
                await call.write(asking(f"e{index}", resource_names_subscribe=["a"]))
            await until(lambda: len(server.fleet.envoys()) == len(calls))
            cache.apply("a", {Type.ROUTE: {"a": Resource.of("a", b"a" * 2_000_000)}})
            async with asyncio.timeout(PATIENT):
                await server.stop()
            await until(lambda: not server.fleet.envoys())

    asyncio.run(run())
