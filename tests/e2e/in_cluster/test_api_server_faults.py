"""An API server that goes away, forgets, stalls, refuses and lies, while real Envoys carry HTTP and gRPC requests.

Whatever happens to it, no request fails, no route is withdrawn, and in the end everything is as the objects say.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubedouble.fixture import Double

from headgate.demo.figures import Answer, Ledger
from headgate.demo.traffic import Aim, GrpcClient, HttpClient, ask
from headgate.serve import ControlPlane
from router.cluster import drain
from router.kube.client import Client
from router.sources.kubernetes import Kubernetes

HOST, MODEL = "iris.test", "default/iris"
ROLLOUT = ("headgate.dev/v1alpha1", "ModelRollout")
DEPLOYMENT = ("apps/v1", "Deployment")
DRAIN = "headgate.dev/drain"
LABEL = "headgate.dev/watch"
OUTAGE = 30.0 if os.environ.get("HEADGATE_LONG") else 6.0
"""Seconds. A leader gives up after 10 without the API server: the long outage goes through that as well."""
BACK = 25.0
"""Seconds until all is followed again: between two attempts there are at most 10."""
SLOW = 3_000.0
"""Milliseconds that requests in flight take."""
WATCH = 2.0
HEALED = WATCH + 10.0
"""Seconds that a silent connection may hide changes."""
OTHERS = 5_000


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Double]:
    """Always the double: no real API server misbehaves when told to."""
    found = Double(tmp_path, loopback_endpoints=True)
    try:
        found.install()
        yield found
    finally:
        found.close()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if replicas had not changed for long: what drains then waits for its requests and for nothing else."""
    monkeypatch.setattr(drain, "HOLD", 0.1)


# The API server is away


