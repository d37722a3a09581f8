"""All live replicas as one: the same question to each, the answers side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol
from urllib.parse import urlencode

import aiohttp

from router.kube.roster import Member
from router.replica import Replica, Report, Reports

WITHIN = 2.0
"""Seconds that a replica has to answer all of a question."""
_PARAMETERS = 500
_LENGTH = 6_000
"""Of a query. HTTP servers, ours among them, take lines of 8 kB."""


class Membership(Protocol):
    def live(self) -> tuple[Member, ...]: ...

    def doubtful(self) -> tuple[Member, ...]: ...


class Peers:
    """`async with Peers(local, members) as peers`, or `close` it. `local` is this very process and is asked directly.

    Members whose Lease has run out are asked too: one that has lost the API server still serves its Envoys, and says
    so here. When such a one is silent, it is taken for dead.
    """

    def __init__(self, local: Replica, members: Membership, *, within: float = WITHIN) -> None:
        self._local, self._members, self._within = local, members, within
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Peers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, models: Collection[str], clusters: Collection[str]) -> Reports:
        own = await self._local.report(models, clusters)
        live = [one for one in self._members.live() if one.identity != own.identity]
        doubtful = [one for one in self._members.doubtful() if one.identity != own.identity]
        questions = [self._report(one, models, clusters) for one in (*live, *doubtful)]
        answers = await asyncio.gather(*questions)
        others = [one for one in answers if one is not None]
        silent = [one.identity for one, answer in zip(live, answers, strict=False) if answer is None]
        return Reports((own, *others), tuple(silent))

    async def _report(self, member: Member, models: Collection[str], clusters: Collection[str]) -> Report | None:
        """None when it does not answer, or when something else answers at its address."""
        try:
            async with asyncio.timeout(self._within):
                parts = [await self._part(member, query) for query in queries(models, clusters)]
        except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
            return None
        return together(parts) if all(one.identity == member.identity for one in parts) else None

    async def _part(self, member: Member, query: str) -> Report:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": "headgate"})
        # Never by a proxy: replicas are neighbours, and an environment's proxy would not know them.
        url = f"http://{member.address}/fleet?{query}"
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            return Report.from_json(await answer.json(content_type=None))


def queries(models: Collection[str], clusters: Collection[str]) -> Iterator[str]:
    """The question as one or more query strings, none of them too long. A cluster always comes with its model."""
    part: dict[tuple[str, str], None] = {}
    length = 0
    for pairs in _questions(models, clusters):
        new = [pair for pair in pairs if pair not in part]
        if part and (length + _length(new) > _LENGTH or len(part) + len(new) > _PARAMETERS):
            yield _query(part)
            part, length, new = {}, 0, pairs
        part.update(dict.fromkeys(new))
        length += _length(new)
    yield _query(part)


def _questions(models: Collection[str], clusters: Collection[str]) -> Iterator[list[tuple[str, str]]]:
    """What has to be asked together: a model, or one of the clusters that are named after it, and the model."""
    for model, own in _by_model(models, clusters):
        yield [("model", model)]
        for cluster in own:
            yield [("model", model), ("cluster", cluster)]


def _length(pairs: Collection[tuple[str, str]]) -> int:
    return sum(len(_query([pair])) + 1 for pair in pairs)


def _query(pairs: Iterable[tuple[str, str]]) -> str:
    return urlencode(list(pairs), safe="/")


def _by_model(models: Collection[str], clusters: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Each model with the clusters that are named after it."""
    own: dict[str, list[str]] = {model: [] for model in dict.fromkeys(models)}
    for cluster in dict.fromkeys(clusters):
        model = cluster.rpartition("/")[0]
        own.setdefault(model, []).append(cluster)
    yield from own.items()


def together(parts: list[Report]) -> Report:
    """One replica's answers to the parts of a question."""
    first = parts[0]
    return Report(
        identity=first.identity,
        age=min(one.age for one in parts),
        gateways=first.gateways,
        models={name: progress for one in parts for name, progress in one.models.items()},
        loads={cluster: loads for one in parts for cluster, loads in one.loads.items()},
        reporting=frozenset.intersection(*(one.reporting for one in parts)),
        routed=frozenset.union(*(one.routed for one in parts)),
    )
