"""A gateway's plugins in, the one HTTP filter of its listeners out; and what differs from it for one model.

The listener's filter runs what runs for everybody. A model for which something else runs says so at its virtual host:
so a model that asks for a plugin, or no longer does, changes its own routes and never a listener.

    embedded   a dynamic module; a model's own list is the module's configuration for the route
    ext-proc   Envoy asks a server which plugins it has; a model's own list goes along in the metadata of the stream
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    Http2ProtocolOptions,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.route.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.dynamic_modules.v3 import DynamicModuleConfig
from envoy_data_plane.envoy.extensions.filters.http.dynamic_modules.v3 import (
    DynamicModuleFilter,
    DynamicModuleFilterPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.google.protobuf import StringValue

from xds import ir
from xds.encode import encode
from xds.resources import Resource
from xds.translate_common import pack, seconds

FILTER = "headgate.plugins"
"""Name of the filter, and of the cluster of the server beside Envoy."""

CHOICE = "x-headgate-plugins"
"""Metadata of a stream to that server: a JSON list of the plugins to run, each {name, config}; at a cluster an object
of its name and this list."""

MODULE = "headgate_python"
_LONGEST = 10.0  # seconds that a plugin may ask Envoy to wait
_ATTRIBUTES = {  # by the names that plugins know
    "xds.route_name": ("route",),
    "xds.cluster_name": ("cluster", "model", "namespace", "version"),
    "source.address": ("source_address",),
    "request.protocol": ("protocol",),
}
_ROOM = 100_000  # each request keeps a stream: their number alone must not make Envoy go on without plugins


def plugin_filter(plugins: ir.Plugins) -> HttpFilter:
    """Return the filter that runs what the gateway runs for everybody."""
    silent = plugins.silent.at(ir.PluginPlace.GATEWAY)
    config: Any = _module(silent) if plugins.host is ir.PluginHost.EMBEDDED else _processor(silent)
    return HttpFilter(name=FILTER, typed_config=pack(config))


@lru_cache(maxsize=4096)
def model_plugins(plugins: ir.Plugins) -> bytes:
    """Return the encoded configuration of the filter for one model.

    Optional, because gRPC's own xDS client gets the same routes and would refuse them for a filter it does not know.
    """
    config: Any = _module_for(plugins) if plugins.host is ir.PluginHost.EMBEDDED else _processor_for(plugins)
    return encode(pack(FilterConfig(config=pack(config), is_optional=True)))


@lru_cache(maxsize=4096)
def backend_filter(plugins: ir.Plugins, cluster: str) -> bytes:
    """Return the encoded filter of a cluster, which sees each attempt and each mirrored copy."""
    embedded = plugins.host is ir.PluginHost.EMBEDDED
    config: Any = _module(plugins, ir.PluginPlace.BACKEND) if embedded else _processor(plugins, cluster)
    return encode(HttpFilter(name=FILTER, typed_config=pack(config)))


def plugin_cluster(plugins: ir.Plugins) -> Resource:
    """Return the cluster of the server beside Envoy."""
    http2 = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
    here = LbEndpoint(endpoint=Endpoint(address=_address(plugins.address)))
    room = CircuitBreakersThresholds(max_connections=10_000, max_pending_requests=_ROOM, max_requests=_ROOM)
    cluster = Cluster(
        name=FILTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(0.25),
        circuit_breakers=CircuitBreakers(thresholds=[room]),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(
                HttpProtocolOptions(explicit_http_config=http2)
            )
        },
        load_assignment=ClusterLoadAssignment(
            cluster_name=FILTER, endpoints=[LocalityLbEndpoints(lb_endpoints=[here])]
        ),
    )
    return Resource.of(FILTER, encode(cluster))


def _module(plugins: ir.Plugins, at: ir.PluginPlace = ir.PluginPlace.GATEWAY) -> DynamicModuleFilter:
    return DynamicModuleFilter(
        dynamic_module_config=_shared_module(),
        filter_name="headgate",
        filter_config=pack(StringValue(value=_embedded(plugins, at))),
    )


def _module_for(plugins: ir.Plugins) -> DynamicModuleFilterPerRoute:
    return DynamicModuleFilterPerRoute(
        dynamic_module_config=_shared_module(),
        filter_name="headgate",
        filter_config=pack(StringValue(value=_embedded(plugins))),
    )


def _shared_module() -> DynamicModuleConfig:
    """Loaded for all to see, because Python's own extension modules look there for the interpreter; never closed,
    because Python cannot be loaded twice.
    """
    return DynamicModuleConfig(name=MODULE, do_not_close=True, load_globally=True)


def _embedded(plugins: ir.Plugins, at: ir.PluginPlace = ir.PluginPlace.GATEWAY) -> str:
    """What the module reads: each plugin with its source and configuration."""
    config: dict[str, Any] = {"plugins": [_entry(one) for one in plugins.chain]}
    if at is not ir.PluginPlace.GATEWAY:
        config["at"] = at.value
    if plugins.folder:
        config["folder"] = plugins.folder
    if plugins.reload:
        config["reload"] = True
    if plugins.calls:
        config["calls"] = dict(plugins.calls)
    return _json(config)


def _entry(plugin: ir.Plugin) -> dict[str, Any]:
    entry: dict[str, Any] = {"plugin": plugin.source, "name": plugin.name}
    if config := json.loads(plugin.config):
        entry["config"] = config
    if plugin.on_failure:
        entry["onFailure"] = plugin.on_failure
    if plugin.budget:
        entry["budget"] = plugin.budget
    if plugin.memory:
        entry["memory"] = plugin.memory
    return entry


def _processor(plugins: ir.Plugins, cluster: str = "") -> ExternalProcessor:
    """Which bodies plugins want, the server says with its first answer: Envoy sends headers until it is told.

    At a `cluster` Envoy has no attributes (asked for, they end Envoy 1.40): its name goes along with the choice.
    """
    send = ProcessingModeHeaderSendMode.SEND
    return ExternalProcessor(
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=FILTER),
            initial_metadata=[_choice(plugins.chain, cluster)],
        ),
        failure_mode_allow=_open(plugins.chain),
        processing_mode=ProcessingMode(request_header_mode=send, response_header_mode=send),
        allow_mode_override=True,
        message_timeout=seconds(plugins.timeout),
        max_message_timeout=seconds(_LONGEST),
        request_attributes=[] if cluster else _attributes(plugins.properties),
        mutation_rules=HeaderMutationRules(allow_all_routing=True, allow_envoy=True),
        metadata_options=MetadataOptions(receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=["headgate"])),
    )


def _attributes(properties: tuple[str, ...] | None) -> list[str]:
    """Envoy takes time to tell each of them."""
    return [one for one, names in _ATTRIBUTES.items() if properties is None or not set(names).isdisjoint(properties)]


def _processor_for(plugins: ir.Plugins) -> ExtProcPerRoute:
    if not plugins.chain:
        return ExtProcPerRoute(disabled=True)
    return ExtProcPerRoute(
        overrides=ExtProcOverrides(
            grpc_initial_metadata=[_choice(plugins.chain)], failure_mode_allow=_open(plugins.chain)
        )
    )


def _choice(chain: Iterable[ir.Plugin], cluster: str = "") -> HeaderValue:
    found = []
    for one in chain:
        config = json.loads(one.config)
        found.append({"name": one.name, "config": config} if config else {"name": one.name})
    return HeaderValue(key=CHOICE, value=_json({"cluster": cluster, "plugins": found} if cluster else found))


def _open(chain: Iterable[ir.Plugin]) -> bool:
    return all(one.on_failure != "closed" for one in chain)


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return Address(pipe=Pipe(path=text.removeprefix("unix:")))
    host, _, port = text.rpartition(":")
    return Address(socket_address=SocketAddress(address=host.strip("[]"), port_value=int(port)))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
