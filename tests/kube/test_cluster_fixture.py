"""The cluster that tests get: the same to use whether it is the double or a real control plane."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubedouble import ApiServer, User, fixture
from kubedouble.assets import Broken, ControlPlane, api_server_command, etcd_command, token_lines
from kubedouble.fixture import Cluster, Double, Refused

DOUBLES = Path(fixture.__file__).parents[1]
ETCD = """
import json, os, signal, sys
with open("etcd.json", "w") as file:
    json.dump(sys.argv[1:], file)
signal.signal(signal.SIGTERM, lambda *_: (print("etcd stopped", flush=True), os._exit(0)))
signal.pause()
"""
API_SERVER = """
import asyncio, csv, json, os, signal, ssl, sys
sys.path.insert(0, DOUBLES)
from kubedouble import ApiServer, User
with open("kube-apiserver.json", "w") as file:
    json.dump(sys.argv[1:], file)
given = dict(each.lstrip("-").split("=", 1) for each in sys.argv[1:])
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(given["tls-cert-file"], given["tls-private-key-file"])
with open(given["token-auth-file"]) as file:
    tokens = {token: User(name, tuple(groups.split(","))) for token, name, _, groups in csv.reader(file)}
async def main():
    options = {"tls": tls, "tokens": tokens, "rbac": given["authorization-mode"] == "RBAC"}
    async with ApiServer(port=int(given["secure-port"]), garbage_after=1000, **options):
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
asyncio.run(main())
"""


def config(name: str, **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": {"a": "1"}}


def program(file: Path, text: str) -> None:
    file.write_text(f"#!{sys.executable}\nDOUBLES = {str(DOUBLES)!r}\n{text}")
    file.chmod(0o755)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """Stand-ins for the two programs: the API server's is the double, told everything by its command line."""
    folder = tmp_path / "assets"
    folder.mkdir()
    program(folder / "etcd", ETCD)
    program(folder / "kube-apiserver", API_SERVER)
    return folder


def test_objects_come_and_go(cluster: Cluster):
    made = cluster.create(config("a"))
    assert cluster.get("v1", "ConfigMap", "a") == made
    assert cluster.patch("v1", "ConfigMap", "a", {"data": {"b": "2"}})["data"] == {"a": "1", "b": "2"}
    assert cluster.apply({**config("a"), "data": {"a": "9"}})["data"]["a"] == "9"
    assert [each["metadata"]["name"] for each in cluster.list("v1", "ConfigMap", "default")] == ["a"]
    cluster.delete("v1", "ConfigMap", "a")
    assert cluster.find("v1", "ConfigMap", "a") is None


def test_a_deployment_gets_the_status_that_the_test_plays(cluster: Cluster):
    labels = {"matchLabels": {"app": "iris"}}
    template = {"metadata": {"labels": {"app": "iris"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "iris"}}
    played = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1}
    stored = cluster.apply({**deployment, "spec": {"selector": labels, "template": template}, "status": played})
    assert stored["status"]["readyReplicas"] == 1


def test_our_kind_is_served_and_our_user_may_read_it_but_not_write_it(cluster: Cluster):
    rollouts = cluster.path("headgate.dev/v1alpha1", "ModelRollout")
    assert cluster.ask("GET", rollouts, user="headgate")["items"] == []
    backend = {"endpoints": ["127.0.0.1:1"]}
    spec = {"hosts": ["iris.example"], "versions": [{"name": "v1", "backend": backend}]}
    about = {"apiVersion": "headgate.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": "iris"}}
    with pytest.raises(Refused, match='cannot create resource "modelrollouts"') as refused:
        cluster.create({**about, "spec": spec}, user="headgate")
    assert refused.value.status == 403
    assert cluster.create({**about, "spec": spec})["metadata"]["generation"] == 1


def test_who_has_no_role_is_forbidden(cluster: Cluster):
    with pytest.raises(Refused) as refused:
        cluster.ask("GET", "/api/v1/configmaps", user="nobody")
    assert refused.value.status == 403


