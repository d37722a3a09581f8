"""The kinds a server knows: group, version, names and the habits each kind has when it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kubedouble.types import BUILT_IN

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    status: bool = False
    scale: dict[str, Any] | None = None
    generation: bool = True
    unconditional_update: bool = True
    create_on_update: bool = False
    custom: bool = False
    schema: dict[str, Any] = field(default_factory=dict)
    columns: tuple[dict[str, Any], ...] = ()
    list_kind: str = ""
    storage_version: str = ""
    selectable: tuple[str, ...] = ()
    preserves: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_as(self) -> str:
        version = self.storage_version or self.version
        return f"{self.group}/{version}" if self.group else version

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.plural

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _kind(group: str, version: str, plural: str, kind: str, habits: str = "", **more: Any) -> Resource:
    """`habits`: s = status, g = generation, c = PUT may create, r = PUT needs a resourceVersion, x = cluster-wide."""
    return Resource(
        group,
        version,
        plural,
        kind,
        namespaced="x" not in habits,
        singular=kind.lower(),
        status="s" in habits,
        generation="g" in habits,
        create_on_update="c" in habits,
        unconditional_update="r" not in habits,
        schema=BUILT_IN.get((group, version, kind), {}),
        list_kind=kind + "List",
        **more,
    )


_REPLICAS = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".spec.selector",
}
_ALL = ("all",)
_REVIEW = ("create",)
_RBAC = "rbac.authorization.k8s.io"


def built_in() -> Iterator[Resource]:
    one_by_one = tuple(verb for verb in VERBS if verb != "deletecollection")
    yield _kind("", "v1", "namespaces", "Namespace", "sx", short_names=("ns",), verbs=one_by_one)
    yield _kind("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
    yield _kind("", "v1", "secrets", "Secret")
    yield _kind("", "v1", "services", "Service", "sc", short_names=("svc",), categories=_ALL)
    yield _kind("", "v1", "endpoints", "Endpoints", "c", short_names=("ep",))
    yield _kind("", "v1", "pods", "Pod", "sg", short_names=("po",), categories=_ALL)
    yield _kind("", "v1", "nodes", "Node", "sx", short_names=("no",))
    yield _kind("", "v1", "events", "Event", "c", short_names=("ev",))
    yield _kind("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",))
    yield _kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "s", short_names=("pvc",))
    yield _kind("", "v1", "replicationcontrollers", "ReplicationController", "sg", short_names=("rc",), scale=_REPLICAS)
    yield _kind("", "v1", "resourcequotas", "ResourceQuota", "s", short_names=("quota",))
    yield _kind("", "v1", "limitranges", "LimitRange", "c", short_names=("limits",))
    yield _kind(
        "apps", "v1", "deployments", "Deployment", "sg", short_names=("deploy",), categories=_ALL, scale=_REPLICAS
    )
    yield _kind(
        "apps", "v1", "statefulsets", "StatefulSet", "sg", short_names=("sts",), categories=_ALL, scale=_REPLICAS
    )
    yield _kind("apps", "v1", "replicasets", "ReplicaSet", "sg", short_names=("rs",), categories=_ALL, scale=_REPLICAS)
    yield _kind("apps", "v1", "daemonsets", "DaemonSet", "sg", short_names=("ds",), categories=_ALL)
    yield _kind("batch", "v1", "jobs", "Job", "sg", categories=_ALL)
    yield _kind("batch", "v1", "cronjobs", "CronJob", "sg", short_names=("cj",), categories=_ALL)
    yield _kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "g")
    yield _kind("coordination.k8s.io", "v1", "leases", "Lease", "cr")
    yield _kind("networking.k8s.io", "v1", "ingresses", "Ingress", "sg", short_names=("ing",))
    yield _kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "g", short_names=("netpol",))
    yield _kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "sgr", short_names=("pdb",))
    yield _kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "s", short_names=("hpa",))
    yield _kind("events.k8s.io", "v1", "events", "Event", "c", short_names=("ev",))
    yield _kind(_RBAC, "v1", "roles", "Role", "c")
    yield _kind(_RBAC, "v1", "rolebindings", "RoleBinding", "c")
    yield _kind(_RBAC, "v1", "clusterroles", "ClusterRole", "cx")
    yield _kind(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", "cx")
    yield _kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "gx", short_names=("pc",))
    yield _kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "sgrx",
        short_names=("crd", "crds"),
    )
    yield _kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", "x", verbs=_REVIEW)
    yield _kind("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", "x", verbs=_REVIEW)
    yield _kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", "x", verbs=_REVIEW)
    yield _kind("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", "x", verbs=_REVIEW)
    yield _kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", "x", verbs=_REVIEW)
