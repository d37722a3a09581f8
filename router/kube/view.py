"""What the watches know of the cluster, for those who write to it: read-only, always the latest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from router.cluster.resource import Reference


@dataclass(frozen=True, slots=True)
class Resource:
    """One object that versions may consist of, trimmed to what matters for protecting it.

    `path` is the object's URL path at the API server; `labelled` whether it carries a watch label with the value
    "true"; `deleted_at` its deletionTimestamp, empty while nobody deletes it.
    """

    reference: Reference
    api_version: str
    kind: str
    path: str
    uid: str
    revision: str
    finalizers: tuple[str, ...] = ()
    labelled: bool = False
    deleted_at: str = ""


class View(Protocol):
    """`resource` objects are those behind references without their `inside`; models are "namespace/name"."""

    def rollout(self, model: str) -> Mapping[str, Any] | None:
        """The whole ModelRollout as last seen, with status and metadata; None for routemaps, and when it is gone."""
        ...

    def routemap(self, model: str) -> Mapping[str, Any] | None:
        """The ConfigMap that a model comes from (metadata only); None for ModelRollouts."""
        ...

    def resource(self, reference: Reference) -> Resource | None: ...

    def resources(self) -> Iterable[Resource]:
        """All that a version consists of, or that carry our finalizer."""
        ...

    def users(self, reference: Reference) -> frozenset[tuple[str, str]]:
        """(model, version) that consist of it, those that linger included."""
        ...

    def references(self, model: str) -> Mapping[str, tuple[Reference, ...]]:
        """By version; empty for a model that is not there."""
        ...

    def follow_resources(self, changed: Callable[[Reference], None]) -> None:
        """Call `changed` from now on for every resource that changes, or whose users change; begins with all."""
        ...

    def follow_rollouts(self, changed: Callable[[str], None]) -> None:
        """Call `changed` from now on for every model whose object changes or goes; begins with all."""
        ...
