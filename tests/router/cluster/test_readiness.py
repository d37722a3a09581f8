"""Whether an object can serve: Iter8's own tables, then what headgate adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.readiness import observed_generation, readiness, version_readiness
from router.cluster.resource import (
    BUILT_IN,
    Reference,
    ResourceType,
    reference,
    resource_types,
)

BAR = ResourceType("foo", "g", "v1", "foos", "Foo", ("bar",))
DEPLOY, ISVC, SDEP, STS, SVC = (BUILT_IN[short] for short in ("deploy", "isvc", "sdep", "sts", "svc"))


def conditioned(*conditions, generation=13, name="iris-v1", **status):
    return {"metadata": {"name": name, "generation": generation}, "status": {"conditions": list(conditions), **status}}


ITER8_ROWS = [
    (None, False),
    (["a", "b"], False),
    ([{"status": "got it"}], False),
    ([{"type": "bar"}], False),
    ([{"type": "bar", "status": "True", "observedGeneration": 12}], False),
    ([{"type": "bar", "status": "False", "observedGeneration": 13}], False),
    ([{"type": "bar", "status": "True", "observedGeneration": 13}], True),
]


@pytest.mark.parametrize(("conditions", "expected"), ITER8_ROWS)
def test_iter8s_table_of_conditions(conditions, expected):
    obj = {"metadata": {"generation": 13}, "status": {"conditions": conditions}}
    assert readiness(BAR, obj).ready is expected


@pytest.mark.parametrize(("own", "status", "expected"), [(1, None, 1), (None, 2, 2), (1, 2, 1), (None, None, None)])
def test_iter8s_table_of_observed_generations(own, status, expected):
    condition = {} if own is None else {"observedGeneration": own}
    obj = {"status": {} if status is None else {"observedGeneration": status}}
    assert observed_generation(obj, condition) == expected


@pytest.mark.parametrize(
    ("kind", "obj", "reason"),
    [
        (DEPLOY, conditioned({"type": "Available", "status": "True"}), "Deployment iris-v1: Available"),
        (DEPLOY, conditioned({"type": "AVAILABLE", "status": "true"}), "Deployment iris-v1: Available"),
        (SVC, {"metadata": {"name": "iris-v1"}}, "Service iris-v1 exists"),
        (SDEP, {"metadata": {"name": "iris"}, "status": {"state": "Available"}}, "SeldonDeployment iris: Available"),
        (
            STS,
            {"metadata": {"name": "db"}, "spec": {"replicas": 2}, "status": {"readyReplicas": 2, "updatedReplicas": 2}},
            "StatefulSet db: 2 of 2 replicas are ready",
        ),
    ],
)
def test_ready_in_plain_words(kind, obj, reason):
    found = readiness(kind, obj)
    assert (found.ready, found.reason) == (True, reason)


@pytest.mark.parametrize(
    ("kind", "obj", "reason"),
    [
        (
            DEPLOY,
            conditioned({"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"}),
            "Deployment iris-v1: condition Available is False (MinimumReplicasUnavailable)",
        ),
        (ISVC, {"metadata": {"name": "a"}}, "InferenceService a: no status yet, waiting for condition Ready"),
        (
            ISVC,
            conditioned({"type": "PredictorReady", "status": "True"}, name="a"),
            "InferenceService a: condition Ready is not reported",
        ),
        (
            ISVC,
            conditioned({"type": "Ready", "status": "True"}, observedGeneration=12, name="a"),
            "InferenceService a: condition Ready is out of date: it is of generation 12, the spec of 13",
        ),
        (
            ISVC,
            conditioned({"type": "Ready", "status": "True", "observedGeneration": "13"}, name="a"),
            "InferenceService a: condition Ready is out of date: observedGeneration is malformed ('13')",
        ),
        (
            ISVC,
            conditioned({"type": "Ready", "status": True}, name="a"),
            "InferenceService a: condition Ready has no status",
        ),
        (ISVC, conditioned("oops", name="a"), "InferenceService a: status.conditions is malformed"),
        (
            ISVC,
            {"metadata": {"name": "a"}, "status": {"conditions": {}}},
            "InferenceService a: status.conditions is not a list",
        ),
        (SVC, {"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, "Service a is being deleted"),
        (
            SDEP,
            {"metadata": {"name": "iris"}, "status": {"state": "Creating", "description": "pulling"}},
            "SeldonDeployment iris: state is Creating (pulling)",
        ),
        (SDEP, {"metadata": {"name": "iris"}}, "SeldonDeployment iris: status.state is not reported"),
        (
            STS,
            {"metadata": {"name": "db"}, "spec": {"replicas": 3}, "status": {"readyReplicas": 1, "updatedReplicas": 3}},
            "StatefulSet db: 1 of 3 replicas are ready",
        ),
        (
            STS,
            {"metadata": {"name": "db"}, "spec": {"replicas": 3}, "status": {"readyReplicas": 3, "updatedReplicas": 1}},
            "StatefulSet db: 1 of 3 replicas are updated",
        ),
        (
            STS,
            {"metadata": {"name": "db"}, "spec": {"replicas": 0}, "status": {"replicas": 0}},
            "StatefulSet db: it is scaled to 0 replicas",
        ),
        (
            STS,
            {
                "metadata": {"name": "db", "generation": 2},
                "status": {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1},
            },
            "StatefulSet db: the status is out of date: it is of generation 1, the spec of 2",
        ),
    ],
)
def test_not_ready_in_plain_words(kind, obj, reason):
    found = readiness(kind, obj)
    assert (found.ready, found.reason) == (False, reason)


def test_a_deletion_mark_wins_over_every_condition():
    obj = conditioned({"type": "Ready", "status": "True", "observedGeneration": 13})
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not readiness(ISVC, obj).ready


def test_a_statefulset_updated_by_hand_or_in_part_is_ready_with_the_replicas_that_are_due():
    status = {"readyReplicas": 3, "updatedReplicas": 1}
    by_hand = {"spec": {"replicas": 3, "updateStrategy": {"type": "OnDelete"}}, "status": status}
    in_part = {"spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}}, "status": status}
    assert readiness(STS, by_hand).ready
    assert readiness(STS, in_part).ready


def test_a_predictor_that_the_deployment_lacks_is_not_ready():
    obj = {
        "metadata": {"name": "iris"},
        "spec": {"predictors": [{"name": "baseline"}]},
        "status": {"state": "Available"},
    }
    assert readiness(SDEP, obj, Reference("sdep", "iris", "ns", "baseline")).ready
    found = readiness(SDEP, obj, Reference("sdep", "iris", "ns", "candidate"))
    assert found.reason == "SeldonDeployment iris: no predictor is called 'candidate' (it has baseline)"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "status", "conditions", "observedGeneration", "state", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.sampled_from([DEPLOY, ISVC, SDEP, STS, BAR]), json_values, json_values)
def test_an_object_of_any_shape_gets_an_answer_and_is_ready_only_with_good_reason(kind, status, spec):
    found = readiness(kind, {"metadata": {"name": "a", "generation": 1}, "status": status, "spec": spec})
    assert found.reason.startswith(kind.kind)
    if found.ready and kind in (DEPLOY, ISVC, BAR):
        assert any(one["status"].lower() == "true" for one in status["conditions"])


# Versions


def objects(**found):
    return lambda one: found.get(one.name)


def test_a_version_is_ready_when_all_its_resources_are():
    resources = (Reference("deploy", "app", "ns"), Reference("svc", "front", "ns"))
    good = conditioned({"type": "Available", "status": "True"}, name="app")
    assert version_readiness(resources, objects(app=good, front={"metadata": {}}), BUILT_IN).ready
    lacking = version_readiness(resources, objects(app=good), BUILT_IN)
    assert (lacking.ready, lacking.reason) == (False, "Service front does not exist")


def test_a_version_without_resources_is_ready_as_in_iter8():
    assert version_readiness((), objects(), BUILT_IN).ready


def test_a_resource_type_that_nobody_configured_is_never_ready():
    found = version_readiness((Reference("ksvc", "a", "ns"),), objects(a={}), BUILT_IN)
    assert (found.ready, found.reason) == (False, "resource type 'ksvc' of ksvc/ns/a is not configured")


def test_a_missing_weight_config_does_not_hold_a_version_up():
    """Iter8's mirror chart lists one for the primary and never creates it, so that the primary was never available."""
    resources = (Reference("svc", "app-0", "ns"), Reference("cm", "app-0-weight-config", "ns"))
    assert version_readiness(resources, objects(**{"app-0": {"metadata": {}}}), BUILT_IN).ready
    assert not version_readiness((Reference("cm", "settings", "ns"),), objects(), BUILT_IN).ready


