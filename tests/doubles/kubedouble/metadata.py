"""The rules every object's metadata follows: names, labels, annotations, finalizers, owners."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
_LABEL_NAMED = {("", "namespaces"), ("", "services")}
_PATH_NAMED = "rbac.authorization.k8s.io"
ANNOTATIONS_LIMIT = 256 * 1024


def invalid_value(field: str, value: Any, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def required(field: str, why: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value{': ' if why else ''}{why}")


def name_fault(resource: Resource, name: str) -> str | None:
    if resource.group == _PATH_NAMED:
        return "may not contain '/' or '%'" if "/" in name or "%" in name or name in (".", "..") else None
    if resource.key in _LABEL_NAMED:
        return None if len(name) <= 63 and _LABEL.fullmatch(name) else _LABEL_FAULT
    return None if len(name) <= 253 and _SUBDOMAIN.fullmatch(name) else _SUBDOMAIN_FAULT


def qualified_fault(name: str) -> str | None:
    prefix, slash, part = name.rpartition("/")
    if slash and not (0 < len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)):
        return f"prefix part {_SUBDOMAIN_FAULT}"
    if not (0 < len(part) <= 63 and _QUALIFIED.fullmatch(part)):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        )
    return None


def label_key_fault(key: str) -> str | None:
    return qualified_fault(key)


def label_value_fault(value: str) -> str | None:
    if len(value) > 63:
        return "must be no more than 63 bytes"
    if value and not _QUALIFIED.fullmatch(value):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
            "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return None


def faults(resource: Resource, meta: dict[str, Any]) -> Iterator[Cause]:
    """What is wrong with an object's metadata, whoever wrote it."""
    name = meta.get("name") or ""
    generated = meta.get("generateName") or ""
    if generated and not name_fault(resource, generated.rstrip("-.") + "x"):
        pass
    elif generated:
        yield invalid_value("metadata.generateName", generated, name_fault(resource, generated) or "")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif fault := name_fault(resource, name):
        yield invalid_value("metadata.name", name, fault)
    yield from _map_faults("metadata.labels", meta.get("labels"), label_key_fault, label_value_fault)
    yield from _map_faults("metadata.annotations", meta.get("annotations"), lambda key: label_key_fault(key.lower()))
    annotations = meta.get("annotations") or {}
    if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_LIMIT:
        why = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
        yield Cause("metadata.annotations", "FieldValueTooLong", why)
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        where = f"metadata.finalizers[{index}]"
        if fault := qualified_fault(finalizer):
            yield invalid_value(where, finalizer, fault)
        elif "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            yield invalid_value(where, finalizer, "name is neither a standard finalizer name nor is it fully qualified")
    yield from _owner_faults(meta.get("ownerReferences") or ())


def _map_faults(
    where: str,
    entries: dict[str, str] | None,
    key_fault: Callable[[str], str | None],
    value_fault: Callable[[str], str | None] = lambda _: None,
) -> Iterator[Cause]:
    for key, value in (entries or {}).items():
        if fault := key_fault(key):
            yield invalid_value(where, key, fault)
        if fault := value_fault(value):
            yield invalid_value(where, value, fault)


def _owner_faults(owners: Any) -> Iterator[Cause]:
    controllers = []
    for index, owner in enumerate(owners):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                yield invalid_value(f"metadata.ownerReferences[{index}].{part}", "", "must not be empty")
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        said = [f"{owner.get('kind')}/{owner.get('name')}" for owner in controllers]
        why = f'Only one reference can have Controller set to true. Found "true" in references for {" and ".join(said)}'
        yield invalid_value("metadata.ownerReferences", str(owners), why)


def change_faults(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Cause]:
    """What an update may not do to metadata."""
    if old.get("deletionTimestamp"):
        added = [name for name in new.get("finalizers") or () if name not in (old.get("finalizers") or ())]
        if added:
            why = "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
            yield Cause("metadata.finalizers", "FieldValueForbidden", f"{why}{added}")
    for part in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if new.get(part) != old.get(part):
            yield invalid_value(f"metadata.{part}", new.get(part), "field is immutable")
