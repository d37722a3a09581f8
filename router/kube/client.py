"""Requests to the API server: a kubeconfig or the pod's service account goes in, plain dicts come out.

The `kubernetes` package finds the server, the credentials and the TLS settings. Its models stay out of it: they drop
fields they do not know and refuse objects of odd shape, and what users store is both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT = 5.0
_ANSWER = 10.0
_RELOAD_EVERY = 10.0
_RETIRED = 60.0
"""Seconds for which requests may still be under way on connections that are not used any more."""
_BUFFER = 2**20


class NoCluster(Exception):
    """There is no usable kubeconfig and no service account; the message says what to do."""


class ApiFault(Exception):
    """A request that did not succeed. `status` is 0 when no answer came, and the request may have been carried out."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @property
    def of_the_server(self) -> bool:
        """Whether the server as a whole is in trouble, rather than this one request.

        500 is not: a custom resource whose conversion webhook is down answers so, and nothing else does.
        """
        return self.status in (0, 429, 502, 503, 504)

    @property
    def gone(self) -> bool:
        """The revision asked for is no longer remembered: list again."""
        return self.status == 410

    @classmethod
    def told(cls, status: Any, code: int = 500, retry_after: float = 0.0) -> ApiFault:
        """From a Status object, as in the body of an answer or in an ERROR event; or from whatever else was sent."""
        said = status if isinstance(status, Mapping) else {}
        number = said.get("code")
        message = said.get("message") or said.get("reason") or f"HTTP {code}"
        return cls(number if isinstance(number, int) else code, str(said.get("reason", "")), str(message), retry_after)


@dataclass(frozen=True, slots=True)
class _Access:
    """Where the server is and how to speak to it, as last loaded."""

    configuration: Configuration
    tls: ssl.SSLContext
    namespace: str


async def connect(*, kubeconfig: Path | None = None, context: str | None = None, agent: str = "headgate") -> Client:
    """As kubectl looks for a cluster: the given file, else $KUBECONFIG, else ~/.kube/config, else the pod's account.

    Raises NoCluster. Nothing is sent yet: a server that is down is no reason not to start. `agent` is the User-Agent:
    what comes before its "/" is who wrote a field, all of it is in the server's audit log.
    """
    load = _loader(kubeconfig, context)
    return Client(await load(), load, agent)


