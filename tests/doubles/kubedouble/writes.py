"""Create, replace, patch and delete: from what a client sent to what is stored, or an ApiError."""

from __future__ import annotations

import copy
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kubedouble import apply, builtins, crd, errors, metadata, schema
from kubedouble.errors import Cause
from kubedouble.registry import Registry
from kubedouble.resource import Resource
from kubedouble.storage import Storage, Stored, encode
from kubedouble.types import OBJECT_META

Object = dict[str, Any]
NAMESPACES = ("", "namespaces")
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class Options:
    """What a write says besides the object."""

    dry_run: bool = False
    field_validation: str = "Warn"
    manager: str = "unknown"
    subresource: str = ""
    warnings: list[str] = field(default_factory=list)
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    uid: str | None = None
    revision: str | None = None
    propagation: str = "Background"
    dry_run: bool = False


class Writes:
    def __init__(self, storage: Storage, registry: Registry) -> None:
        self.storage = storage
        self.registry = registry
        self.skew = timedelta()
        self.loopback_endpoints = False
        self.on_deleted: Callable[[Resource, Stored], None] = lambda resource, stored: None

    def now(self) -> str:
        return (datetime.now(UTC) + self.skew).strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        stored = self.storage.get(resource.key, (namespace, name))
        if stored is None:
            raise errors.not_found(resource, name)
        return stored

    # -- reading what was sent

    def decode(self, resource: Resource, obj: Any, options: Options, *, patched: bool = False) -> Object:
        """Check an object's type and fields; unknown fields are dropped, or refused when strict."""
        if not isinstance(obj, dict):
            raise errors.bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
        obj = copy.deepcopy(obj)
        self._check_kind(resource, obj)
        if obj.get("metadata") is None:
            obj["metadata"] = {}
        if not resource.custom:
            obj = schema.drop_nulls(obj)
        else:
            obj["metadata"] = schema.drop_nulls(obj["metadata"])
        obj.setdefault("metadata", {})
        about = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
        judged = obj["metadata"] if resource.custom else obj
        shape = OBJECT_META if resource.custom else resource.schema
        if wrong := next(schema.type_faults(judged, shape, owner=resource.kind), None):
            if patched:
                raise errors.invalid_patch(encode(obj).decode(), wrong)
            raise errors.bad_request(about + wrong)
        obj, unknown = schema.prune(obj, resource.schema, root=True)
        odd = [*(f'duplicate field "{path}"' for path in options.duplicates)]
        odd += [f'unknown field "{path}"' for path in unknown]
        if odd and options.field_validation == "Strict":
            said = f"strict decoding error: {', '.join(odd)}"
            raise errors.invalid_patch(encode(obj).decode(), said) if patched else errors.bad_request(about + said)
        if options.field_validation == "Warn":
            options.warnings.extend(odd)
        options.warnings.extend(metadata.warnings(resource, obj["metadata"]))
        if resource.custom:
            obj = schema.default(obj, resource.schema)
        return {**obj, "apiVersion": resource.stored_as, "kind": resource.kind}

    def _check_kind(self, resource: Resource, obj: Object) -> None:
        kind, version = obj.get("kind"), obj.get("apiVersion")
        if resource.custom:
            if not kind:
                raise errors.bad_request("Object 'Kind' is missing in the request body")
            if kind != resource.kind:
                why = f"must be {resource.kind}"
                raise errors.invalid(resource, _name(obj), [metadata.invalid_value("kind", kind, why)])
            if version != resource.api_version:
                raise errors.bad_request(
                    f"the API version in the data ({version or ''}) does not match the expected API version "
                    f"({resource.api_version})"
                )
        elif kind and (kind != resource.kind or (version and version != resource.api_version)):
            short = str(version or resource.api_version).rsplit("/", 1)[-1]
            raise errors.bad_request(
                f'{kind} in version "{short}" cannot be handled as a {resource.kind}: no kind "{kind}" is registered '
                f'for version "{version}" in scheme'
                if version == resource.api_version or not version
                else f"the API version in the data ({version}) does not match the expected API version "
                f"({resource.api_version})"
            )

    def _scope(self, resource: Resource, obj: Object, namespace: str) -> None:
        meta = obj["metadata"]
        if not resource.namespaced:
            meta.pop("namespace", None)
        elif meta.get("namespace") not in (None, "", namespace):
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        else:
            meta["namespace"] = namespace

    # -- create

    def create(self, resource: Resource, namespace: str, sent: Any, options: Options) -> Stored:
        obj = self.decode(resource, sent, options)
        self._scope(resource, obj, namespace)
        return self._insert(resource, namespace, obj, options)

    def _insert(
        self, resource: Resource, namespace: str, obj: Object, options: Options, *, applied: bool = False
    ) -> Stored:
        meta = obj["metadata"]
        revision = meta.pop("resourceVersion", None)
        if not meta.get("name") and (prefix := meta.get("generateName")):
            meta["name"] = prefix[:58] + "".join(random.choices(_ALPHABET, k=5))
        meta = obj["metadata"] = {key: each for key, each in meta.items() if each not in ({}, [], "")}
        name = meta.get("name", "")
        for part in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            meta.pop(part, None)
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=self.now())
        if resource.generation:
            meta["generation"] = 1
        if resource.status:
            obj.pop("status", None)
        self._complete(resource, obj, None)
        if resource.namespaced:
            self._refuse_namespace(resource, namespace, name)
        self._refuse_invalid(resource, obj, None)
        schema.normalise(obj, resource.schema)
        if same := self.storage.get(resource.key, (namespace, name)):
            terminating = "deletionTimestamp" in same.data["metadata"]
            raise errors.already_exists(resource, name, terminating=terminating)
        if revision not in (None, "", "0"):
            raise errors.ApiError(500, None, "resourceVersion should not be set on objects to be created")
        if resource.key == crd.CRDS:
            crd.establish(obj, self.now())
        if not applied:
            meta.pop("managedFields", None)
            writer = apply.Writer(options.manager, "Update", resource.api_version)
            owners = apply.after_update(None, obj, resource.schema, writer, meta["creationTimestamp"])
            if owners:
                meta["managedFields"] = owners
        if options.dry_run:
            return Stored(obj, 0)
        stored = self.storage.put(resource.key, obj)
        if resource.key == crd.CRDS:
            self.registry.install(stored.data)
        return stored

    def _complete(self, resource: Resource, obj: Object, old: Object | None) -> None:
        if resource.key == crd.CRDS:
            crd.default(obj)
        elif not resource.custom:
            builtins.default(resource, obj, old, self.storage.revision)

    def _refuse_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        found = self.storage.get(NAMESPACES, ("", namespace))
        if found is None:
            raise errors.not_found(self.registry.find("", "v1", "namespaces"), namespace)  # type: ignore[arg-type]
        if found.data["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = Cause("metadata.namespace", "NamespaceTerminating", f"namespace {namespace} is being terminated")
            raise errors.forbidden(resource, name, why, [cause])

    def _refuse_invalid(self, resource: Resource, obj: Object, old: Object | None, *, status: bool = False) -> None:
        meta = obj["metadata"]
        found = list(metadata.faults(resource, meta))
        if old is not None:
            found += metadata.change_faults(old["metadata"], meta)
        if resource.custom:
            judged = {key: value for key, value in obj.items() if key != "metadata"}
            before = {key: value for key, value in (old or {}).items() if key != "metadata"} if old else None
            properties = {k: v for k, v in resource.schema.get("properties", {}).items() if k != "metadata"}
            named = resource.schema.get("properties", {}).get("metadata", {}).get("properties", {}).get("name", {})
            found += schema.faults(meta.get("name", ""), named, "metadata.name")
            found += schema.faults(judged, {**resource.schema, "properties": properties}, "", before)
        elif resource.key == crd.CRDS:
            found += crd.faults(obj, old)
        else:
            found += builtins.status_faults(obj) if status else builtins.faults(resource, obj, old)
        if self.loopback_endpoints:
            found = [cause for cause in found if not cause.message.endswith(builtins.LOOPBACK)]
        if found:
            raise errors.invalid(resource, meta.get("name", ""), found)

    # -- replace

    def replace(
        self, resource: Resource, namespace: str, name: str, sent: Any, options: Options
    ) -> tuple[Stored, bool]:
        """PUT: the stored object, and whether it is new."""
        obj = self.decode(resource, sent, options)
        self._scope(resource, obj, namespace)
        meta = obj["metadata"]
        if meta.get("name") != name:
            if not meta.get("name"):
                raise errors.bad_request("name must be provided")
            raise errors.bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            )
        old = self.storage.get(resource.key, (namespace, name))
        if old is None:
            if resource.create_on_update and not options.subresource:
                if meta.pop("resourceVersion", None):
                    raise errors.not_found(resource, name)
                return self._insert(resource, namespace, obj, options), True
            raise errors.not_found(resource, name)
        uid = old.data["metadata"]["uid"]
        if meta.get("uid") not in (None, "", uid):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {uid}"
            raise errors.conflict(resource, name, why)
        if not meta.get("resourceVersion") and not resource.unconditional_update:
            cause = metadata.invalid_value("metadata.resourceVersion", "0x0", "must be specified for an update")
            raise errors.invalid(resource, name, [Cause(cause.field, cause.reason, cause.message.replace('"', ""))])
        return self._update(resource, old, obj, options), False

    # -- patch

    def patch(
        self, resource: Resource, namespace: str, name: str, change: Callable[[Object], Any], options: Options
    ) -> Stored:
        """PATCH by a function from the old to the new object."""
        old = self.get(resource, namespace, name)
        before = {**old.data, "apiVersion": resource.api_version}
        obj = self.decode(resource, change(copy.deepcopy(before)), options, patched=True)
        meta = obj["metadata"]
        if meta.get("name") != name:
            raise errors.invalid(
                resource, name, [metadata.invalid_value("metadata.name", meta.get("name"), "field is immutable")]
            )
        return self._update(resource, old, obj, options)

    def apply(
        self, resource: Resource, namespace: str, name: str, sent: Any, options: Options, *, force: bool
    ) -> tuple[Stored, bool]:
        """Server-side apply: the stored object, and whether it is new."""
        wanted = self._decode_applied(resource, namespace, name, sent, options)
        old = self.storage.get(resource.key, (namespace, name))
        writer = apply.Writer(options.manager, "Apply", resource.api_version, options.subresource)
        if old is None:
            if options.subresource:
                raise errors.not_found(resource, name)
            if wanted["metadata"].get("uid"):
                raise errors.conflict(resource, name, "uid mismatch: the provided object specified uid")
            base = {"apiVersion": resource.stored_as, "kind": resource.kind, "metadata": {}}
            merged = apply.apply(base, wanted, resource.schema, writer, self.now(), force=True)
            merged = self.decode(resource, {**merged, "apiVersion": resource.api_version}, options)
            self._scope(resource, merged, namespace)
            return self._insert(resource, namespace, merged, options, applied=True), True
        merged = apply.apply(old.data, wanted, resource.schema, writer, self.now(), force=force)
        merged = self.decode(resource, {**merged, "apiVersion": resource.api_version}, options)
        return self._update(resource, old, merged, options, applied=True), False

    def _decode_applied(self, resource: Resource, namespace: str, name: str, sent: Any, options: Options) -> Object:
        if not isinstance(sent, dict):
            raise errors.bad_request("error decoding YAML: not an object")
        if sent.get("metadata", {}).get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        for part in ("apiVersion", "kind"):
            if not sent.get(part):
                raise errors.bad_request(f"Object '{part[0].upper()}{part[1:]}' is missing")
        self._check_kind(resource, sent)
        wanted = copy.deepcopy(sent)
        wanted.setdefault("metadata", {})
        wanted, unknown = schema.prune(wanted, resource.schema, root=True)
        message = f".{unknown[0]}: field not declared in schema" if unknown else ""
        if message := message or next(schema.kind_faults(wanted, resource.schema), ""):
            group = resource.api_version if resource.group else f"/{resource.version}"
            about = f"{namespace}/{name}; {group}, Kind={resource.kind}"
            raise errors.ApiError(500, None, f"failed to create typed patch object ({about}): {message}")
        self._scope(resource, wanted, namespace)
        if wanted["metadata"].setdefault("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({wanted['metadata']['name']}) does not match the name on the URL ({name})"
            )
        if not options.subresource and resource.status:
            wanted.pop("status", None)
        elif options.subresource:
            wanted = {key: value for key, value in wanted.items() if key != "spec"}
        return wanted

    # -- the common end of every change

    def _update(
        self, resource: Resource, old: Stored, obj: Object, options: Options, *, applied: bool = False
    ) -> Stored:
        before, meta, was = old.data, obj["metadata"], old.data["metadata"]
        if meta.get("namespace") and meta["namespace"] != was.get("namespace") and resource.namespaced:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        if meta.get("resourceVersion") not in (None, "", "0", was["resourceVersion"]):
            raise errors.conflict(resource, was["name"])
        managed = meta.get("managedFields")
        if options.subresource == "status":
            obj = self._only_status(resource, before, obj)
            meta = obj["metadata"]
        elif resource.status:
            obj = {key: value for key, value in obj.items() if key != "status"}
            if "status" in before:
                obj["status"] = before["status"]
        for part in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"):
            if was.get(part) is not None and not meta.get(part):
                meta[part] = was[part]
        meta["resourceVersion"] = was["resourceVersion"]
        meta.pop("selfLink", None)
        for part in ("labels", "annotations", "finalizers", "ownerReferences"):
            if part in meta and not meta[part]:
                del meta[part]
        meta.pop("generation", None)
        if "generation" in was:
            meta["generation"] = was["generation"]
        if options.subresource != "status":
            self._complete(resource, obj, before)
        if resource.generation and self._spec_changed(resource, before, obj):
            meta["generation"] = was.get("generation", 0) + 1
        self._refuse_invalid(resource, obj, before, status=options.subresource == "status")
        schema.normalise(obj, resource.schema)
        if applied:
            meta["managedFields"] = managed
        else:
            meta["managedFields"] = managed if managed is not None else was.get("managedFields", [])
            writer = apply.Writer(options.manager, "Update", resource.api_version, options.subresource)
            meta["managedFields"] = apply.after_update(before, obj, resource.schema, writer, self.now())
        if not meta.get("managedFields"):
            meta.pop("managedFields", None)
        if _same(before, obj):
            return old
        if options.dry_run:
            return Stored(obj, old.revision)
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not _kept_namespace(resource, obj):
            return self.gone(resource, old, obj)
        stored = self.storage.put(resource.key, obj)
        if resource.key == crd.CRDS and options.subresource != "status":
            self.registry.install(stored.data)
        return stored

    def _only_status(self, resource: Resource, before: Object, obj: Object) -> Object:
        kept = {key: value for key, value in before.items() if key != "status"}
        status = {"status": obj["status"]} if "status" in obj else {}
        meta = {**before["metadata"]} if resource.custom else {**obj["metadata"]}
        if resource.key == ("apps", "deployments"):
            meta.pop("labels", None)
            meta |= {key: each for key, each in before["metadata"].items() if key == "labels"}
        if "managedFields" in obj["metadata"]:
            meta["managedFields"] = obj["metadata"]["managedFields"]
        return {**copy.deepcopy(kept), **status, "metadata": copy.deepcopy(meta)}

    def _spec_changed(self, resource: Resource, before: Object, after: Object) -> bool:
        skipped = {"metadata", "apiVersion", "kind"} | ({"status"} if resource.status else set())
        if not resource.custom and "spec" in after:
            return bool(before.get("spec") != after.get("spec"))
        return any(before.get(key) != after.get(key) for key in (before.keys() | after.keys()) - skipped)

    # -- delete

    def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions) -> tuple[Stored, bool]:
        """Delete, or begin to; the second value tells whether the object is gone."""
        old = self.get(resource, namespace, name)
        obj = copy.deepcopy(old.data)
        meta = obj["metadata"]
        if options.uid is not None and options.uid != meta["uid"]:
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {meta['uid']}"
            raise errors.conflict(resource, name, why)
        if options.revision is not None and options.revision != meta["resourceVersion"]:
            why = (
                f"Precondition failed: ResourceVersion in precondition: {options.revision}, "
                f"ResourceVersion in object meta: {meta['resourceVersion']}"
            )
            raise errors.conflict(resource, name, why)
        if resource.key == NAMESPACES and name in ("default", "kube-system", "kube-public"):
            raise errors.forbidden(resource, name, "this namespace may not be deleted")
        finalizers = list(meta.get("finalizers") or ())
        for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
            if options.propagation == policy and finalizer not in finalizers:
                finalizers.append(finalizer)
        if not finalizers and resource.key != NAMESPACES:
            return (old, True) if options.dry_run else (self.gone(resource, old, obj), True)
        if meta.get("deletionTimestamp") and finalizers == (meta.get("finalizers") or []):
            return old, False
        if not meta.get("deletionTimestamp"):
            meta.update(deletionTimestamp=self.now(), deletionGracePeriodSeconds=0)
            if meta.get("generation"):
                meta["generation"] += 1
        if finalizers:
            meta["finalizers"] = finalizers
        if resource.key == NAMESPACES:
            meta.pop("deletionGracePeriodSeconds", None)
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        if options.dry_run:
            return Stored(obj, old.revision), False
        return self.storage.put(resource.key, obj), False

    def gone(self, resource: Resource, old: Stored, last: Object) -> Stored:
        stored = self.storage.remove(resource.key, old.key(), last)
        if resource.key == crd.CRDS and (left := self.registry.uninstall(stored.data["metadata"]["name"])):
            for each in self.storage.every(left):
                self.storage.remove(left, each.key())
        self.on_deleted(resource, stored)
        return stored


def _name(obj: Object) -> str:
    meta = obj.get("metadata")
    return meta.get("name", "") if isinstance(meta, dict) else ""


def _kept_namespace(resource: Resource, obj: Object) -> bool:
    return resource.key == NAMESPACES and bool(obj.get("spec", {}).get("finalizers"))


def _same(before: Object, after: Object) -> bool:
    """Equal but for the times in managedFields, which alone are no change."""
    return _timeless(before) == _timeless(after)


def _timeless(obj: Object) -> Object:
    meta = obj["metadata"]
    entries = [{k: v for k, v in entry.items() if k != "time"} for entry in meta.get("managedFields") or ()]
    return {**obj, "metadata": {**meta, "managedFields": entries}}
