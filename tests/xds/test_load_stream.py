"""Load reports over real gRPC: who is let in, what is pushed when, and that garbage ends only its own stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterStats, UpstreamLocalityStats
from envoy_data_plane.envoy.service.load_stats.v3 import LoadStatsRequest, LoadStatsResponse

from xds.cache import Cache
from xds.load_stream import LRS_SERVICE
from xds.metrics import XdsMetrics
from xds.server import XdsServer
from xds.tls import ServerTls

PATIENCE = 10.0
V1 = "default/iris/v1"


def telling(node: str = "e1", gateway: str = "default", **in_progress: int) -> bytes:
    stats = [
        ClusterStats(
            cluster_name=f"default/iris/{name}",
            upstream_locality_stats=[UpstreamLocalityStats(total_requests_in_progress=count)] if count else [],
        )
        for name, count in in_progress.items()
    ]
    return bytes(LoadStatsRequest(node=Node(id=node, cluster=gateway) if node else None, cluster_stats=stats))


class Reporter:
    """One stream as Envoy opens it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = channel.stream_stream(f"/{LRS_SERVICE}/StreamLoadStats")()

    async def asked(self) -> list[str]:
        raw = await asyncio.wait_for(self.call.read(), PATIENCE)
        assert raw is not grpc.aio.EOF, await self.call.details()
        return LoadStatsResponse.parse(raw).clusters

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(self.call.read(), PATIENCE)
        return caught.value.code(), caught.value.details() or ""


def serving(body: Callable[[XdsServer, grpc.aio.Channel], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        server = XdsServer({"default": Cache()}, **options)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await body(server, channel)
        finally:
            await server.stop()

    asyncio.run(run())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the condition lives in the server's own loop
            await asyncio.sleep(0.001)


def sample(metrics: XdsMetrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"gateway": "default"})


def test_a_watch_reaches_the_client_its_report_is_seen_and_its_leaving_forgets_it():
    metrics = XdsMetrics()

    async def body(server: XdsServer, channel: grpc.aio.Channel) -> None:
        client = Reporter(channel)
        await client.call.write(telling())
        await until(lambda: server.loads.reporting("default") == {"e1"})
        assert sample(metrics, "headgate_xds_load_reporters") == 1
        server.loads.watch("default", [V1])
        assert await client.asked() == [V1]
        await client.call.write(telling(node="", v1=2))
        await until(lambda: server.loads.in_progress("default", V1))
        assert server.loads.in_progress("default", V1)["e1"].in_progress == 2
        assert sample(metrics, "headgate_xds_load_reports_total") == 1
        client.call.cancel()
        await until(lambda: not server.loads.reporting("default"))
        assert not server.loads.in_progress("default", V1)
        await until(lambda: sample(metrics, "headgate_xds_load_reporters") == 0)

    serving(body, metrics=metrics)


def test_a_watch_that_nobody_renews_is_called_off():
    async def body(server: XdsServer, channel: grpc.aio.Channel) -> None:
        client = Reporter(channel)
        await client.call.write(telling())
        await until(lambda: server.loads.reporting("default"))
        server.loads.watch("default", [V1], seconds=0.2)
        assert await client.asked() == [V1]
        await client.call.write(telling(v1=0))
        assert await client.asked() == []

    serving(body)


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a LoadStatsRequest"),
        (telling(node=""), grpc.StatusCode.INVALID_ARGUMENT, "node.id"),
        (telling(gateway="edge"), grpc.StatusCode.NOT_FOUND, "node.cluster 'edge' is no gateway"),
    ],
)
def test_a_client_that_makes_no_sense_is_told_so(raw, code, words):
    async def body(server: XdsServer, channel: grpc.aio.Channel) -> None:
        client = Reporter(channel)
        await client.call.write(raw)
        got, why = await client.refusal()
        assert (got, words in why) == (code, True), why
        assert not server.loads.reporting("default")

    serving(body)


@pytest.mark.parametrize("raw", [b"\xff", telling(node="e9")])
def test_nonsense_in_the_middle_ends_only_that_stream(raw):
    async def body(server: XdsServer, channel: grpc.aio.Channel) -> None:
        good, bad = Reporter(channel), Reporter(channel)
        await good.call.write(telling("good"))
        await bad.call.write(telling("bad"))
        await until(lambda: server.loads.reporting("default") == {"good", "bad"})
        await bad.call.write(raw)
        assert (await bad.refusal())[0] == grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: server.loads.reporting("default") == {"good"})
        server.loads.watch("default", [V1])
        assert await good.asked() == [V1]

    serving(body)


def test_the_certificate_must_name_the_node_here_too(tmp_path: Path):
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "ca")}
    mine = authority.issue_cert("127.0.0.1")
    mine.cert_chain_pems[0].write_to_path(files["certificate"])
    mine.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    theirs = authority.issue_cert("e1")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes()
    )
    tls = ServerTls(files["certificate"], files["key"], files["ca"], check_node=True)

    async def run() -> None:
        server = XdsServer({"default": Cache()}, tls=tls)
        await server.start()
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
            liar, honest = Reporter(channel), Reporter(channel)
            await liar.call.write(telling("e2"))
            code, why = await liar.refusal()
            assert (code, "'e2'" in why) == (grpc.StatusCode.PERMISSION_DENIED, True)
            await honest.call.write(telling("e1"))
            await until(lambda: server.loads.reporting("default") == {"e1"})
        await server.stop()

    asyncio.run(run())
