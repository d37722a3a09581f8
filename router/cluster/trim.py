"""What is kept of a Kubernetes object: only that on which routes, readiness or deletion depend.

An object whose heartbeat alone moved then equals itself, and nobody is told; five thousand cost a few megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.cluster.endpoints import SERVICE_NAME
from router.cluster.objects import Object, mapping, mappings, part, text
from router.cluster.resource import ResourceType

WATCH_LABELS = ("iter8.tools/watch", "headgate.dev/watch")

_METADATA = ("name", "namespace", "uid", "generation", "deletionTimestamp", "finalizers")
_ANNOTATIONS = (
    "iter8.tools/weight",
    "serving.kserve.io/deploymentMode",
)
_CONDITION = ("type", "status", "reason", "message", "observedGeneration")
_SPEC: Mapping[str, tuple[str, ...]] = {
    "services": ("ports", "type", "externalName", "publishNotReadyAddresses", "clusterIP"),
    "statefulsets": ("serviceName", "replicas", "updateStrategy"),
    "inferenceservices": ("predictor",),
    "seldondeployments": ("predictors", "transport"),
}
_STATUS: Mapping[str, tuple[str, ...]] = {
    "statefulsets": ("readyReplicas", "updatedReplicas"),
    "inferenceservices": ("url", "components", "deploymentMode"),
    "seldondeployments": ("state", "description"),
}


def labelled(obj: Object) -> bool:
    """Whether a watch label says that headgate may hold the object's deletion up."""
    return any(text(obj, "metadata", "labels", label).lower() == "true" for label in WATCH_LABELS)


def trimmed(kind: ResourceType) -> Callable[[dict[str, Any]], Object]:
    """What to keep of objects of this type."""
    spec, status = _SPEC.get(kind.resource, ()), _STATUS.get(kind.resource, ())

    def keep(obj: dict[str, Any]) -> Object:
        kept: dict[str, Any] = {"metadata": _metadata(obj)}
        if spec and (found := _chosen(obj, spec, "spec")):
            kept["spec"] = found
        said = _chosen(obj, (*status, "observedGeneration"), "status")
        entries = part(obj, "status", "conditions")
        if entries is not None:
            said["conditions"] = [
                {key: one[key] for key in _CONDITION if key in one} if isinstance(one, Mapping) else one
                for one in (entries if isinstance(entries, list) else [entries])
            ]
        if isinstance(obj.get("status"), Mapping):
            kept["status"] = said
        return kept

    return keep


def slice_of_service(obj: dict[str, Any]) -> Object | None:
    """An EndpointSlice's addresses; None for one that belongs to no Service."""
    service = text(obj, "metadata", "labels", SERVICE_NAME)
    if not service:
        return None
    metadata = _metadata(obj)
    metadata["labels"] = {SERVICE_NAME: service}
    return {
        "metadata": metadata,
        "ports": [{key: one.get(key) for key in ("name", "port", "protocol")} for one in mappings(obj, "ports")],
        "endpoints": [
            {
                "addresses": one.get("addresses"),
                "conditions": mapping(one, "conditions"),
                "targetRef": {"uid": text(one, "targetRef", "uid"), "name": text(one, "targetRef", "name")},
            }
            for one in mappings(obj, "endpoints")
        ],
    }


def whole_rollout(obj: dict[str, Any]) -> Object:
    """All of a ModelRollout; of managedFields only who wrote the spec, which history tells."""
    fields = [
        {key: one[key] for key in ("manager", "operation", "time", "subresource") if key in one}
        | ({"fieldsV1": {"f:spec": {}}} if part(one, "fieldsV1", "f:spec") is not None else {})
        for one in mappings(obj, "metadata", "managedFields")
    ]
    return {**obj, "metadata": {**mapping(obj, "metadata"), "managedFields": fields}}


def _metadata(obj: Object) -> dict[str, Any]:
    kept = _chosen(obj, _METADATA, "metadata")
    labels = {label: one for label in WATCH_LABELS if (one := text(obj, "metadata", "labels", label))}
    found = mapping(obj, "metadata", "annotations")
    annotations = {name: found[name] for name in _ANNOTATIONS if name in found}
    return kept | ({"labels": labels} if labels else {}) | ({"annotations": annotations} if annotations else {})


def _chosen(obj: Object, names: tuple[str, ...], under: str) -> dict[str, Any]:
    found = mapping(obj, under)
    return {name: found[name] for name in names if name in found}
