"""A backend in, its Cluster and ClusterLoadAssignment out.

Thousands of models have clusters that differ in their names only, so what they share is authored and encoded once per
shape; names and addresses are joined to it (see `xds.encode.field`).
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    Locality,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
    HttpProtocolOptionsUseDownstreamHttpConfig,
)

from xds import ir
from xds.encode import embed, encode, field
from xds.resources import Resource
from xds.translate_common import over_ads, pack, said_of, seconds
from xds.translate_plugins import backend_filter
from xds.translate_rewrite import codec_filter, copy_filters

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
OUT_OF_THE_WAY = 1_000_000
DNS_REFRESH = 5.0


def cluster(model: str, backend: ir.Backend, rewritten: bool = False, plugins: ir.Plugins | None = None) -> Resource:
    """Return the cluster. One that belongs to the model alone says so in its metadata, for access logs.

    `rewritten`: it receives copies that bring a path of their own (see `xds.translate_rewrite`). `plugins` see what
    goes to it; a cluster that several models share has none, so a model with plugins there shares none.
    """
    owner, _, version = backend.name.rpartition("/")
    filters = backend_filter(plugins, backend.name) if plugins is not None and owner == model else b""
    shape = _shape(backend.protocol, backend.connect_timeout, backend.dns, rewritten, filters)
    body = _CLUSTER_NAME(backend.name) + shape
    if owner == model:
        body += _metadata(model, version.partition("~")[0])
    if backend.dns:
        body += _CLUSTER_ENDPOINTS(_assignment(backend))
    return Resource.of(backend.name, body)


def assignment(backend: ir.Backend) -> Resource:
    """Return the endpoints of an EDS cluster. Without any it is `late`: sent only when no route needs the cluster."""
    return Resource.of(backend.name, _assignment(backend), late=not backend.endpoints)


@lru_cache(maxsize=1024)
def _shape(protocol: ir.Protocol, connect_timeout: float, dns: bool, rewritten: bool, plugins: bytes) -> bytes:
    """All of a cluster but its name, metadata and inline endpoints. `plugins`: an encoded filter, or nothing."""
    return encode(
        Cluster(
            type=None if dns else ClusterDiscoveryType.EDS,
            eds_cluster_config=None if dns else ClusterEdsClusterConfig(eds_config=over_ads()),
            cluster_type=_strict_dns() if dns else None,
            connect_timeout=seconds(connect_timeout),
            lb_policy=ClusterLbPolicy.ROUND_ROBIN,
            circuit_breakers=CircuitBreakers(
                thresholds=[
                    CircuitBreakersThresholds(
                        max_connections=OUT_OF_THE_WAY,
                        max_pending_requests=OUT_OF_THE_WAY,
                        max_requests=OUT_OF_THE_WAY,
                        max_retries=3,
                    )
                ]
            ),
            typed_extension_protocol_options={HTTP_OPTIONS: pack(_http_options(protocol, rewritten, plugins))},
            ignore_health_on_host_removal=True,
        )
    )


def _strict_dns() -> ClusterCustomClusterType:
    """Not `type: STRICT_DNS`, whose settings are deprecated: this extension is its successor.

    The lookup family is not AUTO, which takes localhost for ::1 only, where few model servers listen.
    """
    settings = DnsCluster(dns_refresh_rate=seconds(DNS_REFRESH), dns_lookup_family=DnsLookupFamily.V4_PREFERRED)
    return ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=pack(settings))


def _http_options(protocol: ir.Protocol, rewritten: bool, plugins: bytes) -> HttpProtocolOptions:
    http1, http2 = Http1ProtocolOptions(), Http2ProtocolOptions()
    filters = [*copy_filters()] if rewritten else []
    if plugins:
        filters.append(HttpFilter.parse(plugins))
    if filters:
        filters.append(codec_filter())
    if protocol is ir.Protocol.AUTO:
        return HttpProtocolOptions(
            use_downstream_protocol_config=HttpProtocolOptionsUseDownstreamHttpConfig(
                http_protocol_options=http1, http2_protocol_options=http2
            ),
            http_filters=filters,
        )
    if protocol is ir.Protocol.H2C:
        explicit = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
    else:
        explicit = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=http1)
    return HttpProtocolOptions(explicit_http_config=explicit, http_filters=filters)


def _metadata(model: str, version: str) -> bytes:
    return _CLUSTER_METADATA(said_of(model=model, version=version))


def _assignment(backend: ir.Backend) -> bytes:
    body = _ASSIGNMENT_NAME(backend.name)
    if backend.endpoints:
        body += _LOCALITY(b"".join([_endpoint(endpoint) for endpoint in backend.endpoints]) + _ONE_LOCALITY)
    return body


@lru_cache(maxsize=65_536)
def _endpoint(endpoint: ir.Endpoint) -> bytes:
    socket = _SOCKET_ADDRESS(endpoint.address) + _SOCKET_PORT(endpoint.port)
    return _LB_ENDPOINT(_ENDPOINT(_ENDPOINT_ADDRESS(_ADDRESS(socket))))


_CLUSTER_NAME = field(Cluster, "name")
_CLUSTER_ENDPOINTS = embed(Cluster, "load_assignment")
_CLUSTER_METADATA = embed(Cluster, "metadata")
_ASSIGNMENT_NAME = field(ClusterLoadAssignment, "cluster_name")
_LOCALITY = embed(ClusterLoadAssignment, "endpoints")
# gRPC's own client refuses endpoints without a locality, and passes over a locality without a weight.
_ONE_LOCALITY = encode(LocalityLbEndpoints(locality=Locality(), load_balancing_weight=1))
_LB_ENDPOINT = embed(LocalityLbEndpoints, "lb_endpoints")
_ENDPOINT = embed(LbEndpoint, "endpoint")
_ENDPOINT_ADDRESS = embed(Endpoint, "address")
_ADDRESS = embed(Address, "socket_address")
_SOCKET_ADDRESS = field(SocketAddress, "address")
_SOCKET_PORT = field(SocketAddress, "port_value")
