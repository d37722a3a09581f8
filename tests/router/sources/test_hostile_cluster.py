"""A cluster that sends objects of any shape in any order: nothing breaks, nobody else is harmed, nothing piles up.

The watches are fed line by line, as the API server would send them, without one: two thousand steps take seconds.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from router.cluster.drain import FINALIZER
from router.cluster.resource import BUILT_IN, Reference, ResourceType
from router.engine import Engine
from router.kube.client import within
from router.kube.states import States
from router.sources.kubernetes import CONFIGMAPS, ROLLOUTS, SERVICES, SLICES, Kubernetes
from router.sources.parting import GRACE
from router.store import Store
from router.values import is_ip
from xds.ir import Gateway, ModelPlan
from xds.translate import translate

Object = dict[str, Any]
DEPLOYMENTS = BUILT_IN["deploy"].url_path
ISVCS = BUILT_IN["isvc"].url_path
SDEPS = BUILT_IN["sdep"].url_path
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
EXAMPLES = int(os.environ.get("HEADGATE_FUZZ_EXAMPLES", "100"))
MUCH = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


class Sink:
    """Takes only what an Envoy would: everything is translated in full, every address and header is looked at."""

    def __init__(self) -> None:
        self.plans: dict[str, ModelPlan] = {}

    def apply(self, plan: ModelPlan) -> None:
        assert translate(plan)
        for backend in plan.backends:
            for endpoint in backend.endpoints:
                assert is_ip(endpoint.address) or HOST.fullmatch(endpoint.address), endpoint
                assert 0 < endpoint.port < 65536, endpoint
        for route in plan.routes:
            for arm in (*route.targets, *route.mirrors):
                assert not arm.host_rewrite or HOST.fullmatch(arm.host_rewrite), arm
                assert all(value.isprintable() for _, value in arm.set_request_headers), arm
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        del self.plans[model]


class Plane:
    """One replica, fed by hand."""

    def __init__(self, **options: Any) -> None:
        self.states = States()
        self.now = 0.0
        self.source = Kubernetes(None, on_status=self.states.adopt, clock=lambda: self.now, **options)  # type: ignore[arg-type]
        for one in self.source.reflectors:
            one.trouble = None
        self.store, self.sink = Store(), Sink()
        self.source._store = self.store
        self.engine = Engine(self.store, self.sink, gateways={"default": Gateway("default", ())}, states=self.states)
        self.told: list[Reference] = []
        self.source.follow_resources(self.told.append)
        self._revision = 0

    def start(self, objects: dict[tuple[str, str], Object]) -> None:
        """Lists, and what `run` does when they are complete."""
        by_path: defaultdict[str, list[Object]] = defaultdict(list)
        for (path, _), obj in objects.items():
            by_path[path].append(obj)
        for one in self.source.reflectors:
            one._copy.begin()
            wanted = [obj for obj in by_path[one.path] if selected(one, obj)]
            one._tell(one._copy.page(copy.deepcopy(wanted)))
            one._tell(one._copy.end("1"))
        asyncio.run(self._begin())

    async def _begin(self) -> None:
        for one in self.source.reflectors:
            one.answered.set()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.source._work()),
                group.create_task(self.engine.run(self.source.loaded)),
            ]
            assert await self.engine.settled(5.0)
            for one in tasks:
                one.cancel()
        self.settle()

    def hear(self, kind: str, path: str, obj: Object) -> None:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        for one in self.source.reflectors:
            if one.path == within(path, self.source._namespace):
                sent = "DELETED" if kind != "DELETED" and not selected(one, obj) else kind
                one._tell(one._copy.hear(json.dumps({"type": sent, "object": obj}).encode()))

    def settle(self) -> None:
        for model in self.source._dirty.take():
            self.source._look(model)
        while dirty := self.store.take_dirty():
            for model in dirty:
                self.engine.update(model)

    def later(self) -> None:
        """What parted a moment ago has parted long ago."""
        self.now += GRACE
        self.source._partings.check()
        self.settle()

    @property
    def defects(self) -> list[str]:
        return [str(one) for one in self.engine.problems() if "defect" in one.hint]

    def shares(self, model: str) -> dict[str, int]:
        plan = self.sink.plans.get(model)
        return {one.version: one.weight for one in plan.routes[-1].targets} if plan and plan.routes else {}

    def left(self) -> dict[str, Any]:
        """What the source still remembers."""
        names = ("asking", "by_service", "users", "former", "slices", "service_of", "resolved", "read", "routemaps")
        return {name: dict(found) for name in names if (found := getattr(self.source, f"_{name}"))}


def selected(reflector: Any, obj: Object) -> bool:
    labels = obj["metadata"].get("labels")
    labels = labels if isinstance(labels, dict) else {}
    wanted = reflector._selectors.get("labelSelector", "")
    return all(labels.get(one.partition("=")[0]) == one.partition("=")[2] for one in wanted.split(",") if one)


class World:
    """What exists, told to every replica."""

    def __init__(self, *planes: Plane) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.planes = list(planes)
        self._uid = 0

    def put(self, path: str, obj: Object) -> None:
        key = f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"
        known = self.objects.get((path, key))
        self._uid += 1
        obj["metadata"]["uid"] = known["metadata"]["uid"] if known else f"uid-{self._uid}"
        obj["metadata"].setdefault("creationTimestamp", f"2026-01-01T00:{self._uid // 60 % 60:02}:{self._uid % 60:02}Z")
        obj["metadata"]["generation"] = self._uid
        self.objects[path, key] = obj
        for plane in self.planes:
            plane.hear("MODIFIED" if known else "ADDED", path, copy.deepcopy(obj))

    def delete(self, path: str, key: str) -> None:
        obj = self.objects.pop((path, key), None)
        if obj is not None:
            for plane in self.planes:
                plane.hear("DELETED", path, copy.deepcopy(obj))

    def empty(self) -> None:
        for path, key in list(self.objects):
            self.delete(path, key)

    def settle(self) -> None:
        for plane in self.planes:
            plane.settle()

    def later(self) -> None:
        for plane in self.planes:
            plane.later()


def meta(name: str, namespace: str = "default", **more: Any) -> Object:
    return {"name": name, "namespace": namespace, **more}


WATCHED = {"headgate.dev/watch": "true"}


def rollout(name: str, *versions: Object, **spec: Any) -> Object:
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": meta(name),
        "spec": {"hosts": [f"{name}.test"], "strategy": "blue-green", "versions": list(versions), **spec},
    }


def version(name: str, *resources: str, **more: Any) -> Object:
    return {"name": name, "resources": list(resources), **more}


def service(name: str, **spec: Any) -> Object:
    return {"metadata": meta(name, labels=WATCHED), "spec": {"ports": [{"name": "http", "port": 80}], **spec}}


def endpoints(name: str, *addresses: str) -> Object:
    return {
        "metadata": meta(f"{name}-x", labels={"kubernetes.io/service-name": name}),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in addresses],
    }


def deployment(name: str, ready: bool = True, **more: Any) -> Object:
    return {
        "metadata": meta(name, labels=WATCHED, **more),
        "spec": {"replicas": 1},
        "status": {"conditions": [{"type": "Available", "status": str(ready)}]},
    }


def isvc(name: str) -> Object:
    mode = {"serving.kserve.io/deploymentMode": "ModelMesh", "iter8.tools/weight": "3"}
    return {
        "metadata": meta(name, labels=WATCHED, annotations=mode),
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "protocolVersion": "grpc-v2"}}},
        "status": {
            "observedGeneration": 10**6,
            "url": "grpc://modelmesh-serving.modelmesh-serving:8033",
            "components": {"predictor": {"grpcUrl": "grpc://mesh.other.example.com:8033", "url": "http://a.b.c"}},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def seldon(name: str) -> Object:
    return {
        "metadata": meta(name, labels=WATCHED),
        "spec": {
            "transport": "grpc",
            "predictors": [
                {"name": "a", "traffic": 75, "annotations": {"seldon.io/svc-name": "svc-a"}},
                {"name": "b", "traffic": 25},
                {"name": "c", "traffic": 50, "shadow": True},
            ],
        },
        "status": {"state": "Available"},
    }


ROUTEMAP_SPEC = """
versions:
- resources: [{gvrShort: isvc, name: m-0, namespace: default}, {gvrShort: cm, name: m-0-weight-config}]
- resources: [{gvrShort: isvc, name: m-1, namespace: default}]
  weight: 3
