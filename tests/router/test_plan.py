import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.health import Health
from router.manifests import parse
from router.observe import observe
from router.plan import NO_PLUGINS, Planned, plan
from router.plugins import Chosen
from router.schema import ModelRollout, Strategy
from router.step import RolloutState, step
from xds.ir import (
    Endpoint,
    HeaderMatch,
    Match,
    ModelPlan,
    Plugin,
    PluginHost,
    PluginPlace,
    Plugins,
    Protocol,
    StringMatch,
    Target,
)

GOLDEN = Path(__file__).parents[1] / "golden/plan"


def rollout(*versions: dict, **spec) -> ModelRollout:
    """Versions v1, v2, ... with one probed endpoint each, 10.0.0.1:8001 and up, unless they say otherwise."""
    filled = [
        {
            "name": f"v{index}",
            "backend": {"endpoints": [f"10.0.0.1:{8000 + index}"]},
            "readiness": {"tcp": {}},
            **version,
        }
        for index, version in enumerate(versions, 1)
    ]
    return ModelRollout.model_validate(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris", "namespace": "ml"},
            "spec": {"hosts": ["iris.local"], "versions": filled, **spec},
        }
    )


def planned(one: ModelRollout, *ready: str, plugins: Chosen = NO_PLUGINS) -> Planned:
    """The plan when these versions answer their probes and all others refuse the connection."""
    health = {
        (version.name, endpoint): Health(
            version.name in ready, "200" if version.name in ready else "connection refused"
        )
        for version in one.spec.versions
        for endpoint in version.backend.servers("ml")
    }
    observed = observe(one, health)
    return plan(one, observed, step(one, observed, RolloutState(), now=0.0), one.spec.hosts, plugins=plugins)


def traffic(one: ModelRollout, *ready: str, plugins: Chosen = NO_PLUGINS) -> ModelPlan:
    found = planned(one, *ready, plugins=plugins).plan
    assert found is not None
    return found


def shares(one: ModelRollout, *ready: str) -> dict[str, int]:
    return {version.name: version.weight_bp for version in planned(one, *ready).versions}


