"""Which resources a ModelRollout's versions consist of."""

from __future__ import annotations

from router.cluster.named import named
from router.cluster.resource import RESOURCES, Reference
from router.manifests import read

OWN = {"service": {"name": "iris-v1", "port": 80}}
SHARED = {"shared": {"service": {"name": "modelmesh-serving", "port": 8033}}}


def rollout(annotation=None, **backends):
    made = read(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {
                "name": "iris",
                "namespace": "prod",
                "annotations": {} if annotation is None else {RESOURCES: annotation},
            },
            "spec": {
                "hosts": ["iris.example"],
                "versions": [{"name": name, "backend": backend} for name, backend in backends.items()],
            },
        },
        "here",
    )
    assert not isinstance(made, tuple), made
    return made


def test_without_an_annotation_a_version_is_the_service_that_its_backend_names():
    found, problems = named(rollout(v1=OWN, v2=SHARED, v3={"endpoints": ["127.0.0.1:80"]}))
    assert not problems
    assert found == {"v1": (Reference("svc", "iris-v1", "prod"),), "v2": (), "v3": ()}


def test_the_annotation_wins_version_by_version():
    found, _ = named(rollout("v2: [isvc/models/iris-v2]", v1=OWN, v2=SHARED))
    assert found == {"v1": (Reference("svc", "iris-v1", "prod"),), "v2": (Reference("isvc", "iris-v2", "models"),)}


def test_a_version_that_the_rollout_lacks_is_told():
    _, (problem,) = named(rollout("v11: [svc/a]", v1=OWN))
    assert (problem.what, problem.hint) == ("no version is called 'v11'", "did you mean 'v1'?")
