"""The gRPC rim over real sockets: who is let in, who is turned away, and that nobody delays anybody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy_data_plane.google.rpc import Status

from xds.cache import Cache
from xds.resources import Resource, Resources, Type
from xds.server import SERVICE, XdsServer
from xds.tls import ServerTls

PATIENCE = 10.0


def route(name: str, value: str) -> Resources:
    return {Type.ROUTE: {name: Resource.of(name, f"{name}={value}".encode())}}


def asking(node: str = "e1", cluster: str = "default", **fields: Any) -> bytes:
    fields.setdefault("type_url", str(Type.ROUTE))
    return bytes(DeltaDiscoveryRequest(node=Node(id=node, cluster=cluster) if node else None, **fields))


class Client:
    """One delta stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = channel.stream_stream(f"/{SERVICE}/DeltaAggregatedResources")()

    async def send(self, raw: bytes) -> None:
        await self.call.write(raw)

    async def read(self) -> DeltaDiscoveryResponse:
        raw = await asyncio.wait_for(self.call.read(), PATIENCE)
        assert raw is not grpc.aio.EOF, await self.call.details()
        return DeltaDiscoveryResponse.parse(raw)

    async def ack(self, response: DeltaDiscoveryResponse, error: str | None = None) -> None:
        status = Status(code=3, message=error) if error else None
        await self.send(asking(node="", response_nonce=response.nonce, type_url=response.type_url, error_detail=status))

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(self.call.read(), PATIENCE)
        return caught.value.code(), caught.value.details() or ""


def serving(body: Callable[[XdsServer, Cache, grpc.aio.Channel], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        cache = Cache()
        server = XdsServer({"default": cache}, **options)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await body(server, cache, channel)
        finally:
            await server.stop()

    asyncio.run(run())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the condition lives in the server's own loop
            await asyncio.sleep(0.001)


def test_a_change_reaches_the_client_and_its_ack_is_seen() -> None:
    progress: list[frozenset[str]] = []

    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("m", route("m", "1"))
        client = Client(channel)
        await client.send(asking(resource_names_subscribe=["m"]))
        first = await client.read()
        assert first.resources[0].resource is not None
        assert first.resources[0].resource.value == b"m=1"
        assert server.fleet.applied("default", "m").current == 0
        await client.ack(first)
        await until(lambda: frozenset({"m"}) in progress)
        cache.apply("m", route("m", "2"))
        second = await client.read()
        assert second.resources[0].resource is not None
        assert second.resources[0].resource.value == b"m=2"
        (envoy,) = server.fleet.envoys()
        assert (envoy.id, envoy.gateway, envoy.variant) == ("e1", "default", "delta")
        client.call.cancel()
        await until(lambda: not server.fleet.envoys())

    serving(body, on_progress=lambda gateway, owners: progress.append(owners))


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a DeltaDiscoveryRequest"),
        (asking(node=""), grpc.StatusCode.INVALID_ARGUMENT, "node.id"),
        (asking(type_url=""), grpc.StatusCode.INVALID_ARGUMENT, "type_url"),
        (asking(cluster="edge"), grpc.StatusCode.NOT_FOUND, "node.cluster 'edge' is no gateway"),
    ],
)
def test_a_client_that_makes_no_sense_is_told_so_and_the_others_go_on(
    raw: bytes, code: grpc.StatusCode, words: str
) -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("m", route("m", "1"))
        good, bad = Client(channel), Client(channel)
        await good.send(asking(resource_names_subscribe=["m"]))
        await good.ack(await good.read())
        await bad.send(raw)
        got_code, got_words = await bad.refusal()
        assert got_code == code
        assert words in got_words
        cache.apply("m", route("m", "2"))
        assert (await good.read()).resources

    serving(body)


def test_garbage_in_the_middle_of_a_stream_ends_only_that_stream() -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        client = Client(channel)
        await client.send(asking())
        await until(lambda: server.fleet.envoys())
        await client.send(b"\xff")
        assert (await client.refusal())[0] == grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: not server.fleet.envoys())

    serving(body)


def test_a_rejection_keeps_the_last_good_for_newcomers_with_envoys_words() -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("m", route("m", "good"))
        client = Client(channel)
        await client.send(asking(resource_names_subscribe=["m"]))
        await client.ack(await client.read())
        await until(lambda: cache.is_accepted("m"))
        cache.apply("m", route("m", "bad"))
        await client.ack(await client.read(), error="no such regex")
        await until(lambda: server.fleet.rejection("default", "m"))
        rejection = server.fleet.rejection("default", "m")
        assert rejection is not None
        assert (rejection.message, rejection.node) == ("no such regex", "e1")
        await until(lambda: cache.resources("m") == route("m", "good"))
        newcomer = Client(channel)
        await newcomer.send(asking(node="e2", resource_names_subscribe=["m"]))
        response = await newcomer.read()
        assert response.resources[0].resource is not None
        assert response.resources[0].resource.value == b"m=good"
        assert server.fleet.applied("default", "m").current == 0

    serving(body)