@pytest.mark.parametrize("manifest", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_are_those_that_were_agreed(manifest):
    """Set HEADGATE_UPDATE_GOLDEN=1 to write them anew, then read the difference."""
    (found,) = parse(manifest.read_bytes(), manifest.name).rollouts
    text = "\n".join(told(found.rollout))
    golden = manifest.with_suffix(".txt")
    if os.environ.get("HEADGATE_UPDATE_GOLDEN") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


def told(one: ModelRollout) -> Iterator[str]:
    names = [version.name for version in one.spec.versions]
    cases = [names, *([name for name in names if name != gone] for gone in names if len(names) > 1), []]
    for ready in cases:
        got = planned(one, *ready)
        assert got.plan is not None
        yield f"== ready: {', '.join(ready) or 'none'}"
        yield from got.why
        yield from (f"{problem.severity}: {problem}" for problem in got.problems)
        for route in got.plan.routes:
            yield f"route {route.name}: {' and '.join(conditions(route.match))}"
            yield f"    timeout {route.timeout:g} s, idle {route.idle_timeout:g} s, hash {route.hash_header}"
            yield from (f"    -> {target.weight:5} {arrow(target)}" for target in route.targets)
            yield from (
                f"    copy {mirror.percent:g} % {mirror.backend} {dict(mirror.set_request_headers)}"
                for mirror in route.mirrors
            )
        for backend in got.plan.backends:
            servers = " ".join(f"{server.address}:{server.port}" for server in backend.endpoints)
            dns = " dns" if backend.dns else ""
            yield f"backend {backend.name} {backend.protocol}{dns} connect {backend.connect_timeout:g} s [{servers}]"
        yield ""


def conditions(match: Match) -> Iterator[str]:
    yield f"path {match.path.kind} {match.path.value}"
    if match.method:
        yield f"method {match.method}"
    for header in match.headers:
        yield f"header {header.name} {'not ' if header.invert else ''}{header.kind} {header.value}".strip()
    for query in match.query:
        yield f"query {query.name} {query.kind} {query.value}".strip()


def arrow(target: Target) -> str:
    return f"{target.backend} {dict(target.set_request_headers)} {dict(target.set_response_headers)}"


def test_without_a_strategy_everything_goes_to_the_primary():
    assert shares(rollout({}, {}), "v1", "v2") == {"v1": 10_000, "v2": 0}


def test_blue_green_shares_equally_and_relative_integers_are_scaled():
    assert shares(rollout({}, {}, strategy="blue-green"), "v1", "v2") == {"v1": 5_000, "v2": 5_000}
    weighted = rollout({"weight": 1}, {"weight": 3}, strategy="blue-green")
    assert shares(weighted, "v1", "v2") == {"v1": 2_500, "v2": 7_500}


def test_a_canary_gets_the_test_header_unless_it_says_something_itself():
    found = traffic(rollout({}, {}, strategy="canary"), "v1", "v2")
    header = found.routes[0].match.headers[0]
    assert (header.name, header.kind, header.value) == ("traffic", "exact", "test")
    assert found.routes[0].targets[0].backend == "ml/iris/v2"
    weighted = traffic(rollout({"weight": 9}, {"weight": 1}, strategy="canary"), "v1", "v2")
    assert [route.name for route in weighted.routes] == ["weighted"]


def test_a_mirror_gets_a_copy_of_everything_and_no_weight():
    for route in traffic(rollout({}, {}, strategy="mirror"), "v1", "v2").routes:
        assert [(target.version, target.weight) for target in route.targets] == [("v1", 10_000)]
        assert [(mirror.version, mirror.percent) for mirror in route.mirrors] == [("v2", 100.0)]


def test_copies_of_grpc_calls_go_by_http2_where_the_protocol_is_left_to_the_request():
    found = traffic(rollout({}, {}, strategy="mirror"), "v1", "v2")
    protocols = {backend.name: backend.protocol for backend in found.backends}
    grpc, rest = found.routes
    assert grpc.match.headers == (HeaderMatch("content-type", StringMatch.PREFIX, "application/grpc"),)
    assert [protocols[mirror.backend] for mirror in grpc.mirrors] == [Protocol.H2C]
    assert [protocols[mirror.backend] for mirror in rest.mirrors] == [Protocol.HTTP1]
    (only,) = traffic(rollout({}, {"protocol": "h2c"}, strategy="mirror"), "v1", "v2").routes
    assert [mirror.backend for mirror in only.mirrors] == ["ml/iris/v2~shadow"]


def test_an_own_mirror_takes_a_version_out_of_the_blue_green_split_unless_it_has_a_weight():
    assert shares(rollout({}, {"mirror": {}}, strategy="blue-green"), "v1", "v2") == {"v1": 10_000, "v2": 0}
    both = rollout({"weight": 9}, {"weight": 1, "mirror": {"percent": 5}})
    assert shares(both, "v1", "v2") == {"v1": 9_000, "v2": 1_000}
    assert planned(both, "v1", "v2").versions[1].mirror_percent == 5


def test_a_match_pins_testers_on_top_of_a_blue_green_split():
    one = rollout({}, {"match": [{"method": "POST"}]}, strategy="blue-green")
    assert [route.name for route in traffic(one, "v1", "v2").routes] == ["v2/match-0", "weighted"]
    assert shares(one, "v1", "v2") == {"v1": 5_000, "v2": 5_000}


def test_an_unready_version_has_no_weight_no_route_no_mirror_and_no_endpoints():
    one = rollout({}, {"weight": 1, "match": [{"method": "POST"}], "mirror": {}})
    found = traffic(one, "v1")
    assert [route.name for route in found.routes] == ["weighted"]
    assert found.routes[0].mirrors == ()
    assert {backend.name: len(backend.endpoints) for backend in found.backends} == {
        "ml/iris/v1": 1,
        "ml/iris/v2": 0,
        "ml/iris/v2~shadow": 0,
        "ml/iris/v2~shadow-grpc": 0,
    }


def test_the_reason_and_the_remedy_are_told_in_plain_words():
    assert planned(rollout({}, {}, strategy="blue-green"), "v1").why == (
        "v2 is not ready (connection refused): its 50 % goes to v1",
        "v1 (primary) is ready and gets 100 % of the traffic",
    )


def test_when_none_is_ready_the_primary_keeps_its_route_and_all_its_endpoints_are_tried():
    one = rollout({"backend": {"endpoints": ["10.0.0.1:1", "10.0.0.1:2"]}}, {}, strategy="blue-green")
    found = planned(one)
    assert found.plan.routes[-1].targets[0].backend == "ml/iris/v1"
    assert found.plan.backends[0].endpoints == (Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 2))
    assert found.plan.backends[1].endpoints == ()
    assert found.why == (
        "no version is ready (v1: connection refused; v2: connection refused): "
        "v1 keeps its route and every configured endpoint is tried",
    )