def test_an_outage_harms_no_request_and_changes_made_meanwhile_take_effect(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = (await _iris(it, iris_0=40, iris_1=40, iris_2=20))["iris-2"]
        planes = [await it.plane(), await it.plane()]
        await it.envoy()
        await it.programmed(MODEL, iris_0=40, iris_1=40, iris_2=20)
        await it.until(lambda: _protected(it, "iris-2"), "protected")
        async with it.unharmed(HOST):
            it.api.stop()
            away = time.monotonic()
            it.api.do(lambda server: server.apply(_rollout(iris_0=20, iris_1=30, iris_2=50)))
            it.api.do(lambda server: server.delete(*DEPLOYMENT, "iris-2", "default"))
            async with _nobody_home(it.api) as attempts:
                await it.until(lambda: all("in force" in plane.notes()["API server"] for plane in planes), "told")
                before = len(attempts)
                await _for(5.0)
                assert 0 < len(attempts) - before <= 20 * len(planes)
                for plane in planes:
                    status, told = await _readyz(plane)
                    assert status == 200
                    assert "what was seen last stays in force" in told
                await it.until(lambda: time.monotonic() - away > OUTAGE, within=OUTAGE + 1)
                assert set(await it.asked(HOST)) == {"iris-0", "iris-1", "iris-2"}
            server.behave(latency_ms=SLOW / 3)
            it.api.start()
            await it.until(lambda: all(plane.notes()["API server"] == "followed" for plane in planes), "well", BACK)
            await _drained(it, "iris-2", server)
            await it.programmed(MODEL, iris_0=70, iris_1=30, iris_2=0)  # the primary stands in

    rig(body)


def test_a_start_without_the_api_server_withdraws_nothing(rig: Any) -> None:
    async def body(it: Any) -> None:
        await _iris(it, iris_0=50, iris_1=50)
        first = await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        config, port = it.configuration(), first.xds_port
        config = config.model_copy(update={"xds": config.xds.model_copy(update={"port": port})})
        async with it.unharmed(HOST) as ledgers:
            it.api.stop()
            await it.stop(first)
            second = ControlPlane(config)
            async with _starting(second) as started:
                await it.until(lambda: "in force" in second.notes().get("API server", ""), "the trouble told")
                status, told = await _readyz(second)
                assert status == 503
                assert "[-] cluster read" in told
                assert set(await it.asked(HOST)) == {"iris-0", "iris-1"}
                assert not await _open(port)
                it.api.do(lambda server: server.apply(_rollout(iris_0=0, iris_1=100)))
                it.api.start()
                await it.until(started.is_set, "started", BACK)
                assert (await _readyz(second))[0] == 200
                # Its status follows when the Lease that the first one could not give back has run out.
                await it.until(lambda: _only(ledgers, "iris-1"), "the change in force")

    rig(body)


# Watches that end, break, forget and stall


def test_watches_that_end_break_or_forget(rig: Any) -> None:
    async def body(it: Any) -> None:
        await _iris(it, iris_0=50, iris_1=50)
        it.rollout("iris-0", name="leaves")
        plane = await it.plane()
        await it.envoy()
        await it.programmed("default/leaves", iris_0=100)
        async with it.unharmed(HOST):
            it.api.do(lambda server: (server.drop_watches(), server.apply(_rollout(iris_0=10, iris_1=90))))
            await it.programmed(MODEL, iris_0=10, iris_1=90)

            it.api.do(lambda server: (server.reset_connections(), server.apply(_rollout(iris_0=20, iris_1=80))))
            await it.programmed(MODEL, iris_0=20, iris_1=80)

            def forget(server: Any) -> None:
                server.drop_watches()
                server.apply(_rollout(iris_0=30, iris_1=70))
                server.delete(*ROLLOUT, "leaves", "default")
                server.compact()

            asked = len(it.api.api.requests)
            it.api.do(forget)
            await it.programmed(MODEL, iris_0=30, iris_1=70)
            await it.until(lambda: "default/leaves" not in plane.store, "the deletion noticed")
            assert any(_ours(one) and _lists_rollouts(one) for one in list(it.api.api.requests)[asked:])
            assert set(await it.asked(HOST)) == {"iris-0", "iris-1"}

    rig(body)


def test_connections_that_died_without_a_word(rig: Any) -> None:
    async def body(it: Any) -> None:
        await _iris(it, iris_0=50, iris_1=50)
        async with _wire(it.api) as wire:
            plane = await it.plane(kubeconfig=wire.kubeconfig, watchTimeout=f"{WATCH:g}s")
            await it.envoy()
            await it.programmed(MODEL, iris_0=50, iris_1=50)
            async with it.unharmed(HOST) as ledgers:
                await _leave_idle(plane, 20)
                wire.freeze()
                it.apply(_rollout(iris_0=0, iris_1=100))
                took = await it.until(lambda: _only(ledgers, "iris-1"), "healed", HEALED)
                assert took < HEALED

    rig(body)


def test_a_stop_closes_its_connections_last(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever still used them would fail, and the process with it."""
    using: list[str] = []
    close = Client.close

    async def noted(self: Client) -> None:
        using.extend(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("/api"))
        await close(self)

    monkeypatch.setattr(Client, "close", noted)

    async def body(it: Any) -> None:
        plane = await it.plane()
        assert any(task.get_name().startswith("/api") for task in asyncio.all_tasks())
        await it.stop(plane)
        assert not using

    rig(body)


# Refusals, and answers that do not arrive


def test_a_server_that_asks_for_patience_gets_it(rig: Any) -> None:
    async def body(it: Any) -> None:
        await _iris(it, iris_0=50, iris_1=50)
        plane = await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        async with it.unharmed(HOST):
            for code, weights in ((429, {"iris_0": 20, "iris_1": 80}), (503, {"iris_0": 70, "iris_1": 30})):
                it.api.faults.answer(code, 10_000, retry_after=1, matches=_ours)
                it.api.do(lambda server: server.reset_connections())
                it.apply(_rollout(**weights))
                await it.until(lambda: "in force" in plane.notes()["API server"], "the trouble told")
                before = _asked_by_us(it)
                await _for(2.0)
                assert 0 < _asked_by_us(it) - before <= 20
                assert (await _readyz(plane))[0] == 200
                it.api.faults.clear()
                await it.programmed(MODEL, **weights)

    rig(body)


@pytest.mark.usefixtures("settled")
def test_writes_whose_answers_are_lost(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = (await _iris(it, iris_0=50, iris_1=50))["iris-1"]
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        await it.until(lambda: _protected(it, "iris-1"), "protected")
        async with it.unharmed(HOST):
            lost = _lose_answers(it.api, 2)
            it.apply(_rollout(iris_0=20, iris_1=80))
            server.behave(latency_ms=SLOW / 3)
            await it.until(lambda: server.counts.in_flight > 10, "requests in flight")
            _delete(it, "iris-1")
            await _drained(it, "iris-1", server)
            await it.until(lambda: lost["status"] and lost["finalizers"], "answers lost")
            it.api.faults.clear()
            await it.programmed(MODEL, iris_0=100, iris_1=0)
            server.behave(latency_ms=0.0)
            it.apply(_rollout(iris_0=100))
            await it.until(lambda: len(it.status(MODEL)["versions"]) == 1, "the status as the object says")

    rig(body)


@pytest.mark.usefixtures("settled")
def test_conflicts_while_weights_change_and_a_version_drains(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = (await _iris(it, iris_0=20, iris_1=20, iris_2=60))["iris-2"]
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=20, iris_1=20, iris_2=60)
        await it.until(lambda: _protected(it, "iris-2"), "protected")
        async with it.unharmed(HOST):
            server.behave(latency_ms=SLOW)
            await it.until(lambda: server.counts.in_flight > 10, "requests in flight")
            it.api.faults.answer(409, 30, matches=lambda one: _ours(one) and one.method == "PATCH")
            _delete(it, "iris-2")
            async with _rivals(it):
                for first in (10, 20, 30, 40, 50):
                    it.apply(_rollout(iris_0=first, iris_1=100 - first, iris_2=0))
                    await it.until(lambda first=first: _weight(it, "iris-0") == first, "the status written", BACK)
                await _drained(it, "iris-2", server)
            await it.programmed(MODEL, iris_0=50, iris_1=50, iris_2=0)

    rig(body)


# Deletions of more than one thing


@pytest.mark.usefixtures("settled")
def test_a_rollout_deleted_while_a_version_of_it_drains(rig: Any) -> None:
    async def body(it: Any) -> None:
        servers = await _iris(it, iris_0=50, iris_1=50)
        await it.deployment("other-0")
        it.rollout("other-0", name="other")
        plane = await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        await it.programmed("default/other", other_0=100)
        await it.until(lambda: _protected(it, "iris-0") and _protected(it, "iris-1"), "protected")
        async with it.unharmed("other.test"):
            async with _in_flight(it, HOST, servers) as answers:
                _delete(it, "iris-1")
                await it.until(lambda: _deleting(it, "iris-1"), "the drain begun")
                await it.until(lambda: _weight(it, "iris-1") == 0, "its routes gone")
                it.api.delete(*ROLLOUT, "iris")
                await it.until(lambda: MODEL not in plane.store, "the rollout gone")
                assert servers["iris-1"].counts.in_flight
                await _drained(it, "iris-1", servers["iris-1"])
            assert _versions(answers) == {"iris-0", "iris-1"}
            await it.until(lambda: not _protected(it, "iris-0"), "released: no version consists of it any more")
            await it.until(lambda: MODEL not in plane.engine.leaving(), "nothing is left of it")
            # Nor does it leave anything that is in the way of a new one.
            await _iris(it, iris_0=100)
            await it.programmed(MODEL, iris_0=100)
            assert await it.asked(HOST) == {"iris-0": 40}

    rig(body)


@pytest.mark.usefixtures("settled")
def test_namespaces_deleted_with_all_that_is_in_them(rig: Any) -> None:
    """In whatever order it goes: as the server comes across it, or one kind before all others."""
    first = {"team-a": "", "team-b": "EndpointSlice", "team-c": "ModelRollout", "team-d": "Deployment"}

    async def body(it: Any) -> None:
        await it.deployment("other-0")
        it.rollout("other-0", name="other")
        servers = {team: await _team(it, team) for team in first}
        plane = await it.plane()
        await it.envoy()
        for team in first:
            await it.programmed(f"{team}/{team}", v0=50, v1=50)
            await it.until(lambda team=team: _protected(it, "v0", team) and _protected(it, "v1", team), "protected")
        async with it.unharmed("other.test"):
            async with AsyncExitStack() as stack:
                answers = {
                    team: await stack.enter_async_context(_in_flight(it, f"{team}.test", servers[team], 8))
                    for team in first
                }
                for team, kind in first.items():
                    for each in _of_kind(it, kind, team):
                        it.api.delete(each["apiVersion"], each["kind"], each["metadata"]["name"], team)
                    it.api.delete("v1", "Namespace", team, "")
                # Elsewhere there may be nothing to wait for: no other version is left, or Envoy no longer counts. In
                # team-a it depends on whether we hear of the rollout or of its Deployments first.
                waiting = [("team-c", name) for name in ("v0", "v1")]
                await asyncio.gather(*(_drained(it, name, servers[team][name], team) for team, name in waiting))
            for team in first:
                assert _versions(answers[team]) == {"v0", "v1"}
                await it.until(lambda team=team: it.api.find("v1", "Namespace", team, "") is None, "it gone")
                await it.until(lambda team=team: f"{team}/{team}" not in plane.store, "its model gone")
                await it.until(lambda team=team: f"{team}/{team}" not in plane.engine.leaving(), "nothing left of it")

    rig(body)


# What is not ours


def test_five_thousand_objects_of_others_that_keep_changing(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(it: Any) -> None:
        seen = _looks(monkeypatch)
        it.apply(_namespace("crowd"))
        crowd = _Crowd(it.api, OTHERS)
        await _iris(it, iris_0=50, iris_1=50)
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        async with it.unharmed(HOST) as ledgers:
            quiet = await _moved(it, ledgers, {"iris_0": 0, "iris_1": 100}, "iris-1")
            await it.programmed(MODEL, iris_0=0, iris_1=100)
            async with crowd.churning(300):
                await it.until(lambda: crowd.changes > 300, "many changes")
                before, since = seen.total(), crowd.changes
                await it.until(lambda: crowd.changes > since + 300, "many more")
                assert seen.total() == before, "nothing of ours is looked at because of them"
                busy = await _moved(it, ledgers, {"iris_0": 100, "iris_1": 0}, "iris-0")
                await it.programmed(MODEL, iris_0=100, iris_1=0)
            assert set(seen) == {MODEL}
            assert busy < quiet + 2.0

    rig(body)


# Labels, and objects that come again


def test_a_watch_label_taken_away_and_given_back(rig: Any) -> None:
    async def body(it: Any) -> None:
        await _iris(it, iris_0=50, iris_1=50)
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        await it.until(lambda: _protected(it, "iris-1"), "protected")
        async with it.unharmed(HOST):
            for off in (None, "false"):
                _label(it, "iris-1", off)
                await it.until(lambda: not _protected(it, "iris-1"), "released")
                await it.programmed(MODEL, iris_0=50, iris_1=50)
                assert set(await it.asked(HOST)) == {"iris-0", "iris-1"}
                _label(it, "iris-1", "true")
                await it.until(lambda: _protected(it, "iris-1"), "protected again")
            await it.programmed(MODEL, iris_0=50, iris_1=50)
            assert set(await it.asked(HOST)) == {"iris-0", "iris-1"}

    rig(body)


@pytest.mark.usefixtures("settled")
def test_an_object_deleted_while_it_drains_and_created_again_under_its_name(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = (await _iris(it, iris_0=50, iris_1=50))["iris-1"]
        await it.plane()
        await it.envoy()
        await it.programmed(MODEL, iris_0=50, iris_1=50)
        await it.until(lambda: _protected(it, "iris-1"), "protected")
        async with it.unharmed(HOST):
            old = it.api.get(*DEPLOYMENT, "iris-1")
            for by_hand in (True, False):
                server.behave(latency_ms=SLOW / 2)
                await it.until(lambda: server.counts.in_flight > 10, "requests in flight")
                _delete(it, "iris-1")
                if by_hand:
                    await it.until(lambda: _weight(it, "iris-1") == 0, "its routes gone")
                    it.api.patch(*DEPLOYMENT, "iris-1", {"metadata": {"finalizers": None}})
                else:
                    await _drained(it, "iris-1", server)
                server.behave(latency_ms=0.0)
                it.apply(_anew(old))
                await it.programmed(MODEL, iris_0=50, iris_1=50)
                await it.until(lambda: _protected(it, "iris-1"), "the new one protected as well")
                assert not _deleting(it, "iris-1")
                assert set(await it.asked(HOST)) == {"iris-0", "iris-1"}
            assert it.api.get(*DEPLOYMENT, "iris-1")["metadata"]["uid"] != old["metadata"]["uid"]

    rig(body)


# Helpers: what there is, and what is asked of it


def _rollout(**weights: int) -> dict[str, Any]:
    return {
        "apiVersion": ROLLOUT[0],
        "kind": ROLLOUT[1],
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": {
            "hosts": [HOST],
            "strategy": "blue-green",
            "versions": [
                {"name": name, "weight": weight, "resources": [f"deploy/{name}", f"svc/{name}"]}
                for name, weight in ((key.replace("_", "-"), weight) for key, weight in weights.items())
            ],
        },
    }


async def _iris(it: Any, **weights: int) -> dict[str, Any]:
    """The model that most tests are about; its servers by version."""
    servers = {name: await it.deployment(name) for name in (key.replace("_", "-") for key in weights)}
    it.apply(_rollout(**weights))
    return servers


def _anew(old: dict[str, Any]) -> dict[str, Any]:
    """The manifest of what was there before."""
    metadata = {name: old["metadata"][name] for name in ("name", "namespace", "labels")}
    return {**{name: old[name] for name in ("apiVersion", "kind", "spec", "status")}, "metadata": metadata}


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _config_map(namespace: str) -> dict[str, Any]:
    labels = {LABEL: "true"}
    meta = {"name": "settings", "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"of": "theirs"}}


async def _team(it: Any, namespace: str) -> dict[str, Any]:
    """A namespace with a model of two versions and settings of its own; the model's servers by version."""
    it.apply(_namespace(namespace), _config_map(namespace))
    servers = {name: await it.deployment(name, namespace=namespace) for name in ("v0", "v1")}
    it.rollout("v0", "v1", name=namespace, namespace=namespace)
    return servers


def _of_kind(it: Any, kind: str, namespace: str) -> list[dict[str, Any]]:
    versions = {"EndpointSlice": "discovery.k8s.io/v1", "ModelRollout": ROLLOUT[0], "Deployment": DEPLOYMENT[0]}
    if not kind:
        return []
    found = [
        {**each, "apiVersion": versions[kind], "kind": kind} for each in it.api.list(versions[kind], kind, namespace)
    ]
    assert found
    return found


def _metadata(it: Any, deployment: str, namespace: str = "default") -> dict[str, Any]:
    found = it.api.find(*DEPLOYMENT, deployment, namespace) or {}
    metadata: dict[str, Any] = found.get("metadata", {})
    return metadata


def _protected(it: Any, deployment: str, namespace: str = "default") -> bool:
    return DRAIN in _metadata(it, deployment, namespace).get("finalizers", ())


def _deleting(it: Any, deployment: str) -> bool:
    return "deletionTimestamp" in _metadata(it, deployment)


async def _drained(it: Any, deployment: str, server: Any, namespace: str = "default") -> None:
    """Wait until it is gone. Its pods would end now: nothing may be in flight to them any more."""
    await it.until(lambda: it.api.find(*DEPLOYMENT, deployment, namespace) is None, f"{deployment} gone", BACK)
    assert server.counts.in_flight == 0, f"{deployment} gone with requests in flight"


def _delete(it: Any, deployment: str) -> None:
    it.api.delete(*DEPLOYMENT, deployment)


def _label(it: Any, deployment: str, value: str | None) -> None:
    it.api.patch(*DEPLOYMENT, deployment, {"metadata": {"labels": {LABEL: value}}})


def _weight(it: Any, version: str) -> float:
    """In percent, as the status says."""
    return next((one.get("weight", 0) for one in it.status(MODEL).get("versions", ()) if one["name"] == version), -1)


def _ours(asked: Any) -> bool:
    return bool(asked.user_agent.startswith("headgate"))


def _lists_rollouts(asked: Any) -> bool:
    return bool(asked.method == "GET" and asked.path.endswith("/modelrollouts") and not asked.watch)


def _asked_by_us(it: Any) -> int:
    return sum(_ours(one) for one in list(it.api.api.requests))


async def _for(seconds: float) -> None:
    """A period in which what is asked is counted: its length is what the test is about."""
    await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, seconds)


async def _readyz(plane: ControlPlane) -> tuple[int, str]:
    url = f"http://127.0.0.1:{plane.http_port}/readyz?verbose"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


# Helpers: what goes wrong


@asynccontextmanager
async def _nobody_home(api: Double) -> AsyncIterator[list[float]]:
    """In place of a stopped API server, a balancer with nothing behind it: when somebody tried to connect."""
    attempts: list[float] = []

    async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(turn_away, "127.0.0.1", api.api.port)
    async with server:
        yield attempts


@asynccontextmanager
async def _starting(plane: ControlPlane) -> AsyncIterator[asyncio.Event]:
    """A control plane on its way up; the event is set once it has started."""
    started, done = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with plane:
            started.set()
            await done.wait()

    task = asyncio.create_task(run())
    try:
        yield started
    finally:
        done.set()
        if not started.is_set():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Wire:
    """What lies between a control plane and the API server. Frozen connections are never heard of again."""

    def __init__(self, api: Double) -> None:
        self._api = api
        self._connections: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self.kubeconfig = ""

    def freeze(self) -> None:
        """All that are open now; new ones are well."""
        for pair in self._connections:
            self._frozen.update(pair)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._api.api.port)
        pair = (writer, back)
        self._connections.add(pair)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except OSError:
            pass
        finally:
            self._connections.discard(pair)
            for each in pair:
                each.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            if sink not in self._frozen:
                sink.write(data)
                await sink.drain()
        if sink not in self._frozen:
            sink.close()


