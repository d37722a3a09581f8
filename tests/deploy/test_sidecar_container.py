"""The sidecar in the gateway's Pod: it is started as it can be, reads the Envoy beside it, and harms nobody."""

from __future__ import annotations

import asyncio
import re
import sys

import aiohttp
import click
import pytest
import yaml
from charts import VALUES, Object, named, of_kind, render

from headgate.cli import cli
from headgate.envoy import EnvoyProcess


def sidecar(values: Object | None = None) -> Object:
    objects = render(values)
    pod = named(objects, "Deployment", "headgate-gateway")["spec"]["template"]["spec"]
    (found,) = [one for one in pod["containers"] if one["name"] == "sidecar"]
    return dict(found)


def options(container: Object) -> dict[str, object]:
    """What the command makes of the arguments; it refuses those that it does not know."""
    name, *rest = container["args"]
    command = cli.commands[name]
    return dict(command.make_context(name, [str(one) for one in rest], parent=click.Context(cli)).params)


@pytest.mark.parametrize("values", [{}, VALUES["everything"]], ids=["default", "everything"])
def test_its_command_line_is_one_that_the_command_takes(values: Object) -> None:
    container = sidecar(values)
    given = options(container)
    (port,) = container["ports"]
    assert given["listen"] == f"0.0.0.0:{port['containerPort']}"
    assert given["interval"] == values.get("gateway", {}).get("sidecar", {}).get("interval", 1)
    assert given["log_format"] == "json"
    assert given["stream"] == ("127.0.0.1:19003" if values else None)


def test_it_reads_the_admin_page_that_the_bootstrap_opens() -> None:
    config = named(render(), "ConfigMap", "headgate-gateway")["data"]["envoy.yaml"]
    address = re.search(r"admin:\n.*\n.*\n +address: (\S+)\n +port_value: (\d+)", config)
    assert address
    assert options(sidecar())["envoy"] == f"http://{address[1]}:{address[2]}"
    assert address[1] == "127.0.0.1", "nobody else may"


def test_it_never_keeps_an_envoy_from_its_users() -> None:
    """A Pod is ready when all its containers are, and one without a readinessProbe is as soon as it runs."""
    container = sidecar()
    assert not {"readinessProbe", "startupProbe"} & container.keys()
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "sidecar"}


def test_it_outlives_the_envoy_that_drains() -> None:
    container = sidecar({"gateway": {"drain": {"seconds": 77}}})
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1].endswith("time.sleep(77)")


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "headgate:"),
        ({"image": {"repository": "a/b", "tag": "3"}}, "a/b:3"),
        ({"image": {"repository": "a/b", "digest": "sha256:1"}}, "a/b@sha256:1"),
        (
            {"image": {"repository": "a/b", "digest": "sha256:1"}, "gateway": {"sidecar": {"image": {"tag": "9"}}}},
            "a/b:9",
        ),
        ({"image": {"tag": "3"}, "gateway": {"sidecar": {"image": {"repository": "c"}}}}, "c:3"),
        ({"gateway": {"sidecar": {"image": {"digest": "sha256:2"}}}}, "headgate@sha256:2"),
    ],
)
def test_its_image_is_the_control_planes_unless_it_has_one_of_its_own(values: Object, image: str) -> None:
    assert sidecar(values)["image"].startswith(image)


def test_prometheus_reaches_it_and_users_do_not() -> None:
    users, figures = named(render(), "NetworkPolicy", "headgate-gateway")["spec"]["ingress"]
    assert [one["port"] for one in users["ports"]] == ["http"]
    assert "from" not in users
    assert [one["port"] for one in figures["ports"]] == ["sidecar"]
    assert figures["from"] == named(render(), "NetworkPolicy", "headgate")["spec"]["ingress"][1]["from"]
    assert len(figures["from"]) == 2
    nobody = named(render({"networkPolicy": {"httpFrom": []}}), "NetworkPolicy", "headgate-gateway")["spec"]["ingress"]
    assert [list(peer) for peer in nobody[1]["from"]] == [["podSelector"]], "the control plane only"
    assert "sidecar" not in {port["name"] for port in named(render(), "Service", "headgate-gateway")["spec"]["ports"]}


@pytest.mark.parametrize("values", [{}, VALUES["everything"]], ids=["default", "everything"])
def test_the_control_plane_asks_all_of_them_by_one_name(values: Object) -> None:
    objects = render(values)
    service = named(objects, "Service", "headgate-gateway-sidecars")["spec"]
    assert service["clusterIP"] == "None"
    (port,) = service["ports"]
    assert (port["port"], port["targetPort"]) == (sidecar(values)["ports"][0]["containerPort"], "sidecar")
    config = yaml.safe_load(named(objects, "ConfigMap", "headgate")["data"]["headgate.yaml"])
    assert config["telemetry"] == {"sidecars": [f"http://headgate-gateway-sidecars:{port['port']}"]}


def test_the_monitor_finds_it_and_leaves_the_models_namespace_alone() -> None:
    objects = render({"podMonitor": {"enabled": True}})
    (monitor,) = of_kind(objects, "PodMonitor")
    labels = named(objects, "Deployment", "headgate-gateway")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in sidecar()["ports"]}
    assert endpoint["honorLabels"] is True
    for off in ({"gateway": {"enabled": False}}, {"gateway": {"sidecar": {"enabled": False}}}):
        assert not of_kind(render({"podMonitor": {"enabled": True}, **off}), "PodMonitor")


def test_without_it_nothing_of_it_is_left() -> None:
    objects = render({"gateway": {"sidecar": {"enabled": False}}})
    pod = named(objects, "Deployment", "headgate-gateway")["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["containers"]] == ["envoy"]
    assert "telemetry" not in named(objects, "ConfigMap", "headgate")["data"]["headgate.yaml"]
    assert "headgate-gateway-sidecars" not in {one["metadata"]["name"] for one in objects}
    assert len(named(objects, "NetworkPolicy", "headgate-gateway")["spec"]["ingress"]) == 1


async def text(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as answer:
        return await answer.text()


def test_as_the_chart_starts_it_it_reads_a_real_envoy() -> None:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}

    async def run() -> None:
        async with EnvoyProcess({"admin": {"address": address}}, concurrency=1) as envoy:
            arguments = [str(one) for one in sidecar()["args"]]
            arguments[arguments.index("--envoy") + 1] = f"http://127.0.0.1:{envoy.admin_port}"
            arguments[arguments.index("--listen") + 1] = "127.0.0.1:0"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", *arguments), stderr=asyncio.subprocess.PIPE
            )
            assert process.stderr is not None
            try:
                line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
                found = re.search(r" on (127\.0\.0\.1:\d+)", line)
                assert found, line
                async with aiohttp.ClientSession(f"http://{found[1]}") as session:
                    async with session.get(sidecar()["livenessProbe"]["httpGet"]["path"]) as answer:
                        assert answer.status == 200
                    async with asyncio.timeout(20):
                        while "headgate_sidecar_envoy_up 1\n" not in await text(session, "/metrics"):  # noqa: ASYNC110  # it tells by HTTP only
                            await asyncio.sleep(0.02)
            finally:
                process.terminate()
                await asyncio.wait_for(process.communicate(), 20)

    asyncio.run(run())
