"""The addresses behind a Service that may receive traffic now, from its EndpointSlices."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from router.cluster.objects import Object, mapping, mappings, part, text, whole
from router.values import is_ip, is_port
from xds.ir import Endpoint

SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Served:
    """`draining`: nothing is ready, and endpoints that are terminating but still serve stand in."""

    endpoints: tuple[Endpoint, ...]
    draining: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Found:
    """One address of one pod."""

    endpoint: Endpoint
    pod: str
    ready: bool
    serving: bool
    terminating: bool

    @property
    def v4(self) -> bool:
        return ":" not in self.endpoint.address


def served(service: Object, slices: Iterable[Object], port: int | str | None = None) -> Served:
    """What the Service's `port` (number or name; None for its only or first one) leads to.

    `slices` are those of this Service. Which port of a pod that is stands in the slices, by the name of the Service's
    port: targetPort needs no looking up, and pods may differ in it.
    """
    title = f"Service {text(service, 'metadata', 'name')}"
    name = port_name(service, port)
    if name is None:
        known = ", ".join(_port_text(one) for one in mappings(service, "spec", "ports")) or "none"
        return Served((), False, f"{title} has no port{'' if port is None else f' {port}'} (ports: {known})")
    found = [one for each in slices for one in _found(each, name)]
    if part(service, "spec", "publishNotReadyAddresses") is True:
        able, standing_in = [one for one in found if not one.terminating], found
    else:
        able = [one for one in found if one.ready and not one.terminating]
        standing_in = [one for one in found if one.terminating and one.serving]
    chosen = _one_per_pod(able or standing_in)
    total = len(_one_per_pod(found))
    if able:
        return Served(chosen, False, f"{title}: {len(chosen)} of {total} endpoints ready")
    if chosen:
        return Served(
            chosen, True, f"{title}: nothing is ready, {len(chosen)} of {total} endpoints terminating but still serving"
        )
    return Served((), False, f"{title}: 0 of {total} endpoints ready" if total else f"{title} has no endpoints")


def port_name(service: Object, port: int | str | None) -> str | None:
    """The name by which the slices know a port of the Service: empty for an unnamed one, None if there is no such."""
    ports = [one for one in mappings(service, "spec", "ports") if one.get("protocol") in (None, "TCP")]
    if port is None:
        return text(ports[0], "name") if ports else None
    for one in ports:
        if port in (whole(one, "port"), part(one, "name")):
            return text(one, "name")
    return None


def service_key(endpoint_slice: Object) -> str | None:
    """The Service that a slice belongs to, as namespace/name."""
    metadata = mapping(endpoint_slice, "metadata")
    name = text(metadata, "labels", SERVICE_NAME)
    return f"{text(metadata, 'namespace')}/{name}" if name else None


def _found(endpoint_slice: Object, name: str) -> Iterator[_Found]:
    if part(endpoint_slice, "metadata", "deletionTimestamp") is not None:
        return
    numbers = [
        number
        for one in mappings(endpoint_slice, "ports")
        if text(one, "name") == name
        and one.get("protocol") in (None, "TCP")
        and is_port(number := whole(one, "port") or 0)
    ]
    for one in mappings(endpoint_slice, "endpoints"):
        address = _address(part(one, "addresses", 0))  # the others are the same pod's, and only the first is to be used
        if address is None:
            continue
        conditions = mapping(one, "conditions")
        ready = conditions.get("ready") is not False  # unknown counts as ready
        serving = conditions.get("serving")
        target = mapping(one, "targetRef")
        pod = text(target, "uid") or "/".join(text(target, key) for key in ("kind", "namespace", "name")).strip("/")
        for number in numbers:
            yield _Found(
                endpoint=Endpoint(address, number),
                pod=pod,
                ready=ready,
                serving=ready if serving is None else serving is True,
                terminating=conditions.get("terminating") is True,
            )


def _address(written: object) -> str | None:
    """An IP address in its usual form; None for a DNS name (slices of type FQDN) or anything else."""
    return str(ipaddress.ip_address(written)) if isinstance(written, str) and is_ip(written) else None


def _one_per_pod(found: list[_Found]) -> tuple[Endpoint, ...]:
    """Without duplicates, sorted; a pod with addresses of both families is reached by its IPv4 one."""
    any_v4 = any(one.v4 for one in found)
    with_v4 = {one.pod for one in found if one.v4 and one.pod}
    kept = {one.endpoint for one in found if one.v4 or (one.pod not in with_v4 if one.pod else not any_v4)}
    return tuple(sorted(kept, key=lambda one: (":" in one.address, ipaddress.ip_address(one.address).packed, one.port)))


def _port_text(port: Object) -> str:
    name, number = text(port, "name"), part(port, "port")
    return f"{name} ({number})" if name else str(number)
