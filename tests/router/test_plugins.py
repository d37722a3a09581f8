"""Which plugins run for which model, and what is wrong with what a model says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from router.engine import Engine
from router.manifests import Located
from router.plugins import Chosen, chosen
from router.schema import ModelRollout
from router.store import Store
from xds.ir import Gateway, ModelPlan, Plugin, PluginHost, PluginModels, PluginPlace, Plugins

STAMP = Plugin("stamp", "stamp.py", '{"header":"x-version"}', models=PluginModels.ALL)
LIMIT = Plugin("rate-limit", "limit.py", '{"burst":9,"per_second":100}', "closed")
REDACT = Plugin("redact", "redact.py", models=PluginModels.ALWAYS)
GATEWAY = Gateway("default", (), plugins=Plugins(PluginHost.EMBEDDED, (STAMP, LIMIT, REDACT)))


def rollout(*plugins: Mapping[str, Any], name: str = "iris") -> ModelRollout:
    return ModelRollout.model_validate(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": name},
            "spec": {
                "hosts": [f"{name}.test"],
                "versions": [{"name": "v1", "backend": {"endpoints": ["10.0.0.1:80"]}}],
                "plugins": list(plugins),
            },
        }
    )


def of(*plugins: Mapping[str, Any], gateway: Gateway = GATEWAY) -> Chosen:
    return chosen(rollout(*plugins), gateway, "iris.yaml:1")


def running(found: Chosen) -> dict[str, Any]:
    """Settings by name."""
    assert found.plugins is not None
    return {one.name: json.loads(one.config) for one in found.plugins.chain}


def test_a_model_that_says_nothing_needs_no_words_to_envoy() -> None:
    found = of()
    assert (found.plugins, found.running, found.problems) == (None, ("stamp", "redact"), ())


def test_a_model_that_asks_for_what_it_has_anyway_needs_none_either() -> None:
    assert of({"name": "stamp"}).plugins is None


def test_who_asks_gets_it_in_the_order_of_the_gateway() -> None:
    assert list(running(of({"name": "rate-limit"}))) == ["stamp", "rate-limit", "redact"]


def test_settings_are_laid_over_those_of_the_gateway() -> None:
    found = running(of({"name": "rate-limit", "config": {"per_second": 5}}))
    assert found["rate-limit"] == {"burst": 9, "per_second": 5}


def test_who_opts_out_is_spared() -> None:
    found = of({"name": "stamp", "enabled": False})
    assert list(running(found)) == ["redact"]
    assert "plugin stamp does not run: the model does without it" in found.why


@pytest.mark.parametrize(
    ("said", "field"), [({"enabled": False}, "enabled"), ({"config": {"kinds": []}}, "config")], ids=["off", "config"]
)
def test_what_the_gateway_always_runs_is_not_the_models_to_change(said: Mapping[str, Any], field: str) -> None:
    found = of({"name": "redact", **said})
    assert (found.plugins, found.running) == (None, ("stamp", "redact"))
    assert [str(one) for one in found.problems] == [
        f"iris.yaml:1: spec.plugins[0].{field}: plugin 'redact' is the gateway's: a model can neither switch it off "
        "nor configure it (leave it out, or ask those who run the gateway)"
    ]


def test_a_plugin_that_the_gateway_lacks_is_a_problem_with_a_guess_and_the_rest_runs() -> None:
    found = of({"name": "rate-limt"}, {"name": "rate-limit"})
    assert found.running == ("stamp", "rate-limit", "redact")
    assert found.missing is None
    assert [str(one) for one in found.problems] == [
        "iris.yaml:1: spec.plugins[0].name: gateway 'default' has no plugin 'rate-limt': "
        "the model is served without it (did you mean 'rate-limit'?)"
    ]
    assert "plugin rate-limt does not run: gateway default has none of that name" in found.why


@pytest.mark.parametrize("required", [False, True])
def test_doing_without_what_is_not_there_is_only_a_warning(required: bool) -> None:
    found = of({"name": "gone", "enabled": False, "required": required, "config": {"kept": "for later"}})
    assert [one.severity for one in found.problems] == ["warning"]
    assert found.missing is None


def test_a_gateway_without_plugins_says_where_they_are_given() -> None:
    (problem,) = of({"name": "stamp"}, gateway=Gateway("edge", ())).problems
    assert "gateways[].plugins" in problem.hint


def test_why_tells_of_each_plugin() -> None:
    assert of({"name": "rate-limit", "config": {"burst": 1}}).why == (
        "plugin stamp runs: the gateway runs it for all models",
        "plugin rate-limit runs: the model asks for it, with settings of its own",
        "plugin redact runs: the gateway runs it for all models",
    )


class Sink:
    def __init__(self) -> None:
        self.plans: dict[str, ModelPlan] = {}

    def apply(self, plan: ModelPlan) -> None:
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        del self.plans[model]


class Scene:
    """An engine driven by hand."""

    def __init__(self) -> None:
        self.store, self.sink = Store(), Sink()
        self.engine = Engine(self.store, self.sink, gateways={"default": GATEWAY})

    def put(self, *plugins: Mapping[str, Any]) -> None:
        self.store.put("default/iris", Located(rollout(*plugins), "iris.yaml:1"))
        for model in self.store.take_dirty():
            self.engine.update(model)

    def problems(self) -> list[str]:
        return [one.what for one in self.engine.models()["default/iris"].problems]


def test_the_plan_carries_what_runs_and_the_status_why() -> None:
    scene = Scene()
    scene.put({"name": "rate-limit"})
    plugins = scene.sink.plans["default/iris"].plugins
    assert plugins is not None
    assert [one.name for one in plugins.chain] == ["stamp", "rate-limit", "redact"]
    assert "plugin rate-limit runs: the model asks for it" in scene.engine.models()["default/iris"].why


def test_a_new_model_that_requires_what_is_not_there_is_not_served() -> None:
    scene = Scene()
    scene.put({"name": "auth", "required": True})
    assert scene.sink.plans == {}
    assert scene.problems() == ["gateway 'default' has no plugin 'auth': the traffic stays as it was"]


def test_a_model_that_comes_to_require_what_is_not_there_keeps_its_traffic() -> None:
    scene = Scene()
    scene.put({"name": "rate-limit"})
    before = dict(scene.sink.plans)
    scene.put({"name": "stamp", "enabled": False}, {"name": "auth", "required": True})
    assert scene.sink.plans == before
    scene.put({"name": "stamp", "enabled": False})
    assert scene.sink.plans != before
    assert scene.problems() == []


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ([{"name": "a"}, {"name": "a"}], "plugin 'a' is already spec.plugins[0]"),
        ([{"name": "a", "config": [1]}], "must be a mapping"),
        ([{"name": "a", "config": {"x": "y" * 5_000}}], "characters of settings are too many"),
        ([{"name": "a", "config": {"x": float("nan")}}], "cannot be written as JSON"),
        ([{"name": "a", "enabled": "yes"}], "must be true or false"),
        ([{"enabled": True}], "is missing"),
    ],
)
def test_nonsense_is_refused_in_words(plugins: list[Mapping[str, Any]], expected: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + expected.replace("[", r"\[")):
        rollout(*plugins)


def test_settings_come_out_as_they_went_in() -> None:
    one = rollout({"name": "a", "config": {"b": [1, {"c": None}], "a": "ä"}})
    assert one.model_dump(by_alias=True)["spec"]["plugins"][0]["config"] == {"b": [1, {"c": None}], "a": "ä"}


def test_plugins_of_backends_go_to_the_clusters_and_leave_the_routes_alone() -> None:
    shadow = Plugin("shadow", "shadow.py", models=PluginModels.ALL, at=PluginPlace.BACKEND)
    gateway = Gateway("default", (), plugins=Plugins(PluginHost.EMBEDDED, (STAMP, shadow)))
    silent = of(gateway=gateway)
    assert (silent.plugins, silent.running) == (None, ("stamp", "shadow"))
    assert silent.backend_plugins is not None
    assert [one.name for one in silent.backend_plugins.chain] == ["shadow"]
    without = of({"name": "shadow", "enabled": False}, gateway=gateway)
    assert (without.plugins, without.backend_plugins, without.running) == (None, None, ("stamp",))
