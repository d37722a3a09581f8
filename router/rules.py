"""The rules between fields, over the raw mapping, so that they are checked even where single fields are wrong too.

They look only at what has the right shape; the schema complains about the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from router.hints import nearest, unknown_field

Loc = tuple[int | str, ...]

_COMPARISONS = ("exact", "prefix", "suffix", "contains", "regex", "present")
_OBJECT_META = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "generation",
    "generateName",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "ownerReferences",
    "selfLink",
)


class Broken(NamedTuple):
    loc: Loc
    what: str
    hint: str


def broken_rules(raw: Any) -> list[Broken]:
    """Everything that single fields cannot know."""
    found = [*_unknown_metadata(_child(raw, "metadata"))]
    spec = _child(raw, "spec")
    if not isinstance(spec, dict):
        return found
    found += _repeated(spec.get("hosts"), ("spec", "hosts"), "host {} is listed twice", "keep one of them")
    versions = [one for one in enumerate(_items(spec, "versions")) if isinstance(one[1], dict)]
    found += _names(spec, [(index, version.get("name")) for index, version in versions])
    for index, version in versions:
        found += _version(version, ("spec", "versions", index))
    found += _plugins([(index, one) for index, one in enumerate(_items(spec, "plugins")) if isinstance(one, dict)])
    return found


def _unknown_metadata(metadata: Any) -> Iterator[Broken]:
    if isinstance(metadata, dict):
        for name in metadata:
            if name not in _OBJECT_META:
                yield Broken(("metadata", str(name)), *unknown_field(str(name), _OBJECT_META[:4]))


def _names(spec: dict[str, Any], names: list[tuple[int, Any]]) -> Iterator[Broken]:
    seen: dict[str, int] = {}
    for index, name in names:
        if not isinstance(name, str):
            continue
        if name in seen:
            yield Broken(
                ("spec", "versions", index, "name"),
                f"version {name!r} is already the name of spec.versions[{seen[name]}]",
                "give every version its own name",
            )
        seen.setdefault(name, index)
    primary = spec.get("primary")
    if isinstance(primary, str) and seen and primary not in seen:
        near = nearest(primary, list(seen))
        hint = f"did you mean {near!r}?" if near else f"name one of {', '.join(seen)}"
        yield Broken(("spec", "primary"), f"no version is called {primary!r}", hint)
    for index, name in names:
        is_primary = name == primary if isinstance(primary, str) and primary in seen else index == 0
        if is_primary and isinstance(_items(spec, "versions")[index].get("mirror"), dict):
            yield Broken(
                ("spec", "versions", index, "mirror"),
                f"{name!r} is the primary and answers requests itself",
                "give the mirror to a candidate",
            )


def _version(version: dict[str, Any], at: Loc) -> Iterator[Broken]:
    backend, resources = _child(version, "backend"), version.get("resources")
    if isinstance(backend, dict) and resources is not None and all(one is None for one in backend.values()):
        backend = None  # as the parser writes one that was not given
    if isinstance(backend, dict):
        here = (*at, "backend")
        yield from _exactly_one(backend, ("endpoints", "service", "shared"), here)
        yield from _server(backend, here)
        shared = _child(backend, "shared")
        if isinstance(shared, dict):
            yield from _exactly_one(shared, ("endpoints", "service"), (*here, "shared"))
            yield from _server(shared, (*here, "shared"))
    elif backend is None and resources is None:
        yield Broken((*at, "backend"), "is missing", "it is required; in Kubernetes resources will do")
    yield from _repeated(
        version.get("resources"), (*at, "resources"), "resource {} is listed twice", "keep one of them"
    )
    rewrite = _child(version, "rewrite")
    if isinstance(rewrite, dict) and not any(rewrite.get(part) is not None for part in ("host", "path")):
        yield Broken((*at, "rewrite"), "is empty", "give host, path or both")
    readiness = _child(version, "readiness")
    if isinstance(readiness, dict) and backend is None and resources is not None:
        yield Broken((*at, "readiness"), "probes nothing without a backend", "give a backend too, or leave it out")
    if isinstance(readiness, dict):
        yield from _exactly_one(readiness, ("http", "grpc", "tcp"), (*at, "readiness"))
    for index, match in enumerate(_items(version, "match")):
        if isinstance(match, dict):
            yield from _match(match, (*at, "match", index))


def _plugins(plugins: list[tuple[int, dict[str, Any]]]) -> Iterator[Broken]:
    seen: dict[str, int] = {}
    for index, plugin in plugins:
        name = plugin.get("name")
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            what = f"plugin {name!r} is already spec.plugins[{seen[name]}]"
            yield Broken(("spec", "plugins", index, "name"), what, "keep one of them")


def _server(backend: dict[str, Any], at: Loc) -> Iterator[Broken]:
    endpoints = backend.get("endpoints")
    yield from _repeated(endpoints, (*at, "endpoints"), "endpoint {} is listed twice", "keep one of them")
    service = _child(backend, "service")
    if isinstance(service, dict):
        yield from _exactly_one(service, ("name", "host"), (*at, "service"))
        if "host" in service and "namespace" in service:
            yield Broken((*at, "service", "namespace"), "goes with name, not with host", "leave it out")


def _match(match: dict[str, Any], at: Loc) -> Iterator[Broken]:
    if not any(match.get(part) for part in ("path", "method", "headers", "query")):
        yield Broken(at, "is empty and would take every request", "give at least one of path, method, headers, query")
    path = _child(match, "path")
    if isinstance(path, dict):
        yield from _exactly_one(path, ("prefix", "exact", "regex"), (*at, "path"))
    for part in ("headers", "query"):
        for index, one in enumerate(_items(match, part)):
            if isinstance(one, dict):
                yield from _exactly_one(one, _COMPARISONS, (*at, part, index))


def _exactly_one(raw: dict[str, Any], names: tuple[str, ...], at: Loc) -> Iterator[Broken]:
    given = [name for name in names if raw.get(name) is not None]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else f"has none of {', '.join(names)}"
        yield Broken(at, what, f"give exactly one of {', '.join(names)}")


def _repeated(values: Any, at: Loc, what: str, hint: str) -> Iterator[Broken]:
    if not isinstance(values, list | tuple):
        return
    seen = set()
    for index, value in enumerate(values):
        if isinstance(value, str):
            if value in seen:
                yield Broken((*at, index), what.format(repr(value)), hint)
            seen.add(value)


def _child(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else None


def _items(raw: dict[str, Any], name: str) -> list[Any]:
    found = raw.get(name)
    return list(found) if isinstance(found, list | tuple) else []