"""


def routemap(name: str, text: str = ROUTEMAP_SPEC) -> Object:
    return {"metadata": meta(f"{name}-routemap", labels={"iter8.tools/kind": "routemap"}), "data": {"strSpec": text}}


def config(name: str, weight: str) -> Object:
    return {"metadata": meta(name, labels=WATCHED, annotations={"iter8.tools/weight": weight})}


def scene() -> list[tuple[str, Object]]:
    """Every kind of object that is watched, all of them in use."""
    return [
        (DEPLOYMENTS, deployment("d-1")),
        (SERVICES, service("d-1")),
        (SLICES, endpoints("d-1", "10.0.0.1")),
        (SERVICES, service("ext", type="ExternalName", externalName="a.example.com")),
        (ISVCS, isvc("m-0")),
        (ISVCS, isvc("m-1")),
        (SDEPS, seldon("sd")),
        (CONFIGMAPS, config("m-0-weight-config", "7")),
        (CONFIGMAPS, routemap("map")),
        (ROLLOUTS, rollout("plain", version("v1", "deploy/d-1", "svc/d-1"), version("v2", "svc/ext"))),
        (ROLLOUTS, rollout("mesh", version("v1", "isvc/m-0"), version("v2", "isvc/m-1", "cm/m-0-weight-config"))),
        (
            ROLLOUTS,
            rollout(
                "sel", version("a", "sdep/sd#a"), version("b", "sdep/sd#b"), version("c", "sdep/sd#c"), strategy="none"
            ),
        ),
    ]


def bystander() -> list[tuple[str, Object]]:
    return [
        (SERVICES, service("good")),
        (SLICES, endpoints("good", "10.9.9.9")),
        (ROLLOUTS, rollout("good", version("v1", "svc/good"))),
    ]


# Odd shapes

odd = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 70_000, 2**31, 2**63, 10**30, 0.5, 1e308])
    | st.sampled_from(["", "x" * 5000, "ünï", "\u0000", "a\nb", "☃.test", "True", "%s{}", "A.b."])
    | st.sampled_from(
        [f"grpc://{at}" for at in ("ü.b.c:80", "ü.b.c:99999", "[::1", "[::1]:80", "a b.c.d", "x.y.z:0", "%.b.c.d")]
    )
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(node: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in an object but those that the API server itself keeps in shape."""
    if here[:1] == ("metadata",) and here[1:2] in (("name",), ("namespace",), ("uid",), ("resourceVersion",)):
        return
    if here and here != ("metadata",):
        yield here
    if isinstance(node, dict):
        for name, child in node.items():
            yield from places(child, (*here, name))
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from places(child, (*here, index))


