"""A whole control plane in this process: what opens when, and what happens to a port that is taken."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from headgate.config import Config
from headgate.serve import CannotListen, ControlPlane, serve

PATIENCE = 20.0


async def get(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else await answer.text()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # each look is a question over the network
            pass


async def connects(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), PATIENCE)
    return True


def test_started_means_that_envoys_can_connect_and_everything_is_loaded(config: Config, put) -> None:
    put("iris")

    async def scenario() -> None:
        async with ControlPlane(config) as plane:
            assert await connects(plane.xds_port)
            assert (await get(plane.http_port, "/readyz"))[0] == 200
            _, models = await get(plane.http_port, "/models")
            assert [one["model"] for one in models] == ["default/iris"]
            assert "default/iris" in plane.sink.caches["default"].owners()

    asyncio.run(scenario())


def test_stopped_means_that_both_ports_are_free_again(config: Config) -> None:
    async def scenario() -> tuple[int, int]:
        async with ControlPlane(config) as plane:
            return plane.xds_port, plane.http_port

    for port in asyncio.run(scenario()):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))


def test_a_control_plane_can_be_started_and_stopped_by_hand(config: Config, put) -> None:
    put("iris")

    async def scenario() -> None:
        plane = ControlPlane(config)
        await plane.start()
        assert await connects(plane.xds_port)
        await plane.stop()
        assert not any(plane.checks().values())

    asyncio.run(scenario())


def test_without_manifests_it_serves_gateways_only() -> None:
    async def scenario() -> None:
        async with ControlPlane(Config.model_validate({"xds": {"port": 0}, "http": {"port": 0}})) as plane:
            assert (await get(plane.http_port, "/models")) == (200, [])

    asyncio.run(scenario())


def test_a_changed_file_changes_the_routes(config: Config, put) -> None:
    async def scenario() -> None:
        put("iris")
        async with ControlPlane(config) as plane:
            put("wine")

            async def has_wine() -> bool:
                return (await get(plane.http_port, "/models/default/wine"))[0] == 200

            await until(has_wine)
            assert "default/wine" in plane.sink.caches["default"].owners()

    asyncio.run(scenario())


def test_a_file_that_breaks_keeps_its_last_good_state_and_says_so(config: Config, put, monkeypatch, caplog) -> None:
    """With a relative folder, as it is written on command lines: file events carry absolute paths."""
    file = put("iris")
    monkeypatch.chdir(file.parent.parent)

    async def scenario() -> None:
        async with ControlPlane(config.model_copy(update={"manifests": Path("models")})) as plane:
            file.write_text(file.read_text().replace("hosts:", "host:"))

            async def noticed() -> bool:
                return bool((await get(plane.http_port, "/models/default/iris"))[1]["problems"])

            await until(noticed)
            shown = (await get(plane.http_port, "/models/default/iris"))[1]
            assert shown["state"] == "Degraded"
            assert "did you mean 'hosts'?" in [problem["hint"] for problem in shown["problems"]]
            assert "default/iris" in plane.sink.caches["default"].owners()
            loud = [one for one in caplog.records if one.levelname in ("WARNING", "ERROR") and "host" in one.message]
            assert [(one.levelname, one.message.split(":")[0]) for one in loud] == [("ERROR", "models/iris.yaml")]

    asyncio.run(scenario())


def test_the_xds_port_opens_only_when_readiness_is_known(config: Config, put) -> None:
    """A version whose probe has not answered yet must not lose the traffic that it had before a restart."""

    async def scenario() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        version = {
            "name": "v1",
            "backend": {"endpoints": [f"127.0.0.1:{port}"]},
            "readiness": {"http": {"path": "/ready"}, "timeout": "10s"},
        }
        put("iris", versions=[version])
        plane = ControlPlane(config)
        starting = asyncio.create_task(holding(plane))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        assert (await get(plane.http_port, "/readyz"))[0] == 503
        assert plane.xds_port == 0
        answer.set()
        await asyncio.wait_for(plane_started.wait(), PATIENCE)
        [shown] = (await get(plane.http_port, "/models/default/iris"))[1]["versions"]
        assert (shown["ready"], shown["reason"]) == (True, "ready")
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        server.close()

    plane_started = asyncio.Event()

    async def holding(plane: ControlPlane) -> None:
        async with plane:
            plane_started.set()
            await asyncio.Event().wait()

    asyncio.run(scenario())


def test_a_probe_that_hangs_holds_the_xds_port_up_for_a_moment_only(config: Config, put, monkeypatch) -> None:
    monkeypatch.setattr("headgate.serve.READINESS_KNOWN_WITHIN", 0.05)

    async def scenario() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        readiness = {"http": {"path": "/ready"}, "timeout": "60s"}
        put("iris", versions=[{"name": "v1", "backend": {"endpoints": [endpoint]}, "readiness": readiness}])
        async with asyncio.timeout(PATIENCE), ControlPlane(config) as plane:
            assert await connects(plane.xds_port)
            [version] = (await get(plane.http_port, "/models/default/iris"))[1]["versions"]
            assert (version["ready"], version["reason"]) == (False, "waiting for first probe")
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("part", "name"), [("xds", "xDS"), ("http", "HTTP")])
def test_a_taken_port_names_the_setting_that_changes_it(config: Config, part: str, name: str) -> None:
    async def scenario(port: int) -> None:
        taken = getattr(config, part).model_copy(update={"port": port})
        async with ControlPlane(config.model_copy(update={part: taken})):
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            CannotListen, match=f"cannot open the {name} port 127.0.0.1:{port}: address already in use"
        ) as caught:
            asyncio.run(scenario(port))
    assert caught.value.hint == f"set {part}.port in the configuration, or --{part}"


def test_an_address_that_is_not_ours_is_told_though_any_port_would_do(config: Config) -> None:
    async def scenario() -> None:
        elsewhere = config.xds.model_copy(update={"address": "192.0.2.1"})
        async with ControlPlane(config.model_copy(update={"xds": elsewhere})):
            pass

    with pytest.raises(CannotListen, match=r"cannot open the xDS port 192\.0\.2\.1:0: cannot assign requested address"):
        asyncio.run(scenario())


def test_a_port_that_is_taken_while_manifests_load_is_told_like_any_other(config: Config, monkeypatch) -> None:
    """The failure then comes out of the group of running tasks."""

    async def free(*_: object) -> None: ...

    async def scenario(port: int) -> None:
        taken = config.xds.model_copy(update={"port": port})
        async with ControlPlane(config.model_copy(update={"xds": taken})):
            pass

    monkeypatch.setattr("headgate.serve._check_free", free)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot open the xDS port 127.0.0.1:{port}"):
            asyncio.run(scenario(port))


def test_a_part_that_fails_ends_the_control_plane_with_its_failure(config: Config) -> None:
    async def scenario() -> None:
        async with ControlPlane(config) as plane:
            plane.engine.update = lambda model: 1 / 0
            plane.store.mark("default/iris")
            await asyncio.wait_for(asyncio.Event().wait(), PATIENCE)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(config: Config, number: signal.Signals) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        chosen = config.model_copy(update={"http": config.http.model_copy(update={"port": port})})
        running = asyncio.create_task(serve(chosen))

        async def ready() -> bool:
            with suppress(aiohttp.ClientError):
                return (await get(port, "/readyz"))[0] == 200
            return False

        await until(ready)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(running, PATIENCE)

    asyncio.run(scenario())


def test_a_signal_ends_it_while_it_waits_for_its_manifests(config: Config, tmp_path) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        http = config.http.model_copy(update={"port": port})
        running = asyncio.create_task(serve(config.model_copy(update={"http": http, "manifests": tmp_path / "none"})))

        async def waiting() -> bool:
            with suppress(aiohttp.ClientError):
                return (await get(port, "/readyz"))[1].startswith("not ready: manifests loaded")
            return False

        await until(waiting)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, PATIENCE)

    asyncio.run(scenario())


def test_over_tls_only_envoys_with_a_certificate_of_the_ca_get_in(config: Config, certificate, authority) -> None:
    async def scenario() -> None:
        pem, key = certificate("server")
        ca = pem.with_name("ca.pem")
        authority.cert_pem.write_to_path(str(ca))
        tls = {"certificate": pem, "key": key, "clientCA": ca}
        xds = Config.model_validate({"xds": {"port": 0, "tls": tls}}).xds
        client_pem, client_key = certificate("client", "envoy-1")
        shown = {"private_key": client_key.read_bytes(), "certificate_chain": client_pem.read_bytes()}
        async with ControlPlane(config.model_copy(update={"xds": xds})) as plane:
            for pair, let_in in ((shown, True), ({}, False)):
                credentials = grpc.ssl_channel_credentials(
                    ca.read_bytes(), **{"private_key": None, "certificate_chain": None} | pair
                )
                async with grpc.aio.secure_channel(f"localhost:{plane.xds_port}", credentials) as channel:
                    assert await streams(channel) is let_in

    asyncio.run(scenario())


async def streams(channel: grpc.aio.Channel) -> bool:
    """Whether the control plane lets this client open a stream and then says that it knows no such gateway."""
    open_stream = channel.stream_stream(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    )
    node = b"\x0a\x0b" + b"\x0a\x01x" + b"\x12\x06nobody"  # DiscoveryRequest{node{id: x, cluster: nobody}}
    call = open_stream(iter([node]), timeout=PATIENCE)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_rotated_certificates_reach_the_cache(config: Config, certificate) -> None:
    async def scenario() -> None:
        pem, key = certificate("server")
        tls = {"tls": {"certificate": pem, "key": key}}
        gateways = Config.model_validate({"gateways": [{"listeners": [tls]}]}).gateways
        async with ControlPlane(config.model_copy(update={"gateways": gateways})) as plane:
            cache = plane.sink.caches["default"]
            first = cache.version("gateway/default")
            new_pem, new_key = certificate("new")
            new_pem.replace(pem)
            new_key.replace(key)

            async def rotated() -> bool:
                await get(plane.http_port, "/healthz")
                return cache.version("gateway/default") != first

            await until(rotated)

    asyncio.run(scenario())
