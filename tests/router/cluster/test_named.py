"""Which resources a ModelRollout's versions consist of."""

from __future__ import annotations

from router.cluster.named import named
from router.cluster.resource import Reference
from router.manifests import read

OWN = {"service": {"name": "iris-v1", "port": 80}}
SHARED = {"shared": {"service": {"name": "modelmesh-serving", "port": 8033}}}


def found(**versions):
    made = read(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris", "namespace": "prod"},
            "spec": {
                "hosts": ["iris.example"],
                "versions": [{"name": name, **version} for name, version in versions.items()],
            },
        },
        "here",
    )
    assert not isinstance(made, tuple), made
    return named(made)


def test_by_default_a_version_is_the_service_that_its_backend_names():
    assert found(v1={"backend": OWN}, v2={"backend": SHARED}, v3={"backend": {"endpoints": ["127.0.0.1:80"]}}) == {
        "v1": (Reference("svc", "iris-v1", "prod"),),
        "v2": (),
        "v3": (),
    }


def test_what_a_version_lists_wins():
    assert found(v1={"backend": OWN}, v2={"backend": OWN, "resources": ["isvc/models/iris-v2"]}) == {
        "v1": (Reference("svc", "iris-v1", "prod"),),
        "v2": (Reference("isvc", "iris-v2", "models"),),
    }
