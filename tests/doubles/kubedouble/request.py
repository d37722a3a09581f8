"""A request read: which resource, which object, which verb."""

from __future__ import annotations

from dataclasses import dataclass

from kubedouble import errors
from kubedouble.registry import Registry
from kubedouble.resource import Resource


@dataclass(frozen=True, slots=True)
class Target:
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    watch: bool = False


def target(registry: Registry, path: str) -> Target:
    """What a path points at, or 404."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise errors.no_such_path()
    watch = rest[:1] == ["watch"]
    rest = rest[1:] if watch else rest
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0]) if rest else None
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise errors.no_such_path()
    name, subresource = (*rest[1:], "", "")[:2]
    known = {"": True, "status": resource.status, "scale": resource.scale, "finalize": resource.plural == "namespaces"}
    if not known.get(subresource):
        raise errors.not_found(resource, name) if resource.custom else errors.no_such_path()
    return Target(resource, namespace, name, subresource, watch)
