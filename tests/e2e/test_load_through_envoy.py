"""The load generator's HTTP/2 and gRPC clients through a real Envoy that keeps ending its connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hub_thread import Exchange, on_hub

from headgate.demo import v2_messages as pb
from headgate.demo.model_server import ModelServer
from headgate.envoy import EnvoyProcess
from loadgen.payload import v2
from loadgen.plan import Grpc, Load, Scenario, Target
from loadgen.wire.call import Call

CALLS = 300
INFER = Grpc(f"{v2.SERVICE}/ModelInfer", v2.protoset())
EXTENSIONS = "type.googleapis.com/envoy.extensions"
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def bootstrap(rest_port: int, grpc_port: int) -> dict[str, Any]:
    """One listener that takes 25 requests on each connection, then says GOAWAY; gRPC and the rest go to two ports."""

    def cluster(name: str, port: int, **more: Any) -> dict[str, Any]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}

    routes = [
        {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "grpc"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "rest"}},
    ]
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "common_http_protocol_options": {"max_requests_per_connection": 25},
        "drain_timeout": "0.05s",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            "response_headers_to_add": [{"header": {"key": "app-version", "value": "through-envoy"}}],
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "http",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [cluster("rest", rest_port), cluster("grpc", grpc_port, typed_extension_protocol_options=HTTP2)]
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def loaded(scenario: Scenario, body: bytes, at_once: int = 8) -> tuple[list[Call], int]:
    """CALLS calls, `at_once` of them in flight; and how many connections they took."""

    def act() -> tuple[list[Call], int]:
        left = CALLS - at_once

        def then(call: Call) -> None:
            nonlocal left
            if left:
                left -= 1
                mine.send(body)

        mine = Exchange(scenario, then)
        for _ in range(at_once):
            mine.send(body)
        mine.wait()
        opened = mine.client.opened
        mine.client.close()
        return mine.done, opened

    return on_hub(act, 100)


@pytest.mark.parametrize("protocol", ["http2", "grpc"])
def test_no_call_is_lost_when_envoy_ends_connections(protocol: Any) -> None:
    async def run() -> tuple[list[Call], int]:
        async with ModelServer("v7") as server, EnvoyProcess(bootstrap(server.rest_port, server.grpc_port)) as envoy:
            url = f"http://127.0.0.1:{await envoy.wait_listener('http')}"
            load = Load("max", requests=1, connections=2)
            if protocol == "grpc":
                message = pb.iris_request((5.1, 3.5, 1.4, 0.2))
                body = b"\0" + len(message).to_bytes(4, "big") + message
                target = Target(url, "grpc", grpc=INFER, timeout=60, attribution=("body:model_version",))
                return await asyncio.to_thread(loaded, Scenario("a", target, load), body)
            target = Target(f"{url}/v2/models/iris", "http2", timeout=60)
            return await asyncio.to_thread(loaded, Scenario("a", target, load), b"")

    calls, opened = asyncio.run(run())
    assert len(calls) == CALLS
    assert {(call.failure, call.message) for call in calls} == {(None, "")}
    assert {call.version for call in calls} == {"v7" if protocol == "grpc" else "through-envoy"}
    assert {call.code for call in calls} == {"OK" if protocol == "grpc" else "200"}
    assert opened >= CALLS // 25 // 2
