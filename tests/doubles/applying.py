"""Objects applied to a cluster that takes no unknown field, for trial only, and what it said to each."""

from __future__ import annotations

from typing import Any

from charts import Object, key
from kubedouble.fixture import Cluster, Refused

NOT_SERVED = {"Certificate", "Issuer", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}
"""Of other projects, or not in the double; the chart's tests validate the last by its schema."""

_TRIAL = "?fieldManager=test&force=true&dryRun=All&fieldValidation=Strict"


def applied(cluster: Cluster, objects: list[Object], *namespaces: str) -> dict[tuple[str, str, str], Any]:
    """What was said to each object: None when it would be taken."""
    for name in namespaces:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return {key(one): _said(cluster, one) for one in objects}


def refused(said: dict[tuple[str, str, str], Any]) -> dict[tuple[str, str, str], Any]:
    return {one: why for one, why in said.items() if why is not None and one[0] not in NOT_SERVED}


def _said(cluster: Cluster, one: Object) -> str | None:
    about = one["metadata"]
    try:
        path = cluster.path(one["apiVersion"], one["kind"], about["name"], about.get("namespace", "default"))
        cluster.ask("PATCH", path + _TRIAL, one, kind="application/apply-patch+yaml")
    except (Refused, LookupError) as error:
        return str(error)
    return None
