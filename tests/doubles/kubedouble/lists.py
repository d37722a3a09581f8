"""Lists: which objects, at which revision, in pages."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubedouble import errors, selectors
from kubedouble.metadata import forbidden, unsupported
from kubedouble.resource import Resource
from kubedouble.storage import Storage, Stored
from kubedouble.watch import Wanted


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Stored]
    revision: int
    token: str = ""
    remaining: int | None = None

    def meta(self) -> dict[str, object]:
        meta: dict[str, object] = {"resourceVersion": str(self.revision)}
        if self.token:
            meta["continue"] = self.token
        if self.remaining is not None:
            meta["remainingItemCount"] = self.remaining
        return meta


def wanted(resource: Resource, namespace: str, query: Mapping[str, str], name: str = "") -> Wanted:
    field_text = query.get("fieldSelector", "")
    if name:
        field_text = ",".join(filter(None, (field_text, f"metadata.name={name}")))
    labels = selectors.labels(query.get("labelSelector", ""))
    return Wanted(resource, namespace, labels, selectors.fields(field_text, resource))


def revision_of(query: Mapping[str, str]) -> int | None:
    """The resourceVersion asked for; nothing and an empty one are the same."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not re.fullmatch(r"\d+", text):
        raise errors.bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def refuse_future(storage: Storage, revision: int | None) -> None:
    if revision is not None and revision > storage.revision:
        raise errors.future(revision, storage.revision)


def page(storage: Storage, want: Wanted, query: Mapping[str, str]) -> Page:
    match, token = query.get("resourceVersionMatch", ""), query.get("continue", "")
    try:
        limit = max(int(query.get("limit") or 0), 0)
    except ValueError:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{query["limit"]}": invalid syntax') from None
    revision = None if token and query.get("resourceVersion") == "0" else revision_of(query)
    _refuse_options(match, token, revision, "sendInitialEvents" in query)
    refuse_future(storage, revision)
    after = None
    if token:
        at, after = _open(token)
        shown = at if at > 0 else storage.revision
        try:
            objects = storage.at(want.resource.key, want.namespace, shown)
        except errors.ApiError as gone:
            raise errors.token_expired(_close(-1, after)) from gone
    elif revision and match == "Exact":
        objects, shown = storage.at(want.resource.key, want.namespace, revision), revision
    else:
        objects, shown = storage.every(want.resource.key, want.namespace), storage.revision
    found = [each for each in objects if want.has(each) and (after is None or each.key() > after)]
    cached = revision == 0 and not token
    if not limit or cached or len(found) <= limit:
        return Page(found, shown)
    items = found[:limit]
    selective = bool(query.get("labelSelector") or query.get("fieldSelector"))
    return Page(items, shown, _close(shown, items[-1].key()), None if selective else len(found) - limit)


def _refuse_options(match: str, token: str, revision: int | None, initial: bool) -> None:
    where = "resourceVersionMatch"
    if initial:
        raise errors.invalid_options(
            "ListOptions", forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
        )
    if match and token:
        raise errors.invalid_options("ListOptions", forbidden(where, f"{where} is forbidden when continue is provided"))
    if match and revision is None:
        why = f"{where} is forbidden unless resourceVersion is provided"
        raise errors.invalid_options("ListOptions", forbidden(where, why))
    if match and match not in ("Exact", "NotOlderThan"):
        cause = unsupported(where, match, ("Exact", "NotOlderThan", ""))
        raise errors.invalid_options("ListOptions", cause)
    if match == "Exact" and revision == 0:
        why = f'{where} "exact" is forbidden for resourceVersion "0"'
        raise errors.invalid_options("ListOptions", forbidden(where, why))
    if token and revision:
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def refuse_watch_options(query: Mapping[str, str]) -> None:
    match = query.get("resourceVersionMatch", "")
    if "sendInitialEvents" in query:
        why = (
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan" if match != "NotOlderThan" else ""
        )
    else:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided" if match else ""
    if why:
        raise errors.invalid_options("ListOptions", forbidden("resourceVersionMatch", why))


def _close(revision: int, last: tuple[str, str]) -> str:
    body = {"v": "meta.k8s.io/v1", "rv": revision, "start": list(last)}
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


def _open(token: str) -> tuple[int, tuple[str, str]]:
    try:
        body = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = body["start"]
        return int(body["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError):
        raise errors.bad_request("continue key is not valid: illegal base64 data or unrecognised content") from None