class Client:
    """Close it, or use it as `async with await connect() as client`."""

    def __init__(self, access: _Access, load: Callable[[], Awaitable[_Access]], agent: str = "headgate") -> None:
        self._access = access
        self._load = load
        self._reloaded_at = time.monotonic()
        self._agent = agent
        self._session = _session(agent)
        self._retired: list[tuple[float, aiohttp.ClientSession]] = []
        # Streams never take over a connection: after one that died without a word, the idle ones beside it are dead
        # as well, and each of them would cost another wait.
        self._streams = _session(agent, force_close=True)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for one in (self._session, self._streams, *(session for _, session in self._retired)):
            await one.close()

    @property
    def url(self) -> str:
        return str(self._access.configuration.host).rstrip("/")

    @property
    def namespace(self) -> str:
        """Of the pod, or of the kubeconfig's context."""
        return self._access.namespace

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, within: float = 30.0) -> dict[str, Any]:
        return await self.ask("GET", path, query=query, within=within)

    async def create(self, path: str, obj: Mapping[str, Any], *, within: float = 30.0) -> dict[str, Any]:
        return await self.ask("POST", path, body=obj, within=within)

    async def replace(self, path: str, obj: Mapping[str, Any], *, within: float = 30.0) -> dict[str, Any]:
        """Only for objects that came from the server whole, with their resourceVersion."""
        return await self.ask("PUT", path, body=obj, within=within)

    async def patch(
        self, path: str, change: Any, content: str = MERGE_PATCH, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return await self.ask("PATCH", path, body=change, content=content, query=query)

    async def delete(self, path: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self.ask("DELETE", path, body=options)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = JSON,
        within: float = 30.0,
    ) -> dict[str, Any]:
        """One request and its answer, or ApiFault. `within` bounds all of it. Never repeated here: the caller knows."""
        limits = aiohttp.ClientTimeout(total=within, sock_connect=_CONNECT)
        session = self._session
        try:
            async with self._asked(method, path, query, body, content, limits, session) as answer:
                raw = await answer.read()
        except ApiFault as fault:
            if isinstance(fault.__cause__, TimeoutError):
                await self._retire(session)
            raise
        try:
            said = json.loads(raw)
        except ValueError as fault:
            raise ApiFault(0, "NotJson", f"{method} {path}: the answer is not JSON") from fault
        if not isinstance(said, dict):
            raise ApiFault(0, "NotJson", f"{method} {path}: the answer is not an object")
        return said

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """An answer that goes on, in whatever pieces it comes. How long it may be silent is for the caller to say."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
        async with contextlib.AsyncExitStack() as stack:
            # Not around the whole: a watch is silent for long, but a server that is well answers its request at once.
            try:
                async with asyncio.timeout(_ANSWER):
                    opened = self._asked("GET", path, query, None, JSON, limits, self._streams)
                    answer = await stack.enter_async_context(opened)
            except TimeoutError as late:
                raise ApiFault(0, "Timeout", f"GET {path}: no answer within {_ANSWER:g} s") from late
            yield answer.content.iter_any()

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content: str,
        limits: aiohttp.ClientTimeout,
        session: aiohttp.ClientSession | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        settings = self._access.configuration
        headers = {"Accept": JSON}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), content
        try:
            if token := await _token(settings):
                headers["Authorization"] = token
            async with (session or self._session).request(
                method,
                self.url + path,
                params=query,
                data=data,
                headers=headers,
                timeout=limits,
                ssl=self._access.tls,
                server_hostname=settings.tls_server_name or None,
                proxy=settings.proxy or None,
                proxy_headers=settings.proxy_headers or None,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise await _refusal(method, path, answer)
                yield answer
        except ApiFault as fault:
            if fault.status == 401:
                await self._reload()
            raise
        except (aiohttp.ClientError, OSError) as lost:  # TimeoutError is an OSError
            if isinstance(lost, aiohttp.ClientSSLError):
                await self._reload()
            raise ApiFault(0, type(lost).__name__, f"{method} {path}: {_words(lost)}") from lost

    async def _retire(self, session: aiohttp.ClientSession) -> None:
        """A connection that died without a word is not alone: each of the idle ones would cost another wait."""
        if session is not self._session:
            return
        now = time.monotonic()
        self._session = _session(self._agent)
        old = [one for at, one in self._retired if now - at > _RETIRED]
        self._retired = [(at, one) for at, one in self._retired if now - at <= _RETIRED]
        self._retired.append((now, session))  # others may be waiting for answers there
        for one in old:
            await one.close()

    async def _reload(self) -> None:
        """Tokens and certificates expire or are replaced under a running process: look again, but not all the time."""
        now = time.monotonic()
        if now - self._reloaded_at < _RELOAD_EVERY:
            return
        self._reloaded_at = now
        with contextlib.suppress(NoCluster):  # the old ones may work again; the refusal itself is being reported
            self._access = await self._load()


def within(path: str, namespace: str | None) -> str:
    """The path of one namespace's part of a resource: /api/v1/services -> /api/v1/namespaces/default/services."""
    root, _, plural = path.rpartition("/")
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else path


def _loader(kubeconfig: Path | None, context: str | None) -> Callable[[], Awaitable[_Access]]:
    where = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")

    from_file = kubeconfig is not None or context is not None
    from_file = from_file or any(Path(each).exists() for each in where.split(os.pathsep))

    async def load() -> _Access:
        # Imported here: it takes 0.3 s and 20 MB, which only those who use Kubernetes should pay.
        try:
            from kubernetes.aio import config
            from kubernetes.aio.client.configuration import Configuration
            from kubernetes.aio.client.rest import RESTClientObject
        except ImportError as missing:
            raise NoCluster("Kubernetes needs one more package: pip install 'headgate[kubernetes]'") from missing
        settings = Configuration()
        try:
            if from_file:
                loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=where, context=context, client_configuration=settings, persist_config=False
                )
                namespace = (loader.current_context.get("context") or {}).get("namespace") or "default"
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                namespace = _namespace_of_the_pod()
            tls = RESTClientObject(settings).ssl_context
        except Exception as fault:  # a file of odd shape makes the package stumble in as many ways as there are shapes
            tried = where if from_file else f"{where} does not exist and this is no pod"
            raise NoCluster(f"no cluster to talk to: {tried}: {fault}; give --kubeconfig or set KUBECONFIG") from fault
        return _Access(settings, tls, namespace)

    return load


def _namespace_of_the_pod() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def _words(lost: Exception) -> str:
    if isinstance(lost, aiohttp.ClientConnectorError):
        # Its own words show the TLS context's address in memory, a different text each time.
        return f"cannot connect to {lost.host}:{lost.port}: {lost.os_error.strerror or lost.os_error}"
    return str(lost) or ("no answer in time" if isinstance(lost, TimeoutError) else type(lost).__name__)


async def _token(settings: Configuration) -> str:
    auth = await settings.auth_settings()
    # A token read from a file may end in a newline, which no header may hold.
    return str(auth.get("BearerToken", {}).get("value") or "").strip()


async def _refusal(method: str, path: str, answer: aiohttp.ClientResponse) -> ApiFault:
    raw = await answer.content.read(_BUFFER)
    try:
        said = json.loads(raw)
    except ValueError:  # a proxy's page
        said = {"message": f"{method} {path}: HTTP {answer.status}"}
    fault = ApiFault.told(said, answer.status, _seconds(answer.headers.get("Retry-After")))
    return fault if fault.status == answer.status else ApiFault(answer.status, fault.reason, str(fault))


def _seconds(text: str | None) -> float:
    """Retry-After in seconds; its other form, a date, is not used by API servers."""
    return min(float(text), 60.0) if text and text.isdecimal() else 0.0


def _session(agent: str, *, force_close: bool = False) -> aiohttp.ClientSession:
    # No limit: every watch keeps a connection for itself, and a request must not queue behind them.
    connector = aiohttp.TCPConnector(limit=0, force_close=force_close, socket_factory=_socket, ttl_dns_cache=10)
    named = {"User-Agent": agent}
    return aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_BUFFER, headers=named)


def _socket(address: Any) -> socket.socket:
    """With keep-alive probes, so that a server which vanished without a word is missed after half a minute."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
