"""What the controller manager does for deletions: owners' dependents, finished namespaces."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable

from kubedouble.resource import Resource
from kubedouble.storage import Stored
from kubedouble.writes import NAMESPACES, DeleteOptions, Writes


class Garbage:
    """Runs a moment after a deletion, as a real cluster's controllers do: who asks at once still sees the object."""

    def __init__(self, writes: Writes, delay: float) -> None:
        self._writes = writes
        self._delay = delay
        self._due: deque[Callable[[], None]] = deque()
        writes.on_deleted = self.after_deletion

    def after_deletion(self, resource: Resource, stored: Stored) -> None:
        """Dependents of what is gone follow it; a namespace that waited for it may end."""
        namespace = stored.data["metadata"].get("namespace")
        if self._writes.storage.has_dependents(stored.data["metadata"]["uid"]):
            self._later(lambda: self._follow(stored))
        if namespace and self._ends(namespace):
            self._later(lambda: self.finish_namespace(namespace))

    def _later(self, act: Callable[[], None]) -> None:
        self._due.append(act)
        try:
            asyncio.get_running_loop().call_later(self._delay, self.collect)
        except RuntimeError:
            self.collect()

    def collect(self) -> None:
        """Do now what is due."""
        while self._due:
            self._due.popleft()()

    def _ends(self, namespace: str) -> bool:
        found = self._writes.storage.get(NAMESPACES, ("", namespace))
        return bool(found and found.data["metadata"].get("deletionTimestamp"))

    def _dependents(self, owner: Stored) -> list[tuple[Resource, Stored]]:
        found: list[tuple[Resource, Stored]] = []
        for key, each in self._writes.storage.dependents(owner.data["metadata"]["uid"]):
            if (resource := self._writes.registry.of_key(key)) is not None:
                found.append((resource, each))
        return found

    def _follow(self, owner: Stored) -> None:
        for resource, each in self._dependents(owner):
            owners = each.data["metadata"]["ownerReferences"]
            uid = owner.data["metadata"]["uid"]
            if any(ref["uid"] != uid and self._writes.storage.lives(ref["uid"]) for ref in owners):
                left = copy.deepcopy(each.data)
                left["metadata"]["ownerReferences"] = [ref for ref in owners if ref["uid"] != uid]
                self._writes.storage.put(resource.key, left)
            elif self._writes.storage.get(resource.key, each.key()):
                self._writes.delete(resource, *each.key(), DeleteOptions())

    def settle(self, resource: Resource, stored: Stored) -> None:
        """After a deletion that left the object in place: play the controllers its finalizers wait for."""
        finalizers = stored.data["metadata"].get("finalizers") or []
        if resource.key == NAMESPACES or {"orphan", "foregroundDeletion"} & {*finalizers}:
            self._later(lambda: self._settle(resource, *stored.key()))

    def _settle(self, resource: Resource, namespace: str, name: str) -> None:
        stored = self._writes.storage.get(resource.key, (namespace, name))
        if stored is None:
            return
        finalizers = stored.data["metadata"].get("finalizers") or []
        if resource.key == NAMESPACES:
            self._empty_namespace(stored.data["metadata"]["name"])
            return
        for finalizer in ("orphan", "foregroundDeletion"):
            if finalizer not in finalizers:
                continue
            if finalizer == "foregroundDeletion" and self._dependents(stored):
                self._foreground(resource, stored)
                return
            self._release(resource, stored, finalizer)
            return

    def _foreground(self, resource: Resource, owner: Stored) -> None:
        for dependent, each in self._dependents(owner):
            self._writes.delete(dependent, *each.key(), DeleteOptions())
        if not self._dependents(owner):
            self._release(resource, owner, "foregroundDeletion")

    def _release(self, resource: Resource, stored: Stored, finalizer: str) -> None:
        if finalizer == "orphan":
            uid = stored.data["metadata"]["uid"]
            for dependent, each in self._dependents(stored):
                left = copy.deepcopy(each.data)
                refs = [ref for ref in left["metadata"]["ownerReferences"] if ref["uid"] != uid]
                left["metadata"]["ownerReferences"] = refs
                self._writes.storage.put(dependent.key, left)
        last = copy.deepcopy(stored.data)
        last["metadata"]["finalizers"] = [each for each in last["metadata"]["finalizers"] if each != finalizer]
        if last["metadata"]["finalizers"]:
            self._writes.storage.put(resource.key, last)
        elif current := self._writes.storage.get(resource.key, stored.key()):
            self._writes.gone(resource, current, last)

    def _empty_namespace(self, namespace: str) -> None:
        for key in self._writes.storage.kinds():
            resource = self._writes.registry.of_key(key)
            if resource and resource.namespaced:
                for each in self._writes.storage.every(key, namespace):
                    if self._writes.storage.get(key, each.key()):
                        self._writes.delete(resource, *each.key(), DeleteOptions())
        self.finish_namespace(namespace)

    def finish_namespace(self, namespace: str) -> None:
        storage = self._writes.storage
        found = storage.get(NAMESPACES, ("", namespace))
        if not found or not self._ends(namespace):
            return
        if any(storage.every(key, namespace) for key in storage.kinds() if key != NAMESPACES):
            return
        resource = self._writes.registry.of_key(NAMESPACES)
        last = {**found.data, "spec": {}}
        if found.data["metadata"].get("finalizers"):
            storage.put(NAMESPACES, last)
        elif resource:
            self._writes.gone(resource, found, last)
