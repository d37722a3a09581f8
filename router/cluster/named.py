"""Which resources the versions of a ModelRollout consist of: those that it lists, else what its backends name."""

from __future__ import annotations

from router.cluster.resource import Reference, reference
from router.schema import ModelRollout


def named(rollout: ModelRollout) -> dict[str, tuple[Reference, ...]]:
    """By version. A version that lists none consists of the Service that its backend names, if any.

    The Service of a shared server is nobody's own: it says nothing about the version.
    """
    namespace = rollout.metadata.namespace
    found = {}
    for one in rollout.spec.versions:
        service = one.backend.service
        own: tuple[Reference, ...] = ()
        if service is not None and service.name is not None:
            own = (Reference("svc", service.name, service.namespace or namespace),)
        listed = [reference(each, namespace) for each in one.resources or ()]
        found[one.name] = tuple(each for each in listed if each is not None) or own
    return found
