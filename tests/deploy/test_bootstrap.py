"""The chart's Envoys start with what `headgate bootstrap` prints."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

import pytest
import yaml
from charts import CHART, named, of_kind, render
from click.testing import CliRunner

from headgate.cli import cli
from xds.bootstrap import UpstreamTls, as_yaml, bootstrap, secrets

FOLDER, CERTIFICATES = "/etc/envoy", "/etc/envoy-tls"
NODE = "set-by-service-node"


def tls(server_name: str) -> UpstreamTls:
    """Followed when cert-manager renews them: Kubernetes renames within the folder."""
    return UpstreamTls(
        f"{CERTIFICATES}/ca.crt",
        f"{CERTIFICATES}/tls.crt",
        f"{CERTIFICATES}/tls.key",
        server_name=server_name,
        secrets_folder=FOLDER,
    )


def expected(cluster: str, service: str, port: int, secured: bool, stream: int | None = None) -> dict[str, Any]:
    return bootstrap(
        node_id=NODE,
        node_cluster=cluster,
        xds_address=service,
        xds_port=port,
        tls=tls(service) if secured else None,
        sidecar=("127.0.0.1", stream) if stream else None,
    )


def files() -> dict[str, str]:
    made = {
        f"bootstrap{'-tls' * secured}{'-stream' * bool(stream)}.yaml": as_yaml(
            expected("GATEWAY_NAME", "XDS_SERVICE", 18000, secured, stream)
        )
        for secured in (False, True)
        for stream in (None, 18003)
    }
    for path, content in secrets(tls("XDS_SERVICE"), "XDS_SERVICE").items():
        made[PurePath(path).name] = as_yaml(content)
    return made


def test_the_charts_files_come_from_the_bootstrap() -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write them anew."""
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        for name, text in files().items():
            (CHART / "files" / name).write_text(text)
    assert {path.name: path.read_text() for path in (CHART / "files").iterdir()} == files()


@pytest.mark.parametrize(("cluster", "service", "port"), [("default", "headgate", 18000), ("edge", "blue-headgate", 9)])
def test_it_is_what_the_command_prints(cluster: str, service: str, port: int) -> None:
    objects = render(
        {"gateway": {"name": cluster}, "service": {"xdsPort": port}}, name=service.removesuffix("-headgate")
    )
    options = ["--node-id", NODE, "--cluster", cluster, "--xds", f"{service}:{port}"]
    printed = CliRunner().invoke(cli, ["bootstrap", *options])
    assert printed.exit_code == 0, printed.output
    config = named(objects, "ConfigMap", f"{service}-gateway")["data"]
    assert yaml.safe_load(config["envoy.yaml"]) == yaml.safe_load(printed.stdout)
    assert set(config) == {"envoy.yaml"}
    assert {one["metadata"]["name"] for one in of_kind(objects, "Service")} >= {service}


def test_with_tls_it_follows_renewed_certificates() -> None:
    objects = render({"tls": {"mode": "certManager"}}, name="blue")
    config = named(objects, "ConfigMap", "blue-headgate-gateway")["data"]
    assert yaml.safe_load(config.pop("envoy.yaml")) == expected("default", "blue-headgate", 18000, True)
    wanted = secrets(tls("blue-headgate"), "blue-headgate")
    assert {f"{FOLDER}/{name}": yaml.safe_load(text) for name, text in config.items()} == wanted

    envoy = named(objects, "Deployment", "blue-headgate-gateway")["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in envoy["volumeMounts"]}
    assert (mounts["bootstrap"], mounts["xds-tls"]) == (FOLDER, CERTIFICATES)
    certificate = named(objects, "Certificate", "blue-headgate-xds-server")
    assert "blue-headgate" in certificate["spec"]["dnsNames"]


@pytest.mark.parametrize("mode", ["none", "certManager"])
def test_with_the_stream_envoy_knows_the_sidecars_port(mode: str) -> None:
    stream = {"enabled": True, "port": 19003, "clientHeader": "x-user", "labels": {"tier": "x-tier"}}
    objects = render({"tls": {"mode": mode}, "gateway": {"sidecar": {"stream": stream}}})
    config = named(objects, "ConfigMap", "headgate-gateway")["data"]["envoy.yaml"]
    assert yaml.safe_load(config) == expected("default", "headgate", 18000, mode != "none", 19003)
    told = yaml.safe_load(named(objects, "ConfigMap", "headgate")["data"]["headgate.yaml"])["gateways"][0]
    assert told["streamRequests"] == {"enabled": True, "clientHeader": "x-user", "labels": {"tier": "x-tier"}}
    off = render({"gateway": {"sidecar": {"enabled": False, "stream": stream}}})
    assert yaml.safe_load(named(off, "ConfigMap", "headgate-gateway")["data"]["envoy.yaml"]) == expected(
        "default", "headgate", 18000, False
    )
    assert "streamRequests" not in named(off, "ConfigMap", "headgate")["data"]["headgate.yaml"]
