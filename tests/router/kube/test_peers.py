"""Asking all replicas: over real sockets, whole or in parts, with those that are slow, gone or somebody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from router.kube.peers import Peers, queries
from router.kube.roster import Member
from router.replica import Progress, Report


class Replica:
    """It serves one model, which is called like itself."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.asked: list[list[tuple[str, str]]] = []
        self.answer: Callable[[], Awaitable[None]] | None = None

    async def report(self, models: Collection[str], clusters: Collection[str]) -> Report:
        mine = {name: Progress("p", "default", frozenset({"envoy-1"})) for name in models if self.identity in name}
        return Report(
            self.identity, 10.0, models=mine, loads={name: {} for name in clusters}, routed=frozenset(clusters)
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(list(request.query.items()))
        if self.answer is not None:
            await self.answer()
        found = await self.report(request.query.getall("model", []), request.query.getall("cluster", []))
        return web.json_response(found.to_json())


class Known:
    def __init__(self, live: tuple[Member, ...], doubtful: tuple[Member, ...] = ()) -> None:
        self._live, self._doubtful = live, doubtful

    def live(self) -> tuple[Member, ...]:
        return self._live

    def doubtful(self) -> tuple[Member, ...]:
        return self._doubtful


@contextlib.asynccontextmanager
async def listening(replica: Replica) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/fleet", replica.serve)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


NOBODY = "127.0.0.1:1"
OWN = Member("own", NOBODY)


def run(test: Callable[[Replica, str], Awaitable[None]]) -> None:
    async def body() -> None:
        other = Replica("other")
        async with listening(other) as address:
            await test(other, address)

    asyncio.run(asyncio.wait_for(body(), 20))


async def ask(members: Known, models: Collection[str] = ("ns/other",), clusters: Collection[str] = (), **options: Any):
    async with Peers(Replica("own"), members, **options) as peers:
        return await peers.ask(models, clusters)


def test_every_live_member_is_asked_and_we_ourselves_without_a_socket():
    async def test(other: Replica, address: str) -> None:
        found = await ask(Known((OWN, Member("other", address))), clusters=("ns/other/v1",))
        assert [one.identity for one in found.reports] == ["own", "other"]
        assert found.reports[1].models.keys() == {"ns/other"}
        assert found.reports[1].routed == {"ns/other/v1"}
        assert found.unreachable == ()

    run(test)


def test_who_does_not_answer_is_named_and_costs_no_more_than_the_limit():
    async def test(other: Replica, address: str) -> None:
        other.answer = asyncio.Event().wait  # type: ignore[assignment]
        members = Known((OWN, Member("other", address), Member("third", NOBODY)))
        begun = asyncio.get_running_loop().time()
        found = await ask(members, within=0.2)
        assert found.unreachable == ("other", "third")
        assert [one.identity for one in found.reports] == ["own"]
        assert asyncio.get_running_loop().time() - begun < 2

    run(test)


def test_another_replica_at_the_address_of_one_that_is_gone_is_not_taken_for_it():
    async def test(other: Replica, address: str) -> None:
        found = await ask(Known((OWN, Member("former", address))))
        assert found.unreachable == ("former",)

    run(test)


def test_one_whose_lease_ran_out_counts_while_it_answers():
    async def test(other: Replica, address: str) -> None:
        found = await ask(Known((OWN,), (Member("other", address), Member("dead", NOBODY))))
        assert [one.identity for one in found.reports] == ["own", "other"]
        assert found.unreachable == ()

    run(test)


def test_a_page_of_something_else_is_no_answer():
    async def test(other: Replica, address: str) -> None:
        async def odd() -> None:
            raise web.HTTPOk(text='{"identity": "other"}')

        other.answer = odd
        assert (await ask(Known((OWN, Member("other", address))))).unreachable == ("other",)

    run(test)


def test_a_long_question_is_put_in_parts_and_the_answers_are_one():
    async def test(other: Replica, address: str) -> None:
        models = [f"ns/other-{index}-{'x' * 60}" for index in range(300)]
        clusters = [f"{model}/v1{mark}" for model in models for mark in ("", "~shadow")]
        found = await ask(Known((OWN, Member("other", address))), models, clusters)
        assert len(other.asked) > 5
        assert found.reports[1].models.keys() == set(models)
        assert found.reports[1].loads.keys() == found.reports[1].routed == set(clusters)

    run(test)


names = st.lists(st.from_regex(r"[a-z]{1,30}/[a-z0-9-]{1,60}", fullmatch=True), unique=True, max_size=40)


@given(names, st.integers(0, 600))
def test_questions_are_short_and_complete_and_each_cluster_comes_with_its_model(models, versions):
    clusters = [f"{model}/v{index}~shadow" for model in models[:2] for index in range(versions)]
    asked = [parse_qsl(query) for query in queries(models, clusters)]
    assert asked
    assert {value for pairs in asked for name, value in pairs if name == "model"} == set(models)
    assert {value for pairs in asked for name, value in pairs if name == "cluster"} == set(clusters)
    for query, pairs in zip(queries(models, clusters), asked, strict=True):
        assert len(query) < 8_000
        own = {value for name, value in pairs if name == "model"}
        assert all(value.rpartition("/")[0] in own for name, value in pairs if name == "cluster")
