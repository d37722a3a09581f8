"""Task `ready`: wait for an object of a cluster and ALL the conditions asked for, or for an address that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.fetch import words
from loadgen.experiment.tasks.settings import ReadySettings
from loadgen.slo.verdict import ExitCode

EVERY = 1.0
"""Seconds between two looks."""


async def perform(settings: ReadySettings, context: Context) -> Done:
    if settings.url is not None:
        await _until(settings, lambda left: _answers(settings, context, left))
        return Done(f"{settings.url} answers")
    from router.kube.client import NoCluster

    namespace = settings.namespace or context.experiment.namespace
    try:
        client = await context.connect()
    except NoCluster as missing:
        raise TaskFailure(str(missing)) from None
    async with client:
        at = path(settings, namespace)
        await _until(settings, lambda left: _stands(client, at, settings, left))
    wanted = settings.wanted()
    name = f"{settings.resource} {namespace}/{settings.name}"
    return Done(f"{name}: {', '.join(wanted)}" if wanted else f"{name} exists")


def path(settings: ReadySettings, namespace: str) -> str:
    root = f"/apis/{settings.group}/{settings.version}" if settings.group else f"/api/{settings.version}"
    return f"{root}/namespaces/{namespace}/{settings.resource}/{quote(settings.name or '', safe='')}"


def complaint(raw: Mapping[str, Any], wanted: tuple[str, ...]) -> str:
    """Why an object is not ready; empty when it is. A condition of an older generation does not count."""
    metadata = raw.get("metadata") or {}
    if metadata.get("deletionTimestamp"):
        return "it is being deleted"
    if not wanted:
        return ""
    status = raw.get("status")
    if not isinstance(status, Mapping):
        return "object does not contain a status"
    conditions = status.get("conditions")
    if not isinstance(conditions, list):
        return "object status does not contain conditions"
    generation = metadata.get("generation")
    for name in wanted:
        found = next((one for one in conditions if str(one.get("type")).lower() == name.lower()), None)
        if found is None:
            return f"condition {name} is not there"
        if str(found.get("status")).lower() != "true":
            why = found.get("message") or found.get("reason")
            return f"condition {name} is {found.get('status')}" + (f": {why}" if why else "")
        seen = found.get("observedGeneration", status.get("observedGeneration"))
        if isinstance(generation, int) and isinstance(seen, int) and seen < generation:
            return f"condition {name} is that of generation {seen}, the object is {generation}"
    return ""


async def _stands(client: Any, at: str, settings: ReadySettings, left: float) -> str:
    from router.kube.client import ApiFault

    try:
        return complaint(await client.get(at, within=max(1.0, min(10.0, left))), settings.wanted())
    except ApiFault as fault:
        if fault.status == 403:  # rights may be given late, as in a new namespace
            return f"not allowed to look: {fault}"
        return str(fault)


async def _answers(settings: ReadySettings, context: Context, left: float) -> str:
    import aiohttp

    assert settings.url is not None
    try:
        async with context.session(max(0.1, min(5.0, left))) as session, session.get(settings.url) as answer:
            return "" if answer.status < 300 else f"status {answer.status}"
    except (aiohttp.ClientError, OSError) as error:
        return words(error)


async def _until(settings: ReadySettings, look: Any) -> None:
    """Until nothing speaks against it. Raises TaskFailure with what did last."""
    loop = asyncio.get_running_loop()
    until = loop.time() + settings.timeout
    while why := await look(until - loop.time()):
        if loop.time() + EVERY > until:
            name = settings.url or f"{settings.resource} {settings.name}"
            what = f"{name} is not ready after {settings.timeout:g} s: {why}"
            raise TaskFailure(what, "give it more with: {timeout: 5m}", code=ExitCode.NO_DATA)
        await asyncio.sleep(EVERY)