def changed(obj: Object, place: tuple[Any, ...], value: Any) -> Object:
    made = copy.deepcopy(obj)
    inner: Any = made
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return made


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, Object, Object]:
    path, obj = draw(st.sampled_from(scene()))
    made = obj
    for _ in range(draw(st.integers(1, 2))):
        where = draw(st.sampled_from(list(places(made))))
        made = changed(made, where, draw(odd))
    return path, obj, made


@MUCH
@given(st.lists(mutants(), min_size=1, max_size=4))
def test_no_shape_of_any_object_harms_anybody(found: list[tuple[str, Object, Object]]) -> None:
    plane = Plane()
    world = World(plane)
    for path, obj in scene() + bystander():
        world.put(path, obj)
    world.settle()
    before = dict(plane.sink.plans)
    assert set(before) == {f"default/{name}" for name in ("plain", "mesh", "sel", "map", "good")}
    for path, _, mutant in found:
        world.put(path, mutant)
        world.settle()
        assert plane.defects == []
        assert plane.sink.plans["default/good"] == before["default/good"]
    fresh = Plane()
    fresh.start(world.objects)
    assert fresh.defects == []
    assert fresh.sink.plans["default/good"] == before["default/good"]
    for path, obj, _ in found:
        world.put(path, copy.deepcopy(obj))
    world.settle()
    assert plane.sink.plans == before, "once mended, everything is as it was"
    world.empty()
    world.settle()
    assert (plane.sink.plans, plane.left()) == ({}, {})


