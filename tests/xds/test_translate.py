"""What Envoy gets for a plan: the joined bytes against the same thing written out, and against Envoy itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xds.bootstrap import bootstrap
from xds.ir import (
    Backend,
    Endpoint,
    Gateway,
    HeaderMatch,
    Listener,
    Match,
    Mirror,
    ModelPlan,
    PathKind,
    PathMatch,
    Protocol,
    QueryMatch,
    Route,
    Stream,
    StringMatch,
    Target,
)
from xds.readable import readable
from xds.resources import Resources, Type
from xds.translate import translate, translate_gateway

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "envoy"

IRIS, V1, V2, SHADOW = "default/iris", "default/iris/v1", "default/iris/v2", "default/iris/v2~shadow"
SERVERS = {
    name: Backend(name, (Endpoint(address, 8001),))
    for name, address in {V1: "10.0.0.1", V2: "10.0.0.2", SHADOW: "10.0.0.2"}.items()
}


def plan(*routes: Route, backends: tuple[Backend, ...] = tuple(SERVERS.values())) -> ModelPlan:
    return ModelPlan(IRIS, "default", ("iris.example.com",), routes, backends)


def split(weight_of_v2: int = 1_000, **more: Any) -> Route:
    return Route("split", Match(), (Target(V1, 10_000 - weight_of_v2, "v1"), Target(V2, weight_of_v2, "v2")), **more)


def only(match: Match, **more: Any) -> Route:
    return Route("only", match, (Target(V1, 10_000, "v1", **more),))


def header(kind: StringMatch, value: str = "test", invert: bool = False) -> Match:
    return Match(headers=(HeaderMatch("traffic", kind, value, invert),))


PLANS: dict[str, ModelPlan] = {
    "primary-alone": plan(only(Match()), backends=(SERVERS[V1],)),
    "canary": plan(Route("pin", header(StringMatch.EXACT), (Target(V2, 10_000, "v2"),)), split()),
    "mirror": plan(
        Route(
            "main",
            Match(),
            (Target(V1, 10_000, "v1"),),
            mirrors=(
                Mirror(SHADOW, 20.0, "v2", (("x-experiment", "50%"),)),
                Mirror(V2, 0.0125, "v2"),
            ),
            timeout=30.0,
        )
    ),
    "sticky": plan(split(2_500, hash_header="x-user", idle_timeout=0.0)),
    "shared-server": plan(
        Route(
            "split",
            Match(),
            (
                Target(
                    "shared/10.0.0.9:8033/h2c",
                    10_000,
                    "v1",
                    set_request_headers=(("mm-vmodel-id", "iris-v1"),),
                    remove_request_headers=("x-debug",),
                    set_response_headers=(("app-version", "first"), ("x-empty", "")),
                ),
            ),
        ),
        backends=(Backend("shared/10.0.0.9:8033/h2c", (Endpoint("10.0.0.9", 8033),), Protocol.H2C),),
    ),
    "dns": plan(
        only(Match()),
        backends=(
            Backend(V1, (Endpoint("iris-v1.default.svc.cluster.local", 80),), Protocol.HTTP1, True, 0.25),
            Backend(V2, ()),
        ),
    ),
    "rewrite": plan(
        Route(
            "same-path",
            header(StringMatch.EXACT),
            (Target(V2, 10_000, "v2", host_rewrite="v2.test", path_rewrite="/v1/models/iris-2:predict"),),
        ),
        Route(
            "split",
            Match(),
            (
                Target(V1, 9_000, "v1", host_rewrite="v1.test", path_rewrite="/50%"),
                Target(V2, 1_000, "v2", set_request_headers=(("x-note", "mine"),)),
            ),
            mirrors=(
                Mirror(SHADOW, 20.0, "v2", host_rewrite="v2.test", path_rewrite="/v1/models/iris-2:predict"),
                Mirror(SHADOW, 10.0, "v2"),
            ),
        ),
        Route("only-the-copy", Match(), (Target(V1, 10_000, "v1"),), (Mirror(SHADOW, 1.0, "v2", (), "v2.test"),)),
    ),
    "lingering": ModelPlan(IRIS, "default", (), (), (SERVERS[V1],)),
    "every-match": plan(
        *(only(header(kind)) for kind in StringMatch),
        *(only(header(kind, invert=True)) for kind in StringMatch),
        *(only(Match(query=(QueryMatch("debug", kind, "1"),))) for kind in StringMatch),
        *(only(Match(PathMatch(kind, "/v2/models"))) for kind in PathKind),
        only(Match(method="POST")),
        only(Match()),
    ),
}
GATEWAYS = {
    "gateway": Gateway("default", (Listener("http", "0.0.0.0", 8080),)),
    "gateway-mirrored": Gateway("default", (Listener("http", "0.0.0.0", 8080),)),
    "gateway-tls": Gateway(
        "default",
        (Listener("https", "::", 8443, tls="certificate"), Listener("mtls", "::1", 8444, "certificate", "ca")),
    ),
}


def written(resources: Resources) -> dict[str, dict[str, Any]]:
    return {
        kind.name: {name: readable(kind, resource) for name, resource in by_name.items()}
        for kind, by_name in resources.items()
    }


@pytest.mark.parametrize("case", [*PLANS, *GATEWAYS])
def test_envoy_gets_what_the_golden_file_says(case):
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write the files anew, then read the difference."""
    if case in PLANS:
        got = written(translate(PLANS[case]))
    else:
        got = written(translate_gateway(GATEWAYS[case], mirrored=case == "gateway-mirrored"))
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(got, sort_keys=False))
    assert got == yaml.safe_load(file.read_text())


