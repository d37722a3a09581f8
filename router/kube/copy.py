"""A copy of one resource's objects, kept true by lists and watch events: JSON in, what changed out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from router.kube.client import ApiFault

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")
Change = tuple[str, Kept | None]
"""The object's key and what is kept of it; None when it is gone."""


def key_of(obj: Mapping[str, Any]) -> str:
    """namespace/name; only the name for what lives in no namespace."""
    meta = obj["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `more` continues it."""

    items: list[dict[str, Any]]
    revision: str
    more: str


def page_of(answer: Mapping[str, Any]) -> Page:
    """Raises ApiFault if this is no list: some proxies say 200 to everything, which must not pass for an empty one."""
    meta, items = answer.get("metadata"), answer.get("items", "missing")
    items = [] if items is None else items
    if isinstance(meta, Mapping) and isinstance(items, list):
        revision, more = meta.get("resourceVersion"), meta.get("continue") or ""
        if isinstance(revision, str) and revision and isinstance(more, str) and all(map(_is_object, items)):
            return Page(items, revision, more)
    raise ApiFault(400, "NotAList", f"the answer is no list: {str(answer)[:80]}")


class Lines:
    """Cuts a stream into whole lines. An object of a megabyte comes in many pieces; each byte is searched once."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def cut(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk:
            self._rest += chunk
            return []
        first, *others = chunk.split(b"\n")
        lines = [bytes(self._rest) + first, *others]
        self._rest = bytearray(lines.pop())
        return [line for line in lines if line.strip()]


class Copy(Generic[Kept]):
    """Pure. `keep` takes out of an object what matters; None means that the object does not.

    A change is told only when what is kept differs: of an object whose heartbeat alone moved, nobody hears. An object
    that was deleted and created again meanwhile is told as both, since whoever owned the first does not own the second.
    """

    def __init__(self, keep: Callable[[dict[str, Any]], Kept | None]) -> None:
        self.objects: dict[str, Kept] = {}
        self.revision = ""
        """Where the next watch starts; empty when a list is needed first."""
        self._keep = keep
        self._known: dict[str, tuple[str, str]] = {}  # uid, resourceVersion
        self._listed: set[str] = set()

    def begin(self) -> None:
        """A list starts. Until it is complete nothing is taken for deleted."""
        self.revision = ""
        self._listed = set()

    def page(self, items: Iterable[dict[str, Any]]) -> list[Change[Kept]]:
        changes: list[Change[Kept]] = []
        for obj in items:
            key = key_of(obj)
            self._listed.add(key)
            changes += self._put(key, obj)
        return changes

    def end(self, revision: str) -> list[Change[Kept]]:
        """The list is complete: what it did not hold was deleted while nobody looked."""
        missing = [key for key in self._known if key not in self._listed]
        self._listed = set()
        self.revision = revision
        return [change for key in missing for change in self._drop(key)]

    def hear(self, line: bytes) -> list[Change[Kept]]:
        """One line of a watch. Raises ApiFault for an ERROR event, after which the revision is of no use."""
        try:
            event = json.loads(line)
            kind, obj = event["type"], event["object"]
            if kind == "ERROR":
                self.revision = ""
                raise ApiFault.told(obj)
            revision = obj["metadata"]["resourceVersion"]
            key = "" if kind == "BOOKMARK" else key_of(obj)
            if not isinstance(obj["metadata"], dict) or not isinstance(revision, str):
                raise TypeError("odd metadata")
        except (ValueError, KeyError, TypeError) as fault:
            self.revision = ""
            raise ApiFault(400, "NotAnEvent", f"the watch sent what is no event: {line[:80]!r}") from fault
        if kind == "BOOKMARK":
            changes: list[Change[Kept]] = []
        elif kind == "DELETED":
            changes = self._drop(key)
        else:
            changes = self._put(key, obj)
        self.revision = revision
        return changes

    def revision_of(self, key: str) -> str:
        return self._known.get(key, ("", ""))[1]

    def forget_revision(self) -> None:
        self.revision = ""

    def _put(self, key: str, obj: dict[str, Any]) -> list[Change[Kept]]:
        meta = obj["metadata"]
        seen = (meta.get("uid", ""), meta.get("resourceVersion", ""))
        known = self._known.get(key)
        if known == seen:
            return []
        changes = self._drop(key) if known and known[0] != seen[0] else []
        self._known[key] = seen
        try:
            kept = self._keep(obj)
        except Exception:
            log.exception("%s: cannot be read; what was known of it stays", key)
            return changes
        if kept is None:
            if key in self.objects:
                del self.objects[key]
                changes.append((key, None))
        elif self.objects.get(key) != kept:
            self.objects[key] = kept
            changes.append((key, kept))
        return changes

    def _drop(self, key: str) -> list[Change[Kept]]:
        self._known.pop(key, None)
        return [(key, None)] if self.objects.pop(key, None) is not None else []


def _is_object(item: Any) -> bool:
    meta = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(meta, dict) and isinstance(meta.get("name"), str)
