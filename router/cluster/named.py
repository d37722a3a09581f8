"""Which resources the versions of a ModelRollout consist of: what its annotation lists, else what its backends name."""

from __future__ import annotations

from router.cluster.resource import RESOURCES, Reference, references
from router.hints import nearest
from router.problem import Problem
from router.schema import KIND, ModelRollout


def named(rollout: ModelRollout) -> tuple[dict[str, tuple[Reference, ...]], tuple[Problem, ...]]:
    """By version. A version that the annotation leaves out consists of the Service that its backend names, if any.

    The Service of a shared server is nobody's own: it says nothing about the version.
    """
    where, namespace = f"{KIND} {rollout.key}", rollout.metadata.namespace
    written = dict(rollout.metadata.annotations).get(RESOURCES)
    listed, problems = references(written, namespace, where) if written is not None else ({}, ())
    versions = [one.name for one in rollout.spec.versions]
    for name in listed:
        if name not in versions:
            near = nearest(name, versions)
            hint = f"did you mean {near!r}?" if near else f"versions are {', '.join(versions)}"
            field = f"metadata.annotations[{RESOURCES}].{name}"
            problems += (Problem(where, field, f"no version is called {name!r}", hint, "warning"),)
    found = {}
    for one in rollout.spec.versions:
        service = one.backend.service
        own: tuple[Reference, ...] = ()
        if service is not None and service.name is not None:
            own = (Reference("svc", service.name, service.namespace or namespace),)
        found[one.name] = listed.get(one.name, own)
    return found, problems
