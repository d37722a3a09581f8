"""Clients that are not one plain Envoy: gRPC's own xDS client, TLS on every side, several gateways."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from xds.bootstrap import UpstreamTls, bootstrap
from xds.ir import Backend, Endpoint, Gateway, Listener, Match, ModelPlan, Protocol, Route
from xds.resources import Type
from xds.tls import ServerTls
from xds.translate import secret, translate_gateway

# Asks for the model's metadata until every wanted version has answered, whose names stand in the raw answer.
PROXYLESS = """
import sys, time, grpc
for line in sys.stdin:
    wanted = line.strip().encode()
    call = grpc.insecure_channel("xds:///iris.test").unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    until = time.monotonic() + 15
    while wanted not in (answer := call(b"\\x0a\\x04iris", timeout=10, wait_for_ready=True)):
        assert time.monotonic() < until, f"still {answer}"
    print(wanted.decode(), flush=True)
"""


def test_proxyless_grpc_follows_the_same_weights(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        servers = [await r.model("v1"), await r.model("v2")]

        def plan(version: str) -> ModelPlan:
            backends = tuple(
                Backend(f"ns/iris/v{i}", (Endpoint("127.0.0.1", s.grpc_port),), Protocol.H2C)
                for i, s in enumerate(servers, 1)
            )
            route = Route("weighted", Match(), (r.target("ns/iris", version),))
            return ModelPlan("ns/iris", "default", ("iris.test",), (route,), backends)

        r.apply(plan("v1"))
        xds = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{r.server.port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": "proxyless", "cluster": "default"},
        }
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROXYLESS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(xds)},
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            for version in ("v1", "v2", "v1"):
                r.apply(plan(version))
                client.stdin.write(f"{version}\n".encode())
                assert await asyncio.wait_for(client.stdout.readline(), 20) == f"{version}\n".encode()
            (member,) = r.server.fleet.envoys()
            assert (member.id, member.variant, member.last_rejection) == ("proxyless", "sotw", None)
        finally:
            client.kill()
            await client.wait()

    rig(body)


def write_pair(folder: Path, ca: trustme.CA, stem: str, *names: str) -> tuple[Path, Path]:
    issued = ca.issue_cert(*names)
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


def test_envoy_comes_by_mutual_tls_under_its_own_name(rig: Any, tmp_path: Path, caplog: Any) -> None:
    async def body(r: Any) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        server = write_pair(tmp_path, ca, "server", "localhost", "127.0.0.1")
        client = write_pair(tmp_path, ca, "client", "e1.test")
        await r.serve(tls=ServerTls(*server, tmp_path / "ca.pem", check_node=True))
        await r.model("v1")
        r.apply(r.split("ns/iris", {"v1": 10_000}))
        shown = UpstreamTls(ca=str(tmp_path / "ca.pem"), certificate=str(client[0]), key=str(client[1]))
        await r.envoy("e1.test", tls=shown)
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v1"
        await r.envoy("someone-else", tls=shown, ready=False)
        async with asyncio.timeout(10):
            while "someone-else" not in caplog.text:  # noqa: ASYNC110 - the log is the only place where it shows
                await asyncio.sleep(0.01)
        assert "'someone-else' is not in the client's certificate (it names e1.test)" in caplog.text
        assert [envoy.id for envoy in r.server.fleet.envoys()] == ["e1.test"]

    rig(body)


def test_users_get_tls_from_a_secret_that_can_be_renewed(rig: Any, tmp_path: Path) -> None:
    async def body(r: Any) -> None:
        await r.serve(Gateway("default", (Listener("http", "127.0.0.1", 0, tls="web"),)))
        await r.model("v1")
        r.apply(r.split("ns/iris", {"v1": 10_000}))
        for turn in ("first", "renewed"):
            ca = trustme.CA()
            certificate, key = write_pair(tmp_path, ca, turn, "iris.test")
            held = secret("web", certificate.read_bytes(), key.read_bytes())
            listeners = translate_gateway(Gateway("default", (Listener("http", "127.0.0.1", 0, tls="web"),)))
            r.caches["default"].apply("gateway/default", {**listeners, Type.SECRET: {"web": held}})
            if turn == "first":
                await r.envoy()
                await r.applied("ns/iris")
            await r.applied("gateway/default")
            trust = ssl.create_default_context()
            ca.configure_trust(trust)
            async with (
                aiohttp.ClientSession() as session,
                session.get(
                    f"https://127.0.0.1:{r.port}/v2",
                    ssl=trust,
                    server_hostname="iris.test",
                    headers={"host": "iris.test"},
                ) as answer,
            ):
                assert answer.status == 200, turn

    rig(body)


def test_each_gateway_has_its_own_models(rig: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve(
            Gateway("default", (Listener("http", "127.0.0.1", 0),)),
            Gateway("edge", (Listener("http", "127.0.0.1", 0),)),
        )
        await r.model("v1")
        r.apply(r.split("ns/iris", {"v1": 10_000}))
        r.apply(r.split("ns/rose", {"v1": 10_000}, gateway="edge"))
        await r.envoy("inner")
        await r.applied("ns/iris")
        assert await r.answered_by("iris.test") == "v1"
        assert await r.answered_by("rose.test") == "404"
        await r.envoy("outer", "edge")
        await r.applied("ns/rose", gateway="edge")
        assert await r.answered_by("rose.test") == "v1"
        assert await r.answered_by("iris.test") == "404"

    rig(body)


def test_a_bootstrap_without_our_cluster_name_is_told_what_it_may_be(rig: Any, caplog: Any) -> None:
    async def body(r: Any) -> None:
        await r.serve()
        await r.envoy("lost", "nowhere", ready=False)
        async with asyncio.timeout(10):
            while "nowhere" not in caplog.text:  # noqa: ASYNC110 - the log is the only place where it shows
                await asyncio.sleep(0.01)
        assert "known: default" in caplog.text
        assert r.server.fleet.envoys() == ()

    rig(body)


def test_the_bootstrap_asks_for_delta_and_comes_back_fast() -> None:
    made = bootstrap(node_id="a", node_cluster="b", xds_address="127.0.0.1", xds_port=1)
    ads = made["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == "DELTA_GRPC"
    back_off = ads["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert back_off == {"base_interval": "0.1s", "max_interval": "0.5s"}
