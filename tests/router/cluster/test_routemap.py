"""Iter8's routemap ConfigMaps, read and turned into rollouts."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.backend import Server
from router.cluster.named import named
from router.cluster.resource import Reference
from router.cluster.rollout import reweighted, rollout
from router.cluster.routemap import is_routemap, routemap
from router.manifests import read
from router.schema import NO_BACKEND, Strategy
from xds.ir import Protocol


def configmap(spec, name="wisdom-routemap", namespace="modelmesh-serving"):
    text = spec if isinstance(spec, str) else yaml.safe_dump(spec)
    labels = {"iter8.tools/kind": "routemap", "iter8.tools/version": "v0.17"}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "immutable": True,
        "data": {"strSpec": text},
    }


def two(**more):
    """Versions as the charts list them, the weight-config last."""
    return {
        "versions": [
            {"resources": [{"gvrShort": "isvc", "name": f"wisdom-{index}", "namespace": "modelmesh-serving"}], **more}
            for index in (0, 1)
        ]
    }


def with_template(template, **more):
    return {**two(**more), "routingTemplates": {"t": {"gvrShort": "vs", "template": template}}}


SPLIT = """\
spec:
  hosts: [wisdom.modelmesh-serving]
  http:
  - route:
    - {weight: "{{ index .Weights 0 }}"}
    - {weight: "{{ index .Weights 1 }}"}
"""
COPY = """\
spec:
  http:
  - route: [{destination: {host: wisdom-0.ns}}]
    mirror: {host: wisdom-1.ns}
    mirrorPercentage: {value: "{{ index .Weights 1 }}"}
"""
MATCH = """\
spec:
  http:
  - match: [{headers: {x-team: {exact: red}}}]
    route: [{destination: {host: wisdom-1.ns}}]
  - route: [{destination: {host: wisdom-0.ns}}]
