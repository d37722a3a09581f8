"""The overlays are the chart's objects: base files come from it, and what is built equals what it renders."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import DEPLOY, NAMESPACE, Object, build, is_hook, key, kubectl, named, render

KUSTOMIZE = DEPLOY / "kustomize"
OVERLAYS: dict[str, Object] = {
    "cluster": {},
    "namespaced": {"scope": "namespaced"},
    "ha": {"replicas": 3, "gateway": {"autoscaling": {"enabled": True, "minReplicas": 3}}},
    "mtls": {"tls": {"mode": "certManager"}},
}
"""The values that say the same to the chart."""

MONITORING: Object = {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule")}
"""Of the component of that name."""

PLUGINS: Object = {
    "gateway": {
        "plugins": {
            "enabled": True,
            "chain": [{"name": "stamp", "plugin": "sidecar.plugins.stamp:Stamp", "models": "all"}],
        }
    }
}
"""Likewise."""

HELMS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HASHED = ("headgate.dev/config", "headgate.dev/bootstrap", "headgate.dev/plugins")
CONFIGS = ("headgate", "headgate-gateway")


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def plain(one: Object) -> Object:
    """Without what is Helm's or kustomize's own: labels, checksums, the hashes in names."""
    one = copy.deepcopy(one)
    for about in (one["metadata"], one.get("spec", {}).get("template", {}).get("metadata", {})):
        for part, names in (("labels", HELMS), ("annotations", HASHED)):
            for name in names:
                about.get(part, {}).pop(name, None)
            if not about.get(part, True):
                del about[part]
    return one


def without_namespace(one: Object) -> Object:
    one["metadata"].pop("namespace", None)
    return one


def chart(values: Object) -> list[Object]:
    return [plain(one) for one in render(values) if not is_hook(one)]


def component(one: Object) -> str:
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def is_rbac(one: Object) -> bool:
    return one["apiVersion"].startswith("rbac.") and not one["metadata"]["name"].endswith("-leases")


def page(objects: Iterable[Object]) -> str:
    head = "# Made from the chart; HEADGATE_UPDATE_GOLDEN=1 makes it anew.\n"
    return head + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120)


def files() -> Iterator[tuple[str, str]]:
    default, namespaced, ha, mtls = (chart(values) for values in OVERLAYS.values())

    def chosen(objects: list[Object], wanted: Callable[[Object], bool]) -> str:
        return page(without_namespace(one) for one in objects if wanted(one))

    def data(objects: list[Object], config: str, file: str) -> str:
        return str(named(objects, "ConfigMap", config)["data"][file])

    def is_base(part: str) -> Callable[[Object], bool]:
        return lambda one: component(one) == part and one["kind"] != "ConfigMap" and not is_rbac(one)

    plugins = chart(PLUGINS)
    configs = [
        *((default, "base"), (namespaced, "overlays/namespaced")),
        *((mtls, "components/mtls"), (plugins, "components/plugins")),
    ]
    yield from ((f"{folder}/headgate.yaml", data(objects, "headgate", "headgate.yaml")) for objects, folder in configs)
    yield "base/envoy.yaml", data(default, "headgate-gateway", "envoy.yaml")
    for file in named(mtls, "ConfigMap", "headgate-gateway")["data"]:
        yield f"components/mtls/{file}", data(mtls, "headgate-gateway", file)
    yield "components/plugins/plugins.yaml", data(plugins, "headgate-gateway", "plugins.yaml")
    yield "base/control-plane.yaml", chosen(default, is_base("control-plane"))
    yield "base/gateway.yaml", chosen(default, is_base("gateway"))
    yield "overlays/cluster/rbac.yaml", chosen(default, is_rbac)
    yield "overlays/namespaced/rbac.yaml", chosen(namespaced, is_rbac)
    yield "overlays/ha/autoscaling.yaml", chosen(ha, lambda one: one["kind"] == "HorizontalPodAutoscaler")
    yield (
        "components/monitoring/monitoring.yaml",
        chosen(chart(MONITORING), lambda one: one["apiVersion"].startswith("monitoring.coreos.com")),
    )
    yield "components/mtls/certificates.yaml", chosen(mtls, lambda one: one["apiVersion"].startswith("cert-manager"))


WRITTEN_BY_HAND = {"kustomization.yaml", "namespace.yaml"}


def test_its_files_come_from_the_chart() -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write them anew, then read the difference."""
    wanted = dict(files())
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        for path, text in wanted.items():
            (KUSTOMIZE / path).write_text(text)
    found = {
        str(path.relative_to(KUSTOMIZE)): path.read_text()
        for path in KUSTOMIZE.rglob("*.yaml")
        if path.name not in WRITTEN_BY_HAND
    }
    assert found == wanted


def kustomizations() -> list[Path]:
    return sorted([*KUSTOMIZE.rglob("kustomization.yaml"), DEPLOY / "crds/kustomization.yaml"])


