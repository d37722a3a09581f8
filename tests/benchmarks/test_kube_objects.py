"""The cluster of the Kubernetes benchmark is one that the API server takes and that routes as the benchmark expects."""

from collections import Counter

import pytest
from kubedouble.fixture import Double
from kubedouble.server import Request

from benchmarks.kube_objects import NAMESPACE, WATCHED, cluster, rollout, versions
from benchmarks.kube_server import OfDouble, Tally, counted
from router.manifests import read
from router.schema import ModelRollout


@pytest.fixture
def server(tmp_path):
    made = OfDouble(tmp_path)
    try:
        made.load(cluster(3, {"v1": 9_001, "v2": 9_002}, "127.0.0.1"))
        yield made
    finally:
        made.cluster.close()


def patch(double: Double, kind: tuple[str, str], name: str, change: dict, subresource: str = "") -> None:
    double.patch(*kind, name, change, NAMESPACE, subresource=subresource)


ROLLOUT = ("headgate.dev/v1alpha1", "ModelRollout")
DEPLOYMENT = ("apps/v1", "Deployment")


def test_each_rollout_has_two_versions_of_three_objects():
    kinds = Counter(one["kind"] for one in cluster(5, {"v1": 1, "v2": 2}, "127.0.0.1"))
    assert kinds == {"Namespace": 1, "ModelRollout": 5, "Deployment": 10, "Service": 10, "EndpointSlice": 10}


def test_the_rollouts_are_valid():
    assert isinstance(read(rollout(0), "benchmark"), ModelRollout)


def test_an_edit_sends_all_traffic_to_the_other_version():
    assert [one["weight"] for one in versions(0, 100)] == [0, 100]
    assert [one["weight"] for one in versions(0, 0)] == [100, 0]


def test_the_api_server_takes_all_of_it_and_nothing_is_written_yet(server):
    found = server.counts()
    assert (found.rollouts, found.written, found.programmed, found.protected) == (3, 0, 0, 0)


def test_only_a_status_of_the_present_generation_counts_as_written():
    programmed = [{"type": "Programmed", "status": "True"}]
    old = {"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": programmed}}
    new = {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": []}}
    found = counted([old, new], [{"metadata": {"finalizers": ["a"]}}, {"metadata": {}}])
    assert (found.rollouts, found.written, found.programmed, found.protected) == (2, 1, 1, 1)


def test_the_instant_of_a_change_is_that_of_the_spec_or_of_readiness(server):
    assert server.committed is None
    patch(server.cluster, ROLLOUT, WATCHED, {"spec": {"versions": versions(0, 0)}})
    first = server.committed
    patch(server.cluster, DEPLOYMENT, f"{WATCHED}-v2", {"status": {"readyReplicas": 0}}, "status")
    second = server.committed
    assert first is not None
    assert second is not None
    assert first < second


def test_a_status_that_the_control_plane_writes_is_no_change(server):
    patch(server.cluster, ROLLOUT, WATCHED, {"status": {"observedGeneration": 1}}, "status")
    patch(server.cluster, ROLLOUT, "model-00001", {"spec": {"versions": versions(1, 0)}})
    assert server.committed is None


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("GET", "/api/v1/services", {"watch": "true"}, "watches"),
        ("GET", "/api/v1/services", {}, "other GET"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/headgate/leases/headgate", {}, "leases"),
        ("PATCH", "/apis/headgate.dev/v1alpha1/namespaces/models/modelrollouts/a/status", {}, "statuses"),
        ("PATCH", "/api/v1/namespaces/models/services/a", {}, "finalizers"),
        ("POST", "/apis/events.k8s.io/v1/namespaces/models/events", {}, "events"),
    ],
)
def test_requests_are_counted_by_what_they_are_for(method, path, query, kind):
    tally = Tally()
    tally.append(Request(method, path, query, "headgate/one"))
    tally.append(Request(method, path, query, "Python-urllib/3.11"))
    assert tally.by_kind == {kind: 1}
