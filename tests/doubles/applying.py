"""Objects applied to an API server that takes no unknown field, and what it said to each."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import yaml
from charts import DEPLOY, Object, key
from kubedouble import ApiServer

CRDS = [yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "crds").glob("*headgate.dev.yaml"))]
NOT_SERVED = {"Certificate", "Issuer", "ServiceMonitor", "HorizontalPodAutoscaler"}
"""Of other projects, or not in the double; the chart's tests validate the last by its schema."""


def applied(objects: list[Object], *namespaces: str) -> dict[tuple[str, str, str], Any]:
    """What was said to each object: None when it was created."""

    async def run() -> dict[tuple[str, str, str], Any]:
        async with ApiServer() as api, aiohttp.ClientSession() as session:

            async def post(path: str, one: Object) -> Any:
                strict = {"fieldValidation": "Strict"}
                async with session.post(f"{api.url}{path}", json=one, params=strict) as answer:
                    return None if answer.status == 201 else await answer.json()

            for crd in CRDS:
                assert await post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd) is None
            for name in namespaces:
                about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                assert await post("/api/v1/namespaces", about) is None
            served = await resources(session, api.url)
            said = {}
            for one in objects:
                kind = (one["apiVersion"], one["kind"])
                if kind not in served:
                    said[key(one)] = f"{kind} is not served"
                    continue
                plural, namespaced = served[kind]
                where = f"/namespaces/{one['metadata'].get('namespace', 'default')}" if namespaced else ""
                root = "/apis/" if "/" in one["apiVersion"] else "/api/"
                said[key(one)] = await post(f"{root}{one['apiVersion']}{where}/{plural}", one)
            return said

    return asyncio.run(run())


async def resources(session: aiohttp.ClientSession, url: str) -> dict[tuple[str, str], tuple[str, bool]]:
    async def get(path: str) -> Any:
        async with session.get(f"{url}{path}") as answer:
            return await answer.json()

    groups = await get("/apis")
    versions = ["v1"] + [each["groupVersion"] for group in groups["groups"] for each in group["versions"]]
    found = {}
    for version in versions:
        listed = await get(f"/{'apis' if '/' in version else 'api'}/{version}")
        for one in listed["resources"]:
            if "/" not in one["name"]:
                found[version, one["kind"]] = (one["name"], one["namespaced"])
    return found


def refused(said: dict[tuple[str, str, str], Any]) -> dict[tuple[str, str, str], Any]:
    return {one: why for one, why in said.items() if why is not None and one[0] not in NOT_SERVED}
