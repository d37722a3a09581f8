"""Traffic that experiments change: in a cluster by the road of `headgate weights`, without one in the manifest itself.

A manifest is replaced in one step, and the control plane is asked until every Envoy has what it says. To put it back,
its old text is written, or, where somebody has edited it meanwhile, only what the experiment changed.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from headgate import rollouts
from headgate.commands.control_plane import DEFAULT_URL, ask
from headgate.commands.output import BadInput, Failure
from headgate.experiments import connect
from headgate.kube_context import Choice, told
from loadgen.experiment.routes import Before, RoutesFault
from loadgen.experiment.tasks.settings import RouteSettings
from router.cluster.change import Change, Outcome, moves, traffic, traffic_of, weights
from router.kube.client import ApiFault, Client, NoCluster
from router.schema import KIND

IN_CLUSTER = "cluster"
_EVERY = 0.25
_RESTORE = 60.0

Object = dict[str, Any]


class ClusterAndFolder:
    """Implements `Routes` of loadgen/experiment."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    async def look(self, settings: RouteSettings, namespace: str, folder: str) -> Before:
        space, _, name = settings.model.rpartition("/")
        space = space or namespace
        if settings.manifest is not None:
            path = (Path(folder) / settings.manifest).resolve()
            text = await asyncio.to_thread(_text, path)
            raw = _rollout(_documents(text, path), space, name, path)
            where, context = str(path), {"text": text}
        else:
            async with _Client(self._choice) as client:
                raw = await rollouts.find(client, space, name, to_edit=True)
            where, context = IN_CLUSTER, _reached(self._choice)
        made = _decided(_asked(settings)(raw))
        return Before(f"{space}/{name}", where, traffic_of(raw["spec"]), traffic_of(made.spec), context)

    async def change(self, settings: RouteSettings, before: Before, why: str) -> str:
        return await self._write(before, _asked(settings), why, settings.timeout)

    async def restore(self, before: Before, why: str) -> str:
        if before.where != IN_CLUSTER and await asyncio.to_thread(_restored, before):
            return f"{before.model}: its manifest is as it was"
        kept: list[str] = []

        def put_back(raw: Object) -> Outcome:
            now = traffic_of(raw["spec"])
            kept[:] = [
                name
                for name, one in before.after.items()
                if not _same(now.get(name), one) and not _same(now.get(name), before.versions.get(name))
            ]
            wanted = {
                name: one
                for name, one in before.versions.items()
                if name in now and name not in kept and not _same(now[name], one)
            }
            return traffic(raw, wanted, "as before the experiment")

        said = await self._write(before, put_back, why, _RESTORE, wait=False)
        if kept:
            said += f"; somebody else changed {', '.join(kept)} meanwhile: that stays"
        return said

    async def _write(
        self, before: Before, make: Callable[[Object], Outcome], why: str, limit: float, *, wait: bool = True
    ) -> str:
        if before.where != IN_CLUSTER:
            return await _in_a_file(before, make, limit, wait=wait)
        space, _, name = before.model.partition("/")
        async with _Client(_choice(before.context) or self._choice) as client:
            made = await rollouts.change(client, space, name, lambda raw: _decided(make(raw)), why=why)
            if wait:
                await rollouts.applied(client, made, limit, lambda words: None)
        return f"{before.model}: {made.change.what if made.record else 'nothing to change'}"


def _same(one: Any, other: Any) -> bool:
    """An API server writes defaults out: `invert: false` is the same as nothing."""
    return bool(_bare(one) == _bare(other))


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping):
        stripped = {key: _bare(each) for key, each in value.items()}
        return {key: each for key, each in stripped.items() if each not in (None, False, [], {})}
    return [_bare(each) for each in value] if isinstance(value, list) else value


