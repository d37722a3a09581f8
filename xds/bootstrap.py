"""The bootstrap of an Envoy that takes everything else from headgate over one ADS stream: a plain dict, for YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePath
from typing import Any

import yaml

XDS_CLUSTER = "headgate_xds"
SIDECAR_CLUSTER = "headgate_sidecar"
"""Where the sidecar takes what Envoy tells of single requests, if a gateway's streamRequests asks for that."""
CLIENT_SECRET, SERVER_SECRET = "headgate_xds_client", "headgate_xds_server"
TYPES = "type.googleapis.com/envoy"
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 3600.0),
)
"""Bounds of the buckets in which Envoy counts how long inference takes. What is above the last one would be lost."""
BUCKETS = [round(bound * 1e6) for bound in SECONDS]
"""In microseconds, see `xds.translate_access`."""


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How Envoy checks the control plane (`ca`), and what it shows of itself (`certificate` with `key`).

    All are paths on Envoy's machine. Envoy reads them once, unless `secrets_folder` is where the files that `secrets`
    describes are kept: then it follows changes of the certificates (a rename into their folder, as Kubernetes does).
    `server_name` is the name that the control plane's certificate must carry, the xDS address when None.
    """

    ca: str
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    secrets_folder: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs its key, and a key its certificate: give both or neither")


def bootstrap(
    *,
    node_id: str,
    node_cluster: str,
    xds_address: str,
    xds_port: int,
    admin_address: str = "127.0.0.1",
    admin_port: int = 9901,
    tls: UpstreamTls | None = None,
    sotw: bool = False,
    sidecar: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Return the bootstrap. `node_cluster` is the gateway's name; `sotw` asks for state-of-the-world, not delta.

    `sidecar` is an IP address and a port that nobody connects to unless the gateway streams requests. Envoy takes no
    listener that streams to a cluster which came later than its bootstrap.
    """
    clusters = [_xds_cluster(xds_address, xds_port, tls)]
    if sidecar is not None:
        clusters.append(_sidecar_cluster(*sidecar))
    return {
        "node": {"id": node_id, "cluster": node_cluster},
        "admin": {"address": _socket(admin_address, admin_port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC" if sotw else "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": _grpc()}],
            },
            "cds_config": _over_ads(),
            "lds_config": _over_ads(),
        },
        # Only headgate asks for load reports, and only while it waits for a version's last requests to end.
        "cluster_manager": {
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            }
        },
        "static_resources": {"clusters": clusters},
        # Counters of a cluster cost memory from its first request on, not before: most models are quiet.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        # What the sidecar reads: histograms are up to date within a second, and what nobody counts any more is let go.
        "stats_flush_interval": "1s",
        "stats_eviction_interval": "600s",
        "stats_config": {"histogram_bucket_settings": [{"match": {"prefix": "headgate."}, "buckets": BUCKETS}]},
    }


def secrets(tls: UpstreamTls, xds_address: str) -> dict[str, dict[str, Any]]:
    """Return the SDS files of `tls.secrets_folder`, by path: each names its certificate and the folder to watch."""
    contents = {SERVER_SECRET: {"validation_context": _trusted(tls, xds_address) | _watching(tls.ca)}}
    if tls.certificate is not None:
        contents[CLIENT_SECRET] = {"tls_certificate": _pair(tls) | _watching(tls.certificate)}
    kind = f"{TYPES}.extensions.transport_sockets.tls.v3.Secret"
    return {
        _secret_path(tls, name): {"resources": [{"@type": kind, "name": name, **content}]}
        for name, content in contents.items()
    }


def as_yaml(config: dict[str, Any]) -> str:
    """Return YAML that Envoy reads as it was meant: its reader takes a plain y or n for a boolean, PyYAML does not."""
    return yaml.dump(config, Dumper=_EnvoyDumper, sort_keys=False)


class _EnvoyDumper(yaml.SafeDumper):
    pass


_EnvoyDumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))


def _grpc() -> dict[str, Any]:
    """Envoy's own back-off after a lost control plane reaches 23 s; with this one it was back within half a second."""
    back_off = {"base_interval": "0.1s", "max_interval": "0.5s"}
    return {"cluster_name": XDS_CLUSTER, "retry_policy": {"retry_back_off": back_off}}


def _over_ads() -> dict[str, Any]:
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "15s"}


def _xds_cluster(address: str, port: int, tls: UpstreamTls | None) -> dict[str, Any]:
    keepalive = {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
    cluster: dict[str, Any] = {
        "name": XDS_CLUSTER,
        **_discovery(address),
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address, port)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": keepalive},
            }
        },
    }
    if tls is not None:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                **({} if _is_ip(_server_name(tls, address)) else {"sni": _server_name(tls, address)}),
                "common_tls_context": {"alpn_protocols": ["h2"], **_credentials(tls, address)},
            },
        }
    return cluster


def _sidecar_cluster(address: str, port: int) -> dict[str, Any]:
    """A sidecar that hangs takes nothing, while Envoy goes on writing: Linux cuts the connection off after 3 s."""
    tcp, user_timeout = 6, 18
    option = {"description": "TCP_USER_TIMEOUT", "level": tcp, "name": user_timeout, "int_value": 3_000}
    return {
        "name": SIDECAR_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "upstream_bind_config": {"socket_options": [{**option, "state": "STATE_PREBIND"}]},
        "load_assignment": {
            "cluster_name": SIDECAR_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address, port)}}]}],
        },
    }


def _discovery(address: str) -> dict[str, Any]:
    if _is_ip(address):
        return {"type": "STATIC"}
    dns = {"@type": f"{TYPES}.extensions.clusters.dns.v3.DnsCluster", "dns_lookup_family": "V4_PREFERRED"}
    return {"cluster_type": {"name": "envoy.clusters.dns", "typed_config": dns}}


def _credentials(tls: UpstreamTls, address: str) -> dict[str, Any]:
    if tls.secrets_folder is None:
        pair = {} if tls.certificate is None else {"tls_certificates": [_pair(tls)]}
        return {"validation_context": _trusted(tls, address), **pair}
    shown = {} if tls.certificate is None else {"tls_certificate_sds_secret_configs": [_secret(tls, CLIENT_SECRET)]}
    return {"validation_context_sds_secret_config": _secret(tls, SERVER_SECRET), **shown}


def _secret(tls: UpstreamTls, name: str) -> dict[str, Any]:
    source = {"path_config_source": {"path": _secret_path(tls, name)}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secret_path(tls: UpstreamTls, name: str) -> str:
    return str(PurePath(tls.secrets_folder or ".") / f"{name}.yaml")


def _trusted(tls: UpstreamTls, address: str) -> dict[str, Any]:
    """A certificate of the right authority is not enough: it must be made out to the control plane."""
    name = _server_name(tls, address)
    expected = {"san_type": "IP_ADDRESS" if _is_ip(name) else "DNS", "matcher": {"exact": name}}
    return {"trusted_ca": {"filename": tls.ca}, "match_typed_subject_alt_names": [expected]}


def _server_name(tls: UpstreamTls, address: str) -> str:
    return tls.server_name or address


def _pair(tls: UpstreamTls) -> dict[str, Any]:
    return {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}


def _watching(path: str) -> dict[str, Any]:
    return {"watched_directory": {"path": str(PurePath(path).parent)}}


def _socket(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True
