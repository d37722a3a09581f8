"""What Envoy is told of plugins: one filter on a gateway's listeners, and at each model what differs from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from xds.ir import (
    Backend,
    Endpoint,
    Gateway,
    Listener,
    Match,
    ModelPlan,
    Plugin,
    PluginHost,
    PluginModels,
    Plugins,
    Route,
    Target,
)
from xds.readable import readable
from xds.resources import Resources, Type
from xds.translate import translate, translate_gateway

GOLDEN = Path(__file__).parents[1] / "golden" / "envoy"

STAMP = Plugin("stamp", "sidecar.plugins.stamp:Stamp", models=PluginModels.ALL)
LIMIT = Plugin("rate-limit", "limit.py:Limit", '{"per_second":100}', "closed", 0.005, memory=96 << 20)
EMBEDDED = Plugins(PluginHost.EMBEDDED, (STAMP, LIMIT), "/plugins", reload=True, calls=(("http://a:80", "a"),))
EXT_PROC = Plugins(PluginHost.EXT_PROC, (STAMP, LIMIT), address="unix:/run/headgate/plugins.sock", timeout=0.5)
HOSTS = {"embedded": EMBEDDED, "ext-proc": EXT_PROC}


def gateway(plugins: Plugins | None) -> Resources:
    listeners = (Listener("http", "127.0.0.1", 8080),)
    return translate_gateway(Gateway("default", listeners, count_requests=False, plugins=plugins))


def model(plugins: Plugins | None) -> Resources:
    route = Route("all", Match(), (Target("default/iris/v1", 10_000, "v1"),))
    backend = Backend("default/iris/v1", (Endpoint("10.0.0.1", 80),))
    return translate(ModelPlan("default/iris", "default", ("iris.test",), (route,), (backend,), "v1", plugins))


def at_backends(plugins: Plugins) -> dict[str, Any]:
    """The cluster of a model whose plugins run at its backends."""
    backends = (Backend("default/iris/v1", (Endpoint("10.0.0.1", 80),)), Backend("shared", (Endpoint("10.0.0.2", 80),)))
    route = Route("all", Match(), (Target("default/iris/v1", 10_000, "v1"),))
    plan = ModelPlan("default/iris", "default", ("iris.test",), (route,), backends, "v1", None, plugins)
    return dict(written(translate(plan), Type.CLUSTER)["CLUSTER"])


def written(resources: Resources, *kinds: Type) -> dict[str, Any]:
    return {kind.name: {name: readable(kind, one) for name, one in resources.get(kind, {}).items()} for kind in kinds}


def own(resources: Resources) -> dict[str, Any]:
    """What the model's routes say of plugins."""
    host = readable(Type.ROUTE, resources[Type.ROUTE]["default/iris"])["virtual_hosts"][0]
    found = host["typed_per_filter_config"]["headgate.plugins"]
    assert found["is_optional"] is True, "gRPC's own client would refuse the routes"
    return dict(found["config"])


