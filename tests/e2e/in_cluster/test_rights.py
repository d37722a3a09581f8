"""The rights that deploy/ gives are enough for whole journeys, and not one of them is idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubedouble.fixture import NAMESPACE, ROOT, Double

CONTROL_PLANE = f"system:serviceaccount:{NAMESPACE}:headgate"
CRB, CR = "ClusterRoleBinding", "ClusterRole"
RBAC = "rbac.authorization.k8s.io/v1"

Right = tuple[str, str, str]
"""Verb, group and resource."""


def granted(*files: str) -> set[Right]:
    return {
        (verb, group, resource)
        for file in files
        for one in yaml.safe_load_all((ROOT / "deploy/kustomize" / file).read_text())
        if one and one["kind"] in ("Role", CR) and one["metadata"]["name"] in ("headgate", "headgate-leases")
        for rule in one["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


class Witness:
    """Every right that the control plane makes use of, and every refusal."""

    def __init__(self, double: Double) -> None:
        self.used: set[Right] = set()
        self.refused: set[Right] = set()
        authorize = double.api._authorize

        def witnessed(user: Any, verb: str, at: Any) -> None:
            resource = "/".join(filter(None, (at.resource.plural, at.subresource)))
            if user.name == CONTROL_PLANE:
                self.used.add((verb, at.resource.group, resource))
            try:
                authorize(user, verb, at)
            except Exception:
                if user.name == CONTROL_PLANE:
                    self.refused.add((verb, at.resource.group, resource))
                raise

        double.api._authorize = witnessed  # type: ignore[method-assign]


@pytest.fixture
def api(tmp_path: Any) -> Iterator[Double]:
    """The double: no other server says which rights were used."""
    found = Double(tmp_path, loopback_endpoints=True)
    try:
        found.install()
        yield found
    finally:
        found.close()


def custom(group: str, version: str, kind: str) -> dict[str, Any]:
    plural = kind.lower() + "s"
    free = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": free}],
        },
    }


async def journey(rig: Any, namespace: str) -> None:
    """A version of every kind; one of them is deleted and drained. A second replica comes and goes.

    Somebody else writes first once, so that every kind has to be looked at.
    """
    meta = {"namespace": namespace, "labels": {"headgate.dev/watch": "true"}}
    for name in ("v1", "v2"):
        await rig.deployment(name, namespace=namespace)
    rig.rollout("v1", "v2", namespace=namespace)
    pod = {"metadata": {"labels": {"app": "set"}}, "spec": {"containers": [{"name": "m", "image": "m"}]}}
    spec = {"serviceName": "v1", "selector": {"matchLabels": {"app": "set"}}, "template": pod}
    predictors = {"predictors": [{"name": "main"}]}
    kinds = {
        "sts/set": {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec},
        "sdep/sel": {"apiVersion": "machinelearning.seldon.io/v1", "kind": "SeldonDeployment", "spec": predictors},
        "isvc/inf": {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": {}},
    }
    names = {}
    for reference, obj in kinds.items():
        short, name = reference.split("/")
        names[obj["kind"]] = name
        rig.apply({**obj, "metadata": {**meta, "name": name}})
        rig.rollout("main", name=short, namespace=namespace, versions=[{"name": "main", "resources": [reference]}])
    for part in ("deployments", "services", "statefulsets", "seldondeployments", "inferenceservices", "modelrollouts"):
        rig.api.faults.answer(
            409, matches=lambda asked, part=part: asked.method == "PATCH" and f"/{part}/" in asked.path
        )
    own = {} if namespace != NAMESPACE else {"namespace": namespace}
    await rig.plane(**own)
    second = await rig.plane(**own)
    await rig.envoy("e1", rig.planes[0].xds_port)
    await rig.programmed(f"{namespace}/iris", v1=50, v2=50)
    for obj in kinds.values():
        found = (
            obj["apiVersion"],
            obj["kind"],
            {"StatefulSet": "set", "SeldonDeployment": "sel"}.get(obj["kind"], "inf"),
        )
        await rig.until(lambda found=found: rig.api.get(*found, namespace)["metadata"].get("finalizers"), str(found))
    rig.api.delete("apps/v1", "Deployment", "v2", namespace)
    await rig.until(lambda: rig.api.find("apps/v1", "Deployment", "v2", namespace) is None, "v2 drained")
    await rig.programmed(f"{namespace}/iris", v1=100)
    await rig.stop(second)


IDLE = {("patch", "", "events")}
"""May go unused in these journeys: an Event that happens again is counted (tests/router/kube/test_events.py)."""


def test_in_the_whole_cluster_no_right_is_lacking_and_none_is_idle(rig: Any, api: Double) -> None:
    witness = Witness(api)
    api.install_crd(custom("machinelearning.seldon.io", "v1", "SeldonDeployment"))

    async def body(rig: Any) -> None:
        await journey(rig, "default")

    rig(body)
    assert not witness.refused
    given = granted("base/control-plane.yaml", "overlays/cluster/rbac.yaml")
    assert given - witness.used <= IDLE


def test_in_one_namespace_a_role_is_enough(rig: Any, api: Double) -> None:
    for kind in (CRB, CR):
        api.delete(RBAC, kind, "headgate")
    for one in yaml.safe_load_all((ROOT / "deploy/kustomize/overlays/namespaced/rbac.yaml").read_text()):
        if one and one["kind"] in ("Role", "RoleBinding"):
            one["metadata"]["namespace"] = NAMESPACE
            api.apply(one)
    witness = Witness(api)
    api.install_crd(custom("machinelearning.seldon.io", "v1", "SeldonDeployment"))

    async def body(rig: Any) -> None:
        await journey(rig, NAMESPACE)

    rig(body)
    assert not witness.refused
    assert not [one for kind in (CRB, CR) for one in api.list(RBAC, kind) if one["metadata"]["name"] == "headgate"]
    assert granted("base/control-plane.yaml", "overlays/namespaced/rbac.yaml") - witness.used <= IDLE
