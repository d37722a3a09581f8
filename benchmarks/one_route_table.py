"""The rival of the convergence benchmark: one RouteConfiguration with a virtual host per model, as meshes do it.

It is given every benefit: the same cache, server and Envoy; every model's virtual host is kept encoded, so that a
change costs one small encode and one join of bytes; and its routes wait at no gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager, Rds

from xds.cache import Cache
from xds.encode import encode
from xds.ir import Gateway, ModelPlan
from xds.resources import Resource, Type
from xds.translate import translate
from xds.translate_common import over_ads, pack
from xds.translate_listener import _router
from xds.varint import delimited, read_varint

TABLE = "all-models"
_VIRTUAL_HOSTS, _NAME, _DOMAINS, _ROUTES = 2, 1, 2, 3


class OneRouteTable:
    """A Sink for the engine; holds back the table until `open`, so that loading N models does not build N tables."""

    def __init__(self, gateway: Gateway) -> None:
        self.caches: Mapping[str, Cache] = {gateway.name: Cache()}
        self._cache = self.caches[gateway.name]
        self._virtual_hosts: dict[str, bytes] = {}
        self._open = False
        wanted = gateway.listeners[0]
        self._cache.apply(
            f"gateway/{gateway.name}",
            {Type.LISTENER: {wanted.name: listener(wanted.name, wanted.address, wanted.port)}},
        )

    def open(self) -> None:
        self._open = True
        self._publish()

    def apply(self, plan: ModelPlan) -> None:
        resources = translate(plan)
        kept = {kind: resources[kind] for kind in (Type.CLUSTER, Type.ENDPOINT)}
        # An endpoint set that came late would wait for a route that the rival does not have.
        kept[Type.ENDPOINT] = {name: replace(r, late=False) for name, r in kept[Type.ENDPOINT].items()}
        self._cache.apply(plan.name, kept)
        self._virtual_hosts[plan.name] = virtual_host(plan, resources[Type.ROUTE][plan.name].body)
        if self._open:
            self._publish()

    def remove(self, gateway: str, model: str) -> None:
        self._cache.remove(model)
        self._virtual_hosts.pop(model, None)
        if self._open:
            self._publish()

    def _publish(self) -> None:
        body = delimited(_NAME, TABLE.encode()) + b"".join(self._virtual_hosts.values())
        self._cache.apply(TABLE, {Type.ROUTE: {TABLE: Resource.of(TABLE, body)}})


def virtual_host(plan: ModelPlan, configuration: bytes) -> bytes:
    """The model's own virtual host, with its hosts as domains, as a field of the table."""
    (inner,) = (value for number, value in fields(configuration) if number == _VIRTUAL_HOSTS)
    body = delimited(_NAME, plan.name.encode())
    body += b"".join(delimited(_DOMAINS, host.encode()) for host in plan.hosts)
    body += b"".join(delimited(number, value) for number, value in fields(inner) if number == _ROUTES)
    return delimited(_VIRTUAL_HOSTS, body)


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of an encoded message; others are passed over."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        if key & 7 == 2:
            size, at = read_varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        elif key & 7 == 0:
            _, at = read_varint(message, at)
        else:
            at += 8 if key & 7 == 1 else 4


def listener(name: str, address: str, port: int) -> Resource:
    """The usual listener: its routes by name, no scopes."""
    manager = HttpConnectionManager(
        stat_prefix=name, rds=Rds(route_config_name=TABLE, config_source=over_ads()), http_filters=[_router()]
    )
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))]
    )
    socket = SocketAddress(address=address, port_value=port)
    return Resource.of(name, encode(Listener(name=name, address=Address(socket_address=socket), filter_chains=[chain])))