@pytest.mark.parametrize("host", HOSTS)
def test_envoy_gets_what_the_golden_file_says(host: str) -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write the files anew, then read the difference."""
    plugins = HOSTS[host]
    got = {
        "gateway": written(gateway(plugins), Type.CLUSTER, Type.LISTENER),
        "asks for all": written(model(plugins), Type.ROUTE),
        "does without": written(model(replace(plugins, chain=())), Type.ROUTE),
    }
    file = GOLDEN / f"plugins-{host}.yaml"
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(got, sort_keys=False))
    assert got == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("host", HOSTS)
def test_a_cluster_has_the_plugins_of_backends_unless_others_share_it(host: str) -> None:
    clusters = at_backends(HOSTS[host])
    options = clusters["default/iris/v1"]["typed_extension_protocol_options"]
    (told,) = options.values()
    plugins, codec = told["http_filters"]
    assert (plugins["name"], codec["name"]) == ("headgate.plugins", "envoy.filters.http.upstream_codec")
    config = plugins["typed_config"]
    if host == "embedded":
        names = [one["name"] for one in json.loads(config["filter_config"]["value"])["plugins"]]
    else:
        assert not config.get("request_attributes"), "they end Envoy 1.40 there"
        choice = json.loads(config["grpc_service"]["initial_metadata"][0]["value"])
        assert choice["cluster"] == "default/iris/v1"
        names = [one["name"] for one in choice["plugins"]]
    assert names == ["stamp", "rate-limit"]
    assert "http_filters" not in json.dumps(clusters["shared"])


@pytest.mark.parametrize(
    ("properties", "asked"),
    [
        (None, ["xds.route_name", "xds.cluster_name", "source.address", "request.protocol"]),
        (("version", "source_address"), ["xds.cluster_name", "source.address"]),
        ((), []),
    ],
)
def test_envoy_tells_no_more_than_plugins_ask_for(properties: tuple[str, ...] | None, asked: list[str]) -> None:
    (listener,) = written(gateway(replace(EXT_PROC, properties=properties)), Type.LISTENER)["LISTENER"].values()
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    assert filters[1]["typed_config"].get("request_attributes", []) == asked


def test_listeners_and_routes_without_plugins_know_nothing_of_them() -> None:
    (listener,) = gateway(None)[Type.LISTENER].values()
    assert b"plugins" not in listener.body
    assert b"plugins" not in model(None)[Type.ROUTE]["default/iris"].body
    assert set(gateway(None)) == set(gateway(EMBEDDED)) == {Type.LISTENER}


@pytest.mark.parametrize("plugins", HOSTS.values(), ids=HOSTS)
def test_no_model_changes_the_listener(plugins: Plugins) -> None:
    asked = replace(plugins, chain=(STAMP, replace(LIMIT, config='{"per_second":1}')))
    assert model(asked)[Type.ROUTE] != model(plugins)[Type.ROUTE]
    for kind in (Type.CLUSTER, Type.ENDPOINT, Type.SCOPE, Type.LISTENER):
        assert model(asked)[kind] == model(None)[kind], "only routes differ"


def test_the_filter_of_the_listener_runs_what_runs_for_everybody() -> None:
    (listener,) = written(gateway(EMBEDDED), Type.LISTENER)["LISTENER"].values()
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    assert [one["name"] for one in filters] == [
        "envoy.filters.http.on_demand",
        "headgate.plugins",
        "envoy.filters.http.router",
    ]
    told = json.loads(filters[1]["typed_config"]["filter_config"]["value"])
    assert [one["name"] for one in told["plugins"]] == ["stamp"]


def test_inside_envoy_a_model_tells_its_whole_list() -> None:
    told = json.loads(own(model(EMBEDDED))["filter_config"]["value"])
    assert told == {
        "plugins": [
            {"plugin": "sidecar.plugins.stamp:Stamp", "name": "stamp"},
            {
                "plugin": "limit.py:Limit",
                "name": "rate-limit",
                "config": {"per_second": 100},
                "onFailure": "closed",
                "budget": 0.005,
                "memory": 96 << 20,
            },
        ],
        "folder": "/plugins",
        "reload": True,
        "calls": {"http://a:80": "a"},
    }


def test_beside_envoy_a_model_names_its_list_and_says_whether_it_can_do_without() -> None:
    told = own(model(EXT_PROC))["overrides"]
    assert json.loads(told["grpc_initial_metadata"][0]["value"]) == [
        {"name": "stamp"},
        {"name": "rate-limit", "config": {"per_second": 100}},
    ]
    assert told["failure_mode_allow"] is False
    assert own(model(replace(EXT_PROC, chain=(STAMP,))))["overrides"]["failure_mode_allow"] is True


def test_beside_envoy_nobody_is_asked_for_a_model_without_plugins() -> None:
    assert own(model(replace(EXT_PROC, chain=())))["disabled"] is True


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:/run/x.sock", {"pipe": {"path": "/run/x.sock"}}),
        ("127.0.0.1:9000", {"socket_address": {"address": "127.0.0.1", "port_value": 9000}}),
        ("[::1]:9000", {"socket_address": {"address": "::1", "port_value": 9000}}),
    ],
)
def test_the_process_beside_envoy_is_found(address: str, expected: dict[str, Any]) -> None:
    cluster = written(gateway(replace(EXT_PROC, address=address)), Type.CLUSTER)["CLUSTER"]["headgate.plugins"]
    assert cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] == expected


def test_after_the_warm_up_no_plugin_meets_a_message_for_the_first_time() -> None:
    script = """if True:
        import runpy, sys
        from dataclasses import replace
        from xds.encode import _plan
        from xds.translate import warm_up
        cases = runpy.run_path(sys.argv[1])
        warm_up()
        known = _plan.cache_info().currsize
        for plugins in cases["HOSTS"].values():
            cases["gateway"](plugins), cases["model"](plugins), cases["model"](replace(plugins, chain=()))
        print("met before:", known > 30, "new:", _plan.cache_info().currsize - known)
    """
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", script, __file__], capture_output=True, text=True, timeout=60, cwd=root)
    assert ran.stdout.strip() == "met before: True new: 0", ran.stderr
