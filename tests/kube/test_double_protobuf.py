"""kubectl (1.32 and newer) creates built-in objects in protobuf: these are bytes that it sent, and what they mean."""

from __future__ import annotations

import base64
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from kubedouble.fixture import Cluster, Double
from kubedouble.protobuf import MEDIA_TYPE, read

CONFIG_MAP = "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEhsKEQoBYxIAGgAiACoAMgA4AEIAEgYKAWESATEaACIA"
DEPLOYMENT = (
    "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50ErIBChsKAWQSABoAIgAqADIAOABCAFoICgNhcHASAWQShAEIARIKCggKA2FwcBIBZBpsChoKABIA"
    "GgAiACoAMgA4AEIAWggKA2FwcBIBZBJOEjAKBW5naW54EgduZ2lueDoxKgAyCgoAEAAYUCIAKgBCAGoAcgCAAQCIAQCQAQCiAQAaADIAQgBKAFIA"
    "WABgAGgAggEAigEAmgEAwgEAIgIKACgAOAAaDAgAEAAYACAAKAA4ABoAIgA="
)
SERVICE = (
    "azhzAAoNCgJ2MRIHU2VydmljZRJmChsKAXYSABoAIgAqADIAOABCAFoICgNhcHASAXYSQwoeCgc4MC1odHRwEgNUQ1AYUCIKCAEQABoEaHR0cCgA"
    "EggKA2FwcBIBdhoAIglDbHVzdGVySVA6AEIAUgBaAGAAaAAaAgoAGgAiAA=="
)


def test_what_kubectl_sends_is_understood():
    config = read(base64.b64decode(CONFIG_MAP))
    assert config == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    deployment = read(base64.b64decode(DEPLOYMENT))
    assert deployment["metadata"] == {"name": "d", "labels": {"app": "d"}}
    assert deployment["spec"] == {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "d"}},
        "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx:1", "ports": [{"containerPort": 80}]}]},
        },
    }
    service = read(base64.b64decode(SERVICE))
    port = {"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}
    assert service["spec"] == {"ports": [port], "selector": {"app": "v"}, "type": "ClusterIP"}


def post(cluster: Cluster, path: str, body: bytes, accept: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {cluster.token()}", "Content-Type": MEDIA_TYPE, "Accept": accept}
    request = urllib.request.Request(cluster.url + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10, context=cluster._trust) as answer:
            return answer.status, answer.headers["Content-Type"]
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers["Content-Type"]


def test_an_object_is_created_from_protobuf_and_answered_in_json(cluster: Cluster):
    path = "/api/v1/namespaces/default/configmaps"
    assert post(cluster, path, base64.b64decode(CONFIG_MAP), "application/json") == (201, "application/json")
    assert cluster.get("v1", "ConfigMap", "c")["data"] == {"a": "1"}


def test_who_takes_only_protobuf_is_told_that_there_is_none(double: Double):
    path = "/api/v1/namespaces/default/configmaps"
    assert post(double, path, base64.b64decode(CONFIG_MAP), MEDIA_TYPE)[0] == 406
    assert double.find("v1", "ConfigMap", "c") is None


@pytest.mark.parametrize("body", [b"{}", b"k8s\x00\xff\xff", b"k8s\x00" + base64.b64decode(CONFIG_MAP)[4:-9]])
def test_damaged_bytes_are_a_bad_request(double: Double, body: bytes):
    path = "/api/v1/namespaces/default/configmaps"
    assert post(double, path, body, "application/json")[0] == 400


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on the path")
def test_kubectl_creates_scales_asks_and_deletes(cluster: Cluster, tmp_path):
    def kubectl(*words: str) -> str:
        fixed = ("kubectl", f"--kubeconfig={cluster.kubeconfig()}", f"--cache-dir={tmp_path / 'cache'}")
        ran: Any = subprocess.run([*fixed, *words], capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        return str(ran.stdout)

    kubectl("create", "configmap", "c", "--from-literal=a=1")
    kubectl("create", "namespace", "lab")
    kubectl("create", "deployment", "d", "--image=nginx:1", "--port=80")
    kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    kubectl("create", "service", "clusterip", "v", "--tcp=80:http")
    kubectl("scale", "deployment", "d", "--replicas=3")
    assert cluster.get("apps/v1", "Deployment", "d")["spec"]["replicas"] == 3
    assert cluster.get("v1", "Secret", "s")["data"] == {"a": "Yg=="}
    assert kubectl("auth", "can-i", "delete", "pods").strip() == "yes"
    assert kubectl("get", "deployments", "-o", "wide").split()[:8] == [
        "NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR",
    ]  # fmt: skip
    kubectl("delete", "configmap", "c")
    assert cluster.find("v1", "ConfigMap", "c") is None
