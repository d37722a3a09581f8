"""Every panel and every rule that we ship, answered by a real Prometheus.

It scrapes two replicas that follow a cluster, and the sidecar of a real Envoy with HTTP, gRPC, mirrored, failing, lost
and unfinished requests, which knows of plugins, too. One Envoy is turned away, one rollout is refused, one has no
server, and a version of another is deleted: so every question has an answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from scraping import Prometheus, needs_prometheus, prometheus, sidecar_process

from headgate.envoy import EnvoyProcess
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.figures import FigureFile
from xds.bootstrap import bootstrap

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
CHOSEN = {"namespace": "default", "model": "iris|rose", "version": ".*", "job": "headgate", "__rate_interval": "30s"}
BEYOND_ENVOYS_LIMIT = "|".join(f"[a-m]{{3}}{i}[n-z]+" for i in range(60))
"""Valid RE2, but a larger program than Envoy takes."""


def panels() -> dict[str, str]:
    """What Grafana would ask, by where it stands."""
    found = {}
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                asked = re.sub(r"\$(\w+)", lambda name: CHOSEN[name[1]], target["expr"])
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = asked
    return found


def rules() -> dict[str, str]:
    """Recorded ones as they are. Of alerts both sides of every comparison, so that all is well is no empty answer."""
    found = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            asked = rule["expr"]
            if "alert" in rule:
                asked = re.sub(r" (?:[<>]|[!=]=) ", " + ", asked).replace("absent(", "(").replace("[1h:1m]", "[1h:1s]")
            found[rule.get("alert") or rule["record"]] = asked
    return found


async def unanswered(prometheus: Prometheus, asked: dict[str, str]) -> list[str]:
    missing = []
    for name, query in asked.items():
        values = [float(one["value"][1]) for one in await prometheus.ask(query)]
        if not values or all(math.isnan(value) for value in values):
            missing.append(name)
    return missing


async def until_answered(prometheus: Prometheus, asked: dict[str, str]) -> None:
    missing = list(asked)
    try:
        async with asyncio.timeout(60):
            while missing:
                missing = await unanswered(prometheus, {name: asked[name] for name in missing})
                await asyncio.sleep(0.1)
    except TimeoutError:
        text = "\n".join(f"{name}\n  {asked[name]}" for name in missing)
        raise AssertionError(f"no answer to {len(missing)} of {len(asked)}:\n{text}") from None


ALERTS = {
    *("HeadgateVersionErrors", "HeadgateCandidateFails", "HeadgateNoServerReady", "HeadgateRequestsUnmatched"),
    *("HeadgateRejected", "HeadgateEnvoysTurnedAway"),
}
"""Those that begin with what happens here."""
WELL = {
    *("HeadgateDown", "HeadgateNoLeader", "HeadgateManyLeaders", "HeadgateReplicasApart", "HeadgateNoEnvoys"),
    *("HeadgateApiServerNotFollowed", "HeadgateSidecarCannotReadEnvoy"),
}


async def until_begun(prometheus: Prometheus) -> None:
    begun: set[str] = set()
    try:
        async with asyncio.timeout(20):
            while not (begun >= ALERTS and not begun & WELL):
                asked = await prometheus.ask('ALERTS{alertstate=~"pending|firing"}')
                begun = {one["metric"]["alertname"] for one in asked}
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not begun: {ALERTS - begun}; begun: {begun & WELL}") from None


@asynccontextmanager
async def turned_away(port: int) -> AsyncIterator[None]:
    """An Envoy of a gateway that nobody knows."""
    config = bootstrap(node_id="lost", node_cluster="nowhere", xds_address="127.0.0.1", xds_port=port, admin_port=0)
    lost = EnvoyProcess(config, concurrency=1)
    await lost.start(ready=False)
    try:
        yield
    finally:
        await lost.stop()


def change(it: Any, rollout: str, *versions: dict[str, Any]) -> None:
    spec = [{"resources": [f"deploy/{one['name']}", f"svc/{one['name']}"], **one} for one in versions]
    it.api.patch("headgate.dev/v1alpha1", "ModelRollout", rollout, {"spec": {"versions": spec}})


async def leave(port: int, host: str) -> None:
    """A client that goes before it is answered."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /v2/models/iris HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    await writer.drain()
    writer.close()


@needs_prometheus
def test_every_question_that_we_ship_has_an_answer(rig: Any, tmp_path: Path) -> None:
    async def body(it: Any) -> None:
        for name in ("v1", "v3", "v4", "v6", "v7"):
            await it.deployment(name)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            it.service("v5", 80, closed.getsockname()[1])
        await it.deployment("v2", error_rate=0.5, latency_ms=30.0)
        it.rollout("v1", "v2")
        it.rollout("v3", "v4", name="rose", strategy="mirror")
        it.rollout(name="fern", versions=[{"name": "v5", "resources": ["svc/v5"]}])
        it.rollout("v6", "v7", name="tulip")
        planes = [await it.plane(), await it.plane()]
        envoy = await it.envoy()
        await it.programmed("default/iris", v1=50, v2=50)
        await it.programmed("default/rose", v3=100)
        await it.programmed("default/fern")
        await it.programmed("default/tulip", v6=50, v7=50)
        it.rollout("v1", "v3", name="lily")
        await it.programmed("default/lily")
        figures = tmp_path / "figures"
        plugins = ExtProcSpec.model_validate({"plugins": [{"plugin": "sidecar.plugins.stamp:Stamp"}]})
        refused = [{"headers": [{"name": "x-a", "regex": BEYOND_ENVOYS_LIMIT}]}]
        change(it, "lily", {"name": "v1"}, {"name": "v3", "match": refused})
        async with (
            turned_away(planes[0].xds_port),
            sidecar_process(f"http://127.0.0.1:{envoy.admin_port}", "--plugin-figures", str(figures)) as (_, url),
            prometheus(
                tmp_path,
                {
                    "headgate": [f"127.0.0.1:{one.http_port}" for one in planes],
                    "sidecar": [url.removeprefix("http://")],
                },
                RULES,
            ) as asked,
            it.load("iris.test", rate=20),
            it.load("iris.test", rate=20, grpc=True),
            it.load("rose.test", rate=20),
            it.load("fern.test", rate=10),
            it.load("nobody.test", rate=20),
            asyncio.TaskGroup() as clients,
        ):

            async def restless() -> None:
                """Changes that Envoys confirm, and clients that go before they are answered."""
                for weight in itertools.cycle((50, 60)):
                    change(it, "iris", {"name": "v1", "weight": weight}, {"name": "v2", "weight": 50})
                    await leave(it.port, "iris.test")
                    await asyncio.sleep(0.5)

            on = clients.create_task(restless())
            counting = clients.create_task(FigureFile(Application(plugins), figures).run())
            it.api.delete("apps/v1", "Deployment", "v7", "default")
            await until_answered(asked, panels() | rules())
            shares = {
                one["metric"]["version"]: float(one["value"][1])
                for one in await asked.ask(rules()["headgate:version_error_ratio:rate5m"])
            }
            assert shares.keys() == {"v1", "v2", "v3", "v5"}
            assert shares["v1"] == shares["v3"] == 0
            assert 0.2 < shares["v2"] < 0.8
            assert shares["v5"] == 1
            evaluated = await asked.rules()
            assert {one["name"] for one in evaluated} == rules().keys()
            assert {(one["health"], one.get("lastError", "")) for one in evaluated} == {("ok", "")}
            await until_begun(asked)
            on.cancel()
            counting.cancel()

    rig(body, within=110.0)
