"""The API server itself: HTTP in, the other files' answers out."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

import yaml
from aiohttp import web

from kubedouble import discovery, errors, lists, patch, protobuf, rbac
from kubedouble.errors import ApiError, Cause
from kubedouble.faults import Faults
from kubedouble.garbage import Garbage
from kubedouble.metadata import forbidden, invalid_value, required, unsupported
from kubedouble.rbac import Action, User
from kubedouble.registry import Registry
from kubedouble.request import Target, target
from kubedouble.resource import Resource
from kubedouble.storage import Storage, Stored, encode
from kubedouble.table import json_path, partial, table
from kubedouble.types import OBJECT_META
from kubedouble.watch import Wanted, Watch, bookmark, line
from kubedouble.writes import DeleteOptions, Options, Writes

_JSON = "application/json"
_YAML = "application/yaml"
_APPLY = ("application/apply-patch+yaml",)
_PATCHES = (patch.JSON_PATCH, patch.MERGE_PATCH, patch.STRATEGIC_PATCH, *_APPLY)
_HEALTH = ("/livez", "/readyz", "/healthz")
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}
_SHOWN_WHEN_DELETED = {("", "pods"), ("", "services"), ("", "serviceaccounts"), ("", "persistentvolumeclaims")}
_LIMIT = 3 * 1024 * 1024
_UNKNOWN_USER = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as remembered for tests that count them."""

    method: str
    path: str
    query: Mapping[str, str]
    user_agent: str = ""

    @property
    def watch(self) -> bool:
        return self.query.get("watch", "").lower() in ("true", "1")


