"""ModelRollouts at the API server, as an operator's commands use them: find one, change it, wait until it is applied.

A change is made of what was read and refused by the server when that is no longer what is there (resourceVersion).
Then it is made anew, unless somebody else changed what decides about the traffic: that is for the operator to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from headgate.commands.output import BAD_INPUT, Failure
from headgate.kube_context import about_an_object, told
from router.cluster.change import ANNOTATION, Change, raced, record
from router.cluster.routemap import KIND_LABEL, SUFFIX
from router.kube.client import ApiFault, Client, within
from router.schema import API_VERSION, KIND

Object = dict[str, Any]

ROLLOUTS = f"/apis/{API_VERSION}/modelrollouts"
MANAGER = "headgate-cli"

_CONFIG_MAPS = "/api/v1/configmaps"
_EVENTS = "/api/v1/events"
_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_PAGE = "500"
_ATTEMPTS = 10
_POLL = 0.25


def key(raw: Mapping[str, Any]) -> str:
    return f"{raw['metadata'].get('namespace', 'default')}/{raw['metadata']['name']}"


def path(namespace: str, name: str) -> str:
    return f"{within(ROLLOUTS, namespace)}/{quote(name, safe='')}"


async def every(client: Client, namespace: str | None) -> list[Object]:
    """Those of a namespace, or of all, by name."""
    return sorted(await _list(client, within(ROLLOUTS, namespace)), key=key)


async def routemaps(client: Client, namespace: str | None) -> list[str]:
    """The models that come from Iter8 routemaps, as NAMESPACE/APPLICATION; none where they may not be read."""
    try:
        found = await _list(client, within(_CONFIG_MAPS, namespace), {"labelSelector": f"{KIND_LABEL}=routemap"})
    except ApiFault:
        return []
    return sorted(f"{one['metadata']['namespace']}/{_application(one['metadata']['name'])}" for one in found)


async def find(client: Client, namespace: str, name: str, *, to_edit: bool = False) -> Object:
    """The rollout, or a Failure that says what was probably meant."""
    try:
        return await client.get(path(namespace, name))
    except ApiFault as fault:
        if fault.status != 404 or not about_an_object(fault):
            raise
    raise await _missing(client, namespace, name, to_edit)


async def events(client: Client, raw: Mapping[str, Any], most: int = 10) -> list[Object]:
    """The newest last; none where they may not be read."""
    namespace, name = key(raw).split("/")
    about = f"involvedObject.kind={KIND},involvedObject.name={name}"
    try:
        found = await _list(client, within(_EVENTS, namespace), {"fieldSelector": about})
    except ApiFault:
        return []
    return sorted(found, key=event_time)[-most:]


def event_time(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next((one for one in times if one), event["metadata"].get("creationTimestamp", "")))


@dataclass(frozen=True, slots=True)
class Made:
    """A change as it was written: `raw` is the object after it. `record` is None when there was nothing to change."""

    change: Change
    raw: Object
    record: Mapping[str, Any] | None

    @property
    def generation(self) -> int:
        return int(self.raw["metadata"].get("generation") or 0)


async def change(
    client: Client,
    namespace: str,
    name: str,
    make: Callable[[Object], Change],
    *,
    why: str = "",
    dry_run: bool = False,
) -> Made:
    """Write what `make` makes of the object, which may raise to refuse it."""
    first = raw = await find(client, namespace, name, to_edit=True)
    by = ""
    for attempt in range(_ATTEMPTS):
        if races := raced(first, raw):
            what = f"{key(raw)} was changed by somebody else meanwhile: {'; '.join(races)}"
            raise Failure(what, "nothing was written: look at it and try again")
        made = make(raw)
        if made.empty:
            return Made(made, raw, None)
        by = by or await whoami(client)
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        said = record(made, raw, by=by, why=why, at=at)
        try:
            return Made(made, await _write(client, namespace, name, raw, made, said, dry_run), said)
        except ApiFault as fault:
            if fault.status != 409 or attempt == _ATTEMPTS - 1:
                raise
        await asyncio.sleep(0.02 * attempt)
        raw = await find(client, namespace, name)
    raise AssertionError("the last attempt raises")


async def whoami(client: Client) -> str:
    """The name by which the API server knows the user, else that of this machine."""
    try:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        name = (await client.create(_REVIEWS, body))["status"]["userInfo"]["username"]
    except (ApiFault, KeyError, TypeError):  # before Kubernetes 1.28, for example
        name = ""
    return str(name) or _local_user()


async def applied(
    client: Client, made: Made, limit: float, tell: Callable[[str], None], *, poll: float = _POLL
) -> Object:
    """The object, once every Envoy has the change. Raises Failure with what is still waited for."""
    namespace, name = key(made.raw).split("/")
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    standing, raw = Standing("nothing is known yet"), made.raw
    while True:
        try:
            raw = await client.get(path(namespace, name), within=max(1.0, min(10.0, until - loop.time())))
            standing = stand(raw, made.generation)
        except ApiFault as fault:
            if fault.status == 404:
                raise Failure(f"{namespace}/{name} was deleted meanwhile") from None
            if not fault.of_the_server:
                raise
            standing = Standing(told(fault, client.url).message)
        if standing.done:
            return raw
        if standing.refused:
            raise Failure(f"{namespace}/{name}: {standing.words}")
        tell(standing.words)
        if loop.time() >= until:
            what = f"{namespace}/{name} is not programmed after {limit:g} s: {standing.words}"
            raise Failure(what, "the change is written and goes on being applied; see 'headgate describe'")
        await asyncio.sleep(min(poll, max(0.0, until - loop.time())))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a change has come, in words. `refused`: waiting longer is of no use."""

    words: str
    done: bool = False
    refused: bool = False


