"""The words of fortio and ghz in those of the engine: Iter8's parameters and defaults."""

from __future__ import annotations

import pytest

from loadgen.experiment.tasks import grpc_plan, http_plan
from loadgen.experiment.tasks.grpc_settings import GrpcSettings
from loadgen.experiment.tasks.http_settings import HttpSettings
from loadgen.plan import Grpc, Load, Payload, Range, Scenario, Stage


def http(**given: object) -> list[Scenario]:
    settings = HttpSettings.model_validate({"url": "http://x/", **given})
    return [http_plan.scenario(name, one, None, 30.0) for name, one in http_plan.endpoints(settings).items()]


def grpc(**given: object) -> Load:
    settings = GrpcSettings.model_validate({"host": "x:1", "call": "a.B/C", **given})
    [one] = grpc_plan.endpoints(settings).values()
    return grpc_plan.load(one, 30.0)


def rate(load: Load) -> float:
    assert load.arrivals is not None
    return load.arrivals.stages[0].start


def test_defaults_of_http() -> None:
    [one] = http()
    assert (one.load.requests, one.load.duration, one.load.connections, rate(one.load)) == (100, None, 0, 8)
    assert one.target.errors == (Range(lower=400),)
    assert (one.target.method, one.target.timeout) == ("GET", 20)


def test_a_number_of_requests_wins_over_a_duration() -> None:
    [both] = http(numRequests=20, duration="5s")
    assert (both.load.requests, both.load.duration) == (20, None)
    [time] = http(duration="1m30s", qps=50)
    assert (time.load.requests, time.load.duration) == (None, 90)
    assert time.load.arrivals is not None
    assert time.load.arrivals.stages == (Stage(90, 50, 50),)


def test_without_a_rate_requests_follow_on_each_other() -> None:
    [one] = http(qps=0)
    assert (one.load.executor, one.load.connections) == ("max", 4)
    [one] = http(qps=0, connections=3)
    assert one.load.connections == 3


def test_a_warm_up_by_number_wins_over_one_by_time() -> None:
    [one] = http(warmupNumRequests=7, warmupDuration="3s")
    assert (one.load.warmup_requests, one.load.warmup) == (7, 0)
    [one] = http(warmupDuration="3s")
    assert (one.load.warmup_requests, one.load.warmup) == (0, 3)


def test_endpoints_are_laid_over_what_is_said_for_all() -> None:
    a, b = http(
        headers={"x": "1", "y": "1"},
        qps=10,
        duration="10s",
        endpoints={"a": {"headers": {"y": 2}, "numRequests": 5}, "b": {"url": "http://b/", "qps": 20}},
    )
    assert (a.name, a.target.url, dict(a.target.headers)) == ("a", "http://x/", {"x": "1", "y": "2"})
    assert (a.load.requests, rate(a.load)) == (5, 10)
    assert (b.target.url, rate(b.load), b.load.duration, b.load.requests) == ("http://b/", 20, 10, None)


def test_bodies_with_our_variables_are_templates() -> None:
    assert http_plan.payload(b'{"id": {{ seq }}}').template == '{"id": {{ seq }}}'
    assert http_plan.payload(b"{{ other }}").bodies == (b"{{ other }}",)


def test_defaults_of_grpc() -> None:
    load = grpc()
    assert (load.executor, load.users, load.requests, load.connections) == ("users", 50, 200, 1)
    assert load.streams_per_connection == 50
    settings = GrpcSettings.model_validate({"host": "x:1", "call": "a.B/C"})
    [one] = grpc_plan.endpoints(settings).values()
    made = grpc_plan.scenario("grpc", one, Grpc("a.B/C", b""), Payload(), 30.0)
    assert (made.target.url, made.target.timeout, made.target.connect_timeout) == ("http://x:1", 20, 10)


def test_certificates_make_it_tls() -> None:
    for given, scheme in (({}, "http"), ({"cacert": "ca.pem"}, "https"), ({"skipTLS": True}, "https")):
        settings = GrpcSettings.model_validate({"host": "x:1", "call": "a.B/C", **given})
        [one] = grpc_plan.endpoints(settings).values()
        assert grpc_plan.url(one) == f"{scheme}://x:1"


def test_a_duration_of_grpc_wins_over_its_total() -> None:
    load = grpc(total=5, duration="3s", concurrency=2)
    assert (load.requests, load.duration) == (None, 3)
    assert grpc(total=5, **{"max-duration": "2s"}).duration == 2


def test_what_is_skipped_belongs_to_the_total() -> None:
    load = grpc(total=20, skipFirst=5)
    assert (load.requests, load.warmup_requests) == (15, 5)


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({"rps": 10, "duration": "2s"}, [(2, 10, 10)]),
        (
            {"load-schedule": "step", "load-start": 5, "load-step": 5, "load-step-duration": "1s", "load-end": 15}
            | {"duration": "5s"},
            [(1, 5, 5), (1, 10, 10), (3, 15, 15)],
        ),
        (
            {"load-schedule": "step", "load-start": 20, "load-step": -5, "load-step-duration": "1s", "load-end": 10}
            | {"duration": "4s"},
            [(1, 20, 20), (1, 15, 15), (2, 10, 10)],
        ),
        (
            {"load-schedule": "line", "load-start": 10, "load-step": 5, "load-end": 20, "duration": "4s"},
            [(2, 10, 20), (2, 20, 20)],
        ),
        (
            {"load-schedule": "line", "load-start": 10, "load-step": 5, "load-max-duration": "1s", "duration": "2s"},
            [(1, 10, 15), (1, 15, 15)],
        ),
    ],
)
def test_load_schedules_of_ghz(given: dict[str, object], stages: list[tuple[float, float, float]]) -> None:
    load = grpc(**given)
    assert load.arrivals is not None
    assert [(one.duration, one.start, one.end) for one in load.arrivals.stages] == stages


@pytest.mark.parametrize(
    ("given", "users", "stages"),
    [
        ({"concurrency-schedule": "const"}, 50, []),
        (
            {"concurrency-schedule": "step", "concurrency-start": 2, "concurrency-step": 2, "concurrency-end": 6}
            | {"concurrency-step-duration": "5s"},
            6,
            [(5, 2), (5, 4), (7 * 86400, 6)],
        ),
        (
            {"concurrency-schedule": "line", "concurrency-start": 3, "concurrency-step": -1, "concurrency-end": 1},
            3,
            [(1, 3), (1, 2), (7 * 86400, 1)],
        ),
    ],
)
def test_concurrency_schedules_of_ghz(given: dict[str, object], users: int, stages: list[tuple[float, float]]) -> None:
    load = grpc(**given)
    assert load.users == users
    assert [(one.duration, one.start) for one in load.staged_users] == stages


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"load-schedule": "step"}, "takes load-step and load-step-duration"),
        ({"load-schedule": "line", "load-start": 5, "load-step": -1, "load-end": 9}, "goes away from load-end"),
        ({"load-schedule": "line", "load-start": 5, "load-step": -1, "total": 100}, "never comes to 100 calls"),
        ({"concurrency-schedule": "step"}, "takes concurrency-step"),
    ],
)
def test_schedules_that_ask_for_nothing_are_told(given: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        grpc(**given)


def test_sizes() -> None:
    assert grpc_plan.message_size("16MB") == 16 * 1024 * 1024
    assert grpc_plan.message_size(4096) == 4096
    with pytest.raises(ValueError, match="is not a size"):
        grpc_plan.message_size("much")