status = st.dictionaries(
    st.sampled_from(["state", "conditions", "versions", "history", "gateways", "observedGeneration"]),
    odd | st.fixed_dictionaries({"slots": odd, "held": odd}),
)


@MUCH
@given(status)
def test_a_status_that_somebody_wrote_by_hand_harms_nobody(written: Object) -> None:
    plane = Plane()
    world = World(plane)
    for path, obj in [*scene(), *bystander()]:
        world.put(path, {**obj, "status": written} if path == ROLLOUTS else obj)
    world.settle()
    again = Plane()
    again.start(world.objects)
    for one in (plane, again):
        assert one.defects == []
        assert one.shares("default/plain") == {"v1": 5000, "v2": 5000}


held = st.fixed_dictionaries({}, optional=dict.fromkeys(("weight", "match", "mirror"), odd))
held_versions = st.fixed_dictionaries({"v1": held | odd, "v2": held | odd})


@MUCH
@given(
    st.fixed_dictionaries(
        {"primary": st.just("v1") | odd, "strategy": st.just("canary") | odd, "versions": held_versions | odd}
    )
)
def test_a_pause_that_somebody_wrote_by_hand_harms_nobody(kept: Object) -> None:
    plane = Plane()
    world = World(plane)
    for path, obj in scene():
        world.put(path, obj)
    state = {"state": {"slots": {}, "held": json.dumps(kept)}}
    paused = rollout("plain", version("v1", "deploy/d-1", "svc/d-1"), version("v2", "svc/ext"), paused=True)
    world.put(ROLLOUTS, {**paused, "status": state})
    world.settle()
    assert plane.defects == []
    assert sum(plane.shares("default/plain").values()) == 10_000


# Who is who


def test_a_model_flips_between_a_rollout_and_a_routemap_and_nothing_stays_behind():
    plane = Plane()
    world = World(plane)
    for path, obj in scene():
        world.put(path, obj)
    world.settle()
    assert plane.shares("default/map") == {"m-0": 5000, "m-1": 5000}
    for _ in range(3):
        world.put(ROLLOUTS, rollout("map", version("m-0", "svc/d-1"), version("other", "deploy/d-1")))
        world.settle()
        assert plane.shares("default/map") == {"m-0": 5000, "other": 5000}
        world.delete(ROLLOUTS, "default/map")
        world.settle()
        assert plane.shares("default/map") == {"m-0": 5000, "m-1": 5000}
        assert "default/map" not in plane.source._read
    world.empty()
    world.settle()
    assert (plane.sink.plans, plane.left()) == ({}, {})


def test_a_rollout_that_turns_bad_keeps_its_last_good_even_beside_a_routemap():
    plane = Plane()
    world = World(plane)
    for path, obj in scene():
        world.put(path, obj)
    world.put(ROLLOUTS, rollout("map", version("only", "svc/d-1")))
    world.settle()
    world.put(ROLLOUTS, rollout("map", version("only", "svc/d-1", match=[{"path": {"regex": "("}}])))
    world.settle()
    assert plane.shares("default/map") == {"only": 10_000}