@asynccontextmanager
async def _wire(api: Double) -> AsyncIterator[_Wire]:
    wire = _Wire(api)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    file = api.kubeconfig("headgate", "headgate")
    own = file.with_name("wire.kubeconfig")
    own.touch(mode=0o600)
    own.write_text(file.read_text().replace(api.url, f"https://127.0.0.1:{port}"))
    wire.kubeconfig = str(own)
    try:
        yield wire
    finally:
        server.close()


async def _leave_idle(plane: ControlPlane, connections: int) -> None:
    """Have so many kept open for the next request, as after a busy moment: they will be as dead as the others."""
    assert plane._cluster is not None
    client = plane._cluster._client
    await asyncio.gather(*(client.get("/api/v1/namespaces/default/services") for _ in range(connections)))


def _lose_answers(api: Double, times: int) -> Counter[str]:
    """Carry out the next writes of statuses and of finalizers, but answer none of them; how many of each."""
    lost: Counter[str] = Counter()

    def lose(asked: Any) -> bool:
        what = "status" if asked.path.endswith("/status") else "finalizers" if "/deployments/" in asked.path else ""
        if what and _ours(asked) and asked.method == "PATCH" and lost[what] < times:
            lost[what] += 1
            api.faults.lost_answers += 1
        return False

    api.faults.answer(500, 1_000_000, matches=lose)
    return lost