def test_a_port_that_is_taken_is_an_error_not_a_shared_port() -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        with pytest.raises(OSError, match="cannot listen on"):
            await XdsServer({}, port=server.port).start()

    serving(body)


def test_more_streams_at_once_than_grpc_takes_by_default() -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("m", route("m", "1"))
        clients = [Client(channel) for _ in range(1_500)]
        await asyncio.gather(*(c.send(asking(f"e{i}", resource_names_subscribe=["m"])) for i, c in enumerate(clients)))
        responses = await asyncio.gather(*(client.read() for client in clients))
        assert all(len(response.resources) == 1 for response in responses)
        assert len(server.fleet.envoys()) == len(clients)
        for client in clients:
            client.call.cancel()
        await until(lambda: not server.fleet.envoys())

    serving(body)


def test_a_client_that_stops_reading_delays_nobody() -> None:
    async def body(server: XdsServer, cache: Cache, channel: grpc.aio.Channel) -> None:
        cache.apply("m", {Type.ROUTE: {"m": Resource.of("m", b"1" * 200_000)}})
        stuck, live = Client(channel), Client(channel)
        for client, name in ((stuck, "stuck"), (live, "live")):
            await client.send(asking(name, type_url=str(Type.LISTENER)))
            await client.ack(await client.read())
            await client.send(asking(name, resource_names_subscribe=["m"]))
        for value in b"23456789":
            response = await live.read()
            await live.ack(response)
            await until(lambda: "m" not in dict(_lagging(server))["live"])
            cache.apply("m", {Type.ROUTE: {"m": Resource.of("m", bytes([value]) * 200_000)}})
        assert dict(_lagging(server))["stuck"] == {"m": "not sent yet"}

    serving(body)


def _lagging(server: XdsServer) -> list[tuple[str, Any]]:
    return [(envoy.id, envoy.lagging) for envoy in server.fleet.envoys()]


class Authority:
    """A CA and the files it issues, as an operator has them."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def issue(self, stem: str, name: str) -> tuple[Path, Path]:
        issued = self.ca.issue_cert(name)
        certificate, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def channel(self, port: int, name: str | None) -> grpc.aio.Channel:
        pair = self.issue("client", name) if name else (None, None)
        credentials = grpc.ssl_channel_credentials(
            (self.folder / "ca.pem").read_bytes(),
            pair[1].read_bytes() if pair[1] else None,
            pair[0].read_bytes() if pair[0] else None,
        )
        # A private pool of connections, or gRPC would hand one channel's handshake to the next.
        return grpc.aio.secure_channel(f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])


def with_tls(folder: Path, body: Callable[[XdsServer, Cache, Authority], Awaitable[None]], check_node: bool) -> None:
    async def run() -> None:
        authority = Authority(folder)
        certificate, key = authority.issue("server", "localhost")
        cache = Cache()
        tls = ServerTls(certificate, key, folder / "ca.pem", check_node)
        server = XdsServer({"default": cache}, tls=tls)
        await server.start()
        try:
            await body(server, cache, authority)
        finally:
            await server.stop()

    asyncio.run(run())


def test_clients_need_a_certificate_of_the_clients_ca(tmp_path: Path) -> None:
    async def body(server: XdsServer, cache: Cache, authority: Authority) -> None:
        async with authority.channel(server.port, None) as channel:
            stranger = Client(channel)
            code, _ = await stranger.refusal()
            assert code == grpc.StatusCode.UNAVAILABLE
        async with authority.channel(server.port, "e1.test") as channel:
            known = Client(channel)
            await known.send(asking("anything"))
            await until(lambda: server.fleet.envoys())

    with_tls(tmp_path, body, check_node=False)


def test_the_node_id_must_be_in_the_certificate_when_asked_for(tmp_path: Path) -> None:
    async def body(server: XdsServer, cache: Cache, authority: Authority) -> None:
        async with authority.channel(server.port, "e1.test") as channel:
            impostor, honest = Client(channel), Client(channel)
            await impostor.send(asking("e2.test"))
            code, words = await impostor.refusal()
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert "'e2.test' is not in the client's certificate" in words
            await honest.send(asking("e1.test"))
            await until(lambda: server.fleet.envoys())

    with_tls(tmp_path, body, check_node=True)


def test_a_new_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    async def body(server: XdsServer, cache: Cache, authority: Authority) -> None:
        async with authority.channel(server.port, "e1.test") as channel:
            await Client(channel).send(asking())
            await until(lambda: server.fleet.envoys())
            successor = Authority(tmp_path)  # a new CA: only a server that reloaded can be trusted, and trusts
            successor.issue("server", "localhost")
            async with successor.channel(server.port, "e2.test") as renewed:
                await Client(renewed).send(asking("e2"))
                await until(lambda: len(server.fleet.envoys()) == 2)

    with_tls(tmp_path, body, check_node=False)


def test_check_node_without_a_client_ca_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="check_node needs client_ca"):
        ServerTls(tmp_path / "a", tmp_path / "b", None, True)


def test_a_listening_socket_of_someone_else_is_reported() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=str(port)):
                await XdsServer({}, port=port).start()

    asyncio.run(run())