def test_two_shorts_of_one_resource_wake_the_model_whichever_goes():
    plane = Plane()
    world = World(plane)
    world.put(SERVICES, {**service("a"), "metadata": meta("a", labels=WATCHED, finalizers=[FINALIZER])})
    world.put(SLICES, endpoints("a", "10.0.0.1"))
    world.put(ROLLOUTS, rollout("x", version("v1", "svc/a"), version("v2", "service/a")))
    world.settle()
    world.put(ROLLOUTS, rollout("x", version("v1", "svc/a")))
    world.settle()
    world.put(SERVICES, service("a"))  # our finalizer has gone
    world.settle()
    assert plane.source.users(Reference("service", "a", "default")) == {("default/x", "v1")}
    world.put(SERVICES, service("a", type="ExternalName", externalName="elsewhere.test"))
    world.settle()
    (backend,) = plane.sink.plans["default/x"].backends
    assert [one.address for one in backend.endpoints] == ["elsewhere.test"]


def test_predictors_of_one_deployment_wake_the_model_when_one_of_them_goes():
    plane = Plane()
    world = World(plane)
    mine = {**seldon("sd"), "metadata": meta("sd", labels=WATCHED, finalizers=[FINALIZER])}
    world.put(SDEPS, mine)
    world.put(ROLLOUTS, rollout("x", version("a", "sdep/sd#a"), version("b", "sdep/sd#b"), strategy="none"))
    world.settle()
    world.put(ROLLOUTS, rollout("x", version("a", "sdep/sd#a"), strategy="none"))
    world.settle()
    world.put(SDEPS, {**mine, "metadata": meta("sd", labels=WATCHED)})
    world.settle()
    world.put(SDEPS, {**seldon("sd"), "status": {"state": "Creating"}})
    world.settle()
    assert "state is Creating" in plane.engine.models()["default/x"].versions[0].reason


def test_a_version_that_is_renamed_does_not_leave_a_cluster_for_each_of_its_names():
    plane = Plane()
    world = World(plane)
    world.put(SERVICES, {**service("a"), "metadata": meta("a", labels=WATCHED, finalizers=[FINALIZER])})
    world.put(SLICES, endpoints("a", "10.0.0.1"))
    for index in range(5):
        world.put(ROLLOUTS, rollout("x", version(f"v{index}", "svc/a")))
        world.settle()
    assert plane.source.users(Reference("svc", "a", "default")) == {("default/x", "v4")}
    assert [one.name for one in plane.sink.plans["default/x"].backends] == ["default/x/v4"]


def test_a_version_lingers_by_the_resources_that_are_its_own():
    plane = Plane()
    world = World(plane)
    for name in ("a", "b"):
        world.put(DEPLOYMENTS, deployment(name, finalizers=[FINALIZER]))
        world.put(SERVICES, service(name))
        world.put(SLICES, endpoints(name, "10.0.0.1"))
    world.put(
        ROLLOUTS, rollout("x", version("v1", "deploy/a", "svc/a"), version("v2", "deploy/a", "deploy/b", "svc/b"))
    )
    world.settle()
    world.put(ROLLOUTS, rollout("x", version("v1", "deploy/a", "svc/a")))
    world.settle()
    assert [one.name for one in plane.sink.plans["default/x"].backends] == ["default/x/v1", "default/x/v2"]
    world.put(DEPLOYMENTS, deployment("b"))
    world.settle()
    assert [one.name for one in plane.sink.plans["default/x"].backends] == ["default/x/v1"]


def test_a_model_that_comes_back_still_waits_for_what_lingers():
    plane = Plane()
    world = World(plane)
    for name in ("a", "b"):
        world.put(DEPLOYMENTS, deployment(name, finalizers=[FINALIZER]))
        world.put(SERVICES, service(name))
        world.put(SLICES, endpoints(name, "10.0.0.1"))
    both = rollout("x", version("v1", "deploy/a", "svc/a"), version("v2", "deploy/a", "svc/a"))
    world.put(ROLLOUTS, both)
    world.settle()
    world.delete(ROLLOUTS, "default/x")
    world.settle()
    world.put(ROLLOUTS, rollout("x", version("v1", "svc/b")))
    world.settle()
    assert "default/x/v2" in [one.name for one in plane.sink.plans["default/x"].backends]
    world.put(DEPLOYMENTS, deployment("a"))
    world.settle()
    assert [one.name for one in plane.sink.plans["default/x"].backends] == ["default/x/v1"]
    assert not plane.source.users(Reference("deploy", "a", "default"))


