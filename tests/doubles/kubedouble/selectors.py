"""Label and field selectors: text in, a predicate on objects out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kubedouble import errors
from kubedouble.metadata import label_value_faults, qualified_faults
from kubedouble.resource import Resource

Predicate = Callable[[dict[str, Any]], bool]
_SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s!=<>,()]+)\s*(==|=|!=)\s*([^\s!=<>,()]*)\s*$")
_COMPARE = re.compile(r"^\s*([^\s!=<>,()]+)\s*(<|>)\s*(-?\d+)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=<>,()]+)\s*$")
_FIELDS = {
    ("", "pods"): {
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    },
    ("", "namespaces"): {"status.phase"},
    ("", "nodes"): {"spec.unschedulable"},
    ("", "secrets"): {"type"},
    ("", "services"): {"spec.clusterIP", "spec.type"},
    ("", "replicationcontrollers"): {"status.replicas"},
    ("apps", "replicasets"): {"status.replicas"},
    ("batch", "jobs"): {"status.successful"},
    ("", "events"): {
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "source", "type",
    },
}  # fmt: skip


def labels(text: str) -> Predicate:
    parts = [_requirement(part) for part in _split(text)]
    return lambda data: all(part(data["metadata"].get("labels") or {}) for part in parts)


def _split(text: str) -> list[str]:
    if not text.strip():
        return []
    return re.split(r",(?![^(]*\))", text)


def _requirement(part: str) -> Callable[[dict[str, str]], bool]:
    test: Callable[[dict[str, str]], bool]
    if match := _SET.match(part):
        key, word, listed = match.groups()
        values = [value.strip() for value in listed.split(",")]
        test = (
            (lambda found: key in found and found[key] in values)
            if word == "in"
            else (lambda found: key not in found or found[key] not in values)
        )
    elif match := _EQUAL.match(part):
        key, sign, value = match.groups()
        values = [value]
        test = (lambda found: found.get(key) != value) if sign == "!=" else (lambda found: found.get(key) == value)
    elif match := _COMPARE.match(part):
        key, sign, bound = match.groups()
        values = []
        test = lambda found: _compare(found.get(key), sign, int(bound))  # noqa: E731
    elif match := _EXISTS.match(part):
        absent, key = match.groups()
        values = []
        test = (lambda found: key not in found) if absent else (lambda found: key in found)
    else:
        raise errors.bad_request(f"unable to parse requirement: found '{part}', expected: an operator or identifier")
    for fault in qualified_faults(key):
        raise errors.bad_request(f'unable to parse requirement: key: Invalid value: "{key}": {fault}')
    for index, value in enumerate(values):
        for fault in label_value_faults(value):
            where = f"values[{index}][{key}]"
            raise errors.bad_request(f'unable to parse requirement: {where}: Invalid value: "{value}": {fault}')
    return test


def _compare(found: str | None, sign: str, bound: int) -> bool:
    if found is None or not re.fullmatch(r"-?\d+", found):
        return False
    return int(found) > bound if sign == ">" else int(found) < bound


def fields(text: str, resource: Resource) -> Predicate:
    known = {"metadata.name", *(["metadata.namespace"] if resource.namespaced else [])}
    known |= _FIELDS.get(resource.key, set()) | {path.lstrip(".") for path in resource.selectable}
    parts = []
    for part in _split(text):
        match = re.match(r"^\s*([^=!]+?)\s*(==|=|!=)\s*(.*)$", part)
        if not match:
            raise errors.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, sign, value = match.groups()
        if path not in known:
            raise errors.bad_request(f"field label not supported: {path}")
        parts.append((tuple(path.split(".")), sign != "!=", value.replace("\\,", ",")))
    return lambda data: all((_text(data, path) == value) is equal for path, equal, value in parts)


def _text(data: Any, path: tuple[str, ...]) -> str:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data = data.get("component")
    return "" if data is None else str(data).lower() if isinstance(data, bool) else str(data)
