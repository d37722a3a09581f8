"""An encoded Envoy resource, and the sets of them that one owner (a model, a gateway) contributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType


class Type(StrEnum):
    """Type URLs, in the order in which resources are made; removal runs the other way."""

    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    SCOPE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes on the wire. `version` is the hash of `body`: equal means silent, across restarts too.

    `refs` names the clusters that a route sends to (for ROUTE), the route that a scope leads to (for SCOPE).
    `late` marks an endpoint set without endpoints: it may only be sent once no route needs the cluster.
    `named_only` keeps a resource out of wildcard answers (listeners made for gRPC's own xDS client).
    `on_demand` marks a scope whose route Envoy only asks for when a request needs it.
    """

    name: str
    version: str
    body: bytes
    refs: tuple[str, ...] = ()
    late: bool = False
    named_only: bool = False
    on_demand: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        body: bytes,
        *,
        refs: tuple[str, ...] = (),
        late: bool = False,
        named_only: bool = False,
        on_demand: bool = False,
    ) -> Resource:
        """Make a resource whose version is derived from its bytes."""
        return cls(name, blake2b(body, digest_size=8).hexdigest(), body, refs, late, named_only, on_demand)


Resources = Mapping[Type, Mapping[str, Resource]]
"""Everything that one owner contributes, by type and name."""

NOTHING: Resources = MappingProxyType({})
