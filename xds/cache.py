"""One gateway's resources, by owner: what every connected client shall have, and what has been proved good.

An owner is a model ("namespace/name") or the gateway itself. By convention a model's RouteConfiguration is named as
the model. The cache tells its streams which names changed; each stream decides when its own client may have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from xds.resources import NOTHING, Resource, Resources, Type


@dataclass(frozen=True, slots=True)
class Rejection:
    """Envoy's own words about a resource that it would not take."""

    owner: str
    type: Type
    name: str
    version: str
    message: str
    node: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that nobody contributes any more, and the models whose routes may still lead to it."""

    users: frozenset[str]


Changes = dict[Type, dict[str, Gone | None]]


class Watcher(Protocol):
    """A stream, as the cache sees it."""

    def changed(self, changes: Changes) -> None:
        """Some names have a new value, or are gone."""


class Cache:
    """The latest resources of one gateway. Applying an equal set is silent; one owner never touches another's names."""

    def __init__(self) -> None:
        self._current: dict[Type, dict[str, Resource]] = {kind: {} for kind in Type}
        self._owners: dict[Type, dict[str, str | frozenset[str]]] = {kind: {} for kind in Type}
        self._users: dict[str, set[str]] = {}  # shared clusters only: every owner since the cluster was made
        self._desired: dict[str, Resources] = {}
        self._effective: dict[str, Resources] = {}
        self._good: dict[str, Resources] = {}
        self.rejections: dict[str, Rejection] = {}
        self._watchers: dict[Watcher, None] = {}

    # What streams read

    def get(self, kind: Type, name: str) -> Resource | None:
        return self._current[kind].get(name)

    def all(self, kind: Type) -> Iterator[Resource]:
        """Everything of a type that a wildcard covers."""
        return (resource for resource in self._current[kind].values() if not resource.named_only)

    def owners_of(self, kind: Type, name: str) -> frozenset[str]:
        owner = self._owners[kind].get(name, frozenset())
        return frozenset((owner,)) if isinstance(owner, str) else owner

    def owners(self) -> tuple[str, ...]:
        return tuple(self._desired)

    def __contains__(self, owner: str) -> bool:
        return owner in self._desired

    def resources(self, owner: str) -> Resources:
        """What the owner contributes now: what it wants, or its last good set while Envoy rejects that."""
        return self._effective.get(owner, NOTHING)

    def version(self, owner: str) -> str:
        """One hash over all that the owner wants."""
        digest = blake2b(digest_size=8)
        for kind, named in self._desired.get(owner, NOTHING).items():
            for name in sorted(named):
                digest.update(f"{kind}\0{name}\0{named[name].version}\0".encode())
        return digest.hexdigest()

    def watch(self, watcher: Watcher) -> None:
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher, None)

    # What the router does

    def apply(self, owner: str, resources: Resources) -> None:
        """Make this the whole of what the owner contributes."""
        if self._desired.get(owner) == resources:
            return
        before = self._effective.get(owner)
        if before is not None and owner not in self.rejections and owner not in self._good:
            self._good[owner] = before  # nobody has proved it, nobody has disproved it
        self.rejections.pop(owner, None)
        self._desired[owner] = resources
        self._install(owner, resources)

    def remove(self, owner: str) -> None:
        """Forget the owner and all that only it contributed."""
        if owner not in self._desired:
            return
        self.rejections.pop(owner, None)
        self._install(owner, NOTHING)
        for table in (self._desired, self._effective, self._good):
            table.pop(owner, None)

    # What streams report

    def accepted(self, owner: str) -> None:
        """A client has ACKed the owner's current route: from here on this set is the one to fall back to."""
        if owner in self._effective:
            self._good[owner] = self._effective[owner]

    def is_accepted(self, owner: str) -> bool:
        """Some client has ACKed what the owner wants now."""
        return owner in self._good and self._good[owner] is self._desired.get(owner)

    def reject(self, rejection: Rejection) -> bool:
        """Note a rejection of something current; False when it speaks of something we have since replaced."""
        current = self.get(rejection.type, rejection.name)
        if current is None or current.version != rejection.version:
            return False
        for owner in self.owners_of(rejection.type, rejection.name):
            self.rejections.setdefault(owner, rejection)
        return True

    def quarantine(self, owner: str) -> bool:
        """Give newcomers the last good set, when some client rejected the present one and none took it.

        One client that rejects what others accept stays that client's own trouble. So does a listener: that one Envoy
        cannot bind a port says nothing about the next.
        """
        if Type.ROUTE not in self._desired.get(owner, NOTHING):
            return False
        if owner not in self.rejections or self._effective.get(owner) is not self._desired.get(owner):
            return False
        if self.is_accepted(owner) or owner not in self._good:
            return False  # and without a good set there is nothing that newcomers would be better off with
        self._install(owner, self._good[owner])
        return True

    def _install(self, owner: str, resources: Resources) -> None:
        before = self._effective.get(owner, NOTHING)
        self._effective[owner] = resources
        changes: Changes = {}
        for kind in Type:
            old, new = before.get(kind, {}), resources.get(kind, {})
            if old is new:
                continue
            table = self._current[kind]
            for name, resource in new.items():
                self._own(kind, name, owner)
                held = table.get(name)
                if held is None or held.version != resource.version:
                    table[name] = resource
                    changes.setdefault(kind, {})[name] = None
            for name in old.keys() - new.keys():
                if self._disown(kind, name, owner):
                    table.pop(name, None)
                    users = self._users.pop(name, {owner}) if kind is Type.CLUSTER else {owner}
                    changes.setdefault(kind, {})[name] = Gone(frozenset(users))
        if changes:
            for watcher in list(self._watchers):
                watcher.changed(changes)

    def _own(self, kind: Type, name: str, owner: str) -> None:
        present = self._owners[kind].get(name)
        if present is None or kind is Type.SCOPE:
            self._owners[kind][name] = owner  # a host leads to one model: the latest claim wins
        elif present != owner:
            together = frozenset((present, owner)) if isinstance(present, str) else present | {owner}
            self._owners[kind][name] = together
            if kind is Type.CLUSTER:
                self._users.setdefault(name, set()).update(together)

    def _disown(self, kind: Type, name: str, owner: str) -> bool:
        """True when nobody is left."""
        present = self._owners[kind].get(name)
        if present == owner:
            del self._owners[kind][name]
            return True
        if isinstance(present, frozenset) and owner in present:
            left = present - {owner}
            self._owners[kind][name] = next(iter(left)) if len(left) == 1 else left
        return False
