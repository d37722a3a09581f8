"""A paused rollout keeps its traffic whatever is edited; what fails still loses it; resuming applies everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.engine import PAUSED, Engine, Forgetful
from router.held import held, hold
from router.manifests import Located, read
from router.observe import observe
from router.plan import Planned, plan
from router.schema import ModelRollout
from router.site import Site
from router.step import RolloutState, step
from router.store import Store
from xds.ir import Gateway, ModelPlan

HOSTS = ("iris.test",)
NAMES = ("v1", "v2", "v3", "v4")


def rollout(versions: list[dict[str, Any]], **spec: Any) -> ModelRollout:
    made = read(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris"},
            "spec": {"hosts": list(HOSTS), "versions": versions, **spec},
        },
        "here",
    )
    assert isinstance(made, ModelRollout), made
    return made


def version(name: str, **traffic: Any) -> dict[str, Any]:
    return {"name": name, "backend": {"endpoints": [f"10.0.0.{NAMES.index(name) + 1}:80"]}, **traffic}


text = st.text("abcxyz-", min_size=1, max_size=5)
header = st.builds(lambda name, value: {"name": name, "exact": value}, text, text)
path = st.builds(lambda one: {"prefix": f"/{one}"}, text)
query = st.builds(lambda one: {"name": one, "present": True}, text)
matches = st.lists(
    st.fixed_dictionaries({"headers": st.lists(header, min_size=1, max_size=2)})
    | st.fixed_dictionaries({"path": path, "method": st.sampled_from(["GET", "POST"])})
    | st.fixed_dictionaries({"query": st.lists(query, min_size=1, max_size=1)}),
    min_size=1,
    max_size=2,
)
mirrors = st.fixed_dictionaries(
    {"percent": st.sampled_from([0.5, 20, 100])},
    optional={"requestHeaders": st.dictionaries(text.map(lambda one: f"x-{one}"), text, max_size=2)},
)
traffic = st.fixed_dictionaries({}, optional={"weight": st.integers(0, 100), "match": matches})


@st.composite
def rollouts(draw: st.DrawFn, among: tuple[str, ...] = NAMES, all_of: tuple[str, ...] = ()) -> ModelRollout:
    """Any split of these versions, `all_of` them always among them."""
    more = draw(st.lists(st.sampled_from(among), unique=True, min_size=0 if all_of else 1))
    names = draw(st.permutations(sorted({*more, *all_of})))
    primary = draw(st.sampled_from(names))
    copies = {one: draw(st.just({}) | st.fixed_dictionaries({"mirror": mirrors})) for one in names if one != primary}
    versions = [version(one, **draw(traffic), **copies.get(one, {})) for one in names]
    sticky = draw(st.just({}) | st.just({"sticky": {"header": "x-user"}}))
    strategy = draw(st.sampled_from(["none", "blue-green", "canary", "mirror"]))
    return rollout(versions, primary=primary, strategy=strategy, **sticky)


def with_(made: ModelRollout, **changes: Any) -> ModelRollout:
    return made.model_copy(update={"spec": made.spec.model_copy(update=changes)})


def planned(
    made: ModelRollout, state: RolloutState, unready: frozenset[str] = frozenset()
) -> tuple[Planned, RolloutState]:
    """One turn of the engine's work."""
    sites = {one.name: Site(one.name not in unready, "", one.backend.servers("default")) for one in made.spec.versions}
    observed = observe(made, {}, sites)
    state = step(made, observed, state, 0.0)
    return plan(held(made, state.held) if state.held else made, observed, state, HOSTS), state


def shares(found: Planned) -> Any:
    """All that decides who gets a request."""
    assert found.plan is not None
    return {
        (route.name, route.match): (
            {one.version: one.weight for one in route.targets if one.weight},
            {(one.version, one.percent, one.set_request_headers) for one in route.mirrors},
        )
        for route in found.plan.routes
    }


def roles(found: Planned) -> dict[str, str]:
    return {one.name: one.role for one in found.versions}


@settings(deadline=None)
@given(rollouts())
def test_a_pause_changes_nothing_at_first_and_survives_the_status(before):
    flowing, state = planned(before, RolloutState())
    paused, kept = planned(with_(before, paused=True), state)
    assert paused.plan == flowing.plan
    written = RolloutState.from_json(json.loads(json.dumps(kept.to_json())))
    assert written == kept
    assert held(before, kept.held).spec.versions == before.spec.versions


