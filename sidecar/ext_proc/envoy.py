"""Envoy's side: the filter for a listener and the cluster of our server, as protojson."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sidecar.ext_proc import wire
from sidecar.ext_proc.application import ExtProcSpec
from sidecar.ext_proc.choice import REQUEST, RESPONSE, body_mode
from sidecar.ext_proc.host import ATTRIBUTES, LOGGED
from sidecar.pipeline import Pipeline

_FILTER = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def processing_mode(pipeline: Pipeline) -> dict[str, str]:
    """What Envoy has to send for these plugins: no more than one of them looks at."""
    response = bool(pipeline.response)
    return {
        "request_header_mode": "SEND" if pipeline.plugins else "SKIP",
        "response_header_mode": "SEND" if response else "SKIP",
        "request_body_mode": wire.MODES[body_mode(pipeline, REQUEST)],
        "response_body_mode": wire.MODES[body_mode(pipeline, RESPONSE)],
        "request_trailer_mode": "SEND" if pipeline.wants_request_trailers else "SKIP",
        "response_trailer_mode": "SEND" if pipeline.wants_response_trailers else "SKIP",
    }


def attributes(pipeline: Pipeline) -> list[str]:
    """What Envoy has to tell of each request: it takes time, so no more than a plugin asks for."""
    wanted = set(pipeline.properties) | (set(LOGGED) if pipeline.loggers else set())
    if wanted & {"model", "namespace", "version"}:
        wanted.add("cluster")
    return [attribute for name, attribute in ATTRIBUTES.items() if name in wanted]


def http_filter(
    pipeline: Pipeline,
    cluster: str = "headgate.plugins",
    *,
    message_timeout: float = 0.2,
    longest: float = ExtProcSpec.model_fields["longest"].default,
    metadata: Sequence[str] = ("headgate",),
    observe: bool = False,
) -> dict[str, Any]:
    """The HTTP filter. Requests fail with the server only when one of the plugins has the policy "closed".

    `metadata`: the namespaces of dynamic metadata that plugins may set. With `observe` plugins watch only.
    """
    config: dict[str, Any] = {
        "@type": _FILTER,
        "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        "failure_mode_allow": not any(one.closed for one in pipeline.plugins),
        "processing_mode": processing_mode(pipeline),
        "message_timeout": f"{message_timeout:.3f}s",
        "max_message_timeout": f"{longest:.3f}s",
        "request_attributes": attributes(pipeline),
        # Plugins may change what routes are chosen by.
        "mutation_rules": {"allow_all_routing": True, "allow_envoy": True},
        "metadata_options": {"receiving_namespaces": {"untyped": list(metadata)}},
    }
    if observe:
        config["observability_mode"] = True
        config["processing_mode"] = _watching(config["processing_mode"])
        del config["failure_mode_allow"]
    else:
        config["allow_mode_override"] = True
        # A plugin may keep the headers until it has seen a piece of the body.
        config["send_body_without_waiting_for_header_response"] = "STREAMED" in config["processing_mode"].values()
    return {"name": "headgate.plugins", "typed_config": config}


def cluster(listen: str, name: str = "headgate.plugins") -> dict[str, Any]:
    """Where the server listens, as given to `headgate sidecar ext-proc --listen`."""
    if listen.startswith("unix:"):
        address: dict[str, Any] = {"pipe": {"path": listen.removeprefix("unix:")}}
    else:
        host, _, port = listen.rpartition(":")
        address = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}
    # Each request keeps a stream for as long as it takes, and it must not be the number of them that makes Envoy go on
    # without plugins.
    room = {"max_connections": 10_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "circuit_breakers": {"thresholds": [room]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _watching(mode: dict[str, str]) -> dict[str, str]:
    """Nothing is kept back for those who only watch."""
    return {key: "STREAMED" if value.startswith("BUFFERED") else value for key, value in mode.items()}