class ApiServer:
    """`async with ApiServer() as api:` serves at `api.url`; `api.faults` and the methods below make it misbehave.

    A real server refuses 127.0.0.1 in an EndpointSlice; `loopback_endpoints=True` takes it.
    What a controller manager would delete (dependents, a namespace's contents) goes `garbage_after` seconds later.
    Without tokens everybody is an administrator (but a wrong token is 401). With tokens, those without one are
    refused, and `rbac=True` lets each user do only what the Roles and bindings stored in the server say.
    """

    def __init__(
        self,
        *,
        tokens: Mapping[str, User] | None = None,
        rbac: bool = False,
        tls: ssl.SSLContext | None = None,
        history: int = 100_000,
        loopback_endpoints: bool = False,
        garbage_after: float = 0.3,
        port: int = 0,
    ) -> None:
        self.storage = Storage(history)
        self.registry = Registry()
        self.writes = Writes(self.storage, self.registry)
        self.writes.loopback_endpoints = loopback_endpoints
        self.garbage = Garbage(self.writes, garbage_after)
        self.faults = Faults()
        self.requests: deque[Request] = deque(maxlen=100_000)
        self.port = port
        self._tokens = dict(tokens or {})
        self._rbac = rbac
        self._tls = tls
        self._watches: dict[Watch, web.Request] = {}
        self._runner: web.AppRunner | None = None
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # -- starting, stopping, misbehaving

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> ApiServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop` on the same port again, with all objects as they were."""
        app = web.Application(client_max_size=_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handle_signals=False, handler_cancellation=True
        )
        await self._runner.setup()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()

    async def stop(self) -> None:
        """An outage: every connection breaks, new ones are refused until `start`."""
        if self._runner is not None:
            self.reset_connections()
            await self._runner.cleanup()
            self._runner = None

    def reset_connections(self) -> None:
        """Reset every open connection (TCP RST)."""
        server = self._runner.server if self._runner else None
        for connection in list(server.connections) if server else ():
            _reset(connection.transport)

    def drop_watches(self) -> None:
        """End every watch in an orderly way."""
        for watch in list(self._watches):
            watch.end()

    def send_bookmarks(self) -> None:
        for watch, request in list(self._watches.items()):
            if request.query.get("allowWatchBookmarks", "").lower() in ("true", "1"):
                watch.mark(self.storage.revision)

    def compact(self) -> None:
        """Forget all revisions but the newest: older ones answer 410."""
        self.storage.compact()

    def skew_clock(self, seconds: float) -> None:
        self.writes.skew = timedelta(seconds=seconds)

    @property
    def watching(self) -> int:
        return len(self._watches)

    # -- objects, without HTTP

    def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        resource = self._resource(obj)
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else ""
        return self.writes.create(resource, namespace, obj, Options(manager="test")).data

    def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Create the object or merge it into the stored one, status included."""
        resource = self._resource(obj)
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else ""
        key, name = resource.key, obj["metadata"]["name"]
        if self.storage.get(key, (namespace, name)) is None:
            self.create(obj)
        for part in ("", "status") if resource.status and "status" in obj else ("",):
            self.writes.patch(
                resource, namespace, name, lambda old: patch.merge(old, obj), Options(manager="test", subresource=part)
            )
        return self.get(obj["apiVersion"], obj["kind"], name, namespace)

    def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        resource = self._resource({"apiVersion": api_version, "kind": kind})
        return self.writes.get(resource, namespace, name).data

    def delete(self, api_version: str, kind: str, name: str, namespace: str = "") -> None:
        resource = self._resource({"apiVersion": api_version, "kind": kind})
        self._delete(resource, namespace, name, DeleteOptions())

    def _resource(self, obj: Mapping[str, Any]) -> Any:
        found = self.registry.of_kind(obj["apiVersion"], obj["kind"])
        if found is None:
            raise LookupError(f"the server has no kind {obj['kind']} in {obj['apiVersion']}: create its CRD first")
        return found

    def kubeconfig(self, path: Path, *, token: str | None = None, ca: str | None = None) -> Path:
        cluster: dict[str, Any] = {"server": self.url}
        if ca:
            cluster["certificate-authority-data"] = ca
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "test", "namespace": "default"}}],
            "current-context": "double",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # -- one request

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = Request(request.method, request.path, dict(request.query), request.headers.get("User-Agent", ""))
        self.requests.append(asked)
        try:
            user = self._user(request)
            if request.path not in _HEALTH:
                await self.faults.meet(asked)
            response = await self._answer(request, user)
        except errors.NoPage as missing:
            return web.Response(text=missing.message, status=missing.code)
        except ApiError as refused:
            return _json(refused.body(), refused.code, refused.headers)
        if self.faults.lost_answers and request.method in ("POST", "PUT", "PATCH", "DELETE"):
            self.faults.lost_answers -= 1
            _reset(request.transport)
        await self.faults.deliver(request)
        return response

    def _user(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if token not in self._tokens:
                raise errors.unauthorized()
            return self._tokens[token]
        if self._tokens:
            if self._rbac or request.path in (*_HEALTH, "/version"):
                return _UNKNOWN_USER
            raise errors.unauthorized()
        return User.admin()

    async def _answer(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path.startswith(_HEALTH):
            return web.Response(text="ok")
        fixed = self._document(path, request.headers.get("Accept", ""))
        if fixed is not None:
            if request.method != "GET":
                raise errors.method_not_allowed()
            return fixed
        at = target(self.registry, path)
        _form(request)
        if request.query.get("watch", "").lower() in ("true", "1") and request.method == "GET":
            at = replace(at, watch=True)
        verb = _verb(request.method, at)
        self._authorize(user, verb, at)
        if at.resource.verbs == ("create",):
            return await self._review(request, user, at)
        if at.resource.namespaced and not at.namespace and (at.name or verb not in ("list", "watch")):
            if at.name:
                raise errors.no_such_path()
            raise errors.method_not_allowed(at.resource, verb)
        if verb not in at.resource.verbs:
            raise errors.method_not_allowed(at.resource, verb)
        if at.watch:
            return await self._watch(request, at)
        if verb == "list":
            return self._list(request, at)
        if verb == "get":
            return self._get(request, at)
        return await self._write(request, at, verb)

    def _document(self, path: str, accept: str) -> web.Response | None:
        parts = path.strip("/").split("/")
        registry = self.registry
        if path == "/":
            return _json({"paths": discovery.paths(registry)})
        if path == "/version":
            return _json(discovery.VERSION)
        if path in ("/api", "/apis") and "APIGroupDiscoveryList" in accept:
            version = "v2" if "v=v2;" in accept.replace("v=v2,", "v=v2;") else "v2beta1"
            names = [""] if path == "/api" else [name for name in registry.groups() if name]
            kind = f"{_JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return _json(discovery.aggregated(registry, names, version), kind=kind)
        if path == "/api":
            return _json(discovery.core())
        if path == "/apis":
            return _json(discovery.groups(registry))
        if path == "/openapi/v2":
            return _json(discovery.openapi_v2(registry))
        if path == "/openapi/v3":
            return _json(discovery.openapi_v3_index(registry))
        if path.startswith("/openapi/v3/"):
            group, version = ("", parts[-1]) if parts[2] == "api" else (parts[3], parts[-1])
            if version not in registry.versions(group):
                raise errors.no_such_path()
            return _json(discovery.openapi_v3(registry, group, version))
        group = parts[1] if parts[0] == "apis" and len(parts) > 1 else ""
        if parts[0] == "apis" and len(parts) == 2 and group in registry.groups():
            return _json({"kind": "APIGroup", "apiVersion": "v1", **discovery.group(registry, group)})
        if (parts[0] == "api" and len(parts) == 2) or (parts[0] == "apis" and len(parts) == 3):
            if parts[-1] not in registry.versions(group):
                raise errors.no_such_path()
            return _json(discovery.resources(registry, group, parts[-1]))
        return None

    def _authorize(self, user: User, verb: str, at: Target) -> None:
        action = Action(verb, at.resource.group, at.resource.plural, at.namespace, at.name, at.subresource)
        if at.resource.plural == "namespaces" and at.name:
            action = replace(action, namespace=at.name)
        if at.resource.plural.startswith("selfsubject") or not self._rbac or rbac.allowed(self.storage, user, action):
            return
        where = f' in the namespace "{at.namespace}"' if at.namespace else " at the cluster scope"
        why = f'User "{user.name}" cannot {verb} resource "{action.target}" in API group "{at.resource.group}"{where}'
        raise errors.forbidden(at.resource, at.name, why)

    async def _review(self, request: web.Request, user: User, at: Target) -> web.Response:
        if request.method != "POST":
            raise errors.method_not_allowed()
        obj = _body(await request.read(), _sent_as(request))
        spec = obj.get("spec") or {}
        attributes = ("resourceAttributes", "nonResourceAttributes")
        if "AccessReview" in at.resource.kind and sum(bool(spec.get(part)) for part in attributes) != 1:
            why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            raise errors.invalid(at.resource, "", [invalid_value("spec.resourceAttributes", None, why)])
        if at.resource.kind in ("SelfSubjectAccessReview", "SubjectAccessReview"):
            if at.resource.kind == "SubjectAccessReview":
                user = User(spec.get("user", ""), tuple(spec.get("groups") or ()))
            wanted = spec.get("resourceAttributes") or {}
            names = ("verb", "group", "resource", "namespace", "name", "subresource")
            if at.resource.kind == "SubjectAccessReview" and not user.name and not user.groups:
                why = "at least one of user or group must be specified"
                raise errors.invalid(at.resource, "", [invalid_value("spec.user", "", why)])
            action = Action(*(wanted.get(name, "") for name in names))
            path = (spec.get("nonResourceAttributes") or {}).get("path")
            allowed = not self._rbac or rbac.allowed(self.storage, user, action) or path in (*_HEALTH, "/version")
            status: dict[str, Any] = {"allowed": allowed}
        elif at.resource.kind == "SelfSubjectRulesReview":
            found = list(rbac.rules(self.storage, user, spec.get("namespace", "")))
            status = {"resourceRules": found, "nonResourceRules": [], "incomplete": False}
        elif at.resource.kind == "TokenReview":
            known = self._tokens.get(spec.get("token", ""))
            status = {"authenticated": known is not None}
            if known:
                status["user"] = {"username": known.name, "groups": list(known.groups)}
        else:
            status = {"userInfo": {"username": user.name, "groups": list(user.groups)}}
        about = {"kind": at.resource.kind, "apiVersion": at.resource.api_version}
        return _json({**about, "metadata": {}, **({"spec": spec} if spec else {}), "status": status}, 201)

    # -- reading

    def _get(self, request: web.Request, at: Target) -> web.Response:
        revision = lists.revision_of(request.query)
        lists.refuse_future(self.storage, revision)
        stored = self.writes.get(at.resource, at.namespace, at.name)
        if at.subresource == "scale":
            return _json(_scale(at, stored))
        return self._object(request, at, stored)

    def _object(self, request: web.Request, at: Target, stored: Stored, code: int = 200) -> web.Response:
        form, include = _form(request)
        if form == "Table":
            meta = {"resourceVersion": stored.data["metadata"].get("resourceVersion", "")}
            return _json(table(at.resource, [stored], meta, include), code)
        if form.startswith("PartialObjectMetadata"):
            return _json(partial(stored), code)
        if form == _YAML:
            text = yaml.dump(json.loads(stored.body(at.resource)), Dumper=yaml.CSafeDumper)
            return web.Response(text=text, status=code, content_type=_YAML)
        return web.Response(body=stored.body(at.resource), status=code, content_type=_JSON)

    def _list(self, request: web.Request, at: Target) -> web.Response:
        page = lists.page(self.storage, lists.wanted(at.resource, at.namespace, request.query), request.query)
        form, include = _form(request)
        if form == "Table":
            return _json(table(at.resource, page.items, page.meta(), include))
        if form == "PartialObjectMetadataList":
            about = {"kind": form, "apiVersion": "meta.k8s.io/v1", "metadata": page.meta()}
            return _json({**about, "items": [partial(each) for each in page.items]})
        shown = at.resource if at.resource.custom else None
        about = {"kind": at.resource.list_kind, "apiVersion": at.resource.api_version, "metadata": page.meta()}
        items = b",".join([each.body(shown) for each in page.items])
        return web.Response(body=encode(about)[:-1] + b',"items":[' + items + b"]}", content_type=_JSON)

    async def _watch(self, request: web.Request, at: Target) -> web.StreamResponse:
        want = lists.wanted(at.resource, at.namespace, request.query, at.name)
        try:
            revision = lists.revision_of(request.query)
        except ApiError as fault:
            raise ApiError(500, None, fault.message) from fault
        initial = request.query.get("sendInitialEvents", "").lower() in ("true", "1")
        lists.refuse_watch_options(request.query)
        seconds = _seconds(request.query.get("timeoutSeconds") or "1800")
        show = self._shower(request, at)
        watch: Watch | None = Watch(self.storage, want, show)
        assert watch is not None
        try:
            marks = request.query.get("allowWatchBookmarks", "").lower() in ("true", "1")
            first = self._first_lines(watch, want, show, revision, initial, marks)
        except ApiError as gone:
            watch.stop_listening()
            first, watch = [line("ERROR", encode(gone.body()))], None
        response = web.StreamResponse(headers={"Content-Type": _JSON, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        ends_at = asyncio.get_running_loop().time() + seconds
        try:
            if watch is not None:
                self._watches[watch] = request
            await response.prepare(request)
            for start in range(0, len(first), 500):
                await response.write(b"".join(first[start : start + 500]))
            if watch is None:
                return response
            async for chunk in watch.chunks(ends_at):
                await self.faults.deliver(request)
                if not self.faults.silent:
                    await response.write(chunk)
            return response
        except ConnectionError:
            return response
        finally:
            if watch is not None:
                watch.stop_listening()
                self._watches.pop(watch, None)

    def _first_lines(
        self, watch: Watch, want: Wanted, show: Any, revision: int | None, initial: bool, marks: bool
    ) -> list[bytes]:
        if not initial and revision:
            return watch.lines(self.storage.since(want.resource.key, revision))
        found = [each for each in self.storage.every(want.resource.key, want.namespace) if want.has(each)]
        lines = [line("ADDED", show(each)) for each in found]
        if initial and marks:
            lines.append(bookmark(want.resource, self.storage.revision, _INITIAL_EVENTS_END))
        return lines

    def _shower(self, request: web.Request, at: Target) -> Any:
        form, include = _form(request)
        if form == "Table":
            return lambda stored: encode(
                table(at.resource, [stored], {"resourceVersion": str(stored.revision)}, include)
            )
        if form.startswith("PartialObjectMetadata"):
            return lambda stored: encode(partial(stored))
        return lambda stored: stored.body(at.resource)

    # -- writing

    async def _write(self, request: web.Request, at: Target, verb: str) -> web.Response:
        raw = await request.read()
        if verb in ("delete", "deletecollection"):
            return self._remove(request, at, raw)
        query = request.query
        agent = request.headers.get("User-Agent", "unknown").split("/")[0].split(" ")[0][:128]
        dry, validation = query.get("dryRun", ""), query.get("fieldValidation", "Warn")
        _refuse_write_options(f"{verb.capitalize()}Options", query)
        options = Options(dry == "All", validation or "Warn", query.get("fieldManager") or agent, at.subresource)
        if at.subresource == "scale":
            return self._write_scale(request, at, raw, options)
        created = verb == "create"
        sent_as = _sent_as(request)
        if sent_as == _JSON and verb in ("create", "update"):
            options = replace(options, duplicates=_duplicates(raw))
        if verb == "create":
            obj = _body(raw, sent_as)
            stored = self.writes.create(at.resource, at.namespace, obj, options)
        elif verb == "update":
            obj = _body(raw, sent_as)
            stored, created = self.writes.replace(at.resource, at.namespace, at.name, obj, options)
        else:
            stored, created = self._patch(request, at, raw, options)
        if at.resource.key == ("", "namespaces") and at.name and not options.dry_run:
            self.garbage.finish_namespace(at.name)
        response = self._object(request, at, stored, 201 if created else 200)
        if at.resource.key == ("", "endpoints"):
            options.warnings.append("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        for warning in options.warnings:
            said = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{said}"')
        return response

    def _patch(self, request: web.Request, at: Target, raw: bytes, options: Options) -> tuple[Stored, bool]:
        kind = request.content_type
        accepted = [each for each in _PATCHES if each != patch.STRATEGIC_PATCH or not at.resource.custom]
        if kind not in accepted:
            raise errors.unsupported_media_type(accepted)
        force = request.query.get("force", "").lower() in ("true", "1")
        if kind in _APPLY:
            if not request.query.get("fieldManager"):
                raise errors.invalid_options("PatchOptions", required("fieldManager", "is required for apply patch"))
            sent = _body(raw, _YAML)
            return self.writes.apply(at.resource, at.namespace, at.name, sent, options, force=force)
        if "force" in request.query:
            raise errors.invalid_options("PatchOptions", forbidden("force", "may not be specified for non-apply patch"))
        change = _body(raw, _JSON)
        if kind != patch.JSON_PATCH and not isinstance(change, dict):
            raise errors.bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")

        def changed(old: dict[str, Any]) -> Any:
            if kind == patch.JSON_PATCH:
                return patch.json_patch(old, change)
            if kind == patch.MERGE_PATCH:
                return patch.merge(old, change)
            return patch.strategic(old, change, {**at.resource.schema, "properties": _with_meta(at)})

        return self.writes.patch(at.resource, at.namespace, at.name, changed, options), False

    def _write_scale(self, request: web.Request, at: Target, raw: bytes, options: Options) -> web.Response:
        stored = self.writes.get(at.resource, at.namespace, at.name)
        scale = _scale(at, stored)
        if request.method == "PUT":
            scale = _body(raw, _sent_as(request))
        elif request.content_type == patch.JSON_PATCH:
            scale = patch.json_patch(scale, _body(raw, _JSON))
        else:
            scale = patch.merge(scale, _body(raw, _JSON))
        where = (at.resource.scale or {})["specReplicasPath"].strip(".").split(".")
        change: Any = scale.get("spec", {}).get("replicas", 0)
        if not isinstance(change, int):
            wrong = "json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32"
            raise errors.invalid_patch(encode(scale).decode(), wrong)
        if change < 0:
            about = Resource("autoscaling", "v1", "scales", "Scale")
            cause = invalid_value("spec.replicas", change, "must be greater than or equal to 0")
            raise errors.invalid(about, at.name, [cause])
        for step in reversed(where):
            change = {step: change}
        revision = scale.get("metadata", {}).get("resourceVersion")
        if revision:
            change["metadata"] = {"resourceVersion": revision}
        main = replace(options, subresource="scale")
        stored = self.writes.patch(at.resource, at.namespace, at.name, lambda old: patch.merge(old, change), main)
        return _json(_scale(at, stored))

    def _remove(self, request: web.Request, at: Target, raw: bytes) -> web.Response:
        sent = _body(raw, _sent_as(request)) if raw.strip() else {}
        only = sent.get("preconditions") or {}
        dry = sent.get("dryRun") or request.query.getall("dryRun", [])
        policy = sent.get("propagationPolicy") or request.query.get("propagationPolicy") or "Background"
        if "orphanDependents" in sent and "propagationPolicy" in sent:
            why = "orphanDependents and deletionPropagation cannot be both set"
            raise errors.invalid_options("DeleteOptions", invalid_value("propagationPolicy", policy, why))
        if sent.get("orphanDependents"):
            policy = "Orphan"
        if policy not in (*(policies := ("Background", "Foreground", "Orphan")),):
            raise errors.invalid_options("DeleteOptions", unsupported("propagationPolicy", policy, (*policies, "nil")))
        dry_runs = [dry] if isinstance(dry, str) else list(dry or ())
        if any(each != "All" for each in dry_runs):
            raise errors.invalid_options("DeleteOptions", unsupported("dryRun", dry_runs, ("All",)))
        options = DeleteOptions(only.get("uid"), only.get("resourceVersion"), policy, bool(dry))
        if not at.name:
            page = lists.page(self.storage, lists.wanted(at.resource, at.namespace, request.query), request.query)
            for each in page.items:
                if self.storage.get(at.resource.key, each.key()):
                    self._delete(at.resource, *each.key(), options)
            shown = at.resource if at.resource.custom else None
            about = {"kind": at.resource.list_kind, "apiVersion": at.resource.api_version, "metadata": page.meta()}
            items = [json.loads(each.body(shown)) for each in page.items]
            return _json({**about, "items": items})
        stored, gone = self._delete(at.resource, at.namespace, at.name, options)
        if not gone or at.resource.key in _SHOWN_WHEN_DELETED:
            return self._object(request, at, stored)
        group = {"group": at.resource.group} if at.resource.group else {}
        details = {"name": at.name, **group, "kind": at.resource.plural, "uid": stored.data["metadata"]["uid"]}
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete(self, resource: Any, namespace: str, name: str, options: DeleteOptions) -> tuple[Stored, bool]:
        stored, gone = self.writes.delete(resource, namespace, name, options)
        if not gone and not options.dry_run:
            self.garbage.settle(resource, stored)
        return stored, gone


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _with_meta(at: Target) -> dict[str, Any]:
    return {**at.resource.schema.get("properties", {}), "metadata": OBJECT_META}


def _verb(method: str, at: Target) -> str:
    if method in ("GET", "HEAD"):
        return "watch" if at.watch else "get" if at.name else "list"
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method)
    named = {"create": False, "update": True, "patch": True}
    if verb is None or named.get(verb, bool(at.name)) != bool(at.name) or (verb == "delete" and at.subresource):
        raise errors.method_not_allowed(at.resource, method)
    return "deletecollection" if verb == "delete" and not at.name else verb


def _form(request: web.Request) -> tuple[str, str]:
    """The first form of answer the client accepts that exists here, and what a Table's rows should hold."""
    for accepted in request.headers.get("Accept", "").split(","):
        kind, *parameters = (part.strip() for part in accepted.split(";"))
        given = dict(parse_qsl("&".join(parameters)))
        if kind == _YAML:
            return _YAML, ""
        if kind in (_JSON, "*/*", "application/*"):
            if given.get("as") in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
                return given["as"], request.query.get("includeObject", "Metadata")
            return "", ""
    if not request.headers.get("Accept"):
        return "", ""
    raise errors.not_acceptable()


def _sent_as(request: web.Request) -> str:
    return request.content_type if request.headers.get("Content-Type") else _JSON


def _refuse_write_options(kind: str, query: Mapping[str, str]) -> None:
    found = []
    if (dry := query.get("dryRun", "")) not in ("", "All"):
        found.append(unsupported("dryRun", [dry], ("All",)))
    if len(query.get("fieldManager", "")) > 128:
        found.append(Cause("fieldManager", "FieldValueTooLong", "Too long: may not be more than 128 bytes"))
    if (validation := query.get("fieldValidation", "")) not in ("", "Warn", "Strict", "Ignore"):
        found.append(unsupported("fieldValidation", validation, ("Ignore", "Strict", "Warn")))
    if found:
        raise errors.invalid_options(kind, *found)


def _duplicates(raw: bytes) -> tuple[str, ...]:
    """The paths of fields that a JSON document gives twice."""

    def pairs(listed: list[tuple[str, Any]]) -> Any:
        seen: dict[str, Any] = {}
        twice = [key for key, _ in listed if key in seen or seen.setdefault(key, None)]
        below = [
            (f"{key}.{path}" if not path.startswith("[") else key + path)
            for key, each in listed
            for path in _noted(each)
        ]
        return _Noted(dict(listed), [*twice, *below])

    try:
        return tuple(_noted(json.loads(raw, object_pairs_hook=pairs)))
    except ValueError:
        return ()


@dataclass(frozen=True, slots=True)
class _Noted:
    value: dict[str, Any]
    twice: list[str]


def _noted(value: Any) -> list[str]:
    if isinstance(value, _Noted):
        return value.twice
    if isinstance(value, list):
        return [f"[{index}].{path}" for index, each in enumerate(value) for path in _noted(each)]
    return []


def _no_number(word: str) -> Any:
    raise ValueError(f"invalid character {word[0]!r} looking for beginning of value")  # NaN and Infinity are no JSON


def _body(raw: bytes, kind: str) -> Any:
    if kind in (_YAML, "application/x-yaml"):
        try:
            return yaml.load(raw, yaml.CSafeLoader)
        except yaml.YAMLError as fault:
            raise errors.bad_request(f"error decoding YAML: {fault}") from fault
    if kind == protobuf.MEDIA_TYPE:
        return protobuf.read(raw)
    if kind not in (_JSON, ""):
        raise errors.unsupported_media_type((_JSON, _YAML, protobuf.MEDIA_TYPE))
    try:
        return json.loads(raw, parse_constant=_no_number)
    except ValueError as fault:
        raise errors.bad_request(f"couldn't get version/kind; json parse error: {fault}") from fault


def _json(body: Any, code: int = 200, headers: Mapping[str, str] | None = None, kind: str = _JSON) -> web.Response:
    return web.Response(body=encode(body), status=code, headers={**(headers or {}), "Content-Type": kind})


def _scale(at: Target, stored: Stored) -> dict[str, Any]:
    paths, meta = at.resource.scale or {}, stored.data["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    selector = json_path(stored.data, paths.get("labelSelectorPath", "")) if "labelSelectorPath" in paths else None
    status: dict[str, Any] = {"replicas": json_path(stored.data, paths["statusReplicasPath"]) or 0}
    if isinstance(selector, dict):
        status["selector"] = ",".join(f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items())
    elif isinstance(selector, str):
        status["selector"] = selector
    spec = {"replicas": json_path(stored.data, paths["specReplicasPath"]) or 0}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status}


def _reset(transport: asyncio.BaseTransport | None) -> None:
    if transport is None:
        return
    if (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    transport.abort()  # type: ignore[attr-defined]