"""

MESH = {
    f"wisdom-{index}": Server(
        service="modelmesh-serving",
        namespace="modelmesh-serving",
        port=8033,
        protocol=Protocol.H2C,
        shared=True,
        request_headers=(("mm-vmodel-id", f"wisdom-{index}"),),
    )
    for index in (0, 1)
}


def turned(spec, overrides=None, servers=MESH):
    found, _ = routemap(configmap(spec))
    made, problems = rollout(found, servers, overrides)
    assert made is not None, problems
    return made


# Reading


def test_the_tutorials_routemap_without_templates():
    found, problems = routemap(configmap(two(), name="backend"))
    assert not problems
    assert [one.name for one in found.versions] == ["wisdom-0", "wisdom-1"]
    assert found.versions[0].resources == (Reference("isvc", "wisdom-0", "modelmesh-serving"),)
    assert found.hosts[0] == "backend.modelmesh-serving"
    assert found.told == "no routing templates: users are shared out by weights"


def test_iter8s_smallest_routemap():
    found, problems = routemap(configmap("versions: [{resources: [], weight: 1}]", name="a", namespace="b"))
    assert not problems
    assert [(one.name, one.weight) for one in found.versions] == [("version-0", 1)]


def test_a_routemap_is_known_by_its_label():
    assert is_routemap(configmap(two()))
    assert not is_routemap({"metadata": {"labels": {"iter8.tools/kind": "other"}}})


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ({"metadata": {"name": "a"}, "data": {}}, "unable to find routemap spec key in configmap"),
        (
            configmap("versions: ["),
            "cannot unmarshal routemap CM spec: line 2: broken YAML: "
            "did not find expected node content while parsing a flow node",
        ),
        (configmap("just text"), "cannot unmarshal routemap CM spec: it is 'just text', not a mapping"),
        (configmap("versions: []"), "routemap must at least one version"),
        (configmap("{}"), "routemap must at least one version"),
        (configmap(""), "routemap must at least one version"),
        (configmap({"versions": [{}] * 33}), "has 33 entries"),
        (configmap("[" * 300), "cannot unmarshal routemap CM spec: line 1: YAML nested more than 64 levels deep"),
        (configmap("versions: {a: 1}"), "cannot unmarshal routemap CM spec: versions is a mapping, not a list"),
        (
            configmap("versions: [{weight: -1}]"),
            "cannot unmarshal routemap CM spec: versions[0].weight is -1, not a whole number from 0 to 4294967295",
        ),
        (
            configmap("versions: [{resources: [{name: a}]}]"),
            "cannot unmarshal routemap CM spec: versions[0].resources[0] needs gvrShort and name as text",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_iter8s_words(broken, what):
    found, problems = routemap(broken)
    assert found is None
    assert [one.what for one in problems] == [what]


def test_all_mistakes_come_at_once():
    spec = {
        "versions": [{"weight": "x", "resources": [{"gvrShort": "svc"}, {"gvrShort": "svc", "name": "a"}]}, 3],
        "routingTemplates": [],
    }
    _, problems = routemap(configmap(spec))
    assert [one.field for one in problems] == [
        "data.strSpec.versions[0].resources[0]",
        "data.strSpec.versions[0].weight",
        "data.strSpec.versions[1]",
        "data.strSpec.routingTemplates",
    ]


def test_another_namespace_needs_a_cluster_wide_control_plane():
    spec = {"versions": [{"resources": [{"gvrShort": "svc", "name": "a", "namespace": "elsewhere"}]}]}
    assert routemap(configmap(spec))[0] is not None
    found, problems = routemap(configmap(spec), cluster_scoped=False)
    assert found is None
    assert "expected version resource namespace to match routemap namespace" in problems[0].what


def test_a_namespace_may_be_left_out():
    """Iter8 then failed to compute the signature and never applied a template."""
    found, _ = routemap(configmap("versions: [{resources: [{gvrShort: svc, name: a}]}]"))
    assert found.versions[0].resources == (Reference("svc", "a", "modelmesh-serving"),)


def test_unknown_types_and_fields_are_warnings():
    found, problems = routemap(configmap("versions: [{resources: [{gvrShort: isv, name: a}], wieght: 3}]"))
    assert found is not None
    assert [(one.severity, one.hint) for one in problems] == [
        ("warning", "did you mean 'weight'?"),
        ("warning", "did you mean 'isvc'?"),
    ]


@pytest.mark.parametrize(
    ("resources", "name"),
    [
        ([("cm", "app-0-weight-config"), ("isvc", "app-0")], "app-0"),
        ([("deploy", "app-d"), ("svc", "app-s")], "app-s"),
        ([("cm", "settings")], "settings"),
        ([("svc", "Not_A_Label")], "version-0"),
    ],
)
def test_a_version_is_called_after_what_serves_it(resources, name):
    spec = {"versions": [{"resources": [{"gvrShort": short, "name": one} for short, one in resources]}]}
    assert routemap(configmap(spec))[0].versions[0].name == name


def test_versions_of_one_service_get_names_of_their_own():
    same = {"resources": [{"gvrShort": "svc", "name": "a"}]}
    found, _ = routemap(configmap({"versions": [same, same]}))
    assert [one.name for one in found.versions] == ["a", "version-1"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["svc", "a", "b", "{{", "isvc"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["versions", "resources", "weight", "gvrShort", "name", "namespace", "routingTemplates", "template"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(anything)
def test_any_spec_gives_a_routemap_or_says_why_not(spec):
    found, problems = routemap(configmap(spec))
    assert (found is None) == any(one.severity == "error" for one in problems)
    if found:
        made, faults = rollout(found, {})
        assert made is not None, faults
        assert [one.name for one in made.spec.versions] == [one.name for one in found.versions]


# As a rollout


def test_blue_green_by_weights():
    made = turned(with_template(SPLIT, weight=50))
    assert made.key == "modelmesh-serving/wisdom"
    assert made.spec.hosts == ("wisdom.modelmesh-serving",)
    assert [(one.weight, one.mirror, one.match) for one in made.spec.versions] == [(50, None, None), (50, None, None)]
    assert made.spec.versions[1].selecting_headers == (("mm-vmodel-id", "wisdom-1"),)
    assert made.spec.versions[0].protocol is Protocol.H2C


def test_weights_default_to_one_and_annotations_win():
    assert [one.weight for one in turned(two()).spec.versions] == [1, 1]
    assert [
        one.weight for one in turned(with_template(SPLIT, weight=50), {"wisdom-0": 20, "wisdom-1": 80}).spec.versions
    ] == [20, 80]


def test_more_weight_than_a_rollout_takes_is_scaled():
    made = turned(with_template(SPLIT, weight=4_000_000_000), {"wisdom-1": 1_000_000_000})
    assert [one.weight for one in made.spec.versions] == [1_000_000, 250_000]


def test_a_mirror_by_weight_is_a_percentage():
    assert turned(with_template(COPY, weight=100)).spec.versions[1].mirror.percent == 100
    assert turned(with_template(COPY, weight=100), {"wisdom-1": 20}).spec.versions[1].mirror.percent == 20
    off = turned(with_template(COPY, weight=100), {"wisdom-1": 0}).spec.versions[1]
    assert (off.mirror, off.weight) == (None, 0)


def test_more_than_everything_cannot_be_copied():
    found, _ = routemap(configmap(with_template(COPY, weight=150)))
    made, problems = rollout(found, MESH)
    assert made.spec.versions[1].mirror.percent == 100
    assert [one.severity for one in problems] == ["warning"]


def test_a_canary_by_match_which_weight_zero_switches_off():
    made = turned(with_template(MATCH))
    assert made.spec.versions[1].match[0].headers[0].name == "x-team"
    assert made.spec.versions[1].weight is None
    off = turned(with_template(MATCH), {"wisdom-1": 0}).spec.versions[1]
    assert (off.match, off.weight) == (None, 0)


def test_the_rollout_lists_the_resources_of_its_versions():
    made = turned(two())
    assert named(made)["wisdom-1"] == (Reference("isvc", "wisdom-1", "modelmesh-serving"),)


def test_a_version_that_is_not_there_yet_has_its_resources_only():
    version = turned(two(), servers={}).spec.versions[1]
    assert version.backend == NO_BACKEND
    assert version.resources == ("isvc/modelmesh-serving/wisdom-1",)


# Annotations over a ModelRollout of one's own


def own(strategy="none", **candidate):
    backend = {"service": {"name": "x", "port": 80}}
    versions = [{"name": "a", "backend": backend}, {"name": "b", "backend": backend, **candidate}]
    made = read(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "m"},
            "spec": {
                "hosts": ["m.example"],
                "strategy": strategy,
                "versions": versions,
                "sticky": {"header": "x-user"},
            },
        },
        "here",
    )
    assert not isinstance(made, tuple), made
    return made


def test_an_annotation_changes_the_weight_and_nothing_else():
    before = own("blue-green", weight=50)
    after, problems = reweighted(before, {"b": 80})
    assert not problems
    assert after.spec.versions[1].weight == 80
    assert after.spec.versions[0] == before.spec.versions[0]
    assert after.spec.sticky == before.spec.sticky


def test_of_a_mirrored_version_it_changes_the_percentage():
    written, _ = reweighted(own(mirror={"percent": 100, "requestHeaders": {"x": "y"}}), {"b": 20})
    assert (written.spec.versions[1].mirror.percent, written.spec.versions[1].mirror.request_headers) == (
        20,
        (("x", "y"),),
    )
    by_strategy, _ = reweighted(own(Strategy.MIRROR.value), {"b": 20})
    assert by_strategy.spec.versions[1].mirror.percent == 20
    off, _ = reweighted(own(Strategy.MIRROR.value), {"b": 0})
    assert (off.spec.versions[1].mirror, off.spec.versions[1].weight) == (None, 0)


def test_no_annotation_no_change():
    before = own("blue-green")
    assert reweighted(before, {})[0] is before
    assert reweighted(before, {"unknown": 3})[0] is before


def test_a_heavy_primary_does_not_shrink_a_percentage():
    spec = with_template(COPY, weight=50)
    spec["versions"][0]["weight"] = 4_000_000_000
    assert turned(spec).spec.versions[1].mirror.percent == 50


def test_the_kserve_charts_rewrite_paths():
    rewritten = MATCH.replace("    route:", "    rewrite: {uri: /v2/models/wisdom-1/infer}\n    route:", 1)
    assert routemap(configmap(with_template(rewritten)))[0].infer_path
    assert not routemap(configmap(with_template(MATCH)))[0].infer_path
