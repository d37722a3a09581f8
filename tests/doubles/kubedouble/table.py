"""The Table form that `kubectl get` asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from kubedouble.resource import Resource
from kubedouble.storage import Stored

_NAME = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}
_AGE = {"name": "Age", "type": "string", "format": "", "description": "", "priority": 0}
_STEP = re.compile(r"\.?([A-Za-z0-9_-]+)|\[(\d+|\*)\]|\['?([^'\]?]+)'?\]|\[\?\(@\.([\w.]+)==[\"']([^\"']*)[\"']\)\]")


def _at(*path: str) -> Callable[[Any], Any]:
    def look(data: Any) -> Any:
        for step in path:
            data = data.get(step) if isinstance(data, dict) else None
        return data

    return look


def _ready(data: Any) -> str:
    return f"{_at('status', 'readyReplicas')(data) or 0}/{_at('spec', 'replicas')(data) or 0}"


def _count(key: str) -> Callable[[Any], int]:
    return lambda data: len(data.get(key) or ())


def _or_none(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda data: look(data) or "<none>"


def _ports(data: Any) -> str:
    ports = _at("spec", "ports")(data) or ()
    return ",".join(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


_COLUMNS: dict[str, tuple[tuple[str, str, Callable[[Any], Any]], ...]] = {
    "configmaps": (("Data", "integer", lambda data: len(data.get("data") or ()) + len(data.get("binaryData") or ())),),
    "secrets": (("Type", "string", _at("type")), ("Data", "integer", _count("data"))),
    "namespaces": (("Status", "string", _at("status", "phase")),),
    "deployments": (
        ("Ready", "string", _ready),
        ("Up-to-date", "integer", lambda data: _at("status", "updatedReplicas")(data) or 0),
        ("Available", "integer", lambda data: _at("status", "availableReplicas")(data) or 0),
    ),
    "statefulsets": (("Ready", "string", _ready),),
    "pods": (("Status", "string", _at("status", "phase")),),
    "services": (
        ("Type", "string", _at("spec", "type")),
        ("Cluster-IP", "string", _or_none(_at("spec", "clusterIP"))),
        ("External-IP", "string", _or_none(_at("spec", "externalName"))),
        ("Port(s)", "string", _ports),
    ),
    "leases": (("Holder", "string", _at("spec", "holderIdentity")),),
    "events": (
        ("Type", "string", _at("type")),
        ("Reason", "string", _at("reason")),
        ("Message", "string", _at("message")),
    ),
    "customresourcedefinitions": (("Created At", "date", _at("metadata", "creationTimestamp")),),
}


def age(stamp: str | None) -> str:
    if not stamp:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172800 else f"{seconds // 86400}d"


def json_path(data: Any, path: str) -> Any:
    """The little of JSONPath that printer columns and scale paths use."""
    found, rest = [data], path.strip().strip("{}")
    many = False
    while rest and rest not in (".",):
        match = _STEP.match(rest)
        if not match:
            return None
        rest = rest[match.end() :]
        name, index, quoted, key, value = match.groups()
        if index == "*":
            many = True
            found = [each for item in found if isinstance(item, list) for each in item]
        elif index is not None:
            found = [item[int(index)] for item in found if isinstance(item, list) and len(item) > int(index)]
        elif key is not None:
            found = [
                each
                for item in found
                if isinstance(item, list)
                for each in item
                if str(_at(*key.split("."))(each)) == value
            ]
        else:
            step = name or quoted
            found = [item[step] for item in found if isinstance(item, dict) and step in item]
    if not found:
        return None
    return found if many and len(found) > 1 else found[0]


def _cell(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "date":
        return age(value)
    if kind in ("integer", "number", "boolean") and isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, dict)):
        return json.dumps(value, separators=(",", ":"))
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(resource: Resource, objects: Iterable[Stored], meta: dict[str, Any], include: str) -> dict[str, Any]:
    """A v1 Table of the objects; `include` is none, metadata (PartialObjectMetadata) or object."""
    columns, cells = [_NAME], []
    if resource.custom:
        wanted = resource.columns or ({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},)
        shown_as = ("name", "type", "format", "description")
        columns += [{**{k: c.get(k, "") for k in shown_as}, "priority": c.get("priority", 0)} for c in wanted]
        looks = [(column["type"], column["jsonPath"]) for column in wanted]
        cells = [[_cell(json_path(each.data, path), kind) for kind, path in looks] for each in objects]
    else:
        known = _COLUMNS.get(resource.plural, ())
        columns += [{**_NAME, "name": name, "type": kind, "format": ""} for name, kind, _ in known]
        cells = [[look(each.data) for _, _, look in known] for each in objects]
        if resource.key[1] != "customresourcedefinitions":
            columns.append(_AGE)
            for row, each in zip(cells, objects, strict=True):
                row.append(age(each.data["metadata"].get("creationTimestamp")))
    rows = []
    for row, each in zip(cells, objects, strict=True):
        shown: dict[str, Any] = {"cells": [each.data["metadata"].get("name"), *row]}
        if include == "Object":
            shown["object"] = {**each.data, "apiVersion": resource.api_version}
        elif include != "None":
            shown["object"] = partial(each)
        rows.append(shown)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    }


def partial(stored: Stored) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": stored.data["metadata"]}
