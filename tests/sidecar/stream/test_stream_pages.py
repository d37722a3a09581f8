"""The last requests and the live ones, over HTTP, with entries that nobody sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from sidecar.stream import pages
from sidecar.stream.requests import Requests

Asked = Callable[[ClientSession, str], Awaitable[None]]


def entry(number: int, *, code: int = 200, version: str = "v1", model: str = "default/iris") -> list[object]:
    by = f"{code}|-|-|v1@{model}|{model}/{version}|{version}"
    rest = (f"{number}.5|2343|2238|100|282|POST", f"/{number}", "e655daa6", "curl/8")
    return [number, {"2": "\n".join((by, "alice", "-", *rest, ""))}]


def served(taken: Requests, body: Asked) -> None:
    async def main() -> None:
        app = web.Application()
        pages.add_pages(app, taken)
        async with TestServer(app) as server, ClientSession() as session:
            await body(session, str(server.make_url("/requests")))
            await asyncio.wait_for(server.close(), 20)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [4, 3, 2, 1]),
        ("?limit=2", [4, 3]),
        ("?limit=0", []),
        ("?model=default/iris", [3, 2, 1]),
        ("?version=v2", [4, 2]),
        ("?code=5xx", [3]),
        ("?code=503", [3]),
        ("?code=404&model=default/iris", []),
        ("?errors=1", [3]),
    ],
)
def test_the_last_requests_can_be_chosen(query, expected):
    taken = Requests()
    taken.take([entry(1), entry(2, version="v2"), entry(3, code=503), entry(4, version="v2", model="default/other")])

    async def body(session: ClientSession, url: str) -> None:
        async with session.get(url + query) as answer:
            document = await answer.json()
        assert [one["path"] for one in document["requests"]] == [f"/{number}" for number in expected]
        assert document["kept"] == 4

    served(taken, body)


@pytest.mark.parametrize("limit", ["x", "-1", "1.5", "9999999"])
def test_a_limit_that_is_none_is_refused(limit):
    async def body(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}?limit={limit}") as answer:
            assert answer.status == 400

    served(Requests(), body)


def test_live_begins_with_the_last_and_goes_on_with_what_is_wanted():
    taken = Requests()
    taken.take([entry(number) for number in range(3)])

    async def body(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/live?last=2&version=v1") as answer:
            assert [json.loads(await answer.content.readline())["path"] for _ in range(2)] == ["/1", "/2"]
            taken.take([entry(7, version="v2"), entry(8)])
            assert json.loads(await answer.content.readline())["path"] == "/8"

    served(taken, body)


def test_who_listens_too_slowly_is_told_and_costs_no_memory():
    taken = Requests()

    async def body(session: ClientSession, url: str) -> None:
        async with session.get(f"{url}/live") as answer:
            taken.take([entry(number) for number in range(1_500)])
            found = [json.loads(await answer.content.readline()) for _ in range(1_001)]
            assert found[0] == {"missed": 500}
            assert [one["path"] for one in found[1:]] == [f"/{number}" for number in range(1_000)]

    served(taken, body)


def test_nobody_who_listens_keeps_the_sidecar_from_leaving_and_there_is_an_end_of_them():
    async def body(session: ClientSession, url: str) -> None:
        listening = [await session.get(f"{url}/live") for _ in range(16)]
        assert {answer.status for answer in listening} == {200}
        async with session.get(f"{url}/live") as answer:
            assert answer.status == 503

    served(Requests(), body)