@asynccontextmanager
async def _rivals(it: Any) -> AsyncIterator[None]:
    """Somebody who writes into the same objects all the time, so that what was read is old when it is written."""
    numbers = iter(range(1_000_000))

    async def write() -> None:
        while True:
            note = {"metadata": {"annotations": {"rival": str(next(numbers))}}}
            it.api.patch(*ROLLOUT, "iris", note)
            if it.api.find(*DEPLOYMENT, "iris-2"):
                it.api.patch(*DEPLOYMENT, "iris-2", note)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Helpers: requests


@asynccontextmanager
async def _in_flight(it: Any, host: str, servers: dict[str, Any], each: int = 15) -> AsyncIterator[list[Answer]]:
    """Slow requests, HTTP and gRPC, that are in flight at all of these servers; answered when the block is left."""
    answers: list[Answer] = []
    for server in servers.values():
        server.behave(latency_ms=SLOW)
    aim = Aim(it.port, host, timeout=10.0)
    clients: list[HttpClient | GrpcClient] = [HttpClient(aim), GrpcClient(aim)]
    asking = [asyncio.create_task(ask(client, {})) for client in clients for _ in range(each)]
    await it.until(lambda: sum(one.counts.in_flight for one in servers.values()) == len(asking), "in flight")
    assert all(one.counts.in_flight for one in servers.values())
    try:
        yield answers
    finally:
        answers += await asyncio.gather(*asking)
        for client in clients:
            await client.close()
        for server in servers.values():
            server.behave(latency_ms=0.0)


