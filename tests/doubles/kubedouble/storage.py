"""Where objects live: one revision counter, what every revision changed, and who wants to hear of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubedouble import errors
from kubedouble.resource import Resource

Object = dict[str, Any]
Key = tuple[str, str]  # (namespace, name)


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Stored:
    """One object at one revision. Nobody may change `data`: readers of older revisions hold the same one."""

    __slots__ = ("_bodies", "data", "revision")

    def __init__(self, data: Object, revision: int) -> None:
        self.data = data
        self.revision = revision
        self._bodies: dict[str | None, bytes] = {}

    def body(self, resource: Resource | None) -> bytes:
        """The object as JSON; without a resource, as an item of a built-in list: no kind, no apiVersion."""
        version = resource.api_version if resource else None
        if version not in self._bodies:
            shown = {key: value for key, value in self.data.items() if key not in ("kind", "apiVersion")}
            if resource:
                shown = {"kind": resource.kind, "apiVersion": resource.api_version, **shown}
            self._bodies[version] = encode(shown)
        return self._bodies[version]

    def key(self) -> Key:
        meta = self.data["metadata"]
        return meta.get("namespace", ""), meta["name"]


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision did: `before` is absent for a creation, `gone` tells a deletion (`after` is its last state)."""

    revision: int
    resource: tuple[str, str]
    before: Stored | None
    after: Stored
    gone: bool


class Storage:
    """All objects, and the newest `history` changes; older ones are compacted away."""

    def __init__(self, history: int = 100_000) -> None:
        self.revision = 100
        self.compacted = 0
        self._limit = history
        self._objects: dict[tuple[str, str], dict[Key, Stored]] = {}
        self._changes: deque[Change] = deque()
        self._listeners: set[Callable[[Change], None]] = set()
        self._owned: dict[str, set[tuple[tuple[str, str], Key]]] = {}
        self._uids: set[str] = set()

    def get(self, resource: tuple[str, str], key: Key) -> Stored | None:
        return self._objects.get(resource, {}).get(key)

    def every(self, resource: tuple[str, str], namespace: str = "") -> list[Stored]:
        """Objects of one kind by namespace and name; all namespaces when none is given."""
        objects = self._objects.get(resource, {})
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def kinds(self) -> Iterator[tuple[str, str]]:
        yield from list(self._objects)

    def at(self, resource: tuple[str, str], namespace: str, revision: int) -> list[Stored]:
        """What `every` answered when `revision` was the newest."""
        self._refuse_compacted(revision)
        objects = dict(self._objects.get(resource, {}))
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            if change.resource != resource:
                continue
            if change.before is None:
                objects.pop(change.after.key(), None)
            else:
                objects[change.before.key()] = change.before
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def since(self, resource: tuple[str, str], revision: int) -> list[Change]:
        self._refuse_compacted(revision)
        missed = []
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            if change.resource == resource:
                missed.append(change)
        return missed[::-1]

    def _refuse_compacted(self, revision: int) -> None:
        if revision < self.compacted:
            raise errors.expired(revision, self.compacted)

    def put(self, resource: tuple[str, str], data: Object) -> Stored:
        """Store a new state under a new revision, which is written into the object's metadata."""
        stored, key = self._next(data)
        objects = self._objects.setdefault(resource, {})
        before = objects.get(key)
        objects[key] = stored
        self._index(resource, before, stored)
        self._tell(Change(stored.revision, resource, before, stored, gone=False))
        return stored

    def remove(self, resource: tuple[str, str], key: Key, last: Object | None = None) -> Stored:
        before = self._objects[resource].pop(key)
        self._index(resource, before, None)
        stored, _ = self._next(last if last is not None else before.data)
        self._tell(Change(stored.revision, resource, before, stored, gone=True))
        return stored

    def _index(self, resource: tuple[str, str], before: Stored | None, after: Stored | None) -> None:
        for stored, act in ((before, set.discard), (after, set.add)):
            if stored is not None:
                act(self._uids, stored.data["metadata"]["uid"])
                for owner in stored.data["metadata"].get("ownerReferences") or ():
                    act(self._owned.setdefault(owner["uid"], set()), (resource, stored.key()))

    def dependents(self, uid: str) -> list[tuple[tuple[str, str], Stored]]:
        """The objects that name this uid as an owner, so that a deletion need not look at all objects."""
        return [(resource, self._objects[resource][key]) for resource, key in sorted(self._owned.get(uid, ()))]

    def has_dependents(self, uid: str) -> bool:
        return bool(self._owned.get(uid))

    def lives(self, uid: str) -> bool:
        return uid in self._uids

    def _next(self, data: Object) -> tuple[Stored, Key]:
        self.revision += 1
        data = {**data, "metadata": {**data["metadata"], "resourceVersion": str(self.revision)}}
        stored = Stored(data, self.revision)
        return stored, stored.key()

    def _tell(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > self._limit:
            self.compacted = self._changes.popleft().revision
        for listener in list(self._listeners):
            listener(change)

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def compact(self) -> None:
        """Forget the past: watches and lists of older revisions answer 410."""
        self._changes.clear()
        self.compacted = self.revision
