"""What the double does beyond the shared probes: each as the real server does it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from kubedouble import ApiServer, User

CMS = "/api/v1/namespaces/default/configmaps"
MERGE = {"Content-Type": "application/merge-patch+json"}


def config(name: str, **meta: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": {"a": "1"}}


class Client:
    def __init__(self, api: ApiServer, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.session = session

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.api.url + path, json=body, **options) as answer:
            return answer.status, await answer.json()

    async def refused(self, method: str, path: str, body: Any) -> tuple[int, str]:
        status, said = await self.ask(method, path, body)
        return status, said.get("message", "")


def against(test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with ApiServer(**options) as api, aiohttp.ClientSession(read_bufsize=2**22) as session:
            await test(Client(api, session))

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(
    "meta",
    [
        {"labels": {"a b": "c"}},
        {"labels": {"a": "not ok!"}},
        {"finalizers": ["unqualified"]},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}]},
    ],
)
def test_bad_metadata_is_invalid(meta):
    async def test(client: Client) -> None:
        assert (await client.ask("POST", CMS, config("a", **meta)))[0] == 422

    against(test)


def test_an_immutable_config_map_stays_as_it_is():
    async def test(client: Client) -> None:
        await client.ask("POST", CMS, {**config("a"), "immutable": True})
        status, _ = await client.ask("PATCH", f"{CMS}/a", {"data": {"a": "2"}}, headers=MERGE)
        assert status == 422

    against(test)


def test_foreground_deletion_waits_for_dependents():
    async def test(client: Client) -> None:
        _, owner = await client.ask("POST", CMS, config("owner"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        child = config("child", ownerReferences=[reference], finalizers=["a.b/hold"])
        await client.ask("POST", CMS, child)
        _, shown = await client.ask("DELETE", f"{CMS}/owner?propagationPolicy=Foreground")
        assert shown["metadata"]["finalizers"] == ["foregroundDeletion"]
        client.api.garbage.collect()
        assert (await client.ask("GET", f"{CMS}/child"))[1]["metadata"]["deletionTimestamp"]

    against(test)


def test_dependents_follow_their_owner():
    async def test(client: Client) -> None:
        _, owner = await client.ask("POST", CMS, config("owner"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        await client.ask("POST", CMS, config("child", ownerReferences=[reference]))
        await client.ask("DELETE", f"{CMS}/owner")
        assert (await client.ask("GET", f"{CMS}/child"))[0] == 200
        client.api.garbage.collect()
        assert (await client.ask("GET", f"{CMS}/child"))[0] == 404

    against(test)


def test_a_deleted_namespace_takes_its_objects_and_waits_for_finalizers():
    async def test(client: Client) -> None:
        await client.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "lab"}})
        inside = "/api/v1/namespaces/lab/configmaps"
        await client.ask("POST", inside, config("held", finalizers=["a.b/hold"]))
        await client.ask("DELETE", "/api/v1/namespaces/lab")
        assert (await client.ask("GET", "/api/v1/namespaces/lab"))[1]["status"]["phase"] == "Terminating"
        assert (await client.ask("POST", inside, config("new")))[0] == 403
        client.api.garbage.collect()
        assert (await client.ask("GET", f"{inside}/held"))[1]["metadata"]["deletionTimestamp"]
        await client.ask("PATCH", f"{inside}/held", {"metadata": {"finalizers": None}}, headers=MERGE)
        client.api.garbage.collect()
        assert (await client.ask("GET", "/api/v1/namespaces/lab"))[0] == 404

    against(test)


def test_a_compacted_revision_answers_410_in_the_stream():
    async def test(client: Client) -> None:
        await client.ask("POST", CMS, config("a"))
        client.api.compact()
        async with client.session.get(f"{client.api.url}{CMS}?watch=true&resourceVersion=1") as answer:
            event = json.loads(await answer.content.readline())
            assert (answer.status, event["type"], event["object"]["code"]) == (200, "ERROR", 410)
            assert await answer.content.readline() == b""

    against(test)


def test_an_outage_refuses_connections_and_keeps_the_objects():
    async def test(client: Client) -> None:
        await client.ask("POST", CMS, config("a"))
        await client.api.stop()
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", f"{CMS}/a")
        await client.api.start()
        assert (await client.ask("GET", f"{CMS}/a"))[0] == 200

    against(test)


def test_faults_are_answered_as_often_as_told():
    async def test(client: Client) -> None:
        client.api.faults.answer(429, times=2, retry_after=1)
        assert [(await client.ask("GET", CMS))[0] for _ in range(3)] == [429, 429, 200]
        client.api.faults.conflict()
        assert (await client.ask("GET", CMS))[0] == 200
        assert [(await client.ask("POST", CMS, config("a")))[0] for _ in range(2)] == [409, 201]

    against(test)


def test_a_silent_watch_stays_open_and_loses_what_happened():
    async def test(client: Client) -> None:
        revision = client.api.storage.revision
        url = f"{client.api.url}{CMS}?watch=true&timeoutSeconds=1&resourceVersion={revision}"
        async with client.session.get(url) as answer:
            client.api.faults.silent = True
            await client.ask("POST", CMS, config("a"))
            assert await answer.content.readline() == b""

    against(test)


def test_rbac_lets_a_service_account_do_what_its_role_says_and_no_more():
    group = "rbac.authorization.k8s.io"

    async def test(client: Client) -> None:
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
        api, version = client.api, f"{group}/v1"
        api.create({"apiVersion": version, "kind": "Role", "metadata": {"name": "r"}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "sa", "namespace": "default"}
        ref = {"apiGroup": group, "kind": "Role", "name": "r"}
        binding = {"apiVersion": version, "kind": "RoleBinding", "metadata": {"name": "b"}, "roleRef": ref}
        api.create({**binding, "subjects": [subject]})
        headers = {"Authorization": "Bearer t"}
        assert (await client.ask("GET", CMS, headers=headers))[0] == 200
        assert (await client.ask("POST", CMS, config("a"), headers=headers))[0] == 403
        assert (await client.ask("GET", CMS))[0] == 403
        assert (await client.ask("GET", CMS, headers={"Authorization": "Bearer wrong"}))[0] == 401

    against(test, tokens={"t": User.service_account("default", "sa")}, rbac=True)


def test_five_thousand_objects_are_listed_and_watched_quickly():
    async def test(client: Client) -> None:
        for number in range(5000):
            client.api.create(config(f"c{number}"))
        began = time.process_time()
        _, found = await client.ask("GET", CMS)
        assert len(found["items"]) == 5000
        assert time.process_time() - began < 3
        await client.ask("DELETE", CMS)
        assert (await client.ask("GET", CMS))[1]["items"] == []
        assert time.process_time() - began < 6

    against(test)
