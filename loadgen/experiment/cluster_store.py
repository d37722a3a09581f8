"""Results in ConfigMaps, one for each experiment, in its namespace: the last run, who runs it, what has to be put back.

A ConfigMap holds 1 MiB at most. A result that is larger loses what is dearest first: loads of earlier loops, the
figures of single seconds, all distributions but those of latency; never a metric or a verdict.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

from loadgen.experiment.result import Insights, LoadRun, Result
from loadgen.experiment.routes import Before
from loadgen.experiment.store import Busy, Row, StoreFault, before_of, read_result, state
from router.kube.client import ApiFault, Client

LABEL = "headgate.dev/experiment"
PREFIX = "headgate-experiment-"
BYTES = 700_000
"""Of a compressed result; in base64 that is 934 kB."""

RENEW, LOST = 15.0, 60.0
"""Seconds between two signs of life, and after which a run that gave none counts as dead."""

_RUNNING = "headgate.dev/running"
_ATTEMPTS = 20

Object = dict[str, Any]


class ClusterStore:
    """One run of each experiment is kept: `revision` counts on, earlier ones are not there any more."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{id(self):x}"

    @asynccontextmanager
    async def running(self, namespace: str, name: str) -> AsyncIterator[None]:
        """An annotation that is renewed; whoever is killed stops renewing it."""
        await self._edit(namespace, name, lambda found: self._take(found, namespace, name))
        beat = asyncio.ensure_future(self._beat(namespace, name))
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            with contextlib.suppress(StoreFault):
                await self._edit(namespace, name, self._let_go)

    def _take(self, found: Object, namespace: str, name: str) -> None:
        annotations = found["metadata"].setdefault("annotations", {})
        held = _loaded(annotations.get(_RUNNING))
        if held and held["holder"] != self._holder and time.time() - held["at"] < LOST:
            what = f"experiment {namespace}/{name} is being run by {held['holder']}"
            raise Busy(what, "wait for its end, or give this one another name")
        annotations[_RUNNING] = json.dumps({"holder": self._holder, "at": time.time()})

    def _let_go(self, found: Object) -> None:
        annotations = found["metadata"].setdefault("annotations", {})
        if _loaded(annotations.get(_RUNNING)).get("holder") == self._holder:
            del annotations[_RUNNING]

    async def _beat(self, namespace: str, name: str) -> None:
        while True:
            await asyncio.sleep(RENEW)
            with contextlib.suppress(StoreFault):
                await self._edit(namespace, name, lambda found: self._take(found, namespace, name))

    async def put(self, result: Result) -> None:
        packed = await asyncio.to_thread(pack, result)

        def keep(found: Object) -> None:
            found["binaryData"] = {"result.json.gz": base64.b64encode(packed).decode()}
            found.setdefault("data", {}).update(
                revision=str(result.revision),
                state=state(result),
                started=repr(result.started),
                updated=repr(result.updated),
            )

        await self._edit(result.namespace, result.name, keep)

    async def get(self, namespace: str, name: str, revision: int | None = None) -> Result | None:
        found = await self._find(namespace, name)
        packed = (found or {}).get("binaryData", {}).get("result.json.gz")
        if packed is None:
            return None
        try:
            raw = gzip.decompress(base64.b64decode(packed))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            what = f"ConfigMap {namespace}/{PREFIX}{name} is damaged: {error}"
            raise StoreFault(what, "delete it") from None
        result = read_result(raw, f"ConfigMap {namespace}/{PREFIX}{name}")
        return result if revision in (None, result.revision) else None

    async def rows(self) -> tuple[Row, ...]:
        """Of all namespaces, or where that is not allowed of the own one."""
        try:
            found = await self._list("/api/v1/configmaps")
        except ApiFault as fault:
            if fault.status != 403:
                raise _cannot(fault) from None
            found = await self._list(f"/api/v1/namespaces/{quote(self._client.namespace)}/configmaps")
        rows = (_row(one) for one in found if "result.json.gz" in one.get("binaryData", {}))
        return tuple(sorted(rows, key=lambda row: (row.namespace, row.name)))

    async def delete(self, namespace: str, name: str, revision: int | None = None) -> int:
        found = await self.get(namespace, name, revision)
        if found is None:
            return 0
        if await self._notes_of(namespace, name):
            what = f"traffic that {namespace}/{name} changed is not put back yet"
            raise StoreFault(what, "run headgate experiment restore --store cluster")
        with self._told():
            await self._client.delete(self._path(namespace, name))
        return 1

    async def note(self, experiment: str, before: Before) -> int:
        namespace, _, name = experiment.partition("/")
        number = time.time_ns()

        def add(found: Object) -> None:
            data = found.setdefault("data", {})
            notes = {**_loaded(data.get("restorations")), str(number): asdict(before)}
            data["restorations"] = json.dumps(notes)

        await self._edit(namespace, name, add)
        return number

    async def strike(self, number: int) -> None:
        for found in await self._all():
            data = found.get("data") or {}
            if str(number) in _loaded(data.get("restorations")):
                metadata = found["metadata"]
                await self._edit(metadata["namespace"], metadata["labels"][LABEL], lambda one: _struck(one, number))

    async def notes(self) -> tuple[tuple[int, str, Before], ...]:
        found = []
        for one in await self._all():
            owner = f"{one['metadata']['namespace']}/{one['metadata']['labels'][LABEL]}"
            for number, raw in _loaded((one.get("data") or {}).get("restorations")).items():
                found.append((int(number), owner, before_of(raw, f"ConfigMap {PREFIX}{owner}")))
        return tuple(sorted(found, key=lambda each: -each[0]))

    async def forget(self) -> int:
        count = 0
        for one in await self._all():
            metadata = one["metadata"]
            held = _loaded((metadata.get("annotations") or {}).get(_RUNNING))
            notes = _loaded((one.get("data") or {}).get("restorations"))
            if notes and time.time() - float(held.get("at", 0)) > LOST:
                await self._edit(metadata["namespace"], metadata["labels"][LABEL], _all_struck)
                count += len(notes)
        return count

    async def _notes_of(self, namespace: str, name: str) -> bool:
        found = await self._find(namespace, name)
        return bool(_loaded(((found or {}).get("data") or {}).get("restorations")))

    async def _all(self) -> list[Object]:
        try:
            return await self._list("/api/v1/configmaps")
        except ApiFault as fault:
            if fault.status != 403:
                raise _cannot(fault) from None
        with self._told():
            return await self._list(f"/api/v1/namespaces/{quote(self._client.namespace)}/configmaps")
        raise AssertionError("the block above returns or raises")

    async def _list(self, path: str) -> list[Object]:
        return list((await self._client.get(path, {"labelSelector": LABEL})).get("items") or ())

    async def _find(self, namespace: str, name: str) -> Object | None:
        try:
            return await self._client.get(self._path(namespace, name))
        except ApiFault as fault:
            if fault.status == 404:
                return None
            raise _cannot(fault) from None

    async def _edit(self, namespace: str, name: str, change: Callable[[Object], None]) -> None:
        """Change what is there, or make it; anew whenever somebody else was faster."""
        for attempt in range(_ATTEMPTS):
            found = await self._find(namespace, name)
            made = found if found is not None else _new(namespace, name)
            change(made)
            try:
                if found is None:
                    await self._client.create(f"/api/v1/namespaces/{quote(namespace)}/configmaps", made)
                else:
                    await self._client.replace(self._path(namespace, name), made)
                return
            except ApiFault as fault:
                if fault.status != 409 or attempt == _ATTEMPTS - 1:
                    raise _cannot(fault) from None
            await asyncio.sleep(0.02 * attempt)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ApiFault as fault:
            raise _cannot(fault) from None

    def _path(self, namespace: str, name: str) -> str:
        return f"/api/v1/namespaces/{quote(namespace)}/configmaps/{quote(PREFIX + name, safe='')}"