class _Client:
    """A client whose troubles are told as RoutesFault."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._client: Client | None = None

    async def __aenter__(self) -> Client:
        try:
            self._client = await connect(self._choice)
        except NoCluster as missing:
            raise RoutesFault(f"{missing}; without a cluster name the file with manifest:") from None
        return self._client

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._client is not None
        await self._client.close()
        if isinstance(error, ApiFault):
            raise _fault(told(error, self._client.url)) from None
        if isinstance(error, Failure):
            raise _fault(error) from None
        if isinstance(error, BadInput):
            raise RoutesFault("; ".join(str(problem) for problem in error.problems)) from None


def _fault(failure: Failure) -> RoutesFault:
    return RoutesFault(failure.message + (f" ({failure.hint})" if failure.hint else ""))


def _reached(choice: Choice) -> dict[str, str]:
    """How the cluster is reached again, by another process."""
    file = choice.kubeconfig or os.environ.get("KUBECONFIG", "")
    found = {"context": choice.context or "", "kubeconfig": str(Path(file).resolve()) if file else ""}
    return {name: value for name, value in found.items() if value}


def _choice(context: Mapping[str, str]) -> Choice | None:
    """None where it was noted on another machine, or in a Pod: then what was said on the command line."""
    file = context.get("kubeconfig")
    if not context or (file and os.pathsep not in file and not Path(file).exists()):
        return None
    return Choice(context.get("context"), Path(file) if file and os.pathsep not in file else None)


def _asked(settings: RouteSettings) -> Callable[[Object], Outcome]:
    """What the task makes of a rollout."""
    if settings.weights is not None:
        wanted = settings.weights
        return lambda raw: weights(raw, wanted)

    def edit(raw: Object) -> Outcome:
        now = traffic_of(raw["spec"])
        if settings.header is not None:
            one = settings.header
            match = {"headers": [{"name": one.name, "exact": one.value}]}
            said = f"header {one.name}: {one.value} to {one.version}"
            return traffic(raw, {one.version: {**now.get(one.version, {}), "match": [match]}}, said)
        assert settings.mirror is not None
        copy = settings.mirror
        said = f"mirror of {copy.percent:g} % to {copy.version}"
        return traffic(raw, {copy.version: {**now.get(copy.version, {}), "mirror": {"percent": copy.percent}}}, said)

    return edit


def _decided(outcome: Outcome) -> Change:
    if isinstance(outcome, tuple):
        raise RoutesFault("; ".join(str(problem) for problem in outcome))
    return outcome


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise RoutesFault(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise RoutesFault(f"{path} is not UTF-8 text") from None


def _documents(text: str, path: Path) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise RoutesFault(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _rollout(documents: list[Any], namespace: str, name: str, path: Path) -> Object:
    for one in documents:
        if isinstance(one, dict) and one.get("kind") == KIND:
            metadata = one.get("metadata") or {}
            if metadata.get("name") == name and (metadata.get("namespace") or "default") == namespace:
                return one
    raise RoutesFault(f"{path} holds no ModelRollout {namespace}/{name}")


def _restored(before: Before) -> bool:
    """The old text, where the file is still what the experiment made of it, or is the old one anyhow."""
    path, text = Path(before.where), before.context["text"]
    now = _text(path)
    if now == text:
        return True
    space, _, name = before.model.partition("/")
    documents = _documents(text, path)
    rollout = _rollout(documents, space, name, path)
    _set(rollout, before.after)
    if _documents(now, path) != documents:
        return False
    _replace(path, text)
    return True


def _set(rollout: Object, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    for version in rollout["spec"]["versions"]:
        for field in ("weight", "match", "mirror"):
            version.pop(field, None)
        version.update(wanted.get(version["name"], {}))


async def _in_a_file(before: Before, make: Callable[[Object], Outcome], limit: float, *, wait: bool) -> str:
    path = Path(before.where)
    documents = _documents(await asyncio.to_thread(_text, path), path)
    space, _, name = before.model.partition("/")
    rollout = _rollout(documents, space, name, path)
    made = _decided(make(rollout))
    rollout["spec"] = dict(made.spec)
    if not made.empty:
        text = yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        await asyncio.to_thread(_replace, path, text)
    if wait:
        await _followed(before.model, made, limit)
    return f"{before.model}: {made.what}"


def _replace(path: Path, text: str) -> None:
    """In one step: a control plane never sees half of it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            Path(name).chmod(path.stat().st_mode & 0o777)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)  # where it did not take the other's place
    except OSError as error:
        raise RoutesFault(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


async def _followed(model: str, made: Change, limit: float) -> None:
    """Until the control plane says that every Envoy has it."""
    url = os.environ.get("HEADGATE_URL") or DEFAULT_URL
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    while True:
        try:
            seen = await asyncio.to_thread(ask, url, f"/models/{quote(model)}")
        except Failure as failure:
            raise _fault(failure) from None
        if not (why := _behind(seen, made)):
            return
        if loop.time() >= until:
            raise RoutesFault(f"{model} is not as it should be after {limit:g} s: {why}")
        await asyncio.sleep(_EVERY)


def _behind(seen: Mapping[str, Any], made: Change) -> str:
    """What a control plane's word of a model lacks yet; empty when it has everything."""
    wanted = traffic_of(made.spec)
    shown = {one["name"]: one for one in seen["versions"]}
    if errors := [one["what"] for one in seen["problems"] if one["severity"] == "error"]:
        return str(errors[0])
    for share in made.shares:
        one = shown.get(share.version)
        if one is None or not one["ready"]:
            return f"{share.version} is not ready" + (f": {one['reason']}" if one else "")
        if abs(float(one["weight"]) - share.after) > 0.011:
            return f"{share.version} has {one['weight']:g} %, not {share.after:g} % ({moves(made.shares)})"
        asked = wanted[share.version]
        if "mirror" in asked and one["mirror"] != asked["mirror"].get("percent", 100.0):
            return f"{share.version} gets no copies yet"
        if "match" in asked and not one["match"]:
            return f"{share.version} has no match yet"
    return "" if seen["state"] == "Programmed" else f"it is {seen['state']}"