# Resource types and references


@pytest.mark.parametrize("upper", [True, False])
def test_types_are_added_by_configuration_in_either_spelling(upper):
    fields = {"group": "serving.knative.dev", "version": "v1", "resource": "services"}
    raw = {(key.capitalize() if upper else key): value for key, value in fields.items()} | {"conditions": ["Ready"]}
    types, problems = resource_types({"ksvc": raw})
    assert not problems
    assert types["ksvc"] == ResourceType("ksvc", "serving.knative.dev", "v1", "services", "", ("Ready",))
    assert types["ksvc"].url_path == "/apis/serving.knative.dev/v1/services"
    assert types["svc"] == BUILT_IN["svc"]
    assert types["svc"].url_path == "/api/v1/services"


def test_old_conditions_are_objects():
    types, problems = resource_types(
        {
            "isvc": {
                "Group": "serving.kserve.io",
                "Version": "v1beta1",
                "Resource": "inferenceservices",
                "conditions": [{"name": "Ready", "status": "True"}],
            }
        }
    )
    assert not problems
    assert types["isvc"] == ISVC


def test_every_mistake_in_the_types_is_told_with_its_field():
    types, problems = resource_types(
        {"a": {"Grup": "x", "version": 1}, "b": [], "c": {"version": "v1", "resource": "cs", "conditions": [3]}}
    )
    assert {problem.field for problem in problems} == {
        "resourceTypes.a.Grup",
        "resourceTypes.a.version",
        "resourceTypes.a.resource",
        "resourceTypes.b",
        "resourceTypes.c.conditions[0]",
    }
    assert set(types) == set(BUILT_IN)


names = st.sampled_from(["v1", "v-2", "1", "no", "null", "iris"])


@given(st.builds(Reference, names, names, names, names | st.just("")), names)
def test_a_written_reference_is_read_again(one, namespace):
    assert reference(str(one), "elsewhere") == one
    assert reference(one.written(namespace), namespace) == one


def test_a_reference_may_leave_its_namespace_out():
    assert reference("svc/iris", "prod") == Reference("svc", "iris", "prod")
    assert reference("sdep/a/iris#candidate", "prod") == Reference("sdep", "iris", "a", "candidate")
    assert reference("iris", "prod") is None


def test_one_good_entry_of_a_type_suffices():
    twice = [{"type": "Ready", "status": "False"}, {"type": "ready", "status": "True"}]
    assert readiness(ISVC, conditioned(*twice)).ready


def test_an_observed_generation_of_zero_is_one_too():
    assert observed_generation({"status": {"observedGeneration": 2}}, {"observedGeneration": 0}) == 0