def test_a_plan_without_routes_keeps_its_clusters_and_endpoints_alone():
    got = translate(PLANS["lingering"])
    assert {kind for kind, named in got.items() if named} == {Type.CLUSTER, Type.ENDPOINT}
    before = translate(PLANS["primary-alone"])
    assert (got[Type.CLUSTER], got[Type.ENDPOINT]) == (before[Type.CLUSTER], before[Type.ENDPOINT])


def test_hosts_without_routes_lead_nowhere():
    with pytest.raises(ValueError, match="has hosts, but no routes"):
        ModelPlan(IRIS, "default", ("iris.example.com",), (), (SERVERS[V1],))


# The law: however it was joined, it reads as if it had been written in one piece.

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
headers = st.lists(st.tuples(st.from_regex(r"\Ax-[a-z]{1,6}\Z"), st.text("ab%0 ", max_size=6)), max_size=2).map(tuple)
seconds = st.integers(0, 600_000).map(lambda milliseconds: milliseconds / 1000)
percents = st.integers(1, 1_000_000).map(lambda millionths: millionths / 10_000)
kinds = st.sampled_from([kind for kind in StringMatch if kind is not StringMatch.PRESENT])
matches = st.builds(
    Match,
    st.builds(PathMatch, st.sampled_from(PathKind), names),
    st.lists(st.builds(HeaderMatch, names, kinds, names, st.booleans()), max_size=2).map(tuple),
    st.lists(st.builds(QueryMatch, names, kinds, names), max_size=2).map(tuple),
    st.none() | st.sampled_from(["GET", "POST"]),
)
removed = st.lists(names, max_size=2).map(tuple)
endpoints = st.lists(st.builds(Endpoint, names, st.integers(0, 65_535)), max_size=3).map(tuple)


@st.composite
def plans(draw: st.DrawFn) -> ModelPlan:
    model = draw(names)
    known = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    backends = [
        Backend(f"{model}/{name}", draw(endpoints), draw(st.sampled_from(Protocol)), draw(st.booleans()), draw(seconds))
        for name in known
    ]
    any_backend = st.sampled_from([backend.name for backend in backends])
    routes = []
    for _ in range(draw(st.integers(1, 2))):
        cuts = sorted(draw(st.sets(st.integers(1, 9_999), max_size=2)))
        weights = [high - low for low, high in zip([0, *cuts], [*cuts, 10_000], strict=True)]
        targets = [
            Target(
                draw(any_backend),
                weight,
                draw(names),
                draw(headers),
                tuple(draw(st.lists(names, max_size=2))),
                draw(headers),
            )
            for weight in weights
        ]
        mirrors = draw(st.lists(st.builds(Mirror, any_backend, percents, names, headers), max_size=2))
        times = draw(st.tuples(seconds, seconds))
        sticky = draw(st.none() | names)
        routes.append(Route(draw(names), draw(matches), tuple(targets), tuple(mirrors), *times, sticky))
    hosts = tuple(draw(st.lists(names, min_size=1, max_size=2, unique=True)))
    return ModelPlan(model, "default", hosts, tuple(routes), tuple(backends), draw(st.just("") | names))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans(), st.booleans())
