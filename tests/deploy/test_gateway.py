"""The gateway's Pod, played with a real Envoy: its bootstrap, its name, its way out."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import trustme
import yaml
from charts import Object, named, render

from headgate.envoy import EnvoyProcess, find_binary
from xds.cache import Cache
from xds.ir import Gateway, Listener
from xds.server import XdsServer
from xds.tls import ServerTls
from xds.translate import translate_gateway

TYPES = "type.googleapis.com/envoy.extensions.filters"


def envoy_container(values: Object) -> Object:
    found = named(render(values), "Deployment", "headgate-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert found["name"] == "envoy"
    return dict(found)


def bare(listener_port: int = 0) -> Object:
    """An Envoy that answers every request itself."""
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "users",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}},
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listener_port}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "http", "address": address, "filter_chains": [chain]}
    return {"admin": {"address": address}, "static_resources": {"listeners": [listener]}}


def test_before_it_ends_it_sends_its_clients_elsewhere_and_serves_on() -> None:
    """The chart's preStop command, without the wait at its end."""
    shell, flag, script = envoy_container({})["lifecycle"]["preStop"]["exec"]["command"]
    assert script.endswith("exec sleep 30\n")

    async def run() -> None:
        envoy = EnvoyProcess(bare(), concurrency=1)
        await envoy.start()
        try:
            url = f"http://127.0.0.1:{await envoy.wait_listener('http')}/"
            async with aiohttp.ClientSession() as session:
                async with session.get(url) as answer:
                    assert answer.headers.get("connection") != "close"
                drain = script.removesuffix("exec sleep 30\n").replace("/9901", f"/{envoy.admin_port}")
                hook = await asyncio.create_subprocess_exec(shell, flag, drain)
                assert await asyncio.wait_for(hook.wait(), 10) == 0
                async with session.get(url) as answer:
                    assert (answer.status, answer.headers.get("connection")) == (200, "close")
        finally:
            await envoy.stop()

    asyncio.run(run())


def test_it_connects_by_mutual_tls_under_its_pods_name(tmp_path: Path) -> None:
    """The chart's bootstrap with only paths and the address changed; the control plane lets nobody else in."""
    authority = trustme.CA()
    server, client = authority.issue_cert("headgate"), authority.issue_cert("headgate-gateway.headgate")
    certificates, ours = tmp_path / "envoy-tls", tmp_path / "headgate-tls"
    for folder, issued in ((certificates, client), (ours, server)):
        folder.mkdir()
        issued.private_key_pem.write_to_path(folder / "tls.key")
        issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
        authority.cert_pem.write_to_path(folder / "ca.crt")
    tls = ServerTls(ours / "tls.crt", ours / "tls.key", ours / "ca.crt")
    objects = render({"tls": {"mode": "certManager"}})
    for name, text in named(objects, "ConfigMap", "headgate-gateway")["data"].items():
        text = text.replace("/etc/envoy-tls", str(certificates)).replace("/etc/envoy", str(tmp_path))
        (tmp_path / name).write_text(text)

    arguments = envoy_container({"tls": {"mode": "certManager"}})["args"]
    assert arguments[arguments.index("--service-node") + 1] == "$(POD_NAME)"
    binary = tmp_path / "envoy"
    binary.write_text(f'#!/bin/sh\nexec {find_binary()} "$@" --service-node gateway-7f9c-x2x4z\n')
    binary.chmod(0o755)

    async def run() -> None:
        cache = Cache()
        gateway = Gateway("default", (Listener("http", "127.0.0.1", 0),))
        cache.apply("gateway/default", translate_gateway(gateway))
        control_plane = XdsServer({"default": cache}, port=0, tls=tls)
        await control_plane.start()
        envoy = EnvoyProcess(local(tmp_path / "envoy.yaml", control_plane.port), concurrency=1, binary=binary)
        try:
            await envoy.start()
            assert await envoy.wait_listener("http")
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{envoy.admin_port}/server_info") as answer,
            ):
                node = json.loads(await answer.text())["node"]
            assert (node["id"], node["cluster"]) == ("gateway-7f9c-x2x4z", "default")
        finally:
            await envoy.stop()
            await control_plane.stop()

    asyncio.run(run())


def local(path: Path, port: int) -> Any:
    """The Service's name resolves in a cluster only."""
    config = yaml.safe_load(path.read_text())
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (cluster,) = config["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "headgate", "port_value": 18000}
    endpoint["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    return config


def test_the_hook_is_plain_bash() -> None:
    command = envoy_container({})["lifecycle"]["preStop"]["exec"]["command"]
    assert subprocess.run(["bash", "-n", "-c", command[-1]], check=False).returncode == 0
