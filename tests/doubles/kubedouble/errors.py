"""What the API server says when it refuses: Status bodies with the codes and reasons of the real one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubedouble.resource import Resource

Json = Any
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object: where, which kind of fault, in words."""

    field: str
    reason: str
    message: str

    def body(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "field": self.field}


@dataclass(eq=False)
class ApiError(Exception):
    code: int
    reason: str | None
    message: str
    details: dict[str, Json] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Json] = field(default_factory=dict)

    def body(self) -> dict[str, Json]:
        meta = dict(self.meta)
        body: dict[str, Json] = {"kind": "Status", "apiVersion": "v1", "metadata": meta, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return {**body, "code": self.code}


def _about(resource: Resource, name: str, **more: Json) -> dict[str, Json]:
    group = {"group": resource.group} if resource.group else {}
    named = {"name": name} if name else {}
    return {**named, **group, "kind": resource.plural, **more}


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _about(resource, name))


@dataclass(eq=False)
class NoPage(ApiError):
    """Answered below the API machinery, where no Status is written: plain text."""


def no_such_path() -> ApiError:
    return NoPage(404, None, "404 page not found\n")


def already_exists(resource: Resource, name: str, *, terminating: bool = False) -> ApiError:
    message = f'{"object is being deleted: " if terminating else ""}{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _about(resource, name))


def conflict(resource: Resource, name: str, why: str = MODIFIED) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, _about(resource, name))


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str, causes: Iterable[Cause] = ()) -> ApiError:
    details = _about(resource, name)
    if listed := [cause.body() for cause in causes]:
        details["causes"] = listed
    named = f' "{name}"' if name else ""
    return ApiError(403, "Forbidden", f"{resource.qualified}{named} is forbidden: {why}", details)


def invalid(resource: Resource, name: str, causes: Iterable[Cause]) -> ApiError:
    causes = list(causes)
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    words = [f"{cause.field}: {cause.message}" for cause in causes]
    said = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    group = {"group": resource.group} if resource.group else {}
    named = {"name": name} if name else {}
    details = {**named, **group, "kind": resource.kind, "causes": [cause.body() for cause in causes]}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {said}', details)


def invalid_options(kind: str, *causes: Cause) -> ApiError:
    """The query string of a request (ListOptions, PatchOptions, ...) is judged like an object."""
    said = ", ".join(f"{cause.field}: {cause.message}" for cause in causes)
    said = f"[{said}]" if len(causes) > 1 else said
    details = {"group": "meta.k8s.io", "kind": kind, "causes": [cause.body() for cause in causes]}
    return ApiError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {said}', details)


def invalid_patch(patched: str, why: str) -> ApiError:
    """The patched object cannot be read: the server then names no kind and no object."""
    cause = Cause("patch", "FieldValueInvalid", f"Invalid value: {json.dumps(patched, ensure_ascii=False)}: {why}")
    return ApiError(422, "Invalid", f' "" is invalid: patch: {cause.message}', {"causes": [cause.body()]})


def patch_does_not_apply() -> ApiError:
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def token_expired(token: str) -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return ApiError(410, "Expired", message, meta={"continue": token})


def future(asked: int, current: int) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1}, {"Retry-After": "1"})


def unsupported_media_type(accepted: Iterable[str]) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable() -> ApiError:
    message = f"only the following media types are accepted: {', '.join(('application/json', 'application/yaml'))}"
    return ApiError(406, "NotAcceptable", message)


def method_not_allowed(resource: Resource | None = None, verb: str = "") -> ApiError:
    if resource is None or not resource.custom:
        return NoPage(405, None, "405: Method Not Allowed")
    message = f'{verb} is not supported on resources of kind "{resource.qualified}"'
    return ApiError(405, "MethodNotAllowed", message, _about(resource, ""))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")
