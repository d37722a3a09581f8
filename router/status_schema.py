"""The OpenAPI schema of a ModelRollout's status, and the columns of `kubectl get`; crd.py builds both in.

Kubernetes prunes what a schema does not name: every field that router/cluster/status.py writes is listed here.
"""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]


def _text(description: str, **more: Any) -> Node:
    return {"description": description, "type": "string", **more}


def _whole(description: str) -> Node:
    return {"description": description, "type": "integer"}


def _flag(description: str) -> Node:
    return {"description": description, "type": "boolean"}


def _number(description: str) -> Node:
    return {"description": description, "type": "number"}


def _list(description: str, properties: dict[str, Node], *required: str, key: str = "") -> Node:
    """Of mappings; with a `key` Kubernetes tells them apart by that field."""
    by_key = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]} if key else {}
    items = {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}
    return {"description": description, "type": "array", "items": items, **by_key}


def _texts(description: str) -> Node:
    return {"description": description, "type": "array", "items": {"type": "string"}}


_CONDITION = {
    "type": _text("Accepted, Ready, Programmed or Degraded."),
    "status": _text("True, False or Unknown.", enum=["True", "False", "Unknown"]),
    "reason": _text("Why, in one word."),
    "message": _text("Why, in a sentence."),
    "lastTransitionTime": _text("When the status last changed."),
    "observedGeneration": _whole("The generation of the spec that this is about."),
}

_VERSION = {
    "name": _text("Name of the version."),
    "role": _text("primary or candidate."),
    "ready": _flag("Whether it can serve."),
    "reason": _text("Why it can, or cannot."),
    "weight": _number("Its share of the weighted traffic now, in percent."),
    "mirrorPercent": _number("Part of the traffic that it receives copies of, in percent; absent without a mirror."),
    "match": _flag("Whether requests that match its header routes go to it now."),
    "endpoints": _whole("Number of addresses that receive its requests; absent when it is found by a DNS name."),
    "since": _text("When it became ready, or stopped being so."),
}

_LAGGING = {
    "node": _text("The Envoy's node id, or the replica that does not serve the model yet."),
    "why": _text("What it waits for, or Envoy's own words when it rejected what it was sent."),
}

_GATEWAY = {
    "name": _text("Name of the gateway."),
    "envoys": _whole("Envoys that are connected to any replica."),
    "programmed": _whole("Those of them that have applied all that this generation wants."),
    "lagging": _list("Those that have not: at most five.", _LAGGING),
    "unreachable": _texts("Replicas that did not answer, so that nothing is known of their Envoys."),
}

_PROBLEM = {
    "where": _text("The object that it is about."),
    "field": _text("The field, such as spec.versions[1].weight."),
    "what": _text("What is wrong."),
    "hint": _text("What to do."),
    "severity": _text("error or warning."),
}

_HISTORY = {
    "at": _text("When."),
    "by": _text("Who changed the spec; headgate when traffic moved because of a version's readiness."),
    "what": _text("What changed."),
    "why": _text("The reason given."),
    "generation": _whole("The generation of the spec."),
}

_SEEN = {
    "generation": _whole("Its generation."),
    "facts": {
        "description": "A digest of what is worth telling.",
        "type": "object",
        "additionalProperties": {"type": "string"},
    },
    "change": _text("Digest of the change annotation that came with it."),
    "annotated": _text("Weights that the versions' resources put in place of the spec's."),
}

STATUS: Node = {
    "type": "object",
    "description": "What the control plane observed and did; not for editing.",
    "properties": {
        "observedGeneration": _whole("The generation of the spec that this status is about."),
        "conditions": _list(
            "Accepted: the spec can be used. Ready: the primary can serve. Programmed: every connected Envoy has "
            "applied this generation. Degraded: something that should have traffic cannot get it.",
            _CONDITION,
            "type",
            "status",
            "reason",
            "message",
            "lastTransitionTime",
            key="type",
        ),
        "primary": _text("The version that is the primary now; it differs from the spec while the rollout is paused."),
        "traffic": _text("Every version's share, in one line."),
        "envoys": _text("Envoys that have applied this generation, of those that are connected: 2/3."),
        "versions": _list("Every version as it is now.", _VERSION, "name", key="name"),
        "gateways": _list("How far the Envoys have come.", _GATEWAY, "name", key="name"),
        "problems": _list("What somebody should mend: at most twenty.", _PROBLEM),
        "draining": _texts("Traffic that is being drained from versions on their way out."),
        "state": {
            "description": "What the control plane has to remember over a restart; sticky users depend on it.",
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "history": _list("The latest changes, the newest last: at most twenty.", _HISTORY),
        "seen": {
            "description": "The spec of the latest entry of the history, to find out what the next change is.",
            "type": "object",
            "properties": _SEEN,
        },
    },
}


def _column(name: str, path: str, *, kind: str = "string", wide: bool = False) -> Node:
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}


def _of_condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


COLUMNS: list[Node] = [
    _column("Primary", ".status.primary"),
    _column("Traffic", ".status.traffic"),
    _column("Ready", _of_condition("Ready", "status")),
    _column("Programmed", _of_condition("Programmed", "status")),
    _column("Envoys", ".status.envoys"),
    _column("Age", ".metadata.creationTimestamp", kind="date"),
    _column("Strategy", ".spec.strategy", wide=True),
    _column("Hosts", ".spec.hosts", wide=True),
    _column("Gateway", ".spec.gateway", wide=True),
    _column("Reason", _of_condition("Programmed", "reason"), wide=True),
]
"""With `-o wide` come those of priority 1."""
