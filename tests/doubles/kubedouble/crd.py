"""CustomResourceDefinitions: their checks, and the resources they bring."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubedouble.cel import compile_fault
from kubedouble.errors import Cause
from kubedouble.metadata import forbidden, invalid_value, required, unsupported
from kubedouble.resource import Resource
from kubedouble.schema import PRESERVE
from kubedouble.schema import faults as faults_in

Object = dict[str, Any]
CRDS = ("apiextensions.k8s.io", "customresourcedefinitions")
_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_PRIORITY = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def default(crd: Object) -> None:
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})


def faults(crd: Object, old: Object | None) -> Iterator[Cause]:
    spec = crd.get("spec") or {}
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    for field in ("group", "scope"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    for field in ("plural", "kind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if crd["metadata"].get("name") != wanted:
        why = 'must be spec.names.plural+"."+spec.group'
        yield invalid_value("metadata.name", crd["metadata"].get("name"), why)
    if spec.get("scope") not in (None, "Cluster", "Namespaced"):
        yield unsupported("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    if spec.get("preserveUnknownFields"):
        yield invalid_value("spec.preserveUnknownFields", True, "cannot set to true, set x-kubernetes-preserve-...")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield invalid_value("spec.versions", versions, "must have exactly one version marked as storage version")
    group = str(spec.get("group", ""))
    if group.endswith((".k8s.io", ".kubernetes.io")) and "api-approved.kubernetes.io" not in (
        crd["metadata"].get("annotations") or {}
    ):
        yield required("metadata.annotations[api-approved.kubernetes.io]", "protected groups must have approval")
    for index, version in enumerate(versions):
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        where = f"spec.versions[{index}].schema.openAPIV3Schema"
        if schema is None:
            yield required(where, "schemas are required")
        else:
            if schema.get("type") != "object":
                yield invalid_value(f"{where}.type", schema.get("type"), "must be object at the root")
            yield from _structural(schema, where)
    if old and names.get("kind") != old["spec"]["names"]["kind"]:
        yield invalid_value("spec.names.kind", names.get("kind"), "field is immutable")
    if old and spec.get("scope") != old["spec"].get("scope"):
        yield invalid_value("spec.scope", spec.get("scope"), "field is immutable")


def _structural(schema: Any, where: str) -> Iterator[Cause]:
    if not isinstance(schema, dict):
        return
    free = schema.get(PRESERVE) or schema.get("x-kubernetes-int-or-string")
    if not schema.get("type") and not free:
        yield required(f"{where}.type", "must not be empty for specified object fields")
    if "$ref" in schema:
        yield forbidden(f"{where}.$ref", "$ref is not supported")
    if "properties" in schema and "additionalProperties" in schema:
        yield forbidden(f"{where}.additionalProperties", "must not be used together with properties")
    if (kind := schema.get("type")) and kind not in _TYPES:
        yield unsupported(f"{where}.type", kind, _TYPES)
    elif "default" in schema:
        for fault in faults_in(schema["default"], {**schema, "nullable": schema.get("nullable", False)}, ""):
            why = fault.message.partition(": ")[2]
            said = why.replace("<nil> in body ", "").replace(f"{fault.field} in body ", "")
            place = f"{where}.default" + (f".{fault.field}" if fault.field != "<nil>" else "")
            yield Cause(place, fault.reason, f"Invalid value: {said}" if "nvalid" in fault.reason else fault.message)
    if schema.get("type") == "array" and "items" not in schema:
        yield required(f"{where}.items", "must be specified")
    if schema.get("uniqueItems"):
        yield forbidden(f"{where}.uniqueItems", "uniqueItems cannot be set to true since the runtime cost is quadratic")
    for index, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        if wrong := compile_fault(rule.get("rule", "")):
            yield invalid_value(f"{where}.x-kubernetes-validations[{index}].rule", rule.get("rule"), wrong)
    for name, part in (schema.get("properties") or {}).items():
        yield from _structural(part, f"{where}.properties[{name}]")
    yield from _structural(schema.get("items"), f"{where}.items")
    yield from _structural(schema.get("additionalProperties"), f"{where}.additionalProperties")


def establish(crd: Object, now: str) -> None:
    """Write the status that says the new type is served, in place. The double does so at once."""
    names = crd["spec"]["names"]
    conditions = [
        {
            "type": name,
            "status": "True",
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        }
        for name, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = next(version["name"] for version in crd["spec"]["versions"] if version.get("storage"))
    crd["status"] = {"conditions": conditions, "acceptedNames": names, "storedVersions": [stored]}


def priority(version: str) -> tuple[int, int, int]:
    """Kubernetes' order of versions, best first when sorted: v2, v1, v1beta2, v1alpha1, others."""
    match = _PRIORITY.fullmatch(version)
    if not match:
        return (3, 0, 0)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0))


def resources(crd: Object) -> list[Resource]:
    spec, names = crd["spec"], crd["spec"]["names"]
    stored = next(version["name"] for version in spec["versions"] if version.get("storage"))
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        schema = version.get("schema", {}).get("openAPIV3Schema", {})
        parts = version.get("subresources") or {}
        found.append(
            Resource(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                singular=names["singular"],
                list_kind=names["listKind"],
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                status="status" in parts,
                scale=parts.get("scale"),
                unconditional_update=False,
                custom=True,
                schema=schema,
                columns=tuple(version.get("additionalPrinterColumns") or ()),
                storage_version=stored,
                selectable=tuple(each["jsonPath"] for each in version.get("selectableFields") or ()),
            )
        )
    return sorted(found, key=lambda resource: priority(resource.version))