def stand(raw: Mapping[str, Any], generation: int) -> Standing:
    """Where the object stands with what was written as this generation."""
    if looked_at(raw) < generation:
        return Standing("no control plane has looked at it yet")
    envoys = status(raw).get("envoys")
    count = f"{envoys} Envoys" if envoys else "no Envoy"
    accepted, programmed = condition(raw, "Accepted"), condition(raw, "Programmed")
    if accepted.get("status") == "False":
        return Standing(f"it is not accepted: {_why(accepted)}", refused=True)
    if programmed.get("status") == "True" and programmed.get("observedGeneration", generation) >= generation:
        return Standing(count, done=True)
    words = "; ".join(filter(None, (count, *lagging(raw), "" if lagging(raw) else _why(programmed))))
    return Standing(words)


def lagging(raw: Mapping[str, Any]) -> list[str]:
    """`envoy-1: no ACK yet`, of all gateways."""
    return [laggard(one) for gateway in status(raw).get("gateways") or () for one in gateway.get("lagging") or ()]


def laggard(one: Any) -> str:
    return f"{one.get('node')}: {one.get('why')}" if isinstance(one, Mapping) else str(one)


def status(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    found = raw.get("status")
    return found if isinstance(found, Mapping) else {}


def looked_at(raw: Mapping[str, Any]) -> int:
    """The generation that the control plane last looked at; 0 when it never did."""
    return int(status(raw).get("observedGeneration") or 0)


def condition(raw: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((one for one in status(raw).get("conditions") or () if one.get("type") == kind), {})


def version(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((one for one in status(raw).get("versions") or () if one.get("name") == name), {})


def document(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout for programs: its status as it is, and what one needs to know to read it."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    generation, seen = int(metadata.get("generation") or 0), looked_at(raw)
    return {
        "model": key(raw),
        "namespace": metadata.get("namespace", "default"),
        "name": metadata["name"],
        "createdAt": metadata.get("creationTimestamp"),
        "deletedAt": metadata.get("deletionTimestamp"),
        "generation": generation,
        "observedGeneration": seen or None,
        "statusIs": "absent" if not seen else "stale" if seen < generation else "current",
        "paused": bool(spec.get("paused")),
        "status": dict(status(raw)),
    }


def history(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who did what, oldest first; with the last change even where no control plane has noted it yet."""
    found = [dict(one) for one in status(raw).get("history") or ()]
    try:
        last = json.loads((raw["metadata"].get("annotations") or {})[ANNOTATION])
    except (KeyError, ValueError):
        return found
    noted = max((int(one.get("generation") or 0) for one in found), default=0)
    if isinstance(last, dict) and isinstance(last.get("generation"), int) and last["generation"] > noted:
        found.append({name: last.get(name) for name in ("at", "by", "what", "why", "generation")})
    return found


def unready(raw: Mapping[str, Any], name: str) -> str:
    """Why a version cannot be relied on; empty when it is ready and the status is of the spec as it is."""
    if not status(raw):
        return "no control plane has looked at it"
    generation = int(raw["metadata"].get("generation") or 0)
    if looked_at(raw) < generation:
        return f"its status is that of generation {looked_at(raw)}, the spec is {generation}"
    seen = version(raw, name)
    if not seen:
        return "the status does not mention it"
    return "" if seen.get("ready") else str(seen.get("reason") or "it is not ready")


def _why(one: Mapping[str, Any]) -> str:
    return str(one.get("message") or one.get("reason") or "")


async def _write(
    client: Client, namespace: str, name: str, raw: Object, made: Change, said: Mapping[str, Any], dry_run: bool
) -> Object:
    written = json.dumps(said, ensure_ascii=False)
    metadata = {"resourceVersion": raw["metadata"]["resourceVersion"], "annotations": {ANNOTATION: written}}
    query = {"fieldManager": MANAGER, "fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
    try:
        return await client.patch(path(namespace, name), {"metadata": metadata, "spec": made.patch}, query=query)
    except ApiFault as lost:
        if lost.status != 0:
            raise
        found: Object = {}
        with contextlib.suppress(ApiFault):  # no answer need not mean that nothing was done
            found = await client.get(path(namespace, name))
        if (found.get("metadata", {}).get("annotations") or {}).get(ANNOTATION) == written:
            return found
        if found:
            raise
        hint = "whether the change was made is not known: see 'headgate history'"
        raise Failure(f"the API server at {client.url} does not answer: {lost}", hint) from None


async def _missing(client: Client, namespace: str, name: str, to_edit: bool) -> Failure:
    """The failure that helps most: a routemap of that name, the same name elsewhere, a name like it."""
    from headgate.documents import unknown

    wanted = f"{namespace}/{name}"
    if wanted in await routemaps(client, namespace):
        origin = f"{wanted} comes from an Iter8 routemap (ConfigMap {wanted}{SUFFIX})"
        if not to_edit:
            return Failure(f"{origin}, which has no status", "ask a control plane with --url", exit_code=BAD_INPUT)
        return Failure(
            f"{origin}, which this command does not edit",
            "set weights in your values and run: headgate template -f values.yaml --set templateName=modify-weights "
            "| kubectl apply -f -; or annotate a resource of the version: iter8.tools/weight",
            exit_code=BAD_INPUT,
        )
    known = await _names(lambda: every(client, namespace))
    elsewhere = [one for one in await _names(lambda: every(client, None)) if one.endswith(f"/{name}")]
    said = unknown("model", wanted, elsewhere or known)
    if len(elsewhere) > 1:
        said["hint"] = f"there are {', '.join(elsewhere)}: give the namespace"
    return Failure(said["error"], said["hint"], exit_code=BAD_INPUT)


async def _names(listed: Callable[[], Awaitable[list[Object]]]) -> list[str]:
    try:
        return [key(one) for one in await listed()]
    except ApiFault:
        return []


async def _list(client: Client, at: str, query: Mapping[str, str] | None = None) -> list[Object]:
    found: list[Object] = []
    asked = {"limit": _PAGE, **(query or {})}
    while True:
        answer = await client.get(at, asked)
        found += answer.get("items") or []
        following = (answer.get("metadata") or {}).get("continue")
        if not following:
            return found
        asked["continue"] = following


def _application(name: str) -> str:
    return name.removesuffix(SUFFIX) or name


def _local_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
