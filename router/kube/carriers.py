"""Everything in a cluster that carries our finalizer: found without a control plane, by asking for every type there is.

The types are not read from a configuration: what one control plane protected has to be found after its configuration
has been changed, or lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.cluster.drain import FINALIZER
from router.cluster.resource import BUILT_IN
from router.kube.client import ApiFault, Client, within
from router.kube.copy import page_of
from router.kube.finalizer_patch import take_off

_AT_ONCE = 8
_PAGE = "500"
_NEVER = {
    *(("", name) for name in ("configmaps", "endpoints", "events", "secrets", "serviceaccounts")),
    ("apps", "controllerrevisions"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
    ("discovery.k8s.io", "endpointslices"),
    ("headgate.dev", "modelrollouts"),
}
"""Types that are never protected, of which there are many objects, or secret ones."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type as the API server offers it. `names` are all by which people call it, in lower case."""

    group: str
    path: str
    kind: str
    plural: str
    names: frozenset[str]

    @property
    def short(self) -> str:
        """As references in a rollout call it, if they do."""
        found = [one.short for one in BUILT_IN.values() if (one.group, one.resource) == (self.group, self.plural)]
        return found[0] if found else self.plural

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Carrier:
    """One object. `deleted_at` is empty while nobody deletes it."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    revision: str
    finalizers: tuple[str, ...]
    deleted_at: str

    @property
    def path(self) -> str:
        return f"{within(self.kind.path, self.namespace)}/{self.name}"

    @property
    def carries(self) -> bool:
        return FINALIZER in self.finalizers

    def __str__(self) -> str:
        return f"{self.kind.short}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Found:
    """`unseen` are types that could not be listed, and why; `listed` counts those that could."""

    carriers: tuple[Carrier, ...]
    listed: int
    unseen: Mapping[Kind, ApiFault]

    @property
    def denied(self) -> bool:
        """Nothing at all may be listed."""
        return not self.listed and any(fault.status == 403 for fault in self.unseen.values())


async def kinds(client: Client) -> tuple[Kind, ...]:
    """The types in namespaces whose objects can be listed and patched. Groups whose server is down are left out."""
    groups = await client.get("/apis")
    versions = [one["preferredVersion"]["groupVersion"] for one in groups.get("groups") or ()]
    answers = await _each(client, [("", "/api/v1"), *((one.rpartition("/")[0], f"/apis/{one}") for one in versions)])
    found = []
    for (group, root), answer in answers:
        for one in answer.get("resources") or ():
            name = str(one.get("name"))
            wanted = one.get("namespaced") and {"list", "patch"} <= set(one.get("verbs") or ())
            if wanted and "/" not in name and (group, name) not in _NEVER:
                called = {name, one.get("singularName"), one.get("kind"), *(one.get("shortNames") or ())}
                called |= {b.short for b in BUILT_IN.values() if (b.group, b.resource) == (group, name)}
                called |= {f"{name}.{group}"} if group else set()
                names = frozenset(str(each).lower() for each in called if each)
                found.append(Kind(group, f"{root}/{name}", str(one.get("kind")), name, names))
    return tuple(found)


async def _each(client: Client, roots: list[tuple[str, str]]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(root: tuple[str, str]) -> tuple[tuple[str, str], dict[str, Any]]:
        async with gate:
            try:
                return root, await client.get(root[1])
            except ApiFault as fault:
                if root[0] and (fault.status >= 500 or fault.status in (403, 404)):
                    return root, {}
                raise

    return await asyncio.gather(*map(one, roots))


async def carriers(client: Client, namespace: str = "") -> Found:
    """All of one namespace, or of all. A type that cannot be listed does not keep the others from being found."""
    all_kinds = await kinds(client)
    gate = asyncio.Semaphore(_AT_ONCE)
    unseen: dict[Kind, ApiFault] = {}

    async def of(kind: Kind) -> list[Carrier]:
        async with gate:
            try:
                return await _list(client, kind, namespace)
            except ApiFault as fault:
                if fault.status in (0, 401):
                    raise
                unseen[kind] = fault
                return []

    lists = await asyncio.gather(*map(of, all_kinds))
    found = sorted(
        (one for listed in lists for one in listed), key=lambda one: (one.namespace, str(one.kind), one.name)
    )
    return Found(tuple(found), len(all_kinds) - len(unseen), unseen)


async def carrier(client: Client, kind: Kind, namespace: str, name: str) -> Carrier:
    """One object, whether it carries the finalizer or not. Raises ApiFault, 404 if it is not there."""
    return _carrier(kind, await client.get(f"{within(kind.path, namespace)}/{name}"))


async def release(client: Client, one: Carrier) -> bool:
    """Take the finalizer off; False when it was off already, or the object gone."""
    return await take_off(client, one.path, one.uid, one.finalizers, one.revision)


async def _list(client: Client, kind: Kind, namespace: str) -> list[Carrier]:
    query, found = {"limit": _PAGE}, []
    while True:
        page = page_of(await client.get(within(kind.path, namespace), query))
        found += [one for obj in page.items if (one := _carrier(kind, obj)).carries]
        if not page.more:
            return found
        query["continue"] = page.more


def _carrier(kind: Kind, obj: Mapping[str, Any]) -> Carrier:
    meta = obj["metadata"]
    return Carrier(
        kind,
        str(meta.get("namespace") or ""),
        str(meta["name"]),
        str(meta.get("uid") or ""),
        str(meta.get("resourceVersion") or ""),
        tuple(meta.get("finalizers") or ()),
        str(meta.get("deletionTimestamp") or ""),
    )