@pytest.mark.parametrize("path", kustomizations(), ids=lambda path: path.parent.name)
def test_what_a_kustomization_names_exists(path: Path) -> None:
    about = yaml.safe_load(path.read_text())
    for other in about.get("resources", []) + about.get("components", []):
        target = path.parent / other
        assert target.is_file() or (target / "kustomization.yaml").is_file(), other
    for generator in about.get("configMapGenerator", ()):
        assert all((path.parent / file).is_file() for file in generator["files"])


def test_every_file_is_used() -> None:
    used = {
        (path.parent / name).resolve()
        for path in kustomizations()
        for about in [yaml.safe_load(path.read_text())]
        for name in about.get("resources", [])
        + [file for generator in about.get("configMapGenerator", ()) for file in generator["files"]]
    }
    assert {path.resolve() for path in KUSTOMIZE.rglob("*.yaml") if path.name != "kustomization.yaml"} <= used


def test_the_namespaced_overlay_watches_its_own_namespace() -> None:
    folder = KUSTOMIZE / "overlays/namespaced"
    config = yaml.safe_load((folder / "headgate.yaml").read_text())
    assert yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"] == config["kubernetes"]["namespace"]


needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="no kubectl on this machine")


def unhashed(objects: list[Object]) -> list[Object]:
    """Names of generated ConfigMaps without their hash, wherever they stand."""
    names = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    text = yaml.dump_all(objects, Dumper=yaml.CSafeDumper)
    for name in names:
        text = re.sub(rf"\b{re.escape(name)}\b", name.rpartition("-")[0], text)
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def sorted_parts(one: Object) -> Object:
    """kustomize puts patched entries first."""
    spec = one.get("spec", {}).get("template", {}).get("spec", {})
    for container in spec.get("containers", ()):
        container["volumeMounts"].sort(key=lambda mount: str(mount["name"]))
    if "volumes" in spec:
        spec["volumes"].sort(key=lambda volume: str(volume["name"]))
    if one["kind"] == "ConfigMap":
        one["metadata"]["labels"].pop("app.kubernetes.io/version", None)
    return one


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_what_the_chart_renders(overlay: str) -> None:
    built = {key(one): sorted_parts(plain(one)) for one in unhashed(build(overlay))}
    for extra in ("Namespace", "CustomResourceDefinition"):
        found = [one for one in built if one[0] == extra]
        assert len(found) == (0 if overlay == "namespaced" else 1)
        for one in found:
            del built[one]
    rendered = {key(one): sorted_parts(one) for one in chart(OVERLAYS[overlay])}
    assert built.keys() == rendered.keys()
    for name, one in rendered.items():
        assert built[name] == one, name


@needs_kubectl
def test_mtls_goes_with_high_availability(tmp_path: Path) -> None:
    """Components combine: the README says so."""
    folder = tmp_path / "mine"
    folder.mkdir()
    relative = os.path.relpath(KUSTOMIZE, folder)
    (folder / "kustomization.yaml").write_text(
        "namespace: headgate\n"
        f"resources: [{relative}/overlays/ha]\n"
        f"components: [{relative}/components/mtls]\n"
        "images: [{name: headgate, newName: example.com/headgate, newTag: '1'}]\n"
    )
    objects = build(str(folder))
    deployment = named(objects, "Deployment", "headgate")["spec"]
    assert deployment["replicas"] == 3
    spec = deployment["template"]["spec"]
    assert spec["containers"][0]["image"] == "example.com/headgate:1"
    assert "xds-tls" in {volume["name"] for volume in spec["volumes"]}
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] == "Certificate"} == {NAMESPACE}


@needs_kubectl
def test_monitoring_is_what_the_chart_renders_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    relative = os.path.relpath(KUSTOMIZE, folder)
    (folder / "kustomization.yaml").write_text(
        "namespace: headgate\n"
        f"resources: [{relative}/overlays/cluster]\n"
        f"components: [{relative}/components/monitoring]\n"
    )
    kinds = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    built = {key(one): plain(one) for one in build(str(folder)) if one["kind"] in kinds}
    assert built == {key(one): one for one in chart(MONITORING) if one["kind"] in kinds}
    assert {kind for kind, *_ in built} == kinds


@needs_kubectl
def test_plugins_are_what_the_chart_renders_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    relative = os.path.relpath(KUSTOMIZE, folder)
    (folder / "kustomization.yaml").write_text(
        f"namespace: headgate\nresources: [{relative}/overlays/cluster]\ncomponents: [{relative}/components/plugins]\n"
    )

    def by_name(one: Object) -> Object:
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            container["volumeMounts"].sort(key=lambda mount: str(mount["mountPath"]))
        if one["kind"] == "Deployment":
            one["spec"]["template"]["spec"]["containers"].sort(key=lambda container: str(container["name"]))
        return one

    built = {key(one): by_name(sorted_parts(plain(one))) for one in unhashed(build(str(folder)))}
    for name, one in {key(one): by_name(sorted_parts(one)) for one in chart(PLUGINS)}.items():
        assert built[name] == one, name
