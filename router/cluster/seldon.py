"""The predictors of one SeldonDeployment as versions: their shares of the traffic, and which get copies."""

from __future__ import annotations

from dataclasses import dataclass

from router.cluster.objects import Object, mappings, text, whole
from router.cluster.resource import Reference


@dataclass(frozen=True, slots=True)
class Predictor:
    """`traffic` is the weight, or for a shadow the percentage of the copy."""

    name: str
    resource: Reference
    traffic: int
    shadow: bool


def predictors(deployment: Object) -> tuple[Predictor, ...]:
    """In their order. A lone one gets everything; otherwise silence means no traffic, as in Seldon."""
    name, namespace = text(deployment, "metadata", "name"), text(deployment, "metadata", "namespace") or "default"
    listed = [one for one in mappings(deployment, "spec", "predictors") if text(one, "name")]
    found = []
    for one in listed:
        traffic = whole(one, "traffic")
        shadow = one.get("shadow") is True
        silent = 100 if len(listed) == 1 or shadow else 0
        own = text(one, "name")
        resource = Reference("sdep", name, namespace, own)
        found.append(Predictor(own, resource, silent if traffic is None else traffic, shadow))
    return tuple(found)