def pack(result: Result) -> bytes:
    """Compressed, and small enough. Raises StoreFault where even the least of it is too large."""
    size = 0
    for smaller in (lambda one: one, _last_loop, _without_seconds, _latencies, _without_loads):
        result = smaller(result)
        packed = gzip.compress(result.to_json(), mtime=0)
        if len(packed) <= BYTES:
            return packed
        size = len(packed)
    raise StoreFault(f"the result has {size:,} bytes: a ConfigMap cannot hold it", "measure fewer endpoints at a time")


def _loads(result: Result, loads: tuple[LoadRun, ...]) -> Result:
    return replace(result, insights=replace(result.insights, loads=loads))


def _last_loop(result: Result) -> Result:
    return _loads(result, tuple(one for one in result.insights.loads if one.loop == result.loops))


def _without_seconds(result: Result) -> Result:
    def bare(load: LoadRun) -> LoadRun:
        series = tuple(replace(one, timeline=()) for one in load.outcome.series)
        return replace(load, outcome=replace(load.outcome, series=series))

    return _loads(result, tuple(bare(one) for one in result.insights.loads))


def _latencies(result: Result) -> Result:
    def bare(load: LoadRun) -> LoadRun:
        kept = ("latency", "ttft")
        series = tuple(
            replace(one, metrics={name: each for name, each in one.metrics.items() if name in kept})
            for one in load.outcome.series
        )
        return replace(load, outcome=replace(load.outcome, series=series))

    insights: Insights = result.insights
    observed = tuple(
        {name: seen for name, seen in known.items() if seen.distribution is None or name.endswith("/latency")}
        for known in insights.observed
    )
    result = replace(result, insights=replace(insights, observed=observed))
    return _loads(result, tuple(bare(one) for one in result.insights.loads))


def _without_loads(result: Result) -> Result:
    return _loads(result, ())


def _new(namespace: str, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": PREFIX + name,
            "namespace": namespace,
            "labels": {LABEL: name, "app.kubernetes.io/managed-by": "headgate"},
        },
    }


def _row(found: Object) -> Row:
    metadata, data = found["metadata"], found.get("data") or {}
    told = str(data.get("state", ""))
    held = _loaded((metadata.get("annotations") or {}).get(_RUNNING))
    if told == "running" and time.time() - float(held.get("at", 0)) > LOST:
        told = "interrupted"
    times = (float(data.get("started", 0)), float(data.get("updated", 0)))
    return Row(metadata["namespace"], metadata["labels"][LABEL], int(data.get("revision", 1)), *times, told)


def _struck(found: Object, number: int) -> None:
    notes = _loaded(found["data"].get("restorations"))
    notes.pop(str(number), None)
    found["data"]["restorations"] = json.dumps(notes)


def _all_struck(found: Object) -> None:
    found["data"]["restorations"] = "{}"


def _loaded(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _cannot(fault: ApiFault) -> StoreFault:
    hint = "get, list, create and update on configmaps are needed" if fault.status == 403 else "try again"
    return StoreFault(f"results cannot be kept in the cluster: {' '.join(str(fault).split())}", hint)
