"""Which resources are served now: the built-in ones and those of the installed CRDs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubedouble import crd
from kubedouble.resource import Resource, built_in


class Registry:
    def __init__(self) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        self._custom: dict[str, list[Resource]] = {}
        for resource in built_in():
            self._add(resource)

    def _add(self, resource: Resource) -> None:
        self._resources[resource.group, resource.version, resource.plural] = resource

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        return next((r for r in self if r.api_version == api_version and r.kind == kind), None)

    def of_key(self, key: tuple[str, str]) -> Resource | None:
        return next((r for r in self if r.key == key), None)

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._resources.values()))

    def groups(self) -> list[str]:
        return list(dict.fromkeys(resource.group for resource in self))

    def versions(self, group: str) -> list[str]:
        found = dict.fromkeys(resource.version for resource in self if resource.group == group)
        return sorted(found, key=crd.priority)

    def install(self, definition: dict[str, Any]) -> None:
        self.uninstall(definition["metadata"]["name"])
        self._custom[definition["metadata"]["name"]] = crd.resources(definition)
        for resource in self._custom[definition["metadata"]["name"]]:
            self._add(resource)

    def uninstall(self, name: str) -> tuple[str, str] | None:
        """Stop serving a CRD's resources; what is left is the key its objects are stored under."""
        gone = self._custom.pop(name, [])
        for resource in gone:
            self._resources.pop((resource.group, resource.version, resource.plural), None)
        return gone[0].key if gone else None
