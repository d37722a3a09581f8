"""A plan in, encoded Envoy resources out. Pure: equal plans give equal bytes, so nothing is sent twice.

ModelPlan ─► Cluster, ClusterLoadAssignment     per backend                     translate_cluster.py
          ─► RouteConfiguration                 one, named after the model      translate_route.py
          ─► ScopedRouteConfiguration           per host, leads to that one     translate_route.py
          ─► Listener without a socket          per host, for gRPC's xDS client translate_listener.py
Gateway   ─► Listener                           per listener, finds the scope   translate_listener.py
          ─► TypedExtensionConfig               its router, if copies are counted
          ─► Cluster                            of plugins beside Envoy         translate_plugins.py
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from xds.ir import (
    WEIGHT_TOTAL,
    Backend,
    Endpoint,
    Gateway,
    HeaderMatch,
    Listener,
    Match,
    Mirror,
    ModelPlan,
    PathKind,
    PathMatch,
    Plugin,
    PluginHost,
    PluginModels,
    Plugins,
    Protocol,
    QueryMatch,
    Route,
    StringMatch,
    Target,
)
from xds.resources import Resource, Resources, Type
from xds.translate_cluster import assignment, cluster
from xds.translate_listener import api_listener, counting_router, counts_copies, listener
from xds.translate_plugins import plugin_cluster
from xds.translate_rewrite import rewritten_copies
from xds.translate_route import route_configuration, scope
from xds.translate_secret import secret, validation_context

__all__ = ["secret", "translate", "translate_gateway", "validation_context", "warm_up"]


def translate(plan: ModelPlan, *, on_demand: bool = False) -> Resources:
    """Return all of the model's resources. `on_demand`: Envoy fetches the routes with the first request for a host.

    A plan without routes keeps its clusters with their endpoints, for the requests that are under way there.
    """
    copies = rewritten_copies(plan.routes)
    return {
        Type.CLUSTER: _by_name(
            cluster(plan.name, backend, backend.name in copies, plan.backend_plugins) for backend in plan.backends
        ),
        Type.ENDPOINT: _by_name(assignment(backend) for backend in plan.backends if not backend.dns),
        Type.LISTENER: _by_name(api_listener(host, plan.name) for host in plan.hosts),
        Type.SCOPE: _by_name(scope(host, plan.name, on_demand) for host in plan.hosts),
        Type.ROUTE: _by_name((route_configuration(plan),) if plan.routes else ()),
    }


def translate_gateway(gateway: Gateway, *, mirrored: bool = False) -> Resources:
    """Return the listeners of a group of Envoys. No model ever changes them: a changed listener drains connections.

    `mirrored`: some model of the gateway is.
    """
    found = {Type.LISTENER: _by_name(listener(gateway, each) for each in gateway.listeners)}
    if counts_copies(gateway):
        found[Type.EXTENSION] = _by_name((counting_router(mirrored),))
    if gateway.plugins is not None and gateway.plugins.host is PluginHost.EXT_PROC:
        found[Type.CLUSTER] = _by_name((plugin_cluster(gateway.plugins),))
    return found


def warm_up() -> None:
    """Translate one of everything. The first message of each class costs milliseconds of preparation, 0.2 s in all:
    paid here, before the first Envoy connects, it does not delay somebody's first mirror at noon.
    """
    kinds = [kind for kind in StringMatch if kind is not StringMatch.PRESENT]
    match = Match(
        headers=tuple(HeaderMatch("x", kind, "x") for kind in kinds),
        query=tuple(QueryMatch("x", kind, "x") for kind in kinds),
    )
    mirror = Mirror("x", 1.0, "x", (("x", "x"),), "x", "/x")
    targets = (Target("x", WEIGHT_TOTAL, "x", (("x", "x"),), ("x",), (("x", "x"),), "x"),)
    routes = tuple(
        Route("x", replace(match, path=PathMatch(kind, "/")), targets, (mirror,), hash_header="x") for kind in PathKind
    )
    endpoints = (Endpoint("x", 1),)
    for protocol in Protocol:
        for dns in (False, True):
            translate(ModelPlan("x", "x", ("x",), routes, (Backend("x", endpoints, protocol, dns),)), on_demand=True)
    for mirrored in (False, True):
        translate_gateway(Gateway("x", (Listener("x", "::", 1, tls="x", client_ca="x"),)), mirrored=mirrored)
    for host in PluginHost:
        for address in ("unix:/x", "127.0.0.1:1"):
            plugins = Plugins(host, (Plugin("x", models=PluginModels.ALL),), address=address)
            translate_gateway(Gateway("x", (Listener("x", "::", 1),), plugins=plugins))
            for chain in ((), plugins.chain):
                translate(ModelPlan("x", "x", ("x",), routes, (Backend("x", ()),), "", replace(plugins, chain=chain)))
    secret("x", b"x", b"x")
    validation_context("x", b"x")


def _by_name(resources: Iterable[Resource]) -> dict[str, Resource]:
    return {resource.name: resource for resource in resources}
