"""The name of an Envoy's cluster in, the version that it stands for out.

It is `NAMESPACE/MODEL/VERSION`, or `MODEL/VERSION`; behind a `~` may follow for what else than its usual requests the
cluster is, such as mirrored copies (`iris/v2~shadow`).
"""

from __future__ import annotations


def parts(cluster: str) -> dict[str, str]:
    """The `namespace`, `model` and `version`; nothing for the cluster of another control plane."""
    found = cluster.split("/")
    if len(found) not in (2, 3):
        return {}
    named = dict(zip(("namespace", "model", "version")[-len(found) :], found, strict=True))
    return {**named, "version": named["version"].partition("~")[0]}