@settings(deadline=None)
@given(st.data())
def test_no_edit_of_a_paused_rollout_moves_traffic_while_its_versions_exist(data):
    before = data.draw(rollouts())
    there = tuple(one.name for one in before.spec.versions)
    flowing, state = planned(with_(before, paused=True), planned(before, RolloutState())[1])
    edited = flowing
    for _ in range(data.draw(st.integers(1, 3))):
        after = data.draw(rollouts(all_of=there))
        edited, state = planned(with_(after, paused=True), state)
        restarted, again = planned(with_(after, paused=True), RolloutState.from_json(state.to_json()))
        assert (restarted, again) == (edited, state)
        for one in (edited, restarted):
            assert shares(one) == shares(flowing)
            assert {name: role for name, role in roles(one).items() if name in there} == roles(flowing)
    resumed, state = planned(after, state)
    assert not state.held
    assert shares(resumed) == shares(planned(after, RolloutState())[0])


@settings(deadline=None)
@given(st.data())
def test_a_paused_rollout_loses_what_fails_and_what_is_taken_out_and_gives_newcomers_nothing(data):
    before = data.draw(rollouts())
    there = [one.name for one in before.spec.versions]
    _, state = planned(with_(before, paused=True), RolloutState())
    after = data.draw(rollouts())
    unready = data.draw(st.frozensets(st.sampled_from([one.name for one in after.spec.versions])))
    found, _ = planned(with_(after, paused=True), state, unready)
    now = {one.name for one in after.spec.versions}
    stayed = [one for one in there if one in now and one not in unready]
    assert found.plan is not None
    assert {one.version for route in found.plan.routes for one in route.targets} <= now
    for one in found.versions:
        if one.name in unready and len(unready) < len(now):
            assert not one.match
            assert not one.mirror_percent
            assert not one.weight_bp
        if one.name not in there and stayed and any(points(before, name) for name in stayed):
            assert not one.weight_bp


