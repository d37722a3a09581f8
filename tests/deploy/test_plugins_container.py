"""The plugins' server in the gateway's Pod: it is started as it can be, and Envoy finds it where it listens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from charts import VALUES, Object, named, of_kind, render

from headgate.cli import cli
from headgate.config import PLUGIN_SOCKET, Config, read
from xds import ir

STAMP: Object = {"name": "stamp", "plugin": "sidecar.plugins.stamp:Stamp", "models": "all"}
ONE: Object = {"gateway": {"plugins": {"enabled": True, "chain": [STAMP]}}}
SETS = pytest.mark.parametrize("values", [ONE, VALUES["everything"]], ids=["one", "everything"])


def pod(values: Object) -> Object:
    return dict(named(render(values), "Deployment", "headgate-gateway")["spec"]["template"]["spec"])


def container(values: Object, name: str = "plugins") -> Object:
    (found,) = [one for one in pod(values)["containers"] if one["name"] == name]
    return dict(found)


def test_without_plugins_there_is_none() -> None:
    assert [one["name"] for one in pod({})["containers"]] == ["envoy", "sidecar"]
    assert "plugins.yaml" not in named(render(), "ConfigMap", "headgate-gateway")["data"]


@SETS
def test_its_command_line_is_one_that_the_command_takes(values: Object) -> None:
    found = container(values)
    group, name, *rest = found["args"]
    command = cli.commands[group].commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, [str(one) for one in rest], parent=click.Context(cli)).params
    (port,) = found["ports"]
    assert given["metrics"] == f"0.0.0.0:{port['containerPort']}"
    assert given["listen"] == PLUGIN_SOCKET
    assert given["names"] == ("/etc/headgate/plugins.yaml",)
    assert given["reload"] is ("configMap" in values["gateway"]["plugins"])
    assert list(given["calls"]) == values["gateway"]["plugins"].get("calls", [])


@SETS
def test_envoy_and_the_server_share_the_socket_and_the_names_of_plugins(values: Object, tmp_path: Path) -> None:
    folder = str(Path(PLUGIN_SOCKET.removeprefix("unix:")).parent)
    for name in ("envoy", "plugins"):
        assert [one["name"] for one in container(values, name)["volumeMounts"] if one["mountPath"] == folder]
    config = tmp_path / "headgate.yaml"
    text = named(render(values), "ConfigMap", "headgate")["data"]["headgate.yaml"]
    config.write_text(yaml.safe_dump({"gateways": [{"plugins": yaml.safe_load(text)["gateways"][0]["plugins"]}]}))
    read_back = read(config)
    assert isinstance(read_back, Config), read_back
    plugins = read_back.gateways[0].as_ir().plugins
    assert plugins is not None
    assert (plugins.host, plugins.address) == (ir.PluginHost.EXT_PROC, PLUGIN_SOCKET)
    served = yaml.safe_load(named(render(values), "ConfigMap", "headgate-gateway")["data"]["plugins.yaml"])
    assert [one["name"] for one in served["plugins"]] == [one.name for one in plugins.chain]


@SETS
def test_what_plugins_count_is_written_where_the_sidecar_reads_it_and_is_scraped_once(values: Object) -> None:
    mounts = {
        name: {one["name"]: one for one in container(values, name)["volumeMounts"]} for name in ("sidecar", "plugins")
    }
    for name, found in mounts.items():
        environment = {one["name"]: one["value"] for one in container(values, name)["env"]}
        assert environment["HEADGATE_PLUGIN_FIGURES"] == found["plugin-figures"]["mountPath"]
    assert mounts["sidecar"]["plugin-figures"]["readOnly"] is True
    assert "plugins-socket" not in mounts["sidecar"]
    assert [one["emptyDir"] for one in pod(values)["volumes"] if one["name"] == "plugin-figures"]
    assert scraped(values) == ["sidecar"]
    gateway = values["gateway"]
    alone = {**values, "gateway": {**gateway, "sidecar": {**gateway.get("sidecar", {}), "enabled": False}}}
    assert scraped(alone) == ["plugins"]


def scraped(values: Object) -> list[str]:
    (found,) = of_kind(render({**values, "podMonitor": {"enabled": True}}), "PodMonitor")
    return [one["port"] for one in found["spec"]["podMetricsEndpoints"]]


def test_the_list_is_one_that_the_server_loads(tmp_path: Path) -> None:
    path = tmp_path / "plugins.yaml"
    path.write_text(named(render(ONE), "ConfigMap", "headgate-gateway")["data"]["plugins.yaml"])
    command = [sys.executable, "-m", "headgate", "plugin", "serve", str(path), "--show-envoy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert yaml.safe_load(done.stdout)["http_filters"][0]["name"] == "headgate.plugins"


def test_a_list_is_needed() -> None:
    with pytest.raises(Exception, match=r"gateway\.plugins\.chain"):
        render({"gateway": {"plugins": {"enabled": True}}})


def test_it_outlives_the_envoy_that_drains_and_never_keeps_it_from_its_users() -> None:
    found = container(ONE | {"gateway": ONE["gateway"] | {"drain": {"seconds": 77}}})
    assert found["lifecycle"]["preStop"]["exec"]["command"][-1].endswith("time.sleep(77)")
    assert not {"readinessProbe", "startupProbe"} & found.keys()
    assert found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "plugins"}
