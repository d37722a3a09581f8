"""Rights: what the control plane watches and writes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from charts import NAMESPACE, VALUES, Object, is_hook, key, named, of_kind, render
from kubedouble import ApiServer, User
from kubedouble.rbac import Action, allowed

from router.cluster.resource import BUILT_IN

Right = tuple[str, str, str]
"""Group, resource, verb."""

READ = ("get", "list", "watch")
NOT_WRITTEN = {("", "configmaps"), ("discovery.k8s.io", "endpointslices")}  # so that no conflict has to be looked into
UNUSED = {"vs", "httproute"}  # Iter8's short names of what it wrote; routemaps may name them, we read none of them


def rights(rules: Iterable[Object]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def watched() -> set[tuple[str, str]]:
    return {(one.group, one.resource) for short, one in BUILT_IN.items() if short not in UNUSED} | {
        ("discovery.k8s.io", "endpointslices")
    }


def test_it_reads_what_it_watches_and_writes_finalizers_status_and_events() -> None:
    got = rights(named(render(), "ClusterRole", "headgate")["rules"])
    protected = {("", "services"), ("apps", "deployments"), ("apps", "statefulsets")} | {
        ("serving.kserve.io", "inferenceservices"),
        ("machinelearning.seldon.io", "seldondeployments"),
    }
    reads = {(*what, verb) for what in watched() for verb in READ} - {(*what, "get") for what in NOT_WRITTEN}
    writes = {(*what, "patch") for what in protected}
    others = {("headgate.dev", "modelrollouts/status", "patch"), ("", "events", "create"), ("", "events", "patch")}
    assert got == reads | writes | others


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_nothing_is_given_by_a_wildcard_and_no_secret_is_read(values: Object) -> None:
    for one in render(values):
        for group, resource, verb in rights(one.get("rules") or ()):
            assert "*" not in (group, resource, verb), key(one)
            assert resource not in ("secrets", "pods", "pods/exec"), key(one)
            assert verb not in ("escalate", "bind", "impersonate"), key(one)


def test_leases_are_its_own_namespaces_only() -> None:
    for name, values in VALUES.items():
        objects = render(values)
        with_leases = [one for one in objects if ("leases" in str(one.get("rules")))]
        assert [key(one) for one in with_leases] == [("Role", "headgate", "headgate-leases")], name


def test_a_configured_kind_brings_its_rights() -> None:
    role = named(render(VALUES["everything"]), "ClusterRole", "headgate")
    more = rights(role["rules"]) - rights(named(render(), "ClusterRole", "headgate")["rules"])
    kinds = (("serving.knative.dev", "services"), ("example.com", "models"))
    assert more == {(*kind, verb) for kind in kinds for verb in (*READ, "patch")}


def test_namespaced_has_no_object_of_the_cluster() -> None:
    objects = render(VALUES["namespaced"])
    assert not [key(one) for one in objects if not one["metadata"].get("namespace")]
    assert not [key(one) for one in objects if one["kind"].startswith("Cluster")]


def test_namespaced_has_the_same_rights_in_one_namespace() -> None:
    objects = render(VALUES["namespaced"])
    (role,) = [one for one in of_kind(objects, "Role") if key(one) == ("Role", "models", "headgate")]
    assert role["rules"] == named(render(), "ClusterRole", "headgate")["rules"]
    (binding,) = [one for one in of_kind(objects, "RoleBinding") if key(one)[1:] == ("models", "headgate")]
    assert binding["subjects"][0]["namespace"] == "headgate"


def test_the_uninstall_job_reads_and_patches_and_nothing_else() -> None:
    controller = rights(named(render(), "ClusterRole", "headgate")["rules"])
    (job,) = [one for one in of_kind(render(), "ClusterRole") if is_hook(one)]
    assert rights(job["rules"]) < controller
    patched = {(group, resource) for group, resource, verb in rights(job["rules"]) if verb == "patch"}
    finalized = {(g, r) for g, r, verb in controller if verb == "patch"}
    assert patched == finalized - {("headgate.dev", "modelrollouts/status"), ("", "events")}


def test_people_get_their_rights_with_the_usual_roles() -> None:
    view, edit = (named(render(), "ClusterRole", f"headgate-{role}") for role in ("view", "edit"))
    labels = "rbac.authorization.k8s.io/aggregate-to-"
    assert {name for name in view["metadata"]["labels"] if name.startswith(labels)} == {
        f"{labels}{role}" for role in ("view", "edit", "admin")
    }
    assert {name for name in edit["metadata"]["labels"] if name.startswith(labels)} == {
        f"{labels}{role}" for role in ("edit", "admin")
    }
    assert {verb for _, _, verb in rights(view["rules"])} == set(READ)
    assert {verb for _, _, verb in rights(edit["rules"])} == {"create", "update", "patch", "delete", "deletecollection"}
    assert {(group, resource) for group, resource, _ in rights(edit["rules"])} == {("headgate.dev", "modelrollouts")}


def test_two_releases_in_two_namespaces_share_no_object_of_the_cluster() -> None:
    first, second = (
        {key(one) for one in render(namespace=namespace) if not one["metadata"].get("namespace")}
        for namespace in ("one", "two")
    )
    assert first
    assert not first & second


# Bound to whom


class Cluster:
    """A release's Roles and bindings, asked as the API server asks them."""

    def __init__(self, values: Object, *, uninstalling: bool = False) -> None:
        self._server = ApiServer()
        for name in (NAMESPACE, "models", "other"):
            self._server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for one in render(values):
            if one["apiVersion"].startswith("rbac.") and is_hook(one) is uninstalling:
                self._server.create(one)

    def may(
        self, account: str, verb: str, group: str, resource: str, namespace: str = "", subresource: str = ""
    ) -> bool:
        user = User.service_account(NAMESPACE, account)
        return allowed(self._server.storage, user, Action(verb, group, resource, namespace, "", subresource))