def test_a_resource_of_several_models_and_versions_belongs_to_all_of_them():
    plane = Plane()
    world = World(plane)
    for path, obj in scene():
        world.put(path, obj)
    for name in ("x", "y"):
        world.put(ROLLOUTS, rollout(name, version("v1", "svc/d-1"), version("v2", "service/default/d-1")))
    world.settle()
    wanted = {(f"default/{model}", name) for model in ("x", "y") for name in ("v1", "v2")} | {("default/plain", "v1")}
    assert plane.source.users(Reference("svc", "d-1", "default")) == wanted
    world.delete(SERVICES, "default/d-1")
    world.settle()
    assert not any(one.ready for one in plane.engine.models()["default/x"].versions)
    world.delete(ROLLOUTS, "default/x")
    world.settle()
    assert plane.source.users(Reference("svc", "d-1", "default")) == {one for one in wanted if one[0] != "default/x"}


@pytest.mark.parametrize(("namespace", "dns"), [("", False), ("default", True)])
def test_a_service_in_another_namespace_is_watched_or_left_to_dns(namespace: str, dns: bool):
    plane = Plane(namespace=namespace)
    world = World(plane)
    if not namespace:
        world.put(SERVICES, {**service("far"), "metadata": meta("far", "elsewhere")})
        world.put(
            SLICES,
            {
                **endpoints("far", "10.0.0.1"),
                "metadata": meta("f", "elsewhere", labels={"kubernetes.io/service-name": "far"}),
            },
        )
    backend = {"service": {"name": "far", "namespace": "elsewhere", "port": 80}}
    world.put(ROLLOUTS, {**rollout("x", {"name": "v1", "backend": backend})})
    world.settle()
    planned = plane.sink.plans["default/x"].backends[0]
    assert planned.dns is dns
    assert planned.endpoints[0].address == ("far.elsewhere.svc.cluster.local" if dns else "10.0.0.1")


def test_a_kind_without_namespaces_is_never_ready_and_harms_nobody():
    types = {**BUILT_IN, "zone": ResourceType("zone", "example.com", "v1", "zones", "Zone")}
    plane = Plane(types=types)
    world = World(plane)
    for path, obj in scene():
        world.put(path, obj)
    world.put(types["zone"].url_path, {"metadata": {"name": "z", "labels": WATCHED}})
    world.put(ROLLOUTS, rollout("x", version("v1", "svc/d-1", "zone/z")))
    world.settle()
    assert plane.engine.models()["default/x"].versions[0].reason == "Zone z does not exist"
    assert plane.defects == []
    assert list(plane.source.resources())


# Hosts


def owners(plane: Plane, host: str) -> str | None:
    return plane.engine._claims.owner("default", host)


