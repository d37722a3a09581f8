"""The status that we write, as an API server keeps it and as `kubectl get` shows it."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubedouble import ApiServer
from replica_double import REFUSED, Envoys, OneReplica, key, rollout

from router.cluster.status import Known, status_of
from router.problem import Problem
from router.step import RolloutState

CRD = Path(__file__).parents[2] / "deploy/crds/modelrollouts.headgate.dev.yaml"
WISDOM = "/apis/headgate.dev/v1alpha1/namespaces/default/modelrollouts/wisdom"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def full_status(raw: dict[str, Any]) -> dict[str, Any]:
    """One that has every field."""
    replica = OneReplica()
    envoys = Envoys(replica)
    envoys.join("a", "b")
    envoys.unreachable = ("them",)
    annotated = deepcopy(raw)
    annotated["spec"]["versions"][-1] |= {"mirror": {"percent": 30}} if "mirror" in raw["spec"]["versions"][-1] else {}
    replica.put(annotated, v1=REFUSED)
    envoys.ack("a")
    model = key(raw)
    caution = Problem(model, "spec.hosts", "is odd", "mend it", "warning")
    known = Known(raw, replica.status(model), envoys.now([model]), "us", (caution,), RolloutState((("v1", 0),)))
    status = status_of(replace(known, drains=("isvc/v2: 3 requests in flight",)), 1_772_000_000.0)
    assert status is not None
    return status


def mirroring() -> dict[str, Any]:
    raw = rollout()
    raw["metadata"]["annotations"] = {"headgate.dev/change": '{"by": "ann", "why": "because"}'}
    raw["spec"]["versions"].append({"name": "v2", "mirror": {"percent": 20}, "resources": ["isvc/v2"]})
    return raw


def fields(value: Any, path: str = "") -> set[str]:
    if isinstance(value, list):
        return {found for one in value for found in fields(one, path)}
    if not isinstance(value, dict) or path in ("state", "seen.facts"):
        return {path}
    return {found for name, one in value.items() for found in fields(one, f"{path}.{name}".lstrip("."))}


def described(node: dict[str, Any], path: str = "") -> set[str]:
    inner = node.get("items", node)
    if "properties" not in inner:
        return {path}
    return {
        found for name, one in inner["properties"].items() for found in described(one, f"{path}.{name}".lstrip("."))
    }


def test_the_schema_names_every_field_that_is_written_and_no_other() -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert fields(full_status(mirroring())) == described(schema["properties"]["status"])


def test_every_field_of_the_status_is_described() -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def check(node: dict[str, Any]) -> None:
        assert node["description"].endswith(".")
        for one in node.get("items", node).get("properties", {}).values():
            check(one)

    check(schema["properties"]["status"])


def test_an_api_server_keeps_it_as_it_was_written_and_shows_it_in_columns() -> None:
    async def run() -> None:
        async with ApiServer() as api, aiohttp.ClientSession(api.url) as session:
            api.create(yaml.safe_load(CRD.read_text()))
            raw = api.create(mirroring())
            status = full_status(raw)
            change = {"metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]}, "status": status}
            patch = {"Content-Type": "application/merge-patch+json"}
            async with session.patch(f"{WISDOM}/status", json=change, headers=patch) as answer:
                said = await answer.json()
                assert answer.status == 200, said
            assert said["status"] == status

            async with session.get(WISDOM, headers={"Accept": TABLE}) as answer:
                table = await answer.json()
            names = [(one["name"], one["priority"]) for one in table["columnDefinitions"]]
            assert names == [
                ("Name", 0), ("Primary", 0), ("Traffic", 0), ("Ready", 0), ("Programmed", 0), ("Envoys", 0),
                ("Age", 0), ("Strategy", 1), ("Hosts", 1), ("Gateway", 1), ("Reason", 1),
            ]  # fmt: skip
            [row] = table["rows"]
            assert row["cells"][:6] == ["wisdom", "v0", "v0 100 %, v2 copies 30 %", "True", "False", "1/2"]
            assert row["cells"][7:] == ["none", '["wisdom"]', "default", "Pending"]

    asyncio.run(run())