def points(made: ModelRollout, name: str) -> int:
    found, _ = planned(made, RolloutState())
    return next(one.weight_bp for one in found.versions if one.name == name)


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"primary": "v1", "strategy": "none", "versions": []}',
        '{"primary": [], "strategy": "none", "versions": {}}',
        '{"primary": "v1", "strategy": "no such", "versions": {}}',
        *(
            f'{{"primary": "v1", "strategy": "none", "versions": {{"v1": {{"{name}": {value}}}}}}}'
            for name, value in [
                ("weight", '"5"'), ("weight", "true"), ("weight", "1.5"), ("weight", "-1"), ("weight", "1000001"),
                ("weight", "[1]"), ("match", "7"), ("match", '[{"path": {"regex": "("}}]'), ("match", "[1]"),
            ]
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_of_a_pause_is_as_if_nothing_was_kept(kept):
    made = rollout([version("v1", weight=1), version("v2", weight=3)])
    assert held(made, kept) == made


def test_what_is_kept_is_the_traffic_only():
    made = rollout([version("v1"), version("v2", weight=3, mirror={"percent": 20, "requestHeaders": {"x": "y"}})])
    assert json.loads(hold(made)) == {
        "primary": "v1",
        "strategy": "none",
        "versions": {"v1": {}, "v2": {"weight": 3, "mirror": {"percent": 20, "requestHeaders": {"x": "y"}}}},
    }


class Sink:
    def __init__(self) -> None:
        self.plans: dict[str, ModelPlan] = {}

    def apply(self, plan: ModelPlan) -> None:
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        del self.plans[model]


def test_through_the_engine_a_pause_outlives_a_restart_and_says_so():
    states, sinks = Forgetful(), [Sink(), Sink()]
    store = Store()
    versions = [version("v1", weight=80), version("v2", weight=20)]
    edited = [version("v1", weight=10), version("v2", weight=90)]
    engine = Engine(store, sinks[0], gateways={"default": Gateway("default", ())}, states=states)
    for made in (rollout(versions), rollout(versions, paused=True), rollout(edited, paused=True)):
        store.put(made.key, Located(made, "here"))
        engine.update(made.key)
    again = Engine(store, sinks[1], gateways={"default": Gateway("default", ())}, states=states)
    again.update(made.key)
    for one, sink in zip((engine, again), sinks, strict=True):
        assert {arm.version: arm.weight for arm in sink.plans[made.key].routes[-1].targets} == {"v1": 8000, "v2": 2000}
        assert one.models()[made.key].why[0] == PAUSED
    store.put(made.key, Located(rollout(edited), "here"))
    again.update(made.key)
    assert {arm.version: arm.weight for arm in sinks[1].plans[made.key].routes[-1].targets} == {"v1": 1000, "v2": 9000}
    assert states.get(made.key) == RolloutState((("v2", 0),))


# Leaving and lingering


def test_a_model_that_lingers_leaves_its_hosts_to_others_and_its_clusters_where_they_are():
    store, sink = Store(), Sink()
    engine = Engine(store, sink, gateways={"default": Gateway("default", ())})
    made = rollout([version("v1", weight=1), version("v2", mirror={"percent": 10})])
    other = made.model_copy(update={"metadata": made.metadata.model_copy(update={"name": "other"})})
    for one in (made, other):
        store.put(one.key, Located(one, "here"))
        engine.update(one.key)
    assert sink.plans.get(other.key) is None
    clusters = {one.name for one in sink.plans[made.key].backends}
    store.drop(made.key)
    store.place(made.key, {}, frozenset({"v1", "v2"}))
    engine.update(made.key)
    engine.update(other.key)
    rest = sink.plans[made.key]
    assert (rest.hosts, rest.routes, {one.name for one in rest.backends}) == ((), (), clusters)
    assert sink.plans[other.key].hosts == HOSTS
    assert set(engine.leaving()) == {made.key}
    store.place(made.key, {}, frozenset({"v2"}))
    engine.update(made.key)
    assert {one.name for one in sink.plans[made.key].backends} == {name for name in clusters if "/v2" in name}
    store.put(made.key, Located(made, "here"))
    store.place(made.key, {}, frozenset())
    engine.update(made.key)
    assert not engine.leaving(), "it is back"
    assert made.key not in sink.plans or not sink.plans[made.key].hosts, "but its host has gone to the other"
    store.drop(other.key)
    engine.update(other.key)
    engine.update(made.key)
    assert sink.plans[made.key].hosts == HOSTS


def test_a_model_that_loses_its_hosts_keeps_its_clusters_in_a_cluster_only():
    for sites, left in (({}, None), ({name: Site(True, "ready") for name in NAMES[:2]}, ((), ()))):
        store, sink = Store(), Sink()
        engine = Engine(store, sink, gateways={"default": Gateway("default", ())})
        made = rollout([version(name, weight=1) for name in NAMES[:2]])
        other = made.model_copy(update={"metadata": made.metadata.model_copy(update={"name": "other"})})
        for one, hosts in ((made, ("mine.test",)), (other, ("theirs.test",)), (made, ("theirs.test",))):
            moved = one.model_copy(update={"spec": one.spec.model_copy(update={"hosts": hosts})})
            store.put(one.key, Located(moved, "here"))
            store.place(one.key, sites)
            engine.update(one.key)
        plan = sink.plans.get(made.key)
        assert (plan and (plan.hosts, plan.routes)) == left
        assert plan is None or len(plan.backends) == 2
        store.drop(made.key)
        engine.update(made.key)
        assert made.key not in sink.plans


names = st.frozensets(st.sampled_from(NAMES))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "drop", "linger"]), names), max_size=12))
def test_clusters_stay_exactly_while_their_versions_linger(story):
    store, sink = Store(), Sink()
    engine = Engine(store, sink, gateways={"default": Gateway("default", ())})
    key, told = "default/iris", set()
    for what, chosen in story:
        if what == "put" and chosen:
            store.put(key, Located(rollout([version(one, weight=1) for one in sorted(chosen)]), "here"))
        elif what == "drop":
            store.drop(key)
        elif what == "linger":
            store.place(key, {}, chosen)
        engine.update(key)
        located = store.get(key)
        wanted = {one.name for one in located.rollout.spec.versions} if located else set()
        there = {one.name.split("/")[-1] for one in sink.plans[key].backends} if key in sink.plans else set()
        assert there == wanted | (told & store.lingering(key))
        assert bool(engine.leaving()) == (not wanted and bool(there))
        told = there
    store.drop(key)
    store.place(key, {}, frozenset())
    engine.update(key)
    assert (sink.plans, dict(engine.leaving())) == ({}, {})
