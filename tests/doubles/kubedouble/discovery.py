"""What clients ask before they ask for objects: groups, resources, OpenAPI documents, the version."""

from __future__ import annotations

from typing import Any

from kubedouble.registry import Registry
from kubedouble.resource import Resource
from kubedouble.types import DEFINITIONS, OBJECT_META

Json = dict[str, Any]
VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.2-double",
    "gitCommit": "0",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.25",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def core() -> Json:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def paths(registry: Registry) -> list[str]:
    found = {"/api", "/apis", "/version", "/healthz", "/livez", "/readyz", "/openapi/v2", "/openapi/v3"}
    for name in registry.groups():
        for version in registry.versions(name):
            found |= {f"/apis/{name}", f"/apis/{name}/{version}"} if name else {f"/api/{version}"}
    return sorted(found)


def groups(registry: Registry) -> Json:
    found = [group(registry, name) for name in registry.groups() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def group(registry: Registry, name: str) -> Json:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in registry.versions(name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resources(registry: Registry, name: str, version: str) -> Json:
    listed = []
    for resource in registry:
        if (resource.group, resource.version) == (name, version):
            listed += _entries(resource)
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _entries(resource: Resource) -> list[Json]:
    base: Json = {"namespaced": resource.namespaced, "kind": resource.kind}
    entry = {"name": resource.plural, "singularName": resource.singular, **base, "verbs": sorted(resource.verbs)}
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    entries = [entry]
    part = {"singularName": "", **base, "verbs": ["get", "patch", "update"]}
    if resource.status:
        entries.append({"name": f"{resource.plural}/status", **part})
    if resource.scale:
        scale = {**part, "kind": "Scale", "group": "autoscaling", "version": "v1"}
        entries.append({"name": f"{resource.plural}/scale", **scale})
    return entries


def aggregated(registry: Registry, names: list[str], version: str) -> Json:
    items = []
    for name in names:
        versions = []
        for each in registry.versions(name):
            found = [r for r in registry if (r.group, r.version) == (name, each)]
            versions.append({"version": each, "freshness": "Current", "resources": [_rich(r) for r in found]})
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": versions})
    about = {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}}
    return {**about, "items": items}


def _kind(resource: Resource) -> Json:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _rich(resource: Resource) -> Json:
    rich: Json = {
        "resource": resource.plural,
        "responseKind": _kind(resource),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": sorted(resource.verbs),
    }
    if resource.short_names:
        rich["shortNames"] = list(resource.short_names)
    if resource.categories:
        rich["categories"] = list(resource.categories)
    parts = []
    verbs = ["get", "patch", "update"]
    if resource.status:
        parts.append({"subresource": "status", "responseKind": _kind(resource), "verbs": verbs})
    if resource.scale:
        kind = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        parts.append({"subresource": "scale", "responseKind": kind, "verbs": verbs})
    return {**rich, "subresources": parts} if parts else rich


def _point(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {
            key: prefix + each if key == "$ref" and isinstance(each, str) else _point(each, prefix)
            for key, each in value.items()
        }
    return [_point(each, prefix) for each in value] if isinstance(value, list) else value


def _name(resource: Resource) -> str:
    return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])


def _definitions(registry: Registry, only: tuple[str, str] | None = None) -> Json:
    found: Json = dict(DEFINITIONS)
    for resource in registry:
        if resource.custom and (only is None or only == (resource.group, resource.version)):
            kind = [_kind(resource)]
            root = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": OBJECT_META}
            properties = {**resource.schema.get("properties", {}), **root}
            schema = {**resource.schema, "properties": properties, "x-kubernetes-group-version-kind": kind}
            found[_name(resource)] = schema
    return found


def _paths(registry: Registry, only: tuple[str, str] | None = None) -> Json:
    """PATCH with its fieldValidation parameter is what kubectl looks for before it relies on the server's checks."""
    paths = {}
    for resource in registry:
        if only is not None and only != (resource.group, resource.version):
            continue
        base = f"/apis/{resource.group}" if resource.group else "/api"
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        names = ("dryRun", "fieldManager", "fieldValidation", "force")
        parameters = [{"name": name, "in": "query", "schema": {"type": "string"}, "type": "string"} for name in names]
        act = {"parameters": parameters, "x-kubernetes-group-version-kind": _kind(resource), "responses": {}}
        at = f"{base}/{resource.version}{scope}/{resource.plural}"
        paths[at] = {"post": {**act, "x-kubernetes-action": "post"}}
        paths[at + "/{name}"] = {
            "patch": {**act, "x-kubernetes-action": "patch"},
            "put": {**act, "x-kubernetes-action": "put"},
        }
    return paths


def openapi_v2(registry: Registry) -> Json:
    definitions = _point(_definitions(registry), "#/definitions/")
    info = {"title": "Kubernetes", "version": "v1.36.2"}
    return {"swagger": "2.0", "info": info, "paths": _paths(registry), "definitions": definitions}


def openapi_v3_index(registry: Registry) -> Json:
    paths = {}
    for name in registry.groups():
        for version in registry.versions(name):
            at = f"apis/{name}/{version}" if name else f"api/{version}"
            paths[at] = {"serverRelativeURL": f"/openapi/v3/{at}"}
    return {"paths": paths}


def openapi_v3(registry: Registry, name: str, version: str) -> Json:
    schemas = _point(_definitions(registry, (name, version)), "#/components/schemas/")
    info = {"title": "Kubernetes", "version": "v1.36.2"}
    paths = _paths(registry, (name, version))
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
