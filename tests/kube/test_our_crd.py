"""The CRD that we ship, as an API server takes it: installed, filled with defaults, guarding its objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubedouble import ApiServer

CRD = Path(__file__).parents[2] / "deploy/crds/modelrollouts.headgate.dev.yaml"
ROLLOUTS = "/apis/headgate.dev/v1alpha1/namespaces/default/modelrollouts"
ROLLOUT = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {name: iris, namespace: default}
spec:
  hosts: [iris.example.com]
  versions:
  - {name: v1, backend: {endpoints: ["127.0.0.1:8001"]}}
"""

Post = Callable[[str, Any], Awaitable[tuple[int, Any]]]


def with_crd(body: Callable[[Post], Awaitable[None]]) -> None:
    async def run() -> None:
        async with ApiServer() as api, aiohttp.ClientSession() as session:

            async def post(path: str, document: Any) -> tuple[int, Any]:
                async with session.post(f"{api.url}{path}", json=document) as answer:
                    return answer.status, await answer.json()

            definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            status, said = await post(definitions, yaml.safe_load(CRD.read_text()))
            assert status == 201, said
            await body(post)

    asyncio.run(run())


def test_it_is_taken_and_fills_in_the_defaults() -> None:
    async def body(post: Post) -> None:
        status, made = await post(ROLLOUTS, yaml.safe_load(ROLLOUT))
        assert status == 201, made
        assert made["spec"]["gateway"] == "default"
        assert made["spec"]["strategy"] == "none"

    with_crd(body)


def test_it_refuses_what_the_parser_refuses() -> None:
    async def body(post: Post) -> None:
        document = yaml.safe_load(ROLLOUT)
        document["spec"]["primary"] = "v9"
        document["spec"]["versions"][0]["weight"] = -1
        status, said = await post(ROLLOUTS, document)
        assert status == 422
        assert "spec.versions[0].weight" in said["message"]

        document["spec"]["versions"][0]["weight"] = 1
        status, said = await post(ROLLOUTS, document)
        assert status == 422
        assert "primary must be the name of a version" in said["message"]

    with_crd(body)


def test_a_version_left_out_of_an_apply_goes_with_its_name_and_its_defaults() -> None:
    async def run() -> None:
        async with ApiServer() as api, aiohttp.ClientSession() as session:
            api.create(yaml.safe_load(CRD.read_text()))

            async def applied(*versions: str) -> Any:
                document = yaml.safe_load(ROLLOUT)
                one = document["spec"]["versions"][0]
                document["spec"]["versions"] = [{**one, "name": name} for name in versions]
                url = f"{api.url}{ROLLOUTS}/iris?fieldManager=test"
                headers = {"Content-Type": "application/apply-patch+yaml"}
                async with session.patch(url, json=document, headers=headers) as answer:
                    return [one["name"] for one in (await answer.json())["spec"]["versions"]]

            assert await applied("v1", "v2") == ["v1", "v2"]
            assert await applied("v1") == ["v1"]

    asyncio.run(run())
