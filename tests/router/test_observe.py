import pytest

from router.health import Health
from router.observe import observe
from router.schema import ModelRollout
from xds.ir import Endpoint

ONE, TWO, THREE = (Endpoint("10.0.0.1", port) for port in (8001, 8002, 8003))
PROBED = {"tcp": {}}


def rollout(backend: dict, readiness: dict | None) -> ModelRollout:
    version = {"name": "v1", "backend": backend} | ({"readiness": readiness} if readiness else {})
    return ModelRollout.model_validate(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris", "namespace": "ml"},
            "spec": {"hosts": ["iris.local"], "versions": [version]},
        }
    )


def seen(health: dict[Endpoint, Health], *, readiness: dict | None = PROBED, backend: dict | None = None):
    addresses = {"endpoints": ["10.0.0.1:8001", "10.0.0.1:8002", "10.0.0.1:8003"]}
    one = rollout(backend or addresses, readiness)
    return observe(one, {("v1", endpoint): state for endpoint, state in health.items()})["v1"]


UP, DOWN = Health(True, "200"), Health(False, "connection refused")


def test_without_a_probe_everything_is_assumed_ready():
    got = seen({}, readiness=None)
    assert (got.ready, got.reason) == (True, "no readiness probe: assumed ready")
    assert got.ready_endpoints == (ONE, TWO, THREE)


def test_a_probe_that_has_not_answered_yet_means_not_ready():
    got = seen({})
    assert (got.ready, got.reason, got.ready_endpoints) == (False, "waiting for first probe", ())


def test_one_ready_endpoint_makes_a_version_ready_and_only_it_may_receive_traffic():
    got = seen({ONE: DOWN, TWO: UP})
    assert got.ready
    assert got.ready_endpoints == (TWO,)
    assert got.endpoints == (ONE, TWO, THREE)
    assert got.reason == "1 of 3 endpoints ready (10.0.0.1:8001: connection refused and 1 more)"


@pytest.mark.parametrize(
    ("health", "ready", "reason"),
    [
        ({ONE: UP, TWO: UP, THREE: UP}, True, "all 3 endpoints ready"),
        ({ONE: UP, TWO: UP, THREE: DOWN}, True, "2 of 3 endpoints ready (10.0.0.1:8003: connection refused)"),
        ({ONE: DOWN, TWO: DOWN, THREE: DOWN}, False, "connection refused"),
        (
            {ONE: DOWN, TWO: Health(False, "503"), THREE: DOWN},
            False,
            "0 of 3 endpoints ready (10.0.0.1:8001: connection refused and 2 more)",
        ),
    ],
)
def test_the_reason_names_what_is_wrong_and_where(health, ready, reason):
    got = seen(health)
    assert (got.ready, got.reason) == (ready, reason)


def test_a_service_is_one_dns_name_in_the_rollouts_namespace():
    service = Endpoint("iris-v1.ml.svc.cluster.local", 80)
    got = seen({service: UP}, backend={"service": {"name": "iris-v1", "port": 80}})
    assert got.ready_endpoints == (service,)
    assert got.reason == "ready"
    other = seen({}, backend={"service": {"name": "iris-v1", "namespace": "blue", "port": 80}})
    assert other.endpoints == (Endpoint("iris-v1.blue.svc.cluster.local", 80),)
    assert seen({}, backend={"service": {"host": "iris.example.com", "port": 80}}).endpoints == (
        Endpoint("iris.example.com", 80),
    )


def test_the_health_of_another_version_does_not_count():
    one = rollout({"endpoints": ["10.0.0.1:8001"]}, PROBED)
    assert observe(one, {("v2", ONE): UP}).ready == frozenset()
