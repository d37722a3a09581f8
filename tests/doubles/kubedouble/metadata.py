"""The rules every object's metadata follows: names, labels, annotations, finalizers, owners."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kubedouble.errors import Cause
from kubedouble.resource import Resource

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN_FAULT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_FAULT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_FAULT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_LABEL_NAMED = {("", "namespaces"), ("", "services")}
_PATH_NAMED = "rbac.authorization.k8s.io"
ANNOTATIONS_LIMIT = 256 * 1024


def shown(value: Any) -> str:
    """A value as the server's messages show it: JSON, and null in quotes."""
    return json.dumps("null" if value is None else value, separators=(",", ":"), ensure_ascii=False)


def invalid_value(field: str, value: Any, why: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {why}")


def unsupported(field: str, value: Any, supported: Iterable[str]) -> Cause:
    listed = ", ".join(map(shown, supported))
    return Cause(field, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {listed}")


def forbidden(field: str, why: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")


def required(field: str, why: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value{': ' if why else ''}{why}")


def name_faults(resource: Resource, name: str) -> list[str]:
    if resource.group == _PATH_NAMED:
        if name in (".", ".."):
            return [f"may not be '{name}'"]
        return [f"may not contain '{sign}'" for sign in "/%" if sign in name]
    if resource.key in _LABEL_NAMED:
        return dns_label_faults(name)
    return subdomain_faults(name)


def dns_label_faults(name: str) -> list[str]:
    return [*_too_long(name, 63), *([] if _LABEL.fullmatch(name) else [_LABEL_FAULT])]


def subdomain_faults(name: str) -> list[str]:
    return [*_too_long(name, 253), *([] if _SUBDOMAIN.fullmatch(name) else [_SUBDOMAIN_FAULT])]


def _too_long(text: str, limit: int, part: str = "") -> list[str]:
    return [f"{part}must be no more than {limit} bytes"] if len(text) > limit else []


def qualified_faults(name: str) -> list[str]:
    """What is wrong with a name of the form [prefix/]name, as label keys and finalizers are."""
    if name.count("/") > 1:
        return [
            f"a qualified name {_QUALIFIED_FAULT} with an optional DNS subdomain prefix and '/' (e.g. "
            "'example.com/MyName')"
        ]
    found = []
    prefix, slash, part = name.rpartition("/")
    if slash and not prefix:
        found.append("prefix part must be non-empty")
    elif slash:
        found += [f"prefix part {fault}" for fault in subdomain_faults(prefix)]
    if not part:
        found.append("name part must be non-empty")
    found += _too_long(part, 63, "name part ")
    if not _QUALIFIED.fullmatch(part):
        found.append(f"name part {_QUALIFIED_FAULT}")
    return found


def label_value_faults(value: str) -> list[str]:
    found = _too_long(value, 63)
    if value and not _QUALIFIED.fullmatch(value):
        found.append(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
            "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return found


def faults(resource: Resource, meta: dict[str, Any]) -> Iterator[Cause]:
    """What is wrong with an object's metadata, whoever wrote it."""
    name = meta.get("name") or ""
    if generated := meta.get("generateName"):
        for fault in name_faults(resource, generated.rstrip("-.") or generated):
            yield invalid_value("metadata.generateName", generated, fault)
    if not name:
        yield required("metadata.name", "name or generateName is required")
    for fault in name_faults(resource, name) if name else ():
        yield invalid_value("metadata.name", name, fault)
    yield from label_faults("metadata.labels", meta.get("labels"))
    annotations = meta.get("annotations") or {}
    yield from _map_faults("metadata.annotations", annotations, lambda key: qualified_faults(key.lower()))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_LIMIT:
        why = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
        yield Cause("metadata.annotations", "FieldValueTooLong", why)
    yield from _owner_faults(meta.get("ownerReferences") or ())
    yield from _finalizer_faults(resource, meta.get("finalizers") or [])


def label_faults(where: str, labels: dict[str, str] | None) -> Iterator[Cause]:
    yield from _map_faults(where, labels, qualified_faults, label_value_faults)


def _map_faults(
    where: str,
    entries: dict[str, str] | None,
    key_faults: Callable[[str], list[str]],
    value_faults: Callable[[str], list[str]] = lambda _: [],
) -> Iterator[Cause]:
    for key, value in (entries or {}).items():
        for fault in key_faults(key):
            yield invalid_value(where, key, fault)
        for fault in value_faults(value):
            yield invalid_value(where, value, fault)


def _finalizer_faults(resource: Resource, finalizers: list[str]) -> Iterator[Cause]:
    for finalizer in finalizers:
        for fault in qualified_faults(finalizer):
            yield invalid_value("metadata.finalizers", finalizer, fault)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        why = "finalizer orphan and foregroundDeletion cannot be both set"
        yield invalid_value("metadata.finalizers", finalizers, why)
    if resource.custom or resource.group == "apiextensions.k8s.io":
        return  # these are only warned of: see `warnings`
    for index, finalizer in enumerate(finalizers):
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            why = "name is neither a standard finalizer name nor is it fully qualified"
            yield invalid_value(f"metadata.finalizers[{index}]", finalizer, why)


def warnings(resource: Resource, meta: dict[str, Any]) -> Iterator[str]:
    """What the server takes, but says is unwise."""
    for finalizer in meta.get("finalizers") or () if resource.custom else ():
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            yield (
                f'metadata.finalizers: "{finalizer}": prefer a domain-qualified finalizer name including a path (/) to '
                "avoid accidental conflicts with other finalizer writers"
            )


def _owner_faults(owners: Any) -> Iterator[Cause]:
    where, first = "metadata.ownerReferences", ""
    for owner in owners:
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                why = "version must not be empty" if part == "apiVersion" else "must not be empty"
                yield invalid_value(f"{where}.{part}", "", why)
        if (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Event"):
            yield invalid_value(where, owner, "/v1, Kind=Event is disallowed from being an owner")
        if owner.get("controller"):
            said = f"{owner.get('kind')}/{owner.get('name')}"
            if first:
                why = 'Only one reference can have Controller set to true. Found "true" in references for '
                yield invalid_value(where, list(owners), f"{why}{first} and {said}")
            first = first or said


def change_faults(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Cause]:
    """What an update may not do to metadata."""
    if old.get("deletionTimestamp"):
        added = [name for name in new.get("finalizers") or () if name not in (old.get("finalizers") or ())]
        if added:
            why = "no new finalizers can be added if the object is being deleted, found new finalizers []string{"
            yield forbidden("metadata.finalizers", why + ", ".join(map(shown, sorted(added))) + "}")
    for part in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if new.get(part) != old.get(part):
            yield invalid_value(f"metadata.{part}", new.get(part), "field is immutable")