def test_the_control_plane_may_watch_all_namespaces_and_meets_in_its_own() -> None:
    cluster = Cluster({})
    for group, resource in watched():
        assert all(cluster.may("headgate", verb, group, resource) for verb in ("list", "watch")), resource
    assert cluster.may("headgate", "patch", "headgate.dev", "modelrollouts", "other", "status")
    assert not cluster.may("headgate", "patch", "headgate.dev", "modelrollouts", "other")
    assert cluster.may("headgate", "update", "coordination.k8s.io", "leases", NAMESPACE)
    assert not cluster.may("headgate", "update", "coordination.k8s.io", "leases", "other")
    assert not cluster.may("headgate", "delete", "serving.kserve.io", "inferenceservices", "other")
    assert not cluster.may("headgate-gateway", "list", "headgate.dev", "modelrollouts")


def test_namespaced_it_sees_one_namespace() -> None:
    cluster = Cluster({"scope": "namespaced", "watchNamespace": "models"})
    for group, resource in watched():
        assert all(cluster.may("headgate", verb, group, resource, "models") for verb in ("list", "watch")), resource
        assert not cluster.may("headgate", "list", group, resource, "other")
        assert not cluster.may("headgate", "list", group, resource)
    assert cluster.may("headgate", "create", "", "events", "models")
    assert cluster.may("headgate", "create", "coordination.k8s.io", "leases", NAMESPACE)
    assert not cluster.may("headgate", "create", "coordination.k8s.io", "leases", "models")


@pytest.mark.parametrize("scope", ["cluster", "namespaced"])
def test_while_uninstalling_only_the_job_may_write(scope: str) -> None:
    cluster = Cluster({"scope": scope}, uninstalling=True)
    assert cluster.may("headgate-uninstall", "patch", "serving.kserve.io", "inferenceservices", NAMESPACE)
    assert cluster.may("headgate-uninstall", "list", "apps", "deployments", NAMESPACE)
    assert not cluster.may("headgate", "patch", "serving.kserve.io", "inferenceservices", NAMESPACE)
    assert not cluster.may("headgate", "update", "coordination.k8s.io", "leases", NAMESPACE)