def test_joined_routes_scopes_and_endpoints_read_as_if_written_in_one_piece(model, on_demand):
    got = written(translate(model, on_demand=on_demand))
    assert got["ROUTE"] == {model.name: in_one_piece(model)}
    assert got["ENDPOINT"] == {each.name: endpoints_of(each) for each in model.backends if not each.dns}
    assert got["SCOPE"] == {
        host: {
            **({"on_demand": True} if on_demand else {}),
            "name": host,
            "route_configuration_name": model.name,
            "key": {"fragments": [{"string_key": host}]},
        }
        for host in model.hosts
    }
    for backend in model.backends:
        cluster = got["CLUSTER"][backend.name]
        assert cluster["name"] == backend.name
        assert cluster.get("load_assignment") == (endpoints_of(backend) if backend.dns else None)
        assert duration_of(cluster["connect_timeout"]) == pytest.approx(backend.connect_timeout)
    for host in model.hosts:
        manager = got["LISTENER"][host]["api_listener"]["api_listener"]
        assert (got["LISTENER"][host]["name"], manager["rds"]["route_config_name"]) == (host, model.name)


def in_one_piece(model: ModelPlan) -> dict[str, Any]:
    hosts = {"name": model.name, "domains": ["*"], "routes": [route_of(model, route) for route in model.routes]}
    return {"name": model.name, "virtual_hosts": [without_empty(hosts)], "validate_clusters": False}


def route_of(model: ModelPlan, route: Route) -> dict[str, Any]:
    sticky = {"use_hash_policy": True} if route.hash_header else {}
    action = {
        "weighted_clusters": {"clusters": [arm_of(target) for target in route.targets], **sticky},
        "timeout": shown(route.timeout),
        "idle_timeout": shown(route.idle_timeout),
        "request_mirror_policies": [mirror_of(mirror) for mirror in route.mirrors],
        "hash_policy": [{"header": {"header_name": route.hash_header}}] if route.hash_header else [],
    }
    named = f"{model.primary}@{model.name}" + ("" if route.name == "weighted" else f"@{route.name}")
    return {"name": named, "match": match_of(route.match), "route": without_empty(action)}


def arm_of(target: Target) -> dict[str, Any]:
    return without_empty(
        {
            "name": target.backend,
            "weight": target.weight,
            "request_headers_to_add": [overwrite(*each) for each in target.set_request_headers],
            "request_headers_to_remove": list(target.remove_request_headers),
            "response_headers_to_add": [
                overwrite("app-version", target.version),
                *(overwrite(*each) for each in target.set_response_headers),
            ],
        }
    )