def test_replicas_agree_who_has_a_host_after_a_restart_when_the_leader_has_said_so():
    first = Plane()
    world = World(first)
    for path, obj in scene():
        world.put(path, obj)
    world.put(ROLLOUTS, rollout("young", version("v1", "svc/d-1"), hosts=["own.test"]))
    world.put(ROLLOUTS, rollout("old", version("v1", "svc/d-1"), hosts=["shared.test"]))
    world.objects[ROLLOUTS, "default/young"]["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    world.settle()
    late = rollout("young", version("v1", "svc/d-1"), hosts=["own.test", "shared.test"])
    late["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    late["status"] = {"conditions": [{"type": "Accepted", "status": "False", "reason": "HostConflict"}]}
    world.put(ROLLOUTS, late)
    world.settle()
    second = Plane()
    second.start(world.objects)
    assert owners(first, "shared.test") == owners(second, "shared.test") == "default/old"


def test_replicas_agree_who_comes_next_when_a_host_becomes_free():
    """One replica saw those who wait come by their edits; one that started later met them by their age."""
    first = Plane()
    world = World(first)
    for path, obj in scene():
        world.put(path, obj)
    conflict = {"conditions": [{"type": "Accepted", "status": "False", "reason": "HostConflict"}]}
    for name in ("b", "c"):
        world.put(ROLLOUTS, rollout(name, version("v1", "svc/d-1"), hosts=[f"{name}.test"]))
        world.settle()
    world.put(ROLLOUTS, rollout("a", version("v1", "svc/d-1"), hosts=["shared.test"]))
    world.settle()
    for name in ("c", "b"):
        kept = world.objects[ROLLOUTS, f"default/{name}"]["metadata"]["creationTimestamp"]
        late = rollout(name, version("v1", "svc/d-1"), hosts=[f"{name}.test", "shared.test"])
        late["metadata"]["creationTimestamp"] = kept
        world.put(ROLLOUTS, {**late, "status": conflict})
        world.settle()
    second = Plane()
    second.start(world.objects)
    world.planes.append(second)
    second._revision = first._revision
    assert owners(first, "shared.test") == owners(second, "shared.test") == "default/a"
    world.delete(ROLLOUTS, "default/a")
    world.settle()
    assert owners(first, "shared.test") == owners(second, "shared.test")


# The law: what is served depends on what exists, not on how it came about

NAMES = st.sampled_from(["a", "b", "c"])
REFERENCES = st.sampled_from(
    ["svc/a", "service/a", "svc/b", "deploy/a", "deploy/b", "isvc/a", "isvc/b", "sdep/a#a", "sdep/a#b", "sdep/b",
     "cm/a", "svc/elsewhere/a", "nope/a", "sts/a"]
)  # fmt: skip


class Cluster(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.plane = Plane()
        self.world = World(self.plane)

    def _meta(self, name: str, protected: bool, **more: Any) -> Object:
        return meta(name, labels=WATCHED, **({"finalizers": [FINALIZER]} if protected else {}), **more)

    @rule(name=NAMES, protected=st.booleans(), external=st.booleans(), weight=st.none() | st.integers(0, 9))
    def put_service(self, name: str, protected: bool, external: bool, weight: int | None) -> None:
        more = {"type": "ExternalName", "externalName": f"{name}.example.com"} if external else {}
        notes = {} if weight is None else {"annotations": {"iter8.tools/weight": str(weight)}}
        self.world.put(SERVICES, {**service(name, **more), "metadata": self._meta(name, protected, **notes)})

    @rule(name=NAMES, of=NAMES, count=st.integers(0, 2))
    def put_slice(self, name: str, of: str, count: int) -> None:
        found = endpoints(of, *[f"10.0.0.{index + 1}" for index in range(count)])
        self.world.put(SLICES, {**found, "metadata": {**found["metadata"], "name": name}})

    @rule(name=NAMES, ready=st.booleans(), protected=st.booleans(), going=st.booleans())
    def put_deployment(self, name: str, ready: bool, protected: bool, going: bool) -> None:
        mark = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}
        self.world.put(DEPLOYMENTS, {**deployment(name, ready), "metadata": self._meta(name, protected, **mark)})

    @rule(name=NAMES, protected=st.booleans(), mode=st.sampled_from(["ModelMesh", "RawDeployment", ""]))
    def put_isvc(self, name: str, protected: bool, mode: str) -> None:
        notes = {"annotations": {"serving.kserve.io/deploymentMode": mode}}
        self.world.put(ISVCS, {**isvc(name), "metadata": self._meta(name, protected, **notes)})

    @rule(name=NAMES, protected=st.booleans(), available=st.booleans())
    def put_seldon(self, name: str, protected: bool, available: bool) -> None:
        found = {**seldon(name), "metadata": self._meta(name, protected)}
        self.world.put(SDEPS, {**found, "status": {"state": "Available" if available else "Failed"}})

    @rule(name=NAMES, weight=st.sampled_from(["1", "5", "x"]))
    def put_config(self, name: str, weight: str) -> None:
        self.world.put(CONFIGMAPS, config(name, weight))

    @rule(
        name=NAMES,
        listed=st.lists(st.lists(REFERENCES, min_size=1, max_size=3, unique=True), min_size=1, max_size=3),
        strategy=st.sampled_from(["none", "blue-green", "canary", "mirror"]),
        bad=st.integers(0, 9),
        other=st.integers(0, 1),
    )
    def put_rollout(self, name: str, listed: list[list[str]], strategy: str, bad: int, other: int) -> None:
        versions = [version(f"v{index + other}", *one) for index, one in enumerate(listed)]
        if bad == 0:
            return  # a bad one keeps what was good: see the other tests
        self.world.put(ROLLOUTS, rollout(name, *versions, strategy=strategy))

    @rule(name=NAMES, listed=st.lists(st.sampled_from(["isvc", "svc", "deploy"]), min_size=1, max_size=3), which=NAMES)
    def put_routemap(self, name: str, listed: list[str], which: str) -> None:
        lines = [f"- resources: [{{gvrShort: {short}, name: {which}}}]" for short in listed]
        self.world.put(CONFIGMAPS, routemap(name, "\n".join(["versions:", *lines])))

    @rule(path=st.sampled_from([SERVICES, SLICES, DEPLOYMENTS, ISVCS, SDEPS, CONFIGMAPS, ROLLOUTS]), name=NAMES)
    def delete(self, path: str, name: str) -> None:
        self.world.delete(path, f"default/{name}")

    @rule(name=NAMES)
    def delete_routemap(self, name: str) -> None:
        self.world.delete(CONFIGMAPS, f"default/{name}-routemap")

    @rule()
    def let_it_work(self) -> None:
        self.world.settle()

    @rule()
    def let_time_pass(self) -> None:
        self.world.later()

    @invariant()
    def nothing_breaks(self) -> None:
        if hasattr(self, "plane"):
            assert self.plane.defects == []

    def teardown(self) -> None:
        if not hasattr(self, "plane"):
            return
        self.world.settle()
        fresh = Plane()
        fresh.start(self.world.objects)
        # What is being drained keeps the addresses that it had: only routes are compared while finalizers are there.
        assert routed(self.plane) == routed(fresh)
        for (path, _), obj in list(self.world.objects.items()):
            if obj["metadata"].pop("finalizers", None):
                self.world.put(path, obj)
        self.world.settle()
        self.world.later()
        assert not self.plane.source._former, "nothing lingers once our finalizers are gone"
        fresh = Plane()
        fresh.start(self.world.objects)
        # One that has lost its hosts keeps its clusters, and one that never had any has none: no request gets there.
        assert served(self.plane) == served(fresh)
        assert not any(plan.routes for plan in self.plane.sink.plans.values() if not plan.hosts)
        for name in ("asking", "by_service", "users", "slices", "service_of", "read", "routemaps"):
            assert getattr(self.plane.source, f"_{name}") == getattr(fresh.source, f"_{name}"), name
        self.world.empty()
        self.world.settle()
        assert (self.plane.sink.plans, self.plane.left()) == ({}, {})
        assert not self.plane.store._sites
        assert not self.plane.store._lingering
        assert not self.plane.engine.leaving()


def served(plane: Plane) -> dict[str, ModelPlan]:
    return {name: plan for name, plan in plane.sink.plans.items() if plan.hosts}


def routed(plane: Plane) -> dict[str, Any]:
    return {name: (plan.hosts, plan.routes) for name, plan in plane.sink.plans.items() if plan.hosts}


def test_what_is_served_depends_on_what_exists_and_not_on_how_it_came_about():
    run_state_machine_as_test(
        Cluster, settings=settings(MUCH, max_examples=max(20, EXAMPLES // 2), stateful_step_count=50)
    )
