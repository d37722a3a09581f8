"""The values of Iter8's charts as manifests for headgate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.named import named
from router.cluster.resource import BUILT_IN, Reference, reference
from router.cluster.rollout import reweighted
from router.cluster.template import render
from router.cluster.weight import override
from router.manifests import read
from router.policy import wishes
from router.schema import ModelRollout
from router.weights import share


def mesh(strategy, action="initialize-rollout", **more):
    return {
        "templateName": action,
        "targetEnv": "kserve-modelmesh",
        "trafficStrategy": strategy,
        "modelName": "wisdom",
        **more,
    }


def made(values, **options):
    rendered = render(values, **options)
    assert not [one for one in rendered.problems if one.severity == "error"], rendered.problems
    return rendered.documents


def of_kind(documents, kind):
    return [one for one in documents if one["kind"] == kind]


def rollout(values, **options) -> ModelRollout:
    (raw,) = of_kind(made(values, **options), "ModelRollout")
    found = read(raw, "rendered")
    assert isinstance(found, ModelRollout), found
    return found


def resources(found):
    return named(found)


def overrides(documents):
    """What a control plane would read from applied weight-configs, by version."""
    found = {}
    for one in of_kind(documents, "ConfigMap"):
        name = one["metadata"]["name"].removesuffix("-weight-config")
        found[name] = override([(Reference("cm", name, one["metadata"]["namespace"]), one)])[0]
    return {name: weight for name, weight in found.items() if weight is not None}


def shares(found, ready):
    return share({one.name: one.weight for one in wishes(found)}, ready, found.primary.name)


# The tutorials, step by step


def test_the_blue_green_tutorial():
    start = made(mesh("blue-green"))
    found = rollout(mesh("blue-green"))
    assert found.key == "modelmesh-serving/wisdom"
    assert found.spec.hosts[0] == "wisdom.modelmesh-serving"
    assert [one.selecting_headers for one in found.spec.versions] == [
        (("mm-vmodel-id", "wisdom-0"),),
        (("mm-vmodel-id", "wisdom-1"),),
    ]
    assert overrides(start) == {}
    assert shares(found, {"wisdom-0"}) == {"wisdom-0": 10_000}
    assert shares(found, {"wisdom-0", "wisdom-1"}) == {"wisdom-0": 5_000, "wisdom-1": 5_000}
    modified = made(mesh("blue-green", "modify-weights", modelVersions=[{"weight": 20}, {"weight": 80}]))
    assert overrides(modified) == {"wisdom-0": 20, "wisdom-1": 80}
    after, _ = reweighted(found, overrides(modified))
    assert shares(after, {"wisdom-0", "wisdom-1"}) == {"wisdom-0": 2_000, "wisdom-1": 8_000}


def test_the_mirror_tutorial():
    found = rollout(mesh("mirror"))
    assert [one.mirror and one.mirror.percent for one in wishes(found)] == [None, 100]
    modified = made(mesh("mirror", "modify-weights", mirrorPercentage=20))
    assert [one["metadata"]["name"] for one in modified] == ["wisdom-1-weight-config"]
    after, _ = reweighted(found, overrides(modified))
    assert [one.mirror and one.mirror.percent for one in wishes(after)] == [None, 20]


def test_the_canary_tutorial():
    found = rollout(mesh("canary"))
    header = found.spec.versions[1].match[0].headers[0]
    assert (header.name, header.exact) == ("traffic", "test")
    match = [{"headers": {"x-team": {"prefix": "r"}}, "uri": {"exact": "/v2/a"}}]
    given_match = rollout(mesh("canary", modelVersions=[{}, {"match": match}])).spec.versions[1].match[0]
    assert (given_match.headers[0].prefix, given_match.path.exact) == ("r", "/v2/a")


def test_modifying_changes_only_objects_that_initialising_made():
    """So that `kubectl delete` with the initial values leaves nothing behind."""
    names = [
        {(one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in made(values)}
        for values in (
            mesh("blue-green"),
            mesh("blue-green", "modify-weights", modelVersions=[{"weight": 1}, {"weight": 2}]),
        )
    ]
    assert names[1] < names[0]


@pytest.mark.parametrize(
    ("environment", "version", "service", "listed"),
    [
        ("kserve", {}, ("wisdom-0-predictor", 80), ["isvc/team/wisdom-0"]),
        ("kserve-0.10", {}, ("wisdom-0-predictor-default", 80), ["isvc/team/wisdom-0"]),
        ("deployment", {"port": 8080}, ("wisdom-0", 8080), ["svc/team/wisdom-0", "deploy/team/wisdom-0"]),
        ("seldon", {}, ("wisdom-0-default", 8000), ["sdep/team/wisdom-0#default"]),
        ("seldon", {"predictor": "baseline"}, ("wisdom-baseline", 8000), ["sdep/team/wisdom#baseline"]),
    ],
)
def test_every_environment(environment, version, service, listed):
    values = mesh("canary", modelVersions=[version, {"name": "other"}]) | {"targetEnv": environment}
    found = rollout(values, namespace="team")
    first = found.spec.versions[0]
    assert (first.backend.service.name, first.backend.service.port) == service
    assert list(map(str, resources(found)[first.name])) == listed
    assert {one.short for every in resources(found).values() for one in every} <= set(BUILT_IN)


def test_routing_actions_say_the_same_in_other_words():
    values = {
        "action": "initialize",
        "appType": "deployment",
        "strategy": "blue-green",
        "appName": "app",
        "appPort": 9000,
    }
    assert rollout(values).spec.versions[1].backend.service.port == 9000
    modified = values | {"action": "modify-weights", "appVersions": [{"weight": 1}, {"weight": 3}]}
    assert overrides(made(modified)) == {"app-0": 1, "app-1": 3}


# The release chart


def release(environment="deployment-istio", strategy="blue-green", versions=({}, {}), **more):
    return {
        "environment": environment,
        "application": {
            "metadata": {"name": "app", "namespace": "team"},
            "strategy": strategy,
            "modelFormat": "sklearn",
            "versions": [{"image": "a:1", "storageUri": "s3://a", **one} for one in versions],
        },
        **more,
    }


def test_a_release_of_deployments():
    documents = made(release(versions=[{"port": 8080, "metadata": {"labels": {"v": "0"}}}, {}]))
    assert [one["kind"] for one in documents] == [
        "Deployment", "Service", "Deployment", "Service", "ModelRollout", "ConfigMap", "ConfigMap",
    ]  # fmt: skip
    assert documents[0]["metadata"]["labels"] == {"v": "0", "iter8.tools/watch": "true"}
    assert documents[0]["spec"]["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 8080}]
    assert documents[1]["spec"] == {"selector": {"app": "app-0"}, "ports": [{"port": 8080}]}
    assert {one["metadata"]["namespace"] for one in documents} == {"team"}


@pytest.mark.parametrize("environment", ["kserve", "kserve-0.11", "kserve-0.10", "kserve-modelmesh-istio"])
def test_a_release_of_inference_services(environment):
    first = of_kind(made(release(environment)), "InferenceService")[0]
    assert first["spec"]["predictor"]["model"] == {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://a"}
    mode = first["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
    assert (mode == "ModelMesh") is (environment == "kserve-modelmesh-istio")
    assert first["spec"]["predictor"].get("minReplicas") == (None if mode else 1)


def test_a_specification_of_ones_own_goes_through_as_it_is():
    spec = {"metadata": {"name": "mine", "labels": {"iter8.tools/watch": "false"}}, "spec": {"predictor": {"x": 1}}}
    documents = made(release("kserve", versions=[{"inferenceServiceSpecification": spec}]))
    assert documents[0]["spec"] == {"predictor": {"x": 1}}
    assert documents[0]["metadata"] == {"name": "mine", "namespace": "team", "labels": {"iter8.tools/watch": "true"}}
    assert of_kind(documents, "ModelRollout")[0]["spec"]["versions"][0]["name"] == "mine"


# The charts' defects, which must not come back


def test_the_weight_annotation_takes_effect_though_its_configmap_is_listed_last():
    found = rollout(release())
    listed = resources(found)["app-1"]
    assert listed[-1].name == "app-1-weight-config"
    annotated = {"metadata": {"annotations": {"iter8.tools/weight": "80"}}}
    assert override([(one, annotated if one.short == "cm" else {}) for one in listed]) == (80, ())


def test_a_mirror_lists_no_weight_config_for_the_primary():
    found = rollout(release(strategy="mirror"))
    assert [one.short for one in resources(found)["app-0"]] == ["svc", "deploy"]
    assert [one["metadata"]["name"] for one in of_kind(made(release(strategy="mirror")), "ConfigMap")] == [
        "app-1-weight-config"
    ]


@pytest.mark.parametrize("environment", ["deployment-gtw", "deployment-istio", "kserve", "kserve-modelmesh-istio"])
def test_an_unready_candidate_gets_nothing_in_any_environment(environment):
    assert shares(rollout(release(environment)), {"app-0"}) == {"app-0": 10_000}


@pytest.mark.parametrize("key", ["match", "matches"])
def test_a_gateway_canary_has_a_match_under_either_name_and_by_default(key):
    gateway_match = {key: [{"headers": [{"name": "x", "value": "y"}]}]}
    found = rollout(release("deployment-gtw", "canary", versions=[{}, gateway_match, {}]))
    assert [one.match[0].headers[0].name for one in found.spec.versions[1:]] == ["x", "traffic"]


def test_with_three_versions_the_weights_are_whole_whoever_is_ready():
    found = rollout(release(versions=[{"weight": 60}, {"weight": 30}, {"weight": 10}]))
    assert shares(found, {"app-0", "app-2"}) == {"app-0": 9_000, "app-2": 1_000}


def test_the_service_of_modelmesh_can_be_named_for_every_version():
    found = rollout(release("kserve-modelmesh-istio", service={"host": "mesh.example.com", "port": 9000}))
    servers = [one.backend.shared.service for one in found.spec.versions]
    assert [(one.host, one.port) for one in servers] == [("mesh.example.com", 9000)] * 2


def test_a_weight_of_zero_is_possible():
    assert rollout(release(versions=[{"weight": 1}, {"weight": 0}])).spec.versions[1].weight == 0
    assert rollout(mesh("blue-green", modelVersions=[{"weight": 1}, {"weight": 0}])).spec.versions[1].weight == 0


def test_the_port_is_the_services_own_in_every_environment():
    values = release("deployment-gtw", versions=[{"port": 8080}])
    service = of_kind(made(values), "Service")[0]
    assert service["spec"]["ports"][0]["port"] == rollout(values).spec.versions[0].backend.service.port == 8080


@pytest.mark.parametrize("form", [{"spec": {"ports": [{"port": 9090}]}}, {"ports": [{"port": 9090}]}])
def test_the_port_of_a_service_specification_wins(form):
    values = release(versions=[{"port": 80, "serviceSpecification": form}])
    assert rollout(values).spec.versions[0].backend.service.port == 9090
    assert of_kind(made(values), "Service")[0]["spec"]["ports"] == [{"port": 9090}]


def test_weight_configs_are_where_their_versions_are():
    values = release(versions=[{}, {"metadata": {"namespace": "elsewhere"}}])
    for documents in (made(values), made(mesh("blue-green", modelVersions=[{}, {"namespace": "elsewhere"}]))):
        assert [one["metadata"]["namespace"] for one in of_kind(documents, "ConfigMap")][1] == "elsewhere"
        (raw,) = of_kind(documents, "ModelRollout")
        listed = [reference(one, "x") for one in raw["spec"]["versions"][1]["resources"]]
        assert {one.namespace for one in listed} == {"elsewhere"}


@pytest.mark.parametrize("environment", ["deployment-gtw", "kserve", "kserve-modelmesh-istio"])
def test_a_mirror_works_everywhere_and_an_unknown_strategy_nowhere(environment):
    assert wishes(rollout(release(environment, "mirror")))[1].mirror.percent == 50
    (problem,) = render(release(environment, "bluegreen")).problems
    assert problem.what == f"unknown or invalid application strategy (bluegreen) for environment ({environment})"
    assert problem.hint == "did you mean 'blue-green'?"


# Mistakes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["templateName is required", "Unknown trafficStrategy", "modelName is required"]),
        (mesh("red-black"), ["Unknown trafficStrategy"]),
        (mesh("blue-green", "modify-weights"), ["modelVersions is required"]),
        (mesh("canary", "modify-weights"), ["canary has no weights to modify"]),
        (mesh("mirror", mirrorPercentage=120), ["120 is out of range"]),
        (mesh("mirror", "modify-weights", mirrorPercentage=12.5), ["must be a whole number, not 12.5"]),
        (
            mesh("blue-green", modelVersions=[{"weight": "x"}, 3]),
            ["must be a mapping, not 3", "must be a whole number, not 'x'"],
        ),
        ({"application": {}}, ["environment is required", "is missing"]),
        ({"environment": "kserve"}, ["application is required"]),
        ({"environment": "x", "application": {"versions": [{}]}}, ["Unknown environment: 'x'"]),
        (
            {"environment": "deployment", "application": {"versions": [{}]}},
            ["missing field: image required when deploymentSpecification absent"],
        ),
        (
            {"environment": "kserve", "application": {"versions": [{}]}},
            [
                "missing field: storageUri required when inferenceServiceSpecification absent",
                "missing field: modelFormat required when inferenceServiceSpecification absent",
            ],
        ),
        (
            mesh("canary", modelVersions=[{}, {"match": [{"gateways": ["x"]}]}]),
            ["matching on gateways is not supported"],
        ),
        ([], ["the values are not a mapping"]),
    ],
)
def test_every_mistake_is_told_and_nothing_is_rendered(values, expected):
    rendered = render(values)
    assert rendered.documents == ()
    assert sorted(one.what for one in rendered.problems) == sorted(expected)


def test_a_misspelt_value_is_a_warning():
    rendered = render(mesh("blue-green", modelVersion=[{"weight": 3}]))
    assert rendered.documents
    assert [(one.field, one.severity, one.hint) for one in rendered.problems] == [
        ("modelVersion", "warning", "did you mean 'modelVersions'?")
    ]


def test_a_name_that_kubernetes_would_refuse_is_told():
    (first, *_) = render(mesh("blue-green") | {"modelName": "Wisdom"}).problems
    assert "'Wisdom' is not a valid name" in first.what


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 200) | st.sampled_from(["a", "b-1", "x y", "20"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "weight", "match", "spec"]), inner, max_size=2)
    ),
    max_leaves=5,
)
charts = st.sampled_from([mesh("blue-green"), mesh("mirror"), mesh("canary"), release(), release("kserve", "mirror")])
keys = st.sampled_from(["modelVersions", "modelName", "mirrorPercentage", "targetEnv", "application", "service"])


@given(charts, st.dictionaries(keys, odd, max_size=3))
def test_any_values_give_valid_manifests_or_reasons(values, changes):
    rendered = render(values | changes)
    assert bool(rendered.documents) != any(one.severity == "error" for one in rendered.problems)
    for raw in of_kind(rendered.documents, "ModelRollout"):
        assert isinstance(read(raw, "rendered"), ModelRollout)


def test_a_versions_port_wins_over_the_applications():
    values = release(versions=[{"port": 8080}, {}])
    values["application"]["port"] = 9000
    assert [one.backend.service.port for one in rollout(values).spec.versions] == [8080, 9000]


def test_an_empty_text_is_no_text():
    assert rollout(mesh("canary", modelVersions=[{"name": ""}])).spec.versions[0].name == "wisdom-0"
