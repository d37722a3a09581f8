"""A gateway's listeners in, Envoy Listeners out; and one per host, without a socket, for gRPC's own xDS client."""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ExtensionConfigSource,
    SocketAddress,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import ApiListener, Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.on_demand.v3 import OnDemand
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
    ScopedRds,
    ScopedRoutes,
    ScopedRoutesScopeKeyBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
)
from envoy_data_plane.google.protobuf import Any

from xds import ir
from xds.encode import embed, encode, field
from xds.resources import Resource
from xds.translate_access import access_logs, copy_logs
from xds.translate_common import over_ads, pack, seconds, type_url
from xds.translate_plugins import plugin_filter
from xds.translate_stream import stream_log

STREAM_IDLE_TIMEOUT = 300.0
ROUTER = "envoy.filters.http.router"
COUNTING_ROUTER = "headgate.router"
"""The router filter of a gateway that counts copies, as a resource of its own."""


def listener(gateway: ir.Gateway, wanted: ir.Listener) -> Resource:
    """Return a listener that finds the model's routes by the request's host.

    The on-demand filter is always there: crossing the threshold then changes scopes, and never drains this listener.
    """
    manager = HttpConnectionManager(
        stat_prefix=gateway.name,
        access_log=_access_logs(gateway),
        scoped_routes=scoped_routes(gateway.name),
        http_filters=[
            HttpFilter(name="envoy.filters.http.on_demand", typed_config=pack(OnDemand())),
            *([plugin_filter(gateway.plugins)] if gateway.plugins is not None else []),
            _router(gateway),
        ],
        use_remote_address=True,
        normalize_path=True,
        stream_idle_timeout=seconds(STREAM_IDLE_TIMEOUT),
    )
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))],
        transport_socket=_tls(wanted),
    )
    socket = SocketAddress(address=wanted.address, port_value=wanted.port, ipv4_compat=wanted.address == "::")
    return Resource.of(
        wanted.name,
        encode(Listener(name=wanted.name, address=Address(socket_address=socket), filter_chains=[chain])),
    )


def _access_logs(gateway: ir.Gateway) -> list[AccessLog]:
    counting = access_logs() if gateway.count_requests else ()
    return [*counting, *(() if gateway.stream is None else (stream_log(gateway.stream),))]


def scoped_routes(gateway: str) -> ScopedRoutes:
    """Scopes are keyed by `:authority` up to the first colon, so a port in it does not matter."""
    host = ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor(
        name=":authority", element_separator=":", index=0
    )
    return ScopedRoutes(
        name=gateway,
        scope_key_builder=ScopedRoutesScopeKeyBuilder(
            fragments=[ScopedRoutesScopeKeyBuilderFragmentBuilder(header_value_extractor=host)]
        ),
        rds_config_source=over_ads(),
        scoped_rds=ScopedRds(scoped_rds_config_source=over_ads()),
    )


def api_listener(host: str, model: str) -> Resource:
    """Return what gRPC's xDS client asks for by the name of its target: no socket, no scopes, the model's routes."""
    manager = _MANAGER_ROUTES(_ROUTES_NAME(model) + _routes_source()) + _manager_shape()
    body = _LISTENER_NAME(host) + _API_LISTENER(_MANAGER(_MANAGER_TYPE + _ANY_VALUE(manager)))
    return Resource.of(host, body, named_only=True)


@lru_cache(maxsize=1)
def _routes_source() -> bytes:
    return encode(Rds(config_source=over_ads()))


@lru_cache(maxsize=1)
def _manager_shape() -> bytes:
    return encode(HttpConnectionManager(stat_prefix="grpc", http_filters=[_router()]))


def _router(gateway: ir.Gateway | None = None) -> HttpFilter:
    """An Envoy that counts for us, or tells us of each request, keeps no codes and times per cluster of its own: they
    cost 2 us for each request.
    """
    told = gateway is not None and (gateway.count_requests or gateway.stream is not None)
    own = pack(Router(dynamic_stats=False) if told else Router())
    if gateway is None or not counts_copies(gateway):
        return HttpFilter(name=ROUTER, typed_config=own)
    source = ExtensionConfigSource(
        config_source=over_ads(),
        type_urls=[type_url(Router)],
        default_config=own,  # should it ever be refused
    )
    return HttpFilter(name=COUNTING_ROUTER, config_discovery=source)


def counts_copies(gateway: ir.Gateway) -> bool:
    """Whether the gateway needs `counting_router`."""
    return gateway.count_requests and gateway.count_copies


def counting_router(mirrored: bool) -> Resource:
    """Return the router filter of such a gateway, which Envoy takes without draining the listener.

    While no model is mirrored it has no logger of what goes upstream: for that Envoy copies the headers of every
    answer, whether the logger takes it or not, which costs 2 us for each request.
    """
    router = Router(dynamic_stats=False, upstream_log=list(copy_logs()) if mirrored else [])
    config = TypedExtensionConfig(name=COUNTING_ROUTER, typed_config=pack(router))
    return Resource.of(COUNTING_ROUTER, encode(config))


def _tls(wanted: ir.Listener) -> TransportSocket | None:
    """Certificates come by name over ADS: renewing one never touches the listener."""
    if wanted.tls is None:
        return None
    common = CommonTlsContext(
        alpn_protocols=["h2", "http/1.1"],
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=wanted.tls, sds_config=over_ads())],
        validation_context_sds_secret_config=(
            SdsSecretConfig(name=wanted.client_ca, sds_config=over_ads()) if wanted.client_ca else None
        ),
    )
    context = DownstreamTlsContext(
        common_tls_context=common, require_client_certificate=True if wanted.client_ca else None
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


_LISTENER_NAME = field(Listener, "name")
_API_LISTENER = embed(Listener, "api_listener")
_MANAGER = embed(ApiListener, "api_listener")
_MANAGER_TYPE = field(Any, "type_url")(type_url(HttpConnectionManager))
_ANY_VALUE = embed(Any, "value")
_MANAGER_ROUTES = embed(HttpConnectionManager, "rds")
_ROUTES_NAME = field(Rds, "route_config_name")