def mirror_of(mirror: Mirror) -> dict[str, Any]:
    millionths = round(mirror.percent * 10_000)
    coarse = {"numerator": millionths // 100, "denominator": "TEN_THOUSAND"}
    fraction = {"numerator": millionths, "denominator": "MILLION"} if millionths % 100 else coarse
    marked = [*mirror.set_request_headers, ("x-shadow", "true")]
    return {
        "cluster": mirror.backend,
        "runtime_fraction": {"default_value": fraction},
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [{"append": overwrite(*each)} for each in marked],
    }


def match_of(match: Match) -> dict[str, Any]:
    path = match.path.value
    by_path: dict[PathKind, dict[str, Any]] = {
        PathKind.PREFIX: {"prefix": path},
        PathKind.EXACT: {"path": path},
        PathKind.REGEX: {"safe_regex": {"regex": path}},
    }
    method = [{"name": ":method", "string_match": {"exact": match.method}}] if match.method else []
    inverted = {"invert_match": True, "treat_missing_header_as_empty": True}
    by_header = [
        {"name": each.name, "string_match": string_of(each.kind, each.value), **(inverted if each.invert else {})}
        for each in match.headers
    ]
    by_query = [{"name": each.name, "string_match": string_of(each.kind, each.value)} for each in match.query]
    return without_empty({**by_path[match.path.kind], "headers": [*method, *by_header], "query_parameters": by_query})


def string_of(kind: StringMatch, value: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": value}} if kind is StringMatch.REGEX else {kind.value: value}


def overwrite(name: str, value: str) -> dict[str, Any]:
    header = {"key": name, "value": value.replace("%", "%%")} if value else {"key": name}
    kept = {} if value else {"keep_empty_value": True}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD", **kept}


def endpoints_of(backend: Backend) -> dict[str, Any]:
    if not backend.endpoints:
        return {"cluster_name": backend.name}
    found = [
        {"endpoint": {"address": {"socket_address": {"address": each.address, "port_value": each.port}}}}
        for each in backend.endpoints
    ]
    return {
        "cluster_name": backend.name,
        "endpoints": [{"locality": {}, "lb_endpoints": found, "load_balancing_weight": 1}],
    }


def without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != []}


def shown(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole}.{milliseconds:03}s" if milliseconds else f"{whole}s"


def duration_of(text: str) -> float:
    return float(text.removesuffix("s"))


# What must stay true, one sentence each.


def resource(model: ModelPlan, kind: Type, name: str, **more: Any):
    return translate(model, **more)[kind][name]


def test_equal_plans_give_equal_resources():
    assert translate(plan(split())) == translate(plan(split()))


def test_a_changed_weight_changes_the_routes_and_nothing_else():
    before, after = translate(plan(split(1_000))), translate(plan(split(2_000)))
    assert {kind for kind in before if before[kind] != after[kind]} == {Type.ROUTE}


@pytest.mark.parametrize(
    ("requests", "copies", "streams", "mirrored", "loggers"),
    [
        (1, 1, 0, 1, (3, 2)),
        (1, 1, 0, 0, (3, 0)),
        (1, 0, 0, 1, (3, 0)),
        (0, 1, 0, 1, (0, 0)),
        (0, 0, 1, 1, (1, 0)),
        (1, 1, 1, 1, (4, 2)),
    ],
)
def test_a_gateway_has_the_loggers_of_what_it_counts(requests, copies, streams, mirrored, loggers):
    stream = Stream() if streams else None
    counted = {"count_requests": bool(requests), "count_copies": bool(copies), "stream": stream}
    got = written(translate_gateway(replace(GATEWAYS["gateway"], **counted), mirrored=bool(mirrored)))
    (listener,) = got["LISTENER"].values()
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    own = manager["http_filters"][-1]
    of_its_own = got["EXTENSION"][own["name"]] if "config_discovery" in own else own
    router = of_its_own["typed_config"]
    assert (len(manager.get("access_log", ())), len(router.get("upstream_log", ()))) == loggers
    ours = bool(requests or streams)
    assert router.get("dynamic_stats", True) is not ours, "Envoy keeps its own figures where we do not count"


def test_the_first_and_the_last_mirrored_model_never_touch_a_listener():
    without, mirrored = (translate_gateway(GATEWAYS["gateway"], mirrored=each) for each in (False, True))
    assert {kind for kind in without if without[kind] != mirrored[kind]} == {Type.EXTENSION}


def test_a_weight_change_is_a_few_hundred_bytes():
    assert len(resource(plan(split()), Type.ROUTE, IRIS).body) < 300


def test_a_route_refers_to_every_cluster_that_it_sends_to_mirrors_too():
    assert resource(PLANS["mirror"], Type.ROUTE, IRIS).refs == (V1, SHADOW, V2)
    assert resource(PLANS["canary"], Type.ROUTE, IRIS).refs == (V2, V1)


def test_a_scope_refers_to_its_routes():
    assert resource(plan(split()), Type.SCOPE, "iris.example.com").refs == (IRIS,)


def test_only_endpoint_sets_without_endpoints_are_late():
    model = plan(only(Match()), backends=(SERVERS[V1], Backend(V2, ())))
    assert not resource(model, Type.ENDPOINT, V1).late
    assert resource(model, Type.ENDPOINT, V2).late


def test_listeners_for_grpc_clients_go_to_those_who_ask_by_name():
    assert resource(plan(split()), Type.LISTENER, "iris.example.com").named_only
    assert not any(each.named_only for each in translate_gateway(GATEWAYS["gateway"])[Type.LISTENER].values())


def test_crossing_the_on_demand_threshold_changes_scopes_only():
    eager, lazy = translate(plan(split())), translate(plan(split()), on_demand=True)
    assert {kind for kind in eager if eager[kind] != lazy[kind]} == {Type.SCOPE}


def test_a_server_shared_by_two_models_is_the_same_cluster_for_both():
    shared = PLANS["shared-server"]
    other = replace(shared, name="default/other")
    for kind in (Type.CLUSTER, Type.ENDPOINT):
        assert translate(shared)[kind] == translate(other)[kind]


def test_a_dns_backend_carries_its_endpoints_inline():
    assert V1 not in translate(PLANS["dns"])[Type.ENDPOINT]


def test_every_answer_names_its_version_unless_the_plan_names_it_otherwise():
    def version_header(**more: Any) -> list[str]:
        routes = readable(Type.ROUTE, resource(plan(only(Match(), **more)), Type.ROUTE, IRIS))
        arm = routes["virtual_hosts"][0]["routes"][0]["route"]["weighted_clusters"]["clusters"][0]
        return [each["header"]["value"] for each in arm["response_headers_to_add"]]

    assert version_header() == ["v1"]
    assert version_header(set_response_headers=(("App-Version", "one"),)) == ["one"]


def test_a_copy_cannot_pass_for_the_original():
    mirrors = (Mirror(V2, 100.0, "v2", (("X-Shadow", "false"),)),)
    routes = readable(Type.ROUTE, resource(plan(split(mirrors=mirrors)), Type.ROUTE, IRIS))
    (policy,) = routes["virtual_hosts"][0]["routes"][0]["route"]["request_mirror_policies"]
    assert [each["append"]["header"] for each in policy["request_headers_mutations"]] == [
        {"key": "x-shadow", "value": "true"}
    ]


def test_after_the_warm_up_no_plan_meets_a_message_for_the_first_time():
    script = """if True:
        import runpy, sys
        from xds.encode import _plan
        from xds.translate import secret, translate, translate_gateway, warm_up
        cases = runpy.run_path(sys.argv[1])
        warm_up()
        known = _plan.cache_info().currsize
        for plan in cases["PLANS"].values():
            translate(plan, on_demand=True)
        for gateway in cases["GATEWAYS"].values():
            translate_gateway(gateway)
        secret("tls", b"", b"")
        print("met before:", known > 30, "new:", _plan.cache_info().currsize - known)
    """
    ran = subprocess.run([sys.executable, "-c", script, __file__], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.stdout.strip() == "met before: True new: 0", ran.stderr


# The judge: Envoy.


def test_envoy_accepts_every_plan(envoy_accepts):
    """One start for all: clusters and scopes inline, since nothing answers ADS here."""
    models = {case: renamed(model, case) for case, model in PLANS.items()}
    config = bootstrap(node_id="n", node_cluster="default", xds_address="127.0.0.1", xds_port=1)
    found = [written(translate(model)) for model in models.values()]
    config["static_resources"]["clusters"] += [each for model in found for each in model["CLUSTER"].values()]
    listeners = [written(translate_gateway(gateway))["LISTENER"] for gateway in GATEWAYS.values()]
    config["static_resources"]["listeners"] = [each for by_name in listeners for each in by_name.values()]
    for each in config["static_resources"]["listeners"]:
        give_scopes_inline(each, found)
    assert envoy_accepts(config) == (True, "")


def test_envoy_is_a_judge_that_refuses(envoy_accepts):
    """What keeps the test above from passing whatever it is given."""
    config = bootstrap(node_id="n", node_cluster="default", xds_address="127.0.0.1", xds_port=1)
    bad = plan(only(header(StringMatch.REGEX, "(")))
    listener = written(translate_gateway(GATEWAYS["gateway"]))["LISTENER"]["http"]
    give_scopes_inline(listener, [written(translate(bad))])
    config["static_resources"]["listeners"] = [listener]
    accepted, why = envoy_accepts(config)
    assert not accepted
    assert "missing )" in why


def renamed(model: ModelPlan, case: str) -> ModelPlan:
    """Give a plan's clusters and host names of their own, so that all plans fit into one Envoy."""

    def own(backend: str) -> str:
        return f"{case}/{backend}"

    routes = tuple(
        replace(
            route,
            targets=tuple(replace(target, backend=own(target.backend)) for target in route.targets),
            mirrors=tuple(replace(mirror, backend=own(mirror.backend)) for mirror in route.mirrors),
        )
        for route in model.routes
    )
    backends = tuple(replace(backend, name=own(backend.name)) for backend in model.backends)
    return replace(
        model, name=own(model.name), hosts=(f"{case}.example.com",) if routes else (), routes=routes, backends=backends
    )


def give_scopes_inline(listener: dict[str, Any], models: list[dict[str, dict[str, Any]]]) -> None:
    scopes = [
        {"name": host, "key": scope["key"], "route_configuration": model["ROUTE"][scope["route_configuration_name"]]}
        for model in models
        for host, scope in model["SCOPE"].items()
    ]
    routes = listener["filter_chains"][0]["filters"][0]["typed_config"]["scoped_routes"]
    del routes["scoped_rds"]
    routes["scoped_route_configurations_list"] = {"scoped_route_configurations": scopes}