def _versions(answers: list[Answer]) -> set[str]:
    """Who answered; every one of them has to be good."""
    assert answers
    assert not [one.error for one in answers if one.error]
    return {one.version for one in answers}


def _only(ledgers: tuple[Ledger, Ledger], version: str, last: float = 0.4, least: int = 8) -> bool:
    """Whether this version alone has answered, by HTTP and by gRPC, in the last moments."""
    since = time.monotonic() - last
    found = [[one.version for one in ledger.answers(since)] for ledger in ledgers]
    return all(len(versions) >= least and {*versions} == {version} for versions in found)


async def _moved(it: Any, ledgers: tuple[Ledger, Ledger], weights: dict[str, int], version: str) -> float:
    """All requests to this version: seconds from the change to when the last one left that another answered."""
    since = time.monotonic()
    it.apply(_rollout(**weights))
    await it.until(lambda: _only(ledgers, version), "the weights in force")
    late = [one.sent for ledger in ledgers for one in ledger.answers(since) if one.version != version]
    return max(late, default=since) - since


def _looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each model is resolved."""
    seen: Counter[str] = Counter()
    resolve: Callable[[Kubernetes, str], None] = Kubernetes._resolve

    def counted(self: Kubernetes, model: str) -> None:
        seen[model] += 1
        resolve(self, model)

    monkeypatch.setattr(Kubernetes, "_resolve", counted)
    return seen


class _Crowd:
    """Objects of other people, made and changed inside the server."""

    def __init__(self, api: Double, number: int) -> None:
        self.changes = 0
        self._api = api
        self._keys: list[tuple[tuple[str, str], str]] = api.do(lambda server: self._make(server, number))

    def _make(self, server: Any, number: int) -> list[tuple[tuple[str, str], str]]:
        made = []
        for index in range(number // 4):
            name = f"crowd-{index}"
            for each in _others(name):
                server.create(each)
            made += [(key, name) for key in _CROWDED]
        return made

    def _change(self, server: Any, number: int) -> None:
        for _ in range(number):
            key, name = self._keys[self.changes % len(self._keys)]
            self.changes += 1
            data = server.storage.get(key, ("crowd", name)).data
            note = {"annotations": {"crowd": str(self.changes)}}
            more = {"endpoints": [{"addresses": [f"10.1.0.{self.changes % 250}"]}]} if "endpoints" in data else {}
            server.storage.put(key, {**data, **more, "metadata": {**data["metadata"], **note}})

    @asynccontextmanager
    async def churning(self, a_second: int) -> AsyncIterator[None]:
        async def churn() -> None:
            while True:
                await asyncio.to_thread(self._api.do, lambda server: self._change(server, a_second // 20))
                await asyncio.sleep(0.05)

        task = asyncio.create_task(churn())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


_CROWDED = (("apps", "deployments"), ("", "configmaps"), ("", "services"), ("discovery.k8s.io", "endpointslices"))


def _others(name: str) -> Iterator[dict[str, Any]]:
    meta = {"name": name, "namespace": "crowd"}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
    selected = {"selector": {"matchLabels": {"app": name}}, "template": template}
    yield {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": selected}
    labelled = {**meta, "labels": {LABEL: "true"}}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": labelled, "data": {"of": "others"}}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": True}}],
    }
