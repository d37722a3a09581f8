"""The rival of the fan-out benchmark: a delta ADS server the usual way, each client's response made for it alone.

The same grpc.aio and the same options as ours. It keeps messages, packs and serialises them per client with google
protobuf (upb, the fast implementation), and knows nothing of gates, owners or rejections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from benchmarks.google_messages import google_class
from xds.resources import Type
from xds.server import SERVICE

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 2**31 - 1),
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)


class NaiveServer:
    """Serves fixed resources, and the routes as messages that `change` alters in place."""

    def __init__(self, resources: Mapping[Type, Mapping[str, bytes]], on_ack: Callable[[], None]) -> None:
        self._resources, self._on_ack = resources, on_ack
        self._request, self._response = google_class(DeltaDiscoveryRequest), google_class(DeltaDiscoveryResponse)
        routes = google_class(RouteConfiguration)
        self._routes = {name: routes.FromString(body) for name, body in resources[Type.ROUTE].items()}
        self._version = 1
        self._streams: dict[_Stream, None] = {}
        self._server: Any = None

    async def start(self) -> int:
        self._server = grpc.aio.server(options=OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=self._request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method}),)
        )
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def stop(self) -> None:
        await self._server.stop(0)

    def change(self, name: str, weight: int) -> None:
        """Alter the weights of the last route, and wake every stream."""
        arms = self._routes[name].virtual_hosts[0].routes[-1].route.weighted_clusters.clusters
        arms[0].weight.value, arms[1].weight.value = 10_000 - weight, weight
        self._version += 1
        for stream in self._streams:
            if name in stream.names:
                stream.due[Type.ROUTE] = {name}
                stream.wake.set()

    async def _serve(self, requests: AsyncIterator[Any], context: Any) -> None:
        stream = _Stream()
        self._streams[stream] = None
        writer = asyncio.create_task(self._write(stream, context))
        try:
            async for request in requests:
                kind = Type(request.type_url)
                if request.response_nonce and kind is Type.ROUTE:
                    self._on_ack()
                names = {name for name in request.resource_names_subscribe if name != "*"}
                if kind is Type.ROUTE:
                    stream.names |= names
                if kind not in stream.asked or names:
                    stream.asked.add(kind)
                    stream.due[kind] = names or set(self._resources[kind])
                    stream.wake.set()
        finally:
            del self._streams[stream]
            writer.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await writer

    async def _write(self, stream: _Stream, context: Any) -> None:
        while True:
            await stream.wake.wait()
            stream.wake.clear()
            while stream.due:
                kind, names = stream.due.popitem()
                await context.write(self._respond(stream, kind, names))

    def _respond(self, stream: _Stream, kind: Type, names: set[str]) -> Any:
        stream.count += 1
        response = self._response(type_url=kind, nonce=str(stream.count))
        for name in names:
            resource = response.resources.add(name=name, version=str(self._version))
            resource.resource.type_url = kind
            body = self._routes[name].SerializeToString() if kind is Type.ROUTE else self._resources[kind][name]
            resource.resource.value = body
        return response


class _Stream:
    """What one client has asked for and is due."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.due: dict[Type, set[str]] = {}
        self.asked: set[Type] = set()
        self.names: set[str] = set()
        self.count = 0