def test_the_kubeconfig_leads_to_the_user(cluster: Cluster):
    text = cluster.kubeconfig("headgate", "models").read_text()
    assert cluster.url in text
    assert cluster.token("headgate") in text
    assert "namespace: models" in text


def test_cleaning_takes_everything_but_ours(cluster: Cluster):
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}})
    cluster.create(config("held", finalizers=["a.b/hold"], namespace="lab"))
    cluster.create(config("a"))
    cluster.clean()
    assert cluster.list("v1", "ConfigMap", "default") == []
    cluster.until(lambda: cluster.find("v1", "Namespace", "lab") is None)
    assert cluster.find("v1", "Namespace", "headgate")
    assert cluster.ask("GET", cluster.path("headgate.dev/v1alpha1", "ModelRollout"), user="headgate")["items"] == []


def test_the_double_keeps_its_objects_over_an_outage(double: Double):
    double.create(config("a"))
    double.stop()
    with pytest.raises(OSError, match="refused"):
        double.get("v1", "ConfigMap", "a")
    double.start()
    assert double.get("v1", "ConfigMap", "a")["data"] == {"a": "1"}
    double.faults.conflict()
    with pytest.raises(Refused) as refused:
        double.create(config("b"))
    assert refused.value.status == 409
    assert double.do(lambda api: api.watching) == 0
    double.do(ApiServer.compact)


def test_what_the_programs_are_told(tmp_path: Path):
    etcd = etcd_command(Path("/bin/etcd"), tmp_path, 1001)
    assert etcd[0] == "/bin/etcd"
    assert "--listen-client-urls=http://127.0.0.1:1001" in etcd
    server = api_server_command(Path("/bin/kube-apiserver"), tmp_path, 1002, 1001)
    for told in (
        "--etcd-servers=http://127.0.0.1:1001",
        "--secure-port=1002",
        "--bind-address=127.0.0.1",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
    ):
        assert told in server
    assert token_lines({"t": User("a", ("g", "h"))}) == 't,a,a,"g,h"\n'


def test_the_programs_run_until_they_are_stopped(assets: Path, tmp_path: Path):
    tokens = {Cluster.token("admin"): User.admin()}
    with ControlPlane(assets, tmp_path / "run", tokens) as real:
        told = json.loads((tmp_path / "run/kube-apiserver.json").read_text())
        assert f"--secure-port={real.url.rsplit(':', 1)[1]}" in told
        assert (tmp_path / "run/tokens.csv").stat().st_mode & 0o777 == 0o600
        here = Cluster(real.url, real.ca, tmp_path)
        assert here.create(config("a"))["metadata"]["uid"]
    assert (tmp_path / "run/etcd.log").read_text() == "etcd stopped\n"
    with pytest.raises(OSError, match="refused"):
        here.get("v1", "ConfigMap", "a")


def test_a_program_that_ends_at_once_is_told_with_its_last_words(assets: Path, tmp_path: Path):
    program(assets / "kube-apiserver", "import sys\nsys.exit('unknown flag: --secure-port')")
    plane = ControlPlane(assets, tmp_path / "run", {"t": User.admin()})
    with pytest.raises(Broken, match="kube-apiserver ended with 1\nunknown flag"):
        plane.start()
    assert plane._running == []


def test_missing_programs_are_named(tmp_path: Path):
    with pytest.raises(Broken, match="holds no etcd and no kube-apiserver"):
        ControlPlane(tmp_path, tmp_path / "run", {}).start()


def test_one_control_plane_serves_all_tests_of_a_run(assets: Path):
    """The tests above once more, as with KUBEBUILDER_ASSETS: on one server, which is emptied in between."""
    chosen = "objects_come or deployment_gets or our_kind or no_role or leads_to or cleaning"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
    environment = {**os.environ, "KUBEBUILDER_ASSETS": str(assets)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=fixture.ROOT)
    assert "6 passed" in ran.stdout, ran.stdout + ran.stderr
