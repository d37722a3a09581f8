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


def _containers(part: str) -> Callable[[Any], str]:
    return lambda data: ",".join(c.get(part, "") for c in _at("spec", "template", "spec", "containers")(data) or ())


def _selector(*path: str) -> Callable[[Any], str]:
    return lambda data: ",".join(f"{k}={v}" for k, v in (_at(*path)(data) or {}).items()) or "<none>"


def _listed(*path: str, key: str = "") -> Callable[[Any], str]:
    return lambda data: ",".join(str(each.get(key) if key else each) for each in _at(*path)(data) or ()) or "<unset>"


def _addresses(data: Any) -> str:
    found = [address for endpoint in data.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return ",".join(found[:3]) + more or "<unset>"


def _ready_containers(data: Any) -> str:
    states = _at("status", "containerStatuses")(data) or ()
    return f"{sum(bool(state.get('ready')) for state in states)}/{len(_at('spec', 'containers')(data) or ())}"


def _restarts(data: Any) -> str:
    return str(sum(state.get("restartCount", 0) for state in _at("status", "containerStatuses")(data) or ()))


def _subjects(kind: str) -> Callable[[Any], str]:
    def look(data: Any) -> str:
        of_kind = [each for each in data.get("subjects") or () if each.get("kind") == kind]
        return ", ".join("/".join(filter(None, (each.get("namespace"), each["name"]))) for each in of_kind)

    return look


def _role(data: Any) -> str:
    return f"{_at('roleRef', 'kind')(data)}/{_at('roleRef', 'name')(data)}"


def _involved(data: Any) -> str:
    about = data.get("involvedObject") or data.get("regarding") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def _age_of(*path: str) -> Callable[[Any], str]:
    return lambda data: age(_at(*path)(data))


_CREATED = ("Created At", "date", _at("metadata", "creationTimestamp"))
_BOUND = (
    ("Role", "string", _role),
    ("Age", "string", _age_of("metadata", "creationTimestamp")),
    ("Users", "string", _subjects("User"), 1),
    ("Groups", "string", _subjects("Group"), 1),
    ("ServiceAccounts", "string", _subjects("ServiceAccount"), 1),
)
_AGED = ("Age", "string", _age_of("metadata", "creationTimestamp"))
_RUN = (("Containers", "string", _containers("name"), 1), ("Images", "string", _containers("image"), 1))
_COLUMNS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "configmaps": (
        ("Data", "string", lambda data: len(data.get("data") or ()) + len(data.get("binaryData") or ())),
        _AGED,
    ),
    "secrets": (("Type", "string", _at("type")), ("Data", "string", _count("data")), _AGED),
    "namespaces": (("Status", "string", _at("status", "phase")), _AGED),
    "deployments": (
        ("Ready", "string", _ready),
        ("Up-to-date", "string", lambda data: _at("status", "updatedReplicas")(data) or 0),
        ("Available", "string", lambda data: _at("status", "availableReplicas")(data) or 0),
        _AGED,
        *_RUN,
        ("Selector", "string", _selector("spec", "selector", "matchLabels"), 1),
    ),
    "statefulsets": (("Ready", "string", _ready), _AGED, *_RUN),
    "pods": (
        ("Ready", "string", _ready_containers),
        ("Status", "string", _at("status", "phase")),
        ("Restarts", "string", _restarts),
        _AGED,
        ("IP", "string", _or_none(_at("status", "podIP")), 1),
        ("Node", "string", _or_none(_at("spec", "nodeName")), 1),
        ("Nominated Node", "string", _or_none(_at("status", "nominatedNodeName")), 1),
        ("Readiness Gates", "string", lambda data: "<none>", 1),
    ),
    "services": (
        ("Type", "string", _at("spec", "type")),
        ("Cluster-IP", "string", _or_none(_at("spec", "clusterIP"))),
        ("External-IP", "string", _or_none(_at("spec", "externalName"))),
        ("Port(s)", "string", _ports),
        _AGED,
        ("Selector", "string", _selector("spec", "selector"), 1),
    ),
    "endpointslices": (
        ("AddressType", "string", _at("addressType")),
        ("Ports", "string", _listed("ports", key="port")),
        ("Endpoints", "string", _addresses),
        _AGED,
    ),
    "leases": (("Holder", "string", _at("spec", "holderIdentity")), _AGED),
    "events": (
        ("Last Seen", "string", lambda data: age(data.get("lastTimestamp") or _CREATED[2](data))),
        ("Type", "string", _at("type")),
        ("Reason", "string", _at("reason")),
        ("Object", "string", _involved),
        ("Subobject", "string", lambda data: _at("involvedObject", "fieldPath")(data) or "", 1),
        ("Source", "string", lambda data: _at("source", "component")(data) or data.get("reportingComponent", ""), 1),
        ("Message", "string", lambda data: (data.get("message") or data.get("note") or "").strip()),
        ("First Seen", "string", lambda data: age(data.get("firstTimestamp") or _CREATED[2](data)), 1),
        ("Count", "string", lambda data: data.get("count") or 1, 1),
        ("Name", "string", _at("metadata", "name"), 1),
    ),
    "customresourcedefinitions": (_CREATED,),
    "roles": (_CREATED,),
    "clusterroles": (_CREATED,),
    "rolebindings": _BOUND,
    "clusterrolebindings": _BOUND,
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
        known = [(name, kind, look, *more) for name, kind, look, *more in _COLUMNS.get(resource.plural, (_AGED,))]
        about = {**_NAME, "format": ""}
        columns += [{**about, "name": name, "type": kind, "priority": sum(more)} for name, kind, _, *more in known]
        cells = [[look(each.data) for _, _, look, *_ in known] for each in objects]
        if resource.plural == "events":
            columns = columns[1:]
    rows = []
    for row, each in zip(cells, objects, strict=True):
        first = [] if len(columns) == len(row) else [each.data["metadata"].get("name")]
        shown: dict[str, Any] = {"cells": [*first, *row]}
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
