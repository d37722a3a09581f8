"""Several replicas, killed, paused, cut off and replaced while requests are in flight: users must notice nothing.

Replicas that are killed or paused are processes of their own. Leases last 3 s where a test waits for one to run out.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubedouble.fixture import NAMESPACE
from replicas import Replica, Road, page, until_page

from headgate.demo.figures import Ledger
from headgate.demo.traffic import Aim, Failed, GrpcClient, HttpClient, Traffic

IRIS = "default/iris"
ROLLOUT = ("headgate.dev/v1alpha1", "ModelRollout")
DEPLOYMENT = ("apps/v1", "Deployment")
BEYOND_ENVOYS_LIMIT = "|".join(f"[a-m]{{3}}{i}[n-z]+" for i in range(60))
"""Valid RE2, but a larger program than Envoy takes (re2.max_program_size.error_level, 100 by default)."""


class Team:
    """Replicas of one test: `add` makes one, all that run are ended with the block."""

    def __init__(self, it: Any, folder: Path) -> None:
        self._it, self._folder = it, folder
        self._all: list[Replica] = []

    def add(self, name: str, **kubernetes: Any) -> Replica:
        kubeconfig = self._it.api.kubeconfig("headgate", NAMESPACE)
        self._all.append(Replica(name, self._folder, kubeconfig, **kubernetes))
        return self._all[-1]

    async def pair(self, **kubernetes: Any) -> tuple[Replica, Replica]:
        """Two that run: the one that leads, and the other."""
        both = [self.add(name, **kubernetes) for name in ("a", "b")]
        await asyncio.gather(*(one.start() for one in both))
        await self._it.until(lambda: leader(self._it), "somebody leads")
        first, second = sorted(both, key=lambda one: one.name != leader(self._it))
        return first, second

    async def __aenter__(self) -> Team:
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._all:
            await one.end(signal.SIGKILL)


@asynccontextmanager
async def unharmed(it: Any, *hosts: str, envoys: tuple[int, ...] = (), rate: float = 20) -> AsyncIterator[list[Ledger]]:
    """HTTP and gRPC requests to all hosts through all Envoys: none may fail, and all must be answered."""
    ledgers = []
    async with AsyncExitStack() as stack:
        for port in envoys or (it.port,):
            for host in hosts or ("iris.test",):
                for client in (HttpClient, GrpcClient):
                    ledgers.append(Ledger())
                    aim = Aim(port, host, timeout=40.0)
                    await stack.enter_async_context(Traffic(client(aim), ledgers[-1], rate))
        await it.until(lambda: all(one.ok for one in ledgers), "requests under way")
        yield ledgers
    for one in ledgers:
        assert one.failed == 0, one.errors
        assert one.ok == one.sent > 0


def leader(it: Any) -> str:
    """The name of the replica that holds the Lease."""
    lease = it.api.find("coordination.k8s.io/v1", "Lease", "headgate", NAMESPACE) or {}
    return str(lease.get("spec", {}).get("holderIdentity") or "").partition("_")[0]


def conditions(it: Any, model: str) -> dict[str, Any]:
    return {one["type"]: one for one in it.status(model)["conditions"]}


def exists(it: Any, name: str) -> bool:
    return it.api.find(*DEPLOYMENT, name) is not None


def delete(it: Any, name: str) -> None:
    """It stays as long as it is protected; the versions must have been, or nothing would be proved."""
    assert "headgate.dev/drain" in it.api.get(*DEPLOYMENT, name)["metadata"].get("finalizers", [])
    it.api.delete(*DEPLOYMENT, name)


def weigh(it: Any, model: str, **weights: int) -> None:
    namespace, name = model.split("/")
    found = it.api.get(*ROLLOUT, name, namespace)
    versions = [{**one, "weight": weights.get(one["name"], 0)} for one in found["spec"]["versions"]]
    it.api.patch(*ROLLOUT, name, {"spec": {"versions": versions}}, namespace)


async def arms(port: int, host: str, users: int = 60) -> dict[str, str]:
    """Which version each of so many users is given."""
    client = HttpClient(Aim(port, host))
    try:
        return {f"user-{n}": await client.send({"x-user-id": f"user-{n}"}) for n in range(users)}
    finally:
        await client.close()


def test_the_leader_dies_in_a_drain_and_another_one_ends_it(rig: Any, tmp_path: Path) -> None:
    async def body(it: Any) -> None:
        async with Team(it, tmp_path) as team:
            a, b = team.add("a", leaseDuration="3s"), team.add("b", leaseDuration="3s")
            await it.deployment("v1")
            v2 = await it.deployment("v2")
            it.rollout("v1", "v2")
            await a.start()
            await it.envoy("e1", a.xds, b.xds)
            first = it.port
            await it.envoy("e2", a.xds, b.xds)
            await a.until_envoys("e1", "e2")
            await b.start()
            await it.programmed(IRIS, v1=50, v2=50)
            assert leader(it) == "a"
            async with unharmed(it, envoys=(first, it.port)):
                v2.behave(hold=True)
                await it.until(lambda: v2.counts.in_flight > 40, "requests in flight")
                delete(it, "v2")
                await it.programmed(IRIS, v1=100)
                await a.end(signal.SIGKILL)
                held = v2.counts.in_flight
                assert held > 40
                assert await it.until(lambda: leader(it) == "b", "taken over") < 5
                await b.until_envoys("e1", "e2")
                saw = f"waiting for {held} requests in progress at v2 of {IRIS} on e1, e2"
                await until_page(b.http, "/readyz?verbose", lambda said: saw in said)
                assert exists(it, "v2"), "protected while its requests are in flight"
                # Each takes its time from here on, and the last of them 3 s.
                v2.behave(hold=False)
                await it.until(lambda: not (exists(it, "v2") and v2.counts.in_flight), "answered")
                assert v2.counts.in_flight == 0, "the finalizer goes after the last request"
                await it.until(lambda: not exists(it, "v2"), "released")
            assert await arms(it.port, "iris.test", 20) == {f"user-{n}": "v1" for n in range(20)}

    rig(body)


def test_a_rolling_update_loses_no_request_and_moves_no_sticky_user(rig: Any, tmp_path: Path) -> None:
    async def body(it: Any) -> None:
        async with Team(it, tmp_path) as team:
            replicas = [team.add("a"), team.add("b")]
            for name in ("v1", "v2", "v3", "v4", "v5"):
                await it.deployment(name)
            it.rollout("v1", "v2", "v5", sticky={"header": "x-user-id"})
            it.rollout("v3", "v4", name="rose")
            await asyncio.gather(*(one.start() for one in replicas))
            ports = []
            for node in ("e1", "e2"):
                await it.envoy(node, *(one.xds for one in replicas))
                ports.append(it.port)
            # Slots depend on what was before: only who remembers it gives each user the same version again.
            await it.programmed(IRIS)
            it.rollout("v1", "v5", sticky={"header": "x-user-id"})
            await it.programmed(IRIS, v1=50, v5=50)
            before, state = await arms(ports[0], "iris.test"), it.status(IRIS)["state"]
            assert {*before.values()} == {"v1", "v5"}
            assert state == {"slots": {"v5": 1}}, "not the first one, as who has just started would give it"
            turns = 0

            async def keep_changing() -> None:
                nonlocal turns
                while True:
                    share = 20 + 60 * (turns % 2)
                    weigh(it, "default/rose", v3=share, v4=100 - share)
                    await it.programmed("default/rose", v3=share, v4=100 - share)
                    turns += 1

            async with unharmed(it, "iris.test", "rose.test", envoys=tuple(ports), rate=10):
                changing = asyncio.create_task(keep_changing())
                order = sorted(replicas, key=lambda one: one.name != leader(it))
                for leaving in order:
                    (staying,) = [one for one in replicas if one is not leaving]
                    await it.until(lambda one=leaving: leader(it) == one.name, "its turn to lead")
                    begun = time.monotonic()
                    ended = asyncio.create_task(leaving.end())
                    await it.until(lambda one=staying: leader(it) == one.name, "handed over")
                    took = time.monotonic() - begun
                    print(f"handed over in {took:.2f} s")
                    assert took < 2
                    assert await ended == 0
                    await staying.until_envoys("e1", "e2")
                    then = turns
                    await it.until(lambda then=then: turns >= then + 2, "weights go on changing")
                    await leaving.start()
                then = turns
                await it.until(lambda then=then: turns >= then + 1 or changing.done(), "weights go on changing")
                changing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await changing
                for port in ports:
                    assert await arms(port, "iris.test") == before
                assert it.status(IRIS)["state"] == state

    rig(body)


def test_envoys_on_different_replicas_are_waited_for(rig: Any, tmp_path: Path) -> None:
    async def body(it: Any) -> None:
        async with Team(it, tmp_path) as team:
            a, b = await team.pair(leaseDuration="4s")
            await it.envoy("e1", a.xds)
            first = it.port
            other = await it.envoy("e2", b.xds)
            second = it.port
            servers = {name: await it.deployment(name) for name in ("v1", "v2", "v3", "v4")}
            it.rollout("v1", "v2")
            it.rollout("v3", "v4", name="rose", timeouts={"drain": "1s"})
            await it.programmed(IRIS, v1=50, v2=50)
            await it.programmed("default/rose", v3=50, v4=50)
            assert leader(it) == a.name
            await it.until(lambda: it.status(IRIS)["envoys"] == "2/2", "the other replica's Envoy is counted")
            async with unharmed(it, "rose.test", envoys=(first,)), unharmed(it, "iris.test", envoys=(second,)):
                os.kill(other.pid, signal.SIGSTOP)
                try:
                    weigh(it, IRIS, v1=30, v2=70)
                    await it.until(lambda: it.status(IRIS)["envoys"] == "1/2", "one has it")
                    assert it.condition(IRIS, "Programmed") == "False"
                    assert [one["node"] for one in it.status(IRIS)["gateways"][0]["lagging"]] == ["e2"]
                finally:
                    os.kill(other.pid, signal.SIGCONT)
                await it.programmed(IRIS, v1=30, v2=70)
                assert it.status(IRIS)["envoys"] == "2/2"

                # The requests in flight are on the other replica's Envoy.
                servers["v2"].behave(hold=True)
                await it.until(lambda: servers["v2"].counts.in_flight > 10, "requests in flight")
                delete(it, "v2")
                await until_page(
                    a.http, "/readyz?verbose", lambda said: "in progress at v2 of default/iris on e2" in said
                )
                assert await a.envoys() == {"e1"}

                # The other replica does not answer: nothing goes until its Lease has, or the drain deadline has passed.
                servers["v4"].behave(hold=True)
                await it.until(lambda: servers["v4"].counts.in_flight > 5, "requests in flight")
                delete(it, "v4")
                paused = time.monotonic()
                b.send(signal.SIGSTOP)
                await it.until(lambda: not exists(it, "v4"), "the deadline passed")
                at_deadline = time.monotonic() - paused
                assert exists(it, "v2")
                await until_page(
                    a.http, "/readyz?verbose", lambda said: f"replica {b.name}_" in said and "not answer" in said
                )
                await it.until(lambda: not exists(it, "v2"), "the Lease has gone")
                print(f"v4 released {at_deadline:.1f} s, v2 {time.monotonic() - paused:.1f} s after the pause")
                # 4 s from its last renewal, and 5 s for its Envoys to connect to another replica.
                assert at_deadline < 4
                assert time.monotonic() - paused > 4 - 4 / 3 + 5
                for server in servers.values():
                    server.behave(hold=False)
                b.send(signal.SIGCONT)
                await it.programmed(IRIS, v1=100)
            warned = [
                one for one in it.api.list("v1", "Event") if one["type"] == "Warning" and one["reason"] == "Released"
            ]
            assert [one["involvedObject"]["name"] for one in warned] == ["v4"]
            assert "deadline of 1 s passed" in warned[0]["message"]

    rig(body)


def test_a_replica_without_the_api_server_serves_on_says_so_and_heals(rig: Any, tmp_path: Path) -> None:
    async def body(it: Any) -> None:
        road = Road(int(it.api.url.rpartition(":")[2]))
        await road.mend()
        config = yaml.safe_load(it.api.kubeconfig("headgate", NAMESPACE).read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{road.port}"
        by_road = tmp_path / "by-road.kubeconfig"
        by_road.touch(mode=0o600)
        by_road.write_text(yaml.safe_dump(config))
        await it.deployment("v1")
        await it.deployment("v2")
        it.rollout("v1", "v2")
        a = await it.plane(kubeconfig=str(by_road), leaseDuration="3s")
        await it.envoy("e1", a.xds_port)
        first = it.port
        await it.programmed(IRIS, v1=50, v2=50)
        b = await it.plane(leaseDuration="3s")
        await it.envoy("e2", b.xds_port)
        await it.until(lambda: it.status(IRIS)["envoys"] == "2/2", "both have it")
        async with unharmed(it, envoys=(first, it.port)):
            await road.cut()
            await until_page(a.http_port, "/readyz?verbose", lambda said: "what was seen last stays in force" in said)
            await until_page(a.http_port, "/metrics", lambda said: "\nheadgate_kubernetes_leads 0.0" in said)
            said = await page(a.http_port, "/readyz?verbose")
            assert "\n[i] leader: unknown\n" in said
            assert said.endswith("\nready\n"), "it still serves its Envoys"
            assert "\nheadgate_kubernetes_followed 0.0" in await page(a.http_port, "/metrics")
            await until_page(b.http_port, "/metrics", lambda said: "\nheadgate_kubernetes_leads 1.0" in said)

            weigh(it, IRIS, v1=90, v2=10)
            await it.until(lambda: it.status(IRIS)["envoys"] == "1/2", "the replica that is cut off is still counted")
            assert it.condition(IRIS, "Programmed") == "False"
            assert {*(await arms(first, "iris.test", 60)).values()} == {"v1", "v2"}, "its last routes"
            delete(it, "v2")
            routed = f"waiting for the routes to leave v2 of {IRIS} on {a.replica.identity}"
            await until_page(b.http_port, "/readyz?verbose", lambda said: routed in said)
            assert exists(it, "v2")

            await road.mend()
            await it.programmed(IRIS, v1=100)
            await it.until(lambda: not exists(it, "v2"), "released")
            assert it.status(IRIS)["envoys"] == "2/2"
            await until_page(a.http_port, "/readyz?verbose", lambda said: "API server: followed" in said)
            assert "\nheadgate_kubernetes_followed 1.0" in await page(a.http_port, "/metrics")
            assert "\nheadgate_kubernetes_leads 0.0" in await page(a.http_port, "/metrics")
        await road.cut()

    rig(body)


def test_an_envoy_that_dies_and_comes_back_gets_everything_and_holds_up_nothing(rig: Any) -> None:
    async def body(it: Any) -> None:
        await it.deployment("v1")
        v2 = await it.deployment("v2")
        it.rollout("v1", "v2")
        await it.plane()
        await it.envoy("e1")
        first = it.port
        mortal = await it.envoy("e2")
        await it.programmed(IRIS, v1=50, v2=50)
        async with unharmed(it, envoys=(first,)):
            for share in (10, 80, 30):
                weigh(it, IRIS, v1=share, v2=100 - share)
                if share == 80:
                    await mortal.stop(grace=0)
                await it.programmed(IRIS, v1=share, v2=100 - share)
            assert it.status(IRIS)["envoys"] == "1/1"
            weigh(it, IRIS, v1=0, v2=100)
            mortal = await it.envoy("e2")
            await it.programmed(IRIS, v2=100)
            await it.until(lambda: it.status(IRIS)["envoys"] == "2/2", "it is back")
            assert {*(await arms(it.port, "iris.test", 20)).values()} == {"v2"}

            weigh(it, IRIS, v1=50, v2=50)
            await it.programmed(IRIS, v1=50, v2=50)
            v2.behave(hold=True)
            lost = [asyncio.create_task(_lost(it.port)) for _ in range(10)]
            await it.until(lambda: v2.counts.in_flight > 10, "requests in flight")
            delete(it, "v2")
            await it.programmed(IRIS, v1=100)
            await mortal.stop(grace=0)
            await asyncio.gather(*lost)
            await it.envoy("e2")
            await it.until(lambda: it.status(IRIS)["envoys"] == "2/2", "it is back")
            assert exists(it, "v2"), "the other Envoy's requests are in flight"
            v2.behave(hold=False)
            await it.until(lambda: not exists(it, "v2"), "released")
            assert v2.counts.in_flight == 0
        assert {*(await arms(it.port, "iris.test", 20)).values()} == {"v1"}

    rig(body)


async def _lost(port: int) -> None:
    """A request through an Envoy that is going to be killed."""
    client = HttpClient(Aim(port, "iris.test", timeout=40.0))
    try:
        await client.send({})
    except Failed:
        pass
    finally:
        await client.close()


def test_an_envoy_that_refuses_a_rollout_in_a_drain_is_quoted_and_the_others_flow(rig: Any) -> None:
    async def body(it: Any) -> None:
        for name in ("v1", "v2", "v3", "v4", "v5", "v6"):
            await it.deployment(name)
        it.rollout("v1", "v2")
        it.rollout("v5", "v6", name="lily", timeouts={"drain": "3s"})
        it.rollout("v3", "v4", name="rose")
        await it.plane()
        await it.envoy()
        for model in (IRIS, "default/lily", "default/rose"):
            await it.programmed(model)
        async with unharmed(it, "iris.test", "lily.test", "rose.test", rate=10):
            for model, version in (("iris", "v2"), ("lily", "v6")):
                refused = [{"headers": [{"name": "x-a", "regex": BEYOND_ENVOYS_LIMIT}]}]
                found = it.api.get(*ROLLOUT, model)["spec"]["versions"]
                edited = [{**one, "match": refused} if one["name"] == version else one for one in found]
                # A tester's route that Envoy takes for too large, to the version that stays.
                edited = [{**one, "match": refused} if one["name"] != version else found[1] for one in edited]
                it.api.patch(*ROLLOUT, model, {"spec": {"versions": edited}})
                delete(it, version)
            for model in (IRIS, "default/lily"):
                await it.until(lambda one=model: conditions(it, one)["Degraded"]["reason"] == "Rejected", "refused")
                said = conditions(it, model)
                assert said["Degraded"]["status"] == "True"
                assert "regex" in said["Degraded"]["message"], said["Degraded"]
                assert said["Programmed"]["status"] == "False"
                assert "regex" in said["Programmed"]["message"]
            for share in (10, 60):
                weigh(it, "default/rose", v3=share, v4=100 - share)
                await it.programmed("default/rose", v3=share, v4=100 - share)

            # Envoy keeps routes that lead to what is being deleted: only the deadline, or a mended rollout, ends that.
            await it.until(lambda: not exists(it, "v6"), "the deadline passed")
            assert exists(it, "v2")
            mended = [{**one, "match": None} for one in it.api.get(*ROLLOUT, "iris")["spec"]["versions"]]
            it.api.patch(*ROLLOUT, "iris", {"spec": {"versions": mended}})
            await it.until(lambda: not exists(it, "v2"), "drained")
            await it.programmed(IRIS, v1=100)
            await it.until(lambda: it.condition(IRIS, "Degraded") == "False", "well: v2 is gone for good")
        warned = [one for one in it.api.list("v1", "Event") if one["type"] == "Warning" and one["reason"] == "Released"]
        assert [one["involvedObject"]["name"] for one in warned] == ["v6"]

    rig(body)


def writes_by(it: Any, name: str, since: int = 0) -> list[Any]:
    """Status and finalizer writes of one replica; only the double remembers who asked for what."""
    return [
        one
        for one in list(it.api.api.requests)[since:]
        if one.method == "PATCH"
        and one.user_agent.startswith(f"headgate/{name}")
        and (one.path.endswith("/status") or "/leases/" not in one.path)
    ]


def test_a_leader_that_was_paused_for_longer_than_its_term_writes_nothing_more(rig: Any, tmp_path: Path) -> None:
    if os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("only the double remembers who wrote")

    async def body(it: Any) -> None:
        async with Team(it, tmp_path) as team:
            a, b = await team.pair(leaseDuration="3s")
            await it.envoy("e1", b.xds)
            for name in ("v1", "v2", "v3"):
                await it.deployment(name)
            models = [f"m{n}" for n in range(8)]
            for model in models:
                it.rollout("v1", "v2", "v3", name=model)
            for model in models:
                await it.programmed(f"default/{model}")
            assert leader(it) == a.name
            async with unharmed(it, "m0.test"):
                a.send(signal.SIGSTOP)
                # What it finds to do when it wakes up: statuses to write, a finalizer to take off.
                for model in models:
                    weigh(it, f"default/{model}", v1=10, v2=90)
                delete(it, "v3")
                took = await it.until(lambda: leader(it) == b.name, "taken over")
                print(f"taken over in {took:.2f} s")
                await it.until(lambda: writes_by(it, b.name), "the new leader writes")
                since = len(it.api.api.requests)
                a.send(signal.SIGCONT)
                for model in models:
                    weigh(it, f"default/{model}", v1=80, v2=20)
                for model in models:
                    await it.programmed(f"default/{model}", v1=80, v2=20)
                await until_page(a.http, "/readyz?verbose", lambda said: f"leader: {b.name}_" in said)
                assert writes_by(it, b.name, since)
                assert not writes_by(it, a.name, since)
                assert leader(it) == b.name

    rig(body)


def test_statuses_are_the_same_whoever_leads_and_are_not_written_again(rig: Any) -> None:
    if os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("only the double remembers who wrote")

    async def body(it: Any) -> None:
        for name in ("v1", "v2"):
            await it.deployment(name)
        models = [f"default/m{n}" for n in range(200)]
        for model in models:
            it.rollout("v1", "v2", name=model.rpartition("/")[2])
        a, to_b = await it.plane(), Road(0)
        await to_b.mend()
        for node in ("e1", "e2"):  # on the leader, as nobody else is there
            await it.envoy(node, a.xds_port, to_b.port)
        b = await it.plane()
        to_b.target = b.xds_port

        def statuses() -> dict[str, Any]:
            return {one["metadata"]["name"]: one.get("status", {}) for one in it.api.list(*ROLLOUT)}

        def settled() -> bool:
            return all(one.get("envoys") == "2/2" for one in statuses().values())

        await it.until(settled, "200 statuses")
        before = statuses()
        async with unharmed(it, "m0.test"):
            since = len(it.api.api.requests)
            await to_b.cut()
            took = time.monotonic()
            await it.stop(a)
            await until_page(b.http_port, "/metrics", lambda said: "\nheadgate_kubernetes_leads 1.0" in said)
            print(f"handed over in {time.monotonic() - took:.2f} s")
            await it.until(lambda: b._cluster.written().queue.done >= len(models), "all are looked at")
            await to_b.mend()
            await it.until(lambda: len([*b.fleet.envoys()]) == 2, "the Envoys move")
            # What is marked after all that a new leader has to look at is written after it.
            weigh(it, "default/m0", v1=10, v2=90)
            await it.programmed("default/m0", v1=10, v2=90)
            await until_page(b.http_port, "/metrics", lambda said: "\nheadgate_kubernetes_status_queue 0.0" in said)
            written = writes_by(it, b.replica.identity, since)
            assert {one.path.split("/")[-2] for one in written} == {"m0"}, len(written)
            after = statuses()
            assert {**after, "m0": None} == {**before, "m0": None}
        await to_b.cut()

    rig(body)
