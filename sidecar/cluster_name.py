"""The name of an Envoy's cluster in, the version that it stands for out.

It is `NAMESPACE/MODEL/VERSION`, or `MODEL/VERSION`; behind a `~` may follow for what else than its usual requests the
cluster is, such as mirrored copies (`iris/v2~shadow`). A cluster that several models share is
`shared/HOST:PORT/PROTOCOL`: whose requests are there, their route says, and the answer's header `app-version`.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar import route_name
from sidecar.headers import Headers

_VERSION = "app-version"


def parts(cluster: str) -> dict[str, str]:
    """The `namespace`, `model` and `version`; nothing for a shared cluster, or that of another control plane."""
    found = cluster.split("/")
    if len(found) not in (2, 3) or is_shared(cluster):
        return {}
    named = dict(zip(("namespace", "model", "version")[-len(found) :], found, strict=True))
    return {**named, "version": named["version"].partition("~")[0]}


def is_shared(cluster: str) -> bool:
    """Whether models share it. No namespace, model or version has a colon in its name."""
    first, _, rest = cluster.partition("/")
    return first == "shared" and ":" in rest.partition("/")[0]


def told(name: str, cluster: str, route: Callable[[], str], answer: Callable[[], Headers]) -> str | None:
    """The `namespace`, `model` or `version` of a request here. Only a shared cluster asks for `route` and `answer`."""
    return of_shared(name, route(), answer()) if is_shared(cluster) else parts(cluster).get(name)


def of_shared(name: str, route: str, answer: Headers) -> str | None:
    """The `namespace`, `model` or `version` of a request at a shared cluster, None as long as nobody says.

    `route` is the name that Envoy has for it; `answer` are the headers of the response, if there are some yet.
    """
    if name == "version":
        return answer.get(_VERSION) or None
    namespace, _, model = route_name.read(route).model.partition("/")
    return (namespace if name == "namespace" else model) or None
