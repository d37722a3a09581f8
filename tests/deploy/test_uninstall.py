"""The uninstall Job's command, with the uninstall Job's rights."""

from __future__ import annotations

from charts import is_hook, render
from click.testing import CliRunner
from kubedouble.fixture import Cluster

from headgate.cli import cli


def test_it_releases_what_still_carries_the_finalizer(cluster: Cluster) -> None:
    hooks = [one for one in render() if is_hook(one)]
    for one in hooks:
        if one["kind"].startswith("Cluster"):
            if "subjects" in one:
                one["subjects"] = [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}]
            cluster.apply(one)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "wisdom-0", "namespace": "models", "finalizers": ["headgate.dev/drain"]},
        "spec": {"ports": [{"port": 80}]},
    }
    cluster.create(service)
    cluster.delete("v1", "Service", "wisdom-0", "models")
    assert cluster.find("v1", "Service", "wisdom-0", "models")

    (job,) = [one for one in hooks if one["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    result = CliRunner().invoke(cli, [*container["args"], "--kubeconfig", str(cluster.kubeconfig("nobody"))])
    assert result.exit_code == 0, result.output
    assert "released" in result.stdout
    cluster.until(lambda: cluster.find("v1", "Service", "wisdom-0", "models") is None)
