"""One model, as somebody wrote it, held against the cluster: its rollout, and where each version is served.

Pure: what the cluster holds is asked through `Cluster`, and every question is noted, so that the caller knows which
changes concern the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol as Interface

from router.cluster.backend import ModelMesh, Server, server
from router.cluster.endpoints import served
from router.cluster.named import named
from router.cluster.objects import Object, part, text, whole
from router.cluster.readiness import Readiness, version_readiness
from router.cluster.resource import Reference, ResourceType
from router.cluster.rollout import reweighted, rollout
from router.cluster.routemap import Routemap
from router.cluster.seldon import predictors
from router.cluster.trim import labelled
from router.cluster.weight import override
from router.problem import Problem
from router.schema import KIND, NO_BACKEND, Backend, Mirror, ModelRollout, SharedServer, Strategy, Version
from router.site import Site
from router.values import is_host, is_ip, is_port, shown
from xds.ir import Endpoint

References = Mapping[str, tuple[Reference, ...]]
"""The resources of each version."""

UNPROTECTED = ("cm", "mr")
"""Types that carry no traffic: nothing is in flight to them when they are deleted."""


class Cluster(Interface):
    """What is known of the cluster now."""

    types: Mapping[str, ResourceType]
    modelmesh: ModelMesh

    def find(self, reference: Reference) -> Object | None: ...

    def slices(self, service: str) -> Iterable[Object]:
        """The EndpointSlices of a Service, given as namespace/name."""
        ...

    def unseen(self, reference: Reference) -> bool:
        """Whether objects of its kind may not be watched and never were: that none is found says nothing then."""
        ...

    def watches(self, namespace: str) -> bool:
        """Whether Services of this namespace can be seen; others are left to DNS."""
        ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """`asked` are the objects, `services` (namespace/name) the Services whose change would make another answer."""

    rollout: ModelRollout
    sites: Mapping[str, Site]
    resources: References
    asked: frozenset[Reference]
    services: frozenset[str]
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Asking:
    """The cluster, with every question noted."""

    cluster: Cluster
    asked: set[Reference] = field(default_factory=set)
    services: set[str] = field(default_factory=set)

    def find(self, reference: Reference) -> Object | None:
        own = Reference(reference.short, reference.name, reference.namespace)
        self.asked.add(own)
        return self.cluster.find(own)

    def slices(self, service: str) -> Iterable[Object]:
        self.services.add(service)
        return self.cluster.slices(service)


def resolve(wanted: ModelRollout, cluster: Cluster) -> Resolved:
    """A ModelRollout: its own backends win, others are found by the kind of its resources."""
    asking = _Asking(cluster)
    resources = named(wanted)
    overrides, problems = _overrides(resources, asking)
    weighted, faults = reweighted(_with_predictors(wanted, resources, asking), overrides)
    problems += faults
    servers: dict[str, Server | Problem | tuple[Endpoint, ...]] = {}
    for one in wanted.spec.versions:
        servers[one.name] = (
            server(resources[one.name], asking.find, modelmesh=cluster.modelmesh)
            if one.backend == NO_BACKEND
            else _own_server(one.backend, wanted.metadata.namespace)
        )
    problems += tuple(_unprotected(f"{KIND} {wanted.key}", resources, asking))
    return _resolved(weighted, resources, servers, asking, problems)


def resolve_routemap(wanted: Routemap, cluster: Cluster) -> tuple[Resolved | None, tuple[Problem, ...]]:
    """A routemap of Iter8; None with the problems when no rollout can be made of it."""
    asking = _Asking(cluster)
    resources = {one.name: one.resources for one in wanted.versions}
    overrides, problems = _overrides(resources, asking)
    found = {
        name: server(listed, asking.find, modelmesh=cluster.modelmesh, infer=wanted.infer_path)
        for name, listed in resources.items()
    }
    if wanted.routing is not None:
        problems += (
            Problem(wanted.where, "data.strSpec.routingTemplates", wanted.told, "nothing has to be done", "warning"),
        )
    made, faults = rollout(wanted, {name: one for name, one in found.items() if isinstance(one, Server)}, overrides)
    problems += faults
    if made is None:
        return None, problems
    problems += tuple(_unprotected(wanted.where, resources, asking))
    servers: dict[str, Server | Problem | tuple[Endpoint, ...]] = dict(found)
    return _resolved(made, resources, servers, asking, problems), ()


def _resolved(
    made: ModelRollout,
    resources: References,
    servers: Mapping[str, Server | Problem | tuple[Endpoint, ...]],
    asking: _Asking,
    problems: tuple[Problem, ...],
) -> Resolved:
    sites = {}
    for one in made.spec.versions:
        unseen = asking.cluster.unseen
        state = version_readiness(resources[one.name], asking.find, asking.cluster.types, unseen)
        if isinstance(servers[one.name], Problem) and (hidden := [*filter(unseen, resources[one.name])]):
            state = Readiness(False, f"{hidden[0]} cannot be seen, and where it serves is not known")
        site = _site(servers[one.name], state, asking)
        sites[one.name] = replace(site, gone=True) if _gone(resources[one.name], asking) else site
    return Resolved(made, sites, resources, frozenset(asking.asked), frozenset(asking.services), problems)


def _gone(listed: tuple[Reference, ...], asking: _Asking) -> bool:
    """Something of it is being deleted, or what serves is not there; a Service alone serves nothing."""
    found = {one: asking.find(one) for one in listed if one.short not in UNPROTECTED}
    leaving = any(part(obj, "metadata", "deletionTimestamp") is not None for obj in found.values())
    workloads = [one for one in found if one.short not in ("svc", "service")] or list(found)
    return bool(found) and (leaving or all(found[one] is None and not asking.cluster.unseen(one) for one in workloads))


def _overrides(resources: References, asking: _Asking) -> tuple[dict[str, int], tuple[Problem, ...]]:
    """Annotated weights, by version."""
    found: dict[str, int] = {}
    problems: tuple[Problem, ...] = ()
    for version, listed in resources.items():
        weight, faults = override((one, asking.find(one)) for one in listed)
        problems += faults
        if weight is not None:
            found[version] = weight
    return found, problems


def _with_predictors(wanted: ModelRollout, resources: References, asking: _Asking) -> ModelRollout:
    """Versions that are predictors of a SeldonDeployment, and say nothing themselves, get the traffic that it says."""
    if wanted.spec.strategy is not Strategy.NONE:
        return wanted
    versions = tuple(_with_predictor(wanted, one, resources[one.name], asking) for one in wanted.spec.versions)
    if versions == wanted.spec.versions:
        return wanted
    return wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"versions": versions})})


def _with_predictor(wanted: ModelRollout, version: Version, listed: tuple[Reference, ...], asking: _Asking) -> Version:
    silent = version.weight is None and not version.match and version.mirror is None
    inside = next((one for one in listed if one.short == "sdep" and one.inside), None)
    deployment = asking.find(inside) if inside and silent else None
    found = [one for one in predictors(deployment) if one.name == inside.inside] if deployment and inside else []
    if not found:
        return version
    if not found[0].shadow:
        return version.model_copy(update={"weight": found[0].traffic})
    if version is wanted.primary or not 0 < found[0].traffic <= 100:
        return version
    return version.model_copy(update={"mirror": Mirror(percent=float(found[0].traffic))})


def _own_server(backend: Backend, namespace: str) -> Server | tuple[Endpoint, ...]:
    source: Backend | SharedServer = backend.shared or backend
    service = source.service
    if service is None:
        return source.endpoints or ()
    if service.host is not None:
        endpoint = service.endpoint(namespace)
        return (endpoint,) if is_ip(service.host) else Server(host=service.host, port=service.port, dns=True)
    return Server(service=service.name or "", namespace=service.namespace or namespace, port=service.port)


def _site(found: Server | Problem | tuple[Endpoint, ...], state: Readiness, asking: _Asking) -> Site:
    if isinstance(found, Problem):
        return Site(False, f"{found.where}: {found.what}" if state.ready else state.reason)
    if isinstance(found, tuple):
        return Site(state.ready, state.reason, found)
    if not found.service:
        return _by_dns(found, found.host, state)
    if not asking.cluster.watches(found.namespace):
        return _by_dns(found, found.address, state)
    service = asking.find(Reference("svc", found.service, found.namespace))
    if service is None and found.dns:
        return _by_dns(found, found.address, state)
    if service is None:
        return _as_found(found, False, f"Service {found.service} does not exist" if state.ready else state.reason, ())
    if text(service, "spec", "type") == "ExternalName":
        port = whole(service, "spec", "ports", 0, "port") or found.port
        return _by_dns(replace(found, port=port), text(service, "spec", "externalName").rstrip(".").lower(), state)
    if found.dns:
        return _by_dns(found, found.address, state)
    place = served(service, asking.slices(f"{found.namespace}/{found.service}"), found.port)
    if not state.ready:
        return _as_found(found, False, state.reason, place.endpoints)
    if not place.endpoints or place.draining:
        return _as_found(found, False, place.reason, place.endpoints)
    return _as_found(found, True, f"{state.reason}; {place.reason}", place.endpoints)


def _by_dns(found: Server, name: str, state: Readiness) -> Site:
    port = found.port if isinstance(found.port, int) else 80
    if not (is_host(name) or is_ip(name)) or not is_port(port):
        return _as_found(found, False, f"{shown(name)}, port {port}, is no address of a server", ())
    host = found.host_rewrite or (name if name != found.address else "")
    return Site(
        ready=state.ready,
        reason=state.reason,
        endpoints=(Endpoint(name, port),),
        dns=not is_ip(name),
        protocol=found.protocol,
        host_rewrite=host,
        path_rewrite=found.path_rewrite,
        request_headers=found.request_headers,
    )


def _as_found(found: Server, ready: bool, reason: str, endpoints: tuple[Endpoint, ...]) -> Site:
    return Site(
        ready=ready,
        reason=reason,
        endpoints=endpoints,
        protocol=found.protocol,
        host_rewrite=found.host_rewrite,
        path_rewrite=found.path_rewrite,
        request_headers=found.request_headers,
    )


def _unprotected(where: str, resources: References, asking: _Asking) -> Iterable[Problem]:
    """Versions whose deletion nothing holds up while requests are in flight."""
    for version, listed in resources.items():
        there = [(one, obj) for one in listed if one.short not in UNPROTECTED and (obj := asking.find(one)) is not None]
        if there and not any(labelled(obj) for _, obj in there):
            names = ", ".join(str(one) for one, _ in there)
            yield Problem(
                where,
                f"version {version}",
                f"deleting {names} does not wait for requests in flight: no watch label",
                'label it headgate.dev/watch: "true"',
                "warning",
            )
