"""What a real API server (1.36) says to requests it does not like, word for word where clients show the words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kubedouble.fixture import Cluster, Refused

CMS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SETS = "/apis/apps/v1/namespaces/default/statefulsets"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GADGETS = "/apis/lab.example.com/v1/namespaces/default/gadgets"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
STRATEGIC, JSON = "application/strategic-merge-patch+json", "application/json"
INVALID, REQUIRED, FORBIDDEN = "FieldValueInvalid", "FieldValueRequired", "FieldValueForbidden"
NOT_SUPPORTED, DUPLICATE, WRONG_TYPE = "FieldValueNotSupported", "FieldValueDuplicate", "FieldValueTypeInvalid"
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}


def config(name: str = "a", data: Any = None, **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": data or {"a": "1"}}


def workload(kind: str = "Deployment", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "d"}, "spec": spec}


def service(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], **spec}}


def secret(**parts: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, **parts}


def endpoint_slice(address: str = "10.0.0.1", **parts: Any) -> dict[str, Any]:
    about = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"}}
    return {**about, "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}], **parts}


def lease(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}


def definition() -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1, "default": 3}
    spec = {"type": "object", "properties": {"size": size, "note": {"type": "string", "nullable": True}}}
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": spec, "status": status}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.lab.example.com"},
        "spec": {
            "group": "lab.example.com",
            "scope": "Namespaced",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def gadget(name: str = "g", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "lab.example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec}


def without(obj: dict[str, Any], *path: Any) -> dict[str, Any]:
    """A copy that lacks the part at a path."""
    result = copy.deepcopy(obj)
    part: Any = result
    for step in path[:-1]:
        part = part[step]
    del part[path[-1]]
    return result


def with_name(obj: dict[str, Any], name: str) -> dict[str, Any]:
    return {**obj, "metadata": {"name": name}}


def refusal(cluster: Cluster, method: str, path: str, body: Any = None, kind: str = JSON) -> Refused:
    with pytest.raises(Refused) as refused:
        cluster.ask(method, path, body, kind=kind)
    return refused.value


def causes(refused: Refused) -> list[tuple[str, str]]:
    return [(cause["field"], cause["reason"]) for cause in refused.body["details"]["causes"]]


@pytest.mark.parametrize(
    ("path", "body", "found", "words"),
    [
        (CMS, config(labels={"a b": "c"}), [("metadata.labels", INVALID)], '"a b": name part must consist of'),
        (CMS, config(labels={"/b": "c"}), [("metadata.labels", INVALID)], '"/b": prefix part must be non-empty'),
        (CMS, config(labels={"a": "no!"}), [("metadata.labels", INVALID)], '"no!": a valid label must be an empty'),
        (CMS, config(labels={"a": "x" * 64}), [("metadata.labels", INVALID)], "must be no more than 63 bytes"),
        (CMS, config(annotations={"a b": "c"}), [("metadata.annotations", INVALID)], '"a b": name part must'),
        (CMS, config("Bad_Name"), [("metadata.name", INVALID)], "a lowercase RFC 1123 subdomain must consist of"),
        (
            CMS,
            config(finalizers=["mine"]),
            [("metadata.finalizers[0]", INVALID)],
            '"mine": name is neither a standard finalizer name nor is it fully qualified',
        ),
        (
            CMS,
            config(ownerReferences=[without(OWNER, "uid")]),
            [("metadata.ownerReferences.uid", INVALID)],
            'metadata.ownerReferences.uid: Invalid value: "": must not be empty',
        ),
        (
            CMS,
            config(ownerReferences=[{**OWNER, "controller": True}, {**OWNER, "name": "y", "controller": True}]),
            [("metadata.ownerReferences", INVALID)],
            'Only one reference can have Controller set to true. Found "true" in references for ConfigMap/x and '
            "ConfigMap/y",
        ),
        (CMS, config(data={"a b": "1"}), [("data[a b]", INVALID)], '"a b": a valid config key must consist of'),
        (CMS, config(data={"..": "1"}), [("data[..]", INVALID)], "must not be '..'"),
        (
            SECRETS,
            secret(type="kubernetes.io/tls"),
            [("data[tls.crt]", REQUIRED), ("data[tls.key]", REQUIRED)],
            "data[tls.crt]: Required value",
        ),
        (
            DEPLOYMENTS,
            workload(replicas=-1),
            [("spec.replicas", INVALID)],
            'Deployment.apps "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
        ),
        (
            DEPLOYMENTS,
            without(workload(), "spec", "selector"),
            [("spec.selector", REQUIRED), ("spec.template.metadata.labels", INVALID)],
            'Invalid value: {"a":"b"}: `selector` does not match template `labels`',
        ),
        (DEPLOYMENTS, workload(selector={}), [("spec.selector", INVALID)], "{}: empty selector is invalid for deploy"),
        (
            DEPLOYMENTS,
            without(workload(), "spec", "template", "spec", "containers", 0, "image"),
            [("spec.template.spec.containers[0].image", REQUIRED)],
            "Required value",
        ),
        (
            DEPLOYMENTS,
            workload(strategy={"type": "Foo"}),
            [("spec.strategy.type", NOT_SUPPORTED)],
            'Unsupported value: "Foo": supported values: "Recreate", "RollingUpdate"',
        ),
        (SETS, workload("StatefulSet", replicas=-1), [("spec.replicas", INVALID)], "-1: must be greater than or equal"),
        (SERVICES, service(ports=[]), [("spec.ports", REQUIRED)], 'Service "s" is invalid: spec.ports: Required value'),
        (SERVICES, service(ports=[{"port": 99999}]), [("spec.ports[0].port", INVALID)] * 1, "must be between 1 and"),
        (
            SERVICES,
            service(ports=[{"port": 80}, {"port": 81}]),
            [("spec.ports[0].name", REQUIRED), ("spec.ports[1].name", REQUIRED)],
            "Required value",
        ),
        (
            SERVICES,
            service(type="Foo"),
            [("spec.type", NOT_SUPPORTED)],
            'supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"',
        ),
        (SLICES, endpoint_slice("127.0.0.1"), [("endpoints[0].addresses[0]", INVALID)], "may not be in the loopback"),
        (SLICES, endpoint_slice("nope"), [("endpoints[0].addresses[0]", INVALID)], "must be a valid IPv4 address"),
        (SLICES, endpoint_slice(endpoints=[{"addresses": []}]), [("endpoints[0].addresses", REQUIRED)], "at least 1"),
        (SLICES, without(endpoint_slice(), "addressType"), [("addressType", REQUIRED)], "Required value"),
        (
            SLICES,
            endpoint_slice(ports=[{"port": 1}, {"port": 2}]),
            [("ports[1].name", DUPLICATE)],
            'Duplicate value: ""',
        ),
        (LEASES, lease(leaseDurationSeconds=0), [("spec.leaseDurationSeconds", INVALID)], "must be greater than 0"),
        (
            CRDS,
            with_name(definition(), "wrong"),
            [("metadata.name", INVALID)],
            '"wrong": must be spec.names.plural+"."+spec.group',
        ),
        (
            CRDS,
            without(definition(), "spec", "versions", 0, "schema"),
            [("spec.versions[0].schema.openAPIV3Schema", REQUIRED)],
            "schemas are required",
        ),
    ],
)
def test_what_is_wrong_is_named_by_field_reason_and_words(cluster: Cluster, path, body, found, words):
    refused = refusal(cluster, "POST", path, body)
    assert (refused.status, refused.body["reason"]) == (422, "Invalid")
    assert [cause for cause in causes(refused) if cause in found] == found
    assert words in refused.body["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            DEPLOYMENTS,
            workload(replicas="3"),
            'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go '
            "struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            CMS,
            config(data={"a": 5}),
            'ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct '
            "field ConfigMap.data of type string",
        ),
        (
            SECRETS,
            secret(data={"a": "not base64!"}),
            'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 3',
        ),
        (
            f"{CMS}?fieldValidation=Strict",
            {**config(), "oops": 1},
            'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "oops"',
        ),
    ],
)
def test_what_cannot_be_read_is_a_bad_request(cluster: Cluster, path, body, message):
    refused = refusal(cluster, "POST", path, body)
    assert (refused.status, refused.body["reason"], refused.body["message"]) == (400, "BadRequest", message)


@pytest.mark.parametrize(
    ("path", "made", "change", "field", "words"),
    [
        (
            DEPLOYMENTS,
            workload(),
            {"spec": {"selector": {"matchLabels": {"a": None, "c": "d"}}}},
            "spec.selector",
            'Invalid value: {"matchLabels":{"c":"d"}}: field is immutable',
        ),
        (
            SETS,
            workload("StatefulSet", serviceName="x"),
            {"spec": {"serviceName": "y"}},
            "spec",
            "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
            "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' "
            "are forbidden",
        ),
        (
            CMS,
            {**config(), "immutable": True},
            {"data": {"a": "2"}},
            "data",
            "Forbidden: field is immutable when `immutable` is set",
        ),
        (SECRETS, secret(immutable=True), {"immutable": None}, "immutable", "field is immutable when `immutable`"),
        (SECRETS, secret(), {"type": "other"}, "type", '"other": field is immutable'),
        (
            SERVICES,
            service(),
            {"spec": {"clusterIP": "10.0.0.77"}},
            "spec.clusterIPs[0]",
            'Invalid value: ["10.0.0.77"]: may not change once set',
        ),
        (SLICES, endpoint_slice(endpoints=[]), {"addressType": "IPv6"}, "addressType", "field is immutable"),
        (CMS, config(), {"metadata": {"uid": "1"}}, "metadata.uid", '"1": field is immutable'),
    ],
)
def test_what_may_not_change_does_not(cluster: Cluster, path, made, change, field, words):
    name = cluster.ask("POST", path, made)["metadata"]["name"]
    refused = refusal(cluster, "PATCH", f"{path}/{name}", change, MERGE)
    assert refused.status == 422
    assert field in [cause for cause, _ in causes(refused)]
    assert words in refused.body["message"]


def test_a_patch_to_something_unreadable_names_no_object(cluster: Cluster):
    cluster.create(workload())
    refused = refusal(cluster, "PATCH", f"{DEPLOYMENTS}/d", {"spec": {"replicas": "x"}}, MERGE)
    assert (refused.status, causes(refused)) == (422, [("patch", INVALID)])
    assert refused.body["message"].startswith(' "" is invalid: patch: Invalid value: "{')


def test_a_service_and_a_secret_are_filled_in(cluster: Cluster):
    made = cluster.create(service())["spec"]
    assert made["clusterIPs"] == [made["clusterIP"]]
    expected = {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    }
    assert {key: made[key] for key in expected} == expected
    assert cluster.create(with_name(service(clusterIP="None"), "h"))["spec"]["clusterIPs"] == ["None"]
    stored = cluster.create(secret(stringData={"a": "b"}))
    assert (stored["data"], stored["type"], "stringData" in stored) == ({"a": "Yg=="}, "Opaque", False)


def test_custom_resources_are_judged_by_their_schema(cluster: Cluster):
    cluster.install_crd(definition())
    made = cluster.create(gadget(size=None, note=None))
    assert made["spec"] == {"size": 3, "note": None}
    refused = refusal(cluster, "POST", GADGETS, gadget("b", size="x"))
    assert causes(refused) == [("spec.size", WRONG_TYPE)]
    assert 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"' in str(refused)
    refused = refusal(cluster, "PATCH", f"{GADGETS}/g?fieldManager=m", gadget(junk=1), APPLY)
    assert refused.status == 500
    assert refused.body["message"] == (
        "failed to create typed patch object (default/g; lab.example.com/v1, Kind=Gadget): .spec.junk: "
        "field not declared in schema"
    )
    assert refusal(cluster, "PATCH", f"{GADGETS}/g", {}, STRATEGIC).status == 415
    labelled = {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "A"}}
    stored = cluster.ask("PATCH", f"{GADGETS}/g/status", labelled, kind=MERGE)
    assert ("labels" in stored["metadata"], stored["status"]) == (False, {"phase": "A"})


def test_the_status_of_a_deployment_takes_annotations_but_no_labels(cluster: Cluster):
    cluster.create(workload())
    change = {"metadata": {"annotations": {"a": "1"}, "labels": {"a": "1"}}, "status": {"replicas": 1}}
    stored = cluster.ask("PATCH", f"{DEPLOYMENTS}/d/status", change, kind=MERGE)
    assert (stored["metadata"].get("annotations"), stored["metadata"].get("labels")) == ({"a": "1"}, None)
    refused = refusal(cluster, "PATCH", f"{DEPLOYMENTS}/d/status", {"status": {"readyReplicas": 2}}, MERGE)
    assert "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas" in str(refused)


def test_foreign_fields_are_fought_for_by_name(cluster: Cluster):
    cluster.ask("POST", f"{CMS}?fieldManager=first", config(data={"a": "1", "b": "1"}))
    refused = refusal(cluster, "PATCH", f"{CMS}/a?fieldManager=second", config(data={"a": "2"}), APPLY)
    assert refused.status == 409
    assert refused.body["message"] == 'Apply failed with 1 conflict: conflict with "first" using v1: .data.a'
    assert causes(refused) == [(".data.a", "FieldManagerConflict")]
    refused = refusal(cluster, "PATCH", f"{CMS}/a?fieldManager=second", config(data={"a": "2", "b": "2"}), APPLY)
    assert refused.body["message"] == (
        'Apply failed with 2 conflicts: conflicts with "first" using v1:\n- .data.a\n- .data.b'
    )
    forced = cluster.ask("PATCH", f"{CMS}/a?fieldManager=z&force=true", config(data={"a": "2"}), kind=APPLY)
    assert [(one["manager"], one["operation"]) for one in forced["metadata"]["managedFields"]] == [
        ("z", "Apply"),
        ("first", "Update"),
    ]


def test_scale_is_a_resource_of_its_own(cluster: Cluster):
    cluster.create(workload())
    scaled = cluster.ask("PATCH", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": 4}}, kind=MERGE)
    assert (scaled["kind"], scaled["spec"]["replicas"], scaled["status"]["selector"]) == ("Scale", 4, "a=b")
    refused = refusal(cluster, "PATCH", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": -4}}, MERGE)
    assert refused.body["message"].startswith('Scale.autoscaling "d" is invalid: spec.replicas: Invalid value: -4')


def test_lists_obey_their_options(cluster: Cluster):
    for name in ("a", "b", "c"):
        cluster.create(config(name, labels={"x": "y"}))
    assert len(cluster.ask("GET", f"{CMS}?limit=1&resourceVersion=0")["items"]) == 3
    assert cluster.ask("GET", f"{CMS}?limit=1")["metadata"]["remainingItemCount"] == 2
    assert "remainingItemCount" not in cluster.ask("GET", f"{CMS}?limit=1&labelSelector=x")["metadata"]
    refused = refusal(cluster, "GET", f"{CMS}?resourceVersionMatch=Exact")
    assert causes(refused) == [("resourceVersionMatch", FORBIDDEN)]
    assert refused.body["message"].startswith('ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden')
    assert refusal(cluster, "GET", f"{CMS}/a?resourceVersion=999999999").body["reason"] == "Timeout"
    assert refusal(cluster, "GET", f"{CMS}?watch=1&resourceVersionMatch=NotOlderThan").status == 422


def test_options_are_judged_as_objects_are(cluster: Cluster):
    refused = refusal(cluster, "POST", f"{CMS}?dryRun=x", config())
    expected = 'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["x"]: supported values: "All"'
    assert refused.body["message"] == expected
    assert causes(refusal(cluster, "POST", f"{CMS}?fieldValidation=x", config())) == [
        ("fieldValidation", NOT_SUPPORTED)
    ]
    assert causes(refusal(cluster, "PATCH", f"{CMS}/a", config(), APPLY)) == [("fieldManager", REQUIRED)]
    cluster.create(config())
    assert causes(refusal(cluster, "DELETE", f"{CMS}/a?propagationPolicy=x")) == [("propagationPolicy", NOT_SUPPORTED)]
    refused = refusal(cluster, "DELETE", f"{CMS}/a", {"preconditions": {"uid": "x"}})
    assert refused.status == 409
    assert "Precondition failed: UID in precondition: x, UID in object meta: " in str(refused)


def test_paths_that_are_none_have_no_status_object(cluster: Cluster):
    for method, path, expected in (
        ("GET", "/apis/nowhere.example", (404, "404 page not found")),
        ("GET", "/api/v1/namespaces/default/gizmos", (404, "404 page not found")),
        ("GET", f"{CMS}/a/status", (404, "404 page not found")),
        ("DELETE", "/api/v1/namespaces", (405, "405: Method Not Allowed")),
    ):
        refused = refusal(cluster, method, path)
        assert (refused.status, refused.body["message"]) == expected


def test_an_object_being_deleted_is_still_in_the_way(cluster: Cluster):
    cluster.create(config(finalizers=["a.b/hold"]))
    cluster.delete("v1", "ConfigMap", "a")
    refused = refusal(cluster, "POST", CMS, config())
    assert refused.body["message"] == 'object is being deleted: configmaps "a" already exists'
    refused = refusal(cluster, "PATCH", f"{CMS}/a", {"metadata": {"finalizers": ["a.b/hold", "a.b/new"]}}, MERGE)
    assert (
        'no new finalizers can be added if the object is being deleted, found new finalizers []string{"a.b/new"}'
        in (refused.body["message"])
    )
    cluster.patch("v1", "ConfigMap", "a", {"metadata": {"finalizers": None}})
    assert cluster.find("v1", "ConfigMap", "a") is None


def test_a_foreground_deletion_keeps_the_object_for_the_collector(cluster: Cluster):
    cluster.create(config())
    shown = cluster.ask("DELETE", f"{CMS}/a?propagationPolicy=Foreground")
    assert shown["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert cluster.get("v1", "ConfigMap", "a")["metadata"]["deletionTimestamp"]


def test_a_terminating_namespace_takes_nothing_new(cluster: Cluster):
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}})
    cluster.create(config(namespace="lab", finalizers=["a.b/hold"]))
    assert cluster.ask("DELETE", "/api/v1/namespaces/lab")["status"]["phase"] == "Terminating"
    refused = refusal(cluster, "POST", "/api/v1/namespaces/lab/configmaps", config("b"))
    assert (refused.status, causes(refused)) == (403, [("metadata.namespace", "NamespaceTerminating")])


def test_lease_times_have_microseconds(cluster: Cluster):
    refused = refusal(cluster, "POST", LEASES, lease(renewTime="2026-01-01T00:00:00Z"))
    assert (refused.status, "parsing time" in str(refused)) == (400, True)
    assert cluster.create(lease(renewTime="2026-01-01T02:00:00.000000+02:00"))["spec"]["renewTime"] == (
        "2026-01-01T00:00:00.000000Z"
    )