def test_a_mirror_that_stands_in_for_the_primary_is_not_sent_everything_twice():
    found = planned(rollout({}, {}, strategy="mirror"), "v2")
    assert found.plan.routes[0].targets[0].version == "v2"
    assert found.plan.routes[0].mirrors == ()
    assert found.versions[1].mirror_percent == 0
    assert found.why[-1] == "v2 gets no copies while it stands in for the others"


def test_every_answer_names_its_version_whether_weighted_or_matched():
    for route in traffic(rollout({}, {}, strategy="canary"), "v1", "v2").routes:
        for target in route.targets:
            assert target.set_response_headers == (("app-version", target.version),)


def test_versions_on_a_shared_server_share_one_cluster_and_differ_by_header():
    shared = {"backend": {"shared": {"endpoints": ["10.0.0.9:8033"]}}}
    found = traffic(rollout(shared, shared, strategy="blue-green", protocol="h2c"), "v1", "v2")
    assert [backend.name for backend in found.backends] == ["shared/10.0.0.9:8033/h2c"]
    assert [(target.version, target.set_request_headers) for target in found.routes[0].targets] == [
        ("v2", (("mm-vmodel-id", "v2"),)),
        ("v1", (("mm-vmodel-id", "v1"),)),
    ]


def test_a_model_with_plugins_at_its_backends_shares_no_cluster():
    shared = {"backend": {"shared": {"endpoints": ["10.0.0.9:8033"]}}}
    chain = Plugins(PluginHost.EMBEDDED, (Plugin("shadow", "shadow.py", at=PluginPlace.BACKEND),))
    one = rollout(shared, shared, strategy="mirror", protocol="h2c")
    found = traffic(one, "v1", "v2", plugins=Chosen(backend_plugins=chain))
    assert [one.name for one in found.backends] == [f"ml/iris/{name}" for name in ("v1", "v2", "v2~shadow")]
    assert {one.endpoints for one in found.backends} == {(Endpoint("10.0.0.9", 8033),)}
    (route,) = found.routes
    assert [one.set_request_headers for one in (*route.targets, *route.mirrors)] == [
        (("mm-vmodel-id", "v1"),),
        (("mm-vmodel-id", "v2"),),
    ]


def test_a_shared_cluster_does_not_depend_on_the_model_that_names_it():
    def cluster(name: str, *ready: str, servers: list[str]):
        one = rollout({"name": name, "backend": {"shared": {"endpoints": servers}}}, {})
        return traffic(one, *ready).backends[0]

    servers = ["10.0.0.9:1", "10.0.0.8:1"]
    assert cluster("a", "a", servers=servers) == cluster("b", servers=servers[::-1])


def test_a_shared_server_by_ip_is_one_cluster_whether_written_as_endpoint_or_as_host():
    by_endpoint = {"backend": {"shared": {"endpoints": ["10.0.0.9:8033"]}}}
    by_host = {"backend": {"shared": {"service": {"host": "10.0.0.9", "port": 8033}}}}
    assert traffic(rollout(by_endpoint), "v1").backends == traffic(rollout(by_host), "v1").backends


