"""Finding the API server, being let in, and hearing what went wrong."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from kubedouble import ApiServer, User

from router.kube.client import JSON_PATCH, ApiFault, NoCluster, connect, within

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
ACCOUNT = "kubernetes.aio.config.incluster_config"


def config(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def fault_of(asked: Any) -> ApiFault:
    with pytest.raises(ApiFault) as fault:
        await asked
    return fault.value


def test_objects_are_plain_and_whole(on_any_cluster):
    async def test(cluster: Any) -> None:
        client = cluster.client
        made = await client.create(CONFIG_MAPS, config("a", x="1"))
        assert await client.get(f"{CONFIG_MAPS}/a") == made
        assert (await client.patch(f"{CONFIG_MAPS}/a", {"data": {"y": "2"}}))["data"] == {"x": "1", "y": "2"}
        check = {"op": "test", "path": "/metadata/resourceVersion", "value": "1"}
        assert (await fault_of(client.patch(f"{CONFIG_MAPS}/a", [check], JSON_PATCH))).status == 422
        assert (await fault_of(client.replace(f"{CONFIG_MAPS}/a", made))).status == 409
        await client.delete(f"{CONFIG_MAPS}/a")
        gone = await fault_of(client.get(f"{CONFIG_MAPS}/a"))
        assert (gone.status, gone.reason, str(gone)) == (404, "NotFound", 'configmaps "a" not found')
        assert not gone.of_the_server

    on_any_cluster(test)


def test_a_server_in_trouble_says_how_long_to_wait(on_cluster):
    async def test(cluster: Any) -> None:
        cluster.api.faults.answer(503, retry_after=7)
        fault = await fault_of(cluster.client.get(CONFIG_MAPS))
        assert (fault.status, fault.retry_after, fault.of_the_server) == (503, 7.0, True)

    on_cluster(test)


@pytest.mark.parametrize(
    ("status", "whole"), [(0, True), (429, True), (503, True), (500, False), (403, False), (410, False)]
)
def test_one_resource_in_trouble_is_not_the_server_in_trouble(status, whole):
    assert ApiFault(status, "", "").of_the_server == whole


def test_no_answer_is_a_fault_of_its_own(on_cluster):
    async def test(cluster: Any) -> None:
        cluster.api.faults.delay(10.0)
        late = await fault_of(cluster.client.get(CONFIG_MAPS, within=0.1))
        assert (late.status, late.of_the_server) == (0, True)
        await cluster.api.stop()
        assert (await fault_of(cluster.client.get(CONFIG_MAPS))).status == 0

    on_cluster(test)


def test_a_token_that_was_replaced_is_found_again(on_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("router.kube.client._RELOAD_EVERY", 0.0)

    async def test(cluster: Any) -> None:
        cluster.api._tokens = {"new": User("robot")}
        cluster.api.kubeconfig(tmp_path / "config", token="new")
        assert (await fault_of(cluster.client.get(CONFIG_MAPS))).status == 401
        await cluster.client.get(CONFIG_MAPS)

    on_cluster(test, tokens={"old": User("robot")})


def test_a_pod_uses_its_service_account(tmp_path, monkeypatch):
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("robot-token\n")
    (tmp_path / "namespace").write_text("models\n")
    monkeypatch.setattr(f"{ACCOUNT}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{ACCOUNT}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("router.kube.client._NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)

    async def test() -> None:
        async with ApiServer(tls=tls, tokens={"robot-token": User("robot")}) as api:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
            async with await connect() as client:
                assert client.namespace == "models"
                assert (await client.get(CONFIG_MAPS))["kind"] == "ConfigMapList"

    asyncio.run(asyncio.wait_for(test(), 10))


def test_a_kubeconfig_tells_the_context_and_its_namespace(tmp_path):
    file = tmp_path / "config"
    clusters = [{"name": name, "cluster": {"server": f"http://{name}.example/base/"}} for name in ("a", "b")]
    contexts = [
        {"name": "one", "context": {"cluster": "a", "user": "u"}},
        {"name": "two", "context": {"cluster": "b", "user": "u", "namespace": "models"}},
    ]
    users = [{"name": "u", "user": {}}]
    file.write_text(
        yaml.safe_dump({"clusters": clusters, "contexts": contexts, "users": users, "current-context": "one"})
    )

    async def found(**options: Any) -> tuple[str, str]:
        async with await connect(kubeconfig=file, **options) as client:
            return client.url, client.namespace

    assert asyncio.run(found()) == ("http://a.example/base", "default")
    assert asyncio.run(found(context="two")) == ("http://b.example/base", "models")
    with pytest.raises(NoCluster, match="three"):
        asyncio.run(found(context="three"))


def test_a_stream_never_takes_over_a_connection_that_may_be_dead(tmp_path):
    async def test() -> None:
        async with ApiServer() as api, _counted(api) as connections:
            api.kubeconfig(tmp_path / "config")
            text = (tmp_path / "config").read_text().replace(str(api.port), str(connections.port))
            (tmp_path / "config").write_text(text)
            async with await connect(kubeconfig=tmp_path / "config") as client:
                for expected in (1, 1):
                    await client.get(CONFIG_MAPS)
                    assert connections.number == expected
                for expected in (2, 3):
                    async with client.stream(CONFIG_MAPS, {"watch": "true", "timeoutSeconds": "0"}) as chunks:
                        assert connections.number == expected
                        async for _ in chunks:
                            pass
                await client.get(CONFIG_MAPS)
                assert connections.number == 3

    asyncio.run(test())


def test_after_a_request_without_an_answer_no_idle_connection_is_trusted(tmp_path):
    async def test() -> None:
        async with ApiServer() as api, _counted(api) as connections:
            api.kubeconfig(tmp_path / "config")
            text = (tmp_path / "config").read_text().replace(str(api.port), str(connections.port))
            (tmp_path / "config").write_text(text)
            async with await connect(kubeconfig=tmp_path / "config") as client:
                await asyncio.gather(*(client.get(CONFIG_MAPS) for _ in range(5)))
                before = connections.number
                connections.dead = before  # all that are open now say nothing any more
                with pytest.raises(ApiFault):
                    await client.get(CONFIG_MAPS, within=0.2)
                await client.get(CONFIG_MAPS, within=2.0)
                assert connections.number == before + 1

    asyncio.run(test())


class _Connections:
    def __init__(self) -> None:
        self.number = self.port = 0
        self.dead = 0
        """The first so many carry nothing any more."""


@asynccontextmanager
async def _counted(api: ApiServer) -> AsyncIterator[_Connections]:
    """Another address of the server, at which connections are counted."""
    found = _Connections()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, own: int) -> None:
        while data := await source.read(65_536):
            if own > found.dead:
                sink.write(data)
        sink.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.number += 1
        own = found.number
        there, back = await asyncio.open_connection("127.0.0.1", api.port)
        await asyncio.gather(pump(reader, back, own), pump(there, writer, own), return_exceptions=True)

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


def test_the_server_hears_who_asks(tmp_path):
    async def ask() -> None:
        async with ApiServer() as api:
            file = api.kubeconfig(tmp_path / "config")
            async with await connect(kubeconfig=file, agent="headgate/one_2") as client:
                await client.get("/api/v1/services")
            assert [one.user_agent for one in api.requests] == ["headgate/one_2"]

    asyncio.run(ask())


@pytest.mark.parametrize("text", [None, "", "[]", "{", "clusters: 5"])
def test_no_usable_kubeconfig_is_told_with_what_to_do(tmp_path: Path, monkeypatch, text):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    if text is not None:
        (tmp_path / "config").write_text(text)
    with pytest.raises(NoCluster, match="set KUBECONFIG"):
        asyncio.run(connect())


def test_who_uses_no_cluster_does_not_load_the_package():
    parts = "router.kube.client, router.kube.reflector, router.kube.elector"
    subprocess.run([sys.executable, "-c", f"import sys, {parts}; sys.exit('kubernetes' in sys.modules)"], check=True)


def test_the_path_within_a_namespace():
    assert within("/apis/apps/v1/deployments", "ns") == "/apis/apps/v1/namespaces/ns/deployments"
    assert within("/api/v1/services", None) == "/api/v1/services"
