"""Our chart rendered, and our kustomize overlays built, as lists of objects."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/headgate"
OVERLAYS = DEPLOY / "kustomize/overlays"
NAMESPACE = "headgate"

Object = dict[str, Any]

VALUES: dict[str, Object] = {
    "default": {},
    "namespaced": {"scope": "namespaced", "watchNamespace": "models", "gateway": {"enabled": False}},
    "ha-mtls": {
        "replicas": 3,
        "tls": {"mode": "certManager"},
        "gateway": {
            "replicas": 3,
            "autoscaling": {"enabled": True},
            "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
            "sidecar": {"enabled": False},
        },
    },
    "everything": {
        "image": {"repository": "example.com/headgate", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount": {"annotations": {"example.com/role": "headgate"}},
        "priorityClassName": "system-cluster-critical",
        "affinity": {"nodeAffinity": {}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "models", "operator": "Exists"}],
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"example.com/team": "ml"},
        "env": [{"name": "TZ", "value": "UTC"}],
        "service": {"annotations": {"example.com/a": "b"}},
        "config": {"massDeletionHold": "10s", "log": {"level": "debug"}},
        "kubernetes": {
            "resourceTypes": {
                "ksvc": {
                    "group": "serving.knative.dev",
                    "version": "v1",
                    "resource": "services",
                    "conditions": ["Ready"],
                },
                "old": {"Group": "example.com", "Version": "v1", "Resource": "models"},
            },
            "modelmesh": {"namespace": "serving"},
        },
        "tls": {"mode": "secret", "checkNode": True, "secret": {"server": "server-tls", "client": "client-tls"}},
        "networkPolicy": {"xdsFrom": [{"podSelector": {"matchLabels": {"app": "edge"}}}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
        "gateway": {
            "name": "edge",
            "image": {"digest": "sha256:" + "1" * 64},
            "listeners": [
                {"name": "http", "port": 10000, "servicePort": 80},
                {"name": "https", "port": 10443, "servicePort": 443, "tlsSecret": "edge-tls", "clientCA": True},
            ],
            "service": {"type": "NodePort", "annotations": {"example.com/a": "b"}},
            "drain": {"mode": "sleep", "seconds": 45},
            "countCopies": False,
            "autoscaling": {"enabled": True},
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"example.com/team": "edge"},
            "sidecar": {
                "image": {"repository": "example.com/sidecar", "tag": "2", "pullPolicy": "Always"},
                "port": 19002,
                "interval": 0.5,
                "stream": {"enabled": True, "port": 19003, "clientHeader": "x-user", "labels": {"tier": "x-tier"}},
                "env": [{"name": "TZ", "value": "UTC"}],
            },
            "plugins": {
                "enabled": True,
                "chain": [
                    {"name": "stamp", "plugin": "sidecar.plugins.stamp:Stamp", "models": "all", "at": "backend"},
                    {
                        "name": "greet",
                        "plugin": "greet.py",
                        "onFailure": "closed",
                        "budget": 0.01,
                        "memory": "32Mi",
                        "config": {"a": 1},
                    },
                ],
                "configMap": "my-plugins",
                "calls": ["http://tokens.default.svc:80"],
                "timeout": "1s",
                "image": {"repository": "example.com/plugins", "tag": "3", "pullPolicy": "Always"},
                "port": 19004,
                "env": [{"name": "TZ", "value": "UTC"}],
            },
        },
    },
}
"""Value sets that together reach every branch of every template."""


@cache
def _chart() -> Chart:
    return Chart.load(str(CHART))


def render(values: Object | None = None, *, name: str = "headgate", namespace: str = NAMESPACE) -> list[Object]:
    """The objects of a release, hooks included, CRDs not."""
    rendered = _chart().render(values or {}, name=name, namespace=namespace)
    return list(documents(text for path, text in sorted(rendered.items()) if path.endswith(".yaml")))


def notes(values: Object | None = None) -> str:
    rendered = _chart().render(values or {}, name="headgate", namespace=NAMESPACE)
    return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))


@cache
def kubectl() -> str | None:
    """A kubectl that can build overlays, if this machine has one."""
    found = shutil.which("kubectl")
    if found is None:
        return None
    tried = subprocess.run([found, "kustomize", "--help"], capture_output=True, timeout=30, check=False)
    return found if tried.returncode == 0 else None


def build(overlay: str) -> list[Object]:
    """What `kubectl apply -k` would apply. Only where `kubectl()` is not None."""
    assert kubectl() is not None
    made = subprocess.run(
        [str(kubectl()), "kustomize", str(OVERLAYS / overlay)], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    return list(documents([made.stdout]))


def documents(texts: Iterable[str]) -> Iterator[Object]:
    for text in texts:
        yield from (one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one is not None)


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: Iterable[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def is_hook(one: Object) -> bool:
    return "helm.sh/hook" in (one["metadata"].get("annotations") or {})


def key(one: Object) -> tuple[str, str, str]:
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]