def test_a_service_is_looked_up_by_dns_and_listed_even_when_it_is_not_ready():
    one = rollout({}, {"backend": {"service": {"name": "iris-v2", "port": 80}}})
    backend = traffic(one, "v1").backends[1]
    assert backend.dns
    assert backend.endpoints == (Endpoint("iris-v2.ml.svc.cluster.local", 80),)


def test_another_connect_timeout_makes_another_shared_cluster():
    shared = {"backend": {"shared": {"endpoints": ["10.0.0.9:8033"]}}}
    found = traffic(rollout(shared, timeouts={"connect": "250ms"}), "v1")
    assert found.backends[0].name == "shared/10.0.0.9:8033/auto/connect-250ms"


def test_all_zero_weights_are_warned_of_and_the_primary_serves():
    found = planned(rollout({"weight": 0}, {"weight": 0}), "v1", "v2")
    assert found.plan.routes[0].targets[0].version == "v1"
    (warning,) = found.problems
    assert (warning.severity, warning.where) == ("warning", "ml/iris")
    assert warning.what == "all weights are 0: v1, the primary, serves everything"


def test_a_primary_without_a_weight_beside_weighted_candidates_is_warned_of():
    (warning,) = planned(rollout({}, {"weight": 10}), "v1", "v2").problems
    assert warning.field == "spec.versions[0].weight"
    assert warning.what == "v1, the primary, has no weight and counts as 1 beside v2's 10"


def test_a_regex_that_envoy_would_reject_for_its_size_is_warned_of():
    large = {"match": [{"headers": [{"name": "a", "regex": "[a-z]{96}"}], "path": {"regex": "/[a-z]{20}"}}]}
    assert planned(rollout({}, large), "v1", "v2").problems == ()
    large["match"][0]["headers"][0]["regex"] = "[a-z]{200}"
    (warning,) = planned(rollout({}, large), "v1", "v2").problems
    assert (warning.severity, warning.field) == ("warning", "spec.versions[1].match[0].headers[0].regex")
    assert warning.what == "the regular expression compiles to size 204; Envoy rejects more than 100"


def test_a_rollout_that_holds_none_of_its_hosts_is_not_served():
    one = rollout({})
    found = plan(one, observe(one, {}), RolloutState(), ())
    assert found.plan is None
    assert found.why[0] == "not served: other rollouts hold its hosts"


def test_only_the_weighted_route_is_sticky():
    found = traffic(rollout({}, {}, strategy="canary", sticky={"header": "X-User"}), "v1", "v2")
    assert [route.hash_header for route in found.routes] == [None, "x-user"]


def test_equal_input_gives_the_equal_plan():
    one = rollout({}, {}, strategy="blue-green")
    assert planned(one, "v1") == planned(one, "v1")
    assert hash(planned(one, "v1")) == hash(planned(one, "v1"))


own = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.integers(0, 1_000),
        "match": st.just([{"method": "POST"}]),
        "mirror": st.builds(lambda percent: {"percent": percent}, st.integers(1, 100)),
    },
)


@given(st.lists(own, min_size=1, max_size=6), st.sampled_from(list(Strategy)), st.data())
def test_no_traffic_of_any_kind_reaches_an_unready_version_while_another_is_ready(versions, strategy, data):
    versions[0].pop("mirror", None)
    one = rollout(*versions, strategy=strategy.value)
    ready = data.draw(st.frozensets(st.sampled_from([version.name for version in one.spec.versions])))
    found = planned(one, *ready)
    routes = found.plan.routes
    used = {target.version for route in routes for target in route.targets}
    used |= {mirror.version for route in routes for mirror in route.mirrors}
    assert used <= (ready or {"v1"})
    assert sum(version.weight_bp for version in found.versions) == 10_000
    served = {backend.name for backend in found.plan.backends if backend.endpoints}
    assert {target.backend for route in routes for target in route.targets} <= served
    assert routes[-1].name == "weighted"
    assert found.why
