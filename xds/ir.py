"""What one model's traffic shall look like, in plain values: the input of `translate`, free of protobuf.

Every value is frozen, hashable and true from birth; equal values mean that nothing has to be sent.
Names are Envoy's. Weights are basis points; durations are seconds; percentages are 0-100.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

WEIGHT_TOTAL = 10_000
"""Every weighted route totals exactly this, for ever: a changed total would reshuffle sticky users."""

VERSION_HEADER = "app-version"
WEIGHTED = "weighted"
"""The name of the route that splits what no other route took."""
SHADOW_HEADER = "x-shadow"


class Protocol(StrEnum):
    """What Envoy speaks to a backend: AUTO follows the protocol of the request."""

    HTTP1 = "http1"
    H2C = "h2c"
    AUTO = "auto"


class StringMatch(StrEnum):
    """How a header or query parameter is compared; PRESENT takes no value."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    PRESENT = "present"


class PathKind(StrEnum):
    PREFIX = "prefix"
    EXACT = "exact"
    REGEX = "regex"


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: an IP address (EDS), or a DNS name when its backend says `dns`."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """One Envoy cluster. `endpoints` is what may receive traffic now; it may be empty for an EDS cluster.

    `name` is unique in the gateway, or equal in several models only when they share the very same server.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    protocol: Protocol = Protocol.AUTO
    dns: bool = False
    connect_timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    name: str
    kind: StringMatch
    value: str = ""
    invert: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatch:
    name: str
    kind: StringMatch
    value: str = ""


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: PathKind = PathKind.PREFIX
    value: str = "/"


@dataclass(frozen=True, slots=True)
class Match:
    """All parts must hold; `method` is a header match on `:method` to Envoy."""

    path: PathMatch = PathMatch()
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One arm of a split. `weight` > 0 in basis points; arms keep their order during a run.

    `host_rewrite` and `path_rewrite` replace the request's Host and whole path; empty leaves them as they are.
    """

    backend: str
    weight: int
    version: str
    set_request_headers: Headers = ()
    remove_request_headers: tuple[str, ...] = ()
    set_response_headers: Headers = ()
    host_rewrite: str = ""
    path_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of `percent` % of the route's requests; its answers never reach the user."""

    backend: str
    percent: float
    version: str
    set_request_headers: Headers = ()
    host_rewrite: str = ""
    path_rewrite: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """`timeout` and `idle_timeout` in seconds, 0 = none. `hash_header`: sticky users by this request header."""

    name: str
    match: Match
    targets: tuple[Target, ...]
    mirrors: tuple[Mirror, ...] = ()
    timeout: float = 0.0
    idle_timeout: float = 300.0
    hash_header: str | None = None

    def __post_init__(self) -> None:
        total = sum(target.weight for target in self.targets)
        if total != WEIGHT_TOTAL or any(target.weight <= 0 for target in self.targets):
            raise ValueError(
                f"route {self.name!r}: weights must be positive and total {WEIGHT_TOTAL}, "
                f"got {[target.weight for target in self.targets]}"
            )


class PluginHost(StrEnum):
    """Where plugins run: inside Envoy, or in a process beside it that Envoy asks."""

    EMBEDDED = "embedded"
    EXT_PROC = "ext-proc"


class PluginModels(StrEnum):
    """For which models of the gateway a plugin runs: those that ask; all but those that opt out; all."""

    ASKING = "asking"
    ALL = "all"
    ALWAYS = "always"


class PluginPlace(StrEnum):
    """What a plugin sees: the requests of users, on their way to a route; or what goes to the versions, each attempt
    and each mirrored copy, once its route is chosen.
    """

    GATEWAY = "gateway"
    BACKEND = "backend"


@dataclass(frozen=True, slots=True)
class Plugin:
    """`source` is its module:Class or file, where the host has to be told; `config` a JSON object.

    `on_failure` is "open", "closed", or empty for the plugin's own policy; `budget` in seconds and `memory` in
    bytes, 0 for its own.
    """

    name: str
    source: str = ""
    config: str = "{}"
    on_failure: str = ""
    budget: float = 0.0
    models: PluginModels = PluginModels.ASKING
    at: PluginPlace = PluginPlace.GATEWAY
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Plugins:
    """What a gateway's Envoys can run, in the order in which requests pass; or, of that, what runs for one model.

    `folder`, `reload` and `calls` (pairs of origin and cluster) are for EMBEDDED; `address`, `timeout` and `properties`
    (of requests that Envoy tells; None for all) for EXT_PROC.
    """

    host: PluginHost
    chain: tuple[Plugin, ...]
    folder: str = ""
    reload: bool = False
    calls: Headers = ()
    address: str = ""
    timeout: float = 0.2
    properties: tuple[str, ...] | None = None

    @property
    def silent(self) -> Plugins:
        """What runs where nobody says anything."""
        return replace(self, chain=tuple(one for one in self.chain if one.models is not PluginModels.ASKING))

    def at(self, place: PluginPlace) -> Plugins:
        """Those that run there."""
        return replace(self, chain=tuple(one for one in self.chain if one.at is place))


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All of one model's traffic. `name` is "namespace/name"; routes are tried in order; the last one matches all.

    Without hosts and routes it lingers: its backends are kept for the requests that are under way there.
    `primary` is the version that answers by default, for those who count requests by the role of their version.
    `plugins` is what runs at the gateway for it, None when that is what its gateway runs for everybody;
    `backend_plugins` what runs at its backends, None for nothing.
    """

    name: str
    gateway: str
    hosts: tuple[str, ...]
    routes: tuple[Route, ...]
    backends: tuple[Backend, ...]
    primary: str = ""
    plugins: Plugins | None = None
    backend_plugins: Plugins | None = None

    def __post_init__(self) -> None:
        if self.hosts and not self.routes:
            raise ValueError(f"{self.name} has hosts, but no routes: its users would get 404")
        known = {backend.name for backend in self.backends}
        for route in self.routes:
            named = [target.backend for target in route.targets] + [mirror.backend for mirror in route.mirrors]
            for name in named:
                if name not in known:
                    raise ValueError(f"{self.name}: route {route.name!r} names backend {name!r}, which the plan lacks")


@dataclass(frozen=True, slots=True)
class Listener:
    """`tls` is the name of the SDS secret that holds the certificate, None for plain text.

    `client_ca` is the name of the SDS validation context, when clients must show a certificate.
    """

    name: str
    address: str
    port: int
    tls: str | None = None
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Each single request is told to the sidecar (see `xds.translate_stream`).

    `client_header` tells clients apart, their addresses do without one. `labels` are names with the request header, or
    with `metadata:` and the key of the plugins' metadata, that has the value.
    """

    client_header: str = ""
    labels: Headers = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A group of Envoys with the same `node.cluster`. More models than `on_demand_above` make scopes on demand.

    `count_requests`: they count requests per model version, for the sidecar (see `xds.translate_access`); with
    `count_copies` the mirrored ones, too.
    """

    name: str
    listeners: tuple[Listener, ...]
    on_demand_above: int = 2_000
    count_requests: bool = True
    plugins: Plugins | None = None
    stream: Stream | None = None
    count_copies: bool = True
