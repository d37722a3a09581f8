"""The second, independent client: gRPC's own xDS resolver, without any Envoy, follows the same plan."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from xds.cache import Cache
from xds.ir import (
    Backend,
    Endpoint,
    HeaderMatch,
    Match,
    ModelPlan,
    Plugin,
    PluginHost,
    Plugins,
    Protocol,
    Route,
    StringMatch,
    Target,
)
from xds.server import XdsServer
from xds.translate import translate

CLIENT = """
import grpc, json, sys
call = grpc.insecure_channel("xds:///iris.test").unary_unary("/test.Model/Version")
ask = lambda **more: call(b"", timeout=20, **more).decode()
split = [ask() for _ in range(200)]
pinned = [ask(metadata=[("traffic", "test")]) for _ in range(20)]
print(json.dumps({"split": split, "pinned": pinned}))
"""


EMBEDDED = Plugins(PluginHost.EMBEDDED, (Plugin("stamp", "stamp.py"),))
EXT_PROC = Plugins(PluginHost.EXT_PROC, (Plugin("stamp"),), address="unix:/run/plugins.sock")


@pytest.mark.parametrize(
    ("protocol", "plugins"),
    [(Protocol.H2C, None), (Protocol.AUTO, None), (Protocol.H2C, EMBEDDED), (Protocol.H2C, EXT_PROC)],
    ids=["h2c", "auto", "plugins inside Envoy", "plugins beside Envoy"],
)
def test_a_proxyless_client_follows_weights_and_pins(protocol, plugins):
    answers = asyncio.run(ask_through_grpc(protocol, plugins))
    assert set(answers["pinned"]) == {"v2"}
    counted = Counter(answers["split"])
    assert set(counted) == {"v1", "v2"}
    assert counted["v1"] > counted["v2"]  # 80 to 20: the other way round is one chance in 10 to the 70


async def ask_through_grpc(protocol: Protocol, plugins: Plugins | None) -> dict[str, list[str]]:
    servers = {version: model_server(version) for version in ("v1", "v2")}
    backends = [Backend(f"m/{name}", (Endpoint("127.0.0.1", port),), protocol) for name, (_, port) in servers.items()]
    pin = Match(headers=(HeaderMatch("traffic", StringMatch.EXACT, "test"),))
    routes = (
        Route("pin", pin, (Target("m/v2", 10_000, "v2"),)),
        Route("split", Match(), (Target("m/v1", 8_000, "v1"), Target("m/v2", 2_000, "v2"))),
    )
    cache = Cache()
    cache.apply("m", translate(ModelPlan("m", "default", ("iris.test",), routes, tuple(backends), plugins=plugins)))
    control_plane = XdsServer({"default": cache})
    await control_plane.start()
    try:
        # gRPC reads its bootstrap once per process, hence a process of its own.
        known = {
            "xds_servers": [{"server_uri": f"127.0.0.1:{control_plane.port}", "channel_creds": [{"type": "insecure"}]}],
            "node": {"id": "client", "cluster": "default"},
        }
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT),
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(known)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, why = await asyncio.wait_for(client.communicate(), 60)
        assert client.returncode == 0, why.decode()
        answers: dict[str, list[str]] = json.loads(printed)
        return answers
    finally:
        await control_plane.stop()
        for server, _ in servers.values():
            server.stop(None)


def model_server(version: str) -> tuple[grpc.Server, int]:
    """Answer every call with the version's name."""
    server = grpc.server(ThreadPoolExecutor(2))
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: version.encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Model", {"Version": answer}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port
